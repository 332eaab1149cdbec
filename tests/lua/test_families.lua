-- The families beyond the formula as plug-ins: the same source, compiled apart under another name, gives the
-- same numbers; and what they print of themselves.
local T = ...
local lab = require "attnlab"
local plugins = require "attnlab.plugins"
local sys = require("attnlab.core").sys

local SOURCES = { sliding_window = "window=3 sink=learned", delta_rule = "decay=gated chunk=4",
                  channel_softmax = "decay=learned bonus=learned chunk=4" }

-- The family under the name `copy`, built as a plug-in: options that differ from its name's are gone.
local function as_plugin(family)
  local text = sys.read(T.root .. "attention/variants/" .. family .. ".c")
  text = text:gsub("ATTN_FAMILY%(" .. family, "ATTN_FAMILY(copy_of_" .. family)
  text = text:gsub('{"(%l+)/', '{"copy_%1/')
  local path = T.folder() .. "/copy_of_" .. family .. ".c"
  sys.write(path, text)
  return lab.attention.load(plugins.build(path))
end

for family, options in pairs(SOURCES) do
  T.test(family .. " compiled as a plug-in is the same function", function()
    as_plugin(family)
    local out = {}
    for i, name in ipairs { family, "copy_of_" .. family } do
      lab.manual_seed(5)
      local spec = { heads = 2, kv_heads = 1, head_dim = 3, width = 4, dtype = "f64", seed = 2 }
      for key, value in options:gmatch "(%S+)=(%S+)" do spec[key] = tonumber(value) or value end
      local a = lab.attention.new(name, spec)
      local function random(...) return lab.randn { shape = { 2, 9, ... }, dtype = "f64" } end
      out[i] = a:forward { q = random(2, 3), k = random(1, 3), v = random(1, 3), x = random(4), causal = true }:totable()
    end
    T.eq(out[1], out[2])
  end)
end

T.test("notes say what a preset does otherwise than its source", function()
  local note, last = {}, { "rows? past the length", "past the length it ends with the last key" }
  for _, p in ipairs(lab.attention.list()) do note[p.name] = p.note end
  for name, words in pairs {
    ["p1/gated_softmax_decay"] = { "x W %+ b", "r = j%.%.i%-1", "r = j%+1%.%.i" },
    ["p1/cumulative_gated_softmax"] = { "n_i exp%(p_i%)", "at least 1", last[2] },
    ["p1/gated_softmax_cumgate"] = { last[1] }, ["p2/cottention"] = { last[1] }, ["p2/cottention_row"] = { last[1] },
    ["p1/softmax_divS_norm"] = { "1e%-6", "machine epsilon" },
    ["p1/gated_softmax_no_gate_rmsnorm"] = { "1e%-6", "machine epsilon" },
    ["p1/gated_softmax_no_gate_rmsnorm_nodivS"] = { "1e%-6", "machine epsilon" },
    ["delta/deltanet"] = { "silu on v", "bias" }, ["delta/gated_deltanet"] = { "halves", "as in deltanet" },
    ["delta/negative"] = { "as in deltanet" },
    ["window/gemma2"] = { "rope_base", "biases" }, ["window/gpt_oss"] = { "rope_base=150000", "bias=true" },
  } do
    for _, word in ipairs(words) do T.ok(note[name]:find(word), name .. ": " .. word .. " in: " .. note[name]) end
  end
end)
