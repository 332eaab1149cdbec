-- What stands above the functions of our sources, for lab.help: one text, read by who reads the code and by who uses it.
-- A change here makes no run stale.
local sys = require("attnlab.core").sys

local M = {}

local MARK = "A change here makes no run stale."

-- "function M.load(path)" and "local function load(path)", as { owner =, name =, args =, method = bool }.
local function lua_function(line)
  local owner, sign, name, args = line:match "^function ([%w_.]+)([.:])([%w_]+)(%b())"
  if owner then return { owner = owner, name = name, args = args, method = sign == ":" } end
  name, args = line:match "^local function ([%w_]+)(%b())"
  return name and { owner = "", name = name, args = args }
end

local function of_lua(text)
  local out, above, head = { head = {}, list = {} }, {}, true
  for line in text:gmatch "([^\n]*)\n" do
    local comment = line:match "^%-%- ?(.*)$"
    if comment then
      local target = head and out.head or above
      if comment ~= MARK and not comment:find "^%-%-" then target[#target + 1] = comment end
    else
      head = false
      local f = lua_function(line)
      if f then
        f.doc = above
        out.list[#out.list + 1] = f
      end
      above = {}
    end
  end
  return out
end

local c_text -- of all files of the C module

-- The comment that ends right before the C function `name`, or "".
local function above(folder, name)
  if not c_text then
    c_text = {}
    for _, file in ipairs(sys.exists(folder) == "dir" and sys.list(folder) or {}) do
      c_text[#c_text + 1] = file:find "%.c$" and sys.read(folder .. "/" .. file) or nil
    end
    c_text = table.concat(c_text, "\n")
  end
  local call = name .. "(lua_State *L) {"
  local at = c_text:find("\nint " .. call, 1, true) or c_text:find("\nstatic int " .. call, 1, true)
  local before = at and c_text:sub(math.max(1, at - 2000), at - 1) or ""
  return before:sub(-2) == "*/" and before:match "^.*/%*(.-)%*/$" or ""
end

-- Functions of the C module stand in arrays, as {"name", c_function}.
local function of_c(text, folder)
  local out = { head = {}, list = {} }
  for owner, rows in text:gmatch "const luaL_Reg ([%w_]+)%[%] = (%b{});" do
    for name, f in rows:gmatch '{"([%w_]+)", ([%w_]+)}' do
      local doc = {}
      for line in (above(folder, f) .. "\n"):gmatch "%s*%*?%s*([^\n]*)\n" do
        if line ~= "" then doc[#doc + 1] = (line:gsub("%s+$", "")) end
      end
      -- "t:size(axis): the size of an axis" begins with the call
      local call, rest = table.concat(doc, " "):match "^([%w_]+[.:][%w_]+[({].-[)}])%f[:%z]:?%s*(.*)$"
      out.list[#out.list + 1] = { owner = owner, name = name, call = call or name .. "(..)", doc = call and { rest } or doc }
    end
  end
  return out
end

local known = {}

-- Where the C files of the module are: above the modules, or in the project's folder where these stand alone.
local function c_folder()
  local above_us = package.searchpath("attnlab.comments", package.path):match "^(.*)/attnlab/comments%.lua$"
  return sys.exists(above_us .. "/lmodule.c") and above_us or require("attnlab.data").home() .. "/lua"
end

-- { head = lines of the file's first comment, list = { { owner =, name =, args =, method =, doc = lines }, .. } } of a Lua
-- or C file (there with call = as it is written, in place of args); empty where it is not there.
function M.of(path)
  if not known[path] then
    local text = sys.exists(path) == "file" and sys.read(path) or ""
    known[path] = (path:find "%.c$" and of_c or of_lua)(text, path:match "^(.*)/")
  end
  return known[path]
end

-- Of a module, by its name below attnlab: "surgery.tune"; of a C file of the module by its name: "ltensor.c".
function M.of_module(name)
  if name:find "%.c$" then return M.of(c_folder() .. "/" .. name) end
  local path = package.searchpath("attnlab." .. name, package.path)
  return M.of(path or "")
end

-- Whether a comment says that its function is for our own modules: it begins "Internal:".
function M.internal(f)
  return (f.doc[1] or ""):find "^Internal:" ~= nil
end

-- The first sentence of a comment's lines, before any that is set in.
function M.first(doc)
  local prose = {}
  for _, line in ipairs(doc) do
    if line:find "^%s" and #prose > 0 then break end
    prose[#prose + 1] = line
  end
  local text = table.concat(prose, " "):gsub("%s+", " ")
  return (text:match "^(.-[%w)%]}'\"])%. " or text:gsub("[.:]$", ""))
end

return M
