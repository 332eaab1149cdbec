-- Times on a card that experiments/bench/README.md tells: ./lab lua --device cuda experiments/bench/card.lua PART [key=value ..]
--   llama   steps of a Llama (275M) on random tokens: attention=softmax|expl2|.., dtype=, layers=, width=, batch=, context=, vocab=, steps=
--   small   400 steps of the main job's softmax arm, and its evaluation
--   long    forward and backward of linear attention, causal, 16 heads of 64: dtype=, tokens=8192,32768,131072
--   types   200 steps of a 33M model of characters in f32 and in bf16
--   kernels what memory bounds, beside a copy of the same size: dtype=, rows=, width=, vocab=
local lab = require "attnlab"
local core = require "attnlab.core"
local names = require "attnlab.names"

local KEYS = {
  llama = { "attention", "dtype", "layers", "width", "batch", "context", "vocab", "steps" }, small = {}, long = { "dtype", "tokens" },
  types = {}, kernels = { "dtype", "rows", "width", "vocab" },
}
local known = KEYS[arg[1]]
if not known then error("card: " .. names.unknown("part", tostring(arg[1]), names.keys(KEYS)), 0) end
local o = {}
for i = 2, #arg do
  local key, value = arg[i]:match "^([%w_]+)=(.+)$"
  if not key then error(("card: key=value expected, got '%s'"):format(arg[i]), 0) end
  if not names.find(known, key) then error(("card: %s: %s"):format(arg[1], names.unknown("key", key, known)), 0) end
  o[key] = tonumber(value) or value
end
local function peak() return lab.memory(core.on()).peak / 2 ^ 30 end
local function seconds(f, ...)
  local began = core.sys.clock()
  local r = f(...)
  return core.sys.clock() - began, r
end

