-- The prompt: ./lab repl [FILE.lua] [RUN|MODEL]. A chunk is read, run, and its value shown; what it changed in a fork
-- is measured and shown (surgery/show.lua). Errors, interrupts and signals end chunks and never the prompt.
--   run{ file=, step=, model=, resume= } -> exit status
-- On a terminal lines are edited (attnlab.edit) and the session is kept (journal.lua); from a pipe chunks are run in
-- silence but for their values, and the first error ends it with status 1.
-- A change here makes no run stale.
local core = require "attnlab.core"
local chunks = require "attnlab.prompt.chunk"
local commands = require "attnlab.prompt.commands"
local environment = require "attnlab.prompt.env"
local interrupts = require "attnlab.interrupts"
local journal = require "attnlab.prompt.journal"
local names = require "attnlab.names"
local parts = require "attnlab.surgery.parts"
local reader = require "attnlab.prompt.reader"
local show = require "attnlab.prompt.show"
local surgery = require "attnlab.surgery"
local tables = require "attnlab.table"
local train = require "attnlab.train"
local sys = core.sys

local Prompt = {}
Prompt.__index = Prompt

local CHUNK = "=prompt"

local function print_error(text)
  io.stdout:flush()
  io.stderr:write(tables.clean(text), "\n")
end

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
    if type(e) == "table" then e = e.usage or e.text or show.text(e) end
    local text, at = names.reason(tostring(e)), place()
    -- an error without a level has a place only where it was raised
    if at and not text:find "^[^\n]-:%d+: " then text = at .. ": " .. text end
    self.trace = debug.traceback(text, 2)
    return text
  end
end

-- ---- chunks -----------------------------------------------------------------------------------------

-- Prints what a chunk gave, and measures the forks that it changed.
function Prompt:answer(kind, values, text)
  local forks = surgery.changed()
  local shown = self.settings.show and #forks > 0 and not text:find "^%s*for%f[%W]" and not text:find "^%s*while%f[%W]"
    and not text:find "^%s*repeat%f[%W]"
  if kind ~= "statement" then self.env._ = values[1] end
  if kind == "value" and not self.replaying then
    for i = 1, values.n do
      local v = values[i]
      local said = shown and (v == forks[1] or type(v) == "table" and rawget(v, "session") == forks[1])
      if not said then print(show.text(v)) end
    end
  end
  if shown and not self.replaying then
    for _, fork in ipairs(forks) do print(tostring(fork:show { windows = self.settings.windows })) end
  end
end

-- Runs a whole chunk; true, or false where it failed. Ends are told to the journal.
function Prompt:run(text)
  local f, kind, message = chunks.compile(text, self.env, self.name or CHUNK)
  if not f then
    print_error(kind == "more" and "prompt: the chunk is not whole" or message)
    return false
  end
  self.last = text
  if self.journal then self.journal:input(text) end
  interrupts.made = nil
  local began = sys.clock()
  local out = table.pack(sys.chunk(function()
    local values = f(table.pack)
    self:answer(kind, values, text)
  end, handler(self)))
  local stopped = not out[1] and tostring(out[2]):find "interrupted$" ~= nil
  if interrupts.made then self.env._ = interrupts.made[1] end
  if self.journal then
    self.journal:ended(out[1] and "done" or not stopped and "error" or interrupts.made and "stopped" or "raised")
  end
  if self.settings.time and not self.replaying then print(("%.3f s"):format(sys.clock() - began)) end
  if not out[1] and not self.replaying then
    if stopped and interrupts.made then print(show.text(self.env._)) end
    print_error(stopped and "interrupted" .. (interrupts.made and "; what it had made is in _" or "") or out[2])
  end
  return out[1]
end

-- Runs the chunks of a piece one after the other, to the first that fails.
function Prompt:run_all(text)
  for _, chunk in ipairs(chunks.each(text)) do
    if not self:run(chunk) then return false end
  end
  return true
end

-- A line that is no Lua: ?name, :command, !shell. False where it is Lua.
function Prompt:special(line)
  local sign, rest = line:match "^%s*([?:!])(.*)$"
  if not sign then return false end
  local ok, why
  if sign == ":" then
    ok, why = pcall(commands.run, self, ":" .. rest)
  elseif sign == "?" then
    ok, why = pcall(function()
      local name = rest:match "^%s*(.-)%s*$":gsub("^lab[.:]", "")
      print((require("attnlab.help").text(name ~= "" and name or nil)))
    end)
  else
    io.stdout:flush()
    os.execute(rest)
    ok = true
  end
  if not ok then print_error(names.reason(tostring(why))) end
  return true, ok
end

-- ---- sessions ---------------------------------------------------------------------------------------

local function say_model(opened, what)
  local c = opened.model.config
  local name = what:match "([^/]+)/*$" or what
  print(("m is %s (%d layer%s, %s parameters), s its fork, ev its evaluation set"):format(tables.clean(name, true), c.layers,
    c.layers == 1 and "" or "s", tables.human(opened.model:n_parameters())))
end

local function open_model(self, what)
  local lab = require "attnlab"
  local opened = lab.open(what)
  rawset(self.env, "m", opened.model)
  rawset(self.env, "s", opened.model:fork())
  local ok, own = pcall(parts.of, opened.model)
  if ok then
    rawset(self.env, "ev", own.show)
  else
    print_error("ev: " .. names.reason(tostring(own)))
  end
  surgery.changed()
  return opened
