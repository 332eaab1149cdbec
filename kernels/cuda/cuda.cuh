/* cuda.cuh: what the kernels of the CUDA module share: their queue, how one is launched and how it
 * gets into the module's table, number types, walks over strided views, sums of a block.
 *
 * A file foo.cu includes its contract in extern "C" and ends with CUDA_TYPED(foo, host_function),
 * CUDA_TYPED_BF16 or CUDA_ANY: module.cu finds it by its name. Whatever is not there is an empty
 * slot. No atomics on floats: every sum has an order that follows from the shape alone.
 *
 * A head gives the floor, numbers read and written once, and the share of a copy's rate: bytes of
 * the floor a second over those of a copy of as many numbers. Measured by `card.lua kernels`
 * (experiments/bench) on one H200 at 36,864 rows of 1,024, where the copy moves 2.2 TB/s in bf16
 * (151 MB) and 3.5 TB/s in f32; what moves more at once can pass 1. Backward in bf16 also writes the
 * gradients of leaves in f32, which counts as nothing. */
#ifndef ALK_CUDA_CUH
#define ALK_CUDA_CUH
#include "bf16.cuh"
#include <cuda_runtime.h>
extern "C" {
#include "../kernel.h"
#include "../philox.h"
}

/* One card's stream and what belongs to it. */
typedef struct cuda_queue {
  int card;
  cudaStream_t stream;
  void *blas;      /* matmul.cu: cuBLASLt's handle and plans, NULL before the first product */
  void *workspace; /* WORKSPACE bytes for it */
  void *sdpa;      /* sdpa.cu: cuDNN's handle and plans, NULL before its first use */
  char *staged;    /* module.cu: STAGES buffers of the host that copies are queued from, or NULL */
  cudaEvent_t read_by[16]; /* when the card has read each */
  int stage;               /* the next */
  char why[256];           /* the text of a failure */
  bool failed;             /* a host function refused, as `why` says */
} cuda_queue;
static const size_t WORKSPACE = (size_t)32 << 20;
void cuda_blas_end(cuda_queue *q);
void cuda_blas_forget(cuda_queue *q);                      /* its plans */
char *cuda_plans_save(cuda_queue *q, char *why, size_t n); /* ../module.h has these three */
bool cuda_plans_load(cuda_queue *q, const char *text, char *why, size_t n);
bool cuda_plans_time(cuda_queue *q, bool on);

static inline cuda_queue *queue_of(const alk_place *at) { return (cuda_queue *)at->queue; }
static inline cudaStream_t stream_of(const alk_place *at) { return queue_of(at)->stream; }
/* What a host function returns: whether its launches were taken. What a kernel did wrong shows
 * later (module.cu: failure). */
static inline alk_status launched(void) {
  return cudaPeekAtLastError() == cudaSuccess ? ALK_OK : ALK_FAILED;
}

/* ---- the slots of the table ------------------------------------------------------------------ */

#define CUDA_TYPED(name, ...)                                                                      \
  extern "C" {                                                                                     \
  extern const alk_##name##_fn cuda_##name[ALK_DTYPES];                                            \
  const alk_##name##_fn cuda_##name[ALK_DTYPES] = {__VA_ARGS__<double>, __VA_ARGS__<float>};       \
  }
#define CUDA_ANY(name, function)                                                                   \
  extern "C" {                                                                                     \
  extern const alk_##name##_fn cuda_##name;                                                        \
  const alk_##name##_fn cuda_##name = function;                                                    \
  }
/* With numbers of bf16 too. */
#define CUDA_TYPED_BF16(name, function)                                                            \
  extern "C" {                                                                                     \
  extern const alk_##name##_fn cuda_##name[ALK_DTYPES];                                            \
  const alk_##name##_fn cuda_##name[ALK_DTYPES] = {function<double>, function<float>,              \
                                                   function<bf16>};                                \
  }

/* ---- numbers --------------------------------------------------------------------------------- */

/* What a stored type is computed in. */
template <class T> struct arithmetic { typedef T type; };
template <> struct arithmetic<bf16> { typedef float type; };

/* of statistics and sums, too */
template <class T> using real_of = typename arithmetic<T>::type;

template <class T> __device__ inline typename arithmetic<T>::type load(const T *p, int64_t i) {
  return (typename arithmetic<T>::type)p[i];
}
template <class T, class S> __device__ inline void store(T *p, int64_t i, S v) { p[i] = (T)v; }

/* W numbers at once, where they lie at a multiple of their bytes: 16 bytes by GROUP. */
#define GROUP(T) (16 / (int)sizeof(T))
template <class T, int W> struct __align__(sizeof(T) * W) group { T at[W]; };
template <int W, class T> __device__ inline group<T, W> &groups(T *p, int64_t i) {
  return *(group<T, W> *)(void *)(p + i);
}
template <int W, class T> __device__ inline void load_all(const T *p, int64_t i, real_of<T> *v) {
  const group<const T, W> some = groups<W>(p, i);
  for (int k = 0; k < W; k++) v[k] = load(some.at, k);
}
template <int W, class T> __device__ inline void store_all(T *p, int64_t i, const real_of<T> *v) {
  group<T, W> some;
  for (int k = 0; k < W; k++) store(some.at, k, v[k]);
  groups<W>(p, i) = some;
}
/* Can rows of n numbers of `size` bytes at these addresses (or NULL) be taken in groups of 16
 * bytes? */
