-- Packed rows: several documents one behind the other in a row are what they are in rows of their own: output, loss and
-- gradients, through layers and models, in every form; from states; and what is refused.
local T = ...
local lab = require "attnlab"
local core = require "attnlab.core"
local nn = require "attnlab.nn"
local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)

-- Two rows of 12 tokens: where their documents begin, from 0.
local BEGINS = { { 0, 5, 6 }, { 0, 9 } }
local LENGTH = 12

-- Every document as { row, first, last }, from 1.
local function each_document(begins, length)
  local out = {}
  for b, row in ipairs(begins) do
    for i, from in ipairs(row) do out[#out + 1] = { b, from + 1, row[i + 1] or length } end
  end
  return out
end

local function starts_of(begins, length)
  local list = {}
  for _, row in ipairs(begins) do
    local i = 1
    for t = 0, length - 1 do
      if row[i + 1] and t >= row[i + 1] then i = i + 1 end
      list[#list + 1] = row[i]
    end
  end
  return core.tensor { data = list, shape = { #begins, length }, dtype = "i32" }
end

local function part(t, d)
  return t:slice { axis = 1, start = d[1] - 1, stop = d[1] }:slice { axis = 2, start = d[2] - 1, stop = d[3] }
end

local function biggest(t)
  return t:abs():max():item()
end

-- Tokens and targets (2,12); targets of a document's last token are masked.
local function batch(vocab)
  local x, y = {}, {}
  for i = 1, 2 * LENGTH do x[i], y[i] = (i * 7 + i * i) % vocab, (i * 5 + 3) % vocab end
  for _, d in ipairs(each_document(BEGINS, LENGTH)) do y[(d[1] - 1) * LENGTH + d[3]] = -100 end
  local function tensor(list) return core.tensor { data = list, shape = { 2, LENGTH }, dtype = "i32" } end
  return tensor(x), tensor(y)
end

local function gradients(m)
  local out = {}
  for name, p in pairs(m:parameters()) do out[name] = p:grad() and p:grad():clone() end
  m:zero_grad()
  return out
end

-- Logits and gradients of a model on packed rows against its documents one a row, relative to the largest number.
local function hold_model(m, limit, what)
  local x, y = batch(m.config.vocab)
  local starts = starts_of(BEGINS, LENGTH)
  local packed = m:forward(x, { documents = starts })
  local count = 0
  local sum
  for _, d in ipairs(each_document(BEGINS, LENGTH)) do
    local alone = m:forward(part(x, d))
    local off, size = biggest(part(packed, d) - alone), biggest(alone)
    T.ok(off <= limit * size, ("%s: logits of document %d of row %d: off %.3g of %.3g"):format(what, d[2], d[1], off, size))
    if d[3] > d[2] then
      local n = d[3] - d[2]
      local loss = alone:cross_entropy(part(y, d)) * n
      sum, count = sum and sum + loss or loss, count + n
    end
  end
  local apart = sum * (1 / count)
  apart:backward()
  local want = gradients(m)
  local loss = m:loss(x, y, { documents = starts })
  T.ok(math.abs(loss:item() - apart:item()) <= limit * math.abs(apart:item()), what .. ": loss")
  loss:backward()
  local largest = 0
  for _, g in pairs(want) do largest = math.max(largest, biggest(g)) end
  for name, g in pairs(gradients(m)) do
    local off = want[name] and biggest(g - want[name]) or biggest(g)
    T.ok(off <= limit * largest, ("%s: gradient of %s: off %.3g of %.3g"):format(what, name, off, largest))
  end
end

local function all_variants()
  local list = {}
  for _, p in ipairs(lab.attention.list()) do list[#list + 1] = p.name end
  for _, f in ipairs(core.attn.families()) do list[#list + 1] = f.name end
  return list
end

-- In f32 215 of 220 largest numbers are off by less than 1e-6 of the largest; the worst, the gradient of delta/deltanet
-- through its triangular solve, by 5e-6: products of other shapes sum in another order.
T.test("a model of every preset and family gives packed documents what it gives them one a row", function()
  for _, name in ipairs(all_variants()) do
    for dtype, limit in pairs { f64 = 1e-11, f32 = 1e-5 } do
      hold_model(tiny.model({ preset = name }, { dtype = dtype, layers = 1 }), limit, name .. " " .. dtype)
    end
  end
end)

T.test("so do its forms, positions, a convolution, a norm of q and k, heads of their own", function()
  for i, spec in ipairs { { preset = "softmax", impl = "composed" }, { preset = "softmax", impl = "fused" },
                          { preset = "p1/linear_elu", form = "chunked" }, { preset = "p1/linear_elu", form = "recurrent" },
                          { preset = "softmax", rope = "none", conv = 4, conv_activation = "silu" },
                          { preset = "softmax", rope = "interleaved", qk_norm = true, value_residual = true },
                          { preset = "softmax", heads = { [2] = { preset = "p2/cottention" } } } } do
    hold_model(tiny.model(spec), 1e-11, "form " .. i)
  end
end)

T.test("learned positions begin anew; an architecture that knows none by row refuses", function()
  local model = tiny.model({ preset = "softmax", rope = "none" }, { arch = "gpt2", kv_heads = 4 })
  hold_model(model, 1e-11, "gpt2")
  model.places_by_row = false
  T.raises(function() model:forward(batch(11), { documents = starts_of(BEGINS, LENGTH) }) end,
    "documents: the architecture '.*' knows no positions that differ from row to row")
end)

T.test("a document's neighbour may hold anything: nothing of it comes over, forward or back", function()
  local layer = nn.Attention(8, { preset = "softmax", conv = 3 }, { heads = 2, seed = 1, dtype = "f64" })
  local starts = starts_of(BEGINS, LENGTH)
  local function run(poison)
    local x = core.randn { shape = { 2, LENGTH, 8 }, seed = 4, dtype = "f64" }
    if poison then x[{ { 1, 1 }, { 6, 6 } }] = core.full { shape = { 1, 1, 8 }, value = -1, dtype = "f64" }:log() end
    x:requires_grad(true)
    local y = layer(x, { documents = starts })
    local d = part(y, { 1, 7, 12 })
    d:square():sum():backward()
    local g = x:grad()
    layer:zero_grad()
    return d, g
  end
  local clean, g = run(false)
  local other, h = run(true)
  T.near(other, clean:totable(), 0)
  T.near(part(h, { 1, 7, 12 }), part(g, { 1, 7, 12 }):totable(), 0)
  T.near(part(h, { 1, 1, 6 }), part(core.zeros { shape = { 2, LENGTH, 8 } }, { 1, 1, 6 }):totable(), 0)
  T.near(part(h, { 2, 1, 12 }), part(core.zeros { shape = { 2, LENGTH, 8 } }, { 2, 1, 12 }):totable(), 0)
end)

T.test("a state after packed rows is that of their last documents", function()
  for _, spec in ipairs { { preset = "softmax", conv = 4 }, { preset = "p1/linear_elu", conv = 3 }, { preset = "window/mistral" },
                          { preset = "delta_rule" }, { preset = "channel_softmax" }, { preset = "softmax", rope = "none" } } do
    local m = tiny.model(spec, { context = 40, arch = spec.rope and "gpt2" or nil, kv_heads = spec.rope and 4 or nil })
    local x = batch(11)
    local _, st = m:forward(x, { documents = starts_of(BEGINS, LENGTH), state = m:state { batch = 2 } })
    T.eq(st:position(), 6)
    local own = {} -- states of the last documents alone
    for b, d in ipairs { { 1, 7, 12 }, { 2, 10, 12 } } do _, own[b] = m:forward(part(x, d), { state = m:state() }) end
    for t = 1, 3 do
      local next_ids = core.tensor { data = { t, t + 3 }, shape = { 2, 1 }, dtype = "i32" }
      local y
      y, st = m:forward(next_ids, { state = st })
      for b = 1, 2 do
        local alone
        alone, own[b] = m:forward(part(next_ids, { b, 1, 1 }), { state = own[b] })
        T.near(part(y, { b, 1, 1 }), alone:totable(), 1e-11)
      end
    end
  end
end)

T.test("documents that begin at place 0 go on from a state, the others begin anew", function()
  for _, spec in ipairs { { preset = "p1/linear_elu", conv = 4 }, { preset = "delta_rule" }, { preset = "channel_softmax", conv = 2 } } do
    local m = tiny.model(spec, { context = 40 })
    local x = batch(11)
    local _, before = m:forward(part(x, { 1, 1, 5 }), { state = m:state() })
    local both = m:state { batch = 2 }
    _, both = m:forward(x:slice { axis = 2, stop = 5 }, { state = both })
    local y, after = m:forward(x, { documents = starts_of({ { 0, 7 }, { 0 } }, LENGTH), state = both })
    local _, second = m:forward(part(x, { 2, 1, 5 }), { state = m:state() })
    T.near(part(y, { 1, 1, 7 }), m:forward(part(x, { 1, 1, 7 }), { state = before }):totable(), 1e-11)
    T.near(part(y, { 1, 8, 12 }), m:forward(part(x, { 1, 8, 12 })):totable(), 1e-11)
    T.near(part(y, { 2, 1, 12 }), m:forward(part(x, { 2, 1, 12 }), { state = second }):totable(), 1e-11)
    local one = core.tensor { data = { 1, 2 }, shape = { 2, 1 }, dtype = "i32" }
    local _, last = m:forward(part(x, { 1, 8, 12 }), { state = m:state() })
    T.near(part(m:forward(one, { state = after }), { 1, 1, 1 }), m:forward(part(one, { 1, 1, 1 }), { state = last }):totable(), 1e-11)
  end
end)

T.test("what is no packing is refused with its place", function()
  local m = tiny.model()
  local x = batch(11)
  local function try(starts, says, more)
    local opts = more or {}
    opts.documents = starts
    T.raises(function() m:forward(x, opts) end, says)
  end
  local good = starts_of(BEGINS, LENGTH)
  local function with(i, v)
    local list = good:reshape { shape = { 2 * LENGTH } }:totable()
    list[i] = v
    return core.tensor { data = list, shape = { 2, LENGTH }, dtype = "i32" }
  end
  try(with(1, 1), "documents: row 1 of 2, place 0 %(from 0%): 0, where the document before goes on, or 0, where one begins, needed, got 1")
  try(with(4, 2), "row 1 of 2, place 3 %(from 0%): 0, .* or 3, where one begins, needed, got 2")
  try(with(24, -1), "row 2 of 2, place 11 .* got %-1")
  try(with(8, 12), "row 1 of 2, place 7 .* got 12")
  try(good:slice { axis = 2, stop = 11 }, "documents: starts of shape %(2,12%) needed, as many as tokens, got %(2,11%)")
  try(good:to "f32", "documents: i32 of shape %(B,T%) needed, got f32 of %(2,12%)")
  try(good, "no lengths beside them", { lengths = { 3, 4 } })
  try(good, "taps of inner tensors need each document in a row of its own", { taps = { { weights = function() end } } })
  local a = lab.attention.new("softmax", { heads = 2, head_dim = 4 })
  local q = core.randn { shape = { 2, LENGTH, 2, 4 }, seed = 1 }
  T.raises(function() a:forward { q = q, k = q, v = q, documents = good, offset = 2 } end, "rows that are the keys' own tokens needed")
  T.raises(function() a:forward { q = q, k = q, v = q, documents = 5 } end, "documents: tensor .* expected, got number")
end)

T.test("in bf16, from starts on the CPU, an instance gives what it gives documents one a row, gradients too", function()
  for _, name in ipairs { "softmax", "p1/gated_softmax_no_gate_L2norm_nodivS", "p1/linear_elu" } do
    local a = lab.attention.new(name, { heads = 2, head_dim = 8, width = 16, dtype = "bf16", seed = 5 })
    local starts = core.tensor { data = starts_of(BEGINS, LENGTH):totable(), dtype = "i32", device = "cpu" }
    local function inputs()
      local q = core.randn { shape = { 2, LENGTH, 2, 8 }, seed = 1, dtype = "bf16" }:requires_grad(true)
      local x = core.randn { shape = { 2, LENGTH, 16 }, seed = 2, dtype = "bf16" }
      return q, x
    end
    local q, x = inputs()
    local y = a:forward { q = q, k = q, v = q, x = x, documents = starts }
    y:to("f32"):square():sum():backward()
    local p, z = inputs()
    for _, d in ipairs(each_document(BEGINS, LENGTH)) do
      local own = part(p, d)
      local alone = a:forward { q = own, k = own, v = own, x = part(z, d) }
      T.near(part(y, d):to "f32", alone:to("f32"):totable(), 2 ^ -7 * biggest(alone:to "f32"))
      alone:to("f32"):square():sum():backward()
    end
    T.near(q:grad():to "f32", p:grad():to("f32"):totable(), 2 ^ -6 * biggest(p:grad():to "f32"))
  end
end)

T.test("the plan says what packed rows run by", function()
  local m = tiny.model()
  T.ok(m:plan(12, { packed = true }):find("packed rows: documents laid apart with lengths.*never by cuDNN"))
  T.ok(not m:plan(12):find "packed")
end)

-- Starts of one row that may be right or not, as a fuzzer would have them, against the rule said twice.
T.test("starts are taken where each is the one before it or its own place, and nowhere else", function()
  local r, taken = 7, 0
  local function draw(n)
    r = (r * 1103515245 + 12345) & 0x7fffffff
    return (r >> 8) % n
  end
  for _ = 1, 400 do
    local list, good = {}, true
    for t = 0, 7 do
      local what = draw(40)
      list[t + 1] = what == 0 and draw(20) - 6 or what < 14 and t or list[t] or 0
      good = good and (list[t + 1] == t or list[t + 1] == (list[t] or 0))
    end
    local ok, laid = pcall(lab.attention.documents, core.tensor { data = list, shape = { 1, 8 }, dtype = "i32" })
    T.eq(ok, good)
    taken = taken + (ok and 1 or 0)
    for t, place in ipairs(ok and laid:positions():flat() or {}) do T.eq(place, t - 1 - list[t]) end
  end
  T.ok(taken > 100 and taken < 390, taken)
end)

T.test("an instance, causal or not, and one document a row is the call without", function()
  local a = lab.attention.new("softmax", { heads = 2, head_dim = 4, dtype = "f64" })
  local q = core.randn { shape = { 2, LENGTH, 2, 4 }, seed = 1, dtype = "f64" }
  local laid = lab.attention.documents(starts_of(BEGINS, LENGTH))
  for _, causal in ipairs { true, false } do
    local y = a:forward { q = q, k = q, v = q, documents = laid, causal = causal }
    for _, d in ipairs(each_document(BEGINS, LENGTH)) do
      local own = part(q, d)
      T.near(part(y, d), a:forward({ q = own, k = own, v = own, causal = causal }):totable(), 1e-12)
    end
  end
  local whole = a:forward { q = q, k = q, v = q, documents = starts_of({ { 0 }, { 0 } }, LENGTH) }
  T.near(whole, a:forward({ q = q, k = q, v = q }):totable(), 0)
end)
