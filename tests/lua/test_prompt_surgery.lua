-- Operating on a model at the prompt, on a terminal: what changes show, sweeps, maps, patches, undo and redo, and the
-- study that a session becomes.
local T = ...
local core = require "attnlab.core"
local sys = core.sys
local terminal = dofile(T.root .. "tests/lua/terminal.lua")

local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)

local MODEL = sys.realpath(T.root .. "experiments/models/stories260K.bin")
local state = T.folder()
local t = terminal({ "repl", MODEL }, { cols = 100, rows = 40,
  env = { "TERM=xterm", "XDG_STATE_HOME=" .. state, "LC_ALL=C.UTF-8", "OMP_WAIT_POLICY=passive", "GOMP_SPINCOUNT=1000" } })
t:expect("\n> $", 60)

local function has(text, ...)
  for _, pattern in ipairs { ... } do T.ok(text:find(pattern), ("'%s' in\n%s"):format(pattern, text)) end
  return text
end

-- The loss difference that a block says.
local function loss(text) return tonumber(text:match "loss%s+([-+][%d.]+)") end

T.test("a change shows what it did, one that overflows why and where", function()
  local shown = has(t:run 's.layer["*"]:set{denominator="none"}', "before", "after", "overflow  [%d.]+ %% of 6144 tokens",
    "first in layer 2", "largest logit", "logit_clamp=5", "look number 1", "writes")
  T.ok(not shown:lower():find "%f[%a]nan%f[%A]", shown)
  T.ok(t.raw:find "\27%[7m", "the slot is marked by inverse video")
  shown = has(t:run 's.layer["*"]:set{output_norm="l2"}', "change 2", "KL", "rounding", "state", "look number 2")
  local raw = loss(shown)
  shown = has(t:run "s:calibrate()", "change 3, calibrate", "look number 3")
  T.ok(loss(shown) < raw, "calibrating brings scale back")
end)

T.test("undo and redo measure what is there then; :set show off is silent", function()
  has(t:run "s:undo()", "change 2")
  has(t:run "s:redo()", "change 3")
  has(t:run "s:undo(3)", "the original: no changes")
  t:run ":set show off"
  T.ok(not t:run('s.layer[1]:set{output_norm="l2"}'):find "loss", "nothing is shown")
  t:run ":set show on"
  T.ok(not t:run('for i = 2, 3 do s.layer[i]:set{output_norm="l2"} end'):find "loss", "never in loops")
  has(t:run "#s:swaps()", "\n3\n")
  has(t:run "s:undo(3)", "no changes")
  T.ok(not t:run("x = 1"):find "no changes", "once")
end)

T.test("a sweep is a map of layers by heads, and leaves the fork as it was", function()
  local shown = has(t:run('s:sweep{over="head", denominator="none", output_norm="l2", calibrate=true}', 120),
    "head +1 .* 8\n", "layer 1 ", "layer 5 ", "Holm", "over 24 short stories")
  T.ok(shown:find "%*", "something differs")
  has(t:run "s:undo()", "no changes")
end)

T.test("a sweep that is stopped keeps what it has measured", function()
  t:type 'r = s:sweep{over="head", denominator="none", calibrate=true}\r'
  t:expect("layer 1.*%d", 60)
  t:type "\3"
  has(t:expect("interrupted; what it had made is in _.*\n> $", 60))
  local n = tonumber(t:run "#r.cells":match "\n(%d+)\n")
  T.ok(n >= 1 and n < 40, n)
  has(t:run "r", "stopped after " .. n .. " of 40")
  has(t:run "s:undo()", "no changes")
end)

T.test("what cannot be measured says so, and how to take it back", function()
  has(t:run 's:patch{name="heads", layer=1, with={text="Once upon a time"}}', "5 positions, this run has 256", "s:undo%(%) takes it back")
  has(t:run "s:undo()", "no changes")
end)

T.test("a map has the tokens along it; a patched activation is an entry like any other", function()
  has(t:run 'm:map{text="Once upon a time", layer=1, head=1}', "_Once", "_time", "row's largest")
  has(t:run "m:taps()", "residual.mid", "weights")
  local shown = has(t:run 's:patch{name="heads", layer=4, head=1, with="zero"}', "patch of layer 4 head 1", "loss", "KL")
  T.ok(loss(shown) > 0, "the strongest head")
  has(t:run "s:swaps()", "patch")
  has(t:run "s:undo()", "no changes")
end)

T.test("what was done comes back after kill -9", function()
  t:run 's.layer[2]:set{denominator="length"}'
  has(t:run "s:calibrate()", "calibrate")
  local number = t:run("ev:diff(s, m).mean"):match "\n([-%d.e]+)\n"
  t.pty:signal(9)
  T.eq(t:ends(), -9)
  t = terminal({ "repl", "--resume" }, { cols = 100,
    env = { "TERM=xterm", "XDG_STATE_HOME=" .. state, "LC_ALL=C.UTF-8", "OMP_WAIT_POLICY=passive" } })
  t:expect("lines? brought back.*\n> $", 120)
  T.eq(t:run("ev:diff(s, m).mean"):match "\n([-%d.e]+)\n", number)
  has(t:run "s:swaps()", "denominator=length", "calibrate")
end)

T.test("the session becomes a study of what was not undone, and the study runs", function()
  local file = state .. "/mine.lua"
  t:run 's.layer[1]:set{output_norm="l2"}'
  t:run "s:undo()"
  has(t:run(("lab.session:study(%q)"):format(file)), "measures 2 states", "n = 1", "never shown here")
  local text = has(sys.read(file), "denominator = \"length\"", "calibrate", "exploratory = true", 'data = "hidden"')
  T.ok(not text:find "l2", "what was undone is not in it")
  local status, out = tiny.run { "run", file, "out_dir=" .. state .. "/runs" }
  T.ok(status == 0, out)
  has(out, "%(exploratory%)", "denominator=length", "report +%S+/runs/mine/report.md")
end)

t:type "\4"
T.eq(t:ends(), 0)