template <class... P> static inline bool grouped(int64_t n, int64_t size, P... p) {
  const uintptr_t all[] = {(uintptr_t)p...};
  uintptr_t bits = (uintptr_t)(n * size);
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) bits |= all[i];
  return bits % 16 == 0;
}
#define GRID_GROUPS(i, n, W)                                                                       \
  for (int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * (W); i < (n);                \
       i += (int64_t)gridDim.x * blockDim.x * (W))

/* a / b of what is not negative: 32 bits where they do, at a fraction of the time. */
__device__ inline int64_t quotient(int64_t a, int64_t b) {
  return ((a | b) >> 32) == 0 ? (int64_t)((uint32_t)a / (uint32_t)b) : a / b;
}

/* Where the gradient is exactly 0 nothing goes back, whatever the slope is. */
#define PASSED(g, product) ((g) == 0 ? 0 : (product))

/* ---- launches -------------------------------------------------------------------------------- */

enum { THREADS = 256, MAX_BLOCKS = 1 << 16 };
/* Blocks for n pieces of work in a loop over the grid. */
static inline unsigned blocks_for(int64_t n, int each) {
  const int64_t b = (n + each - 1) / each;
  return (unsigned)(b < 1 ? 1 : b < MAX_BLOCKS ? b : MAX_BLOCKS);
}
#define GRID_LOOP(i, n)                                                                            \
  for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < (n);                        \
       i += (int64_t)gridDim.x * blockDim.x)

/* ---- walks over strided views ---------------------------------------------------------------- */

/* Axes of 1 left out, and neighbours merged that all N operands walk through alike. */
template <int N> struct walk {
  int nd;
  int64_t size[ALK_MAX_DIMS], stride[N][ALK_MAX_DIMS];
  __device__ void offsets(int64_t index, int64_t (&at)[N]) const {
    for (int k = 0; k < N; k++) at[k] = 0;
    for (int i = nd - 1; i >= 0; i--) {
      const int64_t rest = i ? quotient(index, size[i]) : 0, x = index - rest * size[i];
      index = rest;
      for (int k = 0; k < N; k++) at[k] += x * stride[k][i];
    }
  }
};
template <int N> static walk<N> merged(const alk_view *const (&v)[N]) {
  walk<N> w = {};
  for (int i = 0; i < v[0]->ndim; i++) {
    const int64_t n = v[0]->size[i];
    if (n == 1) continue;
    bool joins = w.nd > 0;
    for (int k = 0; k < N; k++) joins = joins && w.stride[k][w.nd - 1] == v[k]->stride[i] * n;
    const int to = joins ? w.nd - 1 : w.nd++;
    w.size[to] = joins ? w.size[to] * n : n;
    for (int k = 0; k < N; k++) w.stride[k][to] = v[k]->stride[i];
  }
  return w;
}

/* ---- sums of a block's threads --------------------------------------------------------------- */

/* Joins v of the threads of each warp as a tree; all lanes get it. */
template <class T, class J> __device__ inline T warp_join(T v, J join) {
  for (int h = 16; h > 0; h >>= 1) v = join(v, __shfl_xor_sync(0xffffffffu, v, h));
  return v;
}
/* The same over a block of at most 1024 threads in one row; all threads get it, and may call it
 * again at once. */
template <class T, class J> __device__ inline T block_join(T v, T neutral, J join) {
  __shared__ T part[32];
  v = warp_join(v, join);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = (blockDim.x + 31) >> 5;
  __syncthreads();
  if (lane == 0) part[warp] = v;
  __syncthreads();
  v = lane < warps ? part[lane] : neutral;
  return warp_join(v, join);
}
struct plus {
  template <class T> __device__ T operator()(T a, T b) const { return a + b; }
};
template <class T> __device__ inline T block_sum(T v) { return block_join(v, (T)0, plus()); }

template <class T> __device__ inline T larger(T a, T b) { return b > a ? b : a; }
/* The largest of the threads' and `least`, the smallest of them and `most`. */
template <class T> __device__ inline T block_max(T v, T least) {
  return block_join(v, least, [](T a, T b) { return larger(a, b); });
}
template <class T> __device__ inline T block_min(T v, T most) {
  return block_join(v, most, [](T a, T b) { return a < b ? a : b; });
}

/* x within 0..most. */
template <class N> __device__ inline N within(int64_t x, N most) {
  return x < 0 ? 0 : x < most ? (N)x : most;
}
#endif
