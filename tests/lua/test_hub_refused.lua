-- Folders as Hugging Face has them that are refused: keys of config.json, tensors, shards, what is tied; and what is written
-- of models that transformers lacks.
local T = ...
local core = require "attnlab.core"
local lab = require "attnlab"
local json, sys = core.json, core.sys

local GOLDEN = T.root .. "tests/golden/hf/"

-- A golden model in a new folder, with its config.json and tensors as f(config, tensors) leaves them.
local function changed(name, f)
  local folder = T.folder()
  local c, tensors = json.decode(sys.read(GOLDEN .. name .. "/config.json")), core.safetensors.open(GOLDEN .. name .. "/model.safetensors")
  f(c, tensors)
  sys.write(folder .. "/config.json", json.encode(c))
  core.safetensors.save(folder .. "/model.safetensors", tensors)
  return folder
end

local function refused(name, pattern, f, opts)
  local folder = changed(name, f)
  local why = T.raises(function() lab.model.load(folder, opts) end, pattern)
  T.ok(why:find(folder, 1, true), "no folder in: " .. why)
end

-- Refused with the key's name when it has this value; null stands for a key that is missing.
local function key(name, k, value, pattern)
  refused(name, "config.json': key '" .. k:gsub("%p", "%%%0") .. "': " .. pattern, function(c)
    local path, last = c, k
    for word in k:gmatch "([^.]+)%." do path = path[word] end
    if k:find "%." then last = k:match "[^.]+$" end
    path[last] = value
  end)
end

T.test("keys that are missing, of another type or beyond what is known", function()
  key("llama", "hidden_size", json.null, "a whole number from 1 to 2147483647 expected, the key is missing")
  key("llama", "num_hidden_layers", 0, "a whole number from 1 to 2147483647 expected, got 0")
  key("llama", "num_attention_heads", "4", "a whole number from 1 to 2147483647 expected, got '4'")
  key("llama", "rms_norm_eps", {}, "a number above 0 expected")
  key("llama", "tie_word_embeddings", 1, "true or false expected, got 1")
  key("llama", "hidden_act", "tanh", "unknown word 'tanh'")
  key("llama", "model_type", "lama", "unknown type 'lama' %(did you mean 'llama'%?%)")
  key("llama", "architectures", { "LlamaForSequenceClassification" }, '%["LlamaForCausalLM"%] expected, got %["LlamaForSeq')
  key("llama", "quantization_config", { bits = 4 }, "nothing like it is known here")
  key("llama", "is_encoder_decoder", true, "only false is known here, got true")
  key("llama", "logit_scale", 0.5, 'not known here, and may change what the model computes %(option ignore = {"logit_scale"}')
  key("llama", "auto_map", { AutoModelForCausalLM = "x.Y" }, "nothing like it")
  key("mistral", "layer_types", { "full_attention", "full_attention" }, "only nil is known")
  key("qwen2", "layer_types", { "full_attention" }, "a list of 2 words expected, got one of 1")
  key("qwen2", "layer_types", { "full_attention", "linear_attention" }, "full_attention or sliding_attention expected, got linear_attention")
  key("gpt2", "activation_function", "quick_gelu", "unknown word 'quick_gelu'")
  key("gptj", "rotary_dim", 10, "an even number up to 8 expected, got 10")
  key("gptj", "rotary_dim", json.null, "a number of channels expected, got null")
  refused("gptj", "an even number up to 8 expected, got 64", function(c) c.rotary_dim = nil end)
  key("gptj", "tie_word_embeddings", true, "only false is known")
  lab.model.load(changed("llama", function(c) c.logit_scale, c.attention_dropout, c.transformers_version = 0.5, 0.1, "9.9" end),
    { ignore = { "logit_scale" } })
end)

T.test("keys that contradict others", function()
  key("llama", "num_key_value_heads", 3, "a divisor of num_attention_heads %(4%) expected, got 3")
  refused("mistral", "key 'num_attention_heads': a divisor of hidden_size %(16%) expected where head_dim is missing, got 3", function(c)
    c.head_dim, c.num_attention_heads, c.num_key_value_heads = nil, 3, 1
  end)
  refused("qwen2", "key 'layer_types': layer 2 is sliding_attention, but use_sliding_window is false", function(c) c.use_sliding_window = false end)
  refused("qwen2", "key 'sliding_window': a window expected, for use_sliding_window is true", function(c) c.sliding_window = nil end)
  key("gpt2", "n_ctx", 32, "only 64 is known here, got 32")
  key("gpt2", "n_head", 3, "a divisor of n_embd %(16%) expected, got 3")
end)

