-- Attention maps as a picture, by gnuplot: draw(maps, "file.png" or ".svg", small) -> path. One map, or a pair and their
-- difference, with the tokens along the axes; small: many, each with its head as a title alone.
-- A change here makes no run stale.
local core = require "attnlab.core"
local gnuplot = require "attnlab.gnuplot"
local names = require "attnlab.names"
local plot = require "attnlab.plot"
local tables = require "attnlab.table"
local sys = core.sys

local M = {}

local MOST_TICKS = 40 -- tokens that are written out along an axis
local ABOVE = "defined (0 '#ffffff', 0.25 '#c6dbef', 0.5 '#6baed6', 0.75 '#2171b5', 1 '#08306b')"
local AROUND = "defined (-1 '#8c2d04', -0.5 '#fdae6b', 0 '#ffffff', 0.5 '#6baed6', 1 '#08306b')"

local function extent(map)
  local lo, hi = 0, 0
  for _, v in ipairs(map.values:flat()) do
    if v == v and math.abs(v) < 1e120 then lo, hi = math.min(lo, v), math.max(hi, v) end
  end
  return lo, hi
end

local function ticks(tokens)
  local every, list = math.ceil(#tokens / MOST_TICKS), {}
  for i = 1, #tokens, every do list[#list + 1] = ("%s %d"):format(plot.quote(tables.clean(tokens[i], true)), i) end
  return "(" .. table.concat(list, ", ") .. ")"
end

local function block(out, name, map)
  local T, list, rows = #map.tokens, map.values:flat(), {}
  for i = 1, T do
    for j = 1, T do
      local v = list[(i - 1) * T + j]
      if v ~= v or math.abs(v) > 1e120 then v = 0 end
      rows[#rows + 1] = ("%d %d %.9g"):format(j, i, v)
    end
  end
  out[#out + 1] = ("$%s << EOD\n%s\nEOD"):format(name, table.concat(rows, "\n"))
end

local function panel(out, map, name, title, bare)
  local T, lo, hi = #map.tokens, extent(map)
  local most = math.max(hi, -lo, 1e-30)
  out[#out + 1] = ("set title %s noenhanced"):format(plot.quote(title))
  out[#out + 1] = ("set xrange [0.5:%d.5]; set yrange [%d.5:0.5]; set size ratio -1"):format(T, T)
  out[#out + 1] = lo < 0 and "set palette " .. AROUND or "set palette " .. ABOVE
  out[#out + 1] = ("set cbrange [%.9g:%.9g]"):format(lo < 0 and -most or 0, most)
  if bare then
    out[#out + 1] = "unset xtics; unset ytics; unset colorbox"
  else
    local font = T > 24 and "font ',9'" or "font ',11'"
    out[#out + 1] = ("set xtics rotate by 90 right noenhanced %s %s; set ytics noenhanced %s %s")
      :format(ticks(map.tokens), font, ticks(map.tokens), font)
  end
  out[#out + 1] = ("plot $%s using 1:2:3 with image notitle"):format(name)
end

-- The script; `columns` panels side by side.
function M.script(maps, outputs, small, columns)
  local out, n = { "set encoding utf8; unset key; set tics scale 0; set border lc rgb '#404040'" }, #maps
  for i, map in ipairs(maps) do block(out, "map" .. i, map) end
  for _, o in ipairs(outputs) do
    out[#out + 1] = "set terminal " .. o[1]
    out[#out + 1] = "set output " .. plot.quote(o[2])
    local title = small and ("layer %d: %s; colours from 0 to a head's largest"):format(maps[1].layer, maps[1].what) or maps[1].what
    out[#out + 1] = ("set multiplot layout %d,%d title %s font ',14' noenhanced"):format(math.ceil(n / columns), columns,
      plot.quote(title))
    for i, map in ipairs(maps) do
      panel(out, map, "map" .. i, small and "head " .. map.head or map:short(), small)
    end
    out[#out + 1] = "unset multiplot; unset output"
  end
  return table.concat(out, "\n") .. "\n"
end
M.script = core.plain(M.script)

-- What gnuplot drew goes to `path` when it is whole; nothing else stays.
function M.draw(maps, path, small)
  local kind = type(path) == "string" and path:match "%.(%a+)$"
  if kind ~= "png" and kind ~= "svg" then
    error(("plot: a file .png or .svg expected, got %s"):format(type(path) == "string" and "'" .. path .. "'" or type(path)), 0)
  end
  local folder = path:match "^(.*)/[^/]*$" or "."
  if sys.exists(folder == "" and "/" or folder) ~= "dir" then error(("plot: there is no folder '%s'"):format(folder), 0) end
  local work = ("%s.%d.part"):format(path, sys.pid())
  sys.mkdir(work)
  local across = small and math.ceil(math.sqrt(#maps * 1.3)) or #maps
  local size = small and { 280 * across, 70 + 270 * math.ceil(#maps / across) } or { 250 + 650 * across, 720 }
  local ok, why = pcall(function()
    local files, failed = gnuplot.render(function(outputs) return M.script(maps, outputs, small, across) end, work, "map",
      { [kind] = gnuplot.FORMATS[kind] }, size)
    if not files then error("plot: " .. failed, 0) end
    sys.rename(files[kind], path)
  end)
  for _, file in ipairs(sys.list(work)) do sys.remove(work .. "/" .. file) end
  sys.remove(work)
  if not ok then error(why, 0) end
  return names.plain(path)
end

return M
