-- Fixed windows of a text to measure models on. ev = lab.evalset{data="shakespeare", split="valid",
-- windows=96, context=, other_text=false}; ev(m) gives the mean loss in nats and its standard error,
-- ev:diff(a, b) how much a differs from b on the very same windows. A fork (surgery.lua) takes note
-- of what was measured of it.
--
-- A window is `context` tokens to be predicted (default: the context of the first model measured).
-- Which these are depends on text, split, windows and context alone. A model of a shorter context
-- reads a window in pieces, each from an empty context; the last piece is shifted back where it would
-- be shorter, and only its new targets count: models of all contexts are scored on the same tokens.
local core = require "attnlab.core"
local devices = require "attnlab.devices"
local data = require "attnlab.data"
local names = require "attnlab.names"
local sources = require "attnlab.sources"
local stats = require "attnlab.stats"
local window_of = require "attnlab.model.window"

local Evalset = {}
Evalset.__index = Evalset
Evalset.__name = "attnlab.evalset"

local KNOWN = { "data", "split", "windows", "context", "other_text" }

-- What a model of hidden tokens is asked for is drawn from this seed and the number of the pass.
local SEED = 0

-- Tokens of one pass, about. Products of other sizes may round otherwise, so the size of a pass is
-- nobody's choice: a model's loss is one number, whoever measures it.
local PASS = 1024

local function integer(opts, key, default)
  local v = opts[key]
  if v == nil then return default end
  if math.type(v) ~= "integer" or v < 1 then
    error(("evalset: option '%s': integer >= 1 expected, got %s"):format(key, tostring(v)), 0)
  end
  return v
end

-- data may also be a dataset of data.open.
local function new(opts)
  opts = names.options("evalset", opts, KNOWN)
  local self = setmetatable({
    source = opts.data or "shakespeare", split = opts.split or "valid",
    windows = integer(opts, "windows", 96), context = integer(opts, "context", nil),
    other_text = opts.other_text }, Evalset)
  if data.is_dataset(self.source) then
    self.dataset = self.source
  else
    if type(self.source) == "table" then self.source = sources.text(self.source) end
    data.path(self.source)
  end
  return self
end

-- The dataset in the first model's vocabulary, opened once. A model of another vocabulary would be
-- given tokens that mean something else.
function Evalset:open(m)
  if not self.dataset then self.dataset = data.open_for(m, self.source) end
  local on, set = m.trained_on, self.dataset
  if on and on.name == set.name and on.sha256 ~= set.sha256 and not self.other_text then
    error(("evalset: the text %s is another one than that of this name which the model was trained on: "
      .. "sha256 %.12s here, %.12s then; option other_text (eval: --other-text) measures on it all the same")
      :format(set:shown(), tostring(set.sha256), on.sha256), 0)
  end
  local own, size = self.dataset.vocabulary, self.dataset.vocabulary:size()
  if size > m.config.vocab then
    error(("evalset: the data have %d tokens, the model only %d"):format(size, m.config.vocab), 0)
  end
  if m.vocabulary and not own:same(m.vocabulary) then
    error(("evalset: the model has another vocabulary than the data were read with: one of %d pieces expected, got "
      .. "another of %d"):format(size, m.vocabulary:size()), 0)
  end
  return self.dataset
end

local function check_model(m, what, next_token)
  if type(m) ~= "table" or type(m.forward) ~= "function" or type(m.config) ~= "table" then
    error(("evalset: %s: a model expected, got %s"):format(what, type(m)), 0)
  end
  if next_token and not m.causal then
    error(("evalset: %s: a model that predicts next tokens expected, got a %s"):format(what, m.class_name), 0)
  end
end

