-- Configurations: defaults, keys, types, attention by layer, differences.
local T = ...
local config = require "attnlab.config"
local core = require "attnlab.core"

T.test("defaults are filled in and sizes follow", function()
  local c = config.resolve {}
  T.eq(c.model.width, 128)
  T.eq(c.model.head_dim, 32)
  T.eq(c.model.kv_heads, 4)
  T.eq(c.model.mlp, 256)
  T.eq(c.train.betas, { 0.9, 0.99 })
  T.eq(c.attention, { preset = "softmax" })
  T.eq(config.resolve(c), c)
end)

T.test("options as one line", function()
  T.eq(config.text { output_norm = "l2", denominator = { stat = "sum", floor = 0.5 }, orders = { 1, 2 } },
    "denominator.floor=0.5 denominator.stat=sum orders={1,2} output_norm=l2")
  T.eq({ config.text "none", config.text {} }, { "none", "" })
end)

T.test("nested, dotted and bare keys mean the same", function()
  local a = config.resolve { model = { width = 64 }, train = { steps = 7 }, attention = { denominator = { stat = "length" } } }
  T.eq(a, config.resolve { ["model.width"] = 64, ["train.steps"] = 7, ["attention.denominator.stat"] = "length" })
  T.eq(a, config.resolve { width = 64, steps = 7, ["attention.denominator.stat"] = "length" })
  T.eq(a, config.resolve { width = 64.0, steps = 7.0, ["attention.denominator"] = { stat = "length" } })
end)

T.test("text is read as the key's kind of value", function()
  local c = {}
  for _, kv in ipairs { { "steps", "100" }, { "lr", "1e-4" }, { "betas", "0.8,0.95" }, { "tied", "true" },
                        { "data", "12" }, { "attention.denominator.floor", "1" }, { "attention.orders", "{0,2}" },
                        { "attention.similarity", "taylor" }, { "attention.rope", "none" } } do
    config.set(c, kv[1], kv[2])
  end
  T.eq(c.train, { steps = 100, lr = 1e-4, betas = { 0.8, 0.95 }, data = "12" })
  T.eq(c.model, { tied = true })
  T.eq(c.attention, { denominator = { floor = 1 }, orders = { 0, 2 }, similarity = "taylor", rope = "none" })
end)

T.test("unknown keys name the nearest", function()
  T.raises(function() config.resolve { stpes = 3 } end, "unknown key 'stpes' %(did you mean 'steps'%?%)")
  T.raises(function() config.resolve { ["train.warmup_step"] = 3 } end, "did you mean 'train.warmup_steps'")
  T.raises(function() config.resolve { model = { widht = 3 } } end, "did you mean 'model.width'")
  T.raises(function() config.resolve { attention = { denominatr = "none" } } end, "did you mean 'denominator'")
  T.raises(function() config.resolve { attention = { roep = "none" } } end, "did you mean 'rope'")
  T.raises(function() config.resolve { attention = { denominator = { flor = 1 } } } end, "did you mean 'floor'")
  T.raises(function() config.resolve { attention = "sofmax" } end, "softmax")
  T.raises(function() config.resolve { attention = { rope_base = 1e308 } } end, "attention.rope_base': number in 1..1e%+300 expected, got 1e%+308")
  T.raises(function() config.resolve { { name = "x" } } end, "names of options expected")
end)

T.test("a key is given once, however it is written", function()
  T.raises(function() config.resolve { width = 8, ["model.width"] = 16 } end, "'model.width' and 'width' are the same key")
  T.raises(function() config.resolve { width = 8, model = { width = 24 } } end, "'width' in model and 'width' are the same key")
  T.raises(function() config.resolve { attention = { denominator = "none" }, ["attention.denominator"] = "sum" } end,
    "'denominator' in attention and 'attention.denominator' are the same key")
  T.raises(function() config.resolve { attention = { denominator = { floor = 1 } }, ["attention.denominator"] = "sum" } end,
    "are the same key")
  T.raises(function() config.resolve { attention = "softmax", ["attention.preset"] = "p2/cottention" } end, "are the same key")
  T.raises(function() config.resolve { attention = { "softmax", ["1"] = "p2/cottention" }, layers = 1 } end, "'1' is given twice")
  T.raises(function() config.resolve { attention = { default = "softmax", preset = "p2/cottention" } } end, "'preset' is given twice")
  for _, v in ipairs { "length", { stat = "length" } } do
    T.raises(function() config.resolve { ["attention.denominator"] = v, ["attention.denominator.stat"] = "sum" } end,
      "'attention.denominator' and 'attention.denominator.stat' are the same key")
  end
  -- a preset and what is changed of it
  local c = config.resolve { attention = { preset = "softmax", denominator = "length" }, ["attention.denominator.power"] = 0.5 }
  T.eq(c.attention, { preset = "softmax", denominator = { stat = "length", power = 0.5 } })
end)

