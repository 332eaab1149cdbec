-- Commands about one model.
-- A change here makes no run stale.
local core = require "attnlab.core"
local data = require "attnlab.data"
local generating = require "attnlab.generate"
local model = require "attnlab.model"
local names = require "attnlab.names"
local opening = require "attnlab.open"
local store = require "attnlab.store"
local tables = require "attnlab.table"
local words = require "attnlab.words"
local json, sys = core.json, core.sys

-- The text to measure on: the one asked for, else the one that the model was trained on.
local function text_for(m, path, asked)
  local on = m.trained_on
  if asked or not on then return asked or "shakespeare" end
  local ok, why = pcall(data.path, on.name)
  if not ok then
    error(("%s: %s. The model was trained on this text (sha256 %.12s), which is not here: --data FILE measures on "
      .. "another one"):format(path, why, on.sha256), 0)
  end
  return on.name
end

-- The windows that a run's validation took: { windows, context }; {} for a model file.
local function own_windows(path)
  local ok, spec = pcall(store.config, path)
  local function whole(key)
    local v = ok and type(spec.config.train) == "table" and spec.config.train[key]
    return math.type(v) == "integer" and v > 0 and v or nil -- what is in a folder may be anything
  end
  return { windows = whole "eval_windows", context = whole "eval_context" }
end

-- The model that the first word names, read by the tokenizer and the mapping that others give.
local function load(args, given, usage)
  words.on(args, usage)
  local opts = { tokenizer = given.tokenizer, mapping = given.mapping }
  return words.blame(usage, function(o) return model.load(opening.model_path(args.words[1]), o) end, opts, {})
end

local EVAL = { data = "text", split = "text", window = "number", stride = "number", start = "text", windows = "number",
               lengths = "text", tasks = "text", delimiter = "text", limit = "number", out_dir = "text", tokenizer = "text",
               mapping = "text" }
local OF_TASKS, OF_TEXT = { "delimiter", "limit" }, { "data", "split", "window", "stride", "windows", "lengths" }

