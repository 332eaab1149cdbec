/* linear.cu: linear attention by states (contract: ../linear.h; the passes: states.cuh). Features
 * are the channels. Plain: f32 and f64 units, a slice of shared memory at a time, no tensor cores,
 * nothing asynchronous.
 *
 * A token and head, D = E = 64, segments of 64, in products of 2 D E = 8192 FLOPs: forward 4, of
 * two of them half for nothing above the diagonal; backward 10. Bytes in f32: forward the floor of
 * 4 x 256, k and v once more, 4 x 260 of states and, where there is a map, 4 x 256; backward twice
 * its floor of 8 x 256, and 6 x 260 of states. At 3 TB/s and 60 TFLOP/s of f32 the forward's
 * floors are 0.34 ns (bytes) and 0.55 ns (FLOPs), the backward's 0.68 and 1.4; shared memory
 * limits a step of the inner loop to about half of that rate. Share of the floor: not measured. */
#include "states_bwd.cuh"
#include "states_fwd.cuh"

template <class T> static int64_t states_room(const alk_place *at, const alk_attn_spec *a) {
  (void)at;
  const alk_lines n = lines_of(a, a->D);
  return states_numbers(n, n.keys) * (int64_t)sizeof(real_of<T>);
}
CUDA_TYPED_BF16(linear_states_room, states_room)

template <class T> static int64_t fwd_room(const alk_place *at, const alk_attn_spec *a) {
  typedef real_of<T> A;
  (void)at;
  cutter c = {};
  cut_common<T, A>(&c, a, lines_of(a, a->D), NULL);
  return c.used;
}
CUDA_TYPED_BF16(linear_fwd_room, fwd_room)

template <class T>
static alk_status fwd(const alk_place *at, const alk_attn_spec *a, const void *q, const void *k,
                      const void *v, const void *b, const void *sums, void *y, void *W,
                      void *states, void *scratch) {
  typedef real_of<T> A;
  alk_lines n = lines_of(a, a->D);
  n.sums = (const double *)sums;
  cutter c = {(char *)scratch, 0};
  const common_room<A> r = cut_common<T, A>(&c, a, n, NULL);
  const cudaStream_t s = stream_of(at);
  const given<T, A> x = fill_common<T, A>(s, a, n, r, NULL, q, k, v, b);
  forward<T, A, channels<A>>(s, x, {(A)a->scale}, {NULL, NULL}, {NULL, NULL}, (A *)states, (T *)y,
                             (A *)W);
  return launched();
}
CUDA_TYPED_BF16(linear_fwd, fwd)

template <class T> static int64_t bwd_room(const alk_place *at, const alk_attn_spec *a) {
  typedef real_of<T> A;
  (void)at;
  cutter c = {};
  cut_common<T, A>(&c, a, lines_of(a, a->D), NULL);
  cut_slopes<A>(&c, lines_of(a, a->D), 0);
  return c.used;
}
CUDA_TYPED_BF16(linear_bwd_room, bwd_room)

template <class T>
static alk_status bwd(const alk_place *at, const alk_attn_spec *a, const alk_linear_grad *t,
                      void *scratch) {
  typedef real_of<T> A;
  alk_lines n = lines_of(a, a->D);
  n.sums = (const double *)t->sums;
  cutter c = {(char *)scratch, 0};
  const common_room<A> r = cut_common<T, A>(&c, a, n, NULL);
  const slopes_room<A> more = cut_slopes<A>(&c, n, 0);
  const cudaStream_t s = stream_of(at);
  slopes<T, A> x = {fill_common<T, A>(s, a, n, r, NULL, t->q, t->k, t->v, t->b)};
  x.dy = (const T *)t->dy, x.states = (const A *)t->states;
  x.dq = (A *)t->dq, x.dk = (A *)t->dk, x.dv = (A *)t->dv;
  gradients<A> g = {t->q,
                    t->k,
                    t->y,
                    (const A *)t->W,
                    (const A *)t->dW,
                    (A *)t->db,
                    (A *)t->ddecay,
                    (double *)t->steps};
  backward<T, A, channels<A>>(s, a->map, x, {(A)a->scale}, more, g);
  return launched();
}
CUDA_TYPED_BF16(linear_bwd, bwd)
