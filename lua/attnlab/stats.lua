-- Statistics of runs that share seeds: paired differences with Student t, Holm's step-down adjustment,
-- and equivalence by two one-sided tests (TOST).
-- A change here makes no run stale.
--
-- One test, one interval: every verdict is read off the interval that is shown beside it (verdict()),
-- and p-values only choose that interval's level.
--
-- An expectation has a test of its own, unadjusted: worse and better by the 95 % interval, which excludes
-- 0 exactly when the two-sided t test rejects at 5 %; equal by the 90 % interval, which lies within the
-- margin exactly when both one-sided tests reject at 5 %.
--
-- The table compares m arms with one reference. Two families of hypotheses, each with a family-wise
-- error of at most alpha = 5 %: that an arm does not differ, and that it differs by the margin or more.
--   Differences. Order the two-sided p-values p(1) <= ... <= p(m). Holm tests p(k) at alpha / (m - k + 1)
--     and stops at the first k that fails. The interval of the arm with rank k has the level
--     1 - alpha / (m - min(k, first failure) + 1): it excludes 0 exactly when Holm rejects.
--   Equality. The same over the p-values of TOST; a test at a is an interval of level 1 - 2a.
-- An arm whose interval of the first family shows it worse or better keeps that one. Every other arm has
-- the wider of its two: it still contains 0 where the first did, and lies within the margin only where the
-- second does, so nothing is claimed that the family's own Holm would not claim. An arm that differs from
-- 0 but by less than the margin is equal if the wider interval says so, and that is all that is said.
-- (Levels by the ranks of differences alone would not do for equality: of arms that all lie at the margin
-- the one that came out nearest to 0 would get the narrowest interval because it did.) The decisions hold
-- together at 5 % within each family; joint coverage of the intervals of rejected arms is not promised by
-- any step-down method.
--
-- Without spread (the same difference in every seed) the interval is that one number; one seed has no
-- interval and no verdict. An arm that may not be judged (`unfit`: seeds that diverged or are missing)
-- gets no interval and no verdict and is in no family.
-- Everything assumes that differences over seeds are roughly normal; with few seeds the t quantile is
-- large (4.3 for three seeds, 14 at level 0.995) and the intervals say so.
local core = require "attnlab.core"

local M = {}

-- log gamma(x) for x > 0: Stirling's series at x + n >= 10, error below 1e-15 relative.
function M.lgamma(x)
  local shift = 0
  while x < 10 do
    shift = shift + math.log(x)
    x = x + 1
  end
  local z = 1 / (x * x)
  local series = (1 / 12 - z * (1 / 360 - z * (1 / 1260 - z * (1 / 1680 - z * (1 / 1188 - z * 691 / 360360))))) / x
  return (x - 0.5) * math.log(x) - x + 0.5 * math.log(2 * math.pi) + series - shift
end

-- Continued fraction of the incomplete beta function (DLMF 8.17.22), by Lentz's method.
local function beta_fraction(a, b, x)
  local tiny = 1e-300
  local c, d = 1, 1 - (a + b) * x / (a + 1)
  d = 1 / (math.abs(d) < tiny and tiny or d)
  local f = d
  for m = 1, 10000 do
    local m2 = 2 * m
    for _, term in ipairs { m * (b - m) * x / ((a + m2 - 1) * (a + m2)),
                            -(a + m) * (a + b + m) * x / ((a + m2) * (a + m2 + 1)) } do
      d = 1 + term * d
      d = 1 / (math.abs(d) < tiny and tiny or d)
      c = 1 + term / c
      if math.abs(c) < tiny then c = tiny end
      f = f * d * c
    end
    if math.abs(d * c - 1) < 1e-16 then break end
  end
  return f
end

-- Regularised incomplete beta I_x(a, b).
function M.betainc(a, b, x)
  if x <= 0 then return 0 end
  if x >= 1 then return 1 end
  local front = math.exp(M.lgamma(a + b) - M.lgamma(a) - M.lgamma(b) + a * math.log(x) + b * math.log(1 - x))
  if x < (a + 1) / (a + b + 2) then return front * beta_fraction(a, b, x) / a end
  return 1 - front * beta_fraction(b, a, 1 - x) / b
