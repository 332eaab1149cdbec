-- A Llama whose attention is ours: the names and keys of LlamaForCausalLM, all options under the key `attnlab`, and beside
-- it the file that runs it in transformers (model/hub/modeling.lua), which is written and never read.
local activation = require "attnlab.model.hub.activation"
local core = require "attnlab.core"
local config = require "attnlab.config"
local modeling = require "attnlab.model.hub.modeling"

local M = { arch = "llama", architectures = { "AttnlabForCausalLM" }, harmless = { "auto_map" }, last = true,
            tied = { head = "lm_head.weight", embedding = "model.embed_tokens.weight" } }

-- The keys that a Llama of these options has.
local function keys(o)
  return { num_hidden_layers = o.layers, hidden_size = o.width, num_attention_heads = o.heads, num_key_value_heads = o.kv_heads,
           head_dim = o.head_dim, intermediate_size = o.mlp, vocab_size = o.vocab, max_position_embeddings = o.context,
           rms_norm_eps = o.norm_eps, tie_word_embeddings = o.tied, hidden_act = activation.of(o, "silu"), mlp_bias = o.mlp_bias }
end

function M.read(c)
  local own = c:get "attnlab"
  if type(own) ~= "table" or type(own.model) ~= "table" or type(own.attention) ~= "table" then
    c:fail("attnlab", "an object with 'model' and 'attention' expected, got %s", type(own) == "table" and "another" or type(own))
  end
  if own.model.arch ~= "llama" then c:fail("attnlab", "model.arch 'llama' expected, got %s", tostring(own.model.arch)) end
  local names = keys(own.model)
  for key, v in pairs(names) do c:must(key, v) end
  return { model = own.model, attention = own.attention }
end

function M.write(m)
  local text, why = modeling.text(m)
  if not text then return nil, why end
  local c = keys(m.config)
  c.attnlab = { version = core.version, model = config.copy(m.config), attention = config.copy(m.spec) }
  c.auto_map = { AutoConfig = "modeling_attnlab.AttnlabConfig", AutoModelForCausalLM = "modeling_attnlab.AttnlabForCausalLM" }
  c.use_cache = false
  return c
end

function M.beside(m, folder)
  core.sys.write(folder .. "/" .. modeling.FILE, (modeling.text(m)))
end

return M
