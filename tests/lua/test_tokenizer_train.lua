-- Tokenizers that are trained here: what they hold, that no line is lost, what is refused; the command.
local T = ...
local core = require "attnlab.core"
local data = require "attnlab.data"
local lab = require "attnlab"
local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)
local sys = core.sys

local stories = data.home() .. "/experiments/data/stories.txt"

T.test("a BPE model gives every text back, a unigram one is made, too", function()
  local dir = T.folder()
  local text = sys.read(stories)
  for _, model in ipairs { "bpe", "unigram" } do
    local out = dir .. "/" .. model .. ".model"
    local v = lab.tokenizer.train { texts = { stories }, out = out, vocab_size = 400, model = model, document_end = "<|endoftext|>" }
    T.eq({ v.kind, v:size(), v.bos, v.eos, v.unk }, { "sentencepiece", 400, 1, 2, 0 })
    for _, s in ipairs { text:sub(1, 3000), "  two  spaces ", "caf\u{e9} \u{1f600} 1234\n\n", "<s> <|endoftext|>" } do
      T.eq(v:decode(v:encode(s)), s)
    end
    T.ok(v:encode(text):numel() < 0.7 * #text)
    T.eq(lab.tokenizer(out):hash(), v:hash())
  end
  local v = lab.tokenizer.train { lines = { "a1b22 c", "A\u{fb01}" }, out = dir .. "/n.model", vocab_size = 16, byte_fallback = false,
                                  split_digits = false, normalization = "nmt_nfkc_cf", keep_spaces = false, coverage = 1 }
  T.eq(v:decode(v:encode "  A\u{fb01}  c"), "afi c")
end)

T.test("a line of any length is trained on", function()
  -- the pair qz stands in a paragraph of 60,000 bytes alone, where the library's own limit is 4192
  local v = lab.tokenizer.train { lines = { ("qz "):rep(20000), ("ab "):rep(10) }, out = T.folder() .. "/m.model", vocab_size = 265 }
  T.ok(v:id "qz" or v:id " q")
end)

T.test("what the trainer would leave out is refused with its place", function()
  local out = T.folder() .. "/m.model"
  local function refused(lines, pattern, more)
    local opts = { lines = lines, out = out, vocab_size = 270 }
    for k, x in pairs(more or {}) do opts[k] = x end
    T.raises(function() lab.tokenizer.train(opts) end, pattern)
    T.eq(sys.exists(out), nil)
  end
  refused({ "good", "ba\xff" }, "lines: line 2, byte 3: not UTF%-8")
  refused({ "good", "\u{2585}" }, "lines: line 2, byte 1: U%+2585")
  refused({ "go\0od" }, "lines: line 1, byte 3: a zero")
  refused({ "", "\r\n" }, "no text to train on")
  refused({ "abc" }, "SentencePiece: .*ocabulary size", { vocab_size = 5000 })
  refused({ "abc" }, "option 'vocab_size': integer in 2..16777216 expected, got 1", { vocab_size = 1 })
  refused({ "abc" }, "SentencePiece: Vocabulary size is smaller .* or decrease coverage%.", { vocab_size = 5 })
  refused({ "abc" }, "option 'coverage': number in 0.98..1 expected, got 0.5", { coverage = 0.5 })
  refused({ "abc" }, "unknown word 'bpee' %(did you mean 'bpe'", { model = "bpee" })
  refused({ "abc" }, "did you mean 'vocab_size'", { vocab_sizes = 7 })
  refused("a line", "option 'lines': an array of texts expected, got a line")
  T.raises(function() lab.tokenizer.train { lines = { "a" } } end, "out=FILE is missing")
  T.raises(function() lab.tokenizer.train { out = out } end, "texts={FILE, ..} is missing")
  T.raises(function() lab.tokenizer.train { texts = { "/no/such" }, out = out } end, "/no/such")
end)

T.test("nothing but such a model is written over, and that is said before anything is read", function()
  local dir = T.folder()
  sys.write(dir .. "/a.txt", "abc abd\n")
  assert(os.execute(("ln -s a.txt '%s/link'"):format(dir)))
  for _, row in ipairs { { "/a.txt", "and no SentencePiece model" }, { "/link", "and no SentencePiece model" },
                         { "", "and no SentencePiece model" }, { "/none/x.model", "none/': no such folder" } } do
    T.raises(function() lab.tokenizer.train { texts = { "/no/such" }, out = dir .. row[1] } end, row[2])
  end
  T.eq(sys.read(dir .. "/a.txt"), "abc abd\n")
  for _, size in ipairs { 264, 265 } do
    T.eq(lab.tokenizer.train({ texts = { dir .. "/a.txt" }, out = dir .. "/m.model", vocab_size = size }):size(), size)
  end
end)

T.test("the command", function()
  local dir = T.folder()
  sys.write(dir .. "/a.jsonl", '{"text": "abc abd"}\n{"text": "abd abc"}\n')
  local status, text = tiny.run { "tokenizer-train", dir .. "/a.jsonl", "out=" .. dir .. "/a.model", "vocab_size=265", "byte_fallback=true" }
  T.eq(status, 0, text)
  T.ok(text:find "a.model: 265 pieces", text)
  T.eq(lab.tokenizer(dir .. "/a.model"):decode(lab.tokenizer(dir .. "/a.model"):encode "abd"), "abd")
  for _, row in ipairs { { "out= is needed" }, { "true or false expected, got 'yes'", "out=x", "split_digits=yes" },
                         { "did you mean 'vocab_size'", "out=x", "vocabsize=7" }, { "a number expected", "out=x", "vocab_size=many" } } do
    local words = { "tokenizer-train", dir .. "/a.jsonl" }
    table.move(row, 2, #row, 3, words)
    local code, said = tiny.run(words)
    T.eq(code, 2, said)
    T.ok(said:find(row[1]), said)
  end
  local code, said = tiny.run { "tokenizer-train", dir .. "/a.jsonl", "out=" .. dir .. "/b.model", "vocab_size=9000" }
  T.eq(code, 1, said)
  T.ok(said:find "ocabulary size" and not sys.exists(dir .. "/b.model"), said)
end)
