-- A run folder is whole: what it made opens without its text and from anywhere, and a text that has changed is
-- not measured on unsaid.
local T = ...
local lab = require "attnlab"
local core = require "attnlab.core"
local data = require "attnlab.data"
local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)
local sys = core.sys

local dir = T.folder()
local text, path = sys.read(data.path "shakespeare"):sub(1, 20000), dir .. "/text.txt"
sys.write(path, text)
local status, said = tiny.run { "train", "data=" .. path, "layers=1", "width=16", "heads=2", "mlp=16", "context=16",
  "batch_size=2", "steps=6", "eval_interval=3", "checkpoint_interval=3", "out_dir=" .. dir .. "/runs" }
T.ok(status == 0, said)
local run = dir .. "/runs/train/" .. sys.list(dir .. "/runs/train")[1]

-- Exit status and output of the program in another working folder, for a user without one of his own.
local function elsewhere(...)
  local words = { ("cd '%s' && env -u HOME -u XDG_DATA_HOME '%s'"):format(T.folder(), tiny.program) }
  for _, w in ipairs { ... } do words[#words + 1] = "'" .. w .. "'" end
  local out = T.folder() .. "/out"
  local _, _, code = os.execute(table.concat(words, " ") .. " >" .. out .. " 2>&1")
  return code, sys.read(out)
end

local function expects(code, pattern, ...)
  local got, out = elsewhere(...)
  T.ok(got == code, ("status %d expected, got %d:\n%s"):format(code, got, out))
  T.ok(out:find(pattern), ("'%s' expected in: %s"):format(pattern, out))
  return out
end

T.test("a run and its checkpoint open as models, with their vocabulary", function()
  local m, c = lab.model.load(run), lab.model.load(run .. "/checkpoint.safetensors")
  T.eq(m.trained_on, { name = path, sha256 = sys.sha256(text) })
  T.eq(m.vocabulary:decode(m.vocabulary:encode "First"), "First")
  for name, p in pairs(m:parameters()) do T.eq(c:parameters()[name], p) end
  T.eq(m:generate { prompt = "First", tokens = 5 }, c:generate { prompt = "First", tokens = 5 })
  local saved = dir .. "/saved.safetensors"
  m:save(saved)
  T.eq(lab.model.load(saved).trained_on, m.trained_on)
  T.eq(m:fork():generate { prompt = "First", tokens = 5 }, m:generate { prompt = "First", tokens = 5 })
  T.raises(function() lab.model.load(dir) end, "a model file is expected, or the folder of a run that has a checkpoint")
end)

T.test("a copy elsewhere, under another name, without the text", function()
  local copy, moved = T.folder() .. "/a copy", T.folder() .. "/moved.txt"
  sys.mkdir(copy)
  for _, name in ipairs(sys.list(run)) do sys.write(copy .. "/" .. name, sys.read(run .. "/" .. name)) end
  local loss = expects(0, "nats per token", "eval", run):match ": ([%d.]+) nats"
  local written = expects(0, "^First", "generate", run, "prompt=First", "tokens=5")
  sys.rename(path, moved)
  T.eq(expects(0, "", "generate", copy, "prompt=First", "tokens=5"):match "^[^\n]*", written:match "^[^\n]*")
  expects(1, "trained on this text %(sha256 %x+%), which is not here: %-%-data FILE", "eval", copy)
  T.eq(expects(0, "", "eval", copy, "--data", moved):match ": ([%d.]+) nats", loss)
  expects(0, "same configuration", "compare", copy, copy)
  sys.rename(moved, path)
end)

T.test("another text of the same name is not measured on unsaid", function()
  local loss = expects(0, "nats per token", "eval", run)
  local changed = text:gsub("e", "a")
  sys.write(path, changed)
  expects(1, "is another one than that of this name which the model was trained on: sha256 %x+ here", "eval", run)
  T.raises(function() lab.evalset { data = path } (lab.model.load(run)) end, "is another one than that")
  local other = expects(0, "not the text that the model was trained on", "eval", run, "--other-text")
  T.ok(other ~= loss)
  expects(0, "not the text that the model was trained on", "eval", run, "--data", path)
  expects(1, "'K' %(U%+004B%) is not among the 58", "eval", run, "--data", "shakespeare")
  sys.remove(path)
  expects(1, "trained on this text %(sha256 %x+%), which is not here: %-%-data FILE", "eval", run)
  expects(0, "^First", "generate", run, "prompt=First", "tokens=5")
  local s = lab.model.load(run):fork()
  s.layer[1]:set { output_norm = "l2" }
  T.eq(#s:swaps(), 1)
  sys.write(path, text)
  T.eq(expects(0, "nats per token", "eval", run), loss)
end)
