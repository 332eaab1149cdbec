/* add_rmsnorm.c: a residual sum and the rms norm that reads it, in one pass each way. The gradient
 * of the sum goes through here to both inputs, so a residual stream made of this op never adds
 * gradients up in passes of their own. */
#include "shape.h"
#include "../../kernels/add_rmsnorm.h"

enum { X, A, GAIN };
enum { SUM, Y, SCALE };

static al_status shape(al_ctx *c, al_call *k) {
  const al_meta *x = &k->in_meta[X], *a = &k->in_meta[A], *g = &k->in_meta[GAIN];
  if (x->ndim < 1)
    return al_fail(c, AL_ESHAPE, "add_rmsnorm: x: at least one axis needed, got %s",
                   AL_META_STR(x));
  bool same = a->ndim == x->ndim;
  for (int i = 0; same && i < x->ndim; i++) same = a->shape[i] == x->shape[i];
  if (!same)
    return al_fail(c, AL_ESHAPE, "add_rmsnorm: a: %s needed as x has it, got %s", AL_META_STR(x),
                   AL_META_STR(a));
  const int64_t n = x->shape[x->ndim - 1];
  if (k->in[GAIN] && (g->ndim != 1 || g->shape[0] != n))
    return al_fail(c, AL_ESHAPE, "add_rmsnorm: gain: (%lld) needed for x %s, got %s", (long long)n,
                   AL_META_STR(x), AL_META_STR(g));
  k->out_meta[SUM] = k->out_meta[Y] = k->out_meta[SCALE] = *x;
  k->out_meta[SCALE].ndim--;
  return AL_OK;
}

static al_status forward(al_ctx *c, al_call *k) {
  const al_tensor *x = k->in[X];
  const int64_t n = al_size(x, -1);
  ALK_RUN(al_here(c, (alk_dtype)al_type(x)), add_rmsnorm_fwd, n ? al_numel(x) / n : 0, n,
          al_opt_num(k->opts, "eps"), al_data(x), al_data(k->in[A]), al_data(k->in[GAIN]),
          al_data(k->out[SUM]), al_data(k->out[Y]), al_data(k->out[SCALE]));
  return AL_OK;
}

/* x and a get one tensor: their gradients are equal. */
static void give_both(al_call *k, al_tensor *dx) {
  for (int i = X; i <= A; i++)
    if (k->need[i]) k->din[i] = al_retain(dx);
  al_release(dx);
}

static al_status backward(al_ctx *c, al_call *k) {
  const al_meta *x = &k->in_meta[X];
  const int64_t n = x->shape[x->ndim - 1];
  al_tensor *dsum = k->dout[SUM], *dy = k->dout[Y], *dx = NULL, *parts = NULL;
  if (!dy) { /* only the sum was used */
    if (k->need[GAIN]) k->din[GAIN] = al_new_meta_full(c, &k->in_meta[GAIN], 0);
    give_both(k, al_retain(dsum));
    return al_error(c);
  }
  const int64_t N = n ? al_numel(dy) / n : 0,
                chunks = (N + ALK_ADD_RMSNORM_ROWS - 1) / ALK_ADD_RMSNORM_ROWS;
  if (k->need[X] || k->need[A]) dx = dsum ? al_overwrite(c, dsum) : al_overwrite(c, dy);
  if (k->need[GAIN])
    parts = al_tensor_new(c, al_statistic_type(x->dtype), 2, (int64_t[]){chunks, n});
  if (al_error(c) == AL_OK)
    ALK_RUN(al_here(c, (alk_dtype)x->dtype), add_rmsnorm_bwd, N, n, al_data(k->out[SUM]),
            al_data(k->in[GAIN]), al_data(k->out[SCALE]), al_data(dsum), al_data(dy), al_data(dx),
            al_data(parts));
  if (parts) k->din[GAIN] = al_run(c, "sum", AL_IN(parts), "axes={0}");
  al_release(parts);
  if (dx) give_both(k, dx);
  return al_error(c);
}

static const al_op add_rmsnorm = {
    .info = {.name = "add_rmsnorm",
             .doc = "x + a and its rms norm: sum / sqrt(mean sum^2 + eps) over the last axis, "
                    "times gain; x "
                    "and a (..,n).",
             .inputs = (const al_row[]){{"x", 0, "(..,n), a residual stream"},
                                        {"a", 0, "(..,n), what a layer adds to it"},
                                        {"gain", AL_IN_OPTIONAL, "(n), factor of each channel"},
                                        {0}},
             .outputs =
                 (const al_row[]){{"sum", 0, "(..,n) x + a"},
                                  {"y", 0, "(..,n) its norm"},
                                  {"scale", AL_OUT_SAVED | AL_STAT, "(..) factor of each row"},
                                  {0}},
             .args = (const al_arg[]){{.name = "eps",
                                       .type = AL_T_NUM,
                                       .def = "1e-5",
                                       .min = 0,
                                       .max = 1e300,
                                       .doc = "added to the mean square"},
                                      {0}}},
    .shape = shape,
    .forward = forward,
    .bf16 = AL_KERNELS(alk_add_rmsnorm_fwd_has, alk_add_rmsnorm_bwd_has),
    .backward = backward,
    .reads_in = 1 << GAIN,
    .reads_out = 1 << SUM | 1 << SCALE,
    .samples = (const al_sample[]){{.inputs = "(3,7) (3,7)"},
                                   {.inputs = "(2,3,8) (2,3,8) (8)"},
                                   {"(2,3,8)t (2,3,8) (8)", .args = "eps=0.1", .lo = 0.5, .hi = 2},
                                   {"(70,3) (70,3) (3)", .args = "eps=0"},
                                   {"(2,5,40) (2,5,40)t", .args = "eps=0.5"},
                                   {.inputs = "(9) (9) (9)"},
                                   {.inputs = "(130,300) (130,300) (300)"},
                                   {0}},
};

AL_OPS(add_rmsnorm, &add_rmsnorm);
