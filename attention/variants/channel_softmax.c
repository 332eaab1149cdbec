/* channel_softmax: in every channel of the key a softmax over the tokens so far; the query says how
 * much of each channel's average is read.
 *
 *   o_i = sum_d r_id M_id,   M_id = sum_{j<=i} e^(c_ijd) v_j / sum_{j<=i} e^(c_ijd)
 *   c_ijd = k_jd + (log decay of channel d over j+1..i),  + bonus_d for j = i
 *   r_i = softmax over d of q_i, or sigmoid(q_i)
 *
 * Sources: Efficient Attention (1812.01243) with r = softmax, here causal; RWKV-4 (2305.13048):
 * heads of one channel with r = sigmoid, a decay and a bonus.
 *
 * State: numerator (D,E), denominator (D) and the largest exponent so far (D) a key/value head;
 * numerator and denominator are relative to it, so nothing overflows. Chunks of C tokens: inside
 * one the exponents of all pairs are made, (C,C,D) a head; between them goes the state. form=
 * recurrent is C = 1. Each row has its own reference, so no later token changes a row even by
 * rounding; what is hidden is selected away.
 */
#include "variant.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The largest exponent of no token at all: below every other, finite so that differences are. */
#define NOTHING (-1e30)

static const al_arg options[] = {
    {"read", AL_T_WORD, "softmax", "softmax sigmoid", 0, 0,
     "r, of q: over the channels, or of each", NULL},
    {"decay", AL_T_WORD, "none", "none constant learned gated", 0, 0,
     "log decay a step: ln(1 - 2^(-5-h)) of a head; -softplus(p) of a channel, p = -4 at first; "
     "-softplus(x W) of a channel",
     NULL},
    {"bonus", AL_T_BOOL | AL_T_NUM | AL_T_WORD, "false", "learned", -80, 80,
     "added to the exponent of the row's own token; learned: one a channel, 0 at first", NULL},
    {"form", AL_T_WORD, "auto", "auto chunked recurrent", 0, 0, "auto: chunked", NULL},
    {"chunk", AL_T_INT, "16", NULL, 1, 256, "tokens of a chunk", NULL},
    {0}};

static bool is(const al_opts *o, const char *key, const char *word) {
  return al_opt_is(o, key, word);
}
static bool has_bonus(const al_opts *o) { return al_opt_kind(o, "bonus") != AL_T_BOOL; }

static al_status check(al_ctx *c, const al_opts *o, const attn_sizes *s) {
  if (is(o, "decay", "gated") && s->width < 1)
    return al_fail(c, AL_EVALUE, "channel_softmax: width: needed, because decay=gated reads x");
  if (!has_bonus(o) && al_opt_bool(o, "bonus"))
    return al_fail(c, AL_EVALUE,
                   "channel_softmax: bonus: false, a number or learned needed, got true");
  return AL_OK;
}

static int params(const al_opts *o, const attn_sizes *s, attn_param *rows) {
  const int64_t Hkv = s->kv_heads, D = s->head_dim;
  int n = 0;
  if (is(o, "decay", "learned"))
    rows[n++] = (attn_param){"decay", 2, {Hkv, D}, ATTN_VALUE, -4, "log decay = -softplus of it"};
  if (is(o, "decay", "gated"))
    rows[n++] = (attn_param){"decay.weight",      2,
                             {Hkv * D, s->width}, ATTN_UNIFORM,
                             (double)s->width,    "log decay = -softplus(x W), one a channel"};
  if (is(o, "bonus", "learned"))
    rows[n++] =
        (attn_param){"bonus", 2, {Hkv, D}, ATTN_ZEROS, 0, "for the row's own token, one a channel"};
  return n;
}

typedef struct run {
  al_ctx *c;
  const al_opts *o;
  const attn_sizes *s;
  const attn_in *in;
  al_tensor *decay, *gate, *bonus; /* parameters, or NULL */
  int64_t B, T, H, Hkv, D, E;
  int64_t C, N;               /* N chunks of C tokens */
  al_tensor *num, *den, *max; /* the state: (B,Hkv,D,E), (B,Hkv,D), (B,Hkv,D) */
} run;

