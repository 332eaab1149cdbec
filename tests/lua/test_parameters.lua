-- Lists of parameters are sets of tensors: a tensor that has two names is updated, counted, clipped, decayed and
-- saved once, in modules, models, forks and files.
local T = ...
local core = require "attnlab.core"
local lab = require "attnlab"
local parameters = require "attnlab.parameters"
local Module = lab.nn.Module

-- Two linear layers: one layer under two names, or two layers with one weight.
local Twice = Module.class "Twice"
function Twice.new(opts)
  local self = Module.create(Twice, { seed = opts.seed })
  local function linear(key) return lab.nn.Linear(2, 2, self:part(key, { bias = false })) end
  self.b = self:child("b", linear "b")
  self.a = self:child("a", opts.layer and self.b or linear "a")
  if opts.weight then self.a:place { weight = self.b.weight } end
  return self
end
function Twice:forward(x) return self.a(self.b(x)) end

local KINDS = { { layer = true, seed = 1 }, { weight = true, seed = 1 } }

local function step(m, kind, opts)
  opts[1] = m:parameters()
  local o = lab.optim[kind](opts)
  m(lab.ones { shape = { 1, 2 } }):sum():backward()
  return o:step(), o
end

T.test("a tensor under two names is listed once, under the first of them", function()
  for _, opts in ipairs(KINDS) do
    local m = Twice.new(opts)
    local list = {}
    for name, t in pairs(m:parameters()) do list[#list + 1] = { name, t:numel() } end
    T.eq(list, { { "a.weight", 4 } })
    T.eq(#m:parameters(), 1)
    T.eq(m:n_parameters(), 4)
    T.eq(m:parameters()["b.weight"]:id(), m:parameters()["a.weight"]:id())
  end
  local untied = Twice.new { seed = 1 }
  T.eq(untied:n_parameters(), 8)
  T.ok(untied.a.weight:id() ~= untied.b.weight:id())
  T.ok(untied.a.weight:fork():id() ~= untied.a.weight:id() and untied.a.weight:detach():id() ~= untied.a.weight:id())
end)

T.test("it is updated, clipped and decayed once", function()
  for _, opts in ipairs(KINDS) do
    local m = Twice.new(opts)
    m.b.weight:fill(1)
    local norm = step(m, "adamw", { lr = 0.1 })
    T.near(norm, 8)
    T.near(m.b.weight:flat(), { 0.9, 0.9, 0.9, 0.9 }) -- Adam's first step is lr
    m.b.weight:fill(1)
    m:zero_grad()
    T.near(step(m, "sgd", { lr = 0.1, grad_clip = 2, weight_decay = 0.5 }), 8)
    T.near(m.b.weight:flat()[1], 1 * (1 - 0.1 * 0.5) - 0.1 * 4 * 2 / 8)
  end
end)

T.test("an optimiser takes any table of names, and an array, as a set", function()
  for _, make in ipairs { function(w) return { a = w, b = w } end, function(w) return { w, w } end } do
    local w = lab.tensor { 1 }:requires_grad(true)
    local o = lab.optim.adamw { make(w), lr = 0.1 }
    ;(w * 3):sum():backward()
    T.near(o:step(), 3)
    T.near(w:item(), 0.9)
    local n = 0
    for _ in pairs(o:state()) do n = n + 1 end
    T.eq(n, 2)
  end
  local w = lab.tensor { 1, 2 }:requires_grad(true)
  T.raises(function() lab.optim.sgd { { a = w, b = w:detach():requires_grad(true) } } end,
    "'a' and 'b' are two tensors in the same memory")
end)

T.test("a fork keeps what is one", function()
  for _, opts in ipairs(KINDS) do
    local m = Twice.new(opts)
    local before, f = m.b.weight:flat(), m:clone()
    T.eq(f:n_parameters(), 4)
    T.eq(f.a.weight:id(), f.b.weight:id())
    step(f, "sgd", { lr = 0.1 })
    T.eq(m.b.weight:flat(), before)
    T.eq(f.a.weight, f.b.weight)
  end
end)

T.test("files: one tensor, its other name, and names that stand for others", function()
  local dir = T.folder()
  for i, opts in ipairs(KINDS) do
    local m, path = Twice.new(opts), ("%s/%d.safetensors"):format(dir, i)
    core.safetensors.save(path, m:tensors())
    local tensors, metadata = core.safetensors.open(path)
    T.eq(metadata["b.weight"], "a.weight")
    T.eq(tensors["b.weight"]:id(), tensors["a.weight"]:id())
    core.safetensors.save(path, tensors, metadata) -- again, as it was read
    T.eq(select(2, core.safetensors.open(path)), metadata)
    local again = Twice.new { layer = opts.layer, weight = opts.weight, seed = 2 }
    again:load_parameters(core.safetensors.open(path), "the file")
    T.eq(again.b.weight, m.b.weight)
    local untied = Twice.new { seed = 2 }
    T.raises(function() untied:load_parameters(core.safetensors.open(path), "the file") end,
      "the file: 'b.weight' is a tensor of its own here, the tensor 'a.weight' in the file")
    core.safetensors.save(path, untied:tensors())
    T.raises(function() again:load_parameters(core.safetensors.open(path), "the file") end,
      "the file: 'b.weight' is the tensor 'a.weight' here, a tensor of its own in the file")
  end
end)

-- ---- models -----------------------------------------------------------------------------------------

local text = T.numbers(400)

local MODEL = { layers = 2, width = 8, heads = 2, mlp = 8, context = 12, vocab = 11 }
local function llama(more)
  local o = { seed = 5 }
  for k, v in pairs(MODEL) do o[k] = v end
  for k, v in pairs(more or {}) do o[k] = v end
  return lab.model.new(o)
end

-- With the head's weight as that of the embedding, and the second layer's mixing as the first's.
local function by_hand()
  local m = llama { attention = "p1/gated_softmax" }
  m.head:place { weight = m.embedding.weight }
  local key, own = "self_attn.attnlab.output_gate.weight", m:parameters()
  T.ok(own["model.layers.0." .. key], "a parameter of the family")
  m.layers[2]:place { [key] = own["model.layers.0." .. key] }
  return m
end

local function config_of(m, more)
  local t = { data = text, steps = 8, batch_size = 2, warmup_steps = 2, eval_interval = 8, weight_decay = 0.1 }
  for k, v in pairs(more or {}) do t[k] = v end
  return lab.config.resolve { model = m.config, attention = m.spec, train = t }
end

-- The other names, and the first one of each.
local function ties(m)
  local out = {}
  for name, first in pairs(parameters.first(m:tensors())) do out[name] = name ~= first and first or nil end
  return out
end

T.test("tied embeddings of a model's configuration: one tensor under one name", function()
  local m, untied = llama { tied = true }, llama()
  T.eq(untied:n_parameters() - m:n_parameters(), 11 * 8)
  T.eq(#untied:parameters() - #m:parameters(), 1)
  local path = T.folder() .. "/m.safetensors"
  m:save(path)
  T.eq(#lab.model.load(path):parameters(), #m:parameters())
  T.eq(m:fork():n_parameters(), m:n_parameters())
  untied:save(path)
  T.raises(function() m:load_parameters(core.safetensors.open(path), path) end, "unknown tensor 'lm_head.weight'")
end)

T.test("a model tied by hand survives a file and a fork", function()
  local m, untied = by_hand(), llama { attention = "p1/gated_softmax" }
  T.eq(untied:n_parameters() - m:n_parameters(), 11 * 8 + untied.layers[2].attention.family:parameters()["output_gate.weight"]:numel())
  local path = T.folder() .. "/m.safetensors"
  m:save(path)
  local again = lab.model.load(path)
  T.eq(ties(again), ties(m))
  T.eq(again:forward { { 1, 2, 3 } }, m:forward { { 1, 2, 3 } })
  local s = m:fork()
  T.eq(ties(s), ties(m))
  s.layer[1]:set { output_norm = "l2" }
  T.eq(ties(s), ties(m))
  local before = m:forward { { 1, 2, 3 } }
  s:tune { data = text, steps = 3, batch_size = 2, quiet = true }
  T.eq(ties(s), ties(m))
  T.eq(m:forward { { 1, 2, 3 } }, before)
  s:undo(2)
  T.eq(s:forward { { 1, 2, 3 } }, before)
end)

T.test("a model tied by hand trains on from its checkpoint bit for bit", function()
  local cfg, path = config_of(by_hand()), T.folder() .. "/c.safetensors"
  local straight = lab.train.trainer(by_hand(), cfg, 3)
  for _ = 1, 4 do straight:step() end
  core.safetensors.save(path, straight:state(), straight:metadata())
  for _ = 1, 4 do straight:step() end
  local resumed = lab.train.trainer(by_hand(), cfg, 3)
  resumed:restore(core.safetensors.open(path))
  for _ = 1, 4 do resumed:step() end
  for name, t in pairs(straight:state()) do T.eq(resumed:state()[name], t) end
  local untied = lab.train.trainer(llama { attention = "p1/gated_softmax" }, cfg, 3)
  T.raises(function() untied:restore(core.safetensors.open(path)) end,
    "checkpoint: 'model.model.embed_tokens.weight' is a tensor of its own here, the tensor 'model.lm_head.weight' in the file")
end)
