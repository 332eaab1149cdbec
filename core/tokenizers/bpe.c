/* bpe.c: byte pair encoding: the characters of a word are joined, two neighbours at a time, always
 * the pair of the lowest rank, leftmost first (Sennrich, Haddow, Birch 2016, arXiv 1508.07909).
 *
 * Words of up to SHORT symbols are scanned for the best pair each time; longer ones use a heap of
 * pairs, O(n log n), for texts that no pre-tokenizer cuts. What short words become is kept in a
 * table of CACHED entries, the youngest of a slot: words repeat. It is taken by one thread at a
 * time; another encodes without it. */
#include "pipeline.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SHORT = 32, CACHED = 1 << 15, KEY = 32, KEPT = 7, LOW = 0x180 };

typedef struct pair {
  uint64_t key; /* left << 32 | right; EMPTY */
  int32_t rank, made;
} pair;
#define EMPTY UINT64_MAX

typedef struct entry { /* 64 bytes */
  char key[KEY];
  uint8_t n_key, n;
  int32_t id[KEPT];
} entry;

struct al_bpe {
  const al_pieces *tokens;
  al_bpe_options o;
  pair *pairs; /* hash table, n_pairs a power of 2 */
  int64_t n_pairs, n_merges;
  int32_t
      low[LOW]; /* ids of the first characters of Unicode, those of GPT-2's alphabet among them */
  int32_t byte[256]; /* ids of <0x00> to <0xFF>, all or none */
  entry *cache;
  pthread_mutex_t lock;
  bool has_lock;
};

/* ---- merges ---------------------------------------------------------------------------------- */

static pair *slot_of(const al_bpe *m, uint64_t key) {
  uint64_t h = key * 0x9e3779b97f4a7c15u;
  for (h ^= h >> 29;; h++) {
    pair *p = &m->pairs[h & (uint64_t)(m->n_pairs - 1)];
    if (p->key == key || p->key == EMPTY) return p;
  }
}

