-- Runs an experiment: every arm with every seed in worker processes of their own, seed by seed, so that
-- all arms of the first seed come first. Finished and diverged runs are skipped, others go on from
-- their last checkpoint; where measuring a finished one failed it is measured again. Workers die with the runner.
-- A change here makes no run stale.
local board = require "attnlab.board"
local config = require "attnlab.config"
local certificate = require "attnlab.certificate"
local core = require "attnlab.core"
local data = require "attnlab.data"
local devices = require "attnlab.devices"
local names = require "attnlab.names"
local plugins = require "attnlab.plugins"
local progress = require "attnlab.progress"
local runs = require "attnlab.runs"
local store = require "attnlab.store"
local tables = require "attnlab.table"
local worker = require "attnlab.worker"
local json, sys = core.json, core.sys
local shown = names.shown

local M = {}

-- Hash of a text. Where it is not here its runs may be all the same: they are found by the hash that they have.
local function text_hash(text, experiment, root)
  local found, where = pcall(data.path, text) -- or why it is nowhere
  if found then return data.hash(text) end
  local hash, folder = nil, names.inside(root, experiment)
  for _, id in ipairs(sys.exists(folder) == "dir" and sys.list(folder) or {}) do
    local ok, spec = pcall(store.config, folder .. "/" .. id)
    if ok and spec.config.train.data == text then
      if hash and hash ~= spec.data_hash then error(where .. "; there are runs of several texts of that name", 0) end
      hash = spec.data_hash
    end
  end
  if not hash then error(where, 0) end
  io.stderr:write(("%s; its runs are those of the text with sha256 %.12s\n"):format(tables.clean(where), hash))
  return hash
end

