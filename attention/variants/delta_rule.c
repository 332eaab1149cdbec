/* delta_rule: a memory that each token corrects: what it holds at the key is replaced by the value.
 *
 *   S_t = a_t S_(t-1) (I - b_t k_t k_t^T) + b_t v_t k_t^T,   o_t = Norm(S_t q_t)
 *
 * q and k after feature map and normalisation, b_t from x, S (E,D) a key/value head.
 * Sources: Schlag et al. (2102.11174); DeltaNet (2406.06484), whose chunked form this is; Gated
 * DeltaNet (2412.06464) for a.
 *
 * Recurrent: the line above, token by token. Chunked: with u_t = b_t (v_t - a_t S_(t-1) k_t),
 * g_t = a_1 .. a_t and S_0 the memory before the chunk,
 *
 *   S_t = g_t S_0 + sum_{i<=t} (g_t/g_i) u_i k_i^T
 *   (I + L) U = diag(b) (V - diag(g) K S_0^T),   L_ti = b_t (g_t/g_i) k_t.k_i for i < t
 *
 * so (I + L)^-1 [diag(b) V, diag(b g) K] = [X, Y] needs no memory and is made for all chunks at
 * once, and U = X - Y S_0^T. What needs S_0 is a product a chunk. The memory is kept transposed,
 * M = S^T (D,E).
 *
 * Numerics: g_t/g_i is exp of a sum of logs over i+1..t, never a quotient. Every product over the
 * tokens of a chunk selects the past (scores, weights, solve_lower, attend); only the memory after
 * the chunk sums over all of them. Absent keys have b = 0 and a = 1. Not done: rows that are not
 * the keys' own tokens; a form without order.
 */
#include "../slots.h"
#include "variant.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const al_arg options[] = {
    {"feature_map", AL_T_WORD, "identity", ALK_MAP_ENTRIES, 0, 0, "of q and k", NULL},
    {"norm", AL_T_WORD, "l2", "l2 sum none", 0, 0,
     "q and k after the map, each head divided by its length, or by its sum", NULL},
    {"beta", AL_T_WORD | AL_T_NUM, "sigmoid", "sigmoid double_sigmoid", 0, 2,
     "b_t = sigmoid(x W), 2 sigmoid(x W), or a number", NULL},
    {"decay", AL_T_WORD, "none", "none constant learned gated", 0, 0,
     "log a_t a key/value head: ln(1 - 2^(-5-h)); -softplus(p), p = -4 at first; -softplus(x W)",
     NULL},
    {"logit_scale", AL_T_WORD | AL_T_NUM, "1", "rsqrt", -1e308, 1e308,
     "multiplies q; rsqrt: 1/sqrt(head_dim)", NULL},
    {"output_norm", AL_T_WORD, "none", "none l2 rms", 0, 0,
     "over the channels of a head; rms has a gain a channel and eps 1e-6", NULL},
    {"form", AL_T_WORD, "auto", "auto chunked recurrent", 0, 0,
     "auto: recurrent for one token, else chunked", NULL},
    {"chunk", AL_T_INT, "32", NULL, 1, 1024, "tokens of a chunk", NULL},
    {0}};

static bool is(const al_opts *o, const char *key, const char *word) {
  return al_opt_is(o, key, word);
}
static alk_map map_of(const al_opts *o) { return (alk_map)al_opt_choice(o, "feature_map"); }
static bool constant_beta(const al_opts *o) { return al_opt_kind(o, "beta") == AL_T_NUM; }
static bool reads_x(const al_opts *o) { return !constant_beta(o) || is(o, "decay", "gated"); }
static double logit_scale(const al_opts *o, const attn_sizes *s) {
  return is(o, "logit_scale", "rsqrt") ? 1 / sqrt((double)s->head_dim)
                                       : al_opt_num(o, "logit_scale");
}

static al_status check(al_ctx *c, const al_opts *o, const attn_sizes *s) {
  if (reads_x(o) && s->width < 1)
    return al_fail(c, AL_EVALUE, "delta_rule: width: needed, because beta or decay reads x");
  if (is(o, "norm", "sum") && !alk_map_text(map_of(o)).nonnegative)
    return al_fail(c, AL_EVALUE,
                   "delta_rule: norm=sum: a feature map without negative values needed, got "
                   "feature_map=%s",
                   al_opt_word(o, "feature_map"));
  return AL_OK;
}

