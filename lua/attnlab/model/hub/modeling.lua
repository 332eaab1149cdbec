-- The modeling file of an exported Llama whose attention is none that transformers has: a text in its language, of what
-- source("torch") prints of each family, with the layer around it and the model around that. It has no cache: generate()
-- runs the whole text for every token. Sequences of a batch are padded on the right, as attention_mask says.
local names = require "attnlab.names"

local M = { FILE = "modeling_attnlab.py" }

local HEAD = [[
# Written by attnlab: a Llama with attention of its own, %s.
# Loads with transformers 4.5x and 5.x: AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True). No cache; rows of
# a batch are padded on the right.
import math

import torch
import torch.nn.functional as F
import transformers
from torch import nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

]]

local BODY = [[
class AttnlabConfig(PretrainedConfig):
    model_type = "attnlab"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)


class Norm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class Extra(nn.Module):
    """Parameters by names with dots."""

    def __init__(self, shapes):
        super().__init__()
        for name, shape in shapes.items():
            at, (*path, last) = self, name.split(".")
            for word in path:
                if word not in at._modules:
                    at.add_module(word, nn.Module())
                at = at._modules[word]
            at.register_parameter(last, nn.Parameter(torch.zeros(shape)))


def frequencies(r):
    n = r["dims"] // 2
    g = [r["base"] ** (-i / n) for i in range(n)]
    if r["scaling"] == "none":
        return g
    if r["scaling"] == "linear":
        kept = [0.0] * n
    elif r["scaling"] == "llama3":
        kept = [(r["original"] * f / (2 * math.pi) - r["low"]) / (r["high"] - r["low"]) for f in g]
    else:
        ends = [n * math.log(r["original"] / (turns * 2 * math.pi)) / math.log(r["base"]) for turns in (r["high"], r["low"])]
        if r["truncate"]:
            ends = [math.floor(ends[0]), math.ceil(ends[1])]
        first, last = max(ends[0], 0), min(ends[1], 2 * n - 1)
        last = last + 0.001 if first == last else last
        kept = [1 - (i - first) / (last - first) for i in range(n)]
    return [f * (e + (1 - e) / r["factor"]) for f, e in zip(g, (min(max(e, 0.0), 1.0) for e in kept))]


def turn(x, r):  # (B,T,H,D)
    n = r["dims"] // 2
    f = torch.tensor(frequencies(r), dtype=torch.float64, device=x.device)
    angle = torch.arange(x.shape[1], dtype=torch.float64, device=x.device)[:, None] * f
    c, s = ((r["size"] * t).to(x.dtype)[:, None] for t in (angle.cos(), angle.sin()))
    y = x[..., : 2 * n]
    a, b = (y[..., 0::2], y[..., 1::2]) if r["interleaved"] else (y[..., :n], y[..., n:])
    a, b = a * c - b * s, b * c + a * s
    y = torch.stack((a, b), -1).flatten(-2) if r["interleaved"] else torch.cat((a, b), -1)
    return torch.cat((y, x[..., 2 * n :]), -1)


class Attention(nn.Module):
    def __init__(self, layer):
        super().__init__()
        heads, kv, dim = MODEL["heads"], MODEL["kv_heads"], MODEL["head_dim"]
        for name, size in (("q_proj", heads), ("k_proj", kv), ("v_proj", kv)):
            setattr(self, name, nn.Linear(MODEL["width"], size * dim, bias=layer["bias"] in (True, "qkv")))
        self.o_proj = nn.Linear(heads * dim, MODEL["width"], bias=layer["bias"] in (True, "out"))
        if layer["qk_norm"]:
            self.q_norm, self.k_norm = Norm(dim, layer["qk_norm"]), Norm(dim, layer["qk_norm"])
        self.attnlab, self.layer, self.attend = Extra(layer["shapes"]), layer, layer["attend"]()

    def convolve(self, y, which, p):
        w, T = p["conv." + which + ".weight"], y.shape[1]
        y = F.pad(y, (0, 0, w.shape[0] - 1, 0))
        y = p["conv." + which + ".bias"] + sum(w[j] * y[:, j : j + T] for j in range(w.shape[0]))
        word = "none" if which == "v" else self.layer["conv_activation"]
        return y if word == "none" else getattr(F, word)(y)

    def forward(self, x, lengths):
        B, T, _ = x.shape
        heads, kv, dim = MODEL["heads"], MODEL["kv_heads"], MODEL["head_dim"]
        p = dict(self.attnlab.named_parameters())

        def part(which, size):
            y = getattr(self, which + "_proj")(x)
            if self.layer["conv"]:
                y = self.convolve(y, which, p)
            y = y.view(B, T, size, dim)
            return getattr(self, which + "_norm")(y) if self.layer["qk_norm"] and which != "v" else y

        q, k, v = part("q", heads), part("k", kv), part("v", kv)
        if self.layer["rope"]:
            q, k = turn(q, self.layer["rope"]), turn(k, self.layer["rope"])
        with torch.device(x.device):
            o = self.attend(q, k, v, x, p, True, lengths)
        if self.layer["value_residual"]:
            o = o + v.repeat_interleave(heads // kv, 2) * p["value_residual"]
        if self.layer["calibrated"]:
            o = o * p["calibration"].view(heads, 1)
        return self.o_proj(o.flatten(2))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        width, hidden, bias = MODEL["width"], MODEL["mlp"], MODEL["mlp_bias"]
        self.gate_proj = nn.Linear(width, hidden, bias=bias)
        self.up_proj = nn.Linear(width, hidden, bias=bias)
        self.down_proj = nn.Linear(hidden, width, bias=bias)

    def forward(self, x):
        return self.down_proj(activation(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.input_layernorm = Norm(MODEL["width"], MODEL["norm_eps"])
        self.self_attn = Attention(layer)
        self.post_attention_layernorm = Norm(MODEL["width"], MODEL["norm_eps"])
        self.mlp = Mlp()

    def forward(self, x, lengths):
        x = x + self.self_attn(self.input_layernorm(x), lengths)
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(MODEL["vocab"], MODEL["width"])
        self.layers = nn.ModuleList(Block(layer) for layer in LAYERS)
        self.norm = Norm(MODEL["width"], MODEL["norm_eps"])


def lengths_of(mask):
    if mask is None:
        return None
    lengths = mask.long().sum(1)
    if not torch.equal(mask.bool(), torch.arange(mask.shape[1], device=mask.device) < lengths[:, None]):
        raise ValueError("attention_mask: padding on the right expected (tokenizer.padding_side = 'right')")
    return lengths


TIED = {"lm_head.weight": "model.embed_tokens.weight"}  # transformers 5; a list of what is left out before


class AttnlabForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = AttnlabConfig
    base_model_prefix = "model"
    _no_split_modules = ["Block"]
    _tied_weights_keys = TIED if int(transformers.__version__.split(".")[0]) >= 5 else list(TIED)

    def __init__(self, config):
        super().__init__(config)
        self.model = Body()
        self.lm_head = nn.Linear(MODEL["width"], MODEL["vocab"], bias=False)
        self.post_init()

    def _init_weights(self, module):
        pass

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def set_input_embeddings(self, value):
        self.model.embed_tokens = value

    def get_output_embeddings(self):
        return self.lm_head

    def set_output_embeddings(self, value):
        self.lm_head = value

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **kwargs):
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def forward(self, input_ids=None, attention_mask=None, inputs_embeds=None, labels=None, past_key_values=None, **kwargs):
        if past_key_values is not None:
            raise ValueError("past_key_values: this model has no cache: use_cache=False")
        x = self.model.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        lengths = lengths_of(attention_mask)
        for block in self.model.layers:
            x = block(x, lengths)
        logits = self.lm_head(self.model.norm(x))
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutputWithPast(loss=loss, logits=logits)
]]

local ACTIVATIONS = { auto = "F.silu(x)", silu = "F.silu(x)", gelu = "F.gelu(x)", relu = "F.relu(x)",
                      gelu_new = 'F.gelu(x, approximate="tanh")' }

-- A value as that language writes it; tables by name.
local function literal(v)
  if type(v) == "boolean" then return v and "True" or "False" end
  if type(v) == "string" then return ("%q"):format(v) end
  if type(v) == "number" then return math.type(v) == "integer" and tostring(v) or ("%.17g"):format(v) end
  local out = {}
  for _, k in ipairs(names.keys(v)) do out[#out + 1] = ("%q: %s"):format(k, literal(v[k])) end
  if #v > 0 then
    for i, x in ipairs(v) do out[i] = literal(x) end
    return "(" .. table.concat(out, ", ") .. ",)"
  end
  return "{" .. table.concat(out, ", ") .. "}"
end

local function rope_of(a)
  local r = a.rotation
  if not r then return false end
  local l = a.layer
  local size = l.rope_size
  if l.rope_scaling ~= "yarn" then size = 1 elseif size == 0 then size = 0.1 * math.log(l.rope_factor) + 1 end
  return { base = r.base, dims = r.dims, interleaved = r.interleaved, scaling = l.rope_scaling, factor = l.rope_factor,
           original = l.rope_original, low = l.rope_low, high = l.rope_high, truncate = l.rope_truncate, size = size }
end

-- The file for a Llama m, or nil and the layer that it cannot be written for.
function M.text(m)
  local c, functions, known, list, formulas, tensors = m.config, {}, {}, {}, {}, m:tensors()
  for i, block in ipairs(m.layers) do
    local a = block.attention
    local ok, source = pcall(a.family.source, a.family, "torch")
    if not ok or type(a.family) == "table" then
      return nil, ("layer %d: its attention, %s, is not known as a function of PyTorch"):format(i, a.family:text())
    end
    if not known[source] then
      functions[#functions + 1] = ("def attention_%d():\n%s\n    return attention\n\n\n"):format(#functions + 1,
        ("\n" .. source):gsub("\n([^\n])", "\n    %1"):sub(2))
      known[source] = #functions
      formulas[#formulas + 1] = a.family:text() == "" and a.family:family() or a.family:text()
    end
    local shapes, prefix = {}, ("model.layers.%d.self_attn.attnlab."):format(i - 1)
    for name, t in pairs(tensors) do
      if name:sub(1, #prefix) == prefix then shapes[name:sub(#prefix + 1)] = t:shape() end
    end
    local l = a.layer
    list[i] = ("    {\"attend\": attention_%d, %s"):format(known[source], literal {
      bias = l.bias, qk_norm = l.qk_norm and l.qk_norm_eps or false, conv = l.conv, conv_activation = l.conv_activation,
      value_residual = l.value_residual, calibrated = l.calibrated, rope = rope_of(a), shapes = shapes }:sub(2)) .. ","
  end
  local model = literal { width = c.width, heads = c.heads, kv_heads = c.kv_heads, head_dim = c.head_dim, mlp = c.mlp,
                          vocab = c.vocab, norm_eps = c.norm_eps, mlp_bias = c.mlp_bias }
  return HEAD:format((table.concat(formulas, "; "):gsub("[%c\\]", " "):sub(1, 300))) .. "\n" .. table.concat(functions)
    .. ("def activation(x):\n    return %s\n\n\nMODEL = %s\nLAYERS = [\n%s\n]\n\n\n"):format(ACTIVATIONS[c.activation], model,
      table.concat(list, "\n")) .. BODY
end
M.text = require("attnlab.core").plain(M.text)

return M
