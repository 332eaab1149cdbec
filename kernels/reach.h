/* reach.h: which rows of results a gradient reaches, and rows of numbers without what nobody asks
 * for. A product with a gradient of 0 would turn what such a row holds, a NaN say, into a NaN of
 * everything that it is summed with.
 *
 * A row is an entry of the first `rows` axes of a view, with all that the other axes hold.
 */
#ifndef ALK_REACH_H
#define ALK_REACH_H
#include "kernel.h"

/* reached[r] |= is any number of row r of the gradient g other than 0? Rows in row-major order. A
 * row ends at its first such number. Returns whether all rows are reached. */
ALK_ANSWER(reach, bool, (const alk_view *g, int rows, bool *reached))
/* Does a row of x that is not reached hold what is not finite? */
ALK_ANSWER(reach_dirty, bool, (const alk_view *x, int rows, const bool *reached))
/* y (packed, of x's shape) = x, but 0 in each row that is not reached; y may be a packed x. */
ALK_KERNEL(reach_clean, const alk_view *x, int rows, const bool *reached, void *y)
#endif
