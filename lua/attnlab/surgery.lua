-- Operating on a trained model: s = m:fork() is the model again, in the same memory until either is
-- trained or written, and everything that a model is. Its parts can be changed and put back:
--   s.layer[2]:set{output_norm = "l2"}     options of the family or the layer, over those it has;
--   s.layer["*"]:set{preset = "..."}       or another preset: rotary positions and the like stay
--                                          where the preset names none
--   s.layer[1].head[3]:set{output_gate=0}  a head with options of its own, or with a preset, of which
--                                          it takes the family's options alone
--   s:calibrate{layer=2, match="rms", data="shakespeare", split="train", batches=4, batch=8}
--                                          a constant factor a head: on the inputs that the original
--                                          gives the layer, its output has the original's rms
--   r = s:tune{steps=200, lr=3e-4, ...}    trains the fork, with the options of lab.train
--   s:swaps()                              what differs from the original, in the order made
--   s:undo(n)                              takes back the last n of them (1); s:undo("tune") the last
--                                          training alone, the changes stay
-- A change either happens as a whole or is refused with the reason. Parameters whose name and shape
-- stay are the very tensors, so r:cont(100) after a change goes on with their moments; new ones are
-- initialised by name. A training by s:tune is one entry of the list, with all that r:cont added to it:
-- r:cont goes on with the last training alone, and what was measured before it is struck from the list.
-- lab.train(s) trains the fork without an entry, and undo does not take it back.
local core = require "attnlab.core"
local config = require "attnlab.config"
local names = require "attnlab.names"
local rows = require "attnlab.rows"
local Attention = require "attnlab.nn.attention"
local calibrate = require "attnlab.surgery.calibrate"
local list = require "attnlab.surgery.list"
local Module = require "attnlab.nn.module"
local tune = require "attnlab.surgery.tune"
local merge = require("attnlab.nn.heads").merge

local M = {}
local Session = {}

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

-- "output_norm=l2 denominator.floor=1"
local function text_of(options)
  local words, flat = {}, config.flatten(options)
  for _, k in ipairs(names.keys(flat)) do words[#words + 1] = k .. "=" .. rows.show(flat[k]) end
  return table.concat(words, " ")
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
      text_of(a.spec))
  end
  return table.concat(lines, "\n")
end

local function layer_handles(session)
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

-- ---- changes ----------------------------------------------------------------------------------------

-- Puts attentions in the place of the layers' own, and returns those.
local function install(self, attentions)
  local before = {}
  for i, a in pairs(attentions) do
    before[i] = self.layers[i].attention
    a:train(before[i].training)
    self.layers[i]:replace(before[i], a)
  end
  self.spec, self.generation = {}, self.generation + 1
  for i, block in ipairs(self.layers) do self.spec[tostring(i)] = config.copy(block.attention.spec) end
  return before
end

-- A new entry of the list; take_back undoes it.
local function enter(self, entry)
  self.log[#self.log + 1] = entry
  return entry
end

-- options over those of each layer of the handle, or of its head. Returns the handle.
function Handle:set(options)
  if type(options) ~= "table" or next(options) == nil then
    error("set: a table of options expected, such as {output_norm=\"l2\"}", 2)
  end
  local self_, new = self.session, {}
  for _, i in ipairs(self.list) do
    local layer = self_.layers[i].attention
    local ok, result = pcall(function() return layer:with(changed(layer, options, self.number)) end)
    if not ok then
      error(("set: layer %d%s: %s"):format(i, self.number and " head " .. self.number or "",
        config.plain(result)), 2)
    end
    new[i] = result
  end
  local before = install(self_, new)
  enter(self_, { kind = "set", list = self.list, head = self.number, change = text_of(options),
                 take_back = function() install(self_, before) end })
  return self
end

-- ---- calibration ------------------------------------------------------------------------------------

-- Factors by layer and head: see surgery/calibrate.lua.
function Session:calibrate(opts)
  local factors, least, most = calibrate(self, opts)
  local new, layers = {}, {}
  for i, own in pairs(factors) do
    local layer = self.layers[i].attention
    new[i], layers[#layers + 1] = layer:with(merge(layer.preset, layer.spec, { calibrated = true })), i
    new[i]:place { ["attnlab.calibration"] = core.tensor { data = own, dtype = self.dtype } }
  end
  table.sort(layers)
  local before = install(self, new)
  enter(self, { kind = "calibrate", list = layers, change = ("rms of the heads, times %.3g to %.3g")
    :format(least, most), take_back = function() install(self, before) end })
  return self
end

function Session:tune(opts)
  local result, entry = tune(self, opts)
  enter(self, entry)
  return result
end

-- ---- the list ---------------------------------------------------------------------------------------

function Session:undo(n)
  if n == "tune" then
    for k = #self.log, 1, -1 do
      if self.log[k].kind == "tune" then
        table.remove(self.log, k).take_back()
        list.strike(self.log, k)
        return self
      end
    end
    error("undo: the fork was not tuned", 2)
  end
  n = n == nil and 1 or n
  if #self.log == 0 then error("undo: there are no changes to take back", 2) end
  if math.type(n) ~= "integer" or n < 1 or n > #self.log then
    error(("undo: a number in 1..%d or \"tune\" expected, got %s"):format(#self.log, tostring(n)), 2)
  end
  for _ = 1, n do table.remove(self.log).take_back() end
  return self
end

-- Called by evalset with what it measured of the fork as it is now; against: the model of a difference.
function Session:measured(values, against)
  if against and against ~= self.original and against ~= self.source[1] then return end
  local entry = self.log[#self.log] or self.untouched
  if against then
    entry.difference = { mean = values.mean, lo = values.lo, hi = values.hi, kl = values.kl }
  else
    entry.loss, entry.loss_se = values.loss, values.loss_se
  end
end

-- Array of { n=, kind = "set", "calibrate" or "tune", layer = number, list or nil, head=, change=,
-- loss=, loss_se=, difference = {mean=, lo=, hi=, kl=} }; the measures where an evalset took them
-- right after the change. As text a table.
function Session:swaps()
  return list.of(self.log)
end

function Session:describe()
  local first = list.loss(self.untouched)
  return ("fork of a %s, %d layers, %d parameters%s\n%s"):format(self.class_name, #self.layers,
    self:n_parameters(), first and ", loss as forked " .. first or "", tostring(self:swaps()))
end

-- ---- forks ------------------------------------------------------------------------------------------

-- A fork copied as a module is a plain model: the list and the original stay with this one.
function Session:clone_into(seen)
  local own = {}
  for _, k in ipairs { "log", "original", "layer", "source", "untouched", "generation" } do
    own[k], self[k] = self[k], nil
  end
  local ok, new = pcall(Module.clone_into, self, seen)
  for k, v in pairs(own) do self[k] = v end
  if not ok then error(new, 0) end
  return setmetatable(new, self.base)
end

local classes = setmetatable({}, { __mode = "k" })

-- The class of forks of a class of models: its methods and a session's.
local function class_of(base)
  if not classes[base] then
    local class = setmetatable({ __call = base.__call, __tostring = Session.describe, base = base,
                                 __name = "attnlab.fork" }, { __index = base })
    for k, v in pairs(Session) do class[k] = v end
    class.__index = class
    classes[base] = class
  end
  return classes[base]
end

function M.fork(m)
  local s = m:clone()
  s.original, s.log, s.generation, s.untouched = m:clone(), {}, 0, {}
  s.source = setmetatable({ m }, { __mode = "v" })
  s.layer = layer_handles(s)
  return setmetatable(s, class_of(getmetatable(s)))
end

return M
