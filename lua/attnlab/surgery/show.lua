-- What s:show{windows=, data=} returns: what measure.lua took of the fork as it is, which as text is a block of lines:
-- the formula before and after with the differing slot marked (inverse on a terminal, [in brackets] elsewhere), the
-- difference of loss, what rounding alone makes, KL, the state, and what both write.
-- A change here makes no run stale.
local core = require "attnlab.core"
local config = require "attnlab.config"
local list = require "attnlab.surgery.list"
local measure = require "attnlab.surgery.measure"
local names = require "attnlab.names"
local rows = require "attnlab.rows"
local tables = require "attnlab.table"
local stats = require "attnlab.stats"

local M = {}

local LABEL = 12 -- columns before what a line says
local MOST = 3   -- formulas that are written out

local function width() return math.max(40, core.sys.width() or 80) end

-- ---- formulas -----------------------------------------------------------------------------------------

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

-- ---- lines --------------------------------------------------------------------------------------------

local function line_of(label, text) return ("  %-" .. LABEL - 2 .. "s%s"):format(label, text) end

local function add_formulas(lines, found, colour, room)
  for k, c in ipairs(found) do
    if k > MOST then
      lines[#lines + 1] = line_of("", ("and %d more"):format(#found - MOST))
      return
    end
    if #found > 1 then lines[#lines + 1] = "  " .. c.where end
    local a, b = tokens_of(c.before), tokens_of(c.after)
    local in_a, in_b = common(a, b)
    local mark = mark_of(c.before, c.after, colour)
    for _, side in ipairs { { "before", spans(a, in_a) }, { "after", spans(b, in_b) } } do
      for n, text in ipairs(wrapped(side[2], room, mark)) do
        lines[#lines + 1] = line_of(n == 1 and side[1] or "", text)
      end
    end
  end
end

local function one_line(text) return tables.clean((text:gsub("^%s+", ""):gsub("%s*\n%s*", " / ")), true) end

-- At most `room` columns of a line from byte `from` on.
local function cut(text, from, room)
  local lead = from > 1 and "…" or ""
  text = text:sub(from)
  room = room - (from > 1 and 1 or 0)
  if tables.width(text) <= room then return lead .. text end
  return lead .. text:sub(1, utf8.offset(text, room) - 1) .. "…"
end

-- Where to begin so that the first difference of two lines is seen: at a word, a third of the room before it.
local function beginning(a, b, room)
  local same = 0
  while same < #a and a:byte(same + 1) == b:byte(same + 1) do same = same + 1 end
  if same <= room // 2 or same == math.max(#a, #b) then return 1 end
  local at = a:find(" ", same - room // 3, true)
  return at and at < same and at + 1 or 1
end

local function overflow_lines(r)
  local o, out = r.overflow, {}
  local share = ("%s of %d tokens have a loss that is not finite"):format(list.share(r.bad / r.tokens), r.tokens)
  out[1] = { "overflow", share }
  if o.layer == 0 then
    out[2] = { "", "first in what layer 1 reads" }
  elseif o.layer then
    out[2] = { "", ("first in layer %d, %s%s"):format(o.layer,
      o.what == "attention" and "what its attention gives" or "the sum behind it",
      o.logit and ("; its largest logit: %.1f"):format(o.logit) or "") }
  else
    out[2] = { "", "first in the logits of the vocabulary" }
  end
  if o.hint then out[3] = { "", "hint: set{.., logit_clamp=5} keeps f(s) in range" } end
  return out
end

local function bytes_line(r)
  local now, before = tables.human(r.state_bytes, true), tables.human(r.original_bytes, true)
  return ("%s at %d tokens%s"):format(now, r.context, r.state_bytes == r.original_bytes and ", as before"
    or ("; before %s"):format(before))
end

local function whole_numbers(r)
  local out = {}
  if r.overflow then
    out = overflow_lines(r)
  else
    local mean = stats.show(r.mean, 0, "+")
    out[1] = { "loss", r.lo and ("%s [%s, %s] nats a token"):format(mean, stats.show(r.lo), stats.show(r.hi))
      or mean .. " nats a token" }
    if r.rounding then
      out[2] = { "rounding", r.rounding.mean == 0 and ("nothing (%s form)"):format(r.rounding.form)
        or ("±%.1g (the same weights in %s form)"):format(r.rounding.mean, r.rounding.form) }
    end
    out[#out + 1] = { "KL", ("%s%s original to changed"):format(stats.show(r.kl),
      r.kl_se and (" ± %.4f"):format(stats.t_quantile(0.975, r.n - 1) * r.kl_se) or "") }
  end
  out[#out + 1] = { "state", bytes_line(r) }
  return out
end

-- How the numbers are meant, in a line or two.
local function meant(r)
  return ("95 %% over %d %s, %d tokens each, for this one model; look number %d%s"):format(r.n, r.documents, r.context,
    r.look, r.own and ". The model wrote these texts itself: no change can look better on them in expectation" or "")
end

local function fold(text, room)
  local lines, line = {}, ""
  for word in text:gmatch "%S+" do
    if line ~= "" and #line + 1 + #word > room then lines[#lines + 1], line = line, "" end
    line = line == "" and word or line .. " " .. word
  end
  lines[#lines + 1] = line
  return lines
end

local function text_lines(r, room)
  if not r.original_text then return {} end
  local broken, a, b = r.broken and " <not finite>" or "", one_line(r.original_text), one_line(r.text)
  if a == b and not r.broken then return { { "writes", "both    " .. cut(a, 1, room - 8) } } end
  local from = beginning(a, b, room - 8)
  return { { "writes", "before  " .. cut(a, from, room - 8) },
           { "", "after   " .. cut(b, from, room - 8 - #broken) .. broken } }
end

local Shown = {}
Shown.__index = Shown
Shown.__name = "attnlab.shown"

-- opts: colour, width.
function Shown:lines(opts)
  local columns = opts.width or width()
  local room = columns - LABEL - 1
  if self.changes == 0 then return { "the original: no changes" } end
  local lines = {}
  for n, text in ipairs(fold(self.title, columns - 1)) do lines[n] = text end
  add_formulas(lines, self.formulas, opts.colour, room)
  for _, x in ipairs(whole_numbers(self)) do
    for n, text in ipairs(fold(x[2], room)) do lines[#lines + 1] = line_of(n == 1 and x[1] or "", text) end
  end
  for _, text in ipairs(fold(meant(self), room)) do lines[#lines + 1] = line_of("", text) end
  for _, x in ipairs(text_lines(self, room)) do lines[#lines + 1] = line_of(x[1], x[2]) end
  return lines
end

function Shown:__tostring()
  local plain = (os.getenv "NO_COLOR" or "") ~= "" or os.getenv "TERM" == "dumb" or not core.sys.isatty(1)
  return table.concat(self:lines { colour = not plain }, "\n")
end

-- "layers 1-5: denominator=none" of the last entry, and how many there are before it.
local function title(fork)
  local e, n = fork.log[#fork.log], #fork.log
  local where = e.list and (#e.list > 1 and "layers " or "layer ") .. numbers(e.list)
    .. (e.head and " head " .. e.head or "") or nil
  local what = e.kind == "set" and where .. ": " .. e.change
    or ("%s%s: %s"):format(e.kind, where and " of " .. where or "", e.change)
  return n > 1 and ("change %d, %s"):format(n, what) or what
end

return function(fork, opts)
  local r = measure.of(fork, opts)
  if r.changes > 0 then r.title, r.formulas = title(fork), changes(fork) end
  return setmetatable(r, Shown)
end
