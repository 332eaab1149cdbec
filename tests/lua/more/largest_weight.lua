-- The measure "largest_weight": the largest number among a trained model's parameters.
local M = { expect = { finite = function(r) return r.largest < math.huge, ("%.3g"):format(r.largest) end } }

function M.measure(model)
  local largest = 0
  for _, t in pairs(model:parameters()) do largest = math.max(largest, t:abs():max():item()) end
  return { largest = largest }
end

function M.gather(list)
  local out = { largest = 0 }
  for _, r in ipairs(list) do out.largest = math.max(out.largest, r.largest) end
  return out
end

function M.text(arm, r)
  return ("The largest number in the trained arm '%s': %.3g"):format(arm, r.largest)
end

function M.panel(measured)
  local panel = { title = "largest number", xlabel = "arm", ylabel = "", curves = {} }
  for i, x in ipairs(measured) do panel.curves[i] = { name = x.arm, points = { { i, x.record.largest } }, marks = true } end
  return panel
end

return M
