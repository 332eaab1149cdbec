-- What the attention layers of a model are to other programs: plain softmax, softmax over a window, or something of ours.
local core = require "attnlab.core"
local rows = require "attnlab.rows"

local M = {}

-- Options that change how a form is computed and not what.
local HOW = { form = true, impl = true, state_limit = true, dropout = true, chunk = true }

-- Layer i as { kind = "softmax", "window" or "other", window =, scale = (a number; nil: 1/sqrt(head_dim)), layer = (its
-- resolved options), text = (what it is, for errors) }.
function M.of(m, i)
  local a = m.layers[i].attention
  local out = { kind = "other", layer = a.layer, text = a.family:text() }
  if type(a.family) == "table" then return out end
  local family, rest = a.family:family(), {}
  if out.text == "" then out.text = family end
  for key, value in a.family:text():gmatch "(%S+)=(%S+)" do
    if key == "logit_scale" and tonumber(value) then
      out.scale = tonumber(value)
    elseif key == "window" and family == "sliding_window" then
      out.window = math.tointeger(tonumber(value))
    elseif not HOW[key] then
      rest[#rest + 1] = key
    end
  end
  if #rest > 0 then return out end
  if family == "kernel_attention" then out.kind = "softmax" end
  if family == "sliding_window" then
    out.kind = "window"
    out.window = out.window or math.tointeger(tonumber(a.family:text(true):match "window=(%d+)"))
  end
  if out.scale and math.abs(out.scale * math.sqrt(a.head_dim) - 1) < 1e-12 then out.scale = nil end
  return out
end

-- All layers, and where they are not what `wanted` asks for: nil and why. wanted: kinds = { softmax = true, window = true },
-- scale = true (any), and values of layer options, or lists of them: what is not named has to be the default. Layers may
-- differ in kind, window and scale alone.
function M.expect(m, wanted)
  local list = {}
  for i = 1, #m.layers do
    local l = M.of(m, i)
    list[i] = l
    local function no(...) return nil, ("layer %d: %s"):format(i, string.format(...)) end
    if not wanted.kinds[l.kind] then return no("its attention is not plain softmax: %s", l.text) end
    if l.scale and not wanted.scale then return no("logit_scale=%s", rows.show(l.scale)) end
    for _, row in ipairs(m.layers[i].attention.rows) do
      local v, want = l.layer[row.name], wanted[row.name]
      if want == nil then want = rows.default(row) end
      local ok = want == "any" or v == want
      for _, w in ipairs(type(want) == "table" and want or {}) do ok = ok or v == w end
      if not ok then return no("%s=%s", row.name, rows.show(v)) end
      if v ~= list[1].layer[row.name] then
        return no("%s=%s, in layer 1 %s", row.name, rows.show(v), rows.show(list[1].layer[row.name]))
      end
    end
  end
  return list
end

-- ---- pairs of channels that turn ----------------------------------------------------------------------

-- Rows of q or k (weights or biases), `heads` of dim channels of which the first `dims` turn: pairs (2i, 2i+1) put as
-- (i, i + dims/2), and back.
function M.halves(t, heads, dim, dims, back)
  local shape, n = t:shape(), dims // 2
  local rest = { table.unpack(shape, 2) }
  local whole = t:reshape { shape = { heads, dim, table.unpack(rest) } }
  local turning = whole:slice({ axis = 2, start = 0, stop = dims }):contiguous()
  local a, b = back and 2 or n, back and n or 2
  turning = turning:reshape { shape = { heads, a, b, table.unpack(rest) } }
  local axes = { 1, 3, 2 }
  for k = 1, #rest do axes[#axes + 1] = 3 + k end
  turning = turning:permute({ axes = axes }):contiguous():reshape { shape = { heads, dims, table.unpack(rest) } }
  if dims < dim then turning = core.op.concat({ turning, whole:slice { axis = 2, start = dims, stop = dim } }, { axis = 2 }) end
  return turning:reshape { shape = shape }
end

return M
