-- check: holds variants to the conformance driver, on a device, each in a process of its own, so that a fault that
-- ends the process is a result like any other. Writes a certificate for each.
-- A change here makes no run stale.
local certificate = require "attnlab.certificate"
local check_table = require "attnlab.check_table"
local core = require "attnlab.core"
local devices = require "attnlab.devices"
local names = require "attnlab.names"
local plugins = require "attnlab.plugins"
local progress = require "attnlab.progress"
local store = require "attnlab.store"
local words = require "attnlab.words"
local json, sys = core.json, core.sys

local M = {}

local ON_CARD = 8 -- processes that share one: each has to open it, and waits for most of its numbers
local PATIENCE = 300 -- seconds without progress after which a variant counts as one that does not end

-- ---- the worker: one variant, its result as a file ---------------------------------------------

-- Checks `name` with options `text` on top and writes {variant, family, options, passed, rows, seconds}
-- to `out`; out.live says how far it is.
function M.work(name, text, out)
  local began = sys.clock()
  local family, options = core.check.canonical(name, text)
  local k = core.check.new(name, text)
  sys.catch_interrupts(false)
  sys.say_crashes(name)
  local live <close> = sys.append(out .. ".live")
  while true do
    local part, done, of = k:step()
    if not part then break end
    live:replace(("%-20d %-20d\n"):format(done, of)) -- of one length: what lies behind it stays
  end
  local rows = k:rows()
  sys.write(out, json.encode { variant = name, family = family, options = options, passed = k:passed(),
                               rows = json.array(rows), seconds = sys.clock() - began })
end

-- ---- what to check -----------------------------------------------------------------------------

