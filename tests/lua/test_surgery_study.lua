-- The study of surgery: what it refuses, its measurements against forks made here, texts that a model writes
-- for itself, and arms of other experiments that are trained where they are missing.
local T = ...
local core = require "attnlab.core"
local lab = require "attnlab"
local subject = require "attnlab.surgery.subject"
local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)
local json, sys = core.json, core.sys

local STORIES = { file = "stories260K" }

local function spec(case, more)
  local c = { model = STORIES, context = 24, windows = 4, layers = "all", norms = { "l2" }, prompt = "Once", tokens = 5 }
  for k, v in pairs(case or {}) do c[k] = v or nil end
  local s = { name = "cut", kind = "surgery", seeds = { 3 }, cases = { c } }
  for k, v in pairs(more or {}) do s[k] = v end
  return s
end

T.test("what a study of surgery refuses", function()
  local function refuses(pattern, case) T.raises(function() lab.study(spec(case)) end, pattern) end
  refuses("model: either file or experiment", { model = {} })
  refuses("model: unknown key 'fiel' %(did you mean 'file'", { model = { fiel = "x" } })
  refuses("no file 'nothing.bin'", { model = { file = "nothing" } })
  refuses("needs arm", { model = { experiment = "denominator" } })
  refuses("unknown arm 'softmaxx' %(did you mean 'softmax'", { model = { experiment = "denominator", arm = "softmaxx", seed = 1 } })
  refuses("has no seed 77", { model = { experiment = "denominator", arm = "softmax", seed = 77 } })
  refuses("unknown experiment .no_such.", { model = { experiment = "no_such", arm = "softmax", seed = 1 } })
  refuses("context: the model's is 512, got 600", { context = 600 })
  refuses("orders: whole numbers", { orders = { 0.5 } })
  refuses("are all empty", { norms = {} })
  refuses("others: entry 1", { others = { { output_norm = "l2" } } })
  refuses("two replacements have the name 'norm l2'", { others = { { name = "norm l2", output_norm = "rms" } } })
  refuses("calibrate: true and false expected", { calibrate = { "no" } })
  refuses("'orders': table expected", { orders = 3 })
  refuses("unknown text", { data = "shakespear" })
  refuses("did you mean 'denominators'", { denominator = { "none" } })
end)

