/* shards.c: token sets: one long sequence of ids that lies in files, or in memory.
 *
 *   llmc     llm.c's shards, little-endian: int32 magic, version and number of tokens n, zeros to
 *            byte 1024, then n ids: uint16 (magic 20240520, version 1) or uint32 (20240801, 7).
 *            The file has exactly these bytes.
 *   raw_u16  uint16 ids and nothing else; nothing in the file says so, so the caller has to.
 *
 * The files follow one another as one sequence: a document, and a window, may cross from one into
 * the next, as the writers of shards cut where a file is full.
 *
 * Read by pread and not mapped: a file that shrinks or a disk that fails is an error with its
 * place, where a mapping would end the process by SIGBUS; a window of 257 ids costs one call, a
 * microsecond, and the pages lie in the same cache. Ids are held against the vocabulary when they
 * are read, in the pass that widens them: checking a set at the start would read all of it. */
#include "shards.h"
#include "../core.h"
#include "file.h"
#include <sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER = 1024, MAGIC_16 = 20240520, MAGIC_32 = 20240801 };

typedef struct shard {
  al_in file;
  int64_t first, n; /* position of its first token in the set, tokens */
  int64_t data;     /* byte of the first id */
  int width;        /* bytes of an id */
} shard;

struct al_shards {
  int refs;
  int n;
  shard *at;
  int32_t *ids; /* in place of files */
  int64_t cap;
  int64_t total, vocab;
};

