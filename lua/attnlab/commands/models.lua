-- Commands about one model.
-- A change here makes no run stale.
local core = require "attnlab.core"
local data = require "attnlab.data"
local generating = require "attnlab.generate"
local model = require "attnlab.model"
local store = require "attnlab.store"
local tables = require "attnlab.table"
local words = require "attnlab.words"
local window_of = require "attnlab.model.window"
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

local MOST_EXP = 709 -- whose exponential is a number

-- The model that the first word names, read by the tokenizer and the mapping that others give.
local function load(args, given, usage)
  words.on(args, usage)
  local opts = { tokenizer = given.tokenizer, mapping = given.mapping }
  return words.blame(usage, function(o) return model.load(args.words[1], o) end, opts, {})
end

local function eval(args, usage)
  local given = words.values(args, { data = "text", tokenizer = "text", mapping = "text" }, usage)
  local windows = args.flags.windows and words.whole(args.flags.windows, "windows", usage, 1)
  local asked = args.flags.data or given.data
  if asked then words.text(asked, usage) end
  local m = load(args, given, usage)
  local text = text_for(m, args.words[1], asked)
  local own = own_windows(args.words[1])
  local context = own.context or window_of(m)
  local set = require("attnlab.evalset") { data = text, windows = windows or own.windows or 96, context = context,
    other_text = args.flags["other-text"] or asked ~= nil }
  local loss, se, each = set(m)
  if not (math.abs(loss) < math.huge) then
    error(("%s: the loss is %s: the model's numbers left their range"):format(args.words[1], loss ~= loss and "nan" or loss), 0)
  end
  local set_data = set:open(m)
  local bytes = set_data.text_bytes / set_data.tokens:numel()
  local bits = loss / math.log(2) / bytes
  local result = { data = text, sha256 = set_data.sha256, windows = #each, context = context, loss = loss, standard_error = se,
                   perplexity = loss < MOST_EXP and math.exp(loss) or nil, bits_per_byte = bits }
  if args.flags.json then
    print(json.encode(result, { pretty = true }))
  else
    print(("%s: %.4f nats per token%s, perplexity %s, %.4f bits per byte"):format(args.words[1], loss,
      se and (" (standard error %.4f)"):format(se) or "", result.perplexity and ("%.3f"):format(result.perplexity) or "above all numbers", bits))
    local on = m.trained_on
    if on and on.sha256 ~= set_data.sha256 then
      print(("not the text that the model was trained on ('%s', sha256 %.12s)"):format(on.name, on.sha256))
    end
    print(("validation part of '%s', %d windows of %d tokens, each from an empty context%s"):format(text, #each, context,
      m.config.context < context and (", in pieces of %d"):format(m.config.context) or ""))
  end
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
    doc = "loss of a model file or run folder on validation text",
    options = { { name = "windows", value = "N", doc = "validation windows (a run's own eval_windows; 96)" },
                { name = "data", value = "TEXT", doc = "name or path (default: what the model was trained on)" },
                { name = "other-text", doc = "measure though the text of that name has changed since" }, words.DEVICE, words.PLUGIN, words.JSON },
    more = "Keys: data=TEXT as --data, tokenizer=FILE, mapping=FILE.lua (how a folder of another layout is read)." },
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
