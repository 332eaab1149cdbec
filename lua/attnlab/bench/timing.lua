-- Times by the monotonic clock. Cases take turns, A B A B, so that a change of the machine's speed
-- meets all of them; the collector works between the samples, not inside them.
--
-- A case is { once = function() -> {part = seconds, ..} }: it times its parts itself, by M.timed,
-- so that what has to happen between them (a gradient dropped) is not in the time.
-- A change here makes no run stale.
local core = require "attnlab.core"
local clock = core.sys.clock

local M = {}

-- Runs in one sample at most, however short the case is.
local MOST_RUNS = 1000

-- Returns when all that was queued on the current device is done. Reading one number waits for it, and takes some tens of
-- microseconds itself, which are in the times of a card.
local function wait()
  if core.on() == "cpu" then return end
  local one <close> = core.zeros { shape = { 1 }, dtype = "f64" }
  one:item()
end

-- Seconds that f(...) takes, and its first result.
function M.timed(f, ...)
  wait()
  local began = clock()
  local result = f(...)
  wait()
  return clock() - began, result
end

-- Calls that are timed at once, so that the wait behind them does not count on a card.
function M.calls() return core.on() == "cpu" and 1 or 4 end

-- Mean seconds of f() over calls(), and the list of their results.
function M.repeated(f)
  local n, list = M.calls(), {}
  local s = M.timed(function()
    for i = 1, n do list[i] = f() end
  end)
  return s / n, list
end

-- Mean seconds of ys[i]:backward(dy) over all, each followed by dropped(), which drops gradients: one that is there would
-- be added to.
function M.backwards(ys, dy, dropped)
  local last = #ys
  local s = M.timed(function()
    for i, y in ipairs(ys) do
      y:backward(dy)
      if i < last then dropped() end
    end
  end)
  dropped()
  for _, y in ipairs(ys) do y:free() end
  return s / last
end

function M.median(list)
  local sorted = table.move(list, 1, #list, 1, {})
  table.sort(sorted)
  local n = #sorted
  return n % 2 == 1 and sorted[n // 2 + 1] or (sorted[n // 2] + sorted[n // 2 + 1]) / 2
end

-- Mean seconds of each part over n runs, and of all parts together as `total`.
local function sample(case, n)
  collectgarbage()
  collectgarbage() -- what the first one's finalisers have dropped
  collectgarbage "stop"
  local sums = { total = 0 }
  local ok, why = pcall(function()
    for _ = 1, n do
      for part, s in pairs(case.once()) do
        sums[part] = (sums[part] or 0) + s
        sums.total = sums.total + s
      end
    end
  end)
  collectgarbage "restart"
  if not ok then error(why, 0) end
  for part, s in pairs(sums) do sums[part] = s / n end
  return sums
end

-- opts: rounds; warmup (rounds before them, uncounted); least (seconds of a sample: short cases run
-- several times); say(text), told of each round. Returns one {part = {samples}} for each case,
-- sample r of every case being taken in the same round.
function M.rounds(cases, opts)
  local runs, out = {}, {}
  for i in ipairs(cases) do runs[i], out[i] = 1, {} end
  for r = 1 - opts.warmup, opts.rounds do
    if opts.say then
      opts.say(r < 1 and "warm-up" or ("round %d of %d"):format(r, opts.rounds))
    end
    for i, case in ipairs(cases) do
      local s = sample(case, runs[i])
      if r < 1 then
        runs[i] = math.max(1, math.min(MOST_RUNS, math.ceil(opts.least / math.max(s.total, 1e-9))))
      else
        for part, seconds in pairs(s) do
          out[i][part] = out[i][part] or {}
          out[i][part][r] = seconds
        end
      end
    end
  end
  return out
end

-- Median, least and largest of samples.
function M.summary(samples)
  return { median = M.median(samples), min = math.min(table.unpack(samples)),
           max = math.max(table.unpack(samples)), n = #samples }
end

-- Median over the rounds of a's time over b's of the same round.
function M.ratio(a, b)
  local list = {}
  for r, s in ipairs(a) do list[r] = s / b[r] end
  return M.median(list)
end

return M
