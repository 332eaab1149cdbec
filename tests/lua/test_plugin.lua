-- Plug-ins from Lua and from the command line: sources written and compiled, loaded here, in workers and under
-- stock Lua; runs that remember which file they were made with.
local T = ...
local lab = require "attnlab"
local core = require "attnlab.core"
local experiment = require "attnlab.experiment"
local plugins = require "attnlab.plugins"
local scaffold = require "attnlab.scaffold"
local store = require "attnlab.store"
local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)
local sys = core.sys

local MEAN = tiny.program:match "^(.*)/[^/]*$" .. "/tests/plugins/mean.so"
local dir = T.folder()

local STRANGER = { XDG_DATA_HOME = T.folder() } -- somebody who trusts nothing yet

-- The words of a call, after its environment where the first is a table.
local function expects(status, pattern, ...)
  local words = { ... }
  local env = type(words[1]) == "table" and table.remove(words, 1) or nil
  local got, text = tiny.run(words, env)
  T.ok(got == status, ("status %d expected, got %d:\n%s"):format(status, got, text))
  T.ok(text:find(pattern), ("'%s' expected in: %s"):format(pattern, text))
  return text
end

local function only_files(folder, names)
  local list = sys.list(folder)
  table.sort(list)
  T.eq(list, names)
end

-- Changes the text of a file by a plain replacement that must happen.
local function edit(path, from, to)
  local text = sys.read(path)
  local i, j = text:find(from, 1, true)
  T.ok(i, from)
  sys.write(path, text:sub(1, i - 1) .. to .. text:sub(j + 1))
end

T.test("new-variant writes a source once, under a fit name", function()
  local path = dir .. "/mine.c"
  expects(0, "^" .. path .. "\nnext    ./lab check ", "new-variant", "mine", "--out", path)
  local text = sys.read(path)
  T.ok(text:find("ATTN_FAMILY(mine,", 1, true) and text:find("mine/sink", 1, true), text)
  T.ok(not text:find "my_variant", "the template's own name is gone: it")
  expects(1, "exists already; nothing was written", "new-variant", "other", "--out", path)
  T.eq(sys.read(path), text)
  for name, why in pairs { ["3x"] = "no C identifier", ["a-b"] = "no C identifier", ["int"] = "is a word of C",
                           softmax = "it means the preset p1/softmax", [("x"):rep(61)] = "has 61 letters",
                           kernel_attention = "a family of attention has that name" } do
    T.ok((scaffold.unfit(name) or "fit"):find(why), name)
    expects(2, why, "new-variant", name, "--out", dir .. "/no.c")
  end
  expects(2, "NAME expected", "new-variant")
  only_files(dir, { "mine.c" })
end)

T.test("build-plugin prints the path alone; the same source gives the same bytes", function()
  T.eq({ tiny.run { "build-plugin", dir .. "/mine.c" } }, { 0, dir .. "/mine.so\n" })
  local other = T.folder()
  sys.write(other .. "/mine.c", sys.read(dir .. "/mine.c"))
  T.eq({ tiny.run { "build-plugin", other .. "/mine.c", "--out=" .. other .. "/x.so" } }, { 0, other .. "/x.so\n" })
  T.ok(sys.read(other .. "/x.so") == sys.read(dir .. "/mine.so"), "the same bytes")
  only_files(other, { "mine.c", "x.so" })
end)

T.test("what the compiler refuses is passed on, and the old plug-in stays", function()
  local other = T.folder()
  local path = other .. "/mine.c"
  sys.write(path, sys.read(dir .. "/mine.c"))
  sys.write(other .. "/mine.so", "old")
  edit(path, "snprintf(", "snprintf(;")
  local text = expects(1, "ended with status 1", "build-plugin", path)
  T.ok(text:find(path .. ":%d+:%d+: .-error"), text)
  edit(path, "snprintf(;", "al_ctx_free(c), snprintf(") -- of the program, but not for plug-ins
  expects(1, "al_ctx_free.*ATTN_HOST_CALLS", "build-plugin", path)
  T.eq(sys.read(other .. "/mine.so"), "old")
  only_files(other, { "mine.c", "mine.so" })
  expects(1, "nowhere.c': no such file", "build-plugin", "nowhere.c")
  expects(1, "a C source", "build-plugin", other .. "/mine.so")
  local got, none = tiny.run({ "build-plugin", dir .. "/mine.c" }, { CC = "no-such-compiler" })
  T.eq(got, 1)
  T.ok(none:find "no compiler" and none:find "no%-such%-compiler", none)
  got, none = tiny.run({ "build-plugin", dir .. "/mine.c" }, { CC = "" })
  T.eq(got, 0, none)
  got, none = tiny.run({ "build-plugin", dir .. "/mine.c", "--out", other .. "/no.so" }, { CC = "true" })
  T.eq(got, 1)
  T.ok(none:find("mine.c': true ended with status 0 and wrote no file", 1, true), none)
  expects(1, "a C source %(%.c%) expected, this is no regular file", "build-plugin", other)
  expects(1, "^attnlab: write: /nowhere/x.c: ", "new-variant", "another", "--out", "/nowhere/x.c")
end)

