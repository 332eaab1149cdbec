-- The training of a fork: tune(fork, opts) -> result of lab.train, entry of the fork's list. opts: those of
-- lab.train; without data the part of the fork's text that is there for it (surgery/parts.lua). What the result's cont
-- adds is more of the same entry.
local list = require "attnlab.surgery.list"
local Module = require "attnlab.nn.module"

-- Forks of all tensors, and the way back to them.
local function keep_values(fork)
  local before = {}
  for name, t in pairs(fork:tensors()) do before[name] = t:fork() end
  return function()
    for name, t in pairs(fork:tensors()) do
      if before[name] and Module.same_kind(before[name], t) then t:fork_(before[name]) end
    end
  end
end

local function text_of(result)
  return ("%d steps, lr %g"):format(result.trainer.step_count, result.trainer.options.lr)
end

-- The result's cont. What was measured before it is of other weights.
local function continued(fork, entry)
  return function(result, steps)
    local at
    for k, e in ipairs(fork.log) do
      if e == entry then at = k end
      if at and at < k and e.kind == "tune" then
        error("cont: the fork was trained again since, from where this training had ended", 2)
      end
    end
    if not at then error("cont: this training was undone; s:tune begins another one", 2) end
    local ok, why = pcall(getmetatable(result).__index.cont, result, steps)
    entry.change = text_of(result)
    list.strike(fork.log, at)
    fork.undone = {}
    fork:touch()
    if not ok then error(why, 0) end
    return result
  end
end

return function(fork, opts)
  local o = { steps = 200, lr = 3e-4 }
  for k, v in pairs(require("attnlab.names").options("tune", opts)) do o[k] = v end
  o.warmup_steps = o.warmup_steps or math.type(o.steps) == "integer" and math.min(20, o.steps // 10)
    or nil
  o.data = o.data or fork:parts().tune
  local put_back = keep_values(fork)
  local ok, result = pcall(require "attnlab.train", fork, o)
  if not ok then
    put_back()
    error(result, 0)
  end
  local entry = { kind = "tune", change = text_of(result) }
  function entry.options() -- as they are by now: r:cont makes the training longer
    local out = {}
    for k, v in pairs(o) do out[k] = k ~= "data" and k ~= "quiet" and v or nil end
    out.steps = result.trainer.step_count
    return out
  end
  function entry.take_back()
    entry.again = keep_values(fork)
    put_back()
  end
  result.cont = continued(fork, entry)
  return result, entry
end
