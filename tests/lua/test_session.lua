-- What was done at the prompt as a file: which states become cases, what is left out and said, the file run against
-- forks made here, arms over their seeds, and the same as an experiment.
local T = ...
local core = require "attnlab.core"
local lab = require "attnlab"
local experiment = require "attnlab.experiment"
local parts = require "attnlab.surgery.parts"
local session_file = require "attnlab.session_file"
local steps = require "attnlab.surgery.steps"
local surgery = require "attnlab.surgery"
local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)
local json, sys = core.json, core.sys

local m = lab.model.load(T.root .. "experiments/models/stories260K.bin"):eval()

local function no_forks()
  collectgarbage()
  collectgarbage()
  T.eq(#surgery.forks(), 0)
end

local function result_of(list, name, layer)
  for _, item in ipairs(list) do
    if item.case.swap.name == name and item.case.layer == (layer or "all") then
      return json.decode(sys.read(item.dir .. "/result.json"))
    end
  end
  error("no case " .. name)
end

T.test("measured states that were not undone are cases; they are measured on the hidden part", function()
  no_forks()
  local file, root = T.folder() .. "/mine.lua", T.folder()
  local s = m:fork()
  s.layer["*"]:set { denominator = "none" } -- never measured, but the next states stand on it
  s.layer["*"]:set { output_norm = "l2" }
  s:show { windows = 4 }
  s.layer[1]:set { logit_clamp = 5 }
  s:show { windows = 4 }
  s:undo()
  s:calibrate()
  s.layer[2].head[3]:set { output_gate = 0 }
  s:show { windows = 4 }
  s:undo()
  s:redo()
  s:tune { steps = 2, batch_size = 2, eval_interval = 0, quiet = true, seed = 5 }
  s:show { windows = 4 }
  s:sweep { over = "layer", layer = { 1, 2 }, denominator = "length", calibrate = true }
  local f = s:fork()
  f:patch { name = "heads", layer = 1, head = 2, with = "zero" }
  f:show { windows = 4 }
  local r = lab.session:study(file)
  T.eq({ r.states, r.sweeps, r.models, #r.left_out }, { 4, 1, 1, 0 })
  T.ok(tostring(r):find "4 states and 1 sweep of 1 model %(n = 1%)" and tostring(r):find "%./lab run ", tostring(r))
  local text = sys.read(file)
  T.ok(text:find "n = 1" and text:find "exploratory" and not text:find "logit_clamp", text)
  T.ok(text:find(("seen: %+.4f"):format(s:swaps()[2].difference.mean), 1, true), text)
  T.eq(select(2, text:gsub("sweep = ", "")), 1)
  for line in text:gmatch "[^\n]+" do -- one line holds it
    if line:find "sweep = " then T.ok(line:find "denominator = \"length\"" and line:find "model = ", line) end
  end
  s, f = nil, nil -- luacheck: ignore

  local code, said = tiny.run { "run", file, "--dry-run" }
  T.ok(code == 0 and #json.decode(said).measurements == 6, said)
  local study = experiment.load(file)
  local list = study:plan { root = root }
  T.eq(#list, 6)
  T.eq(study:work(list, { root = root, quiet = true }), "done")
  local ev = parts.of(m).hidden
  local hand = m:fork()
  hand.layer["*"]:set { denominator = "none" }
  hand.layer["*"]:set { output_norm = "l2" }
  local function same(name, layer)
    local d, got = ev:diff(hand, m), result_of(list, name, layer)
    T.near({ got.mean, got.lo, got.kl, got.n }, { d.mean, d.lo, d.kl, 24 }, 1e-6)
  end
  same "A2 + output_norm=l2 in all layers"
  hand:calibrate()
  hand.layer[2].head[3]:set { output_gate = 0 }
  same "A4 + output_gate=0 in layer 2 head 3"
  hand:tune { steps = 2, batch_size = 2, eval_interval = 0, quiet = true, seed = 5 }
  same "A5 + tuned 2 steps"
  hand:patch { name = "heads", layer = 1, head = 2, with = "zero" }
  same "B1 + patched: head=2 layer=1 name=heads with=zero"
  hand = m:fork()
  hand.layer[2]:set { denominator = "length" }
  hand:calibrate()
  same("denominator=length", 2)
  local out = study:outcome(list, root)
  T.ok(#out.judged > 0 and out.judged[1].text:find "worse than the original %(exploratory%)" and out.judged[1].outcome == "held",
    out.judged[1] and out.judged[1].text)
  T.ok(out.text:find("A5 + tuned 2 steps", 1, true) and out.text:find("n = 1", 1, true), out.text)
end)

T.test("sweeps that have cells in common are written once", function()
  no_forks()
  local file = T.folder() .. "/mine.lua"
  local s, t = m:fork(), m:fork()
  s:sweep { over = "layer", layer = 1, denominator = "length", quiet = true }
  t:sweep { over = "layer", layer = { 1, 2, 3 }, denominator = "length" }
  s:sweep { over = "layer", layer = { 1, 2 }, denominator = "length" }
  s:sweep { over = "layer", layer = { 3, 4 }, denominator = "length" }
  s:sweep { over = "layer", layer = 1, denominator = "length", calibrate = true }
  local r = lab.session:study(file)
  T.eq({ r.states, r.sweeps, #r.left_out }, { 0, 2, 1 })
  T.ok(r.left_out[1]:find "fork A: the sweep of each layer alone: denominator=length: another one has 1 of its cells")
  T.eq(#experiment.load(file):plan { root = "r" }, 4)
end)

T.test("what cannot be written is left out and said, or refused where nothing is left", function()
  no_forks()
  local dir = T.folder()
  T.raises(function() lab.session:study(dir .. "/a.lua") end, "nothing to write")
  local s = m:fork()
  s.layer[1]:set { output_norm = "l2" }
  T.raises(function() lab.session:study(dir .. "/a.lua") end, "nothing to write") -- not measured
  s:show { windows = 2 }
  s:patch { name = "heads", layer = 2, with = lab.zeros { shape = { 1, 1, 1, 8 } } }
  s:show { windows = 2 }
  s.layer[2]:set { output_norm = "l2" }
  s:show { windows = 2 }
  local r = lab.session:study(dir .. "/a.lua")
  T.eq({ r.states, r.left_out }, { 1, { "fork A: its change 2 and those behind it: patch with a userdata" } })
  T.ok(tostring(r):find "left out: fork A: its change 2")
  lab.session:study(dir .. "/a.lua") -- its own file is written anew
  local b = m:fork()
  b:patch { name = "heads", layer = 2, head = 1, with = -1 / 0 }
  b:show { windows = 2 }
  r = lab.session:study(dir .. "/a.lua")
  T.eq({ r.states, r.left_out[2] }, { 1, "fork B: its change 1 and those behind it: patch with -inf, which no study can keep" })
  T.eq(#experiment.load(dir .. "/a.lua"):plan { root = "r" }, 1)
  b:undo()
  b = nil -- luacheck: ignore
  collectgarbage()
  sys.write(dir .. "/b.lua", "return 1\n")
  T.raises(function() lab.session:study(dir .. "/b.lua") end, "is there and not of this function")
  T.eq(sys.read(dir .. "/b.lua"), "return 1\n")
  T.raises(function() lab.session:study "a.txt" end, "name of a %.lua file expected, got a%.txt")
  T.raises(function() lab.session:study() end, "got nil")
  T.raises(function() lab.session.study(dir .. "/c.lua") end, "with a colon")
  T.raises(function() lab.session:study(dir .. "/c.lua", { As = "study" }) end, "unknown option 'As' %(did you mean 'as'")
  T.raises(function() lab.session:study(dir .. "/c.lua", { as = "poem" }) end, "got poem")
  s:undo(3)
  T.raises(function() lab.session:study(dir .. "/c.lua") end, "nothing to write")
  s = nil -- luacheck: ignore
  no_forks()
  -- models that no file holds
  local text = lab.data.open "shakespeare"
  local made = lab.model.new { layers = 1, width = 8, heads = 2, mlp = 8, context = 16, vocabulary = text.vocabulary, seed = 1 }
  made.trained_on = { name = "shakespeare", sha256 = text.sha256 }
  local g = made:fork()
  g.layer[1]:set { output_norm = "l2" }
  g:show { windows = 2 }
  T.raises(function() lab.session:study(dir .. "/c.lua") end, "fork A: its model was made here: m:save")
  made:save(dir .. "/made.safetensors")
  local opened = lab.model.load(dir .. "/made.safetensors")
  local h = opened:fork()
  h.layer[1]:set { output_norm = "l2" }
  h:show { windows = 2 }
  r = lab.session:study(dir .. "/c.lua")
  T.eq({ r.states, #r.left_out }, { 1, 1 })
  T.ok(sys.read(dir .. "/c.lua"):find("path = \"" .. sys.realpath(dir .. "/made.safetensors"), 1, true))
  opened.layers[1].mlp.up_proj.weight:fill(1)
  local changed = opened:fork()
  changed.layer[1]:set { output_norm = "l2" }
  changed:show { windows = 2 }
  r = lab.session:study(dir .. "/c.lua")
  T.ok(r.left_out[2]:find "is not what .- holds any more: m:save", r.left_out[2])
  opened:save(dir .. "/made.safetensors") -- now it is, and what the first fork has is not
  r = lab.session:study(dir .. "/c.lua")
  T.eq({ r.states, #r.left_out }, { 1, 2 })
  T.ok(r.left_out[2]:find "^fork B: its model is not what .- holds any more", r.left_out[2])
end)

T.test("models of an arm are repeated over its seeds, and judged over them", function()
  local home = T.folder()
  sys.mkdir(home .. "/experiments/data")
  T.numbers(6000, home .. "/experiments/data/numbers.txt")
  sys.write(home .. "/experiments/small.lua", [[
return require("attnlab").experiment { name = "small", seeds = { 1, 2, 3 }, arms = { { name = "softmax" },
    { name = "L2", ["attention.output_norm"] = "l2" } },
  base = { layers = 2, width = 16, heads = 2, mlp = 32, context = 16, batch_size = 8, steps = 60, warmup_steps = 5, lr = 0.003,
           data = "numbers", eval_interval = 30, eval_windows = 8, checkpoint_interval = 60 } }
]])
  sys.write(home .. "/do.lua", [[
local lab = require "attnlab"
local s = lab.open("small:softmax", { seed = 2 }).model:fork()
s.layer["*"]:set { similarity = "linear", denominator = "length" }
print(s:show())
s:calibrate()
s:show()
s:sweep { over = "head", layer = 2, output_gate = 0 }
print(lab.session:study "mine.lua")
print(lab.session:study("arms.lua", { as = "experiment" }))
]])
  local function run(...)
    local argv = { "sh", "-c", "cd \"$0\" && exec \"$@\"", home, tiny.program, ... }
    local out = T.folder() .. "/out"
    argv.stdout, argv.stderr, argv.env = out, out, { ATTNLAB_HOME = home }
    local how, code = sys.wait((sys.spawn(argv)))
    return how == "exited" and code or -code, sys.read(out)
  end
  local code, said = run("run", "experiments/small.lua")
  T.eq(code, 0)
  code, said = run("lua", "do.lua")
  T.ok(code == 0 and said:find "of 3 models, on the part", said)
  T.ok(said:gsub("%s+", " "):find "windows of the validation text of numbers, 16 tokens each", said)
  local text = sys.read(home .. "/mine.lua")
  for seed = 1, 3 do
    T.eq(select(2, text:gsub(("experiment = \"small\", arm = \"softmax\", seed = %d "):format(seed), "")), 2)
  end
  T.ok(not text:find "is one model", text)
  code, said = run("run", "mine.lua")
  T.ok(code == 0 and said:find "small: softmax, over 3" and said:find "held +small: softmax, over 3 seeds: A1", said)
  local rows = json.decode(sys.read(home .. "/runs/mine/table.json")).records
  T.eq(#rows, 3 * (2 + 2))
  code, said = run("run", "arms.lua")
  T.ok(code == 0 and said:find "another question" == nil and said:find "A1 denominator=length", said)
  T.ok(sys.read(home .. "/arms.lua"):find "Another question than the session's")
  T.ok(not sys.read(home .. "/arms.lua"):find "name = \"A2")
end)

T.test("as an experiment a model from elsewhere needs a text, and its arms are what the forks were", function()
  no_forks()
  local file = T.folder() .. "/arms.lua"
  local s = m:fork()
  s.layer["*"]:set { denominator = "none" }
  s:show { windows = 2 }
  s.layer[2].head[3]:set { output_norm = "l2" }
  s:show { windows = 2 }
  T.raises(function() lab.session:study(file, { as = "experiment" }) end, "says nothing of the text .- data=\"FILE\"")
  local r = lab.session:study(file, { as = "experiment", data = "shakespeare" })
  T.eq(r.arms, 3)
  local plan = experiment.load(file):plan {}
  T.eq({ #plan.arms, plan.seeds }, { 3, { 1, 2, 3 } })
  local c = plan.arms[3].config
  T.eq(c.train.data, "shakespeare")
  T.eq(c.attention["2"], { preset = "softmax", rope = "interleaved", denominator = "none", heads = { ["3"] = { output_norm = "l2" } } })
  T.eq(c.attention["1"].heads, nil)
end)

T.test("steps and cells of a study are refused where they are none", function()
  local function refuses(pattern, list) T.raises(function() steps.check(list) end, pattern) end
  refuses("a list of what is done", {})
  refuses("entry 1: a table with one of set, calibrate, tune, patch", { {} })
  refuses("entry 1: a table with one of", { 3 })
  refuses("entry 2: set or tune expected, not both", { { calibrate = true }, { set = {}, tune = {}, layer = 1 } })
  refuses("unknown key 'lyer' %(did you mean 'layer'", { { set = { a = 1 }, lyer = 1 } })
  refuses("layer: a number, a list of numbers or \"%*\" expected, got all", { { set = { a = 1 }, layer = "all" } })
  refuses("calibrate: true expected", { { calibrate = false } })
  refuses("tune: a table of options expected", { { tune = 5 } })
  local function study(case)
    local c = { model = { file = "stories260K" }, data = "hidden", context = 256 }
    for k, v in pairs(case) do c[k] = v end
    return lab.study { name = "s", kind = "surgery", seeds = { 1 }, cases = { c } }
  end
  T.raises(function() study {} end, "states and sweep are all empty")
  T.raises(function() study { states = { { steps = {} } } } end, "states: entry 1: a name and steps")
  T.raises(function() study { states = { { name = "a", steps = {} } } } end, "a list of what is done")
  T.raises(function() study { sweep = { over = "head" } } end, "options of the attention expected")
  T.raises(function() study { sweep = { over = { denominator = { "none" } }, layer = { 1, 2 } } } end, "one, \"each\" or")
  T.raises(function() study { data = "shakespeare", text = "own", norms = { "l2" } } end, "text: goes with data=hidden")
  T.raises(function() study { model = { path = "/nowhere" }, norms = { "l2" } } end, "'/nowhere': no such file")
  T.eq(#study { sweep = { over = "head", denominator = "none" } }:plan { root = "r" }, 40)
end)

T.test("tables are written so that Lua reads what they were", function()
  local t = { "a\nb\t\"\\\0\200]]", 1, -3, 0.1, 1e300, 1 / 3, 2.0, true, false, { ["end"] = 1, ["a b"] = { {}, { 1, 2 } }, x_1 = "" },
              ("long "):rep(60), { set = { denominator = { stat = "sum", power = 0.5 } }, layer = "*" } }
  local back = load("return " .. session_file.lua_of(t))()
  T.eq(back, t)
  T.eq(math.type(back[7]), "float")
  T.eq(math.type(back[2]), "integer")
  back = load("return " .. session_file.lua_of { math.huge, -math.huge, 0 / 0 })()
  T.ok(back[1] == math.huge and back[2] == -math.huge and back[3] ~= back[3])
end)

T.test("several models of an arm are put together, and claims are judged where they were made", function()
  local judge = require "attnlab.surgery.judge"
  local over_models = require "attnlab.surgery.over_models"
  local stats = require "attnlab.stats"
  local function record(model, arm, swap, mean, more)
    local r = { model = model, arm = arm, swap = swap, layer = "all", calibrated = false, data = "hidden", context = 8,
                windows = 24, mean = mean, lo = mean - 0.01, hi = mean + 0.01, kl = 2 * mean }
    for k, v in pairs(more or {}) do r[k] = v end
    return r
  end
  local records = { record("x, seed 1", "x", "a", 0.1), record("x, seed 2", "x", "a", 0.3), record("x, seed 3", "x", "a", 0.2),
                    record("y", nil, "b", -0.1), record("z, seed 1", "z", "c", 0.1) }
  local all = over_models(records)
  T.eq({ #all, all[1].model, all[1].n }, { 1, "x, over 3 seeds", 3 })
  local half = stats.t_quantile(0.975, 2) * 0.1 / math.sqrt(3)
  T.near({ all[1].mean, all[1].lo, all[1].hi, all[1].kl, all[1].kl_half }, { 0.2, 0.2 - half, 0.2 + half, 0.4, 2 * half }, 1e-12)
  local function came(x)
    local out = {}
    for i, j in ipairs(judge.judge({ x }, records)) do out[i] = j.text .. ": " .. j.outcome end
    return out
  end
  T.eq(came { swap = "a", worse = true }, { "x, over 3 seeds: a is worse than the original: not shown" }) -- t is wide: n = 3
  T.eq(came { swap = "b", worse = true, exploratory = true }, { "y: b is worse than the original (exploratory): REFUTED" })
  T.eq(came { swap = "b", better = true }, { "y: b is better than the original: held" })
  T.eq(came { swap = "c", worse = true }, { "z, seed 1: c is worse than the original: held" })
  records[2].mean, records[2].failed = nil, "loss is not finite"
  all = over_models(records)
  T.eq({ all[1].failed, all[1].mean }, { "x, seed 2: loss is not finite", nil })
end)