-- What the words ask to be measured.
local function asked_measure(args, usage)
  local given = words.values(args, EVAL, usage)
  given.data = args.flags.data or given.data
  if args.flags.windows then given.windows = words.whole(args.flags.windows, "windows", usage, 1) end
  for _, key in ipairs(given.tasks and OF_TEXT or OF_TASKS) do
    if given[key] ~= nil then
      usage("eval: %s: a key of %s, which is not what is measured", key, given.tasks and "texts" or "tasks=FILE.jsonl")
    end
  end
  if given.lengths then
    local list = {}
    for word in (given.lengths .. ","):gmatch "([^,]*)," do
      list[#list + 1] = math.tointeger(tonumber(word)) or usage("lengths: whole numbers as 128,256,512 expected, got '%s'", given.lengths)
    end
    given.lengths = list
  end
  if given.data then words.text(given.data, usage) end
  return given
end

local SHOWN_AFTER = 2 -- seconds

-- on_progress of work that is only told of where it takes long, and what ends the line.
local function progress(label)
  local bar, began
  return function(step, steps)
    began = began or sys.clock()
    if sys.clock() - began < SHOWN_AFTER then return end
    bar = bar or require("attnlab.progress").new { label = label }
    bar:update { step = step, steps = steps, eta = (sys.clock() - began) / step * (steps - step) }
  end, function() if bar then bar:close() end end
end

-- A record on stdout, and in a folder where one is asked for.
local function give(record, name, args, out_dir, figure)
  local text, value = tables.clean(("%s: %s"):format(name, record)), json.encode(record, { pretty = true })
  print(args.flags.json and value or tables.fit(text, tables.terminal()))
  if not out_dir then return 0 end
  sys.mkdir(out_dir)
  sys.write(out_dir .. "/eval.json", value .. "\n")
  sys.write(out_dir .. "/eval.txt", text .. "\n")
  local said, failed = ("written %s/eval.json (.txt)"):format(names.shown(out_dir)), false
  if figure then
    local paths, why, broken = require("attnlab.panels").draw(figure, out_dir, "eval")
    said, failed = said .. (paths and ("\nfigure  %s (.svg)"):format(names.shown(paths.png)) or "\nfigure  none: " .. why), broken
  end
  io.stderr:write(said, "\n")
  return failed and 1 or 0
end

local function eval_tasks(args, given, m, usage)
  local choices = require "attnlab.choices"
  local o = { start = given.start, delimiter = given.delimiter, limit = given.limit }
  words.meant(usage, choices.options, m, o)
  local close
  o.on_progress, close = progress "eval"
  local r = choices(m, given.tasks, o)
  close()
  r.model = args.words[1]
  return give(r, args.words[1], args, given.out_dir)
end

local function eval(args, usage)
  local given = asked_measure(args, usage)
  local m = load(args, given, usage)
  if given.tasks then return eval_tasks(args, given, m, usage) end
  local text = text_for(m, args.words[1], given.data)
  local own, close = own_windows(args.words[1]), nil
  local plain = not (given.stride or given.lengths)
  local o = { data = text, split = given.split, start = given.start, stride = given.stride, lengths = given.lengths,
              windows = given.windows or plain and own.windows or nil,
              window = given.window or not given.lengths and own.context or nil,
              other_text = args.flags["other-text"] or given.data ~= nil }
  local evaluate = require "attnlab.evaluate"
  words.meant(usage, evaluate.options, m, o)
  o.on_progress, close = progress "eval"
  local r = evaluate(m, o)
  close()
  if not (math.abs(r.loss) < math.huge) then
    error(("%s: the loss is %s: the model's numbers left their range"):format(args.words[1], r.loss ~= r.loss and "nan" or r.loss), 0)
  end
  local on = m.trained_on
  if on and on.sha256 ~= r.sha256 then r.trained_on = { name = on.name, sha256 = on.sha256 } end
  r.model = args.words[1]
  return give(r, args.words[1], args, given.out_dir, r.positions and require("attnlab.evaluate.show").figure(r, names.shown(args.words[1])))
end

local GENERATE = { prompt = "texts", stop = "texts", samples = "number", tokens = "number", repetition_penalty = "number",
                   temperature = "number", top_k = "number", top_p = "number", min_p = "number", seed = "number",
                   eos = "text", bos = "boolean", tokenizer = "text", mapping = "text", past_context = "text" }

-- What the words ask of generate.lua.
local function asked_text(args, usage)
  local given = words.values(args, GENERATE, usage)
  if given.prompt and #given.prompt == 1 then
    given.prompt = given.prompt[1]
  else
    given.prompt, given.prompts = nil, given.prompt
  end
  if given.eos == "none" then
    given.eos = false
  elseif given.eos then
    local list = {}
    for word in given.eos:gmatch "[^,]+" do
      list[#list + 1] = math.tointeger(tonumber(word)) or usage("eos: ids or none expected, got '%s'", given.eos)
    end
    given.eos = list
  end
  return given
end

-- Each text with what it was made of, for machines.
local function texts_json(o, texts, ids, took)
  local list = json.array {}
  for i, row in ipairs(o.many and ids or { ids }) do
    list[i] = { text = o.many and texts[i] or texts, ids = json.array(row), prompt_tokens = o.n_prompt[i], seed = o.seed + i - 1,
                finished = o.many and took.finished[i] or took.finished }
  end
  return json.encode({ texts = list, tokens = took.tokens, seconds = took.seconds, prompt_seconds = took.prompt_seconds,
                       state_bytes = took.state_bytes }, { pretty = true })
end

local function generate(args, usage)
  local given = asked_text(args, usage)
  local m = load(args, given, usage)
  given.tokenizer, given.mapping = nil, nil
  if not m.causal then m:generate(given) end -- it says why it does not
  local o = m.vocabulary and words.meant(usage, generating.options, m, given) or generating.options(m, given)
  local function shown(text) return sys.isatty(1) and tables.clean(text) or text end
  if args.flags.stream then
    if o.many then usage "generate: --stream is for one text" end
    if args.flags.json then usage "generate: one of --stream and --json expected, got both" end
    io.write(shown(m.vocabulary:decode(o.rows[1])))
    given.on_text = function(text)
      io.write(shown(text))
      io.flush()
    end
  end
  o.n_prompt = {}
  for i, row in ipairs(o.rows) do o.n_prompt[i] = #row end
  local text, ids, took = m:generate(given)
  if args.flags.json then
    print(texts_json(o, text, ids, took))
  elseif args.flags.stream then
    print()
  else
    for i, t in ipairs(o.many and text or { text }) do
      if o.many then print(("--- text %d, seed %d"):format(i, o.seed + i - 1)) end
      print(shown(t))
    end
  end
  io.stderr:write(generating.summary(took), "\n")
end

return {
  { name = "eval", args = "MODEL [key=value ...]", least = 1, most = 1, sets = true, run = eval,
    doc = "loss of a model file or run folder on validation text, or multiple choice",
    options = { { name = "windows", value = "N", doc = "validation windows (a run's own eval_windows; 96)" },
                { name = "data", value = "TEXT", doc = "name or path (default: what the model was trained on)" },
                { name = "other-text", doc = "measure though the text of that name has changed since" }, words.DEVICE, words.PLUGIN, words.JSON },
    more = "Keys: data=TEXT windows=N as above, split=valid|train|all tokenizer=FILE mapping=FILE.lua out_dir=FOLDER (JSON, text,\n"
      .. "figure). window=N: tokens seen at most. stride=N: windows one after another, each that far on, every token scored\n"
      .. "once (transformers' page on perplexity with max_length = window + 1). start=empty|bos: what a window begins with.\n"
      .. "lengths=64,128,..: the same tokens with contexts of these lengths, beyond the trained one too.\n"
      .. "tasks=FILE.jsonl: multiple choice as lm-evaluation-harness counts it: acc, acc_norm (by characters), acc_token (by\n"
      .. "tokens). A line has ctx|context|query, endings|choices, label|gold (from 0). With it delimiter=TEXT (a blank, between\n"
      .. "context and choice), limit=N questions, start=bos|empty (default: as the tokenizer has it)." },
  { name = "generate", args = "MODEL [key=value ...]", least = 1, most = 1, sets = true, run = generate,
    doc = "text from a model file or run folder",
    more = "Keys: prompt=TEXT (again and again: several at once) samples=N (of each) tokens=N\n"
      .. "repetition_penalty=X temperature=X top_k=N top_p=X min_p=X, in this order and as transformers has them;\n"
      .. "temperature=0, the default, takes the likeliest. seed=N (text i of several: N + i - 1)\n"
      .. "stop=TEXT (again and again: the text ends before it) eos=ID,..|none bos=true|false tokenizer=FILE mapping=FILE.lua\n"
      .. "past_context=slide|continue|stop (when the context is full).\n"
      .. "A prompt is text as it stands: there are no chat templates. Speed and state go to stderr.",
    options = { { name = "stream", doc = "show the text while it is written, in whole characters" }, words.JSON,
                words.DEVICE, words.PLUGIN } },
}
