-- Models as Hugging Face has them: golden/hf/ against transformers, there and back, surgery on them, what is refused.
local T = ...
local core = require "attnlab.core"
local lab = require "attnlab"
local json, sys = core.json, core.sys

local GOLDEN = T.root .. "tests/golden/hf/"
local EVERY = 3 -- positions of which expected.json has the logits

local function logits(m, ids) return core.no_grad(m.forward, m, { ids })[{ 1 }]:totable() end

local function golden(name)
  local folder = GOLDEN .. name
  return folder, json.decode(sys.read(folder .. "/expected.json"))
end

local function all()
  local out = {}
  for _, name in ipairs(sys.list(GOLDEN)) do
    if sys.exists(GOLDEN .. name) == "dir" then out[#out + 1] = name end
  end
  return out
end

T.test("the logits are transformers'", function()
  for _, name in ipairs(all()) do
    local folder, want = golden(name)
    local ok, m = pcall(lab.model.load, folder)
    T.ok(ok, name .. ": " .. tostring(m))
    local got, worst = logits(m, want.ids), 0
    for t, row in ipairs(want.logits) do
      for v, x in ipairs(row) do worst = math.max(worst, math.abs(x - got[EVERY * (t - 1) + 1][v])) end
    end
    T.ok(worst < 1e-5, ("%s: off by %.3g"):format(name, worst))
  end
end)

-- What config.json says, without what says nothing: null, and the versions and types of other programs.
local function said(folder)
  local c = json.decode(sys.read(folder .. "/config.json"))
  if not c.use_sliding_window then c.max_window_layers = nil end
  for _, key in ipairs { "transformers_version", "dtype", "torch_dtype", "use_cache", "rope_theta", "rope_scaling",
                         "add_cross_attention", "is_decoder" } do c[key] = nil end
  for k, v in pairs(c) do
    if v == json.null then c[k] = nil end
  end
  return c
end

T.test("./lab repl FOLDER: a model of others is changed, measured, put back", function()
  local numbers, folder = T.numbers(600), T.folder() .. "/m"
  lab.model.new({ arch = "gptj", layers = 2, width = 16, heads = 2, mlp = 24, context = 16, seed = 1,
                  vocabulary = lab.data.open(numbers).vocabulary }):export(folder)
  sys.write(folder .. "/lines", ('s:parts %q\n'):format(numbers)
    .. 's.layer["*"]:set{denominator="none", output_norm="l2"}\ns:undo()\nprint(#s.log, m.vocabulary.kind)\n')
  local pipe <close> = io.popen(("'%s' repl '%s' <'%s/lines' 2>&1"):format(sys.program(), folder, folder))
  local text = pipe:read "a"
  T.ok(text:find "loss +[+-]0%.%d+ %[" and text:find "\n0\tcharacters\n", text)
end)

T.test("what came in goes out: config and tensors", function()
  for _, name in ipairs(all()) do
    local folder, want = golden(name)
    local m, out = lab.model.load(folder), T.folder() .. "/out"
    m:export(out)
    local before, after = said(folder), said(out)
    for k, v in pairs(before) do
      if k == "rope_parameters" and v.mscale then -- the two become the factor that they give
        T.near(after[k].attention_factor, (0.07 * math.log(8) + 1) / (0.03 * math.log(8) + 1), 1e-12)
      elseif k ~= "max_window_layers" or not before.layer_types then -- these say it
        T.eq({ name, k, after[k] }, { name, k, v })
      end
    end
    local theirs, ours = core.safetensors.open(folder .. "/model.safetensors"), core.safetensors.open(out .. "/model.safetensors")
    for key, t in pairs(ours) do
      local had = theirs[key] or theirs[key:gsub("^transformer%.", "")]
      T.ok(had, ("%s: '%s' is new"):format(name, key))
      T.eq({ name, key, had:to "f32":flat() }, { name, key, t:flat() })
    end
    T.eq(logits(lab.model.load(out), want.ids), logits(m, want.ids))
    T.raises(function() m:export(out) end, "option overwrite writes over it")
    m:export(out, { overwrite = true, shard = 3000, dtype = "bf16" })
    T.raises(function() m:export(nil) end, "path of a folder expected, got nil")
    T.ok(sys.exists(out .. "/model.safetensors") == nil and sys.exists(out .. "/model.safetensors.index.json") == "file", "shards")
    T.near(logits(lab.model.load(out), want.ids), logits(m, want.ids), 0.3)
  end
end)

T.test("a context of 262,144: windows of 1,024 unless somebody says more, and nothing of its size is made", function()
  local folder, copy = GOLDEN .. "llama", T.folder()
  local c = json.decode(sys.read(folder .. "/config.json"))
  c.max_position_embeddings, c.vocab_size = 262144, 70
  local tensors = core.safetensors.open(folder .. "/model.safetensors")
  for _, name in ipairs { "model.embed_tokens.weight", "lm_head.weight" } do
    tensors[name] = core.op.concat({ tensors[name], tensors[name], tensors[name][{ { 1, 6 } }] }, { axis = 1 })
  end
  sys.write(copy .. "/config.json", json.encode(c))
  core.safetensors.save(copy .. "/model.safetensors", tensors)
  local m, before = lab.model.load(copy), core.memory().live
  local set = require("attnlab.data").open "shakespeare" -- its 65 characters, as the model has no vocabulary
  local ev = lab.evalset { data = set, windows = 2 }
  T.ok(ev(m) > 0 and ev.context == 1024, "windows of " .. tostring(ev.context))
  ev = lab.evalset { data = set, windows = 1, context = 1500 }
  T.ok(ev(m) > 0 and ev.context == 1500, "windows of " .. tostring(ev.context))
  local text, ids = m:generate { prompt = { 1, 2, 3 }, tokens = 20, eos = false }
  T.eq(#ids, 23)
  collectgarbage()
  T.ok(core.memory().live - before < 64 << 20, "memory of the context")
  local own = copy .. "/own"
  m:save(own)
  local again = lab.evalset { data = set, windows = 1 }
  again(lab.model.load(own))
  T.eq(again.context, 1024)
end)

T.test("a tokenizer beside the weights comes and goes with them", function()
  local folder, out = T.folder(), T.folder() .. "/out"
  local tokenizer = lab.tokenizer(T.root .. "tests/golden/tokenizers/gpt2.json")
  lab.model.new({ layers = 1, width = 16, heads = 2, vocab = tokenizer:size() + 3, context = 16, seed = 1 }):export(folder .. "/m")
  folder = folder .. "/m"
  T.eq(lab.model.load(folder).vocabulary, nil)
  sys.write(folder .. "/tokenizer.json", sys.read(T.root .. "tests/golden/tokenizers/gpt2.json"))
  sys.write(folder .. "/tokenizer_config.json", '{ "bos_token": null, "model_max_length": 1000000000000000019884624838656 }')
  local m = lab.model.load(folder)
  T.ok(m.vocabulary:same(tokenizer), "the tokenizer beside")
  T.ok(#(m:generate { prompt = "it", tokens = 3 }) > 2, "text")
  m:export(out)
  T.eq(lab.model.load(out).vocabulary:hash(), m.vocabulary:hash())
  T.eq(lab.model.load(folder, { tokenizer = false }).vocabulary, nil)
  sys.write(folder .. "/tokenizer.json", "{")
  T.raises(function() lab.model.load(folder) end, "tokenizer.json.*option tokenizer=false loads the model without it")
  local c = json.decode(sys.read(out .. "/config.json"))
  T.eq(c.eos_token_id, m.vocabulary.eos or json.null)
  m:export(out, { overwrite = true })
  local before = sys.sha256(sys.read(out .. "/model.safetensors"))
  local function refused(vocab, tokenizer, pattern)
    local other = lab.model.new { layers = 1, width = 16, heads = 2, vocab = vocab, context = 16, seed = 2, vocabulary = tokenizer }
    T.raises(function() other:export(out, { overwrite = true }) end, "tokenizer in '.*' is not the model's, which has " .. pattern)
  end
  refused(m.config.vocab, nil, "none")
  refused(512, lab.tokenizer(T.root .. "experiments/models/tok512.bin"), "another one")
  T.eq(sys.sha256(sys.read(out .. "/model.safetensors")), before)
  local other = lab.model.new { layers = 1, width = 16, heads = 2, vocab = 512, context = 16, seed = 2 }
  other:export(folder .. "/n")
  sys.write(folder .. "/n/tokenizer.bin", sys.read(T.root .. "experiments/models/tok512.bin"))
  other = lab.model.load(folder .. "/n")
  sys.remove(out .. "/tokenizer.json")
  sys.remove(out .. "/tokenizer_config.json")
  other:export(out, { overwrite = true })
  T.ok(lab.model.load(out).vocabulary:same(other.vocabulary), "the tokenizer that was written")
  local lock = sys.lock(out .. "/.lock")
  T.raises(function() other:export(out, { overwrite = true }) end, "another process is writing it")
  lock:close()
  other:export(out, { overwrite = true })
  T.eq(sys.list(out), { "config.json", "model.safetensors", "tokenizer.bin" })
end)

T.test("an export that fails leaves the model that lay there", function()
  local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)
  local dir = T.folder()
  local out, said = dir .. "/m", dir .. "/said"
  local m = lab.model.load(T.root .. "experiments/models/stories260K.bin")
  m:export(out)
  local list, before, gave = sys.list(out), sys.read(out .. "/config.json"), lab.model.load(out):forward({ { 1, 403 } }):flat()
  local pid = sys.spawn { "/bin/sh", "-c", [[ulimit -f 16; exec "$@"]], "sh", tiny.program, "export", GOLDEN .. "gpt_neox", out,
                          "--overwrite", "dtype=f64", stdout = said, stderr = said }
  T.eq({ sys.wait(pid) }, { "exited", 1 })
  T.ok(sys.read(said):find "is not the model's, which has none", sys.read(said))
  pid = sys.spawn { "/bin/sh", "-c", [[ulimit -f 16; exec "$@"]], "sh", tiny.program, "export", "stories260K", out, "--overwrite",
                    "shard=400000", stdout = said, stderr = said }
  T.eq({ sys.wait(pid) }, { "exited", 1 })
  T.ok(sys.read(said):find "File too large", sys.read(said))
  T.eq({ sys.list(out), sys.read(out .. "/config.json") }, { list, before })
  T.eq(lab.model.load(out):forward({ { 1, 403 } }):flat(), gave)
  sys.mkdir(out .. "/.new") -- of one that was killed
  sys.write(out .. "/.new/model-00009-of-00009.safetensors", "")
  m:export(out, { overwrite = true })
  T.eq({ sys.list(out), sys.read(out .. "/config.json") }, { list, before })
end)

T.test("a mapping reads a layout of its own", function()
  local folder, mapping = T.root .. "tests/golden/mapping", T.root .. "experiments/models/head_by_head.lua"
  local want = json.decode(sys.read(folder .. "/expected.json"))
  local m = lab.model.load(folder, { mapping = mapping })
  T.near(logits(m, want.ids), want.logits, 1e-5)
  local own = T.folder() .. "/m"
  m:save(own)
  T.eq(logits(lab.model.load(own), want.ids), logits(m, want.ids)) -- without the mapping
  T.raises(function() m:export(T.folder() .. "/x") end, "gpt2: layer 1: bias=out")
  local copy = T.folder()
  local tensors = core.safetensors.open(folder .. "/model.safetensors")
  tensors["blocks.1.sa.heads.2.key.weight"], tensors["blocks.1.more"] = nil, tensors["lm_head.bias"]
  core.safetensors.save(copy .. "/model.safetensors", tensors)
  sys.write(copy .. "/config.json", sys.read(folder .. "/config.json"))
  T.raises(function() lab.model.load(copy, { mapping = mapping }) end, "tensor 'blocks.1.sa.heads.2.key.weight': is missing")
  sys.write(copy .. "/no.lua", "return { read = 3 }")
  T.raises(function() lab.model.load(copy, { mapping = copy .. "/no.lua" }) end, "no.lua': a table with a function `read` expected")
  T.raises(function() lab.model.load(folder) end, "key 'model_type': a word expected, the key is missing")
end)

T.test("surgery, steps and our own files, for each architecture", function()
  for _, name in ipairs(all()) do
    local folder, want = golden(name)
    local m = lab.model.load(folder, { dtype = "f64" })
    local whole, ids = logits(m, want.ids), core.tensor { data = want.ids, shape = { 1, #want.ids }, dtype = "i32" }
    local function stepped(x)
      local st, rows = x:state(), {}
      for t = 1, #want.ids do
        local y
        y, st = x:step(ids[{ {}, { t, t } }], st)
        rows[t] = y[{ 1, 1 }]:totable()
      end
      return rows
    end
    T.near(stepped(m), whole, 1e-9)
    local starts = core.tensor { data = { { 0, 0, 0, 0, 4, 4, 4, 4, 4, 4 } }, dtype = "i32" }
    local packed = m:forward({ table.move(want.ids, 1, 10, 1, {}) }, { documents = starts })
    T.near(packed[{ 1, { 5, 10 } }], m:forward({ table.move(want.ids, 5, 10, 1, {}) })[{ 1 }], 1e-9)
    local path = T.folder() .. "/m"
    m:save(path)
    T.near(logits(lab.model.load(path, { dtype = "f64" }), want.ids), whole, 1e-12)
    local s = m:fork()
    s.layer["*"]:set { preset = "softmax", denominator = "none", output_norm = "l2" }
    local changed = logits(s, want.ids)
    T.ok(math.abs(changed[5][1] - whole[5][1]) > 1e-3, name .. ": nothing changed")
    T.near(stepped(s), changed, 1e-9)
    T.near(logits(m, want.ids), whole, 0)
    s:undo()
    T.near(logits(s, want.ids), whole, 0)
    local y = core.tensor { data = want.ids, shape = { 1, #want.ids }, dtype = "i32" }
    m:loss(ids, y):backward()
    for key, t in pairs(m:parameters()) do T.ok(t:grad(), name .. ": no gradient of " .. key) end
  end
end)
