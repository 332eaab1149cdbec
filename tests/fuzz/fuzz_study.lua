-- Damaged records of a study (libFuzzer): each counts as not measured and is measured again, so that what was written
-- stands there in the end.
local tools = dofile(... .. "tools.lua")
local lab = require "attnlab"
local json = require("attnlab.core").json

local folder = select(2, ...)
local study = lab.study { name = "fuzz", kind = "recurrence", seeds = { 1 }, cases = { { head_dim = 4, heads = 1, orders = { 1, 2 }, tokens = 6 } },
                          expect = { { forms_within = 1e-4 } } }
local list = study:plan { root = folder }
if tools.caught(study.work, study, list, { quiet = true }) ~= "done" then error "not measured" end
local path = list[1].dir .. "/result.json"
local good = tools.get(path)

-- All but how long it took.
local function values(text)
  local r = json.decode(text)
  r.seconds, r.made.sha256 = nil, nil
  return json.encode(r)
end
local M = { words = tools.json_words, seeds = tools.edit_seeds() }

function M.run(bytes)
  if #bytes < 2 then return end
  local how, rest = bytes:byte(1) % 3, bytes:sub(2)
  tools.put(path, how == 0 and rest or how == 1 and tools.spliced(good, rest) or tools.edited(good, rest))
  if tools.caught(study.work, study, list, { quiet = true }) ~= "done" then error "not measured again" end
  if values(tools.get(path)) ~= values(good) then error("another record stands: " .. tools.get(path)) end
end

return M
