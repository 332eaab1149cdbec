-- LanguageModel: token ids -> hidden states -> logits -> loss; its state from token to token, its plan, files, forks
-- and text. ids i32 (B,T) -> logits (B,T,vocab). What is one architecture's own is one file of model/arch/, known by
-- its name, which returns a class:
--
--   local Mine = LanguageModel.class "Mine"
--   function Mine.new(m, attention, opts)     m: resolved model options; attention: the resolved spec
--     local self = LanguageModel.create(Mine, m, attention, opts)
--     self.embedding = self:child(..)         ids -> (B,T,width); where the model is tied its weight is the head, too
--     self:add_layers("model.layers.", Block) Block(m, spec, opts): a module that has its nn.Attention as .attention
--     self.norm = self:child(..)              of nn.RMSNorm or nn.LayerNorm
--     self.head = self:child(..)              nil: tied
--     return self
--   end
--
-- and, where the positions of tokens are learned, Mine:embed and Mine:has_positions; Mine.places_by_row = true says that
-- embed takes positions that differ from row to row, as packed rows have them. Mine.defaults = { model = {..},
-- attention = {..} } are options where a configuration does not say them. Mine.takes = { mlp_bias = true,
-- activation = { "silu", .. } } names the options marked `some` in settings.lua that it has, of words those it knows.
-- A block is called as
-- block(x, a, opts) with the residual stream x (B,T,width) and what the block before still adds to it, or nil: it
-- returns the same pair behind it, so that each sum is made in one pass with the norm that reads it
-- (norm:add(x, a) -> sum, normed), and the attention's next state, where opts has one. The norm behind attention is
-- given opts.taps["residual.mid"], where there are taps, as a third argument; all other taps come by themselves.
local core = require "attnlab.core"
local maps = require "attnlab.attention_map"
local config = require "attnlab.config"
local devices = require "attnlab.devices"
local Documents = require "attnlab.nn.documents"
local generate = require "attnlab.generate"
local names = require "attnlab.names"
local nn = require "attnlab.nn"
local plugins = require "attnlab.plugins"
local rows = require "attnlab.rows"
local State = require "attnlab.state"
local tap = require "attnlab.model.tap"
local taps = require "attnlab.nn.taps"
local surgery = require "attnlab.surgery"
local trace = require "attnlab.trace"
local Module = nn.Module

local LAYER = "layer." -- parts of a state: layer.1, layer.2, ..

local LanguageModel = Module.class "LanguageModel"
LanguageModel.causal = true -- no token sees a later one

-- A new architecture's class.
function LanguageModel.class(name)
  return Module.class(name, LanguageModel)
end

-- Refuses an option of m that is not the default and nothing to this architecture.
local function check_taken(class, m)
  for _, row in ipairs(config.rows.model) do
    local v, taken = m[row.name], class.takes and class.takes[row.name]
    if row.some and v ~= nil and v ~= rows.default(row) and not (taken == true or taken and names.find(taken, v)) then
      error(("model: option '%s': the architecture '%s' %s, got %s"):format(row.name, m.arch,
        taken and "knows " .. table.concat(taken, ", ") or "has no other than " .. row.default, rows.show(v)), 0)
    end
  end
end

-- opts: seed, dtype, device, vocabulary.
function LanguageModel.create(class, m, attention, opts)
  check_taken(class, m)
  local self = Module.create(class, { seed = opts.seed, dtype = opts.dtype, device = opts.device })
  self.config, self.spec, self.vocabulary = config.copy(m), config.copy(attention), opts.vocabulary
  self.layers = {}
  return self
end

-- The blocks of all layers, their tensors named <prefix>0.<..>, <prefix>1.<..>
function LanguageModel:add_layers(prefix, Block)
  for i = 1, self.config.layers do
    local key = prefix .. i - 1
    self.layers[i] = self:child(key, Block(self.config, config.attention_of(self.spec, i), self:part(key)))
  end
end

-- ---- ids to logits --------------------------------------------------------------------------------

local function row_of(ids, where, what)
  for i, id in ipairs(ids) do
    if math.tointeger(id) == nil then
      error(("forward: %s: integers expected, got %s at %s%d"):format(what, tostring(id), where, i), 0)
    end
  end
