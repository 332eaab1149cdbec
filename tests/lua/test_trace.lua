-- Traces of attention by token and layer: every quantity against loops written out, other families, heads with options
-- of their own, patches, refusals, and what they look like.
local T = ...
local core = require "attnlab.core"
local lab = require "attnlab"

local IDS = { 1, 2, 3, 4, 5, 6, 7 }
local N = #IDS

local model = dofile(T.root .. "tests/lua/tiny.lua")(T).model

local function inputs(m, i)
  local t = m:tap { ids = IDS, name = { "q", "k", "v", "x" }, layer = i }
  for name, x in pairs(t) do t[name] = x:to "f64":totable()[1] end
  return t
end

local function dot(a, b)
  local sum = 0
  for d = 1, #a do sum = sum + a[d] * b[d] end
  return sum
end

-- Logits of row i of head h over its keys; value rows of its group.
local function logits(set, i, h)
  local g, s, v = (h - 1) // 2 + 1, {}, {}
  for j = 1, i do
    s[j] = dot(set.q[i][h], set.k[j][g]) / 2
    v[j] = set.v[j][g]
  end
  return s, v
end

-- What f(s, v, i, h) gives for every row and head of both layers.
local function by_hand(m, f)
  local out = {}
  for at = 1, 2 do
    local set = inputs(m, at)
    out[at] = {}
    for i = 1, N do
      out[at][i] = {}
      for h = 1, 4 do
        local s, v = logits(set, i, h)
        out[at][i][h] = f(s, v, i, h, at, set)
      end
    end
  end
  return out
end

local function sum_of(s, f)
  local sum = 0
  for j, x in ipairs(s) do sum = sum + f(x, j) end
  return sum
end

local function length(s, v, w)
  local n, square = {}, 0
  for d = 1, 4 do
    n[d] = sum_of(s, function(x, j) return w(x) * v[j][d] end)
    square = square + n[d] ^ 2
  end
  return math.sqrt(square)
end

T.test("softmax with a sink and a gate: every number", function()
  local m = model { denominator = { sink = 0.5 }, output_gate = "sigmoid" }
  local tr = m:trace(IDS)
  T.eq(tr.names, { "numerator", "denominator", "log_sum", "logit", "entropy", "sink", "output_gate", "orders" })
  local e = math.exp
  T.near(tr.values.denominator, by_hand(m, function(s) return sum_of(s, e) + e(0.5) end), 1e-12)
  T.near(tr.values.log_sum, by_hand(m, function(s) return math.log(sum_of(s, e)) end), 1e-12)
  T.near(tr.values.sink, by_hand(m, function(s) return e(0.5) / (sum_of(s, e) + e(0.5)) end), 1e-13)
  T.near(tr.values.logit, by_hand(m, function(s) return math.max(table.unpack(s)) end), 1e-14)
  T.near(tr.values.numerator, by_hand(m, function(s, v) return length(s, v, e) end), 1e-12)
  T.near(tr.values.entropy, by_hand(m, function(s)
    local W = sum_of(s, e)
    return -sum_of(s, function(x) return e(x) / W * math.log(e(x) / W) end)
  end), 1e-12)
  for i = 1, 2 do
    T.near(tr.values.output_gate[i], m:tap { ids = IDS, name = "output_gate", layer = i }[1], 1e-14)
  end
  T.near(m:trace(IDS, { "gate" }).values.output_gate, tr.values.output_gate, 0)
end)

T.test("orders of the series: log-magnitudes and shares", function()
  local m = model()
  local tr = m:trace(IDS, { "orders", orders = 6 })
  local factorial = 1
  for n = 0, 6 do
    factorial = factorial * math.max(1, n)
    local function total(s) return sum_of(s, function(x) return math.abs(x) ^ n / factorial end) end
    local log, share = tr.values.order_log[{ {}, {}, {}, n + 1 }], tr.values.order_share[{ {}, {}, {}, n + 1 }]
    T.near(log, by_hand(m, function(s, _, i) return math.log(total(s) / i) end), 1e-11)
    T.near(share, by_hand(m, function(s) return total(s) / sum_of(s, function(x) return math.exp(math.abs(x)) end) end), 1e-12)
  end
  -- where terms leave the range of numbers their logarithms do not
  local far = m:fork()
  far.layer[1]:set { logit_scale = 1e4 }
  local log = far:trace(IDS, { "orders", orders = 200, layer = 1 }).values.order_log:flat()
  for _, v in ipairs(log) do T.ok(v == v and math.abs(v) < 1e4, v) end
end)

