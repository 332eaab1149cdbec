/* vocab.c: two tokenizers: the characters of a text, and the table of llama2.c (SentencePiece BPE).
 *
 * Characters: the distinct Unicode characters of a text in code point order; UTF-8 is checked.
 * llama2.c's table: int32 length of the longest piece, then for each piece float32 score, int32
 * length, bytes. Ids 0 unknown, 1 BOS, 2 EOS, 3 to 258 the bytes "<0x00>" to "<0xFF>". Encoding:
 * BOS, then the text with a space put before it, as characters (bytes for those without a piece);
 * then again and again the neighbours whose joint piece has the best score are joined, leftmost
 * first. A heap of candidates does that in O(n log n) where a scan a merge takes O(n^2). Special
 * and byte pieces are never matched as text, so "<s>" in a text is three characters, and spaces are
 * kept as they are: decoding gives back every byte. */
#include "file.h"
#include "../core.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BOS = 1, EOS = 2, FIRST_BYTE = 3, N_FIXED = FIRST_BYTE + 256 };
enum { MAX_TABLE = 1 << 28, MAX_TEXT = 1 << 30 };

struct al_vocab {
  bool merges; /* llama2.c's table, else characters */
  int64_t n;
  char *bytes;    /* all pieces, one after the other */
  int64_t *start; /* n + 1 offsets into bytes */
  float *score;   /* NULL for characters */
  int32_t *slots; /* hash table of ids, -1 = empty; n_slots a power of 2 */
  int64_t n_slots;
  char byte[256]; /* byte[i] = i, what a byte piece stands for */
};

/* ---- pieces --------------------------------------------------------------------------------- */

static int64_t piece_length(const al_vocab *v, int64_t id) {
  return v->start[id + 1] - v->start[id];
}

/* The slot of a piece, or the empty slot where it belongs. FNV-1a, linear probing. */
static int64_t slot_of(const al_vocab *v, const char *s, int64_t n) {
  uint64_t h = 1469598103934665603u;
  for (int64_t i = 0; i < n; i++) h = (h ^ (unsigned char)s[i]) * 1099511628211u;
  for (uint64_t i = h ^ h >> 32;; i++) {
    const int64_t slot = (int64_t)(i & (uint64_t)(v->n_slots - 1));
    const int32_t id = v->slots[slot];
    if (id < 0 || (piece_length(v, id) == n && memcmp(v->bytes + v->start[id], s, (size_t)n) == 0))
      return slot;
  }
}

static int32_t find(const al_vocab *v, const char *s, int64_t n) {
  return v->slots[slot_of(v, s, n)];
}

/* Makes the pieces from `first` on findable; of two equal pieces the lower id is found. */
static al_status index_pieces(al_ctx *c, al_vocab *v, int64_t first) {
  for (v->n_slots = 16; v->n_slots < 2 * v->n; v->n_slots *= 2) {}
  v->slots = al_calloc(c, v->n_slots, sizeof *v->slots);
  if (!v->slots) return al_error(c);
  memset(v->slots, 0xff, (size_t)v->n_slots * sizeof *v->slots);
  for (int64_t id = first; id < v->n; id++) {
    const int64_t slot = slot_of(v, v->bytes + v->start[id], piece_length(v, id));
    if (v->slots[slot] < 0) v->slots[slot] = (int32_t)id;
  }
  return AL_OK;
}

static al_vocab *new_vocab(al_ctx *c, bool merges, int64_t n, int64_t n_bytes) {
  al_vocab *v = al_calloc(c, 1, sizeof *v);
  if (!v) return NULL;
  v->merges = merges;
  v->n = n;
  for (int i = 0; i < 256; i++) v->byte[i] = (char)i;
  v->bytes = al_calloc(c, n_bytes, 1);
  v->start = v->bytes ? al_calloc(c, n + 1, sizeof *v->start) : NULL;
  v->score = v->start && merges ? al_calloc(c, n, sizeof *v->score) : NULL;
  if (v->start && (v->score || !merges)) return v;
  al_vocab_free(v);
  return NULL;
}

void al_vocab_free(al_vocab *v) {
  if (!v) return;
  free(v->bytes);
  free(v->start);
  free(v->score);
  free(v->slots);
  free(v);
}

