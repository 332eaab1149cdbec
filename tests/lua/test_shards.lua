-- Token sets as data: what describes them, what they are made of, their rows and splits, training on them, and what is
-- refused.
local T = ...
local core = require "attnlab.core"
local config = require "attnlab.config"
local data = require "attnlab.data"
local formats = require "attnlab.formats"
local lab = require "attnlab"
local shards = require "attnlab.shards"
local sources = require "attnlab.sources"
local store = require "attnlab.store"
local tokenize = require "attnlab.tokenize"
local train = require "attnlab.train"
local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)
local sys = core.sys

local TABLE = T.root .. "experiments/models/tok512.bin"

-- A shard of ids first, first + 1, .. mod `mod`.
local function shard(path, n, first, mod)
  local w = core.shards.create(path, false)
  for i = first, first + n - 1 do w:put(i % mod) end
  w:commit()
  return path
end

local function documents(n)
  local list = {}
  for i = 1, n do list[i] = ("text number %d %s\nand its end"):format(i, ("is here "):rep(i % 5)) end
  return list
end

local function jsonl(path, list)
  local lines = {}
  for i, text in ipairs(list) do lines[i] = core.json.encode { text = text, n = i } end
  sys.write(path, table.concat(lines, "\n") .. "\n")
  return path
end

local function ids_of(set, from, to)
  local t <close> = set.set:read(from, to - from)
  return t:totable()
end

-- ---- what describes a set -----------------------------------------------------------------------------------

T.test("a table and a text describe the same", function()
  local text = sources.text { path = "a b/x*.bin", rows = "packed", document_end = "<| e%20 |>", vocab = 7, field = "text" }
  T.eq(text, "a b/x*.bin document_end=<|%20e%2520%20|> rows=packed vocab=7")
  T.eq(sources.parse(text), { path = "a b/x*.bin", rows = "packed", document_end = "<| e%20 |>", vocab = 7 })
  T.eq(sources.with("corpus", "rows", "packed"), "corpus rows=packed")
  T.eq(sources.with("corpus rows=packed", "rows", "stream"), "corpus")
  T.eq(sources.parse "two words.txt", { path = "two words.txt" })
  local cfg = config.resolve { data = { path = "x.bin", rows = "documents" } }
  T.eq(cfg.train.data, "x.bin rows=documents")
  local set = config.set({}, "data", "corpus")
  T.eq(config.set(set, "data.rows", "packed").train.data, "corpus rows=packed")
  T.eq(config.set({}, "train.data.field", "body").train.data, "shakespeare field=body")
end)

T.test("what describes nothing is named", function()
  T.raises(function() sources.text { rows = "packed" } end, "option 'path' is missing")
  T.raises(function() sources.text { path = "x", row = "packed" } end, "unknown option 'row' %(did you mean 'rows'")
  T.raises(function() sources.text { path = "x", rows = "pack" } end, "option 'data.rows': unknown word 'pack' %(did you mean 'packed'")
  T.raises(function() sources.parse "x vocab=many" end, "data.vocab")
  T.raises(function() sources.parse "x vocab=1 vocab=2" end, "given twice")
  T.raises(function() config.resolve { data = { path = "x", { 1 } } } end, "names of options expected")
  T.raises(function() config.set({}, "data.row", "packed") end, "unknown option of data 'row' %(did you mean 'rows'")
  T.raises(function() data.open "shakespeare row=packed" end, "unknown option 'row' %(did you mean 'rows'")
end)

T.test("a set named in a file lies beside it", function()
  local dir = sys.realpath(T.folder())
  shard(dir .. "/t_1.bin", 10, 0, 9)
  T.eq(data.locate("t_*.bin vocab=9 valid=t_1.bin", dir), ("%s/t_*.bin valid=%s/t_1.bin vocab=9"):format(dir, dir))
  T.eq(data.locate("shakespeare rows=packed", dir), "shakespeare rows=packed")
end)

-- ---- shards ----------------------------------------------------------------------------------------------

