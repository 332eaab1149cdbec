-- Every op through the binding, with inputs found by trying: shapes and options from small lists, by the
-- names in the descriptor. Then one set of questions for all of them.
local T = ...
local core = require "attnlab.core"

local function floats(...)
  return core.rand {shape = {...}, seed = 1, stream = table.concat({...}, ","), dtype = "f64"} + 0.5
end

local function ids(...)
  local n = 1
  for _, s in ipairs {...} do n = n * s end
  local data = {}
  for i = 1, n do data[i] = (i - 1) % 3 end
  return core.tensor {data = data, shape = {...}, dtype = "i32"}
end

-- Shapes are those of attention, of matrices, of rows and of scalars, so that some combination fits.
local FLOATS = {floats(2, 3), floats(3, 2), floats(2, 3, 4, 2), floats(2, 2, 3, 2), floats(1, 3), floats(3), floats(2), floats(1, 1, 1, 1)}
local IDS = {ids(2), ids(2, 3), ids(3), core.tensor {data = {1, 2}, shape = {2}, dtype = "i32"}} -- the last picks each of two rows
local OPTIONS = {{}, {axis = 1}, {shape = {-1}}, {shape = {2, 3}}, {axes = {2, 1}}, {dtype = "f32"}, {exponent = 2}, {n = 2}, {stat = "none"}}

local function candidates(row)
  if row.list then return {{FLOATS[1], FLOATS[1]}} end
  if row.dtype == "i32" then return IDS end
  return FLOATS
end

-- Inputs and then options as arguments; optional inputs before the last required one are nil, so
-- the number of inputs is told.
local function arguments(c, options)
  local args = {table.unpack(c.inputs, 1, c.n)}
  args[c.n + 1] = options
  return table.unpack(args, 1, c.n + 1)
end

-- Calls f on every choice of one candidate a required input until one succeeds.
local function search(op, options)
  local required, last = {}, 0
  for i, row in ipairs(op.inputs) do
    if not row.optional then required[i], last = candidates(row), i end
  end
  local chosen = {n = last, inputs = {}}
  local function try(i)
    if i > last then
      local result = table.pack(pcall(core.op[op.name], arguments(chosen, options)))
      return result[1] and {inputs = {table.unpack(chosen.inputs, 1, last)}, n = last, options = options,
                            outputs = {table.unpack(result, 2)}} or nil
    end
    for _, c in ipairs(required[i] or {false}) do
      chosen.inputs[i] = c or nil
      local found = try(i + 1)
      if found then return found end
    end
    chosen.inputs[i] = nil
  end
  return try(1)
end

local function known(op, options)
  for name in pairs(options) do
    local has = false
    for _, a in ipairs(op.args) do has = has or a.name == name end
    if not has then return false end
  end
  return true
end

local function find_call(op)
  for _, options in ipairs(OPTIONS) do
    if known(op, options) then
      local found = search(op, options)
      if found then return found end
    end
  end
end

local ops = core.ops()
local calls = {}

