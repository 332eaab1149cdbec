-- core.sys: files, locks, children, signals.
local T = ...
local sys = require("attnlab.core").sys

T.test("realpath: one path for a file, whatever way leads to it", function()
  local dir = T.folder()
  sys.mkdir(dir .. "/a/b")
  sys.write(dir .. "/a/t.txt", "x")
  local whole = sys.realpath(dir .. "/a/t.txt")
  T.ok(whole:find "^/" and whole:find "/a/t%.txt$", whole)
  T.eq(sys.realpath(dir .. "/a/b/.././t.txt"), whole)
  T.ok(sys.realpath ".":find "^/")
  T.raises(function() sys.realpath(dir .. "/none") end, "realpath: .*none: No such file")
end)

T.test("clocks and the machine", function()
  T.ok(math.abs(sys.time() - os.time()) < 2)
  local t = sys.clock()
  sys.sleep(0.01)
  T.ok(sys.clock() - t >= 0.01)
  T.ok(sys.cores() >= 1)
  T.ok(sys.pid() > 1)
  T.ok(#sys.host() > 0)
  T.ok(sys.rss() > 1e6)
  T.ok(sys.width() >= 1)
  T.eq(type(sys.isatty(0)), "boolean")
  sys.setenv("ATTNLAB_TEST_VARIABLE", "x y")
  T.eq(os.getenv "ATTNLAB_TEST_VARIABLE", "x y")
  sys.setenv("ATTNLAB_TEST_VARIABLE", nil)
  T.eq(os.getenv "ATTNLAB_TEST_VARIABLE", nil)
  T.eq(sys.exists(sys.program()), "file")
end)

T.test("behind a border no link is followed", function()
  local dir = T.folder()
  sys.mkdir(dir .. "/outside")
  sys.write(dir .. "/outside/kept", "kept")
  sys.mkdir(dir .. "/run//a/b")
  T.eq(sys.exists(dir .. "/run//a/b"), "dir")
  assert(os.execute(("ln -s ../outside '%s/run/away'; ln -s ../outside/kept '%s/run/out'"):format(dir, dir)))
  T.eq(sys.exists(dir .. "/run/out"), "file")
  T.eq(sys.exists(dir .. "/run//out"), "other")
  T.eq(sys.exists(dir .. "/run//away/kept"), nil)
  T.eq(table.concat(sys.list(dir .. "/run//"), " "), "a away out")
  T.raises(function() sys.list(dir .. "/run//away") end, "run/away")
  T.raises(function() sys.read(dir .. "/run//out") end, "a link")
  T.raises(function() sys.append(dir .. "/run//out") end, "a link")
  T.raises(function() sys.truncate(dir .. "/run//out", 0) end, "a link")
  T.raises(function() sys.lock(dir .. "/run//out") end, "a link")
  T.raises(function() sys.mkdir(dir .. "/run//away/c") end, "run/away: a link")
  T.raises(function() sys.remove(dir .. "/run//away/kept") end, "run/away/kept")
  T.raises(function() sys.rename(dir .. "/run//away/kept", dir .. "/run//x") end, "run/away/kept")
  T.raises(function() sys.spawn { "true", stdout = dir .. "/run//out" } end, "run/out: a link")
  sys.remove(dir .. "/run//out") -- the link, not what it names
  sys.remove(dir .. "/run//a/b")
  T.eq(sys.read(dir .. "/outside/kept"), "kept")
  T.eq(sys.exists(dir .. "/outside/c"), nil)
  T.raises(function() sys.read(dir .. "/outside//kept", 3) end, "at most 3")
end)

T.test("sha256", function()
  T.eq(sys.sha256 "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
  T.eq(sys.sha256 "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
end)

T.test("files and folders", function()
  local dir = T.folder()
  sys.mkdir(dir .. "/a/b/c")
  sys.mkdir(dir .. "/a/b/c")
  T.eq(sys.exists(dir .. "/a/b"), "dir")
  local path = dir .. "/a/x.txt"
  T.eq(sys.exists(path), nil)
  sys.write(path, "one\0two")
  T.eq(sys.read(path), "one\0two")
  T.eq(sys.size(path), 7)
  T.eq(sys.exists(path), "file")
  sys.write(path, "")
  T.eq(sys.read(path), "")
  T.eq(sys.list(dir .. "/a"), {"b", "x.txt"})
  sys.rename(path, dir .. "/y.txt")
  T.eq(sys.list(dir), {"a", "y.txt"})
  sys.remove(dir .. "/y.txt")
  sys.remove(dir .. "/a/b/c")
  T.eq(sys.list(dir .. "/a/b"), {})
end)

T.test("failures name the path and the reason", function()
  local dir = T.folder()
  local gone = dir .. "/gone"
  sys.write(dir .. "/file", "x")
  T.raises(function() sys.read(gone) end, "gone.*No such file")
  T.raises(function() sys.write(gone .. "/x", "y") end, "gone/x.*No such file")
  T.raises(function() sys.list(gone) end, "list: .*gone: No such file")
  T.raises(function() sys.remove(gone) end, "remove: .*gone: No such file")
  T.raises(function() sys.remove(dir) end, "remove: .*not empty")
  T.raises(function() sys.size(gone) end, "size: .*gone: No such file")
  T.raises(function() sys.truncate(gone, 0) end, "truncate: .*gone: No such file")
  T.raises(function() sys.rename(gone, gone .. "2") end, "rename: .*gone to .*gone2: No such file")
  T.raises(function() sys.append(gone .. "/x") end, "append: .*gone/x: No such file")
  T.raises(function() sys.lock(gone .. "/x") end, "lock: .*gone/x: No such file")
  T.raises(function() sys.mkdir(dir .. "/file/a") end, "mkdir: .*file: Not a directory")
  T.raises(function() sys.read "" end, "bad argument #1 to 'read' %(a path expected%)")
  T.raises(function() sys.read "a\0b" end, "a path expected")
  T.eq(sys.list(dir), {"file"})
end)

T.test("appending and truncating", function()
  local path = T.folder() .. "/log"
  local f = sys.append(path)
  f:write "one\n"
  T.eq(f:tell(), 4)
  f:write "two\n"
  f:sync()
  f:close()
  T.raises(function() f:write "x" end, "log: closed")
  f:close()
  f = sys.append(path)
  T.eq(f:tell(), 8)
  sys.truncate(path, 4)
  f:write "three\n"
  T.eq(sys.read(path), "one\nthree\n")
  do
    local g <close> = f
  end
  T.ok(tostring(f):find "closed")
end)

T.test("half a line is cut off before the next one is appended", function()
  local path = T.folder() .. "/lines"
  local long = ("x"):rep(9000)
  for _, case in ipairs { { "", "" }, { "one\n", "one\n" }, { "one\ntw", "one\n" }, { "half", "" }, { "\n", "\n" },
                          { "one\n" .. long, "one\n" }, { long, "" }, { long .. "\nx", long .. "\n" },
                          { ("x"):rep(4095) .. "\n" .. ("y"):rep(4096), ("x"):rep(4095) .. "\n" } } do
    sys.write(path, case[1])
    local f <close> = sys.append(path)
    T.eq(f:tell(), #case[2])
    f:write "next\n"
    T.eq(sys.read(path), case[2] .. "next\n")
  end
end)

T.test("a full disk is an error", function()
  if sys.exists "/dev/full" then
    local f = sys.append "/dev/full"
    T.raises(function() f:write "x" end, "write: /dev/full: No space left")
    f:close()
  end
end)

T.test("what cannot be looked at is an error, not absence", function()
  local dir = T.folder()
  sys.write(dir .. "/file", "")
  for _, path in ipairs { dir .. "/none", dir .. "/file/x", dir .. "/" .. ("x"):rep(300) } do T.eq(sys.exists(path), nil) end
  local program = sys.program()
  local shim = (program:match "^(.*)/" or ".") .. "/faults_shim.so"
  if not program:find "attnlab$" or not sys.exists(shim) or sys.read(program):find("__asan_init", 1, true) then
    print "hint: no shim here, or one that cannot stand before the sanitizer: not tested"
    return
  end
  local script, out = dir .. "/x.lua", dir .. "/out"
  sys.write(script, ('print(pcall(require("attnlab.core").sys.exists, "%s/file"))'):format(dir))
  local env = { LD_PRELOAD = shim, FAULT_CALL = "stat", FAULT_AT = "1", FAULT_ON = "1" }
  T.eq({ sys.wait(sys.spawn { program, "lua", script, stdout = out, stderr = out, env = env }) }, { "exited", 0 })
  T.eq(sys.read(out), ("false\texists: %s/file: Input/output error\n"):format(dir))
end)

T.test("locks", function()
  local path = T.folder() .. "/lock"
  local a = sys.lock(path)
  T.ok(a)
  T.eq(sys.lock(path), nil)
  a:close()
  local b = sys.lock(path)
  T.ok(b)
  b:close()
end)

T.test("children: exit codes, output, environment", function()
  local dir = T.folder()
  local out, err = dir .. "/out", dir .. "/err"
  local pid = sys.spawn {"sh", "-c", "echo $A $B; cat; echo bad >&2; exit 3", stdout = out, stderr = err, env = {A = "1 2", B = 7}}
  local how, code = sys.wait(pid)
  T.eq(how, "exited")
  T.eq(code, 3)
  T.eq(sys.read(out), "1 2 7\n")
  T.eq(sys.read(err), "bad\n")
  sys.wait(sys.spawn {"sh", "-c", "echo again", stdout = out})
  T.eq(sys.read(out), "1 2 7\nagain\n")
end)

T.test("children: signals and polling", function()
  local pid = sys.spawn {"sleep", "30"}
  T.eq(sys.wait(pid, true), "running")
  sys.kill(pid, 15)
  local how, number = sys.wait(pid)
  T.eq(how, "signal")
  T.eq(number, 15)
  T.raises(function() sys.wait(pid) end, "wait: process %d+: No child")
  T.raises(function() sys.kill(-1) end, "a process id expected")
end)

T.test("children: what cannot start is an error", function()
  T.raises(function() sys.spawn {"/no/such/program"} end, "spawn: /no/such/program: No such file")
  T.raises(function() sys.spawn {"true", stdout = "/no/such/folder/x"} end,
           "spawn: /no/such/folder/x: No such file")
  T.raises(function() sys.spawn {} end, "a program expected at place 1")
  T.raises(function() sys.spawn {"true", stdot = "x"} end, "unknown option 'stdot'")
  T.raises(function() sys.spawn {"true", {}} end, "text expected at place 2, got a table")
  T.raises(function() sys.spawn {"true", env = {1}} end, "option 'env'")
end)

T.test("a child dies with its parent", function()
  local out = T.folder() .. "/pid"
  local script = ([[local sys = require("attnlab.core").sys
    local pid = sys.spawn {"sleep", "30"}
    local f = sys.append %q
    f:write(tostring(pid))]]):format(out)
  local file = out .. ".lua"
  sys.write(file, script)
  local program = sys.program()
  local pid = program:find "attnlab$" and sys.spawn {program, "lua", file} or sys.spawn {program, file}
  T.eq({sys.wait(pid)}, {"exited", 0})
  local child = tonumber(sys.read(out))
  local alive = true
  for _ = 1, 200 do
    local f = io.open("/proc/" .. child .. "/stat")
    local state = f and f:read "a":match "%) (%a)"
    if f then f:close() end
    alive = state ~= nil and state ~= "Z" and state ~= "X"
    if not alive then break end
    sys.sleep(0.01)
  end
  T.ok(not alive, "the grandchild ended")
end)

T.test("interrupts are counted", function()
  sys.catch_interrupts(true)
  T.eq(sys.interrupted(), 0)
  sys.kill(sys.pid(), 15)
  sys.kill(sys.pid(), 2)
  T.eq(sys.interrupted(), 2)
  sys.catch_interrupts(true)
  T.eq(sys.interrupted(), 0)
  sys.catch_interrupts(false)
end)

-- Waits until a child's output has the text.
local function await(out, text)
  for _ = 1, 1000 do
    if sys.exists(out) and sys.read(out):find(text, 1, true) then return end
    sys.sleep(0.01)
  end
  error(("'%s' never came: %s"):format(text, sys.read(out)), 0)
end

-- A chunk that says when the first signal has come: two that wait together count as one.
local BUSY = [=[
local told
local ok, why = pcall(function()
  while true do
    if not told and sys.interrupted() == 1 then
      told = true
      io.write "first\n" io.flush()
    end
  end
end)
print(ok, why)
os.exit(7)
]=]

-- Runs lines of Lua in a child that catches interrupts and has written "ready"; returns its pid and output.
local function child(lines)
  local out = T.folder() .. "/out"
  local file = out .. ".lua"
  sys.write(file, 'local sys = require("attnlab.core").sys\nsys.catch_interrupts(true)\nio.write("ready\\n") io.flush()\n' .. lines)
  local program = sys.program()
  local command = program:find "attnlab$" and {program, "lua", file} or {program, file}
  command.stdout, command.stderr = out, out
  local pid = sys.spawn(command)
  await(out, "ready")
  return pid, out
end

T.test("a second Ctrl-C stops the chunk", function()
  local pid, out = child(BUSY)
  sys.kill(pid, 2)
  await(out, "first")
  T.eq(sys.wait(pid, true), "running")
  sys.kill(pid, 2)
  T.eq({sys.wait(pid)}, {"exited", 7})
  T.ok(sys.read(out):find "false.*interrupted", sys.read(out))
end)

T.test("a coroutine that is gone may have asked for interrupts", function()
  local pid, out = child([[
sys.catch_interrupts(false)
local co = coroutine.create(function() sys.catch_interrupts(true) end)
coroutine.resume(co)
co = nil
collectgarbage()
io.write "asked\n" io.flush()
]] .. BUSY:gsub("while true", "for _ = 1, 3e8"))
  await(out, "asked")
  sys.kill(pid, 2)
  await(out, "first")
  sys.kill(pid, 2)
  T.eq({sys.wait(pid)}, {"exited", 7})
  T.ok(sys.read(out):find "false.*interrupted", sys.read(out))
end)

T.test("a third Ctrl-C ends the process with 130", function()
  local pid = child "while true do pcall(function() while true do end end) end"
  for _ = 1, 3 do
    sys.kill(pid, 2)
    sys.sleep(0.05)
  end
  T.eq({sys.wait(pid)}, {"exited", 130})
end)

T.test("a signal ends a sleep early", function()
  local pid, out = child 'sys.sleep(30)\nprint(sys.interrupted())'
  sys.sleep(0.05)
  sys.kill(pid, 15)
  T.eq({sys.wait(pid)}, {"exited", 0})
  T.ok(sys.read(out):find "1")
end)
