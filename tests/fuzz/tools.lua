-- What the targets in Lua share. local tools = dofile(folder .. "tools.lua")
local core = require "attnlab.core"
local json = core.json

local M = {}

M.json_words = { "{", "}", "[", "]", ":", ",", '"', "null", "true", "0", "-1", "1.5", "1e308", "1e999", "[]", "{}", '""',
                 "9223372036854775807", "\\u0000", "\\u001b[2J", "\\ud800", "\\", "\xff", '{"a":', '"a":1,', " ", "\n" }

function M.put(path, bytes)
  local f <close> = assert(io.open(path, "wb"))
  assert(f:write(bytes))
end

function M.get(path)
  local f <close> = assert(io.open(path, "rb"))
  return f:read "a"
end

-- ---- what readers may raise -------------------------------------------------------------------------

-- What Lua or its library say when our own code stumbles, where they say it: texts of ours quote what was read.
local STUMBLES = { "attempt to ", "bad argument", "stack overflow", "not enough memory", "number has no integer", "invalid value",
                   "assertion failed", "table index is", "'for' ", "invalid option", "string slice too long", "too many results" }

-- Raises unless the error is a text with a reason, of what was read and not of the reader. want: a pattern
-- that it must hold.
function M.clean(e, want)
  if type(e) ~= "string" then error("an error that is no text but a " .. type(e)) end
  for _, pattern in ipairs(STUMBLES) do
    if e:find("^" .. pattern) or e:find("%.lua:%d+: " .. pattern) then error("a reader stumbles: " .. e) end
  end
  if want and not e:find(want) then error(("'%s' is not in: %s"):format(want, e)) end
end

-- Calls f, which reads the file: returns true and its results, or false where it raised an error that is
-- clean and names the file.
function M.reads(path, f, ...)
  local results = table.pack(pcall(f, ...))
  if results[1] then return table.unpack(results, 1, results.n) end
  M.clean(results[2])
  if not results[2]:find(path:match "[^/]+$", 1, true) then error(("no '%s' in: %s"):format(path:match "[^/]+$", results[2])) end
  return false
end

-- Calls f; false where it raised a clean error.
function M.tries(f, ...)
  local results = table.pack(pcall(f, ...))
  if results[1] then return table.unpack(results, 1, results.n) end
  M.clean(results[2])
  return false
end

-- Calls f: its result, and what it printed meanwhile.
function M.caught(f, ...)
  local out, real_print, real_stderr, real_stdout = {}, print, io.stderr, io.stdout
  local sink = { flush = function() end, setvbuf = function() end }
  function sink:write(...)
    for _, v in ipairs { ... } do out[#out + 1] = tostring(v) end
    return self
  end
  print = function(...)
    sink:write(...)
    sink:write "\n"
  end
  io.stderr, io.stdout = sink, sink
  local ok, result = pcall(f, ...)
  print, io.stderr, io.stdout = real_print, real_stderr, real_stdout
  if not ok then error(result, 0) end
  return result, table.concat(out)
end

-- Raises where a text would do more to a terminal than show.
function M.plain(text)
  if text:find "[%z\1-\8\11-\31\127]" then error(("control characters: %q"):format(text)) end
  return text
end

-- ---- inputs from edits ------------------------------------------------------------------------------

-- Edits of a text: place (two bytes), how many bytes go (one), how many come (one), these; again and again.
function M.spliced(text, bytes)
  local at = 1
  while at + 3 <= #bytes do
    local place = (bytes:byte(at) << 8 | bytes:byte(at + 1)) % (#text + 1)
    local n = bytes:byte(at + 3) % 24
    local put = bytes:sub(at + 4, at + 3 + n)
    text = text:sub(1, place) .. put .. text:sub(place + 1 + bytes:byte(at + 2) % 24)
    at = at + 4 + #put
  end
  return text
end

local VALUES = { "null", "{}", "[]", '""', "0", "-1", "1", "2", "1.5", "1e308", "1099511627776", "9223372036854775807",
                 "-9223372036854775808", "true", "false", '"x"', '"' .. ("x"):rep(300) .. '"', '"\\u001b[2J"', '"\\u0000"', '"../../x"',
                 '"|touch x"', '"0x10"', '"1e5"', '{"a":1}', "[1,2]", '["a"]', "[[{}]]" }

-- Every place of a tree in an order that is always the same: { table, key }.
local function places(t, list)
  local keys = {}
  for k in pairs(t) do keys[#keys + 1] = k end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  for _, k in ipairs(keys) do
    list[#list + 1] = { t, k }
    if type(t[k]) == "table" then places(t[k], list) end
  end
  return list
end

-- Edits of JSON: two bytes say which value, one what it becomes; 255: the text behind the edits, 254: the value
-- goes, 253: another value of the tree. What is no JSON any more is the old text.
function M.edited(text, bytes)
  local tree = { root = json.decode(text) }
  local count = #bytes > 0 and bytes:byte(1) % 4 + 1 or 0
  local rest = bytes:sub(2 + 3 * count)
  for at = 2, 3 * count, 3 do
    local list = places(tree, {})
    if #bytes < at + 2 or #list == 0 then break end
    local which = (bytes:byte(at) << 8 | bytes:byte(at + 1)) + 1
    local place, what = list[(which - 1) % #list + 1], bytes:byte(at + 2)
    local t, k = place[1], place[2]
    if what == 255 then
      t[k] = rest
    elseif what == 254 then
      if math.type(k) == "integer" then table.remove(t, k) else t[k] = nil end
    elseif what == 253 then
      local other = list[which * 7 % #list + 1]
      local ok, copy = pcall(json.encode, other[1][other[2]])
      t[k] = ok and json.decode(copy) or json.null
    else
      t[k] = json.decode(VALUES[what % #VALUES + 1])
    end
  end
  local ok, out = pcall(json.encode, tree.root)
  return ok and out or text
end

-- A safetensors file whose header's JSON went through f; its length is made right.
function M.with_header(file, f)
  local n = string.unpack("<I8", file)
  local header = f(file:sub(9, 8 + n))
  return string.pack("<I8", #header) .. header .. file:sub(9 + n)
end

-- A safetensors file changed as `bytes` say: by byte 1 the bytes of the file, the JSON of the header, the
-- metadata's `key`, which is JSON as well (nil: none), or all bytes are the file.
function M.damaged(file, bytes, key)
  local how, rest = bytes:byte(1) % 8, bytes:sub(2)
  if how == 0 then return rest end
  if how == 1 then return M.spliced(file, rest) end
  if how <= 3 or not key then return M.with_header(file, function(header) return M.edited(header, rest) end) end
  return M.with_header(file, function(header)
    local h = json.decode(header)
    h.__metadata__[key] = M.edited(h.__metadata__[key], rest)
    return json.encode(h)
  end)
end

-- Seeds that reach every way and some values.
function M.edit_seeds()
  local list = {}
  for how = 0, 7 do
    for value = 0, #VALUES - 1, 3 do list[#list + 1] = string.char(how, 0, 0, how * 5 + value, value) .. "text" end
  end
  return list
end

-- ---- small things to read ---------------------------------------------------------------------------

M.model = { layers = 1, width = 8, heads = 2, mlp = 8, context = 6 }
M.ids = core.tensor { data = { 0, 1, 2 }, shape = { 1, 3 }, dtype = "i32" }

-- A text that a model can be trained on; its path.
function M.text(folder)
  local path = folder .. "/text.txt"
  M.put(path, ("what is a text of few letters\n"):rep(12))
  return path
end

return M