T.test("shards by a pattern are in the order of their names, and validated on others", function()
  local dir = T.folder()
  shard(dir .. "/train_2.bin", 50, 100, 1000)
  shard(dir .. "/train_10.bin", 100, 0, 1000)
  shard(dir .. "/val_1.bin", 40, 500, 1000)
  local d = data.open { path = dir .. "/train_*.bin", valid = dir .. "/val_*.bin", vocab = 1000 }
  T.eq({ d.train.lo, d.train.hi, d.valid.lo, d.valid.hi }, { 0, 150, 150, 190 })
  local want = {}
  for i = 0, 149 do want[i + 1] = i end
  for i = 0, 39 do want[151 + i] = 500 + i end
  T.eq(ids_of(d, 0, 190), want)
  T.eq(d.tokens:numel(), 190)
  T.eq(d:windows("train", 9, 1000), 16)
  local cut = data.open { path = dir .. "/train_10.bin", valid = "0.25", vocab = 1000 }
  T.eq({ cut.train.hi, cut.valid.hi }, { 75, 100 })
  T.ok(d.sha256 ~= cut.sha256)
  T.eq(d.sha256, data.hash(d.name))
  T.ok(data.hash(d.name) ~= data.hash(d.name .. " document_id=3"))
end)

T.test("shards that do not go together, or do not say enough", function()
  local dir = T.folder()
  local path = shard(dir .. "/a.bin", 300, 0, 200)
  sys.write(dir .. "/a.raw", string.pack("<I2I2I2I2I2", 1, 2, 3, 4, 5))
  T.raises(function() data.open(path) end, "^data: '.*a.bin': tokenizer=FILE or, without one, vocab=N is needed")
  T.raises(function() data.open(path .. " vocab=100"):random("train", 16, 16, 1, 1) end,
    "a.bin: token 1%d%d %(byte %d+%): id 1%d%d is beyond the vocabulary of 100")
  T.raises(function() data.open(path .. " vocab=200 rows=packed") end, "rows=packed: the id that documents begin with is not known")
  T.raises(function() data.open(path .. " vocab=200 document_id=200") end, "document_id=200 is beyond the vocabulary of 200")
  T.raises(function() data.open(path .. " vocab=200 format=jsonl") end, "a shard of llm.c, though format=jsonl")
  T.raises(function() data.open(dir .. "/*.none vocab=2") end, "none': no file fits")
  T.raises(function() data.open(dir .. "/a.raw format=llmc vocab=9") end, "10 bytes, a header of 1024 expected")
  T.raises(function() data.open(path .. " vocab=200 valid=1.5") end, "valid=1.5: a share from 0 up to 1")
  T.raises(function() data.open(path .. " vocab=200"):need("valid", 64) end, "too short: its valid split has 30 tokens")
  T.eq(ids_of(data.open(dir .. "/a.raw format=raw_u16 vocab=9"), 0, 5), { 1, 2, 3, 4, 5 })
  sys.write(dir .. "/odd.raw", "abc")
  T.raises(function() data.open(dir .. "/odd.raw format=raw_u16 vocab=9") end, "odd.raw: 3 bytes: a whole number of uint16 ids")
end)

