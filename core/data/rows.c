/* rows.c: batches of rows of a token set, shuffled by a counter, read ahead by a thread.
 *
 * Sample number n = k B + b of a training is row permuted(n mod rows) of epoch n div rows, the
 * permutation picked by (seed, epoch): no state, so a run that resumes at batch k, takes batches in
 * parts or shares them among workers sees the same rows. The thread only fills host memory from
 * files; what it met is told when its batch is asked for, any other batch is read on the spot. */
#include "../core.h"
#include "../../kernels/philox.h"
#include "shards.h"
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { IGNORED = -100 }; /* cross_entropy's default `ignore` */

typedef enum kind { STREAM, PACKED, DOCUMENTS } kind;

typedef struct row { /* of DOCUMENTS: where it begins and how many tokens it has */
  int64_t at, n;
} row;

typedef struct job { /* a batch on the host */
  int64_t B, k;
  uint64_t seed;
  int32_t *x, *y, *starts, *ids; /* (B,T) each, and T + 1 ids of the row at hand */
  bool ok;
  al_why why;
} job;

struct al_rows {
  al_shards *s;
  int64_t lo, hi, T, n, cap;
  kind kind;
  int32_t separator;
  row *at;
  job ahead;
  pthread_t thread;
  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool running, quit; /* the thread is there; it shall end */
  bool wanted, ready; /* `ahead` is to be filled; it is */
};

/* ---- the order ------------------------------------------------------------------------------ */

int64_t al_permuted(uint64_t key, int64_t n, int64_t i) {
  enum { ROUNDS = 8 };
  int half = 1;
  while (half < 31 && (int64_t)1 << 2 * half < n) half++;
  const uint32_t mask = ((uint32_t)1 << half) - 1;
  do {
    uint32_t l = (uint32_t)(i >> half) & mask, r = (uint32_t)i & mask;
    for (int round = 0; round < ROUNDS; round++) {
      uint32_t f[4];
      alk_philox(key, (uint64_t)round << 32 | r, f);
      const uint32_t next = l ^ (f[0] & mask);
      l = r;
      r = next;
    }
    i = (int64_t)l << half | r;
  } while (i >= n); /* on average fewer than four times round, as 4^half < 4 n */
  return i;
}

static int64_t row_of(const al_rows *r, uint64_t seed, int64_t sample) {
  uint32_t f[4];
  alk_philox(al_stream(seed, "rows"), (uint64_t)(sample / r->n), f);
  return al_permuted((uint64_t)f[1] << 32 | f[0], r->n, sample % r->n);
}

/* ---- a row ---------------------------------------------------------------------------------- */

static void mark_starts(const al_rows *r, const int32_t *x, int32_t *starts) {
  int32_t begun = 0;
  for (int64_t t = 0; t < r->T; t++) {
    if (x[t] == r->separator) begun = (int32_t)t;
    starts[t] = begun;
  }
}

static bool fill_row(const al_rows *r, int64_t i, job *j, int64_t b) {
  const int64_t T = r->T;
  const row w = r->kind == DOCUMENTS ? r->at[i] : (row){r->lo + i * T, T};
  const bool last = w.at + w.n == al_shards_count(r->s); /* nothing follows in the set */
  int32_t *x = j->x + b * T, *y = j->y + b * T;
  if (!al_shards_ids(r->s, w.at, w.n + !last, j->ids, &j->why)) return false;
  if (last) j->ids[w.n] = r->separator;
  memcpy(x, j->ids, (size_t)w.n * sizeof *x);
  memcpy(y, j->ids + 1, (size_t)w.n * sizeof *y);
  for (int64_t t = w.n; t < T; t++) x[t] = r->separator, y[t] = IGNORED;
  if (r->kind == PACKED) mark_starts(r, x, j->starts + b * T);
  return true;
}

static void fill_shuffled(const al_rows *r, job *j) {
  j->ok = true;
  for (int64_t b = 0; j->ok && b < j->B; b++)
    j->ok = fill_row(r, row_of(r, j->seed, j->k * j->B + b), j, b);
}

static al_status make_room(al_ctx *c, const al_rows *r, job *j, int64_t B) {
  if (j->x && j->B == B) return AL_OK;
  free(j->x);
  const int64_t n = B * r->T, parts = r->kind == PACKED ? 3 : 2;
  *j = (job){.B = B, .x = al_calloc(c, parts * n + r->T + 1, sizeof(int32_t))};
  if (!j->x) return al_error(c);
  j->y = j->x + n;
  j->starts = r->kind == PACKED ? j->y + n : NULL;
  j->ids = j->x + parts * n;
  return AL_OK;
}

