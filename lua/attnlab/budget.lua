-- What a run will need, before it runs: parameters, arithmetic, memory.
-- A change here makes no run stale.
local config = require "attnlab.config"
local core = require "attnlab.core"
local model = require "attnlab.model"
local tables = require "attnlab.table"

local M = {}

-- Parameters by count; multiply-adds of matrices are those with two axes, the embedding excepted where it is
-- looked up alone, not multiplied.
local function count(m)
  local all, products = 0, 0
  for name, t in pairs(m:parameters()) do
    all = all + t:numel()
    if t:ndim() == 2 and (m.config.tied or not name:find("embed_tokens", 1, true)) then products = products + t:numel() end
  end
  return all, products
end

local SEQUENCES = 2 -- of one alone some views are packed already

-- Bytes that a layer holds for a sequence of T tokens until its backward, and what its forward or backward needs
-- beside them: measured, since they are other numbers for every variant, form and type.
local function measured(layer, T, width, dtype)
  local held, beside
  for _ = 1, 2 do -- the second time the gradients of the parameters are there
    local x = core.randn { shape = { SEQUENCES, T, width }, dtype = dtype, seed = 0, stream = "budget" }:requires_grad(true)
    collectgarbage()
    local before = core.memory().live
    core.reset_peak()
    local y, a = layer(x)
    beside = core.memory().peak - before
    collectgarbage()
    held = core.memory().live - before
    local sum = (y + a):sum()
    core.reset_peak()
    before = core.memory().live
    sum:backward()
    beside = math.max(beside - held, core.memory().peak - before)
  end
  return held / SEQUENCES, beside / SEQUENCES
end

local LENGTH = 1024 -- of the shorter of the two runs that stand for a long one

-- The same for any T. A long one is not run: each number is a T + b T^2 as long as the same form runs.
local function of_layer(layer, T, width, dtype)
  local function plan(n) return (layer.attention.family:plan(n):gsub("%d+", "")) end
  if T <= 2 * LENGTH or plan(T) ~= plan(LENGTH) or plan(T) ~= plan(2 * LENGTH) then
    return measured(layer, T, width, dtype)
  end
  local one, two, r = { measured(layer, LENGTH, width, dtype) }, { measured(layer, 2 * LENGTH, width, dtype) }, T / LENGTH
  local function at(i) return r * (4 * one[i] - two[i]) / 2 + r * r * (two[i] - 2 * one[i]) / 2 end
  return at(1), at(2)
end

-- Bytes of a state as text; "(grows)" behind those of an arm that carries more at twice its context.
function M.state_text(bytes, cfg)
  if not bytes then return "" end
  local c, grows = cfg.model, false
  for i = 1, c.layers do
    local a = config.instance_of(cfg, i)
    grows = grows or a:state_bytes(2 * c.context) > a:state_bytes(c.context)
  end
  return tables.human(bytes, true) .. (grows and " (grows)" or "")
end

-- cfg: resolved, dataset: of data.open. Returns {parameters, flops (a step), memory (bytes), state_bytes}.
-- Forward and backward cost three times the forward; a multiply-add counts two. Memory: of each parameter itself,
-- its gradient and AdamW's two moments; what the layers hold, and what the greediest of them or the loss needs
-- beside it; the text's tokens, of 4 bytes.
function M.of(cfg, dataset)
  local c, t = cfg.model, cfg.train
  local sizes = {}
  for k, v in pairs(c) do sizes[k] = v end
  if sizes.vocab == 0 then sizes.vocab = dataset.vocabulary:size() end
  local m = model.new { model = sizes, attention = cfg.attention, train = t, seed = 0 }
  local parameters, products = count(m)
  local bytes = t.dtype == "f64" and 8 or 4
  local B, T = t.batch_size, c.context
  local flops = 6 * products * B * T + c.layers * 3 * 4 * B * c.heads * T * T * c.head_dim
  local held, beside, known = 0, 2 * bytes * T * sizes.vocab, {} -- the logits and their gradient
  for _, layer in ipairs(m.layers) do
    local text = core.json.encode(layer.attention.spec)
    known[text] = known[text] or { of_layer(layer, T, c.width, t.dtype) }
    held, beside = held + known[text][1], math.max(beside, known[text][2])
  end
  return { parameters = parameters, flops = flops, state_bytes = m:state_bytes(T),
           memory = math.floor(4 * bytes * parameters + B * (held + beside) + 4 * dataset.tokens:numel()) }
end

return M
