-- Embedding(rows, width, {deviation=0.02}): ids i32 (..) -> (..,width); weight (rows,width) N(0,
-- deviation). An id outside the table is an error that names it and its position.
local Module = require "attnlab.nn.module"

local Embedding = Module.class "Embedding"

function Embedding.new(rows, width, opts)
  local self = Module.create(Embedding, opts, { "deviation" })
  self:parameter("weight", self:normal("weight", { rows, width }, opts and opts.deviation or 0.02))
  return self
end

function Embedding:forward(ids)
  return self.weight:embedding(ids)
end

return Embedding
