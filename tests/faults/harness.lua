-- What faults.lua needs: a tiny experiment, the program as a child in a process group of its own, and the question
-- that is asked after each fault.
local core = require "attnlab.core"
local sys, json = core.sys, core.json

local M = { found = 0, cases = 0, keep = nil, endings = {} }

local SIZES = { "layers=1", "width=8", "heads=1", "mlp=8", "context=8", "batch_size=2", "steps=24", "warmup_steps=2", "eval_interval=4",
                "eval_windows=2", "checkpoint_interval=3", "log_interval=1" }
local PATIENCE = 120 -- seconds for a command of less than one

local scratch = dofile((arg[0]:match "^(.*/)" or "") .. "../lua/scratch.lua")
M.folder = scratch.folder

local function sized(...)
  local words = { ... }
  return table.move(SIZES, 1, #SIZES, #words + 1, words)
end

-- What is tried: words of a command by its root, the text of its file, and what has to be the same in each folder
-- that has the file `mark`.
local RESULTS = { "metrics.jsonl", "checkpoint.safetensors", "probe.json" }
M.RUN = { name = "mini", mark = "config.json", results = RESULTS, text = [[return require("attnlab").experiment {
  name = "mini", question = "Does it come through?", seeds = { 1 }, measure = { "series" }, base = { SIZES },
  arms = { { name = "a" }, { name = "b", ["attention.denominator"] = "length" } },
}
]] }
function M.RUN.words(root) return { "run", M.RUN.file, "--jobs", "2", "out_dir=" .. root } end
M.TRAIN = { name = "train", mark = "config.json", results = RESULTS }
function M.TRAIN.words(root) return sized("train", "out_dir=" .. root) end
M.STUDY = { name = "grid", mark = "case.json", results = { "result.json" }, text = [[return require("attnlab").study {
  name = "grid", kind = "recurrence", question = "Does it come through?", seeds = { 1, 2 },
  cases = { { head_dim = 4, orders = { 2, 4 }, tokens = 8 } },
}
]] }
function M.STUDY.words(root) return { "run", M.STUDY.file, "out_dir=" .. root } end

local function start(words, env)
  local out = M.folder() .. "/out"
  local argv = { "/bin/sh", "-c", 'ulimit -c 0; exec "$@"', "sh", sys.program(), table.unpack(words) }
  argv.stdout, argv.stderr, argv.group = out, out, true
  argv.env = { OMP_NUM_THREADS = "1", NO_COLOR = "1", ASAN_OPTIONS = "verify_asan_link_order=0" }
  for k, v in pairs(env or {}) do argv.env[k] = v end
  return { pid = sys.spawn(argv), out = out }
end

-- How it ended: "exited" or "signal" with a number, or "hangs"; its output.
local function wait(job)
  local until_ = sys.clock() + PATIENCE
  local how, code
  repeat
    how, code = sys.wait(job.pid, true)
    if how == "running" then sys.sleep(0.01) end
  until how ~= "running" or sys.clock() > until_
  if how == "running" then
    M.signal(job, "group", "KILL")
    how, code = "hangs", PATIENCE
  end
  return how, code, sys.read(job.out)
end

-- Runs a command to its end: status (minus the signal), output.
function M.run(command, root, env)
  local how, code, text = wait(start(command.words(root), env))
  return how == "exited" and code or -code, text
end

local function children(pid)
  local f <close> = io.open(("/proc/%d/task/%d/children"):format(pid, pid), "r")
  local list = {}
  for child in (f and f:read "a" or ""):gmatch "%d+" do list[#list + 1] = child end
  return list
end

-- Sends signals by name, 0.1 s apart, to the "runner", a "worker" of it (itself where it has none) or the "group".
function M.signal(job, whom, ...)
  local to = tostring(job.pid)
  if whom == "worker" then
    local list = children(job.pid)
    to = #list > 0 and list[math.random(#list)] or to
  elseif whom == "group" then
    to = "-" .. to
  end
  for i, name in ipairs { ... } do
    if i > 1 then sys.sleep(0.1) end
    os.execute(("kill -s %s -- %s 2>/dev/null"):format(name, to))
  end
end

-- ---- what is on disk ------------------------------------------------------------------------------------

-- A file's bytes, but for times measured and the hash of a record, which covers them.
local function bytes(path)
  if sys.exists(path) ~= "file" then return nil end
  return (sys.read(path):gsub('"seconds": [^\n]*', ""):gsub('"sha256": [^\n]*', ""))
end

local function runs_in(root, command)
  local list, dir = {}, root .. "/" .. command.name
  for _, id in ipairs(sys.exists(dir) and sys.list(dir) or {}) do
    if sys.exists(("%s/%s/%s"):format(dir, id, command.mark)) then list[#list + 1] = id end
  end
  return list
end

local function leftovers(path, list)
  for _, name in ipairs(sys.list(path)) do
    local full = path .. "/" .. name
    if sys.exists(full) == "dir" then
      leftovers(full, list)
    elseif name:find "%.tmp$" or name:find "%.part$" then
      list[#list + 1] = full .. " is left"
    end
  end
  return list
end

-- What differs from the undisturbed runs, as texts.
local function differences(root, command)
  local out = {}
  for id, files in pairs(command.reference) do
    local dir = ("%s/%s/%s"):format(root, command.name, id)
    for name, text in pairs(files) do
      local got = bytes(dir .. "/" .. name)
      if got ~= text then out[#out + 1] = ("%s/%s %s"):format(id, name, got and "differs" or "is missing") end
    end
    for line in (bytes(dir .. "/times.jsonl") or ""):gmatch "[^\n]*\n?" do
      if line ~= "" and not (line:sub(-1) == "\n" and pcall(json.decode, line)) then out[#out + 1] = id .. "/times.jsonl: " .. line end
    end
  end
  return out
end

function M.prepare()
  for _, command in ipairs { M.TRAIN, M.STUDY, M.RUN } do
    if command.text then
      command.file = M.folder() .. "/" .. command.name .. ".lua"
      sys.write(command.file, (command.text:gsub("SIZES", table.concat(SIZES, ", "))))
    end
    local root, began = M.folder(), sys.clock()
    local code, text = M.run(command, root)
    if code ~= 0 then error("undisturbed: " .. text, 0) end
    command.seconds, command.reference = sys.clock() - began, {}
    for _, id in ipairs(runs_in(root, command)) do
      command.reference[id] = {}
      for _, name in ipairs(command.results) do
        command.reference[id][name] = bytes(("%s/%s/%s/%s"):format(root, command.name, id, name))
      end
    end
  end
end

-- ---- one case ---------------------------------------------------------------------------------------------

local Case = {}
Case.__index = Case

function Case:finding(...)
  local text = (...):format(select(2, ...))
  self.findings[#self.findings + 1] = text
end

function Case:start(env)
  env = env or {}
  if not self.figures then env.PATH = "/nowhere" end -- most are tried without gnuplot, which takes longest
  return start(self.command.words(self.root), env)
end

-- Waits for the end, which has to be one of: status 0 with everything there, 1 with a reason (not where the end was
-- asked for), 130, a signal of these numbers.
function Case:ended(job, signals, asked)
  local how, code, text = wait(job)
  local fine = how == "exited" and (code == 0 or code == 1 and not asked or code == 130)
  for _, number in ipairs(signals) do fine = fine or how == "signal" and code == number end
  local key = how .. " " .. code
  M.endings[key] = (M.endings[key] or 0) + 1
  if not fine then self:finding("%s %d: %s", how, code, text) end
  if how == "exited" and code == 1 and not text:find "%S" then self:finding "status 1 without a word" end
  if how == "exited" and code == 0 then
    for _, d in ipairs(differences(self.root, self.command)) do self:finding("status 0, but %s", d) end
  end
end

-- Every listing works. full: on a disk that is full, where a table cannot be written.
function Case:list(full)
  local function works(statuses, ...)
    local how, code, text = wait(start({ ... }, { PATH = not self.figures and "/nowhere" or nil }))
    if how ~= "exited" or not statuses[code] then self:finding("%s: %s %d: %s", (...), how, code, text) end
    return text
  end
  works({ [0] = true }, "runs", "out_dir=" .. self.root)
  local ok, list = pcall(json.decode, works({ [0] = true }, "runs", "--json", "out_dir=" .. self.root))
  if not ok then return self:finding("runs --json: %s", list) end
  if #list >= 2 then works({ [0] = true }, "compare", list[1].dir, list[2].dir) end
  if self.command.file then works({ [0] = true, [1] = full or nil }, "plot", self.command.file, "out_dir=" .. self.root) end
end

-- Does act(case) in a fresh folder (below `place` where given), then asks. act may return more words for the label.
function M.case(label, command, act, place)
  local self = setmetatable({ command = command, root = (place or M.folder()) .. "/runs", findings = {}, label = label }, Case)
  M.cases = M.cases + 1
  self.figures = M.cases % 8 == 0
  local more = act(self)
  if M.cases % 3 > 0 then self:list() end -- or goes on at once, while workers of the killed may be dying
  local code, text = M.run(command, self.root, { PATH = not self.figures and "/nowhere" or nil })
  if code ~= 0 then self:finding("the same command again: status %d: %s", code, text) end
  for _, d in ipairs(differences(self.root, command)) do self:finding("after the same command: %s", d) end
  for _, text in ipairs(sys.exists(self.root) and leftovers(self.root, {}) or {}) do self:finding("%s", text) end
  if #self.findings > 0 then
    M.found = M.found + 1
    print(("%s%s:\n  %s"):format(label, more and ", " .. more or "", table.concat(self.findings, "\n  ")))
    if M.keep then
      sys.mkdir(M.keep)
      os.execute(("cp -r '%s' '%s/%d'"):format(self.root, M.keep, M.cases))
    end
  end
  io.stdout:flush()
  scratch.remove(self.root)
end

function M.finish()
  scratch.finish()
  local endings = {}
  for key, n in pairs(M.endings) do endings[#endings + 1] = ("%s: %d"):format(key, n) end
  table.sort(endings)
  print(("%d faults (%s), %d with a finding"):format(M.cases, table.concat(endings, ", "), M.found))
  return M.found > 0 and 1 or 0
end

return M
