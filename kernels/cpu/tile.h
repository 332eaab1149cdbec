/* tile.h: the register tile under every product of attention, and products over ragged ranges.
 *
 *     out[r] (+)= scale sum_t a(r,t) p[t],  t in a range that every row of the tile sees
 *
 * p is a packed panel; what only some rows of a tile see (the diagonal) is summed row by row, so a
 * hidden entry is never touched.
 */
#ifndef ALK_TILE_H
#define ALK_TILE_H
#include "../kernel.h"

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
  WIDTH = 2 * LANES,        /* of a tile */
  KEYS = 256 / sizeof(real) /* of a panel of keys: a multiple of WIDTH */
};
typedef real vec __attribute__((vector_size(VECTOR_BYTES)));
typedef real vec_at __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));
#if defined(ALK_IS_double)
typedef int64_t lane_index;
#else
typedef int32_t lane_index;
#endif
typedef lane_index index_vec __attribute__((vector_size(VECTOR_BYTES)));

#define TILE_INLINE static inline __attribute__((always_inline))

/* The left factor a(r,t) = a[r * rs + t * ts] of a tile; one of the strides is 1. */
typedef struct factor {
  const real *a;
  int64_t rs, ts;
} factor;

/* rows, nv and one stride of a are constants where this is inlined: the accumulators are
 * registers. */
TILE_INLINE void tile(const int rows, const int nv, int64_t n, const real *a, const int64_t rs,
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

static inline int rows_at(int64_t r, int64_t end) {
  return end - r >= ROWS ? ROWS : end - r >= SOME_ROWS ? SOME_ROWS : 1;
}

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* Lanes i of a and, from LANES on, of b. */
TILE_INLINE vec shuffle(vec a, vec b, index_vec i) {
#if defined(__clang__) /* has it for constant lanes alone; built by it are the fuzz targets */
  vec x;
  for (int l = 0; l < LANES; l++) x[l] = i[l] < LANES ? a[i[l]] : b[i[l] - LANES];
  return x;
#else
  return __builtin_shuffle(a, b, i);
#endif
}

/* to[c * ld + r] = from[r * stride + c] for LANES x LANES elements: after stage m, bit m of row and
 * lane have changed places. */
TILE_INLINE void transpose(const real *from, int64_t stride, real *to, int64_t ld) {
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
      x[r] = shuffle(a, b, low);
      x[r + m] = shuffle(a, b, high);
    }
  }
#pragma GCC unroll 16
  for (int l = 0; l < LANES; l++) *(vec_at *)(to + l * ld) = x[l];
}

/* panel[d][j] = x_j[d] for `keys` vectors, stride apart, and `depth` channels; columns past them
 * are 0. */
__attribute__((unused)) static void pack_columns(const real *x, int64_t stride, int64_t keys,
                                                 int64_t depth, real *panel) {
  for (int64_t j = 0; j < KEYS; j += LANES)
    for (int64_t d = 0; d < depth; d += LANES) {
      if (j + LANES <= keys && d + LANES <= depth) {
        transpose(x + j * stride + d, stride, panel + d * KEYS + j, KEYS);
        continue;
      }
      for (int64_t e = d; e < least(d + LANES, depth); e++)
        for (int64_t l = j; l < j + LANES; l++)
          panel[e * KEYS + l] = l < keys ? x[l * stride + e] : (real)0;
    }
}

/* Adds to `rows` results the terms of the panel, which holds terms [t0, t1); result r has the terms
 * [lo[r], hi[r]), both ascending in r. First what rows see alone before all do, then the common
 * range, then what is left of each. */
static inline void add_range(bool row_wise, int rows, int nv, const int64_t *lo, const int64_t *hi,
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
#endif
