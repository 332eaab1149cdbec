-- Damaged and hostile run folders beside good ones: every listing works, names each bad one with its reason, runs
-- no code of theirs, writes nothing outside and sends no control character to the terminal.
local T = ...
local core = require "attnlab.core"
local store = require "attnlab.store"
local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)
local sys, json = core.sys, core.json

local file, root = tiny.experiment [[{ name = "length", ["attention.denominator"] = "length" }]]
local function run(...)
  local code, text = tiny.run { ... }
  T.ok(not text:find "[^%C\n\t]", "no control character")
  T.ok(not text:find "attempt to" and not text:find "//", text)
  return code, text
end
T.eq((run("run", file, "steps=4", "eval_interval=2", "out_dir=" .. root)), 0)
local good = tiny.run_dirs(root)
table.sort(good, function(a, b) return store.config(a).arm > store.config(b).arm end) -- softmax first, whatever the ids are
local outside = T.folder()
sys.write(outside .. "/kept", "kept")

-- Makes a copy of the first good run in an experiment of its own.
local function copy(name)
  local dir = ("%s/%s/%s"):format(root, name, good[1]:match "[^/]+$")
  sys.mkdir(dir)
  for _, f in ipairs(sys.list(good[1])) do sys.write(dir .. "/" .. f, sys.read(good[1] .. "/" .. f)) end
  return dir
end

local function edit(path, from, to)
  local text, n = sys.read(path):gsub(from, to, 1)
  T.eq(n, 1)
  sys.write(path, text)
end

local function set(name, key, value)
  return function(dir)
    local object = json.decode(sys.read(dir .. "/" .. name))
    object[key] = value
    sys.write(dir .. "/" .. name, json.encode(object))
  end
end

local function text(name, content)
  return function(dir) sys.write(dir .. "/" .. name, content) end
end

local function link(name, target)
  return function(dir)
    sys.remove(dir .. "/" .. name)
    assert(os.execute(("ln -s '%s' '%s/%s'"):format(target, dir, name)))
  end
end

local checkpoint = sys.read(good[1] .. "/checkpoint.safetensors")
-- name = { what is done, what the listing says of it }
local BAD = {
  config_empty = { text("config.json", ""), "config.json: " },
  config_object = { text("config.json", "{}"), "config.json: 'arm': string expected, got nil" },
  config_null = { text("config.json", "null"), "config.json: line 1: an object expected" },
  config_list = { text("config.json", "[1]"), "config.json: " },
  config_number = { text("config.json", "7"), "config.json: " },
  config_deep = { text("config.json", ("["):rep(100000)), "config.json: " },
  config_seed = { set("config.json", "seed", 7), "config.json: it is that of run %x+, not of this folder" },
  config_half_seed = { set("config.json", "seed", 1.5), "'seed': integer expected, got float" },
  config_made = { set("config.json", "made", "x"), "'made': table expected, got string" },
  config_arm = { set("config.json", "arm", { 1 }), "'arm': string expected, got table" },
  config_hash = { set("config.json", "data_hash", ("0"):rep(64)), "not of this folder" },
  config_config = { set("config.json", "config", { train = 3 }), "config.json: not a configuration" },
  config_plugins = { set("config.json", "plugins", { 3 }), "'plugins%[1%]': table expected" },
  config_measure = { set("config.json", "measure", { 3 }), "'measure%[1%]': string expected, got number" },
  config_threads = { function(dir) edit(dir .. "/config.json", '"threads": %d+', '"threads": 100000') end,
                     "'made.threads': 1 to 4096 expected, got 100000" },
  config_micro = { function(dir) edit(dir .. "/config.json", '"threads": %d+', '"threads": 1, "micro_batch": 0') end,
                   "'made.micro_batch': 1 or more expected, got 0" },
  config_long = { function(dir) edit(dir .. "/config.json", '"preset": "softmax"', '"' .. ("x"):rep(1 << 20) .. '": 1') end,
                  "unknown option 'x+%.%.%." }, -- looked for among the known ones, in no time
  config_escape = { set("config.json", "device", "\27]0;x\7"), "config.json: it is that of run" },
  config_link = { link("config.json", outside .. "/kept"), "not a run folder" },
  config_pipe = { function(dir)
    sys.remove(dir .. "/config.json")
    assert(os.execute(("mkfifo '%s/config.json'"):format(dir)))
  end, "not a run folder" },
  status_null = { text("status", "null"), "status: line 1: an object expected" },
  status_word = { text("status", '{"state":"\27[2Jdone","step":4}'), "status: " },
  status_step = { text("status", '{"state":"finished","step":"4"}'), "'step': integer expected, got string" },
  status_other = { text("status", '{"state":"finished","step":2}'), "its last record is of step 4, but" },
  status_link = { link("status", outside .. "/kept"), "a link" },
  metrics_cut = { function(dir) edit(dir .. "/metrics.jsonl", "\n[^\n]*\n$", "\n") end, "metrics.jsonl: " },
  metrics_gone = { function(dir) sys.remove(dir .. "/metrics.jsonl") end, "its last record is of step none" },
  metrics_word = { text("metrics.jsonl", '{"step":4}\nnot json\n'), "metrics.jsonl: line 2: " },
  metrics_list = { text("metrics.jsonl", "[]\n"), "metrics.jsonl: line 1: an object with a step expected" },
  metrics_more = { function(dir) sys.write(dir .. "/metrics.jsonl", sys.read(dir .. "/metrics.jsonl") .. '{"step":4}\n') end,
                   "metrics.jsonl: %d+ bytes, but checkpoint.safetensors was written after" },
  metrics_link = { link("metrics.jsonl", outside .. "/kept"), "a link" },
  checkpoint_cut = { text("checkpoint.safetensors", checkpoint:sub(1, -9)), "checkpoint.safetensors: " },
  checkpoint_other = { function(dir) edit(dir .. "/checkpoint.safetensors", '"run.step":"4"', '"run.step":"2"') end,
                       "checkpoint.safetensors: of step 2, but the run finished at step 4" },
  checkpoint_link = { link("checkpoint.safetensors", outside .. "/kept"), "a link" },
}
-- What is bad and hides nothing: the run stands, the rest is passed over.
local HARMLESS = {
  times = text("times.jsonl", "no\27 line\n{}\n[]\n3\n"),
  probe = text("probe.json", '{"log10_row_sum":[1,"x"],"series":7}'),
  certificates = set("config.json", "arm", "\27[31mred"),
  blanks = set("config.json", "arm", (" "):rep(1 << 18) .. "x"),
}
for name, bad in pairs(BAD) do bad[1](copy(name)) end
for name, harmless in pairs(HARMLESS) do harmless(copy(name)) end
sys.mkdir(root .. "/empty")
local named = copy "\27]0;x\7\n\xc2\x9b2J" -- a good one, of a bad name
sys.write(named .. "/status", '{"state":"finished"}')
copy "\xff\xe4" -- and one that no JSON can hold
sys.write(root .. "/a file", "x")
assert(os.execute(("ln -s '%s' '%s/away'; ln -s '%s' '%s/empty/000000000000'; ln -s loop '%s/loop'"):format(outside, root,
  outside, root, root)))

