-- Commands of cli.lua about models, runs on disk and what there is: eval, generate, list, describe, lua,
-- env, version, runs, compare. Functions of (args, usage) as in commands.lua.
-- A change here makes no run stale.
local core = require "attnlab.core"
local certificate = require "attnlab.certificate"
local config = require "attnlab.config"
local data = require "attnlab.data"
local expect = require "attnlab.expect"
local help = require "attnlab.help"
local model = require "attnlab.model"
local names = require "attnlab.names"
local rows = require "attnlab.rows"
local runs = require "attnlab.runs"
local stats = require "attnlab.stats"
local store = require "attnlab.store"
local tables = require "attnlab.table"
local yardstick = require "attnlab.yardstick"
local json, sys = core.json, core.sys

local M = {}

-- key=value words as a table; unknown keys are usage errors. kinds: {key = "number" or "text"}.
local function values(args, kinds, usage)
  local out = {}
  for _, kv in ipairs(args.sets) do
    local kind = kinds[kv[1]]
    if not kind then usage("%s", names.unknown("key", kv[1], names.keys(kinds))) end
    out[kv[1]] = kv[2]
    if kind == "number" then
      local n = tonumber(kv[2])
      if not n then usage("%s: a number expected, got '%s'", kv[1], kv[2]) end
      out[kv[1]] = math.tointeger(n) or n
    end
  end
  return out
end

-- The text to measure on: the one asked for, else the one that the model was trained on.
local function text_for(m, path, asked)
  local on = m.trained_on
  if asked or not on then return asked or "shakespeare" end
  local ok, why = pcall(data.path, on.name)
  if not ok then
    error(("%s: %s. The model was trained on this text (sha256 %.12s), which is not here: --data FILE measures on "
      .. "another one"):format(path, why, on.sha256), 0)
  end
  return on.name
end

-- The windows that a run's validation took: { windows, context }; {} for a model file.
local function own_windows(path)
  local ok, spec = pcall(store.config, path)
  local function whole(key)
    local v = ok and type(spec.config.train) == "table" and spec.config.train[key]
    return math.type(v) == "integer" and v > 0 and v or nil -- what is in a folder may be anything
  end
  return { windows = whole "eval_windows", context = whole "eval_context" }
end

local MOST_EXP = 709 -- whose exponential is a number

function M.eval(args, usage)
  local given = values(args, { data = "text", tokenizer = "text" }, usage)
  local windows = math.tointeger(tonumber(args.flags.windows))
  if args.flags.windows and not (windows and windows >= 1) then
    usage("--windows: a whole number >= 1 expected, got '%s'", args.flags.windows)
  end
  local m = model.load(args.words[1], { tokenizer = given.tokenizer })
  local asked = args.flags.data or given.data
  local text = text_for(m, args.words[1], asked)
  local own = own_windows(args.words[1])
  local context = own.context or m.config.context
  local set = require("attnlab.evalset") { data = text, windows = windows or own.windows or 96, context = context,
    other_text = args.flags["other-text"] or asked ~= nil }
  local loss, se, each = set(m)
  if not (math.abs(loss) < math.huge) then
    error(("%s: the loss is %s: the model's numbers left their range"):format(args.words[1], loss ~= loss and "nan" or loss), 0)
  end
  local set_data = set:open(m)
  local bytes = set_data.text_bytes / set_data.tokens:numel()
  local bits = loss / math.log(2) / bytes
  local result = { data = text, sha256 = set_data.sha256, windows = #each, context = context, loss = loss, standard_error = se,
                   perplexity = loss < MOST_EXP and math.exp(loss) or nil, bits_per_byte = bits }
  if args.flags.json then
    print(json.encode(result, { pretty = true }))
  else
    print(("%s: %.4f nats per token%s, perplexity %s, %.4f bits per byte"):format(args.words[1], loss,
      se and (" (standard error %.4f)"):format(se) or "", result.perplexity and ("%.3f"):format(result.perplexity) or "above all numbers", bits))
    local on = m.trained_on
    if on and on.sha256 ~= set_data.sha256 then
      print(("not the text that the model was trained on ('%s', sha256 %.12s)"):format(on.name, on.sha256))
    end
    print(("validation part of '%s', %d windows of %d tokens, each from an empty context%s"):format(text, #each, context,
      m.config.context < context and (", in pieces of %d"):format(m.config.context) or ""))
  end
