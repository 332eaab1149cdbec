-- Files of tokenizers: what kind a file is, by its content, and which files of a folder belong together.
-- read(path, opts) -> { kind =, files = {{name, bytes}, ..}, roles = }. The kinds are those of core/tokenizers/.
local core = require "attnlab.core"
local names = require "attnlab.names"
local json, sys = core.json, core.sys

local M = {}

local MOST_BYTES = 1 << 28
local OWN = "vocabulary.json"

-- Files of each kind by the names that :save gives them, in the order of core.vocab.new.
local SAVED = {
  characters = { OWN }, bytes = { OWN }, llama2c = { "tokenizer.bin" }, sentencepiece = { "tokenizer.model" },
  huggingface = { "tokenizer.json", "tokenizer_config.json" }, gpt2 = { "merges.txt", "vocab.json" },
  tiktoken = { "tokenizer.tiktoken", "tokenizer.tiktoken.json" }, tekken = { "tekken.json" },
  wordpiece = { "vocab.txt" },
}

-- Patterns that words are cut by, by the names of the encodings that they belong to: a .tiktoken file has none.
local PATTERNS = {
  gpt2 = [['s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+]],
  cl100k = [[(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|]]
    .. [[\s+(?!\S)|\s+]],
  o200k = [[[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|]]
    .. [[[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|]]
    .. [[\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+]],
}
PATTERNS.llama3 = PATTERNS.cl100k

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

-- Beside a file: the first of these names that is there.
local function beside(path, ...)
  local folder = path:match "^(.*/)[^/]*$" or ""
  for _, name in ipairs { ... } do
    if sys.exists(folder .. name) == "file" then return folder .. name end
  end
end

-- ---- one file ---------------------------------------------------------------------------------------

local function read_own(path, value)
  if value.kind == "bytes" then return { kind = "bytes", files = {} } end
  if value.kind == "characters" and type(value.characters) == "string" then
    return { kind = "characters", files = { { names.shown(path), value.characters } } }
  end
  fail(path, "{ kind = 'characters' with these, or 'bytes' } expected, got kind %s", json.encode(value.kind))
end

-- The names of the tokens that tokenizer_config.json gives a role: a text, or an object with it.
local function roles_of(config)
  local roles = {}
  for role, key in pairs { bos = "bos_token", eos = "eos_token", unk = "unk_token", pad = "pad_token" } do
    local token = config[key]
    if type(token) == "table" then token = token.content end
    if type(token) == "string" then roles[role] = token end
  end
  return roles
end

local function decoded(path, bytes)
  local ok, value = pcall(json.decode, bytes)
  if not ok then fail(path, "%s", names.reason(tostring(value))) end
  if type(value) ~= "table" then fail(path, "an object expected, got %s", type(value)) end
  return value
end

local function read_huggingface(path, file)
  local config = beside(path, "tokenizer_config.json")
  if not config then return { kind = "huggingface", files = { file } } end
  local second = get(config)
  -- where a length has no limit a whole number beyond 64 bits is written, which is no reader's business
  local text = second[2]:gsub('("model_max_length"%s*:%s*)%d+', "%10")
  return { kind = "huggingface", files = { file, second }, roles = roles_of(decoded(config, text)) }
end

-- Merges and the vocabulary beside them, where there is one; by either file's name.
local function read_gpt2(merges, vocab)
  return { kind = "gpt2", files = { get(merges), vocab and get(vocab) } }
end

local function read_json(path, file)
  -- a large file is decoded once, where it is read: keys that hold objects say what it is
  if file[2]:find '"model"%s*:%s*{' then return read_huggingface(path, file) end
  if file[2]:find '"token_bytes"%s*:%s*"' and file[2]:find '"config"%s*:%s*{' then return { kind = "tekken", files = { file } } end
  local value = decoded(path, file[2])
  if value.kind ~= nil then return read_own(path, value) end
  if value.config ~= nil and value.vocab ~= nil then return { kind = "tekken", files = { file } } end
  local _, id = next(value)
  if math.type(id) == "integer" then
    local merges = beside(path, "merges.txt", "vocab.bpe")
    if not merges then fail(path, "a vocabulary whose merges (merges.txt or vocab.bpe) are not beside it") end
    return read_gpt2(merges, path)
  end
  fail(path, "JSON of no tokenizer that is known: neither 'model' (tokenizer.json) nor 'config' and 'vocab' (tekken.json) "
    .. "nor tokens with their ids (vocab.json)")
end

-- The pattern and the special tokens of a .tiktoken file: of the options, or of the file beside it.
local function read_tiktoken(path, file, opts)
  local settings = path .. ".json"
  if opts.pattern == nil and sys.exists(settings) == "file" then
    return { kind = "tiktoken", files = { file, get(settings) } }
  end
  if type(opts.pattern) ~= "string" then
    fail(path, "a list of ranks does not say how words are cut: pattern= one of %s, or a pattern (or the file %s.json)",
      table.concat(names.keys(PATTERNS), ", "), path:match "[^/]*$")
  end
  if opts.special ~= nil and type(opts.special) ~= "table" then
    error(("tokenizer: option 'special': a table { name = id } expected, got %s"):format(type(opts.special)), 0)
  end
  local text = json.encode { pattern = PATTERNS[opts.pattern] or opts.pattern, special = opts.special }
  return { kind = "tiktoken", files = { file, { names.shown(settings), text } } }
end

-- llama2.c's table begins with the length of its longest piece, less than 65536.
local function is_table(bytes) return #bytes >= 12 and bytes:sub(3, 4) == "\0\0" end

-- SentencePiece's file begins with its first piece, which begins with its text: fields 1 of a protobuf.
local function is_sentencepiece(bytes) return bytes:find "^\n[%z\1-\x7f]\n" ~= nil end

local function read_file(path, opts)
  local file = get(path)
  local bytes = file[2]
  if is_sentencepiece(bytes) then return { kind = "sentencepiece", files = { file } } end
  if is_table(bytes) then return { kind = "llama2c", files = { file } } end
  if bytes:find "^\xef?\xbb?\xbf?%s*{" then return read_json(path, file) end
  if bytes:find "^#version" or bytes:find "^\u{120} [^%s]+\r?\n" then
    return read_gpt2(path, beside(path, "vocab.json", "encoder.json"))
  end
  if bytes:find "^[%w+/]+=*=* %d+\r?\n" then return read_tiktoken(path, file, opts) end
  if bytes:find "^%[PAD%]\r?\n" or bytes:find "\n%[UNK%]\r?\n" then return { kind = "wordpiece", files = { file } } end
  fail(path, "no tokenizer that is known: tokenizer.json, tekken.json, SentencePiece's .model, GPT-2's merges, a .tiktoken "
    .. "file, BERT's vocab.txt, llama2.c's table or ours (%s) expected", OWN)
end

-- ---- a folder ---------------------------------------------------------------------------------------

-- Names of a folder's tokenizer, the first that is there is taken; then the one file with such an ending.
local FIRST = { OWN, "tokenizer.json", "tekken.json", "tokenizer.model", "merges.txt", "vocab.bpe", "vocab.txt",
                "tokenizer.tiktoken", "tokenizer.bin" }
local ENDINGS = { "%.tiktoken$", "%.model$" }

-- The file of a folder's tokenizer; nil: it has none.
function M.in_folder(path)
  path = path:gsub("(.)/$", "%1")
  for _, name in ipairs(FIRST) do
    if sys.exists(path .. "/" .. name) == "file" then return path .. "/" .. name end
  end
  for _, ending in ipairs(ENDINGS) do
    local found = {}
    for _, name in ipairs(sys.list(path)) do
      if name:find(ending) then found[#found + 1] = name end
    end
    if #found == 1 then return path .. "/" .. found[1] end
    if #found > 1 then fail(path, "%d tokenizers, %s: name one of them", #found, table.concat(found, ", ")) end
  end
end

-- A file of the folder that a reader would take for the tokenizer, or for a part of one of this kind, beside the first n files
-- that the kind saves; nil: there is none.
function M.another(folder, kind, n)
  local saved, own = SAVED[kind], {}
  for i = 1, n do own[saved[i]] = true end
  for _, list in ipairs { FIRST, saved } do
    for _, name in ipairs(list) do
      if not own[name] and sys.exists(folder .. "/" .. name) then return name end
    end
  end
end

function M.read(path, opts)
  if sys.exists(path) ~= "dir" then return read_file(path, opts) end
  local file = M.in_folder(path)
  if not file then fail(path, "a folder without a tokenizer: one of %s expected", table.concat(FIRST, ", ")) end
  return read_file(file, opts)
end

return M
