-- The binding: tensors from and to tables, indexing, printing, memory, gradients, errors.
local T = ...
local core = require "attnlab.core"
local tensor = core.tensor

local function live()
  collectgarbage()
  collectgarbage()
  return core.memory().live
end

T.test("from and to tables", function()
  local t = tensor {{1, 2, 3}, {4, 5, 6}}
  T.eq(t:shape(), {2, 3})
  T.eq(t:dtype(), "f32")
  T.eq(t:totable(), {{1, 2, 3}, {4, 5, 6}})
  T.eq(t:flat(), {1, 2, 3, 4, 5, 6})
  T.eq({t:ndim(), t:numel(), t:size(1), t:size(-1), #t}, {2, 6, 2, 3, 2})
  T.eq(tensor(5):shape(), {})
  T.eq(tensor(5):item(), 5)
  T.eq(tensor({}):shape(), {0})
  T.eq(tensor {{}, {}}:shape(), {2, 0})
  local u = tensor {data = {1, 2, 3, 4, 5, 6}, shape = {3, 2}, dtype = "i32"}
  T.eq(u:totable(), {{1, 2}, {3, 4}, {5, 6}})
  T.eq(math.type(u:totable()[1][1]), "integer")
  T.eq(tensor {data = {{1}, {2}}, dtype = "f64"}:shape(), {2, 1})
  T.eq(tensor {data = 0.1, dtype = "f64"}:item(), 0.1)
  T.eq(tensor {0.1}:flat(), {(string.unpack("f", string.pack("f", 0.1)))})
end)

T.test("bad tables are refused with their place", function()
  T.raises(function() tensor {{1, 2}, {3}} end,
           "tensor: table %[2%] has 1 elements, the first one here has 2")
  T.raises(function() tensor {{1, 2}, 3} end,
           "tensor: element %[2%]: a table of 2 expected as in the first, got a number")
  T.raises(function() tensor {{1, "x"}} end,
           "tensor: element %[1%]%[2%]: a number expected, got a string")
  T.raises(function() tensor {1, {2}} end, "element %[2%]: a number expected, got a table")
  T.raises(function() tensor {true} end, "got a boolean")
  T.raises(function() tensor {data = {1.5}, dtype = "i32"} end,
           "element %[1%]: an i32 expected, got 1.5")
  T.raises(function() tensor {data = {2 ^ 31}, dtype = "i32"} end, "i32 expected")
  T.raises(function() tensor {data = {1, 2, 3}, shape = {2, 2}} end,
           "4 numbers needed for shape %(2,2%), got 3")
  T.raises(function() tensor {shape = {2}} end,
           "bad argument #1 to 'tensor' %(option 'data' is missing%)")
  T.raises(function() tensor {data = {1}, dtyp = "f32"} end,
           "unknown option 'dtyp' %(did you mean 'dtype'%?%)")
  T.raises(function() tensor {data = {1}, dtype = "f16"} end,
           "option 'dtype': one of: f64 f32 bf16 i32 expected, got 'f16'")
  T.raises(function() tensor {data = {1}, device = "cuba"} end, "no device 'cuba' here, did you mean 'cuda'%?")
  T.raises(function() tensor {{{{{{{{{1}}}}}}}}} end, "nested deeper than 8 axes")
  T.raises(function() tensor() end, "bad argument #1 to 'tensor'")
  T.raises(function() tensor "x" end, "a table expected, as tensor{data=.*, got string")
end)

T.test("constructors", function()
  T.eq(core.zeros {shape = {2, 2}}:flat(), {0, 0, 0, 0})
  T.eq(core.zeros({2, 3}):shape(), {2, 3})
  T.eq(core.zeros({shape = {}}):shape(), {})
  T.eq(core.ones {shape = {2}, dtype = "i32"}:flat(), {1, 1})
  T.eq(core.full {shape = {2}, value = -2.5}:flat(), {-2.5, -2.5})
  local a = core.randn {shape = {100}, seed = 3, stream = "w"}
  T.eq(a, core.randn {shape = {100}, seed = 3, stream = "w"})
  T.ok(a:flat()[1] ~= core.randn({shape = {100}, seed = 3, stream = "v"}):flat()[1])
  for _, x in ipairs(core.rand({shape = {100}, seed = 1}):flat()) do T.ok(x >= 0 and x < 1) end
  T.raises(function() core.zeros {dtype = "f32"} end,
           "bad argument #1 to 'zeros' %(option 'shape' is missing%)")
  T.raises(function() core.zeros {shape = {2, -1}} end, "option 'shape'.*got '%-1'")
  T.raises(function() core.zeros {shape = {1.5}} end, "option 'shape'.*got '1.5'")
  T.raises(function() core.zeros {shape = {1e15, 1e15}} end, "too large")
  T.raises(function() core.zeros {shape = {0, 2^53, 2^53}} end, "too large")
  T.raises(function() core.zeros {shape = {2^62}} end, "at most 2^53")
  T.raises(function() core.zeros {shape = {1/0}} end, "option 'shape'.*got 'inf'")
  T.eq(core.zeros({shape = {2^52, 0, 2}}):numel(), 0)
  T.raises(function() core.zeros {shape = {1, 1, 1, 1, 1, 1, 1, 1, 1}} end, "at most 8 axes")
  T.raises(function() core.full {shape = {2}} end, "option 'value' is missing")
  T.raises(function() core.full {shape = {2}, value = 1.5, dtype = "i32"} end,
           "option 'value': an i32 expected")
  T.raises(function() core.randn {shape = {2}, stream = "x"} end, "needs the option 'seed'")
  T.raises(function() core.randn {shape = {2}, dtype = "i32"} end, "f32, f64 or bf16")
  T.raises(function() core.zeros(3) end, "a table expected, as zeros{shape=.*, got number")
end)

T.test("a second argument of a constructor is refused, with the right spelling", function()
  local as = 'bad argument #2 to \'%s\' %%(one table expected, as %s{%s={[%%d,]+}.*, dtype="f64"'
  T.raises(function() tensor({1, 2}, {dtype = "f64"}) end, as:format("tensor", "tensor", "data"))
  T.raises(function() tensor(5, "f64") end, as:format("tensor", "tensor", "data"))
  for _, name in ipairs {"zeros", "ones", "full", "rand", "randn"} do
    T.raises(function() core[name]({2, 3}, {dtype = "f64"}) end, as:format(name, name, "shape"))
    T.raises(function() core[name](2, 3) end, as:format(name, name, "shape"))
  end
  T.raises(function() tensor {1, 2, dtype = "f64"} end, "numbers beside names: data=.. expected, as tensor{data=")
  T.eq(tensor {data = {1, 2}, dtype = "f64"}:dtype(), "f64")
end)

T.test("indexing reads, and gradients flow", function()
  local t = tensor {{1, 2, 3}, {4, 5, 6}}
  T.eq(t[1]:totable(), {1, 2, 3})
  T.eq(t[-1]:totable(), {4, 5, 6})
  T.eq(t[{2, {1, 3}}]:totable(), {4, 5, 6})
  T.eq(t[{{}, 2}]:totable(), {2, 5})
  T.eq(t[{{}, {-2, -1}}]:totable(), {{2, 3}, {5, 6}})
  T.eq(t[{{}, {1, 3, 2}}]:totable(), {{1, 3}, {4, 6}})
  T.eq(t[{2, 3}]:item(), 6)
  T.eq(t[{}]:totable(), t:totable())
  t:requires_grad(true)
  t[{2, {2, 3}}]:sum():backward()
  T.eq(t:grad():totable(), {{0, 0, 0}, {0, 1, 1}})
  T.raises(function() return t[3] end,
           "index: axis 1: 1%.%.2 or from the end %-2%.%.%-1 expected, got 3 for shape %(2,3%)")
  T.raises(function() return t[0] end, "got 0")
  T.raises(function() return t[{1, 1, 1}] end, "3 places for the 2 axes")
  T.raises(function() return t[{{2, 1}}] end, "first after last")
  T.raises(function() return t[{{1}}] end, "a range is {first, last}")
  T.raises(function() return t[{{1, 2, 0}}] end, "step of a range")
  T.raises(function() return t[{"x"}] end,
           "axis 1: an integer or {first, last} expected, got a string")
  T.raises(function() return t[1.5] end, "axis 1: an integer")
  T.raises(function() return tensor(1)[1] end, "a scalar tensor has no axis")
  T.raises(function() return t:totabel() end,
           "a tensor has no method 'totabel' %(did you mean 'totable'%?%)")
end)

T.test("indexing writes in place", function()
  local t = core.zeros {shape = {2, 3}}
  t[{1, {2, 3}}] = 7
  t[2] = tensor {1, 2, 3}
  T.eq(t:totable(), {{0, 7, 7}, {1, 2, 3}})
  t[{{}, 1}] = {8, 9}
  T.eq(t:totable(), {{8, 7, 7}, {9, 2, 3}})
  T.raises(function() t[1] = tensor {1, 2} end, "shape %(3%) needed, got %(2%)")
  T.raises(function() t.name = 1 end, "no field 'name'")
  T.raises(function() t[1] = "x" end, "tensor expected, got string")
end)

T.test("copies, types, filling", function()
  local t = tensor {1.5, 2.5}
  local c = t:clone()
  c:fill(0)
  T.eq(t:flat(), {1.5, 2.5})
  local d = t:detach()
  d:fill(3)
  T.eq(t:flat(), {3, 3})
  T.eq(t:to("f64"):dtype(), "f64")
  T.eq(t:to "cpu", t)
  T.eq(tensor({1.25}):to("bf16"):flat(), {1.25})
  T.raises(function() t:to "gpu" end, "or a device expected, got 'gpu' %(cpu")
  T.raises(function() t:to "cuda:x" end, "cuda:x")
  local devices = core.devices()
  if devices[2] then T.eq(t:to("cuda"):to("cpu"):flat(), t:flat())
  else T.raises(function() t:to "cuda" end, "device cuda: " .. devices.cuda:gsub("%p", "%%%0")) end
  T.raises(function() t:to "f16" end, "a type, f64 f32 bf16 i32, or a device expected, got 'f16'")
  T.eq(t:copy_(tensor {4, 5}):flat(), {4, 5})
  T.eq(t:copy_({6, 7}):flat(), {6, 7})
  T.raises(function() t:copy_(tensor {1}) end, "shape %(2%) needed, got %(1%)")
  local u, v = core.zeros {shape = {50}}, core.zeros {shape = {50}}
  u:fill_normal(1, "a", 0, 2)
  v:fill_normal(1, "a", 0, 2)
  T.eq(u, v)
  u:fill_uniform(1, "b", -1, 1)
  for _, x in ipairs(u:flat()) do T.ok(x >= -1 and x <= 1) end
  T.raises(function() tensor({data = {1}, dtype = "i32"}):fill(0.5) end, "fill.*i32 expected")
end)

T.test("i32 from its least to its largest number", function()
  local least, most = -2147483648, 2147483647
  local t = tensor {data = {least, most, 0}, dtype = "i32"}
  T.eq(t:flat(), {least, most, 0})
  T.eq(core.full({shape = {1}, value = least, dtype = "i32"}):flat(), {least})
  t[3] = least
  T.eq(t:fill(least):flat(), {least, least, least})
  T.eq(t:to "f64":flat(), {least, least, least})
  T.eq(tensor({data = {-3e9, 3e9, 0/0, -1/0}, dtype = "f64"}):to "i32":flat(), {least, most, 0, least})
  T.eq(core.op.concat({t, t}, {axis = 1}):numel(), 6)
  T.eq(core.op.select(t, tensor {1, 2, 3}, 0):flat(), {1, 2, 3})
  T.eq(tostring(tensor {data = {least, most}, dtype = "i32"}), "i32 (2)\n  -2147483648  2147483647")
  for _, x in ipairs {least - 1, most + 1, 0.5, 0/0, 1/0, 2^63, math.mininteger} do
    T.raises(function() tensor {data = {x}, dtype = "i32"} end, "an i32 expected")
    T.raises(function() core.full {shape = {1}, value = x, dtype = "i32"} end, "option .value.")
    T.raises(function() t[1] = x end, "an i32 expected")
    T.raises(function() t:fill(x) end, "an i32 expected")
  end
  for _, x in ipairs {least, most} do -- as ids, targets and lengths
    local i = tensor {data = {x}, dtype = "i32"}
    T.raises(function() core.op.embedding(core.ones {shape = {3, 2}}, i) end, "embedding")
    T.raises(function() core.op.cross_entropy(core.ones {shape = {1, 3}}, i) end, "target")
    T.eq(core.op.cross_entropy(core.ones {shape = {1, 3}}, i, {ignore = x}):item(), 0)
    T.raises(function() core.op.weights(core.ones {shape = {1, 1, 2, 3}}, {lengths = i}) end, "lengths")
  end
end)

T.test("arithmetic with tensors and numbers", function()
  local a, b = tensor {1, 2}, tensor {3, 4}
  T.eq((a + b):flat(), {4, 6})
  T.eq((b - a):flat(), {2, 2})
  T.eq((a * b):flat(), {3, 8})
  T.eq((b / a):flat(), {3, 2})
  T.eq((-a):flat(), {-1, -2})
  T.eq((a + 1):flat(), {2, 3})
  T.eq((1 - a):flat(), {0, -1})
  T.eq((2 / a):flat(), {2, 1})
  T.near((b ^ 2):flat(), {9, 16})
  T.eq((a:to "f64" * 0.1):dtype(), "f64")
  T.near((a:to "f64" * 0.1):flat(), {0.1, 0.2}, 1e-16)
  a:requires_grad(true)
  local y = a * a * 3
  y:sum():backward()
  T.near(a:grad(), {6, 12})
  T.raises(function() return a + tensor {1, 2, 3} end, "%(2%).*%(3%)")
  T.raises(function() return a + "x" end, "b: tensor expected, got string")
  T.raises(function() return a + {} end)
end)

T.test("gradients", function()
  local w = tensor({2, 3}):requires_grad(true)
  T.eq(w:requires_grad(), true)
  T.eq(w:grad(), nil)
  local y = (w * w):sum()
  T.eq(y:requires_grad(), true)
  y:backward()
  T.eq(w:grad():flat(), {4, 6})
  y = w * w
  y:backward(tensor {1, 0})
  T.eq(w:grad():flat(), {8, 6})
  w:zero_grad()
  T.eq(w:grad(), nil)
  T.raises(function() (w * w):backward() end, "backward")
  T.raises(function() tensor({data = {1}, dtype = "i32"}):requires_grad(true) end,
           "f32, f64 or bf16 needed, got i32")
  T.raises(function() (w * w):requires_grad(false) end, "computed from others")
  local z = core.no_grad(function(x) return x * x end, w)
  T.eq(z:requires_grad(), false)
  T.eq((w * w):requires_grad(), true)
  T.raises(function() core.no_grad(error, "stop") end, "stop")
  T.eq((w * w):requires_grad(), true)
  T.eq(core.grad_mode(false), true)
  T.eq((w * w):requires_grad(), false)
  T.eq(core.grad_mode(true), false)
end)

T.test("printing", function()
  T.eq(tostring(tensor {{1, 2}, {3, -4}}), "f32 (2,2)\n   1  2\n   3 -4")
  T.eq(tostring(tensor(1.5)), "f32 () 1.5000")
  T.eq(tostring(tensor {0.5, 0 / 0, 1 / 0}), "f32 (3)\n  0.5000    nan    inf")
  T.eq(tostring(tensor({}):to "f64"), "f64 (0)")
  T.eq(tostring(tensor({1}):requires_grad(true)), "f32 (1)  requires_grad\n  1")
  T.eq(tostring(tensor {1e-7, 1e7 + 1}):match "1%.0000e%-07" ~= nil, true)
  local lines = select(2, tostring(core.zeros {shape = {100, 100}}):gsub("\n", ""))
  T.eq(lines, 9)
  T.ok(tostring(core.zeros {shape = {100, 100, 3, 3}}):find "%[{1,1}%]\n")
  T.ok(#tostring(core.zeros {shape = {100, 100, 30, 30}}) < 10000)
  T.eq(tostring(core.ones {shape = {2, 2}}:transpose()[1]), "f32 (2)\n  1 1")
end)

T.test("memory returns to where it was", function()
  local before = live()
  do
    local w = core.randn({shape = {64, 64}, seed = 1}):requires_grad(true)
    for _ = 1, 3 do
      local y = (w * w + w):sum()
      y:backward()
    end
    pcall(function() return w * tensor {1, 2} end)
    pcall(function() return w:sum {axis = 9} end)
    local _ = w[{1, {1, 3}}]:clone()
  end
  T.eq(live(), before)
end)

T.test("the collector sees tensor memory", function()
  collectgarbage()
  local before, most = live(), 0
  for _ = 1, 2000 do
    local _ = core.zeros {shape = {256, 1024}} -- 1 MiB; unseen it would be 2 GiB
    most = math.max(most, core.memory().live)
  end
  T.ok(most - before < 256 * 2 ^ 20, "live memory stays below 256 MiB")
  T.eq(live(), before)
end)

T.test("free and close", function()
  local before = live()
  local t = core.zeros {shape = {1000}}
  t:free()
  t:free()
  T.eq(core.memory().live, before)
  T.raises(function() return t:shape() end, "calling 'shape' on bad self %(the tensor was freed%)")
  T.raises(function() return t + 1 end, "the tensor was freed")
  T.eq(tostring(t), "tensor (freed)")
  T.eq(core.is_tensor(t), false)
  do
    local u <close> = core.zeros {shape = {1000}}
    T.eq(core.memory().live, before + 4000)
  end
  T.eq(core.memory().live, before)
  getmetatable(t).__gc(t)
  getmetatable(t).__gc(t)
end)

T.test("free in a finaliser leaves it to the collector", function()
  local t = tensor {1, 2, 3}
  local before = core.memory().live
  setmetatable({}, {__gc = function() t:free() end})
  for _ = 1, 3 do -- the first attempt of the sum fails, and the collection that follows runs the finaliser
    core.fail_allocation(1)
    T.eq((t + 1):flat(), {2, 3, 4})
  end
  t:free()
  collectgarbage()
  T.ok(core.memory().live < before)
end)

T.test("a failed allocation is tried again after a collection, then an error", function()
  local a = core.ones {shape = {10}}
  for n = 1, 6 do
    core.fail_allocation(n)
    T.eq((a + a):flat()[1], 2)
  end
  core.fail_allocation(0)
  local message = T.raises(function() return core.zeros {shape = {1000000, 1000000, 100}} end, "out of memory")
  T.ok(message:find "%[alloc%.c:%d+%]$", message)
  T.eq((a + a):flat()[1], 2)
end)

T.test("threads, seeds, information", function()
  local n = core.threads()
  T.eq(core.threads(1), 1)
  core.threads(n)
  T.raises(function() core.threads(0) end, "1%.%.4096")
  core.seed(5)
  local s = core.seed_state()
  local a, b = core.randn {shape = {4}}, core.randn {shape = {4}}
  core.seed_restore(s)
  T.eq(core.randn {shape = {4}}, a)
  T.eq(core.randn {shape = {4}}, b)
  T.raises(function() core.seed_restore {1} end, "two integers")
  T.ok(core.info():find(core.version, 1, true))
  T.eq(core.devices()[1], "cpu")
  T.ok(core.info():find("cpu " .. core.devices().cpu .. ",", 1, true), core.info())
  core.reset_peak()
  local m = core.memory()
  T.eq(m.peak, m.live)
  core.poison(true)
  local x = core.zeros {shape = {3}}
  core.poison(false)
  T.eq(x:flat(), {0, 0, 0})
end)

T.test("nothing is left over", function()
  T.eq(live(), 0)
end)
