-- One more of what costs one Lua file: each is that file of more/, put among the modules of a copy.
local T = ...
local core = require "attnlab.core"
local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)
local json, sys = core.json, core.sys

local home = sys.realpath(T.root == "" and "." or T.root)
local copy = T.folder()
sys.mkdir(copy .. "/lua")
assert(os.execute(("cp -R '%slua/attnlab' '%s/lua/'"):format(T.root, copy)))

-- Puts more/FILE where it belongs.
local function add(file, folder)
  sys.write(("%s/lua/attnlab/%s/%s"):format(copy, folder, file), sys.read(("%stests/lua/more/%s"):format(T.root, file)))
end

-- What the program of the copy prints, which ends with this status.
local function run(status, ...)
  local code, text = tiny.run({ ... }, { ATTNLAB_LUA = copy .. "/lua", ATTNLAB_HOME = home })
  T.ok(code == status, ("status %d expected, got %d:\n%s"):format(status, code, text))
  return text
end

local function script(text, ...)
  local path = T.folder() .. "/script.lua"
  sys.write(path, 'local core = require "attnlab.core"\nlocal lab = require "attnlab"\n' .. text)
  return run(0, "lua", path, ...)
end

local SMALL = { "layers=2", "width=16", "heads=2", "mlp=24", "context=16", "batch_size=4", "steps=6", "warmup_steps=2", "eval_windows=8" }

