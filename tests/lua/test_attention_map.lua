-- Attention maps: of every preset of the formula the composed weights, of other families differences; pairs, heads with
-- options of their own, patches, what they look like in a terminal and as files.
local T = ...
local core = require "attnlab.core"
local lab = require "attnlab"
local taps = require "attnlab.nn.taps"
local sys = core.sys

local TEXT, IDS = "Once upon a time, there was a little girl", { 1, 2, 3, 4, 5, 6, 7 }

local model = dofile(T.root .. "tests/lua/tiny.lua")(T).model

local function inputs(m, i)
  local t = m:tap { ids = IDS, name = { "q", "k", "v", "x" }, layer = i }
  for name, x in pairs(t) do t[name] = x:contiguous() end
  return t
end

local function f64_of(set)
  local out = {}
  for name, t in pairs(set) do out[name] = t:to "f64" end
  return out
end

-- An instance of a preset with other options and another's parameters.
local function instance(a, preset, options, dtype)
  local t = core.attn.new(preset, options, { heads = a.heads, kv_heads = a.kv_heads, head_dim = a.head_dim,
    value_dim = a.head_dim, width = a.width, dtype = dtype, seed = 0 })
  local learned = a.family:parameters()
  for name, p in pairs(t:parameters()) do
    if learned[name] and learned[name]:numel() == p:numel() then t:set_parameter(name, learned[name]:to(dtype)) end
  end
  return t
end

