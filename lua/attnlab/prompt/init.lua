-- The prompt: ./lab repl [FILE.lua] [RUN|MODEL]. A chunk is read, run, and its value shown; what it changed in a fork
-- is measured and shown (run.lua).
--   run{ file=, step=, model=, resume= } -> exit status
-- On a terminal lines are edited (attnlab.edit) and the session is kept (journal.lua); from a pipe chunks are run in
-- silence but for their values, and the first error ends it with status 1.
-- A change here makes no run stale.
local core = require "attnlab.core"
local chunks = require "attnlab.prompt.chunk"
local environment = require "attnlab.prompt.env"
local interrupts = require "attnlab.interrupts"
local journal = require "attnlab.prompt.journal"
local names = require "attnlab.names"
local Prompt = require "attnlab.prompt.run"
local parts = require "attnlab.surgery.parts"
local reader = require "attnlab.prompt.reader"
local surgery = require "attnlab.surgery"
local tables = require "attnlab.table"
local train = require "attnlab.train"
local sys = core.sys

-- ---- sessions ---------------------------------------------------------------------------------------

local function say_model(opened, what)
  local c = opened.model.config
  local name = what:match "([^/]+)/*$" or what
  print(("m is %s (%d layer%s, %s parameters)%s"):format(tables.clean(name, true), c.layers, c.layers == 1 and "" or "s",
    tables.human(opened.model:n_parameters()), opened.model.causal and ", s its fork, ev its evaluation set"
    or ("; there is no fork s: a %s is not operated on"):format(opened.model.class_name)))
end

local function open_model(self, what)
  local lab = require "attnlab"
  local opened = lab.open(what)
  rawset(self.env, "m", opened.model)
  if not opened.model.causal then return opened end
  rawset(self.env, "s", opened.model:fork())
  local ok, own = pcall(parts.of, opened.model)
  if ok then
    rawset(self.env, "ev", own.show)
  else
    Prompt.print_error("ev: " .. names.reason(tostring(own)))
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

local function silent() end

