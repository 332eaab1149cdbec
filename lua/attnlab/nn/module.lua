-- Module: what has parameters. A class comes from Module.class(name); its new() builds an instance
-- by Module.create, registers tensors with self:parameter and parts with self:child, and its
-- forward(...) is what calling the instance runs.
--
-- Options that every constructor takes:
--   seed   integer; initial weights are a function of (seed, full tensor name) alone. Without one
--          the sequence of lab.manual_seed gives it
--   name   full name of this module in its model ("model.layers.0.mlp"), the start of tensor names
--   dtype  "f32" (default), "f64" or "bf16"
--   device where its tensors lie and it runs: "cpu", "cuda", "cuda:1" (default: the current one)
local core = require "attnlab.core"
local devices = require "attnlab.devices"
local names = require "attnlab.names"
local parameters = require "attnlab.parameters"

local Module = {}
Module.__index = Module

-- A layer that runs where its work is queued: reading numbers there is an error with its name.
local TURN = { __close = function(t) core.turn(t.before) end }

local function awaited(self, name, ...)
  if self.device == "cpu" then return self:forward(...) end -- nothing is waited for
  local turn <close> = setmetatable({ before = core.turn(name) }, TURN)
  return self:forward(...)
end

-- A new class, of a base class or of Module. Called, it makes an instance; an instance called runs forward.
function Module.class(name, base)
  local class = setmetatable({}, {
    __index = base or Module,
    __call = function(self, ...) return self.new(...) end,
  })
  class.__index = class
  class.__name = "attnlab.nn." .. name
  class.class_name = name
  class.__call = function(self, ...)
    return devices.on(self.device, awaited, self, name, ...)
  end
  class.__tostring = function(self)
    return ("%s (%d parameters)"):format(name, self:n_parameters())
  end
  return class
end

local COMMON = { "seed", "name", "dtype", "device" }

