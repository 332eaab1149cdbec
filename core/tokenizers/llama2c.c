/* llama2c.c: the tokenizer table of llama2.c (SentencePiece BPE without its normalisation).
 *
 * The file: int32 length of the longest piece, then for each piece float32 score, int32 length,
 * bytes. Ids 0 unknown, 1 BOS, 2 EOS, 3 to 258 the bytes "<0x00>" to "<0xFF>". Encoding:
 * BOS, then the text with a space put before it, as characters (bytes for those without a piece);
 * then again and again the neighbours whose joint piece has the best score are joined, leftmost
 * first. A heap of candidates does that in O(n log n) where a scan a merge takes O(n^2). Special
 * and byte pieces are never matched as text, so "<s>" in a text is three characters, and spaces are
 * kept as they are: decoding gives back every byte. */
#include "tokenizer.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { UNK = 0, BOS = 1, EOS = 2, FIRST_BYTE = 3, N_FIXED = FIRST_BYTE + 256 };

typedef struct llama2c {
  al_vocab base;
  al_pieces pieces; /* as the file has them */
  float *score;
  int64_t cap;
  char byte[256]; /* byte[i] = i, what a byte piece stands for */
} llama2c;

typedef struct table { /* the file's bytes and how far they are read */
  const char *name, *data;
  int64_t n, at;
} table;

static al_status take(al_ctx *c, table *f, void *out, int64_t n, int64_t piece) {
  if (f->n - f->at < n)
    return al_fail(c, AL_EFORMAT, "tokenizer: %s: ends in piece %lld", f->name, (long long)piece);
  memcpy(out, f->data + f->at, (size_t)n);
  f->at += n;
  return AL_OK;
}

static al_status read_piece(al_ctx *c, llama2c *v, table *f, int32_t longest) {
  const int64_t id = v->pieces.n;
  int32_t len = 0;
  AL_TRY(al_room(c, &v->score, &v->cap, id, 1, sizeof *v->score));
  AL_TRY(take(c, f, &v->score[id], 4, id));
  AL_TRY(take(c, f, &len, 4, id));
  if (len < 0 || len > longest)
    return al_fail(c, AL_EFORMAT, "tokenizer: %s: piece %lld: length 0 to %d expected, got %d",
                   f->name, (long long)id, longest, len);
  if (!isfinite(v->score[id]))
    return al_fail(c, AL_EFORMAT, "tokenizer: %s: piece %lld: its score is not a number", f->name,
                   (long long)id);
  if (f->n - f->at < len)
    return al_fail(c, AL_EFORMAT, "tokenizer: %s: ends in piece %lld", f->name, (long long)id);
  const char *piece = f->data + f->at;
  f->at += len;
  char byte[8];
  snprintf(byte, sizeof byte, "<0x%02X>", (unsigned)(id - FIRST_BYTE) & 0xff);
  if (id >= FIRST_BYTE && id < N_FIXED && (len != 6 || memcmp(piece, byte, 6) != 0))
    return al_fail(c, AL_EFORMAT, "tokenizer: %s: piece %lld must be %s: not a llama2.c tokenizer",
                   f->name, (long long)id, byte);
  return al_pieces_add(c, &v->pieces, piece, len);
}

static al_status read_table(al_ctx *c, llama2c *v, table *f) {
  int32_t longest = 0;
  AL_TRY(take(c, f, &longest, 4, 0));
  if (longest < 6 || longest > f->n) /* a byte piece has 6 characters */
    return al_fail(
        c, AL_EFORMAT,
        "tokenizer: %s: longest piece of %d bytes is impossible: not a llama2.c tokenizer", f->name,
        longest);
  while (f->at < f->n || v->pieces.n < N_FIXED) {
    if (v->pieces.n == AL_MAX_PIECES)
      return al_fail(c, AL_EFORMAT, "tokenizer: %s: more than %d pieces", f->name, AL_MAX_PIECES);
    AL_TRY(read_piece(c, v, f, longest));
  }
  for (int i = 0; i < 256; i++) v->byte[i] = (char)i;
  al_vocab *base = &v->base;
  base->n = v->pieces.n;
  base->unk = UNK, base->bos = BOS, base->eos = EOS;
  AL_TRY(al_idlist_put(c, &base->prefix, BOS));
  AL_TRY(al_vocab_add_special(c, base, UNK, "<unk>", 5));
  AL_TRY(al_vocab_add_special(c, base, BOS, "<s>", 3));
  AL_TRY(al_vocab_add_special(c, base, EOS, "</s>", 4));
  return al_pieces_index(c, &v->pieces, N_FIXED);
}

