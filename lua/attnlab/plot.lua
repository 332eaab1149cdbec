-- The figure of an experiment, drawn by gnuplot as a child process. (a) log-log loss curves with seed
-- bands, (b) forest plot of paired differences, (c) a measure by position. plot.script builds the
-- text from numbers and quoted names only: data travel in datablocks of the script file, nothing
-- passes a shell, and the axes may be scaled but no value is changed.
-- A change here makes no run stale.
local axes = require "attnlab.axes"
local core = require "attnlab.core"
local gnuplot = require "attnlab.gnuplot"

local M = {}

-- Okabe and Ito's colours without yellow, which is too light for lines. With four dashes every one of
-- 28 arms has its own pair, and neighbours differ in dash as well as in colour.
local COLOURS = { "#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00" }
local DASHES = { "solid", "(10,3)", "(3,2)", "(10,3,2,3)" }

M.UNIT = 0.01 -- nats beyond which the axis of differences is logarithmic where no margin can be seen on it

-- Single quotes keep gnuplot from substituting anything; control characters would end the line.
function M.quote(s)
  return "'" .. s:gsub("%c", " "):gsub("'", "''") .. "'"
end

local function style(i)
  return ("lc rgb '%s' dt %s"):format(COLOURS[(i - 1) % #COLOURS + 1], DASHES[(i - 1) % #DASHES + 1])
end

local function colour(i)
  return ("lc rgb '%s'"):format(COLOURS[(i - 1) % #COLOURS + 1])
end

local function datablock(out, name, rows)
  out[#out + 1] = ("$%s << EOD"):format(name)
  for _, row in ipairs(rows) do
    local cells = {}
    for i, v in ipairs(row) do cells[i] = ("%.9g"):format(v) end
    out[#out + 1] = table.concat(cells, " ")
  end
  out[#out + 1] = "EOD"
end

local function tick_list(values, map)
  local t = {}
  for i, v in ipairs(values) do t[i] = ("'%g' %.9g"):format(v, map and map(v) or v) end
  return "(" .. table.concat(t, ", ") .. ")"
end

-- Screen rectangle of a panel: left, right, with the height common to all.
local function frame(out, left, right, bottom, title)
  out[#out + 1] = ("set lmargin at screen %g; set rmargin at screen %g"):format(left, right)
  out[#out + 1] = ("set tmargin at screen 0.915; set bmargin at screen %g"):format(bottom)
  out[#out + 1] = ("set label 1 %s at graph 0, graph 1.035 left font ',13' noenhanced"):format(M.quote(title))
end

-- Samples and names in columns under the panels; gnuplot's own key cannot be made this wide.
-- They stand on a height of `below`. Returns the height that they take.
local function legend(out, curves, below)
  local longest = 0
  for _, c in ipairs(curves) do longest = math.max(longest, #c.name) end
  local columns = longest > 28 and 3 or 4
  local rows = math.ceil(#curves / columns)
  for i, c in ipairs(curves) do
    local x = 0.05 + 0.96 / columns * ((i - 1) // rows)
    local y = 0.028 + below + 0.034 * (rows - 1 - (i - 1) % rows)
    out[#out + 1] = ("set arrow %d from screen %g, screen %g to screen %g, screen %g nohead %s lw 2.2")
      :format(100 + i, x, y, x + 0.035, y, c.style or style(i))
    out[#out + 1] = ("set label %d %s at screen %g, screen %g left font ',12' noenhanced")
      :format(100 + i, M.quote(c.name), x + 0.04, y)
  end
  return 0.034 * rows
end

-- The curves without the points that a logarithmic axis cannot show: a loss may be 0.
local function on_log_axes(curves)
  local out = {}
  local function fits(v) return v > 1e-30 and v < 1e30 end
  for i, c in ipairs(curves) do
    local points = {}
    for _, p in ipairs(c.points) do
      if fits(p[2]) and fits(p[3]) and fits(p[4]) then points[#points + 1] = p end
    end
    out[i] = { name = c.name, diverged = c.diverged, points = points }
  end
  return out
end

-- What has to be known to read the figure, in lines at its foot. Returns the height that they take.
local function notes(out, lines)
  for i, line in ipairs(lines) do
    out[#out + 1] = ("set label %d %s at screen 0.05, screen %g left font ',10' noenhanced")
      :format(200 + i, M.quote(line), 0.02 + 0.027 * (#lines - i))
  end
  return #lines > 0 and 0.027 * #lines + 0.012 or 0
end

local function curves_panel(out, fig, curves, bottom)
  local xlo, xhi, ylo, yhi = math.huge, 0, math.huge, 0
  for _, c in ipairs(curves) do
    for _, p in ipairs(c.points) do
      xlo, xhi = math.min(xlo, p[1]), math.max(xhi, p[1])
      ylo = math.min(ylo, p[3])
      if not c.diverged then yhi = math.max(yhi, p[4]) end
    end
  end
  if xhi == 0 then return end
  if yhi <= ylo then yhi = ylo * 2 end
  ylo, yhi = ylo / 1.02, yhi * 1.03
  frame(out, 0.05, 0.33, bottom, "(a) " .. fig.ylabel .. " [nats per token]")
  out[#out + 1] = "set logscale xy; set grid; set border 3; set tics nomirror"
  local right = xhi * 1.02 + (xlo == xhi and 1 or 0)
  out[#out + 1] = ("set xrange [%.9g:%.9g]; set yrange [%.9g:%.9g]"):format(xlo, right, ylo, yhi)
  out[#out + 1] = "set xtics " .. tick_list(axes.log_ticks(xlo, xhi))
  out[#out + 1] = "set ytics " .. tick_list(axes.log_ticks(ylo, yhi))
  out[#out + 1] = "set xlabel " .. M.quote(fig.xlabel)
  local parts = {}
  for i, c in ipairs(curves) do
    if #c.points > 0 then
      parts[#parts + 1] = ("$curve%d using 1:3:4 with filledcurves %s fs transparent solid 0.20 noborder notitle")
        :format(i, colour(i))
    end
  end
  for i, c in ipairs(curves) do
    if #c.points > 0 then
      parts[#parts + 1] = ("$curve%d using 1:2 with lines %s lw 2.2 notitle"):format(i, style(i))
    end
    if c.diverged and #c.points > 0 then
      local last = c.points[#c.points]
      parts[#parts + 1] = ("$end%d using 1:2 with points pt 2 ps 1.4 lw 2.5 %s notitle"):format(i, colour(i))
      datablock(out, "end" .. i, { { last[1], math.min(last[2], yhi) } })
    end
  end
  out[#out + 1] = "plot " .. table.concat(parts, ", \\\n  ")
  out[#out + 1] = "unset logscale; unset label; unset arrow; unset xlabel"
end

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

-- Breaks a long name at the space nearest to its middle.
local function two_lines(name)
  if #name <= 22 then return name end
  local best
  for at in name:gmatch("() ") do
    if not best or math.abs(at - #name / 2) < math.abs(best - #name / 2) then best = at end
  end
  if not best then return name end
  return name:sub(1, best - 1), name:sub(best + 1)
end

local function forest_panel(out, fig, bottom)
  local rows = fig.forest
  local unit = (fig.margin or 0) > 1e-9 and fig.margin or M.UNIT -- ticks stand around it, and it divides
  if #rows == 0 then return end
  local lo, hi = forest_range(rows, unit)
  local map, ticks = axes.difference(unit, lo, hi)
  frame(out, 0.475, 0.675, bottom, "(b) difference to " .. fig.reference .. " [nats per token]")
  out[#out + 1] = ("set xrange [%.9g:%.9g]; set yrange [%.9g:0.4]"):format(map(lo), map(hi), #rows + 0.6)
  out[#out + 1] = "set xtics " .. tick_list(ticks, map) .. " font ',10'"
  out[#out + 1] = "set xlabel " .. M.quote(fig.forest_label)
  out[#out + 1] = "unset ytics"
  local points = {}
  for i, r in ipairs(rows) do
    local first, second = two_lines(r.name)
    local function label(id, text, place, y)
      out[#out + 1] = ("set label %d %s at graph %s, first %g font ',11' noenhanced")
        :format(id, M.quote(text), place, y)
    end
    label(10 + i, first, "-0.03", second and i - 0.19 or i)
    out[#out] = out[#out] .. " right"
    if second then
      label(40 + i, second, "-0.03", i + 0.19)
      out[#out] = out[#out] .. " right"
    end
    label(70 + i, r.note or r.text or "", "1.03", i)
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
      datablock(out, "interval" .. i, { { clip(r.lo), i }, { clip(r.hi), i } })
      line("$interval%d using 1:2 with lines %s lw 2.5 notitle", i, colour(r.index))
      local cut = {}
      if r.lo < lo then cut[#cut + 1] = { map(lo), i } end
      if r.hi > hi then cut[#cut + 1] = { map(hi), i } end
      if #cut > 0 then
        datablock(out, "cut" .. i, cut)
        line("$cut%d using 1:2 with points pt 1 ps 1.2 lw 2 %s notitle", i, colour(r.index))
      end
    end
    if #r.values > 0 then
      local dots = {}
      for k, v in ipairs(r.values) do dots[k] = { map(v), i + 0.22 } end
      datablock(out, "seeds" .. i, dots)
      line("$seeds%d using 1:2 with points pt 6 ps 0.6 lw 1 %s notitle", i, colour(r.index))
      datablock(out, "mean" .. i, { { map(r.mean), i } })
      line("$mean%d using 1:2 with points pt 7 ps 1.3 %s notitle", i, colour(r.index))
    end
  end
  if #points == 0 then points[1] = "NaN notitle" end
  out[#out + 1] = "plot " .. table.concat(points, ", \\\n  ")
  out[#out + 1] = "unset object 1; unset arrow 1; unset xlabel; unset label; set xtics font ',12'; set ytics auto"
end

local function profile_panel(out, fig, bottom)
  if #fig.profile == 0 then return end
  local n, lo, hi, parts = 0, math.huge, -math.huge, {}
  for _, p in ipairs(fig.profile) do
    n = math.max(n, #p.values)
    -- an arm that went astray must not flatten the others
    for _, v in ipairs(p.values) do lo, hi = math.min(lo, math.max(v, -4)), math.max(hi, math.min(v, 8)) end
  end
  lo, hi = math.floor(lo * 2) / 2, math.ceil(math.max(hi, math.log(n, 10)) * 2) / 2
  frame(out, 0.875, 0.99, bottom, "(c) " .. fig.profile_title)
  out[#out + 1] = "set logscale xy; set border 3; set grid; set xlabel " .. M.quote(fig.profile_label)
  out[#out + 1] = ("set xrange [1:%d]; set yrange [%.9g:%.9g]"):format(n, 10.0 ^ lo, 10.0 ^ hi)
  out[#out + 1] = "set ytics auto enhanced nomirror; set format y '10^{%T}'"
  out[#out + 1] = "set xtics " .. tick_list(axes.log_ticks(1, n))
  parts[1] = "x with lines lc rgb '#a0a0a0' lw 6 notitle"
  for _, p in ipairs(fig.profile) do
    parts[#parts + 1] = ("$profile%d using 1:(10**$2) with lines %s lw 2.2 notitle"):format(p.index, style(p.index))
  end
  out[#out + 1] = "plot " .. table.concat(parts, ", \\\n  ")
  out[#out + 1] = "unset logscale; unset label 1; unset xlabel; set format y '%g'"
end

-- fig = {title, ylabel, xlabel, reference, margin, forest_label, profile_title, profile_label, notes = lines,
--   curves  = {{name, points = {{x, mean, low, high}, ...}, diverged = step or nil}, ...},
--   forest  = {{name, index = of the curve, values, mean, lo, hi, text, note}, ...},
--   profile = {{index = of the curve, values = log10 by position}, ...}}
-- outputs = {{terminal, path}, ...}. Returns the gnuplot script.
function M.script(fig, outputs)
  local out, curves = { "set encoding utf8; set samples 200; unset key" }, on_log_axes(fig.curves)
  for i, c in ipairs(curves) do
    if #c.points > 0 then datablock(out, "curve" .. i, c.points) end
  end
  for _, p in ipairs(fig.profile) do
    local rows = {}
    for t, v in ipairs(p.values) do rows[t] = { t, v } end
    datablock(out, "profile" .. p.index, rows)
  end
  for _, o in ipairs(outputs) do
    out[#out + 1] = ("set terminal %s"):format(o[1])
    out[#out + 1] = ("set output %s"):format(M.quote(o[2]))
    out[#out + 1] = ("set multiplot title %s font ',14' noenhanced"):format(M.quote(fig.title))
    out[#out + 1] = "set style line 100 lc rgb '#d8d8d8' lw 0.6 dt solid; set grid ls 100"
    out[#out + 1] = "set border lc rgb '#404040'"
    local foot = notes(out, fig.notes or {})
    local bottom = 0.125 + foot + legend(out, fig.curves, foot)
    curves_panel(out, fig, curves, bottom)
    forest_panel(out, fig, bottom)
    profile_panel(out, fig, bottom)
    out[#out + 1] = "unset multiplot; unset output"
  end
  return table.concat(out, "\n") .. "\n"
end
M.script = core.plain(M.script)

-- Draws figure.svg and figure.png into dir. Returns the paths, or nil and why not.
function M.draw(fig, dir)
  return gnuplot.render(function(outputs) return M.script(fig, outputs) end, dir, "figure")
end

M.parts = { style = style, colour = colour, datablock = datablock, tick_list = tick_list, legend = legend, notes = notes }

return M
