-- The names of a session: what was set at the prompt, over the globals. A name that nobody set is an error.
-- A change here makes no run stale.
local chunk = require "attnlab.prompt.chunk"
local core = require "attnlab.core"
local names = require "attnlab.names"

local M = {}

-- Names that a session sees, sorted.
function M.names(env)
  local out, seen = {}, {}
  for _, t in ipairs { env, _G } do
    for _, k in ipairs(names.keys(t)) do
      if not seen[k] and k ~= chunk.PACK then seen[k], out[#out + 1] = true, k end
    end
  end
  table.sort(out)
  return out
end

local create = coroutine.create

-- Coroutines of the session end with the chunk that runs them, however they are made.
local function watch_coroutines()
  function coroutine.create(f)
    local co = create(f)
    core.sys.watch(co)
    return co
  end
  function coroutine.wrap(f)
    local co = coroutine.create(f)
    return function(...)
      local got = table.pack(coroutine.resume(co, ...))
      if not got[1] then error(got[2], 0) end
      return table.unpack(got, 2, got.n)
    end
  end
end

function M.new()
  local known = {} -- that were set, to nil even
  watch_coroutines()
  return setmetatable({ [chunk.PACK] = table.pack }, {
    __newindex = function(t, k, v)
      known[k] = true
      rawset(t, k, v)
    end,
    __index = function(env, k)
      local v = _G[k]
      if v ~= nil or known[k] then return v end
      local near = names.nearest(tostring(k), M.names(env))
      error(("unknown global '%s'%s"):format(tostring(k), near and (" (did you mean '%s'?)"):format(near) or ""), 2)
    end,
  })
end

return M
