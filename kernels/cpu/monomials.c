/* monomials.c: monomials of all orders of one vector, order from order (contract: ../monomials.h).
 *
 * Orders lie one after another, order n at starts(n). The block of first index a in order n is x_a
 * times the tail of order n-1 that begins with its block of a; all loops run over such tails, which
 * are contiguous. The same walk backwards gives the gradient.
 */
#include "monomials.h"

#include <string.h>

typedef ALK_REAL real;
enum { LANES = 32 }; /* of a sum: its order is the same for every instruction set */

/* Length of the tail of order n that starts with first index a: the monomials of D - a
 * variables. */
static int64_t tail(int64_t D, int64_t a, int n) { return alk_monomials(D - a, n); }

/* Length of the tail of the next first index, from that of one that has d variables. */
static int64_t shorter(int64_t d, int n, int64_t count) {
  return n == 0 ? 1 : n == 1 ? d - 1 : count * (d - 1) / (d + n - 1);
}

/* to = f x */
static void multiply(int64_t n, real f, const real *restrict x, real *restrict to) {
  for (int64_t i = 0; i < n; i++) to[i] = f * x[i];
}

/* Order n (to) from order n-1 (from). */
static void next_order(int64_t D, int n, const real *x, const real *from, real *to) {
  const int64_t all = tail(D, 0, n - 1);
  int64_t count = all;
  for (int64_t a = 0; a < D; a++) {
    multiply(count, x[a], from + all - count, to);
    to += count;
    count = shorter(D - a, n - 1, count);
  }
}

alk_status ALK_NAME(monomial_weights)(const alk_place *place, int64_t D, int n_coefficients,
                                      const double *coefficients, void *vw, void *room) {
  real *w = vw;
  const int top = alk_orders(n_coefficients, coefficients) - 1;
  double *from = room, *to = room;
  for (int n = 0; n <= top; n++, from = to, to += tail(D, 0, n - 1)) {
    if (n == 0) to[0] = 1;
    double *at = to;
    for (int64_t a = 0; n > 0 && a < D; a++) {
      const int64_t count = tail(D, a, n - 1);
      const double *rest = from + tail(D, 0, n - 1) - count;
      /* one index a more: n places for it, but it is the same index as the r that are there. With
       * at least r of them: a prefix of the rest */
      for (int r = n - 1; r >= 0; r--) {
        const int64_t i0 = r + 1 < n ? tail(D, a, n - 2 - r) : 0, i1 = tail(D, a, n - 1 - r);
        const double factor = (double)n / (r + 1);
        for (int64_t i = i0; i < i1; i++) at[i] = rest[i] * factor;
      }
      at += count;
    }
    const int64_t count = tail(D, 0, n);
    for (int64_t i = 0; coefficients[n] != 0 && i < count; i++)
      w[i] = (real)(coefficients[n] * to[i]);
    if (coefficients[n] != 0) w += count;
  }
  return ALK_OK;
}

void ALK_NAME(monomial_row)(int64_t D, int n_coefficients, const double *coefficients,
                            const void *x, void *vm, void *vroom) {
  real *m = vm, *room = vroom, *from = NULL;
  const int top = alk_orders(n_coefficients, coefficients) - 1;
  for (int n = 0; n <= top; n++) {
    const int64_t count = tail(D, 0, n);
    real **at = coefficients[n] != 0 ? &m : &room, *to = *at;
    if (n == 0) to[0] = 1;
    else next_order(D, n, x, from, to);
    from = to;
    *at += count;
  }
}

/* d(from) += and dx += what order n, with gradient dto, leaves on order n-1 and on x. */
static void next_order_bwd(int64_t D, int n, const real *x, const real *from, const real *dto,
                           real *dfrom, real *dx) {
  const int64_t all = tail(D, 0, n - 1);
  int64_t count = all;
  for (int64_t a = 0; a < D; a++) {
    const real *rest = from + all - count, f = x[a];
    real *drest = dfrom + all - count;
    real lane[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
      for (int l = 0; l < LANES; l++) {
        lane[l] += dto[i + l] * rest[i + l];
        drest[i + l] += dto[i + l] * f;
      }
    for (; i < count; i++) {
      lane[0] += dto[i] * rest[i];
      drest[i] += dto[i] * f;
    }
    for (int l = 1; l < LANES; l++) lane[0] += lane[l];
    dx[a] += lane[0];
    dto += count;
    count = shorter(D - a, n - 1, count);
  }
}

void ALK_NAME(monomial_row_bwd)(int64_t D, int n_coefficients, const double *coefficients,
                                const void *x, const void *vdm, void *dx, void *vroom) {
  const real *dm = vdm;
  const int top = alk_orders(n_coefficients, coefficients) - 1;
  if (top < 0) return;
  const int64_t before_top = top > 0 ? alk_monomial_room(D, top) : 0;
  real *m = vroom, *dall = m + alk_monomial_room(D, top + 1);
  m[0] = 1;
  for (int64_t n = 0, at = 0; n <= top; n++) { /* all orders, and the gradients that come in */
    const int64_t count = tail(D, 0, (int)n);
    if (n < top) next_order(D, (int)n + 1, x, m + at, m + at + count);
    if (coefficients[n] != 0) {
      memcpy(dall + at, dm, (size_t)count * sizeof *dm);
      dm += count;
    } else {
      memset(dall + at, 0, (size_t)count * sizeof *dm);
    }
    at += count;
  }
  for (int64_t n = top, at = before_top; n > 0; n--) {
    const int64_t from = at - tail(D, 0, (int)n - 1);
    next_order_bwd(D, (int)n, x, m + from, dall + at, dall + from, dx);
    at = from;
  }
}
