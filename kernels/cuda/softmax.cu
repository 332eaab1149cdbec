/* softmax.cu: softmax and its logarithm over the middle axis of x (O,R,I) (contract:
 * ../softmax.h), a block a row; sums in the type of the arithmetic.
 *
 * Floor: 2 numbers read and written forward, 3 backward. Share of a copy's rate (cuda.cuh), bf16
 * and f32: forward .41 and .51, backward .40 and .63; numbers go one by one, and a row is read
 * three times, from the cache where it fits. */
#include "rows.cuh"
extern "C" {
#include "../softmax.h"
}

template <class T>
static __global__ void forward(bool log, int64_t O, int64_t R_, int64_t I, const T *x, T *y) {
  typedef real_of<T> real;
  EACH_ROW(u, O * I) {
    const int64_t base = u / I * R_ * I + u % I;
    real m = -(real)INFINITY, s = 0;
    ROW_LOOP(r, R_) m = larger(m, load(x, base + r * I));
    m = block_max(m, -(real)INFINITY);
    m = m == -(real)INFINITY ? 0 : m; /* -inf - -inf would be NaN */
    ROW_LOOP(r, R_) s += vexp(load(x, base + r * I) - m);
    s = block_sum(s);
    const real d = s == 0 ? (real)0 : log ? vlog(s) : 1 / s;
    ROW_LOOP(r, R_) {
      const real v = load(x, base + r * I) - m;
      store(y, base + r * I, log ? v - d : vexp(v) * d);
    }
  }
}
template <class T>
static __global__ void backward(bool log, int64_t O, int64_t R_, int64_t I, const T *y, const T *g,
                                T *dx) {
  typedef real_of<T> real;
  EACH_ROW(u, O * I) {
    const int64_t base = u / I * R_ * I + u % I;
    real s = 0;
    ROW_LOOP(r, R_) {
      const real d = load(g, base + r * I);
      s += log ? d : PASSED(d, load(y, base + r * I) * d);
    }
    const bool some = reached(R_, g + base, I);
    s = block_sum(s);
    ROW_LOOP(r, R_) {
      const int64_t at = base + r * I;
      const real own = load(g, at), v = load(y, at), d = own - s;
      store(dx, at, (real)(!some ? 0 : log ? own - PASSED(s, vexp(v) * s) : PASSED(d, v * d)));
    }
  }
}
template <class T>
static alk_status fwd(const alk_place *at, bool log, int64_t O, int64_t R_, int64_t I,
                      const void *x, void *y) {
  if (O * R_ * I == 0) return ALK_OK;
  forward<T><<<blocks_for(O * I, 1), ROW_THREADS, 0, stream_of(at)>>>(log, O, R_, I, (const T *)x,
                                                                      (T *)y);
  return launched();
}
CUDA_TYPED_BF16(softmax_fwd, fwd)
template <class T>
static alk_status bwd(const alk_place *at, bool log, int64_t O, int64_t R_, int64_t I,
                      const void *y, const void *g, void *dx) {
  if (O * R_ * I == 0) return ALK_OK;
  backward<T><<<blocks_for(O * I, 1), ROW_THREADS, 0, stream_of(at)>>>(log, O, R_, I, (const T *)y,
                                                                       (const T *)g, (T *)dx);
  return launched();
}
CUDA_TYPED_BF16(softmax_bwd, bwd)
