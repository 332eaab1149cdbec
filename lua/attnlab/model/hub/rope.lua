-- Rotary positions in a config.json: rope_theta with rope_scaling as transformers 4 writes them, rope_parameters as 5 does;
-- both are read and written. read gives options of attention, write the keys for resolved options of a layer.
local core = require "attnlab.core"
local rows = require "attnlab.rows"

local M = {}

local KINDS = { default = "none", linear = "linear", yarn = "yarn", llama3 = "llama3" }

-- 0.1 m ln(factor) + 1, by which YaRN's code multiplies; m: its mscale.
local function yarn_size(factor, m)
  return factor <= 1 and 1 or 0.1 * m * math.log(factor) + 1
end

-- The options of a kind of scaling. c: reader of config.json; p: of the table that has them.
local function scaling(c, p, kind)
  local o = { rope_scaling = KINDS[kind] }
  if kind == "default" then return {} end
  o.rope_factor = p:number("factor", nil, 0)
  if kind == "linear" then return o end
  local key = "original_max_position_embeddings"
  local top, inner = c:integer(key, false), p:integer(key, false)
  if top and inner and top ~= inner then c:fail(key, "%d is said here, %d beside the factor", top, inner) end
  o.rope_original = top or inner or c:integer "max_position_embeddings"
  if kind == "llama3" then
    o.rope_low, o.rope_high = p:number("low_freq_factor", nil, 0), p:number("high_freq_factor", nil, 0)
    return o
  end
  o.rope_low, o.rope_high = p:number("beta_slow", 1, 0), p:number("beta_fast", 32, 0)
  o.rope_truncate = p:bool("truncate", true)
  o.rope_size = p:number("attention_factor", false, 0)
  local m, all = p:number("mscale", 0), p:number("mscale_all_dim", 0)
  if not o.rope_size and m ~= 0 and all ~= 0 then
    o.rope_size = yarn_size(o.rope_factor, m) / yarn_size(o.rope_factor, all)
  end
  return o
end

-- opts: theta and share = defaults of base and of the share of channels that turn; names of their keys at the top.
function M.read(c, head_dim, opts)
  opts = opts or {}
  local theta_key, share_key = opts.theta_key or "rope_theta", opts.share_key or "partial_rotary_factor"
  local theta, share = c:number(theta_key, false, 0), c:number(share_key, false, 0)
  local own, old = c:inner "rope_parameters", c:inner "rope_scaling"
  local p, at = own or old, own and "rope_parameters" or "rope_scaling"
  local out = {}
  if p then
    local word = p:get "rope_type" or p:get "type" or "default"
    p:get "type" -- the older name, beside the other
    if type(word) ~= "string" or not KINDS[word] then
      c:fail(at, "rope_type: one of default, linear, yarn, llama3 expected, got %s", rows.show(word))
    end
    out = scaling(c, p, word)
    for key, top in pairs { rope_theta = theta or false, partial_rotary_factor = share or false } do
      local inner = p:number(key, false, 0)
      if inner and top and inner ~= top then
        c:fail(at, "%s is %s here, and %s beside it", key, rows.show(inner), rows.show(top))
      end
      if key == "rope_theta" then theta = inner or theta else share = inner or share end
    end
    p:done()
    if own and old then
      local kind = old:get "rope_type" or old:get "type" or "default"
      if kind ~= word then
        c:fail("rope_scaling", "rope_type %s contradicts rope_parameters, which has %s", rows.show(kind), word)
      end
    end
  end
  out.rope_base = theta or opts.theta or 10000
  share = share or opts.share or 1
  if share > 1 then c:fail(share_key, "a share up to 1 expected, got %s", rows.show(share)) end
  if share < 1 then
    out.rope_dims = math.floor(head_dim * share)
    if out.rope_dims % 2 ~= 0 then
      c:fail(share_key, "an even number of the %d channels of a head expected, got %d", head_dim, out.rope_dims)
    end
  end
  return out
end

-- What layers.expect is asked for where the options of rotary positions are the file's to say, and what `more` says.
function M.wanted(more)
  local out = {}
  for _, key in ipairs { "dims", "base", "scaling", "factor", "original", "low", "high", "size", "truncate" } do
    out["rope_" .. key] = "any"
  end
  for k, v in pairs(more) do out[k] = v end
  return out
end

-- The keys of config.json for a layer's resolved options; share_key, theta_key as above: other names at the top.
function M.write(layer, head_dim, opts)
  opts = opts or {}
  local word = layer.rope_scaling == "none" and "default" or layer.rope_scaling
  local p = { rope_type = word, rope_theta = layer.rope_base }
  local out = { [opts.theta_key or "rope_theta"] = layer.rope_base }
  if layer.rope_scaling ~= "none" then p.factor = layer.rope_factor end
  if layer.rope_scaling == "llama3" or layer.rope_scaling == "yarn" then
    p.original_max_position_embeddings = math.tointeger(layer.rope_original) or layer.rope_original
  end
  if layer.rope_scaling == "llama3" then p.low_freq_factor, p.high_freq_factor = layer.rope_low, layer.rope_high end
  if layer.rope_scaling == "yarn" then
    if layer.rope_low ~= 1 then p.beta_slow = layer.rope_low end
    if layer.rope_high ~= 32 then p.beta_fast = layer.rope_high end
    if not layer.rope_truncate then p.truncate = false end
    if layer.rope_size > 0 then p.attention_factor = layer.rope_size end
  end
  local dims = layer.rope_dims < 0 and head_dim or layer.rope_dims
  if dims < head_dim or opts.share_key then
    local share = dims / head_dim
    if head_dim * share // 1 < dims then share = (dims + 0.5) / head_dim end -- its readers round down
    p.partial_rotary_factor, out[opts.share_key or "partial_rotary_factor"] = share, share
  end
  out.rope_parameters = p
  if layer.rope_scaling ~= "none" then
    out.rope_scaling = {}
    for k, v in pairs(p) do
      if k ~= "rope_theta" and k ~= "partial_rotary_factor" then out.rope_scaling[k] = v end
    end
  else
    out.rope_scaling = core.json.null
  end
  return out
end

return M
