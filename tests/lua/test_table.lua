-- attnlab.table: alignment, human numbers, tab-separated values.
local T = ...
local tables = require "attnlab.table"

T.test("text is aligned by display cells", function()
  local text = tables.text({ { key = "a", title = "arm" }, { key = "b", title = "loss", right = true }, { key = "c", title = "empty" } },
    { { a = "x", b = "1.5 ± 0.1" }, { a = "longer name", b = "10" } })
  local lines = {}
  for line in text:gmatch "[^\n]+" do lines[#lines + 1] = line end
  T.eq(#lines, 4)
  T.eq(lines[1], "arm               loss")
  T.eq(lines[3], "x            1.5 ± 0.1")
  T.eq(lines[4], "longer name         10")
  T.ok(not text:find "empty", "columns without a value are left out")
end)

T.test("a cell is cut where it would hide the others", function()
  local text = tables.text({ { key = "a", title = "arm" } }, { { a = ("ä"):rep(1000) }, { a = "\xff" .. (" "):rep(1 << 20) .. "x" } })
  T.ok(text:find("\n" .. ("ä"):rep(399) .. "...\n", 1, true))
  T.ok(#text < 4000)
end)

T.test("human numbers", function()
  T.eq(tables.human(90624), "90.6 k")
  T.eq(tables.human(999), "999")
  T.eq(tables.human(1234567), "1.23 M")
  T.eq(tables.human(524288, true), "512 KiB")
  T.eq(tables.human(100, true), "100 B")
  T.eq(tables.human(nil), "")
end)

T.test("tsv keeps every digit and no separator", function()
  T.eq(tables.tsv({ "arm", "x", "n" }, { { arm = "a\tb\nc", x = 0.1, n = 3 }, { arm = "d" } }),
    "arm\tx\tn\na b c\t0.10000000000000001\t3\nd\t\t\n")
end)

T.test("what would steer a terminal, or is no UTF-8, is shown by its bytes", function()
  T.eq(tables.clean "ä\27[2J\n\t\xff\xc3", "ä\\x1b[2J\n\t\\xff\\xc3")
  T.eq(tables.clean("\xffä\n\x9b\xc2\x9b", true), "\\xffä\\x0a\\x9b\\xc2\\x9b")
  T.eq(#tables.clean(("\xff"):rep(1 << 20)), 1 << 22)
  T.eq(tables.clean "", "")
end)

T.test("width of what is not UTF-8", function()
  T.eq(tables.width "\xff\xfe", 2)
  T.eq(tables.pad("ä", 3, true), "  ä")
end)

local WIDE = {
  { key = "name", title = "arm", wrap = true }, { key = "loss", title = "valid loss", right = true },
  { key = "rate", title = "token/s", right = true, drop = 1 }, { key = "state", title = "state", right = true, drop = 2 },
  { key = "verdict", title = "verdict", wrap = true },
}
local ROWS = {
  { name = "softmax", loss = "1.8912", rate = "1.23 M", state = "2.00 KiB (grows)", verdict = "reference" },
  { name = "exp, denominator's gradient stopped", loss = "1.9012", rate = "1.20 M", state = "2.00 KiB (grows)", verdict = "equal within 0.01" },
}

local function lines_of(text)
  local lines = {}
  for line in text:gmatch "[^\n]+" do lines[#lines + 1] = line end
  return lines
end

T.test("in a width names wrap, then columns go in their order, and are named", function()
  local whole, none = tables.text(WIDE, ROWS)
  T.eq({ #lines_of(whole), none }, { 4, {} })
  local most = tables.width(lines_of(whole)[2])
  for width = most, 44, -1 do
    local text, left = tables.text(WIDE, ROWS, width)
    for _, line in ipairs(lines_of(text)) do T.ok(tables.width(line) <= width, ("%d: %s"):format(width, line)) end
    T.ok(text:find "denominator's" and text:find "1.9012" and text:find "within", text)
    T.eq(left, ({ [0] = {}, { "token/s" }, { "token/s", "state" } })[#left])
    T.eq(text:find "token/s" == nil, #left > 0)
  end
  local text, left = tables.text(WIDE, ROWS, 80)
  T.eq(left, {})
  T.eq(lines_of(text)[4], "exp, denominator's          1.9012   1.20 M  2.00 KiB (grows)  equal within 0.01")
  T.eq(lines_of(text)[5], "gradient stopped")
  T.eq(select(2, tables.text(WIDE, ROWS, 46)), { "token/s", "state" })
end)

T.test("text is broken at blanks, and where there are none", function()
  T.eq(tables.wrap("to be or not to be", 9), { "to be or", "not to be" })
  T.eq(tables.wrap("äöüßäöüß x", 4), { "äöüß", "äöüß", "x" })
  T.eq(tables.wrap("", 4), { "" })
  T.eq(tables.pairs { { "a", "one" }, { "bcd", "two" } }, "  a    one\n  bcd  two")
end)
