-- GPTNeoXForCausalLM. q, k and v of a head follow one another in one matrix.
local activation = require "attnlab.model.hub.activation"
local layers = require "attnlab.model.hub.layers"
local plain = require "attnlab.model.hub.plain"
local rope = require "attnlab.model.hub.rope"

local A = "gpt_neox.layers.#.attention."
local ROPE = { theta_key = "rotary_emb_base", share_key = "rotary_pct", share = 0.25 }

local M = {
  harmless = { "is_decoder" },
  arch = "neox",
  architectures = { "GPTNeoXForCausalLM" },
  tied = { head = "embed_out.weight", embedding = "gpt_neox.embed_in.weight" },
  rules = {
    plain.by_head(A .. "query_key_value.weight", A, "weight"), plain.by_head(A .. "query_key_value.bias", A, "bias"),
    { A .. "dense.weight", ours = A .. "o_proj.weight" }, { A .. "dense.bias", ours = A .. "o_proj.bias" },
    { A .. "bias", skip = true }, { A .. "masked_bias", skip = true }, { A .. "rotary_emb.inv_freq", skip = true },
  },
}

function M.read(c)
  local m = { arch = "neox", layers = c:integer "num_hidden_layers", width = c:integer "hidden_size",
              heads = c:integer "num_attention_heads", mlp = c:integer "intermediate_size", vocab = c:integer "vocab_size",
              context = c:integer("max_position_embeddings", 2048), norm_eps = c:number("layer_norm_eps", 1e-5, 0),
              activation = c:word("hidden_act", activation.WORDS, "gelu"), tied = c:bool("tie_word_embeddings", false),
              residual = c:bool("use_parallel_residual", true) and "parallel" or "sequential" }
  plain.heads(c, m, "num_attention_heads", "hidden_size")
  local attention = rope.read(c, m.head_dim, ROPE)
  attention.preset, attention.bias = "softmax", c:bool("attention_bias", true)
  c:get "rope_theta" -- beside rotary_emb_base
  c:get "partial_rotary_factor"
  return { model = m, attention = attention }
end

function M.write(m)
  local o = m.config
  local list, why = layers.expect(m, rope.wanted { kinds = { softmax = true }, bias = { false, true } })
  if not list then return nil, why end
  if plain.other_heads(o) then return nil, plain.other_heads(o) end
  local c = rope.write(list[1].layer, o.head_dim, ROPE)
  for key, v in pairs {
    num_hidden_layers = o.layers, hidden_size = o.width, num_attention_heads = o.heads, intermediate_size = o.mlp,
    vocab_size = o.vocab, max_position_embeddings = o.context, layer_norm_eps = o.norm_eps, tie_word_embeddings = o.tied,
    attention_bias = list[1].layer.bias, hidden_act = activation.of(o, "gelu"),
    use_parallel_residual = o.residual ~= "sequential" } do c[key] = v end
  return c
end

return M
