-- export: a model as a folder of Hugging Face's.
-- A change here makes no run stale.
local model = require "attnlab.model"
local opening = require "attnlab.open"
local words = require "attnlab.words"

local function export(args, usage)
  local given = words.values(args, { dtype = "text", shard = "number", tokenizer = "text", mapping = "text" }, usage)
  local load = { tokenizer = given.tokenizer, mapping = given.mapping }
  local m = words.blame(usage, function(o) return model.load(opening.model_path(args.words[1]), o) end, load, {})
  m:export(args.words[2], { dtype = given.dtype, shard = given.shard, overwrite = args.flags.overwrite })
  print(args.words[2])
  return 0
end

return {
  { name = "export", args = "MODEL FOLDER [key=value ..]", least = 2, most = 2, sets = true, run = export,
    doc = "writes a model as a folder that transformers loads, or FOLDER.bin as llama2.c does",
    options = { { name = "overwrite", doc = "over a model that lies there" } },
    more = "Keys: dtype=f32|bf16|f64, shard=BYTES of a file of weights, tokenizer=FILE, mapping=FILE.lua that reads a layout of its own." },
}
