-- Tensors of a file, by its names, as those of our model, and back. A type of model/hf/ has `rules`, one each for what is
-- not the same in both (# stands for the number of a layer):
--   { "h.#.ln_1.weight", ours = "transformer.h.#.ln_1.weight" }         another name
--   { "h.#.attn.c_attn.weight", ours = { "..q_proj.weight", .. },       several of ours in one of theirs
--     split = f(t, c, n) -> list, join = f(list, c, n) -> t }           c: options of the model; n: layer
--   { "h.#.attn.bias", skip = true }                                    no tensor of the model
-- Without ours the name stays; without split the tensor is taken as it is. A name without a rule stays.
local rows = require "attnlab.rows"

local M = {}

local function template(name) return (name:gsub("%.%d+%.", ".#.")) end
local function number(name) return name:match "%.(%d+)%." end
local function filled(name, n) return (name:gsub("#", n or "#")) end

local function by(rules, key)
  local out = {}
  for _, rule in ipairs(rules or {}) do
    for _, name in ipairs(key(rule)) do out[name] = rule end
  end
  return out
end

local function list(x) return type(x) == "table" and x or { x } end
local function theirs_of(rule) return { rule[1] } end
local function ours_of(rule) return rule.skip and {} or list(rule.ours or rule[1]) end

-- Tensors by the names that rename makes of theirs.
function M.renamed(rename, tensors, fail)
  local out = {}
  for name, t in next, tensors do
    local to = rename(name)
    if out[to] then fail(name, "there with and without the prefix of its name") end
    out[to] = t
  end
  return out
end

-- Tensors of ours from those of a file; fail(name, why): where one cannot be loaded or converted. Second result: their
-- names by ours, for errors.
function M.read(rules, tensors, c, fail)
  local out, from, known = {}, {}, by(rules, theirs_of)
  for name, t in next, tensors do
    local rule = known[template(name)] or {}
    if not rule.skip then
      if type(t) == "table" then fail(name, t.why) end
      local n, to = number(name), {}
      for i, own in ipairs(rule[1] and ours_of(rule) or { name }) do to[i] = rule[1] and filled(own, n) or own end
      local parts = { t }
      if rule.split then
        local ok
        ok, parts = pcall(rule.split, t, c, n)
        if not ok then fail(name, tostring(parts):gsub("^%S+:%d+: ", "")) end
      end
      for i, own in ipairs(to) do
        if out[own] then fail(name, ("stands for the same as tensor '%s'"):format(from[own])) end
        out[own], from[own] = parts[i], name
      end
    end
  end
  return out, from
end

-- Tensors of a file from ours by name.
function M.write(rules, tensors, c)
  local out, known = {}, by(rules, ours_of)
  for name, t in pairs(tensors) do
    local rule, n = known[template(name)], number(name)
    local first = rule and filled(list(rule.ours or rule[1])[1], n)
    if not rule then
      out[name] = t
    elseif name == first then
      local parts = {}
      for i, own in ipairs(ours_of(rule)) do parts[i] = tensors[filled(own, n)] end
      out[filled(rule[1], n)] = rule.join and rule.join(parts, c, n) or t
    end
  end
  return out
end

-- Whether two tensors have the same type, shape and numbers.
function M.equal(a, b)
  if rawequal(a, b) then return true end
  return a:dtype() == b:dtype() and rows.equal(a:shape(), b:shape()) and (a:to "f32" - b:to "f32"):abs():max():item() == 0
end

-- What a tensor of ours is called in a file.
function M.theirs(rules, name)
  local rule = by(rules, ours_of)[template(name)]
  return rule and filled(rule[1], number(name)) or name
end

-- ---- what rules split and join by ---------------------------------------------------------------------

-- Rows start .. stop - 1 (from 0) of a tensor, as one of its own.
function M.rows(t, start, stop)
  return t:slice({ axis = 1, start = start, stop = stop }):contiguous()
end

-- A matrix stored [in, out] as [out, in], or back; anything else as it is.
function M.transposed(t)
  return t:ndim() == 2 and t:permute({ axes = { 2, 1 } }):contiguous() or t
end

return M
