-- The block that GPT-2, GPT-NeoX and GPT-J share: layer norms, attention, an MLP of two matrices with biases.
--
--   sequential   x += attention(norm x); x += mlp(norm' x)
--   parallel     x += attention(norm x) + mlp(norm' x), both of the same x
--
-- local Block = block { norm =, mlp_norm = (nil: the MLP reads what attention reads), attention =, up =, down = (names of
-- its parts), activation = (an op, where the option says auto), parallel = true or f(m) }
local nn = require "attnlab.nn"
local Module = nn.Module

return function(kind)
  local Block = Module.class "Block"

  function Block.new(m, spec, opts)
    local self = Module.create(Block, opts)
    local function norm(key) return key and self:child(key, nn.LayerNorm(m.width, self:part(key, { eps = m.norm_eps }))) end
    local function linear(key, inputs, outputs)
      return self:child(key, nn.Linear(inputs, outputs, self:part(key, { bias = true, init = m.init, deviation = m.init_deviation })))
    end
    self.input_norm, self.mlp_norm = norm(kind.norm), norm(kind.mlp_norm)
    self.attention = self:child(kind.attention, nn.Attention(m.width, spec, self:part(kind.attention, {
      heads = m.heads, kv_heads = m.kv_heads, head_dim = m.head_dim, init = m.init, deviation = m.init_deviation })))
    self.up, self.down = linear(kind.up, m.width, m.mlp), linear(kind.down, m.mlp, m.width)
    self.activation = m.activation == "auto" and kind.activation or m.activation
    self.parallel = kind.parallel
    if type(kind.parallel) == "function" then self.parallel = kind.parallel(m) end
    return self
  end

  local function mlp(self, n)
    local up <close> = self.up(n)
    local hidden <close> = up[self.activation](up)
    return self.down(hidden)
  end

  -- As language.lua calls it.
  function Block:forward(x, a, opts)
    local sum, n <close> = self.input_norm:add(x, a)
    local attended, after = self.attention(n, opts)
    local heads <close> = attended
    if self.parallel then
      local own <close> = self.mlp_norm and self.mlp_norm(sum) or nil
      local added <close> = mlp(self, own or n)
      return sum, heads + added, after
    end
    local y, n2 <close> = self.mlp_norm:add(sum, heads, opts and opts.taps and opts.taps["residual.mid"])
    if a then sum:free() end
    return y, mlp(self, n2), after
  end

  return Block
end
