-- Files of tokenizers: what kind a file is, by its content, and which files of a folder belong together.
-- read(path) -> { kind =, files = {{name, bytes}, ..}, roles = }. The kinds are those of core/tokenizers/.
local core = require "attnlab.core"
local names = require "attnlab.names"
local json, sys = core.json, core.sys

local M = {}

local MOST_BYTES = 1 << 28
local OWN = "vocabulary.json"

-- Files of each kind by the names that :save gives them, in the order of core.vocab.new.
local SAVED = { characters = { OWN }, bytes = { OWN }, llama2c = { "tokenizer.bin" },
                sentencepiece = { "tokenizer.model" } }

-- The file name of a kind's i-th file.
function M.saved_name(kind, i) return SAVED[kind][i] end

-- The one file of a vocabulary that has no file of its own.
function M.own(kind, characters)
  return { { OWN, json.encode { kind = kind, characters = characters } .. "\n" } }
end

local function fail(path, text, ...)
  error(("tokenizer: '%s': " .. text):format(names.shown(path), ...), 0)
end

local function get(path)
  local kind = sys.exists(path)
  if kind ~= "file" then fail(path, kind and "not a regular file" or "no such file") end
  if sys.size(path) > MOST_BYTES then fail(path, "more than %d bytes", MOST_BYTES) end
  return { names.shown(path), sys.read(path) }
end

-- ---- one file ---------------------------------------------------------------------------------------

local function read_own(path, value)
  if value.kind == "bytes" then return { kind = "bytes", files = {} } end
  if value.kind == "characters" and type(value.characters) == "string" then
    return { kind = "characters", files = { { names.shown(path), value.characters } } }
  end
  fail(path, "{ kind = 'characters' with these, or 'bytes' } expected, got kind %s", json.encode(value.kind))
end

local function read_json(path, file)
  local ok, value = pcall(json.decode, file[2])
  if not ok then fail(path, "%s", names.reason(tostring(value))) end
  if type(value) ~= "table" then fail(path, "an object expected, got %s", type(value)) end
  if value.kind ~= nil then return read_own(path, value) end
  fail(path, "JSON of no tokenizer that is known: no key 'kind'")
end

-- llama2.c's table begins with the length of its longest piece, less than 65536.
local function is_table(bytes) return #bytes >= 12 and bytes:sub(3, 4) == "\0\0" end

-- SentencePiece's file begins with its first piece, which begins with its text: fields 1 of a protobuf.
local function is_sentencepiece(bytes) return bytes:find "^\n[%z\1-\x7f]\n" ~= nil end

local function read_file(path)
  local file = get(path)
  local bytes = file[2]
  if bytes:find "^%s*{" then return read_json(path, file) end
  if is_sentencepiece(bytes) then return { kind = "sentencepiece", files = { file } } end
  if is_table(bytes) then return { kind = "llama2c", files = { file } } end
  fail(path, "no tokenizer that is known: ours (%s) or llama2.c's table expected", OWN)
end

-- ---- a folder ---------------------------------------------------------------------------------------

-- Names of a folder's tokenizer, the first that is there is taken.
local FIRST = { OWN, "tokenizer.model", "tokenizer.bin" }

function M.read(path)
  if sys.exists(path) ~= "dir" then return read_file(path) end
  path = path:gsub("(.)/$", "%1")
  for _, name in ipairs(FIRST) do
    if sys.exists(path .. "/" .. name) == "file" then return read_file(path .. "/" .. name) end
  end
  fail(path, "a folder without a tokenizer: one of %s expected", table.concat(FIRST, ", "))
end

return M