static int params(const al_opts *o, const attn_sizes *s, attn_param *rows) {
  const int64_t Hkv = s->kv_heads, C = s->width;
  const double fan = C > 0 ? (double)C : 1;
  int n = 0;
  if (!constant_beta(o))
    rows[n++] = (attn_param){"beta.weight", 2,   {Hkv, C},
                             ATTN_UNIFORM,  fan, "how much of the old value is replaced"};
  if (is(o, "decay", "learned"))
    rows[n++] = (attn_param){"decay", 1, {Hkv}, ATTN_VALUE, -4, "log a = -softplus of it, a step"};
  if (is(o, "decay", "gated"))
    rows[n++] = (attn_param){"decay.weight", 2,   {Hkv, C},
                             ATTN_UNIFORM,   fan, "log a = -softplus(x W), a step"};
  if (is(o, "output_norm", "rms"))
    rows[n++] = (attn_param){"output_norm.gain", 1, {s->value_dim}, ATTN_ONES, 0, "one a channel"};
  return n;
}

typedef struct run {
  al_ctx *c;
  const al_opts *o;
  const attn_sizes *s;
  const attn_in *in;
  al_tensor *const *p;
  attn_param rows[ATTN_MAX_PARAMS];
  int n;
  int64_t B, T, H, Hkv, D, E;
  int64_t C, N;                 /* N chunks of C tokens */
  al_tensor *q, *k, *v, *b, *a; /* b (B,T,Hkv), a its log or NULL */
  al_tensor *M;                 /* (B,Hkv,D,E) */
} run;

#define OP(name, ...) al_run(r->c, name, __VA_ARGS__)

static al_tensor *param(const run *r, const char *name) {
  for (int i = 0; i < r->n; i++)
    if (strcmp(r->rows[i].name, name) == 0) return r->p[i];
  return NULL;
}

static al_tensor *full(const run *r, int ndim, const int64_t *shape, double value) {
  return al_tensor_full(r->c, al_type(r->in->q), ndim, shape, value);
}

/* t (B,T,...) times a factor a head (B,T,Hkv). */
static al_tensor *by_head(const run *r, al_tensor *t, al_tensor *f) {
  return OP("mul", AL_IN(t, OP("unsqueeze", AL_IN(f), "axis=-1")), "");
}

/* ---- what the formula is made of ------------------------------------------------------------- */

/* (B,T) i32, 1 where a key is present, or NULL where all are. */
static al_tensor *presence(const run *r) {
  if (!r->in->lengths) return NULL;
  return OP("present", AL_IN(r->in->lengths), "size=%lld", (long long)r->T);
}

/* t (B,T,...) where present, else 0: selected, so that what padding holds is not read. */
static al_tensor *present_only(const run *r, al_tensor *t, al_tensor *present) {
  if (!present || !t) return t;
  for (int i = 2; i < al_ndim(t); i++) present = OP("unsqueeze", AL_IN(present), "axis=-1");
  return OP("select", AL_IN(present, t, full(r, 1, (int64_t[]){1}, 0)), "");
}

static al_tensor *features(const run *r, al_tensor *t) {
  if (map_of(r->o) != ALK_MAP_identity) t = OP(alk_map_text(map_of(r->o)).word, AL_IN(t), "");
  if (is(r->o, "norm", "l2")) return OP("l2norm", AL_IN(t), "");
  if (is(r->o, "norm", "none")) return t;
  return OP("mul", AL_IN(t, OP("inverse", AL_IN(OP("sum", AL_IN(t), "axes={-1} keep=true")), "")),
            "");
}

static al_tensor *project(const run *r, al_tensor *x, const char *name) {
  return OP("matmul", AL_IN(x, param(r, name)), "transpose_b=true");
}

static al_tensor *every_token(const run *r, al_tensor *t) {
  return OP("expand", AL_IN(t), "shape={%lld,%lld,%lld}", (long long)r->B, (long long)r->T,
            (long long)r->Hkv);
}