#define OP(name, ...) al_run(r->c, name, __VA_ARGS__)

static al_tensor *full(const run *r, int ndim, const int64_t *shape, double value) {
  return al_tensor_full(r->c, al_type(r->in->q), ndim, shape, value);
}

static al_tensor *mul(const run *r, al_tensor *a, al_tensor *b) {
  return OP("mul", AL_IN(a, b), "");
}
static al_tensor *add(const run *r, al_tensor *a, al_tensor *b) {
  return OP("add", AL_IN(a, b), "");
}
static al_tensor *sub(const run *r, al_tensor *a, al_tensor *b) {
  return OP("sub", AL_IN(a, b), "");
}
static al_tensor *exp_of(const run *r, al_tensor *a, al_tensor *b) { /* e^(a - b) */
  return OP("exp", AL_IN(sub(r, a, b)), "");
}
static al_tensor *widen(const run *r, al_tensor *t, int axis) {
  return OP("unsqueeze", AL_IN(t), "axis=%d", axis);
}

/* 1 where row t of a chunk sees key j: (B N,1,rows,C,1), `rows` = C, or 1 = the chunk's last. */
static al_tensor *seen(const run *r, int64_t rows) {
  al_tensor *n = attn_part_lengths(r->c, r->in->lengths, r->B, r->T, r->C);
  n = OP("present", AL_IN(n), "size=%lld rows=%lld", (long long)r->C, (long long)rows);
  return attn_reshape(r->c, n, ATTN_SHAPE(r->B * r->N, 1, rows, r->C, 1));
}

/* ---- inputs as chunks ------------------------------------------------------------------------ */

/* (B,T,h,X) -> (B N,C,h,X), zeros after T. */
static al_tensor *chunks(const run *r, al_tensor *t) {
  if (!t) return NULL;
  const int64_t h = al_size(t, 2), X = al_size(t, 3), rest = r->N * r->C - r->T;
  if (rest) t = OP("concat", AL_IN(t, full(r, ATTN_SHAPE(r->B, rest, h, X), 0)), "axis=1");
  return attn_reshape(r->c, t, ATTN_SHAPE(r->B * r->N, r->C, h, X));
}

static al_tensor *heads_first(const run *r, al_tensor *t) {
  return OP("permute", AL_IN(t), "axes={0,2,1,3}");
}

/* Log decay a step (B,T,Hkv,D), 0 where no key is present; NULL without decay. */
static al_tensor *log_decay(const run *r) {
  if (is(r->o, "decay", "none")) return NULL;
  al_tensor *a, *present = attn_part_lengths(r->c, r->in->lengths, r->B, r->T, r->T);
  present = OP("present", AL_IN(present), "size=%lld", (long long)r->T);
  present = attn_reshape(r->c, present, ATTN_SHAPE(r->B, r->T, 1, 1));
  al_tensor *zero = full(r, ATTN_SHAPE(1), 0);
  if (r->gate) {
    al_tensor *x = OP("squeeze", AL_IN(present), "axis=-1");
    x = OP("select", AL_IN(x, r->in->x, zero), "");
    a = OP("matmul", AL_IN(x, r->gate), "transpose_b=true");
    a = attn_reshape(r->c, OP("softplus", AL_IN(a), ""), ATTN_SHAPE(r->B, r->T, r->Hkv, r->D));
    a = OP("neg", AL_IN(a), "");
  } else if (r->decay) {
    a = OP("neg", AL_IN(OP("softplus", AL_IN(r->decay), "")), "");
  } else {
    double *v = malloc((size_t)r->Hkv * sizeof *v);
    if (!v) {
      al_fail(r->c, AL_ENOMEM, "out of memory (decay of %lld heads)", (long long)r->Hkv);
      return NULL;
    }
    for (int64_t h = 0; h < r->Hkv; h++) v[h] = log1p(-exp2(-5.0 - (double)h));
    a = al_tensor_from(r->c, al_type(r->in->q), 2, (int64_t[]){r->Hkv, 1}, v, r->Hkv);
    free(v);
  }
  a = OP("select", AL_IN(present, a, zero), "");
  a = OP("expand", AL_IN(a), "shape={%lld,%lld,%lld,%lld}", (long long)r->B, (long long)r->T,
         (long long)r->Hkv, (long long)r->D);
  return attn_tap(r->c, r->in, "log_decay", a);
}

