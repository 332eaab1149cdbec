-- What is typed at the prompt, as Lua code: compile(text, env, name) -> what to run. Lines are gathered until they are
-- whole; an expression gives its values, one with a closing ";" does not show them; a `local` outside of any block is
-- the session's, so that later lines see it.
-- A change here makes no run stale.
local M = {}

local OPENS = { ["function"] = true, ["do"] = true, ["then"] = true, ["repeat"] = true }
local CLOSES = { ["end"] = true, ["until"] = true, ["elseif"] = true, ["else"] = true }

-- The place behind a long bracket that begins at i, or nil; and what would close it, where nothing does.
local function long(text, i)
  local level = text:match("^%[(=*)%[", i)
  if not level then return nil end
  local close = "]" .. level .. "]"
  local _, stop = text:find(close, i, true)
  return (stop or #text) + 1, not stop and close or nil
end

-- The same of a string in quotes, which the end of a line ends, but behind a backslash.
local function short(text, i)
  local quote = text:sub(i, i)
  while true do
    i = text:find("[\\\n" .. quote .. "]", i + 1)
    if not i then return #text + 2 end
    if text:sub(i, i) ~= "\\" then return i + 1 end
    local z = text:match("^z%s*()", i + 1) -- blanks behind \z, line ends among them, are no part of it
    if i == #text or z and z > #text then return #text + 2, quote end
    i = (z or i + 2) - 1
  end
end

-- Calls f(word, from, to) for each name, keyword and sign; strings and comments are passed over. Returns what would close
-- the one in which the text ends, where that goes on in the next line.
function M.tokens(text, f)
  local i, close = 1, nil
  while true do
    i = text:find("%S", i)
    if not i then return close end
    local c = text:sub(i, i)
    if text:find("^%-%-", i) then
      local stop, open = long(text, i + 2)
      i, close = stop or (text:find("\n", i, true) or #text + 1), open
    elseif c == '"' or c == "'" or long(text, i) then
      local stop, open = (c == "[" and long or short)(text, i)
      f("string", i, stop - 1)
      i, close = stop, open
    else
      local word = text:match("^[%a_][%w_]*", i) or text:match("^%.?%d[%w_.]*", i) or c
      f(word, i, i + #word - 1)
      i = i + #word
    end
  end
end

-- The list of names behind a `local` at token k: names, the number of the token behind, and whether one is <close>.
local function names_at(list, k)
  local found, closes = {}, false
  while list[k] and list[k][1]:find "^[%a_]" do
    found[#found + 1] = list[k][1]
    k = k + 1
    if list[k] and list[k][1] == "<" then
      closes = closes or list[k + 1] and list[k + 1][1] == "close"
      k = k + 3
    end
    if not (list[k] and list[k][1] == ",") then break end
    k = k + 1
  end
  return found, k, closes
end

-- The text with each `local` outside of blocks as an assignment to the session's names, in the same lines. What a
-- <close> holds is closed at the chunk's end, as everywhere, and lives no longer.
function M.shared(text)
  local list, depth, out, from = {}, 0, {}, 1
  M.tokens(text, function(word, a, b) list[#list + 1] = { word, a, b } end)
  local k = 1
  while list[k] do
    local word = list[k][1]
    if CLOSES[word] then depth = depth - 1 end
    if OPENS[word] or word == "else" then depth = depth + 1 end
    if word == "local" and depth == 0 and list[k + 1] then
      if list[k + 1][1] == "function" then
        out[#out + 1] = text:sub(from, list[k][2] - 1)
        from = list[k + 1][2]
      else
        local found, after, closes = names_at(list, k + 1)
        local behind = list[after]
        if #found > 0 and not closes then
          local assigned = behind and behind[1] == "="
          local last = list[after - 1][3]
          local lines = text:sub(list[k][2], last):gsub("[^\n]", "")
          out[#out + 1] = text:sub(from, list[k][2] - 1) .. table.concat(found, ", ") .. lines
            .. (assigned and "" or " = nil;")
          from = last + 1
        end
        k = after - 1
      end
    end
    k = k + 1
  end
  return table.concat(out) .. text:sub(from)
end

local function incomplete(message)
  return message:find "<eof>'?$" ~= nil
end

-- Where the last word of a text ends, comments aside, and that word.
local function last_word(text)
  local last, at = "", 0
  M.tokens(text, function(word, _, to) last, at = word, to end)
  return at, last
end

M.PACK = "\0pack" -- where the environment of an expression has table.pack: no name of a user's

-- The function of a whole text, and whether it is "value" (its results are to be shown), "silent" (they are not) or
-- "statement"; nil and "more" where lines are missing, nil, "error" and the message where it can be no Lua. The function
-- returns its values packed.
function M.compile(text, env, name)
  local body = text:gsub("^%s*=", "", 1)
  local at, last = last_word(body)
  local kind = last == ";" and "silent" or "value"
  local expression = body:sub(1, last == ";" and at - 1 or at)
  local f, why = load("return " .. expression, name, "t", env)
  if f and at > 0 then
    -- not as `return f()`: a tail call leaves no line to blame
    return load('return _ENV["\\0pack"](' .. expression .. ")", name, "t", env), kind
  end
  local message
  f, message = load(M.shared(text) .. "\n", name, "t", env) -- a line end ends a short string
  if f then return function() return table.pack(f()) end, "statement" end
  if incomplete(message) or why and incomplete(why) then return nil, "more" end
  return nil, "error", message
end

local OPENING = { ["("] = 1, ["{"] = 1, ["["] = 1, [")"] = -1, ["}"] = -1, ["]"] = -1, ["function"] = 1, ["if"] = 1, ["do"] = 1,
                  ["repeat"] = 1, ["end"] = -1, ["until"] = -1 }

-- What is read line by line, until it is whole: add(line) -> the chunk, or nil while lines are missing; rest() -> what there
-- is of one, or nil; begun() whether there is some. Lines that leave something open are not compiled, so that a long
-- table costs what it has lines; an empty line always is.
function M.gather(env)
  local lines, open, within = {}, 0, nil -- within: what closes the string or comment that goes on
  local function count(word) open = open + (OPENING[word] or 0) end
  return function(line)
    lines[#lines + 1] = line
    local rest = line
    if within and #within == 1 then
      rest = within .. line
    elseif within then
      local _, stop = line:find(within, 1, true)
      if not stop then return nil end
      rest = line:sub(stop + 1)
    end
    within = M.tokens(rest, count)
    if within or #lines > 1 and open > 0 and line:find "%S" then return nil end
    local text = table.concat(lines, "\n")
    local _, why = M.compile(text, env, "=chunk")
    if why == "more" then return nil end
    return text
  end, function() return #lines > 0 and table.concat(lines, "\n") or nil end, function() return #lines > 0 end
end

-- Whether there is something to run in it.
function M.empty(text)
  local none = true
  M.tokens(text, function() none = false end)
  return none
end

-- What a text of several chunks falls into when it is read line by line: a list.
function M.each(text)
  local out = {}
  local add, rest = M.gather {}
  for line in (text:gsub("\n?$", "\n")):gmatch "([^\n]*)\n" do
    local chunk = add(line)
    if chunk then
      if not M.empty(chunk) then out[#out + 1] = chunk end
      add, rest = M.gather {}
    end
  end
  out[#out + 1] = rest()
  return out
end

-- The text of a file in pieces: they end at empty lines, where what was read is whole.
function M.pieces(text)
  local out, lines = {}, {}
  local function close()
    local piece = table.concat(lines, "\n")
    if #lines == 0 then return end
    local list = M.each(piece)
    local _, why = M.compile(list[#list] or "", {}, "=piece")
    if why == "more" then
      lines[#lines + 1] = ""
      return
    end
    out[#out + 1], lines = piece, {}
  end
  for line in (text:gsub("\n?$", "\n")):gmatch "([^\n]*)\n" do
    if line:find "%S" then lines[#lines + 1] = line else close() end
  end
  close()
  if #lines > 0 then out[#out + 1] = table.concat(lines, "\n") end
  return out
end

return M
