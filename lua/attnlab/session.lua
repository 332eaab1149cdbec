-- What was done in this session, as a file for ./lab run.
--   lab.session:study "mine.lua"                   a study of surgery: each state of a fork that was measured and not
--                                                  undone is a case, each sweep another
--   lab.session:study("mine.lua", {as="experiment", data=})
--                                                  an experiment that trains such arms from the start instead, which is
--                                                  another question; data: of a model that says no text of its own
-- The study measures on the part of the text that the prompt never shows, so what was claimed at the prompt, among many
-- looks, is tested; the file marks it exploratory. Models of an experiment's runs are repeated over the seeds of their
-- arm, a model from elsewhere is n = 1. What cannot be written down (a patch with a tensor, a model that no file holds)
-- is left out and said.
-- A change here makes no run stale.
local core = require "attnlab.core"
local config = require "attnlab.config"
local names = require "attnlab.names"
local open = require "attnlab.open"
local steps = require "attnlab.surgery.steps"
local gather = require "attnlab.surgery.states"
local subject = require "attnlab.surgery.subject"
local surgery = require "attnlab.surgery"
local tables = require "attnlab.table"
local written = require "attnlab.session_file"
local sys = core.sys

local M = {}

-- The models to measure: of an arm those of all its seeds.
local function models_of(model)
  if not model.experiment then return { model } end
  local _, plan = open.run_of(model, "runs")
  local out = {}
  for i, seed in ipairs(plan.all_seeds or plan.seeds) do
    out[i] = { experiment = model.experiment, arm = model.arm, seed = seed, quick = model.quick }
  end
  return out
end

-- ---- as a study ---------------------------------------------------------------------------------------

