-- BertModel, BertForMaskedLM, BertForPreTraining and BertForSequenceClassification: keys of config.json <-> options of our
-- bert, whose task is that of `architectures`, and without this key what the tensors are for. Names with and without
-- "bert." in front are read, gamma and beta for the weight and bias of norms, too; position_ids are no weights. Heads that
-- the class does not have are left out, as transformers does: files of BertForMaskedLM often have those of pretraining.
-- Dropout is not taken over: m:as{dropout=0.1} trains on with it.
local activation = require "attnlab.model.hub.activation"
local core = require "attnlab.core"
local layers = require "attnlab.model.hub.layers"
local plain = require "attnlab.model.hub.plain"
local rules = require "attnlab.model.hub.names"

local TASKS = { BertForPreTraining = "pretraining", BertForMaskedLM = "mlm", BertForSequenceClassification = "classifier",
                BertModel = "pooled" }
local CLASSES = { hidden = "BertModel" }
for class, task in pairs(TASKS) do CLASSES[task] = class end

local DECODER, BIAS = "cls.predictions.decoder.weight", "cls.predictions.bias"
local WORDS, POOLER, NEXT = "bert.embeddings.word_embeddings.weight", "bert.pooler.dense.weight", "cls.seq_relationship.weight"

-- Heads that a task has, as beginnings of names.
local HEADS = { hidden = {}, pooled = { "bert.pooler." }, mlm = { "cls.predictions." }, classifier = { "bert.pooler.", "classifier." },
                pretraining = { "bert.pooler.", "cls.predictions.", "cls.seq_relationship." } }

local M = { arch = "bert", architectures = { "BertModel", "BertForMaskedLM", "BertForPreTraining", "BertForSequenceClassification" },
            harmless = { "_num_labels", "is_decoder" }, rules = {} }

for ours, theirs in pairs { q_proj = "self.query", k_proj = "self.key", v_proj = "self.value", o_proj = "output.dense" } do
  for _, part in ipairs { "weight", "bias" } do
    M.rules[#M.rules + 1] = { ("bert.encoder.layer.#.attention.%s.%s"):format(theirs, part),
                              ours = ("bert.encoder.layer.#.attention.%s.%s"):format(ours, part) }
  end
end

function M.read(c)
  local m = { arch = "bert", layers = c:integer "num_hidden_layers", width = c:integer "hidden_size",
              heads = c:integer "num_attention_heads", mlp = c:integer "intermediate_size", vocab = c:integer "vocab_size",
              context = c:integer("max_position_embeddings", 512), token_types = c:integer("type_vocab_size", 2),
              norm_eps = c:number("layer_norm_eps", 1e-12, 0), tied = c:bool("tie_word_embeddings", true),
              activation = c:word("hidden_act", activation.WORDS, "gelu") }
  plain.heads(c, m, "num_attention_heads", "hidden_size")
  c:must("position_embedding_type", "absolute")
  c:must("is_decoder", false)
  local given = c:get "architectures"
  m.task = given and TASKS[given[1]]
  return { model = m, attention = { preset = "softmax" } }
end

-- The tensors of a file by the names of BertForPreTraining, and what they are called there.
local function named(tensors, fail)
  local out, from = {}, {}
  for name, t in next, tensors do
    local full = name:gsub("%.gamma$", ".weight"):gsub("%.beta$", ".bias")
    if not full:find "^bert%." and not full:find "^cls%." and not full:find "^classifier%." then full = "bert." .. full end
    if full ~= "bert.embeddings.position_ids" then
      if out[full] then fail(name, ("stands for the same as tensor '%s'"):format(from[full])) end
      out[full], from[full] = t, name
    end
  end
  return out, from
end

local function task_of(given, all)
  if given and given ~= "pooled" then return given end
  if not given and all["classifier.weight"] then return "classifier" end
  if not given and all[BIAS] then return all[NEXT] and "pretraining" or "mlm" end
  return all[POOLER] and "pooled" or "hidden"
end

-- Leaves out the heads that the task has not.
local function heads_of(task, all)
  for name in pairs(all) do
    local of_head, has = not name:find "^bert%." or name:find "^bert%.pooler%." ~= nil, false
    for _, beginning in ipairs(HEADS[task]) do has = has or name:sub(1, #beginning) == beginning end
    if of_head and not has then all[name] = nil end
  end
end

-- The decoder's own weights go where they are the embedding's; a bias of its own is the one that is added.
local function decoder(all, tied, fail)
  all[BIAS], all["cls.predictions.decoder.bias"] = all["cls.predictions.decoder.bias"] or all[BIAS], nil
  local own, words = all[DECODER], all[WORDS]
  if not (tied and own and words) then return end
  if not rules.equal(own, words) then
    fail(DECODER, ("is not '%s', though tie_word_embeddings is true"):format(WORDS))
  end
  all[DECODER] = nil
end

function M.load(tensors, options, fail)
  local all, from = named(tensors, fail)
  local m = options.model
  m.task = task_of(m.task, all)
  heads_of(m.task, all)
  for name, t in pairs(all) do
    if not core.is_tensor(t) then fail(from[name], t.why) end
  end
  decoder(all, m.tied, fail)
  local rows = all["classifier.weight"]
  if rows and rows:ndim() == 2 then m.classes = rows:size(1) end
  if m.task == "classifier" and m.classes == nil then fail("classifier.weight", "a matrix of a row a class expected") end
  return (rules.read(M.rules, all, m, fail))
end

function M.write(m)
  local o = m.config
  local list, why = layers.expect(m, { kinds = { softmax = true }, rope = "none", bias = true })
  if not list then return nil, why end
  if plain.other_heads(o) then return nil, plain.other_heads(o) end
  local dropout = tonumber(m.layers[1].attention.family:text(true):match "dropout=(%S+)")
  local c = { architectures = { CLASSES[o.task] }, num_hidden_layers = o.layers, hidden_size = o.width, num_attention_heads = o.heads,
              intermediate_size = o.mlp, vocab_size = o.vocab, max_position_embeddings = o.context, type_vocab_size = o.token_types,
              layer_norm_eps = o.norm_eps, tie_word_embeddings = o.tied, hidden_act = activation.of(o, "gelu"),
              position_embedding_type = "absolute" }
  if o.dropout > 0 or not m.hub then c.hidden_dropout_prob = o.dropout end
  if dropout > 0 or not m.hub then c.attention_probs_dropout_prob = dropout end
  if o.task == "classifier" then
    c.id2label, c.label2id = {}, {}
    for k = 0, o.classes - 1 do
      c.id2label[tostring(k)], c.label2id["LABEL_" .. k] = "LABEL_" .. k, k
    end
  end
  return c
end

-- A decoder that is not tied has its bias under its own name, too. BertModel reads names with "bert." in front.
function M.tensors(own, m)
  local out = {}
  for name, t in pairs(own) do
    out[name] = t
    if name == BIAS and not m.config.tied then out["cls.predictions.decoder.bias"] = t:clone() end
  end
  return out
end

return M
