/* concat.c: tensors joined along one axis. The gradients are windows on the gradient, not
 * copies. */
#include "shape.h"
#include "../../kernels/copy.h"

static al_status shape(al_ctx *c, al_call *k) {
  const al_meta *first = &k->in_meta[0];
  al_meta *y = &k->out_meta[0];
  AL_TRY(al_axis(c, k, "axis", first->ndim, k->plan));
  const int axis = *(int *)k->plan;
  *y = *first;
  for (int i = 1; i < k->n_in; i++) {
    const al_meta *x = &k->in_meta[i];
    if (x->dtype != first->dtype)
      return al_fail(c, AL_ETYPE, "concat: xs: %s needed as the first tensor has it, got %s",
                     al_dtype_name(first->dtype), al_dtype_name(x->dtype));
    bool fits = x->ndim == first->ndim;
    for (int j = 0; j < x->ndim && fits; j++) fits = j == axis || x->shape[j] == first->shape[j];
    if (!fits)
      return al_fail(c, AL_ESHAPE, "concat: xs: shape %s needed but for the joined axis, got %s",
                     AL_META_STR(first), AL_META_STR(x));
    y->shape[axis] += x->shape[axis];
  }
  return AL_OK;
}

/* Where input i lies in t, which has the output's shape. */
static al_tensor *window(al_ctx *c, const al_call *k, const al_tensor *t, int i) {
  const int axis = *(int *)k->plan;
  int64_t start = 0;
  for (int j = 0; j < i; j++) start += k->in_meta[j].shape[axis];
  return al_tensor_view(c, t, al_ndim(t), k->in_meta[i].shape, al_stride(t),
                        k->in_meta[i].shape[axis] ? start * al_stride(t)[axis] : 0);
}

static al_status forward(al_ctx *c, al_call *k) {
  for (int i = 0; i < k->n_in; i++) {
    al_tensor *w = window(c, k, k->out[0], i);
    if (w) al_copy_into(c, w, k->in[i]);
    al_release(w);
  }
  return al_error(c);
}

static al_status backward(al_ctx *c, al_call *k) {
  for (int i = 0; i < k->n_in; i++)
    if (k->need[i]) k->din[i] = window(c, k, k->dout[0], i);
  return al_error(c);
}

static const al_op concat = {
    .info = {.name = "concat",
             .doc =
                 "The given tensors, of one dtype, joined along an axis; their other sizes agree.",
             .inputs = (const al_row[]){{"xs", AL_IN_LIST | AL_IN_ANY, "one or more tensors"}, {0}},
             .outputs = (const al_row[]){{"y", 0, "joined along the axis"}, {0}},
             .args =
                 (const al_arg[]){
                     {.name = "axis", .type = AL_T_AXIS, .def = "-1", .doc = "the axis to join"},
                     {0}}},
    .flags = AL_OP_STRIDED | AL_OP_JOINS,
    .shape = shape,
    .forward = forward,
    .backward = backward,
    .plan_size = sizeof(int),
    .samples = (const al_sample[]){{.inputs = "(2,3) (2,5) (2,1)"},
                                   {"(2,3,4)t (1,3,4) (3,3,4)t", .args = "axis=0"},
                                   {"(2,3,4) (2,0,4) (2,2,4)t", .args = "axis=-2"},
                                   {.inputs = "(5)"},
                                   {0}},
};

AL_OPS(concat, &concat);
