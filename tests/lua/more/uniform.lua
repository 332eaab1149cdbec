-- The study of uniform numbers: how far the mean of `n` of them is from 1/2.
local core = require "attnlab.core"

local M = {}

M.rows = { { name = "n", type = "integer", default = "100", min = 1, doc = "numbers drawn" } }

function M.expand(case) return { { n = case.n } } end
function M.seeded() return true end
function M.title(case) return ("%d numbers"):format(case.n) end
function M.cost(case) return case.n end

function M.run(case, seed)
  local x = core.rand { shape = { case.n }, dtype = "f64", seed = seed, stream = "uniform" }
  return { off = math.abs(x:mean():item() - 0.5) }
end

function M.gather(groups)
  local out = {}
  for i, g in ipairs(groups) do
    out[i] = { n = g.case.n, off = 0 }
    for _, r in ipairs(g.results) do out[i].off = math.max(out[i].off, r.off) end
  end
  return out
end

M.keys = { "n", "off" }
M.columns = { { title = "n", right = true, show = function(r) return tostring(r.n) end },
              { title = "off", right = true, show = function(r) return ("%.4f"):format(r.off) end, doc = "off: largest over the seeds" } }

M.expect = { below = "number" }

function M.judge(expect, records)
  local out = {}
  for i, x in ipairs(expect) do
    local worst = 0
    for _, r in ipairs(records) do worst = math.max(worst, r.off) end
    out[i] = { text = ("off by less than %g"):format(x.below), outcome = worst < x.below and "held" or "REFUTED", detail = tostring(worst) }
  end
  return out
end

return M
