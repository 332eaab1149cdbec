-- The runs on disk, which lab.runs{..} lists (run_list.lua). What an experiment's come to: curves, values by arm and seed,
-- what was expected.
-- A change here makes no run stale.
local certificate = require "attnlab.certificate"
local core = require "attnlab.core"
local expect = require "attnlab.expect"
local measures = require "attnlab.measures"
local stats = require "attnlab.stats"
local store = require "attnlab.store"
local json, sys = core.json, core.sys

local M = {}

-- How a run can stand, as tables of arms list it.
M.STATES = { "finished", "diverged", "failed", "interrupted", "running", "new", "damaged" }

-- The value of `key` in the last record that has it.
local function last(records, key)
  for i = #records, 1, -1 do
    local v = records[i][key]
    if v ~= nil then return type(v) == "number" and v or nil end
  end
end

-- One run: {dir, arm, seed, status, records, value = last metric (none of one that diverged), tokens_per_second, parameters,
-- .., differs = in what it was made otherwise than it would be now, with that many threads if given, made = what was
-- expected when it was made}. A damaged run has a status alone.
function M.read(dir, arm, seed, metric, threads)
  local run = { dir = dir, arm = arm, seed = seed, status = store.status(dir), records = {}, differs = {} }
  if run.status.state == "damaged" then return run end
  local spec
  local ok, why = pcall(function()
    run.records = store.metrics(dir)
    spec = sys.exists(store.file(dir, "config.json")) and store.config(dir)
  end)
  if not ok then
    run.status = { state = "damaged", step = 0, reason = why }
    return run
  end
  run.value = run.status.state ~= "diverged" and last(run.records, metric) or nil
  run.parameters, run.state_bytes = last(run.records, "model/parameters"), last(run.records, "model/state_bytes")
  local rates = {}
  for _, r in ipairs(store.times(dir)) do
    local rate = r["time/tokens_per_s"]
    if type(rate) == "number" then rates[#rates + 1] = rate end
  end
  table.sort(rates)
  run.tokens_per_second = rates[(#rates + 1) // 2]
  if spec then
    run.differs = store.differences(spec, threads)
    run.check = certificate.word(spec.made.certificates)
    if run.status.state ~= "new" then run.made = spec.expect end
  end
  run.probe = store.probe(dir)
  return run
end

-- Mean, least and greatest value by step over the runs of an arm that have begun, as far as all of them
-- got: past the step at which one diverged, the others are not the arm.
local function curve(arm_runs, metric)
  local by_step, steps, begun = {}, {}, 0
  for _, run in ipairs(arm_runs) do
    begun = begun + ((#run.records > 0 or run.status.state == "diverged") and 1 or 0)
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
  for _, s in ipairs(steps) do
    local list = by_step[s]
    if #list < begun then break end
    points[#points + 1] = { s, stats.mean(list), math.min(table.unpack(list)), math.max(table.unpack(list)) }
  end
  return points
end

-- What the measures found in the arm, by name.
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

-- The steps at which runs of the arm diverged: "174" or "174 to 295"; `to` may be another word.
function M.steps_text(arm, to)
  local first, last = arm.diverged_from, arm.diverged_at
  return first == last and tostring(last) or first .. (to or " to ") .. last
end

local function status_text(arm)
  local parts = {}
  for _, state in ipairs(M.STATES) do
    if arm.count[state] > 0 then
      local text = arm.count[state] == #arm.runs and state or ("%d %s"):format(arm.count[state], state)
      if state == "diverged" then text = ("%s at step %s"):format(text, M.steps_text(arm)) end
      parts[#parts + 1] = text
    end
  end
  if arm.stale then parts[#parts + 1] = "stale (" .. arm.stale .. ")" end
  return table.concat(parts, ", ")
end

-- runs = {{dir, arm = index, seed, spec}, ...} of the plan. Returns {plan, arms, comparison, judged,
-- other_margins = those that runs were made with, as text}. An arm of whose seeds some diverged has no
-- values or measures: what is left of it is chosen by how it came out.
function M.gather(plan, runs)
  local arms, by_name = {}, {}
  for i, a in ipairs(plan.arms) do
    local count = { finished = 0, diverged = 0, failed = 0, interrupted = 0, running = 0, new = 0, damaged = 0 }
    arms[i] = { name = a.name, config = a.config, at = a.at, runs = {}, values = {}, count = count, made = {} }
    by_name[a.name] = arms[i]
  end
  for _, r in ipairs(runs) do
    local arm = arms[r.arm]
    local run = M.read(r.dir, r.arm, r.seed, plan.metric, r.spec.made.threads)
    arm.runs[#arm.runs + 1] = run
    arm.made[#arm.made + 1] = run.made
    local state = run.status.state
    if state == "finished" and not run.value then state = "failed" end -- its records are not all there
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
    arm.status, arm.unfit = status_text(arm), expect.unfit(arm)
    local whole = arm.count.diverged == 0 and arm.runs or {}
    if arm.count.diverged > 0 then arm.values = {} end
    arm.measured = measured(whole, measures(plan.experiment.measure))
  end
  return { plan = plan, arms = arms, comparison = stats.compare(arms, plan.seeds, plan.margin),
           other_margins = expect.other_margins(plan.margin, arms),
           judged = expect.judge(plan.expect, by_name, plan.seeds) }
end

return setmetatable(M, { __call = function(_, opts) return require("attnlab.run_list").list(opts) end })
