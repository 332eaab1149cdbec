-- The name under which results stand: that of the experiment, and what the command line changed of it, so that
-- no table or figure is written over by those of another question: "softplus+lr=0.001". Runs keep their folders
-- and ids: arms that a change leaves as they are are shared.
-- A change here makes no run stale.
local names = require "attnlab.names"
local rows = require "attnlab.rows"
local sys = require("attnlab.core").sys

local M = {}

local MOST = 80 -- characters of a name; a table shows it, too

-- {{key, value}, ...} as { "lr=0.001", .. }, sorted. The last of each key counts; a key is shown without its
-- group where that names one of them.
local function texts(set)
  local last, bare, short = {}, {}, {}
  for _, kv in ipairs(set) do last[kv[1]] = kv[2] end
  for key in pairs(last) do
    bare[key] = key:match "^%a+%.(.+)$" or key
    short[bare[key]] = (short[bare[key]] or 0) + 1
  end
  local list = {}
  for i, key in ipairs(names.keys(last)) do
    list[i] = ("%s=%s"):format(short[bare[key]] == 1 and bare[key] or key, rows.show(rows.parse_any(last[key])))
  end
  return list
end

-- As a folder's name. What is no fit character of one, or too much, is replaced by a hash of the whole.
local function name(base, changes)
  local whole = table.concat({ base, table.unpack(changes) }, "+")
  local fit = whole:gsub("[^%w._=,+-]", "_")
  if fit == whole and #whole <= MOST then return whole end
  return ("%s~%s"):format(fit:sub(1, MOST - 9), sys.sha256(whole):sub(1, 8))
end

-- Adds to a plan, for changes = {set, quick, seeds, device}: variant (the name with the keys that were changed: what a run is
-- of), results (with the seeds as well: what a table is of), and title, of its figures.
function M.label(plan, title, changes)
  local list = texts(changes.set or {})
  if changes.quick then list[#list + 1] = "quick" end
  if changes.device and changes.device ~= "cpu" then list[#list + 1] = changes.device:match "^[^:]*" end
  plan.variant = name(plan.name, list)
  if changes.seeds then list[#list + 1] = "seeds=" .. table.concat(changes.seeds, ",") end
  plan.results = name(plan.name, list)
  plan.title = #list > 0 and ("%s   [%s]"):format(title, table.concat(list, ", ")) or title
end

return M
