-- GPT-2 (Radford et al. 2019): learned positions; x += attention(norm x); x += mlp(norm x). Tensors carry the names of
-- Hugging Face's GPT2LMHeadModel, but for the projections of attention, attn.q_proj for a part of attn.c_attn.
local core = require "attnlab.core"
local nn = require "attnlab.nn"
local LanguageModel = require "attnlab.model.language"

local Block = require "attnlab.model.block" {
  norm = "ln_1", mlp_norm = "ln_2", attention = "attn", up = "mlp.c_fc", down = "mlp.c_proj", activation = "gelu_new" }

local GPT2 = LanguageModel.class "GPT2"
GPT2.defaults = { model = { tied = true, init = "normal" }, attention = { rope = "none", bias = true } }
GPT2.places_by_row = true
GPT2.takes = { activation = { "gelu", "gelu_new", "relu", "silu" }, head_bias = true }

-- Internal: as language.lua calls it.
function GPT2.new(m, attention, opts)
  local self = LanguageModel.create(GPT2, m, attention, opts)
  local function table_of(key, rows)
    return self:child(key, nn.Embedding(rows, m.width, self:part(key, { deviation = m.init_deviation })))
  end
  self.embedding, self.positions = table_of("transformer.wte", m.vocab), table_of("transformer.wpe", m.context)
  self:add_layers("transformer.h.", Block)
  self.norm = self:child("transformer.ln_f", nn.LayerNorm(m.width, self:part("transformer.ln_f", { eps = m.norm_eps })))
  if not m.tied then
    self.head = self:child("lm_head", nn.Linear(m.width, m.vocab,
      self:part("lm_head", { init = "normal", deviation = m.init_deviation, bias = m.head_bias })))
  elseif m.head_bias then
    error("GPT2: option 'head_bias': a head that is tied has none", 0)
  end
  return self
end

-- Tokens (B,T) and where they stand: `at` tokens are before them, or positions (B,T) i32 says it of each.
function GPT2:embed(ids, at, positions)
  if not positions then
    local list = {}
    for t = 1, ids:size(2) do list[t] = at + t - 1 end
    positions = core.tensor { data = list, shape = { 1, #list }, dtype = "i32" }
  end
  local tokens <close> = self.embedding(ids)
  local places <close> = self.positions(positions)
  return tokens + places
end

function GPT2:has_positions() return true end

-- As every model's, but that there are no positions past the context.
function GPT2:state(opts)
  if opts and opts.beyond then
    error(("state: option 'beyond': positions are learned, up to the context of %d"):format(self.config.context), 0)
  end
  return LanguageModel.state(self, opts)
end

return GPT2