-- An instance of `class` with the common options; `own` lists the class's further option names, and
-- any other key of opts is an error.
function Module.create(class, opts, own)
  opts = opts or {}
  if type(opts) ~= "table" then
    error(("%s: options: table expected, got %s"):format(class.class_name, type(opts)), 3)
  end
  local known = table.move(own or {}, 1, #(own or {}), #COMMON + 1, { table.unpack(COMMON) })
  local set = {}
  for _, k in ipairs(known) do set[k] = true end
  for k in pairs(opts) do
    if not set[k] then error(class.class_name .. ": " .. names.unknown("option", k, known), 3) end
  end
  local seed = opts.seed
  if seed == nil then
    local draw <close> = core.rand { shape = { 1 }, dtype = "f64", device = "cpu" }
    seed = math.tointeger(draw:item() * 2.0 ^ 53 // 1)
  elseif math.type(seed) ~= "integer" then
    error(("%s: option 'seed': integer expected, got %s"):format(class.class_name, tostring(seed)), 3)
  end
  return setmetatable({ seed = seed, name = opts.name or "", dtype = opts.dtype or "f32",
                        device = devices.opened(opts.device), training = true, members = {} }, class)
end

-- The common options for a part of this module: its name is this one's with `key` behind.
function Module:part(key, more)
  local opts = { seed = self.seed, dtype = self.dtype, device = self.device, name = self:path(key) }
  for k, v in pairs(more or {}) do opts[k] = v end
  return opts
end

-- Full name of a tensor or part of this module.
function Module:path(key)
  return self.name == "" and key or self.name .. "." .. key
end

-- Registers a tensor that is trained; it is self[key] as well. Returns it.
function Module:parameter(key, t)
  t:requires_grad(true)
  self[key] = t
  self.members[#self.members + 1] = { key = key, tensor = t }
  return t
end

-- Registers a tensor that belongs to the model and is saved with it, but is not trained.
function Module:buffer(key, t)
  self[key] = t
  self.members[#self.members + 1] = { key = key, tensor = t, buffer = true }
  return t
end

-- Registers a part whose tensors are named key.<...>. Returns it.
function Module:child(key, module)
  self.members[#self.members + 1] = { key = key, module = module }
  return module
end

local held -- tensors of a file by their names, while modules are made for them

-- Internal: f() with every module that it makes held against the tensors of a file that are to go into it: one that is missing
-- there, or has another shape, ends it before anything of that size is made, with the error { of_tensor = text }.
function Module.made_for(tensors, f)
  local before = held
  held = tensors
  local ok, result = pcall(f)
  held = before
  if not ok then error(result, 0) end
  return result
end

-- Internal: a tensor of this name and shape is about to be made.
function Module:hold(key, shape)
  if not held then return end
  local name, want = self:path(key), table.concat(shape, ",")
  local t = held[name]
  local got = t and table.concat(t:shape(), ",")
  if not got then error({ of_tensor = ("tensor '%s' is missing"):format(name) }, 0) end
  if got ~= want then
    error({ of_tensor = ("tensor '%s': shape (%s) expected, got (%s)"):format(name, want, got) }, 0)
  end
end

-- New tensor with U(-bound, bound), N(0, deviation) or one value.
function Module:uniform(key, shape, bound)
  self:hold(key, shape)
  local t = core.zeros { shape = shape, dtype = self.dtype, device = self.device }
  if not held then t:fill_uniform(self.seed, self:path(key), -bound, bound) end -- else a file's values come
  return t
end

-- New tensor of N(0, deviation).
function Module:normal(key, shape, deviation)
  self:hold(key, shape)
  local t = core.zeros { shape = shape, dtype = self.dtype, device = self.device }
  if not held then t:fill_normal(self.seed, self:path(key), 0, deviation) end
  return t
end

-- New tensor of one value.
function Module:constant(shape, value)
  return core.full { shape = shape, dtype = self.dtype, value = value, device = self.device }
end

-- Internal: appends names and tensors below `prefix`, buffers where they are wanted; modules that keep tensors
-- elsewhere add to it.
function Module:collect(prefix, order, values, buffers)
  for _, m in ipairs(self.members) do
    local path = prefix .. m.key
    if m.module then
      m.module:collect(path .. ".", order, values, buffers)
    elseif buffers or not m.buffer then
      order[#order + 1] = path
      values[path] = m.tensor
    end
  end
end

-- Tensors that are trained by name, relative to this module, as a set (parameters.lua); pairs() runs in
-- the order of the model's definition.
function Module:parameters()
  local order, values = {}, {}
  self:collect("", order, values)
  return parameters.set(order, values)
end

-- Parameters and buffers: all that is saved.
function Module:tensors()
  local order, values = {}, {}
  self:collect("", order, values, true)
  return parameters.set(order, values)
end

local function same_kind(a, b)
  return a:dtype() == b:dtype() and table.concat(a:shape(), ",") == table.concat(b:shape(), ",")
end
Module.same_kind = same_kind

-- Puts tensors in the place of those of the same name, shape and dtype (not their values: the very
-- tensors). Others stay as they are. Modules that keep tensors elsewhere add to it.
function Module:place(tensors, prefix)
  prefix = prefix or ""
  for _, m in ipairs(self.members) do
    local path = prefix .. m.key
    local t = tensors[path]
    if m.module then
      m.module:place(tensors, path .. ".")
    elseif t and same_kind(t, m.tensor) then
      m.tensor, self[m.key] = t, t
    end
  end
end

-- Puts another module in the place of one of the parts.
function Module:replace(part, other)
  for _, m in ipairs(self.members) do
    if m.module == part then m.module = other end
  end
  for k, v in pairs(self) do
    if v == part then self[k] = other end
  end
end

local THERE = {} -- key of `seen`: the device that a copy is for

-- The module again on that device, its tensors copies; on its own it is a clone. What it was made of stays.
function Module:to(device)
  local there = devices.opened(device)
  if there == self.device then return self:clone() end
  return devices.on(there, self.clone_into, self, { [THERE] = there })
end

-- The module again: its tensors share memory with this one's until either is written, all else is
-- its own. Modules that keep tensors elsewhere add to it.
function Module:clone()
  return self:clone_into {}
end

-- Internal: a fork of the tensor, or a copy on another device; seen: what was cloned already, tensors by their id, so that one tensor stays one.
function Module.clone_tensor(t, seen)
  local id = t:id()
  if not seen[id] then
    seen[id] = seen[THERE] and t:to(seen[THERE]) or t:fork()
    seen[id]:requires_grad(t:requires_grad())
  end
  return seen[id]
end

-- Internal: as clone; seen: what was cloned already, by what it was.
function Module:clone_into(seen)
  local new = setmetatable({}, getmetatable(self))
  seen[self] = new
  local function clone(v)
    if core.is_tensor(v) then return Module.clone_tensor(v, seen) end
    if seen[v] then return seen[v] end
    if type(v) == "table" and type(v.clone_into) == "function" then
      seen[v] = v:clone_into(seen)
    elseif type(v) == "table" and getmetatable(v) == nil then
      local t = {}
      seen[v] = t
      for k, x in pairs(v) do t[k] = clone(x) end
    end
    return seen[v] or v
  end
  for k, v in pairs(self) do new[k] = clone(v) end
  new.device = seen[THERE] or self.device
  return new
end

-- Number of learned numbers.
function Module:n_parameters()
  local n = 0
  for _, t in pairs(self:parameters()) do n = n + t:numel() end
  return n
end

-- Forgets the gradients of all parameters.
function Module:zero_grad()
  for _, t in pairs(self:parameters()) do t:zero_grad() end
end

-- Training mode (dropout is active) for this module and all its parts.
function Module:train(on)
  self.training = on ~= false
  for _, m in ipairs(self.members) do
    if m.module then m.module:train(on) end
  end
  return self
end

-- The opposite of train(): dropout is off.
function Module:eval()
  return self:train(false)
end

-- Copies values by name into parameters and buffers. Every tensor must be there with its shape, and the
-- names must stand for the same tensors. `where` is named in errors (a file), with what called(name) says that a tensor
-- is called there (nil: as here).
function Module:load_parameters(tensors, where, called)
  local own = self:tensors()
  called = called or function(name) return name end
  for name in pairs(tensors) do
    if own[name] == nil then
      error(("%s: %s"):format(where, names.unknown("tensor", called(name), names.keys(own))), 0)
    end
  end
  parameters.expect_names(own, tensors, where)
  for name, t in pairs(own) do
    local source = tensors[name]
    if not source then error(("%s: tensor '%s' is missing"):format(where, called(name)), 0) end
    local want, got = table.concat(t:shape(), ","), table.concat(source:shape(), ",")
    if want ~= got then
      error(("%s: tensor '%s': shape (%s) expected, got (%s)"):format(where, called(name), want, got), 0)
    end
    t:copy_(source)
  end
end

return Module
