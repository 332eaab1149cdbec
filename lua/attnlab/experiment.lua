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
--              {arm=, versus=, one_function=x} (on the same weights, nats) or {arm=, value=x, within=y}, ...}: kept with the runs when they start
--              {arm=, measure="series", shows="falls"} judges what a measure found
--   measure   names of measures/ that are taken of every trained model they fit, such as {"series"}
--   plot      {metric="valid/loss", by="order p"}: by names the axis of a second figure, in which arms
--             with at = {line, number} stand at that number on that line
--   measured_apart  true: arms may be measured on different windows or texts, and the table says so
--   plugins   list of plug-ins to load first (.so or .c), paths from the experiment's folder or the current one,
--             as is that of a text: base = { data = "mytext.txt" }
--   quick     what --quick changes: config keys, seeds, arms (names of those that are kept) and expect. A quick run judges
--             what stands in quick.expect, nothing else; without `quick` there is no small version, and --quick is refused
--   next      the command to type next
-- A change here makes no run stale.
local core = require "attnlab.core"
local config = require "attnlab.config"
local data = require "attnlab.data"
local expect = require "attnlab.expect"
local given = require "attnlab.given"
local measures = require "attnlab.measures"
local names = require "attnlab.names"
local plugins = require "attnlab.plugins"
local results = require "attnlab.results"
local tables = require "attnlab.table"
local train = require "attnlab.train"
local yardstick = require "attnlab.yardstick"
local json, sys = core.json, core.sys

local Experiment = {}
Experiment.__index = Experiment

local TYPES = { name = "string", title = "string", source = "string", question = "string", story = "string",
                base = "table", arms = "table", vary = "table", design = "string", seeds = "table",
                margin = "number", expect = "table", plot = "table", quick = "table", next = "string",
                plugins = "table", measure = "table", measured_apart = "boolean" }
-- Keys of base, an arm and quick that are none of a configuration.
local BASE, ARM, QUICK = {}, { name = true, at = true }, { seeds = true, arms = true, expect = true }

local function fail(e, ...)
  error(("experiment%s: %s"):format(e.name and " '" .. e.name .. "'" or "", (...):format(select(2, ...))), 0)
end

-- Sets every key of `changes` in the configuration, but those that are no keys of one: own.
local function apply(cfg, changes, own)
  local keys = {}
  for k, v in pairs(changes) do
    if not own[k] then keys[k] = v end
  end
  return config.apply(cfg, keys)
end

local function check_list(e, what, list)
  local why = given.list(list)
  if why then fail(e, "%s: %s", what, why) end
end

local function check_seeds(e, seeds)
  if type(seeds) ~= "table" or next(seeds) == nil then fail(e, "seeds: a list such as {1,2,3} is needed") end
  check_list(e, "seeds", seeds)
  local seen = {}
  for i, s in ipairs(seeds) do
    if math.type(s) ~= "integer" or s < 0 then
      fail(e, "seeds: entry %d: a whole number >= 0 expected, got %s", i, given.show(s))
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
  for k, list in pairs(e.vary) do
    if type(k) ~= "string" then fail(e, "vary: key %s: names of options expected", given.show(k)) end
    if type(list) ~= "table" then fail(e, "vary: '%s': a list of at least two values expected", k) end
    check_list(e, ("vary: '%s'"):format(k), list)
    if #list < 2 then fail(e, "vary: '%s': a list of at least two values expected", k) end
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
  check_list(e, "arms", e.arms)
  if #e.arms == 0 then fail(e, "arms: there is none") end
  local seen = {}
  for i, a in ipairs(e.arms) do
    if type(a) ~= "table" or type(a.name) ~= "string" or a.name == "" or tables.clean(a.name, true) ~= a.name then
      fail(e, "arm %d: a table with a name of one line is needed", i)
    end
    if seen[a.name] then fail(e, "two arms are called '%s'", a.name) end
    local at = a.at
    if at ~= nil and not (type(at) == "table" and not given.list(at) and #at == 2 and type(at[1]) == "string"
      and not given.number(at[2])) then
      fail(e, "arm '%s': at: {name of a line, number} expected", a.name)
    end
    seen[a.name] = true
  end
end