T.test("nothing that is given is passed over", function()
  T.raises(function() config.resolve { model = { 2 } } end, "model: key 1: names of options expected")
  T.raises(function() config.resolve { attention = { [true] = 1 } } end, "attention: key true: names of options")
  T.raises(function() config.resolve { attention = { default = "softmax", [0] = "softmax" } } end, "attention: key 0: names of options")
  T.raises(function() config.resolve { attention = { preset = "softmax", ["01"] = "softmax" } } end, "'01'")
  T.raises(function() config.resolve { layers = 3, attention = { "softmax", nil, "softmax" } } end, "none for layer 2")
  T.raises(function() config.resolve { betas = { nil, 0.9 } } end, "'train.betas'")
end)

T.test("types and ranges are checked, the option named", function()
  T.raises(function() config.resolve { steps = 0 } end, "'train.steps': integer >= 1 expected, got 0")
  T.raises(function() config.resolve { steps = 1.5 } end, "'train.steps'.*got 1.5")
  T.raises(function() config.resolve { steps = "many" } end, "'train.steps'.*'many'")
  T.raises(function() config.resolve { lr = 0 / 0 } end, "'train.lr'")
  T.raises(function() config.resolve { lr = 1 / 0 } end, "'train.lr'")
  T.raises(function() config.resolve { betas = { 0.9 } } end, "'train.betas'")
  T.raises(function() config.resolve { betas = { 0.9, 2 } } end, "'train.betas'")
  T.raises(function() config.resolve { schedule = "linaer" } end, "did you mean 'linear'")
  T.raises(function() config.resolve { min_lr = 1 } end, "min_lr")
  T.raises(function() config.resolve { attention = { conv = -1 } } end, "'attention.conv'")
  T.raises(function() config.resolve { attention = 7 } end, "attention: preset or table")
  T.raises(function() config.resolve { width = 130 } end, "model.width %(130%) must be divisible by model.heads %(4%)")
  T.raises(function() config.resolve { kv_heads = 3 } end, "model.heads %(4%) must be a multiple of model.kv_heads %(3%)")
  T.raises(function() config.resolve { attention = { similarity = "taylor", order = -3 } } end, "order")
end)

T.test("a scalar stands for a record's first field", function()
  local c = config.set({}, "attention.denominator", "length")
  T.eq(c.attention, { denominator = "length" })
  config.set(c, "attention.denominator.power", 0.5)
  T.eq(c.attention, { denominator = { stat = "length", power = 0.5 } })
  config.set(c, "attention.denominator", "none")
  T.eq(c.attention, { denominator = "none" })
end)

T.test("attention by layer as a text", function()
  local function presets(text, layers)
    local out, c = {}, config.resolve { layers = layers, attention = text }
    for i = 1, layers do out[i] = config.attention_of(c.attention, i).preset end
    return table.concat(out, " ")
  end
  T.eq(presets("3xlinear_elu,1xsoftmax", 4), "linear_elu linear_elu linear_elu softmax")
  T.eq(presets("2x(linear_elu, softmax), p2/cottention", 5), "linear_elu softmax linear_elu softmax p2/cottention")
  T.eq(presets("2xsoftmax", 2), "softmax softmax")
  T.raises(function() presets("3xlinear_elu,1xsoftmax", 8) end, "4 choices for 8 layers")
  T.raises(function() presets("3xlinear_elu,1xsoftmx", 4) end, "attention.4: .*softmx")
  T.raises(function() presets("softmax,,softmax", 2) end, "the name of a preset, or %(..%) expected at ',softmax'")
  T.raises(function() presets("2x(softmax", 2) end, "expected at")
  T.raises(function() presets("softmax,softmax)", 2) end, "',' expected at '%)'")
  T.raises(function() presets("0xsoftmax", 2) end, "1 to 10000 layers expected")
  T.raises(function() presets("9999999999999999999x9999999999xsoftmax", 2) end, "expected")
  T.raises(function() presets("200x(200xsoftmax)", 2) end, "1 to 10000 layers expected")
end)

