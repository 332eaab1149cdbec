/* ranks.c: byte pair encodings that are a list and a pattern, not a tokenizer.json.
 *
 * "gpt2": merges, "a b" a line in GPT-2's alphabet, under a line "#version"; and a vocabulary
 * (encoder.json, vocab.json), token to id. Without one the ids follow from the merges: the 256
 * bytes, those printable as Latin-1 first, the merges in order, "<|endoftext|>". What no merge makes
 * and is no byte is a special token.
 * "tiktoken": a line for each token, its bytes in base64 and its rank, which is its id and says
 * when it is merged; the second file, {"pattern", "special": {name: id}}, says how words are cut.
 * "tekken": tekken.json of Mistral's: the same with its pattern inside; ids are ranks behind the
 * special tokens. BOS goes first, as these models were trained. */
#include "json.h"
#include "pipeline.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Words are cut by the pattern and spelt as bytes; decoding is the way back. */
static al_status stages(al_ctx *c, al_pipeline *p, const char *what, const char *pattern,
                        int64_t n) {
  AL_TRY(al_room(c, &p->splits, &p->cap_splits, p->n_splits, 1, sizeof *p->splits));
  AL_TRY(al_room(c, &p->decodes, &p->cap_decodes, p->n_decodes, 1, sizeof *p->decodes));
  p->splits[p->n_splits++] =
      (al_split){.type = AL_SPLIT_BYTES, .behavior = AL_ISOLATED, .prefix = 'n'};
  p->decodes[p->n_decodes++] = (al_decode){.type = AL_DECODE_BYTES};
  p->splits[0].re = al_regex_new(c, what, pattern, n, false);
  return al_error(c);
}

/* The next line of a text without its end; false behind the last. */
static bool next_line(const char **at, const char *end, const char **line, int64_t *n) {
  if (*at >= end) return false;
  const char *nl = memchr(*at, '\n', (size_t)(end - *at));
  *line = *at;
  *at = nl ? nl + 1 : end;
  *n = (nl ? nl : end) - *line;
  if (*n > 0 && (*line)[*n - 1] == '\r') --*n;
  return true;
}

/* ---- gpt2 ------------------------------------------------------------------------------------ */

typedef al_status (*on_merge)(al_ctx *c, al_pipeline *p, al_token_list *l, const char *what,
                              const char *a, int64_t n_a, const char *b, int64_t n_b);

static al_status each_merge(al_ctx *c, al_pipeline *p, al_token_list *l, const al_source *file,
                            on_merge f) {
  const char *at = file->data, *end = file->data + file->n, *s;
  int64_t n;
  for (int64_t number = 1; next_line(&at, end, &s, &n); number++) {
    if (n == 0 || (number == 1 && n >= 8 && memcmp(s, "#version", 8) == 0)) continue;
    char what[300];
    snprintf(what, sizeof what, "%.200s: line %lld", file->name, (long long)number);
    const char *space = memchr(s, ' ', (size_t)n);
    if (!space || memchr(space + 1, ' ', (size_t)(s + n - space - 1)) || memchr(s, 0, (size_t)n))
      return al_fail(c, AL_EFORMAT, "tokenizer: %s: two tokens and a space expected", what);
    AL_TRY(f(c, p, l, what, s, space - s, space + 1, s + n - space - 1));
  }
  return AL_OK;
}

/* The merges' tokens are text that must stay: the pieces hold it, ids are closed when all are in. */
static al_status follow(al_ctx *c, al_pipeline *p, al_token_list *l, const char *what,
                        const char *a, int64_t n_a, const char *b, int64_t n_b) {
  (void)what;
  (void)l;
  al_buffer joint = {0};
  if (al_buffer_put(c, &joint, a, n_a) == AL_OK && al_buffer_put(c, &joint, b, n_b) == AL_OK)
    al_pieces_add(c, &p->tokens, joint.s, joint.n);
  free(joint.s);
  return al_error(c);
}

static al_status merge(al_ctx *c, al_pipeline *p, al_token_list *l, const char *what, const char *a,
                       int64_t n_a, const char *b, int64_t n_b) {
  (void)l;
  return al_bpe_merge(c, p->bpe, what, a, n_a, b, n_b);
}

static al_status put_byte(al_ctx *c, al_pipeline *p, int byte) {
  char s[4];
  return al_pieces_add(c, &p->tokens, s, al_put_utf8(al_byte_char((unsigned char)byte), s));
}

