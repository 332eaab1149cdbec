-- bench decode: the time of one more token behind short and long texts. A finite state costs the
-- same anywhere: its presets are held to that, in time and in memory. A preset with a key/value cache
-- stands beside them and may grow; its token costs at least one pass over the cache, which is timed in
-- the same rounds (the sums of all keys and of all values).
--
-- The state at a position comes from forward in chunks; the token behind it is checked against the
-- parallel form over the whole text. Floor: a finite state read and written once, a cache read once.
-- A change here makes no run stale.
local core = require "attnlab.core"
local attention = require "attnlab.attention"
local ceiling = require "attnlab.bench.ceiling"
local check = require "attnlab.bench.check"
local show = require "attnlab.bench.show"
local specs = require "attnlab.bench.specs"
local timing = require "attnlab.bench.timing"

local M = {}

M.rows = {
  { name = "presets", type = "text", default = "taylor2,cosine,linear_elu",
    doc = "names with commas: finite states, which must cost the same at every position" },
  { name = "contrast", type = "text", default = "softmax",
    doc = "names with commas, or none: shown beside them and not judged by time and memory" },
  { name = "positions", type = "integer|list", default = "200,20000", min = 1,
    doc = "tokens before the one that is timed; several with commas, the first is the reference" },
  { name = "chunk", type = "integer", default = "2048", min = 1,
    doc = "tokens at a time on the way there" },
  { name = "batch", type = "integer", default = "1", min = 1, doc = "sequences" },
  { name = "heads", type = "integer", default = "4", min = 1, doc = "query heads" },
  { name = "kv_heads", type = "integer", default = "0", min = 0, doc = "key/value heads; 0 = heads" },
  { name = "head_dim", type = "integer", default = "64", min = 1, doc = "channels of a head" },
  { name = "limit", type = "number", default = "0.15", min = 0,
    doc = "share by which a token may cost more than at the first position" },
  { name = "rounds", type = "integer", default = "15", min = 1,
    doc = "samples of each case, taken in turns" },
}

-- f32 sums over 20,000 tokens in another order.
local TOLERANCE = 1e-4
-- Tokens after which no tensor may be left over.
local LEAK_STEPS = 20

local function inputs_of(o, T)
  local function normal(stream, ...)
    return core.randn { shape = { o.batch, T, ... }, seed = 1, stream = stream }
  end
  return { q = normal("q", o.heads, o.head_dim), k = normal("k", o.kv_heads, o.head_dim),
           v = normal("v", o.kv_heads, o.head_dim), x = normal("x", o.heads * o.head_dim) }
end

-- Tokens from + 1 .. to, packed as those of a decoder are.
local function part(inputs, from, to)
  local out = {}
  for n, t in pairs(inputs) do
    out[n] = t:slice { axis = 2, start = from, stop = to }:contiguous()
  end
  return out
end

local function instance(o, named, form)
  local options = specs.with(named.spec, { form = form })
  options.heads, options.kv_heads, options.head_dim = o.heads, o.kv_heads, o.head_dim
  options.width, options.seed = o.heads * o.head_dim, 1
  return (o.new or attention.new)(options)
end

-- States behind each of the ascending positions.
local function states_at(o, a, inputs, positions)
  local out, st, at = {}, a:state { batch = o.batch }, 0
  for _, t in ipairs(positions) do
    while at < t do
      local to = math.min(at + o.chunk, t)
      local call = part(inputs, at, to)
      call.state = st
      local y <close>, after = a:forward(call)
      st, at = after, to
    end
    out[t] = st
  end
  return out
end

-- What live tensors are more by after some tokens beside the state itself.
local function left_over(a, token, st)
  local function live()
    collectgarbage()
    collectgarbage()
    return core.memory().live
  end
  local at, before = st, nil
  for i = 0, LEAK_STEPS do
    local y, after = a:step(at, token)
    y:free()
    if at ~= st then at:free() end
    at = after
    if i == 0 then before = live() - at:bytes() end
  end
  return live() - at:bytes() - before
end

-- Of a token behind another, as those of a text are: a state that goes on a second time is copied.
local function peak_of(a, token, st)
  local first <close>, at = a:step(st, token)
  collectgarbage()
  collectgarbage()
  local before = core.memory().live
  core.reset_peak()
  local y <close>, after = a:step(at, token)
  local peak = core.memory().peak - before
  after:free()
  at:free()
  return peak
end

