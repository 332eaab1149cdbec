-- lab.experiment{...}: a question, its arms and what is expected of them, as data. Checked here to the
-- last key; expanded into one resolved configuration per arm. No loop, path or drawing is in a file of
-- experiments.
--
--   name      folder under runs/: letters, digits, - and _
--   title     of the figure (default: the question); question, source, story: text for people
--   base      configuration of every arm, nested or with dotted keys
--   arms      {{name=, [config key]=value, ...}, ...}; the first is the reference of all differences
--   vary      instead of arms: {[config key] = {first value = reference, others...}, ...}
--   design    for vary: "one_factor" (reference, then one key changed at a time) or "factorial"
--   seeds     list of whole numbers; arms are paired by seed
--   margin    equivalence margin of the loss in nats
--   expect    {{arm=, versus=, equal_within=x | worse=true | better=true} or {arm=, diverges=true} or
--              {arm=, value=x, within=y}, ...}: kept with the runs when they start
--              {arm=, measure="series", shows="falls"} judges what a measure found
--   measure   names of measures.lua that are taken of every trained model they fit, such as {"series"}
--   plot      {metric="valid/loss", by="order p"}: by names the axis of a second figure, in which arms
--             with at = {line, number} stand at that number on that line
--   measured_apart  true: arms may be measured on different windows or texts, and the table says so
--   plugins   list of plug-ins to load first (.so or .c), paths from the experiment's folder or the current one,
--             as is that of a text: base = { data = "mytext.txt" }
--   quick     overrides for --quick: config keys, seeds
--   next      the command to type next
-- A change here makes no run stale.
local core = require "attnlab.core"
local config = require "attnlab.config"
local data = require "attnlab.data"
local measures = require "attnlab.measures"
local names = require "attnlab.names"
local plugins = require "attnlab.plugins"
local results = require "attnlab.results"
local train = require "attnlab.train"
local yardstick = require "attnlab.yardstick"
local json, sys = core.json, core.sys

local Experiment = {}
Experiment.__index = Experiment

local TYPES = { name = "string", title = "string", source = "string", question = "string", story = "string",
                base = "table", arms = "table", vary = "table", design = "string", seeds = "table",
                margin = "number", expect = "table", plot = "table", quick = "table", next = "string",
                plugins = "table", measure = "table", measured_apart = "boolean" }
local EXPECT_KEYS = { arm = true, versus = true, equal_within = true, worse = true, better = true, diverges = true,
                      value = true, within = true, measure = true, shows = true }
local SECTIONS = { model = true, attention = true, train = true }

local function fail(e, ...)
  error(("experiment%s: %s"):format(e.name and " '" .. e.name .. "'" or "", (...):format(select(2, ...))), 0)
end

-- Sets every key of `changes` (dotted, bare, or one of the nested sections) in the configuration.
local function apply(cfg, changes)
  for _, key in ipairs(names.keys(changes)) do
    local value = changes[key]
    if SECTIONS[key] and type(value) == "table" then
      for _, sub in ipairs(names.keys(value)) do config.set(cfg, key .. "." .. sub, value[sub]) end
    elseif key ~= "name" and key ~= "seeds" and key ~= "at" then
      config.set(cfg, key, value)
    end
  end
  return cfg
end

local function check_seeds(e, seeds)
  if type(seeds) ~= "table" or #seeds == 0 then fail(e, "seeds: a list such as {1,2,3} is needed") end
  local seen = {}
  for i, s in ipairs(seeds) do
    if math.type(s) ~= "integer" or s < 0 then
      fail(e, "seeds: entry %d: a whole number >= 0 expected, got %s", i, tostring(s))
    end
    if seen[s] then fail(e, "seeds: %d is there twice", s) end
    seen[s] = true
  end
end

