-- lab.experiment: checks to the last key, expansion of arms and vary; what expectations come to.
local T = ...
local lab = require "attnlab"
local expect = require "attnlab.expect"

local function spec(changes)
  local s = { name = "t", arms = { { name = "softmax" }, { name = "length", ["attention.denominator"] = "length" } }, seeds = { 1, 2 } }
  for k, v in pairs(changes or {}) do s[k] = v or nil end
  return s
end

local function refused(changes, pattern)
  T.raises(function() lab.experiment(spec(changes)) end, pattern)
end

T.test("arms become resolved configurations", function()
  local e = lab.experiment(spec { base = { model = { width = 64 }, steps = 7 }, quick = { steps = 3, seeds = { 9 } } })
  local plan = e:plan {}
  T.eq(plan.seeds, { 1, 2 })
  T.eq(plan.arms[1].config.model.width, 64)
  T.eq(plan.arms[1].config.train.steps, 7)
  T.eq(plan.arms[1].config.attention.preset, "softmax")
  T.eq(plan.arms[2].config.attention.denominator, "length")
  local quick = e:plan { quick = true, set = { { "model.layers", "3" } } }
  T.eq(quick.seeds, { 9 })
  T.eq(quick.arms[2].config.train.steps, 3)
  T.eq(quick.arms[2].config.model.layers, 3)
  T.eq(e:plan({ seeds = { 5 } }).seeds, { 5 })
end)

T.test("vary, one factor at a time", function()
  local e = lab.experiment(spec { arms = false, vary = { ["attention.denominator"] = { "sum", "length" },
    ["attention.output_norm"] = { "none", "l2", "rms" } } })
  local names = {}
  for i, a in ipairs(e.arms) do names[i] = a.name end
  T.eq(names, { "reference", "denominator=length", "output_norm=l2", "output_norm=rms" })
  T.eq(e:plan({}).arms[2].config.attention.output_norm, "none")
end)

T.test("vary, factorial", function()
  local e = lab.experiment(spec { arms = false, design = "factorial", vary = { ["attention.denominator"] = { "sum", "length" },
    ["attention.output_norm"] = { "none", "l2" } } })
  local names = {}
  for i, a in ipairs(e.arms) do names[i] = a.name end
  T.eq(names, { "denominator=sum, output_norm=none", "denominator=sum, output_norm=l2",
                "denominator=length, output_norm=none", "denominator=length, output_norm=l2" })
end)

T.test("faults are named, with the nearest name", function()
  refused({ name = "a/b" }, "name: letters")
  refused({ sedes = { 1 } }, "unknown key 'sedes' %(did you mean 'seeds'%?%)")
  refused({ seeds = {} }, "seeds: a list")
  refused({ seeds = { 1, 1 } }, "1 is there twice")
  refused({ seeds = { 1.5 } }, "whole number")
  refused({ arms = {} }, "there is none")
  refused({ arms = { { } } }, "arm 1")
  refused({ arms = { { name = "a" }, { name = "a", steps = 3 } } }, "two arms are called 'a'")
  refused({ arms = { { name = "a" }, { name = "b" } } }, "same configuration")
  refused({ arms = { { name = "a", ["attention.denominatr"] = "none" } } }, "arm 'a': .*denominator")
  refused({ arms = { { name = "a", ["attention.denominator"] = "lenght" } } }, "arm 'a': .*length")
  refused({ arms = { { name = "a", stepz = 3 } } }, "steps")
  refused({ vary = { steps = { 1, 2 } } }, "either arms or vary")
  refused({ arms = false, vary = { steps = { 1 } } }, "at least two values")
  refused({ design = "factorial" }, "design belongs to vary")
  refused({ plot = { metrik = "x" } }, "did you mean 'metric'")
  refused({ margin = "x" }, "margin: number expected")
  refused({ margin = -1 }, "margin: a number >= 0")
  T.raises(function() lab.experiment "x" end, "table expected")
end)

