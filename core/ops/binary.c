/* binary.c: one op for each entry of kernels/binary.def: (a, b) -> y with numpy broadcasting.
 *
 * The gradient of an operand that repeats is the sum over the axes along which it does, in the
 * fixed order of the op sum. */
#include "shape.h"
#include "../../kernels/binary.h"

static int index_of(const al_call *k);

static al_status shape(al_ctx *c, al_call *k) {
  const al_meta *b = &k->in_meta[1];
  k->out_meta[0] = k->in_meta[0];
  if (!broadcast_into(&k->out_meta[0], b->ndim, b->shape))
    return al_fail(
        c, AL_ESHAPE,
        "%s: b: a shape that broadcasts with a %s needed (sizes equal or 1 from the last "
        "axis on), got %s",
        k->op->info.name, AL_META_STR(&k->in_meta[0]), AL_META_STR(b));
  return AL_OK;
}

static void run(al_ctx *c, const al_call *k, int part, const al_tensor *a, const al_tensor *b,
                const al_tensor *dy, al_tensor *y) {
  const alk_view va = broadcast_view(a, al_ndim(y), al_shape(y));
  const alk_view vb = broadcast_view(b, al_ndim(y), al_shape(y));
  ALK_RUN(al_here(c, (alk_dtype)al_type(y)), binary, index_of(k), part, &va, &vb, al_data(dy),
          al_data(y));
}

static al_status forward(al_ctx *c, al_call *k) {
  run(c, k, ALK_BIN_VALUE, k->in[0], k->in[1], NULL, k->out[0]);
  return AL_OK;
}

/* in[] is NULL where the gradient reads dy alone: any view of that shape stands in for it. */
static al_status backward(al_ctx *c, al_call *k) {
  al_tensor *dy = k->dout[0];
  for (int i = 0; i < 2; i++) {
    if (!k->need[i]) continue;
    al_tensor *d = al_new_meta(c, &k->out_meta[0]);
    if (!d) break;
    run(c, k, i == 0 ? ALK_BIN_DA : ALK_BIN_DB, k->in[0] ? k->in[0] : dy, k->in[1] ? k->in[1] : dy,
        dy, d);
    k->din[i] = sum_to(c, d, &k->in_meta[i]);
  }
  return al_error(c);
}

static al_status backward_sum(al_ctx *c, al_call *k) {
  for (int i = 0; i < 2; i++)
    if (k->need[i]) k->din[i] = sum_to(c, al_retain(k->dout[0]), &k->in_meta[i]);
  return al_error(c);
}

static const al_row inputs[] = {{"a", 0, "(..)"}, {"b", 0, "(..), broadcasts with a"}, {0}};
static const al_row outputs[] = {{"y", 0, "the broadcast shape"}, {0}};

#define BACKWARD_READ .backward = backward, .reads_in = 1 | 2
#define BACKWARD_FLAT .backward = backward
#define BACKWARD_SUM .backward = backward_sum
#define BINARY(stem, value, da, db, kind, low, high, text)                                         \
  [ALK_BIN_##                                                                                      \
      stem] = {.info = {.name = #stem,                                                             \
                        .doc = "Elementwise " text ", shapes broadcast as in numpy.",              \
                        .inputs = inputs,                                                          \
                        .outputs = outputs},                                                       \
               .shape = shape,                                                                     \
               .forward = forward,                                                                 \
               .bf16 = AL_KERNELS(alk_binary_has),                                                 \
               BACKWARD_##kind,                                                                    \
               .samples = (const al_sample[]){{"(3,7) p(3,7)", "", low, high, NULL},               \
                                              {"(2,8) p(2,8)", "", low, high, NULL},               \
                                              {"(2,3)t p(2,3)", "", low, high, NULL},              \
                                              {"(2,3,4) p(4)", "", low, high, NULL},               \
                                              {"(5) p(2,3,5)", "", low, high, NULL},               \
                                              {"(2,3,4) p(2,3,1)", "", low, high, NULL},           \
                                              {"(2,1,4) p(3,1)", "", low, high, NULL},             \
                                              {"(2,3) p()", "", low, high, NULL},                  \
                                              {"(2,1,3,1) p(1,4,1,2)", "", low, high, NULL},       \
                                              {0}}},
static const al_op table[] = {
#include "../../kernels/binary.def"
};
#undef BINARY

static int index_of(const al_call *k) { return (int)(k->op - table); }

#define BINARY(name, ...) &table[ALK_BIN_##name],
const al_op *const al_ops_binary[] = {
#include "../../kernels/binary.def"
    NULL};
