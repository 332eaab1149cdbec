-- Sweeps of a fork: every cell against a fork made by hand, the judgement over all cells, what stays as it was, and the
-- map as text and as a figure.
local T = ...
local core = require "attnlab.core"
local lab = require "attnlab"
local stats = require "attnlab.stats"
local surgery = require "attnlab.surgery"
local sys = core.sys

local path = T.numbers(6000)
local text = lab.data.open(path)
local m = lab.model.new { layers = 3, width = 16, heads = 4, kv_heads = 2, mlp = 24, context = 32, seed = 3,
                          attention = "softmax", vocabulary = text.vocabulary }
lab.train(m, { data = path, steps = 60, batch_size = 8, warmup_steps = 5, eval_windows = 4, eval_interval = 0,
               lr = 3e-3, quiet = true })
m:eval()

local IDS = core.tensor { data = { { 1, 2, 3, 4, 5, 6, 7, 8 } }, dtype = "i32" }
local function logits(f) return f:forward(IDS):flat() end

-- A cell again: the change alone in the original.
local function by_hand(cell, calibrated)
  local f = m:fork()
  for _, i in ipairs(cell.layer) do
    local at = cell.head and f.layer[i].head[cell.head] or f.layer[i]
    at:set(cell.options)
  end
  if calibrated then f:calibrate { layer = cell.layer } end
  return f:parts().show:diff(f, m), f
end

local function agree(sweep, calibrated)
  for _, c in ipairs(sweep.cells) do
    local d = by_hand(c, calibrated)
    T.eq({ c.n, c.bad, c.tokens }, { d.n, d.bad, d.tokens })
    T.near(c.values, d.values, 2e-6)
    T.near({ c.mean, c.kl }, { d.mean, d.kl }, 1e-6)
  end
end

