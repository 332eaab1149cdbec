-- Tables of tensors by name. They are sets of tensors: what counts, updates, clips or clears each tensor goes
-- over them by pairs(), which gives a tensor that has several names once, under the first of them in order.
-- Every name can be looked up.
local M = {}

-- All names, sorted; pairs() of a set has the first ones alone.
local function all_names(values)
  local list = {}
  for name in next, values do list[#list + 1] = name end
  table.sort(list)
  return list
end

-- The first name of the tensor under each name, among those that `among` has, too.
function M.first(values, among)
  local first, of = {}, {}
  for _, name in ipairs(all_names(values)) do
    if not among or among[name] then
      local id = values[name]:id()
      of[id] = of[id] or name
      first[name] = of[id]
    end
  end
  return first
end

-- The table `values` as a set: pairs() follows the array `order` of its names; # says how many tensors.
function M.set(order, values)
  local first, list = M.first(values), {}
  for _, name in ipairs(order) do
    if first[name] == name then list[#list + 1] = name end
  end
  return setmetatable(values, {
    __pairs = function(t)
      local i = 0
      return function()
        i = i + 1
        local k = list[i]
        if k ~= nil then return k, t[k] end
      end, t, nil
    end,
    __len = function() return #list end,
  })
end

-- Makes names of the module stand for one tensor where they do in `given`.
function M.tie(module, given)
  local own = module:tensors()
  for name, first in pairs(M.first(given, own)) do
    if name ~= first then module:place { [name] = own[first] } end
  end
end

-- Refuses tensors `given` (of a file that `where` names) whose common names do not stand for the same tensors
-- as in `own`.
function M.expect_names(own, given, where)
  local here, there = M.first(own, given), M.first(given, own)
  local function says(first, name)
    return first == name and "a tensor of its own" or ("the tensor '%s'"):format(first)
  end
  for _, name in ipairs(all_names(here)) do
    if here[name] ~= there[name] then
      error(("%s: '%s' is %s here, %s in the file"):format(where, name, says(here[name], name),
        says(there[name], name)), 0)
    end
  end
end

return M
