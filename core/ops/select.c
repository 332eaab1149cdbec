/* select.c: y = cond ? a : b with broadcasting. The gradient goes to the chosen side alone: the
 * other side's is 0 even where dy is not finite. */
#include "shape.h"
#include "../../kernels/select.h"

static al_status shape(al_ctx *c, al_call *k) {
  al_meta *y = &k->out_meta[0];
  *y = k->in_meta[1];
  if (!broadcast_into(y, k->in_meta[2].ndim, k->in_meta[2].shape))
    return al_fail(c, AL_ESHAPE, "select: b: a shape that broadcasts with a %s needed, got %s",
                   AL_META_STR(&k->in_meta[1]), AL_META_STR(&k->in_meta[2]));
  const al_meta ab = *y;
  if (!broadcast_into(y, k->in_meta[0].ndim, k->in_meta[0].shape))
    return al_fail(c, AL_ESHAPE,
                   "select: cond: a shape that broadcasts with a and b %s needed, got %s",
                   AL_META_STR(&ab), AL_META_STR(&k->in_meta[0]));
  return AL_OK;
}

/* y = cond ? a : b, a side that is NULL being 0. */
static void choose(al_ctx *c, al_tensor *y, const al_tensor *cond, const al_tensor *a,
                   const al_tensor *b) {
  const alk_view vy = al_view(y);
  alk_view side[3] = {{.ndim = vy.ndim}, {.ndim = vy.ndim}, {.ndim = vy.ndim}};
  const al_tensor *t[3] = {cond, a, b};
  for (int i = 0; i < 3; i++)
    if (t[i]) side[i] = broadcast_view(t[i], vy.ndim, vy.size);
  ALK_RUN(al_here(c, vy.dtype), select, &vy, &side[0], &side[1], &side[2]);
}

static al_status forward(al_ctx *c, al_call *k) {
  choose(c, k->out[0], k->in[0], k->in[1], k->in[2]);
  return al_error(c);
}

static al_status backward(al_ctx *c, al_call *k) {
  for (int i = 1; i < 3; i++) {
    if (!k->need[i]) continue;
    al_tensor *d = al_new_meta(c, &k->out_meta[0]);
    if (!d) break;
    choose(c, d, k->in[0], i == 1 ? k->dout[0] : NULL, i == 2 ? k->dout[0] : NULL);
    k->din[i] = sum_to(c, d, &k->in_meta[i]);
  }
  return al_error(c);
}

static const al_op select_op = {
    .info = {.name = "select",
             .doc = "Elementwise cond ? a : b; the three broadcast to one shape.",
             .inputs =
                 (const al_row[]){{"cond", AL_IN_ANY | AL_IN_NODIFF, "any dtype; true where not 0"},
                                  {"a", 0, "taken where cond is true"},
                                  {"b", 0, "taken elsewhere"},
                                  {0}},
             .outputs = (const al_row[]){{"y", 0, "the common shape"}, {0}},
             .args = (const al_arg[]){{0}}},
    .flags = AL_OP_STRIDED,
    .shape = shape,
    .forward = forward,
    .bf16 = AL_KERNELS(alk_select_has),
    .backward = backward,
    .reads_in = 1,
    .samples = (const al_sample[]){{.inputs = "i(3,5)<2 (3,5) (3,5)"},
                                   {.inputs = "i(5)<2 (3,1) (2,1,5)t"},
                                   {.inputs = "i(2,3,4)t<2 (1) (3,4)t"},
                                   {.inputs = "(3,1) (1,4) (4)"},
                                   {.inputs = "i(190,1)<2 (190,180) (180)"},
                                   {0}},
};

AL_OPS(select, &select_op);
