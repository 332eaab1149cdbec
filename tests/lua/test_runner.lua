-- The runner with real workers: results, resumption bit for bit, failures that stay where they are.
local T = ...
local core = require "attnlab.core"
local store = require "attnlab.store"
local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)
local sys, json = core.sys, core.json

local ARMS = [[{ name = "exp + L2", ["attention.denominator"] = "none", ["attention.output_norm"] = "l2" },
  { name = "relu", ["attention.preset"] = "p1/linear_relu" }]]

local file, root = tiny.experiment(ARMS)
local code, output = tiny.run { "run", file, "out_dir=" .. root }
local reference = tiny.metrics(root)

T.test("all arms and seeds run; table and figure are written", function()
  T.eq(code, 0)
  T.eq(#tiny.run_dirs(root), 6)
  for _, dir in ipairs(tiny.run_dirs(root)) do T.eq(store.status(dir).state, "finished") end
  T.ok(output:find "exp %+ L2", output)
  T.ok(output:find "valid loss")
  local t = json.decode(sys.read(root .. "/tiny/table.json"))
  T.eq(#t.arms, 3)
  T.eq(t.arms[1].n, 2)
  T.ok(t.arms[2].low < t.arms[2].difference and t.arms[2].difference < t.arms[2].high)
  T.ok(t.arms[1].tokens_per_second > 0 and t.arms[1].parameters > 0 and t.arms[1].state_bytes > 0)
  T.ok(sys.read(root .. "/tiny/table.tsv"):find "exp %+ L2\t2\t")
end)

T.test("the first seed comes first", function()
  local first = output:find "seed 2"
  local _, n = output:sub(1, first):gsub("started [^\n]*seed 1", "")
  T.eq(n, 3)
end)

T.test("row sums of the trained softmax are those of its layers", function()
  local seen = 0
  for _, dir in ipairs(tiny.run_dirs(root)) do
    local path = dir .. "/probe.json"
    T.eq(sys.exists(path), "file")
    local values = json.decode(sys.read(path)).log10_row_sum
    T.eq(#values, 16)
    if store.config(dir).arm == "softmax" then
      T.ok(values[16] > values[1], "more keys, larger sum")
      seen = seen + 1
    end
  end
  T.eq(seen, 2)
end)

T.test("row sums of weights by an expression are those of the same weights by name", function()
  local sums = {}
  for i, words in ipairs { { "attention.similarity=exp" },
                           { "attention.similarity=expr", "attention.expr=exp(t*s)", "attention.expr_params.t=1" } } do
    local folder = T.folder()
    local status, text = tiny.run { "train", "out_dir=" .. folder, "steps=1", "layers=1", "width=16", "heads=2", "mlp=16",
                                    "context=16", "attention.preset=kernel_attention", table.unpack(words) }
    T.eq(status, 0, text)
    T.ok(not text:find "no row sums", text)
    sums[i] = json.decode(sys.read(text:match "(%S+/train/%x+)\n" .. "/probe.json")).log10_row_sum
  end
  for t, v in ipairs(sums[1]) do T.ok(math.abs(v - sums[2][t]) < 1e-3, ("position %d: %g and %g"):format(t, v, sums[2][t])) end
end)

T.test("finished runs are skipped", function()
  local again, text = tiny.run { "run", file, "out_dir=" .. root }
  T.eq(again, 0)
  T.ok(text:find "0 of 6 runs to do")
  T.eq(tiny.metrics(root), reference)
end)

T.test("a run whose folder cannot be made does not stop the others", function()
  local _, other = tiny.experiment(ARMS)
  local id = tiny.run_dirs(root)[1]:match "[^/]+$"
  sys.mkdir(other .. "/tiny")
  sys.write(other .. "/tiny/" .. id, "in the way")
  local status, text = tiny.run { "run", file, "out_dir=" .. other }
  T.eq(status, 1)
  T.ok(text:find "not started.*" and text:find(id, 1, true), text)
  local finished = 0
  for _, dir in ipairs(tiny.run_dirs(root)) do
    local mine = other .. "/tiny/" .. dir:match "[^/]+$"
    if store.status(mine).state == "finished" then finished = finished + 1 end
  end
  T.eq(finished, 5)
end)

T.test("two runs of one seed are bit-equal, whatever ran beside them", function()
  local _, other = tiny.experiment(ARMS)
  T.eq((tiny.run { "run", file, "--seeds", "1", "out_dir=" .. other }), 0)
  for id, text in pairs(tiny.metrics(other)) do T.eq(text, reference[id]) end
end)

T.test("kill -9 of the runner kills its workers, and the resumed experiment ends with the same metrics", function()
  local _, other = tiny.experiment(ARMS)
  for _, delay in ipairs { 0.15, 0.3, 0.45 } do
    local pid = tiny.start { "run", file, "out_dir=" .. other }
    sys.sleep(delay)
    sys.kill(pid, 9)
    sys.wait(pid)
    sys.sleep(0.1)
    for _, dir in ipairs(sys.exists(other .. "/tiny") and tiny.run_dirs(other) or {}) do
      T.ok(store.status(dir).state ~= "running", "no worker is left")
    end
  end
  T.eq((tiny.run { "run", file, "out_dir=" .. other }), 0)
  T.eq(tiny.metrics(other), reference)
end)

T.test("an interrupt ends the step, saves, says how to go on, and exits 130", function()
  local plain, other = tiny.experiment(ARMS)
  local long = plain:gsub("tiny.lua$", "it's  long.lua")
  sys.rename(plain, long)
  local pid, out = tiny.start { "run", long, "train.steps=100000", "--seeds", "1", "out_dir=" .. other }
  local function steps()
    if not sys.exists(other .. "/tiny") then return 0 end
    local n = 0
    for _, dir in ipairs(tiny.run_dirs(other)) do n = n + #store.metrics(dir) end
    return n
  end
  local t = sys.clock()
  while steps() < 8 and sys.clock() - t < 60 do sys.sleep(0.05) end
  sys.kill(pid, 2)
  local how, status = sys.wait(pid)
  T.eq({ how, status }, { "exited", 130 })
  local text = sys.read(out)
  T.ok(text:find("./lab run '" .. long:gsub("'", "'\\''") .. "' --seeds 1 train.steps=100000 out_dir=", 1, true), text)
  local saved = 0
  for _, dir in ipairs(tiny.run_dirs(other)) do
    local s = store.status(dir)
    T.eq(s.state, "interrupted")
    local _, metadata = core.safetensors.open(dir .. "/checkpoint.safetensors")
    T.eq(metadata["run.step"], tostring(s.step))
    saved = saved + 1
  end
  T.ok(saved >= 1)
end)

T.test("a diverged arm is a result: exit status 0, shown with its step", function()
  local path, other = tiny.experiment([[{ name = "wild", ["train.lr"] = 1e4, ["train.grad_clip"] = 0 }]],
    [[expect = { { arm = "wild", diverges = true } }, ]])
  local status, text = tiny.run { "run", path, "out_dir=" .. other }
  T.eq(status, 0)
  T.ok(text:find "diverged at step %d+", text)
  T.ok(text:find "held +wild diverges: 2 of 2 seeds diverged", text)
  T.eq((tiny.run { "run", path, "out_dir=" .. other }), 0)
end)

-- The table that the output of run or plot names.
local function table_of(text)
  return json.decode(sys.read(text:match "\ntable +(%S+)/table.txt" .. "/table.json"))
end

T.test("arms that differ in batch_size at lr = 0 differ by exactly 0; so do two experiments", function()
  local base = "lr = 0, steps = 1, eval_interval = 0 "
  local path, other = tiny.experiment(([[{ name = "batch 1", batch_size = 1, %s }, { name = "batch 16", batch_size = 16, %s },
    { name = "lr 0", %s }]]):format(base, base, base), [[expect = { { arm = "batch 1", versus = "lr 0", equal_within = 0.001 },
    { arm = "batch 16", versus = "batch 1", equal_within = 1e-9 } }]])
  local status, text = tiny.run { "run", path, "out_dir=" .. other, "lr=0" }
  T.eq(status, 0, text)
  local t = table_of(text)
  for i = 2, 4 do
    local a = t.arms[i]
    T.eq({ a.difference, a.low, a.high, a.p_holm, a.verdict }, { 0.0, 0.0, 0.0, nil, "equal within 0.01" })
  end
  T.eq({ t.expectations[1].outcome, t.expectations[2].outcome }, { "held", "held" })
  T.ok(text:find "%+0.0000 %[0.0000, 0.0000%]  equal within 0.01", text)
  local means = {}
  for i, batch in ipairs { "batch_size=4", "batch_size=7" } do
    local one, place = tiny.experiment ""
    means[i] = table_of(select(2, tiny.run { "run", one, "out_dir=" .. place, "lr=0", "steps=2", batch })).arms[1].mean
  end
  T.eq({ means[1], means[2] }, { t.arms[1].mean, t.arms[1].mean })
end)

T.test("survivors are nobody's result: not in table, figures, expectations or compare", function()
  local more = [[expect = { { arm = "relu", versus = "softmax", better = true }, { arm = "exp + L2", versus = "relu", equal_within = 9 },
    { arm = "relu", diverges = true } }, plot = { by = "n" }]]
  local path, other = tiny.experiment(ARMS:gsub('"relu"', '"relu", at = { "line", 1 }'), more)
  T.eq((tiny.run { "run", path, "out_dir=" .. other }), 0)
  local by_arm = {}
  for _, dir in ipairs(tiny.run_dirs(other)) do
    local spec = store.config(dir)
    by_arm[spec.arm .. spec.seed] = dir
  end
  local function diverge(key, step)
    local dir, kept = by_arm[key], {}
    store.set_status(dir, "diverged", step, "loss is not finite")
    for line in sys.read(dir .. "/metrics.jsonl"):gmatch "[^\n]+" do
      if json.decode(line).step < step then kept[#kept + 1] = line .. "\n" end
    end
    kept[#kept + 1] = json.encode { step = step, nonfinite = 1 } .. "\n"
    sys.write(dir .. "/metrics.jsonl", table.concat(kept))
    sys.remove(dir .. "/checkpoint.safetensors")
  end
  local function plotted()
    local status, text = tiny.run { "plot", path, "out_dir=" .. other }
    T.eq(status, 0)
    return text, table_of(text), sys.read(other .. "/tiny/figure.gp")
  end
  diverge("relu2", 15)
  local text, t, figure = plotted()
  local relu = t.arms[3]
  T.eq({ relu.n, relu.seeds, relu.diverged, relu.verdict }, { 1, 2, 1, "not judged: 1 of 2 diverged" })
  for _, k in ipairs { "mean", "deviation", "difference", "low", "high", "p_holm" } do T.eq(relu[k], nil) end
  T.ok(text:find "relu +1 of 2 +1 of 2 diverged +not judged: 1 of 2 diverged", text)
  T.ok(text:find "neither better, worse nor equal", text)
  T.ok(t.arms[2].verdict and t.arms[2].level == 0.95, "the family is that of the arms that are judged")
  T.eq({ t.expectations[1].outcome, t.expectations[2].outcome, t.expectations[3].outcome }, { "not judged", "not judged", "REFUTED" })
  T.eq(t.expectations[1].detail, "relu: 1 of 2 diverged")
  T.ok(figure:find("relu (1 of 2 diverged)", 1, true) and figure:find("1 of 2 diverged (step 15)", 1, true))
  T.ok(figure:find "%(a%) .*cross: last evaluation" and figure:find "grey: the margin", figure)
  T.ok(not figure:find("$seeds2", 1, true) and not figure:find("$profile3", 1, true), "no differences, no row sums")
  local steps = {}
  for step in figure:match("%$curve3 << EOD\n(.-)EOD"):gmatch "(%d+) [^\n]+\n" do steps[#steps + 1] = step end
  T.eq(steps, { "6", "12" }) -- as far as both got
  local by = sys.read(other .. "/tiny/by.gp")
  T.ok(by:find("crosses: so many seeds diverged", 1, true) and by:find("'1 of 2'", 1, true), by)
  local _, compared = tiny.run { "compare", by_arm.relu1, by_arm.softmax1 }
  T.ok(compared:find "not compared: seeds of a: 1 of 2 diverged", compared)
  T.ok(not select(2, tiny.run { "runs", "--json", "out_dir=" .. other }):find '"diverged",[^}]*"valid_loss"')

  diverge("softmax1", 9) -- the reference
  text, t = plotted()
  for i = 2, 3 do T.eq({ t.arms[i].low, t.arms[i].difference }, {}) end
  T.eq(t.arms[2].verdict, "not judged: softmax: 1 of 2 diverged")
  T.ok(t.arms[2].mean and not t.arms[1].mean)

  sys.remove(by_arm["exp + L21"] .. "/status")
  text, t = plotted()
  T.eq(t.arms[2].verdict, "not judged: 1 of 2 not finished")
end)

T.test("a changed expectation or margin is judged anew without training, and says so; --fresh renews", function()
  local root_of = T.folder() .. "/runs"
  local function go(expect, margin, ...)
    local path = tiny.experiment(ARMS, ("expect = { %s }"):format(expect))
    sys.write(path, (sys.read(path):gsub("margin = 0.01", "margin = " .. margin)))
    local status, text = tiny.run { "run", path, "out_dir=" .. root_of, ... }
    T.eq(status, 0, text)
    return text, table_of(text)
  end
  local first = [[{ arm = "relu", versus = "softmax", worse = true }, { arm = "relu", diverges = false }]]
  local text = go(first, 0.01)
  T.ok(text:find "6 of 6 runs to do" and not text:find "changed after the runs", text)
  local metrics = tiny.metrics(root_of)
  text = go(first, 0.01)
  T.ok(text:find "0 of 6 runs to do" and not text:find "changed after the runs", text)
  local t
  text, t = go([[{ arm = "relu", versus = "softmax", equal_within = 5 }, { arm = "relu", diverges = false }]], 3)
  T.ok(text:find "0 of 6 runs to do", text)
  T.eq(tiny.metrics(root_of), metrics)
  T.ok(text:find "held +relu equals softmax within 5: [^\n]* %(changed after the runs%)", text)
  T.ok(text:find "held +relu does not diverge: [^\n(]*\n", text)
  T.ok(text:find "taken out +relu is worse than softmax: [^\n]* %(changed after the runs%)", text)
  T.ok(text:find("margin: 3 nats, changed after the runs (0.01 when they were made)", 1, true), text)
  T.eq({ t.margin, t.margin_when_made, t.expectations[1].changed, t.expectations[2].changed }, { 3, "0.01", true })
  T.eq(t.arms[3].verdict, "equal within 3")
  text = go([[{ arm = "relu", versus = "softmax", equal_within = 5 }]], 3, "--fresh")
  T.ok(text:find "6 of 6 runs to do" and not text:find "changed after the runs", text)
end)

T.test("arms measured apart: the table says so", function()
  local path, other = tiny.experiment([[{ name = "other windows", eval_windows = 3 }]], "measured_apart = true")
  local status, text = tiny.run { "run", path, "out_dir=" .. other, "--seeds", "1" }
  T.eq(status, 0, text)
  T.ok(text:find "measured apart: .*softmax: 'shakespeare', 8 windows of 16 tokens.*other windows: 'shakespeare', 3 windows", text)
  T.eq(#table_of(text).measured_apart, 2)
  T.ok(sys.read(text:match "\ntable +(%S+)/table.txt" .. "/figure.gp"):find "measured apart")
  local dirs = tiny.run_dirs(other)
  T.ok(select(2, tiny.run { "compare", dirs[1], dirs[2] }):find "not compared: they are measured on different windows: a on %d")
end)

T.test("one failed arm does not stop the others, and is tried again", function()
  local path, other = tiny.experiment(ARMS)
  T.eq((tiny.run { "run", path, "out_dir=" .. other, "--seeds", "1" }), 0)
  local dir = tiny.run_dirs(other)[1]
  sys.remove(dir .. "/status")
  sys.write(dir .. "/checkpoint.safetensors", "rubbish")
  local status, text = tiny.run { "run", path, "out_dir=" .. other }
  T.eq(status, 1)
  T.ok(text:find "failed", text)
  T.ok(sys.read(dir .. "/log"):find "traceback")
  local finished = 0
  for _, d in ipairs(tiny.run_dirs(other)) do finished = finished + (store.status(d).state == "finished" and 1 or 0) end
  T.eq(finished, 5)
  T.eq((tiny.run { "run", path, "out_dir=" .. other, "--fresh" }), 0)
end)

T.test("a run of another program is stale when finished, and refused when it would go on", function()
  local path, other = tiny.experiment(ARMS)
  T.eq((tiny.run { "run", path, "out_dir=" .. other, "--seeds", "1" }), 0)
  local dir
  for _, d in ipairs(tiny.run_dirs(other)) do
    local spec = store.config(d)
    if spec.arm == "softmax" then
      spec.made.source, dir = "000000000000", d
      sys.write(d .. "/config.json", json.encode(spec))
    end
  end
  local status, text = tiny.run { "run", path, "out_dir=" .. other, "--seeds", "1" }
  T.eq(status, 0)
  T.ok(text:find "stale %(source%)", text)
  sys.remove(dir .. "/status")
  status, text = tiny.run { "run", path, "out_dir=" .. other, "--seeds", "1" }
  T.eq(status, 1)
  T.ok(text:find "cannot go on" and text:find "%-%-fresh" and text:find "%-%-force", text)
  T.eq((tiny.run { "run", path, "out_dir=" .. other, "--seeds", "1", "--force" }), 0)
end)

T.test("a card has one run at a time unless told, and runs share its memory", function()
  local runner, devices = require "attnlab.runner", require "attnlab.devices"
  local plan = { arms = { 1, 2, 3 }, seeds = { 1, 2 }, device = "cuda" }
  T.eq({ runner.shares(plan, {}) }, { 1, sys.cores() })
  T.eq((runner.shares(plan, { jobs = 2 })), 2)
  plan.device = "cpu"
  T.eq((runner.shares(plan, {})), math.min(6, sys.cores()))
  T.eq(devices.share("cpu", 1), nil)
  local card = devices.card
  devices.card = function() return "a card", 17 << 30 end
  T.eq({ devices.share("cuda", 1), devices.share("cuda:1", 4) }, { 16 << 30, 4 << 30 })
  devices.card = function() return "a small card", 8 << 20 end
  T.eq(devices.share("cuda", 1), 7 << 20)
  devices.card = function() return nil, "no such card" end
  T.raises(function() return devices.share("cuda:3", 1) end, "^device cuda:3: no such card$")
  devices.card = card
  T.eq({ devices.named "cuda:0", devices.named "cuda:2", devices.named(nil) }, { "cuda", "cuda:2", "cpu" })
end)

T.test("a batch that goes by parts is chosen when a run begins, recorded, and the same when it goes on", function()
  local runner = require "attnlab.runner"
  local path, other = tiny.experiment ""
  local plan = require("attnlab.experiment").load(path):plan { seeds = { 1 }, set = { { "context", "128" }, { "batch_size", "8" }, { "steps", "4" } } }
  local run = runner.expand(plan, { root = other })[1]
  runner.choose_micro_batch(run, nil)
  T.eq(run.spec.made.micro_batch, nil, "nothing is shared on a CPU")
  local all = require("attnlab.budget").of(run.spec.config, require("attnlab.data").open "shakespeare").memory
  runner.choose_micro_batch(run, 1 << 40)
  T.eq(run.spec.made.micro_batch, 8)
  runner.choose_micro_batch(run, all - 4 * 1115394) -- without the text, and not with all that is wanted besides
  local n = run.spec.made.micro_batch
  T.ok(n < 8, n)
  local dir = store.create(other, run.spec)
  T.eq(store.config(dir).made.micro_batch, n)
  local function work() return require("attnlab.worker").run(dir, {}) end
  T.eq(work(), 0)
  local plans = {}
  for _, r in ipairs(store.times(dir)) do plans[#plans + 1] = r.event == "plan" and r.micro_batch or nil end
  T.eq(plans, { n })
  run.spec.made.micro_batch = nil
  runner.choose_micro_batch(run, 1 << 40)
  T.eq(run.spec.made.micro_batch, nil, "a run with a checkpoint has chosen")
  T.eq(store.create(other, run.spec), dir)
  T.eq(store.config(dir).made.micro_batch, n)
end)

T.test("a locked run folder is named", function()
  local path, other = tiny.experiment(ARMS)
  T.eq((tiny.run { "run", path, "out_dir=" .. other, "--seeds", "1" }), 0)
  local dir = tiny.run_dirs(other)[1]
  local lock = store.lock(dir)
  store.set_status(dir, "running", 1)
  local status, text = tiny.run { "run", path, "out_dir=" .. other, "--seeds", "1" }
  lock:close()
  T.eq(status, 1)
  T.ok(text:find "locked" and text:find(dir, 1, true), text)
end)

T.test("a run that another process took meanwhile is locked, not failed", function()
  local path, other = tiny.experiment(ARMS)
  T.eq((tiny.run { "run", path, "out_dir=" .. other, "--seeds", "1" }), 0)
  local dir = tiny.run_dirs(other)[1]
  sys.remove(dir .. "/status")
  local lock = store.lock(dir)
  local status, text = tiny.run { "run", path, "out_dir=" .. other, "--seeds", "1" }
  lock:close()
  T.eq(status, 1)
  T.ok(text:find "locked: another process" and not text:find "failed at step", text)
  T.eq(store.status(dir).state, "new")
end)

T.test("a worker leaves alone what another has finished", function()
  local path, other = tiny.experiment ""
  T.eq((tiny.run { "run", path, "out_dir=" .. other, "--seeds", "1" }), 0)
  local dir = tiny.run_dirs(other)[1]
  local status, times = sys.read(dir .. "/status"), sys.read(dir .. "/times.jsonl")
  T.eq((tiny.run { "worker", "--run", dir }), 0)
  T.eq(sys.read(dir .. "/status"), status)
  T.eq(sys.read(dir .. "/times.jsonl"), times)
end)

T.test("a place that cannot be written is named", function()
  local path = tiny.experiment(ARMS)
  local blocked = T.folder() .. "/file"
  sys.write(blocked, "")
  local status, text = tiny.run { "run", path, "out_dir=" .. blocked }
  T.eq(status, 1)
  T.ok(text:find(blocked, 1, true), text)
end)

T.test("a full disk while saving fails the run and leaves the last checkpoint", function()
  local path, other = tiny.experiment ""
  local words = { "run", path, "train.steps=100000", "--seeds", "1", "out_dir=" .. other }
  local pid = tiny.start(words)
  local t, dir = sys.clock(), nil
  repeat
    sys.sleep(0.05)
    dir = sys.exists(other .. "/tiny") and tiny.run_dirs(other)[1]
  until dir and sys.exists(dir .. "/checkpoint.safetensors") or sys.clock() - t > 60
  sys.kill(pid, 15)
  sys.wait(pid)
  local before = sys.read(dir .. "/checkpoint.safetensors")
  local log = other .. "/out"
  -- room for records, but for no checkpoint: 512-byte blocks in dash
  pid = sys.spawn { "/bin/sh", "-c", [[trap '' XFSZ; ulimit -f 16; exec "$@"]], "sh", tiny.program, "worker", "--run", dir,
                    stdout = log, stderr = log }
  local _, status = sys.wait(pid)
  T.eq(status, 1)
  T.ok(sys.read(log):find "checkpoint.safetensors", sys.read(log))
  T.eq(store.status(dir).state, "failed")
  T.ok(store.status(dir).reason:find "checkpoint.safetensors")
  T.eq(sys.read(dir .. "/checkpoint.safetensors"), before)
end)

-- ---- the exit status tells the truth ----------------------------------------------------------

-- Starts one long run in a process group of its own; returns the runner's pid, the worker's, its folder, the output.
local function started()
  local path, other = tiny.experiment ""
  local out = T.folder() .. "/out"
  local pid = sys.spawn { tiny.program, "run", path, "train.steps=100000", "--seeds", "1", "out_dir=" .. other, stdout = out,
                          stderr = out, group = true }
  local t, dir, status = sys.clock(), nil, {}
  repeat
    sys.sleep(0.02)
    dir = sys.exists(other .. "/tiny") and tiny.run_dirs(other)[1]
    status = dir and store.status(dir) or status
  until status.state == "running" and sys.exists(dir .. "/checkpoint.safetensors") or sys.clock() - t > 60
  return pid, status.pid, dir, out
end

local function fails(pid, out, ...)
  local how, status = sys.wait(pid)
  local text = sys.read(out)
  T.ok(how == "exited" and status == 1, ("%s %d: %s"):format(how, status, text))
  T.ok(text:find "1 of 1 runs are missing", text)
  for _, pattern in ipairs { ... } do T.ok(text:find(pattern), text) end
end

T.test("a worker that somebody stopped makes the run fail", function()
  for signal, why in pairs { [15] = ": interrupted\n", [9] = ": worker killed by signal 9\n" } do
    local pid, worker, _, out = started()
    sys.kill(worker, signal)
    fails(pid, out, why)
  end
end)

T.test("a run whose folder is removed meanwhile makes the run fail", function()
  local pid, _, dir, out = started()
  T.ok(os.rename(dir, T.folder() .. "/gone")) -- file by file, the worker would put some back
  fails(pid, out, ": its folder is gone\n")
end)

T.test("Ctrl-C in the first second is an interrupt, not a failure", function()
  local path, other = tiny.experiment(ARMS)
  local interrupts = 0
  for i = 1, 12 do
    local out = T.folder() .. "/out"
    local pid = sys.spawn { tiny.program, "run", path, "--seeds", "1", "out_dir=" .. other, stdout = out, stderr = out, group = true }
    sys.sleep(0.05 * i)
    os.execute(("kill -s INT -- -%d"):format(pid))
    local how, status = sys.wait(pid)
    -- before there is a handler it is the signal that ends it, which a shell calls 130 as well
    local interrupted = how == "signal" and status == 2 or how == "exited" and status == 130
    local ended = how == "exited" and status == 0 -- a fast machine was done before the signal
    T.ok(interrupted or ended, ("%s %d: %s"):format(how, status, sys.read(out)))
    interrupts = interrupts + (interrupted and 1 or 0)
    for _, dir in ipairs(sys.exists(other .. "/tiny") and tiny.run_dirs(other) or {}) do
      T.ok(store.status(dir).state ~= "failed", dir .. ": " .. tostring(store.status(dir).reason))
    end
    if ended or i % 4 == 0 then os.execute("rm -rf " .. other) end
  end
  T.ok(interrupts >= 4, interrupts .. " of 12 signals came in time")
  T.eq((tiny.run { "run", path, "out_dir=" .. other }), 0)
  T.eq(tiny.metrics(other), reference)
end)

T.test("what could not be measured is measured by the same command", function()
  local row_sum, worker = require("attnlab.measures").log10_row_sum, require "attnlab.worker"
  local path, other = tiny.experiment ""
  local words = { "run", path, "out_dir=" .. other, "--seeds", "1" }
  T.eq((tiny.run(words)), 0)
  local dir = tiny.run_dirs(other)[1]
  local metrics, found = sys.read(dir .. "/metrics.jsonl"), sys.read(dir .. "/probe.json")

  store.set_status(dir, "interrupted", 24)
  sys.remove(dir .. "/probe.json")
  local measure = row_sum.measure
  row_sum.measure = function() error "no luck" end
  local status = worker.run(dir, {})
  row_sum.measure = measure
  sys.catch_interrupts(false)
  T.eq(status, 1)
  T.eq(store.status(dir).state, "finished")
  T.ok(store.status(dir).reason:find "not measured: log10_row_sum: .*no luck", store.status(dir).reason)
  T.eq((tiny.run { "plot", path, "out_dir=" .. other, "--seeds", "1" }), 0)

  local code, text = tiny.run(words)
  T.eq(code, 0)
  T.ok(text:find "1 of 1 runs to do", text)
  T.eq(sys.read(dir .. "/probe.json"), found)
  T.eq(sys.read(dir .. "/metrics.jsonl"), metrics)
  T.eq(store.status(dir).reason, nil)
  sys.write(dir .. "/probe.json", "{")
  T.eq((tiny.run(words)), 0)
  T.eq(sys.read(dir .. "/probe.json"), found)
end)