end

-- P(T > t) for t >= 0, without the cancellation of 1 - cdf.
local function t_tail(t, df)
  return 0.5 * M.betainc(df / 2, 0.5, df / (df + t * t))
end

-- P(T <= t) of Student's t with df > 0 degrees of freedom.
function M.t_cdf(t, df)
  if t ~= t then return t end
  if t == math.huge or t == -math.huge then return t > 0 and 1 or 0 end
  return t >= 0 and 1 - t_tail(t, df) or t_tail(-t, df)
end

-- The t with P(T <= t) = p: bisection on the tail, whose relative precision is kept for small 1 - p.
function M.t_quantile(p, df)
  if p <= 0 or p >= 1 then return p <= 0 and -math.huge or math.huge end
  if p == 0.5 then return 0 end
  if p < 0.5 then return -M.t_quantile(1 - p, df) end
  local tail, lo, hi = 1 - p, 0, 1
  while t_tail(hi, df) > tail do hi = hi * 2 end
  for _ = 1, 200 do
    local mid = 0.5 * (lo + hi)
    if mid == lo or mid == hi then break end
    if t_tail(mid, df) > tail then lo = mid else hi = mid end
  end
  return 0.5 * (lo + hi)
end

-- Mean of an array; nil of an empty one.
function M.mean(x)
  if #x == 0 then return nil end
  local s = 0
  for _, v in ipairs(x) do s = s + v end
  return s / #x
end