T.test("an architecture: trained, measured, stepped, saved, operated on", function()
  for _, arch in ipairs { "bare" } do
    T.ok(run(2, "train", "arch=" .. arch):find("unknown word '" .. arch .. "'", 1, true), "unknown before")
    add(arch .. ".lua", "model/arch")
    T.ok(run(0, "describe", "arch"):find(arch, 1, true), "in the help")
    local words = table.move(SMALL, 1, #SMALL, 5, { "train", "arch=" .. arch, "out_dir=" .. copy .. "/runs", "attention.rope=none" })
    local dir = run(0, table.unpack(words)):match "\n(%S+/train/%x+)\n"
    T.ok(run(0, "eval", dir):find "nats per token", "eval")
    T.ok(#run(0, "generate", dir, "tokens=20", "prompt=RO") > 20, "text")
    script([[
      local function near(a, b) assert((a - b):abs():max():item() < 1e-9, "logits differ") end
      local m = lab.model.load(arg[1], { dtype = "f64" })
      local ids = core.tensor { data = { 1, 2, 3, 4, 5, 6, 7, 8 }, shape = { 2, 4 }, dtype = "i32" }
      local all, st = m:forward(ids), m:state { batch = 2 }
      for t = 1, 4 do
        local y
        y, st = m:step(ids[{ {}, { t, t } }], st)
        near(y, all[{ {}, { t, t } }])
      end
      st:save(arg[2] .. "/st")
      assert(m:load_state(arg[2] .. "/st"):position() == 4)
      m:save(arg[2] .. "/m")
      near(lab.model.load(arg[2] .. "/m", { dtype = "f64" }):forward(ids), all)
      local s = m:fork()
      s.layer[2]:set { output_norm = "l2" }
      near(m:forward(ids), all)
      s:undo()
      near(s:forward(ids), all)
      local x = core.tensor { data = { 5, 6, 7, 1 }, shape = { 1, 4 }, dtype = "i32" }
      m:loss(x, x):backward()
      for name, t in pairs(m:parameters()) do assert(t:grad(), name) end
      assert(m:state_bytes(4) > 0 and #m:plan(4) > 0)
    ]], dir, copy)
    local f = T.folder()
    sys.write(f .. "/x.lua", ([[
return require("attnlab").experiment { name = "x", seeds = { 1 }, base = { arch = %q, layers = 1, width = 16, heads = 2,
  context = 16, batch_size = 4, steps = 4, eval_windows = 8 }, arms = { { name = "a" }, { name = "b", attention = "p1/linear_elu" } } }
]]):format(arch))
    T.ok(run(0, "run", f .. "/x.lua", "out_dir=" .. f):find "\nb +1 ", "an experiment")
    T.eq(json.decode(run(0, "run", f .. "/x.lua", "--dry-run", "--json")).runs, 2)
  end
end)

T.test("a measure: taken, shown, judged, drawn", function()
  local f = T.folder()
  sys.write(f .. "/x.lua", [=[
return require("attnlab").experiment { name = "x", seeds = { 1 }, measure = { "largest_weight" }, plot = { by = "n" },
  base = { layers = 1, width = 16, heads = 2, context = 16, batch_size = 4, steps = 4, eval_windows = 8 },
  arms = { { name = "a" }, { name = "b", at = { "line", 1 }, attention = "p1/linear_elu" } },
  expect = { { arm = "b", measure = "largest_weight", shows = "finite" } } }
]=])
  T.ok(run(1, "run", f .. "/x.lua", "out_dir=" .. f):find "unknown measure 'largest_weight'", "unknown before")
  add("largest_weight.lua", "measures")
  local text = run(0, "run", f .. "/x.lua", "out_dir=" .. f)
  T.ok(text:find "The largest number in the trained arm 'b': %d" and text:find "held +b, largest_weight: finite", text)
  local drawn = sys.exists(f .. "/x/by.gp")
  T.ok(not drawn or sys.read(f .. "/x/by.gp"):find "largest number", "a panel")
end)

T.test("a kind of study: measured, shown, judged", function()
  local f = T.folder()
  sys.write(f .. "/x.lua", [=[
return require("attnlab").study { name = "x", kind = "uniform", cases = { { n = 4 }, { n = 10000 } }, seeds = { 1, 2 },
  expect = { { below = 0.5 } } }
]=])
  T.ok(run(1, "run", f .. "/x.lua"):find "unknown kind 'uniform'", "unknown before")
  add("uniform.lua", "study")
  local text = run(0, "run", f .. "/x.lua", "out_dir=" .. f)
  T.ok(text:find "\n10000 +0.0%d+" and text:find "held +off by less than 0.5", text)
end)

T.test("a command: in the help, parsed, run", function()
  T.ok(run(2, "count", "x"):find("unknown command 'count'", 1, true), "unknown before")
  add("count.lua", "commands")
  T.ok(run(0):find "\n  count MODEL +the number", "in the help")
  T.ok(run(0, "count", "--help"):find "%-%-least N", "its own help")
  local stories = T.root .. "experiments/models/stories260K.bin"
  T.eq(run(0, "count", stories), "260032\n")
  T.eq(run(1, "count", stories, "--least", "1e6"), "260032\n")
  T.ok(run(2, "count", stories, "--leest", "3"):find "did you mean %-%-least", "unknown option")
  T.ok(run(2, "count"):find "usage: ./lab count MODEL", "usage")
end)

T.test("a broken file of commands takes away its own, and no other", function()
  for _, text in ipairs { "return {", "return 3", "error 'no luck'" } do
    sys.write(copy .. "/lua/attnlab/commands/broken.lua", text)
    T.ok(run(0):find "the commands of broken.lua cannot be had: ", "said")
    T.ok(run(0, "list", "data"):find "shakespeare", "others work")
    T.ok(run(2, "broken"):find "unknown command 'broken'")
  end
  sys.remove(copy .. "/lua/attnlab/commands/broken.lua")
end)

T.test("a layer", function()
  add("rescale.lua", "nn")
  script [=[
    local y = lab.nn.Rescale(2)(core.tensor { 3, 4 }):flat()
    assert(math.abs(y[1] * 4 / 3 - y[2]) < 1e-6 and math.abs(y[1] ^ 2 + y[2] ^ 2 - 2) < 1e-4)
    local ok, why = pcall(lab.nn.Rescale, 2, { epz = 1 })
    assert(not ok and why:find "did you mean 'eps'", why)
  ]=]
end)

T.test("an architecture is held against a file's tensors as every other", function()
  script([[
    local m = lab.model.new { arch = "bare", layers = 2, width = 16, heads = 2, mlp = 24, context = 8, vocab = 11, seed = 1 }
    local saved = core.json.decode(m:metadata().attnlab)
    for key, why in pairs { vocab = "words.weight': shape %(1000,16%)", layers = "layers.2.attention.q_proj.weight' is missing",
                            heads = "q_proj.weight': shape" } do
      local old = saved.model[key]
      saved.model[key] = key == "layers" and 3 or 1000
      core.safetensors.save(arg[1] .. "/m", m:tensors(), { attnlab = core.json.encode(saved) })
      saved.model[key] = old
      local ok, text = pcall(lab.model.load, arg[1] .. "/m")
      assert(not ok and text:find("/m': tensor '[^']*" .. why), text)
    end
  ]], copy)
end)

T.test("a type of models of others: written, read", function()
  add("bare_type.lua", "model/hf")
  script([[
    local m = lab.model.new { arch = "bare", layers = 2, width = 16, heads = 2, mlp = 1, context = 8, vocab = 11, seed = 1, attention = { rope = "none" } }
    m:export(arg[1] .. "/bare")
    assert(core.safetensors.open(arg[1] .. "/bare/model.safetensors").words, "another name")
    local n = lab.model.load(arg[1] .. "/bare")
    assert((n:forward { { 1, 2, 3 } } - m:forward { { 1, 2, 3 } }):abs():max():item() == 0)
    local c = core.json.decode(core.sys.read(arg[1] .. "/bare/config.json"))
    assert(c.model_type == "bare_type" and c.depth == 2)
  ]], copy)
end)
