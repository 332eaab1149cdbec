/* rows.h: vectors of one head as packed rows: feature map and its backward, dot products: what the
 * fused and the chunked attention share. */
#ifndef ALK_ROWS_H
#define ALK_ROWS_H
#include "../attn.h"
#include "functions.h"
#include "jobs.h"
#include "reached.h"
#include "tile.h"
#include <string.h>

/* Below it |W| counts as nothing, in every precision. */
#define SMALLEST R(1.17549435e-38)

static inline int64_t padded_width(int64_t n) { return (n + WIDTH - 1) / WIDTH * WIDTH; }

/* Sum of the lanes. */
TILE_INLINE real lane_sum(vec x) {
  real part[LANES];
  *(vec_at *)part = x;
  for (int half = LANES / 2; half > 0; half /= 2)
    for (int l = 0; l < half; l++) part[l] += part[l + half];
  return part[0];
}

/* x.y over n elements. */
TILE_INLINE real row_dot(int64_t n, const real *x, const real *y) {
  vec sum[2] = {{0}, {0}};
  real tail = 0;
  int64_t d = 0;
  for (; d + WIDTH <= n; d += WIDTH) {
    sum[0] += *(const vec_at *)(x + d) * *(const vec_at *)(y + d);
    sum[1] += *(const vec_at *)(x + d + LANES) * *(const vec_at *)(y + d + LANES);
  }
  if (d + LANES <= n) {
    sum[0] += *(const vec_at *)(x + d) * *(const vec_at *)(y + d);
    d += LANES;
  }
  for (; d < n; d++) tail += x[d] * y[d];
  return lane_sum(sum[0] + sum[1]) + tail;
}

/* Sum of n elements. */
TILE_INLINE real row_sum(int64_t n, const real *x) {
  vec sum[2] = {{0}, {0}};
  real tail = 0;
  int64_t d = 0;
  for (; d + WIDTH <= n; d += WIDTH) {
    sum[0] += *(const vec_at *)(x + d);
    sum[1] += *(const vec_at *)(x + d + LANES);
  }
  if (d + LANES <= n) {
    sum[0] += *(const vec_at *)(x + d);
    d += LANES;
  }
  for (; d < n; d++) tail += x[d];
  return lane_sum(sum[0] + sum[1]) + tail;
}

/* ---- feature maps ---------------------------------------------------------------------------- */

/* dx from dy at x, element by element; an entry whose gradient reads y makes it again. */
#define POINTWISE(name, ...)                                                                       \
  static inline void name##_row(int64_t n, const real *x, real *y) {                               \
    for (int64_t d = 0; d < n; d++) y[d] = name##_value(x[d], 0, 0);                               \
  }                                                                                                \
  static inline void name##_row_bwd(int64_t n, const real *x, const real *dy, real *dx) {          \
    for (int64_t d = 0; d < n; d++)                                                                \
      dx[d] = PASSED(dy[d], name##_gradient(dy[d], x[d], name##_value(x[d], 0, 0), 0, 0));         \
  }
#include "../pointwise.def"
#undef POINTWISE

/* x / max(||x||, 1e-12) */
static inline void l2_row(int64_t n, const real *x, real *y) {
  const real norm = vsqrt(row_dot(n, x, x)), r = 1 / (norm > R(1e-12) ? norm : R(1e-12));
  for (int64_t d = 0; d < n; d++) y[d] = x[d] * r;
}

/* (dy - y (y.dy)) / r */
static inline void l2_row_bwd(int64_t n, const real *x, const real *dy, real *dx) {
  const real r = vsqrt(row_dot(n, x, x));
  if (!(r > R(1e-12)) || !reached(n, dy)) {
    memset(dx, 0, (size_t)n * sizeof *dx);
    return;
  }
  const real s = 1 / r, t = row_dot(n, x, dy) * s * s * s;
  for (int64_t d = 0; d < n; d++) dx[d] = dy[d] * s - x[d] * t;
}

static const struct {
  void (*row)(int64_t, const real *, real *);
  void (*bwd)(int64_t, const real *, const real *, real *);
} maps[ALK_MAP_COUNT] = {
#define MAP_ROW(name) [ALK_MAP_##name] = {name##_row, name##_row_bwd},
#define POINTWISE(name, value, gradient, reads, lo, hi, gap, args, doc, torch, latex, sign, slots, \
                  ...)                                                                             \
  ALK_IF_MAP_##slots(MAP_ROW(name))
#include "../pointwise.def"
#undef POINTWISE
    MAP_ROW(l2)};

/* y = phi(x) */
static inline void map_row(alk_map map, int64_t n, const real *x, real *y) {
  maps[map].row(n, x, y);
}

/* dx from dy at x. */
static inline void map_row_bwd(alk_map map, int64_t n, const real *x, const real *dy, real *dx) {
  maps[map].bwd(n, x, dy, dx);
}

/* y[i] (width apart, zero past n) = b_i phi(x[i]) for `rows` vectors `stride` apart; b may be
 * NULL. */
static inline void pack_rows(alk_map map, int64_t rows, int64_t n, const real *x, int64_t stride,
                             const real *b, int64_t b_stride, real *y, int64_t width) {
  for (int64_t i = 0; i < rows; i++) {
    real *to = y + i * width;
    map_row(map, n, x + i * stride, to);
    for (int64_t d = 0; b && d < n; d++) to[d] *= b[i * b_stride];
    for (int64_t d = n; d < width; d++) to[d] = 0;
  }
}
#endif
