/* visible.c: the three products of attention over visible entries (contract: ../visible.h).
 *
 * All three are one register tile: `rows` results of one or two vectors each,
 *     acc[r] += a(r,t) * p[t]   for t in a range that every row of the tile sees,
 * p a packed panel in L1. What only some rows of a tile see (the diagonal) is summed row by row, so
 * a hidden entry is never touched. Tiles cut sums at fixed places: the order follows from shapes,
 * offset and lengths.
 */
#include "../visible.h"
#include <string.h>

typedef ALK_REAL real;

/* Vectors as wide as the instruction set; 12 x 2 accumulators fill the 32 registers of AVX-512, 6 x
 * 2 the 16 of the others, and both cover the latency of the multiply-add. */
#if defined(__AVX512F__)
enum { VECTOR_BYTES = 64, ROWS = 12, SOME_ROWS = 4 };
#elif defined(__AVX__)
enum { VECTOR_BYTES = 32, ROWS = 6, SOME_ROWS = 2 };
#else
enum { VECTOR_BYTES = 16, ROWS = 6, SOME_ROWS = 2 };
#endif
enum {
  LANES = VECTOR_BYTES / sizeof(real),
  WIDTH = 2 * LANES,         /* of a tile */
  KEYS = 256 / sizeof(real), /* keys of a score tile: a multiple of WIDTH */
  DEPTH = 256,               /* channels of a score panel: KEYS x DEPTH is 64 KiB */
  TERMS = 128,               /* terms of a sum between two additions to memory */
  BLOCK = 256,               /* about as many results share a packed panel */
  PARALLEL = 1 << 15         /* multiply-adds worth a second thread */
};
typedef real vec __attribute__((vector_size(VECTOR_BYTES)));
typedef real vec_at __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));
#if defined(ALK_IS_double)
typedef int64_t lane_index;
#else
typedef int32_t lane_index;
#endif
typedef lane_index index_vec __attribute__((vector_size(VECTOR_BYTES)));

#define INLINE static inline __attribute__((always_inline))

/* The left factor a(r,t) = a[r * rs + t * ts] of a tile; for both uses one stride is 1. */
typedef struct factor {
  const real *a;
  int64_t rs, ts;
} factor;

/* out[r] = (add ? out[r] : 0) + scale sum_t a(r,t) p[t], t < n, for `rows` rows of `nv` vectors.
 * rows, nv and one stride of a are constants where this is inlined: the accumulators are registers.
 */
INLINE void tile(const int rows, const int nv, int64_t n, const real *a, const int64_t rs,
                 const int64_t ts, const real *p, int64_t ps, bool add, real scale, real *out,
                 int64_t os) {
  vec acc[ROWS][2];
  const real *base[3] = {a, a + 4 * rs, a + 8 * rs}; /* few registers hold all row addresses */
#pragma GCC unroll 12
  for (int r = 0; r < rows; r++) {
#pragma GCC unroll 2
    for (int v = 0; v < nv; v++) acc[r][v] = (vec){0};
  }
  for (int64_t t = 0; t < n; t++) {
    vec x[2];
#pragma GCC unroll 2
    for (int v = 0; v < nv; v++) x[v] = *(const vec_at *)(p + t * ps + v * LANES);
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
      const real f = base[r / 4][r % 4 * rs + t * ts];
#pragma GCC unroll 2
      for (int v = 0; v < nv; v++) acc[r][v] += f * x[v];
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < rows; r++) {
#pragma GCC unroll 2
    for (int v = 0; v < nv; v++) {
      vec_at *o = (vec_at *)(out + r * os + v * LANES);
      const vec y = scale * acc[r][v];
      if (add) *o += y;
      else *o = y;
    }
  }
}

/* Tiles whose left factor is contiguous along t (row-wise) or along r (column-wise). */
#define TILE(name, rows, nv, rs, ts)                                                               \
  static void name(int64_t n, const factor *f, const real *p, int64_t ps, bool add, real scale,    \
                   real *out, int64_t os) {                                                        \
    tile(rows, nv, n, f->a, rs, ts, p, ps, add, scale, out, os);                                   \
  }
TILE(row_full_2, ROWS, 2, f->rs, 1)
TILE(row_full_1, ROWS, 1, f->rs, 1)
TILE(row_some_2, SOME_ROWS, 2, f->rs, 1)
TILE(row_some_1, SOME_ROWS, 1, f->rs, 1)
TILE(row_one_2, 1, 2, f->rs, 1)
TILE(row_one_1, 1, 1, f->rs, 1)
TILE(column_full_2, ROWS, 2, 1, f->ts)
TILE(column_full_1, ROWS, 1, 1, f->ts)
TILE(column_some_2, SOME_ROWS, 2, 1, f->ts)
TILE(column_some_1, SOME_ROWS, 1, 1, f->ts)
TILE(column_one_2, 1, 2, 1, f->ts)
TILE(column_one_1, 1, 1, 1, f->ts)

