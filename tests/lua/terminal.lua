-- A program on a terminal, for tests: t = terminal(args, {cols=, rows=, env=}); t:type(text); t:expect(pattern, seconds)
-- waits until what was shown since the last match has the pattern, and returns it; t:ends(seconds) its exit status.
local core = require "attnlab.core"
local sys = core.sys

local build = sys.program():match "^(.*)/[^/]*$"
local pty = assert(package.loadlib(build .. "/pty.so", "luaopen_pty"))()

local Terminal = {}
Terminal.__index = Terminal

-- What is shown, without what moves the cursor or colours.
local function plain(s)
  return (s:gsub("\27%[[%d;?]*[%a~]", ""):gsub("\27[()=>].?", ""):gsub("\r", ""))
end

-- opts.shell: what a shell does before, "ulimit -f 1; exec".
local function terminal(words, opts)
  local own = { sys.program(), table.unpack(words) }
  if opts.shell then own = { "sh", "-c", opts.shell .. ' "$@"', "sh", table.unpack(own) } end
  return setmetatable({ pty = pty.open(own, opts), seen = "", raw = "" }, Terminal)
end

function Terminal:type(text) self.pty:write(text) end

function Terminal:more(seconds)
  local got = self.pty:read(seconds)
  if not got then
    self.ended = true
    return false
  end
  self.raw = self.raw .. got
  self.seen = self.seen .. plain(got)
  return got ~= ""
end

function Terminal:expect(pattern, seconds)
  local till = sys.clock() + (seconds or 60)
  while true do
    local a, b = self.seen:find(pattern)
    if a then
      local text = self.seen:sub(1, b)
      self.seen = self.seen:sub(b + 1)
      return text
    end
    if self.ended or sys.clock() > till then
      error(("'%s' was not shown%s; what was:\n%s"):format(pattern, self.ended and " before the end" or "", self.seen), 2)
    end
    self:more(0.05)
  end
end

-- A line, run: what is shown until the next prompt.
function Terminal:run(line, seconds)
  self:type(line .. "\r")
  return self:expect("\n> $", seconds)
end

function Terminal:ends(seconds)
  local till = sys.clock() + (seconds or 60)
  while not self.ended and sys.clock() < till do self:more(0.05) end
  return self.pty:wait(5)
end

return terminal
