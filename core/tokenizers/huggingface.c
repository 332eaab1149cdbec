/* huggingface.c: tokenizer.json, as Hugging Face's library tokenizers writes it (0.13 to 0.23).
 *
 * The stages that are known: model BPE and WordPiece; normalizer NFC, NFD, NFKC, NFKD, Lowercase,
 * Prepend, Replace, Strip, StripAccents, BertNormalizer; pre_tokenizer Split, Digits, Punctuation,
 * WhitespaceSplit, BertPreTokenizer, ByteLevel, Metaspace; post_processor TemplateProcessing (of a
 * single text), BertProcessing, RobertaProcessing, ByteLevel; decoder ByteLevel, Metaspace,
 * ByteFallback, Fuse, Replace, Strip, WordPiece; Sequence of each. Any other, and any key that is
 * not known, is refused by its name. `truncation` and `padding` are not applied. */
#include "json.h"
#include "pipeline.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is(const char *type, const char *name) { return strcmp(type, name) == 0; }

static al_status refused(al_ctx *c, const al_json *j, const char *what, const char *type) {
  return al_fail(c, AL_EFORMAT, "tokenizer: %s: the %s '%.60s' is not known here", j->place, what,
                 type);
}

/* The type of a component; its place is then "..: pre_tokenizer Split". */
static al_status type_of(al_ctx *c, al_json *j, const char **type) {
  int64_t n;
  AL_TRY(al_json_need(c, j, "type"));
  AL_TRY(al_json_text(c, j, "type", type, &n));
  const size_t used = strlen(j->place);
  snprintf(j->place + used, sizeof j->place - used, " %.40s", *type);
  return AL_OK;
}

/* Each component of a Sequence, or the one; none where there is none. */
typedef al_status (*on_step)(al_ctx *c, al_pipeline *p, al_json j);

static al_status each(al_ctx *c, al_pipeline *p, al_json j, const char *list, on_step step) {
  if (!j.at) return AL_OK;
  const char *type;
  int64_t n;
  AL_TRY(al_json_need(c, &j, "type"));
  AL_TRY(al_json_text(c, &j, "type", &type, &n));
  if (!is(type, "Sequence")) return step(c, p, j);
  char keys[64];
  al_json items, item;
  snprintf(keys, sizeof keys, "type %s", list);
  AL_TRY(al_json_known(c, &j, keys));
  AL_TRY(al_json_need(c, &j, list));
  AL_TRY(al_json_array(c, &j, list, &items));
  for (size_t i = 0; i < json_array_size(items.at); i++) {
    AL_TRY(al_json_item(c, &items, i, &item));
    const char *name;
    AL_TRY(al_json_text(c, &item, "type", &name, &n));
    if (name && is(name, "Sequence"))
      return al_fail(c, AL_EFORMAT, "tokenizer: %s: a Sequence within a Sequence", item.place);
    AL_TRY(step(c, p, item));
  }
  return AL_OK;
}

/* {"String": text} or {"Regex": pattern}. */
static al_status pattern_of(al_ctx *c, const al_json *j, al_regex **out) {
  al_json k;
  const char *text, *regex;
  int64_t n, m;
  AL_TRY(al_json_need(c, j, "pattern"));
  AL_TRY(al_json_object(c, j, "pattern", &k));
  AL_TRY(al_json_known(c, &k, "String Regex"));
  AL_TRY(al_json_text(c, &k, "String", &text, &n));
  AL_TRY(al_json_text(c, &k, "Regex", &regex, &m));
  if (!text == !regex)
    return al_fail(c, AL_EFORMAT, "tokenizer: %s: 'String' or 'Regex' expected", k.place);
  *out = al_regex_new(c, k.place, text ? text : regex, text ? n : m, text != NULL);
  return *out ? AL_OK : al_error(c);
}

static al_status text_into(al_ctx *c, const al_json *j, const char *key, al_buffer *out) {
  const char *s;
  int64_t n;
  AL_TRY(al_json_need(c, j, key));
  AL_TRY(al_json_text(c, j, key, &s, &n));
  return al_buffer_put(c, out, s, n);
}

