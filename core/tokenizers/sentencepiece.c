/* sentencepiece.c: SentencePiece's .model files, run by the library (sentencepiece.cpp).
 *
 * The file is a protobuf: field 1 pieces {1 text, 2 float score, 3 type}, 3 and 5 normaliser and
 * denormaliser {2 map of characters}; the library walks such a map's double array without looking
 * where it ends, so here the file is read first, and refused with the place.
 * Encoding puts BOS first when the model has one (type control), as the models that use these files
 * were trained. Bytes (<0x41>) and normalisation are the library's; so is decoding, which leaves
 * control pieces out and shows unknown ones as U+2047. A text with special strings is encoded part
 * by part, each as a text of its own. */
#include "sentencepiece.h"
#include "tokenizer.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct spm {
  al_vocab base;
  al_sp_model *model;
  al_pieces pieces; /* what ids stand for: a space for U+2581, a byte for <0x..> */
} spm;

#define SPACE "\xe2\x96\x81" /* U+2581, which stands for a space in pieces */

/* ---- the file ------------------------------------------------------------------------------- */

typedef struct wire { /* a message of the protobuf and how far it is read */
  const char *name;   /* of the file */
  const unsigned char *s;
  int64_t at, end; /* offsets in the file */
} wire;

typedef struct field {
  uint64_t number, value; /* value: of a varint, or the bits of 4 or 8 bytes */
  int type;               /* 0 varint, 1 eight bytes, 2 bytes, 5 four bytes */
  wire inner;             /* of bytes */
} field;

static al_status fail_at(al_ctx *c, const wire *w, int64_t at, const char *what) {
  return al_fail(c, AL_EFORMAT, "tokenizer: %s: byte %lld: %s", w->name, (long long)at, what);
}

static al_status varint(al_ctx *c, wire *w, uint64_t *out) {
  *out = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    if (w->at == w->end) break;
    const unsigned char b = w->s[w->at++];
    *out |= (uint64_t)(b & 0x7f) << shift;
    if (b < 0x80) return AL_OK;
  }
  return fail_at(c, w, w->at, "not a SentencePiece model: a number does not end");
}

static al_status next_field(al_ctx *c, wire *w, field *f) {
  const int64_t at = w->at;
  uint64_t tag, n = 0;
  AL_TRY(varint(c, w, &tag));
  *f = (field){.number = tag >> 3, .type = (int)(tag & 7)};
  if (f->type == 0) return varint(c, w, &f->value);
  if (f->type == 2) AL_TRY(varint(c, w, &n));
  if (f->type == 1) n = 8;
  if (f->type == 5) n = 4;
  if (f->number == 0 || (f->type != 1 && f->type != 2 && f->type != 5))
    return fail_at(c, w, at, "not a SentencePiece model: no field of a protobuf");
  if (n > (uint64_t)(w->end - w->at))
    return fail_at(c, w, at, "the file ends within a field of the SentencePiece model");
  f->inner = (wire){w->name, w->s, w->at, w->at + (int64_t)n};
  if (f->type != 2) memcpy(&f->value, w->s + w->at, n);
  w->at += (int64_t)n;
  return AL_OK;
}

static al_status check_piece(al_ctx *c, wire w, int64_t id) {
  const int64_t began = w.at;
  bool text = false;
  while (w.at < w.end) {
    field f;
    AL_TRY(next_field(c, &w, &f));
    if (f.number == 1 && f.type == 2) {
      const char *s = (const char *)w.s + f.inner.at;
      const int64_t n = f.inner.end - f.inner.at;
      int64_t len = 1;
      for (int64_t at = 0; at < n && len > 0 && s[at]; at += len) {
        uint32_t u;
        len = al_utf8(s + at, n - at, &u);
      }
      text = n > 0 && len > 0 && !memchr(s, 0, (size_t)n);
    }
    float score = 0;
    if (f.number == 2 && f.type == 5) memcpy(&score, &f.value, sizeof score);
    if (!isfinite(score))
      return al_fail(c, AL_EFORMAT, "tokenizer: %s: piece %lld: its score is not a number", w.name,
                     (long long)id);
  }
  if (text) return AL_OK;
  return al_fail(c, AL_EFORMAT,
                 "tokenizer: %s: piece %lld (byte %lld): a text in UTF-8 without a zero expected",
                 w.name, (long long)id, (long long)began);
}

