-- The command bench: times beside what this machine could do at best, and only of results that were
-- found right in the same process. bench/train, attention, ops, decode and data hold one kind each: the rows of
-- their options, check(o), which refuses what a row cannot tell, the columns of their table, and
-- run(o, given) -> {title, rows, rates, notes}.
-- A change here makes no run stale.
local core = require "attnlab.core"
local ceiling = require "attnlab.bench.ceiling"
local machine = require "attnlab.bench.machine"
local names = require "attnlab.names"
local rows = require "attnlab.rows"
local show = require "attnlab.bench.show"
local tables = require "attnlab.table"
local words = require "attnlab.words"
local json, sys = core.json, core.sys

local M = {}

M.KINDS = { "train", "attention", "ops", "decode", "data" }

local COMMON = {
  { name = "rounds", type = "integer", default = "7", min = 1,
    doc = "samples of each case, taken in turns" },
  { name = "warmup", type = "integer", default = "2", min = 0, doc = "rounds before them" },
  { name = "least", type = "number", default = "0.02", min = 0,
    doc = "seconds of a sample; what is shorter runs several times" },
  { name = "threads", type = "integer", default = "0", min = 0,
    doc = "0 = as the environment says" },
}

-- Every key of a kind, with its row; the kind's own come first, in place of common ones of that name.
function M.rows(kind)
  local list = {}
  for _, part in ipairs { require("attnlab.bench." .. kind).rows, COMMON, ceiling.rows } do
    for _, row in ipairs(part) do
      if not rows.find(list, row.name) then list[#list + 1] = row end
    end
  end
  return list
end

-- The keys of every kind, for --help.
function M.help()
  local parts = {}
  for _, kind in ipairs(M.KINDS) do
    local own = require("attnlab.bench." .. kind).rows
    parts[#parts + 1] = ("keys of bench %s:\n%s"):format(kind, rows.help(own))
  end
  for _, part in ipairs { COMMON, ceiling.rows } do
    parts[#parts + 1] = (part == COMMON and "keys of all:\n" or "") .. rows.help(part)
  end
  return table.concat(parts, "\n")
end

-- key=value words as a table with defaults; second result: the keys that were given.
function M.options(kind, sets)
  local known, o, given = M.rows(kind), {}, {}
  for _, row in ipairs(known) do o[row.name] = rows.default(row) end
  for _, kv in ipairs(sets) do
    local row = rows.find(known, kv[1])
    if not row then error(names.unknown("key", kv[1], rows.names(known)), 0) end
    o[row.name], given[row.name] = rows.parse(row, kv[2], kv[1]), true
  end
  require("attnlab.bench." .. kind).check(o)
  return o, given
end

-- Tables for JSON, which has no infinity and no NaN.
local function plain(v)
  if type(v) == "table" then
    local out = {}
    for k, x in pairs(v) do out[k] = plain(x) end
    return out
  end
  if type(v) == "number" and not (math.abs(v) < math.huge) then return tostring(v) end
  return v
end

local function table_of(columns, list)
  local heads, cells = {}, {}
  for k, c in ipairs(columns) do heads[k] = { key = k, title = c.title, right = c.right } end
  for i, r in ipairs(list) do
    cells[i] = {}
    for k, c in ipairs(columns) do cells[i][k] = c.show(r) or nil end
  end
  return tables.text(heads, cells)
end

local function report(result)
  local m, rates = result.machine, result.rates
  print(result.title)
  print(("%s, %d cores, %d threads (waiting: %s), load average %s before, %s after\n%s"):format(
    m.cpu, m.cores, m.threads, m.wait_policy, m.load_before or "?", m.load_after or "?",
    result.versions.libraries))
  if rates then
    print(("ceilings in this run: products %s GFLOP/s, copy %s GB/s"):format(
      show.giga(rates.product), show.giga(rates.copy)))
  end
  print("\n" .. table_of(require("attnlab.bench." .. result.bench).columns, result.rows) .. "\n")
  for _, note in ipairs(result.notes) do print(note) end
  if result.busy then print("WARNING: " .. result.busy) end
end

-- Runs one kind. o, given: of M.options, with the tests' replacements in o. Returns everything that
-- was measured.
function M.measure(kind, o, given)
  local before = core.threads()
  if o.threads > 0 then core.threads(o.threads) end
  local m = machine.begin()
  o.say = o.say or function() end
  local ok, result = pcall(require("attnlab.bench." .. kind).run, o, given or {})
  core.threads(before)
  if not ok then error(result, 0) end
  result.device = core.on()
  result.bench, result.machine, result.versions = kind, machine.finish(m), machine.versions()
  result.busy, result.ok = result.rates and machine.busy(m, result.rates.share), true
  for _, r in ipairs(result.rows) do result.ok = result.ok and r.ok end
  return result
end

local function progress()
  if not sys.isatty(2) then return nil end
  return function(text) io.stderr:write("\r\27[K", text, "\r") end
end

-- The command: prints the table, writes --json FILE. Exit status 1 when a result was wrong.
function M.run(args, usage)
  local kind = args.words[1]
  local found = false
  for _, k in ipairs(M.KINDS) do found = found or k == kind end
  if not found then usage("bench: %s", names.unknown("kind", kind, M.KINDS)) end
  local ok, o, given = pcall(M.options, kind, args.sets)
  if not ok then usage("bench %s: %s", kind, o) end
  if args.flags.json then words.writable("bench", args.flags.json) end
  words.on(args, usage)
  local line = { "./lab bench " .. kind }
  if core.on() ~= "cpu" then line[#line + 1] = "--device " .. core.on() end
  for _, kv in ipairs(args.sets) do line[#line + 1] = names.word(kv[1] .. "=" .. kv[2]) end
  local options = plain(o)
  o.say = progress()
  local result = M.measure(kind, o, given)
  if o.say then o.say "" end
  result.command, result.options = table.concat(line, " "), options
  report(result)
  if args.flags.json then
    sys.write(args.flags.json, json.encode(plain(result), { pretty = true }) .. "\n")
    print("json    " .. args.flags.json)
  end
  return result.ok and 0 or 1
end

return M
