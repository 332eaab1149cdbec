-- What the figures of experiments are drawn on: colours and dashes, text that gnuplot takes for text alone, data, the
-- rectangles of panels, the legend and the notes under them.
-- A change here makes no run stale.
local M = {}

-- Okabe and Ito's colours without yellow, which is too light for lines. With four dashes every one of
-- 28 arms has its own pair, and neighbours differ in dash as well as in colour.
local COLOURS = { "#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00" }
local DASHES = { "solid", "(10,3)", "(3,2)", "(10,3,2,3)" }

-- Single quotes keep gnuplot from substituting anything; control characters would end the line.
function M.quote(s)
  return "'" .. s:gsub("%c", " "):gsub("'", "''") .. "'"
end

-- Of number i, with another number's dash where one is given.
function M.style(i, dash)
  return ("lc rgb '%s' dt %s"):format(COLOURS[(i - 1) % #COLOURS + 1], DASHES[((dash or i) - 1) % #DASHES + 1])
end

function M.colour(i)
  return ("lc rgb '%s'"):format(COLOURS[(i - 1) % #COLOURS + 1])
end

-- Of arm i of a figure: in groups every member has a colour and the group a dash.
function M.arm_style(fig, i)
  local c = fig.curves[i]
  return M.style(c.colour or i, c.dash)
end

function M.arm_colour(fig, i)
  return M.colour(fig.curves[i].colour or i)
end

function M.datablock(out, name, rows)
  out[#out + 1] = ("$%s << EOD"):format(name)
  for _, row in ipairs(rows) do
    local cells = {}
    for i, v in ipairs(row) do cells[i] = ("%.9g"):format(v) end
    out[#out + 1] = table.concat(cells, " ")
  end
  out[#out + 1] = "EOD"
end

function M.tick_list(values, map)
  local t = {}
  for i, v in ipairs(values) do t[i] = ("'%g' %.9g"):format(v, map and map(v) or v) end
  return "(" .. table.concat(t, ", ") .. ")"
end

-- The rectangle of a panel on the screen: { left, right, bottom, top }, its title above it.
function M.frame(out, box, title, size)
  out[#out + 1] = ("set lmargin at screen %g; set rmargin at screen %g"):format(box[1], box[2])
  out[#out + 1] = ("set tmargin at screen %g; set bmargin at screen %g"):format(box[4], box[3])
  if title then
    out[#out + 1] = ("set label 1 %s at screen %g, screen %g left font ',%d' noenhanced"):format(M.quote(title), box[1],
      box[4] + (box.gap or 0.022), size or 13)
  end
end

-- The sheet that figures of one height share; what is a distance in lines of text is `unit` of it.
M.SHEET = { left = 0.05, width = 0.96, sample = 0.035, step = 0.034, foot = 0.028, font = 12 }

-- Samples and names in columns under the panels; gnuplot's own key cannot be made this wide. They stand on a height of
-- `below`. An entry { name =, style = } may have a column and a row of its own, and one without a style is a heading.
-- Returns the height that they take.
function M.legend(out, curves, below, sheet)
  sheet = sheet or M.SHEET
  local longest, last = 0, 0
  for _, c in ipairs(curves) do
    longest, last = math.max(longest, #c.name), math.max(last, c.column or 0)
  end
  local columns = last > 0 and last or sheet.columns or (longest > 28 and 3 or 4)
  local rows = math.ceil(#curves / columns)
  for _, c in ipairs(curves) do rows = math.max(rows, c.row or 0) end
  for i, c in ipairs(curves) do
    local column, row = (c.column or (i - 1) // rows + 1) - 1, (c.row or (i - 1) % rows + 1)
    local x = sheet.left + sheet.width / columns * column
    local y = sheet.foot + below + sheet.step * (rows - row)
    if c.style then
      out[#out + 1] = ("set arrow %d from screen %g, screen %g to screen %g, screen %g nohead %s lw 2.2")
        :format(100 + i, x, y, x + sheet.sample, y, c.style)
    end
    out[#out + 1] = ("set label %d %s at screen %g, screen %g left font ',%d' noenhanced")
      :format(100 + i, M.quote(c.name), x + (c.style and sheet.sample + 0.005 or 0), y, sheet.font)
  end
  return sheet.step * rows
end

-- What has to be known to read the figure, in lines at its foot. Returns the height that they take.
function M.notes(out, lines, unit)
  unit = unit or 1
  for i, line in ipairs(lines) do
    out[#out + 1] = ("set label %d %s at screen 0.05, screen %g left font ',10' noenhanced")
      :format(200 + i, M.quote(line), unit * (0.02 + 0.027 * (#lines - i)))
  end
  return #lines > 0 and unit * (0.027 * #lines + 0.012) or 0
end

-- A list of ticks without every second one until at most `most` are left.
function M.thinned(list, most)
  while #list > most do
    local half = {}
    for i = 1, #list, 2 do half[#half + 1] = list[i] end
    list = half
  end
  return list
end

return M
