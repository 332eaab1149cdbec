/* cumsum.c: running sums of columns, TILE of them at a time. */
#include "../cumsum.h"

typedef ALK_REAL real;
enum { PARALLEL = 32768, TILE = 64 };

void ALK_NAME(cumsum)(bool reverse, int64_t O, int64_t R, int64_t I, const void *vx, void *vy) {
  const real *x = vx;
  real *y = vy;
  const int64_t tiles = (I + TILE - 1) / TILE;
#pragma omp parallel for schedule(static) if (O * R * I > PARALLEL)
  for (int64_t u = 0; u < O * tiles; u++) {
    const int64_t c0 = u % tiles * TILE, count = I - c0 < TILE ? I - c0 : TILE;
    double sum[TILE] = {0};
    for (int64_t k = 0; k < R; k++) {
      const int64_t at = (u / tiles * R + (reverse ? R - 1 - k : k)) * I + c0;
      for (int64_t i = 0; i < count; i++) {
        sum[i] += (double)x[at + i];
        y[at + i] = (real)sum[i];
      }
    }
  }
}
