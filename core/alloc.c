/* alloc.c: storages from a caching allocator that counts.
 *
 * On the host a block is a 64-byte header and 64-byte aligned data behind it; a device has blocks
 * of its own, which only their data is of. Sizes are rounded up to a class: multiples of 64 bytes
 * to 4 KiB, then eight classes a doubling, so at most an eighth is lost. A freed block goes on its
 * class's list and the next request of that class takes it: a training step asks for the same
 * sizes every time and soon allocates nothing. Of a device blocks above MOST_KEPT are its pool's,
 * which does better with large ones and worse with many. Under AddressSanitizer nothing is kept,
 * so that it sees uses after free.
 *
 * Storages may hold one block together until one of them is written: al_storage_fork, _own. */
#include "core.h"
#include "../kernels/copy.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct al_block {
  al_block *next;
  void *data;
  int64_t size;
  int bin;     /* its class, -1: it is not kept */
  int holders; /* storages whose data this is: more than one after al_fork */
  char pad[64 - 2 * sizeof(void *) - 2 * sizeof(int) - sizeof(int64_t)];
};
_Static_assert(sizeof(al_block) == 64, "data must stay 64-byte aligned");

#ifdef __SANITIZE_ADDRESS__
enum { KEEP = 0 };
#else
enum { KEEP = 1 };
#endif

/* Size class of a request; *rounded = its size. */
static int bin_of(int64_t bytes, int64_t *rounded) {
  if (bytes <= 4096) {
    const int64_t k = bytes <= 0 ? 1 : (bytes + 63) / 64;
    *rounded = k * 64;
    return (int)k - 1; /* 0..63 */
  }
  const int log =
      63 - __builtin_clzll((unsigned long long)(bytes - 1)); /* 2^log < bytes <= 2^(log+1) */
  const int64_t step = (int64_t)1 << (log - 3);
  const int64_t k = (bytes + step - 1) / step; /* 9..16 */
  *rounded = k * step;
  return 64 + (log - 12) * 8 + (int)(k - 9);
}

static const int64_t MOST_KEPT = (int64_t)1 << 20;

/* The class of a block of d's for that request, or -1; *size = its bytes. */
static int class_of(const al_device *d, int64_t bytes, int64_t *size) {
  const bool kept = KEEP && (d->host || (!d->counts && bytes <= MOST_KEPT));
  const int bin = bin_of(bytes, size);
  if (!kept && !d->host) *size = bytes;
  return kept ? bin : -1;
}

static al_block *first_of(al_device *d, al_block **list) {
  al_block *b = *list;
  if (!b) return NULL;
  *list = b->next;
  d->mem.cached -= b->size;
  return b;
}

/* A kept block of that class, or NULL. In the order of a device's queue it may be given out at
 * once. */
static al_block *kept_block(al_device *d, int bin) {
  if (bin < 0) return NULL;
  d->n_used -= d->bins[bin] != NULL;
  return first_of(d, d->bins[bin] ? &d->bins[bin] : &d->clean[bin]);
}

/* Blocks of a device are filled with NaN many at a time, as each time costs a launch: so long as
 * fewer than that were used, new ones are taken. */
enum { MANY_USED = 64 };

static void clean_kept(al_device *d) {
  void *data[AL_POISONED];
  int64_t bytes[AL_POISONED];
  int n = 0;
  for (int i = 0; i < AL_BINS; i++)
    for (al_block *b; (b = d->bins[i]);) {
      d->bins[i] = b->next;
      b->next = d->clean[i], d->clean[i] = b;
      data[n] = b->data, bytes[n++] = b->size;
      if (n == AL_POISONED) d->poison(d, n, data, bytes), n = 0;
    }
  if (n) d->poison(d, n, data, bytes);
  d->n_used = 0;
}

/* A kept block of that class that holds NaN, or NULL. */
static al_block *clean_block(al_device *d, int bin) {
  if (bin < 0) return NULL;
  if (!d->clean[bin] && d->n_used >= MANY_USED) clean_kept(d);
  return first_of(d, &d->clean[bin]);
}

