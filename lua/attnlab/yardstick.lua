-- What the arms of an experiment are measured on: one thing, or their differences are no differences of
-- models.
-- A change here makes no run stale.
local data = require "attnlab.data"

local M = {}

-- Arms of different contexts are scored on the same tokens: windows as long as the longest context.
function M.share(arms)
  local longest, differ = 0, false
  for _, a in ipairs(arms) do
    differ = differ or a.config.model.context ~= arms[1].config.model.context
    longest = math.max(longest, a.config.model.context)
  end
  for _, a in ipairs(arms) do
    local t = a.config.train
    if differ and t.eval_context == 0 then t.eval_context = longest end
  end
end

-- The part of a text that a metric is taken of. The losses of training are those of its own batches. A
-- run that an older version made may have other keys.
function M.windows(cfg, metric)
  local t, context = cfg.train, cfg.model.context
  if metric ~= "valid/loss" then
    return ("the last %d of %d batches of %d windows of %d tokens"):format(t.log_interval, t.steps, t.batch_size,
      context)
  end
  local own = t.eval_context or 0
  return ("%d windows of %d tokens"):format(t.eval_windows or t.eval_batches * t.batch_size, own > 0 and own or context)
end

-- What each arm is measured on; and why their losses are not to be compared, or nil.
function M.of(arms, metric)
  local list, other, hash = {}, nil, {}
  local function text_of(i)
    local name = arms[i].config.train.data
    if not hash[name] then
      local ok, found = pcall(data.hash, name)
      hash[name] = ok and found or name -- runs may outlive their text
    end
    return hash[name]
  end
  for i, a in ipairs(arms) do
    local windows, name = M.windows(a.config, metric), a.config.train.data
    list[i] = ("'%s', %s"):format(name, windows)
    local same = windows == M.windows(arms[1].config, metric)
      and (name == arms[1].config.train.data or text_of(i) == text_of(1))
    other = other or not same and i or nil
  end
  if not other then return list end
  local same = metric == "valid/loss" and "give them one data, eval_windows and eval_context"
    or "take valid/loss, which does not depend on their batches"
  return list, ("arms '%s' (%s) and '%s' (%s) are not measured on the same: %s, or say measured_apart = true")
    :format(arms[1].name, list[1], arms[other].name, list[other], same)
end

return M