/* A map of characters: uint32 bytes of the double array, which follows, then the texts that it
 * points to, each ended by a zero. A unit of the array: bit 31 a value (the other bits), else bit 8
 * a value follows, bits 10 to 31 and 9 the offset of its children (darts-clone). */
static al_status check_map(al_ctx *c, wire w) {
  const int64_t n = w.end - w.at;
  if (n == 0) return AL_OK;
  uint32_t bytes = 0;
  if (n >= 4) memcpy(&bytes, w.s + w.at, 4);
  if (n < 4 || bytes < 1024 || bytes % 4 != 0 || bytes >= n - 4 || w.s[w.end - 1] != 0)
    return fail_at(c, &w, w.at, "the map of characters is not as long as it says");
  const int64_t n_units = bytes / 4, texts = w.at + 4 + bytes, n_texts = w.end - texts;
  for (int64_t at = 0, len; at < n_texts; at += len) {
    uint32_t u;
    len = al_utf8((const char *)w.s + texts + at, n_texts - at, &u);
    if (len == 0) return fail_at(c, &w, texts + at, "a text of the map is not UTF-8");
  }
  for (int64_t i = 0; i < n_units; i++) {
    uint32_t unit, value;
    memcpy(&unit, w.s + w.at + 4 + 4 * i, 4);
    if (unit >> 31) continue; /* a value */
    const int64_t child = i ^ (int64_t)((unit >> 10) << ((unit & 1u << 9) >> 6));
    if ((child | 255) >= n_units)
      return fail_at(c, &w, w.at + 4 + 4 * i, "the map of characters leads out of itself");
    memcpy(&value, w.s + w.at + 4 + 4 * child, 4);
    if ((unit >> 8 & 1) && (int64_t)(value & 0x7fffffff) >= n_texts)
      return fail_at(c, &w, w.at + 4 + 4 * i, "the map of characters leads to no text");
  }
  return AL_OK;
}

static al_status check_normalizer(al_ctx *c, wire w) {
  while (w.at < w.end) {
    field f;
    AL_TRY(next_field(c, &w, &f));
    if (f.number == 2 && f.type == 2) AL_TRY(check_map(c, f.inner));
  }
  return AL_OK;
}

static al_status check_file(al_ctx *c, const al_source *file) {
  wire w = {file->name, (const unsigned char *)file->data, 0, (int64_t)file->n};
  int64_t pieces = 0;
  while (w.at < w.end) {
    field f;
    AL_TRY(next_field(c, &w, &f));
    if (f.type != 2) continue;
    if (f.number == 1) AL_TRY(check_piece(c, f.inner, pieces++));
    if (f.number == 3 || f.number == 5) AL_TRY(check_normalizer(c, f.inner));
    if (pieces > AL_MAX_PIECES) return fail_at(c, &w, w.at, "too many pieces");
  }
  return pieces ? AL_OK : fail_at(c, &w, w.at, "not a SentencePiece model: it has no pieces");
}

/* ---- the vocabulary ------------------------------------------------------------------------- */

static al_status add_piece(al_ctx *c, spm *v, int id) {
  size_t n;
  enum al_sp_type type;
  const char *s = al_sp_piece(v->model, id, &n, &type);
  if (type == AL_SP_CONTROL || type == AL_SP_UNKNOWN)
    AL_TRY(al_vocab_add_special(c, &v->base, id, s, (int64_t)n));
  if (type == AL_SP_BYTE) { /* the library has checked <0x00> to <0xFF> */
    const char byte = (char)strtol(s + 3, NULL, 16);
    return al_pieces_add(c, &v->pieces, &byte, 1);
  }
  al_buffer text = {0};
  for (size_t at = 0; at < n && al_error(c) == AL_OK;) {
    const bool space = type == AL_SP_NORMAL && n - at >= 3 && memcmp(s + at, SPACE, 3) == 0;
    al_buffer_put(c, &text, space ? " " : s + at, 1);
    at += space ? 3 : 1;
  }
  if (al_error(c) == AL_OK) al_pieces_add(c, &v->pieces, text.s, text.n);
  free(text.s);
  return al_error(c);
}

