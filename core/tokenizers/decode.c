/* decode.c: the decoders: tokens to a text, step by step, as Hugging Face's tokenizers has them.
 * Bytes that are no UTF-8 become U+FFFD, one for each stretch of them that could have begun a
 * character (ByteLevel) or for each byte of a run (ByteFallback). */
#include "pipeline.h"
#include <stdlib.h>
#include <string.h>

#define UNKNOWN "\xef\xbf\xbd" /* U+FFFD */

/* The word that was begun at `from` ends where the text ends. */
static al_status end_word(al_ctx *c, al_words *w, int64_t from) {
  AL_TRY(al_buffer_put(c, &w->text, "", 0)); /* there is a text, though an empty one */
  if (w->text.n > INT32_MAX) return al_fail(c, AL_EVALUE, "decode: a text of more than 2 GiB");
  return al_spans_put(c, &w->spans, from, w->text.n, false);
}

/* Bytes at s that begin a character and do not end it: 1 where none does. */
static int64_t broken(const unsigned char *s, int64_t n) {
  const int need = s[0] < 0xc2 || s[0] > 0xf4 ? 1 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
  for (int k = 1; k < need; k++) {
    const unsigned low = k > 1 ? 0x80 : s[0] == 0xe0 ? 0xa0 : s[0] == 0xf0 ? 0x90 : 0x80;
    const unsigned high = k > 1 ? 0xbf : s[0] == 0xed ? 0x9f : s[0] == 0xf4 ? 0x8f : 0xbf;
    if (k >= n || s[k] < low || s[k] > high) return k;
  }
  return 1;
}

static al_status put_bytes(al_ctx *c, al_buffer *out, const char *s, int64_t n) {
  int64_t from = 0;
  for (int64_t at = 0; at < n;) {
    uint32_t u;
    const int len = al_utf8(s + at, n - at, &u);
    if (len == 0) {
      AL_TRY(al_buffer_put(c, out, s + from, at - from));
      AL_TRY(al_buffer_put(c, out, UNKNOWN, 3));
      from = at + broken((const unsigned char *)s + at, n - at);
    }
    at = len ? at + len : from;
  }
  return al_buffer_put(c, out, s + from, n - from);
}

static al_status bytes(al_ctx *c, const al_words *w, al_words *out) {
  al_buffer all = {0};
  al_status st = al_room(c, &all.s, &all.cap, 0, w->text.n + 1, 1);
  for (int64_t i = 0; i < w->spans.n && st == AL_OK; i++) {
    const char *s = w->text.s + w->spans.at[i].from;
    const int64_t n = w->spans.at[i].to - w->spans.at[i].from;
    int64_t made;
    if (!al_bytes_meant(s, n, all.s + all.n, &made)) memcpy(all.s + all.n, s, (size_t)(made = n));
    all.n += made;
  }
  if (st == AL_OK) st = put_bytes(c, &out->text, all.s, all.n);
  if (st == AL_OK) st = end_word(c, out, 0);
  free(all.s);
  return st;
}

static int byte_of(const char *s, int64_t n) {
  if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>') return -1;
  char *end;
  const char hex[3] = {s[3], s[4], 0};
  const long v = strtol(hex, &end, 16);
  return *end == 0 && hex[0] != '+' && hex[0] != '-' && hex[0] != ' ' ? (int)v : -1;
}

static al_status fallback(al_ctx *c, const al_words *w, al_words *out) {
  al_buffer run = {0};
  al_status st = AL_OK;
  for (int64_t i = 0; i <= w->spans.n && st == AL_OK; i++) {
    const struct al_span *x = i < w->spans.n ? &w->spans.at[i] : NULL;
    const int byte = x ? byte_of(w->text.s + x->from, x->to - x->from) : -1;
    if (byte >= 0) {
      const char b = (char)byte;
      st = al_buffer_put(c, &run, &b, 1);
      continue;
    }
    const int64_t from = out->text.n;
    bool whole = true;
    for (int64_t at = 0, len; at < run.n; at += len) {
      uint32_t u;
      len = al_utf8(run.s + at, run.n - at, &u);
      if (len == 0) whole = false, len = 1;
    }
    if (whole) st = al_buffer_put(c, &out->text, run.s, run.n);
    else
      for (int64_t k = 0; k < run.n && st == AL_OK; k++)
        st = al_buffer_put(c, &out->text, UNKNOWN, 3);
    if (st == AL_OK && run.n > 0) st = end_word(c, out, from);
    run.n = 0;
    if (!x || st != AL_OK) continue;
    const int64_t at = out->text.n;
    st = al_buffer_put(c, &out->text, w->text.s + x->from, x->to - x->from);
    if (st == AL_OK) st = end_word(c, out, at);
  }
  free(run.s);
  return st;
}

