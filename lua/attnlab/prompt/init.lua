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

-- What ended chunks the way this one did is done again; others are passed over and said.
local function replay(self, list)
  self.replaying, self.journal.replaying = true, true
  local own = self.settings
  local loud = print
  local function silent() end
  rawset(self.env, "print", silent)
  local skipped = {}
  for i, c in ipairs(list) do
    if sys.isatty(2) then io.stderr:write(("\rbringing back line %d of %d "):format(i, #list)) end
    if c.how == "raised" or c.how == nil and not self.journal:knows(i) then
      skipped[#skipped + 1] = c.text
      self.journal.inputs = self.journal.inputs + 1
    else
      self.settings = { show = c.shown ~= nil, windows = c.shown ~= 0 and c.shown or nil }
      self:run(c.text)
    end
    if select(2, sys.interrupted()) then break end -- the loop ends, too
  end
  if sys.isatty(2) then io.stderr:write "\r\27[K" end
  if rawget(self.env, "print") == silent then rawset(self.env, "print", nil) end -- else the session has its own
  self.settings, self.replaying, self.journal.replaying = own, false, false
  loud(("%d line%s brought back"):format(#list - #skipped, #list - #skipped == 1 and "" or "s"))
  for _, text in ipairs(skipped) do
    loud("not run again, as it was cut short: " .. tables.clean(text:gsub("\n", " "), true))
  end
end

-- The pieces behind those that were run to their ends.
local function left_of(pieces, list)
  local behind = 0
  for _, c in ipairs(list) do
    for i = behind + 1, c.how == "done" and #pieces or 0 do
      local all = chunks.each(pieces[i])
      if all[#all] == c.text then
        behind = i
        break
      end
    end
  end
  return table.move(pieces, behind + 1, #pieces, 1, {})
end

local function begin(self, opts)
  local what = opts
  local list
  if opts.resume then
    self.journal, what, list = journal.resume()
    if what.cwd ~= sys.realpath "." then
      Prompt.print_error(("the session was begun in %s: paths in it are meant from there"):format(names.shown(what.cwd)))
    end
  elseif self.interactive then
    local ok, made = pcall(journal.new, { model = opts.model, file = opts.file, step = opts.step, cwd = sys.realpath "." })
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
    self.steps = left_of(chunks.pieces(sys.read(what.file)), list or {})
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
  while not self.leaving do
    if self.steps and not self.step then next_step(self) end
    if self.steps and not self.interactive then
      if not self:run_all(self.step) then return self:failed() end
      self.step = nil
    else
      local text = read_chunk(self)
      if text == nil then break end
      local ok = true
      if text and text:find "^%s*$" then
        if self.step and self:run_all(self.step) then self.step = nil end
      elseif text then
        local special
        special, ok = self:special(text)
        self.reader:remember(text)
        if not special then ok = self:run(text) end
      end
      if not ok and not self.interactive then return self:failed() end
      if not ok then self.reader:clear() end -- of a paste, what follows was meant to stand on it
    end
    if Prompt.ended_by() then break end
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
  if interactive then -- from a pipe a signal ends it, as any program
    sys.begin_prompt(here:match "^(.*)/prompt$", here)
    interrupts.at_prompt = true
  end
  self.reader = reader.new(self.env, interactive)
  if interactive then
    print(("attnlab %s: Tab completes, ?NAME explains, :help tells more, Ctrl-D leaves"):format(core.version))
  end
  if not begin(self, opts) then return self:failed() end
  local status = loop(self)
  self.reader:close()
  if interactive and self.journal and status == 0 then print "./lab repl --resume brings this session back" end
  return status
end

return M
