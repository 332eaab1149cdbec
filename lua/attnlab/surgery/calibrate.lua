-- The factors that give each head of a fork the rms that the original's has, on the inputs that the
-- original gives the layer: run(fork, opts) is one entry of the fork's list. Options of s:calibrate:
--   layer    a number, "*", a list, or "changed" (default): the layers unlike the original's
--   match    "rms"
--   data     name, path or dataset, split ("train"), batches (4) of batch (8) windows of `context` tokens (0: the
--            model's context); default: the part of the fork's text that is there for it (surgery/parts.lua)
local core = require "attnlab.core"
local data = require "attnlab.data"
local Documents = require "attnlab.nn.documents"
local names = require "attnlab.names"
local rows = require "attnlab.rows"
local taps = require "attnlab.nn.taps"
local merge = require("attnlab.nn.heads").merge
local window_of = require "attnlab.model.window"

local M = {}

local DEFAULTS = { layer = "changed", match = "rms", data = false, split = "train", batches = 4, batch = 8,
                   context = 0 }

local function options_over(given)
  local out = {}
  for k, v in pairs(DEFAULTS) do out[k] = v end
  for k, v in pairs(names.options("calibrate", given, names.keys(DEFAULTS))) do out[k] = v end
  for k, least in pairs { batches = 1, batch = 1, context = 0 } do
    if math.type(out[k]) ~= "integer" or out[k] < least then
      error(("calibrate: option '%s': integer >= %d expected, got %s"):format(k, least, tostring(out[k])), 0)
    end
  end
  return out
end

-- The layers that `layer` names: a number, "*", a list, or "changed": those unlike the original's.
local function layers_of(self, layer)
  local list = {}
  if layer == "changed" then
    for i, block in ipairs(self.layers) do
      local before, after = self.original.layers[i].attention, block.attention
      if not rows.equal(before.spec, after.spec) then list[#list + 1] = i end
    end
    if #list == 0 then error("calibrate: no layer differs from the original's", 0) end
    return list
  end
  for _, i in ipairs(type(layer) == "table" and layer or { layer }) do
    table.move(self.layer[i].list, 1, #self.layer[i].list, #list + 1, list)
  end
  return list
end

local function add(to, out)
  local s <close> = out:square():sum { axes = { 1, 2, 4 } }
  for h, v in ipairs(s:flat()) do to[h] = (to[h] or 0) + v end
  out:free()
end

-- Calls f(i, x, opts) with the input x that the original gives the attention of layer i, for each batch and each layer of
-- which wanted[i] is set; opts: what its forward takes besides. x is f's own: what it makes may be read, as the layer has
-- ended by then.
local function each_input(self, o, wanted, f)
  local set = not o.data and self:parts().calibrate
    or data.is_dataset(o.data) and o.data or data.open_for(self, o.data)
  if set.masked then error("calibrate: rows of documents are masked: take rows=stream or packed", 0) end
  local context = o.context > 0 and o.context or set:fit(window_of(self))
  set:need(o.split, context)
  local inputs
  local function look(i, _, _, _, x) inputs[i] = wanted[i] and x:scale { by = 1 } or nil end
  for x, _, more in set:even(o.split, o.batch, context, set:windows(o.split, context, o.batches * o.batch)) do
    inputs = {}
    local documents = Documents.of(more and more.documents, x)
    local h <close> = self.original:hidden(x, { taps = taps.inputs(#self.layers, look), documents = documents })
    x:free()
    for i = 1, #self.layers do
      if inputs[i] then f(i, inputs[i], { documents = documents }) end
    end
  end
end

-- f, nothing recorded, with both models in evaluation mode.
local function evaluating(self, f)
  local mode = self.training
  self:eval()
  self.original:eval()
  local ok, message = pcall(core.no_grad, f)
  self:train(mode)
  if not ok then error(message, 0) end
end

-- What a calibration by the default options looks at, kept for many of them: by layer the inputs and the sums of
-- squares that the original's heads give there.
function M.look(self)
  local seen, all = {}, {}
  for i = 1, #self.layers do seen[i], all[i] = { inputs = {}, squares = {} }, true end
  evaluating(self, function()
    each_input(self, options_over(), all, function(i, x, opts)
      table.insert(seen[i].inputs, { x, opts.documents })
      add(seen[i].squares, (self.original.layers[i].attention:outputs(x, opts)))
    end)
  end)
  return seen
end

-- Sums of squares of each head's output by layer, { original, own }, over the windows: both layers
-- see the input that the original gives its own.
local function squares(self, list, o, seen)
  local sums = {}
  for _, i in ipairs(list) do sums[i] = { seen and seen[i].squares or {}, {} } end
  local function own(i, x, documents)
    add(sums[i][2], (self.layers[i].attention:outputs(x, { raw = true, documents = documents })))
  end
  if not seen then
    each_input(self, o, sums, function(i, x, opts)
      add(sums[i][1], (self.original.layers[i].attention:outputs(x, opts)))
      own(i, x, opts.documents)
      x:free()
    end)
    return sums
  end
  for _, i in ipairs(list) do
    for _, one in ipairs(seen[i].inputs) do own(i, one[1], one[2]) end
  end
  return sums
end

-- Factors by layer and head, the least and the largest of them.
local function factors(self, opts, seen)
  local o = options_over(opts)
  if o.match ~= "rms" then
    error(("calibrate: option 'match': 'rms' expected, got '%s'"):format(tostring(o.match)), 0)
  end
  local list, sums = layers_of(self, o.layer), nil
  evaluating(self, function() sums = squares(self, list, o, seen) end)
  local out, least, most = {}, math.huge, 0
  for _, i in ipairs(list) do
    out[i] = {}
    for h, wanted in ipairs(sums[i][1]) do
      local own = sums[i][2][h]
      if not (own < math.huge) then
        error(("calibrate: layer %d head %d: its output is not finite"):format(i, h), 0)
      end
      local f = own > 0 and math.sqrt(wanted / own) or 1 -- a silent head stays silent
      out[i][h], least, most = f, math.min(least, f), math.max(most, f)
    end
  end
  return out, least, most
end

-- seen: of look, where the options are the default ones but for the layer.
function M.run(self, opts, seen)
  local found, least, most = factors(self, opts, seen)
  local new, layers = {}, {}
  for i, own in pairs(found) do
    local layer = self.layers[i].attention
    new[i], layers[#layers + 1] = layer:with(merge(layer.preset, layer.spec, { calibrated = true })), i
    new[i]:place { ["attnlab.calibration"] = core.tensor { data = own, dtype = self.dtype } }
  end
  table.sort(layers)
  self:exchange(new, { kind = "calibrate", list = layers,
                       change = ("rms of the heads, times %.3g to %.3g"):format(least, most) })
  return self
end

return M
