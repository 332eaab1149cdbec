-- Activations put in the place of a fork's own: patch(fork, opts) -> entry of the fork's list, still to be done. Options
-- of s:patch:
--   name, layer, head   the tap, as in m:tap (m:taps() lists them); layer="*": all layers; head: of the query heads, at
--                       keys and values the head that serves it
--   with      "zero"; a number; "mean": of the tap over a text, one value a channel; "resample": the activation at the
--             same position of a window of that text, drawn by `seed`; {text=} or {ids=}: what the fork as it is now has
--             there on another text; a tensor of the tap's shape, whose positions are 1, 2, .. or one for all
--   at, from  positions, from 1 at the start of the text: a number or a list; all from one on. Without them all
--             positions of a run, which then must be as long as the text that the activation comes from
--   data      of mean and resample: a text's name, path or dataset, split ("train"), windows (16); default: the part
--             of the fork's text that s:calibrate looks at (surgery/parts.lua)
-- A value that is put in is a constant: no gradient goes through it. In generation the prompt is patched, and what is
-- written behind it as far as at and from say; a context that slides begins a text anew. Taps of a family make it run its
-- composed path, and its state keeps all inputs. The file of a model has no patches.
local core = require "attnlab.core"
local data = require "attnlab.data"
local names = require "attnlab.names"
local pick = require("attnlab.nn.heads_rows").pick
local tables = require "attnlab.table"
local tap = require "attnlab.model.tap"
local taps = require "attnlab.nn.taps"
local window_of = require "attnlab.model.window"

local KNOWN = { "name", "layer", "head", "with", "at", "from", "data", "split", "seed", "windows" }
local WORDS = { "zero", "mean", "resample" }
local BATCH = 8

local function integer(v, least) return math.type(v) == "integer" and v >= least end

local function refuse(...) error("patch: " .. string.format(...), 0) end

-- ---- positions --------------------------------------------------------------------------------------

