-- Judges what an experiment expected. Each expectation is a hypothesis of its own, written down before
-- the runs, and is tested by itself: by one interval of the paired differences, which is shown beside
-- the outcome, 95 % for worse and better, 90 % (two one-sided tests at 5 %) for equal_within. (What
-- nobody expected is for the table, whose intervals are adjusted for the number of arms.)
--   held        shown: the interval lies wholly on the expected side of 0, or within the margin
--   REFUTED     the opposite is shown: it lies wholly on the other side, or outside the margin; an arm
--               that should diverge finished; a value is outside its tolerance
--   not shown   neither
--   not judged  an arm of it has seeds that diverged or did not end: those that are left are not the arm
--   taken out   it was expected when the runs were made, and is not in the file any more
-- What the runs were made with is in their folders; what was not among it is `changed`.
-- A change here makes no run stale.
local json = require("attnlab.core").json
local given = require "attnlab.given"
local measures = require "attnlab.measures"
local names = require "attnlab.names"
local stats = require "attnlab.stats"
local tables = require "attnlab.table"
local twins = require "attnlab.twins"

local M = {}

-- What the report says of the tests.
M.HEADING = "Expected before the runs, each tested by itself at 5 % and judged by where its own interval lies "
  .. "(95 %, two-sided, for better and worse; 90 %, two one-sided tests, for equals). "
  .. "Unlike the table's verdicts these are not adjusted for the number of arms: the two may differ."

-- An expectation of an experiment as a sentence.
function M.sentence(x)
  if x.measure then return ("%s, %s: %s"):format(x.arm, x.measure, x.shows:gsub("_", " ")) end
  if x.diverges ~= nil then return ("%s %s"):format(x.arm, x.diverges and "diverges" or "does not diverge") end
  if x.value then return ("%s reaches %g within %g"):format(x.arm, x.value, x.within) end
  if x.one_function then return ("%s and %s are one function within %g"):format(x.arm, x.versus, x.one_function) end
  if x.equal_within then return ("%s equals %s within %g"):format(x.arm, x.versus, x.equal_within) end
  return ("%s is %s than %s"):format(x.arm, x.worse and "worse" or "better", x.versus)
end

