-- What is measured of a trained model beside its loss: one file of this folder each, known by its name. A measure is
-- { measure(model, config) -> record, or nil where the arm has no such thing, gather(list over seeds) -> record or nil,
-- text(arm, record), panel(list of {arm, record}), expect = { [name] = function(record) -> holds, detail } }.
-- always = true: it is taken of every run, not only where an experiment names it. profile = { title, label, note }: what
-- gather gives is a list of log10 by position, and has a panel of its own in the first figure.
local found = require "attnlab.found"

local M = {}
for _, name in ipairs(found "measures") do M[name] = require("attnlab.measures." .. name) end

-- Called with the names in an experiment it gives those of all that are taken of its runs, each once.
return setmetatable(M, { __call = function(_, named)
  local out, seen = {}, {}
  local function take(name)
    if not seen[name] then out[#out + 1], seen[name] = name, true end
  end
  for _, name in ipairs(found "measures") do
    if M[name].always then take(name) end
  end
  for _, name in ipairs(named or {}) do take(name) end
  return out
end })