/* log a (B,T,Hkv), or NULL */
static al_tensor *log_decay(const run *r, al_tensor *x) {
  if (is(r->o, "decay", "none")) return NULL;
  if (is(r->o, "decay", "gated"))
    return OP("neg", AL_IN(OP("softplus", AL_IN(project(r, x, "decay.weight")), "")), "");
  if (is(r->o, "decay", "learned"))
    return every_token(r, OP("neg", AL_IN(OP("softplus", AL_IN(param(r, "decay")), "")), ""));
  double *v = malloc((size_t)r->Hkv * sizeof *v);
  if (!v) {
    al_fail(r->c, AL_ENOMEM, "out of memory (decay of %lld heads)", (long long)r->Hkv);
    return NULL;
  }
  for (int64_t h = 0; h < r->Hkv; h++) v[h] = log1p(-exp2(-5.0 - (double)h));
  al_tensor *a = al_tensor_from(r->c, al_type(r->in->q), 1, &r->Hkv, v, r->Hkv);
  free(v);
  return every_token(r, a);
}

static void read_inputs(run *r) {
  al_tensor *present = presence(r), *x = present_only(r, r->in->x, present);
  const double t = logit_scale(r->o, r->s);
  r->q = features(r, r->in->q);
  if (t != 1) r->q = OP("scale", AL_IN(r->q), "by=%.17g", t);
  r->k = features(r, present_only(r, r->in->k, present));
  r->v = present_only(r, r->in->v, present);
  if (constant_beta(r->o)) {
    r->b = full(r, ATTN_SHAPE(r->B, r->T, r->Hkv), al_opt_num(r->o, "beta"));
  } else {
    r->b = OP("sigmoid", AL_IN(project(r, x, "beta.weight")), "");
    if (is(r->o, "beta", "double_sigmoid")) r->b = OP("scale", AL_IN(r->b), "by=2");
  }
  r->b = attn_tap(r->c, r->in, "beta", present_only(r, r->b, present));
  r->a = attn_tap(r->c, r->in, "log_decay", present_only(r, log_decay(r, x), present));
}

/* q' (n,Hkv,rows G,D) of q (n,rows,H,D), and back. */
static al_tensor *to_groups(const run *r, al_tensor *q, int64_t n, int64_t rows) {
  const int64_t G = r->H / r->Hkv;
  q = OP("permute", AL_IN(attn_reshape(r->c, q, ATTN_SHAPE(n, rows, r->Hkv, G, r->D))),
         "axes={0,2,1,3,4}");
  return attn_reshape(r->c, q, ATTN_SHAPE(n, r->Hkv, rows * G, r->D));
}
static al_tensor *from_groups(const run *r, al_tensor *o, int64_t n, int64_t rows) {
  const int64_t G = r->H / r->Hkv;
  o = OP("permute", AL_IN(attn_reshape(r->c, o, ATTN_SHAPE(n, r->Hkv, rows, G, r->E))),
         "axes={0,2,1,3,4}");
  return attn_reshape(r->c, o, ATTN_SHAPE(n, rows, r->H, r->E));
}

/* ---- recurrent ------------------------------------------------------------------------------- */

/* (B,T,h,X) -> token t as (B,h,1,X) */
static al_tensor *token(const run *r, al_tensor *x, int64_t t) {
  x = OP("slice", AL_IN(x), "axis=1 start=%lld stop=%lld", (long long)t, (long long)t + 1);
  return OP("transpose", AL_IN(x), "a=1 b=2");
}

static al_tensor *step(run *r, int64_t t) {
  al_tensor *k = token(r, r->k, t), *v = token(r, r->v, t), *M = r->M;
  al_tensor *b = token(r, OP("unsqueeze", AL_IN(r->b), "axis=-1"), t);
  if (r->a)
    M = OP("mul",
           AL_IN(M, OP("exp", AL_IN(token(r, OP("unsqueeze", AL_IN(r->a), "axis=-1"), t)), "")),
           "");
  al_tensor *error = OP("sub", AL_IN(v, OP("matmul", AL_IN(k, M), "")), "");
  al_tensor *u = OP("mul", AL_IN(error, b), "");
  r->M = OP("add", AL_IN(M, OP("matmul", AL_IN(k, u), "transpose_a=true")), "");
  al_tensor *q =
      OP("slice", AL_IN(r->q), "axis=1 start=%lld stop=%lld", (long long)t, (long long)t + 1);
  return from_groups(r, OP("matmul", AL_IN(to_groups(r, q, r->B, 1), r->M), ""), r->B, 1);
}

