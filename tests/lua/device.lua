-- What must run where the host sees no number: a step of every preset, a resumed training, text, surgery. Run by
-- attnlab_pretended, whose tensors lie on the pretended device (device.h), and on a card by ./lab test --device cuda:
-- attnlab lua --device cuda run.lua device.lua. The numbers are the CPU's.
local T = ...
local core = require "attnlab.core"
local lab = require "attnlab"

local DEVICE = core.on()
T.ok(DEVICE ~= "cpu", "on another device")
local PRETENDED = DEVICE == "pretended" -- which rounds as the CPU does
local NEAR = PRETENDED and 1e-6 or 1e-5
local text = lab.data.open "shakespeare"
local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)
local TINY = { layers = 1, width = 16, heads = 2, mlp = 32, context = 24, batch_size = 2, steps = 6, warmup_steps = 1,
               eval_windows = 2 }

local function with(more)
  local o = {}
  for k, v in pairs(TINY) do o[k] = v end
  for k, v in pairs(more) do o[k] = v end
  return lab.config.resolve(o)
end

-- f(..) on that device.
local function on(device, f, ...)
  local before = core.on(device)
  local r = table.pack(pcall(f, ...))
  core.on(before)
  if not r[1] then error(r[2], 0) end
  return table.unpack(r, 2, r.n)
end

local function steps(cfg, n)
  local trainer, out = lab.train.trainer(nil, cfg, 1, text), {}
  for i = 1, n do
    local s = trainer:step()
    out[i] = { s.loss, s.norm }
  end
  out[n + 1] = trainer:evaluate()["valid/loss"]
  return out, trainer
end

T.test("a tensor made there lies there, and its numbers are read by copies", function()
  local x = core.randn { shape = { 2, 3 }, seed = 1 }
  T.eq(x:device(), DEVICE)
  T.eq(x:to("cpu"):device(), "cpu")
  T.eq(x:totable(), x:to("cpu"):totable())
  T.raises(function() return x:to "cuda:99" end, "device cuda:99: ")
  T.raises(function() return x + x:to "cpu" end, "b: on " .. DEVICE .. " needed as a is, got one on cpu")
end)

for _, preset in ipairs(lab.attention.list()) do
  T.test("a step of " .. preset.name, function()
    local cfg = with { attention = preset.name }
    T.near(on(DEVICE, steps, cfg, 2), on("cpu", steps, cfg, 2), 1e-5)
  end)
end

T.test("steps of a BERT: tokens are hidden where numbers are read", function()
  for _, preset in ipairs { "softmax", "p2/cottention" } do
    local cfg = with { arch = "bert", attention = preset }
    T.near(on(DEVICE, steps, cfg, 3), on("cpu", steps, cfg, 3), 1e-5)
  end
end)

