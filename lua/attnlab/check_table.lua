-- What `check` prints of a result {variant, family, passed, rows, seconds}: tables, or one line.
-- A change here makes no run stale.
local tables = require "attnlab.table"

local M = {}

local function short(e)
  return e and (e == 0 and "0" or ("%.1e"):format(e)) or ""
end

local FORMS = { { key = "form", title = "form" }, { key = "f64", title = "f64", right = true },
                { key = "f32", title = "f32", right = true }, { key = "gradient", title = "gradient f64", right = true },
                { key = "gradient32", title = "f32", right = true }, { key = "growth", title = "f32 error along 500 tokens" },
                { key = "verdict", title = "verdict" } }
local OTHERS = { { key = "check", title = "check" }, { key = "n", title = "rows", right = true },
                 { key = "worst", title = "worst error", right = true }, { key = "verdict", title = "verdict" } }

-- Worst error by form and dtype, one line a form.
local function by_form(rows)
  local order, at = {}, {}
  for _, r in ipairs(rows) do
    if r.check == "forms" or r.check == "gradient" then
      local line = at[r.form]
      if not line then
        line = { form = r.form, verdict = r.verdict == "refused" and "refused" or "rounding" }
        at[r.form], order[#order + 1] = line, line
      end
      local column = r.check == "forms" and r.dtype or r.dtype == "f64" and "gradient" or "gradient32"
      if r.error then line[column] = short(r.error) end
      if r.verdict == "FAIL" then line.verdict = "FAULT" end
      if r.growth and r.dtype == "f32" then
        local words = {}
        for i, e in ipairs(r.growth) do words[i] = e == 0 and "0" or ("%.0e"):format(e) end
        line.growth = table.concat(words, " ")
      end
    end
  end
  return order
end

local function by_check(rows)
  local order, at = {}, {}
  for _, r in ipairs(rows) do
    if r.check ~= "forms" and r.check ~= "gradient" then
      local line = at[r.check]
      if not line then
        line = { check = r.check, count = 0, word = "pass", names = {} }
        at[r.check], order[#order + 1] = line, line
      end
      line.count = line.count + 1
      if r.error and r.error >= (line.error or 0) then line.error = r.error end
      line.names[r.verdict] = (line.names[r.verdict] or 0) + 1
    end
  end
  for _, line in ipairs(order) do
    local words = {}
    for _, v in ipairs { "pass", "FAIL", "refused", "exempt" } do
      local n = line.names[v]
      if n then words[#words + 1] = n == line.count and v or ("%d %s"):format(n, v) end
    end
    line.n, line.worst, line.verdict = tostring(line.count), short(line.error), table.concat(words, ", ")
  end
  return order
end

-- Texts of the rows with that verdict; equal ones once, with how many forms have them.
local function texts(rows, verdict)
  local order, at = {}, {}
  for _, r in ipairs(rows) do
    if r.verdict == verdict then
      local key = r.check .. "\0" .. r.text
      local line = at[key]
      if not line then
        line = { row = r, n = 0 }
        at[key], order[#order + 1] = line, line
      end
      line.n = line.n + 1
    end
  end
  local out = {}
  for i, line in ipairs(order) do
    local r = line.row
    local who = ("%s%s%s"):format(r.form, r.dtype ~= "" and (r.form ~= "" and " " or "") .. r.dtype or "",
      line.n > 1 and (" and %d more"):format(line.n - 1) or "")
    out[i] = ("  %s%s: %s"):format(r.check, who ~= "" and " (" .. who .. ")" or "", r.text)
  end
  return out
end

local function lines(title, list)
  if #list > 0 then print(title .. "\n" .. table.concat(list, "\n")) end
end

-- All that was found of one variant.
function M.whole(r)
  print(("%s  (family %s)"):format(r.variant, r.family or "?"))
  local forms = by_form(r.rows)
  if #forms > 0 then print(tables.text(FORMS, forms) .. "\n") end
  local others = by_check(r.rows)
  if #others > 0 then print(tables.text(OTHERS, others) .. "\n") end
  lines("refused by the variant:", texts(r.rows, "refused"))
  lines("exempt:", texts(r.rows, "exempt"))
  lines("FAULTS:", texts(r.rows, "FAIL"))
end

-- "p1/softmax  passed  7 forms f64 f32  5e-16 3e-07  gradient 4e-10  6.1 s"
function M.line(r)
  local forms, worst, refused = {}, { f64 = 0, f32 = 0, gradient = 0 }, 0
  for _, row in ipairs(r.rows) do
    if row.check == "forms" and row.verdict ~= "refused" then forms[row.form] = true end
    if row.check == "forms" and row.verdict == "refused" then refused = refused + 1 end
    local column = row.check == "forms" and row.dtype or row.check == "gradient" and row.dtype == "f64" and "gradient"
    if worst[column] and row.error and row.error > worst[column] then worst[column] = row.error end
  end
  local n = 0
  for _ in pairs(forms) do n = n + 1 end
  print(("%-46s %-6s %2d forms%s, f64 %s, f32 %s, gradients %s  %4.1f s"):format(r.variant, r.passed and "passed" or "FAILED",
    n, refused > 0 and (" (%d refused)"):format(refused) or "", short(worst.f64), short(worst.f32), short(worst.gradient),
    r.seconds))
  if not r.passed then lines("", texts(r.rows, "FAIL")) end
end

return M