local function claims_of(list)
  local out = {}
  for _, f in ipairs(list) do
    for _, s in ipairs(f.states) do
      local d = s.difference
      local way = d and not d.bad and d.lo and (d.lo > 0 and "worse" or d.hi < 0 and "better")
      if way then out[#out + 1] = { swap = s.name, [way] = true, exploratory = true } end
    end
  end
  return out
end

local function as_study(name, list)
  local cases, blocks, models, n_models = {}, {}, {}, 0
  for _, f in ipairs(list) do
    local p = f.fork:parts()
    local v = f.fork.vocabulary
    local prompt = v.kind ~= "characters" and "Once upon a time" or v:has "\n" and "\n" or v:piece(0)
    for _, model in ipairs(models_of(f.model)) do
      local title = subject.title(model)
      if not models[title] then models[title], n_models = true, n_models + 1 end
      local base = { model = model, data = "hidden", text = f.text, context = p.context, windows = p.count.hidden }
      if #f.states > 0 then
        local c = config.copy(base)
        c.states, c.prompt, c.tokens = written.name(f.letter), prompt, 60
        cases[#cases + 1] = c
      end
      for _, s in ipairs(f.sweeps) do
        local c = config.copy(base)
        c.sweep = s.options
        cases[#cases + 1] = c
      end
    end
    if #f.states > 0 then blocks[#blocks + 1] = f end
  end
  local foreign = {}
  for _, f in ipairs(list) do
    local title = subject.title(f.model)
    if not f.model.experiment and not foreign[title] then
      foreign[#foreign + 1], foreign[title] = title, true
    end
  end
  local story = "What was claimed at the prompt is exploratory: it was seen among many looks at one part of the text. "
    .. "Here it is measured on another part."
  for _, title in ipairs(foreign) do
    story = ("%s\n%s is one model, n = 1: what is found says nothing of other models."):format(story, title)
  end
  return written.study(name, blocks, cases, claims_of(list), story), n_models
end

-- ---- as an experiment ---------------------------------------------------------------------------------

-- The attention of the fork's model behind steps, one spec where the layers agree.
local function attention_behind(fork, list)
  local s = surgery.fork(fork.root, true)
  steps.run(s, list, {})
  local same = true
  for i = 2, #s.layers do same = same and core.json.encode(s.spec[tostring(i)]) == core.json.encode(s.spec["1"]) end
  return same and config.copy(s.spec["1"]) or config.copy(s.spec)
end

local function base_of(f, opts)
  if f.model.experiment then
    local run, plan = open.run_of(f.model, "runs")
    local c = config.copy(run.spec.config)
    return { model = c.model, train = c.train, attention = c.attention }, plan.all_seeds or plan.seeds
  end
  local on = f.fork.root.trained_on
  local text = opts.data or on and on.name
  if not text then
    error(("study: %s says nothing of the text that it was trained on, so its arms need one: data=\"FILE\"")
      :format(subject.title(f.model)), 0)
  end
  local model = config.copy(f.fork.root.config)
  model.vocab = 0
  return { model = model, train = { data = text }, attention = config.copy(f.fork.root.spec) }, { 1, 2, 3 }
end

local function as_experiment(name, list, out, opts)
  local first, arms, claims = list[1], { { name = "original" } }, {}
  for _, f in ipairs(list) do
    if core.json.encode(f.model) ~= core.json.encode(first.model) then
      out[#out + 1] = ("fork %s: of another model than fork %s"):format(f.letter, first.letter)
    else
      for _, s in ipairs(f.sweeps) do out[#out + 1] = ("fork %s: the sweep of %s: a study measures it"):format(f.letter, s.title) end
      for _, s in ipairs(f.states) do
        local sets, other = {}, nil
        for _, step in ipairs(s.steps) do
          if step.set then sets[#sets + 1] = step else other = other or not step.calibrate and not step.tune and step end
        end
        if other or #sets == 0 or not s.steps[#s.steps].set then
          out[#out + 1] = ("%s: training has nothing like it"):format(s.name)
        else
          arms[#arms + 1] = { name = s.name, attention = attention_behind(f.fork, sets) }
          claims[#claims + 1] = ("%s: %s"):format(s.name, s.seen)
        end
      end
    end
  end
  if #arms == 1 then error("study: no state that an arm could be trained with: " .. table.concat(out, "; "), 0) end
  local base, seeds = base_of(first, opts)
  return written.experiment(name, base, arms, seeds, claims), #arms
end

-- ---- the call -----------------------------------------------------------------------------------------

local Written = {}
Written.__index = Written
Written.__name = "attnlab.written"

function Written:__tostring()
  local lines = tables.wrap(self.says, tables.columns() - 1)
  lines[#lines + 1] = "./lab run " .. names.word(self.path)
  for _, why in ipairs(self.left_out) do
    for _, line in ipairs(tables.wrap("left out: " .. tables.clean(why, true), tables.columns() - 1)) do lines[#lines + 1] = line end
  end
  return table.concat(lines, "\n")
end

local KNOWN = { "as", "data" }

-- Writes the file; returns { path, name, left_out = reasons, models or arms = their number }. A file that somebody else
-- wrote is not overwritten.
function M:study(path, opts)
  if self ~= M then error("study: lab.session:study(\"FILE.lua\") expected, with a colon", 2) end
  opts = names.options("study", opts)
  for k in pairs(opts) do
    if not names.find(KNOWN, k) then error("study: " .. names.unknown("option", tostring(k), KNOWN), 2) end
  end
  if opts.as ~= nil and opts.as ~= "study" and opts.as ~= "experiment" then
    error("study: as: \"study\" or \"experiment\" expected, got " .. tostring(opts.as), 2)
  end
  local stem = type(path) == "string" and path:match "([^/]+)%.lua$"
  if not stem then error(("study: the name of a .lua file expected, got %s"):format(tostring(path)), 2) end
  local kind = sys.exists(path)
  if kind and (kind ~= "file" or not written.ours(sys.read(path))) then
    error(("study: '%s' is there and not of this function: another name, or remove it"):format(names.shown(path)), 2)
  end
  local name = stem:gsub("[^%w_-]", "_"):gsub("^[^%w]+", "")
  local list, out = gather()
  local r = setmetatable({ path = path, name = name ~= "" and name or "session", left_out = out }, Written)
  local text
  if opts.as == "experiment" then
    text, r.arms = as_experiment(r.name, list, out, opts)
    r.says = ("%s trains %d arms from the start, which asks another question than surgery does"):format(path, r.arms)
  else
    local states, sweeps = 0, 0
    for _, f in ipairs(list) do states, sweeps = states + #f.states, sweeps + #f.sweeps end
    text, r.models = as_study(r.name, list)
    r.states, r.sweeps = states, sweeps
    r.says = ("%s measures %d state%s and %d sweep%s of %d model%s, on the part of the text that is never shown here")
      :format(path, states, states == 1 and "" or "s", sweeps, sweeps == 1 and "" or "s", r.models, r.models == 1 and " (n = 1)" or "s")
  end
  sys.write(path, text)
  return r
end

return M
