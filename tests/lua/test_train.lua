-- Training: the same numbers every time, resumed ones included; schedules, records, ends, progress.
local T = ...
local core = require "attnlab.core"
local lab = require "attnlab"
local progress = require "attnlab.progress"
local train = lab.train

-- A text with something to learn, and a configuration that takes milliseconds.
local path = T.numbers(600)

local function config_of(more)
  local cfg = { layers = 2, width = 16, heads = 2, context = 12, data = path, steps = 12, batch_size = 4,
                warmup_steps = 3, eval_interval = 5, eval_windows = 8, checkpoint_interval = 4, log_interval = 2 }
  for k, v in pairs(more or {}) do cfg[k] = v end
  return lab.config.resolve(cfg)
end

-- Records without times.
local function untimed(rec)
  local out = {}
  for k, v in pairs(rec) do
    if k:sub(1, 5) ~= "time/" then out[k] = v end
  end
  return out
end

local function run(trainer, hooks)
  local records = {}
  hooks = hooks or {}
  hooks.record = function(rec) records[#records + 1] = untimed(rec) end
  return train.loop(trainer, hooks), records
end

local VARIANTS = { {}, { attention = { preset = "p1/gated_softmax", dropout = 0.3 } }, { attention = "p3/2mamba" },
                   { attention = "p2/cottention", dtype = "f64", decay = "all" }, { attention = "softmax", dtype = "bf16" } }

T.test("two runs of one seed are equal bit for bit, another seed is not", function()
  for _, more in ipairs(VARIANTS) do
    local cfg = config_of(more)
    local _, a = run(train.trainer(nil, cfg, 3))
    core.rand { shape = { 5 } } -- what else was drawn must not matter
    local _, b = run(train.trainer(nil, cfg, 3))
    T.eq(a, b)
    local _, c = run(train.trainer(nil, cfg, 4))
    T.ok(a[1]["train/loss"] ~= c[1]["train/loss"])
  end
end)

T.test("a resumed run is equal bit for bit, wherever it stopped", function()
  for _, more in ipairs(VARIANTS) do
    local cfg = config_of(more)
    local straight = train.trainer(nil, cfg, 3)
    local whole_end, whole = run(straight)
    local counters = { straight.smooth, straight.first, straight.lowest, straight.high }
    T.eq(whole_end, { status = "finished", step = 12 })
    for _, stop in ipairs { 1, 5, 11 } do
      local file = T.folder() .. "/checkpoint.safetensors"
      local first, n = train.trainer(nil, cfg, 3), 0
      local how, head = run(first, {
        interrupted = function() n = n + 1 return n == stop end,
        checkpoint = function(t) core.safetensors.save(file, t:state(), t:metadata()) end })
      T.eq(how, { status = "interrupted", step = stop, reason = "interrupted" })
      local second = train.trainer(nil, cfg, 3)
      second:restore(core.safetensors.open(file))
      T.eq(second.step_count, stop)
      local _, tail = run(second)
      table.move(tail, 1, #tail, #head + 1, head)
      T.eq(head, whole)
      T.eq({ second.smooth, second.first, second.lowest, second.high }, counters)
      local model, again = first.model:parameters(), second.model:parameters()
      T.ok(model["lm_head.weight"]:flat()[1] ~= again["lm_head.weight"]:flat()[1])
    end
  end
end)

T.test("checkpoints that do not fit are refused", function()
  local t = train.trainer(nil, config_of(), 3)
  local function changed(f)
    local tensors, metadata = {}, t:metadata()
    for name, x in pairs(t:state()) do tensors[name] = x end
    f(tensors, metadata)
    return function() t:restore(tensors, metadata) end
  end
  T.raises(changed(function(_, m) m.seed = "4" end), "seed 3 expected, got 4")
  T.raises(changed(function(_, m) m.step = nil end), "'step': a whole number from 0 expected, got nil")
  for _, key in ipairs { "step", "loss_count", "loss_high", "optimiser_steps" } do
    for _, text in ipairs { "", "x", "-1", "1.5", "1e400" } do
      T.raises(changed(function(_, m) m[key] = text end), "checkpoint: '" .. key .. "': a whole number from 0 expected, got")
    end
  end
  for _, key in ipairs { "loss_sum", "loss_smooth", "loss_first", "loss_lowest" } do
    T.raises(changed(function(_, m) m[key] = "x" end), "checkpoint: '" .. key .. "': a number expected, got x")
    T.raises(changed(function(_, m) m[key] = nil end), "checkpoint: '" .. key .. "': a number expected, got nil")
  end
  T.raises(changed(function(_, m) m.loss_sum = "" end), "'loss_sum': a number expected")
  local before = t.model:parameters()["lm_head.weight"]:flat()
  T.raises(changed(function(x, m)
    for name, w in pairs(x) do x[name] = name:find "^model" and w + 1 or w end
    m.loss_high = "x"
  end), "'loss_high'")
  T.eq(t.model:parameters()["lm_head.weight"]:flat(), before)
  T.raises(changed(function(x) x["model.lm_head.weight"] = nil end), "'model.lm_head.weight' is missing")
  T.raises(changed(function(x) x.more = x["model.lm_head.weight"] end), "'more' is not part of this run")
  T.raises(changed(function(x) x["model.lm_head.weight"] = lab.zeros { shape = { 2 } } end), "expected, got f32 %(2%)")
end)

T.test("records: steps, tokens, losses, evaluation", function()
  local _, records = run(train.trainer(nil, config_of(), 1))
  local steps, valid = {}, {}
  for _, r in ipairs(records) do
    if r["train/loss"] then steps[#steps + 1] = r.step end
    if r["valid/loss"] then valid[#valid + 1] = r.step end
    T.eq(r.tokens, r.step * 4 * 12)
  end
  T.eq(steps, { 1, 2, 4, 6, 8, 10, 12 })
  T.eq(valid, { 5, 10, 12 })
  T.near(records[1]["train/loss"], math.log(11), 0.3)
  _, records = run(train.trainer(nil, config_of { eval_interval = 0 }, 1))
  T.eq(records[#records].step, 12)
  T.ok(records[#records]["valid/loss"])
end)

T.test("the number of a model does not depend on batch_size", function()
  for _, more in ipairs { {}, { context = 40 }, { dtype = "f64" } } do
    local m, want
    for _, batch in ipairs { 1, 2, 3, 5, 16, 64 } do
      local cfg = config_of { batch_size = batch, eval_windows = 11, context = more.context, dtype = more.dtype }
      local t = train.trainer(m, cfg, 1)
      m = m or t.model
      local got = t:evaluate()["valid/loss"]
      want = want or got
      T.eq(got, want)
    end
    -- and is the mean over those windows, one by one
    local set, sum, n = lab.evalset { data = path, windows = 11 }:open(m), 0, 0
    local context = m.config.context
    for x, y in set:even("valid", 1, context, set:windows("valid", context, 11)) do
      sum, n = sum + lab.no_grad(function() return m:loss(x, y):item() end), n + 1
    end
    T.eq(n, context == 12 and 11 or 5)
    T.near(want, sum / n, 1e-6)
  end
end)

T.test("windows of validation are a number of their own; the key that was one of batches is refused", function()
  for _, key in ipairs { "eval_batches", "train.eval_batches" } do
    T.raises(function() lab.config.resolve { [key] = 4 } end, "key '" .. key .. "' does not exist: use eval_windows %(.*batch_size%)")
  end
  T.raises(function() lab.config.resolve { train = { eval_batches = 4 } } end, "use eval_windows")
  T.raises(function() config_of { eval_windows = 0 } end, "eval_windows")
  T.raises(function() train.trainer(nil, config_of { eval_context = 500 }, 1) end, "valid split has %d+ tokens, a context of 500 needs 501")
end)

T.test("a validation loss that is not finite ends the run as diverged", function()
  local t = train.trainer(nil, config_of(), 1)
  t.evaluate = function() return { ["valid/loss"] = t.step_count == 10 and 0 / 0 or 2 } end
  local how = run(t)
  T.eq(how, { status = "diverged", step = 10, reason = "validation loss is not finite" })
end)

T.test("it learns", function()
  local t = train.trainer(nil, config_of { steps = 150, lr = 1e-2 }, 1)
  local before = t:evaluate()["valid/loss"]
  T.eq(t:evaluate()["valid/loss"], before)
  run(t)
  T.ok(t:evaluate()["valid/loss"] < before - 0.3)
end)

T.test("every preset trains, and its model survives a file", function()
  local dir = T.folder()
  for _, preset in ipairs(lab.attention.list()) do
    local t = train.trainer(nil, config_of { attention = preset.name, steps = 3, eval_interval = 0 }, 1)
    local how, records = run(t)
    T.eq(how.status, "finished")
    T.ok(math.abs(records[#records]["valid/loss"] - math.log(11)) < 1, preset.name)
    for name, p in pairs(t.model:parameters()) do
      T.ok(p:sum():item() == p:sum():item(), preset.name .. ": " .. name .. " is not finite")
    end
    t.model:save(dir .. "/m.safetensors")
    local ids = { { 1, 2, 3, 4, 5 } }
    T.eq(lab.model.load(dir .. "/m.safetensors"):forward(ids), t.model:forward(ids))
  end
end)

T.test("memory does not grow with the steps", function()
  local t = train.trainer(nil, config_of { steps = 100 }, 1)
  local function live()
    collectgarbage()
    collectgarbage()
    return core.memory().live
  end
  for _ = 1, 3 do t:step() end
  t:evaluate()
  local before = live()
  for _ = 1, 10 do t:step() end
  t:evaluate()
  T.eq(live(), before)
end)

T.test("a batch in parts is the batch: losses, norms, weights; and a resumed run of parts is equal bit for bit", function()
  for _, more in ipairs { {}, { attention = "p2/cottention", dtype = "f64" } } do
    local cfg = config_of(more)
    local near = more.dtype and 1e-12 or 1e-5
    local whole = train.trainer(nil, cfg, 3)
    for _, micro in ipairs { 1, 3, 4 } do
      local parts = train.trainer(nil, cfg, 3, nil, micro)
      whole = train.trainer(nil, cfg, 3)
      for _ = 1, 4 do
        local a, b = whole:step(), parts:step()
        T.near(b.loss, a.loss, micro == 4 and 0 or near)
        T.near(b.norm, a.norm, micro == 4 and 0 or 100 * near)
      end
      for name, t in pairs(whole.model:parameters()) do T.near(parts.model:parameters()[name], t, micro == 4 and 0 or 1e-4) end
    end
  end
  local cfg = config_of { attention = { preset = "softmax", dropout = 0.3 } }
  local whole, first = train.trainer(nil, cfg, 3, nil, 3), train.trainer(nil, cfg, 3, nil, 3)
  for _ = 1, 2 do whole:step() first:step() end
  local again = train.trainer(nil, cfg, 3, nil, 3)
  local kept = {}
  for name, t in pairs(first:state()) do kept[name] = t:clone() end
  again:restore(kept, first:metadata())
  for _ = 1, 2 do
    local a, b = whole:step(), again:step()
    T.eq({ a.loss, a.norm }, { b.loss, b.norm })
  end
end)

T.test("learning rates", function()
  local function rates(more)
    more.steps, more.warmup_steps, more.lr = 10, 4, 1
    local t, out = train.trainer(nil, config_of(more), 1), {}
    for k = 1, 10 do out[k] = t:lr(k) end
    return out
  end
  T.near(rates {}, { 0.25, 0.5, 0.75, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6 })
  T.near(rates { schedule = "constant" }, { 0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1 })
  local cosine = rates { schedule = "cosine", min_lr = 0.5 }
  T.near(cosine[5], 1)
  T.near(cosine[8], 0.75)
  T.ok(cosine[10] > 0.5 and cosine[10] < 0.55)
end)

T.test("weight decay: matrices only, or everything", function()
  for _, decay in ipairs { "matrices", "all" } do
    local t = train.trainer(nil, config_of { decay = decay, weight_decay = 0.5, lr = 0.1, warmup_steps = 0 }, 1)
    for _, p in pairs(t.model:parameters()) do p:zero_grad() end
    local p = t.model:parameters()
    local norm, matrix = p["model.norm.weight"]:flat()[1], p["lm_head.weight"]:flat()[1]
    for _, x in pairs(p) do x:mul(lab.zeros { shape = {} }):sum():backward() end
    t.optimiser:step(0.1)
    T.near(p["model.norm.weight"]:flat()[1], decay == "all" and norm * 0.95 or norm, 1e-6)
    T.near(p["lm_head.weight"]:flat()[1], matrix * 0.95, 1e-6)
  end
end)

T.test("a loss that is not a number ends the run as diverged", function()
  local t = train.trainer(nil, config_of(), 1)
  local how, records = run(t, { progress = function(info)
    if info.step == 4 then t.model:parameters()["model.norm.weight"]:fill(0 / 0) end
  end })
  T.eq(how, { status = "diverged", step = 5, reason = "loss is not finite" })
  T.eq(records[#records].step, 5)
  T.eq(records[#records]["train/loss"], nil)
  T.ok(core.json.encode(records))
end)

T.test("a loss that runs away ends the run as diverged", function()
  local t = train.trainer(nil, config_of { steps = 200, lr = 30, grad_clip = 0, schedule = "constant", dtype = "f64" }, 1)
  local how = run(t)
  T.eq(how.status, "diverged")
  T.ok(how.step > 3 and how.step < 200)
  T.ok(how.reason:find "loss" or how.reason:find "norm", how.reason)
end)

T.test("losses and norms that are read late are judged as if they had been awaited", function()
  local function records_of(late, more)
    local t = train.trainer(nil, config_of(more), 1)
    t.late = late
    local how, records = run(t)
    for _, r in ipairs(records) do
      for k in pairs(r) do
        if k:find "^time/" then r[k] = nil end
      end
    end
    return { how, records }
  end
  for _, more in ipairs { { steps = 40, eval_interval = 15, log_interval = 11 },
                          { steps = 200, lr = 30, grad_clip = 0, schedule = "constant", dtype = "f64", log_interval = 50 } } do
    T.eq(records_of(7, more), records_of(0, more))
  end
end)

T.test("a loss that stays above its lowest ends the run as diverged, a spike does not", function()
  -- 60 losses of 1, `up` of 2, then 1 again; the step at which the run would end, and why
  local function ends(up, more)
    local t = train.trainer(nil, config_of(more), 1)
    for k = 1, 200 do
      local loss = k > 60 and k <= 60 + up and 2 or 1
      t:observe(loss)
      local reason = t:diverged { step = k, loss = loss, norm = 1 }
      if reason then return k, reason end
    end
  end
  -- the smoothed loss is 0.2 up after 3 steps and stays so for some ten steps after a spike has ended
  T.eq(ends(5), nil)
  local step, reason = ends(60)
  T.eq(step, 60 + 3 + 19)
  T.ok(reason:find("for 20 steps more than 0.2 above its lowest 1.000", 1, true), reason)
  T.eq(ends(60, { divergence = 0 }), nil)
  T.eq(ends(60, { divergence = 2 }), nil)
end)

T.test("what does not fit is refused before the first step", function()
  T.raises(function() train.trainer(nil, config_of { context = 500 }, 1) end, "too short")
  T.raises(function() train.trainer(nil, config_of(), 1.5) end, "seed: integer expected")
  T.raises(function() train.trainer(nil, config_of { data = "shakespear" }, 1) end, "did you mean 'shakespeare'")
  local m = lab.model.new { layers = 1, width = 16, heads = 2, vocab = 5, context = 12, seed = 1 }
  T.raises(function() train.trainer(m, config_of(), 1) end, "have 11 tokens, the model only 5")
  T.raises(function() lab.train(m, { stpes = 1, quiet = true }) end, "did you mean 'train.steps'")
end)

T.test("the short form trains, goes on, and keeps curves", function()
  local m = lab.model.new { layers = 1, width = 16, heads = 2, vocab = 11, context = 12, seed = 1 }
  local r = lab.train(m, { data = path, steps = 6, batch_size = 4, warmup_steps = 1, log_interval = 2, eval_interval = 3,
                           eval_windows = 4, quiet = true })
  T.eq({ r.status, r.step }, { "finished", 6 })
  r:cont(4)
  T.eq({ r.status, r.step }, { "finished", 10 })
  local steps = {}
  for i, point in ipairs(r:curve "valid/loss") do steps[i] = point[1] end
  T.eq(steps, { 3, 6, 9, 10 })
  T.ok(tostring(r):find("^training finished at step 10\n.*  valid/loss  %d"))
  T.ok(#m:generate { prompt = "1 4 9 ", tokens = 5 } == 11)
end)

T.test("the progress line", function()
  T.eq(progress.line { step = 120, steps = 1000, loss = 3.4119, lr = 3e-4, norm = 0.821, tokens_per_s = 12345,
                       memory = 1.25e9, eta = 192 },
    "step 120/1000 | loss 3.412 | lr 3.0e-04 | norm 0.82 | 12.3k tok/s | 1.2 GB | eta 03:12")
  T.eq({ progress.clock(59.6), progress.clock(3725) }, { "01:00", "1:02:05" })
  local written = {}
  local stream = { write = function(_, ...) written[#written + 1] = table.concat { ... } end, flush = function() end }
  local plain = progress.new { stream = stream, tty = false, label = "a" }
  for k = 1, 50 do plain:update { step = k, steps = 50 } end
  plain:close()
  T.eq(written, { "a: step 1/50\n", "a: step 50/50\n" })
  written = {}
  local tty = progress.new { stream = stream, tty = true, width = 10 }
  tty:update { step = 50, steps = 50, loss = 1 }
  tty:close()
  T.eq(written, { "\rstep 50/5\27[K", "\n" })
end)
