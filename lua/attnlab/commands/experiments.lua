-- Commands that run experiments and show what came out.
-- A change here makes no run stale.
local core = require "attnlab.core"
local config = require "attnlab.config"
local data = require "attnlab.data"
local devices = require "attnlab.devices"
local experiment = require "attnlab.experiment"
local given = require "attnlab.given"
local names = require "attnlab.names"
local outcomes = require "attnlab.outcome"
local runs = require "attnlab.runs"
local store = require "attnlab.store"
local study = require "attnlab.study"
local tables = require "attnlab.table"
local words = require "attnlab.words"
local written = require "attnlab.written"
local json, sys = core.json, core.sys

-- Takes out_dir from the key=value words and checks the keys of the others. new: what they ask for may not exist, so
-- that their text has to.
local function sets_of(args, usage, new)
  local root, list = "runs", {}
  for _, kv in ipairs(args.sets) do
    if kv[1] == "out_dir" then
      root = kv[2]
    else
      local ok, message = pcall(config.key, kv[1])
      if not ok then usage("%s", message) end
      list[#list + 1] = kv
      if new and config.key(kv[1]) == "train.data" then words.text(kv[2], usage) end
    end
  end
  return list, root
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
  local n, last = words.whole(text, "seeds", usage, 1), 0
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
    if kv[1] ~= "out_dir" then usage("a study takes out_dir=DIR alone, got '%s=%s'", kv[1], kv[2]) end
    root = kv[2]
  end
  if flags.quick and not s.has_quick then usage("%s: %s", s.name, given.NO_QUICK) end
  local declared = flags.quick and s.quick.seeds or s.seeds
  local options = { device = words.device(args, usage), quick = flags.quick, root = root, seeds = seeds_of(flags.seeds, declared, usage), fresh = flags.fresh,
                    quiet = flags.json, json = flags.json, legend = flags.legend }
  core.on(options.device) -- it measures in this process
  local list = words.blame(usage, function(o) return s:plan(o) end, options, { device = options.device, quick = flags.quick, root = root })
  if flags["print-config"] or flags["dry-run"] then
    local cases = {}
    for i, item in ipairs(list) do
      cases[i] = {}
      for k, v in pairs(item.identity) do cases[i][k] = v end
      if flags["dry-run"] then cases[i].memory = s:memory(item) end
    end
    print(json.encode({ study = s.name, measurements = cases }, { pretty = true }))
    return
  end
  local outcome = "done"
  if measure then outcome = s:work(list, options) end
  if outcome == "interrupted" then
    io.stderr:write("stopped; the same command goes on with what is left\n")
    if flags.json then words.no_value "interrupted" end
    return 130
  end
  return s:report(list, root, options) and outcome ~= "failed" and 0 or 1
end

local function plan_of(e, args, usage, new)
  local sets, root = sets_of(args, usage, new)
  if args.flags.quick and not e.has_quick then usage("%s: %s", e.name, given.NO_QUICK) end
  local declared = args.flags.quick and e.quick.seeds or e.seeds
  local wanted = { device = words.device(args, usage), quick = args.flags.quick, set = sets, seeds = seeds_of(args.flags.seeds, declared, usage) }
  return words.blame(usage, function(o) return e:plan(o) end, wanted, { quick = wanted.quick }), root
end

local function print_config(plan)
  local list = {}
  for i, arm in ipairs(plan.arms) do list[i] = { name = arm.name, config = written.config(arm.config) } end
  print(json.encode({ experiment = plan.name, seeds = plan.seeds, margin = plan.margin, arms = list },
    { pretty = true }))
end

local BUDGET_COLUMNS = {
  { key = "name", title = "arm", wrap = true }, { key = "parameters", title = "parameters", right = true },
  { key = "flops", title = "FLOP/step", right = true }, { key = "memory", title = "memory", right = true }, { key = "micro_batch", title = "windows at once", right = true },
  { key = "state", title = "state", right = true },
}

local function jobs_of(args, usage)
  return args.flags.jobs and words.whole(args.flags.jobs, "jobs", usage, 1)
end

-- On as many threads as each run will have: they need room of their own.
local function dry_run(plan, as_json, jobs)
  local budget = require "attnlab.budget"
  local at_once, threads = require("attnlab.runner").shares(plan, { jobs = jobs })
  local share = devices.share(plan.device, at_once)
  core.threads(threads)
  local list, cells, flops, texts = {}, {}, 0, {}
  for i, arm in ipairs(plan.arms) do
    local text = arm.config.train.data
    texts[text] = texts[text] or data.open(text)
    local b = budget.of(arm.config, texts[text], share)
    b.arm, list[i] = arm.name, b
    flops = flops + b.flops * arm.config.train.steps * #plan.seeds
    cells[i] = { name = arm.name, parameters = tables.human(b.parameters), flops = tables.human(b.flops),
                 memory = tables.human(b.memory, true), micro_batch = b.micro_batch, state = budget.state_text(b.state_bytes, arm.config) }
  end
  local n = #plan.arms * #plan.seeds
  if as_json then
    print(json.encode({ experiment = plan.name, runs = n, flops = flops, jobs = at_once, threads = threads, device = plan.device,
      device_memory = share, arms = list }, { pretty = true }))
    return
  end
  print((tables.text(BUDGET_COLUMNS, cells, tables.terminal())))
  print(("\n%d runs (%d arms x %d seeds), %s FLOP in all; memory: of one on %d thread%s; %d at a time")
    :format(n, #plan.arms, #plan.seeds, tables.human(flops), threads, threads == 1 and "" or "s", at_once))
end

-- The command that goes on with an interrupted experiment.
local function same_command(args)
  local line = { "./lab run", names.word(args.words[1]) }
  for _, name in ipairs { "quick", "force" } do
    if args.flags[name] then line[#line + 1] = "--" .. name end
  end
  for _, path in ipairs(args.flags.plugin or {}) do line[#line + 1] = "--plugin " .. names.word(path) end
  for _, name in ipairs { "device", "seeds", "jobs" } do
    if args.flags[name] then line[#line + 1] = ("--%s %s"):format(name, names.word(args.flags[name])) end
  end
  for _, kv in ipairs(args.sets) do
    line[#line + 1] = names.word(kv[1] .. "=" .. kv[2])
  end
  return table.concat(line, " ")
end

local function run(args, usage)
  local e = experiment.load(args.words[1])
  if getmetatable(e) == study.class then return run_study(e, args, usage, true) end
  local plan, root = plan_of(e, args, usage, true)
  if args.flags["print-config"] then return print_config(plan) end
  if args.flags["dry-run"] then return dry_run(plan, args.flags.json, jobs_of(args, usage)) end
  local runner = require "attnlab.runner"
  local list, outcome, missing = runner.work(plan, { root = root, program = sys.program(), fresh = args.flags.fresh,
    force = args.flags.force, jobs = jobs_of(args, usage),
    quiet = args.flags.json })
  if outcome == "interrupted" then
    io.stderr:write("stopped; to go on where it was:  ", same_command(args), "\n")
    if args.flags.json then words.no_value "interrupted" end
    return 130
  end
  local all_made = outcomes.show(plan, list, root, args.flags)
  local status = outcomes.say_missing(missing, #list)
  return all_made and status or 1
end

local INCHES = { ["in"] = 1, cm = 1 / 2.54, mm = 1 / 25.4, pt = 1 / 72.27 }

-- "3.3in" in inches.
local function inches(text, usage)
  local number, unit = text:match "^([%d.]+)(%a+)$"
  local n = tonumber(number) and INCHES[unit] and tonumber(number) * INCHES[unit]
  if not n or n < 1 or n > 40 then usage("--width: a width from 1in to 40in such as 3.3in, 84mm, 8.4cm or 240pt expected, got '%s'", text) end
  return n
end

local function plot(args, usage)
  local e, flags = experiment.load(args.words[1]), args.flags
  local panel, width = flags.panel, flags.width and inches(flags.width, usage)
  if (panel or width) and not flags.pdf then usage("plot: --%s goes with --pdf", panel and "panel" or "width") end
  local known = require("attnlab.plot").PANELS
  if panel and not names.find(known, panel) then usage("plot: --panel: %s", names.unknown("panel", panel, known)) end
  if getmetatable(e) == study.class then
    if flags.pdf then usage "plot: --pdf: a study has no such figure (its .svg can be scaled)" end
    return run_study(e, args, usage, false)
  end
  local plan, root = plan_of(e, args, usage)
  local list = require("attnlab.runner").expand(plan, { root = root })
  if flags.pdf then return outcomes.show_pdf(plan, list, root, panel, width) and 0 or 1 end
  return outcomes.show(plan, list, root, args.flags) and 0 or 1
end

-- One run in this process: an experiment of one arm, without a comparison.
local function train(args, usage)
  local sets, root = sets_of(args, usage, true)
  local e = experiment { name = "train", arms = { { name = "train" } }, seeds = { 1 } }
  local seed = args.flags.seed and words.whole(args.flags.seed, "seed", usage, 0)
  local plan = words.meant(usage, e.plan, e, { device = words.device(args, usage), set = sets, seeds = seed and { seed } })
  if args.flags["print-config"] then return print_config(plan) end
  if args.flags["dry-run"] then return dry_run(plan, args.flags.json, 1) end
  local runner = require "attnlab.runner"
  local memory = devices.share(plan.device, 1)
  local run = runner.expand(plan, { root = root, jobs = 1 })[1]
  local new = not sys.exists(run.dir)
  if args.flags.fresh then store.restart(run.dir) end
  runner.choose_micro_batch(run, memory)
  store.create(root, run.spec)
  local shown = names.shown(run.dir)
  local progress = require "attnlab.progress"
  local line = progress.new()
  local code = 0
  if not store.complete(run.dir) then
    code = require("attnlab.worker").run(run.dir, { force = args.flags.force, memory = memory, plans = run.dir, -- of nothing but itself
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
    if args.flags.json then words.no_value(status.reason or "failed") end
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
      local arch = require("attnlab.model.arch." .. run.spec.config.model.arch)
      print(("next    ./lab %s %s"):format(arch.causal and "generate" or "eval", names.word(shown)))
    end
  end
  return code
end

return {
  { name = "run", args = "FILE.lua [key.sub=value ...]", least = 1, most = 1, sets = true, run = run,
    doc = "run an experiment: all arms and seeds, resumable; table and figure",
    options = { words.QUICK, words.SEEDS, words.DEVICE,
                { name = "jobs", value = "N", doc = "runs at a time (default: one per core; on a GPU one)" },
                { name = "fresh", doc = "start every run of the experiment again" },
                words.FORCE, words.PLUGIN, words.PRINT, words.DRY, words.LEGEND, words.JSON },
    more = words.SETS },
  { name = "plot", args = "FILE.lua [key.sub=value ...]", least = 1, most = 1, sets = true, run = plot,
    doc = "table and figure again from the runs that exist",
    options = { words.QUICK, words.SEEDS, words.DEVICE, words.PLUGIN, words.LEGEND, words.JSON,
                { name = "pdf", doc = "instead: the figure as a PDF for a paper" },
                { name = "panel", value = "a|b|c", doc = "with --pdf: one panel of it, without title and notes" },
                { name = "width", value = "3.3in", doc = "with --pdf: its width (10in; a panel 3.3in); also mm, cm, pt" } },
    more = words.SETS },
  { name = "train", args = "[key.sub=value ...]", least = 0, most = 0, sets = true, run = train, doc = "train one model",
    options = { { name = "seed", value = "N", doc = "of weights and batches (1)" }, words.DEVICE,
                { name = "fresh", doc = "start again" }, words.FORCE, words.PLUGIN, words.PRINT, words.DRY, words.JSON },
    more = words.SETS },
}