/* One character of the file's, at most 4 bytes. */
static al_status mark_of(al_ctx *c, const al_json *j, const char *key, char mark[4], int *mark_n) {
  const char *s;
  int64_t n;
  uint32_t u;
  AL_TRY(al_json_need(c, j, key));
  AL_TRY(al_json_text(c, j, key, &s, &n));
  if (n == 0 || al_utf8(s, n, &u) != n)
    return al_fail(c, AL_EFORMAT, "tokenizer: %s: '%s': one character expected", j->place, key);
  memcpy(mark, s, (size_t)n);
  *mark_n = (int)n;
  return AL_OK;
}

/* Metaspace's keys, old and new: where a mark is put before the text. */
static al_status scheme_of(al_ctx *c, const al_json *j, char *prefix) {
  bool before;
  const char *scheme;
  int64_t n;
  AL_TRY(al_json_known(c, j, "type replacement add_prefix_space prepend_scheme split str_rep"));
  AL_TRY(al_json_bool(c, j, "add_prefix_space", true, &before));
  AL_TRY(al_json_text(c, j, "prepend_scheme", &scheme, &n));
  if (!scheme) scheme = before ? "always" : "never";
  if (!is(scheme, "always") && !is(scheme, "first") && !is(scheme, "never"))
    return al_fail(c, AL_EFORMAT,
                   "tokenizer: %s: 'prepend_scheme': always, first or never expected, got '%.40s'",
                   j->place, scheme);
  *prefix = scheme[0];
  return AL_OK;
}

/* ---- normalizer ------------------------------------------------------------------------------ */

static al_status add_norm(al_ctx *c, al_pipeline *p, al_norm_type type, al_norm **out) {
  AL_TRY(al_room(c, &p->norms, &p->cap_norms, p->n_norms, 1, sizeof *p->norms));
  *out = &p->norms[p->n_norms++];
  **out = (al_norm){.type = type};
  return AL_OK;
}

static al_status add_form(al_ctx *c, al_pipeline *p, const char *form) {
  al_norm *k;
  AL_TRY(add_norm(c, p, AL_NORM_FORM, &k));
  k->form = form;
  return AL_OK;
}

static al_status bert_normalizer(al_ctx *c, al_pipeline *p, const al_json *j) {
  al_norm *k;
  bool lower, accents;
  AL_TRY(al_json_known(c, j, "type clean_text handle_chinese_chars strip_accents lowercase"));
  AL_TRY(al_json_bool(c, j, "lowercase", true, &lower));
  AL_TRY(al_json_bool(c, j, "strip_accents", lower, &accents));
  AL_TRY(add_norm(c, p, AL_NORM_BERT, &k));
  AL_TRY(al_json_bool(c, j, "clean_text", true, &k->clean));
  AL_TRY(al_json_bool(c, j, "handle_chinese_chars", true, &k->chinese));
  if (accents) AL_TRY(add_form(c, p, "NFD"));
  if (accents) AL_TRY(add_norm(c, p, AL_NORM_ACCENTS, &k));
  return lower ? add_norm(c, p, AL_NORM_LOWER, &k) : AL_OK;
}

static al_status normalizer(al_ctx *c, al_pipeline *p, al_json j) {
  static const char *const forms[] = {"NFC", "NFD", "NFKC", "NFKD"};
  const char *type;
  al_norm *k;
  AL_TRY(type_of(c, &j, &type));
  for (int i = 0; i < 4; i++)
    if (is(type, forms[i])) return add_form(c, p, forms[i]);
  if (is(type, "Lowercase")) return add_norm(c, p, AL_NORM_LOWER, &k);
  if (is(type, "StripAccents")) {
    AL_TRY(add_norm(c, p, AL_NORM_ACCENTS, &k));
    return k->all = true, AL_OK;
  }
  if (is(type, "BertNormalizer")) return bert_normalizer(c, p, &j);
  if (is(type, "Prepend")) {
    AL_TRY(al_json_known(c, &j, "type prepend"));
    AL_TRY(add_norm(c, p, AL_NORM_PREPEND, &k));
    return text_into(c, &j, "prepend", &k->text);
  }
  if (is(type, "Replace")) {
    AL_TRY(al_json_known(c, &j, "type pattern content"));
    AL_TRY(add_norm(c, p, AL_NORM_REPLACE, &k));
    AL_TRY(text_into(c, &j, "content", &k->text));
    return pattern_of(c, &j, &k->re);
  }
  if (is(type, "Strip")) {
    AL_TRY(al_json_known(c, &j, "type strip_left strip_right"));
    AL_TRY(add_norm(c, p, AL_NORM_STRIP, &k));
    AL_TRY(al_json_bool(c, &j, "strip_left", true, &k->left));
    return al_json_bool(c, &j, "strip_right", true, &k->right);
  }
  return refused(c, &j, "normalizer", type);
}

