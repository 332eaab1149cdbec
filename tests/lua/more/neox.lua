-- GPT-NeoX (Black et al. 2022): x += attention(norm x) + mlp(norm' x), both of the same x.
local nn = require "attnlab.nn"
local LanguageModel = require "attnlab.model.language"
local Module = nn.Module

local Block = Module.class "NeoXBlock"

function Block.new(m, spec, opts)
  local self = Module.create(Block, opts)
  local function norm(key) return self:child(key, nn.LayerNorm(m.width, self:part(key, { eps = m.norm_eps }))) end
  local function linear(key, inputs, outputs)
    return self:child(key, nn.Linear(inputs, outputs, self:part(key, { bias = true, init = m.init, deviation = m.init_deviation })))
  end
  self.input_norm, self.mlp_norm = norm "input_layernorm", norm "post_attention_layernorm"
  self.attention = self:child("attention", nn.Attention(m.width, spec, self:part("attention", {
    heads = m.heads, kv_heads = m.kv_heads, head_dim = m.head_dim, init = m.init, deviation = m.init_deviation })))
  self.up, self.down = linear("mlp.dense_h_to_4h", m.width, m.mlp), linear("mlp.dense_4h_to_h", m.mlp, m.width)
  return self
end

function Block:forward(x, a, opts)
  local sum, n <close> = self.input_norm:add(x, a)
  local attended, after = self.attention(n, opts)
  local heads <close> = attended
  local n2 <close> = self.mlp_norm(sum)
  local up <close> = self.up(n2)
  local hidden <close> = up:gelu()
  local down <close> = self.down(hidden)
  return sum, heads + down, after
end

local NeoX = LanguageModel.class "NeoX"

function NeoX.new(m, attention, opts)
  local self = LanguageModel.create(NeoX, m, attention, opts)
  self.embedding = self:child("gpt_neox.embed_in", nn.Embedding(m.vocab, m.width, self:part("gpt_neox.embed_in")))
  self:add_layers("gpt_neox.layers.", Block)
  self.norm = self:child("gpt_neox.final_layer_norm", nn.LayerNorm(m.width, self:part("gpt_neox.final_layer_norm", { eps = m.norm_eps })))
  if not m.tied then self.head = self:child("embed_out", nn.Linear(m.width, m.vocab, self:part "embed_out")) end
  return self
end

return NeoX
