-- Texts of one's own in experiments: they lie beside the file, and count by their bytes alone.
local T = ...
local core = require "attnlab.core"
local store = require "attnlab.store"
local lab = require "attnlab"
local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)
local json, sys = core.json, core.sys

local function numbers(from)
  local words = {}
  for i = from, from + 500 do words[#words + 1] = tostring(i * i % 997) end
  return table.concat(words, " ")
end

-- A folder with an experiment of one arm and the text that it names.
local function experiment_in(dir, text, name)
  sys.mkdir(dir)
  sys.write(dir .. "/mine.txt", text)
  sys.write(dir .. "/tiny.lua", ([[
return require("attnlab").experiment {
  name = "tiny", seeds = { 1 },
  base = { data = %q, layers = 1, width = 8, heads = 2, mlp = 8, context = 8, batch_size = 2, steps = 12,
           warmup_steps = 2, eval_interval = 6, checkpoint_interval = 4, log_interval = 3 },
  arms = { { name = "softmax" } },
}]]):format(name or "mine.txt"))
  return dir .. "/tiny.lua"
end

-- Runs the program in a folder.
local function run_in(dir, words)
  local program = sys.realpath(tiny.program)
  local argv = { "/bin/sh", "-c", 'cd "$0" && exec "$@"', dir, program, table.unpack(words) }
  argv.stdout, argv.stderr = dir .. "/out", dir .. "/out"
  local pid = sys.spawn(argv)
  local how, code = sys.wait(pid)
  return how == "exited" and code or -code, sys.read(dir .. "/out")
end

T.test("a text lies beside the experiment, wherever the program runs", function()
  local a, b, runs = T.folder() .. "/a", T.folder() .. "/b", T.folder()
  local file = experiment_in(a, numbers(1))
  local code, said = run_in(runs, { "run", file, "out_dir=" .. runs .. "/r" })
  T.ok(code == 0, said)
  local dirs = tiny.run_dirs(runs .. "/r")
  T.eq(#dirs, 1)
  local spec = store.config(dirs[1])
  T.eq(spec.config.train.data, sys.realpath(a) .. "/mine.txt")
  T.eq(spec.data_hash, sys.sha256(numbers(1)))
  -- the same experiment and text elsewhere are the same run
  code, said = run_in(b:match "^(.*)/", { "run", experiment_in(b, numbers(1)), "out_dir=" .. runs .. "/r" })
  T.ok(code == 0 and said:find "0 of 1 runs to do", said)
  code, said = run_in(a, { "run", "tiny.lua", "out_dir=" .. runs .. "/r", "data=" .. b .. "/mine.txt" })
  T.ok(code == 0 and said:find "0 of 1 runs to do", said)
  T.eq(#tiny.run_dirs(runs .. "/r"), 1)
  -- another text under the same name is not
  experiment_in(b, numbers(2))
  code, said = run_in(a, { "run", b .. "/tiny.lua", "out_dir=" .. runs .. "/r" })
  T.ok(code == 0 and said:find "1 of 1 runs to do", said)
  T.eq(#tiny.run_dirs(runs .. "/r"), 2)
end)

T.test("a text of the command line lies in the current folder", function()
  local dir, runs = T.folder(), T.folder()
  sys.write(dir .. "/other.txt", numbers(5))
  local file = experiment_in(dir .. "/e", numbers(1))
  local code, said = run_in(dir, { "run", file, "--print-config", "data=other.txt" })
  T.ok(code == 0, said)
  T.eq(json.decode(said).arms[1].config.train.data, sys.realpath(dir) .. "/other.txt")
  code, said = run_in(dir, { "train", "data=other.txt", "layers=1", "width=8", "heads=2", "mlp=8", "context=8", "batch_size=2",
                             "steps=4", "warmup_steps=1", "out_dir=" .. runs })
  T.ok(code == 0, said)
  local run = said:match "(%S+/train/%x+)\n"
  T.eq(run_in(runs, { "eval", run, "--windows", "4" }), 0) -- from another folder
end)

T.test("a run that was stopped goes on from another folder, and where experiment and text were moved", function()
  local a, b, runs = T.folder() .. "/a", T.folder() .. "/b", T.folder()
  local file = experiment_in(a, numbers(1))
  local code, said = run_in(a, { "run", "tiny.lua", "out_dir=" .. runs .. "/r" })
  T.ok(code == 0, said)
  local dir = tiny.run_dirs(runs .. "/r")[1]
  local whole = sys.read(dir .. "/metrics.jsonl")
  store.set_status(dir, "interrupted", 12)
  T.eq((run_in(runs, { "run", file, "out_dir=" .. runs .. "/r" })), 0)
  T.eq(store.status(dir).state, "finished")
  store.set_status(dir, "interrupted", 12)
  sys.remove(a .. "/mine.txt")
  code, said = run_in(runs, { "run", experiment_in(b, numbers(1)), "out_dir=" .. runs .. "/r" })
  T.ok(code == 0, said)
  T.eq(store.status(dir).state, "finished")
  T.eq(store.config(dir).config.train.data, sys.realpath(b) .. "/mine.txt")
  T.eq(sys.read(dir .. "/metrics.jsonl"), whole)
end)

T.test("what is not there is named with its folder", function()
  local dir = T.folder()
  local file = experiment_in(dir, numbers(1), "none.txt")
  local code, said = run_in(T.folder(), { "run", file, "--dry-run" })
  T.ok(code == 1 and said:find(sys.realpath(dir) .. "/none.txt': no such file", 1, true), said)
  experiment_in(dir, numbers(1), "shakespear")
  code, said = run_in(T.folder(), { "run", file, "--dry-run" })
  T.ok(code == 1 and said:find("did you mean 'shakespeare'", 1, true), said)
end)

T.test("texts of a study lie beside it, too", function()
  local dir, other = T.folder(), T.folder()
  local function study(folder)
    sys.write(folder .. "/mine.txt", ("Once upon a time. "):rep(200))
    sys.write(folder .. "/cut.lua", [[
return require("attnlab").study { name = "cut", kind = "surgery", seeds = { 3 }, cases = {
  { model = { file = "stories260K" }, data = "mine.txt", context = 24, windows = 4, layers = "all", norms = { "l2" } } } }]])
    return require("attnlab.experiment").load(folder .. "/cut.lua"):plan { root = "r" }
  end
  local a, b = study(dir), study(other)
  T.eq(a[1].case.data, sys.realpath(dir) .. "/mine.txt")
  T.eq(a[1].dir, b[1].dir)
  sys.write(other .. "/mine.txt", ("Twice upon a time. "):rep(200))
  T.ok(require("attnlab.experiment").load(other .. "/cut.lua"):plan { root = "r" }[1].dir ~= a[1].dir)
  T.ok(lab.study { name = "cut", kind = "surgery", seeds = { 3 }, cases = { { model = { file = "stories260K" }, context = 24,
    windows = 4, layers = "all", norms = { "l2" } } } }:plan { root = "r" }[1].dir ~= a[1].dir)
end)
