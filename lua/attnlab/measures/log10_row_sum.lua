-- The measure "log10_row_sum" of a trained model: what its attention's weights sum to. The row sum W_t = sum_j w_tj
-- is softmax's denominator, and for an arm without one it is the number that nothing divides by. It is computed by
-- the family itself: the same options with denominator, gates and norm off, in f64, on values that are all 1.
local core = require "attnlab.core"
local config = require "attnlab.config"
local data = require "attnlab.data"
local rows = require "attnlab.rows"
local taps = require "attnlab.nn.taps"

local M = {
  always = true,
  profile = { title = "row sum of f(s)", label = "position t",
              note = "trained arms whose weights f(s), softmax's exp(s), are positive: mean of log10 over layers, heads, "
                .. "text and seeds; grey: t, as if every f(s) were 1" },
  expect = {},
}

local WINDOWS, BATCH = 8, 4
local LOG10 = math.log(10)

-- The options that make the weights; without the others the output is the bare numerator.
local WEIGHTS = { "feature_map", "similarity", "expr", "expr_params", "order", "orders", "coefficients", "logit_scale",
                  "logit_clamp", "logit_softcap", "logit_round", "decay" }

-- The weights of the layer's attention as an attention of their own; nil where their sum has no sure
-- sign or where they need x.
local function twin_of(layer, spec)
  if layer.family:family() ~= "kernel_attention" then return nil end
  local options = { denominator = "none" }
  local rows_of_preset = core.attn.options(spec.preset or "")
  for _, key in ipairs(WEIGHTS) do
    local row = rows.find(rows_of_preset, key)
    options[key] = spec[key]
    if options[key] == nil and rows.show(row.value) ~= row.default then options[key] = row.value end
  end
  if options.decay == "gated" then return nil end
  local twin = core.attn.new("", options, { heads = layer.heads, kv_heads = layer.kv_heads,
    head_dim = layer.head_dim, value_dim = 1, dtype = "f64", seed = 0, tag = "probe" })
  if not twin:claims().positive_weights then return nil end
  local learned = layer.family:parameters()
  for name in pairs(twin:parameters()) do twin:set_parameter(name, learned[name]:to "f64") end
  return twin
end

-- Adds log W and the number of rows with W > 0, summed over batch and heads, to sum and count (T).
local function add_rows(twin, q, k, sum, count)
  local B, S, heads = k:size(1), k:size(2), k:size(3)
  local ones <close> = core.full { shape = { B, S, heads, 1 }, value = 1, dtype = "f64" }
  local w <close> = twin:forward { q = q:to "f64", k = k:to "f64", v = ones, causal = true }
  local w3 <close> = w:reshape { shape = { B, S, w:size(3) } }
  local positive <close> = core.op.clamp(w3, { min = 1e-300 })
  local zero <close> = core.zeros { shape = w3:shape(), dtype = "f64" }
  local logs <close> = core.op.select(w3, positive:log(), zero):sum { axes = { 1, 3 } }
  local one <close> = core.full { shape = w3:shape(), value = 1, dtype = "f64" }
  local n <close> = core.op.select(w3, one, zero):sum { axes = { 1, 3 } }
  for t, v in ipairs(logs:flat()) do sum[t] = (sum[t] or 0) + v end
  for t, v in ipairs(n:flat()) do count[t] = (count[t] or 0) + v end
end

-- Mean of log10 W_t by position over layers, heads and fixed validation windows (rows whose weights are all 0 are left
-- out), or nil where the arm has no such sum, or every row all tokens, or windows are not one text each.
function M.measure(model, cfg)
  if not model.causal then return nil end
  local twins = {}
  for i, block in ipairs(model.layers) do
    twins[i] = twin_of(block.attention, config.attention_of(model.spec, i))
    if not twins[i] then return nil end
  end
  local text = data.open(cfg.train.data, { vocab = model.vocabulary })
  if not text:running() then return nil end
  local context = model.config.context
  local sum, count = {}, {}
  local mode = model.training
  model:eval()
  core.no_grad(function()
    for x in text:even("valid", BATCH, context, text:windows("valid", context, WINDOWS)) do
      local h <close> = model:hidden(x, { taps = taps.inputs(#model.layers, function(i, q, k)
        add_rows(twins[i], q, k, sum, count)
      end) })
    end
  end)
  model:train(mode)
  for t, n in ipairs(count) do
    if n == 0 then return nil end
    sum[t] = sum[t] / n / LOG10
  end
  return sum
end

local function are_numbers(list)
  if type(list) ~= "table" then return false end
  for _, v in ipairs(list) do
    if type(v) ~= "number" then return false end
  end
  return true
end

-- Means over the seeds; what is in a run's file may be anything, and counts where it is a list of numbers.
function M.gather(list)
  local sum, n = nil, 0
  for _, values in ipairs(list) do
    if are_numbers(values) then
      n, sum = n + 1, sum or {}
      for t, v in ipairs(values) do sum[t] = (sum[t] or 0) + v end
    end
  end
  for t, v in ipairs(sum or {}) do sum[t] = v / n end
  return sum
end

function M.text(arm, values)
  local words, t = {}, 1
  while t <= #values do
    words[#words + 1] = ("%d: %.2f"):format(t, values[t])
    t = 2 * t
  end
  return ("Row sums of the trained arm '%s', mean of log10 by position:\n  %s"):format(arm, table.concat(words, "  "))
end

-- For panels.lua, as of series.
function M.panel(measured)
  local panel = { title = M.profile.title, xlabel = M.profile.label, ylabel = "row sum", logy = true, curves = {} }
  for i, x in ipairs(measured) do
    local points = {}
    for t, v in ipairs(x.record) do points[t] = { t, 10.0 ^ v } end
    panel.curves[i] = { name = x.arm, points = points }
  end
  return panel
end

return M
