-- GPT-NeoX (Black et al. 2022), and Pythia: x += attention(norm x) + mlp(norm' x), both of the same x; residual=sequential:
-- one after the other. Tensors carry the names of Hugging Face's GPTNeoXForCausalLM, but for the projections of attention,
-- attention.q_proj for a part of attention.query_key_value. How many channels of a head turn is attention.rope_dims.
local nn = require "attnlab.nn"
local LanguageModel = require "attnlab.model.language"

local Block = require "attnlab.model.block" {
  norm = "input_layernorm", mlp_norm = "post_attention_layernorm", attention = "attention", up = "mlp.dense_h_to_4h",
  down = "mlp.dense_4h_to_h", activation = "gelu", parallel = function(m) return m.residual ~= "sequential" end }

local NeoX = LanguageModel.class "NeoX"
NeoX.defaults = { attention = { bias = true } }
NeoX.takes = { activation = { "gelu", "gelu_new", "relu", "silu" }, residual = { "sequential", "parallel" } }

-- Internal: as language.lua calls it.
function NeoX.new(m, attention, opts)
  local self = LanguageModel.create(NeoX, m, attention, opts)
  self.embedding = self:child("gpt_neox.embed_in",
    nn.Embedding(m.vocab, m.width, self:part("gpt_neox.embed_in", { deviation = m.init_deviation })))
  self:add_layers("gpt_neox.layers.", Block)
  self.norm = self:child("gpt_neox.final_layer_norm",
    nn.LayerNorm(m.width, self:part("gpt_neox.final_layer_norm", { eps = m.norm_eps })))
  if not m.tied then
    self.head = self:child("embed_out", nn.Linear(m.width, m.vocab,
      self:part("embed_out", { init = "normal", deviation = m.init_deviation })))
  end
  return self
end

return NeoX
