-- Texts through a tokenizer into shards of llm.c, which attnlab/shards.lua reads: what ./lab tokenize does. A folder
-- gets train_000000.bin, val_000000.bin, .. of ids with 16 bits (32, where the vocabulary has more than 65,536), the
-- tokenizer itself, and shards.json, the list of all that. Each document is the id that documents begin with and its
-- text's ids, as in llm.c. All of it is written to FOLDER.tmp, synced file by file, and renamed at the end: a run that is
-- killed leaves no FOLDER, and the same command begins again. Memory holds a document at a time.
-- A change here makes no run stale.
local core = require "attnlab.core"
local formats = require "attnlab.formats"
local names = require "attnlab.names"
local progress = require "attnlab.progress"
local shards = require "attnlab.shards"
local vocabulary = require "attnlab.vocabulary"
local json, sys = core.json, core.sys

local M = {}

local SHARD_TOKENS = 100000000
local MOST_TOKENS = (1 << 31) - 1

local function fail(...) error("tokenize: " .. string.format(...), 0) end

-- ---- the folder -----------------------------------------------------------------------------------------

-- Removes what a killed run left of its own; anything else stays, and is refused.
local function clear(folder)
  for _, name in ipairs(sys.list(folder)) do
    local path = folder .. "/" .. name
    if name == "tokenizer" and sys.exists(path) == "dir" then
      for _, inner in ipairs(sys.list(path)) do sys.remove(path .. "/" .. inner) end
      sys.remove(path)
    elseif name:find "^train_%d+%.bin" or name:find "^val_%d+%.bin" or name:find "^shards%.json" then
      sys.remove(path)
    elseif name ~= "lock" then
      fail("'%s' holds something else (%s): remove it, or name another folder", names.shown(folder), names.shown(name))
    end
  end
end

-- The temporary folder, empty, and its lock.
local function begin(out)
  local parent, name = (out:find("/", 1, true) and out or "./" .. out):match "^(.*)/([^/]*)$"
  -- a link that leads nowhere is there, too, as a border shows: the last step could not go over it
  if out == "" or sys.exists(out) or sys.exists(names.inside(parent, name)) then
    fail("'%s' is there already: remove it, or name another folder with out=", out == "" and "/" or names.shown(out))
  end
  local folder = out .. ".tmp"
  sys.mkdir(folder)
  local lock = sys.lock(folder .. "/lock")
  if not lock or sys.exists(out) then fail("'%s': another process is writing it", names.shown(out)) end
  clear(folder)
  return folder, lock
end

-- ---- a split -------------------------------------------------------------------------------------------

local Split = {}
Split.__index = Split

