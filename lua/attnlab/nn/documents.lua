-- Packed rows: several documents one behind the other in a row of a batch, as layers see them. Positions and a
-- convolution begin anew with each; what attention does with them is attention/documents.c.
local core = require "attnlab.core"

local Documents = {}
Documents.__index = Documents
Documents.__name = "attnlab.nn.documents"

-- Of opts.documents (starts, or what this made of them) for x (B,T,..); nil: none. It reads them, once.
function Documents.of(given, x)
  if given == nil then return nil end
  if getmetatable(given) ~= Documents then
    local laid = core.attn.documents(given)
    given = setmetatable({ laid = laid, packed = laid:packed(), made = {} }, Documents)
  end
  local B, T = given.laid:sizes()
  if B ~= x:size(1) or T ~= x:size(2) then
    error(("documents: starts of shape (%d,%d) needed, as many as tokens, got (%d,%d)"):format(x:size(1), x:size(2), B, T), 0)
  end
  return given
end

local function kept(self, key, make)
  local here = core.on() .. " " .. key
  if not self.made[here] then self.made[here] = make() end
  return self.made[here]
end

-- (B,T) i32, the place of each token in its document.
function Documents:positions()
  return kept(self, "positions", function() return self.laid:positions(0) end)
end

-- The same behind a state whose rows have seen `count` (B) tokens: those of documents that begin at place 0 go on.
function Documents:positions_behind(count)
  local goes_on = kept(self, "goes on", function() -- 0, below 0 elsewhere
    return self.laid:positions(1 << 30):add_i32 { by = -(1 << 30), max = 0 }
  end)
  return self:positions():add_i32(count:unsqueeze { axis = -1 }:add_i32(goes_on, { min = 0 }))
end

-- (B,T,1) i32, not 0 where the token i places before is of the same document; from a state those before the row are of
-- the documents that begin at place 0.
function Documents:reaches(i, from_state)
  return kept(self, "reaches " .. i .. tostring(from_state), function()
    return self.laid:positions(from_state and i or 0):add_i32 { by = 1 - i, min = 0 }:unsqueeze { axis = -1 }
  end)
end

-- (B,n,1) i32, 1 where one of the last n places of a row, or before it, is of its last document.
function Documents:last(n)
  return kept(self, "last " .. n, function() return self.laid:last(n):unsqueeze { axis = -1 } end)
end

-- t where mask is not 0, else 0.
function Documents.select(mask, t)
  local zero <close> = core.zeros { shape = { 1 }, dtype = t:dtype(), device = t:device() }
  return core.op.select(mask, t, zero)
end

-- Tokens that rows have seen at most, `before` of them before these T.
function Documents.after(before, T, self)
  return self and self.packed and self.laid:after(before) or before + T
end

-- Where T tokens stand, behind the state of an attention family or nil: the place of the first, or, where that differs
-- from row to row or begins anew, (B,T) i32 and a number that all are below.
function Documents.places(T, family, self)
  local packed = self and self.packed
  if not family then return 0, packed and self:positions() or nil, T end
  local seen, below = family:seen(), family:position() + T
  if packed then return 0, self:positions_behind(family:count()), below end
  if seen then return seen end
  local list = {}
  for t = 1, T do list[t] = t - 1 end
  local t <close> = core.tensor { data = list, shape = { 1, T }, dtype = "i32" }
  return 0, t:add_i32(family:count():unsqueeze { axis = -1 }), below
end

return Documents
