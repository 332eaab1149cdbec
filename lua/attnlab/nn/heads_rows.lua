-- Which rows of tensors belong to which heads: of inputs, and of parameters over all heads. Part of
-- heads.lua.
local core = require "attnlab.core"

local M = {}

-- The entries of `list` along an axis of t, those that follow one another in one piece.
function M.pick(t, axis, list)
  local parts, i = {}, 1
  while i <= #list do
    local last = i
    while last < #list and list[last + 1] == list[last] + 1 do last = last + 1 end
    if list[i] == 1 and list[last] == t:size(axis) and last - i + 1 == #list then return t end
    local at = {}
    for k = 1, axis - 1 do at[k] = {} end
    at[axis] = { list[i], list[last] }
    parts[#parts + 1] = t[at]
    i = last + 1
  end
  return #parts == 1 and parts[1] or core.op.concat(parts, { axis = axis })
end

-- Rows of the heads in `list`, of a tensor whose first axis has n / heads rows for each.
function M.of(t, heads, list)
  local each, out = t:size(1) // heads, {}
  for _, h in ipairs(list) do
    for r = (h - 1) * each + 1, h * each do out[#out + 1] = r end
  end
  return M.pick(t, 1, out)
end

function M.sizes_with(sizes, heads, kv)
  local out = {}
  for k, v in pairs(sizes) do out[k] = v end
  out.heads, out.kv_heads = heads, kv
  return out
end

-- Whether the first axis of each parameter counts query heads, key/value heads or neither: seen by
-- making the parameters for more heads.
function M.axis_kinds(group, sizes)
  local function make(heads, kv)
    return core.attn.new(group.preset, group.options, M.sizes_with(sizes, heads, kv)):parameters()
  end
  local H, Hkv = sizes.heads, sizes.kv_heads
  local more_q, more, out = make(2 * H, Hkv), make(2 * H, 2 * Hkv), {}
  for name, t in pairs(group.whole:parameters()) do
    local n = t:size(1)
    if more_q[name]:size(1) == 2 * n then
      out[name] = "q"
    elseif more[name]:size(1) == 2 * n then
      out[name] = "kv"
    end
  end
  return out
end

-- Key/value heads of a group: each once where its query heads are all there, else one a query head.
function M.kv_list(list, per_kv)
  local each, seen = {}, {}
  for i, h in ipairs(list) do
    each[i] = (h - 1) // per_kv + 1
    seen[each[i]] = (seen[each[i]] or 0) + 1
  end
  local out = {}
  for i, g in ipairs(each) do
    if seen[g] ~= per_kv then return each end
    if i == 1 or g ~= each[i - 1] then out[#out + 1] = g end
  end
  return out
end

return M