static al_status ids_follow(al_ctx *c, al_pipeline *p, const al_source *merges) {
  for (int i = 0; i < 256; i++)
    if (al_byte_char((unsigned char)i) == (uint32_t)i) AL_TRY(put_byte(c, p, i));
  for (int i = 0; i < 256; i++)
    if (al_byte_char((unsigned char)i) != (uint32_t)i) AL_TRY(put_byte(c, p, i));
  AL_TRY(each_merge(c, p, NULL, merges, follow));
  AL_TRY(al_pieces_add(c, &p->tokens, "<|endoftext|>", 13));
  if (p->tokens.n > AL_MAX_PIECES)
    return al_fail(c, AL_EFORMAT, "tokenizer: %s: too many merges", merges->name);
  return al_pieces_index(c, &p->tokens, 0);
}

static al_status ids_of(al_ctx *c, al_pipeline *p, const al_source *file) {
  json_t *root = al_json_read(c, file);
  if (!root) return al_error(c);
  al_token_list list = {0};
  al_json j = {.at = root};
  snprintf(j.place, sizeof j.place, "%.200s", file->name);
  if (al_json_ids(c, &j, &list) == AL_OK) al_token_close(c, &list, file->name, &p->tokens);
  free(list.at);
  json_decref(root);
  return al_error(c);
}

static al_status note_made(al_ctx *c, al_pipeline *p, al_token_list *l, const char *what,
                           const char *a, int64_t n_a, const char *b, int64_t n_b) {
  (void)what;
  al_buffer joint = {0};
  if (al_buffer_put(c, &joint, a, n_a) == AL_OK) al_buffer_put(c, &joint, b, n_b);
  const int32_t id = al_error(c) == AL_OK ? al_pieces_find(&p->tokens, joint.s, joint.n) : -1;
  if (id >= 0) l->at[id].n = 1;
  free(joint.s);
  return al_error(c);
}

/* Tokens that no merge makes, longer than a byte. */
static al_status find_specials(al_ctx *c, al_pipeline *p, const al_source *merges) {
  al_token_list made = {0};
  AL_TRY(al_room(c, &made.at, &made.cap, 0, p->tokens.n, sizeof *made.at));
  each_merge(c, p, &made, merges, note_made);
  for (int64_t id = 0; id < p->tokens.n && al_error(c) == AL_OK; id++) {
    int64_t n;
    const char *s = al_pieces_get(&p->tokens, id, &n);
    uint32_t u;
    if (made.at[id].n || n == 0 || al_utf8(s, n, &u) == n) continue;
    const al_added a = {.id = (int32_t)id, .text = (char *)(uintptr_t)s, .n = n, .special = true};
    al_pipeline_add(c, p, &a);
  }
  free(made.at);
  return al_error(c);
}

static al_status read_gpt2(al_ctx *c, al_pipeline *p, const al_source *files, int n_files) {
  if (al_utf8_count(c, files->name, files->data, (int64_t)files->n) < 0) return al_error(c);
  AL_TRY(n_files > 1 ? ids_of(c, p, &files[1]) : ids_follow(c, p, files));
  if (!(p->bpe = al_bpe_new(c, &p->tokens, (al_bpe_options){.unk = -1}, p->tokens.n)))
    return al_error(c);
  AL_TRY(each_merge(c, p, NULL, files, merge));
  AL_TRY(stages(c, p, files->name, AL_GPT2_PATTERN, sizeof AL_GPT2_PATTERN - 1));
  AL_TRY(find_specials(c, p, files));
  return al_pipeline_finish(c, p);
}

static al_vocab *make_gpt2(al_ctx *c, const al_source *files, int n_files) {
  if (n_files < 1) return al_fail(c, AL_EVALUE, "tokenizer: a file of merges needed"), NULL;
  al_pipeline *p = al_vocab_alloc(c, &al_kind_gpt2, sizeof *p);
  if (p) read_gpt2(c, p, files, n_files);
  return (al_vocab *)p;
}

const al_vocab_kind al_kind_gpt2 = {.name = "gpt2", .make = make_gpt2, AL_PIPELINE};

/* ---- tokens as bytes by rank ----------------------------------------------------------------- */

