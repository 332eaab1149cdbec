-- The trained models that a study of surgery operates on, by what an experiment file says of them:
--   { file = "stories260K" }                      a model of experiments/models
--   { path = "/somewhere/model.safetensors" }     a model file, or the folder of a run
--   { experiment = "denominator", arm = "softmax", seed = 1, quick = bool }
--                                                 an arm of another experiment; where its run is not
--                                                 there it is trained, into the folder that the
--                                                 experiment itself would fill
-- and the text they are measured on: a text's name, or "own", which the model writes.
local core = require "attnlab.core"
local config = require "attnlab.config"
local data = require "attnlab.data"
local generate = require "attnlab.generate"
local hub = require "attnlab.model.hub"
local model = require "attnlab.model"
local names = require "attnlab.names"
local open = require "attnlab.open"
local store = require "attnlab.store"
local sys = core.sys

local M = {}

local KEYS = { "file", "path", "experiment", "arm", "seed", "quick" }

local function path_of(file)
  return open.model_file(file)
    or error(("model: no file '%s.bin' or '.safetensors' in %s/experiments/models"):format(file, data.home()), 0)
end

-- The checked description.
function M.check(given)
  if type(given) ~= "table" then
    error("model: {file=}, {path=} or {experiment=, arm=, seed=} expected, got " .. type(given), 0)
  end
  for k in pairs(given) do
    if not names.find(KEYS, k) then error("model: " .. names.unknown("key", tostring(k), KEYS), 0) end
  end
  local ways = (given.file and 1 or 0) + (given.path and 1 or 0) + (given.experiment and 1 or 0)
  if ways ~= 1 then error("model: either file or experiment, arm and seed expected, or a path", 0) end
  if given.path then
    if type(given.path) ~= "string" or not sys.exists(given.path) then
      error(("model: path: '%s': no such file or folder"):format(tostring(given.path)), 0)
    end
    return { path = sys.realpath(given.path) }
  end
  if given.file then
    path_of(given.file)
    return { file = given.file }
  end
  if type(given.arm) ~= "string" or math.type(given.seed) ~= "integer" then
    error("model: experiment needs arm (a name) and seed (a whole number)", 0)
  end
  return { experiment = given.experiment, arm = given.arm, seed = given.seed, quick = given.quick or nil }
end

function M.title(subject)
  if subject.file then return subject.file end
  if subject.path then return subject.path:match "[^/]+/[^/]+$" or subject.path end
  return ("%s: %s, seed %d%s"):format(subject.experiment, subject.arm, subject.seed,
    subject.quick and ", quick" or "")
end

-- The arm whose seeds the model is one of, or nil.
function M.arm(subject)
  return subject.experiment and ("%s: %s%s"):format(subject.experiment, subject.arm, subject.quick and ", quick" or "")
end

-- The subject's run, and the plan of its experiment with that arm alone.
local function run_of(subject, root)
  local run, plan = open.run_of(subject, root)
  if not run.declared then
    error(("model: experiment '%s' has no seed %d"):format(subject.experiment, subject.seed), 0)
  end
  return run, plan
end

-- Numbers of layers, context and heads, without the weights.
function M.shape(subject)
  M.renew()
  if subject.experiment then
    local m = run_of(subject, "runs").spec.config.model
    return m.layers, m.context, m.heads
  end
  local m = M.load(subject)
  return #m.layers, m.config.context, m.config.heads
end

-- The text that the model's parts are made of (parts.lua): its name or path, or nil.
function M.text(subject)
  if subject.experiment then return run_of(subject, "runs").spec.config.train.data end
  local m = M.load(subject)
  return m.trained_on and m.trained_on.name or "stories"
end

-- What the weights depend on, as a text for identities.
function M.identity(subject)
  if not subject.experiment then return select(2, M.load(subject)) end
  return store.id(run_of(subject, "runs").spec)
end

