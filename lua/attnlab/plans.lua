-- How products on a card are computed, which decides how they round: chosen once, by timing, and kept as a text in a folder,
-- so that all runs there round alike. The first run in the folder on such a card chooses for the shapes of its first step and
-- of an evaluation; the others wait for the text and take it. A shape that is not in it is computed as the library proposes,
-- by nobody's clock. What is computed in one way alone has no plans.
local core = require "attnlab.core"
local devices = require "attnlab.devices"
local names = require "attnlab.names"
local sys = core.sys

local Plans = {}
Plans.__index = Plans

local M = {}

local MOST = 1 << 24 -- bytes of a text

local function take(self, path, renew)
  local readable, text = pcall(sys.read, path, MOST)
  if not readable and not renew then error(text, 0) end
  local ok, why = false, nil
  if readable then ok, why = pcall(core.plans, self.device, text) end
  if ok then
    self.hash = sys.sha256(text)
  elseif not renew then
    error(("%s: %s; --fresh or --force has them chosen again"):format(names.shown(path), names.reason(why)), 0)
  end
  return ok
end

-- The plans of a folder for a device, taken, or begun by timing. options: renew (a text that does not fit is chosen again);
-- stop() (raises where nobody wants to wait any more). To be closed; hash: of the text, nil where there is none yet.
function M.open(folder, device, options)
  local self = setmetatable({ device = device }, Plans)
  if not devices.is_card(device) then return self end
  local card = assert(devices.card(device))
  self.path = names.inside(folder, ("plans-%s.txt"):format(card:match "^[^,]*":lower():gsub("[^%w]+", "-")))
  while true do
    if sys.exists(self.path) and take(self, self.path, options.renew) then return self end
    self.lock = sys.lock((self.path:gsub("%.txt$", ".lock")))
    if self.lock then break end
    options.stop()
    sys.sleep(0.05)
  end
  if sys.exists(self.path) and take(self, self.path, options.renew) then -- written since it was looked for
    self:close()
  else
    core.plans(device, true)
    self.timing = true
  end
  return self
end

-- Keeps what was chosen so far; the hash.
function Plans:keep()
  if self.timing then
    local text = core.plans(self.device)
    sys.write(self.path, text) -- beside its place, synced, renamed
    self.hash = sys.sha256(text)
    self:close()
  end
  return self.hash
end

function Plans:close()
  if self.timing then core.plans(self.device, false) end
  if self.lock then self.lock:close() end
  self.timing, self.lock = false, nil
end
Plans.__close = Plans.close

return M
