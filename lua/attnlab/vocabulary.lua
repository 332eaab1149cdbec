-- Tokenizers of every kind behind one class. lab.tokenizer(path, {pattern=, special=}): what the file or folder is,
-- its content says. Fields: kind, bos, eos, unk, pad (ids from 0, or nil), files ({name, bytes} of what it is made of).
-- Kinds: "characters" (those of a text), "bytes", "llama2c" (its table), "sentencepiece" (.model), "huggingface"
-- (tokenizer.json), "gpt2" (merges, with or without vocab.json), "tiktoken", "tekken", "wordpiece" (BERT's vocab.txt).
local core = require "attnlab.core"
local kinds = require "attnlab.tokenizers"
local names = require "attnlab.names"
local sys = core.sys

local Vocabulary = {}
Vocabulary.__index = Vocabulary
Vocabulary.__name = "attnlab.vocabulary"

local M = {}

local ROLES = { "bos", "eos", "unk", "pad" }

-- read: { kind =, files = {{name, bytes}, ..}, roles = {bos = name of a token, ..} or nil }
local function made(read)
  local v = { kind = read.kind, files = read.files, table = core.vocab.new(read.kind, read.files) }
  for _, role in ipairs(ROLES) do
    local token = read.roles and read.roles[role]
    v[role] = token and v.table:id(token) or v.table:known(role)
  end
  return setmetatable(v, Vocabulary)
end

-- The distinct characters of a text.
function M.characters(text)
  if type(text) ~= "string" then error("vocabulary: a text expected, got " .. type(text), 2) end
  local v = made { kind = "characters", files = { { "text", text } } }
  v.files = nil -- a long text is not kept for its few characters
  return v
end

-- The 256 bytes.
function M.bytes() return made { kind = "bytes", files = {} } end

-- The tokenizer of a file, of a folder that has one, or "bytes". See tokenizers.lua for what is known.
function M.open(path, opts)
  opts = names.options("tokenizer", opts, { "pattern", "special" })
  if type(path) ~= "string" or path == "" or path:find "\0" then
    error("tokenizer: path of a file or folder expected, got " .. (path == "" and "''" or type(path)), 0)
  end
  if path == "bytes" and not sys.exists(path) then return M.bytes() end
  local read = kinds.read(path, opts)
  if read.kind == "characters" then return M.characters(read.files[1][2]) end
  local ok, v = pcall(made, read)
  if not ok then error(names.reason(tostring(v)), 0) end
  return v
end

-- The folder beside a model's file that holds the tokenizer of this hash, no link.
function M.beside(path, hash)
  return names.inside(path:match "^(.*)/[^/]*$" or ".", "tokenizer-" .. hash:sub(1, 12))
end

-- What the metadata of a model's file say of it.
function Vocabulary:metadata()
  if self.kind == "bytes" then return { kind = self.kind } end
  if self.kind == "characters" then return { kind = self.kind, characters = self:characters() } end
  return { kind = self.kind, hash = self:hash() }
end

-- Writes its files beside a model's file, unless they are there or the metadata are enough.
function Vocabulary:save_beside(path)
  if self.kind == "bytes" or self.kind == "characters" then return end
  local folder = M.beside(path, self:hash())
  local ok, there = pcall(M.open, folder)
  if not (ok and there:hash() == self:hash()) then self:save(folder) end
end

-- Number of ids.
function Vocabulary:size()
  return self.table:size()
end

local ENCODE, DECODE = { "special", "template" }, { "special" }

-- Text to ids, a 1-D i32 tensor. special=true: special strings in it are their ids (false: they are text);
-- template=false: no start or end tokens around it.
function Vocabulary:encode(text, opts)
  if type(text) ~= "string" then error("encode: text expected, got " .. type(text), 2) end
  opts = names.options("encode", opts, ENCODE)
  for k, v in pairs(opts) do
    if type(v) ~= "boolean" then error(("encode: option '%s': true or false expected, got %s"):format(k, type(v)), 0) end
  end
  return self.table:encode(text, opts.special, opts.template == false)
end

-- The text of ids, a tensor or an array. Special tokens are left out, or with special=true stand there by name.
function Vocabulary:decode(ids, opts)
  return self.table:decode(ids, names.options("decode", opts, DECODE).special)
end

-- The bytes that one id stands for in a text (a special one's name), nil outside the table.
function Vocabulary:piece(id)
  return self.table:piece(id)
end

-- The id of a piece or of a special token's name, nil where there is none.
function Vocabulary:id(piece)
  return self.table:id(piece)
end

-- Special tokens: { [name] = id }.
function Vocabulary:special()
  return self.table:special()
end

-- Whether a text can be written in it.
function Vocabulary:has(text)
  return (pcall(self.encode, self, text))
end

-- All characters of a character vocabulary, from which M.characters makes it again.
function Vocabulary:characters()
  local out = {}
  for id = 0, self:size() - 1 do out[#out + 1] = self:piece(id) end
  return table.concat(out)
end

local function sources(self)
  return self.kind == "characters" and kinds.own(self.kind, self:characters())
    or self.kind == "bytes" and kinds.own(self.kind) or self.files
end

-- SHA-256 in hex of what it is made of: of its file, or of several of the digests in their order.
function Vocabulary:hash()
  if not self.sha256 then
    local sums = {}
    for i, file in ipairs(sources(self)) do sums[i] = sys.sha256(file[2]) end
    self.sha256 = #sums == 1 and sums[1] or sys.sha256(table.concat(sums))
  end
  return self.sha256
end

-- Writes its files into a folder, from which lab.tokenizer opens it again: files of another tokenizer there are refused.
function Vocabulary:save(folder)
  local files = sources(self)
  sys.mkdir(folder)
  local another = kinds.another(folder, self.kind, #files)
  if another then
    local ok, there = pcall(M.open, folder)
    if not (ok and self:same(there)) then
      error(("tokenizer: '%s' has another tokenizer's %s: remove it, or name another folder"):format(names.shown(folder), another), 0)
    end
  end
  local border = folder:find("//", 1, true) and "/" or "//"
  for i, file in ipairs(files) do
    sys.write(folder .. border .. kinds.saved_name(self.kind, i), file[2])
  end
end

-- Whether both give every id the same piece.
function Vocabulary:same(other)
  if self == other then return true end
  local n = self:size()
  if other:size() ~= n then return false end
  if self.kind == other.kind and self:hash() == other:hash() then return true end
  for id = 0, n - 1 do
    if self:piece(id) ~= other:piece(id) then return false end
  end
  return true
end

return M
