-- Layers: initial weights, names, modes, and their arithmetic against loops written out here.
local T = ...
local lab = require "attnlab"
local nn = lab.nn

local function names_of(m)
  local out = {}
  for name in pairs(m:parameters()) do out[#out + 1] = name end
  return out
end

T.test("initial weights are a function of seed and full name", function()
  local a = nn.Linear(6, 4, { seed = 3, name = "a.b", bias = true })
  T.eq(a.weight, nn.Linear(6, 4, { seed = 3, name = "a.b" }).weight)
  T.ok(a.weight:flat()[1] ~= nn.Linear(6, 4, { seed = 3, name = "a.c" }).weight:flat()[1])
  T.ok(a.weight:flat()[1] ~= nn.Linear(6, 4, { seed = 4, name = "a.b" }).weight:flat()[1])
  for _, v in ipairs(a.weight:flat()) do T.ok(math.abs(v) <= 1 / math.sqrt(6)) end
  for _, v in ipairs(a.bias:flat()) do T.ok(math.abs(v) <= 1 / math.sqrt(6)) end
  local n = nn.Linear(50, 60, { seed = 1, init = "normal", deviation = 0.02, bias = true })
  T.near(n.weight:square():mean():sqrt():item(), 0.02, 1e-3)
  T.eq(n.bias:flat()[7], 0.0)
end)

T.test("without a seed the sequence of manual_seed gives one", function()
  lab.manual_seed(11)
  local a, b = nn.Linear(3, 3), nn.Linear(3, 3)
  lab.manual_seed(11)
  local c = nn.Linear(3, 3)
  T.eq(a.weight, c.weight)
  T.ok(a.weight:flat()[1] ~= b.weight:flat()[1])
end)

T.test("parameters come in the order of definition, modes reach every part", function()
  local m = nn.SwiGLU(4, 6, { seed = 1, bias = true })
  T.eq(names_of(m), { "gate_proj.weight", "gate_proj.bias", "up_proj.weight", "up_proj.bias",
                      "down_proj.weight", "down_proj.bias" })
  T.eq(#m:parameters(), 6)
  T.eq(m:n_parameters(), 3 * 24 + 6 + 6 + 4)
  m:eval()
  T.eq(m.down_proj.training, false)
  m:train()
  T.eq(m.down_proj.training, true)
  T.eq(tostring(m), "SwiGLU (88 parameters)")
end)

T.test("misuse is named", function()
  T.raises(function() nn.Linear(3, 3, { bais = true }) end, "Linear: unknown option 'bais' %(did you mean 'bias'%?%)")
  T.raises(function() nn.Linear(3, 3, { init = "zero" }) end, "'torch' or 'normal' expected")
  T.raises(function() nn.Attention(10, "softmax", { heads = 4 }) end, "width %(10%) must be divisible by heads %(4%)")
  T.raises(function() nn.Attention(12, "softmax", { heads = 4, kv_heads = 3 }) end, "multiple of kv_heads")
  T.raises(function() nn.Attention(12, "softmax", {}) end, "'heads'")
  T.raises(function() nn.Attention(12, { rope_dims = 3 }, { heads = 2, seed = 1 }) end, "rope_dims")
  T.raises(function() nn.Attention(12, { conv = 1.5 }, { heads = 2 }) end, "attention.conv")
  T.raises(function() nn.Linear(3, 3, { seed = 1 })(lab.zeros { shape = { 2, 4 } }) end, "matmul")
end)

T.test("linear, norm and MLP against loops", function()
  local x = lab.randn { shape = { 2, 3 }, seed = 5, stream = "x", dtype = "f64" }
  local l = nn.Linear(3, 2, { seed = 1, bias = true, dtype = "f64" })
  local X, W, b, want = x:totable(), l.weight:totable(), l.bias:totable(), {}
  for n = 1, 2 do
    want[n] = {}
    for o = 1, 2 do
      want[n][o] = b[o]
      for i = 1, 3 do want[n][o] = want[n][o] + X[n][i] * W[o][i] end
    end
  end
  T.near(l(x), want, 1e-12)

  local r = nn.RMSNorm(3, { seed = 1, dtype = "f64", eps = 0.5 })
  local row = X[1]
  local scale = 1 / math.sqrt((row[1] ^ 2 + row[2] ^ 2 + row[3] ^ 2) / 3 + 0.5)
  T.near(r(x)[{ 1 }], { row[1] * scale, row[2] * scale, row[3] * scale }, 1e-12)
  local n = nn.LayerNorm(3, { seed = 1, dtype = "f64" })
  T.near(n(x):mean { axes = { 2 } }, { 0, 0 }, 1e-12)

  local m = nn.SwiGLU(3, 5, { seed = 1, dtype = "f64" })
  local g, u = m.gate_proj(x), m.up_proj(x)
  T.near(m(x), m.down_proj(g * g:sigmoid() * u), 1e-12)
end)

-- An attention layer in f64 for x (2,5,8).
local function layer(spec, more)
  local opts = { heads = 4, seed = 2, dtype = "f64" }
  for k, v in pairs(more or {}) do opts[k] = v end
  return nn.Attention(8, spec, opts)
end

local function input()
  return lab.randn { shape = { 2, 5, 8 }, seed = 9, stream = "x", dtype = "f64" }
end

T.test("the layer is projections, rotation, softmax and output, written out", function()
  local x = input()
  for _, rope in ipairs { "half", "interleaved", "none" } do
    for _, kv in ipairs { 4, 2 } do
      local a = layer({ preset = "softmax", rope = rope }, { kv_heads = kv, head_dim = 4 })
      local q = a.q_proj(x):reshape { shape = { 2, 5, 4, 4 } }
      local k = a.k_proj(x):reshape { shape = { 2, 5, kv, 4 } }
      local v = a.v_proj(x):reshape { shape = { 2, 5, kv, 4 } }
      if rope ~= "none" then
        q, k = q:rope { interleaved = rope == "interleaved" }, k:rope { interleaved = rope == "interleaved" }
      end
      local Q, K, V, O = q:totable(), k:totable(), v:totable(), {}
      for b = 1, 2 do
        O[b] = {}
        for t = 1, 5 do
          O[b][t] = {}
          for h = 1, 4 do
            local g, w, sum = (h - 1) // (4 // kv) + 1, {}, 0
            for j = 1, t do
              local s = 0
              for d = 1, 4 do s = s + Q[b][t][h][d] * K[b][j][g][d] end
              w[j] = math.exp(s / 2)
              sum = sum + w[j]
            end
            for d = 1, 4 do
              local y = 0
              for j = 1, t do y = y + w[j] / sum * V[b][j][g][d] end
              O[b][t][(h - 1) * 4 + d] = y
            end
          end
        end
      end
      T.near(a(x), a.o_proj(lab.tensor(O):to "f64"), 1e-6)
    end
  end
end)

T.test("partial rotation leaves the other channels alone", function()
  local x = input()
  local seen
  local a = layer({ rope_dims = 2 }, { head_dim = 4 })
  a:forward(x, { taps = { q = function(q) seen = q:totable() end } })
  local plain = a.q_proj(x):reshape { shape = { 2, 5, 4, 4 } }:totable()
  for t = 1, 5 do
    T.near({ seen[1][t][1][3], seen[1][t][1][4] }, { plain[1][t][1][3], plain[1][t][1][4] }, 1e-12)
  end
  T.ok(math.abs(seen[1][3][1][1] - plain[1][3][1][1]) > 1e-6)
end)

T.test("the convolution is causal, depthwise, with bias", function()
  local x = input()
  local a = layer { conv = 3, rope = "none", conv_activation = "silu" }
  T.eq(#a:parameters(), 4 + 6)
  for _, which in ipairs { "q", "v" } do
    local X, c = a[which .. "_proj"](x):totable(), a.convolution[which]
    local W, B, want = c.weight:totable(), c.bias:totable(), {}
    for b = 1, 2 do
      want[b] = {}
      for t = 1, 5 do
        want[b][t] = {}
        for ch = 1, 8 do
          local y = B[ch]
          for i = 0, 2 do
            if t - i >= 1 then y = y + W[3 - i][ch] * X[b][t - i][ch] end
          end
          want[b][t][ch] = which == "q" and y / (1 + math.exp(-y)) or y
        end
      end
    end
    T.near(a:convolve(a[which .. "_proj"](x), which), want, 1e-12)
  end
  T.near(a(x[{ {}, { 1, 1 } }]):shape(), { 2, 1, 8 })
  T.eq(layer("p3/2mamba").layer.conv, 2)
  T.eq(layer("p3/2mamba").layer.rope, "none")
  T.eq(layer({ preset = "p3/2mamba", rope = "half" }).layer.rope, "half")
end)

T.test("norm of queries and keys, residual of v, biases", function()
  local x = input()
  local a = layer { qk_norm = true, bias = true, value_residual = true }
  T.eq(names_of(a), { "q_proj.weight", "q_proj.bias", "k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias",
                      "o_proj.weight", "o_proj.bias", "q_norm.weight", "k_norm.weight", "attnlab.value_residual" })
  local plain = layer { qk_norm = true, bias = true }
  local v = plain.v_proj(x)
  T.near(a(x), plain(x) + v:matmul(plain.o_proj.weight, { transpose_b = true }), 1e-12)
  local g = layer({ value_residual = true }, { kv_heads = 2 })
  T.eq(g(x):shape(), { 2, 5, 8 })
end)

T.test("the eps of the norm of queries and keys is an option", function()
  local x = input()
  T.eq(layer({ qk_norm = true }).q_norm.eps, 1e-5)
  local a = layer { qk_norm = true, qk_norm_eps = 0.5 }
  local q = a.q_proj(x):reshape { shape = { 2, 5, 4, 2 } }
  T.near(a:head_inputs(x, "q", 4), q * (q:square():mean { axes = { -1 }, keep = true }:scale { add = 0.5 }):rsqrt(), 1e-12)
  T.ok(lab.attention and require("attnlab.help").text "qk_norm_eps":find("eps of qk_norm", 1, true))
end)

T.test("causal is true by default, in instances and layers, and help says so", function()
  local function draw(name, dims) return lab.randn { shape = { 1, 3, 2, dims }, seed = 1, stream = name } end
  local a = lab.attention.new("softmax", { heads = 2, head_dim = 4 })
  local set = { q = draw("q", 4), k = draw("k", 4), v = draw("v", 4) }
  local plain = a:forward(set)
  set.causal = true
  T.eq(plain, a:forward(set))
  set.causal = false
  T.ok((a:forward(set) - plain):abs():sum():item() > 0.1)
  local l, x = layer "softmax", input()
  T.eq(l(x), l(x, { causal = true }))
  T.ok((l(x, { causal = false }) - l(x)):abs():sum():item() > 1e-3)
  local text = require("attnlab.help").text "attention"
  local of_instance, of_layer = text:match "what forward of an instance takes.-\n(.*)what forward of the layer takes[^\n]*\n(.*)$"
  for _, part in ipairs { of_instance, of_layer } do
    T.ok(part:find("  causal: true or false [true]", 1, true), part)
    T.ok(part:find("  lengths: ", 1, true), part)
  end
end)

T.test("unknown options of a layer's forward are refused", function()
  T.raises(function() layer "softmax"(input(), { casual = false }) end, "forward: unknown option 'casual' %(did you mean 'causal'%?%)")
  T.raises(function() layer "softmax"(input(), { causal = "no" }) end, "option 'causal'")
  T.raises(function() layer "softmax"(input(), { training = true }) end, "forward: unknown option 'training' %(known: causal, lengths")
end)

T.test("what came before does not depend on what comes after", function()
  for _, spec in ipairs { { preset = "softmax", conv = 3, qk_norm = true, value_residual = true }, { preset = "p3/2mamba" },
                          { preset = "p2/cottention" }, { preset = "p1/gated_softmax" } } do
    local a = layer(spec)
    local x = input()
    local whole = a(x)[{ {}, { 1, 3 } }]
    local poisoned = input()
    lab.no_grad(function() poisoned[{ {}, { 4, 5 } }]:fill(0 / 0) end)
    T.eq(a(poisoned)[{ {}, { 1, 3 } }]:flat(), whole:flat())
  end
end)

T.test("every parameter of the layer gets a gradient", function()
  for _, spec in ipairs { { preset = "p1/gated_softmax", conv = 2, qk_norm = true, value_residual = true, bias = true },
                          { preset = "p1/linear_cosine" }, { preset = "p3/2mamba" } } do
    local a = layer(spec, { name = "model.layers.0.self_attn" })
    a(input()):square():sum():backward()
    for name, t in pairs(a:parameters()) do
      T.ok(t:grad(), name .. ": no gradient")
      T.ok(t:grad():abs():sum():item() > 0, name .. ": gradient is 0")
    end
  end
end)

T.test("instances without a layer", function()
  local a = lab.attention.new { similarity = "exp", denominator = "length", heads = 2, head_dim = 4, width = 8 }
  local q = lab.randn { shape = { 1, 3, 2, 4 }, seed = 1, stream = "q" }
  T.eq(a:forward { q = q, k = q, v = q, causal = true }:shape(), { 1, 3, 2, 4 })
  T.raises(function() lab.attention.new { similarty = "exp", heads = 2, head_dim = 4 } end, "did you mean 'similarity'")
  T.raises(function() lab.attention.new(7) end, "name or table")
  T.raises(function() lab.attention.new("softmax", {}, { heads = 2 }) end, "one table of options and sizes expected")
  T.raises(function() lab.attention.new({}, { heads = 2 }) end, "one table of options and sizes expected")
  T.raises(function() a:forward({ q = q, k = q, v = q }, { causal = false }) end, "bad argument #2 to 'forward' %(one table of inputs expected")
  T.ok(lab.attention.describe("softmax"):find("formula"))
end)

T.test("sizes come with the first q where no parameter needs them", function()
  local function draw(name, heads, dims) return lab.randn { shape = { 1, 3, heads, dims }, seed = 1, stream = name } end
  local set = { q = draw("q", 4, 5), k = draw("k", 2, 5), v = draw("v", 2, 3) }
  local whole = { similarity = "taylor", coefficients = "learned", heads = 4, kv_heads = 2, head_dim = 5, value_dim = 3 }
  local a = lab.attention.new { similarity = "taylor", coefficients = "learned" }
  T.eq(a:sizes(), { width = nil })
  T.eq(a:parameters().coefficients:flat(), { 1, 1, 1 })
  for _, method in ipairs { "state", "state_bytes" } do
    T.raises(function() a[method](a) end, "sizes are not known yet: they come with the first q of forward, or give heads and head_dim to new")
  end
  T.raises(function() a:plan(3) end, "sizes are not known yet")
  T.ok(a:source "torch":find "def attention")
  T.raises(function() a:set { decay = "learned" } end, "heads and head_dim are needed, because the parameter 'decay' depends on them")
  T.raises(function() a:forward { q = set.q, k = set.v, v = set.v } end, "k: shape")
  T.eq(a:sizes().heads, nil) -- a call that failed has not settled them
  T.eq(a:forward(set), lab.attention.new(whole):forward(set))
  T.eq(a:sizes(), { heads = 4, kv_heads = 2, head_dim = 5, value_dim = 3, width = 0 })
  T.eq(a:state():batch(), 1)
  T.raises(function() a:forward { q = set.k, k = set.k, v = set.v } end, "q: shape %(B,T,4,5%) needed")
  a:set { decay = "learned" }
  T.eq(a:parameters().decay:shape(), { 2 })
  -- sizes that are given hold
  T.raises(function() lab.attention.new { heads = 3 }:forward(set) end, "q: shape %(B,T,3,5%) needed, got %(1,3,4,5%)")
  T.eq(lab.attention.new { decay = "learned", heads = 4, kv_heads = 2 }:forward(set):shape(), { 1, 3, 4, 3 })
  T.raises(function() lab.attention.new { decay = "learned", head_dim = 5 } end, "'decay' depends on them")
  T.raises(function() lab.attention.new { logit_scale = "learned" } end, "'logit_scale' depends on them")
  T.raises(function() lab.attention.new "delta/deltanet" end, "'beta.weight' depends on them")
end)

T.test("optimisers", function()
  local w = lab.tensor { data = { 1, 2 }, shape = { 2 } }
  w:requires_grad(true)
  local o = lab.optim.sgd { { w = w }, lr = 0.5 }
  w:square():sum():backward()
  T.near(o:step(), math.sqrt(20), 1e-5)
  T.near(w, { 0, 0 })
  o:zero_grad()
  T.raises(function() lab.optim.adamw { { w = w }, bettas = { 0.9, 0.9 } } end, "betas")
  T.raises(function() lab.optim.adamw { lr = 1 } end, "table of parameters")
  T.raises(function() lab.optim.adamw { { w = w }, eps = 0 } end, "option 'eps': number > 0 expected, got 0")
  T.raises(function() lab.optim.adamw { { w = w }, decay = "none" } end, "'matrices' or 'all'")
  T.raises(lab.optim.adamw, "adamw: table of parameters expected as first entry, got nil")
  T.raises(function() lab.optim.sgd(3) end, "^sgd: a table of options expected, got number")
end)

T.test("what is given in the place of options is named", function()
  local m = lab.model.new { layers = 1, width = 8, heads = 2, mlp = 8, context = 8, vocab = 5, seed = 1 }
  for what, call in pairs { ["attention.new"] = function() lab.attention.new("softmax", 3) end,
                            ["model.load"] = function() lab.model.load("x", 3) end, generate = function() m:generate(3) end,
                            forward = function() m:forward(lab.tensor { data = { 1, 2 }, shape = { 1, 2 }, dtype = "i32" }, 3) end,
                            train = function() lab.train(m, 3) end } do
    T.raises(call, what .. ": a table of options expected, got number")
  end
end)

T.test("help says what a name is, from the descriptors", function()
  local help = require "attnlab.help"
  T.ok(help.text("softmax"):find("op softmax", 1, true))
  T.ok(help.text("softmax"):find("p1/softmax", 1, true))
  T.ok(help.text("denominator"):find("attention option", 1, true))
  T.ok(help.text("train.lr"):find("highest learning rate", 1, true))
  T.ok(help.text("attention"):find("rope", 1, true))
  T.ok(help.text("config"):find("batch_size", 1, true))
  T.raises(function() help.text("sofmax") end, "did you mean 'softmax'")
  for _, topic in ipairs(help.topics()) do T.ok(#help.text(topic) > 0, topic) end
end)
