-- Curves of runs, and curves as text: a line of blocks, and a figure of dots for the terminal.
-- A change here makes no run stale.
local axes = require "attnlab.axes"
local names = require "attnlab.names"
local tables = require "attnlab.table"

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

-- A curve in one line: its first value, its shape, its last value.
function M.line(name, points)
  local first, last = points[1], points[#points]
  return ("%s  %.4f %s %.4f at step %d"):format(name, first[2], M.spark(points), last[2], last[1])
end

-- ---- figures of dots --------------------------------------------------------------------------------

local ROWS, LEFT = 16, 8 -- lines of the plane, columns of the numbers beside it
local LETTERS = "abcdefghijklmnopqrstuvwxyz" -- of curves that would be taken for one another
-- Bits of a Braille sign by column and row of its dots.
local DOTS = { { 0x01, 0x02, 0x04, 0x40 }, { 0x08, 0x10, 0x20, 0x80 } }

local function finite(p) return math.abs(p[1]) < math.huge and math.abs(p[2]) < math.huge end

-- Lowest and highest of each axis over all points, widened where they are one, and whether both can be logarithmic.
local function ranges(series)
  local x, y, log = { math.huge, -math.huge }, { math.huge, -math.huge }, true
  for _, s in ipairs(series) do
    for _, p in ipairs(s.points) do
      if finite(p) then
        x[1], x[2], y[1], y[2] = math.min(x[1], p[1]), math.max(x[2], p[1]), math.min(y[1], p[2]), math.max(y[2], p[2])
        log = log and p[1] > 0 and p[2] > 1e-30
      end
    end
  end
  if x[1] > x[2] then return nil end
  for _, r in ipairs { x, y } do
    if r[2] - r[1] <= 1e-9 * math.abs(r[2]) then
      local by = math.max(math.abs(r[1]), 1e-3) * 0.1
      r[1], r[2] = r[1] - by, r[2] + by
    end
  end
  return x, y, log and y[2] / y[1] < 1e30
end

-- A plane of w x h signs, each of 2 x 4 dots where it is of UTF-8, else of one.
local function plane(w, h)
  local braille = M.utf8()
  return { w = w, h = h, nx = braille and 2 or 1, ny = braille and 4 or 1, braille = braille, bits = {}, owner = {} }
end

local function dot(c, x, y, k)
  local col, row = x // c.nx, y // c.ny
  if col < 0 or col >= c.w or row < 0 or row >= c.h then return end
  local at = row * c.w + col
  c.bits[at] = (c.bits[at] or 0) | (c.braille and DOTS[x % 2 + 1][y % 4 + 1] or 1)
  c.owner[at] = k
end

local function line(c, x0, y0, x1, y1, k)
  local n = math.max(math.abs(x1 - x0), math.abs(y1 - y0), 1)
  for i = 0, n do
    dot(c, math.floor(x0 + (x1 - x0) * i / n + 0.5), math.floor(y0 + (y1 - y0) * i / n + 0.5), k)
  end
end

local function letter(k)
  return LETTERS:sub((k - 1) % #LETTERS + 1, (k - 1) % #LETTERS + 1)
end

-- Curves have their letters now and then, each at columns of its own, or throughout where there are no dots.
local function sign(c, col, at, lettered)
  local bits, k = c.bits[at], c.owner[at]
  if not bits then return " " end
  if not c.braille or lettered and (col + 5 * k) % 14 == 0 then return letter(k) end
  return utf8.char(0x2800 + bits)
end

-- Rows of the labels at the curves' ends: as near to the last point as the others leave room.
local function label_rows(series, row_of)
  local order, taken, rows = {}, {}, {}
  for k, s in ipairs(series) do
    local last = s.points[#s.points]
    if last and finite(last) then order[#order + 1] = { k = k, row = row_of(last[2]) } end
  end
  table.sort(order, function(a, b) return a.row < b.row or a.row == b.row and a.k < b.k end)
  for _, o in ipairs(order) do
    for by = 0, ROWS do
      local down, up = o.row + by, o.row - by
      local free = down < ROWS and not taken[down] and down or up >= 0 and not taken[up] and up
      if free then
        taken[free], rows[free] = true, o.k
        break
      end
    end
  end
  return rows
end

local Figure = { __name = "attnlab.curves" }

function Figure:__tostring()
  local width, x, y, log = math.min(tables.columns(), 100), ranges(self.series)
  if not x then return self.title .. ": nothing to draw" end
  local lettered, labels, longest = not M.utf8() or #self.series > 2, {}, 0
  for k, s in ipairs(self.series) do
    labels[k] = tables.wrap((lettered and letter(k) .. " " or "") .. tables.clean(s.name, true), 26)[1]
    longest = math.max(longest, tables.width(labels[k]))
  end
  local c = plane(width - LEFT - 3 - longest, ROWS)
  local function scale(v, r, n)
    local share = log and math.log(v / r[1]) / math.log(r[2] / r[1]) or (v - r[1]) / (r[2] - r[1])
    return math.floor(share * (n - 1) + 0.5)
  end
  local function col(v) return scale(v, x, c.w * c.nx) end
  local function row(v) return c.h * c.ny - 1 - scale(v, y, c.h * c.ny) end
  for k, s in ipairs(self.series) do
    local before
    for _, p in ipairs(s.points) do
      if finite(p) then
        before = before or p
        line(c, col(before[1]), row(before[2]), col(p[1]), row(p[2]), k)
        before = p
      end
    end
  end
  local at, ends = {}, label_rows(self.series, function(v) return row(v) // c.ny end)
  for _, v in ipairs(log and axes.log_ticks(y[1], y[2]) or axes.even_ticks(y[1], y[2])) do at[row(v) // c.ny] = ("%.4g"):format(v) end
  local border, corner, flat = c.braille and "┤" or "|", c.braille and "└" or "+", c.braille and "─" or "-"
  local unnamed = #self.series > ROWS and ("; %d curves, %d of them named"):format(#self.series, ROWS) or ""
  local lines = { ("%s%s%s"):format(tables.clean(self.title, true), log and ", logarithmic axes" or "", unnamed) }
  for r = 0, c.h - 1 do
    local parts = { (" "):rep(LEFT - 1 - #(at[r] or "")), at[r] or "", " ", at[r] and border or c.braille and "│" or "|" }
    for k = 0, c.w - 1 do parts[#parts + 1] = sign(c, k, r * c.w + k, lettered) end
    parts[#parts + 1] = ends[r] and " " .. labels[ends[r]]
    lines[#lines + 1] = (table.concat(parts):gsub(" +$", ""))
  end
  lines[#lines + 1] = (" "):rep(LEFT) .. corner .. flat:rep(c.w)
  local foot = (" "):rep(LEFT)
  for _, v in ipairs(log and axes.log_ticks(x[1], x[2]) or axes.even_ticks(x[1], x[2])) do
    local text = ("%g"):format(v)
    local from = LEFT + 1 + math.max(0, math.min(col(v) // c.nx - #text // 2, c.w - #text))
    if from > #foot + (#foot > LEFT and 1 or 0) then foot = foot .. (" "):rep(from - #foot) .. text end
  end
  lines[#lines + 1] = foot .. "  step"
  return table.concat(lines, "\n")
end

-- Curves { { name =, points = { {step, value}, .. } }, .. } as a figure, which as text is drawn for the terminal.
function M.figure(title, series)
  return setmetatable({ title = title, series = series }, Figure)
end

local KNOWN = { "valid/loss", "train/loss", "lr", "grad_norm" }

-- The figure of a run's records: its losses, or one measurement.
function M.plot(records, name)
  local series = {}
  for _, n in ipairs(name and { name } or { "train/loss", "valid/loss" }) do
    local points = M.of(records, n)
    if #points > 0 then series[#series + 1] = { name = n, points = points } end
  end
  if #series == 0 then
    if name and not names.find(KNOWN, name) then error("plot: " .. names.unknown("measurement", tostring(name), KNOWN), 0) end
    error(("plot: nothing was recorded%s yet"):format(name and " of " .. name or ""), 0)
  end
  return M.figure(name or "losses [nats per token]", series)
end

return M
