-- Folders whose config.json says "model_type": "bare_type": models of the architecture bare.
local M = { arch = "bare", architectures = { "BareForCausalLM" }, rules = { { "words", ours = "words.weight" } } }

function M.read(c)
  local m = { arch = "bare", layers = c:integer "depth", width = c:integer "width", heads = c:integer("heads", 1), mlp = 1,
              vocab = c:integer "vocab_size", context = c:integer("context", 64) }
  m.kv_heads, m.head_dim = m.heads, m.width // m.heads
  return { model = m, attention = { preset = "softmax", rope = "none" } }
end

function M.write(m)
  local o = m.config
  return { depth = o.layers, width = o.width, heads = o.heads, vocab_size = o.vocab, context = o.context }
end

return M
