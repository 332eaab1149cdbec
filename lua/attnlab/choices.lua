-- Multiple choice, counted as lm-evaluation-harness counts it. r = lab.choices(m, "FILE.jsonl", {start=, delimiter=" ",
-- limit=, on_progress=}). A line is one question, an object with
--   ctx, context or query    the text before; may be empty, then the start token stands for it (without one the end token)
--   endings or choices       array of texts, of which one goes on rightly
--   label or gold            its number, from 0 (or as a string of digits)
-- so HellaSwag's lines are read as they are; the harness' cleaning of them (activity labels, brackets) is not done here.
-- Other keys are passed over. What follows the context is the delimiter and the choice. Their ids are those of the whole
-- behind those of the context, blanks at the end of which go over to the choice; a whole that does not fit loses its
-- beginning. start: "bos" puts the tokenizer's start token before it, "empty" none; default: as the tokenizer has it.
-- Fields: acc (the largest sum of log-likelihoods is the right one), acc_norm (of it by CHARACTERS of the choice, without
-- the delimiter), acc_token (by tokens, as llm.c has it); acc_stderr, acc_norm_stderr, acc_token_stderr; the first of
-- equals counts. questions: array of { line, gold, log_likelihoods, characters, tokens }. truncated: how many lost their
-- beginning. start: "bos" where every whole begins with the start token.
-- A change here makes no run stale.
local core = require "attnlab.core"
local devices = require "attnlab.devices"
local evalset = require "attnlab.evalset"
local names = require "attnlab.names"
local stats = require "attnlab.stats"
local tables = require "attnlab.table"

local M = {}

local KNOWN = { "start", "delimiter", "limit", "on_progress" }
local STARTS = { "bos", "empty" }
local PASS = evalset.PASS
local MOST_LINE = 1 << 20 -- bytes

-- ---- the file ---------------------------------------------------------------------------------------------------------

local CONTEXT, CHOICES, LABEL = { "ctx", "context", "query" }, { "endings", "choices" }, { "label", "gold" }

-- The value of the one key of these that an object has.
local function one_of(q, keys, refuse)
  local found
  for _, k in ipairs(keys) do
    if q[k] ~= nil then
      if found then refuse("one of '%s' and '%s' expected, got both", found, k) end
      found = k
    end
  end
  if not found then refuse("'%s' is missing (or '%s')", keys[1], table.concat(keys, "', '", 2)) end
  return q[found], found
end