T.test("the grid: every swap, layer by layer and at once, raw and calibrated", function()
  local s = lab.study(spec { layers = "each", orders = { 2, 4 }, denominators = { "none", { stat = "sum", power = 0.5 } },
                             others = { { name = "both", denominator = "none", output_norm = "l2" } } })
  local list = s:plan { root = "r" }
  T.eq(#list, 6 * 6 * 2)
  T.eq(list[1].case.swap, { name = "series to order 2", options = {
    similarity = "taylor", order = 2, orders = "all", coefficients = "factorial" } })
  T.eq({ list[1].case.layer, list[1].case.calibrated, list[1].case.prompt }, { 1, false, nil })
  T.eq({ list[12].case.layer, list[12].case.calibrated, list[12].case.prompt }, { "all", true, "Once" })
  T.eq(list[37].case.swap.name, "denominator power=0.5 stat=sum")
  T.eq(list[72].case.swap, { name = "both", options = { denominator = "none", output_norm = "l2" } })
end)

T.test("a text of its own: windows begin at the start token, other seeds write other texts", function()
  local m = subject.load(STORIES)
  local set = subject.own_text(m, 3, 20, 5)
  local rows = {}
  for x, y in set:even("valid", 2, 20, 3) do
    local ids, targets = x:totable(), y:totable()
    for b = 1, #ids do
      rows[#rows + 1] = ids[b]
      T.eq(ids[b][1], 1)
      T.eq(table.move(targets[b], 1, 19, 1, {}), table.move(ids[b], 2, 20, 1, {}))
    end
  end
  T.eq(#rows, 3)
  T.ok(table.concat(rows[1], ",") ~= table.concat(rows[2], ","))
  T.eq(subject.own_text(m, 3, 20, 5).tokens, set.tokens)
  T.ok(table.concat(subject.own_text(m, 3, 20, 6).tokens:flat(), ",") ~= table.concat(set.tokens:flat(), ","))
  -- likely for the model that wrote it: its loss is its entropy, far below that of an even guess
  T.ok(lab.evalset { data = set, windows = 3, context = 20 }(m) < 3)
end)

T.test("measured as by hand, kept, and written out", function()
  local root = T.folder()
  local s = lab.study(spec({ denominators = { "none" } }, { expect = { { swap = "norm l2", calibrated_better = true },
    { swap = "norm l2", below = -1 }, { swap = "norm l3", below = 1 }, { kl_falls = 2 } } }))
  local list = s:plan { root = root }
  T.eq(s:work(list, { root = root, quiet = true }), "done")
  local function result(i) return json.decode(sys.read(list[i].dir .. "/result.json")) end

  local m = subject.load(STORIES)
  local ev = lab.evalset { data = subject.own_text(m, 4, 24, 3), windows = 4, context = 24 }
  local raw, calibrated = m:fork(), m:fork()
  raw.layer["*"]:set { output_norm = "l2" }
  calibrated.layer["*"]:set { output_norm = "l2" }
  calibrated:calibrate { data = subject.own_text(m, 4, 24, 1000006), context = 24, batches = 1 }
  for i, fork in pairs { [3] = raw, [4] = calibrated } do
    T.eq(list[i].case.calibrated, i == 4)
    local d, r = ev:diff(fork, m), result(i)
    T.near({ r.mean, r.lo, r.hi, r.kl, r.kl_se }, { d.mean, d.lo, d.hi, d.kl, d.kl_se }, 1e-12)
    T.eq(r.text, (fork:generate { prompt = "Once", tokens = 5 }))
    T.eq(r.original_text, (m:generate { prompt = "Once", tokens = 5 }))
    T.ok(r.kl > 0)
  end
  local other = result(3)
  other.mean, other.made.sha256 = 7, nil
  other.made.sha256 = sys.sha256(json.encode(other))
  sys.write(list[3].dir .. "/result.json", json.encode(other))
  T.eq(s:work(s:plan { root = root }, { root = root, quiet = true }), "done")
  T.eq(result(3).mean, 7) -- not done again
  local out = s:outcome(list, root)
  local text, judged = out.text, out.judged
  s:write(out, root .. "/cut")
  T.ok(text:find("stories260K  denominator none  raw", 1, true), text)
  T.eq(#judged, 4)
  T.eq({ judged[2].outcome, judged[3].outcome, judged[4].outcome }, { "REFUTED", "not shown", "not shown" })
  local report = sys.read(root .. "/cut/report.md")
  T.ok(report:find("### norm l2 in all layers, calibrated", 1, true) and report:find("    Once", 1, true))
end)

T.test("a model file that was trained again is planned and measured anew, in one process", function()
  local root, file = T.folder(), T.folder() .. "/m.safetensors"
  local text = lab.data.open "shakespeare"
  local function result(seed)
    local m = lab.model.new { layers = 1, width = 8, heads = 2, mlp = 8, context = 24, vocabulary = text.vocabulary, seed = seed }:eval()
    m:save(file)
    local s = lab.study(spec { model = { path = file }, data = "shakespeare", calibrate = { false }, prompt = false })
    local list = s:plan { root = root }
    T.eq(s:work(list, { root = root, quiet = true }), "done")
    local r = json.decode(sys.read(list[1].dir .. "/result.json"))
    T.near(r.original_loss, lab.evalset { data = text, windows = 4, context = 24 }(m), 1e-12)
    T.eq(r.weights, sys.sha256(sys.read(file)))
  end
  result(1)
  result(2)
end)

T.test("what cannot be measured is a row that says so", function()
  local root = T.folder()
  local s = lab.study(spec { norms = {}, others = { { name = "huge", logit_scale = 1e6, denominator = "none" } },
                             calibrate = { false, true } })
  local list = s:plan { root = root }
  T.eq(s:work(list, { root = root, quiet = true }), "done")
  for _, item in ipairs(list) do T.ok(json.decode(sys.read(item.dir .. "/result.json")).failed:find "not finite") end
  T.ok(s:outcome(list, root).text:find "not finite")
end)

T.test("an arm that is missing is trained into its experiment's own folder", function()
  local home = T.folder()
  sys.mkdir(home .. "/experiments/data")
  T.numbers(900, home .. "/experiments/data/numbers.txt")
  sys.write(home .. "/experiments/small.lua", [[
return require("attnlab").experiment { name = "small", seeds = { 1, 2 }, arms = { { name = "softmax" },
    { name = "L2", ["attention.output_norm"] = "l2" } },
  base = { layers = 1, width = 16, heads = 2, mlp = 32, context = 16, batch_size = 4, steps = 12, warmup_steps = 2,
           data = "numbers", eval_interval = 6, eval_windows = 8, checkpoint_interval = 6 } }
]])
  sys.write(home .. "/experiments/cut.lua", [[
return require("attnlab").study { name = "cut", kind = "surgery", seeds = { 1 }, cases = {
  { model = { experiment = "small", arm = "softmax", seed = 2 }, data = "numbers", windows = 3, norms = { "l2" } } } }
]])
  local env, out = { ATTNLAB_HOME = home }, "out_dir=" .. home .. "/runs"
  local code, said = tiny.run({ "run", home .. "/experiments/cut.lua", out }, env)
  T.eq(code, 0)
  T.ok(said:find "not trained yet" and said:find "norm l2", said)
  local made = {}
  for _, id in ipairs(sys.list(home .. "/runs/small")) do made[id] = sys.read(home .. "/runs/small/" .. id .. "/metrics.jsonl") end
  code, said = tiny.run({ "run", home .. "/experiments/small.lua", out }, env)
  T.eq(code, 0)
  T.ok(said:find "3 of 4 runs to do" and not said:find "stale %(", said)
  for id, text in pairs(made) do T.eq(sys.read(home .. "/runs/small/" .. id .. "/metrics.jsonl"), text) end
  code, said = tiny.run({ "run", home .. "/experiments/cut.lua", out }, env)
  T.ok(code == 0 and said:find "0 to do" and not said:find "not trained" and not said:find "stale:", said)
  for id in pairs(made) do -- other weights
    local from
    for _, other in ipairs(sys.list(home .. "/runs/small")) do
      local path = ("%s/runs/small/%s/checkpoint.safetensors"):format(home, other)
      if other ~= id and sys.exists(path) then from = path end
    end
    sys.write(("%s/runs/small/%s/checkpoint.safetensors"):format(home, id), sys.read(from))
  end
  code, said = tiny.run({ "plot", home .. "/experiments/cut.lua", out }, env)
  T.ok(code == 0 and said:find "stale: other sources or inputs", said)
end)