T.test("runs lists the good and names the bad with their reasons", function()
  local code, said = run("runs", "out_dir=" .. root)
  T.eq(code, 0)
  local lines = {}
  for line in said:gmatch "[^\n]+" do
    local name = line:match "/runs/([%w_]+)/%x+"
    if name then lines[name] = (lines[name] or "") .. line .. "\n" end
  end
  for name, bad in pairs(BAD) do
    local line = lines[name] or "not listed"
    T.ok(line:find "damaged: " and line:find(bad[2]), ("%s: '%s' expected in: %s"):format(name, bad[2], line))
  end
  for name in pairs(HARMLESS) do T.ok((lines[name] or ""):find "finished", lines[name]) end
  local _, n = (lines.tiny or ""):gsub("finished", "")
  T.eq(n, #good)
  code, said = run("runs", "--json", "out_dir=" .. root)
  T.eq(code, 0)
  T.ok(#json.decode(said) >= #good + 33, said)
end)

T.test("each bad run is refused by what opens one, and nothing of it runs", function()
  for name in pairs(BAD) do
    local dir = root .. "/" .. name .. "/" .. good[1]:match "[^/]+$"
    T.eq(store.status(dir).state, "damaged")
    local code = run("worker", "--run", dir)
    T.ok(code == 1, name)
    T.eq(store.status(dir).state, "damaged")
  end
  local evil = copy "evil"
  local spec = json.decode(sys.read(evil .. "/config.json"))
  spec.plugins = { { family = "evil", path = outside .. "/evil.so", sha256 = sys.sha256 "evil" } }
  sys.write(outside .. "/evil.so", "evil")
  sys.write(evil .. "/config.json", json.encode(spec))
  sys.write(evil .. "/status", '{"state":"interrupted","step":2}')
  T.ok(select(2, run("worker", "--run", evil)):find "damaged: config.json: it is that of run")
  local named = evil:match "^(.*)/" .. "/" .. store.id(spec)
  sys.rename(evil, named)
  evil = named
  local code, said = run("worker", "--run", evil)
  T.eq(code, 1)
  T.ok(said:find "which this user has never built, checked or run", said)
  T.eq(sys.list(outside), { "evil.so", "kept" })
  T.eq(sys.read(outside .. "/kept"), "kept")
end)

T.test("an experiment with damaged runs: the others are shown, and what is missing is said", function()
  sys.write(good[2] .. "/status", "{}")
  local words = { "steps=4", "eval_interval=2", "out_dir=" .. root }
  local code, said = run("run", file, table.unpack(words))
  T.eq(code, 1)
  T.ok(said:find "status: unknown state 'nil'", said)
  code, said = run("plot", file, table.unpack(words))
  T.eq(code, 0)
  T.ok(said:find "1 damaged", said)
  code, said = run("compare", good[1], good[3])
  T.eq(code, 0)
  code, said = run("compare", good[1], good[2])
  T.ok(said:find "valid loss" or said:find "damaged", said)
  T.eq(sys.read(good[2] .. "/status"), "{}") -- left for whoever wants to look
end)
