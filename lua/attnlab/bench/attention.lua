-- bench attention: forward and backward of one attention, by variant, form and length.
--
-- FLOP of the parallel form: 2 products over the visible pairs forward, 5 backward (the weights are
-- made again). On a card the softmax of cuDNN, which is bf16, has a row of its own, and every row its ratio to that.
-- Of the chunked form: what the state alone costs, two multiply-adds a token and
-- element of the state forward and 2.5 times that backward; the products inside the chunks come on
-- top.
-- A change here makes no run stale.
local core = require "attnlab.core"
local attention = require "attnlab.attention"
local ceiling = require "attnlab.bench.ceiling"
local check = require "attnlab.bench.check"
local names = require "attnlab.names"
local show = require "attnlab.bench.show"
local specs = require "attnlab.bench.specs"
local timing = require "attnlab.bench.timing"

local M = {}

M.rows = {
  { name = "presets", type = "text",
    default = "softmax,exp_l2,exp_length,cosine,linear_elu,taylor2,taylor4,squared",
    doc = "names with commas; all = every preset of the registry (memory: all)" },
  { name = "forms", type = "text", default = "parallel,chunked",
    doc = "forms; a preset that has not a form is left out of it" },
  { name = "batch", type = "integer", default = "1", min = 1, doc = "sequences" },
  { name = "heads", type = "integer", default = "16", min = 1, doc = "query heads" },
  { name = "kv_heads", type = "integer", default = "0", min = 0,
    doc = "key/value heads; 0 = heads" },
  { name = "seq_len", type = "integer|list", default = "1024", min = 1,
    doc = "queries and keys; several with commas (memory: 2048,8192)" },
  { name = "head_dim", type = "integer", default = "64", min = 1, doc = "channels of a head" },
  { name = "dtype", type = "word", default = "f32", choices = { "f32", "bf16" }, doc = "of inputs, outputs and gradients" },
  { name = "causal", type = "bool", default = "true",
    doc = "a row sees keys up to its own position" },
  { name = "check_len", type = "integer", default = "200", min = 1,
    doc = "length at which results are compared with composed f64" },
  { name = "memory", type = "bool", default = "false",
    doc = "no times: what forward and backward hold must be at most the bytes of q + k + v" },
}

local MEMORY_LENGTHS = { 2048, 8192 }
local CUDNN = { name = "cuDNN softmax, bf16", spec = { preset = "p1/softmax", impl = "cudnn" }, dtype = "bf16" }

-- An instance of a variant, by attention.new or what a test has in its place.
local function instance(o, named, form, impl, dtype)
  local options = specs.with(named.spec, { form = form, impl = impl })
  options.heads, options.kv_heads, options.head_dim = o.heads, o.kv_heads, o.head_dim
  options.width, options.dtype, options.seed = o.heads * o.head_dim, dtype, 1
  return (o.new or attention.new)(options)
end

local function has_form(named, form)
  local known = core.attn.options(named.spec.preset or "")
  for _, row in ipairs(known) do
    if row.name == "form" then
      for _, word in ipairs(row.choices) do
        if word == form then return true end
      end
      return false
    end
  end
  return form == "parallel"
end

local SIZE = { bf16 = 2, f32 = 4, f64 = 8 }
local function bytes_of(t) return SIZE[t:dtype()] * t:numel() end

-- Inputs and the output's gradient at a length, shared by all cases of it.
local function inputs_of(o, T, dtype)
  local function normal(seed, heads)
    local shape = heads and { o.batch, T, heads, o.head_dim }
      or { o.batch, T, o.heads * o.head_dim }
    return core.randn { shape = shape, seed = seed }:to(dtype)
  end
  local set = { q = normal(1, o.heads), k = normal(2, o.kv_heads), v = normal(3, o.kv_heads),
                x = normal(4), causal = o.causal }
  for _, n in ipairs { "q", "k", "v", "x" } do set[n]:requires_grad(true) end
  return { set = set, dy = normal(5, o.heads),
           qkv_bytes = bytes_of(set.q) / set.q:numel() * (set.q:numel() + set.k:numel() + set.v:numel()) }
end

local function drop_gradients(a, inputs)
  for _, n in ipairs { "q", "k", "v", "x" } do inputs.set[n]:zero_grad() end
  for _, p in pairs(a:parameters()) do p:zero_grad() end
end

