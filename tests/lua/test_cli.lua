-- The command line: parsing, help from the one table, exit statuses, and every command once.
local T = ...
local cli = require "attnlab.cli"
local core = require "attnlab.core"
local json = core.json
local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)
local sys = require("attnlab.core").sys

local SMALL = { "layers=1", "width=16", "heads=2", "mlp=32", "context=16", "batch_size=4", "steps=6", "warmup_steps=2",
                "eval_windows=8" }

local function with(...)
  local words = { ... }
  return table.move(SMALL, 1, #SMALL, #words + 1, words)
end

local function expects(status, pattern, ...)
  local got, text = tiny.run { ... }
  T.ok(got == status, ("status %d expected, got %d:\n%s"):format(status, got, text))
  T.ok(text:find(pattern), text)
  return text
end

local RUN
for _, c in ipairs(cli.COMMANDS) do
  if c.name == "run" then RUN = c end
end

local function model_of_nans()
  local lab = require "attnlab"
  local path = T.folder() .. "/m.safetensors"
  local m = lab.model.new { layers = 1, width = 8, heads = 2, mlp = 8, context = 8,
                            vocabulary = lab.data.open("shakespeare").vocabulary, seed = 1 }
  for _, p in pairs(m:parameters()) do p:fill(0 / 0) end
  m:save(path)
  return path
end

T.test("words, flags and keys", function()
  local args = cli.parse(RUN, { "f.lua", "--quick", "--seeds", "3", "--jobs=2", "a.b=x=y", "steps=5" })
  T.eq(args.words, { "f.lua" })
  T.eq(args.flags, { quick = true, seeds = "3", jobs = "2" })
  T.eq(args.sets, { { "a.b", "x=y" }, { "steps", "5" } })
end)

T.test("every command and option is in its help", function()
  local all = cli.help()
  for _, c in ipairs(cli.COMMANDS) do
    T.ok(c.hidden or all:find("  " .. c.name, 1, true), c.name)
    for _, o in ipairs(c.options) do T.ok(cli.command_help(c):find("--" .. o.name, 1, true), o.name) end
    if not c.hidden then expects(0, "usage: ./lab " .. c.name:gsub("%-", "%%-"), c.name, "--help") end
  end
end)

T.test("every command has one row, which runs it", function()
  local row = {}
  for _, c in ipairs(cli.COMMANDS) do
    T.ok(not row[c.name], "one row for " .. c.name)
    T.ok(type(c.run) == "function" and c.doc and c.options and c.least, "what a row needs: " .. c.name)
    row[c.name] = true
  end
end)

T.test("the help fits the terminal", function()
  for _, words in ipairs { { "help" }, { "plot", "--help" }, { "check", "--help" }, { "help", "surgery" } } do
    local status, text = tiny.run(words, { COLUMNS = "80" })
    T.eq(status, 0)
    for line in text:gmatch "[^\n]+" do T.ok(utf8.len(line) <= 80, line) end
  end
end)

T.test("no word prints the help", function()
  expects(0, "commands:")
  expects(0, "commands:", "--help")
end)

T.test("usage errors: status 2 and the nearest name", function()
  expects(2, "unknown command 'trian' %(did you mean 'train'%?%)", "trian")
  expects(2, "unknown option %-%-quik %(did you mean %-%-quick%?%)", "run", "x.lua", "--quik")
  expects(2, "takes no value", "run", "x.lua", "--quick=1")
  expects(2, "%-%-seeds needs N", "run", "x.lua", "--seeds")
  expects(2, "FILE.lua", "run")
  expects(2, "unknown option %-x", "run", "x.lua", "-x")
  local file = tiny.experiment ""
  expects(2, "did you mean 'train.steps'", "run", file, "train.stepz=4")
  expects(2, "whole number", "run", file, "--seeds", "x")
  expects(2, "whole number", "run", file, "--jobs", "0")
  expects(2, "unknown device 'cuba' %(did you mean 'cuda'%?%)", "run", file, "--device", "cuba")
  expects(2, "unknown kind", "list", "opps")
  expects(2, "out_dir", "train", "out_dir=")
  expects(0, "^no runs in /no/where\n", "runs", "out_dir=/no//where")
end)

T.test("whatever is typed and cannot be meant is an error of usage", function()
  local file, stories = tiny.experiment "", T.root .. "experiments/models/stories260K.bin"
  for _, case in ipairs {
    { "did you mean 'softmax'", "describe", "sofmax" }, { "did you mean 'train'", "help", "trian" },
    { "did you mean 'softmax'", "check", "sofmax" }, { "option 'order'", "check", "softmax", "order=x" },
    { "unknown option 'ordre'", "check", "softmax", "ordre=2" }, { "is a word of C", "new-variant", "int" },
    { "integer >= 1 expected, got 'many'", "run", file, "steps=many" }, { "integer >= 1", "plot", file, "steps=0" },
    { "seeds: 1 is there twice", "run", file, "--seeds", "1,1" }, { "divisible by model.heads", "run", file, "heads=3" },
    { "did you mean 'softmax'", "run", file, "attention.preset=sofmax" }, { "did you mean 'softmax'", "train", "attention=sofmax" },
    { "did you mean 'length'", "train", "attention.denominator=lenght" }, { "unknown word 'lama'", "train", "arch=lama" },
    { "number > 0 expected, got 0", "train", "eps=0" }, { "list of numbers >= 0, < 1", "train", "betas=0.9,1" },
    { "number in 0..1e%+30 expected", "train", "lr=1e308" }, { "option 'rope_dims': even number", "train", "attention.rope_dims=3" },
    { "did you mean 'shakespeare'", "train", "data=shakespere" }, { "did you mean 'shakespeare'", "run", file, "data=shakespere" },
    { "did you mean 'shakespeare'", "eval", stories, "data=shakespere" }, { "did you mean 'shakespeare'", "eval", stories, "--data", "shakespere" },
    { "no such file", "eval", stories, "tokenizer=" .. T.folder() .. "/none" },
    { "option 'tokens': number >= 0", "generate", stories, "tokens=-1" }, { "a whole number", "generate", stories, "top_k=1.5" },
    { "did you mean 'slide'", "generate", stories, "past_context=slid" }, { "unknown kind", "bench", "trian" },
    { "unknown preset 'foo'", "bench", "attention", "presets=foo" }, { "unknown preset 'foo'", "bench", "decode", "contrast=foo" },
    { "ascending", "bench", "decode", "positions=9,3" }, { "unknown preset 'foo'", "bench", "train", "presets=softmax,foo" },
    { "unknown form 'serial'", "bench", "attention", "forms=serial" }, { "unknown op 'foo'", "bench", "ops", "ops=foo" },
    { "run: an empty word", "run", "" }, { "eval: an empty word", "eval", "" }, { "out_dir: a folder", "runs", "out_dir=" },
  } do
    expects(2, table.unpack(case))
  end
end)

T.test("a fault of ours, or an interrupt, is no error of usage", function()
  local words = require "attnlab.words"
  local function usage(fmt, ...) error("usage: " .. fmt:format(...), 0) end
  local function stumbles() return nil + 1 end
  local function stops() error("interrupted", 0) end
  local function refuses(x) if x then error("no " .. x, 0) end end
  T.raises(function() words.meant(usage, stumbles) end, "^[^u].*%.lua:%d+: attempt to")
  T.raises(function() words.meant(usage, stops) end, "^interrupted$")
  T.raises(function() words.meant(usage, refuses, "x") end, "^usage: no x$")
  T.raises(function() words.blame(usage, refuses, "x", nil) end, "^usage: no x$")
  T.raises(function() words.blame(usage, refuses, "x", "y") end, "^no x$")
  T.eq(words.blame(usage, function(x) return x end, 3, 4), 3)
end)

T.test("a seed may be 0", function()
  local root = T.folder()
  for _ = 1, 2 do expects(0, "finished at step 6", table.unpack(with("train", "--seed", "0", "out_dir=" .. root))) end
  T.eq(json.decode((select(2, tiny.run { "runs", "--json", "out_dir=" .. root })))[1].seed, 0)
  T.eq(json.decode((select(2, tiny.run { "run", (tiny.experiment ""), "--print-config", "--seeds", "0,4" }))).seeds, { 0, 4 })
  expects(2, "%-%-seed: a whole number >= 0 expected, got '%-1'", "train", "--seed", "-1")
end)

T.test("a model of characters takes no tokenizer", function()
  local dir = json.decode((select(2, tiny.run(with("train", "--json", "out_dir=" .. T.folder()))):match "{.*}")).dir
  for _, command in ipairs { "eval", "generate" } do
    expects(2, "option 'tokenizer': the model has a vocabulary of its own", command, dir, "tokenizer=" .. T.root .. "experiments/models/tok512.bin")
  end
  local lab = require "attnlab"
  T.raises(function() lab.model.load(dir, { tokenizer = "x" }) end, "^'[^']*': option 'tokenizer': the model has a vocabulary of its own")
  local path, words = T.folder() .. "/m.safetensors", T.root .. "experiments/models/tok512.bin"
  lab.model.new({ layers = 1, width = 8, heads = 2, context = 8, vocab = 512, seed = 1 }):save(path)
  expects(1, "the model has no vocabulary: tokenizer=FILE names one", "generate", path)
  expects(0, "3 tokens", "generate", path, "tokens=3", "tokenizer=" .. words)
end)

T.test("--json gives one value, in a folder that cannot be written, too", function()
  local file, dir = (tiny.experiment ""), T.folder()
  local function value(...)
    local words, out = { tiny.program, ... }, os.tmpname()
    words.stdout, words.stderr = out, "/dev/null"
    local _, code = sys.wait(sys.spawn(words))
    local text = sys.read(out)
    os.remove(out)
    return json.decode(text), code
  end
  for _, case in ipairs { { 1, "mkdir: /dev/null", "run", file, "out_dir=/dev/null/x" }, { 1, "results not written: mkdir: /dev/null", "plot", file, "out_dir=/dev/null/x" },
                          { 1, "mkdir: /dev/null", "train", "out_dir=/dev/null/x" }, { 1, "no such file", "run", "nowhere.lua" },
                          { 1, "out of memory", "train", "out_dir=" .. dir, "layers=1", "width=16", "batch_size=1000000000" },
                          { 1, "results not written: mkdir: /dev/null", "plot", T.root .. "experiments/surgery.lua", "--quick", "out_dir=/dev/null/x" },
                          { 1, "not a run folder", "compare", "a", "b" }, { 1, "the loss is nan", "eval", model_of_nans() },
                          { 2, "did you mean 'steps'", "run", file, "stepz=1" }, { 2, "unknown option %-%-quik", "plot", file, "--quik" } } do
    local v, code = value(case[3], "--json", table.unpack(case, 4))
    T.eq(code, case[1])
    T.ok(v.error:find(case[2]), v.error)
  end
end)

T.test("an unknown name where there is none", function()
  T.eq(require("attnlab.names").unknown("measure", "x", {}), "unknown measure 'x' (there is none)")
end)

T.test("failures: status 1 and what is wrong", function()
  expects(1, "no such file", "run", "nowhere.lua")
  expects(1, "'%.' is a folder, the file of an experiment is expected", "run", ".")
  expects(1, "'/dev/null' is no regular file", "plot", "/dev/null")
  local file = T.folder() .. "/x.lua"
  sys.write(file, "return 3")
  expects(1, "returns no experiment", "run", file)
  sys.write(file, "return (")
  expects(1, "x.lua:1", "run", file)
  local why = core.devices().cuda
  if not core.devices()[2] then -- one reason, whatever is asked of a GPU that is not there
    local said = "^attnlab: device cuda: " .. why:gsub("%p", "%%%0")
    expects(1, said, "run", (tiny.experiment ""), "--device", "cuda")
    expects(1, said, "train", "--device", "cuda:0", "steps=1")
    expects(1, said, "generate", "experiments/models/stories260K.bin", "--device", "cuda")
    expects(0, '"why": "' .. why:gsub("%p", "%%%0"), "devices", "--json")
    expects(0, why:gsub("%p", "%%%0"), "devices")
  end
  expects(1, "not a run folder", "compare", "a", "b")
  expects(1, "./lab test", "test")
  expects(1, "no such file", "train", "data=nowhere.txt")
  expects(1, "no such file", "check", "nowhere.c")
  expects(1, "denominator", "run", (tiny.experiment "{ name = 'b', ['attention.denominator'] = 'sun' }"), "steps=4")
end)

T.test("print-config writes out what presets resolve to", function()
  local function attention(...)
    local words, more = with("train", "--print-config"), { ... }
    local status, text = tiny.run(table.move(more, 1, #more, #words + 1, words))
    T.eq(status, 0)
    return json.decode(text).arms[1].config.attention
  end
  local a = attention "attention=p1/gated_softmax"
  T.eq({ a.preset, a.similarity, a.denominator.stat, a.output_gate.activation, a.output_norm.kind },
    { "p1/gated_softmax", "exp", "length", "sigmoid", "layer" })
  T.eq({ a.rope, a.rope_dims, a.qk_norm }, { "half", -1, false })
  a = attention("attention=delta/deltanet", "attention.chunk=16")
  T.eq({ a.preset, a.chunk, a.norm, a.conv, a.rope, a.conv_activation }, { "delta/deltanet", 16, "l2", 4, "none", "silu" })
  a = attention("attention.denominator=none")
  T.eq({ a.preset, a.denominator.stat, a.denominator.floor }, { "kernel_attention", "none", 0 })
  a = attention("layers=2", "attention.2.logit_clamp=5", "attention.1.preset=softmax")
  T.eq({ a["1"].logit_clamp, a["2"].logit_clamp, a["2"].similarity }, { false, 5, "exp" })
  a = attention "attention.heads.2.output_norm=l2"
  T.eq({ a.heads["1"].output_norm.kind, a.heads["2"].output_norm.kind, a.rope }, { "none", "l2", "half" })
end)

T.test("print-config and dry-run run nothing", function()
  local file, root = tiny.experiment ""
  local plan = json.decode((select(2, tiny.run { "run", file, "--print-config", "width=32", "out_dir=" .. root })))
  T.eq(plan.arms[1].config.model.width, 32)
  T.eq(plan.arms[1].config.model.mlp, 32)
  expects(0, "2 runs %(1 arms x 2 seeds%)", "run", file, "--dry-run", "out_dir=" .. root)
  local dry = json.decode((select(2, tiny.run { "run", file, "--dry-run", "--json", "out_dir=" .. root })))
  T.eq(dry.runs, 2)
  T.ok(dry.arms[1].parameters > 1000 and dry.arms[1].flops > 1e5 and dry.arms[1].memory > 1e4)
  T.eq(sys.exists(root), nil)
end)

T.test("seeds: the first N, more than there are, a list", function()
  local file = tiny.experiment ""
  local function seeds(text) return json.decode((select(2, tiny.run { "run", file, "--print-config", "--seeds", text }))).seeds end
  T.eq(seeds "1", { 1 })
  T.eq(seeds "4", { 1, 2, 3, 4 })
  T.eq(seeds "7,3", { 7, 3 })
end)

T.test("generate from a model whose numbers are none ends with status 1", function()
  local path = model_of_nans()
  for _, temperature in ipairs { "0", "1" } do
    expects(1, "generate: token 1: the logit of id 0 is nan", "generate", path, "prompt=ROMEO:", "temperature=" .. temperature)
  end
end)

T.test("eval of a model whose numbers are none ends with status 1", function()
  local path = model_of_nans()
  expects(1, "^attnlab: .*m.safetensors: the loss is nan: the model's numbers left their range\n$", "eval", path, "--windows=2")
end)

T.test("a training that is refused says why in one line and leaves no run", function()
  local root, files = T.folder() .. "/runs", T.folder()
  sys.write(files .. "/empty.txt", "")
  sys.write(files .. "/three.txt", "abc")
  sys.write(files .. "/odd.txt", "ab\xff\n")
  for set, why in pairs { ["context=100000000"] = "data: 'shakespeare' is too short", ["model.vocab=3"] = "model: the vocabulary has 65 tokens",
                          ["mlp=1000000000000"] = "out of memory",
                          ["data=" .. files .. "/empty.txt"] = "data: '/.*/empty.txt' is empty",
                          ["data=" .. files .. "/three.txt"] = "data: '/.*/three.txt' is too short",
                          ["data=" .. files .. "/odd.txt"] = "data: '/.*/odd.txt': vocab: the text is not UTF%-8",
                          ["data=/dev/null"] = "data: '/dev/null' is no regular file" } do
    local words = with "train"
    table.move({ "out_dir=" .. root, set }, 1, 2, #words + 1, words)
    expects(1, "^attnlab: " .. why .. "[^\n]*\n$", table.unpack(words))
  end
  expects(1, "\nattnlab: out of memory[^\n]*\n$", "train", "out_dir=" .. root, "layers=1", "width=16", "batch_size=1000000000")
  T.eq(sys.list(root .. "/train"), {})
end)

T.test("a command that is shown can be typed as it is", function()
  local root = T.folder() .. "/a  b"
  local text = root .. ".txt"
  sys.write(text, ("one two three "):rep(40))
  local shown = expects(0, "finished", table.unpack(with("train", "out_dir=" .. root, "data=" .. text)))
  local words = {}
  local pipe = io.popen("printf '%s\\n' " .. shown:match "next    %./lab ([^\n]*)")
  for word in pipe:lines() do words[#words + 1] = word end
  pipe:close()
  T.eq(sys.exists(words[2]), "dir")
  T.eq((tiny.run { words[1], words[2], "tokens=3", select(3, table.unpack(words)) }), 0)
  sys.write(text, ("one two three "):rep(41))
  local advice = expects(1, "eval: %-%-other%-text", "eval", words[2])
  local _, n = advice:gsub("a  b.txt", "")
  T.eq(n, 1, advice)
  expects(0, "bits per byte", "eval", words[2], "--other-text")
  T.ok(not expects(0, "shakespeare", "list", "data"):find("..", 1, true))
end)

T.test("a folder whose name is no UTF-8", function()
  local root, config = T.folder() .. "/h\xe4", require "attnlab.config"
  local v = config.variants(config.resolve {})[1]
  require("attnlab.certificate").write(root, { family = v.family, options = v.text, rows = {}, passed = true })
  local code, text = tiny.run(with("train", "--json", "out_dir=" .. root))
  T.ok(code == 0 and json.decode(text:match "{.*}").dir:find("/h\\xe4/train/", 1, true), text)
  code, text = tiny.run { "runs", "--json", "out_dir=" .. root }
  T.ok(code == 0 and json.decode(text)[1].status == "finished", text)
end)

T.test("train, eval, generate, runs, compare, plot", function()
  local root = T.folder() .. "/runs"
  local status, text = tiny.run(with("train", "--json", "out_dir=" .. root))
  T.eq(status, 0)
  local result = json.decode(text:match "{.*}")
  T.eq(result.status, "finished")
  T.eq(result.step, 6)
  expects(0, "finished at step 6", table.unpack(with("train", "out_dir=" .. root)))
  expects(0, "bits per byte", "eval", result.dir, "--windows", "4")
  local measured = json.decode((select(2, tiny.run { "eval", result.dir, "--windows", "8", "--json" })))
  T.eq(measured.loss, result.valid_loss)
  T.eq(json.decode((select(2, tiny.run { "eval", result.dir, "--json" }))).loss, result.valid_loss)
  local text = expects(0, "^ROMEO:", "generate", result.dir, "prompt=ROMEO:", "tokens=5")
  T.ok(text:find "5 tokens; [%d.]+ token/s" and text:find "state .* at position 10: a cache of k, v, %d+ bytes a token", text)
  expects(2, "did you mean 'slide'", "generate", result.dir, "prompt=ROMEO:", "past_context=slid")
  expects(2, "did you mean 'tokens'", "generate", result.dir, "token=5")
  T.eq((tiny.run(with("train", "--seed", "2", "out_dir=" .. root, "lr=1e-3"))), 0)
  local list = json.decode((select(2, tiny.run { "runs", "--json", "out_dir=" .. root })))
  T.eq(#list, 2)
  expects(0, "finished", "runs", "out_dir=" .. root)
  expects(0, "1 key differs.*train.lr", "compare", list[1].dir, list[2].dir)

  local file, runs = tiny.experiment ""
  T.eq((tiny.run { "run", file, "--json", "--seeds", "1", "out_dir=" .. runs }), 0)
  sys.remove(runs .. "/tiny+seeds=1/table.txt")
  expects(0, "valid loss", "plot", file, "--seeds", "1", "out_dir=" .. runs)
  T.eq(sys.exists(runs .. "/tiny+seeds=1/table.txt"), "file")
end)

T.test("json output of a run is one value", function()
  local file, runs = tiny.experiment ""
  local out = T.folder() .. "/json"
  local pid = sys.spawn { tiny.program, "run", file, "--json", "--seeds", "1", "out_dir=" .. runs, stdout = out, stderr = "/dev/null" }
  sys.wait(pid)
  T.eq(json.decode(sys.read(out)).experiment, "tiny")
end)

T.test("list, describe, env, version, lua", function()
  expects(0, "p1/softmax", "list")
  T.ok(#json.decode((select(2, tiny.run { "list", "ops", "--json" }))).ops > 20)
  expects(0, "softmax", "describe", "softmax")
  expects(0, "warmup_steps", "describe", "train.warmup_steps")
  expects(0, "export LUA_PATH='.*export LUA_CPATH='", "env")
  expects(0, "^attnlab %d", "version")
  local file = T.folder() .. "/s.lua"
  sys.write(file, [[local lab = require "attnlab"
print(..., arg[1], lab.tensor({ 1, 2 }):sum():item())]])
  expects(0, "^a b\ta b\t3", "lua", file, "a b")
  sys.write(file, "error 'broken'")
  expects(1, "broken", "lua", file)
end)

T.test("the table fits the terminal; its columns are explained in table.txt and on request", function()
  local path, root = tiny.experiment('{ name = "exp over the length of what each row sees, and an output gate", '
    .. '["attention.denominator"] = "length", ["attention.output_gate"] = "sigmoid" }',
    'expect = { { arm = "softmax", value = 4, within = 1 } }, quick = { steps = 2, warmup_steps = 1 }')
  local status, whole = tiny.run { "run", path, "out_dir=" .. root }
  T.ok(status == 0, whole)
  T.ok(whole:find "token/s" and whole:find "check" and not whole:find "seeds that finished", "wide without a terminal, no legend")
  for _, width in ipairs { 80, 100, 120 } do
    local code, text = tiny.run({ "plot", path, "out_dir=" .. root }, { COLUMNS = tostring(width) })
    T.ok(code == 0, text)
    for line in text:match("^(.-)\ntable  "):gmatch "[^\n]+" do T.ok(utf8.len(line) <= width, ("%d: %s"):format(width, line)) end
    T.ok(text:find "valid loss" and text:find "verdict" and text:find "reference", text)
    T.eq(text:find "left out, as the terminal is narrow: token/s" ~= nil, width < 120)
  end
  local _, narrow = tiny.run({ "plot", path, "out_dir=" .. root }, { COLUMNS = "80" })
  T.ok(narrow:find "\nexp over" and narrow:find "status of every arm: finished", narrow)
  local _, legend = tiny.run { "plot", path, "out_dir=" .. root, "--legend" }
  local kept = sys.read(root .. "/tiny/table.txt")
  for _, text in ipairs { legend, kept } do T.ok(text:find "n +seeds that finished" and text:find "verdict +interval within", text) end
  T.ok(kept:find "token/s" and kept:find "held +softmax reaches 4", kept)
  local none = tiny.experiment '{ name = "b", lr = 0.1 }'
  expects(2, "tiny: %-%-quick: the file has no `quick`", "run", none, "--quick")
  local code, quick = tiny.run { "run", path, "--quick", "out_dir=" .. root }
  T.ok(code == 0 and quick:find "A quick run judges what its file lists" and not quick:find "softmax reaches", quick)
end)

T.test("for papers: one panel as PDF, the table in TeX", function()
  local path, root = tiny.experiment '{ name = "50 % & more_$#{}~^\\\\", lr = 0.1 }'
  local status, text = tiny.run { "run", path, "out_dir=" .. root }
  T.ok(status == 0, text)
  local tex = sys.read(root .. "/tiny/table.tex")
  T.ok(tex:find("\n50 \\% \\& more\\_\\$\\#\\{\\}\\textasciitilde{}\\textasciicircum{}\\textbackslash{} & $", 1, true), tex)
  T.ok(tex:find "\\begin{tabular}{lrrl}" and tex:find "\nsoftmax & %$%d%.%d+ \\pm 0%.%d+%$ &  & reference\\\\\n" and tex:find "\\end{tabular}\n$", tex)
  for line in tex:gmatch "[^\n]+\\\\\n" do T.eq(select(2, line:gsub("[^\\]&", "")), 3) end
  status, text = tiny.run { "plot", path, "--pdf", "--panel", "b", "--width", "84mm", "out_dir=" .. root }
  if not text:find "cannot be started" then
    T.ok(status == 0 and text:find "^figure  .*/tiny/figure%-b.pdf\n$", text)
    T.ok(sys.read(root .. "/tiny/figure-b.pdf"):find "MediaBox %[ 0 0 238")
  end
  expects(2, "%-%-panel goes with %-%-pdf", "plot", path, "--panel", "b")
  expects(2, "unknown panel 'd'", "plot", path, "--pdf", "--panel", "d")
  expects(2, "a width from 1in to 40in such as 3.3in", "plot", path, "--pdf", "--width", "3.3")
  expects(2, "a study has no such figure", "plot", T.root .. "experiments/surgery.lua", "--pdf")
end)
