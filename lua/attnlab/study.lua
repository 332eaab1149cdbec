-- lab.study{...}: a measurement over a grid of cases without training, as data.
--   name      folder under runs/
--   kind      what is measured: a module of study/, by its name (recurrence, surgery)
--   title, question, source, story, next   texts, as in an experiment
--   cases     list of tables; the kind says which keys it knows (its rows)
--   seeds     of the random inputs
--   expect    list of tables; the kind says what it can judge. Kept with each case when it is measured
--   quick     { cases=, seeds=, expect= } in place of the others, for --quick, which judges what stands in quick.expect and
--             nothing else; without `quick` there is no small version, and --quick is refused
--
-- Every case with every seed has a folder runs/<name>/<id>/ with case.json and result.json, written when
-- it is done: a study that was stopped goes on with the next one.
--
-- A kind returns { rows (options of a case), expand(case, folder of the file) -> list of plain cases, seeded(case) -> false
-- when no seed matters, title(case), cost(case), run(case, seed, stop) -> numbers by name, gather(list of
-- { case, results }) -> records, columns, keys, expect (known keys), judge(expect, records) -> { {text, outcome, detail},
-- .. } }. It may have figure(records, study) -> what panels.lua draws, or nil; inputs_hash(case) -> hash of the files
-- that are measured; prepare(cases, options) -> "done" or how it ended, called before the first measurement;
-- stale(case, result, root) -> whether it was measured on something that is not there any more; shown(records) -> the
-- records of the printed table; document(records, study, table, figure, judged) -> text of report.md.
-- A change here makes no run stale.
local board = require "attnlab.board"
local core = require "attnlab.core"
local expect = require "attnlab.expect"
local found = require "attnlab.found"
local given = require "attnlab.given"
local names = require "attnlab.names"
local panels = require "attnlab.panels"
local progress = require "attnlab.progress"
local results = require "attnlab.results"
local rows = require "attnlab.rows"
local store = require "attnlab.store"
local tables = require "attnlab.table"
local words = require "attnlab.words"
local json, sys = core.json, core.sys

local Study = {}
Study.__index = Study

local TYPES = { name = "string", kind = "string", title = "string", question = "string", source = "string",
                story = "string", next = "string", cases = "table", seeds = "table", expect = "table", quick = "table" }
local KINDS, QUICK = found "study", { "cases", "seeds", "expect" }

local function fail(s, ...)
  error(("study%s: %s"):format(s.name and " '" .. s.name .. "'" or "", (...):format(select(2, ...))), 0)
end

local function check_list(s, what, list)
  local why = type(list) ~= "table" and "a list expected, got " .. given.show(list) or given.list(list)
  if why then fail(s, "%s: %s", what, why) end
end

local function check_seeds(s, seeds)
  local seen = {}
  check_list(s, "seeds", seeds)
  if #seeds == 0 then fail(s, "seeds: a list such as {1,2,3} is needed") end
  for _, v in ipairs(seeds) do
    if math.type(v) ~= "integer" or v < 0 or seen[v] then
      fail(s, "seeds: different whole numbers >= 0 expected, got %s", given.show(v))
    end
    seen[v] = true
  end
end

-- Plain cases of the grid, checked and complete.
local function expand(s, cases)
  local list, same = {}, {}
  check_list(s, "cases", cases)
  if #cases == 0 then fail(s, "cases: there is none") end
  for i, item in ipairs(cases) do
    if type(item) ~= "table" then fail(s, "case %d: a table expected", i) end
    local case = {}
    for _, row in ipairs(s.module.rows) do case[row.name] = rows.default(row) end
    for k in pairs(item) do
      if type(k) ~= "string" then fail(s, "case %d: key %s: names of options expected", i, given.show(k)) end
    end
    for _, k in ipairs(names.keys(item)) do
      local row = rows.find(s.module.rows, k)
      if not row then fail(s, "case %d: %s", i, names.unknown("key", k, rows.names(s.module.rows))) end
      local ok, v = pcall(rows.check, row, item[k], k)
      if not ok then fail(s, "case %d: %s", i, v) end
      case[k] = v
    end
    local good, expanded = pcall(s.module.expand, case, s.folder)
    if not good then fail(s, "case %d: %s", i, expanded) end
    for _, c in ipairs(expanded) do
      local text = json.encode(c)
      if same[text] then fail(s, "cases %d and %d hold the same: %s", same[text], i, s.module.title(c)) end
      same[text], list[#list + 1] = i, c
    end
  end
  return list
end

-- The module says by key what type an expectation's value has, and which keys (all where it does not
-- say) claim something.
local function check_expectation(s, i, x)
  local types, claims, claim = s.module.expect, s.module.claims or s.module.expect, false
  if type(x) ~= "table" then fail(s, "expect: entry %d: table expected, got %s", i, tostring(x)) end
  for k, v in pairs(x) do
    if not types[k] then fail(s, "expect: entry %d: %s", i, names.unknown("key", tostring(k), names.keys(types))) end
    if type(v) ~= types[k] then
      fail(s, "expect: entry %d: %s: %s expected, got %s", i, k, types[k], rows.show(v))
    end
    local bad = types[k] == "number" and given.number(v)
    if bad then fail(s, "expect: entry %d: %s: %s", i, k, bad) end
    -- false would leave open what is expected instead
    if claims[k] and v == false then fail(s, "expect: entry %d: %s: true expected, got false", i, k) end
    claim = claim or claims[k] ~= nil
  end
  if not claim then
    fail(s, "expect: entry %d: one of these expected: %s", i, table.concat(names.keys(claims), ", "))
  end