-- Bytes that forward and backward held at once beyond inputs, output and their gradients.
function M.extra_bytes(a, inputs)
  collectgarbage()
  collectgarbage()
  local before = core.memory().live
  core.reset_peak()
  local y <close> = a:forward(inputs.set)
  y:backward(inputs.dy)
  local known = bytes_of(y)
  local function count(t)
    local g <close> = t:grad()
    known = known + (g and bytes_of(g) or 0)
  end
  for _, n in ipairs { "q", "k", "v", "x" } do count(inputs.set[n]) end
  for _, p in pairs(a:parameters()) do count(p) end
  drop_gradients(a, inputs)
  return core.memory().peak - before - known
end

local function once(a, inputs)
  local forward, ys = timing.repeated(function() return a:forward(inputs.set) end)
  return { forward = forward, backward = timing.backwards(ys, inputs.dy, function() drop_gradients(a, inputs) end) }
end

-- FLOP of forward and backward.
function M.work(o, a, form, T)
  if form == "chunked" then
    local f = 4 * o.batch * T * (a:state_bytes(T) / 4)
    return f, 2.5 * f
  end
  local seen = o.causal and T * (T + 1) / 2 or T * T
  local f = 4 * o.batch * o.heads * seen * o.head_dim
  return f, 2.5 * f
end

local function checked(o, named, form, a, dtype)
  o.say(("checking %s %s"):format(named.name, form))
  local shape = { batch = math.min(o.batch, 2), seq_len = o.check_len, heads = o.heads,
                  kv_heads = o.kv_heads, head_dim = o.head_dim, causal = o.causal, dtype = dtype }
  return check.attention(a, instance(o, named, "parallel", "composed", "f64"),
    instance(o, named, "parallel", "composed", "f32"), shape)
end