/* ---- pre_tokenizer --------------------------------------------------------------------------- */

static al_status add_split(al_ctx *c, al_pipeline *p, al_split_type type, al_behavior how,
                           al_split **out) {
  AL_TRY(al_room(c, &p->splits, &p->cap_splits, p->n_splits, 1, sizeof *p->splits));
  *out = &p->splits[p->n_splits++];
  **out = (al_split){.type = type, .behavior = how, .prefix = 'n'};
  return AL_OK;
}

static al_status behavior_of(al_ctx *c, const al_json *j, al_behavior without, al_behavior *out) {
  static const char *const names[] = {"Removed", "Isolated", "Contiguous", "MergedWithPrevious",
                                      "MergedWithNext"}; /* as in al_behavior */
  const char *name;
  int64_t n;
  AL_TRY(al_json_text(c, j, "behavior", &name, &n));
  *out = without;
  if (!name) return AL_OK;
  for (int i = 0; i < 5; i++)
    if (is(name, names[i])) return *out = (al_behavior)i, AL_OK;
  return refused(c, j, "behavior", name);
}

static al_status pre_tokenizer(al_ctx *c, al_pipeline *p, al_json j) {
  const char *type;
  al_split *k;
  bool flag;
  AL_TRY(type_of(c, &j, &type));
  if (is(type, "Split")) {
    AL_TRY(al_json_known(c, &j, "type pattern behavior invert"));
    AL_TRY(al_json_need(c, &j, "behavior"));
    AL_TRY(add_split(c, p, AL_SPLIT_REGEX, AL_ISOLATED, &k));
    AL_TRY(behavior_of(c, &j, AL_ISOLATED, &k->behavior));
    AL_TRY(al_json_bool(c, &j, "invert", false, &k->invert));
    return pattern_of(c, &j, &k->re);
  }
  if (is(type, "Digits")) {
    AL_TRY(al_json_known(c, &j, "type individual_digits"));
    AL_TRY(al_json_bool(c, &j, "individual_digits", false, &flag));
    return add_split(c, p, AL_SPLIT_NUMBERS, flag ? AL_ISOLATED : AL_CONTIGUOUS, &k);
  }
  if (is(type, "Punctuation")) {
    AL_TRY(al_json_known(c, &j, "type behavior"));
    AL_TRY(add_split(c, p, AL_SPLIT_PUNCT, AL_ISOLATED, &k));
    return behavior_of(c, &j, AL_ISOLATED, &k->behavior);
  }
  if (is(type, "WhitespaceSplit")) return add_split(c, p, AL_SPLIT_SPACES, AL_REMOVED, &k);
  if (is(type, "BertPreTokenizer")) {
    AL_TRY(add_split(c, p, AL_SPLIT_SPACES, AL_REMOVED, &k));
    return add_split(c, p, AL_SPLIT_PUNCT, AL_ISOLATED, &k);
  }
  if (is(type, "ByteLevel")) {
    AL_TRY(al_json_known(c, &j, "type add_prefix_space trim_offsets use_regex"));
    AL_TRY(add_split(c, p, AL_SPLIT_BYTES, AL_ISOLATED, &k));
    AL_TRY(al_json_bool(c, &j, "add_prefix_space", true, &flag));
    if (flag) k->prefix = 'a';
    AL_TRY(al_json_bool(c, &j, "use_regex", true, &flag));
    if (flag) k->re = al_regex_new(c, j.place, AL_GPT2_PATTERN, sizeof AL_GPT2_PATTERN - 1, false);
    return al_error(c);
  }
  if (is(type, "Metaspace")) {
    AL_TRY(add_split(c, p, AL_SPLIT_META, AL_MERGED_NEXT, &k));
    AL_TRY(scheme_of(c, &j, &k->prefix));
    AL_TRY(mark_of(c, &j, "replacement", k->mark, &k->mark_n));
    AL_TRY(al_json_bool(c, &j, "split", true, &k->cut));
    if (k->cut) k->re = al_regex_new(c, j.place, k->mark, k->mark_n, true);
    return al_error(c);
  }
  return refused(c, &j, "pre_tokenizer", type);
}

