-- Numbers in texts are data: the same in any locale that the host program has set, and that locale stays
-- the host's. localedef makes the locales from tests/locale; without it this file says so and is skipped.
local T = ...
local core = require "attnlab.core"
local lab = require "attnlab"
local config = require "attnlab.config"
local panels = require "attnlab.panels"
local plot = require "attnlab.plot"
local rows = require "attnlab.rows"
local report = require "attnlab.report"
local runs = require "attnlab.runs"
local stats = require "attnlab.stats"
local store = require "attnlab.store"
local tables = require "attnlab.table"
local sys = core.sys

-- ---- two locales ----------------------------------------------------------------------------------

local SIGNS = { comma = ",", two_bytes = "\u{66b}" }
local folder = T.folder()
local said = folder .. "/log"
for name in pairs(SIGNS) do
  local ok, pid = pcall(sys.spawn, { "localedef", "--no-archive", "-c", "-f", T.root .. "tests/locale/charmap",
                                     "-i", T.root .. "tests/locale/" .. name, folder .. "/" .. name,
                                     stdout = said, stderr = said })
  if ok then sys.wait(pid) end
end
sys.setenv("LOCPATH", folder)
for name in pairs(SIGNS) do
  if os.setlocale(name, "numeric") == nil then
    print("skipped: no locale '" .. name .. "' can be made here (localedef: "
      .. (sys.exists(said) and sys.read(said):match "%[error%][^\n]*" or "not found") .. ")")
    T.test("skipped", function() end)
    return
  end
end
os.setlocale("C", "numeric")

-- What f gives with that locale set; the locale has to be there still.
local function under(name, f, ...)
  os.setlocale(name, "numeric")
  local r = table.pack(pcall(f, ...))
  local kept, half = os.setlocale(nil, "numeric"), ("%.1f"):format(0.5)
  os.setlocale("C", "numeric")
  T.eq(kept, name)
  T.eq(half, "0" .. (SIGNS[name] or ".") .. "5")
  if not r[1] then error(r[2], 0) end
  return table.unpack(r, 2, r.n)
end

-- f gives the same with every locale.
local function same(what, f, ...)
  local want = table.pack(under("C", f, ...))
  for name in pairs(SIGNS) do
    local ok, got = pcall(function(...) return table.pack(under(name, f, ...)) end, ...)
    if not ok then error(("%s under %s: %s"):format(what, name, got), 0) end
    local equal, why = pcall(T.eq, got, want)
    if not equal then error(("%s under %s: %s"):format(what, name, why), 0) end
  end
  return table.unpack(want, 1, want.n)
end

-- ---- what is data ---------------------------------------------------------------------------------

local s = core.tensor { { { { 1, 2 }, { 3, 4 } } } }

T.test("expressions and options of ops", function()
  T.eq(same("expression", function() return core.op.expression(s, { expr = "0.5*s + 2.5e-1" }):flat() end),
    { 0.75, 1.25, 1.75, 2.25 })
  T.eq(same("scale", function() return core.tensor { 2 }:scale { by = 0.5, add = 0.25 }:item() end), 1.25)
  same("weights", function()
    return core.op.weights(s, { f = "polynomial", coefficients = { 0.5, 0.25, 0.125 }, clamp = 1.5 }):flat()
  end)
  same("error", function() return select(2, pcall(core.op.dropout, s, { p = 1.5 })) end)
  same("print", function() return tostring(core.tensor { 0.5, 1 / 3 }) end)
end)

T.test("attention: options, results, states, texts", function()
  local q = core.randn { shape = { 2, 7, 2, 4 }, seed = 1, stream = "q" }
  local x = core.randn { shape = { 2, 7, 6 }, seed = 1, stream = "x" }
  for name, options in pairs {
    softmax = { logit_scale = 0.3, logit_softcap = 1.5, dropout = 0.25 },
    kernel_attention = { similarity = "taylor", order = 3, coefficients = { 0.5, 1.25, 0.3, 0.1 }, impl = "composed",
                         ["denominator.power"] = 0.5, ["denominator.eps"] = 1e-3, output_norm = "l2" },
    ["p1/gated_softmax"] = {},
    sliding_window = { window = 3, logit_softcap = 2.5, sink = 0.5, logit_scale = 0.7 },
    delta_rule = { beta = 0.3 },
    channel_softmax = { bonus = 0.5 },
  } do
    local copy = {}
    for k, v in pairs(options) do
      local group, key = k:match "^(.*)%.(.*)$"
      if group then copy[group] = copy[group] or {}; copy[group][key] = v else copy[k] = v end
    end
    same(name, function()
      local a = core.attn.new(name, copy, { heads = 2, head_dim = 4, width = 6, seed = 1 })
      local o, st = a:forward { q = q, k = q, v = q, x = x, causal = true, state = a:state { batch = 2 } }
      local components = {}
      for i, c in ipairs(st:components()) do components[i] = c.tensor end
      return a:text(), a:text(true), a:plan(4096), a:source "torch", a:source "latex", o, components
    end)
  end
  same("similarity by an expression", function()
    local a = core.attn.new("kernel_attention", { similarity = "expr", expr = "log(1 + exp(1.5*t*s))", expr_params = { t = 0.5 } },
      { heads = 2, head_dim = 4 })
    return a:text(), a:source "torch", a:forward { q = q, k = q, v = q, causal = true }
  end)
  for _, a in ipairs(core.attn.list()) do same("describe " .. a.name, core.attn.describe, a.name) end
  same("canonical", core.check.canonical, "sliding_window", "logit_softcap=2.5 sink=0.125")
end)

