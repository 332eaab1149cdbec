-- The factors that give each head of a fork the rms that the original's has, on the inputs that the
-- original gives the layer. Options of s:calibrate:
--   layer    a number, "*", a list, or "changed" (default): the layers unlike the original's
--   match    "rms"
--   data     name, path or dataset, split ("train"), batches (4) of batch (8) windows of `context` tokens (0: the
--            model's context); default: the part of the fork's text that is there for it (surgery/parts.lua)
local core = require "attnlab.core"
local data = require "attnlab.data"
local names = require "attnlab.names"
local rows = require "attnlab.rows"
local taps = require "attnlab.nn.taps"

local DEFAULTS = { layer = "changed", match = "rms", data = false, split = "train", batches = 4, batch = 8,
                   context = 0 }

local function options_over(given)
  local out = {}
  for k, v in pairs(DEFAULTS) do out[k] = v end
  for k, v in pairs(given or {}) do
    if DEFAULTS[k] == nil then
      error("calibrate: " .. names.unknown("option", k, names.keys(DEFAULTS)), 0)
    end
    out[k] = v
  end
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

-- Sums of squares of each head's output by layer, { original, own }, over the windows: both layers
-- see the input that the original gives its own.
local function squares(self, list, set, o)
  local wanted, sums, m = {}, {}, self.original
  for _, i in ipairs(list) do
    wanted[i], sums[i] = true, { {}, {} }
  end
  local function add(to, out)
    local s <close> = out:square():sum { axes = { 1, 2, 4 } }
    for h, v in ipairs(s:flat()) do to[h] = (to[h] or 0) + v end
    out:free()
  end
  local function look(i, _, _, _, x)
    if not wanted[i] then return end
    add(sums[i][1], (m.layers[i].attention:outputs(x, {})))
    add(sums[i][2], (self.layers[i].attention:outputs(x, { raw = true })))
  end
  local context = o.context
  for x in set:even(o.split, o.batch, context, set:windows(o.split, context, o.batches * o.batch)) do
    local h <close> = m:hidden(x, { taps = taps.inputs(#m.layers, look) })
    x:free()
  end
  return sums
end

-- Factors by layer and head, the least and the largest of them.
return function(self, opts)
  local o = options_over(opts)
  if o.match ~= "rms" then
    error(("calibrate: option 'match': 'rms' expected, got '%s'"):format(tostring(o.match)), 3)
  end
  local list = layers_of(self, o.layer)
  local set = not o.data and self:parts().calibrate
    or type(o.data) == "table" and o.data or data.open(o.data, { vocab = self.vocabulary })
  if o.context == 0 then o.context = set:fit(self.config.context) end
  set:need(o.split, o.context)
  local mode, sums = self.training, nil
  self:eval()
  self.original:eval()
  local ok, message = pcall(core.no_grad, function() sums = squares(self, list, set, o) end)
  self:train(mode)
  if not ok then error(message, 0) end
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