static int32_t word(const unsigned char *p) {
  return (int32_t)((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
                   (uint32_t)p[3] << 24);
}

static al_status read_header(al_ctx *c, shard *s) {
  unsigned char head[12];
  const char *path = s->file.path;
  if (s->file.size < HEADER)
    return al_fail(c, AL_EFORMAT, "shard: %s: %lld bytes, a header of %d expected", path,
                   (long long)s->file.size, HEADER);
  AL_TRY(al_in_read(c, &s->file, 0, head, sizeof head, "the header"));
  const int32_t magic = word(head), version = word(head + 4), n = word(head + 8);
  if (magic != MAGIC_16 && magic != MAGIC_32)
    return al_fail(
        c, AL_EFORMAT,
        "shard: %s: byte 0: magic %d or %d (llm.c) expected, got %d; ids without a header "
        "are read by format=raw_u16",
        path, MAGIC_16, MAGIC_32, magic);
  const int expected = magic == MAGIC_16 ? 1 : 7;
  if (version != expected)
    return al_fail(c, AL_EFORMAT, "shard: %s: byte 4: version %d expected with magic %d, got %d",
                   path, expected, magic, version);
  if (n < 1) return al_fail(c, AL_EFORMAT, "shard: %s: byte 8: %d tokens: no such number", path, n);
  s->width = magic == MAGIC_16 ? 2 : 4;
  s->data = HEADER;
  s->n = n;
  const int64_t size = HEADER + s->n * s->width;
  if (s->file.size != size)
    return al_fail(c, AL_EFORMAT, "shard: %s: %lld bytes expected for %d tokens, got %lld: %s",
                   path, (long long)size, n, (long long)s->file.size,
                   s->file.size < size ? "it is cut off" : "there are bytes after the last token");
  return AL_OK;
}

static al_status open_shard(al_ctx *c, shard *s, const char *path, bool raw) {
  AL_TRY(al_in_open(c, &s->file, path));
  if (!raw) return read_header(c, s);
  s->width = 2;
  s->n = s->file.size / 2;
  if (s->file.size % 2 == 0 && s->n > 0) return AL_OK;
  return al_fail(c, AL_EFORMAT, "shard: %s: %lld bytes: a whole number of uint16 ids expected",
                 s->file.path, (long long)s->file.size);
}

static al_shards *new_set(al_ctx *c, int n, int64_t vocab) {
  if (vocab < 1 || vocab > INT32_MAX) {
    al_fail(c, AL_EVALUE, "shards: vocab: 1 to %d ids needed, got %lld", INT32_MAX,
            (long long)vocab);
    return NULL;
  }
  al_shards *s = al_calloc(c, 1, sizeof *s);
  if (!s) return NULL;
  *s = (al_shards){.refs = 1, .vocab = vocab};
  if (n && !(s->at = al_calloc(c, n, sizeof *s->at))) {
    free(s);
    return NULL;
  }
  for (int i = 0; i < n; i++) s->at[i].file.fd = -1;
  s->n = n;
  return s;
}

al_shards *al_shards_open(al_ctx *c, int n, const char *const *paths, const char *format,
                          int64_t vocab) {
  const bool raw = strcmp(format, "raw_u16") == 0;
  if (!raw && strcmp(format, "llmc") != 0) {
    al_fail(c, AL_EVALUE, "shards: format llmc or raw_u16 expected, got '%s'", format);
    return NULL;
  }
  if (n < 1) {
    al_fail(c, AL_EVALUE, "shards: at least one file needed");
    return NULL;
  }
  al_shards *s = new_set(c, n, vocab);
  for (int i = 0; s && i < n; i++) {
    if (open_shard(c, &s->at[i], paths[i], raw) != AL_OK) {
      al_shards_release(s);
      return NULL;
    }
    s->at[i].first = s->total;
    s->total += s->at[i].n; /* files of 2^63 bytes do not exist, so it cannot overflow */
  }
  return s;
}

/* Which id of n is not below the vocabulary, -1: none. */
static int64_t beyond(const int32_t *ids, int64_t n, int64_t vocab) {
  uint32_t most = 0;
  for (int64_t i = 0; i < n; i++) most = (uint32_t)ids[i] > most ? (uint32_t)ids[i] : most;
  if (most < vocab) return -1;
  int64_t i = 0;
  while ((uint32_t)ids[i] < vocab) i++;
  return i;
}

al_shards *al_shards_memory(al_ctx *c, int64_t vocab) { return new_set(c, 0, vocab); }

al_status al_shards_put(al_ctx *c, al_shards *s, const int32_t *ids, int64_t n) {
  if (s->n > 0 || s->refs > 1)
    return al_fail(c, AL_ESTATE,
                   "shards: only a set in memory takes tokens, until rows are made of it");
  const int64_t bad = beyond(ids, n, s->vocab);
  if (bad >= 0)
    return al_fail(c, AL_EVALUE, "shards: token %lld: id %d is beyond the vocabulary of %lld",
                   (long long)(s->total + bad), ids[bad], (long long)s->vocab);
  if (s->total + n > s->cap) {
    const int64_t cap = 2 * s->cap + n + 1024;
    int32_t *more = realloc(s->ids, (size_t)cap * sizeof *more);
    if (!more)
      return al_fail(c, AL_ENOMEM, "shards: out of memory after %lld tokens", (long long)s->total);
    s->ids = more;
    s->cap = cap;
  }
  memcpy(s->ids + s->total, ids, (size_t)n * sizeof *ids);
  s->total += n;
  return AL_OK;
}

al_shards *al_shards_retain(al_shards *s) {
  s->refs++;
  return s;
}

void al_shards_release(al_shards *s) {
  if (!s || --s->refs > 0) return;
  for (int i = 0; i < s->n; i++) al_in_close(&s->at[i].file);
  free(s->ids);
  free(s->at);
  free(s);
}

int64_t al_shards_count(const al_shards *s) { return s->total; }

/* ---- ids ------------------------------------------------------------------------------------ */

/* n bytes from `offset` of a file; false: why says where. */
static bool read_bytes(const shard *s, int64_t offset, void *data, int64_t n, al_why *why) {
  const int64_t got = al_in_part(&s->file, offset, data, n);
  if (got == n) return true;
  if (got < 0)
    snprintf(why->text, sizeof why->text, "shard: %s: byte %lld: %s", s->file.path,
             (long long)offset, al_file_reason((int)-got));
  else
    snprintf(
        why->text, sizeof why->text,
        "shard: %s: has no byte %lld any more, though it had %lld when it was opened: it was cut "
        "off meanwhile",
        s->file.path, (long long)(offset + got), (long long)s->file.size);
  return false;
}

static bool shard_ids(const shard *s, int64_t from, int64_t n, int32_t *ids, int64_t vocab,
                      al_why *why) {
  /* uint16 ids go into the last half of the room and are widened from its front */
  char *raw = (char *)ids + n * (4 - s->width);
  if (!read_bytes(s, s->data + from * s->width, raw, n * s->width, why)) return false;
  for (int64_t i = 0; s->width == 2 && i < n; i++) {
    uint16_t id;
    memcpy(&id, raw + 2 * i, 2);
    ids[i] = id;
  }
  const int64_t bad = beyond(ids, n, vocab);
  if (bad >= 0)
    snprintf(why->text, sizeof why->text,
             "shard: %s: token %lld (byte %lld): id %u is beyond the vocabulary of %lld",
             s->file.path, (long long)(from + bad), (long long)(s->data + (from + bad) * s->width),
             (unsigned)ids[bad], (long long)vocab);
  return bad < 0;
}

/* The shard that position `at` lies in. */
static int shard_of(const al_shards *s, int64_t at) {
  int lo = 0, hi = s->n - 1;
  while (lo < hi) {
    const int mid = (lo + hi + 1) / 2;
    if (s->at[mid].first <= at) lo = mid;
    else hi = mid - 1;
  }
  return lo;
}

bool al_shards_ids(const al_shards *s, int64_t at, int64_t n, int32_t *ids, al_why *why) {
  why->text[0] = 0;
  if (s->n == 0) {
    memcpy(ids, s->ids + at, (size_t)n * sizeof *ids);
    return true;
  }
  for (int i = n > 0 ? shard_of(s, at) : 0; n > 0; i++) {
    const shard *f = &s->at[i];
    const int64_t from = at - f->first, here = n < f->n - from ? n : f->n - from;
    if (!shard_ids(f, from, here, ids, s->vocab, why)) return false;
    at += here, ids += here, n -= here;
  }
  return true;
}

al_status al_shards_read(al_ctx *c, const al_shards *s, int64_t at, int64_t n, int32_t *ids) {
  if (at < 0 || n < 0 || at > s->total - n)
    return al_fail(c, AL_EVALUE, "shards: tokens [%lld,%lld) asked for, of %lld", (long long)at,
                   (long long)(at + n), (long long)s->total);
  al_why why;
  return al_shards_ids(s, at, n, ids, &why) ? AL_OK : al_fail(c, AL_EFORMAT, "%s", why.text);
}

/* ---- what stands for a set ------------------------------------------------------------------ */

enum { WHOLE = 64 << 20, BLOCK = 16 << 10, BLOCKS = 16 };

static void hash_number(SHA2_CTX *h, int64_t v) { SHA256Update(h, (const uint8_t *)&v, sizeof v); }

static bool hash_range(SHA2_CTX *h, const shard *s, int64_t from, int64_t n, al_why *why) {
  uint8_t part[BLOCK];
  for (int64_t k; n > 0; from += k, n -= k) {
    k = n < BLOCK ? n : BLOCK;
    if (!read_bytes(s, from, part, k, why)) return false;
    SHA256Update(h, part, (size_t)k);
  }
  return true;
}

al_status al_shards_hash(al_ctx *c, const al_shards *s, char hex[65]) {
  SHA2_CTX h;
  al_why why;
  int64_t bytes = 0;
  SHA256Init(&h);
  for (int i = 0; i < s->n; i++) bytes += s->at[i].file.size;
  if (s->n == 0) SHA256Update(&h, (const uint8_t *)s->ids, (size_t)s->total * sizeof(int32_t));
  for (int i = 0; i < s->n; i++) {
    const shard *f = &s->at[i];
    const int64_t size = f->file.size;
    hash_number(&h, size);
    if (bytes <= WHOLE || size <= BLOCK * BLOCKS) {
      if (!hash_range(&h, f, 0, size, &why)) return al_fail(c, AL_EFORMAT, "%s", why.text);
      continue;
    }
    for (int64_t b = 0; b < BLOCKS; b++) /* the first begins the file, the last ends it */
      if (!hash_range(&h, f,
                      (size - BLOCK) / (BLOCKS - 1) * b +
                          (b == BLOCKS - 1 ? (size - BLOCK) % (BLOCKS - 1) : 0),
                      BLOCK, &why))
        return al_fail(c, AL_EFORMAT, "%s", why.text);
  }
  SHA256End(&h, hex);
  return AL_OK;
}

/* ---- written -------------------------------------------------------------------------------- */

enum { ROOM = 1 << 16 }; /* ids that are gathered before a write */

struct al_shard_writer {
  al_out out;
  char *path;
  int width;
  int64_t n;
  int n_room;
  unsigned char room[ROOM * 4];
};

al_shard_writer *al_shard_create(al_ctx *c, const char *path, bool wide) {
  al_shard_writer *w = al_calloc(c, 1, sizeof *w);
  char *own = w ? al_calloc(c, (int64_t)strlen(path) + 1, 1) : NULL;
  static const unsigned char header[HEADER];
  if (!own) {
    free(w);
    return NULL;
  }
  w->path = strcpy(own, path);
  w->width = wide ? 4 : 2;
  if (al_out_open(c, &w->out, w->path) == AL_OK &&
      al_out_put(c, &w->out, header, sizeof header) == AL_OK)
    return w;
  al_shard_abort(w);
  return NULL;
}

static al_status flush(al_ctx *c, al_shard_writer *w) {
  const size_t n = (size_t)(w->n_room * w->width);
  w->n_room = 0;
  return al_out_put(c, &w->out, w->room, n);
}

al_status al_shard_put(al_ctx *c, al_shard_writer *w, const int32_t *ids, int64_t n) {
  const uint32_t most = w->width == 2 ? UINT16_MAX : INT32_MAX;
  if (n > INT32_MAX - w->n)
    return al_fail(c, AL_EVALUE, "shard: %s: at most %d tokens", w->path, INT32_MAX);
  for (int64_t i = 0; i < n; i++) {
    const uint32_t id = (uint32_t)ids[i];
    if (id > most)
      return al_fail(c, AL_EVALUE, "shard: %s: token %lld: id %d does not fit in %d bits", w->path,
                     (long long)(w->n + i), ids[i], 8 * w->width);
    unsigned char *p = w->room + w->n_room * w->width;
    for (int b = 0; b < w->width; b++) p[b] = (unsigned char)(id >> 8 * b);
    if (++w->n_room == ROOM) AL_TRY(flush(c, w));
  }
  w->n += n;
  return AL_OK;
}

int64_t al_shard_count(const al_shard_writer *w) { return w->n; }

al_status al_shard_commit(al_ctx *c, al_shard_writer *w) {
  const int32_t head[3] = {w->width == 2 ? MAGIC_16 : MAGIC_32, w->width == 2 ? 1 : 7,
                           (int32_t)w->n};
  unsigned char bytes[sizeof head];
  for (int i = 0; i < 3; i++)
    for (int b = 0; b < 4; b++) bytes[4 * i + b] = (unsigned char)((uint32_t)head[i] >> 8 * b);
  al_status st = w->n > 0 ? flush(c, w) : al_fail(c, AL_EVALUE, "shard: %s: no tokens", w->path);
  if (st == AL_OK) st = al_out_put_at(c, &w->out, 0, bytes, sizeof bytes);
  if (st == AL_OK) st = al_out_commit(c, &w->out);
  al_shard_abort(w);
  return st;
}

void al_shard_abort(al_shard_writer *w) {
  if (!w) return;
  al_out_abort(&w->out);
  free(w->path);
  free(w);
}
