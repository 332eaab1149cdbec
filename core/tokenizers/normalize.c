/* normalize.c: the normalisers: a text to another text, step by step. */
#include "pipeline.h"
#include <stdlib.h>
#include <string.h>

static al_status strip(al_ctx *c, const al_norm *k, const char *s, int64_t n, al_buffer *out) {
  int64_t from = 0, to = 0; /* to: behind the last character that is no space */
  bool blank = true;
  for (int64_t at = 0, len; at < n; at += len) {
    uint32_t u = 0;
    len = al_utf8(s + at, n - at, &u);
    if (al_is_space(u)) continue;
    if (blank) from = at;
    blank = false;
    to = at + len;
  }
  if (blank) return k->left || k->right ? AL_OK : al_buffer_put(c, out, s, n);
  if (!k->left) from = 0;
  if (!k->right) to = n;
  return al_buffer_put(c, out, s + from, to - from);
}

/* Whether BERT takes a character out: category C, without the line's tab, feed and return. */
static bool is_control(const al_norm *k, uint32_t u) {
  if (u == '\t' || u == '\n' || u == '\r') return false;
  return u == 0 || u == 0xfffd || al_is_control(u, !k->only_cf);
}

static al_status bert(al_ctx *c, const al_norm *k, const char *s, int64_t n, al_buffer *out) {
  for (int64_t at = 0, len; at < n; at += len) {
    uint32_t u = 0;
    len = al_utf8(s + at, n - at, &u);
    if (k->clean && is_control(k, u)) continue;
    const bool space = k->clean && al_is_space(u), cjk = k->chinese && al_is_chinese(u);
    if (cjk) AL_TRY(al_buffer_put(c, out, " ", 1));
    AL_TRY(space ? al_buffer_put(c, out, " ", 1) : al_buffer_put(c, out, s + at, len));
    if (cjk) AL_TRY(al_buffer_put(c, out, " ", 1));
  }
  return AL_OK;
}

static al_status accents(al_ctx *c, const al_norm *k, const char *s, int64_t n, al_buffer *out) {
  for (int64_t at = 0, len; at < n; at += len) {
    uint32_t u = 0;
    len = al_utf8(s + at, n - at, &u);
    if (!al_is_mark(u, k->all)) AL_TRY(al_buffer_put(c, out, s + at, len));
  }
  return AL_OK;
}

static al_status one(al_ctx *c, const al_norm *k, const char *s, int64_t n, al_buffer *out) {
  switch (k->type) {
  case AL_NORM_FORM:
    return al_normal_form(c, k->form, s, n, out);
  case AL_NORM_LOWER:
    return al_lower(c, s, n, out);
  case AL_NORM_PREPEND:
    if (n > 0) AL_TRY(al_buffer_put(c, out, k->text.s, k->text.n));
    return al_buffer_put(c, out, s, n);
  case AL_NORM_REPLACE:
    return al_regex_replace(c, k->re, &k->text, s, n, out);
  case AL_NORM_STRIP:
    return strip(c, k, s, n, out);
  case AL_NORM_ACCENTS:
    return accents(c, k, s, n, out);
  case AL_NORM_BERT:
    return bert(c, k, s, n, out);
  }
  return AL_OK;
}

al_status al_normalize(al_ctx *c, const al_norm *steps, int64_t n_steps, const char *s, int64_t n,
                       al_buffer *out) {
  al_buffer a = {0}, b = {0};
  al_status st = AL_OK;
  for (int64_t i = 0; i < n_steps && st == AL_OK; i++) {
    al_buffer *to = i + 1 == n_steps ? out : i % 2 ? &b : &a;
    const al_buffer *from = i % 2 ? &a : &b;
    if (to != out) to->n = 0;
    st = i == 0 ? one(c, &steps[i], s, n, to)
                : one(c, &steps[i], from->s ? from->s : "", from->n, to);
    if (st == AL_OK && to->n > AL_MAX_TEXT)
      st =
          al_fail(c, AL_EVALUE, "encode: normalised, the text has more than %d bytes", AL_MAX_TEXT);
  }
  if (n_steps == 0) st = al_buffer_put(c, out, s, n);
  free(a.s);
  free(b.s);
  return st;
}