-- Why an arm's finished seeds may not stand for it, or nil. arm = {runs, count = {finished, diverged}}.
function M.unfit(arm)
  local n, c, parts = #arm.runs, arm.count, {}
  local damaged = c.damaged or 0
  for _, x in ipairs { { c.diverged, "diverged" }, { damaged, "damaged" },
                       { n - c.diverged - damaged - c.finished, "not finished" } } do
    if x[1] > 0 then parts[#parts + 1] = ("%d of %d %s"):format(x[1], n, x[2]) end
  end
  return #parts > 0 and table.concat(parts, ", ") or nil
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
  local off = math.abs(mean - x.value)
  return off <= x.within and "held" or "REFUTED", ("%.4f, the mean of %d seeds, is %s off"):format(mean, #list,
    stats.show(off, x.within))
end

local function judge_measure(x, arm)
  local record = arm.measured and arm.measured[x.measure]
  if not record then return "not shown", "not measured" end
  local holds, detail = measures[x.measure].expect[x.shows](record)
  return holds and "held" or "REFUTED", detail
end

local function points_right(x, d)
  if x.equal_within then return math.abs(d.mean) <= x.equal_within end
  return x.worse and d.mean > 0 or x.better and d.mean < 0
end

-- Outcome by where the interval lies.
local function outcome_of(x, lo, hi)
  if x.equal_within then
    if stats.verdict(lo, hi, x.equal_within) == "equal" then return "held" end
    return (lo > x.equal_within or hi < -x.equal_within) and "REFUTED" or "not shown"
  end
  local shown = stats.verdict(lo, hi)
  if shown ~= "worse" and shown ~= "better" then return "not shown" end
  return shown == (x.worse and "worse" or "better") and "held" or "REFUTED"
end

local function judge_difference(x, arm, versus, seeds)
  local d = stats.paired(arm.values, versus.values, seeds)
  if d.n == 0 then return "not shown", "no pair has finished" end
  if d.n == 1 then
    return "not shown", ("%s in one seed, which points %s"):format(stats.show(d.mean, x.equal_within, "+"),
      points_right(x, d) and "that way" or "the other way")
  end
  d.level = x.equal_within and 0.9 or 0.95
  d.lo, d.hi = stats.interval(d, d.level)
  local margin = x.equal_within
  return outcome_of(x, d.lo, d.hi), ("%s, %g %% interval [%s, %s]"):format(stats.show(d.mean, margin, "+"),
    100 * d.level, stats.show(d.lo, margin), stats.show(d.hi, margin)), d
end

local function judge(x, arms, seeds)
  local arm, versus = arms[x.arm], x.versus and arms[x.versus]
  if not arm or x.versus and not versus then return "not judged", "an arm of it is not in the file any more" end
  if x.diverges ~= nil then return judge_divergence(x, arm) end
  for _, a in ipairs { arm, versus } do
    local why = M.unfit(a)
    if why then return "not judged", ("%s: %s"):format(a == arm and x.arm or x.versus, why) end
  end
  if x.measure then return judge_measure(x, arm) end
  if x.value then return judge_value(x, arm, seeds) end
  if x.one_function then return twins.judge(x.one_function, arm, versus) end
  return judge_difference(x, arm, versus, seeds)
end

-- Of a quick run whose file says nothing else: it is too small to judge what the whole one is expected to show.
M.NOTHING = "A quick run judges what its file lists in quick.expect; this one lists nothing."

-- The results as text under a heading. "" for none.
function M.text(results, heading)
  local lines = { heading }
  for _, r in ipairs(results) do
    lines[#lines + 1] = ("  %s%s: %s%s"):format(tables.pad(r.outcome, 11), r.text, r.detail,
      r.changed and " (changed after the runs)" or "")
  end
  return #results > 0 and table.concat(lines, "\n") or ""
end

-- ---- what a file may expect ----------------------------------------------------------------------

-- What an arm can be expected to do, and the word that goes with it.
local CLAIMS = { "equal_within", "one_function", "worse", "better", "diverges", "value", "measure" }
local WITH = { equal_within = "versus", one_function = "versus", worse = "versus", better = "versus", value = "within", measure = "shows" }
local KEYS = { "arm", "versus", "equal_within", "one_function", "worse", "better", "diverges", "value", "within", "measure", "shows" }

local function measure_fault(x, measured)
  if not names.find(measured, x.measure) then return names.unknown("measure", tostring(x.measure), measured) end
  local known = measures[x.measure].expect
  return not known[x.shows] and "shows: " .. names.unknown("word", tostring(x.shows), names.keys(known)) or nil
end

-- One word says one thing: "worse = false" would leave open what is expected instead.
local function value_fault(x, claim)
  local v = x[claim]
  if (claim == "worse" or claim == "better") and v ~= true then
    return ("%s: true expected, got %s"):format(claim, given.show(v))
  end
  if claim == "diverges" and type(v) ~= "boolean" then
    return ("diverges: true or false expected, got %s"):format(given.show(v))
  end
  local bad = (claim == "equal_within" or claim == "one_function") and given.number(v, 0) or claim == "value" and given.number(v)
  if bad then return ("%s: %s"):format(claim, bad) end
  bad = claim == "value" and given.number(x.within, 0)
  return bad and "within: " .. bad or nil
end

local function entry_fault(x, arm_names, measured)
  if type(x) ~= "table" then return "a table expected, got " .. given.show(x) end
  for k in pairs(x) do
    if not names.find(KEYS, k) then return names.unknown("key", tostring(k), KEYS) end
  end
  for _, k in ipairs { "arm", "versus" } do
    if x[k] ~= nil and not names.find(arm_names, x[k]) then return names.unknown("arm", tostring(x[k]), arm_names) end
  end
  if x.versus == x.arm and x.arm then return ("arm and versus are both '%s'"):format(x.arm) end
  local claims = {}
  for _, k in ipairs(CLAIMS) do
    if x[k] ~= nil then claims[#claims + 1] = k end
  end
  if not x.arm or #claims ~= 1 then
    return ("arm and exactly one of %s are needed"):format(table.concat(CLAIMS, ", "))
  end
  local claim = claims[1]
  local with = WITH[claim]
  for _, k in ipairs { "versus", "within", "shows" } do
    if k == with and x[k] == nil then return ("%s needs %s"):format(claim, k) end
    if k ~= with and x[k] ~= nil then return ("%s takes no %s"):format(claim, k) end
  end
  return claim == "measure" and measure_fault(x, measured) or value_fault(x, claim)
end

-- What is wrong with a list of expectations of these arms, of which these measures are taken, or nil.
function M.fault(list, arms, measured)
  local arm_names = {}
  for i, a in ipairs(arms) do arm_names[i] = a.name end
  for i, x in ipairs(list) do
    local why = entry_fault(x, arm_names, measured)
    if why then return ("entry %d: %s"):format(i, why) end
  end
end

-- ---- what was expected when the runs were made ---------------------------------------------------

local function among(x, list)
  local text = json.encode(x)
  for _, y in ipairs(list) do
    if json.encode(y) == text then return true end
  end
  return false
end

-- Judges the expectations `now` by of(x) -> {{text, outcome, detail}, ...}. made = {{list, arm}, ...}:
-- what was expected when each run was made, of its arm or (without one) of all. An outcome is `changed`
-- when that was something else; what is not expected any more comes last.
function M.outcomes(now, made, of)
  local results, gone = {}, {}
  local function add(x, changed, out)
    local ok, list = true, nil
    if out then
      ok, list = pcall(of, x) -- what is in a folder may be anything
    else
      list = of(x)
    end
    for _, r in ipairs(ok and list or {}) do
      if out then r.detail, r.outcome = ("%s (%s)"):format(r.outcome, r.detail), "taken out" end
      r.changed = changed or nil
      results[#results + 1] = r
    end
  end
  for _, x in ipairs(now) do
    local changed = false
    for _, m in ipairs(made) do
      changed = changed or (not m.arm or m.arm == x.arm) and not among(x, m.list)
    end
    add(x, changed)
  end
  for _, m in ipairs(made) do
    for _, x in ipairs(m.list) do
      if not among(x, now) and not among(x, gone) then
        gone[#gone + 1] = x
        add(x, true, true)
      end
    end
  end
  return results
end

-- The margins that runs were made with where one is not today's, as text, or nil.
function M.other_margins(margin, arms)
  local list = {}
  for _, arm in ipairs(arms) do
    for _, e in ipairs(arm.made) do
      local text = type(e.margin) == "number" and ("%g"):format(e.margin) or "none"
      if e.margin ~= margin and not among(text, list) then list[#list + 1] = text end
    end
  end
  return #list > 0 and table.concat(list, ", ") or nil
end

-- arms[name] = {runs, values = {[seed] = loss}, count = {finished, diverged, ...}, made = what each run
-- that has begun was made with}. Returns a list of {text, outcome, detail, changed, difference, low, high,
-- level} in the order of `list`, and behind it what was taken out.
function M.judge(list, arms, seeds)
  local made = {}
  for _, name in ipairs(names.keys(arms)) do
    for _, e in ipairs(arms[name].made or {}) do
      local of_run = {}
      for i, x in ipairs(type(e.list) == "table" and e.list or {}) do
        of_run[i] = x
        if type(x) == "table" then x.arm = name end -- the arm may have had another name
      end
      made[#made + 1] = { list = of_run, arm = name }
    end
  end
  return M.outcomes(list, made, function(x)
    local outcome, detail, d = judge(x, arms, seeds)
    d = d or {}
    return { { text = M.sentence(x), outcome = outcome, detail = detail, difference = d.mean, low = d.lo, high = d.hi,
               level = d.level } }
  end)
end

return M
