-- The loss of a model on a text, with all that the number depends on. r = lab.evaluate(m, {data=, split="valid", window=,
-- stride=, start=, windows=, lengths=, other_text=, on_progress=}); tostring(r) is for people, r a record for machines.
--   data, split, other_text   as lab.evalset has them; split may also be "all"
--   window    tokens that the model sees at most (its context, of a model from elsewhere at most 1024). A model of a shorter context reads a
--             window in pieces, as evalset has it
--   stride    none: `windows` windows spread evenly over the split, every token of them scored. A number: one window after
--             another, each that far behind the one before, of which the tokens are scored that none before had scored:
--             every token once, and behind the first window with window - stride tokens before it at least. This is
--             Hugging Face's page on perplexity with max_length = window + 1
--   start     "empty": a window is tokens of the text, and what is scored is each one's successor. "bos": the tokenizer's
--             start token and window - 1 tokens of the text, and these are scored: with a stride all tokens of the split
--   windows   how many (96; with a stride all there are)
--   lengths   array: the windows of the largest, read in pieces of each of these lengths, each piece from an empty
--             context; beyond the model's context positions run on that no training has shown. The same tokens are
--             scored for all lengths, so their differences to the length nearest to the context are paired
-- Fields: loss (nats a token), standard_error, perplexity, bits_per_byte, tokens (scored), bytes (of their text), bytes_are,
-- positions (loss by number of tokens before it: { from, to, tokens, loss, standard_error }), lengths, windows (how many),
-- window, stride, start, data, split, sha256 (of the data), tokenizer { kind, size, hash }, context (the model's), dtype,
-- device. The standard error is over windows. bits_per_byte is of the bytes of the text itself: those that the scored
-- tokens stand for; where the tokenizer changes the text, its bytes are shared out in proportion (bytes_are = "shared
-- out"); where a scored token is unknown there is none, and no_bits says why.
-- A change here makes no run stale.
local core = require "attnlab.core"
local bytes = require "attnlab.evaluate.bytes"
local devices = require "attnlab.devices"
local evalset = require "attnlab.evalset"
local names = require "attnlab.names"
local scores = require "attnlab.evaluate.scores"
local show = require "attnlab.evaluate.show"
local stats = require "attnlab.stats"
local window_of = require "attnlab.model.window"

local M = {}

local KNOWN = { "data", "split", "window", "stride", "start", "windows", "lengths", "other_text", "on_progress" }
local STARTS = { "empty", "bos" }
local PASS = evalset.PASS

local function refuse(key, want, got)
  error(("evaluate: option '%s': %s expected, got %s"):format(key, want, tostring(got)), 0)
end

local function whole(key, v)
  if v ~= nil and (math.type(v) ~= "integer" or v < 1) then refuse(key, "integer >= 1", v) end
  return v
end

-- The options, checked; those that need the data wait for it.
function M.options(m, opts)
  opts = names.options("evaluate", opts, KNOWN)
  local o = { start = opts.start or "empty", window = whole("window", opts.window), stride = whole("stride", opts.stride),
              windows = whole("windows", opts.windows), lengths = opts.lengths, split = opts.split or "valid" }
  if not names.find(STARTS, o.start) then error("evaluate: option 'start': " .. names.unknown("word", tostring(o.start), STARTS), 0) end
  if o.start == "bos" and not (m.vocabulary and m.vocabulary.bos) then
    error("evaluate: option 'start': bos: the tokenizer has no start token", 0)
  end
  if o.lengths ~= nil then
    if type(o.lengths) ~= "table" or #o.lengths == 0 then refuse("lengths", "an array of lengths", o.lengths) end
    for i, n in ipairs(o.lengths) do
      whole("lengths", n)
      if i > 1 and n <= o.lengths[i - 1] then refuse("lengths", "ascending numbers", n) end
    end
    if o.stride or o.window then error("evaluate: options 'lengths' and 'window' or 'stride': one of them expected, got both", 0) end
    o.window = o.lengths[#o.lengths]
  end
  local window = o.window or window_of(m)
  if o.stride and o.stride > window then refuse("stride", ("a number from 1 to the window's %d"):format(window), o.stride) end
  if o.stride and window > m.config.context then
    refuse("window", ("with a stride a number up to the model's context of %d"):format(m.config.context), window)
  end
  if not m.causal and (o.stride or o.lengths or o.start == "bos") then
    error(("evaluate: a model that predicts next tokens expected, got a %s: it has no stride, start and lengths")
      :format(m.class_name), 0)
  end
  return o
end

-- ---- passes: f(x, y, from, more, first), of windows x, y (B,T) of which columns from.. are scored ---------------------

-- x and y of windows that begin with the start token.
local function begun(x, y, bos)
  if x:size(2) == 1 then return core.full { shape = x:shape(), value = bos, dtype = "i32" }, x end
  local start <close> = core.full { shape = { x:size(1), 1 }, value = bos, dtype = "i32" }
  local rest <close> = x[{ {}, { 1, x:size(2) - 1 } }]
  return core.op.concat({ start, rest }, { axis = 2 }), x, y:free()
end

local function even(set, o, f)
  set:need("train", o.window)
  o.n = set:windows("train", o.window, o.windows or 96)
  for x, y, more in set:even("train", math.max(1, PASS // o.window), o.window, o.n) do
    if o.bos then x, y = begun(x, y, o.bos) end
    f(x, y, 1, more)
    x:free()
    y:free()
    for _, t in pairs(more or {}) do t:free() end
  end
end

-- Tokens lo..hi - 1 of a set, from 0, i32.
local function tokens_of(set, lo, hi)
  if set.set then return set.set:read(lo, hi - lo) end
  return set.tokens:slice { axis = 1, start = lo, stop = hi }
end

-- Windows of T tokens from these places on, as x, y (B,T).
local function windows_at(set, places, T, bos)
  local xs, ys = {}, {}
  for i, at in ipairs(places) do
    local part = tokens_of(set, at, at + T + (bos and 0 or 1))
    xs[i] = part:slice { axis = 1, start = 0, stop = T }
    ys[i] = bos and xs[i] or part:slice { axis = 1, start = 1, stop = T + 1 }
  end
  local shape = { #places, T }
  local there = core.on()
  local x = core.op.concat(xs, { axis = 1 }):reshape({ shape = shape }):to(there)
  local y = core.op.concat(ys, { axis = 1 }):reshape({ shape = shape }):to(there)
  if bos then return begun(x, y, bos) end
  return x, y
end

local function strided(set, o, f)
  local lo, hi = set:range "train"
  local last = o.bos and hi or hi - 1 -- behind the last token that is given
  if last <= lo then set:need("train", 1) end
  local places, rows, n = {}, math.max(1, PASS // o.window), 0
  o.n = math.min(o.windows or math.huge, 1 + math.max(0, math.ceil((last - lo - o.window) / o.stride)))
  local function flush(T, from)
    if #places == 0 then return end
    local x, y = windows_at(set, places, T, o.bos)
    f(x, y, from, nil)
    x:free()
    y:free()
    places = {}
  end
  local at = lo
  while true do
    local T, from = math.min(o.window, last - at), at == lo and 1 or o.window - o.stride + 1
    places[#places + 1], n = at, n + 1
    local ends = n == o.n
    if at == lo or ends or #places == rows then
      if T < o.window and #places > 1 then -- the last one is shorter
        places[#places] = nil
        flush(o.window, from)
        places[1] = at
      end
      flush(T, from)
    end
    if ends then break end
    at = at + o.stride
  end
end

-- ---- the record -------------------------------------------------------------------------------------------------------

local Record = { __tostring = show.text, __name = "attnlab.evaluation" }
Record.__index = Record

-- What the lengths came to; each against the one of number `reference` by the windows, which are the same.
local function by_length(o, reference, counts)
  local out = {}
  for i, n in ipairs(o.lengths) do
    local loss, se = counts[i]:mean()
    local r = { length = n, loss = loss, standard_error = se }
    if i ~= reference then
      local own, windows = counts[i]:by_window()
      local d = stats.paired(own, counts[reference]:by_window(), windows)
      local lo, hi = stats.interval(d, 0.95)
      r.difference = { to = o.lengths[reference], mean = d.mean, standard_error = d.se, lo = lo, hi = hi }
    end
    out[i] = r
  end
  return out
end

-- The part of the data that is measured on, as a dataset, of which it is the split `train`; and whether its first scored
-- token is the first of the text.
local function part_of(set, o)
  local lo, hi = 0, set.tokens:numel()
  if o.split ~= "all" then lo, hi = set:range(o.split) end
  local head = hi > lo and set.rows == nil and tokens_of(set, lo, lo + 1):flat()[1]
  local marked = head and set.vocabulary.bos == head
  if marked and o.bos then lo = lo + 1 end -- a window has its own start token
  local begins = lo == 0 and (o.bos ~= nil or marked) or lo == 1 and marked
  local part = set:cut({ lo = lo, hi = hi }, set.valid)
  part.part = o.split == "all" and "text" or o.split .. " split"
  return part, begins or false
end

local function measure(m, set, o, on_progress)
  local counts, lengths = {}, o.lengths or { o.lengths == nil and not o.stride and math.min(o.window, m.config.context) or o.window }
  for i in ipairs(lengths) do counts[i] = scores.new(o.stride ~= nil, set.masked) end
  local part, begins = part_of(set, o)
  local spent = bytes.new(set, begins)
  local walk = o.stride and strided or even
  walk(part, o, function(x, y, from, more)
    for i, piece in ipairs(lengths) do
      local nll <close>, position = scores.losses(m, x, y, piece, more)
      counts[i]:add(nll, y, from, position)
    end
    spent:add(y, from)
    if on_progress then on_progress(#counts[1].sums, o.n) end
  end)
  return counts, spent
end

-- What the record says of the data and the model, and of how it is measured.
local function header(m, set, o, ev)
  local v = set.vocabulary
  return { windows = o.n, window = o.window, stride = o.stride or o.window, sliding = o.stride ~= nil, start = o.start,
           data = type(ev.source) == "table" and set.name or ev.source, split = o.split, sha256 = set.sha256,
           tokenizer = { kind = v.kind, size = v:size(), hash = v:hash() }, context = m.config.context, dtype = m.dtype,
           device = m.device }
end

local MOST_EXP = 709 -- whose exponential is a number

local function record(m, set, o, ev, on_progress)
  local counts, spent = measure(m, set, o, on_progress)
  local reference = 1
  for i, n in ipairs(o.lengths or {}) do
    if n <= m.config.context then reference = i end
  end
  local r, own = header(m, set, o, ev), counts[reference]
  r.loss, r.standard_error = own:mean()
  r.tokens, r.positions = own.tokens, counts[#counts]:positions()
  r.lengths = o.lengths and by_length(o, reference, counts)
  r.bytes, r.bytes_are, r.no_bits = spent:total()
  if r.bytes then r.bits_per_byte = own:nats() / math.log(2) / r.bytes end
  return r
end

-- Of a model that fills in masked tokens: evalset's number and no more.
local function record_of_masked(m, set, o, ev)
  local loss, se, each = ev:loss(m)
  o.n = #each
  local r = header(m, set, o, ev)
  r.loss, r.standard_error, r.no_bits = loss, se, "undefined: what is scored is not all of a text"
  return r
end

-- The record of m; see above.
function M.run(m, opts)
  if type(m) ~= "table" or type(m.forward) ~= "function" or type(m.config) ~= "table" then
    error("evaluate: a model expected, got " .. type(m), 0)
  end
  local o = M.options(m, opts)
  if o.split ~= "all" and o.split ~= "valid" and o.split ~= "train" then refuse("split", "valid, train or all", o.split) end
  local ev = evalset { data = opts and opts.data, windows = o.windows, context = o.window, split = o.split ~= "all" and o.split or nil,
                       other_text = opts and opts.other_text }
  local set, mode = ev:open(m), m.training
  if (o.stride or o.start == "bos") and not set:running() then
    error(("evaluate: option '%s': data of rows=stream expected, got rows=%s"):format(o.stride and "stride" or "start", set.rows), 0)
  end
  o.window = o.window or set:fit(window_of(m))
  o.bos = o.start == "bos" and m.vocabulary.bos or nil
  m:eval()
  local ok, r = pcall(core.no_grad, devices.on, m.device, m.causal and record or record_of_masked, m, set, o, ev, opts and opts.on_progress)
  m:train(mode)
  if not ok then error(r, 0) end
  if m.causal and m.measured then m:measured { loss = r.loss, loss_se = r.standard_error } end
  r.perplexity = r.loss < MOST_EXP and math.exp(r.loss) or nil
  return setmetatable(r, Record)
end

return setmetatable(M, { __call = function(_, m, opts) return M.run(m, opts) end })