static al_tensor *recurrent(run *r) {
  al_tensor **o = malloc((size_t)r->T * sizeof *o), *all = NULL;
  if (!o) {
    al_fail(r->c, AL_ENOMEM, "out of memory (delta_rule: %lld tokens)", (long long)r->T);
    return NULL;
  }
  for (int64_t t = 0; t < r->T && al_error(r->c) == AL_OK; t++) o[t] = step(r, t);
  if (al_error(r->c) == AL_OK) all = al_run(r->c, "concat", o, (int)r->T, "axis=1");
  free(o);
  return all;
}

/* ---- chunked --------------------------------------------------------------------------------- */

/* (B,T,...) -> (B N,C,...), zeros after T. */
static al_tensor *chunks(const run *r, al_tensor *t) {
  if (!t) return NULL;
  int64_t shape[4] = {r->B, r->N * r->C - r->T};
  const int n = al_ndim(t);
  for (int i = 2; i < n; i++) shape[i] = al_size(t, i);
  if (shape[1]) t = OP("concat", AL_IN(t, full(r, n, shape, 0)), "axis=1");
  shape[0] = r->B * r->N, shape[1] = r->C;
  return attn_reshape(r->c, t, n, shape);
}

typedef struct parts { /* of all chunks, before their memories are known */
  al_tensor *q;        /* (B N,C,H,D): o = y + q M */
  al_tensor *y;        /* (B N,C,H,E) */
  al_tensor *keep;     /* (B,N,Hkv,1,1): M' = keep M + add - less M; NULL stands for 1 */
  al_tensor *add;      /* (B,N,Hkv,D,E) */
  al_tensor *less;     /* (B,N,Hkv,D,D) */
} parts;

static al_tensor *channels(const run *r, al_tensor *t, int64_t from, int64_t to) {
  return OP("slice", AL_IN(t), "axis=-1 start=%lld stop=%lld", (long long)from, (long long)to);
}

/* Factors of the decay inside a chunk (B N,C,Hkv): from its start to each token, from each token to
 * its end; and over all of it. */
typedef struct decays {
  al_tensor *in, *out, *whole;
} decays;

static decays decays_of(const run *r, al_tensor *a) {
  if (!a) return (decays){0};
  al_tensor *sum = OP("cumsum", AL_IN(a), "axis=1");
  al_tensor *end = OP("slice", AL_IN(sum), "axis=1 start=-1");
  return (decays){
      OP("exp", AL_IN(sum), ""), OP("exp", AL_IN(OP("sub", AL_IN(end, sum), "")), ""),
      attn_reshape(r->c, OP("exp", AL_IN(end), ""), ATTN_SHAPE(r->B, r->N, r->Hkv, 1, 1))};
}

/* [X, Y] = (I + L)^-1 [b v, b g k] (B N,Hkv,C,E+D) */
static al_tensor *corrections(const run *r, al_tensor *k, al_tensor *v, al_tensor *b, al_tensor *a,
                              const decays *g) {
  al_tensor *w = OP("scores", AL_IN(k, k), "causal=true"); /* (B N,Hkv,C,C) */
  if (a) w = OP("weights", AL_IN(w, NULL, a), "f=polynomial coefficients={0,1} causal=true");
  al_tensor *L = by_head(r, w, OP("permute", AL_IN(b), "axes={0,2,1}"));
  al_tensor *side = OP("concat", AL_IN(v, a ? by_head(r, k, g->in) : k), "axis=-1");
  side = OP("permute", AL_IN(by_head(r, side, b)), "axes={0,2,1,3}");
  return OP("solve_lower", AL_IN(L, side), "");
}

static parts prepare(const run *r) {
  const int64_t n = r->B * r->N, G = r->H / r->Hkv, D = r->D, E = r->E;
  al_tensor *q = chunks(r, r->q), *k = chunks(r, r->k), *v = chunks(r, r->v), *b = chunks(r, r->b),
            *a = chunks(r, r->a);
  const decays g = decays_of(r, a);
  al_tensor *x = corrections(r, k, v, b, a, &g);
  al_tensor *late = OP("permute", AL_IN(a ? by_head(r, k, g.out) : k), "axes={0,2,1,3}");
  al_tensor *sums = OP("matmul", AL_IN(late, x), "transpose_a=true"); /* (B N,Hkv,D,E+D) */
  sums = attn_reshape(r->c, sums, ATTN_SHAPE(r->B, r->N, r->Hkv, D, E + D));
  al_tensor *seen = OP("attend", AL_IN(q, k, OP("permute", AL_IN(x), "axes={0,2,1,3}"), a),
                       "f=polynomial coefficients={0,1} stat=none causal=true"); /* (B N,C,H,E+D) */
  if (a) {
    q = by_head(r, attn_reshape(r->c, q, ATTN_SHAPE(n, r->C, r->Hkv, G * D)), g.in);
    q = attn_reshape(r->c, q, ATTN_SHAPE(n, r->C, r->H, D));
  }
  return (parts){.q = OP("sub", AL_IN(q, channels(r, seen, E, E + D)), ""),
                 .y = channels(r, seen, 0, E),
                 .keep = g.whole,
                 .add = channels(r, sums, 0, E),
                 .less = channels(r, sums, E, E + D)};
}

