-- Figures of an experiment's results, as runs.gather gives them: losses by step, and by a number.
-- A change here makes no run stale.
local core = require "attnlab.core"
local measures = require "attnlab.measures"
local panels = require "attnlab.panels"
local plot = require "attnlab.plot"
local runs = require "attnlab.runs"
local stats = require "attnlab.stats"

local M = {}

local function forest_row(result, i)
  local arm, d = result.arms[i], result.comparison[i].difference
  local row = { name = arm.name, index = i, values = d.values, mean = d.mean, lo = d.lo, hi = d.hi }
  if d.n > 0 then
    row.text = d.lo and ("%+.3f [%.3f, %.3f]"):format(d.mean, d.lo, d.hi) or ("%+.3f"):format(d.mean)
  end
  if arm.count.diverged > 0 then
    local how_many = arm.count.diverged < #arm.runs and ("%d of %d "):format(arm.count.diverged, #arm.runs) or ""
    row.note = ("%sdiverged, step %s"):format(how_many, runs.steps_text(arm))
  elseif d.n == 0 then
    row.note = arm.status
  end
  return row
end

-- What plot.script needs.
function M.figure(result)
  local plan = result.plan
  local config = plan.arms[1].config
  local m, n = config.model, #plan.seeds
  local e = plan.experiment
  local title = ("%s   (%d layers, width %d, context %d, %d seed%s)"):format(plan.title,
    m.layers, m.width, m.context, n, n == 1 and "" or "s")
  local fig = { title = title, reference = plan.arms[1].name, margin = plan.margin, curves = {}, forest = {}, profile = {},
                ylabel = plan.metric == "valid/loss" and "validation loss" or plan.metric,
                xlabel = ("step (%d tokens each)"):format(config.train.batch_size * config.model.context),
                forest_label = n > 1 and "mean, seeds (circles), Holm-adjusted 95 % interval"
                  or "one seed: no interval",
                profile_title = "row sum of f(s)", profile_label = "position t (grey: = t)" }
  for i, arm in ipairs(result.arms) do
    fig.curves[i] = { name = arm.name, points = arm.curve, diverged = arm.diverged_at }
    if i > 1 then fig.forest[#fig.forest + 1] = forest_row(result, i) end
    if arm.profile then fig.profile[#fig.profile + 1] = { index = i, values = arm.profile } end
  end
  return fig
end

-- Losses of the arms that have a place on a line, against that number; the first arm as a level.
local function by_panel(result, legend)
  local panel = { title = result.plan.metric == "valid/loss" and "validation loss of trained arms" or result.plan.metric,
                  xlabel = result.plan.experiment.plot.by, ylabel = "nats per token", curves = {} }
  local lines, lo, hi = {}, math.huge, -math.huge
  for _, arm in ipairs(result.arms) do
    local list = {}
    for _, v in pairs(arm.values) do list[#list + 1] = v end
    if arm.at and #list > 0 then
      local name, x = arm.at[1], arm.at[2]
      local line = lines[name]
      if not line then
        line = { points = {}, colour = #panel.curves + 2, marks = true }
        lines[name], panel.curves[#panel.curves + 1] = line, line
        legend[#legend + 1] = { name = name, style = line }
      end
      table.insert(line.points, { x, stats.mean(list), low = math.min(table.unpack(list)), high = math.max(table.unpack(list)) })
      lo, hi = math.min(lo, x), math.max(hi, x)
    end
  end
  for _, line in pairs(lines) do table.sort(line.points, function(a, b) return a[1] < b[1] end) end
  local c = result.comparison[1]
  if lo <= hi and c.mean then
    local level = { colour = 1, dash = 2, points = { { lo, c.mean }, { hi, c.mean } } }
    panel.curves[#panel.curves + 1] = level
    legend[#legend + 1] = { name = result.arms[1].name, style = level }
  end
  return panel
end

-- The second figure of an experiment with plot.by: losses by that number, and what the measures found.
-- Nil where the experiment has none or nothing is finished.
function M.figure_by(result)
  local e = result.plan.experiment
  if not e.plot.by then return nil end
  local fig = { title = result.plan.title, legend = {}, panels = {} }
  fig.panels[1] = by_panel(result, fig.legend)
  for _, name in ipairs(e.measure) do
    local list = {}
    for _, arm in ipairs(result.arms) do
      if arm.measured[name] then list[#list + 1] = { arm = arm.name, record = arm.measured[name] } end
    end
    if #list > 0 then fig.panels[#fig.panels + 1] = measures[name].panel(list) end
  end
  for i, p in ipairs(fig.panels) do p.title = ("(%s) %s"):format(string.char(96 + i), p.title) end
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
M.draw_by, M.draw = core.plain(M.draw_by), core.plain(M.draw)

return M
