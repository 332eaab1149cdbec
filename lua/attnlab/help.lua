-- Help on whatever a name means: modules, functions, methods, ops, attention presets and families, options,
-- configuration keys. All of it comes from descriptors, rows, and the comments above our functions (comments.lua).
-- A change here makes no run stale.
local comments = require "attnlab.comments"
local core = require "attnlab.core"
local config = require "attnlab.config"
local found = require "attnlab.found"
local names = require "attnlab.names"
local pages_of = require "attnlab.help_page"
local nn_attention = require "attnlab.nn.attention"
local rows = require "attnlab.rows"
local sources = require "attnlab.sources"
local tables = require "attnlab.table"

local M = {}

-- What functions of lab return: its word here, the class in which module or C file, what gives one.
M.OBJECTS = {
  { "tensor", "methods", "ltensor.c", "lab.tensor{..}, every op; ops are methods, too" },
  { "model", "LanguageModel", "model.language", "lab.model.new{..}, lab.model.load(path), lab.open(x).model" },
  { "bert", "Bert", "model.arch.bert", "lab.model.new{arch=\"bert\", ..}, with what a model has but its states" },
  { "fork", "Session", "surgery", "s = m:fork(), with all that a model has" },
  { "part", "Handle", "surgery.part", "s.layer[2], s.layer[\"*\"], s.layer[2].head[1]" },
  { "shown", "Shown", "surgery.show", "s:show{..}" },
  { "sweep", "Sweep", "surgery.sweep_map", "s:sweep{..}" },
  { "map", "Map", "attention_map", "m:attention_map{..}, m:map{..}" },
  { "maps", "All", "attention_map", "m:map{head=\"all\", ..}" },
  { "pair", "Beside", "attention_map", "map:beside(other)" },
  { "trace", "Trace", "trace", "m:trace(text, {..})" },
  { "training", "Result", "train", "r = lab.train(m, {..}), s:tune{..}" },
  { "evalset", "Evalset", "evalset", "ev = lab.evalset{..}" },
  { "opened", "Opened", "open", "lab.open(x)" },
  { "runs", "List", "run_list", "lab.runs{..}" },
  { "run", "Run", "run_list", "lab.runs{..}[1]" },
  { "dataset", "Dataset", "data", "lab.data.open(name)" },
  { "sentences", "Sentences", "sentences", "lab.sentences{..}" },
  { "vocabulary", "Vocabulary", "vocabulary", "m.vocabulary, v = lab.tokenizer(path)" },
  { "instance", "methods", "lattn.c", "lab.attention.new(..)" },
  { "state", "State", "state", "m:state{..}, a:state{..}" },
  { "optimiser", "Optimiser", "optim", "lab.optim.adamw{..}" },
  { "trainer", "Trainer", "train", "r.trainer" },
  { "module", "Module", "nn.module", "whatever lab.nn makes, models among it" },
}

-- What lab holds that is no function and no module.
local VALUES = { op = "every op, by its name", version = "of the program, a text" }

-- Option rows of a topic: title, rows.
local function options_of(name)
  if name == "attention" then
    return { { "options of the formula", core.attn.options "" }, { "options of the layer around it", nn_attention.rows } }
  elseif name == "config" then
    return { { "model", config.rows.model }, { "train", config.rows.train } }
  end
  if name == "sources" or name == "data" then return { { "options of data", sources.rows } } end
  if name == "optim" then
    return { { "options of adamw", core.optim_options "adamw" }, { "options of sgd", core.optim_options "sgd" } }
  end
  return config.rows[name] and { { "options", config.rows[name] } } or {}
end

-- Where options are looked for by their names, or their paths.
local function groups()
  return { { "attention option", core.attn.options "", "attention" }, { "layer option", nn_attention.rows, "attention" },
           { "model option", config.rows.model, "model" }, { "train option", config.rows.train, "train" },
           { "data option", sources.rows, "data" } }
end

-- ---- what there is: pages by topic ------------------------------------------------------------------