-- Trains to `steps`, reading losses as lab.train does.
local function train(options, steps)
  local trainer, s = lab.train.trainer(nil, lab.config.resolve(options), 1), nil
  for k = 1, steps do
    trainer:queue()
    while (k == steps or #trainer.queued >= trainer.late) and #trainer.queued > 0 do s = trainer:take() end
  end
  return trainer, s
end

local parts = {}

function parts.llama()
  local batch, context, vocab, width = o.batch or 36, o.context or 1024, o.vocab or 32000, o.width or 1024
  local attention = o.attention or "softmax"
  if attention == "expl2" then attention = { similarity = "exp", denominator = "none", output_norm = "l2" } end
  local m = lab.model.new { arch = "llama", layers = o.layers or 20, width = width, heads = math.max(1, width // 64), mlp = 2 * width,
    vocab = vocab, context = context, attention = attention, seed = 1, dtype = o.dtype or "bf16" }
  local function ids(seed)
    math.randomseed(seed)
    local list = {}
    for i = 1, batch * context do list[i] = math.random(0, vocab - 1) end
    return lab.tensor { data = list, shape = { batch, context }, dtype = "i32" }
  end
  local x, y, optimiser, times, loss = ids(1), ids(2), lab.optim.adamw { m:parameters(), lr = 1e-4, weight_decay = 0.01 }, {}, nil
  m:train()
  for i = 1, o.steps or 12 do
    times[i] = seconds(function()
      optimiser:zero_grad()
      loss = m:loss(x, y)
      loss:backward()
      optimiser:step()
      loss = loss:item()
    end)
    collectgarbage()
  end
  table.sort(times)
  local t = times[#times // 2 + 1]
  print(("%.2f ms a step, %.0f tokens/s, peak %.2f GiB, loss %.4f after %d steps"):format(1e3 * t, batch * context / t, peak(), loss, #times))
end

function parts.small()
  local job = { layers = 2, width = 128, heads = 4, mlp = 256, context = 256, data = "shakespeare", steps = 400, batch_size = 16, lr = 3e-3,
    betas = { 0.9, 0.99 }, warmup_steps = 40, schedule = "linear", min_lr = 0, grad_clip = 1, eval_windows = 96 }
  local first = seconds(train, job, 1)
  local t, trainer = seconds(train, job, 400)
  local evaluated, valid = seconds(trainer.evaluate, trainer)
  print(("first step after %.2f s; 400 steps %.2f s; evaluation %.3f s, loss %.4f"):format(first, t, evaluated, valid["valid/loss"]))
end

function parts.long()
  for _, preset in ipairs { "p1/linear_cosine", "p1/linear_elu" } do
    local a = lab.attention.new(preset, { heads = 16, head_dim = 64, width = 1024, dtype = o.dtype or "bf16" })
    for tokens in tostring(o.tokens or "8192,32768,131072"):gmatch "%d+" do
      local function x(seed)
        return lab.randn { shape = { 1, math.tointeger(tokens), 16, 64 }, dtype = o.dtype or "bf16", seed = seed }:requires_grad(true)
      end
      local q, k, v = x(1), x(2), x(3)
      local function once()
        local sum = a:forward { q = q, k = k, v = v, causal = true }:sum()
        sum:backward()
        return sum:item()
      end
      once()
      local t = seconds(once)
      print(("%s, %s tokens: %.1f ms, %.0f MiB held"):format(preset, tokens, 1e3 * t, lab.memory(core.on()).live / 2 ^ 20))
      q, k, v = nil, nil, nil
      collectgarbage()
      collectgarbage()
    end
  end
end

function parts.types()
  for _, dtype in ipairs { "f32", "bf16" } do
    local t, trainer = seconds(train, { layers = 8, width = 640, heads = 10, mlp = 1280, context = 256, batch_size = 16, steps = 200, lr = 5e-4,
      warmup_steps = 20, grad_clip = 1, eval_windows = 64, dtype = dtype }, 200)
    print(("%s: %.1f s, smoothed loss %.4f, validation %.4f"):format(dtype, t, trainer.smooth, trainer:evaluate()["valid/loss"]))
  end
end

-- Forward and backward of ops; the numbers that each has to read and write give the share of a copy's rate.
function parts.kernels()
  local N, C, V, dtype = o.rows or 36 * 1024, o.width or 1024, o.vocab or 32000, o.dtype or "bf16"
  local function x(...) return lab.randn { shape = { ... }, dtype = dtype, seed = 1 }:requires_grad(true) end
  local a, b, gain, heads, logits, table_ = x(N, C), x(N, C), x(C), x(1, N, C // 64, 64), x(N // 4, V), x(V, C)
  local ids = lab.rand { shape = { N }, seed = 1 }:scale { by = V }:clamp { max = V - 1 }:cast { dtype = "i32" }
  local targets = ids[{ { 1, N // 4 } }]
  local size = dtype == "bf16" and 2 or 4
  local cases = {
    { "copy", a, 2, 0, function() return a:detach():clone() end },
    { "add", a, 3, 0, function() return a + b end },
    { "exp", a, 2, 3, function() return a:exp() end },
    { "permute", heads, 2, 2, function() return heads:permute { axes = { 1, 3, 2, 4 } }:contiguous() end },
    { "sum of rows", a, 1, 1, function() return a:sum { axes = -1 } end },
    { "sum of columns", a, 1, 1, function() return a:sum { axes = 1 } end },
    { "cumsum", a, 2, 2, function() return a:cumsum { axis = -1 } end },
    { "softmax", a, 2, 3, function() return a:softmax() end },
    { "rmsnorm", a, 2, 3, function() return a:rmsnorm { gain = gain } end },
    { "add_rmsnorm", a, 4, 4, function() return select(2, a:add_rmsnorm(b, { gain = gain })) end },
    { "finish, l2", heads, 2, 3, function() return lab.op.finish(heads, { norm = "l2" }) end },
    { "swiglu", a, 3, 5, function() return a:swiglu(b) end },
    { "rope", heads, 2, 2, function() return heads:rope() end },
    { "dropout", a, 2, 2, function() return a:dropout { p = 0.1, key = 1 } end },
    { "embedding", a, 2, 2, function() return table_:embedding(ids) end },
    { "cross_entropy", logits, 1, 2, function() return logits:cross_entropy(targets) end },
    { "rand", a, 1, 0, function() return lab.rand { shape = { N, C }, seed = 2, dtype = dtype } end },
  }
  local function wait() lab.zeros { shape = { 1 } }:item() end
  local function time(f)
    f()
    wait()
    local runs = 20
    return seconds(function()
      for _ = 1, runs do f() end
      wait()
    end) / runs
  end
  local rate
  for _, case in ipairs(cases) do
    local name, of, forward, backward, f = table.unpack(case)
    local bytes, dy = of:numel() * size, nil
    local t = { time(function() f():free() end) }
    t[2] = backward > 0 and time(function()
      local y = f()
      dy = dy or lab.ones { shape = y:shape(), dtype = y:dtype() }
      y:backward(dy)
      for _, p in ipairs { a, b, gain, heads, logits, table_ } do p:zero_grad() end
    end) - t[1] or nil
    rate = rate or bytes * forward / t[1]
    local line = ("%-16s"):format(name)
    for i, n in ipairs { forward, backward } do
      if t[i] then line = line .. (" %8.3f ms %5.0f %% of a copy"):format(1e3 * t[i], 100 * bytes * n / t[i] / rate) end
    end
    print(line)
  end
  print(("a copy: %.2f TB/s, read and written"):format(rate / 1e12))
end

parts[arg[1]]()
