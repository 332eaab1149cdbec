-- What --dry-run says of a run, against the run: its memory is the allocator's peak, byte for byte.
local T = ...
local core = require "attnlab.core"
local lab = require "attnlab"
local budget = require "attnlab.budget"
local sys = core.sys
local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)

local text = lab.data.open "shakespeare"

-- Of a whole training; the text, which is here already, is a part of it.
local function peak_of(cfg)
  collectgarbage()
  collectgarbage()
  core.reset_peak()
  local before = core.memory().live - 4 * text.tokens:numel()
  lab.train.loop(lab.train.trainer(nil, cfg, 1, text), {})
  return core.memory().peak - before
end

local BASE = { layers = 2, width = 32, heads = 2, context = 128, batch_size = 8, steps = 4, eval_interval = 2,
               eval_windows = 4 }

for _, case in ipairs {
  { "fused softmax" },
  { "many layers, few sequences", layers = 6, batch_size = 2 },
  { "a long context", layers = 1, context = 2500, batch_size = 1, heads = 1 },
  { "chunked cosine", attention = "p2/cottention", context = 256 },
  { "composed softmax", ["attention.impl"] = "composed" },
  { "a long context, composed", layers = 1, context = 2500, batch_size = 1, heads = 1, ["attention.impl"] = "composed" },
  { "f64", dtype = "f64" },
  { "f64, Taylor series", dtype = "f64", attention = "p1/softmax_taylor_80terms", context = 64 },
  { "another series, chunked", ["attention.similarity"] = "taylor", ["attention.order"] = 2, context = 256 },
  { "bf16", dtype = "bf16" },
  { "bf16, convolutions", dtype = "bf16", attention = "p3/2mamba" },
  { "gates", attention = "p1/gated_softmax" },
  { "convolutions", attention = "p3/2mamba" },
  { "a memory", attention = "delta/deltanet" },
  { "a softmax in every channel", attention = "channel_softmax" },
  { "a window", attention = "window/mistral" },
  { "two kinds of layer", attention = { "softmax", "delta/deltanet" } },
  { "many tokens", vocab = 4000, tied = true },
} do
  T.test("memory of " .. case[1], function()
    local given = {}
    for k, v in pairs(BASE) do given[k] = v end
    for k, v in pairs(case) do
      if k ~= 1 then given[k] = v end
    end
    local cfg = lab.config.resolve(given)
    T.eq(budget.of(cfg, text).memory, peak_of(cfg))
    T.eq(core.on(), "cpu")
  end)
end

T.test("a batch that has no room goes by parts, which have", function()
  local cfg = lab.config.resolve(BASE)
  local function most(micro) return (budget.counted(function()
    local trainer = lab.train.trainer(nil, cfg, 0, text, micro)
    trainer:step()
    trainer:step()
    trainer:evaluate()
  end)) end
  local whole, least = most(8), most(1)
  T.ok(least < whole / 2, ("%d of %d"):format(least, whole))
  T.eq(budget.micro_batch(cfg, text, whole * 2), 8)
  local seen = {}
  for _, bytes in ipairs { whole, whole * 3 // 4, whole // 2, least * 5 // 4 } do
    local n = budget.micro_batch(cfg, text, bytes)
    seen[#seen + 1] = n
    T.ok(most(n) <= bytes, ("%d windows in %d bytes"):format(n, bytes))
  end
  T.ok(seen[1] > seen[#seen], table.concat(seen, " "))
  T.raises(function() budget.micro_batch(cfg, text, least // 4) end, "^one window of 128 tokens needs more memory than")
  T.eq(core.on(), "cpu")
  T.eq(budget.micro_batch(cfg, text, whole * 2), 8) -- no limit stays behind
end)

T.test("what fails while it is counted ends on the cpu", function()
  T.raises(function() budget.counted(error, "by hand") end, "by hand")
  T.eq(core.on(), "cpu")
end)

local function json_of(words)
  local code, out = tiny.run(words)
  T.eq(code, 0, out)
  return core.json.decode(out:match "%b{}")
end

T.test("--dry-run says the memory that the worker of each run then has, a plug-in's among them", function()
  local mean = tiny.program:match "^(.*)/[^/]*$" .. "/tests/plugins/mean.so"
  local path, root = tiny.experiment '{ name = "mean", attention = "mean" }, { name = "cosine", attention = "p2/cottention" },'
  local said, found = {}, 0
  for _, arm in ipairs(json_of { "run", path, "--dry-run", "--json", "--plugin", mean, "out_dir=" .. root }.arms) do
    said[arm.arm] = arm.memory
  end
  T.eq((tiny.run { "run", path, "--plugin", mean, "out_dir=" .. root }), 0)
  for _, dir in ipairs(tiny.run_dirs(root)) do
    local name = core.json.decode(sys.read(dir .. "/config.json")).arm
    for _, record in ipairs(require("attnlab.store").times(dir)) do
      if record.event == "memory" then
        T.eq(record.bytes, said[name], name)
        found = found + 1
      end
    end
  end
  T.eq(found, 6)
end)

T.test("--dry-run says the memory of each measurement of a study", function()
  local root = T.folder()
  sys.write(root .. "/s.lua", [[
return require("attnlab").study { name = "s", kind = "recurrence", question = "how much?", seeds = { 1 },
  cases = { { head_dim = 4, orders = { 1, 2 }, tokens = 8 }, { inputs = "stories260K", orders = { 1 }, tokens = 8 } } }
]])
  local said = json_of { "run", root .. "/s.lua", "--dry-run", "out_dir=" .. root .. "/runs" }.measurements
  T.eq((tiny.run { "run", root .. "/s.lua", "out_dir=" .. root .. "/runs" }), 0)
  local measured, want = {}, {}
  for _, id in ipairs(sys.list(root .. "/runs/s")) do
    if sys.exists(root .. "/runs/s/" .. id .. "/result.json") then
      measured[#measured + 1] = core.json.decode(sys.read(root .. "/runs/s/" .. id .. "/result.json")).made.memory
    end
  end
  for i, m in ipairs(said) do want[i] = m.memory end
  table.sort(measured)
  table.sort(want)
  T.eq(measured, want)
  T.eq(#want, 3)
end)

T.test("a fused run is said to need no room for scores", function()
  local small = budget.of(lab.config.resolve { layers = 1, width = 16, heads = 1, context = 256, batch_size = 1 }, text)
  local large = budget.of(lab.config.resolve { layers = 1, width = 16, heads = 1, context = 8192, batch_size = 1 }, text)
  T.ok(large.memory - small.memory < 33 * (small.memory - 4 * text.tokens:numel()))
end)