/* Chunk n of t (B,N,Hkv,..) as (B,Hkv,..). */
static al_tensor *chunk(const run *r, al_tensor *t, int64_t n) {
  t = OP("slice", AL_IN(t), "axis=1 start=%lld stop=%lld", (long long)n, (long long)n + 1);
  return OP("squeeze", AL_IN(t), "axis=1");
}

/* The memory before every chunk (B,N,Hkv,D,E); r->M moves past the last. */
static al_tensor *memories(run *r, const parts *p) {
  al_tensor **M = malloc((size_t)r->N * sizeof *M), *all = NULL;
  if (!M) {
    al_fail(r->c, AL_ENOMEM, "out of memory (delta_rule: %lld chunks)", (long long)r->N);
    return NULL;
  }
  for (int64_t n = 0; n < r->N && al_error(r->c) == AL_OK; n++) {
    M[n] = OP("unsqueeze", AL_IN(r->M), "axis=1");
    al_tensor *wrong = OP("matmul", AL_IN(chunk(r, p->less, n), r->M), "");
    al_tensor *kept = p->keep ? OP("mul", AL_IN(r->M, chunk(r, p->keep, n)), "") : r->M;
    kept = OP("add", AL_IN(kept, chunk(r, p->add, n)), "");
    r->M = OP("sub", AL_IN(kept, wrong), "");
  }
  if (al_error(r->c) == AL_OK) all = al_run(r->c, "concat", M, (int)r->N, "axis=1");
  free(M);
  return all;
}

static al_tensor *chunked(run *r) {
  r->C = al_opt_int(r->o, "chunk");
  if (r->C > r->T) r->C = r->T;
  r->N = (r->T + r->C - 1) / r->C;
  const int64_t n = r->B * r->N;
  const parts p = prepare(r);
  al_tensor *M = memories(r, &p);
  if (!M) return NULL;
  M = attn_reshape(r->c, M, ATTN_SHAPE(n, r->Hkv, r->D, r->E));
  al_tensor *read = OP("matmul", AL_IN(to_groups(r, p.q, n, r->C), M), "");
  al_tensor *o = OP("add", AL_IN(p.y, from_groups(r, read, n, r->C)), "");
  o = attn_reshape(r->c, o, ATTN_SHAPE(r->B, r->N * r->C, r->H, r->E));
  if (r->N * r->C == r->T) return o;
  o = OP("slice", AL_IN(o), "axis=1 start=0 stop=%lld", (long long)r->T);
  return OP("contiguous", AL_IN(o), "");
}

/* ---- the family ------------------------------------------------------------------------------ */

static al_status fits(al_ctx *c, const al_opts *o, const attn_in *in) {
  AL_TRY(attn_check_own_tokens(c, "delta_rule", in));
  if (reads_x(o) && !in->x)
    return al_fail(c, AL_EVALUE, "delta_rule: x: needed, because beta or decay reads it");
  return AL_OK;
}

static al_tensor *normed(const run *r, al_tensor *o) {
  if (is(r->o, "output_norm", "l2")) return OP("l2norm", AL_IN(o), "");
  if (is(r->o, "output_norm", "rms"))
    return OP("rmsnorm", AL_IN(o, param(r, "output_norm.gain")), "eps=1e-6");
  return o;
}

static bool by_token(const al_opts *o, int64_t T) {
  return is(o, "form", "recurrent") || (is(o, "form", "auto") && T == 1);
}

