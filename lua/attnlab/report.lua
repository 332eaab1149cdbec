-- What an experiment came to, as runs.gather gives it, for people and machines: table, tests, texts.
-- A change here makes no run stale.
local budget = require "attnlab.budget"
local core = require "attnlab.core"
local data = require "attnlab.data"
local expect = require "attnlab.expect"
local measures = require "attnlab.measures"
local stats = require "attnlab.stats"
local tables = require "attnlab.table"
local json, sys = core.json, core.sys

local M = {}

local WIDE = 120 -- columns of what goes into files

-- Where a terminal is too narrow, columns go in this order: status where all arms have the same, then token/s,
-- parameters, state, check, n; status last where they differ. What was measured stays.
local COLUMNS = {
  { key = "name", title = "arm", wrap = true },
  { key = "n", title = "n", right = true, drop = 5, doc = "seeds that finished" },
  { key = "loss", title = "valid loss", right = true, doc = "nats per token at the last step, mean ± deviation over seeds; "
    .. "none for an arm of whose seeds some diverged" },
  { key = "difference", title = "difference [interval]", right = true,
    doc = "to the first arm, paired by seed; t interval, widened for the number of arms (Holm: at most 5 % error over all of them)" },
  { key = "verdict", title = "verdict", wrap = true, doc = "interval within the margin: equal; else above 0: worse, below 0: better; "
    .. "else undecided: none of these can be told with these seeds" },
  { key = "rate", title = "token/s", right = true, drop = 1,
    doc = "median of one run while others ran beside it; no comparison of speed (./lab bench is)" },
  { key = "parameters", title = "parameters", right = true, drop = 2, doc = "learned numbers of the model" },
  { key = "state", title = "state", right = true, drop = 3, doc = "computed, not used in training: bytes that a sequence carries from "
    .. "token to token at the context's end; (grows): with the context" },
  { key = "check", title = "check", drop = 4, doc = "the worst of the conformance certificates that the run began with (./lab check NAME writes "
    .. "one); none: not checked; damaged: its file is not whole" },
  { key = "status", title = "status", wrap = true, drop = 6, doc = "diverged is a result; stale = made by another source, library or thread count" },
}

-- The columns, and the status that all arms have, which then goes first and is said in a line.
local function columns_of(rows)
  local out, common = {}, rows[1].status
  for _, r in ipairs(rows) do common = r.status == common and common or nil end
  for i, c in ipairs(COLUMNS) do
    out[i] = c.key == "status" and common and setmetatable({ drop = 0 }, { __index = c }) or c
  end
  return out, common
end

-- The column of the verdict: what the arm is, or why it is not judged.
local function verdict_of(i, row)
  if row.unfit then return "not judged: " .. row.unfit end
  return i == 1 and "reference" or row.difference.verdict
end

local function table_rows(result)
  local rows, margin = {}, result.plan.margin
  for i, arm in ipairs(result.arms) do
    local c = result.comparison[i]
    local n, all = arm.count.finished, #arm.runs
    local row = { name = arm.name, n = n == all and tostring(n) or ("%d of %d"):format(n, all), status = arm.status }
    if arm.count.diverged > 0 then row.loss = ("%d of %d diverged"):format(arm.count.diverged, all) end
    if c.mean then row.loss = ("%.4f"):format(c.mean) .. (c.deviation and (" ± %.4f"):format(c.deviation) or "") end
    if c.difference and c.difference.n > 0 then row.difference = stats.text(c.difference, margin) end
    row.verdict = verdict_of(i, c)
    row.rate = arm.tokens_per_second and tables.human(arm.tokens_per_second)
    row.parameters, row.state = tables.human(arm.parameters), budget.state_text(arm.state_bytes, arm.config)
    row.check = arm.check
    rows[i] = row
  end
  return rows
end

-- What the arms read, and what knows nothing of it loses. Runs may outlive their texts.
local function texts(plan)
  local out, seen = {}, {}
  for _, arm in ipairs(plan.arms) do
    local name = arm.config.train.data
    local ok, text = pcall(data.open, name)
    if ok and not seen[name] then
      local V = text.vocabulary:size()
      out[#out + 1] = ("data: %s, %d tokens, vocabulary %d; guessing costs ln %d = %.3f nats per token"):format(
        name:match "[^/]+$", text.tokens:numel(), V, V, math.log(V))
    end
    seen[name] = true
  end
  return out
end

