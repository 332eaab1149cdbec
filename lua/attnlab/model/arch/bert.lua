-- BERT (Devlin et al. 2019): x = norm(x + attention x); x = norm(x + mlp x), where every token sees the whole text. It
-- fills in hidden tokens, says whether a second sentence follows the first, or sorts texts into classes. What it is for
-- is the option `task`:
--   "mlm"          logits (B,T,vocab) of each token, from the words around it
--   "pretraining"  these, and of the pooled first token whether the second sentence is the next one
--   "classifier"   logits (B,classes) of the pooled first token, tanh(W h_1 + b)
--   "pooled", "hidden"   none: m:pooled(h) and m:hidden(ids), or the latter alone
-- ids i32 (B,T); m:hidden(ids, {token_types = (B,T) i32, lengths = (B)}) -> (B,T,width). Tensors carry the names of
-- Hugging Face's BertForPreTraining but for the projections of attention, attention.q_proj for attention.self.query.
-- A norm belongs to the block before it by its name, and is run by the block behind it with the sum that it is of.
local core = require "attnlab.core"
local config = require "attnlab.config"
local devices = require "attnlab.devices"
local masking = require "attnlab.model.masking"
local names = require "attnlab.names"
local nn = require "attnlab.nn"
local LanguageModel = require "attnlab.model.language"
local Module = nn.Module

-- ---- one block --------------------------------------------------------------------------------------

local Block = Module.class "BertBlock"

local function linear(self, m, key, inputs, outputs)
  return self:child(key, nn.Linear(inputs, outputs, self:part(key, { bias = true, init = m.init, deviation = m.init_deviation })))
end

local function norm(self, m, key)
  return self:child(key, nn.LayerNorm(m.width, self:part(key, { eps = m.norm_eps })))
end

local function activation_of(m) return m.activation == "auto" and "gelu" or m.activation end

function Block.new(m, spec, opts)
  local self = Module.create(Block, opts)
  self.activation, self.dropout = activation_of(m), m.dropout
  self.attention = self:child("attention", nn.Attention(m.width, spec, self:part("attention", {
    heads = m.heads, kv_heads = m.kv_heads, head_dim = m.head_dim, init = m.init, deviation = m.init_deviation })))
  self.attention_norm = norm(self, m, "attention.output.LayerNorm")
  self.up, self.down = linear(self, m, "intermediate.dense", m.width, m.mlp), linear(self, m, "output.dense", m.mlp, m.width)
  self.output_norm = norm(self, m, "output.LayerNorm")
  return self
end

-- t, or in training t with some of its numbers dropped.
local function dropped(self, t)
  if not self.training or self.dropout == 0 then return t end
  local all <close> = t
  return all:dropout { p = self.dropout }
end

-- As language.lua calls it; input_norm is that of the block before, or of the embeddings.
function Block:forward(x, a, opts)
  local sum, normed = self.input_norm:add(x, a)
  local n <close> = self.first and dropped(self, normed) or normed
  local attended, after = self.attention(n, opts)
  local heads <close> = dropped(self, attended)
  local mid <close>, y = self.attention_norm:add(n, heads, opts and opts.taps and opts.taps["residual.mid"])
  if a then sum:free() end
  local up <close> = self.up(y)
  local hidden <close> = up[self.activation](up)
  return y, dropped(self, self.down(hidden)), after
end

-- ---- the model --------------------------------------------------------------------------------------

local Bert = LanguageModel.class "Bert"

-- What options are where a configuration does not say them.
Bert.defaults = { model = { norm_eps = 1e-12, init = "normal", tied = true }, attention = { rope = "none", bias = true } }
Bert.takes = { activation = { "gelu", "gelu_new", "relu", "silu" }, dropout = true, task = true, classes = true, token_types = true }
Bert.causal = false

local POOLED = { pretraining = true, classifier = true, pooled = true }
local MASKED = { mlm = true, pretraining = true }

