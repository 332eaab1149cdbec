-- Arms that are one function: judged on the weights of the trained runs, not by what training made of rounding.
local T = ...
local lab = require "attnlab"
local core = require "attnlab.core"
local experiment = require "attnlab.experiment"
local runner = require "attnlab.runner"
local runs = require "attnlab.runs"
local twins = require "attnlab.twins"
local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)
local sys = core.sys

local path, root = tiny.experiment([[
  { name = "softmax + L2", ["attention.output_norm"] = "l2" },
  { name = "exp + L2", ["attention.denominator"] = "none", ["attention.output_norm"] = "l2" },
  { name = "gated", ["attention.output_gate"] = "sigmoid" },]], [[
  expect = {
    { arm = "exp + L2", versus = "softmax + L2", one_function = 1e-5 },
    { arm = "softmax + L2", versus = "exp + L2", one_function = 1e-5 },
    { arm = "softmax", versus = "softmax + L2", one_function = 1e-5 },
    { arm = "softmax", versus = "gated", one_function = 1e-5 },
  }]])
local status, said = tiny.run { "run", path, "out_dir=" .. root }
T.eq(status, 0)

T.test("what a positive factor cancels in is one function to rounding; what it does not is another", function()
  T.ok(said:find "held +exp %+ L2 and softmax %+ L2 are one function within 1e%-05: on the weights of 2 runs of exp %+ L2 the losses", said)
  T.ok(said:find "held +softmax %+ L2 and exp %+ L2 are one function", said)
  T.ok(said:find "REFUTED +softmax and softmax %+ L2 are one function", said)
  T.ok(said:find "not judged +softmax and gated are one function within 1e%-05: [^\n]*tensor '[^\n]*gate[^\n]*' is missing", said)
end)

local function judged()
  local plan = experiment.load(path):plan {}
  return runs.gather(plan, runner.expand(plan, { root = root })).judged
end

T.test("a run whose text is another one by now is not judged", function()
  local file, dir = T.numbers(900), T.folder()
  sys.write(dir .. "/own.lua", (sys.read(path):gsub('name = "tiny"', 'name = "own"'):gsub("base = {", '%0 data = "' .. file .. '",')))
  T.eq(tiny.run { "run", dir .. "/own.lua", "--seeds", "1", "out_dir=" .. dir }, 0)
  local function arm(name)
    for _, r in ipairs(lab.runs { out_dir = dir, arm = name }) do
      local config = core.json.decode(sys.read(r.dir .. "/config.json")).config
      return { name = name, config = config, runs = { { dir = r.dir, status = { state = r.state } } } }
    end
  end
  T.eq(twins.judge(1e-5, arm "exp + L2", arm "softmax + L2"), "held")
  sys.write(file, (sys.read(file):gsub("^(%d+) (%d+)", "%2 %1"))) -- as long, of the same characters
  local outcome, why = twins.judge(1e-5, arm "exp + L2", arm "softmax + L2")
  T.ok(outcome == "not judged" and why:find "the text .- is another one than that of this name", outcome .. ": " .. why)
end)

T.test("a run that is damaged is not judged", function()
  T.eq(judged()[1].outcome, "held")
  for _, dir in ipairs(tiny.run_dirs(root)) do
    local config = core.json.decode(sys.read(dir .. "/config.json"))
    if config.arm == "exp + L2" and config.seed == 1 then sys.remove(dir .. "/checkpoint.safetensors") end
  end
  local r = judged()[1]
  T.ok(r.outcome == "not judged" and r.detail:find "no such file", r.outcome .. ": " .. r.detail)
end)

T.test("the number has to be one", function()
  local function refused(x, pattern)
    T.raises(function()
      lab.experiment { name = "t", arms = { { name = "a" }, { name = "b", lr = 0.1 } }, seeds = { 1 }, expect = { x } }
    end, pattern)
  end
  refused({ arm = "a", versus = "b", one_function = true }, "one_function: a number >= 0 expected")
  refused({ arm = "a", one_function = 1e-5 }, "one_function needs versus")
end)
