-- How many bytes of the text scored tokens stand for: what bits a byte are counted by. A piece has the bytes of the text
-- where the tokenizer keeps it as it is; that is checked on the whole text, and where it fails (a normaliser) the text's
-- bytes are shared out in proportion to the pieces'.
-- A change here makes no run stale.
local M = {}
local Bytes = {}
Bytes.__index = Bytes

-- set: the dataset that the tokens are of; begins: whether the first token of its text is a scored one.
function M.new(set, begins)
  local v = set.vocabulary
  local special = {}
  if v.special then
    for _, id in pairs(v:special()) do special[id] = true end
  end
  for _, role in ipairs { "bos", "eos", "pad" } do
    if v[role] then special[v[role]] = true end
  end
  return setmetatable({ set = set, begins = begins, vocabulary = v, special = special, of = {}, n = 0, tokens = 0, unknown = 0 }, Bytes)
end

-- Bytes of the text that an id stands for.
function Bytes:length(id)
  local n = self.of[id]
  if not n then
    local piece = not self.special[id] and self.vocabulary:piece(id)
    n = piece and #piece or 0
    self.of[id] = n
  end
  return n
end

-- Adds targets y (B,T) from column `from` on.
function Bytes:add(y, from)
  local T, unk = y:size(2), self.vocabulary.unk
  for i, id in ipairs(y:flat()) do
    if (i - 1) % T + 1 >= from and id >= 0 then
      self.n, self.tokens = self.n + self:length(id), self.tokens + 1
      if id == unk then self.unknown = self.unknown + 1 end
    end
  end
end

local CHUNK = 1 << 16 -- tokens that are a table at once

-- Bytes of all pieces of the text, and whether the first begins with a space; nil where its tokens are not at hand.
local function whole(self)
  local tokens = self.set.tokens
  if type(tokens) ~= "userdata" then return nil end
  local n, first = 0, nil
  for at = 0, tokens:numel() - 1, CHUNK do
    local some <close> = tokens:slice { axis = 1, start = at, stop = math.min(at + CHUNK, tokens:numel()) }
    for _, id in ipairs(some:flat()) do
      local more = self:length(id)
      if more > 0 and not first then first = self.vocabulary:piece(id) end
      n = n + more
    end
  end
  return n, first and first:sub(1, 1) == " "
end

-- Bytes, and how they are known: "exact"; "shared out"; "the pieces'", where there is no text to hold them against. Or
-- nil, nil and why there are none.
function Bytes:total()
  if not self.vocabulary:piece(0) then return nil, nil, "the data have ids and no tokenizer" end
  if self.unknown > 0 then
    return nil, nil, ("undefined: %d of %d scored tokens are unknown to the tokenizer"):format(self.unknown, self.tokens)
  end
  if self.n == 0 then return nil, nil, "the scored tokens stand for no text" end
  local text, all, space = self.set.text_bytes, whole(self)
  if not all or not text then return self.n, "the pieces'" end
  if all == text then return self.n, "exact" end
  -- the space that a tokenizer puts before a text is not the text's
  if all == text + 1 and space then return self.begins and self.n - 1 or self.n, "exact" end
  return self.n * text / all, "shared out"
end

return M
