-- Commands about data.
-- A change here makes no run stale.
local core = require "attnlab.core"
local tables = require "attnlab.table"
local words = require "attnlab.words"

local function tokenize(args, usage)
  local given = words.values(args, { tokenizer = "text", out = "text", document_end = "text", document_id = "number",
                                     val = "number", shard_tokens = "number" }, usage)
  for _, key in ipairs { "tokenizer", "out" } do
    if not given[key] or given[key] == "" then usage("tokenize: %s= is needed", key) end
  end
  local format = args.flags.format
  if format and format ~= "text" and format ~= "jsonl" then usage("tokenize: --format: text or jsonl expected, got '%s'", format) end
  given.inputs, given.format, given.field = args.words, format, args.flags.field
  local list = require("attnlab.tokenize").run(given)
  if args.flags.json then
    print(core.json.encode(list, { pretty = true }))
    return
  end
  local cells = {}
  for _, name in ipairs { "train", "val" } do
    local s = list.splits[name]
    cells[#cells + 1] = { split = name, documents = tostring(s.documents), tokens = tostring(s.tokens),
                            bytes = tables.human(s.bytes, true), shards = tostring(#s.files) }
  end
  print((tables.text({ { key = "split", title = "split" }, { key = "documents", title = "documents" }, { key = "tokens", title = "tokens" },
    { key = "bytes", title = "text" }, { key = "shards", title = "shards" } }, cells, tables.terminal())))
  local unknown = list.splits.train.unknown + list.splits.val.unknown
  if unknown > 0 then print(("%d tokens are unknown to the tokenizer: their text is lost, and bits a byte are not defined"):format(unknown)) end
  print(("%d bits an id, vocabulary of %d, documents begin with id %d: data=\"%s\" or data=\"%s rows=packed\"")
    :format(list.bits, list.vocab, list.document_id, given.out, given.out))
end

local KINDS = { integer = "number", number = "number", bool = "boolean", word = "text" }

local function tokenizer_train(args, usage)
  local tokenizer = require "attnlab.tokenizer"
  local kinds = { out = "text", document_end = "text" }
  for _, row in ipairs(tokenizer.rows) do kinds[row.name] = KINDS[row.type] end
  local given = words.values(args, kinds, usage)
  if not given.out or given.out == "" then usage("tokenizer-train: out= is needed") end
  given.texts, given.field, given.verbose = args.words, args.flags.field, args.flags.verbose or nil
  given.ends = true
  local began = core.sys.clock()
  if not args.flags.verbose then io.stderr:write "tokenizer-train: reading, then SentencePiece trains (--verbose: its log)\n" end
  local v = tokenizer.train(given)
  print(("%s: %d pieces, %.1f s"):format(tables.clean(given.out), v:size(), core.sys.clock() - began))
end

-- The keys of tokenizer-train, a line each.
local function training_keys()
  local out = { "Keys: out=FILE, document_end=TEXT what stands between documents and is no text," }
  for _, row in ipairs(require("attnlab.tokenizer").rows) do
    local words = row.choices and (" (%s)"):format(table.concat(row.choices, ", ")) or ""
    out[#out + 1] = ("%s=%s %s%s"):format(row.name, row.default, row.doc, words)
  end
  return table.concat(out, "\n")
end

return {
  { name = "tokenizer-train", args = "INPUT .. out=FILE", least = 1, most = math.huge, sets = true, run = tokenizer_train,
    doc = "a SentencePiece tokenizer made from texts or jsonl (.gz, .zst)",
    options = { { name = "field", value = "NAME", doc = "of each line of jsonl (text)" },
                { name = "verbose", doc = "the log of SentencePiece's trainer" } },
    more = training_keys() },
  { name = "tokenize", args = "INPUT .. tokenizer=FILE out=FOLDER", least = 1, most = math.huge, sets = true, run = tokenize,
    doc = "texts or jsonl (.gz, .zst, - for standard input) as shards of tokens",
    options = { { name = "field", value = "NAME", doc = "of each line of jsonl (text)" },
                { name = "format", value = "NAME", doc = "text or jsonl (jsonl where the name says so)" }, words.JSON },
    more = "Keys: document_end=TEXT what stands between documents of a text; document_id=ID what they begin with\n"
      .. "(the id of document_end, or the tokenizer's end of text); val=SHARE of the documents held out, by hash of\n"
      .. "their text; shard_tokens=N (100000000)." },
}
