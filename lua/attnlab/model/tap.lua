-- The taps of a model: m:taps() lists them; m:tap{..} reads activations of one text.
--   text, ids   what the model reads: a text, or a list of token ids; positions count from 1
--   name        "heads", "weights", "residual.mid" with layer=2, or "residual.2.mid"; a list gives a table by name
--   layer       a number; "*": a table by layer
--   head        of the query heads, which then is left out of the shape; at keys and values the head that serves it
--   grad        true: the second result is dLoss/dtap, the loss being the mean cross entropy of the text's next tokens
-- The batch axis, 1, stays: (1,T,H,D), with a head (1,T,D). An activation is what the model makes of this text with
-- the weights and patches it has. Taps of a family that are `composed` in the list make it run its composed path.
local core = require "attnlab.core"
local names = require "attnlab.names"
local tables = require "attnlab.table"
local taps = require "attnlab.nn.taps"

local M = {}

local KNOWN = { "text", "ids", "name", "layer", "head", "grad" }

-- ---- what there is ----------------------------------------------------------------------------------

-- 1, 2, 3, 5 -> "1-3,5"
local function ranges(list)
  local parts, i = {}, 1
  while i <= #list do
    local last = i
    while list[last + 1] == list[last] + 1 do last = last + 1 end
    parts[#parts + 1] = last > i and list[i] .. "-" .. list[last] or tostring(list[i])
    i = last + 1
  end
  return table.concat(parts, ",")
end
M.ranges = ranges

local COLUMNS = { { key = "name", title = "tap" }, { key = "layers", title = "layers" },
                  { key = "shape", title = "shape" }, { key = "doc", title = "what" } }

local List = { __tostring = function(list)
  local cells, used = {}, { name = 3, layers = 6, shape = 5 }
  local function all(f)
    for _, r in ipairs(list) do
      f(r, { name = r.name, layers = ranges(r.layers), shape = r.shape })
    end
  end
  all(function(_, c) for k, n in pairs(used) do used[k] = math.max(n, #c[k]) end end)
  local room = math.max(24, core.sys.width() - used.name - used.layers - used.shape - 6)
  all(function(r, c)
    local mark = (r.family ~= "layer" and r.family ~= "block") and r.family .. (r.composed and ", composed: " or ": ") or ""
    for k, line in ipairs(tables.wrap(mark .. r.doc, room)) do
      cells[#cells + 1] = k == 1 and { name = c.name, layers = c.layers, shape = c.shape, doc = line } or { doc = line }
    end
  end)
  return tables.text(COLUMNS, cells)
end }

-- All taps of the model: array of { name =, layers = list, shape =, doc =, family = "layer", "block" or the family's
-- name, composed = bool }.
function M.list(m)
  local out, seen = setmetatable({}, List), {}
  for i = 1, #m.layers do
    for _, r in ipairs(taps.of_layer(m, i)) do
      local key = r.family .. " " .. r.name
      if not seen[key] then
        seen[key] = { name = r.name, layers = {}, shape = r.shape, doc = r.doc, family = r.family, composed = r.composed }
        out[#out + 1] = seen[key]
      end
      local layers = seen[key].layers
      if layers[#layers] ~= i then layers[#layers + 1] = i end
    end
  end
  return out
end

-- ---- what was asked for -----------------------------------------------------------------------------

-- A text or a list of ids as ids, for `what` in errors.
function M.ids_of(m, text, ids, what)
  if (text == nil) == (ids == nil) then error(what .. ": either text= or ids= expected", 0) end
  if ids ~= nil then
    if core.is_tensor(ids) and ids:ndim() == 1 then ids = ids:flat() end
    if type(ids) ~= "table" or #ids == 0 then error(what .. ": ids: a list of token ids expected, got " .. type(ids), 0) end
    return ids
  end
  if type(text) ~= "string" then error(what .. ": text: a text expected, got " .. type(text), 0) end
  if not m.vocabulary then error(what .. ": text: the model has no vocabulary, give ids=", 0) end
  local list = m.vocabulary:encode(text):flat()
  if #list == 0 then error(what .. ": text: it is empty", 0) end
  return list
end

-- The number of a layer, 1 where there is one alone. more: what else is taken, for the error.
function M.check_layer(m, layer, what, more)
  local most = #m.layers
  if layer == nil and most == 1 then return 1 end
  if math.type(layer) ~= "integer" or layer < 1 or layer > most then
    error(("%s: layer: a number in 1..%d%s expected, got %s"):format(what, most, more or "",
      type(layer) == "string" and "'" .. layer .. "'" or tostring(layer)), 0)
  end
  return layer
end

-- The layers that `layer` names, for a tap whose name may carry one: name, list, many.
local function layers_of(m, name, layer, what)
  local own
  name, own = taps.parse(name, nil)
  layer = own or layer
  if layer ~= "*" then return name, { M.check_layer(m, layer, what, " or \"*\"") }, false end
  local list = {}
  for i = 1, #m.layers do list[i] = i end
  return name, list, true
end
M.layers_of = layers_of

function M.check_head(m, i, head, what)
  local most = m.layers[i].attention.heads
  if head ~= nil and (math.type(head) ~= "integer" or head < 1 or head > most) then
    error(("%s: head: a number in 1..%d expected, got %s"):format(what, most, tostring(head)), 0)
  end
end

function M.check_options(opts, known, what)
  if type(opts) ~= "table" then error(("%s: a table of options expected, got %s"):format(what, type(opts)), 0) end
  names.options(what, opts, known)
end

-- The entry of query head `head` along the head axis of t, whose heads are all, or those of `order`.
function M.head_of(m, i, row, t, head, order, what)
  local a = m.layers[i].attention
  local axes = taps.axes(row, t, order and #order or a.heads)
  if not axes.head then error(("%s: head: tap '%s' has no heads, its shape is %s"):format(what, row.name, row.shape), 0) end
  local at = order and names.find(order, head) or not order and head
  if not at then
    error(("%s: tap '%s': the family of head %d does not hand it out, that of heads %s does"):format(what, row.name, head,
      ranges(order)), 0)
  end
  if axes.kv then at = (head - 1) // (a.heads // t:size(axes.head)) + 1 end
  local index = {}
  for k = 1, axes.head - 1 do index[k] = {} end
  index[axes.head] = at
  return t[index]
end

-- ---- reading ----------------------------------------------------------------------------------------

-- Calls f with nothing recorded of the model's own tensors; modes and gradients are as before.
local function frozen(m, f)
  local params, mode = {}, m.training
  for _, t in pairs(m:parameters()) do
    if t:requires_grad() then params[#params + 1] = t end
  end
  for _, t in ipairs(params) do t:requires_grad(false) end
  m:eval()
  local ok, why = pcall(f)
  m:train(mode)
  for _, t in ipairs(params) do t:requires_grad(true) end
  if not ok then error(why, 0) end
end

-- Mean cross entropy of the next tokens of ids.
local function next_loss(m, ids, with)
  local logits = m:forward(ids, with)
  local T = #ids
  local targets = core.tensor { data = table.move(ids, 2, T, 1, {}), shape = { 1, T - 1 }, dtype = "i32" }
  return logits:slice { axis = 2, start = 0, stop = T - 1 }:contiguous():cross_entropy(targets)
end

-- wanted: list of { name =, layer =, row =, .. }; fills in t, order (the heads it has, nil: all) and, with grad, dt.
function M.run(m, ids, wanted, grad, what)
  local by_layer = {}
  for _, w in ipairs(wanted) do
    local leaves = {}
    local see = grad and function(t, _, list)
      local z = core.zeros { shape = t:shape(), dtype = t:dtype() }
      z:requires_grad(true)
      leaves[#leaves + 1] = { z = z, list = list }
      return t + z
    end
    local f, get = taps.keep(w.row, m.layers[w.layer].attention.heads, see)
    by_layer[w.layer] = taps.over(by_layer[w.layer], { [w.name] = f })
    w.get, w.leaves = get, leaves
  end
  frozen(m, function()
    if grad then
      if #ids < 2 then error(what .. ": grad: at least two tokens needed, whose last is predicted", 0) end
      next_loss(m, ids, { taps = by_layer }):backward()
    else
      core.no_grad(function()
        local h <close> = m:hidden({ ids }, { taps = by_layer })
      end)
    end
  end)
  for _, w in ipairs(wanted) do
    w.t, w.order = w.get()
    if not w.t then
      error(("%s: layer %d: the architecture '%s' does not hand out '%s'"):format(what, w.layer, m.config.arch, w.name), 0)
    end
    if grad then
      local f, get = taps.keep(w.row, m.layers[w.layer].attention.heads)
      for _, leaf in ipairs(w.leaves) do
        f(leaf.z:grad() or core.zeros { shape = leaf.z:shape(), dtype = leaf.z:dtype() }, 0, leaf.list)
      end
      w.dt = get()
    end
  end
end

function M.read(m, opts)
  M.check_options(opts, KNOWN, "tap")
  local ids = M.ids_of(m, opts.text, opts.ids, "tap")
  local several, wanted = type(opts.name) == "table", {}
  if opts.grad and not m.causal then
    error(("tap: grad: of the loss of next tokens, which a %s does not predict"):format(m.class_name), 0)
  end
  if not several and type(opts.name) ~= "string" or several and #opts.name == 0 then
    error(("tap: name: a tap or a list of taps expected, as \"heads\", got %s"):format(several and "none" or type(opts.name)), 0)
  end
  for _, given in ipairs(several and opts.name or { opts.name }) do
    local name, layers, many = layers_of(m, given, opts.layer, "tap")
    for _, i in ipairs(layers) do
      M.check_head(m, i, opts.head, "tap")
      wanted[#wanted + 1] = { given = given, name = name, layer = i, many = many, row = taps.row(m, i, name, "tap") }
    end
  end
  M.run(m, ids, wanted, opts.grad, "tap")
  local values, gradients = {}, {}
  for _, w in ipairs(wanted) do
    local function one(t)
      return opts.head and M.head_of(m, w.layer, w.row, t, opts.head, w.order, "tap") or t
    end
    if not opts.head and w.order and #w.order < m.layers[w.layer].attention.heads then
      error(("tap: '%s': only the family of heads %s of layer %d hands it out: name one by head="):format(w.name,
        ranges(w.order), w.layer), 0)
    end
    for to, t in pairs { [values] = one(w.t), [gradients] = w.dt and one(w.dt) } do
      if w.many then
        to[w.given] = to[w.given] or {}
        to[w.given][w.layer] = t
      else
        to[w.given] = t
      end
    end
  end
  if not several then values, gradients = values[opts.name], gradients[opts.name] end
  if opts.grad then return values, gradients end
  return values
end

return M
