-- attnlab.stats against values known in closed form or from published tables.
local T = ...
local stats = require "attnlab.stats"

T.test("log gamma", function()
  T.near(stats.lgamma(0.5), 0.5 * math.log(math.pi), 1e-13)
  T.near(stats.lgamma(1), 0, 1e-13)
  T.near(stats.lgamma(10), math.log(362880), 1e-12)
  T.near(stats.lgamma(100), 359.1342053695754, 1e-10)
end)

T.test("incomplete beta", function()
  T.near(stats.betainc(1, 1, 0.3), 0.3, 1e-14)
  T.near(stats.betainc(2, 3, 0.4), 0.5248, 1e-14) -- 1 - sum of binomial terms
  T.near(stats.betainc(0.5, 0.5, 0.25), 1 / 3, 1e-13) -- 2/pi asin sqrt x
  T.near(stats.betainc(7, 2, 0.9) + stats.betainc(2, 7, 0.1), 1, 1e-14)
  T.eq(stats.betainc(2, 3, 0), 0)
  T.eq(stats.betainc(2, 3, 1), 1)
end)

T.test("Student's t: one and two degrees of freedom in closed form", function()
  for _, t in ipairs { -30, -2, -0.1, 0, 0.5, 1, 3, 100 } do
    T.near(stats.t_cdf(t, 1), 0.5 + math.atan(t) / math.pi, 1e-13)
    T.near(stats.t_cdf(t, 2), 0.5 + t / (2 * math.sqrt(2 + t * t)), 1e-13)
  end
  for _, p in ipairs { 0.6, 0.9, 0.975, 0.995, 0.9975, 0.999999 } do
    T.near(stats.t_quantile(p, 1) / math.tan(math.pi * (p - 0.5)), 1, 1e-10)
    T.near(stats.t_quantile(p, 2) / ((2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p)))), 1, 1e-10)
    T.near(stats.t_quantile(1 - p, 2), -stats.t_quantile(p, 2), 1e-9)
  end
end)

T.test("Student's t: tables", function()
  T.near(stats.t_quantile(0.95, 4), 2.1318467863266, 1e-10)
  T.near(stats.t_quantile(0.975, 10), 2.2281388519863, 1e-10)
  T.near(stats.t_quantile(0.995, 30), 2.7499956535671, 1e-9)
  T.near(stats.t_quantile(0.975, 1000), 1.9623390808264, 1e-9)
  T.eq(stats.t_quantile(0.5, 3), 0)
  for _, df in ipairs { 1, 2, 3, 7, 50 } do
    for _, p in ipairs { 0.55, 0.9, 0.999 } do T.near(stats.t_cdf(stats.t_quantile(p, df), df), p, 1e-12) end
  end
  T.eq(stats.t_cdf(math.huge, 3), 1)
end)

T.test("mean and deviation", function()
  T.near(stats.mean { 1, 2, 3, 4 }, 2.5, 0)
  T.near(stats.deviation { 1, 2, 3, 4 }, math.sqrt(5 / 3), 1e-15)
  T.eq(stats.mean {}, nil)
  T.eq(stats.deviation { 1 }, nil)
end)

T.test("paired differences use the seeds that both arms have", function()
  local d = stats.paired({ [1] = 3, [2] = 5, [3] = 9, [5] = 1 }, { [1] = 1, [2] = 2, [3] = 5, [4] = 0 }, { 1, 2, 3, 4, 5 })
  T.eq(d.values, { 2, 3, 4 })
  T.eq(d.seeds, { 1, 2, 3 })
  T.near(d.mean, 3, 0)
  T.near(d.t, 3 * math.sqrt(3), 1e-12)
  T.near(d.p, 2 * (1 - stats.t_cdf(3 * math.sqrt(3), 2)), 1e-12)
  local lo, hi = stats.interval(d, 0.95)
  T.near(hi - 3, 4.30265272974946 / math.sqrt(3), 1e-9)
  T.near(lo + hi, 6, 1e-12)
end)

