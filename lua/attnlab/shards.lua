-- Token sets as data: shards of llm.c, raw uint16, and texts and jsonl read through a tokenizer. Opened by data.open
-- from what sources.lua describes. Where a text is a dataset of windows drawn at random, a set goes through all its rows
-- in each epoch, in an order by (seed, epoch): a batch is a function of (seed, its number), so the step of a checkpoint
-- is the position in the data, whoever reads. What stands for a set is the SHA-256 of its shards (of large ones, of
-- parts of them: al_shards_hash) with what makes rows of it.
local core = require "attnlab.core"
local formats = require "attnlab.formats"
local names = require "attnlab.names"
local sources = require "attnlab.sources"
local vocabulary = require "attnlab.vocabulary"
local json, sys = core.json, core.sys

local M = {}

-- The list of what attnlab tokenize wrote, in its folder; there when all of it is.
M.LIST = "shards.json"
local SHARE = 0.1 -- of the tokens or documents: to validate on, unless it is said

local function fail(...) error("data: " .. string.format(...), 0) end

-- ---- ids without a tokenizer --------------------------------------------------------------------------

local Ids = {}
Ids.__index = Ids

local function no_tokenizer() error("the data have no tokenizer: name it with tokenizer=FILE", 0) end

local function ids(size)
  return setmetatable({ kind = "ids", n = size, encode = no_tokenizer, decode = no_tokenizer }, Ids)
end

function Ids:size() return self.n end
function Ids.piece() return nil end
function Ids:hash() return ("%d ids"):format(self.n) end
function Ids:same(other) return self.n == other:size() end

-- ---- where ids come from ------------------------------------------------------------------------------

local function whole(v, least) return math.type(v) == "integer" and v >= least end

-- The list of a folder, checked as far as it is used. What the folder holds may be anybody's: no link in it is followed.
local function list_of(folder)
  local path = names.inside(folder, M.LIST)
  local ok, list = pcall(json.decode, sys.read(path, 1 << 26))
  if not ok then fail("'%s': %s", names.shown(path), names.reason(tostring(list))) end
  local function need(fine, what) if not fine then fail("'%s': %s expected", names.shown(path), what) end end
  need(type(list) == "table" and list.attnlab == "shards" and type(list.splits) == "table", "a list of attnlab tokenize")
  need(whole(list.vocab, 1), "vocab: a number of ids")
  need(whole(list.document_id, -1) and list.document_id < list.vocab, "document_id: an id")
  need(type(list.tokenizer) == "string" and list.tokenizer:find "^%x+$", "tokenizer: its hash")
  for _, split in ipairs { "train", "val" } do
    local s = list.splits[split]
    need(type(s) == "table" and type(s.files) == "table" and whole(s.tokens, 0), split .. ": files and tokens")
    for _, f in ipairs(s.files) do
      need(type(f) == "string" and f:find "^[%w_.-]+$" and not f:find "^%.", split .. ": names of files beside it")
    end
  end
  return list
end

-- The files of a path or pattern.
local function files_of(path)
  if sys.exists(path) == "file" then return { path } end
  if not sources.is_pattern(path) then fail("'%s': no such file", path) end
  local list = core.glob(path)
  if #list == 0 then fail("'%s': no file fits", path) end
  return list
end

-- What a file's bytes have to be read as: "llmc", "raw_u16", "text" or "jsonl".
local function format_of(path, said)
  local kind = formats.check(path, said == "raw_u16")
  if said == "llmc" and kind ~= "llmc" or said == "raw_u16" then return said end
  if kind == "llmc" then
    if said ~= "auto" and said ~= "llmc" then fail("'%s': a shard of llm.c, though format=%s", path, said) end
    return "llmc"
  end
  if said ~= "auto" then return said end
  return formats.of_texts(path)
end

-- What documents begin with, -1 where that is not known: the id that was said, that of the mark between them, what the
-- tokenizer puts in front of a text (so that a prompt begins as a document did), or its end of text.
function M.separator_of(document_id, document_end, vocab)
  if document_id >= 0 then
    if document_id >= vocab:size() then fail("document_id=%d is beyond the vocabulary of %d", document_id, vocab:size()) end
    return document_id
  end
  if vocab.kind == "ids" then return -1 end
  local marked = document_end ~= "" and vocab:special()[document_end]
  if marked then return marked end
  if vocab.bos then
    local ids <close> = vocab:encode ""
    if ids:numel() > 0 and ids:totable()[1] == vocab.bos then return vocab.bos end
  end
  return vocab.eos or vocab.bos or -1
end

local function separator_of(spec, vocab)
  local id = M.separator_of(spec.document_id, spec.document_end, vocab)
  if id < 0 and spec.rows ~= "stream" then
    fail("rows=%s: the id that documents begin with is not known: document_id=ID says it", spec.rows)
  end
  return id
