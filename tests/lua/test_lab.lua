-- The launcher ./lab in clones of a few empty files, with a cmake that only writes down what it is asked: which
-- folder it takes, when it builds and what, which packages it wants, what it leaves alone.
local T = ...
local sys = require("attnlab.core").sys

local function quoted(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

local function shell(...)
  local how, code = sys.wait(sys.spawn { "/bin/sh", "-c", (...):format(select(2, ...)) })
  T.eq({ how, code }, { "exited", 0 })
end

local TOOLS = {
  cmake = [[
echo "cmake $*" >>"$STAND_IN/log"
if [ -e "$STAND_IN/slow" ]; then sleep 0.5; fi
if [ -e "$STAND_IN/broken" ]; then echo "no luck"; exit 1; fi
if [ "$1" = --build ]; then
  printf '#!/bin/sh\necho "program $*"\n' >"$2/attnlab"
  case "$*" in *"--target tests"* | *"--target card"*) cp "$2/attnlab" "$2/attnlab_tests" ;; esac
  case "$*" in *"--target card"*) [ -e "$STAND_IN/no-module" ] || touch "$2/attnlab_cuda.so" ;; esac
  chmod +x "$2"/attnlab*
  exit
fi
while [ $# -gt 0 ]; do
  case $1 in -S) source=$2 ;; -B) folder=$2 ;; --fresh) fresh=1 ;; esac
  shift
done
cache=$folder/CMakeCache.txt
if [ -n "${fresh:-}" ]; then rm -rf "$cache" "$folder/CMakeFiles"; fi
if [ -e "$cache" ] && ! grep -qx "CMAKE_HOME_DIRECTORY:INTERNAL=$source" "$cache"; then exit 1; fi
mkdir -p "$folder/CMakeFiles"
printf '%s\n' CMAKE_PROJECT_NAME:STATIC=attnlab "CMAKE_CACHEFILE_DIR:INTERNAL=$folder" \
  "CMAKE_HOME_DIRECTORY:INTERNAL=$source" >"$cache"
]],
  ctest = [=[
case "$*" in -N*none*) echo "Total Tests: 0" ;; -N*) echo "Total Tests: 1" ;; *bad*) exit 8 ;; *) echo "ctest $*" >>"$STAND_IN/log" ;; esac]=],
  ["apt-get"] = [[echo "apt-get $*" >>"$STAND_IN/log"; case "$*" in *" check"*) touch "$STAND_IN/has-check" ;; esac]],
  ["pkg-config"] = [[case $2 in check) [ -e "$STAND_IN/has-check" ] ;; esac]],
  id = "echo 0", gcc = ":", gnuplot = ":", make = ":",
}

-- A clone with its stand-ins; c.lab(word, ...) runs its ./lab and returns status and output.
local function clone()
  local at = T.folder()
  local c = { root = at .. "/clone", tools = at .. "/tools", stand_in = at .. "/stand_in" }
  for _, folder in ipairs { "core", "kernels", "attention", "lua", "experiments/plugins", "tests/fuzz" } do
    sys.mkdir(c.root .. "/" .. folder)
    sys.write(("%s/%s/a.c"):format(c.root, folder), "int a;\n")
  end
  sys.mkdir(c.tools)
  sys.mkdir(c.stand_in)
  sys.write(c.root .. "/CMakeLists.txt", "")
  shell("cp %s %s", quoted(T.root .. "lab"), quoted(c.root))
  for name, text in pairs(TOOLS) do sys.write(c.tools .. "/" .. name, "#!/bin/sh\n" .. text .. "\n") end
  shell("chmod +x %s/*", c.tools)
  c.start = function(words, build, path)
    local argv = { path or c.root .. "/lab", table.unpack(words) }
    local out = T.folder() .. "/out"
    argv.stdout, argv.stderr = out, out
    argv.env = { PATH = c.tools .. ":" .. os.getenv "PATH", STAND_IN = c.stand_in, ATTNLAB_BUILD = build or "", CI = "" }
    return sys.spawn(argv), out
  end
  c.lab = function(words, build, path)
    local pid, out = c.start(words, build, path)
    local how, code = sys.wait(pid)
    return how == "exited" and code or -code, sys.read(out)
  end
  -- lines that the stand-ins wrote and that contain `what`, since the last call
  c.log = function(what)
    local path, n = c.stand_in .. "/log", 0
    if sys.exists(path) then
      for line in sys.read(path):gmatch "[^\n]+" do n = n + (line:find(what, 1, true) and 1 or 0) end
      sys.remove(path)
    end
    return n
  end
  return c
end

