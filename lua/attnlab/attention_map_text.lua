-- Attention maps for a terminal: one, a pair beside their difference, all heads small. A cell is shaded by its share of
-- the largest number of its row, which stands at the right. What does not fit is put together k by k tokens: sums over
-- keys, means over rows.
-- A change here makes no run stale.
local curves = require "attnlab.curves"
local tables = require "attnlab.table"

local M = {}

local LEVELS = { 0.05, 0.25, 0.5, 0.75 } -- least share of each shade
local SHADES = { utf8 = { "░", "▒", "▓", "█" }, ascii = { ".", ":", "+", "#" } }
local NEGATIVE = { "-", "~", "=", "%" }
local LABEL, TALL, SCALE = 9, 7, 9 -- columns of a token, lines of one above, columns of the scale

local function columns() return math.max(40, tables.columns()) end

-- ---- cells --------------------------------------------------------------------------------------------

-- { n, k, token of each cell, rows of numbers }: the map in n by n cells of k tokens, at most `room` of them.
local function pooled(map, room)
  local T = #map.tokens
  local k = math.max(1, math.ceil(T / math.max(1, room)))
  local n, list = math.ceil(T / k), map.values:flat()
  local out = { n = n, k = k, tokens = {} }
  for I = 1, n do
    local row, first, last = {}, (I - 1) * k + 1, math.min(I * k, T)
    out.tokens[I] = map.tokens[first]
    for J = 1, n do
      local sum = 0
      for i = first, last do
        for j = (J - 1) * k + 1, math.min(J * k, T) do sum = sum + list[(i - 1) * T + j] end
      end
      row[J] = sum / (last - first + 1)
    end
    out[I] = row
  end
  return out
end

local function largest(row)
  local most = 0
  for _, v in ipairs(row) do
    if v == v then most = math.max(most, math.abs(v)) end
  end
  return most
end

local function cell(v, scale, shades)
  if v ~= v then return "?" end
  local share, level = scale > 0 and math.abs(v) / scale or 0, 0
  for i, least in ipairs(LEVELS) do
    if share >= least then level = i end
  end
  if level == 0 then return " " end
  return v < 0 and NEGATIVE[level] or shades[level]
end

local function line_of(row, scale, wide, shades)
  local cells = {}
  for j, v in ipairs(row) do cells[j] = cell(v, scale, shades):rep(wide) end
  return table.concat(cells)
end

-- ---- tokens -------------------------------------------------------------------------------------------

