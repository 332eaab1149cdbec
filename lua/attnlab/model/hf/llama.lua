-- LlamaForCausalLM. Its tensors are named as ours.
local decoder = require "attnlab.model.hub.decoder"

return decoder {
  architectures = { "LlamaForCausalLM" },
  bias = true, -- attention_bias: all four projections, or none
  mlp_bias = true,
}
