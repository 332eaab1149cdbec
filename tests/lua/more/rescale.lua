-- Rescale(width, {eps=}): rmsnorm of x with a learned gain: the smallest layer there is.
local Module = require "attnlab.nn.module"
local Rescale = Module.class "Rescale"

function Rescale.new(width, opts)
  local self = Module.create(Rescale, opts, { "eps" }) -- the common options, and its own
  self.eps = opts and opts.eps or 1e-5
  self:parameter("weight", self:constant({ width }, 1))
  return self
end

function Rescale:forward(x)
  return x:rmsnorm { gain = self.weight, eps = self.eps }
end

return Rescale
