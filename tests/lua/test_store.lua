-- attnlab.store: identities, statuses, records, checkpoints of a trainer of two numbers.
local T = ...
local core = require "attnlab.core"
local lab = require "attnlab"
local store = require "attnlab.store"
local sys, json = core.sys, core.json

local function spec(changes)
  local plan = lab.experiment({ name = "t", arms = { { name = "a", steps = changes and changes.steps or 5 } }, seeds = { 1 } }):plan {}
  local s = { experiment = "t", arm = "a", seed = 1, config = plan.arms[1].config, device = "cpu", data_hash = "x",
              expect = plan.arms[1].expect, made = { source = store.source_hash(), libraries = store.libraries(), threads = 1 } }
  for k, v in pairs(changes or {}) do
    if k ~= "steps" then s[k] = v end
  end
  return s
end

T.test("the id is a function of configuration, seed, data and measures alone", function()
  local id = store.id(spec())
  T.ok(id:match "^%x%x%x%x%x%x%x%x%x%x%x%x$")
  T.eq(store.id(spec()), id)
  T.eq(store.id(spec { made = { source = "other" } }), id)
  T.eq(store.id(spec { arm = "renamed" }), id)
  T.eq(store.id(spec { device = "cuda:1" }), store.id(spec { device = "cuda" }))
  T.eq(store.id(spec { expect = { list = { { arm = "a", diverges = true } }, margin = 1 } }), id)
  for _, change in ipairs { { seed = 2 }, { data_hash = "y" }, { steps = 6 }, { device = "cuda:0" },
                            { measure = { "series" } } } do
    T.ok(store.id(spec(change)) ~= id, "changes the id: " .. next(change))
  end
end)

T.test("sources: every file counts but what says that it does not", function()
  local root = T.folder()
  for _, dir in ipairs { "core", "lua", "lua/attnlab", "lua/attnlab/nn", "attention", "attention/template" } do
    sys.mkdir(root .. "/" .. dir)
  end
  local last = store.hash_of(root)
  local function put(path, text)
    sys.write(root .. "/" .. path, text)
    local hash = store.hash_of(root)
    local changed = hash ~= last
    last = hash
    return changed
  end
  local MARK = "-- A change here makes no run stale.\n"
  for _, path in ipairs { "core/a.c", "core/a.def", "lua/l.h", "lua/attnlab/a.lua", "lua/attnlab/nn/plot.lua" } do
    T.ok(put(path, "one\n"), path .. " counts")
    T.ok(put(path, "two\n"), path .. " counts again")
  end
  T.ok(put("lua/attnlab/a.lua", "f [[" .. MARK:sub(1, -2) .. "]]\n"), "the mark stands on a line of its own")
  for _, path in ipairs { "lua/attnlab/figures2.lua", "lua/attnlab/nn/shows.lua" } do
    T.ok(not put(path, "-- Shows it.\n" .. MARK .. "return 1\n"), path .. " is left out")
    T.ok(not put(path, "-- Shows it.\n" .. MARK .. "return 2\n"), path .. " is left out when it changes")
  end
  T.ok(not put("core/README.md", "text") and not put("attention/template/variant.c", "int x;"), "neither texts nor the template count")
end)

T.test("what was expected when a run first began stays with it until it is started afresh", function()
  local root = T.folder()
  local dir = store.create(root, spec { expect = { list = {}, margin = 1 } })
  store.set_status(dir, "interrupted", 3)
  local later = spec { expect = { list = { { arm = "a", diverges = true } }, margin = 2 } }
  T.eq(store.create(root, later), dir)
  T.eq(store.config(dir).expect, { list = {}, margin = 1 })
  store.restart(dir)
  store.create(root, later)
  T.eq(store.config(dir).expect, later.expect)
end)

