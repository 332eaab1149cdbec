-- Tables for people and for machines: aligned text, TSV and plain records of the same rows; text in lines.
-- A change here makes no run stale.
-- A change here makes no run stale.
local core = require "attnlab.core"

local M = {}

-- Columns in display cells; invalid UTF-8 counts bytes.
function M.width(s)
  return utf8.len(s) or #s
end

-- The text with blanks behind it, or before it (right), up to a width.
function M.pad(s, width, right)
  local fill = (" "):rep(width - M.width(s))
  return right and fill .. s or s .. fill
end

local function hex(c) return (c:gsub(".", function(b) return ("\\x%02x"):format(b:byte()) end)) end

-- Text for a terminal: control characters, which would steer it, and what is no UTF-8 as \xNN. Newlines and tabs
-- stay where `whole` is not set.
function M.clean(s, whole)
  local parts, from = {}, 1
  repeat
    local fine, at = utf8.len(s, from)
    parts[#parts + 1] = s:sub(from, fine and -1 or at - 1)
    if not fine then parts[#parts + 1], from = hex(s:sub(at, at)), at + 1 end
  until fine
  s = table.concat(parts):gsub(whole and "%c" or "[^%C\n\t]", hex)
  return (s:gsub("\xc2[\x80-\x9f]", hex)) -- the other control characters, as UTF-8 has them
end

local MOST = 400 -- characters of a cell or a reason: what is longer hides the others

-- A text as far as a table shows it.
function M.cut(s)
  return M.width(s) <= MOST and s or s:sub(1, (utf8.len(s) and utf8.offset(s, MOST) or MOST) - 1) .. "..."
end

-- 1234567 -> "1.23 M", for counts; bytes = true uses KiB and MiB.
function M.human(n, bytes)
  if not n then return "" end
  local base, units = 1000, { "", " k", " M", " G", " T" }
  if bytes then base, units = 1024, { " B", " KiB", " MiB", " GiB", " TiB" } end
  local i = 1
  while math.abs(n) >= base and i < #units do n, i = n / base, i + 1 end
  if i == 1 then return ("%.0f%s"):format(n, units[1]) end
  return (math.abs(n) < 10 and "%.2f%s" or math.abs(n) < 100 and "%.1f%s" or "%.0f%s"):format(n, units[i])
end

-- The columns that a text may take: the terminal's, 80 where there is none.
function M.columns()
  return core.sys.width() or 80
end

-- A text as lines of at most `width` cells, broken at blanks where there are some, else anywhere.
function M.wrap(s, width)
  local lines, line = {}, nil
  for word in s:gmatch "%S+" do
    if line and M.width(line) + 1 + M.width(word) <= width then
      line = line .. " " .. word
    else
      lines[#lines + 1], line = line, word
    end
    while M.width(line) > width do
      local at = utf8.len(line) and utf8.offset(line, width + 1) or width + 1
      lines[#lines + 1], line = line:sub(1, at - 1), line:sub(at)
    end
  end
  lines[#lines + 1] = line or ""
  return lines
end

-- {{name, text}, ...} as lines, the texts in a column of their own that fits the terminal.
function M.pairs(list)
  local widest, lines = 0, {}
  for _, x in ipairs(list) do widest = math.max(widest, M.width(x[1])) end
  for _, x in ipairs(list) do
    for i, part in ipairs(M.wrap(M.clean(x[2], true), math.max(20, M.columns() - widest - 4))) do
      lines[#lines + 1] = ("  %s  %s"):format(M.pad(i == 1 and x[1] or "", widest), part)
    end
  end
  return table.concat(lines, "\n")
end

-- columns = {{key, title, right = bool}, ...}; rows = {{[key] = text}, ...}. Columns in which every
-- cell is empty are left out. Returns lines joined by newlines, without trailing blanks.
function M.text(columns, rows)
  local shown = {}
  local function cell_of(r, key) return M.cut(M.clean(r[key] or "", true)) end
  for _, c in ipairs(columns) do
    local width, used = M.width(c.title), false
    for _, r in ipairs(rows) do
      local cell = cell_of(r, c.key)
      width, used = math.max(width, M.width(cell)), used or cell ~= ""
    end
    if used then shown[#shown + 1] = { column = c, width = width } end
  end
  local lines = {}
  local function line(get)
    local cells = {}
    for i, s in ipairs(shown) do cells[i] = M.pad(get(s), s.width, s.column.right) end
    local text = table.concat(cells, "  ")
    lines[#lines + 1] = text:sub(1, text:find "%S *$" or 0)
  end
  line(function(s) return s.column.title end)
  line(function(s) return ("-"):rep(s.width) end)
  for _, r in ipairs(rows) do
    line(function(s) return cell_of(r, s.column.key) end)
  end
  return table.concat(lines, "\n")
end

-- Tab-separated values with a header line; nil is an empty cell, numbers keep all digits.
function M.tsv(keys, records)
  local lines = { table.concat(keys, "\t") }
  for _, r in ipairs(records) do
    local cells = {}
    for i, k in ipairs(keys) do
      local v = r[k]
      if math.type(v) == "float" then v = ("%.17g"):format(v) end
      cells[i] = v == nil and "" or (tostring(v):gsub("[\t\r\n]", " "))
    end
    lines[#lines + 1] = table.concat(cells, "\t")
  end
  return table.concat(lines, "\n") .. "\n"
end
M.tsv = core.plain(M.tsv)

return M
