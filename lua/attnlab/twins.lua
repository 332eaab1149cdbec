-- Whether two arms are one function: what the attention of one makes of the very weights that the other was trained to.
-- A change here makes no run stale.
local core = require "attnlab.core"
local data = require "attnlab.data"
local evalset = require "attnlab.evalset"
local model = require "attnlab.model"

local M = {}

M.WINDOWS = 8 -- of the validation text: what differs by more than rounding does so in any of them

-- The largest difference of a window's loss, in nats, over the finished runs of `arm` with the attention of `versus` in
-- place of theirs. Returns it and the number of runs; or nil and why it cannot be told.
function M.difference(arm, versus)
  local worst, n = 0, 0
  for _, run in ipairs(arm.runs) do
    if run.status.state == "finished" then
      local ok, why = pcall(function()
        local m = model.load(run.dir):eval()
        local twin = model.new { model = m.config, attention = versus.config.attention, seed = 0, dtype = m.dtype,
                                 vocabulary = m.vocabulary }
        twin:load_parameters(m:tensors(), run.dir)
        local set = evalset { data = data.open_for(m, m.trained_on.name), windows = M.WINDOWS }
        for _, d in ipairs(set:diff(twin:eval(), m).values) do
          worst = d == d and math.max(worst, math.abs(d)) or math.huge
        end
        n = n + 1
      end)
      if not ok then return nil, (tostring(why):gsub("^%S+%.lua:%d+: ", "")) end
    end
  end
  if n == 0 then return nil, "no run has finished" end
  return worst, n
end

-- Outcome and detail of the expectation that they are one function within so many nats.
function M.judge(limit, arm, versus)
  local worst, n = M.difference(arm, versus)
  if not worst then return "not judged", n end
  return worst <= limit and "held" or "REFUTED", ("on the weights of %d run%s of %s the losses of %d windows differ by %.1e nats at most"):format(
    n, n == 1 and "" or "s", arm.name, M.WINDOWS, worst)
end

M.judge = core.plain(M.judge)

return M
