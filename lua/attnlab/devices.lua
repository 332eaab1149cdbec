-- Where things are computed. A model lies on its device and runs there, whatever is current: `on` is for one call,
-- lab.on "cuda" until the next one. A process that runs others opens no card: it asks a child what there is.
local core = require "attnlab.core"
local names = require "attnlab.names"
local sys, json = core.sys, core.json

local M = {}

-- f(..) with `device` current.
function M.on(device, f, ...)
  local before = core.on(device)
  if before == core.on() then return f(...) end
  local result = table.pack(pcall(f, ...))
  core.on(before)
  if not result[1] then error(result[2], 0) end
  return table.unpack(result, 2, result.n)
end

-- Methods of a class, those with `device`, that run with it current.
function M.wrap(class, list)
  for _, name in ipairs(list) do
    local f = class[name]
    class[name] = function(self, ...)
      if core.on() == self.device then return f(self, ...) end
      return M.on(self.device, f, self, ...)
    end
  end
end

-- The device of that name, opened: "cuda:0" is "cuda". nil: the current one.
function M.opened(name)
  if name == nil then return core.on() end
  local before = core.on(name)
  return core.on(before)
end

-- The same by the name alone, opening nothing: what no device can be called is an error.
function M.named(name)
  if name == nil then return core.on() end
  local card = math.tointeger(tonumber(name:match "^cuda:(%d+)$"))
  if card then return card == 0 and "cuda" or "cuda:" .. card end
  if name == "cpu" or name == "cuda" or name == core.on() then return name end
  error(names.unknown("device", name, { "cpu", "cuda" }), 0)
end

local asked -- what a child said

local function ask()
  local path = os.tmpname()
  local how, code = sys.wait(sys.spawn { sys.program(), "devices", "--json", stdout = path })
  local ok, said = pcall(function() return json.decode(sys.read(path, 1 << 20)) end)
  sys.remove(path)
  if not ok or type(said) ~= "table" or type(said.devices) ~= "table" then
    error(("devices: the process that was to say which there are ended by %s %s"):format(how, code), 0)
  end
  said.devices.why = said.why
  return said.devices
end

-- What lab.devices() says, in words and bytes by name: { text = .., memory = .. }.
function M.list()
  local said, out = core.devices(), {}
  for _, name in ipairs(said) do out[#out + 1] = { name = name, text = said[name], memory = said.memory[name] } end
  if #said == 1 then out.why = said.cuda end
  return out
end

-- What there is to say of a card: its text with driver and libraries, and its bytes of memory; nil and why there is none.
-- A process that has opened one asks itself.
function M.card(name)
  local list = core.on() ~= "cpu" and M.list() or asked
  if not list then
    asked = ask()
    list = asked
  end
  for _, d in ipairs(list) do
    if d.name == name then return d.text, d.memory end
  end
  return nil, list.why or ("there is no %s on this machine"):format(name)
end

-- Is it a card, whose memory runs share?
function M.is_card(name) return name:find "^cuda" ~= nil end

-- Raises where a card that is named is not there, with the reason.
function M.need(name)
  local text, why = "", nil
  if M.is_card(name) then text, why = M.card(name) end
  if not text then error(("device %s: %s"):format(name, why), 0) end
end

local CONTEXT = 1 << 30 -- bytes of a card for the driver, code, and workspaces of libraries; of a small one an eighth

-- Bytes of tensors that each of `jobs` processes on a card may have; nil where nothing is to be shared.
function M.share(name, jobs)
  if not M.is_card(name) then return nil end
  M.need(name)
  local _, bytes = M.card(name)
  return (bytes - math.min(CONTEXT, bytes // 8)) // jobs
end

return M
