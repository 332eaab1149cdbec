-- Values as the prompt prints them: text(value). Tensors with their range, attention as its formula, models as a
-- tree, tables as tables; what says itself what it is (__tostring) says it.
-- A change here makes no run stale.
local core = require "attnlab.core"
local names = require "attnlab.names"
local tables = require "attnlab.table"

local M = {}

local MOST_ENTRIES, MOST_DEPTH = 40, 4

local quoted = core.plain(function(s)
  local text = tables.clean(s)
  if #text > 4000 then text = text:sub(1, (utf8.offset(text, 0, 4000)) - 1) .. (" .. %d bytes in all"):format(#s) end
  return '"' .. text .. '"'
end)

local number = core.plain(function(v)
  return math.type(v) == "integer" and ("%d"):format(v) or ("%.14g"):format(v)
end)

-- ---- tensors ----------------------------------------------------------------------------------------

local RANGED = 1 << 24 -- numbers of a tensor that are looked at for its range

local function range(t)
  local n = t:numel()
  if n == 0 or n > RANGED then return "" end
  local least, most, sum, bad = math.huge, -math.huge, 0, 0
  core.no_grad(function()
    local wide <close> = t:detach():to "f64"
    for _, v in ipairs(wide:flat()) do
      if v - v == 0 then
        least, most, sum = math.min(least, v), math.max(most, v), sum + v
      else
        bad = bad + 1
      end
    end
  end)
  local text = bad < n and ("  %.4g to %.4g, mean %.4g"):format(least, most, sum / (n - bad)) or ""
  return text .. (bad > 0 and ("  %d of %d not finite"):format(bad, n) or "")
end

local function tensor(t)
  local text = tostring(t)
  local head, rest = text:match "^([^\n]*)(.*)$"
  if t:numel() <= 1 or text:find "freed" then return text end
  return head .. range(t) .. rest
end
tensor = core.plain(tensor)

-- ---- models and layers ------------------------------------------------------------------------------

local function count(n) return ("%s parameter%s"):format(tables.human(n), n == 1 and "" or "s") end

