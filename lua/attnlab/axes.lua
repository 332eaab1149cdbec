-- Axes of the figures: where the ticks stand, and the scale of differences.
-- A change here makes no run stale.
local M = {}

-- Round positions between lo and hi with a step of 1, 2 or 5: at least three.
function M.even_ticks(lo, hi)
  local power = 10.0 ^ math.floor(math.log((hi - lo) / 3, 10))
  for _, m in ipairs { 5, 2, 1 } do
    local ticks, step = {}, m * power
    for k = math.ceil(lo / step), math.floor(hi / step) do ticks[#ticks + 1] = k * step end
    if #ticks >= 3 then return ticks end
  end
  return { lo, hi }
end

-- Round positions for a logarithmic axis from lo to hi: the first set that gives at least four.
function M.log_ticks(lo, hi)
  local sets = { { 1 }, { 1, 3 }, { 1, 2, 5 }, { 1, 1.5, 2, 3, 4, 6, 8 },
                 { 1, 1.2, 1.4, 1.6, 1.8, 2, 2.2, 2.5, 2.8, 3.2, 3.6, 4, 4.5, 5, 6, 7, 8, 9 } }
  local ticks
  for _, set in ipairs(sets) do
    ticks = {}
    for e = math.floor(math.log(lo, 10)), math.ceil(math.log(hi, 10)) do
      for _, m in ipairs(set) do
        local v = m * 10.0 ^ e
        if v >= lo * 0.9999 and v <= hi * 1.0001 then ticks[#ticks + 1] = v end
      end
    end
    if #ticks >= 4 then return ticks end
  end
  return hi > lo and #ticks < 3 and M.even_ticks(lo, hi) or ticks
end

-- The axis of differences: linear near 0, logarithmic beyond `unit` (asinh), so that 0.005 and 0.5 can
-- both be read. Returns the map and the ticks between lo <= 0 and hi >= 0, far enough apart for labels; room: how much
-- of the axis a letter takes, against a panel of the figure.
function M.difference(unit, lo, hi, room_share)
  local function map(v)
    local z = math.abs(v) / unit
    local u = z < 1e9 and math.log(z + math.sqrt(z * z + 1)) or math.log(z) + math.log(2) -- z * z may overflow
    return v < 0 and -u or u
  end
  local ticks, range = { 0 }, map(hi) - map(lo)
  local function room(v) return 0.011 * (room_share or 1) * #("%g"):format(v) end -- half a label's, of the panel's width
  local function try(v)
    if v < lo or v > hi then return end
    for _, t in ipairs(ticks) do
      if math.abs(map(t) - map(v)) < (room(t) + room(v) + 0.02) * range then return end
    end
    ticks[#ticks + 1] = v
  end
  for _, m in ipairs { 1, 3 } do
    for e = 6, 0, -1 do
      try(m * unit * 10.0 ^ e)
      try(-m * unit * 10.0 ^ e)
    end
  end
  return map, ticks
end

return M
