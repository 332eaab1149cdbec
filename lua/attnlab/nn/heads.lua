-- Heads of one layer with options of their own. They form groups, one for each set of options that
-- occurs, each an instance of a family; the whole looks to the layer as one instance does.
--
-- Parameters have the shapes of an instance over all heads; a head uses its rows of them. Groups that
-- declare a parameter of one name and shape share it, so a head keeps its values when it gets options
-- of its own. A group whose heads do not fill their key/value heads sees a copy of those for each of
-- its query heads. Families whose heads depend on one another are found by running them, and refused.
local core = require "attnlab.core"
local heads_rows = require "attnlab.nn.heads_rows"
local names = require "attnlab.names"
local joint_state = require "attnlab.nn.heads_state"
local rows = require "attnlab.rows"
local taps = require "attnlab.nn.taps"

local pick, sizes_with = heads_rows.pick, heads_rows.sizes_with
local M = {}
local Heads = {}
Heads.__index = Heads
Heads.__name = "attnlab.heads"

-- How far a head alone may be from the same head among all, relative: rounding of other kernels.
local DEPENDS = 1e-4

-- Options `given` over `old`, both of one preset. A table of fields changes these alone; a scalar or
-- a list in place of a record replaces it.
function M.merge(preset, old, given)
  local out, known = {}, core.attn.options(preset)
  for k, v in pairs(old) do out[k] = v end
  for k, v in pairs(given) do
    local row, before = rows.find(known, k), out[k]
    if type(v) == "table" and #v == 0 and row and row.fields and before ~= nil then
      local fields = {}
      if type(before) ~= "table" or #before > 0 then before = { [row.fields[1].name] = before } end
      for name, x in pairs(before) do fields[name] = x end
      for name, x in pairs(v) do fields[name] = x end
      v = fields
    end
    out[k] = v
  end
  return out
end

-- Gives the group's instance its rows of the parameters as they are now.
local function refresh(self, group)
  for name, t in pairs(group.whole:parameters()) do
    local kind = group.kinds[name]
    local part = kind == "q" and heads_rows.of(t, self.sizes.heads, group.list)
      or kind == "kv" and heads_rows.of(t, self.sizes.kv_heads, group.kv) or t
    group.part:set_parameter(name, part)
  end
end

local function run(self, group, inputs)
  refresh(self, group)
  local own = {}
  for k, v in pairs(inputs) do own[k] = v end
  own.q = pick(inputs.q, 3, group.list)
  own.k, own.v = pick(inputs.k, 3, group.kv), pick(inputs.v, 3, group.kv)
  return own
end

-- Refuses a group whose heads, run alone, are not what they are among all.
local function check_alone(self, group)
  local z, draw = self.sizes, {}
  local function random(key, heads, dim)
    local shape = heads and { 1, 9, heads, dim } or { 1, 9, dim }
    draw[key] = core.randn { shape = shape, dtype = z.dtype, seed = 1, stream = "heads." .. key }
  end
  random("q", z.heads, z.head_dim)
  random("k", z.kv_heads, z.head_dim)
  random("v", z.kv_heads, z.value_dim)
  if z.width and z.width > 0 then random("x", nil, z.width) end
  draw.causal = true
  core.no_grad(function()
    local among = pick(group.whole:forward(draw), 3, group.list)
    local alone = group.part:forward(run(self, group, draw))
    local off, size = (among - alone):square():mean():item(), among:square():mean():item()
    if not (off <= DEPENDS ^ 2 * size) then
      error(("heads of their own: with the options '%s' a head depends on the others or on its place: "
        .. "alone its output is another (rms difference %.3g of %.3g)")
        :format(group.whole:text(), math.sqrt(off), math.sqrt(size)), 0)
    end
  end)
end

local function share(self, whole)
  local own = whole:parameters()
  for _, name in ipairs(names.keys(own)) do
    local t, known = own[name], self.shared[name]
    if not known then
      self.shared[name] = t
    elseif table.concat(known:shape(), ",") == table.concat(t:shape(), ",") then
      whole:set_parameter(name, known)
    else
      error(("heads of their own: parameter '%s' would have the shape (%s) for some heads, (%s) for "
        .. "others"):format(name, table.concat(known:shape(), ","), table.concat(t:shape(), ",")), 0)
    end
  end
end

-- The number of a head given as 3 or "3".
local function number_of(key, heads)
  local h = math.tointeger(tonumber(key))
  if not h or h < 1 or h > heads then
    error(("heads: a head in 1..%d expected, got %s"):format(heads, tostring(key)), 0)
  end
  return h
end