static al_vocab *make(al_ctx *c, const al_source *files, int n_files) {
  if (n_files != 1) return al_fail(c, AL_EVALUE, "tokenizer: one table needed"), NULL;
  llama2c *v = al_vocab_alloc(c, &al_kind_llama2c, sizeof *v);
  table f = {.name = files->name, .data = files->data, .n = (int64_t)files->n};
  if (v) read_table(c, v, &f);
  return (al_vocab *)v;
}

static void free_table(al_vocab *base) {
  llama2c *v = (llama2c *)base;
  al_pieces_free(&v->pieces);
  free(v->score);
}

static bool is_byte(int32_t id) { return id >= FIRST_BYTE && id < N_FIXED; }

static const char *piece(const al_vocab *base, int32_t id, int64_t *n) {
  const llama2c *v = (const llama2c *)base;
  if (!is_byte(id)) return al_pieces_get(&v->pieces, id, n);
  *n = 1;
  return v->byte + (id - FIRST_BYTE);
}

static int32_t find(const al_vocab *base, const char *s, int64_t n) {
  const llama2c *v = (const llama2c *)base;
  const int32_t id = al_pieces_find(&v->pieces, s, n);
  return id < 0 && n == 1 ? FIRST_BYTE + (unsigned char)*s : id;
}

/* ---- encode --------------------------------------------------------------------------------- */

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
  const llama2c *v;
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
  const int32_t id = al_pieces_find(&m->v->pieces, m->text + a->at, a->len + b->len);
  if (id < 0) return AL_OK;
  AL_TRY(al_room(c, &m->heap, &m->cap, m->n_heap, 1, sizeof *m->heap));
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
    len = al_utf8(m->text + at, n - at, &u);
    const int32_t id = len ? al_pieces_find(&m->v->pieces, m->text + at, len) : -1;
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

static al_status encode(al_ctx *c, const al_vocab *v, const char *text, int64_t n, bool special,
                        al_idlist *out) {
  (void)special;
  al_buffer spaced = {0};
  symbol *symbols = NULL;
  merger m = {.v = (const llama2c *)v};
  if (al_buffer_put(c, &spaced, " ", 1) != AL_OK || al_buffer_put(c, &spaced, text, n) != AL_OK)
    goto done;
  if (!(symbols = al_calloc(c, n + 1, sizeof *symbols))) goto done;
  m.text = spaced.s, m.symbols = symbols;
  int64_t count = split(&m, n + 1);
  if (merge(c, &m, &count) != AL_OK ||
      al_room(c, &out->id, &out->cap, out->n, count, sizeof *out->id) != AL_OK)
    goto done;
  for (int32_t i = 0; i >= 0; i = symbols[i].next) out->id[out->n++] = symbols[i].id;
done:
  free(m.heap);
  free(symbols);
  free(spaced.s);
  return al_error(c);
}

/* BOS and EOS stand for nothing unless they are asked for, and the space that encoding put before
 * the text goes again. */
static al_status decode(al_ctx *c, const al_vocab *v, const int32_t *ids, int64_t n, bool special,
                        al_buffer *out) {
  for (int64_t i = 0; i < n; i++) {
    int64_t k;
    const char *s = piece(v, ids[i], &k);
    if (ids[i] == BOS || ids[i] == EOS) {
      const al_special *name = al_vocab_special_of(v, ids[i]);
      s = name->name, k = special ? name->n : 0;
    }
    if (i > 0 && ids[i - 1] == BOS && k > 0 && *s == ' ') s++, k--;
    AL_TRY(al_buffer_put(c, out, s, k));
  }
  return AL_OK;
}

const al_vocab_kind al_kind_llama2c = {.name = "llama2c",
                                       .make = make,
                                       .free = free_table,
                                       .piece = piece,
                                       .find = find,
                                       .encode = encode,
                                       .decode = decode};