-- { at = set or nil, from = number or nil, text = of the entry, most = the last of at }
local function places_of(opts)
  if opts.at ~= nil and opts.from ~= nil then refuse("either at= or from= expected") end
  if opts.from ~= nil then
    if not integer(opts.from, 1) then refuse("from: a position from 1 on expected, got %s", tostring(opts.from)) end
    return { from = opts.from, text = " from " .. opts.from, most = opts.from }
  end
  if opts.at == nil then return { text = "", most = 0 } end
  local list, set, most = type(opts.at) == "table" and opts.at or { opts.at }, {}, 0
  if #list == 0 then refuse("at: a position or a list of them expected") end
  for _, p in ipairs(list) do
    if not integer(p, 1) then refuse("at: positions from 1 on expected, got %s", tostring(p)) end
    set[p], most = true, math.max(most, p)
  end
  local sorted = {}
  for p in pairs(set) do sorted[#sorted + 1] = p end
  table.sort(sorted)
  return { at = set, text = " at " .. tap.ranges(sorted), most = most }
end

local function hit(places, position, n)
  if n and position > n then return false end
  if places.at then return places.at[position] or false end
  return position >= (places.from or 1)
end

-- ---- what is put in ---------------------------------------------------------------------------------

-- The first n entries of t along an axis, zeros behind its own.
local function fit(t, axis, first, n)
  local have = math.max(0, math.min(n, t:size(axis) - first))
  local part = have > 0 and t:slice { axis = axis, start = first, stop = first + have }
  if have == n then return part end
  local shape = t:shape()
  shape[axis] = n - have
  local rest = core.zeros { shape = shape, dtype = t:dtype() }
  return part and core.op.concat({ part, rest }, { axis = axis }) or rest
end

-- The tap of p: { row, heads, head, places, value, n = positions of the value or nil, source = its text, drawn = bool:
-- it has nothing to do with the run's text, so that their lengths may differ }.
local function replacer(p)
  return function(t, first, list, goes_on)
    local axes = taps.axes(p.row, t, list and #list or p.heads)
    local T, shape, cells = axes.time and t:size(axes.time) or 1, {}, {}
    if p.n and not (p.places.at or p.places.from or goes_on or p.drawn) and T ~= p.n then
      error(("patch of '%s': %s has %d positions, this run has %d: say at= or from=, which of them")
        :format(p.row.name, p.source, p.n, T), 0)
    end
    local at
    if p.head then
      at = list and names.find(list, p.head) or not list and p.head
      if not at then return nil end
      if axes.kv then at = (p.head - 1) // (p.heads // t:size(axes.head)) + 1 end
    end
    for k = 1, t:ndim() do shape[k] = 1 end
    if axes.time then shape[axes.time] = T end
    if at then shape[axes.head] = t:size(axes.head) end
    local any = false
    local across = at and shape[axes.head] or 1
    local heads_first = at and axes.time and axes.head < axes.time
    for i = 1, T do
      local on = hit(p.places, first + i, p.n)
      any = any or on
      for h = 1, across do
        cells[heads_first and (h - 1) * T + i or (i - 1) * across + h] = (on and (not at or h == at)) and 1 or 0
      end
    end
    if p.drawn and first + T > p.n and hit(p.places, first + T) then
      error(("patch of '%s': %s ends at position %d, this run goes on"):format(p.row.name, p.source, p.n), 0)
    end
    if not any then return nil end
    local v = p.value
    if v:ndim() > 1 then
      if p.n then v = fit(v, axes.time, first, T) end
      if axes.key and v:size(axes.key) > 1 then v = fit(v, axes.key, 0, t:size(axes.key)) end
      if list and v:size(axes.head) > 1 then v = pick(v, axes.head, list) end
    end
    local mask = core.tensor { data = cells, shape = shape, dtype = "i32" }
    return core.op.select(mask, v:dtype() == t:dtype() and v or v:to(t:dtype()), t)
  end
end

-- The beginning of a text.
local function short(s)
  local at = utf8.len(s) and utf8.len(s) > 28 and utf8.offset(s, 26)
  return at and s:sub(1, at - 1) .. "..." or s
end

-- The query head alone, its axis kept.
local function narrowed(self, w, t, head, order)
  local axes = taps.axes(w.row, t, order and #order or self.layers[w.layer].attention.heads)
  return tap.head_of(self, w.layer, w.row, t, head, order, "patch"):unsqueeze { axis = axes.head }
end

local function of_ids(self, w, ids, head)
  local one = { name = w.name, layer = w.layer, row = w.row }
  tap.run(self, ids, { one }, false, "patch")
  return head and narrowed(self, w, one.t, head, one.order) or one.t
end

-- The text of mean and resample.
local function text_of(self, opts)
  local set = opts.data or self:parts().calibrate
  set = data.is_dataset(set) and set or data.open_for(self, set)
  if set.masked then refuse "data: rows of documents are masked: take rows=stream or packed" end
  local split, context = opts.split or "train", set:fit(window_of(self))
  set:need(split, context)
  return set, split, context
end

local function count_of(opts)
  local n = opts.windows == nil and 16 or opts.windows
  if not integer(n, 1) then refuse("windows: integer >= 1 expected, got %s", tostring(n)) end
  return n
end

local function mean_of(self, w, opts, axes, head)
  if axes.key then
    refuse("with=\"mean\": '%s' has an axis of keys, which differ from row to row; \"zero\", a text or a tensor can be "
      .. "put there", w.row.name)
  end
  local set, split, context = text_of(self, opts)
  local total, sum, n = set:windows(split, context, count_of(opts)), nil, 0
  local mode = self.training
  self:eval()
  local ok, why = pcall(core.no_grad, function()
    for x, _, more in set:even(split, BATCH, context, total) do
      local f, get = taps.keep(w.row, self.layers[w.layer].attention.heads)
      local h <close> = self:hidden(x, { taps = { [w.layer] = { [w.name] = f } }, documents = more and more.documents })
      local t, order = get()
      if head then t = narrowed(self, w, t, head, order) end
      local part = t:sum { axes = axes.time and { 1, axes.time } or { 1 }, keep = true }
      sum, n = sum and sum + part or part, n + t:size(1) * (axes.time and t:size(axes.time) or 1)
    end
  end)
  self:train(mode)
  if not ok then error(why, 0) end
  return sum * (1 / n), ("mean, %d windows of %s (%s)"):format(total, set.name, split)
end

local function drawn_of(self, opts)
  local set, split, context = text_of(self, opts)
  local seed, most = opts.seed == nil and 1 or opts.seed, set:windows(split, context, count_of(opts))
  if math.type(seed) ~= "integer" then refuse("seed: integer expected, got %s", tostring(seed)) end
  local u, at = core.rand { shape = { 1 }, dtype = "f64", seed = seed, device = "cpu", stream = "patch" }:item(), 0
  for x in set:even(split, 1, context, most) do
    at = at + 1
    if at > u * most then return x:flat(), ("window %d of %s (%s)"):format(at, set.name, split) end
  end
end

-- A tensor in the shape that the tap has, each axis the tap's or 1; positions may be any number. The head's axis may
-- be missing where one head is named, as m:tap gives it, and the batch's.
local function given(w, value, axes, t, head)
  local v = value:detach()
  if head and v:ndim() == t:ndim() - 2 then v = v:unsqueeze { axis = 1 } end
  if v:ndim() == t:ndim() - 1 then v = v:unsqueeze { axis = head and axes.head or 1 } end
  local fits = v:ndim() == t:ndim() and v:dtype() ~= "i32"
  for k = 1, fits and t:ndim() or 0 do
    fits = fits and (v:size(k) == 1 or v:size(k) == t:size(k) or k == axes.time or k == axes.key)
  end
  if not fits or v:size(1) ~= 1 then
    refuse("with: a tensor of the tap's shape %s expected, as (%s) is for %d tokens, got %s (%s)", w.row.shape,
      table.concat(t:shape(), ","), axes.time and t:size(axes.time) or 1, value:dtype(), table.concat(value:shape(), ","))
  end
  if head and v:size(axes.head) > 1 then v = v:slice { axis = axes.head, start = axes.at - 1, stop = axes.at } end
  return v
end

-- value, its text, its positions (nil: it is one for all).
local function value_of(self, w, opts, axes, trial)
  local with, head = opts.with, opts.head
  local function many(t) return axes.time and t:size(axes.time) > 1 and t:size(axes.time) or nil end
  local function numbers(x, text)
    return core.tensor { data = { x }, dtype = trial:dtype() }, text
  end
  if with == "zero" then return numbers(0.0, "0") end
  if type(with) == "number" then return numbers(with, ("%g"):format(with)) end
  if with == "mean" then return mean_of(self, w, opts, axes, head) end
  if core.is_tensor(with) then
    local v = given(w, with, axes, trial, head)
    return v, "a tensor", many(v)
  end
  local ids, text
  if with == "resample" then
    ids, text = drawn_of(self, opts)
  elseif type(with) == "table" then
    tap.check_options(with, { "text", "ids" }, "patch: with")
    ids = tap.ids_of(self, with.text, with.ids, "patch: with")
    text = with.text and ('as in "%s"'):format(short(tables.clean(with.text, true))) or "as with other ids"
  else
    refuse("with: %s, a number, {text=}, {ids=} or a tensor expected, got %s", table.concat(WORDS, ", "),
      type(with) == "string" and names.unknown("word", with, WORDS) or type(with))
  end
  local v = of_ids(self, w, ids, head)
  return v, ("%s (%d tokens)"):format(text, #ids), axes.time and v:size(axes.time)
end

-- ---- the entry --------------------------------------------------------------------------------------

-- What the head of a key/value tap stands for.
local function group_text(a, head, kv_heads)
  local per = a.heads // kv_heads
  if per == 1 then return "" end
  local g = (head - 1) // per + 1
  return (" (key/value head %d, which serves heads %d-%d)"):format(g, (g - 1) * per + 1, g * per)
end

return function(self, opts)
  tap.check_options(opts, KNOWN, "patch")
  if opts.with == nil then refuse("with= is missing: %s, a number, {text=}, {ids=} or a tensor", table.concat(WORDS, ", ")) end
  local name, layers = tap.layers_of(self, opts.name, opts.layer, "patch")
  local places, added, change, composed = places_of(opts), {}, nil, false
  for _, i in ipairs(layers) do
    tap.check_head(self, i, opts.head, "patch")
    local a, row = self.layers[i].attention, taps.row(self, i, name, "patch")
    -- that it is there, and its shape: tried on two tokens
    local trial = { name = name, layer = i, row = row }
    local patches = self.patches
    self.patches = nil
    local ok, why = pcall(tap.run, self, { 0, 0 }, { trial }, false, "patch")
    self.patches = patches
    if not ok then error(why, 0) end
    local t, order = trial.t, trial.order
    local axes = taps.axes(row, t, order and #order or a.heads)
    if opts.head then
      tap.head_of(self, i, row, t, opts.head, order, "patch")
      axes.at = axes.kv and (opts.head - 1) // (a.heads // t:size(axes.head)) + 1 or opts.head
    end
    if not axes.time and (places.at or places.from) then refuse("'%s' has no positions", name) end
    local value, text, n = value_of(self, trial, opts, axes, t)
    if n and places.most > n then
      refuse("position %d is not in what is put there, which has %d: %s", places.most, n, text)
    end
    added[i] = { [name] = replacer { row = row, heads = a.heads, head = opts.head, places = places,
                                     value = value:detach(), n = n, source = text,
                                     drawn = opts.with == "resample" } }
    composed = composed or row.composed
    change = change or ("%s = %s%s%s"):format(name, text, places.text,
      opts.head and axes.kv and group_text(a, opts.head, t:size(axes.head)) or "")
  end
  local options = {} -- the caller may go on with its table
  for k, v in pairs(opts) do options[k] = v end
  local before, after = self.patches, taps.over_layers(self.patches, added)
  return { kind = "patch", list = layers, head = opts.head, options = options,
           change = change .. (composed and "; composed path" or ""),
           take_back = function() self.patches = before end, again = function() self.patches = after end }
end
