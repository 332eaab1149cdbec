-- What a run will need, before it runs: parameters, arithmetic, memory.
-- A change here makes no run stale.
local model = require "attnlab.model"

local M = {}

-- Parameters by count; multiply-adds of matrices are those with two axes, the embedding excepted (it is
-- looked up, not multiplied).
local function count(m)
  local all, products = 0, 0
  for name, t in pairs(m:parameters()) do
    all = all + t:numel()
    if t:ndim() == 2 and not name:find("embed_tokens", 1, true) then products = products + t:numel() end
  end
  return all, products
end

-- config: resolved, vocab: tokens of the data. Returns {parameters, flops (a step), memory (bytes),
-- state_bytes}. Forward and backward cost three times the forward; a multiply-add counts two. Attention
-- runs in its composed form: all T x T scores, of which forward and backward hold about eight copies.
function M.of(config, vocab)
  local c = config.model
  local sizes = {}
  for k, v in pairs(c) do sizes[k] = v end
  if sizes.vocab == 0 then sizes.vocab = vocab end
  local m = model.new { model = sizes, attention = config.attention, train = config.train, seed = 0 }
  local parameters, products = count(m)
  local bytes = config.train.dtype == "f64" and 8 or 4
  local B, T = config.train.batch_size, c.context
  local scores = B * c.heads * T * T
  local flops = 6 * products * B * T + c.layers * 3 * 4 * scores * c.head_dim
  -- per token and layer: residuals, norms, q, k, v, output (10 widths) and the MLP's 4 hidden copies
  local activations = B * T * (c.layers * (10 * c.width + 4 * c.mlp) + 3 * sizes.vocab) + 8 * c.layers * scores
  return { parameters = parameters, flops = flops, memory = bytes * (4 * parameters + activations),
           state_bytes = m:state_bytes(T) }
end

return M
