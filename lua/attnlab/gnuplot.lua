-- gnuplot as a child process that draws into a folder which may hold anything: a figure gets its name when it is
-- whole, and nothing outside is written.
-- A change here makes no run stale.
local names = require "attnlab.names"
local sys = require("attnlab.core").sys

local M = {}

-- Removes the parts of figures that processes left which are no more.
local function remove_parts(dir, name)
  for _, file in ipairs(sys.list(dir)) do
    local pid = file:sub(1, #name + 1) == name .. "." and file:match "^[^.]*%.%a+%.(%d+)%.part$"
    if pid then
      local ok, why = pcall(sys.kill, tonumber(pid), 0)
      local gone = tonumber(pid) == sys.pid() or not ok and why:find "No such process" -- ours are not made yet
      if gone then pcall(sys.remove, dir .. "/" .. file) end
    end
  end
end

-- Has gnuplot draw <dir>/<name>.png and .svg from make(outputs), which is kept as <name>.gp; each gets
-- its name when it is whole. Returns their paths; or nil, the reason and whether it was there but failed.
function M.render(make, dir, name)
  remove_parts(dir, name)
  local at, part = dir .. "/" .. name, (".%d.part"):format(sys.pid()) -- two runs may draw into one folder
  local png, svg = at .. ".png" .. part, at .. ".svg" .. part
  local script, log = at .. ".gp", at .. ".log"
  local common = " font 'sans-serif,13' background rgb 'white'"
  local function word(path) return names.path(names.plain(path)) end
  sys.write(script, make({
    { "pngcairo size 2250,1035 fontscale 1.5 linewidth 1.5 pointscale 1.5" .. common, word(png) },
    { "svg size 1500,690" .. common, word(svg) } }))
  if sys.exists(log) then sys.remove(log) end
  for _, path in ipairs { png, svg } do sys.append(path):close() end -- gnuplot would follow a link
  -- gnuplot leaves its own handler of SIGINT by a jump, and may then wait for ever on a lock of its libraries
  local ok, pid = pcall(sys.spawn, { "gnuplot", "-d", word(script), stdout = log, stderr = log, group = true })
  local function remove_own()
    for _, path in ipairs { png, svg } do pcall(sys.remove, path) end
  end
  if not ok then
    remove_own()
    return nil, "gnuplot cannot be started (Debian: apt-get install gnuplot-nox): " .. pid
  end
  local how, code
  repeat how, code = sys.wait(pid) until how ~= "running" -- a signal that is caught ends a wait early
  local why = (how ~= "exited" or code ~= 0) and ("gnuplot failed (%s %d):"):format(how, code)
  for path, tail in pairs { [png] = "IEND....$", [svg] = "</svg>%s*$" } do -- gnuplot does not notice a full disk
    if not why and (sys.exists(path) ~= "file" or not sys.read(path):sub(-32):find(tail)) then
      why = names.shown(path) .. ": written only in part (disk full?)"
    end
  end
  if why then
    remove_own()
    return nil, ("%s %s"):format(why, sys.exists(log) and sys.read(log):gsub("%s+$", "") or ""), true
  end
  if sys.exists(log) and sys.size(log) == 0 then sys.remove(log) end
  sys.rename(png, at .. ".png")
  sys.rename(svg, at .. ".svg")
  return { png = names.plain(at) .. ".png", svg = names.plain(at) .. ".svg" }
end

return M
