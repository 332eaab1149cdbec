-- Damaged folders of models as Hugging Face has them (libFuzzer): config.json, the header of the weights, the index of
-- shards, of several types. Refused with the folder's name and the reason, or loaded: then it runs, and where it is
-- exported it is read again with the same logits.
local tools = dofile(... .. "tools.lua")
local core = require "attnlab.core"
local lab = require "attnlab"

local folder = select(2, ...)
local M = { words = tools.json_words, seeds = tools.edit_seeds() }

local SMALL = { layers = 1, width = 8, heads = 2, mlp = 8, context = 6, vocab = 5, seed = 1 }
local KINDS = { -- options; sharded
  { {} }, { { arch = "gpt2" } }, { { arch = "neox", attention = { rope_dims = 2, bias = true } } }, { { arch = "gptj" } },
  { { attention = { preset = "p2/cottention", conv = 2 } } },
  { { attention = { rope_scaling = "yarn", rope_factor = 4, bias = "qkv" }, tied = true } },
  { { attention = { preset = "sliding_window", window = 3, qk_norm = true }, kv_heads = 1 } }, { { layers = 2 }, 700 },
  { { arch = "bert", task = "pretraining" } }, { { arch = "bert", task = "classifier", classes = 3 } }, { { arch = "bert", tied = false } },
}
local CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"

local bases = {}
for i, kind in ipairs(KINDS) do
  local options, at = {}, folder .. "/base" .. i
  for k, v in pairs(SMALL) do options[k] = v end
  for k, v in pairs(kind[1]) do options[k] = v end
  lab.model.new(options):export(at, { shard = kind[2] })
  local files = {}
  for _, file in ipairs(core.sys.list(at)) do files[file] = tools.get(at .. "/" .. file) end
  bases[i] = files
end
for i = 0, 31 do
  for k = i + 1, #M.seeds, 32 do M.seeds[k] = string.char(i % #KINDS, i // #KINDS) .. M.seeds[k] end
end

function M.run(bytes)
  if #bytes < 4 then return end
  local base, what, rest = bases[bytes:byte(1) % #bases + 1], bytes:byte(2) % 4, bytes:sub(3)
  local at = folder .. "/m"
  core.sys.mkdir(at)
  for _, file in ipairs(core.sys.list(at)) do core.sys.remove(at .. "/" .. file) end
  local weights = WEIGHTS
  for file, text in pairs(base) do
    if file == CONFIG and what <= 1 then text = what == 0 and tools.edited(text, rest) or tools.spliced(text, rest) end
    if file == INDEX and what == 3 then text = tools.edited(text, rest) end
    if file:find "%.safetensors$" then
      weights = file
    else
      tools.put(at .. "/" .. file, text)
    end
  end
  for file, text in pairs(base) do
    if file:find "%.safetensors$" then
      if what >= 2 and not (what == 3 and base[INDEX]) and file == weights then text = tools.damaged(text, rest) end
      tools.put(at .. "/" .. file, text)
    end
  end
  local ok, m = tools.reads(at, lab.model.load, at)
  if not ok then return end
  local ran, logits = tools.tries(m.forward, m, tools.ids)
  if ran and bytes:byte(3) % 8 == 0 then -- it syncs: seldom
    local out = folder .. "/again"
    if tools.tries(m.export, m, out, { overwrite = true }) then
      local again = lab.model.load(out):forward(tools.ids)
      local off = (again - logits):abs():max():item()
      if off > 1e-3 then error("exported, the logits are off by " .. off) end
    end
  end
end

return M
