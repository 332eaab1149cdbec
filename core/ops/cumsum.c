/* cumsum.c: running sum along one axis; its gradient is the running sum from the end. */
#include "../op.h"
#include "../../kernels/cumsum.h"

static al_status shape(al_ctx *c, al_call *k) {
  k->out_meta[0] = k->in_meta[0];
  return al_axis(c, k, "axis", k->in_meta[0].ndim, k->plan);
}

static al_status run(al_ctx *c, const al_call *k, bool reverse, const al_tensor *from,
                     al_tensor *to) {
  const al_meta *x = &k->in_meta[0];
  const int axis = *(int *)k->plan;
  int64_t O = 1, I = 1;
  for (int i = 0; i < axis; i++) O *= x->shape[i];
  for (int i = axis + 1; i < x->ndim; i++) I *= x->shape[i];
  ALK_RUN(al_here(c, (alk_dtype)x->dtype), cumsum, reverse, O, x->shape[axis], I, al_data(from),
          al_data(to));
  return AL_OK;
}

static al_status forward(al_ctx *c, al_call *k) { return run(c, k, false, k->in[0], k->out[0]); }

static al_status backward(al_ctx *c, al_call *k) {
  k->din[0] = al_new_meta(c, &k->in_meta[0]);
  return k->din[0] ? run(c, k, true, k->dout[0], k->din[0]) : al_error(c);
}

static const al_op cumsum = {
    .info = {.name = "cumsum",
             .doc =
                 "Running sum along an axis of x (..): y_r = x_0 + .. + x_r, accumulated in f64.",
             .inputs = (const al_row[]){{"x", 0, "(..)"}, {0}},
             .outputs = (const al_row[]){{"y", 0, "(..), the shape of x"}, {0}},
             .args = (const al_arg[]){{.name = "axis",
                                       .type = AL_T_AXIS,
                                       .def = "-1",
                                       .doc = "axis along which it runs"},
                                      {0}}},
    .shape = shape,
    .forward = forward,
    .bf16 = AL_KERNELS(alk_cumsum_has),
    .backward = backward,
    .plan_size = sizeof(int),
    .samples = (const al_sample[]){{.inputs = "(3,37)"},
                                   {"(5,67)", .args = "axis=0"},
                                   {"(2,3,5)t", .args = "axis=1"},
                                   {.inputs = "(1)"},
                                   {0}},
};

AL_OPS(cumsum, &cumsum);
