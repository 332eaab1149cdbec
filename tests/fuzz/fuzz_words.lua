-- Any bytes as a command line (libFuzzer): words that zero bytes part. Byte 1 picks a command that takes them apart,
-- and one that only prints and is run. What it writes is clean, and the status is 0, 1 or 2.
local tools = dofile(... .. "tools.lua")
local cli = require "attnlab.cli"

local folder = select(2, ...)
local M = { words = { "\0", "--help", "--json", "--seed", "--seeds", "--quick", "--windows", "--device", "=", "1,2", "0", "-1", "1e9", "nan",
  "layers=", "attention=softmax", "attention.denominator=none", "attention.denominator.floor=1", "data=", "steps=", "lr=", "width=8",
  "out_dir=", "tokens=", "prompt=", "temperature=", "{0,2}", "--", "-", "'", '"', "cuda" } }

-- By the first byte; what they need stands before the words.
local SAFE = { { "train", "--print-config" }, { "list" }, { "describe" }, { "help" }, { "runs", "out_dir=" .. folder }, { "version" }, { "env" },
  { "compare", folder .. "/no", folder .. "/run" }, { "eval", folder .. "/no model" }, { "generate", folder .. "/no model" } }
M.seeds = { "\0steps=3\0attention.denominator=length\0--seed=2", "\1ops", "\1attention\0--json", "\2softmax", "\2train.lr", "\2matmul", "\3run", "\4x",
            "\8data=shakespeare", "\9tokens=3\0prompt=a" }

local function parse(words, which)
  local c = cli.COMMANDS[which % #cli.COMMANDS + 1]
  local ok, e = pcall(c.raw and cli.parse_raw or cli.parse, c, words)
  if not ok then tools.clean(type(e) == "table" and e.usage or e) end
end

function M.run(bytes)
  local words = {}
  for word in bytes:sub(2):gmatch "[^%z]+" do words[#words + 1] = word end
  parse(words, bytes:byte(1) or 0)
  local argv = { table.unpack(SAFE[(bytes:byte(1) or 0) % #SAFE + 1]) }
  for _, w in ipairs(words) do
    if w:find "plugin" then return end -- it would be built and loaded
    argv[#argv + 1] = w
  end
  local status, out = tools.caught(function() return cli.main(argv) end)
  if status ~= 0 and status ~= 1 and status ~= 2 then error("status " .. tostring(status)) end
  if status == 0 then return end
  local value, rest = out:match "^({\"error\":[^\n]*)\n(.*)$" -- where --json was asked for
  if value then require("attnlab.core").json.decode(value) end
  tools.clean(rest or out, "^attnlab: ")
end

return M
