/* cross_entropy.c: loss = log sum exp(logits) - logits[target], by rows. Backward makes the
 * probabilities again from the saved logarithm and writes the gradient over the logits where the
 * graph alone holds them: nothing more of size (N,V) is there. */
#include "shape.h"
#include "../../kernels/cross_entropy.h"

enum { LOSS, LSE, SCALE };

static int64_t rows_of(const al_meta *t) {
  int64_t n = 1;
  for (int i = 0; i < t->ndim; i++) n *= t->shape[i];
  return n;
}

static al_status shape(al_ctx *c, al_call *k) {
  const al_meta *x = &k->in_meta[0], *t = &k->in_meta[1];
  if (x->ndim < 1 || x->shape[x->ndim - 1] == 0)
    return al_fail(c, AL_ESHAPE, "cross_entropy: logits: (N..,V) with V > 0 needed, got %s",
                   AL_META_STR(x));
  bool fits = x->ndim == t->ndim + 1;
  for (int i = 0; fits && i < t->ndim; i++) fits = x->shape[i] == t->shape[i];
  if (!fits) {
    al_meta rows = *x;
    rows.ndim--;
    return al_fail(c, AL_ESHAPE, "cross_entropy: target: %s needed for logits %s, got %s",
                   AL_META_STR(&rows), AL_META_STR(x), AL_META_STR(t));
  }
  al_meta *loss = &k->out_meta[LOSS], *lse = &k->out_meta[LSE];
  *loss = *lse = *t;
  loss->dtype = lse->dtype = x->dtype;
  if (!al_opt_is(k->opts, "reduction", "none")) loss->ndim = 0;
  k->out_meta[SCALE] = (al_meta){.dtype = AL_F64};
  return AL_OK;
}

static al_status forward(al_ctx *c, al_call *k) {
  const al_meta *m = &k->in_meta[0];
  const int64_t N = rows_of(&k->in_meta[1]), V = m->shape[m->ndim - 1],
                ignore = al_opt_int(k->opts, "ignore");
  AL_TRY(al_check_ids(c, k, 1, V - 1, "ignore", ignore));
  const al_tensor *x = k->in[0], *t = k->in[1];
  const al_place *at = al_here(c, (alk_dtype)m->dtype);
  const bool none = al_opt_is(k->opts, "reduction", "none");
  al_tensor *loss = none ? al_retain(k->out[LOSS]) : al_new_meta(c, &k->out_meta[LSE]);
  if (!loss) return al_error(c);
  ALK_RUN(at, cross_entropy_fwd, N, V, ignore, al_data(x), al_data(t), al_data(k->out[LSE]),
          al_data(loss));
  ALK_RUN(at, cross_entropy_scale, N, ignore, al_opt_is(k->opts, "reduction", "mean"), al_data(t),
          al_data(k->out[SCALE]));
  if (!none)
    ALK_RUN(at, cross_entropy_total, N, al_data(k->out[SCALE]), al_data(loss),
            al_data(k->out[LOSS]));
  al_release(loss);
  return al_error(c);
}

static al_status backward(al_ctx *c, al_call *k) {
  const al_tensor *x = k->in[0], *t = k->in[1];
  const al_numbers *logits = al_data(x); /* x may be the gradient's from here on */
  al_tensor *dx = k->din[0] = al_take_over(c, &k->in[0]);
  if (!dx) return al_error(c);
  return ALK_RUN(al_here(c, (alk_dtype)al_type(dx)), cross_entropy_bwd, rows_of(&k->in_meta[1]),
                 al_size(dx, -1), al_opt_int(k->opts, "ignore"), logits, al_data(t),
                 al_data(k->out[LSE]), !al_opt_is(k->opts, "reduction", "none"),
                 al_data(k->out[SCALE]), al_data(k->dout[LOSS]), al_data(dx));
}

static const al_op cross_entropy = {
    .info = {.name = "cross_entropy",
             .doc = "Cross entropy of logits (N..,V) with targets (N..) in nats; 0 when every "
                    "target is ignored.",
             .inputs = (const al_row[]){{"logits", 0, "(N..,V)"},
                                        {"target", AL_IN_I32 | AL_IN_NODIFF,
                                         "(N..) i32 in 0..V-1, or `ignore`"},
                                        {0}},
             .outputs =
                 (const al_row[]){{"loss", AL_STAT, "scalar, or (N..) with reduction none"},
                                  {"lse", AL_OUT_SAVED | AL_STAT, "(N..) log sum exp of each row"},
                                  {"scale", AL_OUT_SAVED, "of the sum over the rows"},
                                  {0}},
             .args =
                 (const al_arg[]){
                     {.name = "ignore",
                      .type = AL_T_INT,
                      .def = "-100",
                      .doc = "target of rows that do not count"},
                     {.name = "reduction",
                      .type = AL_T_WORD,
                      .def = "mean",
                      .choices = "mean sum none",
                      .doc = "mean over the rows that count, their sum, or each row's loss"},
                     {0}}},
    .shape = shape,
    .forward = forward,
    .bf16 = AL_KERNELS(alk_cross_entropy_fwd_has, alk_cross_entropy_scale_has,
                       alk_cross_entropy_total_has, alk_cross_entropy_bwd_has),
    .backward = backward,
    .reads_in = 1 | 2,
    .reads_out = 1 << LSE | 1 << SCALE,
    .samples = (const al_sample[]){{.inputs = "(3,65) i(3)<65"},
                                   {"(2,3,5) i(2,3)<5", .args = "reduction=sum"},
                                   {"(4,7)t i(4)<7", .args = "reduction=none"},
                                   {"(9,3) i(9)<3", .args = "ignore=1"},
                                   {"(9,3) i(9)<3", .args = "ignore=0 reduction=none", .lo = -40,
                                    .hi = 40},
                                   {.inputs = "(5) i()<5"},
                                   {"(3,16) i(3)<16", .args = "ignore=2"},
                                   {.inputs = "(2,4160) i(2)<4160"},
                                   {0}},
};

AL_OPS(cross_entropy, &cross_entropy);
