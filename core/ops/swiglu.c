/* swiglu.c: silu(a) b, the gate of Llama's MLP (Shazeer 2020), in one pass each way: sigmoid(a) is
 * made again in backward, nothing but a and b is kept. */
#include "shape.h"
#include "../../kernels/swiglu.h"

static al_status shape(al_ctx *c, al_call *k) {
  const al_meta *a = &k->in_meta[0], *b = &k->in_meta[1];
  bool same = a->ndim == b->ndim;
  for (int i = 0; same && i < a->ndim; i++) same = a->shape[i] == b->shape[i];
  if (!same)
    return al_fail(c, AL_ESHAPE, "swiglu: b: %s needed as a has it, got %s", AL_META_STR(a),
                   AL_META_STR(b));
  k->out_meta[0] = *a;
  return AL_OK;
}

static al_status forward(al_ctx *c, al_call *k) {
  const al_tensor *a = k->in[0];
  ALK_RUN(al_here(c, (alk_dtype)al_type(a)), swiglu_fwd, al_numel(a), al_data(a), al_data(k->in[1]),
          al_data(k->out[0]));
  return AL_OK;
}

static al_status backward(al_ctx *c, al_call *k) {
  const al_tensor *a = k->in[0];
  al_tensor *dy = k->dout[0];
  for (int i = 0; i < 2; i++) /* the second is refused dy's own memory once the first has it */
    if (k->need[i]) k->din[i] = al_overwrite(c, dy);
  if (al_error(c) == AL_OK)
    ALK_RUN(al_here(c, (alk_dtype)al_type(a)), swiglu_bwd, al_numel(a), al_data(a),
            al_data(k->in[1]), al_data(dy), al_data(k->din[0]), al_data(k->din[1]));
  return al_error(c);
}

static const al_op swiglu = {
    .info = {.name = "swiglu",
             .doc = "silu(a) b = a sigmoid(a) b, element by element; a and b (..).",
             .inputs = (const al_row[]){{"a", 0, "(..), the gate"}, {"b", 0, "(..)"}, {0}},
             .outputs = (const al_row[]){{"y", 0, "(..)"}, {0}}},
    .shape = shape,
    .forward = forward,
    .bf16 = AL_KERNELS(alk_swiglu_fwd_has, alk_swiglu_bwd_has),
    .backward = backward,
    .reads_in = 1 | 2,
    .samples = (const al_sample[]){{.inputs = "(3,37) (3,37)"},
                                   {"(2,3,5)t (2,3,5)", .lo = -9, .hi = 9},
                                   {"(2,40) (2,40)t", .lo = -40, .hi = 4},
                                   {.inputs = "() ()"},
                                   {.inputs = "(9,4001) (9,4001)"},
                                   {.inputs = "(3,8) (3,8)"},
                                   {0}},
};

AL_OPS(swiglu, &swiglu);
