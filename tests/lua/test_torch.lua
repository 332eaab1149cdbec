-- What a:source("torch") prints is run: outputs and gradients that PyTorch gave for the texts lie in
-- tests/golden/torch (its README has the inputs and the file), by the SHA-256 of the text. A text that
-- has no result there fails. ATTNLAB_TORCH_TEXTS=FOLDER writes the texts instead, for new results.
local T = ...
local lab = require "attnlab"
local core = require "attnlab.core"
local sys = core.sys

local FILE = T.root .. "tests/golden/torch/results.txt"
local SIZES = { heads = 2, kv_heads = 1, head_dim = 3, value_dim = 2, width = 3, dtype = "f64" }
-- Relative to the largest number of a tensor: rounding of sums in another order. One whose terms cancel
-- is judged by a thousandth of the largest of all.
local TOLERANCE, CANCELS = 1e-12, 1e-3

-- Options that the presets leave out: words that need others beside them, and what goes together.
local SETS = {
  kernel_attention = {
    { feature_map = "softplus", similarity = "linear", denominator = { eps = 1e-3, floor = 0.2 } },
    { feature_map = "relu", similarity = "linear", denominator = "l2" },
    { feature_map = "relu", similarity = "power", order = 3, denominator = { stat = "sum", power = 0.5 } },
    { feature_map = "elu1", similarity = "linear", decay = "learned",
      denominator = { decay = "none", times_length = true, sink = 0.5 } },
    { feature_map = "l2", similarity = "cosh", logit_scale = "learned", denominator = { sink = "learned" } },
    { similarity = "taylor", order = 4, orders = { 0, 2, 4 }, denominator = { stat = "abs", power = "learned", floor = 1e-5 } },
    { similarity = "taylor", order = 3, coefficients = "learned", denominator = "abs" },
    { similarity = "taylor", order = 3, orders = { 1, 3 }, coefficients = "learned", denominator = { stat = "l2", gradient = "stopped" } },
    { similarity = "taylor", order = 4, coefficients = { 1, 0.5, 2 }, denominator = { stat = "sum", orders = { 0, 2 } } },
    { similarity = "taylor", order = 2, orders = { 1, 2 }, denominator = { stat = "l2", orders = "all" } },
    { similarity = "taylor", order = 3, coefficients = "ones", denominator = "length" },
    { similarity = "taylor", order = 36, orders = { 36 }, denominator = "none", logit_scale = 20 },
    { similarity = "taylor", order = 0, output_norm = { kind = "layer", gain = false } },
    { similarity = "power", order = 0, denominator = { stat = "length", power = 0.3 } },
    { similarity = "exp", denominator = { similarity = "square", power = 2 } },
    { similarity = "exp", denominator = { similarity = "taylor", orders = { 0, 1 }, stat = "abs" }, order = 3 },
    { similarity = "square", denominator = { stat = "l2", similarity = "cosh", gradient = "stopped" } },
    { similarity = "square", denominator = { similarity = "linear", stat = "abs" } },
    { similarity = "linear", order = 2, denominator = { similarity = "power", sink = -1 } },
    { similarity = "cosh", denominator = { stat = "sum", similarity = "exp", power = "learned" } },
    { logit_softcap = 0.7, logit_clamp = 0.4, logit_round = "bf16", logit_scale = -1.5 },
    { logit_round = "bf16", similarity = "square", output_gate = 0.5 },
    { logit_scale = 10, denominator = { floor = 1e-30 } },
    { similarity = "expr", expr = "exp(s - 100)", output_norm = { kind = "rms", scope = "joint" } },
    { decay = "constant", denominator = { stat = "l2", power = 1.5 } },
    { decay = "gated", denominator = "none", output_norm = { kind = "rms", gain = false } },
    { input_gate = "softplus", output_gate = { activation = "silu", input = "position", bias = false } },
    { input_gate = { activation = "sigmoid", per = "channel", bias = false },
      output_gate = { activation = "sigmoid", per = "channel", place = "both" } },
    { denominator = { stat = "cumulative_gate", gradient = "stopped", power = "learned" },
      output_gate = { activation = "silu", per = "channel" } },
    { denominator = { stat = "length", sink = 1, eps = 0.5, power = 0.7 }, output_norm = { kind = "layer", scope = "joint" } },
    { denominator = { stat = "length", power = "learned" }, output_norm = { kind = "l2", eps = 0.4 } },
    { denominator = { stat = "length", side = "value", power = 0.5 }, output_norm = { kind = "l2", gain = "learned", scope = "joint" } },
    { denominator = "none", output_norm = { kind = "rms", gain = "width", eps = 0 } },
    { denominator = "none", output_norm = { kind = "layer", gain = 3, eps = 0, scope = "joint" }, feature_map = "relu", similarity = "linear" },
    { output_norm = { kind = "rms", gain = "learned" }, output_gate = { activation = "sigmoid", input = "position" } },
    { similarity = "expr", expr = "log(1+exp(s))^2" },
    { similarity = "expr", expr = "exp(lambda*s - slope*log(i-j+1))", expr_params = { lambda = 1, slope = 0.5 } },
    { similarity = "expr", expr = "max(t*s, s) + min(i-j, 2)/1e1 + softplus(2*s)", expr_params = { t = 1 },
      denominator = { stat = "abs", power = 0.5 } },
    { similarity = "expr", expr = "1/(1+s^2) + tanh(s)*sigmoid(s) + cos(pi*s)/4 + abs(sin(s)) + erf(s)", decay = "learned",
      denominator = { decay = "none", stat = "abs" } },
    { similarity = "expr", expr = "expm1(s)^2 + log1p(s^2) + sqrt(relu(s)+1) + sinh(s)^2 + cosh(s)", denominator = "l2" },
    { similarity = "expr", expr = "2" },
    { feature_map = "silu", similarity = "taylor", order = 1 },
    { feature_map = "expr", map_expr = "1 + tanh(x)*max(x, 0.2)", similarity = "linear", logit_scale = "learned" },
    { similarity = "sigmoid", denominator = { similarity = "softplus", stat = "abs" } },
    { similarity = "softplus", denominator = { similarity = "sigmoid", power = 0.5 }, decay = "constant" },
    { input_gate = "silu", output_gate = { activation = "softplus", per = "channel" } },
    { input_gate = { activation = "expr", expr = "x^2 + min(x, 0.1)" }, denominator = "none",
      output_gate = { activation = "expr", expr = "log1p(exp(x)) - abs(x)/3", per = "channel", place = "pre_norm" }, output_norm = "rms" },
    { output_norm = { kind = "rms", gain = "width", eps = 0.3, scope = "joint" } },
    { logit_scale = 1, logit_round = "bf16", logit_clamp = 0.08642578125 }, -- one of the rounded logits
    { feature_map = "expr", map_expr = "max(x, x) + min(x, x)", similarity = "linear", denominator = "none" },
  },
  delta_rule = {
    { feature_map = "relu", norm = "sum", beta = 0.75, decay = "constant", output_norm = "l2" },
    { feature_map = "silu", norm = "none", beta = "double_sigmoid", decay = "learned", logit_scale = 0.3 },
    { feature_map = "elu1", norm = "l2", decay = "gated" },
    { feature_map = "softplus", norm = "sum" },
  },
  channel_softmax = {
    { decay = "gated", bonus = 0.5 }, { decay = "constant", bonus = "learned", read = "sigmoid" },
    { decay = "learned" },
  },
  sliding_window = {
    { window = 2 }, { window = 3, logit_scale = "learned", sink = 0.5, logit_softcap = 0.8 },
    { window = 2, logit_scale = 0.7, sink = "learned" },
  },
}

