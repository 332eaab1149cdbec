/* chunked_fwd.cu: forward of attention with polynomial weights by states (contract: ../chunked.h;
 * the passes: states.cuh). Plain f32 or f64: no tensor cores.
 *
 * For segments of L tokens (about R, 64 to 8192), multiply-adds a token and head: 2 R E for the
 * state and up to L (D + E) / 2 + 64 of pairs. Bytes: q, k, v and y once each, k and v once more,
 * R E / L numbers of state four times; a map adds two passes over q and k. Floor: the
 * multiply-adds at the card's FMA rate, at R <= 2080, E = 64 far above the bytes; share of it: not
 * measured. */
#include "states_fwd.cuh"

template <class T>
static int64_t states_room(const alk_place *at, const alk_attn_spec *a, const double *kept) {
  (void)at;
  const orders o = orders_of(a->D, a->weight.n_coefficients, kept, a->scale);
  const alk_lines n = lines_of(a, features_of(o));
  return states_numbers(n, n.keys) * (int64_t)sizeof(real_of<T>);
}
CUDA_TYPED_BF16(chunked_states_room, states_room)

template <class T>
static int64_t fwd_room(const alk_place *at, const alk_attn_spec *a, const double *kept) {
  typedef real_of<T> A;
  (void)at;
  const orders o = orders_of(a->D, a->weight.n_coefficients, kept, a->scale);
  cutter c = {};
  cut_common<T, A>(&c, a, lines_of(a, features_of(o)), &o);
  return c.used;
}
CUDA_TYPED_BF16(chunked_fwd_room, fwd_room)

template <class T>
static alk_status fwd(const alk_place *at, const alk_attn_spec *a, const alk_chunked_in *in,
                      const alk_chunked_out *out, void *scratch) {
  typedef real_of<T> A;
  const int n_orders = a->weight.n_coefficients;
  const orders o = orders_of(a->D, n_orders, in->kept, a->scale);
  alk_lines n = lines_of(a, features_of(o));
  n.sums = (const double *)in->sums;
  cutter c = {(char *)scratch, 0};
  const common_room<A> r = cut_common<T, A>(&c, a, n, &o);
  const cudaStream_t s = stream_of(at);
  const given<T, A> x = fill_common<T, A>(s, a, n, r, &o, in->q, in->k, in->v, in->b);
  forward<T, A, monomials<A>>(s, x, r.m, {(const A *)in->state, (const A *)in->norm},
                              {(A *)out->state, (A *)out->norm}, (A *)out->states, (T *)out->y,
                              (A *)out->W);
  return launched();
}
CUDA_TYPED_BF16(chunked_fwd, fwd)