end

local function new(spec)
  if type(spec) ~= "table" then error("study: a table expected, got " .. type(spec), 0) end
  local s = setmetatable({}, Study)
  for k, v in pairs(spec) do s[k] = v end
  if type(s.name) ~= "string" or not s.name:match "^[%w][%w_-]*$" then
    s.name = nil
    fail(s, "name: letters, digits, - and _ expected, got %s", tostring(spec.name))
  end
  for k, v in pairs(spec) do
    if not TYPES[k] then fail(s, "%s", names.unknown("key", k, names.keys(TYPES))) end
    if type(v) ~= TYPES[k] then fail(s, "%s: %s expected, got %s", k, TYPES[k], type(v)) end
  end
  if not names.find(KINDS, s.kind) then fail(s, "%s", names.unknown("kind", tostring(s.kind), KINDS)) end
  s.module = require("attnlab.study." .. s.kind)
  s.has_quick = s.quick ~= nil
  s.expect, s.quick, s.folder = s.expect or {}, s.quick or {}, require("attnlab.plugins").folder
  given.clean(s)
  check_list(s, "expect", s.expect)
  for k in pairs(s.quick) do
    if not names.find(QUICK, k) then fail(s, "quick: %s", names.unknown("key", tostring(k), QUICK)) end
  end
  check_seeds(s, s.seeds or {})
  if s.quick.seeds then check_seeds(s, s.quick.seeds) end
  expand(s, s.cases or {})
  if s.quick.cases then expand(s, s.quick.cases) end
  check_list(s, "quick: expect", s.quick.expect or {})
  for _, list in ipairs { s.expect, s.quick.expect or {} } do
    for i, x in ipairs(list) do check_expectation(s, i, x) end
  end
  return s
end

-- What a call may judge.
local function expected(self, quick)
  return quick and (self.quick.expect or {}) or self.expect
end

-- What one call measures: { {case, seed, dir}, .. }. options: quick, seeds, root, device (the current one).
function Study:plan(options)
  local device = (options.device or core.on()):match "^[^:]*"
  if options.quick and not self.has_quick then fail(self, "%s", given.NO_QUICK) end
  local seeds = options.seeds or options.quick and self.quick.seeds or self.seeds
  check_seeds(self, seeds)
  local list = { quick = options.quick }
  for i, case in ipairs(expand(self, options.quick and self.quick.cases or self.cases)) do
    for k, seed in ipairs(seeds) do
      if k == 1 or self.module.seeded(case) then
        local identity = { kind = self.kind, case = case, seed = seed, device = device ~= "cpu" and device or nil,
                           inputs = self.module.inputs_hash and self.module.inputs_hash(case) }
        local counts = {} -- a text counts by its hash, which the inputs have
        for k, v in pairs(identity) do counts[k] = v end
        counts.case = {}
        for k, v in pairs(case) do counts.case[k] = k ~= "data" and v or nil end
        local id = sys.sha256(json.encode(counts)):sub(1, 12)
        list[#list + 1] = { case = case, index = i, expect = expected(self, options.quick), seed = seed, identity = identity,
                            dir = names.inside(options.root, self.name .. "/" .. id) }
      end
    end
  end
  return list
end

-- The hash that a result carries: of all that it holds beside it.
local function seal(result)
  result.made.sha256 = nil
  return sys.sha256(json.encode(result))
end

local MOST = 1 << 24 -- bytes of a record that are read

-- nil where there is none, with the file's path where it holds something else than measure wrote.
local function result_of(item)
  local path = item.dir .. "/result.json"
  if not sys.exists(path) then return nil end
  local ok, r = pcall(function()
    local result = json.decode(sys.read(path, MOST))
    local given = result.made.sha256
    return given == seal(result) and result
  end)
  if ok and r then return r end
  return nil, names.shown(path)
