-- Any bytes as a run configuration (libFuzzer): JSON, or key=value words, by byte 1. Refused with a reason, or
-- resolved: then it has a canonical text, resolving it again gives the same, and where its sizes are replaced by
-- small ones a model of it is made and runs, from states, too.
local tools = dofile(... .. "tools.lua")
local lab = require "attnlab"
local core = require "attnlab.core"
local config = require "attnlab.config"

local M = { words = { "\n", "=", ".", "attention=", "attention.", "model.", "train.", "layers=2", "width=8", "heads=2", "kv_heads=1",
  "head_dim=4", "preset=", "similarity=", "taylor", "power", "expr", "cosh", "linear", "order=3", "orders={0,2}", "coefficients=learned",
  "denominator.stat=", "denominator=none", "length", "abs", "cumulative_gate", "denominator.floor=1", "denominator.power=learned",
  "sink=0", "feature_map=", "softplus", "l2", "map_expr=x^2", "input_gate=", "sigmoid", "output_gate=", "output_gate.expr=1+tanh(x)", "output_norm=", "rms", "layer", "decay=gated",
  "rope=none", "rope_dims=2", "conv=2", "qk_norm=true", "dropout=0.5", "form=recurrent", "form=chunked", "logit_clamp=2", "2.preset=softmax",
  "heads={", "{t=1}", "true", "false", "nan", "inf", "-1", "1e999", "0x7fffffffffffffff", '"attention":', '"model":{', '"1":' } }
for _, p in ipairs(core.attn.list()) do M.words[#M.words + 1] = p.name end
M.seeds = { 'j{"model":{"layers":2,"width":8,"heads":2},"attention":{"preset":"softmax","2":{"order":3,"similarity":"taylor"}},"train":{"lr":0.1}}',
            'j{"attention":["p1/softmax","p2/cottention"],"layers":2}', 'j{"attention":{"default":"softmax","heads":{"1":{"feature_map":"relu"}}}}',
            "klayers=2\nattention=softmax\nattention.denominator.floor=1\nattention.output_norm.kind=rms",
            "kattention.similarity=expr\nattention.expr=t*s^2\nattention.expr_params={t=1}",
            "kattention.feature_map=expr\nattention.map_expr=max(x,0)^2\nattention.input_gate=expr\nattention.input_gate.expr=x", "kattention.1.preset=window/mistral" }
for _, p in ipairs(core.attn.list()) do M.seeds[#M.seeds + 1] = "kattention=" .. p.name end
for _, f in ipairs(core.attn.families()) do M.seeds[#M.seeds + 1] = "kattention.preset=" .. f.name end

-- What a caller asks for he gets: sizes that take all memory are not looked at, sizes that no memory has are.
local function modest(t)
  for _, v in pairs(t) do
    if type(v) == "table" and not modest(v) then return false end
    if type(v) == "number" and v > 64 and v < 1e15 then return false end
  end
  return true
end

local function given(bytes)
  if bytes:sub(1, 1) == "j" then
    local ok, t = pcall(core.json.decode, bytes:sub(2))
    return ok and type(t) == "table" and t or nil
  end
  local cfg = {}
  for line in bytes:sub(2):gmatch "[^\n]+" do
    local key, value = line:match "^([^=]+)=(.*)$"
    if not key or not tools.tries(config.set, cfg, key, value) then return nil end
  end
  return cfg
end

local function run(cfg)
  local ok, m = tools.tries(lab.model.new, { model = { layers = math.min(cfg.model.layers, 2), width = 8, heads = 2,
    kv_heads = cfg.model.kv_heads < cfg.model.heads and 1 or 2, mlp = 8, context = 6, vocab = 5 }, attention = cfg.attention, seed = 1 })
  if not ok then return end
  tools.tries(function()
    local loss = m:loss(tools.ids, tools.ids)
    loss:backward()
  end)
  tools.tries(function()
    local _, st = m:step(tools.ids, m:state {})
    m:step(tools.ids, st)
    st:copy():cache()
  end)
end

function M.run(bytes)
  local cfg = given(bytes)
  if not cfg or not modest(cfg) then return end
  local ok, resolved = tools.tries(config.resolve, cfg)
  if not ok then return end
  local text = config.canonical(resolved)
  local again = config.canonical(config.resolve(config.copy(resolved)))
  if again ~= text then error(("resolved again:\n%s\n%s"):format(text, again)) end
  config.variants(resolved)
  if #config.diff(resolved, config.unflatten(config.flatten(resolved))) > 0 then error "flatten and unflatten" end
  if #bytes % 4 == 0 then run(resolved) end -- it takes most of the time
end

return M
