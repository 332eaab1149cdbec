-- What the measure "series" (measures/series.lua) makes of its records: over the seeds, as a table, as a panel of a
-- figure, and as what an experiment expected of it.
-- A change here makes no run stale.
local stats = require "attnlab.stats"
local tables = require "attnlab.table"

local M = {}

-- Means over the seeds, with the least and the greatest of the errors.
function M.gather(list)
  local out = { n = #list, largest = 0, left_out = 0, sum = {}, alone = {}, negative = {} }
  for _, r in ipairs(list) do
    out.largest, out.left_out = math.max(out.largest, r.largest), out.left_out + r.left_out / #list
  end
  for _, kind in ipairs { "sum", "alone", "negative" } do
    for p = 1, #list[1].sum do
      local values = {}
      for i, r in ipairs(list) do values[i] = r[kind][p] end
      out[kind][p] = { mean = stats.mean(values), low = math.min(table.unpack(values)), high = math.max(table.unpack(values)) }
    end
  end
  return out
end

function M.text(arm, r, largest)
  local cells = {}
  for p = 1, #r.sum do
    cells[p] = { p = tostring(p), sum = ("%.3e"):format(r.sum[p].mean), alone = ("%.3f"):format(r.alone[p].mean),
                 negative = ("%.2g %%"):format(100 * r.negative[p].mean) }
  end
  return ("The trained arm '%s' with its exp replaced, %d seed%s: relative error of the attention's output,\n"
    .. "RMS(output - exact) / RMS(exact), 0 = exact, over the %.3g %% of the rows with no |s| > %d (largest of all %.1f);\n"
    .. "negative weights: share of the pairs of all rows:\n"):format(arm, r.n, r.n == 1 and "" or "s", 100 - 100 * r.left_out, largest, r.largest)
    .. tables.text({ { key = "p", title = "p", right = true }, { key = "sum", title = "up to order p", right = true },
                     { key = "alone", title = "s^p alone", right = true },
                     { key = "negative", title = "negative weights", right = true } }, cells)
end

-- For panels.lua. measured = {{arm =, record =}, ..}: every arm that was. The curves have names: figures.lua gives
-- those of one name one colour. A line joins orders of one parity, as the other's are another function.
function M.panel(measured)
  local panel = { title = "output of trained attention, exp replaced", xlabel = "order p",
                  ylabel = "relative error of the output (0 = exact)", logy = true, curves = {} }
  for _, x in ipairs(measured) do
    for _, line in ipairs { { "up to p, even", "sum", 2, 2 }, { "up to p, odd", "sum", 1, 2 }, { "p alone", "alone", 1, 1 } } do
      local points = {}
      local kind = line[2]
      for p = line[3], #x.record.sum, line[4] do
        local e = x.record[kind][p]
        points[#points + 1] = { p, e.mean, low = e.low, high = e.high }
      end
      panel.curves[#panel.curves + 1] = { name = line[1], points = points, marks = true }
    end
  end
  return panel
end

-- What can be expected of it, by name: function(record) -> holds, detail.
M.expect = {
  -- every even order is nearer to exp than the one before it
  falls = function(r)
    local bad
    for p = 4, #r.sum, 2 do
      if not (r.sum[p].mean < r.sum[p - 2].mean) then bad = bad or p end
    end
    return not bad, ("over even orders from %.1e at 2 to %.1e at %d%s"):format(r.sum[2].mean, r.sum[#r.sum].mean,
      #r.sum, bad and (", not below the one before at %d"):format(bad) or "")
  end,
  -- no weight of an even order is below 0; of odd ones some are
  even_positive = function(r)
    local even, odd = 0, 0
    for p = 1, #r.sum do
      if p % 2 == 0 then even = even + r.negative[p].high else odd = odd + r.negative[p].high end
    end
    return even == 0, even == 0 and ("no weight of an even order, %.2g %% at order 1"):format(100 * r.negative[1].mean)
      or "negative weights at even orders"
  end,
  -- no even order alone is as near as the sum up to it (an odd sum can vanish, and is then far from all)
  alone_worse = function(r)
    local worst = math.huge
    for p = 2, #r.sum, 2 do worst = math.min(worst, r.alone[p].low / r.sum[p].high) end
    return worst > 1, ("at even p at least %.2f times the error of the sum (smallest over seeds)"):format(worst)
  end,
}

return M
