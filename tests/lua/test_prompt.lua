-- The prompt, driven on a terminal of its own: lines, completion, pastes, interrupts, sessions that come back.
local T = ...
local core = require "attnlab.core"
local sys = core.sys
local terminal = dofile(T.root .. "tests/lua/terminal.lua")

local MODEL = sys.realpath(T.root .. "experiments/models/stories260K.bin")

local function prompt(state, words, opts)
  local env = { "TERM=" .. (opts and opts.term or "xterm"), "XDG_STATE_HOME=" .. state, "LC_ALL=C.UTF-8" }
  local t = terminal({ "repl", table.unpack(words or {}) }, { env = env, cols = opts and opts.cols or 80 })
  t:expect(opts and opts.first or "\n> $", 60)
  return t
end

-- stdout, stderr and status of a prompt that reads its chunks from a pipe.
local function piped(text, words)
  local dir = T.folder()
  sys.write(dir .. "/in", text)
  local command = ("cd %s && HOME=%s %s repl %s <%s/in >%s/out 2>%s/err"):format(dir, dir, sys.program(), words or "", dir, dir, dir)
  local _, _, status = os.execute(command)
  return sys.read(dir .. "/out"), sys.read(dir .. "/err"), status
end

-- The list of sessions that are kept there.
local function piped_list(state)
  local out = state .. "/list"
  T.ok(os.execute(("XDG_STATE_HOME=%s %s repl --sessions >%s"):format(state, sys.program(), out)))
  return sys.read(out)
end

T.test("expressions print their values, chunks go on until they are whole, locals live on", function()
  local out, err, status = piped [[
1 + 1
local x <const>, y = 3, "a"
x
y;
function f()
  return 1, nil, "two"
end
f()
local function g() return x * 2 end
g()
x = 5
g()
_
if x then
  local x = 7
end
x
= 8
{ 1,
  2, { a = true } }
1 +
1 -- note;
return 6
pack = 7
pack
...
::top:: x = 9
x
{ { a = 1, b = "x" }, { a = 22, b = "yy" } }
"tab\tnew line"
nil
lab.tensor{{1, 2.5}, {-3, 4}}
-- a comment alone
]]
  T.eq(err, "")
  T.eq(status, 0)
  T.eq(out, [[
2
3
1
nil
"two"
6
10
10
5
8
{ 1, 2, { a = true } }
2
6
7
9
 a  b
--  --
 1  x
22  yy
"tab	new line"
nil
f32 (2,2)  -3 to 4, mean 1.125
   1.0000  2.5000
  -3.0000  4.0000
]])
end)

