/* monomials.h: the features of a polynomial weight, in the symmetric basis.
 *
 *   sum_n c_n (x.y)^n = sum_r w_r m_r(x) m_r(y)
 *
 * m_r are the monomials of the kept orders (c_n != 0), orders ascending; of one order n the
 * C(D+n-1, n) products x_a1 .. x_an with a1 <= .. <= an, in lexicographic order. w_r is c_n times
 * the number of index tuples that give the same product, n! / prod (multiplicity of each index)!.
 * Order n follows from order n-1: the block of a first index a is x_a times the tail of order n-1
 * whose first index is at least a, and that tail is contiguous.
 */
#ifndef ALK_MONOMIALS_H
#define ALK_MONOMIALS_H
#include "kernel.h"

/* C(D+n-1, n); INT64_MAX where it, or a product on the way, does not fit. */
static inline ALK_BOTH int64_t alk_monomials(int64_t D, int n) {
  int64_t r = 1;
  for (int k = 1; k <= n; k++) {
    if (r > INT64_MAX / (D + k)) return INT64_MAX;
    r = r * (D + k - 1) / k;
  }
  return r;
}
/* Features of all kept orders. */
static inline int64_t alk_features(int64_t D, int n_coefficients, const double *coefficients) {
  int64_t r = 0;
  for (int n = 0; n < n_coefficients; n++) {
    const int64_t more = coefficients[n] != 0 ? alk_monomials(D, n) : 0;
    if (more > INT64_MAX - r) return INT64_MAX;
    r += more;
  }
  return r;
}

/* Coefficients up to the last one that is not 0. */
static inline int alk_orders(int n_coefficients, const double *coefficients) {
  while (n_coefficients > 0 && coefficients[n_coefficients - 1] == 0) n_coefficients--;
  return n_coefficients;
}

/* Elements of `room` for one row: the monomials of orders 0 .. n_coefficients - 1, kept or not;
 * what stands after the last order that is kept needs no room. */
static inline int64_t alk_monomial_room(int64_t D, int n_coefficients) {
  return n_coefficients < 1 ? 0 : alk_monomials(D + 1, n_coefficients - 1);
}

/* w (R) of coefficients c_0 .. c_{n-1}; room in double, whatever w is. */
ALK_KERNEL(monomial_weights, int64_t D, int n_coefficients, const double *coefficients, void *w,
           void *room)
#endif
