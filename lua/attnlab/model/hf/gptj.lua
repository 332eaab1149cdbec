-- GPTJForCausalLM.
local json = require("attnlab.core").json
local activation = require "attnlab.model.hub.activation"
local layers = require "attnlab.model.hub.layers"
local plain = require "attnlab.model.hub.plain"

local A = "transformer.h.#.attn."

local M = {
  harmless = { "is_decoder" },
  arch = "gptj",
  architectures = { "GPTJForCausalLM" },
  rules = { { A .. "out_proj.weight", ours = A .. "o_proj.weight" }, { A .. "bias", skip = true },
            { A .. "masked_bias", skip = true } },
}

function M.read(c)
  local m = { arch = "gptj", layers = c:integer "n_layer", width = c:integer "n_embd", heads = c:integer "n_head",
              vocab = c:integer "vocab_size", context = c:integer("n_positions", 2048),
              norm_eps = c:number("layer_norm_epsilon", 1e-5, 0), tied = false, head_bias = true,
              activation = c:word("activation_function", activation.WORDS, "gelu_new") }
  c:must("tie_word_embeddings", false)
  c:must("n_ctx", m.context)
  c:must("rotary", true)
  c:must("scale_attn_weights", true)
  m.mlp = c:integer("n_inner", 4 * m.width)
  plain.heads(c, m, "n_head", "n_embd")
  if c.values.rotary_dim == json.null then c:fail("rotary_dim", "a number of channels expected, got null") end
  local turning = c:integer("rotary_dim", 64)
  if turning > m.head_dim or turning % 2 ~= 0 then
    c:fail("rotary_dim", "an even number up to %d expected, got %d", m.head_dim, turning)
  end
  return { model = m, attention = { preset = "softmax", rope = "interleaved", rope_dims = turning } }
end

function M.write(m)
  local o = m.config
  local list, why = layers.expect(m, { kinds = { softmax = true }, rope = "interleaved", rope_dims = "any" })
  if not list then return nil, why end
  if plain.other_heads(o) then return nil, plain.other_heads(o) end
  if o.tied or not o.head_bias then return nil, "its head has a bias there, and is not tied" end
  local dims = list[1].layer.rope_dims
  return { n_layer = o.layers, n_embd = o.width, n_head = o.heads, n_inner = o.mlp, vocab_size = o.vocab,
           n_positions = o.context, layer_norm_epsilon = o.norm_eps,
           activation_function = activation.of(o, "gelu_new"), tie_word_embeddings = false,
           rotary_dim = dims < 0 and o.head_dim or dims }
end

return M
