-- A session of the prompt on disk, kept as it goes: what was typed, how each chunk ended, and the weights of every
-- training, so that a session is brought back by running its chunks again with the trainings answered from here.
--   $XDG_STATE_HOME/attnlab/sessions/<id>/journal.jsonl   lines: { open = .. }, then { input = text }, { ended = how }, { shown = .. }
--                                        training-1.safetensors ..
-- A change here makes no run stale.
local core = require "attnlab.core"
local interrupts = require "attnlab.interrupts"
local names = require "attnlab.names"
local json, sys = core.json, core.sys

local M = {}
local Journal = {}
Journal.__index = Journal

local KEPT = 20           -- sessions that stay
local SAVE_SECONDS = 5    -- of a training between two of its records

-- The folder of what this user's programs remember, or nil.
function M.home()
  local state, home = os.getenv "XDG_STATE_HOME", os.getenv "HOME"
  local base = state and state:find "^/" and state or home and home ~= "" and home .. "/.local/state"
  return base and base .. "/attnlab"
end

local function sessions()
  local folder = M.home() and M.home() .. "/sessions"
  local out = {}
  for _, id in ipairs(folder and sys.exists(folder) == "dir" and sys.list(folder) or {}) do
    if id:find "^%d+%-%d+$" then out[#out + 1] = folder .. "/" .. id end
  end
  table.sort(out)
  return out
end

local function remove(folder)
  for _, file in ipairs(sys.list(folder)) do sys.remove(folder .. "/" .. file) end
  sys.remove(folder)
end

-- The lock of a folder, nil where another process has it.
local function lock(folder)
  local ok, held = pcall(sys.lock, folder .. "/lock")
  return ok and held or nil
end

local function tell(self, what, why)
  if self.told then return end
  self.told = true
  io.stderr:write(what, " not kept for --resume: ", names.reason(tostring(why)), "\n")
end

-- A full disk ends no session: what was kept so far stays.
local function write(self, entry)
  local ok, why = pcall(self.out.write, self.out, json.encode(entry) .. "\n")
  if not ok then tell(self, "the session is", why) end
end

local function made(folder, held)
  return setmetatable({ folder = folder, lock = held, out = sys.append(folder .. "/journal.jsonl"), trainings = 0,
                        inputs = 0 }, Journal)
end

-- A new session, begun with `what`: { model =, file =, step =, cwd = }.
function M.new(what)
  local home = M.home()
  if not home then error("neither XDG_STATE_HOME nor HOME names a folder", 0) end
  local folder = ("%s/sessions/%s-%d"):format(home, os.date "!%Y%m%d%H%M%S", sys.pid())
  sys.mkdir(folder)
  local self = made(folder, lock(folder))
  what.seed = core.seed_state()
  write(self, { open = what })
  local all = sessions()
  for i = 1, #all - KEPT do
    local held = lock(all[i])
    if held then
      held:close()
      pcall(remove, all[i])
    end
  end
  return self
end

-- The entries of a journal: what it was begun with, and { text =, how =, shown = } of each chunk. A last line that is not whole
-- is as if it had not been.
local function read(folder)
  local open, chunks = nil, {}
  for line in sys.read(folder .. "/journal.jsonl"):gmatch "([^\n]*)\n" do
    local ok, entry = pcall(json.decode, line)
    if not ok or type(entry) ~= "table" then break end
    if type(entry.open) == "table" then
      open = type(entry.open.seed) == "table" and type(entry.open.cwd) == "string" and entry.open or nil
    elseif type(entry.input) == "string" then
      chunks[#chunks + 1] = { text = entry.input }
    elseif type(entry.ended) == "string" and #chunks > 0 then
      chunks[#chunks].how = entry.ended
    elseif math.type(entry.shown) == "integer" and #chunks > 0 then
      chunks[#chunks].shown = entry.shown
    end
  end
  return open, chunks
end

-- The latest session that no other process has: the journal, what it was begun with, its chunks.
function M.resume()
  local all = sessions()
  for i = #all, 1, -1 do
    local held = sys.exists(all[i] .. "/journal.jsonl") == "file" and lock(all[i])
    local open, chunks
    if held then open, chunks = read(all[i]) end
    if open then
      core.seed_restore(open.seed)
      return made(all[i], held), open, chunks
    end
  end
  error("repl: there is no session to resume", 0)
end

function Journal:input(text)
  self.inputs = self.inputs + 1
  if not self.replaying then write(self, { input = text }) end
end

-- how: "done", "error" (it raised one), "stopped" (an interrupted training ended it), "raised" (an interrupt did).
function Journal:ended(how)
  if not self.replaying then write(self, { ended = how }) end
end

-- What the chunk changed was measured, on so many windows; 0: as many as are measured without a word.
function Journal:shown(windows)
  if not self.replaying then write(self, { shown = windows }) end
end

-- ---- trainings: asked by train.lua -------------------------------------------------------------------

local function path_of(self, n) return ("%s/training-%d.safetensors"):format(self.folder, n) end

local function save(self, n, result, status)
  local tensors, metadata = result.trainer:state(), result.trainer:metadata()
  metadata.session = json.encode { input = self.inputs, records = result.records, status = status,
                                   step = result.trainer.step_count, reason = result.reason }
  core.safetensors.save(path_of(self, n), tensors, metadata)
end

-- Whether the training is known already: then the result is what it was.
function Journal:restored(result)
  self.trainings = self.trainings + 1
  local path = path_of(self, self.trainings)
  if not self.replaying or sys.exists(path) ~= "file" then return false end
  local tensors, metadata = core.safetensors.open(path)
  local ok, known = pcall(json.decode, metadata.session or "")
  if not ok or known.input ~= self.inputs then return false end
  result.trainer:restore(tensors, metadata)
  result.records, result.status, result.step, result.reason = known.records, known.status, known.step, known.reason
  if known.status == "interrupted" then
    interrupts.note(result)
    sys.stop_soon()
  end
  return true
end

-- Whether the training that is under way wants to be kept now.
function Journal:due()
  local now = sys.clock()
  self.saved = self.saved or now
  return now - self.saved > SAVE_SECONDS
end

function Journal:keep(result, status)
  local ok, why = pcall(save, self, self.trainings, result, status)
  if not ok then tell(self, "the weights are", why) end
  self.saved = sys.clock()
end

-- Whether a training of the chunk at hand was begun: then it can be brought back up to there.
function Journal:knows(input)
  local n = self.trainings + 1
  local path = path_of(self, n)
  if sys.exists(path) ~= "file" then return false end
  local _, metadata = core.safetensors.open(path)
  local ok, known = pcall(json.decode, metadata.session or "")
  return ok and known.input == input
end

return M