T.test("expectations are checked before anything runs", function()
  refused({ expect = { { arm = "lenght", versus = "softmax", worse = true } } }, "did you mean 'length'")
  refused({ expect = { { arm = "length", worse = true } } }, "needs versus")
  refused({ expect = { { arm = "length", versus = "softmax" } } }, "exactly one of")
  refused({ expect = { { arm = "length", versus = "length", better = true } } }, "arm and versus are both")
  refused({ expect = { { arm = "length", versus = "softmax", worse = true, better = true } } }, "exactly one of")
  refused({ expect = { { arm = "length", value = 1 } } }, "within")
  refused({ expect = { { arm = "length", wors = true } } }, "did you mean 'worse'")
  refused({ expect = { { arm = "length", versus = "softmax", equal_within = "x" } } }, "number >= 0 expected, got 'x'")
end)

T.test("an expectation says one thing, and all of it is judged", function()
  local function fault(x, pattern)
    x.arm = "length"
    refused({ expect = { x } }, "expect: entry 1: " .. pattern)
  end
  fault({ versus = "softmax", worse = false }, "worse: true expected, got false")
  fault({ versus = "softmax", better = false }, "better: true expected, got false")
  fault({ versus = "softmax", better = "yes" }, "better: true expected, got 'yes'")
  fault({ diverges = "no" }, "diverges: true or false expected, got 'no'")
  fault({ diverges = true, versus = "softmax" }, "diverges takes no versus")
  fault({ versus = "softmax", worse = true, within = 1 }, "worse takes no within")
  fault({ value = 1, within = 1, shows = "falls" }, "value takes no shows")
  for _, v in ipairs { -1, 0 / 0, 1 / 0 } do
    fault({ versus = "softmax", equal_within = v }, "equal_within: a number >= 0 expected, got")
    fault({ value = 1, within = v }, "within: a number >= 0 expected, got")
    if v ~= -1 then fault({ value = v, within = 1 }, "value: a number expected, got") end
  end
  lab.experiment(spec { expect = { { arm = "length", diverges = false }, { arm = "length", value = -1, within = 0 } } })
end)

T.test("numbers that nothing can be judged or drawn by are refused before anything runs", function()
  refused({ margin = 1 / 0 }, "margin: a number >= 0 expected, got inf")
  refused({ margin = 0 / 0 }, "margin: a number >= 0 expected")
  refused({ plot = { by = 3 } }, "plot.by: the name of an axis expected, got 3")
  for _, at in ipairs { { "x", 0 / 0 }, { "x", 1 / 0 }, { "x", 1, 2 }, { "x" } } do
    refused({ arms = { { name = "a", at = at } } }, "arm 'a': at: {name of a line, number} expected")
  end
end)

T.test("a list is taken to its last entry, and nothing of it is passed over", function()
  local arm = { name = "b", lr = 0.1 }
  refused({ arms = { { name = "a" }, nil, arm } }, "arms: entry 2 is nil, but the list goes on")
  refused({ arms = { { name = "a" }, b = arm } }, "arms: a list expected, got the key 'b'")
  refused({ expect = { foo = {} } }, "expect: a list expected, got the key 'foo'")
  refused({ expect = { [0] = {} } }, "expect: a list expected, got the key 0")
  refused({ measure = { one = "series" } }, "measure: a list expected")
  refused({ plugins = { nil, "x.so" } }, "plugins: entry 1 is nil")
  refused({ seeds = { 1, nil, 3 } }, "seeds: entry 2 is nil")
  refused({ seeds = { nil, 3 } }, "seeds: entry 1 is nil")
  refused({ seeds = { 1, 2, x = 3 } }, "seeds: a list expected, got the key 'x'")
  refused({ seeds = { "1" } }, "whole number >= 0 expected, got '1'")
  refused({ quick = { seeds = { 1, nil, 3 } } }, "seeds: entry 2 is nil")
  refused({ arms = false, vary = { lr = { 0.1, nil, 0.2 } } }, "vary: 'lr': entry 2 is nil")
  refused({ arms = false, vary = { { 1, 2 } } }, "vary: key 1: names of options expected")
end)

