-- checkers: the processes in which `check` holds variants to the conformance driver, so that a fault that ends the
-- process is a result like any other. On the CPU each has one of its own. On a card a process takes several, as opening
-- one and its libraries takes as long as a variant; when one ends the process or does not pass, which may have broken the
-- card's context, the rest goes to a new one.
-- A job is {name =, plugins = {paths}, out = its file, family =, options =}; here it gets its `result`.
-- A change here makes no run stale.
local core = require "attnlab.core"
local devices = require "attnlab.devices"
local progress = require "attnlab.progress"
local json, sys = core.json, core.sys

local M = {}

local ON_CARD = 2 -- processes that share one: while one makes the truth on the CPU the other has it. More wait for each
                  -- other, as a card runs one process at a time and takes its time to change
local EACH = 8    -- variants that a process on a card takes

-- ---- in the process ----------------------------------------------------------------------------

-- Checks `name` with options `text` on top: {variant, family, options, passed, rows, seconds, seconds_on = by device}
-- goes to `out`, how far it is to out.live. Returns whether it passed.
local function work(name, text, out)
  local began = sys.clock()
  local live <close> = sys.append(out .. ".live")
  local family, options = core.check.canonical(name, text)
  local k = core.check.new(name, text)
  sys.catch_interrupts(false)
  sys.say_crashes(name)
  while true do
    local part, done, of = k:step()
    if not part then break end
    live:replace(("%-20d %-20d\n"):format(done, of)) -- of one length: what lies behind it stays
  end
  local passed = k:passed()
  sys.write(out, json.encode { variant = name, family = family, options = options, passed = passed,
                               rows = json.array(k:rows()), seconds = sys.clock() - began, seconds_on = k:seconds() })
  return passed
end

-- Each name with its file; one that does not pass is the last.
function M.work(variants, text, files)
  for i, name in ipairs(variants) do
    if not work(name, text, files[i]) then return end
    collectgarbage() -- its queue and its memory
  end
end

-- ---- from outside ------------------------------------------------------------------------------

local function remove(job)
  for _, suffix in ipairs { "", ".log", ".live" } do
    if sys.exists(job.out .. suffix) then sys.remove(job.out .. suffix) end
  end
end

