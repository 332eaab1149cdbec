-- One line about a running training: rewritten in place on a terminal, else a plain line now and
-- then: "step 120/1000 | loss 3.412 | lr 3.0e-04 | norm 0.82 | 12.3k tok/s | 0.2 GB | eta 03:12"
-- A change here makes no run stale.
local core = require "attnlab.core"

local M = {}
local Progress = {}
Progress.__index = Progress

local TTY_SECONDS, PLAIN_SECONDS = 0.1, 10

local function count(n)
  if n >= 1e6 then return ("%.2fM"):format(n / 1e6) end
  if n >= 1e3 then return ("%.1fk"):format(n / 1e3) end
  return ("%.0f"):format(n)
end

-- Seconds as "03:07" or "1:02:09".
function M.clock(seconds)
  local s = math.max(0, math.floor(seconds + 0.5))
  if s >= 3600 then return ("%d:%02d:%02d"):format(s // 3600, s // 60 % 60, s % 60) end
  return ("%02d:%02d"):format(s // 60, s % 60)
end

function M.bytes(n)
  if n >= 1e9 then return ("%.1f GB"):format(n / 1e9) end
  return ("%.0f MB"):format(n / 1e6)
end

-- info: step, steps and any of loss, valid, lr, norm, tokens_per_s, memory (bytes), eta (seconds).
function M.line(info)
  local parts = { ("step %d/%d"):format(info.step, info.steps) }
  local function add(key, format, f)
    if info[key] then parts[#parts + 1] = format:format(f and f(info[key]) or info[key]) end
  end
  add("loss", "loss %.3f")
  add("valid", "valid %.3f")
  add("lr", "lr %.1e")
  add("norm", "norm %.2f")
  add("tokens_per_s", "%s tok/s", count)
  add("memory", "%s", M.bytes)
  add("eta", "eta %s", M.clock)
  return table.concat(parts, " | ")
end

-- opts: label (before each line), stream (io.stderr), tty (whether it is a terminal), width (its
-- columns).
function M.new(opts)
  opts = opts or {}
  local tty = opts.tty
  if tty == nil then tty = core.sys.isatty(2) end
  return setmetatable({
    label = opts.label and opts.label .. ": " or "", stream = opts.stream or io.stderr,
    tty = tty, width = opts.width, last = nil, open = false }, Progress)
end

-- Shows info, or its `text`, when it is time to, at the last step, or when `now` is true.
function Progress:update(info, now)
  local time = core.sys.clock()
  local pause = self.tty and TTY_SECONDS or PLAIN_SECONDS
  if not now and info.step < info.steps and self.last and time - self.last < pause then return end
  self.last = time
  local text = self.label .. (info.text or M.line(info))
  if not self.tty then
    self.stream:write(text, "\n")
    self.stream:flush()
    return
  end
  local columns = self.width or core.sys.width() or 80
  -- erase to the end of the line: what stood there may have been longer
  self.stream:write("\r", text:sub(1, columns - 1), "\27[K")
  self.stream:flush()
  self.open = true
end

-- Ends the line on a terminal, so that other output starts on its own.
function Progress:close()
  if self.open then self.stream:write "\n" end
  self.open = false
end

return M
