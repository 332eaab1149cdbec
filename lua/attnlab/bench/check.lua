-- Right before fast: outputs, gradients and losses against the composed path in f64 of the same
-- process.
local core = require "attnlab.core"
local names = require "attnlab.names"

local M = {}

-- Largest error that passes, as RMS ratio; f32 sums of a few thousand terms stay well below.
M.TOLERANCE = 1e-5
-- The same of bf16, whose numbers are off by 2^-9: weights, outputs and gradients are rounded on the way.
M.TOLERANCE_BF16 = 1e-2
function M.tolerance(dtype) return dtype == "bf16" and M.TOLERANCE_BF16 or M.TOLERANCE end
-- How much larger than the composed path's own error in f32 an error beyond TOLERANCE may be.
local NOISE = 4
-- Largest difference of losses in nats, f32 against composed f64, after some optimiser steps.
M.LOSS_TOLERANCE = 1e-4

-- Is an error within the tolerance, or of the size of `noise`, the composed path's own error in
-- f32?
function M.passes(e, tolerance, noise)
  return e <= tolerance or (noise ~= nil and noise < math.huge and e <= NOISE * noise)
end

-- sqrt(sum (got - want)^2 / sum want^2), in f64; where want is 0 throughout, the root mean square
-- of got.
function M.ratio(got, want)
  local g, w = got:to "f64", want:to "f64"
  if table.concat(g:shape(), ",") ~= table.concat(w:shape(), ",") then return math.huge end
  local off, norm = (g - w):square():sum():item(), w:square():sum():item()
  return math.sqrt(off / (norm > 0 and norm or math.max(1, w:numel())))
end

-- Worst ratio over two tables of tensors by name, and whose it is. A tensor that one of them lacks
-- counts as wrong; NaN is the worst of all.
function M.worst(got, want)
  local worst, whose = 0, nil
  local function take(name, r)
    if r ~= r then r = math.huge end
    if not whose or r > worst then worst, whose = r, name end
  end
  for name, w in pairs(want) do take(name, got[name] and M.ratio(got[name], w) or math.huge) end
  for name in pairs(got) do
    if not want[name] then take(name, math.huge) end
  end
  return worst, whose
end

local INPUTS = { "q", "k", "v", "x" }

-- Output and gradients of one run of `a`, an object with forward{} and parameters(), by name ("y",
-- "dq", .., "d<parameter>"). inputs: q, k, v, x and the output's gradient dy, in a's type.
function M.attention_results(a, inputs, options)
  local call = { causal = options.causal }
  for _, n in ipairs(INPUTS) do call[n] = inputs[n]:detach():requires_grad(true) end
  local y = a:forward(call)
  y:backward(inputs.dy)
  local out = { y = y:detach() }
  for _, n in ipairs(INPUTS) do out["d" .. n] = call[n]:grad() end
  for n, p in pairs(a:parameters()) do
    out["d" .. n] = p:grad()
    p:zero_grad()
  end
  return out
end

-- Judges results by name against `want`: {ok, error, worst (whose it is), noise}. A gradient that
-- is a sum of terms that cancel (a gate before a norm that undoes it) comes out as rounding errors
-- on every path; so beyond TOLERANCE the limit is a few times the error of plain(), the composed
-- path in f32, and noise names the tensor.
function M.judge(got, want, plain, tolerance)
  tolerance = tolerance or M.TOLERANCE
  local error_, worst = M.worst(got, want)
  local verdict = { ok = true, error = error_, worst = worst }
  if error_ <= tolerance then return verdict end
  local other, cancel = plain(), {}
  for _, name in ipairs(names.keys(want)) do
    local e = got[name] and M.ratio(got[name], want[name]) or math.huge
    if not M.passes(e, tolerance) then
      local p = M.ratio(other[name], want[name])
      if M.passes(e, tolerance, p) then
        cancel[#cancel + 1] = ("%s %.1e (composed f32 %.1e)"):format(name, e, p)
      else
        verdict.ok = false
      end
    end
  end
  for name in pairs(got) do verdict.ok = verdict.ok and want[name] ~= nil end
  verdict.noise = #cancel > 0 and table.concat(cancel, ", ") or nil
  return verdict
end

-- Judges `candidate` (of s.dtype, f32 without one) by `reference` (composed, f64), and where they differ by `plain`
-- (composed, f32), all with the candidate's parameters and N(0,1) inputs of the shape s = {batch,
-- seq_len, heads, kv_heads, head_dim, causal}.
function M.attention(candidate, reference, plain, s)
  local function normal(seed, heads)
    local shape = heads and { s.batch, s.seq_len, heads, s.head_dim }
      or { s.batch, s.seq_len, s.heads * s.head_dim }
    return core.randn { shape = shape, seed = seed }:to(s.dtype or "f32")
  end
  local inputs = { q = normal(1, s.heads), k = normal(2, s.kv_heads), v = normal(3, s.kv_heads),
                   x = normal(4), dy = normal(5, s.heads) }
  local exact, single = {}, {}
  for n, t in pairs(inputs) do exact[n], single[n] = t:to "f64", t:to "f32" end
  local function run(a, set)
    local own = a:parameters()
    for n, p in pairs(candidate:parameters()) do own[n]:copy_(p:to(own[n]:dtype())) end
    return M.attention_results(a, set, s)
  end
  return M.judge(M.attention_results(candidate, inputs, s), run(reference, exact),
    function() return run(plain, single) end, M.tolerance(s.dtype))
end

-- Largest difference of two lists of losses; NaN is infinitely wrong.
function M.losses(got, want)
  local worst = #got == #want and 0 or math.huge
  for i = 1, math.min(#got, #want) do
    local d = math.abs(got[i] - want[i])
    worst = d == d and math.max(worst, d) or math.huge
  end
  return worst
end

return M
