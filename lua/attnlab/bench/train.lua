-- bench train: one optimiser step of a Llama on random tokens, by attention variant.
--
-- A step is forward, backward, AdamW without clip or decay, gradients dropped. Work that has to be
-- done:
--   FLOP        2 a multiply-add of the matrix products and of attention, counted where they are called
--   bytes       operands and results of the products, and 28 a parameter (AdamW reads weight, gradient
--               and two moments, writes all but the gradient)
-- The floor is the time of this work at the rates of ceiling.lua.
-- A change here makes no run stale.
local core = require "attnlab.core"
local budget = require "attnlab.budget"
local ceiling = require "attnlab.bench.ceiling"
local check = require "attnlab.bench.check"
local model = require "attnlab.model"
local optim = require "attnlab.optim"
local show = require "attnlab.bench.show"
local specs = require "attnlab.bench.specs"
local timing = require "attnlab.bench.timing"

local M = {}

M.rows = {
  { name = "presets", type = "text", default = "softmax,exp_l2,cosine",
    doc = "names with commas; all = every preset of the registry" },
  { name = "layers", type = "integer", default = "4", min = 1, doc = "blocks" },
  { name = "width", type = "integer", default = "256", min = 1, doc = "channels" },
  { name = "heads", type = "integer", default = "4", min = 1, doc = "query heads" },
  { name = "mlp", type = "integer", default = "512", min = 1, doc = "hidden channels of the MLP" },
  { name = "vocab", type = "integer", default = "65", min = 2, doc = "token ids" },
  { name = "seq_len", type = "integer", default = "256", min = 1, doc = "tokens of a sequence" },
  { name = "batch", type = "integer", default = "16", min = 1, doc = "sequences of a step" },
  { name = "lr", type = "number", default = "1e-3", min = 0, doc = "learning rate" },
  { name = "seed", type = "integer", default = "1", min = 0, doc = "of weights and tokens" },
  { name = "check_steps", type = "integer", default = "10", min = 1,
    doc = "steps after which the losses must agree" },
  { name = "check_batch", type = "integer", default = "2", min = 1,
    doc = "sequences of those steps" },
}

-- Presets that are timed in turns with the reference: more would hold too many models at once.
local GROUP = 5

-- A model ready to step: {model, optimiser, x, y}.
function M.stepper(o, spec, dtype, batch)
  local m = model.new { layers = o.layers, width = o.width, heads = o.heads, mlp = o.mlp,
                        vocab = o.vocab, context = o.seq_len, attention = spec, seed = o.seed,
                        dtype = dtype }
  local function ids(seed)
    return core.rand { shape = { batch, o.seq_len }, seed = seed }:scale { by = o.vocab }
      :clamp { max = o.vocab - 1 }:cast { dtype = "i32" }
  end
  return { model = m, x = ids(2 * o.seed), y = ids(2 * o.seed + 1), lr = o.lr,
           optimiser = optim.adamw { m:parameters(), lr = o.lr, weight_decay = 0, grad_clip = 0 } }
end

function M.step(s)
  local loss <close> = s.model:loss(s.x, s.y)
  loss:backward()
  s.optimiser:step(s.lr)
  s.optimiser:zero_grad()
end

-- Losses before each of n steps and after the last.
function M.losses(s, n)
  local list = {}
  for i = 1, n + 1 do
    local loss <close> = s.model:loss(s.x, s.y)
    list[i] = loss:item()
    if i <= n then
      loss:backward()
      s.optimiser:step(s.lr)
      s.optimiser:zero_grad()
    end
  end
  return list
end

-- The same steps by two paths from the same weights: last losses, largest difference on the way.
function M.compare(candidate, reference, n)
  local own = reference.model:parameters()
  for name, t in pairs(candidate.model:parameters()) do own[name]:copy_(t) end
  local got, want = M.losses(candidate, n), M.losses(reference, n)
  return got[n + 1], want[n + 1], check.losses(got, want)
end

-- Sets loss, loss_composed, difference and ok. Steps on one batch soon know it by heart, and then
-- any rounding grows: a difference beyond the tolerance passes when the composed path in f32 has
-- one of its size, `noise`.
local function checked(o, named, row)
  local function composed(dtype)
    local spec = specs.with(named.spec, { impl = "composed", form = "parallel" })
    return M.stepper(o, spec, dtype, o.check_batch)
  end
  local own = M.stepper(o, named.spec, "f32", o.check_batch)
  row.loss, row.loss_composed, row.difference = M.compare(own, composed "f64", o.check_steps)
  if row.difference > check.LOSS_TOLERANCE then
    local _, _, noise = M.compare(composed "f32", composed "f64", o.check_steps)
    row.noise = noise
  end
  row.ok = check.passes(row.difference, check.LOSS_TOLERANCE, row.noise)
