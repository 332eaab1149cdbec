/* append.c: see append.h. */
#include "../append.h"
#include <string.h>

typedef ALK_REAL real;

enum { BLOCK = 64 }; /* entries that one thread copies at a time */

static int64_t within(int64_t x, int64_t most) { return x < 0 ? 0 : x > most ? most : x; }
static int64_t kept(const alk_append *g, int64_t b) {
  return within(((const int32_t *)g->counts)[b], g->S);
}
static int64_t taken(const alk_append *g, int64_t b) {
  return g->lengths ? within(((const int32_t *)g->lengths)[b], g->T) : g->T;
}

/* Entries [j0, j1) of a row: those of `a` up to `na`, then nb of `b`, then zeros. */
static void join(const alk_append *g, int64_t j0, int64_t j1, const real *a, int64_t na,
                 const real *b, int64_t nb, real *row) {
  const int64_t w = g->width, ends[] = {na, na + nb, j1};
  const real *from[] = {a, b - na * w, NULL};
  for (int i = 0; i < 3 && j0 < j1; i++) {
    const int64_t to = ends[i] < j1 ? ends[i] : j1;
    if (to <= j0) continue;
    const size_t bytes = (size_t)((to - j0) * w) * sizeof *row;
    if (from[i]) memcpy(row + j0 * w, from[i] + j0 * w, bytes);
    else memset(row + j0 * w, 0, bytes);
    j0 = to;
  }
}

static void extend(const alk_append *g, const real *more, real *all) {
  const int64_t w = g->width;
  for (int64_t b = 0; b < g->B; b++) {
    real *row = all + b * g->all_row;
    const int64_t at = kept(g, b), n = taken(g, b), rest = at + n > g->S ? at + n : g->S;
    memcpy(row + at * w, more + b * g->T * w, (size_t)(n * w) * sizeof *row);
    memset(row + rest * w, 0, (size_t)((g->S + g->T - rest) * w) * sizeof *row);
  }
}

alk_status ALK_NAME(append_fwd)(const alk_place *place, const alk_append *g, const void *cache,
                                const void *new_, void *all) {
  const int64_t w = g->width, n = g->S + g->T, blocks = (n + BLOCK - 1) / BLOCK;
  if (!cache) {
    extend(g, new_, all);
    return ALK_OK;
  }
#pragma omp parallel for num_threads(place->threads) schedule(static) if (g->B * n * w > 32768)
  for (int64_t i = 0; i < g->B * blocks; i++) {
    const int64_t b = i / blocks, j0 = i % blocks * BLOCK, j1 = j0 + BLOCK < n ? j0 + BLOCK : n;
    join(g, j0, j1, (const real *)cache + b * g->cache_row, kept(g, b),
         (const real *)new_ + b * g->T * w, taken(g, b), (real *)all + b * g->all_row);
  }
  return ALK_OK;
}

alk_status ALK_NAME(append_bwd)(const alk_place *place, const alk_append *g, const void *dall,
                                void *dcache, void *dnew) {
  const int64_t w = g->width;
#pragma omp parallel for num_threads(place->threads)                                               \
    schedule(static) if (g->B * (g->S + g->T) * w > 32768)
  for (int64_t b = 0; b < g->B; b++) {
    const real *row = (const real *)dall + b * g->all_row;
    if (dcache) join(g, 0, g->S, row, kept(g, b), row, 0, (real *)dcache + b * g->S * w);
    if (dnew)
      join(g, 0, g->T, row + kept(g, b) * w, taken(g, b), row, 0, (real *)dnew + b * g->T * w);
  }
  return ALK_OK;
}
