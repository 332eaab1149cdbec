/* pointwise.c: one op for each entry of kernels/pointwise.def. x (..) -> y (..), element by
 * element. */
#include "../op.h"
#include "../../kernels/pointwise.h"

static alk_pointwise index_of(const al_call *k);

static al_status shape(al_ctx *c, al_call *k) {
  (void)c;
  k->out_meta[0] = k->in_meta[0];
  return AL_OK;
}

/* Values of the entry's parameters, in order. */
static const double *parameters(const al_call *k, double p[2]) {
  for (int i = 0; i < 2; i++) p[i] = 0;
  for (int i = 0; i < 2 && k->op->info.args[i].name; i++)
    p[i] = al_opt_num(k->opts, k->op->info.args[i].name);
  return p;
}

static al_status forward(al_ctx *c, al_call *k) {
  const al_tensor *x = k->in[0];
  ALK_RUN(al_here(c, (alk_dtype)al_type(x)), pointwise_fwd, index_of(k), al_numel(x), al_data(x),
          al_data(k->out[0]), parameters(k, (double[2]){0}));
  return AL_OK;
}

static al_status backward(al_ctx *c, al_call *k) {
  al_tensor *dy = k->dout[0], *read = k->in[0] ? k->in[0] : k->out[0];
  al_tensor *dx = al_new_meta(c, &k->in_meta[0]);
  if (!dx) return al_error(c);
  ALK_RUN(al_here(c, (alk_dtype)al_type(dy)), pointwise_bwd, index_of(k), al_numel(dy),
          al_data(read), al_data(dy), al_data(dx), parameters(k, (double[2]){0}));
  k->din[0] = dx;
  return AL_OK;
}

static const al_row inputs[] = {{"x", 0, "(..)"}, {0}};
static const al_row outputs[] = {{"y", 0, "(..), the shape of x"}, {0}};

#define NUM(parameter, value, text)                                                                \
  { .name = parameter, .type = AL_T_NUM, .def = value, .doc = text }
#define READS_X .backward = backward, .reads_in = 1
#define READS_Y .backward = backward, .reads_out = 1
#define READS_NONE .backward = backward
#define READS_STRAIGHT .backward = backward
#define READS_NEVER .backward = NULL
#define EXEMPT_X NULL
#define EXEMPT_Y NULL
#define EXEMPT_NONE NULL
#define EXEMPT_STRAIGHT "the gradient is passed straight through by definition"
#define EXEMPT_NEVER NULL
/* Where there is a gap one sample lies on each side of it. */
#define POINTWISE(stem, value, gradient, reads, lo, hi, gap, sample_args, text, torch, latex,      \
                  sign, slots, ...)                                                                \
  [ALK_PW_##stem] = {.info = {.name = #stem,                                                       \
                              .doc = "Each element of x (..): " text ".",                          \
                              .inputs = inputs,                                                    \
                              .outputs = outputs,                                                  \
                              .args = (const al_arg[]){__VA_ARGS__ __VA_OPT__(, ){0}}},            \
                     .shape = shape,                                                               \
                     .forward = forward,                                                           \
                     .bf16 = AL_KERNELS(alk_pointwise_fwd_has, alk_pointwise_bwd_has),             \
                     READS_##reads,                                                                \
                     .samples = (const al_sample[]){                                               \
                         {"(3,37)", sample_args, (gap) > 0 ? (gap) : (lo), hi, EXEMPT_##reads},    \
                         {"(2,3,5)t", sample_args, lo, (gap) > 0 ? -(gap) : (hi), EXEMPT_##reads}, \
                         {0}}},
static const al_op table[] = {
#include "../../kernels/pointwise.def"
};
#undef POINTWISE

static alk_pointwise index_of(const al_call *k) { return (alk_pointwise)(k->op - table); }

#define POINTWISE(name, ...) &table[ALK_PW_##name],
const al_op *const al_ops_pointwise[] = {
#include "../../kernels/pointwise.def"
    NULL};
