-- ./lab tokenize: what it writes, from what, how it ends when it is killed, and what it refuses.
local T = ...
local core = require "attnlab.core"
local data = require "attnlab.data"
local tokenize = require "attnlab.tokenize"
local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)
local sys = core.sys

local TABLE = T.root .. "experiments/models/tok512.bin"

local function lines(n, first)
  local list = {}
  for i = first or 1, n do list[#list + 1] = core.json.encode { text = ("once upon a time there was number %d"):format(i), body = "b" .. i } end
  return table.concat(list, "\n") .. "\n"
end

local function run(words, input)
  local line = { "tokenizer=" .. TABLE }
  table.move(words, 1, #words, 2, line)
  table.insert(line, 1, "tokenize")
  if not input then return tiny.run(line) end
  local quoted = {}
  for i, w in ipairs(line) do quoted[i] = "'" .. w .. "'" end
  local out = T.folder() .. "/out"
  local ok, _, code = os.execute(("'%s' %s <'%s' >'%s' 2>&1"):format(tiny.program, table.concat(quoted, " "), input, out))
  return ok and 0 or code, sys.read(out)
end

local function read(d, from, n)
  local t <close> = d.set:read(from, n)
  return t:totable()
end

T.test("jsonl becomes shards of one size, each document behind what starts a text", function()
  local dir = T.folder()
  sys.write(dir .. "/a.jsonl", lines(50))
  local status, text = run { dir .. "/a.jsonl", "out=" .. dir .. "/set", "shard_tokens=200", "val=0.2" }
  T.eq(status, 0, text)
  T.ok(text:find 'documents begin with id 1: data="', text)
  local list = core.json.decode(sys.read(dir .. "/set/shards.json"))
  T.eq({ list.vocab, list.bits, list.document_id }, { 512, 16, 1 })
  local train, val = list.splits.train, list.splits.val
  T.eq(train.documents + val.documents, 50)
  T.ok(val.documents > 2 and val.documents < 22, val.documents)
  T.eq(#train.files, (train.tokens + 199) // 200)
  T.eq(sys.size(dir .. "/set/" .. train.files[1]), 1024 + 2 * 200)
  local d = data.open(dir .. "/set")
  T.eq(d.text_bytes, train.bytes + val.bytes)
  local n, from = 0, 0
  for part = 0, 1 do
    local hi = part == 0 and d.train.hi or d.valid.hi
    local ids = read(d, from, hi - from)
    T.eq(ids[1], 1)
    for _, id in ipairs(ids) do n = n + (id == 1 and 1 or 0) end
    from = hi
  end
  T.eq(n, 50)
  T.eq(sys.exists(dir .. "/set.tmp"), nil)
  T.eq(sys.exists(dir .. "/set/lock"), nil)
end)

T.test("standard input, fields, several inputs and marks", function()
  local dir = T.folder()
  sys.write(dir .. "/a.jsonl", lines(9))
  sys.write(dir .. "/b.txt", "once\n<E>\nupon\n<E>\n")
  T.eq((run({ "-", "--format", "jsonl", "out=" .. dir .. "/x" }, dir .. "/a.jsonl")), 0)
  T.eq((run { dir .. "/a.jsonl", "out=" .. dir .. "/y" }), 0)
  T.eq(data.open(dir .. "/x").sha256, data.open(dir .. "/y").sha256)
  T.eq((run { dir .. "/a.jsonl", "--field", "body", "out=" .. dir .. "/z" }), 0)
  T.ok(data.open(dir .. "/z").tokens:numel() < data.open(dir .. "/y").tokens:numel())
  local list = tokenize.run { inputs = { dir .. "/b.txt", dir .. "/a.jsonl" }, tokenizer = TABLE, out = dir .. "/w", document_end = "<E>",
                              format = "text", quiet = true }
  T.eq(list.splits.train.documents, 3) -- a.jsonl as one text
  local by_id = tokenize.run { inputs = { dir .. "/b.txt" }, tokenizer = TABLE, out = dir .. "/v", document_end = "<E>", document_id = 5, quiet = true }
  T.eq(by_id.document_id, 5)
  -- what editors of other systems write: a mark of the order of bytes, lines that end in two characters
  sys.write(dir .. "/bom.jsonl", "\u{feff}" .. lines(9):gsub("\n", "\r\n"))
  T.eq((run { dir .. "/bom.jsonl", "out=" .. dir .. "/u" }), 0)
  T.eq(data.open(dir .. "/u").sha256, data.open(dir .. "/y").sha256)
  sys.write(dir .. "/bom.jsonl", "\u{feff}\r\n\u{feff}{}\n")
  local status, text = run { dir .. "/bom.jsonl", "out=" .. dir .. "/t" }
  T.ok(status == 1 and text:find "line 2, column 1", text)
  sys.write(dir .. "/crlf.txt", "once\r\n<E>\r\nupon\r\n<E>\r\n")
  sys.write(dir .. "/lf.jsonl", '{"text": "once\\r\\n"}\n{"text": "upon\\r\\n"}\n')
  for name, file in pairs { s = "crlf.txt", r = "lf.jsonl" } do
    tokenize.run { inputs = { dir .. "/" .. file }, tokenizer = TABLE, out = dir .. "/" .. name, document_id = 1, quiet = true,
                   document_end = file == "crlf.txt" and "<E>" or nil }
  end
  T.eq(data.open(dir .. "/s").sha256, data.open(dir .. "/r").sha256)
  T.eq(read(data.open(dir .. "/v"), 0, 1), { 5 })
end)

T.test("killed at any time, it leaves nothing that looks whole, and begins again", function()
  local dir = T.folder()
  sys.write(dir .. "/a.jsonl", lines(3000))
  local whole = tokenize.run { inputs = { dir .. "/a.jsonl" }, tokenizer = TABLE, out = dir .. "/want", shard_tokens = 3000, quiet = true }
  local words = { "tokenize", dir .. "/a.jsonl", "tokenizer=" .. TABLE, "out=" .. dir .. "/set", "shard_tokens=3000" }
  local left = 0
  for k = 1, 6 do
    local pid = tiny.start(words)
    sys.sleep(0.03 * k)
    sys.kill(pid, 9)
    local how = sys.wait(pid)
    if how == "exited" then break end
    left = left + (sys.exists(dir .. "/set.tmp") and 1 or 0)
    T.eq(sys.exists(dir .. "/set"), nil)
  end
  if not sys.exists(dir .. "/set") then T.eq((tiny.run(words)), 0) end
  T.eq(core.json.decode(sys.read(dir .. "/set/shards.json")), whole)
  T.eq(data.open(dir .. "/set").sha256, data.open(dir .. "/want").sha256)
  T.eq(sys.exists(dir .. "/set.tmp"), nil)
end)

T.test("what is refused leaves no folder", function()
  local dir = T.folder()
  local function refuses(words, pattern, status)
    local got, text = run(words)
    T.eq(got, status or 1, text)
    T.ok(text:find(pattern), ("%s in: %s"):format(pattern, text))
    T.eq(sys.exists(dir .. "/set"), nil)
    T.eq(sys.exists(dir .. "/set.tmp"), nil)
  end
  local out = "out=" .. dir .. "/set"
  sys.write(dir .. "/bad.jsonl", lines(20) .. '{"text": 5}\n')
  sys.write(dir .. "/good.jsonl", lines(20))
  sys.write(dir .. "/none.txt", " \n")
  refuses({ dir .. "/bad.jsonl", out }, "bad.jsonl: line 21: 'text': a string expected")
  refuses({ dir .. "/good.jsonl", dir .. "/missing.jsonl", out }, "missing.jsonl': no such file")
  refuses({ dir .. "/none.txt", out }, "no text in the input")
  refuses({ dir .. "/good.jsonl", out, "val=1" }, "val=1: a share from 0 up to 1")
  refuses({ dir .. "/good.jsonl", out, "shard_tokens=0" }, "shard_tokens=0: a whole number")
  refuses({ dir .. "/good.jsonl", out, "document_id=512" }, "document_id=512 is beyond the vocabulary of 512")
  refuses({ dir .. "/good.jsonl", out, "document_end=x" }, "no such token: the input is jsonl")
  refuses({ dir .. "/good.jsonl" }, "out= is needed", 2)
  refuses({ dir .. "/good.jsonl", out, "--format", "csv" }, "text or jsonl expected", 2)
  refuses({ dir .. "/good.jsonl", out, "size=3" }, "unknown key 'size'", 2)
  sys.mkdir(dir .. "/mine.tmp")
  sys.write(dir .. "/mine.tmp/notes", "x")
  local status, text = run { dir .. "/good.jsonl", "out=" .. dir .. "/mine" }
  T.eq(status, 1)
  T.ok(text:find "mine.tmp' holds something else %(notes%)", text)
  T.eq(sys.read(dir .. "/mine.tmp/notes"), "x")
  status, text = run { dir .. "/good.jsonl", "out=" .. dir .. "/mine.tmp" }
  T.ok(status == 1 and text:find "is there already", text)
  assert(os.execute(("ln -s nowhere '%s/link'"):format(dir)))
  for _, path in ipairs { dir .. "/link", "/" } do
    status, text = run { dir .. "/good.jsonl", "out=" .. path }
    T.ok(status == 1 and text:find "is there already", text)
  end
  T.eq(sys.exists(dir .. "/link.tmp"), nil)
end)

T.test("a limit of files' sizes is an error, and leaves no folder", function()
  local dir = T.folder()
  sys.write(dir .. "/a.jsonl", lines(3000))
  local pid = sys.spawn { "/bin/sh", "-c", [[ulimit -f 16; exec "$@"]], "sh", tiny.program, "tokenize", dir .. "/a.jsonl",
                          "tokenizer=" .. TABLE, "out=" .. dir .. "/set", stdout = dir .. "/said", stderr = dir .. "/said" }
  local how, status = sys.wait(pid)
  T.eq({ how, status }, { "exited", 1 })
  T.ok(sys.read(dir .. "/said"):find "File too large", sys.read(dir .. "/said"))
  T.eq(sys.exists(dir .. "/set.tmp"), nil)
end)
