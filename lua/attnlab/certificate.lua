-- Certificates: what `check` found of one variant, as a JSON file runs/certificates/<family>-<hash>.json,
-- and which of them a run may show. The hash is of the family's canonical options without form and impl:
-- a check runs every form, so one certificate stands for all of them.
-- A change here makes no run stale.
local core = require "attnlab.core"
local config = require "attnlab.config"
local names = require "attnlab.names"
local store = require "attnlab.store"
local json, sys = core.json, core.sys

local M = {}

local function key(text)
  return (text:gsub("%f[%w_.]form=%S+ ?", ""):gsub("%f[%w_.]impl=%S+ ?", ""):gsub(" +$", ""))
end

-- One a kind of device: what holds on the CPU says nothing of a card.
function M.path(root, family, text, device)
  local kind = (device or core.on()):match "^[^:]*"
  return names.inside(root, ("certificates/%s-%s%s.json"):format(family, sys.sha256(key(text)):sub(1, 12),
    kind ~= "cpu" and "+" .. kind or ""))
end

-- What a variant is made of: the plug-in's bytes, or the program's sources.
local function source(family)
  for _, f in ipairs(core.attn.families()) do
    if f.name == family and f.plugin then return { plugin = f.plugin, sha256 = f.hash } end
  end
  return { program = store.source_hash() }
end

-- checked: {variant, family, options, passed, rows, seconds} on a device. Returns the path as it is shown.
function M.write(root, checked, device)
  local path = M.path(root, checked.family, checked.options, device)
  sys.mkdir(names.inside(root, "certificates"))
  local record = { version = core.version, build = store.libraries(device), date = os.date "!%Y-%m-%dT%H:%M:%SZ",
                   source = source(checked.family) }
  for k, v in pairs(checked) do record[k] = v end
  record.rows = json.array(checked.rows)
  sys.write(path, json.encode(record, { pretty = true }) .. "\n")
  return names.shown(path)
end

-- {variant, certificate = file, sha256, passed, date, stale} of a family with options; without a certificate {variant,
-- certificate = "none"}, of a file that is not a whole one {variant, certificate = file, damaged = true}. stale: it is
-- of other sources.
function M.find(root, family, text, device)
  local path = M.path(root, family, text, device)
  if sys.exists(path) ~= "file" then return { variant = family, certificate = "none" } end
  local readable, bytes = pcall(sys.read, path, 1 << 26)
  local ok, record = pcall(json.decode, readable and bytes or "")
  if not ok or type(record) ~= "table" or type(record.source) ~= "table" or type(record.passed) ~= "boolean" then
    return { variant = family, certificate = names.shown(path), damaged = true }
  end
  local now = source(family)
  local same = record.source.program == now.program and record.source.sha256 == now.sha256
  return { variant = family, certificate = names.shown(path), sha256 = sys.sha256(bytes), passed = record.passed,
           date = type(record.date) == "string" and record.date or nil, stale = not same or nil }
end

-- Those of every variant that a resolved configuration uses.
function M.of(root, cfg, device)
  local list = {}
  for i, v in ipairs(config.variants(cfg)) do list[i] = M.find(root, v.family, v.text, device) end
  return list
end

-- One word for a table: "passed", "stale", "none", "damaged", "FAILED", of several the worst.
function M.word(list)
  local word
  local rank = { passed = 1, stale = 2, none = 3, damaged = 4, FAILED = 5 }
  for _, c in ipairs(type(list) == "table" and list or {}) do
    local none = type(c) ~= "table" or c.certificate == "none"
    local w = none and "none" or c.damaged and "damaged" or not c.passed and "FAILED" or c.stale and "stale" or "passed"
    if not word or rank[w] > rank[word] then word = w end
  end
  return word
end

return M