T.test("a model of ids alone trains, and knows no text", function()
  local path = shard(T.folder() .. "/a.bin", 2000, 0, 30)
  local m = lab.model.new { layers = 1, width = 16, heads = 2, mlp = 16, context = 16, vocab = 30, attention = "softmax", seed = 1 }
  local r = lab.train(m, { data = { path = path, vocab = 30 }, steps = 40, batch_size = 8, eval_windows = 8, lr = 1e-2, quiet = true })
  local curve = r:curve()
  T.ok(curve[#curve][2] < 2, curve[#curve][2]) -- ln 30 = 3.4: what follows 7 is 8
  T.eq(m.vocabulary, nil)
  m:save(T.folder() .. "/m.safetensors")
  T.raises(function() data.open(path .. " vocab=31", { vocab = data.open(path .. " vocab=30").vocabulary }) end,
    "vocab=31, but the tokenizer has 30 pieces")
end)

-- ---- texts -------------------------------------------------------------------------------------------------

T.test("jsonl, and text with marks, packed or not, are one set", function()
  local dir, list = T.folder(), documents(60)
  jsonl(dir .. "/a.jsonl", list)
  sys.write(dir .. "/a.txt", table.concat(list, "\n<E>\n") .. "\n")
  for i, text in ipairs(list) do list[i] = text .. "\n" end
  jsonl(dir .. "/b.jsonl", list)
  os.execute(("gzip -k '%s/b.jsonl'"):format(dir))
  local with = " tokenizer=" .. TABLE
  local b = data.open(dir .. "/b.jsonl" .. with)
  T.eq(data.open(dir .. "/a.txt document_end=<E>" .. with).sha256, b.sha256)
  if sys.exists(dir .. "/b.jsonl.gz") then T.eq(data.open(dir .. "/b.jsonl.gz" .. with).sha256, b.sha256) end
  T.ok(data.open(dir .. "/a.jsonl" .. with).sha256 ~= b.sha256)
  T.eq(b.separator, 1) -- what the table puts before a text
  local train_n, valid_n = 0, 0
  for i, id in ipairs(ids_of(b, 0, b.valid.hi)) do
    if id == 1 and i <= b.train.hi then train_n = train_n + 1 elseif id == 1 then valid_n = valid_n + 1 end
  end
  T.eq(train_n + valid_n, 60)
  T.ok(valid_n >= 1 and valid_n <= 15, valid_n)
  T.eq(b.vocabulary:decode(core.tensor { data = ids_of(b, 1, 12), shape = { 11 }, dtype = "i32" }):find "text", 2) -- behind its space
end)

T.test("a text of the project's takes options, too", function()
  local spec = { path = "stories", tokenizer = T.root .. "experiments/models/tok512.bin", document_end = "<|endoftext|>", rows = "documents" }
  local by_name = data.open(spec)
  spec.path = T.root .. "experiments/data/stories.txt"
  T.eq({ by_name.sha256, by_name.train.hi }, { data.open(spec).sha256, data.open(spec).train.hi })
end)

T.test("which documents are held out depends on their text alone", function()
  local dir, list = T.folder(), documents(80)
  local function held(docs)
    local d = data.open(jsonl(dir .. "/x.jsonl", docs) .. " valid=0.3 document_id=2 tokenizer=" .. TABLE)
    local text = d.vocabulary:decode(core.tensor { data = ids_of(d, d.valid.lo, d.valid.hi), shape = { d.valid.hi - d.valid.lo }, dtype = "i32" })
    local found = {}
    for n in text:gmatch "number (%d+)" do found[tonumber(n)] = true end
    return found
  end
  local all, back = held(list), {}
  for i = #list, 1, -1 do back[#back + 1] = list[i] end
  T.eq(held(back), all)
  local half = held(table.move(list, 1, 40, 1, {}))
  for i = 1, 40 do T.eq(half[i], all[i]) end
end)

T.test("texts that cannot be read name line and byte", function()
  local dir = T.folder()
  local function refuses(name, bytes, pattern)
    sys.write(dir .. "/" .. name, bytes)
    T.raises(function() data.open(("%s/%s document_id=0"):format(dir, name)) end, "^data: .*" .. pattern)
  end
  refuses("a.jsonl", '{"text":"a"}\n{"text":', "a.jsonl: line 2, column %d+: ")
  refuses("a.jsonl", '{"text":"a"}\n{"body":"a"}', "a.jsonl: line 2: 'text': there is no such field")
  refuses("a.txt", "abc\nd\xffe", "a.txt: line 2 %(byte 5%): not UTF%-8")
  refuses("a.txt", "  \n", "no text in it")
  refuses("a.jsonl.gz", "\x1f\x8b\8\0\0\0\0\0\0\3", "a.jsonl.gz: byte 10: the packed data end too early")
  sys.write(dir .. "/two.jsonl", '{"text":"a"}\n{"text":"b"}\n')
  T.raises(function() data.open(dir .. "/two.jsonl") end, "2 documents, and the id that each begins with is not known")
end)

T.test("what others made is refused by content, with the line that converts it", function()
  local dir = T.folder()
  local heads = { parquet = "PAR1\21\4.PAR1", arrow = "ARROW1\0\0", arrow_stream = "\xff\xff\xff\xff\x78\1\0\0\x10", npy = "\x93NUMPY\1\0v\0{'descr'",
    npz = "PK\3\4\20\0\0\0\0\0arr_0.npy", pt = "PK\3\4\0\0\8\8archive/data.pkl", pickle = "\x80\4\x95\11\0\0\0\0\0\0\0]\x94.",
    gguf = "GGUF\3\0\0\0" }
  for kind in pairs(formats.FOREIGN) do
    local path = ("%s/it is %s.bin"):format(dir, kind)
    sys.write(path, heads[kind])
    T.raises(function() data.open(path) end, "^data: '.*" .. kind .. ".bin' is an? [%w ']+, which is not read here.*\n  python3 %-c \"import .*'[^\n]*it is "
      .. kind .. ".bin'")
    T.raises(function() tokenize.run { inputs = { path }, tokenizer = TABLE, out = dir .. "/out" } end, "python3 %-c")
  end
  for _, word in ipairs { "PAR1", "ARROW1", "GGUF", "PK" } do -- texts may begin so
    sys.write(dir .. "/word.txt", word .. " is the word for it\n")
    T.eq(data.open(dir .. "/word.txt").tokens:numel(), #word + 20)
  end
  sys.write(dir .. "/old.pt", "\x80\2\x8a\nl\xfc\x9c\x46\xf9 j\xa8P\x19.\x80\2M\xe9\3.}q\0")
  T.raises(function() data.open(dir .. "/old.pt") end, "is a file of PyTorch's")
  sys.write(dir .. "/ids.bin", "\x80\2](" .. ("ab"):rep(50) .. "a.") -- ids that begin as a pickle may
  T.raises(function() data.open(dir .. "/ids.bin vocab=65536") end, "a Python pickle")
  T.eq(data.open(dir .. "/ids.bin vocab=65536 format=raw_u16").tokens:numel(), 53)
end)

-- ---- training ----------------------------------------------------------------------------------------------

local function small(path)
  return config.resolve { layers = 1, width = 16, heads = 2, mlp = 16, context = 16, steps = 12, batch_size = 4, warmup_steps = 2,
                          eval_windows = 8, data = path }
end

T.test("a training goes on at the row where its checkpoint was made", function()
  local path = shard(T.folder() .. "/a.bin", 1200, 0, 30) .. " vocab=30"
  local whole, half = train.trainer(nil, small(path), 1), train.trainer(nil, small(path), 1)
  local want = {}
  for k = 1, 12 do want[k] = whole:step().loss end
  for k = 1, 7 do T.eq(half:step().loss, want[k]) end
  local after = train.trainer(nil, small(path), 1)
  local kept = {}
  for name, t in pairs(half:state()) do kept[name] = t:clone() end
  after:restore(kept, half:metadata())
  for k = 8, 12 do T.eq(after:step().loss, want[k]) end
end)

T.test("documents that are padded train on their tokens alone, in parts as at once", function()
  local path = jsonl(T.folder() .. "/a.jsonl", documents(60)) .. " rows=documents document_id=0"
  local losses = {}
  for _, micro in ipairs { 4, 1 } do
    local t = train.trainer(nil, small(path), 1, nil, micro)
    T.eq(t.data.masked, true)
    for k = 1, 3 do losses[k] = losses[k] or {}; table.insert(losses[k], t:step().loss) end
    losses[4] = losses[4] or {}
    table.insert(losses[4], t:evaluate()["valid/loss"])
  end
  for k, pair in ipairs(losses) do T.near(pair[2], pair[1], 1e-5) end
end)

T.test("what evaluates documents counts no masked token", function()
  local d = data.open(jsonl(T.folder() .. "/a.jsonl", documents(40)) .. " rows=documents valid=0.5 document_id=0")
  local m = tiny.model(nil, { vocab = d.vocabulary:size() })
  local set = lab.evalset { data = d, windows = 5, context = 12 }
  local own = set:losses(m)
  local b = 0
  for x, y in d:even("valid", 1, 12, d:windows("valid", 12, 5)) do
    b = b + 1
    local n = 0
    for _, id in ipairs(y:flat()) do n = n + (id >= 0 and 1 or 0) end
    local prefix = m:forward(x[{ {}, { 1, n } }]:contiguous())
    T.near(own[b], prefix:cross_entropy(y[{ {}, { 1, n } }]:contiguous()):item(), 1e-9)
  end
  T.ok(b > 1)
end)

T.test("a packed row is its documents, each alone, in training and measuring", function()
  local path = jsonl(T.folder() .. "/a.jsonl", documents(60)) .. " rows=packed document_id=0"
  local d = data.open(path)
  local m = tiny.model(nil, { vocab = d.vocabulary:size(), context = 64 })
  local x, y, more = d:random("train", 2, 64, 1, 1)
  local xs, ys, starts = x:totable(), y:totable(), more.documents:totable()
  local sum, pieces = 0, 0
  for b = 1, 2 do
    local from = 1
    for t = 2, 65 do
      if t == 65 or starts[b][t] ~= starts[b][from] then
        local n = t - from
        local function part(row) return core.tensor { data = table.move(row, from, t - 1, 1, {}), shape = { 1, n }, dtype = "i32" } end
        sum = sum + n * m:loss(part(xs[b]), part(ys[b])):item()
        from, pieces = t, pieces + 1
      end
    end
  end
  T.ok(pieces > 3, pieces)
  T.near(m:loss(x, y, more):item(), sum / 128, 1e-9)
  local each = lab.evalset { data = d, windows = 3, context = 64 }:losses(m)
  local k = 0
  for vx, vy, own in d:even("valid", 1, 64, d:windows("valid", 64, 3)) do
    k = k + 1
    T.near(each[k], m:loss(vx, vy, own):item(), 1e-9)
  end
  T.eq(#each, k)
  local whole, parts = train.trainer(nil, small(path), 1, nil, 4), train.trainer(nil, small(path), 1, nil, 1)
  for _ = 1, 3 do T.near(parts:step().loss, whole:step().loss, 1e-5) end
end)

T.test("kill -9 in a run on shards: the same command ends with the same numbers", function()
  local dir = T.folder()
  shard(dir .. "/a.bin", 5000, 0, 30)
  local path, root = tiny.experiment ""
  sys.write(path, (sys.read(path):gsub("steps = 24", ('steps = 24, data = { path = "%s/a.bin", vocab = 30 }'):format(dir))))
  local _, plan = tiny.run { "run", path, "--dry-run", "--json", "out_dir=" .. root }
  T.eq((tiny.run { "run", path, "out_dir=" .. root }), 0)
  local want = tiny.metrics(root)
  for _, folder in ipairs(tiny.run_dirs(root)) do
    for _, record in ipairs(store.times(folder)) do
      if record.event == "memory" then T.eq(record.bytes, core.json.decode(plan:match "%b{}").arms[1].memory) end
    end
  end
  local other = T.folder() .. "/runs"
  for _ = 1, 3 do
    local pid = tiny.start { "run", path, "out_dir=" .. other }
    local till = sys.clock() + 30
    local seen = false
    while not seen and sys.clock() < till do -- until a checkpoint of some run is there, or all is done
      for _, folder in ipairs(sys.exists(other .. "/tiny") and tiny.run_dirs(other) or {}) do
        seen = seen or sys.exists(folder .. "/checkpoint.safetensors")
      end
      if sys.wait(pid, true) ~= "running" then break end
      sys.sleep(0.01)
    end
    pcall(sys.kill, pid, 9)
    pcall(sys.wait, pid)
    sys.sleep(0.2)
  end
  T.eq((tiny.run { "run", path, "out_dir=" .. other }), 0)
  T.eq(tiny.metrics(other), want)
end)

T.test("a folder that is not whole, or was changed, is refused", function()
  local dir = T.folder()
  local path = jsonl(dir .. "/a.jsonl", documents(30))
  local list = tokenize.run { inputs = { path }, tokenizer = TABLE, out = dir .. "/set", val = 0.2, quiet = true }
  local d = data.open(dir .. "/set rows=packed")
  T.eq({ d.train.hi, d.valid.hi, d.separator, d.vocabulary:size() }, { list.splits.train.tokens, list.splits.train.tokens + list.splits.val.tokens, 1, 512 })
  T.raises(function() data.open(dir .. "/set valid=0.1") end, "valid= belongs to data without splits of their own")
  T.raises(function() data.open(dir .. "/set", { vocab = data.open(path .. " document_id=0").vocabulary }) end,
    "its tokenizer has 512 pieces %(hash %x+%), the model's %d+ %(hash %x+%)")
  local m = tiny.model(nil, { vocab = 600, vocabulary = data.open(path .. " document_id=0").vocabulary })
  T.raises(function() lab.train(m, { data = dir .. "/set", steps = 1, quiet = true }) end, "ids would mean something else")
  local text = sys.read(dir .. "/set/shards.json")
  for _, edit in ipairs { { '"vocab": 512', '"vocab": 511', "the tokenizer beside the shards is another one" },
                          { '"tokens": %d+', '"tokens": 5', "tokens in its shards, its list says" },
                          { "train_000000", "../x", "names of files beside it expected" },
                          { '"splits"', '"split"', "a list of attnlab tokenize expected" }, { "{", "", "shards.json': " } } do
    sys.write(dir .. "/set/shards.json", (text:gsub(edit[1], edit[2], 1)))
    T.raises(function() data.open(dir .. "/set") end, edit[3])
  end
  sys.write(dir .. "/set/shards.json", text)
  sys.rename(dir .. "/set/train_000000.bin", dir .. "/elsewhere.bin")
  os.execute(("ln -s ../elsewhere.bin '%s/set/train_000000.bin'"):format(dir))
  T.raises(function() data.open(dir .. "/set") end, "set/train_000000.bin: a link, which is not followed here")
  sys.remove(dir .. "/set/shards.json")
  T.raises(function() data.open(dir .. "/set") end, "is a folder")
end)
