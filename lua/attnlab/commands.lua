-- The commands of cli.lua that run experiments and show what came out; those about models, runs on disk
-- and the registry are in inspect.lua. Each is a function of (args, usage) that returns an exit status.
-- A change here makes no run stale.
local core = require "attnlab.core"
local config = require "attnlab.config"
local data = require "attnlab.data"
local experiment = require "attnlab.experiment"
local names = require "attnlab.names"
local outcomes = require "attnlab.outcome"
local plugins = require "attnlab.plugins"
local runs = require "attnlab.runs"
local store = require "attnlab.store"
local study = require "attnlab.study"
local tables = require "attnlab.table"
local written = require "attnlab.written"
local json, sys = core.json, core.sys

local M = {}

-- Takes out_dir from the key=value words and checks the keys of the others.
local function sets_of(args, usage)
  local root, list = "runs", {}
  for _, kv in ipairs(args.sets) do
    if kv[1] == "out_dir" then
      if kv[2] == "" then usage "out_dir: a folder is needed" end
      root = kv[2]
    else
      local ok, message = pcall(config.key, kv[1])
      if not ok then usage("%s", message) end
      list[#list + 1] = kv
    end
  end
  return list, root
end

local function check_device(args, usage)
  local device = args.flags.device or "cpu"
  if device == "cpu" then return end
  if device ~= "cuda" then usage("%s", names.unknown("device", device, { "cpu", "cuda" })) end
  error("device cuda: this version has no GPU kernels yet; it runs on the CPU (" .. core.info() .. ")", 0)
end

local function whole(text, option, usage)
  local n = math.tointeger(tonumber(text))
  if not n or n < 1 then usage("--%s: a whole number >= 1 expected, got '%s'", option, text) end
  return n
end

-- "3" = the first three (1.. when there are fewer), "1,2,5" = these.
local function seeds_of(text, declared, usage)
  if not text then return nil end
  local list = {}
  if text:find(",", 1, true) then
    for word in text:gmatch("[^,]+") do
      local seed = math.tointeger(tonumber(word))
      if not seed or seed < 0 then usage("--seeds: whole numbers expected, got '%s'", word) end
      list[#list + 1] = seed
    end
    return list
  end
  local n, last = whole(text, "seeds", usage), 0
  for i = 1, n do
    list[i] = declared[i] or last + 1
    last = math.max(last, list[i])
  end
  return list
end

-- run and plot of a study: no configuration keys, no worker processes.
local function run_study(s, args, usage, measure)
  local root, flags = "runs", args.flags
  for _, kv in ipairs(args.sets) do
    if kv[1] ~= "out_dir" or kv[2] == "" then usage("a study takes out_dir=DIR alone, got '%s=%s'", kv[1], kv[2]) end
    root = kv[2]
  end
  local declared = flags.quick and s.quick.seeds or s.seeds
  local options = { quick = flags.quick, root = root, seeds = seeds_of(flags.seeds, declared, usage), fresh = flags.fresh,
                    quiet = flags.json, json = flags.json }
  local list = s:plan(options)
  if flags["print-config"] or flags["dry-run"] then
    local cases = {}
    for i, item in ipairs(list) do cases[i] = item.identity end
    print(json.encode({ study = s.name, measurements = cases }, { pretty = true }))
    return
  end
  local outcome = "done"
  if measure then outcome = s:work(list, options) end
  if outcome == "interrupted" then
    io.stderr:write("stopped; the same command goes on with what is left\n")
    return 130
  end
  return s:report(list, root, options) and outcome ~= "failed" and 0 or 1
end

local function plan_of(e, args, usage)
  local sets, root = sets_of(args, usage)
  local declared = args.flags.quick and e.quick.seeds or e.seeds
  local plan = e:plan { quick = args.flags.quick, set = sets, seeds = seeds_of(args.flags.seeds, declared, usage) }
  return plan, root
end

local function print_config(plan)
  local list = {}
  for i, arm in ipairs(plan.arms) do list[i] = { name = arm.name, config = written.config(arm.config) } end
  print(json.encode({ experiment = plan.name, seeds = plan.seeds, margin = plan.margin, arms = list },
    { pretty = true }))
end

local BUDGET_COLUMNS = {
  { key = "name", title = "arm" }, { key = "parameters", title = "parameters", right = true },
  { key = "flops", title = "FLOP/step", right = true }, { key = "memory", title = "memory (about)", right = true },
  { key = "state", title = "state", right = true },
}

local function dry_run(plan, as_json)
  local budget = require "attnlab.budget"
  local list, cells, flops, texts = {}, {}, 0, {}
  for i, arm in ipairs(plan.arms) do
    local text = arm.config.train.data
    texts[text] = texts[text] or data.open(text)
    local b = budget.of(arm.config, texts[text])
    b.arm, list[i] = arm.name, b
    flops = flops + b.flops * arm.config.train.steps * #plan.seeds
    cells[i] = { name = arm.name, parameters = tables.human(b.parameters), flops = tables.human(b.flops),
                 memory = tables.human(b.memory, true), state = budget.state_text(b.state_bytes, arm.config) }
  end
  local n = #plan.arms * #plan.seeds
  if as_json then
    print(json.encode({ experiment = plan.name, runs = n, flops = flops, arms = list }, { pretty = true }))
    return
  end
  print(tables.text(BUDGET_COLUMNS, cells))
  print(("\n%d runs (%d arms x %d seeds), %s FLOP in all; %d run at a time need that many times the memory")
    :format(n, #plan.arms, #plan.seeds, tables.human(flops), math.min(n, sys.cores())))
end

-- The command that goes on with an interrupted experiment.
local function same_command(args)
  local words = { "./lab run", names.word(args.words[1]) }
  for _, name in ipairs { "quick", "force" } do
    if args.flags[name] then words[#words + 1] = "--" .. name end
  end
  for _, path in ipairs(args.flags.plugin or {}) do words[#words + 1] = "--plugin " .. names.word(path) end
  for _, name in ipairs { "seeds", "jobs" } do
    if args.flags[name] then words[#words + 1] = ("--%s %s"):format(name, names.word(args.flags[name])) end
  end
  for _, kv in ipairs(args.sets) do
    words[#words + 1] = names.word(kv[1] .. "=" .. kv[2])
  end
  return table.concat(words, " ")
end

function M.run(args, usage)
  check_device(args, usage)
  local e = experiment.load(args.words[1])
  if getmetatable(e) == study.class then return run_study(e, args, usage, true) end
  local plan, root = plan_of(e, args, usage)
  if args.flags["print-config"] then return print_config(plan) end
  if args.flags["dry-run"] then return dry_run(plan, args.flags.json) end
  local runner = require "attnlab.runner"
  local list, outcome, missing = runner.work(plan, { root = root, program = sys.program(), fresh = args.flags.fresh,
    force = args.flags.force, jobs = args.flags.jobs and whole(args.flags.jobs, "jobs", usage),
    quiet = args.flags.json })
  if outcome == "interrupted" then
    io.stderr:write("stopped; to go on where it was:  ", same_command(args), "\n")
    return 130
  end
  local all_made = outcomes.show(plan, list, root, args.flags.json)
  local status = outcomes.say_missing(missing, #list)
  return all_made and status or 1
end

function M.plot(args, usage)
  local e = experiment.load(args.words[1])
  if getmetatable(e) == study.class then return run_study(e, args, usage, false) end
  local plan, root = plan_of(e, args, usage)
  local list = require("attnlab.runner").expand(plan, { root = root })
  return outcomes.show(plan, list, root, args.flags.json) and 0 or 1
end

-- One run in this process: an experiment of one arm, without a comparison.
function M.train(args, usage)
  check_device(args, usage)
  local sets, root = sets_of(args, usage)
  local e = experiment { name = "train", arms = { { name = "train" } }, seeds = { 1 } }
  local seed = args.flags.seed and whole(args.flags.seed, "seed", usage)
  local plan = e:plan { set = sets, seeds = seed and { seed } }
  if args.flags["print-config"] then return print_config(plan) end
  if args.flags["dry-run"] then return dry_run(plan, args.flags.json) end
  local run = require("attnlab.runner").expand(plan, { root = root, jobs = 1 })[1]
  local new = not sys.exists(run.dir)
  if args.flags.fresh then store.restart(run.dir) end
  store.create(root, run.spec)
  local shown = names.shown(run.dir)
  local progress = require "attnlab.progress"
  local line = progress.new()
  local code = 0
  if not store.complete(run.dir) then
    code = require("attnlab.worker").run(run.dir, { force = args.flags.force,
      progress = function(info) line:update(info) end })
    line:close()
  end
  local status = store.status(run.dir)
  if code == 0 and status.state ~= "finished" and status.state ~= "diverged" then
    error(("%s: the run is not there any more (%s)"):format(shown, status.state), 0)
  end
  if new and code == 1 and status.state == "failed" and status.step == 0 then -- a refusal leaves nothing to go on with
    store.restart(run.dir)
    sys.remove(store.file(run.dir, "lock"))
    sys.remove(run.dir)
    return code
  end
  local result = runs.read(run.dir, 1, run.seed, "valid/loss")
  if args.flags.json then
    print(json.encode { dir = shown, status = status.state, step = status.step, valid_loss = result.value,
                        reason = status.reason })
  else
    print(("%s at step %d%s%s\n%s"):format(status.state, status.step, status.reason and ": " .. status.reason or "",
      result.value and (" | valid loss %.4f"):format(result.value) or "", shown))
    if code == 130 then
      print "type the same command to go on"
    elseif status.state == "finished" then
      print("next    ./lab generate " .. names.word(shown))
    end
  end
  return code
end

M["new-variant"] = function(args)
  local path = require("attnlab.scaffold").new_variant(args.words[1], args.flags.out)
  print(("%s\nnext    ./lab check %s      # builds it and holds it to what it claims"):format(path, names.word(path)))
end

M["build-plugin"] = function(args)
  print(plugins.build(args.words[1], args.flags.out))
end

function M.bench(args, usage)
  return require("attnlab.bench").run(args, usage)
end

function M.check(args, usage)
  return require("attnlab.check").run(args, usage)
end

function M.checker(args, usage)
  if not args.flags.out then usage("checker: --out FILE is needed") end
  require("attnlab.check").work(args.words[1], args.words[2] or "", args.flags.out)
end

function M.worker(args, usage)
  if not args.flags.run then usage("worker: --run DIR is needed") end
  return require("attnlab.worker").run(args.flags.run, { force = args.flags.force, traces = true })
end

for name, f in pairs(require "attnlab.inspect") do M[name] = f end

return M