T.test("keys that are no options are refused wherever they stand", function()
  refused({ base = { 2 } }, "key 1: names of options expected")
  refused({ base = { model = { 2 } } }, "model: key 1: names of options expected")
  refused({ arms = { { name = "a", [2] = 3 } } }, "key 2: names of options expected")
  refused({ base = { name = "x" } }, "unknown key 'name'")
  refused({ arms = { { name = "a", seeds = { 4 } } } }, "unknown key 'seeds'")
  refused({ quick = { name = "x" } }, "quick: .*unknown key 'name'")
  refused({ quick = { 3 } }, "quick: .*key 1: names of options expected")
end)

T.test("a key is given once, however it is written", function()
  refused({ base = { width = 8, ["model.width"] = 16 } }, "'model.width' and 'width' are the same key")
  refused({ base = { width = 8, model = { width = 24 } } }, "'width' in model and 'width' are the same key")
  refused({ arms = { { name = "a", lr = 1, train = { lr = 1 } } } }, "arm 'a': .*'lr' and 'lr' in train are the same key")
  local e = lab.experiment(spec { base = { layers = 2, width = 8, heads = 1 }, arms = { { name = "a", width = 16,
    attention = { "softmax", "p2/cottention" } } } })
  local c = e:plan({}).arms[1].config
  T.eq({ c.model.width, c.attention["2"].preset }, { 16, "p2/cottention" })
end)

T.test("texts for people steer no terminal", function()
  local texts = { title = "a\27b", question = "\7", source = "\xc2\x9bx\xff", story = "\27[31m\tred\nx\r", next = "\27[2J" }
  local e = lab.experiment(spec(texts))
  T.eq({ e.title, e.question, e.source, e.story, e.next },
    { "a\\x1bb", "\\x07", "\\xc2\\x9bx\\xff", "\\x1b[31m\tred\nx\\x0d", "\\x1b[2J" })
  refused({ arms = { { name = "\xc2\x9bx" } } }, "arm 1: a table with a name of one line")
end)

T.test("a file that raises no message is named", function()
  local path = T.folder() .. "/x.lua"
  for _, case in ipairs { { "error({})", "x.lua': raised a table" }, { "error()", "x.lua': raised nil" } } do
    require("attnlab.core").sys.write(path, case[1])
    T.raises(function() require("attnlab.experiment").load(path) end, case[2])
  end
end)

T.test("an unknown measure of the figure is refused before anything runs", function()
  refused({ plot = { metric = "valid/los" } }, "plot.metric: unknown measure 'valid/los' %(did you mean 'valid/loss'%?%)")
end)

local function arm(values, diverged, total)
  local finished = 0
  for _ in pairs(values) do finished = finished + 1 end
  local runs = {}
  for i = 1, total or 3 do runs[i] = {} end
  return { values = values, runs = runs, count = { finished = finished, diverged = diverged or 0 } }
end

local function outcomes(list, arms, seeds)
  local out = {}
  for i, r in ipairs(expect.judge(list, arms, seeds or { 1, 2, 3 })) do out[i] = r.outcome end
  return out
end

T.test("expectations: held, refuted, not shown", function()
  local arms = { a = arm { 2, 2.1, 2.05 }, same = arm { 2.0001, 2.1, 2.0502 }, worse = arm { 2.5, 2.61, 2.54 },
                 noisy = arm { 2.5, 1.6, 2.2 }, gone = arm({}, 3), half = arm({ 2 }, 2) }
  T.eq(outcomes({ { arm = "same", versus = "a", equal_within = 0.01 }, { arm = "worse", versus = "a", worse = true },
                  { arm = "worse", versus = "a", better = true }, { arm = "worse", versus = "a", equal_within = 0.01 },
                  { arm = "noisy", versus = "a", worse = true } }, arms),
       { "held", "held", "REFUTED", "REFUTED", "not shown" })
  T.eq(outcomes({ { arm = "gone", diverges = true }, { arm = "a", diverges = true }, { arm = "half", diverges = true },
                  { arm = "a", diverges = false } }, arms), { "held", "REFUTED", "REFUTED", "held" })
  T.eq(outcomes({ { arm = "a", value = 2.05, within = 0.01 }, { arm = "a", value = 2.5, within = 0.1 } }, arms),
    { "held", "REFUTED" })
end)

