-- What tests share: a tiny model, a tiny experiment in a folder, and the program run as a child whose output and exit
-- status are looked at. dofile(...)(T) returns the functions.
local sys = require("attnlab.core").sys

return function(T)
  local M = { program = sys.program() }

  -- A model in f64 of two layers that no text has trained, with this attention and more options of lab.model.new.
  function M.model(spec, more)
    local opts = { layers = 2, width = 16, heads = 4, kv_heads = 2, mlp = 24, context = 12, vocab = 11, seed = 3, dtype = "f64",
                   attention = spec or "softmax" }
    for k, v in pairs(more or {}) do opts[k] = v end
    return require("attnlab.model").new(opts):eval()
  end

  -- Starts the program with these words; returns the pid and the file that gets its output.
  function M.start(words, env)
    local out = T.folder() .. "/out"
    local argv = table.move(words, 1, #words, 2, { M.program })
    argv.stdout, argv.stderr, argv.env = out, out, env
    return sys.spawn(argv), out
  end

  -- Runs the program to its end: exit status, output.
  function M.run(words, env)
    local pid, out = M.start(words, env)
    local how, code = sys.wait(pid)
    return how == "exited" and code or -code, sys.read(out)
  end

  -- Writes an experiment whose arms are the given lines of Lua; returns its path and the runs' folder.
  function M.experiment(arms, more)
    local dir = T.folder()
    local path = dir .. "/tiny.lua"
    sys.write(path, ([[
return require("attnlab").experiment {
  name = "tiny", question = "does it run?", seeds = { 1, 2 }, margin = 0.01,
  base = { layers = 1, width = 16, heads = 2, mlp = 32, context = 16, batch_size = 4, steps = 24, warmup_steps = 4,
           eval_interval = 6, eval_windows = 8, checkpoint_interval = 6, log_interval = 3 },
  arms = { { name = "softmax" }, %s }, %s
}
]]):format(arms, more or ""))
    return path, dir .. "/runs"
  end

  function M.run_dirs(root)
    local list = {}
    for _, id in ipairs(sys.list(root .. "/tiny")) do
      local dir = root .. "/tiny/" .. id
      if sys.exists(dir .. "/config.json") then list[#list + 1] = dir end
    end
    return list
  end

  -- {id = text of metrics.jsonl} of all runs.
  function M.metrics(root)
    local all = {}
    for _, dir in ipairs(M.run_dirs(root)) do all[dir:match "[^/]+$"] = sys.read(dir .. "/metrics.jsonl") end
    return all
  end

  return M
end
