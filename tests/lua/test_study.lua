-- Studies: the grid as data, its files, resuming, what is judged; the recurrence against what is known.
local T = ...
local core = require "attnlab.core"
local lab = require "attnlab"
local panels = require "attnlab.panels"
local recurrence = require "attnlab.study.recurrence"
local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)
local json, sys = core.json, core.sys

local function spec(more)
  local s = { name = "tiny", kind = "recurrence", question = "does it run?", seeds = { 1, 2 },
              cases = { { head_dim = 4, heads = 1, orders = { 1, 2, 4 }, tokens = 12 },
                        { head_dim = 4, heads = 1, scale = 0.25, orders = { 2, 4, 6 }, tokens = 12 } },
              expect = { { forms_within = 1e-4 }, { falls_from = 2 } } }
  for k, v in pairs(more or {}) do s[k] = v or nil end
  return s
end

T.test("what a study refuses", function()
  local function refuses(pattern, more) T.raises(function() lab.study(spec(more)) end, pattern) end
  T.raises(function() lab.study(3) end, "a table expected")
  refuses("did you mean 'seeds'", { seed = { 1 } })
  refuses("unknown kind 'recurrense' %(did you mean 'recurrence'", { kind = "recurrense" })
  refuses("name: letters", { name = "a b" })
  refuses("case 1: unknown key 'order' %(did you mean 'orders'", { cases = { { order = { 1 } } } })
  refuses("case 1: option 'scale': number >= 0 expected, got 'x'", { cases = { { scale = "x" } } })
  refuses("whole numbers expected, got 1.5", { cases = { { orders = { 1.5 } } } })
  refuses("'nothing': normal or a model", { cases = { { inputs = "nothing" } } })
  refuses("cases 1 and 2 hold the same: D = 16, logits of deviation 1, order 2", { cases = { {}, { orders = { 3, 2 } } } })
  refuses("cases: there is none", { cases = {} })
  refuses("different whole numbers", { seeds = { 1, 1 } })
  refuses("seeds: a list", { seeds = {} })
  refuses("did you mean 'falls_from'", { expect = { { fall_from = 2 } } })
  refuses("case 1: orders: there is none", { cases = { { orders = {} } } })
  refuses("'orders': list of numbers >= 1 expected, got {0}", { cases = { { orders = { 0 } } } })
  refuses("expect: entry 1: forms_within: number expected, got x", { expect = { { forms_within = "x" } } })
  refuses("expect: entry 2: table expected, got 3", { expect = { { falls_from = 2 }, 3 } })
  refuses("expect: entry 1: one of these expected: falls_from, ", { expect = { {} } })
  refuses("quick: unknown key 'case' %(did you mean 'cases'", { quick = { case = {} } })
end)

T.test("a study is taken to its last entry, and says one thing", function()
  local function refuses(pattern, more) T.raises(function() lab.study(spec(more)) end, pattern) end
  refuses("seeds: entry 2 is nil", { seeds = { 1, nil, 3 } })
  refuses("seeds: a list expected, got the key 'x'", { seeds = { 1, x = 2 } })
  refuses("seeds: .*got '1'", { seeds = { "1" } })
  refuses("cases: entry 1 is nil", { cases = { nil, {} } })
  refuses("cases: a list expected, got the key 'a'", { cases = { {}, a = {} } })
  refuses("case 1: key 1: names of options expected", { cases = { { 3 } } })
  refuses("expect: a list expected, got the key 'falls_from'", { expect = { falls_from = 2 } })
  refuses("expect: entry 1: falls_from: a number expected, got inf", { expect = { { falls_from = 1 / 0 } } })
  refuses("expect: entry 1: state_constant: true expected, got false", { expect = { { state_constant = false } } })
  refuses("seeds: a list expected, got 3", { quick = { seeds = 3 } })
  refuses("cases: a list expected, got 'x'", { quick = { cases = "x" } })
  refuses("quick: unknown key '1'", { quick = { {} } })
  T.eq(lab.study(spec { story = "\27[2J\n" }).story, "\\x1b[2J\n")
end)

