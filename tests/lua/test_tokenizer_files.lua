-- Tokenizers of other people's files against the libraries that wrote them: tests/golden/tokenizers has small files
-- of every build, with what Hugging Face's tokenizers and tiktoken make of 41 texts (README.md there).
local T = ...
local core = require "attnlab.core"
local data = require "attnlab.data"
local lab = require "attnlab"
local json, sys = core.json, core.sys

local golden = data.home() .. "/tests/golden/tokenizers/"

-- Every case of a file's list; of what differs, the first text and both lists are told.
local function hold(v, cases, how)
  for _, case in ipairs(cases) do
    for name, opts in pairs(how) do
      local got = v:encode(case.text, opts):flat()
      local want = case[name]
      if table.concat(got, " ") ~= table.concat(want, " ") then
        error(("%s of %q:\n  got  %s\n  want %s"):format(name, case.text, table.concat(got, " "), table.concat(want, " ")), 0)
      end
    end
  end
end

local PLAIN, SPECIAL = { template = false }, { special = true, template = false }

local builds = {}
for _, name in ipairs(sys.list(golden)) do
  builds[#builds + 1] = name:match "^(.+)%.ids%.json$"
end

for _, name in ipairs(builds) do
  if not name:find "tiktoken" then
    T.test("tokenizer.json: " .. name, function()
      local v = lab.tokenizer(golden .. name .. ".json")
      T.eq(v.kind, "huggingface")
      local cases = json.decode(sys.read(golden .. name .. ".ids.json"))
      T.ok(#cases > 40)
      hold(v, cases, { plain = PLAIN, special = SPECIAL, ids = {} })
      for _, case in ipairs(cases) do
        T.eq(v:decode(case.ids), case.decoded)
        T.eq(v:decode(case.special, { special = true }), case.shown)
      end
    end)
  end
end

T.test("tiktoken's ranks, and tekken.json with the same", function()
  local want = json.decode(sys.read(golden .. "small.tiktoken.ids.json"))
  T.raises(function() lab.tokenizer(golden .. "small.tiktoken") end, "does not say how words are cut: pattern= one of cl100k")
  local v = lab.tokenizer(golden .. "small.tiktoken", { pattern = "llama3", special = want.special })
  hold(v, want.cases, { plain = PLAIN, special = SPECIAL })
  for _, case in ipairs(want.cases) do T.eq(v:decode(case.plain), case.text) end
  T.eq({ v:special()["<|im_start|>"], v.eos, v:size() }, { want.special["<|im_start|>"], want.special["<|endoftext|>"],
    want.special["<|im_start|>"] + 1 })
  local dir = T.folder()
  v:save(dir)
  local again = lab.tokenizer(dir)
  T.eq(again:hash(), v:hash())
  hold(again, want.cases, { plain = PLAIN, special = SPECIAL })
  -- the same ranks behind 24 special tokens
  local t = lab.tokenizer(golden .. "tekken.json")
  T.eq({ t.kind, t.bos, t.eos, t.unk, t.pad }, { "tekken", 1, 2, 0, 11 })
  T.eq({ t:id "[INST]", t:id "<SPECIAL_23>", t:piece(23) }, { 3, 23, "<SPECIAL_23>" })
  for _, case in ipairs(want.cases) do
    local ids = { 1 }
    for i, id in ipairs(case.plain) do ids[i + 1] = id + 24 end
    T.eq(t:encode(case.text):flat(), ids)
    T.eq(t:decode(ids), case.text)
  end
end)

T.test("GPT-2's merges: ids that follow from them, and those of a vocabulary", function()
  local j = json.decode(sys.read(golden .. "gpt2.json"))
  local dir = T.folder()
  sys.write(dir .. "/merges.txt", "#version: 0.2\n" .. table.concat(j.model.merges, "\n") .. "\n")
  local alone = lab.tokenizer(dir .. "/merges.txt")
  T.eq({ alone.kind, alone:size(), alone.bos, alone.eos }, { "gpt2", 257 + #j.model.merges, 256 + #j.model.merges, 256 + #j.model.merges })
  T.eq({ alone:id "!", alone:id " ", alone:piece(188), alone:piece(255) }, { 0, 220, "\0", "\xad" })
  sys.write(dir .. "/vocab.json", json.encode(j.model.vocab))
  local cases = json.decode(sys.read(golden .. "gpt2.ids.json"))
  for _, path in ipairs { dir, dir .. "/merges.txt", dir .. "/vocab.json" } do
    local v = lab.tokenizer(path)
    hold(v, cases, { plain = PLAIN, special = SPECIAL })
    T.eq(v:special(), { ["<|endoftext|>"] = 0 })
  end
  for _, case in ipairs(cases) do
    T.eq(alone:decode(alone:encode(case.text)), case.text)
    T.eq(#alone:encode(case.text):flat(), #case.plain)
  end
end)

T.test("BERT's vocab.txt gives what its tokenizer.json gives", function()
  for _, name in ipairs { "bert", "bert_cased" } do
    local j = json.decode(sys.read(golden .. name .. ".json"))
    local lines = {}
    for token, id in pairs(j.model.vocab) do lines[id + 1] = token end
    local path = T.folder() .. "/vocab.txt"
    sys.write(path, table.concat(lines, "\n") .. "\n")
    local v = lab.tokenizer(path)
    T.eq({ v.kind, v.pad, v.unk, v.bos }, { "wordpiece", 0, 1, nil })
    local cases = json.decode(sys.read(golden .. name .. ".ids.json"))
    hold(v, cases, { plain = PLAIN, special = SPECIAL, ids = {} })
    T.eq(v:encode(("x"):rep(101), PLAIN):flat(), { 1 })
    T.ok(#v:encode(("x"):rep(100), PLAIN):flat() > 1)
  end
end)

T.test("tokenizer_config.json says which tokens begin and end", function()
  local dir = T.folder()
  sys.write(dir .. "/tokenizer.json", sys.read(golden .. "llama3.json"))
  local plain = lab.tokenizer(dir)
  sys.write(dir .. "/tokenizer_config.json", '{"bos_token": {"content": "<|im_start|>"}, "eos_token": "<|im_end|>", "x": null}')
  local v = lab.tokenizer(dir)
  T.eq({ v.bos, v.eos }, { v:id "<|im_start|>", v:id "<|im_end|>" })
  T.eq({ plain.bos, plain.eos }, { v:id "<|begin_of_text|>", v:id "<|end_of_text|>" })
  T.ok(v:hash() ~= plain:hash())
  local again = T.folder()
  v:save(again)
  T.eq(lab.tokenizer(again).eos, v.eos)
end)