/* The mark is a space; in the first token nothing, where one was put before the text. */
static al_status meta(al_ctx *c, const al_decode *k, int64_t i, const char *s, int64_t n,
                      al_buffer *out) {
  for (int64_t at = 0, len; at < n; at += len) {
    uint32_t u;
    len = al_utf8(s + at, n - at, &u);
    const bool is = len == k->mark_n && memcmp(s + at, k->mark, (size_t)len) == 0;
    if (is && i == 0 && k->prefix != 'n') continue;
    AL_TRY(is ? al_buffer_put(c, out, " ", 1) : al_buffer_put(c, out, s + at, len));
  }
  return AL_OK;
}

static al_status strip(al_ctx *c, const al_decode *k, const char *s, int64_t n, al_buffer *out) {
  const int64_t len = k->text.n;
  int64_t from = 0, to = n;
  for (int64_t i = 0; i < k->left && from + len <= n; i++) {
    if (memcmp(s + from, k->text.s, (size_t)len) != 0) break;
    from += len;
  }
  for (int64_t i = 0; i < k->right && to - len >= from; i++) {
    if (memcmp(s + to - len, k->text.s, (size_t)len) != 0) break;
    to -= len;
  }
  return al_buffer_put(c, out, s + from, to - from);
}

/* English put together again, in this order, within one token. */
static al_status clean(al_ctx *c, al_buffer *text, int64_t from) {
  static const char *const pairs[][2] = {{" .", "."},     {" ?", "?"},           {" !", "!"},
                                         {" ,", ","},     {" ' ", "'"},          {" n't", "n't"},
                                         {" 'm", "'m"},   {" do not", " don't"}, {" 's", "'s"},
                                         {" 've", "'ve"}, {" 're", "'re"}};
  for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
    const int64_t n = (int64_t)strlen(pairs[i][0]), by = (int64_t)strlen(pairs[i][1]);
    int64_t to = from; /* no pair makes the text longer */
    for (int64_t at = from; at < text->n;) {
      const bool is = text->n - at >= n && memcmp(text->s + at, pairs[i][0], (size_t)n) == 0;
      if (is) memcpy(text->s + to, pairs[i][1], (size_t)by);
      if (!is) text->s[to] = text->s[at];
      to += is ? by : 1, at += is ? n : 1;
    }
    text->n = to;
  }
  return al_error(c);
}

static al_status wordpiece(al_ctx *c, const al_decode *k, int64_t i, const char *s, int64_t n,
                           al_buffer *out) {
  const int64_t from = out->n, len = k->text.n;
  if (i > 0 && len > 0 && n >= len && memcmp(s, k->text.s, (size_t)len) == 0) s += len, n -= len;
  else if (i > 0) AL_TRY(al_buffer_put(c, out, " ", 1));
  AL_TRY(al_buffer_put(c, out, s, n));
  return k->cleanup ? clean(c, out, from) : AL_OK;
}

static al_status one(al_ctx *c, const al_decode *k, const al_words *w, al_words *out) {
  if (k->type == AL_DECODE_BYTES) return bytes(c, w, out);
  if (k->type == AL_DECODE_FALLBACK) return fallback(c, w, out);
  for (int64_t i = 0; i < w->spans.n; i++) {
    const char *s = w->text.s + w->spans.at[i].from;
    const int64_t n = w->spans.at[i].to - w->spans.at[i].from, from = out->text.n;
    switch (k->type) {
    case AL_DECODE_META:
      AL_TRY(meta(c, k, i, s, n, &out->text));
      break;
    case AL_DECODE_REPLACE:
      AL_TRY(al_regex_replace(c, k->re, &k->text, s, n, &out->text));
      break;
    case AL_DECODE_STRIP:
      AL_TRY(strip(c, k, s, n, &out->text));
      break;
    case AL_DECODE_WORDPIECE:
      AL_TRY(wordpiece(c, k, i, s, n, &out->text));
      break;
    default:
      AL_TRY(al_buffer_put(c, &out->text, s, n));
    }
    if (k->type != AL_DECODE_FUSE) AL_TRY(end_word(c, out, from));
  }
  return k->type == AL_DECODE_FUSE ? end_word(c, out, 0) : AL_OK;
}

al_status al_decode_words(al_ctx *c, const al_decode *steps, int64_t n_steps, al_words *w,
                          al_words *spare) {
  for (int64_t i = 0; i < n_steps; i++) {
    spare->text.n = spare->spans.n = 0;
    AL_TRY(one(c, &steps[i], w, spare));
    const al_words made = *spare;
    *spare = *w;
    *w = made;
  }
  return AL_OK;
}
