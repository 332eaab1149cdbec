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
  T.raises(function() data.open(text_file "abz", { vocab = data.open(text_file("ab", "other.txt")).vocabulary }) end,
    "^data: '.*text.txt': .*'z' %(U%+007A%) is not among the 2 of the vocabulary")
end)

T.test("a text shorter than the context", function()
  local d = data.open(text_file(("abcdefghij"):rep(10)))
  d:need("train", 50)
  T.raises(function() d:need("valid", 50) end, "its valid split has 10 tokens, a context of 50 needs 52")
  T.raises(function() d:need("test", 50) end, "'train' or 'valid' expected")
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
  local ev = lab.evalset { data = path, windows = 5, batch = 2 }
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
  T.raises(function() lab.evalset { data = path, context = 9, windows = 2 }(a) end, "9 tokens are longer than the context of 8")
end)
