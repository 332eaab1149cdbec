-- Results keep their names: what the command line changes of an experiment stands beside it, over nothing.
local T = ...
local lab = require "attnlab"
local json = require("attnlab.core").json
local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)
local sys = require("attnlab.core").sys

local function labels(set, more)
  local e = lab.experiment { name = "soft-plus", base = { steps = 20, layers = 2 }, seeds = { 1, 2 }, question = "Why?",
                             arms = { { name = "a" }, { name = "b", ["attention.denominator"] = "length" } },
                             quick = { steps = 5, seeds = { 1 } } }
  local options = { set = set }
  for k, v in pairs(more or {}) do options[k] = v end
  local plan = e:plan(options)
  return plan.results, plan.variant, plan.title
end

T.test("a name is that of the experiment and of what was changed", function()
  T.eq({ labels {} }, { "soft-plus", "soft-plus", "Why?" })
  T.eq({ labels { { "lr", "1e-3" } } }, { "soft-plus+lr=0.001", "soft-plus+lr=0.001", "Why?   [lr=0.001]" })
  T.eq({ labels { { "train.lr", ".001" }, { "width", "32" } } }, { labels { { "width", "32" }, { "lr", "1e-3" } } })
  T.eq(labels { { "lr", "3" }, { "lr", "0.002" } }, "soft-plus+lr=0.002")
  T.eq(labels { { "attention.output_norm", "l2" }, { "attention.denominator.floor", "1" } }, "soft-plus+denominator.floor=1+output_norm=l2")
  -- what changes nothing is no change
  T.eq(labels { { "steps", "20" } }, "soft-plus")
  T.eq(labels({}, { seeds = { 1, 2 } }), "soft-plus")
  T.eq({ labels({}, { seeds = { 1, 2, 3 } }) }, { "soft-plus+seeds=1,2,3", "soft-plus", "Why?   [seeds=1,2,3]" })
  T.eq(labels({}, { quick = true }), "soft-plus+quick")
  T.eq(labels({ { "lr", "0.002" } }, { quick = true, seeds = { 4 } }), "soft-plus+lr=0.002+quick+seeds=4")
end)

T.test("a name is fit for a folder, and two changes have two", function()
  local seen = {}
  for _, text in ipairs { "exp(s/2)", "exp(s*2)", "exp(s 2)", "../x", ("exp(s)+"):rep(40) .. "s", ("exp(s)+"):rep(40) .. "1" } do
    local plan = { name = "soft-plus" }
    require("attnlab.results").label(plan, "", { set = { { "attention.expr", text } } })
    T.ok(plan.results:find "^soft%-plus%+expr=[%w._=,+-]*~%x%x%x%x%x%x%x%x$" and #plan.results <= 80, plan.results)
    T.ok(not seen[plan.results], plan.results)
    seen[plan.results] = true
  end
end)

T.test("results are shown where they cannot be written, and what is missing is said", function()
  local path, root = tiny.experiment ""
  T.eq((tiny.run { "run", path, "out_dir=" .. root, "steps=4", "--seeds", "1" }), 0)
  local dir = root .. "/tiny+steps=4+seeds=1"
  for _, name in ipairs(sys.list(dir)) do sys.remove(dir .. "/" .. name) end
  sys.mkdir(dir .. "/table.txt") -- nothing can be written in its place
  for _, command in ipairs { "plot", "run" } do
    local status, text = tiny.run { command, path, "out_dir=" .. root, "steps=4", "--seeds", "1" }
    T.ok(status == 1 and text:find "\nsoftmax ", text)
    T.ok(text:find "results not written: [^\n]*table.txt" and text:find "\nruns    ", text)
  end
  local none = T.folder() .. "/none"
  sys.mkdir(none .. "/tiny+steps=4+seeds=1/table.txt")
  sys.write(none .. "/tiny", "") -- no run can begin
  local status, text = tiny.run { "run", path, "out_dir=" .. none, "steps=4", "--seeds", "1" }
  T.ok(status == 1 and text:find "results not written: " and text:find "1 of 1 runs are missing", text)
  T.ok(text:find "not started: mkdir: " and not text:find("%.lua:%d"), text)
end)

T.test("two groups with a key of one name keep both", function()
  local plan = { name = "x" }
  require("attnlab.results").label(plan, "", { set = { { "attention.eps", "1" }, { "train.eps", "2" } } })
  T.eq(plan.results, "x+attention.eps=1+train.eps=2")
end)

T.test("results are not overwritten, and unchanged arms are shared", function()
  local path, root = tiny.experiment [[{ name = "none", ["attention.denominator"] = "none", ["attention.output_norm"] = "l2", lr = 0.002 }]]
  T.eq((tiny.run { "run", path, "out_dir=" .. root, "steps=8" }), 0)
  local status, text = tiny.run { "run", path, "out_dir=" .. root, "train.steps=8", "--seeds", "1", "lr=2e-3" }
  T.ok(status == 0 and text:find "1 of 2 runs to do" and text:find "Changed: tiny%+lr=0.002%+steps=8%+seeds=1", text)
  T.ok(text:find(("table   %s/tiny+lr=0.002+steps=8+seeds=1/table.txt"):format(root), 1, true), text)
  T.ok(text:find(("runs    %s/tiny/\n"):format(root), 1, true), text)
  local names = {}
  for _, name in ipairs(sys.list(root)) do
    local t = name ~= "tiny" and json.decode(sys.read(("%s/%s/table.json"):format(root, name)))
    if t then names[#names + 1] = { name, t.results, #t.seeds } end
  end
  T.eq(names, { { "tiny+lr=0.002+steps=8+seeds=1", "tiny+lr=0.002+steps=8+seeds=1", 1 }, { "tiny+steps=8", "tiny+steps=8", 2 } })

  local before = sys.read(root .. "/tiny+steps=8/table.txt")
  T.eq((tiny.run { "plot", path, "out_dir=" .. root, "steps=8", "--seeds", "2" }), 0)
  T.eq(sys.read(root .. "/tiny+steps=8/table.txt"), before)

  status, text = tiny.run { "runs", "out_dir=" .. root }
  local _, n = text:gsub("tiny%+steps=8 ", "")
  T.ok(status == 0 and n == 4 and text:find "tiny%+lr=0.002%+steps=8 +softmax", text)
  local list = json.decode((select(2, tiny.run { "runs", "tiny+lr=0.002+steps=8", "--json", "out_dir=" .. root })))
  T.eq({ #list, list[1].variant, list[1].arm }, { 1, "tiny+lr=0.002+steps=8", "softmax" })
end)
