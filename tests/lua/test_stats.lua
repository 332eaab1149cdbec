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

-- Uniform numbers in [0, 1).
local state = 12345
local function random()
  state = (state * 1103515245 + 12345) % 2147483648
  return state / 2147483648
end

local function random_arms(n_arms, n_seeds, scale)
  local arms = { { name = "reference", values = {} } }
  for s = 1, n_seeds do arms[1].values[s] = 2 + 0.05 * random() end
  for a = 1, n_arms do
    local shift, spread, v = scale * (random() - 0.5) * a, scale * random() ^ 3, {}
    for s = 1, n_seeds do v[s] = arms[1].values[s] + shift + spread * (random() - 0.5) end
    arms[#arms + 1] = { name = "arm " .. a, values = v }
  end
  return arms
end

local function seeds_to(n)
  local out = {}
  for i = 1, n do out[i] = i end
  return out
end

T.test("without a margin an interval excludes 0 exactly when Holm rejects", function()
  for _ = 1, 50 do
    for i, row in ipairs(stats.compare(random_arms(6, 4, 0.3), seeds_to(4))) do
      local d = row.difference
      if i > 1 then
        T.eq(d.verdict == "worse" or d.verdict == "better", d.lo > 0 or d.hi < 0)
        T.eq(d.p_holm < 0.05, d.lo > 0 or d.hi < 0)
      end
    end
  end
end)

-- Numbers read off a text "+0.1 [0.05, 0.15]".
local function printed(text)
  local mean, lo, hi = text:match "^(%S+) %[(%S+), (%S+)%]$"
  return tonumber(mean), tonumber(lo), tonumber(hi)
end

T.test("a verdict never contradicts its interval, nor that interval as it is printed", function()
  local seen = {}
  for round = 1, 300 do
    local scale, n = 10 ^ (-4 + 4 * random()), 2 + round % 5
    local margin = scale * random()
    local arms = random_arms(8, n, scale)
    for s = 1, n do -- ties: at 0, at the margin, without spread
      arms[2].values[s] = arms[1].values[s]
      arms[3].values[s] = arms[1].values[s] + margin
    end
    for i, row in ipairs(stats.compare(arms, seeds_to(n), margin)) do
      local d = row.difference
      if i > 1 then
        local word = d.verdict:match "^%a+"
        seen[word] = (seen[word] or 0) + 1
        local _, plo, phi = printed(stats.text(d, margin))
        for _, x in ipairs { { d.lo, d.hi }, { plo, phi } } do
          local lo, hi = x[1], x[2]
          local inside = lo > -margin and hi < margin
          T.eq(word, inside and "equal" or lo > 0 and "worse" or hi < 0 and "better" or "undecided")
        end
        -- nothing is claimed that Holm would not claim
        if word == "worse" or word == "better" then T.ok(d.p_holm < 0.05) end
        if word == "equal" then T.ok(d.p_equal < 0.05 and d.level >= 0.9) end
      end
    end
  end
  for _, word in ipairs { "equal", "worse", "better", "undecided" } do T.ok(seen[word] and seen[word] > 50, word) end
end)

-- Normal numbers in pairs (Box and Muller).
local function normal()
  return math.sqrt(-2 * math.log(1 - random())) * math.cos(2 * math.pi * random())
end

T.test("of ten arms that all differ by the margin, one is called equal in 5 % of the tables at most", function()
  -- with levels by the ranks of the differences alone it would be 17 % (of 4000 tables, computed apart)
  local wrong, tables = 0, 150
  for _ = 1, tables do
    local arms = { { name = "reference", values = {} } }
    for s = 1, 20 do arms[1].values[s] = 0 end
    for a = 1, 10 do
      arms[a + 1] = { name = "arm " .. a, values = {} }
      for s = 1, 20 do arms[a + 1].values[s] = 1 + normal() end
    end
    local called = false
    for i, row in ipairs(stats.compare(arms, seeds_to(20), 1)) do
      called = called or i > 1 and row.difference.verdict:find "equal" ~= nil
    end
    wrong = wrong + (called and 1 or 0)
  end
  T.ok(wrong / tables < 0.05 + 3 * math.sqrt(0.05 * 0.95 / tables), ("%d of %d tables"):format(wrong, tables))
end)

-- Intervals and levels by scipy 1.x: t.ppf over the differences, Holm over ttest_1samp and over TOST.
T.test("compare: verdicts and intervals", function()
  local rows = stats.compare({
    { name = "a", values = { 2.00, 2.01, 2.02 } },
    { name = "b", values = { 2.0001, 2.0102, 2.0201 } },
    { name = "c", values = { 2.50, 2.515, 2.51 } },
    { name = "d", values = { 1.80, 1.812, 1.82 } },
    { name = "e", values = { 2.9, 1.2, 2.2 } },
    { name = "f", values = {} },
    { name = "g", values = { [2] = 2.3 } },
  }, { 1, 2, 3 }, 0.01)
  local verdicts, got = {}, {}
  for i = 2, 7 do
    local d = rows[i].difference
    verdicts[i - 1] = d.verdict or "-"
    if d.lo then got[#got + 1] = { d.level, d.lo, d.hi } end
  end
  T.eq(verdicts, { "equal within 0.01", "worse", "better", "undecided", "-", "-" })
  T.near(got, { { 0.975, -7.351156055311931e-05, 0.0003401782272200527 },
                { 0.9833333333333333, 0.46460527825530534, 0.5320613884113614 },
                { 0.9875, -0.20524013335643676, -0.1934265333102297 },
                { 0.975, -2.9858746826376352, 3.165874682637635 } }, 1e-9)
  T.near(rows[2].difference.p_holm, 0.11438191683657109, 1e-12)
  T.near(rows[2].difference.p_equal, 2.2826490142751247e-05, 1e-12)
  T.eq(rows[1].n, 3)
  T.eq(rows[6].n, 0)
  T.eq(rows[7].difference.n, 1)
  T.near(rows[7].difference.mean, 0.29, 1e-12)
end)

T.test("an arm that may not be judged has no interval, and is in no family", function()
  local function arms(unfit, reference)
    return { { name = "a", values = { 2, 2.01, 2.02 }, unfit = reference },
             { name = "b", values = { 2.5, 2.515, 2.51 } }, { name = "c", values = { 1.5, 1.515, 1.51 }, unfit = unfit } }
  end
  local rows = stats.compare(arms "1 of 4 diverged", { 1, 2, 3 }, 0.01)
  T.eq({ rows[3].unfit, rows[3].difference.verdict, rows[3].difference.lo }, { "1 of 4 diverged" })
  T.eq({ rows[2].difference.verdict, rows[2].difference.level }, { "worse", 0.95 })
  rows = stats.compare(arms(nil, "2 of 5 diverged"), { 1, 2, 3 }, 0.01)
  for i = 2, 3 do
    T.eq(rows[i].unfit, "a: 2 of 5 diverged")
    T.eq({ rows[i].difference.verdict, rows[i].difference.lo, rows[i].difference.p_holm }, {})
  end
end)

T.test("differences without spread: exactly 0 is equal with and without a margin, others are what they are", function()
  for _, margin in ipairs { false, 0, 0.01 } do
    local rows = stats.compare({ { name = "a", values = { 1, 2 } }, { name = "b", values = { 1, 2 } },
      { name = "c", values = { 1.5, 2.5 } } }, { 1, 2 }, margin or nil)
    local b, c = rows[2].difference, rows[3].difference
    T.eq({ b.mean, b.lo, b.hi }, { 0.0, 0.0, 0.0 })
    T.eq(b.verdict, margin and ("equal within %g"):format(margin) or "equal")
    T.eq(stats.text(b, margin or nil), "+0.0000 [0.0000, 0.0000]")
    T.eq({ c.lo, c.hi, c.verdict }, { 0.5, 0.5, "worse" })
  end
end)

T.test("numbers have the digits it takes", function()
  T.eq(stats.show(0.12344), "0.1234")
  T.eq(stats.show(0.12344, 0, "+", 3), "+0.123")
  T.eq(stats.show(0.00001), "0.00001")
  T.eq(stats.show(-0.00001), "-0.00001")
  T.eq(stats.show(-3e-12), "-3.0e-12")
  T.eq(stats.show(0.010001, 0.01), "0.010001")
  T.eq(stats.show(0.01, 0.01), "0.0100")
  T.eq(stats.show(-0.0099999, 0.01), "-0.00999990")
  T.eq(stats.show(0), "0.0000")
end)
