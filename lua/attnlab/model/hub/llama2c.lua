-- A Llama as llama2.c's checkpoint of version 0, the one that its run.c reads (core/data/llama2c.c has the layout). Its
-- program fixes what the file cannot say: softmax, rotary positions of base 10000 in neighbouring pairs, eps 1e-5.
local core = require "attnlab.core"
local layers = require "attnlab.model.hub.layers"

local M = {}

local AT_ONCE = 128   -- numbers packed by one call
local PART = 1 << 16 -- and held as a list, which takes four times their room

-- Appends the bytes of a tensor to parts.
local function append(parts, t)
  local all = t:to("f32"):reshape { shape = { t:numel() } }
  for from = 0, t:numel() - 1, PART do
    local some <close> = all:slice { axis = 1, start = from, stop = math.min(from + PART, t:numel()) }
    local list = some:flat()
    for i = 1, #list, AT_ONCE do
      local n = math.min(AT_ONCE, #list - i + 1)
      parts[#parts + 1] = string.pack("<" .. ("f"):rep(n), table.unpack(list, i, i + n - 1))
    end
  end
end

local function check(m)
  local c = m.config
  local function no(...) error("export: llama2.c's file: " .. string.format(...), 0) end
  if c.arch ~= "llama" then no("a llama expected, got %s", c.arch) end
  local _, why = layers.expect(m, { kinds = { softmax = true }, rope = { "half", "interleaved" } })
  if why then no("%s", why) end
  if c.norm_eps ~= 1e-5 then no("norm_eps: 1e-05 expected, got %g", c.norm_eps) end
  if c.head_dim * c.heads ~= c.width then no("head_dim: width / heads (%g) expected, got %d", c.width / c.heads, c.head_dim) end
  if c.mlp_bias or c.activation ~= "auto" and c.activation ~= "silu" then no("an MLP of silu without biases expected") end
end

-- Writes m; what llama2.c cannot compute is refused by name.
function M.write(m, path)
  check(m)
  local c, own, kv = m.config, m:tensors(), m.config.kv_heads
  local vocab = c.tied and c.vocab or -c.vocab
  local parts = { string.pack("<i4i4i4i4i4i4i4", c.width, c.mlp, c.layers, c.heads, kv, vocab, c.context) }
  local function put(name, heads)
    local t = own[name]
    if heads and m.layers[1].attention.layer.rope == "half" then t = layers.halves(t, heads, c.head_dim, c.head_dim, true) end
    append(parts, t)
  end
  put "model.embed_tokens.weight"
  for _, kind in ipairs {
    { "input_layernorm" }, { "self_attn.q_proj", c.heads }, { "self_attn.k_proj", kv }, { "self_attn.v_proj" },
    { "self_attn.o_proj" }, { "post_attention_layernorm" }, { "mlp.gate_proj" }, { "mlp.down_proj" }, { "mlp.up_proj" } } do
    for i = 0, c.layers - 1 do put(("model.layers.%d.%s.weight"):format(i, kind[1]), kind[2]) end
  end
  put "model.norm.weight"
  parts[#parts + 1] = ("\0"):rep(4 * c.context * c.head_dim) -- two rotary tables, which nobody reads
  if not c.tied then put "lm_head.weight" end
  core.sys.write(path, table.concat(parts))
end

return M
