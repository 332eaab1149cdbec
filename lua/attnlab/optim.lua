-- Optimisers that step by the gradients of tensors. o = optim.adamw{params, lr=, betas=, eps=, weight_decay=, grad_clip=,
-- decay="matrices"}, optim.sgd{params, lr=, momentum=, ..}; the options are those of the core, with
-- `decay` choosing what decays ("matrices": tensors of two axes or more; "all"). params: names ->
-- tensors, as m:parameters() gives them, or an array of tensors; a set: a tensor that comes again under
-- another name is one parameter, under the name that came first. o:step([lr]) updates and returns the
-- global gradient norm; o:zero_grad(); o:steps([n]); o:state().
local core = require "attnlab.core"
local names = require "attnlab.names"
local rows = require "attnlab.rows"

local M = {}
local Optimiser = {}
Optimiser.__index = Optimiser
Optimiser.__name = "attnlab.optim"

local function build(kind, opts)
  opts = names.options(kind, opts)
  local params = opts[1] or opts.params
  if type(params) ~= "table" then
    error(("%s: table of parameters expected as first entry, got %s"):format(kind, type(params)), 3)
  end
  if type(opts.eps) == "number" and not (opts.eps > 0) then -- a parameter of no gradient would be divided by 0
    error(("%s: option 'eps': number > 0 expected, got %s"):format(kind, rows.show(opts.eps)), 3)
  end
  local decay, rest = opts.decay or "matrices", {}
  if decay ~= "matrices" and decay ~= "all" then
    error(("%s: option 'decay': 'matrices' or 'all' expected, got '%s'")
      :format(kind, tostring(decay)), 3)
  end
  for k, v in pairs(opts) do
    if k ~= 1 and k ~= "params" and k ~= "decay" and k ~= "lr" then rest[k] = v end
  end
  local self = setmetatable({ lr = opts.lr or 1e-3, core = core.optim(kind, rest), kind = kind,
                              options = rest, decay = decay }, Optimiser)
  -- without an order of its own a table of names is taken in theirs: state and norm depend on it
  local meta = getmetatable(params)
  if #params > 0 and not (meta and meta.__pairs) then
    for i, t in ipairs(params) do self:add(tostring(i), t, decay) end
  elseif meta and meta.__pairs then
    for name, t in pairs(params) do self:add(name, t, decay) end
  else
    for _, name in ipairs(names.keys(params)) do self:add(name, params[name], decay) end
  end
  return self
end

-- AdamW: lr, betas, eps, weight_decay (decoupled), grad_clip, decay.
function M.adamw(opts)
  return build("adamw", opts)
end

-- Gradient descent: lr, momentum, weight_decay, grad_clip, decay.
function M.sgd(opts)
  return build("sgd", opts)
end

-- One more tensor to train.
function Optimiser:add(name, t, decay)
  self.core:add(name, t, decay == "all" or t:ndim() >= 2)
end

-- One update by the gradients that the tensors have. Returns the global norm of these before clipping.
function Optimiser:step(lr)
  local norm = self:queue(lr)
  local value = norm:item()
  norm:free()
  return value
end

-- The same without waiting: the norm as a tensor of one number. after: that of an update before, which nobody has read: where it
-- is not finite, this one changes nothing either.
function Optimiser:queue(lr, after)
  return self.core:step(lr or self.lr, after)
end

-- Forgets the gradients of all its tensors.
function Optimiser:zero_grad()
  self.core:zero_grad()
end

-- How many updates were made; with n: that many count as made.
function Optimiser:steps(n)
  if n then return self.core:steps(n) end
  return self.core:steps()
end

-- An optimiser with the same options and count of steps over other parameters: what it keeps for
-- those whose name and shape it knows goes on, the others begin.
function Optimiser:over(params)
  local opts = { params, lr = self.lr, decay = self.decay }
  for k, v in pairs(self.options) do opts[k] = v end
  local new = build(self.kind, opts)
  local kept = self:state()
  for name, t in pairs(new:state()) do
    local old = kept[name]
    if old and table.concat(old:shape(), ",") == table.concat(t:shape(), ",") then t:fork_(old) end
  end
  new:steps(self:steps())
  return new
end

-- What it keeps, tensors by name: copying into them restores a checkpoint.
function Optimiser:state()
  return self.core:state()
end

return M