local function characters(token, unicode)
  local out = {}
  for _, c in utf8.codes(tables.clean(token, true)) do
    out[#out + 1] = (unicode or c < 128) and utf8.char(c) or "?"
  end
  return out
end

-- At most `most` of them; the last one says that there were more.
local function cut(list, most)
  if #list <= most then return list end
  list = table.move(list, 1, most, 1, {})
  list[most] = "~"
  return list
end

-- Lines of the tokens written downwards, one a cell.
local function downwards(tokens, wide, unicode)
  local lines, tall, columns_of = {}, 0, {}
  for j, token in ipairs(tokens) do
    columns_of[j] = cut(characters(token, unicode), TALL)
    tall = math.max(tall, #columns_of[j])
  end
  for r = 1, tall do
    local cells = {}
    for j, list in ipairs(columns_of) do cells[j] = (list[#list - tall + r] or " ") .. (" "):rep(wide - 1) end
    lines[r] = table.concat(cells)
  end
  return lines
end

local function label(token, unicode)
  return table.concat(cut(characters(token, unicode), LABEL))
end

local function number(v) return ("%.2g"):format(v) end -- at most 7 columns

local function legend(shades, signed, k)
  local parts = {}
  for i, least in ipairs(LEVELS) do parts[i] = ("%s %g%%"):format(shades[i], 100 * least) end
  local text = "from " .. table.concat(parts, " ") .. " of the row's largest, at the right"
  if signed then text = text .. "; below 0: " .. table.concat(NEGATIVE, " ") end
  if k > 1 then text = text .. ("; cells of %d by %d tokens: sums over keys, means over rows"):format(k, k) end
  return text
end

local function wrap(text, width) return table.concat(tables.wrap(text, width), "\n") end

local function trimmed(lines)
  for i, line in ipairs(lines) do lines[i] = line:gsub("%s+$", "") end
  return table.concat(lines, "\n")
end

-- ---- pictures -----------------------------------------------------------------------------------------

local function signed(list)
  for _, map in ipairs(list) do
    for _, row in ipairs(map) do
      for _, v in ipairs(row) do
        if v < 0 then return true end
      end
    end
  end
  return false
end

-- Maps of the same tokens side by side, a scale a row for each.
local function side_by_side(maps, titles)
  local unicode, width = curves.utf8(), columns()
  local shades = SHADES[unicode and "utf8" or "ascii"]
  local T = #maps[1].tokens
  local room = (width - LABEL - 1) // #maps - SCALE
  local wide = T * 2 <= room and 2 or 1
  local grids = {}
  for i, map in ipairs(maps) do grids[i] = pooled(map, room // wide) end
  local n = grids[1].n
  local lines, across = {}, n * wide
  local function beside(f)
    local cells = {}
    for i in ipairs(maps) do cells[i] = tables.pad(f(i), across + SCALE) end
    return table.concat(cells)
  end
  if titles then
    lines[1] = (" "):rep(LABEL + 1) .. beside(function(i) return titles[i] end)
  end
  for _, down in ipairs(downwards(grids[1].tokens, wide, unicode)) do
    lines[#lines + 1] = (" "):rep(LABEL + 1) .. beside(function() return down end)
  end
  for r = 1, n do
    local rounding = 0 -- a difference of no more is none
    lines[#lines + 1] = tables.pad(label(grids[1].tokens[r], unicode), LABEL, true) .. " " .. beside(function(i)
      local scale = math.max(rounding, largest(grids[i][r]))
      rounding = math.max(rounding, 1e-6 * scale)
      return ("%s %s"):format(line_of(grids[i][r], scale, wide, shades), number(scale))
    end)
  end
  lines[#lines + 1] = wrap(legend(shades, signed(grids), grids[1].k), width)
  return trimmed(lines)
end

function M.one(map)
  return wrap(map:title(), columns()) .. "\n" .. side_by_side { map }
end

function M.beside(pair)
  local a, b = pair[1], pair[2]
  return wrap(("a: %s; b: %s"):format(a:title(), b:title()), columns()) .. "\n"
    .. side_by_side({ a, b, pair[3] }, { "a", "b", "a - b" })
end

-- All heads, small, as many beside one another as fit.
function M.small(all)
  local unicode, width = curves.utf8(), columns()
  local shades, most = SHADES[unicode and "utf8" or "ascii"], 16
  local lines, grids = {}, {}
  for h, map in ipairs(all) do grids[h] = pooled(map, most) end
  local n = math.max(grids[1].n, 7)
  local across = math.max(1, (width + 2) // (n + 2))
  for first = 1, #all, across do
    local last = math.min(#all, first + across - 1)
    local function line(f)
      local cells = {}
      for h = first, last do cells[#cells + 1] = tables.pad(f(h), n) end
      lines[#lines + 1] = table.concat(cells, "  ")
    end
    if first > 1 then lines[#lines + 1] = "" end
    line(function(h) return "head " .. h end)
    for r = 1, grids[1].n do
      line(function(h) return line_of(grids[h][r], largest(grids[h][r]), 1, shades) end)
    end
  end
  local head = ("layer %d, all heads, %d tokens: %s"):format(all[1].layer, #all[1].tokens, all[1].what)
  local scale = legend(shades, signed(grids), grids[1].k):gsub(", at the right", "")
  return wrap(head, width) .. "\n" .. trimmed(lines) .. "\n" .. wrap(scale, width)
end

return M
