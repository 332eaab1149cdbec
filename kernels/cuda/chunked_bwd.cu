/* chunked_bwd.cu: backward of attention with polynomial weights by states (contract: ../chunked.h;
 * the passes: states.cuh, states_bwd.cuh). Plain f32 or f64: no tensor cores.
 *
 * For segments of L tokens (about R, 64 to 8192), multiply-adds a token and head: 5 R E for the
 * states, of rows, of dq, of dk twice and of du, n R for the way through features of order n, once
 * a tile of channels; and up to L (5 D + 4 E) / 2 of pairs. Bytes as in linear.cu, with R E / L
 * numbers of state; where there is one segment and no state is given or wanted, none. Floor: the
 * multiply-adds at the card's FMA rate; share of it: not measured. */
#include "states_bwd.cuh"

template <class T>
static int64_t bwd_room(const alk_place *at, const alk_attn_spec *a, const double *kept) {
  typedef real_of<T> A;
  (void)at;
  const orders o = orders_of(a->D, a->weight.n_coefficients, kept, a->scale);
  const alk_lines n = lines_of(a, features_of(o));
  cutter c = {};
  cut_common<T, A>(&c, a, n, &o);
  cut_slopes<A>(&c, n, o.n);
  return c.used;
}
CUDA_TYPED_BF16(chunked_bwd_room, bwd_room)

template <class T>
static alk_status bwd(const alk_place *at, const alk_attn_spec *a, const alk_chunked_in *in,
                      const alk_chunked_grad *t, void *scratch) {
  typedef real_of<T> A;
  const orders o = orders_of(a->D, a->weight.n_coefficients, in->kept, a->scale);
  alk_lines n = lines_of(a, features_of(o));
  n.sums = (const double *)in->sums;
  cutter c = {(char *)scratch, 0};
  const common_room<A> r = cut_common<T, A>(&c, a, n, &o);
  const slopes_room<A> more = cut_slopes<A>(&c, n, o.n);
  const cudaStream_t s = stream_of(at);
  slopes<T, A> x = {fill_common<T, A>(s, a, n, r, &o, in->q, in->k, in->v, in->b)};
  x.start = {(const A *)in->state, (const A *)in->norm};
  x.end = {(const A *)t->dstate_out, (const A *)t->dnorm_out};
  x.dy = (const T *)t->dy, x.states = (const A *)t->states;
  x.dq = (A *)t->dq, x.dk = (A *)t->dk, x.dv = (A *)t->dv;
  gradients<A> g = {in->q,
                    in->k,
                    t->y,
                    (const A *)t->W,
                    (const A *)t->dW,
                    (A *)t->db,
                    (A *)t->ddecay,
                    (double *)t->steps,
                    (double *)t->dcoefficients,
                    o.n,
                    {(A *)t->dstate, (A *)t->dnorm}};
  backward<T, A, monomials<A>>(s, a->map, x, r.m, more, g);
  return launched();
}
CUDA_TYPED_BF16(chunked_bwd, bwd)