T.test("status: new, running, killed, ended", function()
  local root = T.folder()
  local dir = store.create(root, spec())
  T.eq(store.status(dir), { state = "new", step = 0 })
  T.eq(store.config(dir).arm, "a")
  local lock = store.lock(dir)
  store.set_status(dir, "running", 3)
  T.eq(store.status(dir).state, "running")
  lock:close()
  T.eq(store.status(dir).state, "interrupted")
  T.eq(store.status(dir).reason, "killed")
  store.set_status(dir, "diverged", 4, "loss is not finite")
  T.eq(store.status(dir).state, "damaged") -- without a record of that step
  sys.write(dir .. "/metrics.jsonl", '{"step":4}\n')
  T.eq(store.status(dir).reason, "loss is not finite")
  sys.write(dir .. "/status", "{half")
  T.eq(store.status(dir).state, "damaged")
  T.ok(store.status(dir).reason:find "^status: ")
end)

T.test("what is not a run folder says so", function()
  T.raises(function() store.config(T.folder()) end, "not a run folder")
  local dir = T.folder()
  sys.write(dir .. "/config.json", "{")
  T.raises(function() store.config(dir) end, "config.json")
end)

T.test("records: the last line counts when it is complete", function()
  local path = T.folder() .. "/m.jsonl"
  T.eq(store.records(path), {})
  sys.write(path, '{"step":1}\n{"step":2}\n{"st')
  T.eq(store.records(path), { { step = 1 }, { step = 2 } })
  sys.write(path, '{"step":1}\nnonsense\n')
  T.raises(function() store.records(path) end, "line 2")
end)

T.test("times: lines that are no record are passed over, and the next one stands by itself", function()
  local dir = T.folder()
  T.eq(store.times(dir), {})
  sys.write(dir .. "/times.jsonl", '{"step":1}\n{"st{"step":2}\nnull\n7\n{"step":3}\n{"ste')
  T.eq(store.times(dir), { { step = 1 }, { step = 3 } })
  local f <close> = sys.append(dir .. "/times.jsonl")
  f:write '{"step":4}\n'
  T.eq(store.times(dir), { { step = 1 }, { step = 3 }, { step = 4 } })
  sys.remove(dir .. "/times.jsonl")
  sys.mkdir(dir .. "/times.jsonl")
  T.eq(store.times(dir), {})
end)

-- A trainer whose state is one number.
local function trainer()
  local t = { step_count = 0, x = core.zeros { shape = { 2 } } }
  function t:state() return { x = self.x } end
  function t:metadata() return { step = tostring(self.step_count) } end
  function t:restore(tensors, metadata)
    self.x, self.step_count = tensors.x, math.tointeger(tonumber(metadata.step))
  end
  function t:step(w)
    self.step_count = self.step_count + 1
    self.x = self.x + self.step_count
    w:record { step = self.step_count, ["train/loss"] = self.x:flat()[1], ["time/unix"] = sys.time() }
  end
  return t
end

T.test("a checkpoint that the trainer refuses is named", function()
  local dir, t = T.folder(), trainer()
  local w = store.writer(dir, t)
  t:step(w)
  w:checkpoint(t)
  w:close()
  function t:restore() error("checkpoint: 'x' is missing", 0) end
  T.raises(function() store.writer(dir, t) end, "checkpoint.safetensors: checkpoint: 'x' is missing")
end)

