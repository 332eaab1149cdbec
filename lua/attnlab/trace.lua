-- What attention does with a text, token by token and layer by layer: tr = m:trace(text or ids, {names .., layer=, head=,
-- orders=}). Without names all that the layers have. Of the formula:
--   numerator     length of N_i, before it is divided
--   denominator   D_i; of the values' side D_j of the token
--   log_sum       log of the row's sum of weights
--   logit         the largest that the row sees, before limits
--   entropy       of the weights' shares, in nats; weights below 0 count by their size
--   sink          share of the sink in the denominator
--   input_gate, output_gate ("gate"), log_decay   means over channels
--   orders        of exp's series, 0 .. `orders` (10): order_log, the log of the mean |s|^n / n! over the keys that a row
--                 sees, and order_share, its share in all orders (of e^|s|)
-- of other families what they name themselves and has a value a token (m:taps()). All in f64, from the queries, keys and
-- values that the model as it is makes; a row reference never enters.
--   tr.values[name]   (L,T,H), orders (L,T,H,orders + 1), by the numbers of tr.layers, tr.tokens and heads; NaN where a layer
--                     or a head has no such thing
-- As text a table: means over heads, or the head that was named.
local core = require "attnlab.core"
local maps = require "attnlab.attention_map"
local names = require "attnlab.names"
local tap = require "attnlab.model.tap"
local taps = require "attnlab.nn.taps"

local Trace = {}
Trace.__index = Trace
Trace.__name = "attnlab.trace"

function Trace:__tostring() return require "attnlab.trace_text" (self) end

local OPTIONS = { "layer", "head", "orders" }
local LEAST = 1e-300 -- of what a logarithm is taken

-- ---- quantities of one group of heads: f(s) -> (1,T,h) -----------------------------------------------------

local function rows_first(t) return t:permute { axes = { 1, 3, 2 } } end -- (1,H,T) -> (1,T,H)
local function nan(shape) return core.tensor { data = { 0.0 / 0.0 }, dtype = "f64" }:expand { shape = shape }:contiguous() end
local function log(t) return core.op.clamp(t, { min = LEAST }):log() end

-- D as the rows have it (1,T,H), or nil.
local function row_denominator(s) return s.taps.D and not s.by_key and s.taps.D or nil end

