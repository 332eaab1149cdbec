-- Figures of an experiment's results, as runs.gather gives them: losses by step, and by a number.
-- A change here makes no run stale.
local core = require "attnlab.core"
local measures = require "attnlab.measures"
local panels = require "attnlab.panels"
local plot = require "attnlab.plot"
local runs = require "attnlab.runs"
local stats = require "attnlab.stats"
local tables = require "attnlab.table"

local M = {}

local CROSS = 2 -- gnuplot's number of the mark

-- A difference for the figure: fewer digits than the table, on the same side of 0 and the margin.
local function short(v, result, form)
  return stats.show(v, result.plan.margin, form, 3)
end

-- "2 of 3 diverged (step 174-295)", or nil: short, as there is little room beside the row.
local function divergence(arm)
  if arm.count.diverged == 0 then return nil end
  return ("%d of %d diverged (step %s)"):format(arm.count.diverged, #arm.runs, runs.steps_text(arm, "-"))
end

-- A row without interval where the arm, or the reference, may not be judged.
local function forest_row(result, i)
  local arm, c = result.arms[i], result.comparison[i]
  local d = c.difference
  local row = { name = arm.name, index = i, values = d.values, mean = d.mean, lo = d.lo, hi = d.hi }
  if d.n > 0 then
    row.text = d.lo and ("%s [%s, %s]"):format(short(d.mean, result, "+"), short(d.lo, result), short(d.hi, result))
      or short(d.mean, result, "+")
  end
  row.note = divergence(arm) or c.unfit or d.n == 0 and arm.status or nil
  return row
end

-- The value of get(arm) where all arms have the same, else nil.
local function common(plan, get)
  local v = get(plan.arms[1].config)
  for _, a in ipairs(plan.arms) do
    if get(a.config) ~= v then return nil end
  end
  return v
end

-- The measure that has a panel in the figure of the losses: its name, and the measure.
local function profiled()
  for _, name in ipairs(measures()) do
    if measures[name].profile then return name, measures[name] end
  end
end

-- How to read the panels of a figure.
local function notes_of(result, fig)
  local n, margin, diverged, out = #result.plan.seeds, result.plan.margin, false, {}
  for _, arm in ipairs(result.arms) do diverged = diverged or arm.count.diverged > 0 end
  local lines = "(a) logarithmic axes" .. (n > 1 and "; lines: mean over seeds, bands: least to greatest" or "")
  if fig.groups then lines = lines .. "; grey: the other arms" end
  out[1] = lines .. (diverged and "; cross: last evaluation of all seeds of an arm of which some diverged later" or "")
  if #fig.forest > 0 then
    out[#out + 1] = ("(b) the axis is linear near 0 and logarithmic beyond %g%s"):format(margin or plot.UNIT,
      margin and "; grey: the margin, within which arms count as equal" or "")
  end
  if #fig.profile > 0 then
    out[#out + 1] = "(c) " .. fig.profile_note
  end
  return out
end

local MANY, MOST = 12, 6 -- arms that one panel holds; arms of a cell: with the first one, as many as there are colours

-- Gives the arms of a large figure to cells: those of one line (at = {line, number}), else as they come.
local function group(fig, arms)
  if #arms <= MANY then return end
  local lines, order = {}, {}
  for i = 2, #arms do
    local name = arms[i].at and arms[i].at[1] or "arms"
    if not lines[name] then
      lines[name], order[#order + 1] = {}, name
    end
    table.insert(lines[name], i)
  end
  fig.groups = {}
  for _, name in ipairs(order) do
    local list = lines[name]
    local n = math.ceil(#list / MOST)
    for k = 1, n do
      local from, to = (k - 1) * #list // n + 1, k * #list // n
      local first, last = arms[list[from]], arms[list[to]]
      local range = n > 1 and (first.at and (", %g to %g"):format(first.at[2], last.at[2]) or (" %d to %d"):format(list[from], list[to])) or ""
      local cell = { name = name .. range, table.unpack(list, from, to) }
      fig.groups[#fig.groups + 1] = cell
      for c, i in ipairs(cell) do fig.curves[i].colour, fig.curves[i].dash = c + 1, #fig.groups end
    end
  end
end

local LONGEST = 110 -- letters of a title: more of them do not fit

-- A title that is too long, with all that a command line changed, goes to the notes; what it begins with stays.
local function shorten(fig)
  if tables.width(fig.title) <= LONGEST then return end
  for i, line in ipairs(tables.wrap(fig.title, 190)) do table.insert(fig.notes, i, line) end
  local short = fig.title:match "^(.-)   %[" or fig.title
  fig.title = tables.wrap(short, LONGEST)[1]
end

-- What plot.script needs.
function M.figure(result)
  local plan = result.plan
  local n = #plan.seeds
  local parts = {}
  for _, key in ipairs { "layers", "width", "context" } do
    local v = common(plan, function(c) return c.model[key] end)
    if v then parts[#parts + 1] = key == "layers" and ("%d layers"):format(v) or ("%s %d"):format(key, v) end
  end
  parts[#parts + 1] = ("%d seed%s"):format(n, n == 1 and "" or "s")
  if plan.apart then parts[#parts + 1] = "arms measured apart: on different windows or texts" end
  local name, measure = profiled()
  local profile = name and measure.profile or {}
  local tokens = common(plan, function(c) return c.train.batch_size * c.model.context end)
  local fig = { title = ("%s   (%s)"):format(plan.title, table.concat(parts, ", ")),
                reference = plan.arms[1].name, margin = plan.margin, curves = {}, forest = {}, profile = {},
                ylabel = plan.metric == "valid/loss" and "validation loss" or plan.metric,
                xlabel = tokens and ("step (%d tokens each)"):format(tokens) or "step",
                forest_label = (n > 1 and "mean, seeds (circles), the table's interval"
                  or "one seed: no interval") .. (result.other_margins and "; margin changed after the runs" or ""),
                profile_title = profile.title, profile_label = profile.label, profile_note = profile.note }
  for i, arm in ipairs(result.arms) do
    fig.curves[i] = { name = arm.unfit and ("%s (%s)"):format(arm.name, arm.unfit) or arm.name, points = arm.curve,
                      diverged = arm.diverged_from }
    if i > 1 then fig.forest[#fig.forest + 1] = forest_row(result, i) end
    if arm.measured[name] then fig.profile[#fig.profile + 1] = { index = i, values = arm.measured[name] } end
  end
  group(fig, result.arms)
  fig.notes = notes_of(result, fig)
  shorten(fig)
  return fig
end
M.figure = core.plain(M.figure)

-- The arms that have a place on a line: points by the name of the line, sorted by their number, without a loss where some
-- seed diverged; the names as they come; the highest loss (-inf: none); the least and the greatest number.
local function lines_of(result)
  local lines, order, top, lo, hi = {}, {}, -math.huge, math.huge, -math.huge
  for _, arm in ipairs(result.arms) do
    local list = {}
    for _, v in pairs(arm.values) do list[#list + 1] = v end
    if arm.at and (#list > 0 or arm.count.diverged > 0) then
      local name, x = arm.at[1], arm.at[2]
      if not lines[name] then
        lines[name], order[#order + 1] = {}, name
      end
      local p = { x, stats.mean(list) }
      if p[2] then
        p.low, p.high = math.min(table.unpack(list)), math.max(table.unpack(list))
        top = math.max(top, p.high)
      end
      if arm.unfit then p.label = ("%d of %d"):format(#list > 0 and #list or arm.count.diverged, #arm.runs) end
      table.insert(lines[name], p)
      lo, hi = math.min(lo, x), math.max(hi, x)
    end
  end
  for _, points in pairs(lines) do table.sort(points, function(a, b) return a[1] < b[1] end) end
  return lines, order, top, lo, hi
end

-- Adds the curves of a line to the panel: it ends before a point without a loss and begins again behind it; these
-- points are crosses at the height `top`. Returns a curve, for the legend, and whether there are crosses.
local function add_line(panel, points, colour, top)
  local crosses = { points = {}, colour = colour, marks = CROSS, line = false }
  local function part() return { points = {}, colour = colour, marks = true } end
  local first = part()
  local current = first
  for _, p in ipairs(points) do
    if p[2] then
      table.insert(current.points, p)
    else
      p[2] = top
      table.insert(crosses.points, p)
      panel.curves[#panel.curves + 1] = current
      current = part()
    end
  end
  panel.curves[#panel.curves + 1] = current
  if #crosses.points > 0 then panel.curves[#panel.curves + 1] = crosses end
  return first, #crosses.points > 0
end

-- Losses of the arms that have a place on a line, against that number; the first arm as a level. An arm
-- with diverged seeds has a cross at the panel's top with their number, and its line ends beside it.
local function by_panel(result, legend, notes)
  local panel = { title = result.plan.metric == "valid/loss" and "validation loss of trained arms" or result.plan.metric,
                  xlabel = result.plan.experiment.plot.by, ylabel = "nats per token", curves = {} }
  local lines, order, top, lo, hi = lines_of(result)
  local c, crossed = result.comparison[1], false
  if top == -math.huge then top = c.mean or 1 end
  for k, name in ipairs(order) do
    local curve, crosses = add_line(panel, lines[name], k + 1, top)
    legend[#legend + 1] = { name = name, style = curve }
    crossed = crossed or crosses
  end
  if #result.plan.seeds > 1 then notes[1] = "marks: mean over seeds; bars: least to greatest" end
  if crossed then notes[#notes + 1] = "(a) crosses: so many seeds diverged; such an arm has no loss, and the height says nothing" end
  if lo <= hi and c.mean then
    local level = { colour = 1, dash = 2, points = { { lo, c.mean }, { hi, c.mean } } }
    panel.curves[#panel.curves + 1] = level
    legend[#legend + 1] = { name = result.arms[1].name, style = level }
  end
  return panel
end

-- The colour of the curve that the legend names like this one; else the curve gets a place in it.
local function colour_of(legend, curve)
  local last = 1
  for _, e in ipairs(legend) do
    if e.name == curve.name then return e.style.colour end
    last = math.max(last, e.style.colour)
  end
  legend[#legend + 1] = { name = curve.name, style = { colour = last + 1 } }
  return last + 1
end

-- The second figure of an experiment with plot.by: losses by that number, and what the measures found.
-- Nil where the experiment has none or nothing is finished.
function M.figure_by(result)
  local e = result.plan.experiment
  if not e.plot.by then return nil end
  local fig = { title = result.plan.title, legend = {}, notes = {}, panels = {} }
  fig.panels[1] = by_panel(result, fig.legend, fig.notes)
  for _, name in ipairs(e.measure) do
    local list = {}
    for _, arm in ipairs(result.arms) do
      if arm.measured[name] then list[#list + 1] = { arm = arm.name, record = arm.measured[name] } end
    end
    if #list > 0 then
      local panel = measures[name].panel(list)
      for _, c in ipairs(panel.curves) do c.colour = colour_of(fig.legend, c) end
      fig.panels[#fig.panels + 1] = panel
    end
  end
  for i, p in ipairs(fig.panels) do p.title = ("(%s) %s"):format(string.char(96 + i), p.title) end
  shorten(fig)
  return #fig.legend > 0 and fig or nil
end

-- Draws by.svg and by.png. Returns the paths; nil, or nil and why not.
function M.draw_by(result, dir)
  local fig = M.figure_by(result)
  if fig then return panels.draw(fig, dir, "by") end
end

-- Draws figure.svg and figure.png into dir. Returns the paths, or nil and why not.
function M.draw(result, dir)
  return plot.draw(M.figure(result), dir)
end

-- Draws the figure, or one panel of it ("a", "b", "c"), of a width in inches as a PDF. Returns its path, or nil and why not.
function M.draw_pdf(result, dir, panel, width)
  return plot.draw_pdf(M.figure(result), dir, panel, width)
end
M.draw_by, M.draw = core.plain(M.draw_by), core.plain(M.draw)

return M
