-- BERT: what a token sees, its losses and their gradients, what it learns from, what it refuses.
local T = ...
local core = require "attnlab.core"
local lab = require "attnlab"
local masking = require "attnlab.model.masking"
local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)

local function small(more)
  local o = { arch = "bert", layers = 2, width = 16, heads = 2, mlp = 24, context = 12, vocab = 11, seed = 3, dtype = "f64",
              init_deviation = 0.3 }
  for k, v in pairs(more or {}) do o[k] = v end
  return lab.model.new(o)
end

local function i32(data, shape) return core.tensor { data = data, shape = shape, dtype = "i32" } end

local IDS = { { 1, 2, 3, 4, 5, 6, 7 }, { 8, 9, 10, 1, 2, 0, 0 } }
local TYPES = { { 0, 0, 0, 1, 1, 1, 1 }, { 0, 0, 1, 1, 1, 0, 0 } }
local LENGTHS = { 7, 5 }
local VARIANTS = { "softmax", "p2/cottention", { "p2/cottention_row", "p3/squared" } }

T.test("every token sees the whole text, up to its length, and nothing behind it", function()
  for _, spec in ipairs(VARIANTS) do
    local m = small { attention = spec }
    lab.no_grad(function()
      local h = m:hidden(IDS, { lengths = LENGTHS, token_types = TYPES })
      local alone = m:hidden({ { 8, 9, 10, 1, 2 } }, { token_types = { { 0, 0, 1, 1, 1 } } })
      T.near(h[{ 2, { 1, 5 } }], alone[1], 1e-12)
      local other = m:hidden({ { 8, 9, 10, 1, 3 } }, { token_types = { { 0, 0, 1, 1, 1 } } })
      T.ok((other - alone)[{ 1, 1 }]:abs():max():item() > 1e-3, "the first sees the last")
      local first = m:hidden({ { 8, 9, 10, 1, 3 } }, { token_types = { { 0, 0, 1, 1, 1 } }, causal = true })
      local before = m:hidden({ { 8, 9, 10, 1, 2 } }, { token_types = { { 0, 0, 1, 1, 1 } }, causal = true })
      T.near(first[{ 1, { 1, 4 } }], before[{ 1, { 1, 4 } }], 0)
      T.near(m:hidden { { 8, 9 } }, m:hidden({ { 8, 9 } }, { token_types = { { 0, 0 } } }), 0)
      T.ok((m:hidden { { 8, 9 } } - m:hidden({ { 8, 9 } }, { token_types = { { 0, 1 } } })):abs():max():item() > 1e-3)
    end)
  end
end)

T.test("cosine attention is s^-sigmoid(m) N(Q) N(K)^T V over the tokens that are there", function()
  local m = small { attention = "p2/cottention" }
  T.eq(m.layers[1].attention.layer.rope, "none")
  local seen = {}
  local function keep(name) return function(t) seen[name] = t:detach():clone() end end
  lab.no_grad(function()
    m:hidden(IDS, { lengths = LENGTHS, taps = { { q = keep "q", k = keep "k", v = keep "v", heads = keep "heads" } } })
  end)
  local power = m.layers[1].attention.family:parameters()["denominator.power"]:flat()
  local q, k, v, o = seen.q:totable(), seen.k:totable(), seen.v:totable(), seen.heads:totable()
  local function cosine(a, b)
    local ab, aa, bb = 0, 0, 0
    for d = 1, #a do ab, aa, bb = ab + a[d] * b[d], aa + a[d] ^ 2, bb + b[d] ^ 2 end
    return ab / math.sqrt(aa * bb)
  end
  for b, n in ipairs(LENGTHS) do
    for h = 1, 2 do
      local scale = n ^ -(1 / (1 + math.exp(-power[h])))
      for i = 1, n do
        local want = {}
        for e = 1, 8 do
          want[e] = 0
          for j = 1, n do want[e] = want[e] + scale * cosine(q[b][i][h], k[b][j][h]) * v[b][j][h][e] end
        end
        T.near(o[b][i][h], want, 1e-9)
      end
    end
  end
end)

