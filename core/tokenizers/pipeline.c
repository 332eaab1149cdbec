/* pipeline.c: a tokenizer made of stages: added tokens are looked for in the text as it is, then in
 * the normalised text between them, the longest first; what is left goes through the
 * pre-tokenizers, and word by word through the model. */
#include "pipeline.h"
#include <stdlib.h>
#include <string.h>

void al_pipeline_free(al_vocab *v) {
  al_pipeline *p = (al_pipeline *)v;
  al_pieces_free(&p->tokens);
  al_pieces_free(&p->shown);
  free(p->flags);
  for (int64_t i = 0; i < p->n_added; i++) free(p->added[i].text);
  for (int64_t i = 0; i < p->n_norms; i++) {
    al_regex_free(p->norms[i].re);
    free(p->norms[i].text.s);
  }
  for (int64_t i = 0; i < p->n_splits; i++) al_regex_free(p->splits[i].re);
  for (int64_t i = 0; i < p->n_decodes; i++) {
    al_regex_free(p->decodes[i].re);
    free(p->decodes[i].text.s);
  }
  free(p->added);
  free(p->norms);
  free(p->splits);
  free(p->decodes);
  al_bpe_free(p->bpe);
}

/* ---- making one ------------------------------------------------------------------------------ */

al_status al_token_put(al_ctx *c, al_token_list *l, const char *what, int64_t id, const char *s,
                       int64_t n) {
  const int shown = (int)(n < 60 ? n : 60);
  if (id < 0 || id >= AL_MAX_PIECES)
    return al_fail(c, AL_EFORMAT,
                   "tokenizer: %s: token '%.*s': an id from 0 to %d expected, got %lld", what,
                   shown, s, AL_MAX_PIECES - 1, (long long)id);
  if (id >= l->n) {
    AL_TRY(al_room(c, &l->at, &l->cap, l->n, id + 1 - l->n, sizeof *l->at));
    memset(l->at + l->n, 0, (size_t)(id + 1 - l->n) * sizeof *l->at);
    l->n = id + 1;
  }
  struct al_token *t = &l->at[id];
  if (t->s && (t->n != n || memcmp(t->s, s, (size_t)n) != 0))
    return al_fail(c, AL_EFORMAT, "tokenizer: %s: the id %lld is of two tokens, '%.*s' and '%.*s'",
                   what, (long long)id, (int)(t->n < 60 ? t->n : 60), t->s, shown, s);
  *t = (struct al_token){s, n};
  return AL_OK;
}

al_status al_token_close(al_ctx *c, al_token_list *l, const char *what, al_pieces *tokens) {
  if (l->n == 0) return al_fail(c, AL_EFORMAT, "tokenizer: %s: no tokens", what);
  for (int64_t id = 0; id < l->n; id++) {
    if (!l->at[id].s)
      return al_fail(c, AL_EFORMAT, "tokenizer: %s: no token has the id %lld of 0 to %lld", what,
                     (long long)id, (long long)l->n - 1);
    AL_TRY(al_pieces_add(c, tokens, l->at[id].s, l->at[id].n));
  }
  return al_pieces_index(c, tokens, 0);
}

al_status al_pipeline_add(al_ctx *c, al_pipeline *p, const al_added *a) {
  AL_TRY(al_room(c, &p->added, &p->cap_added, p->n_added, 1, sizeof *p->added));
  al_buffer text = {0};
  al_status st = a->normalized ? al_normalize(c, p->norms, p->n_norms, a->text, a->n, &text)
                               : al_buffer_put(c, &text, a->text, a->n);
  if (st == AL_OK && a->special) st = al_vocab_add_special(c, &p->base, a->id, a->text, a->n);
  if (st != AL_OK) {
    free(text.s);
    return st;
  }
  p->added[p->n_added] = *a;
  p->added[p->n_added].text = text.s;
  p->added[p->n_added++].n = text.n;
  return AL_OK;
}

/* By what they are looked for in, their first byte, and the longest first. */
static int by_first(const void *x, const void *y) {
  const al_added *a = x, *b = y;
  if (a->normalized != b->normalized) return a->normalized ? 1 : -1;
  if (a->n == 0 || b->n == 0) return a->n == b->n ? 0 : a->n == 0 ? 1 : -1;
  const int d = (unsigned char)a->text[0] - (unsigned char)b->text[0];
  return d ? d : a->n != b->n ? (a->n < b->n ? 1 : -1) : a->id - b->id;
}

