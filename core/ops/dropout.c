/* dropout.c: keeps each element with probability 1 - p and scales it by 1 / (1 - p). Which elements
 * is a pure function of the key, so backward draws them again instead of storing a mask. */
#include "shape.h"
#include "../../kernels/dropout.h"

static al_status shape(al_ctx *c, al_call *k) {
  k->out_meta[0] = k->in_meta[0];
  return al_error(c);
}

static void drop(al_ctx *c, const al_call *k, al_tensor *y, const al_tensor *x) {
  const double p = al_opt_num(k->opts, "p");
  ALK_RUN(al_here(c, (alk_dtype)al_type(y)), dropout, al_data(y), al_data(x), al_numel(y),
          (uint64_t)al_opt_int(k->opts, "key"), (uint64_t)(p * 4294967296.0),
          p < 1 ? 1 / (1 - p) : 0);
}

static al_status forward(al_ctx *c, al_call *k) {
  drop(c, k, k->out[0], k->in[0]);
  return al_error(c);
}

static al_status backward(al_ctx *c, al_call *k) {
  if ((k->din[0] = al_new_meta(c, &k->in_meta[0]))) drop(c, k, k->din[0], k->dout[0]);
  return al_error(c);
}

static const al_op dropout = {
    .info = {.name = "dropout",
             .doc = "Keeps each element of x with probability 1 - p, scaled by 1 / (1 - p); the "
                    "others become 0.",
             .inputs = (const al_row[]){{"x", 0, "any shape"}, {0}},
             .outputs = (const al_row[]){{"y", 0, "x's shape"}, {0}},
             .args =
                 (const al_arg[]){{.name = "p",
                                   .type = AL_T_NUM,
                                   .def = "0.1",
                                   .min = 0,
                                   .max = 1,
                                   .doc = "probability to drop"},
                                  {.name = "key",
                                   .type = AL_T_INT,
                                   .def = "-1",
                                   .min = -1,
                                   .max = 9007199254740992.0,
                                   .doc = "which elements; -1 draws the next key of the context"},
                                  {0}}},
    .flags = AL_OP_RANDOM,
    .shape = shape,
    .forward = forward,
    .bf16 = AL_KERNELS(alk_dropout_has),
    .backward = backward,
    .samples = (const al_sample[]){{"(3,5)", .args = "key=1"},
                                   {"(2,9,11)t", .args = "p=0.5 key=12345678901"},
                                   {"(6)", .args = "p=0 key=3"},
                                   {"(6)", .args = "p=1 key=3"},
                                   {"(9001)", .args = "key=77"},
                                   {0}},
};

AL_OPS(dropout, &dropout);