-- preset and options of the layer, heads = { [number or its text] = options over the layer's, or with
-- a preset of their own }, sizes of core.attn.new.
function M.new(preset, options, heads, sizes)
  if type(heads) ~= "table" then error("heads: a table by head expected, got " .. type(heads), 0) end
  local self = setmetatable({ sizes = sizes, groups = {}, shared = {} }, Heads)
  local own, by_text = {}, {}
  for key, given in pairs(heads) do
    local h = number_of(key, sizes.heads)
    if type(given) ~= "table" then
      error(("heads.%d: table of options expected, got %s"):format(h, type(given)), 0)
    end
    local rest = {}
    for k, v in pairs(given) do rest[k] = k ~= "preset" and v or nil end
    own[h] = given.preset and { preset = given.preset, options = rest }
      or { preset = preset, options = M.merge(preset, options, rest) }
    own[h].number = h
  end
  local base = { preset = preset, options = options }
  for h = 1, sizes.heads do
    local o = own[h] or base
    if not o.whole then
      local ok, whole = pcall(core.attn.new, o.preset, o.options, sizes)
      if not ok then error((o.number and "head " .. o.number .. ": " or "") .. tostring(whole), 0) end
      o.whole, o.text = whole, whole:family() .. " " .. whole:text(true)
    end
    local group = by_text[o.text]
    if not group then
      group = { preset = o.preset, options = o.options, whole = o.whole, list = {} }
      by_text[o.text], self.groups[#self.groups + 1] = group, group
    end
    group.list[#group.list + 1] = h
  end
  local order = {}
  for _, g in ipairs(self.groups) do
    g.name = "heads " .. table.concat(g.list, ",")
    g.kv = heads_rows.kv_list(g.list, sizes.heads // sizes.kv_heads)
    g.part = core.attn.new(g.preset, g.options, sizes_with(sizes, #g.list, #g.kv))
    if not sizes.bare then
      share(self, g.whole)
      g.kinds = heads_rows.axis_kinds(g, sizes)
      check_alone(self, g)
    end
    table.move(g.list, 1, #g.list, #order + 1, order)
  end
  self.place = {} -- of head h among the groups' heads, one group after the other
  for i, h in ipairs(order) do self.place[h] = i end
  self.layer_text = (own[1] or base).whole:layer()
  return self
end

-- As an instance's.
function Heads:forward(inputs)
  local outputs, states = {}, inputs.state and {}
  for i, g in ipairs(self.groups) do
    local own = run(self, g, inputs)
    own.state = inputs.state and inputs.state.parts[i]
    own.taps = taps.of_group(inputs.taps, g.part:taps(), g.list)
    local o, st = g.part:forward(own)
    outputs[i] = o
    if states then states[i] = st end
  end
  local all = #outputs == 1 and outputs[1] or core.op.concat(outputs, { axis = 3 })
  return pick(all, 3, self.place), states and joint_state(self, states)
end

function Heads:step(state, inputs)
  local own = {}
  for k, v in pairs(inputs) do own[k] = v end
  own.state = state
  return self:forward(own)
end

function Heads:state(opts)
  local states = {}
  for i, g in ipairs(self.groups) do states[i] = g.part:state(opts) end
  return joint_state(self, states)
end

-- A state out of components by name, as State:components gave them.
function Heads:restore(position, tensors)
  local states = {}
  for i, g in ipairs(self.groups) do
    local own = {}
    for name, t in pairs(tensors) do
      if name:sub(1, #g.name + 1) == g.name .. "." then own[name:sub(#g.name + 2)] = t end
    end
    states[i] = g.part:restore(position, own)
  end
  return joint_state(self, states)
end

-- Tensors over all heads, by name: those that are trained.
function Heads:parameters()
  local out = {}
  for name, t in pairs(self.shared) do out[name] = t end
  return out
end

function Heads:set_parameter(name, t)
  if not self.shared[name] then
    error("heads: " .. names.unknown("parameter", name, names.keys(self.shared)), 0)
  end
  for _, g in ipairs(self.groups) do
    if g.whole:parameters()[name] then g.whole:set_parameter(name, t) end
  end
  self.shared[name] = t
  return self
end

local function joined(self, method, ...)
  local out = {}
  for i, g in ipairs(self.groups) do
    out[i] = ("%s: %s"):format(g.name, g.part[method](g.part, ...))
  end
  return table.concat(out, "; ")
end

function Heads:text(all) return joined(self, "text", all) end
function Heads:plan(T, opts) return joined(self, "plan", T, opts) end
function Heads:layer() return self.layer_text end
function Heads:family() return "heads" end

-- Names of the families of all groups.
function Heads:families()
  local out = {}
  for i, g in ipairs(self.groups) do out[i] = g.part:family() end
  return out
end

-- Bytes of one sequence at position t, all groups.
function Heads:state_bytes(t)
  local n = 0
  for _, g in ipairs(self.groups) do n = n + g.part:state_bytes(t) end
  return n
end

-- What all groups promise.
function Heads:claims()
  local out = self.groups[1].part:claims()
  for _, g in ipairs(self.groups) do
    local own = g.part:claims()
    for name in pairs(out) do out[name] = own[name] end
  end
  return out
end

return M
