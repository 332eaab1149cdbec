-- attnlab lua spills.lua FOLDER: registers, stack frames and spills of every kernel of the GPU module, as ptxas told them when
-- the objects in FOLDER were made (kernels/cuda/compile.sh). A kernel that has a frame or spills is slow by memory that nobody
-- sees in its code: that is a failure, but for f64, which is there to be right, and for EXEMPT.
local sys = require("attnlab.core").sys

local EXPRESSION, SINES = "an expression's registers are an array", "sines reduce large angles in memory"
local EXEMPT = { -- file, pattern of the kernel, why
  { "attn_fwd", "^forward<%w+, 2,", EXPRESSION },
  { "attn_bwd_rows", "^rows_back<%w+, 2,", EXPRESSION },
  { "attn_bwd_keys", "^keys_back<%w+, 2,", EXPRESSION },
  { "program", "^forward<", EXPRESSION },
  { "program", "^backward", EXPRESSION },
  { "pointwise", "^values<", SINES },
  { "pointwise", "^slopes<", SINES },
  { "rope", "^angles<", SINES .. "; once for a table of angles" },
  { "attn_reach", "^of_keys$", "takes one of several masks by its number; a byte a token" },
}

local TYPES = { ["4bf16"] = "bf16", f = "f32", d = "f64" }

-- A kernel as the source calls it, of the name that the linker sees: "rows_back<f32, 2, 32>".
local function called(mangled)
  local n, rest = mangled:match "^_Z(%d+)(.*)$"
  if not n then return mangled end
  local name, args, at = rest:sub(1, n), {}, n + 2
  if rest:sub(n + 1, n + 1) ~= "I" then return name end
  while true do
    local type_ = rest:match("^4bf16", at) or rest:match("^[fd]", at)
    local literal = not type_ and rest:match("^L%w(%d+)E", at)
    if not type_ and not literal then break end
    args[#args + 1] = TYPES[type_] or literal
    at = at + (type_ and #type_ or #literal + 3)
  end
  return ("%s<%s>"):format(name, table.concat(args, ", "))
end

-- What ptxas said of each kernel: { {name, registers, stack, spills}, .. }; functions that it calls count as its own.
local function read(text)
  local list, now = {}, nil
  for line in text:gmatch "[^\n]+" do
    local entry = line:match "Compiling entry function '([^']+)'"
    if entry then
      now = { name = called(entry), stack = 0, spills = 0 }
      list[#list + 1] = now
    end
    local stack, stores, loads = line:match "(%d+) bytes stack frame, (%d+) bytes spill stores, (%d+) bytes spill loads"
    if stack then
      now.stack, now.told = math.max(now.stack, tonumber(stack)), true
      now.spills = math.max(now.spills, stores + loads)
    end
    now = now or {}
    now.registers = tonumber(line:match "Used (%d+) registers") or now.registers
  end
  for _, k in ipairs(list) do assert(k.told and k.registers, "ptxas says nothing of " .. k.name) end
  return list
end

local function exempt(file, k)
  for _, e in ipairs(EXEMPT) do
    if e[1] == file and k.name:find(e[2]) then
      e.used = true
      return e[3]
    end
  end
  return k.name:find "<f64" and "f64"
end

-- The reader itself, on two kernels as ptxas tells them.
local sample = read [[
ptxas info    : Compiling entry function '_Z9rows_backI4bf16Li2ELi32EEv8attn_arg' for 'sm_90a'
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers
ptxas info    : Compiling entry function '_Z7of_keys14alk_attn_masks' for 'sm_90a'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 20 registers]]
assert(#sample == 2 and sample[1].name == "rows_back<bf16, 2, 32>" and sample[1].stack == 8 and sample[1].spills == 16
  and sample[1].registers == 255 and sample[2].name == "of_keys")

local folder = ...
local sources = arg[0]:match "^(.*)/[^/]*$" .. "/../kernels/cuda"
local bad, total = {}, 0
print(("%-14s %7s %14s"):format("file", "kernels", "registers, most"))
for _, name in ipairs(sys.list(sources)) do
  local file, told = name:match "^(.*)%.cu$", folder .. "/" .. name .. ".o.ptxas"
  if file and not sys.exists(told) then
    bad[#bad + 1] = told .. ": not there: the module was not built by kernels/cuda/compile.sh"
  elseif file then
    local list, most, framed = read(sys.read(told)), 0, {}
    for _, k in ipairs(list) do
      most = math.max(most, k.registers)
      if k.stack + k.spills > 0 then
        local why = exempt(file, k)
        framed[#framed + 1] = ("  %s: stack frame of %d bytes, %d of spills  (%s)"):format(k.name, k.stack, k.spills, why or "NOT EXEMPT")
        if not why then bad[#bad + 1] = file .. ".cu:" .. framed[#framed] end
      end
    end
    total = total + #list
    print(("%-14s %7d %14d"):format(file, #list, most))
    if #framed > 0 then print(table.concat(framed, "\n")) end
  end
end
print(("%d kernels"):format(total))
if total == 0 then bad[#bad + 1] = "no kernel at all" end
for _, e in ipairs(EXEMPT) do
  if not e.used then bad[#bad + 1] = ("%s.cu: no kernel '%s' needs its exemption any more"):format(e[1], e[2]) end
end
if #bad > 0 then error("spills and stack frames:\n" .. table.concat(bad, "\n"), 0) end
