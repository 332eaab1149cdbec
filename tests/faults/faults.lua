-- What becomes of runs when processes are killed and signalled, calls of the system fail and disks are full:
--   attnlab lua tests/faults/faults.lua [shim=FILE] [kills=N] [calls=N] [fills=N] [signals=N] [seed=N] [keep=FOLDER]
-- After each fault every listing works, and one more call of the same command ends well, with the bytes of a run
-- that nothing happened to. Prints a line a finding; status 1 where there is one. `signals` of 27: nine kinds, to the
-- runner, to a worker and to the group. keep: where the folder of each finding is moved.
local h = dofile((arg[0]:match "^(.*/)" or "") .. "harness.lua")
local core = require "attnlab.core"
local sys = core.sys

local given = { kills = 5, calls = 12, fills = 2, signals = 6, seed = 1, shim = "", keep = "" }
for _, word in ipairs(arg) do
  local key, value = word:match "^(%l+)=(.*)$"
  if not given[key] then error("unknown word " .. word, 0) end
  given[key] = math.tointeger(tonumber(value)) or value
end
math.randomseed(given.seed)
h.keep = given.keep ~= "" and given.keep or nil

local function pick(list) return list[math.random(#list)] end

-- ---- kills: a runner, a worker or both at any moment, up to three times ---------------------------

local function kill_one(i)
  h.case(("kill %d"):format(i), pick { h.RUN, h.RUN, h.STUDY }, function(case)
    local done = {}
    for k = 1, math.random(3) do
      local job = case:start()
      local after = math.random() * 1.2 * case.command.seconds
      sys.sleep(after)
      local whom = pick { "runner", "worker", "group" }
      done[k] = ("%s after %.3f s"):format(whom, after)
      h.signal(job, whom, "KILL")
      case:ended(job, { 9 })
    end
    return table.concat(done, ", ")
  end)
end

-- ---- signals ------------------------------------------------------------------------------------------

local SIGNALS = { { "INT" }, { "INT", "INT" }, { "INT", "INT", "INT" }, { "TERM" }, { "HUP" }, { "QUIT" }, { "PIPE" }, { "USR1" },
                  { "STOP", "CONT" } }
local NUMBERS = { INT = 2, TERM = 15, HUP = 1, QUIT = 3, PIPE = 13, USR1 = 10, STOP = 19, CONT = 18 }

local ASKS = { INT = true, TERM = true, HUP = true } -- whoever sends these wants an end, and gets 130

local function signal_one(i)
  local list, whom = SIGNALS[(i - 1) % #SIGNALS + 1], ({ "runner", "worker", "group" })[(i - 1) // #SIGNALS % 3 + 1]
  local command = pick { h.RUN, h.RUN, h.TRAIN, h.STUDY }
  h.case(("signal %d, %s to %s of %s"):format(i, table.concat(list, " "), whom, command.name), command, function(case)
    local job = case:start()
    local after = math.random() * command.seconds
    sys.sleep(after)
    h.signal(job, whom, table.unpack(list))
    -- the runner may die of it itself; a worker that does is a failure
    case:ended(job, { NUMBERS[list[1]] }, whom ~= "worker" and ASKS[list[1]])
    return ("after %.3f s"):format(after)
  end)
end

-- ---- calls that fail -----------------------------------------------------------------------------------

local ERRORS = { open = { 5, 28, 24 }, write = { 28, 5 }, short = { 0 }, fsync = { 5, 28 }, rename = { 5, 28 }, mkdir = { 28, 5 },
                 unlink = { 5 }, truncate = { 5 }, lock = { 5, 37 }, stat = { 5 }, read = { 5 }, spawn = { 11, 24 } }
local CALLS = { "write", "short", "open", "fsync", "rename", "mkdir", "read", "truncate", "unlink", "lock", "stat", "spawn" }
local SITES = { { "train", h.TRAIN }, { "worker", h.RUN }, { "run", h.RUN }, { "run", h.STUDY } }

local counts = {}

-- How many such calls a process of that kind makes.
local function calls_of(call, site)
  local key = call .. " " .. site[1] .. " " .. site[2].name
  if not counts[key] then
    local path = h.folder() .. "/count"
    h.run(site[2], h.folder(), { LD_PRELOAD = given.shim, FAULT_CALL = call, FAULT_IN = site[1], FAULT_COUNT = path })
    local most = 0
    for n in (sys.exists(path) and sys.read(path) or ""):gmatch "%d+" do most = math.max(most, tonumber(n)) end
    counts[key] = most
  end
  return counts[key]
end

local function call_one(i)
  local call = CALLS[(i - 1) % #CALLS + 1]
  local site, n
  repeat
    site = pick(SITES)
    n = calls_of(call, site)
  until n > 0
  local at, number, on = math.random(n), pick(ERRORS[call]), math.random(4) == 1
  h.case(("call %d: %s %d of %d%s in %s of %s, errno %d"):format(i, call, at, n, on and " and all after" or "",
    site[1], site[2].name, number),
    site[2], function(case)
      case:ended(case:start { LD_PRELOAD = given.shim, FAULT_CALL = call, FAULT_AT = tostring(at), FAULT_IN = site[1],
                              FAULT_ERRNO = tostring(number), FAULT_ON = on and "1" or nil }, {})
    end)
end

-- ---- full disks: a small one that is filled but for some bytes, where this process may mount one ----------

local function fill_one(i, disk)
  local free = math.random(0, 260) * 1024
  h.case(("fill %d: %d KiB left"):format(i, free // 1024), pick { h.RUN, h.TRAIN, h.STUDY }, function(case)
    sys.write(disk.path .. "/filler", ("x"):rep(disk.size - free))
    case:ended(case:start(), {})
    case:list(true)
    sys.remove(disk.path .. "/filler")
  end, disk.path)
end

local function fills(n)
  local disk = { path = h.folder(), size = 1 << 20 }
  local how, code = sys.wait(sys.spawn { "mount", "-t", "tmpfs", "-o", "size=1m", "none", disk.path, stderr = "/dev/null" })
  if how ~= "exited" or code ~= 0 then
    print "hint: no disk can be mounted here: the shim's will do"
    for i = 1, given.shim == "" and 0 or n do
      h.case(("fill %d: by the shim"):format(i), h.TRAIN, function(case)
        case:ended(case:start { LD_PRELOAD = given.shim, FAULT_CALL = pick { "write", "open", "fsync" }, FAULT_ON = "1",
                                FAULT_AT = tostring(math.random(60)), FAULT_IN = "train", FAULT_ERRNO = "28" }, {})
      end)
    end
    return
  end
  local ok, why = pcall(function()
    for i = 1, n do fill_one(i, disk) end
  end)
  sys.wait(sys.spawn { "umount", disk.path })
  if not ok then error(why, 0) end
end

h.prepare()
for i = 1, given.kills do kill_one(i) end
for i = 1, given.signals do signal_one(given.signals < 27 and (i * 10 - 1) % 27 + 1 or i) end
for i = 1, given.shim == "" and 0 or given.calls do call_one(i) end
if given.fills > 0 then fills(given.fills) end
return h.finish()
