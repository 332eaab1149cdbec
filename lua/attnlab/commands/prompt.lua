-- The command of the prompt.
-- A change here makes no run stale.
local core = require "attnlab.core"
local names = require "attnlab.names"
local words = require "attnlab.words"

local function repl(args, usage)
  local file, model
  for _, word in ipairs(args.words) do
    if word:find "%.lua$" then
      if file then usage("repl: one Lua file expected, got '%s' and '%s'", file, word) end
      file = word
    elseif model then
      usage("repl: one run or model expected, got '%s' and '%s'", model, word)
    else
      model = word
    end
  end
  local step = args.flags.step
  if step and file then usage("repl: one Lua file expected, got '%s' and '%s'", step, file) end
  file = step or file
  if file and core.sys.exists(file) ~= "file" then
    usage("repl: '%s': %s", names.shown(file), core.sys.exists(file) and "not a regular file" or "no such file")
  end
  if args.flags.sessions then
    local list = require("attnlab.prompt.journal").list()
    for _, s in ipairs(list) do print(require("attnlab.prompt.journal").line_of(s)) end
    if #list == 0 then print "no sessions" end
    return 0
  end
  if (args.flags.resume or args.flags.session) and (file or model) then usage "repl: --resume brings back what the session was given: no other words" end
  words.on(args, usage)
  return require("attnlab.prompt").run { file = file, step = step ~= nil, model = model, resume = args.flags.resume,
    session = args.flags.session }
end

return {
  { name = "repl", args = "[FILE.lua] [RUN|MODEL]", least = 0, most = 2, run = repl,
    doc = "the prompt, with a model and its fork at hand; ./lab alone on a terminal, too",
    options = { { name = "resume", doc = "bring the last session back" },
                { name = "session", value = "ID", doc = "bring that session back" },
                { name = "sessions", doc = "list the sessions that are kept" },
                { name = "step", value = "FILE.lua", doc = "go through a file chunk by chunk" },
                words.DEVICE, words.PLUGIN },
    more = "FILE.lua is run first, and what it made stays. m is the model (a run folder, a model file, an arm such as\n"
      .. "\"denominator:exp + L2\"), s its fork, ev its evaluation set. From a pipe the first error ends with status 1." },
}
