-- lab.nn: building blocks with parameters. See module.lua for what they have in common.
local norm = require "attnlab.nn.norm"

return {
  Module = require "attnlab.nn.module",
  Linear = require "attnlab.nn.linear",
  Embedding = require "attnlab.nn.embedding",
  RMSNorm = norm.RMSNorm,
  LayerNorm = norm.LayerNorm,
  SwiGLU = require "attnlab.nn.mlp",
  Attention = require "attnlab.nn.attention",
}
