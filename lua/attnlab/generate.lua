-- Text from a model: each step runs the window of the last `context` tokens in the parallel form
-- and takes the next token from the last position's logits.
--   prompt       text, or an array of ids; default: the tokenizer's start
--   tokens       how many to add (256)
--   temperature  0 = the likeliest token (default); else samples from softmax(logits / temperature)
--   top_k        samples among the k likeliest; 0 = all
--   seed         of the samples (1): token n is a function of (seed, n) and the logits
--   eos          id that ends the text; false = none; default: the end token of a llama2.c table
--   on_token     function(piece, id), called for each new token
-- Returns the text (nil without a vocabulary) and the array of all ids.
local core = require "attnlab.core"
local names = require "attnlab.names"

local M = {}

local KNOWN = { "prompt", "tokens", "temperature", "top_k", "seed", "eos", "on_token" }
local function number(opts, key, default, least)
  local v = opts[key]
  if v == nil then return default end
  if type(v) ~= "number" or not (v >= least) or v == math.huge then
    error(("generate: option '%s': number >= %g expected, got %s")
      :format(key, least, tostring(v)), 0)
  end
  return v
end

local function start(m, prompt)
  if type(prompt) == "table" then return table.move(prompt, 1, #prompt, 1, {}) end
  local v = m.vocabulary
  if not v then
    error("generate: the model has no vocabulary: give the prompt as a list of ids", 0)
  end
  if prompt == nil and v.bos then return { v.bos } end
  if prompt == nil then prompt = "\n" end
  if type(prompt) ~= "string" then
    error("generate: option 'prompt': text or list of ids expected, got " .. type(prompt), 0)
  end
  return v:encode(prompt):flat()
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

function M.run(m, opts)
  opts = opts or {}
  check(opts)
  local tokens = number(opts, "tokens", 256, 0)
  local temperature, top_k = number(opts, "temperature", 0, 0), number(opts, "top_k", 0, 0)
  local seed, vocabulary = opts.seed or 1, m.vocabulary
  local eos = opts.eos
  if eos == nil and vocabulary then eos = vocabulary.eos end
  local ids = start(m, opts.prompt)
  if #ids == 0 then error("generate: the prompt is empty", 0) end
  local context, mode = m.config.context, m.training
  m:eval()
  local ok, message = pcall(core.no_grad, function()
    for n = 1, tokens do
      local window = table.move(ids, math.max(1, #ids - context + 1), #ids, 1, {})
      local h <close> = m:hidden(window)
      local last <close> = h[{ {}, #window }]
      local scores <close> = m:logits(last)
      local logits, id = scores:flat(), nil
      if temperature == 0 then
        id = likeliest(logits)
      else
        local u <close> = core.rand { shape = { 1 }, dtype = "f64", seed = seed,
                                      stream = "generate." .. n }
        id = sample(logits, temperature, top_k, u:item())
      end
      -- a start token in the middle begins another text
      if eos and (id == eos or (vocabulary and id == vocabulary.bos)) then break end
      ids[#ids + 1] = id
      if opts.on_token then opts.on_token(vocabulary and vocabulary:piece(id), id) end
    end
  end)
  m:train(mode)
  if not ok then error(message, 0) end
  return vocabulary and vocabulary:decode(ids), ids
end

return M
