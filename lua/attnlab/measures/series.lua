-- The measure "series" of a trained model: what its attention gives when exp is cut at order p of its
-- series, p = 1 .. 10, and when one order alone is kept (s^p / p!, divided by the sum of the absolute
-- weights, as odd powers change sign). The layer's own queries, keys and values of validation text, in
-- f64; the same family, other options. Every layer sees the inputs that the trained model gives it.
--
--   sum, alone    RMS ratio of the output's error, over all layers
--   negative      share of the visible pairs whose weight P_p(s) is below 0
--   largest       largest |s|; rows with a visible |s| above 8 are left out (share: left_out): there
--                 terms cancel that are far larger than their sum
local core = require "attnlab.core"
local data = require "attnlab.data"
local results = require "attnlab.series_results"
local taps = require "attnlab.nn.taps"

local M = {}

local ORDERS, WINDOWS, BATCH, LARGEST = 10, 8, 4, 8

-- Nil where the layer's weights are not exp of q.k / sqrt(D).
local function twins_of(attention)
  if attention.family:family() ~= "kernel_attention" then return nil end
  local text = " " .. attention.family:text(true) .. " "
  if not (text:find " similarity=exp " and text:find " logit_scale=rsqrt ") then return nil end
  local t = { exact = attention:twin { impl = "composed" }, sum = {}, alone = {} }
  for p = 1, ORDERS do
    t.sum[p] = attention:twin { similarity = "taylor", order = p, impl = "composed" }
    t.alone[p] = attention:twin { similarity = "taylor", order = p, orders = { p }, impl = "composed", denominator = "abs" }
  end
  return t
end

local function count(t) return t:sum():item() end

-- 1 where t is above the limit, else 0.
local function above(t, limit) return (t - limit):sign():relu() end

-- Adds one layer's sums over a batch.
local function add(sums, t, q, k, v, x)
  local set = { q = q:to "f64", k = k:to "f64", v = v:to "f64", x = x and x:to "f64", causal = true }
  local want, found = taps.seen(t.exact, set, { "logits" })
  local seen = taps.visible(q:size(2), "f64")
  local s = core.op.select(seen, found.logits, core.zeros { shape = { 1 }, dtype = "f64" }) -- (B,H,T,T)
  local peak = s:abs():max { axes = { 4 } } -- (B,H,T)
  local keep = 1 - above(peak, LARGEST)
  sums.largest = math.max(sums.largest, peak:max():item())
  sums.rows, sums.kept = sums.rows + peak:numel(), sums.kept + count(keep)
  keep = keep:permute { axes = { 1, 3, 2 } }:unsqueeze { axis = -1 } -- (B,T,H,1)
  sums.norm = sums.norm + count((want * keep):square())
  sums.pairs = sums.pairs + count(seen) * q:size(1) * q:size(3)
  local weight, term = seen, seen
  for p = 1, ORDERS do
    for _, kind in ipairs { "sum", "alone" } do
      local y <close> = t[kind][p]:forward(set)
      sums[kind][p] = (sums[kind][p] or 0) + count(((y - want) * keep):square())
    end
    term = term * s * (1 / p)
    weight = weight + term
    sums.negative[p] = (sums.negative[p] or 0) + count(above(weight * -1, 0))
  end
end

function M.measure(model, cfg)
  if not model.causal then return nil end
  local twins = {}
  for i, block in ipairs(model.layers) do
    twins[i] = twins_of(block.attention)
    if not twins[i] then return nil end
  end
  local text, context = data.open(cfg.train.data, { vocab = model.vocabulary }), model.config.context
  if not text:running() then return nil end
  local sums = { largest = 0, rows = 0, kept = 0, norm = 0, pairs = 0, sum = {}, alone = {}, negative = {} }
  local mode = model.training
  model:eval()
  local ok, why = pcall(core.no_grad, function()
    for ids in text:even("valid", BATCH, context, text:windows("valid", context, WINDOWS)) do
      local h <close> = model:hidden(ids, { taps = taps.inputs(#model.layers, function(i, ...)
        add(sums, twins[i], ...)
        collectgarbage()
      end) })
    end
  end)
  model:train(mode)
  if not ok then error(why, 0) end
  local out = { largest = sums.largest, left_out = 1 - sums.kept / sums.rows, sum = {}, alone = {}, negative = {} }
  for p = 1, ORDERS do
    for _, kind in ipairs { "sum", "alone" } do out[kind][p] = math.sqrt(sums[kind][p] / sums.norm) end
    out.negative[p] = sums.negative[p] / sums.pairs
  end
  return out
end

for k, v in pairs(results) do M[k] = v end

function M.text(arm, record) return results.text(arm, record, LARGEST) end

return M