static al_status read_model(al_ctx *c, spm *v, const al_source *file) {
  char why[AL_SP_WHY] = "";
  AL_TRY(check_file(c, file));
  if (!(v->model = al_sp_open(file->data, file->n, why)))
    return al_fail(c, AL_EFORMAT, "tokenizer: %s: SentencePiece refuses it: %s", file->name, why);
  al_vocab *base = &v->base;
  base->n = al_sp_size(v->model);
  for (int id = 0; id < base->n; id++) AL_TRY(add_piece(c, v, id));
  base->bos = al_sp_known(v->model, 'b'), base->eos = al_sp_known(v->model, 'e');
  base->unk = al_sp_known(v->model, 'u'), base->pad = al_sp_known(v->model, 'p');
  return base->bos >= 0 ? al_idlist_put(c, &base->prefix, base->bos) : AL_OK;
}

static al_vocab *make(al_ctx *c, const al_source *files, int n_files) {
  if (n_files != 1) return al_fail(c, AL_EVALUE, "tokenizer: one .model file needed"), NULL;
  spm *v = al_vocab_alloc(c, &al_kind_sentencepiece, sizeof *v);
  if (v) read_model(c, v, files);
  return (al_vocab *)v;
}

static void free_model(al_vocab *base) {
  spm *v = (spm *)base;
  if (v->model) al_sp_close(v->model);
  al_pieces_free(&v->pieces);
}

static const char *piece(const al_vocab *v, int32_t id, int64_t *n) {
  return al_pieces_get(&((const spm *)v)->pieces, id, n);
}

static int32_t find(const al_vocab *base, const char *s, int64_t n) {
  const spm *v = (const spm *)base;
  char name[] = "<0x00>";
  char *spelt = malloc((size_t)(3 * n) + 1);
  int64_t len = 0;
  for (int64_t i = 0; spelt && i < n; i++) {
    memcpy(spelt + len, s[i] == ' ' ? SPACE : s + i, s[i] == ' ' ? 3 : 1);
    len += s[i] == ' ' ? 3 : 1;
  }
  int id = spelt ? al_sp_find(v->model, spelt, (size_t)len) : -1;
  free(spelt);
  if (id >= 0 || n != 1) return id;
  name[3] = "0123456789ABCDEF"[(unsigned char)*s >> 4], name[4] = "0123456789ABCDEF"[*s & 15];
  return al_sp_find(v->model, name, 6);
}

/* ---- encode and decode ---------------------------------------------------------------------- */

typedef struct sink {
  al_ctx *c;
  void *out;
} sink;

static bool put_ids(void *to, const int *ids, size_t n) {
  const sink *s = to;
  al_idlist *l = s->out;
  if (al_room(s->c, &l->id, &l->cap, l->n, (int64_t)n, sizeof *l->id) != AL_OK) return false;
  for (size_t i = 0; i < n; i++) l->id[l->n++] = ids[i];
  return true;
}

static bool put_text(void *to, const char *text, size_t n) {
  const sink *s = to;
  return al_buffer_put(s->c, s->out, text, (int64_t)n) == AL_OK;
}

static al_status encode(al_ctx *c, const al_vocab *v, const char *text, int64_t n, bool special,
                        al_idlist *out) {
  (void)special;
  char why[AL_SP_WHY] = "";
  if (al_utf8_count(c, "encode", text, n) < 0) return al_error(c);
  sink to = {c, out};
  if (!al_sp_encode(((const spm *)v)->model, text, (size_t)n, put_ids, &to, why) &&
      al_error(c) == AL_OK)
    al_fail(c, AL_EVALUE, "encode: SentencePiece: %s", why);
  return al_error(c);
}

static al_status decode(al_ctx *c, const al_vocab *v, const int32_t *ids, int64_t n, bool special,
                        al_buffer *out) {
  char why[AL_SP_WHY] = "";
  sink to = {c, out};
  for (int64_t from = 0, at = 0; at <= n; at++) {
    const al_special *name =
        special && at < n && ids[at] != v->unk ? al_vocab_special_of(v, ids[at]) : NULL;
    if (at < n && !name) continue;
    if (!al_sp_decode(((const spm *)v)->model, ids + from, (size_t)(at - from), put_text, &to,
                      why) &&
        al_error(c) == AL_OK)
      al_fail(c, AL_EVALUE, "decode: SentencePiece: %s", why);
    if (name && al_error(c) == AL_OK) al_buffer_put(c, out, name->name, name->n);
    from = at + 1;
  }
  return al_error(c);
}

