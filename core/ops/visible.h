/* visible.h: what the attention ops share about visibility; for core/ops/ only. */
#ifndef AL_OPS_VISIBLE_H
#define AL_OPS_VISIBLE_H
#include "../../kernels/visible.h"
#include "shape.h"

/* Rows of the options and the input that say what is visible. */
#define VISIBLE_ARGS                                                                               \
  {.name = "causal",                                                                               \
   .type = AL_T_BOOL,                                                                              \
   .def = "false",                                                                                 \
   .doc = "row i sees keys up to position i + offset only"},                                       \
  {                                                                                                \
    .name = "offset", .type = AL_T_INT, .def = "0", .min = -1e15, .max = 1e15,                     \
    .doc = "key position of row 0"                                                                 \
  }
#define LENGTHS_ROW                                                                                \
  { "lengths", AL_IN_OPTIONAL | AL_IN_I32, "(B), 0..S: keys at and past it are hidden" }

/* Numbers that kernels read in f64 whatever the input's type is; new, NULL without input i. */
static inline al_tensor *input_f64(al_ctx *c, const al_call *k, int i) {
  return k->in[i] ? al_run(c, "cast", AL_IN(k->in[i]), "dtype=f64") : NULL;
}
/* The way back for gradients: t, which it takes, in the type of input i; new. */
static inline al_tensor *like_input(al_ctx *c, const al_call *k, int i, al_tensor *t) {
  al_tensor *y = al_run(c, "cast", AL_IN(t), "dtype=%s", al_dtype_name(k->in_meta[i].dtype));
  al_release(t);
  return y;
}

/* Checks that input i has ndim axes; `shape` is how the message writes them. */
static inline al_status visible_axes(al_ctx *c, const al_call *k, int i, int ndim,
                                     const char *shape) {
  if (k->in_meta[i].ndim == ndim) return AL_OK;
  return al_fail(c, AL_ESHAPE, "%s: %s: shape %s needed, got %s", k->op->info.name,
                 k->op->info.inputs[i].name, shape, AL_META_STR(&k->in_meta[i]));
}

/* Checks lengths, input i, against B batch rows of S keys. */
static inline al_status visible_lengths(al_ctx *c, al_call *k, int i, int64_t B, int64_t S) {
  const char *name = k->op->info.name;
  if (!k->in[i]) return AL_OK;
  if (k->in_meta[i].ndim != 1 || k->in_meta[i].shape[0] != B)
    return al_fail(c, AL_ESHAPE, "%s: lengths: shape (%lld) needed to match %s %s, got %s", name,
                   (long long)B, k->op->info.inputs[0].name, AL_META_STR(&k->in_meta[0]),
                   AL_META_STR(&k->in_meta[i]));
  return al_check_ids(c, k, i, S, NULL, 0);
}

/* Checks that the Hkv heads of input i divide the H heads of input 0. */
static inline al_status visible_heads(al_ctx *c, const al_call *k, int i, int64_t H, int64_t Hkv) {
  if (Hkv > 0 && H % Hkv == 0) return AL_OK;
  return al_fail(c, AL_ESHAPE,
                 "%s: %s: a number of heads that divides the %lld of %s %s needed, got %lld in %s",
                 k->op->info.name, k->op->info.inputs[i].name, (long long)H,
                 k->op->info.inputs[0].name, AL_META_STR(&k->in_meta[0]), (long long)Hkv,
                 AL_META_STR(&k->in_meta[i]));
}

/* Entries of the (B,H,T,S) matrix that are visible, lengths not looked at: they may lie anywhere. */
static inline int64_t visible_pairs(const alk_visible *g) {
  int64_t n = g->causal ? 0 : g->T * g->S;
  for (int64_t i = 0; g->causal && i < g->T; i++) {
    const int64_t end = i + g->offset + 1;
    n += end < 0 ? 0 : end < g->S ? end : g->S;
  }
  return g->B * g->H * n;
}

/* What is visible by the options; sizes are the caller's to fill. */
static inline alk_visible visible_of(const al_call *k) {
  return (alk_visible){.causal = al_opt_bool(k->opts, "causal"),
                       .offset = al_opt_int(k->opts, "offset")};
}

/* The same with the sizes of input 0, (B,H,T,S). */
static inline alk_visible visible_of_matrix(const al_call *k) {
  const int64_t *n = k->in_meta[0].shape;
  alk_visible g = visible_of(k);
  g.B = n[0], g.H = g.Hkv = n[1], g.T = n[2], g.S = n[3];
  return g;
}

/* A plan that is, or begins with, an alk_visible, and the lengths, input i. */
static inline alk_visible visible_plan(const al_call *k, int i) {
  alk_visible g = *(const alk_visible *)k->plan;
  g.lengths = al_data(k->in[i]);
  return g;
}
#endif
