-- Linear(inputs, outputs, {bias=false, init="torch", deviation=0.02}): y = x W^T + b.
-- x (..,inputs) -> (..,outputs); weight (outputs,inputs), bias (outputs).
-- init "torch": weight and bias U(+-1/sqrt(inputs)), the default of torch.nn.Linear;
-- "normal": weight N(0, deviation), bias 0.
local Module = require "attnlab.nn.module"

local Linear = Module.class "Linear"

function Linear.new(inputs, outputs, opts)
  local self = Module.create(Linear, opts, { "bias", "init", "deviation" })
  opts = opts or {}
  local init = opts.init or "torch"
  if init ~= "torch" and init ~= "normal" then
    error(("Linear: option 'init': 'torch' or 'normal' expected, got '%s'")
      :format(tostring(init)), 3)
  end
  local bound = 1 / math.sqrt(inputs)
  local shape = { outputs, inputs }
  self:parameter("weight", init == "torch" and self:uniform("weight", shape, bound)
    or self:normal("weight", shape, opts.deviation or 0.02))
  if opts.bias then
    self:parameter("bias", init == "torch" and self:uniform("bias", { outputs }, bound)
      or self:constant({ outputs }, 0))
  end
  return self
end

function Linear:forward(x)
  return x:matmul(self.weight, { bias = self.bias, transpose_b = true })
end

return Linear