T.test("rotary positions", function()
  key("llama", "rope_parameters", { rope_type = "longrope" }, "rope_type: one of default, linear, yarn, llama3 expected, got longrope")
  key("llama", "rope_parameters", { rope_type = "dynamic", factor = 2 }, "rope_type")
  key("llama", "rope_parameters", "yarn", "an object expected, got yarn")
  refused("llama", "rope_parameters': rope_theta is 5000 here, and 7 beside it", function(c) c.rope_theta = 7.0 end)
  refused("llama_llama3", "rope_parameters': key 'factor': a number above 0 expected, the key is missing", function(c) c.rope_parameters.factor = nil end)
  refused("llama_llama3", "rope_parameters': key 'beta': not known here", function(c) c.rope_parameters.beta = 1 end)
  refused("llama_llama3", "key 'rope_scaling': rope_type yarn contradicts", function(c) c.rope_scaling = { type = "yarn", factor = 2 } end)
  refused("llama_llama3", "rope_low", function(c) c.rope_parameters.low_freq_factor = 9 end)
  refused("llama_yarn", "original_max_position_embeddings': 99 is said here, 16 beside", function(c) c.original_max_position_embeddings = 99 end)
  refused("llama", "key 'partial_rotary_factor': 1 expected", function(c) c.rope_parameters.partial_rotary_factor = 0.5 end)
  refused("gpt_neox", "rope_parameters': partial_rotary_factor is 0.25 here, and 0.5 beside", function(c) c.rotary_pct = 0.5 end)
  refused("gpt_neox", "an even number of the 8 channels of a head expected, got 3", function(c) c.rope_parameters.partial_rotary_factor = 0.4 end)
  -- as transformers 4 writes it
  local old = changed("llama_yarn", function(c)
    c.rope_theta, c.rope_scaling, c.rope_parameters = 500.0, { type = "yarn", factor = 4.0, original_max_position_embeddings = 16 }, nil
  end)
  T.eq(lab.model.load(old):forward({ { 1, 2, 3, 4 } }), lab.model.load(GOLDEN .. "llama_yarn"):forward({ { 1, 2, 3, 4 } }))
end)

T.test("tensors that are missing, too many, of another shape or type", function()
  local down = "model.layers.1.mlp.down_proj.weight"
  refused("llama", "tensor '" .. down .. "' is missing", function(_, t) t[down] = nil end)
  refused("llama", "tensor 'model.norm.weight' is missing", function(_, t) t["model.norm.weight"] = nil end)
  refused("llama", "unknown tensor 'model.layers.1.mlp.dawn_proj.weight'", function(_, t) t["model.layers.1.mlp.dawn_proj.weight"] = t[down] end)
  refused("llama", "tensor '" .. down .. "': shape %(16,20%) expected, got %(20,16%)", function(_, t) t[down] = t[down]:reshape { shape = { 20, 16 } } end)
  refused("llama", "tensor 'model.norm.weight': shape %(16%) expected, got %(4%)", function(_, t) t["model.norm.weight"] = core.zeros { shape = { 4 } } end)
  refused("llama", "tensor 'lm_head.weight': numbers of a floating type expected, got i32", function(_, t) t["lm_head.weight"] = core.zeros { shape = { 32, 16 }, dtype = "i32" } end)
  refused("llama", "model.layers: a whole number from 1 to %d+, as the file has tensors", function(c) c.num_hidden_layers = 5000 end)
  refused("gpt2", "tensor 'transformer.h.0.attn.c_attn.weight' is missing", function(_, t) t["h.0.attn.c_attn.weight"] = nil end)
  refused("gpt2", "tensor 'transformer.h.0.attn.c_attn.weight': three equal parts", function(_, t) t["h.0.attn.c_attn.weight"] = core.zeros { shape = { 16, 47 } } end)
  refused("gpt2", "with and without the prefix", function(_, t) t["transformer.wte.weight"] = t["wte.weight"] end)
  refused("gpt_neox", "query_key_value.bias': 48 rows for q, k and v expected, got 47", function(_, t)
    t["gpt_neox.layers.0.attention.query_key_value.bias"] = core.zeros { shape = { 47 } }
  end)
end)

