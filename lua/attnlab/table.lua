-- Tables for people and for machines: aligned text, TSV and plain records of the same rows; text in lines.
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

-- The terminal's columns where stdout is one, or COLUMNS says how many there are: what goes into a file is not narrowed.
function M.terminal()
  return (core.sys.isatty(1) or os.getenv "COLUMNS") and core.sys.width() or nil
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

-- A text whose longer lines are broken at a width, each going on as far in as it began, behind its dash or its first
-- column; nil leaves it as it is.
function M.fit(text, width)
  if not width then return text end
  local lines = {}
  for line in (text .. "\n"):gmatch "([^\n]*)\n" do
    if M.width(line) <= width then
      lines[#lines + 1] = line
    else
      local own = line:match "^%s*%- " or line:match "^%s*%S.-%s%s+"
      if not own or M.width(own) > width // 3 then own = line:match "^%s*" end
      for i, part in ipairs(M.wrap(line:sub(#own + 1), math.max(20, width - M.width(own)))) do
        lines[#lines + 1] = (i == 1 and own or (" "):rep(M.width(own))) .. part
      end
    end
  end
  return table.concat(lines, "\n")
end

-- {{name, text}, ...} as lines, the texts in a column of their own that fits the terminal.
function M.pairs(list, width)
  width = width or M.columns()
  local widest, lines = 0, {}
  for _, x in ipairs(list) do widest = math.max(widest, M.width(x[1])) end
  for _, x in ipairs(list) do
    for i, part in ipairs(M.wrap(M.clean(x[2], true), math.max(20, width - widest - 4))) do
      lines[#lines + 1] = ("  %s  %s"):format(M.pad(i == 1 and x[1] or "", widest), part)
    end
  end
  return table.concat(lines, "\n")
end

-- The columns that have a cell, with their widths.
local function natural(columns, rows, cell_of)
  local shown = {}
  for _, c in ipairs(columns) do
    local s = { column = c, width = M.width(c.title), longest = M.width(c.title) }
    for _, r in ipairs(rows) do
      local cell = cell_of(r, c.key)
      s.width, s.used = math.max(s.width, M.width(cell)), s.used or cell ~= ""
      for word in (c.wrap and cell or ""):gmatch "%S+" do s.longest = math.max(s.longest, M.width(word)) end
    end
    if s.used then shown[#shown + 1] = s end
  end
  return shown
end

local NARROW = 24 -- cells of a column that wraps: a longer word is broken

-- Makes columns that wrap narrower, the widest first, until all fit. Whether they do.
local function narrow(shown, width)
  local total = 2 * (#shown - 1)
  for _, s in ipairs(shown) do
    s.now = s.width
    total = total + s.now
  end
  while total > width do
    local widest
    for _, s in ipairs(shown) do
      local least = math.max(M.width(s.column.title), math.min(s.longest, NARROW))
      if s.column.wrap and s.now > least and not (widest and widest.now >= s.now) then widest = s end
    end
    if not widest then return false end
    widest.now, total = widest.now - 1, total - 1
  end
  return true
end

-- Takes out the column that goes first: that of the least `drop`. Its title, or nil.
local function drop(shown)
  local first
  for i, s in ipairs(shown) do
    if s.column.drop and not (first and shown[first].column.drop <= s.column.drop) then first = i end
  end
  return first and table.remove(shown, first).column.title
end

-- columns = {{key, title, right = bool, wrap = bool, drop = number}, ...}; rows = {{[key] = text}, ...}. Columns in which
-- every cell is empty are left out. In a width cells of columns with `wrap` go over several lines, and where that is
-- not enough columns with `drop` are left out, the least number first. Returns lines joined by newlines, without
-- trailing blanks, and the titles of what was left out.
function M.text(columns, rows, width)
  local function cell_of(r, key) return M.cut(M.clean(r[key] or "", true)) end
  local shown, left_out = natural(columns, rows, cell_of), {}
  while not narrow(shown, width or math.huge) do
    local title = drop(shown)
    if not title then break end
    left_out[#left_out + 1] = title
  end
  local lines = {}
  local function line(get)
    local parts, most = {}, 1
    for i, s in ipairs(shown) do
      local cell = get(s)
      parts[i] = M.width(cell) > s.now and M.wrap(cell, s.now) or { cell }
      most = math.max(most, #parts[i])
    end
    for k = 1, most do
      local cells = {}
      for i, s in ipairs(shown) do cells[i] = M.pad(parts[i][k] or "", s.now, s.column.right) end
      local text = table.concat(cells, "  ")
      lines[#lines + 1] = text:sub(1, text:find "%S *$" or 0)
    end
  end
  line(function(s) return s.column.title end)
  line(function(s) return ("-"):rep(s.now) end)
  for _, r in ipairs(rows) do
    line(function(s) return cell_of(r, s.column.key) end)
  end
  return table.concat(lines, "\n"), left_out
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
