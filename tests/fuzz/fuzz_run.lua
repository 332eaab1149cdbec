-- A damaged run folder beside a good one (libFuzzer): byte 1 says which file, byte 2 how. Both are listed, the good
-- one as it stands; table, comparison and model of the damaged one are there, or are refused with its name.
local tools = dofile(... .. "tools.lua")
local lab = require "attnlab"
local cli = require "attnlab.cli"
local core = require "attnlab.core"
local names = require "attnlab.names"
local report = require "attnlab.report"
local runner = require "attnlab.runner"
local runs = require "attnlab.runs"
local store = require "attnlab.store"
local worker = require "attnlab.worker"

local folder = select(2, ...)
local root = folder .. "/runs"
local base = { data = tools.text(folder), steps = 4, batch_size = 2, eval_interval = 2, eval_windows = 2, log_interval = 1,
               checkpoint_interval = 2, warmup_steps = 1 }
for k, v in pairs(tools.model) do base[k] = v end
local plan = lab.experiment { name = "fuzz", base = base, arms = { { name = "a" }, { name = "b", lr = 0.01 } }, seeds = { 1 } }:plan {}
local list = runner.expand(plan, { root = root, jobs = 1 })
for _, run in ipairs(list) do
  store.create(root, run.spec)
  tools.caught(worker.run, run.dir, {})
  local status = store.status(run.dir)
  if status.state ~= "finished" then error(status.state .. ": " .. tostring(status.reason)) end
end
core.sys.catch_interrupts(false)

local NAMES = { "config.json", "status", "metrics.jsonl", "times.jsonl", "probe.json", "checkpoint.safetensors" }
local dir, good = list[1].dir, {}
for i, name in ipairs(NAMES) do good[i] = tools.get(dir .. "/" .. name) end
local M = { words = tools.json_words, seeds = {} }
for i, seed in ipairs(tools.edit_seeds()) do M.seeds[i] = string.char(i % #NAMES) .. seed end
table.move({ '\1\0{}\n', '\1\0null\n', '\2\0{}\n', '\2\0{"step":4}\n', '\3\0{"step":1', '\4\0[]' }, 1, 6, #M.seeds + 1, M.seeds)

-- The text of file i changed as the bytes say; of lines one.
local function damaged(i, bytes)
  local name, how, rest = NAMES[i], bytes:byte(1), bytes:sub(2)
  if name:find "safetensors$" then return tools.damaged(good[i], bytes, "attnlab") end
  if how % 3 == 0 then return rest end
  if how % 3 == 1 then return tools.spliced(good[i], rest) end
  if not name:find "jsonl$" then return tools.edited(good[i], rest) .. "\n" end
  local n, wanted = 0, (rest:byte(1) or 0) % select(2, good[i]:gsub("\n", "")) + 1
  return (good[i]:gsub("[^\n]+", function(line)
    n = n + 1
    return n == wanted and tools.edited(line, rest:sub(2)) or line
  end))
end

local function listed()
  local status, out = tools.caught(cli.main, { "runs", "out_dir=" .. root, "--json" })
  if status ~= 0 then error("runs --json: " .. out) end
  local by_dir = {}
  for _, r in ipairs(core.json.decode(out)) do by_dir[r.dir] = r end
  local one, other = by_dir[names.shown(dir)], by_dir[names.shown(list[2].dir)]
  if other.status ~= "finished" then error("the good run is " .. other.status) end
  if one and one.status == "damaged" then tools.clean(one.reason) end
end

-- One of these looks at the folders, as byte 2 says.
local LOOKS = { listed, listed, function()
  local status, out = tools.caught(cli.main, { "runs", "out_dir=" .. root })
  if status ~= 0 then error("runs: " .. out) end
  tools.plain(out)
end, function()
  local result = runs.gather(plan, list)
  tools.plain(report.table_text(result) .. report.measures_text(result) .. report.judged_text(result))
  tools.plain(report.table_text(result, 60, true) .. report.table_tex(result))
  core.json.encode(report.table_records(result))
end, function()
  for _, r in ipairs(lab.runs { out_dir = root }) do
    tools.plain(tostring(r))
    local ok, o = tools.tries(lab.open, r)
    if ok then tools.plain(tostring(o)) end
    local drawn, figure = tools.tries(r.plot, r)
    if drawn then tools.plain(tostring(figure)) end
  end
  tools.plain(tostring(lab.runs { out_dir = root }))
end, function()
  for _, pair in ipairs { { dir, list[2].dir }, { list[2].dir, dir } } do
    local status, out = tools.caught(cli.main, { "compare", table.unpack(pair) })
    if status ~= 0 then tools.clean(tools.plain(out), "^attnlab: .*" .. dir:match "[^/]+$") end
  end
end }

function M.run(bytes)
  if #bytes < 3 then return end
  local i = bytes:byte(1) % #NAMES + 1
  local path = dir .. "/" .. NAMES[i]
  tools.put(path, damaged(i, bytes:sub(2)))
  if i == 6 then
    local ok, m = tools.reads(path, lab.model.load, dir)
    if ok then tools.tries(m.forward, m, tools.ids) end
  else
    LOOKS[bytes:byte(2) // 3 % #LOOKS + 1]()
  end
  tools.put(path, good[i])
end

return M
