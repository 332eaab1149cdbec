-- Results of a study of surgery: records of its measurements, the table that is printed, the figure, the
-- report with the texts, and what expectations can be judged. Part of study/surgery.lua.
-- A change here makes no run stale.
local judge = require "attnlab.surgery.judge"
local over_models = require "attnlab.surgery.over_models"
local stats = require "attnlab.stats"
local subject = require "attnlab.surgery.subject"

local M = {}

local ALL, groups_by = "all", judge.groups_by

-- Half the 95 % t interval of a mean over n windows.
local function half(se, n) return stats.t_quantile(0.975, n - 1) * se end

-- One record a measurement.
function M.gather(groups)
  local records = {}
  for i, g in ipairs(groups) do
    local c, r = g.case, {}
    for k, v in pairs(g.results[1]) do r[k] = v end
    local on = c.text and ", on " .. (c.text == "own" and "its own text" or c.text:match "[^/]*$") or ""
    r.model, r.data, r.context, r.windows = subject.title(c.model) .. on, c.data, c.context, r.n
    r.arm = subject.arm(c.model) and subject.arm(c.model) .. on
    r.several = c.swap.steps ~= nil
    r.swap, r.layer, r.calibrated = c.swap.name, c.layer, c.calibrated
    if r.failed then -- what was measured of it nevertheless is of something else: uncalibrated, say
      for _, k in ipairs { "mean", "se", "lo", "hi", "kl", "kl_se" } do r[k] = nil end
    end
    r.kl_half = r.kl_se and half(r.kl_se, r.n)
    r.original_half = r.original_loss_se and half(r.original_loss_se, r.n) or 0
    local options = c.swap.options or {}
    r.order = options.similarity == "taylor" and options.order or nil
    records[i] = r
  end
  return records
end

M.keys = { "model", "data", "windows", "context", "swap", "layer", "calibrated", "original_loss",
           "original_loss_se", "mean", "se", "lo", "hi", "kl", "kl_se", "failed", "text" }

local function how(r) return r.calibrated and "calibrated" or "raw" end

