-- What a long job of many workers shows while it runs: on a terminal a block of lines that is drawn
-- again in place, elsewhere plain lines now and then. NO_COLOR switches colours off.
-- A change here makes no run stale.
local sys = require("attnlab.core").sys
local tables = require "attnlab.table"

local Board = {}
Board.__index = Board

local TTY_SECONDS, PLAIN_SECONDS = 0.2, 30

-- stream: io.stdout (default) or io.stderr.
local function new(stream)
  stream = stream or io.stdout
  local tty = sys.isatty(stream == io.stderr and 2 or 1)
  local colour = tty and (os.getenv "NO_COLOR" or "") == "" and os.getenv "TERM" ~= "dumb"
  return setmetatable({ stream = stream, tty = tty, colour = colour, drawn = 0, last = 0 }, Board)
end

-- Cuts to `width` display cells.
local function cut(s, width)
  if tables.width(s) <= width then return s end
  local at = utf8.offset(s, width)
  return at and s:sub(1, at - 1) .. "…" or s
end

-- SGR code such as "31" around s, where colours are wanted.
function Board:paint(code, s)
  return self.colour and ("\27[%sm%s\27[0m"):format(code, s) or s
end

function Board:erase()
  if self.drawn > 0 then
    self.stream:write(("\27[%dF\27[J"):format(self.drawn))
    self.stream:flush()
  end
  self.drawn = 0
end

-- A line that stays, above the block.
function Board:say(text)
  self:erase()
  self.stream:write(text, "\n")
  self.stream:flush()
end

-- Draws the lines that make() returns when it is time to; off a terminal the last of them only.
function Board:show(make)
  local now = sys.clock()
  if now - self.last < (self.tty and TTY_SECONDS or PLAIN_SECONDS) then return end
  self.last = now
  local lines = make()
  if self.tty then
    self:erase()
    local width = math.max(20, (sys.width() or 80) - 1)
    for _, line in ipairs(lines) do self.stream:write(cut(line, width), "\n") end
    self.drawn = #lines
  else
    self.stream:write(lines[#lines], "\n")
  end
  self.stream:flush()
end

return { new = new }