-- Reads keys and values once; nil where the state has none.
local function pass_over(st)
  local list = {}
  for _, c in ipairs(st:components()) do
    if c.name == "k" or c.name == "v" then list[#list + 1] = c.tensor:contiguous() end
  end
  return #list == 2 and function()
    for _, t in ipairs(list) do t:sum():free() end
  end or nil
end

-- Rows of one preset, with all that is not a time.
local function prepare(o, named, finite, inputs, positions, list)
  o.say("states of " .. named.name)
  local a, parallel = instance(o, named), instance(o, named, "parallel")
  for n, p in pairs(a:parameters()) do parallel:parameters()[n]:copy_(p) end
  local states, first = states_at(o, a, inputs, positions), nil
  for _, t in ipairs(positions) do
    o.say(("checking %s behind %d tokens"):format(named.name, t))
    local st, token = states[t], part(inputs, t, t + 1)
    local whole = part(inputs, 0, t + 1)
    whole.causal = true
    local want <close> = parallel:forward(whole)
    local y <close> = a:step(st, token)
    local row = { name = named.name, position = t, finite = finite, state_bytes = st:bytes(),
                  error = check.ratio(y, want:slice { axis = 2, start = t }),
                  peak = peak_of(a, token, st), left = left_over(a, token, st) }
    first = first or row
    row.right = row.error <= TOLERANCE
    row.grows = row.state_bytes > first.state_bytes or row.peak > first.peak or row.left > 0
    local at, pass = nil, not finite and pass_over(st) or nil
    list[#list + 1] = { row = row, first = first, once = function()
      if not at or at:position() > t + t // 20 + 1 then -- not timed: it may copy
        if at then at:free() end
        local out <close>, after = a:step(st, token)
        at = after
      end
      local out, after
      local seconds = timing.timed(function() out, after = a:step(at, token) end)
      out:free()
      at:free()
      at = after
      return { token = seconds, pass = pass and timing.timed(pass) or 0 }
    end }
  end
end

local function measure(o, list)
  local cases = ceiling.cases(o)
  table.move(list, 1, #list, #cases + 1, cases)
  local results = timing.rounds(cases, o)
  local rates = ceiling.rates(o, cases, results)
  for i, p in ipairs(list) do
    p.row.token = timing.summary(results[i + 2].token)
    p.row.ratio = p.row.token.median / p.first.token.median
    local pass = timing.median(results[i + 2].pass)
    if pass > 0 then p.row.passes = p.row.token.median / pass end
    p.row.of_floor = pass > 0 and 1 / p.row.passes or 2 * p.row.state_bytes / rates.copy / p.row.token.median
    p.row.slower = p.row.ratio > 1 + o.limit
    p.row.ok = p.row.right and not (p.row.finite and (p.row.slower or p.row.grows))
  end
  return rates
end

local function verdict(r)
  if not r.right then return "WRONG" end
  if not r.finite then return r.grows and "grows, not judged" or "not judged" end
  return r.grows and "GROWS" or r.slower and "SLOWER" or ""
end

local function column(title, f)
  return { title = title, right = true, show = f }
end

M.columns = {
  { title = "attention", show = function(r) return r.name end },
  column("behind", function(r) return tostring(r.position) end),
  column("ms a token", function(r) return show.ms(r.token.median) end),
  column("min..max", function(r) return show.span(r.token) end),
  column("x first", function(r) return ("%.3f"):format(r.ratio) end),
  column("of floor", function(r) return show.percent(r.of_floor) end),
  column("x one pass", function(r) return r.passes and ("%.2f"):format(r.passes) or "" end),
  column("state", function(r) return show.bytes(r.state_bytes) end),
  column("a step holds", function(r) return show.bytes(r.peak) end),
  column("error", function(r) return show.error(r.error) end),
  { title = "", show = verdict },
}

local function positions_of(o)
  return type(o.positions) == "table" and o.positions or { o.positions }
end

function M.check(o)
  local positions = positions_of(o)
  for i = 2, #positions do
    if positions[i] <= positions[i - 1] then error("positions: ascending ones expected", 0) end
  end
  specs.parse(o.presets)
  if o.contrast ~= "none" then specs.parse(o.contrast) end
end

-- o: values of the rows, of ceiling.rows and of bench.lua's. Returns {title, rows, rates, notes}.
function M.run(o)
  if o.kv_heads == 0 then o.kv_heads = o.heads end
  local positions = positions_of(o)
  local list, rows, rates = {}, {}, nil
  core.no_grad(function()
    local inputs = inputs_of(o, positions[#positions] + 1)
    for _, named in ipairs(specs.parse(o.presets)) do prepare(o, named, true, inputs, positions, list) end
    for _, named in ipairs(o.contrast ~= "none" and specs.parse(o.contrast) or {}) do
      prepare(o, named, false, inputs, positions, list)
    end
    rates = measure(o, list)
  end)
  for i, p in ipairs(list) do rows[i] = p.row end
  return {
    title = ("decode: one token, B=%d H=%d Hkv=%d D=%d, f32"):format(o.batch, o.heads, o.kv_heads, o.head_dim),
    rows = rows, rates = rates, notes = {
      ("x first: over the time behind %d tokens; at most %.2f passes, and state and step may hold no more")
        :format(positions[1], 1 + o.limit),
      "x one pass: over the time of reading the cache's keys and values once",
      ("error: relative RMS error to the parallel form over the whole text; at most %g passes"):format(TOLERANCE) } }
end

return M