-- (H,T,T) row by row: what row i gives when v is 1 at key j and 0 elsewhere; all but weights and denominator is off.
local function composed(a, set, dtype)
  local n, E, own = #IDS, a.head_dim, instance(a, a.preset, { output_gate = "none", input_gate = "none", output_norm = "none",
                                                            impl = "composed", form = "parallel" }, dtype)
  local out = {}
  for j = 1, n do
    local list = {}
    for t = 1, n do
      for _ = 1, a.kv_heads * E do list[#list + 1] = t == j and 1.0 or 0.0 end
    end
    local y = own:forward { q = set.q:to(dtype), k = set.k:to(dtype), x = set.x:to(dtype),
      v = core.tensor { data = list, shape = { 1, n, a.kv_heads, E }, dtype = dtype } }:totable()
    for h = 1, a.heads do
      out[h] = out[h] or {}
      for i = 1, n do
        out[h][i] = out[h][i] or {}
        out[h][i][j] = y[1][i][h][1]
      end
    end
  end
  return out
end

local function furthest(a, b)
  local off, most = 0, 0
  for i = 1, #b do
    for j = 1, #b do off, most = math.max(off, math.abs(a[i][j] - b[i][j])), math.max(most, math.abs(b[i][j])) end
  end
  return off / math.max(most, 1e-300)
end

T.test("maps of every preset of the formula are the composed weights", function()
  local presets = 0
  for _, p in ipairs(core.attn.list()) do
    if p.family == "kernel_attention" then
      presets = presets + 1
      local m = model(p.name)
      local a, set = m.layers[2].attention, inputs(m, 2)
      local want = composed(a, set, "f64")
      for h, map in ipairs(m:attention_map { ids = IDS, layer = 2 }) do
        T.eq(map.what, "w / D, from its composed path")
        local off = furthest(map.values:totable(), want[h])
        T.ok(off <= 1e-10, ("%s head %d in f64: %.2g"):format(p.name, h, off))
      end
      m = model(p.name, { dtype = "f32" })
      a, set = m.layers[2].attention, inputs(m, 2)
      want = composed(a, f64_of(set), "f64")
      local single = composed(a, set, "f32")
      for h, map in ipairs(m:attention_map { ids = IDS, layer = 2 }) do
        local off, allowed = furthest(map.values:totable(), want[h]), math.max(1e-5, furthest(single[h], want[h]))
        T.ok(off <= allowed, ("%s head %d in f32: %.2g, %.2g allowed"):format(p.name, h, off, allowed))
      end
    end
  end
  T.ok(presets >= 38, presets)
end)

-- (T,T) of head h by central differences of an instance's output in v.
local function slopes(own, set, h, kv, heads)
  local n, E, out, step = #IDS, set.v:size(4), {}, 1e-4
  local g = (h - 1) // (heads // kv) + 1
  for i = 1, n do out[i] = {} end
  for j = 1, n do
    local sum = {}
    for e = 1, E do
      local side = {}
      for k, by in ipairs { step, -step } do
        local v = set.v:totable()
        v[1][j][g][e] = v[1][j][g][e] + by
        side[k] = own:forward { q = set.q, k = set.k, x = set.x, v = core.tensor { data = v, dtype = "f64" } }:totable()
      end
      for i = 1, n do sum[i] = (sum[i] or 0) + (side[1][1][i][h][e] - side[2][1][i][h][e]) / (2 * step) end
    end
    for i = 1, n do out[i][j] = sum[i] / E end
  end
  return out
end

T.test("maps of other families are the derivatives, by differences", function()
  local seen = {}
  for _, p in ipairs(core.attn.list()) do
    if p.family ~= "kernel_attention" then
      seen[p.family] = true
      local m = model(p.name)
      local a, set = m.layers[2].attention, inputs(m, 2)
      local norm = {}
      for _, row in ipairs(a.family:options()) do norm[row.name] = row.name == "output_norm" and "none" or nil end
      local own = instance(a, p.name, norm, "f64")
      for _, h in ipairs { 1, 4 } do
        local map = m:map { ids = IDS, layer = 2, head = h }
        T.ok(map.what:find("^dy_i/dv_j before the norm, v = identity"), map.what)
        local off = furthest(map.values:totable(), slopes(own, set, h, 2, 4))
        T.ok(off <= 1e-8, ("%s head %d: %.2g"):format(p.name, h, off))
      end
    end
  end
  T.ok(seen.delta_rule and seen.sliding_window and seen.channel_softmax)
end)

T.test("a plug-in that is not linear in its values, and one whose logits can be asked for", function()
  local source = T.folder() .. "/normed.c"
  local template = sys.read(T.root .. "attention/template/variant.c"):gsub("my_variant", "normed")
    :gsub('return OP%("mul", AL_IN%(y, column%(c, by%)%), ""%);', 'return OP("l2norm", AL_IN(OP("mul", AL_IN(y, column(c, by)), "")), "");')
  sys.write(source, template)
  lab.attention.load(source)
  local m = model "normed"
  local a, set = m.layers[2].attention, inputs(m, 2)
  local own = instance(a, "normed", {}, "f64")
  local map = m:map { ids = IDS, layer = 2, head = 3 }
  T.ok(map.what:find "by differences around the layer's own v, mean over channels %(they differ", map.what)
  local off = furthest(map.values:totable(), slopes(own, set, 3, 2, 4))
  T.ok(off <= 1e-6, off)
  local logits = m:tap { ids = IDS, name = "logits", layer = 2, head = 3 }
  local q, k, sum = set.q:totable()[1][5][3], set.k:totable()[1][2][2], 0
  for d = 1, 4 do sum = sum + q[d] * k[d] / 2 end
  T.near(logits:totable()[1][5][2], sum, 1e-14)
end)

-- ---- a trained model ----------------------------------------------------------------------------------

local stories = lab.model.load(T.root .. "experiments/models/stories260K.bin")

T.test("stories260K: softmax of its own queries and keys, tokens beside it", function()
  local map = stories:map { text = TEXT, layer = 2, head = 3 }
  T.eq(#map.tokens, 13)
  T.eq(map.tokens[1], "<s>")
  T.eq(map.tokens[2], "_Once")
  local t, w = stories:tap { text = TEXT, name = { "q", "k" }, layer = 2 }, map.values:totable()
  local q, k = t.q:totable()[1], t.k:totable()[1]
  for i = 1, 13 do
    local e, total = {}, 0
    for j = 1, i do
      local s = 0
      for d = 1, 8 do s = s + q[i][3][d] * k[j][2][d] end
      e[j] = math.exp(s / math.sqrt(8))
      total = total + e[j]
    end
    for j = 1, 13 do T.near(w[i][j], (e[j] or 0) / total, 1e-5) end
  end
end)

T.test("two maps and their difference; what cannot be compared is refused", function()
  local a, b = stories:map { text = TEXT, layer = 2, head = 3 }, stories:map { text = TEXT, layer = 2, head = 5 }
  T.eq((a - b).values, a.values - b.values)
  T.eq((a - b).name, "layer 2 head 3 - layer 2 head 5")
  T.eq(a:beside(b)[3].values, (a - b).values)
  local c = stories:map { text = "Once", layer = 2, head = 3 }
  T.raises(function() return a - c end, "maps of one length expected, got 13 and 2 tokens")
  T.raises(function() return a:beside(3) end, "a map expected")
  T.raises(function() stories:map { text = TEXT, layer = 9 } end, "layer: a number in 1..5")
  T.raises(function() stories:map { text = TEXT } end, "layer: a number in 1..5")
  T.raises(function() stories:map { text = TEXT, layer = 1, head = 9 } end, "head: a number in 1..8 expected, got 9")
  T.raises(function() stories:map { text = TEXT, layer = 1, hed = 1 } end, "did you mean 'head'")
end)

T.test("heads with options of their own, and patches, are in it", function()
  local s = stories:fork()
  s.layer[2].head[3]:set { denominator = "length" }
  s.layer[2].head[5]:set { preset = "sliding_window", window = 3 }
  local all, plain = s:map { text = TEXT, layer = 2 }, stories:map { text = TEXT, layer = 2 }
  T.near(all[4].values, plain[4].values, 1e-6)
  T.eq(all[5].family, "sliding_window")
  local w, five = plain[5].values:totable(), all[5].values:totable()
  for i = 1, 13 do
    local total = 0
    for j = math.max(1, i - 2), i do total = total + w[i][j] end
    for j = 1, 13 do T.near(five[i][j], j > i - 3 and w[i][j] / total or 0, 1e-5) end
  end
  local d = stories:tap { text = TEXT, name = "D", layer = 2, head = 3 }:totable()[1]
  for i, row in ipairs(plain[3].values:totable()) do
    for j, v in ipairs(row) do T.near(all[3].values[{ i, j }]:item(), v * d[i] / i, 1e-3 * d[i]) end
  end
  s = stories:fork()
  s:patch { name = "weights", layer = 2, head = 3, from = 5, with = "zero" }
  local map = s:map { text = TEXT, layer = 2, head = 3 }.values:totable()
  for j = 1, 13 do T.eq(map[6][j], 0.0) end
  T.ok(map[4][4] > 0)
end)

-- ---- what is seen -------------------------------------------------------------------------------------

local function shown(map, locale)
  local before = os.getenv "LC_ALL"
  sys.setenv("LC_ALL", locale)
  local text = tostring(map)
  sys.setenv("LC_ALL", before or "")
  for line in text:gmatch "[^\n]+" do
    T.ok((utf8.len(line) or 999) <= 80, line)
    T.ok(not line:find "%c" and not line:find "%s$", line)
  end
  return text
end

T.test("in a terminal of 80 columns, in UTF-8 and in ASCII", function()
  local long = TEXT .. " named Lily. She loved to play outside in the park with her friend Tom.\nOne day"
  for _, text in ipairs { TEXT, long } do
    local a, b = stories:map { text = text, layer = 2, head = 3 }, stories:map { text = text, layer = 2, head = 5 }
    for _, map in ipairs { a, a - b, a:beside(b), stories:map { text = text, layer = 2 } } do
      T.ok(not shown(map, "C"):find "[\x80-\xff]", "ASCII alone")
      T.ok(shown(map, "C.UTF-8"):find "█")
    end
  end
  local text = shown(stories:map { text = TEXT, layer = 2, head = 3 }, "C")
  T.ok(text:find "layer 2 head 3 %(kernel_attention%): w / D", text)
  T.ok(text:find "\n      <s> ##                         1\n", text)
  T.ok(text:find "75%% of the row's largest, at the right", text)
  T.ok(text:find "\n      <s> ##  .* 1\n    _Once ##::", text)
  T.ok(shown(stories:map { text = TEXT, layer = 2, head = 3 } - stories:map { text = TEXT, layer = 2, head = 5 }, "C"):find "below 0")
end)

T.drawn("as a file: png or svg, whole, and nothing else", function()
  local folder = T.folder()
  local a, b = stories:map { text = TEXT, layer = 2, head = 3 }, stories:map { text = TEXT, layer = 2, head = 5 }
  T.eq(a:plot(folder .. "/a.png"), folder .. "/a.png")
  a:beside(b):plot(folder .. "/pair.svg")
  stories:map { text = TEXT, layer = 1 }:plot(folder .. "/all.svg")
  T.eq(sys.read(folder .. "/a.png"):sub(2, 4), "PNG")
  local svg = sys.read(folder .. "/pair.svg")
  T.ok(svg:find "layer 2 head 3 %- layer 2 head 5" and svg:find "_little")
  T.ok(sys.read(folder .. "/all.svg"):find "head 8")
  local files = sys.list(folder)
  table.sort(files)
  T.eq(files, { "a.png", "all.svg", "pair.svg" })
  T.raises(function() a:plot(folder .. "/a.gif") end, "a file .png or .svg expected")
  T.raises(function() a:plot(folder .. "/none/a.png") end, "there is no folder")
end)