static bool spells_bytes(const al_pipeline *p) {
  for (int64_t i = 0; i < p->n_decodes; i++)
    if (p->decodes[i].type == AL_DECODE_BYTES) return true;
  return false;
}

/* What a token stands for within a text: by the decoders, but nothing at its ends is cut. */
static al_status show(al_ctx *c, al_pipeline *p, int64_t id, al_buffer *out) {
  int64_t n;
  const char *s = al_pieces_get(&p->tokens, id, &n);
  if (p->flags[id] & AL_TOKEN_ADDED) return al_buffer_put(c, out, s, n);
  if (spells_bytes(p)) {
    int64_t made = 0;
    AL_TRY(al_room(c, &out->s, &out->cap, 0, n + 1, 1));
    if (!al_bytes_meant(s, n, out->s, &made)) return al_buffer_put(c, out, s, n);
    out->n = made;
    return AL_OK;
  }
  bool marks = false, fallback = false;
  for (int64_t i = 0; i < p->n_decodes; i++) {
    const al_decode *k = &p->decodes[i];
    fallback |= k->type == AL_DECODE_FALLBACK;
    marks |= k->type == AL_DECODE_META ||
             (k->type == AL_DECODE_REPLACE && k->text.n == 1 && k->text.s[0] == ' ');
  }
  char *end = NULL;
  if (fallback && n == 6 && memcmp(s, "<0x", 3) == 0 && s[5] == '>') {
    const char byte = (char)strtol(s + 3, &end, 16);
    if (end == s + 5) {
      p->flags[id] |= AL_TOKEN_BYTE;
      return al_buffer_put(c, out, &byte, 1);
    }
  }
  for (int64_t at = 0; at < n;) {
    const bool is = marks && n - at >= 3 && memcmp(s + at, "\xe2\x96\x81", 3) == 0;
    AL_TRY(al_buffer_put(c, out, is ? " " : s + at, 1));
    at += is ? 3 : 1;
  }
  return AL_OK;
}

/* Added tokens that are looked for in normalised text are decoded to it, as the library does. */
static al_status as_looked_for(al_ctx *c, al_pipeline *p) {
  al_pieces made = {0};
  int32_t *added = al_calloc(c, p->tokens.n, sizeof *added); /* 1 + where an id stands among them */
  al_status st = added ? AL_OK : al_error(c);
  for (int64_t i = 0; i < p->n_added && added; i++) added[p->added[i].id] = (int32_t)i + 1;
  for (int64_t id = 0; id < p->tokens.n && st == AL_OK; id++) {
    int64_t n;
    const char *s = al_pieces_get(&p->tokens, id, &n);
    if (added[id]) s = p->added[added[id] - 1].text, n = p->added[added[id] - 1].n;
    st = al_pieces_add(c, &made, s, n);
  }
  free(added);
  al_pieces_free(&p->tokens);
  p->tokens = made;
  return st;
}

static int32_t first_of(const al_pipeline *p, const char *const *names) {
  for (; *names; names++)
    for (int64_t i = 0; i < p->base.n_specials; i++)
      if (strcmp(p->base.specials[i].name, *names) == 0) return p->base.specials[i].id;
  return -1;
}

