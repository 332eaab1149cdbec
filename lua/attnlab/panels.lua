-- A figure of panels side by side, each with curves over named axes, drawn by gnuplot.render.
--   fig    = { title, panels = { panel, .. }, legend = { { name, style = curve }, .. }, notes = lines at the foot }
--   panel  = { title, xlabel, ylabel, logx, logy, xticks = {..} (where they are chosen),
--              xnames = {..} (instead: names at 1, 2, ..),
--              xrange = {lo, hi}, yrange = {lo, hi} (default: the data), curves = { curve, .. } }
--   curve  = { points = { {x, y, label = text or nil, low =, high =}, .. }, colour = n, dash = n (1 = solid),
--              marks = bool or gnuplot's number of a mark, line = bool (true), thin = bool,
--              below = bool (where the labels stand) }
-- Points and bars that an axis cannot show are left out.
-- A change here makes no run stale.
local axes = require "attnlab.axes"
local core = require "attnlab.core"
local gnuplot = require "attnlab.gnuplot"
local plot = require "attnlab.plot"
local parts, quote = plot.parts, plot.quote

local M = {}

local DASHES = { "solid", "(10,4)", "(3,3)", "(10,3,2,3)" }
local MARKS = { 7, 5, 9, 13, 11, 6 } -- disc, square, triangle, diamond, triangle down, circle

-- Colour, dash and width of a curve, for the legend too.
function M.style(c)
  return ("%s dt %s"):format(parts.colour(c.colour or 1), DASHES[c.dash or 1])
end

local BOUND = 1e120 -- of what is drawn: the ratio of an axis' ends, with its margins, stays a number

local function fits(v, log)
  return math.abs(v) < BOUND and not (log and v < 1 / BOUND)
end

local function shown(panel, p)
  return fits(p[1], panel.logx) and fits(p[2], panel.logy)
end

local function has_bar(panel, p)
  return p.low and p.high and fits(p.low, panel.logy) and fits(p.high, panel.logy)
end

local function range(panel, axis, margin)
  local log, given = panel[axis == 1 and "logx" or "logy"], panel[axis == 1 and "xrange" or "yrange"]
  if given then return given[1], given[2] end
  local lo, hi = math.huge, -math.huge
  for _, c in ipairs(panel.curves) do
    for _, p in ipairs(c.points) do
      if shown(panel, p) then
        lo, hi = math.min(lo, p[axis]), math.max(hi, p[axis])
        if axis == 2 and has_bar(panel, p) then lo, hi = math.min(lo, p.low), math.max(hi, p.high) end
      end
    end
  end
  if lo > hi then return nil end
  if log then
    local m = math.max((hi / lo) ^ margin, 1.2)
    return lo / m, hi * m
  end
  local size = math.max(math.abs(lo), math.abs(hi))
  local m = margin * (hi - lo > 1e-6 * size and hi - lo or math.max(size, 1)) -- the ends have nine digits
  return lo - m, hi + m
end

