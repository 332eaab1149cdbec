-- What rows of attention read: map = m:attention_map{text= or ids=, layer=, head=} (m:map for short), of models and forks.
--   map.values    (T,T): row i, key j; tokens by name in map.tokens, what the numbers are in map.what
--   tostring      shaded, the tokens along it: attention_map_text.lua
--   map:plot "file.png" or ".svg"
--   a - b, a:beside(b)   the difference of two maps of texts of one length; both and their difference
-- head = "all" (default where there are several) gives the maps of all heads, all[h], with tostring and plot.
--
-- Families that hand out the tap "weights" (the formula: w / D) are read there. Of others it is dy_i/dv_j, what row i's
-- output changes by with the value of key j: in f64 on the layer's own queries and keys, before a norm, with v = 1 at one
-- key and 0 elsewhere; where this does not make the layer's output of its own values, as in a family that is not
-- linear in them, by differences around these. The mean over channels is taken, and said where they differ.
local core = require "attnlab.core"
local rows = require "attnlab.rows"
local tables = require "attnlab.table"
local tap = require "attnlab.model.tap"
local taps = require "attnlab.nn.taps"

local M = {}

local KNOWN = { "text", "ids", "layer", "head" }
local BLOCK = 32   -- keys of one run
local LINEAR = 1e-8 -- how far the sum over keys may be from the output of a family that is linear in v, relative

local Map = { __name = "attnlab.attention_map" }
local All = { __name = "attnlab.attention_maps" }
local Beside = { __name = "attnlab.attention_map_pair" }
for _, class in ipairs { Map, All, Beside } do class.__index = class end

-- ---- families without a tap of their weights ----------------------------------------------------------

-- v (n,T,Hkv,E) that is `by` at key first + b in row b, or in its channel e alone.
local function one_key(n, T, kv, E, first, by, e)
  local eye = {}
  for b = 1, n do
    for t = 1, T do eye[(b - 1) * T + t] = t == first + b and by or 0.0 end
  end
  local v = core.tensor { data = eye, shape = { n, T, 1, 1 }, dtype = "f64" }
  local channel = {}
  for k = 1, E do channel[k] = (not e or k == e) and 1.0 or 0.0 end
  return (v * core.tensor { data = channel, shape = { 1, 1, 1, E }, dtype = "f64" })
    :expand { shape = { n, T, kv, E } }:contiguous()
end

local function repeated(t, n)
  local shape = t:shape()
  shape[1] = n
  return t:expand { shape = shape }:contiguous()
end

