-- Names of options and things: unknown ones are errors that say which known name is nearest. Names of files: as
-- words of other programs, inside a folder, for people. Errors for people.
-- A change here makes no run stale.
local tables = require "attnlab.table"

local M = {}

-- The string keys of a table, sorted: whatever depends on an order goes through this.
function M.keys(t)
  local keys = {}
  for k in pairs(t) do
    if type(k) == "string" then keys[#keys + 1] = k end
  end
  table.sort(keys)
  return keys
end

-- A path as a word of other programs, which give signs at its beginning a meaning: gnuplot runs what stands
-- behind "|", a compiler reads options from "@file" and "-x".
function M.path(path)
  return path:find "^%.?/" and path or "./" .. path
end

-- A path below a folder whose contents may come from anybody: behind the border "//" no link is followed (al_at of
-- core/attnlab.h). What a root of runs holds is named by this, wherever it is opened.
function M.inside(folder, path)
  return folder .. "//" .. path
end

-- A path without the border, for other programs.
function M.plain(path)
  return (path:gsub("//+", "/"))
end

-- A text as a word of a shell: in quotes where it needs them.
function M.word(text)
  return text:find "^[%w_./:=,+@%%-]+$" and text or "'" .. text:gsub("'", "'\\''") .. "'"
end

-- An error without the line of ours that asked for what failed. A fault of Lua code keeps its place.
function M.reason(e)
  local rest = e:match "^[^\n]-/lua/attnlab/[%w_/]+%.lua:%d+: (.*)$"
  return rest and not rest:find "^attempt to" and not rest:find "^bad argument" and rest or e
end

-- f(...) behind true; a failure is told on stderr as `what`, and is false and this text. An interrupt goes on.
function M.attempt(what, f, ...)
  local out = table.pack(pcall(f, ...))
  if out[1] then return table.unpack(out, 1, out.n) end
  local why = tostring(out[2])
  if why:find "interrupted$" then error(why, 0) end
  local text = what .. ": " .. tables.clean(M.reason(why))
  io.stdout:flush()
  io.stderr:write(text, "\n")
  return false, text
end

-- For messages, tables and files: without the border, and UTF-8 that no name in it can keep it from being.
function M.shown(path)
  return tables.clean(M.plain(path), true)
end

-- Edits (insert, delete, replace, swap of neighbours) from a to b.
local function distance(a, b)
  local before, last, row = {}, {}, {}
  for j = 0, #b do last[j] = j end
  for i = 1, #a do
    row[0] = i
    for j = 1, #b do
      local same = a:byte(i) == b:byte(j)
      row[j] = math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (same and 0 or 1))
      if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        row[j] = math.min(row[j], before[j - 2] + 1)
      end
    end
    before, last, row = last, row, before
  end
  return last[#b]
end

-- The entry of `list` nearest to `word`, or nil when none is near: at most a third of its letters off,
-- or one is the beginning of the other.
function M.nearest(word, list)
  local best, score
  for _, name in ipairs(list) do
    -- a word may come from anybody: one whose length alone is too far off is not compared
    local d = math.abs(#word - #name) <= #name and distance(word:lower(), name:lower()) or math.huge
    local prefix = #word >= 3 and (name:sub(1, #word) == word or word:sub(1, #name) == name)
    local near = prefix or d <= math.max(1, #name // 3)
    if prefix then d = math.min(d, 1.5) end -- one letter off is nearer still
    if near and (not score or d < score) then best, score = name, d end
  end
  return best
end

-- The options that a function was given, {} for none. known: list of names beside which there are none (nil: the
-- caller looks itself).
function M.options(what, opts, known)
  if opts ~= nil and type(opts) ~= "table" then
    error(("%s: a table of options expected, got %s"):format(what, type(opts)), 0)
  end
  for k in pairs(known and opts or {}) do
    if not M.find(known, k) then error(what .. ": " .. M.unknown("option", tostring(k), known), 0) end
  end
  return opts or {}
end

-- Position of `word` in the list, or nil.
function M.find(list, word)
  for i, name in ipairs(list) do
    if name == word then return i end
  end
end

local MOST_LISTED = 60

-- "unknown KIND 'word' (did you mean 'near'?)" or with the whole list when nothing is near and it can be read.
function M.unknown(kind, word, list)
  local near = M.nearest(tostring(word), list)
  if near then return ("unknown %s '%s' (did you mean '%s'?)"):format(kind, word, near) end
  if #list > MOST_LISTED then return ("unknown %s '%s'"):format(kind, word) end
  if #list == 0 then return ("unknown %s '%s' (there is none)"):format(kind, word) end
  return ("unknown %s '%s' (known: %s)"):format(kind, word, table.concat(list, ", "))
end

return M