-- sum_j w_ij (1,T,H): the weights w / D times what divides them.
local function sums(s)
  local w = s.taps.weights
  if s.by_key then -- (1,T,Hkv) of the keys
    local D, kv = s.taps.D, s.taps.D:size(3)
    D = D:permute { axes = { 1, 3, 2 } }:reshape { shape = { 1, kv, 1, 1, s.T } }
      :expand { shape = { 1, kv, s.heads // kv, 1, s.T } }:reshape { shape = { 1, s.heads, 1, s.T } }
    w = w * D
  end
  local W = rows_first(w:sum { axes = { 4 } })
  local D = row_denominator(s)
  return D and W * D or W
end

-- NaN where it is not above 0.
local function log_or_nan(t)
  return core.op.select(core.op.relu(t):sign(), log(t), nan { 1 })
end

-- Means over what follows the head axis; one a key/value head for each query head of its group.
local function a_head(s, t)
  while t:ndim() > 3 do t = t:mean { axes = { t:ndim() } } end
  local h = t:size(3)
  if h == s.heads then return t end
  return t:reshape { shape = { 1, s.T, h, 1 } }:expand { shape = { 1, s.T, h, s.heads // h } }
    :reshape { shape = { 1, s.T, s.heads } }
end

-- What is needed of a family's taps, and the value.
local QUANTITIES = {
  numerator = { needs = { "y" }, f = function(s)
    local length = s.taps.y:square():sum { axes = { 4 } }:sqrt()
    local D = row_denominator(s)
    return D and length * D:abs() or length
  end },
  denominator = { needs = { "D" }, f = function(s) return a_head(s, s.taps.D) end },
  log_sum = { needs = { "weights" }, f = function(s) return log_or_nan(sums(s)) end },
  logit = { needs = { "logits" }, f = function(s)
    local none = core.full { shape = { 1 }, value = -1e300, dtype = "f64" }
    return rows_first(core.op.select(s.visible, s.taps.logits, none):max { axes = { 4 } })
  end },
  entropy = { needs = { "weights" }, f = function(s)
    local w = s.taps.weights:abs()
    local p = w / core.op.clamp(w:sum { axes = { 4 }, keep = true }, { min = LEAST })
    return rows_first((p * log(p)):sum { axes = { 4 } } * -1)
  end },
  sink = { needs = { "D" }, has = function(s) return s.sink ~= nil end, f = function(s) return s.sink:exp() / s.taps.D end },
  orders = { needs = { "logits" } },
}
local ORDER = { "numerator", "denominator", "log_sum", "logit", "entropy", "sink", "input_gate", "output_gate", "orders" }

-- order_log and order_share (1,T,H,n + 1).
local function orders_of(s, most)
  local none = core.full { shape = { 1 }, value = -1e300, dtype = "f64" }
  local size = s.taps.logits:abs()
  local function log_sum(t) -- over the keys that a row sees
    t = core.op.select(s.visible, t, none)
    local top = t:max { axes = { 4 }, keep = true }
    return (log((t - top):exp():sum { axes = { 4 }, keep = true }) + top)
  end
  local logs, shares, factorial = {}, {}, 0
  local all, count = log_sum(size), log(s.visible:sum { axes = { 4 }, keep = true })
  for n = 0, most do
    factorial = factorial + (n > 0 and math.log(n) or 0)
    local term = n == 0 and log_sum(size * 0) or log_sum(log(size) * n - factorial)
    logs[n + 1], shares[n + 1] = term - count, (term - all):exp()
  end
  local function whole(list) return core.op.concat(list, { axis = 4 }):permute { axes = { 1, 3, 2, 4 } } end
  return whole(logs), whole(shares)
end

-- ---- one group ------------------------------------------------------------------------------------------

-- Value of the words "key=value" of options.
local function word(text, key) return (" " .. text .. " "):match(" " .. key:gsub("%.", "%%.") .. "=(%S+) ") end

-- The sink's logit a head (H), where it is a part of D that can be told: power 1, of the rows.
local function sink_of(a, text)
  local sink = word(text, "denominator.sink")
  if not sink or sink == "false" or word(text, "denominator.power") ~= "1"
    or word(text, "denominator.times_length") == "true" then return nil end
  return a:parameters()["denominator.sink"] or core.tensor { data = { tonumber(sink) }, dtype = "f64" }
end

-- { a = instance in f64 over all heads, taps by name, .. } of a layer and its group (nil: all heads).
local function look(m, i, group, set)
  local layer = m.layers[i].attention
  local a = layer:twin({}, group)
  local list, rows_of = {}, {}
  for _, r in ipairs(a:taps()) do list[#list + 1], rows_of[r.name] = r.name, r end
  set.causal = m.causal
  local _, found = taps.seen(a, set, list, taps.behind(m.patches and m.patches[i], 0))
  local text = a:text(true)
  return { taps = found, rows = rows_of, T = set.q:size(2), heads = layer.heads, family = a:family(),
           by_key = word(text, "denominator.side") == "value", sink = found.D and sink_of(a, text),
           visible = taps.visible(set.q:size(2), "f64", m.causal), list = group and group.list }
end

-- Names that can be asked of s, in order.
local function known_of(s)
  local out = {}
  for _, name in ipairs(ORDER) do
    local q, fine = QUANTITIES[name], true
    for _, need in ipairs(q and q.needs or { name }) do fine = fine and s.taps[need] ~= nil end
    if fine and not (q and q.has and not q.has(s)) then out[#out + 1] = name end
  end
  for _, name in ipairs(names.keys(s.taps)) do -- what the family names itself and has a value a token and head
    local t = s.taps[name]
    local axes = taps.axes(s.rows[name], t, s.heads)
    if not names.find(out, name) and axes.head == 3 and axes.time == 2 and not axes.key and name ~= "y" and name ~= "D" then
      out[#out + 1] = name
    end
  end
  return out
end

-- ---- all layers -----------------------------------------------------------------------------------------

local function sorted_options(opts)
  local wanted, o = {}, { orders = 10 }
  for k, v in pairs(names.options("trace", opts)) do
    if math.type(k) == "integer" then
      wanted[k] = v == "gate" and "output_gate" or v
    elseif not names.find(OPTIONS, k) then
      error("trace: " .. names.unknown("option", tostring(k), OPTIONS), 0)
    else
      o[k] = v
    end
  end
  if math.type(o.orders) ~= "integer" or o.orders < 0 or o.orders > 200 then
    error("trace: orders: a number in 0..200 expected, got " .. tostring(o.orders), 0)
  end
  return wanted, o
end

-- The groups of every layer, looked at.
local function looked(m, ids, layers)
  local by_layer, sets = {}, {}
  local every = taps.inputs(#m.layers, function(i, q, k, v, x)
    local function kept(t) return t:detach():to "f64" end -- the layer frees its own
    sets[i] = { q = kept(q), k = kept(k), v = kept(v), x = kept(x) }
  end)
  local mode = m.training
  m:eval()
  local ok, why = pcall(core.no_grad, function()
    local h <close> = m:hidden({ ids }, { taps = every })
    for at, i in ipairs(layers) do
      local family = m.layers[i].attention.family
      by_layer[at] = {}
      for k, group in ipairs(type(family) == "table" and family.groups or { false }) do
        by_layer[at][k] = look(m, i, group or nil, sets[i])
      end
    end
  end)
  m:train(mode)
  if not ok then error(why, 0) end
  return by_layer
end

-- All names that some layer has, in order, and which of them each family has.
local function all_known(by_layer)
  local known, families = {}, {}
  for _, groups in ipairs(by_layer) do
    for _, s in ipairs(groups) do
      s.known = known_of(s)
      families[s.family] = families[s.family] or s.known
      for _, name in ipairs(s.known) do
        if not names.find(known, name) then known[#known + 1] = name end
      end
    end
  end
  return known, families
end

-- (1,T,H[,n]) of a layer's groups put together, NaN for heads of groups without it.
local function joined(groups, name, value)
  local heads, parts, shape = groups[1].heads, {}, nil
  for _, s in ipairs(groups) do
    local t = names.find(s.known, name) and value(s)
    if t and not s.list then return t end
    for _, h in ipairs(t and s.list or {}) do
      parts[h] = t:slice { axis = 3, start = h - 1, stop = h }:contiguous()
      shape = parts[h]:shape()
    end
  end
  for h = 1, shape and heads or 0 do parts[h] = parts[h] or nan(shape) end
  return shape and core.op.concat(parts, { axis = 3 })
end

local function stacked(parts, layers)
  local shape
  for at = 1, layers do shape = shape or parts[at] and parts[at]:shape() end
  for at = 1, layers do parts[at] = parts[at] or nan(shape) end
  return core.op.concat(parts, { axis = 1 })
end

-- Refuses a name that no layer has; families: what each of them has.
local function check_known(name, known, families)
  if names.find(known, name) then return end
  local has = {}
  for _, family in ipairs(names.keys(families)) do
    has[#has + 1] = ("%s has %s"):format(family, #families[family] > 0 and table.concat(families[family], ", ") or "nothing")
  end
  local near = names.nearest(tostring(name), known)
  error(("trace: these layers have no '%s'%s: %s"):format(tostring(name),
    near and (" (did you mean '%s'?)"):format(near) or "", table.concat(has, "; ")), 0)
end

-- m:trace(text, opts).
local function trace(m, text, opts)
  local wanted, o = sorted_options(opts)
  local ids = tap.ids_of(m, type(text) == "string" and text or nil, type(text) ~= "string" and text or nil, "trace")
  local _, layers = tap.layers_of(m, "x", o.layer == nil and "*" or o.layer, "trace")
  tap.check_head(m, layers[1], o.head, "trace")
  local by_layer = looked(m, ids, layers)
  local known, families = all_known(by_layer)
  if #wanted == 0 then wanted = known end
  local self = setmetatable({ values = {}, names = {}, layers = layers, tokens = maps.tokens(m, ids), head = o.head,
                              orders = o.orders }, Trace)
  for _, name in ipairs(wanted) do
    check_known(name, known, families)
    self.names[#self.names + 1] = name
    local parts, more = {}, {}
    for at, groups in ipairs(by_layer) do
      if name == "orders" then
        for _, s in ipairs(groups) do
          if s.taps.logits then s.logs, s.shares = orders_of(s, o.orders) end
        end
        parts[at] = joined(groups, name, function(s) return s.logs end)
        more[at] = joined(groups, name, function(s) return s.shares end)
      else
        local q = QUANTITIES[name]
        parts[at] = joined(groups, name, function(s) return q and q.f(s) or a_head(s, s.taps[name]) end)
      end
    end
    if name == "orders" then
      self.values.order_log, self.values.order_share = stacked(parts, #layers), stacked(more, #layers)
    else
      self.values[name] = stacked(parts, #layers)
    end
  end
  return self
end

return trace
