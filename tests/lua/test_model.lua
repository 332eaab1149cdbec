-- The Llama: a trained model nobody here wrote, files, ids, generation.
local T = ...
local core = require "attnlab.core"
local data = require "attnlab.data"
local lab = require "attnlab"

local stories_path = data.home() .. "/experiments/models/stories260K.bin"
local golden = data.home() .. "/tests/golden/"
local stories = lab.model.load(stories_path)
local reference = core.json.decode(core.sys.read(golden .. "stories260K.json"))

local function small(more)
  local opts = { layers = 2, width = 16, heads = 2, mlp = 24, context = 12, vocab = 11, seed = 3 }
  for k, v in pairs(more or {}) do opts[k] = v end
  return lab.model.new(opts)
end

-- Tolerances from the reference: computed in float64 from the same weights.
T.test("stories260K: next-token logits, tokens and greedy continuation", function()
  T.eq(stories:n_parameters(), 260032)
  for _, p in ipairs(reference.prompts) do
    T.eq(stories.vocabulary:encode(p.text):flat(), p.ids)
    local logits = lab.no_grad(function() return stories:forward { p.ids } end)
    T.near(logits[{ 1, #p.ids }]:flat(), p.next_token_logits, 1e-3)
    local n = #p.greedy_new_ids
    local _, ids = stories:generate { prompt = p.ids, tokens = n }
    T.eq(table.move(ids, #p.ids + 1, #ids, 1, {}), p.greedy_new_ids)
  end
end)

T.test("stories260K: loss of every token", function()
  for _, text in ipairs(reference.texts) do
    local ids = text.ids
    local x = { table.unpack(ids, 1, #ids - 1) }
    local y = core.tensor { data = { table.unpack(ids, 2) }, shape = { 1, #ids - 1 }, dtype = "i32" }
    local nll = lab.no_grad(function() return stories:forward { x }:cross_entropy(y, { reduction = "none" }) end)
    T.near(nll:flat(), text.nll_per_target, 1e-3)
    T.near(nll:mean():item(), text.mean_nll, 1e-4)
  end
end)

T.test("stories260K: greedy text from the start token", function()
  local pieces = {}
  local text, ids = stories:generate { tokens = 256, on_token = function(piece) pieces[#pieces + 1] = piece end }
  T.eq(text .. "\n", core.sys.read(golden .. "stories260K_greedy.txt"))
  T.eq(#pieces, 256)
  T.eq(#ids, 257)
end)

T.test("tensor names are those of LlamaForCausalLM", function()
  local m = small { attention = "p1/gated_softmax_no_norm", tied = false }
  local found, own = {}, {}
  for name in pairs(m:parameters()) do
    found[#found + 1] = name
    if name:find("attnlab", 1, true) then own[#own + 1] = name end
  end
  T.eq(found[1], "model.embed_tokens.weight")
  T.eq(found[2], "model.layers.0.input_layernorm.weight")
  T.eq(found[3], "model.layers.0.self_attn.q_proj.weight")
  T.eq(found[#found - 1], "model.norm.weight")
  T.eq(found[#found], "lm_head.weight")
  T.ok(#own > 0)
  for _, name in ipairs(own) do T.ok(name:find("^model%.layers%.%d%.self_attn%.attnlab%.")) end
  T.eq(small({ tied = true }):parameters()["lm_head.weight"], nil)
end)

T.test("arms of an ablation start from the same shared weights", function()
  local a, b = small { attention = "softmax" }, small { attention = "p1/gated_softmax" }
  local pb = b:parameters()
  for name, t in pairs(a:parameters()) do T.eq(pb[name], t) end
end)

T.test("initial weights: linear as torch, embedding and head normal, or all normal", function()
  local m = small { width = 64, vocab = 300 }
  local p = m:parameters()
  local q = p["model.layers.0.self_attn.q_proj.weight"]
  T.ok(q:max():item() <= 1 / 8 and q:max():item() > 0.12)
  T.near(p["lm_head.weight"]:square():mean():sqrt():item(), 0.02, 1e-3)
  T.near(p["model.embed_tokens.weight"]:square():mean():sqrt():item(), 0.02, 1e-3)
  q = small({ width = 64, init = "normal", init_deviation = 0.05 }):parameters()["model.layers.0.mlp.up_proj.weight"]
  T.near(q:square():mean():sqrt():item(), 0.05, 5e-3)
end)

T.test("ids in three shapes, and what is refused", function()
  local m = small()
  local want = m:forward { { 1, 2, 3 } }
  T.eq(m:forward { 1, 2, 3 }, want)
  T.eq(m:forward(core.tensor { data = { 1, 2, 3 }, shape = { 3 }, dtype = "i32" }), want)
  T.eq(m:forward { { 1, 2 }, { 3, 4 } }:shape(), { 2, 2, 11 })
  T.raises(function() m:forward { { 1, 11 } } end, "11")
  T.raises(function() m:forward { { 1, -1 } } end, "%-1")
  T.raises(function() m:forward { { 1, 2.5 } } end, "integers expected, got 2.5 at 2")
  T.raises(function() m:forward { { 1, 2 }, { 3 } } end, "row 2 has 1, row 1 has 2")
  T.raises(function() m:forward { { 1, 2 }, 3 } end, "row 2 has number")
  T.raises(function() m:forward {} end, "at least one token")
  T.raises(function() m:forward "abc" end, "got string")
  T.raises(function() m:forward(lab.zeros { shape = { 1, 2 } }) end, "i32 needed, got f32")
  T.raises(function() m:forward(core.tensor { data = { 1 }, shape = { 1, 1, 1 }, dtype = "i32" }) end, "%(1,1,1%)")
  local long = {}
  for i = 1, 13 do long[i] = 1 end
  T.raises(function() m:forward { long } end, "13 tokens are longer than the context of 12")
end)

T.test("options that are refused", function()
  T.raises(function() small { layrs = 2 } end, "unknown option 'layrs' %(did you mean 'layers'%?%)")
  T.raises(function() small { width = 15 } end, "width %(15%) must be divisible by model.heads %(2%)")
  T.raises(function() small { attention = "sofmax" } end, "softmax")
  T.raises(function() small { arch = "gpt" } end, "arch")
  T.raises(function() small { vocab = 0 } end, "'vocab'")
  T.raises(function() lab.model.new { model = { layers = 1, vocab = 5 }, sed = 1 } end, "did you mean 'seed'")
end)

T.test("attention by layer", function()
  local m = small { attention = { default = "softmax", [2] = { preset = "p2/cottention" } } }
  T.eq(m.layers[1].attention.layer.rope, "half")
  T.eq(m.layers[2].attention.layer.rope, "interleaved")
  T.ok(m:parameters()["model.layers.1.self_attn.attnlab.denominator.power"]
    or #m:parameters() > #small():parameters())
  T.ok(m:state_bytes(12) ~= small():state_bytes(12))
end)

T.test("saved and loaded again, bit for bit, with its vocabulary", function()
  local d = data.open "shakespeare"
  for _, spec in ipairs { "softmax", { "p1/gated_softmax", "p3/2mamba" } } do
    local m = small { attention = spec, vocab = 65, vocabulary = d.vocabulary, dtype = "f64", norm_eps = 1e-6 }
    local path = T.folder() .. "/m.safetensors"
    m:save(path)
    local again = lab.model.load(path)
    T.eq(again.config, m.config)
    T.eq(again.spec, m.spec)
    for name, t in pairs(m:parameters()) do T.eq(again:parameters()[name], t) end
    T.eq(again:forward { { 1, 2, 3 } }, m:forward { { 1, 2, 3 } })
    T.eq(again:generate { prompt = "ROMEO", tokens = 5 }, m:generate { prompt = "ROMEO", tokens = 5 })
  end
  local path = T.folder() .. "/s.safetensors"
  stories:save(path)
  T.eq(lab.model.load(path):generate { tokens = 20 }, stories:generate { tokens = 20 })
  local beside = T.folder() .. "/alone.safetensors"
  core.sys.write(beside, core.sys.read(path))
  T.eq(lab.model.load(beside).vocabulary, nil)
  path = beside
  local words = data.home() .. "/experiments/models/tok512.bin"
  T.eq(lab.model.load(path, { tokenizer = words }):generate { tokens = 20 }, stories:generate { tokens = 20 })
end)

T.test("files that are refused", function()
  local dir = T.folder()
  local function file(name, bytes)
    core.sys.write(dir .. "/" .. name, bytes)
    return dir .. "/" .. name
  end
  local bytes = core.sys.read(stories_path)
  T.raises(function() lab.model.load(dir .. "/none.bin") end, "none.bin': no such file")
  T.raises(function() lab.model.load(dir, { tokeniser = "x" }) end, "model.load: unknown option 'tokeniser' %(did you mean 'tokenizer'")
  T.raises(function() lab.model.load(dir) end, "checkpoint.safetensors': no such file: a model file is expected, or the folder of a run")
  T.raises(function() lab.model.load(file("short.bin", bytes:sub(1, 5000))) end, "short.bin")
  T.raises(function() lab.model.load(file("long.bin", bytes .. "x")) end, "long.bin")
  T.raises(function() lab.model.load(file("empty.bin", "")) end, "empty.bin")
  T.raises(function() lab.model.load(file("text.bin", ("hello "):rep(100))) end, "text.bin")
  T.raises(function() lab.model.load(file("no.safetensors", ("x"):rep(100))) end, "not a safetensors file")
  core.safetensors.save(dir .. "/foreign.safetensors", { w = lab.zeros { shape = { 2 } } }, { maker = "another" })
  T.raises(function() lab.model.load(dir .. "/foreign.safetensors") end, "not a model saved by attnlab")
  core.safetensors.save(dir .. "/bad.safetensors", { w = lab.zeros { shape = { 2 } } }, { attnlab = "{" })
  T.raises(function() lab.model.load(dir .. "/bad.safetensors") end, "is not a configuration")
  local m = small()
  local p = {}
  for name, t in pairs(m:parameters()) do p[name] = t end
  p["model.norm.weight"] = nil
  core.safetensors.save(dir .. "/a.safetensors", p, m:metadata())
  T.raises(function() lab.model.load(dir .. "/a.safetensors") end, "tensor 'model.norm.weight' is missing")
  p["model.norm.weight"] = lab.zeros { shape = { 17 } }
  core.safetensors.save(dir .. "/b.safetensors", p, m:metadata())
  T.raises(function() lab.model.load(dir .. "/b.safetensors") end, "shape %(16%) expected, got %(17%)")
  p["model.norm.weight"], p["model.nrm.weight"] = lab.zeros { shape = { 16 } }, lab.zeros { shape = { 16 } }
  core.safetensors.save(dir .. "/c.safetensors", p, m:metadata())
  T.raises(function() lab.model.load(dir .. "/c.safetensors") end, "unknown tensor 'model.nrm.weight'")
  T.raises(function() m:save(dir .. "/missing/m.safetensors") end, "missing/m.safetensors")
end)

T.test("sizes that a file claims are held against its tensors before memory is asked for", function()
  local dir, m = T.folder(), small()
  local saved = core.json.decode(m:metadata().attnlab)
  local function claims(key, value)
    local old = saved.model[key]
    saved.model[key] = value
    core.safetensors.save(dir .. "/m", m:tensors(), { attnlab = core.json.encode(saved) })
    saved.model[key] = old
    return function() lab.model.load(dir .. "/m") end
  end
  claims("layers", saved.model.layers)()
  T.raises(claims("layers", saved.model.layers + 1), "/m': tensor 'model.layers.2.self_attn.q_proj.weight' is missing")
  T.raises(claims("width", 1000), "/m': tensor 'model.embed_tokens.weight': shape %(%d+,1000%) expected, got")
  T.raises(claims("vocab", 1000), "embed_tokens.weight': shape %(1000,%d+%) expected")
  T.raises(claims("mlp", 1000), "layers.0.mlp.gate_proj.weight': shape %(1000,%d+%) expected")
  T.raises(claims("heads", 1000), "layers.0.self_attn.q_proj.weight': shape %(8000,%d+%) expected")
  T.raises(claims("kv_heads", 1), "k_proj.weight': shape")
  T.raises(claims("head_dim", 1000), "q_proj.weight': shape")
  for _, key in ipairs { "layers", "width", "heads", "kv_heads", "head_dim", "mlp", "vocab" } do
    for _, value in ipairs { 0, -1, 1.5, "2", core.json.null, core.json.array {}, false, 9999, 1 << 40, 1 << 62 } do
      T.raises(claims(key, value), "/m': the metadata 'attnlab': model." .. key .. ": a whole number from 1 to %d+, as the file has %l+, expected, got")
    end
  end
end)

T.test("what is wrong in a file's configuration is said with the file's name", function()
  local dir, m = T.folder(), small()
  local function with(change)
    local saved = core.json.decode(m:metadata().attnlab)
    change(saved)
    core.safetensors.save(dir .. "/m", m:tensors(), { attnlab = core.json.encode(saved) })
    return function() lab.model.load(dir .. "/m") end
  end
  with(function() end)()
  local null = core.json.null
  for _, case in ipairs {
    { function(s) s.model.arch = "x" end, "config: option 'model.arch': unknown word 'x'" },
    { function(s) s.model.tied = null end, "config: option 'model.tied': true or false expected" },
    { function(s) s.attention = 7 end, "config: attention: preset or table" },
    { function(s) s.attention = { preset = "x" } end, "config: attention: .*'x'" },
    { function(s) s.attention = null end, "config: attention" },
    { function(s) s.dtype = "i32" end, "config: option 'train.dtype'" },
    { function(s) s.seed = "x" end, "seed" },
    { function(s) s.seed = 1.5 end, "seed" },
    { function(s) s.vocabulary = 7 end, "vocabulary: .* expected, got 7" },
    { function(s) s.vocabulary = { kind = "characters" } end, "vocabulary: .* expected, got {" },
    { function(s) s.vocabulary = { kind = "characters", characters = ("abcdefghijklmnopqrstuvwxyz"):rep(3) .. "\u{e9}" } end, "the vocabulary has 27 tokens" },
    { function(s) s.trained_on = 7 end, "trained_on: { name, sha256 } expected" },
  } do T.raises(with(case[1]), "/m': the metadata 'attnlab': .*" .. case[2]) end
end)

T.test("generation: seeded, top_k, end token, windows, refusals", function()
  local m = small()
  local function ids(opts)
    opts.prompt = opts.prompt or { 1, 2 }
    local _, out = m:generate(opts)
    return out
  end
  local a = ids { tokens = 20, temperature = 1, seed = 5 }
  T.eq(#a, 22)
  T.eq(a, ids { tokens = 20, temperature = 1, seed = 5 })
  T.ok(table.concat(a, ",") ~= table.concat(ids { tokens = 20, temperature = 1, seed = 6 }, ","))
  T.eq(ids { tokens = 20, temperature = 2, top_k = 1 }, ids { tokens = 20 })
  local greedy = ids { tokens = 20 }
  local stopped = ids { tokens = 20, eos = greedy[3] }
  T.eq(stopped, { 1, 2 })
  T.eq(ids { tokens = 0 }, { 1, 2 })
  T.ok(m.training)
  T.raises(function() m:generate { tokens = 3 } end, "no vocabulary")
  T.raises(function() ids { tokens = -1 } end, "'tokens'")
  T.raises(function() ids { temprature = 1 } end, "did you mean 'temperature'")
  T.raises(function() ids { prompt = {} } end, "prompt is empty")
  T.raises(function() ids { prompt = { 99 } } end, "99")
  T.raises(function() stories:generate { prompt = 3 } end, "text or list of ids")
end)

T.test("logits that are not finite end generation, whichever way tokens are chosen", function()
  for _, vocab in ipairs { 7, 700 } do
    for _, temperature in ipairs { 0, 1 } do
      local m = small { vocab = vocab }
      local function generate() return m:generate { prompt = { 1, 2 }, tokens = 4, temperature = temperature } end
      generate()
      for _, bad in ipairs { 0 / 0, math.huge, -math.huge } do
        local before = m.head.weight:clone()
        m.head.weight:fill(0)
        m.head.weight[{ 6, 1 }]:fill(bad) -- of id 5
        T.raises(generate, "generate: token 1: the logit of id 5 is %-?" .. (bad == bad and "inf" or "nan"))
        m.head.weight:copy_(before)
      end
      for _, p in pairs(m:parameters()) do p:fill(0 / 0) end
      T.raises(generate, "generate: token 1: the logit of id 0 is nan: the model's numbers left their range")
    end
  end
end)

T.test("a graph is not kept when nothing is recorded", function()
  local m = small()
  local x = core.tensor { data = { 1, 2, 3 }, shape = { 1, 3 }, dtype = "i32" }
  local function live()
    collectgarbage()
    collectgarbage()
    return core.memory().live
  end
  lab.no_grad(function() m:forward(x) end)
  local before = live()
  for _ = 1, 5 do lab.no_grad(function() m:forward(x) end) end
  T.eq(live(), before)
  for _ = 1, 3 do
    local loss <close> = m:loss(x, x)
    loss:backward()
    m:zero_grad()
  end
  local after = live()
  local loss = m:loss(x, x)
  loss:backward()
  m:zero_grad()
  loss:free()
  T.eq(live(), after)
end)