T.test("one pair, no pair, equal pairs", function()
  T.eq(stats.paired({ 1 }, { 3 }, { 1 }).p, nil)
  T.eq(stats.paired({}, {}, { 1 }).mean, nil)
  T.eq(stats.interval(stats.paired({ 1 }, { 3 }, { 1 }), 0.95), nil)
  T.eq(stats.paired({ 1, 2 }, { 1, 2 }, { 1, 2 }).p, 1)
  local same = stats.paired({ 2, 3 }, { 1, 2 }, { 1, 2 })
  T.eq(same.p, 0)
  T.eq({ stats.interval(same, 0.95) }, { 1, 1 })
  T.eq(stats.tost(same, 2), 0)
  T.eq(stats.tost(same, 0.5), 1)
end)

T.test("two one-sided tests", function()
  local d = stats.paired({ 0.001, -0.002, 0.0005 }, { 0, 0, 0 }, { 1, 2, 3 })
  local se = d.se
  T.near(stats.tost(d, 0.01), 1 - stats.t_cdf((0.01 - math.abs(d.mean)) / se, 2), 1e-12)
  T.ok(stats.tost(d, 0.01) < 0.05)
  T.ok(stats.tost(d, 0.001) > 0.05)
  T.near(stats.one_sided(d, 0, 1) + stats.one_sided(d, 0, -1), 1, 1e-12)
end)

T.test("Holm", function()
  local adjusted, level, rejected = stats.holm({ 0.01, 0.04, 0.03, 0.005 }, 0.05)
  T.near(adjusted, { 0.03, 0.06, 0.06, 0.02 }, 1e-12)
  T.eq(rejected, { true, false, false, true })
  -- ranks 1 and 2 at alpha/4 and alpha/3; the third fails at alpha/2, and so stand all after it
  T.near(level, { 1 - 0.05 / 3, 1 - 0.05 / 2, 1 - 0.05 / 2, 1 - 0.05 / 4 }, 1e-12)
  T.eq(stats.holm({}, 0.05), {})
end)

T.test("an interval excludes 0 exactly when Holm rejects", function()
  local state = 12345
  local function random()
    state = (state * 1103515245 + 12345) % 2147483648
    return state / 2147483648
  end
  for _ = 1, 50 do
    local arms = { { name = "reference", values = { 0, 0, 0, 0 } } }
    for a = 1, 6 do
      local shift, v = random() * a * 0.3, {}
      for s = 1, 4 do v[s] = shift + random() - 0.5 end
      arms[#arms + 1] = { name = "arm " .. a, values = v }
    end
    for i, row in ipairs(stats.compare(arms, { 1, 2, 3, 4 })) do
      local d = row.difference
      if i > 1 then T.eq(d.verdict == "worse" or d.verdict == "better", d.lo > 0 or d.hi < 0) end
    end
  end
end)

T.test("compare: verdicts", function()
  local rows = stats.compare({
    { name = "a", values = { 2.00, 2.01, 2.02 } },
    { name = "b", values = { 2.0001, 2.0102, 2.0201 } },
    { name = "c", values = { 2.50, 2.515, 2.51 } },
    { name = "d", values = { 1.80, 1.812, 1.82 } },
    { name = "e", values = { 2.9, 1.2, 2.2 } },
    { name = "f", values = {} },
    { name = "g", values = { [2] = 2.3 } },
  }, { 1, 2, 3 }, 0.01)
  local verdicts = {}
  for i = 2, 7 do verdicts[i - 1] = rows[i].difference.verdict or "-" end
  T.eq(verdicts, { "equal within 0.01", "worse", "better", "no difference shown", "-", "-" })
  T.eq(rows[1].n, 3)
  T.eq(rows[6].n, 0)
  T.eq(rows[7].difference.n, 1)
  T.near(rows[7].difference.mean, 0.29, 1e-12)
end)
