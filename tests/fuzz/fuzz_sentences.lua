-- Any bytes as a table or a text of sentences (libFuzzer): refused with the file's name and the reason, or a data set whose
-- rows have the lengths that they say, begin and end as they should and hold what their sentences are.
local tools = dofile(... .. "tools.lua")
local core = require "attnlab.core"
local sentences = require "attnlab.sentences"

local path = select(2, ...) .. "/any.tsv"
local M = { words = { "\t", "\n", "\r\n", "\n\n", "text", "label", "text\tlabel\n", "1", "0", "\xff", "\0", " " } }
M.seeds = { "text\tlabel\ngood one\t1\nbad\t0\n", "text\tb\tlabel\na\tb\t1.5\n\t\t\n", "one\ntwo\nthree\n\nfour\nfive\n" }

local CLS, SEP, PAD, FIRST = 256, 257, 258, 0
local bytes = {} -- a tokenizer of bytes that knows no \xff
function bytes:size() return 259 end
function bytes:special() return { ["[CLS]"] = CLS, ["[SEP]"] = SEP, ["[PAD]"] = PAD } end
function bytes:encode(text)
  local ids = { text:byte(1, 4000) }
  for i, id in ipairs(ids) do
    if id == 255 then error(("byte %d is 255"):format(i), 0) end
  end
  return core.tensor { data = ids, shape = { #ids }, dtype = "i32" }
end

local function check(set, split, context)
  local function rows(x, _, more)
    local lengths, types = more.lengths:flat(), more.token_types:totable()
    for b, ids in ipairs(x:totable()) do
      local n = lengths[b]
      if n > context or n > #ids or ids[1] ~= CLS or ids[n] ~= SEP then error "a row of another form" end
      for t = n + 1, #ids do
        if ids[t] ~= PAD or types[b][t] ~= FIRST then error "no padding behind a row" end
      end
      for t = 2, n do
        if types[b][t] < types[b][t - 1] then error "the first sentence behind the second" end
      end
    end
  end
  if not tools.reads(path, set.need, set, split, context) then return end
  rows(set:random(split, 3, context, 1, 2))
  for x, y, more in set:even(split, 2, context, set:windows(split, context, 3)) do rows(x, y, more) end
end

function M.run(any)
  tools.put(path, any)
  for _, o in ipairs { { text = "text", label = "label" }, { text = 1, label = 2, header = false }, { text = "text", pair = "b", label = "label" },
                       { pairs = path } } do
    o.vocab = bytes
    if not o.pairs then o.train, o.valid = path, path end
    local ok, set = tools.tries(sentences, o)
    if ok then
      for _, context in ipairs { 5, 9 } do
        check(set, "train", context)
        check(set, "valid", context)
      end
    end
  end
end

return M
