-- The program and the life of a state: exit statuses, error lines, closing in any order. Each case is a
-- child process, so that the way it ends can be looked at.
local T = ...
local sys = require("attnlab.core").sys

-- Runs a script of these lines; returns how it ended, its code, and all its output.
local function run(lines, env)
  local out = T.folder() .. "/out"
  local file = out .. ".lua"
  sys.write(file, 'local core = require "attnlab.core"\n' .. lines)
  local program = sys.program()
  local command = program:find "attnlab$" and {program, "lua", file} or {program, file}
  command.stdout, command.stderr, command.env = out, out, env
  local how, code = sys.wait(sys.spawn(command))
  return how, code, sys.read(out)
end

T.test("a script's end is the program's", function()
  local how, code, out = run 'print(core.version)'
  T.eq({how, code}, {"exited", 0})
  T.eq(out, require("attnlab.core").version .. "\n")
  T.eq({select(2, run "os.exit(5)")}, {5, ""})
  T.eq({select(2, run "os.exit(5, true)")}, {5, ""})
end)

T.test("an error is one line on stderr and status 1", function()
  local how, code, out = run 'core.zeros {shape = {2}}:softmx()'
  T.eq({how, code}, {"exited", 1})
  if sys.program():find "attnlab$" then
    T.ok(out:find "^attnlab: .*out%.lua:2: a tensor has no method 'softmx' %(did you mean 'softmax'%?%)\n$", out)
    T.ok(select(3, run("error 'x'", {ATTNLAB_TRACE = 1})):find "stack traceback", "a traceback")
  end
end)

T.test("states close cleanly whatever the order", function()
  for _, lines in ipairs {
    "kept = {core.zeros {shape = {9}}, core.optim 'sgd', core.vocab.new('characters', {{'text', 'abc'}})}",
    "kept = setmetatable({t = core.ones {shape = {9}}}, {__gc = function(x) return x.t + x.t end})",
    "setmetatable({}, {__gc = function() core.zeros {shape = {9}} end})",
    "kept = coroutine.wrap(function() local t = core.ones {shape = {3}} coroutine.yield(t) end) kept()",
    "local t = core.ones {shape = {3}} t:requires_grad(true) kept = (t * t):sum() package.loaded = nil",
    "local t <close> = core.ones {shape = {3}} os.exit(0, true)",
    "core.sys.catch_interrupts(true)",
    "package.loaded['attnlab.core'] = nil local again = require 'attnlab.core' assert(again.is_tensor(core.ones {shape = {1}}))",
  } do
    local how, code, out = run(lines)
    T.eq({how, code, out}, {"exited", 0, ""})
  end
end)

T.test("the modules are found where ATTNLAB_LUA says", function()
  if not sys.program():find "attnlab$" then return end
  local dir = T.folder()
  sys.mkdir(dir .. "/attnlab")
  sys.write(dir .. "/attnlab/cli.lua", "return {main = function(arg) print(#arg, arg[1]) return 4 end}")
  local out = dir .. "/out"
  local how, code = sys.wait(sys.spawn {sys.program(), "a", "b", stdout = out, env = {ATTNLAB_LUA = dir}})
  T.eq({how, code}, {"exited", 4})
  T.eq(sys.read(out), "2\ta\n")
  sys.write(dir .. "/attnlab/cli.lua", "return {main = function() error('no ' .. 'luck') end}")
  sys.remove(out)
  how, code = sys.wait(sys.spawn {sys.program(), stderr = out, env = {ATTNLAB_LUA = dir}})
  T.eq({how, code}, {"exited", 1})
  T.ok(sys.read(out):find "^attnlab: .*no luck\n$", sys.read(out))
end)

T.test("output that cannot be written is status 1 and the reason, whoever ends the program", function()
  if not sys.program():find "attnlab$" or not sys.exists "/dev/full" then return end
  local dir = T.folder()
  sys.write(dir .. "/x.lua", "print 'a' os.exit(tonumber(arg[1]) or 0, arg[2] == 'close')")
  sys.write(dir .. "/long.lua", "for i = 1, 1e5 do print(i) end")
  sys.write(dir .. "/silent.lua", "")
  local function lost(words, out)
    local err = T.folder() .. "/err"
    local how, code = sys.wait(sys.spawn { "/bin/sh", "-c", 'exec "$@" >' .. out, "sh", sys.program(), stderr = err,
                                           table.unpack(words) })
    return how == "exited" and code, sys.read(err)
  end
  local words = { { "lua", dir .. "/x.lua" }, { "lua", dir .. "/x.lua", "3" }, { "lua", dir .. "/x.lua", "0", "close" },
                  { "lua", dir .. "/long.lua" }, {}, { "list" }, { "list", "--json" }, { "describe", "softmax" }, { "version" },
                  { "env" }, { "runs", "out_dir=" .. dir } }
  for _, c in ipairs(require("attnlab.cli").COMMANDS) do words[#words + 1] = { c.name, "--help" } end
  for _, list in ipairs(words) do
    local code, text = lost(list, "/dev/full")
    local command = table.concat(list, " ")
    T.ok(code == 1, ("%s: status 1 expected, got %s: %s"):format(command, tostring(code), text))
    T.ok(text:find "attnlab: standard output: No space left on device\n$", command .. ": " .. text)
  end
  local code, text = lost({ "list" }, "&-")
  T.eq(code, 1)
  T.ok(text:find "standard output: Bad file descriptor", text)
  T.eq({ lost({ "lua", dir .. "/silent.lua" }, "&-") }, { 0, "" })
  T.eq({ lost({ "lua", dir .. "/silent.lua" }, "/dev/full") }, { 0, "" })
end)

T.test("a closed standard stream is not the next file", function()
  if not sys.program():find "attnlab$" then return end
  local dir = T.folder()
  sys.write(dir .. "/x.lua", ([[local sys = require("attnlab.core").sys
local f = { sys.append "%s/1", sys.append "%s/2", sys.append "%s/3" }
print "stray" io.stderr:write "stray" io.stdout:flush()
for i = 1, 3 do f[i]:write "mine\n" end]]):format(dir, dir, dir))
  sys.wait(sys.spawn { "/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.program(), "lua", dir .. "/x.lua" })
  for i = 1, 3 do T.eq(sys.read(dir .. "/" .. i), "mine\n") end
end)
