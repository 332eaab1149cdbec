-- What the targets in Lua share. dofile gives it; not a target itself.
local core = require "attnlab.core"
local json = core.json

local M = {}

M.json_words = { "{", "}", "[", "]", ":", ",", '"', "null", "true", "0", "-1", "1.5", "1e308", "1e999", "[]", "{}", '""',
                 "9223372036854775807", "\\u0000", "\\ud800", "\\", "\xff", '{"a":', '"a":1,', " ", "\n" }

-- What Lua or the C library say when our own code stumbles.
local STUMBLES = { "attempt to ", "bad argument", "stack overflow", "stack index", "not enough memory", "%(a nil value%)",
                   "number has no integer representation", "invalid value", "expected, got no value", "assertion failed", "table index is" }

-- Raises unless the error is a text with a reason, of what was read and not of the reader. want: a pattern
-- that it must hold.
function M.clean(e, want)
  if type(e) ~= "string" then error("an error that is no text but a " .. type(e)) end
  for _, pattern in ipairs(STUMBLES) do
    if e:find(pattern) then error("a reader stumbles: " .. e) end
  end
  if want and not e:find(want) then error(("'%s' is not in: %s"):format(want, e)) end
end

return M
