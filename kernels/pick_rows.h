/* pick_rows.h: rows of numbers picked by number, and written back where they came from. */
#ifndef ALK_PICK_ROWS_H
#define ALK_PICK_ROWS_H
#include "kernel.h"

/* y (P,width), x (M,width), packed; ids (P) i32. Row p of y = row ids[p] - 1 of x, zeros where
 * ids[p] is 0. */
ALK_KERNEL(pick_rows, const void *x, const void *ids, int64_t P, int64_t width, void *y)
/* Row ids[p] - 1 of x += row p of y, where ids[p] is not 0; no number but 0 comes twice. */
ALK_KERNEL(pick_rows_add, const void *y, const void *ids, int64_t P, int64_t width, void *x)
#endif
