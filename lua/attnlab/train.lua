-- Training: lab.train(m, {data=, steps=, ..}). train.trainer(model, config, seed) steps, evaluates, and gives and takes its state;
-- train.loop runs it to the end and calls hooks. Weights are a function of (seed, name), batches
-- and dropout keys of (seed, step), so a run that is stopped and restored continues bit for bit.
-- Called, the module is the short form for scripts and the prompt:
--   r = lab.train(m, {data="shakespeare", steps=500, ..}); r:cont(200); r:curve("valid/loss")
local core = require "attnlab.core"
local config = require "attnlab.config"
local curves = require "attnlab.curves"
local data = require "attnlab.data"
local devices = require "attnlab.devices"
local evalset = require "attnlab.evalset"
local model = require "attnlab.model"
local interrupts = require "attnlab.interrupts"
local names = require "attnlab.names"
local optim = require "attnlab.optim"
local parameters = require "attnlab.parameters"
local progress = require "attnlab.progress"
local window_of = require "attnlab.model.window"

local M = {}

-- What a training records, by name; times are kept apart under "time/".
M.measures = { "valid/loss", "train/loss", "lr", "grad_norm" }
local Trainer = {}
Trainer.__index = Trainer
Trainer.__name = "attnlab.trainer"

-- Smoothing of the loss that divergence is judged by: about the last ten steps.
local SMOOTH = 0.9
-- Nats above the first step's loss: a model that guesses evenly is not yet diverged.
local DIVERGED_BY = 1.0
-- How long a loss must stay high: spikes that training recovers from are shorter. Measured on the
-- main ablation: runs that end well never rise by more than 0.01, the stopped denominator stays 0.3
-- to 0.8 up.
local DIVERGED_STEPS = 20
-- Steps that are queued before their losses and norms are read, where the host would wait for each.
local LATE = 16

-- m may be nil: the model that cfg describes is built, with the data's vocabulary. dataset: of
-- data.open, where it is at hand. micro: windows of a step's batch that go at once (all).
function M.trainer(m, cfg, seed, dataset, micro)
  cfg = config.resolve(cfg)
  if math.type(seed) ~= "integer" then
    error("train: seed: integer expected, got " .. tostring(seed), 2)
  end
  local t = cfg.train
  dataset = dataset or data.open_for(m, t.data)
  if not m then
    local sizes = config.copy(cfg.model)
    if sizes.vocab == 0 then sizes.vocab = model.size_of(sizes.arch, dataset.vocabulary) end
    m = model.new { model = sizes, attention = cfg.attention, train = cfg.train, seed = seed,
                    vocabulary = dataset:tokenizer() }
  end
  local size = dataset.vocabulary:size()
  if size > m.config.vocab then
    error(("train: the data '%s' have %d tokens, the model only %d")
      :format(t.data, size, m.config.vocab), 0)
  end
  m.vocabulary = m.vocabulary or dataset:tokenizer()
  m.trained_on = dataset.sha256 and { name = dataset.name, sha256 = dataset.sha256 }
  local window = dataset:fit(window_of(m))
  dataset:need("train", window)
  local context = t.eval_context > 0 and t.eval_context or window
  if not m.causal and context > m.config.context then
    error(("train: eval_context: a %s reads windows up to its context of %d, in no pieces, got %d"):format(m.class_name,
      m.config.context, context), 0)
  end
  dataset:need("valid", context)
  local optimiser = devices.on(m.device, optim.adamw, {
    m:parameters(), lr = t.lr, betas = t.betas, eps = t.eps, weight_decay = t.weight_decay,
    grad_clip = t.grad_clip, decay = t.decay })
  return setmetatable({
    model = m, config = cfg, options = t, seed = seed, data = dataset, context = window, optimiser = optimiser,
    yardstick = evalset { data = dataset, windows = t.eval_windows, context = context },
    generation = m.generation, step_count = 0, micro = micro or t.batch_size, queued = {},
    late = m.device == "cpu" and 1 or LATE, device = m.device,
    sum = 0, n = 0, smooth = nil, first = nil, lowest = nil, high = 0 }, Trainer)