-- Sample standard deviation (n - 1); nil for fewer than two values.
function M.deviation(x)
  if #x < 2 then return nil end
  local m, s = M.mean(x), 0
  for _, v in ipairs(x) do s = s + (v - m) ^ 2 end
  return math.sqrt(s / (#x - 1))
end

-- Differences a[seed] - b[seed] over the seeds that both have, in the order of `seeds`.
-- Returns {n, mean, values = {..}, seeds = {..}, deviation, se, df, t, p}; the last five only for n >= 2.
function M.paired(a, b, seeds)
  local r = { values = {}, seeds = {} }
  for _, seed in ipairs(seeds) do
    if a[seed] and b[seed] then
      r.values[#r.values + 1] = a[seed] - b[seed]
      r.seeds[#r.seeds + 1] = seed
    end
  end
  r.n = #r.values
  r.mean = M.mean(r.values)
  if r.n < 2 then return r end
  r.deviation = M.deviation(r.values)
  r.se = r.deviation / math.sqrt(r.n)
  r.df = r.n - 1
  if r.se == 0 then -- the same difference in every seed
    r.t = r.mean == 0 and 0 or (r.mean > 0 and math.huge or -math.huge)
    r.p = r.mean == 0 and 1 or 0
  else
    r.t = r.mean / r.se
    r.p = 2 * t_tail(math.abs(r.t), r.df)
  end
  return r
end

-- mean -+ t(level) se of a paired difference; nil where there is no deviation.
function M.interval(d, level)
  if not d.se then return nil end
  local half = M.t_quantile(0.5 + level / 2, d.df) * d.se
  return d.mean - half, d.mean + half
end

-- p-value of "mean of d < bound" (side = -1) or "> bound" (side = 1), one-sided t test.
function M.one_sided(d, bound, side)
  if not d.se then return nil end
  local gap = side * (d.mean - bound)
  if d.se == 0 then return gap > 0 and 0 or 1 end
  local t = gap / d.se
  return t >= 0 and t_tail(t, d.df) or 1 - t_tail(-t, d.df)
end

-- Two one-sided tests that |mean of d| < margin: the larger of the two p-values.
function M.tost(d, margin)
  if not d.se then return nil end
  return math.max(M.one_sided(d, margin, -1), M.one_sided(d, -margin, 1))
end

-- Holm's step-down over p-values. Returns adjusted p, the level of each test's interval, rejected or not.
function M.holm(p, alpha)
  local order = {}
  for i = 1, #p do order[i] = i end
  table.sort(order, function(i, j)
    if p[i] ~= p[j] then return p[i] < p[j] end
    return i < j
  end)
  local m, running, stop = #p, 0, nil
  local adjusted, level, rejected = {}, {}, {}
  for k, i in ipairs(order) do
    running = math.max(running, math.min(1, (m - k + 1) * p[i]))
    adjusted[i] = running
    if not stop and p[i] >= alpha / (m - k + 1) then stop = k end
    rejected[i] = stop == nil
    level[i] = 1 - alpha / (m - (stop or k) + 1)
  end
  return adjusted, level, rejected
end

-- What an interval shows of a difference, where lower values are better.
function M.verdict(lo, hi, margin)
  if lo == 0 and hi == 0 then return "equal" end
  if margin and lo > -margin and hi < margin then return "equal" end
  return lo > 0 and "worse" or hi < 0 and "better" or "undecided"
end

-- v with `digits` (4) behind the point, more where it takes them to stand, as printed, on the same side of
-- 0 and +-margin as it does.
function M.show(v, margin, form, digits)
  margin = margin or 0
  for _, tail in ipairs { ("." .. (digits or 4) .. "f"), ".4f", ".5f", ".6f", ".8f", ".1e", ".4e" } do
    local text, good = ("%" .. (form or "") .. tail):format(v), true
    for _, at in ipairs { 0, margin, -margin } do
      local shown = tonumber(text)
      good = good and (shown < at) == (v < at) and (shown > at) == (v > at)
    end
    if good then return text end
  end
  return ("%.17g"):format(v)
end
M.show = core.plain(M.show)

-- "+0.0123 [0.0100, 0.0146]"; the mean alone where there is no interval.
function M.text(d, margin)
  local mean = M.show(d.mean, margin, "+")
  return d.lo and ("%s [%s, %s]"):format(mean, M.show(d.lo, margin), M.show(d.hi, margin)) or mean
end

-- Level and interval of a tested difference, see above. level, equal: of the two families.
local function decide(d, level, equal, margin)
  local lo, hi = M.interval(d, level)
  local shown = M.verdict(lo, hi, margin)
  if equal and shown ~= "worse" and shown ~= "better" then
    level = math.max(level, equal)
    lo, hi = M.interval(d, level)
    shown = M.verdict(lo, hi, margin)
  end
  d.level, d.lo, d.hi = level, lo, hi
  d.verdict = shown == "equal" and margin and ("equal within %g"):format(margin) or shown
end

-- Compares arms with the first of them. arms = {{name, values = {[seed] = number}, unfit = why or nil},
-- ...}. Returns one row per arm: {name, n, mean, deviation, unfit, difference = paired + {lo, hi, level,
-- p_holm, p_equal, verdict}}; the last six with two pairs or more, where both arms may be judged.
function M.compare(arms, seeds, margin, alpha)
  alpha = alpha or 0.05
  local rows, tested, p, p_equal = {}, {}, {}, {}
  for i, arm in ipairs(arms) do
    local list = {}
    for _, seed in ipairs(seeds) do list[#list + 1] = arm.values[seed] end
    local row = { name = arm.name, n = #list, mean = M.mean(list), deviation = M.deviation(list) }
    rows[i] = row
    if i > 1 then
      row.unfit = arm.unfit or arms[1].unfit and ("%s: %s"):format(arms[1].name, arms[1].unfit)
      row.difference = M.paired(arm.values, arms[1].values, seeds)
      if row.difference.p and not row.unfit then
        tested[#tested + 1] = row.difference
        p[#p + 1] = row.difference.p
        p_equal[#p_equal + 1] = margin and M.tost(row.difference, margin)
      end
    end
  end
  local adjusted, level = M.holm(p, alpha)
  local equal_adjusted, equal_level
  if margin then equal_adjusted, equal_level = M.holm(p_equal, alpha) end
  for i, d in ipairs(tested) do
    d.p_holm, d.p_equal = adjusted[i], margin and equal_adjusted[i]
    decide(d, level[i], margin and 2 * equal_level[i] - 1, margin)
  end
  return rows
end

return M
