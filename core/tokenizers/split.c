/* split.c: the pre-tokenizers: a text to its words, step by step. A step cuts words (their text
 * stays where it is) or writes the text anew. */
#include "pipeline.h"
#include <stdlib.h>
#include <string.h>

void al_words_free(al_words *w) {
  free(w->text.s);
  free(w->spans.at);
}

/* ---- cuts ------------------------------------------------------------------------------------ */

static bool fits(al_split_type type, uint32_t u) {
  return type == AL_SPLIT_NUMBERS ? al_is_number(u)
         : type == AL_SPLIT_PUNCT ? al_is_punct(u)
                                  : al_is_space(u);
}

/* Each character that fits is a match of its own; what lies between is one stretch. */
static al_status split_characters(al_ctx *c, al_split_type type, const char *s, int64_t n,
                                  al_spans *out) {
  int64_t done = 0;
  for (int64_t at = 0, len; at < n; at += len) {
    uint32_t u = 0;
    len = al_utf8(s + at, n - at, &u);
    if (!fits(type, u)) continue;
    if (at > done) AL_TRY(al_spans_put(c, out, done, at, false));
    AL_TRY(al_spans_put(c, out, at, at + len, true));
    done = at + len;
  }
  return n > done ? al_spans_put(c, out, done, n, false) : AL_OK;
}

/* Joins matches with their neighbours as the behaviour says; in place, order kept. */
static void join(al_spans *s, al_behavior how) {
  struct al_span *x = s->at;
  int64_t n = 0;
  if (how == AL_MERGED_NEXT) { /* from the end, to the end */
    bool before = false;
    int64_t first = s->n;
    for (int64_t i = s->n - 1; i >= 0; i--) {
      const struct al_span k = x[i];
      if (k.match && !before && first < s->n) x[first].from = k.from;
      else x[--first] = k;
      before = k.match;
    }
    n = s->n - first;
    if (n > 0) memmove(x, x + first, (size_t)n * sizeof *x);
  } else {
    bool before = false;
    for (int64_t i = 0; i < s->n; i++) {
      const struct al_span k = x[i];
      const bool glue = how == AL_MERGED_PREVIOUS ? k.match && !before
                        : how == AL_CONTIGUOUS    ? k.match == before
                                                  : false;
      if (how == AL_REMOVED && k.match) continue;
      if (glue && n > 0) x[n - 1].to = k.to;
      else x[n++] = k;
      before = k.match;
    }
  }
  s->n = n;
}

/* Cuts the stretch [from, to) of text by a step, behind what is in out. */
static al_status cut(al_ctx *c, const al_split *k, const char *text, int64_t from, int64_t to,
                     al_spans *found, al_spans *out) {
  found->n = 0;
  AL_TRY(k->re ? al_regex_split(c, k->re, text + from, to - from, found)
               : split_characters(c, k->type, text + from, to - from, found));
  if (k->invert)
    for (int64_t i = 0; i < found->n; i++) found->at[i].match = !found->at[i].match;
  join(found, k->behavior);
  AL_TRY(al_room(c, &out->at, &out->cap, out->n, found->n, sizeof *out->at));
  for (int64_t i = 0; i < found->n; i++)
    out->at[out->n++] =
        (struct al_span){(int32_t)from + found->at[i].from, (int32_t)from + found->at[i].to, false};
  return AL_OK;
}

static al_status cut_all(al_ctx *c, const al_split *k, al_words *w, al_words *spare) {
  al_spans found = {0};
  al_status st = AL_OK;
  spare->spans.n = 0;
  for (int64_t i = 0; i < w->spans.n && st == AL_OK; i++)
    st = cut(c, k, w->text.s, w->spans.at[i].from, w->spans.at[i].to, &found, &spare->spans);
  free(found.at);
  if (spare->spans.n == 0 || w->spans.n == 0 || spare->spans.at[0].from != w->spans.at[0].from)
    w->begins = false;
  const al_spans made = spare->spans;
  spare->spans = w->spans;
  w->spans = made;
  return st;
}