end

local function run_file(self, path)
  local text = sys.read(path):gsub("^#[^\n]*", "")
  self.name = "@" .. path
  local ok = self:run(text)
  self.name = nil
  return ok
end

-- What ended chunks the way this one did is done again; others are passed over and said.
local function replay(self, list)
  self.replaying, self.journal.replaying = true, true
  local shown = self.settings.show
  self.settings.show = false
  local loud = print
  rawset(self.env, "print", function() end)
  local skipped = {}
  for i, c in ipairs(list) do
    if sys.isatty(2) then io.stderr:write(("\rbringing back line %d of %d "):format(i, #list)) end
    if c.how == "raised" or c.how == nil and not self.journal:knows(i) then
      skipped[#skipped + 1] = c.text
      self.journal.inputs = self.journal.inputs + 1
    else
      self:run(c.text)
    end
    self.reader:remember(c.text)
    if select(2, sys.interrupted()) then break end -- the loop ends, too
  end
  if sys.isatty(2) then io.stderr:write "\r\27[K" end
  rawset(self.env, "print", nil)
  self.settings.show, self.replaying, self.journal.replaying = shown, false, false
  loud(("%d line%s brought back"):format(#list - #skipped, #list - #skipped == 1 and "" or "s"))
  for _, text in ipairs(skipped) do
    loud("not run again, as it was cut short: " .. tables.clean(text:gsub("\n", " "), true))
  end
end

local function begin(self, opts)
  local what = opts
  local list
  if opts.resume then
    self.journal, what, list = journal.resume()
    if what.cwd ~= sys.realpath "." then
      print_error(("the session was begun in %s: paths in it are meant from there"):format(names.shown(what.cwd)))
    end
  elseif self.interactive then
    local ok, made = pcall(journal.new, { model = opts.model, file = opts.file, step = opts.step, cwd = sys.realpath ".",
                                          version = core.version })
    if ok then
      self.journal = made
    else
      print_error("the session is not kept: " .. names.reason(tostring(made)))
    end
  end
  train.keeper = self.journal
  if what.model then
    local opened = open_model(self, what.model)
    if self.interactive then say_model(opened, what.model) end
  end
  if what.file and what.step then
    self.steps = chunks.pieces(sys.read(what.file))
    self.step_file = what.file
  elseif what.file and not opts.resume then
    if not run_file(self, what.file) and not self.interactive then return false end
  end
  if list then replay(self, list) end
  return true
end

-- ---- the loop ---------------------------------------------------------------------------------------

-- The next chunk of the file that is gone through, shown before it is run.
local function next_step(self)
  self.step = table.remove(self.steps, 1)
  if self.step then
    print("\n" .. tables.clean(self.step))
  else
    self.steps = nil
    print(("the end of %s; what it made is here"):format(names.shown(self.step_file)))
  end
end

-- Reads a chunk: its text; "" for an empty line, nil at the end, false after an interrupt.
local function read_chunk(self)
  local text
  while true do
    local line = self.reader:line(text and ">> " or self.step and "Enter> " or "> ")
    if line == nil and text then return text end -- the end: what there is is judged as it is
    if not line then return line end
    if not text and (line:find "^%s*[?:!]" or line:find "^%s*$") then return line end
    text = text and text .. "\n" .. line or line
    local _, why = chunks.compile(text, self.env, CHUNK)
    if why ~= "more" then return text end
  end
end

-- Exit status of a prompt that a signal told to end, as shells give it; nil: none did.
local function ended_by()
  local _, ending = sys.interrupted()
  return ending and (ending == "hangup" and 129 or 143)
end

local function loop(self)
  while not self.leaving do
    if self.steps and not self.step then next_step(self) end
    if self.steps and not self.interactive then
      if not self:run_all(self.step) then return 1 end
      self.step = nil
    else
      local text = read_chunk(self)
      if text == nil then break end
      local ok = true
      if text and text:find "^%s*$" then
        if self.step then
          local step = self.step
          self.step = nil
          self:run_all(step)
        end
      elseif text then
        local special
        special, ok = self:special(text)
        self.reader:remember(text)
        if not special then ok = self:run(text) end
      end
      if not ok and not self.interactive then return 1 end
    end
    if ended_by() then break end
  end
  return ended_by() or 0
end

local M = {}

function M.run(opts)
  local interactive = sys.isatty(0)
  local self = setmetatable({ env = environment.new(), interactive = interactive,
                              settings = { show = true, time = false } }, Prompt)
  self.env.lab = require "attnlab"
  local here = "@" .. assert(package.searchpath("attnlab.prompt.init", package.path)):match "^(.*)/init%.lua$"
  sys.begin_prompt(here:match "^(.*)/prompt$", here)
  interrupts.at_prompt = true
  self.reader = reader.new(self.env, interactive)
  if interactive then
    print(("attnlab %s: Tab completes, ?NAME explains, :help tells more, Ctrl-D leaves"):format(core.version))
  end
  if not begin(self, opts) then return 1 end
  local status = loop(self)
  self.reader:close()
  if interactive and self.journal and status == 0 then print "./lab repl --resume brings this session back" end
  return status
end

return M
