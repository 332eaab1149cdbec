-- Texts as token sequences. data.open("shakespeare") or data.open("path/to/text.txt", {vocab=}); and token sets, which
-- have options (sources.lua) or are shards, packed or jsonl: data.open("corpus rows=packed").
-- Fields of a dataset: name, path, text_bytes, sha256 (of the file), vocabulary, tokens (i32, 1-D)
-- and the token ranges train = {lo, hi} (the first nine tenths) and valid = {lo, hi} (the rest),
-- 0-based, hi excluded. Without a vocabulary the tokens are the distinct characters of the text.
local core = require "attnlab.core"
local formats = require "attnlab.formats"
local names = require "attnlab.names"
local shards = require "attnlab.shards"
local sources = require "attnlab.sources"
local vocabulary = require "attnlab.vocabulary"

local M = {}
local Dataset = {}
Dataset.__index = Dataset
Dataset.__name = "attnlab.dataset"

local TRAIN_SHARE = 0.9

-- The project's folder: ATTNLAB_HOME, or two above the one that holds this file.
function M.home()
  local home = os.getenv "ATTNLAB_HOME"
  if home and home ~= "" then return home end
  local here = debug.getinfo(1, "S").source:match("^@(.*)$")
  local dir = here and here:match("^(.*)/[^/]*$") or "."
  return core.sys.realpath(dir .. "/../..")
end

-- The folder of the texts that come with the project.
function M.folder()
  return M.home() .. "/experiments/data"
end

