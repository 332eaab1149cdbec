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

/* The gradient (n,H) of the scalars: the sum of each head's part (B,H,n) of it; new. */
static inline al_tensor *expression_grad(al_ctx *c, const al_call *k, int i, al_tensor *parts) {
  al_tensor *sum = al_run(c, "sum", AL_IN(parts), "axes={0}"),
            *t = al_run(c, "permute", AL_IN(sum), "axes={1,0}");
  al_release(sum);
  return like_input(c, k, i, t);
}
#endif