/* ---- a chunk's own tokens -------------------------------------------------------------------- */

typedef struct own {
  al_tensor *v;     /* (B N,C,Hkv,E), 0 where absent */
  al_tensor *L;     /* (B N,Hkv,C,D): log decay from before the chunk to each token, or NULL */
  al_tensor *w, *m; /* (B N,Hkv,C,C,D) relative to e^m, (B N,Hkv,C,D) */
  al_tensor *num, *den, *max,
      *whole; /* what all of it adds to the state, (B,N,Hkv,..); its decay */
} own;

/* Exponents c less than their maxima over the keys, which are constants: *m without that axis. */
static al_tensor *weigh(const run *r, al_tensor *c, al_tensor *mask, al_tensor **m) {
  c = OP("select", AL_IN(mask, c, full(r, ATTN_SHAPE(1), -INFINITY)), "");
  al_tensor *top = OP("max", AL_IN(al_detach(r->c, c)), "axes={3} keep=true");
  top = OP("clamp", AL_IN(top), "min=%.17g", NOTHING);
  *m = OP("squeeze", AL_IN(top), "axis=3");
  return exp_of(r, c, top);
}

/* c plus the bonus on the diagonal. */
static al_tensor *with_bonus(const run *r, al_tensor *c) {
  if (!has_bonus(r->o)) return c;
  double *v = calloc((size_t)(r->C * r->C), sizeof *v);
  if (!v) {
    al_fail(r->c, AL_ENOMEM, "out of memory (bonus of %lld tokens)", (long long)r->C);
    return NULL;
  }
  for (int64_t i = 0; i < r->C; i++) v[i * (r->C + 1)] = 1;
  al_tensor *one =
      al_tensor_from(r->c, al_type(r->in->q), ATTN_SHAPE(r->C, r->C, 1), v, r->C * r->C);
  free(v);
  if (!r->bonus) return add(r, c, OP("scale", AL_IN(one), "by=%.17g", al_opt_num(r->o, "bonus")));
  return add(r, c, mul(r, one, attn_reshape(r->c, r->bonus, ATTN_SHAPE(r->Hkv, 1, 1, r->D))));
}

static own own_tokens(const run *r) {
  own x = {0};
  al_tensor *k = heads_first(r, chunks(r, r->in->k)), *a = log_decay(r), *all = seen(r, r->C);
  if (al_error(r->c) != AL_OK) return x;
  if (a) {
    x.L = OP("cumsum", AL_IN(heads_first(r, chunks(r, a))), "axis=2");
    k = sub(r, k, x.L);
  }
  k = widen(r, k, 2); /* (B N,Hkv,1,C,D) */
  al_tensor *c = x.L ? add(r, k, widen(r, x.L, 3)) : k, *end = k;
  x.w = weigh(r, with_bonus(r, c), all, &x.m);
  if (x.L) {
    al_tensor *last = widen(r, OP("slice", AL_IN(x.L), "axis=2 start=-1"), 3);
    end = add(r, k, last);
    x.whole = attn_reshape(r->c, last, ATTN_SHAPE(r->B, r->N, r->Hkv, r->D));
  }
  al_tensor *there = seen(r, 1);      /* (B N,1,1,C,1) */
  end = weigh(r, end, there, &x.max); /* (B N,Hkv,1,C,D) */
  there = there ? attn_reshape(r->c, there, ATTN_SHAPE(r->B * r->N, r->C, 1, 1)) : NULL;
  x.v = OP("select", AL_IN(there, chunks(r, r->in->v), full(r, ATTN_SHAPE(1), 0)), "");
  al_tensor *num = OP("matmul", AL_IN(OP("squeeze", AL_IN(end), "axis=2"), heads_first(r, x.v)),
                      "transpose_a=true");
  x.num = attn_reshape(r->c, num, ATTN_SHAPE(r->B, r->N, r->Hkv, r->D, r->E));
  x.den =
      attn_reshape(r->c, OP("sum", AL_IN(end), "axes={3}"), ATTN_SHAPE(r->B, r->N, r->Hkv, r->D));
  x.max = attn_reshape(r->c, x.max, ATTN_SHAPE(r->B, r->N, r->Hkv, r->D));
  return x;
}

