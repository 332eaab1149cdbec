/* reduce.c: reductions of the middle axis of x (O,R,I); sums in fixed blocks and lanes. */
#include "../reduce.h"
#include "vmath.h"
#include "lanes.h"

enum { WORK = 4096, PARALLEL = 32768, TILE = 256, SUB = 16 };
#define ALWAYS static inline __attribute__((always_inline))

ALWAYS real neutral(int kind) {
  return kind == ALK_MAX ? -R(INFINITY) : kind == ALK_MIN ? R(INFINITY) : 0;
}
ALWAYS real join(int kind, real a, real x) {
  if (kind == ALK_MAX) return x > a || x != x ? x : a;
  if (kind == ALK_MIN) return x < a || x != x ? x : a;
  return a + x;
}
ALWAYS real first(int kind, real x) { return kind == ALK_SUM_SQUARES ? x * x : x; }

ALWAYS real row(int kind, int64_t n, const real *x) {
  real total = neutral(kind);
  for (int64_t at = 0; at < n; at += ROW_BLOCK) {
    const int64_t count = n - at < ROW_BLOCK ? n - at : ROW_BLOCK;
    const real *p = x + at;
    real lane[LANES];
    for (int l = 0; l < LANES; l++) lane[l] = neutral(kind);
    FOR_LANES(count, lane[l] = join(kind, lane[l], first(kind, p[i])));
    for (int h = LANES / 2; h > 0; h /= 2)
      for (int l = 0; l < h; l++) lane[l] = join(kind, lane[l], lane[l + h]);
    total = join(kind, total, lane[0]);
  }
  return total;
}

/* `count` columns of `rows` rows, I apart, joined SUB rows at a time. */
ALWAYS void columns(int kind, int64_t rows, int64_t count, int64_t I, const real *x,
                    real *restrict y) {
  for (int64_t i = 0; i < count; i++) y[i] = neutral(kind);
  for (int64_t r = 0; r < rows; r += SUB) {
    const int64_t last = r + SUB < rows ? r + SUB : rows;
    real block[TILE];
    for (int64_t i = 0; i < count; i++) block[i] = first(kind, x[r * I + i]);
    for (int64_t s = r + 1; s < last; s++)
      for (int64_t i = 0; i < count; i++)
        block[i] = join(kind, block[i], first(kind, x[s * I + i]));
    for (int64_t i = 0; i < count; i++) y[i] = join(kind, y[i], block[i]);
  }
}

ALWAYS real finish(real v, real scale, bool root) { return root ? vsqrt(v * scale) : v * scale; }

ALWAYS void reduce(int kind, int64_t O, int64_t R_, int64_t I, int64_t chunk, real scale, bool root,
                   const real *x, real *y) {
  const int64_t n = R_ > chunk ? (R_ + chunk - 1) / chunk : 1;
  const int64_t tiles = (I + TILE - 1) / TILE;
  const int64_t units = O * n * tiles;
  const int64_t each = (R_ < chunk ? R_ : chunk) * (I < TILE ? I : TILE) + 1;
  const int64_t step = each < WORK ? WORK / each + 1 : 1;
#pragma omp parallel for schedule(static) if (O * R_ * I > PARALLEL)
  for (int64_t from = 0; from < units; from += step)
    for (int64_t u = from; u < from + step && u < units; u++) {
      const int64_t c0 = u % tiles * TILE, k = u / tiles % n, o = u / tiles / n;
      const int64_t rows = R_ - k * chunk < chunk ? R_ - k * chunk : chunk;
      const int64_t count = I - c0 < TILE ? I - c0 : TILE;
      const real *p = x + (o * R_ + k * chunk) * I + c0;
      real *q = y + (o * n + k) * I + c0;
      if (I == 1) *q = row(kind, rows, p);
      else columns(kind, rows, count, I, p, q);
      if (scale != 1 || root)
        for (int64_t i = 0; i < count; i++) q[i] = finish(q[i], scale, root);
    }
}

alk_status ALK_NAME(reduce)(const alk_place *place, int kind, int64_t O, int64_t R_, int64_t I,
                            int64_t chunk, double scale, bool root, const void *x, void *y) {
  switch (kind) {
  case ALK_SUM:
    reduce(ALK_SUM, O, R_, I, chunk, R(scale), root, x, y);
    break;
  case ALK_SUM_SQUARES:
    reduce(ALK_SUM_SQUARES, O, R_, I, chunk, R(scale), root, x, y);
    break;
  case ALK_MAX:
    reduce(ALK_MAX, O, R_, I, chunk, R(scale), root, x, y);
    break;
  default:
    reduce(ALK_MIN, O, R_, I, chunk, R(scale), root, x, y);
  }
  return ALK_OK;
}

/* A row alone: whole blocks without a winner are skipped by one test each. */
static void pick_row(int64_t n, const real *x, real y, real g, real *restrict dx) {
  for (int64_t i = 0; i < n; i++) dx[i] = 0;
  for (int64_t at = 0; at < n; at += LANES) {
    const int count = n - at < LANES ? (int)(n - at) : LANES;
    int hits = 0;
    for (int l = 0; l < count; l++) hits |= x[at + l] == y || x[at + l] != x[at + l];
    if (!hits) continue;
    for (int l = 0; l < count; l++)
      if (x[at + l] == y || x[at + l] != x[at + l]) {
        dx[at + l] = g;
        return;
      }
  }
}

alk_status ALK_NAME(reduce_pick)(const alk_place *place, int64_t O, int64_t R_, int64_t I,
                                 const void *vx, const void *vy, const void *vg, void *vdx) {
  const real *x = vx, *y = vy, *g = vg;
  real *dx = vdx;
  const int64_t tiles = (I + TILE - 1) / TILE;
  if (I == 1) {
#pragma omp parallel for num_threads(place->threads) schedule(static) if (O * R_ > PARALLEL)
    for (int64_t o = 0; o < O; o++) pick_row(R_, x + o * R_, y[o], g[o], dx + o * R_);
    return ALK_OK;
  }
#pragma omp parallel for num_threads(place->threads) schedule(static) if (O * R_ * I > PARALLEL)
  for (int64_t u = 0; u < O * tiles; u++) {
    const int64_t c0 = u % tiles * TILE, o = u / tiles, count = I - c0 < TILE ? I - c0 : TILE;
    bool taken[TILE] = {false};
    for (int64_t r = 0; r < R_; r++)
      for (int64_t i = 0; i < count; i++) {
        const int64_t at = (o * R_ + r) * I + c0 + i, to = o * I + c0 + i;
        const bool wins = !taken[i] && (x[at] == y[to] || x[at] != x[at]);
        dx[at] = wins ? g[to] : 0;
        taken[i] |= wins;
      }
  }
  return ALK_OK;
}

alk_status ALK_NAME(reduce_l2_slope)(const alk_place *place, int64_t n, const void *vy,
                                     const void *vg, void *out) {
  const real *y = vy, *g = vg;
  real *c = out;
#pragma omp parallel for num_threads(place->threads) schedule(static) if (n > PARALLEL)
  for (int64_t i = 0; i < n; i++) c[i] = y[i] > 0 ? g[i] / y[i] : 0;
  return ALK_OK;
}