int64_t al_vocab_size(const al_vocab *v) { return v->n; }

const char *al_vocab_piece(const al_vocab *v, int64_t id, size_t *n) {
  if (id < 0 || id >= v->n) return NULL;
  if (n) *n = (size_t)piece_length(v, id);
  return v->bytes + v->start[id];
}

/* ---- UTF-8 ---------------------------------------------------------------------------------- */

/* Bytes of the character at s, of which n remain, and its code point; 0 when it is not UTF-8
 * (overlong forms and surrogates included). */
static int utf8(const char *text, int64_t n, uint32_t *code) {
  static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
  const unsigned char *s = (const unsigned char *)text;
  const int len = s[0] < 0x80   ? 1
                  : s[0] < 0xc2 ? 0
                  : s[0] < 0xe0 ? 2
                  : s[0] < 0xf0 ? 3
                  : s[0] < 0xf5 ? 4
                                : 0;
  if (len == 0 || len > n) return 0;
  uint32_t u = len == 1 ? s[0] : s[0] & (0x7fu >> len);
  for (int i = 1; i < len; i++) {
    if ((s[i] & 0xc0) != 0x80) return 0;
    u = u << 6 | (s[i] & 0x3f);
  }
  if (u < least[len] || u > 0x10ffff || (u >= 0xd800 && u < 0xe000)) return 0;
  *code = u;
  return len;
}

static int put_utf8(uint32_t u, char *out) {
  const int len = u < 0x80 ? 1 : u < 0x800 ? 2 : u < 0x10000 ? 3 : 4;
  static const unsigned char lead[5] = {0, 0, 0xc0, 0xe0, 0xf0};
  for (int i = len - 1; i > 0; i--, u >>= 6) out[i] = (char)(0x80 | (u & 0x3f));
  out[0] = (char)(lead[len] | u);
  return len;
}

static al_status fail_utf8(al_ctx *c, const char *who, const char *text, int64_t at) {
  return al_fail(c, AL_EFORMAT, "%s: the text is not UTF-8 at byte %lld (0x%02X)", who,
                 (long long)at, (unsigned)(unsigned char)text[at]);
}

/* ---- characters ----------------------------------------------------------------------------- */

al_vocab *al_vocab_chars(al_ctx *c, const char *text, size_t n) {
  enum { CODES = 0x110000 };
  if (n == 0 || n > MAX_TEXT) {
    al_fail(c, AL_EVALUE, "vocab: a text of 1 to %d bytes needed, got %zu", MAX_TEXT, n);
    return NULL;
  }
  al_vocab *v = NULL;
  char *seen = al_calloc(c, CODES, 1);
  if (!seen) return NULL;
  int64_t n_pieces = 0, n_bytes = 0;
  for (int64_t at = 0, len; at < (int64_t)n; at += len) {
    uint32_t u = 0;
    len = utf8(text + at, (int64_t)n - at, &u);
    if (len == 0) {
      fail_utf8(c, "vocab", text, at);
      goto fail;
    }
    if (seen[u]) continue;
    seen[u] = 1;
    n_pieces++;
    n_bytes += len;
  }
  if (!(v = new_vocab(c, false, n_pieces, n_bytes))) goto fail;
  int64_t id = 0;
  for (uint32_t u = 0; u < CODES; u++) {
    if (!seen[u]) continue;
    v->start[id + 1] = v->start[id] + put_utf8(u, v->bytes + v->start[id]);
    id++;
  }
  if (index_pieces(c, v, 0) != AL_OK) goto fail;
  free(seen);
  return v;
fail:
  al_vocab_free(v);
  free(seen);
  return NULL;
}

static int64_t count_chars(al_ctx *c, const char *text, int64_t n) {
  int64_t count = 0;
  for (int64_t at = 0, len; at < n; at += len, count++) {
    uint32_t u;
    len = utf8(text + at, n - at, &u);
    if (len == 0) {
      fail_utf8(c, "encode", text, at);
      return -1;
    }
  }
  return count;
}