T.test("what is tied", function()
  refused("llama", "tensor 'lm_head.weight' is missing, and tie_word_embeddings is false", function(_, t) t["lm_head.weight"] = nil end)
  refused("llama", "tensor 'lm_head.weight' is not 'model.embed_tokens.weight', though tie_word_embeddings is true",
    function(c) c.tie_word_embeddings = true end)
  local both = changed("llama_llama3", function(_, t) t["lm_head.weight"] = t["model.embed_tokens.weight"] * 1 end)
  T.eq(lab.model.load(both):forward({ { 1, 2 } }), lab.model.load(GOLDEN .. "llama_llama3"):forward({ { 1, 2 } }))
end)

T.test("shards and their index", function()
  local function shards(f)
    local folder = T.folder() .. "/m"
    lab.model.load(GOLDEN .. "llama"):export(folder, { shard = 10000 })
    local index = json.decode(sys.read(folder .. "/model.safetensors.index.json"))
    f(index, index.weight_map, folder)
    sys.write(folder .. "/model.safetensors.index.json", json.encode(index))
    return folder
  end
  local function bad(pattern, f) T.raises(function() lab.model.load(shards(f)) end, pattern) end
  local name = "model.norm.weight"
  bad("index.json': key 'weight_map': an object expected", function(index) index.weight_map = nil end)
  bad("weight_map: 'model.norm.weight': a file of this folder that ends in .safetensors expected, got ../x.safetensors",
    function(_, map) map[name] = "../x.safetensors" end)
  bad("tensor 'model.norm.weight' is not in model%-00001%-of%-0000%d.safetensors, but in", function(_, map) map[name] = map["lm_head.weight"] end)
  bad("weight_map: tensor 'model.norm.weight' of .* is missing", function(_, map) map[name] = nil end)
  bad("weight_map: tensor 'more' is not in", function(_, map) map.more = map[name] end)
  bad("00009.safetensors", function(_, map) map.more = "model-00009.safetensors" end)
  bad("tensor 'model.norm.weight' is in model%-.*, too", function(_, map, folder)
    local t = core.safetensors.open(folder .. "/" .. map["lm_head.weight"])
    t[name] = core.zeros { shape = { 16 } }
    core.safetensors.save(folder .. "/" .. map["lm_head.weight"], t)
  end)
  T.raises(function() lab.model.load(shards(function(_, map, folder) sys.remove(folder .. "/" .. map[name]) end)) end, "model%-0000%d")
end)

T.test("files that are none, or links", function()
  local folder = T.folder()
  sys.write(folder .. "/config.json", "{ \"model_type\": ")
  T.raises(function() lab.model.load(folder) end, "config.json': json: line 1")
  for text, pattern in pairs { ["[1]"] = "a JSON object expected, got {1}", null = "a JSON object expected, got null" } do
    sys.write(folder .. "/config.json", text)
    T.raises(function() lab.model.load(folder) end, "config.json': " .. pattern)
  end
  sys.write(folder .. "/config.json", sys.read(GOLDEN .. "llama/config.json"))
  T.raises(function() lab.model.load(folder) end, "model.safetensors': no such file, nor model.safetensors.index.json")
  sys.write(folder .. "/pytorch_model.bin", "")
  T.raises(function() lab.model.load(folder) end, "a pickle, which may run code")
  sys.write(folder .. "/model.safetensors", sys.read(GOLDEN .. "llama/model.safetensors"):sub(1, 9000))
  T.raises(function() lab.model.load(folder) end, "model.safetensors: tensor '[%w._]+': data_offsets")
  sys.remove(folder .. "/model.safetensors")
  assert(os.execute(("ln -s '%s' '%s/model.safetensors'"):format(sys.realpath(GOLDEN .. "llama/model.safetensors"), folder)))
  T.raises(function() lab.model.load(folder) end, "^read: .*model.safetensors: a link, which is not followed here .*cp %-rL makes")
  sys.remove(folder .. "/config.json")
  assert(os.execute(("ln -s '%s' '%s/config.json'"):format(sys.realpath(GOLDEN .. "llama/config.json"), folder)))
  T.raises(function() lab.model.load(folder) end, "a link, which is not followed here .*cp %-rL makes")
  local missing = changed("mistral", function(c) c.sliding_window = nil end)
  T.eq(lab.model.load(missing).spec.window, 4096)
end)

