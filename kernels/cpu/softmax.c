/* softmax.c: rows (I = 1) pass over cached data three times; other axes go by tiles of columns. */
#include "../softmax.h"
#include "vmath.h"
#include "lanes.h"
#include "reached.h"
#include <string.h>

enum { WORK = 4096, PARALLEL = 32768, TILE = 64 };

/* A maximum that can be subtracted: -inf - -inf would be NaN. */
static inline real shift_of(real m) { return m == -R(INFINITY) ? 0 : m; }

static void row_fwd(bool log, int64_t n, const real *x, real *restrict y) {
  const real m = shift_of(row_max(n, x));
  for (int64_t i = 0; i < n; i++) y[i] = vexp(x[i] - m);
  const real s = row_sum(n, y);
  if (log) {
    const real d = s == 0 ? 0 : vlog(s); /* m + d would round a large m */
    for (int64_t i = 0; i < n; i++) y[i] = x[i] - m - d;
  } else {
    const real d = s == 0 ? 0 : 1 / s;
    for (int64_t i = 0; i < n; i++) y[i] *= d;
  }
}

static void row_bwd(bool log, int64_t n, const real *y, const real *g, real *restrict dx) {
  if (!reached(n, g)) {
    memset(dx, 0, (size_t)n * sizeof *dx);
  } else if (log) {
    const real s = row_sum(n, g);
    for (int64_t i = 0; i < n; i++) dx[i] = g[i] - vexp(y[i]) * s;
  } else {
    const real s = row_dot(n, y, g);
    for (int64_t i = 0; i < n; i++) dx[i] = y[i] * (g[i] - s);
  }
}

/* `count` columns of n rows, I apart */
static void columns_fwd(bool log, int64_t n, int64_t count, int64_t I, const real *x,
                        real *restrict y) {
  real m[TILE], s[TILE];
  for (int64_t i = 0; i < count; i++) m[i] = x[i], s[i] = 0;
  for (int64_t r = 1; r < n; r++)
    for (int64_t i = 0; i < count; i++) m[i] = x[r * I + i] > m[i] ? x[r * I + i] : m[i];
  for (int64_t i = 0; i < count; i++) m[i] = shift_of(m[i]);
  for (int64_t r = 0; r < n; r++)
    for (int64_t i = 0; i < count; i++) {
      y[r * I + i] = vexp(x[r * I + i] - m[i]);
      s[i] += y[r * I + i];
    }
  if (log) {
    for (int64_t i = 0; i < count; i++) s[i] = s[i] == 0 ? 0 : vlog(s[i]);
    for (int64_t r = 0; r < n; r++)
      for (int64_t i = 0; i < count; i++) y[r * I + i] = x[r * I + i] - m[i] - s[i];
  } else {
    for (int64_t i = 0; i < count; i++) s[i] = s[i] == 0 ? 0 : 1 / s[i];
    for (int64_t r = 0; r < n; r++)
      for (int64_t i = 0; i < count; i++) y[r * I + i] *= s[i];
  }
}

static void columns_bwd(bool log, int64_t n, int64_t count, int64_t I, const real *y, const real *g,
                        real *restrict dx) {
  real s[TILE] = {0};
  for (int64_t r = 0; r < n; r++)
    for (int64_t i = 0; i < count; i++) {
      const real d = g[r * I + i];
      s[i] += log ? d : PASSED(d, y[r * I + i] * d);
    }
  for (int64_t r = 0; r < n; r++)
    for (int64_t i = 0; i < count; i++) {
      const int64_t at = r * I + i;
      const real d = g[at] - s[i];
      dx[at] = log ? g[at] - PASSED(s[i], vexp(y[at]) * s[i]) : PASSED(d, y[at] * d);
    }
}

alk_status ALK_NAME(softmax_fwd)(const alk_place *place, bool log, int64_t O, int64_t R_, int64_t I,
                                 const void *vx, void *vy) {
  const real *x = vx;
  real *y = vy;
  if (R_ == 0) return ALK_OK;
  const int64_t tiles = (I + TILE - 1) / TILE, step = R_ * TILE < WORK ? WORK / (R_ * TILE) + 1 : 1;
  const bool parallel = O * R_ * I > PARALLEL;
  if (I == 1) {
    const int64_t rows = R_ < WORK ? WORK / R_ : 1;
#pragma omp parallel for num_threads(place->threads) schedule(static) if (parallel)
    for (int64_t from = 0; from < O; from += rows)
      for (int64_t o = from; o < from + rows && o < O; o++)
        row_fwd(log, R_, x + o * R_, y + o * R_);
    return ALK_OK;
  }
#pragma omp parallel for num_threads(place->threads) schedule(static) if (parallel)
  for (int64_t from = 0; from < O * tiles; from += step)
    for (int64_t u = from; u < from + step && u < O * tiles; u++) {
      const int64_t c0 = u % tiles * TILE, at = u / tiles * R_ * I + c0;
      columns_fwd(log, R_, I - c0 < TILE ? I - c0 : TILE, I, x + at, y + at);
    }
  return ALK_OK;
}

alk_status ALK_NAME(softmax_bwd)(const alk_place *place, bool log, int64_t O, int64_t R_, int64_t I,
                                 const void *vy, const void *vg, void *vdx) {
  const real *y = vy, *g = vg;
  real *dx = vdx;
  if (R_ == 0) return ALK_OK;
  const int64_t tiles = (I + TILE - 1) / TILE, step = R_ * TILE < WORK ? WORK / (R_ * TILE) + 1 : 1;
  const bool parallel = O * R_ * I > PARALLEL;
  if (I == 1) {
    const int64_t rows = R_ < WORK ? WORK / R_ : 1;
#pragma omp parallel for num_threads(place->threads) schedule(static) if (parallel)
    for (int64_t from = 0; from < O; from += rows)
      for (int64_t o = from; o < from + rows && o < O; o++)
        row_bwd(log, R_, y + o * R_, g + o * R_, dx + o * R_);
    return ALK_OK;
  }
#pragma omp parallel for num_threads(place->threads) schedule(static) if (parallel)
  for (int64_t from = 0; from < O * tiles; from += step)
    for (int64_t u = from; u < from + step && u < O * tiles; u++) {
      const int64_t c0 = u % tiles * TILE, at = u / tiles * R_ * I + c0;
      columns_bwd(log, R_, I - c0 < TILE ? I - c0 : TILE, I, y + at, g + at, dx + at);
    }
  return ALK_OK;
}