/* ---- decoder --------------------------------------------------------------------------------- */

static al_status decoder(al_ctx *c, al_pipeline *p, al_json j) {
  const char *type;
  AL_TRY(type_of(c, &j, &type));
  AL_TRY(al_room(c, &p->decodes, &p->cap_decodes, p->n_decodes, 1, sizeof *p->decodes));
  al_decode *k = &p->decodes[p->n_decodes++];
  *k = (al_decode){.type = AL_DECODE_FUSE};
  if (is(type, "Fuse")) return AL_OK;
  if (is(type, "ByteLevel")) return k->type = AL_DECODE_BYTES, AL_OK;
  if (is(type, "ByteFallback")) return k->type = AL_DECODE_FALLBACK, AL_OK;
  if (is(type, "Metaspace")) {
    k->type = AL_DECODE_META;
    AL_TRY(scheme_of(c, &j, &k->prefix));
    return mark_of(c, &j, "replacement", k->mark, &k->mark_n);
  }
  if (is(type, "Replace")) {
    k->type = AL_DECODE_REPLACE;
    AL_TRY(al_json_known(c, &j, "type pattern content"));
    AL_TRY(text_into(c, &j, "content", &k->text));
    return pattern_of(c, &j, &k->re);
  }
  if (is(type, "Strip")) {
    char mark[4];
    int n;
    k->type = AL_DECODE_STRIP;
    AL_TRY(al_json_known(c, &j, "type content start stop"));
    AL_TRY(mark_of(c, &j, "content", mark, &n));
    AL_TRY(al_buffer_put(c, &k->text, mark, n));
    AL_TRY(al_json_int(c, &j, "start", 0, &k->left));
    return al_json_int(c, &j, "stop", 0, &k->right);
  }
  if (is(type, "WordPiece")) {
    k->type = AL_DECODE_WORDPIECE;
    AL_TRY(al_json_known(c, &j, "type prefix cleanup"));
    AL_TRY(text_into(c, &j, "prefix", &k->text));
    return al_json_bool(c, &j, "cleanup", true, &k->cleanup);
  }
  return refused(c, &j, "decoder", type);
}

/* ---- post_processor -------------------------------------------------------------------------- */

static al_status put_id(al_ctx *c, const al_pipeline *p, const al_json *j, const json_t *id,
                        al_idlist *out) {
  const json_int_t k = json_is_integer(id) ? json_integer_value(id) : -1;
  if (k < 0 || k >= p->tokens.n)
    return al_fail(c, AL_EFORMAT, "tokenizer: %s: an id from 0 to %lld expected", j->place,
                   (long long)p->tokens.n - 1);
  return al_idlist_put(c, out, (int32_t)k);
}

