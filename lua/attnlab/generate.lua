-- Text from a model, decoded by its state: the prompt runs at once, then every token by itself.
--   prompt       text, or an array of ids; default: the tokenizer's start, else a new line, else the first character
--   tokens       how many to add (256)
--   temperature  0 = the likeliest token (default); else samples from softmax(logits / temperature)
--   top_k        samples among the k likeliest; 0 = all
--   seed         of the samples (1): token n is a function of (seed, n) and the logits
--   eos          id that ends the text; false = none; default: the end token of a llama2.c table
--   on_token     function(piece, id), called for each new token
--   past_context what follows when the context is full:
--                "slide"     the state is made again from the last half of the context, once in that
--                            many tokens, so that no position is new to the model
--                "continue"  positions run on: nothing is forgotten, but rotary positions beyond the
--                            context were never trained
--                "stop"      the text ends
--                default: "slide" where layers have rotary positions, else "continue"
-- Logits that are not finite end it with an error.
-- Returns the text (nil without a vocabulary), the array of all ids, and what it took: { tokens=,
-- prompt_tokens=, prompt_seconds=, seconds=, tokens_per_s=, state_bytes=, position=, cache= (names of
-- what grows with the text, or nil), bytes_per_token= of it, slides=, no_state= }. seconds and
-- tokens_per_s are of the tokens behind the prompt. no_state: why the model has none that fits into
-- memory; then the last `context` tokens run again for every token, and past_context may only be
-- "slide" (by one token) or "stop".
local core = require "attnlab.core"
local interrupts = require "attnlab.interrupts"
local names = require "attnlab.names"
local tables = require "attnlab.table"

local M = {}

local KNOWN = { "prompt", "tokens", "temperature", "top_k", "seed", "eos", "on_token",
                "past_context" }
local PAST = { "slide", "continue", "stop" }

local function number(opts, key, default, least)
  local v = opts[key]
  if v == nil then return default end
  if type(v) ~= "number" or not (v >= least) or v == math.huge then
    error(("generate: option '%s': number >= %g expected, got %s")
      :format(key, least, tostring(v)), 0)
  end
  return v
end

local function whole(opts, key, default, least)
  local v = math.tointeger(number(opts, key, default, least))
  if not v then
    error(("generate: option '%s': a whole number expected, got %s"):format(key, tostring(opts[key])), 0)
  end
  return v
end

