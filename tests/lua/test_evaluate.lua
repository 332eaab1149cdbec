-- Evaluation: windows that slide, what they begin with, lengths of context, positions, bits a byte, records.
local T = ...
local core = require "attnlab.core"
local data = require "attnlab.data"
local lab = require "attnlab"
local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)
local json, sys = core.json, core.sys

local STORIES = T.root .. "experiments/models/stories260K.bin"
local stories = lab.model.load(STORIES)

local function file(text)
  local path = T.folder() .. "/text.txt"
  sys.write(path, text)
  return path
end

-- A model of the characters of a text, with weights that are a function of their names.
local function model(set, context, dtype)
  return lab.model.new { layers = 2, width = 16, heads = 2, context = context, seed = 3, dtype = dtype or "f64",
                         vocabulary = set.vocabulary, attention = { rope = "interleaved" } }
end

-- Loss of each of ids[from..] (1-based) given those before it from `begin` on.
local function losses(m, ids, begin, from, to, start)
  local x, y = {}, {}
  for i = begin, to - 1 do x[#x + 1], y[#y + 1] = ids[i], ids[i + 1] end
  if start then
    table.insert(x, 1, start)
    table.insert(y, 1, ids[begin])
  end
  local nll = m:forward { x }:cross_entropy(core.tensor { data = { y }, dtype = "i32" }, { reduction = "none" }):flat()
  return table.move(nll, from - begin + (start and 1 or 0), #nll, 1, {})
end

local function mean(list)
  local s = 0
  for _, v in ipairs(list) do s = s + v end
  return s / #list
end

-- The loop of transformers' page on perplexity: max_length tokens, stride, the number of targets of each window.
local function sliding(m, ids, max_length, stride)
  local all, before = {}, 0
  for begin = 0, #ids - 1, stride do
    local stop = math.min(begin + max_length, #ids)
    local targets = stop - before
    local from = math.max(stop - targets, begin + 1) -- the first token of a window has nothing before it
    for _, v in ipairs(losses(m, ids, begin + 1, from + 1, stop)) do all[#all + 1] = v end
    before = stop
    if stop == #ids then break end
  end
  return all
end

local path = T.numbers(60)

T.test("a stride: transformers' loop, every token once, whatever window and rest", function()
  local set = data.open(path)
  local lo, hi = set:range "valid"
  local ids = set.tokens:slice { axis = 1, start = lo, stop = hi }:flat()
  local m = model(set, 9)
  for _, o in ipairs { { 8, 3 }, { 8, 8 }, { 9, 1 }, { 5, 2 }, { 1, 1 }, { 7, 4 } } do
    local r = lab.evaluate(m, { data = path, window = o[1], stride = o[2] })
    local want = sliding(m, ids, o[1] + 1, o[2])
    T.eq({ r.tokens, #want }, { #ids - 1, #ids - 1 })
    T.near(r.loss, mean(want), 1e-12)
    T.eq({ r.window, r.stride, r.start, r.sliding }, { o[1], o[2], "empty", true })
    T.near(r.perplexity, math.exp(r.loss), 1e-12)
  end
  local short = lab.evaluate(m, { data = path, window = 8, stride = 3, windows = 2 })
  T.eq({ short.windows, short.tokens }, { 2, 11 })
  T.near(short.loss, mean(table.move(sliding(m, ids, 9, 3), 1, 11, 1, {})), 1e-12)
end)

T.test("a stride on a trained model: the numbers of transformers' loop", function()
  for window, want in pairs { [128] = { 64, 2.4948567 }, [64] = { 16, 2.5170508 } } do
    local r = lab.evaluate(stories, { data = "stories", window = window, stride = want[1] })
    T.near(r.loss, want[2], 1e-5)
    T.eq(r.tokens, 4277)
  end
end)

T.test("the start token: before every window, and then every token is scored", function()
  local text = file(("Once upon a time there was a dog. "):rep(3))
  local set = data.open(text, { vocab = stories.vocabulary })
  local ids = set.tokens:flat()
  table.remove(ids, 1) -- which is the start token
  for _, o in ipairs { { 12, 5 }, { 100, 100 }, { 6, 6 } } do
    local r = lab.evaluate(stories, { data = text, window = o[1], stride = o[2], start = "bos", split = "all" })
    local want, done = {}, 0
    for begin = 0, #ids, o[2] do
      local stop = math.min(begin + o[1], #ids)
      for _, v in ipairs(losses(stories, ids, begin + 1, done + 1, stop, 1)) do want[#want + 1] = v end
      done = stop
      if stop == #ids then break end
    end
    T.eq({ r.tokens, #want, r.start, r.bytes, r.bytes_are }, { #ids, #ids, "bos", set.text_bytes, "exact" })
    T.near(r.loss, mean(want), 1e-5)
    T.near(r.bits_per_byte, r.loss * #ids / math.log(2) / set.text_bytes, 1e-6)
  end
  local even = lab.evaluate(stories, { data = "stories", windows = 2, window = 16, start = "bos" })
  local valid = data.open("stories", { vocab = stories.vocabulary })
  local lo, hi = valid:range "valid"
  local first = losses(stories, valid.tokens:flat(), lo + 1, lo + 1, lo + 16, 1)
  local last = losses(stories, valid.tokens:flat(), hi - 16, hi - 16, hi - 1, 1)
  T.near(even.loss, (mean(first) + mean(last)) / 2, 1e-5)
end)

T.test("without a stride it is evalset's number, bit for bit, and its parts add up", function()
  local ev = lab.evalset { data = "stories", windows = 5, context = 100 }
  local loss, se = ev(stories)
  local r = lab.evaluate(stories, { data = "stories", windows = 5, window = 100 })
  T.eq({ r.loss, r.standard_error, r.windows, r.tokens, r.split }, { loss, se, 5, 500, "valid" })
  local sum, n = 0, 0
  for i, p in ipairs(r.positions) do
    sum, n = sum + p.loss * p.tokens, n + p.tokens
    if i > 1 then T.eq(p.from, r.positions[i - 1].to + 1) end
  end
  T.eq({ n, r.positions[1].from, r.positions[#r.positions].to, r.positions[3].to }, { 500, 1, 100, 4 })
  T.near(sum / n, loss, 1e-5)
  -- a bucket by hand: tokens that see 3 or 4 others
  local set, per = ev:open(stories), {}
  for x, y in set:even("valid", 5, 100, 5) do
    local nll = stories:forward(x):cross_entropy(y, { reduction = "none" }):totable()
    for b = 1, 5 do per[b] = (nll[b][3] + nll[b][4]) / 2 end
  end
  T.near(r.positions[3].loss, mean(per), 1e-5)
  T.near(r.positions[3].standard_error, lab.stats.deviation(per) / math.sqrt(5), 1e-5)
  T.eq({ r.tokenizer.kind, r.tokenizer.hash, r.sha256, r.dtype, r.device, r.context },
    { "llama2c", stories.vocabulary:hash(), set.sha256, "f32", core.on(), 512 })
  -- a window beyond the context is read in pieces, as evalset reads it
  local m = model(data.open(path), 9)
  T.eq(lab.evaluate(m, { data = path, window = 20, windows = 3 }).loss, (lab.evalset { data = path, windows = 3, context = 20 }(m)))
  T.eq(#lab.evaluate(m, { data = path, window = 20, windows = 3 }).positions, 5) -- none sees more than nine
end)

T.test("lengths: the same tokens, pieces within the context and positions beyond it", function()
  local path = T.numbers(300)
  local set = data.open(path)
  local m, wide = model(set, 8), model(set, 14)
  local r = lab.evaluate(m, { data = path, lengths = { 3, 8, 14 }, windows = 4 })
  T.eq({ r.lengths[1].length, r.lengths[2].difference, r.window, r.tokens }, { 3, nil, 14, 56 })
  T.near(r.lengths[3].loss, lab.evaluate(wide, { data = path, window = 14, windows = 4 }).loss, 1e-12)
  T.near(r.lengths[2].loss, lab.evaluate(m, { data = path, window = 14, windows = 4 }).loss, 1e-12)
  T.near(r.loss, r.lengths[2].loss, 0)
  local ev, d = lab.evalset { data = path, windows = 4, context = 14 }, {}
  for i, v in ipairs(ev:losses(wide)) do d[i] = v - ev:losses(m)[i] end
  local x = r.lengths[3].difference
  T.near({ x.mean, x.standard_error }, { mean(d), lab.stats.deviation(d) / 2 }, 1e-12)
  T.eq({ x.to, x.lo < x.mean, x.hi > x.mean }, { 8, true, true })
  T.eq({ r.positions[#r.positions].from, r.positions[#r.positions].to }, { 9, 14 })
  T.ok(tostring(r):find "14 %*" and tostring(r):find "9%-14 %*" and tostring(r):find "reference", tostring(r))
  local fig = require("attnlab.evaluate.show").figure(r, "m")
  T.eq({ #fig.panels, #fig.panels[2].curves[1].points, #fig.legend }, { 2, 3, 1 })
end)

T.test("bits a byte: bytes of the text's characters, not of tokens; none with unknown tokens", function()
  local text = ("h\u{e9}llo \u{20ac}\u{1F30D} w\u{f6}rld; "):rep(20)
  local p = file(text)
  local m = model(data.open(p), 16)
  local r = lab.evaluate(m, { data = p, split = "all", window = 16, stride = 16 })
  T.eq({ r.bytes, r.bytes_are, r.tokens }, { #text - 1, "exact", utf8.len(text) - 1 }) -- all but the first, "h"
  T.near(r.bits_per_byte, r.loss * r.tokens / math.log(2) / (#text - 1), 1e-12)
  local valid = lab.evaluate(m, { data = p, window = 16, stride = 16 })
  local set = data.open(p)
  T.eq(valid.bytes, #set.vocabulary:decode(set.tokens:slice { axis = 1, start = set.valid.lo + 1, stop = set.valid.hi }))
  -- a tokenizer that writes its pieces otherwise than the text has them
  local v = setmetatable({ piece = function(_, id) return set.vocabulary:piece(id):rep(2) end }, { __index = set.vocabulary })
  local other = data.of_tokens("other", set.tokens, v, set.train, set.valid)
  other.text_bytes = #text
  m.vocabulary = v
  local shared = lab.evaluate(m, { data = other, window = 16, stride = 16 })
  T.eq(shared.bytes_are, "shared out")
  T.near(shared.bits_per_byte, valid.bits_per_byte, 1e-12)
  other.text_bytes = nil
  T.eq(lab.evaluate(m, { data = other, window = 16, stride = 16 }).bytes_are, "the pieces'")
  v.unk = set.vocabulary:id "h"
  local unknown = lab.evaluate(m, { data = other, window = 16, stride = 16 })
  T.eq({ unknown.bits_per_byte, unknown.bytes }, {})
  T.ok(unknown.no_bits:find "^undefined: %d+ of %d+ scored tokens are unknown" and tostring(unknown):find "bits per byte undefined", unknown.no_bits)
end)

T.test("token sets: streams slide, documents are masked as evalset has them", function()
  local shard = T.folder() .. "/a.bin"
  local w, ids = core.shards.create(shard, false), {}
  for i = 1, 400 do
    ids[i] = i * i % 17
    w:put(ids[i])
  end
  w:commit()
  local m = lab.model.new { layers = 1, width = 16, heads = 2, context = 12, vocab = 17, seed = 3, dtype = "f64" }
  local stream = shard .. " vocab=17"
  local r = lab.evaluate(m, { data = stream, window = 8, stride = 3, split = "all" })
  T.near(r.loss, mean(sliding(m, ids, 9, 3)), 1e-12)
  T.eq({ r.tokens, r.bits_per_byte, r.no_bits }, { 399, nil, "the data have ids and no tokenizer" })
  for _, rows in ipairs { "stream", "documents", "packed" } do
    local source = ("%s rows=%s document_id=3"):format(stream, rows)
    T.eq(lab.evaluate(m, { data = source, windows = 7 }).loss, (lab.evalset { data = source, windows = 7 }(m)))
    if rows ~= "stream" then
      T.raises(function() lab.evaluate(m, { data = source, stride = 3 }) end, "option 'stride': data of rows=stream expected, got rows=" .. rows)
    end
  end
  T.raises(function() lab.evaluate(m, { data = stream .. " rows=packed document_id=3", window = 20 }) end, "packed rows of 20 tokens")
end)

T.test("a long window's logits are made in parts", function()
  local scores = require "attnlab.evaluate.scores"
  local x = core.tensor { data = { (function() local t = {} for i = 1, 1500 do t[i] = i % 500 end return t end)() }, dtype = "i32" }
  local y = core.tensor { data = { (function() local t = {} for i = 1, 1500 do t[i] = i * 7 % 500 end return t end)() }, dtype = "i32" }
  local m = lab.model.new { layers = 1, width = 8, heads = 2, context = 1500, vocab = 500, seed = 1, dtype = "f64" }
  local nll = core.no_grad(scores.losses, m, x, y, 1500)
  T.near(nll, m:forward(x):cross_entropy(y, { reduction = "none" }), 1e-12)
end)

T.test("a model that lost its tokenizer is not measured or trained on characters", function()
  local dir = T.folder()
  lab.model.new({ layers = 1, width = 16, heads = 2, vocab = 300, context = 16, seed = 1 }):save(dir .. "/m.safetensors")
  local m = lab.model.load(dir .. "/m.safetensors")
  local pattern = "the model has no vocabulary, and the characters of 'stories' .* are not its tokens: tokenizer=FILE"
  T.raises(function() lab.evalset { data = "stories" }(m) end, pattern)
  T.raises(function() lab.train(m, { data = "stories", steps = 1, quiet = true }) end, pattern)
  local s = m:fork()
  s.layer[1]:set { denominator = "none" }
  T.raises(function() s:calibrate { data = "stories" } end, pattern)
  T.eq(m.vocabulary, nil)
end)

T.test("options that are refused", function()
  local function refuses(opts, pattern) T.raises(function() lab.evaluate(stories, opts) end, pattern) end
  refuses({ stride = 600 }, "option 'stride': a number from 1 to the window's 512 expected, got 600")
  refuses({ stride = 0 }, "option 'stride': integer >= 1 expected, got 0")
  refuses({ window = 700, stride = 3 }, "with a stride a number up to the model's context of 512 expected, got 700")
  refuses({ start = "bo" }, "unknown word 'bo'")
  refuses({ lengths = {} }, "an array of lengths")
  refuses({ lengths = { 8, 4 } }, "ascending numbers expected, got 4")
  refuses({ lengths = { 8 }, stride = 2 }, "one of them expected, got both")
  refuses({ split = "test" }, "valid, train or all expected, got test")
  refuses({ stridee = 3 }, "did you mean 'stride'")
  refuses({ window = 200000, data = "stories" }, "its valid split has %d+ tokens, a context of 200000 needs 200001")
  refuses({ window = 200000, data = "stories", split = "all" }, "its text has %d+ tokens, a context")
  refuses({ data = "shakespere" }, "did you mean 'shakespeare'")
  local m = model(data.open(path), 8)
  T.raises(function() lab.evaluate(m, { start = "bos", data = path }) end, "the tokenizer has no start token")
  T.raises(function() lab.evaluate({}, {}) end, "a model expected, got table")
end)

T.test("eval: text, JSON, a folder with a figure", function()
  local function expects(status, pattern, ...)
    local got, text = tiny.run { "eval", STORIES, ... }
    T.ok(got == status, ("status %d expected, got %d:\n%s"):format(status, got, text))
    T.ok(text:find(pattern), text)
    return text
  end
  expects(0, "nats per token.*bits per byte\nvalidation part of 'stories', 3 windows of 32 tokens, each from an empty context", "data=stories",
    "window=32", "windows=3")
  local r = json.decode(expects(0, "", "data=stories", "window=32", "stride=16", "windows=4", "start=bos", "split=all", "--json"):match "^{.-\n}")
  T.eq({ r.window, r.stride, r.start, r.windows, r.tokens, r.split, r.model }, { 32, 16, "bos", 4, 80, "all", STORIES })
  T.eq({ #r.sha256, #r.tokenizer.hash, r.dtype, r.device }, { 64, 64, "f32", core.on() })
  local dir = T.folder() .. "/out"
  expects(0, "written .*/out/eval.json", "data=stories", "lengths=8,16", "windows=3", "out_dir=" .. dir)
  T.eq(json.decode(sys.read(dir .. "/eval.json")).lengths[1].length, 8)
  T.ok(sys.read(dir .. "/eval.txt"):find "context  nats a token")
  expects(2, "lengths: whole numbers", "lengths=8,x")
  expects(2, "option 'stride'", "stride=1000")
  expects(2, "limit: a key of tasks=FILE.jsonl", "limit=3")
  expects(2, "stride: a key of texts", "tasks=x.jsonl", "stride=3")
  expects(2, "did you mean 'stride'", "strid=3")
end)
