-- What a training step holds at its peak, on the device that is current: the counted peak is the real one, byte for byte,
-- and stays below a sum of sizes. On the CPU, and on a card: attnlab lua --device cuda run.lua test_memory.lua.
local T = ...
local lab = require "attnlab"
local core = require "attnlab.core"
local budget = require "attnlab.budget"

local CARD = core.on():find "^cuda" ~= nil
local ATTENTIONS = { softmax = "softmax", ["exp + L2"] = { similarity = "exp", denominator = "none", output_norm = "l2" } }

-- Two steps of AdamW on zeros.
local function steps(m, o)
  local model = lab.model.new { arch = "llama", layers = m.layers, width = m.width, heads = m.heads, mlp = m.mlp, vocab = m.vocab,
    context = m.context, attention = ATTENTIONS[o.attention], seed = 1, dtype = o.dtype }
  local ids = core.zeros { shape = { m.batch, m.context }, dtype = "i32" }
  local optimiser = lab.optim.adamw { model:parameters(), lr = 1e-3 }
  model:train()
  for _ = 1, 2 do
    optimiser:zero_grad()
    model:loss(ids, ids):backward()
    optimiser:step()
    collectgarbage()
    collectgarbage()
  end
end

local function real(...)
  collectgarbage()
  collectgarbage()
  local before = core.memory().live
  core.reset_peak()
  steps(...)
  return core.memory().peak - before
end

-- Bytes that must be there where the logits' gradient has become the head's: weights, moments and a layer's q, k, v, output
-- of attention, two norms with their sums, three of the MLP; logits, the head's gradient, what its product makes and hides.
local function must(m, o)
  local size, wide = o.dtype == "bf16" and 2 or 4, 4
  local N, C, M, V = m.batch * m.context, m.width, m.mlp, m.vocab
  local weights = m.layers * (4 * C * C + 3 * C * M + 2 * C) + 2 * V * C + C
  local kept = CARD and o.dtype == "bf16" and 0 or o.attention == "exp + L2" and 1 or 0 -- y before its norm
  local marks = CARD and (N * C + V * C) // 8 or 0 -- a bit a number of what a product reads
  return weights * (3 * wide + (size < wide and size or 0)) -- a master, two moments, the copy of bf16
    + size * (m.layers * N * ((8 + kept) * C + 3 * M) + 2 * N * C + N * V) -- of the graph
    + wide * V * C + size * N * C + marks
end

local SMALL = { layers = 2, width = 64, heads = 1, mlp = 96, vocab = 300, context = 70, batch = 2 }
local LARGE = { layers = 20, width = 1024, heads = 16, mlp = 2048, vocab = 32000, context = 1024, batch = 36 }

for _, dtype in ipairs { "f32", "bf16" } do
  for attention in pairs(ATTENTIONS) do
    local o = { dtype = dtype, attention = attention }
    T.test(("%s, %s: what is counted is what a step holds"):format(attention, dtype), function()
      T.eq(budget.counted(steps, SMALL, o), real(SMALL, o))
    end)
    if CARD or dtype == "f32" then -- there composed of f32
      T.test(("%s, %s: 275M weights at 36 x 1024 hold what they must, and 1 %% more"):format(attention, dtype), function()
        local peak, least = budget.counted(steps, LARGE, o), must(LARGE, o)
        T.ok(peak < 1.01 * least, ("%.3f GiB of %.3f"):format(peak / 2 ^ 30, least / 2 ^ 30))
        T.ok(peak >= least, ("%.3f GiB of %.3f: the sum is too large"):format(peak / 2 ^ 30, least / 2 ^ 30))
      end)
    end
  end
end

-- y is not kept in bf16 on a card: its gradient is what f32 makes of the same numbers.
T.test("exp + L2 and softmax + L2 in bf16: output and gradients", function()
  for _, denominator in ipairs { "none", "sum" } do
    local of = {}
    for _, dtype in ipairs { "bf16", "f32" } do
      local a = lab.attention.new("softmax", { denominator = denominator, output_norm = "l2", heads = 2, head_dim = 16, dtype = dtype })
      local x = {}
      for _, k in ipairs { "q", "k", "v" } do
        x[k] = core.randn { shape = { 2, 70, 2, 16 }, seed = 5, stream = k, dtype = "bf16" }:to(dtype):detach():requires_grad(true)
      end
      local y = a:forward { q = x.q, k = x.k, v = x.v, causal = true }
      local seed = core.randn { shape = { 2, 70, 2, 16 }, seed = 6 }:to(dtype);
      (y * seed):sum():backward()
      of[dtype] = { y:flat(), x.q:grad():flat(), x.k:grad():flat(), x.v:grad():flat() }
    end
    for i, got in ipairs(of.bf16) do
      local d, size = 0, 0
      for n, want in ipairs(of.f32[i]) do d, size = d + (got[n] - want) ^ 2, size + want ^ 2 end
      T.ok(d <= (2 ^ -6) ^ 2 * size, ("%s, %d: %.3g off"):format(denominator, i, math.sqrt(d / size)))
    end
  end
end)

T.test("a cross entropy's gradient is the same number beside the logits and over them", function()
  for _, dtype in ipairs { "f32", "bf16" } do
    for _, vocab in ipairs { 7, 64, 1500 } do
      local x = core.randn { shape = { 9, vocab }, seed = 1, dtype = dtype }:requires_grad(true)
      local target, want = core.tensor { data = { 0, 1, 2, 3, 4, 5, 6, 0, -100 }, dtype = "i32" }, nil
      for _, held in ipairs { true, false } do
        local logits = x:scale { by = 3 }
        local loss = logits:cross_entropy(target)
        if not held then logits:free() end
        loss:backward()
        want = want or x:grad():flat()
        T.eq(x:grad():flat(), want)
        x:zero_grad()
      end
    end
  end
end)

T.test("what a product hides while it runs is what it was, number by number", function()
  for _, dtype in ipairs { "f64", "f32", "bf16" } do
    for _, width in ipairs { 1, 31, 32, 70 } do
      local list, clean = {}, {}
      for i = 1, 4 * width do
        clean[i] = (i * 7 % 13 - 6) / 4
        list[i] = i > width and i <= 3 * width and ({ 0 / 0, 1 / 0, 1.5, -1 / 0, 0, -1.25, 2 })[i % 7 + 1] or clean[i]
      end
      local function gradient(of)
        local x = core.tensor { data = of, shape = { 4, width }, dtype = dtype }:requires_grad(true)
        local w = core.ones { shape = { width, 5 }, dtype = dtype }:requires_grad(true)
        local y = x:matmul(w);
        (y[{ { 1, 1 } }]:sum() + y[{ { 4, 4 } }]:sum()):backward() -- the rows between reach nothing
        return w:grad():flat(), x:flat()
      end
      local got, after = gradient(list)
      T.eq(got, gradient(clean), dtype)
      for i, v in ipairs(list) do T.ok(after[i] == v or (v ~= v and after[i] ~= after[i]), ("%s, %d: %s"):format(dtype, i, after[i])) end
    end
  end
end)
