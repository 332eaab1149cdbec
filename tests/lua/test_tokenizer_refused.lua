-- Files of tokenizers that are not right: refused with the file and the place.
local T = ...
local core = require "attnlab.core"
local data = require "attnlab.data"
local lab = require "attnlab"
local json, sys = core.json, core.sys

local golden = data.home() .. "/tests/golden/tokenizers/"
local dir = T.folder()

local function refused(name, bytes, pattern, opts)
  sys.write(dir .. "/" .. name, bytes)
  local e = T.raises(function() lab.tokenizer(dir .. "/" .. name, opts) end, pattern)
  T.ok(e:find(name, 1, true), e)
end

-- A golden file with something changed.
local function edited(name, change, pattern)
  local j = json.decode(sys.read(golden .. name .. ".json"))
  change(j)
  refused("tokenizer.json", json.encode(j), pattern)
end

T.test("components that are not known are refused by their name", function()
  for _, row in ipairs {
    { "normalizer", { type = "Nmt" }, "normalizer Nmt: the normalizer 'Nmt' is not known" },
    { "normalizer", { type = "Precompiled", precompiled_charsmap = "AA" }, "'Precompiled' is not known" },
    { "normalizer", { type = "Sequence", normalizers = { { type = "NFC" }, { type = "Nmt" } } }, "normalizers%[1%] Nmt" },
    { "normalizer", { type = "Replace", pattern = { Regex = "a(" }, content = "" }, "pattern 'a%(': missing .* at character 2" },
    { "normalizer", { type = "Replace", pattern = {}, content = "" }, "'String' or 'Regex' expected" },
    { "normalizer", { type = "Prepend", prepend = "x", more = 1 }, "unknown key 'more' %(known: type prepend%)" },
    { "pre_tokenizer", { type = "UnicodeScripts" }, "the pre_tokenizer 'UnicodeScripts' is not known" },
    { "pre_tokenizer", { type = "Split", pattern = { String = " " }, behavior = "Around" }, "the behavior 'Around'" },
    { "pre_tokenizer", { type = "Metaspace", replacement = "__" }, "'replacement': one character expected" },
    { "pre_tokenizer", { type = "Metaspace", replacement = "_", prepend_scheme = "last" }, "always, first or never" },
    { "pre_tokenizer", { type = 7 }, "'type': a text expected, got a whole number" },
    { "pre_tokenizer", {}, "'type' is missing" },
    { "pre_tokenizer", { type = "Sequence", pretokenizers = { { type = "Sequence" } } }, "a Sequence within a Sequence" },
    { "post_processor", { type = "Roberta" }, "the post_processor 'Roberta'" },
    { "post_processor", { type = "TemplateProcessing", single = { { SpecialToken = { id = "<x>" } } }, special_tokens = { y = 1 } },
      "'<x>' is missing" },
    { "post_processor", { type = "BertProcessing", sep = { "[SEP]", 9999 }, cls = { "[CLS]", 0 } }, "sep: an id from 0 to 419 expected" },
    { "decoder", { type = "CTC" }, "the decoder 'CTC'" },
    { "decoder", { type = "Strip", content = "", start = 1 }, "'content': one character" },
  } do
    edited("gpt2", function(j) j[row[1]] = row[2] end, row[3])
  end
  for _, row in ipairs {
    { "type", "WordLevel", "the model 'WordLevel'" }, { "dropout", 0.5, "'dropout' is not known" },
    { "end_of_word_suffix", "</w>", "'end_of_word_suffix'" }, { "unk_token", "<no>", "'<no>' is no token" },
    { "fuse_unk", 1, "'fuse_unk': true or false expected" }, { "speed", 1, "unknown key 'speed'" },
    { "merges", { "a" }, "model BPE: merges%[0%]: two tokens expected" }, { "merges", { "a b c" }, "merges%[0%]" },
    { "merges", { { "a", 1 } }, "merges%[0%]" }, { "merges", { { "a", "" } }, "merges%[0%]: .* one is empty" }, { "merges", { "a zz" }, "merges%[0%]: 'zz' is no token" },
    { "merges", { "! \"" }, "'!' and '\"' make no token" }, { "vocab", { a = 0, b = 2 }, "no token has the id" },
    { "vocab", { a = 0, b = 0 }, "the id 0 is of two tokens" }, { "vocab", { a = -1 }, "an id from 0 to" },
    { "vocab", { a = 1 << 40 }, "an id from 0 to" }, { "vocab", { a = "0" }, "'a': an id expected" },
  } do
    edited("gpt2", function(j)
      j.added_tokens = nil
      j.model[row[1]] = row[2]
    end, row[3])
  end
  edited("gpt2", function(j) table.insert(j.model.merges, 9, j.model.merges[3]) end, "merges%[8%]: .* are merged before")
  edited("gpt2", function(j) j.added_tokens[1].id = 7 end, "has the id 7 here and 0 in the model's vocab")
  edited("gpt2", function(j) j.added_tokens[1].content = "" end, "added_tokens%[0%]: 'content' is empty")
  edited("gpt2", function(j) j.later = 1 end, "unknown key 'later'")
  edited("gpt2", function(j) j.model = { type = "Unigram", vocab = { { "<unk>", 0 } }, unk_id = 0 } end, "the model 'Unigram'")
end)

