-- What the options of generate.lua mean for a model: those given, checked, the others as they are without.
local names = require "attnlab.names"
local rows = require "attnlab.rows"

local KNOWN = { "prompt", "prompts", "samples", "tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty",
                "seed", "bos", "eos", "stop", "on_token", "on_text", "past_context" }
local PAST = { "slide", "continue", "stop" }

local MOST_SEED = 1 << 53 -- that random streams take
local MOST_TEXTS = 1 << 20 -- at once, each of which has a state

local function refuse(key, want, got)
  error(("generate: option '%s': %s expected, got %s"):format(key, want, tostring(got)), 0)
end

local function number(opts, key, default, least, most)
  local v = opts[key]
  if v == nil then return default end
  if type(v) ~= "number" or not (v >= least) or v == math.huge then refuse(key, ("number >= %g"):format(least), v) end
  if most and v > most then refuse(key, ("number from %s to %s"):format(rows.show(least), rows.show(most)), rows.show(v)) end
  return v
end

local function whole(opts, key, default, least, most)
  local v = math.tointeger(number(opts, key, default, least, most))
  if not v then refuse(key, "a whole number", opts[key]) end
  return v
end

local function past_of(m, past)
  if past == nil then past = m:has_positions() and "slide" or "continue" end
  if not names.find(PAST, past) then
    error(("generate: option 'past_context': " .. names.unknown("word", tostring(past), PAST)), 0)
  end
  return past
end

-- Ids of a prompt: as the tokenizer begins a text, or as option bos says.
local function begin(m, prompt, bos)
  local v, ids = m.vocabulary, nil
  if type(prompt) == "table" then
    ids = table.move(prompt, 1, #prompt, 1, {})
  elseif not v then
    error("generate: the model has no vocabulary: tokenizer=FILE names one, or give the prompt as a list of ids", 0)
  elseif prompt == nil and v.bos and bos ~= false then
    ids = { v.bos }
  else
    if prompt == nil then prompt = v:has "\n" and "\n" or v:piece(0) end
    if type(prompt) ~= "string" then refuse("prompt", "text or list of ids", type(prompt)) end
    ids = v:encode(prompt):flat()
    if bos == false and v.bos and ids[1] == v.bos then table.remove(ids, 1) end
    if v.eos and #ids > 1 and ids[#ids] == v.eos then table.remove(ids) end -- a template's end: the text goes on
  end
  if bos == true then
    if not (v and v.bos) then error("generate: option 'bos': the tokenizer has no start token", 0) end
    if ids[1] ~= v.bos then table.insert(ids, 1, v.bos) end
  end
  if #ids == 0 then error("generate: the prompt is empty", 0) end
  return ids
end

-- Every text's prompt as ids: the samples of a prompt behind one another.
local function rows_of(m, opts)
  local list, samples = opts.prompts, whole(opts, "samples", 1, 1, MOST_TEXTS)
  if list ~= nil and opts.prompt ~= nil then error("generate: options 'prompt' and 'prompts': one of them expected, got both", 0) end
  if list ~= nil and (type(list) ~= "table" or #list == 0) then refuse("prompts", "an array of prompts", type(list) == "table" and "none" or list) end
  local rows = {}
  for i = 1, list and #list or 1 do
    local prompt = opts.prompt
    if list then prompt = list[i] end
    for _ = 1, samples do rows[#rows + 1] = begin(m, prompt, opts.bos) end
  end
  return rows, list ~= nil or samples > 1
end

-- Set of the ids that end a text: a start token in the middle begins another one.
local function ends_of(m, given)
  local v, set, eos = m.vocabulary, {}, given
  if eos == nil then eos = v and v.eos end
  if not eos then return set end
  local list = type(eos) == "table" and eos or { eos }
  for _, id in ipairs(list) do
    if math.tointeger(id) == nil then refuse("eos", "an id, an array of ids or false", id) end
    if given ~= nil and not (id >= 0 and id < m.config.vocab) then refuse("eos", ("ids from 0 to %d"):format(m.config.vocab - 1), id) end
    set[math.tointeger(id)] = true
  end
  if v and v.bos then set[v.bos] = true end
  return set
end

local function stops_of(m, stop)
  local list = type(stop) == "table" and stop or { stop }
  for _, s in ipairs(list) do
    if type(s) ~= "string" or s == "" then refuse("stop", "text, or an array of texts,", s == "" and "an empty one" or s) end
  end
  return list
end

-- rows: arrays of ids, one for each text; many: whether arrays are to be returned; ends: set of ids; sampling: what
-- core.sample takes, in which u changes from token to token.
return function(m, opts)
  opts = names.options("generate", opts, KNOWN)
  if opts.bos ~= nil and type(opts.bos) ~= "boolean" then refuse("bos", "true or false", opts.bos) end
  local sampling = { temperature = number(opts, "temperature", 0, 0), top_k = whole(opts, "top_k", 0, 0),
                     top_p = number(opts, "top_p", 1, 0, 1), min_p = number(opts, "min_p", 0, 0, 1),
                     repetition_penalty = number(opts, "repetition_penalty", 1, 0), u = 0 }
  if sampling.repetition_penalty == 0 then refuse("repetition_penalty", "number > 0", 0) end
  for _, key in ipairs { "on_token", "on_text" } do
    if opts[key] ~= nil and type(opts[key]) ~= "function" then refuse(key, "a function", type(opts[key])) end
  end
  local o = { sampling = sampling, tokens = whole(opts, "tokens", 256, 0), seed = whole(opts, "seed", 1, 0, MOST_SEED - MOST_TEXTS),
              ends = ends_of(m, opts.eos), stop = stops_of(m, opts.stop), past = past_of(m, opts.past_context),
              on_token = opts.on_token, on_text = opts.on_text }
  if (o.on_text or #o.stop > 0) and not m.vocabulary then
    error(("generate: option '%s': the model has no vocabulary"):format(o.on_text and "on_text" or "stop"), 0)
  end
  o.rows, o.many = rows_of(m, opts)
  return o
end
