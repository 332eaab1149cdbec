-- Plug-ins: attention variants from files outside the program. Building them from C, loading them, and which
-- of them a run used: a run keeps family, path and SHA-256 of each, and finds the same file or says what differs.
-- A change here makes no run stale.
local core = require "attnlab.core"
local names = require "attnlab.names"
local trust = require "attnlab.trust"
local sys = core.sys

local M = {}

-- Folder of the experiment that is being read: its relative paths are looked for there first.
M.folder = nil

-- The project's folder, which holds the headers that plug-ins are made with.
local function home()
  local dir = assert(package.searchpath("attnlab.plugins", package.path)):match "^(.*)/lua/attnlab/plugins%.lua$"
  local header = (dir or ".") .. "/attention/attn.h"
  if not dir or sys.exists(header) ~= "file" then
    error(("plug-ins are compiled with the headers of the source tree, and there is no '%s'"):format(header), 0)
  end
  return dir
end

-- The source of new variants: its text, which calls the variant by the second value.
function M.template()
  return sys.read(home() .. "/attention/template/variant.c"), "my_variant"
end

-- The command of the compiler: as the program's own files are compiled. What a plug-in calls must be there when
-- it is linked (-z defs), and no folder's name is left in it: the same source gives the same bytes.
local function command(source, out)
  local words, dir = {}, home()
  for w in (os.getenv "CC" or ""):gmatch "%S+" do words[#words + 1] = w end
  if #words == 0 then words[1] = "cc" end
  local folder = source:match "^(.*/)" or ""
  for _, w in ipairs { "-std=gnu11", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra",
                       "-Wno-format-zero-length", "-DATTN_PLUGIN", "-iquote",
                       dir .. "/attention", "-iquote", dir .. "/attention/variants", "-Wl,-z,defs" } do
    words[#words + 1] = w
  end
  if folder ~= "" then words[#words + 1] = "-fmacro-prefix-map=" .. folder .. "=" end
  for w in (os.getenv "CFLAGS" or ""):gmatch "%S+" do words[#words + 1] = w end
  return table.move({ source, "-o", out, "-lm" }, 1, 4, #words + 1, words)
end

local function wait(pid)
  local how, code
  repeat how, code = sys.wait(pid) until how ~= "running"
  return how == "exited" and code == 0, ("%s %d"):format(how == "exited" and "status" or "signal", code)
end

-- Compiles a C source into a plug-in and returns its path: `out`, or FILE.so beside FILE.c. The compiler's
-- words go to stderr. The old file stays until the new one is complete.
function M.build(source, out)
  local there = sys.exists(source)
  if there ~= "file" then
    error(("plug-in '%s': %s"):format(source, there and "a C source (.c) expected, this is no regular file" or "no such file"), 0)
  end
  if not source:find "%.c$" then error(("plug-in '%s': a C source (.c) expected"):format(source), 0) end
  out = out or source:gsub("%.c$", ".so")
  local new = ("%s.%d.tmp"):format(out, sys.pid())
  local argv = command(names.path(source), names.path(new))
  local ok, pid = pcall(sys.spawn, argv)
  if not ok then error(("plug-in '%s': no compiler: %s (CC names another one)"):format(source, pid), 0) end
  local built, status = wait(pid)
  if not built then
    if sys.exists(new) then sys.remove(new) end
    error(("plug-in '%s': %s ended with %s; a plug-in may call what ATTN_HOST_CALLS in attention/attn.h lists")
      :format(source, argv[1], status), 0)
  end
  if sys.exists(new) ~= "file" then
    error(("plug-in '%s': %s ended with status 0 and wrote no file"):format(source, argv[1]), 0)
  end
  sys.rename(new, out)
  trust.add(sys.sha256_file(out), sys.realpath(out))
  return out
end

-- The file that a path means.
local function find(path)
  if path:find "^/" or not M.folder then return path end
  local beside = M.folder .. "/" .. path
  return sys.exists(beside) and beside or path
end

-- Words that stand beside a variant's options in configurations and calls: its sizes, the layer around it.
local function reserved()
  local words = { table.unpack(require("attnlab.attention").SIZES) }
  for _, row in ipairs(require("attnlab.nn.attention").rows) do words[#words + 1] = row.name end
  return words
end
M.reserved = reserved

-- { family =, path =, sha256 = } of a family that a plug-in brought, else nil.
local function origin(name)
  for _, f in ipairs(core.attn.families()) do
    if f.name == name and f.plugin then return { family = name, path = f.plugin, sha256 = f.hash } end
  end
end

-- Loads a plug-in for the rest of the process and returns the name of its family. A C source is built first.
-- Who names a file trusts it from then on.
function M.load(path)
  if type(path) ~= "string" then error("plug-in: a path expected, got " .. type(path), 0) end
  path = find(path)
  if path:find "%.c$" then path = M.build(path) end
  local ok, family = pcall(core.attn.load, path, reserved())
  if not ok then error(family, 0) end
  local from = origin(family)
  trust.add(from.sha256, from.path)
  return family
end

-- Array of these for the families of that name, sorted; nil when none came from a plug-in.
function M.of(families)
  local list, seen = {}, {}
  for _, name in ipairs(families) do
    if not seen[name] then list[#list + 1] = origin(name) end
    seen[name] = true
  end
  table.sort(list, function(a, b) return a.family < b.family end)
  return #list > 0 and list or nil
end

-- Is there one among them (as M.of gave them, or what a file has in their place) that is not loaded?
function M.unknown(list)
  for _, p in ipairs(list or {}) do
    if type(p) == "table" and not origin(p.family) then return true end
  end
  return false
end

-- An entry of M.of that stands in a file, checked: what was written is what is read.
local function entry(p, whose)
  local ok = type(p) == "table" and type(p.family) == "string" and type(p.path) == "string"
    and type(p.sha256) == "string" and #p.sha256 == 64 and p.sha256:find "^%x+$" ~= nil
  if not ok then
    error(whose .. ": plug-ins: entries {family, path, sha256 of 64 hexadecimal digits} expected, got "
      .. (type(p) == "table" and core.json.encode(p) or tostring(p)), 0)
  end
  return p
end

-- The hash of a regular file, nil where there is none.
local function hash_of(path)
  local ok, text = pcall(function() return sys.exists(path) == "file" and sys.read(path, 1 << 28) end)
  return ok and text and sys.sha256(text) or nil
end

-- Loads what M.of gave to a run or model, in another process or later: the same bytes, and only such as this
-- user trusts, because a file may come from anybody. whose: that file, for messages.
function M.restore(list, whose)
  if list == nil or list == core.json.null then return end
  if type(list) ~= "table" then error(whose .. ": plug-ins: a list expected, got " .. type(list), 0) end
  for _, p in ipairs(list) do
    p = entry(p, whose)
    local have, trusted = origin(p.family), trust.path(p.sha256)
    local what = ("%s needs the plug-in '%s' (family %s, sha256 %s)"):format(whose, p.path, p.family, p.sha256)
    local other = "'%s' is another file: sha256 %s"
    if have then
      if have.sha256 ~= p.sha256 then error(("%s; " .. other):format(what, have.path, have.sha256), 0) end
    elseif not trusted then
      error(("%s, which this user has never built, checked or run. It is code: look at it first; "
        .. "./lab check FILE, or --plugin FILE in this command, trusts it"):format(what), 0)
    else
      local path, hash = trusted, hash_of(trusted)
      if hash ~= p.sha256 then path, hash = p.path, hash_of(p.path) end
      if not hash then error(what .. ", which is missing: --plugin FILE names it elsewhere", 0) end
      if hash ~= p.sha256 then error(("%s; " .. other):format(what, path, hash), 0) end
      M.load(path)
    end
  end
end

return M
