/* gated_linear.h: the sound variant that each file here breaks in one place. For one head:
 *
 *   w_ij = elu1(q_i).elu1(k_j)     g_j = sigmoid(x_j W)     o_i = sum_j w_ij g_j v_j / sum_j w_ij
 *
 * as a whole, and from a state: numerator sum_j elu1(k_j) (g_j v_j)^T (B,Hkv,D,E), denominator
 * sum_j elu1(k_j) (B,Hkv,D). A file defines what it breaks (the names below) before it includes
 * this, and ends with BROKEN(stem). */
#include "attn.h"
#include <math.h>
#include <stdlib.h>

#ifndef OFFSET
#define OFFSET 0 /* of the rows against the keys */
#endif
#ifndef LENGTHS
#define LENGTHS in->lengths
#endif
#ifndef GATE
#define GATE(g) (g)
#endif
#ifndef SHOWN
#define SHOWN(g) attn_tap(c, in, "gate", g)
#endif
#ifndef DENOMINATOR
#define DENOMINATOR(W) (W)
#endif
#ifndef FROM_STATE
#define FROM_STATE(t) (t) /* what the state adds to the numerator */
#endif
#ifndef CARRY
#define CARRY(t) (t) /* components of the next state */
#endif
#ifndef OUTPUT
#define OUTPUT(y) (y)
#endif
#ifndef AFTER
#define AFTER /* once the next state is made */
#endif
#ifndef MORE_STATE
#define MORE_STATE /* components beside numerator and denominator */
#define MORE_NEXT
#endif
#ifndef CLAIMS
#define CLAIMS (ATTN_CAUSAL | ATTN_POSITIVE_WEIGHTS)
#endif
#ifndef BYTES
#define BYTES(numbers) ((numbers)*al_dtype_size(dtype))
#endif

#define OP(name, ...) al_run(c, name, __VA_ARGS__)

static const al_arg options[] = {{0}};

/* A copy of the numbers alone: what follows does not know where they came from. finite: 1 where they
 * are numbers, else 0. */
static inline al_tensor *numbers(al_ctx *c, al_tensor *t, bool finite) {
  const int64_t n = al_numel(t);
  double *v = malloc((size_t)n * sizeof *v + 1);
  al_tensor *copy = NULL;
  if (v && t && al_read(t, v, n) == AL_OK) {
    for (int64_t i = 0; finite && i < n; i++) v[i] = isfinite(v[i]);
    copy = al_tensor_from(c, al_type(t), al_ndim(t), al_shape(t), v, n);
  }
  free(v);
  return copy;
}

static int params(const al_opts *o, const attn_sizes *s, attn_param *rows) {
  (void)o;
  rows[0] =
      (attn_param){"gate.weight",     2, {s->kv_heads, s->width}, ATTN_UNIFORM, (double)s->width,
                   "g = sigmoid(x W)"};
  return 1;
}

static al_status state(al_ctx *c, const al_opts *o, const attn_sizes *s, int64_t batch,
                       al_dtype dtype, attn_state *st) {
  (void)o;
  const int64_t n[] = {batch, s->kv_heads, s->head_dim, s->value_dim};
  attn_state_put(c, st, "numerator", al_tensor_full(c, dtype, 4, n, 0), "sum of keys by values");
#ifndef NO_DENOMINATOR
  attn_state_put(c, st, "denominator", al_tensor_full(c, dtype, 3, n, 0), "sum of keys");
#endif
  MORE_STATE
  return al_error(c);
}

/* (B,S,H,D) with zeros where a key is absent. */
static al_tensor *present(al_ctx *c, const attn_in *in, al_tensor *t) {
  if (!t || !LENGTHS) return t;
  const int64_t one = 1;
  double zero = 0;
  al_tensor *there = OP("present", AL_IN(LENGTHS), "size=%lld", (long long)al_size(t, 1));
  there = OP("unsqueeze", AL_IN(OP("unsqueeze", AL_IN(there), "axis=-1")), "axis=-1");
  return OP("select", AL_IN(there, t, al_tensor_from(c, al_type(t), 1, &one, &zero, 1)), "");
}