/* "single": special tokens before and behind the text, {"SpecialToken": {id}} and {"Sequence"}. */
static al_status template_of(al_ctx *c, al_pipeline *p, const al_json *j) {
  al_json single, specials, item, k;
  bool behind = false;
  AL_TRY(al_json_known(c, j, "type single pair special_tokens"));
  AL_TRY(al_json_need(c, j, "single"));
  AL_TRY(al_json_array(c, j, "single", &single));
  AL_TRY(al_json_object(c, j, "special_tokens", &specials));
  for (size_t i = 0; i < json_array_size(single.at); i++) {
    AL_TRY(al_json_item(c, &single, i, &item));
    AL_TRY(al_json_known(c, &item, "SpecialToken Sequence"));
    AL_TRY(al_json_object(c, &item, "Sequence", &k));
    if (k.at && behind)
      return al_fail(c, AL_EFORMAT, "tokenizer: %s: the text stands in it twice", single.place);
    if (k.at) {
      behind = true;
      continue;
    }
    const char *name;
    int64_t n;
    al_json token, ids;
    AL_TRY(al_json_need(c, &item, "SpecialToken"));
    AL_TRY(al_json_object(c, &item, "SpecialToken", &k));
    AL_TRY(al_json_need(c, &k, "id"));
    AL_TRY(al_json_text(c, &k, "id", &name, &n));
    if (!specials.at) return al_json_need(c, j, "special_tokens");
    AL_TRY(al_json_need(c, &specials, name));
    AL_TRY(al_json_object(c, &specials, name, &token));
    AL_TRY(al_json_need(c, &token, "ids"));
    AL_TRY(al_json_array(c, &token, "ids", &ids));
    for (size_t t = 0; t < json_array_size(ids.at); t++)
      AL_TRY(put_id(c, p, &ids, json_array_get(ids.at, t),
                    behind ? &p->base.suffix : &p->base.prefix));
  }
  if (behind) return AL_OK;
  return al_fail(c, AL_EFORMAT, "tokenizer: %s: the text does not stand in it", single.place);
}

static al_status post_processor(al_ctx *c, al_pipeline *p, al_json j) {
  const char *type;
  al_json cls, sep;
  AL_TRY(type_of(c, &j, &type));
  if (is(type, "ByteLevel")) return AL_OK;
  if (is(type, "TemplateProcessing")) return template_of(c, p, &j);
  if (!is(type, "BertProcessing") && !is(type, "RobertaProcessing"))
    return refused(c, &j, "post_processor", type);
  AL_TRY(al_json_known(c, &j, "type sep cls trim_offsets add_prefix_space"));
  AL_TRY(al_json_need(c, &j, "sep"));
  AL_TRY(al_json_need(c, &j, "cls"));
  AL_TRY(al_json_array(c, &j, "sep", &sep));
  AL_TRY(al_json_array(c, &j, "cls", &cls));
  AL_TRY(put_id(c, p, &cls, json_array_get(cls.at, 1), &p->base.prefix));
  return put_id(c, p, &sep, json_array_get(sep.at, 1), &p->base.suffix);
}

/* ---- model ----------------------------------------------------------------------------------- */

static al_status unknown_of(al_ctx *c, const al_pipeline *p, const al_json *j, int32_t *id) {
  const char *name;
  int64_t n;
  AL_TRY(al_json_text(c, j, "unk_token", &name, &n));
  *id = name ? al_pieces_find(&p->tokens, name, n) : -1;
  if (!name || *id >= 0) return AL_OK;
  return al_fail(c, AL_EFORMAT, "tokenizer: %s: 'unk_token': '%.60s' is no token", j->place, name);
}

static al_status empty(al_ctx *c, const al_json *j, const char *key) {
  const json_t *v = json_object_get(j->at, key);
  if (!v || json_is_null(v) || (json_is_string(v) && json_string_length(v) == 0)) return AL_OK;
  if (json_is_number(v) && json_number_value(v) == 0) return AL_OK;
  return al_fail(c, AL_EFORMAT, "tokenizer: %s: '%s' is not known here", j->place, key);
}

/* A merge, "a b" or ["a", "b"]. */
static al_status merge_of(al_ctx *c, al_pipeline *p, const char *what, const json_t *m) {
  const json_t *a = json_array_get(m, 0), *b = json_array_get(m, 1);
  if (json_is_array(m) && json_array_size(m) == 2 && json_is_string(a) && json_is_string(b))
    return al_bpe_merge(c, p->bpe, what, json_string_value(a), (int64_t)json_string_length(a),
                        json_string_value(b), (int64_t)json_string_length(b));
  const char *s = json_string_value(m), *space = s ? strchr(s, ' ') : NULL;
  if (!space || strchr(space + 1, ' '))
    return al_fail(c, AL_EFORMAT, "tokenizer: %s: two tokens expected, \"a b\" or [\"a\", \"b\"]",
                   what);
  return al_bpe_merge(c, p->bpe, what, s, space - s, space + 1,
                      (int64_t)json_string_length(m) - (space + 1 - s));
}

