-- Any bytes as a text to train on (libFuzzer): refused with the file's name and the reason, or a data set whose
-- windows are there, whose tokens decode to the text, and which another vocabulary reads or refuses.
local tools = dofile(... .. "tools.lua")
local data = require "attnlab.data"

local folder = select(2, ...)
local path = folder .. "/any.txt"
local other = data.open(tools.text(folder)).vocabulary
local M = { words = { "\xef\xbb\xbf", "\xc3\xa9", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xc0\x80", "\0", "\r\n", " ", "\n", "\xff", "what is a text " } }
M.seeds = { "what is a text of few letters\n", "\xf0\x9f\x98\x80 \xc3\xa9t\xc3\xa9", "a\0b\nc", "   " }

function M.run(bytes)
  tools.put(path, bytes)
  local ok, set = tools.reads(path, data.open, path)
  tools.reads(path, data.open, path, { vocab = other })
  if not ok then return end
  if set.vocabulary:decode(set.tokens) ~= bytes then error "decoded to another text" end
  for _, split in ipairs { "train", "valid" } do
    for _, context in ipairs { 1, 4 } do
      if tools.reads(path, set.need, set, split, context) then
        set:random(split, 2, context, 1, 1)
        for x in set:even(split, 2, context, set:windows(split, context, 3)) do x:free() end
      end
    end
  end
end

return M
