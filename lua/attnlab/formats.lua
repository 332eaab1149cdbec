-- What files are, by their first bytes: shards, packed texts, and what is refused here with the line of Python that
-- converts it.
local names = require "attnlab.names"

local M = {}

local IDS = "numpy.asarray(a).ravel(); assert 0<=a.min() and a.max()<65536; a.astype('<u2').tofile(sys.argv[2])\" FILE FILE.ids"
local RAW = "\nFILE.ids is read with format=raw_u16"

-- kind, what it is called, and the line that makes of FILE what is read here.
M.FOREIGN = {
  parquet = { "a Parquet file", [=[python3 -c "import json,sys,pyarrow.parquet as p; [print(json.dumps({'text':t})) for b in p.ParquetFile(sys.argv[1]).iter_batches(columns=['text']) for t in b['text'].to_pylist()]" FILE > FILE.jsonl]=] },
  arrow = { "an Arrow file", [=[python3 -c "import json,sys,pyarrow as a; [print(json.dumps({'text':t})) for t in a.ipc.open_file(sys.argv[1]).read_all()['text'].to_pylist()]" FILE > FILE.jsonl]=] },
  arrow_stream = { "an Arrow stream", [=[python3 -c "import json,sys,pyarrow as a; [print(json.dumps({'text':t})) for b in a.ipc.open_stream(sys.argv[1]) for t in b['text'].to_pylist()]" FILE > FILE.jsonl]=] },
  npy = { "a NumPy array", [=[python3 -c "import numpy,sys; a=numpy.load(sys.argv[1]); a=]=] .. IDS .. RAW },
  npz = { "a NumPy archive", [=[python3 -c "import numpy,sys; z=numpy.load(sys.argv[1]); a=z[z.files[0]]; a=]=] .. IDS .. RAW },
  pt = { "a file of PyTorch's", [=[python3 -c "import numpy,sys,torch; a=torch.load(sys.argv[1],weights_only=True).numpy(); a=]=] .. IDS .. RAW },
  pickle = { "a Python pickle", [=[python3 -c "import numpy,pickle,sys; a=pickle.load(open(sys.argv[1],'rb')); a=]=] .. IDS
    .. RAW .. ". A pickle runs what it likes: open only one that you made." },
  gguf = { "a GGUF model", [=[python3 -c "import os,sys,transformers as t; d,f=os.path.split(os.path.abspath(sys.argv[1])); t.AutoModelForCausalLM.from_pretrained(d,gguf_file=f).save_pretrained(sys.argv[2])" FILE FOLDER]=] },
}

-- PyTorch's before 1.6: a pickled number, that every file begins with.
local OLD_TORCH = "\x80\2\x8a\nl\xfc\x9c\x46\xf9"

local function is_pickle(head, last)
  if head:find "^\x80[\4\5]\x95" then return true end -- a frame follows
  return head:find "^\x80[\2-\5][%(%]}c\x8a\x8cX]" ~= nil and last:sub(-1) == "."
end

-- "llmc", "gzip", "zstd", a name of FOREIGN, or nil, of the first bytes and the last four. A text that begins with one of
-- their words is a text.
function M.of(head, last)
  local first = #head >= 4 and string.unpack("<i4", head) or 0
  if first == 20240520 or first == 20240801 then return "llmc" end
  if head:find "^\x1f\x8b" then return "gzip" end
  if head:find "^\x28\xb5\x2f\xfd" then return "zstd" end
  if head:find "^PAR1" and last == "PAR1" then return "parquet" end
  if head:find "^ARROW1%z%z" then return "arrow" end
  local length = first == -1 and #head >= 8 and string.unpack("<i4", head, 5) or 0 -- of a message, in whole eights
  if length > 0 and length < 1 << 24 and length % 8 == 0 then return "arrow_stream" end
  if head:find "^\x93NUMPY" then return "npy" end
  if head:find "^PK\3\4" then return head:find("data.pkl", 1, true) and "pt" or "npz" end
  if head:find "^GGUF[\1-\9]%z%z%z" then return "gguf" end
  if head:sub(1, #OLD_TORCH) == OLD_TORCH then return "pt" end
  if is_pickle(head, last) then return "pickle" end
end

-- How the texts of a file that is neither shards nor foreign are read, by its name: "jsonl" or "text".
function M.of_texts(path)
  return path:gsub("%.gz$", ""):gsub("%.zst$", ""):find "%.jsonl$" and "jsonl" or "text"
end

-- What a file is, as M.of; what is foreign is an error with the line that converts it. raw: somebody said that it is ids
-- alone, so that only what cannot be these by chance counts.
function M.check(path, raw)
  local f <close> = assert(io.open(names.plain(path), "rb"))
  local head = f:read(128) or ""
  local last = f:seek("end", -math.min(4, f:seek "end")) and f:read(4) or ""
  local kind = M.of(head, last)
  local foreign = M.FOREIGN[kind]
  if foreign and not (raw and kind == "pickle" and not head:find "^\x80[\4\5]\x95") and not (raw and kind == "arrow_stream") then
    error(("data: '%s' is %s, which is not read here. This makes of it what is:\n  %s"):format(names.shown(path), foreign[1],
      (foreign[2]:gsub("FILE", function() return names.shown(names.word(path)) end))), 0)
  end
  return kind
end

return M