static bool fails_now(al_ctx *c) { return c->fail_at > 0 && --c->fail_at == 0; }

/* A block of the host, from the lists or the system. */
static al_block *host_block(al_ctx *c, int64_t bytes) {
  int64_t size;
  const int bin = class_of(&c->cpu, bytes, &size);
  al_block *b = kept_block(&c->cpu, bin);
  if (!b) {
    b = aligned_alloc(64, (size_t)size + sizeof *b);
    if (!b) { /* what is cached may be what is missing */
      al_memory_trim(c);
      b = aligned_alloc(64, (size_t)size + sizeof *b);
    }
    if (!b) return NULL;
    b->bin = bin, b->size = size;
    b->data = b + 1;
  }
  if (c->poison) memset(b->data, 0xff, (size_t)size); /* a NaN in every float type, -1 in i32 */
  return b;
}

/* Kept blocks go back to where they came from. */
static void give_kept(al_device *d) {
  for (int i = 0; i < AL_BINS; i++)
    for (al_block *b; (b = kept_block(d, i));) {
      if (!d->host && !d->dead[0]) d->give(d, b->data, b->size);
      free(b);
    }
}

/* And what is behind them to the system. */
static void trim(al_device *d) {
  give_kept(d);
  if (d->trim && !d->dead[0]) d->trim(d);
}

static al_block *device_block(al_ctx *c, al_device *d, int64_t bytes) {
  static char nowhere[1];
  int64_t size;
  const int bin = class_of(d, bytes, &size);
  const bool poisoned = c->poison && d->poison;
  if (d->dead[0]) return NULL;
  al_block *b = poisoned ? clean_block(d, bin) : kept_block(d, bin);
  if (b || !(b = malloc(sizeof *b))) return b;
  b->bin = bin, b->size = size;
  b->data = d->counts ? nowhere : d->take(d, size);
  if (!b->data && !d->dead[0]) { /* what is kept may be what is missing */
    trim(d);
    b->data = d->take(d, size);
  }
  if (!b->data) {
    free(b);
    return NULL;
  }
  if (poisoned) d->poison(d, 1, &b->data, &size);
  return b;
}

static al_block *take(al_ctx *c, al_device *d, int64_t bytes) {
  const int64_t most = d->limit ? d->limit : d->room;
  if (most && bytes > most - d->mem.live) {
    al_fail(c, AL_ENOMEM, "out of memory: a tensor needs %lld bytes, %lld of %lld are in use",
            (long long)bytes, (long long)d->mem.live, (long long)most);
    return NULL;
  }
  al_block *b = d->host ? host_block(c, bytes) : device_block(c, d, bytes);
  if (!b) {
    if (!d->host && al_device_settle(c, d, NULL) != AL_OK)
      return NULL; /* it was no lack of memory */
    al_fail(c, AL_ENOMEM, "out of memory: a tensor needs %lld bytes, %lld are in use",
            (long long)bytes, (long long)d->mem.live);
    return NULL;
  }
  b->holders = 1;
  d->mem.live += bytes;
  d->mem.n_alloc++;
  if (d->mem.live > d->mem.peak) d->mem.peak = d->mem.live;
  return b;
}

/* Gives up one hold on a block of `bytes`. */
static void drop(al_device *d, al_block *b, int64_t bytes) {
  if (--b->holders > 0) return;
  d->mem.live -= bytes;
  if (b->bin >= 0 && !d->dead[0]) {
    b->next = d->bins[b->bin];
    d->bins[b->bin] = b;
    d->mem.cached += b->size;
    d->n_used++;
    return;
  }
  if (!d->host && !d->counts) d->give(d, b->data, b->size);
  free(b);
}

