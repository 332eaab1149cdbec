-- A session of the prompt on disk, kept as it goes: what was typed, how each chunk ended, and the weights of every
-- training, so that a session is brought back by running its chunks again with the trainings answered from here.
--   $XDG_STATE_HOME/attnlab/sessions/<id>/journal.jsonl   lines: { open = .. }, then { input = text }, { ended = how },
--                                        training-1.safetensors ..                       { shown = .. }, { stepped = n }
-- A session begins with its first chunk: a prompt in which nothing was done leaves nothing.
-- A change here makes no run stale.
local core = require "attnlab.core"
local interrupts = require "attnlab.interrupts"
local names = require "attnlab.names"
local json, sys = core.json, core.sys

local M = {}
local Journal = {}
Journal.__index = Journal

local KEPT = 20        -- sessions that stay
local SAVE_SECONDS = 5 -- of a training between two of its records

-- The folder of what this user's programs remember, or nil.
function M.home()
  local state, home = os.getenv "XDG_STATE_HOME", os.getenv "HOME"
  local base = state and state:find "^/" and state or home and home ~= "" and home .. "/.local/state"
  return base and base .. "/attnlab"
end

local function folder_of(id) return M.home() .. "/sessions/" .. id end

local function ids()
  local folder, out = M.home() and M.home() .. "/sessions", {}
  for _, id in ipairs(folder and sys.exists(folder) == "dir" and sys.list(folder) or {}) do
    if id:find "^%d+%-%d+$" then out[#out + 1] = id end
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
  if not self.out then return end
  local ok, why = pcall(self.out.write, self.out, json.encode(entry) .. "\n")
  if not ok then
    self.out = nil
    tell(self, "the session is", why)
  end
end

-- Text as JSON can have it: bytes that are no UTF-8 in hexadecimal.
local function to_json(text)
  if utf8.len(text) then return text end
  return { hex = text:gsub(".", function(c) return ("%02x"):format(c:byte()) end) }
end

local function from_json(v)
  if type(v) == "string" then return v end
  local hex = type(v) == "table" and v.hex
  return type(hex) == "string" and hex:gsub("%x%x", function(c) return string.char(tonumber(c, 16)) end) or nil
end

local function made(what)
  return setmetatable({ what = what, trainings = 0, inputs = 0 }, Journal)
end

-- A new session, to begin with `what`: { model =, file =, step =, cwd =, weights = (of the model's file) }.
function M.new(what)
  if not M.home() then error("neither XDG_STATE_HOME nor HOME names a folder", 0) end
  what.seed, what.random = core.seed_state(), { math.random(0), math.random(0) }
  math.randomseed(what.random[1], what.random[2])
  return made(what)
end

-- The folder of a session that has something to keep.
local function begin(self)
  local folder = folder_of(("%s-%d"):format(os.date "!%Y%m%d%H%M%S", sys.pid()))
  sys.mkdir(folder)
  self.folder, self.lock = folder, lock(folder)
  self.out = sys.append(folder .. "/journal.jsonl")
  write(self, { open = self.what })
  local all = ids()
  for i = 1, #all - KEPT do
    local held = lock(folder_of(all[i]))
    if held then
      held:close()
      pcall(remove, folder_of(all[i]))
    end
  end
end

-- What a journal was begun with, { text =, how =, shown =, seed = } of each chunk, how many steps of a file were gone
-- through, and the number of a line that is damaged, behind which nothing counts. A last line that is not whole is as
-- if it had not been.
local function read(folder)
  local open, chunks, steps, n = nil, {}, 0, 0
  for line in sys.read(folder .. "/journal.jsonl"):gmatch "([^\n]*)\n" do
    n = n + 1
    local ok, entry = pcall(json.decode, line)
    if not ok or type(entry) ~= "table" then return open, chunks, steps, n end
    local last = chunks[#chunks]
    if type(entry.open) == "table" then
      local o = entry.open
      open = type(o.seed) == "table" and type(o.random) == "table" and type(o.cwd) == "string" and o or nil
    elseif from_json(entry.input) then
      chunks[#chunks + 1] = { text = from_json(entry.input) }
    elseif type(entry.ended) == "string" and last then
      last.how, last.seed = entry.ended, type(entry.seed) == "table" and entry.seed or nil
    elseif math.type(entry.shown) == "integer" and last then
      last.shown, last.seed = entry.shown, type(entry.seed) == "table" and entry.seed or last.seed
    elseif math.type(entry.stepped) == "integer" then
      steps = entry.stepped
    end
  end
  return open, chunks, steps
end

-- The sessions there are, the latest last: { id =, open =, chunks =, steps =, damaged =, used = by another process }.
function M.list()
  local out = {}
  for _, id in ipairs(ids()) do
    local folder = folder_of(id)
    local s = { id = id }
    if sys.exists(folder .. "/journal.jsonl") == "file" then s.open, s.chunks, s.steps, s.damaged = read(folder) end
    local held = s.open and lock(folder)
    s.used = not held
    if held then held:close() end
    if s.open and #s.chunks > 0 then out[#out + 1] = s end
  end
  return out
end

-- "2026-11-27 03:20  stories260K, 12 lines"
function M.line_of(s)
  local y, mo, d, h, mi = s.id:match "^(%d%d%d%d)(%d%d)(%d%d)(%d%d)(%d%d)"
  local what = s.open.model or s.open.file or "no model"
  return ("%s  %s-%s-%s %s:%s UTC  %s, %d line%s%s"):format(s.id, y, mo, d, h, mi, names.shown(tostring(what)), #s.chunks,
    #s.chunks == 1 and "" or "s", s.used and ", in use" or "")
end

-- The session of that id, or the latest that no other process has: the journal, and what M.list says of it.
function M.resume(id)
  local all, found = M.list(), nil
  for _, s in ipairs(all) do
    if id and s.id == id or not id and not s.used then found = s end
  end
  if not found and id then
    local known = {}
    for i, s in ipairs(all) do known[i] = s.id end
    error("repl: " .. names.unknown("session", id, known), 0)
  elseif not found then
    error(#all > 0 and "repl: every session is in use by another prompt" or "repl: there is no session to resume", 0)
  elseif found.used then
    error(("repl: session %s is in use by another prompt"):format(id), 0)
  end
  local folder = folder_of(found.id)
  local self = made(found.open)
  self.folder, self.lock = folder, lock(folder)
  if found.damaged then -- what is typed from now on stands behind what can be read
    sys.rename(folder .. "/journal.jsonl", folder .. "/journal.damaged")
    self.out = sys.append(folder .. "/journal.jsonl")
    write(self, { open = found.open })
    for _, c in ipairs(found.chunks) do
      write(self, { input = to_json(c.text) })
      if c.how then write(self, { ended = c.how, seed = c.seed }) end
      if c.shown then write(self, { shown = c.shown, seed = c.seed }) end
    end
    if found.steps > 0 then write(self, { stepped = found.steps }) end
  else
    self.out = sys.append(folder .. "/journal.jsonl")
  end
  core.seed_restore(found.open.seed)
  math.randomseed(found.open.random[1], found.open.random[2])
  return self, found
end

function Journal:input(text)
  self.inputs = self.inputs + 1
  if self.replaying then return end
  if not self.folder and not self.told then
    local ok, why = pcall(begin, self)
    if not ok then tell(self, "the session is", why) end
  end
  write(self, { input = to_json(text) })
end

-- how: "done", "error" (it raised one), "stopped" (an interrupted training ended it), "raised" (an interrupt did).
function Journal:ended(how)
  if not self.replaying then write(self, { ended = how, seed = core.seed_state() }) end
end

-- What the chunk changed was measured, on so many windows; 0: as many as are measured without a word.
function Journal:shown(windows)
  if not self.replaying then write(self, { shown = windows, seed = core.seed_state() }) end
end

-- So many pieces of the file that is gone through are done.
function Journal:stepped(n) write(self, { stepped = n }) end

-- Random numbers go on as they did behind a chunk: what is answered from here draws none.
function Journal.drawn(chunk)
  if chunk.seed then core.seed_restore(chunk.seed) end
end

-- ---- trainings: asked by train.lua -------------------------------------------------------------------

local function path_of(self, n) return ("%s/training-%d.safetensors"):format(self.folder, n) end

local function save(self, n, result, status)
  local tensors, metadata = result.trainer:state(), result.trainer:metadata()
  metadata.session = json.encode { input = self.inputs, records = result.records, status = status,
                                   step = result.trainer.step_count, reason = result.reason }
  local vocabulary = result.trainer.model.vocabulary
  if vocabulary then vocabulary:save_beside(path_of(self, n)) end
  core.safetensors.save(path_of(self, n), tensors, metadata)
end

local function known_training(path)
  local tensors, metadata = core.safetensors.open(path)
  local known = json.decode(metadata.session or "")
  return tensors, metadata, known
end

-- Whether the training is known already: then the result is what it was.
function Journal:restored(result)
  self.trainings = self.trainings + 1
  local path = self.folder and path_of(self, self.trainings)
  if not self.replaying or sys.exists(path) ~= "file" then return false end
  local ok, why = pcall(function()
    local tensors, metadata, known = known_training(path)
    if known.input ~= self.inputs then error("it is of another chunk", 0) end
    result.trainer:restore(tensors, metadata)
    result.records, result.status, result.step, result.reason = known.records, known.status, known.step, known.reason
  end)
  if not ok then
    io.stderr:write(("\n%s: %s; this training runs again\n"):format(names.shown(path), names.reason(tostring(why))))
    return false
  end
  if result.status == "interrupted" then
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
  if not self.folder then return end
  local ok, why = pcall(save, self, self.trainings, result, status)
  if not ok then tell(self, "the weights are", why) end
  self.saved = sys.clock()
end

-- Whether a training of the chunk at hand was begun: then it can be brought back up to there.
function Journal:knows(input)
  local path = path_of(self, self.trainings + 1)
  if sys.exists(path) ~= "file" then return false end
  local ok, _, _, known = pcall(known_training, path)
  return ok and known.input == input
end

return M
