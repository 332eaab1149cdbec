-- The names of a session: what was set at the prompt, over the globals. A name that nobody set is an error.
-- A change here makes no run stale.
local core = require "attnlab.core"
local names = require "attnlab.names"

local M = {}

-- Names that a session sees, sorted.
function M.names(env)
  local out, seen = {}, {}
  for _, t in ipairs { env, _G } do
    for _, k in ipairs(names.keys(t)) do
      if not seen[k] then seen[k], out[#out + 1] = true, k end
    end
  end
  table.sort(out)
  return out
end

-- Coroutines of the session end with the chunk that runs them.
local function watched()
  local out = {}
  for k, f in pairs(coroutine) do out[k] = f end
  function out.create(f)
    local co = coroutine.create(f)
    core.sys.watch(co)
    return co
  end
  function out.wrap(f)
    local co = out.create(f)
    return function(...)
      local got = table.pack(coroutine.resume(co, ...))
      if not got[1] then error(got[2], 0) end
      return table.unpack(got, 2, got.n)
    end
  end
  return out
end

function M.new()
  local known = {} -- that were set, to nil even
  local env = { coroutine = watched() }
  return setmetatable(env, {
    __newindex = function(t, k, v)
      known[k] = true
      rawset(t, k, v)
    end,
    __index = function(_, k)
      local v = _G[k]
      if v ~= nil or known[k] then return v end
      local near = names.nearest(tostring(k), M.names(env))
      error(("unknown global '%s'%s"):format(tostring(k), near and (" (did you mean '%s'?)"):format(near) or ""), 2)
    end,
  })
end

return M
