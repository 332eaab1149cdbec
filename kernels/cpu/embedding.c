/* embedding.c: gather and ordered scatter-add. */
#include "../embedding.h"
#include <string.h>

typedef ALK_REAL real;

alk_status ALK_NAME(embedding_fwd)(const alk_place *place, void *y, const void *table,
                                   const void *vids, int64_t N, int64_t C) {
  real *out = y;
  const int32_t *ids = vids;
  const real *rows = table;
#pragma omp parallel for num_threads(place->threads) schedule(static) if (N * C > 32768)
  for (int64_t i = 0; i < N; i++) memcpy(out + i * C, rows + ids[i] * C, (size_t)C * sizeof *out);
  return ALK_OK;
}

int64_t ALK_NAME(embedding_bwd_room)(const alk_place *place, int64_t N, int64_t V, int64_t C) {
  return 0;
}

/* Threads share the channels. */
alk_status ALK_NAME(embedding_bwd)(const alk_place *place, void *dtable, const void *dy,
                                   const void *vids, int64_t N, int64_t V, int64_t C,
                                   void *scratch) {
  enum { SLAB = 32 }; /* channels: two cache lines of f32, so threads do not share lines */
  const int32_t *ids = vids;
#pragma omp parallel for num_threads(place->threads) schedule(static) if ((N + V) * C > 32768)
  for (int64_t c0 = 0; c0 < C; c0 += SLAB) {
    const int64_t w = C - c0 < SLAB ? C - c0 : SLAB;
    for (int64_t v = 0; v < V; v++)
      memset((real *)dtable + v * C + c0, 0, (size_t)w * sizeof(real));
    for (int64_t i = 0; i < N; i++) {
      real *restrict d = (real *)dtable + ids[i] * C + c0;
      const real *restrict g = (const real *)dy + i * C + c0;
      for (int64_t c = 0; c < w; c++) d[c] += g[c];
    }
  }
  return ALK_OK;
}