T.test("what is left of an arm is not the arm: nothing is judged by it but divergence itself", function()
  local left = { 1, 1.1 } -- far better than the reference, in the seeds that finished
  for _, case in ipairs { { arm(left, 1), "1 of 3 diverged" }, { arm({}, 3), "3 of 3 diverged" },
                          { arm(left), "1 of 3 not finished" }, { arm({ 1 }, 1), "1 of 3 diverged, 1 of 3 not finished" } } do
    local arms = { a = arm { 2, 2.1, 2.05 }, b = case[1] }
    arms.b.measured = { series = {} }
    for _, x in ipairs { { arm = "b", versus = "a", better = true }, { arm = "b", versus = "a", worse = true },
                         { arm = "a", versus = "b", worse = true }, { arm = "b", versus = "a", equal_within = 5 },
                         { arm = "b", value = 1, within = 1 }, { arm = "b", measure = "series", shows = "falls" } } do
      local r = expect.judge({ x }, arms, { 1, 2, 3 })[1]
      T.eq({ r.outcome, r.detail, r.low }, { "not judged", "b: " .. case[2] })
    end
  end
  T.eq(outcomes({ { arm = "b", diverges = true }, { arm = "b", diverges = false } }, { b = arm(left, 1) }), { "REFUTED", "REFUTED" })
end)

-- Intervals by scipy: mean -+ t.ppf(.975 or .95, 2) * sem of the differences.
T.test("what is written for people makes no other runs", function()
  local function dirs(more)
    local list = {}
    for i, run in ipairs((require("attnlab.runner").expand(lab.experiment(spec(more)):plan {}, { root = "runs" }))) do list[i] = run.dir end
    return list
  end
  local texts = { title = "a", question = "b", source = "c", story = "d", next = "e", margin = 0.5, plot = { by = "n" },
                  arms = { { name = "exp", at = { "x", 1 } }, { name = "L", at = { "y", 2 }, ["attention.denominator"] = "length" } } }
  T.eq(dirs(texts), dirs())
end)

T.test("one test, one interval: two-sided at 5 % with 95 %, equality with 90 %", function()
  local arms = { a = arm { 2, 2, 2 }, b = arm { 2.03, 2.05, 2.08 }, c = arm { 2.012, 2.03, 2.048 } }
  local function judged(x) return expect.judge({ x }, arms, { 1, 2, 3 })[1] end
  -- p = .067 two-sided, .033 one-sided: a one-sided test would hold it beside an interval that includes 0
  local r = judged { arm = "b", versus = "a", worse = true }
  T.eq({ r.outcome, r.level }, { "not shown", 0.95 })
  T.near({ r.difference, r.low, r.high }, { 0.05333333333, -0.00918276, 0.11584943 }, 1e-7)
  T.eq(r.detail, "+0.0533, 95 % interval [-0.0092, 0.1158]")
  T.eq(judged({ arm = "b", versus = "a", better = true }).outcome, "not shown")
  r = judged { arm = "c", versus = "a", equal_within = 0.061 }
  T.eq({ r.outcome, r.level }, { "held", 0.9 })
  T.near({ r.low, r.high }, { -0.00034538, 0.06034538 }, 1e-7)
  T.eq(r.detail, "+0.0300, 90 % interval [-0.0003, 0.0603]")
  T.eq(judged({ arm = "c", versus = "a", equal_within = 0.06 }).outcome, "not shown")
  T.eq(judged({ arm = "b", versus = "a", equal_within = 0.02 }).outcome, "not shown")
  arms.b = arm { 2.11, 2.12, 2.13 }
  T.eq(judged({ arm = "b", versus = "a", equal_within = 0.1 }).outcome, "REFUTED")
  T.eq(judged({ arm = "b", versus = "a", worse = true }).outcome, "held")
  T.eq(judged({ arm = "b", versus = "a", better = true }).outcome, "REFUTED")
  arms.b = arms.a
  T.eq(judged({ arm = "b", versus = "a", equal_within = 0.001 }).detail, "+0.0000, 90 % interval [0.0000, 0.0000]")
end)

