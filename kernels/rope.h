/* rope.h: rotary position embedding: pairs of channels turned by an angle that grows with the
 * position. table (T,n,2), statistics (kernel.h), = cos, sin of (offset + t) base^(-2i/dims) for
 * pair i of n = dims/2. */
#ifndef ALK_ROPE_H
#define ALK_ROPE_H
#include "kernel.h"

/* Angles are formed in double: at position 100,000 an f32 angle would be off by 4e-3. */
ALK_KERNEL(rope_table, void *table, int64_t T, int64_t n, double base, int64_t offset)

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
