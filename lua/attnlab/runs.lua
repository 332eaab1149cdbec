-- Results of an experiment from its run folders: curves, values by arm and seed, table.
-- A change here makes no run stale.
local certificate = require "attnlab.certificate"
local core = require "attnlab.core"
local expect = require "attnlab.expect"
local measures = require "attnlab.measures"
local stats = require "attnlab.stats"
local store = require "attnlab.store"
local tables = require "attnlab.table"
local json, sys = core.json, core.sys

local M = {}

-- The last record that has `key`, and that value.
local function last(records, key)
  for i = #records, 1, -1 do
    if type(records[i][key]) == "number" then return records[i], records[i][key] end
  end
end

-- One run: {dir, arm, seed, status, records, value = last metric, tokens_per_second, parameters, ...,
-- differs = in what it was made otherwise than it would be now, with that many threads if given}. A damaged run
-- has a status alone.
function M.read(dir, arm, seed, metric, threads)
  local run = { dir = dir, arm = arm, seed = seed, status = store.status(dir), records = {}, differs = {} }
  if run.status.state == "damaged" then return run end
  local ok, why = pcall(function() run.records = store.metrics(dir) end)
  if not ok then
    run.status = { state = "damaged", step = 0, reason = why }
    return run
  end
  local _
  _, run.value = last(run.records, metric)
  _, run.parameters = last(run.records, "model/parameters")
  _, run.state_bytes = last(run.records, "model/state_bytes")
  local rates = {}
  for _, r in ipairs(store.times(dir)) do
    local rate = r["time/tokens_per_s"]
    if type(rate) == "number" then rates[#rates + 1] = rate end
  end
  table.sort(rates)
  run.tokens_per_second = rates[(#rates + 1) // 2]
  if sys.exists(store.file(dir, "config.json")) then
    local spec = store.config(dir)
    run.differs = store.differences(spec, threads)
    run.check = certificate.word(spec.made.certificates)
  end
  run.probe = store.probe(dir)
  return run
end

-- Mean, least and greatest value by step over the runs of an arm that have it.
local function curve(arm_runs, metric)
  local by_step, steps = {}, {}
  for _, run in ipairs(arm_runs) do
    for _, r in ipairs(run.records) do
      local v = r[metric]
      if type(v) == "number" and r.step > 0 then
        local list = by_step[r.step]
        if not list then
          list = {}
          by_step[r.step] = list
          steps[#steps + 1] = r.step
        end
        list[#list + 1] = v
      end
    end
  end
  table.sort(steps)
  local points = {}
  for i, s in ipairs(steps) do
    local list = by_step[s]
    points[i] = { s, stats.mean(list), math.min(table.unpack(list)), math.max(table.unpack(list)) }
  end
  return points
end

local function are_numbers(list)
  if type(list) ~= "table" then return false end
  for _, v in ipairs(list) do
    if type(v) ~= "number" then return false end
  end
  return true
end

-- Mean over seeds of log10 row sums by position, from the runs that were probed.
local function profile(arm_runs)
  local sum, n = nil, 0
  for _, run in ipairs(arm_runs) do
    local values = run.probe and run.probe.log10_row_sum
    if are_numbers(values) then
      n, sum = n + 1, sum or {}
      for t, v in ipairs(values) do sum[t] = (sum[t] or 0) + v end
    end
  end
  if not sum then return nil end
  for t, v in ipairs(sum) do sum[t] = v / n end
  return sum
end

-- What the experiment's measures found in the arm, by name.
local function measured(arm_runs, names)
  local out = {}
  for _, name in ipairs(names) do
    local list = {}
    for _, run in ipairs(arm_runs) do list[#list + 1] = run.probe and run.probe[name] end
    -- what is in a run's file may be anything: what does not fit is not shown
    local ok, found = pcall(measures[name].gather, list)
    if #list > 0 and ok then out[name] = found end
  end
  return out
end

-- The steps at which runs of the arm diverged: "174" or "174 to 295".
function M.steps_text(arm)
  local first, last = arm.diverged_from, arm.diverged_at
  return first == last and tostring(last) or ("%d to %d"):format(first, last)
end

local function status_text(arm)
  local parts = {}
  for _, state in ipairs { "finished", "diverged", "failed", "interrupted", "running", "new", "damaged" } do
    if arm.count[state] > 0 then
      local text = arm.count[state] == #arm.runs and state or ("%d %s"):format(arm.count[state], state)
      if state == "diverged" then text = ("%s at step %s"):format(text, M.steps_text(arm)) end
      parts[#parts + 1] = text
    end
  end
  if arm.stale then parts[#parts + 1] = "stale (" .. arm.stale .. ")" end
  return table.concat(parts, ", ")
end

-- runs = {{dir, arm = index, seed, spec}, ...} of the plan. Returns {plan, arms, comparison, judged}.
function M.gather(plan, runs)
  local arms, by_name = {}, {}
  for i, a in ipairs(plan.arms) do
    local count = { finished = 0, diverged = 0, failed = 0, interrupted = 0, running = 0, new = 0, damaged = 0 }
    arms[i] = { name = a.name, config = a.config, at = a.at, runs = {}, values = {}, count = count }
    by_name[a.name] = arms[i]
  end
  for _, r in ipairs(runs) do
    local arm = arms[r.arm]
    local run = M.read(r.dir, r.arm, r.seed, plan.metric, r.spec.made.threads)
    arm.runs[#arm.runs + 1] = run
    local state = run.status.state
    arm.count[state] = arm.count[state] + 1
    if state == "finished" then arm.values[r.seed] = run.value end
    if state == "diverged" then
      arm.diverged_from = math.min(arm.diverged_from or math.huge, run.status.step)
      arm.diverged_at = math.max(arm.diverged_at or 0, run.status.step)
    end
    if (state == "finished" or state == "diverged") and #run.differs > 0 then
      arm.stale = table.concat(run.differs, ", ")
    end
    for _, k in ipairs { "parameters", "state_bytes", "tokens_per_second", "check" } do arm[k] = arm[k] or run[k] end
  end
  for _, arm in ipairs(arms) do
    arm.curve = curve(arm.runs, plan.metric)
    arm.profile = profile(arm.runs)
    arm.measured = measured(arm.runs, plan.experiment.measure)
    arm.status = status_text(arm)
  end
  return { plan = plan, arms = arms, comparison = stats.compare(arms, plan.seeds, plan.margin),
           judged = expect.judge(plan.experiment.expect, by_name, plan.seeds) }
end

-- ---- the table ---------------------------------------------------------------------------------

local COLUMNS = {
  { key = "name", title = "arm" },
  { key = "n", title = "n", right = true, doc = "n: seeds that finished" },
  { key = "loss", title = "valid loss", right = true, doc = "valid loss: nats per token at the last step, mean ± deviation over seeds" },
  { key = "difference", title = "difference [interval]", right = true,
    doc = "difference: to the first arm, paired by seed, with the 95 % t interval adjusted by Holm for the number of arms" },
  { key = "verdict", title = "verdict", doc = "verdict: by those intervals; equal within = two one-sided tests, adjusted alike" },
  { key = "rate", title = "token/s", right = true, doc = "token/s: median of one run while its neighbours ran beside it" },
  { key = "parameters", title = "parameters", right = true, doc = "parameters: learned numbers of the model" },
  { key = "state", title = "state", right = true, doc = "state: bytes a sequence carries from token to token at the context's end" },
  { key = "check", title = "check", doc = "check: the conformance certificates that the run began with (./lab check NAME writes one), the worst of them" },
  { key = "status", title = "status", doc = "status: diverged is a result; stale = made by another source, library or thread count" },
}

local function table_rows(result)
  local rows = {}
  for i, arm in ipairs(result.arms) do
    local c = result.comparison[i]
    local d, row = c.difference, { name = arm.name, n = ("%d"):format(c.n), status = arm.status }
    if c.mean then row.loss = ("%.4f"):format(c.mean) end
    if c.deviation then row.loss = row.loss .. (" ± %.4f"):format(c.deviation) end
    if d and d.n > 0 then
      row.difference = d.lo and ("%+.4f [%.4f, %.4f]"):format(d.mean, d.lo, d.hi) or ("%+.4f"):format(d.mean)
      row.verdict = d.verdict
    end
    if i == 1 then row.verdict = "reference" end
    row.rate = arm.tokens_per_second and tables.human(arm.tokens_per_second)
    row.parameters, row.state = tables.human(arm.parameters), tables.human(arm.state_bytes, true)
    row.check = arm.check
    rows[i] = row
  end
  return rows
end

-- The table with a line for each column that needs one.
function M.table_text(result)
  local lines = { tables.text(COLUMNS, table_rows(result)), "" }
  for _, c in ipairs(COLUMNS) do lines[#lines + 1] = c.doc and "  " .. c.doc end
  return table.concat(lines, "\n")
end

-- What the measures found, as text; "" where nothing was measured.
function M.measures_text(result)
  local parts = {}
  for _, name in ipairs(result.plan.experiment.measure) do
    for _, arm in ipairs(result.arms) do
      local record = arm.measured[name]
      if record then parts[#parts + 1] = measures[name].text(arm.name, record) end
    end
  end
  return table.concat(parts, "\n\n")
end

local KEYS = { "arm", "n", "mean", "deviation", "difference", "low", "high", "level", "p_holm", "p_equal", "verdict",
               "tokens_per_second", "parameters", "state_bytes", "status" }

-- Records of the table for machines.
function M.table_records(result)
  local records = {}
  for i, arm in ipairs(result.arms) do
    local c = result.comparison[i]
    local d = c.difference or {}
    records[i] = { arm = arm.name, n = c.n, mean = c.mean, deviation = c.deviation, difference = d.mean, low = d.lo,
                   high = d.hi, level = d.level, p_holm = d.p_holm, p_equal = d.p_equal, verdict = d.verdict,
                   tokens_per_second = arm.tokens_per_second, parameters = arm.parameters,
                   state_bytes = arm.state_bytes, status = arm.status,
                   measured = next(arm.measured) and arm.measured or nil }
  end
  return records
end

-- Writes table.txt, table.tsv and table.json into dir.
function M.write_table(result, dir)
  local records = M.table_records(result)
  local more = M.measures_text(result)
  sys.write(dir .. "/table.txt", M.table_text(result) .. "\n" .. (more ~= "" and "\n" .. more .. "\n" or ""))
  sys.write(dir .. "/table.tsv", tables.tsv(KEYS, records))
  local judged = core.json.array(result.judged)
  sys.write(dir .. "/table.json", json.encode({ experiment = result.plan.name, results = result.plan.results, seeds = result.plan.seeds,
    margin = result.plan.margin, arms = records, expectations = judged }, { pretty = true }) .. "\n")
end
M.write_table = core.plain(M.write_table)

return M