-- How many runs of the plan go at once, and the threads of each: those of the cores that it has. Both belong to the
-- experiment, not to what is left of it. A card has one run at a time unless told.
function M.shares(plan, options)
  local most = options.jobs or devices.is_card(plan.device) and 1 or sys.cores()
  local jobs = math.max(1, math.min(most, #plan.arms * #plan.seeds))
  return jobs, options.threads or math.max(1, sys.cores() // jobs)
end

-- Runs of the plan, seed-major: {{arm, seed, dir, spec, steps}, ...}. Creates nothing.
function M.expand(plan, options)
  local jobs, threads = M.shares(plan, options)
  local list, hashes, used = {}, {}, {}
  local checked, libraries = {}, store.libraries(plan.device)
  for i, arm in ipairs(plan.arms) do
    used[i] = plugins.of(config.families(arm.config))
    checked[i] = json.array(certificate.of(options.root, arm.config, plan.device))
  end
  for _, seed in ipairs(plan.seeds) do
    for i, arm in ipairs(plan.arms) do
      local text = arm.config.train.data
      hashes[text] = hashes[text] or text_hash(text, plan.name, options.root)
      local spec = { experiment = plan.name, arm = arm.name, seed = seed, config = arm.config, device = plan.device,
                     data_hash = hashes[text], expect = arm.expect, measure = arm.measure, quick = plan.quick or nil,
                     variant = plan.variant ~= plan.name and plan.variant or nil,
                     plugins = used[i],
                     made = { source = store.source_hash(), libraries = libraries, threads = threads,
                              certificates = checked[i] } }
      list[#list + 1] = { arm = i, name = arm.name, seed = seed, spec = spec, steps = arm.config.train.steps,
                          dir = store.dir(options.root, spec) }
    end
  end
  return list, jobs, threads
end

-- Splits the runs into those to do and those done. Stops with an error before anything is started when
-- a run may not go on.
local function select_runs(list, options)
  local todo, refused = {}, {}
  for _, run in ipairs(list) do
    if options.fresh then
      store.restart(run.dir)
    end
    local status = store.status(run.dir)
    for _ = 1, 20 do -- the workers of a runner that was killed may still be dying
      if status.state ~= "running" then break end
      sys.sleep(0.05)
      status = store.status(run.dir)
    end
    run.state, run.step = status.state, status.step
    if status.state == "running" then
      error(("%s: locked: process %s on %s is working on it"):format(shown(run.dir), status.pid, status.host), 0)
    end
    -- a damaged run is left as it is and said to be missing: somebody may want to look at it
    if status.state ~= "damaged" and not store.complete(run.dir) then
      local differ = not options.force and sys.exists(store.file(run.dir, "checkpoint.safetensors"))
        and store.differences(store.config(run.dir)) or {}
      if status.state ~= "finished" or #differ == 0 then todo[#todo + 1] = run end
      if status.state ~= "finished" and #differ > 0 then
        refused[#refused + 1] = ("  %s (%s, seed %d): other %s"):format(shown(run.dir), run.name, run.seed,
          table.concat(differ, ", "))
      end
    end
  end
  if #refused > 0 then
    local shown = math.min(#refused, 5)
    if #refused > shown then refused[shown] = ("  ... and %d more"):format(#refused - shown + 1) end
    error("runs that another program began cannot go on bit for bit:\n" .. table.concat(refused, "\n", 1, shown)
      .. "\n--fresh starts the experiment again, --force continues all the same", 0)
  end
  return todo
end

-- The bytes that tensors of a run may take, where runs share a card, decide how much of a batch goes at once. What was
-- decided when it began stays.
function M.choose_micro_batch(run, bytes)
  if not bytes or sys.exists(store.file(run.dir, "checkpoint.safetensors")) then return end
  local cfg = run.spec.config
  run.spec.made.micro_batch = require("attnlab.budget").micro_batch(cfg, data.open(cfg.train.data), bytes)
end

local function start(run, options)
  M.choose_micro_batch(run, options.memory)
  store.create(options.root, run.spec)
  local threads = tostring(store.config(run.dir).made.threads)
  local log = store.file(run.dir, "log")
  local argv = { options.program, "worker", "--run", run.dir, stdout = log, stderr = log,
                 env = { OMP_NUM_THREADS = threads, OMP_WAIT_POLICY = "passive" } }
  for _, flag in ipairs { "force", "fresh" } do
    if options[flag] then argv[#argv + 1] = "--" .. flag end
  end
  if options.memory then argv[#argv + 1] = ("--memory=%d"):format(options.memory) end
  for _, p in ipairs(run.spec.plugins or {}) do -- what this process has loaded is trusted
    argv[#argv + 1] = "--plugin=" .. p.path
  end
  run.pid = sys.spawn(argv)
  run.started = sys.clock()
end

-- Where the worker stands: the one line of its file `live`, which may be half written.
local function look(run)
  local ok, info = pcall(function() return json.decode(sys.read(store.file(run.dir, "live"), 4096)) end)
  if ok and type(info) == "table" and info.steps then
    run.info, run.step = info, info.step
  end
end

local ENDS = { [1] = true, [2] = true, [15] = true } -- HUP, INT, TERM: somebody wants it to end

-- A worker that ended without writing its end into `status` was killed or could not write: how it ended is put
-- there, and into run.why.
local function note_silent_end(run, how, code)
  run.locked = how == "exited" and code == worker.LOCKED
  local status = store.status(run.dir)
  local told = status.state == "finished" or status.state == "diverged" or status.state == "failed"
  if told or run.locked or (how == "exited" and code == 130) then return end
  if status.state == "damaged" then return end
  run.why = how == "signal" and ("worker killed by signal %d"):format(code)
    or sys.exists(run.dir) ~= "dir" and "its folder is gone"
    or ("worker ended with status %d and left no status (see %s/log)"):format(code, shown(run.dir))
  pcall(store.set_status, run.dir, how == "signal" and ENDS[code] and "interrupted" or "failed", status.step, run.why)
end

-- ---- the work: what runs, what is left, what is shown ------------------------------------------

local Work = {}
Work.__index = Work

local MOST_LINES = 16 -- of running workers on the screen

local function new_work(list, todo, jobs, out)
  local w = setmetatable({ list = list, todo = todo, jobs = jobs, out = out, active = {}, next = 1,
                           done = #list - #todo, signals = 0, began = sys.clock(), before = 0 }, Work)
  local width = 0
  for _, run in ipairs(list) do width = math.max(width, tables.width(run.name)) end
  for _, run in ipairs(list) do
    run.title = ("%s  seed %d"):format(tables.pad(run.name, width), run.seed)
    run.ended = run.state == "finished" or run.state == "diverged"
    w.before = w.before + (run.ended and run.steps or run.step)
  end
  return w
end

function Work:lines()
  local lines, steps, total = {}, 0, 0
  for _, run in ipairs(self.list) do
    total = total + run.steps
    steps = steps + (run.ended and run.steps or math.min(run.step, run.steps))
  end
  for k, run in ipairs(self.active) do
    local i = run.info
    if k > MOST_LINES then
      lines[#lines + 1] = ("  and %d more"):format(#self.active - MOST_LINES)
      break
    end
    local text = i and progress.line { step = i.step, steps = i.steps, loss = i.loss, tokens_per_s = i.tokens_per_s,
                                       memory = i.memory, eta = i.eta } or "starting"
    lines[#lines + 1] = ("  %s  %s"):format(run.title, text)
  end
  local passed = sys.clock() - self.began
  local eta = steps > self.before and passed * (total - steps) / (steps - self.before)
  lines[#lines + 1] = ("%d of %d runs | %.0f %% | %s%s"):format(self.done, #self.list, 100 * steps / total,
    progress.clock(passed), eta and " | eta " .. progress.clock(eta) or "")
  return lines
end

-- Says how a run ended, in a line that stays.
function Work:say_end(run)
  local status = store.status(run.dir)
  local text = status.state
  if run.locked then
    text = self.out:paint("31", "locked: another process is working on it") .. " (" .. shown(run.dir) .. ")"
  elseif status.state == "finished" and not status.reason then
    local value = runs.read(run.dir, run.arm, run.seed, "valid/loss").value
    text = value and ("valid loss %.4f"):format(value) or text
  elseif status.state ~= "interrupted" or self.signals == 0 then
    text = ("%s at step %d: %s"):format(status.state, status.step, run.why or status.reason or "?")
    if status.state == "failed" then text = self.out:paint("31", text) .. " (see " .. shown(run.dir) .. "/log)" end
  end
  self.out:say(("[%d/%d] %s  %s  (%s)"):format(self.done, #self.list, run.title, text,
    progress.clock(sys.clock() - run.started)))
end

function Work:fill(options)
  while self.signals == 0 and #self.active < self.jobs and self.next <= #self.todo do
    local run = self.todo[self.next]
    self.next = self.next + 1
    local ok, why = pcall(start, run, options)
    if ok then
      self.active[#self.active + 1] = run
      if not self.out.tty then self.out:say(("started %s  %s"):format(run.title, shown(run.dir))) end
    else -- a folder that cannot be made stops this run, not the others
      run.why, self.done = names.reason(why), self.done + 1
      self.out:say(("[%d/%d] %s  %s: %s"):format(self.done, #self.list, run.title,
        self.out:paint("31", "not started"), run.why))
    end
  end
end

-- Takes out the workers that have ended.
function Work:reap()
  for i = #self.active, 1, -1 do
    local run = self.active[i]
    look(run)
    local how, code = sys.wait(run.pid, true)
    if how ~= "running" then
      table.remove(self.active, i)
      note_silent_end(run, how, code)
      local state = store.status(run.dir).state
      run.ended = state == "finished" or state == "diverged"
      if run.ended or state == "failed" then self.done = self.done + 1 end
      self:say_end(run)
    end
  end
end

function Work:signal(number)
  for _, run in ipairs(self.active) do pcall(sys.kill, run.pid, number) end
end

function Work:loop(options)
  while true do
    if sys.interrupted() > 0 and self.signals == 0 then
      self.signals = 1
      self.out:say "interrupted: workers finish their step and save (again: stop at once)"
      self:signal(15)
    end
    self:fill(options)
    if #self.active == 0 then return end
    sys.sleep(0.1)
    self:reap()
    self.out:show(function() return self:lines() end)
  end
end

-- What is not there in the end, whoever ended it: { {run, why}, .. }.
local function missing(list, todo)
  local out, asked = {}, {}
  for _, run in ipairs(todo) do asked[run] = true end
  for _, run in ipairs(list) do
    local status = store.status(run.dir)
    local ended = status.state == "diverged" or status.state == "finished" and not (asked[run] and not store.complete(run.dir))
    if not ended then
      out[#out + 1] = { run = run, why = run.locked and "another process is working on it" or run.why
        or sys.exists(run.dir) ~= "dir" and "its folder is gone"
        or status.state == "damaged" and ("damaged, left as it is until its folder is removed: " .. status.reason)
        or status.reason or status.state }
    end
  end
  return out
end

-- Works through the plan. options: root, program, jobs, fresh, force, quiet. Returns the list of runs, "done",
-- "failed" or "interrupted", and what is missing: { {run, why}, .. }. No card is opened here.
function M.work(plan, given)
  local options = setmetatable({ memory = devices.share(plan.device, (M.shares(plan, given))) }, { __index = given })
  -- from here on, so that an interrupt in the first second is none in the last
  sys.catch_interrupts(true)
  local caught <close> = setmetatable({}, { __close = function() sys.catch_interrupts(false) end })
  sys.mkdir(options.root) -- what cannot be made is said once, not for every run
  local list, jobs, threads = M.expand(plan, options)
  local todo = select_runs(list, options)
  local out = board.new(options.quiet and io.stderr or nil)
  local w = new_work(list, todo, jobs, out)
  out:say(("%s: %d arms x %d seed%s, %d of %d runs to do, %d at once with %d thread%s each"):format(plan.name,
    #plan.arms, #plan.seeds, #plan.seeds == 1 and "" or "s", #todo, #list, jobs, threads, threads == 1 and "" or "s"))
  -- a second Ctrl-C is raised as the error "interrupted", wherever the loop is
  local ok, message = pcall(w.loop, w, options)
  local stopped = not ok and tostring(message):find "interrupted"
  if not ok then w:signal(9) end
  out:erase()
  if not ok and not stopped then error(message, 0) end
  local left = missing(list, todo)
  return list, (stopped or w.signals > 0) and "interrupted" or #left > 0 and "failed" or "done", left
end

return M