-- Calls f(x, y, more) for each pass with every model of the list in evaluation mode and nothing recorded.
local function passes(self, models, f)
  local set
  for _, m in ipairs(models) do set = self:open(m) end
  local context = self.context or set:fit(window_of(models[1]))
  set:need(self.split, context)
  self.context = context
  local total = set:windows(self.split, context, self.windows)
  local modes = {}
  for i, m in ipairs(models) do modes[i] = m.training end
  for _, m in ipairs(models) do m:eval() end
  local ok, message = pcall(core.no_grad, function()
    local draw, pass = set:even(self.split, math.max(1, PASS // context), context, total), 0
    while true do
      pass = pass + 1
      local x, y, more = models[1]:examples(draw, SEED, pass)
      if x == nil then break end
      f(x, y, more)
      x:free()
      y:free()
      for _, t in pairs(more or {}) do t:free() end
    end
  end)
  for i, m in ipairs(models) do m:train(modes[i]) end
  if not ok then error(message, 0) end
end

-- The same where the models lie.
local function each(self, models, f)
  local there = models[1].device
  for _, m in ipairs(models) do
    if m.device ~= there then
      error(("evalset: models on one device expected, got one on %s and one on %s (m:to(%q) is a copy there)")
        :format(there, m.device, there), 0)
    end
  end
  return devices.on(there, passes, self, models, f)
end

-- Logits (B,T,vocab) of windows that may be longer than the model's context. more: options of forward, with an entry a
-- row.
local function logits_of(m, x, more)
  local T, piece = x:size(2), m.config.context
  if T <= piece then return m:forward(x, more) end
  if more then
    error(("evalset: packed rows of %d tokens: a model of that context expected, got %d"):format(T, piece), 0)
  end
  local parts = {}
  for first = 1, T, piece do
    local start = math.min(first, T - piece + 1)
    local ids <close> = x[{ {}, { start, start + piece - 1 } }]:contiguous()
    local part <close> = m:forward(ids)
    parts[#parts + 1] = part[{ {}, { first - start + 1, piece } }]:contiguous()
  end
  local out = core.op.concat(parts, { axis = 2 })
  for _, part in ipairs(parts) do part:free() end
  return out
end

-- Mean loss of each window, from per-token losses (B,T) of targets y; masked: of those that count.
local function append_windows(out, nll, y, masked)
  local mean <close> = nll:mean { axes = { 2 } }
  local first, T = #out, nll:size(2)
  table.move(mean:flat(), 1, nll:size(1), first + 1, out)
  for b, ids in ipairs(masked and y:totable() or {}) do
    local n = 0
    for _, id in ipairs(ids) do n = n + (id >= 0 and 1 or 0) end
    out[first + b] = out[first + b] * T / n
  end
end

local function mean_and_error(v)
  local deviation = stats.deviation(v)
  return stats.mean(v), deviation and deviation / math.sqrt(#v)
end

-- The loss of each window; no note is taken.
function Evalset:losses(m)
  local per_window = {}
  each(self, { m }, function(x, y, more)
    if m.row_losses then
      local own <close> = m:row_losses(x, y, more)
      table.move(own:flat(), 1, own:numel(), #per_window + 1, per_window)
      return
    end
    local logits <close> = logits_of(m, x, more)
    local nll <close> = logits:cross_entropy(y, { reduction = "none" })
    append_windows(per_window, nll, y, self.dataset.masked)
  end)
  return per_window
end

-- Mean loss in nats per token, its standard error over windows, and the loss of each window.
function Evalset:loss(m)
  check_model(m, "loss")
  local per_window = self:losses(m)
  local mean, se = mean_and_error(per_window)
  if m.measured then m:measured { loss = mean, loss_se = se } end
  return mean, se, per_window
end

Evalset.__call = Evalset.loss

-- a against b on the same windows, in nats per token:
--   mean, se, lo, hi   loss of a minus loss of b: mean over windows, its standard error, and the 95 %
--                      t interval of the pairs (nil with one window)
--   kl, kl_se          KL(b || a), what is lost by a's distribution where b's is true
--   n, values          windows, and the difference of each
--   tokens, bad        how many tokens were predicted, and at how many of them a loss or KL is no finite number
function Evalset:diff(a, b)
  return self:diff_kept(a, b, nil)
end

-- Internal: diff; kept: a table that keeps what b gives for the next call with it, as long as b stays as it is.
function Evalset:diff_kept(a, b, kept)
  check_model(a, "diff: the first", true)
  check_model(b, "diff: the second", true)
  if a.config.vocab ~= b.config.vocab then
    error(("evalset: diff: models of one vocabulary expected, got %d and %d tokens")
      :format(a.config.vocab, b.config.vocab), 0)
  end
  local sums, pass = {}, 0
  each(self, { a, b }, function(x, y, more)
    if self.dataset.masked then error("evalset: diff: rows of documents are masked: take rows=stream or packed", 0) end
    pass = pass + 1
    local of_b = kept and kept[pass]
    if not of_b then
      of_b = Evalset.kept_of(logits_of(b, x, more), y)
      if kept then kept[pass] = of_b end
    end
    Evalset.accumulate(sums, logits_of(a, x, more), of_b, y)
    if not kept then
      of_b[1]:free()
      of_b[2]:free()
    end
  end)
  local out = Evalset.summed(sums)
  if a.measured then a:measured(out, b) end
  return out
end

-- Internal: of the logits (B,T,vocab) for targets y (B,T): what diff keeps of b; the logits are freed.
function Evalset.kept_of(logits, y)
  local lb = logits:log_softmax()
  logits:free()
  return { lb, (lb:cross_entropy(y, { reduction = "none" })) }
end

-- Internal: adds to sums ({} at first) how a's logits for targets y differ from what is kept of b; the logits are freed.
function Evalset.accumulate(sums, logits, of_b, y)
  local lb, nb = of_b[1], of_b[2]
  local la <close> = logits:log_softmax()
  logits:free()
  local na <close> = la:cross_entropy(y, { reduction = "none" })
  local d <close> = na - nb
  sums.values, sums.kl = sums.values or {}, sums.kl or {}
  append_windows(sums.values, d)
  local k <close> = (lb:exp() * (lb - la)):sum { axes = { 3 } }
  append_windows(sums.kl, k)
  sums.bad, sums.tokens = sums.bad or 0, (sums.tokens or 0) + y:numel()
  local of_k = k:flat()
  for t, v in ipairs(d:flat()) do
    if not (math.abs(v) < math.huge and math.abs(of_k[t]) < math.huge) then sums.bad = sums.bad + 1 end
  end
end

-- Internal: what diff returns of such sums.
function Evalset.summed(sums)
  local out = { n = #sums.values, values = sums.values, tokens = sums.tokens, bad = sums.bad }
  out.mean, out.se = mean_and_error(sums.values)
  out.kl, out.kl_se = mean_and_error(sums.kl)
  if out.se then
    local half = stats.t_quantile(0.975, out.n - 1) * out.se
    out.lo, out.hi = out.mean - half, out.mean + half
  end
  return out
end

return setmetatable({ new = new, class = Evalset, PASS = PASS }, { __call = function(_, opts) return new(opts) end })
