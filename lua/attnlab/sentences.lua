-- Sentences and pairs of them as a data set for a BERT, which lab.train(m, {data=set}) takes:
--   set = lab.sentences{train="SST-2/train.tsv", valid="SST-2/dev.tsv", vocab=m.vocabulary, text="sentence", label="label"}
--   set = lab.sentences{pairs="sentences.txt", vocab=m.vocabulary}
-- The first is for task=classifier: a table with a head, its columns parted by tabs, and the names of those that hold the
-- text and the label; pair="sentence2" names that of a second sentence. Without a head: header=false, and their numbers.
-- set.labels are the labels that occur, sorted; the first is class 0. set:score(m) measures a model.
-- The second is for task=pretraining: a sentence a line, documents parted by empty lines. Of two neighbours the second is
-- replaced by any other sentence for every second pair; the last tenth of the sentences is for validation.
-- A row is [CLS] a [SEP] b [SEP], cut to the model's context at the end of the longer sentence, and padded. Training goes
-- through all rows in an order that is a function of (seed, epoch). All tokens are held in memory.
-- A change here makes no run stale.
local core = require "attnlab.core"
local data = require "attnlab.data"
local names = require "attnlab.names"
local sys = core.sys

local Sentences = {}
Sentences.__index = Sentences
Sentences.__name = "attnlab.sentences"

local KNOWN = { "train", "valid", "pairs", "vocab", "text", "pair", "label", "header" }
local VALID_SHARE = 0.1
local PASS = 32 -- rows that score runs at once

local function fail(...) error("sentences: " .. string.format(...), 0) end

-- ---- files --------------------------------------------------------------------------------------------

-- Calls f(line, number) for each line of a file; its errors name the place.
local function each_line(path, f)
  local n, text = 0, sys.read(path)
  for line in (text:sub(-1) == "\n" and text or text .. "\n"):gmatch "(.-)\r?\n" do
    n = n + 1
    local ok, why = pcall(f, line, n)
    if not ok then fail("'%s': line %d: %s", names.shown(path), n, names.reason(tostring(why))) end
  end
end

