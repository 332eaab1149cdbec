-- The study of what a trained model loses when a part of its attention is replaced. For each model, each
-- replacement, each layer alone and all at once, raw and calibrated (a constant factor a head, so that the
-- rms of its output is the original's): the paired difference of loss with its interval, KL(original ||
-- changed), and the text that the changed model writes.
--
-- A case of the file is a grid: model, and lists of what is put in; see rows and subject.lua. One measurement
-- is { model, data, windows, context, swap = { name, options, head, before = steps }, layer = number or "all",
-- calibrated }, or has swap = { name, steps }: several changes one after the other (surgery/steps.lua).
local core = require "attnlab.core"
local config = require "attnlab.config"
local data = require "attnlab.data"
local evalset = require "attnlab.evalset"
local parts = require "attnlab.surgery.parts"
local steps = require "attnlab.surgery.steps"
local subject = require "attnlab.surgery.subject"
local sweep = require "attnlab.surgery.sweep"
local results = require "attnlab.surgery.results"

local M = {}

M.rows = {
  { name = "model", type = "table", default = "{}", doc = "{file=} or {experiment=, arm=, seed=}" },
  { name = "data", type = "text", default = "own",
    doc = "what it is measured on: a text's validation part; own: what the model itself writes; hidden: the part of the model's text that the prompt never shows" },
  { name = "text", type = "text", default = "", doc = "data=hidden: of this text, or of own; default: the model's" },
  { name = "orders", type = "table", default = "{}", doc = "exp's series cut at these orders" },
  { name = "denominators", type = "table", default = "{}", doc = "values of the option denominator" },
  { name = "norms", type = "table", default = "{}", doc = "values of the option output_norm" },
  { name = "others", type = "table", default = "{}", doc = "{ name=, [option]=value, .. } of the attention" },
  { name = "states", type = "table", default = "{}",
    doc = "{ name=, steps={ {set={..}, layer=, head=}, {calibrate=true}, {tune={..}}, {patch={..}} } }, ..: changes one after the other" },
  { name = "sweep", type = "table", default = "{}", doc = "options of s:sweep: each of its cells" },
  { name = "layers", type = "word", default = "each", choices = { "each", "all" },
    doc = "each: every layer alone, and all at once; all: only that" },
  { name = "calibrate", type = "table", default = "{}", doc = "{false, true}: raw, calibrated or both" },
  { name = "windows", type = "integer", default = "24", min = 2, doc = "windows that are measured on" },
  { name = "context", type = "integer", default = "0", min = 0, doc = "tokens of a window; 0 = the model's context" },
  { name = "prompt", type = "text", default = "", doc = "of the text that is written; empty: none is" },
  { name = "tokens", type = "integer", default = "80", min = 1, doc = "length of that text" },
  { name = "texts", type = "word", default = "all", choices = { "all", "each" },
    doc = "all: only the models changed in all layers write; each: every one" },
}


