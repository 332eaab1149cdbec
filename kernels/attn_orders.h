/* attn_orders.h: polynomial weights f(s) = sum c_n s^n: how many orders there are, and which of
 * them a state of monomials (monomials.h) holds in an element type.
 */
#ifndef ALK_ATTN_ORDERS_H
#define ALK_ATTN_ORDERS_H
#include <math.h>
#include <stdbool.h>
#include <stdint.h>

enum { ALK_MAX_ORDER = 127, ALK_MAX_COEFFICIENTS = ALK_MAX_ORDER + 1 };

/* Channels of queries and keys that a state must bear are up to 2^5: trained ones reach 20. */
enum { ALK_HELD_CHANNEL = 5 };

/* log2 of the largest multiplicity of a monomial of order n, whose indices are spread evenly. */
static inline double alk_most_alike(int64_t D, int n) {
  if (n < 2 || D < 2) return 0;
  const int64_t each = n / D, more = n % D;
  return (lgamma(n + 1.0) - (double)(D - more) * lgamma((double)each + 1) -
          (double)more * lgamma((double)each + 2)) /
         log(2);
}

/* Does a state of elements of `size` bytes, 4 or 8, hold order n of these weights for vectors of D
 * channels? The factor c scale^n and its parts must be normal numbers, and finite times the
 * multiplicity of a monomial, the product of n channels, and both; of the lowest order, next to
 * which the others vanish, the product must be normal for channels down to 2^-5 as well. A scale of
 * 0 has no order to hold but 0. All is compared by its log2. */
static inline bool alk_order_held(int64_t D, int n, double c, double scale, bool lowest,
                                  int64_t size) {
  if (n > 0 && scale == 0) return true;
  const double most = size > 4 ? 1022 : 126, channels = ALK_HELD_CHANNEL * n,
               factor = log2(fabs(c)), power = n > 0 ? n * log2(fabs(scale)) : 0,
               multiplicity = alk_most_alike(D, n);
  const double low = fmin(fmin(factor, power), factor + power - (lowest ? channels : 0)),
               high = fmax(fmax(factor, power), fmax(factor + power, 0));
  return low >= -most && high + multiplicity <= most && channels <= most &&
         factor + power + multiplicity + channels <= most;
}

/* The first order with a coefficient that is not held, or -1. */
static inline int alk_not_held(int64_t D, int n_coefficients, const double *coefficients,
                               double scale, int64_t size) {
  bool lowest = true;
  for (int n = 0; n < n_coefficients; n++) {
    if (coefficients[n] == 0) continue;
    if (!alk_order_held(D, n, coefficients[n], scale, lowest, size)) return n;
    lowest = false;
  }
  return -1;
}
#endif
