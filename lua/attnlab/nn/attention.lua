-- Attention(width, spec, {heads=, kv_heads=, head_dim=, init=, deviation=}): the layer around any
-- attention family: projections, depthwise convolution, norm of queries and keys, rotary positions,
-- the family itself, a residual of v, output projection. x (B,T,width) -> (B,T,width).
--
-- spec is a preset's name, or a table of `preset`, the family's options, the layer's own (the rows
-- below) and `heads`, options of single heads by number: see heads.lua. A preset brings layer
-- options along; what the spec says wins over them.
local core = require "attnlab.core"
local devices = require "attnlab.devices"
local Module = require "attnlab.nn.module"
local Documents = require "attnlab.nn.documents"
local Linear = require "attnlab.nn.linear"
local RMSNorm = require("attnlab.nn.norm").RMSNorm
local names = require "attnlab.names"
local taps = require "attnlab.nn.taps"

local Attention = Module.class "Attention"
-- Its options: rows, forward_rows, check_forward, split, family_of, families_of, parts_of,
-- layer_options; and its states: state, fresh, state_description, load_state, begin, finish, step.
for _, part in ipairs { "options", "state" } do
  for name, v in pairs(require("attnlab.nn.attention_" .. part)) do Attention[name] = v end
end

-- The parts that the spec brings, around the projections of `old` or around new ones.
local function assemble(self, spec, old)
  local dim = self.head_dim
  local outer, kv = self.heads * dim, self.kv_heads * dim
  self:hold("q_proj.weight", { outer, self.width })
  self:hold("k_proj.weight", { kv, self.width })
  local _, _, layer = Attention.split(spec)
  self.family = devices.on(self.device, Attention.family_of, spec, {
    heads = self.heads, kv_heads = self.kv_heads, head_dim = dim, value_dim = dim,
    width = self.width, dtype = self.dtype, seed = self.seed, tag = self:path "attnlab" })
  layer = Attention.layer_options(self.family:layer(), layer)
  self.layer, self.spec = layer, type(spec) == "string" and { preset = spec } or spec
  self.preset = self.spec.preset or ""
  self.rotation = Attention.rotation_of(layer, dim)
  if old and old.layer.bias ~= layer.bias then
    error("attention: option 'bias': changes the projections, which a living layer keeps", 0)
  end
  local linear = { init = self.init.init, deviation = self.init.deviation }
  for _, p in ipairs { { "q_proj", self.width, outer }, { "k_proj", self.width, kv },
                       { "v_proj", self.width, kv }, { "o_proj", outer, self.width } } do
    linear.bias = layer.bias == true or layer.bias == (p[1] == "o_proj" and "out" or "qkv")
    self[p[1]] = self:child(p[1], old and old[p[1]]
      or Linear(p[2], p[3], self:part(p[1], linear)))
  end
  if layer.qk_norm then
    local eps = { eps = layer.qk_norm_eps }
    self.q_norm = self:child("q_norm", RMSNorm(dim, self:part("q_norm", eps)))
    self.k_norm = self:child("k_norm", RMSNorm(dim, self:part("k_norm", eps)))
  end
  if layer.conv > 0 then self:add_convolution(layer.conv) end
  if layer.value_residual then
    self:parameter("attnlab.value_residual", self:constant({ self.heads, dim }, 1))
  end
  if layer.calibrated then
    self:buffer("attnlab.calibration", self:constant({ self.heads }, 1))
  end
  return self
end

function Attention.new(width, spec, opts)
  local self = Module.create(Attention, opts,
    { "heads", "kv_heads", "head_dim", "init", "deviation" })
  local heads = opts and opts.heads
  if math.type(heads) ~= "integer" or heads < 1 then
    error("Attention: option 'heads': integer >= 1 expected, got " .. tostring(heads), 3)
  end
  local kv = opts.kv_heads or heads
  if heads % kv ~= 0 then
    error(("Attention: heads (%d) must be a multiple of kv_heads (%d)"):format(heads, kv), 3)
  end
  if not opts.head_dim and width % heads ~= 0 then
    error(("Attention: width (%d) must be divisible by heads (%d)"):format(width, heads), 3)
  end
  self.width, self.heads, self.kv_heads = width, heads, kv
  self.head_dim = opts.head_dim or width // heads
  self.init = { init = opts.init, deviation = opts.deviation }
  return assemble(self, spec)
end

