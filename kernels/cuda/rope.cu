/* rope.cu: contract ../rope.h. A thread turns one pair, so y may be x. */
#include "cuda.cuh"
extern "C" {
#include "../rope.h"
}

template <class T>
static __global__ void angles(real_of<T> *table, int64_t steps, int64_t n, double base,
                              int64_t offset) {
  GRID_LOOP(u, steps * n) {
    const double f = pow(base, -(double)(u % n) / (double)n);
    double s, c;
    sincos((double)(offset + u / n) * f, &s, &c);
    table[2 * u] = (real_of<T>)c;
    table[2 * u + 1] = (real_of<T>)s;
  }
}
template <class T>
static alk_status rope_table(const alk_place *at, void *table, int64_t steps, int64_t n,
                             double base, int64_t offset) {
  if (steps * n == 0) return ALK_OK;
  angles<T><<<blocks_for(steps * n, THREADS), THREADS, 0, stream_of(at)>>>((real_of<T> *)table,
                                                                           steps, n, base, offset);
  return launched();
}
CUDA_TYPED_BF16(rope_table, rope_table)

template <class T>
static __global__ void turn(alk_rope_task k, const real_of<T> *table, int64_t B, int64_t steps,
                            int64_t D, int64_t n, bool interleaved, real_of<T> sign) {
  typedef real_of<T> real;
  const int64_t each = D - n; /* n pairs, and the channels behind them */
  GRID_LOOP(u, B * steps * k.H * each) {
    const int64_t i = u % each, h = u / each % k.H, r = u / each / k.H, b = r / steps,
                  t = r % steps;
    const T *from = (const T *)k.x + b * k.stride[0] + t * k.stride[1] + h * k.stride[2];
    T *to = (T *)k.y + (r * k.H + h) * D;
    if (i >= n) {
      to[n + i] = from[n + i];
      continue;
    }
    const int64_t first = interleaved ? 2 * i : i, second = interleaved ? 2 * i + 1 : i + n;
    const real c = table[(t * n + i) * 2], s = sign * table[(t * n + i) * 2 + 1];
    const real a = load(from, first), z = load(from, second);
    store(to, first, a * c - z * s);
    store(to, second, z * c + a * s);
  }
}
template <class T>
static alk_status rope(const alk_place *at, const alk_rope_task *tasks, int n_tasks,
                       const void *table, int64_t B, int64_t steps, int64_t D, int64_t n,
                       bool interleaved, bool back) {
  for (int k = 0; k < n_tasks; k++) {
    const int64_t total = B * steps * tasks[k].H * (D - n);
    if (total)
      turn<T><<<blocks_for(total, THREADS), THREADS, 0, stream_of(at)>>>(
          tasks[k], (const real_of<T> *)table, B, steps, D, n, interleaved,
          (real_of<T>)(back ? -1 : 1));
  }
  return launched();
}
CUDA_TYPED_BF16(rope, rope)