static al_status encode_chars(al_ctx *c, const al_vocab *v, const char *text, int64_t n,
                              int32_t *ids) {
  int64_t i = 0;
  for (int64_t at = 0, len; at < n; at += len, i++) {
    uint32_t u = 0;
    len = utf8(text + at, n - at, &u);
    ids[i] = find(v, text + at, len);
    if (ids[i] < 0)
      return al_fail(c, AL_EVALUE,
                     "encode: character %lld (byte %lld): '%.*s' (U+%04X) is not among the %lld of "
                     "the vocabulary",
                     (long long)(i + 1), (long long)at, u < 32 ? 0 : (int)len, text + at, u,
                     (long long)v->n);
  }
  return AL_OK;
}

/* ---- llama2.c's table ----------------------------------------------------------------------- */

typedef struct table { /* the file's bytes and how far they are read */
  const char *path, *data;
  int64_t n, at;
} table;

static al_status take(al_ctx *c, table *f, void *out, int64_t n, int64_t piece) {
  if (f->n - f->at < n)
    return al_fail(c, AL_EFORMAT, "tokenizer: %s: ends in piece %lld", f->path, (long long)piece);
  memcpy(out, f->data + f->at, (size_t)n);
  f->at += n;
  return AL_OK;
}

static al_status read_piece(al_ctx *c, al_vocab *v, table *f, int64_t id, int32_t longest) {
  int32_t len = 0;
  AL_TRY(take(c, f, &v->score[id], 4, id));
  AL_TRY(take(c, f, &len, 4, id));
  if (len < 0 || len > longest)
    return al_fail(c, AL_EFORMAT, "tokenizer: %s: piece %lld: length 0 to %d expected, got %d",
                   f->path, (long long)id, longest, len);
  if (!isfinite(v->score[id]))
    return al_fail(c, AL_EFORMAT, "tokenizer: %s: piece %lld: its score is not a number", f->path,
                   (long long)id);
  char *piece = v->bytes + v->start[id], byte[8];
  AL_TRY(take(c, f, piece, len, id));
  v->start[id + 1] = v->start[id] + len;
  snprintf(byte, sizeof byte, "<0x%02X>", (unsigned)(id - FIRST_BYTE) & 0xff);
  if (id >= FIRST_BYTE && id < N_FIXED && (len != 6 || memcmp(piece, byte, 6) != 0))
    return al_fail(c, AL_EFORMAT, "tokenizer: %s: piece %lld must be %s: not a llama2.c tokenizer",
                   f->path, (long long)id, byte);
  return AL_OK;
}

static al_status read_table(al_ctx *c, al_vocab **out, table *f, int64_t size) {
  int32_t longest = 0;
  AL_TRY(take(c, f, &longest, 4, 0));
  if (longest < 6 || longest > f->n) /* a byte piece has 6 characters */
    return al_fail(
        c, AL_EFORMAT,
        "tokenizer: %s: longest piece of %d bytes is impossible: not a llama2.c tokenizer", f->path,
        longest);
  if (size > (f->n - 4) / 8)
    return al_fail(c, AL_EFORMAT, "tokenizer: %s: %lld bytes are too few for %lld pieces", f->path,
                   (long long)f->n, (long long)size);
  al_vocab *v = *out = new_vocab(c, true, size, f->n);
  if (!v) return al_error(c);
  for (int64_t id = 0; id < size; id++) AL_TRY(read_piece(c, v, f, id, longest));
  if (f->at != f->n)
    return al_fail(c, AL_EFORMAT, "tokenizer: %s: %lld bytes after piece %lld: is its size %lld?",
                   f->path, (long long)(f->n - f->at), (long long)size - 1, (long long)size);
  return index_pieces(c, v, N_FIXED);
}

al_vocab *al_vocab_llama2c(al_ctx *c, const char *path, int64_t size) {
  const al_shown shown = al_path_shown(path);
  if (size < N_FIXED || size > INT32_MAX) {
    al_fail(c, AL_EVALUE, "tokenizer: %s: at least %d pieces needed, got %lld", shown.text, N_FIXED,
            (long long)size);
    return NULL;
  }
  char *data;
  size_t n;
  if (al_file_read(c, path, MAX_TABLE, &data, &n) != AL_OK) return NULL;
  al_vocab *v = NULL;
  table f = {.path = shown.text, .data = data, .n = (int64_t)n};
  const al_status st = read_table(c, &v, &f, size);
  free(data);
  if (st == AL_OK) return v;
  al_vocab_free(v);
  return NULL;
}

