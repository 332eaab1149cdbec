-- house.lua: the rules of the house as functions of one file, for test_house.lua: rule(file) returns an array of
-- findings "path:line: what". A file is { path = , code = , bare = , literals = }: its text without comments and
-- with blanks for what quotes hold; its text without comments; the literals as { line =, text = }.
local M = {}

local function set(words)
  local s = {}
  for w in words:gmatch "%S+" do s[w] = true end
  return s
end

-- Where the comment or literal that opens at i ends, what it is, and the literal's text; nil: neither.
local function closing(text, i, lua)
  local two, eq = text:sub(i, i + 1), lua and text:match("^%-?%-?%[(=*)%[", i)
  if eq and (two == "--" or text:sub(i, i) == "[") then
    local from, to = text:find("]" .. eq .. "]", i, true)
    return to or #text, two == "--" and "comment" or "literal", text:sub(i + 2 + #eq, (from or #text + 1) - 1)
  end
  if two == (lua and "--" or "//") then return (text:find("\n", i, true) or #text + 1) - 1, "comment" end
  if two == "/*" and not lua then return select(2, text:find("*/", i + 2, true)) or #text, "comment" end
  local quote = text:sub(i, i)
  if quote ~= '"' and quote ~= "'" then return nil end
  local at = i + 1
  while true do
    local j = text:find("[\\\n" .. quote .. "]", at)
    if not j or text:sub(j, j) ~= "\\" then
      j = j or #text
      return j, (lua or quote == '"') and "literal" or "character", text:sub(i + 1, j - 1)
    end
    at = j + 2
  end
end

function M.file(path, text)
  local lua = path:find "%.lua$" ~= nil
  local code, bare, literals, at, line = {}, {}, {}, 1, 1
  local function pass(upto, kind)
    local s = text:sub(at, upto)
    local blank = s:gsub("[^\n]", " ")
    code[#code + 1] = kind and blank or s
    bare[#bare + 1] = kind == "comment" and blank or s
    line = line + select(2, s:gsub("\n", ""))
    at = upto + 1
  end
  while at <= #text do
    local i = text:find(lua and "[\"'%-%[]" or "[\"'/]", at)
    local last, kind, literal = closing(text, i or #text, lua)
    if not i or not last then
      pass(i or #text)
    else
      pass(i - 1)
      if kind == "literal" then literals[#literals + 1] = { line = line, text = literal } end
      pass(last, kind)
    end
  end
  return { path = path, code = table.concat(code), bare = table.concat(bare), literals = literals, text = text }
end

local function finding(out, file, line, fmt, ...)
  out[#out + 1] = ("%s:%d: "):format(file.path, line) .. fmt:format(...)
end

local function each_line(text)
  local n, next_line = 0, (text .. "\n"):gmatch "(.-)\n"
  return function()
    local s = next_line()
    n = n + 1
    if s then return n, s end
  end
end

-- Findings for every word of the code that is in `words`, with why it is not allowed.
local function banned(file, words, why)
  local out = {}
  for n, s in each_line(file.code) do
    for w in s:gmatch "%f[%w_]%a[%w_]*" do
      if words[w] then finding(out, file, n, "%s: %s", w, why) end
    end
  end
  return out
end

-- ---- which file may include which ---------------------------------------------------------------

local C11 = set [[assert complex ctype errno fenv float inttypes limits locale math setjmp signal stdalign stdarg
  stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string tgmath threads time uchar wchar wctype]]
local POSIX = "pthread dirent fcntl glob sched unistd poll sys/file sys/ioctl sys/mman sys/prctl sys/resource sys/stat "
  .. "sys/types sys/wait "

-- The first row whose pattern fits the file decides: what it includes of ours, and of the system beyond C's own.
local ARROWS = {
  { "^kernels/cpu/", "^kernels/[^/]+$ ^kernels/cpu/[^/]+%.h$", "omp dnnl" },
  { "^kernels/cuda/", "^kernels/[^/]+$ ^kernels/cuda/[^/]+%.cuh$ ^generated/alk_%a+%.inc$",
    "cuda cuda_runtime cuda_bf16 cuda_fp16 cublas_v2 cublasLt cudnn cudnn_graph nccl dlfcn" },
  { "^kernels/", "^kernels/[^/]+$ ^generated/alk_%a+%.inc$", "" },
  { "^core/attnlab%.h$", "", "" },
  { "^core/op%.h$", "^core/attnlab%.h$ ^kernels/kernel%.h$", "" },
  { "^core/ops/", "^core/op%.h$ ^core/ops/[^/]+%.h$ ^kernels/[^/]+$", "" },
  { "^core/data/", "^core/[^/]+%.h$ ^core/data/[^/]+%.h$ ^kernels/[^/]+$", POSIX .. "jansson sha2 utf8proc zlib zstd" },
  { "^core/", "^core/[^/]+%.h$ ^core/tokenizers/[^/]+%.h$ ^core/data/[^/]+%.h$ ^kernels/[^/]+$ ^generated/al_ops%.inc$",
    POSIX .. "omp jansson dlfcn elf pcre2 utf8proc" },
  { "^attention/attn%.h$", "^core/attnlab%.h$ ^attention/plugin_calls%.h$", "" },
  -- a variant may be a plug-in elsewhere, so it finds attn.h and variant.h by name alone
  { "^attention/variants/", "^attention/[^/]+%.h$ ^attention/variants/[^/]+%.def$ ^attention/variants/attn%.h$ ^attention/variants/variant%.h$", "" },
  { "^attention/template/", "^attention/template/attn%.h$", "" },
  { "^experiments/plugins/", "^experiments/plugins/attn%.h$", "" },
  { "^attention/", "^core/attnlab%.h$ ^attention/[^/]+%.h$ ^attention/[^/]+%.def$ ^kernels/attn[^/]*%.h$ ^kernels/[^/]+%.def$ ^generated/attn_families%.inc$",
    "pthread dlfcn elf sha2 sys/stat" },
  { "^lua/", "^core/attnlab%.h$ ^attention/attn%.h$ ^attention/check%.h$ ^lua/[^/]+%.h$", POSIX .. "lua lauxlib lualib jansson sha2 histedit" },
}

local function resolve(path, name)
  if name:find "%.inc$" then return "generated/" .. name end
  path = path:match "^(.*/)" .. name
  while path:find "[^/]+/%.%./" do path = path:gsub("[^/]+/%.%./", "", 1) end
  return path
end

function M.arrows(file)
  local out, row = {}, nil
  for _, r in ipairs(ARROWS) do row = row or (file.path:find(r[1]) and r) end
  if not row then return out end
  local system = set(row[3])
  for n, s in each_line(file.bare) do
    local name = s:match '^%s*#%s*include%s*"([^"]+)"'
    if name then
      local target, ok = resolve(file.path, name), false
      for pattern in row[2]:gmatch "%S+" do ok = ok or target:find(pattern) ~= nil end
      if not ok then finding(out, file, n, "may not include %s", target) end
    end
    name = s:match "^%s*#%s*include%s*<([^>]+)>"
    if name and not C11[name:gsub("%.h$", "")] and not system[name:gsub("%.h$", "")] then
      finding(out, file, n, "may not include <%s>", name)
    end
  end
  return out
end

-- ---- who may know what ----------------------------------------------------------------------------

-- Literals that are names: `names` maps each to what it is the name of. allowed[name] is counted where it is met.
function M.no_names(file, names, allowed)
  local out = {}
  for _, l in ipairs(file.literals) do
    if allowed and allowed[l.text] then
      allowed[l.text] = allowed[l.text] + 1
    elseif names[l.text] then
      finding(out, file, l.line, "'%s' is the name of %s", l.text, names[l.text])
    end
  end
  return out
end

-- A Lua module requires its siblings and the C module, and never an experiment.
function M.modules(file)
  local out = {}
  for n, s in each_line(file.bare) do
    for f, name in s:gmatch "%f[%w_](%a+)%s*%(?%s*[\"']([^\"']*)[\"']" do
      if f == "require" and name ~= "attnlab" and not name:find "^attnlab%." then
        finding(out, file, n, "requires '%s': only attnlab and its modules", name)
      elseif f == "dofile" or f == "loadfile" then
        finding(out, file, n, "%s of a fixed file '%s'", f, name)
      end
    end
  end
  return out
end

-- An experiment is data: it calls lab.experiment, and has no loop, no function, no path. A path is a literal without
-- blanks that begins at a folder or ends like a file: sentences and commands have blanks.
function M.experiment(file)
  local out = banned(file, set "for while repeat goto function io os debug dofile loadfile load package core math",
    "an experiment is data")
  for n, s in each_line(file.bare) do
    local module = s:match "require%s*%(?%s*[\"']([^\"']*)"
    if s:find "%f[%w_]require%f[^%w_]" and module ~= "attnlab" then
      finding(out, file, n, "requires more than attnlab")
    end
  end
  for n, s in each_line(file.code) do
    for field in s:gmatch "%f[%w_]lab%s*[.:]%s*([%w_]+)" do
      if field ~= "experiment" and field ~= "study" then finding(out, file, n, "lab.%s: an experiment is data", field) end
    end
  end
  local ending = set "txt bin json jsonl csv lua svg png md safetensors"
  for _, l in ipairs(file.literals) do
    local word = not l.text:find "%s"
    if word and (l.text:find "^%.?%.?/" or l.text:find "^~" or ending[l.text:match "%.(%l+)$"]) then
      finding(out, file, l.line, "'%s': a path", l.text)
    end
  end
  if not file.code:find "%f[%w_]seeds%s*=" then finding(out, file, 1, "no seeds") end
  return out
end

-- ---- what a library does not do -------------------------------------------------------------------
function M.no_exit(file)
  local code = file.code:gsub("format%(printf", "format(......") -- an attribute
  return banned({ path = file.path, code = code }, set [[exit _exit _Exit quick_exit abort printf vprintf puts putchar perror stdout stderr
    longjmp system]], "a library reports by status and message")
end

function M.no_environment(file)
  return banned(file, set "getenv secure_getenv setenv putenv unsetenv environ", "only core/ctx.c and lua/ read it")
end

function M.no_address(file)
  return banned(file, set "al_data al_host", "numbers may lie where only kernels reach: attention is made of ops")
end

-- What one machine has and another has not; `long double` has 80, 64 or 128 bits.
local MACHINE = { "__x86_64__", "__i386__", "__aarch64__", "__builtin_cpu_%w+", "__builtin_ia32_%w+", "__AVX%w*", "__SSE%w*", "long%s+double" }

function M.no_machine(file)
  local out = {}
  for n, s in each_line(file.code) do
    for _, pattern in ipairs(MACHINE) do
      local word = s:match("%f[%w_]" .. pattern)
      if word then finding(out, file, n, "%s: only where other machines have their branch", word) end
    end
  end
  return out
end

function M.no_cuda(file)
  local out = {}
  for n, s in each_line(file.code) do
    local call = s:match "%f[%w_]cu%l*%u%w*%s*%(" -- cudaMalloc(, cublasCreate(, cuInit(
    if call then finding(out, file, n, "%s: only kernels/cuda/ calls it", call) end
  end
  return out
end

function M.no_allocation(file)
  return banned(file, set "malloc calloc realloc free alloca aligned_alloc posix_memalign strdup",
    "kernels allocate nothing")
end

-- Partial sums in fixed blocks, summed in order, do not depend on the number of threads; a reduction clause does.
function M.no_reduction(file)
  local out = {}
  for n, s in each_line(file.code) do
    if s:find "#%s*pragma" and s:find "reduction%s*%(" then finding(out, file, n, "a reduction clause") end
  end
  return out
end

local LIBM = {}
for name in ([[exp exp2 exp10 expm1 log log2 log10 log1p pow cbrt hypot sin cos tan sincos asin acos atan atan2 sinh
  cosh tanh asinh acosh atanh erf erfc lgamma tgamma fmod remainder modf frexp ldexp scalbn logb ilogb fmin fmax fdim
  fma nearbyint rint lrint llrint round lround llround floor ceil trunc]]):gmatch "%S+" do
  LIBM[name], LIBM[name .. "f"], LIBM[name .. "l"] = true, true, true
end

-- A loop over f32 elements must not call libm: gcc cannot vectorise it. So no kernel source calls it by name, but
-- between #if of ALK_IS_double and its #else or #endif (f64 is for checking, not for speed). sqrt and fabs are single
-- instructions. allowed: names of double functions that this file may call outside its loops over elements.
function M.no_libm(file, allowed)
  local out, depth, inside = {}, 0, nil
  for n, s in each_line(file.code) do
    local directive = s:match "^%s*#%s*(%a+)"
    if directive and directive:find "^if" then
      depth = depth + 1
      if s:find "ifdef%s+ALK_IS_double" or s:find "if%s+defined%(ALK_IS_double%)" then inside = inside or depth end
    elseif directive == "else" or directive == "elif" or directive == "endif" then
      if inside == depth then inside = nil end
      if directive == "endif" then depth = depth - 1 end
    end
    for name in s:gmatch "%f[%w_](%a[%w_]*)%s*%(" do
      if allowed and allowed[name] then
        allowed[name] = allowed[name] + 1
      elseif LIBM[name] and not inside then
        finding(out, file, n, "%s: libm in a kernel; vmath.h has it as v%s", name, name)
      end
    end
  end
  return out
end

-- ---- any file ---------------------------------------------------------------------------------------

-- What another file calls is named by its layer. A word in capitals at the line's start is a macro that says static.
function M.prefix(file, prefixes)
  local out = {}
  for n, s in each_line(file.code) do
    local before, name = s:match "^(%a[%w_ %*]-[ %*])([%a_][%w_]*)%("
    local first = before and before:match "^[%w_]+"
    local ok = not first or set "static typedef return else enum extern"[first] or s:find "=.*%(" or not name:find "%l"
      or not (first == "AL_API" or first:find "%l")
    for p in prefixes:gmatch "%S+" do ok = ok or name:find("^" .. p) ~= nil end
    if not ok then finding(out, file, n, "%s: not static, and without the prefix %s", name, prefixes) end
  end
  return out
end

local UNFINISHED = set(("TO-DO FIX-ME XX-X HA-CK"):gsub("-", "")) -- in parts: this file is searched, too

-- A note of what is left to do names the event that ends it: "when ...", "once ...", "after ..." or "until ...".
function M.no_unfinished(file)
  local out, event = {}, set "when once after until"
  for n, s in each_line(file.text) do
    for w, rest in s:gmatch "%f[%w_](%u+)%f[^%w_]:?%s*(%a*)" do
      if UNFINISHED[w] and not (w == "TO" .. "DO" and event[rest]) then
        finding(out, file, n, "%s without the event that ends it", w)
      end
    end
  end
  return out
end

-- Nothing outside the project: no machine's folder, no host.
function M.no_outside(file)
  local out = {}
  for n, s in each_line(file.text) do
    for _, folder in ipairs { "work", "home", "root", "mnt", "Users" } do
      if s:find("%f[%w/.~_-]/" .. folder .. "/") then finding(out, file, n, "/%s: outside the project", folder) end
    end
    if s:find("local" .. "host") or s:find "%d+%.%d+%.%d+%.%d+:%d" then finding(out, file, n, "a host") end
  end
  for _, l in ipairs(file.path:find "%.md$" and {} or file.literals) do
    if l.text:find("%a:" .. "//") then finding(out, file, l.line, "a host: '%s'", l.text) end
  end
  return out
end

return M