local function text_of(v)
  if type(v) ~= "table" then return tostring(v) end
  local parts = {}
  for _, x in ipairs(v) do parts[#parts + 1] = text_of(x) end
  for _, k in ipairs(names.keys(v)) do parts[#parts + 1] = k .. "=" .. text_of(v[k]) end
  return "{" .. table.concat(parts, ",") .. "}"
end
text_of = core.plain(text_of)

-- Arms of a `vary` table, keys in alphabetical order: names such as "denominator=length".
local function vary_arms(e)
  local keys = names.keys(e.vary)
  local first = {}
  for _, k in ipairs(keys) do
    if type(e.vary[k]) ~= "table" or #e.vary[k] < 2 then
      fail(e, "vary: '%s': a list of at least two values expected", k)
    end
    first[k] = e.vary[k][1]
  end
  if #keys == 0 then fail(e, "vary: names no key") end
  local function arm(changed)
    local values, parts = {}, {}
    for _, k in ipairs(keys) do
      local v = first[k]
      if changed[k] ~= nil then v = changed[k] end
      values[k] = v
      if e.design == "factorial" or changed[k] ~= nil then
        parts[#parts + 1] = k:match("[^.]+$") .. "=" .. text_of(v)
      end
    end
    values.name = #parts > 0 and table.concat(parts, ", ") or "reference"
    return values
  end
  local arms = {}
  if e.design == "factorial" then
    local function expand(i, changed)
      if i > #keys then
        arms[#arms + 1] = arm(changed)
        return
      end
      for _, v in ipairs(e.vary[keys[i]]) do
        changed[keys[i]] = v
        expand(i + 1, changed)
      end
      changed[keys[i]] = nil
    end
    expand(1, {})
  else
    arms[1] = arm {}
    for _, k in ipairs(keys) do
      for i = 2, #e.vary[k] do arms[#arms + 1] = arm { [k] = e.vary[k][i] } end
    end
  end
  return arms
end

local function check_arms(e)
  if (e.arms == nil) == (e.vary == nil) then fail(e, "either arms or vary is needed") end
  if e.design and e.design ~= "one_factor" and e.design ~= "factorial" then
    fail(e, "design: one_factor or factorial expected, got '%s'", e.design)
  end
  if e.design and not e.vary then fail(e, "design belongs to vary, but there are arms") end
  e.arms = e.arms or vary_arms(e)
  if #e.arms == 0 then fail(e, "arms: there is none") end
  local seen = {}
  for i, a in ipairs(e.arms) do
    if type(a) ~= "table" or type(a.name) ~= "string" or a.name == "" or a.name:find("%c") then
      fail(e, "arm %d: a table with a name of one line is needed", i)
    end
    if seen[a.name] then fail(e, "two arms are called '%s'", a.name) end
    if a.at ~= nil and not (type(a.at) == "table" and type(a.at[1]) == "string" and type(a.at[2]) == "number") then
      fail(e, "arm '%s': at: {name of a line, number} expected", a.name)
    end
    seen[a.name] = true
  end
end

local function check_measured(e, i, x)
  if not names.find(e.measure, x.measure) then
    fail(e, "expect: entry %d: %s", i, names.unknown("measure", tostring(x.measure), e.measure))
  end
  local known = measures[x.measure].expect
  if not known[x.shows] then
    fail(e, "expect: entry %d: shows: %s", i, names.unknown("word", tostring(x.shows), names.keys(known)))
  end
end

local function check_expect(e)
  local arm_names, known = {}, {}
  for i, a in ipairs(e.arms) do
    arm_names[i] = a.name
    known[a.name] = true
  end
  for i, x in ipairs(e.expect) do
    if type(x) ~= "table" then fail(e, "expect: entry %d: a table expected", i) end
    for _, k in ipairs(names.keys(x)) do
      if not EXPECT_KEYS[k] then
        fail(e, "expect: entry %d: %s", i, names.unknown("key", k, names.keys(EXPECT_KEYS)))
      end
    end
    for _, k in ipairs { "arm", "versus" } do
      if x[k] ~= nil and not known[x[k]] then
        fail(e, "expect: entry %d: %s", i, names.unknown("arm", tostring(x[k]), arm_names))
      end
    end
    if x.versus == x.arm and x.arm then fail(e, "expect: entry %d: arm and versus are both '%s'", i, x.arm) end
    local kinds = {}
    for _, k in ipairs { "equal_within", "worse", "better", "diverges", "value", "measure" } do
      if x[k] ~= nil then kinds[#kinds + 1] = k end
    end
    if not x.arm or #kinds ~= 1 then
      fail(e, "expect: entry %d: arm and exactly one of equal_within, worse, better, diverges, value, measure are "
        .. "needed", i)
    end
    if x.measure then check_measured(e, i, x) end
    local number = x.equal_within or x.value
    if number and type(number) ~= "number" then
      fail(e, "expect: entry %d: %s: a number expected", i, kinds[1])
    end
    if x.value and type(x.within) ~= "number" then fail(e, "expect: entry %d: value needs within", i) end
    if not x.value and x.diverges == nil and not x.measure and not x.versus then
      fail(e, "expect: entry %d: %s needs versus", i, kinds[1])
    end
  end
end

-- Makes an experiment from its table; every fault is an error that names it.
local function new(spec)
  if type(spec) ~= "table" then error("experiment: a table expected, got " .. type(spec), 0) end
  local e = setmetatable({}, Experiment)
  for k, v in pairs(spec) do e[k] = v end
  if type(e.name) ~= "string" or not e.name:match("^[%w][%w_-]*$") then
    e.name = nil
    fail(e, "name: letters, digits, - and _ expected, got %s", tostring(spec.name))
  end
  for k, v in pairs(spec) do
    if not TYPES[k] then fail(e, "%s", names.unknown("key", k, names.keys(TYPES))) end
    if type(v) ~= TYPES[k] then fail(e, "%s: %s expected, got %s", k, TYPES[k], type(v)) end
  end
  e.base, e.expect, e.quick, e.plot = e.base or {}, e.expect or {}, e.quick or {}, e.plot or {}
  e.folder = plugins.folder
  e.measure = e.measure or {}
  for _, name in ipairs(e.measure) do
    if not measures[name] then fail(e, "measure: %s", names.unknown("measure", tostring(name), names.keys(measures))) end
  end
  if e.margin and not (e.margin >= 0) then fail(e, "margin: a number >= 0 expected, got %g", e.margin) end
  for i, path in ipairs(e.plugins or {}) do
    local ok, why = pcall(plugins.load, path)
    if not ok then fail(e, "plugins: entry %d: %s", i, why) end
  end
  check_arms(e)
  check_seeds(e, e.seeds)
  if e.quick.seeds then check_seeds(e, e.quick.seeds) end
  for k in pairs(e.plot) do
    if k ~= "metric" and k ~= "by" then fail(e, "plot: %s", names.unknown("key", tostring(k), { "metric", "by" })) end
  end
  local metric = e.plot.metric
  if metric ~= nil and not names.find(train.measures, metric) then
    fail(e, "plot.metric: %s", names.unknown("measure", tostring(metric), train.measures))
  end
  check_expect(e)
  e:plan {}
  return e
end

local function place(c, folder)
  if c.train and c.train.data then c.train.data = data.locate(c.train.data, folder) end
end

-- The configuration of an arm: the file's, with what --quick changes and the pairs of `set` over it. A text that
-- the file names lies beside it, one of `set` in the current folder.
local function resolved(e, arm, quick, set)
  local c = apply({}, e.base)
  apply(c, arm)
  if quick then apply(c, e.quick) end
  place(c, e.folder)
  for _, kv in ipairs(set or {}) do config.set(c, kv[1], kv[2]) end
  place(c)
  return config.resolve(c)
end

-- What the call changes of the experiment, for results.lua; keys that change no arm do not count.
local function changes_of(e, plan, options)
  local set, same = {}, #(options.set or {}) > 0
  for i, a in ipairs(same and plan.arms or {}) do
    local ok, cfg = pcall(resolved, e, e.arms[i], options.quick)
    same = same and ok and json.encode(cfg) == json.encode(a.config)
  end
  for i, kv in ipairs(not same and options.set or {}) do set[i] = { config.key(kv[1]), kv[2] } end
  local declared = options.quick and e.quick.seeds or e.seeds
  local other = table.concat(plan.seeds, ",") ~= table.concat(declared, ",")
  return { set = set, quick = options.quick and next(e.quick) ~= nil, seeds = other and plan.seeds }
end

-- What one call runs. options: quick = bool, seeds = list (replaces), set = {{key, value}, ...} in order.
-- Returns {name, seeds, arms = {{name, config, expect}, ...}, apart = what each arm is measured on, where that
-- differs, and what results.label adds}.
function Experiment:plan(options)
  local seeds = options.seeds or options.quick and self.quick.seeds or self.seeds
  check_seeds(self, seeds)
  local plan = { experiment = self, name = self.name, seeds = seeds, margin = self.margin, quick = options.quick,
                 metric = self.plot.metric or "valid/loss", arms = {} }
  local same = {} -- configuration -> arm
  for i, a in ipairs(self.arms) do
    local ok, cfg = pcall(resolved, self, a, options.quick, options.set)
    if not ok then fail(self, "arm '%s': %s", a.name, cfg) end
    local expect = {}
    for _, x in ipairs(self.expect) do
      if x.arm == a.name then expect[#expect + 1] = x end
    end
    local text = json.encode(cfg)
    if same[text] then fail(self, "arms '%s' and '%s' are the same configuration", same[text], a.name) end
    same[text] = a.name
    plan.arms[i] = { name = a.name, config = cfg, at = a.at,
      expect = { list = expect, margin = self.margin }, measure = #self.measure > 0 and self.measure or nil }
  end
  results.label(plan, self.title or self.question or self.name, changes_of(self, plan, options))
  yardstick.share(plan.arms)
  local on, why = yardstick.of(plan.arms, plan.metric)
  if why and not self.measured_apart then fail(self, "%s", why) end
  plan.apart = why and on
  return plan
end

local M = { new = new, class = Experiment }

-- What the file of an experiment or study returns. Its relative paths are its own.
function M.load(path)
  if sys.exists(path) ~= "file" then error(("'%s': no such file"):format(path), 0) end
  local chunk, message = loadfile(path, "t")
  if not chunk then error(message, 0) end
  local before = plugins.folder
  plugins.folder = path:match "^(.*)/" or "."
  local ok, e = pcall(chunk)
  plugins.folder = before
  if not ok then error(e, 0) end
  if getmetatable(e) ~= Experiment and getmetatable(e) ~= require("attnlab.study").class then
    error(("'%s' returns no experiment: its last line should be  return lab.experiment{...} or lab.study{...}")
      :format(path), 0)
  end
  return e
end

return setmetatable(M, { __call = function(_, spec) return new(spec) end })