-- Names of a family and of its presets.
local function of_family(family, list)
  list[#list + 1] = family
  for _, p in ipairs(core.attn.list()) do
    if p.family == family then list[#list + 1] = p.name end
  end
end

-- The example plug-ins that the build made, beside the program.
local function examples()
  local dir = (sys.program():match "^(.*)/" or ".") .. "/plugins"
  local out = {}
  if sys.exists(dir) == "dir" then
    for _, name in ipairs(sys.list(dir)) do
      if name:find "%.so$" then out[#out + 1] = dir .. "/" .. name end
    end
    table.sort(out)
  end
  return out
end

-- {{name =, plugins = {paths}, typed = the user wrote it}, ...}
local function targets(args)
  local list, loaded = {}, args.flags.plugin or {}
  local function add(variants, more, typed)
    local paths = table.move(loaded, 1, #loaded, 1, {})
    paths[#paths + 1] = more
    for _, name in ipairs(variants) do list[#list + 1] = { name = name, plugins = paths, typed = typed } end
  end
  local without = {} -- what every worker has: read before files bring more
  for _, f in ipairs(core.attn.families()) do of_family(f.name, without) end
  for _, word in ipairs(args.words) do
    local variants = {}
    if word:find "%.so$" or word:find "%.c$" then
      local path = word:find "%.c$" and plugins.build(word) or word
      of_family(plugins.load(path), variants)
      add(variants, path)
    else
      add({ word }, nil, true)
    end
  end
  if args.flags.all then
    add(without)
    for _, path in ipairs(examples()) do
      local variants = {}
      of_family(plugins.load(path), variants)
      add(variants, path)
    end
  end
  return list
end

-- ---- workers -----------------------------------------------------------------------------------

local function remove(job)
  for _, suffix in ipairs { "", ".log", ".live" } do
    if sys.exists(job.out .. suffix) then sys.remove(job.out .. suffix) end
  end
end

local function start(job, text, threads, device)
  remove(job) -- what another process of this number left is no result of ours
  local argv = { sys.program(), "checker", "--out", job.out, stdout = job.out .. ".log", stderr = job.out .. ".log",
                 env = { OMP_NUM_THREADS = tostring(threads), OMP_WAIT_POLICY = "passive" } }
  argv[#argv + 1] = "--device=" .. device
  for _, path in ipairs(job.plugins) do
    argv[#argv + 1] = "--plugin"
    argv[#argv + 1] = path
  end
  argv[#argv + 1] = job.name
  if text ~= "" then argv[#argv + 1] = text end
  job.pid, job.began = sys.spawn(argv), sys.clock()
end

-- The result of a worker that has ended; one that wrote none crashed or could not begin.
local function result(job, how, code)
  if sys.exists(job.out) == "file" then return json.decode(sys.read(job.out)) end
  local log = sys.exists(job.out .. ".log") == "file" and sys.read(job.out .. ".log") or ""
  local why = how == "signal" and ("the process ended by signal %d: the variant crashes%s")
    :format(code, log ~= "" and ": " .. log:gsub("%s+$", "") or "") or log:gsub("^attnlab: ", ""):gsub("%s+$", "")
  local left = how ~= "signal" and (code == 0 or why == "")
  if left then
    why = ("the process ended with status %d before the end of the check: the variant calls exit%s")
      :format(code, why ~= "" and ": " .. why or "")
  end
  if job.stuck then why = ("no progress for %d s: a call of the variant does not end"):format(job.stuck) end
  local killed = not job.stuck and how == "signal" and (code == 9 or code == 15) -- from outside: nothing is known of the variant
  local its_own = left or how == "signal" and not killed
  if killed then why = ("the process was ended from outside, by signal %d"):format(code) end
  return { variant = job.name, passed = false, seconds = sys.clock() - job.began, crashed = how == "signal" or nil,
           family = its_own and job.family or nil, options = its_own and job.options or nil,
           refused = how ~= "signal" and why or nil,
           rows = { { check = "run", form = "", dtype = "", verdict = "FAIL", text = why } } }
end

local function live(job)
  local ok, text = pcall(sys.read, job.out .. ".live", 256)
  local done, of = (ok and text or ""):match "^(%d+) +(%d+)"
  return done and tonumber(done) / tonumber(of) or 0
end

-- Ends a worker that has not come on for `patience` seconds.
local function look_after(job, patience)
  local at = live(job)
  if at ~= job.at then
    job.at, job.since = at, sys.clock()
  elseif sys.clock() - job.since > patience then
    job.stuck = patience
    pcall(sys.kill, job.pid, 9)
  end
  return at
end

-- Runs all jobs; each(job) is called as one ends, in their order. Returns false when interrupted.
local function run(list, text, patience, device, each)
  local jobs = math.max(1, math.min(sys.cores(), devices.is_card(device) and ON_CARD or math.huge, #list))
  local threads = math.max(1, sys.cores() // jobs)
  local tty, began, shown = sys.isatty(2), sys.clock(), 0
  local active, next_job, said = {}, 1, 1
  sys.catch_interrupts(true)
  while (next_job <= #list or #active > 0) and sys.interrupted() == 0 do
    while #active < jobs and next_job <= #list do
      start(list[next_job], text, threads, device)
      active[#active + 1] = list[next_job]
      next_job = next_job + 1
    end
    sys.sleep(0.05)
    local done = 0
    for i = #active, 1, -1 do
      local how, code = sys.wait(active[i].pid, true)
      if how ~= "running" then
        active[i].result = result(active[i], how, code)
        remove(active[i])
        table.remove(active, i)
      else
        done = done + look_after(active[i], patience)
      end
    end
    if tty and sys.clock() - shown > 0.2 then
      shown = sys.clock()
      done = done + (next_job - 1 - #active)
      local eta = done > 0 and (shown - began) * (#list - done) / done
      io.stderr:write(("\r%d/%d variants | %s%s\27[K"):format(next_job - 1 - #active, #list,
        active[1] and active[1].name or "", eta and " | eta " .. progress.clock(eta) or ""))
      io.stderr:flush()
    end
    while list[said] and list[said].result do
      if tty then io.stderr:write "\r\27[K" end
      each(list[said])
      io.stdout:flush()
      said = said + 1
    end
  end
  local interrupted = sys.interrupted() > 0
  sys.catch_interrupts(false)
  for _, job in ipairs(active) do
    pcall(sys.kill, job.pid, 9)
    sys.wait(job.pid)
    remove(job)
  end
  if tty then io.stderr:write "\r\27[K" end
  return not interrupted
end

-- ---- the command -------------------------------------------------------------------------------

-- key=value as the text of options has it: lists as they are, what would end early in quotes.
local function option(key, value)
  local list = value:find "^{.*}$" or value:find "^%([%d%s.,+eE-]*%)$"
  if list or not value:find "[%s,'\"]" and not value:find "^[({]" then return key .. "=" .. value end
  return ("%s='%s'"):format(key, (value:gsub("'", "''")))
end

function M.run(args, usage)
  local root, options = "runs", {}
  for _, kv in ipairs(args.sets) do
    if kv[1] == "out_dir" then
      root = kv[2]
    else
      options[#options + 1] = option(kv[1], kv[2])
    end
  end
  local text = table.concat(options, " ")
  if not args.flags.all and #args.words == 0 then usage "check: a name, a plug-in (.so, .c) or --all expected" end
  if args.flags.all and text ~= "" then usage "check: options belong to one name, not to --all" end
  if args.flags.json then words.writable("check", args.flags.json) end
  local patience = args.flags.patience and math.tointeger(tonumber(args.flags.patience)) or PATIENCE
  if patience < 1 or args.flags.patience and not math.tointeger(tonumber(args.flags.patience)) then
    usage(("check: --patience: a whole number of seconds >= 1 expected, got '%s'"):format(args.flags.patience))
  end
  local device = words.device(args, usage)
  devices.need(device)
  local list, began = targets(args), sys.clock()
  for _, job in ipairs(list) do -- unknown names, before anything runs
    local ok, family, canonical = pcall(core.check.canonical, job.name, text)
    local typed = not ok and (job.typed or text ~= "" and pcall(core.check.canonical, job.name, ""))
    if typed then usage("%s", family) end
    if not ok then error(family, 0) end
    job.family, job.options = family, canonical
  end
  sys.mkdir(names.inside(root, "certificates"))
  for i, job in ipairs(list) do job.out = names.inside(root, ("certificates/.%d.%d"):format(sys.pid(), i)) end
  local records, failed = {}, 0
  local complete = run(list, text, patience, device, function(job)
    local r = job.result
    if r.family then r.certificate = certificate.write(root, r, device) end
    records[#records + 1] = r
    if not r.passed then failed = failed + 1 end
    if #list == 1 then check_table.whole(r) else check_table.line(r) end
  end)
  if args.flags.json then
    for _, r in ipairs(records) do r.rows = json.array(r.rows) end
    sys.write(args.flags.json, json.encode({ version = core.version, device = device, build = store.libraries(device), passed = complete and failed == 0,
                                             variants = json.array(records) }, { pretty = true }) .. "\n")
  end
  if not complete then
    print "interrupted"
    return 130
  end
  local where = #list == 1 and records[1].certificate or root .. "/certificates"
  print(("%s%s in %s; certificate%s: %s"):format(failed == 0 and "passed" or "FAILED",
    #list > 1 and (": %d of %d variants passed"):format(#list - failed, #list) or "", progress.clock(sys.clock() - began),
    #list > 1 and "s" or "", where or "none"))
  return failed == 0 and 0 or 1
end

return M
