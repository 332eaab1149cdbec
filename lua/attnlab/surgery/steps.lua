-- What is done to a fork, as data that a file can hold: an array of
--   { set = {options}, layer = number, list or "*", head = number or nil }
--   { calibrate = true, layer = (those changed) }
--   { tune = {options of lab.train} }        on the part of the text that s:tune takes
--   { patch = {options of s:patch} }
-- check(list) refuses what is none; of(entry) is the step that an entry of a fork's list was; run(fork, list, on) does
-- them, on = { calibrate = options of s:calibrate, tune = dataset }.
local config = require "attnlab.config"
local names = require "attnlab.names"
local rows = require "attnlab.rows"

local M = {}

local KINDS = { "set", "calibrate", "tune", "patch" }
local KEYS = { set = { "set", "layer", "head" }, calibrate = { "calibrate", "layer" }, tune = { "tune" }, patch = { "patch" } }

local function fail(i, ...) error(("steps: entry %d: %s"):format(i, string.format(...)), 0) end

local function check_layer(i, layer)
  local list = type(layer) == "table" and layer or { layer }
  if layer == "*" then return end
  for _, n in ipairs(list) do
    if math.type(n) ~= "integer" or n < 1 then list = {} end
  end
  if #list == 0 then fail(i, "layer: a number, a list of numbers or \"*\" expected, got %s", rows.show(layer)) end
end

function M.check(list)
  if type(list) ~= "table" or #list == 0 then error("steps: a list of what is done expected", 0) end
  for i, step in ipairs(list) do
    local kind
    for _, k in ipairs(KINDS) do
      if type(step) == "table" and step[k] ~= nil then kind = kind and fail(i, "%s or %s expected, not both", kind, k) or k end
    end
    if not kind then fail(i, "a table with one of %s expected", table.concat(KINDS, ", ")) end
    for k in pairs(step) do
      if not names.find(KEYS[kind], k) then fail(i, "%s", names.unknown("key", tostring(k), KEYS[kind])) end
    end
    if kind == "calibrate" and step.calibrate ~= true then fail(i, "calibrate: true expected") end
    if kind ~= "calibrate" and type(step[kind]) ~= "table" then fail(i, "%s: a table of options expected", kind) end
    if kind == "set" or step.layer ~= nil then check_layer(i, step.layer) end
  end
  return list
end

-- ---- from a fork's list -------------------------------------------------------------------------------

-- The first value in a table that no file can hold, or nil. A study's cases are JSON, which has finite numbers alone.
local function foreign(v)
  if type(v) == "table" and getmetatable(v) == nil then
    for _, x in pairs(v) do
      local bad = foreign(x)
      if bad ~= nil then return bad end
    end
    return nil
  end
  local kind = type(v)
  if kind == "number" and v - v == 0 or kind == "string" or kind == "boolean" then return nil end
  return v
end

local function layers_of(list, n)
  if #list == n then return "*" end
  return #list == 1 and list[1] or table.move(list, 1, #list, 1, {})
end

-- The step, or nil and why there is none. layers: how many the model has.
function M.of(entry, layers)
  local step
  if entry.kind == "set" then
    step = { set = entry.options, layer = layers_of(entry.list, layers), head = entry.head }
  elseif entry.kind == "calibrate" then
    step = { calibrate = true, layer = layers_of(entry.list, layers) }
  elseif entry.kind == "tune" then
    step = { tune = entry.options() }
  elseif entry.kind == "patch" then
    step = { patch = entry.options }
  else
    return nil, ("a change of the kind '%s'"):format(entry.kind)
  end
  local bad = foreign(step)
  if type(bad) == "number" then return nil, ("%s with %s, which no study can keep"):format(entry.kind, rows.show(bad)) end
  if bad ~= nil then return nil, ("%s with a %s"):format(entry.kind, type(bad)) end
  return config.copy(step)
end

-- ---- done ---------------------------------------------------------------------------------------------

local function over(given, more)
  local out = {}
  for k, v in pairs(given) do out[k] = v end
  for k, v in pairs(more) do out[k] = v end
  return out
end

function M.run(fork, list, on)
  for _, step in ipairs(list) do
    if step.set then
      local layers = type(step.layer) == "table" and step.layer or { step.layer }
      for _, i in ipairs(layers) do
        local at = step.head and fork.layer[i].head[step.head] or fork.layer[i]
        at:set(step.set)
      end
    elseif step.calibrate then
      fork:calibrate(over(on.calibrate, { layer = step.layer }))
    elseif step.tune then
      fork:tune(over(step.tune, { data = on.tune, quiet = true }))
    else
      local drawn = step.patch.with == "mean" or step.patch.with == "resample"
      fork:patch(drawn and over(step.patch, { data = on.calibrate.data, split = on.calibrate.split }) or step.patch)
    end
  end
end

-- "layer 2 head 3: output_gate=0", "calibrated".
function M.text(step)
  local function where(layer, head)
    local text = layer == "*" and "all layers" or "layer " .. (type(layer) == "table" and table.concat(layer, ",") or layer)
    return text .. (head and " head " .. head or "")
  end
  if step.set then return ("%s in %s"):format(config.text(step.set), where(step.layer, step.head)) end
  if step.calibrate then return "calibrated" end
  if step.tune then return ("tuned %s steps"):format(step.tune.steps or 200) end
  return "patched: " .. config.text(step.patch)
end

return M
