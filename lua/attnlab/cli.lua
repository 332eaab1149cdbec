-- The command line. COMMANDS is the one table that the parser, --help and the errors are made from.
-- A change here makes no run stale.
local core = require "attnlab.core"
local found = require "attnlab.found"
local names = require "attnlab.names"
local tables = require "attnlab.table"
local words = require "attnlab.words"

local M = {}

-- name, args (as shown), least and most words, sets = takes key=value, options, doc, more (for its --help, text or
-- function), run = function(args, usage) -> exit status, hidden, raw = its words are another program's. What lies in
-- commands/ is there: each file returns a list of such rows; they stand in the help in the order of files and rows.
M.COMMANDS = {}
for _, file in ipairs(found "commands") do
  local ok, list = pcall(require, "attnlab.commands." .. file)
  if ok and type(list) ~= "table" then ok, list = false, "a list of commands expected, got " .. type(list) end
  for _, c in ipairs(ok and list or {}) do M.COMMANDS[#M.COMMANDS + 1] = c end
  if not ok then -- it takes away its own commands, not those of the others
    io.stderr:write(("attnlab: the commands of %s.lua cannot be had: %s\n"):format(file, tables.clean(names.reason(tostring(list)))))
  end
end

local function find(list, name)
  for _, x in ipairs(list) do
    if x.name == name then return x end
  end
end

-- A fault of the caller's: exit status 2.
local function usage(...)
  error({ usage = (...):format(select(2, ...)) }, 0)
end

local COLUMN = 34 -- cells of a command and its words, in the list of all

function M.help()
  local width = tables.terminal()
  local lines = { "attnlab takes attention apart: switch single components on and off, and see what each is worth.", "",
                  "  ./lab run experiments/denominator.lua --quick   a first figure in about a minute",
                  "  ./lab run experiments/denominator.lua           the experiment itself", "", "commands:" }
  for _, c in ipairs(M.COMMANDS) do
    local call = (c.name .. " " .. c.args):gsub(" $", "")
    local parts = width and tables.wrap(c.doc, math.max(20, width - COLUMN - 3)) or { c.doc }
    if width and #call > COLUMN then table.insert(parts, 1, "") end
    for i, part in ipairs(c.hidden and {} or parts) do
      lines[#lines + 1] = (("  %s %s"):format(tables.pad(i == 1 and call or "", COLUMN), part):gsub(" +$", ""))
    end
  end
  lines[#lines + 1] = ""
  lines[#lines + 1] = "Each has --help; ./lab help NAME explains whatever there is, ./lab help --all all of it as one page of markdown."
  lines[#lines + 1] = "Exit status: 0 ok (a diverged arm is a result), 1 failure, 2 usage, 130 interrupted."
  return tables.fit(table.concat(lines, "\n"), width)
end

function M.command_help(c)
  local lines = { ("usage: ./lab %s %s"):format(c.name, c.args), c.doc, "" }
  for _, o in ipairs(c.options) do
    local name = o.name .. (o.value and " " .. o.value or "")
    lines[#lines + 1] = ("  --%s %s"):format(tables.pad(name, 16), o.doc)
  end
  if c.more then lines[#lines + 1] = type(c.more) == "function" and c.more() or c.more end
  return tables.fit(table.concat(lines, "\n"), tables.terminal())
end

-- Splits the words after the command: {words, flags = {[option] = true or text}, sets = {{key, value}}}.
function M.parse(c, argv)
  local args = { words = {}, flags = {}, sets = {} }
  local i = 1
  while i <= #argv do
    local word = argv[i]
    if word:find "%c" and not word:find "^prompt=" and not word:find "^stop=" then
      usage("%s: control characters in '%s'", c.name, tables.clean(word, true))
    end
    if word == "" then usage("%s: an empty word", c.name) end
    local name, inline = word:match("^%-%-([^=]+)=?(.*)$")
    if name == "help" or word == "-h" then
      args.flags.help = true
    elseif name then
      local o = find(c.options, name)
      if not o then
        local known = {}
        for k, x in ipairs(c.options) do known[k] = x.name end
        local near = names.nearest(name, known)
        usage("%s: unknown option --%s%s", c.name, name, near and (" (did you mean --%s?)"):format(near) or "")
      end
      local has_inline = word:find("=", 1, true)
      if o.value then
        if not has_inline then
          i = i + 1
          inline = argv[i]
          if not inline then usage("%s: --%s needs %s", c.name, name, o.value) end
        end
        if o.many then
          local all = args.flags[name] or {}
          all[#all + 1], inline = inline, all
        end
        args.flags[name] = inline
      else
        if has_inline then usage("%s: --%s takes no value", c.name, name) end
        args.flags[name] = true
      end
    elseif word:match("^%-.") then
      usage("%s: unknown option %s", c.name, word)
    elseif c.sets and word:match("^[%a_][%w_.]*=") then
      local key, value = word:match("^([^=]+)=(.*)$")
      if key == "out_dir" and value == "" then usage("%s: out_dir: a folder is needed", c.name) end
      args.sets[#args.sets + 1] = { key, key == "out_dir" and names.plain(value) or value }
    else
      args.words[#args.words + 1] = names.plain(word) -- two slashes of a user's are no border
    end
    i = i + 1
  end
  if not args.flags.help and (#args.words < c.least or #args.words > c.most) then
    usage("%s: %s expected, got %d word%s\nusage: ./lab %s %s", c.name,
      c.args == "" and "nothing" or c.args, #args.words, #args.words == 1 and "" or "s", c.name, c.args)
  end
  return args
end

-- Options of ours end where the script begins: its own words are its own.
function M.parse_raw(c, argv)
  local first = 1
  while argv[first] and argv[first]:find "^%-%-%a" do
    local inline = argv[first]:find("=", 1, true) or argv[first] == "--help"
    first = first + (inline and 1 or 2)
  end
  local words = table.move(argv, first, #argv, 1, {})
  local own = table.move(argv, 1, math.min(first - 1, #argv), 1, {})
  local args = M.parse(setmetatable({ least = 0, most = 0 }, { __index = c }), own)
  if #words == 0 and not args.flags.help then usage("%s: %s expected", c.name, c.args) end
  args.words = words
  return args
end

local function command(name)
  local c = find(M.COMMANDS, name)
  if c then return c end
  local known = {}
  for _, x in ipairs(M.COMMANDS) do known[#known + 1] = not x.hidden and x.name or nil end
  usage("%s; ./lab alone lists them", names.unknown("command", name, known))
end

-- What help says of a command or of anything that lab.help knows.
function M.help_on(word)
  if not word then return M.help() end
  local c = find(M.COMMANDS, word)
  if c then return M.command_help(c) end
  local ok, text = pcall(require("attnlab.help").text, word)
  if ok then return text end
  local known = {}
  for _, x in ipairs(M.COMMANDS) do known[#known + 1] = x.name end
  if names.nearest(word, known) then command(word) end
  usage("%s", names.reason(text))
end

-- Whether one value for machines was asked for: then there is one, whatever happens.
local function json_asked(argv)
  local c = argv[1] and find(M.COMMANDS, argv[1])
  local o = c and find(c.options, "json")
  return o and not o.value and names.find(argv, "--json") ~= nil
end

local function dispatch(argv)
  local name = argv[1]
  if not name and core.sys.isatty(0) and core.sys.isatty(1) then return command("repl").run({ words = {}, flags = {} }, usage) end
  if not name or name == "--help" or name == "-h" then
    print(M.help())
    return 0
  end
  if name == "--version" then name = "version" end
  local c = command(name)
  local rest = table.move(argv, 2, #argv, 1, {})
  local args
  if c.raw then
    args = M.parse_raw(c, rest)
  else
    args = M.parse(c, rest)
  end
  if args.flags.help then
    print(M.command_help(c))
    return 0
  end
  for _, path in ipairs(args.flags.plugin or {}) do require("attnlab.plugins").load(path) end
  return c.run(args, usage) or 0
end

-- argv: the words after the program's name. Returns the exit status; prints errors to stderr.
function M.main(argv)
  local ok, result = xpcall(dispatch, function(e)
    if type(e) == "table" then return e end
    if os.getenv "ATTNLAB_TRACE" then return debug.traceback(tostring(e), 2) end
    return names.reason(tostring(e))
  end, argv)
  if ok then return result end
  local typed = type(result) == "table" and result.usage
  local text = tables.clean(tostring(typed or type(result) == "table" and result.text or result))
  if json_asked(argv) then words.no_value(text) end
  io.stdout:flush()
  io.stderr:write("attnlab: ", text, "\n")
  if typed then return 2 end
  return text:find "interrupted$" and 130 or 1 -- a second Ctrl-C is raised as that error
end

return M
