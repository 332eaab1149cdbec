/* rope.h: rotary position embedding: pairs of channels turned by an angle that grows with the
 * position. table (T,n,2) = cos, sin of (offset + t) base^(-2i/dims) for pair i of n = dims/2. */
#ifndef ALK_ROPE_H
#define ALK_ROPE_H
#include "kernel.h"

/* Angles are formed in double: at position 100,000 an f32 angle would be off by 4e-3. */
ALK_KERNEL(rope_table, void, (void *table, int64_t T, int64_t n, double base, int64_t offset))

/* y (B,T,H,D) packed; x has strides[3] for b, t, h and adjacent channels. Pairs are (i, i + n), or
 * (2i, 2i+1) when interleaved; channels from 2n on are copied. back: turns the other way, which is
 * the gradient. */
ALK_KERNEL(rope, void,
           (void *y, const void *x, const int64_t *strides, const void *table, int64_t B, int64_t T,
            int64_t H, int64_t D, int64_t n, bool interleaved, bool back))
#endif