al_storage *al_storage_new(al_ctx *c, al_device *d, int64_t bytes) {
  al_storage *s = fails_now(c) ? NULL : malloc(sizeof *s);
  if (!s) {
    al_fail(c, AL_ENOMEM, "out of memory (tensor of %lld bytes)", (long long)bytes);
    return NULL;
  }
  al_block *b = take(c, d, bytes);
  if (!b) {
    free(s);
    return NULL;
  }
  *s = (al_storage){.refs = 1, .bytes = bytes, .device = d, .block = b, .data = b->data};
  return s;
}

void al_storage_release(al_storage *s) {
  if (!s || --s->refs > 0) return;
  drop(s->device, s->block, s->bytes);
  free(s);
}

al_storage *al_storage_fork(al_ctx *c, const al_storage *s) {
  al_storage *f = al_calloc(c, 1, sizeof *f);
  if (!f) return NULL;
  *f = (al_storage){
      .refs = 1, .bytes = s->bytes, .device = s->device, .block = s->block, .data = s->data};
  s->block->holders++;
  return f;
}

bool al_storage_shared(const al_storage *s) { return s->block->holders > 1; }

al_status al_storage_own(al_ctx *c, al_storage *s) {
  s->writes++;
  if (!al_storage_shared(s)) return AL_OK;
  if (fails_now(c))
    return al_fail(c, AL_ENOMEM, "out of memory (tensor of %lld bytes)", (long long)s->bytes);
  al_block *b = take(c, s->device, s->bytes);
  if (!b) return c->error;
  const bool words = s->bytes % 4 == 0; /* or bf16 */
  const alk_view to = {.data = b->data,
                       .size = {s->bytes / (words ? 4 : 2)},
                       .stride = {1},
                       .ndim = 1,
                       .dtype = words ? ALK_I32 : ALK_BF16},
                 from = {.data = s->data,
                         .size = {to.size[0]},
                         .stride = {1},
                         .ndim = 1,
                         .dtype = to.dtype};
  al_device *before = al_device_use(c, s->device);
  ALK_RUN(al_here(c, to.dtype), copy, &to, &from);
  al_device_use(c, before);
  drop(s->device, s->block, s->bytes);
  s->block = b;
  s->data = b->data;
  return AL_OK;
}

void *al_calloc(al_ctx *c, int64_t n, size_t size) {
  void *p = fails_now(c) ? NULL : calloc(n > 0 ? (size_t)n : 1, size);
  if (!p) al_fail(c, AL_ENOMEM, "out of memory (%lld x %zu bytes)", (long long)n, size);
  return p;
}

/* A system that lends more than it has ends a process that uses it, so the limit has to be ours. */
int64_t al_memory_of_host(void) {
  static const char *const limits[] = {"/sys/fs/cgroup/memory.max",
                                       "/sys/fs/cgroup/memory/memory.limit_in_bytes"};
  const int64_t pages = sysconf(_SC_PHYS_PAGES);
  int64_t room = pages > 0 ? pages * sysconf(_SC_PAGESIZE) : 0;
  for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
    FILE *f = fopen(limits[i], "r");
    long long most;
    if (f && fscanf(f, "%lld", &most) == 1 && most > 0 && (!room || most < room)) room = most;
    if (f) fclose(f);
  }
  return room;
}

al_mem al_memory(const al_ctx *c) { return c->device->mem; }
void al_memory_reset_peak(al_ctx *c) { c->device->mem.peak = c->device->mem.live; }
void al_memory_limit(al_ctx *c, int64_t bytes) { c->device->limit = bytes; }

void al_memory_trim(al_ctx *c) {
  for (int i = 0; i < AL_DEVICES && c->devices[i]; i++) trim(c->devices[i]);
}

void al_memory_end(al_ctx *c) {
  for (int i = 0; i < AL_DEVICES && c->devices[i]; i++) give_kept(c->devices[i]);
}

void al_memory_fail_at(al_ctx *c, int64_t n) { c->fail_at = n; }
void al_memory_poison(al_ctx *c, bool on) { c->poison = on; }
