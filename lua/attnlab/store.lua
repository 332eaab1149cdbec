-- Run folders: runs/<experiment>/<id>/ with
--   config.json             what was asked and by which program; written once, before the run
--   metrics.jsonl           one record a line, one write a record: deterministic values only
--   times.jsonl             wall-clock records, kept apart so that metrics.jsonl is equal bit for bit
--   status                  state (running finished diverged interrupted failed), step, reason
--   checkpoint.safetensors  the last checkpoint; its metadata holds the length metrics.jsonl had then
--   probe.json, live        what was measured of the trained model; where a running worker stands
--   log, lock               output of the worker; flock
-- and beside the runs of a card plans-<card>.txt: attnlab/plans.lua.
-- id = first 12 hex digits of sha256 over the canonical JSON of the resolved configuration with every
-- default written out, seed, device, dtype, hashes of the data and of the plug-ins that its families came
-- from, and what is measured of the trained model. What is expected of it (config.json's `expect`, as it
-- was when the run was made) changes no result and no id.
local core = require "attnlab.core"
local config = require "attnlab.config"
local devices = require "attnlab.devices"
local names = require "attnlab.names"
local plugins = require "attnlab.plugins"
local tables = require "attnlab.table"
local sys, json = core.sys, core.json

local M = {}

-- The line in the head of a module that only reads results, draws them or asks for them.
local MARK = "\n-- A change here makes no run stale.\n"

