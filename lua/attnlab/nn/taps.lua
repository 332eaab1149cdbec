-- Taps: places where an activation can be looked at, or another put in its stead, while a model runs. The option `taps`
-- of a forward carries them. Of a layer it is a table by name: f(t) is called with the activation, and what it returns
-- stands for it (nil: it stays). Of a model it is such a table by layer, { [2] = { heads = f } }, and f is told more:
-- f(t, first, heads, goes_on): the tokens before those of t; where the heads of the layer have options of their own and
-- their family calls it once a group, the numbers of these heads; whether the call goes on from a state.
--
-- M.layer: what every attention layer hands out, M.block: what a model hands out around it. What a family hands out
-- it names itself (family:taps()); it is asked for without a state, or with one that keeps all inputs.
local core = require "attnlab.core"
local names = require "attnlab.names"
local pick = require("attnlab.nn.heads_rows").pick

local M = {}

M.layer = {
  { name = "x", shape = "(B,T,width)", doc = "the layer's input, behind its norm" },
  { name = "q.raw", shape = "(B,T,H,D)", doc = "queries before the rotary positions" },
  { name = "k.raw", shape = "(B,T,Hkv,D)", doc = "keys before the rotary positions" },
  { name = "q", shape = "(B,T,H,D)", doc = "queries as they enter the family" },
  { name = "k", shape = "(B,T,Hkv,D)", doc = "keys as they enter the family" },
  { name = "v", shape = "(B,T,Hkv,D)", doc = "values as they enter the family" },
  { name = "heads", shape = "(B,T,H,D)", doc = "what the output projection reads" },
  { name = "out", shape = "(B,T,width)", doc = "what attention adds to the residual stream" },
}

M.block = {
  { name = "residual.pre", shape = "(B,T,width)", doc = "the residual stream before the block" },
  { name = "residual.mid", shape = "(B,T,width)", doc = "the residual stream behind attention" },
  { name = "mlp", shape = "(B,T,width)", doc = "what is added last: the MLP's output, with attention's where a block adds both at once" },
  { name = "residual.post", shape = "(B,T,width)", doc = "the residual stream behind the block" },
}

local outer = {}
for _, list in ipairs { M.layer, M.block } do
  for _, row in ipairs(list) do outer[row.name] = row end
end

local TURN = { __close = function(turn) core.turn(turn.before) end }

-- A tap's function may look at numbers, which the layer that calls it may not.
local function look(f, ...)
  local turn <close> = setmetatable({ before = core.turn "" }, TURN)
  return f(...)
end

-- What stands at the tap `name` for t.
function M.at(taps, name, t)
  local f = taps and taps[name]
  return f and look(f, t) or t
end

-- Those of a layer's taps that are its family's, or nil.
function M.inner(taps)
  local out
  for name, f in pairs(taps or {}) do
    if not outer[name] then
      out = out or {}
      out[name] = f
    end
  end
  return out
end

-- What forward of a model of so many layers is given, or an error.
function M.checked(given, layers)
  if given == nil then return nil end
  for i, own in pairs(type(given) == "table" and given or { [0] = given }) do
    if type(own) ~= "table" or math.type(i) ~= "integer" or i < 1 or i > layers then
      error(("forward: taps: tables of functions by layer, 1..%d, expected, as {[2] = {heads = f}}, got %s"):format(layers,
        type(own) == "table" and "layer " .. tostring(i) or type(own)), 0)
    end
  end
  return given
end

-- Both tables by name: what the first puts in is what the second sees.
function M.over(first, second)
  if not (first and second) then return first or second end
  local out = {}
  for name, f in pairs(first) do out[name] = f end
  for name, g in pairs(second) do
    local f = out[name]
    out[name] = f and function(t, ...)
      local new = f(t, ...)
      return g(new or t, ...) or new
    end or g
  end
  return out
end

-- Both tables by layer.
function M.over_layers(first, second)
  if not (first and second) then return first or second end
  local out = {}
  for i, own in pairs(first) do out[i] = own end
  for i, own in pairs(second) do out[i] = M.over(out[i], own) end
  return out
end

-- A model's taps of one layer as a layer takes them, `first` tokens behind the start. From a state that keeps its
-- inputs a family sees all tokens again.
function M.behind(own, first)
  if not own then return nil end
  local out = {}
  for name, f in pairs(own) do
    local before = outer[name] and first or 0
    out[name] = function(t, heads) return look(f, t, before, heads, first > 0) end
  end
  return out
end

-- The taps of a group of heads whose family hands out `rows`, and of which `heads` are the numbers, or nil.
function M.of_group(taps, rows, heads)
  local out
  for _, row in ipairs(taps and rows or {}) do
    local f = taps[row.name]
    if f then
      out = out or {}
      out[row.name] = function(t) return f(t, heads) end
    end
  end
  return out
end

-- ---- what a model has -------------------------------------------------------------------------------

