-- What a sweep (surgery/sweep.lua) is as text and as a figure: a map of rows by columns with the difference of loss in
-- each cell, shaded by its size, marked where Holm's step-down shows it, hatched where numbers leave their range; with
-- one column a table with intervals.
-- A change here makes no run stale.
local core = require "attnlab.core"
local curves = require "attnlab.curves"
local gnuplot = require "attnlab.gnuplot"
local list = require "attnlab.surgery.list"
local names = require "attnlab.names"
local plot = require "attnlab.plot"
local stats = require "attnlab.stats"
local tables = require "attnlab.table"

local Sweep = {}
Sweep.__index = Sweep
Sweep.__name = "attnlab.sweep"

local BLOCKS, PLAIN = { "░", "▒", "▓", "█" }, { ".", "-", "*", "#" }
local CELL = 8 -- columns of a cell with its number

-- ---- cells --------------------------------------------------------------------------------------------

local function finite(c) return c.values and c.bad == 0 end

local function largest(self)
  local most = 0
  for _, c in ipairs(self.cells) do
    if finite(c) then most = math.max(most, math.abs(c.mean)) end
  end
  return most
end

-- 0 .. 4 of a size: the bounds grow as squares, so that small differences are told apart.
local function level(size, most)
  return most > 0 and math.ceil(4 * math.sqrt(size / most) - 1e-9) or 0
end

local function shade(c, most)
  local n = level(math.abs(c.mean), most)
  return n > 0 and (curves.utf8() and BLOCKS or PLAIN)[n] or " "
end

local function number(v) return (math.abs(v) >= 9.9995 and "%+.1f" or "%+.3f"):format(v) end

local function marked(c) return c.shown == "worse" or c.shown == "better" end

local function wide(c, most)
  if not c then return "." end
  if not finite(c) then return "//////" end
  return shade(c, most) .. number(c.mean) .. (marked(c) and "*" or " ")
end

local function narrow(c, most)
  if not c then return ". " end
  if not finite(c) then return "//" end
  local s = shade(c, most)
  return s .. (marked(c) and "*" or s)
end

local function grid(self)
  local at = {}
  for _, c in ipairs(self.cells) do
    at[c.row] = at[c.row] or {}
    at[c.row][c.column] = c
  end
  return at
end

-- ---- text ---------------------------------------------------------------------------------------------

