-- States of the attention layer: the family's own, and the last inputs of the convolution. Part of
-- attention.lua, which has all of it under its own name.
local core = require "attnlab.core"
local options = require "attnlab.nn.attention_options"
local rows = require "attnlab.rows"
local State = require "attnlab.state"
local statefile = require "attnlab.statefile"

local M = {}

local CONV_DOC = "last inputs of the convolution"

-- st = layer:state{batch=2, replay=false}: the state of that many sequences (1) of which nothing has been seen.
-- replay: one that keeps all inputs of the family, for taps of it.
function M:state(opts)
  local o = State.options(opts, { batch = 1, replay = false })
  local batch = o.batch
  local parts = { { name = "attention", state = self.family:state { batch = batch, replay = o.replay } } }
  for _, which in ipairs(self.layer.conv > 1 and { "q", "k", "v" } or {}) do
    local channels = self.convolution[which].weight:size(2)
    parts[#parts + 1] = { name = "conv." .. which, doc = CONV_DOC, tensor = core.zeros {
      shape = { batch, self.layer.conv - 1, channels }, dtype = self.dtype, device = self.device } }
  end
  return State.new(self, 0, batch, parts)
end

function M:fresh(batch) -- as state.lua asks every owner
  return self:state { batch = batch }
end

-- What a file of a state has to say to fit this layer.
function M:state_description()
  local list, words = statefile.describe(self.family, {
    heads = self.heads, kv_heads = self.kv_heads, head_dim = self.head_dim,
    value_dim = self.head_dim, width = self.width }, self.dtype), {}
  for i, row in ipairs(options.rows) do
    words[i] = row.name .. "=" .. rows.show(self.layer[row.name])
  end
  list[#list + 1] = { "layer", table.concat(words, " ") }
  return list
end

function M:load_state(path)
  return State.load(self, path)
end

-- What a call from state st needs: { family = its state, tails, next }.
function M:begin(x, st, opts)
  State.check(st, self, x:size(1), "attention")
  if opts.lengths and (self.rotation or self.layer.conv > 1) then
    error("attention: lengths with a state: the layer has rotary positions or a convolution, which "
      .. "count the padding as well; give rows of full length", 0)
  end
  local run = { family = st.attention, tails = {}, next = {} }
  for _, which in ipairs { "q", "k", "v" } do
    local tail = st["conv." .. which]
    run.tails[which] = tail and opts.detach and tail:detach() or tail
  end
  return run
end

function M:finish(st, position, family, run)
  local parts = { { name = "attention", state = family } }
  for _, which in ipairs { "q", "k", "v" } do
    if run.next[which] then
      parts[#parts + 1] = { name = "conv." .. which, doc = CONV_DOC, tensor = run.next[which] }
    end
  end
  return State.new(self, position, st:batch(), parts)
end

-- Output for x, the next T tokens after state st, and the state after them: forward from a state.
function M:step(x, st)
  return self:forward(x, { state = st })
end

return M
