-- ./lab test --device cuda[:N] [PART ..]: what has to hold on a machine with a GPU. Each part is a process of its own, told in
-- a line with its time; of one that fails the end of its log is shown. What this machine cannot do is skipped by name.
--   devices   the card, its driver and libraries
--   module    names, fills that equal the CPU's bit for bit, products as planned, a card that broke
--   big       a buffer of more than 2^31 numbers: written, summed, its ends read
--   ops       every op on each of its samples, in f64, f32 and bf16, against the CPU's; what a gradient of 0 does not reach
--   check     every variant: outputs and gradients against the CPU's
--   lua       training, experiments, a kill and a resume, surgery, text: tests/lua/device.lua; plans of products: plans.lua
--   suites    Lua's own suites of models, training and surgery with all that they make on the card
--   memcheck, synccheck   compute-sanitizer over every op at its small sizes; racecheck over the kernels of the plain ones
-- Without a part all of them, in this order.
local core = require "attnlab.core"
local sys = core.sys

local here = arg[0]:match "^(.*)/[^/]*$"
local device, asked = ..., { select(2, ...) }
require "attnlab.devices".need(device)
local program = sys.program()
local build = program:match "^(.*)/[^/]*$"
local folder = build .. "/card"
sys.mkdir(folder)

local failed, skipped = {}, {}

local function say(...)
  print((...):format(select(2, ...)))
  io.stdout:flush()
end

