-- The study of softmax as a recurrence: P_p, the series of exp cut at order p, needs a finite state.
-- For every case: the recurrent form, run token by token, against the parallel form and against exact
-- softmax; the bytes its state has; what the series lets expect.
--
-- Series: what the remainder r = exp(s) - P_p(s) does to softmax's weights a = exp(s) / W, to first order
-- in r, in f64; with independent values the output is off by as much:
--   sqrt(sum ((r_ij - a_ij sum_j r_ij) / W_i)^2 / sum a_ij^2)   over the visible pairs.
local core = require "attnlab.core"
local check = require "attnlab.bench.check"
local results = require "attnlab.recurrence_results"
local taps = require "attnlab.nn.taps"
local sys = core.sys

local M = {}

M.rows = {
  { name = "inputs", type = "text", default = "normal",
    doc = "normal: q, k, v from N(0,1); else a model's name in experiments/models, whose q, k and v they are" },
  { name = "head_dim", type = "integer", default = "16", min = 1, doc = "channels of a head; of a model: its own" },
  { name = "heads", type = "integer", default = "2", min = 1, doc = "of normal inputs" },
  { name = "scale", type = "number", default = "1", min = 0, doc = "deviation of the logits of normal inputs: q times this" },
  { name = "orders", type = "list", default = "{2}", min = 1, doc = "orders p of the series" },
  { name = "tokens", type = "integer", default = "256", min = 2, doc = "length of the text" },
}

local function trained(case) return case.inputs ~= "normal" end

local function model_path(name)
  return ("%s/experiments/models/%s.bin"):format(require("attnlab.data").home(), name)
end

function M.expand(case)
  local list = {}
  if #case.orders == 0 then error("orders: there is none", 0) end
  for i, order in ipairs(case.orders) do
    local c = { inputs = case.inputs, tokens = case.tokens, order = math.tointeger(order) }
    if not c.order then error(("orders: whole numbers expected, got %g"):format(order), 0) end
    if trained(case) then
      if sys.exists(model_path(case.inputs)) ~= "file" then
        error(("inputs: '%s': normal or a model in experiments/models expected"):format(case.inputs), 0)
      end
    else
      c.head_dim, c.heads, c.scale = case.head_dim, case.heads, case.scale
    end
    list[i] = c
  end
  return list
end

function M.seeded(case) return not trained(case) end

function M.inputs_hash(case)
  return trained(case) and sys.sha256_file(model_path(case.inputs)) or nil
end

function M.title(c)
  if trained(c) then return ("%s, order %d"):format(c.inputs, c.order) end
  return ("D = %d, logits of deviation %g, order %d"):format(c.head_dim, c.scale, c.order)
end

-- In multiply-adds of the state, with something for the rest.
function M.cost(c)
  local D, heads = c.head_dim or 8, c.heads or 40
  return c.tokens * heads * results.features(D, c.order) * (D + 1) + 1e7
end

-- ---- inputs: { {q=, k=, v=}, .. }, one for each attention ------------------------------------------

local function normal_inputs(c, seed)
  local set = {}
  for _, n in ipairs { "q", "k", "v" } do
    set[n] = core.randn { shape = { 1, c.tokens, c.heads, c.head_dim }, seed = seed, stream = n }
  end
  set.q = set.q * c.scale
  return { set }
end

local models = {}

-- Queries, keys and values of every layer over the text that the model itself writes.
local function model_inputs(c)
  local m = models[c.inputs] or require("attnlab.model").load(model_path(c.inputs)):eval()
  models[c.inputs] = m
  local _, ids = m:generate { tokens = c.tokens - 1 }
  local sets = {}
  local h <close> = m:hidden({ table.move(ids, 1, c.tokens, 1, {}) }, { taps = taps.inputs(#m.layers, function(i, q, k, v)
    sets[i] = { q = q:contiguous(), k = k:contiguous(), v = v:contiguous() }
  end) })
  for _, s in ipairs(sets) do
    for n, t in pairs(s) do s[n] = t:clone() end
  end
  return sets
end