-- ---- cases ----------------------------------------------------------------------------------------

local function new(name, options)
  local spec = {}
  for k, v in pairs(SIZES) do spec[k] = v end
  for k, v in pairs(options or {}) do spec[k] = v end
  return lab.attention.new(name, spec)
end

local cases = {}
local function add(name, a)
  local ok, text = pcall(a.source, a, "torch")
  if not ok and text:find "does not print itself as torch" then return end
  cases[#cases + 1] = { name = name, a = a, text = text, hash = sys.sha256(text) }
end
for _, p in ipairs(core.attn.list()) do add(p.name, new(p.name)) end
for _, f in ipairs(core.attn.families()) do
  for i, options in ipairs(SETS[f.name] or {}) do add(("%s set %d"):format(f.name, i), new(f.name, options)) end
end

-- A word that none of these has gets a case of its own, so that a new row of a slot has one.
local SKIPPED = { form = true, impl = true }
local function meets(family, path, word)
  for _, c in ipairs(cases) do
    if c.a:family() == family and (" " .. c.a:text(true) .. " "):find(" " .. path .. "=" .. word .. " ", 1, true) then return true end
  end
  return false
end
local function complete(family, rows, prefix)
  for _, row in ipairs(rows) do
    local path = prefix .. row.name
    if row.fields then complete(family, row.fields, path .. ".") end
    for _, word in ipairs(not SKIPPED[path] and row.choices or {}) do
      if not meets(family, path, word) then
        local record, field = path:match "^(.*)%.(.*)$"
        local options = record and { [record] = { [field] = word } } or { [path] = word }
        add(("%s %s=%s"):format(family, path, word), new(family, options))
      end
    end
  end
end
for _, f in ipairs(core.attn.families()) do complete(f.name, core.attn.options(f.name), "") end

-- Two calls: rows of one batch that are whole, padded and empty; and, where a key has no order (no decay,
-- no distance i - j in an expression), all of them.
local PADDED = { name = "causal, lengths 4 2 0", B = 3, T = 4, lengths = { 4, 2, 0 }, causal = true }
local WHOLE = { name = "not causal", B = 1, T = 3, causal = false }
local function calls_of(c)
  local all = c.a:family() == "kernel_attention" and c.a:text(true):find(" decay=none ", 1, true)
    and not c.text:find("i-j", 1, true)
  return all and { PADDED, WHOLE } or { PADDED }
end

-- ---- inputs ---------------------------------------------------------------------------------------

-- Number i of a tensor of this name: FNV-1a of "name:i", mixed, in [-1, 1).
local function value(name, i)
  local h = 2166136261
  for c in (name .. ":" .. i):gmatch "." do h = (h ~ c:byte()) * 16777619 & 0xffffffff end
  h = (h ~ h >> 16) * 0x85ebca6b & 0xffffffff
  h = (h ~ h >> 13) * 0xc2b2ae35 & 0xffffffff
  return ((h ~ h >> 16) >> 8) / 2 ^ 23 - 1
end

local function tensor(name, shape)
  local n, data = 1, {}
  for _, m in ipairs(shape) do n = n * m end
  for i = 1, n do data[i] = value(name, i - 1) end
  return core.tensor { data = data, shape = shape, dtype = "f64" }
end

-- Output and gradients by name, the gradients of sum(o * g).
local function run(c, call)
  local z, inputs, of = SIZES, {}, c.a:parameters()
  local B, Ts = call.B, call.T
  for name, shape in pairs { q = { B, Ts, z.heads, z.head_dim }, k = { B, Ts, z.kv_heads, z.head_dim },
                             v = { B, Ts, z.kv_heads, z.value_dim }, x = { B, Ts, z.width } } do
    inputs[name] = tensor(name, shape)
    inputs[name]:requires_grad(true)
  end
  for name, t in pairs(of) do
    t:copy_(tensor(name, t:shape()))
    t:zero_grad()
  end
  local o = c.a:forward { q = inputs.q, k = inputs.k, v = inputs.v, x = inputs.x, causal = call.causal, lengths = call.lengths }
  local out = { o = o:flat() };
  (o * tensor("g", o:shape())):sum():backward()
  for name, t in pairs(inputs) do out[name] = t:grad() and t:grad():flat() end
  for name, t in pairs(of) do out["p." .. name] = t:grad() and t:grad():flat() end
  return out
end

-- ---- writing the texts ----------------------------------------------------------------------------

local folder = os.getenv "ATTNLAB_TORCH_TEXTS"
if folder then
  local index = {}
  for _, c in ipairs(cases) do
    local shapes, calls = {}, calls_of(c)
    for name, t in pairs(c.a:parameters()) do shapes[name] = t:shape() end
    sys.write(folder .. "/" .. c.hash .. ".py", c.text)
    index[#index + 1] = { name = c.name, hash = c.hash, parameters = shapes, calls = calls, sizes = SIZES }
  end
  sys.write(folder .. "/index.json", core.json.encode(index))
end

-- ---- tests ----------------------------------------------------------------------------------------

-- { [hash] = { [name of call] = { [name of tensor] = numbers } } }
local function read_results()
  local all, call, entry = {}, nil, nil
  for line in sys.read(FILE):gmatch "[^\n]+" do
    local word, rest = line:match "^(%S+) ?(.*)$"
    if word == "text" then
      entry = {}
      all[rest:match "^%x+"] = entry
    elseif word == "call" then
      call = {}
      entry[rest] = call
    elseif word ~= "#" then
      local numbers = {}
      for x in rest:gmatch "%S+" do numbers[#numbers + 1] = tonumber(x) or error(FILE .. ": a number expected, got " .. x) end
      call[word] = numbers
    end
  end
  return all
end

local function largest(numbers)
  local most = 0
  for _, x in ipairs(numbers) do most = math.max(most, math.abs(x)) end
  return most
end

local function agree(got, want, where)
  local all = 0
  for _, numbers in pairs(want) do all = math.max(all, largest(numbers)) end
  for name, numbers in pairs(want) do
    local own, limit = got[name], TOLERANCE * math.max(largest(numbers), CANCELS * all)
    T.ok(not own or #own == #numbers, where .. ": size of " .. name)
    for i, x in ipairs(numbers) do
      local y = own and own[i] or 0 -- no gradient is a gradient of zeros
      if not (math.abs(y - x) <= limit) then
        error(("%s: %s[%d]: the family gives %.17g, its text %.17g (%.2g apart, %.2g allowed)"):format(where, name, i, y, x, math.abs(y - x), limit), 0)
      end
    end
  end
  for name, numbers in pairs(got) do
    if not want[name] and largest(numbers) > 0 then error(("%s: %s: the text has no gradient"):format(where, name), 0) end
  end
end

local results = sys.exists(FILE) and read_results() or {}
for _, c in ipairs(cases) do
  T.test("the text of " .. c.name .. " computes what the family does", function()
    local have = results[c.hash]
    if not have then
      error(("no result for it in %s (SHA-256 %s): run it in PyTorch and add what it gives, as the README beside it says"):format(FILE, c.hash), 0)
    end
    for _, call in ipairs(calls_of(c)) do
      agree(run(c, call), have[call.name] or error("no result for the call: " .. call.name, 0), call.name)
    end
  end)
end

T.test("every result is that of a text", function()
  local known = {}
  for _, c in ipairs(cases) do known[c.hash] = true end
  for hash in pairs(results) do T.ok(known[hash], "a text has the SHA-256 " .. hash) end
end)
