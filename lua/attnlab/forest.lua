-- Panel (b) of an experiment's figure: the paired differences to the first arm, a row an arm, with their intervals.
-- A change here makes no run stale.
local axes = require "attnlab.axes"
local sheet = require "attnlab.sheet"
local quote = sheet.quote

local M = {}

local UNIT = 0.01 -- nats beyond which the axis is logarithmic where no margin can be seen on it
M.UNIT = UNIT

-- What the forest has to show on each side of 0: all points, and intervals up to three times them.
local function forest_range(rows, unit)
  local size, lo, hi = 0, -1.5 * unit, 1.5 * unit
  for _, r in ipairs(rows) do
    for _, v in ipairs(r.values) do size = math.max(size, math.abs(v)) end
  end
  for _, r in ipairs(rows) do
    for _, v in ipairs(r.values) do lo, hi = math.min(lo, 1.2 * v), math.max(hi, 1.2 * v) end
    if r.lo then
      lo = math.min(lo, math.max(1.05 * r.lo, -3 * size))
      hi = math.max(hi, math.min(1.05 * r.hi, 3 * size))
    end
  end
  return math.max(lo, -1e300), math.min(hi, 1e300)
end

-- Breaks a name of more than so many letters at the space nearest to its middle.
local function two_lines(name, most)
  if #name <= most then return name end
  local best
  for at in name:gmatch("() ") do
    if not best or math.abs(at - #name / 2) < math.abs(best - #name / 2) then best = at end
  end
  if not best then return name end
  return name:sub(1, best - 1), name:sub(best + 1)
end

-- Into box, with the name of every row at its left and its numbers at its right; room: a letter's share of the panel's
-- width, against that of the figure.
function M.panel(out, fig, box, titled, room)
  local rows = fig.forest
  local unit = (fig.margin or 0) > 1e-9 and fig.margin or UNIT -- ticks stand around it, and it divides
  if #rows == 0 then return end
  local lo, hi = forest_range(rows, unit)
  local map, ticks = axes.difference(unit, lo, hi, room)
  local title = "difference to " .. fig.reference .. " [nats per token]"
  sheet.frame(out, box, titled and "(b) " .. title)
  out[#out + 1] = ("set xrange [%.9g:%.9g]; set yrange [%.9g:0.4]"):format(map(lo), map(hi), #rows + 0.6)
  out[#out + 1] = "set xtics " .. sheet.tick_list(ticks, map) .. " font ',10'"
  out[#out + 1] = "set xlabel " .. quote(titled and fig.forest_label or title) .. (titled and "" or " font ',11'")
  out[#out + 1] = "unset ytics"
  local points = {}
  for i, r in ipairs(rows) do
    local first, second = two_lines(r.name, room and 16 or 22)
    local function label(id, text, place, y)
      out[#out + 1] = ("set label %d %s at graph %s, first %g font ',11' noenhanced")
        :format(id, quote(text), place, y)
    end
    label(300 + i, first, "-0.03", second and i - 0.19 or i)
    out[#out] = out[#out] .. " right"
    if second then
      label(400 + i, second, "-0.03", i + 0.19)
      out[#out] = out[#out] .. " right"
    end
    label(500 + i, r.note or r.text or "", "1.03", i)
  end
  if fig.margin then
    out[#out + 1] = ("set object 1 rect from first %.9g, graph 0 to first %.9g, graph 1 behind "
      .. "fc rgb '#e4e4e4' fs solid noborder"):format(map(-fig.margin), map(fig.margin))
  end
  out[#out + 1] = "set arrow 1 from first 0, graph 0 to first 0, graph 1 nohead back lc rgb '#606060' lw 1"
  out[#out + 1] = "set border 1; unset grid; set grid xtics"
  for i, r in ipairs(rows) do
    local line = function(s, ...) points[#points + 1] = s:format(...) end
    local function clip(v) return map(math.max(lo, math.min(hi, v))) end
    if r.lo then
      sheet.datablock(out, "interval" .. i, { { clip(r.lo), i }, { clip(r.hi), i } })
      line("$interval%d using 1:2 with lines %s lw 2.5 notitle", i, sheet.arm_colour(fig, r.index))
      local cut = {}
      if r.lo < lo then cut[#cut + 1] = { map(lo), i } end
      if r.hi > hi then cut[#cut + 1] = { map(hi), i } end
      if #cut > 0 then
        sheet.datablock(out, "cut" .. i, cut)
        line("$cut%d using 1:2 with points pt 1 ps 1.2 lw 2 %s notitle", i, sheet.arm_colour(fig, r.index))
      end
    end
    if #r.values > 0 then
      local dots = {}
      for k, v in ipairs(r.values) do dots[k] = { map(v), i + 0.22 } end
      sheet.datablock(out, "seeds" .. i, dots)
      line("$seeds%d using 1:2 with points pt 6 ps 0.6 lw 1 %s notitle", i, sheet.arm_colour(fig, r.index))
      sheet.datablock(out, "mean" .. i, { { map(r.mean), i } })
      line("$mean%d using 1:2 with points pt 7 ps 1.3 %s notitle", i, sheet.arm_colour(fig, r.index))
    end
  end
  if #points == 0 then points[1] = "NaN notitle" end
  out[#out + 1] = "plot " .. table.concat(points, ", \\\n  ")
  out[#out + 1] = "unset object 1; unset arrow 1; unset xlabel; unset label; set xtics font ',12'; set ytics auto"
end

return M
