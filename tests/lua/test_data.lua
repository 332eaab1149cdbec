-- Texts as data: where they are found, splits, windows, and what is refused.
local T = ...
local core = require "attnlab.core"
local data = require "attnlab.data"
local lab = require "attnlab"

local function text_file(text, name)
  local path = T.folder() .. "/" .. (name or "text.txt")
  core.sys.write(path, text)
  return path
end

T.test("a text named in a file lies beside it, or in the current folder", function()
  local dir = core.sys.realpath(T.folder())
  core.sys.mkdir(dir .. "/sub")
  core.sys.write(dir .. "/mine.txt", "some text")
  core.sys.write(dir .. "/shakespeare", "not the project's")
  T.eq(data.locate("shakespeare", dir), "shakespeare")
  T.eq(data.locate("mine.txt", dir), dir .. "/mine.txt")
  T.eq(data.locate("../mine.txt", dir .. "/sub"), dir .. "/mine.txt")
  T.eq(data.locate(dir .. "/sub/../mine.txt"), dir .. "/mine.txt")
  T.eq(data.locate(dir .. "/mine.txt", "elsewhere"), dir .. "/mine.txt")
  T.eq(data.locate("none.txt", dir), dir .. "/none.txt")
  T.eq(data.locate("shakespear", dir), "shakespear")
  T.raises(function() data.path(data.locate("none.txt", dir)) end, dir:gsub("%p", "%%%0") .. "/none.txt': no such file")
end)

T.test("what is given in the place of a folder or of options is named", function()
  T.raises(function() data.locate("x", {}) end, "^data: a folder's path expected, got table")
  T.raises(function() data.open("shakespeare", 3) end, "^data: a table of options expected, got number")
  T.raises(function() lab.evalset(3) end, "^evalset: a table of options expected, got number")
  T.raises(function() data.path "/dev/null" end, "^data: '/dev/null' is no regular file")
end)

T.test("the real text", function()
  local d = data.open "shakespeare"
  T.eq(d.text_bytes, 1115394)
  T.eq(d.vocabulary:size(), 65)
  T.eq(d.tokens:numel(), 1115394)
  T.eq({ d.train.lo, d.train.hi, d.valid.lo, d.valid.hi }, { 0, 1003854, 1003854, 1115394 })
  T.eq(d.sha256, "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed")
  T.eq(d.vocabulary:decode(d.tokens[{ { 1, 13 } }]), "First Citizen")
  T.eq(d.vocabulary:characters():sub(1, 3), "\n !")
end)

T.test("names and paths that are refused say why", function()
  T.raises(function() data.open "shakespear" end, "unknown text 'shakespear' %(did you mean 'shakespeare'%?%)")
  T.raises(function() data.open "no/such/file.txt" end, "'no/such/file.txt': no such file")
  T.raises(function() data.open "missing.txt" end, "'missing.txt': no such file")
  T.raises(function() data.open(T.folder()) end, "is a folder")
  T.raises(function() data.open "" end, "name or path")
  T.raises(function() data.open(7) end, "name or path")
  T.raises(function() data.open(text_file "") end, "is empty")
  T.raises(function() data.open(text_file " \n ") end, "is empty")
  T.raises(function() data.open(text_file "abc\xff\xfe") end, "^data: '.*text.txt': .*UTF%-8")
  T.raises(function() data.open("shakespeare", { vocabulary = 1 }) end, "data: unknown option 'vocabulary' %(did you mean 'vocab'")
  T.raises(function() data.open(text_file "abz", { vocab = data.open(text_file("ab", "other.txt")).vocabulary }) end,
    "^data: '.*text.txt': .*'z' %(U%+007A%) is not among the 2 of the vocabulary")
end)

T.test("a text shorter than the context", function()
  local d = data.open(text_file(("abcdefghij"):rep(10)))
  d:need("train", 50)
  T.raises(function() d:need("valid", 50) end, "its valid split has 10 tokens, a context of 50 needs 51")
  T.raises(function() d:need("test", 50) end, "'train' or 'valid' expected")
end)

T.test("n tokens hold n - 1 targets: context + 1 tokens are exactly one window", function()
  local d = data.open(text_file(("abcdefghij"):rep(10)))
  for _, split in ipairs { "train", "valid" } do
    local lo, hi = d:range(split)
    d:need(split, hi - lo - 1)
    T.eq(d:windows(split, hi - lo - 1, 5), 1)
    T.raises(function() d:need(split, hi - lo) end, "too short")
    local x, y = d:random(split, 2, hi - lo - 1, 1, 1)
    local ex, ey = d:even(split, 2, hi - lo - 1, 1)()
    for b = 1, 2 do T.eq({ x[{ b }]:flat(), y[{ b }]:flat() }, { ex[{ 1 }]:flat(), ey[{ 1 }]:flat() }) end
    T.eq(ey[{ 1 }]:flat()[hi - lo - 1], d.tokens:flat()[hi])
  end
  local m = lab.model.new { layers = 1, width = 8, heads = 1, context = 9, vocab = 10, seed = 1 }
  T.eq(select(3, lab.evalset { data = d }(m))[2], nil)
end)

T.test("characters of more than one byte", function()
  local d = data.open(text_file(("äöü€a"):rep(20)))
  T.eq(d.vocabulary:size(), 5)
  T.eq(d.tokens:numel(), 100)
  T.eq(d.vocabulary:characters(), "aäöü€")
end)