/* ---- the thread ----------------------------------------------------------------------------- */

static void *work(void *arg) {
  al_rows *r = arg;
  pthread_mutex_lock(&r->lock);
  while (!r->quit) {
    if (!r->wanted) {
      pthread_cond_wait(&r->changed, &r->lock);
      continue;
    }
    pthread_mutex_unlock(&r->lock);
    fill_shuffled(r, &r->ahead);
    pthread_mutex_lock(&r->lock);
    r->wanted = false;
    r->ready = true;
    pthread_cond_broadcast(&r->changed);
  }
  pthread_mutex_unlock(&r->lock);
  return NULL;
}

static al_status start(al_ctx *c, al_rows *r) {
  if (r->running) return AL_OK;
  sigset_t all, before; /* signals are for the thread that runs the program */
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int err = pthread_create(&r->thread, NULL, work, r);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (err) return al_fail(c, AL_EIO, "rows: no thread to read ahead: %s", strerror(err));
  r->running = true;
  return AL_OK;
}

/* Waits until the thread has nothing to do; whether it has filled this very batch. */
static bool idle(al_rows *r, int64_t B, uint64_t seed, int64_t k) {
  pthread_mutex_lock(&r->lock);
  while (r->wanted) pthread_cond_wait(&r->changed, &r->lock);
  const bool there = r->ready && r->ahead.B == B && r->ahead.seed == seed && r->ahead.k == k;
  r->ready = false;
  pthread_mutex_unlock(&r->lock);
  return there;
}

static void want(al_rows *r, int64_t k) {
  pthread_mutex_lock(&r->lock);
  r->ahead.k = k;
  r->wanted = true;
  pthread_cond_broadcast(&r->changed);
  pthread_mutex_unlock(&r->lock);
}

/* ---- as tensors ----------------------------------------------------------------------------- */

static al_tensor *tensor_of(al_ctx *c, const int32_t *from, int64_t B, int64_t T) {
  const bool off = c->scope_off;
  c->scope_off = true;
  al_tensor *t = al_tensor_new(c, AL_I32, 2, (const int64_t[]){B, T});
  c->scope_off = off;
  al_stage g;
  if (!t || !al_stage_begin(&g, t, false)) {
    al_release(t);
    return NULL;
  }
  memcpy(g.bytes, from, (size_t)(B * T) * sizeof *from);
  al_stage_end(&g, true);
  return t;
}

static al_status hand_over(al_ctx *c, const al_rows *r, const job *j, al_batch *out) {
  if (!j->ok) return al_fail(c, AL_EFORMAT, "%s", j->why.text);
  al_batch made = {.x = tensor_of(c, j->x, j->B, r->T), .y = tensor_of(c, j->y, j->B, r->T)};
  if (r->kind == PACKED) { /* the host reads them again, and is not to wait for a device */
    const char *here = al_on(c, "cpu");
    made.starts = tensor_of(c, j->starts, j->B, r->T);
    al_on(c, here);
  }
  if (al_error(c) == AL_OK) {
    *out = made;
    return AL_OK;
  }
  al_release(made.x);
  al_release(made.y);
  al_release(made.starts);
  return al_error(c);
}

al_status al_rows_shuffled(al_ctx *c, al_rows *r, int64_t B, uint64_t seed, int64_t k,
                           al_batch *out) {
  *out = (al_batch){0};
  if (B < 1 || k < 0 || k > INT64_MAX / B - 2 || B > INT32_MAX)
    return al_fail(c, AL_EVALUE, "rows: batch %lld of %lld rows: no such batch", (long long)k,
                   (long long)B);
  AL_TRY(start(c, r));
  if (!idle(r, B, seed, k)) {
    AL_TRY(make_room(c, r, &r->ahead, B));
    r->ahead.seed = seed;
    r->ahead.k = k;
    fill_shuffled(r, &r->ahead);
  }
  AL_TRY(hand_over(c, r, &r->ahead, out));
  want(r, k + 1);
  return AL_OK;
}

al_status al_rows_even(al_ctx *c, al_rows *r, int64_t B, int64_t first, int64_t n_total,
                       al_batch *out) {
  *out = (al_batch){0};
  if (B < 1 || B > INT32_MAX || first < 0 || n_total < 1 || first > n_total - B)
    return al_fail(c, AL_EVALUE, "rows: %lld rows from number %lld asked for, of %lld",
                   (long long)B, (long long)first, (long long)n_total);
  job j = {0};
  AL_TRY(make_room(c, r, &j, B));
  j.ok = true;
  for (int64_t b = 0; j.ok && b < B; b++) {
    const int64_t i =
        n_total == 1 ? 0 : (int64_t)((__int128)(first + b) * (r->n - 1) / (n_total - 1));
    j.ok = fill_row(r, i, &j, b);
  }
  const al_status st = hand_over(c, r, &j, out);
  free(j.x);
  return st;
}

