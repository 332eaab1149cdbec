/* random.cu: fills from Philox streams, bit for bit as the CPU's (contract: ../random.h), four
 * numbers a thread: products and sums are rounded one by one, as no FMA stands there. Normals are
 * drawn on the host (core/rng.c): the card's logarithm and cosine round otherwise.
 *
 * Floor: 1 number written; of jitter 2 read and written. Share of a copy's rate (cuda.cuh) of
 * uniform numbers: .21 in f32, .11 in bf16, of which f32 is drawn and cast. jitter is not
 * measured: for tests. */
#include "cuda.cuh"
extern "C" {
#include "../random.h"
}

__device__ static void put(alk_dtype t, void *x, int64_t i, double v) {
  if (t == ALK_F64) ((double *)x)[i] = v;
  else ((float *)x)[i] = (float)v;
}

static __global__ void uniforms(int64_t n, uint64_t stream, double lo, double width, alk_dtype t,
                                void *x) {
  GRID_LOOP(b, (n + 3) / 4) {
    uint32_t r[4];
    alk_philox(stream, (uint64_t)b, r);
    for (int k = 0; k < 4; k++)
      if (4 * b + k < n) put(t, x, 4 * b + k, __dadd_rn(lo, __dmul_rn(width, alk_unit(r[k]))));
  }
}
static alk_status fill_uniform(const alk_place *at, int64_t n, uint64_t stream, double lo,
                               double hi, void *x) {
  if (n == 0) return ALK_OK;
  uniforms<<<blocks_for((n + 3) / 4, THREADS), THREADS, 0, stream_of(at)>>>(n, stream, lo, hi - lo,
                                                                            at->dtype, x);
  return launched();
}
CUDA_ANY(fill_uniform, fill_uniform)

static __global__ void jittered(int64_t n, uint64_t stream, double by, alk_dtype t, void *x) {
  GRID_LOOP(i, n) {
    uint32_t bits[4]; /* of 128 numbers */
    alk_philox(stream, (uint64_t)(i / 128), bits);
    const double f = bits[i % 128 / 32] >> i % 32 & 1 ? 1 + by : 1 - by;
    if (t == ALK_F64) ((double *)x)[i] *= f;
    else ((float *)x)[i] = (float)((double)((float *)x)[i] * f);
  }
}
static alk_status jitter(const alk_place *at, int64_t n, uint64_t stream, double by, void *x) {
  if (n == 0) return ALK_OK;
  jittered<<<blocks_for(n, THREADS), THREADS, 0, stream_of(at)>>>(n, stream, by, at->dtype, x);
  return launched();
}
CUDA_ANY(jitter, jitter)
