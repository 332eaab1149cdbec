-- Sentences for a BERT: tables and pairs read, batches, classifiers and next sentences trained, scores, refusals.
local T = ...
local core = require "attnlab.core"
local lab = require "attnlab"
local sys = core.sys

local WORDS = { "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "a", "the", "very", "not", "was", "it" }

local function file(name, text)
  local path = T.folder() .. "/" .. name
  sys.write(path, text)
  return path
end

local words = lab.tokenizer(file("vocab.txt", table.concat(WORDS, "\n") .. "\n"))
local id_of = {}
for i, w in ipairs(WORDS) do id_of[w] = i - 1 end

local function model(more)
  local o = { arch = "bert", layers = 1, width = 24, heads = 2, context = 10, seed = 1, vocabulary = words, init_deviation = 0.1 }
  for k, v in pairs(more) do o[k] = v end
  return lab.model.new(o)
end

local function rows_of(x) return x:totable() end

T.test("rows of a table: ids, types, padding, cut to the context, classes", function()
  local train = file("train.tsv", "label\tone\ttwo\nyes\tgood film\tbad\nno\ta very bad film was it\tnot\nmaybe\tit was\tgood good good good good good\n")
  local set = lab.sentences { train = train, valid = train, vocab = words, text = "one", pair = "two", label = "label" }
  T.eq(set.labels, { "maybe", "no", "yes" })
  T.eq({ set:range "train" }, { 0, 3 })
  T.eq({ set:range "valid" }, { 3, 6 })
  local x, y, more = set:even("valid", 3, 20, 3)()
  T.eq(rows_of(x), { { 2, 5, 7, 3, 6, 3, 0, 0, 0, 0, 0 }, { 2, 8, 10, 6, 7, 12, 13, 3, 11, 3, 0 }, { 2, 13, 12, 3, 5, 5, 5, 5, 5, 5, 3 } })
  T.eq(rows_of(more.token_types), { { 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0 }, { 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0 }, { 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1 } })
  T.eq(more.lengths:flat(), { 6, 10, 11 })
  T.eq(y:flat(), { 2, 1, 0 })
  x = set:even("valid", 3, 8, 3)()
  T.eq(rows_of(x), { { 2, 5, 7, 3, 6, 3, 0, 0 }, { 2, 8, 10, 6, 7, 3, 11, 3 }, { 2, 13, 12, 3, 5, 5, 5, 3 } })
  local plain = file("plain.tsv", "a\t1\tx\tgood film\r\nb\t0\tx\tbad film\n")
  set = lab.sentences { train = plain, valid = plain, vocab = words, header = false, text = 4, label = 2 }
  T.eq(set.labels, { "0", "1" })
  x, y, more = set:even("train", 2, 10, 2)()
  T.eq({ rows_of(x), y:flat(), more.lengths:flat() }, { { { 2, 5, 7, 3 }, { 2, 6, 7, 3 } }, { 1, 0 }, { 4, 4 } })
end)

T.test("an epoch has every row once, in an order of (seed, epoch)", function()
  local lines = {}
  for i = 1, 7 do lines[i] = ("good "):rep(i) .. "\t" .. i end
  local path = file("t.tsv", table.concat(lines, "\n"))
  local set = lab.sentences { train = path, valid = path, vocab = words, header = false, text = 1, label = 2 }
  local function classes(first, n, seed)
    local list = {}
    for k = first, first + n - 1 do
      local _, y = set:random("train", 2, 10, seed, k)
      table.move(y:flat(), 1, 2, #list + 1, list)
    end
    return list
  end
  local all = classes(1, 7, 3)
  for epoch = 0, 1 do
    local seen = {}
    for i = 1, 7 do seen[all[7 * epoch + i] + 1] = true end
    T.eq(seen, { true, true, true, true, true, true, true })
  end
  T.ok(table.concat(all, "", 1, 7) ~= table.concat(all, "", 8, 14), "another order")
  T.eq(classes(4, 1, 3), { all[7], all[8] })
  T.ok(table.concat(classes(1, 7, 4), "") ~= table.concat(all, ""))
end)

T.test("a classifier learns which sentences are good", function()
  local function examples(n, from)
    local lines = { "sentence\tlabel" }
    for i = 1, n do
      local k = i * 7 + from
      lines[#lines + 1] = ("%s film was %s %s\t%d"):format(k % 2 == 0 and "the" or "a", k % 3 == 0 and "very" or "not", k % 5 < 2 and "good" or "bad",
        k % 5 < 2 and 1 or 0)
    end
    return file("x.tsv", table.concat(lines, "\n") .. "\n")
  end
  local set = lab.sentences { train = examples(90, 1), valid = examples(40, 3), vocab = words, text = "sentence", label = "label" }
  local m = model { task = "classifier", classes = 2 }
  local before = set:score(m)
  T.ok(before.accuracy < 0.9)
  local r = lab.train(m, { data = set, steps = 60, batch_size = 8, lr = 3e-3, warmup_steps = 5, quiet = true })
  local s = set:score(m)
  T.eq({ s.n, s.accuracy, s.matthews, s.f1 }, { 40, 1.0, 1.0, 1.0 })
  T.ok(r:curve()[1][2] < 0.2, "validation loss")
  -- all of one class: 24 of 40 right, no correlation
  m.classifier.weight:fill(0)
  m.classifier.bias:copy_(core.tensor { 1, 0 })
  s = set:score(m)
  T.near({ s.accuracy, s.matthews, s.f1 }, { 0.6, 0, 0 }, 1e-12)
  T.raises(function() set:score(model { task = "classifier", classes = 3 }) end, "classes=2 expected")
end)

T.test("pairs: half of them neighbours, labels that say so, both losses go down", function()
  local lines = {}
  for d = 1, 30 do
    for i = 1, 4 do lines[#lines + 1] = i % 2 == 1 and "the film was very good" or "it was not a bad film" end
    lines[#lines + 1] = ""
  end
  local set = lab.sentences { pairs = file("p.txt", table.concat(lines, "\n")), vocab = words }
  T.eq({ set:range "train" }, { 0, 81 }) -- 108 of 120 sentences, the last of a document begins no pair
  T.eq({ set:range "valid" }, { 81, 90 })
  local second = { [0] = 0, 0 }
  for k = 1, 20 do
    local x, y, more = set:random("train", 16, 16, 1, k)
    T.eq(x, y)
    for b, row in ipairs(rows_of(x)) do
      local label = more.next:flat()[b]
      second[label] = second[label] + 1
      local good = row[2] == id_of.the
      local follows = good and row[8] == id_of.it or not good and row[9] == id_of.the
      T.ok(label == 1 or follows, "neighbours")
    end
  end
  T.near(second[0] / 320, 0.5, 0.11) -- four deviations of a binomial of 320
  local m = model { task = "pretraining", context = 16 }
  local r = lab.train(m, { data = set, steps = 80, batch_size = 16, lr = 5e-3, warmup_steps = 5, eval_interval = 10, eval_windows = 9, quiet = true })
  local curve = r:curve()
  T.ok(curve[#curve][2] < 0.7 * curve[1][2], ("%g to %g"):format(curve[1][2], curve[#curve][2]))
end)

T.test("what is wrong is said with file, line and column", function()
  local good = file("g.tsv", "text\tlabel\ngood\t1\n")
  local function raises(opts, pattern)
    local o = { train = good, valid = good, vocab = words, text = "text", label = "label" }
    for k, v in pairs(opts) do o[k] = v end
    T.raises(function() lab.sentences(o) end, pattern)
  end
  raises({ text = "txt" }, "g.tsv': text: unknown column 'txt' %(did you mean 'text'")
  raises({ train = file("s.tsv", "text\tlabel\ngood\t1\nbad\n") }, "s.tsv': line 3: 2 columns expected, for label, got 1")
  raises({ train = file("w.tsv", "text\tlabel\ngood\t1\n\xff\t0\n") }, "w.tsv': line 3: encode: the text is not UTF%-8 at byte 0 %(0xFF%)")
  raises({ train = file("e.tsv", "text\tlabel\n") }, "e.tsv': no rows")
  raises({ header = false }, "option '%a+': the number of a column expected, got %a+")
  raises({ train = "nowhere.tsv" }, "option 'train': a file expected, got 'nowhere.tsv'")
  raises({ vocab = lab.data.open(T.numbers(50)).vocabulary }, "option 'vocab': a tokenizer with %[CLS%], %[SEP%] and %[PAD%] expected, got one without")
  raises({ labels = 3 }, "unknown option 'labels' %(did you mean 'label'")
  local set = lab.sentences { train = good, valid = good, vocab = words, text = "text", label = "label" }
  T.raises(function() set:need("train", 3) end, "a context of 5 tokens or more")
  T.raises(function() lab.sentences { pairs = file("o.txt", "good\n\nbad\n"), vocab = words }:need("train", 8) end, "no rows for train")
end)
