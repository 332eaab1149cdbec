/* pick_rows.c: see pick_rows.h. */
#include "../pick_rows.h"
#include <string.h>

typedef ALK_REAL real;

alk_status ALK_NAME(pick_rows)(const alk_place *place, const void *x, const void *vids, int64_t P,
                               int64_t width, void *y) {
  const int32_t *ids = vids;
  const size_t bytes = (size_t)width * sizeof(real);
#pragma omp parallel for num_threads(place->threads) schedule(static) if (P * width > 32768)
  for (int64_t p = 0; p < P; p++) {
    real *to = (real *)y + p * width;
    if (ids[p]) memcpy(to, (const real *)x + (ids[p] - 1) * width, bytes);
    else memset(to, 0, bytes);
  }
  return ALK_OK;
}

alk_status ALK_NAME(pick_rows_add)(const alk_place *place, const void *y, const void *vids,
                                   int64_t P, int64_t width, void *x) {
  const int32_t *ids = vids;
#pragma omp parallel for num_threads(place->threads) schedule(static) if (P * width > 32768)
  for (int64_t p = 0; p < P; p++) {
    if (!ids[p]) continue;
    real *restrict to = (real *)x + (ids[p] - 1) * width;
    const real *restrict from = (const real *)y + p * width;
    for (int64_t i = 0; i < width; i++) to[i] += from[i];
  }
  return ALK_OK;
}