-- Internal: as language.lua calls it.
function Bert.new(m, attention, opts)
  local self = LanguageModel.create(Bert, m, attention, opts)
  local function table_of(key, rows)
    key = "bert.embeddings." .. key
    return self:child(key, nn.Embedding(rows, m.width, self:part(key, { deviation = m.init_deviation })))
  end
  self.embedding, self.positions = table_of("word_embeddings", m.vocab), table_of("position_embeddings", m.context)
  self.token_types = table_of("token_type_embeddings", m.token_types)
  local before = norm(self, m, "bert.embeddings.LayerNorm")
  self:add_layers("bert.encoder.layer.", Block)
  for _, block in ipairs(self.layers) do
    block.input_norm, before = before, block.output_norm
  end
  self.norm, self.layers[1].first, self.dropout = before, true, m.dropout
  if POOLED[m.task] then self.pooler = linear(self, m, "bert.pooler.dense", m.width, m.width) end
  if MASKED[m.task] then
    self.transform = linear(self, m, "cls.predictions.transform.dense", m.width, m.width)
    self.transform_norm = norm(self, m, "cls.predictions.transform.LayerNorm")
    if not m.tied then
      self.head = self:child("cls.predictions.decoder", nn.Linear(m.width, m.vocab,
        self:part("cls.predictions.decoder", { init = "normal", deviation = m.init_deviation })))
    end
    self:hold("cls.predictions.bias", { m.vocab })
    self:parameter("cls.predictions.bias", self:constant({ m.vocab }, 0))
  end
  if m.task == "pretraining" then self.next_head = linear(self, m, "cls.seq_relationship", m.width, 2) end
  if m.task == "classifier" then
    if m.classes < 1 then error("Bert: option 'classes': with task=classifier at least 1 expected, got " .. m.classes, 0) end
    self.classifier = linear(self, m, "classifier", m.width, m.classes)
  end
  return self
end

-- Internal: ids of a model that reads this vocabulary: one more than it has where it has no mask token.
function Bert.size_of(vocabulary)
  return vocabulary:size() + (masking.special(vocabulary).mask and 0 or 1)
end

-- Internal: positions are learned.
function Bert:has_positions() return true end

-- ---- ids to logits ----------------------------------------------------------------------------------

