/* lengths.h: arithmetic on lengths, counts and positions, which are i32 whatever the place's type
 * is: every build of these kernels is the same. */
#ifndef ALK_LENGTHS_H
#define ALK_LENGTHS_H
#include "kernel.h"

/* y = a + b + by, kept within lo..hi, over views of one shape (strides of 0 repeat); b without data
 * reads as 0. The sum itself is exact. lo, hi are i32. */
ALK_KERNEL(add_i32, const alk_view *a, const alk_view *b, int64_t by, int64_t lo, int64_t hi,
           const alk_view *y)
/* y (n,rows,size) = 1 where j < lengths[n] and j <= i + size - rows, else 0. */
ALK_KERNEL(present, int64_t n, int64_t rows, int64_t size, const void *lengths, void *y)
#endif
