-- Layers and models from state to state: what a split of the tokens must not change, gradients
-- through states, generation by state, and what is refused.
local T = ...
local core = require "attnlab.core"
local lab = require "attnlab"

local SPECS = {
  { preset = "softmax" }, { preset = "softmax", rope = "interleaved", rope_dims = 2 },
  { preset = "softmax", conv = 3, conv_activation = "silu", qk_norm = true, value_residual = true, bias = true },
  { preset = "softmax", conv = 1 }, { preset = "p3/2mamba" }, { preset = "p2/cottention" }, { preset = "p1/linear_elu" },
  { preset = "p1/gated_softmax" }, { similarity = "taylor", order = 2 },
  { preset = "softmax", heads = { [2] = { similarity = "linear" }, [4] = { output_norm = "l2" } } },
  { preset = "sliding_window", window = 3 },
}

local function model(spec, more)
  local opts = { layers = 2, width = 16, heads = 4, kv_heads = 2, mlp = 24, context = 12, vocab = 11, seed = 3,
                 attention = spec, dtype = "f64" }
  for k, v in pairs(more or {}) do opts[k] = v end
  return lab.model.new(opts)
end

local IDS = core.tensor { data = { { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 }, { 3, 2, 1, 0, 9, 8, 7, 6, 5, 4 } }, dtype = "i32" }

-- The tokens in parts of these lengths: f(part, state) -> output, state; outputs joined, the last state.
local function in_parts(x, lengths, st, f)
  local out, at = {}, 0
  for i, n in ipairs(lengths) do
    out[i], st = f(x:slice { axis = 2, start = at, stop = at + n }, st)
    at = at + n
  end
  T.eq(at, x:size(2))
  return core.op.concat(out, { axis = 2 }), st
end

local SPLITS = { { 10 }, { 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 }, { 3, 1, 5, 1 }, { 7, 3 } }

T.test("a layer from state to state is the layer", function()
  for _, spec in ipairs(SPECS) do
    local a = lab.nn.Attention(16, spec, { heads = 4, kv_heads = 2, seed = 2, dtype = "f64" })
    local x = lab.randn { shape = { 2, 10, 16 }, seed = 9, dtype = "f64" }
    local whole = a(x)
    for _, lengths in ipairs(SPLITS) do
      local y, st = in_parts(x, lengths, a:state { batch = 2 }, function(part, st) return a:step(part, st) end)
      T.near(y, whole, 1e-12)
      T.eq({ st:position(), st:batch() }, { 10, 2 })
    end
  end
end)

T.test("a model from state to state is the model, in f64 and f32", function()
  for _, spec in ipairs(SPECS) do
    for dtype, tolerance in pairs { f64 = 1e-12, f32 = 2e-5 } do
      local m = model(spec, { dtype = dtype })
      local whole = m:forward(IDS)
      for _, lengths in ipairs(SPLITS) do
        local y, st = in_parts(IDS, lengths, m:state { batch = 2 }, function(part, st) return m:step(part, st) end)
        T.near(y, whole, tolerance)
        T.eq({ st:position(), st:batch() }, { 10, 2 })
      end
    end
  end
end)

T.test("rows of a batch go on by themselves, and a state is not changed", function()
  local m = model(SPECS[3])
  local _, st = m:step(IDS:slice { axis = 2, stop = 4 }, m:state { batch = 2 })
  local before, copy, bytes = {}, st:copy(), st:bytes()
  for i, c in ipairs(st:components()) do before[i] = c.tensor:flat() end
  local a = m:step(IDS:slice { axis = 2, start = 4, stop = 6 }, st)
  T.eq(m:step(IDS:slice { axis = 2, start = 4, stop = 6 }, copy), a)
  for i, c in ipairs(st:components()) do T.eq(c.tensor:flat(), before[i]) end
  T.eq({ st:bytes(), st:position() }, { bytes, 4 })
  local one = IDS:slice { axis = 1, start = 1 }
  local _, s1 = m:step(one:slice { axis = 2, stop = 4 }, m:state())
  T.near(m:step(one:slice { axis = 2, start = 4, stop = 6 }, s1), a:slice { axis = 1, start = 1 }, 1e-12)
end)