-- This layer with another spec: a new module of the same projections, in which parameters whose name
-- and shape stay are the very tensors and new ones are initialised by name. This one stays as it is.
function Attention:with(spec)
  local new = Module.create(Attention, { seed = self.seed, name = self.name, dtype = self.dtype, device = self.device })
  for _, k in ipairs { "width", "heads", "kv_heads", "head_dim", "init", "training" } do
    new[k] = self[k]
  end
  assemble(new, spec, self)
  new:place(self:tensors())
  return new
end

-- Kernels (width, channels), the last row for the token itself; U(+-1/sqrt(width)) as
-- torch.nn.Conv1d.
function Attention:add_convolution(width)
  local bound = 1 / math.sqrt(width)
  self.convolution = {}
  for _, which in ipairs { "q", "k", "v" } do
    local channels = (which == "q" and self.heads or self.kv_heads) * self.head_dim
    local weight, bias = "attnlab.conv." .. which .. ".weight", "attnlab.conv." .. which .. ".bias"
    self.convolution[which] = {
      weight = self:parameter(weight, self:uniform(weight, { width, channels }, bound)),
      bias = self:parameter(bias, self:uniform(bias, { channels }, bound)),
    }
  end
end

-- y_t = bias + sum_i weight[width - i] x_{t-i}, x (B,T,C); what is before the start counts as 0.
-- tail: the width - 1 inputs before x, which then count. Second result: the last of all, for what
-- comes next. documents: of packed rows, or nil; what is before a document counts as 0.
function Attention:convolve(x, which, tail, documents)
  local c = self.convolution[which]
  local width, T = c.weight:size(1), x:size(2)
  if tail then return self:convolve_on(x, which, tail, documents) end
  local function term(from, row)
    local w <close> = c.weight[{ row }]
    return from * w
  end
  local now <close> = term(x, width)
  local y = now + c.bias
  for i = 1, math.min(width, T) - 1 do
    local zeros <close> = core.zeros { shape = { x:size(1), i, x:size(3) }, dtype = x:dtype(), device = x:device() }
    local before <close> = x[{ {}, { 1, T - i } }]
    local product <close> = term(before, width - i)
    local earlier <close> = core.op.concat({ zeros, product }, { axis = 2 })
    local own <close> = documents and documents.select(documents:reaches(i), earlier)
    local sum <close> = y
    y = sum + (own or earlier)
  end
  return self:activate(y, which)
end

function Attention:activate(y, which)
  local activation = self.layer.conv_activation
  if which == "v" or activation == "none" then return y end
  local plain <close> = y
  return plain[activation](plain)
end

function Attention:convolve_on(x, which, tail, documents)
  local c = self.convolution[which]
  local before, T = tail:size(2), x:size(2)
  local all = core.op.concat({ tail, x }, { axis = 2 })
  local y = x * c.weight[{ before + 1 }] + c.bias
  for i = 1, before do
    local earlier = all:slice { axis = 2, start = before - i, stop = before - i + T } * c.weight[{ before + 1 - i }]
    y = y + (documents and documents.select(documents:reaches(i, true), earlier) or earlier)
  end
  -- a copy: the view would hold all inputs of this call as long as the state lives
  local last = all:slice { axis = 2, start = T }
  last = documents and documents.select(documents:last(before), last) or last:scale { by = 1 }
  return self:activate(y, which), last
end

-- One of q, k, v as (B,T,heads,dim), before the rotation. run: of begin, or nil; documents: of packed rows, or nil.
function Attention:head_inputs(x, which, heads, run, documents)
  local flat <close> = self[which .. "_proj"](x)
  local convolved, last
  if self.convolution then
    convolved, last = self:convolve(flat, which, run and run.tails[which], documents)
    if last then run.next[which] = last end
  end
  local mixed <close> = convolved
  local y = (mixed or flat):reshape { shape = { x:size(1), x:size(2), heads, self.head_dim } }
  if which == "v" or not self.q_norm then return y end
  local split <close> = y
  return self[which .. "_norm"](split)
end

-- q, k, v, all that precedes the family done to them.
function Attention:inputs(x, run, own, documents)
  local packed = documents and documents.packed and documents or nil
  local q = self:head_inputs(x, "q", self.heads, run, packed)
  local k = self:head_inputs(x, "k", self.kv_heads, run, packed)
  local v = self:head_inputs(x, "v", self.kv_heads, run, packed)
  if self.rotation then
    local straight_q <close> = taps.at(own, "q.raw", q)
    local straight_k <close> = taps.at(own, "k.raw", k)
    local first, positions, below = Documents.places(x:size(2), run and run.family, documents)
    local turn = { offset = first, places = below }
    for key, v in pairs(self.rotation) do turn[key] = v end
    q, k = straight_q:rope_pair(straight_k, positions, turn)
  end
  return taps.at(own, "q", q), taps.at(own, "k", k), taps.at(own, "v", v) -- in this order
