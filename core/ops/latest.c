/* latest.c: what came last in a sequence, the latest first: the keys that a window or a
 * convolution looks back at, from its end or from many places at once. */
#include "../../kernels/latest.h"
#include "shape.h"

enum { NEW, OLD, HELD, LENGTHS };

/* The plan, and where the counts lie. */
static alk_latest spec_of(const al_call *k) {
  alk_latest g = *(const alk_latest *)k->plan;
  g.held = al_data(k->in[HELD]), g.lengths = al_data(k->in[LENGTHS]);
  return g;
}

static al_status shape(al_ctx *c, al_call *k) {
  const al_meta *m = &k->in_meta[NEW];
  if (m->ndim < 2)
    return al_fail(c, AL_ESHAPE, "latest: new: shape (B,T,..) needed, got %s", AL_META_STR(m));
  al_meta want = *m;
  if (k->in[OLD]) {
    want.shape[1] = k->in_meta[OLD].ndim > 1 ? k->in_meta[OLD].shape[1] : 0;
    if (k->in_meta[OLD].ndim != m->ndim ||
        memcmp(want.shape, k->in_meta[OLD].shape, (size_t)m->ndim * sizeof *want.shape) != 0)
      return al_fail(c, AL_ESHAPE, "latest: old: the shape of new %s but for axis 1 needed, got %s",
                     AL_META_STR(m), AL_META_STR(&k->in_meta[OLD]));
  }
  for (int i = HELD; i <= LENGTHS; i++)
    if (k->in[i] && (k->in_meta[i].ndim != 1 || k->in_meta[i].shape[0] != m->shape[0]))
      return al_fail(c, AL_ESHAPE, "latest: %s: shape (%lld) needed to match new %s, got %s",
                     k->op->info.inputs[i].name, (long long)m->shape[0], AL_META_STR(m),
                     AL_META_STR(&k->in_meta[i]));
  alk_latest *g = k->plan;
  *g = (alk_latest){.B = m->shape[0],
                    .T = m->shape[1],
                    .width = 1,
                    .K = k->in[OLD] ? want.shape[1] : 0,
                    .size = al_opt_int(k->opts, "size"),
                    .every = al_opt_int(k->opts, "every")};
  for (int i = 2; i < m->ndim; i++) g->width *= m->shape[i];
  k->out_meta[0] = *m;
  if (m->shape[0] && alk_latest_places(g) > INT64_MAX / m->shape[0])
    return al_fail(c, AL_ESHAPE, "latest: too many places in new %s", AL_META_STR(m));
  k->out_meta[0].shape[0] = m->shape[0] * alk_latest_places(g);
  k->out_meta[0].shape[1] = g->size;
  return AL_OK;
}

static al_status forward(al_ctx *c, al_call *k) {
  const alk_latest g = spec_of(k);
  return ALK_RUN(al_here(c, (alk_dtype)k->out_meta[0].dtype), latest_fwd, &g, al_data(k->in[OLD]),
                 al_data(k->in[NEW]), al_data(k->out[0]));
}

static al_status backward(al_ctx *c, al_call *k) {
  const alk_latest g = spec_of(k);
  for (int i = NEW; i <= OLD; i++)
    if (k->need[i] && !(k->din[i] = al_new_meta(c, &k->in_meta[i]))) return al_error(c);
  return ALK_RUN(al_here(c, (alk_dtype)k->out_meta[0].dtype), latest_bwd, &g, al_data(k->dout[0]),
                 al_data(k->din[OLD]), al_data(k->din[NEW]));
}

static const al_op latest = {
    .info = {.name = "latest",
             .doc = "The last `size` entries of a sequence, the latest first, 0 where there are "
                    "fewer -> (B,size,..). The sequence is old, the latest first, and then new; "
                    "with every=n from before each n-th entry of new: (B places,size,..).",
             .inputs = (const al_row[]){{"new", 0, "(B,T,..)"},
                                        {"old", AL_IN_OPTIONAL, "(B,K,..), the latest first"},
                                        {"held", AL_IN_OPTIONAL | AL_IN_I32,
                                         "(B): entries of old that count, at most K; else all"},
                                        {"lengths", AL_IN_OPTIONAL | AL_IN_I32,
                                         "(B): entries of new that count, at most T; else all"},
                                        {0}},
             .outputs = (const al_row[]){{"y", 0, "(B,size,..) or (B places,size,..)"}, {0}},
             .args = (const al_arg[]){{"size", AL_T_INT, "1", NULL, 0, 1e15, "entries", NULL},
                                      {"every", AL_T_INT, "0", NULL, 0, 1e15,
                                       "0: from the end of new; n: from before entry 0, n, 2n, ..",
                                       NULL},
                                      {0}}},
    .shape = shape,
    .forward = forward,
    .bf16 = AL_KERNELS(alk_latest_fwd_has, alk_latest_bwd_has),
    .backward = backward,
    .plan_size = sizeof(alk_latest),
    .reads_in = 1 << HELD | 1 << LENGTHS,
    .samples = (const al_sample[]){{"(2,5,3)", .args = "size=7"},
                                   {"(2,5,3)t (2,4,3) i(2)<6 i(2)<7", .args = "size=6"},
                                   {"(2,7,2) (2,3,2)t i(2)<5 i(2)<9", .args = "size=4 every=3"},
                                   {"(1,9,2,3) (1,2,2,3)", .args = "size=8 every=2"},
                                   {"(3,4) - - i(3)<5", .args = "size=4"},
                                   {"(2,200,100)", .args = "size=300 every=64"},
                                   {0}},
};

AL_OPS(latest, &latest);
