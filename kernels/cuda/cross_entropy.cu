/* cross_entropy.cu: a block a row of logits (contract: ../cross_entropy.h). */
#include "rows.cuh"
extern "C" {
#include "../cross_entropy.h"
}

template <class T>
static __global__ void forward(int64_t N, int64_t V, int64_t ignore, const T *x, const int32_t *t,
                               real_of<T> *lse, real_of<T> *loss) {
  typedef real_of<T> real;
  EACH_ROW(r, N) {
    if (t[r] == ignore) {
      if (threadIdx.x == 0) lse[r] = loss[r] = 0;
      continue;
    }
    const T *p = x + r * V;
    real m = -(real)INFINITY, s = 0;
    ROW_LOOP(i, V) m = larger(m, load(p, i));
    m = block_join(m, -(real)INFINITY, [](real a, real b) { return larger(a, b); });
    m = m == -(real)INFINITY ? 0 : m;
    ROW_LOOP(i, V) s += vexp(load(p, i) - m);
    s = vlog(block_sum(s));
    if (threadIdx.x == 0) lse[r] = m + s, loss[r] = m - load(p, t[r]) + s;
  }
}
template <class T>
static alk_status fwd(const alk_place *at, int64_t N, int64_t V, int64_t ignore, const void *x,
                      const void *t, void *lse, void *loss) {
  if (N == 0) return ALK_OK;
  forward<T><<<blocks_for(N, 1), ROW_THREADS, 0, stream_of(at)>>>(
      N, V, ignore, (const T *)x, (const int32_t *)t, (real_of<T> *)lse, (real_of<T> *)loss);
  return launched();
}
CUDA_TYPED_BF16(cross_entropy_fwd, fwd)

static __global__ void scale_of(int64_t N, int64_t ignore, bool mean, const int32_t *t,
                                double *scale) {
  long long n = 0;
  if (mean) ROW_LOOP(r, N) n += t[r] != ignore;
  n = block_sum(n);
  if (threadIdx.x == 0) *scale = !mean ? 1 : n > 0 ? 1.0 / (double)n : 0;
}
template <class T>
static alk_status scale(const alk_place *at, int64_t N, int64_t ignore, bool mean, const void *t,
                        void *to) {
  scale_of<<<1, 1024, 0, stream_of(at)>>>(N, ignore, mean, (const int32_t *)t, (double *)to);
  return launched();
}
CUDA_TYPED_BF16(cross_entropy_scale, scale)

template <class T>
static __global__ void total_of(int64_t N, const double *scale, const T *loss,
                                T *to) { /* T: of statistics */
  double s = 0;
  ROW_LOOP(r, N) s += (double)loss[r];
  s = block_sum(s);
  if (threadIdx.x == 0) *to = (T)(*scale * s);
}
template <class T>
static alk_status total(const alk_place *at, int64_t N, const void *by, const void *loss,
                        void *to) {
  total_of<real_of<T>><<<1, 1024, 0, stream_of(at)>>>(N, (const double *)by,
                                                      (const real_of<T> *)loss, (real_of<T> *)to);
  return launched();
}
CUDA_TYPED_BF16(cross_entropy_total, total)

template <class T>
static __global__ void backward(int64_t N, int64_t V, int64_t ignore, const T *x, const int32_t *t,
                                const real_of<T> *lse, bool shared, const double *scale,
                                const real_of<T> *g, T *dx) {
  typedef real_of<T> real;
  GRID_LOOP(u, N * V) {
    const int64_t r = u / V;
    const real f = (real)*scale * g[shared ? 0 : r];
    real d = 0;
    if (t[r] != ignore && f != 0) {
      d = f * vexp(load(x, u) - lse[r]);
      if (u % V == t[r]) d -= f;
    }
    store(dx, u, d);
  }
}
template <class T>
static alk_status bwd(const alk_place *at, int64_t N, int64_t V, int64_t ignore, const void *x,
                      const void *t, const void *lse, bool shared, const void *by, const void *g,
                      void *dx) {
  if (N * V == 0) return ALK_OK;
  backward<T><<<blocks_for(N * V, THREADS), THREADS, 0, stream_of(at)>>>(
      N, V, ignore, (const T *)x, (const int32_t *)t, (const real_of<T> *)lse, shared,
      (const double *)by, (const real_of<T> *)g, (T *)dx);
  return launched();
}
CUDA_TYPED_BF16(cross_entropy_bwd, bwd)