-- Names of the texts that come with the project.
function M.list()
  local out = {}
  if core.sys.exists(M.folder()) ~= "dir" then return out end
  for _, file in ipairs(core.sys.list(M.folder())) do
    local name = file:match("^(.+)%.txt$")
    if name then out[#out + 1] = name end
  end
  return out
end

-- The file of a text that comes with the project, or nil.
local function own(name)
  local path = M.folder() .. "/" .. name .. ".txt"
  return not name:find("/", 1, true) and core.sys.exists(path) == "file" and path or nil
end

-- Whether a name can only be a file's.
local function is_path(name) return name:find("/", 1, true) or name:find "%.%w+$" end
M.is_path = is_path

-- Where a file, a folder of shards or a pattern of files lies that is named in a file of `folder`: an absolute path.
local function place(name, folder)
  local beside = name:find "^/" and name or (folder or ".") .. "/" .. name
  for _, path in ipairs { beside, name } do
    local kind = core.sys.exists(path)
    if kind == "file" or kind == "dir" and core.sys.exists(path .. "/" .. shards.LIST) then
      return core.sys.realpath(path)
    end
  end
  if name:find "^/" or not (is_path(name) or sources.is_pattern(name)) then return name end
  return core.sys.realpath(folder or ".") .. "/" .. name
end

-- What a configuration holds for data named in a file of `folder` (nil: in the current one): the name of a text
-- of the project's as it is, other files by absolute paths. They are looked for in the folder, then in the current one.
function M.locate(name, folder)
  if folder ~= nil and type(folder) ~= "string" then
    error("data: a folder's path expected, got " .. type(folder), 0)
  end
  if type(name) ~= "string" or name == "" or own(name) then return name end
  local spec = sources.parse(name)
  if not own(spec.path) then spec.path = place(spec.path, folder) end
  for _, key in ipairs { "valid", "tokenizer" } do
    local v = spec[key]
    if v and v ~= "" and not tonumber(v) and (is_path(v) or sources.is_pattern(v) or core.sys.exists((folder or ".") .. "/" .. v)) then
      local beside = v:find "^/" and v or (folder or ".") .. "/" .. v
      spec[key] = core.sys.exists(beside) and core.sys.realpath(beside) or place(v, folder)
    end
  end
  return sources.text(spec)
end

-- The file behind a name or path; of a token set its file, folder or pattern.
function M.path(name)
  if type(name) ~= "string" or name == "" then
    local got = name == "" and "''" or type(name)
    error("data: name or path of a text expected, got " .. got, 0)
  end
  local path = sources.parse(name).path
  local inside = own(path)
  if inside then return inside end
  local kind = core.sys.exists(path)
  if kind == "file" or not kind and sources.is_pattern(path) then return path end
  if kind == "dir" then
    if core.sys.exists(path .. "/" .. shards.LIST) then return path end
    error(("data: '%s' is a folder, a text file or a folder of attnlab tokenize, with its %s, is expected")
      :format(path, shards.LIST), 0)
  end
  if kind then error(("data: '%s' is no regular file, a text file is expected"):format(path), 0) end
  local before, option = path:match "^(.-)%s+([%a_]+)=%S*$"
  if option and not sources.is_option(option) then
    error(("data: '%s': %s"):format(before, names.unknown("option", option, sources.names())), 0)
  end
  if is_path(path) then
    error(("data: '%s': no such file"):format(path), 0)
  end
  error(("data: %s; texts are looked for in %s, folders of ./lab tokenize beside the experiment and here")
    :format(names.unknown("text", path, M.list()), M.folder()), 0)
end

-- Whether a name is that of a token set, and not of a text alone.
local function is_set(name)
  local spec = sources.parse(name)
  for k in pairs(spec) do
    if k ~= "path" then return true end
  end
  local path = M.path(name)
  if own(path) or path:find "%.jsonl$" or core.sys.exists(path) ~= "file" then return not own(path) end
  return formats.check(path) ~= nil
end

local open_set

-- SHA-256 of a text, or of what stands for a token set, which has to be opened for it.
function M.hash(name)
  local path = M.path(name)
  return is_set(name) and M.open(name).sha256 or core.sys.sha256_file(path)
end

-- The dataset of a text's name or path, or of what sources.lua describes, a table too. opts: vocab, the vocabulary to
-- read it with (its own characters, or its tokenizer).
function M.open(name, opts)
  if type(name) == "table" then name = sources.text(name) end
  opts = names.options("data", opts, { "vocab" })
  local path = M.path(name)
  if is_set(name) then return open_set(name, opts, path) end
  local text = core.sys.read(path)
  if text:find("%S") == nil then
    error(("data: '%s' is empty, a text is expected"):format(path), 0)
  end
  local device = core.on "cpu" -- a text is read there window by window
  local ok, vocab, tokens = pcall(function()
    local v = opts.vocab or vocabulary.characters(text)
    return v, v:encode(text)
  end)
  core.on(device)
  if not ok then error(("data: '%s': %s"):format(path, names.reason(tostring(vocab))), 0) end
  local n = tokens:numel()
  local cut = math.floor(n * TRAIN_SHARE)
  return setmetatable({
    name = name, path = path, text_bytes = #text, sha256 = core.sys.sha256(text),
    vocabulary = vocab, tokens = tokens, train = { lo = 0, hi = cut },
    valid = { lo = cut, hi = n } }, Dataset)
end

-- The dataset of a name in the vocabulary of a model (nil: in its own). What a loaded model without one calls its tokens
-- nobody knows: a text's characters are refused for it.
function M.open_for(m, name)
  local set = M.open(name, { vocab = m and m.vocabulary })
  if m and m.origin and not m.vocabulary and set.vocabulary.kind == "characters" then
    error(("data: the model has no vocabulary, and the characters of %s are not its tokens: tokenizer=FILE names one")
      :format(set:shown()), 0)
  end
  return set
end

-- A dataset of tokens that are no file's; train and valid: ranges {lo=, hi=}.
function M.of_tokens(name, tokens, vocab, train, valid)
  return setmetatable({ name = name, tokens = tokens, vocabulary = vocab, train = train, valid = valid },
    Dataset)
end

-- Whether x is a dataset, and not what describes one.
function M.is_dataset(x) return type(x) == "table" and type(x.random) == "function" end

-- What reads and writes text for a model; nil where the tokens have none.
function Dataset:tokenizer()
  return self.vocabulary.kind ~= "ids" and self.vocabulary or nil
end

-- Whether a window is running text, of which every token sees what is before it; else its rows are of documents.
function Dataset:running()
  return self.rows == nil or self.rows == "stream"
end

-- Internal: bytes of its tokens among tensors: a token set has none there.
function Dataset:tensor_bytes()
  return core.is_tensor(self.tokens) and 4 * self.tokens:numel() or 0
end

-- The same tokens with other ranges.
function Dataset:cut(train, valid)
  local out = setmetatable({}, getmetatable(self))
  for k, v in pairs(self) do out[k] = v end
  out.train, out.valid = train, valid
  return out
end

-- Its name for people, with the file where that is another word.
function Dataset:shown()
  local elsewhere = self.path and self.path ~= self.name
  return ("'%s'%s"):format(self.name, elsewhere and (" (%s)"):format(self.path) or "")
end

-- First token of "train" or "valid" and the one behind its last, 0-based.
function Dataset:range(split)
  if split ~= "train" and split ~= "valid" then
    error(("data: split 'train' or 'valid' expected, got '%s'"):format(tostring(split)), 0)
  end
  return self[split].lo, self[split].hi
end

-- Raises unless a window of `context` tokens and its targets fit into the split.
function Dataset:need(split, context)
  local lo, hi = self:range(split)
  if hi - lo < context + 1 then
    error(("data: '%s' is too short: its %s has %d tokens, a context of %d needs %d")
      :format(self.name, self.part or split .. " split", hi - lo, context, context + 1), 0)
  end
end

-- The tokens of a window for a model of that context.
function Dataset:fit(context) return context end

-- Inputs and targets (batch,context) i32 of batch `index`, a function of (seed, index) alone.
function Dataset:random(split, batch, context, seed, index)
  local lo, hi = self:range(split)
  return core.windows_random(self.tokens,
    { lo = lo, hi = hi, batch = batch, context = context, seed = seed, index = index })
end

-- How many of `wanted` windows the split holds without overlap.
function Dataset:windows(split, context, wanted)
  local lo, hi = self:range(split)
  return math.max(1, math.min(wanted, (hi - lo - 1) // context))
end

-- Iterates over `total` fixed windows spread evenly over the split, `batch` at a time: x, y.
function Dataset:even(split, batch, context, total)
  local lo, hi = self:range(split)
  local first = 0
  return function()
    if first >= total then return nil end
    local n = math.min(batch, total - first)
    local x, y = core.windows_even(self.tokens,
      { lo = lo, hi = hi, batch = n, context = context, first = first, total = total })
    first = first + n
    return x, y
  end
end

open_set = shards.class(Dataset)

-- ---- documents --------------------------------------------------------------------------------------

-- A dataset whose windows are documents, each from its own first token. The ranges count documents; a window has all
-- but the last of a document's tokens, or the context's first ones.
local Documents = setmetatable({}, { __index = Dataset })
Documents.__index = Documents
Documents.__name = "attnlab.documents"

-- documents: lists of ids, of one length.
function M.of_documents(name, documents, vocab, train, valid, sha256)
  local width = #documents[1] - 1
  return setmetatable({ name = name, documents = documents, width = width, vocabulary = vocab, train = train,
                        valid = valid, sha256 = sha256 }, Documents)
end

function Documents:fit(context) return math.min(context, self.width) end

function Documents:need(split, context)
  local lo, hi = self:range(split)
  if hi <= lo or context > self.width then
    error(("data: '%s' has %d documents of %d tokens here, at least one of %d needed")
      :format(self.name, hi - lo, self.width, context), 0)
  end
end

function Documents:windows(split, _, wanted)
  local lo, hi = self:range(split)
  return math.min(wanted, hi - lo)
end

local function windows_of(self, list, context)
  local x, y = {}, {}
  for b, n in ipairs(list) do
    local ids = self.documents[n]
    table.move(ids, 1, context, (b - 1) * context + 1, x)
    table.move(ids, 2, context + 1, (b - 1) * context + 1, y)
  end
  local shape = { #list, context }
  return core.tensor { data = x, shape = shape, dtype = "i32" }, core.tensor { data = y, shape = shape, dtype = "i32" }
end

function Documents:random(split, batch, context, seed, index)
  local lo, hi = self:range(split)
  local u <close> = core.rand { shape = { batch }, dtype = "f64", seed = seed, device = "cpu", stream = "documents " .. index }
  local list = {}
  for b, v in ipairs(u:flat()) do list[b] = lo + 1 + math.min(hi - lo - 1, math.floor(v * (hi - lo))) end
  return windows_of(self, list, context)
end

-- Iterates over lists of row numbers, from 1: `total` spread evenly over lo..hi - 1, from 0, `batch` at a time.
function M.spread(lo, hi, batch, total)
  local first = 0
  return function()
    local list = {}
    for k = first, math.min(first + batch, total) - 1 do
      list[#list + 1] = lo + 1 + (total > 1 and k * (hi - lo - 1) // (total - 1) or 0)
    end
    first = first + #list
    if #list > 0 then return list, first end
  end
end

function Documents:even(split, batch, context, total)
  local lo, hi = self:range(split)
  local draw = M.spread(lo, hi, batch, total)
  return function()
    local list = draw()
    if list then return windows_of(self, list, context) end
  end
end

return M