T.test("measured once, resumed, judged; changed expectations are judged anew and say so", function()
  local root = T.folder()
  local s = lab.study(spec())
  local list = s:plan { root = root }
  T.eq(#list, 12)
  T.eq(s:work(list, { quiet = true }), "done")
  local function result(item) return json.decode(sys.read(item.dir .. "/result.json")) end
  local first, kept = result(list[1]), result(list[2])
  sys.remove(list[1].dir .. "/result.json")
  local other = result(list[2]) -- seen to be kept
  other.softmax, other.made.sha256 = 7, nil
  other.made.sha256 = sys.sha256(json.encode(other))
  sys.write(list[2].dir .. "/result.json", json.encode(other))
  T.eq(s:work(s:plan { root = root }, { quiet = true }), "done")
  for _, k in ipairs { "softmax", "forms", "series", "state" } do T.eq(result(list[1])[k], first[k]) end
  T.eq(result(list[2]).softmax, 7)
  local digit = sys.read(list[6].dir .. "/result.json"):gsub('("softmax": )(%d)', function(before, d) return before .. (d + 1) % 10 end)
  for i, text in ipairs { "", "garbage", "[]", '{"x":1}', '{"made":7}', digit } do sys.write(list[i].dir .. "/result.json", text) end
  T.eq(s:work(list, { quiet = true }), "done")
  T.eq(result(list[1]).softmax, first.softmax)
  T.ok(sys.read(list[6].dir .. "/result.json") ~= digit, "one digit is another measurement")
  T.eq(s:work(list, { quiet = true, fresh = true }), "done")
  T.eq(result(list[2]).softmax, kept.softmax)
  local changed = lab.study(spec { expect = { { forms_within = 1e-5 }, { falls_from = 2 } } })
  T.eq(changed:plan({ root = root })[1].dir, list[1].dir)
  local function lines(study)
    local out = {}
    for i, r in ipairs(study:outcome(list, root).judged) do out[i] = r.outcome .. (r.changed and ", changed" or "") end
    return out
  end
  T.eq(lines(changed), { "held, changed", "held", "taken out, changed" })
  T.eq(lines(s), { "held", "held" })

  local out = s:outcome(list, root)
  local text, judged, figure = out.text, out.judged, s:write(out, root .. "/tiny")
  T.ok(text:find "to softmax" and figure.png and #judged == 2)
  local t = json.decode(sys.read(root .. "/tiny/table.json"))
  T.eq(#t.records, 6)
  local path = T.folder() .. "/tiny.lua"
  sys.write(path, 'return require("attnlab").study{name="tiny",kind="recurrence",seeds={1},cases={{head_dim=4,heads=1,orders={1},tokens=12}}}')
  local unfit = T.folder()
  sys.mkdir(unfit .. "/tiny/table.txt") -- nothing can be written in its place
  local status, shown = tiny.run { "run", path, "out_dir=" .. unfit }
  T.ok(status == 1 and shown:find "to softmax" and shown:find "results not written: [^\n]*table.txt", shown)
  T.eq({ t.expectations[1].outcome, t.expectations[2].outcome }, { "held", "held" })
  for _, r in ipairs(t.records) do
    T.ok(r.forms < 1e-5 and r.rounding < 1e-4 and r.n == 2 and r.state > 0 and r.largest < 8, r.group)
  end
  T.ok(t.records[6].softmax < 1e-5, "order 6 of small logits is softmax to rounding")
  for _, name in ipairs { "table.txt", "table.tsv", "figure.png", "figure.svg" } do
    T.ok(sys.exists(root .. "/tiny/" .. name) == "file", name)
  end
end)

T.test("a measurement that another process holds or that fails is named, the others are done", function()
  local root = T.folder()
  local s = lab.study(spec { seeds = { 1 } })
  local list = s:plan { root = root }
  sys.mkdir(list[2].dir)
  local lock <close> = sys.lock(list[2].dir .. "/lock")
  local real = recurrence.run
  recurrence.run = function(case, seed)
    if case.order == 4 and case.scale == 1 then error("no memory for that", 0) end
    return real(case, seed)
  end
  local ok, outcome = pcall(s.work, s, list, { quiet = true })
  recurrence.run = real
  T.eq({ ok, outcome }, { true, "failed" })
  for i, item in ipairs(list) do T.eq(sys.exists(item.dir .. "/result.json") == "file", i ~= 2 and i ~= 3) end
end)

T.test("judged by what was measured", function()
  local function record(order, softmax, more)
    local r = { inputs = "normal", group = "g", order = order, even = order % 2 == 0, largest = 4, softmax = softmax,
                series = softmax, rounding = 1e-7, forms = 1e-7, forms_high = 2e-7, grown = 0 }
    for k, v in pairs(more or {}) do r[k] = v end
    return r
  end
  local function outcomes(records, ...)
    local out = {}
    for i, r in ipairs(recurrence.judge({ ... }, records)) do out[i] = r.outcome end
    return out
  end
  local all = { { forms_within = 1e-4 }, { state_constant = true }, { falls_from = 2 }, { series_within = 2 } }
  T.eq(outcomes({ record(2, 0.3), record(3, 0.4), record(4, 0.1) }, table.unpack(all)), { "held", "held", "held", "held" })
  T.eq(outcomes({ record(2, 0.3, { grown = 8 }), record(4, 0.31, { forms_high = 2e-4, series = 0.1 }) }, table.unpack(all)),
    { "REFUTED", "REFUTED", "REFUTED", "REFUTED" })
  T.eq(outcomes({ record(2, 0.3), record(4, 0 / 0, { forms_high = 0 / 0 }) }, table.unpack(all)),
    { "REFUTED", "held", "REFUTED", "REFUTED" })
  T.eq(outcomes({ record(2, 0.3), record(4, 9, { largest = 9 }), record(6, 0.1) }, { falls_from = 2 }), { "held" })
  T.eq(outcomes({ record(2, 0.3) }, { falls_from = 2 }), { "not shown" })
end)

T.test("panels: ranges, ticks, what an axis cannot show", function()
  local fig = { title = "it's", legend = { { name = "a", style = { colour = 2, dash = 2 } } }, panels = {
    { title = "one", xlabel = "x", ylabel = "y", logy = true, curves = {
      { colour = 2, marks = true, points = { { 1, 0 }, { 2, 1e-3, low = 1e-4, high = 1e-2, label = "two" }, { 3, 0 / 0 } } } } },
    { title = "none", xlabel = "x", ylabel = "y", curves = { { points = {} } } } } }
  local text = panels.script(fig, { { "png", "f.png" } })
  T.ok(text:find("'it''s'", 1, true) and text:find("$p1c1 << EOD\n2 0.001\nEOD", 1, true), text)
  T.ok(text:find("2 0.001 0.0001 0.01", 1, true) and text:find("'two'", 1, true) and not text:find "'none'")
end)

T.test("the command: quick, refused keys, files; the experiment of the project", function()
  local dir = T.folder()
  local path = dir .. "/s.lua"
  sys.write(path, [[return require("attnlab").study { name = "tiny", kind = "recurrence", question = "does it run?",
    seeds = { 1, 2 }, cases = { { orders = { 9 }, tokens = 4000 } }, expect = { { forms_within = 1e-4 }, { falls_from = 20 } },
    quick = { seeds = { 1 }, cases = { { head_dim = 4, orders = { 2, 4 }, tokens = 8 }, { inputs = "stories260K", tokens = 5 } },
              expect = { { forms_within = 1e-4 }, { falls_from = 20 } } } }]])
  local status, text = tiny.run { "run", path, "--quick", "out_dir=" .. dir .. "/runs" }
  T.ok(status == 0 and text:find "held +recurrent equals parallel" and text:find "not shown  the distance to softmax falls" and text:find "stories260K, D = 8", text)
  T.ok(sys.exists(dir .. "/runs/tiny+quick/figure.png") == "file")
  status, text = tiny.run { "run", path, "--quick", "out_dir=" .. dir .. "/runs" }
  T.ok(status == 0 and text:find "3 measurements, 0 to do", text)
  status, text = tiny.run { "plot", path, "--quick", "out_dir=" .. dir .. "/none" }
  T.ok(status == 0 and text:find "3 of 3 measurements are missing" and text:find "figure  none", text)
  status, text = tiny.run { "run", path, "steps=3" }
  T.ok(status == 2 and text:find "out_dir=DIR alone", text)
  status, text = tiny.run { "run", T.root .. "experiments/recurrent_softmax.lua", "--quick", "--print-config" }
  T.ok(status == 0 and #json.decode(text).measurements == 13, text)
end)

T.test("a quick run judges what quick.expect lists, and a file without quick has none", function()
  local dir = T.folder()
  local function run(quick, ...)
    local path = dir .. "/s.lua"
    sys.write(path, ([[return require("attnlab").study { name = "tiny", kind = "recurrence", seeds = { 1 },
      cases = { { head_dim = 4, orders = { 2 }, tokens = 8 } }, expect = { { forms_within = 1e-4 } }, %s }]]):format(quick))
    return tiny.run { "run", path, "out_dir=" .. dir .. "/runs", ... }
  end
  local status, text = run("quick = { seeds = { 2 } }", "--quick")
  T.ok(status == 0 and text:find "this one lists nothing" and not text:find "Expected", text)
  status, text = run("quick = { seeds = { 2 }, expect = { { state_constant = true } } }", "--quick")
  T.ok(status == 0 and text:find "held +the state does not grow" and not text:find "held +recurrent equals", text)
  status, text = run("", "--quick")
  T.ok(status == 2 and text:find "the file has no `quick`", text)
  status, text = run "quick = { seeds = { 2 } }"
  T.ok(status == 0 and text:find "held +recurrent equals", text)
  T.raises(function() lab.study(spec { quick = { expect = { { forms = 1 } } } }) end, "expect: entry 1: unknown key 'forms'")
end)

T.test("interrupted: ends after the measurement under way, goes on with what is left", function()
  local dir = T.folder()
  local path = dir .. "/s.lua"
  sys.write(path, [[return require("attnlab").study { name = "tiny", kind = "recurrence", seeds = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 },
    cases = { { head_dim = 4, orders = { 2, 3, 4 }, tokens = 200 } } }]])
  local pid, out = tiny.start { "run", path, "out_dir=" .. dir .. "/runs" }
  local function results()
    local n = 0
    local root = dir .. "/runs/tiny"
    if sys.exists(root) ~= "dir" then return 0 end
    for _, id in ipairs(sys.list(root)) do n = n + (sys.exists(root .. "/" .. id .. "/result.json") and 1 or 0) end
    return n
  end
  for _ = 1, 600 do
    if results() > 0 then break end
    sys.sleep(0.01)
  end
  sys.kill(pid, 2)
  local how, code = sys.wait(pid)
  local n = results()
  T.ok(how == "exited" and code == 130 and n > 0 and n < 30, ("%s %s, %d done\n%s"):format(how, code, n, sys.read(out)))
  T.ok(sys.read(out):find "the same command goes on")
  local status, text = tiny.run { "run", path, "out_dir=" .. dir .. "/runs" }
  T.ok(status == 0 and text:find("30 measurements, " .. 30 - n .. " to do", 1, true), text)
  T.eq(results(), 30)
end)
