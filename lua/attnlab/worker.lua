-- One run in its own process: attnlab worker --run DIR. Reads config.json, trains, records, saves.
-- A worker writes only into its folder, which it holds by flock, and the plans of products that the runs beside it share.
local core = require "attnlab.core"
local names = require "attnlab.names"
local plans = require "attnlab.plans"
local plugins = require "attnlab.plugins"
local measures = require "attnlab.measures"
local store = require "attnlab.store"
local train = require "attnlab.train"
local json, sys = core.json, core.sys

local M = {}

M.LOCKED = 75 -- exit status when another process holds the run

local LIVE_SECONDS, LIVE_BYTES = 0.5, 256

local function is_stale(dir) return #store.differences(store.config(dir)) > 0 end

-- Refuses to continue a run that another program began, unless told to.
local function check_origin(dir, spec, force)
  if force or not sys.exists(store.file(dir, "checkpoint.safetensors")) then return end
  local differ = store.differences(spec)
  if #differ > 0 then
    error(("%s was begun with other %s: --fresh starts it again, --force continues it all the same")
      :format(names.shown(dir), table.concat(differ, " and ")), 0)
  end
end

-- function(info) that keeps the file `live` at one line, for whoever watches.
local function live_file(dir)
  local path, last = store.file(dir, "live"), 0
  sys.write(path, "")
  local f = sys.append(path)
  return function(info)
    local now = sys.clock()
    if now - last < LIVE_SECONDS and info.step < info.steps then return end
    last = now
    local seen = {}
    for k, v in pairs(info) do
      if v == v and math.abs(v) < math.huge then seen[k] = v end
    end
    local line = json.encode(seen)
    f:replace(line .. (" "):rep(LIVE_BYTES - #line - 1) .. "\n")
  end
end

-- What the experiment wants to know of a trained model, into probe.json. What was trained stands whatever becomes
-- of the look into it: what failed is in the file, and the same command looks again. Returns nil or what failed.
local function look_into(dir, spec, model)
  local found, failed = {}, {}
  local function take(name, measure)
    local ok, value = pcall(measure, model, spec.config)
    if ok then return value end
    if tostring(value):find "interrupted$" then error(value, 0) end
    local why = names.reason(tostring(value))
    io.stderr:write("not measured: ", name, ": ", why, "\n")
    failed[name] = why:gsub("\n.*", "")
  end
  local function unknown() error("this program has no such measure", 0) end
  for _, name in ipairs(measures(spec.measure)) do
    found[name] = take(name, measures[name] and measures[name].measure or unknown)
  end
  found.failed = next(failed) and failed
  sys.write(store.file(dir, "probe.json"), json.encode(found) .. "\n")
  local name, why = next(failed)
  return name and ("not measured: %s: %s"):format(name, why)
end

local function stop()
  if sys.interrupted() > 0 then error("interrupted", 0) end
end

local function train_run(dir, spec, options)
  core.threads(spec.made.threads)
  local trainer = train.trainer(nil, spec.config, spec.seed, nil, spec.made.micro_batch)
  if trainer.data.sha256 ~= spec.data_hash then
    error(("%s: the text %s has changed since the run was made: sha256 %.12s here, %.12s then"):format(
      names.shown(dir), trainer.data:shown(), trainer.data.sha256, spec.data_hash), 0)
  end
  local model = trainer.model
  local folder = options.plans or dir:gsub("/+$", ""):match "^(.*[^/])/+[^/]+$" or "."
  local shared <close> = plans.open(folder, spec.device, { renew = options.fresh or options.force, stop = stop })
  local writer = store.writer(dir, trainer, shared, options.force)
  store.set_status(dir, "running", trainer.step_count)
  if writer.resumed then
    writer:time { step = writer.resumed, event = "resume", source = store.source_hash() }
  else
    local n = 0
    for _, t in pairs(model:parameters()) do n = n + t:numel() end
    writer:record { step = 0, ["model/parameters"] = n,
                    ["model/state_bytes"] = model:state_bytes(model.config.context) }
  end
  if shared.timing then trainer:evaluate() end -- its shapes are there before they are due
  local plan = model:plan(model.config.context)
  io.stderr:write("attention: ", plan, "\n")
  writer:time { step = trainer.step_count, event = "plan", attention = plan, micro_batch = spec.made.micro_batch }
  local live = live_file(dir)
  sys.say_crashes("step " .. trainer.step_count + 1)
  local result = train.loop(trainer, {
    record = function(record) writer:record(record) end,
    checkpoint = function() writer:checkpoint(trainer) end,
    interrupted = function() return sys.interrupted() > 0 end,
    progress = function(info)
      shared:keep() -- after the first step
      sys.say_crashes("step " .. info.step + 1)
      live(info)
      if options.progress then options.progress(info) end
    end,
  })
  writer:time { step = result.step, event = "memory", bytes = core.memory().peak }
  local failed = result.status == "finished" and look_into(dir, spec, model) or nil
  writer:close()
  store.set_status(dir, result.status, result.step, result.reason or failed)
  sys.remove(store.file(dir, "live"))
  return result.status == "interrupted" and 130 or failed and 1 or 0
end

-- What an error says, where it was raised, and whether that is a line of Lua: a refusal says all by itself.
local function raised(e)
  local text = names.reason(tostring(e))
  return { text = text, trace = debug.traceback(tostring(e), 2), fault = text:find "^[^\n]-%.lua:%d+: " }
end

-- The step of the last record; 0 where there is none that can be read.
local function last_step(dir)
  local ok, records = pcall(store.metrics, dir)
  local last = ok and records[#records]
  return type(last) == "table" and math.tointeger(last.step) or 0
end

-- The run in `dir` from where it stands to its end. options: force, progress(info), memory (bytes that its
-- tensors may take on the device), fresh (plans of products that do not fit are chosen again), plans (their folder: that of
-- all runs of the experiment), traces (of refusals, too). Returns 0 (finished
-- or diverged), 130, LOCKED or 1; what went wrong is in `status` and on stderr.
function M.run(dir, options)
  sys.catch_interrupts(true)
  local lock = store.lock(dir)
  for _ = 1, 20 do -- whoever asks how the run stands holds the lock for a moment
    if lock then break end
    sys.sleep(0.05)
    lock = store.lock(dir)
  end
  if not lock then
    io.stderr:write(names.shown(dir), ": locked: another process is working on it\n")
    return M.LOCKED
  end
  local status = store.status(dir)
  if status.state == "damaged" then
    lock:close()
    io.stderr:write(names.shown(dir), ": damaged: ", status.reason, "\n")
    return 1
  end
  if store.complete(dir) or status.state == "finished" and not options.force and is_stale(dir) then
    lock:close() -- done by another process, since it was asked for
    return 0
  end
  local before = core.on()
  local ok, code = xpcall(function()
    local spec = store.config(dir)
    core.on(spec.device)
    core.memory_limit(options.memory or 0)
    check_origin(dir, spec, options.force)
    plugins.restore(spec.plugins, names.shown(dir))
    spec = store.config(dir) -- with them its id can be checked
    return train_run(dir, spec, options)
  end, raised)
  core.memory_limit(0)
  core.on(before)
  if not ok then
    local stopped = code.text:find "interrupted$"
    local whole = code.fault or options.traces or os.getenv "ATTNLAB_TRACE"
    if not stopped then io.stderr:write(whole and code.trace or "attnlab: " .. code.text, "\n") end
    local written, why = pcall(store.set_status, dir, stopped and "interrupted" or "failed", last_step(dir),
      stopped and "stopped at once" or (code.text:gsub("\n.*", "")))
    if not written then io.stderr:write("status not written: ", names.reason(tostring(why)), "\n") end
    code = stopped and 130 or 1
  end
  lock:close()
  return code
end

return M
