-- The tensors of a model's folder: model.safetensors, or shards named by model.safetensors.index.json. In a folder that may
-- come from anybody no link is followed and nothing outside it is read.
local core = require "attnlab.core"
local names = require "attnlab.names"
local rows = require "attnlab.rows"
local sys, json = core.sys, core.json

local M = { CONFIG = "config.json", WEIGHTS = "model.safetensors", INDEX = "model.safetensors.index.json" }

local MOST_JSON = 1 << 26 -- bytes; an index of 100,000 tensors has some 10 million

-- Why a file of the folder is not read.
local function reason(e)
  local why = names.reason(tostring(e))
  return why:find("a link, which", 1, true) and why .. " (cp -rL makes a folder without links)" or why
end

-- The object in a JSON file of the folder.
function M.object(folder, file)
  local path = names.inside(folder, file)
  local ok, v = pcall(function() return json.decode(sys.read(path, MOST_JSON)) end)
  local shown = names.shown(path)
  if not ok then error(("'%s': %s"):format(shown, reason(v)), 0) end
  if type(v) ~= "table" or #v > 0 then
    error(("'%s': a JSON object expected, got %s"):format(shown, v == json.null and "null" or rows.show(v):sub(1, 60)), 0)
  end
  return v, shown
end

local function open(folder, file, into, from)
  local ok, tensors, _, listed = pcall(core.safetensors.open, names.inside(folder, file))
  if not ok then error(reason(tensors), 0) end
  for name, t in next, tensors do
    if into[name] then
      error(("'%s': tensor '%s' is in %s, too"):format(names.shown(folder .. "/" .. file), name, from[name]), 0)
    end
    into[name], from[name] = t, file
  end
  for name, l in pairs(listed) do into[name], from[name] = l, file end
end

-- Shards by the index: every name in the shard that it says, and no other.
local function sharded(folder)
  local index, shown = M.object(folder, M.INDEX)
  local map = index.weight_map
  if type(map) ~= "table" or #map > 0 then
    error(("'%s': key 'weight_map': an object expected, got %s"):format(shown, rows.show(map)), 0)
  end
  local into, from, opened = {}, {}, {}
  for _, name in ipairs(names.keys(map)) do
    local file = map[name]
    if type(file) ~= "string" or not file:find "^[%w_%-][%w_%-%.]*%.safetensors$" then
      error(("'%s': weight_map: '%s': a file of this folder that ends in .safetensors expected, got %s"):format(shown, name,
        rows.show(file)), 0)
    end
    if not opened[file] then
      opened[file] = true
      open(folder, file, into, from)
    end
    if from[name] ~= file then
      error(("'%s': weight_map: tensor '%s' is not in %s%s"):format(shown, name, file,
        from[name] and ", but in " .. from[name] or ""), 0)
    end
  end
  for _, name in ipairs(names.keys(into)) do
    if not map[name] then error(("'%s': weight_map: tensor '%s' of %s is missing"):format(shown, name, from[name]), 0) end
  end
  return into
end

-- Tensors by their names in the files: a table in which one that cannot be loaded is { type =, why = }. Second result: the
-- path for errors.
function M.tensors(folder)
  local single, index = sys.exists(names.inside(folder, M.WEIGHTS)), sys.exists(names.inside(folder, M.INDEX))
  if not single and index then return sharded(folder), names.shown(folder .. "/" .. M.INDEX) end
  if not single then
    local other = sys.exists(names.inside(folder, "pytorch_model.bin"))
    error(("'%s': no such file, nor %s%s"):format(names.shown(folder .. "/" .. M.WEIGHTS), M.INDEX, other
      and "; pytorch_model.bin is a pickle, which may run code: transformers' save_pretrained writes safetensors of it"
      or ""), 0)
  end
  local into = {}
  open(folder, M.WEIGHTS, into, {})
  return into, names.shown(folder .. "/" .. M.WEIGHTS)
end

local function bytes_of(t)
  return t:numel() * ({ f64 = 8, f32 = 4, bf16 = 2, i32 = 4 })[t:dtype()]
end

-- Files of a model that lie in a folder, sorted.
function M.there(folder)
  local out = {}
  for _, file in ipairs(sys.exists(folder) == "dir" and sys.list(folder) or {}) do
    if file == M.CONFIG or file == M.INDEX or file:find "^model.*%.safetensors$" then out[#out + 1] = file end
  end
  return out
end

-- Puts what make(new) writes into an empty folder in the place of a folder's files `before`. Until all of it is there the
-- folder stays as it was; then, while it changes, it lacks config.json, and is no model.
function M.replace(folder, before, make)
  local new = folder .. "/.new"
  local function clear()
    for _, file in ipairs(sys.exists(new) == "dir" and sys.list(new) or {}) do sys.remove(new .. "/" .. file) end
    if sys.exists(new) then sys.remove(new) end
  end
  clear() -- of one that was killed
  sys.mkdir(new)
  local ok, why = pcall(make, new)
  if not ok then
    pcall(clear)
    error(why, 0)
  end
  for _, file in ipairs(before) do
    if file == M.CONFIG then sys.remove(folder .. "/" .. file) end
  end
  local written = {}
  for _, file in ipairs(sys.list(new)) do
    written[file] = true
    if file ~= M.CONFIG then sys.rename(new .. "/" .. file, folder .. "/" .. file) end
  end
  for _, file in ipairs(before) do
    if not written[file] then sys.remove(folder .. "/" .. file) end
  end
  sys.rename(new .. "/" .. M.CONFIG, folder .. "/" .. M.CONFIG)
  sys.remove(new)
end

-- Writes tensors by name into the folder: one file, or shards of up to `most` bytes and their index.
function M.write(folder, tensors, most)
  local parts, size, total = { {} }, 0, 0
  for _, name in ipairs(names.keys(tensors)) do
    local n = bytes_of(tensors[name])
    if size > 0 and size + n > most then parts[#parts + 1], size = {}, 0 end
    parts[#parts][name], size, total = tensors[name], size + n, total + n
  end
  if #parts == 1 then
    core.safetensors.save(folder .. "/" .. M.WEIGHTS, tensors)
    return
  end
  local map = {}
  for i, part in ipairs(parts) do
    local file = ("model-%05d-of-%05d.safetensors"):format(i, #parts)
    core.safetensors.save(folder .. "/" .. file, part)
    for name in pairs(part) do map[name] = file end
  end
  local index = { metadata = { total_size = total }, weight_map = map }
  sys.write(folder .. "/" .. M.INDEX, json.encode(index, { pretty = true }) .. "\n")
end

return M
