-- A trained model with all that belongs to it. lab.open(x, {seed=, quick=, out_dir=, dtype=, tokenizer=, mapping=, device=}), x:
--   "runs/denominator/1f3a.."     a run folder, or an entry of lab.runs{..}
--   "my/model.safetensors"        a model file; "stories260K": one of experiments/models
--   "my/model"                    a folder as Hugging Face has it: config.json, weights, tokenizer
--   "denominator:exp + L2"        an arm of an experiment (of experiments/, or a path), of one seed: its first
-- Fields: model (in evaluation mode), vocabulary, data (the text that it was trained on, nil where that is not here),
-- path; of a run also experiment, arm, seed, step, state, records, and r:curve "valid/loss".
-- model.origin is what finds it again: { experiment =, arm =, seed =, quick = } or { path = }.
-- A change here makes no run stale.
local core = require "attnlab.core"
local config = require "attnlab.config"
local curves = require "attnlab.curves"
local data = require "attnlab.data"
local devices = require "attnlab.devices"
local experiment = require "attnlab.experiment"
local hub = require "attnlab.model.hub"
local model = require "attnlab.model"
local names = require "attnlab.names"
local rows = require "attnlab.rows"
local store = require "attnlab.store"
local tables = require "attnlab.table"
local sys = core.sys

local M = {}

-- ---- models of the project's, and runs of arms ------------------------------------------------------

local ENDINGS = { ".bin", ".safetensors" }