-- What has to be known to read the table beside its columns: lines.
local function notes(result)
  local plan, out = result.plan, texts(result.plan)
  for _, arm in ipairs(result.arms) do
    if arm.count.diverged > 0 then
      out[#out + 1] = "an arm with diverged seeds is neither better, worse nor equal: the seeds that finished are those it suited"
      break
    end
  end
  if plan.margin or result.other_margins then
    out[#out + 1] = ("margin: %s%s"):format(plan.margin and ("%g nats"):format(plan.margin) or "none",
      result.other_margins and (", changed after the runs (%s when they were made)"):format(result.other_margins) or "")
  end
  if plan.apart then
    out[#out + 1] = "measured apart: the arms' losses are of different windows or texts, and so are their differences:"
    for i, arm in ipairs(result.arms) do out[#out + 1] = ("  %s: %s"):format(arm.name, plan.apart[i]) end
  end
  return out
end

-- What the columns mean, as lines of a width.
function M.legend(width)
  local list = {}
  for _, c in ipairs(COLUMNS) do list[#list + 1] = c.doc and { c.title, c.doc } end
  return tables.pairs(list, width)
end

-- The table with what has to be known to read it. In a width columns may be left out, and their titles are said;
-- legend: with what the columns mean.
function M.table_text(result, width, legend)
  local rows = table_rows(result)
  local columns, common = columns_of(rows)
  local text, left_out = tables.text(columns, rows, width)
  local lines = { "" }
  if legend then lines[#lines + 1] = M.legend(width or WIDE) end
  for _, line in ipairs(notes(result)) do lines[#lines + 1] = "  " .. line end
  if left_out[1] == "status" and common then
    table.remove(left_out, 1)
    lines[#lines + 1] = "  status of every arm: " .. common
  end
  if #left_out > 0 then
    lines[#lines + 1] = "  left out, as the terminal is narrow: " .. table.concat(left_out, ", ") .. " (table.txt has all)"
  end
  return text .. "\n" .. tables.fit(table.concat(lines, "\n"), width)
end

-- What was expected and what came of it, as text; "" where nothing was.
function M.judged_text(result)
  local plan = result.plan
  if plan.quick and #plan.expect == 0 and #plan.experiment.expect > 0 then return expect.NOTHING end
  return expect.text(result.judged, expect.HEADING)
end

-- What the measures found, as text; "" where nothing was measured.
function M.measures_text(result)
  local parts = {}
  for _, name in ipairs(result.plan.experiment.measure) do
    for _, arm in ipairs(result.arms) do
      local record = arm.measured[name]
      if record then parts[#parts + 1] = measures[name].text(arm.name, record) end
    end
  end
  return table.concat(parts, "\n\n")
end

local KEYS = { "arm", "n", "seeds", "diverged", "mean", "deviation", "difference", "low", "high", "level", "p_holm",
               "p_equal", "verdict", "tokens_per_second", "parameters", "state_bytes", "status" }

-- Records of the table for machines. Differences that are the same in every seed have no p-value.
function M.table_records(result)
  local records = {}
  for i, arm in ipairs(result.arms) do
    local c = result.comparison[i]
    local d = c.difference or {}
    local spread = d.se and d.se > 0
    records[i] = { arm = arm.name, n = arm.count.finished, seeds = #arm.runs, diverged = arm.count.diverged, mean = c.mean,
                   deviation = c.deviation, difference = d.mean, low = d.lo, high = d.hi, level = d.level,
                   p_holm = spread and d.p_holm or nil, p_equal = spread and d.p_equal or nil,
                   verdict = i > 1 and verdict_of(i, c) or nil, tokens_per_second = arm.tokens_per_second,
                   parameters = arm.parameters, state_bytes = arm.state_bytes, status = arm.status,
                   measured = next(arm.measured) and arm.measured or nil }
  end
  return records
end

local TEX = { ["\\"] = "\\textbackslash{}", ["~"] = "\\textasciitilde{}", ["^"] = "\\textasciicircum{}", ["<"] = "\\textless{}",
              [">"] = "\\textgreater{}", ["|"] = "\\textbar{}" }

-- A text in which TeX finds no command.
function M.tex(text)
  return (tables.clean(text, true):gsub("[\\~^<>|&%%$#_{}]", function(c) return TEX[c] or "\\" .. c end))
end

-- The table for a paper: arms, losses, differences and verdicts.
function M.table_tex(result)
  local plan, n = result.plan, #result.plan.seeds
  local lines = { ("%% %s"):format(tables.clean(plan.results, true)),
    ("%% loss: nats per token, mean +- deviation over %d seed%s; difference: to the first arm, paired by seed, with its"):format(n, n == 1 and "" or "s"),
    "% t interval, widened for the number of arms (Holm)" .. (plan.margin and (", margin %g"):format(plan.margin) or ""),
    "% \\usepackage{booktabs}", "\\begin{tabular}{lrrl}", "\\toprule", "arm & loss & difference & verdict\\\\", "\\midrule" }
  for i, arm in ipairs(result.arms) do
    local c = result.comparison[i]
    local loss = c.mean and ("$%.4f%s$"):format(c.mean, c.deviation and (" \\pm %.4f"):format(c.deviation) or "") or ""
    if arm.count.diverged > 0 then loss = ("%d of %d diverged"):format(arm.count.diverged, #arm.runs) end
    local d = c.difference and c.difference.n > 0 and "$" .. stats.text(c.difference, plan.margin) .. "$" or ""
    lines[#lines + 1] = ("%s & %s & %s & %s\\\\"):format(M.tex(arm.name), loss, d, M.tex(verdict_of(i, c) or ""))
  end
  lines[#lines + 1] = "\\bottomrule\n\\end{tabular}\n"
  return table.concat(lines, "\n")
end

-- Writes table.txt, table.tsv, table.tex and table.json into dir.
function M.write(result, dir)
  local records, parts = M.table_records(result), {}
  for _, text in ipairs { M.table_text(result, nil, true), M.measures_text(result), M.judged_text(result) } do
    if text ~= "" then parts[#parts + 1] = (#parts == 0 and text or tables.fit(text, WIDE)) .. "\n" end
  end
  sys.write(dir .. "/table.txt", table.concat(parts, "\n"))
  sys.write(dir .. "/table.tsv", tables.tsv(KEYS, records))
  sys.write(dir .. "/table.tex", M.table_tex(result))
  sys.write(dir .. "/table.json", json.encode({ experiment = result.plan.name,
    results = result.plan.results, seeds = result.plan.seeds,
    margin = result.plan.margin, margin_when_made = result.other_margins, measured_apart = result.plan.apart,
    arms = records, expectations = json.array(result.judged) }, { pretty = true }) .. "\n")
end
M.write = core.plain(M.write)

return M
