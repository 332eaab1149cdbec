-- What begins with ":" at the prompt: rows { name, args, doc, run = function(prompt, words) -> false
-- where a chunk that it ran failed }.
-- A change here makes no run stale.
local core = require "attnlab.core"
local names = require "attnlab.names"
local tables = require "attnlab.table"
local sys = core.sys

local M = {}

local function switch(word)
  if word == "on" or word == "off" then return word == "on" end
  error(("on or off expected, got '%s'"):format(word or ""), 0)
end

-- What :set sets: { name, doc, read = function(word) -> value }.
M.SETTINGS = {
  { name = "show", doc = "what a change of a fork did is measured and shown: on, off", read = switch },
  { name = "time", doc = "how long each line took: on, off", read = switch },
  { name = "windows", doc = "documents that a change is measured on: a number", read = function(word)
    local n = math.tointeger(tonumber(word))
    if not n or n < 2 then error(("a whole number from 2 expected, got '%s'"):format(word or ""), 0) end
    return n
  end },
}

local function set(prompt, words)
  local name, value = words:match "^(%S*)%s*(%S*)$"
  if not name then error(":set: a setting and its value expected, such as :set show off", 0) end
  local known = {}
  for i, s in ipairs(M.SETTINGS) do
    known[i] = s.name
    if s.name == name then
      local ok, v = pcall(s.read, value)
      if not ok then error((":set %s: %s"):format(name, v), 0) end
      prompt.settings[name] = v
      return
    end
  end
  if name ~= "" then error(":set: " .. names.unknown("setting", name, known), 0) end
  for _, s in ipairs(M.SETTINGS) do
    local v = prompt.settings[s.name]
    if type(v) == "boolean" then v = v and "on" or "off" end
    print(("  %-8s %-5s %s"):format(s.name, v or require("attnlab.surgery.parts").SHOW, s.doc))
  end
end

local function memory()
  local m = core.memory()
  print(("tensors %s, at most %s, kept for reuse %s; Lua %s; the process at most %s"):format(tables.human(m.live, true),
    tables.human(m.peak, true), tables.human(m.cached, true), tables.human(collectgarbage "count" * 1024, true),
    tables.human(sys.rss(), true)))
end

local function time(prompt, words)
  local began, cpu = sys.clock(), os.clock()
  local ok = prompt:run(words)
  print(("%.3f s, %.3f s of processors"):format(sys.clock() - began, os.clock() - cpu))
  return ok
end

local function where(prompt)
  print(prompt.trace or "nothing failed yet")
end

-- The last chunk in the user's editor; what is saved is run.
local function edit(prompt)
  local path = os.tmpname()
  sys.write(path, (prompt.last or "") .. "\n")
  local editor = "vi"
  for _, name in ipairs { "EDITOR", "VISUAL" } do
    local own = os.getenv(name)
    if own and own:find "%S" then editor = own end
  end
  local ok = os.execute(editor .. " " .. names.word(path))
  local text = ok and sys.read(path):gsub("%s+$", "")
  sys.remove(path)
  if not ok then error((":edit: '%s' failed; VISUAL or EDITOR names another editor"):format(editor), 0) end
  if text == "" or text == prompt.last then return end
  print(text)
  return prompt:run(text)
end

local help

M.COMMANDS = {
  { name = "where", args = "", doc = "where the last error came from", run = where },
  { name = "time", args = "CHUNK", doc = "runs it and says how long it took", run = time },
  { name = "mem", args = "", doc = "memory in use", run = memory },
  { name = "edit", args = "", doc = "the last chunk in $EDITOR; what is saved is run", run = edit },
  { name = "set", args = "[NAME VALUE]", doc = "settings: show, time, windows", run = set },
  { name = "help", args = "", doc = "this", run = function() help() end },
  { name = "quit", args = "", doc = "leaves, as Ctrl-D does", run = function(prompt) prompt.leaving = true end },
}

function M.names()
  local out = {}
  for i, c in ipairs(M.COMMANDS) do out[i] = c.name end
  return out
end

help = function()
  print [[
Lua, a chunk at a time: an expression shows its value, a closing ; does not; _ is the last value.
  lab      everything; lab.help() lists it, ?NAME explains a part, Tab completes
  m s ev   the model given, its fork, its evaluation set
  !CMD     a command of the shell
Ctrl-C ends what runs and keeps what it has made in _; Ctrl-D leaves, ./lab repl --resume comes back.
A resumed session runs its lines again, trainings aside, which are kept; what ! ran, and settings, are not.]]
  for _, c in ipairs(M.COMMANDS) do print(("  %-18s %s"):format(":" .. c.name .. " " .. c.args, c.doc)) end
end

-- Runs ":name words": false where a chunk that it ran failed.
function M.run(prompt, line)
  local name, words = line:match "^:(%S*)%s*(.-)%s*$"
  for _, c in ipairs(M.COMMANDS) do
    if c.name == name then return c.run(prompt, words) end
  end
  error(names.unknown("command", ":" .. name, M.names()) .. "; :help lists them", 0)
end

return M