-- One preset in one form: a row for each length, with what is not a time, appended to `list`.
local function add(list, o, named, form, a, inputs, lengths, notes)
  local verdict = checked(o, named, form, a, named.dtype or o.dtype)
  if verdict.noise then
    notes[#notes + 1] = ("rounding alone, as the terms cancel: %s %s: %s")
      :format(named.name, form, verdict.noise)
  end
  for _, T in ipairs(lengths) do
    local row = { name = named.name, form = form, seq_len = T, twin = named.twin, right = verdict.ok,
                  error = verdict.error, worst = verdict.worst, noise = verdict.noise,
                  qkv_bytes = inputs[T].qkv_bytes, extra_bytes = M.extra_bytes(a, inputs[T]) }
    row.flop_forward, row.flop_backward = M.work(o, a, form, T)
    row.ok = row.right and (not o.memory or row.extra_bytes <= row.qkv_bytes)
    list[#list + 1] = { row = row, instance = a, inputs = inputs[T] }
  end
end

-- The row of cuDNN, which has to run to be one.
local function add_cudnn(list, o, lengths, notes)
  local a, inputs = instance(o, CUDNN, "parallel", nil, CUDNN.dtype), {}
  for _, T in ipairs(lengths) do inputs[T] = inputs_of(o, T, CUDNN.dtype) end
  local y <close> = a:forward(inputs[lengths[1] ].set)
  add(list, o, CUDNN, "parallel", a, inputs, lengths, notes)
end

function M.check(o)
  specs.parse(o.presets)
  specs.forms(o.forms)
end

-- All rows; a form that a preset refuses is left out and named in the notes. Where nothing is left that is an error.
local function prepare(o, lengths, notes)
  local list, inputs, why = {}, {}, nil
  for _, T in ipairs(lengths) do inputs[T] = inputs_of(o, T, o.dtype) end
  for _, form in ipairs(specs.forms(o.forms)) do
    local presets, missing = specs.parse(o.presets), {}
    for _, named in ipairs(presets) do
      local ok, a = has_form(named, form), nil
      if ok then ok, a = pcall(instance, o, named, form, nil, o.dtype) end
      if ok then
        add(list, o, named, form, a, inputs, lengths, notes)
      else
        missing[#missing + 1] = named.name
        why = why or a
      end
    end
    if #missing > 0 then
      notes[#notes + 1] = ("without the form %s: %s"):format(form,
        #missing == #presets and "all" or table.concat(missing, ", "))
    end
  end
  if #list == 0 then
    error("attention: " .. (why and names.reason(tostring(why)) or "none of the presets has one of the forms asked for"), 0)
  end
  if core.on() ~= "cpu" and not o.memory then
    local ok, absent = pcall(add_cudnn, list, o, lengths, notes)
    if not ok then notes[#notes + 1] = "without cuDNN: " .. names.reason(tostring(absent)) end
  end
  return list
end

local function measure(o, list)
  local cases = ceiling.cases(o)
  for _, p in ipairs(list) do
    cases[#cases + 1] = { once = function() return once(p.instance, p.inputs) end }
  end
  local results, reference, totals, cudnn = timing.rounds(cases, o), {}, {}, {}
  local function key(name, r) return name .. " " .. r.form .. " " .. r.seq_len end
  local rates = ceiling.rates(o, cases, results)
  for i, p in ipairs(list) do
    local r = p.row
    totals[key(r.name, r)] = results[i + 2].total
    if r.name == CUDNN.name then cudnn[r.seq_len] = results[i + 2].total end
    if r.name == specs.REFERENCE and r.form == "parallel" then
      reference[r.seq_len] = results[i + 2].total
    end
  end
  for i, p in ipairs(list) do
    local r, s = p.row, results[i + 2]
    r.total = timing.summary(s.total)
    for _, part in ipairs { "forward", "backward" } do
      r[part] = timing.summary(s[part])
      r[part .. "_flops"] = r["flop_" .. part] / r[part].median
      r[part .. "_of_floor"] = r[part .. "_flops"] / rates.product
    end
    local softmax = reference[r.seq_len]
    r.ratio = softmax and timing.ratio(s.total, softmax) or nil
    r.cudnn_ratio = cudnn[r.seq_len] and timing.ratio(s.total, cudnn[r.seq_len])
    local twin = r.twin and totals[key(r.twin, r)]
    r.twin_ratio = twin and timing.ratio(s.total, twin) or nil
  end
  return rates
end

-- Columns of times, which memory=true does not have.
local function timed(title, f)
  return { title = title, right = true, show = function(r) return r.total and f(r) end }
end

local function part(name)
  return timed(name .. " ms", function(r) return show.ms(r[name].median) end),
    timed("GFLOP/s", function(r) return show.giga(r[name .. "_flops"]) end),
    timed("of floor", function(r) return show.percent(r[name .. "_of_floor"]) end)
end

M.columns = {
  { title = "attention", show = function(r) return r.name end },
  { title = "form", show = function(r) return r.form end },
  { title = "T", right = true, show = function(r) return tostring(r.seq_len) end },
}
for _, list in ipairs {
  { part "forward" }, { part "backward" },
  { timed("both, min..max", function(r) return show.span(r.total) end),
    timed("x softmax", function(r) return r.ratio and ("%.3f"):format(r.ratio) end),
    timed("x cuDNN", function(r) return r.cudnn_ratio and ("%.3f"):format(r.cudnn_ratio) or "" end),
    timed("x built-in", function(r)
      return r.twin_ratio and ("%.3f"):format(r.twin_ratio) or ""
    end),
    { title = "extra", right = true, show = function(r) return show.bytes(r.extra_bytes) end },
    { title = "of q+k+v", right = true,
      show = function(r) return ("%.2f"):format(r.extra_bytes / r.qkv_bytes) end },
    { title = "error", right = true, show = function(r) return show.error(r.error) end },
    { title = "of", show = function(r) return r.worst end },
    { title = "", show = function(r)
      return r.ok and (r.noise and "cancels" or "") or r.right and "TOO LARGE" or "WRONG"
    end } },
} do
  table.move(list, 1, #list, #M.columns + 1, M.columns)
end

-- o: values of the rows, of ceiling.rows and of bench.lua's. Returns {title, rows, rates, notes}.
function M.run(o, given)
  if o.kv_heads == 0 then o.kv_heads = o.heads end
  local lengths = type(o.seq_len) == "table" and o.seq_len or { o.seq_len }
  if o.memory then
    lengths = given.seq_len and lengths or MEMORY_LENGTHS
    o.presets = given.presets and o.presets or "all"
  end
  local notes = { ("error: relative RMS error to composed f64 at T = %d, the largest of output and "
    .. "gradients; at most %g passes, in bf16 %g"):format(o.check_len, check.TOLERANCE, check.TOLERANCE_BF16) }
  local list, rows = prepare(o, lengths, notes), {}
  for i, p in ipairs(list) do rows[i] = p.row end
  return {
    title = ("attention%s: B=%d H=%d Hkv=%d D=%d, %s, %s"):format(o.memory and ", memory" or "",
      o.batch, o.heads, o.kv_heads, o.head_dim, o.causal and "causal" or "every key visible", o.dtype),
    rows = rows, rates = not o.memory and #list > 0 and measure(o, list) or nil, notes = notes }
end

return M
