-- What experiments measure of trained models beside the loss: declared, taken, shown and judged; the
-- measure "series" against loops written out here.
local T = ...
local core = require "attnlab.core"
local lab = require "attnlab"
local measures = require "attnlab.measures"
local series = measures.series
local taps = require "attnlab.nn.taps"
local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)
local json, sys = core.json, core.sys

local CONFIG = { model = { layers = 2, width = 12, heads = 2, kv_heads = 1, mlp = 8, context = 10 }, train = { dtype = "f64" } }

local function model(attention)
  local text = lab.data.open "shakespeare"
  local m = { layers = 2, width = 12, heads = 2, kv_heads = 1, mlp = 8, context = 10, vocab = 65, seed = 4, dtype = "f64",
              attention = attention, vocabulary = text.vocabulary }
  return lab.model.new(m), text
end

-- Errors of the outputs of all layers over the measure's windows, from the formula; rows with |s| > 8 left out.
local function by_hand(m, text, p, alone)
  local off, norm, rows, kept, negative, pairs_ = 0, 0, 0, 0, 0, 0
  local fact = 1
  for i = 2, p do fact = fact * i end
  lab.no_grad(function()
    for ids in text:even("valid", 4, 10, text:windows("valid", 10, 8)) do
      m:hidden(ids, { taps = taps.inputs(2, function(_, q, k, v)
        local Q, K, V = q:totable(), k:totable(), v:totable()
        for b = 1, #Q do
          for h = 1, 2 do
            for i = 1, 10 do
              local want, got, W, Wp, largest = {}, {}, 0, 0, 0
              for j = 1, i do
                local s = 0
                for d = 1, 6 do s = s + Q[b][i][h][d] * K[b][j][1][d] / math.sqrt(6) end
                local w, term = 1, 1
                for n = 1, p do
                  term = term * s / n
                  w = w + term
                end
                if w < 0 then negative = negative + 1 end
                pairs_ = pairs_ + 1
                if alone then w = s ^ p / fact end
                W, Wp, largest = W + math.exp(s), Wp + (alone and math.abs(w) or w), math.max(largest, math.abs(s))
                for d = 1, 6 do
                  want[d] = (want[d] or 0) + math.exp(s) * V[b][j][1][d]
                  got[d] = (got[d] or 0) + w * V[b][j][1][d]
                end
              end
              rows = rows + 1
              if largest <= 8 then
                kept = kept + 1
                for d = 1, 6 do
                  off, norm = off + (got[d] / Wp - want[d] / W) ^ 2, norm + (want[d] / W) ^ 2
                end
              end
            end
          end
        end
      end) })
    end
  end)
  return math.sqrt(off / norm), 1 - kept / rows, negative / pairs_
end

T.test("series: errors, rows left out and negative weights, written out", function()
  local m, text = model "softmax"
  for _, by in ipairs { 1, 6 } do -- the second makes logits beyond 8
    for _, block in ipairs(m.layers) do
      local w = block.attention.q_proj.weight
      lab.no_grad(function() w:copy_(w * (by * 3)) end)
    end
    local cfg = lab.config.resolve(CONFIG)
    local r = series.measure(m, cfg)
    for _, p in ipairs { 1, 2, 5 } do
      local sum, out, negative = by_hand(m, text, p, false)
      T.near(r.sum[p] / sum, 1, 1e-6)
      T.near(r.left_out, out, 1e-12)
      T.near(r.negative[p], negative, 1e-12)
      T.near(r.alone[p] / by_hand(m, text, p, true), 1, 1e-6)
    end
    T.eq({ r.largest > 8, r.left_out > 0 }, { by == 6, by == 6 })
  end
  T.ok(m.training)
end)

T.test("series: arms that it does not fit", function()
  for _, attention in ipairs { "p1/linear_elu", { similarity = "taylor", order = 2 }, { logit_scale = 1 },
                               { "softmax", "p2/cottention" } } do
    T.eq(series.measure((model(attention)), lab.config.resolve(CONFIG)), nil)
  end
  T.ok(series.measure((model "p1/gated_softmax"), lab.config.resolve(CONFIG)).sum[10] < 1)
end)

