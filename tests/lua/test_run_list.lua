-- lab.runs: the runs on disk as a list, sorted, with what parts them; their curves as text.
local T = ...
local lab = require "attnlab"
local core = require "attnlab.core"
local curves = require "attnlab.curves"
local run_list = require "attnlab.run_list"
local tables = require "attnlab.table"
local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)
local json, sys = core.json, core.sys

-- f() with environment and width of a terminal.
local function terminal(charset, width, f)
  local before, real = os.getenv "LC_ALL", sys.width
  sys.setenv("LC_ALL", charset)
  sys.width = function() return width end
  local ok, why = pcall(f)
  sys.width = real
  sys.setenv("LC_ALL", before)
  if not ok then error(why, 0) end
end

local path, root = tiny.experiment('{ name = "exp + L2", ["attention.denominator"] = "none", ["attention.output_norm"] = "l2" }')
T.eq(tiny.run { "run", path, "out_dir=" .. root }, 0)
T.eq(tiny.run { "run", path, "lr=0.001", "--seeds", "1", "out_dir=" .. root }, 0)

T.test("the list: what each run is, how it stands, what parts it from most", function()
  local list = lab.runs { out_dir = root }
  T.eq(#list, 6)
  local n = 0
  for _, r in ipairs(list) do
    T.eq({ r.experiment, r.state, r.step }, { "tiny", "finished", 24 })
    T.ok(r.valid_loss > 2 and r.valid_loss < 5)
    T.ok(math.type(r.date) == "integer" and math.abs(r.date - os.time()) < 600, r.date)
    T.eq(r.differs["train.lr"], r.variant and 0.001 or nil)
    if r.arm == "exp + L2" then n = n + (r.differs["attention.output_norm"] == "l2" and 1 or 0) end
    T.eq(r.differs["model.width"], nil)
    T.eq(lab.open(r).arm, r.arm)
    T.eq(#r:curve(), 4)
  end
  T.eq(n, 3)
  T.ok(tostring(list[1]):find "finished at step 24 .*\n  valid/loss  %d%.%d+ ", tostring(list[1]))
end)

T.test("it is chosen from and sorted", function()
  T.eq(#lab.runs { out_dir = root, experiment = "tiny+lr=0.001" }, 2)
  T.eq(#lab.runs { out_dir = root, experiment = "tiny", seed = 1 }, 4)
  T.eq(#lab.runs { out_dir = root, arm = "softmax", seed = 2, state = "finished" }, 1)
  local by = lab.runs { out_dir = root, sort = "loss" }
  for i = 2, #by do T.ok(by[i - 1].valid_loss <= by[i].valid_loss) end
  by = lab.runs { out_dir = root, sort = "date" }
  for i = 2, #by do T.ok(by[i - 1].date <= by[i].date) end
  T.raises(function() lab.runs { out_dir = root, sort = "los" } end, "option 'sort': unknown word 'los' %(did you mean 'loss'")
  T.raises(function() lab.runs { sed = 1 } end, "unknown option 'sed' %(did you mean 'seed'")
  T.raises(function() lab.runs { seed = "1" } end, "option 'seed': number expected, got string")
  T.raises(function() lab.runs { out_dir = root, state = "finishd" } end, "option 'state': unknown word 'finishd' %(did you mean 'finished'")
  T.eq(tostring(lab.runs { out_dir = root .. "/none" }), "no runs in " .. root .. "/none")
  T.eq(tostring(lab.runs { out_dir = root, state = "diverged" }), "none of 6 runs in " .. root .. " fits")
  T.eq(tostring(lab.runs { out_dir = root, experiment = "tiny+lr=0.5" }), "none of 6 runs in " .. root .. "/tiny fits")
end)

T.test("as text it is a table that fits the terminal", function()
  local list = lab.runs { out_dir = root }
  for _, width in ipairs { 80, 120 } do
    terminal("C.UTF-8", width, function()
      local text = tostring(list)
      for line in text:gmatch "[^\n]+" do T.ok(tables.width(line) <= width, line) end
      T.ok(text:find "^ *#  experiment" and text:find "exp %+ L2" and text:find "finished", text)
      T.eq(text:find "output_norm=l2" ~= nil, width == 120)
    end)
  end
end)

T.test("./lab runs prints it, by date or loss, and as JSON", function()
  local status, text = tiny.run { "runs", "out_dir=" .. root, "--sort", "loss" }
  T.ok(status == 0, text)
  local best = lab.runs { out_dir = root, sort = "loss" }[1]
  T.ok(text:match "\n[^\n]*\n(%S+)" == (best.dir:gsub("//", "/")), text)
  status, text = tiny.run { "runs", "tiny", "out_dir=" .. root, "--json" }
  T.eq(status, 0)
  local records = json.decode(text)
  T.eq({ #records, records[1].status, math.type(records[1].date) }, { 6, "finished", "integer" })
  status, text = tiny.run { "runs", "out_dir=" .. root, "--sort", "colour" }
  T.ok(status == 2 and text:find "unknown word 'colour'", text)
end)

T.test("a folder that is damaged is in the list and hides no other", function()
  local copy = T.folder()
  sys.mkdir(copy .. "/tiny/0123456789ab")
  sys.write(copy .. "/tiny/0123456789ab/config.json", "{")
  local list = lab.runs { out_dir = copy }
  T.eq({ #list, list[1].state }, { 1, "damaged" })
  T.ok(tostring(list):find "damaged: " and tostring(list[1]):find "damaged", tostring(list))
end)

T.test("a curve as a line of blocks, or of plain signs", function()
  local points = { { 1, 4 }, { 2, 3 }, { 3, 2 }, { 4, 1 } }
  terminal("C.UTF-8", 80, function()
    T.eq(curves.spark(points), "█▆▃▁")
    T.eq(curves.spark({ { 1, 1 / 0 }, { 2, 1 }, { 3, 2 } }), "x▁█")
    T.eq(utf8.len(curves.spark(({ { 1, 2 } }))), 1)
    local many = {}
    for i = 1, 1000 do many[i] = { i, 1000 - i } end
    T.eq(utf8.len(curves.spark(many)), 24)
  end)
  terminal("C", 80, function() T.eq(curves.spark(points), "^=._") end)
end)

T.test("a figure fits, has both curves with their names, and its points are where they belong", function()
  local series = { { name = "up", points = {} }, { name = "down", points = {} } }
  for i = 1, 50 do
    series[1].points[i], series[2].points[i] = { i, i }, { i, 51 - i }
  end
  for _, width in ipairs { 60, 80, 120 } do
    terminal("C.UTF-8", width, function()
      local text = tostring(curves.figure("both", series))
      T.ok(text:find "^both" and text:find " up" and text:find " down", text)
      for line in text:gmatch "[^\n]+" do T.ok(utf8.len(line) <= width, line) end
      T.eq(select(2, text:gsub("\n", "")), 18)
    end)
    terminal("C", width, function()
      local text = tostring(curves.figure("both", series))
      T.ok(not text:find "[\x80-\xff]", text)
      local lines = {}
      for line in text:gmatch "[^\n]+" do lines[#lines + 1] = line end
      T.ok(lines[2]:find "^ +50 |b" or lines[2]:find "^ +|b", lines[2]) -- down begins high, up ends there
      T.ok(lines[2]:find "a a up$" or lines[3]:find "a a up$", text)
      T.ok(lines[17]:find "|a" and lines[17]:find "b b down$", text)
    end)
  end
end)

T.test("more curves than lines: as many are named", function()
  local series = {}
  for k = 1, 20 do series[k] = { name = "curve " .. k, points = { { 1, 30 - k }, { 2, 40 + k } } } end
  terminal("C.UTF-8", 80, function()
    local text = tostring(curves.figure("all", series))
    T.ok(text:find "^all, logarithmic axes; 20 curves, 16 of them named\n", text)
    T.eq(select(2, text:gsub("curve %d+", "")), 16)
  end)
end)

T.test("what cannot be drawn is said", function()
  T.ok(tostring(curves.figure("x", {})):find "nothing to draw")
  T.ok(tostring(curves.figure("x", { { name = "nan", points = { { 1, 0 / 0 } } } })):find "nothing to draw")
  T.ok(tostring(curves.figure("x", { { name = "one", points = { { 5, 0 } } } })):find "one")
  T.raises(function() curves.plot({}, nil) end, "nothing was recorded")
  T.raises(function() curves.plot({ { step = 1, lr = 1 } }, "lrr") end, "unknown measurement 'lrr' %(did you mean 'lr'")
  T.raises(function() lab.open("stories260K"):plot() end, "is a model file, and has no curve")
end)

T.test("a training shows its curves in a line each, and draws them", function()
  local m = lab.model.new { layers = 1, width = 16, heads = 2, mlp = 32, context = 16, vocab = 65, seed = 1 }
  local r = lab.train(m, { steps = 12, batch_size = 4, eval_interval = 4, eval_windows = 8, log_interval = 2, quiet = true })
  local text = tostring(r)
  T.ok(text:find "^training finished at step 12\n  train/loss  4%.%d+ %S+ %d%.%d+ at step 12\n  valid/loss", text)
  T.ok(tostring(r:plot()):find "train/loss" and tostring(r:plot "valid/loss"):find "^valid/loss")
  T.eq(r:curve(), r:curve "valid/loss")
  terminal("C.UTF-8", 80, function()
    local all = tostring(lab.runs { out_dir = root, seed = 1 }:plot())
    T.ok(all:find "%l softmax\n" and all:find "%l tiny%+lr=0.001, softmax", all)
  end)
end)