local function title(page, text) page[#page + 1] = { "title", text } end
local function block(page, text) page[#page + 1] = { "block", text } end
local function lines(page, doc) if #doc > 0 then page[#page + 1] = { "text", doc } end end

local function call_of(f, word)
  return f.call or ("%s%s%s%s"):format(word, f.method and ":" or ".", f.name, f.args)
end

-- The functions of one owner in a file, without those of Lua's own; first those that its head speaks of.
local function functions(module, owner)
  local out, others, parsed = {}, {}, comments.of_module(module)
  local head = table.concat(parsed.head, "\n")
  for _, f in ipairs(parsed.list) do
    if f.owner == owner and not f.name:find "^__" and not comments.internal(f) then
      local to = head:find("[:.]" .. f.name .. "%f[^%w_]") and out or others
      to[#to + 1] = f
    end
  end
  return table.move(others, 1, #others, #out + 1, out)
end

local function list_functions(page, word, list)
  for _, f in ipairs(list) do page[#page + 1] = { "entry", call_of(f, word), comments.first(f.doc) } end
end

-- What lab holds: { { name, module = or f = (its function, as comments.lua has it), op = }, .. }, read from the text of
-- init.lua.
function M.surface()
  local text = core.sys.read(package.searchpath("attnlab.init", package.path) or package.searchpath("attnlab", package.path))
  local c, list = {}, {}
  for _, file in ipairs { "ltensor.c", "lmodule.c", "lop.c", "ldata.c" } do
    for _, f in ipairs(functions(file, "functions")) do c[f.name] = c[f.name] or f end
  end
  for name, from in text:gmatch "\n  ([%w_]+) = core%.([%w_.]+)," do
    local f = c[from]
    list[#list + 1] = { name, f = f, op = from:match "^op%.(.+)$" }
  end
  for name in text:gmatch '\n  ([%w_]+) = require "attnlab%.' do list[#list + 1] = { name, module = name } end
  for name in (text:match "local LAZY = (%b{})" or ""):gmatch "([%w_]+) =" do list[#list + 1] = { name, module = name } end
  for _, f in ipairs(comments.of_module("init").list) do
    if f.owner == "lab" then list[#list + 1] = { f.name, f = f } end
  end
  table.sort(list, function(a, b)
    if (a.module == nil) ~= (b.module == nil) then return a.module ~= nil end
    return a[1] < b[1]
  end)
  return list
end

local function op_page(page, op)
  local args = {}
  for i, input in ipairs(op.inputs) do args[i] = input.optional and "[" .. input.name .. "]" or input.name end
  if #op.args > 0 then args[#args + 1] = "{..}" end
  title(page, ("op %s(%s)"):format(op.name, table.concat(args, ", ")))
  lines(page, { op.doc })
  for _, input in ipairs(op.inputs) do
    if input.doc and input.doc ~= "" then page[#page + 1] = { "entry", input.name, input.doc } end
  end
  for _, output in ipairs(op.outputs) do
    if output.doc ~= "" then page[#page + 1] = { "entry", "gives " .. output.name, output.doc } end
  end
  if #op.args > 0 then block(page, "options:\n" .. rows.help(op.args)) end
end

-- What a:forward of an instance takes, and forward of a layer.
local function calls(page)
  local inputs, args = core.attn.inputs()
  local out = { "what forward of an instance takes, in one table:" }
  for _, row in ipairs(inputs) do
    out[#out + 1] = ("  %s: %s%s"):format(row.name, row.doc, row.optional and ", may be absent" or "")
  end
  out[#out + 1] = rows.help(args)
  out[#out + 1] = "what forward of the layer takes beside x:"
  out[#out + 1] = rows.help(nn_attention.forward_rows)
  block(page, table.concat(out, "\n"))
end

local function module_page(page, name, word)
  local parsed = comments.of_module(name)
  title(page, word)
  lines(page, parsed.head)
  list_functions(page, word, functions(name, "M"))
  for _, o in ipairs(M.OBJECTS) do
    if o[3] == name and o[1] ~= word:gsub("^lab%.", "") then list_functions(page, o[1], functions(name, o[2])) end
  end
  for _, x in ipairs(options_of(word:gsub("^lab%.", ""))) do block(page, x[1] .. ":\n" .. rows.help(x[2])) end
  if name == "attention" then calls(page) end
end

local function object_page(page, object)
  title(page, ("%s: %s"):format(object[1], object[4]))
  if object[3] ~= object[1] then lines(page, comments.of_module(object[3]).head) end -- else it stands with the module
  list_functions(page, object[1], functions(object[3], object[2]))
end

-- A comment may name the file that says more, which follows: "see surgery/calibrate.lua".
local function function_page(page, f, word)
  title(page, call_of(f, word))
  lines(page, f.doc)
  for file in table.concat(f.doc, " "):gmatch "([%w_/]+)%.lua" do
    local more = comments.of_module((file:gsub("/", "."))).head
    if #more > 0 then
      page[#page + 1] = { "text", { "" } }
      lines(page, more)
    end
  end
end

-- Rows and their fields by path.
local function each_row(list, path, add)
  for _, row in ipairs(list) do
    add(path .. row.name, row)
    if row.fields then each_row(row.fields, path .. row.name .. ".", add) end
  end
end

-- Folders of modules, by their names as require has them: "surgery", "model.arch".
local function folders()
  local at, out = package.searchpath("attnlab.help", package.path):match "^(.*)/help%.lua$", {}
  local function walk(path, name)
    for _, file in ipairs(core.sys.list(path)) do
      if core.sys.exists(path .. "/" .. file) == "dir" then
        out[#out + 1] = name .. file
        walk(path .. "/" .. file, name .. file .. ".")
      end
    end
  end
  walk(at, "")
  return out
end

local by_name, in_order -- { [name] = { page function, .. } }, and the names

local function topics()
  if by_name then return by_name end
  local t, order = {}, {}
  local function add(name, f)
    if not t[name] then
      t[name], order[#order + 1] = {}, name
    end
    t[name][#t[name] + 1] = f
  end
  local in_lab = {}
  local function add_functions(word, list)
    for _, f in ipairs(list) do
      local function page(p) function_page(p, f, word) end
      add(word .. "." .. f.name, page)
    end
  end
  for _, x in ipairs(M.surface()) do
    if x.module then
      in_lab[x.module] = true
      add(x[1], function(p) module_page(p, x.module, "lab." .. x[1]) end)
      add_functions(x[1], functions(x.module, "M"))
    elseif x.f then
      add(x[1], function(p) function_page(p, x.f, "lab") end)
    end
  end
  add("config", function(p) for _, x in ipairs(options_of "config") do block(p, x[1] .. ":\n" .. rows.help(x[2])) end end)
  for _, o in ipairs(M.OBJECTS) do
    add(o[1], function(p) object_page(p, o) end)
    add_functions(o[1], functions(o[3], o[2]))
  end
  for _, folder in ipairs { "", table.unpack(folders()) } do
    for _, name in ipairs(found((folder:gsub("%.", "/")))) do
      local module = folder == "" and name or folder .. "." .. name
      if not in_lab[module] then add(module, function(p) module_page(p, module, module) end) end
    end
  end
  for _, op in ipairs(core.ops()) do add(op.name, function(p) op_page(p, op) end) end
  for _, list in ipairs { core.attn.list(), core.attn.families() } do -- described by whatever name they go
    for _, v in ipairs(list) do add(v.name) end
  end
  for _, g in ipairs(groups()) do
    each_row(g[2], "", function(path, row)
      local function page(p) block(p, g[1] .. "\n" .. rows.help { row }) end
      add(path, page)
      add(g[3] .. "." .. path, page)
    end)
  end
  by_name, in_order = t, order
  return t
end

-- Everything a name can be asked by, for completion and nearest names.
function M.topics()
  topics()
  return { table.unpack(in_order) }
end

-- The topics whose last word is the name, where it is none itself: "calibrate", "s:calibrate".
local function by_last_word(name)
  local word, out = name:match "([%w_]+)$", {}
  for _, topic in ipairs(word and (name == word or name:find ":") and M.topics() or {}) do
    if topic:match "%.([%w_]+)$" == word then out[#out + 1] = topic end
  end
  return out
end

-- Lines of the overview, one for each { name, comment }.
local function one_line_each(list)
  local widest = 0
  for _, x in ipairs(list) do widest = math.max(widest, #x[1]) end
  local room, out = math.min(tables.columns(), 100) - widest - 4, {}
  for i, x in ipairs(list) do
    local first = comments.first(x[2])
    out[i] = { x[1], tables.width(first) <= room and first or tables.wrap(first, room - 4)[1]:gsub("[,;:({]*$", "") .. " ..." }
  end
  return tables.pairs(out)
end

-- What comes last is what a terminal still shows: what lab holds.
local function overview()
  local modules, others, objects, inside, ops, presets, shown = {}, {}, {}, {}, {}, {}, {}
  for _, x in ipairs(M.surface()) do
    local doc = x.module and comments.of_module(x.module).head or x.f and x.f.doc or {}
    local to = x.module and modules or others
    shown[x.module or ""] = true
    if not x.op then to[#to + 1] = { x[1], VALUES[x[1]] and { VALUES[x[1]] } or doc } end
  end
  for i, o in ipairs(M.OBJECTS) do objects[i] = { o[1], o[4] } end
  for _, name in ipairs(found "") do
    inside[#inside + 1] = not shown[name] and { name, comments.of_module(name).head } or nil
  end
  local below = {}
  for i, folder in ipairs(folders()) do below[i] = { folder .. ".", table.concat(found((folder:gsub("%.", "/"))), ", ") } end
  for i, op in ipairs(core.ops()) do ops[i] = op.name end
  for i, p in ipairs(core.attn.list()) do presets[i] = p.name end
  local function words(list) return table.concat(tables.wrap(table.concat(list, " "), tables.columns()), "\n") end
  return table.concat({ "configuration:\n" .. words(config.keys()), "attention presets:\n" .. words(presets), "ops:\n" .. words(ops),
    "modules inside, require \"attnlab.NAME\":\n" .. one_line_each(inside) .. "\n" .. tables.pairs(below),
    "what functions return, with methods of its own:\n" .. tables.pairs(objects),
    "lab.NAME, functions and values:\n" .. one_line_each(others), "lab.NAME, modules:\n" .. one_line_each(modules),
    'help "NAME" explains each of these, and "train.lr", "fork.calibrate", "denominator.sink"' }, "\n\n")
end

-- The pages of a name.
local function pages(name)
  local t = topics()
  local asked = t[name] and name or name:gsub("^lab%.", ""):gsub("^op%.", "")
  local out, known, text = { table.unpack(t[asked] or {}) }, pcall(core.attn.describe, asked)
  if known then out[#out + 1] = function(p) block(p, text) end end
  if #out > 0 then return out end
  for _, topic in ipairs(by_last_word(name)) do table.move(t[topic], 1, #t[topic], #out + 1, out) end
  if #out == 0 then
    local known = M.topics()
    for i = 1, #known do known[#known + 1] = known[i]:match "%.([%w_]+)$" end
    error("help: " .. names.unknown("name", name, known), 0)
  end
  return out
end

-- Text for a name, or for everything without one. Unknown names are errors with the nearest name.
function M.text(name)
  if name == nil then return overview() end
  if type(name) ~= "string" then error("help: a name expected, got " .. type(name), 0) end
  local out = {}
  for i, make in ipairs(pages(name)) do
    local page = {}
    make(page)
    out[i] = pages_of.plain(page)
  end
  return table.concat(out, "\n\n")
end

-- Everything as one page of markdown.
function M.markdown()
  local out = { "# attnlab\n" }
  local function chapter(name, list)
    out[#out + 1] = "\n## " .. name
    for _, make in ipairs(list) do
      local page = {}
      make(page)
      out[#out + 1] = pages_of.markdown(page)
    end
  end
  local modules, functions_of, objects, ops, presets = {}, {}, {}, {}, {}
  for _, x in ipairs(M.surface()) do
    if x.module then modules[#modules + 1] = function(p) module_page(p, x.module, "lab." .. x[1]) end end
    if x.f then functions_of[#functions_of + 1] = function(p) function_page(p, x.f, "lab") end end
  end
  for i, o in ipairs(M.OBJECTS) do
    objects[i] = function(p)
      title(p, ("%s: %s"):format(o[1], o[4]))
      for _, f in ipairs(functions(o[3], o[2])) do
        p[#p + 1] = { "text", { " " .. call_of(f, o[1]) } }
        lines(p, f.doc)
      end
    end
  end
  for i, op in ipairs(core.ops()) do ops[i] = function(p) op_page(p, op) end end
  for i, p in ipairs(core.attn.list()) do
    presets[i] = function(page)
      title(page, p.name)
      block(page, core.attn.describe(p.name))
    end
  end
  chapter("Modules", modules)
  chapter("Functions", functions_of)
  chapter("What they return", objects)
  chapter("Ops", ops)
  chapter("Configuration", { function(p) module_page(p, "config", "config") end })
  chapter("Attention presets", presets)
  out[#out + 1] = "\n## Commands\n"
  for _, c in ipairs(require("attnlab.cli").COMMANDS) do
    if not c.hidden then out[#out + 1] = "```text\n" .. require("attnlab.cli").command_help(c) .. "\n```" end
  end
  return table.concat(out, "\n") .. "\n"
end

return M
