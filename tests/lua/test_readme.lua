-- The READMEs show commands and an experiment: they have to be true.
local T = ...
local cli = require "attnlab.cli"
local expect = require "attnlab.expect"
local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)
local sys = require("attnlab.core").sys

local README = sys.read(T.root .. "README.md")

T.test("README and help say one thing of how long the first figure takes", function()
  local long = README:match "denominator%.lua %-%-quick [^\n]* in (about [^\n]+)"
  T.ok(long and cli.help():find("a first figure in " .. long, 1, true), long)
end)

local function command_of(name)
  for _, c in ipairs(cli.COMMANDS) do
    if c.name == name then return c end
  end
end

T.test("every command line of the README parses, and its files exist", function()
  local n = 0
  for line in README:gmatch "[^\n]+" do
    local marked = line:gsub("#.*", ""):gsub("%./lab", "\1")
    for text in marked:gmatch '\1%s+(%w[^\1`"&)]+)' do
      local words = {}
      for word in text:gmatch "%S+" do words[#words + 1] = word end
      local c = command_of(words[1])
      T.ok(c, text)
      local rest = table.move(words, 2, #words, 1, {})
      if not c.raw then cli.parse(c, rest) end
      n = n + 1
    end
    for path in line:gmatch "experiments/[%w_/]+%.%w+" do T.ok(sys.exists(T.root .. path), path) end
  end
  T.ok(n >= 8, "commands found: " .. n)
end)

T.test("the example experiment runs", function()
  local dir = T.folder()
  sys.write(dir .. "/norms.lua", README:match "```lua\n(.-)```")
  local status, text = tiny.run { "run", dir .. "/norms.lua", "--seeds", "1", "steps=4", "eval_interval=2", "width=16",
                                  "mlp=32", "context=16", "eval_windows=16", "warmup_steps=1", "out_dir=" .. dir .. "/runs" }
  T.ok(status == 0, text)
  T.ok(text:find "l2 is better than none", text)
end)

T.test("the files that the layout tables name exist", function()
  for path in README:gmatch "`([%w_/]+/)`" do T.eq(sys.exists(T.root .. path), "dir") end
  T.eq(sys.exists(T.root .. README:match "`(kernels/pointwise%.def)`"), "file")
  T.eq(sys.exists(T.root .. README:match "`(attention/variants/kernel_attention%.def)`"), "file")
  for name in sys.read(T.root .. "lua/README.md"):gmatch "`(%l+)`" do
    local found = sys.exists(T.root .. "lua/attnlab/" .. name .. ".lua") or name == "lab"
    T.ok(found, name)
  end
end)

T.test("lua/README.md names every module", function()
  local text = sys.read(T.root .. "lua/README.md")
  for _, file in ipairs(sys.list(T.root .. "lua/attnlab")) do
    local name = file:match "^(.*)%.lua$" or file .. "/"
    T.ok(name == "init" or text:find("`" .. name .. "`", 1, true), name)
  end
end)

T.test("what quick runs of experiments judge was measured: each has its line in the README of bench/", function()
  local text, n = sys.read(T.root .. "experiments/bench/README.md"), 0
  for _, file in ipairs(sys.list(T.root .. "experiments")) do
    local e = file:find "%.lua$" and file ~= "lesson.lua" and require("attnlab.experiment").load(T.root .. "experiments/" .. file)
    for _, x in ipairs(e and e.arms and e.quick.expect or {}) do
      T.ok(text:find("\n| " .. expect.sentence(x) .. " | ", 1, true), file .. ": " .. expect.sentence(x))
      n = n + 1
    end
  end
  T.ok(n > 0)
end)