end

-- Takes note of a model whose parts were changed: what stayed keeps the optimiser's moments.
function Trainer:follow()
  if self.generation == self.model.generation then return end
  self.optimiser = self.optimiser:over(self.model:parameters())
  self.generation = self.model.generation
end

-- Learning rate of step k = 1, 2, ..
function Trainer:lr(k)
  local t = self.options
  if k <= t.warmup_steps then return t.lr * k / t.warmup_steps end
  if t.schedule == "constant" then return t.lr end
  local done = (k - 1 - t.warmup_steps) / math.max(1, t.steps - t.warmup_steps)
  local share = t.schedule == "cosine" and 0.5 * (1 + math.cos(math.pi * done)) or 1 - done
  return t.min_lr + (t.lr - t.min_lr) * math.max(0, share)
end

-- Tokens trained on so far.
function Trainer:tokens()
  return self.step_count * self.options.batch_size * self.context
end

-- Takes a step's loss into the counters that records and divergence are made of.
function Trainer:observe(loss)
  self.sum, self.n = self.sum + loss, self.n + 1
  self.first = self.first or loss
  self.smooth = self.smooth and SMOOTH * self.smooth + (1 - SMOOTH) * loss or loss
  self.lowest = math.min(self.lowest or self.smooth, self.smooth)
  self.high = self.smooth > self.lowest + self.options.divergence and self.high + 1 or 0
end

-- How many targets count, of y (B,..): of each row, and of all. It is read once: on a device that waits.
local function counted(y)
  local B, all, by_row = y:size(1), 0, {}
  local per = y:numel() // B
  for i, id in ipairs(y:flat()) do
    local b, n = (i - 1) // per + 1, id >= 0 and 1 or 0
    by_row[b], all = (by_row[b] or 0) + n, all + n
  end
  return by_row, all
end

-- The mean loss of a batch x, y, its gradients added to the parameters': by parts that memory has room for. more: options
-- of the loss, with an entry a row.
local function pass(self, x, y, more)
  local B, sum = self.options.batch_size, nil
  if self.micro >= B then
    local loss = self.model:loss(x, y, more)
    loss:backward()
    return loss
  end
  local by_row, all
  if self.data.masked or not self.model.causal then by_row, all = counted(y) end
  for first = 1, B, self.micro do
    local n = math.min(self.micro, B - first + 1)
    local rows = { { first, first + n - 1 } }
    local part_x <close> = x[rows]:contiguous()
    local part_y <close> = y[rows]:contiguous()
    local part_more = more and {}
    for key, t in pairs(more or {}) do part_more[key] = t[rows]:contiguous() end
    local loss <close> = self.model:loss(part_x, part_y, part_more)
    local count = 0
    for b = first, all and first + n - 1 or 0 do count = count + by_row[b] end
    local part <close> = loss * (all and count / all or n / B)
    part:backward()
    local before <close> = sum
    sum = sum and sum + part:detach() or part:detach():clone()
  end
  return sum
end

