-- Run folders: runs/<experiment>/<id>/ with
--   config.json             what was asked and by which program; written once, before the run
--   metrics.jsonl           one record a line, one write a record: deterministic values only
--   times.jsonl             wall-clock records, kept apart so that metrics.jsonl is equal bit for bit
--   status                  state (running finished diverged interrupted failed), step, reason
--   checkpoint.safetensors  the last checkpoint; its metadata holds the length metrics.jsonl had then
--   probe.json, live        row sums of the trained model; where a running worker stands
--   log, lock               output of the worker; flock
-- id = first 12 hex digits of sha256 over the canonical JSON of the resolved configuration with every
-- default written out, seed, device, dtype, hashes of the data and of the plug-ins that its families came
-- from, and what was expected of the arm.
local core = require "attnlab.core"
local config = require "attnlab.config"
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
      elseif name:match "%.[ch]$" or name:match "%.def$" or name:match "%.lua$" then
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

-- Library versions without the number of threads, which is recorded by itself.
function M.libraries()
  return (core.info():gsub(",? ?%d+ threads?", ""))
end

function M.id(spec)
  local identity = { config = config.canonical(spec.config), seed = spec.seed, device = spec.device,
                     dtype = spec.config.train.dtype, data = spec.data_hash, expect = spec.expect }
  for i, p in ipairs(spec.plugins or {}) do
    identity.plugins = identity.plugins or {}
    identity.plugins[i] = { family = p.family, sha256 = p.sha256 }
  end
  return sys.sha256(json.encode(identity)):sub(1, 12)
end

-- Folder of the run that spec = {experiment, arm, seed, config, device, data_hash, expect, made} asks for.
function M.dir(root, spec)
  return ("%s/%s/%s"):format(root, spec.experiment, M.id(spec))
end

-- Writes config.json and returns the folder. A run that has results keeps the one it began with.
function M.create(root, spec)
  local dir = M.dir(root, spec)
  local state = M.status(dir).state
  if state ~= "finished" and state ~= "diverged" and not sys.exists(dir .. "/checkpoint.safetensors") then
    sys.mkdir(dir)
    sys.write(dir .. "/config.json", json.encode(spec, { pretty = true }) .. "\n")
  end
  return dir
end

function M.config(dir)
  local path = dir .. "/config.json"
  if sys.exists(path) ~= "file" then error(dir .. ": not a run folder (no config.json)", 0) end
  local ok, spec = pcall(json.decode, sys.read(path))
  if not ok then error(path .. ": " .. spec, 0) end
  return spec
end

-- flock on the folder's lock file: a handle to close, or nil when another process holds it.
function M.lock(dir)
  return sys.lock(dir .. "/lock")
end

function M.set_status(dir, state, step, reason)
  sys.write(dir .. "/status", json.encode { state = state, step = step or 0, reason = reason, pid = sys.pid(),
                                            host = sys.host(), time = sys.time() } .. "\n")
end

-- {state, step, reason, ...}; state "new" without a status file. A run that says "running" while nobody
-- holds its lock was killed: it counts as interrupted.
function M.status(dir)
  local path = dir .. "/status"
  if sys.exists(path) ~= "file" then return { state = "new", step = 0 } end
  local ok, status = pcall(json.decode, sys.read(path))
  if not ok or type(status) ~= "table" then
    return { state = "interrupted", step = 0, reason = "unreadable status file" }
  end
  if status.state == "running" then
    local lock = M.lock(dir)
    if lock then
      lock:close()
      status.state, status.reason = "interrupted", "killed"
    end
  end
  return status
end

-- What was measured of a trained model; nil where nothing was, or nothing whole.
function M.probe(dir)
  local readable, text = pcall(sys.read, dir .. "/probe.json")
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
  if sys.exists(path) ~= "file" then return list end
  for line in sys.read(path):gmatch("([^\n]*)\n") do
    local ok, record = pcall(json.decode, line)
    if not ok then error(("%s: line %d: %s"):format(path, #list + 1, record), 0) end
    list[#list + 1] = record
  end
  return list
end

function M.metrics(dir)
  return M.records(dir .. "/metrics.jsonl")
end

-- Records of times.jsonl. Times decide nothing, so lines that are none are passed over.
function M.times(dir)
  local list, path = {}, dir .. "/times.jsonl"
  local readable, text = pcall(sys.read, path)
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
  if spec.made.libraries ~= M.libraries() then list[#list + 1] = "libraries" end
  if threads and spec.made.threads ~= threads then list[#list + 1] = "threads" end
  return list
end

-- Removes the results of a run, keeping the lock file, whose handle may be open.
function M.clear(dir)
  for _, name in ipairs(sys.list(dir)) do
    if name ~= "lock" then sys.remove(dir .. "/" .. name) end
  end
end

-- Clears a run that is to start again; an error when a process works on it.
function M.restart(dir)
  sys.mkdir(dir)
  local lock <close> = M.lock(dir)
  if not lock then error(dir .. ": locked: another process is working on it", 0) end
  M.clear(dir)
end

-- ---- writing: one writer per run, in the worker that holds the lock ----------------------------

local Writer = {}
Writer.__index = Writer

-- Opens the folder for the run that `trainer` makes. When there is a checkpoint the trainer continues
-- from it and what was recorded after it is cut off. Returns the writer; w.resumed = step or nil.
function M.writer(dir, trainer)
  local w = setmetatable({ dir = dir, checkpoint_path = dir .. "/checkpoint.safetensors" }, Writer)
  local metrics = dir .. "/metrics.jsonl"
  local keep = 0
  if sys.exists(w.checkpoint_path) == "file" then
    local tensors, metadata = core.safetensors.open(w.checkpoint_path)
    keep = math.tointeger(tonumber(metadata["run.metrics_bytes"]))
    if not keep then
      error(w.checkpoint_path .. ": not a checkpoint of a run (run.metrics_bytes is missing)", 0)
    end
    local have = sys.exists(metrics) and sys.size(metrics) or 0
    if have < keep then
      error(("%s: %d bytes, but the checkpoint was written after %d: records are lost (--fresh starts the run again)")
        :format(metrics, have, keep), 0)
    end
    trainer:restore(tensors, metadata)
    w.resumed = trainer.step_count
  end
  if sys.exists(metrics) then sys.truncate(metrics, keep) end
  w.metrics, w.times = sys.append(metrics), sys.append(dir .. "/times.jsonl")
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
  metadata["run.metrics_bytes"] = tostring(sys.size(self.dir .. "/metrics.jsonl"))
  metadata["run.step"] = tostring(trainer.step_count)
  core.safetensors.save(self.checkpoint_path, trainer:state(), metadata)
end

function Writer:close()
  self.metrics:sync()
  self.metrics:close()
  self.times:close()
end

return M
