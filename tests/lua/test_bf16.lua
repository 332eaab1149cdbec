-- bf16 on the CPU: tensors, ops, attention, a model's training step: what is computed is what f32 makes of the same
-- numbers, rounded; gradients, losses and states are f32.
local T = ...
local lab = require "attnlab"
local core = require "attnlab.core"

-- RMS of a - b over that of b.
local function distance(a, b)
  local x, y, d, size = a:flat(), b:flat(), 0, 0
  T.eq(#x, #y)
  for i = 1, #x do d, size = d + (x[i] - y[i]) ^ 2, size + y[i] ^ 2 end
  return size > 0 and math.sqrt(d / size) or math.sqrt(d)
end

T.test("tensors and ops", function()
  local x = core.tensor { data = { 1, 2, 3 }, dtype = "bf16" }
  T.eq(x:dtype(), "bf16")
  T.eq((x * 2 + 1):flat(), { 3, 5, 7 })
  T.eq((x * 2 + 1):dtype(), "bf16")
  T.eq((x + 2 ^ -9):flat(), { 1, 2, 3 }) -- rounded
  T.eq(x:softmax {}:dtype(), "bf16")
  local drawn, wide = core.randn { shape = { 200 }, seed = 3, dtype = "bf16" }, core.randn { shape = { 200 }, seed = 3 }
  T.eq(drawn:flat(), wide:to "bf16":flat())
  local y = core.tensor { 1, 2, 3 }
  T.raises(function() return x * y end, "b: bf16 needed as a has it, got f32")
  x:requires_grad(true);
  (x * x):sum():backward()
  T.eq(x:grad():dtype(), "f32")
  T.eq(x:grad():flat(), { 2, 4, 6 })
end)

T.test("every preset is what f32 makes of the same numbers, rounded once, by any form", function()
  for _, name in ipairs(lab.attention.list()) do
    name = type(name) == "table" and name.name or name
    local sizes = { heads = 2, kv_heads = 2, head_dim = 4, value_dim = 4, width = 8, seed = 1, tag = "t" }
    local runs = {}
    local input = {}
    for _, k in ipairs { "q", "k", "v", "x" } do
      input[k] = core.randn { shape = k == "x" and { 2, 6, 8 } or { 2, 6, 2, 4 }, seed = 5, stream = k, dtype = "bf16" }
    end
    for _, dtype in ipairs { "bf16", "f32" } do
      sizes.dtype = dtype
      local a = lab.attention.new(name, sizes)
      if dtype == "f32" then
        for key, p in pairs(a:parameters()) do p:copy_(runs.bf16.a:parameters()[key]:to "f32") end
      end
      local now = { causal = true }
      for k, t in pairs(input) do now[k] = t:to(dtype) end
      now.q = now.q:detach():requires_grad(true)
      local o = a:forward(now)
      o:sum():backward()
      local state, last = a:state { batch = 2 }, nil
      for t = 1, 6 do
        local one = {}
        for k in pairs(input) do one[k] = now[k][{ {}, { t, t } }]:detach() end
        last, state = a:step(state, one)
      end
      runs[dtype] = { a = a, o = o, last = last, grad = now.q:grad() }
    end
    local b, f = runs.bf16, runs.f32
    T.eq(b.o:dtype(), "bf16", name)
    T.eq(b.last:dtype(), "bf16", name)
    T.ok(distance(b.o, f.o) < 2 ^ -8, name .. ": forward")
    T.ok(distance(b.last, f.last) < 2 ^ -8, name .. ": state")
    if f.grad then
      T.eq(b.grad:dtype(), "f32", name)
      -- a card's own kernels for bf16 round the output, or what a norm made of it, that the gradient is made from
      T.ok(distance(b.grad, f.grad) < (core.on() == "cpu" and 1e-5 or 2 ^ -6), name .. ": gradient")
    end
  end
end)

T.test("a model trains, its moments and gradients in f32, and comes back from its file", function()
  local losses = {}
  for _, dtype in ipairs { "f32", "bf16" } do
    local m = lab.model.new { arch = "llama", layers = 2, width = 32, heads = 2, mlp = 64, vocab = 65, context = 16,
      attention = "p1/softmax", seed = 1, dtype = dtype }
    local list = {}
    for i = 1, 32 do list[i] = (i * 7) % 65 end
    local ids = core.tensor { data = list, shape = { 2, 16 }, dtype = "i32" }
    local optim = lab.optim.adamw { m:parameters(), lr = 1e-2 }
    for step = 1, 3 do
      optim:zero_grad()
      local loss = lab.op.cross_entropy(m:forward(ids), ids)
      T.eq(loss:dtype(), "f32")
      loss:backward()
      for name, p in pairs(m:parameters()) do
        T.eq(p:dtype(), dtype, name)
        T.eq(p:grad():dtype(), "f32", name)
      end
      optim:step()
      losses[dtype] = losses[dtype] or {}
      losses[dtype][step] = loss:item()
    end
    if dtype == "bf16" then
      local folder = T.folder()
      m:save(folder .. "/m.safetensors")
      local again = lab.model.load(folder .. "/m.safetensors")
      T.eq(again:forward(ids):flat(), m:forward(ids):flat())
    end
  end
  -- a tenth of what three steps gain; weights are rounded by 2^-9 of themselves
  for step = 1, 3 do
    T.ok(math.abs(losses.bf16[step] - losses.f32[step]) < 0.1 * (losses.f32[1] - losses.f32[3]), "step " .. step)
  end
end)
