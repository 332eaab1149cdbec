-- a:source("latex") and a:source("torch"): texts that are written down, and what holds for every preset
-- and family.
local T = ...
local lab = require "attnlab"
local core = require "attnlab.core"

local function new(name, options)
  local spec = { heads = 4, kv_heads = 2, head_dim = 6, value_dim = 5, width = 7 }
  for k, v in pairs(options or {}) do spec[k] = v end
  return lab.attention.new(name, spec)
end

-- A family need not have a text of itself: the call says so.
local function prints(a)
  local ok, why = pcall(a.source, a, "torch")
  T.ok(ok or why:find "does not print itself as torch", why)
  return ok
end

local HEAD = [[
    B, T, H, D = q.shape
    S, Hkv, E = k.shape[1], k.shape[2], v.shape[3]
    i, j = torch.arange(T)[:, None], torch.arange(S)
    seen = (j <= i if causal else torch.ones(T, S, dtype=torch.bool)).expand(B, T, S)
    if lengths is not None:
        seen = seen & (j < lengths.view(B, 1, 1))
]]

T.test("softmax as a formula and as PyTorch", function()
  T.eq(new("softmax"):source "latex", [[
\begin{aligned}
o_i &= \frac{1}{D_i} \sum_j w_{ij} \, v_j,\\
w_{ij} &= \exp\left(s_{ij}\right),\\
s_{ij} &= q_i \cdot k_j / \sqrt{d},\\
D_i &= \sum_j w_{ij}
\end{aligned}
% sums over the keys j that row i sees; n_i: their number
]])
  T.eq(new("softmax"):source "torch", [[
import math
import torch
import torch.nn.functional as F


def attention(q, k, v, x=None, p=None, causal=True, lengths=None):
    # o_i = (sum_j exp(s) v_j) / (sum_j exp(s));  s = q_i.k_j / sqrt(D)
    # q (B,T,H,D), k (B,S,Hkv,D), v (B,S,Hkv,E), x (B,T,C); p: parameters by name
]] .. HEAD .. [[
    s = torch.einsum("bthd,bshd->bhts", q, k.repeat_interleave(H // Hkv, 2))
    s = s / math.sqrt(D)
    w = torch.exp(s)
    w = w.masked_fill(~seen[:, None], 0)
    y = torch.einsum("bhts,bshe->bthe", w, v.repeat_interleave(H // Hkv, 2))
    W = w.sum(-1).transpose(1, 2)  # (B,T,H)
    live = W > 0  # other rows give 0
    W = torch.where(live, W, 1)
    r = live / W
    y = r[..., None] * y
    return y
]])
end)

T.test("only what is switched on is printed", function()
  T.eq(new("p1/softmax_divS_gate"):source "latex", [[
\begin{aligned}
o_i &= g_i \odot \frac{1}{D_i} \sum_j w_{ij} \, v_j,\\
w_{ij} &= \exp\left(\min\left(s_{ij}, 5\right)\right),\\
s_{ij} &= q_i \cdot k_j / \sqrt{d},\\
D_i &= n_i,\\
g_i &= \sigma(x_i W_g + c_g)
\end{aligned}
% sums over the keys j that row i sees; n_i: their number
]])
  T.eq(new("delta/gated_deltanet"):source "latex", [[
\begin{aligned}
S_t &= a_t S_{t-1} \left(I - b_t k_t k_t^{\top}\right) + b_t v_t k_t^{\top}, \quad S_0 = 0,\\
o_t &= \gamma \odot y_t / \sqrt{\mathrm{mean}(y_t^2) + 10^{-6}}, \quad y_t = S_t q_t / \sqrt{d},\\
b_t &= \sigma(x_t W_b),\\
a_t &= \sigma(-x_t W_a),\\
q_t, k_t &: \ z \mapsto z / \lVert z \rVert
\end{aligned}
]])
  local text = new("p1/gated_softmax_no_gate_L2norm_nodivS_noclamp"):source "torch"
  T.ok(text:find("y = norm(y, 1e-12)\n", 1, true), text)
  for _, word in ipairs { "clamp", "at the limit", "live", "decay", "sigmoid" } do T.ok(not text:find(word, 1, true), word .. " in: " .. text) end
end)

T.test("an expression is printed as Python and cannot leave its comment", function()
  local a = new("kernel_attention", { similarity = "expr", expr = "exp(lambda*s -\n min(i-j, 3)^2/1e1)", expr_params = { lambda = 1 } })
  local text = a:source "torch"
  T.ok(text:find('p_lambda = p["expr.lambda"].view(H, 1, 1)\n    weight = lambda s, i, j: exp(p_lambda*s -  min(i-j, 3)**2/1e1)\n', 1, true), text)
  T.ok(text:find("    # [^\n]*lambda%*s %-  min[^\n]*\n    # q ", 1), text)
end)

T.test("the functions of every expression are defined, however long the texts are", function()
  local function long(first, last) return first .. (" "):rep(460) .. last end
  local a = new("kernel_attention", { similarity = "expr", expr = long("exp(s)", "+s"), feature_map = "expr",
    map_expr = long("x", "+tanh(x)"), input_gate = { activation = "expr", expr = long("x", "+x") },
    output_gate = { activation = "expr", expr = long("x", "+sin(x)") } })
  local text = a:source "torch"
  for _, name in ipairs { "exp", "tanh", "sin" } do T.ok(text:find("\n    " .. name .. " = number(lambda t: torch." .. name .. "(t))\n", 1, true), name) end
end)

-- 1/34! is below the smallest normal number of f32, in which a reader may run it.
T.test("a series of high order is printed so that f32 can compute it", function()
  local text = new("p1/softmax_taylor_80terms"):source "torch"
  T.ok(text:find([[
    w = torch.ones_like(s)
    for m in range(79, 0, -1):  # sum of s^m / m!
        w = 1 + w * s / m
]], 1, true), text)
end)

-- Counts of braces and of \left and \right, which no line may close before it opens.
local function balanced(text, name)
  local depth, open = 0, 0
  for at, c in text:gmatch "()([{}])" do
    if text:sub(at - 1, at - 1) ~= "\\" then depth = depth + (c == "{" and 1 or -1) end
    T.ok(depth >= 0, name .. ": a brace too many: " .. text)
  end
  for word in text:gmatch "\\(%a+)" do
    if word == "left" then open = open + 1 elseif word == "right" then open = open - 1 end
    T.ok(open >= 0, name .. ": \\right without \\left: " .. text)
  end
  T.ok(depth == 0 and open == 0, name .. ": left open: " .. text)
end

local EXTRA = {
  { similarity = "taylor", order = 4, orders = { 0, 2, 4 }, denominator = { stat = "abs", power = "learned", floor = 1e-5 } },
  { similarity = "taylor", order = 2, coefficients = { 1, 0.5, 2 }, logit_softcap = 30, logit_clamp = 5, logit_round = "bf16" },
  { feature_map = "elu1", similarity = "linear", decay = "learned", denominator = { decay = "none", times_length = true, sink = 0.5 } },
  { input_gate = "softplus", output_gate = { activation = "silu", input = "position", bias = false }, logit_scale = "learned" },
  { output_norm = { kind = "layer", scope = "joint" }, denominator = { stat = "l2", similarity = "cosh", gradient = "stopped" } },
  { similarity = "expr", expr = "log(1+exp(s))^2" } }

-- what has no text is among them
lab.attention.load(core.sys.program():match "^(.*)/[^/]*$" .. "/tests/plugins/mean.so")

T.test("every preset and family prints a balanced formula and a function", function()
  local all = {}
  local function add(name, a)
    if prints(a) then all[#all + 1] = { name, a } end
  end
  for _, a in ipairs(core.attn.list()) do add(a.name, new(a.name)) end
  for _, f in ipairs(core.attn.families()) do add(f.name, new(f.name)) end
  for i, options in ipairs(EXTRA) do add("options " .. i, new("kernel_attention", options)) end
  T.ok(#all > 50, "all of them")
  for _, case in ipairs(all) do
    local name, a = table.unpack(case)
    local latex, torch = a:source "latex", a:source "torch"
    T.ok(latex:find "^\\begin{aligned}\n.*\n\\end{aligned}\n", latex)
    balanced(latex, name)
    T.ok(torch:find("\ndef attention(q, k, v, x=None, p=None, causal=True, lengths=None):\n", 1, true), torch)
    T.ok(torch:find "\n    return [^\n]+\n$", torch)
    for p in pairs(a:parameters()) do T.ok(torch:find(('p["%s"]'):format(p), 1, true), name .. " uses " .. p .. ":\n" .. torch) end
  end
end)

T.test("another kind is refused", function()
  local ok, message = pcall(function() return new("softmax"):source "tourch" end)
  T.ok(not ok and message:find("formula, latex or torch needed, got 'tourch' (did you mean 'torch'?)", 1, true), message)
  ok, message = pcall(function() return new("softmax"):source() end)
  T.ok(not ok and message:find "string expected", message)
end)

T.test("the formula in one line is what describe prints", function()
  for _, a in ipairs(core.attn.list()) do
    local want = core.attn.describe(a.name):match "\nformula:  ([^\n]*)"
    if want then T.eq(new(a.name):source "formula", want) end
  end
  T.ok(new("softmax", { denominator = "none", output_norm = "l2" }):source "formula":find "^o_i = l2%[")
end)
