-- A record of evaluate.lua for people: lines, tables, a figure.
-- A change here makes no run stale.
local core = require "attnlab.core"
local stats = require "attnlab.stats"
local tables = require "attnlab.table"

local M = {}

-- "1.2345 (standard error 0.0012)"
local function number(v, se)
  return ("%.4f%s"):format(v, se and (" (standard error %.4f)"):format(se) or "")
end

-- What the number depends on: how the windows lie, what they begin with.
local function how(r)
  local start = r.start == "bos" and "each begins with the start token" or "each from an empty context"
  local windows = r.sliding and ("%d windows of %d tokens, %d apart, every token scored once"):format(r.windows, r.window, r.stride)
    or ("%d windows of %d tokens"):format(r.windows, r.window)
  local pieces = not r.lengths and r.context < r.window and (", in pieces of %d"):format(r.context) or ""
  return ("%s, %s%s"):format(windows, start, pieces)
end

local function length_rows(r)
  local rows = {}
  for i, x in ipairs(r.lengths) do
    local d = x.difference
    rows[i] = { length = ("%d%s"):format(x.length, x.length > r.context and " *" or ""), loss = ("%.4f"):format(x.loss),
                se = x.standard_error and ("%.4f"):format(x.standard_error), difference = d and ("%+.4f"):format(d.mean)
                  or "reference",
                interval = d and d.lo and ("[%.4f, %.4f]"):format(d.lo, d.hi) }
  end
  return rows
end

-- The loss by context length, where lengths were asked for; nil else.
function M.lengths(r, width)
  if not r.lengths then return nil end
  return (tables.text({ { key = "length", title = "context", right = true }, { key = "loss", title = "nats a token", right = true },
    { key = "se", title = "std. error", right = true }, { key = "difference", title = "difference", right = true },
    { key = "interval", title = "95 %", right = true } }, length_rows(r), width))
    .. (r.lengths[#r.lengths].length > r.context and "\n* longer than the model was trained with: positions it has not seen" or "")
end

-- The loss by how many tokens a token's context has.
function M.positions(r, width)
  local rows = {}
  for i, p in ipairs(r.positions) do
    rows[i] = { position = (p.from == p.to and "%d%s%s" or "%d-%d%s"):format(p.from, p.from == p.to and "" or p.to,
                  p.from > r.context and " *" or ""), tokens = tables.human(p.tokens), loss = ("%.4f"):format(p.loss),
                se = p.standard_error and ("%.4f"):format(p.standard_error) }
  end
  return (tables.text({ { key = "position", title = "tokens before", right = true }, { key = "tokens", title = "scored", right = true },
    { key = "loss", title = "nats a token", right = true }, { key = "se", title = "std. error", right = true } }, rows, width))
end

-- The line that stands first.
function M.line(r)
  return ("%s nats per token, perplexity %s, %s"):format(number(r.loss, r.standard_error),
    r.perplexity and ("%.3f"):format(r.perplexity) or "above all numbers",
    r.bits_per_byte and ("%.4f bits per byte%s"):format(r.bits_per_byte,
      r.bytes_are == "exact" and "" or (" (%s bytes)"):format(r.bytes_are)) or "bits per byte " .. r.no_bits)
end

function M.text(r)
  local parts = { M.line(r), ("%s of '%s', %s"):format(({ valid = "validation part", train = "training part", all = "all" })[r.split],
    r.data, how(r)) }
  if r.trained_on then
    table.insert(parts, 2, ("not the text that the model was trained on ('%s', sha256 %.12s)"):format(r.trained_on.name, r.trained_on.sha256))
  end
  if r.positions then
    parts[#parts + 1] = ""
    parts[#parts + 1] = M.positions(r)
  end
  if r.lengths then
    parts[#parts + 1] = ""
    parts[#parts + 1] = M.lengths(r)
  end
  return table.concat(parts, "\n")
end

-- Panels: loss by position, and by length of context.
function M.figure(r, name)
  local fig = { title = name, legend = {}, notes = { "bars: 95 % t intervals over windows" }, panels = {} }
  local function curve(list, x_of)
    local points = {}
    for i, p in ipairs(list) do
      local half = p.standard_error and stats.t_quantile(0.975, r.windows - 1) * p.standard_error
      points[i] = { x_of(p), p.loss, low = half and p.loss - half, high = half and p.loss + half }
    end
    return { points = points, colour = 1, marks = true }
  end
  local function panel(title, xlabel, list, x_of)
    local p = { title = title, xlabel = xlabel, ylabel = "nats per token", logx = true, curves = { curve(list, x_of) } }
    local lo, hi, most = math.huge, -math.huge, 0
    for _, q in ipairs(p.curves[1].points) do lo, hi, most = math.min(lo, q[2]), math.max(hi, q[2]), math.max(most, q[1]) end
    if most > r.context then
      p.curves[2] = { points = { { r.context, lo }, { r.context, hi } }, colour = 2, dash = 2 }
      fig.legend[1] = { name = "the context that the model was trained with", style = { colour = 2, dash = 2 } }
    end
    fig.panels[#fig.panels + 1] = p
  end
  panel("(a) loss by position", "tokens before", r.positions, function(p) return p.to end)
  if r.lengths then panel("(b) loss by length of context", "tokens of a piece", r.lengths, function(p) return p.length end) end
  return fig
end
M.text, M.line, M.lengths, M.positions = core.plain(M.text), core.plain(M.line), core.plain(M.lengths), core.plain(M.positions)

return M