typedef struct symbol { /* a stretch of the text with an id; list of neighbours */
  int32_t at, len;      /* len 0: joined to its left neighbour */
  int32_t prev, next;   /* -1 at the ends */
  int32_t id;
  bool fixed; /* a byte piece, never joined */
} symbol;

typedef struct candidate { /* two neighbours whose joint bytes are a piece */
  float score;
  int32_t left, right, len, id;
} candidate;

typedef struct merger {
  const al_vocab *v;
  const char *text;
  symbol *symbols;
  candidate *heap; /* best first */
  int64_t n_heap, cap;
} merger;

static bool better(const candidate *a, const candidate *b) {
  return a->score != b->score ? a->score > b->score : a->left < b->left;
}

static al_status push(al_ctx *c, merger *m, int32_t left, int32_t right) {
  if (left < 0 || right < 0) return AL_OK;
  const symbol *a = &m->symbols[left], *b = &m->symbols[right];
  if (a->fixed || b->fixed) return AL_OK;
  const int32_t id = find(m->v, m->text + a->at, a->len + b->len);
  if (id < 0) return AL_OK;
  if (m->n_heap == m->cap) {
    const int64_t cap = 2 * m->cap + 64;
    candidate *p = realloc(m->heap, (size_t)cap * sizeof *p);
    if (!p) return al_fail(c, AL_ENOMEM, "encode: out of memory (%lld candidates)", (long long)cap);
    m->heap = p;
    m->cap = cap;
  }
  const candidate new = {m->v->score[id], left, right, a->len + b->len, id};
  int64_t i = m->n_heap++;
  for (; i > 0 && better(&new, &m->heap[(i - 1) / 2]); i = (i - 1) / 2)
    m->heap[i] = m->heap[(i - 1) / 2];
  m->heap[i] = new;
  return AL_OK;
}

static candidate pop(merger *m) {
  const candidate top = m->heap[0], last = m->heap[--m->n_heap];
  int64_t i = 0;
  for (;;) {
    int64_t child = 2 * i + 1;
    if (child >= m->n_heap) break;
    if (child + 1 < m->n_heap && better(&m->heap[child + 1], &m->heap[child])) child++;
    if (!better(&m->heap[child], &last)) break;
    m->heap[i] = m->heap[child];
    i = child;
  }
  m->heap[i] = last;
  return top;
}

/* One symbol a character, or one a byte where the character has no piece. Returns their number. */
static int32_t split(merger *m, int64_t n) {
  int32_t count = 0;
  for (int64_t at = 0, len; at < n; at += len) {
    uint32_t u;
    len = utf8(m->text + at, n - at, &u);
    const int32_t id = len ? find(m->v, m->text + at, len) : -1;
    if (len == 0) len = 1;
    const int n_symbols = id < 0 ? (int)len : 1;
    for (int i = 0; i < n_symbols; i++, count++)
      m->symbols[count] = (symbol){.at = (int32_t)at + i,
                                   .len = id < 0 ? 1 : (int32_t)len,
                                   .prev = count - 1,
                                   .next = count + 1,
                                   .id = id < 0 ? FIRST_BYTE + (unsigned char)m->text[at + i] : id,
                                   .fixed = id < 0};
  }
  if (count > 0) m->symbols[count - 1].next = -1;
  return count;
}

/* Joins neighbours until no joint piece is left; *count = the number of symbols that remain. */
static al_status merge(al_ctx *c, merger *m, int64_t *count) {
  symbol *s = m->symbols;
  for (int32_t i = 0; i + 1 < *count; i++) AL_TRY(push(c, m, i, i + 1));
  while (m->n_heap > 0) {
    const candidate k = pop(m);
    symbol *a = &s[k.left], *b = &s[k.right];
    if (a->len == 0 || b->len == 0 || a->len + b->len != k.len)
      continue; /* one of them was joined since */
    a->len = k.len;
    a->id = k.id;
    a->next = b->next;
    if (b->next >= 0) s[b->next].prev = k.left;
    b->len = 0;
    --*count;
    AL_TRY(push(c, m, a->prev, k.left));
    AL_TRY(push(c, m, k.left, a->next));
  }
  return AL_OK;
}

