-- Links that somebody put into a root of runs: whatever stands there, no command reads, writes or removes anything
-- outside. Every file and every folder that the commands make is replaced by a link, in turn. What people read has
-- paths without the border that keeps them inside.
local T = ...
local certificate = require "attnlab.certificate"
local core = require "attnlab.core"
local gnuplot = require "attnlab.gnuplot"
local names = require "attnlab.names"
local plot = require "attnlab.plot"
local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)
local sys = core.sys

local file = tiny.experiment("", "measure = { 'series' }")
local study = T.folder() .. "/grid.lua"
sys.write(study, [[return require("attnlab").study { name = "grid", kind = "recurrence", seeds = { 1 },
  cases = { { head_dim = 4, orders = { 2 }, tokens = 8 } } }]])
local SIZES = { "layers=1", "width=8", "heads=1", "mlp=8", "context=8", "batch_size=2", "steps=2", "eval_interval=2" }
local FEW = { "--seeds", "1", "steps=2", "eval_interval=2" }
-- The commands by the first letter of the folders that they fill.
local COMMANDS = {
  t = { { "run", file, table.unpack(FEW) }, { "plot", file, table.unpack(FEW) }, { "runs" }, { "run", file, "--fresh", table.unpack(FEW) },
        { "train", table.unpack(SIZES) }, { "train", "--fresh", table.unpack(SIZES) } },
  g = { { "run", study }, { "plot", study }, { "run", study, "--fresh" } },
  c = { { "check", "softmax" }, { "plot", file, table.unpack(FEW) } },
}

-- Runs one of them in a root. It ends, well or with a reason.
local function command(root, words)
  local all = table.move(words, 1, #words, 1, {})
  all[#all + 1] = "out_dir=" .. root
  local code, text = tiny.run(all)
  T.ok(code == 0 or code == 1 and text:find "%S", ("%s: %d: %s"):format(words[1], code, text))
  T.ok(not text:find "//" and not text:find "attempt to", text)
  return code, text
end

-- All below a folder by its path there: the hash of a file, "dir" or "other".
local function all_in(folder, at, found)
  at, found = at or "", found or {}
  for _, name in ipairs(sys.list(names.inside(folder, at))) do
    local path = at .. name
    local kind = sys.exists(names.inside(folder, path))
    found[path] = kind == "file" and sys.sha256(sys.read(names.inside(folder, path))) or kind
    if kind == "dir" then all_in(folder, path .. "/", found) end
  end
  return found
end

local whole = T.folder() .. "/runs"
for _, list in pairs(COMMANDS) do
  for _, words in ipairs(list) do T.eq((command(whole, words)), 0) end
end
local made = all_in(whole)
for path, content in pairs(made) do
  if content ~= "dir" then T.ok(not sys.read(whole .. "/" .. path):find(whole .. "//", 1, true), path) end
end

-- A copy of that root in which the paths of `list` are links to what stood there, which is moved outside.
local function hostile(list)
  local root, outside = T.folder() .. "/runs", T.folder()
  assert(os.execute(("cp -r '%s' '%s'"):format(whole, root)))
  for i, path in ipairs(list) do
    assert(os.execute(("mv '%s/%s' '%s/%d' && ln -s '%s/%d' '%s/%s'"):format(root, path, outside, i, outside, i, root, path)))
  end
  return root, outside
end

local function keeps_inside(list, ...)
  local root, outside = hostile(list)
  local before, commands = all_in(outside), {}
  for _, letter in ipairs { ... } do table.move(COMMANDS[letter], 1, #COMMANDS[letter], #commands + 1, commands) end
  for _, words in ipairs(commands) do
    command(root, words)
    for path, content in pairs(all_in(outside)) do
      T.ok(before[path] == content, ("%s, %s a link: %s changed"):format(words[1], table.concat(list, " "), path))
    end
    for path in pairs(before) do T.ok(sys.exists(outside .. "/" .. path), ("%s removed %s"):format(words[1], path)) end
  end
end

T.test("every file a link", function()
  local list = {}
  for path, content in pairs(made) do
    if content ~= "dir" then list[#list + 1] = path end
  end
  T.ok(#list > 20, "files of every kind")
  keeps_inside(list, "c", "g", "t")
end)

T.test("every folder a link", function()
  local n = 0
  for path, content in pairs(made) do
    if content == "dir" then
      n = n + 1
      keeps_inside({ path }, path:sub(1, 1))
    end
  end
  T.eq(n, 8) -- of experiment, study, training, results, certificates, and of each of the three runs
end)

T.test("a link in the place of what a writer is about to make", function()
  local root, outside = T.folder(), T.folder()
  local dir, kept = names.inside(root, "tiny"), outside .. "/kept"
  sys.mkdir(dir)
  sys.write(kept, "kept")
  local function link(path) assert(os.execute(("ln -s '%s' '%s'"):format(kept, path))) end
  for _, name in ipairs { "f.png.%d.part", "f.svg.%d.part", "f.log", "f.png", "f.svg" } do link(dir .. "/" .. name:format(sys.pid())) end
  local script = "set terminal png; set output %s; plot x; unset output; set terminal svg; set output %s; plot x\n"
  local function draw()
    return gnuplot.render(function(outputs) return script:format(plot.quote(outputs[1][2]), plot.quote(outputs[2][2])) end, dir, "f")
  end
  T.eq(draw(), { png = root .. "/tiny/f.png", svg = root .. "/tiny/f.svg" })
  T.eq(sys.exists(dir .. "/f.png"), "file")
  sys.remove(dir .. "/f.gp")
  link(dir .. "/f.gp")
  T.raises(draw, "tiny/f.gp: a link, which is not followed")
  sys.mkdir(names.inside(root, "certificates"))
  link(certificate.path(root, "x", ""))
  T.raises(function() certificate.write(root, { family = "x", options = "", rows = {} }) end, "certificates/x%-%x+.json: a link")
  T.eq(certificate.find(root, "x", "").certificate, "none")
  link(root .. "/certificates/.7.live")
  local code, text = tiny.run { "checker", "softmax", "--out", names.inside(root, "certificates/.7") }
  T.ok(code == 1 and text:find "certificates/%.7%.live: a link", text)
  T.eq(all_in(outside), { kept = sys.sha256 "kept" })
end)

T.test("a record of any length is not read whole", function()
  local root = T.folder() .. "/runs"
  T.eq((command(root, { "run", study })), 0)
  local dir = names.inside(root, "grid/" .. sys.list(root .. "/grid")[1])
  assert(os.execute(("truncate -s 4T '%s/result.json'"):format(dir)))
  local _, text = command(root, { "run", study })
  T.ok(text:find "result.json: not the record of a measurement; measured again", text)
end)

T.test("a table beside a model is no link", function()
  local dir, models = T.folder(), sys.realpath(T.root .. "experiments/models")
  sys.write(dir .. "/m.bin", sys.read(models .. "/stories260K.bin"))
  assert(os.execute(("ln -s '%s/tok512.bin' '%s/tok512.bin'"):format(models, dir)))
  local code, text = tiny.run { "generate", dir .. "/m.bin", "tokens=2" }
  T.ok(code == 1 and text:find "no vocabulary: tokenizer=FILE names one", text)
  T.eq((tiny.run { "generate", dir .. "/m.bin", "tokens=2", "tokenizer=" .. dir .. "/tok512.bin" }), 0)
end)