end

-- What is measured of a case; nothing is recorded for gradients, but where the kind of study trains.
local function run(m, case, seed)
  if m.trains then return m.run(case, seed) end
  return core.no_grad(m.run, case, seed)
end

-- The most bytes of tensors that the measurement will hold at once; nil for a kind that works on models which are
-- somewhere already, or not there yet.
function Study:memory(item)
  if self.module.uncounted then return nil end
  return (require("attnlab.budget").counted(run, self.module, item.case, item.seed))
end

-- One case, under the lock of its folder. False: another process has it.
local function measure(self, item)
  sys.mkdir(item.dir)
  local lock <close> = store.lock(item.dir)
  if not lock then return false end
  if result_of(item) then return true end
  local record = { expect = json.array(item.expect) }
  for k, v in pairs(item.identity) do record[k] = v end
  sys.write(item.dir .. "/case.json", json.encode(record, { pretty = true }) .. "\n")
  collectgarbage()
  collectgarbage()
  core.reset_peak()
  local before = core.memory().live
  local result = run(self.module, item.case, item.seed)
  result.made = { memory = core.memory().peak - before, source = store.source_hash(), libraries = store.libraries(core.on()), threads = core.threads() }
  result.made.sha256 = seal(result)
  sys.write(item.dir .. "/result.json", json.encode(result, { pretty = true }) .. "\n")
  return true
end

