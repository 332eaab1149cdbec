-- New variants: a source file that compiles, computes something and says how it is made.
-- A change here makes no run stale.
local core = require "attnlab.core"
local plugins = require "attnlab.plugins"
local sys = core.sys

local M = {}

local LONGEST = 60 -- a stamp has room for 63

local KEYWORDS = {}
for w in ([[auto break case char const continue default do double else enum extern float for goto if inline int long
  register restrict return short signed sizeof static struct switch typedef union unsigned void volatile while]])
  :gmatch "%a+" do
  KEYWORDS[w] = true
end

-- Why a name cannot be a new variant's, or nil.
function M.unfit(name)
  if KEYWORDS[name] then return ("'%s' is a word of C: another name is needed"):format(name) end
  if not name:find "^[%a_][%w_]*$" then
    return ("'%s' is no C identifier: letters, digits and _ are needed, no digit first"):format(name)
  end
  if #name > LONGEST then return ("'%s' has %d letters, at most %d are allowed"):format(name, #name, LONGEST) end
  for _, f in ipairs(core.attn.families()) do
    if f.name == name then return ("'%s' is taken: a family of attention has that name"):format(name) end
  end
  for _, p in ipairs(core.attn.list()) do
    if p.name == name or p.name:match "[^/]*$" == name then
      return ("'%s' is taken: it means the preset %s"):format(name, p.name)
    end
  end
end

-- Writes the source of a variant called `name` to `path` (NAME.c) and returns the path. What is there stays.
function M.new_variant(name, path)
  local why = M.unfit(name)
  if why then error("new-variant: " .. why, 0) end
  path = path or name .. ".c"
  if sys.exists(path) then error(("new-variant: '%s' exists already; nothing was written"):format(path), 0) end
  local text, placeholder = plugins.template()
  text = text:gsub("%f[%w_]" .. placeholder .. "%f[^%w_]", name)
  text = text:gsub(name .. "%.c", (path:match "[^/]*$"))
  sys.write(path, text)
  return path
end

return M
