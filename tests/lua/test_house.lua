-- The rules of the house over the whole tree, and each rule against snippets it must refuse and accept.
local T = ...
local core = require "attnlab.core"
local house = dofile(T.root .. "tests/lua/house.lua")
local store = require "attnlab.store"
local sys = core.sys

-- ---- the tree -------------------------------------------------------------------------------------

local files = {}
local function walk(folder)
  for _, name in ipairs(sys.list(T.root .. folder)) do
    local path = folder .. "/" .. name
    local kind = sys.exists(T.root .. path)
    if kind == "dir" then
      walk(path)
    elseif name:find "%.[ch]$" or name:find "%.def$" or name:find "%.cuh?$" or name:find "%.lua$" or name:find "%.md$" then
      files[#files + 1] = house.file(path, sys.read(T.root .. path))
    end
  end
end
local LAYERS = { "kernels", "core", "attention", "lua", "experiments", "tests" }
for _, folder in ipairs(LAYERS) do walk(folder) end
for _, name in ipairs { "CMakeLists.txt", "README.md", "lab", ".ci/run" } do
  if sys.exists(T.root .. name) then files[#files + 1] = house.file(name, sys.read(T.root .. name)) end
end

-- No finding of rule(file, ...) in any file whose path fits one of the patterns, and at least one such file.
local function holds(patterns, rule, ...)
  local found, n = {}, 0
  for _, f in ipairs(files) do
    local fits = false
    for p in patterns:gmatch "%S+" do fits = fits or f.path:find(p) ~= nil end
    if fits then
      n = n + 1
      for _, text in ipairs(rule(f, ...)) do found[#found + 1] = text end
    end
  end
  T.ok(n > 0, "files that fit " .. patterns)
  if #found > 0 then error("\n  " .. table.concat(found, "\n  "), 0) end
end

local LIBRARIES = "^core/.*%.[ch]$ ^kernels/.*%.[ch]u?h?$ ^kernels/.*%.def$ ^attention/.*%.[ch]$"

T.test("includes follow the arrows kernels < core < attention < lua", function()
  holds("%.[ch]$ %.def$ %.cuh?$", house.arrows)
end)

-- Words that are names of ops and something else as well, by file.
local EXEMPT = {
  ["lua/lop.c"] = { "add", "sub", "mul", "div", "pow", "neg" },     -- what Lua's operators stand for
  ["lua/lua_attnlab.h"] = { "slice", "squeeze", "cast" },          -- what t[{..}] and t:to() stand for
  ["lua/loptim.c"] = { "add" },                                    -- o:add(name, tensor)
  ["lua/lopt.c"] = { "min", "max" },                               -- bounds of an option's row
  ["lua/lsys.c"] = { "append" },                                   -- sys.append(path)
}

T.test("the binding knows no op, preset or family by name", function()
  local names = {}
  for _, a in ipairs(core.attn.list()) do
    names[a.name], names[a.name:match "[^/]*$"] = "a preset", "a preset"
    names[a.family] = "a family of attention"
  end
  for _, o in ipairs(core.ops()) do names[o.name] = "an op" end
  T.ok(names.softmax and names.matmul and names.kernel_attention, "known names")
  for path, words in pairs(EXEMPT) do
    local allowed = {}
    for _, w in ipairs(words) do
      T.ok(names[w], "an exemption that is a name: " .. w)
      allowed[w] = 0
    end
    EXEMPT[path] = allowed
  end
  holds("^lua/[^/]*%.[ch]$", function(f) return house.no_names(f, names, EXEMPT[f.path]) end)
  for path, allowed in pairs(EXEMPT) do
    for w, n in pairs(allowed) do T.ok(n > 0, ("exemption '%s' of %s in use"):format(w, path)) end
  end
end)

T.test("what the binding stands on calls none of its parts", function()
  local own, others = nil, {}
  for _, f in ipairs(files) do
    if f.path == "lua/lcore.c" then
      own = f.code
    elseif f.path:find "^lua/[^/]*%.c$" then
      for name in ("\n" .. f.code):gmatch "\n%a[%w_ ]-[ *](lal_[%w_]+)%([^;{]*%)%s*{" do others[name] = f.path end
    end
  end
  T.ok(others.lal_open_sys == "lua/lsys.c", "functions of other files")
  for name in own:gmatch "%f[%w_](lal_[%w_]+)%(" do
    T.ok(not others[name], ("lua/lcore.c without %s of %s: it"):format(name, others[name]))
  end
end)

T.test("core and kernels know no variant by name", function()
  local names = {}
  for _, a in ipairs(core.attn.list()) do
    names[a.name], names[a.family] = "a preset", "a family of attention"
  end
  holds("^core/ ^kernels/", house.no_names, names)
end)

T.test("Lua modules require their siblings and no experiment", function()
  holds("^lua/attnlab/.*%.lua$", house.modules)
end)

T.test("Lua modules create no globals", function()
  for _, f in ipairs(files) do
    local name = f.path:match "^lua/(attnlab/.*)%.lua$"
    if name then require((name:gsub("/init$", ""):gsub("/", "."))) end -- run.lua refuses new globals
  end
end)

-- A finished run is stale when a source that counts changes, so a module that draws or commands must not count.
T.test("modules that no run needs say that a change there makes no run stale", function()
  local paths, texts = store.sources(T.root == "" and "." or T.root)
  local reached, todo = {}, { "lua/attnlab/worker.lua", "lua/attnlab/init.lua" }
  for _, path in ipairs(paths) do
    if path:find "^lua/attnlab/study/" then todo[#todo + 1] = path end
  end
  while #todo > 0 do
    local path = table.remove(todo)
    if texts[path] and not reached[path] then
      reached[path] = true
      for name in house.file(path, texts[path]).bare:gmatch 'require%s*%(?%s*"(attnlab[%w_.]*)"' do
        name = "lua/" .. name:gsub("%.$", ""):gsub("%.", "/")
        table.move({ name .. ".lua", name .. "/init.lua" }, 1, 2, #todo + 1, todo)
      end
      local folder = path:match "^(.*/)init%.lua$" -- loads its siblings by name
      for _, p in ipairs(folder and folder ~= "lua/attnlab/" and paths or {}) do
        if p:sub(1, #folder) == folder then todo[#todo + 1] = p end
      end
    end
  end
  for _, path in ipairs(paths) do
    T.ok(not path:find "%.lua$" or reached[path],
      path .. ": no run needs it, so '-- A change here makes no run stale.' in its head")
  end
end)

T.test("the head of a module says so once", function()
  for _, f in ipairs(files) do
    local _, n = ("\n" .. (f.path:find "^lua/attnlab/" and f.text or "")):gsub("\n%-%- A change here makes no run stale%.", "")
    T.ok(n <= 1, f.path .. ": once, got " .. n)
  end
end)

T.test("experiments are data", function()
  -- a lesson is gone through at the prompt
  holds("^experiments/[^/]*%.lua$", function(f) return f.path == "experiments/lesson.lua" and {} or house.experiment(f) end)
end)

T.test("libraries neither end the process nor print", function()
  holds(LIBRARIES, house.no_exit)
end)

T.test("the environment is read in core/ctx.c and lua/ alone", function()
  holds(LIBRARIES, function(f) return f.path == "core/ctx.c" and {} or house.no_environment(f) end)
end)

-- Files that ask for the machine and have a branch for every other.
local MACHINES = { ["kernels/kernel.h"] = true, ["kernels/cpu/isa.c"] = true, ["kernels/cpu/product.c"] = true,
                   ["kernels/cpu/tile.h"] = true, ["kernels/cpu/weigh.h"] = true, ["attention/plugin_file.c"] = true }

T.test("attention is made of ops and takes no address of numbers", function()
  holds("^attention/", house.no_address)
end)

T.test("no code is for one machine but in the files that pick", function()
  holds("^kernels/ ^core/ ^attention/ ^lua/.*%.[ch]$ ^experiments/", function(f) return MACHINES[f.path] and {} or house.no_machine(f) end)
end)

T.test("CUDA is called in kernels/cuda/ alone", function()
  holds("^core/ ^attention/ ^lua/.*%.[ch]$ ^kernels/[^/]*$ ^kernels/cpu/", house.no_cuda)
  for _, f in ipairs(files) do
    T.ok(not f.path:find "%.cuh?$" or f.path:find "^kernels/cuda/", f.path .. " in kernels/cuda/")
  end
end)

-- Functions of double that kernels call outside their loops over elements.
local DOUBLES = {
  ["kernels/cpu/rope.c"] = { "cos", "sin" }, -- angles in double, once in 32 positions
  ["kernels/cpu/optim.c"] = { "pow" },              -- once a step
  ["kernels/cpu/random.c"] = { "log", "cos", "sin" }, -- the same numbers on every machine, in double
  ["kernels/cpu/norm_row.h"] = { "exp" },           -- eps and the row's log scale, once a row
}

T.test("kernels call no libm in f32 loops", function()
  for path, words in pairs(DOUBLES) do
    local allowed = {}
    for _, w in ipairs(words) do allowed[w] = 0 end
    DOUBLES[path] = allowed
  end
  holds("^kernels/cpu/ ^kernels/[^/]*%.def$", function(f) return house.no_libm(f, DOUBLES[f.path]) end)
  for path, allowed in pairs(DOUBLES) do
    for w, n in pairs(allowed) do T.ok(n > 0, ("exemption '%s' of %s in use"):format(w, path)) end
  end
end)

T.test("kernels allocate nothing and reduce in a fixed order", function()
  holds("^kernels/[^/]*$ ^kernels/cpu/", house.no_allocation) -- the CUDA module keeps queues and plans on the host
  holds("^kernels/ ^core/", house.no_reduction)
end)

T.test("what other files call is named by its layer", function()
  holds("^core/.*%.[ch]$", house.prefix, "al_")
  holds("^kernels/.*%.[ch]$", house.prefix, "alk_")
  holds("^attention/.*%.[ch]$", house.prefix, "attn_ formula_ source_ check_ probe_ way_")
  holds("^lua/[^/]*%.[ch]$", house.prefix, "lal_ luaopen_ main")
end)

T.test("no unfinished work without its event, nothing from outside", function()
  holds("^%a", house.no_unfinished)
  holds("^%a ^%.", house.no_outside)
end)

T.test("the build keeps IEEE arithmetic", function()
  local text = sys.read(T.root .. "CMakeLists.txt")
  for _, flag in ipairs { "-ffast-math", "-Ofast", "-funsafe-math", "-fassociative-math", "-ffinite-math" } do
    T.ok(not text:find(flag, 1, true), "a build without " .. flag)
  end
end)

-- Files of users lie here too (new-variant, --json); what belongs to the project is what git tracks.
T.test("the top level holds the layers and nothing else", function()
  local known = { ["CMakeLists.txt"] = 1, LICENSE = 1, ["README.md"] = 1, lab = 1 }
  for _, folder in ipairs(LAYERS) do known[folder] = 1 end
  local root = T.root == "" and "." or T.root
  local git <close> = io.popen(("git -C '%s' ls-files 2>/dev/null"):format(root:gsub("'", "'\\''")))
  local names = {}
  for path in git:lines() do names[path:match "^[^/]+"] = true end
  for name in pairs(names) do
    T.ok(known[name] or name:find "^%.", "'" .. name .. "' is known at the top level: it")
  end
end)

T.test("what users can call has a comment, which is its help", function()
  local help, comments = require "attnlab.help", require "attnlab.comments"
  local bare, n = {}, 0
  local function look(where, f)
    n = n + 1
    if #table.concat(f.doc, " ") < 10 then bare[#bare + 1] = where .. f.name end
  end
  local function all(module, owner)
    local parsed = comments.of_module(module)
    if not module:find "%.c$" and #table.concat(parsed.head, " ") < 10 then bare[#bare + 1] = module end
    for _, f in ipairs(parsed.list) do
      if f.owner == owner and not f.name:find "^__" then look(module .. ": ", f) end
    end
  end
  for _, x in ipairs(help.surface()) do
    if x.module then all(x.module, "M") end
    if x.f then look("lab.", x.f) end
  end
  for _, o in ipairs(help.OBJECTS) do all(o[3], o[2]) end
  T.ok(n > 200, n)
  T.eq(bare, {})
end)

T.test("classes whose objects users get are known to help", function()
  local help, comments = require "attnlab.help", require "attnlab.comments"
  -- what modules of ours hold for others: heads of their own options in a layer, packed rows, texts of one window each
  local own = { ["nn.heads"] = true, ["nn.heads_state"] = true, ["nn.documents"] = true, ["data Documents"] = true }
  local known, n = {}, 0
  for _, o in ipairs(help.OBJECTS) do known[o[3] .. " " .. o[2]] = true end
  for _, file in ipairs(files) do
    local module = (file.path:match "^lua/attnlab/(.+)%.lua$" or ""):gsub("/", ".")
    for line in (module ~= "" and file.text or ""):gmatch "[^\n]*__name[^\n]*attnlab%.[^\n]*" do
      local classes = { line:match "local (%u%w*) = " }
      for class in line:gmatch "(%u%w*)%.__name" do classes[#classes + 1] = class end -- a line may name several
      for _, class in ipairs(classes) do
        local methods = 0
        for _, f in ipairs(comments.of_module(module).list) do
          methods = methods + (f.owner == class and not f.name:find "^__" and not comments.internal(f) and 1 or 0)
        end
        if methods > 0 and not own[module] and not own[module .. " " .. class] then
          T.ok(known[module .. " " .. class], module .. ": " .. class)
          n = n + 1
        end
      end
    end
  end
  T.ok(n > 10, n)
end)

T.test("each folder has a README of a screen", function()
  for _, folder in ipairs(LAYERS) do
    T.ok(sys.exists(T.root .. folder .. "/README.md"), folder .. "/README.md")
    local _, lines = sys.read(T.root .. folder .. "/README.md"):gsub("\n", "")
    T.ok(lines <= 60, ("%s/README.md has %d lines: at most 60"):format(folder, lines))
  end
end)

-- Guides, not laws: printed, never a failure.
local GUIDES = { { "^core/attnlab%.h$", 450 }, { "%.h$", 120 }, { "%.c$", 600 }, { "%.cuh?$", 500 }, { "%.lua$", 300 } }
for _, f in ipairs(files) do
  local _, lines = f.text:gsub("\n", "")
  for _, g in ipairs(GUIDES) do
    if f.path:find(g[1]) then
      if lines > g[2] then print(("hint: %s has %d lines, the guide is %d"):format(f.path, lines, g[2])) end
      break
    end
  end
end

-- ---- each rule can fail -------------------------------------------------------------------------------

-- Findings of a rule in a snippet: how many, and the first one's text.
local function count(rule, path, text, ...)
  local found = rule(house.file(path, text), ...)
  return #found, found[1]
end

local function refuses(rule, path, text, pattern, ...)
  local n, first = count(rule, path, text, ...)
  T.ok(n > 0, ("a finding in: %s"):format(text))
  T.ok(first:find(pattern), ("'%s' in the finding '%s'"):format(pattern, first))
end

local function accepts(rule, path, text, ...)
  local n, first = count(rule, path, text, ...)
  T.ok(n == 0, ("no finding in: %s; found %s: it"):format(text, first))
end

T.test("includes against the arrows are found", function()
  for _, row in ipairs {
    { "kernels/x.h", '#include "../core/op.h"' },
    { "kernels/cpu/x.c", 'int a;\n#include "../../core/attnlab.h"' },
    { "kernels/cpu/x.c", "#include <immintrin.h>" },
    { "core/x.c", '#include "../attention/attn.h"' },
    { "core/attnlab.h", '#include "core.h"' },
    { "core/x.c", "#include <lua.h>" },
    { "core/x.c", '#include "../kernels/cpu/vmath.h"' },
    { "core/ops/x.c", '#include "../core.h"' },
    { "attention/variants/x.c", '#include "../../core/op.h"' },
    { "attention/x.c", '#include "../lua/lua_attnlab.h"' },
    { "lua/x.c", '  #  include "../kernels/kernel.h"' },
    { "lua/x.c", '#include "../core/op.h"' },
  } do
    refuses(house.arrows, row[1], row[2], "may not include")
  end
  accepts(house.arrows, "core/ops/x.c", '/* #include "../../attention/attn.h" */\n#include "../../kernels/x.h"\n#include <math.h>')
  accepts(house.arrows, "tests/x.c", '#include "../core/core.h"')
end)

T.test("addresses of numbers are found", function()
  refuses(house.no_address, "attention/x.c", "int a;\ndouble *x = al_data(t);", ":2: al_data: numbers may lie")
  accepts(house.no_address, "attention/x.c", "/* al_data */ al_read(t, v, n);")
end)

T.test("what is for one machine is found", function()
  refuses(house.no_machine, "core/x.c", "#ifdef __x86_64__", "__x86_64__: only where other machines")
  refuses(house.no_machine, "core/x.c", "int a;\nlong  double x;", ":2: long  double")
  refuses(house.no_machine, "core/x.c", "if (__builtin_cpu_supports(0)) {}", "__builtin_cpu_supports")
  accepts(house.no_machine, "core/x.c", "/* __x86_64__ */ double long_double;")
end)

T.test("names of ops and variants are found in literals alone", function()
  local names, allowed = { softmax = "an op" }, { softmax = 0 }
  refuses(house.no_names, "lua/x.c", 'f("a \\" b");\nf("softmax");', ":2: 'softmax' is the name of an op", names)
  accepts(house.no_names, "lua/x.c", '/* "softmax" */ f("softmax is an op", softmax); // "softmax"', names)
  accepts(house.no_names, "lua/x.c", 'f("softmax");', names, allowed)
  T.eq(allowed.softmax, 1)
end)

T.test("modules that require experiments are found", function()
  refuses(house.modules, "lua/attnlab/x.lua", 'local x = require "experiments.denominator"', "requires")
  refuses(house.modules, "lua/attnlab/x.lua", "dofile('experiments/denominator.lua')", "dofile")
  refuses(house.modules, "lua/attnlab/x.lua", 'local s = require "socket"', "requires 'socket'")
  accepts(house.modules, "lua/attnlab/x.lua", '-- require "socket"\nlocal c = require "attnlab.core"\nlocal e = require("attnlab." .. k)')
end)

T.test("code and paths in experiments are found", function()
  local head = 'local lab = require "attnlab"\nreturn lab.experiment { seeds = { 1 }, '
  for _, part in ipairs { "f = function() end }", 'x = io.open("x") }', 'data = "/data/x" }', 'data = "text.txt" }',
                          'data = "../x" }', "x = lab.train() }", 'x = require "lfs" }', "x = os.time() }" } do
    refuses(house.experiment, "experiments/x.lua", head .. part, ":2: ")
  end
  refuses(house.experiment, "experiments/x.lua", "for i = 1, 2 do end seeds = 1", "data")
  refuses(house.experiment, "experiments/x.lua", "return lab.experiment { }", "no seeds")
  accepts(house.experiment, "experiments/x.lua", head .. 'story = [[for while io.open]], next = "./lab run x.lua", -- for\n a = "p1/x" }')
end)

T.test("exits, prints, environment, allocation and CUDA calls are found", function()
  refuses(house.no_exit, "core/x.c", "if (!p) exit(1);", "exit")
  refuses(house.no_exit, "core/x.c", '\n\nfprintf(stderr, "no");', ":3: stderr")
  accepts(house.no_exit, "core/x.c", 'al_out_abort(&o); /* abort() */ snprintf(b, n, "exit"); fprintf(f, "x");')
  refuses(house.no_environment, "core/x.c", 'const char *s = getenv("HOME");', "getenv")
  refuses(house.no_allocation, "kernels/cpu/x.c", "float *t = malloc(4);", "malloc")
  refuses(house.no_cuda, "core/x.c", "cudaMalloc(&p, 4);", "cudaMalloc")
  accepts(house.no_cuda, "core/x.c", 'snprintf(b, n, "cuda: %s", s); int cuda_ready;')
end)

T.test("libm calls and reductions in kernels are found", function()
  for _, call in ipairs { "y[i] = expf(x[i]);", "y = exp(x);", "y = vexp(tanhf (x));", "y = floorf(x);", "y = fmaxf(a, b);" } do
    refuses(house.no_libm, "kernels/cpu/x.c", call, "libm")
  end
  refuses(house.no_libm, "kernels/cpu/x.c", "#ifdef ALK_IS_double\n a\n#else\n y = exp(x);\n#endif", ":4: exp")
  refuses(house.no_libm, "kernels/cpu/x.c", "#ifdef ALK_IS_double\n#if A\n#endif\n#endif\n y = exp(x);", ":5: exp")
  refuses(house.no_libm, "kernels/x.def", 'POINTWISE(x, erff(x), g, X, 0, 1, 0, "", "erf(x)")', "erff")
  accepts(house.no_libm, "kernels/cpu/x.c", "#ifdef ALK_IS_double\n#if A\n#else\n#endif\n y = exp(x);\n#else\n#endif")
  accepts(house.no_libm, "kernels/cpu/x.c", "y = vexp(x) + sqrtf(x) + fabs(x); /* exp(x) */")
  local allowed = { cos = 0 }
  accepts(house.no_libm, "kernels/cpu/x.c", "double c = cos(a);", allowed)
  T.eq(allowed.cos, 1)
  refuses(house.no_reduction, "kernels/cpu/x.c", "#pragma omp parallel for reduction(+ : s)", "reduction")
end)

T.test("names without prefix, unfinished notes and outside paths are found", function()
  refuses(house.prefix, "core/x.c", "int helper(int x) {", "helper", "al_")
  refuses(house.prefix, "core/x.c", "const char *name_of(const x *t);", "name_of", "al_")
  accepts(house.prefix, "core/x.c", "static int f(int x) {\nAL_API al_tensor *al_f(void);\nAL_OPS(x, &y);\n  return f(2);", "al_")
  local mark = "TO" .. "DO"
  refuses(house.no_unfinished, "core/x.c", "/* " .. mark .. ": faster */", "event")
  accepts(house.no_unfinished, "core/x.c", "/* " .. mark .. " when there are GPU kernels: share this */")
  refuses(house.no_outside, "lua/x.c", 'f("' .. "/wo" .. 'rk/x");', "outside")
  refuses(house.no_outside, "lua/x.c", 'get("http' .. '://x.org");', "host")
  accepts(house.no_outside, "lua/x.c", '/* http' .. '://x.org */ f("network/work");')
end)
