-- Vocabularies: the characters of a text, or a llama2.c tokenizer table. Fields: kind
-- ("characters", "llama2c"), bos and eos (ids, nil for characters). Ids are 0-based.
local core = require "attnlab.core"

local Vocabulary = {}
Vocabulary.__index = Vocabulary
Vocabulary.__name = "attnlab.vocabulary"

local M = {}

-- The distinct characters of a text.
function M.characters(text)
  return setmetatable({ kind = "characters", table = core.vocab.chars(text) }, Vocabulary)
end

-- In llama2.c's tables id 1 starts a text and id 2 ends it.
function M.llama2c(path, size)
  return setmetatable({ kind = "llama2c", bos = 1, eos = 2,
                        table = core.vocab.llama2c(path, size) }, Vocabulary)
end

-- Number of ids.
function Vocabulary:size()
  return self.table:size()
end

-- Text to ids, an i32 tensor; a llama2.c table puts its start token first.
function Vocabulary:encode(text)
  return self.table:encode(text)
end

-- The text of ids, a tensor or an array.
function Vocabulary:decode(ids)
  return self.table:decode(ids)
end

-- The text of one id, nil outside the table.
function Vocabulary:piece(id)
  return self.table:piece(id)
end

-- Whether a text can be written in it.
function Vocabulary:has(text)
  return (pcall(self.encode, self, text))
end

-- Whether both give every id the same piece.
function Vocabulary:same(other)
  if self == other then return true end
  local n = self:size()
  for id = 0, n - 1 do
    if self:piece(id) ~= other:piece(id) then return false end
  end
  return other:size() == n
end

-- All characters of a character vocabulary, from which M.characters makes it again.
function Vocabulary:characters()
  local out = {}
  for id = 0, self:size() - 1 do out[#out + 1] = self:piece(id) end
  return table.concat(out)
end

return M
