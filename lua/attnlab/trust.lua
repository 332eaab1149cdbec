-- The plug-ins that this user trusts, by SHA-256: those that he named, built, checked or ran. A run or model
-- from somebody else may name any file; only one that stands here is loaded for it. The list is a file in a
-- folder of the user's own (mode 0700): $XDG_DATA_HOME/attnlab/trusted, by default under ~/.local/share; a line
-- is "SHA-256 path". A line that is none is ignored: at worst a plug-in has to be named again.
-- A change here makes no run stale.
local core = require "attnlab.core"
local names = require "attnlab.names"
local sys = core.sys

local M = {}

local MOST = 1 << 24 -- bytes of the list that are read

-- The user's folder for it, made where it is missing; nil and the reason where there can be none.
local function folder()
  local data, home = os.getenv "XDG_DATA_HOME", os.getenv "HOME"
  if not (data and data:find "^/") then
    if not (home and home:find "^/") then return nil, "neither HOME nor XDG_DATA_HOME names a folder" end
    data = home .. "/.local/share"
  end
  local path = data .. "/attnlab"
  local ok, why = pcall(sys.private, path)
  if not ok then return nil, why end
  return path
end

-- Paths by hash; {} where there is no list.
local function read()
  local list, dir = {}, folder()
  if not dir then return list end
  local ok, text = pcall(sys.read, names.inside(dir, "trusted"), MOST)
  for hash, path in (ok and text or ""):gmatch "(%x+) ([^\n]+)\n" do
    if #hash == 64 then list[hash] = path end
  end
  return list
end

-- Where the file with this hash stood when it was trusted; nil: it never was.
function M.path(hash)
  return read()[hash]
end

local said = false

-- Adds a file. A list that cannot be written is said once: what was asked for goes on without it.
function M.add(hash, path)
  if read()[hash] == path then return end
  local dir, why = folder()
  local ok = dir ~= nil
  if ok then
    ok, why = pcall(function()
      local f <close> = sys.append(names.inside(dir, "trusted"))
      f:write(("%s %s\n"):format(hash, (path:gsub("[\n\r]", " "))))
    end)
  end
  if not ok and not said then
    said = true
    io.stderr:write("trusted plug-ins are not remembered: ", (tostring(why):gsub("^%S+:%d+: ", "")), "\n")
  end
end

return M
