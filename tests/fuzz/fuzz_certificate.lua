-- Any bytes as a certificate (libFuzzer): all of them, or edits of one that is right. It is damaged, or says in
-- one word how it stands; what it holds makes no reader of a table stumble.
local tools = dofile(... .. "tools.lua")
local certificate = require "attnlab.certificate"

local folder = select(2, ...)
local path = certificate.write(folder, { variant = "softmax", family = "kernel_attention", options = "order=2", passed = true, seconds = 1.5,
                                         rows = { { check = "forms", form = "chunked", dtype = "f32", verdict = "pass", text = "" } } })
local good = tools.get(path)
local M = { words = tools.json_words, seeds = tools.edit_seeds() }
M.seeds[#M.seeds + 1] = "\0" .. good

function M.run(bytes)
  if #bytes < 2 then return end
  tools.put(path, bytes:byte(1) % 2 == 0 and bytes:sub(2) or tools.edited(good, bytes:sub(2)))
  local found = certificate.find(folder, "kernel_attention", "order=2")
  local word = certificate.word { found }
  if word ~= "passed" and word ~= "FAILED" and word ~= "stale" and word ~= "damaged" then error("the word is " .. tostring(word)) end
  require("attnlab.core").json.encode(found)
end

return M