T.test("an outcome never contradicts the interval beside it, as it is printed", function()
  local state = 7
  local function random()
    state = (state * 1103515245 + 12345) % 2147483648
    return state / 2147483648
  end
  local seen = {}
  for _ = 1, 400 do
    local scale, v = 10 ^ (-4 * random()), {}
    local shift, spread = scale * (random() - 0.5), scale * random() ^ 2
    for s = 1, 3 do v[s] = 2 + shift + spread * (random() - 0.5) end
    local arms = { a = arm { 2, 2, 2 }, b = arm(v) }
    for i, x in ipairs { { worse = true }, { better = true }, { equal_within = scale * random() } } do
      x.arm, x.versus = "b", "a"
      local r = expect.judge({ x }, arms, { 1, 2, 3 })[1]
      local lo, hi = r.detail:match "%[(%S+), (%S+)%]"
      lo, hi = tonumber(lo), tonumber(hi)
      local m = x.equal_within
      local held = i == 1 and lo > 0 or i == 2 and hi < 0 or i == 3 and lo > -m and hi < m
      local refuted = i == 1 and hi < 0 or i == 2 and lo > 0 or i == 3 and (lo > m or hi < -m)
      T.eq(r.outcome, held and "held" or refuted and "REFUTED" or "not shown")
      seen[i .. r.outcome] = true
    end
  end
  for i = 1, 3 do
    for _, o in ipairs { "held", "REFUTED", "not shown" } do T.ok(seen[i .. o], i .. o) end
  end
end)

T.test("expectations that came, changed or went after the runs say so", function()
  local worse, better = { arm = "b", versus = "a", worse = true }, { arm = "b", versus = "a", better = true }
  local other = { arm = "a", diverges = false }
  local function judged(list, made)
    local arms = { a = arm { 2, 2.1, 2.05 }, b = arm { 2.5, 2.61, 2.54 } }
    arms.b.made = made
    local out = {}
    for i, r in ipairs(expect.judge(list, arms, { 1, 2, 3 })) do out[i] = r.outcome .. (r.changed and ", changed" or "") end
    return out
  end
  local function run(...) return { list = { ... } } end
  local function was(x) return { arm = "another name", versus = x.versus, worse = x.worse, better = x.better } end
  T.eq(judged({ worse, other }, { run(was(worse)), run(was(worse)) }), { "held", "held" })
  T.eq(judged({ worse }, { run(was(worse)), run() }), { "held, changed" })
  T.eq(judged({ worse }, { run(was(better)) }), { "held, changed", "taken out, changed" })
  T.eq(judged({}, { run(was(better)), run(was(better)) }), { "taken out, changed" })
  T.eq(judged({ worse }, nil), { "held" })
  -- what stands in a folder may be anything
  T.eq(judged({ worse }, { { list = { was(worse), 3, {}, { measure = "x" }, { worse = true }, { value = "x" } } }, {}, { list = "x" } }),
    { "held, changed" })
  T.eq(expect.other_margins(0.1, { { made = { { margin = 0.1 }, { margin = 0.2 } } }, { made = { { margin = 0.2 }, {} } } }), "0.2, none")
  T.eq(expect.other_margins(0.1, { { made = { { margin = 0.1 } } } }), nil)
  T.eq(expect.other_margins(0.1, { { made = { { margin = {} } } } }), "none")
end)

T.test("arms are measured on the same windows and texts, or the file says that they are not", function()
  local dir = T.folder()
  local sys = require("attnlab.core").sys
  for i, text in ipairs { "abcd ", "abcd ", "abcde " } do sys.write(("%s/%d.txt"):format(dir, i), text:rep(200)) end
  local function arms(more) return { { name = "a", context = 8, data = dir .. "/1.txt" }, more } end
  local function plan(more, apart) return lab.experiment(spec { arms = arms(more), measured_apart = apart }):plan {} end
  -- other batches are no other yardstick, nor is the same text by another name
  T.eq(plan({ name = "b", context = 8, batch_size = 3, steps = 9, data = dir .. "/2.txt" }).apart, nil)
  local pattern = "arms 'a' %%(.*1.txt', 256 windows of 8 tokens%%) and 'b' %%(.*%s%%) are not measured on the same.*measured_apart"
  for _, case in ipairs { { { data = dir .. "/3.txt" }, "3.txt', 256 windows of 8 tokens" }, { { eval_windows = 7 }, "7 windows of 8 tokens" },
                          { { eval_context = 4 }, "256 windows of 4 tokens" } } do
    local b = { name = "b", context = 8, data = dir .. "/1.txt" }
    for k, v in pairs(case[1]) do b[k] = v end
    refused({ arms = arms(b) }, pattern:format(case[2]))
    local apart = plan(b, true).apart
    T.ok(apart[1]:find "256 windows of 8 tokens" and apart[2]:find(case[2], 1, true), apart[2])
  end
  refused({ measured_apart = "yes" }, "measured_apart: boolean expected")
  refused({ arms = { { name = "a" }, { name = "b", batch_size = 3 } }, plot = { metric = "train/loss" } }, "not measured on the same: take valid/loss")
end)