T.test("models that transformers lacks: written with a modeling file and read again, or refused", function()
  local ids = { 1, 5, 2, 8, 3, 0, 7, 4 }
  local function model(attention, more)
    local o = { layers = 2, width = 16, heads = 4, kv_heads = 2, head_dim = 8, mlp = 20, vocab = 9, context = 16, seed = 3, attention = attention }
    for k, v in pairs(more or {}) do o[k] = v end
    return lab.model.new(o)
  end
  for _, case in ipairs { { "p2/cottention" }, { "p3/2mamba", { tied = true } }, { "linear_elu,delta_rule" }, { { preset = "softmax", rope_dims = 4 } },
                          { { preset = "softmax", logit_clamp = 5, rope_scaling = "llama3", rope_factor = 4, rope_high = 4 }, { mlp_bias = true } } } do
    local m, out = model(case[1], case[2]), T.folder() .. "/m"
    m:export(out)
    local c = json.decode(sys.read(out .. "/config.json"))
    T.eq({ c.model_type, c.architectures, c.auto_map.AutoModelForCausalLM, c.hidden_size },
      { "attnlab", { "AttnlabForCausalLM" }, "modeling_attnlab.AttnlabForCausalLM", 16 })
    local text = sys.read(out .. "/modeling_attnlab.py")
    T.ok(text:find("class AttnlabForCausalLM", 1, true) and text:find("def attention(q, k, v", 1, true), "a modeling file")
    local again = lab.model.load(out)
    T.eq(again:forward { ids }, m:forward { ids })
    T.eq(json.encode(again.spec), json.encode(m.spec))
    c.hidden_size = 32
    sys.write(out .. "/config.json", json.encode(c))
    T.raises(function() lab.model.load(out) end, "key 'hidden_size': only 16 is known here, got 32")
    c.attnlab = 3
    sys.write(out .. "/config.json", json.encode(c))
    T.raises(function() lab.model.load(out) end, "key 'attnlab': an object with 'model' and 'attention' expected")
  end
  local s = model("softmax"):fork()
  s:export(T.folder() .. "/plain")
  s.layer[2].head[1]:set { output_norm = "l2" }
  T.raises(function() s:export(T.folder() .. "/x") end, "llama: layer 2: its attention is not plain softmax.*attnlab: layer 2: .* not known as a function")
  T.raises(function() model("p2/cottention", { arch = "gpt2" }):export(T.folder() .. "/x") end, "gpt2: ")
  T.raises(function() model("softmax"):export(T.folder() .. "/x", { dtyp = "f32" }) end, "did you mean 'dtype'")
  T.raises(function() model("softmax"):export(T.folder() .. "/x", { dtype = "f16" }) end, "f64, f32 or bf16 expected, got f16")
end)

T.test("llama2.c: what came in goes out, pairs in halves turned back, what it cannot say is refused", function()
  local bin, out = T.root .. "experiments/models/stories260K.bin", T.folder()
  local m, ids = lab.model.load(bin), { { 1, 403, 407, 261, 378, 5, 6, 7 } }
  m:export(out .. "/a.bin")
  local before, after = sys.read(bin), sys.read(out .. "/a.bin")
  local tables = #before - 4 * 512 * 8 -- the file's own rotary tables are all that differs
  T.ok(#after == #before and after:sub(1, tables) == before:sub(1, tables), "the same bytes")
  m:export(out .. "/folder")
  lab.model.load(out .. "/folder"):export(out .. "/b.bin")
  T.ok(sys.read(out .. "/b.bin") == after, "the same bytes by way of a folder")
  T.eq(lab.model.load(out .. "/b.bin"):forward(ids), m:forward(ids))
  sys.write(out .. "/b.bin", "a text")
  T.raises(function() m:export(out .. "/b.bin") end, "b.bin' is there already: option overwrite")
  T.eq(sys.read(out .. "/b.bin"), "a text")
  m:export(out .. "/b.bin", { overwrite = true })
  T.ok(sys.read(out .. "/b.bin") == after, "written over")
  local s = m:fork()
  s.layer[3]:set { denominator = "none" }
  T.raises(function() s:export(out .. "/c.bin") end, "llama2.c's file: layer 3: its attention is not plain softmax")
  T.raises(function() m:export(out .. "/c.bin", { dtype = "f32" }) end, "option 'dtype'")
  T.raises(function() lab.model.load(GOLDEN .. "gptj"):export(out .. "/c.bin") end, "a llama expected, got gptj")
  T.raises(function() lab.model.load(GOLDEN .. "llama"):export(out .. "/c.bin") end, "rope_base=5000")
end)
