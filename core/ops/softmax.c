/* softmax.c: softmax and its logarithm along one axis; backward reads the result alone. */
#include "../op.h"
#include "../../kernels/softmax.h"

static const al_op softmax, log_softmax;

/* The plan is x as (O,R,I) with the axis in the middle. */
static al_status shape(al_ctx *c, al_call *k) {
  const al_meta *x = &k->in_meta[0];
  int64_t *d = k->plan;
  int axis;
  k->out_meta[0] = *x;
  AL_TRY(al_axis(c, k, "axis", x->ndim, &axis));
  d[0] = d[2] = 1;
  d[1] = x->shape[axis];
  for (int i = 0; i < axis; i++) d[0] *= x->shape[i];
  for (int i = axis + 1; i < x->ndim; i++) d[2] *= x->shape[i];
  return AL_OK;
}

static al_status forward(al_ctx *c, al_call *k) {
  const int64_t *d = k->plan;
  ALK_RUN(al_here(c, (alk_dtype)al_type(k->in[0])), softmax_fwd, k->op == &log_softmax, d[0], d[1],
          d[2], al_data(k->in[0]), al_data(k->out[0]));
  return AL_OK;
}

static al_status backward(al_ctx *c, al_call *k) {
  const int64_t *d = k->plan;
  al_tensor *dx = al_new_meta(c, &k->in_meta[0]);
  if (!dx) return al_error(c);
  ALK_RUN(al_here(c, (alk_dtype)al_type(dx)), softmax_bwd, k->op == &log_softmax, d[0], d[1], d[2],
          al_data(k->out[0]), al_data(k->dout[0]), al_data(dx));
  k->din[0] = dx;
  return AL_OK;
}

static const al_row inputs[] = {{"x", 0, "(..)"}, {0}};
static const al_row outputs[] = {{"y", 0, "(..), the shape of x"}, {0}};
static const al_arg args[] = {
    {.name = "axis", .type = AL_T_AXIS, .def = "-1", .doc = "axis that is normalised"}, {0}};
static const al_sample samples[] = {{.inputs = "(3,65)"},        {"(2,3,4)t", .lo = -30, .hi = 30},
                                    {"(5,3)", .args = "axis=0"}, {"(2,5,67)", .args = "axis=1"},
                                    {"(1)", .args = ""},         {0}};

static const al_op softmax = {
    .info =
        {.name = "softmax",
         .doc =
             "exp(x) / sum exp(x) along an axis of x (..); a line that is -inf throughout gives 0.",
         .inputs = inputs,
         .outputs = outputs,
         .args = args},
    .shape = shape,
    .forward = forward,
    .bf16 = AL_KERNELS(alk_softmax_fwd_has, alk_softmax_bwd_has),
    .backward = backward,
    .plan_size = 3 * sizeof(int64_t),
    .reads_out = 1,
    .samples = samples,
};
static const al_op log_softmax = {
    .info = {.name = "log_softmax",
             .doc = "x - log sum exp(x) along an axis of x (..).",
             .inputs = inputs,
             .outputs = outputs,
             .args = args},
    .shape = shape,
    .forward = forward,
    .bf16 = AL_KERNELS(alk_softmax_fwd_has, alk_softmax_bwd_has),
    .backward = backward,
    .plan_size = 3 * sizeof(int64_t),
    .reads_out = 1,
    .samples = samples,
};

AL_OPS(softmax, &softmax, &log_softmax);
