-- RMSNorm(n, {eps=1e-5}) and LayerNorm(n, {eps=1e-5}): norms over the last axis of x (..,n), with a
-- gain `weight` (n) of ones and, for LayerNorm, a `bias` (n) of zeros.
local Module = require "attnlab.nn.module"

local RMSNorm = Module.class "RMSNorm"

function RMSNorm.new(n, opts)
  local self = Module.create(RMSNorm, opts, { "eps" })
  self.eps = opts and opts.eps or 1e-5
  self:parameter("weight", self:constant({ n }, 1))
  return self
end

function RMSNorm:forward(x)
  return x:rmsnorm { gain = self.weight, eps = self.eps }
end

-- A residual stream x and what is added to it, or nil: the sum and its norm, in one pass. tap(sum), or nil, may
-- return what is to stand for the sum.
function RMSNorm:add(x, a, tap)
  if tap then
    local sum = a and x + a or x
    sum = tap(sum) or sum
    return sum, self:forward(sum)
  end
  if not a then return x, self:forward(x) end
  return x:add_rmsnorm(a, { gain = self.weight, eps = self.eps })
end

local LayerNorm = Module.class "LayerNorm"

function LayerNorm.new(n, opts)
  local self = Module.create(LayerNorm, opts, { "eps" })
  self.eps = opts and opts.eps or 1e-5
  self:parameter("weight", self:constant({ n }, 1))
  self:parameter("bias", self:constant({ n }, 0))
  return self
end

function LayerNorm:forward(x)
  return x:layernorm { gain = self.weight, bias = self.bias, eps = self.eps }
end

function LayerNorm:add(x, a, tap) -- as of RMSNorm
  local sum = a and x + a or x
  sum = tap and tap(sum) or sum
  return sum, self:forward(sum)
end

return { RMSNorm = RMSNorm, LayerNorm = LayerNorm }
