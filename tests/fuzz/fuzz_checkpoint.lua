-- Damaged checkpoints (libFuzzer): the trainer refuses to go on, with the file's name and what is wrong, or goes on.
local tools = dofile(... .. "tools.lua")
local core = require "attnlab.core"
local store = require "attnlab.store"
local train = require "attnlab.train"

local folder = select(2, ...)
local path = folder .. "/checkpoint.safetensors"
local trainer = train.trainer(nil, { model = tools.model, train = { data = tools.text(folder), steps = 1000, batch_size = 2 } }, 1)
trainer:step()
local metadata = trainer:metadata()
metadata["run.metrics_bytes"], metadata["run.step"] = "11", "1"
core.safetensors.save(path, trainer:state(), metadata)
local good = tools.get(path)
local M = { words = tools.json_words, seeds = tools.edit_seeds() }

function M.run(bytes)
  if #bytes < 2 then return end
  tools.put(path, tools.damaged(good, bytes))
  tools.put(folder .. "/metrics.jsonl", '{"step":0}\n{"step":1}\n')
  local ok, writer = tools.reads(path, store.writer, folder, trainer)
  if not ok then return end
  writer:close()
  tools.tries(trainer.step, trainer)
  trainer:metadata()
end

return M