typedef void tile_fn(int64_t n, const factor *f, const real *p, int64_t ps, bool add, real scale,
                     real *out, int64_t os);

/* rows = ROWS, SOME_ROWS or 1; row_wise: f->ts is 1, else f->rs is 1. */
static tile_fn *tile_for(bool row_wise, int rows, int nv) {
  static tile_fn *const table[2][3][2] = {
      {{column_one_1, column_one_2},
       {column_some_1, column_some_2},
       {column_full_1, column_full_2}},
      {{row_one_1, row_one_2}, {row_some_1, row_some_2}, {row_full_1, row_full_2}}};
  return table[row_wise][rows == ROWS ? 2 : rows == SOME_ROWS ? 1 : 0][nv - 1];
}

static int rows_at(int64_t r, int64_t end) {
  return end - r >= ROWS ? ROWS : end - r >= SOME_ROWS ? SOME_ROWS : 1;
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* ---- scores --------------------------------------------------------------------------------- */

/* to[c * ld + r] = from[r * stride + c] for LANES x LANES elements: after stage m, bit m of row and
 * lane have changed places. */
INLINE void transpose(const real *from, int64_t stride, real *to, int64_t ld) {
  vec x[LANES];
  index_vec lane;
#pragma GCC unroll 16
  for (int l = 0; l < LANES; l++) {
    lane[l] = l;
    x[l] = *(const vec_at *)(from + l * stride);
  }
#pragma GCC unroll 4
  for (int m = 1; m < LANES; m *= 2) {
    const index_vec low = lane + (((lane & m) != 0) & (LANES - m)), high = low + m;
#pragma GCC unroll 16
    for (int r = 0; r < LANES; r++) {
      if (r & m) continue;
      const vec a = x[r], b = x[r + m];
      x[r] = __builtin_shuffle(a, b, low);
      x[r + m] = __builtin_shuffle(a, b, high);
    }
  }
#pragma GCC unroll 16
  for (int l = 0; l < LANES; l++) *(vec_at *)(to + l * ld) = x[l];
}

/* panel[d][j] = k_j[d] for `keys` keys and `depth` channels; columns past them are 0. */
static void pack_keys(const real *k, int64_t stride, int64_t keys, int64_t depth, real *panel) {
  for (int64_t j = 0; j < KEYS; j += LANES)
    for (int64_t d = 0; d < depth; d += LANES) {
      if (j + LANES <= keys && d + LANES <= depth) {
        transpose(k + j * stride + d, stride, panel + d * KEYS + j, KEYS);
        continue;
      }
      for (int64_t e = d; e < least(d + LANES, depth); e++)
        for (int64_t l = j; l < j + LANES; l++)
          panel[e * KEYS + l] = l < keys ? k[l * stride + e] : (real)0;
    }
}

/* Scores of one row block against WIDTH keys from j0 of a packed panel; s points at column 0 of the
 * first row. Row r sees the keys below seen[r]. */
static void score_rows(int rows, const int64_t *seen, int64_t j0, int64_t S, const factor *q,
                       int64_t depth, const real *panel, bool add, real scale, real *s) {
  const int64_t last = seen[rows - 1] - j0; /* of the row that sees most */
  if (last <= 0) return;
  const int nv = last <= LANES ? 1 : 2;
  tile_fn *run = tile_for(true, rows, nv);
  if (seen[0] - j0 >= nv * LANES) {
    run(depth, q, panel, KEYS, add, scale, s + j0, S);
    return;
  }
  real part[ROWS * WIDTH] __attribute__((aligned(64)));
  run(depth, q, panel, KEYS, false, scale, part, WIDTH);
  for (int r = 0; r < rows; r++) {
    real *row = s + r * S + j0;
    const int64_t n = least(seen[r] - j0, nv * LANES);
    for (int64_t j = 0; j < n; j++) row[j] = (add ? row[j] : (real)0) + part[r * WIDTH + j];
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
      for (int64_t j = most(j0, alk_visible_keys(g, b, i)); j < j1; j++) row[j] = 0;
    }
  /* D = 0 still writes the empty sum */
  for (int64_t d = 0; d == 0 || d < D; d += DEPTH) {
    const int64_t depth = least(DEPTH, D - d);
    pack_keys(k + ((b * g->S + j0) * g->Hkv + hk) * D + d, g->Hkv * D, j1 - j0, depth, panel);
    for (int64_t h = hk * group; h < (hk + 1) * group; h++)
      for (int64_t i = least(alk_visible_row(g, b, j0), g->T), rows; i < g->T; i += rows) {
        rows = rows_at(i, g->T);
        int64_t seen[ROWS];
        for (int r = 0; r < rows; r++) seen[r] = least(alk_visible_keys(g, b, i + r), j1);
        const factor f = {q + ((b * g->T + i) * g->H + h) * D + d, g->H * D, 1};
        for (int64_t j = j0; j < j1; j += WIDTH)
          score_rows((int)rows, seen, j, g->S, &f, depth, panel + (j - j0), d > 0, scale,
                     s + ((b * g->H + h) * g->T + i) * g->S);
      }
  }
}

void ALK_NAME(visible_scores)(const alk_visible *g, int64_t D, double scale, const void *q,
                              const void *k, void *s) {
  const int64_t tiles = (g->S + KEYS - 1) / KEYS, items = g->B * g->Hkv * tiles;
#pragma omp parallel for schedule(static, 1) if (g->B * g->H * g->T * g->S * D > PARALLEL)
  for (int64_t n = 0; n < items; n++)
    score_tile(g, D, (real)scale, q, k, s, n / tiles / g->Hkv, n / tiles % g->Hkv,
               n % tiles * KEYS);
}

/* ---- gather and scatter --------------------------------------------------------------------- */

/* Adds to `rows` results the terms of the panel, which holds terms [t0, t1); result r has the terms
 * [lo[r], hi[r]), both ascending in r. First what rows see alone before all do, then the common
 * range, then what is left of each. */
static void add_range(bool row_wise, int rows, int nv, const int64_t *lo, const int64_t *hi,
                      int64_t t0, int64_t t1, const factor *f, const real *panel, int64_t ps,
                      real scale, real *out, int64_t os) {
  const int64_t f0 = most(lo[rows - 1], t0), f1 = most(least(hi[0], t1), f0);
  tile_fn *one = tile_for(row_wise, 1, nv);
  for (int r = 0; r < rows; r++) {
    const int64_t a = most(lo[r], t0), z = least(least(hi[r], t1), f0);
    const factor row = {f->a + r * f->rs + a * f->ts, f->rs, f->ts};
    if (a < z) one(z - a, &row, panel + (a - t0) * ps, ps, true, scale, out + r * os, os);
  }
  if (f0 < f1) {
    const factor all = {f->a + f0 * f->ts, f->rs, f->ts};
    tile_for(row_wise, rows, nv)(f1 - f0, &all, panel + (f0 - t0) * ps, ps, true, scale, out, os);
  }
  for (int r = 0; r < rows; r++) {
    const int64_t a = f1, z = least(hi[r], t1);
    const factor row = {f->a + r * f->rs + a * f->ts, f->rs, f->ts};
    if (a < z) one(z - a, &row, panel + (a - t0) * ps, ps, true, scale, out + r * os, os);
  }
}

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
  *lo = k->gather ? 0 : alk_visible_row(k->g, k->b, r);
  *hi = k->gather ? alk_visible_keys(k->g, k->b, r) : k->g->T;
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
  return (n + blocks * ROWS - 1) / (blocks * ROWS) * ROWS;
}

static void clear_rows(real *out, int64_t stride, int64_t rows, int64_t D) {
  for (int64_t r = 0; r < rows; r++) memset(out + r * stride, 0, (size_t)D * sizeof(real));
}

void ALK_NAME(visible_gather)(const alk_visible *g, int64_t D, double scale, const void *w,
                              const void *v, void *y) {
  const int64_t blocks = (g->T + BLOCK - 1) / BLOCK, size = block_size(g->T, blocks);
  const int64_t items = g->B * g->H * blocks;
#pragma omp parallel for schedule(static, 1) if (g->B * g->H * g->T * g->S * D > PARALLEL)
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
}

void ALK_NAME(visible_scatter)(const alk_visible *g, int64_t D, double scale, const void *w,
                               const void *y, void *x) {
  const int64_t blocks = (g->S + BLOCK - 1) / BLOCK, size = block_size(g->S, blocks);
  const int64_t items = g->B * g->Hkv * blocks;
  const int64_t group = g->H / g->Hkv;
#pragma omp parallel for schedule(static, 1) if (g->B * g->H * g->T * g->S * D > PARALLEL)
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
}
