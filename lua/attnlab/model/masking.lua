-- What masked language models learn from: of each text 15 % of its tokens are to be found, and of these 80 % are hidden
-- behind the mask token, 10 % replaced by any other and 10 % left as they are (Devlin et al. 2019, 3.1). As in their
-- code the number is max(1, round(0.15 n)) of a text's n tokens, special ones not counted: all windows of one length
-- weigh the same. Which ones, and by what they are replaced, is a function of (seed, index) and the row.
local core = require "attnlab.core"

local M = {}

local SHARE, HIDDEN, REPLACED = 0.15, 0.8, 0.1
M.NONE = -100 -- the target of tokens that are not asked for: cross_entropy leaves it out

-- The ids of a vocabulary that are no words: { mask = its mask token or nil, ids = set }.
function M.special(vocabulary)
  local named = vocabulary.special and vocabulary:special() or {}
  local ids = {}
  for _, id in pairs(named) do ids[id] = true end
  return { mask = named["[MASK]"] or named["<mask>"], ids = ids }
end

local kept = setmetatable({}, { __mode = "k" }) -- by vocabulary: each step asks for it

-- What M.special gives, with `others`, a list of all ids that are words.
local function words_of(vocabulary)
  local w = kept[vocabulary]
  if w then return w end
  w = M.special(vocabulary)
  w.others = {}
  for id = 0, vocabulary:size() - 1 do
    if not w.ids[id] then w.others[#w.others + 1] = id end
  end
  kept[vocabulary] = w
  return w
end

-- The options of M.hidden for a model that has a vocabulary; more: what goes with the texts, or nil.
function M.options(m, more, seed, index)
  local v = m.vocabulary
  if not v then error("masking: the model has no vocabulary, which says what its mask token is", 0) end
  local o = words_of(v)
  if not o.mask and m.config.vocab == v:size() then
    error(("masking: the vocabulary has no mask token, and the model no id beyond its %d for one"):format(v:size()), 0)
  end
  return { mask = o.mask or m.config.vocab - 1, special = o.ids, others = o.others, lengths = more and more.lengths and more.lengths:flat(),
           seed = seed, index = index }
end

-- What goes with rows of which some end before T, as targets y (B,T) of next tokens on the CPU say it: { lengths = (B) }; else
-- `more` as it is. The last token of a text has no target.
function M.with_lengths(y, more)
  if more and more.lengths then return more end
  local B, T, ids, lengths, short = y:size(1), y:size(2), y:flat(), {}, false
  for b = 1, B do
    local n = T
    while n > 0 and ids[(b - 1) * T + n] == M.NONE do n = n - 1 end
    lengths[b] = math.min(n + 1, T)
    short = short or lengths[b] < T
  end
  if not short then return more end
  local with = { lengths = core.tensor { data = lengths, shape = { B }, dtype = "i32" } }
  for k, t in pairs(more or {}) do with[k] = t end
  return with
end

-- ids i32 (B,T) on the CPU -> the ids with some of them hidden, and the targets (B,T). opts: mask (id), special (set of
-- ids that are never asked for), others (list of ids that replace), seed, index, and lengths (list; all of T).
function M.hidden(ids, opts)
  local B, T = ids:size(1), ids:size(2)
  local flat, targets = ids:flat(), {}
  for i = 1, B * T do targets[i] = M.NONE end
  local most = math.max(1, math.floor(SHARE * T + 0.5))
  local draws <close> = core.rand { shape = { B, most, 3 }, dtype = "f64", seed = opts.seed, device = "cpu",
                                    stream = "masking " .. opts.index }
  local u, at = draws:flat(), 0
  for b = 1, B do
    local places, first = {}, (b - 1) * T
    for t = first + 1, first + (opts.lengths and opts.lengths[b] or T) do
      if not opts.special[flat[t]] then places[#places + 1] = t end
    end
    local n = math.min(#places, math.max(1, math.floor(SHARE * #places + 0.5)))
    at = (b - 1) * most * 3
    for k = 1, n do
      local other = k + math.floor(u[at + 1] * (#places - k + 1))
      places[k], places[other] = places[other], places[k]
      local t = places[k]
      targets[t] = flat[t]
      if u[at + 2] < HIDDEN then
        flat[t] = opts.mask
      elseif u[at + 2] < HIDDEN + REPLACED then
        flat[t] = opts.others[1 + math.floor(u[at + 3] * #opts.others)]
      end
      at = at + 3
    end
  end
  local shape = { B, T }
  return core.tensor { data = flat, shape = shape, dtype = "i32" }, core.tensor { data = targets, shape = shape, dtype = "i32" }
end

return M