-- The axes of an activation, from its row's shape, for which alternatives may stand ("(B,T,H) or (B,T,H,D)"):
-- { time =, head =, key =, kv = bool: the head axis counts key/value heads }; nil where it has no such axis.
function M.axes(row, t, heads)
  for text in row.shape:gmatch "%(([^)]*)%)" do
    local axes, n = {}, 0
    for letter in text:gmatch "[^,]+" do
      n = n + 1
      if letter == "H" or letter == "Hkv" then axes.head = n end
      if letter == "T" then axes.time = n end
      if letter == "S" then axes[axes.time and "key" or "time"] = n end
    end
    if n == t:ndim() then
      axes.kv = axes.head and t:size(axes.head) ~= heads
      return axes
    end
  end
  error(("tap '%s': a shape %s is declared, it has (%s)"):format(row.name, row.shape, table.concat(t:shape(), ",")), 0)
end

-- Rows of all taps of layer i of a model: { name =, shape =, doc =, family =, composed =, heads = numbers or nil }.
function M.of_layer(m, i)
  local a, out = m.layers[i].attention, {}
  local function add(list, family, heads)
    for _, r in ipairs(list) do
      if r.name ~= "q.raw" and r.name ~= "k.raw" or a.rotation then
        out[#out + 1] = { name = r.name, shape = r.shape, doc = r.doc, family = family, heads = heads,
                          composed = r.composed or false }
      end
    end
  end
  add(M.layer, "layer")
  if type(a.family) == "table" then
    for _, g in ipairs(a.family.groups) do add(g.part:taps(), g.part:family(), g.list) end
  else
    add(a.family:taps(), a.family:family())
  end
  add(M.block, "block")
  return out
end

-- The row of a tap of layer i; unknown names are errors that say what there is.
function M.row(m, i, name, what)
  local known = {}
  for _, r in ipairs(M.of_layer(m, i)) do
    if r.name == name then return r end
    if not names.find(known, r.name) then known[#known + 1] = r.name end
  end
  error(("%s: layer %d: %s"):format(what, i, names.unknown("tap", tostring(name), known)), 0)
end

-- Refuses patches at taps that a model has no more.
function M.check(m, patches)
  for i, own in pairs(patches or {}) do
    for name in pairs(own) do M.row(m, i, name, "patched") end
  end
end

-- "residual.2.pre", 1 -> "residual.pre", 2; "heads", 1 -> "heads", 1. Names carry the layer where they have one.
function M.parse(name, layer)
  if type(name) ~= "string" then return name, layer end
  local head, i, tail = name:match "^(%a+)%.(%d+)(.*)$"
  if head then return head .. tail, math.tointeger(tonumber(i)) end
  return name, layer
end

-- ---- collecting -------------------------------------------------------------------------------------

-- A tap that keeps what it sees: get() gives it whole, put together where it came by groups of heads. see(t, first) may
-- put another in its stead. What is seen again, of a call that is run once more as memory ran out, is what counts.
function M.keep(row, heads, see)
  local whole, parts = nil, {}
  local function f(t, first, list)
    local at = #parts + 1
    for k, p in ipairs(list and parts or {}) do
      if p.list[1] == list[1] then at = k end
    end
    if list then parts[at] = { t = t:detach(), list = list }
    else whole = t:detach() end
    if see then return see(t, first, list) end
  end
  local function get()
    if whole or #parts == 0 then return whole end
    local axes, all, order, place = M.axes(row, parts[1].t, heads), {}, {}, {}
    if not axes.head then return parts[1].t end
    for _, p in ipairs(parts) do
      if p.t:size(axes.head) ~= #p.list then
        error(("tap '%s': the heads of this layer are in groups that share no keys: it cannot be put together")
          :format(row.name), 0)
      end
      all[#all + 1] = p.t
      table.move(p.list, 1, #p.list, #order + 1, order)
    end
    local sorted = table.move(order, 1, #order, 1, {})
    table.sort(sorted)
    for at, h in ipairs(order) do place[names.find(sorted, h)] = at end
    return pick(core.op.concat(all, { axis = axes.head }), axes.head, place), sorted
  end
  return f, get
end

-- Output of an instance run on `set`, and its inner tensors of these names; patches: functions by tap that come first.
function M.seen(a, set, list, patches)
  local found, looks, with = {}, {}, {}
  for k, v in pairs(set) do with[k] = v end
  for _, name in ipairs(list) do
    looks[name] = function(t) found[name] = t:detach() end
  end
  with.taps = M.over(M.of_group(patches, a:taps()), looks)
  return a:forward(with), found
end

-- (1,1,T,T), 1 where row i sees key j of a text, else 0. causal: false where it sees all.
function M.visible(T, dtype, causal)
  local list = {}
  for i = 1, T do
    for j = 1, T do list[(i - 1) * T + j] = (j <= i or causal == false) and 1 or 0 end
  end
  return core.tensor { data = list, shape = { 1, 1, T, T }, dtype = dtype }
end

-- Taps by layer that call f(layer, q, k, v, x) with what enters each of the layers' families.
function M.inputs(layers, f)
  local out = {}
  for i = 1, layers do
    local x, q, k
    out[i] = { x = function(t) x = t end, q = function(t) q = t end, k = function(t) k = t end,
               v = function(t) f(i, q, k, t, x) end }
  end
  return out
end

return M
