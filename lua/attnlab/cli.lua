-- The command line. COMMANDS is the one table that the parser, --help and the errors are made from.
-- A change here makes no run stale.
local names = require "attnlab.names"
local tables = require "attnlab.table"

local M = {}

local QUICK = { name = "quick", doc = "the small version of the experiment (minutes become seconds)" }
local SEEDS = { name = "seeds", value = "N", doc = "the first N seeds, or a list such as 1,2,5" }
local DEVICE = { name = "device", value = "NAME", doc = "cpu (cuda: not in this version)" }
local JSON = { name = "json", doc = "machine-readable output" }
local PRINT = { name = "print-config", doc = "print the resolved configuration, presets written out, and stop" }
local DRY = { name = "dry-run", doc = "print parameters, arithmetic, memory and number of runs, and stop" }
local FORCE = { name = "force", doc = "continue runs that another version of the program began" }
local PLUGIN = { name = "plugin", value = "PATH", many = true,
                 doc = "a plug-in to load first (.so, or .c, which is built); may be repeated" }
local SETS = "key.sub=value sets any configuration key, out_dir=DIR the place of the runs (default: runs)."

-- name, args (as shown), least and most words, sets = takes key=value, options, doc, more (for its --help, text or function)
M.COMMANDS = {
  { name = "run", args = "FILE.lua [key.sub=value ...]", least = 1, most = 1, sets = true,
    doc = "run an experiment: all arms and seeds, resumable; table and figure",
    options = { QUICK, SEEDS, DEVICE, { name = "jobs", value = "N", doc = "runs at a time (default: one per core)" },
                { name = "fresh", doc = "start every run of the experiment again" }, FORCE, PLUGIN, PRINT, DRY, JSON },
    more = SETS },
  { name = "plot", args = "FILE.lua [key.sub=value ...]", least = 1, most = 1, sets = true,
    doc = "table and figure again from the runs that exist", options = { QUICK, SEEDS, PLUGIN, JSON }, more = SETS },
  { name = "train", args = "[key.sub=value ...]", least = 0, most = 0, sets = true, doc = "train one model",
    options = { { name = "seed", value = "N", doc = "of weights and batches (1)" }, DEVICE,
                { name = "fresh", doc = "start again" }, FORCE, PLUGIN, PRINT, DRY, JSON }, more = SETS },
  { name = "eval", args = "MODEL [key=value ...]", least = 1, most = 1, sets = true,
    doc = "loss of a model file or run folder on validation text",
    options = { { name = "windows", value = "N", doc = "validation windows (a run's own eval_windows; 96)" },
                { name = "data", value = "TEXT", doc = "name or path (default: what the model was trained on)" },
                { name = "other-text", doc = "measure though the text of that name has changed since" }, PLUGIN, JSON },
    more = "Keys: data=TEXT as --data, tokenizer=FILE for llama2.c models." },
  { name = "generate", args = "MODEL [key=value ...]", least = 1, most = 1, sets = true,
    doc = "text from a model file or run folder",
    more = "Keys: prompt=TEXT tokens=N temperature=X top_k=N seed=N tokenizer=FILE\n"
      .. "past_context=slide|continue|stop (when the context is full). Speed and state go to stderr.",
    options = { PLUGIN } },
  { name = "list", args = "[attention|ops|data|config]", least = 0, most = 1, doc = "what there is, by kind",
    options = { PLUGIN, JSON } },
  { name = "describe", args = "NAME", least = 1, most = 1,
    doc = "an attention preset or family, an op, or a configuration key", options = { PLUGIN } },
  { name = "new-variant", args = "NAME", least = 1, most = 1, doc = "write the source of a new attention variant",
    options = { { name = "out", value = "FILE", doc = "where to (NAME.c); what exists is never overwritten" } } },
  { name = "build-plugin", args = "FILE.c", least = 1, most = 1, doc = "compile a variant into a plug-in; prints its path",
    options = { { name = "out", value = "FILE", doc = "where to (FILE.so beside FILE.c)" } },
    more = "CC names the compiler, CFLAGS more of its options." },
  { name = "check", args = "NAME|FILE.so|FILE.c|--all [option=value ...]", least = 0, most = 1, sets = true,
    doc = "hold a variant to every form, its gradients and its claims; writes its certificate",
    options = { { name = "all", doc = "every preset, family and example plug-in" },
                { name = "json", value = "FILE", doc = "all rows of all variants" },
                { name = "patience", value = "N", doc = "seconds without progress that end a variant (300)" }, PLUGIN },
    more = "Options of the variant come on top of the preset's; out_dir=DIR is where certificates go (runs)." },
  { name = "runs", args = "[EXPERIMENT] [out_dir=DIR]", least = 0, most = 1, sets = true,
    doc = "the runs on disk and how they stand", options = { JSON } },
  { name = "compare", args = "RUN RUN", least = 2, most = 2,
    doc = "two runs: keys that differ, paired difference over their seeds", options = { JSON } },
  { name = "bench", args = "train|attention|ops|decode [key=value ...]", least = 1, most = 1, sets = true,
    doc = "times beside the floor of this machine, of results checked in the same run",
    options = { { name = "json", value = "FILE", doc = "all measured values, machine, versions, command" }, PLUGIN },
    more = function() return require("attnlab.bench").help() end },
  { name = "lua", args = "FILE.lua [args]", least = 1, raw = true,
    doc = "run a Lua script that can require \"attnlab\"", options = { PLUGIN } },
  { name = "env", args = "", least = 0, most = 0, doc = "shell lines that let stock lua5.4 find the modules",
    options = {} },
  { name = "test", args = "[--full | NAME ..]", least = 0, most = 99, doc = "build and run the tests, or some (./lab test)",
    options = { { name = "full", doc = "also under the sanitizers, and the fuzz targets" } } },
  { name = "version", args = "", least = 0, most = 0, doc = "version, libraries, devices", options = {} },
  { name = "checker", args = "--out FILE NAME [OPTIONS]", least = 1, most = 2, hidden = true,
    doc = "one variant of a check (internal)", options = { { name = "out", value = "FILE", doc = "its result" }, PLUGIN } },
  { name = "worker", args = "--run DIR", least = 0, most = 0, hidden = true, doc = "one run of an experiment (internal)",
    options = { { name = "run", value = "DIR", doc = "its folder" }, FORCE, PLUGIN } },
}

