-- Commands about runs on disk.
-- A change here makes no run stale.
local core = require "attnlab.core"
local config = require "attnlab.config"
local expect = require "attnlab.expect"
local names = require "attnlab.names"
local rows = require "attnlab.rows"
local runs = require "attnlab.runs"
local run_list = require "attnlab.run_list"
local stats = require "attnlab.stats"
local store = require "attnlab.store"
local tables = require "attnlab.table"
local words = require "attnlab.words"
local yardstick = require "attnlab.yardstick"
local json, sys = core.json, core.sys

local function list_runs(args, usage)
  local root = words.values(args, { out_dir = "text" }, usage).out_dir
  local list = words.meant(usage, run_list.list, { experiment = args.words[1], out_dir = root, sort = args.flags.sort or "dir" })
  if not args.flags.json then
    print(#list == 0 and tostring(list) or run_list.text(list, "dir", tables.terminal()))
    return
  end
  local records = {}
  for i, r in ipairs(list) do
    records[i] = { dir = names.shown(r.dir), variant = r.variant, arm = r.arm, seed = r.seed, status = r.state, step = r.step,
                   valid_loss = r.valid_loss, stale = r.stale, reason = r.reason, check = r.check, date = r.date,
                   differs = next(r.differs) and r.differs or nil }
  end
  print(json.encode(json.array(records), { pretty = true }))
end

-- The runs beside `dir` that have its arm, as the arm of a table: {values by seed, runs, count, seeds}.
local function siblings(dir, spec)
  local root, name = sys.realpath(dir):match "^(.*)/([^/]+)/[^/]+$"
  local arm = { values = {}, runs = {}, count = { finished = 0, diverged = 0 }, seeds = {} }
  for _, other in ipairs(run_list.every(root, name)) do
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

local function compare(args)
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
    local meaning = { worse = "a is worse", better = "a is better", equal = "a equals b in every seed" }
    print(("valid loss a - b: %s, 95 %% interval [%s, %s], %d shared seeds: %s"):format(stats.show(d.mean, 0, "+"),
      stats.show(d.lo), stats.show(d.hi), d.n, meaning[verdict] or verdict))
  end
end

return {
  { name = "runs", args = "[EXPERIMENT] [out_dir=DIR]", least = 0, most = 1, sets = true, run = list_runs,
    doc = "the runs on disk and how they stand",
    options = { { name = "sort", value = "WORD", doc = "by dir (default), date, loss or arm" }, words.JSON } },
  { name = "compare", args = "RUN RUN", least = 2, most = 2, run = compare,
    doc = "two runs: keys that differ, paired difference over their seeds", options = { words.JSON } },
}
