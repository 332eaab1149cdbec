-- The formulas of a fork's layers before and after what was done to them, in lines in which the slots that differ are
-- marked: inverse on a terminal, [in brackets] elsewhere. changes(fork) finds them, lines(change, room, colour) writes
-- one of them.
-- A change here makes no run stale.
local rows = require "attnlab.rows"

local M = {}

-- Words of a formula and what is between them.
local function tokens_of(text)
  local out, at = {}, 1
  while at <= #text do
    local word = text:match("^[%w_.]+", at) or text:match("^%s+", at) or text:sub(at, at)
    out[#out + 1], at = word, at + #word
  end
  return out
end

-- For each token of a and of b whether it is in their longest common sequence.
local function common(a, b)
  local length = {}
  for i = #a + 1, 1, -1 do
    length[i] = {}
    for j = #b + 1, 1, -1 do
      if i > #a or j > #b then
        length[i][j] = 0
      elseif a[i] == b[j] then
        length[i][j] = length[i + 1][j + 1] + 1
      else
        length[i][j] = math.max(length[i + 1][j], length[i][j + 1])
      end
    end
  end
  local in_a, in_b, i, j = {}, {}, 1, 1
  while i <= #a and j <= #b do
    if a[i] == b[j] then
      in_a[i], in_b[j], i, j = true, true, i + 1, j + 1
    elseif length[i + 1][j] >= length[i][j + 1] then
      i = i + 1
    else
      j = j + 1
    end
  end
  return in_a, in_b
end

-- Spans of tokens that differ, as { text, marked }; blanks at their ends are not marked, and a gap of blanks between
-- two spans is.
local function spans(tokens, same)
  local out = {}
  for i, t in ipairs(tokens) do
    local blank = t:find "^%s+$" and true or false
    local marked = not same[i]
    if blank then marked = i > 1 and i < #tokens and not same[i - 1] and not same[i + 1] end
    local last = out[#out]
    if last and last.marked == marked then last.text = last.text .. t
    else out[#out + 1] = { text = t, marked = marked } end
  end
  return out
end

-- The spans in lines of at most `room` columns, each behind a ";" where its clauses fit. mark: what is put around what
-- is marked.
local function wrapped(parts, room, mark)
  local lines, line, used = {}, {}, 0
  local function width_of(words)
    local n = 0
    for _, w in ipairs(words) do n = n + #w.text + (w.marked and mark.columns or 0) end
    return n
  end
  local function put(words)
    local n = width_of(words)
    if used > 0 and used + n > room then
      lines[#lines + 1], line, used = line, {}, 0
    end
    if n > room and #words > 1 then
      for _, w in ipairs(words) do put { w } end
      return
    end
    for _, w in ipairs(words) do
      if used == 0 then w.text = w.text:gsub("^%s+", "") end
      line[#line + 1], used = w, used + #w.text + (w.marked and mark.columns or 0)
    end
  end
  local clause = {}
  for _, s in ipairs(parts) do
    for text in s.text:gmatch "%s*[^%s;]*;?" do
      if text ~= "" then clause[#clause + 1] = { text = text, marked = s.marked } end
      if text:find ";$" then
        put(clause)
        clause = {}
      end
    end
  end
  put(clause)
  lines[#lines + 1] = line
  for i, words in ipairs(lines) do
    local out, marked = {}, false
    for _, w in ipairs(words) do
      if w.marked ~= marked then out[#out + 1] = w.marked and mark[1] or mark[2] end
      marked, out[#out + 1] = w.marked, nil
      out[#out + 1] = w.text
    end
    lines[i] = table.concat(out) .. (marked and mark[2] or "")
  end
  return lines
end

-- Brackets that the formulas do not have.
local function mark_of(a, b, colour)
  if colour then return { "\27[7m", "\27[0m", columns = 0 } end
  local taken = (a .. b):find "[][]"
  return { taken and "{" or "[", taken and "}" or "]", columns = 2 }
end

-- The formula of each set of heads of a layer, by text, or the options where a family has none.
local function formula_of(family)
  local ok, text = pcall(family.source, family, "formula")
  return ok and text or ("%s %s"):format(family:family(), family:text())
end

local function formulas(attention)
  local family, out = attention.family, {}
  if type(family) ~= "table" then return { { text = formula_of(family) } } end
  for i, g in ipairs(family.groups) do out[i] = { text = formula_of(g.part), heads = g.list } end
  return out
end

-- The layer's own options that are not those of another layer, beside what the formula says.
local function beside(attention, other)
  local out = ""
  for _, row in ipairs(require("attnlab.nn.attention").rows) do
    local v = attention.layer[row.name]
    if v ~= other.layer[row.name] and row.name ~= "calibrated" then
      out = ("%s;  %s=%s"):format(out, row.name, rows.show(v))
    end
  end
  return out
end

local function numbers(given)
  if #given > 2 and given[#given] - given[1] == #given - 1 then return ("%d-%d"):format(given[1], given[#given]) end
  return table.concat(given, ",")
end

-- { before =, after =, where = "layers 1-5" } for each pair that occurs and differs.
local function changes(fork)
  local out, by = {}, {}
  for i, block in ipairs(fork.layers) do
    local original = fork.original.layers[i].attention
    local old = formulas(original)
    for _, new in ipairs(formulas(block.attention)) do
      local before, after = old[1], new
      for _, f in ipairs(old) do
        if f.heads and new.heads and numbers(f.heads) == numbers(new.heads) then before = f end
      end
      local b, a = beside(original, block.attention), beside(block.attention, original)
      local key = table.concat({ before.text, after.text, b, a, new.heads and numbers(new.heads) or "" }, "\n")
      if before.text ~= after.text or b ~= a then
        if not by[key] then
          by[key] = { before = before.text .. b, after = after.text .. a, heads = new.heads, layers = {} }
          out[#out + 1] = by[key]
        end
        table.insert(by[key].layers, i)
      end
    end
  end
  for _, c in ipairs(out) do
    c.where = (#c.layers > 1 and "layers " or "layer ") .. numbers(c.layers)
      .. (c.heads and (#c.heads > 1 and " heads " or " head ") .. numbers(c.heads) or "")
  end
  return out
end

local ALIKE = 0.5 -- of a formula's letters: below that everything is another, and marks would say nothing

-- How much of the words of a formula is in both.
local function share(tokens, same)
  local known, all = 0, 0
  for i, t in ipairs(tokens) do
    if t:find "%w" then known, all = known + (same[i] and #t or 0), all + #t end
  end
  return all > 0 and known / all or 1
end

-- Array of { side = "before" or "after", text }, one for each line of at most `room` columns.
function M.lines(c, room, colour)
  local a, b = tokens_of(c.before), tokens_of(c.after)
  local in_a, in_b = common(a, b)
  if math.min(share(a, in_a), share(b, in_b)) < ALIKE then
    for i = 1, #a do in_a[i] = true end
    for i = 1, #b do in_b[i] = true end
  end
  local mark, out = mark_of(c.before, c.after, colour), {}
  for _, side in ipairs { { "before", spans(a, in_a) }, { "after", spans(b, in_b) } } do
    for n, text in ipairs(wrapped(side[2], room, mark)) do out[#out + 1] = { n == 1 and side[1] or "", text } end
  end
  return out
end

M.changes, M.numbers = changes, numbers
return M
