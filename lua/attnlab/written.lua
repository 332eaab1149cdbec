-- A resolved configuration with all that its presets mean written out, for people: what --print-config shows.
-- A change here makes no run stale.
local core = require "attnlab.core"
local config = require "attnlab.config"

local M = {}

-- Values by name of the rows of an instance.
local function values(rows, out)
  for _, row in ipairs(rows) do out[row.name] = row.fields and values(row.fields, {}) or row.value end
  return out
end

local function of_layer(cfg, i)
  local a, out = config.instance_of(cfg, i)
  local preset = config.attention_of(cfg.attention, i).preset
  if type(a) ~= "table" then
    out.preset = preset or a:family()
    return values(a:options(), out)
  end
  out.heads = {} -- some have options of their own
  for _, group in ipairs(a.groups) do
    local own = values(group.part:options(), { preset = group.preset ~= "" and group.preset or group.part:family() })
    for _, h in ipairs(group.list) do out.heads[tostring(h)] = own end
  end
  return out
end

-- Every option of the family and of the layer around it; by layer where the layers differ.
function M.attention(cfg)
  local list, same = {}, true
  for i = 1, cfg.model.layers do
    list[tostring(i)] = of_layer(cfg, i)
    same = same and core.json.encode(list[tostring(i)]) == core.json.encode(list["1"])
  end
  return same and list["1"] or list
end

function M.config(cfg)
  return { model = cfg.model, attention = M.attention(cfg), train = cfg.train }
end

return M