local function start(m, prompt)
  if type(prompt) == "table" then return table.move(prompt, 1, #prompt, 1, {}) end
  local v = m.vocabulary
  if not v then
    error("generate: the model has no vocabulary: tokenizer=FILE names one, or give the prompt as a list of ids", 0)
  end
  if prompt == nil and v.bos then return { v.bos } end
  if prompt == nil then prompt = v:has "\n" and "\n" or v:piece(0) end
  if type(prompt) ~= "string" then
    error("generate: option 'prompt': text or list of ids expected, got " .. type(prompt), 0)
  end
  return v:encode(prompt):flat()
end

-- Refuses n logits behind the first `from` (0) ones of which one is not finite: no choice among them means
-- anything.
function M.expect_finite(logits, where, from, n)
  from = from or 0
  for i = from + 1, from + (n or #logits) do
    local v = logits[i]
    if not (v > -math.huge and v < math.huge) then
      error(("%s: the logit of id %d is %s: the model's numbers left their range"):format(where, i - from - 1,
        v ~= v and "nan" or tostring(v)), 0)
    end
  end
end

local function likeliest(logits)
  local best = 1
  for i = 2, #logits do
    if logits[i] > logits[best] then best = i end
  end
  return best - 1
end

local function sample(logits, temperature, top_k, u)
  local order = {}
  for i = 1, #logits do order[i] = i end
  table.sort(order, function(a, b)
    if logits[a] ~= logits[b] then return logits[a] > logits[b] end
    return a < b
  end)
  local n = top_k > 0 and math.min(top_k, #order) or #order
  local highest, total, weight = logits[order[1]], 0, {}
  for i = 1, n do
    weight[i] = math.exp((logits[order[i]] - highest) / temperature)
    total = total + weight[i]
  end
  local left = u * total
  for i = 1, n do
    left = left - weight[i]
    if left < 0 then return order[i] - 1 end
  end
  return order[n] - 1
end

local function check(opts)
  for k in pairs(opts) do
    local known = false
    for _, name in ipairs(KNOWN) do known = known or name == k end
    if not known then error("generate: " .. names.unknown("option", k, KNOWN), 0) end
  end
end

-- ---- the state of one sequence, with its end of the context ---------------------------------------

local Decoder = {}
Decoder.__index = Decoder

local function past_of(m, past)
  if past == nil then past = m:has_positions() and "slide" or "continue" end
  local known = false
  for _, word in ipairs(PAST) do known = known or past == word end
  if not known then
    error("generate: option 'past_context': " .. names.unknown("word", tostring(past), PAST), 0)
  end
  return past
end

local function decoder(m, past)
  return setmetatable({ m = m, past = past, fed = 0, seconds = 0, n = 0, slides = 0 }, Decoder)
end

-- Runs ids first..last through the model; their last logits.
function Decoder:feed(ids, first, last)
  local part = table.move(ids, first, last, 1, {})
  local h <close>, after = self.m:hidden(part, self.state and { state = self.state } or nil)
  if self.state then self.state:free() end
  self.state = after
  local final <close> = h[{ {}, #part }]
  local scores <close> = self.m:logits(final)
  return scores:flat()
end

function Decoder:restart(ids, length)
  if self.state then self.state:free() end
  local ok, st = pcall(self.m.state, self.m, { beyond = self.past == "continue" })
  if ok then
    self.state = st
  elseif tostring(st):find "interrupted$" then
    error(st, 0)
  else
    self.state, self.no_state = nil, (tostring(st):gsub("^%S+:%d+: ", ""))
    if self.past == "continue" then
      if self.m:has_positions() then error("generate: past_context=continue needs a state: " .. self.no_state, 0) end
      self.past = "slide"
    end
    length = math.min(length, self.m.config.context)
  end
  return self:feed(ids, math.max(1, #ids - length + 1), #ids)
end

-- Logits behind the last of ids; nil where the text has to stop. One token is new, or all are.
function Decoder:logits(ids)
  local began, context = core.sys.clock(), self.m.config.context
  local logits
  if self.no_state then
    if self.past == "slide" or #ids <= context then
      logits = self:feed(ids, math.max(1, #ids - context + 1), #ids)
    end
  elseif not self.state then
    if self.past == "stop" and #ids > context then
      error(("generate: the prompt of %d tokens is longer than the context of %d")
        :format(#ids, context), 0)
    end
    logits = self:restart(ids, self.past == "continue" and #ids or context)
    self.prompt_seconds = core.sys.clock() - began
    return logits
  elseif self.past == "continue" or self.state:position() < context then
    logits = self:feed(ids, #ids, #ids)
  elseif self.past == "slide" then
    self.slides = self.slides + 1
    logits = self:restart(ids, math.max(1, context // 2))
  end
  self.n, self.seconds = self.n + (logits and 1 or 0), self.seconds + core.sys.clock() - began
  return logits
end

local Report = { __tostring = function(r) return M.summary(r) end }

function Decoder:report(prompt, total)
  local st = self.state
  local r = setmetatable({ tokens = total - prompt, prompt_tokens = prompt, prompt_seconds = self.prompt_seconds,
              seconds = self.seconds, tokens_per_s = self.n > 0 and self.n / self.seconds or nil,
              slides = self.slides, no_state = self.no_state }, Report)
  if not st then return r end
  r.state_bytes, r.position = st:bytes(), st:position()
  r.cache, r.bytes_per_token = st:cache()
  st:free()
  return r
end

-- A line about what M.run reported.
function M.summary(r)
  local parts = { ("%d tokens"):format(r.tokens) }
  if r.tokens_per_s then
    parts[#parts + 1] = ("%.1f token/s behind the prompt's %d in %.3f s"):format(r.tokens_per_s,
      r.prompt_tokens, r.prompt_seconds)
  end
  if r.state_bytes then
    parts[#parts + 1] = ("state %s at position %d: %s"):format(tables.human(r.state_bytes, true),
      r.position, r.cache and ("a cache of %s, %.0f bytes a token"):format(table.concat(r.cache, ", "),
        r.bytes_per_token) or "finite, it does not grow")
  end
  if r.no_state then
    parts[#parts + 1] = "no state, the context runs again for every token: " .. r.no_state
  end
  if r.slides > 0 then
    parts[#parts + 1] = ("context full %d time%s"):format(r.slides, r.slides == 1 and "" or "s")
  end
  return table.concat(parts, "; ")
end

-- What the options mean for the model: those given, checked, the others as they are without; ids = the prompt's.
function M.options(m, opts)
  opts = names.options("generate", opts)
  check(opts)
  local o = { tokens = whole(opts, "tokens", 256, 0), top_k = whole(opts, "top_k", 0, 0),
              temperature = number(opts, "temperature", 0, 0), seed = whole(opts, "seed", 1, 0), eos = opts.eos,
              ids = start(m, opts.prompt), past = past_of(m, opts.past_context), on_token = opts.on_token }
  if o.eos == nil and m.vocabulary then o.eos = m.vocabulary.eos end
  if #o.ids == 0 then error("generate: the prompt is empty", 0) end
  return o
end

function M.run(m, opts)
  local o, vocabulary = M.options(m, opts), m.vocabulary
  local ids, tokens, temperature, top_k, seed, eos = o.ids, o.tokens, o.temperature, o.top_k, o.seed, o.eos
  local prompt, mode, decode = #ids, m.training, decoder(m, o.past)
  m:eval()
  local stopped
  local function decode_all(stop)
    for n = 1, tokens do
      stopped = stop()
      if stopped then break end
      local logits, id = decode:logits(ids), nil
      if not logits then break end
      M.expect_finite(logits, "generate: token " .. n)
      if temperature == 0 then
        id = likeliest(logits)
      else
        local u <close> = core.rand { shape = { 1 }, dtype = "f64", seed = seed, device = "cpu",
                                      stream = "generate." .. n }
        id = sample(logits, temperature, top_k, u:item())
      end
      -- a start token in the middle begins another text
      if eos and (id == eos or (vocabulary and id == vocabulary.bos)) then break end
      ids[#ids + 1] = id
      if o.on_token then o.on_token(vocabulary and vocabulary:piece(id), id) end
    end
  end
  local ok, message = pcall(core.no_grad, interrupts.work_at_prompt, decode_all)
  m:train(mode)
  if not ok then error(message, 0) end
  local text = vocabulary and vocabulary:decode(ids)
  if stopped then interrupts.note(text or ids) end
  return text, ids, decode:report(prompt, #ids)
end

return M
