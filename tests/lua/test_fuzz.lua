-- fuzz_ops.lua in a process of its own, two seconds and one seed; ATTNLAB_FUZZ=30 for longer, with another seed
-- every five seconds (the build with sanitizers sets it).
local T = ...
local sys = require("attnlab.core").sys

local FIRST, ROUND = 1, 5
local seconds = tonumber(os.getenv "ATTNLAB_FUZZ" or 2)

T.test("random calls end in a result or in an error that says something", function()
  for i = 0, math.ceil(seconds / ROUND) - 1 do
    local out = T.folder() .. "/out"
    local pid = sys.spawn { sys.program(), "lua", T.root .. "tests/lua/fuzz_ops.lua", tostring(FIRST + i),
                            tostring(math.min(ROUND, seconds - i * ROUND)), out .. ".call", stdout = out, stderr = out }
    local how, code = sys.wait(pid)
    if how ~= "exited" or code ~= 0 then
      error(("seed %d: %s %d\n%s\nin the call %s"):format(FIRST + i, how, code, sys.read(out),
        sys.read(out .. ".call"):match "^[^\n]*"), 0)
    end
  end
end)
