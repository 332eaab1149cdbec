-- One run in its own process: attnlab worker --run DIR. Reads config.json, trains, records, saves.
-- A worker writes only into its folder, which it holds by flock.
local core = require "attnlab.core"
local plugins = require "attnlab.plugins"
local measures = require "attnlab.measures"
local probe = require "attnlab.probe"
local store = require "attnlab.store"
local train = require "attnlab.train"
local json, sys = core.json, core.sys

local M = {}

M.LOCKED = 75 -- exit status when another process holds the run

local LIVE_SECONDS, LIVE_BYTES = 0.5, 256

-- Refuses to continue a run that another program began, unless told to.
local function check_origin(dir, spec, force)
  if force or not sys.exists(dir .. "/checkpoint.safetensors") then return end
  local differ = store.differences(spec)
  if #differ > 0 then
    error(("%s was begun with other %s: --fresh starts it again, --force continues it all the same")
      :format(dir, table.concat(differ, " and ")), 0)
  end
end

-- function(info) that keeps the file `live` at one line, for whoever watches.
local function live_file(dir)
  local f, last = assert(io.open(dir .. "/live", "w")), 0
  return function(info)
    local now = sys.clock()
    if now - last < LIVE_SECONDS and info.step < info.steps then return end
    last = now
    local seen = {}
    for k, v in pairs(info) do
      if v == v and math.abs(v) < math.huge then seen[k] = v end
    end
    local line = json.encode(seen)
    f:seek "set"
    f:write(line, (" "):rep(LIVE_BYTES - #line - 1), "\n")
    f:flush()
  end
end

local function train_run(dir, spec, progress)
  core.threads(spec.made.threads)
  local trainer = train.trainer(nil, spec.config, spec.seed)
  local model = trainer.model
  local writer = store.writer(dir, trainer)
  store.set_status(dir, "running", trainer.step_count)
  if writer.resumed then
    writer:time { step = writer.resumed, event = "resume", source = store.source_hash() }
  else
    local n = 0
    for _, t in pairs(model:parameters()) do n = n + t:numel() end
    writer:record { step = 0, ["model/parameters"] = n,
                    ["model/state_bytes"] = model:state_bytes(model.config.context) }
  end
  local plan = model:plan(model.config.context)
  io.stderr:write("attention: ", plan, "\n")
  writer:time { step = trainer.step_count, event = "plan", attention = plan }
  local live = live_file(dir)
  local result = train.loop(trainer, {
    record = function(record) writer:record(record) end,
    checkpoint = function() writer:checkpoint(trainer) end,
    interrupted = function() return sys.interrupted() > 0 end,
    progress = function(info)
      live(info)
      if progress then progress(info) end
    end,
  })
  if result.status == "finished" then
    -- what was trained stands, whatever becomes of the look into it
    local ok, profile = pcall(probe.row_sum, model, spec.config)
    if not ok then io.stderr:write("no row sums: ", tostring(profile), "\n") end
    profile = ok and profile or {}
    for _, name in ipairs(spec.expect.measure or {}) do
      local good, found = pcall(measures[name].measure, model, spec.config)
      if not good then io.stderr:write("no ", name, ": ", tostring(found), "\n") end
      profile[name] = good and found or nil
    end
    if next(profile) then sys.write(dir .. "/probe.json", json.encode(profile) .. "\n") end
  end
  writer:close()
  store.set_status(dir, result.status, result.step, result.reason)
  sys.remove(dir .. "/live")
  return result.status == "interrupted" and 130 or 0
end

-- The run in `dir` from where it stands to its end. options: force, progress(info). Returns 0 (finished
-- or diverged), 130, LOCKED or 1; what went wrong is in `status`, with the traceback on stderr.
function M.run(dir, options)
  local lock = store.lock(dir)
  for _ = 1, 20 do -- whoever asks how the run stands holds the lock for a moment
    if lock then break end
    sys.sleep(0.05)
    lock = store.lock(dir)
  end
  if not lock then
    io.stderr:write(dir, ": locked: another process is working on it\n")
    return M.LOCKED
  end
  local state = store.status(dir).state
  if state == "finished" or state == "diverged" then -- by another process, since it was asked for
    lock:close()
    return 0
  end
  sys.catch_interrupts(true)
  local ok, code = xpcall(function()
    local spec = store.config(dir)
    check_origin(dir, spec, options.force)
    plugins.restore(spec.plugins, dir)
    return train_run(dir, spec, options.progress)
  end, function(message) return { text = tostring(message), trace = debug.traceback(tostring(message), 2) } end)
  if not ok then
    if code.text:find("interrupted$") then
      pcall(store.set_status, dir, "interrupted", 0, "stopped at once")
      lock:close()
      return 130
    end
    io.stderr:write(code.trace, "\n")
    local records = store.metrics(dir)
    local step = #records > 0 and records[#records].step or 0
    local written, why = pcall(store.set_status, dir, "failed", step, (code.text:gsub("\n.*", "")))
    if not written then io.stderr:write("status not written: ", tostring(why), "\n") end
    code = 1
  end
  lock:close()
  return code
end

return M