-- The end of a text, in lines.
local function tail(text, n)
  local lines = {}
  for line in text:gmatch "[^\n]+" do lines[#lines + 1] = line end
  return table.concat(lines, "\n", math.max(1, #lines - n + 1))
end

-- Runs commands {name =, argv =, env =} beside one another to their ends; of each whether it went well, what it said, the seconds
-- of all, and how it ended.
local function run_all(list)
  local began = sys.clock()
  for _, c in ipairs(list) do
    c.log = ("%s/%s.log"):format(folder, c.name)
    sys.write(c.log, "")
    c.argv.stdout, c.argv.stderr, c.argv.env = c.log, c.log, c.env
    c.started, c.pid = pcall(sys.spawn, c.argv)
  end
  for _, c in ipairs(list) do
    if c.started then
      local how, code = sys.wait(c.pid)
      c.ok, c.text, c.how = how == "exited" and code == 0, sys.read(c.log), ("%s %s"):format(how, code)
    else
      c.ok, c.text, c.how = false, tostring(c.pid), "not started"
    end
    c.seconds = sys.clock() - began
  end
  return list
end

local function run(name, argv, env)
  local c = run_all { { name = name, argv = argv, env = env } }[1]
  return c.ok, c.text
end

-- Checks of a part. good(text): what else the output of each must have, or nil and why.
local function steps(list, good)
  for _, c in ipairs(run_all(list)) do
    local why = not c.ok and c.how or good and good(c.text) or nil
    if why then failed[#failed + 1] = c.name end
    say("%s %s  %.1f s%s", why and "FAILED" or "passed", c.name, c.seconds, why and ": " .. why or "")
    if why then say("%s\n  all of it: %s", tail(c.text, 25), c.log) end
  end
  return list[1].text
end

local function step(name, argv, env, good) return steps({ { name = name, argv = argv, env = env } }, good) end

local function skip(name, why)
  skipped[#skipped + 1] = name
  say("skipped %s: %s", name, why)
end

local tests = build .. "/attnlab_tests"
local on_card = { ATTNLAB_TEST_DEVICE = device, CK_FORK = "no", OMP_WAIT_POLICY = "passive" }

local function with(more)
  local env = {}
  for _, t in ipairs { on_card, more } do
    for k, v in pairs(t) do env[k] = v end
  end
  return env
end

-- Nothing may pass because it did not run.
local function counted(text)
  local checks = text:match "(%d+)%%: Checks: [1-9]"
  return not checks and "no check ran" or nil
end

local function in_lua(file) return { program, "lua", "--device=" .. device, here .. "/lua/run.lua", here .. "/lua/" .. file .. ".lua" } end

local function lua_passed(text) return not text:find "[1-9]%d* passed, 0 failed" and "no test passed" or nil end

-- With everything on the card; what they say of files, words and figures is the same anywhere.
local SUITES = { "nn", "ops", "train", "bf16", "trace", "attention_map", "decode", "families", "packed", "neighbours", "surgery", "sweep", "undo", "hidden", "memory",
                 "bert", "bert_hub", "sentences", "hub", "generate", "choices", "tokenize", "tokenizer" }
local FIGURES = { "plot", "surgery_shown", "transcript", "evaluate" } -- drawn by gnuplot, from numbers that the others have checked

local CASES = { "shapes", "gradient", "values", "place", "allocations", "bf16" } -- of check_ops

local SHARES = 12 -- processes that share the ops under a tool, which makes each of them slow

local function sanitizer(tool, cases)
  local found
  for _, dir in ipairs { "", "/usr/local/cuda/bin/" } do
    local ok = run("sanitizer", { dir .. "compute-sanitizer", "--version" })
    found = found or ok and dir .. "compute-sanitizer"
  end
  if not found then return skip(tool, "compute-sanitizer is not on this machine") end
  -- some machines refuse it: asked with one kernel
  local script = folder .. "/one.lua"
  sys.write(script, 'assert(#require("attnlab.core").ones { shape = { 4 } }:flat() == 4)\n')
  local ok, text = run("sanitizer", { found, "--tool", tool, "--error-exitcode", "9", program, "lua", "--device=" .. device, script })
  if not ok then return skip(tool, "compute-sanitizer does not run here: " .. tail(text, 3):gsub("\n", "; ")) end
  for _, case in ipairs(cases) do
    local list, n = {}, math.max(1, math.min(SHARES, sys.cores()))
    for i = 1, n do
      list[i] = { name = ("%s_%s_%d"):format(tool, case, i), argv = { found, "--tool", tool, "--error-exitcode", "9", tests, "check_ops" },
                  env = with { CK_RUN_CASE = case, ATTNLAB_TEST_PART = ("%d/%d"):format(i, n), OMP_NUM_THREADS = "1" } }
    end
    steps(list, function(out)
      return counted(out) or not out:find "SUMMARY: 0 " and not out:find "ERROR SUMMARY: 0 errors" and "no summary of 0 errors" or nil
    end)
  end
end

local PARTS = {
  { "devices", function()
    local text = step("devices", { program, "devices" })
    print(text)
  end },
  { "module", function() step("module", { tests, "test_module" }, on_card, counted) end },
  { "big", function()
    local room = core.devices().memory[device] or 0
    if room < 20 << 30 then return skip("big", ("the card has %.0f GiB, 20 are needed"):format(room / (1 << 30))) end
    step("big", { program, "lua", "--device=" .. device, here .. "/big.lua" }, nil, function(text) return not text:find "as it should be" and "it did not end" or nil end)
  end },
  { "ops", function()
    for _, case in ipairs(CASES) do step("ops_" .. case, { tests, "check_ops" }, with { CK_RUN_CASE = case }, counted) end
    for _, suite in ipairs { "check_hidden", "check_few", "test_window", "check_expr", "attn_case", "check_attn", "check_polynomial", "check_recurrent",
                              "check_chunked", "test_families" } do
      step(suite, { tests, suite }, on_card, counted)
    end
  end },
  { "check", function()
    step("check", { program, "check", "--all", "--device=" .. device, "out_dir=" .. folder }, nil,
      function(text) return not text:find "passed: (%d+) of %1 variants" and not text:find "variants passed in" and "no verdict" or nil end)
  end },
  { "lua", function()
    for _, file in ipairs { "device", "plans" } do step(file, in_lua(file), nil, lua_passed) end
  end },
  { "suites", function()
    for _, name in ipairs(SUITES) do step("lua_" .. name, in_lua("test_" .. name), nil, lua_passed) end
    if not run("gnuplot", { "gnuplot", "--version" }) then
      for _, name in ipairs(FIGURES) do skip("lua_" .. name, "needs gnuplot, which this machine lacks") end
    end
  end },
  { "memcheck", function() sanitizer("memcheck", { "place", "bf16" }) end },
  { "synccheck", function() sanitizer("synccheck", { "place", "bf16" }) end },
  { "racecheck", function() sanitizer("racecheck", { "place" }) end },
}

local named = {}
for _, part in ipairs(asked) do named[part] = true end
local known = {}
for _, part in ipairs(PARTS) do known[part[1]] = true end
for part in pairs(named) do
  if not known[part] then error("test: " .. require("attnlab.names").unknown("part", part, require("attnlab.names").keys(known)), 0) end
end
local began = sys.clock()
for _, part in ipairs(PARTS) do
  if #asked == 0 or named[part[1]] then part[2]() end
end
say("%s on %s in %.0f s%s%s", #failed == 0 and "passed" or "FAILED", device, sys.clock() - began,
  #failed > 0 and "; failed: " .. table.concat(failed, ", ") or "", #skipped > 0 and "; skipped: " .. table.concat(skipped, ", ") or "")
return #failed == 0 and 0 or 1
