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

return {
  { name = "tokenize", args = "INPUT .. tokenizer=FILE out=FOLDER", least = 1, most = math.huge, sets = true, run = tokenize,
    doc = "texts or jsonl (.gz, .zst, - for standard input) as shards of tokens",
    options = { { name = "field", value = "NAME", doc = "of each line of jsonl (text)" },
                { name = "format", value = "NAME", doc = "text or jsonl (jsonl where the name says so)" }, words.JSON },
    more = "Keys: document_end=TEXT what stands between documents of a text; document_id=ID what they begin with\n"
      .. "(the id of document_end, or the tokenizer's end of text); val=SHARE of the documents held out, by hash of\n"
      .. "their text; shard_tokens=N (100000000)." },
}