T.test("files cut short anywhere", function()
  for _, name in ipairs { "gpt2.json", "tekken.json", "tok512.model" } do
    local bytes = sys.read(golden .. name)
    for n = 0, #bytes - 1, #bytes // 40 do refused("cut-" .. name, bytes:sub(1, n), "cut%-") end
  end
end)

T.test("lists of merges, ranks and words", function()
  refused("merges.txt", "#version: 0.2\na b\nab\n", "line 3: two tokens and a space expected")
  refused("merges.txt", "#version: 0.2\na b\na\xffb c\n", "not UTF%-8 at byte 19")
  refused("merges.txt", "#version: 0.2\na b\nq ab\na b\n", "line 4: 'a' and 'b' are merged before")
  refused("merges.txt", "#version: 0.2\nab c\n", "line 2: 'ab' is no token")
  local how = { pattern = "gpt2" }
  refused("x.tiktoken", "IQ== 0\nIg= 1\n", "line 2: base64 of a token expected", how)
  refused("x.tiktoken", "IQ== 0\nIg== one\n", "line 2: base64, a space and a rank", how)
  refused("x.tiktoken", "IQ== 0\nIg== 0\n", "line 2: the rank 0 is there before", how)
  refused("x.tiktoken", "IQ== 0\nIg== 2\n", "no token has the id 1 of 0 to 2", how)
  refused("x.tiktoken", "IQ== 0\n", "pattern '%(': missing", { pattern = "(" })
  T.raises(function() lab.tokenizer(dir .. "/x.tiktoken", { pattern = "gpt2", special = 1 }) end, "option 'special': a table")
  refused("vocab.txt", "[PAD]\n[UNK]\n\na\n", "line 3 is empty")
  refused("vocab.txt", "[PAD]\n[UNK]\na\na\n", "lines 3 and 4 are one token, 'a'")
  refused("vocab.txt", "[PAD]\na\n", "no token %[UNK%]")
  sys.remove(dir .. "/merges.txt")
  refused("vocab.json", '{"a": 0}', "merges %(merges.txt or vocab.bpe%) are not beside it")
end)

T.test("tekken.json", function()
  local bytes = sys.read(golden .. "tekken.json")
  local function bad(from, to, pattern)
    local text, n = bytes:gsub(from, to, 1)
    T.eq(n, 1)
    refused("tekken.json", text, pattern)
  end
  bad('"default_num_special_tokens":24', '"default_num_special_tokens":900', "do not fit")
  bad('"rank":5', '"rank":6', "vocab%[5%]: the rank 5 expected, got 6")
  bad('"token_bytes":"BQ=="', '"token_bytes":"BQ="', "vocab%[5%]: base64")
  bad('"pattern":', '"pat":', "config: 'pattern' is missing")
end)

T.test("SentencePiece models", function()
  local bytes = sys.read(golden .. "tok512.model")
  -- a piece that is no text, a score that is no number
  local at = bytes:find("\n\3\u{2581}", 1, true)
  refused("m.model", bytes:sub(1, at + 1) .. "\xff\xff\xff" .. bytes:sub(at + 5), "piece %d+ .*UTF%-8")
  local score = bytes:find("\x15", at, true)
  refused("m.model", bytes:sub(1, score) .. "\0\0\xc0\x7f" .. bytes:sub(score + 5), "its score is not a number")
  refused("m.model", "\n\7\n\5<unk>", "SentencePiece refuses it: .*unk")
end)

T.test("texts", function()
  for _, name in ipairs { "gpt2.json", "llama2.json", "bert.json", "tok512.model" } do
    local v = lab.tokenizer(golden .. name)
    T.raises(function() v:encode "abc\xff" end, "not UTF%-8 at byte 3 %(0xFF%)")
    T.raises(function() v:encode "\xed\xa0\x80" end, "not UTF%-8 at byte 0")
    T.raises(function() v:decode { 1, v:size() } end, "id %d+ at position 2: 0 to")
    T.eq(v:encode("", { template = false }):flat(), {})
    T.eq(v:decode {}, "")
  end
  -- a vocabulary that lacks a byte says so
  local j = json.decode(sys.read(golden .. "unknown.json"))
  j.model.unk_token = nil
  sys.write(dir .. "/tokenizer.json", json.encode(j))
  T.raises(function() lab.tokenizer(dir .. "/tokenizer.json"):encode "a\u{2603}" end, "'\u{2603}' %(U%+2603%) is not in the vocabulary")
  -- a pattern that tries everything ends with an error
  j = json.decode(sys.read(golden .. "gpt2.json"))
  j.pre_tokenizer = { type = "Split", pattern = { Regex = "(a|a|aa)+b" }, behavior = "Isolated" }
  j.decoder = nil
  sys.write(dir .. "/tokenizer.json", json.encode(j))
  T.raises(function() lab.tokenizer(dir .. "/tokenizer.json"):encode(("a"):rep(60) .. "cb") end, "the pattern gives up at byte 0")
end)

T.test("long words take no longer for their length", function()
  local v = lab.tokenizer(golden .. "llama2.json") -- nothing cuts the text
  local clock = os.clock()
  local text = sys.read(data.home() .. "/experiments/data/shakespeare.txt"):sub(1, 400000)
  T.eq(v:decode(v:encode(text)), text)
  v:encode(("e"):rep(400000))
  T.ok(os.clock() - clock < 20, "joined a pair at a time, a scan each, it takes hours")
end)
