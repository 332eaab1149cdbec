-- Tokenizers as Lua has them: opened by content, saved and opened again, with the models that read them.
local T = ...
local core = require "attnlab.core"
local data = require "attnlab.data"
local lab = require "attnlab"
local sys = core.sys

local table_path = data.home() .. "/experiments/models/tok512.bin"

-- What every tokenizer has to be, whatever its kind; text has to come back.
local function whole(v, text)
  local ids = v:encode(text)
  T.eq(ids:dtype(), "i32")
  T.eq(v:decode(ids), text)
  T.eq(v:decode(ids:flat()), text)
  T.eq({ v:piece(-1), v:piece(v:size()), v:id "no such piece" }, {})
  for _, id in ipairs { 0, 7, v:size() - 1 } do
    if id < v:size() then T.eq(v:piece(v:id(v:piece(id))), v:piece(id)) end
  end
  local folder = T.folder() .. "/saved"
  v:save(folder)
  local again = lab.tokenizer(folder)
  T.eq(again.kind, v.kind)
  T.eq(again:hash(), v:hash())
  T.ok(v:hash():find("^" .. ("%x"):rep(64) .. "$"))
  T.ok(again:same(v) and v:same(again))
  T.eq(again:encode(text), ids)
  T.eq({ again.bos, again.eos, again.unk, again.pad }, { v.bos, v.eos, v.unk, v.pad })
end

T.test("characters, bytes, llama2.c's table", function()
  local letters = data.open("shakespeare").vocabulary
  T.eq(letters.kind, "characters")
  whole(letters, "ROMEO:\nO, she")
  local bytes = lab.tokenizer "bytes"
  whole(bytes, "any \0 \xff byte")
  T.eq(bytes:encode("A\xff"):flat(), { 65, 255 })
  local words = lab.tokenizer(table_path)
  T.eq({ words.kind, words.bos, words.eos, words.unk, words.pad }, { "llama2c", 1, 2, 0, nil })
  whole(words, "Once upon a time,  there \u{1f30d} was")
  T.eq(words:hash(), sys.sha256(sys.read(table_path)))
  T.eq(words:special(), { ["<unk>"] = 0, ["<s>"] = 1, ["</s>"] = 2 })
  T.ok(not words:same(bytes) and not bytes:same(letters))
end)

T.test("a folder gets no second tokenizer, nor a part of one", function()
  local dir = T.folder()
  local function beside(name, v, pattern)
    local folder = dir .. "/" .. name:gsub("%W", "")
    sys.mkdir(folder)
    sys.write(folder .. "/" .. name, "{}")
    T.raises(function() v:save(folder) end, pattern)
    T.eq(sys.list(folder), { name })
  end
  local words, pairs_of = lab.tokenizer(table_path), lab.tokenizer(T.root .. "tests/golden/tokenizers/gpt2.json")
  beside("tokenizer.json", words, "has another tokenizer's tokenizer.json: remove it, or name another folder")
  beside("tokenizer_config.json", pairs_of, "another tokenizer's tokenizer_config.json")
  beside("vocab.txt", pairs_of, "another tokenizer's vocab.txt")
  for _ = 1, 2 do words:save(dir .. "/own") end -- over what it wrote itself, or began to
  sys.write(dir .. "/own/tokenizer.bin", "")
  words:save(dir .. "/own")
  T.ok(lab.tokenizer(dir .. "/own"):same(words), "the same")
end)

