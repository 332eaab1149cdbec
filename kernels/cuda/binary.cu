/* binary.cu: every entry of ../binary.def over broadcast operands (contract: ../binary.h); packed
 * ones 16 bytes at a time.
 *
 * Floor: 3 numbers read and written, 4 for a gradient. Share of a copy's rate (cuda.cuh) of packed
 * add: 1.35 in bf16, 1.10 in f32. Not measured: gradients, broadcast operands. */
#include "functions.cuh"
extern "C" {
#include "../binary.h"
}

#define BINARY(name, value, da, db, ...)                                                           \
  template <class real>                                                                            \
  static __device__ inline real name##_part(int part, real a, real b, real g) {                    \
    if (part == ALK_BIN_VALUE) return value;                                                       \
    return part == ALK_BIN_DA ? PASSED(g, da) : PASSED(g, db);                                     \
  }
#include "../binary.def"
#undef BINARY

template <class T>
static __global__ void parts(int op, int part, walk<2> w, int64_t n, const T *a, const T *b,
                             const T *g, T *y) {
  typedef typename arithmetic<T>::type real;
  GRID_LOOP(i, n) {
    int64_t at[2];
    w.offsets(i, at);
    const real x = load(a, at[0]), z = load(b, at[1]), d = g ? load(g, i) : 0;
    real v = 0;
    switch (op) {
#define BINARY(name, ...)                                                                          \
  case ALK_BIN_##name:                                                                             \
    v = name##_part<real>(part, x, z, d);                                                          \
    break;
#include "../binary.def"
#undef BINARY
    }
    store(y, i, v);
  }
}

/* Of packed operands, W at a time. */
template <class T, int W>
static __global__ void packed_parts(int op, int part, int64_t n, const T *a, const T *b, const T *g,
                                    T *y) {
  typedef real_of<T> real;
  GRID_GROUPS(i, n, W) {
    real x[W], z[W], d[W] = {};
    load_all<W>(a, i, x);
    load_all<W>(b, i, z);
    if (g) load_all<W>(g, i, d);
    switch (op) {
#define BINARY(name, ...)                                                                          \
  case ALK_BIN_##name:                                                                             \
    for (int k = 0; k < W; k++) x[k] = name##_part<real>(part, x[k], z[k], d[k]);                  \
    break;
#include "../binary.def"
#undef BINARY
    }
    store_all<W>(y, i, x);
  }
}

template <class T>
static alk_status binary(const alk_place *at, int op, int part, const alk_view *a,
                         const alk_view *b, const void *g, void *y) {
  const int64_t n = alk_numel(a);
  if (n == 0) return ALK_OK;
  const alk_view *const both[2] = {a, b};
  const walk<2> w = merged(both);
  if (w.nd == 1 && w.stride[0][0] == 1 && w.stride[1][0] == 1 &&
      grouped(n, sizeof(T), a->data, b->data, g, y))
    packed_parts<T, GROUP(T)><<<blocks_for(n, THREADS * GROUP(T)), THREADS, 0, stream_of(at)>>>(
        op, part, n, (const T *)a->data, (const T *)b->data, (const T *)g, (T *)y);
  else
    parts<T><<<blocks_for(n, THREADS), THREADS, 0, stream_of(at)>>>(
        op, part, w, n, (const T *)a->data, (const T *)b->data, (const T *)g, (T *)y);
  return launched();
}
CUDA_TYPED_BF16(binary, binary)
