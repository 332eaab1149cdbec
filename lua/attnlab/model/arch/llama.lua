-- Llama (Touvron et al. 2023): x += attention(rmsnorm x); x += swiglu(rmsnorm x); logits =
-- head(rmsnorm x). Tensors carry the names of Hugging Face's LlamaForCausalLM; what an attention
-- variant adds lies under model.layers.N.self_attn.attnlab.
local nn = require "attnlab.nn"
local LanguageModel = require "attnlab.model.language"
local Module = nn.Module

local Block = Module.class "Block"

function Block.new(m, spec, opts)
  local self = Module.create(Block, opts)
  local init = { init = m.init, deviation = m.init_deviation, bias = m.mlp_bias,
                 activation = m.activation ~= "auto" and m.activation or nil }
  self.input_norm = self:child("input_layernorm",
    nn.RMSNorm(m.width, self:part("input_layernorm", { eps = m.norm_eps })))
  self.attention = self:child("self_attn", nn.Attention(m.width, spec, self:part("self_attn", {
    heads = m.heads, kv_heads = m.kv_heads, head_dim = m.head_dim, init = m.init,
    deviation = m.init_deviation })))
  self.mlp_norm = self:child("post_attention_layernorm",
    nn.RMSNorm(m.width, self:part("post_attention_layernorm", { eps = m.norm_eps })))
  self.mlp = self:child("mlp", nn.SwiGLU(m.width, m.mlp, self:part("mlp", init)))
  return self
end

-- As language.lua calls it. Intermediate tensors are dropped as soon as the graph alone needs them: waiting for the
-- collector would hold every activation of a step twice.
function Block:forward(x, a, opts)
  local sum, n1 <close> = self.input_norm:add(x, a)
  local attended, next_state = self.attention(n1, opts)
  local heads <close> = attended
  local y, n2 <close> = self.mlp_norm:add(sum, heads, opts and opts.taps and opts.taps["residual.mid"])
  if a then sum:free() end
  return y, self.mlp(n2), next_state
end

local Llama = LanguageModel.class "Llama"
Llama.takes = { activation = { "silu", "gelu", "gelu_new", "relu" }, mlp_bias = true }

function Llama.new(m, attention, opts)
  local self = LanguageModel.create(Llama, m, attention, opts)
  self.embedding = self:child("model.embed_tokens",
    nn.Embedding(m.vocab, m.width,
      self:part("model.embed_tokens", { deviation = m.init_deviation })))
  self:add_layers("model.layers.", Block)
  self.norm = self:child("model.norm",
    nn.RMSNorm(m.width, self:part("model.norm", { eps = m.norm_eps })))
  if not m.tied then
    self.head = self:child("lm_head", nn.Linear(m.width, m.vocab,
      self:part("lm_head", { init = "normal", deviation = m.init_deviation })))
  end
  return self
end

return Llama
