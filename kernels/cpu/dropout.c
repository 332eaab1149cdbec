/* dropout.c: see dropout.h. */
#include "../dropout.h"
#include "../philox.h"

typedef ALK_REAL real;

alk_status ALK_NAME(dropout)(const alk_place *place, void *y, const void *x, int64_t n,
                             uint64_t key, uint64_t threshold, double scale) {
  enum { BLOCKS = 16 }; /* words are drawn for 64 elements, then used: both loops vectorise */
  const real s = (real)scale;
#pragma omp parallel for num_threads(place->threads) schedule(static) if (n > 8192)
  for (int64_t i0 = 0; i0 < n; i0 += 4 * BLOCKS) {
    uint32_t word[4 * BLOCKS];
    for (int b = 0; b < BLOCKS; b++) alk_philox(key, (uint64_t)(i0 / 4 + b), word + 4 * b);
    const int64_t m = n - i0 < 4 * BLOCKS ? n - i0 : 4 * BLOCKS;
    const real *from = (const real *)x + i0;
    real *to = (real *)y + i0;
    for (int64_t i = 0; i < m; i++) to[i] = word[i] >= threshold ? from[i] * s : 0;
  }
  return ALK_OK;
}