T.test("arms of different contexts share the longest one's windows", function()
  local function contexts(list)
    local arms, out = {}, {}
    for i, c in ipairs(list) do arms[i] = { name = "c" .. i, context = c[1], eval_context = c[2] } end
    for i, a in ipairs(lab.experiment(spec { arms = arms }):plan({}).arms) do out[i] = a.config.train.eval_context end
    return out
  end
  T.eq(contexts { { 16 }, { 64 }, { 32 } }, { 64, 64, 64 })
  T.eq(contexts { { 16 }, { 16, 16 } }, { 0, 16 })
  T.eq(contexts { { 16, 128 }, { 64, 128 } }, { 128, 128 })
  T.raises(function() contexts { { 16 }, { 64, 128 } } end, "not measured on the same")
end)

T.test("one seed shows nothing, but says where it points", function()
  local r = expect.judge({ { arm = "b", versus = "a", worse = true } }, { a = arm({ 2 }, 0, 1), b = arm({ 2.4 }, 0, 1) }, { 1 })
  T.eq(r[1].outcome, "not shown")
  T.ok(r[1].detail:find "points that way")
end)

T.test("a quick run has the arms of quick.arms, judges quick.expect, and is refused where a file has no quick", function()
  local three = { { name = "a" }, { name = "b", ["attention.denominator"] = "length" }, { name = "c", ["attention.denominator"] = "l2" } }
  local e = lab.experiment(spec { arms = three, expect = { { arm = "b", versus = "a", worse = true } },
    quick = { steps = 3, arms = { "c", "a" }, expect = { { arm = "c", versus = "a", better = true } } } })
  local whole, quick = e:plan {}, e:plan { quick = true, set = { { "lr", "0.001" } } }
  T.eq({ #whole.arms, #quick.arms, quick.arms[1].name, quick.arms[2].name }, { 3, 2, "a", "c" })
  T.eq(quick.arms[2].config.attention.denominator, "l2")
  T.eq({ whole.expect[1].arm, quick.expect[1].arm, #quick.arms[2].expect.list, #quick.arms[1].expect.list }, { "b", "c", 1, 0 })
  T.eq(quick.results, "t+lr=0.001+quick")
  T.eq(#lab.experiment(spec { expect = { { arm = "length", versus = "softmax", worse = true } }, quick = { steps = 3 } })
    :plan({ quick = true }).expect, 0)
  T.raises(function() lab.experiment(spec()):plan { quick = true } end, "experiment 't': %-%-quick: the file has no `quick`")
  refused({ quick = { arms = { "lenght" } } }, "quick: arms: unknown arm 'lenght' %(did you mean 'length'")
  refused({ quick = { arms = {} } }, "quick: arms: there is none")
  refused({ quick = { arms = "softmax" } }, "quick: arms: a list expected, got 'softmax'")
  refused({ quick = { arms = { "softmax", "softmax" } } }, "quick: arms: 'softmax' is there twice")
  refused({ quick = { arms = { "softmax" }, expect = { { arm = "length", versus = "softmax", worse = true } } } },
    "quick: expect: entry 1: unknown arm 'length'")
  refused({ quick = { expect = { { arm = "length" } } } }, "quick: expect: entry 1: arm and exactly one of")
end)
