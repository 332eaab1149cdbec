/* monomials.h: the monomials of one row (../monomials.h), for the step and the tests. Of the
 * coefficients only which are zero is read. */
#ifndef ALK_CPU_MONOMIALS_H
#define ALK_CPU_MONOMIALS_H
#include "../monomials.h"

/* m (R) of x (D). */
ALK_PART(monomial_row, void,
         (int64_t D, int n_coefficients, const double *coefficients, const void *x, void *m,
          void *room))
/* dx (D) += (dm/dx)^T dm. room: twice that of a row. */
ALK_PART(monomial_row_bwd, void,
         (int64_t D, int n_coefficients, const double *coefficients, const void *x, const void *dm,
          void *dx, void *room))
#endif