const al_vocab_kind al_kind_sentencepiece = {.name = "sentencepiece",
                                             .make = make,
                                             .free = free_model,
                                             .piece = piece,
                                             .find = find,
                                             .encode = encode,
                                             .decode = decode};

/* ---- training -------------------------------------------------------------------------------- */

typedef struct lines { /* the lines of texts, one after the other, without those that are empty */
  const al_source *texts;
  int n, i;
  size_t at;
  int64_t number; /* of the line in its text, from 1 */
} lines;

static bool next_line(void *from, const char **line, size_t *n) {
  lines *l = from;
  while (l->i < l->n) {
    const al_source *t = &l->texts[l->i];
    if (l->at >= t->n) {
      l->i++, l->at = 0, l->number = 0;
      continue;
    }
    const char *s = t->data + l->at, *nl = memchr(s, '\n', t->n - l->at);
    size_t len = nl ? (size_t)(nl - s) : t->n - l->at;
    l->at += len + (nl != NULL);
    l->number++;
    if (len > 0 && s[len - 1] == '\r') len--;
    if (len == 0) continue;
    *line = s, *n = len;
    return true;
  }
  return false;
}

/* Lines that the trainer leaves out are refused: not UTF-8, a zero, U+2585, which it keeps. */
static al_status check_lines(al_ctx *c, lines l, int64_t *longest, int64_t *count) {
  const char *s;
  size_t n;
  *longest = *count = 0;
  while (next_line(&l, &s, &n)) {
    const char *name = l.texts[l.i].name;
    for (size_t at = 0; at < n;) {
      uint32_t u = 0;
      const int len = al_utf8(s + at, (int64_t)(n - at), &u);
      if (len == 0 || u == 0 || u == 0x2585)
        return al_fail(
            c, AL_EFORMAT,
            "tokenizer: %s: line %lld, byte %zu: %s, and the trainer would leave the line out",
            name, (long long)l.number, at + 1,
            len == 0 ? "not UTF-8"
            : u == 0 ? "a zero"
                     : "U+2585, which the trainer has for itself");
      at += (size_t)len;
    }
    if ((int64_t)n > *longest) *longest = (int64_t)n;
    ++*count;
  }
  if (*count == 0) return al_fail(c, AL_EVALUE, "tokenizer: no text to train on");
  if (*longest > AL_MAX_TEXT)
    return al_fail(c, AL_EVALUE, "tokenizer: a line of %lld bytes: at most %d", (long long)*longest,
                   AL_MAX_TEXT);
  if (*longest < 4192) *longest = 4192; /* the library's own; it takes no less than 10 */
  return AL_OK;
}

al_status al_vocab_train(al_ctx *c, const char *args, const al_source *texts, int n_texts,
                         char **model, size_t *n_model) {
  AL_PLAIN_NUMBERS; /* in args */
  char why[AL_SP_WHY] = "";
  int64_t longest, count;
  lines l = {.texts = texts, .n = n_texts};
  AL_TRY(check_lines(c, l, &longest, &count));
  al_buffer out = {0}, all = {0};
  sink to = {c, &out};
  const int n = snprintf(why, sizeof why, " --max_sentence_length=%lld", (long long)longest);
  if (al_buffer_put(c, &all, args, (int64_t)strlen(args)) == AL_OK &&
      al_buffer_put(c, &all, why, n + 1) == AL_OK) {
    *why = 0;
    if (!al_sp_train(all.s, next_line, &l, put_text, &to, why) && al_error(c) == AL_OK)
      al_fail(c, AL_EVALUE, "tokenizer: SentencePiece: %s", why);
  }
  free(all.s);
  if (al_error(c) != AL_OK) {
    free(out.s);
    return al_error(c);
  }
  *model = out.s, *n_model = (size_t)out.n;
  return AL_OK;
}
