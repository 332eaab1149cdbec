-- What --dry-run says of a run, against the run: its memory is the allocator's peak in training and evaluation.
local T = ...
local core = require "attnlab.core"
local lab = require "attnlab"
local budget = require "attnlab.budget"

core.threads(2) -- scratch of many threads does not grow with the sequences, by which it is counted

local text = lab.data.open "shakespeare"

local function settle()
  collectgarbage()
  collectgarbage()
  return core.memory().live - 4 * text.tokens:numel() -- the text is part of a run, and here already
end

local function peak_of(cfg)
  local before = settle()
  core.reset_peak()
  local trainer = lab.train.trainer(nil, cfg, 1, text)
  for _ = 1, 2 do trainer:step() end
  trainer:evaluate()
  return core.memory().peak - before
end

local BASE = { layers = 2, width = 32, heads = 2, context = 128, batch_size = 8 }

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
    local peak = peak_of(cfg)
    local ratio = budget.of(cfg, text).memory / peak
    T.ok(ratio > 0.8 and ratio < 1.2, ("said %.2f of the peak of %.1f MiB; within 20 %%: it"):format(ratio, peak / 2 ^ 20))
  end)
end

T.test("a fused run is said to need no room for scores", function()
  local small = budget.of(lab.config.resolve { layers = 1, width = 16, heads = 1, context = 256, batch_size = 1 }, text)
  local large = budget.of(lab.config.resolve { layers = 1, width = 16, heads = 1, context = 8192, batch_size = 1 }, text)
  T.ok(large.memory - small.memory < 33 * (small.memory - 4 * text.tokens:numel()))
end)
