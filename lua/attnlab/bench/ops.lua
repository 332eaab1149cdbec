-- bench ops: the parts of a training step one by one, at the model's shapes, against the rate of
-- products or of memory.
--
-- Bytes are those of the inputs and outputs, each read or written once. Tensors that fit the caches
-- can pass 100 % of memory's rate.
-- A change here makes no run stale.
local core = require "attnlab.core"
local ceiling = require "attnlab.bench.ceiling"
local check = require "attnlab.bench.check"
local names = require "attnlab.names"
local optim = require "attnlab.optim"
local show = require "attnlab.bench.show"
local timing = require "attnlab.bench.timing"

local M = {}

M.rows = {
  { name = "ops", type = "text", default = "all", doc = "names with commas; all = every one" },
  { name = "batch", type = "integer", default = "16", min = 1, doc = "sequences" },
  { name = "seq_len", type = "integer", default = "256", min = 1, doc = "tokens of a sequence" },
  { name = "width", type = "integer", default = "256", min = 1, doc = "channels" },
  { name = "heads", type = "integer", default = "4", min = 1, doc = "heads (rope)" },
  { name = "mlp", type = "integer", default = "512", min = 1, doc = "hidden channels of the MLP" },
  { name = "vocab", type = "integer", default = "65", min = 2, doc = "token ids" },
  { name = "parameters", type = "integer", default = "2656512", min = 1,
    doc = "weights of an AdamW step" },
  { name = "dtype", type = "word", default = "f32", choices = { "f32", "bf16" }, doc = "of the tensors; AdamW's weights are f32" },
  { name = "check_rows", type = "integer", default = "256", min = 1,
    doc = "tokens at which results are compared with f64" },
}

-- y (M,N) = x w^T, w (N,K)
local function product(name, rows, K, N)
  return { name = name, shape = ("(%d,%d) x (%d,%d)^T"):format(rows, K, N, K),
           inputs = { { rows, K }, { N, K } },
           f = function(x, w) return x:matmul(w, { transpose_b = true }) end,
           flop = { forward = 2 * rows * K * N, backward = 4 * rows * K * N } }
end

-- A function of elements and rows; reads and writes an element of the first input.
local function traffic(size, name, shape, inputs, f, forward, backward)
  local n = size
  for _, d in ipairs(inputs[1]) do n = n * d end
  return { name = name, shape = shape, inputs = inputs, f = f,
           bytes = { forward = n * forward, backward = n * backward } }
end