/* ---- texts written anew ---------------------------------------------------------------------- */

static al_status put_byte_chars(al_ctx *c, al_buffer *out, const char *s, int64_t n) {
  AL_TRY(al_room(c, &out->s, &out->cap, out->n, 2 * n, 1));
  for (int64_t i = 0; i < n; i++)
    out->n += al_put_utf8(al_byte_char((unsigned char)s[i]), out->s + out->n);
  return AL_OK;
}

/* Every word as its bytes in GPT-2's alphabet. */
static al_status spell(al_ctx *c, al_words *w, al_words *spare) {
  spare->text.n = 0;
  for (int64_t i = 0; i < w->spans.n; i++) {
    struct al_span *x = &w->spans.at[i];
    const int64_t from = spare->text.n;
    AL_TRY(put_byte_chars(c, &spare->text, w->text.s + x->from, x->to - x->from));
    if (spare->text.n > AL_MAX_TEXT)
      return al_fail(c, AL_EVALUE, "encode: spelt as bytes, the text has more than %d bytes",
                     AL_MAX_TEXT);
    *x = (struct al_span){(int32_t)from, (int32_t)spare->text.n, false};
  }
  const al_buffer text = spare->text;
  spare->text = w->text;
  w->text = text;
  return AL_OK;
}

/* A mark (or " ") before each word, or the first, that has none; with `space`, for spaces, too. */
static al_status mark(al_ctx *c, al_words *w, al_words *spare, const char *with, int64_t n,
                      char which, bool space) {
  spare->text.n = 0;
  for (int64_t i = 0; i < w->spans.n; i++) {
    struct al_span *x = &w->spans.at[i];
    const char *s = w->text.s + x->from;
    const int64_t len = x->to - x->from, from = spare->text.n;
    const bool has =
        (len >= n && memcmp(s, with, (size_t)n) == 0) || (space && len > 0 && *s == ' ');
    const bool wanted = which == 'a' || (which == 'f' && i == 0 && w->begins);
    if (wanted && !has) AL_TRY(al_buffer_put(c, &spare->text, with, n));
    for (int64_t at = 0; at < len;) {
      const char *end = space ? memchr(s + at, ' ', (size_t)(len - at)) : NULL;
      const int64_t until = end ? end - s : len;
      AL_TRY(al_buffer_put(c, &spare->text, s + at, until - at));
      if (end) AL_TRY(al_buffer_put(c, &spare->text, with, n));
      at = until + (end != NULL);
    }
    if (spare->text.n > AL_MAX_TEXT)
      return al_fail(c, AL_EVALUE,
                     "encode: with its spaces marked, the text has more than %d bytes",
                     AL_MAX_TEXT);
    *x = (struct al_span){(int32_t)from, (int32_t)spare->text.n, false};
  }
  const al_buffer text = spare->text;
  spare->text = w->text;
  w->text = text;
  return AL_OK;
}

static al_status step(al_ctx *c, const al_split *k, al_words *w, al_words *spare) {
  if (k->type == AL_SPLIT_BYTES) {
    if (k->prefix == 'a') AL_TRY(mark(c, w, spare, " ", 1, 'a', false));
    if (k->re) AL_TRY(cut_all(c, k, w, spare));
    return spell(c, w, spare);
  }
  if (k->type == AL_SPLIT_META) {
    AL_TRY(mark(c, w, spare, k->mark, k->mark_n, k->prefix, true));
    return k->cut ? cut_all(c, k, w, spare) : AL_OK;
  }
  return cut_all(c, k, w, spare);
}

al_status al_split_words(al_ctx *c, const al_split *steps, int64_t n_steps, al_words *w,
                         al_words *spare) {
  for (int64_t i = 0; i < n_steps; i++) AL_TRY(step(c, &steps[i], w, spare));
  return AL_OK;
}
