-- Forks: what is shared and what is apart, changes of layers and heads, calibration, training, and the
-- way back. Evaluation sets: differences and KL against sums written out here.
local T = ...
local core = require "attnlab.core"
local lab = require "attnlab"
local stats = require "attnlab.stats"

local path = T.numbers(900)
local text = lab.data.open(path)

local function model(spec, more)
  local opts = { layers = 2, width = 16, heads = 4, kv_heads = 2, mlp = 24, context = 12, seed = 3,
                 attention = spec or "softmax", vocabulary = text.vocabulary }
  for k, v in pairs(more or {}) do opts[k] = v end
  return lab.model.new(opts)
end

local IDS = core.tensor { data = { { 1, 2, 3, 4, 5, 6, 7, 8 }, { 3, 2, 1, 0, 9, 8, 7, 6 } }, dtype = "i32" }
local TRAIN = { data = path, steps = 4, batch_size = 4, warmup_steps = 1, eval_windows = 4, eval_interval = 0,
                lr = 3e-3, quiet = true }

local function copy_of(t, more)
  local out = {}
  for k, v in pairs(t) do out[k] = v end
  for k, v in pairs(more or {}) do out[k] = v end
  return out
end

local function logits(m)
  return m:forward(IDS):flat()
end

local function values(m)
  local out = {}
  for name, t in pairs(m:tensors()) do out[name] = t:flat() end
  return out
end

local function settle()
  collectgarbage()
  collectgarbage()
  return lab.memory().live
end

-- ---- sharing ----------------------------------------------------------------------------------------

T.test("a fork costs no memory until it is written, then what was written", function()
  local m = model("p1/gated_softmax", { width = 64, mlp = 128 })
  local before = settle()
  local s = m:fork()
  T.eq(settle() - before, 0)
  T.eq(logits(s), logits(m))
  local bytes = 4 * m.layers[1].mlp.up_proj.weight:numel()
  local want = values(m)
  before = settle()
  s.layers[1].mlp.up_proj.weight:fill(1)
  T.eq(settle() - before, bytes)
  T.eq(values(m), want)
  T.eq(s.layers[1].mlp.up_proj.weight:flat()[5], 1.0)
end)

local WRITERS = {
  train = function(m) lab.train(m, copy_of(TRAIN)) end,
  load = function(m)
    local other = {}
    for name, t in pairs(model(m.spec, { seed = 9 }):tensors()) do other[name] = t end
    m:load_parameters(other, "test")
  end,
  optimiser = function(m)
    local o = lab.optim.sgd { m:parameters(), lr = 0.1 }
    m:loss(IDS, IDS):backward()
    o:step()
  end,
  fill = function(m)
    for _, t in pairs(m:parameters()) do t:fill_normal(1, "x", 0, 1) end
  end,
}

T.test("writing either side never changes the other", function()
  for name, write in pairs(WRITERS) do
    for _, spec in ipairs { "softmax", "p1/gated_softmax" } do
      for side = 1, 2 do
        local m = model(spec)
        local s = m:fork()
        local written, other = m, s
        if side == 2 then written, other = s, m end
        local want, was = values(other), logits(other)
        write(written)
        T.eq(values(other), want)
        T.eq(logits(other), was)
        T.ok(logits(written)[1] ~= was[1], name)
      end
    end
  end
  local m = model()
  local s = m:fork()
  s:tune(TRAIN)
  T.eq(logits(m), logits(s.original))
  T.ok(logits(s)[1] ~= logits(m)[1])
end)

T.test("an optimiser at work on the original leaves forks alone, gradients are apart", function()
  local m = model()
  local r = lab.train(m, copy_of(TRAIN))
  local s = m:fork()
  local want = logits(s)
  r:cont(3)
  T.eq(logits(s), want)
  T.ok(logits(m)[1] ~= want[1])
  s:zero_grad()
  m:loss(IDS, IDS):backward()
  for _, t in pairs(s:parameters()) do T.eq(t:grad(), nil) end
end)