/* ---- from chunk to chunk --------------------------------------------------------------------- */

static al_tensor *chunk(const run *r, al_tensor *t, int64_t n) {
  t = OP("slice", AL_IN(t), "axis=1 start=%lld stop=%lld", (long long)n, (long long)n + 1);
  return OP("squeeze", AL_IN(t), "axis=1");
}

static al_tensor *join(const run *r, al_tensor **part, int64_t n) {
  return al_run(r->c, "concat", part, (int)n, "axis=1");
}

static void advance(run *r, const own *x, int64_t n) {
  al_tensor *old = x->whole ? add(r, r->max, chunk(r, x->whole, n)) : r->max;
  al_tensor *top = chunk(r, x->max, n);
  old = al_detach(r->c, old); /* see weigh: only ratios count */
  al_tensor *m = OP("maximum", AL_IN(old, top), "");
  al_tensor *keep = exp_of(r, x->whole ? add(r, r->max, chunk(r, x->whole, n)) : r->max, m);
  al_tensor *take = exp_of(r, top, m);
  r->num =
      add(r, mul(r, r->num, widen(r, keep, -1)), mul(r, chunk(r, x->num, n), widen(r, take, -1)));
  r->den = add(r, mul(r, r->den, keep), mul(r, chunk(r, x->den, n), take));
  r->max = m;
}

typedef struct past { /* the state before every chunk, (B N,Hkv,..) */
  al_tensor *num, *den, *max;
} past;