T.test("--plugin, again and again", function()
  local mine = dir .. "/mine.so"
  local text = expects(0, "mine/plain", "list", "attention", "--plugin", mine, "--plugin=" .. MEAN)
  T.ok(text:find "test/twice_the_mean" and text:find("plug-in " .. mine, 1, true), text)
  expects(0, "plug%-in:  " .. mine .. " %(sha256 %x+%)", "describe", "mine", "--plugin", dir .. "/mine.c")
  expects(2, "unknown name 'mine'", "describe", "mine")
  expects(1, "plug%-in 'nowhere.so': No such file", "list", "--plugin", "nowhere.so")
  expects(2, "%-%-plugin needs PATH", "list", "--plugin")
  local script = dir .. "/s.lua"
  sys.write(script, [[print(#require("attnlab").attention.new("mine", { heads = 2, head_dim = 4 }):parameters().temperature, ...)]])
  expects(0, "^2\t%-%-plugin\tx", "lua", "--plugin", mine, script, "--plugin", "x")
  expects(1, "no preset or family 'mine'", "lua", script)
  expects(2, "FILE.lua", "lua", "--plugin", mine)
  expects(2, "did you mean %-%-plugin", "lua", "--plugni=x", script)
end)

T.test("stock Lua loads plug-ins: they need none of our symbols", function()
  local build = tiny.program:match "^(.*)/[^/]*$"
  local env = { LUA_PATH = package.path, LUA_CPATH = build .. "/lua/?.so" }
  local script, out = dir .. "/stock.lua", dir .. "/stock.out"
  sys.write(script, ([[
local lab = require "attnlab"
print(lab.attention.load "%s/mine.so", lab.attention.load "%s")
local q = lab.ones { shape = { 1, 3, 2, 4 } }
for _, name in ipairs { "mine/sink", "twice_the_mean" } do
  print(name, lab.attention.new(name, { heads = 2, head_dim = 4 }):forward { q = q, k = q, v = q, causal = true }:shape()[4])
end
print(select(2, pcall(lab.attention.new, "mine", { heads = 2, head_dim = 4, sink = 1000 })))
]]):format(dir, MEAN))
  local how, code = sys.wait(sys.spawn { build .. "/plain_lua", script, stdout = out, stderr = out, env = env })
  local text = sys.read(out)
  T.ok(how == "exited" and code == 0, text)
  T.ok(text:find "^mine\tmean\nmine/sink\t4\ntwice_the_mean\t4\n" and text:find "option 'sink'", text)
end)

T.test("lab.attention.load: names, values, refusals", function()
  T.eq(lab.attention.load(MEAN), "mean")
  T.eq(lab.attention.load(MEAN), "mean")
  local a = lab.attention.new("test/twice_the_mean", { heads = 1, head_dim = 1 })
  local v = lab.tensor { data = { 1, 2, 6 }, shape = { 1, 3, 1, 1 } }
  T.near(a:forward { q = v, k = v, v = v, causal = true }:flat(), { 2, 3, 6 })
  T.ok(lab.attention.describe("mean"):find(MEAN, 1, true), "the file in the description")
  T.raises(function() lab.attention.load(dir .. "/nowhere.so") end, "nowhere.so': No such file")
  T.raises(function() lab.attention.load(dir .. "/s.lua") end, "a shared object is needed, this is a text")
  T.raises(function() lab.attention.load(3) end, "a path expected, got number")
  T.raises(function() lab.attention.load(MEAN:gsub("mean%.so", "fault_NAME_MEAN.so")) end,
    "fault_NAME_MEAN.so': the family's name 'mean' is taken: family 'mean' of plug%-in '.*mean.so'")
  T.raises(function() core.attn.load(MEAN:gsub("mean%.so", "fault_INIT.so"), { "dtype", "gain" }) end,
    "fault_INIT.so': option 'gain': that word stands for something of the layer")
  T.eq(plugins.of { "kernel_attention" }, nil)
  T.eq(plugins.of({ "kernel_attention", "mean" })[1].sha256, sys.sha256(sys.read(MEAN)))
end)

T.test("no family has an option that means something else beside it", function()
  local words, seen = {}, 0
  for _, w in ipairs(plugins.reserved()) do words[w] = true end
  T.ok(words.heads and words.rope and words.bias, "sizes and options of the layer are reserved")
  for _, f in ipairs(core.attn.families()) do
    for _, row in ipairs(core.attn.options(f.name)) do
      T.ok(not words[row.name], ("option '%s' of %s is free: it"):format(row.name, f.name))
      seen = seen + 1
    end
  end
  T.ok(seen > 20)
end)

T.test("from nothing to a certificate in the two commands of the README", function()
  local folder = T.folder()
  local first, second = sys.read(T.root .. "README.md"):match "\n    %./lab (new%-variant [^#\n]-) *#[^\n]*\n    %./lab (check [^#\n]-) *#"
  T.eq({ first, second }, { "new-variant mine", "check mine.c" })
  expects(0, "mine.c", "new-variant", "mine", "--out", folder .. "/mine.c")
  local text = expects(0, "mine", "check", folder .. "/mine.c")
  T.ok(not text:find "FAIL", text)
  T.eq(sys.exists(folder .. "/mine.so"), "file")
end)

-- ---- runs --------------------------------------------------------------------------------------------

local ARM = [[{ name = "mine", ["attention.preset"] = "mine" }]]

T.test("an experiment's plug-ins reach its workers, and only the arms that use them", function()
  local file, root = tiny.experiment(ARM, [[plugins = { "mine.c" }]])
  sys.write(file:gsub("tiny%.lua$", "mine.c"), sys.read(dir .. "/mine.c"))
  expects(0, "mine", "run", file, "--seeds", "1", "steps=6", "out_dir=" .. root)
  local hash, made = sys.sha256(sys.read(dir .. "/mine.so")), {}
  for _, run in ipairs(tiny.run_dirs(root)) do
    local spec = store.config(run)
    T.eq(store.status(run).state, "finished")
    made[spec.arm] = spec.plugins or false
    if spec.arm == "mine" then expects(0, "bits per byte", "eval", run, "--windows", "2") end
  end
  T.eq(made.softmax, false)
  T.eq(#made.mine, 1)
  T.eq(made.mine[1].family, "mine")
  T.eq(made.mine[1].sha256, hash)
  expects(0, "0 of 2 runs to do", "run", file, "--seeds", "1", "steps=6", "out_dir=" .. root)
  edit((file:gsub("tiny%.lua$", "mine.c")), "1 / sqrt((double)s->head_dim)", "2 / sqrt((double)s->head_dim)")
  expects(0, "1 of 2 runs to do", "run", file, "--seeds", "1", "steps=6", "out_dir=" .. root)
  T.eq(#tiny.run_dirs(root), 3)
end)

T.test("a saved model says which plug-in it needs", function()
  local save, model = dir .. "/save.lua", dir .. "/m.safetensors"
  sys.write(save, ([[
local lab = require "attnlab"
local heads = { ["2"] = { preset = "mine", sink = 1 } }
for _, spec in ipairs { { preset = "p1/softmax", heads = heads }, "mine/sink" } do
  local m = lab.model.new { layers = 1, width = 8, heads = 2, mlp = 8, context = 8, vocab = 5, seed = 1, attention = spec }
  m:save "%s"
  print(lab.model.load("%s").config.width)
end
]]):format(model, model))
  expects(0, "^8\n8\n", "lua", "--plugin", dir .. "/mine.so", save)
  local load = dir .. "/load.lua"
  sys.write(load, ("require('attnlab').model.load '%s'"):format(model))
  expects(0, "", "lua", load) -- this user has built it
  expects(1, "m.safetensors' needs the plug%-in '.*mine.so' %(family mine, sha256 " .. ("%x"):rep(64) .. "%), which this user "
    .. "has never built, checked or run.*./lab check FILE", STRANGER, "lua", load)
  expects(0, "", STRANGER, "lua", "--plugin", dir .. "/mine.so", load)
  expects(0, "", STRANGER, "lua", load) -- named once, trusted since
  local list = STRANGER.XDG_DATA_HOME .. "/attnlab"
  local trusted = sys.sha256(sys.read(dir .. "/mine.so")) .. " " .. dir .. "/mine.so\n"
  T.eq(sys.read(list .. "/trusted"), trusted)
  T.eq(({ io.popen(("stat -c %%a '%s'"):format(list)):read "a" })[1], "700\n")
  sys.write(list .. "/trusted", "no line of it\n\27]0;x\7 y\n" .. trusted)
  expects(0, "", STRANGER, "lua", load)
  sys.remove(list .. "/trusted")
  assert(os.execute(("ln -s '%s/attnlab/trusted' '%s/trusted'"):format(os.getenv "XDG_DATA_HOME", list)))
  expects(1, "has never built", STRANGER, "lua", load) -- a link is not followed
  expects(0, "trusted plug%-ins are not remembered: append: .*a link", STRANGER, "lua", "--plugin", dir .. "/mine.so", load)
  expects(0, "trusted plug%-ins are not remembered: neither HOME", { HOME = "", XDG_DATA_HOME = "" }, "lua", "--plugin",
    dir .. "/mine.so", load)
end)

T.test("a plug-in from the command line reaches them as well", function()
  local file, root = tiny.experiment(ARM)
  expects(1, "no preset or family 'mine'", "run", file, "out_dir=" .. root)
  expects(0, "mine", "run", file, "--seeds", "1", "steps=6", "--plugin", dir .. "/mine.so", "out_dir=" .. root)
  T.eq(#tiny.run_dirs(root), 2)
  expects(1, "plugins: entry 1: .*nowhere.so': No such file", "run", (tiny.experiment(ARM, [[plugins = { "nowhere.so" }]])))
end)

T.test("a run loads no plug-in that this user does not know, and says what became of it", function()
  local root, copy = T.folder(), dir .. "/copy.so"
  local e = experiment { name = "tiny", seeds = { 1 }, base = { layers = 1, width = 16, heads = 2, context = 16, steps = 2,
    batch_size = 2, warmup_steps = 1, eval_windows = 2 }, arms = { { name = "mean", attention = "mean" } } }
  local spec = require("attnlab.runner").expand(e:plan {}, { root = root })[1].spec
  T.eq(spec.plugins[1].path, MEAN)
  local id = store.id(spec)
  spec.plugins[1].path = copy
  T.eq(store.id(spec), id) -- where the file stands is no part of what it is
  local run = store.create(root, spec)
  local other = { XDG_DATA_HOME = T.folder() }
  expects(1, "needs the plug%-in '.*copy.so' %(family mean, sha256 .*has never built", other, "worker", "--run", run)
  T.ok(store.status(run).reason:find "has never built", "the reason in the status")
  sys.write(copy, sys.read(dir .. "/mine.so"))
  expects(1, "has never built", other, "worker", "--run", run)
  sys.write(copy, sys.read(MEAN))
  expects(0, "", other, "check", copy, "out_dir=" .. T.folder())
  sys.remove(copy)
  expects(1, "copy.so' .* which is missing", other, "worker", "--run", run)
  sys.write(copy, sys.read(dir .. "/mine.so"))
  expects(1, "copy.so' is another file: sha256", other, "worker", "--run", run)
  T.eq((tiny.run { "worker", "--run", run }), 0) -- here its file is trusted at its own place
  T.eq(store.status(run).state, "finished")
  expects(1, "has never built", { XDG_DATA_HOME = T.folder() }, "generate", run, "tokens=2")
  expects(0, "", "generate", run, "tokens=2")
  spec.plugins[1].sha256 = ("0"):rep(64)
  T.ok(store.id(spec) ~= id, "another id")
  for _, list in ipairs { 3, { 3 }, { { family = "mean", path = "x" } } } do
    T.raises(function() plugins.restore(list, "the file") end, "the file: plug%-ins: .* expected, got")
  end
end)
