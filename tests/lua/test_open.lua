-- lab.open: run folders, model files, arms of experiments, and what it refuses.
local T = ...
local lab = require "attnlab"
local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)
local core = require "attnlab.core"
local sys = core.sys

local STORIES = T.root .. "experiments/models/stories260K.bin"

T.test("a model file", function()
  local o = lab.open(STORIES)
  T.eq(o.path, sys.realpath(STORIES))
  T.eq(o.model.origin, { path = o.path })
  T.ok(o.vocabulary == o.model.vocabulary and not o.model.training)
  T.eq({ o.data, o.records }, {})
  T.raises(function() o:curve() end, "^curve: .*stories260K.bin is a model file, and has no curve")
  T.raises(function() o:plot() end, "^plot: .*stories260K.bin is a model file, and has no curve")
  local text = tostring(o)
  T.ok(text:find "stories260K.bin\n  model +Llama, 5 layers, width 64, 8 heads", text)
  T.eq(lab.open("stories260K").path, o.path)
  T.eq(o.model:fork().origin, o.model.origin)
  T.eq(lab.open(o).path, o.path)
end)

local path, root = tiny.experiment('{ name = "exp: L2", ["attention.denominator"] = "none", ["attention.output_norm"] = "l2" }',
  'quick = { steps = 6 }')

