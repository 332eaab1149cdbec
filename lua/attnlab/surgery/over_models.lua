-- Measurements of the same change in several models of one arm, which differ by their seeds, put together: what is
-- found of an arm is found over models, whose intervals go over these, not over documents. of(records) gives a record
-- for each change of each arm with two seeds or more, in the order of the records.
-- A change here makes no run stale.
local stats = require "attnlab.stats"

local function interval(values)
  local mean, deviation = stats.mean(values), stats.deviation(values)
  return mean, stats.t_quantile(0.975, #values - 1) * deviation / math.sqrt(#values)
end

local function joined(list)
  local first, out = list[1], {}
  for _, k in ipairs { "swap", "layer", "calibrated", "order", "data", "context" } do out[k] = first[k] end
  out.model = ("%s, over %d seeds"):format(first.arm, #list)
  out.models, out.n, out.windows = #list, #list, first.windows
  local means, kls = {}, {}
  for i, r in ipairs(list) do
    if r.failed or not r.mean then
      out.failed = ("%s: %s"):format(r.model, r.failed or "loss is not finite")
      return out
    end
    means[i], kls[i] = r.mean, r.kl
  end
  local half
  out.mean, half = interval(means)
  out.lo, out.hi = out.mean - half, out.mean + half
  out.kl, out.kl_half = interval(kls)
  return out
end

return function(records)
  local by, order, out = {}, {}, {}
  for _, r in ipairs(records) do
    if r.arm then
      local key = table.concat({ r.arm, r.swap, tostring(r.layer), tostring(r.calibrated), r.data, r.context }, "\n")
      if not by[key] then by[key], order[#order + 1] = {}, key end
      table.insert(by[key], r)
    end
  end
  for _, key in ipairs(order) do
    if #by[key] > 1 then out[#out + 1] = joined(by[key]) end
  end
  return out
end
