-- What is hidden in a layer: nothing that a padded token holds is seen, in values or in gradients.
local T = ...
local lab = require "attnlab"
local nn = lab.nn

-- Gradients of all present outputs when padded tokens hold `value`, by parameter.
local function padded_gradients(spec, value)
  local layer = nn.Attention(16, spec, { heads = 2, seed = 1 })
  local v = {}
  for b = 1, 2 do
    v[b] = {}
    for t = 1, 5 do
      v[b][t] = {}
      for c = 1, 16 do v[b][t][c] = b == 2 and t > 3 and value or math.sin(b * 31 + t * 7 + c) end
    end
  end
  local x = lab.tensor(v)
  x:requires_grad(true)
  local y = layer:forward(x, { lengths = { 5, 3 } });
  (y[{ 1 }]:sum() + y[{ 2, { 1, 3 } }]:sum()):backward()
  local out = { x = x:grad() }
  for name, p in pairs(layer:parameters()) do out[name] = p:grad() end
  return out
end

T.test("what a padded token holds reaches no gradient", function()
  for _, spec in ipairs {
    { preset = "p1/softmax", qk_norm = true, rope = "half" }, { preset = "p1/softmax", qk_norm = true, conv = 3 },
    { preset = "p2/cottention" }, { preset = "p3/2mamba" }, { preset = "delta/gated_deltanet" },
    { preset = "channel_softmax" }, { preset = "sliding_window" },
    { feature_map = "elu1", similarity = "linear", decay = "gated", input_gate = "sigmoid", output_gate = "silu" },
  } do
    local clean, dirty = padded_gradients(spec, 0.5), padded_gradients(spec, 0 / 0)
    for name, g in pairs(clean) do T.near(dirty[name], g:totable(), 1e-5) end
    T.eq(dirty.x[{ 2, { 4, 5 } }]:abs():sum():item(), 0.0)
  end
end)
