-- What sequences carry through a layer or a model from token to token, as a tree: the states of
-- attention families, further tensors (the last inputs of a convolution), states of parts. Like
-- those of the families a state is never changed: a call makes the next one.
--   st:position()    tokens seen                st:batch()   sequences
--   st:bytes()       held, a cache's room too   st:copy()    own storage, no history
--   st:components()  array of {name=, doc=, bytes=, tensor=}; names are paths ("layer.1.count")
--   st:cache()       what grows with the sequence: names, and bytes a token; nil: a finite state
--   st:save(path)    a file that m:load_state(path) takes
--   st:rows{2, 5}    the state of some of its sequences, in that order
--   st:free()        drops the tensors without waiting for the collector
local core = require "attnlab.core"
local names = require "attnlab.names"
local statefile = require "attnlab.statefile"

local State = {}
State.__index = State
State.__name = "attnlab.state"

-- Takes the tensor of part p out of the table, checked against that of the empty state.
local function take(tensors, p)
  local t = tensors[p.name]
  tensors[p.name] = nil
  local want, got = table.concat(p.tensor:shape(), ","), t and table.concat(t:shape(), ",")
  if want ~= got or t:dtype() ~= p.tensor:dtype() then
    error(("state: component '%s': %s of shape (%s) needed, got %s"):format(p.name,
      p.tensor:dtype(), want, t and ("%s of (%s)"):format(t:dtype(), got) or "none"), 0)
  end
  return t
end

-- parts: array of { name=, state= } and { name=, tensor=, doc= }, the batch first in each tensor.
-- owner: the module that made it; it alone can go on from it.
function State.new(owner, position, batch, parts)
  local self = setmetatable({ owner = owner, at = position, n = batch, parts = parts }, State)
  for _, p in ipairs(parts) do self[p.name] = p.state or p.tensor end
  return self
end

-- The options of a call of state: those given over their defaults; others are refused.
function State.options(given, known)
  if given ~= nil and type(given) ~= "table" then
    error(("state: options: a table expected, as state{batch=2}, got %s"):format(type(given)), 0)
  end
  for k, v in pairs(given or {}) do
    if known[k] == nil then error("state: " .. names.unknown("option", tostring(k), names.keys(known)), 0) end
    known[k] = v
  end
  return known
end

-- The state given to `owner` for a batch of B, or an error that says what was expected.
function State.check(st, owner, B, where)
  if getmetatable(st) ~= State then
    error(("%s: state: one of %s:state expected, got %s"):format(where, owner.class_name, type(st)), 0)
  elseif st.owner ~= owner then
    error(("%s: state: it belongs to another %s"):format(where, st.owner.class_name), 0)
  elseif st.n ~= B then
    error(("%s: state: a batch of %d expected as the input has, got %d"):format(where, B, st.n), 0)
  end
  return st
end

-- Tokens seen.
function State:position() return self.at end
-- Number of sequences.
function State:batch() return self.n end

local function size(t)
  return t:numel() * (t:dtype() == "f64" and 8 or 4)
end

