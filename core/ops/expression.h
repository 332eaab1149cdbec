/* expression.h: what the ops that run an expression share: its options, its scalars and their
 * gradient; for core/ops/ only. */
#ifndef AL_OPS_EXPRESSION_H
#define AL_OPS_EXPRESSION_H
#include "logits.h"
#include "../../kernels/program.h"

#define EXPRESSION_ARGS(nothing)                                                                   \
  {.name = "expr",                                                                                 \
   .type = AL_T_TEXT,                                                                              \
   .def = nothing,                                                                                 \
   .doc = "a function of the logit s after the limits, of the positions i and j of row and key, "  \
          "counted from 1, and of scalars"},                                                       \
  {                                                                                                \
    .name = "expr_names", .type = AL_T_TEXT, .def = "",                                            \
    .doc = "names of the scalars, separated by spaces"                                             \
  }
#define EXPRESSION_ROW                                                                             \
  { "expr_scalars", AL_IN_OPTIONAL, "(n,H): the scalars by name, of every head" }

/* The program of the options; input i holds the scalars of H heads. */
static inline al_status expression_of(al_ctx *c, const al_call *k, int i, int64_t H,
                                      alk_program *p) {
  const char *name = k->op->info.name;
  char owner[80];
  snprintf(owner, sizeof owner, "%s: expr", name);
  AL_TRY(al_program_from(c, owner, al_opt_word(k->opts, "expr"), al_opt_word(k->opts, "expr_names"),
                         p));
  if (!k->in_meta[i].ndim && !p->n_scalars) return AL_OK;
  AL_TRY(visible_axes(c, k, i, 2, "(n,H)"));
  const int64_t *size = k->in_meta[i].shape;
  if (size[0] == p->n_scalars && size[1] == H) return AL_OK;
  return al_fail(c, AL_ESHAPE, "%s: expr_scalars: shape (%d,%lld) needed, one row a name, got %s",
                 name, p->n_scalars, (long long)H, AL_META_STR(&k->in_meta[i]));
}

/* The scalars as the kernels read them, or NULL without any: release it. */
static inline al_tensor *expression_scalars(al_ctx *c, const al_call *k, int i,
                                            alk_weight_spec *spec) {
  if (!k->in[i]) return NULL;
  al_tensor *t = al_tensor_new(c, AL_F64, 2, k->in_meta[i].shape);
  if (t) al_read(k->in[i], al_data(t), al_numel(t));
  if (t) spec->scalars = al_data(t);
  return t;
}

/* The gradient (n,H) of the scalars from each head's part (B,H,n), added up in order. */
static inline al_tensor *expression_grad(al_ctx *c, const al_call *k, int i, const double *parts,
                                         int64_t B) {
  const int64_t n = k->in_meta[i].shape[0], H = k->in_meta[i].shape[1];
  al_tensor *wide = al_tensor_full(c, AL_F64, 2, k->in_meta[i].shape, 0),
            *t = al_new_meta(c, &k->in_meta[i]);
  if (wide && t) {
    double *sum = al_data(wide);
    for (int64_t b = 0; b < B; b++)
      for (int64_t h = 0; h < H; h++)
        for (int64_t m = 0; m < n; m++) sum[m * H + h] += parts[(b * H + h) * n + m];
    al_write(t, sum, n * H);
  }
  al_release(wide);
  return t;
}
#endif