T.test("an arm that was not trained is refused with the command that trains it, which works", function()
  local why = T.raises(function() lab.open(path .. ":softmax", { seed = 2, out_dir = root }) end, "softmax, seed 2: not trained yet")
  local command = why:match "this trains it:  %./lab ([^\n]*)"
  local words = {}
  for word in command:gmatch "%S+" do words[#words + 1] = word end
  T.eq(words, { "run", path, "out_dir=" .. root })
  local status, text = tiny.run(words)
  T.ok(status == 0, text)
  T.ok(T.raises(function() lab.open(path .. ":softmax", { quick = true, seed = 7, out_dir = root }) end,
    "not trained yet"):find("--quick --seeds 1,2,7 out_dir=", 1, true))
end)

T.test("an arm, its run folder and the entry of a list are one thing", function()
  local o = lab.open(path .. ":exp: L2", { seed = 2, out_dir = root })
  T.eq({ o.experiment, o.arm, o.seed, o.state, o.step }, { "tiny", "exp: L2", 2, "finished", 24 })
  T.eq(o.model.spec, { denominator = "none", output_norm = "l2" })
  T.eq(o.data.name, "shakespeare")
  T.ok(o.data.vocabulary:same(o.vocabulary))
  local curve = o:curve "valid/loss"
  T.eq({ #curve, curve[1][1], curve[4][1] }, { 4, 6, 24 })
  T.eq(o:curve(), curve)
  T.near(curve[4][2], lab.evalset { data = o.data, windows = 8 }(o.model), 1e-5)
  local again = lab.open(o.path)
  T.eq({ again.arm, again.seed, again.path }, { o.arm, o.seed, o.path })
  T.eq(lab.open({ dir = o.path }).path, o.path)
  T.eq(lab.open(path .. ":softmax", { out_dir = root }).seed, 1)
  local text = tostring(o)
  T.ok(text:find("^tiny: exp: L2, seed 2\n") and text:find "denominator=none output_norm=l2", text)
  T.ok(text:find "valid/loss +%d%.%d+ [^ ]+ %d%.%d+ at step 24", text)
  for line in text:gmatch "[^\n]+" do T.ok(utf8.len(line) <= 80, line) end
end)

T.test("origin is what finds a run again: an arm where its experiment makes it, else its folder", function()
  T.eq(lab.open(path .. ":softmax", { out_dir = root }).model.origin.path ~= nil, true) -- no experiment of the project's
  local home = T.folder()
  sys.mkdir(home .. "/experiments/data")
  sys.write(home .. "/experiments/data/shakespeare.txt", sys.read(T.root .. "experiments/data/shakespeare.txt"))
  sys.write(home .. "/experiments/tiny.lua", sys.read(path))
  sys.write(home .. "/look.lua", [[
local lab, json = require "attnlab", require("attnlab.core").json
local out = {}
for _, dir in ipairs(require("attnlab.core").sys.list "runs/tiny") do
  local o = #dir == 12 and lab.open("runs/tiny/" .. dir)
  if o then out[o.variant or o.arm .. o.seed] = o.model.origin end
end
out.arm = lab.open "tiny:softmax".model.origin
print(json.encode(out))
]])
  local out = home .. "/out"
  local how, code = sys.wait(sys.spawn { "/bin/sh", "-c", 'cd "$0" && "$1" run experiments/tiny.lua --quick --seeds 2, '
    .. '&& "$1" run experiments/tiny.lua && "$1" run experiments/tiny.lua steps=5 --seeds 1 && "$1" lua look.lua >found.json',
    home, sys.realpath(tiny.program), stdout = out, stderr = out, env = { ATTNLAB_HOME = home } })
  T.ok(how == "exited" and code == 0, sys.read(out):sub(-600))
  local found = core.json.decode(sys.read(home .. "/found.json"))
  T.eq(found.softmax2, { experiment = "tiny", arm = "softmax", seed = 2 })
  T.eq(found.arm, { experiment = "tiny", arm = "softmax", seed = 1 })
  T.eq({ found["tiny+quick"].quick, found["tiny+quick"].seed }, { true, 2 })
  T.ok(found["tiny+steps=5"].path:find("^/.*/runs/tiny/%x+$"), found["tiny+steps=5"].path)
end)

T.test("an experiment's file is read as it is now", function()
  local own = tiny.experiment '{ name = "b", lr = 0.1 },'
  T.raises(function() lab.open(own .. ":b", { out_dir = root }) end, "b, seed 1: not trained yet")
  sys.write(own, (sys.read(own):gsub('name = "b"', 'name = "other"')))
  T.raises(function() lab.open(own .. ":b", { out_dir = root }) end, "unknown arm 'b' %(known: softmax, other%)")
end)

T.test("a text that is not that of the run is not its data", function()
  local dir = T.folder()
  local text = ("to be or not to be, that is the question.\n"):rep(60)
  sys.write(dir .. "/own.txt", text)
  local m = lab.model.new { layers = 1, width = 8, heads = 2, context = 8, seed = 1, vocabulary = lab.data.open(dir .. "/own.txt").vocabulary }
  lab.train(m, { data = dir .. "/own.txt", steps = 2, batch_size = 2, quiet = true, eval_windows = 4 })
  m:save(dir .. "/m.safetensors")
  T.eq(lab.open(dir .. "/m.safetensors").data.text_bytes, #text)
  sys.write(dir .. "/own.txt", text .. "no.\n")
  local o = lab.open(dir .. "/m.safetensors")
  T.eq(o.data, nil)
  T.ok(tostring(o):gsub("%s+", " "):find "is another one than the model was trained on", tostring(o))
  sys.remove(dir .. "/own.txt")
  T.ok(tostring(lab.open(dir .. "/m.safetensors")):find "not here")
end)

T.test("what is nothing of that kind is named", function()
  T.raises(function() lab.open "stories26K" end, "unknown model 'stories26K' %(did you mean 'stories260K'%?%)")
  T.raises(function() lab.open "denominatr:softmax" end, "unknown experiment 'denominatr' %(did you mean 'denominator'%?%)")
  T.raises(function() lab.open "denominator:softmex" end, "experiment 'denominator': unknown arm 'softmex' %(did you mean 'softmax'%?%)")
  T.raises(function() lab.open "surgery:softmax" end, "'surgery' is a study, and has no arms")
  T.raises(function() lab.open "no/such/folder" end, "'no/such/folder': no such file or folder")
  T.raises(function() lab.open(3) end, "a run folder, a model file or \"experiment:arm\" expected, got 3")
  T.raises(function() lab.open {} end, "expected, got table")
  T.raises(function() lab.open(STORIES, { sed = 1 }) end, "unknown option 'sed' %(did you mean 'seed'%?%)")
  T.raises(function() lab.open(STORIES, { seed = 1 }) end, "option 'seed' belongs to an arm")
  T.raises(function() lab.open("denominator:softmax", { seed = "1" }) end, "option 'seed': a whole number")
  T.raises(function() lab.open(T.folder()) end, "no such file")
end)