/* ---- made ----------------------------------------------------------------------------------- */

static al_status add_document(al_ctx *c, al_rows *r, int64_t from, int64_t to) {
  for (; from < to; from += r->T) {
    if (r->n == r->cap) {
      const int64_t cap = 2 * r->cap + 1024;
      row *more = realloc(r->at, (size_t)cap * sizeof *more);
      if (!more)
        return al_fail(c, AL_ENOMEM, "rows: out of memory after %lld rows", (long long)r->n);
      r->at = more;
      r->cap = cap;
    }
    r->at[r->n++] = (row){from, to - from < r->T ? to - from : r->T};
  }
  return AL_OK;
}

static al_status find_documents(al_ctx *c, al_rows *r) {
  enum { BLOCK = 1 << 18 };
  int32_t *ids = al_calloc(c, BLOCK, sizeof *ids);
  if (!ids) return al_error(c);
  int64_t begun = r->lo;
  al_status st = AL_OK;
  for (int64_t at = r->lo, n; st == AL_OK && at < r->hi; at += n) {
    n = r->hi - at < BLOCK ? r->hi - at : BLOCK;
    st = al_shards_read(c, r->s, at, n, ids);
    for (int64_t i = 0; st == AL_OK && i < n; i++) {
      if (ids[i] != r->separator || at + i == begun) continue;
      st = add_document(c, r, begun, at + i);
      begun = at + i;
    }
  }
  if (st == AL_OK) st = add_document(c, r, begun, r->hi);
  free(ids);
  return st;
}

static al_status check(al_ctx *c, const al_rows *r, int64_t total, const char *word) {
  if (r->T < 1 || r->T > 1 << 30)
    return al_fail(c, AL_EVALUE, "rows: a context from 1 on needed, got %lld", (long long)r->T);
  if (r->lo < 0 || r->hi <= r->lo || r->hi > total)
    return al_fail(c, AL_EVALUE, "rows: range [%lld,%lld) does not lie in the %lld tokens",
                   (long long)r->lo, (long long)r->hi, (long long)total);
  if (r->kind != STREAM && r->separator < 0)
    return al_fail(c, AL_EVALUE, "rows: %s: the id that documents begin with is needed", word);
  if (r->kind != DOCUMENTS && r->hi - r->lo <= r->T)
    return al_fail(c, AL_EVALUE,
                   "rows: there are %lld tokens here, a context of %lld needs one more than that",
                   (long long)(r->hi - r->lo), (long long)r->T);
  return AL_OK;
}

al_rows *al_rows_new(al_ctx *c, al_shards *s, int64_t lo, int64_t hi, const char *word, int64_t T,
                     int32_t separator) {
  static const char *const words[] = {"stream", "packed", "documents"};
  int k = 0;
  while (k < 3 && strcmp(words[k], word) != 0) k++;
  if (k == 3) {
    al_fail(c, AL_EVALUE, "rows: stream, packed or documents expected, got '%s'", word);
    return NULL;
  }
  al_rows *r = al_calloc(c, 1, sizeof *r);
  if (!r) return NULL;
  *r = (al_rows){.s = al_shards_retain(s),
                 .lo = lo,
                 .hi = hi,
                 .T = T,
                 .kind = (kind)k,
                 .separator = separator,
                 .lock = PTHREAD_MUTEX_INITIALIZER,
                 .changed = PTHREAD_COND_INITIALIZER};
  al_status st = check(c, r, al_shards_count(s), word);
  if (st == AL_OK && r->kind == DOCUMENTS) st = find_documents(c, r);
  else if (st == AL_OK) r->n = (hi - lo - 1) / T;
  if (st == AL_OK) return r;
  al_rows_free(r);
  return NULL;
}

int64_t al_rows_count(const al_rows *r) { return r->n; }

void al_rows_free(al_rows *r) {
  if (!r) return;
  if (r->running) {
    pthread_mutex_lock(&r->lock);
    r->quit = true;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    pthread_join(r->thread, NULL);
  }
  al_shards_release(r->s);
  free(r->ahead.x);
  free(r->at);
  free(r);
}
