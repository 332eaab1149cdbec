-- BERTs as Hugging Face has them: golden/bert/ against transformers, out again, other heads, what is refused.
local T = ...
local core = require "attnlab.core"
local lab = require "attnlab"
local json, sys = core.json, core.sys

local GOLDEN = T.root .. "tests/golden/bert/"
local NAMES = { "pretraining", "masked", "classifier", "old" }

local function golden(name) return GOLDEN .. name, json.decode(sys.read(GOLDEN .. name .. "/reference.json")) end

local function worst(t, want)
  local off, got = 0, t:flat()
  T.eq(#got, #want)
  for i, v in ipairs(got) do off = math.max(off, math.abs(v - want[i])) end
  return off
end

-- Weights are f32; of it 12 channels, 2 layers and 9 tokens lose a few 1e-7. The reference is f64.
local TOLERANCE = 5e-6

T.test("hidden states, pooled tokens and logits are transformers', with padding and token types", function()
  local tasks = { pretraining = "pretraining", masked = "mlm", classifier = "classifier", old = "pooled" }
  for _, name in ipairs(NAMES) do
    local folder, want = golden(name)
    local m = lab.model.load(folder)
    T.eq(m.config.task, tasks[name])
    local opts, seen, got = { lengths = want.lengths, token_types = want.token_types }, {}, {}
    local function keep(i) return { x = function(t) seen[i] = t:detach():clone() end } end
    lab.no_grad(function()
      seen[3] = m:hidden(want.ids, { lengths = want.lengths, token_types = want.token_types, taps = { keep(1), keep(2) } })
      for i = 1, 3 do got["hidden " .. i] = worst(seen[i], want.hidden[i]) end
      if name ~= "masked" then got.pooled = worst(m:pooled(seen[3]), want.pooled) end
      if name ~= "old" then got.logits = worst(m:forward(want.ids, opts), want.logits) end
      if want.next then got.next = worst(m:next_sentence(seen[3]), want.next) end
    end)
    for what, off in pairs(got) do T.ok(off < TOLERANCE, ("%s: %s off by %.3g"):format(name, what, off)) end
  end
end)

T.test("on the way out: the same config and tensors, and again in", function()
  for _, name in ipairs(NAMES) do
    local folder, out = GOLDEN .. name, T.folder() .. "/out"
    local m = lab.model.load(folder)
    m:export(out)
    local before, after = json.decode(sys.read(folder .. "/config.json")), json.decode(sys.read(out .. "/config.json"))
    for k, v in pairs(before) do
      local about = k == "dtype" or k == "is_decoder" or k == "add_cross_attention" or v == json.null -- that say nothing
      if not about then T.eq({ name, k, after[k] }, { name, k, v }) end
    end
    local theirs, ours, n = core.safetensors.open(folder .. "/model.safetensors"), core.safetensors.open(out .. "/model.safetensors"), 0
    for key, t in pairs(ours) do
      local old = key:gsub("^bert%.", ""):gsub("LayerNorm%.weight", "LayerNorm.gamma"):gsub("LayerNorm%.bias", "LayerNorm.beta")
      local had = theirs[key] or theirs[old]
      T.ok(had, ("%s: '%s' is new"):format(name, key))
      if key ~= "cls.predictions.bias" then T.eq({ name, key, had:flat() }, { name, key, t:flat() }) end
      n = n + 1
    end
    local had = 0
    for key in next, theirs do had = had + (key:find "position_ids" and 0 or 1) end
    T.eq({ name, n }, { name, had })
    local again = lab.model.load(out)
    for key, t in pairs(m:tensors()) do T.eq(again:tensors()[key], t) end
  end
end)

-- A copy of a golden folder with its config and tensors changed; loads it.
local function with(name, change)
  local f = T.folder()
  local config, tensors = json.decode(sys.read(GOLDEN .. name .. "/config.json")), {}
  for k, t in next, (core.safetensors.open(GOLDEN .. name .. "/model.safetensors")) do
    if core.is_tensor(t) then tensors[k] = t end
  end
  change(config, tensors)
  sys.write(f .. "/config.json", json.encode(config))
  core.safetensors.save(f .. "/model.safetensors", tensors, { format = "pt" })
  return lab.model.load(f)
end

T.test("the task is that of the class, or of the tensors that are there", function()
  local m = with("pretraining", function(c) c.architectures = { "BertForMaskedLM" } end)
  T.eq(m.config.task, "mlm")
  T.eq({ m.pooler, m.next_head }, {})
  local _, want = golden "pretraining"
  lab.no_grad(function()
    T.ok(worst(m:forward(want.ids, { lengths = want.lengths, token_types = want.token_types }), want.logits) < TOLERANCE)
  end)
  T.eq(with("pretraining", function(c) c.architectures = { "BertModel" } end).config.task, "pooled")
  for _, name in ipairs(NAMES) do
    T.eq(with(name, function(c) c.architectures = nil end).config.task, lab.model.load(GOLDEN .. name).config.task)
  end
  T.eq(with("old", function(_, t) t["pooler.dense.weight"], t["pooler.dense.bias"] = nil, nil end).config.task, "hidden")
  local tied = with("pretraining", function(_, t) t["cls.predictions.decoder.weight"] = t["bert.embeddings.word_embeddings.weight"]:clone() end)
  T.eq(tied.head, nil)
end)

T.test("the same model with other heads, trained on and exported", function()
  local m = lab.model.load(GOLDEN .. "pretraining")
  local c = m:as { task = "classifier", classes = 4, seed = 9, dropout = 0.1 }
  T.eq({ c.config.task, c.config.classes, c.config.dropout, m.config.task }, { "classifier", 4, 0.1, "pretraining" })
  T.eq(c:tensors()["bert.pooler.dense.weight"], m:tensors()["bert.pooler.dense.weight"])
  T.eq(m:as({ task = "classifier", classes = 4, seed = 9 }).classifier.weight, c.classifier.weight)
  c.classifier.weight:fill(0)
  T.ok(c.embedding.weight ~= m.embedding.weight)
  local out = T.folder() .. "/c"
  c:export(out)
  local config = json.decode(sys.read(out .. "/config.json"))
  T.eq({ config.architectures, config.hidden_dropout_prob, config.id2label["3"] }, { { "BertForSequenceClassification" }, 0.1, "LABEL_3" })
  T.raises(function() m:as { tasks = "mlm" } end, "as: unknown option 'tasks' %(did you mean 'task'")
  T.raises(function() m:as { task = "classifier" } end, "with task=classifier at least 1")
  local cosine = lab.model.new { arch = "bert", layers = 1, width = 8, heads = 2, context = 4, vocab = 9, seed = 1, attention = "p2/cottention" }
  T.raises(function() cosine:export(T.folder() .. "/x") end, "bert: layer 1: its attention is not plain softmax")
end)

T.test("what does not fit is refused by file, key and tensor", function()
  local function refused(name, change, pattern) T.raises(function() with(name, change) end, pattern) end
  refused("old", function(c) c.position_embedding_type = "relative_key" end, "config.json': key 'position_embedding_type': only \"?absolute")
  refused("old", function(c) c.is_decoder = true end, "key 'is_decoder'")
  refused("old", function(c) c.hidden_act = "tanh" end, "key 'hidden_act': unknown word 'tanh'")
  refused("old", function(c) c.num_attention_heads = 5 end, "key 'num_attention_heads': a divisor of hidden_size %(12%) expected, got 5")
  refused("old", function(c) c.architectures = { "BertForQuestionAnswering" } end, "key 'architectures': .*BertModel")
  refused("old", function(c) c.num_hidden_layers = 3 end, "model.safetensors: tensor 'bert.encoder.layer.2.attention.self.query.weight' is missing")
  refused("old", function(c) c.vocab_size = 24 end, "tensor 'bert.embeddings.word_embeddings.weight': shape %(24,12%) expected, got %(23,12%)")
  refused("old", function(_, t) t["bert.embeddings.word_embeddings.weight"] = t["embeddings.word_embeddings.weight"]:clone() end,
    "stands for the same as tensor")
  refused("old", function(_, t) t["encoder.layer.0.extra"] = t["embeddings.LayerNorm.gamma"]:clone() end, "unknown tensor 'bert.encoder.layer.0.extra'")
  refused("masked", function(_, t) t["cls.predictions.decoder.weight"] = nil end, "tensor 'cls.predictions.decoder.weight' is missing")
  refused("masked", function(c) c.tie_word_embeddings = true end,
    "tensor 'cls.predictions.decoder.weight': is not 'bert.embeddings.word_embeddings.weight', though tie_word_embeddings is true")
  refused("classifier", function(_, t) t["classifier.weight"] = nil end, "'classifier.weight': a matrix of a row a class expected")
  refused("classifier", function(_, t) t["classifier.bias"] = lab.zeros { shape = { 2 } } end, "'classifier.bias': shape %(3%) expected, got %(2%)")
  refused("pretraining", function(_, t) t["cls.seq_relationship.bias"] = nil end, "'cls.seq_relationship.bias' is missing")
  refused("pretraining", function(_, t) t["bert.embeddings.token_type_embeddings.weight"] = lab.zeros { shape = { 3, 12 } } end, "shape %(2,12%) expected")
end)
