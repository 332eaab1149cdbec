/* monomials.cu: weights of the monomials of a polynomial (contract: ../monomials.h). Plain: a
 * thread a feature finds its indices from its number, O(D + n) counts of monomials of n steps.
 * Floor: R numbers written. Not measured: small. */
#include "monomials.cuh"

template <class A> static __global__ void weights(int64_t D, orders o, int64_t R, A *w) {
  GRID_LOOP(r, R) {
    const int n = order_of(o, r);
    w[r] = (A)(factor_of(o, n) * fill_powers(D, n, r - o.first[n], 0, (alk_power *)NULL));
  }
}
template <class T>
static alk_status monomial_weights(const alk_place *at, int64_t D, int n,
                                   const double *coefficients, void *w, void *room) {
  typedef real_of<T> A;
  (void)room;
  const orders o = orders_of(D, alk_orders(n, coefficients), coefficients, 1);
  const int64_t R = features_of(o);
  if (R == 0) return ALK_OK;
  weights<A><<<blocks_for(R, THREADS), THREADS, 0, stream_of(at)>>>(D, o, R, (A *)w);
  return launched();
}
CUDA_TYPED_BF16(monomial_weights, monomial_weights)
