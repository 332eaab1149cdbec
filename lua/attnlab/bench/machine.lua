-- What times depend on: processor, cores, threads, how they wait, versions, and whether the machine
-- has other work.
-- A change here makes no run stale.
local core = require "attnlab.core"
local store = require "attnlab.store"
local sys = core.sys

local M = {}

local function first_match(path, pattern)
  local file <close> = io.open(path, "r")
  return file and (file:read "a"):match(pattern)
end

-- Mean number of runnable threads over the last minute; nil where the system does not say.
local function load_average()
  return tonumber(first_match("/proc/loadavg", "^(%S+)"))
end

-- Taken before the first measurement.
function M.begin()
  return {
    cpu = first_match("/proc/cpuinfo", "model name%s*:%s*([^\n]+)") or "unknown",
    cores = sys.cores(), threads = core.threads(), load_before = load_average(),
    wait_policy = os.getenv "OMP_WAIT_POLICY" or "default (threads spin a while)",
    binding = os.getenv "OMP_PROC_BIND" or "default (none)",
  }
end

-- Taken after the last: load_after counts our own threads too.
function M.finish(m)
  m.load_after, m.peak_resident = load_average(), sys.rss()
  return m
end

function M.versions()
  return { attnlab = core.version, source = store.source_hash(), libraries = store.libraries(core.on()),
           lua = _VERSION }
end

-- Below this share of the processor time that our threads asked for, others had the rest.
local LEAST_SHARE = 0.9

-- Why the times of m cannot be trusted, or nil. share: of ceiling.rates, where there is one. Our
-- own threads count in the load average after the run, those that end late a little more.
function M.busy(m, share)
  if m.threads > m.cores then
    return ("%d threads on %d cores: they wait for one another"):format(m.threads, m.cores)
  end
  local loaded = math.max(m.load_before or 0, (m.load_after or 0) - 0.5) > m.cores
  if not loaded and (share or 1) >= LEAST_SHARE then return nil end
  local got = share and (", and our threads got %.0f %% of the time they asked for")
    :format(100 * share) or ""
  return ("the machine is busy: load average %.1f before and %.1f after on %d cores%s; no time "
    .. "here is that of an idle machine")
    :format(m.load_before or 0, m.load_after or 0, m.cores, got)
end

return M