-- A process with the jobs at the front of `queue` that need the same plug-ins, `most` at most.
local function start(queue, most, o)
  local first = queue[1]
  local list = table.concat(first.plugins, "\0")
  local argv = { sys.program(), "checker", "--device=" .. o.device, "--options=" .. o.text, stdout = first.out .. ".log",
                 stderr = first.out .. ".log", env = { OMP_NUM_THREADS = tostring(o.threads), OMP_WAIT_POLICY = "passive" } }
  for _, path in ipairs(first.plugins) do
    argv[#argv + 1] = "--plugin"
    argv[#argv + 1] = path
  end
  local w = { jobs = {}, log = first.out .. ".log", since = sys.clock() }
  while #w.jobs < most and queue[1] and table.concat(queue[1].plugins, "\0") == list do
    local job = table.remove(queue, 1)
    remove(job) -- what another process of this number left is no result of ours
    w.jobs[#w.jobs + 1] = job
    argv[#argv + 1] = "--out=" .. job.out
    argv[#argv + 1] = job.name
  end
  w.pid, w.began = sys.spawn(argv), sys.clock()
  return w
end

-- The result of a job whose process ended before it had written one.
local function failure(w, job, how, code)
  local log = sys.exists(w.log) == "file" and sys.read(w.log) or ""
  local why = how == "signal" and ("the process ended by signal %d: the variant crashes%s")
    :format(code, log ~= "" and ": " .. log:gsub("%s+$", "") or "") or log:gsub("^attnlab: ", ""):gsub("%s+$", "")
  local left = how ~= "signal" and (code == 0 or why == "")
  if left then
    why = ("the process ended with status %d before the end of the check: the variant calls exit%s")
      :format(code, why ~= "" and ": " .. why or "")
  end
  if w.stuck then why = ("no progress for %d s: a call of the variant does not end"):format(w.stuck) end
  local killed = not w.stuck and how == "signal" and (code == 9 or code == 15) -- from outside: nothing is known of the variant
  local its_own = left or how == "signal" and not killed
  if killed then why = ("the process was ended from outside, by signal %d"):format(code) end
  return { variant = job.name, passed = false, seconds = sys.clock() - w.began, crashed = how == "signal" or nil,
           family = its_own and job.family or nil, options = its_own and job.options or nil,
           refused = how ~= "signal" and why or nil,
           rows = { { check = "run", form = "", dtype = "", verdict = "FAIL", text = why } } }
end

-- Takes the results that are there.
local function collect(w)
  for _, job in ipairs(w.jobs) do
    if not job.result and sys.exists(job.out) == "file" then
      job.result = json.decode(sys.read(job.out))
      w.began = sys.clock()
    end
  end
end

-- Of a process that has ended: the job that ended it, and those it did not come to back to the queue's front.
local function settle(w, how, code, queue)
  local blamed, rest = false, {}
  for i, job in ipairs(w.jobs) do
    if job.result then
      blamed = blamed or not job.result.passed
    elseif not blamed and (i == 1 or sys.exists(job.out .. ".live")) then
      job.result, blamed = failure(w, job, how, code), true
    else
      rest[#rest + 1] = job
    end
  end
  for _, job in ipairs(w.jobs) do remove(job) end
  table.move(queue, 1, #queue, #rest + 1)
  table.move(rest, 1, #rest, 1, queue)
end

-- How many of its jobs, in parts, are done; a process that has not come on for `patience` seconds is ended.
local function look_after(w, patience)
  local at = 0
  for _, job in ipairs(w.jobs) do
    local ok, text = pcall(sys.read, job.out .. ".live", 256)
    local done, of = (ok and text or ""):match "^(%d+) +(%d+)"
    at = at + (job.result and 1 or done and tonumber(done) / tonumber(of) or 0)
  end
  if at ~= w.at then
    w.at, w.since = at, sys.clock()
  elseif sys.clock() - w.since > patience then
    w.stuck = patience
    pcall(sys.kill, w.pid, 9)
  end
  return at
end

-- How many processes, and how many variants each takes.
function M.shares(n, device, jobs)
  local card = devices.is_card(device)
  jobs = math.max(1, math.min(jobs or math.min(sys.cores(), card and ON_CARD or math.huge), n))
  return jobs, card and math.min(EACH, (n + jobs - 1) // jobs) or 1
end

-- Runs all jobs, o = {text = options, patience =, device =, jobs =, most = of a process (both: as shares says)}; each(job) is called as one ends, in their order.
-- Returns false when interrupted.
function M.run(list, o, each)
  local jobs, most = M.shares(#list, o.device, o.jobs)
  most = o.most or most
  o.threads = math.max(1, sys.cores() // jobs)
  local tty, began, shown = sys.isatty(2), sys.clock(), 0
  local active, queue, said = {}, table.move(list, 1, #list, 1, {}), 1
  sys.catch_interrupts(true)
  while (#queue > 0 or #active > 0) and sys.interrupted() == 0 do
    while #active < jobs and #queue > 0 do active[#active + 1] = start(queue, most, o) end
    sys.sleep(0.05)
    local done, name = 0, ""
    for i = #active, 1, -1 do
      local w = active[i]
      local how, code = sys.wait(w.pid, true)
      collect(w)
      if how ~= "running" then
        settle(w, how, code, queue)
        table.remove(active, i)
      else
        done = done + look_after(w, o.patience)
        for k = #w.jobs, 1, -1 do name = w.jobs[k].result and name or w.jobs[k].name end
      end
    end
    if tty and sys.clock() - shown > 0.2 then
      shown = sys.clock()
      local ended = #list - #queue
      for _, w in ipairs(active) do ended = ended - #w.jobs end
      done = done + ended
      local eta = done > 0 and (shown - began) * (#list - done) / done
      io.stderr:write(("\r%d/%d variants | %s%s\27[K"):format(done // 1, #list, name,
        eta and " | eta " .. progress.clock(eta) or ""))
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
  for _, w in ipairs(active) do
    pcall(sys.kill, w.pid, 9)
    sys.wait(w.pid)
    for _, job in ipairs(w.jobs) do remove(job) end
  end
  if tty then io.stderr:write "\r\27[K" end
  return not interrupted
end

return M