static past scan(run *r, const own *x) {
  al_tensor **at = malloc((size_t)(3 * r->N) * sizeof *at);
  past p = {0};
  if (!at) {
    al_fail(r->c, AL_ENOMEM, "out of memory (channel_softmax: %lld chunks)", (long long)r->N);
    return p;
  }
  for (int64_t n = 0; n < r->N && al_error(r->c) == AL_OK; n++) {
    at[n] = widen(r, r->num, 1);
    at[r->N + n] = widen(r, r->den, 1);
    at[2 * r->N + n] = widen(r, r->max, 1);
    advance(r, x, n);
  }
  if (al_error(r->c) == AL_OK)
    p = (past){
        attn_reshape(r->c, join(r, at, r->N), ATTN_SHAPE(r->B * r->N, r->Hkv, r->D, r->E)),
        attn_reshape(r->c, join(r, at + r->N, r->N), ATTN_SHAPE(r->B * r->N, r->Hkv, 1, r->D)),
        attn_reshape(r->c, join(r, at + 2 * r->N, r->N), ATTN_SHAPE(r->B * r->N, r->Hkv, 1, r->D))};
  free(at);
  return p;
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* r (B N,Hkv,C,G,D) */
static al_tensor *reading(const run *r) {
  al_tensor *q = is(r->o, "read", "sigmoid") ? OP("sigmoid", AL_IN(r->in->q), "")
                                             : OP("softmax", AL_IN(r->in->q), "");
  q = attn_tap(r->c, r->in, "read", q);
  q = attn_reshape(r->c, chunks(r, q), ATTN_SHAPE(r->B * r->N, r->C, r->Hkv, r->H / r->Hkv, r->D));
  return OP("permute", AL_IN(q), "axes={0,2,1,3,4}");
}

static al_tensor *read_rows(const run *r, const own *x, const past *p) {
  const int64_t n = r->B * r->N, G = r->H / r->Hkv;
  al_tensor *old = x->L ? add(r, x->L, p->max) : p->max; /* (B N,Hkv,C or 1,D) */
  al_tensor *m = OP("maximum", AL_IN(x->m, al_detach(r->c, old)), "");
  al_tensor *new_ = exp_of(r, x->m, m);
  old = exp_of(r, old, m);
  al_tensor *den = add(r, mul(r, OP("sum", AL_IN(x->w), "axes={3}"), new_), mul(r, p->den, old));
  den = OP("inverse", AL_IN(den), "");
  al_tensor *reads = reading(r);
  al_tensor *own_ = mul(r, reads, widen(r, mul(r, new_, den), 3));    /* (B N,Hkv,C,G,D) */
  al_tensor *w = OP("matmul", AL_IN(own_, x->w), "transpose_b=true"); /* (B N,Hkv,C,G,C) */
  w = attn_reshape(r->c, OP("permute", AL_IN(w), "axes={0,1,3,2,4}"),
                   ATTN_SHAPE(n, r->H, r->C, r->C));
  al_tensor *o = OP("mix", AL_IN(w, x->v), "causal=true"); /* (B N,C,H,E) */
  al_tensor *far = mul(r, reads, widen(r, mul(r, old, den), 3));
  far = OP("matmul", AL_IN(attn_reshape(r->c, far, ATTN_SHAPE(n, r->Hkv, r->C * G, r->D)), p->num),
           "");
  far = OP("permute", AL_IN(attn_reshape(r->c, far, ATTN_SHAPE(n, r->Hkv, r->C, G, r->E))),
           "axes={0,2,1,3,4}");
  return add(r, o, attn_reshape(r->c, far, ATTN_SHAPE(n, r->C, r->H, r->E)));
}

static al_tensor *rows(run *r) {
  r->C = is(r->o, "form", "recurrent") ? 1 : al_opt_int(r->o, "chunk");
  if (r->C > r->T) r->C = r->T;
  r->N = (r->T + r->C - 1) / r->C;
  const own x = own_tokens(r);
  if (al_error(r->c) != AL_OK) return NULL;
  const past p = scan(r, &x);
  al_tensor *o = read_rows(r, &x, &p);
  o = attn_reshape(r->c, o, ATTN_SHAPE(r->B, r->N * r->C, r->H, r->E));
  if (r->N * r->C == r->T) return o;
  o = OP("slice", AL_IN(o), "axis=1 start=0 stop=%lld", (long long)r->T);
  return OP("contiguous", AL_IN(o), "");
}

/* ---- the family ------------------------------------------------------------------------------ */

static al_status fits(al_ctx *c, const al_opts *o, const attn_in *in) {
  AL_TRY(attn_check_own_tokens(c, "channel_softmax", in));
  if (is(o, "decay", "gated") && !in->x)
    return al_fail(c, AL_EVALUE, "channel_softmax: x: needed, because decay=gated reads it");
  return AL_OK;
}

static al_tensor *forward(al_ctx *c, const al_opts *o, const attn_sizes *s, al_tensor *const *p,
                          const attn_in *in) {
  if (fits(c, o, in) != AL_OK) return NULL;
  run run_ = {.c = c, .o = o, .s = s, .in = in}, *r = &run_;
  r->B = al_size(in->q, 0), r->T = al_size(in->q, 1);
  r->H = s->heads, r->Hkv = s->kv_heads, r->D = s->head_dim, r->E = s->value_dim;
  if (is(o, "decay", "learned")) r->decay = *p++;
  if (is(o, "decay", "gated")) r->gate = *p++;
  if (is(o, "bonus", "learned")) r->bonus = *p;
  if (in->state) {
    r->num = attn_state_get(in->state, "numerator");
    r->den = attn_state_get(in->state, "denominator");
    r->max = attn_state_get(in->state, "maximum");
  } else {
    r->num = full(r, ATTN_SHAPE(r->B, r->Hkv, r->D, r->E), 0);
    r->den = full(r, ATTN_SHAPE(r->B, r->Hkv, r->D), 0);
    r->max = full(r, ATTN_SHAPE(r->B, r->Hkv, r->D), NOTHING);
  }
  al_tensor *o_ = r->T ? rows(r) : full(r, ATTN_SHAPE(r->B, 0, r->H, r->E), 0);
  if (in->next) {
    attn_state_put(c, in->next, "numerator", r->num, NULL);
    attn_state_put(c, in->next, "denominator", r->den, NULL);
    attn_state_put(c, in->next, "maximum", r->max, NULL);
  }
  return o_;
}

static al_status state(al_ctx *c, const al_opts *o, const attn_sizes *s, int64_t batch,
                       al_dtype dtype, attn_state *st) {
  (void)o;
  const int64_t shape[] = {batch, s->kv_heads, s->head_dim, s->value_dim};
  AL_TRY(attn_state_put(c, st, "numerator", al_tensor_full(c, dtype, 4, shape, 0),
                        "of each channel, relative to e^maximum"));
  AL_TRY(attn_state_put(c, st, "denominator", al_tensor_full(c, dtype, 3, shape, 0),
                        "of each channel, relative to e^maximum"));
  return attn_state_put(c, st, "maximum", al_tensor_full(c, dtype, 3, shape, NOTHING),
                        "largest exponent of each channel");
}

static int64_t state_bytes(const al_opts *o, const attn_sizes *s, int64_t t, al_dtype dtype) {
  (void)o, (void)t;
  return s->kv_heads * s->head_dim * (s->value_dim + 2) * al_dtype_size(dtype) + 4;
}

static unsigned claims(const al_opts *o) {
  return ATTN_CAUSAL | ATTN_POSITIVE_WEIGHTS | ATTN_SHIFT_INVARIANT |
         (is(o, "read", "softmax") ? ATTN_ROWSUM1 : 0);
}

static void formula(const al_opts *o, char *buf, size_t n) {
  char bonus[64] = "";
  if (is(o, "bonus", "learned")) snprintf(bonus, sizeof bonus, " + bonus_d for j = i");
  else if (has_bonus(o)) snprintf(bonus, sizeof bonus, " + %g for j = i", al_opt_num(o, "bonus"));
  snprintf(
      buf, n,
      "o_i = sum_d r_id (sum_j exp(c_ijd) v_j) / (sum_j exp(c_ijd));  c = k_jd%s%s;  r = %s(q_i)",
      is(o, "decay", "none") ? "" : " + log A_ijd", bonus, al_opt_word(o, "read"));
}

static void plan(const al_opts *o, const attn_sizes *s, al_dtype dtype, int64_t T, char *buf,
                 size_t n) {
  (void)s, (void)dtype;
  if (is(o, "form", "recurrent") || T == 1) {
    snprintf(buf, n, "recurrent: %s", T == 1 ? "one token" : "form=recurrent");
    return;
  }
  const int64_t C = al_opt_int(o, "chunk");
  snprintf(buf, n, "chunked: %lld chunks of at most %lld tokens, a state between",
           (long long)((T + C - 1) / C), (long long)C);
}

/* ---- written out ----------------------------------------------------------------------------- */

static const char torch_text[] =
    "import torch\n"
    "import torch.nn.functional as F\n\n\n"
    "def attention(q, k, v, x=None, p=None, causal=True, lengths=None):\n"
    "    # q (B,T,H,D), k (B,T,Hkv,D), v (B,T,Hkv,E), x (B,T,C); p: parameters by name; causal "
    "only\n"
    "    assert causal\n"
    "    B, T, H, D = q.shape\n"
    "    Hkv = k.shape[2]\n"
    "    i, j = torch.arange(T)[:, None], torch.arange(T)\n"
    "    seen = (j <= i).expand(B, T, T)\n"
    "    if lengths is not None:\n"
    "        seen = seen & (j < lengths.view(B, 1, 1))\n"
    "    c = k[:, None].expand(B, T, T, Hkv, D)  # row, key, head, channel\n"
    "%s"
    "%s"
    "    c = c.masked_fill(~seen[..., None, None], float(\"-inf\"))\n"
    "    w = torch.softmax(c, 2).nan_to_num(0)  # rows that see no key give 0\n"
    "    M = torch.einsum(\"btshd,bshe->bthde\", w, v).repeat_interleave(H // Hkv, 2)\n"
    "    return torch.einsum(\"bthd,bthde->bthe\", torch.%s, M)\n";

static const char torch_decay[] =
    "    L = %s.cumsum(1)\n"
    "    last = (seen.sum(-1) - 1).clamp(min=0)[..., None, None].expand(B, T, Hkv, D)\n"
    "    c = c + L.gather(1, last)[:, :, None] - L[:, None]  # back from the last key\n";

static const char latex_text[] =
    "\\begin{aligned}\n"
    "o_i &= \\sum_d r_{id} \\frac{\\sum_j e^{c_{ijd}} v_j}{\\sum_j e^{c_{ijd}}},\\\\\n"
    "c_{ijd} &= k_{jd}%s%s,\\\\\n"
    "r_i &= %s(q_i)%s\n"
    "\\end{aligned}\n"
    "%% sums over the keys j that row i sees\n";

static bool source(const al_opts *o, const attn_sizes *s, const char *kind, char *buf, size_t n) {
  (void)s;
  const bool sigmoid = is(o, "read", "sigmoid"), decays = !is(o, "decay", "none");
  char decay[512] = "", bonus[128] = "";
  if (strcmp(kind, "torch") == 0) {
    if (decays)
      snprintf(decay, sizeof decay, torch_decay,
               is(o, "decay", "gated")
                   ? "F.logsigmoid(-(x @ p[\"decay.weight\"].T)).view(B, T, Hkv, D)"
               : is(o, "decay", "learned")
                   ? "F.logsigmoid(-p[\"decay\"]).expand(B, T, Hkv, D)"
                   : "torch.log1p(-2.0 ** (-5 - torch.arange(Hkv, dtype=q.dtype)))[:, None]"
                     ".expand(B, T, Hkv, D)");
    if (is(o, "bonus", "learned"))
      snprintf(bonus, sizeof bonus,
               "    c = c + (i == j).to(q.dtype)[..., None, None] * p[\"bonus\"]\n");
    else if (has_bonus(o))
      snprintf(bonus, sizeof bonus, "    c = c + (i == j).to(q.dtype)[..., None, None] * %.17g\n",
               al_opt_num(o, "bonus"));
    return snprintf(buf, n, torch_text, decay, bonus, sigmoid ? "sigmoid(q)" : "softmax(q, -1)") <
           (int)n;
  }
  const char *a = is(o, "decay", "gated")     ? "-\\log(1 + e^{x_r W_d})"
                  : is(o, "decay", "learned") ? "-\\log(1 + e^{p_d})"
                                              : "\\log(1 - 2^{-5-h}), \\ h = 0, 1, \\dots";
  if (decays) snprintf(decay, sizeof decay, ",\\\\\na_{rd} &= %s", a);
  if (is(o, "bonus", "learned")) snprintf(bonus, sizeof bonus, " + u_d \\, [j = i]");
  else if (has_bonus(o)) snprintf(bonus, sizeof bonus, " + %g \\, [j = i]", al_opt_num(o, "bonus"));
  return snprintf(buf, n, latex_text, decays ? " + \\sum_{r=j+1}^{i} a_{rd}" : "", bonus,
                  sigmoid ? "\\sigma" : "\\mathrm{softmax}", decay) < (int)n;
}

static bool has_decay(const al_opts *o) { return !is(o, "decay", "none"); }

static const attn_tap_row taps[] = {
    {"read", "(B,T,H,D)", "r: how much of each channel's average is read", false, NULL},
    {"log_decay", "(B,T,Hkv,D)", "log decay of each step and channel", false, has_decay},
    {0}};

static const attn_preset presets[] = {
    {"channel/efficient", "", "rope=none", "Efficient Attention (1812.01243), section 3.2",
     "the paper's softmax runs over all positions, here over those up to the row"},
    {"channel/rwkv4", "read=sigmoid decay=learned bonus=learned", "rope=none",
     "RWKV-4 (2305.13048), section 3.1",
     "with head_dim=1 and value_dim=1, a head a channel, it is its WKV times the receptance; u = "
     "bonus - log decay"},
    {0}};

ATTN_FAMILY(channel_softmax,
            .doc = "softmax over the tokens in every channel of the key, from a running maximum",
            .options = options, .presets = presets, .check = check, .params = params,
            .forward = forward, .claims = claims, .state_bytes = state_bytes, .formula = formula,
            .plan = plan, .state = state, .source = source, .taps = taps);
