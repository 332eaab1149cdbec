/* formula_run.h: one run of the formula: what its files share (formula_sums.c,
 * kernel_attention.c). */
#ifndef ATTN_FORMULA_RUN_H
#define ATTN_FORMULA_RUN_H
#include "formula.h"
#include "variant.h"
#include <stdio.h>

typedef struct run {
  al_ctx *c;
  const formula *f;
  const attn_sizes *s;
  const attn_in *in;
  al_tensor *const *p;
  attn_param rows[ATTN_MAX_PARAMS];
  int n;
  int64_t B, T, S;    /* S: keys that the sums run over, with those of the state */
  bool by_state;      /* the sums by attend_chunked or attend_step */
  al_tensor *lengths; /* of these S keys, or NULL */
  al_tensor *before;  /* (B) i32: keys that each row has seen before this call, or NULL */
  char vis[64];       /* "causal=true offset=0", of the S keys */
  char now[64];       /* of the keys of this call alone */
} run;

/* The logits' factors, and what the weights of the numerator leave for the rest of the formula. */
typedef struct sums {
  al_tensor *q, *k; /* fused: before the feature map, else after it */
  double scale;
  bool mapped;            /* q and k went through the feature map already */
  al_tensor *decay;       /* (B,S,Hkv) or NULL */
  al_tensor *v, *v_scale; /* v (B,S,Hkv,E), still to be multiplied by v_scale (B,S,Hkv) or NULL */
  al_tensor *logits;      /* composed: (B,H,T,S) */
  al_tensor *w;           /* where somebody looks: (B,H,T,S), y still to be made of it */
  al_tensor *by_key;      /* the same: 1 / D of the values' side (B,S,Hkv), no part of v_scale */
  al_tensor *y;           /* (B,T,H,E): N, or N / W when `divided` */
  al_tensor *W;         /* (B,T,H), or NULL where the denominator reads no weights or has its own */
  al_tensor *reference; /* (B,T,H) or NULL: N and W are relative to e^reference */
  bool divided;
  bool normed; /* y is what the norm made of it, relative to nothing */
} sums;

/* Log decay a step (B,S,Hkv), or NULL. */
al_tensor *formula_log_decay(const run *r);
/* v and v_scale of n: what multiplies v on its own side, gates that have channels already in v. */
void formula_values(const run *r, sums *n);
/* Keys, values and decay of n join those of the state, and the run sees them all. */
al_status formula_join_cache(run *r, sums *n);
/* y and W of the numerator's weights, from what is in n: by attend, by attend_chunked or
 * attend_step and the state, or out of small ops. */
void formula_add_up_fused(const run *r, sums *n);
void formula_add_up_by_state(const run *r, sums *n);
void formula_add_up_composed(const run *r, sums *n);
/* Where somebody looks: shows D and the weights divided by it, and makes y of them. factor (B,T,H):
 * 1 / D, relative, or NULL; L (B,T,H) or NULL: what is left of the reference, as a log. */
void formula_show(const run *r, sums *n, al_tensor *factor, al_tensor *L);
/* W of the denominator's own weights (B,T,H); *m its reference or NULL. */
al_tensor *formula_own_statistic(const run *r, const sums *n, al_tensor **m);
/* Number of visible keys, at least 1: (B,T,1), for rows of `of` (q or v); with those before. */
al_tensor *formula_counts(const run *r, al_tensor *of, int64_t offset);
/* t^power for a positive t (B,T,H or 1); `sign` -1 gives the reciprocal. */
al_tensor *formula_power(const run *r, al_tensor *t, double sign);

#define OP(name, ...) al_run(r->c, name, __VA_ARGS__)

static inline al_tensor *param(const run *r, const char *name) {
  for (int i = 0; i < r->n; i++)
    if (strcmp(r->rows[i].name, name) == 0) return r->p[i];
  return NULL;
}

static inline al_tensor *like(const run *r, int ndim, const int64_t *shape, double value) {
  return al_tensor_full(r->c, al_type(r->in->q), ndim, shape, value);
}

/* A function of x of every element of t (..). */
static inline al_tensor *function_of(const run *r, const char *text, al_tensor *t) {
  char of_s[512];
  if (!t) return NULL;
  formula_of_x(text, of_s, sizeof of_s);
  al_tensor *row = OP("reshape", AL_IN(t), "shape={1,1,1,%lld}", (long long)al_numel(t));
  row = OP("expression", AL_IN(row), "expr='%s'", of_s);
  return attn_reshape(r->c, row, al_ndim(t), al_shape(t));
}

static inline al_tensor *activate(const run *r, const formula_gate *g, al_tensor *t) {
  if (g->activation == ALK_GATE_none) return t;
  if (g->activation == ALK_GATE_expr) return function_of(r, g->expr, t);
  return OP(alk_gate_text(g->activation)->word, AL_IN(t), "");
}

/* x (B,T,C) -> x W^T + b (B,T,out) */
static inline al_tensor *project(const run *r, al_tensor *x, const char *name) {
  char weight[64], bias[64];
  snprintf(weight, sizeof weight, "%s.weight", name);
  snprintf(bias, sizeof bias, "%s.bias", name);
  return OP("matmul", AL_IN(x, param(r, weight), param(r, bias)), "transpose_b=true");
}

/* (B,T,H) -> (B,T,H,1) and (B,T,H*E) -> (B,T,H,E): a factor for (B,T,H,E). */
static inline al_tensor *as_factor(const run *r, al_tensor *t, int64_t heads) {
  if (!t) return NULL;
  const int64_t last = al_size(t, -1) / heads;
  return OP("reshape", AL_IN(t), "shape={%lld,%lld,%lld,%lld}", (long long)al_size(t, 0),
            (long long)al_size(t, 1), (long long)heads, (long long)last);
}

/* Row statistics come as (B,H,T); factors and norms want (B,T,H). */
static inline al_tensor *row_first(const run *r, al_tensor *t) {
  return t ? OP("permute", AL_IN(t), "axes={0,2,1}") : NULL;
}

/* a b, where NULL stands for 1. */
static inline al_tensor *times(const run *r, al_tensor *a, al_tensor *b) {
  return a && b ? OP("mul", AL_IN(a, b), "") : a ? a : b;
}

/* y (B,T,H,E) times a factor (B,T,H), or (B,T,H,E). */
static inline al_tensor *scaled(const run *r, al_tensor *y, al_tensor *by) {
  if (!by) return y;
  return OP("mul", AL_IN(y, al_ndim(by) == 4 ? by : OP("unsqueeze", AL_IN(by), "axis=-1")), "");
}
#endif