T.test("a denominator of the values' side, weights below 0, no denominator", function()
  local m = model "p2/cottention"
  local tr = m:trace(IDS, { "denominator", "log_sum", "numerator" })
  local W = by_hand(m, function(_, _, i, h, _, set)
    local g = (h - 1) // 2 + 1
    local function unit(a) return math.sqrt(dot(a, a)) end
    local sum = 0
    for j = 1, i do sum = sum + dot(set.q[i][h], set.k[j][g]) / unit(set.q[i][h]) / unit(set.k[j][g]) end
    return sum > 0 and math.log(sum) or 0 / 0
  end)
  local got = tr.values.log_sum:totable()
  local negative = 0
  for at = 1, 2 do
    for i = 1, N do
      for h = 1, 4 do
        local a, b = got[at][i][h], W[at][i][h]
        if b ~= b then negative = negative + 1 end
        T.ok(a ~= a and b ~= b or math.abs(a - b) < 1e-10, ("%g, %g expected"):format(a, b))
        local p = m.layers[at].attention.family:parameters()["denominator.power"]:flat()[(h - 1) // 2 + 1]
        local power = 1 / (1 + math.exp(-p))
        T.near(tr.values.denominator[{ at, i, h }]:item(), i ^ power, 1e-12)
      end
    end
  end
  T.ok(negative > 0)
  m = model { denominator = "none" }
  T.near(m:trace(IDS, { "numerator" }).values.numerator, by_hand(m, function(s, v) return length(s, v, math.exp) end), 1e-12)
  T.raises(function() m:trace(IDS, { "denominator" }) end, "no 'denominator'")
end)

T.test("every preset has a trace of all that it has; other families what they name themselves", function()
  for _, p in ipairs(core.attn.list()) do
    local m = model(p.name)
    local tr = m:trace(IDS, { orders = 3 })
    T.ok(#tr.names > 0, p.name)
    for name, t in pairs(tr.values) do
      T.eq({ t:size(1), t:size(2), t:size(3) }, { 2, N, 4 })
      if name ~= "log_sum" then
        for _, v in ipairs(t:flat()) do T.ok(v == v and math.abs(v) < math.huge, p.name .. " " .. name) end
      end
    end
  end
  local m = model "delta/gated_deltanet"
  local tr = m:trace(IDS, { "beta", "log_decay", layer = 2 })
  local beta = m:tap { ids = IDS, name = "beta", layer = 2 }
  for h = 1, 4 do T.near(tr.values.beta[{ 1, {}, h }], beta[{ 1, {}, (h + 1) // 2 }], 1e-14) end
  T.raises(function() m:trace(IDS, { "entropy" }) end, "delta_rule has beta, log_decay")
end)

T.test("heads with options of their own, patches, one layer, one head", function()
  local m = model()
  local s = m:fork()
  s.layer[2].head[3]:set { denominator = "length" }
  s.layer[1].head[2]:set { denominator = { sink = 1 } }
  local plain, tr = m:trace(IDS), s:trace(IDS)
  T.near(tr.values.entropy[1], plain.values.entropy[1], 1e-12)
  for i = 1, N do T.near(tr.values.denominator[{ 2, i, 3 }]:item(), i, 1e-12) end
  T.ok(tr.values.sink[{ 1, 1, 1 }]:item() ~= tr.values.sink[{ 1, 1, 1 }]:item(), "no sink")
  T.ok(tr.values.sink[{ 1, 1, 2 }]:item() > 0.1)
  T.near(s:trace(IDS, { layer = 2 }).values.entropy[1], tr.values.entropy[2], 0)
  s = m:fork()
  s:patch { name = "weights", layer = 2, head = 1, with = "zero" }
  T.eq(s:trace(IDS, { "entropy" }).values.entropy[{ 2, {}, 1 }]:square():sum():item(), 0.0)
  s:undo()
  s:patch { name = "residual.2.pre", with = "zero" }
  for _, v in ipairs(s:trace(IDS, { "logit" }).values.logit[2]:flat()) do T.eq(v, 0.0) end
  local f32 = model(nil, { dtype = "f32" })
  T.near(f32:trace(IDS, { "entropy" }).values.entropy, plain.values.entropy, 1e-5)
end)

T.test("names and options are checked, and the text fits", function()
  local m = lab.model.load(T.root .. "experiments/models/stories260K.bin")
  local text = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park with her friend Tom."
  T.raises(function() m:trace(text, { "entropi" }) end, "did you mean 'entropy'")
  T.raises(function() m:trace(text, { "beta" }) end, "these layers have no 'beta': kernel_attention has numerator, denominator")
  T.raises(function() m:trace(text, { "sink" }) end, "no 'sink'")
  T.raises(function() m:trace(text, { "entropy", layr = 2 }) end, "did you mean 'layer'")
  T.raises(function() m:trace(text, { layer = 6 }) end, "layer: a number in 1..5")
  T.raises(function() m:trace(text, { head = 9 }) end, "head: a number in 1..8 expected, got 9")
  T.raises(function() m:trace(3) end, "ids: a list of token ids expected, got number")
  for _, tr in ipairs { m:trace(text), m:trace(text, { layer = 2, head = 3 }), m:trace(text, { "orders", orders = 2 }) } do
    for line in tostring(tr):gmatch "[^\n]+" do T.ok((utf8.len(line) or 999) <= 80, line) end
  end
  local shown = tostring(m:trace(text, { "entropy", "logit", layer = 2 }))
  T.ok(shown:find "^layer 2, mean over heads\n +entropy +logit\n")
  T.ok(shown:find "\n_Once +%d")
  T.ok(tostring(m:trace(text, { "orders" })):find "order_share: share of")
end)
