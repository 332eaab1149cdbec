/* visible.c: the three products of attention over visible entries (contract: ../visible.h).
 *
 * All three are one register tile: `rows` results of one or two vectors each,
 *     acc[r] += a(r,t) * p[t]   for t in a range that every row of the tile sees,
 * p a packed panel in L1. What only some rows of a tile see (the diagonal) is summed row by row, so
 * a hidden entry is never touched. Tiles cut sums at fixed places: the order follows from shapes,
 * offset and lengths.
 */
#include "../visible.h"
#include "reached.h"
#include "tile.h"
#include <string.h>

enum {
  DEPTH = 256,       /* channels of a score panel: KEYS x DEPTH is 64 KiB */
  TERMS = 128,       /* terms of a sum between two additions to memory */
  BLOCK = 256,       /* about as many results share a packed panel */
  PARALLEL = 1 << 15 /* multiply-adds worth a second thread */
};

/* ---- scores --------------------------------------------------------------------------------- */

/* Scores of one row block against WIDTH keys from j0 of a packed panel; s points at column 0 of the
 * first row. Row r sees the keys [from[r], seen[r]). */
static void score_rows(int rows, const int64_t *from, const int64_t *seen, int64_t j0, int64_t S,
                       const factor *q, int64_t depth, const real *panel, bool add, real scale,
                       real *s) {
  const int64_t last = seen[rows - 1] - j0; /* of the row that sees most */
  if (last <= 0 || from[0] >= j0 + WIDTH) return;
  const int nv = last <= LANES ? 1 : 2;
  tile_fn *run = tile_for(true, rows, nv);
  if (from[rows - 1] <= j0 && seen[0] - j0 >= nv * LANES) {
    run(depth, q, panel, KEYS, add, scale, s + j0, S);
    return;
  }
  real part[ROWS * WIDTH] __attribute__((aligned(64)));
  run(depth, q, panel, KEYS, false, scale, part, WIDTH);
  for (int r = 0; r < rows; r++) {
    real *row = s + r * S + j0;
    const int64_t n = least(seen[r] - j0, nv * LANES);
    for (int64_t j = most(from[r] - j0, 0); j < n; j++)
      row[j] = (add ? row[j] : (real)0) + part[r * WIDTH + j];
  }
}

/* Scores of the keys [j0, j1) with every row and every query head of key/value head hk. */
static void score_tile(const alk_visible *g, int64_t D, real scale, const real *q, const real *k,
                       real *s, int64_t b, int64_t hk, int64_t j0) {
  real panel[KEYS * DEPTH] __attribute__((aligned(64)));
  const int64_t group = g->H / g->Hkv, j1 = least(j0 + KEYS, g->S);
  for (int64_t h = hk * group; h < (hk + 1) * group; h++)
    for (int64_t i = 0; i < g->T; i++) {
      real *row = s + ((b * g->H + h) * g->T + i) * g->S;
      const alk_range seen = alk_visible_keys(g, b, i);
      for (int64_t j = j0; j < least(j1, seen.from); j++) row[j] = 0;
      for (int64_t j = most(j0, seen.to); j < j1; j++) row[j] = 0;
    }
  /* D = 0 still writes the empty sum */
  for (int64_t d = 0; d == 0 || d < D; d += DEPTH) {
    const int64_t depth = least(DEPTH, D - d);
    pack_columns(k + ((b * g->S + j0) * g->Hkv + hk) * D + d, g->Hkv * D, j1 - j0, depth, panel);
    for (int64_t h = hk * group; h < (hk + 1) * group; h++)
      for (int64_t i = alk_visible_rows(g, b, j0).from, rows; i < g->T; i += rows) {
        rows = rows_at(i, g->T);
        int64_t from[ROWS], seen[ROWS];
        for (int r = 0; r < rows; r++) {
          const alk_range of = alk_visible_keys(g, b, i + r);
          from[r] = of.from, seen[r] = least(of.to, j1);
        }
        if (from[0] >= j1) break;
        const factor f = {q + ((b * g->T + i) * g->H + h) * D + d, g->H * D, 1};
        for (int64_t j = j0; j < j1; j += WIDTH)
          score_rows((int)rows, from, seen, j, g->S, &f, depth, panel + (j - j0), d > 0, scale,
                     s + ((b * g->H + h) * g->T + i) * g->S);
      }
  }
}

