/* rope.cu: rotary position embedding (contract: ../rope.h). A thread turns pairs of its own, so y
 * may be x.
 *
 * Floor: 2 numbers read and written, forward and backward; the table comes from the cache. Share
 * of a copy's rate (cuda.cuh), bf16 and f32: forward 1.0 and .81, backward .54 and .81. */
#include "cuda.cuh"
extern "C" {
#include "../rope.h"
}

template <class T>
static __global__ void angles(real_of<T> *table, int64_t steps, int64_t n, alk_rope_law law,
                              int64_t offset) {
  GRID_LOOP(u, steps * n) {
    const double f = alk_rope_frequency(&law, u % n, n);
    double s, c;
    sincos((double)(offset + u / n) * f, &s, &c);
    table[2 * u] = (real_of<T>)(law.size * c);
    table[2 * u + 1] = (real_of<T>)(law.size * s);
  }
}
template <class T>
static alk_status rope_table(const alk_place *at, void *table, int64_t steps, int64_t n,
                             const alk_rope_law *law, int64_t offset) {
  if (steps * n == 0) return ALK_OK;
  angles<T><<<blocks_for(steps * n, THREADS), THREADS, 0, stream_of(at)>>>((real_of<T> *)table,
                                                                           steps, n, *law, offset);
  return launched();
}
CUDA_TYPED_BF16(rope_table, rope_table)

/* A thread turns W pairs, or copies W channels behind them; pairs 2i, 2i + 1 one by one. */
template <class T, int W>
static __global__ void turn(alk_rope_task k, const real_of<T> *table, int64_t B, int64_t steps,
                            int64_t D, int64_t n, bool interleaved, real_of<T> sign) {
  typedef real_of<T> real;
  const int64_t each = (D - n) / W; /* n pairs, and the channels behind them */
  GRID_LOOP(u, B * steps * k.H * each) {
    const int64_t rh = quotient(u, each), i = (u - rh * each) * W, r = quotient(rh, k.H),
                  h = rh - r * k.H, b = quotient(r, steps), t = r - b * steps;
    const T *from = (const T *)k.x + b * k.stride[0] + t * k.stride[1] + h * k.stride[2];
    T *to = (T *)k.y + rh * D;
    real x[W], z[W];
    if (i >= n) {
      load_all<W>(from, n + i, x);
      store_all<W>(to, n + i, x);
      continue;
    }
    const int64_t first = interleaved ? 2 * i : i, second = interleaved ? 2 * i + 1 : i + n;
    load_all<W>(from, first, x);
    load_all<W>(from, second, z);
    for (int l = 0; l < W; l++) {
      const real c = table[(t * n + i + l) * 2], s = sign * table[(t * n + i + l) * 2 + 1],
                 a = x[l];
      x[l] = a * c - z[l] * s;
      z[l] = z[l] * c + a * s;
    }
    store_all<W>(to, first, x);
    store_all<W>(to, second, z);
  }
}
template <class T>
static alk_status rope(const alk_place *at, const alk_rope_task *tasks, int n_tasks,
                       const void *table, int64_t B, int64_t steps, int64_t D, int64_t n,
                       bool interleaved, bool back) {
  const int W = GROUP(T);
  for (int k = 0; k < n_tasks; k++) {
    const alk_rope_task *t = &tasks[k];
    const bool wide = !interleaved && D % W == 0 && n % W == 0 && t->stride[0] % W == 0 &&
                      t->stride[1] % W == 0 && t->stride[2] % W == 0 && grouped(0, 0, t->x, t->y);
    const int64_t total = B * steps * t->H * (D - n) / (wide ? W : 1);
    auto run = wide ? turn<T, GROUP(T)> : turn<T, 1>;
    if (total)
      run<<<blocks_for(total, THREADS), THREADS, 0, stream_of(at)>>>(
          *t, (const real_of<T> *)table, B, steps, D, n, interleaved, (real_of<T>)(back ? -1 : 1));
  }
  return launched();
}
CUDA_TYPED_BF16(rope, rope)
