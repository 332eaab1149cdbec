-- Files of states: safetensors with the components by name; the metadata say what they belong to.
-- A description is an array of { key, text }: a file is taken only where every text is the same.
-- The weights are not part of it: a state goes on with those that the reader has.
local core = require "attnlab.core"

local M = {}

local MARK, FORMAT = "attnlab_state", "1"

-- "heads=4 head_dim=16" of a table, in the order of `keys`.
local function words_of(t, keys)
  local out = {}
  for i, k in ipairs(keys) do out[i] = k .. "=" .. tostring(t[k]) end
  return table.concat(out, " ")
end

-- Of an instance of attention, or of what stands for one with these sizes and this type.
function M.describe(a, sizes, dtype)
  return { { "family", a:family() }, { "options", a:text(true) }, { "dtype", dtype },
           { "sizes", words_of(sizes, { "heads", "kv_heads", "head_dim", "value_dim", "width" }) } }
end

-- Written beside its place, synced, renamed. list: of st:components().
function M.save(path, description, position, list)
  local tensors, metadata = {}, { [MARK] = FORMAT, position = tostring(position) }
  for _, c in ipairs(list) do tensors[c.name] = c.tensor end
  for _, d in ipairs(description) do metadata[d[1]] = d[2] end
  core.safetensors.save(path, tensors, metadata)
end

-- The words of a that b has not.
local function only(a, b)
  local set, out = {}, {}
  for w in b:gmatch "%S+" do set[w] = true end
  for w in a:gmatch "%S+" do
    if not set[w] then out[#out + 1] = w end
  end
  return #out > 0 and table.concat(out, " ") or "none more"
end

-- Position and tensors by name of the file, which has to be of what `description` says.
function M.load(path, description)
  if type(path) ~= "string" then error("load_state: path expected, got " .. type(path), 0) end
  local tensors, metadata = core.safetensors.open(path)
  local function fail(...) error(("'%s': %s"):format(path, (...):format(select(2, ...))), 0) end
  if not metadata[MARK] then fail("no state: nothing in its metadata says so") end
  if metadata[MARK] ~= FORMAT then
    fail("a state of format %s, this version reads %s", metadata[MARK], FORMAT)
  end
  for _, d in ipairs(description) do
    local key, want, got = d[1], d[2], metadata[d[1]]
    if got ~= want then
      fail("a state of another attention: %s: %s expected, the file has %s", key,
        only(want, got or ""), got and only(got, want) or "none")
    end
  end
  local position = math.tointeger(tonumber(metadata.position))
  if not position or position < 0 then
    fail("position: a whole number expected, got %s", tostring(metadata.position))
  end
  return position, tensors
end

-- Calls f and names the file in what it raises.
function M.named(path, f, ...)
  local ok, result = pcall(f, ...)
  if not ok then error(("'%s': %s"):format(path, result), 0) end
  return result
end

return M
