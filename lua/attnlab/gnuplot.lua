-- gnuplot as a child process that draws into a folder which may hold anything: a figure gets its name when it is
-- whole, and nothing outside is written.
-- A change here makes no run stale.
local core = require "attnlab.core"
local names = require "attnlab.names"
local sys = core.sys

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

local COMMON = " font 'sans-serif,13' background rgb 'white'"

-- What a picture is drawn by, and what its file ends with: gnuplot does not notice a full disk.
M.FORMATS = {
  png = { terminal = "pngcairo size %d,%d fontscale 1.5 linewidth 1.5 pointscale 1.5" .. COMMON, scale = 1.5, tail = "IEND....$" },
  svg = { terminal = "svg size %d,%d" .. COMMON, scale = 1, tail = "</svg>%s*$" },
}

-- A PDF of so many inches, its letters scaled by `font`.
function M.pdf(width, height, font)
  return { pdf = { tail = "%%%%EOF%s*$", terminal = core.plain(string.format)(
    "pdfcairo size %.3fin,%.3fin fontscale %.3f linewidth %.3f pointscale %.3f%s", width, height, font, font, font, COMMON) } }
end

-- Has gnuplot draw <dir>/<name>.png and .svg, or the formats given, from make(outputs), which is kept as <name>.gp; each
-- gets its name when it is whole. size: of the picture in pixels ({1500, 690}). Returns the paths by format; or nil, the
-- reason and whether it was there but failed.
function M.render(make, dir, name, formats, size)
  remove_parts(dir, name)
  formats, size = formats or M.FORMATS, size or { 1500, 690 }
  local at, part = dir .. "/" .. name, (".%d.part"):format(sys.pid()) -- two runs may draw into one folder
  local script, log, outputs, paths = at .. ".gp", at .. ".log", {}, {}
  local function word(path) return names.path(names.plain(path)) end
  for _, kind in ipairs(names.keys(formats)) do
    local f, path = formats[kind], ("%s.%s%s"):format(at, kind, part)
    local scale = f.scale or 1
    outputs[#outputs + 1] = { f.scale and f.terminal:format(scale * size[1] // 1, scale * size[2] // 1) or f.terminal, word(path) }
    paths[kind] = path
  end
  sys.write(script, make(outputs))
  if sys.exists(log) then sys.remove(log) end
  for _, path in pairs(paths) do sys.append(path):close() end -- gnuplot would follow a link
  -- gnuplot leaves its own handler of SIGINT by a jump, and may then wait for ever on a lock of its libraries
  local ok, pid = pcall(sys.spawn, { "gnuplot", "-d", word(script), stdout = log, stderr = log, group = true })
  local function remove_own()
    for _, path in pairs(paths) do pcall(sys.remove, path) end
  end
  if not ok then
    remove_own()
    return nil, "gnuplot cannot be started (Debian: apt-get install gnuplot-nox): " .. pid
  end
  local how, code
  repeat how, code = sys.wait(pid) until how ~= "running" -- a signal that is caught ends a wait early
  local why = (how ~= "exited" or code ~= 0) and ("gnuplot failed (%s %d):"):format(how, code)
  for kind, path in pairs(paths) do
    if not why and (sys.exists(path) ~= "file" or not sys.read(path):sub(-32):find(formats[kind].tail)) then
      why = names.shown(path) .. ": written only in part (disk full?)"
    end
  end
  if why then
    remove_own()
    return nil, ("%s %s"):format(why, sys.exists(log) and sys.read(log):gsub("%s+$", "") or ""), true
  end
  if sys.exists(log) and sys.size(log) == 0 then sys.remove(log) end
  for kind, path in pairs(paths) do
    sys.rename(path, ("%s.%s"):format(at, kind))
    paths[kind] = ("%s.%s"):format(names.plain(at), kind)
  end
  return paths
end

return M
