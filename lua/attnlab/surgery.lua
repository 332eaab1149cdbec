-- Operating on a trained model. s = m:fork() is the model again, in the same memory until either is
-- trained or written, and everything that a model is. Its parts can be changed and put back:
--   s.layer[2]:set{output_norm = "l2"}     options of the family or the layer, over those it has;
--   s.layer["*"]:set{preset = "..."}       or another preset: rotary positions and the like stay
--                                          where the preset names none
--   s.layer[1].head[3]:set{output_gate=0}  a head with options of its own, or with a preset, of which
--                                          it takes the family's options alone
--   s:show{windows=}                       the fork beside its original: formula, loss, KL, state, text
--   s:calibrate{layer=2, match="rms", data="shakespeare", split="train", batches=4, batch=8}
--                                          a constant factor a head: on the inputs that the original
--                                          gives the layer, its output has the original's rms
--   r = s:tune{steps=200, lr=3e-4, ...}    trains the fork, with the options of lab.train
--   s:patch{name="heads", layer=2, head=3, at={5}, with="mean"}   another activation at a tap: surgery/patch.lua
--   s:sweep{over="head", denominator="none", calibrate=true}
--                                          each head changed alone: a map of layers by heads
--   s:swaps()                              what differs from the original, in the order made
--   s:undo(n)                              takes back the last n of them (1); s:undo("tune") the last
--                                          training alone, the changes stay
--   s:redo(n)                              does again what was undone last, until something else is done
-- A change either happens as a whole or is refused with the reason. Parameters whose name and shape
-- stay are the very tensors, so r:cont(100) after a change goes on with their moments; new ones are
-- initialised by name. A training by s:tune is one entry of the list, with all that r:cont added to it:
-- r:cont goes on with the last training alone, and what was measured before it is struck from the list.
-- lab.train(s) trains the fork without an entry, and undo does not take it back.
local config = require "attnlab.config"
local core = require "attnlab.core"
local devices = require "attnlab.devices"
local calibrate = require "attnlab.surgery.calibrate"
local list = require "attnlab.surgery.list"
local Module = require "attnlab.nn.module"
local measure = require "attnlab.surgery.measure"
local part = require "attnlab.surgery.part"
local taps = require "attnlab.nn.taps"
local tune = require "attnlab.surgery.tune"

local M = {}
local Session = {}

-- ---- entries of the list ----------------------------------------------------------------------------

local touched, forks, clock = setmetatable({}, { __mode = "k" }), setmetatable({}, { __mode = "k" }), 0

-- Internal: the fork's list is another one than it was.
function Session:touch()
  clock = clock + 1
  touched[self] = clock
end

