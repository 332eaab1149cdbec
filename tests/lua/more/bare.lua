-- Attention alone, without an MLP: x += attention(norm x).
local nn = require "attnlab.nn"
local LanguageModel = require "attnlab.model.language"
local Module = nn.Module

local Block = Module.class "BareBlock"

function Block.new(m, spec, opts)
  local self = Module.create(Block, opts)
  self.norm = self:child("norm", nn.LayerNorm(m.width, self:part("norm", { eps = m.norm_eps })))
  self.attention = self:child("attention", nn.Attention(m.width, spec, self:part("attention", {
    heads = m.heads, kv_heads = m.kv_heads, head_dim = m.head_dim, init = m.init, deviation = m.init_deviation })))
  return self
end

function Block:forward(x, a, opts)
  local sum, n <close> = self.norm:add(x, a)
  local added, after = self.attention(n, opts)
  return sum, added, after
end

local Bare = LanguageModel.class "Bare"

function Bare.new(m, attention, opts)
  local self = LanguageModel.create(Bare, m, attention, opts)
  self.embedding = self:child("words", nn.Embedding(m.vocab, m.width, self:part("words")))
  self:add_layers("layers.", Block)
  self.norm = self:child("norm", nn.LayerNorm(m.width, self:part("norm", { eps = m.norm_eps })))
  if not m.tied then self.head = self:child("head", nn.Linear(m.width, m.vocab, self:part "head")) end
  return self
end

return Bare
