/* attn.h: what the forward and the backward of the fused attention share: packing with the feature map,
 * weights of one row of a tile, the split into jobs. */
#ifndef ALK_CPU_ATTN_H
#define ALK_CPU_ATTN_H
#include "../attn.h"
#include "../philox.h"
#include "tile.h"
#include "weigh.h"
#include <string.h>

/* Below it |W| counts as nothing, in every precision. */
#define SMALLEST R(1.17549435e-38)

static inline int64_t padded_width(int64_t n) { return (n + WIDTH - 1) / WIDTH * WIDTH; }

/* ---- feature map ------------------------------------------------------------------------------ */

static void map_row(int map, int64_t n, const real *x, real *y) {
  switch (map) {
  case ALK_MAP_RELU:
    for (int64_t d = 0; d < n; d++) y[d] = x[d] < 0 ? 0 : x[d];
    break;
  case ALK_MAP_ELU1:
    for (int64_t d = 0; d < n; d++) y[d] = x[d] > 0 ? x[d] + 1 : vexp(x[d]);
    break;
  case ALK_MAP_SOFTPLUS:
    for (int64_t d = 0; d < n; d++) y[d] = vsoftplus(x[d]);
    break;
  case ALK_MAP_L2: {
    real square = 0;
    for (int64_t d = 0; d < n; d++) square += x[d] * x[d];
    const real r = 1 / (vsqrt(square) > R(1e-12) ? vsqrt(square) : R(1e-12));
    for (int64_t d = 0; d < n; d++) y[d] = x[d] * r;
    break;
  }
  default: memcpy(y, x, (size_t)n * sizeof *y);
  }
}

/* y[i] (width apart, zero past n) = b_i phi(x[i]) for `rows` vectors `stride` apart; b may be NULL. */
static void pack_rows(int map, int64_t rows, int64_t n, const real *x, int64_t stride, const real *b, int64_t b_stride, real *y,
                      int64_t width) {
  for (int64_t i = 0; i < rows; i++) {
    real *to = y + i * width;
    map_row(map, n, x + i * stride, to);
    for (int64_t d = 0; b && d < n; d++) to[d] *= b[i * b_stride];
    for (int64_t d = n; d < width; d++) to[d] = 0;
  }
}

/* ---- jobs ------------------------------------------------------------------------------------- */

/* Head pairs (b, hk) of job j of `jobs`: [*from, *to). */
static inline void share(int64_t items, int64_t j, int64_t jobs, int64_t *from, int64_t *to) {
  *from = items * j / jobs;
  *to = items * (j + 1) / jobs;
}

/* ---- one row of a tile of scores -------------------------------------------------------------- */

/* Row i of head h sees the first n of the tile's keys, which start at j0; s and what is made of it hold
 * whole groups, and what is past n is garbage on the way in and 0 on the way out. */
typedef struct tile_row {
  int64_t n;
  const double *sums; /* of the head, at key j0; NULL without decay */
  double top;         /* sums at the row's last visible key */
} tile_row;

/* Log decay of a group at entry j; sums past the last visible key are not read. */
WEIGH_INLINE void group_decay(const tile_row *r, int64_t j, real *e) {
  double u[GROUP];
  for (int l = 0; l < GROUP; l++) u[l] = j + l < r->n ? r->sums[j + l] : r->top;
  log_decay(u, r->top, e);
}

/* keep[j] = scale or 0 for entries j < n of the row that starts at element `at` of the dropout stream. */
static void dropout_row(const alk_attn_spec *a, uint64_t at, int64_t n, real *keep) {
  const uint64_t threshold = (uint64_t)(a->dropout * 4294967296.0);
  const real s = (real)(1 / (1 - a->dropout));
  uint32_t word[4];
  uint64_t block = UINT64_MAX;
  for (int64_t j = 0; j < n; j++) {
    const uint64_t e = at + (uint64_t)j;
    if (e / 4 != block) alk_philox(a->key, block = e / 4, word);
    keep[j] = word[e % 4] >= threshold ? s : 0;
  }
}
#endif
