-- Options of the attention layer: those of the layer itself as rows, a spec taken apart, and the family
-- that a spec names. Part of attention.lua, which has all of it under its own name.
local core = require "attnlab.core"
local Heads = require "attnlab.nn.heads"
local names = require "attnlab.names"
local rows = require "attnlab.rows"

local M = {}

M.rows = {
  { name = "rope", type = "word", default = "half", choices = { "half", "interleaved", "none" },
    doc = "rotary positions of q and k before the feature map: pairs (i, i+dims/2) or (2i, 2i+1)" },
  { name = "rope_dims", type = "integer", default = "-1", min = -1,
    doc = "how many channels of a head turn; -1 = all" },
  { name = "rope_base", type = "number", default = "10000", min = 1, max = 1e300,
    doc = "base of the frequencies" },
  { name = "rope_scaling", type = "word", default = "none", choices = { "none", "linear", "yarn", "llama3" },
    doc = "how slow pairs turn for positions beyond those of training" },
  { name = "rope_factor", type = "number", default = "1", min = 1, max = 1e9,
    doc = "of rope_scaling: how many times slower" },
  { name = "rope_original", type = "number", default = "8192", min = 1, max = 1e12,
    doc = "of yarn and llama3: positions of training" },
  { name = "rope_low", type = "number", default = "1", min = 1e-6, max = 1e9,
    doc = "of yarn (beta_slow) and llama3: pairs of fewer turns over rope_original are slowed down" },
  { name = "rope_high", type = "number", default = "32", min = 1e-6, max = 1e9,
    doc = "of yarn (beta_fast) and llama3: pairs of more turns over rope_original are kept" },
  { name = "rope_size", type = "number", default = "0", min = 0, max = 1e6,
    doc = "of yarn: multiplies turned queries and keys; 0 = 0.1 ln(rope_factor) + 1" },
  { name = "rope_truncate", type = "bool", default = "true",
    doc = "of yarn: its ramp begins and ends at whole pairs" },
  { name = "qk_norm", type = "bool", default = "false",
    doc = "RMS norm with gain over each head of q and k, before the rotation" },
  { name = "qk_norm_eps", type = "number", default = "1e-5", min = 0, max = 1, doc = "eps of qk_norm" },
  { name = "conv", type = "integer", default = "0", min = 0, max = 64,
    doc = "width of a causal depthwise convolution with bias on q, k and v; 0 = none" },
  { name = "conv_activation", type = "word", default = "none", choices = { "none", "silu", "relu" },
    doc = "what follows the convolution on q and k" },
  { name = "value_residual", type = "bool", default = "false",
    doc = "adds D * v to the output of the heads, D learned per channel, 1 at first" },
  { name = "bias", type = "bool|word", default = "false", choices = { "qkv", "out" },
    doc = "biases in the q, k, v and o projections, or in some of them" },
  { name = "calibrated", type = "bool", default = "false",
    doc = "a constant factor a head on its output, 1 at first: what calibrating a fork sets" },
}

-- What forward of a layer takes beside x.
M.forward_rows = {
  { name = "causal", type = "bool", default = "true", doc = "a token sees no later one" },
  { name = "lengths", type = "table|tensor", default = "",
    doc = "(B) i32: tokens at and after it are absent" },
  { name = "documents", type = "table|tensor", default = "",
    doc = "(B,T) i32: packed rows, of each token the place, from 0, at which its document begins in its row" },
  { name = "offset", type = "integer", default = "0",
    doc = "row i stands at key position i + offset" },
  { name = "state", type = "state", default = "",
    doc = "x follows what it has seen; the next state is the second result" },
  { name = "detach", type = "bool", default = "false", doc = "no gradient flows into the state" },
  { name = "taps", type = "table", default = "",
    doc = "functions by tap, of a model by layer, that see an activation and may return another for it" },
  { name = "raw", type = "bool", default = "false", doc = "leaves the calibration out" },
}

-- Refuses options of a layer's or a model's forward that are none.
function M.check_forward(opts)
  if opts ~= nil then names.options("forward", opts, rows.names(M.forward_rows)) end
end

