-- Attention(width, spec, {heads=, kv_heads=, head_dim=, init=, deviation=}): the layer around any
-- attention family: projections, depthwise convolution, norm of queries and keys, rotary positions,
-- the family itself, a residual of v, output projection. x (B,T,width) -> (B,T,width).
--
-- spec is a preset's name, or a table of `preset`, the family's options and the layer's own (the
-- rows below). A preset brings layer options along; what the spec says wins over them.
local core = require "attnlab.core"
local Module = require "attnlab.nn.module"
local Linear = require "attnlab.nn.linear"
local RMSNorm = require("attnlab.nn.norm").RMSNorm
local names = require "attnlab.names"
local rows = require "attnlab.rows"
local State = require "attnlab.state"
local statefile = require "attnlab.statefile"

local Attention = Module.class "Attention"

Attention.rows = {
  { name = "rope", type = "word", default = "half", choices = { "half", "interleaved", "none" },
    doc = "rotary positions of q and k before the feature map: pairs (i, i+dims/2) or (2i, 2i+1)" },
  { name = "rope_dims", type = "integer", default = "-1", min = -1,
    doc = "how many channels of a head turn; -1 = all" },
  { name = "rope_base", type = "number", default = "10000", min = 1,
    doc = "base of the frequencies" },
  { name = "qk_norm", type = "bool", default = "false",
    doc = "RMS norm with gain over each head of q and k, before the rotation" },
  { name = "conv", type = "integer", default = "0", min = 0, max = 64,
    doc = "width of a causal depthwise convolution with bias on q, k and v; 0 = none" },
  { name = "conv_activation", type = "word", default = "none", choices = { "none", "silu", "relu" },
    doc = "what follows the convolution on q and k" },
  { name = "value_residual", type = "bool", default = "false",
    doc = "adds D * v to the output of the heads, D learned per channel, 1 at first" },
  { name = "bias", type = "bool", default = "false",
    doc = "biases in the q, k, v and o projections" },
}

-- Splits a spec into preset name, options of the family, options of the layer (checked).
function Attention.split(spec)
  if type(spec) == "string" then spec = { preset = spec } end
  if type(spec) ~= "table" then
    error("attention: name of a preset or table of options expected, got " .. type(spec), 0)
  end
  local family, layer = {}, {}
  for k, v in pairs(spec) do
    local row = rows.find(Attention.rows, k)
    if row then
      layer[k] = rows.check(row, v, "attention." .. k)
    elseif k ~= "preset" then
      family[k] = v
    end
  end
  return spec.preset or "", family, layer
end

-- Defaults, under them the preset's words ("rope=none conv=2"), under them what was given.
function Attention.layer_options(text, given)
  local out = {}
  for _, row in ipairs(Attention.rows) do out[row.name] = rows.default(row) end
  for key, value in (text or ""):gmatch("([%w_%.]+)=(%S+)") do
    local row = rows.find(Attention.rows, key)
    if not row then
      error("layer options of the preset: "
        .. names.unknown("option", key, rows.names(Attention.rows)), 0)
    end
    out[key] = rows.parse(row, value, key)
  end
  for k, v in pairs(given) do out[k] = v end
  return out
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
  local dim = opts.head_dim or width // heads
  local preset, family, layer = Attention.split(spec)
  self.family = core.attn.new(preset, family, {
    heads = heads, kv_heads = kv, head_dim = dim, value_dim = dim, width = width,
    dtype = self.dtype, seed = self.seed, tag = self:path "attnlab" })
  layer = Attention.layer_options(self.family:layer(), layer)
  self.heads, self.kv_heads, self.head_dim, self.layer = heads, kv, dim, layer
  self.preset = preset

  if layer.rope ~= "none" then
    local dims = layer.rope_dims < 0 and dim or layer.rope_dims
    if dims % 2 ~= 0 or dims > dim then
      error(("attention: option 'rope_dims': even number up to head_dim (%d) expected, got %d")
        :format(dim, dims), 0)
    end
    self.rotation = { base = layer.rope_base, dims = dims,
                      interleaved = layer.rope == "interleaved" }
  end
  local linear = { bias = layer.bias, init = opts.init, deviation = opts.deviation }
  for _, p in ipairs { { "q_proj", width, heads * dim }, { "k_proj", width, kv * dim },
                       { "v_proj", width, kv * dim }, { "o_proj", heads * dim, width } } do
    self[p[1]] = self:child(p[1], Linear(p[2], p[3], self:part(p[1], linear)))
  end
  if layer.qk_norm then
    self.q_norm = self:child("q_norm", RMSNorm(dim, self:part "q_norm"))
    self.k_norm = self:child("k_norm", RMSNorm(dim, self:part "k_norm"))
  end
  if layer.conv > 0 then self:add_convolution(layer.conv) end
  if layer.value_residual then
    self:parameter("attnlab.value_residual", self:constant({ heads, dim }, 1))
  end
  return self
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
-- comes next.
function Attention:convolve(x, which, tail)
  local c = self.convolution[which]
  local width, T = c.weight:size(1), x:size(2)
  if tail then return self:convolve_on(x, which, tail) end
  local y = x * c.weight[{ width }] + c.bias
  for i = 1, math.min(width, T) - 1 do
    local zeros = core.zeros { shape = { x:size(1), i, x:size(3) }, dtype = x:dtype() }
    local earlier = x[{ {}, { 1, T - i } }] * c.weight[{ width - i }]
    y = y + core.op.concat({ zeros, earlier }, { axis = 2 })
  end
  return self:activate(y, which)
end

function Attention:activate(y, which)
  local activation = self.layer.conv_activation
  if which == "v" or activation == "none" then return y end
  return y[activation](y)
end

