-- Running what was read at the prompt: Prompt:run(text) runs a whole chunk and shows what it gave, Prompt:special(line) what is
-- no Lua. Errors and interrupts end a chunk with one line, and never the prompt.
-- A prompt has env, settings, reader, and journal where the session is kept; trace, last and why (it failed) are of the last
-- chunk; cut says that a signal came in some chunk, answered is the number of those that were before the next.
-- A change here makes no run stale.
local core = require "attnlab.core"
local chunks = require "attnlab.prompt.chunk"
local commands = require "attnlab.prompt.commands"
local interrupts = require "attnlab.interrupts"
local names = require "attnlab.names"
local show = require "attnlab.prompt.show"
local surgery = require "attnlab.surgery"
local tables = require "attnlab.table"
local sys = core.sys

local Prompt = {}
Prompt.__index = Prompt

Prompt.CHUNK = "=prompt" -- what errors call what was typed

function Prompt.print_error(text)
  io.stdout:flush()
  io.stderr:write(tables.clean(text), "\n")
end

-- Exit status of a prompt that a signal told to end, as shells give it; nil: none did.
function Prompt.ended_by()
  local _, ending = sys.interrupted()
  return ending and (ending == "hangup" and 129 or 143)
end

-- Exit status of a prompt that reads from a pipe, behind a chunk that did not end well.
function Prompt:failed() return self.cut and 130 or 1 end

-- ---- errors -----------------------------------------------------------------------------------------

-- The line of the user's own that an error came from: the nearest call that is in a chunk or in a file of theirs.
local function place()
  for level = 3, 200 do
    local info = debug.getinfo(level, "Sl")
    if not info then return nil end
    if info.currentline > 0 and not info.source:find "/lua/attnlab/" then
      return ("%s:%d"):format(info.short_src, info.currentline)
    end
  end
end

-- One line about an error, and the whole trace for :where.
local function handler(self)
  return function(e)
    if type(e) == "table" then e = rawget(e, "usage") or rawget(e, "text") or show.text(e) end
    local text, at = names.reason(tostring(e)), place()
    -- an error without a level has a place only where it was raised
    if at and not text:find "^[^\n]-:%d+: " then text = at .. ": " .. text end
    self.trace = debug.traceback(text, 2)
    return text
  end
end

-- Lines of what comes from a pipe count from its beginning; first: the line of the chunk's first.
local function placed(self, text)
  return (text:gsub("^prompt:(%d+):", function(n) return ("prompt:%d:"):format(n + (self.first or 1) - 1) end))
end

-- ---- chunks -----------------------------------------------------------------------------------------

local LOOPS = { "for", "while", "repeat" }

-- The forks that a chunk changed, to be shown: none where it was a loop, or nobody wants to see them.
local function changed_by(self, text)
  local forks = surgery.changed()
  local loop = names.find(LOOPS, text:match "^%s*(%a+)")
  return self.settings.show and not loop and forks or {}
end

local function measured(self, fork)
  local ok, shown = pcall(fork.show, fork, { windows = self.settings.windows })
  if ok then return shown end
  local why = names.reason(tostring(shown))
  error(why:find "interrupted$" and why or why .. "; the change is made, s:undo() takes it back", 0)
end

-- Prints the values of a chunk, and what it made of forks; their own value is what they show.
local function answer(self, values, forks)
  local n = values.n
  while n > 1 and values[n] == nil do n = n - 1 end -- results that a call left out
  for i = 1, n do
    local v = values[i]
    local fork = type(v) == "table" and rawget(v, "session") or v
    if not (forks[1] and rawequal(fork, forks[1])) then print(show.text(v)) end
  end
  for _, fork in ipairs(forks) do print(tostring(measured(self, fork))) end
end

-- f() as a chunk of its own: true and its results, or false where it failed; that is printed then, in one line.
local function guarded(self, f)
  local out = table.pack(sys.chunk(f, handler(self), self.answered or sys.interrupted()))
  self.answered = nil
  self.cut = self.cut or sys.interrupted() > 0
  local stopped = not out[1] and tostring(out[2]):find "interrupted$" ~= nil
  self.why = not out[1] and out[2] or nil
  if self.replaying then return out[1], out[2], stopped end
  if interrupts.made then
    Prompt.print_error "interrupted; what it had made is in _"
  elseif not out[1] then
    Prompt.print_error(stopped and "interrupted" or placed(self, out[2]))
  end
  return out[1], out[2], stopped
end

-- For the journal. Of work that was cut short trainings alone can be brought back to where they were.
local function how_ended(ok, stopped, made)
  local training = made and type(made[1]) == "table" and made[1].trainer
  if made and not training or stopped and not made then return "raised" end
  return made and "stopped" or ok and "done" or "error"
end

-- Runs a whole chunk, and shows what it gave; true, or false where it failed. Ends are told to the journal.
function Prompt:run(text)
  local f, kind, message = chunks.compile(text, self.env, self.name or Prompt.CHUNK)
  if not f then
    Prompt.print_error(kind == "more" and "prompt: the chunk is not whole" or placed(self, message))
    return false
  end
  self.last = text
  if self.journal then self.journal:input(text) end
  interrupts.made = nil
  local began = sys.clock()
  local ok, values, stopped = guarded(self, f)
  local made = interrupts.made
  interrupts.made = nil
  if self.journal then self.journal:ended(how_ended(ok, stopped, made)) end
  local gave = ok and (kind ~= "statement" or values.n > 0) -- a statement gives what it returns
  if gave then self.env._ = values[1] else values = { n = 0 } end
  if made then
    self.env._ = made[1]
    if not ok then values = { made[1], n = 1 } end
    if not self.interactive and not self.replaying then -- nobody is there to go on with what it has made
      self.cut, ok = true, false
    end
  end
  local forks = changed_by(self, text)
  if not self.replaying and not Prompt.ended_by() and (kind ~= "silent" or #forks > 0) then
    if kind == "silent" then values = { n = 0 } end
    local shown = guarded(self, function() answer(self, values, forks) end)
    ok = ok and shown
    if shown and #forks > 0 and self.journal then self.journal:shown(self.settings.windows or 0) end
  elseif self.replaying then -- what was seen then counts as a look, and as measured
    guarded(self, function()
      for _, fork in ipairs(forks) do measured(self, fork) end
    end)
  end
  if self.settings.time and not self.replaying then print(("%.3f s"):format(sys.clock() - began)) end
  return ok
end

-- Runs the chunks of a piece one after the other, to the first that fails.
function Prompt:run_all(text)
  for _, chunk in ipairs(chunks.each(text)) do
    if not self:run(chunk) then return false end
  end
  return true
end

local SPECIAL = {
  [":"] = function(self, rest) return commands.run(self, ":" .. rest) end,
  ["?"] = function(_, rest)
    local name = rest:match "^%s*(.-)%s*$":gsub("^lab[.:]", "")
    print((require("attnlab.help").text(name ~= "" and name or nil)))
  end,
  ["!"] = function(_, rest)
    io.stdout:flush()
    os.execute(rest)
  end,
}

-- A line that is no Lua: ?name, :command, !shell; true and whether it went well. False where it is Lua.
function Prompt:special(line)
  local sign, rest = line:match "^%s*([?:!])(.*)$"
  if sign == ":" and rest:find "^:" then sign = nil end -- a label
  if not sign then return false end
  local ok, went = pcall(SPECIAL[sign], self, rest)
  if not ok then Prompt.print_error(names.reason(tostring(went))) end
  return true, ok and went ~= false
end

return Prompt
