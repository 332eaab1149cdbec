-- What the commands share: options of several, and whose fault an error is. What is typed and cannot be meant (an
-- unknown word, a value that is none) is an error of usage, status 2; what fails at work, files that are missing or
-- damaged among it, is a failure, status 1. usage: as cli.lua gives it to a command.
-- A change here makes no run stale.
local core = require "attnlab.core"
local data = require "attnlab.data"
local devices = require "attnlab.devices"
local names = require "attnlab.names"
local tables = require "attnlab.table"

local M = {}

M.QUICK = { name = "quick", doc = "the small version that the file describes" }
M.SEEDS = { name = "seeds", value = "N", doc = "the first N seeds, or a list such as 1,2,5" }
M.DEVICE = { name = "device", value = "NAME", doc = "where it is computed: cpu (default), cuda, cuda:1, .." }
M.JSON = { name = "json", doc = "machine-readable output" }
M.LEGEND = { name = "legend", doc = "say what the columns of the table mean, as table.txt does" }
M.PRINT = { name = "print-config", doc = "print the resolved configuration, presets written out, and stop" }
M.DRY = { name = "dry-run", doc = "print parameters, arithmetic, memory and number of runs, and stop" }
M.FORCE = { name = "force", doc = "continue runs that another version of the program began" }
M.PLUGIN = { name = "plugin", value = "PATH", many = true,
             doc = "a plug-in to load first (.so, or .c, which is built); may be repeated" }
M.SETS = "key.sub=value sets any configuration key, out_dir=DIR the place of the runs (default: runs)."

-- What stands on stdout in place of the value that --json promises.
function M.no_value(why)
  print(core.json.encode { error = tables.clean(why, true) })
end

-- An error that is no interrupt and no fault of ours, which has the line of Lua that stumbled, as one of usage.
local function refuse(usage, e)
  local text = names.reason(tostring(e))
  if text:find "interrupted$" or text:find "^[^\n]-%.lua:%d+: " then error(e, 0) end
  usage("%s", text)
end

-- f(..), which looks at words and does no work: its errors are of usage.
function M.meant(usage, f, ...)
  local ok, result = pcall(f, ...)
  if not ok then refuse(usage, result) end
  return result
end

-- The device that --device names; nothing is opened.
function M.device(args, usage) return M.meant(usage, devices.named, args.flags.device) end

-- Makes it current, for commands that compute in this process.
function M.on(args, usage) core.on(M.device(args, usage)) end

-- f(with): an error is of usage where f(without) has none, as then the words make the difference.
function M.blame(usage, f, with, without)
  local ok, result = pcall(f, with)
  if ok then return result end
  if pcall(f, without) then refuse(usage, result) end
  error(result, 0)
end

-- key=value words as a table; unknown keys are usage errors. kinds: {key = "number", "text", "boolean" or "texts"},
-- "texts": an array, as the key may be given again and again.
function M.values(args, kinds, usage)
  local out = {}
  for _, kv in ipairs(args.sets) do
    local kind = kinds[kv[1]]
    if not kind then usage("%s", names.unknown("key", kv[1], names.keys(kinds))) end
    if kind == "texts" then
      out[kv[1]] = out[kv[1]] or {}
      table.insert(out[kv[1]], kv[2])
    else
      out[kv[1]] = kv[2]
    end
    if kind == "boolean" then
      if kv[2] ~= "true" and kv[2] ~= "false" then usage("%s: true or false expected, got '%s'", kv[1], kv[2]) end
      out[kv[1]] = kv[2] == "true"
    elseif kind == "number" then
      local n = tonumber(kv[2])
      if not n then usage("%s: a number expected, got '%s'", kv[1], kv[2]) end
      out[kv[1]] = math.tointeger(n) or n
    end
  end
  return out
end

-- The whole number from `least` on that an option was given.
function M.whole(text, option, usage, least)
  local n = math.tointeger(tonumber(text))
  if not n or n < least then usage("--%s: a whole number >= %d expected, got '%s'", option, least, text) end
  return n
end

-- A file for --json FILE that cannot be written is known before anything runs.
function M.writable(command, path)
  local folder = path:match "^(.*)/[^/]*$"
  if folder and core.sys.exists(folder == "" and "/" or folder) ~= "dir" then
    error(("%s: --json %s: there is no folder '%s'"):format(command, path, folder), 0)
  end
  local there = core.sys.exists(path)
  if there and there ~= "file" then error(("%s: --json %s: a file expected, this is none"):format(command, path), 0) end
end

-- The name or path of a text as it is given; a name that no text has is an error of usage.
function M.text(name, usage)
  if not data.is_path(name) then M.meant(usage, data.path, name) end
  return name
end

return M
