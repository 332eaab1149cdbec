-- What the Llama-like types of model/hf/ share: keys of config.json <-> options of our llama. decoder { architectures =,
-- bias = true (attention_bias is a key) or "qkv" (always these), mlp_bias = true (a key), qk_norm = true (always),
-- window = true (sliding_window is a key for all layers) or "layers" (use_sliding_window, for those of layer_types) }
-- gives such a type.
local activation = require "attnlab.model.hub.activation"
local core = require "attnlab.core"
local layers = require "attnlab.model.hub.layers"
local rope = require "attnlab.model.hub.rope"

local MISSING_WINDOW = 4096 -- what transformers takes where the key is missing; null is none
local FULL, SLIDING = "full_attention", "sliding_attention"

-- The window of each layer, 0 where there is none; nil: no layer has one.
local function windows(kind, c, n)
  if kind == true then
    local window = c:integer("sliding_window", c.values.sliding_window == nil and MISSING_WINDOW)
    if c:get "layer_types" then c:must("layer_types", nil) end
    local out = {}
    for i = 1, n do out[i] = window or 0 end
    return window and out
  end
  local used, window = c:bool("use_sliding_window", false), c:integer("sliding_window", false)
  local first, types, out = c:integer("max_window_layers", n, 0), c:get "layer_types", {}
  if types ~= nil and (type(types) ~= "table" or #types ~= n) then
    local got = type(types) == "table" and "one of " .. #types or type(types)
    c:fail("layer_types", "a list of %d words expected, got %s", n, got)
  end
  if used and not window then c:fail("sliding_window", "a window expected, for use_sliding_window is true") end
  for i = 1, n do
    local word = types and types[i] or used and i > first and SLIDING or FULL
    if word ~= FULL and word ~= SLIDING then
      c:fail("layer_types", "%s or %s expected, got %s", FULL, SLIDING, tostring(word))
    end
    if word == SLIDING and not used then c:fail("layer_types", "layer %d is %s, but use_sliding_window is false", i, word) end
    out[i] = word == SLIDING and window or 0
  end
  return used and out
end

local function attention_of(list, common)
  local out, same = {}, true
  for i = 2, #list or 0 do same = same and list[i] == list[1] end
  local function spec(window)
    local s = window > 0 and { preset = "sliding_window", window = window } or { preset = "softmax" }
    for k, v in pairs(common) do s[k] = v end
    return s
  end
  if same then return spec(list[1]) end
  for i, window in ipairs(list) do out[tostring(i)] = spec(window) end
  return out
end

return function(kind)
  local type_of = { arch = "llama", architectures = kind.architectures, harmless = { "is_decoder", "is_llama_config" },
                    rules = { { "model.layers.#.self_attn.rotary_emb.inv_freq", skip = true } }, -- of older files
                    tied = { head = "lm_head.weight", embedding = "model.embed_tokens.weight" } }

  function type_of.read(c)
    local m = { arch = "llama", layers = c:integer "num_hidden_layers", width = c:integer "hidden_size",
                heads = c:integer "num_attention_heads", mlp = c:integer "intermediate_size", vocab = c:integer "vocab_size",
                context = c:integer("max_position_embeddings", 2048), norm_eps = c:number("rms_norm_eps", 1e-6, 0),
                tied = c:bool("tie_word_embeddings", false), activation = c:word("hidden_act", activation.WORDS, "silu") }
    m.kv_heads = c:integer("num_key_value_heads", m.heads)
    m.head_dim = c:integer("head_dim", false)
    if not m.head_dim and m.width % m.heads ~= 0 then
      c:fail("num_attention_heads", "a divisor of hidden_size (%d) expected where head_dim is missing, got %d", m.width, m.heads)
    end
    m.head_dim = m.head_dim or m.width // m.heads
    if m.heads % m.kv_heads ~= 0 then
      c:fail("num_key_value_heads", "a divisor of num_attention_heads (%d) expected, got %d", m.heads, m.kv_heads)
    end
    c:must("rope_interleaved", false)
    c:must("use_mrope", false)
    local common = rope.read(c, m.head_dim)
    if common.rope_dims then
      c:fail("partial_rotary_factor", "1 expected, got another: transformers turns all channels of such a model, whatever it says")
    end
    common.bias = kind.bias
    if kind.bias == true then common.bias = c:bool("attention_bias", false) end
    if kind.mlp_bias then m.mlp_bias = c:bool("mlp_bias", false) end
    if kind.qk_norm then common.qk_norm, common.qk_norm_eps = true, m.norm_eps end
    local list = kind.window and windows(kind.window, c, m.layers) or { 0 }
    return { model = m, attention = attention_of(list, common) }
  end

  -- The keys of config.json for a model of ours, or nil and why it is none of this type.
  function type_of.write(m)
    local o = m.config
    local wanted = rope.wanted {
      kinds = { softmax = true, window = kind.window ~= nil }, rope = { "half", "interleaved" }, rope_dims = { -1, o.head_dim },
      bias = kind.bias == true and { false, true } or kind.bias, qk_norm = kind.qk_norm,
      qk_norm_eps = kind.qk_norm and o.norm_eps or "any" }
    local list, why = layers.expect(m, wanted)
    if not list then return nil, why end
    if o.mlp_bias and not kind.mlp_bias then return nil, "mlp_bias=true" end
    local c = rope.write(list[1].layer, o.head_dim)
    for key, v in pairs {
      num_hidden_layers = o.layers, hidden_size = o.width, num_attention_heads = o.heads, num_key_value_heads = o.kv_heads,
      head_dim = o.head_dim, intermediate_size = o.mlp, vocab_size = o.vocab, max_position_embeddings = o.context,
      rms_norm_eps = o.norm_eps, tie_word_embeddings = o.tied, hidden_act = activation.of(o, "silu") } do c[key] = v end
    if kind.bias == true then c.attention_bias = list[1].layer.bias end
    if kind.mlp_bias then c.mlp_bias = o.mlp_bias end
    local window, types, full = nil, core.json.array {}, 0
    for i, l in ipairs(list) do
      if window and l.window and l.window ~= window then
        return nil, ("layer %d: another window than layers before"):format(i)
      end
      window, types[i] = l.window or window, l.window and SLIDING or FULL
      if not window then full = i end
      if kind.window == true and (l.window == nil) ~= (list[1].window == nil) then
        return nil, ("layer %d: a window in some layers"):format(i)
      end
    end
    if kind.window then c.sliding_window = window or core.json.null end
    if kind.window == "layers" then
      c.use_sliding_window, c.layer_types, c.max_window_layers = window ~= nil, types, full
    end
    return c
  end

  -- Pairs of channels lie in halves there.
  function type_of.tensors(own, m)
    local out = {}
    for name, t in pairs(own) do
      local i, which, part = name:match "^model%.layers%.(%d+)%.self_attn%.([qk])_(%a+)%."
      local a = i and m.layers[i + 1].attention
      if a and a.layer.rope == "interleaved" then
        t = layers.halves(t, part == "norm" and 1 or which == "q" and a.heads or a.kv_heads, a.head_dim, a.rotation.dims)
      end
      out[name] = t
    end
    return out
  end

  return type_of
end