-- Central differences of f64: h^2 = 1e-10 times a third derivative, and rounding 1e-16 / h.
local function check_gradient(m, loss)
  m:zero_grad()
  loss():backward()
  local checked = 0
  for name, t in pairs(m:parameters()) do
    local grad = t:grad()
    T.ok(grad, name .. " has a gradient")
    local shape, n = t:shape(), t:numel()
    for _, at in ipairs { 0, n // 3, n - 1 } do
      local index = #shape == 2 and { at // shape[2] + 1, at % shape[2] + 1 } or { at + 1 }
      local entry = t[index]:item()
      local function at_value(x)
        lab.no_grad(function() t[index]:fill(x) end)
        local l = lab.no_grad(loss):item()
        return l
      end
      local h = 1e-5
      local slope = (at_value(entry + h) - at_value(entry - h)) / (2 * h)
      at_value(entry)
      T.near(grad[index]:item(), slope, 1e-7)
      checked = checked + 1
    end
  end
  T.ok(checked > 90)
end

T.test("gradients of the whole model, of hidden tokens and next sentences, against central differences", function()
  local y = i32({ -100, 2, -100, -100, 5, -100, -100, -100, 9, -100, -100, -100, -100, -100 }, { 2, 7 })
  for i, spec in ipairs { "softmax", "p2/cottention" } do
    local m = small { attention = spec, task = "pretraining", tied = i == 1, activation = i == 1 and "auto" or "gelu_new" }
    check_gradient(m, function()
      return m:loss(IDS, y, { lengths = LENGTHS, token_types = TYPES, next = i32({ 0, 1 }, { 2 }) })
    end)
  end
end)

T.test("gradients of a classifier", function()
  local m = small { task = "classifier", classes = 3 }
  check_gradient(m, function() return m:loss(IDS, i32({ 2, 0 }, { 2 }), { lengths = LENGTHS, token_types = TYPES }) end)
end)

T.test("losses are sums and means of their parts", function()
  local m = small { task = "pretraining" }
  local x, y, follows = i32({ 1, 2, 3, 4, 5, 6 }, { 2, 3 }), i32({ 7, -100, 8, -100, -100, 9 }, { 2, 3 }), i32({ 0, 1 }, { 2 })
  lab.no_grad(function()
    local h = m:hidden(x)
    local words, pairs_ = m:logits(h):log_softmax():totable(), m:next_sentence(h):log_softmax():totable()
    local a, b, c = -words[1][1][8], -words[1][3][9], -words[2][3][10]
    local n = { -pairs_[1][1], -pairs_[2][2] }
    T.near(m:loss(x, y, { next = follows }):item(), (a + b + c) / 3 + (n[1] + n[2]) / 2, 1e-12)
    T.near(m:row_losses(x, y, { next = follows }):flat(), { (a + b) / 2 + n[1], c + n[2] }, 1e-12)
    T.near(m:pooled(h):totable()[2], m.pooler(h[{ 2, { 1, 1 } }]):tanh():totable()[1], 1e-12)
  end)
end)

T.test("masking: how many, what becomes of them, and of what it is a function", function()
  local B, N = 64, 200
  local ids = core.tensor { data = (function()
    local list = {}
    for i = 1, B * N do list[i] = (i * 7) % 50 + 3 end
    for b = 0, B - 1 do list[b * N + 1], list[b * N + N] = 0, 1 end
    return list
  end)(), shape = { B, N }, dtype = "i32" }
  local others = {}
  for id = 3, 52 do others[#others + 1] = id end
  local lengths = {}
  for b = 1, B do lengths[b] = b == 1 and 102 or N end
  local function hidden(seed, index)
    return masking.hidden(ids, { mask = 2, special = { [0] = true, true, true }, others = others, lengths = lengths,
                                 seed = seed, index = index })
  end
  local x, y = hidden(5, 9)
  local again, targets = hidden(5, 9)
  T.eq(again, x)
  T.eq(targets, y)
  T.ok(table.concat(hidden(5, 10):flat(), ",") ~= table.concat(x:flat(), ","))
  T.ok(table.concat(hidden(6, 9):flat(), ",") ~= table.concat(x:flat(), ","))
  local before, after, asked = ids:flat(), x:flat(), y:flat()
  local masked, same, other, all, places = 0, 0, 0, 0, {}
  for b = 1, B do
    local n = 0
    for t = 1, N do
      local i = (b - 1) * N + t
      if asked[i] == masking.NONE then
        T.eq(after[i], before[i])
      else
        n, places[t] = n + 1, true
        T.eq(asked[i], before[i])
        T.ok(t > 1 and t < N and t <= lengths[b], "no special token, none behind the text")
        if after[i] == 2 then masked = masked + 1 elseif after[i] == before[i] then same = same + 1 else other = other + 1 end
      end
    end
    T.eq(n, b == 1 and 15 or 30) -- 15 % of 101 and of 198
    all = all + n
  end
  -- four deviations of a binomial of 1905
  T.near(masked / all, 0.8, 0.037)
  T.near(same / all, 0.1 + 0.1 / 50, 0.028)
  T.near(other / all, 0.1, 0.028)
  local n = 0
  for _ in pairs(places) do n = n + 1 end
  T.eq(n, N - 2) -- everywhere
end)

T.test("rows that end early are texts of that length: nothing behind them is seen or asked for", function()
  local N = masking.NONE
  local y = i32({ 2, 3, 4, 5, 2, N, N, N, N, N, N, N }, { 3, 4 })
  T.eq(masking.with_lengths(y).lengths:flat(), { 4, 2, 1 })
  local kept = { documents = 1 }
  T.ok(rawequal(masking.with_lengths(i32({ 2, 3, 4, 5, 2, 3, 4, N }, { 2, 4 }), kept), kept))
  local m = small { vocab = 12, vocabulary = lab.data.open(T.numbers(500)).vocabulary }
  local x, targets, more = m:examples(function() return i32({ 1, 2, 3, 4, 1, 2, 0, 0, 1, 0, 0, 0 }, { 3, 4 }), y:clone() end, 1, 1)
  T.eq(more.lengths:flat(), { 4, 2, 1 })
  local asked = targets:totable()
  for b, n in ipairs { 4, 2, 1 } do
    local count = 0
    for t = 1, 4 do
      if asked[b][t] ~= N then
        count = count + 1
        T.ok(t <= n)
      end
    end
    T.eq(count, 1)
  end
  T.eq(x:totable()[2][3], 0)
  T.raises(function() m:forward({ { 1 } }, { documents = i32({ 0 }, { 1, 1 }) }) end, "documents")
end)

T.test("trained: it learns, the same twice, its validation is one number", function()
  local text = T.folder() .. "/abcd.txt"
  core.sys.write(text, ("abcd"):rep(1000))
  local function trained(steps)
    local m = lab.model.new { arch = "bert", layers = 1, width = 32, heads = 2, context = 8, seed = 1, init_deviation = 0.1,
                              dropout = 0.01, vocabulary = lab.data.open(text).vocabulary }
    T.eq(m.config.vocab, m.vocabulary:size() + 1)
    return lab.train(m, { data = text, steps = steps, eval_windows = 32, quiet = true, lr = 0.01, warmup_steps = 10 }), m
  end
  local r, m = trained(100)
  local loss = r:curve()[#r:curve()][2]
  T.ok(loss < 0.6, "far below the ln 4 of guessing: " .. loss)
  local short, again = trained(7), trained(7)
  T.eq(short.records[#short.records]["valid/loss"], again.records[#again.records]["valid/loss"])
  local ev = lab.evalset { data = text, windows = 32 }
  T.near(ev(m), loss, 0)
  local path = T.folder() .. "/m.safetensors"
  m:save(path)
  local back = lab.model.load(path)
  T.near(ev(back), loss, 0)
  T.eq(back.class_name, "Bert")
  T.raises(function() ev:diff(m, back) end, "evalset: diff: the first: a model that predicts next tokens expected, got a Bert")
end)

T.test("a step by parts of its batch is the step of the whole, where texts have more or fewer targets", function()
  local lines = {}
  for i = 1, 40 do lines[i] = ('{"text": "%s"}'):format(("abcd"):rep(i % 7 * 3 + 1)) end
  local path = T.folder() .. "/x.jsonl"
  core.sys.write(path, table.concat(lines, "\n") .. "\n")
  local function steps(micro)
    local set = lab.data.open(path .. " rows=documents document_id=0 tokenizer=bytes valid=0.2")
    local cfg = { model = { arch = "bert", layers = 1, width = 16, heads = 2, context = 64 }, train = { batch_size = 5, dtype = "f64" } }
    local t, out = lab.train.trainer(nil, cfg, 1, set, micro), {}
    for k = 1, 3 do
      local s = t:step()
      out[2 * k - 1], out[2 * k] = s.loss, s.norm
    end
    return out
  end
  T.near(steps(2), steps(5), 1e-9)
end)

T.test("in an experiment, from the command line, and at the prompt", function()
  local f, text = T.folder(), T.numbers(4000)
  core.sys.write(f .. "/x.lua", ([[
return require("attnlab").experiment { name = "x", seeds = { 1 }, base = { arch = "bert", layers = 1, width = 16, heads = 2,
  context = 16, batch_size = 4, steps = 4, eval_windows = 8, data = %q }, arms = { { name = "a" }, { name = "b", attention = "p2/cottention" } } }
]]):format(text))
  local code, out = tiny.run { "run", f .. "/x.lua", "out_dir=" .. f }
  T.ok(code == 0 and out:find "\nb +1 ", out)
  code, out = tiny.run { "run", f .. "/x.lua", "--dry-run", "--json" }
  T.eq(core.json.decode(out).runs, 2)
  local dir = lab.runs { out_dir = f, experiment = "x" }[1].dir
  code, out = tiny.run { "generate", dir }
  T.ok(code == 1 and out:find "generate: a BERT fills in hidden tokens", out)
  code, out = tiny.run { "generate", T.root .. "tests/golden/bert/old" }
  T.ok(code == 1 and out:find "generate: a BERT fills in hidden tokens", out)
  code, out = tiny.run { "eval", dir }
  T.ok(code == 0 and out:find "nats", out)
end)

T.test("a copy has its own norms, each still run by the block behind it", function()
  local m = small()
  local c, before = m:clone(), m:forward(IDS)
  T.eq(c:forward(IDS), before)
  for _, layer in ipairs(c.layers) do layer.output_norm.weight:fill(2) end
  T.ok((c:forward(IDS) - before):abs():max():item() > 0.1)
  T.eq(m:forward(IDS), before)
  for _, layer in ipairs(m.layers) do layer.output_norm.weight:fill(2) end
  T.eq(m:forward(IDS), c:forward(IDS))
end)

T.test("dropout: in training alone, and of what it is told", function()
  local m, plain = small { dropout = 0.5 }, small()
  lab.no_grad(function()
    T.ok((m:forward(IDS) - m:forward(IDS)):abs():max():item() > 1e-3)
    T.eq(m:eval():forward(IDS), plain:forward(IDS))
  end)
end)

T.test("its maps and traces are of rows that see all", function()
  for _, spec in ipairs { "softmax", "p2/cottention", { preset = "p2/cottention", output_norm = "l2" } } do
    local m = small { attention = spec }
    local map = m:map { ids = { 1, 2, 3, 4 }, layer = 2, head = 1 }
    local q = {}
    lab.no_grad(function()
      m:hidden({ { 1, 2, 3, 4 } }, { taps = { [2] = { weights = function(t) q = t:detach():clone() end } } })
    end)
    T.near(map.values, q[{ 1, 1 }], 1e-12)
    T.ok(map.values[{ 1, 4 }]:abs():item() > 1e-6)
  end
  local m = small()
  local tr = m:trace({ 1, 2, 3, 4 }, { "entropy", layer = 1 })
  local w = m:tap { ids = { 1, 2, 3, 4 }, name = "weights", layer = 1 }
  T.near(tr.values.entropy[{ 1, 1, 2 }]:item(), -(w * w:log()):sum { axes = { 4 } }[{ 1, 2, 1 }]:item(), 1e-12)
end)

T.test("what it is not for, and options that are wrong, are refused by name", function()
  local m = small()
  T.raises(function() m:generate { prompt = { 1 } } end, "generate: a BERT fills in hidden tokens of a text that is there")
  T.raises(function() m:state() end, "state: a BERT reads a text at once, both ways, and has no state")
  T.raises(function() m:step({ { 1 } }, 1) end, "step: a BERT reads")
  T.raises(function() m:forward({ { 1 } }, { state = 1 }) end, "state: a BERT reads")
  T.raises(function() m:fork() end, "fork: a BERT is not operated on")
  T.raises(function() m:tap { ids = { 1, 2 }, name = "heads", layer = 1, grad = true } end, "tap: grad: .*a Bert does not predict")
  T.raises(function() m:pooled(m:hidden { { 1 } }) end, "pooled: a BERT of task=mlm has no such head: task=pretraining, classifier or pooled")
  T.raises(function() m:classes(m:hidden { { 1 } }) end, "classes: .* task=classifier expected")
  T.raises(function() small({ task = "hidden" }):forward { { 1 } } end, "logits: .* task=mlm or pretraining expected")
  T.raises(function() m:loss({ { 1 } }, i32({ 1 }, { 1, 1 }), { next = i32({ 0 }, { 1 }) }) end, "loss: a BERT of task=mlm takes no next=")
  T.raises(function() small({ task = "pretraining" }):loss({ { 1 } }, i32({ 1 }, { 1, 1 })) end, "needs next=, of each pair")
  T.raises(function() small({ task = "classifier", classes = 1 }):loss({ { 1 } }, i32({ 0 }, { 1 })) end, "loss: a classifier of one class")
  T.raises(function() m:forward({ { 1, 2 } }, { token_types = { { 0 } } }) end, "token_types: shape %(1,2%), one a token, expected, got %(1,1%)")
  T.raises(function() m:forward({ { 1 } }, { token_types = { { 2 } } }):flat() end, "2")
  T.raises(function() m:forward({ { 1 } }, { token_type = { { 0 } } }) end, "forward: unknown option 'token_type'")
  T.raises(function() m:forward { (table.move({ 1, 1, 1, 1, 1, 1, 1 }, 1, 7, 7, { 1, 1, 1, 1, 1, 1 })) } end, "longer than the context of 12")
  T.raises(function() small { task = "classifier" } end, "option 'classes': with task=classifier at least 1 expected, got 0")
  T.raises(function() lab.model.new { vocab = 9, task = "classifier" } end, "option 'task': the architecture 'llama' has no other than mlm")
  T.raises(function() small({ attention = "delta_rule" }):forward(IDS) end, "causal")
  T.raises(function()
    lab.train.trainer(nil, { model = { arch = "bert", context = 8 }, train = { eval_context = 16 } }, 1)
  end, "eval_context: a Bert reads windows up to its context of 8, in no pieces, got 16")
  local numbers = T.numbers(500) -- of eleven characters
  T.raises(function()
    lab.train(small { vocabulary = lab.data.open(numbers).vocabulary }, { data = numbers, steps = 1, quiet = true })
  end, "no mask token")
end)