-- Parts of a module in lines; parts with one text that follow one another in one line.
local function tree(module, indent, depth, lines)
  local parts = {}
  for _, p in ipairs(module.members) do
    if p.module then
      local own = {}
      if depth > 1 then tree(p.module, indent .. "  ", depth - 1, own) end
      local what = p.module.class_name or "part"
      if what == "Attention" then what = what .. " " .. require("attnlab.config").text(p.module.spec) end
      parts[#parts + 1] = { key = p.key, text = ("%s, %s"):format(what, count(p.module:n_parameters())), own = own }
    end
  end
  local i = 1
  while i <= #parts do
    local last = i
    local body = table.concat(parts[i].own, "\n")
    while parts[last + 1] and parts[last + 1].text == parts[i].text and table.concat(parts[last + 1].own, "\n") == body do
      last = last + 1
    end
    local key = parts[i].key .. (last > i and " to " .. parts[last].key:match "[^.]*$" or "")
    lines[#lines + 1] = ("%s%s: %s%s"):format(indent, key, parts[i].text, last > i and " each" or "")
    table.move(parts[i].own, 1, #parts[i].own, #lines + 1, lines)
    i = last + 1
  end
end

-- A model that is no fork: forks say themselves what they are. What a stranger's __index does is not asked for.
local function is_model(v)
  return type(v) == "table" and type(rawget(v, "members")) == "table" and type(rawget(v, "config")) == "table"
    and v.state_bytes ~= nil and not rawget(v, "log")
end

local function model(m)
  local c = m.config
  local lines = { ("%s, %s, %d layer%s, width %d, %d heads, context %d, %s"):format(m.class_name, count(m:n_parameters()),
    c.layers, c.layers == 1 and "" or "s", c.width, c.heads, c.context, m.dtype) }
  tree(m, "  ", 2, lines)
  local t = c.context
  if not m.causal then
    lines[#lines + 1] = "  every token sees the whole text: no state, no next token"
    return table.concat(lines, "\n")
  end
  lines[#lines + 1] = ("  state of a sequence: %s after %d tokens, %s after 1"):format(tables.human(m:state_bytes(t), true), t,
    tables.human(m:state_bytes(1), true))
  return table.concat(lines, "\n")
end

-- An instance: its options that are not as they are without, and its formula.
local function attention(a)
  local text = a:text()
  local ok, formula = pcall(a.source, a, "formula")
  return ("attention %s%s%s"):format(a:family(), text ~= "" and ": " .. text or "", ok and "\n  " .. formula or "")
end

-- ---- functions and tables ---------------------------------------------------------------------------

-- The name under which lab has a value: "lab.model.load".
local function path_in(t, value, prefix, depth)
  for _, k in ipairs(names.keys(t)) do
    local v = rawget(t, k)
    if rawequal(v, value) then return prefix .. "." .. k end
  end
  if depth == 0 then return nil end
  for _, k in ipairs(names.keys(t)) do
    local v = rawget(t, k)
    local found = type(v) == "table" and path_in(v, value, prefix .. "." .. k, depth - 1)
    if found then return found end
  end
end

local function named(value)
  return path_in(require "attnlab", value, "lab", 1)
end

local function function_text(f)
  local name = named(f)
  if name then return ("function %s; ?%s says more"):format(name, name:match "[^.]*$") end
  local info = debug.getinfo(f, "S")
  if info.what == "C" then return "function" end
  return ("function of %s:%d"):format(names.shown(info.short_src), info.linedefined)
end

local show

local function key_text(k)
  return type(k) == "string" and k:find "^[%a_][%w_]*$" and k or "[" .. show(k, 1, {}) .. "]"
end

-- Records with the same few fields, all of them short, are a table with columns.
local function as_table(list)
  local columns, seen = {}, {}
  local n = rawlen(list)
  if n < 2 then return nil end
  for i = 1, n do
    local r = rawget(list, i)
    if type(r) ~= "table" or getmetatable(r) or #r > 0 or next(r) == nil then return nil end
    for k, v in pairs(r) do
      if type(k) ~= "string" or type(v) == "table" or type(v) == "userdata" or type(v) == "function" then return nil end
      if type(v) == "string" and (#v > 60 or v:find "\n") then return nil end
      if not seen[k] then seen[k], columns[#columns + 1] = true, { key = k, title = tables.clean(k, true), right = type(v) == "number" } end
    end
  end
  if #columns > 8 then return nil end
  table.sort(columns, function(a, b) return a.key < b.key end)
  local cells = {}
  for i = 1, math.min(n, MOST_ENTRIES) do
    cells[i] = {}
    for k, v in pairs(rawget(list, i)) do cells[i][k] = type(v) == "number" and ("%.6g"):format(v) or tostring(v) end
  end
  return tables.text(columns, cells) .. (n > MOST_ENTRIES and ("\n.. %d in all"):format(n) or "")
end
as_table = core.plain(as_table)

local function scalars(list)
  for i = 1, rawlen(list) do
    local kind = type(rawget(list, i))
    if kind ~= "number" and kind ~= "boolean" then return false end
  end
  return true
end

-- Short entries, as many to a line as there is room for.
local function flow(parts)
  local text = "{ " .. table.concat(parts, ", ") .. " }"
  return table.concat(tables.wrap(text, math.max(40, math.min(core.sys.width() - 1, 100))), "\n  ")
end

-- Its own entries: what metamethods would add is not asked for.
local function plain_table(t, depth, seen)
  if seen[t] then return "{..}" end
  if next(t) == nil then return "{}" end
  if depth > MOST_DEPTH then return "{..}" end
  seen[t] = true
  local columns = depth == 1 and as_table(t)
  if columns then return columns end
  local parts, keys, n, total = {}, {}, 0, rawlen(t)
  for k in next, t do
    if not (math.type(k) == "integer" and k >= 1 and k <= total) then keys[#keys + 1] = k end
  end
  table.sort(keys, function(a, b)
    if type(a) == type(b) and (type(a) == "string" or type(a) == "number") then return a < b end
    return tostring(a) < tostring(b)
  end)
  local function add(text)
    n = n + 1
    if n <= MOST_ENTRIES then parts[#parts + 1] = text end
  end
  for i = 1, total do
    if i <= MOST_ENTRIES then add(show(rawget(t, i), depth + 1, seen)) else n = n + 1 end
  end
  for _, k in ipairs(keys) do
    if n < MOST_ENTRIES then add(key_text(k) .. " = " .. show(rawget(t, k), depth + 1, seen)) else n = n + 1 end
  end
  if n > MOST_ENTRIES then parts[#parts + 1] = (".. %d in all"):format(n) end
  seen[t] = nil
  if #keys == 0 and scalars(t) then return flow(parts) end
  local one = "{ " .. table.concat(parts, ", ") .. " }"
  if #one <= 76 - 2 * depth and not one:find "\n" then return one end
  local indent = ("  "):rep(depth)
  return "{\n" .. indent .. table.concat(parts, ",\n" .. indent) .. "\n" .. ("  "):rep(depth - 1) .. "}"
end

local function own_text(v)
  local meta = getmetatable(v)
  return type(meta) == "table" and (meta.__tostring or meta.__name)
end

show = function(v, depth, seen)
  local kind = type(v)
  if kind == "string" then return quoted(v) end
  if kind == "number" then return number(v) end
  if kind == "function" then return function_text(v) end
  if core.is_tensor(v) then
    return depth == 1 and tensor(v) or (tostring(v):match "^[^\n]*")
  end
  if kind == "userdata" or kind == "table" then
    local own = own_text(v)
    if kind == "userdata" and type(own) == "string" and own == "attnlab.attention" then
      return attention(v)
    end
    if depth == 1 and is_model(v) then return model(v) end
    if type(own) == "function" then
      local ours = tostring(getmetatable(v).__name):find "^attnlab%." -- it may have colours of its own
      return ours and tostring(v) or tables.clean(tostring(v))
    end
    local name = named(v)
    if name then return ("%s; ?%s says more"):format(name, name:match "[^.]*$") end
    if type(own) == "string" then return tables.clean(own:gsub("^attnlab%.", ""), true) .. " (an object; . and Tab show what it has)" end
    if kind == "table" then return plain_table(v, depth, seen) end
  end
  return tables.clean(tostring(v))
end

function M.text(v)
  return show(v, 1, {})
end

return M
