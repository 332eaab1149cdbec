-- GPT2LMHeadModel. The hub's first files lack the prefix "transformer." and have buffers of masks; matrices are stored
-- [in, out], q, k and v in one.
local activation = require "attnlab.model.hub.activation"
local layers = require "attnlab.model.hub.layers"
local plain = require "attnlab.model.hub.plain"

local H = "transformer.h.#."

local M = {
  harmless = { "is_decoder" },
  arch = "gpt2",
  architectures = { "GPT2LMHeadModel" },
  tied = { head = "lm_head.weight", embedding = "transformer.wte.weight" },
  rules = {
    plain.columns(H .. "attn.c_attn.weight", H .. "attn.", "weight"),
    plain.columns(H .. "attn.c_attn.bias", H .. "attn.", "bias"),
    plain.turned(H .. "attn.c_proj.weight", H .. "attn.o_proj.weight"),
    { H .. "attn.c_proj.bias", ours = H .. "attn.o_proj.bias" },
    plain.turned(H .. "mlp.c_fc.weight"), plain.turned(H .. "mlp.c_proj.weight"),
    { H .. "attn.bias", skip = true }, { H .. "attn.masked_bias", skip = true },
  },
}

function M.rename(name)
  if name:find "^h%.%d" or name:find "^w[tp]e%." or name:find "^ln_f%." then return "transformer." .. name end
  return name
end

function M.read(c)
  local m = { arch = "gpt2", layers = c:integer "n_layer", width = c:integer "n_embd", heads = c:integer "n_head",
              vocab = c:integer "vocab_size", context = c:integer("n_positions", 1024),
              norm_eps = c:number("layer_norm_epsilon", 1e-5, 0), tied = c:bool("tie_word_embeddings", true),
              activation = c:word("activation_function", activation.WORDS, "gelu_new") }
  c:must("n_ctx", m.context)
  m.mlp = c:integer("n_inner", 4 * m.width)
  plain.heads(c, m, "n_head", "n_embd")
  local dim = m.head_dim
  local scale = c:bool("scale_attn_weights", true) and 1 / math.sqrt(dim) or 1
  local by_layer, attention = c:bool("scale_attn_by_inverse_layer_idx", false), {}
  local function spec(i)
    local by = scale / i
    return { preset = "softmax", rope = "none", bias = true, logit_scale = by ~= 1 / math.sqrt(dim) and by or nil }
  end
  for i = 1, by_layer and m.layers or 0 do attention[tostring(i)] = spec(i) end
  return { model = m, attention = by_layer and attention or spec(1) }
end

-- Which of the two keys of the scale make this list of them; nil: none.
local function scales(list, dim)
  for _, scaled in ipairs { true, false } do
    for _, by_layer in ipairs { false, true } do
      local fits = true
      for i, l in ipairs(list) do
        local want = (scaled and 1 / math.sqrt(dim) or 1) / (by_layer and i or 1)
        fits = fits and math.abs((l.scale or 1 / math.sqrt(dim)) / want - 1) < 1e-12
      end
      if fits then return scaled, by_layer end
    end
  end
end

function M.write(m)
  local o = m.config
  local list, why = layers.expect(m, { kinds = { softmax = true }, scale = true, rope = "none", bias = true })
  if not list then return nil, why end
  if plain.other_heads(o) then return nil, plain.other_heads(o) end
  if o.head_bias then return nil, "head_bias=true" end
  local scaled, by_layer = scales(list, o.head_dim)
  if scaled == nil then return nil, "logit_scale" end
  return { n_layer = o.layers, n_embd = o.width, n_head = o.heads, n_inner = o.mlp, vocab_size = o.vocab,
           n_positions = o.context, n_ctx = o.context, layer_norm_epsilon = o.norm_eps,
           activation_function = activation.of(o, "gelu_new"),
           tie_word_embeddings = o.tied, scale_attn_weights = scaled, scale_attn_by_inverse_layer_idx = by_layer }
end

return M