alk_status ALK_NAME(visible_scores)(const alk_place *place, const alk_visible *g, int64_t D,
                                    double scale, const void *q, const void *k, void *s) {
  const int64_t tiles = (g->S + KEYS - 1) / KEYS, items = g->B * g->Hkv * tiles;
#pragma omp parallel for num_threads(place->threads)                                               \
    schedule(static, 1) if (g->B * g->H * g->T * g->S * D > PARALLEL)
  for (int64_t n = 0; n < items; n++)
    score_tile(g, D, (real)scale, q, k, s, n / tiles / g->Hkv, n / tiles % g->Hkv,
               n % tiles * KEYS);
  return ALK_OK;
}

/* ---- gather and scatter --------------------------------------------------------------------- */

/* One head's part of a gather (results are rows, terms are keys) or a scatter (results are keys,
 * terms are rows): adds to the results [r0, r1). a: (T,S) of the head; x: the terms' vectors, xs
 * apart. */
typedef struct reduction {
  const alk_visible *g;
  bool gather;
  int64_t b, r0, r1;
  const real *a, *x;
  real *out;
  int64_t D, xs, os;
  real scale;
} reduction;

/* Terms [*lo, *hi) of result r. */
static void range_of(const reduction *k, int64_t r, int64_t *lo, int64_t *hi) {
  const alk_range of =
      k->gather ? alk_visible_keys(k->g, k->b, r) : alk_visible_rows(k->g, k->b, r);
  *lo = of.from, *hi = of.to;
}

/* Channels [d, d + width) of the results, width <= WIDTH. */
static void reduce_channels(const reduction *k, int64_t d, int64_t width) {
  real panel[TERMS * WIDTH] __attribute__((aligned(64)));
  const int nv = width > LANES ? 2 : 1;
  int64_t first, last, unused;
  range_of(k, k->r0, &first, &unused);
  range_of(k, k->r1 - 1, &unused, &last);
  for (int64_t t0 = first - first % TERMS; t0 < last; t0 += TERMS) {
    const int64_t t1 = least(t0 + TERMS, last);
    for (int64_t t = most(first, t0); t < t1; t++) {
      const real *x = k->x + t * k->xs + d;
      real *p = panel + (t - t0) * WIDTH;
      if (width == WIDTH)
        for (int l = 0; l < WIDTH; l++) p[l] = x[l];
      else
        for (int l = 0; l < WIDTH; l++) p[l] = l < width ? x[l] : (real)0;
    }
    for (int64_t r = k->r0, rows; r < k->r1; r += rows) {
      rows = rows_at(r, k->r1);
      int64_t lo[ROWS], hi[ROWS];
      for (int i = 0; i < rows; i++) range_of(k, r + i, &lo[i], &hi[i]);
      if (lo[0] >= t1 || hi[rows - 1] <= t0) continue;
      const factor f = {k->a + r * (k->gather ? k->g->S : 1), k->gather ? k->g->S : 1,
                        k->gather ? 1 : k->g->S};
      real *out = k->out + r * k->os + d;
      if (width == nv * LANES) {
        add_range(k->gather, (int)rows, nv, lo, hi, t0, t1, &f, panel, WIDTH, k->scale, out, k->os);
        continue;
      }
      real part[ROWS * WIDTH] __attribute__((aligned(64))) = {0};
      add_range(k->gather, (int)rows, nv, lo, hi, t0, t1, &f, panel, WIDTH, k->scale, part, WIDTH);
      for (int i = 0; i < rows; i++)
        for (int64_t e = 0; e < width; e++) out[i * k->os + e] += part[i * WIDTH + e];
    }
  }
}

static void reduce_head(const reduction *k) {
  for (int64_t d = 0; d < k->D; d += WIDTH) reduce_channels(k, d, least(WIDTH, k->D - d));
}

/* Results of a block when n are cut into `blocks`: a multiple of ROWS. */
static int64_t block_size(int64_t n, int64_t blocks) {
  return blocks == 0 ? ROWS : (n + blocks * ROWS - 1) / (blocks * ROWS) * ROWS;
}

static void clear_rows(real *out, int64_t stride, int64_t rows, int64_t D) {
  for (int64_t r = 0; r < rows; r++) memset(out + r * stride, 0, (size_t)D * sizeof(real));
}

