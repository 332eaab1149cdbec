-- GPT-2 (Radford et al. 2019) with learned positions: x += attention(norm x); x += mlp(norm x).
local core = require "attnlab.core"
local nn = require "attnlab.nn"
local LanguageModel = require "attnlab.model.language"
local Module = nn.Module

local Block = Module.class "GPT2Block"

function Block.new(m, spec, opts)
  local self = Module.create(Block, opts)
  local function norm(key) return self:child(key, nn.LayerNorm(m.width, self:part(key, { eps = m.norm_eps }))) end
  local function linear(key, inputs, outputs)
    return self:child(key, nn.Linear(inputs, outputs, self:part(key, { bias = true, init = m.init, deviation = m.init_deviation })))
  end
  self.input_norm, self.mlp_norm = norm "ln_1", norm "ln_2"
  self.attention = self:child("attn", nn.Attention(m.width, spec, self:part("attn", {
    heads = m.heads, kv_heads = m.kv_heads, head_dim = m.head_dim, init = m.init, deviation = m.init_deviation })))
  self.up, self.down = linear("mlp.c_fc", m.width, m.mlp), linear("mlp.c_proj", m.mlp, m.width)
  return self
end

function Block:forward(x, a, opts)
  local sum, n <close> = self.input_norm:add(x, a)
  local attended, after = self.attention(n, opts)
  local heads <close> = attended
  local y, n2 <close> = self.mlp_norm:add(sum, heads, opts and opts.taps and opts.taps["residual.mid"])
  if a then sum:free() end
  local up <close> = self.up(n2)
  local hidden <close> = up:gelu_new()
  return y, self.down(hidden), after
end

local GPT2 = LanguageModel.class "GPT2"

function GPT2.new(m, attention, opts)
  local self = LanguageModel.create(GPT2, m, attention, opts)
  self.embedding = self:child("wte", nn.Embedding(m.vocab, m.width, self:part "wte"))
  self.positions = self:child("wpe", nn.Embedding(m.context, m.width, self:part "wpe"))
  self:add_layers("h.", Block)
  self.norm = self:child("ln_f", nn.LayerNorm(m.width, self:part("ln_f", { eps = m.norm_eps })))
  return self
end

function GPT2:embed(ids, at)
  local list = {}
  for t = 1, ids:size(2) do list[t] = at + t - 1 end
  local tokens <close> = self.embedding(ids)
  local places <close> = self.positions(core.tensor { data = list, shape = { 1, #list }, dtype = "i32" })
  return tokens + places
end

function GPT2:has_positions() return true end

return GPT2