local function question(q, line, refuse)
  if type(q) ~= "table" or #q > 0 then refuse "an object expected" end
  local context, in_context = one_of(q, CONTEXT, refuse)
  local list, in_choices = one_of(q, CHOICES, refuse)
  local label, in_label = one_of(q, LABEL, refuse)
  if type(context) ~= "string" then refuse("'%s': text expected", in_context) end
  if type(list) ~= "table" or #list < 2 then refuse("'%s': an array of two texts or more expected", in_choices) end
  for i, text in ipairs(list) do
    if type(text) ~= "string" or text == "" then
      refuse("'%s': text expected as number %d, got %s", in_choices, i - 1, text == "" and "an empty one" or type(text))
    end
  end
  local number = label
  if type(label) == "string" then number = label:find "^%d+$" and tonumber(label) end
  local gold = math.type(number) and math.tointeger(number)
  if not gold or gold < 0 or gold >= #list then
    refuse("'%s': a number from 0 to %d expected, got %s", in_label, #list - 1, core.json.encode(label))
  end
  return { line = line, context = context, choices = list, gold = gold }
end

-- The questions of a file. limit: of its beginning.
function M.read(path, limit)
  local file = core.sys.read(path)
  local out, line, at = {}, 0, file:find "^\u{feff}" and 4 or 1 -- some editors' first character, no JSON
  while at <= #file and #out < (limit or math.huge) do
    local ends = file:find("\n", at, true) or #file + 1
    line = line + 1
    local function refuse(fmt, ...) error(("'%s', line %d: %s"):format(names.shown(path), line, fmt:format(...)), 0) end
    if ends - at > MOST_LINE then refuse("at most %d bytes expected, got %d", MOST_LINE, ends - at) end
    local text = file:sub(at, ends - 1)
    if text:find "%S" then
      local ok, q = pcall(core.json.decode, text)
      if not ok then refuse("%s", (names.reason(tostring(q)):gsub("line 1, ", ""))) end
      out[#out + 1] = question(q, line, refuse)
    end
    at = ends + 1
  end
  if #out == 0 then error(("'%s': no question in it"):format(names.shown(path)), 0) end
  return out, core.sys.sha256(file)
end

-- ---- ids --------------------------------------------------------------------------------------------------------------

-- What Python's str.rstrip takes away.
local function is_blank(c)
  return c >= 9 and c <= 13 or c >= 28 and c <= 32 or c == 0x85 or c == 0xA0 or c == 0x1680 or c >= 0x2000 and c <= 0x200A
    or c == 0x2028 or c == 0x2029 or c == 0x202F or c == 0x205F or c == 0x3000
end

-- A text without the blanks at its end, and these.
local function trimmed(s)
  local at = #s + 1
  while at > 1 do
    local before = utf8.offset(s, -1, at)
    if not is_blank(utf8.codepoint(s, before)) then break end
    at = before
  end
  return s:sub(1, at - 1), s:sub(at)
end

local function encoder(v, start)
  return function(text)
    local ids = v:encode(text, { template = start == nil }):flat()
    if start == "bos" then table.insert(ids, 1, v.bos) end
    if start == nil and v.eos and ids[#ids] == v.eos then table.remove(ids) end -- a template's end: the text goes on
    return ids
  end
end

-- Ids of context and choice, and how many of them are the choice's.
local function pair(v, encode, context, rest)
  local before, blanks = trimmed(context)
  local head = context ~= "" and encode(before) or {}
  if #head == 0 then
    local first = v.bos or v.eos
    if not first then return nil, "an empty context, and the tokenizer has neither a start nor an end token" end
    local ids = v:encode(blanks .. rest, { template = false }):flat()
    if ids[1] ~= first then table.insert(ids, 1, first) end
    return ids, #ids - 1
  end
  local whole = encode(before .. blanks .. rest)
  return whole, #whole - #head
end

-- ---- likelihoods ------------------------------------------------------------------------------------------------------

-- Sets .value, the log-likelihood of the last n ids of each request of a batch; they are padded on the right, which what
-- stands before does not see.
local function run(m, batch)
  local T = #batch[1].ids - 1
  local x, places, targets = {}, {}, {}
  for b, r in ipairs(batch) do
    for t = 1, T do x[#x + 1] = t < #r.ids and r.ids[t] or 0 end
    for t = #r.ids - r.n, #r.ids - 1 do
      places[#places + 1], targets[#targets + 1] = (b - 1) * T + t - 1, r.ids[t + 1]
    end
  end
  local ids <close> = core.tensor { data = x, shape = { #batch, T }, dtype = "i32" }
  local h <close> = m:hidden(ids)
  local rows <close> = h:reshape { shape = { #batch * T, h:size(3) } }
  local values = {}
  for first = 1, #places, PASS do
    local last = math.min(#places, first + PASS - 1)
    local at <close> = core.tensor { data = table.move(places, first, last, 1, {}), dtype = "i32" }
    local y <close> = core.tensor { data = table.move(targets, first, last, 1, {}), dtype = "i32" }
    local some <close> = core.op.embedding(rows, at)
    local logits <close> = m:logits(some)
    local nll <close> = logits:cross_entropy(y, { reduction = "none" })
    table.move(nll:flat(), 1, last - first + 1, first, values)
  end
  local k = 0
  for _, r in ipairs(batch) do
    r.value = 0
    for _ = 1, r.n do
      k = k + 1
      r.value = r.value - values[k]
    end
  end
end

local function likelihoods(m, requests, on_progress)
  local order = table.move(requests, 1, #requests, 1, {})
  table.sort(order, function(a, b)
    if #a.ids ~= #b.ids then return #a.ids > #b.ids end
    return a.number < b.number
  end)
  local at = 1
  while at <= #order do
    local rows = math.max(1, PASS // (#order[at].ids - 1))
    run(m, table.move(order, at, math.min(#order, at + rows - 1), 1, {}))
    at = at + rows
    if on_progress then on_progress(math.min(at - 1, #order), #order) end
  end
end

-- ---- the record -------------------------------------------------------------------------------------------------------

-- Whether the first of the largest is the right one, as 1 or 0. by: what each is divided by.
local function hit(q, by)
  local best = 1
  local function score(i) return q.log_likelihoods[i] / (by and by[i] or 1) end
  for i = 2, #q.log_likelihoods do
    if score(i) > score(best) then best = i end
  end
  return best - 1 == q.gold and 1 or 0
end

local function requests_of(m, questions, o, path)
  local v, context, list, truncated, began = m.vocabulary, m.config.context, {}, 0, true
  local encode = encoder(v, o.start)
  for _, q in ipairs(questions) do
    q.requests, q.tokens, q.characters = {}, {}, {}
    local cut = false
    for i, choice in ipairs(q.choices) do
      local ids, n = pair(v, encode, q.context, o.delimiter .. choice)
      local function refuse(fmt, ...) error(("'%s', line %d: %s"):format(names.shown(path), q.line, fmt:format(...)), 0) end
      if not ids then refuse("%s", n) end
      if n < 1 then refuse("choice %d adds no token to its context", i - 1) end
      if n > context then refuse("choice %d has %d tokens, the model's context %d", i - 1, n, context) end
      began = began and ids[1] == v.bos
      if #ids > context + 1 then
        ids, cut = table.move(ids, #ids - context, #ids, 1, {}), true
      end
      list[#list + 1] = { ids = ids, n = n, number = #list }
      q.requests[i], q.tokens[i], q.characters[i] = list[#list], n, utf8.len(choice)
    end
    truncated = truncated + (cut and 1 or 0)
  end
  return list, truncated, began and v.bos ~= nil and "bos" or "empty"
end

local Record = { __name = "attnlab.choices" }
Record.__index = Record

function Record:__tostring()
  local rows = {}
  for i, key in ipairs { "acc", "acc_norm", "acc_token" } do
    local se = self[key .. "_stderr"]
    rows[i] = { key = key, value = ("%.4f"):format(self[key]), se = se and ("%.4f"):format(se), what =
      ({ "sum of log-likelihoods", "by characters of the choice", "mean of its tokens" })[i] }
  end
  return ("%d questions of %s, chance %.4f%s%s\n\n"):format(#self.questions, names.shown(self.tasks), self.chance,
    self.start == "bos" and ", behind the start token" or ", without a start token",
    self.truncated > 0 and (", %d without the beginning of their context"):format(self.truncated) or "")
    .. tables.text({ { key = "key", title = "" }, { key = "value", title = "accuracy", right = true },
                     { key = "se", title = "std. error", right = true }, { key = "what", title = "the largest" } }, rows)
end

local function record(m, path, o)
  local questions, sha256 = M.read(path, o.limit)
  local requests, truncated, start = requests_of(m, questions, o, path)
  likelihoods(m, requests, o.on_progress)
  local v, hits, chance = m.vocabulary, { acc = {}, acc_norm = {}, acc_token = {} }, 0
  for k, q in ipairs(questions) do
    q.log_likelihoods = {}
    for i, r in ipairs(q.requests) do
      if not (r.value > -math.huge and r.value < math.huge) then
        error(("'%s', line %d: the log-likelihood of choice %d is %s: the model's numbers left their range"):format(
          names.shown(path), q.line, i - 1, r.value ~= r.value and "nan" or tostring(r.value)), 0)
      end
      q.log_likelihoods[i] = r.value
    end
    hits.acc[k], hits.acc_norm[k], hits.acc_token[k] = hit(q), hit(q, q.characters), hit(q, q.tokens)
    chance = chance + 1 / #q.choices / #questions
    q.requests, q.choices, q.context = nil, nil, nil
  end
  local r = { tasks = path, sha256 = sha256, questions = questions, chance = chance, truncated = truncated, start = start,
              delimiter = o.delimiter, tokenizer = { kind = v.kind, size = v:size(), hash = v:hash() }, context = m.config.context,
              dtype = m.dtype, device = m.device }
  for key, list in pairs(hits) do
    local deviation = stats.deviation(list)
    r[key], r[key .. "_stderr"] = stats.mean(list), deviation and deviation / math.sqrt(#list)
  end
  return setmetatable(r, Record)
end

-- The options, checked.
function M.options(m, opts)
  opts = names.options("choices", opts, KNOWN)
  local o = { start = opts.start, delimiter = opts.delimiter or " ", limit = opts.limit, on_progress = opts.on_progress }
  if o.start ~= nil and not names.find(STARTS, o.start) then
    error("choices: option 'start': " .. names.unknown("word", tostring(o.start), STARTS), 0)
  end
  if o.limit ~= nil and (math.type(o.limit) ~= "integer" or o.limit < 1) then
    error(("choices: option 'limit': integer >= 1 expected, got %s"):format(tostring(o.limit)), 0)
  end
  if type(o.delimiter) ~= "string" then
    error("choices: option 'delimiter': text expected, got " .. type(o.delimiter), 0)
  end
  if not m.causal then
    error(("choices: a model that predicts next tokens expected, got a %s, which sees the choice that it is asked for"):format(m.class_name), 0)
  end
  if not m.vocabulary then error("choices: the model has no vocabulary: tokenizer=FILE names one", 0) end
  if o.start == "bos" and not m.vocabulary.bos then error("choices: option 'start': bos: the tokenizer has no start token", 0) end
  return o
end

-- The record of m for the questions of a file; see above.
function M.run(m, path, opts)
  if type(m) ~= "table" or type(m.hidden) ~= "function" or type(m.config) ~= "table" then
    error("choices: a model expected, got " .. type(m), 0)
  end
  if type(path) ~= "string" then error("choices: path of a jsonl expected, got " .. type(path), 0) end
  local o, mode = M.options(m, opts), m.training
  m:eval()
  local ok, r = pcall(core.no_grad, devices.on, m.device, record, m, path, o)
  m:train(mode)
  if not ok then error(r, 0) end
  return r
end

return setmetatable(M, { __call = function(_, m, path, opts) return M.run(m, path, opts) end })