static uint64_t key_of(int32_t left, int32_t right) {
  return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static const pair *pair_of(const al_bpe *m, int32_t left, int32_t right) {
  if (left < 0 || right < 0) return NULL;
  const pair *p = slot_of(m, key_of(left, right));
  return p->key == EMPTY ? NULL : p;
}

static al_status new_pairs(al_ctx *c, al_bpe *m, int64_t n) {
  pair *old = m->pairs;
  const int64_t n_old = m->n_pairs;
  int64_t want = 64;
  while (want < 2 * n) want *= 2;
  pair *new = al_calloc(c, want, sizeof *new);
  if (!new) return al_error(c);
  for (int64_t i = 0; i < want; i++) new[i].key = EMPTY;
  m->pairs = new, m->n_pairs = want;
  for (int64_t i = 0; i < n_old; i++)
    if (old[i].key != EMPTY) *slot_of(m, old[i].key) = old[i];
  free(old);
  return AL_OK;
}

al_bpe *al_bpe_new(al_ctx *c, const al_pieces *tokens, al_bpe_options o, int64_t n_merges) {
  al_bpe *m = al_calloc(c, 1, sizeof *m);
  if (!m) return NULL;
  m->tokens = tokens, m->o = o;
  m->has_lock = pthread_mutex_init(&m->lock, NULL) == 0;
  m->cache = al_calloc(c, CACHED, sizeof *m->cache);
  if (!m->cache || new_pairs(c, m, n_merges) != AL_OK) {
    al_bpe_free(m);
    return NULL;
  }
  for (uint32_t u = 0; u < LOW; u++) {
    char s[4];
    m->low[u] = al_pieces_find(tokens, s, al_put_utf8(u, s));
  }
  bool all = o.byte_fallback;
  for (int i = 0; i < 256; i++) {
    char s[8];
    snprintf(s, sizeof s, "<0x%02X>", (unsigned)i);
    m->byte[i] = al_pieces_find(tokens, s, 6);
  }
  if (!all) memset(m->byte, 0xff, sizeof m->byte);
  return m;
}

void al_bpe_free(al_bpe *m) {
  if (!m) return;
  if (m->has_lock) pthread_mutex_destroy(&m->lock);
  free(m->pairs);
  free(m->cache);
  free(m);
}

static al_status add(al_ctx *c, al_bpe *m, int32_t a, int32_t b, int32_t rank, int32_t made,
                     bool *had) {
  if (2 * m->n_merges >= m->n_pairs) AL_TRY(new_pairs(c, m, m->n_pairs));
  pair *p = slot_of(m, key_of(a, b));
  *had = p->key != EMPTY;
  if (*had) return AL_OK;
  *p = (pair){key_of(a, b), rank, made};
  m->n_merges++;
  return AL_OK;
}

al_status al_bpe_merge(al_ctx *c, al_bpe *m, const char *what, const char *a, int64_t n_a,
                       const char *b, int64_t n_b) {
  al_buffer joint = {0};
  const int32_t left = al_pieces_find(m->tokens, a, n_a), right = al_pieces_find(m->tokens, b, n_b);
  if (al_buffer_put(c, &joint, a, n_a) == AL_OK) al_buffer_put(c, &joint, b, n_b);
  const int32_t made = al_error(c) == AL_OK ? al_pieces_find(m->tokens, joint.s, joint.n) : -1;
  free(joint.s);
  AL_TRY(al_error(c));
  const int shown_a = (int)(n_a < 60 ? n_a : 60), shown_b = (int)(n_b < 60 ? n_b : 60);
  if (n_a == 0 || n_b == 0)
    return al_fail(c, AL_EFORMAT, "tokenizer: %s: two tokens expected, one is empty", what);
  if (left < 0 || right < 0)
    return al_fail(c, AL_EFORMAT, "tokenizer: %s: '%.*s' is no token of the vocabulary", what,
                   left < 0 ? shown_a : shown_b, left < 0 ? a : b);
  if (made < 0)
    return al_fail(c, AL_EFORMAT,
                   "tokenizer: %s: '%.*s' and '%.*s' make no token of the vocabulary", what,
                   shown_a, a, shown_b, b);
  bool had;
  AL_TRY(add(c, m, left, right, (int32_t)m->n_merges, made, &had));
  if (had)
    return al_fail(c, AL_EFORMAT, "tokenizer: %s: '%.*s' and '%.*s' are merged before", what,
                   shown_a, a, shown_b, b);
  return AL_OK;
}

al_status al_bpe_by_rank(al_ctx *c, al_bpe *m, int64_t first, int64_t n_tokens) {
  const int64_t end = first + n_tokens;
  for (int64_t id = first; id < end; id++) {
    int64_t n;
    const char *s = al_pieces_get(m->tokens, id, &n);
    for (int64_t at = 1; at < n; at++) {
      if ((s[at] & 0xc0) == 0x80) continue; /* within a character of the alphabet */
      const int32_t a = al_pieces_find(m->tokens, s, at);
      const int32_t b = a < first || a >= end ? -1 : al_pieces_find(m->tokens, s + at, n - at);
      bool had;
      if (b >= first && b < end) AL_TRY(add(c, m, a, b, (int32_t)id, (int32_t)id, &had));
    }
  }
  return AL_OK;
}

/* ---- the symbols of a word ------------------------------------------------------------------- */

typedef struct symbol {
  int32_t id;         /* -1: joined to its left neighbour */
  int32_t prev, next; /* -1 at the ends */
} symbol;

typedef struct candidate {
  int32_t rank, at, made;
} candidate;

typedef struct word {
  symbol *s;
  int64_t n;
  candidate *heap;
  int64_t n_heap, cap;
} word;

static void put_symbol(word *w, int32_t id) {
  w->s[w->n] = (symbol){id, (int32_t)w->n - 1, (int32_t)w->n + 1};
  w->n++;
}

/* One symbol a character; bytes, or the unknown token, for those without. */
static al_status symbols_of(al_ctx *c, const al_bpe *m, const char *s, int64_t n, word *w) {
  bool unknown = false; /* the last symbol is the unknown token of a character before */
  for (int64_t at = 0, len; at < n; at += len) {
    uint32_t u = 0;
    len = al_utf8(s + at, n - at, &u);
    const int32_t id = u < LOW ? m->low[u] : al_pieces_find(m->tokens, s + at, len);
    if (id >= 0) {
      put_symbol(w, id);
      unknown = false;
      continue;
    }
    bool bytes = m->o.byte_fallback;
    for (int64_t i = 0; i < len && bytes; i++) bytes = m->byte[(unsigned char)s[at + i]] >= 0;
    if (bytes) {
      for (int64_t i = 0; i < len; i++) put_symbol(w, m->byte[(unsigned char)s[at + i]]);
      unknown = false;
    } else if (m->o.unk < 0) {
      return al_fail(c, AL_EVALUE,
                     "encode: '%.*s' (U+%04X) is not in the vocabulary, which has no unknown token",
                     u < 32 ? 0 : (int)len, s + at, u);
    } else if (!(unknown && m->o.fuse_unk)) {
      put_symbol(w, m->o.unk);
      unknown = true;
    }
  }
  if (w->n > 0) w->s[w->n - 1].next = -1;
  return AL_OK;
}

/* The best pair of all, again and again. The symbols stay an array without gaps. */
static void merge_short(const al_bpe *m, word *w) {
  int32_t rank[SHORT], made[SHORT];
  symbol *s = w->s;
  for (int64_t i = 0; i + 1 < w->n; i++) {
    const pair *p = pair_of(m, s[i].id, s[i + 1].id);
    rank[i] = p ? p->rank : INT32_MAX, made[i] = p ? p->made : -1;
  }
  while (w->n > 1) {
    int64_t best = 0;
    for (int64_t i = 1; i + 1 < w->n; i++)
      if (rank[i] < rank[best]) best = i;
    if (rank[best] == INT32_MAX) return;
    s[best].id = made[best];
    w->n--;
    for (int64_t i = best + 1; i < w->n; i++) s[i].id = s[i + 1].id;
    for (int64_t i = best + 1; i + 1 < w->n; i++) rank[i] = rank[i + 1], made[i] = made[i + 1];
    for (int64_t i = best > 0 ? best - 1 : 0; i <= best && i + 1 < w->n; i++) {
      const pair *p = pair_of(m, s[i].id, s[i + 1].id);
      rank[i] = p ? p->rank : INT32_MAX, made[i] = p ? p->made : -1;
    }
  }
}

static bool better(const candidate *a, const candidate *b) {
  return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static al_status push(al_ctx *c, const al_bpe *m, word *w, int32_t at) {
  if (at < 0 || w->s[at].next < 0) return AL_OK;
  const pair *p = pair_of(m, w->s[at].id, w->s[w->s[at].next].id);
  if (!p) return AL_OK;
  AL_TRY(al_room(c, &w->heap, &w->cap, w->n_heap, 1, sizeof *w->heap));
  const candidate new = {p->rank, at, p->made};
  int64_t i = w->n_heap++;
  for (; i > 0 && better(&new, &w->heap[(i - 1) / 2]); i = (i - 1) / 2)
    w->heap[i] = w->heap[(i - 1) / 2];
  w->heap[i] = new;
  return AL_OK;
}

static candidate pop(word *w) {
  const candidate top = w->heap[0], last = w->heap[--w->n_heap];
  int64_t i = 0;
  for (int64_t child; (child = 2 * i + 1) < w->n_heap; i = child) {
    if (child + 1 < w->n_heap && better(&w->heap[child + 1], &w->heap[child])) child++;
    if (!better(&w->heap[child], &last)) break;
    w->heap[i] = w->heap[child];
  }
  w->heap[i] = last;
  return top;
}

static al_status merge_long(al_ctx *c, const al_bpe *m, word *w) {
  symbol *s = w->s;
  for (int32_t i = 0; i + 1 < w->n; i++) AL_TRY(push(c, m, w, i));
  while (w->n_heap > 0) {
    const candidate k = pop(w);
    const int32_t right = s[k.at].id < 0 ? -1 : s[k.at].next;
    const pair *p = right < 0 ? NULL : pair_of(m, s[k.at].id, s[right].id);
    if (!p || p->rank != k.rank) continue; /* one of the two was joined since */
    s[k.at].id = k.made;
    s[k.at].next = s[right].next;
    if (s[right].next >= 0) s[s[right].next].prev = k.at;
    s[right].id = -1;
    AL_TRY(push(c, m, w, s[k.at].prev));
    AL_TRY(push(c, m, w, k.at));
  }
  int64_t n = 0;
  for (int32_t i = w->n > 0 ? 0 : -1; i >= 0; i = s[i].next) s[n++].id = s[i].id;
  w->n = n;
  return AL_OK;
}

/* ---- words ----------------------------------------------------------------------------------- */

static al_status encode(al_ctx *c, const al_bpe *m, const char *s, int64_t n, al_idlist *out) {
  if (m->o.ignore_merges) {
    const int32_t whole = al_pieces_find(m->tokens, s, n);
    if (whole >= 0) return al_idlist_put(c, out, whole);
  }
  symbol few[4 * SHORT];
  word w = {.s = few};
  if (n > (int64_t)(sizeof few / sizeof *few) && !(w.s = al_calloc(c, n, sizeof *w.s)))
    return al_error(c);
  al_status st = symbols_of(c, m, s, n, &w);
  if (st == AL_OK && w.n <= SHORT) merge_short(m, &w);
  else if (st == AL_OK) st = merge_long(c, m, &w);
  if (st == AL_OK) st = al_room(c, &out->id, &out->cap, out->n, w.n, sizeof *out->id);
  for (int64_t i = 0; i < w.n && st == AL_OK; i++) out->id[out->n++] = w.s[i].id;
  if (w.s != few) free(w.s);
  free(w.heap);
  return st;
}

static entry *entry_of(const al_bpe *m, const char *s, int64_t n) {
  uint64_t h = 1469598103934665603u ^ (uint64_t)n;
  for (int64_t i = 0; i < n; i += 8) {
    uint64_t x = 0;
    memcpy(&x, s + i, (size_t)(n - i < 8 ? n - i : 8));
    h = (h ^ x) * 0x9e3779b97f4a7c15u;
    h ^= h >> 32;
  }
  return &m->cache[h & (CACHED - 1)];
}

al_status al_bpe_word(al_ctx *c, const al_bpe *m, const char *s, int64_t n, al_idlist *out) {
  if (n == 0) return AL_OK;
  pthread_mutex_t *lock = (pthread_mutex_t *)(uintptr_t)&m->lock;
  if (n > KEY || !m->has_lock || pthread_mutex_trylock(lock) != 0) return encode(c, m, s, n, out);
  entry *e = entry_of(m, s, n);
  al_status st = al_room(c, &out->id, &out->cap, out->n, KEPT, sizeof *out->id);
  if (st == AL_OK && e->n_key == n && memcmp(e->key, s, (size_t)n) == 0) {
    for (int i = 0; i < e->n; i++) out->id[out->n++] = e->id[i];
  } else if (st == AL_OK) {
    const int64_t before = out->n;
    st = encode(c, m, s, n, out);
    if (st == AL_OK && out->n - before <= KEPT) {
      memcpy(e->key, s, (size_t)n);
      e->n_key = (uint8_t)n, e->n = (uint8_t)(out->n - before);
      memcpy(e->id, out->id + before, e->n * sizeof *e->id);
    }
  }
  pthread_mutex_unlock(lock);
  return st;
}
