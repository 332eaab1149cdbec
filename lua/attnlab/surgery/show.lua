-- What s:show{..} returns: what measure.lua took of the fork as it is, which as text is a block of lines:
-- the formula before and after with the differing slot marked (inverse on a terminal, [in brackets] elsewhere), the
-- difference of loss, what rounding alone makes, KL, the state, and what both write. A fork whose numbers leave their
-- range gets the share of its tokens, and where it begins. Options:
--   windows    documents to measure (24, or as many tokens of a run's own windows), as far as the part has them
--   data       another text than the model's own, from now on: its name or path, or "own", what the model writes
--   write      options of generate for the two texts: { prompt = "Lily", temperature = 0.8, top_p = 0.9, seed = 3 }
-- A change here makes no run stale.
local core = require "attnlab.core"
local formulas = require "attnlab.surgery.formulas"
local list = require "attnlab.surgery.list"
local measure = require "attnlab.surgery.measure"
local tables = require "attnlab.table"
local stats = require "attnlab.stats"

local LABEL = 12 -- columns before what a line says
local MOST = 3   -- formulas that are written out

local function width() return math.max(40, core.sys.width() or 80) end

-- ---- lines --------------------------------------------------------------------------------------------

local function line_of(label, text) return ("  %-" .. LABEL - 2 .. "s%s"):format(label, text) end

local function add_formulas(lines, found, colour, room)
  for k, c in ipairs(found) do
    if k > MOST then
      lines[#lines + 1] = line_of("", ("and %d more"):format(#found - MOST))
      return
    end
    if #found > 1 then lines[#lines + 1] = "  " .. c.where end
    for _, x in ipairs(formulas.lines(c, room, colour)) do lines[#lines + 1] = line_of(x[1], x[2]) end
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
  if r.missing then
    out[1] = { "loss", "not measured: " .. r.missing }
  elseif r.overflow then
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
      r.kl_se and " ± " .. stats.show(stats.t_quantile(0.975, r.n - 1) * r.kl_se) or "") }
  end
  out[#out + 1] = { "state", bytes_line(r) }
  return out
end

-- How the numbers are meant, in a line or two.
local function meant(r)
  return ("95 %% over %d %s, %d tokens each, for this one model; look number %d%s"):format(r.n, r.documents, r.context,
    r.look, r.own and ". The model wrote these texts itself: no change can look better on them in expectation" or "")
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
  for n, text in ipairs(tables.wrap(self.title, columns - 1)) do lines[n] = text end
  add_formulas(lines, self.formulas, opts.colour, room)
  for _, x in ipairs(whole_numbers(self)) do
    for n, text in ipairs(tables.wrap(x[2], room)) do lines[#lines + 1] = line_of(n == 1 and x[1] or "", text) end
  end
  for _, text in ipairs(self.missing and {} or tables.wrap(meant(self), room)) do lines[#lines + 1] = line_of("", text) end
  for _, x in ipairs(text_lines(self, room)) do lines[#lines + 1] = line_of(x[1], x[2]) end
  return lines
end

function Shown:__tostring()
  local plain = (os.getenv "NO_COLOR" or "") ~= "" or os.getenv "TERM" == "dumb" or not core.sys.isatty(1)
  return table.concat(self:lines { colour = not plain }, "\n")
end

-- "layers 1-5: denominator=none" of the last entry, and how many there are before it.
local function title(fork)
  local e, n = fork:last_change()
  local where = e.list and (#e.list > 1 and "layers " or "layer ") .. formulas.numbers(e.list)
    .. (e.head and " head " .. e.head or "") or nil
  local what = e.kind == "set" and where .. ": " .. e.change
    or ("%s%s: %s"):format(e.kind, where and " of " .. where or "", e.change)
  return n > 1 and ("change %d, %s"):format(n, what) or what
end

return function(fork, opts)
  local r = measure.of(fork, opts)
  if r.changes > 0 then r.title, r.formulas = title(fork), formulas.changes(fork) end
  return setmetatable(r, Shown)
end
