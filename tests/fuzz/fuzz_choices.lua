-- Any bytes as a file of questions (libFuzzer): all of them, or edits of one that is right. It is refused with the file's
-- name and a line, or every question has a context, choices that are texts, and a right one among them.
local tools = dofile(... .. "tools.lua")
local choices = require "attnlab.choices"

local path = select(2, ...) .. "/questions.jsonl"
local good = [[{"ctx":"The cat","endings":["sat.","ran \u00e9\u00e9."],"label":"1","more":[1,{"a":null}]}]]
local others = '\n{"context":"","choices":["One","Two","Three"],"gold":2}\n\n{"query":"It \\t","choices":["was","is"],"label":0}'
local M = { words = tools.json_words, seeds = tools.edit_seeds() }
for _, word in ipairs { "ctx", "context", "query", "endings", "choices", "label", "gold", '["a","b"]' } do M.words[#M.words + 1] = word end
M.seeds[#M.seeds + 1] = "\0" .. good

function M.run(bytes)
  if #bytes < 2 then return end
  tools.put(path, bytes:byte(1) % 2 == 0 and bytes:sub(2) or tools.edited(good, bytes:sub(2)) .. others)
  local _, list = tools.reads(path, choices.read, path)
  if not list then return end
  for _, q in ipairs(list) do
    assert(type(q.context) == "string" and utf8.len(q.context) and q.line >= 1 and #q.choices >= 2)
    assert(math.type(q.gold) == "integer" and q.gold >= 0 and q.gold < #q.choices)
    for _, text in ipairs(q.choices) do assert(#text > 0 and utf8.len(text)) end
  end
end

return M
