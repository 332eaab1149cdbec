-- The figure of an experiment, drawn by gnuplot as a child process. (a) log-log loss curves with seed bands, where there
-- are many in cells of some with all others in grey, (b) forest plot of paired differences (forest.lua), (c) a measure by
-- position; together, or one panel for a paper. plot.script builds the text from numbers and quoted names only: data
-- travel in datablocks of the script file, nothing passes a shell, and the axes may be scaled but no value is changed.
-- A change here makes no run stale.
local axes = require "attnlab.axes"
local core = require "attnlab.core"
local forest = require "attnlab.forest"
local gnuplot = require "attnlab.gnuplot"
local sheet = require "attnlab.sheet"
local arm_style, arm_colour, datablock, frame = sheet.arm_style, sheet.arm_colour, sheet.datablock, sheet.frame
local legend, notes, tick_list, SHEET = sheet.legend, sheet.notes, sheet.tick_list, sheet.SHEET

local M = { quote = sheet.quote, UNIT = forest.UNIT }

-- The entries of a figure's legend: as the arms come, or group by group in columns.
local function entries(fig)
  local out = {}
  for i, c in ipairs(fig.curves) do out[i] = { name = c.name, style = arm_style(fig, i) } end
  for g, group in ipairs(fig.groups or {}) do
    for k, i in ipairs(group) do out[i].column, out[i].row = g, k + 2 end
    out[#out + 1] = { name = group.name, column = g, row = 2 }
  end
  if fig.groups then out[1].column, out[1].row = 1, 1 end
  return out
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

-- Ranges of the loss axes over all arms: xlo, xhi, ylo, yhi; nil where there is nothing.
local function loss_ranges(curves)
  local xlo, xhi, ylo, yhi = math.huge, 0, math.huge, 0
  for _, c in ipairs(curves) do
    for _, p in ipairs(c.points) do
      xlo, xhi = math.min(xlo, p[1]), math.max(xhi, p[1])
      ylo = math.min(ylo, p[3])
      if not c.diverged then yhi = math.max(yhi, p[4]) end
    end
  end
  if xhi == 0 then return nil end
  if yhi <= ylo then yhi = ylo * 2 end
  return xlo, xhi, ylo / 1.02, yhi * 1.03
end

local GREY = "lc rgb '#c8c8c8' dt solid lw 1"

-- The arms of `list` (all without one), their bands, crosses where they diverged; behind them the others in grey.
local function draw_curves(out, fig, curves, yhi, list, tag)
  local parts, own = {}, {}
  for _, i in ipairs(list or {}) do own[i] = true end
  local function each(f)
    for i, c in ipairs(curves) do
      if #c.points > 0 and (not list or own[i]) then f(i, c) end
    end
  end
  for i, c in ipairs(list and curves or {}) do
    if #c.points > 0 and not own[i] then parts[#parts + 1] = ("$curve%d using 1:2 with lines %s notitle"):format(i, GREY) end
  end
  each(function(i)
    parts[#parts + 1] = ("$curve%d using 1:3:4 with filledcurves %s fs transparent solid 0.20 noborder notitle")
      :format(i, arm_colour(fig, i))
  end)
  each(function(i, c)
    parts[#parts + 1] = ("$curve%d using 1:2 with lines %s lw 2.2 notitle"):format(i, arm_style(fig, i))
    if c.diverged then
      local last = c.points[#c.points]
      parts[#parts + 1] = ("$end%s%d using 1:2 with points pt 2 ps 1.4 lw 2.5 %s notitle"):format(tag or "", i, arm_colour(fig, i))
      datablock(out, ("end%s%d"):format(tag or "", i), { { last[1], math.min(last[2], yhi) } })
    end
  end)
  if #parts == 0 then parts[1] = "NaN notitle" end
  out[#out + 1] = "plot " .. table.concat(parts, ", \\\n  ")
end

local function curves_panel(out, fig, curves, box, titled)
  local xlo, xhi, ylo, yhi = loss_ranges(curves)
  if not xlo then return end
  out[#out + 1] = "set logscale xy; set grid; set border 3; set tics nomirror"
  local right = xhi * 1.02 + (xlo == xhi and 1 or 0)
  out[#out + 1] = ("set xrange [%.9g:%.9g]; set yrange [%.9g:%.9g]"):format(xlo, right, ylo, yhi)
  local title = titled and "(a) " .. fig.ylabel .. " [nats per token]"
  local xtics, ytics = tick_list(axes.log_ticks(xlo, xhi)), tick_list(axes.log_ticks(ylo, yhi))
  if not fig.groups then
    frame(out, box, title)
    out[#out + 1] = "set xtics " .. xtics .. "; set ytics " .. ytics
    out[#out + 1] = "set xlabel " .. M.quote(fig.xlabel)
    if not titled then out[#out + 1] = "set ylabel " .. M.quote(fig.ylabel .. " [nats]") end
    draw_curves(out, fig, curves, yhi)
    out[#out + 1] = "unset logscale; unset label; unset arrow; unset xlabel; unset ylabel"
    return
  end
  local across = #fig.groups > 1 and 2 or 1
  local down = math.ceil(#fig.groups / across)
  local w, h = (box[2] - box[1] + 0.02) / across, (box[4] - box[3] + 0.055) / down
  if title then
    out[#out + 1] = ("set label 2 %s at screen %g, screen %g left font ',13' noenhanced"):format(M.quote(title), box[1],
      box[4] + 0.04)
  end
  -- the labels of a cell's axes stand in half a panel: five digits each
  local few_x = tick_list(sheet.thinned(axes.log_ticks(xlo, xhi), 4))
  for g, group in ipairs(fig.groups) do
    local column, row = (g - 1) % across, (g - 1) // across
    local top = box[4] - row * h
    local cell = { box[1] + column * w, box[1] + (column + 1) * w - 0.02, top - h + 0.055, top, gap = 0.014 }
    frame(out, cell, group.name, 11)
    local lowest = g + across > #fig.groups
    local labels = column == 0 and ytics or ytics:gsub("'[^']*'", "''")
    out[#out + 1] = "set xtics " .. few_x .. " font ',10'; set ytics " .. labels .. " font ',10'"
    out[#out + 1] = lowest and "set xlabel " .. M.quote(fig.xlabel) .. " font ',11'" or "unset xlabel"
    draw_curves(out, fig, curves, yhi, { 1, table.unpack(group) }, "g" .. g .. "_")
    if g == 1 then out[#out + 1] = "unset label 2; unset label; unset arrow" end
  end
  out[#out + 1] = "unset logscale; unset label; unset arrow; unset xlabel; set xtics font ',12'; set ytics font ',12'"
end

local function profile_panel(out, fig, box, titled)
  if #fig.profile == 0 then return end
  local n, lo, hi, parts = 0, math.huge, -math.huge, {}
  for _, p in ipairs(fig.profile) do
    n = math.max(n, #p.values)
    -- an arm that went astray must not flatten the others
    for _, v in ipairs(p.values) do lo, hi = math.min(lo, math.max(v, -4)), math.max(hi, math.min(v, 8)) end
  end
  lo, hi = math.floor(lo * 2) / 2, math.ceil(math.max(hi, math.log(n, 10)) * 2) / 2
  frame(out, box, titled and "(c) " .. fig.profile_title)
  out[#out + 1] = "set logscale xy; set border 3; set grid; set xlabel " .. M.quote(fig.profile_label)
  if not titled then out[#out + 1] = "set ylabel " .. M.quote(fig.profile_title) end
  out[#out + 1] = ("set xrange [1:%d]; set yrange [%.9g:%.9g]"):format(n, 10.0 ^ lo, 10.0 ^ hi)
  out[#out + 1] = "set ytics auto enhanced nomirror; set format y '10^{%T}'"
  out[#out + 1] = "set xtics " .. tick_list(axes.log_ticks(1, n))
  parts[1] = "x with lines lc rgb '#a0a0a0' lw 6 notitle"
  for _, p in ipairs(fig.profile) do
    parts[#parts + 1] = ("$profile%d using 1:(10**$2) with lines %s lw 2.2 notitle"):format(p.index, arm_style(fig, p.index))
  end
  out[#out + 1] = "plot " .. table.concat(parts, ", \\\n  ")
  out[#out + 1] = "unset logscale; unset label 1; unset xlabel; unset ylabel; set format y '%g'"
end

-- What every script begins with: the data, one block an arm.
local function data(out, fig, curves)
  out[#out + 1] = "set encoding utf8; set samples 200; unset key"
  for i, c in ipairs(curves) do
    if #c.points > 0 then datablock(out, "curve" .. i, c.points) end
  end
  for _, p in ipairs(fig.profile) do
    local rows = {}
    for t, v in ipairs(p.values) do rows[t] = { t, v } end
    datablock(out, "profile" .. p.index, rows)
  end
end

local function begin(out, output, title)
  out[#out + 1] = ("set terminal %s"):format(output[1])
  out[#out + 1] = ("set output %s"):format(M.quote(output[2]))
  out[#out + 1] = title and ("set multiplot title %s font ',14' noenhanced"):format(M.quote(title)) or "set multiplot"
  out[#out + 1] = "set style line 100 lc rgb '#d8d8d8' lw 0.6 dt solid; set grid ls 100"
  out[#out + 1] = "set border lc rgb '#404040'"
end

-- Pixels of the figure: with cells, and the rows of many arms, it is higher.
function M.size(fig)
  return fig.groups and { 1500, 1000 } or { 1500, 690 }
end

-- fig = {title, ylabel, xlabel, reference, margin, forest_label, profile_title, profile_label, notes = lines,
--   curves  = {{name, points = {{x, mean, low, high}, ...}, diverged = step or nil, colour =, dash =}, ...},
--   groups  = nil or {{name =, numbers of curves ..}, ..}: the cells of panel (a); the first curve is in each,
--   forest  = {{name, index = of the curve, values, mean, lo, hi, text, note}, ...},
--   profile = {{index = of the curve, values = log10 by position}, ...}}
-- outputs = {{terminal, path}, ...}. Returns the gnuplot script.
function M.script(fig, outputs)
  local out, curves, unit = {}, on_log_axes(fig.curves), 690 / M.size(fig)[2]
  data(out, fig, curves)
  local own = setmetatable({ step = SHEET.step * unit, foot = SHEET.foot * unit }, { __index = SHEET })
  for _, o in ipairs(outputs) do
    begin(out, o, fig.title)
    local foot = notes(out, fig.notes or {}, unit)
    local bottom = 0.097 * unit + own.foot + foot + legend(out, entries(fig), foot, own)
    local top = fig.groups and 0.9 or 0.915
    curves_panel(out, fig, curves, { 0.05, fig.groups and 0.345 or 0.33, bottom, top }, true)
    forest.panel(out, fig, { 0.475, 0.675, bottom, top }, true)
    profile_panel(out, fig, { 0.875, 0.99, bottom, top }, true)
    out[#out + 1] = "unset multiplot; unset output"
  end
  return table.concat(out, "\n") .. "\n"
end
M.script = core.plain(M.script)

M.PANELS = { "a", "b", "c" }

-- The height of one panel of a width, both in inches, and the share of its letters.
local function paper(fig, panel, width)
  local font = math.max(0.4, math.min(0.8, width / 7.3)) -- a letter of size 11 has 15 points times it
  local line = 0.32 * font -- of text
  local rows = panel == "b" and #fig.forest or math.ceil(#fig.curves / 2) + (fig.groups and 2 or 0)
  return panel == "b" and rows * 1.5 * line + 4.2 * line or 0.66 * width + rows * line, font, line
end

-- The script of one panel ("a", "b", "c") alone, without title and notes, which a paper has in its caption.
function M.panel_script(fig, outputs, panel, height, line)
  local out, curves, alone = {}, on_log_axes(fig.curves), setmetatable({}, { __index = fig })
  alone.groups = false -- cells take a page
  data(out, fig, curves)
  for _, o in ipairs(outputs) do
    begin(out, o)
    local unit = line / height
    local shown = {}
    for i in ipairs(fig.curves) do shown[i] = panel == "a" end
    for _, p in ipairs(panel == "c" and fig.profile or {}) do shown[p.index] = true end
    local list = {}
    for i, c in ipairs(fig.curves) do
      if shown[i] then list[#list + 1] = { name = c.name, style = arm_style(fig, i) } end
    end
    local under = panel == "b" and 0 or legend(out, list, 0, { left = 0.04, width = 0.96, sample = 0.07, step = unit,
                                                              foot = 0.6 * unit, font = 11, columns = 2 })
    local box = { 0.16, 0.96, under + 4 * unit, 1 - 0.6 * unit }
    if panel == "a" then curves_panel(out, alone, curves, box) end
    if panel == "b" then forest.panel(out, fig, { 0.3, 0.62, 3.6 * unit, 1 - 0.4 * unit }, false, 2.2) end
    if panel == "c" then profile_panel(out, fig, box) end
    out[#out + 1] = "unset multiplot; unset output"
  end
  return table.concat(out, "\n") .. "\n"
end
M.panel_script = core.plain(M.panel_script)

-- Draws figure.svg and figure.png into dir. Returns the paths, or nil and why not.
function M.draw(fig, dir)
  return gnuplot.render(function(outputs) return M.script(fig, outputs) end, dir, "figure", nil, M.size(fig))
end

-- Draws figure.pdf, or one panel of it as figure-<panel>.pdf, of a width in inches (10; 3.3 for a panel) into dir.
-- Returns the path, or nil and why not, and whether it was there but failed.
function M.draw_pdf(fig, dir, panel, width)
  local files, why, broken
  if panel then
    width = width or 3.3
    local height, font, line = paper(fig, panel, width)
    files, why, broken = gnuplot.render(function(outputs) return M.panel_script(fig, outputs, panel, height, line) end, dir,
      "figure-" .. panel, gnuplot.pdf(width, height, font))
  else
    width = width or 10
    local size = M.size(fig)
    files, why, broken = gnuplot.render(function(outputs) return M.script(fig, outputs) end, dir, "figure",
      gnuplot.pdf(width, width * size[2] / size[1], width / 21))
  end
  return files and files.pdf, why, broken
end

M.parts = sheet

return M
