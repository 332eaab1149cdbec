-- The command bench: right results pass, wrong ones are caught, and the numbers say what they claim.
local T = ...
local core = require "attnlab.core"
local attention = require "attnlab.attention"
local bench = require "attnlab.bench"
local check = require "attnlab.bench.check"
local machine = require "attnlab.bench.machine"
local specs = require "attnlab.bench.specs"
local timing = require "attnlab.bench.timing"
local train = require "attnlab.bench.train"
local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)
local json, sys = core.json, core.sys

local QUICK = { "rounds=2", "warmup=1", "least=0", "product=16", "copy=1024" }
local MODEL = { "layers=1", "width=16", "heads=2", "mlp=16", "vocab=11", "seq_len=12", "batch=2", "check_steps=3" }
local SHAPE = { "heads=2", "head_dim=4", "seq_len=20", "check_len=11" }

local function options(kind, ...)
  local sets = {}
  for _, list in ipairs { QUICK, ... } do
    for _, word in ipairs(list) do sets[#sets + 1] = { word:match "^([^=]+)=(.*)$" } end
  end
  return bench.options(kind, sets)
end

local function measure(kind, o, given)
  return bench.measure(kind, o, given)
end

T.test("median, ratio in pairs of rounds, samples of all parts", function()
  T.eq(timing.median { 3, 1, 2 }, 2)
  T.eq(timing.median { 4, 1, 2, 3 }, 2.5)
  T.eq(timing.ratio({ 2, 30, 4 }, { 1, 10, 1 }), 3)
  local order = {}
  local function case(name, s)
    return { once = function()
      order[#order + 1] = name
      return { forward = s, backward = 2 * s }
    end }
  end
  local out = timing.rounds({ case("a", 1), case("b", 3) }, { rounds = 2, warmup = 1, least = 0 })
  T.eq(table.concat(order), "ababab")
  T.eq(out, { { forward = { 1, 1 }, backward = { 2, 2 }, total = { 3, 3 } },
              { forward = { 3, 3 }, backward = { 6, 6 }, total = { 9, 9 } } })
  T.eq(timing.summary { 5, 1, 2 }, { median = 2, min = 1, max = 5, n = 3 })
end)

T.test("short cases run several times in a sample", function()
  local n = 0
  timing.rounds({ { once = function() n = n + 1 return { x = 0.01 } end } }, { rounds = 1, warmup = 1, least = 0.05 })
  T.eq(n, 1 + 5)
end)

T.test("an error inside a case leaves the collector running", function()
  T.raises(function()
    timing.rounds({ { once = function() error "broken" end } }, { rounds = 1, warmup = 0, least = 0 })
  end, "broken")
  T.ok(collectgarbage "isrunning")
end)

T.test("RMS ratios", function()
  local function t(list) return core.tensor { data = list, shape = { #list }, dtype = "f64" } end
  T.near(check.ratio(t { 3, 4.5 }, t { 3, 4 }), 0.1)
  T.near(check.ratio(t { 0, 2 }, t { 0, 0 }), math.sqrt(2))
  T.eq(check.ratio(t { 1 }, t { 1, 2 }), math.huge)
  T.eq({ check.worst({ a = t { 1 }, b = t { 0 / 0 } }, { a = t { 1 }, b = t { 1 } }) }, { math.huge, "b" })
  T.eq({ check.worst({ a = t { 1 } }, { a = t { 1 }, dq = t { 1 } }) }, { math.huge, "dq" })
  T.eq(check.losses({ 1, 2.5 }, { 1, 2 }), 0.5)
  T.eq(check.losses({ 0 / 0 }, { 1 }), math.huge)
  T.eq(check.losses({ 1 }, { 1, 2 }), math.huge)
end)

T.test("beyond the tolerance: as noisy as the composed path in f32, or wrong", function()
  local function t(...) return core.tensor { data = { ... }, shape = { select("#", ...) }, dtype = "f64" } end
  local want = { y = t(1, 1), dq = t(1, 1) }
  local function plain(by) return function() return { y = t(1, 1), dq = t(1 + by, 1 + by) } end end
  T.eq(check.judge({ y = t(1, 1), dq = t(1, 1) }, want, error).ok, true)
  local noisy = check.judge({ y = t(1, 1), dq = t(1.001, 1.001) }, want, plain(-0.0005))
  T.eq({ noisy.ok, noisy.worst }, { true, "dq" })
  T.ok(noisy.noise:find "dq 1.0e%-03 %(composed f32 5.0e%-04%)", noisy.noise)
  T.eq(check.judge({ y = t(1, 1), dq = t(1.001, 1.001) }, want, plain(0.0001)).ok, false)
  T.eq(check.judge({ y = t(1, 1), dq = t(0 / 0, 1) }, want, plain(0 / 0)).ok, false)
  T.eq(check.judge({ y = t(1, 1) }, want, plain(0.1)).ok, false)
  T.eq(check.judge({ y = t(1, 1), dq = t(1, 1), dz = t(1) }, want, plain(0.1)).ok, false)
end)

T.test("train: every value of a row, the loss of the composed path", function()
  local r = measure("train", options("train", MODEL))
  T.eq(r.ok, true)
  T.eq(#r.rows, 3)
  for i, name in ipairs { "softmax", "exp_l2", "cosine" } do
    local row = r.rows[i]
    T.eq(row.name, name)
    T.ok(row.difference < 1e-5 and row.loss > 1 and row.loss < 4)
    T.ok(row.seconds.min <= row.seconds.median and row.seconds.median <= row.seconds.max)
    T.near(row.tokens_per_second * row.seconds.median, 24)
    T.near(row.of_floor * row.seconds.median, row.floor_seconds)
    T.ok(row.peak_bytes > 16 * row.parameters, "weights, gradients and two moments")
    T.ok(row.ratio > 0 and (i > 1 or row.ratio == 1))
  end
  -- 4 projections of 16 x 16, 3 matrices of 16 x 16, head of 11 x 16; 24 tokens
  -- and 7 products of width 16 over 12 * 13 / 2 pairs in 2 sequences
  T.eq(r.rows[1].flop, 6 * 24 * (7 * 256 + 176) + 7 * 2 * 2 * 78 * 16)
end)

T.test("train: groups of presets each have the reference, and it has one row", function()
  local r = measure("train", options("train", MODEL,
    { "presets=cosine,exp_l2,squared,taylor2,exp_length,softmax,p1/linear_elu", "check_steps=1" }))
  T.eq(#r.rows, 7)
  T.eq(r.rows[1].name, "softmax")
  T.eq(r.rows[7].name, "p1/linear_elu")
  for _, row in ipairs(r.rows) do T.ok(row.ratio, row.name) end
  r = measure("train", options("train", MODEL, { "presets=cosine", "check_steps=1" }))
  T.eq(#r.rows, 1)
  T.eq(r.rows[1].ratio, nil)
end)

T.test("train: a model that is not the composed one is caught", function()
  local o = options("train", MODEL)
  local function stepper(spec, dtype) return train.stepper(o, spec, dtype, 2) end
  local exact = { preset = "p1/softmax", impl = "composed" }
  local _, _, d = train.compare(stepper({ preset = "p1/softmax" }, "f32"), stepper(exact, "f64"), 3)
  T.ok(d < check.LOSS_TOLERANCE)
  _, _, d = train.compare(stepper({ preset = "p1/softmax", logit_scale = 0.3 }, "f32"), stepper(exact, "f64"), 3)
  T.ok(d > check.LOSS_TOLERANCE, "another scale of the logits")
  local slow = stepper({ preset = "p1/softmax" }, "f32")
  slow.lr = slow.lr * 1.1
  _, _, d = train.compare(slow, stepper(exact, "f64"), 3)
  T.ok(d > check.LOSS_TOLERANCE, "another learning rate")
end)

-- An attention whose forward or whose gradients of v are off by a factor, as a bug would make them.
local function perturbed(y_by, v_by)
  return function(spec)
    local real = attention.new(spec)
    if spec.impl == "composed" then return real end
    return setmetatable({ forward = function(_, set)
      local copy = {}
      for k, v in pairs(set) do copy[k] = v end
      copy.v = set.v * v_by + set.v:detach() * (1 - v_by) -- the same value, another gradient
      return real:forward(copy) * y_by
    end }, { __index = function(_, key) return function(_, ...) return real[key](real, ...) end end })
  end
end

T.test("attention: right results pass, perturbed ones do not", function()
  local r = measure("attention", options("attention", SHAPE))
  T.eq(r.ok, true)
  local seen = {}
  for _, row in ipairs(r.rows) do
    if row.form == "parallel" then seen[#seen + 1] = row.name end
    T.ok(row.ok and row.error < 1e-5 and row.total.median > 0, row.name)
    T.eq(row.qkv_bytes, 3 * 20 * 8 * 4)
    T.ok(row.ratio, row.name)
  end
  for i, s in ipairs(specs.SPECS) do T.eq(seen[i], s.name) end
  T.eq(r.rows[1].flop_forward, 4 * 2 * 210 * 4)
  T.eq(r.rows[1].flop_backward, 2.5 * r.rows[1].flop_forward)

  local o = options("attention", SHAPE, { "presets=softmax", "forms=parallel" })
  o.new = perturbed(1 + 1e-4, 1)
  r = measure("attention", o)
  T.eq(r.ok, false)
  T.near(r.rows[1].error, 1e-4, 1e-5)
  o = options("attention", SHAPE, { "presets=softmax", "forms=parallel" })
  o.new = perturbed(1, 1 + 1e-3)
  r = measure("attention", o)
  T.eq({ r.ok, r.rows[1].worst }, { false, "dv" })
  o = options("attention", SHAPE, { "presets=softmax", "forms=parallel" })
  o.new = perturbed(0 / 0, 1)
  T.eq(measure("attention", o).rows[1].error, math.huge)
  local impossible = options("attention", SHAPE, { "presets=softmax", "heads=3", "kv_heads=2" })
  T.raises(function() measure("attention", impossible) end, "kv_heads: a divisor of heads = 3 needed")
  T.raises(function() measure("attention", options("attention", SHAPE, { "presets=softmax", "forms=chunked" })) end, "need every key")
end)

T.test("in bf16 right results pass by its own rounding, and wrong ones do not", function()
  local r = measure("attention", options("attention", SHAPE, { "presets=softmax,exp_l2", "forms=parallel", "dtype=bf16" }))
  for _, row in ipairs(r.rows) do
    T.ok(row.ok and row.error > 1e-4 and row.error < check.TOLERANCE_BF16, row.name)
    T.eq(row.qkv_bytes, 3 * 20 * 8 * 2)
  end
  local o = options("attention", SHAPE, { "presets=softmax", "forms=parallel", "dtype=bf16" })
  o.new = perturbed(1.05, 1)
  T.eq(measure("attention", o).ok, false)
  r = measure("ops", options("ops", { "batch=2", "seq_len=8", "width=16", "mlp=16", "check_rows=16", "parameters=100", "dtype=bf16" }))
  T.eq(r.ok, true)
  o = options("ops", { "ops=exp", "batch=2", "seq_len=8", "width=16", "check_rows=16", "dtype=bf16" })
  o.replace = { exp = function(x) return x:exp():scale { by = 1.05 } end }
  T.eq(measure("ops", o).ok, false)
end)

T.test("attention: an expression beside the built-in that it writes out", function()
  local o = options("attention", SHAPE, { "presets=squared,expr_squared", "forms=parallel" })
  local r = measure("attention", o)
  for _, row in ipairs(r.rows) do
    T.ok(row.ok, row.name)
    T.eq(row.twin_ratio ~= nil and row.twin_ratio > 0, row.name == "expr_squared")
  end
end)

T.test("attention: parameters, gates, grouped heads, lengths, not causal", function()
  local r = measure("attention", options("attention", SHAPE, { "heads=4", "kv_heads=2", "seq_len=5,9", "batch=3",
    "causal=false", "presets=p2/cottention,p1/gated_softmax", "forms=parallel" }))
  T.eq(r.ok, true)
  T.eq(#r.rows, 4)
  T.eq({ r.rows[1].seq_len, r.rows[2].seq_len, r.rows[1].ratio }, { 5, 9, nil })
  T.eq(r.rows[2].qkv_bytes, 3 * 9 * (4 + 2 + 2) * 4 * 4)
  T.ok(r.rows[3].noise:find "output_gate", "a gate that the norm undoes has a gradient of rounding errors")
  T.eq(r.rows[1].noise, nil)
end)

T.test("attention: memory beyond q + k + v is a failure of memory=true alone", function()
  local list = { "presets=softmax,exp_l2", "forms=parallel", "memory=true" }
  local r = measure("attention", options("attention", SHAPE, list, { "seq_len=600", "heads=1" }))
  T.eq(r.ok, r.rows[1].extra_bytes <= r.rows[1].qkv_bytes and r.rows[2].extra_bytes <= r.rows[2].qkv_bytes)
  T.eq({ r.rates, r.busy }, {})
  local o, given = options("attention", SHAPE, list, { "seq_len=300", "heads=1" })
  o.new = function(spec) -- keeps one more copy of the weights' matrix
    local real = attention.new(spec)
    if spec.impl == "composed" then return real end
    return setmetatable({ forward = function(_, set)
      local y = real:forward(set)
      local waste <close> = core.zeros { shape = { 1, 300, 300 } }
      return y:scale { by = 1 }
    end }, { __index = function(_, key) return function(_, ...) return real[key](real, ...) end end })
  end
  r = measure("attention", o, given)
  T.eq(r.ok, false)
  T.ok(r.rows[1].extra_bytes > 0.9 * 4 * 300 * 300)
end)

T.test("ops: every op is right, and another function in its place is not", function()
  local small = { "batch=2", "seq_len=8", "width=16", "mlp=16", "vocab=7", "parameters=100", "check_rows=5" }
  local r = measure("ops", options("ops", small))
  T.eq(r.ok, true)
  T.ok(#r.rows > 15)
  for _, row in ipairs(r.rows) do T.ok(row.ok and row.rate > 0 and row.error < 1e-5, row.name) end
  local o = options("ops", small, { "ops=rmsnorm,exp" })
  o.replace = { exp = function(x) return x:exp() * (1 + 1e-4) end }
  r = measure("ops", o)
  T.eq(r.ok, false)
  for _, row in ipairs(r.rows) do T.eq(row.ok, row.name ~= "exp") end
end)

-- An instance whose step is what `change` makes of it: change(a, st, set) -> y, state.
local function with_step(change)
  return function(spec)
    local a = attention.new(spec)
    return setmetatable({ step = function(_, st, set) return change(a, st, set) end },
      { __index = function(_, key) return function(_, ...) return a[key](a, ...) end end })
  end
end

T.test("decode: finite states are held to time and memory, others are shown", function()
  local list = { "presets=sliding_window", "contrast=softmax", "positions=70,140", "chunk=33", "batch=2", "heads=2",
                 "kv_heads=1", "head_dim=4", "limit=1e9", "rounds=2" }
  local r = measure("decode", options("decode", list))
  T.eq(r.ok, true)
  local a, b, c, d = table.unpack(r.rows)
  T.eq({ a.position, b.position, a.ratio, a.token.n }, { 70, 140, 1, 2 })
  T.eq({ b.state_bytes, b.peak, b.left, b.grows }, { a.state_bytes, a.peak, 0, false })
  T.ok(b.error < 1e-5 and b.token.median > 0 and r.title:find "B=2 H=2 Hkv=1 D=4")
  T.ok(d.grows and d.state_bytes > c.state_bytes and d.ok and not d.finite)
  T.ok(d.passes > 0 and d.of_floor == 1 / d.passes and not a.passes)
  -- a cache among the finite ones is a failure
  table.move({ "presets=softmax", "contrast=none" }, 1, 2, 1, list)
  r = measure("decode", options("decode", list))
  T.eq({ r.ok, r.rows[2].grows, r.rows[2].right }, { false, true, true })

  table.move({ "presets=sliding_window", "contrast=none" }, 1, 2, 1, list)
  local o = options("decode", list)
  o.new = with_step(function(x, st, set)
    local y, after = x:step(st, set)
    return y * 1.001, after
  end)
  r = measure("decode", o)
  T.eq({ r.ok, r.rows[1].right, r.rows[1].grows }, { false, false, false })
  o = options("decode", list)
  local kept = {}
  o.new = with_step(function(x, st, set)
    local y, after = x:step(st, set)
    kept[#kept + 1] = y:clone()
    return y, after
  end)
  r = measure("decode", o)
  T.eq({ r.ok, r.rows[1].right, r.rows[1].left > 0 }, { false, true, true })
  o = options("decode", list)
  o.limit = 0.15
  o.new = with_step(function(x, st, set)
    if st:position() >= 140 then sys.sleep(0.05) end
    return x:step(st, set)
  end)
  r = measure("decode", o)
  T.eq({ r.ok, r.rows[2].slower, r.rows[2].grows, r.rows[2].right }, { false, true, false, true })
  T.raises(function() measure("decode", options("decode", list, { "positions=9,3" })) end, "ascending")
end)

T.test("presets by short name, by the registry's, all of them", function()
  T.eq(#specs.parse "softmax, p2/cottention,cottention_row", 3)
  T.eq(#specs.parse "all", #core.attn.list())
  local references = 0
  for _, s in ipairs(specs.parse "all") do references = references + (s.name == specs.REFERENCE and 1 or 0) end
  T.eq(references, 1)
  T.raises(function() specs.parse "sofmax" end, "unknown preset 'sofmax' %(did you mean 'softmax'%?%)")
  T.raises(function() specs.parse "," end, "at least one")
  for _, s in ipairs(specs.SPECS) do
    local spec = specs.with(s.spec, { form = "parallel" })
    spec.heads, spec.head_dim = 2, 4
    T.ok(attention.new(spec), s.name)
  end
end)

T.test("the commands of its README are right", function()
  local n = 0
  for kind, words in sys.read(T.root .. "experiments/bench/README.md"):gmatch "%./lab bench (%a+)([^`\n]*)" do
    local sets = {}
    for key, value in words:gmatch "([%w_]+)=(%S+)" do sets[#sets + 1] = { key, value } end
    local o = bench.options(kind, sets)
    if o.presets then specs.parse(o.presets) end
    n = n + 1
  end
  T.ok(n >= 7, "commands found: " .. n)
end)

T.test("a busy machine is said to be busy", function()
  local m = { cores = 2, threads = 2, load_before = 0.4, load_after = 2.3 }
  T.eq(machine.busy(m, 0.97), nil)
  T.ok(machine.busy(m, 0.5):find "got 50 %% of the time")
  m.load_before = 3.1
  T.ok(machine.busy(m, 0.97):find "load average 3.1 before")
  m.load_before, m.load_after = nil, nil
  T.eq(machine.busy(m, 0.97), nil)
  m.threads = 4
  T.ok(machine.busy(m, 1):find "4 threads on 2 cores")
end)

T.test("threads are set for the measurement alone", function()
  local before = core.threads()
  local o = options("ops", { "ops=exp", "batch=1", "seq_len=4", "width=4", "threads=1" })
  T.eq(measure("ops", o).machine.threads, 1)
  T.eq(core.threads(), before)
end)

T.test("the command: table, JSON, exit status, usage", function()
  local file = T.folder() .. "/bench.json"
  local words = { "bench", "attention", "presets=softmax,cosine", "--json", file }
  for _, list in ipairs { QUICK, SHAPE } do table.move(list, 1, #list, #words + 1, words) end
  local status, text = tiny.run(words)
  T.ok(status == 0, text)
  T.ok(text:find "of q%+k%+v" and text:find "\nsoftmax +parallel +20", text)
  local r = json.decode(sys.read(file))
  T.eq({ r.bench, r.ok, r.rows[1].name, r.options.head_dim, r.versions.attnlab },
    { "attention", true, "softmax", 4, core.version })
  T.ok(r.command:find "^%./lab bench attention presets=softmax,cosine" and r.machine.cores >= 1 and r.rates.product > 0)

  local function usage(pattern, ...)
    local code, out = tiny.run { "bench", ... }
    T.ok(code == 2 and out:find(pattern), out)
  end
  usage("did you mean 'train'", "trian")
  usage("did you mean 'rounds'", "ops", "round=3")
  usage("integer >= 1 expected, got 'x'", "ops", "rounds=x")
  usage("did you mean 'softmax'", "train", "presets=sofmax")
  local code, out = tiny.run { "bench", "train", "--json", "/nowhere/x.json" }
  T.ok(code == 1 and out:find "^attnlab: bench: %-%-json /nowhere/x.json: there is no folder", out)
end)

T.test("bench data loads each kind of rows beside steps", function()
  local words = { "layers=1", "width=16", "heads=2", "mlp=16", "seq_len=16", "batch=2", "warmup=1", "tokens=10000", "document=9", "dtype=bf16" }
  local r = measure("data", options("data", words))
  T.eq({ r.ok, #r.rows, r.rows[1].name, r.rows[3].name }, { true, 3, "stream", "documents" })
  for _, row in ipairs(r.rows) do T.ok(row.waited.median > 0 and row.read.median > 0 and row.step.median > row.read.median) end
  local path = T.folder() .. "/ids.bin" -- ids beyond the 65 that a model has otherwise
  local w, ids = core.shards.create(path, false), core.tensor { data = { 0, 299, 70 }, dtype = "i32" }
  for _ = 1, 100 do w:put(ids, 0, 3) end
  w:commit()
  words[#words + 1] = ("data=%s vocab=300 document_id=0"):format(path)
  T.ok(measure("data", options("data", words)).ok)
end)
