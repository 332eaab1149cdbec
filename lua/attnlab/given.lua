-- What the files of experiments and studies give, held against what they can mean: lists to their last entry, numbers
-- that can be judged by, texts that steer no terminal. A check returns what is wrong, or nil.
-- A change here makes no run stale.
local rows = require "attnlab.rows"
local tables = require "attnlab.table"

local M = {}

-- Of --quick where a file has none.
M.NO_QUICK = "--quick: the file has no `quick`, so there is no small version of it; without --quick it runs whole"

-- A value for a message; what a table holds may have no end.
function M.show(v)
  if type(v) == "string" then return "'" .. v .. "'" end
  return type(v) == "table" and "a table" or rows.show(v)
end

-- Of a list: ipairs ends at a hole and passes over names.
function M.list(t)
  local n = 0
  for k in pairs(t) do
    if math.type(k) ~= "integer" or k < 1 then return ("a list expected, got the key %s"):format(M.show(k)) end
    n = n + 1
  end
  for i = 1, n do
    if t[i] == nil then return ("entry %d is nil, but the list goes on behind it"):format(i) end
  end
end

-- Of a number, at least `min` where that is given.
function M.number(v, min)
  if type(v) == "number" and v == v and math.abs(v) < math.huge and (not min or v >= min) then return nil end
  return ("a number%s expected, got %s"):format(min and (" >= %d"):format(min) or "", M.show(v))
end

-- Makes the texts for people fit for a terminal.
function M.clean(t)
  for _, k in ipairs { "title", "question", "source", "story", "next" } do
    if t[k] then t[k] = tables.clean(t[k]) end
  end
end

return M
