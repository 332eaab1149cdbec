-- Long work that an interrupt ends early, with what it has; what becomes of other code, core.sys.catch_interrupts says.
-- A change here makes no run stale.
local core = require "attnlab.core"
local sys = core.sys

local M = {}

-- f(stop) while signals are counted; stop() tells whether one came since. Returns what f does.
function M.work(f)
  sys.catch_interrupts(true)
  local before = sys.interrupted()
  local out = table.pack(pcall(f, function() return sys.interrupted() > before end))
  sys.catch_interrupts(false)
  if not out[1] then error(out[2], 0) end
  return table.unpack(out, 2, out.n)
end

M.at_prompt = false -- whether somebody waits for what interrupted work has made

-- The same at the prompt alone: elsewhere a signal ends the process.
function M.work_at_prompt(f)
  if M.at_prompt then return M.work(f) end
  return f(function() return false end)
end

-- The last thing that work which was interrupted had made, { value }: the prompt asks for it.
M.made = nil

function M.note(value)
  M.made = { value }
end

return M