-- Powers of ten where an axis spans many, else round numbers.
local function ticks(out, name, log, lo, hi, chosen)
  if chosen then
    out[#out + 1] = ("set %stics %s; set format %s '%%g'"):format(name, parts.tick_list(chosen), name)
  elseif log and hi / lo > 200 then
    local step = math.max(1, math.ceil(math.log(hi / lo, 10) / 7))
    out[#out + 1] = ("set %stics autofreq 1e-300, %g; set %stics 1e%d, 1e%d; set format %s '10^{%%T}'"):format(
      name, 10.0 ^ step, name, math.ceil(math.log(lo, 10)), step, name)
  elseif log then
    local list = axes.log_ticks(lo, hi)
    while #list > 6 do -- five digits a label have to stay apart
      local half = {}
      for i = 1, #list, 2 do half[#half + 1] = list[i] end
      list = half
    end
    out[#out + 1] = ("set %stics %s; set format %s '%%g'"):format(name, parts.tick_list(list), name)
  else
    out[#out + 1] = ("set %stics autofreq; set format %s '%%g'"):format(name, name)
  end
end

local function panel_script(out, panel, at, left, right, bottom)
  local xlo, xhi = range(panel, 1, 0.05)
  local ylo, yhi = range(panel, 2, 0.06)
  if not xlo or not ylo then return end
  out[#out + 1] = ("set lmargin at screen %g; set rmargin at screen %g"):format(left, right)
  out[#out + 1] = ("set tmargin at screen 0.87; set bmargin at screen %g"):format(bottom)
  out[#out + 1] = ("set label 1 %s at graph 0, graph 1.05 left font ',13' noenhanced"):format(quote(panel.title))
  out[#out + 1] = "unset logscale; set grid; set border 3; set tics nomirror"
  if panel.logx then out[#out + 1] = "set logscale x" end
  if panel.logy then out[#out + 1] = "set logscale y" end
  out[#out + 1] = ("set xrange [%.9g:%.9g]; set yrange [%.9g:%.9g]"):format(xlo, xhi, ylo, yhi)
  if panel.xnames then
    local names = {}
    for i, name in ipairs(panel.xnames) do names[i] = ("%s %d"):format(quote(name), i) end
    out[#out + 1] = "set format x '%g'; set xtics (" .. table.concat(names, ", ")
      .. ") rotate by 40 right noenhanced font ',10'"
  else
    out[#out + 1] = "set xtics norotate font ',12'"
    ticks(out, "x", panel.logx, xlo, xhi, panel.xticks)
  end
  ticks(out, "y", panel.logy, ylo, yhi, panel.yticks)
  out[#out + 1] = ("set xlabel %s noenhanced; set ylabel %s noenhanced"):format(quote(panel.xlabel),
    quote(panel.ylabel))
  local list, label = {}, 10
  for i, c in ipairs(panel.curves) do
    local rows, bars = {}, {}
    for _, p in ipairs(c.points) do
      if shown(panel, p) then
        rows[#rows + 1] = { p[1], p[2] }
        if has_bar(panel, p) and p.low < p.high then bars[#bars + 1] = { p[1], p[2], p.low, p.high } end
        if p.label then
          out[#out + 1] = ("set label %d %s at first %.9g, first %.9g left offset 0.7,%g font ',10' %s noenhanced")
            :format(label, quote(p.label), p[1], p[2], c.below and -0.5 or 0.5,
              (parts.colour(c.colour or 1):gsub("^lc", "tc")))
          label = label + 1
        end
      end
    end
    local name, width = ("p%dc%d"):format(at, i), c.thin and 1.2 or 2.2
    if #bars > 0 then
      parts.datablock(out, name .. "b", bars)
      list[#list + 1] = ("$%sb using 1:2:3:4 with yerrorbars %s pt 0 ps 0 lw 1.2 notitle"):format(name,
        parts.colour(c.colour or 1))
    end
    if #rows > 0 then
      parts.datablock(out, name, rows)
      if c.line ~= false then
        list[#list + 1] = ("$%s using 1:2 with lines %s lw %g notitle"):format(name, M.style(c), width)
      end
      if c.marks then
        list[#list + 1] = ("$%s using 1:2 with points %s pt %d ps 0.9 notitle"):format(name,
          parts.colour(c.colour or 1), math.type(c.marks) and c.marks or MARKS[((c.colour or 1) - 1) % #MARKS + 1])
      end
    end
  end
  out[#out + 1] = "plot " .. table.concat(list, ", \\\n  ")
  out[#out + 1] = "unset label; unset logscale; unset xlabel; unset ylabel"
end

-- outputs = {{terminal, path}, ...}. Returns the gnuplot script.
function M.script(fig, outputs)
  local out = { "set encoding utf8; unset key" }
  local n = #fig.panels
  for _, o in ipairs(outputs) do
    out[#out + 1] = ("set terminal %s"):format(o[1])
    out[#out + 1] = ("set output %s"):format(quote(o[2]))
    out[#out + 1] = ("set multiplot title %s font ',14' noenhanced"):format(quote(fig.title))
    out[#out + 1] = "set style line 100 lc rgb '#d8d8d8' lw 0.6 dt solid; set grid ls 100"
    out[#out + 1] = "set border lc rgb '#404040'"
    local entries = {}
    for i, e in ipairs(fig.legend) do entries[i] = { name = e.name, style = M.style(e.style) } end
    local foot = parts.notes(out, fig.notes or {})
    local bottom = 0.13 + foot + parts.legend(out, entries, foot)
    for _, p in ipairs(fig.panels) do
      if p.xnames then bottom = bottom + 0.03 break end -- names hang lower than a label of the axis
    end
    for i, p in ipairs(fig.panels) do
      panel_script(out, p, i, (i - 1) / n + 0.07, i / n - 0.02, bottom)
      -- arrows and labels of the legend are drawn once, with the first panel
      out[#out + 1] = "unset arrow"
    end
    out[#out + 1] = "unset multiplot; unset output"
  end
  return table.concat(out, "\n") .. "\n"
end
M.script = core.plain(M.script)

-- Draws <dir>/<name>.png and .svg. Returns the paths, or nil and why not.
function M.draw(fig, dir, name)
  return gnuplot.render(function(outputs) return M.script(fig, outputs) end, dir, name)
end

return M