-- The arms of a call, and what is expected of them: those of `quick`, where it names some.
local function arms_of(e, quick)
  if not quick or not e.quick.arms then return e.arms end
  local out = {}
  for _, a in ipairs(e.arms) do
    if names.find(e.quick.arms, a.name) then out[#out + 1] = a end
  end
  return out
end

local function check_quick(e)
  local fine, why = pcall(apply, {}, e.quick, QUICK)
  if not fine then fail(e, "quick: %s", why) end
  if e.quick.seeds then check_seeds(e, e.quick.seeds) end
  for _, k in ipairs { "arms", "expect" } do
    if e.quick[k] ~= nil and type(e.quick[k]) ~= "table" then
      fail(e, "quick: %s: a list expected, got %s", k, given.show(e.quick[k]))
    end
    check_list(e, "quick: " .. k, e.quick[k] or {})
  end
  local known, seen = {}, {}
  for i, a in ipairs(e.arms) do known[i] = a.name end
  for _, name in ipairs(e.quick.arms or {}) do
    if not names.find(known, name) then fail(e, "quick: arms: %s", names.unknown("arm", tostring(name), known)) end
    if seen[name] then fail(e, "quick: arms: '%s' is there twice", name) end
    seen[name] = true
  end
  if e.quick.arms and #e.quick.arms == 0 then fail(e, "quick: arms: there is none") end
  local bad = expect.fault(e.quick.expect or {}, arms_of(e, true), e.measure)
  if bad then fail(e, "quick: expect: %s", bad) end
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
  e.has_quick = e.quick ~= nil
  e.base, e.expect, e.quick, e.plot = e.base or {}, e.expect or {}, e.quick or {}, e.plot or {}
  e.folder = plugins.folder
  e.measure = e.measure or {}
  for _, k in ipairs { "expect", "measure", "plugins" } do check_list(e, k, e[k] or {}) end
  given.clean(e)
  for _, name in ipairs(e.measure) do
    if not measures[name] then fail(e, "measure: %s", names.unknown("measure", tostring(name), names.keys(measures))) end
  end
  local bad = e.margin and given.number(e.margin, 0)
  if bad then fail(e, "margin: %s", bad) end
  for i, path in ipairs(e.plugins or {}) do
    local ok, why = pcall(plugins.load, path)
    if not ok then fail(e, "plugins: entry %d: %s", i, why) end
  end
  check_arms(e)
  check_seeds(e, e.seeds)
  check_quick(e)
  for k in pairs(e.plot) do
    if k ~= "metric" and k ~= "by" then fail(e, "plot: %s", names.unknown("key", tostring(k), { "metric", "by" })) end
  end
  if e.plot.by ~= nil and type(e.plot.by) ~= "string" then
    fail(e, "plot.by: the name of an axis expected, got %s", given.show(e.plot.by))
  end
  local metric = e.plot.metric
  if metric ~= nil and not names.find(train.measures, metric) then
    fail(e, "plot.metric: %s", names.unknown("measure", tostring(metric), train.measures))
  end
  bad = expect.fault(e.expect, e.arms, e.measure)
  if bad then fail(e, "expect: %s", bad) end
  e:plan {}
  return e
end

local function place(c, folder)
  if c.train and c.train.data then c.train.data = data.locate(c.train.data, folder) end
end

-- The configuration of an arm: the file's, with what --quick changes and the pairs of `set` over it. A text that
-- the file names lies beside it, one of `set` in the current folder.
local function resolved(e, arm, quick, set)
  local c = apply({}, e.base, BASE)
  apply(c, arm, ARM)
  if quick then apply(c, e.quick, QUICK) end
  place(c, e.folder)
  for _, kv in ipairs(set or {}) do config.set(c, kv[1], kv[2]) end
  place(c)
  return config.resolve(c)
end

-- What the call changes of the experiment, for results.lua; keys that change no arm do not count.
local function changes_of(e, plan, options)
  local set, same = {}, #(options.set or {}) > 0
  local arms = arms_of(e, options.quick)
  for i, a in ipairs(same and plan.arms or {}) do
    local ok, cfg = pcall(resolved, e, arms[i], options.quick)
    same = same and ok and json.encode(cfg) == json.encode(a.config)
  end
  for i, kv in ipairs(not same and options.set or {}) do set[i] = { config.key(kv[1]), kv[2] } end
  local declared = options.quick and e.quick.seeds or e.seeds
  local other = table.concat(plan.seeds, ",") ~= table.concat(declared, ",")
  return { set = set, quick = options.quick and next(e.quick) ~= nil, seeds = other and plan.seeds, device = plan.device }
end

-- What one call runs. options: device = name (the current one), quick = bool, seeds = list (replaces), set = {{key, value}, ...} in order.
-- Returns {name, seeds, arms = {{name, config, expect}, ...}, expect = what this call may judge, apart = what each arm is measured on, where that
-- differs, and what results.label adds}.
function Experiment:plan(options)
  if options.quick and not self.has_quick then fail(self, "%s", given.NO_QUICK) end
  local seeds = options.seeds or options.quick and self.quick.seeds or self.seeds
  check_seeds(self, seeds)
  local plan = { experiment = self, name = self.name, device = options.device or core.on(), seeds = seeds, margin = self.margin, quick = options.quick,
                 metric = self.plot.metric or "valid/loss", arms = {},
                 expect = options.quick and (self.quick.expect or {}) or self.expect }
  local same = {} -- configuration -> arm
  for i, a in ipairs(arms_of(self, options.quick)) do
    local ok, cfg = pcall(resolved, self, a, options.quick, options.set)
    if not ok then fail(self, "arm '%s': %s", a.name, cfg) end
    local expected = {}
    for _, x in ipairs(plan.expect) do
      if x.arm == a.name then expected[#expected + 1] = x end
    end
    local text = json.encode(cfg)
    if same[text] then fail(self, "arms '%s' and '%s' are the same configuration", same[text], a.name) end
    same[text] = a.name
    plan.arms[i] = { name = a.name, config = cfg, at = a.at,
      expect = { list = expected, margin = self.margin }, measure = #self.measure > 0 and self.measure or nil }
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
  local kind = sys.exists(path)
  if not kind then error(("'%s': no such file"):format(path), 0) end
  if kind ~= "file" then
    error(("'%s' is %s, the file of an experiment is expected"):format(path, kind == "dir" and "a folder" or "no regular file"), 0)
  end
  local chunk, message = loadfile(path, "t")
  if not chunk then error(message, 0) end
  local before = plugins.folder
  plugins.folder = path:match "^(.*)/" or "."
  local ok, e = pcall(chunk)
  plugins.folder = before
  if not ok and type(e) ~= "string" then
    error(("'%s': raised %s; a message is expected"):format(path, given.show(e)), 0)
  end
  if not ok then error(e, 0) end
  if getmetatable(e) ~= Experiment and getmetatable(e) ~= require("attnlab.study").class then
    error(("'%s' returns no experiment: its last line should be  return lab.experiment{...} or lab.study{...}")
      :format(path), 0)
  end
  return e
end

return setmetatable(M, { __call = function(_, spec) return new(spec) end })