-- Names of the files of the project's with one of these endings.
local function in_folder(folder, endings)
  local at, out = data.home() .. "/" .. folder, {}
  for _, file in ipairs(sys.exists(at) == "dir" and sys.list(at) or {}) do
    for _, ending in ipairs(endings) do
      local name = file:sub(-#ending) == ending and file:sub(1, -#ending - 1)
      if name and not name:find "^tok%d+$" then out[#out + 1] = name end
    end
  end
  return out
end

-- The file of a model in experiments/models, or nil.
function M.model_file(name)
  for _, ending in ipairs(ENDINGS) do
    local path = ("%s/experiments/models/%s%s"):format(data.home(), name, ending)
    if not name:find("/", 1, true) and sys.exists(path) == "file" then return path end
  end
end

-- What a word of the command line names: a path, or a model in experiments/models.
function M.model_path(word) return not sys.exists(word) and M.model_file(word) or word end

-- The file of an experiment that is named as in experiments/, or by its path.
function M.experiment_file(name)
  if name:find("/", 1, true) or name:find "%.lua$" then return name end
  return ("%s/experiments/%s.lua"):format(data.home(), name)
end

local plans = {}

-- Run of an arm as its experiment would make it on the current device (the number of threads depends on all its runs), and the plan with
-- that arm alone. what = { experiment, arm, seed = (the first), quick }. Seeds that the file does not name are those
-- of `--seeds`.
function M.run_of(what, root)
  local path = M.experiment_file(what.experiment)
  if not sys.exists(path) and path ~= what.experiment then
    error(names.unknown("experiment", what.experiment, in_folder("experiments", { ".lua" })), 0)
  end
  -- as the file is now: at the prompt it may be edited meanwhile
  local text = sys.exists(path) == "file" and sys.sha256_file(path) or ""
  local key = table.concat({ root, core.on(), core.json.encode(what), text }, " ")
  if plans[key] then return plans[key][1], plans[key][2] end
  local e = experiment.load(path)
  if getmetatable(e) ~= experiment.class then
    error(("'%s' is a study, and has no arms"):format(what.experiment), 0)
  end
  local plan = e:plan { quick = what.quick }
  local listed, seed = {}, what.seed or plan.seeds[1]
  for i, a in ipairs(plan.arms) do listed[i] = a.name end
  if not names.find(listed, what.arm) then
    error(("experiment '%s': %s"):format(what.experiment, names.unknown("arm", what.arm, listed)), 0)
  end
  local declared = names.find(plan.seeds, seed) ~= nil
  if not declared then plan.seeds[#plan.seeds + 1] = seed end
  local found
  for _, run in ipairs(require("attnlab.runner").expand(plan, { root = root })) do
    if run.name == what.arm and run.seed == seed then found = run end
  end
  found.declared = declared
  for i = #plan.arms, 1, -1 do
    if plan.arms[i].name ~= what.arm then table.remove(plan.arms, i) end
  end
  plan.all_seeds, plan.seeds = plan.seeds, { seed }
  plans[key] = { found, plan }
  return found, plan
end

-- ---- what is opened ---------------------------------------------------------------------------------

local Opened = {}
Opened.__index = Opened
Opened.__name = "attnlab.opened"

local function records_of(self, what)
  if not self.records then error(("%s: %s is a model file, and has no curve"):format(what, names.shown(self.path)), 0) end
  return self.records
end

-- Array of { step, value } of a measurement of the run ("valid/loss").
function Opened:curve(name) return curves.of(records_of(self, "curve"), name or "valid/loss") end

-- The text that a model was trained on: the dataset, or nil and why not.
local function text_of(m)
  local on = m.trained_on
  if not on then return nil end
  local ok, set = pcall(data.open, on.name, { vocab = m.vocabulary })
  if not ok then return nil, ("'%s': not here"):format(on.name) end
  if set.sha256 ~= on.sha256 then
    return nil, ("'%s': the text of that name is another one than the model was trained on"):format(on.name)
  end
  return set
end

-- The losses of the run as a figure for the terminal, or one measurement ("valid/loss", "train/loss", "lr", "grad_norm").
function Opened:plot(name) return curves.plot(records_of(self, "plot"), name) end

local function with_model(self, path, opts)
  local m = model.load(path, { dtype = opts.dtype, tokenizer = opts.tokenizer, mapping = opts.mapping }):eval()
  self.path, self.model, self.vocabulary = sys.realpath(path), m, m.vocabulary
  self.data, self.without = text_of(m)
  return self
end

-- What finds a run again, where its experiment's file would fill this very folder.
local function origin_of(dir, spec)
  local what = { experiment = spec.experiment, arm = spec.arm, seed = spec.seed, quick = spec.quick }
  local ok, run = pcall(function()
    if sys.exists(M.experiment_file(what.experiment)) then return M.run_of(what, "runs") end
  end)
  local same = ok and run and sys.exists(run.dir) and sys.realpath(run.dir) == sys.realpath(dir)
  return same and what or { path = sys.realpath(dir) }
end

local function open_run(dir, opts)
  local spec, status = store.config(dir), store.status(dir)
  local shown = names.shown(dir)
  if status.state == "damaged" then error(("open: %s is damaged: %s"):format(shown, status.reason), 0) end
  if sys.exists(store.file(dir, "checkpoint.safetensors")) ~= "file" then
    error(("open: %s: %s at step %d, and no checkpoint of it"):format(shown, status.state, status.step), 0)
  end
  local self = setmetatable({ experiment = spec.experiment, arm = spec.arm, seed = spec.seed, variant = spec.variant,
    state = status.state, step = status.step, records = store.metrics(dir),
    stale = store.differences(spec) }, Opened)
  with_model(self, dir, opts)
  self.model.origin = origin_of(dir, spec)
  return self
end

-- The command that trains an arm.
local function command(what, run, plan, root)
  local path, home = M.experiment_file(what.experiment), sys.realpath(".") .. "/"
  if path:sub(1, #home) == home then path = path:sub(#home + 1) end
  local line = { "./lab run", names.word(path) }
  if what.quick then line[#line + 1] = "--quick" end
  if plan.device ~= "cpu" then line[#line + 1] = "--device " .. plan.device end
  if not run.declared then line[#line + 1] = "--seeds " .. table.concat(plan.all_seeds, ",") end
  if root ~= "runs" then line[#line + 1] = names.word("out_dir=" .. root) end
  return table.concat(line, " ")
end

local function open_arm(name, arm, opts)
  local root = opts.out_dir or "runs"
  local what = { experiment = name, arm = arm, seed = opts.seed, quick = opts.quick or nil }
  local run, plan = M.run_of(what, root)
  local status = store.status(run.dir)
  if status.state ~= "finished" then
    local how = status.state == "new" and "not trained yet" or ("%s at step %d%s"):format(status.state, status.step,
      status.reason and " (" .. status.reason .. ")" or "")
    local train = status.state ~= "diverged" and "\nthis trains it:  " .. command(what, run, plan, root) or ""
    error(("open: %s: %s, seed %d%s: %s%s"):format(name, arm, run.seed, opts.quick and ", quick" or "", how, train), 0)
  end
  return open_run(run.dir, opts)
end

local KNOWN = { "seed", "quick", "out_dir", "dtype", "tokenizer", "mapping", "device" }
local TYPES = { quick = "boolean", out_dir = "string" }

local function check(opts)
  opts = names.options("open", opts)
  for _, k in ipairs(names.keys(opts)) do
    local want = TYPES[k]
    if not names.find(KNOWN, k) then error("open: " .. names.unknown("option", k, KNOWN), 0) end
    if want and type(opts[k]) ~= want then
      error(("open: option '%s': %s expected, got %s"):format(k, want, rows.show(opts[k])), 0)
    end
  end
  if opts.seed ~= nil and (math.type(opts.seed) ~= "integer" or opts.seed < 0) then
    error(("open: option 'seed': a whole number >= 0 expected, got %s"):format(rows.show(opts.seed)), 0)
  end
  return opts
end

local function open(x, opts)
  opts = check(opts)
  if getmetatable(x) == Opened then x = x.path end
  if type(x) == "table" and type(x.dir) == "string" then x = x.dir end
  if type(x) ~= "string" or x == "" or x:find "\0" then
    error("open: a run folder, a model file or \"experiment:arm\" expected, got "
      .. (x == "" and "''" or type(x) == "number" and rows.show(x) or type(x)), 0)
  end
  local there, name, arm = sys.exists(x), x:match "^([^:]+):%s*(.-)%s*$"
  if not there and name then return open_arm(name, arm, opts) end
  for _, k in ipairs { "seed", "quick" } do
    if opts[k] ~= nil then error(("open: option '%s' belongs to an arm, '%s' is none"):format(k, x), 0) end
  end
  if there == "dir" and sys.exists(store.file(x, "config.json")) and not hub.is_folder(x) then return open_run((x:gsub("/+$", "")), opts) end
  local path = there and x or M.model_file(x)
  if not path then
    local kind = x:find "[/.]" and ("'%s': no such file or folder"):format(x)
      or names.unknown("model", x, in_folder("experiments/models", ENDINGS))
    error(("open: %s; an arm is named as \"experiment:arm\""):format(kind), 0)
  end
  return with_model(setmetatable({}, Opened), path, opts)
end

-- ---- as text ----------------------------------------------------------------------------------------

local function run_line(self)
  local notes = self.state == "finished" and "" or (", %s at step %d"):format(self.state, self.step)
  if #self.stale > 0 then notes = notes .. ", stale (" .. table.concat(self.stale, ", ") .. ")" end
  return ("%s: %s, seed %d%s"):format(self.variant or self.experiment, self.arm, self.seed, notes)
end

local function model_line(m)
  local c, v = m.config, m.vocabulary
  local kv = c.kv_heads ~= c.heads and (" (%d of keys and values)"):format(c.kv_heads) or ""
  local tokens = not v and c.vocab .. " tokens, no vocabulary"
    or ("%d %s"):format(v:size(), v.kind == "characters" and "characters" or "tokens")
  return ("%s, %d layers, width %d, %d heads%s, context %d, %s, %s parameters, %s"):format(m.class_name, c.layers,
    c.width, c.heads, kv, c.context, tokens, tables.human(m:n_parameters()), m.dtype)
end


function Opened:__tostring()
  local m, here = self.model, sys.realpath "." .. "/"
  local path = self.path:sub(1, #here) == here and self.path:sub(#here + 1) or self.path
  local list = { { "model", model_line(m) }, { "attention", config.text(m.spec) } }
  if self.data then
    list[#list + 1] = { "data", ("'%s', %s tokens"):format(self.data.name, tables.human(self.data.tokens:numel())) }
  elseif self.without then
    list[#list + 1] = { "data", self.without }
  end
  local points = self.records and self:curve() or {}
  if #points > 0 then
    list[#list + 1] = { "valid/loss", (curves.line("", points):gsub("^%s+", "")) }
  end
  if self.experiment then table.insert(list, 1, { "path", path }) end
  return tables.clean(self.experiment and run_line(self) or path, true) .. "\n" .. tables.pairs(list)
end

M.class = Opened
return setmetatable(M, { __call = function(_, x, opts)
  return devices.on(devices.opened(check(opts).device), open, x, opts)
end })
