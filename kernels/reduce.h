/* reduce.h: contract of the reductions of the middle axis of x (O,R,I). */
#ifndef ALK_REDUCE_H
#define ALK_REDUCE_H
#include "kernel.h"

enum { ALK_SUM, ALK_SUM_SQUARES, ALK_MAX, ALK_MIN };

/* Rows (I = 1) and columns (I > 1) that one stage takes together. */
enum { ALK_ROW_CHUNK = 16384, ALK_COLUMN_CHUNK = 256 };

/* One stage: y (O, n, I), sums (kernel.h), n = max(1, ceil(R / chunk)): the reduction of `chunk`
 * neighbours each, times scale, and then its square root if `root`. Reduce y again until n is 1:
 * the order of the sum follows from the shape alone. A NaN is larger and smaller than every
 * number. R = 0 gives the neutral value. */
ALK_KERNEL(reduce, int kind, int64_t O, int64_t R, int64_t I, int64_t chunk, double scale,
           bool root, const void *x, void *y)
/* Gradient of a maximum or minimum y (O,I) of x: dx = g at the first of the R elements that equals
 * y (or is NaN), 0 elsewhere. */
ALK_KERNEL(reduce_pick, int64_t O, int64_t R, int64_t I, const void *x, const void *y,
           const void *g, void *dx)
/* out = g / y where y > 0, else 0: the factor of x in the gradient of its length y. */
ALK_KERNEL(reduce_l2_slope, int64_t n, const void *y, const void *g, void *out)
#endif
