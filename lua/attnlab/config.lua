-- Run configurations: { model = {..}, attention = {..}, train = {..} }. Keys on the command line
-- and in experiment files are dotted ("attention.denominator.floor"); over model and train the last
-- word alone will do (steps=100). Attention options come from the rows of the preset's family and
-- of the layer. attention may also hold a choice by layer: attention = { preset=, .., ["2"] = {
-- preset= or options } }; a list { "softmax", "p2/cottention" }, { default = .., [2] = .. } and the text
-- "3xlinear_elu,1xsoftmax" or "2x(3xlinear_elu,softmax)", presets layer by layer, are brought to that form.
local core = require "attnlab.core"
local names = require "attnlab.names"
local rows = require "attnlab.rows"
local sources = require "attnlab.sources"
local Attention = require "attnlab.nn.attention"

local M = {}

M.rows = require "attnlab.settings"

local function fail(...)
  error("config: " .. string.format(...), 0)
end

local function copy(v)
  if type(v) ~= "table" then return v end
  local out = {}
  for k, x in pairs(v) do out[k] = copy(x) end
  return out
end
M.copy = copy

local function was_called(name)
  for _, row in ipairs(M.rows.train) do
    if row.was == name then return row end
  end
end

-- "steps" -> "train.steps", "attention.rope" -> itself; unknown keys are errors with the nearest
-- name.
function M.key(key)
  local group, rest = key:match("^(%a+)%.(.+)$")
  if key == "attention" or group == "attention" then return key end
  local option = key:match "^train%.data%.(.+)$" or key:match "^data%.(.+)$"
  if option then
    if sources.is_option(option) then return "train.data." .. option end
    fail("%s", names.unknown("option of data", option, sources.names()))
  end
  local row = was_called(rest or key)
  if row then fail("key '%s' does not exist: use %s (%s)", key, row.name, row.doc) end
  if group and M.rows[group] then
    if rows.find(M.rows[group], rest) then return key end
    fail("%s", names.unknown("key", key, M.keys()))
  end
  local bare = M.keys()
  for _, g in ipairs { "model", "train" } do
    if rows.find(M.rows[g], key) then return g .. "." .. key end
    table.move(rows.names(M.rows[g]), 1, #M.rows[g], #bare + 1, bare)
  end
  fail("%s", names.unknown("key", key, bare))
end

-- Every key of model, train and the layer, dotted.
function M.keys()
  local out = {}
  for _, g in ipairs { "model", "train" } do
    for _, row in ipairs(M.rows[g]) do out[#out + 1] = g .. "." .. row.name end
  end
  for _, row in ipairs(Attention.rows) do out[#out + 1] = "attention." .. row.name end
  return out
end

local function is_layer(k)
  return math.type(k) == "integer" and k > 0 or (type(k) == "string" and k:match("^[1-9]%d*$") ~= nil)
end

local MOST_LAYERS = rows.find(M.rows.model, "layers").max

-- Presets by layer of "3xlinear_elu,2x(softmax,p2/cottention)", appended to the list; text stands in whole.
local function append_presets(list, text, whole)
  local at = 1
  local function wrong(what) fail("attention '%s': %s expected at '%s'", whole, what, text:sub(at)) end
  while true do
    local times, after = text:match("^%s*(%d+)%s*x()", at)
    if times then at = after end
    local group, behind = text:match("^%s*(%b())%s*()", at)
    local name, next_at = text:match("^%s*([%w_/%.%-]+)%s*()", at)
    if not (group or name) then wrong "the name of a preset, or (..)" end
    local n = times and math.tointeger(tonumber(times)) or not times and 1
    local before = #list
    if group then append_presets(list, group:sub(2, -2), whole) else list[before + 1] = name end
    local each = #list - before
    if not n or n < 1 or before + n * each > MOST_LAYERS or n > MOST_LAYERS then
      fail("attention '%s': 1 to %d layers expected", whole, MOST_LAYERS)
    end
    for _ = 2, n do table.move(list, before + 1, before + each, #list + 1) end
    at = behind or next_at
    if at > #text then return list end
    if text:sub(at, at) ~= "," then wrong "','" end
    at = at + 1
  end
end

-- An attention spec in the one form that configurations hold; nil stays nil.
local function normal(spec)
  if spec == nil then return nil end
  if type(spec) == "string" and (spec:find "," or spec:find "^%s*%d+%s*x") then spec = append_presets({}, spec, spec) end
  if type(spec) == "string" then return { preset = spec } end
  if type(spec) ~= "table" then
    fail("attention: preset or table of options expected, got %s", type(spec))
  end
  local out, whole, n = copy(normal(spec.default)) or {}, true, 0
  for k in pairs(spec) do
    whole, n = whole and math.type(k) == "integer", n + 1
  end
  for i = 1, whole and n or 0 do
    if spec[i] == nil then fail("attention: a list by layer, but none for layer %d", i) end
  end
  for k, v in pairs(spec) do
    if not is_layer(k) and type(k) ~= "string" then
      fail("attention: key %s: names of options or numbers of layers expected", tostring(k))
    end
    if k ~= "default" then
      local name = tostring(k)
      if out[name] ~= nil then fail("attention: '%s' is given twice", name) end
      if is_layer(k) then out[name] = normal(v) else out[name] = copy(v) end
    end
  end
  return out
end

-- Sets key of a configuration that is being built. Text is read as the key's kind of value, so that
-- command lines can be passed on as they are. A scalar in place of a record replaces the whole
-- record.
function M.set(cfg, key, value)
  key = M.key(key)
  local group, rest = key:match("^(%a+)%.(.+)$")
  if key == "attention" then
    if value == nil then fail("attention: preset or table of options expected, got nil") end
    cfg.attention = normal(value)
    return cfg
  end
  if group ~= "attention" then
    cfg[group] = cfg[group] or {}
    local row = rows.find(M.rows[group], rest)
    local option = not row and rest:match "^data%.(.+)$"
    if option then
      cfg[group].data = sources.with(cfg[group].data or rows.default(rows.find(M.rows.train, "data")), option, value)
      return cfg
    end
    if rest == "data" and type(value) == "table" then value = sources.text(value) end
    local ok, v = pcall(type(value) == "string" and rows.parse or rows.check, row, value, key)
    if not ok then fail("%s", v) end
    cfg[group][rest] = v
    return cfg
  end
  if type(value) == "string" then value = rows.parse_any(value) end
  local at = normal(cfg.attention) or {}
  cfg.attention = at
  local path = {}
  for word in rest:gmatch("[^%.]+") do path[#path + 1] = word end
  for i = 1, #path - 1 do
    local inner = at[path[i]]
    if type(inner) ~= "table" then
      local first = M.first_field(cfg.attention, path[i])
      inner = is_layer(path[i]) and normal(inner) or inner ~= nil and first and { [first] = inner }
        or {}
    end
    at[path[i]], at = inner, inner
  end
  at[path[#path]] = is_layer(path[#path]) and normal(value) or copy(value)
  return cfg
end

-- Rows of the family behind a spec: its preset's, or the formula's.
function M.family_rows(spec)
  return core.attn.options(spec and spec.preset or "")
end

-- A record written as a scalar means its first field.
function M.first_field(spec, name)
  local row = rows.find(M.family_rows(spec), name)
  return row and row.fields and row.fields[1].name
end

-- The spec of layer i: its own if it names a preset, else the common one with its options over it.
function M.attention_of(attention, i)
  local out = {}
  local own = attention[tostring(i)]
  if not (own and own.preset) then
    for k, v in pairs(attention) do
      if not is_layer(k) then out[k] = v end
    end
  end
  for k, v in pairs(own or {}) do out[k] = v end
  return out
end

-- Heads with options of their own are made, too, for one that depends on others is refused: of layers up to this
-- size, heads * head_dim * width. A model of larger ones refuses when it is made.
local HEADS_RUN = 1 << 22

-- The attention of layer i of a resolved configuration, to be asked and not to run, and the options of the layer
-- around it.
local function check_attention(cfg, i)
  local spec = M.attention_of(cfg.attention, i)
  local m = cfg.model
  local _, family, layer = Attention.split(spec)
  local known = rows.names(M.family_rows(spec))
  for k in pairs(family) do
    local found = false
    for _, name in ipairs(known) do found = found or name == k end
    if not found then
      local all = table.move(rows.names(Attention.rows), 1, #Attention.rows, #known + 1, known)
      error(names.unknown("option", k, all), 0)
    end
  end
  -- without weights: what is asked of a configuration may come from a file, and takes no memory
  local sizes = { heads = m.heads, kv_heads = m.kv_heads, head_dim = m.head_dim, value_dim = m.head_dim,
                  width = m.width, dtype = cfg.train.dtype, seed = 0, bare = true }
  local a = Attention.family_of(spec, sizes)
  if spec.heads and 1.0 * m.heads * m.head_dim * m.width <= HEADS_RUN then
    sizes.bare = false
    Attention.family_of(spec, sizes)
  end
  layer = Attention.layer_options(a:layer(), layer)
  Attention.rotation_of(layer, m.head_dim)
  return a, layer
end

M.instance_of = check_attention

-- The core's message without what concerns the Lua call that it came through.
function M.plain(message)
  return (tostring(message):gsub("^%S+:%d+: ", "")
    :gsub("^bad argument #%d+ to '([^']*)' %((.*)%)$", "%1: %2"))
end

-- Sets every key of `changes` (dotted, bare, or a section as a table, whose keys are merged) in a configuration that
-- is being built. What is given twice is refused: which of the two is meant is not written. whole: attention, too, is
-- set as it is, and no text in it is read as a number.
function M.apply(cfg, changes, whole)
  local given = {} -- full key -> as it is written
  local function claim(key, written)
    local record, field = key:match "^(.+)%.([^.]+)$"
    local scalar = given[record] and M.first_field(cfg.attention, record:match "[^.]+$") == field
    if scalar then fail("%s and %s are the same key", given[record], written) end
    for k, other in pairs(given) do
      if k == key or k:sub(1, #key + 1) == key .. "." then fail("%s and %s are the same key", other, written) end
    end
    given[key] = written
  end
  local function check(k, where)
    if type(k) ~= "string" then fail("%skey %s: names of options expected", where, tostring(k)) end
  end
  for k in pairs(changes) do check(k, "") end
  for _, key in ipairs(names.keys(changes)) do
    local value = changes[key]
    local parts = key == "attention" and normal(value) or M.rows[key] and type(value) == "table" and value
    for k in pairs(parts or {}) do check(k, key .. ": ") end
    for _, path in ipairs(parts and names.keys(M.flatten { [key] = parts }) or {}) do
      claim(path, ("'%s' in %s"):format(path:sub(#key + 2), key))
    end
    if parts and type(value) == "table" and not (whole and key == "attention") then
      for _, k in ipairs(names.keys(parts)) do M.set(cfg, key .. "." .. k, parts[k]) end
    else
      for _, path in ipairs(parts and {} or names.keys(M.flatten { [M.key(key)] = value })) do
        claim(path, ("'%s'"):format(key))
      end
      M.set(cfg, key, value)
    end
  end
  return cfg
end

-- Fills in what the architecture has where nothing is said: of attention in every layer that has a preset of its own.
local function of_architecture(cfg)
  local row = rows.find(M.rows.model, "arch")
  local arch = require("attnlab.model.arch." .. (cfg.model.arch or rows.default(row))).defaults
  for k, v in pairs(arch and arch.model or {}) do
    if cfg.model[k] == nil then cfg.model[k] = v end
  end
  cfg.attention = cfg.attention or { preset = "softmax" }
  local specs, common = {}, false
  for k, own in pairs(cfg.attention) do
    if not is_layer(k) then common = true elseif own.preset then specs[#specs + 1] = own end
  end
  if common then specs[#specs + 1] = cfg.attention end
  for k, v in pairs(arch and arch.attention or {}) do
    for _, spec in ipairs(specs) do
      if spec[k] == nil then spec[k] = v end
    end
  end
end

-- Checks and completes: returns a new table with every default filled in, sizes that follow from
-- others included, so set keys before. Accepts nested tables, dotted and bare keys.
function M.resolve(given)
  local cfg = { model = {}, attention = nil, train = {} }
  M.apply(cfg, given, true)
  of_architecture(cfg)
  for group, list in pairs(M.rows) do
    for _, row in ipairs(list) do
      if cfg[group][row.name] == nil then cfg[group][row.name] = rows.default(row) end
    end
  end
  local m, t = cfg.model, cfg.train
  if m.kv_heads == 0 then m.kv_heads = m.heads end
  if m.mlp == 0 then m.mlp = 2 * m.width end
  if m.head_dim == 0 then
    if m.width % m.heads ~= 0 then
      fail("model.width (%d) must be divisible by model.heads (%d)", m.width, m.heads)
    end
    m.head_dim = m.width // m.heads
  end
  if m.heads % m.kv_heads ~= 0 then
    fail("model.heads (%d) must be a multiple of model.kv_heads (%d)", m.heads, m.kv_heads)
  end
  if t.min_lr > t.lr then
    fail("train.min_lr (%g) must not be above train.lr (%g)", t.min_lr, t.lr)
  end

  local common, last = false, 0
  for k in pairs(cfg.attention) do
    if is_layer(k) then last = math.max(last, tonumber(k)) else common = true end
  end
  if last > m.layers then fail("attention.%d: the model has %d layers", last, m.layers) end
  if not common and last ~= m.layers then
    fail("attention: %d choices for %d layers", last, m.layers)
  end
  for i = 1, m.layers do
    if i == 1 or cfg.attention[tostring(i)] or (i == 2 and cfg.attention["1"]) then
      local ok, message = pcall(check_attention, cfg, i)
      if not ok then fail("attention%s: %s", last > 0 and "." .. i or "", M.plain(message)) end
    end
  end
  return cfg
end

-- Holds a resolved configuration that comes from a file against the rows of its keys. One that it lacks is of
-- another version; the number of layers may not be lacking, for readers go through them.
function M.held(cfg)
  for group, list in pairs(M.rows) do
    if type(cfg[group]) ~= "table" then fail("%s: a table expected, got %s", group, rows.show(cfg[group])) end
    for _, row in ipairs(list) do
      local v = cfg[group][row.name]
      if v ~= nil or row.name == "layers" then rows.check(row, v, group .. "." .. row.name) end
    end
  end
end

-- { ["train.steps"] = 400, ["attention.denominator.floor"] = 1, .. }; lists stay whole.
function M.flatten(cfg, prefix, out)
  out = out or {}
  for _, k in ipairs(names.keys(cfg)) do
    local v = cfg[k]
    local path = prefix and prefix .. "." .. k or k
    if type(v) == "table" and #v == 0 and next(v) ~= nil then
      M.flatten(v, path, out)
    else
      out[path] = copy(v)
    end
  end
  return out
end

-- "denominator.floor=1 output_norm=l2", options as one line; those of a table, or a word as it is.
function M.text(options)
  if type(options) ~= "table" then return rows.show(options) end
  local words, flat = {}, M.flatten(options)
  for _, k in ipairs(names.keys(flat)) do words[#words + 1] = k .. "=" .. rows.show(flat[k]) end
  return table.concat(words, " ")
end

-- The nested table that flatten made flat.
function M.unflatten(flat)
  local out = {}
  for _, key in ipairs(names.keys(flat)) do
    local at, last = out, nil
    for word in key:gmatch("[^%.]+") do
      if last then
        at[last] = at[last] or {}
        at = at[last]
      end
      last = word
    end
    at[last] = copy(flat[key])
  end
  return out
end

-- Array of { key=, a=, b= } where two configurations differ; a or b is nil where a key is absent.
function M.diff(a, b)
  local fa, fb, out = M.flatten(a), M.flatten(b), {}
  local all = copy(fa)
  for k, v in pairs(fb) do all[k] = v end
  for _, k in ipairs(names.keys(all)) do
    if rows.show(fa[k]) ~= rows.show(fb[k]) then
      out[#out + 1] = { key = k, a = fa[k], b = fb[k] }
    end
  end
  return out
end

-- Names of the families that a resolved configuration uses, sorted.
function M.families(cfg)
  local seen = {}
  for i = 1, cfg.model.layers do
    for _, name in ipairs(Attention.families_of(check_attention(cfg, i))) do seen[name] = true end
  end
  return names.keys(seen)
end

-- The variants that a resolved configuration uses, each once: { family =, text = all options }.
function M.variants(cfg)
  local seen, out = {}, {}
  for i = 1, cfg.model.layers do
    for _, a in ipairs(Attention.parts_of(check_attention(cfg, i))) do
      local v = { family = a:family(), text = a:text(true) }
      local key = v.family .. " " .. v.text
      if not seen[key] then out[#out + 1], seen[key] = v, true end
    end
  end
  return out
end

-- What a resolved configuration means, as sorted lines: each layer's attention with every option of
-- its family and layer written out, so that a changed default changes the text.
function M.canonical(cfg)
  local out = {}
  for key, v in pairs(M.flatten { model = cfg.model, train = cfg.train }) do
    out[#out + 1] = key .. " = " .. rows.show(v)
  end
  for i = 1, cfg.model.layers do
    local a, layer = check_attention(cfg, i)
    local words = {}
    for _, k in ipairs(names.keys(layer)) do words[#words + 1] = k .. "=" .. rows.show(layer[k]) end
    out[#out + 1] = ("attention.%d = %s %s | %s")
      :format(i, a:family(), a:text(true), table.concat(words, " "))
  end
  table.sort(out)
  return table.concat(out, "\n") .. "\n"
end

return M
