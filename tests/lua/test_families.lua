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
