/* solve_lower.h: contract of the unit lower triangular solve, `count` independent systems.
 *
 * L (count,C,C): only what lies strictly below the diagonal is read; b, x (count,C,E). */
#ifndef ALK_SOLVE_LOWER_H
#define ALK_SOLVE_LOWER_H
#include "kernel.h"

/* x = (I + L)^-1 b, row by row: row t reads no later row of L or b. */
ALK_KERNEL(solve_lower_fwd, int64_t count, int64_t C, int64_t E, const void *L, const void *b,
           void *x)

/* db = (I + L)^-T dx and, where dL is not NULL, dL = -db x^T below the diagonal, 0 elsewhere. */
ALK_KERNEL(solve_lower_bwd, int64_t count, int64_t C, int64_t E, const void *L, const void *x,
           const void *dx, void *db, void *dL)
#endif
