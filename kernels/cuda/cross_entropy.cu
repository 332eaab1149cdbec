/* cross_entropy.cu: loss of rows of logits (contract: ../cross_entropy.h), a block a row, 16 bytes
 * at a time where rows lie so. A thread reads what it writes over where dx is x.
 *
 * Floor: 1 number read forward, 2 read and written backward. Share of a copy's rate (cuda.cuh) at
 * V = 32,000, bf16 and f32: forward 1.1 and 1.1, backward .71 and 1.1. */
#include "rows.cuh"
extern "C" {
#include "../cross_entropy.h"
}

/* Each thread has the largest of its numbers and their sum over it, so a row is read once. */
template <class T, int W>
static __global__ void forward(int64_t N, int64_t V, int64_t ignore, const T *x, const int32_t *t,
                               real_of<T> *lse, real_of<T> *loss) {
  typedef real_of<T> real;
  const real none = -(real)INFINITY;
  EACH_ROW(r, N) {
    if (t[r] == ignore) {
      if (threadIdx.x == 0) lse[r] = loss[r] = 0;
      continue;
    }
    const T *p = x + r * V;
    real own = none, s = 0, v[W];
    ROW_GROUPS(i, V, W) {
      load_all<W>(p, i, v);
      real m = own;
      for (int k = 0; k < W; k++) m = larger(m, v[k]);
      if (m > own) s *= vexp(own - m);
      own = m;
      for (int k = 0; k < W; k++) s += vexp(m == none ? v[k] : v[k] - m); /* -inf + inf is NaN */
    }
    real m = block_max(own, none);
    m = m == none ? 0 : m;
    s = vlog(block_sum(own == none ? s : s * vexp(own - m)));
    if (threadIdx.x == 0) lse[r] = m + s, loss[r] = m - load(p, t[r]) + s;
  }
}
/* Threads of a block that has a row of V, so many at a time. */
static int threads_for(int64_t V, int each) { return V >= 1024 * each ? 512 : ROW_THREADS; }
template <class T>
static alk_status fwd(const alk_place *at, int64_t N, int64_t V, int64_t ignore, const void *x,
                      const void *t, void *lse, void *loss) {
  if (N == 0) return ALK_OK;
  const bool wide = grouped(V, sizeof(T), x);
  auto run = wide ? forward<T, GROUP(T)> : forward<T, 1>;
  run<<<blocks_for(N, 1), threads_for(V, wide ? GROUP(T) : 1), 0, stream_of(at)>>>(
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

template <class T, int W>
static __global__ void backward(int64_t N, int64_t V, int64_t ignore, const T *x, const int32_t *t,
                                const real_of<T> *lse, bool shared, const double *scale,
                                const real_of<T> *g, T *dx) {
  typedef real_of<T> real;
  EACH_ROW(r, N) {
    const real f = (real)*scale * g[shared ? 0 : r], l = lse[r];
    const int64_t target = t[r];
    const bool counts = target != ignore && f != 0;
    ROW_GROUPS(i, V, W) {
      real v[W];
      load_all<W>(x, r * V + i, v);
      for (int k = 0; k < W; k++) {
        v[k] = counts ? f * vexp(v[k] - l) : 0;
        if (counts && i + k == target) v[k] -= f;
      }
      store_all<W>(dx, r * V + i, v);
    }
  }
}
template <class T>
static alk_status bwd(const alk_place *at, int64_t N, int64_t V, int64_t ignore, const void *x,
                      const void *t, const void *lse, bool shared, const void *by, const void *g,
                      void *dx) {
  if (N * V == 0) return ALK_OK;
  const bool wide = grouped(V, sizeof(T), x, dx);
  auto run = wide ? backward<T, GROUP(T)> : backward<T, 1>;
  run<<<blocks_for(N, 1), threads_for(V, wide ? GROUP(T) : 1), 0, stream_of(at)>>>(
      N, V, ignore, (const T *)x, (const int32_t *)t, (const real_of<T> *)lse, shared,
      (const double *)by, (const real_of<T> *)g, (T *)dx);
  return launched();
}
CUDA_TYPED_BF16(cross_entropy_bwd, bwd)