static al_tensor *forward(al_ctx *c, const al_opts *o, const attn_sizes *s, al_tensor *const *p,
                          const attn_in *in) {
  if (fits(c, o, in) != AL_OK) return NULL;
  run run_ = {.c = c, .o = o, .s = s, .in = in, .p = p}, *r = &run_;
  r->n = params(o, s, r->rows);
  r->B = al_size(in->q, 0), r->T = al_size(in->q, 1);
  r->H = s->heads, r->Hkv = s->kv_heads, r->D = s->head_dim, r->E = s->value_dim;
  r->M = in->state ? attn_state_get(in->state, "memory")
                   : full(r, ATTN_SHAPE(r->B, r->Hkv, r->D, r->E), 0);
  al_tensor *y;
  if (r->T == 0) {
    y = full(r, ATTN_SHAPE(r->B, 0, r->H, r->E), 0);
  } else {
    read_inputs(r);
    y = by_token(o, r->T) ? recurrent(r) : chunked(r);
  }
  if (in->next) attn_state_put(c, in->next, "memory", r->M, NULL);
  return normed(r, y);
}

static al_status state(al_ctx *c, const al_opts *o, const attn_sizes *s, int64_t batch,
                       al_dtype dtype, attn_state *st) {
  (void)o;
  const int64_t shape[] = {batch, s->kv_heads, s->head_dim, s->value_dim};
  return attn_state_put(c, st, "memory", al_tensor_full(c, dtype, 4, shape, 0),
                        "S transposed: channels of the key by channels of the value");
}

static int64_t state_bytes(const al_opts *o, const attn_sizes *s, int64_t t, al_dtype dtype) {
  (void)o, (void)t;
  return s->kv_heads * s->head_dim * s->value_dim * al_dtype_size(dtype) + 4;
}

static unsigned claims(const al_opts *o) {
  return ATTN_CAUSAL | (is(o, "output_norm", "l2") ? ATTN_SCALE_FREE : 0);
}

static void formula(const al_opts *o, char *buf, size_t n) {
  const char *a = is(o, "decay", "none") ? "" : "a_t ";
  char b[64], map[80] = "x";
  if (constant_beta(o)) snprintf(b, sizeof b, "%g", al_opt_num(o, "beta"));
  else snprintf(b, sizeof b, "%ssigmoid(x_t W)", is(o, "beta", "sigmoid") ? "" : "2 ");
  if (map_of(o) != ALK_MAP_identity)
    snprintf(map, sizeof map, "%s(x)", al_opt_word(o, "feature_map"));
  if (!is(o, "norm", "none"))
    snprintf(map + strlen(map), sizeof map - strlen(map), " / %s",
             is(o, "norm", "l2") ? "length" : "sum");
  const bool norm = !is(o, "output_norm", "none");
  snprintf(buf, n,
           "S_t = %sS_(t-1) (I - b_t k_t k_t^T) + b_t v_t k_t^T;  o_t = %s%sS_t q_t%s;  b_t = %s;  "
           "q, k = %s",
           a, norm ? al_opt_word(o, "output_norm") : "", norm ? "[ " : "", norm ? " ]" : "", b,
           map);
}

static void plan(const al_opts *o, const attn_sizes *s, al_dtype dtype, int64_t T, char *buf,
                 size_t n) {
  (void)s, (void)dtype;
  const int64_t chunk_ = al_opt_int(o, "chunk");
  if (by_token(o, T)) snprintf(buf, n, "recurrent: %s", T == 1 ? "one token" : "form=recurrent");
  else
    snprintf(buf, n, "chunked: %lld chunks of at most %lld tokens, a memory between",
             (long long)((T + chunk_ - 1) / chunk_), (long long)chunk_);
}

/* ---- written out ----------------------------------------------------------------------------- */

static const char torch_text[] =
    "import math\n"
    "import torch\n"
    "import torch.nn.functional as F\n\n\n"
    "%s" /* unit */
    "def attention(q, k, v, x=None, p=None, causal=True, lengths=None):\n"
    "    # q (B,T,H,D), k (B,T,Hkv,D), v (B,T,Hkv,E), x (B,T,C); p: parameters by name; causal "
    "only\n"
    "    assert causal\n"
    "    B, T, H, D = q.shape\n"
    "    Hkv, E = k.shape[2], v.shape[3]\n"
    "    G = H // Hkv\n"
    "%s" /* map */
    "    beta = %s.expand(B, T, Hkv)\n"
    "%s" /* decay */
    "    S = torch.zeros(B, Hkv, E, D, dtype=q.dtype)\n"
    "    rows = []\n"
    "    for t in range(T):\n"
    "        kt, vt, b = k[:, t], v[:, t], beta[:, t, :, None]\n"
    "        M = %sS\n"
    "        M = M + torch.einsum(\"bhe,bhd->bhed\", b * (vt - torch.einsum(\"bhed,bhd->bhe\", M, "
    "kt)), kt)\n"
    "        if lengths is not None:  # absent keys change nothing\n"
    "            M = torch.where((t < lengths).view(B, 1, 1, 1), M, S)\n"
    "        S = M\n"
    "        rows.append(torch.einsum(\"bhed,bhd->bhe\", S.repeat_interleave(G, 1), q[:, t]))\n"
    "    y = torch.stack(rows, 1)%s\n"
    "%s" /* norm */
    "    return y\n";

