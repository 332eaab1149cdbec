-- The fused step: every fused op taken apart again gives the same training.
local T = ...
local core = require "attnlab.core"
local lab = require "attnlab"
local nn = lab.nn

-- A text with something to learn.
local path = T.numbers(3000)

local function config_of(attention)
  return lab.config.resolve { layers = 2, width = 64, heads = 2, mlp = 96, context = 64, data = path, steps = 20,
    batch_size = 4, warmup_steps = 3, lr = 3e-3, attention = attention }
end

local function losses(attention)
  local trainer, out = lab.train.trainer(nil, config_of(attention), 3), {}
  for i = 1, 20 do out[i] = trainer:step().loss end
  return out
end

-- Runs f with the layers made of single ops.
local function taken_apart(f)
  local add, mlp, inputs = nn.RMSNorm.add, nn.SwiGLU.forward, nn.Attention.inputs
  function nn.RMSNorm:add(x, a)
    local sum = a and x + a or x
    return sum, self:forward(sum)
  end
  function nn.SwiGLU:forward(x) return self.down_proj(self.gate_proj(x):silu() * self.up_proj(x)) end
  function nn.Attention:inputs(x)
    local q, k = self:head_inputs(x, "q", self.heads), self:head_inputs(x, "k", self.kv_heads)
    return q:rope(self.rotation), k:rope(self.rotation), self:head_inputs(x, "v", self.kv_heads)
  end
  local ok, value = pcall(f)
  nn.RMSNorm.add, nn.SwiGLU.forward, nn.Attention.inputs = add, mlp, inputs
  if not ok then error(value, 0) end
  return value
end

T.test("20 steps end at the loss of the composed path", function()
  for _, options in ipairs { { preset = "softmax" }, { logit_clamp = 5, denominator = "none", output_norm = "l2" },
                             { feature_map = "l2", similarity = "linear", logit_scale = 1, denominator = "length" } } do
    local fused = losses(options)
    local composed = lab.config.copy(options)
    composed.impl = "composed"
    local apart = taken_apart(function() return losses(composed) end)
    T.ok(fused[20] < fused[1] - 0.1)
    for i = 1, 20 do T.near(fused[i], apart[i], 1e-4) end
  end
end)

T.test("after the first steps a step takes no new memory", function()
  local trainer = lab.train.trainer(nil, config_of "softmax", 3)
  for _ = 1, 3 do trainer:step() end
  collectgarbage()
  local before = core.memory()
  core.reset_peak()
  for _ = 1, 3 do trainer:step() end
  local after = core.memory()
  T.eq(after.live, before.live)
  T.ok(after.live + after.cached <= before.live + before.cached)
end)

T.test("a norm that adds is the sum and its norm", function()
  local x = lab.randn { shape = { 2, 3, 8 }, seed = 1, stream = "x", dtype = "f64" }
  local a = lab.randn { shape = { 2, 3, 8 }, seed = 1, stream = "a", dtype = "f64" }
  local norm = nn.RMSNorm(8, { seed = 1, dtype = "f64" })
  norm.weight:fill_uniform(1, "g", 0.5, 1.5)
  local sum, y = norm:add(x, a)
  T.eq(sum, x + a)
  T.near(y, norm(x + a), 1e-13)
  local same, alone = norm:add(x, nil)
  T.eq(same, x)
  T.eq(alone, norm(x))
end)
