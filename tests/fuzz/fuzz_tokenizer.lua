-- Files of tokenizers (libFuzzer): edits of small ones of each kind, whose every part can be reached. Refused with the
-- file's name and the reason; or loaded: then texts are encoded to ids that there are, and any ids decoded.
local tools = dofile(... .. "tools.lua")
local core = require "attnlab.core"
local lab = require "attnlab"

local folder = select(2, ...)
local golden = lab.data.home() .. "/tests/golden/tokenizers/"
local M = { words = { '"type"', '"BPE"', '"Sequence"', '"Regex"', "(a|b)+", "\\p{L}", "(?!", "\\s*", "{1,3}", "=", "==", " 1\n", "\xc4\xa0", "\u{2581}",
                      "<0x41>", "##", "[UNK]\n", "\n#version", '"ByteLevel"', "\\u0000", "\xff", "\x0a\x80\x80", "\x1a", "\x12\xff" },
            seeds = tools.edit_seeds() }

-- ---- the files --------------------------------------------------------------------------------------

local function added(id, content, more)
  local t = { id = id, content = content, special = true, normalized = false, lstrip = false, rstrip = false, single_word = false }
  for k, v in pairs(more or {}) do t[k] = v end
  return t
end

local function seq(key, list) return { type = "Sequence", [key] = list } end
local function regex(p) return { Regex = p } end

local bytes = { ["<unk>"] = 0 }
for i = 0, 255 do bytes[("<0x%02X>"):format(i)] = i + 1 end
bytes["\u{2581}"], bytes.a, bytes.b, bytes["\u{2581}a"] = 257, 258, 259, 260

local JSON = {
  { added_tokens = { added(0, "<s>"), added(7, "w a", { special = false, normalized = true, single_word = true, lstrip = true }),
                     added(8, "\u{e9}", { special = false, rstrip = true }) },
    normalizer = seq("normalizers", { { type = "NFKC" }, { type = "Lowercase" }, { type = "Prepend", prepend = "a" },
      { type = "Replace", pattern = regex "b+", content = "ab" }, { type = "Strip", strip_left = true, strip_right = false }, { type = "StripAccents" } }),
    pre_tokenizer = seq("pretokenizers", { { type = "Split", pattern = regex "\\s+(?!\\S)|[a-c]", behavior = "MergedWithNext", invert = false },
      { type = "Digits", individual_digits = true }, { type = "Punctuation", behavior = "Contiguous" },
      { type = "Metaspace", replacement = "_", prepend_scheme = "first", split = true }, { type = "WhitespaceSplit" } }),
    post_processor = { type = "TemplateProcessing", single = { { SpecialToken = { id = "<s>", type_id = 0 } }, { Sequence = { id = "A", type_id = 0 } } },
      special_tokens = { ["<s>"] = { id = "<s>", ids = { 0 }, tokens = { "<s>" } } } },
    decoder = seq("decoders", { { type = "Replace", pattern = { String = "_" }, content = " " }, { type = "ByteFallback" }, { type = "Fuse" },
      { type = "Strip", content = " ", start = 1, stop = 1 }, { type = "Metaspace", replacement = "_", prepend_scheme = "always" } }),
    model = { type = "BPE", unk_token = "<s>", fuse_unk = true, byte_fallback = true, ignore_merges = true,
      vocab = { ["<s>"] = 0, a = 1, b = 2, ab = 3, ["_"] = 4, ["_ab"] = 5, c = 6 }, merges = { { "a", "b" }, { "_", "ab" } } } },
  { pre_tokenizer = { type = "ByteLevel", add_prefix_space = true, use_regex = true }, decoder = { type = "ByteLevel" },
    post_processor = { type = "RobertaProcessing", sep = { "d", 3 }, cls = { "a", 0 } },
    model = { type = "BPE", unk_token = "d", vocab = { a = 0, b = 1, ab = 2, d = 3, ["\u{120}"] = 4 }, merges = { "a b" } } },
  { normalizer = { type = "BertNormalizer", clean_text = true, handle_chinese_chars = true, strip_accents = true, lowercase = true },
    pre_tokenizer = { type = "BertPreTokenizer" }, decoder = { type = "WordPiece", prefix = "##", cleanup = true },
    model = { type = "WordPiece", unk_token = "[UNK]", continuing_subword_prefix = "##", max_input_chars_per_word = 20,
      vocab = { ["[UNK]"] = 0, a = 1, ["##b"] = 2, ["##a"] = 3 } } },
  { model = { type = "BPE", unk_token = "<unk>", byte_fallback = true, vocab = bytes, merges = { "\u{2581} a" } },
    normalizer = { type = "Prepend", prepend = "\u{2581}" }, decoder = { type = "ByteFallback" } },
}

