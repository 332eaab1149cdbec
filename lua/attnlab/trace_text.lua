-- A trace (trace.lua) as text: for one layer a table of tokens by names, for several one of tokens by layers for each
-- name; orders of the series by layers.
-- A change here makes no run stale.
local tables = require "attnlab.table"

local NAN = 0.0 / 0.0
local MOST, LABEL, CELL = 40, 10, 9 -- rows that are written out; columns of a token and of a number

local function number(v)
  if v ~= v then return "-" end
  return ("%.3g"):format(v)
end

-- Means over an axis of numbers that are no NaN.
local function mean(list)
  local sum, n = 0, 0
  for _, v in ipairs(list) do
    if v == v then sum, n = sum + v, n + 1 end
  end
  return n > 0 and sum / n or NAN
end

local function of_heads(self, row) return self.head and row[self.head] or mean(row) end

-- A table of rows by columns, in pieces that fit side by side; titles of columns, labels of rows, cell(r, c).
local function grid(out, titles, labels, cell)
  local across = math.max(1, (tables.columns() - LABEL) // CELL)
  for first = 1, #titles, across do
    local columns, lines = { { key = "row", title = "" } }, {}
    for c = first, math.min(#titles, first + across - 1) do
      columns[#columns + 1] = { key = "c" .. c, title = titles[c], right = true }
    end
    for r, label in ipairs(labels) do
      lines[r] = { row = label }
      for c = first, math.min(#titles, first + across - 1) do lines[r]["c" .. c] = cell(r, c) end
    end
    out[#out + 1] = tables.text(columns, lines)
  end
end

return function(self)
  local out, heads = {}, self.head and "head " .. self.head or "mean over heads"
  local layers, tokens = {}, table.move(self.tokens, 1, math.min(MOST, #self.tokens), 1, {})
  for at, i in ipairs(self.layers) do layers[at] = "layer " .. i end
  for t, token in ipairs(tokens) do
    tokens[t] = (utf8.len(token) or 99) > LABEL - 1 and token:sub(1, (utf8.offset(token, LABEL - 1) or LABEL) - 1) .. "~" or token
  end
  local plain = {}
  for _, name in ipairs(self.names) do
    if name ~= "orders" then plain[#plain + 1] = name end
  end
  local values = {}
  for name, t in pairs(self.values) do values[name] = t:totable() end
  if #self.layers == 1 and #plain > 0 then
    out[1] = ("layer %d, %s"):format(self.layers[1], heads)
    grid(out, plain, tokens, function(t, c) return number(of_heads(self, values[plain[c]][1][t])) end)
  else
    for _, name in ipairs(plain) do
      out[#out + 1] = ("%s, %s"):format(name, heads)
      local shown, titles = {}, {}
      for at in ipairs(layers) do
        local first = of_heads(self, values[name][at][1])
        if first == first or at == #layers and #shown == 0 then shown[#shown + 1], titles[#titles + 1] = at, layers[at] end
      end
      grid(out, titles, tokens, function(t, c) return number(of_heads(self, values[name][shown[c] ][t])) end)
    end
  end
  if #plain > 0 and #self.tokens > MOST then
    out[#out + 1] = ("(%d further tokens in .values)"):format(#self.tokens - MOST)
  end
  if values.order_log then
    local rows = {}
    for n = 0, self.orders do rows[n + 1] = "order " .. n end
    for _, kind in ipairs { { "order_share", "share of |s|^n / n! in all orders" },
                            { "order_log", "log of the mean |s|^n / n!" } } do
      out[#out + 1] = ("%s: %s, %s and tokens"):format(kind[1], kind[2], heads)
      grid(out, layers, rows, function(n, at)
        local list = {}
        for t, row in ipairs(values[kind[1] ][at]) do
          local cells = {}
          for h, all in ipairs(row) do cells[h] = all[n] end
          list[t] = of_heads(self, cells)
        end
        return number(mean(list))
      end)
    end
  end
  return table.concat(out, "\n")
end