local function runs(c, ...)
  local status, text = c.lab(...)
  T.ok(status == 0 and text:find "program list\n$", text)
end

local function refuses(c, pattern, ...)
  local status, text = c.lab(...)
  T.ok(status == 1 and text:find(pattern), ("status %d, %s\n  expected: %s"):format(status, text, pattern))
  T.eq(c.log "cmake", 0)
end

T.test("it builds once, and again when a source is another one", function()
  local c = clone()
  runs(c, { "list" })
  T.eq(c.log "--build", 1)
  runs(c, { "list" })
  T.eq(c.log "cmake", 0)
  sys.write(c.root .. "/core/a.c", "int b;\n")
  runs(c, { "list" })
  T.eq(c.log "--build", 1)
  sys.write(c.root .. "/core/b.c", "")
  runs(c, { "list" })
  T.eq(c.log "--build", 1)
  sys.remove(c.root .. "/core/b.c")
  runs(c, { "list" })
  T.eq(c.log "--build", 1)
  sys.write(c.root .. "/tests/test_b.c", "")
  runs(c, { "list" })
  T.eq(c.log "cmake", 0)
end)

T.test("a source of the future or of the past is built once", function()
  local c = clone()
  runs(c, { "list" })
  for _, date in ipairs { "2099-01-01", "2001-01-01" } do
    c.log ""
    shell("touch -d %s %s", date, c.root .. "/core/a.c")
    runs(c, { "list" })
    T.eq(c.log "--build", 1)
    runs(c, { "list" })
    T.eq(c.log "cmake", 0)
  end
end)

T.test("a link from elsewhere works with the clone's folder", function()
  local c = clone()
  local bin = T.folder()
  sys.mkdir(bin .. "/build")
  sys.write(bin .. "/build/CMakeCache.txt", "CMAKE_HOME_DIRECTORY:INTERNAL=" .. bin .. "\n")
  shell("ln -s ../%s/lab %s/first && ln -s first %s/lab", c.root:match "^/tmp/(.*)" or "." .. c.root, bin, bin)
  runs(c, { "list" }, nil, bin .. "/lab")
  T.eq(sys.exists(c.root .. "/build/attnlab"), "file")
  T.eq(sys.list(bin), { "build", "first", "lab" })
  T.eq(sys.list(bin .. "/build"), { "CMakeCache.txt" })
end)

T.test("folders of others are refused and left as they are", function()
  local c = clone()
  local other = T.folder()
  sys.write(other .. "/letter.txt", "dear")
  refuses(c, "no build folder of this project: 'letter.txt' is in it; ATTNLAB_BUILD=", { "list" }, other)
  refuses(c, "no build folder of this project: 'letter.txt' is in it; ATTNLAB_BUILD=", { "test", "--full" }, other)
  T.eq(sys.list(other), { "letter.txt" })

  local project = T.folder()
  sys.write(project .. "/CMakeCache.txt", ("CMAKE_PROJECT_NAME:STATIC=theirs\nCMAKE_CACHEFILE_DIR:INTERNAL=%s\n"
    .. "CMAKE_HOME_DIRECTORY:INTERNAL=%s/source\n"):format(project, project))
  sys.write(project .. "/precious", "")
  refuses(c, "of another project, .*/source; ATTNLAB_BUILD=", { "list" }, project)
  T.eq(sys.list(project), { "CMakeCache.txt", "precious" })

  local theirs = clone()
  runs(theirs, { "list" })
  refuses(c, "of another clone, " .. theirs.root:gsub("%p", "%%%0"), { "list" }, theirs.root .. "/build")
  runs(theirs, { "list" })
  T.eq(theirs.log "--build", 1)
end)

T.test("a clone that was moved or copied is built anew, and nothing else in its folder goes", function()
  local c = clone()
  runs(c, { "list" })
  sys.write(c.root .. "/build/notes", "mine")
  local before = c.root
  for _, command in ipairs { "mv", "cp -r" } do
    local after = c.root .. "_" .. #command
    shell("%s %s %s", command, c.root, after)
    c.root = after
    c.log ""
    runs(c, { "list" })
    T.eq(c.log "--fresh", 1)
    T.eq(sys.read(after .. "/build/notes"), "mine")
  end
  T.eq(sys.exists(before), nil)
  shell("mkdir %s/elsewhere && mv %s/build %s/elsewhere", c.stand_in, c.root, c.stand_in)
  shell("ln -s %s/elsewhere/build %s", c.stand_in, c.root)
  runs(c, { "list" })
  runs(c, { "list" })
  T.eq(c.log "--fresh", 1)
end)

