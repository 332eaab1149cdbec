-- Damaged model files (libFuzzer): of ours, with the configuration in its metadata, and llama2.c's. Refused with the
-- file's name and the reason, or loaded: then it runs and is saved.
local tools = dofile(... .. "tools.lua")
local lab = require "attnlab"

local folder = select(2, ...)
local path, bin = folder .. "/m.safetensors", folder .. "/m.bin"
local letters = lab.data.open(tools.text(folder)).vocabulary
local M = { words = tools.json_words, seeds = tools.edit_seeds() }
local files = {}
for i, spec in ipairs { "softmax", "p2/cottention", { default = "softmax", ["1"] = { conv = 2, qk_norm = true, similarity = "taylor" } } } do
  local options = { attention = spec, seed = 1, vocabulary = letters }
  for k, v in pairs(tools.model) do options[k] = v end
  lab.model.new(options):save(path)
  files[i] = tools.get(path)
end
files[4] = string.pack("<i4i4i4i4i4i4i4", 4, 6, 2, 2, 1, -3, 5) .. ("\0\0\0\x3d"):rep(294) -- floats by llama2.c's layout
for i = 0, 3 do
  for k = 1, #M.seeds do
    if k % 4 == i then M.seeds[k] = string.char(i) .. M.seeds[k] end
  end
end

function M.run(bytes)
  if #bytes < 3 then return end
  local which = bytes:byte(1) % 4 + 1
  local at = which == 4 and bin or path
  tools.put(at, which == 4 and tools.spliced(files[4], bytes:sub(3)) or tools.damaged(files[which], bytes:sub(2), "attnlab"))
  local ok, m = tools.reads(at, lab.model.load, at)
  if not ok then return end
  if m.config.vocab > 2 then tools.tries(m.forward, m, tools.ids) end
  if bytes:byte(2) % 8 == 0 then m:save(folder .. "/again") end -- it syncs: seldom
end

return M