end

-- FLOP, bytes and parameters of a step.
function M.work(o, spec)
  local _, w = budget.counted(function()
    local s = M.stepper(o, spec, "f32", o.batch)
    local products, bytes = core.work()
    M.step(s)
    local w = { parameters = 0 }
    w.flop, w.bytes = core.work()
    for _, t in pairs(s.model:parameters()) do w.parameters = w.parameters + t:numel() end
    w.flop, w.bytes = 2 * (w.flop - products), w.bytes - bytes + 28 * w.parameters
    return w
  end)
  return w
end

-- Builds and measures what is not a time: {stepper, row}.
local function prepare(o, named)
  o.say("checking " .. named.name)
  local row = { name = named.name }
  checked(o, named, row)
  collectgarbage()
  collectgarbage()
  local before = core.memory().live
  local s = M.stepper(o, named.spec, "f32", o.batch)
  M.step(s) -- makes the optimiser's state
  collectgarbage()
  core.reset_peak()
  M.step(s)
  row.peak_bytes = core.memory().peak - before
  local w = M.work(o, named.spec)
  row.parameters, row.bytes, row.flop = w.parameters, w.bytes, w.flop
  return { stepper = s, row = row }
end

local function measure(o, group, reference)
  local cases = ceiling.cases(o)
  for _, p in ipairs(group) do
    cases[#cases + 1] = { once = function()
      return { step = (timing.timed(M.step, p.stepper)) }
    end }
  end
  local results = timing.rounds(cases, o)
  local rates = ceiling.rates(o, cases, results)
  for i, p in ipairs(group) do
    local row, samples = p.row, results[i + 2].step
    if not row.seconds then -- the reference has its row from the first group
      row.seconds = timing.summary(samples)
      row.tokens_per_second = o.batch * o.seq_len / row.seconds.median
      row.floor_seconds, row.limit = ceiling.floor(rates, row.flop,
        row.bytes)
      row.of_floor = row.floor_seconds / row.seconds.median
      row.ratio = reference and timing.ratio(samples, results[reference + 2].step) or nil
    end
  end
  return rates
end

M.columns = {
  { title = "attention", show = function(r) return r.name end },
  { title = "ms", right = true, show = function(r) return show.ms(r.seconds.median) end },
  { title = "min..max", right = true, show = function(r) return show.span(r.seconds) end },
  { title = "token/s", right = true,
    show = function(r) return ("%.0f"):format(r.tokens_per_second) end },
  { title = "x softmax", right = true,
    show = function(r) return r.ratio and ("%.2f"):format(r.ratio) end },
  { title = "GFLOP", right = true,
    show = function(r) return ("%.1f"):format(r.flop / 1e9) end },
  { title = "floor ms", right = true, show = function(r) return show.ms(r.floor_seconds) end },
  { title = "of floor", right = true, show = function(r) return show.percent(r.of_floor) end },
  { title = "peak", right = true, show = function(r) return show.bytes(r.peak_bytes) end },
  { title = "loss", right = true, show = function(r) return ("%.5f"):format(r.loss) end },
  { title = "off composed", right = true,
    show = function(r) return ("%.1e"):format(r.difference) end },
  { title = "", show = function(r)
    return r.ok and (r.noise and ("as composed f32: %.1e"):format(r.noise) or "") or "WRONG"
  end },
}

function M.check(o) specs.parse(o.presets) end

-- o: values of the rows, of ceiling.rows and of bench.lua's. Returns {title, rows, rates, notes}.
function M.run(o)
  local list, rows = specs.parse(o.presets), {}
  local first = 1
  for i, s in ipairs(list) do
    if s.name == specs.REFERENCE then first = i end
  end
  local reference
  if list[first].name == specs.REFERENCE then reference = prepare(o, table.remove(list, first)) end
  rows[1] = reference and reference.row
  local rates
  for i = 1, math.max(1, #list), GROUP do
    local group = { reference }
    for k = i, math.min(#list, i + GROUP - 1) do
      group[#group + 1] = prepare(o, list[k])
      rows[#rows + 1] = group[#group].row
    end
    local measured = measure(o, group, reference and 1)
    rates = rates or measured
  end
  local note = ("loss after %d steps on one batch of %d x %d tokens; off: its largest difference "
    .. "on the way to the composed path in f64, at most %g passes")
    :format(o.check_steps, o.check_batch, o.seq_len, check.LOSS_TOLERANCE)
  return {
    title = ("a training step: %d layers, width %d, %d heads of %d, SwiGLU %d, vocab %d, "
      .. "%d x %d tokens, f32, AdamW"):format(o.layers, o.width, o.heads, o.width // o.heads, o.mlp,
      o.vocab, o.batch, o.seq_len),
    rows = rows, rates = rates, notes = { note } }
end

return M
