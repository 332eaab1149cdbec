-- Lines for the prompt: edited on a terminal, with a history of the user's own; plain on a dumb terminal; without any
-- prompt from a pipe.
--   reader.new(env, interactive):line(prompt) -> a line; nil: the end; false: an interrupt cleared it
-- A change here makes no run stale.
local core = require "attnlab.core"
local complete = require "attnlab.prompt.complete"
local edit = require "attnlab.edit"
local journal = require "attnlab.prompt.journal"
local sys = core.sys

local Reader = {}
Reader.__index = Reader

local M = {}

local MOST = 2000 -- lines of history that are read back

local function history_path()
  return journal.home() and journal.home() .. "/history"
end

local function read_history(editor)
  local path = history_path()
  if not path or sys.exists(path) ~= "file" then return end
  local lines = {}
  for line in sys.read(path):gmatch "[^\n]+" do lines[#lines + 1] = line end
  for i = math.max(1, #lines - MOST + 1), #lines do editor:remember(lines[i]) end
  if #lines > 2 * MOST then sys.write(path, table.concat(lines, "\n", #lines - MOST + 1) .. "\n") end
end

function M.new(env, interactive)
  local term = os.getenv "TERM" or ""
  local self = setmetatable({ interactive = interactive, queue = {}, lines = 0 }, Reader)
  if interactive and term ~= "" and term ~= "dumb" and sys.isatty(1) then
    self.edit = edit.open(complete(env))
    pcall(read_history, self.edit)
  end
  return self
end

-- What was typed or pasted, line by line; what follows the last line end of a paste waits to be edited.
local function split(self, text)
  local lines = {}
  for line in (text .. "\n"):gmatch "([^\n]*)\n" do lines[#lines + 1] = line end
  if #lines > 1 then
    self.rest = table.remove(lines)
    if self.rest == "" then self.rest = nil end
  end
  local first = table.remove(lines, 1)
  self.queue = lines
  return first
end

-- After a signal: the end where it asks for that, else the line is cleared.
local function interrupted()
  print "^C"
  if select(2, sys.interrupted()) then return nil end
  return false
end

function Reader:line(prompt)
  local queued = table.remove(self.queue, 1)
  if queued then
    if self.interactive then print(prompt .. queued) end
    return queued
  end
  if self.edit then
    local rest = self.rest
    self.rest = nil
    local text = self.edit:read(sys.interrupted(), prompt, rest)
    if text == nil then return interrupted() end
    if text == false then
      print ""
      return nil
    end
    return split(self, text)
  end
  if self.interactive then
    local before = sys.interrupted()
    io.stdout:write(prompt)
    io.stdout:flush()
    if not edit.wait(before) then return interrupted() end
  end
  local line, why = io.read "L"
  self.lines = self.lines + 1
  if line then return (line:gsub("\r?\n$", "")) end
  if self.interactive then print "" end
  if why then error("standard input: " .. why, 0) end
  return nil
end

-- Lines of what was typed, for the arrows and Ctrl-R, now and in sessions to come.
function Reader:remember(text)
  if not self.edit then return end
  for line in text:gmatch "[^\n]+" do
    if line:find "%S" and line ~= self.latest then
      self.latest = line
      self.edit:remember(line)
      local path = history_path()
      if path then
        pcall(function()
          sys.mkdir(journal.home())
          local file <close> = sys.append(path)
          file:write(line .. "\n")
        end)
      end
    end
  end
end

-- Forgets what was pasted and not run yet.
function Reader:clear()
  self.queue, self.rest = {}, nil
end

function Reader:close()
  if self.edit then self.edit:close() end
end

return M
