-- lab.nn: building blocks with parameters. See module.lua for what they have in common. A layer of one class
-- needs no line here: lab.nn.Foo is what the file foo.lua beside this one returns.
local norm = require "attnlab.nn.norm"

local classes = {
  Module = require "attnlab.nn.module",
  Linear = require "attnlab.nn.linear",
  Embedding = require "attnlab.nn.embedding",
  RMSNorm = norm.RMSNorm,
  LayerNorm = norm.LayerNorm,
  SwiGLU = require "attnlab.nn.mlp",
  Attention = require "attnlab.nn.attention",
}

return setmetatable(classes, {
  __index = function(t, name)
    local module = type(name) == "string" and name:find "^%u%w*$" and "attnlab.nn." .. name:lower()
    if not module or not package.searchpath(module, package.path) then return nil end
    t[name] = require(module)
    return t[name]
  end,
})