local function map_lines(self, columns)
  local label, at, most = 5, grid(self), largest(self)
  for _, name in ipairs(self.rows) do label = math.max(label, tables.width(name)) end
  label = math.min(label, columns // 2)
  local full = label + 1 + #self.columns * CELL <= columns
  local width, lines = full and CELL or 2, {}
  local function row(name, cell)
    local parts = { tables.pad(name, label) .. " " }
    for c = 1, #self.columns do parts[#parts + 1] = tables.pad(cell(c), width, true) end
    lines[#lines + 1] = (table.concat(parts):gsub("%s+$", ""))
  end
  row(#self.columns > 1 and "head" or "", function(c)
    local name = tostring(self.columns[c])
    return full and name .. "   " or name:sub(-2)
  end)
  lines[1] = lines[1]:gsub("^head", self.cells[1] and self.cells[1].head and "head " or "layer")
  for r, name in ipairs(self.rows) do
    row(tables.width(name) > label and name:sub(1, label) or name, function(c)
      return (full and wide or narrow)(at[r] and at[r][c], most)
    end)
  end
  return lines, most
end

local function table_text(self, columns)
  local most, cells = largest(self), {}
  for i, c in ipairs(self.cells) do
    local row = { name = self.rows[c.row] }
    if finite(c) then
      row.loss = shade(c, most) .. " " .. stats.show(c.mean, 0, "+") .. (marked(c) and "*" or " ")
      row.interval = c.lo and ("[%s, %s]"):format(stats.show(c.lo), stats.show(c.hi)) or ""
      row.kl = ("%.4f"):format(c.kl)
    else
      row.loss, row.interval = "//////", c.failed or ("%s not finite"):format(list.share(c.bad / c.tokens))
    end
    cells[i] = row
  end
  return (tables.text({ { key = "name", title = "", wrap = true }, { key = "loss", title = "loss" },
    { key = "interval", title = "interval (Holm)", wrap = true }, { key = "kl", title = "KL", right = true } }, cells, columns))
end

local function scale_of(most)
  local signs, out = curves.utf8() and BLOCKS or PLAIN, {}
  for k, s in ipairs(signs) do out[k] = ("%s to %.2g"):format(s, most * (k / 4) ^ 2) end
  return table.concat(out, ", ")
end

local function legend(self, most)
  local out, bad = {}, 0
  for _, c in ipairs(self.cells) do bad = bad + (finite(c) and 0 or 1) end
  if most > 0 then out[#out + 1] = "size: " .. scale_of(most) .. "." end
  out[#out + 1] = ("*: differs, by Holm's step-down over the %d cells at 5 %%."):format(self.tested)
  if bad > 0 then
    out[#out + 1] = ("/: %d %s not finite: logit_clamp=5 keeps f(s) in range."):format(bad, bad == 1 and "is" or "are")
  end
  return table.concat(out, " ")
end

-- opts: width; bare = true: the map alone, as far as it is.
function Sweep:lines(opts)
  local columns = (opts.width or math.max(40, core.sys.width() or 80)) - 1
  local lines = tables.wrap(("sweep, %s%s"):format(self.title, self.calibrated and ", calibrated" or ""), columns)
  local map, most = map_lines(self, columns)
  if opts.bare then
    table.move(map, 1, #map, #lines + 1, lines)
    lines[#lines + 1] = ("%d of %d"):format(#self.cells, self.total)
    return lines
  end
  local what = ("loss minus the original's, nats a token, over %d %s, %d tokens each, for this one model; looks %d to %d")
    :format(self.n, self.documents, self.context, self.looks[1], self.looks[2])
  if self.own then what = what .. ". The model wrote these texts itself: no change can look better on them in expectation" end
  table.move(tables.wrap(what, columns), 1, 9, #lines + 1, lines)
  lines[#lines + 1] = ""
  if #self.columns > 1 then
    table.move(map, 1, #map, #lines + 1, lines)
  else
    for line in table_text(self, columns):gmatch "[^\n]+" do lines[#lines + 1] = line end
  end
  lines[#lines + 1] = ""
  table.move(tables.wrap(legend(self, most), columns), 1, 9, #lines + 1, lines)
  table.move(tables.wrap(("The fork is as it was; the sweep is entry %d of its list, which s:undo() strikes."):format(self.entry),
    columns), 1, 9, #lines + 1, lines)
  return lines
end

function Sweep:__tostring() return table.concat(self:lines {}, "\n") end

-- ---- the figure ---------------------------------------------------------------------------------------

local function script(self, outputs)
  local out, most = {}, math.max(largest(self), 1e-12)
  local function add(...) out[#out + 1] = (...):format(select(2, ...)) end
  local rows, columns = #self.rows, #self.columns
  add("$cells << EOD")
  for _, c in ipairs(self.cells) do
    if finite(c) then add("%d %d %.9g", c.column, c.row, c.mean) end
  end
  add("EOD")
  for _, o in ipairs(outputs) do
    add("set terminal %s", o[1])
    add("set output %s", plot.quote(o[2]))
    add("set title %s noenhanced", plot.quote(self.title .. (self.calibrated and ", calibrated" or "")))
    add("unset key; set size ratio -1; set tics scale 0; unset grid")
    add("set palette defined (-1 '#2166ac', 0 '#f7f7f7', 1 '#b2182b'); set cbrange [%.9g:%.9g]", -most, most)
    add("set cblabel 'loss minus the original''s [nats per token]' offset 2")
    add("set xrange [0.5:%g]; set yrange [%g:0.5]", columns + 0.5, rows + 0.5)
    local function tics(list)
      local t = {}
      for i, name in ipairs(list) do t[i] = ("%s %d"):format(plot.quote(tostring(name)), i) end
      return table.concat(t, ", ")
    end
    add("set xtics (%s) noenhanced; set ytics (%s) noenhanced", tics(self.columns), tics(self.rows))
    if columns > 1 then add("set xlabel '%s'", self.cells[1].head and "head" or "layer") end
    add("unset object; unset label")
    for i, c in ipairs(self.cells) do
      if finite(c) then
        add("set label %d %s at %d,%d center front font ',10' noenhanced", i,
          plot.quote(number(c.mean) .. (marked(c) and "*" or "")), c.column, c.row)
      else
        add("set object %d rectangle from %g,%g to %g,%g fillstyle pattern 4 border lc rgb 'black' front", i,
          c.column - 0.5, c.row - 0.5, c.column + 0.5, c.row + 0.5)
      end
    end
    add("plot $cells using 1:2:3 with image")
    add("set output")
  end
  return table.concat(out, "\n") .. "\n"
end
script = core.plain(script)

-- Draws the map as file.png or file.svg (both are made). Returns their paths.
function Sweep:plot(file)
  local dir, name, ending = nil, nil, nil
  if type(file) == "string" then
    dir, name = file:match "^(.*)/([^/]*)$"
    name, ending = (name or file):match "^(.+)%.(%a+)$"
  end
  if ending ~= "png" and ending ~= "svg" then
    error(("plot: a file's name that ends with .png or .svg expected, got %s"):format(tostring(file)), 2)
  end
  local some = false
  for _, c in ipairs(self.cells) do some = some or finite(c) end
  if not some then error("plot: no cell is finite", 2) end
  local figure, why = gnuplot.render(function(outputs) return script(self, outputs) end, dir or ".", name)
  if not figure then error("plot: " .. names.reason(why), 2) end
  return figure
end

return Sweep
