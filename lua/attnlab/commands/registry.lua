-- Commands about what there is, and about variants of one's own.
-- A change here makes no run stale.
local core = require "attnlab.core"
local config = require "attnlab.config"
local data = require "attnlab.data"
local help = require "attnlab.help"
local names = require "attnlab.names"
local plugins = require "attnlab.plugins"
local tables = require "attnlab.table"
local words = require "attnlab.words"
local words = require "attnlab.words"
local json = core.json

local LISTS = {
  attention = function()
    local list = {}
    for i, p in ipairs(core.attn.list()) do list[i] = { name = p.name, note = p.source } end
    for _, f in ipairs(core.attn.families()) do
      local from = f.plugin and (" (plug-in %s)"):format(f.plugin) or ""
      list[#list + 1] = { name = f.name, note = "family: " .. f.doc .. from }
    end
    return list
  end,
  ops = function()
    local list = {}
    for i, op in ipairs(core.ops()) do list[i] = { name = op.name, note = op.doc } end
    return list
  end,
  data = function()
    local list = {}
    for i, name in ipairs(data.list()) do list[i] = { name = name, note = data.path(name) } end
    return list
  end,
  config = function()
    local list = {}
    for i, key in ipairs(config.keys()) do list[i] = { name = key, note = "" } end
    return list
  end,
}

local function list(args, usage)
  local kind = args.words[1]
  if kind and not LISTS[kind] then usage("list: %s", names.unknown("kind", kind, names.keys(LISTS))) end
  local all = {}
  for _, k in ipairs(kind and { kind } or { "attention", "ops", "data" }) do
    local entries = LISTS[k]()
    all[k] = entries
    if not args.flags.json then
      if not kind then print(k .. ":") end
      print(tables.text({ { key = "name", title = "name" }, { key = "note", title = "what", wrap = true } }, entries,
        tables.terminal()) .. "\n")
    end
  end
  if args.flags.json then print(json.encode(all, { pretty = true })) end
end

-- The variant of a preset or family as a text of another language, with options on top.
local function source_of(name, sets, kind)
  local options = {}
  for _, kv in ipairs(sets) do
    config.set(options, "attention." .. kv[1]:gsub("^attention%.", ""), kv[2])
  end
  -- a parameter's shape needs sizes, which the text does not name
  local spec = { heads = 4, head_dim = 16, width = 64, bare = true }
  local ok, text = pcall(function() return core.attn.new(name, options.attention or {}, spec):source(kind) end)
  if not ok then error(config.plain(text), 0) end
  return text
end

local function describe(args, usage)
  local name, kind = args.words[1], args.flags.latex and "latex" or args.flags.torch and "torch"
  if args.flags.latex and args.flags.torch then usage("describe: --latex or --torch, not both") end
  if not kind and #args.sets > 0 then usage("describe: options go with --latex and --torch") end
  print((words.meant(usage, kind and source_of or help.text, name, args.sets, kind):gsub("\n$", "")))
end

local function new_variant(args, usage)
  local scaffold = require "attnlab.scaffold"
  local why = scaffold.unfit(args.words[1])
  if why then usage("new-variant: %s", why) end
  local path = scaffold.new_variant(args.words[1], args.flags.out)
  print(("%s\nnext    ./lab check %s      # builds it and holds it to what it claims"):format(path, names.word(path)))
end

local function build_plugin(args)
  print(plugins.build(args.words[1], args.flags.out))
end

local function check(args, usage)
  return require("attnlab.check").run(args, usage)
end

local function checker(args, usage)
  local files = args.flags.out or {}
  if #files ~= #args.words then usage("checker: --out FILE for each name is needed") end
  words.on(args, usage)
  require("attnlab.checkers").work(args.words, args.flags.options or "", files)
end

return {
  { name = "list", args = "[attention|ops|data|config]", least = 0, most = 1, run = list, doc = "what there is, by kind",
    options = { words.PLUGIN, words.JSON } },
  { name = "describe", args = "NAME [option=value ...]", least = 1, most = 1, sets = true, run = describe,
    doc = "an attention preset or family, an op, a configuration key, a function",
    options = { { name = "latex", doc = "the variant as a formula" }, { name = "torch", doc = "the variant as a PyTorch function" },
                words.PLUGIN }, more = "Options of the variant come on top of the preset's: they go with --latex and --torch." },
  { name = "new-variant", args = "NAME", least = 1, most = 1, run = new_variant,
    doc = "write the source of a new attention variant",
    options = { { name = "out", value = "FILE", doc = "where to (NAME.c); what exists is never overwritten" } } },
  { name = "build-plugin", args = "FILE.c", least = 1, most = 1, run = build_plugin,
    doc = "compile a variant into a plug-in; prints its path",
    options = { { name = "out", value = "FILE", doc = "where to (FILE.so beside FILE.c)" } },
    more = "CC names the compiler, CFLAGS more of its options." },
  { name = "check", args = "NAME|FILE.so|FILE.c|--all [option=value ...]", least = 0, most = 1, sets = true, run = check,
    doc = "hold a variant to every form, its gradients and its claims; writes its certificate",
    options = { { name = "all", doc = "every preset, family and example plug-in" },
                { name = "json", value = "FILE", doc = "all rows of all variants" },
                { name = "patience", value = "N", doc = "seconds without progress that end a variant (300)" },
                { name = "jobs", value = "N", doc = "processes at a time (default: one per core; on a GPU two)" }, words.DEVICE,
                words.PLUGIN },
    more = "Options of the variant come on top of the preset's; out_dir=DIR is where certificates go (runs).\n"
      .. "On a GPU outputs and gradients are held to the CPU's f64, number by number." },
  { name = "checker", args = "NAME .. --out FILE ..", least = 1, most = math.huge, hidden = true, run = checker,
    doc = "variants of a check (internal)",
    options = { { name = "out", value = "FILE", many = true, doc = "the result of each" },
                { name = "options", value = "TEXT", doc = "on top of each" }, words.DEVICE, words.PLUGIN } },
}
