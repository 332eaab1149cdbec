/* reduce.cu: reductions of the middle axis of x (O,R,I) (contract: ../reduce.h). Rows go to a
 * warp, or to a block where they are long; columns to a thread each, SUB rows at a time.
 *
 * Floor: x read once; of the gradient of a maximum 3 numbers read and written. Share of a copy's
 * rate (cuda.cuh), bf16 and f32: sums of rows .43 and .53, of columns .50 and .64; numbers go one
 * by one. The backward of a sum is an expand (copy.cu). Not measured: the gradient of a maximum,
 * bias_sum. */
#include "functions.cuh"
extern "C" {
#include "../matmul.h"
#include "../reduce.h"
}

enum { SUB = 16, LONG = 1024 };

template <int kind, class real> struct joining {
  static __device__ inline real neutral() {
    return kind == ALK_MAX ? -(real)INFINITY : kind == ALK_MIN ? (real)INFINITY : 0;
  }
  __device__ inline real operator()(real a, real x) const {
    if (kind == ALK_MAX) return x > a || x != x ? x : a;
    if (kind == ALK_MIN) return x < a || x != x ? x : a;
    return a + x;
  }
  static __device__ inline real first(real x) { return kind == ALK_SUM_SQUARES ? x * x : x; }
};

/* A NaN on the left stays: every join of two parts has to look at both. */
template <int kind, class real> static __device__ inline real both(real a, real x) {
  return a != a ? a : joining<kind, real>()(a, x);
}

template <class real> static __device__ inline real finish(real v, real scale, bool root) {
  v = scale == 1 ? v : v * scale;
  return root ? vsqrt(v) : v;
}

/* blockDim.x threads a row, blockDim.y rows a block. */
template <int kind, class T>
static __global__ void rows(int64_t units, int64_t R_, int64_t chunk, int64_t n, real_of<T> scale,
                            bool root, const T *x, real_of<T> *y) {
  typedef typename arithmetic<T>::type real;
  typedef joining<kind, real> join;
  for (int64_t u = (int64_t)blockIdx.x * blockDim.y + threadIdx.y; u < units;
       u += (int64_t)gridDim.x * blockDim.y) {
    const int64_t o = u / n, k = u % n, from = o * R_ + k * chunk;
    const int64_t count = R_ - k * chunk < chunk ? R_ - k * chunk : chunk;
    real v = join::neutral();
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x)
      v = both<kind, real>(v, join::first(load(x, from + i)));
    auto tree = [](real a, real b) { return both<kind, real>(a, b); };
    v = blockDim.x == 32 ? warp_join(v, tree) : block_join(v, join::neutral(), tree);
    if (threadIdx.x == 0) y[u] = finish(v, scale, root);
  }
}

template <int kind, class T>
static __global__ void columns(int64_t units, int64_t R_, int64_t I, int64_t chunk, int64_t n,
                               real_of<T> scale, bool root, const T *x, real_of<T> *y) {
  typedef typename arithmetic<T>::type real;
  typedef joining<kind, real> join;
  GRID_LOOP(u, units) {
    const int64_t i = u % I, k = u / I % n, o = u / I / n, from = o * R_ + k * chunk;
    const int64_t count = R_ - k * chunk < chunk ? R_ - k * chunk : chunk;
    real v = join::neutral();
    for (int64_t r0 = 0; r0 < count; r0 += SUB) {
      real part = join::first(load(x, (from + r0) * I + i));
      for (int64_t r = r0 + 1; r < r0 + SUB && r < count; r++)
        part = both<kind, real>(part, join::first(load(x, (from + r) * I + i)));
      v = both<kind, real>(v, part);
    }
    y[u] = finish(v, scale, root);
  }
}

template <int kind, class T>
static void stage(cudaStream_t s, int64_t O, int64_t R_, int64_t I, int64_t chunk, double scale,
                  bool root, const T *x, real_of<T> *y) {
  typedef typename arithmetic<T>::type real;
  const int64_t n = R_ > chunk ? (R_ + chunk - 1) / chunk : 1, units = O * n * I;
  if (I != 1)
    columns<kind, T><<<blocks_for(units, THREADS), THREADS, 0, s>>>(units, R_, I, chunk, n,
                                                                    (real)scale, root, x, y);
  else if (R_ <= LONG)
    rows<kind, T>
        <<<blocks_for(units, 8), dim3(32, 8), 0, s>>>(units, R_, chunk, n, (real)scale, root, x, y);
  else
    rows<kind, T><<<blocks_for(units, 1), dim3(256, 1), 0, s>>>(units, R_, chunk, n, (real)scale,
                                                                root, x, y);
}