-- The records, and behind them what is put together of models that differ by their seeds.
local function with_arms(records)
  local all = table.move(records, 1, #records, 1, {})
  local more = over_models(records)
  return table.move(more, 1, #more, #all + 1, all)
end

-- A row for each model, swap, and raw or calibrated: the differences by layer.
function M.shown(records)
  local out = {}
  for _, model in ipairs(groups_by(with_arms(records), function(r) return r.model end)) do
    local named
    for _, swap in ipairs(groups_by(model, function(r) return r.swap .. " / " .. how(r) end)) do
      local row = { swap = swap[1].swap, how = how(swap[1]), by_layer = {} }
      for _, r in ipairs(swap) do row.by_layer[r.layer] = r end
      if not named then row.model, named = model.name, true end
      out[#out + 1] = row
    end
  end
  return out
end

local function difference(r)
  if not r then return nil end
  if r.failed or not r.mean then return "not finite" end
  return ("%+.3f ±%.3f"):format(r.mean, (r.hi - r.lo) / 2)
end

-- Where a terminal is too narrow, single layers go, the last first.
M.columns = {
  { title = "model", wrap = true, show = function(r) return r.model end,
    doc = "one model is n = 1, its intervals go over the documents that it was measured on; over seeds: over models" },
  { title = "put in", wrap = true, show = function(r) return r.swap end },
  { title = "", show = function(r) return r.how end,
    doc = "calibrated: a constant factor a head, so that the rms of its output is the original's" },
}
for i = 1, 24 do
  M.columns[#M.columns + 1] = { title = "layer " .. i, right = true, drop = 25 - i,
    show = function(r) return difference(r.by_layer[i]) end }
end
for _, c in ipairs {
  { title = "all layers", right = true, show = function(r) return difference(r.by_layer[ALL]) end,
    doc = "layers: loss minus the original's on the same windows, nats per token, with half the 95 % interval of the pairs" },
  { title = "KL, all", right = true,
    show = function(r)
      local a = r.by_layer[ALL]
      return a and a.kl and ("%.3f ±%.3f"):format(a.kl, a.kl_half)
    end,
    doc = "KL: of the original to the changed model, nats per token; all intervals: 95 %, two-sided, t, each for itself" },
} do
  M.columns[#M.columns + 1] = c
end

-- ---- the figure ---------------------------------------------------------------------------------------

local HOLLOW, FILLED = 6, 7

-- Curves of one panel: a colour for each layer, black for all; raw dashed and hollow, calibrated solid.
local function curves_of(list, x_of, line)
  local out = {}
  for _, g in ipairs(groups_by(list, function(r) return tostring(r.layer) end)) do
    for _, calibrated in ipairs { false, true } do
      local points = {}
      for _, r in ipairs(g) do
        if r.calibrated == calibrated and r.kl then
          points[#points + 1] = { x_of(r), r.kl, low = math.max(r.kl - r.kl_half, 1e-3 * r.kl),
                                  high = r.kl + r.kl_half }
        end
      end
      out[#out + 1] = { points = points, colour = g[1].layer == ALL and 1 or g[1].layer + 1, line = line,
                        dash = calibrated and 1 or 3, marks = calibrated and FILLED or HOLLOW,
                        thin = g[1].layer ~= ALL }
    end
  end
  return out
end

function M.figure(records, study)
  local fig = { title = (study.title or study.question or study.name)
    .. "   (dashed, hollow: raw; solid, filled: calibrated)", panels = {}, legend = {},
    notes = { "bars: 95 % interval, t over the windows, each for itself" } }
  local layers = 0
  for k, model in ipairs(groups_by(records, function(r) return r.model end)) do
    local series, others, order_of, names_of, ticks, seen = {}, {}, {}, {}, {}, {}
    for _, r in ipairs(model) do
      if r.order then
        series[#series + 1] = r
        if not seen[r.order] then seen[r.order], ticks[#ticks + 1] = true, r.order end
      else
        if not order_of[r.swap] then
          names_of[#names_of + 1] = r.swap
          order_of[r.swap] = #names_of
        end
        others[#others + 1] = r
      end
      if r.layer ~= ALL then layers = math.max(layers, r.layer) end
    end
    local function panel(title, more)
      local p = { title = ("(%s) %s"):format(("abcdefgh"):sub(#fig.panels + 1, #fig.panels + 1), title),
                  ylabel = k == 1 and #fig.panels == 0 and "KL to the original [nats per token]" or "", logy = true }
      for key, v in pairs(more) do p[key] = v end
      fig.panels[#fig.panels + 1] = p
    end
    if #series > 0 then
      panel(model.name, { xlabel = "order that exp's series is cut at", xticks = ticks,
                  curves = curves_of(series, function(r) return r.order end, true) })
    end
    if #others > 0 then
      -- layers beside one another within a name's place, calibrated right of raw
      local function place(r)
        local at = r.layer == ALL and layers + 1 or r.layer
        return order_of[r.swap] + 0.7 * ((at - 0.5 + (r.calibrated and 0.25 or -0.25)) / (layers + 1) - 0.5)
      end
      panel(#series > 0 and "the same model" or model.name, { xlabel = "", xnames = names_of, xrange = { 0.4, #names_of + 0.6 },
                  curves = curves_of(others, place, false) })
    end
  end
  for i = 1, layers do fig.legend[i] = { name = "layer " .. i, style = { colour = i + 1 } } end
  fig.legend[#fig.legend + 1] = { name = "all layers", style = { colour = 1 } }
  return fig
end

-- ---- the report ---------------------------------------------------------------------------------------

local function quoted(text)
  return "    " .. (text or ""):gsub("%s+$", ""):gsub("\n", "\n    ")
end

function M.document(records, study, text, figure, judged)
  local out = { "# " .. (study.title or study.name), "" }
  local function add(...) out[#out + 1] = (...):format(select(2, ...)) end
  if study.question then add("%s\n", study.question) end
  if figure then add("![KL to the original by what was put in](figure.svg)\n") end
  add("%s\n", (quoted(text)))
  if judged ~= "" then add("%s\n", (quoted(judged))) end
  for _, model in ipairs(groups_by(records, function(r) return r.model end)) do
    local first = model[1]
    add("## %s\n", model.name)
    add("Measured on %s: %d windows of %d tokens. The original's loss: %.4f ± %.4f nats per token.\n",
      ({ own = "text that the model itself writes", hidden = "the part of its text that the prompt never shows" })[first.data]
        or first.data, first.windows, first.context,
      first.original_loss, first.original_half)
    for _, r in ipairs(model) do
      if r.original_text then
        add("The original writes:\n\n%s\n", (quoted(r.original_text)))
        break
      end
    end
    for _, r in ipairs(model) do
      if r.layer == ALL then
        add("### %s%s, %s\n", r.swap, r.several and "" or " in all layers", how(r))
        if r.mean then
          add("Loss %+.4f [%.4f, %.4f], KL %.4f ± %.4f.\n", r.mean, r.lo, r.hi, r.kl, r.kl_half)
        end
        add("%s\n", r.failed or (quoted(r.text)))
      end
    end
  end
  if study.story then add("%s", study.story) end
  return table.concat(out, "\n")
end

for _, k in ipairs { "expect", "claims", "judge" } do M[k] = judge[k] end

return M