T.test("attention by layer", function()
  local c = config.resolve { layers = 3, attention = { default = "softmax", [2] = "p1/linear_relu" } }
  T.eq(c.attention, { preset = "softmax", ["2"] = { preset = "p1/linear_relu" } })
  T.eq(config.attention_of(c.attention, 1), { preset = "softmax" })
  T.eq(config.attention_of(c.attention, 2), { preset = "p1/linear_relu" })
  c = config.resolve { layers = 2, attention = { preset = "softmax", rope = "none", ["2"] = { denominator = "none" } } }
  T.eq(config.attention_of(c.attention, 2), { preset = "softmax", rope = "none", denominator = "none" })
  c = config.resolve { layers = 2, attention = { "softmax", "p2/cottention" } }
  T.eq(config.attention_of(c.attention, 2), { preset = "p2/cottention" })
  c = config.resolve { layers = 2, ["attention.2.denominator"] = "none" }
  T.eq(config.attention_of(c.attention, 2).denominator, "none")
  T.raises(function() config.resolve { layers = 3, attention = { "softmax", "softmax" } } end, "2 choices for 3 layers")
  T.raises(function() config.resolve { layers = 2, attention = { default = "softmax", [3] = "softmax" } } end, "2 layers")
  T.raises(function() config.resolve { layers = 2, attention = { default = "softmax", [2] = { denominatr = 1 } } } end,
    "attention.2: .*'denominator'")
end)

T.test("flatten and unflatten are inverse, diff names what differs", function()
  local a = config.resolve { attention = { similarity = "taylor", orders = { 0, 2 }, denominator = { floor = 1 } } }
  T.eq(config.unflatten(config.flatten(a)), a)
  T.eq(config.flatten(a)["attention.denominator.floor"], 1)
  local b = config.set(config.copy(a), "lr", 1e-4)
  b.attention.orders = nil
  T.eq(config.diff(a, b), { { key = "attention.orders", a = { 0, 2 } }, { key = "train.lr", a = 3e-3, b = 1e-4 } })
  T.eq(config.diff(a, a), {})
end)

T.test("the canonical text writes defaults out", function()
  local a, b = config.resolve {}, config.resolve { attention = { preset = "softmax", denominator = "sum" } }
  T.eq(config.canonical(a), config.canonical(b))
  T.ok(config.canonical(a):find("rope=half", 1, true))
  T.ok(config.canonical(a) ~= config.canonical(config.resolve { attention = { denominator = "none" } }))
end)

T.test("every preset is a valid configuration", function()
  for _, p in ipairs(require("attnlab.attention").list()) do
    config.resolve { attention = p.name }
  end
end)

T.test("what a configuration means is asked without weights", function()
  local before = core.memory().peak
  local cfg = config.resolve { width = 1 << 29, heads = 65536, head_dim = 65536, attention = { output_gate = { activation = "sigmoid", per = "channel" } } }
  T.eq(#config.variants(cfg), 1)
  T.ok(config.canonical(cfg):find("output_gate.activation=sigmoid", 1, true))
  T.ok(core.memory().peak - before < 1 << 20, "no weights were made")
  local a = core.attn.new("softmax", {}, { heads = 1, head_dim = 2, bare = true })
  local q = core.zeros { shape = { 1, 1, 1, 2 } }
  T.raises(function() a:forward { q = q, k = q, v = q } end, "made without parameters")
  T.raises(function() a:set { dropout = 0.1 } end, "made without parameters")
  T.raises(function() config.resolve { width = 1 << 40, heads = 2, head_dim = 2 } end, "width")
end)

T.test("numbers that the kernels would refuse are refused where they are given", function()
  T.raises(function() config.resolve { norm_eps = 1e308 } end, "option 'model.norm_eps': number in 0..1 expected, got 1e%+308")
  T.raises(function() config.resolve { attention = { qk_norm = true, qk_norm_eps = 2 } } end, "qk_norm_eps")
  T.eq(math.type(config.resolve { lr = math.maxinteger }.train.lr), "float")
end)

T.test("a configuration from a file is held against its rows before it is counted through", function()
  local function given(change)
    local cfg = config.resolve {}
    change(cfg)
    return function() config.held(cfg) end
  end
  given(function() end)()
  given(function(c) c.model.tied = nil end)() -- a key that an older version had not
  T.raises(given(function(c) c.model.layers = 1 << 60 end), "option 'model.layers': integer in 1..10000 expected, got 1152921504606846976")
  T.raises(given(function(c) c.model.layers = nil end), "option 'model.layers': .*got nil")
  T.raises(given(function(c) c.model.width = "8" end), "option 'model.width': integer >= 1 expected, got '8'")
  T.raises(given(function(c) c.train.betas = core.json.null end), "option 'train.betas'")
  T.raises(given(function(c) c.train = core.json.null end), "train: a table expected")
  T.raises(given(function(c) c.model = nil end), "model: a table expected, got nil")
end)