T.test("a resume cuts off what came after the checkpoint, and ends with the same bytes", function()
  local whole, killed = T.folder(), T.folder()
  local t = trainer()
  local w = store.writer(whole, t)
  for _ = 1, 6 do t:step(w) end
  w:close()

  t = trainer()
  w = store.writer(killed, t)
  T.eq(w.resumed, nil)
  for _ = 1, 3 do t:step(w) end
  w:checkpoint(t)
  for _ = 1, 2 do t:step(w) end
  w:close()
  local half = sys.append(killed .. "/metrics.jsonl")
  half:write '{"step":6,"tra'
  half:close()

  t = trainer()
  w = store.writer(killed, t)
  T.eq(w.resumed, 3)
  for _ = 1, 3 do t:step(w) end
  w:close()
  T.eq(sys.read(killed .. "/metrics.jsonl"), sys.read(whole .. "/metrics.jsonl"))
  T.ok(not sys.read(whole .. "/metrics.jsonl"):find "time/", "times are kept apart")
  T.eq(#store.records(whole .. "/times.jsonl"), 6)
end)

T.test("what JSON cannot say is null and counted", function()
  local dir = T.folder()
  local w = store.writer(dir, trainer())
  w:record { step = 1, ["valid/loss"] = 0 / 0, norm = math.huge, lr = 0.5 }
  w:close()
  local r = store.metrics(dir)[1]
  T.eq(r.nonfinite, 2)
  T.eq(r["valid/loss"], json.null)
  T.eq(r.lr, 0.5)
end)

T.test("without a checkpoint a run starts over", function()
  local dir = T.folder()
  sys.write(dir .. "/metrics.jsonl", '{"step":1}\n')
  local w = store.writer(dir, trainer())
  w:close()
  T.eq(sys.size(dir .. "/metrics.jsonl"), 0)
end)

T.test("lost records and foreign checkpoints are refused", function()
  local dir, t = T.folder(), trainer()
  local w = store.writer(dir, t)
  t:step(w)
  w:checkpoint(t)
  w:close()
  sys.truncate(dir .. "/metrics.jsonl", 3)
  T.raises(function() store.writer(dir, trainer()) end, "records are lost")
  core.safetensors.save(dir .. "/checkpoint.safetensors", { x = core.zeros { shape = { 2 } } }, {})
  T.raises(function() store.writer(dir, trainer()) end, "not a checkpoint of a run")
  sys.write(dir .. "/checkpoint.safetensors", "short")
  T.raises(function() store.writer(dir, trainer()) end)
end)

T.test("a checkpoint that cannot be written leaves the old one", function()
  local dir, t = T.folder(), trainer()
  local w = store.writer(dir, t)
  t:step(w)
  w:checkpoint(t)
  local before = sys.read(dir .. "/checkpoint.safetensors")
  t.metadata = function() return { step = "1", bad = ("x"):rep(10) } end
  t.state = function() error("disk is full", 0) end
  t:step(w)
  T.raises(function() w:checkpoint(t) end, "disk is full")
  w:close()
  T.eq(sys.read(dir .. "/checkpoint.safetensors"), before)
end)

T.test("differences to the program that made a run", function()
  T.eq(store.differences(spec()), {})
  T.eq(store.differences(spec(), 2), { "threads" })
  T.eq(store.differences(spec { made = { source = "x", libraries = "y", threads = 1 } }), { "source", "libraries" })
end)

T.test("a run on a card is also of its driver and libraries; another card goes on with it", function()
  local s = spec { device = "cuda" }
  T.eq(store.libraries "cpu", core.libraries())
  T.ok(not store.libraries("cpu"):find "cuda", "what a CPU run depends on is no card")
  T.ok(store.libraries("cuda"):find(core.libraries() .. ", cuda: ", 1, true))
  s.made.libraries = store.libraries "cuda"
  T.eq(store.differences(s), {})
  s.made.libraries = s.made.libraries .. " another"
  T.eq(store.differences(s), { "libraries" })
  local root = T.folder()
  local dir = store.create(root, s)
  store.set_status(dir, "interrupted", 1)
  sys.write(dir .. "/checkpoint.safetensors", "")
  s.device = "cuda:1"
  T.eq(store.create(root, s), dir)
  T.eq(store.config(dir).device, "cuda:1")
end)

T.test("a run that another process works on is not cleared", function()
  local dir = store.create(T.folder(), spec())
  local lock = store.lock(dir)
  T.raises(function() store.restart(dir) end, "locked")
  T.eq(sys.exists(dir .. "/config.json"), "file")
  lock:close()
  store.restart(dir)
  T.eq(sys.list(dir), { "lock" })
end)

T.test("clear keeps the lock", function()
  local dir = store.create(T.folder(), spec())
  local lock = store.lock(dir)
  T.eq(store.lock(dir), nil)
  store.clear(dir)
  T.eq(sys.list(dir), { "lock" })
  lock:close()
end)
