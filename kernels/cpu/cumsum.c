/* cumsum.c: running sums, several rows or columns at a time. */
#include "../cumsum.h"

typedef ALK_REAL real;
enum { PARALLEL = 32768, TILE = 64, ROWS = 8 };

/* ROWS rows of R side by side: one alone waits for each addition before the next. */
static void rows(bool reverse, int64_t count, int64_t R, const real *x, real *restrict y) {
  double sum[ROWS] = {0};
  const int64_t from = reverse ? R - 1 : 0, step = reverse ? -1 : 1;
  if (count == ROWS)
    for (int64_t k = 0, at = from; k < R; k++, at += step)
      for (int i = 0; i < ROWS; i++) y[i * R + at] = (real)(sum[i] += (double)x[i * R + at]);
  else
    for (int64_t i = 0; i < count; i++)
      for (int64_t k = 0, at = from; k < R; k++, at += step)
        y[i * R + at] = (real)(sum[i] += (double)x[i * R + at]);
}

/* `count` columns, I apart */
static void columns(bool reverse, int64_t count, int64_t R, int64_t I, const real *x,
                    real *restrict y) {
  double sum[TILE] = {0};
  for (int64_t k = 0; k < R; k++) {
    const int64_t at = (reverse ? R - 1 - k : k) * I;
    for (int64_t i = 0; i < count; i++) sum[i] += (double)x[at + i];
    for (int64_t i = 0; i < count; i++) y[at + i] = (real)sum[i];
  }
}

alk_status ALK_NAME(cumsum)(const alk_place *place, bool reverse, int64_t O, int64_t R, int64_t I,
                            const void *vx, void *vy) {
  const real *x = vx;
  real *y = vy;
  if (I == 1) {
#pragma omp parallel for num_threads(place->threads) schedule(static) if (O * R > PARALLEL)
    for (int64_t o = 0; o < O; o += ROWS)
      rows(reverse, O - o < ROWS ? O - o : ROWS, R, x + o * R, y + o * R);
    return ALK_OK;
  }
  const int64_t tiles = (I + TILE - 1) / TILE;
#pragma omp parallel for num_threads(place->threads) schedule(static) if (O * R * I > PARALLEL)
  for (int64_t u = 0; u < O * tiles; u++) {
    const int64_t c0 = u % tiles * TILE, at = u / tiles * R * I + c0;
    columns(reverse, I - c0 < TILE ? I - c0 : TILE, R, I, x + at, y + at);
  }
  return ALK_OK;
}
