/* shared.c: what the kinds of tokenizers share: arrays that grow, tables of pieces, UTF-8. */
#include "tokenizer.h"
#include <stdlib.h>
#include <string.h>

al_status al_room(al_ctx *c, void *p, int64_t *cap, int64_t used, int64_t more, size_t size) {
  if (used + more <= *cap) return AL_OK;
  const int64_t want = used + more > 2 * *cap ? used + more + 16 : 2 * *cap;
  void *old, *new = al_calloc(c, want, size);
  if (!new) return al_error(c);
  memcpy(&old, p, sizeof old);
  if (used > 0) memcpy(new, old, (size_t)used * size);
  free(old);
  memcpy(p, &new, sizeof new);
  *cap = want;
  return AL_OK;
}

al_status al_idlist_put(al_ctx *c, al_idlist *l, int32_t id) {
  if (l->n == l->cap) AL_TRY(al_room(c, &l->id, &l->cap, l->n, 1, sizeof *l->id));
  l->id[l->n++] = id;
  return AL_OK;
}

al_status al_buffer_put(al_ctx *c, al_buffer *b, const char *s, int64_t n) {
  if (b->n + n > b->cap || !b->s) AL_TRY(al_room(c, &b->s, &b->cap, b->n, n + !b->s, 1));
  if (n > 0) memcpy(b->s + b->n, s, (size_t)n);
  b->n += n;
  return AL_OK;
}

/* ---- pieces --------------------------------------------------------------------------------- */

const char *al_pieces_get(const al_pieces *p, int64_t id, int64_t *n) {
  *n = p->start[id + 1] - p->start[id];
  return p->bytes.s + p->start[id];
}

al_status al_pieces_add(al_ctx *c, al_pieces *p, const char *s, int64_t n) {
  if (p->n + 2 > p->cap) {
    const int64_t used = p->cap ? p->n + 1 : 0;
    AL_TRY(al_room(c, &p->start, &p->cap, used, 16, sizeof *p->start));
  }
  AL_TRY(al_buffer_put(c, &p->bytes, s, n));
  p->start[++p->n] = p->bytes.n;
  return AL_OK;
}

/* The slot of a piece, or the empty slot where it belongs. FNV-1a, linear probing. */
static int64_t slot_of(const al_pieces *p, const char *s, int64_t n) {
  uint64_t h = 1469598103934665603u;
  for (int64_t i = 0; i < n; i++) h = (h ^ (unsigned char)s[i]) * 1099511628211u;
  for (uint64_t i = h ^ h >> 32;; i++) {
    const int64_t slot = (int64_t)(i & (uint64_t)(p->n_slots - 1));
    const int32_t id = p->slots[slot];
    int64_t len;
    if (id < 0) return slot;
    const char *piece = al_pieces_get(p, id, &len);
    if (len == n && memcmp(piece, s, (size_t)n) == 0) return slot;
  }
}

int32_t al_pieces_find(const al_pieces *p, const char *s, int64_t n) {
  return p->n_slots ? p->slots[slot_of(p, s, n)] : -1;
}

al_status al_pieces_room(al_ctx *c, al_pieces *p) {
  free(p->slots);
  for (p->n_slots = 16; p->n_slots < 2 * p->n; p->n_slots *= 2) {}
  p->slots = al_calloc(c, p->n_slots, sizeof *p->slots);
  if (!p->slots) return p->n_slots = 0, al_error(c);
  memset(p->slots, 0xff, (size_t)p->n_slots * sizeof *p->slots);
  return AL_OK;
}

void al_pieces_note(al_pieces *p, int64_t id) {
  int64_t len;
  const char *s = al_pieces_get(p, id, &len);
  const int64_t slot = slot_of(p, s, len);
  if (p->slots[slot] < 0) p->slots[slot] = (int32_t)id;
}

al_status al_pieces_index(al_ctx *c, al_pieces *p, int64_t first) {
  AL_TRY(al_pieces_room(c, p));
  for (int64_t id = first; id < p->n; id++) al_pieces_note(p, id);
  return AL_OK;
}

void al_pieces_free(al_pieces *p) {
  free(p->bytes.s);
  free(p->start);
  free(p->slots);
}

/* ---- UTF-8 ---------------------------------------------------------------------------------- */

int al_utf8(const char *text, int64_t n, uint32_t *code) {
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

int al_put_utf8(uint32_t u, char *out) {
  const int len = u < 0x80 ? 1 : u < 0x800 ? 2 : u < 0x10000 ? 3 : 4;
  static const unsigned char lead[5] = {0, 0, 0xc0, 0xe0, 0xf0};
  for (int i = len - 1; i > 0; i--, u >>= 6) out[i] = (char)(0x80 | (u & 0x3f));
  out[0] = (char)(lead[len] | u);
  return len;
}

int64_t al_utf8_count(al_ctx *c, const char *who, const char *text, int64_t n) {
  int64_t count = 0;
  for (int64_t at = 0, len; at < n; at += len, count++) {
    uint32_t u;
    len = al_utf8(text + at, n - at, &u);
    if (len > 0) continue;
    al_fail(c, AL_EFORMAT, "%s: the text is not UTF-8 at byte %lld (0x%02X)", who, (long long)at,
            (unsigned)(unsigned char)text[at]);
    return -1;
  }
  return count;
}
