/* random.c: fills from Philox streams (contract: ../random.h). */
#include "../philox.h"
#include "../random.h"
#include <math.h>

static void put(alk_dtype dtype, void *x, int64_t i, double v) {
  if (dtype == ALK_F64) ((double *)x)[i] = v;
  else ((float *)x)[i] = (float)v;
}

alk_status alk_fill_uniform_any(const alk_place *at, int64_t n, uint64_t stream, double lo,
                                double hi, void *x) {
#pragma omp parallel for num_threads(at->threads) schedule(static) if (n > 8192)
  for (int64_t b = 0; b < (n + 3) / 4; b++) {
    uint32_t r[4];
    alk_philox(stream, (uint64_t)b, r);
    for (int64_t i = 4 * b; i < n && i < 4 * b + 4; i++)
      put(at->dtype, x, i, lo + (hi - lo) * alk_unit(r[i - 4 * b]));
  }
  return ALK_OK;
}

alk_status alk_fill_normal_any(const alk_place *at, int64_t n, uint64_t stream, double mean,
                               double deviation, void *x) {
#pragma omp parallel for num_threads(at->threads) schedule(static) if (n > 4096)
  for (int64_t b = 0; b < (n + 3) / 4; b++) {
    uint32_t r[4];
    alk_philox(stream, (uint64_t)b, r);
    double z[4];
    for (int h = 0; h < 2; h++) {
      const double u = 1.0 - alk_unit(r[2 * h]), a = 6.283185307179586 * alk_unit(r[2 * h + 1]);
      const double m = sqrt(-2.0 * log(u));
      z[2 * h] = m * cos(a);
      z[2 * h + 1] = m * sin(a);
    }
    for (int64_t i = 4 * b; i < n && i < 4 * b + 4; i++)
      put(at->dtype, x, i, mean + deviation * z[i - 4 * b]);
  }
  return ALK_OK;
}

alk_status alk_jitter_any(const alk_place *at, int64_t n, uint64_t stream, double by, void *x) {
#pragma omp parallel for num_threads(at->threads) schedule(static) if (n > 8192)
  for (int64_t b = 0; b < (n + 127) / 128; b++) {
    uint32_t bits[4]; /* of 128 numbers */
    alk_philox(stream, (uint64_t)b, bits);
    for (int64_t i = 128 * b; i < n && i < 128 * b + 128; i++) {
      const double f = bits[i % 128 / 32] >> i % 32 & 1 ? 1 + by : 1 - by;
      if (at->dtype == ALK_F64) ((double *)x)[i] *= f;
      else ((float *)x)[i] = (float)((double)((float *)x)[i] * f);
    }
  }
  return ALK_OK;
}