-- Trains what is not there. Returns "done", or how the training ended.
function M.prepare(subject, options)
  if not subject.experiment then return "done" end
  local run, plan = run_of(subject, options.root)
  if store.status(run.dir).state == "finished" then return "done" end
  local say = options.quiet and io.stderr or io.stdout
  say:write(("%s: not trained yet; training it first, as %s does\n"):format(M.title(subject),
    subject.experiment))
  local _, outcome = require("attnlab.runner").work(plan, { root = options.root, program = sys.program(),
    jobs = 1, threads = run.spec.made.threads, quiet = options.quiet, force = options.force })
  local status = store.status(run.dir)
  if outcome == "done" and status.state ~= "finished" then
    error(("%s: %s at step %d: it cannot be operated on"):format(names.shown(run.dir), status.state, status.step), 0)
  end
  return outcome
end

local loaded = {} -- by path, { model, hash }: a study comes back to it in every row

-- Hash of a file, or of what a folder as Hugging Face has it holds; nil where it is not there.
local function hash(path)
  local there = sys.exists(path)
  if there == "dir" and hub.is_folder(path) then return hub.hash(path) end
  return there == "file" and sys.sha256_file(path) or nil
end

-- Forgets the models whose files hold something else by now: called where a plan, a measurement or a comparison begins.
function M.renew()
  for path, known in pairs(loaded) do
    if hash(path) ~= known[2] then loaded[path] = nil end
  end
end

-- The file that the weights are in, and what model.load takes.
local function where(subject, root)
  if subject.file then return path_of(subject.file), path_of(subject.file) end
  local dir = subject.path or run_of(subject, root).dir
  if subject.path and (sys.exists(dir) == "file" or hub.is_folder(dir)) then return dir, dir end
  return store.file(dir, "checkpoint.safetensors"), dir
end

-- Hash of the file that the weights are in, nil where it is not there.
function M.weights(subject, root)
  local path = where(subject, root)
  if loaded[path] then return loaded[path][2] end
  return hash(path)
end

-- The model in evaluation mode, and the hash of the file that its weights are in.
function M.load(subject, root)
  local path, from = where(subject, root)
  if not loaded[path] then
    loaded[path] = { model.load(from):eval(), hash(path) }
  end
  return loaded[path][1], loaded[path][2]
end

-- ---- the text that a model writes -------------------------------------------------------------------

-- An id drawn from softmax(logits[first + 1 .. first + n]) by u in [0, 1).
local function draw(logits, first, n, u)
  generate.expect_finite(logits, "own text", first, n)
  local highest, total = -math.huge, 0
  for i = first + 1, first + n do highest = math.max(highest, logits[i]) end
  for i = first + 1, first + n do total = total + math.exp(logits[i] - highest) end
  local left = u * total
  for i = first + 1, first + n do
    left = left - math.exp(logits[i] - highest)
    if left < 0 then return i - first - 1 end
  end
  return n - 1
end

-- `windows` sequences of `context` tokens, each from the model's start token on, drawn at temperature
-- 1, one behind the other as a dataset that evalset and calibrate take; every window of that length
-- is one of them. On such text the loss difference of a changed model estimates KL(original || changed).
function M.own_text(m, windows, context, seed)
  local v, V = m.vocabulary, m.config.vocab
  if not (v and v.bos) then error("own text: a vocabulary with a start token is needed", 0) end
  local text, now = {}, {}
  for b = 1, windows do
    text[b], now[b] = { v.bos }, v.bos
  end
  core.no_grad(function()
    local state = m:state { batch = windows }
    for t = 2, context do
      local ids = core.tensor { data = now, shape = { windows, 1 }, dtype = "i32" }
      local scores, after = m:forward(ids, { state = state })
      local logits = scores:flat()
      scores:free()
      state:free()
      state = after
      local u = core.rand { shape = { windows }, dtype = "f64", seed = seed, device = "cpu", stream = "own text " .. t }:flat()
      for b = 1, windows do
        now[b] = draw(logits, (b - 1) * V, V, u[b])
        text[b][t] = now[b]
      end
    end
    state:free()
  end)
  local flat = {}
  for _, row in ipairs(text) do table.move(row, 1, #row, #flat + 1, flat) end
  flat[#flat + 1] = v.bos -- the target of the last token
  local n = #flat
  local tokens = core.tensor { data = flat, shape = { n }, dtype = "i32" }
  return data.of_tokens("own text", tokens, v, { lo = 0, hi = n }, { lo = 0, hi = n })
end

return M
