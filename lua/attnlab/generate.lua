-- Text from a model, decoded by its state: the prompt runs at once, then every token by itself.
--   prompt       text, or an array of ids; default: the tokenizer's start, else a new line, else the first character
--   prompts      several of them, each with a text of its own: they are written together, and each ends by itself
--   samples      texts of every prompt (1)
--   tokens       how many to add to each (256)
--   repetition_penalty, temperature, top_k, top_p, min_p
--                what they mean, in this order, is what Hugging Face transformers' processors do. A positive logit of
--                an id that the text has (prompt included) is divided by the penalty, a negative one multiplied (1:
--                none). Logits are divided by the temperature; 0 = the likeliest token (default), no filter counts
--                then. top_k: none less likely than the k-th (0: all). top_p: of what is left, the likeliest down to
--                the first with which they have that share of the probability (1: all). min_p: of these none whose
--                probability is below this part of the likeliest's (0: all)
--   seed         of the samples (1); text i of several has seed + i - 1. Token n of a text is a function of (its seed,
--                n) and the logits, however many are written at once
--   bos          true: the ids begin with the tokenizer's start, false: they do not; default: as the tokenizer has it
--   eos          id that ends a text, or an array of some; false = none; default: the tokenizer's
--   stop         a string or an array: a text ends before the first of them that it would have behind the prompt
--   on_token     function(piece, id, i), called for each new token of text i
--   on_text      function(text, i): the same as text, whole characters that no stop string will take back
--   past_context what follows when the context is full:
--                "slide"     the state is made again from the last half of the context, once in that
--                            many tokens, so that no position is new to the model
--                "continue"  positions run on: nothing is forgotten, but rotary positions beyond the
--                            context were never trained
--                "stop"      the text ends
--                default: "slide" where layers have rotary positions, else "continue"
-- Ids that a tokenizer smaller than the model has no text for are not chosen. There are no chat templates: a prompt is
-- text as it stands. Logits that are not finite end it with an error.
-- Returns the text (nil without a vocabulary), the array of all ids, and what it took: { tokens=,
-- prompt_tokens=, prompt_seconds=, seconds=, tokens_per_s=, state_bytes=, position=, cache= (names of
-- what grows with the text, or nil), bytes_per_token= of it, slides=, no_state=, finished= }. seconds and
-- tokens_per_s are of the tokens behind the prompt, of all texts. no_state: why the model has none that fits into
-- memory; then the last `context` tokens run again for every token, and past_context may only be
-- "slide" (by one token) or "stop". finished: "tokens", "eos", "stop", "context" or "interrupted".
-- With prompts or samples: arrays of texts, of ids, and what it took, with an array finished. A text of several is
-- that of its prompt alone up to the rounding of products of other sizes (generate/decoder.lua).
local core = require "attnlab.core"
local decoder = require "attnlab.generate.decoder"
local interrupts = require "attnlab.interrupts"
local options = require "attnlab.generate.options"
local stream = require "attnlab.generate.stream"
local tables = require "attnlab.table"

local M = { options = options }

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

-- Token n of text b, of the logits that a row of a tensor has.
local function choose(logits, o, b, n, ids)
  if o.sampling.temperature > 0 then
    local u <close> = core.rand { shape = { 1 }, dtype = "f64", seed = o.seed + b - 1, device = "cpu",
                                  stream = "generate." .. n }
    o.sampling.u = u:item()
  end
  local ok, id = pcall(core.sample, logits, o.sampling, o.sampling.repetition_penalty ~= 1 and ids or nil)
  if ok then return id end
  M.expect_finite(logits:flat(), "generate: token " .. n)
  error(id, 0)
end

local Report = { __tostring = function(r) return M.summary(r) end }

local function report(decode, prompt, total)
  local st = decode.state
  local r = setmetatable({ tokens = total - prompt, prompt_tokens = prompt, prompt_seconds = decode.prompt_seconds,
              seconds = decode.seconds, tokens_per_s = decode.n > 0 and decode.later / decode.seconds or nil,
              slides = decode.slides, no_state = decode.no_state }, Report)
  if st and st:position() > 0 then
    r.state_bytes, r.position = st:bytes(), st:position()
    r.cache, r.bytes_per_token = st:cache()
  end
  if st then st:free() end
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

-- Writes all texts until each has ended. stop: whether somebody interrupted. Returns how each ended.
local function write(o, vocabulary, decode, streams, stop)
  local finished, made = {}, {}
  local function ends(b, why)
    finished[b] = why
    decode:drop(b)
  end
  local function add(b, logits)
    local ids = o.rows[b]
    local id = choose(logits, o, b, made[b] + 1, ids)
    if o.ends[id] then return ends(b, "eos") end
    ids[#ids + 1], made[b] = id, made[b] + 1
    if made[b] > 1 then decode.later = decode.later + 1 end
    if o.on_token then o.on_token(vocabulary and vocabulary:piece(id), id, b) end
    if streams[b] and streams[b]:add() then return ends(b, "stop") end
    if made[b] == o.tokens then ends(b, "tokens") end
  end
  for b in ipairs(o.rows) do
    made[b] = 0
    if o.tokens == 0 then ends(b, "tokens") end
  end
  while #decode.live > 0 do
    local given, list, why = nil, nil, "interrupted"
    if not stop() then
      given, list = decode:logits()
      why = "context"
    end
    if not given then
      for i = #decode.live, 1, -1 do ends(decode.live[i], why) end
      break
    end
    local there <close> = given
    local here <close> = there:device() ~= "cpu" and there:to "cpu" or nil
    local known = math.min(there:size(2), vocabulary and vocabulary:size() or math.huge)
    for i, b in ipairs(table.move(list, 1, #list, 1, {})) do -- which may change meanwhile
      if not finished[b] and not decode:waits(b) then
        local row <close> = (here or there)[{ i, { 1, known } }]
        add(b, row)
      end
    end
  end
  return finished
end

-- The text of row b; begins: that of its prompt.
local function text_of(vocabulary, ids, begins, how, written)
  if not vocabulary then return nil end
  if not (written and (written:close() or how == "stop")) then return vocabulary:decode(ids) end
  return begins .. written:text(), "stop"
end

function M.run(m, opts)
  local o, vocabulary, mode = options(m, opts), m.vocabulary, m.training
  local begins, streams, prompt = {}, {}, 0
  for b, ids in ipairs(o.rows) do
    prompt = prompt + #ids
    if o.on_text or #o.stop > 0 then
      begins[b] = vocabulary:decode(ids)
      streams[b] = stream(vocabulary, ids, o.stop, o.on_text and function(text) o.on_text(text, b) end)
    end
  end
  m:eval()
  local decode, finished
  local ok, message = pcall(core.no_grad, interrupts.work_at_prompt, function(stop)
    decode = decoder(m, o.rows, o.past)
    finished = write(o, vocabulary, decode, streams, stop)
  end)
  m:train(mode)
  if not ok then error(message, 0) end
  local texts, total = {}, 0
  for b, ids in ipairs(o.rows) do
    local text, how = text_of(vocabulary, ids, begins[b], finished[b], streams[b])
    texts[b], finished[b], total = text, how or finished[b], total + #ids
  end
  local interrupted = false
  for _, how in ipairs(finished) do interrupted = interrupted or how == "interrupted" end
  local took = report(decode, prompt, total)
  local text, ids = texts, o.rows
  took.finished = finished
  if not o.many then text, ids, took.finished = texts[1], o.rows[1], finished[1] end
  if interrupted then interrupts.note(text or ids) end
  return text, ids, took
end

return M