T.test("where nothing can be written the way out is told", function()
  local c = clone()
  sys.write(c.root .. "/build", "in the way")
  refuses(c, "build.*; ATTNLAB_BUILD=FOLDER names another build folder", { "list" })
  refuses(c, "/proc/nothing.*; ATTNLAB_BUILD=FOLDER names another build folder", { "list" }, "/proc/nothing")
  runs(c, { "list" }, c.stand_in .. "/made/here/")
  T.eq(sys.exists(c.stand_in .. "/made/here/attnlab"), "file")
  local shut = T.folder()
  shell("chmod 555 %s", shut)
  if not pcall(sys.write, shut .. "/x", "") then -- root may write anywhere
    refuses(c, "cannot be written; ATTNLAB_BUILD=FOLDER names another build folder", { "list" }, shut)
  end
end)

T.test("the program needs no package of the tests, and the tests do not build the program again", function()
  local c = clone()
  runs(c, { "list" })
  T.eq(c.log "apt-get", 0)
  local status, text = c.lab { "test" }
  T.eq(status, 0)
  T.ok(text:find "installing check libsubunit%-dev", text)
  local log = sys.read(c.stand_in .. "/log")
  T.ok(log:find "%-%-build [^\n]*%-%-target tests\nctest [^\n]*\n$", log)
  T.eq(c.log "--build", 1)
  T.eq(c.lab { "test" }, 0)
  T.eq(c.log "cmake", 0)
  sys.write(c.root .. "/tests/a.c", "int b;\n")
  T.eq(c.lab { "test", "one", "two" }, 0)
  T.ok(sys.read(c.stand_in .. "/log"):find("-R ^(one|two)$", 1, true))
  T.eq(c.log "--build", 1)
  -- tests of other sources than the program's are not left to be run
  sys.write(c.root .. "/core/a.c", "int c;\n")
  runs(c, { "list" })
  T.eq(sys.exists(c.root .. "/build/attnlab_tests"), nil)
  T.eq((c.lab { "test", "--ful" }), 2)
  T.eq((c.lab { "test", "--full", "one" }), 2)
  T.eq((c.lab { "test", "one", "bad" }), 1)
  status, text = c.lab { "test", "one", "none" }
  T.ok(status == 2 and text:find "unknown test 'none'", text)
end)

T.test("the tests of a card: their own build, without gnuplot, run by the program; without a module a reason", function()
  local c = clone()
  sys.remove(c.tools .. "/gnuplot")
  sys.write(c.stand_in .. "/no-module", "")
  local status, text = c.lab { "test", "--device", "cuda" }
  T.ok(status == 1 and text:find "has no GPU module: nvcc", text)
  sys.remove(c.stand_in .. "/no-module")
  sys.write(c.root .. "/core/a.c", "int d;\n")
  status, text = c.lab { "test", "--device", "cuda:1", "ops", "lua" }
  T.eq(status, 0, text)
  T.ok(text:find "program lua [^\n]*/tests/card%.lua cuda:1 ops lua\n", text)
  T.ok(not text:find "gnuplot", text)
  T.eq(c.log "--target card", 2)
  T.eq((c.lab { "test", "--device" }), 2)
end)

T.test("a first build that was cut short, or failed, is taken up", function()
  local c = clone()
  sys.write(c.stand_in .. "/broken", "")
  local status, text = c.lab { "list" }
  T.eq(status, 1)
  T.ok(text:find "no luck\nlab: 'cmake .*' failed; all of it is in .*/build/build.log\n$", text)
  sys.mkdir(c.root .. "/build/CMakeFiles")
  sys.remove(c.stand_in .. "/broken")
  runs(c, { "list" })
end)

T.test("two at once build once", function()
  local c = clone()
  sys.write(c.stand_in .. "/slow", "")
  local first = c.start { "list" }
  local second = c.start { "list" }
  T.eq({ sys.wait(first) }, { "exited", 0 })
  T.eq({ sys.wait(second) }, { "exited", 0 })
  T.eq(c.log "--build", 1)
end)

T.test("what everything makes holds no test", function()
  local path = sys.program():match "^(.*)/[^/]*$" .. "/CMakeFiles/Makefile2"
  if not sys.exists(path) then return end -- another generator
  local n, text = 0, sys.read(path)
  for target in text:gmatch "\nall: CMakeFiles/([%w_]+)%.dir/all" do
    n = n + 1
    T.ok(not target:find "tests" and not target:find "^plugin_fault" and not target:find "^plugin_broken"
      and not target:find "^plugin_variant" and not target:find "lua$" or target == "attnlab_lua", target)
  end
  T.ok(n > 5 and text:find "attnlab_tests", "targets")
end)
