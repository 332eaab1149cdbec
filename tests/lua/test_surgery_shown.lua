-- What a fork shows of itself: the three parts of a text, the block of s:show against evalset and sums made here, swaps
-- that overflow, and what calibrate and tune take where no data are named.
local T = ...
local core = require "attnlab.core"
local lab = require "attnlab"
local parts = require "attnlab.surgery.parts"
local taps = require "attnlab.nn.taps"
local sys = core.sys

local STORIES = T.root .. "experiments/models/stories260K.bin"
local m = lab.model.load(STORIES):eval()

local path = T.numbers(6000)

local function own_run()
  local text = lab.data.open(path)
  local small = lab.model.new { layers = 2, width = 16, heads = 4, kv_heads = 2, mlp = 24, context = 12, seed = 3,
                                attention = "softmax", vocabulary = text.vocabulary }
  lab.train(small, { data = path, steps = 2, batch_size = 4, warmup_steps = 1, eval_windows = 4, eval_interval = 0,
                     quiet = true })
  return small, text
end

local function windows(set, split, n, context)
  local out = {}
  for x, y in set:even(split, 5, context, n) do
    for b, row in ipairs(x:totable()) do
      local last = y:totable()[b]
      out[#out + 1] = table.concat(row, " ") .. " " .. last[#last]
    end
  end
  return out
end

local function apart(...)
  local seen = {}
  for _, list in ipairs { ... } do
    for _, w in ipairs(list) do
      T.ok(not seen[w], "a window of two parts")
      seen[w] = true
    end
  end
end

-- ---- parts --------------------------------------------------------------------------------------------

T.test("stories260K has 24, 24 and 16 stories, each from the start token, none in two parts", function()
  local p = parts.of(m)
  local show = windows(p.show.dataset, "valid", 24, 256)
  local hidden = windows(p.hidden.dataset, "valid", 24, 256)
  local calibrate = windows(p.calibrate, "train", 16, 256)
  T.eq({ #show, #hidden, #calibrate, p.count.show, p.count.hidden }, { 24, 24, 16, 24, 24 })
  apart(show, hidden, calibrate)
  local stories = {}
  for story in (sys.read(lab.data.path "stories") .. "<|endoftext|>"):gmatch "%s*(.-)%s*<|endoftext|>" do
    stories[#stories + 1] = story
  end
  for i, w in ipairs(show) do
    T.eq(w, table.concat(m.vocabulary:encode(stories[i]):flat(), " ", 1, 257))
    T.ok(w:find "^1 ")
  end
  T.eq(hidden[1], table.concat(m.vocabulary:encode(stories[25]):flat(), " ", 1, 257))
  T.eq(windows(p.calibrate, "valid", 24, 256), show) -- what a training is judged on while it runs
  local loss = p.show(m)
  T.ok(loss > 1.3 and loss < 2.5, loss) -- 1.30 on the text that it was trained on
  local few = windows(p.show.dataset, "valid", 3, 256)
  T.eq({ few[1], few[3] }, { show[1], show[24] })
end)

T.test("a training draws documents, all of them and no others", function()
  local set = parts.of(m).calibrate
  local known, drawn, n = {}, {}, 0
  for _, w in ipairs(windows(set, "train", 16, 256)) do known[w] = true end
  for k = 1, 12 do
    local x, y = set:random("train", 8, 256, 3, k)
    local again = set:random("train", 8, 256, 3, k)
    T.eq(x:flat(), again:flat())
    for b, row in ipairs(x:totable()) do
      local w = table.concat(row, " ") .. " " .. y:totable()[b][256]
      T.ok(known[w], "a document of the part")
      if not drawn[w] then n, drawn[w] = n + 1, true end
    end
  end
  T.eq(n, 16)
  T.raises(function() set:need("train", 300) end, "16 documents of 256 tokens here, at least one of 300 needed")
end)

T.test("a model that was trained here has three parts of its validation split", function()
  local small, text = own_run()
  local p = parts.of(small)
  T.eq({ p.context, p.count.show }, { 12, math.min(24 * 256 // 12, (p.show.dataset.valid.hi - p.show.dataset.valid.lo - 1) // 12) })
  local a, b, c = p.show.dataset.valid, p.hidden.dataset.valid, p.calibrate.train
  T.eq({ a.lo, a.hi, b.hi, c.hi }, { text.valid.lo, b.lo, c.lo, text.valid.hi })
  T.eq({ p.tune.train.lo, p.tune.train.hi, p.tune.valid }, { text.train.lo, text.train.hi, a })
  apart(windows(p.show.dataset, "valid", p.count.show, 12), windows(p.hidden.dataset, "valid", p.count.hidden, 12))
  local other = parts.of(small, path) -- the same text by name is no other text
  T.eq(other.show.dataset.valid, a)
end)

T.test("what a model lacks is said", function()
  local bare = lab.model.new { layers = 1, width = 8, heads = 1, mlp = 8, context = 8, vocab = 9, seed = 1 }
  T.raises(function() parts.of(bare) end, "no vocabulary")
  local text = lab.data.open(path)
  local unknown = lab.model.new { layers = 1, width = 8, heads = 1, mlp = 8, context = 8, vocabulary = text.vocabulary }
  T.raises(function() parts.of(unknown) end, 'says nothing of the text.-data="FILE"')
  T.raises(function() parts.of(unknown, "stories") end, "vocabulary of stories260K alone")
  T.raises(function() unknown:fork().layer[1]:set { output_norm = "l2" }.session:calibrate() end, "says nothing of the text")
  local s = unknown:fork()
  s.layer[1]:set { output_norm = "l2" }
  local shown = tostring(s:show())
  T.ok(shown:find "not measured: the model says nothing" and shown:find "{l2%[}" and shown:find "\n  state ", shown)
  T.raises(function() s:show { data = "/nowhere.txt" } end, "no such file")
  T.ok(s:show { data = path, windows = 4 }.mean)
  local p = parts.of(unknown, path)
  T.eq({ p.show.dataset.valid.lo, p.calibrate.train.hi }, { 0, text.tokens:numel() })
  local short = T.folder() .. "/short.txt"
  sys.write(short, (sys.read(path):sub(1, 60)))
  T.raises(function() parts.of(unknown, short) end, "60 tokens are too few for three parts")
  local trained = own_run()
  trained.trained_on.sha256 = ("0"):rep(64)
  T.raises(function() parts.of(trained) end, "is another one than that of this name")
  trained.trained_on.name = "/nowhere/text.txt"
  T.raises(function() parts.of(trained) end, "is not here")
end)

T.test("what a model writes itself is a text by name, and says what it cannot show", function()
  local s = m:fork()
  s.layer[1]:set { output_norm = "l2" }
  local shown = s:show { data = "own", windows = 4 }
  T.ok(tostring(shown):gsub("%s+", " "):find("no change can look better on them in expectation", 1, true), tostring(shown))
  T.near(shown.mean, shown.kl, 4 * shown.se) -- the loss difference estimates it
  T.ok(s:parts().own)
  T.ok(not tostring(s:show { data = "stories", windows = 4 }):find "expectation")
end)

-- ---- the block ----------------------------------------------------------------------------------------

T.test("the block measures what evalset does, on the part that is shown", function()
  local s = m:fork()
  T.eq(tostring(s:show()), "the original: no changes")
  s.layer["*"]:set { denominator = "none", output_norm = "l2" }
  local shown, ev = s:show(), parts.of(m).show
  local d = ev:diff(s, m)
  for _, k in ipairs { "mean", "se", "lo", "hi", "kl", "kl_se", "n" } do T.eq(shown[k], d[k]) end
  T.eq({ shown.bad, shown.tokens, shown.n, shown.look }, { 0, 6144, 24, 1 })
  T.ok(shown.lo > 0 and shown.kl > 0)
  T.eq(s:swaps()[1].difference, { mean = d.mean, lo = d.lo, hi = d.hi, kl = d.kl })
  -- rounding: the composed form of the same fork
  local twin, few, sum = s:fork(), lab.evalset { data = ev.dataset, windows = 8, context = 256 }, 0
  twin.layer["*"]:set { impl = "composed" }
  local a, b = few:losses(twin), few:losses(s)
  for i = 1, 8 do sum = sum + math.abs(a[i] - b[i]) / 8 end
  T.near(shown.rounding.mean, sum, 1e-12)
  T.eq(shown.rounding.form, "composed")
  T.ok(shown.rounding.mean > 0 and shown.rounding.mean < 1e-5)
  T.eq({ shown.state_bytes, shown.original_bytes }, { s:state_bytes(256), m:state_bytes(256) })
  T.eq(shown.text, (s:generate { tokens = 80 }))
  T.eq(shown.original_text, (m:generate { tokens = 80 }))
  local how = { prompt = "Lily", tokens = 12, temperature = 1, top_p = 0.9, seed = 3, stop = "." }
  local sampled = s:show { windows = 2, write = how }
  T.eq({ sampled.text, sampled.original_text }, { (s:generate(how)), (m:generate(how)) })
  T.eq(s:show({ windows = 2 }).original_text, shown.original_text)
  T.raises(function() s:show { write = { top_p = 2 } } end, "option 'top_p'")
  T.raises(function() s:show { write = { samples = 2 } } end, "one text is shown")
  T.raises(function() s:show { write = 3 } end, "a table of options of generate expected, got number")
  local text = tostring(shown)
  T.ok(text:find("layers 1-5: denominator=none output_norm=l2", 1, true), text)
  T.ok(text:find("{/ (sum_j exp(s))}", 1, true) and text:find("{l2[} (sum_j exp(s) v_j) {]}", 1, true), text)
  T.ok(text:find(("%+.4f [%.4f, %.4f]"):format(d.mean, d.lo, d.hi), 1, true), text)
  T.ok(text:gsub("%s+", " "):find("95 % over 24 short stories written for the project, 256 tokens each, for this one "
    .. "model; look number 1", 1, true), text)
end)

T.test("looks at a state are counted once, over all forks of a model", function()
  local fresh = lab.model.load(STORIES)
  local s = fresh:fork()
  s.layer[1]:set { output_norm = "l2" }
  T.eq({ s:show { windows = 2 }.look, s:show { windows = 2 }.look }, { 1, 1 })
  s.layer[2]:set { output_norm = "l2" }
  T.eq(s:show { windows = 2 }.look, 2)
  s:undo()
  T.eq(s:show { windows = 2 }.look, 1)
  s:redo()
  T.eq(s:show { windows = 2 }.look, 2)
  local f = s:fork()
  f.layer[3]:set { output_norm = "l2" }
  T.eq(f:show { windows = 2 }.look, 3)
  local other = fresh:fork()
  other.layer[3]:set { output_norm = "l2" }
  T.eq(other:show { windows = 2 }.look, 4)
end)

T.test("windows: more or fewer documents, as many as there are", function()
  local s = m:fork()
  s.layer[1]:set { output_norm = "l2" }
  T.eq({ s:show { windows = 5 }.n, s:show { windows = 500 }.n }, { 5, 24 })
  T.raises(function() s:show { windows = 1 } end, "whole number >= 2")
  T.raises(function() s:show { window = 3 } end, "unknown option 'window' %(did you mean 'windows'")
end)

T.test("a swap that overflows is an answer", function()
  local s = m:fork()
  s.layer["*"]:set { denominator = "none" }
  local shown, bad, worst = s:show(), 0, nil
  -- by hand: tokens whose loss is no number, and the first attention whose output is none
  for x, y in parts.of(m).show.dataset:even("valid", 4, 256, 24) do
    for _, v in ipairs(s:forward(x):cross_entropy(y, { reduction = "none" }):flat()) do
      if not (math.abs(v) < math.huge) then bad = bad + 1 end
    end
    s:hidden(x, { taps = taps.inputs(#s.layers, function(i, _, _, _, input)
      for _, v in ipairs(s.layers[i].attention:outputs(input, {}):flat()) do
        if not (math.abs(v) < math.huge) and (not worst or i < worst.layer) then worst = { layer = i } end
      end
    end) })
  end
  T.ok(bad > 0 and worst)
  T.eq({ shown.bad, shown.tokens, shown.overflow.layer, shown.overflow.what }, { bad, 6144, worst.layer, "attention" })
  T.ok(shown.overflow.logit > 80 and shown.overflow.logit < 300, shown.overflow.logit) -- exp(88.7) is f32's largest
  T.eq(shown.rounding, nil)
  local text = tostring(shown)
  T.ok(text:find "overflow  %d+%.%d %% of 6144 tokens have a loss that is not finite" and text:find "logit_clamp=5"
    and text:find(("its largest logit:%%s+%.1f"):format(shown.overflow.logit)), text)
  local numbers = text:match "^(.-)\n  writes"
  T.ok(not numbers:find "nan" and not numbers:find "inf", text)
  T.ok(tostring(s:swaps()):find "tokens not finite")
  s.layer["*"]:set { logit_clamp = 5 }
  T.eq(s:show().bad, 0) -- the hint holds
  s:undo(2)
  s.layer[1]:set { logit_scale = 1e30, denominator = "none" } -- nothing is finite from the second token on
  shown = s:show { windows = 2 }
  T.ok(shown.broken and tostring(shown):find "<not finite>", tostring(shown))
  T.eq(shown.overflow.layer, 1)
end)

T.test("models of other types are shown, calibrated and swept", function()
  local found = {}
  for _, dtype in ipairs { "f32", "f64", "bf16" } do
    local s = lab.model.load(STORIES, { dtype = dtype }):fork()
    s.layer["*"]:set { output_norm = "l2" }
    s:calibrate()
    local shown = s:show { windows = 4 }
    T.ok(tostring(shown):find "\n  loss " and shown.bad == 0, tostring(shown))
    found[dtype] = { shown.mean, s:sweep { over = "layer", layer = 2, denominator = "length", calibrate = true }.cells[1].mean }
  end
  T.near(found.f64, found.f32, 1e-5)
  T.near(found.bf16, found.f32, 0.02)
end)

T.test("a family of its own shows another formula, without marks", function()
  local s = m:fork()
  s.layer[2]:set { preset = "delta/deltanet" }
  local text = table.concat(s:show { windows = 2 }:lines { width = 100, colour = true }, "\n")
  T.ok(text:find("S_t = S_(t-1) (I - b_t k_t k_t^T)", 1, true) and not text:find("\27", 1, true), text)
  s:undo()
  s.layer[2]:set { preset = "window/mistral" }
  text = table.concat(s:show { windows = 2 }:lines { width = 100 }, "\n")
  T.ok(text:find("[over the last 4096 visible j]", 1, true) and text:find("writes    both", 1, true), text)
  s:undo()
  s.layer["*"]:set { preset = "p3/2mamba" }
  T.ok(table.concat(s:show { windows = 2 }:lines { width = 100 }, "\n"):find("[^2]", 1, true))
end)

T.test("the block fits 80 and 120 columns, brackets and inverse video say the same", function()
  local s = m:fork()
  s.layer["*"]:set { denominator = { stat = "sum", power = 0.5 }, output_gate = "sigmoid", output_norm = "l2" }
  s.layer[2].head[3]:set { similarity = "taylor", order = 4 }
  s.layer[1]:set { conv = 4 }
  local shown = s:show { windows = 2 }
  for _, width in ipairs { 80, 120 } do
    local plain, colour = shown:lines { width = width }, shown:lines { width = width, colour = true }
    for _, line in ipairs(plain) do T.ok(utf8.len(line) <= width, line) end
    for _, line in ipairs(colour) do
      T.ok(utf8.len((line:gsub("\27%[%d+m", ""))) <= width, line)
    end
    local function bare(lines) return (table.concat(lines, " "):gsub("\27%[%d+m", ""):gsub("[%[%]{}%s]", "")) end
    T.eq(bare(colour), bare(plain))
    T.ok(table.concat(colour):find("conv=\27[7m4\27[0m", 1, true))
  end
end)

-- ---- defaults of calibrate and tune -----------------------------------------------------------------------

T.test("calibrate and tune take the part that is theirs", function()
  local s, named = m:fork(), m:fork()
  for _, f in ipairs { s, named } do f.layer["*"]:set { output_norm = "l2" } end
  s:calibrate()
  named:calibrate { data = parts.of(m).calibrate, context = 256, batches = 2, batch = 8 }
  for i = 1, 5 do
    T.eq(s.layers[i].attention["attnlab.calibration"]:flat(), named.layers[i].attention["attnlab.calibration"]:flat())
  end
  local raw, healed = s.log[1], s:show()
  T.ok(not raw.difference and healed.mean < 0.1, healed.mean)
  local r = s:tune { steps = 3, batch_size = 4, eval_interval = 0, quiet = true }
  T.eq(r.trainer.data.sha256, parts.of(m).tune.sha256)
  T.eq(r.trainer:tokens(), 3 * 4 * 256) -- a document is shorter than the model's context
  T.near(r:curve "valid/loss"[1][2], (parts.of(m).show(s)), 1e-6)
  T.eq(s.original.trained_on, nil)
  s:undo(3)
  T.eq(tostring(s:show()), "the original: no changes")
end)

T.test("a calibration that is refused or stopped leaves all as it was", function()
  local s = m:fork()
  s.layer["*"]:set { denominator = "none" }
  s.layer[3]:set { logit_scale = 1e30 }
  s.layer[1]:set { output_norm = "l2" }
  s:undo()
  local x = core.tensor { data = { { 1, 403, 407, 261 } }, dtype = "i32" }
  local was = s:forward(x):flat()
  T.raises(function() s:calibrate() end, "layer 3 head %d: its output is not finite")
  local outputs = s.layers[2].attention.outputs
  s.layers[2].attention.outputs = function() error("interrupted", 0) end
  T.raises(function() s:calibrate() end, "interrupted")
  s.layers[2].attention.outputs = nil
  T.eq(s.layers[2].attention.outputs, outputs)
  T.eq(s:forward(x):flat(), was)
  T.eq({ #s:swaps(), s.training, s.original.training }, { 2, m.training, false })
  s:redo()
  T.eq(#s:swaps(), 3)
end)

-- ---- time ---------------------------------------------------------------------------------------------

T.test("a block costs a few passes of the fork over its documents", function()
  local s = m:fork()
  s.layer["*"]:set { output_norm = "l2" }
  s:show() -- what the original gives is kept
  s.layer[1]:set { output_norm = "rms" }
  local ev, best, pass = parts.of(m).show, math.huge, math.huge
  for _ = 1, 5 do -- of processor time, which others on the machine do not move
    local began = os.clock()
    ev(s)
    pass = math.min(pass, os.clock() - began)
    began = os.clock()
    s:show()
    best = math.min(best, os.clock() - began)
  end
  T.ok(best < 8 * pass, ("%.3f s, a pass %.3f s"):format(best, pass))
end)