static const char latex_text[] = "\\begin{aligned}\n"
                                 "S_t &= %sS_{t-1} \\left(I - b_t k_t k_t^{\\top}\\right) + b_t "
                                 "v_t k_t^{\\top}, \\quad S_0 = 0,\\\\\n"
                                 "o_t &= %s,\\\\\n"
                                 "b_t &= %s%s%s\n"
                                 "\\end{aligned}\n";

static bool torch_source(const al_opts *o, char *buf, size_t n) {
  char map[400] = "", b[96], scale[48] = "", norm[192] = "", q[96], k[96];
  const char *by = al_opt_word(o, "norm"), *f = alk_map_text(map_of(o)).torch;
  const double t = al_opt_num(o, "logit_scale");
  if (map_of(o) != ALK_MAP_identity)
    snprintf(map, sizeof map, "    q, k = %s, %s\n", attn_slot_text(q, sizeof q, f, "q", "", ""),
             attn_slot_text(k, sizeof k, f, "k", "", ""));
  if (strcmp(by, "l2") == 0) strcat(map, "    q, k = unit(q, 1e-12), unit(k, 1e-12)\n");
  if (strcmp(by, "sum") == 0)
    strcat(map, "    total = lambda z: torch.where(z.sum(-1, keepdim=True) >= 1.17549435e-38, "
                "z.sum(-1, keepdim=True), 1)\n"
                "    q, k = q / total(q), k / total(k)  # rows of zeros stay 0\n");
  if (constant_beta(o))
    snprintf(b, sizeof b, "torch.full((1,), %.17g, dtype=q.dtype)", al_opt_num(o, "beta"));
  else
    snprintf(b, sizeof b, "%storch.sigmoid(x @ p[\"beta.weight\"].T))",
             is(o, "beta", "sigmoid") ? "(" : "(2 * ");
  const char *a =
      is(o, "decay", "gated")     ? "    a = torch.sigmoid(-(x @ p[\"decay.weight\"].T))\n"
      : is(o, "decay", "learned") ? "    a = torch.sigmoid(-p[\"decay\"]).expand(B, T, Hkv)\n"
      : is(o, "decay", "constant")
          ? "    a = (1 - 2.0 ** (-5 - torch.arange(Hkv, dtype=q.dtype))).expand(B, T, Hkv)\n"
          : "";
  if (is(o, "logit_scale", "rsqrt")) snprintf(scale, sizeof scale, " / math.sqrt(D)");
  else if (t != 1) snprintf(scale, sizeof scale, " * %.17g", t);
  if (is(o, "output_norm", "l2")) snprintf(norm, sizeof norm, "    y = unit(y, 1e-12)\n");
  if (is(o, "output_norm", "rms"))
    snprintf(norm, sizeof norm,
             "    y = y / torch.sqrt(y.square().mean(-1, keepdim=True) + 1e-6) * "
             "p[\"output_norm.gain\"]\n");
  const bool units = is(o, "norm", "l2") || is(o, "output_norm", "l2");
  return snprintf(buf, n, torch_text, units ? attn_torch_unit() : "", map, b, a,
                  *a ? "a[:, t, :, None, None] * " : "", scale, norm) < (int)n;
}

