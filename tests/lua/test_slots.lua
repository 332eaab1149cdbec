-- A word of a slot of attention stands where its row stands, and nowhere else in the code of the libraries:
-- kernels, options, claims and texts take it from there. Presets name what they use.
local T = ...
local sys = require("attnlab.core").sys
local house = dofile(T.root .. "tests/lua/house.lua")

local files = {}
for _, folder in ipairs { "kernels", "kernels/cpu", "core", "core/ops", "attention", "attention/variants" } do
  for _, name in ipairs(sys.list(T.root .. folder)) do
    local path = folder .. "/" .. name
    if name:find "%.[ch]$" or name:find "%.def$" then files[#files + 1] = house.file(path, sys.read(T.root .. path)) end
  end
end

-- Files whose code, texts in it included, has one of the patterns as a whole word.
local function holders(patterns)
  local found = {}
  for _, f in ipairs(files) do
    for _, p in ipairs(patterns) do
      if f.bare:find("%f[%w_]" .. p .. "%f[^%w_]") then
        found[#found + 1] = f.path
        break
      end
    end
  end
  table.sort(found)
  return found
end

local PRESETS = { ["attention/variants/kernel_attention.def"] = true, ["attention/variants/delta_rule.c"] = true }
local function without_presets(list)
  local out = {}
  for _, path in ipairs(list) do
    if not PRESETS[path] then out[#out + 1] = path end
  end
  return out
end

T.test("a feature map, an activation, a statistic and a norm stand in the file of their row", function()
  T.ok(#files > 150, "the libraries were read")
  T.eq(without_presets(holders { "elu1", "ALK_MAP_elu1", "ALK_PW_elu1" }), { "kernels/pointwise.def" })
  T.eq(holders { "ALK_GATE_sigmoid", "ALK_GATE_silu", "ALK_GATE_softplus", "ALK_MAP_relu", "ALK_MAP_silu", "ALK_MAP_softplus" }, {})
  T.eq(holders { "ALK_STAT_l2", "stat=l2", "STATISTIC%(l2" }, { "kernels/statistics.def" })
  T.eq(without_presets(holders { "rms", "ALK_NORM_rms", "rms_scale", "rms_dx" }),
    { "core/ops/add_rmsnorm.c", "kernels/cpu/norm_row.h", "kernels/norms.def" }) -- the first says of its own op what it is
end)

-- delta_rule compares the words of its own options, which no table gives.
T.test("a word of an option of the formula is compared where options are parsed", function()
  local found = {}
  for _, f in ipairs(files) do
    if f.path:find "^attention/formula" or f.path:find "^attention/source" or f.path:find "kernel_attention%.c$" then
      local n = select(2, f.bare:gsub("%f[%w_]al_opt_is%f[^%w_]", "")) + select(2, f.bare:gsub("%f[%w_]default:", ""))
      if n > 0 then found[#found + 1] = f.path end
    end
  end
  T.eq(found, {})
end)
