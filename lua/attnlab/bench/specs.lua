-- The attention variants that are timed by name, and how a list of names on the command line reads.
-- A change here makes no run stale.
local core = require "attnlab.core"
local names = require "attnlab.names"
local rows = require "attnlab.rows"

local M = {}

-- One of each cost: f, denominator, norm and the order of a polynomial decide what a kernel does.
M.SPECS = {
  { name = "softmax", spec = { preset = "p1/softmax" } },
  { name = "exp_l2", spec = { logit_clamp = 5, denominator = "none", output_norm = "l2" } },
  { name = "exp_length", spec = { logit_clamp = 5, denominator = "length" } },
  { name = "cosine", spec = { feature_map = "l2", similarity = "linear", logit_scale = 1,
                              denominator = "length" } },
  { name = "linear_elu", spec = { preset = "p1/linear_elu" } },
  { name = "taylor2", spec = { similarity = "taylor", order = 2 } },
  { name = "taylor4", spec = { similarity = "taylor", order = 4 } },
  { name = "squared", spec = { similarity = "square" } },
}

-- By name alone: expressions. twin: the built-in that one writes out, to which its ratio is taken.
M.EXPRESSIONS = {
  { name = "cosh", spec = { similarity = "cosh" } },
  { name = "expr_exp", spec = { similarity = "expr", expr = "exp(s)" }, twin = "softmax" },
  { name = "expr_taylor2", spec = { similarity = "expr", expr = "1+s+s^2/2" }, twin = "taylor2" },
  { name = "expr_squared", spec = { similarity = "expr", expr = "s^2" }, twin = "squared" },
  { name = "expr_cosh", spec = { similarity = "expr", expr = "cosh(s)" }, twin = "cosh" },
}

local function named()
  return table.move(M.EXPRESSIONS, 1, #M.EXPRESSIONS, #M.SPECS + 1, table.move(M.SPECS, 1, #M.SPECS, 1, {}))
end

-- What ratios are taken to.
M.REFERENCE = "softmax"

function M.known()
  local list = {}
  for i, s in ipairs(named()) do list[i] = s.name end
  for _, p in ipairs(core.attn.list()) do list[#list + 1] = p.name end
  for _, f in ipairs(core.attn.families()) do list[#list + 1] = f.name end
  return list
end

local function find(name)
  for _, s in ipairs(named()) do
    if s.name == name then return s end
  end
  for _, p in ipairs(core.attn.list()) do
    if p.name == name or p.name:match "[^/]*$" == name then
      return { name = name, spec = { preset = p.name } }
    end
  end
  for _, f in ipairs(core.attn.families()) do
    if f.name == name then return { name = name, spec = { preset = name } } end
  end
  error("presets: " .. names.unknown("preset", name, M.known()), 0)
end

-- "softmax,p2/cottention" -> array of { name=, spec= }; "all" is every preset of the registry, with
-- the reference under its short name.
function M.parse(text)
  local list = {}
  if text ~= "all" then
    for name in text:gmatch "[^,%s]+" do list[#list + 1] = find(name) end
    if #list == 0 then error("presets: at least one name expected", 0) end
    return list
  end
  local reference = find(M.REFERENCE)
  for _, p in ipairs(core.attn.list()) do
    local same = p.name == reference.spec.preset
    list[#list + 1] = same and reference or { name = p.name, spec = { preset = p.name } }
  end
  return list
end

-- The forms that a text names.
function M.forms(text)
  local list, known = {}, rows.find(core.attn.options "", "form").choices
  for form in text:gmatch "[^,%s]+" do
    if not names.find(known, form) then error("forms: " .. names.unknown("form", form, known), 0) end
    list[#list + 1] = form
  end
  if #list == 0 then error("forms: at least one form expected", 0) end
  return list
end

-- spec with more options, where the family has them: a family without `impl` is its own reference.
function M.with(spec, more)
  local out = {}
  for k, v in pairs(spec) do out[k] = v end
  local known = core.attn.options(spec.preset or "")
  for k, v in pairs(more) do
    if rows.find(known, k) then out[k] = v end
  end
  return out
end

return M
