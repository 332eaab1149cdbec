-- Language models, made and loaded, with device= elsewhere than on the current device. model.new{arch="llama", layers=,
-- width=, heads=, mlp=, vocab=, context=, attention=, seed=}, with the options of config.lua's model rows, flat or as a
-- configuration { model = .., attention = .. }, and model.load(path) for our own safetensors, run folders, llama2.c's .bin
-- and folders as Hugging Face has them (model/hub/init.lua), which m:export(folder) writes.
local core = require "attnlab.core"
local devices = require "attnlab.devices"
local hub = require "attnlab.model.hub"
local config = require "attnlab.config"
local Module = require "attnlab.nn.module"
local names = require "attnlab.names"
local parameters = require "attnlab.parameters"
local plugins = require "attnlab.plugins"
local rows = require "attnlab.rows"
local tokenizers = require "attnlab.tokenizers"
local vocabulary = require "attnlab.vocabulary"

local M = {}

local MOST_SIZE = (1 << 31) - 1 -- products of two are integers

-- Flat options, or a configuration's model and train, as a resolved configuration.
local function resolve(opts)
  local known = { "attention", "seed", "dtype", "vocabulary", "device" }
  local own = #known
  local nested = opts.model ~= nil or opts.train ~= nil
  table.move(nested and { "model", "train" } or rows.names(config.rows.model), 1,
    nested and 2 or #config.rows.model, #known + 1, known)
  local flat = {}
  for k, v in pairs(opts) do
    local found = false
    for i, name in ipairs(known) do
      if name == k then
        found = true
        if i > own then flat[k] = v end
      end
    end
    if not found then error("model: " .. names.unknown("option", k, known), 0) end
  end
  local cfg = nested and { model = flat.model, train = config.copy(flat.train) } or { model = flat }
  cfg.attention = opts.attention
  if opts.dtype then
    cfg.train = cfg.train or {}
    cfg.train.dtype = opts.dtype
  end
  return config.resolve(cfg)
end

-- How many ids a model of that architecture has that reads this vocabulary.
function M.size_of(arch, vocabulary) return require("attnlab.model.arch." .. arch).size_of(vocabulary) end

-- A model with initial weights, a function of (seed, tensor name). vocabulary: of vocabulary.lua,
-- gives the number of tokens where `vocab` does not, and lets the model read and write text.
function M.new(opts)
  if type(opts) ~= "table" then error("model: table of options expected, got " .. type(opts), 2) end
  local cfg = resolve(opts)
  local arch = require("attnlab.model.arch." .. cfg.model.arch)
  local size = opts.vocabulary and opts.vocabulary:size()
  if cfg.model.vocab == 0 then
    if not size then error("model: option 'vocab' (number of token ids) is missing", 2) end
    cfg.model.vocab = arch.size_of(opts.vocabulary)
  elseif size and size > cfg.model.vocab then
    error(("model: the vocabulary has %d tokens, option 'vocab' says %d")
      :format(size, cfg.model.vocab), 2)
  end
  return arch.new(cfg.model, cfg.attention,
    { seed = opts.seed, dtype = cfg.train.dtype, device = opts.device, vocabulary = opts.vocabulary })
end

-- The tokenizer at a path, of any kind; a table of llama2.c has as many pieces as the model.
local function tokenizer_at(path, size)
  local v = vocabulary.open(path)
  if v:size() > size or v.kind == "llama2c" and v:size() ~= size then
    error(("tokenizer: '%s' has %d pieces, the model %d: they do not belong together"):format(names.shown(path),
      v:size(), size), 0)
  end
  return v
end

-- The tokenizer given, or tok<size>.bin beside the model, no link; nil when there is none.
local function llama2c_vocabulary(path, size, given)
  local beside = names.inside(path:match "^(.*)/[^/]*$" or ".", ("tok%d.bin"):format(size))
  if given == nil and core.sys.exists(beside) == "file" then given = beside end
  return given and tokenizer_at(given, size)
end

local function load_llama2c(path, opts)
  local c, tensors = core.llama2c(path)
  local m = M.new {
    arch = "llama", layers = c.n_layers, width = c.dim, heads = c.n_heads, kv_heads = c.n_kv_heads,
    mlp = c.hidden_dim, context = c.max_seq_len, vocab = c.vocab_size, tied = c.tied,
    attention = { preset = "softmax", rope = "interleaved" }, seed = 0, dtype = opts.dtype,
    vocabulary = llama2c_vocabulary(path, c.vocab_size, opts.tokenizer) }
  m:load_parameters(tensors, path)
  return m
end

-- The model's tensors by its own names: those of a run's checkpoint stand beside what its optimiser keeps.
local function own_tensors(tensors, metadata)
  if not metadata["run.step"] then return tensors end
  local own = {}
  for name, t in pairs(tensors) do
    local inner = name:match "^model%.(.+)$"
    if inner then own[inner] = t else t:free() end
  end
  return own
end

-- { name =, sha256 = } of the text that a model was trained on, as its file says; nil where it says nothing.
local function trained_on(saved, path)
  local text = saved.trained_on
  if text == nil or text == core.json.null then return nil end
  if type(text) ~= "table" or type(text.name) ~= "string" or type(text.sha256) ~= "string" then
    error(("'%s': the metadata 'attnlab': trained_on: { name, sha256 } expected, got %s")
      :format(path, core.json.encode(text)), 0)
  end
  return { name = text.name, sha256 = text.sha256 }
end

-- Holds the sizes that a file's configuration m (from `where`) names against the tensors beside it: none can be more than
-- the numbers that are there. So what is made of them, until a tensor's shape tells, takes no more than the file did.
local function hold(m, tensors, where)
  local layers, numbers = 0, 0
  for _, t in pairs(tensors) do layers, numbers = layers + 1, numbers + t:numel() end
  for _, key in ipairs { "layers", "width", "heads", "kv_heads", "head_dim", "mlp", "vocab" } do
    local most = math.min(key == "layers" and layers or numbers, MOST_SIZE)
    if math.type(m[key]) ~= "integer" or m[key] < 1 or m[key] > most then
      error(("'%s': model.%s: a whole number from 1 to %d, as the file has %s, expected, got %s"):format(where, key, most,
        key == "layers" and "tensors" or "numbers", rows.show(m[key])), 0)
    end
  end
end

-- The tokenizer that a file's configuration names by its hash: given, or saved beside the file by name.
local function hashed_vocabulary(given, path, size, tokenizer)
  local folder = vocabulary.beside(path, given.hash)
  if not tokenizer and core.sys.exists(folder) ~= "dir" then return nil end
  local v = tokenizer_at(tokenizer or folder, size)
  if v:hash() ~= given.hash then
    error(("tokenizer: '%s' is another one than the model was trained with: sha256 %s expected, got %s"):format(
      names.shown(tokenizer or folder), given.hash, v:hash()), 0)
  end
  return v
end

-- The vocabulary that a file's configuration names, or the tokenizer that was given where it names none; nil: there
-- is none, or the one that it names is not there.
local function saved_vocabulary(saved, path, tokenizer)
  local given, size = saved.vocabulary, saved.model.vocab
  if given == nil or given == core.json.null then return tokenizer and tokenizer_at(tokenizer, size) end
  if type(given) == "table" and given.kind == "characters" and type(given.characters) == "string" then
    return vocabulary.characters(given.characters)
  elseif type(given) == "table" and given.kind == "bytes" then
    return vocabulary.bytes()
  elseif type(given) == "table" and type(given.hash) == "string" and given.hash:find("^" .. ("%x"):rep(64) .. "$") then
    local v = hashed_vocabulary(given, path, size, tokenizer)
    if v or given.kind ~= "llama2c" then return v end
  end
  if type(given) == "table" and given.kind == "llama2c" then return llama2c_vocabulary(path, size, tokenizer) end
  error(("vocabulary: { kind = 'characters' with these, 'bytes', or a tokenizer's with its hash } expected, got %s")
    :format(core.json.encode(given)), 0)
end

local function load_safetensors(path, opts)
  local tensors, metadata = core.safetensors.open(path)
  local shown = names.shown(path)
  if not metadata.attnlab then
    error(("'%s': no attnlab configuration in the metadata: not a model saved by attnlab")
      :format(shown), 0)
  end
  local ok, saved = pcall(core.json.decode, metadata.attnlab)
  if not ok or type(saved) ~= "table" or type(saved.model) ~= "table" then
    error(("'%s': the metadata 'attnlab' is not a configuration: %s")
      :format(shown, tostring(saved)), 0)
  end
  local kind = type(saved.vocabulary) == "table" and saved.vocabulary.kind
  if opts.tokenizer ~= nil and (kind == "characters" or kind == "bytes") then
    error(("'%s': option 'tokenizer': the model has a vocabulary of its own, of %s"):format(shown, kind), 0)
  end
  plugins.restore(saved.plugins, ("'%s'"):format(shown))
  local own = own_tensors(tensors, metadata)
  hold(saved.model, own, shown .. "': the metadata 'attnlab")
  local made, m = pcall(Module.made_for, own, function()
    return M.new { model = saved.model, attention = saved.attention, seed = saved.seed, dtype = opts.dtype or saved.dtype,
                   vocabulary = saved_vocabulary(saved, path, opts.tokenizer) }
  end)
  if not made then
    local of_tensor = type(m) == "table" and m.of_tensor
    error(("'%s': %s"):format(shown, of_tensor or "the metadata 'attnlab': " .. config.plain(m)), 0)
  end
  parameters.tie(m, own)
  m:load_parameters(own, shown)
  m.trained_on = trained_on(saved, shown)
  m.hub = type(saved.hub) == "string" and { type = saved.hub, config = {} } or nil
  return m
end

-- The tokenizer given, or that of a model's folder; nil where there is none, or with tokenizer = false.
local function folder_vocabulary(folder, size, given)
  if given then return tokenizer_at(given, size) end
  local beside = names.inside(folder, "")
  if given == false or not tokenizers.in_folder(beside) then return nil end
  local ok, v = pcall(tokenizer_at, beside, size)
  if ok then return v end
  error(tostring(v) .. " (option tokenizer=false loads the model without it)", 0)
end

-- A folder as Hugging Face has it. opts.dtype: of the model (f32), whatever the file has.
local function load_hub(folder, opts)
  local f = hub.read(folder, opts)
  hold(f.options.model, f.tensors, names.shown(folder) .. "/config.json")
  local made, m = pcall(Module.made_for, f.tensors, function()
    return M.new { model = f.options.model, attention = f.options.attention, seed = 0, dtype = opts.dtype or "f32",
                   vocabulary = folder_vocabulary(folder, f.options.model.vocab, opts.tokenizer) }
  end)
  if not made then
    local why = type(m) == "table" and m.of_tensor
    error(why and ("%s: %s"):format(f.shown, why:gsub("'([^']+)'", function(name) return ("'%s'"):format(f.theirs(name)) end, 1))
      or ("'%s': %s"):format(names.shown(folder), config.plain(m)), 0)
  end
  m:load_parameters(f.tensors, f.shown, f.theirs)
  m.hub = f.hub
  return m
end

local LOADS = { "dtype", "tokenizer", "device", "mapping", "ignore" }

local function load(path, opts)
  opts = names.options("model.load", opts, LOADS)
  if type(path) ~= "string" then error("model.load: path expected, got " .. type(path), 3) end
  local kind = core.sys.exists(path)
  if kind == "dir" and (opts.mapping or hub.is_folder(path)) then return load_hub((path:gsub("/+$", "")), opts) end
  if kind == "dir" then
    local checkpoint = names.inside(path:gsub("/+$", ""), "checkpoint.safetensors")
    if core.sys.exists(checkpoint) then return load_safetensors(checkpoint, opts) end
    error(("model.load: '%s': no such file: a model file is expected, or the folder of a run that has a checkpoint, "
      .. "or of a model that has config.json and model.safetensors"):format(names.shown(checkpoint)), 0)
  elseif kind ~= "file" then
    error(("model.load: '%s': %s"):format(path, kind and "not a regular file" or "no such file"), 0)
  end
  local file <close> = assert(io.open(path, "rb"))
  local head = file:read(9) or ""
  -- safetensors: eight bytes of header length, then the header's brace
  if head:sub(9, 9) == "{" then return load_safetensors(path, opts) end
  if path:find("%.safetensors$") then
    error(("'%s' is not a safetensors file: no header after the first 8 bytes"):format(path), 0)
  end
  return load_llama2c(path, opts)
end

-- The model of a file, or of a run folder's last checkpoint. opts: dtype ("f32", "f64", "bf16"), tokenizer (path of a
-- tokenizer of any kind), device; of a folder as Hugging Face has it: mapping (a Lua file that says how one of another
-- layout is read), ignore (keys of config.json that are to be harmless). m.origin says where it came from.
function M.load(path, opts)
  local there = type(opts) == "table" and devices.opened(opts.device) or core.on()
  local m = devices.on(there, load, path, opts)
  m.origin = { path = core.sys.realpath(path) }
  return m
end

return M