-- Runs the chunks of a session again; what was cut short is passed over. Returns the lines about it, nil where the
-- replay itself was interrupted.
local function replay(self, session)
  self.replaying, self.journal.replaying = true, true
  local own, loud, list = self.settings, print, session.chunks
  _G.print, self.cut = silent, false
  local said, back = {}, 0
  for i, c in ipairs(list) do
    if sys.isatty(2) then io.stderr:write(("\rbringing back line %d of %d "):format(i, #list)) end
    self.cut = self.cut or sys.interrupted() > 0
    if self.cut then break end
    if c.how == "raised" or c.how == nil and not self.journal:knows(i) then
      said[#said + 1] = "not run again, as it was cut short: " .. tables.clean(c.text:gsub("\n", " "), true)
      self.journal.inputs = self.journal.inputs + 1
    else
      self.answered = 0
      self.settings = { show = c.shown ~= nil, windows = c.shown ~= 0 and c.shown or nil }
      local ok = self:run(c.text)
      if self.cut then break end
      if not ok and c.how == "done" then
        said[#said + 1] = ("this line failed now, and did not then: %s\n  %s"):format(tables.clean(c.text:gsub("\n", " "), true),
          tostring(self.why))
      else
        back = back + 1
      end
      self.journal.drawn(c)
    end
  end
  if sys.isatty(2) then io.stderr:write "\r\27[K" end
  _G.print = loud
  self.settings, self.replaying, self.journal.replaying = own, false, false
  table.insert(said, 1, ("%d line%s brought back"):format(back, back == 1 and "" or "s"))
  return not self.cut and said or nil
end

-- Hash of the file that a model is in, where it is one.
local function weights_of(model)
  local path = model and (require("attnlab.open").model_file(model) or model)
  return path and sys.exists(path) == "file" and sys.sha256_file(path) or nil
end

local function say_session(self, session)
  print(("resuming %s"):format(journal.line_of(session)))
  local open = session.open
  if open.cwd ~= sys.realpath "." then
    Prompt.print_error(("it was begun in %s: paths in it are meant from there"):format(names.shown(open.cwd)))
  end
  if open.weights and weights_of(open.model) ~= open.weights then
    Prompt.print_error(("%s is another file now than it was then: numbers will be others"):format(names.shown(open.model)))
  end
  if session.damaged then
    Prompt.print_error(("line %d of its journal is damaged: what was behind it is in journal.damaged, and not brought back")
      :format(session.damaged))
  end
end

local function begin(self, opts)
  local what, session = opts, nil
  if opts.resume or opts.session then
    self.journal, session = journal.resume(opts.session)
    what = session.open
    say_session(self, session)
  elseif self.interactive then
    local ok, made = pcall(journal.new, { model = opts.model, file = opts.file, step = opts.step, cwd = sys.realpath ".",
                                          weights = weights_of(opts.model) })
    if ok then
      self.journal = made
    else
      Prompt.print_error("the session is not kept: " .. names.reason(tostring(made)))
    end
  end
  train.keeper = self.journal
  if what.model then
    local opened = open_model(self, what.model)
    if self.interactive then say_model(opened, what.model) end
  end
  if what.file and what.step then
    local pieces = chunks.pieces(sys.read(what.file))
    self.stepped = session and session.steps or 0
    self.steps, self.step_file = table.move(pieces, self.stepped + 1, #pieces, 1, {}), what.file
  elseif what.file and not session then
    if not run_file(self, what.file) and not self.interactive then return false end
  end
  if not session then return true end
  local said = replay(self, session)
  if not said then
    Prompt.print_error "interrupted: the session is as it was; the same command resumes it"
    return false
  end
  print(table.concat(said, "\n"))
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
  local add, rest, begun = chunks.gather(self.env)
  while true do
    local line = self.reader:line(begun() and ">> " or self.step and "Enter> " or "> ")
    if line == nil then return rest() end -- the end: what there is is judged as it is
    if not line then return line end
    if not begun() then self.first = not self.interactive and self.reader.lines or nil end
    if not begun() and (line:find "^%s*[?!]" or line:find "^%s*:[^:]" or line:find "^%s*$") then return line end
    local text = add(line)
    if text then return text end
  end
end

local function loop(self)
  while not self.leaving and not Prompt.ended_by() do
    if self.steps and not self.step then next_step(self) end
    if self.steps and not self.interactive then
      if not self:run_all(self.step) then return self:failed() end
      self.step = nil
    else
      local text = read_chunk(self)
      self.answered = sys.interrupted()
      if text == nil then break end
      local ok = true
      if text and text:find "^%s*$" then
        if self.step and self:run_all(self.step) then
          self.step, self.stepped = nil, self.stepped + 1
          if self.journal then self.journal:stepped(self.stepped) end
        end
      elseif text then
        local special
        special, ok = self:special(text)
        self.reader:remember(text)
        if not special then ok = self:run(text) end
      end
      if not ok and not self.interactive then return self:failed() end
      if not ok then self.reader:clear() end -- of a paste, what follows was meant to stand on it
    end
  end
  return Prompt.ended_by() or 0
end

local M = {}

function M.run(opts)
  local interactive = sys.isatty(0)
  local self = setmetatable({ env = environment.new(), interactive = interactive,
                              settings = { show = true, time = false } }, Prompt)
  self.env.lab = require "attnlab"
  local here = "@" .. assert(package.searchpath("attnlab.prompt.init", package.path)):match "^(.*)/init%.lua$"
  if interactive or opts.resume or opts.session then -- else a signal ends it, as any program that reads from a pipe
    sys.begin_prompt(here:match "^(.*)/prompt$", here)
    interrupts.at_prompt = true
  end
  self.reader = reader.new(self.env, interactive)
  if interactive then
    print(("attnlab %s: Tab completes, ?NAME explains, :help tells more, Ctrl-D leaves"):format(core.version))
  end
  if not begin(self, opts) then return Prompt.ended_by() or self:failed() end
  local status = loop(self)
  self.reader:close()
  if interactive and self.journal and self.journal.folder and status == 0 then print "./lab repl --resume brings this session back" end
  return status
end

return M