T.test("a long chunk costs what it has lines", function()
  local function seconds(n)
    local lines = { "t = {" }
    for i = 1, n do lines[#lines + 1] = ("  %d, -- {"):format(i) end
    lines[#lines + 1] = "}\n#t\n"
    local began = sys.clock()
    T.eq(piped(table.concat(lines, "\n")), n .. "\n")
    return sys.clock() - began
  end
  local few = seconds(500)
  T.ok(seconds(5000) < 20 * few, "ten times the lines")
end)

T.test("from a pipe the first error ends with status 1, and is one line with its place", function()
  local out, err, status = piped "1\nlocal a = 1\nprint(nope)\n2\n"
  T.eq(out, "1\n")
  T.eq(err, "prompt:3: unknown global 'nope'\n") -- of what the pipe brings
  T.eq(status, 1)
  err = select(2, piped "lab.model.lod 'x'\n")
  T.ok(err:find "^prompt:1: " and not err:find "\n.", err)
  err = select(2, piped "prin(1)\n")
  T.eq(err, "prompt:1: unknown global 'prin' (did you mean 'print'?)\n")
  err = select(2, piped "lab.model.load 'no/such'\n")
  T.eq(err, "prompt:1: model.load: 'no/such': no such file\n")
  err = select(2, piped "x = = 1\n")
  T.eq(err, "prompt:1: unexpected symbol near '='\n")
  for line, why in pairs { [":nope"] = "unknown command ':nope'", [":set2 x"] = "unknown command ':set2'",
                           [":time error('slow')"] = "^prompt:1: slow\n$" } do
    out, err, status = piped(line .. "\n1\n")
    T.ok(status == 1 and err:find(why) and not out:find "\n1\n", line .. ": " .. err)
  end
end)

T.test("from a pipe an interrupt ends the prompt, in work that returns what it has too", function()
  local soon = "os.execute '(sleep 0.5; kill -INT $PPID) &'"
  local data = "d = s:parts().tune\nfunction d:random(...)\n  self.random = nil " .. soon .. "\n  return self:random(...)\nend\n"
  local out, err, status = piped(data .. "s:tune{steps=100000, data=d, batch_size=2, eval_interval=0, quiet=true}\n'next'\n", MODEL)
  T.ok(status == 130 and err:find "^interrupted; what it had made is in _" and not out:find "next", err)
  out, err, status = piped(soon .. "\nwhile true do end\n'next'\n")
  T.ok(status == 130 and not out:find "next", tostring(status))
end)

T.test("data steers no terminal, and tables with an __index of their own are shown", function()
  local out, err, status = piped "{ {['a\\27[31m'] = 1}, {['a\\27[31m'] = '\\27x'} }\nsetmetatable({ 1 }, { __index = error })\nerror(setmetatable({ 1 }, { __index = error }))\n"
  T.eq(err, "prompt:3: { 1 }\n")
  T.eq(status, 1)
  T.eq(out, "a\\x1b[31m\n---------\n        1\n    \\x1bx\n{ 1 }\n")
end)

T.test("brackets and words in strings and comments of several lines open nothing", function()
  local out, err = piped 't = {\n[[\n((((\n\nif ]],\n}\n#t[1]\nu = {\n"a ( \\\n(",\n"\\z\n (b"}\n#u[1]\nu[2]\n--[==[ do\n]] do\n]==] 5\n'
  T.eq(err, "")
  T.eq(out, "9\n6\n\"(b\"\n5\n")
end)

T.test("a file is run whole and stays; --step shows each chunk", function()
  local dir = T.folder()
  sys.write(dir .. "/setup.lua", "local n = 4\nfunction twice() return 2 * n end\n")
  local out = piped("twice()\nn\n", dir .. "/setup.lua")
  T.eq(out, "8\n4\n")
  sys.write(dir .. "/walk.lua", "-- first\nlocal a = 1\na + 1\n\nfor i = 1, 2 do\n\n  print(i)\nend\n")
  local t = prompt(dir, { "--step", dir .. "/walk.lua" }, { first = "Enter> $" })
  T.ok(not t.seen:find "for i", "one chunk at a time")
  t:type "\r"
  T.ok(t:expect "Enter> $":find "\n2\n.*for i = 1, 2 do\n\n  print%(i%)\nend", "the first ran, the second is shown")
  t:type "a = 5\r"
  t:expect "Enter> $"
  t:type "\r"
  t:expect "\n1\n2\n.*end of .*walk.lua.*\n> $"
  T.ok(t:run "a":find "\n5\n", "what was typed between them stays")
  t:type "\4"
  T.eq(t:ends(), 0)
end)

T.test("the lesson runs from its first chunk to its last, and each says what it is to show", function()
  local out, err, status = piped("", "--step " .. sys.realpath(T.root .. "experiments/lesson.lua"))
  T.eq(err, "")
  T.eq(status, 0)
  for _, part in ipairs { "overflow  .- tokens have a loss that is not finite", "logit_clamp=5", "calibrate of layers 1%-5",
                          "sweep, each head alone", "layer 4 head 1", "heads = as in \"Once", "order 8: loss %+", "the original: no changes\n.-end of" } do
    T.ok(out:find(part), part)
  end
end)

T.test("?, :, ! say and do what they are for", function()
  local dir = T.folder()
  local out, err, status = piped(("?undo\n:help\n:set show off\n:set\n:time 6 * 7\n:mem\n!echo from the shell\n1\n"))
  T.eq(err, "")
  T.eq(status, 0)
  for _, part in ipairs { "undo", "./lab repl %-%-resume", "show     off",
                          "windows  " .. require("attnlab.surgery.parts").SHOW .. " ", "\n42\n[%d.]+ s, [%d.]+ s of processors", "tensors .- Lua ",
                          "from the shell", "\n1\n" } do
    T.ok(out:find(part), part .. " in\n" .. out)
  end
  T.ok(select(2, piped ":set shwo off"):find "did you mean 'show'")
  T.ok(select(2, piped ":set show maybe"):find ":set show: on or off expected, got 'maybe'")
  T.ok(select(2, piped "?udno"):find "did you mean")
  sys.write(dir .. "/editor", "#!/bin/sh\necho '20 + 3' >\"$1\"\n")
  os.execute("chmod +x " .. dir .. "/editor")
  sys.setenv("VISUAL", dir .. "/editor")
  out = piped "1\n:edit\n"
  sys.setenv("VISUAL")
  T.eq(out, "1\n20 + 3\n23\n")
  out, err = piped "function deep() error('inside') end\npcall(deep)\n:where\n"
  T.ok(out:find "nothing failed" and err == "", out)
end)

T.test("a model is at hand with its fork and its evaluation set", function()
  local out, err = piped("m\ns:swaps()\ns.layer[1]\nlab.attention.new{denominator = 'none'}\n", MODEL)
  T.eq(err, "")
  for _, part in ipairs { "Llama, 260 k parameters, 5 layers", "model.layers.0 to 4: Block, .- each",
                          "state of a sequence: 640 KiB after 512 tokens", "no changes", "layer 1: preset=softmax",
                          "attention kernel_attention: denominator.stat=none" } do
    T.ok(out:find(part), part .. " in\n" .. out)
  end
end)

T.test("completion: globals, fields, methods, presets, options and their values, files", function()
  local dir = T.folder()
  local t = prompt(dir, { MODEL })
  local function completes(typed, to)
    t:type(typed .. "\t")
    t:expect((to:gsub("%p", "%%%0")), 5)
    t:type "\3"
    t:expect "\n> $"
  end
  completes("pri", "print")
  completes("lab.mo", "lab.model")
  completes("s:cal", "s:calibrate")
  completes("s.layer[2]:s", "s.layer[2]:set")
  completes("s.layer[2]:set{denom", "denominator=")
  completes("s.layer['*']:set{denominator='le", "length")
  completes("lab.attention.new{preset='p2/cott", "p2/cottention")
  completes("lab.attention.new{denominator={sta", "stat=")
  completes("lab.attention.new{denominator={stat='ab", "abs")
  completes("lab.model.load '" .. MODEL:sub(1, -6), "260K.bin")
  t:run "hang = setmetatable({}, { __index = function() while true do end end })"
  t:type "hang.a.b\t\3" -- what is a user's own is not called
  t:expect "\n> $"
  t:type "lab.op.soft\t"
  t:expect "softmax"
  t:type "\3"
  t:expect "\n> $"
  t:type "s.layer[1]:set{denominator=\"\t"
  local shown = t:expect "sum"
  T.ok(shown:find "length" and shown:find "cumulative_gate", shown)
  t:type "\3"
  t:expect "\n> $"
  t:type "s:\t"
  shown = t:expect "undo"
  T.ok(shown:find "calibrate" and not shown:find "exchange" and not shown:find "clone_into", shown)
  t:type "\3\4" -- while the list is printed
  T.eq(t:ends(), 0)
end)

T.test("a paste is text: tabs complete nothing, lines run in order and once, the last stays to be edited", function()
  local t = prompt(T.folder())
  t:type "\27[200~pasted = 1\nfor i = 1, 2 do\n\tpasted = pasted + i\nend\npasted\npri\tnt\27[201~"
  local shown = t:expect "nt$"
  T.ok(shown:find "\n4\n", shown)
  T.eq(select(2, shown:gsub("pasted = 1", "")), 1)
  t:type "\3"
  t:expect "\n> $"
  T.ok(t:run "pasted":find "\n4\n", "what was pasted ran")
  t:type("\27[200~pasted = 5\n" .. ("-- more than there is room for\n"):rep(35000) .. "pasted = 6\n\27[201~")
  t:expect "less than 1 MiB expected: nothing was taken\n+> $"
  T.ok(t:run "pasted":find "\n4\n", "no part of it was typed")
  t:type "\4"
  T.eq(t:ends(), 0)
end)

T.test("a paste keeps its lines and what is text in them", function()
  local t = prompt(T.folder())
  t:type "\27[200~z = { 'h\xc3\xa9', 'M\xfcl',\r 3 }\r#z[1] .. z[2] .. z[3]\r\27[201~"
  t:expect '"3Ml3"\n> $'
  t:type "\4"
  T.eq(t:ends(), 0)
end)

T.test("Ctrl-C clears the line, ends a loop, an error caught in it, a coroutine; never the prompt", function()
  local t = prompt(T.folder())
  local function stops(line)
    t:type(line .. "\r")
    t:expect((line:sub(-6):gsub("%p", "%%%0")))
    sys.sleep(0.3)
    t:type "\3"
    t:expect("interrupted\n> $", 10)
  end
  t:type "half a line\3"
  t:expect "\n> $"
  for _ = 1, 5 do t:type "\3" t:expect "\n> $" end
  stops "while true do end"
  stops "while true do pcall(function() while true do end end) end"
  stops "coroutine.wrap(function() while true do end end)()"
  stops "_G.coroutine.wrap(function() while true do end end)()"
  stops "x = 1 while true do x = x + 1 end"
  T.ok(t:run "x > 1":find "true", "what a loop did stays")
  t:type "\27[200~a1 = 1\nwhile true do end\na1 = 3\n\27[201~"
  t:expect "do end"
  sys.sleep(0.5)
  t:type "\3"
  t:expect("interrupted\n> $", 10)
  T.ok(t:run "a1":find "\n1\n", "nothing that stood behind it in the paste runs")
  t:type "while true do end\r"
  sys.sleep(0.3)
  t:type "\3\3\3\3\3\3"
  t:expect "interrupted"
  t:expect("\n> $", 10)
  T.ok(t:run "1 + 1":find "\n2\n", "the prompt lives")
  t:type "\4"
  T.eq(t:ends(), 0)
end)

T.test("Ctrl-C in training and generating: they return what they have, and the chunk ends there", function()
  local t = prompt(T.folder(), { MODEL })
  t:type "r = s:tune{steps=100000, data='shakespeare', batch_size=2, eval_interval=0, log_interval=1} after = true; s:swaps(); ran_on = true\r"
  t:expect("step %d+/", 60)
  t:type "\3"
  t:expect("interrupted; what it had made is in _.*\n> $", 30)
  T.ok(t:run "r.status":find '"interrupted"', "the training is there")
  T.ok(t:run "_":find '"interrupted"')
  T.ok(t:run "after":find "true", "what is no call into lab runs on")
  T.ok(t:run "rawget(_G, 'ran_on') or 'ended'":find "ended")
  T.ok(t:run "#s:swaps()":find "\n1\n", "the training is an entry")
  t:type "text = s:generate{tokens=1000000, past_context='slide', eos=false}\r"
  sys.sleep(1)
  t:type "\3"
  t:expect("it had made is in _.*\n> $", 30)
  T.ok(t:run "#text > 20":find "true", "the text so far")
  t:type "ev = lab.evalset{data='shakespeare', windows=4000} ev(m)\r"
  sys.sleep(1)
  t:type "\3"
  t:expect("interrupted\n> $", 60)
  T.ok(t:run "m.training":find "false", "what evaluating sets is put back")
  t:type "n = 0 for i = 1, 50 do pcall(s.tune, s, {steps=4, data='shakespeare', batch_size=2, eval_windows=2}) n = n + 1 end\r"
  t:expect("step %d+/", 60)
  t:type "\3"
  t:expect("interrupted.*\n> $", 60)
  T.ok(tonumber(t:run "n":match "\n(%d+)\n") <= 6, "it ends")
  T.ok(tonumber(t:run "#s:swaps()":match "\n(%d+)\n") <= 3, "and begins no more trainings")
  t:type "\4"
  T.eq(t:ends(), 0)
end)

T.test("a session comes back after kill -9, with its trainings as they were", function()
  local state = T.folder()
  local t = prompt(state, { MODEL })
  t:run "s.layer[1]:set{denominator='length'}"
  t:run "local kept = { 1, 2 }"
  t:run "local print = #kept"
  t:run "r = s:tune{steps=5, data='shakespeare', batch_size=2, eval_windows=2, quiet=true}"
  local weights = t:run("s.head and 1 or s.layers[1].attention.o_proj.weight:square():sum():item()", 60):match "\n([%d.e-]+)\n"
  T.ok(weights, "a number of the tuned weights")
  t:type "while true do end\r"
  sys.sleep(0.3)
  t.pty:signal(9)
  T.eq(t:ends(), -9)
  t = prompt(state, { "--resume" })
  T.ok(t:run "#kept":find "\n2\n", "a local")
  T.ok(t:run "print":find "\n2\n", "a name of Lua's own")
  T.ok(t:run "#s:swaps()":find "\n2\n", "the swaps")
  T.eq(t:run("s.head and 1 or s.layers[1].attention.o_proj.weight:square():sum():item()", 60):match "\n([%d.e-]+)\n", weights)
  T.ok(t:run "r.status":find '"finished"')
  t:type "\27[A\27[A"
  t:expect "weight:square" -- the history has what was typed
  t:type "\3"
  t:expect "\n> $"
  t.pty:signal(1)
  T.eq(t:ends(), 129)
  t = prompt(state, { "--resume" })
  T.ok(t:run "#s:swaps()":find "\n2\n", "after a hangup, too")
  t.pty:signal(15)
  T.eq(t:ends(), 143)
end)

T.test("a session that goes through a file comes back to the chunk that it had come to", function()
  local state = T.folder()
  sys.write(state .. "/walk.lua", "-- first\na = 1\n\n-- words alone\n\nb = 2\nc = 3\n\nd = 4\n")
  local t = prompt(state, { "--step", state .. "/walk.lua" }, { first = "Enter> $" })
  for _ = 1, 3 do
    t:type "\r"
    t:expect "Enter> $"
  end
  t:type "\4"
  T.eq(t:ends(), 0)
  t = prompt(state, { "--resume" }, { first = "d = 4\nEnter> $" })
  t:type "a + b + c\r"
  t:expect "\n6\nEnter> $"
  t:type "\4"
  T.eq(t:ends(), 0)
end)

T.test("a disk that is full ends no session", function()
  local state = T.folder()
  local t = terminal({ "repl" }, { env = { "TERM=dumb", "XDG_STATE_HOME=" .. state }, shell = "trap '' XFSZ; ulimit -f 1; exec" })
  t:expect("\n> $", 60)
  local shown = ""
  for _ = 1, 3 do shown = shown .. t:run("x = '" .. ("y"):rep(800) .. "'") end
  T.eq(select(2, shown:gsub("the session is not kept for %-%-resume: write: ", "")), 1)
  T.ok(t:run "6 * 7":find "\n42\n", "it goes on")
  t:type "\4"
  T.eq(t:ends(), 0)
end)

T.test("a training that is killed comes back up to its last record", function()
  local state = T.folder()
  local t = prompt(state, { MODEL })
  t:type "s:tune{steps=100000, data='shakespeare', batch_size=2, eval_interval=0, checkpoint_interval=2, log_interval=1}\r"
  t:expect("step %d%d+/", 60)
  t.pty:signal(9)
  t:ends()
  t = prompt(state, { "--resume" })
  local step = tonumber(t:run "_.trainer.step_count":match "\n(%d+)\n")
  T.ok(step and step >= 4, tostring(step))
  T.ok(t:run "#s:swaps()":find "\n1\n")
  t:type "\4"
  T.eq(t:ends(), 0)
  local pipe = io.popen(("echo '#s:swaps()' | XDG_STATE_HOME=%s %s repl --resume 2>/dev/null"):format(state, sys.program()))
  local out = pipe:read "a"
  T.ok(pipe:close() and out:find "brought back\n1\n$", "from a pipe, too: " .. out)
end)

T.test("what a resumed session cannot bring back it says; random numbers go on as they did", function()
  local state = T.folder()
  local t = prompt(state, { MODEL })
  t:type "\4"
  t:ends()
  T.ok(not sys.exists(state .. "/attnlab/sessions"), "a prompt in which nothing was done leaves nothing")
  sys.write(state .. "/v.lua", "return 5")
  t = prompt(state, { MODEL })
  t:run(("v = dofile %q"):format(state .. "/v.lua"))
  t:run "s:tune{steps=3, data='shakespeare', batch_size=2, eval_windows=2, quiet=true}"
  t:run "q = 'M\xfcller' -- a byte that is no UTF-8"
  local drawn = t:run "a = lab.rand{shape={1}}:item() b = math.random() a + b":match "\n([%d.]+)\n"
  t.pty:signal(9)
  t:ends()
  sys.remove(state .. "/v.lua")
  t = prompt(state, { "--resume" }, { first = "brought back.*\n> $" })
  T.ok(t.raw:find "failed now, and did not then: v = dofile" and t.raw:find "2 lines brought back", t.raw)
  T.eq(t:run "a + b":match "\n([%d.]+)\n", drawn)
  t:run "kept = 1"
  t:type "\4"
  t:ends()
  local out = piped_list(state)
  T.ok(out:find "stories260K.bin, %d+ lines", out)
  local id = out:match "^%S+"
  local journal = ("%s/attnlab/sessions/%s/journal.jsonl"):format(state, id)
  local text = sys.read(journal)
  sys.write(journal, (text:gsub('{"input":"kept', '{"inp%%%%'))) -- damage
  sys.write(("%s/attnlab/sessions/%s/training-1.safetensors"):format(state, id), "cut")
  t = prompt(state, { "--session", id }, { first = "brought back.*\n> $" })
  T.ok(t.raw:find "of its journal is damaged" and t.raw:find "training%-1.safetensors: .- runs again", t.raw)
  T.ok(t:run "#s:swaps()":find "\n1\n", "the training was run again")
  t:run "later = 2"
  t.pty:signal(9)
  t:ends()
  t = prompt(state, { "--resume" }, { first = "brought back.*\n> $" })
  T.ok(t:run "later":find "\n2\n", "what was typed behind the damage is kept")
  t:type "\4"
  t:ends()
end)

T.test("a replay that is interrupted leaves the session as it was; a step goes on where it was", function()
  local state = T.folder()
  local t = prompt(state)
  t:run "k = 0"
  t:run("for i = 1, 2e8 do k = k + 1 end", 120)
  t:type "\4"
  t:ends()
  for _, how in ipairs { { function(p) p:type "\3" end, 130 }, { function(p) p.pty:signal(15) end, 143 } } do
    t = prompt(state, { "--resume" }, { first = "line 2 of 2" })
    how[1](t)
    T.eq(t:ends(), how[2])
  end
  sys.write(state .. "/walk.lua", "n = 1\n\nn = n + 10\n\nn = n + 100\n")
  t = prompt(state, { "--step", state .. "/walk.lua" }, { first = "Enter> $" })
  t:type "\r"
  t:expect "Enter> $"
  t:type "\r"
  t:expect "Enter> $"
  t.pty:signal(9)
  t:ends()
  t = prompt(state, { "--resume" }, { first = "Enter> $" })
  T.ok(t.raw:find "n = n %+ 100" and not t.raw:find "n = n %+ 10\r", t.raw)
  t:type "n\r"
  t:expect "\n11\n.*Enter> $"
  t:type "\4"
  T.eq(t:ends(), 0)
end)

T.test("waiting costs nothing; dumb terminals work; history is found by Ctrl-R", function()
  local state = T.folder()
  local t = prompt(state, { MODEL })
  t:run "m:forward{1, 2, 3};"
  local function cpu()
    local stat = sys.read(("/proc/%d/stat"):format(t.pty:pid())):match "^.*%)(.*)$"
    local n, used = 0, 0
    for word in stat:gmatch "%S+" do
      n = n + 1
      if n == 12 or n == 13 then used = used + tonumber(word) end
    end
    return used
  end
  local before = cpu()
  sys.sleep(1)
  T.ok(cpu() - before <= 2, "ticks of a hundredth")
  t:run "marker_of_history = 41 + 1"
  t:type "\18marker"
  t:expect "marker_of_history = 41 %+ 1"
  t:expect "'marker': "
  t:type "\r"
  t:expect "\n> $"
  T.ok(t:run "marker_of_history":find "\n42\n")
  t:type "\4"
  T.eq(t:ends(), 0)
  t = prompt(state, nil, { term = "dumb" })
  T.ok(t:run "6 * 7":find "\n42\n")
  t:type "\3"
  t:expect "\n> $"
  T.ok(not t.raw:find "\27", "no escapes")
  t:type "\4"
  T.eq(t:ends(), 0)
end)