end

-- Raises unless ids of `own` mean to the model what they mean to the set.
local function agree(shown, own, given)
  if given and own.kind ~= "ids" and not own:same(given) then
    fail("%s: its tokenizer has %d pieces (hash %.12s), the model's %d (hash %.12s): ids would mean something else",
      shown, own:size(), own:hash(), given:size(), given:hash())
  end
end

-- The vocabulary that shards are read with.
local function vocabulary_of(spec, given, shown)
  local own = spec.tokenizer ~= "" and vocabulary.open(spec.tokenizer)
  if own then agree(shown, own, given) end
  local v = own or given or spec.vocab > 0 and ids(spec.vocab)
  if not v then fail("%s: tokenizer=FILE or, without one, vocab=N is needed: shards do not say how many ids there are", shown) end
  if spec.vocab > 0 and v:size() ~= spec.vocab then
    fail("%s: vocab=%d, but the tokenizer has %d pieces", shown, spec.vocab, v:size())
  end
  return v
end

-- The share that valid= names; nil where it names files, or nothing.
local function share_of(spec)
  local share = tonumber(spec.valid)
  if share and not (share >= 0 and share < 1) then fail("valid=%s: a share from 0 up to 1, or files, expected", spec.valid) end
  return share
end

-- ---- texts through a tokenizer ------------------------------------------------------------------------

-- Calls f(text, texts) for each text of a file or "-"; spec: field, document_end ("": none); texts: as of core.texts.
function M.each_text(spec, format, path, f)
  local mark = format == "text" and spec.document_end ~= "" and spec.document_end or nil
  local texts <close> = core.texts(path, format, spec.field, mark)
  for text in texts.next, texts do f(text, texts) end
end

-- Whether a document belongs to the share that is held out: by the hash of its text, so wherever it stands.
function M.held_out(text, share)
  return share > 0 and tonumber(sys.sha256(text):sub(1, 8), 16) / (1 << 32) < share
end

-- { set, n_train, bytes, vocabulary } of texts.
local function read_texts(spec, format, paths, given, shown)
  local vocab = spec.tokenizer ~= "" and vocabulary.open(spec.tokenizer) or given
  if spec.tokenizer ~= "" then agree(shown, vocab, given) end
  local share = share_of(spec)
  local valid_paths = spec.valid ~= "" and not share and files_of(spec.valid) or {}
  share = share or #valid_paths == 0 and SHARE or 0
  local function all(f)
    for _, path in ipairs(paths) do M.each_text(spec, format, path, function(text) f(text) end) end
    for _, path in ipairs(valid_paths) do M.each_text(spec, format, path, function(text) f(text, true) end) end
  end
  local n, bytes, parts = 0, 0, not vocab and {} or nil
  all(function(text)
    n, bytes = n + 1, bytes + #text
    if parts then parts[n] = text end
  end)
  if n == 0 then fail("%s: no text in it", shown) end
  vocab = vocab or vocabulary.characters(table.concat(parts))
  local separator = separator_of(spec, vocab)
  if n > 1 and separator < 0 then
    fail("%s: %d documents, and the id that each begins with is not known: document_id=ID says it", shown, n)
  end
  local set, held = core.shards.memory(vocab:size()), core.shards.memory(vocab:size())
  local one = n == 1 -- a document alone is cut, as texts are
  all(function(text, valid)
    local to = (valid or not one and M.held_out(text, share)) and held or set
    if separator >= 0 then to:put(separator) end
    local tokens <close> = vocab:encode(text, { template = false })
    to:put(tokens)
  end)
  local n_train = set:count()
  if held:count() > 0 then
    local tokens <close> = held:read(0, held:count())
    set:put(tokens)
  elseif one then
    n_train = math.floor(n_train * (1 - share))
  end
  held:free()
  return { set = set, n_train = n_train, bytes = bytes, vocabulary = vocab, separator = separator }
end

-- ---- shards -------------------------------------------------------------------------------------------

