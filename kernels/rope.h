/* rope.h: rotary position embedding: pairs of channels turned by an angle that grows with the
 * position. table (T,n,2), statistics (kernel.h), = size cos, size sin of (offset + t) f_i for pair
 * i of n = dims/2. */
#ifndef ALK_ROPE_H
#define ALK_ROPE_H
#include "kernel.h"
#include <math.h>

/* f_i = g (e + (1 - e)/factor), g = base^(-i/n), e = at + by_pair i + by_frequency g within 0..1: a
 * pair is slowed down by `factor` where e is 0 and kept where it is 1. */
typedef struct alk_rope_law {
  double base, factor, at, by_pair, by_frequency, size;
} alk_rope_law;

static inline ALK_BOTH double alk_rope_frequency(const alk_rope_law *law, int64_t i, int64_t n) {
  const double g = pow(law->base, -(double)i / (double)n),
               e = law->at + law->by_pair * (double)i + law->by_frequency * g,
               kept = e < 0   ? 0
                      : e > 1 ? 1
                              : e;
  return g * (kept + (1 - kept) / law->factor);
}

/* Angles are formed in double: at position 100,000 an f32 angle would be off by 4e-3. */
ALK_KERNEL(rope_table, void *table, int64_t T, int64_t n, const alk_rope_law *law, int64_t offset)

/* One tensor to turn: y (B,T,H,D) packed; x with adjacent channels, or y itself. */
typedef struct alk_rope_task {
  void *y;
  const void *x;
  int64_t stride[3]; /* of x for b, t, h */
  int64_t H;
} alk_rope_task;

/* Turns n_tasks tensors of one B, T and D. Pairs are (i, i + n), or (2i, 2i+1) when interleaved;
 * channels from 2n on are copied. back: turns the other way, which is the gradient. */
ALK_KERNEL(rope, const alk_rope_task *tasks, int n_tasks, const void *table, int64_t B, int64_t T,
           int64_t D, int64_t n, bool interleaved, bool back)
#endif