-- Every op with `tokens` rows. An input that is a function makes its tensor itself.
local function all(o, tokens)
  local C, F, V = o.width, o.mlp, o.vocab
  local function moved(...) return traffic(o.dtype == "bf16" and 2 or 4, ...) end
  local function matrix(n) return ("(%d,%d)"):format(tokens, n) end
  local function targets()
    return core.rand { shape = { tokens }, seed = 9 }:scale { by = V }:clamp { max = V - 1 }
      :cast { dtype = "i32" }
  end
  return {
    product("q k v o", tokens, C, C), product("gate up", tokens, C, F),
    product("down", tokens, F, C), product("head", tokens, C, V),
    moved("softmax", matrix(C), { { tokens, C } }, function(x) return x:softmax() end, 2, 3),
    moved("rmsnorm", matrix(C), { { tokens, C }, { C } },
      function(x, g) return x:rmsnorm { gain = g } end, 2, 3),
    moved("add_rmsnorm", matrix(C), { { tokens, C }, { tokens, C }, { C } }, function(x, a, g)
      local sum <close>, norm = x:add_rmsnorm(a, { gain = g })
      return norm
    end, 4, 3),
    moved("swiglu", matrix(F), { { tokens, F }, { tokens, F } },
      function(gate, up) return gate:swiglu(up) end, 3, 5),
    moved("rope", ("(%d,%d,%d)"):format(tokens, o.heads, C // o.heads),
      { { 1, tokens, o.heads, C // o.heads } }, function(x) return x:rope() end, 2, 2),
    moved("add", matrix(C), { { tokens, C }, { tokens, C } },
      function(a, b) return a + b end, 3, 0),
    moved("cross_entropy", matrix(V), { { tokens, V }, targets },
      function(x, y) return x:cross_entropy(y) end, 1, 2),
    moved("exp", matrix(4 * C), { { tokens, 4 * C } }, function(x) return x:exp() end, 2, 3),
  }
end

-- Tensors of an op's inputs in a dtype, with values of `values`, f32 without one.
local function make(op, dtype, values)
  local list = {}
  for i, shape in ipairs(op.inputs) do
    if type(shape) == "function" then
      list[i] = shape()
    else
      list[i] = core.randn { shape = shape, seed = i }:to(values or "f32"):to(dtype)
      list[i]:requires_grad(true)
    end
  end
  return list
end

local function gradient_of(y, values)
  return core.randn { shape = y:shape(), seed = 77 }:to(values or "f32"):to(y:dtype())
end

-- Output and gradients of one run, by name.
local function results(f, op, dtype, values)
  local inputs, out = make(op, dtype, values), {}
  local y = f(table.unpack(inputs))
  y:backward(gradient_of(y, values))
  out.y = y:detach()
  for i, t in ipairs(inputs) do out["gradient " .. i] = t:grad() end
  return out
end

-- Worst error of f in a dtype against the op's own function in f64.
function M.error_of(op, f, dtype)
  dtype = dtype or "f32"
  return check.worst(results(f or op.f, op, dtype, dtype), results(op.f, op, "f64", dtype))
end

local function case(op, dtype)
  local inputs = make(op, dtype)
  local dy
  return { once = function()
    local forward, ys = timing.repeated(function() return (op.f(table.unpack(inputs))) end)
    dy = dy or gradient_of(ys[1])
    return { forward = forward, backward = timing.backwards(ys, dy, function()
      for _, t in ipairs(inputs) do t:zero_grad() end
    end) }
  end }
end

-- AdamW from zero with fixed gradients: the weights are then what the steps added up to.
local function adamw(n, dtype)
  local p = core.zeros { shape = { n }, dtype = dtype }
  p:requires_grad(true)
  local o = optim.adamw { { p }, lr = 1e-3, weight_decay = 0, grad_clip = 0 }
  local g = core.randn { shape = { n }, seed = 3 }:to(dtype)
  local y = (p * g):sum()
  y:backward()
  return p, o
end

local function adamw_op(o)
  local op = { name = "adamw", shape = ("(%d)"):format(o.parameters),
               bytes = { forward = 28 * o.parameters } }
  op.error = function()
    local out = {}
    for _, dtype in ipairs { "f32", "f64" } do
      local p, optimiser = adamw(math.min(o.parameters, 10000), dtype)
      for _ = 1, 3 do optimiser:step() end
      out[dtype] = { y = p:detach() }
    end
    return check.worst(out.f32, out.f64)
  end
  op.case = function()
    local _, optimiser = adamw(o.parameters, "f32")
    return { once = function() return { forward = (timing.repeated(function() optimiser:step() end)) } end }
  end
  return op
end

-- One row for each part of an op.
local function add_rows(rows, op, result, rates, err, whose, dtype)
  for _, part in ipairs { "forward", "backward" } do
    local work = (op.flop or op.bytes)[part]
    if result[part] and work and work > 0 then
      local r = { name = op.name, part = part, shape = op.shape, error = err, worst = whose,
                  seconds = timing.summary(result[part]), ok = err <= (op.case and check.TOLERANCE or check.tolerance(dtype)),
                  kind = op.flop and "products" or "memory" }
      r.rate = work / r.seconds.median
      r.of_ceiling = r.rate / (op.flop and rates.product or rates.copy)
      rows[#rows + 1] = r
    end
  end
end

M.columns = {
  { title = "op", show = function(r) return r.name end },
  { title = "part", show = function(r) return r.part end },
  { title = "shape", show = function(r) return r.shape end },
  { title = "ms", right = true, show = function(r) return show.ms(r.seconds.median) end },
  { title = "min..max", right = true, show = function(r) return show.span(r.seconds) end },
  { title = "GFLOP/s", right = true,
    show = function(r) return r.kind == "products" and show.giga(r.rate) end },
  { title = "GB/s", right = true,
    show = function(r) return r.kind == "memory" and show.giga(r.rate) end },
  { title = "of ceiling", right = true, show = function(r) return show.percent(r.of_ceiling) end },
  { title = "error", right = true, show = function(r) return show.error(r.error) end },
  { title = "", show = function(r) return r.ok and "" or "WRONG" end },
}

-- Of these ops those that are asked for.
local function wanted(o, list)
  if o.ops == "all" then return list end
  local by_name, out, known = {}, {}, {}
  for i, op in ipairs(list) do by_name[op.name], known[i] = op, op.name end
  for name in o.ops:gmatch "[^,]+" do
    out[#out + 1] = by_name[name] or error("ops: " .. names.unknown("op", name, known), 0)
  end
  return out
end

local function every(o, tokens)
  local list = all(o, tokens)
  list[#list + 1] = adamw_op(o)
  return list
end

function M.check(o) wanted(o, every(o, 1)) end

-- o: values of the rows, of ceiling.rows and of bench.lua's; o.replace[name]: another function in
-- f32 in the place of an op's. Returns {title, rows, rates, notes}.
function M.run(o)
  local tokens = o.batch * o.seq_len
  local full, small = wanted(o, every(o, tokens)), {}
  for _, op in ipairs(all(o, math.min(tokens, o.check_rows))) do small[op.name] = op end
  local cases, errors = ceiling.cases(o), {}
  for i, op in ipairs(full) do
    o.say("checking " .. op.name)
    local f = o.replace and o.replace[op.name]
    errors[i] = { (op.error or function() return M.error_of(small[op.name], f, o.dtype) end)() }
    cases[#cases + 1] = op.case and op.case() or case(op, o.dtype)
  end
  local measured, rows = timing.rounds(cases, o), {}
  local rates = ceiling.rates(o, cases, measured)
  for i, op in ipairs(full) do
    add_rows(rows, op, measured[i + 2], rates, errors[i][1], errors[i][2], o.dtype)
  end
  local note = ("error: relative RMS error to the same op in f64 on %d rows, the largest of output and "
    .. "gradients; at most %g passes"):format(math.min(tokens, o.check_rows), check.tolerance(o.dtype))
  local library = core.on() ~= "cpu" and "products are cuBLASLt's: of ceiling is what it loses at that shape" or nil
  return { title = ("ops of a training step: %d tokens, %s"):format(tokens, o.dtype), rows = rows,
           rates = rates, notes = { note, library } }
end

return M
