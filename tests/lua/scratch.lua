-- Folders that tests make, gone at the end.
local sys = require("attnlab.core").sys

local M = {}
local folders = {}

function M.folder()
  local path = os.tmpname()
  os.remove(path)
  sys.mkdir(path)
  folders[#folders + 1] = path
  return path
end

-- The file or folder, as far as it can be removed.
function M.remove(path)
  if sys.exists(path) == "dir" then
    for _, name in ipairs(sys.list(path)) do M.remove(path .. "/" .. name) end
  end
  pcall(sys.remove, path)
end

function M.finish()
  for _, path in ipairs(folders) do M.remove(path) end
end

return M
