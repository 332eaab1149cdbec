-- Damaged files of states (libFuzzer), of models and of an attention alone. Refused with the file's name and the
-- reason, or loaded: then the next token is taken from it.
local tools = dofile(... .. "tools.lua")
local lab = require "attnlab"
local core = require "attnlab.core"

local folder = select(2, ...)
local path = folder .. "/state"
local M = { words = tools.json_words, seeds = {} }
local owners, files, steps = {}, {}, {}

local function add(owner, step)
  local _, st = step(owner:state { batch = 1 })
  st:save(path)
  local i = #owners + 1
  owners[i], files[i], steps[i] = owner, tools.get(path), step
end
for _, spec in ipairs { "softmax", { similarity = "taylor", order = 2, conv = 3 }, { heads = { ["1"] = { denominator = "none" } } },
                        { preset = "window/mistral", window = 2 } } do
  local options = { attention = spec, seed = 1, vocab = 5 }
  for k, v in pairs(tools.model) do options[k] = v end
  local m = lab.model.new(options)
  add(m, function(st) return m:step(tools.ids, st) end)
end
local a = lab.attention.new("kernel_attention", { similarity = "linear", heads = 2, head_dim = 4 })
local q = core.randn { shape = { 1, 3, 2, 4 }, seed = 1 }
add(a, function(st) return a:step(st, { q = q, k = q, v = q }) end)
for i, seed in ipairs(tools.edit_seeds()) do M.seeds[i] = string.char(i % #owners) .. seed end

function M.run(bytes)
  if #bytes < 3 then return end
  local i = bytes:byte(1) % #owners + 1
  tools.put(path, tools.damaged(files[i], bytes:sub(2)))
  local ok, st = tools.reads(path, owners[i].load_state, owners[i], path)
  if not ok then return end
  tools.tries(function()
    core.no_grad(function()
      local _, after = steps[i](st)
      after:copy()
      if after.cache then after:cache() end
    end)
  end)
end

return M