T.test("components by layer, bytes measured, what grows is named", function()
  local m = model(SPECS[3])
  local st = m:state { batch = 2 }
  local names = {}
  for _, c in ipairs(st:components()) do names[c.name] = c end
  T.eq(names["layer.2.conv.k"].tensor:shape(), { 2, 2, 8 })
  T.eq(names["layer.2.conv.k"].bytes, 2 * 2 * 8 * 8)
  T.ok(names["layer.1.attention.count"] and names["layer.1.conv.q"].doc:find "convolution")
  T.eq(st:cache(), nil)
  local _, after = m:step(IDS, st)
  local grown, each = after:cache()
  T.ok(#grown > 0 and each > 0)
  local total = 0
  for _, c in ipairs(after:components()) do total = total + c.bytes end
  T.eq(after:bytes(), total)
end)

-- Gradients of every parameter as one flat list.
local function gradients(m)
  local out = {}
  for _, t in pairs(m:parameters()) do
    local g = t:grad()
    for _, v in ipairs(g and g:flat() or {}) do out[#out + 1] = v end
  end
  m:zero_grad()
  return out
end

T.test("gradients flow through a state, and not through a detached one", function()
  for _, spec in ipairs(SPECS) do
    local m = model(spec)
    local x, y = IDS:slice { axis = 2, stop = 9 }, IDS:slice { axis = 2, start = 1 }
    m:loss(x, y):backward()
    local whole = gradients(m)
    local function first(detach)
      local l1, st = m:loss(x:slice { axis = 2, stop = 4 }, y:slice { axis = 2, stop = 4 }, { state = m:state { batch = 2 } })
      local l2 = m:loss(x:slice { axis = 2, start = 4 }, y:slice { axis = 2, start = 4 }, { state = st, detach = detach })
      return l1, l2
    end
    local l1, l2 = first(false)
    ;(l1 * (4 / 9) + l2 * (5 / 9)):backward()
    T.near(gradients(m), whole, 1e-12)

    -- truncated: the gradient of the second part with the first part's state as a constant
    l1, l2 = first(true)
    ;(l1 * (4 / 9) + l2 * (5 / 9)):backward()
    local cut, differ = gradients(m), 0
    for i, v in ipairs(cut) do differ = math.max(differ, math.abs(v - whole[i])) end
    T.ok(differ > 1e-6, "truncation cuts something")
    local _, st = m:step(x:slice { axis = 2, stop = 4 }, m:state { batch = 2 })
    l1 = m:loss(x:slice { axis = 2, stop = 4 }, y:slice { axis = 2, stop = 4 })
    l2 = m:loss(x:slice { axis = 2, start = 4 }, y:slice { axis = 2, start = 4 }, { state = st })
    ;(l1 * (4 / 9) + l2 * (5 / 9)):backward()
    T.near(gradients(m), cut, 1e-12)
  end
end)

T.test("states that are refused", function()
  local m, other = model(SPECS[1]), model(SPECS[1])
  local one = { { 1 }, { 2 } }
  T.raises(function() m:step(one, other:state { batch = 2 }) end, "belongs to another Llama")
  T.raises(function() m:step(one, m:state()) end, "a batch of 2 expected as the input has, got 1")
  T.raises(function() m:step(one, {}) end, "one of Llama:state expected, got table")
  T.raises(function() m:forward(one, { state = m:state { batch = 2 }, causal = false }) end, "causal=true")
  for _, owner in ipairs { m, m.layers[1].attention } do
    T.eq(owner:state():batch(), 1)
    T.raises(function() owner:state(2) end, "state: options: a table expected, as state{batch=2}, got number")
    T.raises(function() owner:state { bach = 2 } end, "unknown option 'bach' %(did you mean 'batch'%?%)")
    T.raises(function() owner:state { batch = 0 } end, "option 'batch'")
  end
  T.raises(function() m:forward(one, { state = m:state { batch = 2 }, lengths = { 1, 0 } }) end, "count the padding")
  T.raises(function() m:state { bach = 2 } end, "did you mean 'batch'")
  T.raises(function() m:state { batch = 0 } end, "batch")
  T.raises(function() m:forward(one, { stat = m:state { batch = 2 } }) end, "unknown option 'stat' %(did you mean 'state'")
  for key, v in pairs { tokens = 2.5, top_k = 1.5, seed = 1.5 } do
    T.raises(function() m:generate { prompt = { 1 }, [key] = v } end, ("'%s': a whole number expected, got %g"):format(key, v))
  end
  T.raises(function() m:generate { prompt = { 1 }, seed = -1 } end, "'seed': number >= 0 expected, got %-1")
  T.raises(function() m.layers[1].attention:step(lab.zeros { shape = { 1, 1, 16 }, dtype = "f64" }, m:state()) end,
    "belongs to another Llama")
end)

T.test("the context's end: refused with rotary positions, unless told; free without", function()
  local m = model(SPECS[1])
  local _, st = m:step(IDS, m:state { batch = 2 })
  local three = { { 1, 2, 3 }, { 4, 5, 6 } }
  T.raises(function() m:step(three, st) end, "3 tokens after 10 are beyond the context of 12")
  _, st = m:step(IDS, m:state { batch = 2, beyond = true })
  local wide = model(SPECS[1], { context = 13 })
  local all = core.op.concat({ IDS, core.tensor { data = three, dtype = "i32" } }, { axis = 2 })
  T.near(m:step(three, st:copy()), wide:forward(all):slice { axis = 2, start = 10 }, 1e-12)
  local free = model { rope = "none" }
  _, st = free:step(IDS, free:state { batch = 2 })
  T.eq(free:step(three, st):shape(), { 2, 3, 11 })
end)

T.test("a long decode holds no more than its state", function()
  local m = model({ preset = "softmax", rope = "none" }, { dtype = "f32" })
  local function live()
    collectgarbage()
    collectgarbage()
    return core.memory().live
  end
  local st, logits = m:state(), nil
  local before = live() - st:bytes()
  for i = 1, 20 do
    local next_state
    logits, next_state = m:step({ i % 11 }, st)
    st:free()
    logits:free()
    st = next_state
  end
  T.eq(live() - st:bytes(), before)
end)

T.test("generation by state: parts of the prompt, the full context, what it took", function()
  local m = model(SPECS[1], { dtype = "f32" })
  local _, ids, took = m:generate { prompt = { 1, 2, 3 }, tokens = 6 }
  local want = { 1, 2, 3 }
  for _ = 1, 6 do -- the window once again for every token
    local logits = m:forward { want }:slice { axis = 2, start = #want - 1 }:flat()
    local best = 1
    for i, v in ipairs(logits) do if v > logits[best] then best = i end end
    want[#want + 1] = best - 1
  end
  T.eq(ids, want)
  T.eq({ took.tokens, took.prompt_tokens, took.position, took.slides }, { 6, 3, 8, 0 })
  T.ok(took.tokens_per_s > 0 and took.state_bytes > 0 and #took.cache > 0 and took.bytes_per_token > 0)

  local function past(how, tokens, prompt)
    local _, out, t = m:generate { prompt = prompt or { 1, 2, 3 }, tokens = tokens, past_context = how }
    return out, t
  end
  local slid, t = past(nil, 20)
  T.eq({ #slid, t.slides, t.position <= 12 }, { 23, 2, true })
  T.eq(past("slide", 20), slid)
  local long, l = past("continue", 20)
  T.eq({ #long, l.slides, l.position }, { 23, 0, 22 })
  T.eq(table.move(long, 1, 13, 1, {}), table.move(slid, 1, 13, 1, {}))
  local stopped = past("stop", 20)
  T.eq(stopped, table.move(slid, 1, 13, 1, {}))
  T.raises(function() past("stop", 2, { 1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4 }) end, "longer than the context of 12")
  T.eq(#past("slide", 2, { 1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4 }), 15)
  T.raises(function() past("slid", 2) end, "did you mean 'slide'")
  -- a state that does not fit into memory: the window again for every token, and that is said
  local none = model(SPECS[1], { dtype = "f32" })
  none.state = function() error("state: 9 TiB needed", 0) end
  local _, again, n = none:generate { prompt = { 1, 2, 3 }, tokens = 6 }
  T.eq({ again, n.no_state, n.state_bytes }, { ids, "state: 9 TiB needed" })
  T.ok(require("attnlab.generate").summary(n):find "the context runs again for every token: state: 9 TiB")
  T.eq(#select(2, none:generate { prompt = { 1 }, tokens = 15 }), 16)
  T.eq(#select(2, none:generate { prompt = { 1 }, tokens = 15, past_context = "stop" }), 13)
  T.raises(function() none:generate { prompt = { 1 }, past_context = "continue" } end, "needs a state: state: 9 TiB")
  local finite = model({ similarity = "taylor", order = 2 }, { dtype = "f32" })
  local _, _, s = finite:generate { prompt = { 1, 2, 3 }, tokens = 6 }
  T.eq({ s.cache, s.state_bytes }, { nil, finite:state():bytes() })
  T.ok(require("attnlab.generate").summary(s):find "finite, it does not grow")
  local free = model({ rope = "none" }, { dtype = "f32" })
  local _, _, f = free:generate { prompt = { 1 }, tokens = 20 }
  T.eq({ f.slides, f.position }, { 0, 20 })
end)

T.test("a state saved and loaded goes on bit for bit", function()
  local path = T.folder() .. "/s.safetensors"
  for _, spec in ipairs { { similarity = "taylor", order = 2 }, { preset = "softmax" }, { preset = "p2/cottention" },
                          { preset = "p1/gated_softmax" } } do
    local a = lab.attention.new { preset = spec.preset, similarity = spec.similarity, order = spec.order, heads = 2,
                                  head_dim = 4, width = 8, seed = 1 }
    local function inputs(T_, seed)
      local t = { x = lab.randn { shape = { 2, T_, 8 }, seed = seed, stream = "x" } }
      for _, n in ipairs { "q", "k", "v" } do t[n] = lab.randn { shape = { 2, T_, 2, 4 }, seed = seed, stream = n } end
      return t
    end
    local _, st = a:step(a:state { batch = 2 }, inputs(5, 1))
    st:save(path)
    local again = a:load_state(path)
    T.eq({ again:position(), again:batch(), again:bytes() }, { 5, 2, st:bytes() })
    for i, c in ipairs(again:components()) do T.eq(c.tensor, st:components()[i].tensor) end
    local y, after = a:step(st, inputs(2, 2))
    local z, other = a:step(again, inputs(2, 2))
    T.eq(z, y)
    T.eq(other:components()[1].tensor, after:components()[1].tensor)
    -- with the room behind a cache, which is held and not saved
    core.no_grad(function()
      for i = 1, 3 do _, st = a:step(st, inputs(1, 2 + i)) end
      st:save(path)
      again = a:load_state(path)
      local numbers, cached = 0, spec.preset ~= nil and spec.preset ~= "p2/cottention"
      for i, c in ipairs(again:components()) do
        T.eq(c.tensor, st:components()[i].tensor)
        numbers = numbers + c.tensor:numel() * 4
      end
      T.eq({ again:bytes(), st:bytes() > numbers }, { numbers, cached })
      T.ok(st:bytes() <= 1.5 * numbers)
      T.eq((a:step(again, inputs(2, 9))), (a:step(st, inputs(2, 9))))
    end)
  end
  local m = model(SPECS[3])
  local _, st = m:step(IDS:slice { axis = 2, stop = 4 }, m:state { batch = 2 })
  st:save(path)
  local rest = IDS:slice { axis = 2, start = 4 }
  T.eq((m:step(rest, m:load_state(path))), (m:step(rest, st)))
  m = model(SPECS[10])
  _, st = m:step(IDS:slice { axis = 2, stop = 4 }, m:state { batch = 2 })
  st:save(path)
  T.eq((m:step(rest, m:load_state(path))), (m:step(rest, st)))
  T.raises(function() model(SPECS[1]):load_state(path) end, "layer.1.family: kernel_attention expected, the file has heads")
  m = model(SPECS[3])
  local l = m.layers[1].attention
  local x = lab.randn { shape = { 2, 3, 16 }, seed = 9, dtype = "f64" }
  local _, ls = l:step(x, l:state { batch = 2 })
  ls:save(path)
  T.eq((l:step(x, l:load_state(path))), (l:step(x, ls)))
end)

T.test("files of states that are refused, with the reason", function()
  local dir = T.folder()
  local path = dir .. "/s.safetensors"
  local function taylor(more)
    local o = { similarity = "taylor", order = 2, heads = 2, head_dim = 4, seed = 1 }
    for k, v in pairs(more or {}) do o[k] = v end
    return lab.attention.new(o)
  end
  local a = taylor()
  local q = lab.randn { shape = { 2, 3, 2, 4 }, seed = 1 }
  local _, st = a:step(a:state { batch = 2 }, { q = q, k = q, v = q })
  st:save(path)
  T.raises(function() taylor { order = 4 }:load_state(path) end,
    "s.safetensors': a state of another attention: options: order=4 expected, the file has order=2")
  T.raises(function() taylor { head_dim = 8 }:load_state(path) end, "sizes: head_dim=8 value_dim=8 expected")
  T.raises(function() taylor { dtype = "f64" }:load_state(path) end, "dtype: f64 expected, the file has f32")
  T.raises(function() lab.attention.new("softmax", { heads = 2, head_dim = 4 }):load_state(path) end, "similarity=exp")
  T.raises(function() a:load_state(dir .. "/none") end, "none.*No such file")
  T.raises(function() a:load_state(7) end, "path expected, got number")
  local bytes = core.sys.read(path)
  core.sys.write(dir .. "/cut", bytes:sub(1, #bytes - 8))
  T.raises(function() a:load_state(dir .. "/cut") end, "/cut")
  core.sys.write(dir .. "/text", ("hello "):rep(40))
  T.raises(function() a:load_state(dir .. "/text") end, "/text")
  core.safetensors.save(dir .. "/foreign", { w = q }, { maker = "another" })
  T.raises(function() a:load_state(dir .. "/foreign") end, "foreign': no state")

  local tensors, metadata = core.safetensors.open(path)
  local function changed(name, value, meta)
    local t, m = {}, {}
    for k, v in pairs(tensors) do t[k] = v end
    for k, v in pairs(metadata) do m[k] = v end
    if meta then m[name] = value else t[name] = value or nil end
    m.format = nil
    core.safetensors.save(dir .. "/other", t, m)
    return function() a:load_state(dir .. "/other") end
  end
  T.raises(changed("attnlab_state", "2", true), "format 2, this version reads 1")
  T.raises(changed("position", "-1", true), "position: a whole number expected, got %-1")
  T.raises(changed("position", "x", true), "got x")
  T.raises(changed("position", "2", true), "other': .*count of row 0: 0..2")
  T.raises(changed("count", core.tensor { data = { 3, -1 }, dtype = "i32" }), "count of row 1: 0..3")
  T.raises(changed("count", false), "a component 'count' of shape %(batch%)")
  T.raises(changed("more", q), "components needed")
  -- a batch that the other components have no room for asks for no memory
  local many = core.zeros { shape = { 1 << 16 }, dtype = "i32" }
  T.raises(changed("count", many), "component '%a+': 65536 sequences as in 'count' needed, got %(2,")
  a:set { order = 4 }
  T.raises(function() st:save(path) end, "other options by now")
  a:set { order = 2 }
  st:save(path)

  local m = model(SPECS[3])
  local _, ms = m:step(IDS, m:state { batch = 2 })
  ms:save(path)
  T.raises(function() model(SPECS[1]):load_state(path) end, "layer.1.layer: qk_norm=false .*conv=0")
  T.raises(function() model(SPECS[3], { layers = 3 }):load_state(path) end, "layers: 3 expected, the file has 2")
  T.raises(function() a:load_state(path) end, "family: kernel_attention expected, the file has none")
  tensors, metadata = core.safetensors.open(path)
  local function model_changed(name, value)
    changed(name, value)
    return function() m:load_state(dir .. "/other") end
  end
  T.raises(model_changed("layer.1.conv.k", q), "'conv.k': f64 of shape %(2,2,8%) needed, got f32 of %(2,3,2,4%)")
  T.raises(model_changed("layer.1.conv.k", false), "conv%.k': .*got none")
  T.raises(model_changed("stray", q), "unknown component 'stray'")
end)