function Attention:convolve_on(x, which, tail)
  local c = self.convolution[which]
  local before, T = tail:size(2), x:size(2)
  local all = core.op.concat({ tail, x }, { axis = 2 })
  local y = x * c.weight[{ before + 1 }] + c.bias
  for i = 1, before do
    y = y + all:slice { axis = 2, start = before - i, stop = before - i + T } * c.weight[{ before + 1 - i }]
  end
  -- a copy: the view would hold all inputs of this call as long as the state lives
  local last = all:slice { axis = 2, start = T }:scale { by = 1 }
  return self:activate(y, which), last
end

-- One of q, k, v as (B,T,heads,dim), before the rotation. run: of begin, or nil.
function Attention:head_inputs(x, which, heads, run)
  local flat <close> = self[which .. "_proj"](x)
  local convolved, last
  if self.convolution then
    convolved, last = self:convolve(flat, which, run and run.tails[which])
    if last then run.next[which] = last end
  end
  local mixed <close> = convolved
  local y = (mixed or flat):reshape { shape = { x:size(1), x:size(2), heads, self.head_dim } }
  if which == "v" or not self.q_norm then return y end
  local split <close> = y
  return self[which .. "_norm"](split)
end

-- q, k, v, all that precedes the family done to them.
function Attention:inputs(x, run)
  local q = self:head_inputs(x, "q", self.heads, run)
  local k = self:head_inputs(x, "k", self.kv_heads, run)
  local v = self:head_inputs(x, "v", self.kv_heads, run)
  if not self.rotation then return q, k, v end
  local straight_q <close> = q
  local straight_k <close> = k
  local r = self.rotation
  q, k = q:rope_pair(k, { base = r.base, dims = r.dims, interleaved = r.interleaved,
                          offset = run and run.position })
  return q, k, v
end

-- ---- states ---------------------------------------------------------------------------------------

local CONV_DOC = "last inputs of the convolution"

-- The state of `batch` sequences of which nothing has been seen.
function Attention:state(batch)
  batch = batch or 1
  local parts = { { name = "attention", state = self.family:state { batch = batch } } }
  for _, which in ipairs(self.layer.conv > 1 and { "q", "k", "v" } or {}) do
    local channels = self.convolution[which].weight:size(2)
    parts[#parts + 1] = { name = "conv." .. which, doc = CONV_DOC, tensor = core.zeros {
      shape = { batch, self.layer.conv - 1, channels }, dtype = self.dtype } }
  end
  return State.new(self, 0, batch, parts)
end

Attention.fresh = Attention.state -- as state.lua asks every owner

-- What a file of a state has to say to fit this layer.
function Attention:state_description()
  local list, words = statefile.describe(self.family), {}
  for i, row in ipairs(Attention.rows) do
    words[i] = row.name .. "=" .. rows.show(self.layer[row.name])
  end
  list[#list + 1] = { "layer", table.concat(words, " ") }
  return list
end

function Attention:load_state(path)
  return State.load(self, path)
end

-- What a call from state st needs beside the family's own state: { position, tails, next }.
function Attention:begin(x, st, opts)
  State.check(st, self, x:size(1), "attention")
  if opts.lengths and (self.rotation or self.layer.conv > 1) then
    error("attention: lengths with a state: the layer has rotary positions or a convolution, which "
      .. "count the padding as well; give rows of full length", 0)
  end
  local run = { position = st:position(), tails = {}, next = {} }
  for _, which in ipairs { "q", "k", "v" } do
    local tail = st["conv." .. which]
    run.tails[which] = tail and opts.detach and tail:detach() or tail
  end
  return run
end

function Attention:finish(st, T, family, run)
  local parts = { { name = "attention", state = family } }
  for _, which in ipairs { "q", "k", "v" } do
    if run.next[which] then
      parts[#parts + 1] = { name = "conv." .. which, doc = CONV_DOC, tensor = run.next[which] }
    end
  end
  return State.new(self, st:position() + T, st:batch(), parts)
end

-- Output for x, the next T tokens after state st, and the state after them: forward from a state.
function Attention:step(x, st)
  return self:forward(x, { state = st })
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

-- opts: causal (true), lengths (B), offset, and inspect(q, k, v), called with the family's inputs.
-- state: x follows what that state has seen, and the state after x is the second result; detach: no
-- gradient flows into it.
function Attention:forward(x, opts)
  opts = opts or {}
  local st = opts.state
  local run = st and self:begin(x, st, opts)
  local q, k, v = self:inputs(x, run)
  if opts.inspect then opts.inspect(q, k, v) end
  local o, family = self.family:forward {
    q = q, k = k, v = v, x = x, causal = opts.causal ~= false, lengths = opts.lengths,
    offset = opts.offset, training = self.training, state = st and st.attention,
    detach = st and opts.detach }
  if self.layer.value_residual then o = self:add_values(o, v) end
  for _, t in ipairs { q, k, v } do t:free() end
  local flat <close> = o:reshape { shape = { x:size(1), x:size(2), self.heads * self.head_dim } }
  o:free()
  return self.o_proj(flat), st and self:finish(st, x:size(2), family, run) or nil
end

function Attention:collect(prefix, order, values)
  Module.collect(self, prefix, order, values)
  local own = self.family:parameters()
  for _, name in ipairs(names.keys(own)) do
    local path = prefix .. "attnlab." .. name
    order[#order + 1], values[path] = path, own[name]
  end
end

-- Bytes a sequence carries from token to token in this layer when it stands at position t.
function Attention:state_bytes(t)
  local conv = self.layer.conv > 0 and self.layer.conv - 1 or 0
  local width = (self.heads + 2 * self.kv_heads) * self.head_dim
  return self.family:state_bytes(t) + conv * width * (self.dtype == "f64" and 8 or 4)
end

return Attention
