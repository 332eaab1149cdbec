-- Tokenizers that models were published with, against the ids of their reference programs. They are too large for the
-- project: ATTNLAB_TOKENIZERS=FOLDER names a folder with
--   expected/cases.jsonl      a text a line with its ids: {"text": .., "gpt2": [..], "mistral-v1": [..], ..}, no BOS
--   expected/whole_files.json {"FILE (..)": {"gpt2": {"tokens": n, "sha256_of_ids_joined_by_single_spaces": ..}}}
--   expected/gpt2_published.json  [{"text", "ids"}]
--   gpt2/vocab.bpe, mistral-v1/tokenizer.model, sentencepiece-unigram-1k/test_model.model, bert-uncased/vocab.txt
-- and the files that whole_files.json names, anywhere below the folder or beside it. Without it the tests are skipped.
local T = ...
local core = require "attnlab.core"
local data = require "attnlab.data"
local lab = require "attnlab"
local json, sys = core.json, core.sys

local folder = os.getenv "ATTNLAB_TOKENIZERS"
if not folder or folder == "" then
  print "skipped: the tokenizers of published models: ATTNLAB_TOKENIZERS names no folder"
  T.test("skipped", function() end)
  return
end

local files = {
  gpt2 = folder .. "/gpt2/vocab.bpe", ["mistral-v1"] = folder .. "/mistral-v1/tokenizer.model",
  ["sp-unigram-1k"] = folder .. "/sentencepiece-unigram-1k/test_model.model",
  ["bert-uncased"] = folder .. "/bert-uncased/vocab.txt",
  ["stories-bpe-512"] = data.home() .. "/tests/golden/tokenizers/tok512.model",
}

for name, path in pairs(files) do
  T.test("every case: " .. name, function()
    local v, n = lab.tokenizer(path), 0
    for line in io.lines(folder .. "/expected/cases.jsonl") do
      local case = json.decode(line)
      local ids = v:encode(case.text, { template = false }):flat()
      T.eq(table.concat(ids, " "), table.concat(case[name], " "))
      -- SentencePiece cannot tell U+2581 from a space
      if name == "gpt2" or name == "mistral-v1" and not case.text:find "\u{2581}" then T.eq(v:decode(ids), case.text) end
      n = n + 1
    end
    T.ok(n > 100)
  end)
end

-- A file of this name below the folder or a folder beside it.
local function find(name, dir, depth)
  for _, entry in ipairs(sys.exists(dir) == "dir" and depth > 0 and sys.list(dir) or {}) do
    local path = dir .. "/" .. entry
    local found = path:sub(-#name - 1) == "/" .. name and sys.exists(path) == "file" and path or find(name, path, depth - 1)
    if found then return found end
  end
end

T.test("whole files", function()
  local n = 0
  for what, by in pairs(json.decode(sys.read(folder .. "/expected/whole_files.json"))) do
    local path = find(what:match "^([^ ]+)", folder .. "/..", 3)
    T.ok(path, what)
    local text = sys.read(path)
    for name, want in pairs(by) do
      local ids = lab.tokenizer(files[name]):encode(text, { template = false })
      T.eq(ids:numel(), want.tokens)
      T.eq(sys.sha256(table.concat(ids:flat(), " ")), want.sha256_of_ids_joined_by_single_spaces)
      n = n + 1
    end
  end
  T.ok(n > 10)
end)

T.test("GPT-2's published cases", function()
  local v = lab.tokenizer(files.gpt2)
  for _, case in ipairs(json.decode(sys.read(folder .. "/expected/gpt2_published.json"))) do
    T.eq(v:encode(case.text):flat(), case.ids)
    T.eq(v:decode(case.ids), case.text)
  end
  T.eq(v:encode("hello <|endoftext|>", { special = true }):flat(), { 31373, 220, 50256 })
end)