/* Appends the bytes that n characters of base64 stand for; false: they are none. */
static bool from_base64(al_ctx *c, const char *s, int64_t n, al_buffer *out) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  if (n == 0 || n % 4 != 0) return false;
  for (int64_t i = 0; i < n; i += 4) {
    uint32_t bits = 0;
    int pad = 0;
    for (int k = 0; k < 4; k++) {
      const char *d = s[i + k] ? strchr(digits, s[i + k]) : NULL;
      if (!d && !(s[i + k] == '=' && i + 4 == n && k >= 2)) return false;
      if (d && pad) return false;
      pad += !d;
      bits = bits << 6 | (d ? (uint32_t)(d - digits) : 0);
    }
    const char bytes[3] = {(char)(bits >> 16), (char)(bits >> 8), (char)bits};
    if (al_buffer_put(c, out, bytes, 3 - pad) != AL_OK) return false;
  }
  return true;
}

typedef struct ranked { /* tokens spelt in GPT-2's alphabet, one after the other, and their list */
  al_token_list list;
  al_buffer text;
  int64_t *from; /* by rank, an offset into text: its address moves until all are in */
  int64_t cap;
} ranked;

static al_status put_ranked(al_ctx *c, ranked *r, const char *what, int64_t rank,
                            const char *base64, int64_t n) {
  al_buffer bytes = {0};
  const int64_t from = r->text.n;
  if (!from_base64(c, base64, n, &bytes) && al_error(c) == AL_OK)
    al_fail(c, AL_EFORMAT, "tokenizer: %s: base64 of a token expected, got '%.*s'", what,
            (int)(n < 60 ? n : 60), base64);
  if (al_error(c) == AL_OK) al_bytes_spelt(c, bytes.s, bytes.n, &r->text);
  free(bytes.s);
  AL_TRY(al_error(c));
  if (rank >= 0 && rank < r->list.n && r->list.at[rank].s)
    return al_fail(c, AL_EFORMAT, "tokenizer: %s: the rank %lld is there before", what,
                   (long long)rank);
  AL_TRY(al_token_put(c, &r->list, what, rank, "", r->text.n - from));
  AL_TRY(al_room(c, &r->from, &r->cap, r->cap, rank + 1 > r->cap ? rank + 1 - r->cap : 0,
                 sizeof *r->from));
  r->from[rank] = from;
  return AL_OK;
}

/* The tokens by rank, where they lie now that all are in. */
static void settle(ranked *r) {
  for (int64_t i = 0; i < r->list.n; i++)
    if (r->list.at[i].s) r->list.at[i].s = r->text.s + r->from[i];
}

static void free_ranked(ranked *r) {
  free(r->list.at);
  free(r->text.s);
  free(r->from);
}

static al_status add_special(al_ctx *c, al_pipeline *p, int64_t id, const char *s, int64_t n) {
  const al_added a = {.id = (int32_t)id, .text = (char *)(uintptr_t)s, .n = n, .special = true};
  return al_pipeline_add(c, p, &a);
}

/* The model and what is left, when p->tokens are there: ids from `first` on, n of them, are ranked. */
static al_status finish_ranked(al_ctx *c, al_pipeline *p, int64_t first, int64_t n) {
  const al_bpe_options o = {.unk = -1, .ignore_merges = true};
  if (!(p->bpe = al_bpe_new(c, &p->tokens, o, 3 * n))) return al_error(c);
  AL_TRY(al_bpe_by_rank(c, p->bpe, first, n));
  return al_pipeline_finish(c, p);
}

/* ---- tiktoken -------------------------------------------------------------------------------- */

static al_status read_ranks(al_ctx *c, ranked *r, const al_source *file) {
  const char *at = file->data, *end = file->data + file->n, *s;
  int64_t n;
  for (int64_t number = 1; next_line(&at, end, &s, &n); number++) {
    if (n == 0) continue;
    char what[300], digits[24] = "", *stop;
    snprintf(what, sizeof what, "%.200s: line %lld", file->name, (long long)number);
    const char *space = memchr(s, ' ', (size_t)n);
    const int64_t len = space ? s + n - space - 1 : 0;
    if (len > 0 && len < (int64_t)sizeof digits) memcpy(digits, space + 1, (size_t)len);
    const long long rank = strtoll(digits, &stop, 10);
    if (*digits < '0' || *digits > '9' || *stop || (int64_t)(stop - digits) != len)
      return al_fail(c, AL_EFORMAT, "tokenizer: %s: base64, a space and a rank expected", what);
    AL_TRY(put_ranked(c, r, what, rank, s, space - s));
  }
  return AL_OK;
}