T.test("every op can be called", function()
  for _, op in ipairs(ops) do
    calls[op.name] = find_call(op)
    T.ok(calls[op.name], op.name .. ": no inputs found")
    T.eq(#calls[op.name].outputs, #op.outputs)
    for _, o in ipairs(calls[op.name].outputs) do T.ok(core.is_tensor(o), op.name) end
  end
end)

T.test("ops are sorted and documented", function()
  local last = ""
  for _, op in ipairs(ops) do
    T.ok(op.name > last, op.name)
    last = op.name
    T.ok(#op.doc > 0, op.name .. " has no doc")
    T.ok(#op.outputs > 0, op.name)
    for _, row in ipairs(op.inputs) do T.ok(#row.name > 0 and type(row.optional) == "boolean", op.name) end
    for _, a in ipairs(op.args) do
      T.ok(#a.name > 0 and #a.type > 0 and #a.doc > 0, op.name .. ": option " .. a.name .. " has no doc")
      if a.type:find "word" then T.ok(#a.choices > 0, op.name .. "." .. a.name) end
    end
  end
end)

T.test("a method does what the function does", function()
  for _, op in ipairs(ops) do
    local c = calls[op.name]
    if not op.inputs[1].list and not op.name:find "dropout" then
      T.eq(c.inputs[1][op.name](arguments(c, c.options)), c.outputs[1])
    end
  end
end)

T.test("inputs can be named in the options", function()
  for _, op in ipairs(ops) do
    local c = calls[op.name]
    local options = {}
    for k, v in pairs(c.options) do options[k] = v end
    for i = 1, c.n do options[op.inputs[i].name] = c.inputs[i] end
    local outputs = {core.op[op.name](options)}
    if not op.name:find "dropout" then T.eq(outputs, c.outputs) end
    if not op.inputs[1].list then
      T.raises(function() core.op[op.name](c.inputs[1], options) end,
               "%(" .. op.inputs[1].name .. ": given twice%)")
    end
  end
end)

T.test("errors name the op, the argument and what was expected", function()
  for _, op in ipairs(ops) do
    local f, c = core.op[op.name], calls[op.name]
    local where = "bad argument #%d+ to '" .. op.name .. "' %("
    T.raises(function() f() end, where .. op.inputs[1].name .. ": .* expected, got no value%)")
    T.raises(function() f(true) end,
             where .. op.inputs[1].name .. ": tensor expected, got boolean%)")
    T.raises(function() f({}, 1) end, where)
    if not op.inputs[#op.inputs].list then
      local many = {table.unpack(c.inputs, 1, c.n)}
      many[#op.inputs + 1] = FLOATS[1]
      T.raises(function() f(table.unpack(many, 1, #op.inputs + 1)) end,
               where .. "too many inputs: it takes " .. op.inputs[1].name)
    end
    T.raises(function() f(arguments(c, {no_such_option = 1})) end, where .. "unknown option 'no_such_option'")
    for _, a in ipairs(op.args) do
      T.raises(function() f(arguments(c, {[a.name] = print})) end,
               where .. "option '" .. a.name .. "': a function is not an option value%)")
      T.raises(function() f(arguments(c, {[a.name] = {"x"}})) end, where .. "option '" .. a.name .. "'")
      T.raises(function() f(arguments(c, {[a.name .. "x"] = 1})) end, "unknown option '" .. a.name .. "x'")
    end
  end
end)

T.test("axes count from 1", function()
  for _, op in ipairs(ops) do
    for _, a in ipairs(op.args) do
      if a.type == "axis" then
        local c = calls[op.name]
        T.raises(function() core.op[op.name](arguments(c, {[a.name] = 0})) end,
                 "option '" .. a.name .. "': axes count from 1")
        T.raises(function() core.op[op.name](arguments(c, {[a.name] = 9})) end,
                 "option '" .. a.name .. "': integer in %-%d%.%.%d expected, got 9 for shape")
        T.raises(function() core.op[op.name](arguments(c, {[a.name] = -9})) end, "expected, got %-9 for shape")
        T.raises(function() core.op[op.name](arguments(c, {[a.name] = 1.5})) end, "an axis is an integer")
      end
    end
  end
  local t = core.tensor {{1, 2, 3}, {4, 5, 6}}
  T.eq(t:sum({axes = {1}}):flat(), {5, 7, 9})
  T.eq(t:sum({axes = {2}}):flat(), {6, 15})
  T.eq(t:sum({axes = {-1}}):flat(), {6, 15})
  T.eq(t:sum({axes = 1}):flat(), {5, 7, 9})
  T.eq(t:permute({axes = {2, 1}}):shape(), {3, 2})
  T.eq(t:permute({2, 1}):shape(), {3, 2})
  T.eq(t:reshape({3, 2}):totable(), {{1, 2}, {3, 4}, {5, 6}})
  T.eq(core.op.concat({t, t}, {axis = 2}):shape(), {2, 6})
  T.eq(core.op.concat({t, t}, {axis = 1}):shape(), {4, 3})
  T.eq(t:concat(t, t, {axis = 1}):shape(), {6, 3})
  T.eq(t:concat({t}, {axis = 1}):shape(), {4, 3})
end)

T.test("sizes, axes and steps beyond what an integer holds", function()
  local t = core.ones {shape = {2, 3}}
  for _, x in ipairs {1/0, -1/0, 1e300, 2^62, -2^62, 2^53 + 2, math.maxinteger, math.mininteger} do
    for _, f in ipairs {
      function() t:sum {axes = {x}} end, function() t:sum {axes = x} end, function() t:permute {x, 1} end,
      function() t:transpose {a = x} end, function() t:reshape {x} end, function() t:expand {x, 3} end,
      function() t:slice {start = x} end, function() t:squeeze {axis = x} end, function() t:cumsum {axis = x} end,
      function() core.op.rope(core.ones {shape = {1, 2, 1, 2}}, {offset = x}) end,
    } do
      T.raises(f, "bad argument #%d to .-option")
    end
  end
  T.raises(function() t:sum {axes = {0/0}} end, "an axis is an integer")
  for _, x in ipairs {2^53, -2^53, 2^31, -2^31 - 1, 2^32 + 1} do -- exact, and no axis
    T.raises(function() t:sum {axes = {x}} end, "not an axis")
    T.raises(function() t:permute {x, 1} end, "out of range")
    T.raises(function() t:transpose {a = x} end, "integer in")
  end
  local one = core.ones {shape = {1}}
  T.raises(function() one:expand {2^53, 2} end, "too large")
  T.raises(function() one:expand {2^53, 2^53, 2^53} end, "too large")
  T.raises(function() core.zeros({shape = {0}}):reshape {0, 2^53, 2^53} end, "too large")
  T.raises(function() core.op.concat({one:expand {2^53}, one}, {axis = 1}) end, "too large")
  T.eq(one:expand({2^40}):numel(), 1 << 40)
  T.eq(t:slice({axis = 2, step = 2^53}):shape(), {2, 1})
  T.eq(t:slice({axis = 2, step = 1e15, start = 3}):shape(), {2, 0})
  T.eq(t[{{1, 2, math.maxinteger // 2048}}]:shape(), {1, 3})
end)

T.test("numbers stand for scalar tensors", function()
  local t = core.tensor {data = {1, 2}, dtype = "f64"}
  T.eq(core.op.maximum(t, 1.5), core.tensor {data = {1.5, 2}, dtype = "f64"})
  T.eq(core.op.maximum(1.5, t), core.tensor {data = {1.5, 2}, dtype = "f64"})
  T.eq(core.op.select(core.tensor {data = {0, 1}, dtype = "i32"}, t, 0), core.tensor {data = {0, 2}, dtype = "f64"})
end)

T.test("optional inputs", function()
  local x, g = floats(2, 3), floats(3)
  T.eq(x:rmsnorm {gain = g}, x:rmsnorm(g))
  T.eq(x:rmsnorm(nil, {eps = 1e-5}), x:rmsnorm {eps = 1e-5})
  T.raises(function() x:rmsnorm {gain = floats(4)} end,
           "bad argument #1 to 'rmsnorm' %(gain: .*%(4%)")
  T.raises(function() x:rmsnorm(floats(4)) end, "bad argument #1 to 'rmsnorm' %(gain: .*%(4%)")
  T.raises(function() core.op.rmsnorm(x, floats(4)) end,
           "bad argument #2 to 'rmsnorm' %(gain: .*%(4%)")
  T.raises(function() x:rmsnorm {gian = g} end, "unknown option 'gian' %(did you mean 'gain'%?%)")
end)

T.test("a list takes any number of tensors", function()
  for _, n in ipairs { 64, 65, 129, 5000 } do
    local list, want = {}, {}
    for i = 1, n do
      list[i] = core.tensor { data = { i, -i }, shape = { 1, 2 }, dtype = "f64" }:requires_grad(true)
      want[2 * i - 1], want[2 * i] = i, -i
    end
    for _, y in ipairs { core.op.concat(list, { axis = 1 }), core.op.concat { xs = list, axis = 1 },
                         list[1]:concat({ table.unpack(list, 2, 3) }, table.move(list, 4, n, 1, {}), { axis = 1 }) } do
      T.eq(y:flat(), want)
      list[n]:zero_grad()
      y:square():sum():backward()
      T.eq(list[n]:grad():flat(), { 2.0 * n, -2.0 * n })
    end
    T.eq(core.op.concat(list[1], list, list[2], { axis = 2 }):size(2), 2 * n + 4)
    T.eq(core.op.concat(table.unpack(list, 1, math.min(n, 200))):size(2), 2 * math.min(n, 200))
    local last = list[n]
    for _, bad in ipairs { 3, "x", core.zeros { shape = { 1, 3 }, dtype = "f64" }, core.zeros { shape = { 1, 2 } } } do
      list[n] = bad
      T.raises(function() core.op.concat(list, { axis = 1 }) end, "concat.*xs: ")
    end
    list[n] = last
    last:free()
    T.raises(function() core.op.concat(list) end, "xs: the tensor was freed")
  end
end)

T.test("unknown ops name the nearest", function()
  T.raises(function() return core.op.sofmax end, "unknown op 'sofmax' %(did you mean 'softmax'%?%)")
end)

T.test("a number lies where the tensor beside it does, whatever device is current", function()
  local x, before = floats(3), core.on "counting"
  local ok, y = pcall(function() return 2 * x - 1 end)
  core.on(before)
  assert(ok, y)
  T.eq({ y:device(), y:flat() }, { x:device(), (2 * x - 1):flat() })
end)

T.test("a fallen allocation loses nothing", function()
  for _, op in ipairs(ops) do
    local c = calls[op.name]
    for n = 1, 4 do
      core.fail_allocation(n)
      local got = {core.op[op.name](arguments(c, c.options))}
      core.fail_allocation(0)
      if not op.name:find "dropout" then T.eq(got, c.outputs) end
    end
  end
end)

T.test("nothing is left over", function()
  FLOATS, IDS, calls = nil, nil, nil
  collectgarbage()
  collectgarbage()
  T.eq(core.memory().live, 0)
end)