-- Queues one update, whose numbers nobody has read.
function Trainer:queue()
  local k, t = self.step_count + 1, self.options
  local lr = self:lr(k)
  self.model:train()
  local x, y, more = self.model:examples(function()
    return self.data:random("train", t.batch_size, self.context, self.seed, k)
  end, self.seed, k)
  -- keys of dropout: a sequence of their own for each step, whatever was drawn before
  local keys = core.seed_state()
  core.seed_restore { self.seed, k << 32 }
  self.optimiser:zero_grad()
  local loss = pass(self, x, y, more)
  core.seed_restore(keys)
  local last = self.queued[#self.queued]
  local norm = self.optimiser:queue(lr, last and last.norm)
  x:free()
  y:free()
  for _, t in pairs(more or {}) do t:free() end
  self.step_count = k
  self.queued[#self.queued + 1] = { step = k, loss = loss, lr = lr, norm = norm }
end

-- The oldest update that is queued: { step=, loss=, lr=, norm= }; norm is that before clipping.
function Trainer:take()
  local s = table.remove(self.queued, 1)
  for _, key in ipairs { "loss", "norm" } do
    local t = s[key]
    s[key] = t:item()
    t:free()
  end
  self:observe(s.loss)
  return s
end

-- One update, awaited.
function Trainer:step()
  self:queue()
  return self:take()
end

-- Why the run has to end here, or nil.
function Trainer:diverged(s)
  if not (math.abs(s.loss) < math.huge) then return "loss is not finite" end
  if not (math.abs(s.norm) < math.huge) then return "gradient norm is not finite" end
  if s.step > self.options.warmup_steps and self.smooth > self.first + DIVERGED_BY then
    return ("smoothed loss %.3f is more than %g above the first step's %.3f")
      :format(self.smooth, DIVERGED_BY, self.first)
  end
  if s.step > self.options.warmup_steps and self.options.divergence > 0
    and self.high >= DIVERGED_STEPS then
    return ("smoothed loss %.3f, for %d steps more than %g above its lowest %.3f")
      :format(self.smooth, self.high, self.options.divergence, self.lowest)
  end
end

-- Mean cross entropy over fixed windows of the validation split, which batch_size does not move.
function Trainer:evaluate()
  local sum, losses = 0, self.yardstick:losses(self.model)
  for _, v in ipairs(losses) do sum = sum + v end
  return { ["valid/loss"] = sum / #losses }
end

-- The tensors that restore() takes: weights, under every name, and what the optimiser keeps.
function Trainer:state()
  local tensors = {}
  for name, t in next, self.model:parameters() do tensors["model." .. name] = t end
  for name, t in pairs(self.optimiser:state()) do tensors["optim." .. name] = t end
  return tensors
end

-- The counters that restore() takes, as text, and what model.load makes the model from.
function Trainer:metadata()
  local format = core.plain(string.format)
  local function float(v) return v and format("%.17g", v) or "" end
  return {
    attnlab = self.model:metadata().attnlab,
    step = tostring(self.step_count), seed = tostring(self.seed),
    optimiser_steps = tostring(self.optimiser:steps()), loss_sum = float(self.sum),
    loss_count = tostring(self.n), loss_smooth = float(self.smooth),
    loss_first = float(self.first), loss_lowest = float(self.lowest),
    loss_high = tostring(self.high) }
end

-- All is checked before anything is changed.
function Trainer:restore(tensors, metadata)
  if tonumber(metadata.seed) ~= self.seed then
    error(("checkpoint: seed %d expected, got %s"):format(self.seed, tostring(metadata.seed)), 0)
  end
  local function integer(key)
    local v = math.tointeger(tonumber(metadata[key]))
    if v and v >= 0 then return v end
    error(("checkpoint: '%s': a whole number from 0 expected, got %s"):format(key, tostring(metadata[key])), 0)
  end
  local function number(key, unset) -- unset: the empty text, before the first step
    local v = tonumber(metadata[key])
    if v or unset and metadata[key] == "" then return v end
    error(("checkpoint: '%s': a number expected, got %s"):format(key, tostring(metadata[key])), 0)
  end
  local counters = {
    step_count = integer "step", n = integer "loss_count", high = integer "loss_high", sum = number "loss_sum",
    smooth = number("loss_smooth", true), first = number("loss_first", true), lowest = number("loss_lowest", true) }
  local optimiser_steps, own = integer "optimiser_steps", self:state()
  parameters.expect_names(own, tensors, "checkpoint")
  for name, t in pairs(own) do
    local source = tensors[name]
    if not source then error(("checkpoint: tensor '%s' is missing"):format(name), 0) end
    local want, got = table.concat(t:shape(), ","), table.concat(source:shape(), ",")
    if want ~= got or t:dtype() ~= source:dtype() then
      error(("checkpoint: tensor '%s': %s (%s) expected, got %s (%s)")
        :format(name, t:dtype(), want, source:dtype(), got), 0)
    end
  end
  for name in pairs(tensors) do
    if not own[name] then
      error(("checkpoint: tensor '%s' is not part of this run"):format(name), 0)
    end
  end
  for name, t in pairs(own) do t:copy_(tensors[name]) end
  self.optimiser:steps(optimiser_steps)
  for _, key in ipairs { "smooth", "first", "lowest" } do self[key] = nil end
  for key, v in pairs(counters) do self[key] = v end
end
Trainer.restore = core.plain(Trainer.restore)
devices.wrap(Trainer, { "queue", "take", "evaluate", "follow", "restore" })

-- Runs to the last step. Hooks, each optional:
--   record(rec)          what was measured, by name, with its step; keys that start with "time/"
--                        are times, all others are bit-equal in a run repeated or resumed
--   checkpoint(trainer)  every checkpoint_interval, at the end, and when interrupted
--   interrupted()        asked after each step
--   due()                asked after each step: whether a checkpoint is wanted now
--   progress(info)       after each step, with rate, memory and eta: see progress.line
-- Returns { status = "finished" | "diverged" | "interrupted", step =, reason = }.
function M.loop(trainer, hooks)
  local t, per_step = trainer.options, trainer.options.batch_size * trainer.context
  local record, show = hooks.record or function() end, hooks.progress or function() end
  local busy, span, since, rate, valid, n, s = 0, 0, trainer.step_count, nil, nil, 0, nil
  local begin = trainer.step_count + 1
  local function every(k, interval)
    return k == t.steps or (interval > 0 and k % interval == 0)
  end
  while trainer.step_count < t.steps do
    local began = core.sys.clock()
    trainer:queue()
    local k = trainer.step_count
    local stop = hooks.interrupted and hooks.interrupted()
    local due = stop or hooks.due and hooks.due()
    local awaited = due or k == begin or every(k, t.log_interval) or every(k, t.eval_interval) or every(k, t.checkpoint_interval)
    local reason
    local reads = awaited or #trainer.queued >= trainer.late
    local together = #trainer.queued
    while reads and not reason and #trainer.queued > 0 do
      s = trainer:take()
      reason = trainer:diverged(s)
    end
    local seconds = core.sys.clock() - began
    busy, span = busy + seconds, span + seconds
    if reads then
      n = n + 1 -- the first step makes what later ones reuse and says nothing about them
      local now = together * per_step / span
      rate, span = n <= 2 and now or rate + (now - rate) * math.max(0.1, 1 / (n - 1)), 0
    end
    if reason then -- what was queued behind that step is as if it had not been
      local function finite(v) return math.abs(v) < math.huge and v or nil end
      trainer.queued = {}
      record { step = s.step, tokens = s.step * per_step, ["train/loss"] = finite(s.loss), lr = s.lr,
               grad_norm = finite(s.norm), ["time/unix"] = core.sys.time() }
      return { status = "diverged", step = s.step, reason = reason }
    end
    if k == 1 or every(k, t.log_interval) then
      local steps = k - since
      record { step = k, tokens = trainer:tokens(), ["train/loss"] = trainer.sum / trainer.n,
               lr = s.lr, grad_norm = s.norm, ["time/unix"] = core.sys.time(),
               ["time/step_ms"] = 1e3 * busy / steps,
               ["time/tokens_per_s"] = steps * per_step / busy }
      trainer.sum, trainer.n, busy, since = 0, 0, 0, k
    end
    if every(k, t.eval_interval) then
      local rec = trainer:evaluate()
      valid = rec["valid/loss"]
      rec.step, rec.tokens, rec["time/unix"] = k, trainer:tokens(), core.sys.time()
      record(rec)
      if not (math.abs(valid) < math.huge) then
        return { status = "diverged", step = k, reason = "validation loss is not finite" }
      end
    end
    show { step = k, steps = t.steps, loss = trainer.smooth, valid = valid, lr = s.lr, norm = s.norm,
           tokens_per_s = rate, memory = core.memory(trainer.device).peak,
           eta = (t.steps - k) * per_step / rate }
    if hooks.checkpoint and (due or every(k, t.checkpoint_interval)) then
      hooks.checkpoint(trainer)
    end
    if stop and k < t.steps then
      return { status = "interrupted", step = k, reason = "interrupted" }
    end
  end
  return { status = "finished", step = trainer.step_count }
end

local Result = {}
Result.__index = Result
Result.__name = "attnlab.training"

-- Keeps trainings where a session lives: restored(result), due(), keep(result, status); nil elsewhere.
M.keeper = nil

local function steps(self, stop)
  local bar = not self.quiet and progress.new() or nil
  local keeper = M.keeper
  local ok, out = pcall(M.loop, self.trainer, {
    record = function(rec) self.records[#self.records + 1] = rec end,
    progress = bar and function(info) bar:update(info) end,
    interrupted = stop,
    due = keeper and function() return keeper:due() end,
    checkpoint = keeper and function() keeper:keep(self, "interrupted") end,
  })
  if bar then bar:close() end
  if not ok then error(out, 0) end
  self.status, self.step, self.reason = out.status, out.step, out.reason
  if keeper then keeper:keep(self, self.status) end
end

-- Steps from where the trainer stands to its last one; Ctrl-C ends after the step under way.
function Result:run()
  if M.keeper and M.keeper:restored(self) then return self end
  interrupts.work(function(stop) steps(self, stop) end)
  if self.status == "interrupted" then interrupts.note(self) end
  return self
end

-- `steps` more; the schedule is stretched over the new total.
function Result:cont(steps)
  local options = self.trainer.options
  options.steps = self.trainer.step_count + steps
  self.trainer:follow()
  return self:run()
end

-- Array of { step, value } of one measurement ("train/loss", "valid/loss", "lr", "grad_norm").
function Result:curve(name)
  return curves.of(self.records, name or "valid/loss")
end

-- The losses as a figure for the terminal, or one measurement by its name.
function Result:plot(name)
  return curves.plot(self.records, name)
end

function Result:__tostring()
  local lines = { ("training %s at step %d%s"):format(self.status, self.step, self.reason and " (" .. self.reason .. ")" or "") }
  for _, name in ipairs { "train/loss", "valid/loss" } do
    local points = self:curve(name)
    if #points > 0 then lines[#lines + 1] = "  " .. curves.line(name, points) end
  end
  return table.concat(lines, "\n")
end

-- Windows that a card's memory has room for at once, beside what lies there already; nil: nothing is shared out.
local function micro_of(m, options, dataset)
  if not devices.is_card(m.device) then return nil end
  local cfg = config.resolve { model = m.config, attention = m.spec, train = options }
  dataset = dataset or data.open_for(m, cfg.train.data)
  local free = devices.share(m.device, 1) - core.memory(m.device).live
  return require("attnlab.budget").micro_batch(cfg, dataset, free)
end

-- opts: keys of config.lua's train rows, seed (1), quiet (no progress line); data may also be a dataset.
local function train(_, m, opts)
  if type(m) ~= "table" or type(m.forward) ~= "function" or type(m.config) ~= "table" then
    error("train: a model expected, got " .. type(m), 2)
  end
  local options, dataset = {}, nil
  for k, v in pairs(names.options("train", opts)) do options[k] = k ~= "data" and config.copy(v) or v end
  local seed, quiet = options.seed or 1, options.quiet
  options.seed, options.quiet = nil, nil
  options.dtype = m.dtype
  if data.is_dataset(options.data) then dataset, options.data = options.data, nil end
  local micro = devices.on(m.device, micro_of, m, options, dataset)
  local trainer = M.trainer(m, { train = options }, seed, dataset, micro)
  local result = setmetatable({ trainer = trainer, model = m, quiet = quiet, records = {},
                                status = "new", step = 0 }, Result)
  return result:run()
end

return setmetatable(M, { __call = train })