-- Internal: word, position and token type of each token, added; the norm is the first block's.
function Bert:embed(ids, _, _, own)
  local list, types = {}, own.token_types or core.zeros { shape = { 1, 1 }, dtype = "i32" }
  for t = 1, ids:size(2) do list[t] = t - 1 end
  if own.token_types and not Module.same_kind(types, ids) then
    error(("forward: token_types: shape (%s), one a token, expected, got (%s)"):format(table.concat(ids:shape(), ","),
      table.concat(types:shape(), ",")), 0)
  end
  local words <close> = self.embedding(ids)
  local places <close> = self.positions(core.tensor { data = list, shape = { 1, #list }, dtype = "i32" })
  local both <close> = words + places
  local kinds <close> = self.token_types(types)
  return both + kinds
end

-- opts without those named, which are a table of their own.
local function apart(opts, list)
  local own, rest = {}, {}
  for k, v in pairs(names.options("forward", opts)) do
    local to = names.find(list, k) and own or rest
    to[k] = v
  end
  return rest, own
end

-- Hidden states (B,T,width) behind the last norm. opts: token_types (B,T) i32 (0), lengths, taps; causal=false.
function Bert:hidden(ids, opts)
  local rest, own = apart(opts, { "token_types" })
  if rest.state ~= nil then Bert.state() end
  if rest.documents ~= nil then error("forward: documents: a BERT reads one text a row, no packed ones", 0) end
  if rest.causal == nil then rest.causal = false end
  own.token_types = own.token_types and LanguageModel.as_ids(own.token_types, "token_types")
  return LanguageModel.hidden(self, ids, rest, own)
end

-- Refuses what the model has no part for.
local function need(self, part, what, task)
  return part or error(("%s: a BERT of task=%s has no such head: task=%s expected"):format(what, self.config.task, task), 0)
end

-- The pooled first tokens (B,width) of hidden states (B,T,width), in -1..1.
function Bert:pooled(h)
  local pooler = need(self, self.pooler, "pooled", "pretraining, classifier or pooled")
  local first <close> = h[{ {}, 1 }]:contiguous()
  local straight <close> = pooler(first)
  return straight:tanh()
end

-- Of hidden states (B,T,width): logits (B,T,vocab) of each token.
function Bert:logits(h)
  local transform = need(self, self.transform, "logits", "mlm or pretraining")
  local up <close> = transform(h)
  local active <close> = up[activation_of(self.config)](up)
  local normed <close> = self.transform_norm(active)
  return normed:matmul((self.head or self.embedding).weight, { transpose_b = true, bias = self["cls.predictions.bias"] })
end

-- Of hidden states (B,T,width): logits (B,2), first that the second sentence follows, then that it does not.
function Bert:next_sentence(h)
  local head = need(self, self.next_head, "next_sentence", "pretraining")
  local pooled <close> = self:pooled(h)
  return head(pooled)
end

-- Of hidden states (B,T,width): logits (B,classes).
function Bert:classes(h)
  local head = need(self, self.classifier, "classes", "classifier")
  local pooled <close> = dropped(self, self:pooled(h))
  return head(pooled)
end

-- Logits of ids (B,T): (B,classes) with task=classifier, else (B,T,vocab). opts as of hidden.
function Bert:forward(ids, opts)
  local h <close> = self:hidden(ids, opts)
  return self.classifier and self:classes(h) or self:logits(h)
end

-- Cross entropies in nats given ids x (B,T): of targets y (B,T), or with task=classifier of classes y (B); and with
-- task=pretraining of opts.next (B) i32 (0: the second sentence follows, 1: it does not).
local function losses(self, x, y, opts, reduction)
  local rest, own = apart(opts, { "next" })
  if (own.next ~= nil) ~= (self.next_head ~= nil) then
    error(("loss: a BERT of task=%s %s"):format(self.config.task, own.next and "takes no next= of sentences, as task=pretraining does"
      or "needs next=, of each pair of sentences whether the second follows; task=mlm learns from running text"), 0)
  end
  if self.config.classes == 1 and self.classifier then
    error("loss: a classifier of one class has nothing to tell apart, and regression is not known here", 0)
  end
  local h <close> = self:hidden(x, rest)
  local logits <close> = self.classifier and self:classes(h) or self:logits(h)
  local first = logits:cross_entropy(y, { reduction = reduction })
  if not own.next then return first end
  local follows <close> = self:next_sentence(h)
  return first, follows:cross_entropy(own.next, { reduction = reduction })
end

-- Mean cross entropy of the targets, -100 where none is asked for, and what that of next sentences adds.
function Bert:loss(x, y, opts)
  local first, second = losses(self, x, y, opts, "mean")
  if not second then return first end
  local words <close> = first
  local follows <close> = second
  return words + follows
end

-- Internal: the same of each row (B), as evalset.lua asks for it.
function Bert:row_losses(x, y, opts)
  local first, second = losses(self, x, y, opts, "none")
  if self.classifier then return first end
  local B, T, ids, share = y:size(1), y:size(2), y:flat(), {}
  for b = 1, B do
    local n = 0
    for t = (b - 1) * T + 1, b * T do n = n + (ids[t] ~= masking.NONE and 1 or 0) end
    share[b] = 1.0 / math.max(1, n)
  end
  local each <close> = first
  local sum <close> = each:sum { axes = { 2 } }
  local words = sum * core.tensor { data = share, shape = { B }, dtype = sum:dtype() }
  return second and words + second or words
end

-- The model again with other heads: m:as{task="classifier", classes=2}. A new model with copies of all tensors that both
-- have; others are new, a function of opts.seed (the model's). opts: task, classes, dropout; without one it stays.
function Bert:as(opts)
  opts = names.options("as", opts, { "task", "classes", "dropout", "seed" })
  local c = config.copy(self.config)
  for k, v in pairs(opts) do
    if k ~= "seed" then c[k] = v end
  end
  local new = require("attnlab.model").new { model = c, attention = self.spec, seed = opts.seed or self.seed, dtype = self.dtype,
                                             device = self.device, vocabulary = self.vocabulary }
  local own = self:tensors()
  for name, t in pairs(new:tensors()) do
    if own[name] and Module.same_kind(own[name], t) then t:copy_(own[name]) end
  end
  new.hub, new.trained_on = self.hub, self.trained_on
  return new:train(self.training)
end

-- ---- what it learns from ----------------------------------------------------------------------------

-- Internal: as of LanguageModel, tokens of the texts are hidden, to be found again, where the task is to.
function Bert:examples(draw, seed, index)
  if not MASKED[self.config.task] then return draw() end
  local x, y, more = devices.on("cpu", draw) -- where numbers are read
  if x == nil then return nil end
  more = devices.on("cpu", masking.with_lengths, y, more)
  local hidden, targets = devices.on("cpu", masking.hidden, x, masking.options(self, more, seed, index))
  x:free()
  y:free()
  if self.device == "cpu" then return hidden, targets, more end
  for k, t in pairs(more or {}) do more[k] = t:to(self.device) end
  return hidden:to(self.device), targets:to(self.device), more
end

-- ---- what it does not have --------------------------------------------------------------------------

local function refuse(name, why)
  Bert[name] = function() error(("%s: a BERT %s"):format(name, why), 0) end
end

for _, name in ipairs { "state", "fresh", "step", "load_state" } do
  refuse(name, "reads a text at once, both ways, and has no state that goes on")
end
refuse("generate", "fills in hidden tokens of a text that is there (m:forward) and writes none on")
refuse("fork", "is not operated on: surgery measures a model by its next tokens, which it does not predict; its attention is "
  .. "chosen in its configuration")

-- Internal: none.
function Bert:state_bytes() return nil end

-- What attention runs for T tokens and why, one line for each plan that occurs among the layers.
function Bert:plan(T)
  return (LanguageModel.plan(self, T):gsub("; [^;\n]*decoding[^;\n]*", ""))
end

devices.wrap(Bert, { "hidden", "pooled", "logits", "next_sentence", "classes", "forward", "loss", "row_losses" })

return Bert