-- Splits a spec into preset name, options of the family, options of the layer (checked), and those
-- of single heads by number or nil.
function M.split(spec)
  if type(spec) == "string" then spec = { preset = spec } end
  if type(spec) ~= "table" then
    error("attention: name of a preset or table of options expected, got " .. type(spec), 0)
  end
  local family, layer = {}, {}
  for k, v in pairs(spec) do
    local row = rows.find(M.rows, k)
    if row then
      layer[k] = rows.check(row, v, "attention." .. k)
    elseif k ~= "preset" and k ~= "heads" then
      family[k] = v
    end
  end
  return spec.preset or "", family, layer, spec.heads
end

-- The family that a spec names, over all heads or in groups of them. sizes: of core.attn.new.
function M.family_of(spec, sizes)
  local preset, options, _, heads = M.split(spec)
  if heads == nil or (type(heads) == "table" and next(heads) == nil) then
    return core.attn.new(preset, options, sizes)
  end
  for h, own in pairs(type(heads) == "table" and heads or {}) do
    local _, _, of_layer = M.split(own)
    local name = names.keys(of_layer)[1]
    if name then error(("head %s: option '%s' is the layer's"):format(h, name), 0) end
  end
  return Heads.new(preset, options, heads, sizes)
end

-- The layer's family in f64, with `more` options over its own and its parameters as far as they stay the same. Where
-- heads have options of their own: that of a group of them, over all heads.
function M:twin(more, group)
  local preset, given = M.split(self.spec)
  local options = {}
  for k, v in pairs(group and group.options or given) do options[k] = v end
  for k, v in pairs(more) do options[k] = v end
  local t = core.attn.new(group and group.preset or preset, options, {
    heads = self.heads, kv_heads = self.kv_heads, head_dim = self.head_dim, value_dim = self.head_dim,
    width = self.width, dtype = "f64", seed = 0 })
  local learned = self.family:parameters()
  for name, p in pairs(t:parameters()) do
    local own = learned[name]
    if own and table.concat(own:shape(), ",") == table.concat(p:shape(), ",") then t:set_parameter(name, own:to "f64") end
  end
  return t
end

-- The group of heads that head h is of; nil: all heads have the same options.
function M:group_of(h)
  for _, g in ipairs(type(self.family) == "table" and self.family.groups or {}) do
    if names.find(g.list, h) then return g end
  end
end

-- Names of the families of what family_of gave.
function M.families_of(a)
  return type(a) == "table" and a:families() or { a:family() } -- groups of heads are a table, an instance is not
end

-- The instances in what family_of gave: one, or one a group of heads.
function M.parts_of(a)
  if type(a) ~= "table" then return { a } end
  local out = {}
  for i, g in ipairs(a.groups) do out[i] = g.part end
  return out
end

-- Defaults, under them the preset's words ("rope=none conv=2"), under them what was given.
function M.layer_options(text, given)
  local out = {}
  for _, row in ipairs(M.rows) do out[row.name] = rows.default(row) end
  for key, value in (text or ""):gmatch("([%w_%.]+)=(%S+)") do
    local row = rows.find(M.rows, key)
    if not row then
      error("layer options of the preset: "
        .. names.unknown("option", key, rows.names(M.rows)), 0)
    end
    out[key] = rows.parse(row, value, key)
  end
  for k, v in pairs(given) do out[k] = v end
  return out
end

-- How heads of `dim` channels turn by their position, of resolved layer options; nil: they do not.
function M.rotation_of(layer, dim)
  if layer.rope == "none" then return nil end
  local dims = layer.rope_dims < 0 and dim or layer.rope_dims
  if dims % 2 ~= 0 or dims > dim then
    error(("attention: option 'rope_dims': even number up to head_dim (%d) expected, got %d"):format(dim, dims), 0)
  end
  local turn = { base = layer.rope_base, dims = dims, interleaved = layer.rope == "interleaved" }
  if layer.rope_scaling ~= "none" then
    if layer.rope_low >= layer.rope_high then
      error(("attention: option 'rope_low': a number below rope_high (%g) expected, got %g"):format(layer.rope_high,
        layer.rope_low), 0)
    end
    for _, key in ipairs { "scaling", "factor", "original", "low", "high", "truncate" } do turn[key] = layer["rope_" .. key] end
    if layer.rope_scaling == "yarn" then turn.size = layer.rope_size end
  end
  return turn
end

return M