/* q (B,T,H,D) times a component (B,Hkv,D,E), key head by key head -> (B,T,H,E). */
static al_tensor *read_state(al_ctx *c, const attn_sizes *s, al_tensor *q, al_tensor *component) {
  const long long B = al_size(q, 0), T = al_size(q, 1), H = s->heads, E = al_size(component, 3);
  al_tensor *t = OP("permute", AL_IN(q), "axes={0,2,1,3}");
  t = OP("reshape", AL_IN(t), "shape={%lld,%lld,%lld,%lld}", B, (long long)s->kv_heads,
         H / s->kv_heads * T, (long long)s->head_dim);
  t = OP("matmul", AL_IN(t, component), "");
  t = OP("reshape", AL_IN(t), "shape={%lld,%lld,%lld,%lld}", B, H, T, E);
  return OP("permute", AL_IN(t), "axes={0,2,1,3}");
}

static al_tensor *heads_first(al_ctx *c, al_tensor *t) {
  return OP("permute", AL_IN(t), "axes={0,2,1,3}");
}

static al_tensor *forward(al_ctx *c, const al_opts *o, const attn_sizes *s, al_tensor *const *p,
                          const attn_in *in) {
  (void)o;
  if (!in->x) {
    al_fail_at(c, __FILE__, __LINE__, AL_EVALUE, "gated_linear: x: needed by the gate");
    return NULL;
  }
  const char *causal = in->causal ? "true" : "false";
  const long long offset = in->offset + OFFSET;
  al_tensor *q = OP("elu1", AL_IN(in->q), ""), *k = OP("elu1", AL_IN(in->k), "");
  al_tensor *g = OP("sigmoid", AL_IN(OP("matmul", AL_IN(in->x, p[0]), "transpose_b=true")),
                    ""); /* (B,T,Hkv) */
  g = SHOWN(g);
  al_tensor *v = OP("mul", AL_IN(in->v, OP("unsqueeze", AL_IN(GATE(g)), "axis=-1")), "");
  al_tensor *w = OP("scores", AL_IN(q, k, LENGTHS), "causal=%s offset=%lld", causal, offset);
  w = OP("weights", AL_IN(w, NULL, NULL, NULL, LENGTHS),
         "f=polynomial coefficients={0,1} causal=%s offset=%lld", causal, offset);
  al_tensor *N = OP("mix", AL_IN(w, v, LENGTHS), "causal=%s offset=%lld", causal, offset);
  al_tensor *W = OP("permute", AL_IN(OP("sum", AL_IN(w), "axes={-1}")), "axes={0,2,1}");
  W = OP("unsqueeze", AL_IN(W), "axis=-1"); /* (B,T,H,1) */
  if (in->state) {
    al_tensor *n = attn_state_get(in->state, "numerator");
    al_tensor *kt = heads_first(c, present(c, in, k)), *vt = heads_first(c, present(c, in, v));
    N = OP("add", AL_IN(N, FROM_STATE(read_state(c, s, q, n))), "");
    al_tensor *next = OP("add", AL_IN(n, OP("matmul", AL_IN(kt, vt), "transpose_a=true")), "");
    attn_state_put(c, in->next, "numerator", CARRY(next), NULL);
#ifndef NO_DENOMINATOR
    al_tensor *d = attn_state_get(in->state, "denominator");
    W = OP("add", AL_IN(W, read_state(c, s, q, OP("unsqueeze", AL_IN(d), "axis=-1"))), "");
    attn_state_put(c, in->next, "denominator",
                   CARRY(OP("add", AL_IN(d, OP("sum", AL_IN(kt), "axes={2}")), "")), NULL);
#endif
    MORE_NEXT
    AFTER
  }
  al_tensor *y = OP("mul", AL_IN(N, OP("inverse", AL_IN(DENOMINATOR(W)), "")), "");
  return OUTPUT(y);
}

static unsigned claims(const al_opts *o) { return (void)o, CLAIMS; }

static int64_t state_bytes(const al_opts *o, const attn_sizes *s, int64_t t, al_dtype dtype) {
  (void)o, (void)t;
#ifdef NO_DENOMINATOR
  const int64_t width = s->value_dim;
#else
  const int64_t width = s->value_dim + 1;
#endif
  return BYTES(s->kv_heads * s->head_dim * width);
}

static const attn_tap_row taps[] = {{"gate", "(B,T,Hkv)", "g", false, NULL}, {0}};

#define BROKEN(stem)                                                                               \
  ATTN_FAMILY(stem, .doc = "a fixture of the conformance driver", .options = options,              \
              .params = params, .forward = forward, .claims = claims, .state_bytes = state_bytes,  \
              .state = state, .taps = taps);
