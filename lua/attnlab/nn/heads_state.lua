-- The state of a layer whose heads have options of their own: that of each group (heads.lua), with the
-- methods of an instance's state. Returns state(heads, parts).
local State = {}
State.__index = State
State.__name = "attnlab.heads_state"

local function new(heads, parts)
  return setmetatable({ heads = heads, parts = parts }, State)
end

function State:bytes()
  local n = 0
  for _, st in ipairs(self.parts) do n = n + st:bytes() end
  return n
end

function State:position() return self.parts[1]:position() end
function State:batch() return self.parts[1]:batch() end
function State:seen() return self.parts[1]:seen() end
function State:count() return self.parts[1]:count() end

function State:copy()
  local parts = {}
  for i, st in ipairs(self.parts) do parts[i] = st:copy() end
  return new(self.heads, parts)
end

-- As an instance's, the names behind those of the heads: "heads 1,3.numerator".
function State:components()
  local out = {}
  for i, st in ipairs(self.parts) do
    for _, c in ipairs(st:components()) do
      out[#out + 1] = { name = self.heads.groups[i].name .. "." .. c.name, doc = c.doc,
                        bytes = c.bytes, tensor = c.tensor }
    end
  end
  return out
end

function State:free()
  for _, st in ipairs(self.parts) do st:free() end
end

return new