-- Array of { name=, doc=, tensor=, bytes= }, the parts' own behind their names.
function State:components()
  local list = {}
  for _, p in ipairs(self.parts) do
    if p.tensor then
      list[#list + 1] = { name = p.name, doc = p.doc, tensor = p.tensor,
                          bytes = size(p.tensor) }
    else
      for _, c in ipairs(p.state:components()) do
        c.name = p.name .. "." .. c.name
        list[#list + 1] = c
      end
    end
  end
  return list
end

-- How many it holds.
function State:bytes()
  local n = 0
  for _, c in ipairs(self:components()) do n = n + c.bytes end
  return n
end

-- The state again; what goes on from either leaves the other.
function State:copy()
  local parts = {}
  for i, p in ipairs(self.parts) do
    parts[i] = { name = p.name, doc = p.doc, state = p.state and p.state:copy(),
                 tensor = p.tensor and p.tensor:detach():clone() }
  end
  local out = State.new(self.owner, self.at, self.n, parts)
  out.beyond = self.beyond
  return out
end

-- The state of the sequences of these numbers, from 1, in own storage and without history.
function State:rows(list)
  local tensors = {}
  for _, c in ipairs(self:components()) do
    local parts, t = {}, c.tensor:detach()
    for i, b in ipairs(list) do
      if math.type(b) ~= "integer" or b < 1 or b > self.n then
        error(("state: rows: numbers of sequences from 1 to %d expected, got %s"):format(self.n, tostring(b)), 0)
      end
      parts[i] = t[{ { b, b } }]
    end
    if #parts == 0 then error("state: rows: one sequence at least expected, got none", 0) end
    tensors[c.name] = core.op.concat(parts, { axis = 1 })
  end
  local fresh = self.owner:fresh(#list)
  local out = fresh:filled(self.at, tensors)
  out.beyond = self.beyond
  fresh:free()
  return out
end

-- Names of the components that are larger than in an empty state, and bytes they grew by a token of
-- one sequence; nil where there are none, as in a finite state.
function State:cache()
  local empty, names, grown, seen = {}, {}, 0, {}
  for _, c in ipairs(self.owner:fresh(self.n):components()) do empty[c.name] = size(c.tensor) end
  for _, c in ipairs(self:components()) do
    local more, name = size(c.tensor) - empty[c.name], c.name:match "[^.]+$"
    grown = grown + more
    if more > 0 and not seen[name] then
      seen[name], names[#names + 1] = true, name
    end
  end
  if #names > 0 then return names, grown / self.at / self.n end
end

-- Writes a file that m:load_state reads.
function State:save(path)
  statefile.save(path, self.owner:state_description(), self.at, self:components())
end

-- The state of an empty one with these positions and tensors by name, which all must be there.
-- The family restores its own part, with checks of its own.
function State:filled(position, tensors)
  local parts, rest = {}, {}
  for name, t in pairs(tensors) do
    local head, tail
    for _, p in ipairs(self.parts) do
      if p.state and name:sub(1, #p.name + 1) == p.name .. "." then
        head, tail = p.name, name:sub(#p.name + 2)
      end
    end
    rest[head or ""] = rest[head or ""] or {}
    rest[head or ""][tail or name] = t
  end
  for i, p in ipairs(self.parts) do
    local own = rest[p.name] or {}
    if p.tensor then
      parts[i] = { name = p.name, doc = p.doc, tensor = take(rest[""] or {}, p) }
    elseif getmetatable(p.state) == State then
      parts[i] = { name = p.name, state = p.state:filled(position, own) }
    else
      parts[i] = { name = p.name, state = self.owner.family:restore(position, own) }
    end
  end
  for name in pairs(rest[""] or {}) do error(("state: unknown component '%s'"):format(name), 0) end
  local out = State.new(self.owner, position, self.n, parts)
  out.beyond = self.beyond
  return out
end

-- m:load_state of layers and models. Number of sequences: as the counts of a family have entries.
function State.load(owner, path)
  local position, tensors = statefile.load(path, owner:state_description())
  local batch
  for name, t in pairs(tensors) do
    if name:find "%.count$" and t:ndim() == 1 then batch = math.max(batch or 1, t:size(1)) end
  end
  if not batch then error(("'%s': no component 'count' that says how many sequences"):format(path), 0) end
  -- a state of that many is made only where the file holds as much
  local one = owner:fresh(1)
  for _, c in ipairs(one:components()) do
    local t = tensors[c.name]
    if not t or t:numel() // batch < c.tensor:numel() then
      error(("'%s': state: component '%s': %d sequences as in 'count' needed, got %s"):format(path, c.name, batch,
        t and ("(%s)"):format(table.concat(t:shape(), ",")) or "none"), 0)
    end
  end
  one:free()
  return statefile.named(path, function() return owner:fresh(batch):filled(position, tensors) end)
end

-- Gives its memory back now.
function State:free()
  for _, p in ipairs(self.parts) do (p.state or p.tensor):free() end
end

return State
