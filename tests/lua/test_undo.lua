-- The list of a fork: what is taken back and done again, whatever kind of entry, what changed since somebody asked, and
-- changes that are stopped halfway.
local T = ...
local core = require "attnlab.core"
local lab = require "attnlab"
local surgery = require "attnlab.surgery"

local path = T.numbers(900)
local text = lab.data.open(path)
local IDS = core.tensor { data = { { 1, 2, 3, 4, 5, 6, 7, 8 }, { 3, 2, 1, 0, 9, 8, 7, 6 } }, dtype = "i32" }
local TRAIN = { data = path, steps = 3, batch_size = 4, warmup_steps = 1, eval_windows = 4, eval_interval = 0,
                lr = 3e-3, quiet = true }

local function model()
  return lab.model.new { layers = 2, width = 16, heads = 4, kv_heads = 2, mlp = 24, context = 12, seed = 3,
                         attention = "softmax", vocabulary = text.vocabulary }
end

local function logits(m) return m:forward(IDS):flat() end

local STEPS = {
  function(s) s.layer["*"]:set { denominator = "length" } end,
  function(s) s.layer[2].head[3]:set { output_norm = "l2" } end,
  function(s) s:calibrate { data = text, batches = 1, batch = 4 } end,
  function(s) s:tune(TRAIN) end,
  function(s) s.layer[1]:set { output_gate = "sigmoid" } end,
  function(s) s:tune(TRAIN) end,
  function(s) s:calibrate { data = text, batches = 1, batch = 4 } end,
}

T.test("every kind of change is undone and done again, to the bit, and so is what was trained on top", function()
  local m = model()
  local s, seen, listed = m:fork(), {}, {}
  seen[0] = logits(s)
  for i, step in ipairs(STEPS) do
    step(s)
    seen[i], listed[i] = logits(s), tostring(s:swaps())
  end
  for n = 1, #STEPS do
    s:undo(n)
    T.eq(logits(s), seen[#STEPS - n])
    s:redo(n)
    T.eq(logits(s), seen[#STEPS])
    T.eq(tostring(s:swaps()), listed[#STEPS])
  end
  s:undo(#STEPS)
  T.eq(logits(s), logits(m))
  for i = 1, #STEPS do
    s:redo()
    T.eq(logits(s), seen[i])
    T.eq(tostring(s:swaps()), listed[i])
  end
end)

T.test("a training taken out of the middle comes back to its place", function()
  local s = model():fork()
  s:tune(TRAIN)
  s.layer[1]:set { output_norm = "l2" }
  local whole = logits(s)
  s:undo "tune"
  T.ok(logits(s)[1] ~= whole[1])
  s:undo()
  s:redo(2)
  T.eq(logits(s), whole)
  T.eq({ s:swaps()[1].kind, s:swaps()[2].kind }, { "tune", "set" })
  local ev = lab.evalset { data = text, windows = 3 }
  ev(s)
  s:undo "tune"
  T.eq(s:swaps()[1].loss, nil) -- it was measured with that training
end)

T.test("after a change nothing can be done again, and numbers that cannot be are refused", function()
  local s = model():fork()
  T.raises(function() s:redo() end, "redo: nothing was undone")
  s.layer[1]:set { output_norm = "l2" }
  s.layer[2]:set { output_norm = "l2" }
  s:undo(2)
  T.raises(function() s:redo(3) end, "redo: a number in 1%.%.2 expected, got 3")
  T.raises(function() s:redo "all" end, "expected, got all")
  s:redo()
  s.layer[2]:set { output_norm = "rms" }
  T.raises(function() s:redo() end, "changed since")
  local r = s:tune(TRAIN)
  s.layer[1]:set { output_norm = "rms" }
  s:undo()
  r:cont(1) -- other weights than the change was made on
  T.raises(function() s:redo() end, "changed since")
end)

T.test("what an evaluation measured of a state is there again with it", function()
  local s = model():fork()
  s.layer[1]:set { output_norm = "l2" }
  local loss = lab.evalset { data = text, windows = 3 }(s)
  s:undo()
  s:redo()
  T.eq(s:swaps()[1].loss, loss)
end)

T.test("forks whose list changed are told once, and are not held", function()
  surgery.changed()
  local m = model()
  local a, b = m:fork(), m:fork()
  T.eq(#surgery.changed(), 0)
  b.layer[1]:set { output_norm = "l2" }
  a.layer[1]:set { output_norm = "l2" }
  b:undo()
  local list = surgery.changed()
  T.ok(#list == 2 and list[1] == a and list[2] == b, "the last changed comes last")
  T.eq(#surgery.changed(), 0)
  T.raises(function() a.layer[1]:set { output_nrom = "l2" } end)
  T.eq(#surgery.changed(), 0)
  b:redo()
  T.ok(surgery.changed()[1] == b)
  a.layer[2]:set { output_norm = "l2" }
  list, a = nil, nil -- luacheck: ignore
  collectgarbage()
  collectgarbage()
  T.eq(#surgery.changed(), 0)
end)

T.test("a change that is stopped halfway leaves all as it was", function()
  local s = model():fork()
  s.layer[1]:set { output_norm = "l2" }
  s.layer[2]:set { output_norm = "rms" }
  s:undo()
  local was, spec = logits(s), s.spec
  for stop = 1, 2 do
    local n = 0
    for _, block in ipairs(s.layers) do
      block.replace = function(...)
        n = n + 1
        if n == stop then error("interrupted", 0) end
        return getmetatable(block).__index.replace(...)
      end
    end
    T.raises(function() s.layer["*"]:set { denominator = "length" } end, "interrupted")
    for _, block in ipairs(s.layers) do block.replace = nil end
    T.eq(logits(s), was)
    T.eq(s.spec, spec)
    T.eq(#s:swaps(), 1)
  end
  s:redo()
  T.eq(s:swaps()[2].change, "output_norm=rms")
end)
