-- Pages of help: lists of { "title", text }, { "text", lines of a comment }, { "entry", name, text } and { "block", text that is
-- set already }, which become text for a terminal or markdown.
-- A change here makes no run stale.
local tables = require "attnlab.table"

local M = {}

-- Comment lines for a width: prose flows; lines that are set in keep their place where they fit, else what stands
-- behind a call in a column of its own goes below it.
local function flow(lines, width, indent)
  local out, prose, at = {}, {}, 1
  local function put(text, by)
    for _, line in ipairs(tables.wrap(text, width - by)) do out[#out + 1] = (" "):rep(by) .. line end
  end
  local function flush()
    if #prose > 0 then put(table.concat(prose, " "), indent) end
    prose = {}
  end
  while at <= #lines do
    local line = lines[at]
    local own = #line:match "^%s*"
    if line == "" then
      flush()
      out[#out + 1] = ""
      at = at + 1
    elseif own == 0 then
      prose[#prose + 1] = line
      at = at + 1
    else
      flush()
      local last, fits = at, tables.width(line) + indent <= width
      while lines[last + 1] and #lines[last + 1]:match "^%s*" > own + 3 do
        last = last + 1
        fits = fits and tables.width(lines[last]) + indent <= width
      end
      local call, text = line:match "^%s+(%S.-)%s%s+(%S.*)$"
      if fits then
        for i = at, last do out[#out + 1] = (" "):rep(indent) .. lines[i] end
      else
        put(call or line, indent + own)
        local rest = { text or "", table.unpack(lines, at + 1, last) }
        if text or last > at then put(table.concat(rest, " "), indent + own + 4) end
      end
      at = last + 1
    end
  end
  flush()
  return out
end

local RENDER = {
  title = function(out, text) out[#out + 1] = text end,
  text = function(out, lines, width)
    for _, line in ipairs(flow(lines, width, 2)) do out[#out + 1] = line end
  end,
  entry = function(out, name, width, text)
    out[#out + 1] = "  " .. name
    for _, line in ipairs(text ~= "" and tables.wrap(text, width - 6) or {}) do out[#out + 1] = "      " .. line end
  end,
  block = function(out, text, width)
    for line in text:gmatch "[^\n]*" do
      local own = line:match "^%s*"
      for _, part in ipairs(tables.width(line) > width and tables.wrap(line, width - #own) or {}) do
        out[#out + 1] = own .. part
      end
      if tables.width(line) <= width then out[#out + 1] = line end
    end
  end,
}

-- As text for the terminal.
function M.plain(page)
  local out, width = {}, math.min(tables.columns(), 100)
  for _, x in ipairs(page) do RENDER[x[1]](out, x[2], width, x[3]) end
  return table.concat(out, "\n")
end

-- Text in which no sign means anything to markdown.
local function escaped(text)
  return (text:gsub("[*_<>|`%[%]\\#]", "\\%0"))
end

local function prose(lines)
  local out, code = {}, false
  for _, line in ipairs(lines) do
    local is_code = line:find "^%s" ~= nil
    if is_code ~= code then out[#out + 1] = is_code and "```text" or "```" end
    out[#out + 1], code = is_code and line or escaped(line), is_code
  end
  if code then out[#out + 1] = "```" end
  return table.concat(out, "\n")
end

local MARKDOWN = {
  title = function(text) return "\n### " .. escaped(text) .. "\n" end,
  text = function(lines) return prose(lines) .. "\n" end,
  entry = function(name, text) return ("- `%s`%s"):format(name, text ~= "" and ": " .. escaped(text) or "") end,
  block = function(text) return "\n```text\n" .. text .. "\n```\n" end,
}

-- As markdown.
function M.markdown(page)
  local out = {}
  for i, x in ipairs(page) do out[i] = MARKDOWN[x[1]](x[2], x[3]) end
  return table.concat(out, "\n")
end

return M