static bool latex_source(const al_opts *o, char *buf, size_t n) {
  char b[64], out[160], t[48] = "", a[96] = "", map[256] = "", phi[96];
  const double scale = al_opt_num(o, "logit_scale");
  const char *z = map_of(o) == ALK_MAP_identity ? "z" : "\\phi(z)";
  if (is(o, "logit_scale", "rsqrt")) snprintf(t, sizeof t, " / \\sqrt{d}");
  else if (scale != 1) snprintf(t, sizeof t, " \\cdot %g", scale);
  snprintf(out, sizeof out, "S_t q_t%s", t);
  if (is(o, "output_norm", "l2"))
    snprintf(out, sizeof out, "y_t / \\lVert y_t \\rVert, \\quad y_t = S_t q_t%s", t);
  if (is(o, "output_norm", "rms"))
    snprintf(out, sizeof out,
             "\\gamma \\odot y_t / \\sqrt{\\mathrm{mean}(y_t^2) + 10^{-6}}, \\quad y_t = S_t q_t%s",
             t);
  if (constant_beta(o)) snprintf(b, sizeof b, "%g", al_opt_num(o, "beta"));
  else snprintf(b, sizeof b, "%s\\sigma(x_t W_b)", is(o, "beta", "sigmoid") ? "" : "2 ");
  if (is(o, "decay", "gated")) snprintf(a, sizeof a, ",\\\\\na_t &= \\sigma(-x_t W_a)");
  if (is(o, "decay", "learned")) snprintf(a, sizeof a, ",\\\\\na_t &= \\sigma(-p)");
  if (is(o, "decay", "constant"))
    snprintf(a, sizeof a, ",\\\\\na_t &= 1 - 2^{-5-h}, \\ h = 0, 1, \\dots");
  if (is(o, "norm", "l2"))
    snprintf(map, sizeof map, ",\\\\\nq_t, k_t &: \\ z \\mapsto %s / \\lVert %s \\rVert", z, z);
  if (is(o, "norm", "sum"))
    snprintf(map, sizeof map, ",\\\\\nq_t, k_t &: \\ z \\mapsto %s / \\textstyle\\sum_d %s_d", z,
             z);
  if (is(o, "norm", "none") && map_of(o) != ALK_MAP_identity)
    snprintf(map, sizeof map, ",\\\\\nq_t, k_t &: \\ z \\mapsto %s", z);
  if (map_of(o) != ALK_MAP_identity)
    snprintf(map + strlen(map), sizeof map - strlen(map), ", \\quad \\phi(z) = %s",
             attn_slot_text(phi, sizeof phi, alk_map_text(map_of(o)).latex, "z", "", ""));
  return snprintf(buf, n, latex_text, *a ? "a_t " : "", out, b, a, map) < (int)n;
}

static bool source(const al_opts *o, const attn_sizes *s, const char *kind, char *buf, size_t n) {
  (void)s;
  return (strcmp(kind, "torch") == 0 ? torch_source : latex_source)(o, buf, n);
}

static bool has_decay(const al_opts *o) { return !is(o, "decay", "none"); }

static const attn_tap_row taps[] = {
    {"beta", "(B,T,Hkv)", "b: how much of the old value is replaced", false, NULL},
    {"log_decay", "(B,T,Hkv)", "log a of each step", false, has_decay},
    {0}};

static const attn_preset presets[] = {
    {"delta/deltanet", "logit_scale=rsqrt output_norm=rms", "rope=none conv=4 conv_activation=silu",
     "DeltaNet (2406.06484), section 3",
     "its convolutions have silu on v, too, and no bias; here silu on q and k, and a bias"},
    {"delta/gated_deltanet", "decay=gated logit_scale=rsqrt output_norm=rms",
     "rope=none conv=4 conv_activation=silu", "Gated DeltaNet (2412.06464), section 3",
     "its log decay is -A softplus(x W + c), here -softplus(x W), with which the memory at first "
     "halves every token, theirs mostly slower; its output gate is left out; convolutions as in "
     "deltanet"},
    {"delta/fast_weights", "feature_map=elu1 norm=sum", "rope=none",
     "Schlag et al. (2102.11174), section 4", "with elu + 1 as the map; its own map is DPFP"},
    {"delta/negative", "beta=double_sigmoid logit_scale=rsqrt output_norm=rms",
     "rope=none conv=4 conv_activation=silu", "Grazzi et al. (2411.12537)",
     "b up to 2: the memory's eigenvalues lie in [-1, 1]; convolutions as in deltanet"},
    {0}};

ATTN_FAMILY(delta_rule, .doc = "a memory whose value at each key is corrected (DeltaNet)",
            .options = options, .presets = presets, .check = check, .params = params,
            .forward = forward, .claims = claims, .state_bytes = state_bytes, .formula = formula,
            .plan = plan, .state = state, .source = source, .taps = taps);
