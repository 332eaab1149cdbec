-- Options declared as rows, in the shape in which the C core hands out its own:
--   { name=, type="word|number|...", default="text", choices={..}, min=, max=, above=, below=, doc= }
-- above, below: bounds that are no values themselves.
-- Types: bool integer number word list (of numbers) named (numbers by name) text table (of anything), or
-- several with "|". Checking, reading from the command line, defaults and help all come from the row.
local core = require "attnlab.core"
local names = require "attnlab.names"

local M = {}

function M.find(rows, name)
  for _, row in ipairs(rows) do
    if row.name == name then return row end
  end
end

function M.names(rows)
  local out = {}
  for i, row in ipairs(rows) do out[i] = row.name end
  return out
end

local function kind(row, k)
  return ("|" .. row.type .. "|"):find("|" .. k .. "|", 1, true) ~= nil
end

local function contains(list, value)
  for _, v in ipairs(list) do
    if v == value then return true end
  end
  return false
end

-- Whether two values are equal, tables by what they hold.
function M.equal(a, b)
  if type(a) ~= "table" or type(b) ~= "table" then return a == b end
  for k, v in pairs(a) do
    if not M.equal(v, b[k]) then return false end
  end
  for k in pairs(b) do
    if a[k] == nil then return false end
  end
  return true
end

-- What a row accepts, for errors and help: "integer >= 1", "one of: half interleaved none".
function M.expected(row)
  local parts = {}
  for k in row.type:gmatch("[^|]+") do
    if k == "word" and row.choices then
      parts[#parts + 1] = "one of: " .. table.concat(row.choices, " ")
    elseif k == "bool" then
      parts[#parts + 1] = "true or false"
    elseif k == "list" then
      parts[#parts + 1] = "list of numbers" .. (row.min and (" >= %g"):format(row.min) or "")
        .. (row.below and (", < %g"):format(row.below) or "")
    elseif k == "named" then
      parts[#parts + 1] = "numbers by name, as {t=1}"
    elseif k == "number" and row.above then
      parts[#parts + 1] = ("number > %g"):format(row.above)
    elseif (k == "integer" or k == "number") and row.min and row.max then
      parts[#parts + 1] = ("%s in %s..%s"):format(k, M.show(row.min), M.show(row.max))
    elseif (k == "integer" or k == "number") and row.min then
      parts[#parts + 1] = ("%s >= %g"):format(k, row.min)
    else
      parts[#parts + 1] = k
    end
  end
  return table.concat(parts, " or ")
end
M.expected = core.plain(M.expected)

function M.show(v)
  if type(v) == "table" then
    local out = {}
    for i, x in ipairs(v) do out[i] = M.show(x) end
    for _, k in ipairs(#v == 0 and names.keys(v) or {}) do
      out[#out + 1] = k .. "=" .. M.show(v[k])
    end
    return "{" .. table.concat(out, ",") .. "}"
  end
  if math.type(v) == "float" then
    local short = ("%.14g"):format(v)
    return tonumber(short) == v and short or ("%.17g"):format(v)
  end
  return tostring(v)
end
M.show = core.plain(M.show)

local function finite(v)
  return v == v and v ~= math.huge and v ~= -math.huge
end

local function in_range(row, v)
  return finite(v) and (not row.min or v >= row.min) and (not row.max or v <= row.max)
    and (not row.above or v > row.above) and (not row.below or v < row.below)
end

-- Integers beyond it are not each a number of the core.
local function in_double(v)
  return math.type(v) == "float" or v <= 1 << 53 and v >= -(1 << 53)
end

-- The value a row stores for `v` (integers made integers), or an error that names `path`.
function M.check(row, v, path)
  local t = type(v)
  if t == "boolean" and kind(row, "bool") then return v end
  if t == "number" and in_range(row, v) then
    if kind(row, "number") then return in_double(v) and v or v + 0.0 end
    if kind(row, "integer") and math.tointeger(v) then return math.tointeger(v) end
  end
  if t == "string" then
    if kind(row, "text") then return v end
    if kind(row, "word") and (not row.choices or contains(row.choices, v)) then return v end
    if kind(row, "word") and row.choices then
      error(("option '%s': %s"):format(path, names.unknown("word", v, row.choices)), 0)
    end
  end
  if t == "table" and kind(row, "table") then return v end
  if t == "table" and kind(row, "list") then
    local ok = true
    for i = 1, #v do ok = ok and type(v[i]) == "number" and in_range(row, v[i]) end
    for k in pairs(v) do ok = ok and math.type(k) == "integer" and k <= #v end
    if ok and (not row.length or #v == row.length) then return { table.unpack(v) } end
  end
  if t == "table" and kind(row, "named") then
    local out, ok = {}, true
    for k, x in pairs(v) do
      ok = ok and type(k) == "string" and type(x) == "number" and in_range(row, x)
      out[k] = x
    end
    if ok then return out end
  end
  error(("option '%s': %s expected, got %s"):format(path, M.expected(row),
    t == "string" and "'" .. v .. "'" or M.show(v)), 0)
end

-- {t=1,u=0.5} as a table, or nil.
local function parse_named(text)
  local out, body = {}, text:match "^{(.*)}$"
  for word in (body or ""):gmatch "[^,]+" do
    local name, x = word:match "^%s*([%a_][%w_]*)%s*=(.+)$"
    x = tonumber(x or "")
    if not x or not finite(x) or out[name] then return nil end
    out[name] = x
  end
  return next(out) and out
end

-- A scalar, list or numbers by name written as text: true, 3, 1e-4, {0,2}, 0.9,0.99, {t=1};
-- anything else stays a word.
function M.parse_any(text)
  if text == "true" then return true end
  if text == "false" then return false end
  local n = tonumber(text)
  if n and finite(n) then return n end
  local named = parse_named(text)
  if named then return named end
  local body = text:match("^{(.*)}$") or (text:find(",", 1, true) and text)
  if body then
    local list = {}
    for word in body:gmatch("[^,]+") do
      local x = tonumber(word)
      if not x then return text end
      list[#list + 1] = x
    end
    return list
  end
  return text
end
M.parse_any = core.plain(M.parse_any)

-- `text` as the row's kind of value, checked.
function M.parse(row, text, path)
  if kind(row, "text") then return M.check(row, text, path) end
  return M.check(row, M.parse_any(text), path)
end

function M.default(row)
  return M.parse(row, row.default, row.name)
end

-- Lines of help: name, what is accepted, default, meaning; fields of records below, indented.
function M.help(rows, indent)
  indent = indent or "  "
  local out = {}
  for _, row in ipairs(rows) do
    local default = row.default ~= "" and row.type ~= "record" and " [" .. row.default .. "]" or ""
    out[#out + 1] = ("%s%s: %s%s"):format(indent, row.name,
      row.fields and "record" or M.expected(row), default)
    if row.doc and row.doc ~= "" then out[#out + 1] = ("%s    %s"):format(indent, row.doc) end
    if row.fields then out[#out + 1] = M.help(row.fields, indent .. "    ") end
  end
  return table.concat(out, "\n")
end

return M
