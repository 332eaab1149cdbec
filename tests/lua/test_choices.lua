-- Multiple choice: lm-evaluation-harness' own numbers, what is read and refused, what surrounds a choice.
local T = ...
local choices = require "attnlab.choices"
local core = require "attnlab.core"
local lab = require "attnlab"
local tiny = dofile(T.root .. "tests/lua/tiny.lua")(T)
local json, sys = core.json, core.sys

local STORIES, FILE = T.root .. "experiments/models/stories260K.bin", T.root .. "tests/golden/choices.jsonl"
local stories = lab.model.load(STORIES)

local function file(...)
  local path = T.folder() .. "/q.jsonl"
  sys.write(path, table.concat({ ... }, "\n") .. "\n")
  return path
end

T.test("likelihoods and accuracies are the harness', with a start token and without one", function()
  local golden = json.decode(sys.read(T.root .. "tests/golden/choices.json"))
  local seen = {}
  for start, want in pairs(golden) do
    local r = lab.choices(stories, FILE, { start = start })
    T.eq({ #r.questions, r.start, r.truncated }, { 24, start, 1 })
    for i, q in ipairs(r.questions) do
      T.near(q.log_likelihoods, want.log_likelihoods[i], 1e-3)
      T.eq(q.tokens, want.tokens[i])
    end
    for _, key in ipairs { "acc", "acc_norm", "acc_token" } do
      T.near({ r[key], r[key .. "_stderr"] }, { want[key], want[key .. "_stderr"] }, 1e-12)
      seen[#seen + 1] = want[key]
    end
  end
  table.sort(seen)
  T.ok(seen[1] < seen[3] and seen[3] < seen[6], "accuracies that differ")
  T.eq(lab.choices(stories, FILE).start, "bos") -- as its tokenizer has it
end)

-- log p of the last n ids, one question alone and nothing padded.
local function alone(ids, n)
  local x = { table.move(ids, 1, #ids - 1, 1, {}) }
  local y = core.tensor { data = { table.move(ids, 2, #ids, 1, {}) }, dtype = "i32" }
  local nll, s = stories:forward(x):cross_entropy(y, { reduction = "none" }):flat(), 0
  for i = #nll - n + 1, #nll do s = s - nll[i] end
  return s
end

T.test("ids of a choice are the whole's behind the context's; blanks go over; an empty context is the start token", function()
  local v = stories.vocabulary
  local r = lab.choices(stories, file(
    [[{"context":"The cat \u00a0","choices":["sat","ran away"],"gold":0}]], [[{"context":"","choices":["One day","Two"],"gold":1}]]))
  local head = v:encode "The cat":flat()
  for i, text in ipairs { "The cat \u{a0} sat", "The cat \u{a0} ran away" } do
    local ids = v:encode(text):flat()
    T.eq({ r.questions[1].tokens[i], r.questions[1].characters[i] }, { #ids - #head, ({ 3, 8 })[i] })
    T.near(r.questions[1].log_likelihoods[i], alone(ids, #ids - #head), 1e-4)
  end
  for i, text in ipairs { " One day", " Two" } do
    local ids = v:encode(text):flat()
    T.near(r.questions[2].log_likelihoods[i], alone(ids, #ids - 1), 1e-4)
  end
  local bare = lab.choices(stories, file [[{"context":"The cat","choices":["sat","ran"],"gold":"1"}]], { delimiter = "", limit = 1 })
  local ids = v:encode "The catsat":flat()
  T.near(bare.questions[1].log_likelihoods[1], alone(ids, #ids - #head), 1e-4)
end)

T.test("a question among many is the question alone, and long contexts lose their beginning", function()
  local r, one = lab.choices(stories, FILE), {}
  for line in sys.read(FILE):gmatch "[^\n]+" do one[#one + 1] = line end
  for _, i in ipairs { 1, 13, 21 } do
    T.near(lab.choices(stories, file(one[i])).questions[1].log_likelihoods, r.questions[i].log_likelihoods, 1e-4)
  end
  local q = json.decode(one[21])
  local ids = stories.vocabulary:encode(q.query .. " " .. q.choices[1]):flat()
  T.ok(#ids > 513, "a context that does not fit")
  T.near(r.questions[21].log_likelihoods[1], alone(table.move(ids, #ids - 512, #ids, 1, {}), r.questions[21].tokens[1]), 1e-3)
  local done = {}
  lab.choices(stories, FILE, { limit = 3, on_progress = function(k, n) done[#done + 1] = { k, n } end })
  T.eq(done[#done], { 9, 9 })
end)

T.test("the first of equals counts; standard errors are of the sample", function()
  local r = lab.choices(stories, file([[{"ctx":"A","endings":["b","b"],"label":0}]], [[{"ctx":"A","endings":["b","b"],"label":1}]]))
  T.eq({ r.acc, r.acc_norm, r.acc_token, r.chance }, { 0.5, 0.5, 0.5, 0.5 })
  T.near(r.acc_stderr, 0.5, 1e-12) -- sqrt(0.5) / sqrt(2)
  T.eq(lab.choices(stories, file [[{"ctx":"A","endings":["b","c"],"label":0}]]).acc_stderr, nil)
  T.ok(tostring(r):find "acc_norm +0.5000 +0.5000")
end)

T.test("lines that are refused, with their number", function()
  local good = [[{"ctx":"A","endings":["b","c"],"label":0}]]
  local function refuses(line, pattern)
    local path = file(good, "", line, good)
    T.raises(function() lab.choices(stories, path) end, "q.jsonl', line 3: " .. pattern)
  end
  refuses([[{"ctx":"A","endings":["b","c"],"label":0]], "json: column")
  refuses([[{"ctx":"A","ctx":"B","endings":["b","c"],"label":0}]], "json: ")
  refuses("[1,2]", "an object expected")
  refuses("7", "an object expected")
  refuses([[{"endings":["b","c"],"label":0}]], "'ctx' is missing %(or 'context', 'query'%)")
  refuses([[{"ctx":"A","query":"A","endings":["b","c"],"label":0}]], "one of 'ctx' and 'query' expected, got both")
  refuses([[{"ctx":1,"endings":["b","c"],"label":0}]], "'ctx': text expected")
  refuses([[{"ctx":"A","endings":["b"],"label":0}]], "'endings': an array of two texts or more")
  refuses([[{"ctx":"A","choices":[],"gold":0}]], "'choices': an array of two texts or more")
  refuses([[{"ctx":"A","choices":{"text":["a","b"]},"gold":0}]], "'choices': an array of two texts or more")
  refuses([[{"ctx":"A","endings":["b",""],"label":0}]], "'endings': text expected as number 1, got an empty one")
  refuses([[{"ctx":"A","endings":["b",3],"label":0}]], "'endings': text expected as number 1, got number")
  refuses([[{"ctx":"A","endings":["b","c"],"label":2}]], "'label': a number from 0 to 1 expected, got 2")
  refuses([[{"ctx":"A","endings":["b","c"],"label":-1}]], "'label': a number from 0 to 1 expected, got %-1")
  refuses([[{"ctx":"A","endings":["b","c"],"label":"1 "}]], "'label': a number from 0 to 1 expected, got \"1 \"")
  refuses([[{"ctx":"A","endings":["b","c"],"gold":0.5}]], "'gold': a number from 0 to 1 expected, got 0.5")
  refuses([[{"ctx":"A","endings":["b","c"],"label":""}]], "'label': a number from 0 to 1")
  refuses([[{"ctx":"A","endings":["b","c"]}]], "'label' is missing %(or 'gold'%)")
  refuses("\xff", "json: ")
  refuses([[{"ctx":"A","endings":["]] .. ("b "):rep(600) .. [[","c"],"label":0}]], "choice 0 has %d+ tokens, the model's context 512")
  refuses(("x"):rep((1 << 20) + 1), "at most 1048576 bytes expected, got 1048577")
  T.raises(function() lab.choices(stories, file "") end, "q.jsonl': no question in it")
  T.raises(function() lab.choices(stories, T.folder() .. "/none.jsonl") end, "none.jsonl")
  T.raises(function() lab.choices(stories, 3) end, "path of a jsonl expected, got number")
end)

T.test("options and models that are refused", function()
  T.raises(function() lab.choices(stories, FILE, { start = "bo" }) end, "option 'start': unknown word 'bo'")
  T.raises(function() lab.choices(stories, FILE, { limit = 0 }) end, "option 'limit': integer >= 1")
  T.raises(function() lab.choices(stories, FILE, { delimiter = 1 }) end, "option 'delimiter': text")
  T.raises(function() lab.choices(stories, FILE, { shots = 1 }) end, "unknown option 'shots'")
  local chars = require("attnlab.vocabulary").characters "ab c"
  local m = lab.model.new { layers = 1, width = 8, heads = 2, context = 8, seed = 1, vocabulary = chars }
  T.raises(function() choices(m, FILE, { start = "bos" }) end, "has no start token")
  T.raises(function() choices(m, file [[{"ctx":"","endings":["a","b"],"label":0}]]) end, "line 1: an empty context, and the tokenizer has neither")
  T.raises(function() choices(m, file [[{"ctx":"a","endings":["x","b"],"label":0}]]) end, "'x' .*is not among")
  T.eq(choices(m, file [[{"ctx":"a","endings":["a","b"],"label":0}]]).start, "empty")
  m.vocabulary = nil
  T.raises(function() choices(m, FILE) end, "the model has no vocabulary")
  T.eq(#choices(stories, file("\u{feff}" .. [[{"ctx":"a","endings":["a","b"],"label":0}]])).questions, 1)
  local bert = lab.model.new { arch = "bert", layers = 1, width = 8, heads = 2, context = 8, seed = 1, vocabulary = chars }
  T.raises(function() choices(bert, FILE) end, "a model that predicts next tokens expected, got a Bert")
  T.raises(function() choices({}, FILE) end, "a model expected, got table")
end)

T.test("eval tasks=: text, JSON, a folder", function()
  local function expects(status, pattern, ...)
    local got, text = tiny.run { "eval", STORIES, "tasks=" .. FILE, ... }
    T.ok(got == status, ("status %d expected, got %d:\n%s"):format(status, got, text))
    T.ok(text:find(pattern), text)
    return text
  end
  expects(0, "24 questions of .*, behind the start token, 1 without.*acc +0.8750 +0.0690 +sum of log%-likelihoods", "out_dir=" .. T.folder())
  local dir = T.folder()
  local r = json.decode(expects(0, "", "limit=2", "start=empty", "--json", "out_dir=" .. dir):match "^{.-\n}")
  T.eq({ #r.questions, r.start, r.delimiter, r.acc, #r.tokenizer.hash, #r.sha256 }, { 2, "empty", " ", 1.0, 64, 64 })
  T.eq(json.decode(sys.read(dir .. "/eval.json")), r)
  expects(2, "option 'start'", "start=no")
  T.eq((tiny.run { "eval", STORIES, "tasks=" .. T.folder() .. "/none" }), 1)
end)
