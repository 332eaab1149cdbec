-- count: how many learned numbers a model file or run folder has.
-- A change here makes no run stale.
local model = require "attnlab.model"

local function count(args, usage)
  local least = args.flags.least and tonumber(args.flags.least)
  if args.flags.least and not least then usage("count: --least: a number expected, got '%s'", args.flags.least) end
  local n = model.load(args.words[1]):n_parameters()
  print(n)
  return n >= (least or 0) and 0 or 1
end

return {
  { name = "count", args = "MODEL", least = 1, most = 1, run = count, doc = "the number of learned numbers of a model",
    options = { { name = "least", value = "N", doc = "fewer are a failure" } } },
}