T.test("JSON", function()
  T.eq(same("encode", core.json.encode, { a = { 0.5, 1e-7, 3 }, b = 1 / 3 }), '{"a":[0.5,9.9999999999999995e-8,3],"b":0.33333333333333331}')
  T.eq(same("decode", core.json.decode, "[0.5,1e-7,3,-2.5E3]"), core.json.array { 0.5, 1e-7, 3, -2500.0 })
end)

T.test("configurations and the command line", function()
  T.eq(same("0.5", rows.parse_any, "0.5"), 0.5)
  T.eq(same("0,5", rows.parse_any, "0,5"), { 0, 5 })
  T.eq(same("named", rows.parse_any, "{t=0.5,u=1e-3}"), { t = 0.5, u = 1e-3 })
  T.eq(same("show", rows.show, { 0.1, 1 / 3, 2 }), "{0.1,0.33333333333333331,2}")
  same("expected", rows.expected, { type = "number", min = 0.5, max = 1.5 })
  T.eq(same("config", function() return config.resolve { ["train.lr"] = 0.0125, attention = { logit_softcap = 2.5 } }.train.lr end), 0.0125)
  same("id", function()
    local plan = lab.experiment({ name = "t", arms = { { name = "a", lr = 0.0125 } }, seeds = { 1 } }):plan {}
    return store.id { config = plan.arms[1].config, seed = 1, device = "cpu", data_hash = "x" }
  end)
end)

T.test("checkpoints", function()
  local text = T.folder() .. "/text.txt"
  sys.write(text, ("0123456789 "):rep(200))
  local cfg = config.resolve { layers = 1, width = 8, heads = 2, context = 8, data = text, steps = 4, batch_size = 2, warmup_steps = 1,
                               eval_interval = 2, checkpoint_interval = 2, log_interval = 1 }
  local saved = {}
  for _, name in ipairs { "C", "comma", "two_bytes" } do
    under(name, function()
      local dir, trainer = T.folder(), lab.train.trainer(nil, cfg, 3)
      local w = store.writer(dir, trainer)
      lab.train.loop(trainer, { record = function(r) w:record(r) end })
      w:checkpoint(trainer)
      w:close()
      local tensors, metadata = core.safetensors.open(dir .. "/checkpoint.safetensors")
      saved[name] = { metadata, sys.read(dir .. "/metrics.jsonl") }
      local second = lab.train.trainer(nil, cfg, 3)
      second:restore(tensors, metadata)
      T.eq({ second.sum, second.smooth, second.first }, { trainer.sum, trainer.smooth, trainer.first })
    end)
  end
  T.ok(tonumber(saved.C[1].loss_sum), "a number in the checkpoint")
  T.eq(saved.comma, saved.C)
  T.eq(saved.two_bytes, saved.C)
end)

T.test("tables and figures", function()
  T.eq(same("tsv", tables.tsv, { "x" }, { { x = 0.5 }, { x = 1 / 3 } }), "x\n0.5\n0.33333333333333331\n")
  local panel = { title = "a", xlabel = "x", ylabel = "y", logy = true,
                  curves = { { points = { { 0.5, 0.25, label = "p" }, { 1.5, 40.5, low = 1.5, high = 50 } }, marks = true } } }
  same("panels", panels.script, { title = "t", legend = { { name = "a", style = {} } }, panels = { panel } }, { { "png", "a.png" } })
  local fig = { title = "t", ylabel = "y", xlabel = "x", reference = "a", margin = 0.015, forest_label = "f", profile_title = "p",
                profile_label = "q", curves = {}, forest = {}, profile = { { index = 1, values = { 0.1, 0.5 } } } }
  for i = 1, 2 do fig.curves[i] = { name = "a" .. i, points = { { 20, 2.5, 2.25, 2.75 }, { 40, 1.5, 1.25, 1.75 } } } end
  fig.forest[1] = { name = "a2", index = 2, values = { 0.25, 0.5 }, mean = 0.375, lo = 0.125, hi = 0.625, text = "x" }
  same("plot", plot.script, fig, { { "png", "a.png" } })
  same("show", stats.show, -0.012345, 0.0123)
  local plan = lab.experiment({ name = "t", arms = { { name = "a" } }, seeds = { 1 }, margin = 0.0125 }):plan {}
  local table_txt = same("report", function()
    local dir = T.folder()
    report.write(runs.gather(plan, {}), dir)
    return sys.read(dir .. "/table.txt"), sys.read(dir .. "/table.tsv"), sys.read(dir .. "/table.json")
  end)
  T.ok(table_txt:find("margin: 0.0125 nats", 1, true), table_txt)
end)

T.test("core.plain: values, errors and the host's locale", function()
  for name in pairs(SIGNS) do
    T.eq(under(name, core.plain(function(...) return ("%g"):format(0.5), tonumber "0,5" == nil, tonumber "0.25", ... end), 1, nil),
      "0.5")
    T.eq(select("#", under(name, core.plain(function(...) return ... end), 1, nil, nil)), 3)
    T.raises(function() under(name, core.plain(function() error(("%g"):format(0.5), 0) end)) end, "^0%.5$")
  end
  T.raises(function() core.plain(1) end, "function expected")
end)
