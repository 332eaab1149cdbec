-- Completion at the prompt: names, fields and methods, what stands in set{..} and its like, presets, files.
-- complete(env)(line, cursor) -> the text that Tab puts in, and the choices as text where there are several.
-- A change here makes no run stale.
local core = require "attnlab.core"
local comments = require "attnlab.comments"
local chunk = require "attnlab.prompt.chunk"
local config = require "attnlab.config"
local help = require "attnlab.help"
local names = require "attnlab.names"
local nn_attention = require "attnlab.nn.attention"
local rows = require "attnlab.rows"
local session_env = require "attnlab.prompt.env"
local tables = require "attnlab.table"

local KEYWORDS = { "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "if", "in", "local", "nil", "not",
                   "or", "repeat", "return", "then", "true", "until", "while" }

-- ---- options in braces ------------------------------------------------------------------------------

local function joined(...)
  local out = {}
  for _, list in ipairs { ... } do table.move(list, 1, #list, #out + 1, out) end
  return out
end

local function preset_row()
  local row = { name = "preset", type = "word", choices = {} }
  for i, p in ipairs(core.attn.list()) do row.choices[i] = p.name end
  return row
end

local function attention_rows() return joined({ preset_row() }, core.attn.options "", nn_attention.rows) end

-- Rows of the options that a function takes, by the last word of its name.
local OPTIONS = {
  set = attention_rows, new = function(path)
    return path:find "model" and joined(config.rows.model, { { name = "attention", type = "word", choices = preset_row().choices } })
      or attention_rows()
  end,
  sweep = function()
    return joined({ { name = "over", type = "word", choices = { "head", "layer" } }, { name = "calibrate", type = "bool" } },
      core.attn.options "")
  end,
  train = function() return config.rows.train end, tune = function() return config.rows.train end,
}

-- The rows that hold where the cursor stands: `open` are the braces around it, each with the words before it.
local function rows_at(open)
  local found
  for _, before in ipairs(open) do
    local path = before:match "([%w_.:]+)%s*%(?%s*$" or before:match "([%w_.:]+)%s*%([^(){}]*,%s*$"
    local options = path and OPTIONS[path:match "[%w_]*$"]
    local nested = before:match "([%w_]+)%s*=%s*$"
    local row = found and nested and rows.find(found, nested)
    if options then found = options(path) elseif row and row.fields then found = row.fields end
  end
  return found
end

-- The texts before each brace that is open at the end of `text`, and the quote that is.
local function braces(text)
  local open, last, quote = {}, 0, nil
  chunk.tokens(text, function(word, a, b)
    if word == "{" then
      open[#open + 1] = text:sub(1, a - 1)
    elseif word == "}" then
      open[#open] = nil
    elseif word == "string" then
      local sign = text:sub(a, a)
      if b > #text or text:sub(b, b) ~= sign or a == b then quote = a end
    end
    last = b
  end)
  return open, quote
end

local function values_of(row)
  if row.type:find "bool" then return joined({ "true", "false" }, row.choices or {}) end
  if row.fields and row.fields[1] then return values_of(row.fields[1]) end
  return row.choices or {}
end

-- ---- files ------------------------------------------------------------------------------------------

local function files(prefix)
  local folder, name = prefix:match "^(.*/)([^/]*)$"
  local ok, list = pcall(core.sys.list, folder or ".")
  local out = {}
  for _, file in ipairs(ok and list or {}) do
    local path = (folder or "") .. file
    if file:sub(1, #(name or prefix)) == (name or prefix) and (file:sub(1, 1) ~= "." or prefix:find "%.[^/]*$") then
      local seen, kind = pcall(core.sys.exists, path)
      out[#out + 1] = path .. (seen and kind == "dir" and "/" or "")
    end
  end
  return out
end

-- ---- names ------------------------------------------------------------------------------------------

local internal -- names of methods that are for our own modules

local function is_internal(name)
  if not internal then
    internal = { class = true, create = true, new = true }
    for _, object in ipairs(help.OBJECTS) do
      for _, f in ipairs(comments.of_module(object[3]).list) do internal[f.name] = internal[f.name] or comments.internal(f) end
    end
  end
  return internal[name]
end

-- methods: functions alone, as what follows ":".
local function fields_of(v, methods, out)
  for _ = 1, 4 do
    if type(v) == "table" then
      for k, x in next, v do
        if type(k) == "string" and k:find "^[%a_][%w_]*$" and not k:find "^__"
          and (not methods or type(x) == "function" and not is_internal(k)) then
          out[k] = true
        end
      end
    end
    local meta = type(v) ~= "string" and getmetatable(v)
    v = type(meta) == "table" and meta.__index
    if type(v) ~= "table" then break end
  end
end

-- Parts of a layer and of a head, which are made when they are asked for.
local HANDLE = { "set", "head", "patch" }

local OURS = "^@.*/lua/attnlab/"

-- v[key] where nothing of a user's is called for it: tables and what stands behind them, and functions of our own.
local function entry(v, key, depth)
  if depth == 0 then return nil end
  local x = type(v) == "table" and rawget(v, key) or nil
  if x ~= nil then return x end
  local meta = debug.getmetatable(v)
  local index = type(meta) == "table" and rawget(meta, "__index")
  if type(index) == "table" then return entry(index, key, depth - 1) end
  if type(index) ~= "function" then return nil end
  local info = debug.getinfo(index, "S")
  if info.what ~= "C" and not info.source:find(OURS) then return nil end
  local ok, found = pcall(index, v, key)
  return ok and found or nil
end

-- The value that a chain of names and constant indices stands for: nothing is called.
local function value_of(env, path)
  local v = env
  local i = 1
  while i <= #path do
    local name, after = path:match("^%.?([%a_][%w_]*)()", i)
    local number, behind = path:match("^%[%s*(%d+)%s*%]()", i)
    local text, beyond = path:match("^%[%s*[\"']([^\"']*)[\"']%s*%]()", i)
    local key = name or math.tointeger(tonumber(number)) or text
    if key == nil then return nil end
    local x = entry(v, key, 8)
    if x == nil then return nil end
    v, i = x, after or behind or beyond
  end
  return v
end

local function field_choices(env, path, sign)
  local v = value_of(env, path)
  local out = {}
  if v == nil then return {} end
  fields_of(v, sign == ":", out)
  local meta = getmetatable(v)
  if type(meta) == "table" and meta.__name == "attnlab.part" then
    for _, k in ipairs(HANDLE) do out[k] = true end
  end
  return names.keys(out)
end

-- ---- the choices ------------------------------------------------------------------------------------

-- What may follow, and the part of it that is written already.
local function choices(env, text)
  local topic = text:match "^%s*%?%s*([%w_./]*)$"
  if topic then return help.topics(), topic end
  local word = text:match "^%s*:(%a*)$"
  if word then return require("attnlab.prompt.commands").names(), word end
  local open, quote = braces(text)
  local inside = rows_at(open)
  if quote then
    local written = text:sub(quote + 1)
    local key = text:sub(1, quote - 1):match "([%w_]+)%s*=%s*$"
    local row = key and inside and rows.find(inside, key)
    if row then return values_of(row), written end
    return files(written), written
  end
  if inside then
    local key, value = text:match "([%a_][%w_]*)%s*=%s*([%w_]*)$"
    local row = key and rows.find(inside, key)
    if row then
      local list = {}
      for i, v in ipairs(values_of(row)) do list[i] = (v == "true" or v == "false") and v or '"' .. v .. '"' end
      return list, value
    end
    local name = text:match "[{,]%s*([%a_]*[%w_]*)$"
    if name then
      local list = {}
      for i, r in ipairs(inside) do list[i] = r.name .. "=" end
      return list, name
    end
  end
  local path, sign, name = text:match "([%a_][%w_.%[%]\"'*%s]*)([.:])([%w_]*)$"
  while path and path:find "%s" and not path:find "^[%w_.]*%[[^%]]*$" do -- the chain alone
    local rest = path:match "%s+([%a_].*)$"
    if not rest then break end
    path = rest
  end
  if path then return field_choices(env, path, sign), name end
  name = text:match "([%a_][%w_]*)$" or ""
  if name == "" and not text:find "[%s({,=]$" and text ~= "" then return {}, "" end
  return joined(session_env.names(env), KEYWORDS), name
end

local function columns(list, width)
  local cell = 0
  for _, v in ipairs(list) do cell = math.max(cell, tables.width(v) + 2) end
  local per = math.max(1, width // cell)
  local high = (#list + per - 1) // per
  local lines = {}
  for r = 1, high do
    local line = {}
    for c = r, #list, high do line[#line + 1] = tables.pad(list[c], cell) end
    lines[r] = (table.concat(line):gsub("%s+$", ""))
  end
  return table.concat(lines, "\n")
end

local MOST = 200

return function(env)
  return function(line, cursor)
    local all, written = choices(env, line:sub(1, cursor))
    local list, seen = {}, {}
    for _, v in ipairs(all) do
      if v:sub(1, #written) == written and not seen[v] and not v:find "%c" then seen[v], list[#list + 1] = true, v end
    end
    if #list == 0 then return "" end
    table.sort(list)
    local common = list[1]
    for _, v in ipairs(list) do
      while v:sub(1, #common) ~= common do common = common:sub(1, -2) end
    end
    local insert = common:sub(#written + 1)
    if #list == 1 or insert ~= "" then return insert end
    local shown = table.move(list, 1, math.min(#list, MOST), 1, {})
    return "", columns(shown, core.sys.width() - 1) .. (#list > MOST and ("\n.. %d in all"):format(#list) or "")
  end
end
