-- Judges what an experiment expected. Each expectation is a hypothesis of its own, written down before
-- the runs, and is tested by itself at 5 %: one-sided for worse and better, TOST for equal_within.
-- (What nobody expected is for the table, whose intervals are adjusted for the number of arms.)
--   held       shown
--   REFUTED    the opposite is shown: the 95 % interval lies wholly on the other side (or outside the
--              margin), an arm that should diverge finished, a value is outside its tolerance
--   not shown  neither
-- A change here makes no run stale.
local measures = require "attnlab.measures"
local stats = require "attnlab.stats"

local M = {}
local ALPHA = 0.05

local function sentence(x)
  if x.measure then return ("%s, %s: %s"):format(x.arm, x.measure, x.shows:gsub("_", " ")) end
  if x.diverges ~= nil then return ("%s %s"):format(x.arm, x.diverges and "diverges" or "does not diverge") end
  if x.value then return ("%s reaches %g within %g"):format(x.arm, x.value, x.within) end
  if x.equal_within then return ("%s equals %s within %g"):format(x.arm, x.versus, x.equal_within) end
  return ("%s is %s than %s"):format(x.arm, x.worse and "worse" or "better", x.versus)
end

local function judge_divergence(x, arm)
  local n = arm.count.diverged
  local detail = ("%d of %d seeds diverged"):format(n, #arm.runs)
  if n + arm.count.finished < #arm.runs then return "not shown", detail .. ", not all have ended" end
  if x.diverges then return n == #arm.runs and "held" or "REFUTED", detail end
  return n == 0 and "held" or "REFUTED", detail
end

local function judge_value(x, arm, seeds)
  local list = {}
  for _, s in ipairs(seeds) do list[#list + 1] = arm.values[s] end
  if #list == 0 then return "not shown", "no run has finished" end
  local mean = stats.mean(list)
  return math.abs(mean - x.value) <= x.within and "held" or "REFUTED", ("%.4f over %d"):format(mean, #list)
end

local function judge_measure(x, arm)
  local record = arm.measured and arm.measured[x.measure]
  if not record then return "not shown", "not measured" end
  local holds, detail = measures[x.measure].expect[x.shows](record)
  return holds and "held" or "REFUTED", detail
end

-- p-value of the expectation on the difference d, and whether its opposite is shown.
local function test(x, d, lo, hi)
  if x.equal_within then return stats.tost(d, x.equal_within), lo > x.equal_within or hi < -x.equal_within end
  if x.worse then return stats.one_sided(d, 0, 1), hi < 0 end
  return stats.one_sided(d, 0, -1), lo > 0
end

local function points_right(x, d)
  if x.equal_within then return math.abs(d.mean) <= x.equal_within end
  return x.worse and d.mean > 0 or x.better and d.mean < 0
end

local function judge_difference(x, arm, versus, seeds)
  local d = stats.paired(arm.values, versus.values, seeds)
  if d.n == 0 then
    return "not shown", arm.count.diverged + versus.count.diverged > 0 and "diverged" or "no pair has finished"
  end
  if d.n == 1 then
    return "not shown", ("%+.4f in one seed, which points %s"):format(d.mean,
      points_right(x, d) and "that way" or "the other way")
  end
  local lo, hi = stats.interval(d, 1 - ALPHA)
  local p, refuted = test(x, d, lo, hi)
  return refuted and "REFUTED" or p < ALPHA and "held" or "not shown",
    ("%+.4f, 95 %% interval [%.4f, %.4f], p = %.2g"):format(d.mean, lo, hi, p)
end

-- arms[name] = {runs, values = {[seed] = loss}, count = {finished, diverged, ...}}. Returns a list of
-- {text, outcome, detail} in the order of `list`.
function M.judge(list, arms, seeds)
  local results = {}
  for i, x in ipairs(list) do
    local outcome, detail
    if x.diverges ~= nil then
      outcome, detail = judge_divergence(x, arms[x.arm])
    elseif x.measure then
      outcome, detail = judge_measure(x, arms[x.arm])
    elseif x.value then
      outcome, detail = judge_value(x, arms[x.arm], seeds)
    else
      outcome, detail = judge_difference(x, arms[x.arm], arms[x.versus], seeds)
    end
    results[i] = { text = sentence(x), outcome = outcome, detail = detail }
  end
  return results
end

return M
