-- Results of a study of surgery: records of its measurements, the table that is printed, the figure, the
-- report with the texts, and what expectations can be judged. Part of study/surgery.lua.
-- A change here makes no run stale.
local over_models = require "attnlab.surgery.over_models"
local stats = require "attnlab.stats"
local subject = require "attnlab.surgery.subject"

local M = {}

local ALL = "all"

-- Half the 95 % t interval of a mean over n windows.
local function half(se, n) return stats.t_quantile(0.975, n - 1) * se end

-- One record a measurement.
function M.gather(groups)
  local records = {}
  for i, g in ipairs(groups) do
    local c, r = g.case, {}
    for k, v in pairs(g.results[1]) do r[k] = v end
    r.model, r.data, r.context, r.windows = subject.title(c.model), c.data, c.context, r.n
    r.arm = subject.arm(c.model)
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

-- Calls f(list) for each run of records with one value of key(record), in order.
local function groups_by(records, key)
  local list, by = {}, {}
  for _, r in ipairs(records) do
    local k = key(r)
    if not by[k] then
      by[k] = { name = k }
      list[#list + 1] = by[k]
    end
    table.insert(by[k], r)
  end
  return list
end

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
      first.data == "own" and "text that the model itself writes" or first.data, first.windows, first.context,
      first.original_loss, first.original_half)
    for _, r in ipairs(model) do
      if r.original_text then
        add("The original writes:\n\n%s\n", (quoted(r.original_text)))
        break
      end
    end
    for _, r in ipairs(model) do
      if r.layer == ALL then
        add("### %s in all layers, %s\n", r.swap, how(r))
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

-- ---- expectations -------------------------------------------------------------------------------------

M.expect = { swap = "string", layer = "number", calibrated = "boolean", below = "number", worse = "boolean",
             better = "boolean", exploratory = "boolean", calibrated_better = "boolean", kl_falls = "number" }
M.claims = { below = true, worse = true, better = true, calibrated_better = true, kl_falls = true }

local function find(model, swap, layer, calibrated)
  for _, r in ipairs(model) do
    if r.swap == swap and r.layer == layer and (calibrated == nil or r.calibrated == calibrated) then return r end
  end
end

-- at: what the interval is held against, on whose side it stands as printed, too.
local function number(r, at)
  if not (r and r.mean) then return "none" end
  return ("%s [%s, %s]"):format(stats.show(r.mean, at, "+", 3), stats.show(r.lo, at, "", 3), stats.show(r.hi, at, "", 3))
end

-- REFUTED: the opposite is shown.
local function outcome(held, refuted) return held and "held" or refuted and "REFUTED" or "not shown" end

-- {swap=, layer=, calibrated=, worse=true}: the interval of the loss difference lies above 0; better: below
local function side(word, sign)
  return function(x, model, layer)
    local r = find(model, x.swap, layer, x.calibrated)
    local lo, hi = r and r.lo, r and r.hi
    if sign < 0 and lo then lo, hi = -hi, -lo end
    return ("%s is %s than the original"):format(x.swap, word), outcome(lo and lo > 0, hi and hi < 0), number(r, 0)
  end
end

-- For one model: what is claimed, its outcome, what was measured.
local JUDGES = {
  worse = side("worse", 1),
  better = side("better", -1),
  -- {swap=, layer=, calibrated=, below=x}: the interval of the loss difference lies below x
  below = function(x, model, layer)
    local r = find(model, x.swap, layer, x.calibrated == true)
    return ("%s%s costs less than %g"):format(x.swap, x.calibrated and ", calibrated," or ", raw,", x.below),
      outcome(r and r.hi and r.hi < x.below, r and (not r.lo or r.lo > x.below)), number(r, x.below)
  end,
  -- {swap=, layer=, calibrated_better=true}: the calibrated interval lies below the raw one
  calibrated_better = function(x, model, layer)
    local raw, cal = find(model, x.swap, layer, false), find(model, x.swap, layer, true)
    local held = raw and cal and cal.hi and (not raw.lo or cal.hi < raw.lo)
    local refuted = raw and cal and raw.hi and (not cal.lo or cal.lo > raw.hi)
    return x.swap .. " costs less calibrated than raw", outcome(held, refuted),
      ("raw %s, calibrated %s"):format(number(raw, cal and (held and cal.hi or cal.lo)),
        number(cal, raw and (held and raw.lo or raw.hi)))
  end,
  -- {kl_falls=p}: from order p on every even order, raw, has a smaller KL than the even one before
  kl_falls = function(x, model, layer)
    local last, held, list = nil, true, {}
    for _, r in ipairs(model) do
      if r.order and r.order % 2 == 0 and r.order >= x.kl_falls and r.layer == layer and not r.calibrated then
        held = held and (not last or (r.kl or math.huge) < last)
        last = r.kl or math.huge
        list[#list + 1] = ("%d: %.3g"):format(r.order, last)
      end
    end
    return ("KL falls with the even orders from %d on"):format(x.kl_falls), outcome(held and #list > 1, not held),
      #list > 0 and table.concat(list, ", ") or "none"
  end,
}

-- Arms with several seeds as one, the other models as they are.
local function arms_first(records)
  local out, joined = over_models(records), {}
  for _, r in ipairs(out) do joined[r.model:match "^(.*), over %d+ seeds$"] = true end
  for _, r in ipairs(records) do
    if not (r.arm and joined[r.arm]) then out[#out + 1] = r end
  end
  return out
end

function M.judge(expect, records)
  local out = {}
  for _, x in ipairs(expect) do
    for kind, judge in pairs(JUDGES) do
      if x[kind] ~= nil then
        for _, model in ipairs(groups_by((kind == "worse" or kind == "better") and arms_first(records) or records,
          function(r) return r.model end)) do
          local text, came, detail = judge(x, model, x.layer or ALL)
          out[#out + 1] = { text = ("%s: %s%s"):format(model.name, text, x.exploratory and " (exploratory)" or ""),
                            outcome = came, detail = detail }
        end
      end
    end
  end
  return out
end

return M
