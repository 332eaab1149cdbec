-- check: holds variants to the conformance driver, on a device (checkers.lua), and writes a certificate for each.
-- A change here makes no run stale.
local certificate = require "attnlab.certificate"
local check_table = require "attnlab.check_table"
local checkers = require "attnlab.checkers"
local core = require "attnlab.core"
local devices = require "attnlab.devices"
local names = require "attnlab.names"
local plugins = require "attnlab.plugins"
local progress = require "attnlab.progress"
local store = require "attnlab.store"
local words = require "attnlab.words"
local json, sys = core.json, core.sys

local M = {}

local PATIENCE = 300 -- seconds without progress after which a variant counts as one that does not end

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
  local jobs = args.flags.jobs and words.whole(args.flags.jobs, "jobs", usage, 1)
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
  local spent = 0 -- seconds of the device
  local complete = checkers.run(list, { text = text, patience = patience, device = device, jobs = jobs }, function(job)
    local r = job.result
    if r.family then r.certificate = certificate.write(root, r, device) end
    records[#records + 1] = r
    spent = spent + (r.seconds_on and r.seconds_on[device] or 0)
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
  local processes = checkers.shares(#list, device, jobs)
  local of_it = device ~= "cpu" and (", of it on %s %s%s"):format(device, progress.clock(spent),
    processes > 1 and (" in the sum of %d processes"):format(processes) or "") or ""
  print(("%s%s in %s%s; certificate%s: %s"):format(failed == 0 and "passed" or "FAILED",
    #list > 1 and (": %d of %d variants passed"):format(#list - failed, #list) or "", progress.clock(sys.clock() - began), of_it,
    #list > 1 and "s" or "", where or "none"))
  return failed == 0 and 0 or 1
end

return M
