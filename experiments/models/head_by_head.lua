-- How lab.model.load(folder, { mapping = "experiments/models/head_by_head.lua" }) reads models of a layout of their own: an
-- example to copy. What such a file returns is what a file of lua/attnlab/model/hf/ does (lua/attnlab/model/hub/init.lua).
--
-- The layout is that of a GPT as it is often written for a lesson: learned positions, layer norms with biases before
-- attention and MLP and at the end, matrices of query, key and value for each head alone and without biases, an output
-- projection with one, an MLP of two matrices, a head that is not tied. config.json has vocab_size, block_size, n_layer,
-- n_head, n_embd, mlp_hidden, layer_norm_eps, and attention_scale, by which scores are multiplied.
local lab = require "attnlab"

local M = {}

-- c: a reader of config.json; what is missing or of another type it refuses by name. Gives options of lab.model.new.
function M.read(c)
  local m = { arch = "gpt2", layers = c:integer "n_layer", heads = c:integer "n_head", width = c:integer "n_embd",
              mlp = c:integer "mlp_hidden", vocab = c:integer "vocab_size", context = c:integer "block_size",
              norm_eps = c:number("layer_norm_eps", 1e-5, 0), activation = "relu", tied = false, head_bias = true }
  if m.width % m.heads ~= 0 then c:fail("n_head", "a divisor of n_embd (%d) expected, got %d", m.width, m.heads) end
  m.kv_heads, m.head_dim = m.heads, m.width // m.heads
  local scale = c:number("attention_scale", m.head_dim ^ -0.5)
  return { model = m, attention = { preset = "softmax", rope = "none", bias = "out", logit_scale = scale } }
end

local NAMES = { token_embedding_table = "transformer.wte", position_embedding_table = "transformer.wpe", ln_f = "transformer.ln_f",
                ln1 = "ln_1", ln2 = "ln_2", ["sa.proj"] = "attn.o_proj", ["ffwd.net.0"] = "mlp.c_fc", ["ffwd.net.2"] = "mlp.c_proj" }

-- Our tensors by name, of the file's. A name that is none of the layout stays, and is refused by it.
function M.load(tensors, options, fail)
  local out, m = {}, options.model
  for name, t in pairs(tensors) do
    local layer, part, what = name:match "^blocks%.(%d+)%.(.+)%.(%a+)$"
    if not layer then part, what = name:match "^(.+)%.(%a+)$" end
    local prefix = layer and "transformer.h." .. layer .. "." or ""
    if not (part and part:find "^sa%.heads%.") then out[NAMES[part] and prefix .. NAMES[part] .. "." .. what or name] = t end
  end
  for i = 0, m.layers - 1 do
    for which, ours in pairs { query = "q_proj", key = "k_proj", value = "v_proj" } do
      local heads = {}
      for h = 0, m.heads - 1 do
        local name = ("blocks.%d.sa.heads.%d.%s.weight"):format(i, h, which)
        heads[h + 1] = tensors[name] or fail(name, "is missing")
      end
      out[("transformer.h.%d.attn.%s.weight"):format(i, ours)] = lab.concat(heads, { axis = 1 })
    end
  end
  return out
end

return M
