-- What a person watching sees: lines that stay, and below them status lines that are rewritten in place
-- on a terminal and shown now and then as plain lines elsewhere. Colour only on a terminal without
-- NO_COLOR. Everything goes to stderr, so that results on stdout can be piped.
local core = require "attnlab.core"
local tables = require "attnlab.table"

local M = {}
local Progress = {}
Progress.__index = Progress

local TTY_SECONDS, PLAIN_SECONDS = 0.1, 30

-- "step 120/1000 | loss 3.412 | valid 3.390 | lr 3.0e-04 | norm 0.82 | 12.3 k tok/s | 180 MiB | eta 3:12"
-- info: step, steps and any of loss, valid, lr, norm, tokens_per_second, memory (bytes), eta (seconds).
function M.step_text(info)
  local parts = { ("step %d/%d"):format(info.step, info.steps) }
  local function add(key, format, f)
    if info[key] then parts[#parts + 1] = format:format(f and f(info[key]) or info[key]) end
  end
  add("loss", "loss %.3f")
  add("valid", "valid %.3f")
  add("lr", "lr %.1e")
  add("norm", "norm %.2f")
  add("tokens_per_second", "%s tok/s", tables.human)
  add("memory", "%s", function(n) return tables.human(n, true) end)
  add("eta", "eta %s", tables.duration)
  return table.concat(parts, " | ")
end

-- opts: stream (io.stderr), tty (whether it is a terminal), width (columns of it).
function M.new(opts)
  opts = opts or {}
  local tty = opts.tty
  if tty == nil then tty = core.sys.isatty(2) end
  return setmetatable({ stream = opts.stream or io.stderr, tty = tty, width = opts.width, lines = 0,
                        shown = nil, colour = tty and not os.getenv "NO_COLOR" }, Progress)
end

-- Text in an SGR colour ("31" red), plain where there is none.
function Progress:paint(code, text)
  return self.colour and "\27[" .. code .. "m" .. text .. "\27[0m" or text
end

-- Removes the status lines.
function Progress:erase()
  if self.lines > 0 then
    self.stream:write(("\27[%dA\r\27[J"):format(self.lines))
    self.lines = 0
  end
  self.shown = nil
end

-- A line that stays.
function Progress:say(text)
  self:erase()
  self.stream:write(text, "\n")
  self.stream:flush()
end

-- Replaces the status lines when it is time to, or at once when `now` is true. Elsewhere than on a
-- terminal the last of them is printed.
function Progress:show(lines, now)
  local time = core.sys.clock()
  self.first = self.first or time
  local pause = self.tty and TTY_SECONDS or PLAIN_SECONDS
  if not now and time - (self.shown or self.tty and 0 or self.first) < pause then return end
  if self.tty then
    self:erase()
    local columns = self.width or core.sys.width() or 80
    for _, line in ipairs(lines) do self.stream:write(line:sub(1, columns - 1), "\n") end
    self.lines = #lines
  else
    self.stream:write(lines[#lines], "\n")
    self.first = time
  end
  self.stream:flush()
  self.shown = time
end

-- The status line of a single training; the last step is always shown, and stays.
function Progress:step(info)
  local last = info.step == info.steps
  self:show({ M.step_text(info) }, last or (info.step == 1 and not self.tty))
  if last then self:leave() end
end

-- Lets the status lines stand.
function Progress:leave()
  self.lines = 0
end

return M
