/* logits.h: what weights and visible_max share: from logits to s', and decay; for core/ops/
 * only. */
#ifndef AL_OPS_LOGITS_H
#define AL_OPS_LOGITS_H
#include "visible.h"
#include <math.h>

#define LOGIT_ARGS                                                                                 \
  {.name = "round_bf16",                                                                           \
   .type = AL_T_BOOL,                                                                              \
   .def = "false",                                                                                 \
   .doc = "first round s to the nearest bf16, gradient straight through"},                         \
      {.name = "softcap",                                                                          \
       .type = AL_T_BOOL | AL_T_NUM,                                                               \
       .def = "false",                                                                             \
       .doc = "false, or c > 0: then c tanh(s / c)"},                                              \
  {                                                                                                \
    .name = "clamp", .type = AL_T_BOOL | AL_T_NUM, .def = "false",                                 \
    .doc = "false, or c: then min(s, c); gradient passes where s <= c"                             \
  }

static inline al_status logit_number(al_ctx *c, const al_call *k, const char *key) {
  const bool off = al_opt_kind(k->opts, key) == AL_T_BOOL;
  const double v = al_opt_num(k->opts, key);
  if (off ? !al_opt_bool(k->opts, key) : isfinite(v) && (key[0] != 's' || v > 0)) return AL_OK;
  if (off)
    return al_fail(c, AL_EVALUE, "%s: option '%s': false or a number needed, got true",
                   k->op->info.name, key);
  return al_fail(c, AL_EVALUE, "%s: option '%s': false or a finite number%s needed, got %g",
                 k->op->info.name, key, key[0] == 's' ? " above 0" : "", v);
}

/* Checks those options and decay, input i, for s (B,H,T,S), and makes `sums` the meta of the f64
 * running sums (B,Hd,S), or of nothing. */
static inline al_status logit_shape(al_ctx *c, const al_call *k, int i, al_meta *sums) {
  const al_meta *s = &k->in_meta[0], *a = &k->in_meta[i];
  *sums = (al_meta){.dtype = AL_F64, .ndim = 1, .shape = {0}};
  AL_TRY(logit_number(c, k, "softcap"));
  AL_TRY(logit_number(c, k, "clamp"));
  if (!k->in[i]) return AL_OK;
  AL_TRY(visible_axes(c, k, i, 3, "(B,S,Hd)"));
  if (a->shape[0] != s->shape[0] || a->shape[1] != s->shape[3])
    return al_fail(c, AL_ESHAPE, "%s: decay: shape (%lld,%lld,Hd) needed to match s %s, got %s",
                   k->op->info.name, (long long)s->shape[0], (long long)s->shape[3], AL_META_STR(s),
                   AL_META_STR(a));
  AL_TRY(visible_heads(c, k, i, s->shape[1], a->shape[2]));
  if (!al_opt_bool(k->opts, "causal"))
    return al_fail(c, AL_EVALUE,
                   "%s: decay: causal=true needed: a row decays from its last visible key back",
                   k->op->info.name);
  *sums = (al_meta){.dtype = AL_F64, .ndim = 3, .shape = {a->shape[0], a->shape[2], a->shape[1]}};
  return AL_OK;
}

static inline alk_weight_spec logit_limits(const al_call *k) {
  const bool capped = al_opt_kind(k->opts, "softcap") == AL_T_NUM,
             clamped = al_opt_kind(k->opts, "clamp") == AL_T_NUM;
  return (alk_weight_spec){.round = al_opt_bool(k->opts, "round_bf16"),
                           .softcap = capped ? al_opt_num(k->opts, "softcap") : 0,
                           .clamp = clamped ? al_opt_num(k->opts, "clamp") : INFINITY};
}

/* The limits and the decay, input i. */
static inline alk_weight_spec logit_spec(const al_call *k, int i) {
  alk_weight_spec spec = logit_limits(k);
  spec.Hd = k->in_meta[i].ndim == 3 ? k->in_meta[i].shape[2] : 0;
  return spec;
}

/* Fills the running sums from decay (may be NULL) and returns them, or NULL. */
static inline const al_numbers *logit_sums(al_ctx *c, const al_tensor *decay, al_tensor *sums) {
  if (!decay) return NULL;
  ALK_RUN(al_here(c, (alk_dtype)al_type(decay)), decay_sums, al_size(decay, 0), al_size(decay, 1),
          al_size(decay, 2), al_data(decay), al_data(sums));
  return al_data(sums);
}
#endif