T.test("steps that are read late end where a run that reads each one ends", function()
  local function run(late, bad)
    local cfg = with { steps = 40, log_interval = 40, eval_interval = 40 }
    local trainer, records = lab.train.trainer(nil, cfg, 1, text), {}
    trainer.late = late
    local queue = trainer.optimiser.queue
    trainer.optimiser.queue = function(o, lr, after)
      if trainer.step_count + 1 == bad then
        for _, p in next, trainer.model:parameters() do p:grad():copy_(lab.zeros { shape = p:shape() } + math.huge) break end
      end
      return queue(o, lr, after)
    end
    local out = lab.train.loop(trainer, { record = function(r) records[#records + 1] = { r.step, r["train/loss"] } end })
    local weights = {}
    for name, p in next, trainer.model:parameters() do weights[name] = p:totable() end
    return { out, records, weights, trainer.optimiser:steps() }
  end
  for _, bad in ipairs { 0, 2, 19 } do
    local each = run(1, bad)
    T.eq(each[1].status, bad > 0 and "diverged" or "finished")
    if bad > 0 then T.eq({ each[1].step, each[4] }, { bad, bad - 1 }) end
    T.eq(run(16, bad), each)
  end
end)

T.test("an optimiser lives where its parameters do, whatever is current", function()
  local there = lab.ones { shape = { 3 } }:requires_grad(true)
  local norm, value = on("cpu", function()
    local o = lab.optim.adamw { { there }, lr = 0.5 }
    on(DEVICE, function() (there * there):sum():backward() end)
    local norm = o:step()
    for _, t in pairs(o:state()) do T.eq(t:device(), DEVICE) end
    T.raises(function() lab.optim.sgd { { there, lab.ones { shape = { 2 } }:requires_grad(true) } } end,
      "parameter '2': on " .. DEVICE .. " needed as '1' is, got one on cpu")
    return norm, there:totable()
  end)
  T.near({ norm, value }, { math.sqrt(12), { 0.5, 0.5, 0.5 } }, 1e-6)
end)

T.test("a training goes on from its state", function()
  local cfg = with { ["attention.dropout"] = 0.1 }
  local whole = steps(cfg, 4)
  local _, first = steps(cfg, 2)
  local dir = T.folder()
  core.safetensors.save(dir .. "/state.safetensors", first:state(), first:metadata())
  local again = lab.train.trainer(nil, cfg, 1, text)
  again:restore(core.safetensors.open(dir .. "/state.safetensors"))
  for i = 3, 4 do
    local s = again:step()
    T.eq({ s.loss, s.norm }, whole[i])
  end
end)

T.test("a step on rows of a token set is the CPU's", function()
  local path = T.folder() .. "/a.bin"
  local w = core.shards.create(path, false)
  for i = 1, 600 do w:put(i % 17) end
  w:commit()
  local function losses()
    local t = lab.train.trainer(nil, lab.config.resolve { model = { layers = 1, width = 16, heads = 2, mlp = 16, context = 16 },
      train = { data = path .. " vocab=17 rows=documents document_id=3", batch_size = 3, steps = 3, eval_windows = 2 } }, 1)
    return { t:step().loss, t:step().loss, t:evaluate()["valid/loss"] }
  end
  T.near(on(DEVICE, losses), on("cpu", losses), 1e-4)
end)

T.test("text is written, token by token", function()
  local function write()
    local m = select(2, steps(with { layers = 2 }, 1)).model
    return (m:generate { prompt = "ROMEO", tokens = 12, temperature = 0 })
  end
  T.eq(on(DEVICE, write), on("cpu", write))
end)

T.test("surgery: a part is exchanged, measured, taken back", function()
  local function operate()
    local m = select(2, steps(with { layers = 2 }, 2)).model
    local ev = lab.evalset { data = text, windows = 2, context = 24 }
    local s = m:fork()
    s.layer[2]:set { output_norm = "l2" }
    s.layer[1].head[2]:set { denominator = "none" }
    local d = ev:diff(s, m)
    s:undo()
    return { d.mean, (ev(s)), (ev(m)) }
  end
  T.near(on(DEVICE, operate), on("cpu", operate), 1e-5)
end)

T.test("surgery: shown, calibrated, swept, tuned, on windows and on documents", function()
  local function operate()
    local small = select(2, steps(with { layers = 2 }, 2)).model
    local stories = lab.model.load(T.root .. "experiments/models/stories260K.bin"):eval()
    local out = {}
    for _, m in ipairs { small, stories } do
      local s = m:fork()
      s.layer[2]:set { output_norm = "l2" }
      s:calibrate { batches = 1, batch = 2 }
      local shown = s:show { windows = 2 }
      table.move({ shown.mean, shown.kl, shown.n }, 1, 3, #out + 1, out)
      local cell = s:sweep { over = "head", layer = 2, denominator = "length", calibrate = true, quiet = true }.cells[2]
      out[#out + 1] = cell.mean
      s:tune { steps = 1, batch_size = 2, eval_windows = 2, eval_interval = 0, quiet = true }
      out[#out + 1] = s:show { windows = 2 }.mean
      s.layer[1]:set { logit_scale = 1e30, denominator = "none" }
      out[#out + 1] = s:show { windows = 2 }.overflow.layer
      s:undo(4)
    end
    return out
  end
  T.near(on(DEVICE, operate), on("cpu", operate), 1e-4)
end)

T.test("activations are read, patched, mapped and traced", function()
  local ids = { 1, 2, 3, 4, 5, 6 }
  local function all(m)
    local s = m:fork()
    s:patch { name = "weights", layer = 2, head = 1, at = { 2, 3 }, with = "zero" }
    s:patch { name = "residual.1.mid", from = 4, with = { ids = { 6, 5, 4, 3, 2, 1 } } }
    local values, gradients = s:tap { ids = ids, name = { "k", "weights", "D" }, layer = 2, grad = true }
    local d = m:fork()
    d.layer[1]:set { preset = "delta/deltanet" }
    return { s:forward { ids }, values.k, values.weights, gradients.D, s:map { ids = ids, layer = 2, head = 2 }.values,
             d:map { ids = ids, layer = 1, head = 1 }.values, s:trace(ids, { "entropy", "orders" }).values.order_share }
  end
  local function made() return lab.model.new { layers = 2, width = 8, heads = 2, mlp = 8, context = 8, vocab = 9, seed = 1 }:eval() end
  local want = on("cpu", function() return all(made()) end)
  for i, t in ipairs(all(made())) do
    T.eq(t:device(), DEVICE)
    T.near(t, want[i], NEAR)
  end
end)

T.test("files: tensors in any layout, a state that goes on, come back as they were", function()
  local dir = T.folder()
  local x = core.randn { shape = { 3, 5 }, seed = 1 }
  core.safetensors.save(dir .. "/x.safetensors", { t = x:permute { axes = { 2, 1 } }, part = x[{ {}, { 2, 3 } }], whole = x }, {})
  local back = core.safetensors.open(dir .. "/x.safetensors")
  T.eq(back.t:device(), DEVICE)
  T.eq({ back.t:totable(), back.part:totable(), back.whole:totable() },
       { x:permute({ axes = { 2, 1 } }):totable(), x[{ {}, { 2, 3 } }]:totable(), x:totable() })
  local m = lab.model.new { layers = 1, width = 8, heads = 2, mlp = 8, context = 8, vocab = 9, seed = 1 }:eval()
  local _, st = m:step({ { 1, 2, 3 } }, m:state())
  st:save(dir .. "/state.safetensors")
  T.eq(m:step({ { 4 } }, m:load_state(dir .. "/state.safetensors")):totable(), m:step({ { 4 } }, st):totable())
end)

T.test("bad ids are told at the next read, with the op", function()
  local table_ = core.randn { shape = { 4, 3 }, seed = 1 }
  local rows = core.op.embedding(table_, core.tensor { data = { 1, 9, 2 }, dtype = "i32" })
  T.raises(function() return rows:totable() end, "embedding: ids: numbers in 0..3 needed, got 9 at position 2 of %(3%)")
  T.eq(rows:totable()[2], table_:totable()[1])
end)

T.test("what was queued fails at any read: a number, a print, the end of a script", function()
  local function bad()
    core.op.embedding(core.randn { shape = { 4, 3 }, seed = 1 }, core.tensor { data = { 1, 9 }, dtype = "i32" })
  end
  local other = core.ones { shape = { 1 } }
  for _, read in ipairs { function() return other:item() end, function() return tostring(other) end } do
    bad()
    T.raises(read, "embedding: ids: numbers in 0..3 needed, got 9")
    T.eq(other:item(), 1)
  end
  local script = T.folder() .. "/bad.lua"
  core.sys.write(script, [[
local core = require "attnlab.core"
core.op.embedding(core.randn { shape = { 4, 3 } }, core.tensor { data = { 1, 9 }, dtype = "i32" })
]])
  local code, out = tiny.run { "lua", "--device", DEVICE, script }
  T.eq(code, 1, out)
  T.ok(out:find "numbers in 0..3 needed, got 9", out)
end)

T.test("numbers may be looked at in every tap", function()
  local m = lab.model.new { layers = 2, width = 8, heads = 2, mlp = 8, context = 8, vocab = 9, seed = 1 }:eval()
  local seen, taps = 0, {}
  for _, row in ipairs(require "attnlab.nn.taps".of_layer(m, 2)) do
    seen = seen + 1
    taps[row.name] = function(t)
      seen = seen - 1
      t:flat()
    end
  end
  m:forward({ { 1, 2, 3 } }, { taps = { [2] = taps } })
  T.eq(seen, 0)
end)

T.test("a read inside a layer fails with its name", function()
  local Peek = lab.nn.Module.class "Peek"
  function Peek.new() return lab.nn.Module.create(Peek) end
  function Peek:forward(x) return x * x:sum():item() end
  T.raises(function() return Peek()(core.ones { shape = { 2 } }) end, "Peek: numbers on " .. DEVICE .. " read")
  T.eq(core.ones { shape = { 2 } }:sum():item(), 2)
end)

T.test("what is made with device= lies there, whatever is current, and runs there", function()
  local function all(device)
    for _, make in ipairs { "zeros", "ones", "rand", "randn" } do
      T.eq(core[make] { shape = { 2 }, device = device }:device(), device)
    end
    T.eq(core.tensor { data = { 1, 2 }, device = device }:device(), device)
    T.eq(core.full({ shape = { 2 }, value = 1, device = device }):clone():device(), device)
    T.raises(function() return core.zeros { shape = { 1 << 43 }, device = device } end,
      "out of memory: a tensor needs %d+ bytes, %d+ of %d+ are in use") -- nobody asks the system, which may promise them
    local m = lab.model.new { layers = 2, width = 8, heads = 2, mlp = 8, context = 8, vocab = 65, seed = 1, device = device,
                              attention = { preset = "softmax", conv = 3, qk_norm = true, ["2"] = { heads = { ["1"] = { denominator = "none" } } } } }
    for name, t in pairs(m:parameters()) do T.eq(t:device(), device, name) end
    local ids, out = { 1, 2, 3, 4, 5, 6 }, {}
    out[1] = m:forward { ids }:totable()
    local st, logits = m:state(), nil
    logits, st = m:step({ ids }, st)
    T.eq(st:components()[1].tensor:device(), device)
    out[2] = logits:totable()
    local _, written = m:generate { prompt = ids, tokens = 2, temperature = 1, past_context = "slide" }
    out[3] = written
    local s = m:fork()
    s.layer[1]:set { output_norm = "rms" }
    for name, t in pairs(s:parameters()) do T.eq(t:device(), device, name) end
    s:undo()
    s:redo()
    out[4] = s:forward({ ids }):totable()
    out[5] = s:map({ ids = ids, layer = 1, head = 1 }).values:totable()
    out[6] = s:trace(ids, { "entropy" }).values.entropy:totable()
    local a = lab.attention.new { heads = 2, head_dim = 4, width = 8, output_gate = "sigmoid", device = device }
    for name, t in pairs(a:parameters()) do T.eq(t:device(), device, name) end
    T.eq(a:state({ device = device }):components()[1].tensor:device(), device)
    T.eq(lab.nn.Linear(2, 3, { device = device }).weight:device(), device)
    local r = lab.train(m, { data = "shakespeare", steps = 3, batch_size = 2, eval_windows = 2, warmup_steps = 1, quiet = true })
    out[7] = r:curve "valid/loss"[1][2]
    return out
  end
  local want = on("cpu", all, "cpu")
  T.near(on("cpu", all, DEVICE), want, 1e-5)
  T.near(on(DEVICE, all, "cpu"), want, 1e-6) -- nothing of it ran elsewhere
end)

T.test("a model goes to another device as a copy, and two devices are no pair", function()
  local m = lab.model.new { layers = 1, width = 8, heads = 2, mlp = 8, context = 8, vocab = 9, seed = 1, device = "cpu" }
  local there = m:to(DEVICE)
  T.eq(m.embedding.weight:device(), "cpu")
  for name, t in pairs(there:parameters()) do
    T.eq(t:device(), DEVICE)
    T.ok(t:requires_grad(), name)
  end
  T.near(there:forward({ { 1, 2, 3 } }):totable(), m:forward({ { 1, 2, 3 } }):totable(), NEAR)
  T.eq(there:to("cpu").device, "cpu")
  T.raises(function() return there:fork():to "cpu" end, "a fork stays on " .. DEVICE)
  local ev = lab.evalset { data = text, windows = 1, context = 4 }
  T.raises(function() return ev:diff(m, there) end, "one on cpu and one on " .. DEVICE)
  T.raises(function() return lab.model.new { vocab = 3, device = "cuba" } end, "no device 'cuba' here")
end)

T.test("memory of a device, and its limit", function()
  local x <close> = core.zeros { shape = { 1000 }, device = DEVICE }
  T.ok(core.memory(DEVICE).live >= 4000)
  core.memory_limit(core.memory().live + (1 << 20))
  T.raises(function() return core.zeros { shape = { 1 << 20 } } end, "out of memory: a tensor needs 4194304 bytes, %d+ of %d+ are in use")
  core.zeros { shape = { 1 << 17 } }:free()
  core.memory_limit(0)
  core.zeros { shape = { 1 << 20 } }:free()
end)

T.test("experiments, run there by workers, killed and resumed, a batch in parts among them", function()
  local path, root = tiny.experiment '{ name = "cosine", attention = "p2/cottention" },'
  local store = require "attnlab.store"
  local code, out = tiny.run { "run", path, "--device", DEVICE, "--jobs", "2", "out_dir=" .. root }
  T.eq(code, 0, out)
  T.ok(core.sys.exists(root .. "/tiny+" .. DEVICE:match "^[^:]*" .. "/table.txt"), "results of another device have a folder of their own")
  local here = tiny.metrics(root)
  local host = T.folder() .. "/runs"
  T.eq((tiny.run { "run", path, "--device", "cpu", "out_dir=" .. host }), 0)
  local function last(dir)
    local list = store.metrics(dir)
    return { list[#list]["valid/loss"] or list[#list - 1]["valid/loss"] }
  end
  local by = {}
  for _, dir in ipairs(tiny.run_dirs(host)) do
    local spec = store.config(dir)
    T.eq(spec.device, "cpu")
    by[spec.arm .. spec.seed] = last(dir)
  end
  for _, dir in ipairs(tiny.run_dirs(root)) do
    local spec = store.config(dir)
    T.eq(spec.device, DEVICE)
    T.near(last(dir), by[spec.arm .. spec.seed], 1e-4)
  end
  local other = T.folder() .. "/runs"
  for _, name in ipairs(core.sys.list(root .. "/tiny")) do -- with plans of its own it would round by itself
    if name:find "^plans%-" then
      core.sys.mkdir(other .. "/tiny")
      core.sys.write(other .. "/tiny/" .. name, core.sys.read(root .. "/tiny/" .. name))
    end
  end
  local pid = tiny.start { "run", path, "--device", DEVICE, "out_dir=" .. other, "steps=24" }
  while not (core.sys.exists(other .. "/tiny") and #tiny.run_dirs(other) > 0
    and core.sys.exists(tiny.run_dirs(other)[1] .. "/checkpoint.safetensors")) do core.sys.sleep(0.01) end
  core.sys.kill(pid, 9)
  core.sys.wait(pid)
  code, out = tiny.run { "run", path, "--device", DEVICE, "out_dir=" .. other, "steps=24" }
  T.eq(code, 0, out)
  T.eq(tiny.metrics(other), here)
end)

local seen = {}
for _, preset in ipairs(PRETENDED and lab.attention.list() or {}) do -- check --all has them on a card
  if not seen[preset.family] then
    seen[preset.family] = true
    T.test("check " .. preset.name, function()
      local code, out = tiny.run { "check", preset.name, "out_dir=" .. T.folder() }
      T.eq(code, 0, out)
    end)
  end
end

T.test("bench: what is right is timed there", function()
  for _, words in ipairs { { "train", "presets=softmax", "layers=1", "width=16", "heads=2", "mlp=16", "vocab=16", "seq_len=8", "batch=2" },
                           { "ops", "ops=softmax,exp,adamw", "batch=2", "seq_len=8", "width=16", "check_rows=16", "parameters=1000" },
                           { "attention", "presets=softmax", "heads=2", "head_dim=4", "seq_len=16", "check_len=16", "batch=1" },
                           { "decode", "presets=cosine", "heads=2", "head_dim=4", "positions=8,16" } } do
    local argv = { "bench", "--device", DEVICE, "product=64", "copy=4096", "rounds=1", "warmup=0", "least=0", table.unpack(words, 2) }
    local code, out = tiny.run { argv[1], words[1], table.unpack(argv, 2) }
    T.ok(out:find "ceilings in this run: products" and not out:find "WRONG", out)
    T.ok(words[1] ~= "attention" or out:find "cuDNN softmax, bf16" or out:find "without cuDNN: ", out)
    T.ok(code == 0 or words[1] == "decode", out) -- which judges a time, too
  end
end)

if PRETENDED then T.test("check: what a device makes is held to the CPU, outputs and gradients", function()
  local root = T.folder()
  local right, good = tiny.run { "check", "softmax", "out_dir=" .. root }
  T.eq(right, 0)
  T.ok(good:find "gradient" and not good:find "central differences", good)
  T.ok(good:find "exempt:.*causality %(by tokens f64.-%): ran the same kernels as 'recurrent composed'", good)
  T.ok(good:find "passed in [%d:]+, of it on pretended [%d:]+; ", good)
  T.eq(#core.sys.list(root .. "/certificates"), 1)
  T.ok(core.sys.list(root .. "/certificates")[1]:find "%+pretended%.json$")
  local code, out = tiny.run({ "check", "softmax", "out_dir=" .. root }, { ATTNLAB_PRETENDED_WRONG = "1" })
  T.eq(code, 1)
  T.ok(out:find "forms %(parallel composed f64.-%): .- from the CPU's from token 1 on", out)
  T.eq(tiny.run({ "check", "softmax", "--device", "cpu", "out_dir=" .. root }, { ATTNLAB_PRETENDED_WRONG = "1" }), 0)
end) end

T.test("a read inside a family fails with its name", function()
  local program = core.sys.program()
  local build = program:match "^(.*)/[^/]*$":gsub("/emulated$", "")
  lab.attention.load(build .. "/tests/plugins/fault_READS.so")
  local x = core.randn { shape = { 1, 2, 1, 4 }, seed = 1 }
  local a = lab.attention.new("fault", { heads = 1, head_dim = 4, width = 4 })
  T.raises(function() a:forward { q = x, k = x, v = x, causal = true } end, "fault: numbers on " .. DEVICE .. " read")
  T.eq(on("cpu", function()
    local y = x:to "cpu"
    return lab.attention.new("fault", { heads = 1, head_dim = 4, width = 4 }):forward { q = y, k = y, v = y, causal = true }:device()
  end), "cpu")
end)

T.test("several texts, sliding windows, lengths and choices are the CPU's", function()
  local questions = T.folder() .. "/q.jsonl"
  core.sys.write(questions, '{"ctx":"Once upon","endings":["a time","the the the"],"label":0}\n{"ctx":"","endings":["One","Lily"],"label":1}\n')
  local function all()
    local m = lab.model.load(T.root .. "experiments/models/stories260K.bin")
    local _, ids = m:generate { prompts = { "Once upon a time", "The" }, tokens = 6, repetition_penalty = 1.1, stop = "xyz" }
    local slide = lab.evaluate(m, { data = "stories", window = 12, stride = 5, start = "bos", windows = 7 })
    local lengths = lab.evaluate(m, { data = "stories", lengths = { 4, 9 }, windows = 3 })
    local questions_of = lab.choices(m, questions).questions
    return { slide.loss, lengths.lengths[1].loss, lengths.lengths[2].loss, questions_of[1].log_likelihoods, questions_of[2].log_likelihoods }, ids
  end
  local there, ids = on(DEVICE, all)
  local here, own = on("cpu", all)
  T.near(there, here, PRETENDED and 1e-6 or 1e-3)
  T.eq(ids, own)
end)
