-- The text that a trained model is operated on, in three parts that share nothing:
--   show       what the block of s:show and sweeps measure
--   hidden     what the prompt never shows: the file that a session is written to evaluates on it
--   calibrate  what s:calibrate looks at
-- and tune, what s:tune trains on. of(m) finds them by what the model is, of(m, text) makes them of a text by name or
-- path, or of "own": what the model writes itself, on which no change can look better than it in expectation (the
-- loss difference there is an estimate of KL(model || changed)).
--
-- Models that read the vocabulary of stories260K: 64 short stories written for the project (experiments/data), 24, 24
-- and 16 of them, each the start token and its first 256 tokens. Models that were trained here: their validation split
-- in the same proportions, by windows of their own context; s:tune has their training split, as so few windows would
-- be learnt by heart. Other models have to be told.
local core = require "attnlab.core"
local data = require "attnlab.data"
local evalset = require "attnlab.evalset"
local names = require "attnlab.names"
local vocabulary = require "attnlab.vocabulary"
local window_of = require "attnlab.model.window"
local sys = core.sys

local M = {}

local STORIES, BREAK, TABLE, WIDTH = "stories", "<|endoftext|>", "tok512.bin", 256
M.SHOW = 24 -- documents that are shown, of stories
local SHOW, HIDDEN, CALIBRATE = M.SHOW, 24, 16
local ALL = SHOW + HIDDEN + CALIBRATE
local OWN_SEED = 1

-- ---- documents: stories -------------------------------------------------------------------------------

local function reads_stories(m)
  local v = m.vocabulary
  local path = ("%s/experiments/models/%s"):format(data.home(), TABLE)
  if not v or v.kind ~= "llama2c" or sys.exists(path) ~= "file" then return false end
  local own = vocabulary.open(path)
  return v:size() == own:size() and v:same(own)
end

local function stories(m)
  local path = data.path(STORIES)
  local text, rows = sys.read(path), {}
  for story in (text .. BREAK):gmatch("%s*(.-)%s*" .. BREAK:gsub("%p", "%%%0")) do
    local ids = story ~= "" and m.vocabulary:encode(story):flat()
    if ids and #ids <= WIDTH then
      error(("'%s': story %d has %d tokens, %d needed"):format(names.shown(path), #rows + 1, #ids - 1, WIDTH), 0)
    end
    rows[#rows + 1] = ids and table.move(ids, 1, WIDTH + 1, 1, {})
  end
  if #rows ~= ALL then
    error(("'%s': %d stories expected, got %d"):format(names.shown(path), ALL, #rows), 0)
  end
  local function part(first, n, also)
    local range = { lo = first, hi = first + n }
    return data.of_documents(STORIES, rows, m.vocabulary, range, also or range, sys.sha256(text))
  end
  local calibrate = part(SHOW + HIDDEN, CALIBRATE, { lo = 0, hi = SHOW })
  return { show = part(0, SHOW), hidden = part(SHOW, HIDDEN), calibrate = calibrate, tune = calibrate,
           context = WIDTH, documents = "short stories written for the project" }
end

-- ---- windows: a text ----------------------------------------------------------------------------------

-- Three parts of the tokens lo .. hi - 1 of a text.
local function windows(m, set, lo, hi, tune)
  local context = window_of(m)
  local function at(n) return lo + (hi - lo) * n // ALL end
  local a, b = at(SHOW), at(SHOW + HIDDEN)
  local least = math.min(a - lo, b - a, hi - b)
  if least < 2 * context + 1 then
    error(("%s: %d tokens are too few for three parts: each needs two windows of %d and one more, the smallest has %d")
      :format(set:shown(), hi - lo, context, least), 0)
  end
  local show, rest = { lo = lo, hi = a }, { lo = b, hi = hi }
  return { show = set:cut(show, show), hidden = set:cut({ lo = a, hi = b }, { lo = a, hi = b }),
           calibrate = set:cut(rest, show), tune = set:cut(tune or rest, show), context = context,
           documents = "windows of " .. (tune and "the validation text of " or "") .. set.name:match "[^/]*$" }
end

local function own_split(m)
  local on = m.trained_on
  local ok, set = pcall(data.open, on.name, { vocab = m.vocabulary })
  if not ok then
    error(("the text '%s' that the model was trained on is not here: %s"):format(on.name, names.reason(tostring(set))), 0)
  elseif set.sha256 ~= on.sha256 then
    error(("the text %s is another one than that of this name which the model was trained on"):format(set:shown()), 0)
  end
  return windows(m, set, set.valid.lo, set.valid.hi, set.train)
end

local function of_text(m, text)
  local set = data.is_dataset(text) and text or data.open_for(m, text)
  local on = m.trained_on
  if on and on.sha256 == set.sha256 and set.sha256 then return own_split(m) end
  return windows(m, set, 0, set.tokens:numel())
end

-- Sequences that the model draws at temperature 1.
local function own(m)
  local T = math.min(WIDTH, m.config.context)
  local set = require("attnlab.surgery.subject").own_text(m, ALL, T, OWN_SEED)
  local function range(first, n) return { lo = first * T, hi = (first + n) * T + 1 } end -- the last target is one more
  local show, hidden, rest = range(0, SHOW), range(SHOW, HIDDEN), range(SHOW + HIDDEN, CALIBRATE)
  return { show = set:cut(show, show), hidden = set:cut(hidden, hidden), calibrate = set:cut(rest, show),
           tune = set:cut(rest, show), context = T, documents = "texts of the model itself", own = true }
end

-- ---- of a model ---------------------------------------------------------------------------------------

local function find(m, text)
  if text == "own" then return own(m) end
  if text ~= nil and text ~= STORIES then return of_text(m, text) end
  if not m.vocabulary then
    error("the model has no vocabulary, so no text can be read for it: load it with tokenizer=FILE", 0)
  end
  local on = m.trained_on
  if on and on.name ~= STORIES and text == nil then return own_split(m) end
  if reads_stories(m) then return stories(m) end
  error(text and ("'%s' are read with the vocabulary of stories260K alone"):format(STORIES)
    or "the model says nothing of the text that it was trained on: name one with data=\"FILE\", or data=\"own\" "
      .. "for what it writes itself", 0)
end

-- { show =, hidden = evalset, calibrate =, tune = dataset (split "train"), documents = (what an interval goes over, in
-- words), context = (tokens of one), count = { show =, hidden = }, own = boolean }.
function M.of(m, text)
  local out = find(m, text)
  out.count = {}
  for _, which in ipairs { "show", "hidden" } do
    -- as many tokens as the stories have, whatever the context
    local wanted = math.max(SHOW, SHOW * WIDTH // out.context)
    out.count[which] = out[which]:windows("valid", out.context, wanted)
    out[which] = evalset { data = out[which], windows = out.count[which], context = out.context }
  end
  return out
end

return M