-- A model with a map of characters, whose double array is walked by the library.
local model = golden .. "tok512.model"
local mapped = lab.tokenizer.train_bytes { lines = { "aa ab ba bb aab", "abc abd" }, vocab_size = 11, byte_fallback = false, model = "unigram", normalization = "nmt_nfkc" }
local merges = "#version: 0.2\n\u{120} a\nb c\n\u{120}a bc\n"
local ranks = "YQ== 0\nYg== 1\nYWI= 2\nIA== 3\n"
local words = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##b\nab\n"
local tekken = core.json.encode { config = { pattern = "a|b|.", default_vocab_size = 6, default_num_special_tokens = 3 },
  vocab = { { rank = 0, token_bytes = "YQ==" }, { rank = 1, token_bytes = "Yg==" }, { rank = 2, token_bytes = "YWI=" } } }

-- Edits of a large file: three bytes of place.
local function damaged(text, edits)
  local at = 1
  while at + 4 <= #edits do
    local place = (edits:byte(at) << 16 | edits:byte(at + 1) << 8 | edits:byte(at + 2)) % (#text + 1)
    local n = edits:byte(at + 4) % 8
    text = text:sub(1, place) .. edits:sub(at + 5, at + 4 + n) .. text:sub(place + 1 + edits:byte(at + 3) % 16)
    at = at + 5 + n
  end
  return text
end

for i, j in ipairs(JSON) do JSON[i] = core.json.encode(j) end
local KINDS = {
  function(b) return "a.json", tools.edited(JSON[b:byte(2) % #JSON + 1], b:sub(3)) end,
  function(b) return "b.json", tools.spliced(JSON[b:byte(2) % #JSON + 1], b:sub(3)) end,
  function(b) return "a.model", tools.spliced(tools.get(model), b:sub(3)) end,
  function(b) return "b.model", damaged(mapped, b:sub(3)) end,
  function(b) return "merges.txt", tools.spliced(merges, b:sub(3)) end,
  function(b) return "a.tiktoken", tools.spliced(ranks, b:sub(3)) end,
  function(b) return "vocab.txt", tools.spliced(words, b:sub(3)) end,
  function(b) return "tekken.json", tools.edited(tekken, b:sub(3)) end,
}
for i = 1, #M.seeds do M.seeds[i] = string.char(i % #KINDS, i // #KINDS % 4) .. M.seeds[i] end

local TEXTS = { "", "a", "ab  abc 12 w a \u{e9}\u{301} <s>, don't\n\n\u{4e00}\u{1f600}", ("ab"):rep(60), "\u{2581} \u{fb01} \u{130}" }

function M.run(bytes_in)
  if #bytes_in < 3 then return end
  local name, text = KINDS[bytes_in:byte(1) % #KINDS + 1](bytes_in)
  local path = folder .. "/" .. name
  tools.put(path, text)
  local opts = name == "a.tiktoken" and { pattern = "[a-c]+|.", special = { ["<x>"] = 9 } } or nil
  local ok, v = tools.reads(path, lab.tokenizer, path, opts)
  os.remove(path)
  if not ok then return end
  local n = v:size()
  for id = 0, math.min(n, 300) - 1 do
    if type(v:piece(id)) ~= "string" then error "an id without a piece" end
  end
  for i = 1, #TEXTS do
    for _, special in ipairs { false, true } do
      local done, ids = tools.tries(v.encode, v, TEXTS[i], { special = special })
      for _, id in ipairs(done and ids:flat() or {}) do
        if id < 0 or id >= n then error("an id that is none: " .. id) end
      end
      if done then tools.tries(v.decode, v, ids, { special = special }) end
    end
  end
  local some = {}
  for i = 1, math.min(#bytes_in, 40) do some[i] = bytes_in:byte(i) * 7 % n end
  tools.tries(v.decode, v, some)
end

return M