local function split(line)
  local out = {}
  for field in (line .. "\t"):gmatch "(.-)\t" do out[#out + 1] = field end
  return out
end

-- The number of a column that opts.text, pair or label names.
local function column(opts, key, head, path)
  local name = opts[key]
  local at = head and names.find(head, name) or not head and math.type(name) == "integer" and name > 0 and name
  if at then return at end
  if head and type(name) == "string" then fail("'%s': %s: %s", names.shown(path), key, names.unknown("column", name, head)) end
  fail("option '%s': the %s of a column expected, got %s", key, head and "name" or "number", tostring(name))
end

-- Rows { a =, b =, label = (text) } of a table.
local function read_table(path, opts, encode)
  local out, columns, head = {}, nil, nil
  each_line(path, function(line, n)
    local fields = split(line)
    if n == 1 and opts.header ~= false then head = fields return end
    if not columns then
      columns = { text = column(opts, "text", head, path), label = column(opts, "label", head, path),
                  pair = opts.pair ~= nil and column(opts, "pair", head, path) or nil }
    end
    for key, at in pairs(columns) do
      if not fields[at] then error(("%d columns expected, for %s, got %d"):format(at, key, #fields), 0) end
    end
    out[#out + 1] = { a = encode(fields[columns.text]), b = columns.pair and encode(fields[columns.pair]), label = fields[columns.label] }
  end)
  if #out == 0 then fail("'%s': no rows", names.shown(path)) end
  return out
end

-- Sorted as numbers where all are.
local function sorted_labels(rows)
  local seen, out, numbers = {}, {}, true
  for _, row in ipairs(rows) do
    if not seen[row.label] then
      seen[row.label], out[#out + 1] = true, row.label
      numbers = numbers and tonumber(row.label) ~= nil
    end
  end
  table.sort(out, numbers and function(a, b) return tonumber(a) < tonumber(b) end or nil)
  return out
end

-- ---- a set --------------------------------------------------------------------------------------------

local function new(opts)
  opts = names.options("sentences", opts, KNOWN)
  local v = opts.vocab
  local special = type(v) == "table" and type(v.special) == "function" and v:special() or {}
  local self = setmetatable({ vocabulary = v, masked = true, cls = special["[CLS]"], sep = special["[SEP]"], pad = special["[PAD]"] }, Sentences)
  if not (self.cls and self.sep and self.pad) then
    fail("option 'vocab': a tokenizer with [CLS], [SEP] and [PAD] expected, got %s", type(v) == "table" and "one without" or type(v))
  end
  local function encode(text) return v:encode(text, { template = false }):flat() end
  local function path(key)
    if type(opts[key]) ~= "string" or sys.exists(opts[key]) ~= "file" then
      fail("option '%s': a file expected, got %s", key, type(opts[key]) == "string" and "'" .. opts[key] .. "'" or type(opts[key]))
    end
    return opts[key]
  end
  local n
  if opts.pairs ~= nil then
    self.name, self.sentences, self.next = path "pairs", {}, {}
    local before
    each_line(self.name, function(line)
      if not line:find "%S" then before = nil return end
      self.sentences[#self.sentences + 1] = encode(line)
      if before then self.next[before] = true end
      before = #self.sentences
    end)
    local cut = #self.sentences - math.floor(VALID_SHARE * #self.sentences)
    self.rows, n = {}, 0
    for i = 1, #self.sentences do -- pairs, by their first
      if self.next[i] and i ~= cut then self.rows[#self.rows + 1] = i end
      if i <= cut then n = #self.rows end
    end
    self.of = { train = { 1, cut }, valid = { cut + 1, #self.sentences } }
  else
    self.name = path "train"
    self.rows = read_table(self.name, opts, encode)
    n = #self.rows
    local valid = read_table(path "valid", opts, encode)
    table.move(valid, 1, #valid, n + 1, self.rows)
    self.labels = sorted_labels(self.rows)
    for _, row in ipairs(self.rows) do row.class = names.find(self.labels, row.label) - 1 end
  end
  self.train, self.valid = { lo = 0, hi = n }, { lo = n, hi = #self.rows }
  return self
end

-- First row of "train" or "valid" and the one behind its last, 0-based.
function Sentences:range(split_) return self[split_].lo, self[split_].hi end

-- The tokens of a row for a model of that context.
function Sentences:fit(context) return context end

-- Internal: as of a dataset.
function Sentences:tokenizer() return self.vocabulary end

-- Raises unless the split has rows, and a context room for both sentences.
function Sentences:need(split_, context)
  local lo, hi = self:range(split_)
  if hi <= lo then fail("'%s': no rows for %s", self.name, split_) end
  if context < 5 then fail("a context of 5 tokens or more expected, got %d", context) end
end

-- How many of `wanted` rows the split has.
function Sentences:windows(split_, _, wanted)
  local lo, hi = self:range(split_)
  return math.min(wanted, hi - lo)
end

-- Ids and types of one row, cut to the context.
local function row_of(self, a, b, context)
  local m, n, room = #a, b and #b or 0, context - (b and 3 or 2)
  while m + n > room do
    if m >= n then m = m - 1 else n = n - 1 end
  end
  local ids, types = { self.cls }, {}
  table.move(a, 1, m, 2, ids)
  ids[#ids + 1] = self.sep
  for i = 1, #ids do types[i] = 0 end
  if b then
    table.move(b, 1, n, #ids + 1, ids)
    ids[#ids + 1] = self.sep
    for i = #types + 1, #ids do types[i] = 1 end
  end
  return ids, types
end

-- The batch of rows { a, b, target }: ids (B,T), the targets, and what goes with them.
local function batch(self, list, context)
  local ids, types, lengths, targets, T = {}, {}, {}, {}, 0
  for b, r in ipairs(list) do
    ids[b], types[b] = row_of(self, r[1], r[2], context)
    lengths[b], targets[b] = #ids[b], r[3]
    T = math.max(T, #ids[b])
  end
  local flat, kinds = {}, {}
  for b = 1, #list do
    for t = 1, T do
      flat[#flat + 1], kinds[#kinds + 1] = ids[b][t] or self.pad, types[b][t] or 0
    end
  end
  local function i32(list, ...) return core.tensor { data = list, shape = { ... }, dtype = "i32" } end
  local B = #list
  local x, more = i32(flat, B, T), { token_types = i32(kinds, B, T), lengths = i32(lengths, B) }
  if self.labels then return x, i32(targets, B), more end
  more.next = i32(targets, B)
  return x, x:clone(), more
end

-- The rows of these numbers; of pairs the second sentence is another one for half of them, by (seed, index).
local function rows_of(self, list, split_, seed, index)
  local out = {}
  local u = not self.labels and core.rand { shape = { #list, 2 }, dtype = "f64", seed = seed, device = "cpu", stream = "pairs " .. index }:flat()
  for b, n in ipairs(list) do
    local r = self.rows[n]
    if self.labels then
      out[b] = { r.a, r.b, r.class }
    else
      local lo, hi = table.unpack(self.of[split_])
      local follows = u[2 * b - 1] < 0.5 or hi - lo < 2
      local other = lo + math.floor(u[2 * b] * (hi - lo)) -- any but the next one
      if other > r then other = other + 1 end
      out[b] = { self.sentences[r], self.sentences[follows and r + 1 or other], follows and 0 or 1 }
    end
  end
  return out
end

-- The rows of a split in the order of an epoch.
local function order(self, split_, seed, epoch)
  local key = ("%s %d %d"):format(split_, seed, epoch)
  if self.ordered ~= key then
    local lo, hi = self:range(split_)
    local u, list = core.rand { shape = { hi - lo }, dtype = "f64", seed = seed, device = "cpu", stream = "sentences " .. epoch }:flat(), {}
    for i = 1, hi - lo do
      local at = math.floor(u[i] * i) + 1
      list[i] = list[at]
      list[at] = lo + i
    end
    self.ordered, self.order = key, list
  end
  return self.order
end

-- Batch `index`, a function of (seed, index): ids (B,T) i32, targets (B), and { token_types =, lengths = }; of pairs the targets
-- are the ids, and { next = } (B), 0 where the second sentence follows, is there, too.
function Sentences:random(split_, B, context, seed, index)
  local lo, hi = self:range(split_)
  local list = {}
  for b = 0, B - 1 do
    local at = (index - 1) * B + b
    list[b + 1] = order(self, split_, seed, at // (hi - lo))[at % (hi - lo) + 1]
  end
  return batch(self, rows_of(self, list, split_, seed, index), context)
end

-- Iterates over `total` fixed rows spread evenly over the split, B at a time: as random.
function Sentences:even(split_, B, context, total)
  local lo, hi = self:range(split_)
  local draw = data.spread(lo, hi, B, total)
  return function()
    local list, n = draw()
    if list then return batch(self, rows_of(self, list, split_, 0, n), context) end
  end
end

-- How a model sorts the validation rows into their classes: { n =, accuracy =, matthews =, f1 = }, the last two where there are
-- two classes: the correlation that GLUE takes for CoLA, and the harmonic mean of precision and recall of class 1.
function Sentences:score(m)
  if not self.labels then fail("score: of a set with labels") end
  if m.config.task ~= "classifier" or m.config.classes ~= #self.labels then
    fail("score: a BERT of task=classifier with classes=%d expected", #self.labels)
  end
  local lo, hi = self:range "valid"
  local hits, count, mode = 0, { [0] = { [0] = 0, 0 }, { [0] = 0, 0 } }, m.training
  m:eval()
  local ok, why = pcall(core.no_grad, function()
    for x, y, more in self:even("valid", PASS, m.config.context, hi - lo) do
      local logits, classes = m:forward(x, more):flat(), #self.labels
      for b, class in ipairs(y:flat()) do
        local best = 0
        for k = 1, classes - 1 do
          if logits[(b - 1) * classes + k + 1] > logits[(b - 1) * classes + best + 1] then best = k end
        end
        hits = hits + (best == class and 1 or 0)
        if classes == 2 then count[class][best] = count[class][best] + 1 end
      end
    end
  end)
  m:train(mode)
  if not ok then error(why, 0) end
  local out = { n = hi - lo, accuracy = hits / (hi - lo) }
  if #self.labels == 2 then
    local tn, fp, fn, tp = count[0][0], count[0][1], count[1][0], count[1][1]
    local size = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    out.matthews = size > 0 and (tp * tn - fp * fn) / size or 0
    out.f1 = tp > 0 and 2 * tp / (2 * tp + fp + fn) or 0
  end
  return out
end

return setmetatable({ class = Sentences }, { __call = function(_, opts) return new(opts) end })
