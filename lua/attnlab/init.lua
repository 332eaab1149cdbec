-- attnlab: the table `lab` that require "attnlab" returns. Nothing is put into the globals.
local core = require "attnlab.core"

local lab = {
  version = core.version,
  info = core.info,
  devices = core.devices,
  on = core.on,
  memory = core.memory,
  threads = core.threads,
  manual_seed = core.seed,
  no_grad = core.no_grad,
  op = core.op,
  concat = core.op.concat,
  tensor = core.tensor,
  zeros = core.zeros,
  ones = core.ones,
  full = core.full,
  randn = core.randn,
  rand = core.rand,
  nn = require "attnlab.nn",
  optim = require "attnlab.optim",
  attention = require "attnlab.attention",
  config = require "attnlab.config",
  data = require "attnlab.data",
  model = require "attnlab.model",
  tokenizer = require "attnlab.tokenizer",
  train = require "attnlab.train",
  evalset = require "attnlab.evalset",
}

-- Prints what a name means; without one, the names there are.
function lab.help(name)
  print(require("attnlab.help").text(name))
end

-- The ablation runner is needed by few scripts and loaded when first touched.
local LAZY = { open = true, sentences = true, session = true, experiment = true, study = true, runs = true, plot = true, table = true, stats = true, choices = true, evaluate = true }

return setmetatable(lab, {
  __index = function(t, k)
    if not LAZY[k] then return nil end
    local module = require("attnlab." .. k)
    rawset(t, k, module)
    return module
  end,
})