alk_status ALK_NAME(visible_gather)(const alk_place *place, const alk_visible *g, int64_t D,
                                    double scale, const void *w, const void *v, void *y) {
  const int64_t blocks = (g->T + BLOCK - 1) / BLOCK, size = block_size(g->T, blocks);
  const int64_t items = g->B * g->H * blocks;
#pragma omp parallel for num_threads(place->threads)                                               \
    schedule(static, 1) if (g->B * g->H * g->T * g->S * D > PARALLEL)
  for (int64_t n = 0; n < items; n++) {
    const int64_t b = n / blocks / g->H, h = n / blocks % g->H, hk = h / (g->H / g->Hkv);
    const int64_t r0 = least(n % blocks * size, g->T), r1 = least(r0 + size, g->T);
    real *out = (real *)y + (b * g->T * g->H + h) * D;
    clear_rows(out + r0 * g->H * D, g->H * D, r1 - r0, D);
    reduce_head(&(reduction){.g = g,
                             .gather = true,
                             .b = b,
                             .r0 = r0,
                             .r1 = r1,
                             .a = (const real *)w + (b * g->H + h) * g->T * g->S,
                             .x = (const real *)v + (b * g->S * g->Hkv + hk) * D,
                             .out = out,
                             .D = D,
                             .xs = g->Hkv * D,
                             .os = g->H * D,
                             .scale = (real)scale});
  }
  return ALK_OK;
}

alk_status ALK_NAME(visible_scatter)(const alk_place *place, const alk_visible *g, int64_t D,
                                     double scale, const void *w, const void *y, void *x) {
  const int64_t blocks = (g->S + BLOCK - 1) / BLOCK, size = block_size(g->S, blocks);
  const int64_t items = g->B * g->Hkv * blocks;
  const int64_t group = g->H / g->Hkv;
#pragma omp parallel for num_threads(place->threads)                                               \
    schedule(static, 1) if (g->B * g->H * g->T * g->S * D > PARALLEL)
  for (int64_t n = 0; n < items; n++) {
    const int64_t b = n / blocks / g->Hkv, hk = n / blocks % g->Hkv;
    const int64_t r0 = least(n % blocks * size, g->S), r1 = least(r0 + size, g->S);
    real *out = (real *)x + (b * g->S * g->Hkv + hk) * D;
    clear_rows(out + r0 * g->Hkv * D, g->Hkv * D, r1 - r0, D);
    for (int64_t h = hk * group; h < (hk + 1) * group; h++)
      reduce_head(&(reduction){.g = g,
                               .gather = false,
                               .b = b,
                               .r0 = r0,
                               .r1 = r1,
                               .a = (const real *)w + (b * g->H + h) * g->T * g->S,
                               .x = (const real *)y + (b * g->T * g->H + h) * D,
                               .out = out,
                               .D = D,
                               .xs = g->H * D,
                               .os = g->Hkv * D,
                               .scale = (real)scale});
  }
  return ALK_OK;
}

/* The last row sees most keys and is tried first. */
static bool key_reached(const alk_visible *g, const real *d, int64_t b, int64_t j) {
  const alk_range rows = alk_visible_rows(g, b, j);
  for (int64_t i = rows.to; i-- > rows.from;)
    if (d[i * g->S + j] != 0) return true;
  return false;
}

alk_status ALK_NAME(visible_reach)(const alk_place *place, const alk_visible *g, const void *d,
                                   void *vrow, void *vkey) {
  bool *row = vrow, *key = vkey;
  const int64_t group = g->H / g->Hkv;
#pragma omp parallel for num_threads(place->threads)                                               \
    schedule(static) if (g->B * g->H * g->T * g->S > PARALLEL)
  for (int64_t n = 0; n < g->B * g->Hkv; n++) {
    const int64_t b = n / g->Hkv, hk = n % g->Hkv;
    for (int64_t j = 0; j < g->S; j++) key[(b * g->S + j) * g->Hkv + hk] = false;
    for (int64_t h = hk * group; h < (hk + 1) * group; h++) {
      const real *of = (const real *)d + (b * g->H + h) * g->T * g->S;
      for (int64_t i = 0; i < g->T; i++) {
        const alk_range keys = alk_visible_keys(g, b, i);
        row[(b * g->T + i) * g->H + h] = reached(keys.to - keys.from, of + i * g->S + keys.from);
      }
      for (int64_t j = 0; j < g->S; j++) {
        bool *at = &key[(b * g->S + j) * g->Hkv + hk];
        *at = *at || key_reached(g, of, b, j);
      }
    }
  }
  return ALK_OK;
}
