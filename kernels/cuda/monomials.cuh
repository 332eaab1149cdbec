/* monomials.cuh: the features of ../monomials.h on the card: each as the channels that it
 * multiplies, with their powers, found from its number alone. */
#ifndef ALK_CUDA_MONOMIALS_CUH
#define ALK_CUDA_MONOMIALS_CUH
#include "cuda.cuh"
extern "C" {
#include "../attn_orders.h"
#include "../monomials.h"
}

/* The kept orders as a kernel's argument. */
typedef struct orders {
  int n;
  int64_t
      first[ALK_MAX_COEFFICIENTS + 1]; /* feature of an order; none where the next is the same */
  double c[ALK_MAX_COEFFICIENTS], scale;
} orders;

static inline orders orders_of(int64_t D, int n, const double *coefficients, double scale) {
  orders o = {};
  o.n = n, o.scale = scale;
  for (int i = 0; i < n; i++) {
    o.c[i] = coefficients[i];
    o.first[i + 1] = o.first[i] + (coefficients[i] != 0 ? alk_monomials(D, i) : 0);
  }
  return o;
}
static inline int64_t features_of(const orders &o) { return o.first[o.n]; }
static inline __device__ int order_of(const orders &o, int64_t r) {
  int n = 0;
  while (o.first[n + 1] <= r) n++;
  return n;
}

/* c_n scale^n */
static inline __device__ double factor_of(const orders &o, int n) {
  double c = o.c[n];
  for (int i = 0; i < n; i++) c *= o.scale;
  return c;
}

/* Gives put(channel) for each of the n indices of monomial `rank` of order n, in order. */
template <class P> static __device__ void each_index(int64_t D, int n, int64_t rank, P put) {
  int64_t low = 0;
  for (int i = 0; i < n; i++) {
    for (int64_t size; (size = alk_monomials(D - low, n - 1 - i)) <= rank; low++) rank -= size;
    put(low);
  }
}

/* A channel and its power; power 0 ends a feature's list. There are fewer channels than features,
 * of which an op takes 2^24 at most. */
typedef struct alk_power {
  uint32_t channel : 24, power : 8;
} alk_power;

/* Entries of a feature's list. */
static inline int powers_of(int64_t D, const orders &o) {
  int top = o.n - 1;
  while (top > 0 && o.first[top + 1] == o.first[top]) top--;
  return top < 1 ? 1 : top < D ? top : (int)D;
}

/* n! / prod (multiplicity of each index)!; list (K of them) may be NULL. */
static inline __device__ double fill_powers(int64_t D, int n, int64_t rank, int K,
                                            alk_power *list) {
  double w = 1;
  int at = -1, power = 0, i = 0;
  int64_t last = -1;
  each_index(D, n, rank, [&](int64_t d) {
    if (d == last) power++;
    else at++, power = 1, last = d;
    w = w * (double)++i / (double)power;
    if (!list) return;
    list[at].channel = (uint32_t)d & 0xffffffu, list[at].power = (uint32_t)power & 0xffu;
  });
  for (at++; list && at < K; at++) list[at].channel = 0, list[at].power = 0;
  return w;
}

/* The product of a list, of x [channel]. */
template <class A> static inline __device__ A monomial(int K, const alk_power *list, const A *x) {
  A y = 1;
  for (int p = 0; p < K && list[p].power; p++)
    for (int t = 0; t < (int)list[p].power; t++) y *= x[list[p].channel];
  return y;
}
/* Its derivative by the channel of entry `of`. */
template <class A>
static inline __device__ A monomial_slope(int K, const alk_power *list, int of, const A *x) {
  A y = (A)(int)list[of].power;
  for (int p = 0; p < K && list[p].power; p++)
    for (int t = p == of; t < (int)list[p].power; t++) y *= x[list[p].channel];
  return y;
}
#endif
