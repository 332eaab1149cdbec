-- GPT-J (Wang & Komatsuzaki 2021): x += attention(norm x) + mlp(norm x), of one norm; pairs of neighbouring channels turn
-- (attention.rope_dims of them: 64 in its 6B). Tensors carry the names of Hugging Face's GPTJForCausalLM, but for attn.o_proj,
-- there attn.out_proj.
local nn = require "attnlab.nn"
local LanguageModel = require "attnlab.model.language"

local Block = require "attnlab.model.block" {
  norm = "ln_1", attention = "attn", up = "mlp.fc_in", down = "mlp.fc_out", activation = "gelu_new", parallel = true }

local GPTJ = LanguageModel.class "GPTJ"
GPTJ.defaults = { model = { head_bias = true }, attention = { rope = "interleaved" } }
GPTJ.takes = { activation = { "gelu", "gelu_new", "relu", "silu" }, head_bias = true, residual = { "parallel" } }

-- Internal: as language.lua calls it.
function GPTJ.new(m, attention, opts)
  local self = LanguageModel.create(GPTJ, m, attention, opts)
  if m.tied and m.head_bias then error("GPTJ: option 'tied': its head has a bias; head_bias=false goes with it", 0) end
  self.embedding = self:child("transformer.wte",
    nn.Embedding(m.vocab, m.width, self:part("transformer.wte", { deviation = m.init_deviation })))
  self:add_layers("transformer.h.", Block)
  self.norm = self:child("transformer.ln_f", nn.LayerNorm(m.width, self:part("transformer.ln_f", { eps = m.norm_eps })))
  if not m.tied then
    self.head = self:child("lm_head", nn.Linear(m.width, m.vocab,
      self:part("lm_head", { init = "normal", deviation = m.init_deviation, bias = m.head_bias })))
  end
  return self
end

return GPTJ
