-- Surgery on a model of packed rows sees each document alone, whatever measures or calibrates it; rows of documents, which
-- are padded, are refused.
local T = ...
local lab = require "attnlab"
local core = require "attnlab.core"

-- Documents of seven digits behind an id, so that eight packed tokens are one document, alone in a window of 8.
local folder = core.sys.realpath(T.folder())
local path, list = folder .. "/documents.txt", {}
for i = 1, 1200 do list[i] = ("%07d"):format(i * i * 7919 % 10000000) end
core.sys.write(path, table.concat(list, "|"))
core.sys.write(folder .. "/few.txt", table.concat(list, "|", 1, 9))

local function source(rows, name)
  return { path = name or path, rows = rows, document_end = "|", document_id = 1, tokenizer = "bytes" }
end

local data = lab.data.open(source "packed")
local m = lab.model.new { layers = 2, width = 16, heads = 2, mlp = 24, context = 32, vocabulary = data.vocabulary, seed = 1,
                          attention = { preset = "softmax", rope = "none", conv = 3 } }
lab.train(m, { data = source "packed", steps = 20, batch_size = 8, warmup_steps = 2, eval_windows = 4, eval_interval = 0,
               lr = 3e-3, quiet = true })
m:eval()

T.test("a sweep is the difference that show measures", function()
  for _, c in ipairs(m:fork():sweep { over = "layer", output_norm = "l2" }.cells) do
    local f = m:fork()
    f.layer[c.layer[1]]:set { output_norm = "l2" }
    local d = f:parts().show:diff(f, m)
    T.eq({ c.n, c.bad, c.tokens }, { d.n, d.bad, d.tokens })
    T.near(c.values, d.values, 2e-6)
  end
end)

T.test("a calibration and a mean are those of the documents one a row", function()
  local packed = lab.data.open(source("packed", folder .. "/few.txt"), { vocab = m.vocabulary })
  local alone = lab.data.open(source("stream", folder .. "/few.txt"), { vocab = m.vocabulary })
  local function ranged(set) -- the same 64 tokens in two rows or eight
    return set:cut({ lo = 0, hi = 65 }, { lo = 0, hi = 65 })
  end
  local function factors(set, batch, context)
    local f = m:fork()
    f.layer["*"]:set { output_norm = "l2" }
    f:calibrate { data = set, batches = 1, batch = batch, context = context }
    return { f.layers[1].attention["attnlab.calibration"]:flat(), f.layers[2].attention["attnlab.calibration"]:flat() }
  end
  T.near(factors(ranged(packed), 2, 32), factors(ranged(alone), 8, 8), 1e-5)
  T.ok(math.abs(factors(ranged(packed), 2, 32)[1][1] - factors(ranged(alone), 2, 32)[1][1]) > 1e-4, "documents that see one another")
end)

T.test("a table that describes data is one wherever a name is; rows of documents are refused", function()
  local f = m:fork()
  f.layer[1]:set { output_norm = "l2" }
  f:calibrate { data = source "stream" }
  T.raises(function() f:calibrate { data = source "documents" } end, "calibrate: rows of documents are masked")
  T.raises(function() f:patch { name = "out", layer = 1, with = "mean", data = source "documents" } end,
    "patch: data: rows of documents are masked")
  T.raises(function() f:show { data = source "documents" } end, "rows of documents are masked")
end)

T.test("what is counted in running text is nothing of packed rows", function()
  local cfg = { train = { data = require("attnlab.sources").text(source "packed") } }
  for _, name in ipairs { "log10_row_sum", "series" } do
    local measure = require("attnlab.measures." .. name).measure
    T.eq(measure(m, cfg), nil)
    T.ok(measure(m, { train = { data = require("attnlab.sources").text(source "stream") } }), name)
  end
end)
