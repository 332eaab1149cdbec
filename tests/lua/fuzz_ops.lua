-- Random calls of every op, of tensor methods and of attention, with arguments that fit, nearly fit or make no
-- sense, and now and then an allocation that fails: ./lab lua tests/lua/fuzz_ops.lua SEED SECONDS LOG. An error that
-- says something is right; a crash, what a sanitizer finds (AL_SAN), another result of the same call and memory that
-- is not given back are not. The call at hand stands in LOG, so that it is known after a crash.
local core = require "attnlab.core"
local sys = core.sys
local seed, seconds, path = tonumber(arg[1]), tonumber(arg[2]), arg[3]
math.randomseed(seed)
local log = assert(io.open(path, "wb"))
log:setvbuf "no"

local random = math.random
local function chance(p) return random() < p end
local function any(list) return list[random(#list)] end

-- Sizes are small or beyond any memory: what lies between is only slow.
local HOSTILE = { 0, -1, 0.5, -0.0, 1e-30, 1e300, -1e300, 1 / 0, -1 / 0, 0 / 0, 2 ^ 46, 2 ^ 53, 2 ^ 53 + 2, -2 ^ 53, 2 ^ 62,
                  2 ^ 63, -2 ^ 63, math.maxinteger, math.mininteger }
local EDGES = { 2 ^ 31, -2 ^ 31 - 1, 2 ^ 32 + 1, 4, -5, 9 } -- for all but sizes
local I32 = { -2147483648, 2147483647, -1, 0, 1, 2, 3 }

-- ---- values ---------------------------------------------------------------------------------------

local function small_shape(n)
  local s = {}
  for i = 1, n or random(0, 4) do s[i] = any { 0, 1, 1, 2, 2, 3, 4, 5 } end
  return s
end

local function tensor(shape, dtype)
  local n = 1
  for _, size in ipairs(shape) do n = n * size end
  local data, kind = {}, random(6)
  for i = 1, n do
    data[i] = dtype == "i32" and (kind == 1 and any(I32) or random(0, 2)) or kind == 1 and any(HOSTILE) or kind == 2 and 0
      or 4 * random() - 2
  end
  local swapped = #shape >= 2 and chance(0.2)
  if swapped then shape[#shape], shape[#shape - 1] = shape[#shape - 1], shape[#shape] end
  local t = core.tensor { data = data, shape = shape, dtype = dtype }
  if dtype:find "^f" and chance(0.4) then t:requires_grad(true) end
  if swapped then t = t:transpose() end
  if chance(0.01) then t:free() end
  return t
end

local function anything()
  return any { function() return any(HOSTILE) end, function() return any(EDGES) end, function() return "x" end, function() return {} end,
               function() return { 1, 2 } end, function() return { { 1 }, 2 } end, function() return chance(0.5) end, function() end,
               function() return print end, function() return coroutine.create(print) end, function() return ("y"):rep(3000) end,
               function() return core.json.null end, function() return setmetatable({}, { __index = error, __len = error }) end,
               function() return tensor(small_shape(), any { "f32", "f64", "bf16", "i32" }) end }()
end

local function numbers(hostile)
  local list = {}
  for i = 1, random(0, 5) do list[i] = chance(hostile) and any(HOSTILE) or random(-2, 4) end
  return list
end

-- The shape that a descriptor's doc begins with, "(B,S,Hkv,D)", its letters sized by `dims`.
local function shape_of(doc, dims)
  local inside = doc:match "^[^(]*%(([^)]*)%)"
  if not inside then return small_shape() end
  local shape = {}
  for word in inside:gmatch "[^,;]+" do
    if word:find "%.%." then
      dims[".."] = dims[".."] or small_shape(random(0, 2))
      table.move(dims[".."], 1, #dims[".."], #shape + 1, shape)
    elseif word:find "^%d$" then
      shape[#shape + 1] = tonumber(word)
    elseif word:find "^%a" then
      dims[word] = dims[word] or any { 0, 1, 1, 2, 2, 3, 4, 5 }
      shape[#shape + 1] = dims[word]
    end
  end
  return shape
end

local function option(a)
  local kinds, list = "|" .. a.type .. "|", {}
  local size = a.name == "shape"
  if chance(0.1) then return anything() end
  if kinds:find "list" and chance(0.6) then return numbers(0.1) end
  if kinds:find "bool" then list[#list + 1] = chance(0.5) end
  if a.choices then list[#list + 1] = any(a.choices) end
  if kinds:find "text" then list[#list + 1] = any { "s", "exp(s)", "t*s^2 + u/(1 + s)", "1/s", "log(", "t", "t u", "", "t t" } end
  if kinds:find "integer" or kinds:find "axis" then list[#list + 1] = random(-3, 4) end
  if kinds:find "number" then list[#list + 1] = 2 * random() end
  list[#list + 1] = chance(0.3) and any(not size and chance(0.3) and EDGES or HOSTILE) or nil
  return #list > 0 and any(list) or nil
end

local function options(rows, p)
  local o = {}
  for _, a in ipairs(rows) do
    if chance(p) then
      if a.fields and chance(0.5) then o[a.name] = options(a.fields, 0.5) else o[a.name] = option(a) end
    end
  end
  if chance(0.02) then o.nonsense = anything() end
  return o
end

local function show(v, depth)
  if core.is_tensor(v) then
    local ok, text = pcall(function() return v:dtype() .. "(" .. table.concat(v:shape(), ",") .. ")" end)
    return ok and text or "freed"
  end
  if type(v) ~= "table" or (depth or 0) > 2 then return type(v) == "string" and ("%q"):format(v:sub(1, 60)) or tostring(v) end
  local parts = {}
  for k, x in next, v do parts[#parts + 1] = tostring(k) .. "=" .. show(x, (depth or 0) + 1) end
  return "{" .. table.concat(parts, ", ") .. "}"
end

-- ---- calls ----------------------------------------------------------------------------------------

local count, fine = 0, 0

local function same(a, b)
  if core.is_tensor(a) and core.is_tensor(b) then
    if a:dtype() ~= b:dtype() or a:numel() ~= b:numel() then return false end
    if a:numel() > 4096 then return true end
    local x, y = a:flat(), b:flat()
    for i = 1, #x do
      if x[i] ~= y[i] and (x[i] == x[i] or y[i] == y[i]) then return false end
    end
    return true
  end
  return type(a) == type(b)
end

-- Runs f, which is called `what`: true and its values, or false and its message.
local function call(what, f, ...)
  local words = {}
  for i = 1, select("#", ...) do words[i] = show((select(i, ...))) end
  log:seek "set"
  log:write(what, "(", table.concat(words, ", "), ")\n\n")
  count = count + 1
  if chance(0.1) then core.fail_allocation(random(12)) end
  local r = table.pack(pcall(f, ...))
  core.fail_allocation(0)
  if r[1] then fine = fine + 1 return table.unpack(r, 1, r.n) end
  local message = type(r[2]) == "string" and r[2] or ""
  if #message < 8 or message:find "stack overflow" or message:find "C stack" then
    error(what .. "(" .. table.concat(words, ", ") .. "): the error says '" .. message .. "'", 0)
  end
  return false, message
end

local ops = core.ops()

local function run_op()
  local op = any(ops)
  local dims, dtype = { Hkv = random(2) }, any { "f32", "f64" }
  dims.H = dims.Hkv * random(2)
  dims.Hd = any { 1, dims.H, dims.Hkv }
  local args = {}
  for i, row in ipairs(op.inputs) do
    local function one()
      if chance(0.04) then return anything() end
      return tensor(chance(0.05) and small_shape() or shape_of(row.doc, dims),
        row.dtype == "i32" and "i32" or chance(0.02) and any { "bf16", "i32", "f64" } or dtype)
    end
    if row.list then
      args[i] = {}
      for k = 1, random(0, 3) do args[i][k] = one() end
    elseif not (row.optional and chance(0.5)) then
      args[i] = one()
    end
  end
  local n = #op.inputs + 1
  args[n] = options(op.args, 0.3)
  local r = table.pack(call(op.name, core.op[op.name], table.unpack(args, 1, n)))
  if not r[1] or not core.is_tensor(r[2]) then return end
  local drawn = false
  for _, a in ipairs(op.args) do drawn = drawn or a.name == "key" end
  if not drawn and chance(0.2) then
    local again = table.pack(call(op.name, core.op[op.name], table.unpack(args, 1, n)))
    for i = 1, r.n do
      if not same(r[i], again[i]) then error(op.name .. ": two calls with the same arguments differ", 0) end
    end
  end
  if chance(0.3) then
    call(op.name .. " backward", r[2].backward, r[2],
      chance(0.8) and r[2]:numel() <= 4096 and tensor(r[2]:shape(), r[2]:dtype()) or nil)
  end
end

local METHODS = { "shape", "size", "ndim", "numel", "dtype", "item", "flat", "totable", "to", "detach", "clone", "copy_", "fork", "fork_",
                  "fill", "fill_uniform", "fill_normal", "requires_grad", "grad", "zero_grad", "backward", "free" }
local OPERATORS = { add = function(a, b) return a + b end, sub = function(a, b) return a - b end, mul = function(a, b) return a * b end,
                    div = function(a, b) return a / b end, pow = function(a, b) return a ^ b end, neg = function(a) return -a end,
                    len = function(a) return #a end, concat = function(a, b) return a .. b end, less = function(a, b) return a < b end,
                    index = function(a, b) return a[b] end, set = function(a, b, v) a[b] = v end, text = tostring }
local OPERATOR_NAMES = {}
for name in pairs(OPERATORS) do OPERATOR_NAMES[#OPERATOR_NAMES + 1] = name end
table.sort(OPERATOR_NAMES)

local function place() return chance(0.3) and anything() or any { random(-3, 3), { random(-3, 3), { 1, random(-2, 3) } }, { {}, 1 }, {} } end

local function run_method()
  local t = tensor(small_shape(), any { "f32", "f64", "bf16", "i32" })
  if chance(0.5) then
    local name = any(OPERATOR_NAMES)
    call(name, OPERATORS[name], t, (name == "index" or name == "set") and place() or anything(), anything())
  else
    local name = any(METHODS)
    if name ~= "free" and chance(0.5) then
      call(name, t[name], t, anything(), anything())
    else
      call(name, t[name], t)
    end
  end
end

local MAKERS = { "zeros", "ones", "full", "rand", "randn", "tensor" }
local families = {}
for i, f in ipairs(core.attn.families()) do families[i] = type(f) == "table" and f.name or f end
local presets = core.attn.list()

local function run_other()
  if chance(0.4) then
    local name = any(MAKERS)
    call(name, core[name], chance(0.1) and anything() or { shape = chance(0.8) and numbers(0.2) or nil, value = any(HOSTILE),
      dtype = any { "f32", "f64", "bf16", "i32", "x" }, data = name == "tensor" and numbers(0.2) or nil, seed = any(HOSTILE) })
    return
  end
  local name = chance(0.5) and any(families) or any(presets).name
  local H = random(2)
  local sizes = { heads = H * random(2), kv_heads = H, head_dim = random(4), width = random(0, 4), dtype = any { "f32", "f64" } }
  if chance(0.1) then sizes[any { "heads", "kv_heads", "head_dim", "value_dim", "width" }] = any(HOSTILE) end
  local ok, a = call("attn.new " .. name, core.attn.new, name, options(core.attn.options(name), 0.1), sizes)
  if not ok then return end
  call("state_bytes", a.state_bytes, a, any(HOSTILE))
  call("plan", a.plan, a, any(HOSTILE))
  call("text", a.text, a, true)
  local B, T = random(0, 2), random(0, 4)
  local function input(h, d) return tensor({ B, T, h, d }, sizes.dtype) end
  local made, st = call("state", a.state, a, { batch = chance(0.9) and B or any(HOSTILE) })
  call("forward", a.forward, a, { q = input(sizes.heads, sizes.head_dim), k = input(H, sizes.head_dim), v = input(H, sizes.head_dim),
    x = chance(0.9) and tensor({ B, T, sizes.width }, sizes.dtype) or nil, causal = chance(0.8) or nil, state = made and chance(0.5) and st or nil,
    lengths = chance(0.3) and tensor({ B }, "i32") or nil, offset = chance(0.1) and any(HOSTILE) or nil })
end

local before = core.memory().live
local stop = sys.clock() + seconds
while sys.clock() < stop do
  local k = random()
  if k < 0.6 then run_op() elseif k < 0.85 then run_method() else run_other() end
  if core.memory().n_alloc % 50 == 0 then collectgarbage() end
end
collectgarbage()
collectgarbage()
local left = core.memory().live - before
if left > 0 then error(("%d bytes of tensors are left over"):format(left), 0) end
print(("seed %d: %d calls, %d fine"):format(seed, count, fine))
