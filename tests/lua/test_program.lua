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
    "kept = {core.zeros {shape = {9}}, core.optim 'sgd', core.vocab.chars 'abc'}",
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
