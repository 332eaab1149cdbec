-- Edits of the list of a folder of shards, and any text as what describes data (libFuzzer). Byte 1: even, the rest is
-- edits of shards.json: refused with the folder's name, or its rows are there; odd, a description: refused, or written
-- and read back the same.
local tools = dofile(... .. "tools.lua")
local core = require "attnlab.core"
local data = require "attnlab.data"
local sources = require "attnlab.sources"
local tokenize = require "attnlab.tokenize"

local root, folder = ..., select(2, ...)
local path = folder .. "/corpus"
tools.put(folder .. "/a.jsonl", ('{"text": "what is a text of few letters"}\n{"text": "another one"}\n'):rep(20))
local list = tokenize.run { inputs = { folder .. "/a.jsonl" }, tokenizer = root .. "../../experiments/models/tok512.bin", out = path,
                            val = 0.5, shard_tokens = 100, quiet = true }
local text = core.json.encode(list)

local M = { seeds = tools.edit_seeds() }
M.words = { " rows=packed", " rows=", "path=", "%20", "%", " valid=0.1", " vocab=7", "train_000000.bin", "../", " document_end=<E>" }
for i, seed in ipairs(M.seeds) do M.seeds[i] = "\0" .. seed end
M.seeds[#M.seeds + 1] = "\1a b rows=packed vocab=7"

local function describe(bytes)
  local ok, spec = tools.tries(sources.parse, bytes)
  if not ok or spec.path == "" then return end
  local again = sources.text(spec)
  if sources.text(sources.parse(again)) ~= again then error "a description is another one when it is read back" end
end

function M.run(bytes)
  if #bytes < 2 then return end
  if bytes:byte(1) % 2 == 1 then return describe(bytes:sub(2)) end
  tools.put(path .. "/shards.json", tools.edited(text, bytes:sub(2)))
  local ok, set = tools.reads(path, data.open, path)
  if not ok then return end
  for _, split in ipairs { "train", "valid" } do
    if tools.reads(path, set.need, set, split, 4) then
      set:random(split, 2, 4, 1, 1)
      for x in set:even(split, 2, 4, set:windows(split, 4, 3)) do x:free() end
    end
  end
end

return M
