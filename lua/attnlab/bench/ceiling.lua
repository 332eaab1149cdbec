-- What this machine reaches at best, measured in the same rounds as the work: products of large
-- square matrices (FLOP/s) and a copy of a tensor larger than the caches (bytes/s, read and
-- written). A floor is the time that the work's arithmetic or traffic would take at these rates.
-- A change here makes no run stale.
local core = require "attnlab.core"
local timing = require "attnlab.bench.timing"

local M = {}

M.rows = {
  { name = "product", type = "integer", default = "0", min = 0,
    doc = "side of the square matrices whose product gives the rate of products; 0 = 2048, on a GPU 8192" },
  { name = "copy", type = "integer", default = "0", min = 0,
    doc = "floats of the tensor whose copy gives the rate of memory; 0 = 33554432, on a GPU 268435456" },
}

-- The defaults, which caches or a card's processors have to be small for.
local function filled(o)
  local card = core.on() ~= "cpu"
  if o.product == 0 then o.product = card and 8192 or 2048 end
  if o.copy == 0 then o.copy = card and 1 << 28 or 1 << 25 end
end

-- Two cases for timing.rounds; M.rates reads the list's `share` afterwards. Products are of o.dtype, f32 without one.
function M.cases(o)
  filled(o)
  local n, dtype = o.product, o.dtype or "f32"
  local a, b = core.randn { shape = { n, n }, seed = 1 }:to(dtype), core.randn { shape = { n, n }, seed = 2 }:to(dtype)
  local from = core.ones { shape = { o.copy } }
  local cpu, wall = 0, 0
  local function run(f, counts)
    return { once = function()
      local before = os.clock()
      local s = timing.repeated(function() f():free() end)
      if counts then cpu, wall = cpu + os.clock() - before, wall + s * timing.calls() end
      return { run = s }
    end }
  end
  return { run(function() return a:matmul(b) end, true),
           run(function() return from:scale { by = 1 } end),
           share = function() return core.on() == "cpu" and cpu / (wall * core.threads()) or nil end }
end

-- Rates from the results of these two cases, and the share of the time during the products in which
-- our threads ran: what is missing went to other work on the machine. A card's work is none of theirs.
function M.rates(o, cases, results)
  return { product = 2 * o.product ^ 3 / timing.median(results[1].run),
           copy = 8 * o.copy / timing.median(results[2].run), share = cases.share() }
end

-- Least seconds for flop and bytes, and which of the two says so.
function M.floor(rates, flop, bytes)
  local f, b = flop / rates.product, bytes / rates.copy
  return math.max(f, b), f >= b and "products" or "memory"
end

return M
