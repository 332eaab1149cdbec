/* characters.c: two tokenizers that need no table: the distinct Unicode characters of a text, in
 * code point order, and the 256 bytes, ids 0 to 255. */
#include "tokenizer.h"
#include <stdlib.h>

typedef struct simple {
  al_vocab base;
  al_pieces pieces;
} simple;

static void free_simple(al_vocab *v) { al_pieces_free(&((simple *)v)->pieces); }

static const char *piece(const al_vocab *v, int32_t id, int64_t *n) {
  return al_pieces_get(&((const simple *)v)->pieces, id, n);
}

static int32_t find(const al_vocab *v, const char *s, int64_t n) {
  return al_pieces_find(&((const simple *)v)->pieces, s, n);
}

static al_status decode(al_ctx *c, const al_vocab *v, const int32_t *ids, int64_t n, bool special,
                        al_buffer *out) {
  (void)special;
  for (int64_t i = 0, k; i < n; i++) {
    const char *s = piece(v, ids[i], &k);
    AL_TRY(al_buffer_put(c, out, s, k));
  }
  return AL_OK;
}

/* ---- characters ----------------------------------------------------------------------------- */

static al_status note_characters(al_ctx *c, const char *text, int64_t n, char *seen) {
  if (n == 0 || n > AL_MAX_TEXT)
    return al_fail(c, AL_EVALUE, "vocab: a text of 1 to %d bytes needed, got %lld", AL_MAX_TEXT,
                   (long long)n);
  if (al_utf8_count(c, "vocab", text, n) < 0) return al_error(c);
  for (int64_t at = 0; at < n;) {
    uint32_t u = 0;
    at += al_utf8(text + at, n - at, &u);
    seen[u] = 1;
  }
  return AL_OK;
}

static al_vocab *make_characters(al_ctx *c, const al_source *files, int n_files) {
  enum { CODES = 0x110000 };
  if (n_files != 1) return al_fail(c, AL_EVALUE, "vocab: one text needed, got %d", n_files), NULL;
  simple *v = al_vocab_alloc(c, &al_kind_characters, sizeof *v);
  char *seen = v ? al_calloc(c, CODES, 1) : NULL;
  if (seen && note_characters(c, files->data, (int64_t)files->n, seen) == AL_OK) {
    for (uint32_t u = 0; u < CODES; u++) {
      char s[4];
      if (seen[u] && al_pieces_add(c, &v->pieces, s, al_put_utf8(u, s)) != AL_OK) break;
    }
    if (al_error(c) == AL_OK) al_pieces_index(c, &v->pieces, 0);
    v->base.n = v->pieces.n;
  }
  free(seen);
  return (al_vocab *)v;
}

static al_status encode_characters(al_ctx *c, const al_vocab *v, const char *text, int64_t n,
                                   bool special, al_idlist *out) {
  (void)special;
  const int64_t count = al_utf8_count(c, "encode", text, n);
  if (count < 0) return al_error(c);
  AL_TRY(al_room(c, &out->id, &out->cap, out->n, count, sizeof *out->id));
  int64_t i = 0;
  for (int64_t at = 0, len; at < n; at += len, i++) {
    uint32_t u = 0;
    len = al_utf8(text + at, n - at, &u);
    const int32_t id = find(v, text + at, len);
    if (id < 0)
      return al_fail(c, AL_EVALUE,
                     "encode: character %lld (byte %lld): '%.*s' (U+%04X) is not among the %lld of "
                     "the vocabulary",
                     (long long)(i + 1), (long long)at, u < 32 ? 0 : (int)len, text + at, u,
                     (long long)v->n);
    out->id[out->n++] = id;
  }
  return AL_OK;
}

const al_vocab_kind al_kind_characters = {.name = "characters",
                                          .make = make_characters,
                                          .free = free_simple,
                                          .piece = piece,
                                          .find = find,
                                          .encode = encode_characters,
                                          .decode = decode};

/* ---- bytes ---------------------------------------------------------------------------------- */

static al_vocab *make_bytes(al_ctx *c, const al_source *files, int n_files) {
  (void)files;
  if (n_files != 0) return al_fail(c, AL_EVALUE, "vocab: bytes need no file"), NULL;
  simple *v = al_vocab_alloc(c, &al_kind_bytes, sizeof *v);
  for (int i = 0; v && i < 256; i++) {
    const char s = (char)i;
    if (al_pieces_add(c, &v->pieces, &s, 1) != AL_OK) return (al_vocab *)v;
  }
  if (v && al_pieces_index(c, &v->pieces, 0) == AL_OK) v->base.n = 256;
  return (al_vocab *)v;
}

static al_status encode_bytes(al_ctx *c, const al_vocab *v, const char *text, int64_t n,
                              bool special, al_idlist *out) {
  (void)v;
  (void)special;
  AL_TRY(al_room(c, &out->id, &out->cap, out->n, n, sizeof *out->id));
  for (int64_t i = 0; i < n; i++) out->id[out->n++] = (unsigned char)text[i];
  return AL_OK;
}

const al_vocab_kind al_kind_bytes = {.name = "bytes",
                                     .make = make_bytes,
                                     .free = free_simple,
                                     .piece = piece,
                                     .find = find,
                                     .encode = encode_bytes,
                                     .decode = decode};