local function in_order(at)
  local out = {}
  for fork in pairs(at) do out[#out + 1] = fork end
  table.sort(out, function(a, b) return at[a] < at[b] end)
  return out
end

-- The forks whose list changed since the last call, in the order of their last changes.
function M.changed()
  local at = touched
  touched = setmetatable({}, { __mode = "k" })
  for fork in pairs(at) do
    if not forks[fork] then at[fork] = nil end
  end
  return in_order(at)
end

-- The forks there are, in the order in which they were made.
function M.forks() return in_order(forks) end

-- Internal: appends what was done to the fork: { kind =, change = (a text), take_back = f, again = f (what was taken back is
-- done again), and list = (numbers of layers), head =, options = where they say what it is; still = true: the fork is
-- what it was }. What had been undone before cannot be done again behind it.
function Session:enter(entry)
  self.log[#self.log + 1], self.undone = entry, {}
  if not entry.still then self:touch() end
  return entry
end

-- The last entry that made the fork what it is, nil where nothing did, and how many did.
function Session:last_change()
  local last, n = nil, 0
  for _, e in ipairs(self.log) do
    if not e.still then last, n = e, n + 1 end
  end
  return last, n
end

local function put(self, attentions, before)
  for i, a in pairs(attentions) do self.layers[i]:replace(before[i], a) end
  self.spec, self.generation = {}, self.generation + 1
  for i, block in ipairs(self.layers) do self.spec[tostring(i)] = config.copy(block.attention.spec) end
end

-- Internal: puts attentions by layer in the place of the layers' own and enters that into the list. All or none: what stops it
-- halfway leaves the fork as it was, and an interrupt waits.
function Session:exchange(attentions, entry)
  local before = {}
  for i, a in pairs(attentions) do
    before[i] = self.layers[i].attention
    a:train(before[i].training)
  end
  local function way(to, from)
    return function()
      for i, a in pairs(to) do a:train(self.layers[i].attention.training) end
      put(self, to, from)
    end
  end
  entry.again, entry.take_back = way(attentions, before), way(before, attentions)
  return core.sys.whole(function()
    local ok, why = pcall(function()
      entry.again()
      taps.check(self, self.patches) -- what is patched must still be there
    end)
    if not ok then
      entry.take_back()
      error(why, 0)
    end
    return self:enter(entry)
  end)
end

-- ---- calibration ------------------------------------------------------------------------------------

-- A constant factor a head gives it the rms that the original's has on the same inputs. help "surgery.calibrate" has the
-- options. Returns the fork.
function Session:calibrate(opts)
  return calibrate.run(self, opts)
end

-- Trains the fork, with the options of lab.train; the training is one entry of the list. Returns what lab.train does.
function Session:tune(opts)
  local result, entry = tune(self, opts)
  self:enter(entry)
  return result
end

-- An activation in the place of the fork's own, at a tap: s:patch{name="heads", layer=2, head=3, at={5}, with="mean"}.
-- help "surgery.patch" has the options. Returns the fork.
function Session:patch(opts)
  local entry = require "attnlab.surgery.patch" (self, opts)
  core.sys.whole(function()
    entry.again()
    self:enter(entry)
  end)
  return self
end

-- ---- the list ---------------------------------------------------------------------------------------

-- Takes back entry `at`; those behind it, which stay, were measured with it.
local function take_back(self, at)
  core.sys.whole(function()
    local entry = self.log[at]
    entry.take_back()
    table.remove(self.log, at)
    self.undone[#self.undone + 1] = { entry = entry, at = at }
    if entry.still then return end
    list.strike(self.log, at)
    self:touch()
  end)
end

-- Does again what was taken back last.
local function put_again(self)
  core.sys.whole(function()
    local last = self.undone[#self.undone]
    last.entry.again()
    table.remove(self.undone)
    table.insert(self.log, last.at, last.entry)
    if last.entry.still then return end
    list.strike(self.log, last.at + 1)
    self:touch()
  end)
end

local function last_tune(self)
  for k = #self.log, 1, -1 do
    if self.log[k].kind == "tune" then return k end
  end
  error("undo: the fork was not tuned", 3)
end

-- Takes back the last n changes (1), or with "tune" the last training alone. Returns the fork.
function Session:undo(n)
  if n == "tune" then
    take_back(self, last_tune(self))
    return self
  end
  n = n == nil and 1 or n
  if #self.log == 0 then error("undo: there are no changes to take back", 2) end
  if math.type(n) ~= "integer" or n < 1 or n > #self.log then
    error(("undo: a number in 1..%d or \"tune\" expected, got %s"):format(#self.log, tostring(n)), 2)
  end
  for _ = 1, n do take_back(self, #self.log) end
  return self
end

-- Does again the last n changes (1) that were undone. Returns the fork.
function Session:redo(n)
  n = n == nil and 1 or n
  if #self.undone == 0 then error("redo: nothing was undone, or the fork was changed since", 2) end
  if math.type(n) ~= "integer" or n < 1 or n > #self.undone then
    error(("redo: a number in 1..%d expected, got %s"):format(#self.undone, tostring(n)), 2)
  end
  for _ = 1, n do put_again(self) end
  return self
end

-- Internal: called by evalset with what it measured of the fork as it is now; against: the model of a difference.
function Session:measured(values, against)
  if against and against ~= self.original and against ~= self.source[1] then return end
  local entry = self:last_change() or self.untouched
  if against then
    local d = { mean = values.mean, lo = values.lo, hi = values.hi, kl = values.kl }
    if values.bad > 0 then d.bad, d.tokens = values.bad, values.tokens end
    entry.difference = d
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

-- What the fork is beside its original: formula, loss, rounding, KL, state, text. help "surgery.show" has the options.
function Session:show(opts)
  return require "attnlab.surgery.show" (self, opts)
end

-- Each head or layer changed alone, or each of several values put in, measured against the original; surgery/sweep.lua
-- has the options. The fork stays as it is: the sweep is an entry of its list.
function Session:sweep(opts)
  return require "attnlab.surgery.sweep" (self, opts)
end

-- The text that the fork is operated on, in parts (surgery/parts.lua); data names another text for it.
function Session:parts(data)
  return measure.parts(self, data)
end

-- Internal: the fork as it is, as a fork of its own that is measured and forgotten.
function Session:twin()
  return M.fork(self, true)
end

-- What the fork is, and the table of its changes.
function Session:describe()
  local first = list.loss(self.untouched)
  return ("fork of a %s, %d layers, %d parameters%s\n%s"):format(self.class_name, #self.layers,
    self:n_parameters(), first and ", loss as forked " .. first or "", tostring(self:swaps()))
end

-- ---- forks ------------------------------------------------------------------------------------------

-- Internal: a fork copied as a module is a plain model: the list and the original stay with this one.
function Session:clone_into(seen)
  local own = {}
  for _, k in ipairs { "log", "undone", "original", "layer", "source", "untouched", "generation", "root", "before" } do
    own[k], self[k] = self[k], nil
  end
  local ok, new = pcall(Module.clone_into, self, seen)
  for k, v in pairs(own) do self[k] = v end
  if not ok then error(new, 0) end
  return setmetatable(new, self.base)
end

-- A fork lies where its original does.
function Session:to(device)
  error(("to: a fork stays on %s, beside its original: m:to(%q):fork()"):format(self.device, tostring(device)), 2)
end

devices.wrap(Session, { "calibrate", "tune", "patch", "undo", "redo", "show", "sweep", "parts", "twin", "clone_into" })

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

-- The changes that a fork of m begins with.
local function begun_with(m)
  local out = {}
  for _, list in ipairs { m.before or {}, m.log or {} } do
    for _, e in ipairs(list) do out[#out + 1] = not e.still and e or nil end
  end
  return out
end

-- A model again, in the same memory until either is written, to operate on: m:fork(). scratch: one that
-- nobody is told of.
function M.fork(m, scratch)
  local s = m:clone()
  s.original, s.log, s.undone, s.generation, s.untouched = m:clone(), {}, {}, 0, {}
  s.source = setmetatable({ m }, { __mode = "v" })
  s.root, s.before = m.root or s.original, begun_with(m)
  s.layer = part.handles(s)
  setmetatable(s, class_of(getmetatable(s)))
  if not scratch then
    clock = clock + 1
    forks[s] = clock
  end
  return s
end

return M
