-- Models in folders as Hugging Face has them: config.json, weights as safetensors, a tokenizer. A type (config.json's
-- model_type) is one file model/hf/TYPE.lua, found by its name, which returns
--
--   architectures   names of config.json's `architectures` that it reads; the first is written
--   arch            our architecture, whose models it may write
--   read(c)         c: a reader of config.json (hub/keys.lua); gives { model = .., attention = .. } for model.new
--   harmless        list of keys of this type that change nothing (nil: none)
--   rules           tensors that are not named or stored as ours (hub/names.lua; nil: all are)
--   rename(name)    a tensor's name in the file as the rules have it, where there are several (nil: they have all)
--   tied            { head =, embedding = }: names in the file that tie_word_embeddings makes one (nil: never)
--   write(m)        config.json's keys for a model, or nil and why it is none of this type; nil: it is never written
--   last            true: it writes what no other does
--   beside(m, dir)  writes what else lies in the folder (nil: nothing)
--   tensors(own, m) ours by name, as the rules take them, of a model that is written (nil: as they are)
--
-- The same table as a Lua file of the user's own (option mapping) reads folders of any other layout: it may have
-- files(folder), which gives config.json's table and the tensors by name, and load(tensors, options, fail), which gives ours by
-- name in the place of rules, may add to options.model, and refuses a tensor by fail(name, why).
local core = require "attnlab.core"
local files = require "attnlab.model.hub.files"
local found = require "attnlab.found"
local keys = require "attnlab.model.hub.keys"
local names = require "attnlab.names"
local rules = require "attnlab.model.hub.names"
local tokenizers = require "attnlab.tokenizers"
local vocabulary = require "attnlab.vocabulary"
local sys, json = core.sys, core.json

local M = {}

local SHARD = 5000000000 -- bytes of a file of weights, as transformers splits them

local function types() return found "model/hf" end
local function type_of(name) return require("attnlab.model.hf." .. name) end

-- Whether a folder has a model's config.json, or one that cannot be read, and not a run's.
function M.is_folder(folder)
  local function has(file) return sys.exists(names.inside(folder, file)) ~= nil end
  if not has(files.CONFIG) then return false end
  if has(files.WEIGHTS) or has(files.INDEX) then return true end
  local ok, c = pcall(files.object, folder, files.CONFIG)
  return not ok or c.model_type ~= nil
end