template <class T>
static alk_status reduce(const alk_place *at, int kind, int64_t O, int64_t R_, int64_t I,
                         int64_t chunk, double scale, bool root, const void *vx, void *vy) {
  const T *x = (const T *)vx;
  real_of<T> *y = (real_of<T> *)vy;
  const cudaStream_t s = stream_of(at);
  if (O * I == 0) return ALK_OK;
  switch (kind) {
  case ALK_SUM:
    stage<ALK_SUM, T>(s, O, R_, I, chunk, scale, root, x, y);
    break;
  case ALK_SUM_SQUARES:
    stage<ALK_SUM_SQUARES, T>(s, O, R_, I, chunk, scale, root, x, y);
    break;
  case ALK_MAX:
    stage<ALK_MAX, T>(s, O, R_, I, chunk, scale, root, x, y);
    break;
  default:
    stage<ALK_MIN, T>(s, O, R_, I, chunk, scale, root, x, y);
  }
  return launched();
}
CUDA_TYPED_BF16(reduce, reduce)

/* ---- the gradient of a maximum --------------------------------------------------------------- */

template <class T>
static __global__ void pick_columns(int64_t units, int64_t R_, int64_t I, const T *x, const T *y,
                                    const T *g, T *dx) {
  GRID_LOOP(u, units) {
    const int64_t i = u % I, o = u / I;
    bool taken = false;
    for (int64_t r = 0; r < R_; r++) {
      const int64_t at = (o * R_ + r) * I + i;
      const bool wins = !taken && (x[at] == y[u] || x[at] != x[at]);
      dx[at] = wins ? g[u] : (T)0;
      taken |= wins;
    }
  }
}

/* A block a row: the smallest place among its threads. */
template <class T>
static __global__ void pick_rows(int64_t O, int64_t R_, const T *x, const T *y, const T *g, T *dx) {
  for (int64_t o = blockIdx.x; o < O; o += gridDim.x) {
    const T *row = x + o * R_;
    long long first = R_;
    for (int64_t i = threadIdx.x; i < R_; i += blockDim.x)
      if (row[i] == y[o] || row[i] != row[i]) {
        first = i;
        break;
      }
    first = block_min(first, (long long)R_);
    for (int64_t i = threadIdx.x; i < R_; i += blockDim.x)
      dx[o * R_ + i] = i == first ? g[o] : (T)0;
  }
}

template <class T>
static alk_status pick(const alk_place *at, int64_t O, int64_t R_, int64_t I, const void *x,
                       const void *y, const void *g, void *dx) {
  const cudaStream_t s = stream_of(at);
  if (O * R_ * I == 0) return ALK_OK;
  if (I == 1)
    pick_rows<T><<<blocks_for(O, 1), THREADS, 0, s>>>(O, R_, (const T *)x, (const T *)y,
                                                      (const T *)g, (T *)dx);
  else
    pick_columns<T><<<blocks_for(O * I, THREADS), THREADS, 0, s>>>(
        O * I, R_, I, (const T *)x, (const T *)y, (const T *)g, (T *)dx);
  return launched();
}
CUDA_TYPED(reduce_pick, pick)

template <class T> static __global__ void l2_slopes(int64_t n, const T *y, const T *g, T *out) {
  GRID_LOOP(i, n) out[i] = y[i] > 0 ? g[i] / y[i] : (T)0;
}
template <class T>
static alk_status l2_slope(const alk_place *at, int64_t n, const void *y, const void *g,
                           void *out) {
  if (n == 0) return ALK_OK;
  l2_slopes<T><<<blocks_for(n, THREADS), THREADS, 0, stream_of(at)>>>(n, (const T *)y, (const T *)g,
                                                                      (T *)out);
  return launched();
}
CUDA_TYPED(reduce_l2_slope, l2_slope)

/* ---- column sums ----------------------------------------------------------------------------- */

/* 32 columns a block, 32 threads a column. */
template <class T>
static __global__ void sum_columns(real_of<T> *sum, const T *x, int64_t m, int64_t n) {
  typedef real_of<T> real;
  __shared__ real part[32][33];
  for (int64_t c0 = (int64_t)blockIdx.x * 32; c0 < n; c0 += (int64_t)gridDim.x * 32) {
    const int64_t c = c0 + threadIdx.x;
    real v = 0;
    for (int64_t r0 = threadIdx.y; r0 < m && c < n; r0 += 32 * SUB) {
      real some = 0;
      for (int64_t r = r0; r < m && r < r0 + 32 * SUB; r += 32) some += load(x, r * n + c);
      v += some;
    }
    __syncthreads();
    part[threadIdx.y][threadIdx.x] = v;
    __syncthreads();
    v = warp_join(part[threadIdx.x][threadIdx.y], plus());
    if (threadIdx.x == 0 && c0 + threadIdx.y < n) sum[c0 + threadIdx.y] = v;
  }
}
template <class T>
static alk_status bias_sum(const alk_place *at, void *sum, const void *x, int64_t m, int64_t n) {
  if (n == 0) return ALK_OK;
  sum_columns<T><<<blocks_for(n, 32), dim3(32, 32), 0, stream_of(at)>>>((real_of<T> *)sum,
                                                                        (const T *)x, m, n);
  return launched();
}
CUDA_TYPED_BF16(bias_sum, bias_sum)
