-- The parts of a fork that can be changed: s.layer[i], s.layer["*"], s.layer[i].head[h]. handles(fork) is what stands
-- as s.layer; options over those of each layer of a part, or of its head, are one entry of the fork's list.
local config = require "attnlab.config"
local devices = require "attnlab.devices"
local rows = require "attnlab.rows"
local Attention = require "attnlab.nn.attention"
local merge = require("attnlab.nn.heads").merge

-- ---- specs ------------------------------------------------------------------------------------------

-- The options of the layer that another preset leaves alone: those that differ from the defaults and
-- that the preset does not bring.
local function kept_options(layer, preset)
  local family = Attention.family_of({ preset = preset }, {
    heads = layer.heads, kv_heads = layer.kv_heads, head_dim = layer.head_dim, width = layer.width,
    dtype = layer.dtype, seed = 0 })
  local brought, out = {}, {}
  for key in family:layer():gmatch("([%w_]+)=") do brought[key] = true end
  for _, row in ipairs(Attention.rows) do
    local v = layer.layer[row.name]
    if not brought[row.name] and v ~= rows.default(row) then out[row.name] = v end
  end
  return out
end

local function without_preset(given)
  local out = {}
  for k, v in pairs(given) do out[k] = k ~= "preset" and v or nil end
  return out
end

-- The spec of a layer after set{given} of it, or of one of its heads.
local function changed(layer, given, head)
  local spec = config.copy(layer.spec)
  if not head then
    if not given.preset then return merge(spec.preset or "", spec, given) end
    local kept = kept_options(layer, given.preset)
    kept.heads = spec.heads
    return merge(given.preset, kept, given)
  end
  spec.heads = spec.heads or {}
  local key = tostring(head)
  local own = spec.heads[key] or {}
  local preset = given.preset or own.preset
  spec.heads[key] = given.preset and config.copy(given)
    or merge(preset or spec.preset or "", own, without_preset(given))
  return spec
end


-- ---- handles: s.layer[i], s.layer["*"], s.layer[i].head[h] -----------------------------------------

local Handle = {}
Handle.__name = "attnlab.part"

function Handle:__index(key)
  if key == "set" then return Handle.set end
  if key ~= "head" or rawget(self, "number") then return nil end
  return setmetatable({}, { __index = function(_, h)
    local most = self.session.layers[self.list[1]].attention.heads
    if math.type(h) ~= "integer" or h < 1 or h > most then
      error(("head: a number in 1..%d expected, got %s"):format(most, tostring(h)), 2)
    end
    return setmetatable({ session = self.session, list = self.list, number = h }, Handle)
  end })
end

function Handle:__tostring()
  local lines = {}
  for i, at in ipairs(self.list) do
    local a = self.session.layers[at].attention
    lines[i] = ("layer %d%s: %s"):format(at, self.number and " head " .. self.number or "",
      config.text(a.spec))
  end
  return table.concat(lines, "\n")
end

-- options over those of each layer of the handle, or of its head. Returns the handle.
function Handle:set(options)
  if type(options) ~= "table" or next(options) == nil then
    error("set: a table of options expected, such as {output_norm=\"l2\"}", 2)
  end
  local fork, new = self.session, {}
  for _, i in ipairs(self.list) do
    local layer = fork.layers[i].attention
    local ok, result = pcall(devices.on, fork.device, function() return layer:with(changed(layer, options, self.number)) end)
    if not ok then
      error(("set: layer %d%s: %s"):format(i, self.number and " head " .. self.number or "",
        config.plain(result)), 2)
    end
    new[i] = result
  end
  fork:exchange(new, { kind = "set", list = self.list, head = self.number, change = config.text(options),
                       options = config.copy(options) })
  return self
end

local function handles(session)
  return setmetatable({}, { __index = function(_, i)
    local list, n = {}, #session.layers
    if i == "*" then
      for k = 1, n do list[k] = k end
    elseif math.type(i) == "integer" and i >= 1 and i <= n then
      list[1] = i
    else
      error(("layer: a number in 1..%d or \"*\" expected, got %s"):format(n, tostring(i)), 2)
    end
    return setmetatable({ session = session, list = list }, Handle)
  end })
end

return { handles = handles }
