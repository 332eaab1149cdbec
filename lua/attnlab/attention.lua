-- lab.attention: the registry of attention variants and instances of them without a layer around.
local core = require "attnlab.core"
local devices = require "attnlab.devices"
local statefile = require "attnlab.statefile"
local plugins = require "attnlab.plugins"

local M = {}

-- Array of { name=, family=, source=, note=, layer= }.
function M.list()
  return core.attn.list()
end

-- Formula, options, parameters, claims and source as text.
function M.describe(name)
  return core.attn.describe(name)
end

-- Loads a plug-in (.so, or .c, which is built first) for the rest of the process and returns the name of
-- its family; the same file again is the same family. What is no plug-in, or would take a name, is refused.
function M.load(path)
  return plugins.load(path)
end

-- Packed rows laid out once for many calls: starts (B,T) i32, of each token the place, from 0, at which its document
-- begins in its row; what forward takes as documents. On a device it waits for them: best made on the CPU.
function M.documents(starts)
  return core.attn.documents(starts)
end

-- st:save(path): what a:load_state(path) goes on from.
function core.attn.state_methods:save(path)
  local a, fits = self:attention()
  if not fits then
    error("save: the attention of this state has other options by now, which the file would carry", 2)
  end
  statefile.save(path, statefile.describe(a, a:sizes(), a:dtype()), self:position(), self:components())
end

-- The state of a file. Another variant, other sizes, a file that is damaged or no state: refused.
function core.attn.methods:load_state(path)
  local position, tensors = statefile.load(path, statefile.describe(self, self:sizes(), self:dtype()))
  return statefile.named(path, self.restore, self, position, tensors)
end

M.SIZES = { "heads", "kv_heads", "head_dim", "value_dim", "width", "dtype", "seed", "tag" }

-- new("p2/cottention", {heads=4, head_dim=16, width=64, device=, ..options}) or new{preset=, ..the same}:
-- sizes only where parameters need them, else the first q, k and v bring them. The result runs
-- o = a:forward{q=, k=, v=, x=, lengths=, causal=true}; lab.help "attention" lists all it takes.
function M.new(name, options, ...)
  if select("#", ...) > 0 or type(name) == "table" and options ~= nil then
    error("attention.new: one table of options and sizes expected, as new(\"softmax\", {heads=4, head_dim=16})", 2)
  end
  if type(name) == "table" then name, options = name.preset or "", name end
  if type(name) ~= "string" then
    error(("attention.new: name or table of options expected, got %s"):format(type(name)), 2)
  end
  local sizes, rest = {}, {}
  for k, v in pairs(require("attnlab.names").options("attention.new", options)) do
    if k ~= "preset" then rest[k] = v end
  end
  for _, k in ipairs(M.SIZES) do sizes[k], rest[k] = rest[k], nil end
  local there = devices.opened(rest.device)
  rest.device = nil
  return devices.on(there, core.attn.new, name, rest, sizes)
end

return M
