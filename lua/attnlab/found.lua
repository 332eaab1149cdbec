-- Modules that are found by their file's name: what lies in such a folder is there without an entry anywhere.
local core = require "attnlab.core"

-- Sorted names of the modules in a folder of ours: found "measures" -> {"series", ..} for attnlab.measures.series.
return function(folder)
  local here = assert(package.searchpath("attnlab.found", package.path)):match "^(.*)/found%.lua$"
  local out = {}
  for _, file in ipairs(core.sys.list(here .. "/" .. folder)) do
    local name = file:match "^(%l[%w_]*)%.lua$"
    if name and name ~= "init" then out[#out + 1] = name end
  end
  table.sort(out)
  return out
end
