-- A config.json of Hugging Face, key by key: c:integer "hidden_size", c:number("rms_norm_eps", 1e-6), .. give a
-- checked value, or the default where the key is missing or null; without a default that is an error. What is never
-- asked for may change what the model computes: c:done() refuses it by name, unless it is one of HARMLESS or the
-- caller named it as such.
local core = require "attnlab.core"
local names = require "attnlab.names"
local rows = require "attnlab.rows"

local MOST = (1 << 31) - 1

local Keys = {}
Keys.__index = Keys
local M = {}

-- What changes nothing of the logits of one forward: who wrote the file, types of files, what training and generate()
-- do (dropout is off where a model is used), what other heads have.
local HARMLESS = {}
for key in ([[
  _name_or_path _commit_hash transformers_version torch_dtype dtype use_cache initializer_range initializer_factor
  bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id cls_token_id mask_token_id decoder_start_token_id
  output_attentions output_hidden_states output_scores return_dict return_dict_in_generate use_return_dict
  problem_type id2label label2id num_labels finetuning_task task_specific_params tokenizer_class prefix
  chunk_size_feed_forward torchscript use_bfloat16 tf_legacy_loss gradient_checkpointing pretraining_tp
  attention_dropout hidden_dropout classifier_dropout resid_pdrop embd_pdrop attn_pdrop embedding_dropout
  hidden_dropout_prob attention_probs_dropout_prob summary_type summary_use_proj summary_activation
  summary_proj_to_labels summary_first_dropout reorder_and_upcast_attn max_length min_length do_sample early_stopping
  num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty
  no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences forced_bos_token_id
  forced_eos_token_id remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
  attn_implementation _attn_implementation _attn_implementation_autoset
]]):gmatch "%S+" do HARMLESS[key] = true end

-- Keys of every model that have to say this, where they are there.
local EXPECTED = { is_encoder_decoder = false, add_cross_attention = false, tie_encoder_decoder = false }
-- ..and where anything but nothing is code or arithmetic that is not here.
local NOTHING = { "quantization_config", "cross_attention_hidden_size", "pruned_heads", "auto_map" }

-- shown: the path for errors. ignore: list of keys that the caller says are harmless.
function M.new(values, shown, ignore)
  local self = setmetatable({ values = values, shown = shown, asked = {}, ignored = {} }, Keys)
  for _, key in ipairs(ignore or {}) do self.ignored[key] = true end
  return self
end

-- A value as the file has it.
local function shown(v)
  return type(v) == "string" and ("'%s'"):format(v) or v == core.json.null and "null" or rows.show(v)
end

function Keys:fail(key, format, ...)
  error(("'%s': key '%s': %s"):format(self.shown, key, format:format(...)), 0)
end

-- The value, nil where it is missing or null; it counts as read.
function Keys:get(key)
  self.asked[key] = true
  local v = self.values[key]
  if v == core.json.null then return nil end
  return v
end

function Keys:of_type(key, default, what, check)
  local v = self:get(key)
  if v == nil then
    if default == nil then self:fail(key, "%s expected, the key is missing", what) end
    return default or nil -- false: it may be missing
  end
  local checked = check(v)
  if checked == nil then self:fail(key, "%s expected, got %s", what, shown(v)) end
  return checked
end

-- A whole number of least (1) or more.
function Keys:integer(key, default, least)
  least = least or 1
  return self:of_type(key, default, ("a whole number from %d to %d"):format(least, MOST), function(v)
    v = type(v) == "number" and math.tointeger(v)
    return v and v >= least and v <= MOST and v or nil
  end)
end

-- A finite number above `above` (nil: any).
function Keys:number(key, default, above)
  return self:of_type(key, default, above and ("a number above %g"):format(above) or "a number", function(v)
    return type(v) == "number" and v == v and math.abs(v) < math.huge and (not above or v > above) and v or nil
  end)
end

-- true or false; the default may be either.
function Keys:bool(key, default)
  local v = self:get(key)
  if v == nil then v = default end
  if type(v) ~= "boolean" then
    self:fail(key, "true or false expected, %s", v == nil and "the key is missing" or "got " .. rows.show(v))
  end
  return v
end

-- One of the keys of `words`; gives what they map to.
function Keys:word(key, words, default)
  local v = self:get(key)
  if v == nil then v = default end
  if v == nil then self:fail(key, "a word expected, the key is missing") end
  if type(v) ~= "string" or words[v] == nil then
    local what = type(v) == "string" and names.unknown("word", v, names.keys(words)) or "a word expected, got " .. rows.show(v)
    self:fail(key, "%s", what)
  end
  return words[v]
end

-- Refuses the key where it is there with another value than this: nothing here computes that.
function Keys:must(key, value)
  local v = self:get(key)
  if v ~= nil and not rows.equal(v, value) then
    self:fail(key, "only %s is known here, got %s", rows.show(value), rows.show(v))
  end
end

-- The keys of a table below: as a reader of its own.
function Keys:inner(key)
  local v = self:get(key)
  if v == nil then return nil end
  if type(v) ~= "table" or #v > 0 then self:fail(key, "an object expected, got %s", rows.show(v)) end
  return M.new(v, ("%s': '%s"):format(self.shown, key))
end

-- Refuses what nobody asked for and nobody calls harmless; more: further such keys of this model's type.
function Keys:done(more)
  local also = {}
  for _, key in ipairs(more or {}) do also[key] = true end
  for key, v in pairs(EXPECTED) do self:must(key, v) end
  for _, key in ipairs(NOTHING) do
    local v = self:get(key)
    if v ~= nil and not also[key] and not (type(v) == "table" and next(v) == nil) then
      self:fail(key, "nothing like it is known here, got %s", rows.show(v))
    end
  end
  for _, key in ipairs(names.keys(self.values)) do
    if not (self.asked[key] or HARMLESS[key] or also[key] or self.ignored[key]) then
      self:fail(key, "not known here, and may change what the model computes (option ignore = {%q} says that it does not)", key)
    end
  end
end

-- The harmless keys that are there, as they are.
function Keys:harmless()
  local out = {}
  for _, key in ipairs(names.keys(self.values)) do
    if HARMLESS[key] then out[key] = self.values[key] end
  end
  return out
end

return M
