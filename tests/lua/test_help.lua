-- lab.help: what every name means, from one text each; the page of all; formulas from the command line.
local T = ...
local lab = require "attnlab"
local comments = require "attnlab.comments"
local core = require "attnlab.core"
local help = require "attnlab.help"
local names = require "attnlab.names"
local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)
local sys = core.sys

T.test("every key of lab is listed with a line", function()
  local text, seen = help.text(), {}
  for line in text:gmatch "[^\n]+" do
    T.ok(#line <= 100, line)
    local name, what = line:match "^  ([%w_]+) +(%S.*)$"
    if name then seen[name] = what end
  end
  for _, k in ipairs(require "attnlab.found" "") do T.ok(seen[k], k) end
  for k in pairs(lab) do T.ok(k == "version" or k == "concat" or seen[k], k) end
  for _, k in ipairs { "open", "experiment", "study", "runs", "plot", "table", "stats", "fork", "training" } do T.ok(seen[k], k) end
end)

T.test("each topic has a text that names it, and no topic is lost", function()
  local n = 0
  for _, topic in ipairs(help.topics()) do
    local text = help.text(topic)
    T.ok(text:find(topic:match "[%w_]+$", 1, true), topic .. ": " .. text)
    n = n + 1
  end
  T.ok(n > 500, n)
end)

T.test("modules, functions, methods, options by path, ops, presets", function()
  local function says(name, what) T.ok(help.text(name):gsub("%s+", " "):find(what, 1, true), name .. ": " .. help.text(name)) end
  says("surgery", "Operating on a trained model")
  says("surgery", "fork:undo(n)")
  says("attention.denominator.sink", "exp(sink) is added")
  says("denominator.sink", "exp(sink) is added")
  says("train", "lab.train(m, {data=, steps=, ..})")
  says("train", "highest learning rate")
  says("train", "training:cont(steps)")
  says("lab.train", "highest learning rate")
  says("evalset", "evalset:diff(a, b)")
  for _, name in ipairs { "kept_of", "accumulate", "summed", "diff_kept" } do -- for our own modules
    T.ok(not help.text "evalset":find(name, 1, true) and not names.find(help.topics(), "evalset." .. name), name)
  end
  says("maps", "maps:plot(path)")
  says("pair.plot", "both and their difference in one picture")
  says("open", "\"denominator:exp + L2\"")
  says("fork.undo", "Takes back the last n changes")
  says("s:undo", "Takes back the last n changes")
  says("undo", "Takes back the last n changes")
  says("m:generate", "prompt=")
  says("part.set", "options over those of each layer")
  says("tensor", "t:backward(seed)")
  says("state.bytes", "How many it holds")
  says("instance", "a:forward{q=, k=, v=, x=")
  says("lab.op.softmax", "op softmax(")
  says("no_grad", "lab.no_grad(f, ...)")
  says("order", "taylor: highest order")
  says("surgery.calibrate", "match")
  says("p1/softmax", "formula")
  says("softmax", "op softmax(")
end)

T.test("what has no help is an error with the nearest name", function()
  T.raises(function() help.text "sofmax" end, "help: unknown name 'sofmax' %(did you mean 'softmax'%?%)")
  T.raises(function() help.text "fork.undoo" end, "did you mean 'fork.undo'")
  T.raises(function() help.text "train.lrr" end, "did you mean 'train.lr'")
  T.raises(function() help.text(3) end, "a name expected, got number")
end)

T.test("the comments of a file are read as they stand", function()
  local dir = T.folder()
  sys.write(dir .. "/x.lua", table.concat({ "-- What it is. More.", "-- A change here makes no run stale.", "local M = {}", "",
    "-- ---- part ---", "", "-- Adds.", "--   a   one", "function M.add(a, b)", "end", "function M:bare()", "end" }, "\n") .. "\n")
  local parsed = comments.of(dir .. "/x.lua")
  T.eq(parsed.head, { "What it is. More." })
  T.eq(comments.first(parsed.head), "What it is")
  T.eq(parsed.list[1], { owner = "M", name = "add", args = "(a, b)", method = false, doc = { "Adds.", "  a   one" } })
  T.eq(comments.first(parsed.list[1].doc), "Adds")
  T.eq(parsed.list[2].doc, {})
  T.eq(comments.of(dir .. "/none.lua"), { head = {}, list = {} })
end)

T.test("a narrow terminal gets narrow lines", function()
  local width = sys.width
  sys.width = function() return 60 end
  local ok, why = pcall(function()
    for _, name in ipairs { "surgery", "train", "open", "evalset", "fork", "stats" } do
      for line in help.text(name):gmatch "[^\n]+" do T.ok(utf8.len(line) <= 60, line) end
    end
  end)
  sys.width = width
  T.ok(ok, why)
end)

T.test("./lab help: commands, names, and all of it as one page of markdown", function()
  local function run(want, ...)
    local status, text = tiny.run { ... }
    T.ok(status == want, text)
    return text
  end
  T.ok(run(0, "help", "run"):find "usage: ./lab run")
  T.ok(run(0, "help", "fork.undo"):find "Takes back")
  T.ok(run(2, "help", "trian"):find "unknown command 'trian' %(did you mean 'train'")
  T.ok(run(2, "help", "fork.undoo"):find "unknown name 'fork.undoo' %(did you mean 'fork.undo'")
  local page = run(0, "help", "--all")
  for _, part in ipairs { "# attnlab\n", "### lab.open\n", "### lab.no\\_grad(f, ...)\n", "### fork: s = m:fork()", "fork:undo(n)",
                          "### op softmax(x, {..})", "### p1/softmax\n", "lr: number in", "usage: ./lab describe" } do
    T.ok(page:find(part, 1, true), part)
  end
  T.eq(select(2, page:gsub("```", "")) % 2, 0)
end)

T.test("describe prints a variant as a formula and as PyTorch, with options on top", function()
  local function run(want, ...)
    local status, text = tiny.run { "describe", ... }
    T.ok(status == want, text)
    return text
  end
  local spec = { heads = 4, head_dim = 16, width = 64 }
  T.eq(run(0, "softmax", "--latex"), lab.attention.new("softmax", spec):source "latex")
  T.eq(run(0, "p1/softmax_divS_gate", "--torch"), lab.attention.new("p1/softmax_divS_gate", spec):source "torch")
  spec.denominator, spec.output_norm = { power = 0.5 }, "l2"
  T.eq(run(0, "softmax", "denominator.power=0.5", "attention.output_norm=l2", "--latex"),
    lab.attention.new("softmax", spec):source "latex")
  T.ok(run(2, "softmax", "denominatr=none", "--latex"):find "did you mean 'denominator'")
  T.ok(run(2, "sofmax", "--torch"):find "no preset or family 'sofmax'")
  T.ok(run(2, "softmax", "--torch", "--latex"):find "not both")
  T.ok(run(2, "softmax", "denominator=none"):find "options go with")
end)