end

-- Internal: ids from a list, a list of equally long lists, or an i32 tensor (T) or (B,T), as a tensor (B,T).
function LanguageModel.as_ids(ids, what)
  if type(ids) == "table" then
    local batch = type(ids[1]) == "table" and ids or { ids }
    local flat, T = {}, #batch[1]
    for b, row in ipairs(batch) do
      if type(row) ~= "table" or #row ~= T then
        error(("forward: %s: rows of one length expected, row %d has %s, row 1 has %d")
          :format(what, b, type(row) == "table" and #row or type(row), T), 0)
      end
      row_of(row, #batch > 1 and b .. "," or "", what)
      table.move(row, 1, T, #flat + 1, flat)
    end
    ids = core.tensor { data = flat, shape = { #batch, T }, dtype = "i32" }
  elseif type(ids) ~= "userdata" then
    error(("forward: %s: i32 tensor or nested table expected, got %s"):format(what, type(ids)), 0)
  elseif ids:dtype() ~= "i32" then
    error(("forward: %s: i32 needed, got %s (cast it first)"):format(what, ids:dtype()), 0)
  elseif ids:ndim() == 1 then
    ids = ids:reshape { shape = { 1, ids:size(1) } }
  end
  if ids:ndim() ~= 2 then
    error(("forward: %s: shape (B,T) expected, got (%s)")
      :format(what, table.concat(ids:shape(), ",")), 0)
  end
  return ids
end

-- Internal: the number of tokens; those that the context has no room for are refused.
function LanguageModel:check_length(T, st)
  local context = self.config.context
  if T == 0 then error("forward: ids: at least one token expected, got none", 0) end
  if st and (st.beyond or not self:has_positions()) then return T end
  if not st and T > context then
    error(("forward: ids: %d tokens are longer than the context of %d"):format(T, context), 0)
  elseif st and st:position() + T > context then
    error(("forward: ids: %d tokens after %d are beyond the context of %d, whose positions the model"
      .. " knows; state{beyond=true} lets them run on"):format(T, st:position(), context), 0)
  end
  return T
end

-- Options of layer i: its own part of the state, and its own taps.
local function options_of(i, opts, st, own, documents)
  if not (st or own or documents or opts and opts.taps) then return opts end
  return setmetatable({ state = st and st[LAYER .. i], taps = own or false, documents = documents }, { __index = opts })
end

-- The sum of a residual stream and what is to be added to it, as its tap leaves it.
local function summed(own, name, x, a)
  local f = own and own[name]
  if not f then return x, a end
  return taps.at(own, name, a and x + a or x), nil
end

-- The residual stream that the first block sees, of ids (B,T) behind `at` others; or where `positions` (B,T) i32 has
-- each, for an architecture whose positions are learned. own: of hidden.
function LanguageModel:embed(ids, at, positions, own)
  return self.embedding(ids)
end

-- Final normed hidden states (B,T,width). opts go to the attention layers (causal, lengths, documents); opts.taps: tables
-- by layer of functions by tap (nn/taps.lua). opts.state: ids go on from it, and the next state is the second result. own:
-- what an architecture's own forward hands to its embed.
function LanguageModel:hidden(ids, opts, own)
  ids = LanguageModel.as_ids(ids, "ids")
  nn.Attention.check_forward(opts)
  local st, parts = opts and opts.state, {}
  if st then State.check(st, self, ids:size(1), "forward") end
  local T = self:check_length(ids:size(2), st)
  local first, all_taps = st and st:position() or 0, taps.over_layers(self.patches, opts and taps.checked(opts.taps, #self.layers))
  local documents = Documents.of(opts and opts.documents, ids)
  local at, positions = self:places(T, st, documents)
  local x, a = self:embed(ids, at, positions, own), nil
  for i, block in ipairs(self.layers) do
    local of_layer = all_taps and taps.behind(all_taps[i], first)
    x, a = summed(of_layer, "residual.pre", x, a)
    local y, b, after = block(x, a, options_of(i, opts, st, of_layer, documents))
    parts[i] = { name = LAYER .. i, state = after }
    if not rawequal(x, y) then x:free() end
    if a then a:free() end
    x, a = summed(of_layer, "residual.post", y, taps.at(of_layer, "mlp", b))
  end
  local sum <close>, h = self.norm:add(x, a)
  x:free()
  if a then a:free() end
  return h, st and self:made(Documents.after(first, T, documents), st:batch(), parts, st.beyond) or nil
end

-- Internal: what embed is told of the places of T tokens.
function LanguageModel:places(T, st, documents)
  local own, first = self.embed ~= LanguageModel.embed, st and st:position() or 0
  if not own then return first end
  local at, positions = Documents.places(T, st and st[LAYER .. 1].attention, documents)
  if positions and not self.places_by_row then
    error(("forward: %s: the architecture '%s' knows no positions that differ from row to row"):format(
      documents and "documents" or "state", self.config.arch), 0)
  end
  return at, positions
end

-- Logits (B,T,vocab) of hidden states.
function LanguageModel:logits(h)
  if self.head then return self.head(h) end
  return h:matmul(self.embedding.weight, { transpose_b = true })
end

-- Logits (B,T,vocab). opts: causal, lengths, documents, taps; state: ids are the next tokens of its
-- sequences, and the state after them is the second result. Gradients flow through states into the
-- calls that made them, unless detach is set (truncated backpropagation through time).
function LanguageModel:forward(ids, opts)
  local hidden, after = self:hidden(ids, opts)
  local h <close> = hidden
  return self:logits(h), after
end

-- Mean cross entropy in nats of targets y (B,T) given ids x (B,T); the next state as forward.
function LanguageModel:loss(x, y, opts)
  local forward, after = self:forward(x, opts)
  local logits <close> = forward
  return logits:cross_entropy(y), after
end

-- Internal: the next batch x, y, more of draw(), as the model learns from it; nil: there is none. What it makes of texts by chance
-- is a function of (seed, index). more: options of loss, tensors with an entry a row.
function LanguageModel:examples(draw, seed, index) return draw() end

-- Internal: ids of a model that reads this vocabulary.
function LanguageModel.size_of(vocabulary) return vocabulary:size() end

-- ---- decoding -------------------------------------------------------------------------------------

-- Internal: a state of its layers' states; beyond: positions past the context are taken.
function LanguageModel:made(position, batch, parts, beyond)
  local st = State.new(self, position, batch, parts)
  st.beyond = beyond
  return st
end

-- Whether states keep all inputs of layer i, because taps of its family are patched.
function LanguageModel:replays(i)
  return taps.inner(self.patches and self.patches[i]) ~= nil
end

-- The state of `batch` sequences of which nothing has been seen. beyond: tokens may come after the
-- context's end, at positions that no training has shown; where no layer has rotary positions they
-- always may.
function LanguageModel:state(opts)
  local o = State.options(opts, { batch = 1, beyond = false })
  local parts = {}
  for i, block in ipairs(self.layers) do
    parts[i] = { name = LAYER .. i, state = block.attention:state { batch = o.batch, replay = self:replays(i) } }
  end
  return self:made(0, o.batch, parts, o.beyond)
end

-- Internal: an empty state, as state.lua asks every owner.
function LanguageModel:fresh(batch)
  return self:state { batch = batch }
end

-- Internal: what a state of it is of, for the files of states: { {key, value}, .. }.
function LanguageModel:state_description()
  local list = { { "layers", tostring(#self.layers) } }
  for i, block in ipairs(self.layers) do
    for _, d in ipairs(block.attention:state_description()) do
      list[#list + 1] = { LAYER .. i .. "." .. d[1], d[2] }
    end
  end
  return list
end

-- The state of a file that st:save(path) wrote.
function LanguageModel:load_state(path)
  return State.load(self, path)
end

-- Logits (B,T,vocab) of the next tokens, any number of them, and the state behind them. Records
-- nothing, so that a long text holds no more than its state.
function LanguageModel:step(ids, st)
  return core.no_grad(self.forward, self, ids, { state = st })
end

-- Whether tokens have positions, which training shows up to the context: a layer turns queries and keys by them.
function LanguageModel:has_positions()
  for _, block in ipairs(self.layers) do
    if block.attention.rotation then return true end
  end
  return false
end

-- Bytes a sequence carries from token to token, all layers, at position t.
function LanguageModel:state_bytes(t)
  local n = 0
  for i, block in ipairs(self.layers) do n = n + block.attention:state_bytes(t, self:replays(i)) end
  return n
end

-- What attention runs for T tokens and why, one line for each plan that occurs among the layers. opts: packed=true, of rows
-- that hold several documents.
function LanguageModel:plan(T, opts)
  local seen, list = {}, {}
  for i, block in ipairs(self.layers) do
    local text = self:composed(i) or block.attention.family:plan(T, opts)
    if not seen[text] then seen[text], list[#list + 1] = true, ("layer %d: %s"):format(i, text) end
  end
  return table.concat(list, "\n")
end

-- Internal: what layer i runs because patches of its family's taps ask for it, as text; nil: what it runs anyway.
function LanguageModel:composed(i)
  local asked = {}
  for _, name in ipairs(names.keys(taps.inner(self.patches and self.patches[i]) or {})) do
    if taps.row(self, i, name, "plan").composed then asked[#asked + 1] = name end
  end
  return #asked > 0 and "parallel, composed: patched at " .. table.concat(asked, ", ") or nil
end

-- Where activations can be read and, on forks, patched: by name, with layers, shape and family. As text a table.
function LanguageModel:taps() return tap.list(self) end

-- m:tap{text=, name=, layer=, head=, grad=}: activations of a text, and the gradient of its loss: see model/tap.lua.
function LanguageModel:tap(opts) return tap.read(self, opts) end

-- m:attention_map{text=, layer=, head=}, m:map for short: which keys the rows of a text read: see attention_map.lua.
function LanguageModel:attention_map(opts) return maps.of(self, opts) end
LanguageModel.map = LanguageModel.attention_map

-- m:trace(text, {"denominator", "entropy", layer=2, head=3}): what attention does token by token: see trace.lua.
function LanguageModel:trace(text, opts) return trace(self, text, opts) end

-- m:generate{prompt=, prompts=, samples=, tokens=, repetition_penalty=, temperature=, top_k=, top_p=, min_p=, seed=,
-- stop=, bos=, eos=, on_token=, on_text=, past_context=}: see generate.lua.
function LanguageModel:generate(opts)
  return generate.run(self, opts)
end

-- The same model to operate on, in this one's memory until either is written: see surgery.lua.
function LanguageModel:fork()
  return surgery.fork(self)
end

-- The plug-ins that families of its layers came from; nil: none.
local function plugins_of(self)
  local families = {}
  for _, block in ipairs(self.layers) do
    local own = nn.Attention.families_of(block.attention.family)
    table.move(own, 1, #own, #families + 1, families)
  end
  return plugins.of(families)
end

-- Internal: metadata that lets model.load rebuild this model.
function LanguageModel:metadata()
  return { attnlab = core.json.encode {
    version = core.version, model = self.config, attention = self.spec, seed = self.seed,
    dtype = self.dtype, vocabulary = self.vocabulary and self.vocabulary:metadata(), plugins = plugins_of(self),
    trained_on = self.trained_on, hub = self.hub and self.hub.type } }
end

-- Writes a file that lab.model.load reads: weights, configuration, vocabulary; a tokenizer's files lie in a folder beside it.
function LanguageModel:save(path)
  if self.patches then
    error("save: its activations are patched, which the file would not say: undo the patches first", 2)
  end
  if self.vocabulary then self.vocabulary:save_beside(path) end
  core.safetensors.save(path, self:tensors(), self:metadata())
end

-- Writes the folder of a model as Hugging Face has it, which transformers and lab.model.load read, or a .bin of llama2.c's.
-- opts: dtype, shard, overwrite (model/hub/init.lua).
function LanguageModel:export(folder, opts)
  require "attnlab.model.hub".write(self, folder, opts)
end

-- What makes tensors makes them where the model lies.
devices.wrap(LanguageModel, { "hidden", "logits", "forward", "loss", "state", "load_state", "tap", "attention_map", "map",
                              "trace", "generate", "export" })

return LanguageModel