static al_status bpe(al_ctx *c, al_pipeline *p, const al_json *j) {
  al_json merges;
  al_bpe_options o = {0};
  AL_TRY(al_json_known(c, j,
                       "type dropout unk_token continuing_subword_prefix end_of_word_suffix "
                       "fuse_unk byte_fallback ignore_merges vocab merges"));
  AL_TRY(empty(c, j, "dropout"));
  AL_TRY(empty(c, j, "continuing_subword_prefix"));
  AL_TRY(empty(c, j, "end_of_word_suffix"));
  AL_TRY(al_json_bool(c, j, "fuse_unk", false, &o.fuse_unk));
  AL_TRY(al_json_bool(c, j, "byte_fallback", false, &o.byte_fallback));
  AL_TRY(al_json_bool(c, j, "ignore_merges", false, &o.ignore_merges));
  AL_TRY(unknown_of(c, p, j, &o.unk));
  p->base.unk = o.unk;
  AL_TRY(al_json_need(c, j, "merges"));
  AL_TRY(al_json_array(c, j, "merges", &merges));
  const size_t n = json_array_size(merges.at);
  if (!(p->bpe = al_bpe_new(c, &p->tokens, o, (int64_t)n))) return al_error(c);
  for (size_t i = 0; i < n; i++) {
    char what[300];
    snprintf(what, sizeof what, "%s[%zu]", merges.place, i);
    AL_TRY(merge_of(c, p, what, json_array_get(merges.at, i)));
  }
  return AL_OK;
}

static al_status wordpiece(al_ctx *c, al_pipeline *p, const al_json *j) {
  const char *prefix;
  int64_t n;
  AL_TRY(al_json_known(c, j,
                       "type unk_token continuing_subword_prefix max_input_chars_per_word vocab"));
  AL_TRY(al_json_need(c, j, "unk_token"));
  AL_TRY(unknown_of(c, p, j, &p->wordpiece.unk));
  p->base.unk = p->wordpiece.unk;
  AL_TRY(al_json_int(c, j, "max_input_chars_per_word", 100, &p->wordpiece.longest));
  AL_TRY(al_json_text(c, j, "continuing_subword_prefix", &prefix, &n));
  if (!prefix) prefix = "##", n = 2;
  if (n >= (int64_t)sizeof p->wordpiece.prefix || strlen(prefix) != (size_t)n)
    return al_fail(c, AL_EFORMAT,
                   "tokenizer: %s: 'continuing_subword_prefix': a shorter one expected", j->place);
  strcpy(p->wordpiece.prefix, prefix);
  return AL_OK;
}

static al_status added_of(al_ctx *c, const al_json *j, al_added *a) {
  const char *s;
  int64_t id;
  *a = (al_added){0};
  AL_TRY(al_json_known(c, j, "id content single_word lstrip rstrip normalized special"));
  AL_TRY(al_json_need(c, j, "id"));
  AL_TRY(al_json_need(c, j, "content"));
  AL_TRY(al_json_int(c, j, "id", 0, &id));
  AL_TRY(al_json_text(c, j, "content", &s, &a->n));
  AL_TRY(al_json_bool(c, j, "single_word", false, &a->single_word));
  AL_TRY(al_json_bool(c, j, "lstrip", false, &a->lstrip));
  AL_TRY(al_json_bool(c, j, "rstrip", false, &a->rstrip));
  AL_TRY(al_json_bool(c, j, "special", false, &a->special));
  AL_TRY(al_json_bool(c, j, "normalized", !a->special, &a->normalized));
  if (id < 0 || id >= AL_MAX_PIECES)
    return al_fail(c, AL_EFORMAT, "tokenizer: %s: 'id': %lld is out of range", j->place,
                   (long long)id);
  if (a->n == 0) return al_fail(c, AL_EFORMAT, "tokenizer: %s: 'content' is empty", j->place);
  a->id = (int32_t)id;
  a->text = (char *)(uintptr_t)s; /* borrowed; al_pipeline_add copies it */
  return AL_OK;
}

