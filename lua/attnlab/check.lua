-- check: holds variants to the conformance driver, each in a process of its own, so that a fault that
-- ends the process is a result like any other. Writes a certificate for each.
local certificate = require "attnlab.certificate"
local core = require "attnlab.core"
local plugins = require "attnlab.plugins"
local progress = require "attnlab.progress"
local tables = require "attnlab.table"
local json, sys = core.json, core.sys

local M = {}

-- ---- the worker: one variant, its result as a file ---------------------------------------------

-- Checks `name` with options `text` on top and writes {variant, family, options, passed, rows, seconds}
-- to `out`; out.live says how far it is.
function M.work(name, text, out)
  local began = sys.clock()
  local family, options = core.check.canonical(name, text)
  local k = core.check.new(name, text)
  sys.catch_interrupts(false)
  while true do
    local part, done, of = k:step()
    if not part then break end
    local f <close> = io.open(out .. ".live", "w")
    if f then f:write(("%d %d\n"):format(done, of)) end
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

-- {{name =, plugins = {paths}}, ...}
local function targets(args)
  local list, loaded = {}, args.flags.plugin or {}
  local function add(names, more)
    local paths = table.move(loaded, 1, #loaded, 1, {})
    paths[#paths + 1] = more
    for _, name in ipairs(names) do list[#list + 1] = { name = name, plugins = paths } end
  end
  for _, word in ipairs(args.words) do
    local names = {}
    if word:find "%.so$" or word:find "%.c$" then
      local path = word:find "%.c$" and plugins.build(word) or word
      of_family(plugins.load(path), names)
      add(names, path)
    else
      add({ word })
    end
  end
  if args.flags.all then
    local built_in = {}
    for _, f in ipairs(core.attn.families()) do of_family(f.name, built_in) end
    add(built_in)
    for _, path in ipairs(examples()) do
      local names = {}
      of_family(plugins.load(path), names)
      add(names, path)
    end
  end
  return list
end

-- ---- workers -----------------------------------------------------------------------------------

local function start(job, text, threads)
  local argv = { sys.program(), "checker", "--out", job.out, stdout = job.out .. ".log", stderr = job.out .. ".log",
                 env = { OMP_NUM_THREADS = tostring(threads), OMP_WAIT_POLICY = "passive" } }
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
    :format(code, log ~= "" and ": " .. log or "") or log:gsub("^attnlab: ", ""):gsub("%s+$", "")
  return { variant = job.name, passed = false, seconds = sys.clock() - job.began, crashed = how == "signal" or nil,
           refused = how ~= "signal" and why or nil,
           rows = { { check = "run", form = "", dtype = "", verdict = "FAIL", text = why } } }
end

local function live(job)
  local f <close> = io.open(job.out .. ".live", "r")
  local done, of = (f and f:read "a" or ""):match "^(%d+) (%d+)"
  return done and tonumber(done) / tonumber(of) or 0
end

local function remove(job)
  for _, suffix in ipairs { "", ".log", ".live" } do
    if sys.exists(job.out .. suffix) == "file" then sys.remove(job.out .. suffix) end
  end
end

-- Runs all jobs; each(job) is called as one ends, in their order. Returns false when interrupted.
local function run(list, text, each)
  local jobs = math.max(1, math.min(sys.cores(), #list))
  local threads = math.max(1, sys.cores() // jobs)
  local tty, began, shown = sys.isatty(2), sys.clock(), 0
  local active, next_job, said = {}, 1, 1
  sys.catch_interrupts(true)
  while (next_job <= #list or #active > 0) and sys.interrupted() == 0 do
    while #active < jobs and next_job <= #list do
      start(list[next_job], text, threads)
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
        done = done + live(active[i])
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

-- ---- what is shown -----------------------------------------------------------------------------

local function short(e)
  return e and (e == 0 and "0" or ("%.1e"):format(e)) or ""
end

local FORMS = { { key = "form", title = "form" }, { key = "f64", title = "f64", right = true },
                { key = "f32", title = "f32", right = true }, { key = "gradient", title = "gradient f64", right = true },
                { key = "gradient32", title = "f32", right = true }, { key = "growth", title = "f32 error along 500 tokens" },
                { key = "verdict", title = "verdict" } }
local OTHERS = { { key = "check", title = "check" }, { key = "n", title = "rows", right = true },
                 { key = "worst", title = "worst error", right = true }, { key = "verdict", title = "verdict" } }

-- Worst error by form and dtype, one line a form.
local function by_form(rows)
  local order, at = {}, {}
  for _, r in ipairs(rows) do
    if r.check == "forms" or r.check == "gradient" then
      local line = at[r.form]
      if not line then
        line = { form = r.form, verdict = r.verdict == "refused" and "refused" or "rounding" }
        at[r.form], order[#order + 1] = line, line
      end
      local column = r.check == "forms" and r.dtype or r.dtype == "f64" and "gradient" or "gradient32"
      if r.error then line[column] = short(r.error) end
      if r.verdict == "FAIL" then line.verdict = "FAULT" end
      if r.growth and r.dtype == "f32" then
        local words = {}
        for i, e in ipairs(r.growth) do words[i] = e == 0 and "0" or ("%.0e"):format(e) end
        line.growth = table.concat(words, " ")
      end
    end
  end
  return order
end

local function by_check(rows)
  local order, at = {}, {}
  for _, r in ipairs(rows) do
    if r.check ~= "forms" and r.check ~= "gradient" then
      local line = at[r.check]
      if not line then
        line = { check = r.check, count = 0, word = "pass", names = {} }
        at[r.check], order[#order + 1] = line, line
      end
      line.count = line.count + 1
      if r.error and r.error >= (line.error or 0) then line.error = r.error end
      line.names[r.verdict] = (line.names[r.verdict] or 0) + 1
    end
  end
  for _, line in ipairs(order) do
    local words = {}
    for _, v in ipairs { "pass", "FAIL", "refused", "exempt" } do
      local n = line.names[v]
      if n then words[#words + 1] = n == line.count and v or ("%d %s"):format(n, v) end
    end
    line.n, line.worst, line.verdict = tostring(line.count), short(line.error), table.concat(words, ", ")
  end
  return order
end

-- Texts of the rows with that verdict; equal ones once, with how many forms have them.
local function texts(rows, verdict)
  local order, at = {}, {}
  for _, r in ipairs(rows) do
    if r.verdict == verdict then
      local key = r.check .. "\0" .. r.text
      local line = at[key]
      if not line then
        line = { row = r, n = 0 }
        at[key], order[#order + 1] = line, line
      end
      line.n = line.n + 1
    end
  end
  local out = {}
  for i, line in ipairs(order) do
    local r = line.row
    local who = ("%s%s%s"):format(r.form, r.dtype ~= "" and (r.form ~= "" and " " or "") .. r.dtype or "",
      line.n > 1 and (" and %d more"):format(line.n - 1) or "")
    out[i] = ("  %s%s: %s"):format(r.check, who ~= "" and " (" .. who .. ")" or "", r.text)
  end
  return out
end

local function lines(title, list)
  if #list > 0 then print(title .. "\n" .. table.concat(list, "\n")) end
end

local function show_one(r)
  print(("%s  (family %s)"):format(r.variant, r.family or "?"))
  local forms = by_form(r.rows)
  if #forms > 0 then print(tables.text(FORMS, forms) .. "\n") end
  local others = by_check(r.rows)
  if #others > 0 then print(tables.text(OTHERS, others) .. "\n") end
  lines("refused by the variant:", texts(r.rows, "refused"))
  lines("exempt:", texts(r.rows, "exempt"))
  lines("FAULTS:", texts(r.rows, "FAIL"))
end

-- "p1/softmax  passed  7 forms f64 f32  5e-16 3e-07  gradient 4e-10  6.1 s"
local function one_line(r)
  local forms, worst, refused = {}, { f64 = 0, f32 = 0, gradient = 0 }, 0
  for _, row in ipairs(r.rows) do
    if row.check == "forms" and row.verdict ~= "refused" then forms[row.form] = true end
    if row.check == "forms" and row.verdict == "refused" then refused = refused + 1 end
    local column = row.check == "forms" and row.dtype or row.check == "gradient" and row.dtype == "f64" and "gradient"
    if worst[column] and row.error and row.error > worst[column] then worst[column] = row.error end
  end
  local n = 0
  for _ in pairs(forms) do n = n + 1 end
  print(("%-46s %-6s %2d forms%s, f64 %s, f32 %s, gradients %s  %4.1f s"):format(r.variant, r.passed and "passed" or "FAILED",
    n, refused > 0 and (" (%d refused)"):format(refused) or "", short(worst.f64), short(worst.f32), short(worst.gradient),
    r.seconds))
  if not r.passed then lines("", texts(r.rows, "FAIL")) end
end

-- ---- the command -------------------------------------------------------------------------------

function M.run(args, usage)
  local root, words = "runs", {}
  for _, kv in ipairs(args.sets) do
    if kv[1] == "out_dir" then
      if kv[2] == "" then usage "out_dir: a folder is needed" end
      root = kv[2]
    else
      words[#words + 1] = ("%s=%s"):format(kv[1], kv[2]:find "%s" and "'" .. kv[2] .. "'" or kv[2])
    end
  end
  local text = table.concat(words, " ")
  if not args.flags.all and #args.words == 0 then usage "check: a name, a plug-in (.so, .c) or --all expected" end
  if args.flags.all and text ~= "" then usage "check: options belong to one name, not to --all" end
  local list, began = targets(args), sys.clock()
  for _, job in ipairs(list) do -- unknown names, before anything runs
    local ok, why = pcall(core.check.canonical, job.name, text)
    if not ok then error(why, 0) end
  end
  sys.mkdir(root .. "/certificates")
  for i, job in ipairs(list) do job.out = ("%s/certificates/.%d.%d"):format(root, sys.pid(), i) end
  local records, failed = {}, 0
  local complete = run(list, text, function(job)
    local r = job.result
    if r.family then r.certificate = certificate.write(root, r) end
    records[#records + 1] = r
    if not r.passed then failed = failed + 1 end
    if #list == 1 then show_one(r) else one_line(r) end
  end)
  if args.flags.json then
    for _, r in ipairs(records) do r.rows = json.array(r.rows) end
    sys.write(args.flags.json, json.encode({ version = core.version, build = core.info(), passed = complete and failed == 0,
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