end

-- o (B,T,H,E) + D * v, each key/value head serving the query heads of its group.
function Attention:add_values(o, v)
  local B, T, E, groups = v:size(1), v:size(2), self.head_dim, self.heads // self.kv_heads
  if groups > 1 then
    v = v:reshape { shape = { B, T, self.kv_heads, 1, E } }
      :expand { shape = { B, T, self.kv_heads, groups, E } }
      :reshape { shape = { B, T, self.heads, E } }
  end
  return o + v * self["attnlab.value_residual"]
end

-- What the heads give (B,T,H,E) before the output projection, and the family's next state. run: of
-- begin, or nil. opts as forward's; raw = true leaves the calibration out.
function Attention:outputs(x, opts, run)
  local st, own = opts.state, opts.taps
  x = taps.at(own, "x", x)
  local documents = opts.documents
  local q, k, v = self:inputs(x, run, own, documents)
  local o, family = self.family:forward {
    q = q, k = k, v = v, x = x, causal = opts.causal, lengths = opts.lengths, documents = documents and documents.laid,
    offset = opts.offset, training = self.training, state = st and st.attention,
    detach = st and opts.detach, taps = own and taps.inner(own) or nil }
  if self.layer.value_residual then o = self:add_values(o, v) end
  if self.layer.calibrated and not opts.raw then
    local plain <close> = o
    o = plain * self["attnlab.calibration"]:unsqueeze { axis = -1 }
  end
  for _, t in ipairs { q, k, v } do t:free() end
  return taps.at(own, "heads", o), family
end

-- opts: the rows forward_rows; any other key is an error.
function Attention:forward(x, opts)
  opts = opts or {}
  Attention.check_forward(opts)
  if opts.documents then opts = setmetatable({ documents = Documents.of(opts.documents, x) }, { __index = opts }) end
  local st = opts.state
  local run = st and self:begin(x, st, opts)
  local o, family = self:outputs(x, opts, run)
  local flat <close> = o:reshape { shape = { x:size(1), x:size(2), self.heads * self.head_dim } }
  o:free()
  local out = taps.at(opts.taps, "out", self.o_proj(flat))
  return out, st and self:finish(st, Documents.after(st:position(), x:size(2), opts.documents), family, run) or nil
end

function Attention:collect(prefix, order, values, buffers)
  Module.collect(self, prefix, order, values, buffers)
  local own = self.family:parameters()
  for _, name in ipairs(names.keys(own)) do
    local path = prefix .. "attnlab." .. name
    order[#order + 1], values[path] = path, own[name]
  end
end

function Attention:place(tensors, prefix)
  prefix = prefix or ""
  Module.place(self, tensors, prefix)
  for which, c in pairs(self.convolution or {}) do
    for key in pairs(c) do c[key] = self["attnlab.conv." .. which .. "." .. key] end
  end
  for name, t in pairs(self.family:parameters()) do
    local other = tensors[prefix .. "attnlab." .. name]
    if other and Module.same_kind(other, t) then self.family:set_parameter(name, other) end
  end
end

function Attention:clone_into(seen)
  local new = Module.clone_into(self, seen)
  new.family = devices.on(new.device, Attention.family_of, self.spec, {
    heads = self.heads, kv_heads = self.kv_heads, head_dim = self.head_dim,
    value_dim = self.head_dim, width = self.width, dtype = self.dtype, seed = self.seed,
    tag = self:path "attnlab" })
  for name, t in pairs(self.family:parameters()) do
    new.family:set_parameter(name, Module.clone_tensor(t, seen))
  end
  return new
end

-- Bytes a sequence carries from token to token in this layer when it stands at position t. replay: in a state that
-- keeps all inputs.
function Attention:state_bytes(t, replay)
  local conv = self.layer.conv > 0 and self.layer.conv - 1 or 0
  local size, width = ({ f64 = 8, f32 = 4, bf16 = 2 })[self.dtype], (self.heads + 2 * self.kv_heads) * self.head_dim
  local own = replay and t * (width + self.width) * size + 4 or self.family:state_bytes(t) -- and the count of tokens
  return own + conv * width * size
end

devices.wrap(Attention, { "state", "step", "load_state" })
return Attention