T.test("series: what it shows", function()
  local function record(sum, alone, negative)
    local r = { sum = {}, alone = {}, negative = {}, n = 1, largest = 3, left_out = 0 }
    for p = 1, 10 do
      for kind, f in pairs { sum = sum, alone = alone, negative = negative } do
        r[kind][p] = { mean = f(p), low = f(p), high = f(p) }
      end
    end
    return r
  end
  local good = record(function(p) return 10.0 ^ -p end, function() return 0.5 end, function(p) return p % 2 * 0.01 end)
  local bad = record(function(p) return p == 6 and 1 or 10.0 ^ -p end, function(p) return 10.0 ^ -p / 2 end, function() return 0.01 end)
  for name, f in pairs(series.expect) do
    T.eq(f(good), true)
    T.eq(f(bad), false)
    T.ok(#select(2, f(good)) > 0, name)
  end
  good.left_out = 0.53
  T.ok(series.text("softmax", good):find "arm 'softmax'.*0 = exact, over the 47 %% of the rows with no |s| > 8.*up to order p")
  T.ok(select(2, series.expect.alone_worse(good)):find "^at even p" and select(2, series.expect.falls(good)):find "^over even orders")
  local curves = {}
  for i, c in ipairs(series.panel({ { arm = "a", record = good } }).curves) do curves[i] = { c.name, #c.points, c.points[1][1], c.points[2][1] } end
  T.eq(curves, { { "up to p, even", 5, 2, 4 }, { "up to p, odd", 5, 1, 3 }, { "p alone", 10, 1, 2 } })
end)

T.test("row sums: gathered over what is a list of numbers, shown, a panel", function()
  local m = measures.log10_row_sum
  T.eq(m.gather { { 0, 1, 2 }, 7, { 1, "x" }, { 2, 3, 4 } }, { 1, 2, 3 })
  T.eq(m.gather { 7, { "x" } }, nil)
  T.eq(m.text("a", { 0, 1, 2, 3.001, 4 }), "Row sums of the trained arm 'a', mean of log10 by position:\n  1: 0.00  2: 1.00  4: 3.00")
  local curve = m.panel({ { arm = "a", record = { 0, 2 } } }).curves[1]
  T.eq({ curve.name, curve.points }, { "a", { { 1, 1.0 }, { 2, 100.0 } } })
end)

T.test("row sums are taken unasked, and once where they are asked for", function()
  T.eq(measures(), { "log10_row_sum" })
  T.eq(measures { "series" }, { "log10_row_sum", "series" })
  T.eq(measures { "series", "log10_row_sum" }, { "log10_row_sum", "series" })
end)

T.test("what an experiment refuses", function()
  local function refuses(pattern, more)
    local e = { name = "x", seeds = { 1 }, arms = { { name = "a" } } }
    for k, v in pairs(more) do e[k] = v end
    T.raises(function() lab.experiment(e) end, pattern)
  end
  refuses("measure: unknown measure 'serie' %(did you mean 'series'", { measure = { "serie" } })
  refuses("expect: entry 1: unknown measure 'series'", { expect = { { arm = "a", measure = "series", shows = "falls" } } })
  refuses("shows: unknown word 'fall' %(did you mean 'falls'",
    { measure = { "series" }, expect = { { arm = "a", measure = "series", shows = "fall" } } })
  refuses("arm 'a': at: {name of a line, number} expected", { arms = { { name = "a", at = 3 } } })
  refuses("plot: unknown key 'bye' %(did you mean 'by'", { plot = { bye = "x" } })
  for name, m in pairs(measures) do
    T.ok(m.measure and m.gather and m.text and m.panel and m.expect, name)
  end
end)

T.test("an experiment measures, shows, judges; the measure is part of a run's identity", function()
  local arms = [[{ name = "one", at = { "p alone", 1 }, attention = { similarity = "taylor", order = 1 } },
                 { name = "two", at = { "p alone", 2 }, attention = { similarity = "taylor", order = 2 } }]]
  local more = [[measure = { "series" }, plot = { by = "order" },
    expect = { { arm = "softmax", measure = "series", shows = "even_positive" }, { arm = "one", measure = "series", shows = "falls" } }]]
  local path, root = tiny.experiment(arms, more)
  local status, text = tiny.run { "run", path, "out_dir=" .. root, "--seeds", "1" }
  T.ok(status == 0 and text:find "held +softmax, series: even positive" and text:find "not shown +one, series: falls: not measured", text)
  T.ok(text:find "up to order p" and text:find "by.png", text)
  T.ok(text:find "softmax [^\n]*iB %(grows%) " and not text:find "one [^\n]*%(grows%)", text)
  T.ok(text:find "data: shakespeare, 1115394 tokens, vocabulary 65; guessing costs ln 65 = 4.174 nats per token", text)
  local record = json.decode(sys.read(root .. "/tiny+seeds=1/table.json")).arms[1].measured
  T.eq({ #record.log10_row_sum, record.log10_row_sum[1] < 3, #record.series.sum }, { 16, true, 10 })
  local by, known = sys.read(root .. "/tiny+seeds=1/by.gp"), {}
  for style, name in by:gmatch "set arrow %d+ [^\n]* (lc rgb '%S+') [^\n]*\nset label %d+ '([^\n]-)' at" do known[name] = style end
  T.ok(by:find("$p1c1 using 1:2 with lines " .. known["p alone"], 1, true) and by:find("$p2c3 using 1:2 with lines " .. known["p alone"], 1, true),
    "a line of one name has one colour in all panels")
  T.ok(known["up to p, odd"] and known["up to p, odd"] ~= known["up to p, even"] and known["up to p, even"] ~= known["p alone"], by)
  for _, name in ipairs { "by.png", "by.svg", "figure.png" } do T.ok(sys.exists(root .. "/tiny+seeds=1/" .. name) == "file", name) end
  local t = json.decode(sys.read(root .. "/tiny+seeds=1/table.json"))
  T.ok(t.arms[1].measured.series.sum[10].mean < t.arms[1].measured.series.sum[2].mean)
  T.eq(t.arms[2].measured, nil)
  local n = #tiny.run_dirs(root)
  sys.write(path, (sys.read(path):gsub('measure = { "series" },', ""):gsub("expect = %b{}", "")))
  status, text = tiny.run { "run", path, "out_dir=" .. root, "--seeds", "1" }
  T.ok(status == 0 and not text:find "up to order p", text)
  T.eq(#tiny.run_dirs(root), 2 * n)
end)

T.test("the orders of the series, tiny", function()
  local root = T.folder()
  local status, text = tiny.run { "run", T.root .. "experiments/taylor_orders.lua", "--quick", "out_dir=" .. root, "steps=2",
    "warmup_steps=1", "context=8", "width=8", "mlp=8", "batch_size=2", "eval_windows=2", "layers=1" }
  T.ok(status == 0 and text:find "up to 10 " and text:find "only 10 " and text:find "by.png", text)
  T.eq(#json.decode(sys.read(text:match "table   (%S+)/table.txt" .. "/table.json")).arms, 21)
end)