T.test("start tokens and special strings", function()
  local v = lab.tokenizer(table_path)
  local plain = v:encode("One day", { template = false }):flat()
  T.eq(v:encode("One day"):flat(), { 1, table.unpack(plain) })
  T.ok(#v:encode("</s>", { template = false }):flat() > 3) -- text
  T.eq(v:encode("</s>", { special = true }):flat(), { 1, 2 })
  local parts = v:encode("One day</s><s>One day", { special = true, template = false }):flat()
  local want = { table.unpack(plain) }
  table.move({ 2, 1 }, 1, 2, #want + 1, want)
  table.move(plain, 1, #plain, #want + 1, want)
  T.eq(parts, want)
  T.eq(v:decode({ 1, 2 }), "")
  T.eq(v:decode({ 1, 2 }, { special = true }), "<s></s>")
  T.raises(function() v:encode("x", { speical = true }) end, "did you mean 'special'")
  T.raises(function() v:encode("x", { special = 1 }) end, "option 'special': true or false expected")
  T.raises(function() v:encode(7) end, "text expected, got number")
end)

T.test("what is no tokenizer is refused by its name", function()
  local dir = T.folder()
  local function refused(name, bytes, pattern)
    sys.write(dir .. "/" .. name, bytes)
    local e = T.raises(function() lab.tokenizer(dir .. "/" .. name) end, pattern)
    T.ok(e:find(name, 1, true), e)
  end
  refused("a.txt", "some text", "no tokenizer that is known")
  refused("a.json", "{", "line 1, column 1")
  refused("b.json", '{"kind": "letters"}', "got kind \"letters\"")
  refused("c.json", '{"other": {}}', "no tokenizer that is known")
  refused("t.bin", sys.read(table_path):sub(1, 5000), "ends in piece")
  T.raises(function() lab.tokenizer(dir .. "/none") end, "none': no such file")
  T.raises(function() lab.tokenizer(T.folder()) end, "a folder without a tokenizer")
  T.raises(function() lab.tokenizer(7) end, "path of a file or folder expected")
  T.raises(function() lab.tokenizer(table_path, { patern = "x" }) end, "did you mean 'pattern'")
end)

T.test("a model finds the tokenizer it was saved with, and takes no other for it", function()
  local dir = T.folder()
  local words = lab.tokenizer(table_path)
  local function made(v)
    return lab.model.new { layers = 1, width = 8, heads = 2, mlp = 8, context = 8, seed = 1, vocabulary = v }
  end
  made(words):save(dir .. "/m.safetensors")
  local again = lab.model.load(dir .. "/m.safetensors")
  T.eq(again.vocabulary:hash(), words:hash())
  made(lab.tokenizer "bytes"):save(dir .. "/b.safetensors")
  T.eq(lab.model.load(dir .. "/b.safetensors").vocabulary.kind, "bytes")
  -- the files of another one in its place
  local folder
  for _, name in ipairs(sys.list(dir)) do folder = name:find "^tokenizer%-" and dir .. "/" .. name or folder end
  local bytes = sys.read(table_path)
  local cut = bytes:sub(1, -2) .. "x"
  sys.write(folder .. "/tokenizer.bin", cut)
  T.raises(function() lab.model.load(dir .. "/m.safetensors") end, "another one than the model was trained with")
  T.raises(function() lab.model.load(dir .. "/b.safetensors", { tokenizer = table_path }) end, "vocabulary of its own, of bytes")
  -- too many pieces for the model
  local m = lab.model.new { layers = 1, width = 8, heads = 2, mlp = 8, context = 8, seed = 1, vocab = 100 }
  m:save(dir .. "/small.safetensors")
  T.raises(function() lab.model.load(dir .. "/small.safetensors", { tokenizer = table_path }) end, "512 pieces, the model 100")
end)

T.test("SentencePiece: stories260K reads and writes through it what it does through its table", function()
  local path = data.home() .. "/experiments/models/stories260K.bin"
  local model = data.home() .. "/tests/golden/tokenizers/tok512.model"
  local a, b = lab.model.load(path), lab.model.load(path, { tokenizer = model })
  local v = b.vocabulary
  T.eq({ v.kind, v.bos, v.eos, v.unk, v.pad }, { "sentencepiece", 1, 2, 0, nil })
  for _, text in ipairs { "Once upon a time", "", "caf\u{e9} \u{1f30d}\n\n1234", "x <s> </s> <unk>" } do
    local ids = v:encode(text)
    T.eq(ids, a.vocabulary:encode(text))
    T.eq(v:decode(ids), text)
  end
  for id = 3, 511 do T.eq(v:piece(id), a.vocabulary:piece(id)) end
  T.eq({ v:id " the", v:id "\n", v:id "<s>", v:id "<unk>" }, { a.vocabulary:id " the", 13, 1, 0 })
  T.eq(v:encode("One day</s><s>One day", { special = true }):flat(), a.vocabulary:encode("One day</s><s>One day", { special = true }):flat())
  T.eq(v:decode({ 1, 2 }, { special = true }), "<s></s>")
  T.eq(b:generate { tokens = 60, temperature = 0 }, a:generate { tokens = 60, temperature = 0 })
  T.eq(b:generate { prompt = "Lily", tokens = 40, temperature = 0.8 }, a:generate { prompt = "Lily", tokens = 40, temperature = 0.8 })
  whole(v, "Lily and Tom \u{1f600}")
end)

T.test("models of every kind of tokenizer are trained, saved and opened", function()
  local golden = data.home() .. "/tests/golden/tokenizers/"
  local dir = T.folder()
  for _, name in ipairs { "gpt2.json", "llama2.json", "bert.json", "tekken.json", "tok512.model" } do
    local v = lab.tokenizer(golden .. name)
    whole(v, name == "bert.json" and "the same" or "The same, \u{e9} 12")
    local text = data.open("stories", { vocab = v }):cut({ lo = 0, hi = 300 }, { lo = 300, hi = 400 })
    local m = lab.model.new { layers = 1, width = 8, heads = 2, mlp = 8, context = 8, seed = 1, vocabulary = v }
    local result = lab.train(m, { data = text, steps = 2, batch_size = 2, eval_interval = 2, quiet = true, seed = 1 })
    T.ok(result.records)
    m:save(dir .. "/" .. name .. ".safetensors")
    local again = lab.model.load(dir .. "/" .. name .. ".safetensors")
    T.eq(again.vocabulary:hash(), v:hash())
    T.eq(again:generate { prompt = "The", tokens = 3 }, m:generate { prompt = "The", tokens = 3 })
    T.eq(lab.open(dir .. "/" .. name .. ".safetensors").vocabulary.kind, v.kind)
  end
end)

T.test("a run folder holds its tokenizer, is opened with it, and begins again without it", function()
  local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)
  local store = require "attnlab.store"
  local dir = T.folder()
  local file = data.home() .. "/tests/golden/tokenizers/llama3.json"
  local status, said = tiny.run { "tokenize", data.home() .. "/experiments/data/stories.txt", "tokenizer=" .. file, "out=" .. dir .. "/set" }
  T.eq(status, 0, said)
  local words = { "train", "data=" .. dir .. "/set", "steps=2", "eval_interval=2", "model.layers=1", "model.width=8", "model.heads=2",
                  "model.mlp=8", "model.context=8", "train.batch_size=2", "out_dir=" .. dir .. "/runs" }
  status, said = tiny.run(words)
  T.eq(status, 0, said)
  local run = dir .. "/runs/train/" .. sys.list(dir .. "/runs/train")[1]
  local o, v = lab.open(run), lab.tokenizer(file)
  T.eq({ o.vocabulary.kind, o.vocabulary:hash(), o.vocabulary.bos }, { "huggingface", v:hash(), v.bos })
  T.ok(o.data and o.model:generate { prompt = "Once", tokens = 2 }:find "^Once")
  local held
  for _, name in ipairs(sys.list(run)) do held = name:find "^tokenizer%-" and name or held end
  T.eq(sys.list(run .. "/" .. held), { "tokenizer.json" })
  sys.remove(run .. "/" .. held .. "/tokenizer.json")
  T.raises(function() lab.open(run) end, "a folder without a tokenizer")
  store.clear(run)
  T.eq(sys.exists(run .. "/" .. held), nil)
end)