-- What is put in: { { name=, options= }, .. }.
local function swaps_of(case)
  local out = {}
  local seen = {}
  local function add(name, options)
    if seen[name] then error(("two replacements have the name '%s'"):format(name), 0) end
    seen[name], out[#out + 1] = true, { name = name, options = options }
  end
  for _, p in ipairs(case.orders) do
    if math.type(p) ~= "integer" or p < 1 then
      error("orders: whole numbers >= 1 expected, got " .. tostring(p), 0)
    end
    -- in full: the model that is operated on may keep orders and coefficients of its own
    add("series to order " .. p, { similarity = "taylor", order = p, orders = "all", coefficients = "factorial" })
  end
  for _, part in ipairs { { "denominators", "denominator", "denominator" }, { "norms", "output_norm", "norm" } } do
    for _, v in ipairs(case[part[1]]) do
      if type(v) ~= "string" and type(v) ~= "table" then
        error(("%s: words or tables expected, got %s"):format(part[1], tostring(v)), 0)
      end
      add(part[3] .. " " .. config.text(v), { [part[2]] = config.copy(v) })
    end
  end
  for i, v in ipairs(case.others) do
    if type(v) ~= "table" or type(v.name) ~= "string" then
      error(("others: entry %d: a table of options with a name expected"):format(i), 0)
    end
    local options = config.copy(v)
    options.name = nil
    add(v.name, options)
  end
  return out
end

-- What is put in one by one: states and the cells of a sweep.
local function singles_of(case, layers, heads)
  local out, seen = {}, {}
  for i, s in ipairs(case.states) do
    if type(s) ~= "table" or type(s.name) ~= "string" then error(("states: entry %d: a name and steps expected"):format(i), 0) end
    if seen[s.name] then error(("states: two have the name '%s'"):format(s.name), 0) end
    local calibrated = false
    for _, step in ipairs(steps.check(s.steps)) do calibrated = calibrated or step.calibrate == true end
    seen[s.name], out[#out + 1] = true, { swap = { name = s.name, steps = s.steps }, layer = "all", calibrated = calibrated }
  end
  if next(case.sweep) == nil then return out end
  local before, options = case.sweep.before, config.copy(case.sweep)
  options.before = nil
  if before then steps.check(before) end
  for _, c in ipairs(sweep.cells(options, layers, heads)) do
    local name = config.text(c.options) .. (before and ", behind other changes" or "")
    out[#out + 1] = { swap = { name = c.head and ("head %d: %s"):format(c.head, name) or name, options = c.options,
                               head = c.head, before = before },
                      layer = #c.layer == layers and layers > 1 and "all" or c.layer[1], calibrated = options.calibrate == true }
    if #c.layer > 1 and #c.layer < layers then error("sweep: layer: one, \"each\" or \"*\" expected in a study", 0) end
  end
  return out
end

function M.expand(case, folder)
  local model = subject.check(case.model)
  local layers, context, heads = subject.shape(model)
  if case.context > context then
    error(("context: the model's is %d, got %d"):format(context, case.context), 0)
  end
  local text, named = case.data, case.text ~= "" and case.text or nil
  if text == "hidden" then
    if named and named ~= "own" then named = data.locate(named, folder) end
  elseif named then
    error("text: goes with data=hidden", 0)
  elseif text ~= "own" then
    text = data.locate(text, folder)
    data.path(text)
  end
  local calibrate = #case.calibrate > 0 and case.calibrate or { false, true }
  local list, at = {}, {}
  if case.layers == "each" and layers > 1 then
    for i = 1, layers do at[i] = i end
  end
  at[#at + 1] = "all"
  local function add(swap, layer, calibrated)
    list[#list + 1] = { model = model, data = text, part = text == "hidden" and text or nil, text = named, windows = case.windows,
      context = case.context > 0 and case.context or context, swap = swap, layer = layer,
      calibrated = calibrated, tokens = case.tokens,
      prompt = (layer == "all" or case.texts == "each") and case.prompt ~= "" and case.prompt or nil }
  end
  for _, swap in ipairs(swaps_of(case)) do
    for _, layer in ipairs(at) do
      for _, calibrated in ipairs(calibrate) do
        if type(calibrated) ~= "boolean" then
          error("calibrate: true and false expected, got " .. tostring(calibrated), 0)
        end
        add(swap, layer, calibrated)
      end
    end
  end
  for _, s in ipairs(singles_of(case, layers, heads)) do add(s.swap, s.layer, s.calibrated) end
  if #list == 0 then error("orders, denominators, norms, others, states and sweep are all empty", 0) end
  return list
end

M.trains, M.uncounted = true, true -- states may be tuned; the model has its memory

-- The seed is that of the text a model writes for itself.
function M.seeded() return false end

function M.inputs_hash(case)
  local list = { subject.identity(case.model) }
  local text = case.data
  if text == "hidden" then text = case.text or subject.text(case.model) end
  if text ~= "own" then list[2] = data.hash(text) end
  return list
end

function M.title(c)
  return ("%s, %s, %s%s"):format(subject.title(c.model), c.swap.name,
    c.layer == "all" and "all layers" or "layer " .. c.layer, c.calibrated and ", calibrated" or "")
end

function M.cost(c)
  return (c.windows * c.context + (c.prompt and 40 * c.tokens or 0)) * (c.calibrated and 2 or 1)
end

local root

-- Trains the models that are not there yet.
function M.prepare(cases, options)
  root = options.root
  local seen = {}
  for _, c in ipairs(cases) do
    local key = core.json.encode(c.model)
    if not seen[key] then
      seen[key] = true
      local outcome = subject.prepare(c.model, options)
      if outcome ~= "done" then return outcome end
    end
  end
  subject.renew()
  return "done"
end

-- What the rows of one model share: windows to measure on, the original's loss and text.
local kept = {}

local function measured_on(c, m, sha, seed)
  local key = core.json.encode { c.model, sha, c.data, c.text or "", c.windows, c.context, seed }
  if kept.key == key then return kept end
  kept = { key = key, texts = {} }
  if c.data == "hidden" then
    local p = parts.of(m, c.text)
    kept.set, kept.tune = p.hidden.dataset, p.tune
    kept.calibrate = { data = p.calibrate, split = "train", context = p.context }
    kept.ev = evalset { data = kept.set, windows = c.windows, context = math.min(c.context, p.context) }
    kept.loss, kept.loss_se = kept.ev(m)
    return kept
  elseif c.data == "own" then
    kept.set = subject.own_text(m, c.windows, c.context, seed)
    kept.calibrate = { data = subject.own_text(m, c.windows, c.context, seed + 1000003), split = "train" }
  else
    kept.set = data.open_for(m, c.data)
    kept.calibrate = { data = kept.set, split = "train" }
  end
  kept.calibrate.context, kept.tune = c.context, kept.calibrate.data
  local batch = math.min(c.windows, 8)
  kept.calibrate.batches, kept.calibrate.batch = math.max(1, c.windows // batch), batch
  kept.ev = evalset { data = kept.set, split = "valid", windows = c.windows, context = c.context }
  kept.loss, kept.loss_se = kept.ev(m)
  return kept
end

local function written(m, c)
  return (m:generate { prompt = c.prompt, tokens = c.tokens })
end

-- Whether the model was trained again since.
function M.stale(c, result, where)
  local now = subject.weights(c.model, where)
  return now ~= nil and now ~= result.weights
end

local function finite(v) return v and v == v and math.abs(v) < math.huge end

-- Does to a fork what the case says.
local function change(s, c, on)
  if c.swap.steps then return steps.run(s, c.swap.steps, on) end
  if c.swap.before then steps.run(s, c.swap.before, on) end
  local layers = c.layer == "all" and "*" or c.layer
  steps.run(s, { { set = c.swap.options, layer = layers, head = c.swap.head } }, on)
  if c.calibrated then s:calibrate(on.calibrate) end
end

function M.run(c, seed)
  local m, sha = subject.load(c.model, root)
  local on = measured_on(c, m, sha, seed)
  local r = { weights = sha, original_loss = on.loss, original_loss_se = on.loss_se }
  local s = m:fork()
  local ok, why = pcall(change, s, c, on)
  if not ok and not tostring(why):find "not finite" then error(why, 0) end
  if not ok then r.failed = tostring(why) end
  local d = on.ev:diff(s, m)
  for _, k in ipairs { "mean", "se", "lo", "hi", "kl", "kl_se" } do
    if finite(d[k]) then r[k] = d[k] end
  end
  r.n = d.n
  if not (r.mean and r.kl) then r.failed = r.failed or "loss is not finite" end
  if c.prompt then
    local key = c.tokens .. c.prompt
    on.texts[key] = on.texts[key] or written(m, c)
    r.original_text = on.texts[key]
    if not r.failed then r.text = written(s, c) end
  end
  return r
end

for name, f in pairs(results) do M[name] = f end

return M