-- ---- the measurement ----------------------------------------------------------------------------------

local function instance(set, options, dtype)
  return core.attn.new("", options, { heads = set.q:size(3), kv_heads = set.k:size(3), head_dim = set.q:size(4),
                                      dtype = dtype, seed = 0 })
end

local function exact(set)
  local out = {}
  for n, t in pairs(set) do out[n] = t:to "f64" end
  return out
end

-- Token by token; outputs joined, the last state, seconds a token.
local function recur(a, set)
  local T, out = set.q:size(2), {}
  local st, seconds = a:state { batch = set.q:size(1) }, 0
  for t = 1, T do
    local token = {}
    for n, x in pairs(set) do token[n] = x:slice { axis = 2, start = t - 1, stop = t }:contiguous() end
    local began = sys.clock()
    local y, after = a:step(st, token)
    seconds = seconds + sys.clock() - began
    st:free()
    st, out[t] = after, y
  end
  local y = core.op.concat(table.move(out, 1, math.min(T, 64), 1, {}), { axis = 2 })
  for at = 65, T, 63 do
    local some = table.move(out, at, math.min(T, at + 62), 2, { y })
    y = core.op.concat(some, { axis = 2 })
  end
  return y, st, seconds / T
end

-- Largest |s| of visible pairs, and what the series says.
local function series(set, order)
  local x = exact(set)
  local row = taps.visible(x.q:size(2), "f64")
  local _, found = taps.seen(instance(set, { impl = "composed" }, "f64"), x, { "logits" })
  -- what is not visible is 0 and has no weight below
  local s = core.op.select(row, found.logits, core.zeros { shape = { 1 }, dtype = "f64" })
  local p, term = core.ones { shape = s:shape(), dtype = "f64" }, core.ones { shape = s:shape(), dtype = "f64" }
  for n = 1, order do
    term = term * s * (1 / n)
    p = p + term
  end
  local e = s:exp() * row
  local w = e:sum { axes = { 4 }, keep = true }
  local a, r = e / w, (e - p * row) / w
  local off = (r - a * r:sum { axes = { 4 }, keep = true }):square():sum():item()
  return s:abs():max():item(), math.sqrt(off / a:square():sum():item())
end

function M.run(case, seed)
  local sets = trained(case) and model_inputs(case) or normal_inputs(case, seed)
  local sum = { softmax = 0, forms = 0, rounding = 0, series = 0, seconds = 0 }
  local r = { largest = 0, head_dim = sets[1].q:size(4), state = 0, cache = 0, grown = 0 }
  local taylor = { similarity = "taylor", order = case.order }
  local function with(form, impl) return { similarity = "taylor", order = case.order, form = form, impl = impl } end
  for _, set in ipairs(sets) do
    local a = instance(set, taylor, "f32")
    local empty = a:state { batch = 1 }
    local y, st, seconds = recur(a, set)
    local want = exact(set)
    local softmax = instance(set, { impl = "composed" }, "f64"):forward(want)
    local same = instance(set, with("parallel", "composed"), "f64"):forward(want)
    local parallel = instance(set, with("parallel"), "f32"):forward(set)
    local largest, expected = series(set, case.order)
    sum.softmax = sum.softmax + check.ratio(y, softmax)
    sum.forms = sum.forms + check.ratio(y, parallel)
    sum.rounding = sum.rounding + check.ratio(y, same)
    sum.series, sum.seconds = sum.series + expected, sum.seconds + seconds
    r.largest = math.max(r.largest, largest)
    local heads = set.k:size(3)
    r.state = math.max(r.state, st:bytes() / heads)
    r.grown = math.max(r.grown, st:bytes() - empty:bytes())
    local whole = { state = instance(set, {}, "f32"):state { batch = 1 } }
    for n, t in pairs(set) do whole[n] = t end
    local _, cache = instance(set, {}, "f32"):forward(whole)
    r.cache = math.max(r.cache, cache:bytes() / heads / case.tokens)
  end
  for k, v in pairs(sum) do r[k] = v / #sets end
  return r
end

for k, v in pairs(results) do M[k] = v end

return M