-- Measures what is not there yet. Returns "done", "interrupted" or "failed".
function Study:work(list, options)
  local out = board.new(options.quiet and io.stderr or nil)
  local todo, left, done = {}, 0, 0
  for _, item in ipairs(list) do
    if options.fresh then store.restart(item.dir) end
    local result, damaged = result_of(item)
    if damaged then out:say(damaged .. ": not the record of a measurement; measured again") end
    if not result then
      todo[#todo + 1], left = item, left + self.module.cost(item.case)
    end
  end
  out:say(("%s: %d measurements, %d to do"):format(self.name, #list, #todo))
  if self.module.prepare and #todo > 0 then
    local cases = {}
    for i, item in ipairs(todo) do cases[i] = item.case end
    local outcome = self.module.prepare(cases, options)
    if outcome ~= "done" then return outcome end
  end
  local began, total, stopped, failed = sys.clock(), left, false, false
  sys.catch_interrupts(true)
  local ok, why = pcall(function()
    for i, item in ipairs(todo) do
      local title = ("%s  seed %d"):format(self.module.title(item.case), item.seed)
      out:show(function()
        local passed = sys.clock() - began
        return { "  " .. title, ("%d of %d | %.0f %% | %s%s"):format(#list - #todo + i - 1, #list,
          100 * (total > 0 and done / total or 1), progress.clock(passed),
          done > 0 and " | eta " .. progress.clock(passed * (total - done) / done) or "") }
      end)
      local good, result = pcall(measure, self, item)
      if not good and tostring(result):find "interrupted$" then error(result, 0) end
      if not good or not result then
        failed = true
        out:say(("%s: %s"):format(title, good and "locked: another process is working on it" or names.reason(tostring(result))))
      end
      collectgarbage()
      done = done + self.module.cost(item.case)
      if sys.interrupted() > 0 then
        stopped = i < #todo
        break
      end
    end
  end)
  out:erase()
  sys.catch_interrupts(false)
  if not ok and not tostring(why):find "interrupted" then error(why, 0) end
  if not ok or stopped then return "interrupted" end
  for _, item in ipairs(list) do -- what was removed meanwhile is missing, whoever did it
    if not result_of(item) and not failed then
      failed = true
      out:say(names.shown(item.dir) .. ": the measurement is not there any more")
    end
  end
  return failed and "failed" or "done"
end

-- What was expected when a case was measured.
local function expected_of(item)
  local ok, record = pcall(function() return json.decode(sys.read(item.dir .. "/case.json", MOST)) end)
  return ok and type(record) == "table" and type(record.expect) == "table" and record.expect or {}
end

-- What has been measured, by case: { {case, results}, .. }; how many are missing; whether other sources
-- made any of them; what was expected of each.
local function gather(list, module, root)
  local groups, by_index, missing, stale, made = {}, {}, 0, false, {}
  for _, item in ipairs(list) do
    local r = result_of(item)
    if r then
      local g = by_index[item.index]
      if not g then
        g = { case = item.case, results = {} }
        by_index[item.index], groups[#groups + 1] = g, g
      end
      g.results[#g.results + 1] = r
      made[#made + 1] = { list = expected_of(item) }
      stale = stale or r.made.source ~= store.source_hash() or module.stale and module.stale(item.case, r, root)
    else
      missing = missing + 1
    end
  end
  return groups, missing, stale, made
end

-- The name under which the results of such a call stand.
function Study:results(options)
  local declared = options.quick and self.quick.seeds or self.seeds
  local other = options.seeds and table.concat(options.seeds, ",") ~= table.concat(declared, ",")
  local plan = { name = self.name }
  results.label(plan, self.name, { device = options.device or core.on(), quick = options.quick and next(self.quick) ~= nil, seeds = other and options.seeds })
  return plan.results
end

-- What came out: records, the table as text, what was judged.
function Study:outcome(list, root)
  local m = self.module
  local groups, missing, stale, made = gather(list, m, root)
  local records = m.gather(groups)
  local judged = missing > 0 and {}
    or expect.outcomes(expected(self, list.quick), made, function(x) return m.judge({ x }, records) end)
  local cells = {}
  for i, r in ipairs(m.shown and m.shown(records) or records) do
    cells[i] = {}
    for k, c in ipairs(m.columns) do cells[i][k] = c.show(r) or "" end
  end
  local heads, legend, notes = {}, {}, ""
  for k, c in ipairs(m.columns) do
    heads[k] = { key = k, title = c.title, right = c.right, wrap = c.wrap, drop = c.drop }
    legend[#legend + 1] = c.doc and "  " .. c.doc
  end
  if missing > 0 then notes = notes .. ("\n%d of %d measurements are missing"):format(missing, #list) end
  if stale then notes = notes .. "\nstale: other sources or inputs made some of these; --fresh measures again" end
  legend = "\n\n" .. table.concat(legend, "\n")
  -- for a terminal of a width; with what the columns mean
  local function shown(width, with_legend)
    local text, left_out = tables.text(heads, cells, width)
    local less = #left_out > 0 and ("\n\n  left out, as the terminal is narrow: %s (table.txt has all)"):format(table.concat(left_out, ", ")) or ""
    return text .. tables.fit(less .. (with_legend and legend or "") .. notes, width)
  end
  return { records = records, text = shown(nil, true), shown = shown, judged = judged }
end
Study.outcome = core.plain(Study.outcome)

-- Writes table and figure of an outcome into the folder. Returns the figure's path or nil, why, and whether it failed.
function Study:write(out, dir)
  local m, records, text, judged = self.module, out.records, out.text, out.judged
  sys.mkdir(dir)
  sys.write(dir .. "/table.txt", text .. "\n")
  sys.write(dir .. "/table.tsv", tables.tsv(m.keys, records))
  sys.write(dir .. "/table.json", json.encode({ study = self.name, records = json.array(records),
    expectations = json.array(judged) }, { pretty = true }) .. "\n")
  if #records == 0 then return nil, "nothing was measured" end
  local drawing = m.figure and m.figure(records, self)
  local figure, why, broken = nil, "this kind of study has none", false
  if drawing then figure, why, broken = panels.draw(drawing, dir, "figure") end
  if m.document then
    sys.write(dir .. "/report.md", m.document(records, self, text, figure ~= nil, expect.text(judged, "Expected:")) .. "\n")
  end
  return figure, why, broken
end
Study.write = core.plain(Study.write)

-- Prints what came out, then writes it: the folder may not take it. Returns whether all could be written and drawn.
function Study:report(list, root, options)
  local dir = names.inside(root, self:results(options))
  local out = self:outcome(list, root)
  local function write() return names.attempt("results not written", self.write, self, out, dir) end
  if options.json then
    local written, why, _, broken = write()
    if written then print(sys.read(dir .. "/table.json")) else words.no_value(why) end
    return written and not broken
  end
  local width = tables.terminal()
  local function say(text) print(tables.fit(text, width)) end
  if self.question then say("\n" .. self.question) end
  if self.source then say("Source: " .. self.source) end
  print("\n" .. out.shown(width, options.legend))
  if #out.judged > 0 then say("\n" .. expect.text(out.judged, "Expected:")) end
  if options.quick and #self.expect > 0 and #expected(self, true) == 0 then say("\n" .. expect.NOTHING) end
  if self.story and not options.quick then say("\n" .. self.story) end
  local written, figure, why, broken = write()
  if written then
    print(("\ntable   %s/table.txt (.tsv .json; what the columns mean)"):format(names.shown(dir)))
    if self.module.document then print(("report  %s/report.md"):format(names.shown(dir))) end
    print(figure and ("figure  %s (.svg)"):format(figure.png) or "figure  none: " .. why)
  end
  if self.next then print("next    " .. self.next) end
  return written and not broken
end

local M = { new = new, class = Study }
return setmetatable(M, { __call = function(_, spec) return new(spec) end })