/* The special tokens behind the ranked ones; ids between them that nobody has get a name. */
static al_status put_specials(al_ctx *c, ranked *r, const al_json *special, al_buffer *names) {
  const int64_t n_ranked = r->list.n;
  AL_TRY(al_json_ids(c, special, &r->list));
  for (int64_t pass = 0; pass < 2; pass++) { /* names are read when they do not move any more */
    int64_t at = 0;
    for (int64_t i = n_ranked; i < r->list.n; i++) {
      char name[40];
      if (pass == 0 ? r->list.at[i].s != NULL : r->list.at[i].n >= 0) continue;
      const int n = snprintf(name, sizeof name, "<|unused %lld|>", (long long)i);
      if (pass == 0) AL_TRY(al_buffer_put(c, names, name, n));
      r->list.at[i] = pass == 0 ? (struct al_token){NULL, -1} : (struct al_token){names->s + at, n};
      at += n;
    }
  }
  return AL_OK;
}

static al_status read_tiktoken(al_ctx *c, al_pipeline *p, const al_source *files, ranked *r,
                               const al_json *settings, al_buffer *names) {
  al_json special;
  const char *pattern;
  int64_t n;
  AL_TRY(al_json_known(c, settings, "pattern special"));
  AL_TRY(al_json_need(c, settings, "pattern"));
  AL_TRY(al_json_text(c, settings, "pattern", &pattern, &n));
  AL_TRY(al_json_object(c, settings, "special", &special));
  AL_TRY(read_ranks(c, r, files));
  settle(r);
  const int64_t n_ranked = r->list.n;
  AL_TRY(put_specials(c, r, &special, names));
  AL_TRY(al_token_close(c, &r->list, files->name, &p->tokens));
  AL_TRY(stages(c, p, settings->place, pattern, n));
  const char *key;
  json_t *id;
  json_object_foreach((json_t *)(uintptr_t)special.at, key, id)
      AL_TRY(add_special(c, p, json_integer_value(id), key, (int64_t)strlen(key)));
  return finish_ranked(c, p, 0, n_ranked);
}

static al_vocab *make_tiktoken(al_ctx *c, const al_source *files, int n_files) {
  if (n_files < 2) return al_fail(c, AL_EVALUE, "tokenizer: ranks and a pattern needed"), NULL;
  al_pipeline *p = al_vocab_alloc(c, &al_kind_tiktoken, sizeof *p);
  json_t *root = p ? al_json_read(c, &files[1]) : NULL;
  ranked r = {0};
  al_buffer names = {0};
  al_json settings = {.at = root};
  snprintf(settings.place, sizeof settings.place, "%.200s", files[1].name);
  if (root) read_tiktoken(c, p, files, &r, &settings, &names);
  free_ranked(&r);
  free(names.s);
  json_decref(root);
  return (al_vocab *)p;
}

const al_vocab_kind al_kind_tiktoken = {.name = "tiktoken", .make = make_tiktoken, AL_PIPELINE};

/* ---- tekken ---------------------------------------------------------------------------------- */

/* Names of the first special tokens where a file of version 3 lists none. */
static const char *const tekken_specials[] = {"<unk>",
                                              "<s>",
                                              "</s>",
                                              "[INST]",
                                              "[/INST]",
                                              "[AVAILABLE_TOOLS]",
                                              "[/AVAILABLE_TOOLS]",
                                              "[TOOL_RESULTS]",
                                              "[/TOOL_RESULTS]",
                                              "[TOOL_CALLS]",
                                              "[IMG]",
                                              "<pad>",
                                              "[IMG_BREAK]",
                                              "[IMG_END]",
                                              "[PREFIX]",
                                              "[MIDDLE]",
                                              "[SUFFIX]",
                                              "[SYSTEM_PROMPT]",
                                              "[/SYSTEM_PROMPT]",
                                              "[TOOL_CONTENT]"};