-- Folder that holds attnlab/*.lua, and the project's root above it.
local function lua_dir()
  local path = assert(package.searchpath("attnlab.store", package.path))
  local dir = path:match("^(.*)/attnlab/store%.lua$")
  return dir, dir .. "/.."
end

-- The sources under root that a metric can depend on: sorted paths, and texts by path.
function M.sources(root)
  local paths, texts = {}, {}
  local function walk(dir)
    if sys.exists(root .. "/" .. dir) ~= "dir" then return end
    for _, name in ipairs(sys.list(root .. "/" .. dir)) do
      local path = dir .. "/" .. name
      if sys.exists(root .. "/" .. path) == "dir" then
        if path ~= "attention/template" then walk(path) end
      elseif name:match "%.[ch]$" or name:match "%.cuh?$" or name:match "%.def$" or name:match "%.lua$" then
        local text = sys.read(root .. "/" .. path)
        if not text:find(MARK, 1, true) then paths[#paths + 1], texts[path] = path, text end
      end
    end
  end
  for _, dir in ipairs { "attention", "core", "kernels", "lua" } do walk(dir) end
  table.sort(paths)
  return paths, texts
end

-- Hash of the sources under root.
function M.hash_of(root)
  local paths, texts = M.sources(root)
  local list = {}
  for i, path in ipairs(paths) do list[i] = path .. "\0" .. sys.sha256(texts[path]) end
  return sys.sha256(table.concat(list, "\n")):sub(1, 12)
end

local source
-- The hash of the sources beside the Lua modules that run here.
function M.source_hash()
  source = source or M.hash_of(select(2, lua_dir()))
  return source
end

-- What numbers made on a device depend on beside the sources: the CPU and its libraries, and the card with driver and
-- libraries. The number of threads is recorded by itself.
function M.libraries(device)
  local libraries = core.libraries()
  if not devices.is_card(device or "cpu") then return libraries end
  return ("%s, cuda: %s"):format(libraries, devices.card(device) or "none on this machine")
end

-- The device counts by its kind: which of several equal ones a run had changes nothing. The text counts by its
-- hash: where it lies changes nothing either.
function M.id(spec)
  local cfg = config.copy(spec.config)
  cfg.train.data = nil
  local identity = { config = config.canonical(cfg), seed = spec.seed, device = spec.device:match "^[^:]*",
                     dtype = spec.config.train.dtype, data = spec.data_hash, measure = spec.measure }
  for i, p in ipairs(spec.plugins or {}) do
    identity.plugins = identity.plugins or {}
    identity.plugins[i] = { family = p.family, sha256 = p.sha256 }
  end
  return sys.sha256(json.encode(identity)):sub(1, 12)
end

-- Folder of the run that spec = {experiment, arm, seed, config, device, data_hash, expect, made} asks for.
function M.dir(root, spec)
  return names.inside(root, spec.experiment .. "/" .. M.id(spec))
end

-- A file of a run, whose folder may have been named by anybody.
M.file = names.inside
local file = M.file

local function fail(path, ...)
  error(names.shown(path) .. ": " .. (...):format(select(2, ...)), 0)
end

-- Bytes of a file that are read at most, so that a damaged one cannot take all memory.
local MOST = { small = 1 << 24, records = 1 << 30 }

-- Writes config.json and returns the folder. A run that has results, or is damaged, keeps what it has; one that is
-- to go on finds its text where it lies now, and goes on on the card that is named now.
function M.create(root, spec)
  local dir = M.dir(root, spec)
  local state = M.status(dir).state
  if state ~= "finished" and state ~= "diverged" and state ~= "damaged"
    and not sys.exists(file(dir, "checkpoint.safetensors")) then
    sys.mkdir(dir)
    local begun, before = pcall(M.config, dir)
    -- what was expected at first stays: somebody may have seen how the run began
    local made = { expect = begun and before.expect or nil }
    for k, v in pairs(spec) do made[k] = made[k] or v end
    sys.write(file(dir, "config.json"), json.encode(made, { pretty = true }) .. "\n")
  elseif state == "new" or state == "interrupted" or state == "failed" then
    local kept, text = M.config(dir), spec.config.train.data
    if kept.config.train.data ~= text or kept.device ~= spec.device then
      kept.config.train.data, kept.device = text, spec.device
      sys.write(file(dir, "config.json"), json.encode(kept, { pretty = true }) .. "\n")
    end
  end
  return dir
end

-- The table in a JSON file of a run.
local function object(path)
  local text = sys.read(path, MOST.small)
  local ok, value = pcall(json.decode, text)
  if not ok then fail(path, "%s", value) end
  if type(value) ~= "table" then fail(path, "line 1: an object expected, got %s", type(value)) end
  return value
end

-- Every text without control characters, which names and reasons would bring to the terminal.
local function cleaned(value)
  if type(value) == "string" then return tables.clean(value, true) end
  if type(value) ~= "table" then return value end
  local out = {}
  for k, v in pairs(value) do out[cleaned(k)] = cleaned(v) end
  return setmetatable(out, getmetatable(value))
end

local function kind(path, of, value, want)
  local got = want == "integer" and math.type(value) or type(value)
  if got ~= want then fail(path, "'%s': %s expected, got %s", of, want, got) end
end

local KINDS = { experiment = "string", arm = "string", seed = "integer", config = "table", device = "string",
                data_hash = "string", expect = "table", made = "table" }
local MADE = { source = "string", libraries = "string", threads = "integer" }

-- What was asked of the run, each part held to its kind and the whole to the id of its folder (that of a run with
-- plug-ins only where they are loaded).
function M.config(dir)
  local path = file(dir, "config.json")
  if sys.exists(path) ~= "file" then fail(dir, "not a run folder (no config.json)") end
  local spec = object(path)
  for _, k in ipairs(names.keys(KINDS)) do kind(path, k, spec[k], KINDS[k]) end
  for _, k in ipairs(names.keys(MADE)) do kind(path, "made." .. k, spec.made[k], MADE[k]) end
  local threads = spec.made.threads
  if threads < 1 or threads > 4096 then fail(path, "'made.threads': 1 to 4096 expected, got %d", threads) end
  local micro = spec.made.micro_batch -- windows of a pass
  if micro ~= nil then kind(path, "made.micro_batch", micro, "integer") end
  if micro and micro < 1 then fail(path, "'made.micro_batch': 1 or more expected, got %d", micro) end
  if spec.variant ~= nil then kind(path, "variant", spec.variant, "string") end
  if spec.measure ~= nil then kind(path, "measure", spec.measure, "table") end
  if spec.plugins ~= nil then kind(path, "plugins", spec.plugins, "table") end
  for i, p in ipairs(spec.plugins or {}) do kind(path, ("plugins[%d]"):format(i), p, "table") end
  for i, m in ipairs(spec.measure or {}) do kind(path, ("measure[%d]"):format(i), m, "string") end
  local held, wrong = pcall(config.held, spec.config)
  if not held then fail(path, "not a configuration: %s", wrong) end
  local ok, id = pcall(M.id, spec)
  if not ok and plugins.unknown(spec.plugins) then return cleaned(spec) end -- what its options mean is not known
  if not ok then
    local why = id:find "attempt to" and "a part is missing or of another kind" or id:gsub("^%S+%.lua:%d+: ", "")
    fail(path, "not a configuration: %s", why)
  end
  local name = dir:gsub("/+$", ""):match "[^/]*$"
  if name:find("^" .. ("%x"):rep(12) .. "$") and name ~= id then
    fail(path, "it is that of run %s, not of this folder: one of the two was changed", id)
  end
  return cleaned(spec)
end

-- flock on the folder's lock file: a handle to close, or nil when another process holds it.
function M.lock(dir)
  return sys.lock(file(dir, "lock"))
end

function M.set_status(dir, state, step, reason)
  sys.write(file(dir, "status"), json.encode { state = state, step = step or 0, reason = reason, pid = sys.pid(),
                                            host = sys.host(), time = sys.time() } .. "\n")
end

-- Raises where what is finished or diverged cannot be what its run ended with.
local function hold(dir, status)
  local spec, records = M.config(dir), M.metrics(dir)
  local path, last = file(dir, "metrics.jsonl"), records[#records]
  local bytes = sys.exists(path) and sys.size(path) or 0
  if not last or last.step ~= status.step then
    fail(path, "its last record is of step %s, but the run says %s at step %d", last and last.step or "none",
      status.state, status.step)
  end
  local train = spec.config.train
  if status.state == "finished" and type(train) == "table" and status.step ~= train.steps then
    fail(file(dir, "status"), "finished at step %d of %s", status.step, tostring(train.steps))
  end
  local saved = file(dir, "checkpoint.safetensors")
  if status.state ~= "finished" or not sys.exists(saved) then return end
  local metadata = core.safetensors.metadata(saved)
  if metadata["run.step"] ~= tostring(status.step) then
    fail(saved, "of step %s, but the run finished at step %d", metadata["run.step"], status.step)
  elseif metadata["run.metrics_bytes"] ~= tostring(bytes) then
    fail(path, "%d bytes, but checkpoint.safetensors was written after %s", bytes, metadata["run.metrics_bytes"])
  end
end

local STATES = { running = true, finished = true, diverged = true, interrupted = true, failed = true }

local function read_status(dir)
  local path = file(dir, "status")
  if sys.exists(path) == nil then return { state = "new", step = 0 } end
  local status = object(path)
  if not STATES[status.state] then fail(path, "unknown state '%s'", tostring(status.state)) end
  kind(path, "step", status.step, "integer")
  if status.reason ~= nil then kind(path, "reason", status.reason, "string") end
  return cleaned(status)
end

-- {state, step, reason, ...}; state "new" without a status file. A run that says "running" while nobody holds its
-- lock was killed: it counts as interrupted. One whose files contradict each other, or are none of ours, is
-- "damaged": never an error, so that one run cannot hide the others.
function M.status(dir)
  local ok, status = pcall(read_status, dir)
  if ok and status.state == "running" then
    local free, lock = pcall(M.lock, dir)
    if not free then
      ok, status = false, lock
    elseif lock then
      lock:close()
      status.state, status.reason = "interrupted", "killed"
    end
  end
  if ok and (status.state == "finished" or status.state == "diverged") then
    local held, why = pcall(hold, dir, status)
    if not held then ok, status = false, why end
  elseif ok and status.state ~= "new" then
    local read, why = pcall(M.config, dir)
    if not read then ok, status = false, why end
  end
  if ok then return status end
  local reason, inside = tostring(status):gsub("^%S+%.lua:%d+: ", ""), names.shown(file(dir, ""))
  local at = reason:find(inside, 1, true)
  if at then reason = reason:sub(1, at - 1) .. reason:sub(at + #inside) end
  return { state = "damaged", step = 0, reason = tables.cut(tables.clean(reason, true)) }
end

-- What was measured of a trained model; nil where nothing was, or nothing whole.
function M.probe(dir)
  local readable, text = pcall(sys.read, file(dir, "probe.json"), MOST.records)
  local ok, found = pcall(json.decode, readable and text or "")
  return ok and type(found) == "table" and found or nil
end

-- Is there nothing left to do? A finished run whose measuring failed has something left.
function M.complete(dir)
  local state = M.status(dir).state
  if state == "diverged" then return true end
  local probe = state == "finished" and M.probe(dir)
  return probe and not probe.failed or false
end

-- Complete lines of a .jsonl file, decoded; what follows the last newline is not a record.
function M.records(path)
  local list = {}
  if not sys.exists(path) then return list end
  for line in sys.read(path, MOST.records):gmatch("([^\n]*)\n") do
    local ok, record = pcall(json.decode, line)
    if not ok then fail(path, "line %d: %s", #list + 1, record) end
    if type(record) ~= "table" or math.type(record.step) ~= "integer" then
      fail(path, "line %d: an object with a step expected", #list + 1)
    end
    list[#list + 1] = record
  end
  return list
end

function M.metrics(dir)
  return M.records(file(dir, "metrics.jsonl"))
end

-- Records of times.jsonl. Times decide nothing, so lines that are none are passed over.
function M.times(dir)
  local list = {}
  local readable, text = pcall(sys.read, file(dir, "times.jsonl"), MOST.records)
  for line in (readable and text or ""):gmatch "([^\n]*)\n" do
    local ok, record = pcall(json.decode, line)
    if ok and type(record) == "table" then list[#list + 1] = record end
  end
  return list
end

-- Differences between the program that made a run and this one, as words: {} when there are none.
function M.differences(spec, threads)
  local list = {}
  if spec.made.source ~= M.source_hash() then list[#list + 1] = "source" end
  if spec.made.libraries ~= M.libraries(spec.device) then list[#list + 1] = "libraries" end
  if threads and spec.made.threads ~= threads then list[#list + 1] = "threads" end
  return list
end

-- Removes the results of a run, keeping the lock file, whose handle may be open.
function M.clear(dir)
  for _, name in ipairs(sys.list(dir)) do
    local path = file(dir, name)
    local inner = name ~= "lock" and sys.exists(path) == "dir" and sys.list(path) or {} -- a tokenizer's
    for _, held in ipairs(inner) do sys.remove(path .. "/" .. held) end
    if name ~= "lock" then sys.remove(path) end
  end
end

-- Clears a run that is to start again; an error when a process works on it.
function M.restart(dir)
  sys.mkdir(dir)
  local lock <close> = M.lock(dir)
  if not lock then fail(dir, "locked: another process is working on it") end
  M.clear(dir)
end

-- ---- writing: one writer per run, in the worker that holds the lock ----------------------------

local Writer = {}
Writer.__index = Writer

-- Opens the folder for the run that `trainer` makes. When there is a checkpoint the trainer continues
-- from it and what was recorded after it is cut off; it has to have been made with the same plans of products (plans.lua),
-- unless forced. Returns the writer; w.resumed = step or nil.
function M.writer(dir, trainer, plans, force)
  local w = setmetatable({ dir = dir, plans = plans or {}, checkpoint_path = file(dir, "checkpoint.safetensors") }, Writer)
  local metrics = file(dir, "metrics.jsonl")
  local keep = 0
  if sys.exists(w.checkpoint_path) == "file" then
    local tensors, metadata = core.safetensors.open(w.checkpoint_path)
    keep = math.tointeger(tonumber(metadata["run.metrics_bytes"]))
    if not keep then
      fail(w.checkpoint_path, "not a checkpoint of a run (run.metrics_bytes is missing)")
    end
    local made, here = metadata["run.plans"] or "none", w.plans.hash or "none"
    if made ~= here and not force then
      fail(w.checkpoint_path, "made with other plans of products: %.12s there, %.12s here; --fresh starts the run again, --force continues it all the same",
        made, here)
    end
    local have = sys.exists(metrics) and sys.size(metrics) or 0
    if have < keep then
      fail(metrics, "%d bytes, but checkpoint.safetensors was written after %d: records are lost (--fresh starts the run again)",
        have, keep)
    end
    local ok, why = pcall(trainer.restore, trainer, tensors, metadata)
    if not ok then fail(w.checkpoint_path, "%s", why) end
    w.resumed = trainer.step_count
  end
  if sys.exists(metrics) then sys.truncate(metrics, keep) end
  w.metrics, w.times = sys.append(metrics), sys.append(file(dir, "times.jsonl"))
  return w
end

-- Keys that start with "time/" go to times.jsonl, the others to metrics.jsonl. JSON has no NaN and no
-- infinity: they become null, and `nonfinite` counts them.
function Writer:record(record)
  local metrics, times, timed = {}, { step = record.step }, false
  for key, value in pairs(record) do
    if key:sub(1, 5) == "time/" then
      times[key], timed = value, true
    elseif value ~= value or value == math.huge or value == -math.huge then
      metrics[key], metrics.nonfinite = json.null, (metrics.nonfinite or 0) + 1
    else
      metrics[key] = value
    end
  end
  self.metrics:write(json.encode(metrics) .. "\n")
  if timed then self:time(times) end
end

-- Wall-clock values of a step, and events such as a resume.
function Writer:time(record)
  record["time/unix"] = record["time/unix"] or sys.time()
  self.times:write(json.encode(record) .. "\n")
end

-- The records are on disk before the checkpoint that counts them; the old checkpoint stays until the
-- new one is complete.
function Writer:checkpoint(trainer)
  self.metrics:sync()
  local metadata = {}
  for k, v in pairs(trainer:metadata()) do metadata[k] = v end
  metadata["run.metrics_bytes"] = tostring(sys.size(file(self.dir, "metrics.jsonl")))
  metadata["run.step"] = tostring(trainer.step_count)
  metadata["run.plans"] = self.plans.hash
  local vocabulary = trainer.model and trainer.model.vocabulary -- a trainer need not be one of a model
  if vocabulary then vocabulary:save_beside(self.checkpoint_path) end
  core.safetensors.save(self.checkpoint_path, trainer:state(), metadata)
end

function Writer:close()
  self.metrics:sync()
  self.metrics:close()
  self.times:close()
end

return M