al_status al_pipeline_finish(al_ctx *c, al_pipeline *p) {
  al_vocab *v = &p->base;
  v->n = p->tokens.n;
  if (!(p->flags = al_calloc(c, v->n, 1))) return al_error(c);
  for (int64_t i = 0; i < p->n_added; i++)
    p->flags[p->added[i].id] |=
        (uint8_t)(AL_TOKEN_ADDED | (p->added[i].special ? AL_TOKEN_SPECIAL : 0));
  if (p->n_added) qsort(p->added, (size_t)p->n_added, sizeof *p->added, by_first);
  for (int64_t i = p->n_added - 1; i >= 0; i--) {
    const al_added *a = &p->added[i];
    if (a->n == 0) continue;
    p->first[a->normalized][(unsigned char)a->text[0]] = i + 1;
    p->any[a->normalized] = true;
    if (!a->special) p->plain[a->normalized] = true;
  }
  al_buffer text = {0};
  for (int64_t id = 0; id < v->n && al_error(c) == AL_OK; id++) {
    text.n = 0;
    if (show(c, p, id, &text) == AL_OK) al_pieces_add(c, &p->shown, text.s, text.n);
  }
  free(text.s);
  AL_TRY(al_error(c));
  AL_TRY(as_looked_for(c, p));
  AL_TRY(al_pieces_room(c, &p->tokens)); /* the model finds no special token: they are text */
  for (int64_t id = 0; id < v->n; id++)
    if (!(p->flags[id] & AL_TOKEN_SPECIAL)) al_pieces_note(&p->tokens, id);
  AL_TRY(al_pieces_room(c, &p->shown));
  for (int64_t id = 0; id < v->n; id++)
    if (!(p->flags[id] & AL_TOKEN_BYTE)) al_pieces_note(&p->shown, id);
  for (int64_t id = 0; id < v->n; id++) al_pieces_note(&p->shown, id);
  static const char *const bos[] = {
      "<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "<|endoftext|>", NULL};
  static const char *const eos[] = {"</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>", NULL};
  static const char *const unk[] = {"<unk>", "[UNK]", NULL};
  static const char *const pad[] = {"<pad>", "[PAD]", "<|pad|>", NULL};
  v->bos = first_of(p, bos), v->eos = first_of(p, eos);
  v->pad = first_of(p, pad);
  if (v->unk < 0) v->unk = first_of(p, unk);
  return AL_OK;
}

const char *al_pipeline_piece(const al_vocab *v, int32_t id, int64_t *n) {
  return al_pieces_get(&((const al_pipeline *)v)->shown, id, n);
}

int32_t al_pipeline_find(const al_vocab *v, const char *s, int64_t n) {
  return al_pieces_find(&((const al_pipeline *)v)->shown, s, n);
}

/* ---- encode ---------------------------------------------------------------------------------- */

typedef struct run { /* one text being encoded */
  const al_pipeline *p;
  al_idlist *out;
  bool special;
  al_words words, spare;
  al_buffer normal;
} run;

static al_status encode_words(al_ctx *c, run *r, const char *s, int64_t n, bool begins) {
  const al_pipeline *p = r->p;
  al_words *w = &r->words;
  w->text.n = w->spans.n = 0;
  w->begins = begins;
  AL_TRY(al_buffer_put(c, &w->text, s, n));
  AL_TRY(al_spans_put(c, &w->spans, 0, n, false));
  AL_TRY(al_split_words(c, p->splits, p->n_splits, w, &r->spare));
  for (int64_t i = 0; i < w->spans.n; i++) {
    const char *word = w->text.s + w->spans.at[i].from;
    const int64_t len = w->spans.at[i].to - w->spans.at[i].from;
    AL_TRY(p->bpe ? al_bpe_word(c, p->bpe, word, len, r->out)
                  : al_wordpiece_word(c, &p->wordpiece, &p->tokens, word, len, r->out));
  }
  return AL_OK;
}

/* The character that ends at s + n is one of a word's; or that begins at s. */
static bool word_before(const char *s, int64_t n) {
  int64_t at = n - 1;
  while (at > 0 && (s[at] & 0xc0) == 0x80) at--;
  uint32_t u = 0;
  return n > 0 && al_utf8(s + at, n - at, &u) && al_is_word(u);
}

static bool word_behind(const char *s, int64_t n) {
  uint32_t u = 0;
  return n > 0 && al_utf8(s, n, &u) && al_is_word(u);
}

/* The start of the white space that ends at s + n. */
static int64_t space_before(const char *s, int64_t n) {
  while (n > 0) {
    int64_t at = n - 1;
    while (at > 0 && (s[at] & 0xc0) == 0x80) at--;
    uint32_t u = 0;
    if (!al_utf8(s + at, n - at, &u) || !al_is_space(u)) break;
    n = at;
  }
  return n;
}

static int64_t space_behind(const char *s, int64_t n) {
  int64_t at = 0;
  for (int len; at < n; at += len) {
    uint32_t u = 0;
    len = al_utf8(s + at, n - at, &u);
    if (!len || !al_is_space(u)) break;
  }
  return at;
}

/* The longest added token at s, or NULL. */
static const al_added *added_at(const al_pipeline *p, bool normalized, const char *s, int64_t n) {
  for (int64_t i = p->first[normalized][(unsigned char)*s] - 1; i >= 0 && i < p->n_added; i++) {
    const al_added *a = &p->added[i];
    if (a->normalized != normalized || a->n == 0 || a->text[0] != *s) break;
    if (a->n <= n && memcmp(a->text, s, (size_t)a->n) == 0) return a;
  }
  return NULL;
}

typedef al_status (*on_text)(al_ctx *c, run *r, const char *s, int64_t n, bool begins);

/* Added tokens become ids, what lies between goes to `between`. */
static al_status cut_added(al_ctx *c, run *r, bool normalized, const char *s, int64_t n,
                           bool begins, on_text between) {
  const al_pipeline *p = r->p;
  const bool any = r->special ? p->any[normalized] : p->plain[normalized];
  int64_t done = 0;
  for (int64_t at = 0; at < n && any;) {
    const al_added *a = added_at(p, normalized, s + at, n - at);
    if (!a) {
      at++;
      continue;
    }
    int64_t from = at, to = at + a->n;
    at = to; /* a token that is left alone is not looked into */
    if (a->special && !r->special) continue;
    if (a->single_word && (word_before(s, from) || word_behind(s + to, n - to))) continue;
    if (a->lstrip) from = space_before(s, from);
    if (from < done) from = done;
    if (a->rstrip) to += space_behind(s + to, n - to);
    if (from > done) AL_TRY(between(c, r, s + done, from - done, begins && done == 0));
    AL_TRY(al_idlist_put(c, r->out, a->id));
    done = at = to;
  }
  return n > done ? between(c, r, s + done, n - done, begins && done == 0) : AL_OK;
}

static al_status encode_between(al_ctx *c, run *r, const char *s, int64_t n, bool begins) {
  const al_pipeline *p = r->p;
  if (p->n_norms > 0) {
    r->normal.n = 0;
    AL_TRY(al_normalize(c, p->norms, p->n_norms, s, n, &r->normal));
    s = r->normal.s, n = r->normal.n;
  }
  return n > 0 ? cut_added(c, r, true, s, n, begins, encode_words) : AL_OK;
}

al_status al_pipeline_encode(al_ctx *c, const al_vocab *v, const char *text, int64_t n,
                             bool special, al_idlist *out) {
  if (al_utf8_count(c, "encode", text, n) < 0) return al_error(c);
  run r = {.p = (const al_pipeline *)v, .out = out, .special = special};
  cut_added(c, &r, false, text, n, true, encode_between);
  al_words_free(&r.words);
  al_words_free(&r.spare);
  free(r.normal.s);
  return al_error(c);
}

/* ---- decode ---------------------------------------------------------------------------------- */

al_status al_pipeline_decode(al_ctx *c, const al_vocab *v, const int32_t *ids, int64_t n,
                             bool special, al_buffer *out) {
  const al_pipeline *p = (const al_pipeline *)v;
  al_words w = {0}, spare = {0};
  for (int64_t i = 0; i < n && al_error(c) == AL_OK; i++) {
    if (!special && p->flags[ids[i]] & AL_TOKEN_SPECIAL) continue;
    int64_t len;
    const char *s = al_pieces_get(&p->tokens, ids[i], &len);
    if (p->joined && w.spans.n > 0) al_buffer_put(c, &w.text, " ", 1);
    const int64_t from = w.text.n;
    if (al_error(c) == AL_OK && from + len > INT32_MAX)
      al_fail(c, AL_EVALUE, "decode: a text of more than 2 GiB");
    if (al_error(c) == AL_OK) al_buffer_put(c, &w.text, s, len);
    if (al_error(c) == AL_OK) al_spans_put(c, &w.spans, from, w.text.n, false);
  }
  if (al_error(c) == AL_OK && al_decode_words(c, p->decodes, p->n_decodes, &w, &spare) == AL_OK)
    al_buffer_put(c, out, w.text.s, w.text.n);
  al_words_free(&w);
  al_words_free(&spare);
  return al_error(c);
}
