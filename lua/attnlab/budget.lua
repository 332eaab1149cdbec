-- What a run will need, before it runs: the run itself, on the device that only counts.
-- A change here makes no run stale.
local config = require "attnlab.config"
local core = require "attnlab.core"
local tables = require "attnlab.table"
local train = require "attnlab.train"

local M = {}

-- What f(..) gives, and the bytes that it held at once on the current device, when all that it makes is counted and nothing runs.
function M.counted(f, ...)
  local device = core.on "counting"
  collectgarbage()
  collectgarbage()
  local before = core.memory().live
  core.reset_peak()
  local result = table.pack(pcall(f, ...))
  local peak = core.memory().peak - before
  core.on(device)
  if not result[1] then error(result[2], 0) end
  return peak, table.unpack(result, 2, result.n)
end

-- Bytes of a state as text; "(grows)" behind those of an arm that carries more at twice its context.
function M.state_text(bytes, cfg)
  if not bytes then return "" end
  local c, grows = cfg.model, false
  for i = 1, c.layers do
    local a = config.instance_of(cfg, i)
    grows = grows or a:state_bytes(2 * c.context) > a:state_bytes(c.context)
  end
  return tables.human(bytes, true) .. (grows and " (grows)" or "")
end

-- f(..) with `bytes` of room where all is counted: whether that was enough.
local function fits(bytes, f, ...)
  local device = core.on "counting"
  collectgarbage()
  collectgarbage()
  core.memory_limit(core.memory().live + bytes)
  local ok, why = pcall(f, ...)
  core.memory_limit(0)
  core.on(device)
  if not ok and not tostring(why):find "out of memory" then error(why, 0) end
  return ok
end

-- Two steps, since the second one finds the gradients of the first, and an evaluation.
local function short_run(cfg, dataset, micro_batch)
  local trainer = train.trainer(nil, cfg, 0, dataset, micro_batch)
  trainer:step()
  local before = core.work()
  trainer:step()
  local products, parameters = core.work() - before, 0
  trainer:evaluate()
  for _, t in pairs(trainer.model:parameters()) do parameters = parameters + t:numel() end
  return { parameters = parameters, flops = 2 * products, state_bytes = trainer.model:state_bytes(cfg.model.context) }
end

local ROOM = 0.9 -- of a card's memory: pools have gaps, and libraries keep some of their own

-- Counted as the current device holds it: the runner opens no card, and takes the CPU's types and scratch for one.
-- How many windows of a step's batch may go at once where tensors may have `bytes`: the batch, or what halving gives.
function M.micro_batch(cfg, dataset, bytes)
  local n = cfg.train.batch_size
  while not fits(math.floor(ROOM * bytes), short_run, cfg, dataset, n) do
    if n == 1 then
      error(("one window of %d tokens needs more memory than the %s there are"):format(cfg.model.context,
        tables.human(bytes, true)), 0)
    end
    n = (n + 1) // 2
  end
  return n
end

-- cfg: resolved, dataset: of data.open; bytes: room for tensors, nil: as there is. Returns {parameters, flops, memory,
-- state_bytes, micro_batch}. flops: of a step's matrix products and attention, two a multiply-add. memory: the most bytes
-- of tensors that a run holds at once, the text's tokens among them.
function M.of(cfg, dataset, bytes)
  local n = bytes and M.micro_batch(cfg, dataset, bytes)
  local peak, said = M.counted(short_run, cfg, dataset, n)
  said.micro_batch = n
  said.memory = peak + (bytes and 0 or dataset:tensor_bytes()) -- a card has no text
  return said
end

return M
