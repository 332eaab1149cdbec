-- GPTNeoXForCausalLM. q, k and v of a head follow one another in one matrix.
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
  local m = { arch = "neox", layers = c:integer "num_hidden_layers", width = c:integer "hidden_size", heads = c:integer "num_attention_heads",
              mlp = c:integer "intermediate_size", vocab = c:integer "vocab_size", context = c:integer("max_position_embeddings", 2048),
              norm_eps = c:number("layer_norm_eps", 1e-5, 0), activation = c:word("hidden_act", plain.ACTIVATIONS, "gelu"),
              tied = c:bool("tie_word_embeddings", false), residual = c:bool("use_parallel_residual", true) and "parallel" or "sequential" }
  if m.width % m.heads ~= 0 then c:fail("num_attention_heads", "a divisor of hidden_size (%d) expected, got %d", m.width, m.heads) end
  m.kv_heads, m.head_dim = m.heads, m.width // m.heads
  local attention = rope.read(c, m.head_dim, ROPE)
  attention.preset, attention.bias = "softmax", c:bool("attention_bias", true)
  c:get "rope_theta" -- beside rotary_emb_base
  c:get "partial_rotary_factor"
  return { model = m, attention = attention }
end

function M.write(m)
  local o = m.config
  local any = { rope_dims = "any", rope_base = "any", rope_scaling = "any", rope_factor = "any", rope_original = "any", rope_low = "any",
                rope_high = "any", rope_size = "any", rope_truncate = "any", kinds = { softmax = true }, bias = { false, true } }
  local list, why = layers.expect(m, any)
  if not list then return nil, why end
  if o.kv_heads ~= o.heads then return nil, "kv_heads=" .. o.kv_heads end
  if o.head_dim * o.heads ~= o.width then return nil, "head_dim=" .. o.head_dim end
  local c = rope.write(list[1].layer, o.head_dim, ROPE)
  for key, v in pairs { num_hidden_layers = o.layers, hidden_size = o.width, num_attention_heads = o.heads, intermediate_size = o.mlp,
                        vocab_size = o.vocab, max_position_embeddings = o.context, layer_norm_eps = o.norm_eps, attention_bias = list[1].layer.bias,
                        hidden_act = plain.activation(o, "gelu"), tie_word_embeddings = o.tied, use_parallel_residual = o.residual ~= "sequential" } do
    c[key] = v
  end
  return c
end

return M