local function open_folder(spec, given, shown)
  local folder = spec.path
  local list = list_of(folder)
  for _, key in ipairs { "valid", "tokenizer" } do
    if spec[key] ~= "" then fail("%s: %s= belongs to data without %s of their own", shown, key, key == "valid" and "splits" or "a tokenizer") end
  end
  local own = vocabulary.open(names.inside(folder, "tokenizer"))
  if own:hash() ~= list.tokenizer or own:size() ~= list.vocab then
    fail("%s: the tokenizer beside the shards is another one: %d pieces and hash %.12s expected, got %d and %.12s", shown,
      list.vocab, list.tokenizer, own:size(), own:hash())
  end
  agree(shown, own, given)
  local paths, n = {}, 0
  for _, split in ipairs { "train", "val" } do
    for _, f in ipairs(list.splits[split].files) do paths[#paths + 1] = names.inside(folder, f) end
    n = n + list.splits[split].tokens
  end
  local set = core.shards.open(paths, "llmc", list.vocab)
  if set:count() ~= n then fail("%s: %d tokens in its shards, its list says %d", shown, set:count(), n) end
  local n_train = list.splits.train.tokens
  if n_train == n then n_train = math.floor(n * (1 - SHARE)) end
  return { set = set, n_train = n_train, bytes = whole(list.text_bytes, 1) and list.text_bytes or nil,
           vocabulary = given or own, separator = spec.document_id >= 0 and separator_of(spec, own) or list.document_id }
end

local function open_shards(spec, format, paths, given, shown)
  local vocab = vocabulary_of(spec, given, shown)
  local share = share_of(spec)
  local n_valid, list = 0, table.move(paths, 1, #paths, 1, {})
  if spec.valid ~= "" and not share then
    local valid = files_of(spec.valid)
    for _, path in ipairs(valid) do format_of(path, format) end
    table.move(valid, 1, #valid, #list + 1, list)
    local own = core.shards.open(valid, format, vocab:size())
    n_valid = own:count()
    own:free()
  end
  local set = core.shards.open(list, format, vocab:size())
  local n = set:count()
  local n_train = n_valid > 0 and n - n_valid or math.floor(n * (1 - (share or SHARE)))
  return { set = set, n_train = n_train, vocabulary = vocab, separator = separator_of(spec, vocab) }
end

-- ---- the dataset --------------------------------------------------------------------------------------

-- Dataset: data.lua's class, whose methods those here have in place of its own.
function M.class(Dataset)
  local Set = setmetatable({}, { __index = Dataset })
  Set.__index = Set

  local function rows_of(self, split, context)
    local lo, hi = self:range(split)
    local key = ("%d %d %d"):format(lo, hi, context)
    self.made[key] = self.made[key] or self.set:rows(self.rows, context, lo, hi, self.separator)
    return self.made[key]
  end

  function Set:need(split, context)
    local lo, hi = self:range(split)
    if hi - lo < (self.rows == "documents" and 1 or context + 1) then Dataset.need(self, split, context) end
  end

  local function batch_of(x, y, starts) return x, y, starts and { documents = starts } end

  -- Rows of x, y and, where they are packed, options for the model: where documents begin. index: from 1.
  function Set:random(split, batch, context, seed, index)
    return batch_of(rows_of(self, split, context):shuffled(batch, seed, index - 1))
  end

  function Set:windows(split, context, wanted)
    return math.min(wanted, rows_of(self, split, context):count())
  end

  function Set:even(split, batch, context, total)
    local rows, first = rows_of(self, split, context), 0
    return function()
      if first >= total then return nil end
      local n = math.min(batch, total - first)
      first = first + n
      return batch_of(rows:even(n, first - n, total))
    end
  end

  function Set:cut(train, valid)
    local out = Dataset.cut(self, train, valid)
    out.made = {}
    return out
  end

  -- The set that a spec describes, whose file, folder or pattern is `path`; vocab: the model's.
  return function(name, opts, path)
    local spec = sources.whole(name)
    spec.path = path
    local shown = ("'%s'"):format(names.shown(spec.path))
    local is_folder = sys.exists(spec.path) == "dir"
    if is_folder and sys.exists(spec.path .. "/" .. M.LIST) ~= "file" then
      fail("%s is a folder without %s: a file, a pattern of files, or what attnlab tokenize made whole is expected", shown, M.LIST)
    end
    local before = core.on "cpu"
    local ok, got = pcall(function()
      if is_folder then return open_folder(spec, opts.vocab, shown) end
      local paths = files_of(spec.path)
      local format = format_of(paths[1], spec.format)
      for i = 2, #paths do
        local other = format_of(paths[i], spec.format)
        if other ~= format then fail("'%s' is %s, '%s' is %s: one format expected", paths[1], format, paths[i], other) end
      end
      local read = (format == "llmc" or format == "raw_u16") and open_shards or read_texts
      return read(spec, format, paths, opts.vocab, shown)
    end)
    core.on(before)
    if not ok then
      got = names.reason(tostring(got))
      error(got:find "^data: " and got or ("data: %s: %s"):format(shown, got), 0)
    end
    local n = got.set:count()
    return setmetatable({
      name = name, path = spec.path, rows = spec.rows, set = got.set, made = {}, vocabulary = got.vocabulary,
      separator = got.separator, text_bytes = got.bytes, masked = spec.rows == "documents",
      tokens = { numel = function() return n end },
      train = { lo = 0, hi = got.n_train }, valid = { lo = got.n_train, hi = n },
      sha256 = sys.sha256(json.encode { shards = got.set:hash(), rows = spec.rows, document_id = got.separator,
        train = got.n_train, vocabulary = got.vocabulary:hash() }) }, Set)
  end
end

return M