static al_status tekken_names(al_ctx *c, const al_json *root, int64_t n, al_token_list *l,
                              al_buffer *fill) {
  al_json specials, item;
  AL_TRY(al_json_array(c, root, "special_tokens", &specials));
  for (size_t i = 0; i < json_array_size(specials.at); i++) {
    int64_t rank, len;
    const char *name;
    AL_TRY(al_json_item(c, &specials, i, &item));
    AL_TRY(al_json_need(c, &item, "token_str"));
    AL_TRY(al_json_text(c, &item, "token_str", &name, &len));
    AL_TRY(al_json_int(c, &item, "rank", -1, &rank));
    if (rank >= n || rank < 0 || len == 0)
      return al_fail(c, AL_EFORMAT, "tokenizer: %s: a rank below %lld and a name expected",
                     item.place, (long long)n);
    AL_TRY(al_token_put(c, l, item.place, rank, name, len));
  }
  const int64_t known = sizeof tekken_specials / sizeof *tekken_specials;
  for (int64_t i = 0; i < known && i < n && !specials.at; i++)
    AL_TRY(al_token_put(c, l, root->place, i, tekken_specials[i],
                        (int64_t)strlen(tekken_specials[i])));
  AL_TRY(al_room(c, &fill->s, &fill->cap, 0, 32 * n + 32, 1)); /* it does not move below */
  for (int64_t i = 0; i < n; i++) {
    if (i < l->n && l->at[i].s) continue;
    char *name = fill->s + fill->n;
    const int len = snprintf(name, 32, "<SPECIAL_%lld>", (long long)i);
    fill->n += len;
    AL_TRY(al_token_put(c, l, root->place, i, name, len));
  }
  return AL_OK;
}

static al_status read_tekken(al_ctx *c, al_pipeline *p, const al_json *root, ranked *r,
                             al_token_list *all, al_buffer *fill) {
  al_json config, vocab, item;
  const char *pattern, *base64;
  int64_t n, n_special, n_all, rank;
  AL_TRY(al_json_need(c, root, "config"));
  AL_TRY(al_json_object(c, root, "config", &config));
  AL_TRY(al_json_need(c, &config, "pattern"));
  AL_TRY(al_json_text(c, &config, "pattern", &pattern, &n));
  AL_TRY(stages(c, p, config.place, pattern, n));
  AL_TRY(al_json_int(c, &config, "default_num_special_tokens", 0, &n_special));
  AL_TRY(al_json_int(c, &config, "default_vocab_size", 0, &n_all));
  AL_TRY(al_json_need(c, root, "vocab"));
  AL_TRY(al_json_array(c, root, "vocab", &vocab));
  const int64_t there = (int64_t)json_array_size(vocab.at);
  if (n_special < 3 || n_all <= n_special || n_all > AL_MAX_PIECES || n_all - n_special > there)
    return al_fail(
        c, AL_EFORMAT,
        "tokenizer: %s: default_vocab_size %lld and default_num_special_tokens %lld do not "
        "fit %lld tokens",
        config.place, (long long)n_all, (long long)n_special, (long long)there);
  for (int64_t i = 0; i < n_all - n_special; i++) {
    AL_TRY(al_json_item(c, &vocab, (size_t)i, &item));
    AL_TRY(al_json_need(c, &item, "token_bytes"));
    AL_TRY(al_json_text(c, &item, "token_bytes", &base64, &n));
    AL_TRY(al_json_int(c, &item, "rank", -1, &rank));
    if (rank != i)
      return al_fail(c, AL_EFORMAT, "tokenizer: %s: the rank %lld expected, got %lld", item.place,
                     (long long)i, (long long)rank);
    AL_TRY(put_ranked(c, r, item.place, rank, base64, n));
  }
  settle(r);
  AL_TRY(tekken_names(c, root, n_special, all, fill));
  for (int64_t i = 0; i < r->list.n; i++)
    AL_TRY(al_token_put(c, all, vocab.place, n_special + i, r->list.at[i].s, r->list.at[i].n));
  AL_TRY(al_token_close(c, all, vocab.place, &p->tokens));
  for (int64_t i = 0; i < n_special; i++) AL_TRY(add_special(c, p, i, all->at[i].s, all->at[i].n));
  AL_TRY(finish_ranked(c, p, n_special, n_all - n_special));
  return p->base.bos >= 0 ? al_idlist_put(c, &p->base.prefix, p->base.bos) : AL_OK;
}

static al_vocab *make_tekken(al_ctx *c, const al_source *files, int n_files) {
  if (n_files != 1) return al_fail(c, AL_EVALUE, "tokenizer: tekken.json needed"), NULL;
  al_pipeline *p = al_vocab_alloc(c, &al_kind_tekken, sizeof *p);
  json_t *root = p ? al_json_read(c, files) : NULL;
  ranked r = {0};
  al_token_list all = {0};
  al_buffer fill = {0};
  al_json j = {.at = root};
  snprintf(j.place, sizeof j.place, "%.200s", files->name);
  if (root) read_tekken(c, p, &j, &r, &all, &fill);
  free_ranked(&r);
  free(all.at);
  free(fill.s);
  json_decref(root);
  return (al_vocab *)p;
}

const al_vocab_kind al_kind_tekken = {.name = "tekken", .make = make_tekken, AL_PIPELINE};