-- What each of the T keys alone makes, f(first, n) -> (n,T,E): (T,T,E), row i first.
local function by_key(T, f)
  local parts = {}
  for first = 0, T - 1, BLOCK do parts[#parts + 1] = f(first, math.min(BLOCK, T - first)) end
  return core.op.concat(parts, { axis = 1 }):permute { axes = { 2, 1, 3 } }:contiguous()
end

-- (T,T) of head h and what it is.
local function by_values(layer, set, h, patches, causal)
  local group = layer:group_of(h)
  local plain = group and group.whole or layer.family
  local a = layer:twin({ output_norm = rows.find(plain:options(), "output_norm") and "none" }, group)
  local x = {}
  for name, t in pairs(set) do x[name] = t:to "f64" end
  local T, kv, E = x.v:size(2), x.v:size(3), x.v:size(4)
  local own_taps = taps.of_group(taps.behind(patches, 0), a:taps())
  local function run(v)
    local n = v:size(1)
    return a:forward { q = repeated(x.q, n), k = repeated(x.k, n), v = v, x = repeated(x.x, n), taps = own_taps,
      causal = causal }[{ {}, {}, h }]
  end
  local g = (h - 1) // (layer.heads // kv) + 1
  local A = by_key(T, function(first, n) return run(one_key(n, T, kv, E, first, 1.0)) end)
  local y = run(x.v)
  local own = x.v[{ {}, {}, g }]                                   -- (1,T,E)
  local sum = (A * own):sum { axes = { 2 } }                       -- (T,E)
  local size = y:square():sum():item()
  local what = "dy_i/dv_j before the norm, v = identity"
  if not ((sum - y[1]):square():sum():item() <= LINEAR ^ 2 * size) then
    local step = 1e-5 * math.max(1e-3, math.sqrt(own:square():mean():item()))
    local slopes = {}
    for e = 1, E do
      local slope = by_key(T, function(first, n)
        local v, d = repeated(x.v, n), one_key(n, T, kv, E, first, step, e)
        return (run(v + d) - run(v - d)) * (0.5 / step)
      end)
      slopes[e] = slope[{ {}, {}, { e, e } }]
    end
    A = core.op.concat(slopes, { axis = 3 })
    what = "dy_i/dv_j, by differences around the layer's own v"
  end
  local mean = A:mean { axes = { 3 } }
  local spread = (A - mean:unsqueeze { axis = -1 }):abs():max():item()
  local most = mean:abs():max():item()
  if spread > 1e-9 * most then what = ("%s, mean over channels (they differ by up to %.2g)"):format(what, spread) end
  return mean, what
end

-- ---- making them --------------------------------------------------------------------------------------

-- Tokens as short texts without blanks at their ends that cannot be seen.
function M.tokens(m, ids)
  local out = {}
  for i, id in ipairs(ids) do
    local piece = m.vocabulary and m.vocabulary:piece(id)
    piece = piece and piece:gsub("^%s*<s>%s*$", "<s>"):gsub("\n", "\\n"):gsub("\t", "\\t"):gsub(" ", "_")
    out[i] = piece and piece ~= "" and tables.clean(piece, true) or tostring(id)
  end
  return out
end

-- Whether head h of layer i hands out its weights.
local function shows_weights(m, i, h)
  local layer = m.layers[i].attention
  local group = layer:group_of(h)
  local list = rows.find((group and group.part or layer.family):taps(), "weights")
  return list and list.shape == "(B,H,T,S)" and list or nil
end

local INPUTS = { "q", "k", "v", "x" }

-- The maps of these heads of layer i, by head.
local function made(m, ids, i, heads)
  local layer, shown, wanted, list = m.layers[i].attention, {}, {}, {}
  for _, h in ipairs(heads) do
    shown[h] = shows_weights(m, i, h)
    for _, name in ipairs(shown[h] and { "weights" } or INPUTS) do
      if not wanted[name] then
        wanted[name] = { name = name, layer = i, row = taps.row(m, i, name, "attention_map") }
        list[#list + 1] = wanted[name]
      end
    end
  end
  tap.run(m, ids, list, false, "attention_map")
  local tokens, maps = M.tokens(m, ids), {}
  for _, h in ipairs(heads) do
    local values, what
    local group = layer:group_of(h)
    if shown[h] then
      local w = wanted.weights
      values, what = tap.head_of(m, i, w.row, w.t, h, w.order, "attention_map")[1], "w / D"
      if shown[h].composed then what = what .. ", from its composed path" end
    else
      local set = {}
      for _, name in ipairs(INPUTS) do set[name] = wanted[name].t end
      core.no_grad(function() values, what = by_values(layer, set, h, m.patches and m.patches[i], m.causal) end)
    end
    maps[h] = setmetatable({ values = values:contiguous(), tokens = tokens, ids = ids, layer = i, head = h, what = what,
                             family = (group and group.part or layer.family):family(), fork = m.original ~= nil }, Map)
  end
  return maps
end

function M.of(m, opts)
  tap.check_options(opts, KNOWN, "attention_map")
  local ids = tap.ids_of(m, opts.text, opts.ids, "attention_map")
  local i, heads, head = tap.check_layer(m, opts.layer, "attention_map"), {}, opts.head
  local most = m.layers[i].attention.heads
  if head == nil then head = most == 1 and 1 or "all" end
  if head ~= "all" then
    tap.check_head(m, i, head, "attention_map")
    return made(m, ids, i, { head })[head]
  end
  for h = 1, most do heads[h] = h end
  return setmetatable(made(m, ids, i, heads), All)
end

-- ---- two of them --------------------------------------------------------------------------------------

local function check_pair(a, b, what)
  if getmetatable(b) ~= Map or getmetatable(a) ~= Map then error(what .. ": a map expected on both sides", 0) end
  if #a.tokens ~= #b.tokens then
    error(("%s: maps of one length expected, got %d and %d tokens"):format(what, #a.tokens, #b.tokens), 0)
  end
end

local function name_of(map)
  return map.name or ("%slayer %d head %d"):format(map.fork and "fork " or "", map.layer, map.head)
end

function Map.__sub(a, b)
  check_pair(a, b, "difference of maps")
  local x, y = a.values, b.values
  if x:dtype() ~= y:dtype() then x, y = x:to "f64", y:to "f64" end
  return setmetatable({ values = x - y, tokens = a.tokens, ids = a.ids, family = a.family, signed = true,
                        what = a.what == b.what and a.what or ("%s; and %s"):format(a.what, b.what),
                        name = ("%s - %s"):format(name_of(a), name_of(b)) }, Map)
end

-- a:beside(b): two maps of texts of one length and their difference, side by side as text and as a picture.
function Map:beside(other)
  check_pair(self, other, "beside")
  return setmetatable({ self, other, self - other }, Beside)
end

-- "layer 2 head 3 (kernel_attention): w / D"
function Map:title()
  return ("%s (%s): %s"):format(name_of(self), self.family, self.what)
end
Map.short = name_of

-- ---- shown --------------------------------------------------------------------------------------------

local function text() return require "attnlab.attention_map_text" end
local function figure() return require "attnlab.attention_map_figure" end

function Map.__tostring(map) return text().one(map) end
function All.__tostring(all) return text().small(all) end
function Beside.__tostring(pair) return text().beside(pair) end

-- map:plot "file.png" or "file.svg": a picture of it; returns the path.
function Map:plot(path) return figure().draw({ self }, path) end

-- maps:plot "file.png" or "file.svg": all heads in one picture, each with a scale of its own; returns the path.
function All:plot(path) return figure().draw(self, path, true) end

-- pair:plot "file.png" or "file.svg": both and their difference in one picture; returns the path.
function Beside:plot(path) return figure().draw(self, path) end

return M