function Split:next()
  local name = ("%s_%06d.bin"):format(self.name, #self.files)
  self.writer = core.shards.create(self.folder .. "/" .. name, self.wide)
  self.files[#self.files + 1] = name
end

-- Ids, or one, into shards of the size that was asked for: the last of a document go into the next one.
function Split:put(ids)
  local n, from = type(ids) == "number" and 1 or ids:numel(), 0
  while from < n do
    if not self.writer then self:next() end
    local to = math.min(n, from + self.most - self.writer:count())
    self.writer:put(ids, from, to)
    from = to
    if self.writer:count() == self.most then self:close() end
  end
  self.tokens = self.tokens + n
end

function Split:close()
  if self.writer then self.writer:commit() end
  self.writer = nil
end

function Split:record()
  return { files = json.array(self.files), documents = self.documents, tokens = self.tokens, bytes = self.bytes,
           unknown = self.unknown }
end

-- ---- the work --------------------------------------------------------------------------------------------

-- The id that documents begin with.
local function separator_of(o, vocab)
  local id = shards.separator_of(o.document_id or -1, o.document_end or "", vocab)
  if id < 0 then fail("the tokenizer has no id for the end of a text: document_id=ID says which one documents begin with") end
  return id
end

local function format_of(path, said)
  if path ~= "-" then
    if not sys.exists(path) then fail("'%s': no such file", names.shown(path)) end
    if sys.exists(path) == "file" then
      if formats.check(path) == "llmc" then fail("'%s' is a shard of tokens already", names.shown(path)) end
    end
  end
  if said then return said end
  return formats.of_texts(path)
end

local function show(bar, done, total, tokens, began)
  local passed = sys.clock() - began
  local text = ("%.1f%s MB | %.2fM tokens | %.1f MB/s"):format(done / 1e6, total and (" of %.1f"):format(total / 1e6) or "",
    tokens / 1e6, done / 1e6 / math.max(passed, 1e-3))
  if total and done > 0 then text = text .. " | eta " .. progress.clock(passed * (total - done) / done) end
  bar:update { text = text, step = done, steps = math.huge }
end

-- Bytes of all inputs; nil where one is not known.
local function total_of(inputs)
  local n = 0
  for _, path in ipairs(inputs) do
    if path == "-" or sys.exists(path) ~= "file" then return nil end
    n = n + sys.size(path)
  end
  return n
end

local function work(o, folder, vocab)
  local wide, separator = vocab:size() > 1 << 16, separator_of(o, vocab)
  local splits = {}
  for _, name in ipairs { "train", "val" } do
    splits[name] = setmetatable({ name = name, folder = folder, wide = wide, most = o.shard_tokens, files = {},
                                  tokens = 0, documents = 0, bytes = 0, unknown = 0 }, Split)
  end
  local total, before, began = total_of(o.inputs), 0, sys.clock()
  local bar = not o.quiet and progress.new { label = "tokenize" }
  local done <close> = setmetatable({}, { __close = function() if bar then bar:close() end end })
  for _, path in ipairs(o.inputs) do
    local spec = { field = o.field, document_end = o.document_end or "" }
    local taken = 0
    shards.each_text(spec, format_of(path, o.format), path, function(text, texts)
      local split = shards.held_out(text, o.val) and splits.val or splits.train
      split:put(separator)
      local ids <close> = vocab:encode(text, { template = false })
      if ids:numel() > 0 then split:put(ids) end
      if vocab.unk then split.unknown = split.unknown + core.shards.count(ids, vocab.unk) end
      split.documents, split.bytes = split.documents + 1, split.bytes + #text
      taken = texts:taken()
      if bar then show(bar, before + taken, total, splits.train.tokens + splits.val.tokens, began) end
    end)
    before = before + taken
  end
  if splits.train.documents == 0 then
    fail(splits.val.documents == 0 and "no text in the input" or "every document fell into the part that val=%g holds out", o.val)
  end
  splits.train:close()
  splits.val:close()
  local list = { attnlab = "shards", version = 1, bits = wide and 32 or 16, vocab = vocab:size(), tokenizer = vocab:hash(),
                 document_id = separator, text_bytes = splits.train.bytes + splits.val.bytes,
                 splits = { train = splits.train:record(), val = splits.val:record() } }
  vocab:save(folder .. "/tokenizer")
  sys.write(folder .. "/" .. shards.LIST, json.encode(list, { pretty = true }) .. "\n")
  return list
end

-- o: inputs (paths, "-" is standard input), tokenizer (path), out (a folder that is not there yet), format ("text",
-- "jsonl"; by name), field ("text"), document_end, document_id, val (share of the documents that is held out, 0),
-- shard_tokens, quiet. Returns what shards.json holds.
function M.run(o)
  o = setmetatable({ field = o.field or "text", val = o.val or 0, shard_tokens = o.shard_tokens or SHARD_TOKENS }, { __index = o })
  if not (o.val >= 0 and o.val < 1) then fail("val=%s: a share from 0 up to 1 expected", o.val) end
  if math.type(o.shard_tokens) ~= "integer" or o.shard_tokens < 1 or o.shard_tokens > MOST_TOKENS then
    fail("shard_tokens=%s: a whole number from 1 to %d expected", o.shard_tokens, MOST_TOKENS)
  end
  local vocab = vocabulary.open(o.tokenizer)
  separator_of(o, vocab)
  local texts = 0
  for _, path in ipairs(o.inputs) do texts = texts + (format_of(path, o.format) == "text" and 1 or 0) end
  if o.document_end and texts == 0 and not vocab:special()[o.document_end] then
    fail("document_end='%s' stands between documents of a text, and the tokenizer has no such token: the input is jsonl", o.document_end)
  end
  local out = o.out:gsub("/+$", "")
  local folder, lock = begin(out)
  local ok, list = pcall(work, o, folder, vocab)
  if not ok then
    collectgarbage() -- a shard that is not whole goes with its writer
    pcall(clear, folder)
    sys.remove(folder .. "/lock")
    pcall(sys.remove, folder)
    lock:close()
    error(list, 0)
  end
  sys.rename(folder, out)
  sys.remove(out .. "/lock")
  lock:close()
  return list
end

return M
