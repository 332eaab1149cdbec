-- What a configuration says of its data, as one text: a name or path and, behind it, options: "corpus rows=packed",
-- "fineweb/train_*.bin valid=fineweb/val_*.bin tokenizer=gpt2". In Lua a table will do: data = { path = "corpus",
-- rows = "packed" }; on a command line data="corpus rows=packed", or data=corpus data.rows=packed. A byte of a value that
-- would end it is written as %20.
local names = require "attnlab.names"
local rows = require "attnlab.rows"

local M = {}

M.rows = {
  { name = "path", type = "text", default = "", doc = "name of a text in experiments/data, file, pattern of files (*), or a folder of attnlab tokenize" },
  { name = "rows", type = "word", default = "stream", choices = { "stream", "packed", "documents" },
    doc = "stream: windows that pass from document to document; packed: the same, but a document sees itself alone; "
      .. "documents: each begins a row of its own, the rest of which is masked" },
  { name = "valid", type = "text", default = "",
    doc = "files to validate on, or the share of the documents, by hash of their text (of shards: the last share of the tokens); "
      .. "0.1, where the folder has no part of its own" },
  { name = "format", type = "word", default = "auto", choices = { "auto", "llmc", "raw_u16", "text", "jsonl" },
    doc = "auto: by content; jsonl by a name that ends so; raw_u16, ids of 16 bits and nothing else, has to be said" },
  { name = "tokenizer", type = "text", default = "", doc = "file or folder of the tokenizer; a folder of attnlab tokenize has its own" },
  { name = "vocab", type = "integer", default = "0", min = 0, doc = "number of ids of shards without a tokenizer" },
  { name = "field", type = "text", default = "text", doc = "of each line of jsonl" },
  { name = "document_end", type = "text", default = "", doc = "what stands between two documents of a text file" },
  { name = "document_id", type = "integer", default = "-1", min = -1,
    doc = "id that documents begin with; -1: that of document_end, what the tokenizer puts before a text, or its end of text" },
}

local function fail(...) error("data: " .. string.format(...), 0) end

local function unescaped(text)
  return (text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

local function escaped(text)
  return (text:gsub("[%s%%%c]", function(byte) return ("%%%02x"):format(byte:byte()) end))
end

local function checked(name, value)
  local row = rows.find(M.rows, name)
  if not row then fail("%s", names.unknown("option", tostring(name), rows.names(M.rows))) end
  local ok, v = pcall(type(value) == "string" and rows.parse or rows.check, row, value, "data." .. name)
  if not ok then fail("%s", v) end
  return v
end

-- The options of a text as a table: path, and those that it names.
function M.parse(text)
  if type(text) == "table" then return M.parse(M.text(text)) end
  local spec, path = {}, text
  while true do
    local before, name, value = path:match "^(.*%S)%s+([%a_]+)=(%S*)$"
    if not (name and name ~= "path" and rows.find(M.rows, name)) then break end
    if spec[name] ~= nil then fail("%s is given twice in '%s'", name, text) end
    spec[name], path = checked(name, unescaped(value)), before
  end
  spec.path = path
  return spec
end

-- A table of options as the text that configurations hold.
function M.text(spec)
  if type(spec) == "string" then return spec end
  if type(spec) ~= "table" then fail("a name, a path or a table of options expected, got %s", type(spec)) end
  for k in pairs(spec) do
    if type(k) ~= "string" then fail("key %s: names of options expected", tostring(k)) end
  end
  if type(spec.path) ~= "string" or spec.path == "" then fail("option 'path' is missing") end
  local words = { spec.path }
  for _, name in ipairs(names.keys(spec)) do
    local v = checked(name, spec[name])
    local row = rows.find(M.rows, name)
    if name ~= "path" and v ~= rows.default(row) then words[#words + 1] = name .. "=" .. escaped(rows.show(v)) end
  end
  return table.concat(words, " ")
end

-- The text with one option set.
function M.with(text, name, value)
  local spec = M.parse(text)
  spec[name] = checked(name, value)
  return M.text(spec)
end

-- A table with every option, defaults filled in, of a text.
function M.whole(text)
  local spec = M.parse(text)
  for _, row in ipairs(M.rows) do
    if spec[row.name] == nil then spec[row.name] = rows.default(row) end
  end
  return spec
end

-- Names of the options.
function M.names() return rows.names(M.rows) end

-- Whether there is an option of that name.
function M.is_option(name) return rows.find(M.rows, name) ~= nil end

-- Whether a path is a pattern of files.
function M.is_pattern(path) return path:find "[*?%[]" ~= nil end

return M