T.test("random windows are a function of seed and index, targets the next tokens", function()
  local d = data.open "shakespeare"
  local x, y = d:random("train", 3, 20, 7, 5)
  local again = d:random("train", 3, 20, 7, 5)
  T.eq(x, again)
  T.eq(x[{ {}, { 2, 20 } }]:flat(), y[{ {}, { 1, 19 } }]:flat())
  T.ok(d:random("train", 3, 20, 7, 6):flat()[1] ~= nil)
  T.ok(table.concat(d:random("train", 3, 20, 7, 6):flat(), ",") ~= table.concat(x:flat(), ","))
  T.ok(table.concat(d:random("train", 3, 20, 8, 5):flat(), ",") ~= table.concat(x:flat(), ","))
end)

T.test("fixed windows cover the split without overlap, whatever the batch", function()
  local d = data.open(text_file(("abcdefghij"):rep(100)))
  T.eq(d:windows("valid", 10, 1000), 9)
  local function starts(batch)
    local out = {}
    for x in d:even("valid", batch, 10, 9) do
      T.eq(x:size(2), 10)
      for b = 1, x:size(1) do out[#out + 1] = table.concat(x[{ b }]:flat(), ",") end
    end
    return out
  end
  T.eq(#starts(4), 9)
  T.eq(starts(4), starts(9))
end)

T.test("an evaluation set measures and compares models", function()
  local words = {}
  for i = 1, 300 do words[i] = tostring(i * i) end
  local path = text_file(table.concat(words, " "))
  local function model(seed)
    return lab.model.new { layers = 1, width = 16, heads = 2, context = 8, vocab = 11, seed = seed }
  end
  local a, b = model(1), model(2)
  local ev = lab.evalset { data = path, windows = 5 }
  local mean, se, windows = ev(a)
  T.eq(#windows, 5)
  T.near(mean, math.log(11), 0.3)
  T.ok(se > 0)
  local same = ev:diff(a, a)
  T.eq({ same.mean, same.kl, same.n }, { 0.0, 0.0, 5 })
  local d = ev:diff(a, b)
  T.near(d.mean, ev(a) - ev(b), 1e-5)
  T.ok(d.kl > 0 and d.se > 0)
  T.near(ev:diff(b, a).mean, -d.mean, 1e-6)
  T.ok(a.training and b.training)
  T.raises(function() lab.evalset { window = 3 } end, "did you mean 'windows'")
  T.raises(function() lab.evalset { data = "shakespear" } end, "did you mean 'shakespeare'")
  T.raises(function() lab.evalset { data = "shakespeare" }(a) end, "the data have 65 tokens, the model only 11")
  T.raises(function() lab.evalset { data = path, batch = 2 } end, "unknown option 'batch'")
  local words_of = data.open(path).vocabulary
  a.vocabulary, b.vocabulary = data.open(text_file "abcdefghijk").vocabulary, words_of
  ev(b)
  T.raises(function() ev(a) end, "another vocabulary than the data")
end)

T.test("a model of a shorter context is scored on the same targets, in pieces of its own", function()
  local words = {}
  for i = 1, 300 do words[i] = tostring(i * i) end
  local d = data.open(text_file(table.concat(words, " ")))
  local a = lab.model.new { layers = 1, width = 16, heads = 2, context = 8, vocab = 11, seed = 1 }
  local b = lab.model.new { layers = 1, width = 16, heads = 2, context = 20, vocab = 11, seed = 2 }
  -- windows of 20 targets: 8, 8 and of the last piece, shifted back to its own context, the last 4
  local want = {}
  for x, y in d:even("valid", 1, 20, 5) do
    local sum = 0
    for _, piece in ipairs { { 1, 8, 1 }, { 9, 16, 1 }, { 13, 20, 5 } } do
      local ids, targets = x[{ {}, { piece[1], piece[2] } }]:contiguous(), y[{ {}, { piece[1], piece[2] } }]:contiguous()
      local nll = lab.no_grad(function() return a:forward(ids):cross_entropy(targets, { reduction = "none" }):flat() end)
      for k = piece[3], 8 do sum = sum + nll[k] end
    end
    want[#want + 1] = sum / 20
  end
  local ev = lab.evalset { data = d, windows = 5, context = 20 }
  T.near(select(3, ev(a)), want, 1e-6)
  T.near(ev:diff(a, b).mean, ev(a) - ev(b), 1e-6)
  T.ok(ev:diff(a, b).kl > 0 and ev:diff(b, a).kl > 0)
  -- the first model's context stays the set's
  ev = lab.evalset { data = d, windows = 5 }
  ev(b)
  T.near(select(3, ev(a)), want, 1e-6)
end)

T.test("the hash of a file, part by part, is that of its text", function()
  local sys = core.sys
  for _, n in ipairs { 0, 1, 65535, 65536, 65537, 200000 } do
    local text = ("ab\0c"):rep(n):sub(1, n)
    T.eq(sys.sha256_file(text_file(text)), sys.sha256(text))
  end
  T.raises(function() sys.sha256_file "no/such" end, "no/such")
  T.raises(function() sys.sha256_file "tests" end, "is a folder")
end)