local function find(list, name)
  for _, x in ipairs(list) do
    if x.name == name then return x end
  end
end

-- A fault of the caller's: exit status 2.
local function usage(...)
  error({ usage = (...):format(select(2, ...)) }, 0)
end

function M.help()
  local lines = { "attnlab takes attention apart: switch single components on and off, and see what each is worth.", "",
                  "  ./lab run experiments/denominator.lua --quick     a first figure in two minutes",
                  "  ./lab run experiments/denominator.lua             the experiment itself", "", "commands:" }
  for _, c in ipairs(M.COMMANDS) do
    if not c.hidden then lines[#lines + 1] = ("  %s %s"):format(tables.pad(c.name .. " " .. c.args, 34), c.doc) end
  end
  lines[#lines + 1] = ""
  lines[#lines + 1] = "Each has --help. Exit status: 0 ok (a diverged arm is a result), 1 failure, 2 usage, 130 interrupted."
  return table.concat(lines, "\n")
end

function M.command_help(c)
  local lines = { ("usage: ./lab %s %s"):format(c.name, c.args), c.doc, "" }
  for _, o in ipairs(c.options) do
    local name = o.name .. (o.value and " " .. o.value or "")
    lines[#lines + 1] = ("  --%s %s"):format(tables.pad(name, 16), o.doc)
  end
  if c.more then lines[#lines + 1] = type(c.more) == "function" and c.more() or c.more end
  return table.concat(lines, "\n")
end

-- Splits the words after the command: {words, flags = {[option] = true or text}, sets = {{key, value}}}.
function M.parse(c, argv)
  local args = { words = {}, flags = {}, sets = {} }
  local i = 1
  while i <= #argv do
    local word = argv[i]
    if word:find "%c" and not word:find "^prompt=" then
      usage("%s: control characters in '%s'", c.name, tables.clean(word, true))
    end
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

local function dispatch(argv)
  local name = argv[1]
  if not name or name == "help" or name == "--help" or name == "-h" then
    local c = argv[2] and find(M.COMMANDS, argv[2])
    print(c and M.command_help(c) or M.help())
    return 0
  end
  if name == "--version" then name = "version" end
  local c = find(M.COMMANDS, name)
  if not c then
    local known = {}
    for _, x in ipairs(M.COMMANDS) do known[#known + 1] = not x.hidden and x.name or nil end
    usage("%s; ./lab alone lists them", names.unknown("command", name, known))
  end
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
  local commands = require "attnlab.commands"
  return commands[name](args, usage) or 0
end

-- argv: the words after the program's name. Returns the exit status; prints errors to stderr.
function M.main(argv)
  local ok, result = xpcall(dispatch, function(e)
    if type(e) == "table" then return e end
    if os.getenv "ATTNLAB_TRACE" then return debug.traceback(tostring(e), 2) end
    return names.reason(tostring(e))
  end, argv)
  if ok then return result end
  io.stdout:flush()
  if type(result) == "table" and result.usage then
    io.stderr:write("attnlab: ", result.usage, "\n")
    return 2
  end
  local text = tostring(type(result) == "table" and result.text or result)
  io.stderr:write("attnlab: ", tables.clean(text), "\n")
  return text:find "interrupted$" and 130 or 1 -- a second Ctrl-C is raised as that error
end

return M
