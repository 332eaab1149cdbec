-- Text that is written: what the filters leave, seeds, stop strings, streaming, several texts at once.
local T = ...
local core = require "attnlab.core"
local lab = require "attnlab"
local stream = require "attnlab.generate.stream"
local vocabulary = require "attnlab.vocabulary"

local stories = lab.model.load(T.root .. "experiments/models/stories260K.bin")

-- ---- the choice of a token --------------------------------------------------------------------------

-- Probabilities by id as the options leave them, by sorting: the definition once more.
local function reference(logits, o, seen)
  local l, order, done = table.move(logits, 1, #logits, 1, {}), {}, {}
  for _, id in ipairs(seen or {}) do
    local v = l[id + 1]
    if o.repetition_penalty and not done[id] then
      l[id + 1], done[id] = v < 0 and v * o.repetition_penalty or v / o.repetition_penalty, true
    end
  end
  for i = 1, #l do order[i] = i end
  table.sort(order, function(a, b)
    if l[a] ~= l[b] then return l[a] > l[b] end
    return a < b
  end)
  local n = #order
  if o.top_k and o.top_k > 0 then
    local least = l[order[math.min(o.top_k, n)]]
    while l[order[n]] < least do n = n - 1 end
  end
  local function weight(i) return math.exp((l[order[i]] - l[order[1]]) / o.temperature) end
  local function total()
    local s = 0
    for i = 1, n do s = s + weight(i) end
    return s
  end
  local all, before, kept = total(), 0, 0
  for i = 1, n do
    if i == 1 or before < (o.top_p or 1) * all then kept = i end
    before = before + weight(i)
  end
  n = kept
  while weight(n) < (o.min_p or 0) do n = n - 1 end
  local p, s = {}, total()
  for i = 1, #order do p[order[i]] = i <= n and weight(i) / s or 0 end
  return p, order
end

-- Every id is chosen in its own part of [0,1), the likelier before: at both ends of it, and nowhere if it has none.
local function expect_choice(logits, o, seen, p, order)
  local t, at = core.tensor { data = logits, dtype = "f64" }, 0
  local function chosen(u)
    local how = { u = u }
    for k, v in pairs(o) do how[k] = v end
    return core.sample(t, how, seen)
  end
  for _, i in ipairs(order) do
    if p[i] > 1e-6 then
      T.eq(chosen(math.max(0, at + 1e-9 + p[i] * 1e-6)), i - 1)
      T.eq(chosen(at + p[i] - 1e-8 - p[i] * 1e-6), i - 1)
    end
    at = at + p[i]
  end
  T.near(at, 1, 1e-6)
end

T.test("what the filters leave is what transformers' processors leave", function()
  local cases = core.json.decode(core.sys.read(T.root .. "tests/golden/sampling.json"))
  T.eq(#cases, 14)
  for _, c in ipairs(cases) do
    local p, order = reference(c.logits, c.options, c.seen)
    T.near(p, c.probabilities, 1e-8)
    expect_choice(c.logits, c.options, c.seen, p, order)
  end
end)

T.test("choices equal a sorted reference: sizes, equal logits, every filter and all of them", function()
  for n, size in ipairs { 1, 2, 3, 7, 64, 501 } do
    for scale, levels in pairs { [0.3] = 8, [3] = 2, [30] = 1000 } do
      local logits = core.randn { shape = { size }, seed = n, dtype = "f64" }:flat()
      for i, v in ipairs(logits) do logits[i] = math.floor(v * scale * levels + 0.5) / levels end
      for _, o in ipairs { { temperature = 1 }, { temperature = 0.7, top_k = 5 }, { temperature = 1.3, top_p = 0.6 },
                           { temperature = 1, min_p = 0.3 }, { temperature = 2, top_p = 0 }, { temperature = 1, top_k = 1000 },
                           { temperature = 0.9, top_k = 40, top_p = 0.9, min_p = 0.02, repetition_penalty = 1.3 } } do
        local seen = { 0, size - 1, 0, 3 % size }
        local p, order = reference(logits, o, seen)
        expect_choice(logits, o, seen, p, order)
      end
      local p, order = reference(logits, { temperature = 1 })
      T.eq({ core.sample(core.tensor { data = logits }, { temperature = 0, u = 0.99 }), p[order[1]] > 0 }, { order[1] - 1, true })
    end
  end
  T.raises(function() core.sample(core.tensor { data = { 1, 0 / 0 } }, { temperature = 1 }) end, "the logit of id 1 is %-?nan")
  T.raises(function() core.sample(core.tensor { data = { 1, 2 } }, { top_p = 1.5 }) end, "top_p")
end)

T.test("a penalty is for what the text has, prompt included: transformers' greedy ids with it", function()
  for penalty, want in pairs {
    [2.5] = { 1, 403, 407, 261, 378, 432, 383, 286, 399, 370, 268, 414, 422, 395, 405, 426, 346, 401, 396, 267, 337, 335, 345, 374, 419 },
    [0.6] = { 1, 403, 407, 261, 378, 432, 261, 376, 261, 361, 432, 261, 376, 261, 361, 432, 261, 376, 261, 361, 432, 261, 376, 261, 361 },
  } do
    local _, ids = stories:generate { prompt = "Once upon a time", tokens = 20, repetition_penalty = penalty }
    T.eq(ids, want)
  end
end)

-- ---- several texts ------------------------------------------------------------------------------------

local SPECS = {
  { preset = "softmax" }, { preset = "softmax", rope = "interleaved", rope_dims = 2 },
  { preset = "softmax", conv = 3, conv_activation = "silu", qk_norm = true, value_residual = true },
  { preset = "p3/2mamba" }, { preset = "p2/cottention" }, { preset = "p1/linear_elu" }, { preset = "p1/gated_softmax" },
  { similarity = "taylor", order = 2, rope = "none" },
  { preset = "softmax", heads = { [2] = { similarity = "linear" }, [4] = { output_norm = "l2" } } },
  { preset = "sliding_window", window = 3 },
}

local function model(spec)
  return lab.model.new { layers = 2, width = 16, heads = 4, kv_heads = 2, mlp = 24, context = 12, vocab = 11, seed = 3,
                         attention = spec, dtype = "f64" }
end

local PROMPTS = { { 1, 2, 3 }, { 4, 5, 6, 7, 8, 9, 10, 1, 2 }, { 3 }, { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 2, 3, 4, 5 }, { 7, 7, 7 } }

T.test("a text among others is the text alone: every kind of state, prompts of all lengths, its own end", function()
  for _, spec in ipairs(SPECS) do
    local m = model(spec)
    for _, o in ipairs { { tokens = 9 }, { tokens = 20, temperature = 1, seed = 5, eos = { 2, 9 } } } do
      local opts = { prompts = PROMPTS }
      for k, v in pairs(o) do opts[k] = v end
      local _, all, took = m:generate(opts)
      local total, prompt, ends = 0, 0, {}
      for i, p in ipairs(PROMPTS) do
        local own = { prompt = p, seed = (o.seed or 1) + i - 1 }
        for k, v in pairs(o) do own[k] = own[k] or v end
        local _, ids, alone = m:generate(own)
        T.eq(all[i], ids)
        T.eq(took.finished[i], alone.finished)
        ends[alone.finished], total, prompt = true, total + #ids - #p, prompt + #p
      end
      T.eq({ took.tokens, took.prompt_tokens }, { total, prompt })
      T.ok(o.temperature == nil or ends.eos, "some end by themselves")
    end
  end
end)

T.test("where the context is full: all of them slide, stop or go on as each does alone", function()
  for _, spec in ipairs { SPECS[1], SPECS[8] } do
    local m = model(spec)
    for _, past in ipairs { "slide", "continue" } do
      local _, all = m:generate { prompts = PROMPTS, tokens = 25, past_context = past }
      for i, p in ipairs(PROMPTS) do T.eq(all[i], (select(2, m:generate { prompt = p, tokens = 25, past_context = past }))) end
    end
    local short = { PROMPTS[1], PROMPTS[2], PROMPTS[3] }
    local _, all, took = m:generate { prompts = short, tokens = 25, past_context = "stop" }
    for i, p in ipairs(short) do T.eq(all[i], (select(2, m:generate { prompt = p, tokens = 25, past_context = "stop" }))) end
    T.eq(took.finished, { "context", "context", "context" })
    T.raises(function() m:generate { prompts = PROMPTS, past_context = "stop" } end, "15 tokens is longer than the context of 12")
    -- without a state the context runs again for every token
    m.state = function() error("state: 9 TiB needed", 0) end
    local _, again, n = m:generate { prompts = PROMPTS, tokens = 9 }
    T.eq(n.no_state, "state: 9 TiB needed")
    for i, p in ipairs(PROMPTS) do T.eq(again[i], (select(2, m:generate { prompt = p, tokens = 9 }))) end
  end
end)

T.test("rows of a state are the states of these rows", function()
  local ids = core.tensor { data = { { 1, 2, 3, 4 }, { 5, 6, 7, 8 }, { 9, 10, 1, 2 } }, dtype = "i32" }
  local pick = core.tensor { data = { { 9, 10, 1, 2 }, { 1, 2, 3, 4 } }, dtype = "i32" }
  local next_ids = core.tensor { data = { { 3, 4 }, { 5, 6 } }, dtype = "i32" }
  for _, spec in ipairs(SPECS) do
    local m = model(spec)
    local _, st = m:step(ids, m:state { batch = 3 })
    local _, own = m:step(pick, m:state { batch = 2 })
    local two = st:rows { 3, 1 }
    T.eq({ two:batch(), two:position() }, { 2, 4 })
    local want <close> = m:step(next_ids, own)
    local got, after = m:step(next_ids, two)
    T.near(got, want, 1e-12)
    T.eq(after:position(), 6)
  end
  local st = model(SPECS[1]):state { batch = 2, beyond = true }
  T.ok(st:rows { 2 }.beyond)
  T.raises(function() st:rows { 3 } end, "numbers of sequences from 1 to 2 expected, got 3")
  T.raises(function() st:rows {} end, "one sequence at least")
end)

T.test("seeds: the same ids however many are written, streamed or not; other seeds give others", function()
  local o = { prompt = "Once upon", tokens = 24, temperature = 1, top_p = 0.95, seed = 7 }
  local text, ids = stories:generate(o)
  o.on_text = function() end
  T.eq(select(2, stories:generate(o)), ids)
  o.on_text, o.samples = nil, 3
  local texts, all = stories:generate(o)
  T.eq({ texts[1], all[1] }, { text, ids })
  T.ok(texts[2] ~= text and texts[3] ~= texts[2])
  o.samples, o.seed = nil, 9
  T.eq(stories:generate(o), texts[3])
  T.eq(stories:fork():generate(o), texts[3])
end)

-- ---- text ---------------------------------------------------------------------------------------------

-- A stream over given pieces: what it gives out token by token, and whether it said stop.
local function streamed(pieces, prompt, stops)
  local v = { decode = function(_, ids)
    local out = {}
    for i, id in ipairs(ids) do out[i] = pieces[id] end
    return table.concat(out)
  end }
  local ids, given = {}, {}
  for i = 1, prompt do ids[i] = i end
  local s = stream(v, ids, stops or {}, function(text) given[#given + 1] = text end)
  local stopped = false
  for i = prompt + 1, #pieces do
    ids[i], given[#given + 1] = i, "|"
    stopped = s:add()
    if stopped then break end
  end
  given[#given + 1] = "$"
  local late = s:close()
  return table.concat(given), stopped or late, s:text()
end

T.test("a stream gives whole characters, and nothing that a stop string takes back", function()
  T.eq(streamed({ "a", "b", "c" }, 1), "|b|c$")
  T.eq(streamed({ "x", "\xc3", "\xa9!", "\xf0", "\x9f\x8c", "\x8d" }, 1), "||\xc3\xa9!|||\xf0\x9f\x8c\x8d$")
  T.eq(streamed({ "x", "\xe2\x82", "a", "\xff", "\xe2" }, 1), "||\xe2\x82a|\xff|$\xe2")
  T.eq(streamed({ "x", "\u{FFFD}", "\u{FFFD}", "\u{FFFD}", "\u{FFFD}", "a" }, 1), "||||" .. ("\u{FFFD}"):rep(4) .. "|a$")
  local text, stopped, whole = streamed({ "p", "one t", "wo", " th", "ree", " four" }, 1, { "two three", "our" })
  T.eq({ text, stopped, whole }, { "|one |||$", true, "one " })
end)

T.test("stop strings end a text before them: over tokens, the first in the text, none in the prompt", function()
  local text = stories:generate { prompt = "Once upon a time", tokens = 22 }
  local function stopped(stop, prompt)
    local parts = {}
    local cut, ids, took = stories:generate { prompt = prompt or "Once upon a time", tokens = 22, stop = stop,
                                              on_text = function(t) parts[#parts + 1] = t end }
    return cut, took.finished, table.concat(parts), #ids
  end
  for _, stop in ipairs { " girl named", "Lily", ". She", "e", ",", "there was a little girl" } do
    local at = text:find(stop, #"Once upon a time" + 1, true)
    local cut, how, parts, n = stopped(stop)
    T.eq({ cut, how }, { text:sub(1, at - 1), "stop" })
    T.eq("Once upon a time" .. parts, cut)
    T.ok(n < 30)
  end
  local first = math.min(text:find("Lily", 1, true), text:find("girl", 1, true))
  T.eq(stopped { "Lily", "girl" }, text:sub(1, first - 1))
  local whole, how, parts = stopped "Once upon a time" -- which the prompt has
  T.eq({ whole, how, "Once upon a time" .. parts }, { text, "tokens", text })
  local all, _, took = stories:generate { prompts = { "Once upon a time", "The dog" }, tokens = 22, stop = "Lily" }
  T.eq({ all[1], took.finished[1] }, { text:sub(1, text:find("Lily", 1, true) - 1), "stop" })
  T.eq(all[2], (stories:generate { prompt = "The dog", tokens = 22, stop = "Lily" }))
end)

T.test("characters of several bytes come whole from a model that writes bytes", function()
  -- ids 3 to 258 of the table are bytes; a model whose head prefers the next byte of a text
  local want, bytes = "h\xc3\xa9\xe2\x82\xac\xf0\x9f\x8c\x8d!", {}
  local v = stories.vocabulary
  local m = setmetatable({}, { __index = stories })
  for i = 1, #want do bytes[i] = want:byte(i) + 3 end
  local n = 0
  m.logits = function(_, h)
    n = n + 1
    local row = {}
    for id = 1, 512 do row[id] = id - 1 == bytes[n] and 1 or 0 end
    return core.tensor { data = row, shape = { 1, 512 } }
  end
  local given = {}
  local text = m:generate { prompt = "Once", tokens = #want, on_text = function(t) given[#given + 1] = t end }
  T.eq(text, v:decode(v:encode "Once") .. want)
  T.eq(given, { "h", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x8c\x8d", "!" })
end)

T.test("start and end of a text", function()
  local _, with = stories:generate { prompt = "Once", tokens = 3 }
  local _, without = stories:generate { prompt = "Once", tokens = 3, bos = false }
  T.eq({ with[1], without[1] == 1 }, { 1, false })
  T.eq(select(2, stories:generate { prompt = { 403 }, tokens = 0, bos = true }), { 1, 403 })
  T.eq(select(2, stories:generate { prompt = { 403 }, tokens = 0 }), { 403 })
  T.eq(select(3, stories:generate { prompt = "Once", tokens = 4, eos = { with[#with], 7 } }).finished, "eos")
  local _, ids, took = stories:generate { prompt = "Once", tokens = 4, eos = with[#with] }
  T.eq({ took.finished, ids[#ids] ~= with[#with] }, { "eos", true })
  T.eq(select(3, stories:generate { prompt = "Once", tokens = 3, eos = false }).finished, "tokens")
end)

T.test("a tokenizer smaller than the model: only ids that have a text are chosen", function()
  local v = vocabulary.characters "abcdef"
  local m = lab.model.new { layers = 1, width = 16, heads = 2, context = 16, vocab = 200, seed = 1, vocabulary = v }
  local text, ids = m:generate { prompt = "ab", tokens = 40, temperature = 5 }
  T.eq({ #text, #ids }, { 42, 42 })
end)

T.test("options that are refused", function()
  local m = model(SPECS[1])
  local function refuses(opts, pattern) T.raises(function() m:generate(opts) end, pattern) end
  for key, v in pairs { top_p = 1.5, min_p = -0.1, temperature = -1, samples = 0, top_k = -1, tokens = -1 } do
    refuses({ prompt = { 1 }, [key] = v }, ("option '%s': number .*, got %s"):format(key, tostring(v):gsub("%-", "%%-")))
  end
  refuses({ prompt = { 1 }, repetition_penalty = 0 }, "option 'repetition_penalty': number > 0 expected, got 0")
  refuses({ prompt = { 1 }, stop = "a" }, "option 'stop': the model has no vocabulary")
  refuses({ prompt = { 1 }, on_text = print }, "option 'on_text': the model has no vocabulary")
  refuses({ prompt = { 1 }, stop = "" }, "option 'stop': text, or an array of texts, expected, got an empty one")
  refuses({ prompt = { 1 }, stop = { 3 } }, "option 'stop': text, .* got 3")
  refuses({ prompt = { 1 }, prompts = { { 1 } } }, "one of them expected, got both")
  refuses({ prompts = {} }, "option 'prompts': an array of prompts expected, got none")
  refuses({ prompts = 3 }, "option 'prompts': an array of prompts expected, got 3")
  refuses({ prompts = { { 1 }, {} } }, "the prompt is empty")
  refuses({ prompt = { 1 }, bos = true }, "option 'bos': the tokenizer has no start token")
  refuses({ prompt = { 1 }, bos = 1 }, "option 'bos': true or false expected, got 1")
  refuses({ prompt = { 1 }, eos = "x" }, "option 'eos': an id, an array of ids or false expected, got x")
  refuses({ prompt = { 1 }, on_token = 1 }, "option 'on_token': a function expected, got number")
  refuses({ prompt = { 1 }, eos = { 1, m.config.vocab } }, "option 'eos': ids from 0 to %d+ expected, got " .. m.config.vocab)
  refuses({ prompt = { 1 }, samples = 10 ^ 9 }, "option 'samples': number from 1 to 1048576 expected, got 1000000000")
  refuses({ prompt = { 1 }, seed = 1 << 53 }, "option 'seed': number from 0 to 9007199253692416 expected, got 9007199254740992")
  refuses({ prompt = { 1 }, eos = -1 }, "option 'eos': ids from 0 to %d+ expected, got %-1")
  refuses({ prompt = { 1 }, top_pp = 1 }, "did you mean 'top_p'")
end)

-- ---- the command ---------------------------------------------------------------------------------------

local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)
local STORIES = T.root .. "experiments/models/stories260K.bin"

local function expects(status, pattern, ...)
  local got, text = tiny.run { "generate", STORIES, ... }
  T.ok(got == status, ("status %d expected, got %d:\n%s"):format(status, got, text))
  T.ok(text:find(pattern), text)
  return text
end

T.test("generate: one text, several, streamed, as JSON; what cannot be meant", function()
  local one = stories:generate { prompt = "Once", tokens = 12 }
  T.eq(expects(0, "12 tokens", "prompt=Once", "tokens=12"):sub(1, #one + 1), one .. "\n")
  T.eq(expects(0, "12 tokens", "prompt=Once", "tokens=12", "--stream"):sub(1, #one + 1), one .. "\n")
  expects(0, "^Once upon a time, there was a \n", "prompt=Once", "stop=x\n", "stop=little", "tokens=20")
  local texts = stories:generate { prompts = { "Once", "The" }, samples = 2, tokens = 5, temperature = 1, seed = 4 }
  local text = expects(0, "^%-%-%- text 1, seed 4\nOnce", "prompt=Once", "prompt=The", "samples=2", "tokens=5", "temperature=1", "seed=4")
  T.ok(text:find("--- text 4, seed 7\n" .. texts[4] .. "\n", 1, true), text)
  local made = core.json.decode(expects(0, "", "prompt=Once", "tokens=3", "eos=none", "bos=false", "--json"):match "^{.-\n}")
  T.eq({ made.texts[1].prompt_tokens, #made.texts[1].ids, made.texts[1].finished, made.tokens }, { 1, 4, "tokens", 3 })
  expects(0, "2 tokens", "prompt=Once", "tokens=9", "eos=378,9") -- ", there": the second of them ends it
  expects(2, "%-%-stream is for one text", "samples=2", "--stream")
  expects(2, "one of %-%-stream and %-%-json", "--json", "--stream")
  expects(2, "eos: ids or none expected, got '1,x'", "eos=1,x")
  expects(2, "bos: true or false expected, got '1'", "bos=1")
  expects(2, "option 'top_p': number from 0 to 1 expected, got 2", "top_p=2")
  expects(2, "option 'stop': text", "stop=")
  for _, words in ipairs { { "generate", "stories260K", "prompt=Once", "tokens=2" }, { "export", "stories260K", T.folder() .. "/m" },
                           { "eval", "stories260K", "windows=1" } } do
    local got, said = tiny.run(words)
    T.eq(got, 0, said)
  end
  T.ok((select(2, tiny.run { "generate", "--help" })):find "there are no chat templates")
end)