-- SHA-256 of the configuration and the weights of such a folder.
function M.hash(folder)
  local all = {}
  for _, file in ipairs(sys.list(folder)) do
    if file == files.CONFIG or file == files.INDEX or file:find "%.safetensors$" then
      all[#all + 1] = file .. " " .. sys.sha256_file(names.inside(folder, file))
    end
  end
  return sys.sha256(table.concat(all, "\n"))
end

-- The user's own reader.
local function mapping(path)
  local f, why = loadfile(path, "t")
  local ok, t = pcall(f or error, why)
  if not ok or type(t) ~= "table" or type(t.read) ~= "function" then
    error(("mapping '%s': %s"):format(names.shown(path), ok and "a table with a function `read` expected" or tostring(t)), 0)
  end
  return t
end

-- Tied where config.json says so: the head is the embedding, whether the file has it or not.
local function untie(kind, tensors, tied, shown)
  local names_of = kind.tied
  if not names_of then return end
  local head, embedding = tensors[names_of.head], tensors[names_of.embedding]
  if not tied and head == nil and embedding ~= nil then
    error(("%s: tensor '%s' is missing, and tie_word_embeddings is false"):format(shown, names_of.head), 0)
  end
  if not (tied and head) then return end
  if not (core.is_tensor(head) and core.is_tensor(embedding) and rules.equal(head, embedding)) then
    error(("%s: tensor '%s' is not '%s', though tie_word_embeddings is true"):format(shown, names_of.head,
      names_of.embedding), 0)
  end
  tensors[names_of.head] = nil
end

-- What a folder holds: { options = (for model.new), tensors = (by our names), theirs = (names in the file by ours), shown =
-- (the weights, for errors), hub = (what export writes again) }. opts: mapping (a Lua file), ignore (keys of config.json).
function M.read(folder, opts)
  local kind = opts.mapping and mapping(opts.mapping)
  local values, shown_config = files.object(folder, files.CONFIG)
  local c = keys.new(values, shown_config, opts.ignore)
  local word = c:get "model_type"
  if not kind then
    if type(word) ~= "string" then
      c:fail("model_type", "a word expected, %s", word == nil and "the key is missing" or "got no text")
    end
    if not names.find(types(), word) then c:fail("model_type", "%s", names.unknown("type", word, types())) end
    kind = type_of(word)
    local given = c:get "architectures"
    if given ~= nil and not (type(given) == "table" and names.find(kind.architectures, given[1]) and #given == 1) then
      c:fail("architectures", "[%q] expected, got %s", table.concat(kind.architectures, '"] or ["'), json.encode(given))
    end
  end
  local options = kind.read(c)
  if not opts.mapping then c:done(kind.harmless) end
  local tensors, shown = files.tensors(folder)
  local own, theirs
  local function fail(name, why) error(("%s: tensor '%s': %s"):format(shown, name, why), 0) end
  if kind.rename then tensors = rules.renamed(kind.rename, tensors, fail) end
  untie(kind, tensors, options.model.tied, shown)
  if kind.load then own, theirs = kind.load(tensors, options, fail), {}
  else own, theirs = rules.read(kind.rules, tensors, options.model, fail) end
  for name, t in pairs(own) do
    if not core.is_tensor(t) then fail(name, type(t) == "table" and t.why or "no tensor") end
    if t:dtype() == "i32" then fail(theirs[name] or name, "numbers of a floating type expected, got i32") end
  end
  return { options = options, tensors = own, shown = shown,
           theirs = function(name) return theirs[name] or rules.theirs(kind.rules, name) end,
           hub = not opts.mapping and { type = word, config = c:harmless() } or nil }
end

-- ---- writing -------------------------------------------------------------------------------------------

-- The type that writes m, and the keys of its config.json; an error with every reason where there is none.
local function writer(m)
  local order, why = types(), {}
  table.sort(order, function(a, b)
    local first = m.hub and m.hub.type
    if (a == first) ~= (b == first) then return a == first end
    if type_of(a).last ~= type_of(b).last then return not type_of(a).last end
    return a < b
  end)
  for _, word in ipairs(order) do
    local kind = type_of(word)
    if kind.arch == m.config.arch and kind.write then
      local c, reason = kind.write(m)
      if c then return kind, word, c end
      why[#why + 1] = ("  %s: %s"):format(word, reason)
    end
  end
  local reasons = (#why > 0 and ":\n" or "") .. table.concat(why, "\n")
  error("export: no type of model that transformers knows is this one" .. reasons, 0)
end

-- Refuses a folder in which a tokenizer lies that is not v, the model's own: what reads the folder would take it.
local function check_tokenizer(folder, v)
  local found, file = pcall(tokenizers.in_folder, folder)
  if found and not file then return end
  local ok, there = pcall(vocabulary.open, folder)
  if ok and v and v:same(there) then return end
  error(("export: the tokenizer in '%s' is not the model's, which has %s: remove it, or name another folder"):format(
    names.shown(folder), v and "another one" or "none"), 0)
end

local OPTIONS = { "dtype", "shard", "overwrite" }
local DTYPES = { f64 = "float64", f32 = "float32", bf16 = "bfloat16" }

-- f() while no other process writes the folder, which is made: files of two models in one would look like a model.
local function alone(folder, f)
  sys.mkdir(folder)
  local path = folder .. "/.lock"
  local lock <close> = sys.lock(path)
  if not lock then error(("export: '%s': another process is writing it"):format(names.shown(folder)), 0) end
  local ok, why = pcall(f)
  sys.remove(path)
  if not ok then error(why, 0) end
end

-- Writes what alone() guards; c: the keys of config.json.
local function write(m, folder, kind, word, c, dtype, shard, overwrite)
  local before = files.there(folder)
  if #before > 0 and not overwrite then
    error(("export: '%s' has a %s: option overwrite writes over it"):format(names.shown(folder), before[1]), 0)
  end
  if #before > 0 or m.vocabulary then check_tokenizer(folder, m.vocabulary) end
  local own = {}
  for name, t in pairs(m:tensors()) do own[name] = t:dtype() == dtype and t:contiguous() or t:to(dtype) end
  if kind.tensors then own = kind.tensors(own, m) end
  local config = {}
  for k, v in pairs(m.hub and m.hub.type == word and m.hub.config or {}) do config[k] = v end
  local v = m.vocabulary
  for _, key in ipairs { "bos", "eos", "pad" } do
    key = key .. "_token_id"
    if config[key] == nil or config[key] == json.null then config[key] = v and v[key:match "^%a+"] or json.null end
  end
  for k, x in pairs(c) do config[k] = x end
  config.model_type = config.model_type or word
  config.architectures = config.architectures or { kind.architectures[1] }
  config.torch_dtype, config.dtype = DTYPES[dtype], DTYPES[dtype]
  files.replace(folder, before, function(new)
    files.write(new, rules.write(kind.rules, own, m.config), shard)
    if kind.beside then kind.beside(m, new) end
    if v and v.save then v:save(new) end
    sys.write(new .. "/" .. files.CONFIG, json.encode(config, { pretty = true }) .. "\n")
  end)
end

-- Writes m into a folder as transformers reads it, or where the path ends in .bin as llama2.c does. opts: dtype (the
-- model's own), shard = bytes of a file of weights, overwrite = true: over a model that lies there. config.json comes last.
function M.write(m, folder, opts)
  opts = names.options("export", opts, OPTIONS)
  if type(folder) ~= "string" or folder == "" then error("export: path of a folder expected, got " .. type(folder), 0) end
  local dtype, shard = opts.dtype or m.dtype, opts.shard or SHARD
  if not DTYPES[dtype] then error("export: option 'dtype': f64, f32 or bf16 expected, got " .. tostring(dtype), 0) end
  if math.type(shard) ~= "integer" or shard < 1 then
    error("export: option 'shard': a number of bytes expected, got " .. tostring(shard), 0)
  end
  if m.patches then error("export: its activations are patched, which no file says: undo the patches first", 0) end
  if folder:find "%.bin$" then
    for _, key in ipairs { "dtype", "shard" } do
      if opts[key] then error(("export: option '%s': llama2.c's file has none"):format(key), 0) end
    end
    if sys.exists(folder) and not opts.overwrite then
      error(("export: '%s' is there already: option overwrite writes over it"):format(names.shown(folder)), 0)
    end
    return require("attnlab.model.hub.llama2c").write(m, folder)
  end
  local kind, word, c = writer(m)
  alone(folder, function() write(m, folder, kind, word, c, dtype, shard, opts.overwrite) end)
end

return M
