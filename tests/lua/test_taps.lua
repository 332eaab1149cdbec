-- Taps: activations read, differentiated and replaced, by layers, models and forks, for every preset and family.
local T = ...
local core = require "attnlab.core"
local lab = require "attnlab"
local Attention = require "attnlab.nn.attention"
local taps = require "attnlab.nn.taps"

local path = T.numbers(900)
local text = lab.data.open(path)

local function model(spec, more)
  local opts = { layers = 2, width = 16, heads = 4, kv_heads = 2, mlp = 24, context = 12, seed = 3, dtype = "f64",
                 attention = spec or "softmax", vocabulary = text.vocabulary }
  for k, v in pairs(more or {}) do opts[k] = v end
  return lab.model.new(opts):eval()
end

local IDS, OTHER = { 1, 2, 3, 4, 5, 6, 7, 8 }, { 3, 2, 1, 0, 9, 8, 7, 6, 5 }

local function same(a, b, what)
  local x, y = a:flat(), b:flat()
  T.eq(#x, #y)
  for i = 1, #x do
    if x[i] ~= y[i] and (x[i] == x[i] or y[i] == y[i]) then error(("%s: %.17g at %d, %.17g expected"):format(what, x[i], i, y[i]), 2) end
  end
end

local function logits(m, opts) return core.no_grad(m.forward, m, { IDS }, opts) end

-- Logits where the tap is asked for and nothing is changed: the path that a patch of it takes.
local function looked_at(m, layer, name)
  return logits(m, { taps = { [layer] = { [name] = function() end } } })
end

-- ---- reading ------------------------------------------------------------------------------------------

T.test("what the taps give is what the layers compute", function()
  local m = model()
  local t = m:tap { ids = IDS, name = { "residual.1.pre", "residual.1.mid", "mlp.1", "residual.1.post", "residual.2.pre", "x",
                                        "out", "heads", "q", "k", "v", "q.raw" }, layer = 1 }
  local a = m.layers[1].attention
  same(t["residual.1.pre"], m.embedding(core.tensor { data = { IDS }, dtype = "i32" }), "pre")
  same(t.x, m.layers[1].input_norm(t["residual.1.pre"]), "x")
  T.near(t["residual.1.pre"] + t.out, t["residual.1.mid"], 1e-14)
  T.near(t["residual.1.mid"] + t["mlp.1"], t["residual.1.post"], 1e-14)
  same(t["residual.2.pre"], t["residual.1.post"], "from block to block")
  T.near(a.o_proj(t.heads:reshape { shape = { 1, 8, 16 } }), t.out, 1e-13)
  local q, k, v = a:inputs(t.x)
  same(t.q, q, "q")
  same(t.k, k, "k")
  same(t.v, v, "v")
  same(t["q.raw"], a:head_inputs(t.x, "q", 4), "q.raw")
  T.eq(m:tap { ids = IDS, name = "heads", layer = 1, head = 3 }:shape(), { 1, 8, 4 })
  same(m:tap { ids = IDS, name = "k", layer = 1, head = 3 }, t.k[{ {}, {}, 2 }], "the group of head 3")
  local all = m:tap { ids = IDS, name = "out", layer = "*" }
  same(all[1], t.out, "all layers")
  T.eq(#all, 2)
end)

T.test("the list names layers, shapes, families; parts of the formula that are absent are not in it", function()
  local m = model { ["1"] = "softmax", ["2"] = "p1/gated_softmax" }
  local found = {}
  for _, r in ipairs(m:taps()) do found[r.name] = r end
  T.eq(found.weights.layers, { 1, 2 })
  T.eq(found.weights.shape, "(B,H,T,S)")
  T.eq(found.weights.family, "kernel_attention")
  T.ok(found.weights.composed)
  T.eq(found.output_gate.layers, { 2 })
  T.eq(found.log_decay, nil)
  T.eq(found["residual.mid"].family, "block")
  for line in tostring(m:taps()):gmatch "[^\n]+" do T.ok(#line <= 80, line) end
  T.raises(function() m:tap { ids = IDS, name = "output_gate", layer = 1 } end, "layer 1: unknown tap 'output_gate'")
  T.raises(function() logits(m, { taps = { [3] = {} } }) end, "by layer, 1..2, expected, .* got layer 3")
  T.raises(function() logits(m, { taps = { heads = print } }) end, "by layer, 1..2, expected, .* got function")
  T.raises(function() logits(m, { taps = 3 }) end, "got number")
  T.raises(function() logits(m, { taps = { [1] = { haeds = print } } }) end, "no tap 'haeds'")
  T.raises(function() m:tap { ids = IDS, name = "wieghts", layer = 1 } end, "did you mean 'weights'")
  T.raises(function() m:tap { ids = IDS, name = "weights" } end, "layer: a number in 1..2")
  T.raises(function() m:tap { ids = IDS, name = "weights", layer = 1, head = 5 } end, "head: a number in 1..4 expected, got 5")
  T.raises(function() m:tap { ids = IDS, name = "mlp.1", head = 1 } end, "has no heads")
  T.raises(function() m:tap { ids = IDS, text = "1", name = "x", layer = 1 } end, "either text= or ids=")
  T.raises(function() m:tap { ids = IDS, nme = "x" } end, "did you mean 'name'")
  T.raises(function() m:tap { ids = IDS, layer = 1 } end, "tap: name: a tap or a list of taps expected, .* got nil")
  T.raises(function() m:tap { ids = IDS, layer = 1, name = {} } end, "tap: name: .* got none")
  T.raises(function() m:tap { ids = IDS, layer = 3, name = "x" } end, "layer: a number in 1..2 or \"%*\" expected, got 3")
  T.raises(function() m:map { ids = IDS, layer = "*" } end, "layer: a number in 1..2 expected, got '%*'")
end)

T.test("every preset: weights times gated values are y, and asking changes nothing but rounding", function()
  for _, preset in ipairs(core.attn.list()) do
    local m = model(preset.name)
    local before = logits(m)
    local names = {}
    for _, r in ipairs(m:taps()) do names[#names + 1] = r.name end
    local t = m:tap { ids = IDS, name = names, layer = 2 }
    T.near(logits(m, { taps = { [2] = { [names[9]] = function() end } } }), before, 1e-10)
    same(logits(m), before, preset.name)
    if t.weights then
      local v = t.v
      if t.input_gate then
        v = v * (t.input_gate:ndim() == 3 and t.input_gate:unsqueeze { axis = -1 } or t.input_gate)
      end
      v = v:reshape { shape = { 1, 8, 2, 1, 4 } }:expand { shape = { 1, 8, 2, 2, 4 } }:reshape { shape = { 1, 8, 4, 4 } }
      local y = t.weights:matmul(v:permute { axes = { 1, 3, 2, 4 } }:contiguous()):permute { axes = { 1, 3, 2, 4 } }
      T.near(y, t.y, 1e-12)
    end
  end
end)

T.test("other architectures: all taps that they hand out, and what they do not", function()
  local base = model { preset = "softmax", rope = "none" }
  for arch, parallel in pairs { gpt2 = false, neox = true, gptj = true } do
    local m = require("attnlab.model.arch." .. arch).new(base.config, base.spec,
      { seed = 3, dtype = "f64", vocabulary = text.vocabulary }):eval()
    for _, r in ipairs(m:taps()) do
      if parallel and r.name == "residual.mid" then -- it has no stream between attention and MLP
        T.raises(function() m:tap { ids = IDS, name = r.name, layer = 2 } end, "layer 2: the architecture .* does not hand out")
      else
        local s = m:fork()
        s:patch { name = r.name, layer = 2, with = { ids = IDS } }
        same(logits(s), looked_at(m, 2, r.name), arch .. " " .. r.name)
      end
    end
    local t = m:tap { ids = IDS, name = { "residual.1.post", "residual.2.pre", "mlp.1", "residual.1.pre", "out" }, layer = 1 }
    same(t["residual.1.post"], t["residual.2.pre"], arch)
    local added = parallel and t["mlp.1"] or t["mlp.1"] + t.out
    T.near(t["residual.1.pre"] + added, t["residual.1.post"], 1e-12)
  end
end)

T.test("a gradient at a tap is that of the text's loss, by differences", function()
  local function loss(m, name, t)
    local y = core.no_grad(m.forward, m, { IDS }, { taps = { [1] = { [name] = function() return t end } } })
    return y:slice { axis = 2, start = 0, stop = 7 }:contiguous():cross_entropy(
      core.tensor { data = { { 2, 3, 4, 5, 6, 7, 8 } }, dtype = "i32" }):item()
  end
  for _, case in ipairs { { "p1/gated_softmax", "heads", "k", "weights", "D", "output_gate", "input_gate", "residual.mid", "mlp" },
                          { "delta/gated_deltanet", "beta", "log_decay", "q" }, { "channel/rwkv4", "read" },
                          { "p2/cottention", "D", "weights", "logits" } } do
    local m = model(case[1])
    local list = table.move(case, 2, #case, 1, {})
    local values, gradients = m:tap { ids = IDS, name = list, layer = 1, grad = true }
    for _, p in pairs(m:parameters()) do
      T.eq(p:grad(), nil)
      T.ok(p:requires_grad())
    end
    for _, name in ipairs(list) do
      local t, n = values[name], values[name]:numel()
      local g, h = gradients[name]:flat(), 1e-5
      for at = 1, n, math.max(1, n // 7) do
        local side = {}
        for k, step in ipairs { h, -h } do
          local x = t:flat()
          x[at] = x[at] + step
          side[k] = loss(m, name, core.tensor { data = x, shape = { n }, dtype = "f64" }:reshape { shape = t:shape() })
        end
        T.near(g[at], (side[1] - side[2]) / (2 * h), 1e-8)
      end
    end
  end
end)

-- ---- replacing ----------------------------------------------------------------------------------------

T.test("an activation patched with itself changes nothing, bit for bit, in every preset", function()
  for _, dtype in ipairs { "f64", "f32" } do
    for _, preset in ipairs(core.attn.list()) do
      local m = model(preset.name, { dtype = dtype })
      for _, r in ipairs(m:taps()) do
        local s = m:fork()
        s:patch { name = r.name, layer = 2, with = { ids = IDS } }
        same(logits(s), looked_at(m, 2, r.name), preset.name .. " " .. r.name)
        s:undo()
        same(logits(s), logits(m), preset.name .. ": undone")
      end
    end
  end
end)

T.test("taps that no path is made for leave every bit", function()
  local m = model("softmax", { dtype = "f32" })
  for _, r in ipairs(m:taps()) do
    if not r.composed then same(looked_at(m, 1, r.name), logits(m), r.name) end
  end
end)

T.test("positions, heads and groups: what is patched is the value, what is not stays", function()
  local m = model()
  for _, case in ipairs { { name = "heads", head = 3, at = { 2, 5 } }, { name = "k", head = 3, from = 4 }, { name = "out", at = 8 },
                          { name = "weights", head = 2, at = { 3 } }, { name = "D", head = 4, from = 7 }, { name = "v" } } do
    local s = m:fork()
    case.layer, case.with = 1, 0.5
    s:patch(case)
    local was, is = m:tap { ids = IDS, name = case.name, layer = 1 }, s:tap { ids = IDS, name = case.name, layer = 1 }
    local row = taps.row(m, 1, case.name, "test")
    local axes = taps.axes(row, was, 4)
    local shape, index, a, b = was:shape(), {}, was:flat(), is:flat()
    for i = 1, #a do
      local rest = i - 1
      for k = #shape, 1, -1 do index[k], rest = rest % shape[k] + 1, rest // shape[k] end
      local p, h = index[axes.time], axes.head and index[axes.head]
      local there = not case.head or h == (shape[axes.head] == 2 and 2 or case.head)
      if case.from then there = there and p >= case.from end
      if case.at then
        local hit = false
        for _, at in ipairs(type(case.at) == "table" and case.at or { case.at }) do hit = hit or at == p end
        there = there and hit
      end
      T.eq(b[i], there and 0.5 or a[i])
    end
  end
  local s = m:fork()
  s:patch { name = "k", layer = 1, head = 3, with = "zero" }
  T.eq(s:swaps()[1].change, "k = 0 (key/value head 2, which serves heads 3-4)")
  T.eq(s:swaps()[1].head, 3)
end)

T.test("mean and resample are those of the text", function()
  local m = model()
  local sum, n, first = nil, 0, nil
  for x in text:even("train", 4, 12, text:windows("train", 12, 4)) do
    m:hidden(x, { taps = { [2] = { heads = function(t)
      first = first or t:detach()
      sum, n = t:sum { axes = { 1, 2 } }, n + t:size(1) * t:size(2)
    end } } })
  end
  local s = m:fork()
  s:patch { name = "heads", layer = 2, head = 2, with = "mean", data = path, windows = 4 }
  local got = s:tap { ids = IDS, name = "heads", layer = 2, head = 2 }
  for t = 1, 8 do T.near(got[{ 1, t }], (sum * (1 / n))[2], 1e-14) end
  s:undo()
  s:patch { name = "heads", layer = 2, with = "resample", data = text, windows = 1 }
  same(s:tap { ids = IDS, name = "heads", layer = 2 }, first[{ { 1, 1 }, { 1, 8 } }], "the one window that there is")
  T.raises(function() s:patch { name = "weights", layer = 2, with = "mean", data = text } end, "axis of keys")
end)

T.test("another text's activations: lengths, positions, tensors that a tap gave", function()
  local m = model()
  local s = m:fork()
  s:patch { name = "heads", layer = 2, with = { ids = OTHER } }
  T.raises(function() logits(s) end, "has 9 positions, this run has 8: say at= or from=")
  s:undo()
  T.raises(function() s:patch { name = "heads", layer = 2, with = { ids = OTHER }, at = 10 } end, "position 10 is not in")
  local t = m:tap { ids = OTHER, name = "heads", layer = 2, head = 1 }
  s:patch { name = "heads", layer = 2, head = 1, with = { ids = OTHER }, from = 3 }
  local want = logits(s)
  same(s:tap { ids = IDS, name = "heads", layer = 2, head = 1 }[{ {}, { 3, 8 } }], t[{ {}, { 3, 8 } }], "from 3")
  s:undo()
  s:patch { name = "heads", layer = 2, head = 1, with = t, from = 3 }
  same(logits(s), want, "the tensor")
  s:undo()
  s:patch { name = "heads", layer = 2, head = 1, with = t[1], from = 3 }
  same(logits(s), want, "without its batch axis")
  T.raises(function() s:patch { name = "out", layer = 2, with = t } end, "a tensor of the tap's shape")
  T.raises(function() s:patch { name = "out", layer = 2, with = "men" } end, "did you mean 'mean'")
  T.raises(function() s:patch { name = "out", layer = 2 } end, "with= is missing")
  T.raises(function() s:patch { name = "out", layer = 2, with = 0, at = 1, from = 2 } end, "either at= or from=")
  T.raises(function() s:patch { name = "out", layer = 2, with = 0, at = 0 } end, "positions from 1 on expected, got 0")
  -- weights of a shorter text: the keys that it has not are 0
  s = m:fork()
  s:patch { name = "weights", layer = 2, with = { ids = { 3, 2, 1, 0 } }, at = { 3, 4 } }
  local w = s:tap { ids = IDS, name = "weights", layer = 2 }
  same(w[{ {}, {}, { 3, 4 }, { 1, 4 } }], m:tap { ids = { 3, 2, 1, 0 }, name = "weights", layer = 2 }[{ {}, {}, { 3, 4 } }], "rows")
end)

T.test("no gradient goes through what was put in, all of it through the rest", function()
  local m = model()
  local s = m:fork()
  s:patch { name = "heads", layer = 2, at = { 2 }, with = { ids = IDS } }
  local _, g = s:tap { ids = IDS, name = "v", layer = 2, grad = true }
  local _, h = m:tap { ids = IDS, name = "heads", layer = 2, grad = true }
  s:undo()
  s:patch { name = "heads", layer = 2, with = { ids = IDS } }
  local _, none = s:tap { ids = IDS, name = "v", layer = 2, grad = true }
  T.eq(none:square():sum():item(), 0.0)
  T.ok(g:square():sum():item() > 0 and h:square():sum():item() > 0)
  s:loss({ IDS }, core.tensor { data = { IDS }, dtype = "i32" }):backward()
  T.eq(s.layers[2].attention.q_proj.weight:grad():square():sum():item(), 0.0)
  T.ok(s.layers[2].attention.o_proj.weight:grad())
end)

-- ---- where patches work -------------------------------------------------------------------------------

T.test("a patched fork steps as it runs whole, in every preset and family; positions count from the text's start", function()
  for _, preset in ipairs(core.attn.list()) do
    local m = model(preset.name)
    local inner
    for _, r in ipairs(m:taps()) do
      if r.family ~= "layer" and r.family ~= "block" and r.name ~= "log_decay" then inner = r.name end
    end
    local s = m:fork()
    s:patch { name = "heads", layer = 1, head = 2, at = { 2, 6 }, with = 0.25 }
    s:patch { name = "residual.2.mid", from = 7, with = { ids = OTHER } }
    if inner then s:patch { name = inner, layer = 2, from = 3, with = 0.125 } end
    local whole = logits(s)
    local st, parts = s:state(), {}
    for _, part in ipairs { { 1, 2, 3 }, { 4 }, { 5 }, { 6, 7 }, { 8 } } do
      local y
      y, st = s:step({ part }, st)
      parts[#parts + 1] = y
    end
    T.near(core.op.concat(parts, { axis = 2 }), whole, 1e-9)
    local _, ids = s:generate { prompt = IDS, tokens = 3 }
    local next_ = core.no_grad(s.forward, s, { table.move(ids, 1, #ids - 1, 1, {}) })
    local last, best = next_[{ 1, #ids - 1 }]:flat(), 1
    for i, v in ipairs(last) do best = v > last[best] and i or best end
    T.eq(ids[#ids], best - 1)
  end
end)

T.test("patches are entries of the list: measured, undone, redone, copied, refused by files", function()
  local m = model("softmax", { dtype = "f32" })
  local s = m:fork()
  local ev = lab.evalset { data = text, windows = 4 }
  local plain = ev(m)
  s:patch { name = "heads", layer = "*", head = 1, with = "zero" }
  local want = logits(s)
  local patched = ev(s)
  T.ok(patched ~= plain)
  T.eq(s:swaps()[1].loss, patched)
  T.eq(s:swaps()[1].kind, "patch")
  local f = s:fork()
  same(logits(f), want, "a fork of it")
  same(logits(s.original), logits(m), "the original")
  s:undo()
  same(logits(s), logits(m), "undone")
  same(logits(f), want, "the fork stays")
  s:redo()
  same(logits(s), want, "redone")
  s.layer[2]:set { output_norm = "l2" }
  s:undo(2)
  same(logits(s), logits(m), "both undone")
  s:patch { name = "weights", layer = 2, head = 1, with = "zero" }
  T.ok(s:plan(8):find("layer 2: parallel, composed: patched at weights", 1, true))
  T.ok(s:swaps()[1].change:find "composed path")
  T.raises(function() s:save(T.folder() .. "/x.safetensors") end, "undo the patches first")
  local st = m:fork():state()
  T.raises(function()
    s.layers[2].attention:forward(core.zeros { shape = { 1, 1, 16 } }, {
      state = s.layers[2].attention:state(), taps = { weights = function() end } })
  end, "replay=true")
end)

T.test("heads with options of their own: taps of each group, put together", function()
  local m = model()
  local s = m:fork()
  s.layer[2].head[3]:set { denominator = "length" }
  s.layer[2].head[1]:set { preset = "sliding_window" }
  local plain = m:tap { ids = IDS, name = "heads", layer = 2 }
  T.raises(function() s:tap { ids = IDS, name = "weights", layer = 2 } end, "only the family of heads 2%-4 of layer 2")
  T.raises(function() s:tap { ids = IDS, name = "weights", layer = 2, head = 1 } end, "the family of head 1 does not hand it out")
  local w = s:tap { ids = IDS, name = "weights", layer = 2, head = 3 }
  local want = m:tap { ids = IDS, name = { "weights", "D" }, layer = 2, head = 3 }
  local n = core.tensor { data = { 1, 2, 3, 4, 5, 6, 7, 8 }, dtype = "f64" }:reshape { shape = { 1, 8, 1 } }
  T.near(w, want.weights * want.D:unsqueeze { axis = -1 } / n, 1e-12)
  same(s:tap { ids = IDS, name = "weights", layer = 2, head = 2 }, m:tap { ids = IDS, name = "weights", layer = 2, head = 2 }, "head 2")
  s:undo()
  same(s:tap { ids = IDS, name = "logits", layer = 2 }, m:tap { ids = IDS, name = "logits", layer = 2 }, "all heads")
  s:patch { name = "weights", layer = 2, head = 3, with = "zero" }
  local heads = s:tap { ids = IDS, name = "heads", layer = 2 }
  T.eq(heads[{ {}, {}, 3 }]:square():sum():item(), 0.0)
  T.near(heads[{ {}, {}, { 1, 2 } }], plain[{ {}, {}, { 1, 2 } }], 1e-14)
end)

T.test("a call that is run once more is kept once", function()
  local f, get = taps.keep({ name = "logits", shape = "(B,H,T,S)" }, 4)
  local function part(v) return core.full { shape = { 1, 2, 3, 3 }, value = v } end
  f(part(9), 0, { 1, 3 })
  f(part(1), 0, { 1, 3 })
  f(part(2), 0, { 2, 4 })
  local t, heads = get()
  T.eq({ heads, t:shape(), t[{ 1, {}, 1, 1 }]:totable() }, { { 1, 2, 3, 4 }, { 1, 4, 3, 3 }, { 1.0, 2.0, 1.0, 2.0 } })
end)

T.test("a state that keeps its inputs goes into a file and comes back", function()
  local m = model("p1/linear_elu")
  local s = m:fork()
  s:patch { name = "weights", layer = 2, head = 1, from = 3, with = 0.25 }
  local whole, file = logits(s), T.folder() .. "/state.safetensors"
  local _, st = s:step({ { 1, 2, 3, 4, 5 } }, s:state())
  T.eq(st:bytes(), s:state_bytes(5))
  T.ok(s:state_bytes(5) - m:state_bytes(5) > 0)
  st:save(file)
  T.near(s:step({ { 6, 7, 8 } }, s:load_state(file)), whole[{ {}, { 6, 8 } }], 1e-9)
  T.raises(function() m:load_state(file) end, "component")
end)

T.test("a change that takes a patched tap away is refused as a whole", function()
  local m = model "p1/gated_softmax"
  local s = m:fork()
  s:patch { name = "output_gate", layer = 2, with = "mean", data = text, windows = 2 }
  local want = logits(s)
  T.raises(function() s.layer[2]:set { preset = "softmax" } end, "patched: layer 2: unknown tap 'output_gate'")
  same(logits(s), want, "as before")
  T.eq(#s:swaps(), 1)
  s.layer[1]:set { preset = "softmax" }
  s:undo(2)
  same(logits(s), logits(m), "undone")
end)

-- ---- functions of one's own ---------------------------------------------------------------------------

T.test("an instance's taps are functions: what they raise comes out as it is, what they return has to fit", function()
  local a = core.attn.new("softmax", {}, { heads = 2, head_dim = 4, dtype = "f64" })
  local q = core.randn { shape = { 1, 5, 2, 4 }, dtype = "f64", seed = 1 }
  local function run(t) return a:forward { q = q, k = q, v = q, taps = t } end
  local own = {}
  local ok, why = pcall(run, { weights = function() error(own) end })
  T.ok(not ok and rawequal(why, own))
  T.raises(function() run { weights = function() return q end } end, "f64 of shape %(1,2,5,5%), or nil, expected .* got f64 of %(1,5,2,4%)")
  T.raises(function() run { wieghts = print } end, "did you mean 'weights'")
  T.raises(function() run { weights = 3 } end, "a function expected, got number")
  T.raises(function() run(3) end, "a table by name expected")
  local live = {}
  for round = 1, 3 do
    for _ = 1, 50 do pcall(run, { weights = function(t) return t * 2 end, D = function() error "no" end }) end
    collectgarbage()
    collectgarbage()
    live[round] = lab.memory().live
  end
  T.eq(live[3], live[2])
  T.near(run { weights = function(t) return t * 2 end }, run {} * 2, 1e-14)
end)

T.test("padding, every form, and bf16: asking changes nothing but rounding", function()
  for _, p in ipairs(core.attn.list()) do
    for _, dtype in ipairs { "f64", "bf16" } do
      local a = core.attn.new(p.name, {}, { heads = 4, kv_heads = 2, head_dim = 6, value_dim = 5, width = 12, dtype = dtype, seed = 1 })
      local function draw(key, ...) return core.randn { shape = { ... }, dtype = dtype, seed = 2, stream = key } end
      local set = { q = draw("q", 2, 9, 4, 6), k = draw("k", 2, 9, 2, 6), v = draw("v", 2, 9, 2, 5), x = draw("x", 2, 9, 12),
                    lengths = { 9, 5 } }
      local plain, looks, seen = a:forward(set), {}, {}
      for _, r in ipairs(a:taps()) do looks[r.name] = function(t) seen[r.name] = t:dtype() end end
      set.taps = looks
      T.near(a:forward(set):to "f64", plain:to "f64", dtype == "f64" and 1e-12 or 0.02 * plain:to "f64":abs():max():item())
      for _, r in ipairs(a:taps()) do T.eq(seen[r.name], dtype == "f64" and "f64" or "f32") end
    end
  end
  for _, form in ipairs { "parallel", "chunked", "recurrent" } do
    local a = core.attn.new("p1/linear_elu", { form = form }, { heads = 2, head_dim = 4, seed = 1 })
    local q = core.randn { shape = { 1, 6, 2, 4 }, seed = 1 }
    local w
    T.near(a:forward { q = q, k = q, v = q, taps = { weights = function(t) w = t end } }, a:forward { q = q, k = q, v = q }, 1e-5)
    T.eq(w:shape(), { 1, 2, 6, 6 })
  end
end)

T.test("a denominator beyond the type is shown as infinite and divides as before", function()
  for _, family in ipairs { "softmax", "sliding_window" } do
    local a = core.attn.new(family, { logit_scale = 40 }, { heads = 2, head_dim = 4 })
    local q = core.randn { shape = { 1, 6, 2, 4 }, seed = 1 }
    local d
    local y = a:forward { q = q, k = q, v = q, taps = { D = function(t)
      d = t:detach()
      return t * 1
    end } }
    T.near(y, a:forward { q = q, k = q, v = q }, 1e-5)
    T.eq(d:max():item(), math.huge)
  end
end)
