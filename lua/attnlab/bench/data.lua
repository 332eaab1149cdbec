-- bench data: what it costs to load batches from shards beside steps of a Llama, by kind of rows.
--
-- waited is the time of a step that goes until its batch is there, with a thread that reads ahead, between steps of the
-- model as in a training. read is that of reading a batch with nothing beside it: what the thread takes of the cores
-- while a step runs. Both are held against the step's time.
-- A change here makes no run stale.
local core = require "attnlab.core"
local data = require "attnlab.data"
local show = require "attnlab.bench.show"
local timing = require "attnlab.bench.timing"
local train = require "attnlab.bench.train"
local sys = core.sys

local M = {}

M.rows = {
  { name = "data", type = "text", default = "", doc = "shards as train's data names them, whose number of ids vocab then is; default: made for it, of random tokens" },
  { name = "tokens", type = "integer", default = "4000000", min = 10000, doc = "of the shard that is made" },
  { name = "document", type = "integer", default = "500", min = 2, doc = "tokens of a document there, on average" },
  { name = "rounds", type = "integer", default = "20", min = 1, doc = "steps that are measured" },
  { name = "dtype", type = "word", default = "f32", choices = { "f32", "bf16" }, doc = "of the model" },
}
for _, row in ipairs(train.rows) do
  if row.name ~= "presets" and row.name:sub(1, 6) ~= "check_" then M.rows[#M.rows + 1] = row end
end

function M.check() end

-- A shard of random tokens whose documents begin with id 0; its path.
local function made(o)
  local path = os.tmpname()
  local w = core.shards.create(path, o.vocab > 1 << 16)
  local PART = 1 << 16
  for first = 1, o.tokens, PART do
    local u <close> = core.rand { shape = { PART }, seed = first, device = "cpu" }
    local share = 1 / o.document
    local ids <close> = ((u:clamp { min = share } - share) / (1 - share)):scale { by = o.vocab }:clamp { max = o.vocab - 1 }:cast { dtype = "i32" }
    w:put(ids, 0, math.min(PART, o.tokens - first + 1))
  end
  w:commit()
  return path
end

-- Whether x and y of each row are one sequence, up to where it is masked.
local function right(x, y)
  local B, T = x:size(1), x:size(2)
  local xs, ys = x:totable(), y:totable()
  for b = 1, B do
    for t = 1, T - 1 do
      if ys[b][t] >= 0 and ys[b][t + 1] >= 0 and ys[b][t] ~= xs[b][t + 1] then return false end
    end
  end
  return true
end

local function measure(o, kind, source)
  o.say("rows=" .. kind)
  local d = data.open(require("attnlab.sources").with(source, "rows", kind))
  if o.data ~= "" then o.vocab = d.vocabulary:size() end
  local s = train.stepper(o, "softmax", o.dtype, o.batch)
  local waited, steps, read, ok = {}, {}, {}, true
  for k = 1, o.warmup + o.rounds do
    local began = sys.clock()
    local x, y, more = d:random("train", o.batch, o.seq_len, o.seed, k)
    local there = sys.clock()
    s.x, s.y = x, y
    local step = timing.timed(train.step, s)
    ok = ok and right(x, y)
    x:free()
    y:free()
    for _, t in pairs(more or {}) do t:free() end
    if k > o.warmup then waited[#waited + 1], steps[#steps + 1] = there - began, step end
  end
  local draw = d:even("train", o.batch, o.seq_len, o.batch * o.rounds)
  for k = 1, o.rounds do
    local began = sys.clock()
    local x, y = draw()
    if not x then break end
    read[k] = sys.clock() - began
    x:free()
    y:free()
  end
  return { name = kind, step = timing.summary(steps), waited = timing.summary(waited), read = timing.summary(read), ok = ok }
end

local function us(s) return ("%.0f"):format(1e6 * s.median) end

M.columns = {
  { title = "rows", show = function(r) return r.name end },
  { title = "step ms", right = true, show = function(r) return show.ms(r.step.median) end },
  { title = "waited us", right = true, show = function(r) return us(r.waited) end },
  { title = "of the step", right = true, show = function(r) return ("%.3f %%"):format(100 * r.waited.median / r.step.median) end },
  { title = "read us", right = true, show = function(r) return us(r.read) end },
  { title = "of the step", right = true, show = function(r) return ("%.3f %%"):format(100 * r.read.median / r.step.median) end },
  { title = "", show = function(r) return r.ok and "" or "WRONG" end },
}

function M.run(o)
  local path = o.data == "" and made(o) or nil
  local source = path and ("%s vocab=%d document_id=0 format=llmc"):format(path, o.vocab) or o.data
  local list = {}
  local ok, why = pcall(function()
    for i, kind in ipairs { "stream", "packed", "documents" } do list[i] = measure(o, kind, source) end
  end)
  if path then sys.remove(path) end
  if not ok then error(why, 0) end
  return { title = ("loading %d rows of %d tokens from %s beside steps of a Llama of %d layers, width %d, %s"):format(o.batch, o.seq_len,
             path and "a shard of random tokens" or o.data, o.layers, o.width, o.dtype), rows = list,
           notes = { "waited: until the batch is there, read ahead; read: the same with nothing beside it, which a thread does while a step runs" } }
end

return M
