-- How measured values read in a table.
-- A change here makes no run stale.
local tables = require "attnlab.table"

local M = {}

function M.ms(seconds)
  local v = seconds * 1e3
  return (v < 1 and "%.4f" or v < 10 and "%.3f" or v < 100 and "%.2f" or "%.1f"):format(v)
end

function M.span(summary)
  return M.ms(summary.min) .. ".." .. M.ms(summary.max)
end

function M.percent(share)
  return ("%.0f %%"):format(100 * share)
end

function M.bytes(n)
  return tables.human(n, true)
end

-- FLOP/s or bytes/s in units of 1e9.
function M.giga(rate)
  local v = rate / 1e9
  return (v < 100 and "%.1f" or "%.0f"):format(v)
end

function M.error(ratio)
  return ratio == math.huge and "not a number" or ("%.1e"):format(ratio)
end

return M
