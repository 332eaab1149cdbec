-- Runs one file of Lua tests: attnlab lua tests/lua/run.lua FILE. The file gets T as its argument.
--   T.test(name, f)          runs f; an error is a failure, and so is a second test of that name
--   T.eq(got, want)          equal, tables by content, tensors by shape, dtype and values
--   T.near(got, want, tol)   numbers, nested tables or tensors within tol (default 1e-6), absolute
--   T.ok(value, what)        value is true
--   T.raises(f, pattern)     f raises a message that matches the Lua pattern; returns the message
--   T.root                   path of the project's folder, ending in "/" or empty
--   T.folder()               a new folder that is removed at the end
--   T.numbers(n, path)       writes a text of n numbers that repeat and can be learned, to numbers.txt of a new folder
--                            where no path is given; returns the path
-- Prints one line a failure and "N passed, N failed". A global that a test creates is a failure.
local core = require "attnlab.core"
local sys = core.sys

local file = ...
if not file then
  io.stderr:write("usage: attnlab lua tests/lua/run.lua FILE\n")
  os.exit(2)
end

local T = {passed = 0, failed = 0, root = file:match "^(.*)tests/lua/[^/]*$" or ""}
local scratch = dofile(T.root .. "tests/lua/scratch.lua")

local function show(v)
  if type(v) == "string" then return ("%q"):format(v) end
  if type(v) ~= "table" then return tostring(v) end
  local parts = {}
  for k, x in pairs(v) do
    parts[#parts + 1] = (math.type(k) == "integer" and "" or tostring(k) .. "=") .. show(x)
    if #parts > 20 then break end
  end
  return "{" .. table.concat(parts, ", ") .. "}"
end

local function same(a, b)
  if core.is_tensor(a) and core.is_tensor(b) then
    return a:dtype() == b:dtype() and same(a:shape(), b:shape()) and same(a:flat(), b:flat())
  end
  if type(a) ~= "table" or type(b) ~= "table" then
    return a == b or (a ~= a and b ~= b)
  end
  for k, v in pairs(a) do
    if not same(v, b[k]) then return false end
  end
  for k in pairs(b) do
    if a[k] == nil then return false end
  end
  return true
end

local function close(a, b, tolerance, at)
  if core.is_tensor(a) then a = a:totable() end
  if core.is_tensor(b) then b = b:totable() end
  if type(a) == "table" and type(b) == "table" then
    if #a ~= #b then error(("%s: %d elements, %d expected"):format(at, #a, #b), 0) end
    for i = 1, #b do close(a[i], b[i], tolerance, at .. "[" .. i .. "]") end
    return
  end
  if type(a) ~= "number" or type(b) ~= "number" then
    error(("%s: %s is not near %s"):format(at, show(a), show(b)), 0)
  end
  if not (a == b or math.abs(a - b) <= tolerance) then
    error(("%s: got %.9g, expected %.9g within %g"):format(at, a, b, tolerance), 0)
  end
end

function T.eq(got, want)
  if not same(got, want) then error("got " .. show(got) .. ", expected " .. show(want), 2) end
end

function T.near(got, want, tolerance)
  local ok, why = pcall(close, got, want, tolerance or 1e-6, "value")
  if not ok then error(why, 2) end
end

function T.ok(value, what)
  if not value then error((what or "a true value expected") .. ", got " .. show(value), 2) end
end

function T.raises(f, pattern)
  local ok, message = pcall(f)
  if ok then error("no error was raised, expected: " .. (pattern or "any"), 2) end
  message = tostring(message)
  if pattern and not message:find(pattern) then
    error("the error reads: " .. message .. "\n    expected: " .. pattern, 2)
  end
  return message
end

T.folder = scratch.folder

function T.numbers(n, path)
  path = path or T.folder() .. "/numbers.txt"
  local words = {}
  for i = 1, n do words[i] = tostring(i * i % 997) end
  sys.write(path, table.concat(words, " "))
  return path
end

local function fail(name, why)
  T.failed = T.failed + 1
  print("FAILED " .. name .. ": " .. tostring(why))
end

local taken = {}

function T.test(name, f)
  if taken[name] then fail(name, "another test of this file has that name") end
  taken[name] = true
  local ok, why = xpcall(f, os.getenv("ATTNLAB_TRACE") and debug.traceback or function(e) return e end)
  if ok then
    T.passed = T.passed + 1
  else
    fail(name, why)
  end
end

local has_gnuplot

-- A test that draws: where the machine has no gnuplot it is skipped, and that is said.
function T.drawn(name, f)
  if has_gnuplot == nil then
    local log = T.folder() .. "/gnuplot.txt"
    local started, pid = pcall(sys.spawn, { "gnuplot", "--version", stdout = log, stderr = log })
    has_gnuplot = started and select(2, sys.wait(pid)) == 0
  end
  if has_gnuplot then T.test(name, f) else print("skipped " .. name .. ": gnuplot cannot be started") end
end

sys.setenv("XDG_DATA_HOME", T.folder()) -- what the tests trust is not the user's
setmetatable(_G, {
  __newindex = function(_, key)
    error("global '" .. tostring(key) .. "' created", 2)
  end,
})
local chunk, why = loadfile(file)
if not chunk then
  fail(file, why)
else
  local ok, message = xpcall(chunk, debug.traceback, T)
  if not ok then fail(file, message) end
end
scratch.finish()
print(("%d passed, %d failed"):format(T.passed, T.failed))
os.exit(T.failed == 0 and T.passed > 0, true)
