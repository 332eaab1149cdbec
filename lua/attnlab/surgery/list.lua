-- What was done to a fork, for people and for scripts: of(log) gives the array that s:swaps() returns, which as
-- text is a table; loss(entry) the loss that was measured after it; strike(log, n) what is measured no more.
local config = require "attnlab.config"
local tables = require "attnlab.table"

local M = {}

local COLUMNS = {
  { key = "n", title = "#", right = true }, { key = "kind", title = "what" }, { key = "layer", title = "layer", wrap = true },
  { key = "head", title = "head", right = true }, { key = "change", title = "change", wrap = true },
  { key = "loss", title = "loss", drop = 1 }, { key = "difference", title = "to the original" },
  { key = "kl", title = "KL", right = true, drop = 2 },
}

-- "3.1 %" of a share that is not 0.
function M.share(x)
  return x >= 0.1 and ("%.0f %%"):format(100 * x) or x >= 0.001 and ("%.1f %%"):format(100 * x) or "< 0.1 %"
end

local function finite(v) return math.abs(v) < math.huge end

local function row_of(e)
  local r = { n = tostring(e.n), kind = e.kind, layer = e.layer and tostring(e.layer),
              head = e.head and tostring(e.head), change = e.change }
  if e.loss and not finite(e.loss) then
    r.loss = "not finite"
  elseif e.loss then
    r.loss = ("%.4f"):format(e.loss) .. (e.loss_se and (" ± %.4f"):format(e.loss_se) or "")
  end
  local d = e.difference
  if d and not (finite(d.mean) and finite(d.kl)) then
    r.difference = d.bad and ("%s tokens not finite"):format(M.share(d.bad / d.tokens)) or "not finite"
  elseif d then
    r.difference = ("%+.4f"):format(d.mean) .. (d.lo and (" [%.4f, %.4f]"):format(d.lo, d.hi) or "")
    r.kl = ("%.4f"):format(d.kl)
  end
  return r
end

local List = { __tostring = function(list)
  if #list == 0 then return "no changes" end
  local cells = {}
  for i, e in ipairs(list) do cells[i] = row_of(e) end
  return (tables.text(COLUMNS, cells, tables.columns()))
end }

function M.of(log)
  local out = setmetatable({}, List)
  for n, e in ipairs(log) do
    local layer = e.list and (#e.list == 1 and e.list[1] or table.concat(e.list, ","))
    out[n] = { n = n, kind = e.kind, layer = layer, head = e.head, change = e.change, loss = e.loss,
               loss_se = e.loss_se, difference = config.copy(e.difference) }
  end
  return out
end

-- Strikes what was measured from entry n on: the weights are other ones since.
function M.strike(log, n)
  for k = n, #log do
    local e = log[k]
    if not e.still then e.loss, e.loss_se, e.difference, e.look = nil, nil, nil, nil end
  end
end

function M.loss(entry)
  return row_of(entry).loss
end

return M