T.test("each head alone, raw and calibrated, is what a fork with that change is", function()
  local s = m:fork()
  local raw = s:sweep { over = "head", denominator = "none" }
  T.eq({ #raw.cells, #raw.rows, #raw.columns, raw.cells[6].layer[1], raw.cells[6].head }, { 12, 3, 4, 2, 2 })
  agree(raw)
  local calibrated = s:sweep { over = "head", layer = { 2, 3 }, denominator = "none", calibrate = true }
  T.eq(#calibrated.cells, 8)
  agree(calibrated, true)
end)

T.test("each layer alone, values in all layers at once, in one, and in each", function()
  local s = m:fork()
  agree(s:sweep { over = "layer", denominator = "length", output_norm = "l2" })
  agree(s:sweep { over = "layer", denominator = "length", calibrate = true }, true)
  local all = s:sweep { over = { denominator = { "sum", "length", "none" }, output_norm = { "l2", { kind = "rms" } } } }
  T.eq({ #all.cells, all.rows[1], all.rows[6] },
    { 6, "denominator=sum output_norm=l2", "denominator=none output_norm.kind=rms" })
  agree(all)
  agree(s:sweep { over = { denominator = { "length" } }, layer = 2, output_norm = "l2" })
  local each = s:sweep { over = { denominator = { "sum", "length" } }, layer = "each", calibrate = true }
  T.eq({ #each.cells, #each.rows, #each.columns }, { 6, 2, 3 })
  agree(each, true)
  T.eq(each.cells[1].mean, 0.0) -- sum is the original's
end)

T.test("judged over all cells by Holm's step-down", function()
  local s = m:fork()
  local sweep = s:sweep { over = "head", denominator = "none" }
  local p, zeros = {}, {}
  for i, c in ipairs(sweep.cells) do
    for k = 1, c.n do zeros[k] = 0.0 end
    local seeds = {}
    for k = 1, c.n do seeds[k] = k end
    p[i] = stats.paired(c.values, zeros, seeds).p
  end
  local adjusted, _, rejected = stats.holm(p, 0.05)
  local marked = 0
  for i, c in ipairs(sweep.cells) do
    T.near(c.p_holm, adjusted[i], 1e-12)
    T.eq(c.shown == "worse" or c.shown == "better", rejected[i])
    T.eq(c.lo > 0 or c.hi < 0, rejected[i])
    marked = marked + (rejected[i] and 1 or 0)
  end
  T.ok(marked > 0)
  local stars = select(2, table.concat(sweep:lines { width = 80 }, "\n"):gsub("[%+-]%d%.%d%d%d%*", ""))
  T.eq(stars, marked)
end)

T.test("the fork stays as it is; the sweep is one entry, undone and done again without a change", function()
  local s = m:fork()
  s.layer[1]:set { output_norm = "l2" }
  s:show()
  local was, listed = logits(s), s:swaps()[1]
  surgery.changed()
  local looks = s.log[1].look
  local sweep = s:sweep { over = "layer", denominator = "length" }
  T.eq(logits(s), was)
  T.eq(#surgery.changed(), 0)
  T.eq({ s:swaps()[2].kind, s:swaps()[2].change }, { "sweep", "each layer alone: denominator=length" })
  T.eq(sweep.looks, { looks + 1, looks + 3 })
  T.eq(s:show().look, looks) -- of the state, which is the one before
  s.layer[2]:set { output_norm = "rms" }
  s:undo()
  s:undo()
  T.eq({ #s:swaps(), logits(s) }, { 1, was })
  T.eq(s:swaps()[1].difference, listed.difference)
  s:redo(2)
  T.eq({ #s:swaps(), s:swaps()[2].kind, s:swaps()[3].change }, { 3, "sweep", "output_norm=rms" })
  s:undo(3)
  T.eq(tostring(s:show()), "the original: no changes")
  agree(s:sweep { over = "layer", denominator = "length" }) -- of the original, whatever was done
end)

T.test("a cell that leaves the range is hatched and out of the judgement", function()
  local s = m:fork()
  local sweep = s:sweep { over = { logit_scale = { 0.3, 1e38 } }, layer = "each", denominator = "none" }
  for i, c in ipairs(sweep.cells) do
    T.eq(c.bad > 0, i > 3)
    T.eq(c.p_holm == nil, i > 3)
  end
  T.eq(sweep.tested, 3)
  local shown = tostring(sweep)
  T.eq(select(2, shown:gsub("//////", "")), 3)
  T.ok(shown:find "/: 3 are not finite: logit_clamp=5" and not shown:find "nan", shown)
  sweep = s:sweep { over = "layer", layer = 2, logit_scale = 1e38, denominator = "none", calibrate = true }
  T.ok(sweep.cells[1].failed:find "layer 2 head %d: its output is not finite", sweep.cells[1].failed)
  T.ok(tostring(sweep):find "//////")
  T.raises(function() sweep:plot(T.folder() .. "/a.png") end, "no cell is finite")
end)

T.test("what is refused or interrupted leaves the fork and its list as they were", function()
  local s = m:fork()
  s.layer[1]:set { output_norm = "l2" }
  s.layer[2]:set { output_norm = "l2" }
  s:undo()
  local was = logits(s)
  for _, case in ipairs {
    { {}, "over: \"head\", \"layer\" or lists of values by option expected, got nil" },
    { { over = "heads", denominator = "none" }, "got heads" },
    { { over = "head" }, "options of the attention expected beside over" },
    { { over = "head", denominatr = "none" }, "unknown option 'denominatr' %(did you mean 'denominator'" },
    { { over = "head", rope = "none" }, "the layer's" },
    { { over = { denominator = "none" } }, "a list of values expected" },
    { { over = { denominator = { "none", "nonsense" } } }, "nonsense" },
    { { over = "head", layer = 9, denominator = "none" }, "layer: a number in 1%.%.3" },
    { { over = "head", layer = "each", denominator = "none" }, "goes with lists of values" },
    { { over = "head", layer = {}, denominator = "none" }, "an empty list" },
    { { over = "layer", layer = { 1, 2, 1 }, denominator = "none" }, "layer: 1 is there twice" },
    { { over = { denominator = { "sum", "none", "sum" } } }, "over: denominator: sum is there twice" },
    { { over = { denominator = { { stat = "sum", power = 0.5 }, { power = 0.5, stat = "sum" } } } }, "is there twice" },
    { { over = "layer", denominator = "none", calibrate = 1 }, "'calibrate': boolean expected, got number" },
    { { over = "head", denominator = "none", on_cell = function() error("interrupted", 0) end }, "interrupted$" } } do
    T.raises(function() s:sweep(case[1]) end, case[2])
    T.eq({ logits(s), #s:swaps(), s.training, m.training }, { was, 1, false, false })
  end
  s:redo() -- nor was anything entered
  local seen = {}
  s:sweep { over = "layer", output_norm = "l2", on_cell = function(sweep, cell)
    seen[#seen + 1] = #sweep.cells .. ":" .. cell.row
    T.ok(table.concat(sweep:lines { bare = true, width = 80 }, "\n"):find(("%d of 3"):format(#sweep.cells)))
  end }
  T.eq(seen, { "1:1", "2:2", "3:3" })
end)

T.test("the map fits the terminal, 40 columns and 120", function()
  local s = m:fork()
  local sweep = s:sweep { over = "head", denominator = "none", calibrate = true }
  for _, width in ipairs { 40, 80, 120 } do
    for _, line in ipairs(sweep:lines { width = width }) do T.ok(utf8.len(line) < width, line) end
  end
  T.ok(tostring(sweep):find "for this one model", tostring(sweep))
  T.ok(table.concat(sweep:lines { width = 40 }, "\n"):find "layer 3 [^\n]+\n", 1)
end)

T.drawn("the map as a figure", function()
  local sweep, dir = m:fork():sweep { over = "head", denominator = "none", calibrate = true }, T.folder()
  T.eq(sweep:plot(dir .. "/heads.png").svg, dir .. "/heads.svg")
  T.ok(sys.read(dir .. "/heads.png"):find "^\x89PNG" and sys.read(dir .. "/heads.svg"):find "head</", 1)
  T.raises(function() sweep:plot "heads" end, "ends with %.png or %.svg expected, got heads")
  T.raises(function() sweep:plot() end, "got nil")
end)

T.test("what precedes a layer is not computed again", function()
  local s = m:fork()
  local function tensors(f)
    local before = core.memory().n_alloc
    f()
    return core.memory().n_alloc - before
  end
  local sweep = tensors(function() s:sweep { over = "head", layer = 3, denominator = "none", calibrate = true } end)
  local hand = tensors(function()
    for h = 1, 4 do by_hand({ layer = { 3 }, head = h, options = { denominator = "none" } }, true) end
  end)
  T.ok(sweep < 0.8 * hand, ("%d tensors, by hand %d"):format(sweep, hand))
end)
