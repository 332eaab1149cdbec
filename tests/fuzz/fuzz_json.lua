-- Any bytes as JSON: refused with line and column, or written as a text that reads back the same.
local json = require("attnlab.core").json
local tools = dofile(... .. "tools.lua")

local M = { words = tools.json_words }
M.seeds = { '{"a":[1,-2.5e-7,"x\\u00e9",null,true],"b":{"c":[]}}', "[[[]],{}]", '"\\u0000\\ud83d\\ude00"', "9223372036854775807" }

function M.run(bytes)
  local ok, value = pcall(json.decode, bytes)
  if not ok then return tools.clean(value, "json: line %d+, column %d+: ") end
  local written, text = pcall(json.encode, value)
  if not written then return tools.clean(text, "json: .*nested deeper than 200") end
  local again = json.encode(json.decode(text))
  if again ~= text then error(("%q reads back as %q"):format(text, again)) end
  json.decode(json.encode(value, { pretty = true }))
end

return M
