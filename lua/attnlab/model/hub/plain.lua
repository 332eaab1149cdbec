-- What types whose heads are all alike share, GPT-2, GPT-NeoX, GPT-J and BERT, and the rules of tensors of the first three.
local core = require "attnlab.core"
local rules = require "attnlab.model.hub.names"

local M = {}

-- Heads of equal width, as all of them have.
function M.heads(c, m, heads, width)
  if m.width % m.heads ~= 0 then c:fail(heads, "a divisor of %s (%d) expected, got %d", width, m.width, m.heads) end
  m.kv_heads, m.head_dim = m.heads, m.width // m.heads
end

-- Nil, or why a model has other heads.
function M.other_heads(o)
  if o.kv_heads ~= o.heads then return ("kv_heads=%d, and %d heads"):format(o.kv_heads, o.heads) end
  if o.head_dim * o.heads ~= o.width then return ("head_dim=%d, and %d heads of a width of %d"):format(o.head_dim, o.heads, o.width) end
end

-- { theirs, ours }, stored the other way round.
function M.turned(theirs, ours)
  return { theirs, ours = { ours or theirs }, split = function(t) return { rules.transposed(t) } end,
           join = function(list) return rules.transposed(list[1]) end }
end

local function projections(prefix, what)
  return { prefix .. "q_proj." .. what, prefix .. "k_proj." .. what, prefix .. "v_proj." .. what }
end

-- q, k and v behind one another in one matrix that is stored [in, out].
function M.columns(theirs, prefix, what)
  return { theirs, ours = projections(prefix, what), split = function(t)
    local all, n = rules.transposed(t), t:size(t:ndim())
    if n % 3 ~= 0 then error(("three equal parts expected, got %d columns"):format(n), 0) end
    return { rules.rows(all, 0, n // 3), rules.rows(all, n // 3, 2 * n // 3), rules.rows(all, 2 * n // 3, n) }
  end, join = function(list) return rules.transposed(core.op.concat(list, { axis = 1 })) end }
end

-- Head by head its rows of q, k and v.
function M.by_head(theirs, prefix, what)
  local function turn(t, first, second, m)
    local rest = { table.unpack(t:shape(), 2) }
    if t:size(1) ~= 3 * m.heads * m.head_dim then
      error(("%d rows for q, k and v expected, got %d"):format(3 * m.heads * m.head_dim, t:size(1)), 0)
    end
    local axes = { 2, 1, 3 }
    for k = 1, #rest do axes[#axes + 1] = 3 + k end
    return t:reshape({ shape = { first, second, m.head_dim, table.unpack(rest) } }):permute({ axes = axes }):contiguous()
      :reshape { shape = t:shape() }
  end
  return { theirs, ours = projections(prefix, what), split = function(t, m)
    local all, n = turn(t, m.heads, 3, m), m.heads * m.head_dim
    return { rules.rows(all, 0, n), rules.rows(all, n, 2 * n), rules.rows(all, 2 * n, 3 * n) }
  end, join = function(list, m) return turn(core.op.concat(list, { axis = 1 }), 3, m.heads, m) end }
end

return M
