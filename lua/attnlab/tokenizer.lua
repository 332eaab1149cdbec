-- Tokenizers of every kind: lab.tokenizer(path, {pattern=, special=}), a file, a folder that has one, or "bytes".
-- What kind it is, its content says: tokenizer.json, SentencePiece's .model, GPT-2's merges (vocab.json beside them),
-- a .tiktoken file (pattern= one of gpt2, cl100k, llama3, o200k or a pattern; special={name=id}), tekken.json, BERT's
-- vocab.txt, llama2.c's table. A component of it that is not known is refused by its name.
-- v:encode(text, {special=, template=}), v:decode(ids), v:piece(id), v:id(piece), v:special(), v:hash(), v:save(folder).
-- lab.tokenizer.train{..} makes a new one: SentencePiece, BPE or unigram.
local core = require "attnlab.core"
local formats = require "attnlab.formats"
local names = require "attnlab.names"
local rows = require "attnlab.rows"
local kinds = require "attnlab.tokenizers"
local vocabulary = require "attnlab.vocabulary"
local sys = core.sys

local M = {}

local THREADS = 16 -- sums of a unigram model are taken in as many parts, on any machine
local plain_format = core.plain(string.format)

-- Options of train, as rows.lua has them.
M.rows = {
  { name = "vocab_size", type = "integer", default = "8000", min = 2, max = 1 << 24, doc = "pieces, with <unk>, <s>, </s> and the bytes" },
  { name = "model", type = "word", default = "bpe", choices = { "bpe", "unigram", "word", "char" }, doc = "how pieces are found" },
  { name = "byte_fallback", type = "bool", default = "true", doc = "256 pieces for the bytes of characters without a piece" },
  { name = "split_digits", type = "bool", default = "true", doc = "each digit is a piece" },
  { name = "normalization", type = "word", default = "identity",
    choices = { "identity", "nfkc", "nfkc_cf", "nmt_nfkc", "nmt_nfkc_cf" }, doc = "what texts become first" },
  { name = "keep_spaces", type = "bool", default = "true", doc = "spaces in a row, first and last stay: the text comes back" },
  { name = "coverage", type = "number", default = "0.9995", min = 0.98, max = 1, doc = "share of the characters that get a piece" },
}

local function fail(text, ...) error("tokenizer.train: " .. text:format(...), 0) end

-- The options given, checked, with the others' defaults.
local function resolve(opts)
  local known, o = { "texts", "lines", "out", "field", "document_end", "verbose", "ends" }, {}
  opts = names.options("tokenizer.train", opts, table.move(rows.names(M.rows), 1, #M.rows, #known + 1, known))
  for _, key in ipairs { "texts", "lines" } do
    local v = opts[key]
    if v ~= nil and (type(v) ~= "table" or type(v[1]) ~= "string") then fail("option '%s': an array of texts expected, got %s", key, rows.show(v)) end
  end
  for _, row in ipairs(M.rows) do
    local v = opts[row.name]
    if v == nil then v = rows.default(row) end
    local ok, checked = pcall(rows.check, row, v, row.name)
    if not ok then fail("%s", checked) end
    o[row.name] = checked
  end
  return o, opts
end

-- The texts of files: of a text (.gz, .zst, too) its lines, of jsonl those of a field.
local function read(opts)
  local texts = {}
  for _, path in ipairs(opts.texts or {}) do
    formats.check(path)
    local reader <close> = core.texts(path, formats.of_texts(path), opts.field or "text", opts.document_end)
    local parts = {}
    for text in reader.next, reader do parts[#parts + 1] = text end
    texts[#texts + 1] = { names.shown(path), table.concat(parts, "\n") }
  end
  if opts.lines then texts[#texts + 1] = { "lines", table.concat(opts.lines, "\n") } end
  if #texts == 0 then fail("texts={FILE, ..} is missing") end
  return texts
end

-- Refuses, before the work of hours, what cannot be written or is something else than a tokenizer made before: a text that
-- is read here, perhaps.
local function check_out(out)
  local folder = out:match "^(.*/)[^/]*$" or "."
  if sys.exists(folder) ~= "dir" then fail("out: '%s': no such folder", names.shown(folder)) end
  if not sys.exists(out) then return end
  local ok, there = pcall(kinds.read, out, {})
  if sys.exists(out) ~= "file" or not ok or there.kind ~= "sentencepiece" then
    fail("out: '%s' is there already, and no SentencePiece model: remove it, or name another file", names.shown(out))
  end
end

-- What the library says, without places of its own sources, in our options' names.
local function said(why)
  why = why:gsub("Internal: %S+%.cc%(%d+%) %[.-%] *", ""):gsub("decrease character_coverage with %-%-character_coverage option", "decrease coverage")
  return (why:gsub("Increase vocab_size", "increase vocab_size"))
end

-- Bytes of a SentencePiece model of the options of train.
function M.train_bytes(opts)
  local o
  o, opts = resolve(opts)
  local args = plain_format("--vocab_size=%d --model_type=%s --byte_fallback=%s --split_digits=%s --normalization_rule_name=%s "
    .. "--remove_extra_whitespaces=%s --character_coverage=%.17g --num_threads=%d --minloglevel=%d", o.vocab_size, o.model,
    o.byte_fallback, o.split_digits, o.normalization, not o.keep_spaces, o.coverage, THREADS, opts.verbose and 0 or 2)
  return core.vocab.train(args, read(opts), opts.ends)
end

-- Trains on texts={FILE, ..} (text or jsonl, .gz, .zst) or lines={TEXT, ..} and writes out=FILE (.model), whole or not at
-- all, over nothing but another such model. vocab_size, model, byte_fallback, split_digits, normalization, keep_spaces and
-- coverage as `lab tokenizer-train --help` says; field= of jsonl; document_end= what stands between documents and is no
-- text; verbose=true: the library's own log on stderr; ends=true: a signal ends the process, which otherwise waits. Every
-- line is read: those that the library would leave out are refused with their place. Returns the tokenizer.
function M.train(opts)
  opts = names.options("tokenizer.train", opts)
  if type(opts.out) ~= "string" or opts.out == "" then fail("out=FILE is missing") end
  check_out(opts.out)
  local ok, bytes = pcall(M.train_bytes, opts)
  if not ok then error(said(names.reason(tostring(bytes))), 0) end
  sys.write(opts.out, bytes)
  return vocabulary.open(opts.out)
end

return setmetatable(M, { __call = function(_, path, opts) return vocabulary.open(path, opts) end })