T.test("a fork of a fork stands on its own", function()
  local m = model()
  local s = m:fork()
  s.layer[1]:set { output_norm = "l2" }
  local f = s:fork()
  T.eq(logits(f), logits(s))
  T.eq(#f:swaps(), 0)
  f.layer[2]:set { denominator = "length" }
  s:undo()
  T.eq(logits(s), logits(m))
  f:undo()
  T.ok(logits(f)[1] ~= logits(m)[1])
  T.eq(tostring(f.layer[1]), "layer 1: output_norm=l2 preset=softmax")
end)

-- ---- changes ----------------------------------------------------------------------------------------

T.test("a changed layer is the layer made with those options and the same weights", function()
  for _, case in ipairs {
    { { output_norm = "l2" } }, { { denominator = { stat = "length", power = 0.5 } } },
    { { similarity = "taylor", order = 3 } }, { { rope = "none" } }, { { conv = 2, qk_norm = true } },
    { { output_gate = "sigmoid", output_norm = "rms" } }, { { preset = "p2/cottention" } },
    { { preset = "p3/2mamba" } } } do
    local m = model()
    local s = m:fork()
    s.layer[2]:set(case[1])
    local spec = copy_of(case[1])
    spec.preset = spec.preset or "softmax"
    local made = model { ["1"] = "softmax", ["2"] = spec }
    local want, got = values(made), values(s) -- new parameters are initialised by name
    T.eq(got, want)
    T.eq(logits(s), logits(made))
    s:undo()
    T.eq(logits(s), logits(m))
    T.eq(values(s), values(m))
    T.eq(s.spec["2"], { preset = "softmax" })
  end
end)

T.test("options add up, a scalar replaces a record, another preset keeps the positions", function()
  local s = model({ preset = "softmax", rope = "interleaved" }):fork()
  s.layer[1]:set { denominator = { floor = 1 } }
  s.layer[1]:set { denominator = { power = 0.5 }, output_norm = "l2" }
  T.eq(s.spec["1"], { preset = "softmax", rope = "interleaved", denominator = { floor = 1, power = 0.5 },
                      output_norm = "l2" })
  s.layer[1]:set { denominator = "none" }
  T.eq(s.spec["1"].denominator, "none")
  s.layer[1]:set { preset = "p1/linear_elu" }
  T.eq(s.spec["1"], { preset = "p1/linear_elu", rope = "interleaved" })
  s.layer[1]:set { preset = "p3/squared" }
  T.eq(s.layers[1].attention.layer.rope, "none")
end)

T.test("what is refused leaves the model as it was, bit for bit", function()
  local s = model("p1/gated_softmax"):fork()
  s.layer[1]:set { output_norm = "l2" }
  local was, all, listed = logits(s), values(s), tostring(s)
  for _, case in ipairs {
    { function() s.layer[1]:set { output_nrom = "l2" } end, "layer 1: .*unknown option 'output_nrom' %(did you mean 'output_norm'" },
    { function() s.layer[1]:set { bias = true } end, "'bias': changes the projections" },
    { function() s.layer[1]:set { denominator = { side = "value", stat = "sum" } } end, "side=value needs" },
    { function() s.layer["*"]:set { preset = "softmax", rope_dims = 3 } end, "rope_dims" },
    { function() s.layer[2]:set { preset = "nonsense" } end, "nonsense" },
    { function() s.layer[1]:set {} end, "a table of options expected" },
    { function() s.layer[3]:set { output_norm = "l2" } end, "layer: a number in 1%.%.2" },
    { function() return s.layer[1].head[5] end, "head: a number in 1%.%.4" },
    { function() s.layer[1].head[2]:set { rope = "none" } end, "option 'rope' is the layer's" },
    { function() s.layer[1].head[2]:set { output_norm = { kind = "l2", scope = "joint" } } end, "depends on the others" },
    { function() s.layer[1].head[3]:set { decay = "constant" } end, "layer 1 head 3: .*its place" },
    { function() s.layer[2].head[2]:set { input_gate = { per = "channel" } } end, "'input_gate.bias' would have the shape" },
    { function() s:calibrate { match = "mean" } end, "'rms' expected" },
    { function() s:calibrate { bacthes = 2 } end, "unknown option 'bacthes'" },
    { function() s:calibrate { layer = 7, data = text } end, "layer: a number" },
    { function() s:tune { steps = -1, data = path } end, "steps" },
    { function() s:undo(2) end, "undo: a number in 1%.%.1" },
    { function() s:fork():undo() end, "undo: there are no changes" },
    { function() s:calibrate { batches = 0 } end, "'batches': integer >= 1 expected, got 0" },
    { function() s:calibrate { batch = 1.5 } end, "'batch': integer >= 1 expected, got 1.5" },
    { function() s:undo "tune" end, "not tuned" } } do
    T.raises(case[1], case[2])
    T.eq(logits(s), was)
    T.eq(values(s), all)
    T.eq(tostring(s), listed)
  end
  -- one layer of several that cannot: none is changed
  local two = model { ["1"] = { preset = "softmax" }, ["2"] = { preset = "p1/softmax_clamp_denom" } }
  local f = two:fork()
  T.raises(function() f.layer["*"]:set { denominator = "none" } end, "layer 2: .*no effect")
  T.eq(logits(f), logits(two))
  T.eq(#f:swaps(), 0)
end)

-- ---- heads ------------------------------------------------------------------------------------------

-- The layer's output for x with the outputs (B,T,H,E) of its heads put together by hand.
local function by_hand(layer, x, outputs)
  local o = core.op.concat(outputs, { axis = 3 })
  return layer.o_proj(o:reshape { shape = { x:size(1), x:size(2), 16 } })
end

T.test("a head's own options against heads put together by hand", function()
  local x = lab.randn { shape = { 2, 8, 16 }, seed = 9, stream = "x", dtype = "f64" }
  for _, base in ipairs { { preset = "softmax" }, { output_gate = "sigmoid", decay = "learned" } } do
    for _, own in ipairs { { output_gate = 0 }, { output_norm = "l2" }, { preset = "p1/linear_cosine" },
                           { similarity = "taylor", order = 2, coefficients = "learned" } } do
      local m = model(base, { dtype = "f64" })
      local s = m:fork()
      s.layer[1].head[3]:set(own)
      -- all heads with those options, and the layer's own weights where both have them
      local whole = m:fork()
      whole.layer[1]:set(own)
      local plain, changed = m.layers[1].attention:outputs(x, {}), whole.layers[1].attention:outputs(x, {})
      local parts = {}
      for h = 1, 4 do parts[h] = (h == 3 and changed or plain)[{ {}, {}, { h, h } }] end
      T.near(s.layers[1].attention(x), by_hand(m.layers[1].attention, x, parts), 1e-12)
      s:undo()
      T.eq(s.layers[1].attention(x):flat(), m.layers[1].attention(x):flat())
    end
  end
end)

T.test("a silent head is one whose rows of the output projection are 0", function()
  local m = model()
  local s = m:fork()
  s.layer[1].head[3]:set { output_gate = 0 }
  local cut = m:fork()
  local w = cut.layers[1].attention.o_proj.weight
  local rows = w:totable()
  for _, row in ipairs(rows) do
    for c = 9, 12 do row[c] = 0 end
  end
  w:copy_(rows)
  T.near(s:forward(IDS), cut:forward(IDS), 1e-5)
end)

T.test("parameters of a head are its rows of the layer's, in training too", function()
  local m = model { output_gate = "sigmoid" }
  local s = m:fork()
  s.layer[1].head[2]:set { output_norm = "l2" }
  T.eq(values(s), values(m)) -- nothing new, nothing gone
  s:loss(IDS, IDS):backward()
  local g = s.layers[1].attention.family:parameters()["output_gate.weight"]:grad()
  T.eq(g:shape(), { 4, 16 })
  for h = 1, 4 do T.ok(g[{ h }]:abs():sum():item() > 0) end
  s.layer[1].head[2]:set { output_gate = "none" }
  s:zero_grad()
  s:loss(IDS, IDS):backward()
  g = s.layers[1].attention.family:parameters()["output_gate.weight"]:grad()
  T.eq(g[{ 2 }]:abs():sum():item(), 0.0)
  T.ok(g[{ 3 }]:abs():sum():item() > 0)
end)

T.test("a layer with heads of its own goes from state to state", function()
  local s = model("softmax", { dtype = "f64" }):fork()
  s.layer[1].head[2]:set { preset = "p1/linear_elu" }
  local st, y = s:state { batch = 2 }, nil
  local whole, out = s:forward(IDS), {}
  for t = 0, 7 do
    y, st = s:step(IDS:slice { axis = 2, start = t, stop = t + 1 }, st)
    out[#out + 1] = y
  end
  T.near(core.op.concat(out, { axis = 2 }), whole, 1e-12)
  T.ok(st:components()[1].name:find "heads 1,3,4")
end)

-- ---- calibration, training, the list ------------------------------------------------------------------

-- rms of each head's output over windows of the text, for the input that the original gives the layer.
local function rms(m, a, layer)
  local sums = {}
  m:eval()
  for x in text:even("train", 4, 12, text:windows("train", 12, 8)) do
    m:hidden(x, { taps = { [layer] = { x = function(input)
      for h, v in ipairs(a:outputs(input, {}):square():sum { axes = { 1, 2, 4 } }:flat()) do
        sums[h] = (sums[h] or 0) + v
      end
    end } } })
  end
  for h, v in ipairs(sums) do sums[h] = math.sqrt(v) end
  return sums
end

T.test("calibrated heads have the original's rms, and are saved and undone", function()
  local m = model()
  local s = m:fork()
  s.layer[2]:set { denominator = "length", logit_clamp = 5 }
  s.layer[2].head[1]:set { output_gate = 0 }
  local before = logits(s)
  local want, raw = rms(m, m.layers[2].attention, 2), rms(m, s.layers[2].attention, 2)
  s:calibrate { data = text, batches = 2, batch = 4 }
  local got = rms(m, s.layers[2].attention, 2)
  for h = 2, 4 do
    T.near(got[h] / want[h], 1, 1e-5)
    T.ok(math.abs(raw[h] / want[h] - 1) > 1e-3)
  end
  T.eq(got[1], 0.0)
  T.eq(#s:parameters(), #m:parameters()) -- constants, not parameters
  local file = T.folder() .. "/fork.safetensors"
  s:save(file)
  T.eq(logits(lab.model.load(file)), logits(s))
  s:calibrate { layer = 2, data = text, batches = 2, batch = 4 } -- from the raw output, not on top
  T.near(rms(m, s.layers[2].attention, 2), got, 1e-5)
  s:undo(2)
  T.eq(logits(s), before)
  T.eq(s.spec["2"].calibrated, nil)
end)

T.test("undo takes back all or the training alone", function()
  local m = model()
  local s = m:fork()
  s.layer[1]:set { output_gate = "sigmoid" }
  local swapped = logits(s)
  s:tune(TRAIN)
  local tuned = logits(s)
  s.layer[2]:set { output_norm = "l2" }
  s:undo()
  T.eq(logits(s), tuned)
  s.layer[2]:set { output_norm = "l2" }
  s:undo "tune"
  T.eq(#s:swaps(), 2)
  s:undo()
  T.eq(logits(s), swapped)
  s:undo()
  T.eq(logits(s), logits(m))
  local before = settle()
  T.eq(values(s), values(m))
  T.ok(before > 0)
end)

T.test("training goes on with the moments of what stayed", function()
  local s = model("p1/gated_softmax"):fork()
  local r = s:tune(TRAIN)
  local function moments()
    local out = {}
    for name, t in pairs(r.trainer.optimiser:state()) do out[name] = t:flat() end
    return out
  end
  local was = moments()
  s.layer[1]:set { output_norm = "l2", decay = "gated" } -- its gain and bias go, a decay comes
  r.trainer:follow()
  local now = moments()
  T.eq(r.trainer.optimiser:steps(), 4)
  for name, v in pairs(now) do
    if name:find "decay.weight" then
      for _, x in ipairs(v) do T.eq(x, 0.0) end
    else
      T.eq(v, was[name])
    end
  end
  T.ok(was["m.model.layers.0.self_attn.attnlab.output_norm.gain"])
  T.eq(now["m.model.layers.0.self_attn.attnlab.output_norm.gain"], nil)
  local decay = s.layers[1].attention.family:parameters()["decay.weight"]:flat()
  r:cont(2)
  T.eq(r.step, 6)
  T.ok(s.layers[1].attention.family:parameters()["decay.weight"]:flat()[1] ~= decay[1])
  s:undo()
  r:cont(1)
  s:undo()
  T.eq(logits(s), logits(s.original))
end)

T.test("the list says what was done and what it came to", function()
  local m = model()
  local s = m:fork()
  local ev = lab.evalset { data = text, windows = 6 }
  local first = ev(s)
  s.layer[1]:set { output_norm = "l2" }
  s.layer[2].head[3]:set { output_gate = 0 }
  local loss, d = ev(s), ev:diff(s, m)
  ev:diff(s, model()) -- not the original: not noted
  local list = s:swaps()
  T.eq({ list[1].n, list[1].kind, list[1].layer, list[1].head, list[1].change, list[1].loss },
    { 1, "set", 1, nil, "output_norm=l2", nil })
  T.eq({ list[2].layer, list[2].head, list[2].change, list[2].loss }, { 2, 3, "output_gate=0", loss })
  T.eq(list[2].difference, { mean = d.mean, lo = d.lo, hi = d.hi, kl = d.kl })
  T.near(d.mean, loss - first, 1e-6)
  for line in tostring(list):gmatch "[^\n]+" do T.ok(utf8.len(line) <= 80, line) end
  core.sys.setenv("COLUMNS", "120")
  local shown = tostring(s)
  core.sys.setenv("COLUMNS", nil)
  T.ok(shown:find("fork of a Llama, 2 layers", 1, true) and shown:find("output_norm=l2", 1, true))
  T.ok(shown:find(("%.4f"):format(loss), 1, true) and shown:find(("%+.4f"):format(d.mean), 1, true))
  T.eq(tostring(s:undo(2):swaps()), "no changes")
end)

T.test("a training that goes on is the list's entry, longer", function()
  local m = model "softmax"
  local s, ev = m:fork(), lab.evalset { data = path, windows = 4 }
  s.layer[1]:set { output_norm = "l2" }
  local r = s:tune(TRAIN)
  ev:diff(s, m)
  T.ok(s:swaps()[2].change:find "^4 steps, lr" and s:swaps()[2].difference)
  s.layer[2]:set { output_norm = "rms" }
  ev(s)
  T.ok(s:swaps()[3].loss)
  local before = logits(s)
  r:cont(3)
  T.ok(logits(s)[1] ~= before[1])
  local list = s:swaps()
  T.ok(#list == 3 and list[2].change:find "^7 steps, lr", list[2].change)
  T.ok(tostring(list):find("7 steps", 1, true) and not tostring(list):find("4 steps", 1, true))
  for i = 2, 3 do T.ok(not list[i].loss and not list[i].difference, "a measure of other weights is struck") end
  local later = s:tune(TRAIN)
  T.raises(function() r:cont(1) end, "trained again since")
  T.ok(s:swaps()[2].change:find "^7 steps")
  later:cont(1)
  T.ok(s:swaps()[4].change:find "^5 steps")
  ev(s)
  s.layer[2]:set { output_gate = 0.5 }
  ev(s)
  s:undo "tune"
  T.ok(#s:swaps() == 4 and not s:swaps()[4].loss)
  s:undo()
  T.raises(function() later:cont(1) end, "undone")
  r:cont(1)
  T.ok(#s:swaps() == 3 and s:swaps()[2].change:find "^8 steps")
  s:undo(3)
  T.eq(logits(s), logits(m))
end)

T.test("a difference is that of the pairs, KL is that of the distributions", function()
  local m = model("softmax", { dtype = "f64" })
  local s = m:fork()
  local ev = lab.evalset { data = text, windows = 5 }
  T.raises(function() ev() end, "loss: a model expected, got nil")
  T.raises(function() ev:diff(m) end, "diff: the second: a model expected, got nil")
  T.raises(function() ev:diff(m, lab.model.load(T.root .. "experiments/models/stories260K.bin")) end,
    "models of one vocabulary expected, got %d+ and 512 tokens")
  local same = ev:diff(s, m)
  T.eq({ same.mean, same.se, same.lo, same.hi, same.kl, same.kl_se, same.n }, { 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 5 })
  s.layer[1]:set { denominator = "length" }
  local d = ev:diff(s, m)
  local _, _, a = ev(s)
  local _, _, b = ev(m)
  local pairs_ = {}
  for i, v in ipairs(a) do pairs_[i] = v - b[i] end
  T.near(d.values, pairs_, 1e-12)
  local half = stats.t_quantile(0.975, 4) * stats.deviation(pairs_) / math.sqrt(5)
  T.near({ d.mean, d.lo, d.hi }, { stats.mean(pairs_), stats.mean(pairs_) - half, stats.mean(pairs_) + half }, 1e-12)
  local kl, n = {}, 0
  for x in text:even("valid", 1, 12, 5) do
    local p, q = m:forward(x):softmax():totable()[1], s:forward(x):softmax():totable()[1]
    n = n + 1
    kl[n] = 0
    for t = 1, 12 do
      for v, y in ipairs(p[t]) do kl[n] = kl[n] + y * math.log(y / q[t][v]) / 12 end
    end
  end
  T.near({ d.kl, d.kl_se }, { stats.mean(kl), stats.deviation(kl) / math.sqrt(5) }, 1e-10)
  T.ok(d.kl > 0)
end)