end

function M.generate(args, usage)
  local given = values(args, { prompt = "text", tokens = "number", temperature = "number", top_k = "number",
                               seed = "number", tokenizer = "text", past_context = "text" }, usage)
  local m = model.load(args.words[1], { tokenizer = given.tokenizer })
  given.tokenizer = nil
  local text, _, took = m:generate(given)
  print(sys.isatty(1) and tables.clean(text) or text)
  io.stderr:write(require("attnlab.generate").summary(took), "\n")
end

local LISTS = {
  attention = function()
    local list = {}
    for i, p in ipairs(core.attn.list()) do list[i] = { name = p.name, note = p.source } end
    for _, f in ipairs(core.attn.families()) do       local from = f.plugin and (" (plug-in %s)"):format(f.plugin) or ""
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

function M.list(args, usage)
  local kind = args.words[1]
  if kind and not LISTS[kind] then usage("list: %s", names.unknown("kind", kind, names.keys(LISTS))) end
  local all = {}
  for _, k in ipairs(kind and { kind } or { "attention", "ops", "data" }) do
    local list = LISTS[k]()
    all[k] = list
    if not args.flags.json then
      if not kind then print(k .. ":") end
      print(tables.text({ { key = "name", title = "name" }, { key = "note", title = "what" } }, list) .. "\n")
    end
  end
  if args.flags.json then print(json.encode(all, { pretty = true })) end
end

function M.describe(args)
  print(help.text(args.words[1]))
end

-- Sets the global `arg` as lua does, so that a script finds its words there and in `...`.
function M.lua(args)
  local path = args.words[1]
  local words = table.move(args.words, 2, #args.words, 1, {})
  words[0] = path
  _G.arg = words
  local chunk, message = loadfile(path, "t")
  if not chunk then error(message, 0) end
  local result = chunk(table.unpack(words))
  return math.type(result) == "integer" and result or 0
end

function M.env()
  local build = sys.program():match("^(.*)/[^/]*$")
  print("export LUA_PATH=" .. names.word(package.path))
  print("export LUA_CPATH=" .. names.word(("%s/lua/?.so;%s"):format(build, package.cpath)))
end

function M.test()
  error("the launcher builds and runs the tests: ./lab test", 0)
end

function M.version()
  print(("attnlab %s\n%s\nsource %s"):format(core.version, core.info(), store.source_hash()))
end

-- ---- runs on disk ------------------------------------------------------------------------------

local function every_run(root, only)
  local list = {}
  if sys.exists(root) ~= "dir" then return list end
  for _, name in ipairs(sys.list(root)) do
    local folder = names.inside(root, name)
    if (not only or name == only) and sys.exists(folder) == "dir" then
      for _, id in ipairs(sys.list(folder)) do
        local dir = folder .. "/" .. id
        if sys.exists(store.file(dir, "config.json")) then list[#list + 1] = dir end
      end
    end
  end
  return list
end

local RUN_COLUMNS = {
  { key = "dir", title = "run" }, { key = "variant", title = "changed" }, { key = "arm", title = "arm" },
  { key = "seed", title = "seed", right = true }, { key = "step", title = "step", right = true }, { key = "loss", title = "valid loss", right = true },
  { key = "check", title = "check" }, { key = "status", title = "status" },
}

function M.runs(args, usage)
  local root = values(args, { out_dir = "text" }, usage).out_dir or "runs"
  local list, cells, only = {}, {}, args.words[1]
  for _, dir in ipairs(every_run(root, only and only:match "^[^+~]*")) do
    local known, spec = pcall(store.config, dir)
    if not known then spec = { made = {} } end -- the status says why
    if not only or not only:find "[+~]" or spec.variant == only then
      local run = runs.read(dir, 1, spec.seed, "valid/loss")
      local stale = #run.differs > 0 and table.concat(run.differs, ", ") or nil
      local damaged = run.status.state == "damaged" and tables.clean(run.status.reason, true) or nil
      list[#list + 1] = { dir = names.shown(dir), variant = spec.variant, arm = spec.arm, seed = spec.seed, status = run.status.state,
                          step = run.status.step, valid_loss = run.value, stale = stale, reason = damaged,
                          check = certificate.word(spec.made.certificates) }
      cells[#cells + 1] = { dir = list[#list].dir, variant = spec.variant, arm = spec.arm, seed = tostring(spec.seed or ""),
                            step = tostring(run.status.step), loss = run.value and ("%.4f"):format(run.value),
                            check = list[#list].check,
                            status = run.status.state .. (damaged and ": " .. damaged or stale and " (stale: " .. stale .. ")" or "") }
    end
  end
  if args.flags.json then
    print(json.encode(json.array(list), { pretty = true }))
  elseif #list == 0 then
    print(("no runs in %s"):format(root .. (args.words[1] and "/" .. args.words[1] or "")))
  else
    print(tables.text(RUN_COLUMNS, cells))
  end
end

-- The runs beside `dir` that have its arm, as the arm of a table: {values by seed, runs, count, seeds}.
local function siblings(dir, spec)
  local root, name = sys.realpath(dir):match "^(.*)/([^/]+)/[^/]+$"
  local arm = { values = {}, runs = {}, count = { finished = 0, diverged = 0 }, seeds = {} }
  for _, other in ipairs(every_run(root, name)) do
    local known, s = pcall(store.config, other)
    if known then s.config.train.data = spec.config.train.data end -- a text counts by its hash
    if known and s.arm == spec.arm and s.data_hash == spec.data_hash and #config.diff(s.config, spec.config) == 0 then
      local run = runs.read(other, 1, s.seed, "valid/loss")
      local state = run.status.state
      arm.runs[#arm.runs + 1], arm.seeds[#arm.seeds + 1] = run, s.seed
      arm.count[state] = (arm.count[state] or 0) + 1
      if state == "finished" then arm.values[s.seed] = run.value end
    end
  end
  table.sort(arm.seeds)
  return arm
end

-- Why the losses of two runs are not to be compared, or nil.
local function incomparable(a, b, sa, sb)
  local on = {}
  for i, s in ipairs { sa, sb } do on[i] = yardstick.windows(s.config, "valid/loss") end
  if sa.data_hash ~= sb.data_hash then return "they are measured on different texts" end
  if on[1] ~= on[2] then return ("they are measured on different windows: a on %s, b on %s"):format(on[1], on[2]) end
  local why = {}
  for i, arm in ipairs { a, b } do
    local unfit = expect.unfit(arm)
    if unfit then why[#why + 1] = ("seeds of %s: %s"):format(i == 1 and "a" or "b", unfit) end
  end
  return #why > 0 and table.concat(why, "; ") or nil
end

function M.compare(args)
  local a, b = args.words[1], args.words[2]
  local sa, sb = store.config(a), store.config(b)
  local diff = config.diff(sa.config, sb.config)
  local va, vb = siblings(a, sa), siblings(b, sb)
  local why = incomparable(va, vb, sa, sb)
  local d = why and { n = 0 } or stats.paired(va.values, vb.values, va.seeds)
  local verdict
  if d.se then
    d.lo, d.hi = stats.interval(d, 0.95)
    verdict = stats.verdict(d.lo, d.hi)
  end
  if args.flags.json then
    print(json.encode({ a = names.shown(a), b = names.shown(b), differ = json.array(diff), n = d.n, difference = d.mean, low = d.lo, high = d.hi,
                        p = d.se and d.se > 0 and d.p or nil, verdict = verdict, not_compared = why }, { pretty = true }))
    return
  end
  print(("a  %s  (%s)\nb  %s  (%s)"):format(a, sa.arm, b, sb.arm))
  print(#diff == 0 and "same configuration" or #diff == 1 and "1 key differs" or #diff .. " keys differ")
  for _, x in ipairs(diff) do print(("  %s: %s | %s"):format(x.key, rows.show(x.a), rows.show(x.b))) end
  if why then
    print("not compared: " .. why)
  elseif d.n == 0 then
    print "no seed has finished in both: no difference to show"
  elseif not verdict then
    print(("valid loss a - b: %+.4f in one shared seed; no interval from one"):format(d.mean))
  else
    local words = { worse = "a is worse", better = "a is better", equal = "a equals b in every seed" }
    print(("valid loss a - b: %s, 95 %% interval [%s, %s], %d shared seeds: %s"):format(stats.show(d.mean, 0, "+"),
      stats.show(d.lo), stats.show(d.hi), d.n, words[verdict] or verdict))
  end
end

return M