/* Tokens of the model and those added, by id; an added one may stand in the model, too. */
static al_status tokens_of(al_ctx *c, al_pipeline *p, const al_json *model, const al_json *added) {
  al_json vocab, item;
  al_token_list list = {0};
  AL_TRY(al_json_need(c, model, "vocab"));
  AL_TRY(al_json_object(c, model, "vocab", &vocab));
  al_json_ids(c, &vocab, &list);
  for (size_t i = 0; i < json_array_size(added->at) && al_error(c) == AL_OK; i++) {
    al_added a;
    if (al_json_item(c, added, i, &item) != AL_OK || added_of(c, &item, &a) != AL_OK) break;
    const json_t *own = json_object_get(vocab.at, a.text);
    if (own && json_integer_value(own) != a.id)
      al_fail(c, AL_EFORMAT,
              "tokenizer: %s: '%.60s' has the id %d here and %lld in the model's vocab", item.place,
              a.text, a.id, (long long)json_integer_value(own));
    else al_token_put(c, &list, item.place, a.id, a.text, a.n);
  }
  if (al_error(c) == AL_OK) al_token_close(c, &list, vocab.place, &p->tokens);
  free(list.at);
  return al_error(c);
}

static al_status model_of(al_ctx *c, al_pipeline *p, al_json j) {
  const char *type;
  int64_t n;
  AL_TRY(al_json_text(c, &j, "type", &type, &n));
  if (!type) type = json_object_get(j.at, "merges") ? "BPE" : "without a type"; /* old files */
  const size_t used = strlen(j.place);
  snprintf(j.place + used, sizeof j.place - used, " %.40s", type);
  return is(type, "BPE")         ? bpe(c, p, &j)
         : is(type, "WordPiece") ? wordpiece(c, p, &j)
                                 : refused(c, &j, "model", type);
}

/* ---- the file -------------------------------------------------------------------------------- */

static al_status read_file(al_ctx *c, al_pipeline *p, const al_json *root) {
  al_json model, added, stage, item;
  AL_TRY(al_json_known(c, root,
                       "version truncation padding added_tokens normalizer pre_tokenizer "
                       "post_processor decoder model"));
  AL_TRY(al_json_need(c, root, "model"));
  AL_TRY(al_json_object(c, root, "model", &model));
  AL_TRY(al_json_array(c, root, "added_tokens", &added));
  const json_t *vocab = json_object_get(model.at, "vocab");
  if (vocab && json_is_array(vocab))
    return model_of(c, p, model); /* Unigram: refused by its name */
  AL_TRY(tokens_of(c, p, &model, &added));
  AL_TRY(model_of(c, p, model));
  AL_TRY(al_json_object(c, root, "normalizer", &stage));
  AL_TRY(each(c, p, stage, "normalizers", normalizer));
  AL_TRY(al_json_object(c, root, "pre_tokenizer", &stage));
  AL_TRY(each(c, p, stage, "pretokenizers", pre_tokenizer));
  AL_TRY(al_json_object(c, root, "decoder", &stage));
  AL_TRY(each(c, p, stage, "decoders", decoder));
  p->joined = p->n_decodes == 0;
  AL_TRY(al_json_object(c, root, "post_processor", &stage));
  AL_TRY(each(c, p, stage, "processors", post_processor));
  for (size_t i = 0; i < json_array_size(added.at); i++) {
    al_added a;
    AL_TRY(al_json_item(c, &added, i, &item));
    AL_TRY(added_of(c, &item, &a));
    AL_TRY(al_pipeline_add(c, p, &a));
  }
  return al_pipeline_finish(c, p);
}

static al_vocab *make(al_ctx *c, const al_source *files, int n_files) {
  if (n_files < 1) return al_fail(c, AL_EVALUE, "tokenizer: tokenizer.json needed"), NULL;
  al_pipeline *p = al_vocab_alloc(c, &al_kind_huggingface, sizeof *p);
  json_t *root = p ? al_json_read(c, files) : NULL;
  al_json j = {.at = root};
  snprintf(j.place, sizeof j.place, "%.200s", files->name);
  if (root) read_file(c, p, &j);
  json_decref(root);
  return (al_vocab *)p;
}

const al_vocab_kind al_kind_huggingface = {.name = "huggingface", .make = make, AL_PIPELINE};
