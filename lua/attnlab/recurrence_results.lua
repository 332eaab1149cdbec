-- What the study of the recurrence makes of its measurements: records, table, figure, judgement.
-- A change here makes no run stale.
local stats = require "attnlab.stats"
local tables = require "attnlab.table"

local M = {}

-- A series is compared with exp where no logit is larger.
local LARGEST = 8

-- Features of all orders up to p in D channels: C(D + p, p).
function M.features(D, p)
  local n = 1
  for i = 1, p do n = n * (D + i) // i end
  return n
end

-- One record a case: means over seeds, the largest of |s| and of the bytes.
function M.gather(groups)
  local records = {}
  for i, g in ipairs(groups) do
    local c, r = g.case, { inputs = g.case.inputs, order = g.case.order, scale = g.case.scale, tokens = g.case.tokens,
                           n = #g.results }
    for _, k in ipairs { "softmax", "forms", "rounding", "series", "seconds" } do
      local list = {}
      for j, x in ipairs(g.results) do list[j] = x[k] end
      r[k], r[k .. "_low"], r[k .. "_high"] = stats.mean(list), math.min(table.unpack(list)), math.max(table.unpack(list))
    end
    for _, k in ipairs { "largest", "state", "cache", "grown", "head_dim" } do
      for _, x in ipairs(g.results) do r[k] = math.max(r[k] or 0, x[k]) end
    end
    r.features, r.even = M.features(math.tointeger(r.head_dim), r.order), r.order % 2 == 0
    r.cache_tokens = r.state / r.cache
    r.group = c.inputs ~= "normal" and ("%s, D = %d"):format(c.inputs, r.head_dim)
      or ("D = %d, deviation %g"):format(r.head_dim, c.scale)
    records[i] = r
  end
  return records
end

local function number(key, form)
  return function(r) return r[key] and form:format(r[key]) end
end

-- Where a terminal is too narrow, columns go in the order of `drop`: what is compared with softmax stays.
M.columns = {
  { title = "inputs", wrap = true, show = function(r) return r.group end,
    doc = "inputs: q, k, v from N(0,1), q scaled so that the logits have that deviation; or those of a trained model" },
  { title = "|s|", right = true, show = number("largest", "%.1f"), doc = "|s|: largest logit" },
  { title = "p", right = true, show = number("order", "%d"), doc = "p: order that exp's series is cut at" },
  { title = "features", drop = 3, right = true, show = number("features", "%d"), doc = "features: C(D + p, p) monomials of a key" },
  { title = "state", right = true, show = function(r) return tables.human(r.state, true) .. (r.grown > 0 and " (grows)" or "") end,
    doc = "state: bytes of a key/value head, measured after the last token" },
  { title = "= tokens", drop = 5, right = true, show = function(r) return tables.human(r.cache_tokens) end,
    doc = "= tokens: the length at which softmax's own state has as many bytes" },
  { title = "to parallel", drop = 4, right = true, show = number("forms", "%.1e"),
    doc = "to parallel: recurrent against parallel form, both f32, relative error" },
  { title = "to f64", drop = 2, right = true, show = number("rounding", "%.1e"), doc = "to f64: recurrent in f32 against the same maths in f64" },
  { title = "to softmax", right = true, show = number("softmax", "%.2e"), doc = "to softmax: relative error, RMS(output - exact) / RMS(exact), exact softmax in f64; 0 = exact" },
  { title = "series", drop = 6, right = true, show = number("series", "%.2e"),
    doc = "series: what the remainder of the series does to the weights, to first order" },
  { title = "ms/token", drop = 1, right = true, show = function(r) return ("%.3f"):format(1e3 * r.seconds) end,
    doc = "ms/token: of the recurrent form, all heads" },
}

M.keys = { "group", "inputs", "head_dim", "scale", "tokens", "order", "n", "largest", "features", "state", "grown", "cache",
           "cache_tokens", "forms", "rounding", "softmax", "softmax_low", "softmax_high", "series", "seconds" }

-- Records by group, in order; f(name, list).
local function groups_of(records)
  local list, by = {}, {}
  for _, r in ipairs(records) do
    if not by[r.group] then
      by[r.group] = { name = r.group }
      list[#list + 1] = by[r.group]
    end
    table.insert(by[r.group], r)
  end
  for _, g in ipairs(list) do table.sort(g, function(a, b) return a.order < b.order end) end
  return list
end

-- The cache of each head size as a line over the text's length; on it the lengths at which it has as many
-- bytes as the states of the orders.
local function figure_of_length(groups)
  local panel = { title = "(c) key/value cache against state",
                  xlabel = "tokens  (marks: as large as the state of order p)", ylabel = "bytes of a key/value head",
                  logx = true, logy = true, curves = {} }
  local last, seen = 1000, {}
  for _, g in ipairs(groups) do
    for _, r in ipairs(g) do last = math.max(last, 2 * r.cache_tokens) end
  end
  for i, g in ipairs(groups) do
    local D, marks = g[1].head_dim, {}
    if not seen[D] then
      seen[D] = true
      panel.curves[#panel.curves + 1] = { colour = i, points = { { 1, g[1].cache }, { last, last * g[1].cache } } }
      for _, r in ipairs(g) do marks[#marks + 1] = { r.cache_tokens, r.state, label = tostring(r.order) } end
      panel.curves[#panel.curves + 1] = { colour = i, points = marks, marks = true, line = false, below = true }
    end
  end
  return panel
end

function M.figure(records, study)
  local groups = groups_of(records)
  local fig = { title = study.title or study.question or study.name, legend = {}, notes = {}, panels = {
    { title = "(a) error against order", xlabel = "order p of the series", ylabel = "relative error to exact softmax",
      logy = true, curves = {} },
    { title = "(b) error against state", xlabel = "bytes of a key/value head  (numbers: p)", ylabel = "relative error to exact softmax",
      logx = true, logy = true, curves = {} },
    figure_of_length(groups) } }
  for i, g in ipairs(groups) do
    local by_order, series, by_state = {}, {}, {}
    for k, r in ipairs(g) do
      by_order[k] = { r.order, r.softmax, low = r.softmax_low, high = r.softmax_high }
      if r.largest <= LARGEST then series[#series + 1] = { r.order, r.series } end
      by_state[k] = { r.state, r.softmax, label = r.even and tostring(r.order) or nil }
    end
    local curve = { points = by_order, colour = i, marks = true }
    table.insert(fig.panels[1].curves, curve)
    table.insert(fig.panels[1].curves, { points = series, colour = i, dash = 2, thin = true })
    table.insert(fig.panels[2].curves, { points = by_state, colour = i, marks = true })
    if g[1].n > 1 then fig.notes[1] = "(a) marks: mean over seeds; bars: least to greatest" end
    fig.legend[i] = { name = g.name, style = { colour = i } }
  end
  table.insert(fig.legend, { name = "(a) what the series says", style = { colour = 1, dash = 2 } })
  return fig
end

-- ---- expectations: what is claimed, whether it holds (nil: nothing to judge by), details ------------

local JUDGES = {
  -- recurrent and parallel form differ by no more than this
  forms_within = function(limit, records)
    local worst, where, left = 0, "", 0
    for _, r in ipairs(records) do
      local e = r.forms_high == r.forms_high and r.forms_high or math.huge
      if r.largest > LARGEST then
        left = left + 1
      elseif e > worst then worst, where = e, ("%s, p = %d"):format(r.group, r.order) end
    end
    return ("recurrent equals parallel within %g, |s| <= %g"):format(limit, LARGEST), worst <= limit and left < #records,
      ("worst %.1e (%s), %d left out for larger |s|"):format(worst, where, left)
  end,
  -- the state has the bytes it began with
  state_constant = function(_, records)
    local n = 0
    for _, r in ipairs(records) do n = n + (r.grown > 0 and 1 or 0) end
    return "the state does not grow", n == 0, ("%d of %d grew"):format(n, #records)
  end,
  -- from the order given on, every even order is nearer to softmax than the even one before
  falls_from = function(from, records)
    local bad, n, left = {}, 0, 0
    for _, g in ipairs(groups_of(records)) do
      local last
      for _, r in ipairs(g) do
        if r.largest > LARGEST then
          left = left + 1
        elseif r.order >= from and r.even then
          n = n + 1
          if last and not (r.softmax < last) then bad[#bad + 1] = ("%s, p = %d"):format(g.name, r.order) end
          last = r.softmax
        end
      end
    end
    local verdict
    if #bad > 0 or n > 1 then verdict = #bad == 0 end
    return ("the distance to softmax falls with the even orders from %d on, |s| <= %g"):format(from, LARGEST), verdict,
      ("%d points, %d left out for larger |s|%s"):format(n, left, #bad > 0 and ", rises at " .. table.concat(bad, "; ") or "")
  end,
  -- the distance of normal inputs at even orders is what the series says, up to this factor
  series_within = function(factor, records)
    local worst, where, n = 1, "", 0
    for _, r in ipairs(records) do
      if r.inputs == "normal" and r.even and r.largest <= LARGEST and not (r.series <= 10 * r.rounding) then
        n = n + 1
        local f = math.max(r.softmax / r.series, r.series / r.softmax)
        if f ~= f then f = math.huge end
        if f > worst then worst, where = f, (" (%s, p = %d)"):format(r.group, r.order) end
      end
    end
    return ("normal inputs, even orders: the distance is the series', within a factor of %g"):format(factor),
      n > 0 and worst <= factor, ("%d points, worst factor %.2f%s"):format(n, worst, where)
  end,
}
M.expect = { forms_within = "number", state_constant = "boolean", falls_from = "number", series_within = "number" }

function M.judge(expect, records)
  local out = {}
  for _, x in ipairs(expect) do
    for k, v in pairs(x) do
      local text, held, detail = JUDGES[k](v, records)
      local outcome = held == nil and "not shown" or held and "held" or "REFUTED"
      out[#out + 1] = { text = text, outcome = outcome, detail = detail }
    end
  end
  return out
end

return M
