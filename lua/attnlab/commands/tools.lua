-- Commands that measure, run scripts, and say what this program is.
-- A change here makes no run stale.
local core = require "attnlab.core"
local devices = require "attnlab.devices"
local names = require "attnlab.names"
local store = require "attnlab.store"
local tables = require "attnlab.table"
local words = require "attnlab.words"
local json, sys = core.json, core.sys

local function bench(args, usage)
  return require("attnlab.bench").run(args, usage)
end

-- Sets the global `arg` as lua does, so that a script finds its words there and in `...`.
local function script(args, usage)
  words.on(args, usage)
  local path = args.words[1]
  if path:find "^%-" then usage("lua: '%s': a file expected; ./lab repl [FILE.lua] is the prompt", path) end
  local rest = table.move(args.words, 2, #args.words, 1, {})
  rest[0] = path
  _G.arg = rest
  local chunk, message = loadfile(path, "t")
  if not chunk then error(message, 0) end
  local result = chunk(table.unpack(rest))
  if core.on() ~= "cpu" then core.zeros { shape = { 1 } }:item() end -- what is told at the next read has one
  return math.type(result) == "integer" and result or 0
end

local function env()
  local build = sys.program():match("^(.*)/[^/]*$")
  print("export LUA_PATH=" .. names.word(package.path))
  print("export LUA_CPATH=" .. names.word(("%s/lua/?.so;%s"):format(build, package.cpath)))
end

local function test()
  error("the launcher builds and runs the tests: ./lab test", 0)
end

local function version()
  print(("attnlab %s\n%s\nsource %s"):format(core.version, core.info(), store.source_hash()))
end

local function list_devices(args)
  local list = devices.list()
  if args.flags.json then
    print(json.encode({ devices = json.array { table.unpack(list) }, why = list.why }, { pretty = true }))
    return
  end
  local cells = {}
  for i, d in ipairs(list) do cells[i] = { name = d.name, text = d.text } end
  if list.why then cells[#cells + 1] = { name = "no cuda", text = list.why } end
  print((tables.text({ { key = "name", title = "device" }, { key = "text", title = "what", wrap = true } }, cells, tables.terminal())))
end

local function help(args)
  print(args.flags.all and require("attnlab.help").markdown() or require("attnlab.cli").help_on(args.words[1]))
end

local function worker(args, usage)
  if not args.flags.run then usage("worker: --run DIR is needed") end
  return require("attnlab.worker").run(args.flags.run, { force = args.flags.force, fresh = args.flags.fresh, traces = true,
    memory = args.flags.memory and words.whole(args.flags.memory, "memory", usage, 1) })
end

return {
  { name = "bench", args = "train|attention|ops|decode|data [key=value ...]", least = 1, most = 1, sets = true, run = bench,
    doc = "times beside the floor of this machine, of results checked in the same run",
    options = { { name = "json", value = "FILE", doc = "all measured values, machine, versions, command" }, words.DEVICE,
                words.PLUGIN },
    more = function() return require("attnlab.bench").help() end },
  { name = "lua", args = "FILE.lua [args]", least = 1, raw = true, run = script,
    doc = "run a Lua script that can require \"attnlab\"", options = { words.DEVICE, words.PLUGIN } },
  { name = "help", args = "[NAME]", least = 0, most = 1, run = help,
    doc = "what a command, function, method, option or op is", options = { { name = "all", doc = "everything, as one page of markdown" }, words.PLUGIN } },
  { name = "env", args = "", least = 0, most = 0, run = env, doc = "shell lines that let stock lua5.4 find the modules",
    options = {} },
  { name = "test", args = "[--full | NAME ..]", least = 0, most = 99, run = test,
    doc = "build and run the tests, or some (./lab test)",
    options = { { name = "full", doc = "also under the sanitizers, and the fuzz targets" } } },
  { name = "devices", args = "", least = 0, most = 0, run = list_devices, doc = "what can compute here, and why a GPU cannot",
    options = { words.JSON } },
  { name = "version", args = "", least = 0, most = 0, run = version, doc = "version, libraries, devices", options = {} },
  { name = "worker", args = "--run DIR", least = 0, most = 0, hidden = true, run = worker,
    doc = "one run of an experiment (internal)",
    options = { { name = "run", value = "DIR", doc = "its folder" }, words.FORCE,
                { name = "fresh", doc = "plans of products on a card that do not fit it are chosen again" },
                { name = "memory", value = "N", doc = "bytes of tensors that it may have" }, words.PLUGIN } },
}
