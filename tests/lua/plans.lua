-- Plans of products on a card, shared by the runs of an experiment. On a card, or on the emulated one:
-- attnlab lua --device cuda run.lua plans.lua. The emulated card's three algorithms are one sum, so that a training's numbers
-- may not tell who chose.
local T = ...
local core = require "attnlab.core"
local plans = require "attnlab.plans"
local store = require "attnlab.store"
local train = require "attnlab.train"
local sys = core.sys

local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)
local DEVICE = core.on()
T.ok(DEVICE:find "^cuda", "on a card")

-- The one file of plans in a folder.
local function file_of(folder)
  local found = {}
  for _, name in ipairs(sys.list(folder)) do found[#found + 1] = name:find "^plans%-.*%.txt$" and folder .. "/" .. name end
  T.eq(#found, 1)
  return found[1]
end

local function count(text, word) return select(2, text:gsub(word, "")) end

local function product(m)
  local y <close> = core.ones { shape = { m, 3 } }:matmul(core.ones { shape = { 3, 2 } })
  T.eq(y:totable()[1], { 3, 3 })
end

T.test("the first keeps what it timed, the next takes it; what else comes stays out", function()
  local folder = T.folder()
  local first = plans.open(folder, DEVICE, {})
  T.ok(first.timing and not first.hash)
  product(5)
  T.raises(function() plans.open(folder, DEVICE, { stop = function() error("waits", 0) end }) end, "waits")
  local hash = first:keep()
  local path = file_of(folder)
  local text = sys.read(path)
  T.eq(hash, sys.sha256(text))
  T.eq(first:keep(), hash)
  T.ok(text:find "^card .-\nlibrary cuBLASLt %d+\n" and text:find "\nproduct m=%d+ ", text)
  local next_ <close> = plans.open(folder, DEVICE, {})
  T.eq({ next_.timing, next_.hash }, { nil, hash })
  product(7)
  T.ok(count(core.plans(DEVICE), "\nproduct") > count(text, "\nproduct"), "a new shape has a plan")
  T.eq(sys.read(path), text)
end)

T.test("a text of another library, or none, is refused with what to do; renew chooses again", function()
  local folder = T.folder()
  plans.open(folder, DEVICE, {}):keep()
  local path = file_of(folder)
  local good = sys.read(path)
  for _, bad in ipairs { good:gsub("cuBLASLt %d+", "cuBLASLt 99", 1), good .. "product m=1\n", "" } do
    sys.write(path, bad)
    T.raises(function() plans.open(folder, DEVICE, {}) end, "plans%-.*%.txt: .*plans of products.*; %-%-fresh or %-%-force has them chosen again")
    local again <close> = plans.open(folder, DEVICE, { renew = true })
    T.ok(again.timing)
    again:keep()
    T.eq(sys.read(path):match "^.-\n.-\n", good:match "^.-\n.-\n")
  end
end)

T.test("where there is no card there are none", function()
  local folder = T.folder()
  local none <close> = plans.open(folder, "cpu", {})
  T.eq({ none:keep(), sys.list(folder) }, { nil, {} })
  T.eq(core.plans "cpu", "")
  T.raises(function() core.plans("cpu", "card") end, "products have no plans here")
end)

T.test("arms, seeds and a resumed run take the plans of the first", function()
  local path, root = tiny.experiment '{ name = "cosine", attention = "p2/cottention" },'
  local function run(...) return tiny.run { "run", path, "--device", DEVICE, "out_dir=" .. root, "steps=6", "eval_windows=2", ... } end
  local code, out = run("--seeds", "1")
  T.eq(code, 0, out)
  local kept = file_of(root .. "/tiny")
  local text = sys.read(kept)
  T.ok(count(text, "\nproduct") > 5, text)
  T.eq((run("--jobs", "2")), 0)
  T.eq(sys.read(kept), text)
  local dirs, before = tiny.run_dirs(root), tiny.metrics(root)
  T.eq(#dirs, 4)
  for _, dir in ipairs(dirs) do
    T.eq(core.safetensors.metadata(dir .. "/checkpoint.safetensors")["run.plans"], sys.sha256(text))
  end

  -- every shape of the first run is in the text: a step and an evaluation add none
  local spec = store.config(dirs[1])
  for _, dir in ipairs(dirs) do spec = store.config(dir).arm == "softmax" and store.config(dir) or spec end
  local taken <close> = plans.open(root .. "/tiny", DEVICE, {})
  local n = count(core.plans(DEVICE), "\nproduct")
  local trainer = train.trainer(nil, spec.config, spec.seed, nil, spec.made.micro_batch)
  trainer:step()
  trainer:evaluate()
  T.eq(count(core.plans(DEVICE), "\nproduct"), n)

  -- all again, the first of them with plans taken and not timed
  T.eq((run "--fresh"), 0)
  T.eq(tiny.metrics(root), before)
  T.eq(sys.read(kept), text)

  -- another library: refused before a step, until told
  sys.write(kept, (text:gsub("cuBLASLt %d+", "cuBLASLt 99", 1)))
  code, out = run("--seeds", "3")
  T.eq(code, 1)
  T.ok(out:find "plans of products for 'card .-' needed" and out:find "%-%-fresh or %-%-force has them chosen again", out)
  code, out = run("--seeds", "3", "--force")
  T.eq(code, 0, out)
  T.ok(sys.read(kept):find("^" .. text:match "^.-\n.-\n":gsub("%p", "%%%0")))
end)

T.test("a run does not go on with other plans than it began with, unless forced", function()
  local path, root = tiny.experiment ""
  local words = { "run", path, "--device", DEVICE, "--seeds", "1", "out_dir=" .. root, "steps=100", "eval_windows=2" }
  local pid = tiny.start(table.move(words, 1, #words, 1, {}))
  local function checkpoint() return tiny.run_dirs(root)[1] .. "/checkpoint.safetensors" end
  while not (sys.exists(root .. "/tiny") and #tiny.run_dirs(root) > 0 and sys.exists(checkpoint())) do sys.sleep(0.01) end
  sys.kill(pid, 9)
  sys.wait(pid)
  local kept = file_of(root .. "/tiny")
  sys.remove(kept)
  local code, out = tiny.run(table.move(words, 1, #words, 1, {}))
  T.eq(code, 1)
  T.ok(out:find "made with other plans of products: %x+ there, none here; %-%-fresh", out)
  words[#words + 1] = "--force"
  code, out = tiny.run(words)
  T.eq(code, 0, out)
  T.eq(core.safetensors.metadata(checkpoint())["run.plans"], sys.sha256(sys.read(kept)))
end)

T.test("a training by itself has plans of its own", function()
  local root = T.folder()
  local code, out = tiny.run { "train", "--device", DEVICE, "out_dir=" .. root, "layers=1", "width=16", "heads=2", "mlp=32", "context=16",
                               "batch_size=2", "steps=2", "warmup_steps=1", "eval_windows=2" }
  T.eq(code, 0, out)
  file_of(root .. "/train/" .. sys.list(root .. "/train")[1])
end)