/* ---- both ----------------------------------------------------------------------------------- */

/* A 1-D i32 tensor of the caller's, outside any scope. */
static al_tensor *new_ids(al_ctx *c, int64_t n) {
  const bool off = c->scope_off;
  c->scope_off = true;
  al_tensor *t = al_tensor_new(c, AL_I32, 1, &n);
  c->scope_off = off;
  return t;
}

static al_tensor *encode_pieces(al_ctx *c, const al_vocab *v, const char *text, int64_t n) {
  al_tensor *ids = NULL;
  char *spaced = al_calloc(c, n + 1, 1);
  symbol *symbols = spaced ? al_calloc(c, n + 1, sizeof *symbols) : NULL;
  merger m = {.v = v, .text = spaced, .symbols = symbols};
  if (!symbols) goto done;
  spaced[0] = ' ';
  memcpy(spaced + 1, text, (size_t)n);
  int64_t count = n > 0 ? split(&m, n + 1) : 0;
  if (merge(c, &m, &count) != AL_OK || !(ids = new_ids(c, count + 1))) goto done;
  al_stage g;
  if (!al_stage_begin(&g, ids, false)) goto done;
  int32_t *out = g.bytes;
  *out++ = BOS;
  for (int32_t i = count ? 0 : -1; i >= 0; i = symbols[i].next) *out++ = symbols[i].id;
  al_stage_end(&g, true);
done:
  free(m.heap);
  free(symbols);
  free(spaced);
  return ids;
}

al_tensor *al_vocab_encode(al_ctx *c, const al_vocab *v, const char *text, size_t n) {
  if (n > MAX_TEXT) {
    al_fail(c, AL_EVALUE, "encode: at most %d bytes at once, got %zu", MAX_TEXT, n);
    return NULL;
  }
  if (v->merges) return al_scope_own(c, encode_pieces(c, v, text, (int64_t)n));
  const int64_t count = count_chars(c, text, (int64_t)n);
  al_tensor *ids = count < 0 ? NULL : new_ids(c, count);
  if (!ids) return NULL;
  al_stage g;
  if (al_stage_begin(&g, ids, false)) {
    encode_chars(c, v, text, (int64_t)n, g.bytes);
    al_stage_end(&g, true);
  }
  if (al_error(c) == AL_OK) return al_scope_own(c, ids);
  al_release(ids);
  return NULL;
}

/* What an id stands for after the id `prev` (-1 at the start). BOS and EOS stand for nothing, and
 * the space that encoding put before the text goes again. */
static const char *text_of(const al_vocab *v, int32_t prev, int32_t id, int64_t *n) {
  const char *piece = v->bytes + v->start[id];
  *n = piece_length(v, id);
  if (!v->merges) return piece;
  if (id == BOS || id == EOS) *n = 0;
  if (id >= FIRST_BYTE && id < N_FIXED) *n = 1, piece = v->byte + (id - FIRST_BYTE);
  if (prev == BOS && *n > 0 && *piece == ' ') --*n, piece++;
  return piece;
}

char *al_vocab_decode(al_ctx *c, const al_vocab *v, const int32_t *ids, int64_t n, size_t *len) {
  int64_t total = 0, k;
  for (int64_t i = 0; i < n; i++) {
    if (ids[i] < 0 || ids[i] >= v->n) {
      al_fail(c, AL_EVALUE, "decode: id %d at position %lld: 0 to %lld possible", ids[i],
              (long long)(i + 1), (long long)v->n - 1);
      return NULL;
    }
    text_of(v, i ? ids[i - 1] : -1, ids[i], &k);
    total += k;
  }
  char *out = al_calloc(c, total + 1, 1);
  if (!out) return NULL;
  char *p = out;
  for (int64_t i = 0; i < n; i++, p += k) {
    const char *from = text_of(v, i ? ids[i - 1] : -1, ids[i], &k);
    memcpy(p, from, (size_t)k);
  }
  if (len) *len = (size_t)total;
  return out;
}
