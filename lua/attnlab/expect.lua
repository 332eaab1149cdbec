-- Judges what an experiment expected. The differences of all expectations form one family: their
-- p-values (one-sided for worse and better, TOST for equal_within) are adjusted by Holm.
--   held       shown at 5 %
--   REFUTED    the opposite is shown: the 95 % interval lies wholly on the other side (or outside the
--              margin), an arm that should diverge finished, a value is outside its tolerance
--   not shown  neither
local stats = require "attnlab.stats"

local M = {}
local ALPHA = 0.05

local function sentence(x)
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

-- Difference of x.arm to x.versus as a test: {p, refuted = bool} or nil with fewer than two pairs.
local function test(x, d)
  if not d.se then return nil end
  local lo, hi = stats.interval(d, 1 - ALPHA)
  if x.equal_within then
    return { p = stats.tost(d, x.equal_within), refuted = lo > x.equal_within or hi < -x.equal_within }
  end
  if x.worse then return { p = stats.one_sided(d, 0, 1), refuted = hi < 0 } end
  return { p = stats.one_sided(d, 0, -1), refuted = lo > 0 }
end

local function points_right(x, d)
  if x.equal_within then return math.abs(d.mean) <= x.equal_within end
  return x.worse and d.mean > 0 or x.better and d.mean < 0
end

-- arms[name] = {runs, values = {[seed] = loss}, count = {finished, diverged, ...}}. Returns a list of
-- {text, outcome, detail} in the order of `list`.
function M.judge(list, arms, seeds)
  local results, tests, p = {}, {}, {}
  for i, x in ipairs(list) do
    local r, arm = { text = sentence(x) }, arms[x.arm]
    results[i] = r
    if x.diverges ~= nil then
      r.outcome, r.detail = judge_divergence(x, arm)
    elseif x.value then
      r.outcome, r.detail = judge_value(x, arm, seeds)
    else
      local d = stats.paired(arm.values, arms[x.versus].values, seeds)
      local t = test(x, d)
      if t then
        tests[#tests + 1] = { result = r, refuted = t.refuted, d = d }
        p[#p + 1] = t.p
      elseif d.n == 1 then
        r.outcome = "not shown"
        r.detail = ("%+.4f in one seed, which points %s"):format(d.mean,
          points_right(x, d) and "that way" or "the other way")
      else
        r.outcome = "not shown"
        r.detail = arm.count.diverged + arms[x.versus].count.diverged > 0 and "diverged" or "no pair has finished"
      end
    end
  end
  local adjusted = stats.holm(p, ALPHA)
  for i, t in ipairs(tests) do
    local lo, hi = stats.interval(t.d, 1 - ALPHA)
    t.result.outcome = t.refuted and "REFUTED" or adjusted[i] < ALPHA and "held" or "not shown"
    t.result.detail = ("%+.4f, 95 %% interval [%.4f, %.4f], adjusted p = %.2g"):format(t.d.mean, lo, hi, adjusted[i])
  end
  return results
end

return M
