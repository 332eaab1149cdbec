-- What a study of surgery may expect, and what came of it: part of surgery/results.lua.
-- A change here makes no run stale.
local over_models = require "attnlab.surgery.over_models"
local stats = require "attnlab.stats"

local M = {}

local ALL = "all"

-- Calls f(list) for each run of records with one value of key(record), in order.
function M.groups_by(records, key)
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

-- What `worse` and `better` of a swap are judged by: the models that have it, arms with several seeds as one.
local function having(records, swap)
  local all, joined, out = over_models(records), {}, {}
  for _, r in ipairs(all) do joined[r.model:match "^(.*), over %d+ seeds$"] = true end
  for _, r in ipairs(records) do
    if not (r.arm and joined[r.arm]) then all[#all + 1] = r end
  end
  for _, r in ipairs(all) do
    if r.swap == swap then out[#out + 1] = r end
  end
  return #out > 0 and out or all
end

function M.judge(expect, records)
  local out = {}
  for _, x in ipairs(expect) do
    for kind, judge in pairs(JUDGES) do
      if x[kind] ~= nil then
        for _, model in ipairs(M.groups_by((kind == "worse" or kind == "better") and having(records, x.swap) or records,
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
