-- Curves of runs, and as text: a line of blocks.
-- A change here makes no run stale.
local M = {}

-- Array of { step, value } of one measurement from a run's records.
function M.of(records, name)
  local out = {}
  for _, rec in ipairs(records) do
    local v = rec[name]
    if type(v) == "number" then out[#out + 1] = { rec.step, v } end
  end
  return out
end

-- Whether the terminal's character set is UTF-8, as the environment says.
function M.utf8()
  for _, name in ipairs { "LC_ALL", "LC_CTYPE", "LANG" } do
    local v = os.getenv(name)
    if v and v ~= "" then return v:lower():find "utf%-?8" ~= nil end
  end
  return false
end

local BLOCKS, PLAIN = { "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█" }, { "_", ".", "-", "=", "^" }

-- The values of a curve as one line of at most `width` (24) characters, each the mean of its share of the points.
-- What is not finite is a cross.
function M.spark(points, width)
  local n, parts, lo, hi = math.min(#points, width or 24), {}, math.huge, -math.huge
  for i = 1, n do
    local first, last, sum = (i - 1) * #points // n + 1, i * #points // n, 0
    for k = first, last do sum = sum + points[k][2] end
    parts[i] = sum / (last - first + 1)
    if math.abs(parts[i]) < math.huge then lo, hi = math.min(lo, parts[i]), math.max(hi, parts[i]) end
  end
  local signs = M.utf8() and BLOCKS or PLAIN
  for i, v in ipairs(parts) do
    local share = hi > lo and (v - lo) / (hi - lo) or 0
    parts[i] = math.abs(v) < math.huge and signs[math.min(#signs, 1 + math.floor(share * #signs))] or "x"
  end
  return table.concat(parts)
end

return M
