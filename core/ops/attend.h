/* attend.h: what attend and attend_chunked share: inputs, options, spec; for core/ops/ only. */
#ifndef AL_OPS_ATTEND_H
#define AL_OPS_ATTEND_H
#include "logits.h"
#include "../../kernels/attn.h"

enum { Q, K, V, DECAY }; /* the first inputs of both */

#define ATTEND_MAP_ARG                                                                             \
  { "feature_map", AL_T_WORD, "identity", ALK_MAP_WORDS, 0, 0, "phi", NULL }

/* A map that is an entry of pointwise.def, on one side of its kink. */
#define ATTEND_MAP_SAMPLE(map, lo, hi, gap, shapes, options)                                       \
  {shapes, "feature_map=" map " " options, (gap) > 0 ? (gap) : (lo), hi, NULL},

static inline al_status attend_decay(al_ctx *c, const al_call *k) {
  const char *name = k->op->info.name;
  if (!k->in[DECAY]) return AL_OK;
  const al_meta *a = &k->in_meta[DECAY], *q = &k->in_meta[Q], *key = &k->in_meta[K];
  AL_TRY(visible_axes(c, k, DECAY, 3, "(B,S,Hd)"));
  if (a->shape[0] != q->shape[0] || a->shape[1] != key->shape[1])
    return al_fail(c, AL_ESHAPE, "%s: decay: shape (%lld,%lld,Hd) needed to match k %s, got %s",
                   name, (long long)q->shape[0], (long long)key->shape[1], AL_META_STR(key),
                   AL_META_STR(a));
  AL_TRY(visible_heads(c, k, DECAY, q->shape[2], a->shape[2]));
  if (al_opts_has(k->opts, "causal") && !al_opt_bool(k->opts, "causal"))
    return al_fail(c, AL_EVALUE,
                   "%s: decay: causal=true needed: a row decays from its last visible key back",
                   name);
  return AL_OK;
}

/* Checks q, k, v, decay, and the inputs with these numbers. */
static inline al_status attend_inputs(al_ctx *c, al_call *k, int lengths, int value_scale) {
  const char *name = k->op->info.name;
  const al_meta *q = &k->in_meta[Q], *key = &k->in_meta[K], *v = &k->in_meta[V],
                *b = &k->in_meta[value_scale];
  AL_TRY(visible_axes(c, k, Q, 4, "(B,T,H,D)"));
  AL_TRY(visible_axes(c, k, K, 4, "(B,S,Hkv,D)"));
  AL_TRY(visible_axes(c, k, V, 4, "(B,S,Hkv,E)"));
  if (key->shape[0] != q->shape[0] || key->shape[3] != q->shape[3])
    return al_fail(c, AL_ESHAPE, "%s: k: shape (%lld,S,Hkv,%lld) needed to match q %s, got %s",
                   name, (long long)q->shape[0], (long long)q->shape[3], AL_META_STR(q),
                   AL_META_STR(key));
  if (v->shape[0] != q->shape[0] || v->shape[1] != key->shape[1] || v->shape[2] != key->shape[2])
    return al_fail(c, AL_ESHAPE, "%s: v: shape (%lld,%lld,%lld,E) needed to match k %s, got %s",
                   name, (long long)q->shape[0], (long long)key->shape[1], (long long)key->shape[2],
                   AL_META_STR(key), AL_META_STR(v));
  if (k->in[value_scale] && (b->ndim != 3 || b->shape[0] != v->shape[0] ||
                             b->shape[1] != v->shape[1] || b->shape[2] != v->shape[2]))
    return al_fail(c, AL_ESHAPE,
                   "%s: value_scale: shape (%lld,%lld,%lld) needed to match v %s, got %s", name,
                   (long long)v->shape[0], (long long)v->shape[1], (long long)v->shape[2],
                   AL_META_STR(v), AL_META_STR(b));
  AL_TRY(visible_heads(c, k, K, q->shape[2], key->shape[2]));
  AL_TRY(attend_decay(c, k));
  AL_TRY(visible_lengths(c, k, lengths, q->shape[0], key->shape[1]));
  if (al_opt_bool(k->opts, "normalise") && !al_opt_is(k->opts, "stat", "sum"))
    return al_fail(c, AL_EVALUE, "%s: normalise: stat=sum needed, got stat=%s", name,
                   al_opt_word(k->opts, "stat"));
  return AL_OK;
}

/* Refuses orders that a state of monomials cannot hold in the dtype of q. */
static inline al_status attend_held(al_ctx *c, const al_call *k, int n, const double *list) {
  const al_meta *q = &k->in_meta[Q];
  const int i =
      alk_not_held(q->shape[3], n, list, al_opt_num(k->opts, "scale"), al_dtype_size(q->dtype));
  if (i < 0) return AL_OK;
  return al_fail(
      c, AL_EVALUE,
      "%s: option 'coefficients': orders whose factors c_n scale^n and monomials a state "
      "in %s can hold needed, got order %d for %lld channel%s: use %slower orders, or "
      "attend",
      k->op->info.name, al_dtype_name(q->dtype), i, (long long)q->shape[3],
      q->shape[3] == 1 ? "" : "s", q->dtype == AL_F32 ? "f64, " : "");
}

/* y (B,T,H,E), a row statistic (B,H,T), the running sums of the decay (B,Hd,S) or nothing. */
static inline al_meta attend_y(const al_call *k) {
  const al_meta *q = &k->in_meta[Q];
  return (al_meta){.dtype = q->dtype,
                   .ndim = 4,
                   .shape = {q->shape[0], q->shape[1], q->shape[2], k->in_meta[V].shape[3]}};
}
static inline al_meta attend_row(const al_call *k) {
  const al_meta *q = &k->in_meta[Q];
  return (al_meta){.dtype = q->dtype, .ndim = 3, .shape = {q->shape[0], q->shape[2], q->shape[1]}};
}
static inline al_meta attend_sums(const al_call *k) {
  const al_meta *a = &k->in_meta[DECAY];
  if (a->ndim != 3) return (al_meta){.dtype = AL_F64, .ndim = 1};
  return (al_meta){.dtype = AL_F64, .ndim = 3, .shape = {a->shape[0], a->shape[2], a->shape[1]}};
}

/* All but the weights and the lengths. */
static inline alk_attn_spec attend_spec(const al_call *k) {
  const int64_t *q = k->in_meta[Q].shape, *v = k->in_meta[V].shape;
  alk_attn_spec a = {.g = visible_of(k),
                     .D = q[3],
                     .E = v[3],
                     .map = (alk_map)al_opt_choice(k->opts, "feature_map"),
                     .stat = (alk_stat)al_opt_choice(k->opts, "stat"),
                     .normalise = al_opt_bool(k->opts, "normalise"),
                     .scale = al_opt_num(k->opts, "scale")};
  a.g.B = q[0], a.g.T = q[1], a.g.H = q[2], a.g.S = v[1], a.g.Hkv = v[2];
  return a;
}
#endif
