-- SwiGLU(width, hidden, {bias, init, deviation, activation="silu"}): down(silu(gate x) * up x), x (..,width) -> same;
-- activation: another op in the place of silu.
local Module = require "attnlab.nn.module"
local Linear = require "attnlab.nn.linear"

local SwiGLU = Module.class "SwiGLU"

function SwiGLU.new(width, hidden, opts)
  local self = Module.create(SwiGLU, opts, { "bias", "init", "deviation", "activation" })
  opts = opts or {}
  self.activation = opts.activation or "silu"
  local more = { bias = opts.bias, init = opts.init, deviation = opts.deviation }
  for _, row in ipairs { { "gate_proj", width, hidden }, { "up_proj", width, hidden },
                         { "down_proj", hidden, width } } do
    self[row[1]] = self:child(row[1], Linear(row[2], row[3], self:part(row[1], more)))
  end
  return self
end

function SwiGLU:forward(x)
  local gate <close> = self.gate_proj(x)
  local up <close> = self.up_proj(x)
  if self.activation ~= "silu" then
    local g <close> = gate[self.activation](gate)
    local product <close> = g * up
    return self.down_proj(product)
  end
  local hidden <close> = gate:swiglu(up)
  return self.down_proj(hidden)
end

return SwiGLU
