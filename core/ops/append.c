/* append.c: rows of a batch grow by their new entries, each from where it ends: a cache.
 *
 * Where nothing is recorded the result has room behind it, half of what it holds, and the next
 * append to it writes the new entries there: n tokens cost n and a few copies of the cache, not n
 * of them. What the shorter tensor shows stays (grow.c), but for what lies behind a row's count,
 * which is nobody's. With gradients it is a copy. */
#include "../../kernels/append.h"
#include "shape.h"

enum { CACHE, NEW, COUNTS, LENGTHS };

/* Inputs come with any strides, for the cache's sake. */
static al_status packed(al_ctx *c, al_call *k, int i) {
  al_tensor *t = k->in[i];
  k->in[i] = al_contiguous_ref(c, t);
  al_release(t);
  return al_error(c);
}

static al_status check_counts(al_ctx *c, al_call *k, int i, int64_t most) {
  const al_meta *n = &k->in_meta[i];
  const char *name = k->op->info.inputs[i].name;
  const int64_t B = k->in_meta[CACHE].shape[0];
  if (!k->in[i]) return AL_OK;
  AL_TRY(packed(c, k, i));
  if (n->ndim != 1 || n->shape[0] != B)
    return al_fail(c, AL_ESHAPE, "append: %s: shape (%lld) needed to match cache %s, got %s", name,
                   (long long)B, AL_META_STR(&k->in_meta[CACHE]), AL_META_STR(n));
  return al_check_ids(c, k, i, most, NULL, 0);
}

static al_status shape(al_ctx *c, al_call *k) {
  const al_meta *cache = &k->in_meta[CACHE], *more = &k->in_meta[NEW];
  if (cache->ndim < 2)
    return al_fail(c, AL_ESHAPE, "append: cache: shape (B,S,..) needed, got %s",
                   AL_META_STR(cache));
  al_meta need = *cache;
  need.shape[1] = more->ndim > 1 ? more->shape[1] : 0;
  if (more->ndim != need.ndim ||
      memcmp(more->shape, need.shape, (size_t)need.ndim * sizeof *need.shape) != 0)
    return al_fail(c, AL_ESHAPE, "append: new: the shape of cache %s but for axis 1 needed, got %s",
                   AL_META_STR(cache), AL_META_STR(more));
  AL_TRY(packed(c, k, NEW));
  AL_TRY(check_counts(c, k, COUNTS, cache->shape[1]));
  AL_TRY(check_counts(c, k, LENGTHS, more->shape[1]));
  k->out_meta[0] = need;
  k->out_meta[0].shape[1] = cache->shape[1] + more->shape[1];
  return AL_OK;
}

static alk_append spec_of(const al_call *k) {
  const al_meta *m = &k->in_meta[CACHE];
  alk_append g = {.B = m->shape[0],
                  .S = m->shape[1],
                  .T = k->in_meta[NEW].shape[1],
                  .width = 1,
                  .counts = al_data(k->in[COUNTS]),
                  .lengths = al_data(k->in[LENGTHS])};
  for (int i = 2; i < m->ndim; i++) g.width *= m->shape[i];
  g.cache_row = g.S * g.width;
  g.all_row = (g.S + g.T) * g.width;
  return g;
}

/* Are the entries of each row packed, wherever the rows begin? */
static bool packed_rows(const al_tensor *t) {
  int64_t run = 1;
  for (int i = al_ndim(t) - 1; i >= 1; i--) {
    if (al_size(t, i) != 1 && al_stride(t)[i] != run) return false;
    run *= al_size(t, i);
  }
  return true;
}

static al_status forward(al_ctx *c, al_call *k) {
  const al_meta *m = &k->out_meta[0];
  const al_place *at = al_here(c, (alk_dtype)m->dtype);
  alk_append g = spec_of(k);
  al_tensor *y = k->recorded ? NULL : al_growing_more(c, k->in[CACHE], g.T);
  AL_TRY(al_error(c));
  const bool grown = y != NULL;
  if (!grown) {
    if (!packed_rows(k->in[CACHE])) AL_TRY(packed(c, k, CACHE));
    const int64_t n = m->shape[1], room = k->recorded || g.S == 0 ? 0 : n / 2;
    y = room ? al_growing_new(c, m, n + room) : al_new_meta(c, m);
    if (!y) return al_error(c);
  }
  if (al_numel(k->in[CACHE])) g.cache_row = al_stride(k->in[CACHE])[0];
  if (al_numel(y)) g.all_row = al_stride(y)[0];
  k->out[0] = y;
  return ALK_RUN(at, append_fwd, &g, grown ? NULL : al_data(k->in[CACHE]), al_data(k->in[NEW]),
                 al_data(y));
}

static al_status backward(al_ctx *c, al_call *k) {
  const alk_append g = spec_of(k);
  al_tensor *dy = al_contiguous_ref(c, k->dout[0]);
  for (int i = CACHE; i <= NEW; i++)
    if (k->need[i]) k->din[i] = al_new_meta(c, &k->in_meta[i]);
  if (al_error(c) == AL_OK)
    ALK_RUN(al_here(c, (alk_dtype)k->out_meta[0].dtype), append_bwd, &g, al_data(dy),
            al_data(k->din[CACHE]), al_data(k->din[NEW]));
  al_release(dy);
  return al_error(c);
}

static const al_op append = {
    .info = {.name = "append",
             .doc =
                 "A cache (B,S,..) and new entries (B,T,..) -> (B,S+T,..): each row its first "
                 "counts entries, then its first lengths new ones. What follows counts for nobody.",
             .inputs = (const al_row[]){{"cache", 0, "(B,S,..)"},
                                        {"new", 0, "(B,T,..)"},
                                        {"counts", AL_IN_I32, "(B), 0..S: entries that are kept"},
                                        {"lengths", AL_IN_OPTIONAL | AL_IN_I32,
                                         "(B), 0..T: new entries that are taken, else all"},
                                        {0}},
             .outputs = (const al_row[]){{"y", 0, "(B,S+T,..)"}, {0}},
             .args = (const al_arg[]){{0}}},
    .flags = AL_OP_VIEW,
    .shape = shape,
    .forward = forward,
    .bf16 = AL_KERNELS(alk_append_fwd_has, alk_append_bwd_has),
    .backward = backward,
    .reads_in = 1 << COUNTS | 1 << LENGTHS,
    .samples = (const al_sample[]){{.inputs = "(2,3,2) (2,2,2) i(2)<4"},
                                   {.inputs = "(3,4,2,3)t (3,5,2,3)t i(3)<5 i(3)<6"},
                                   {.inputs = "(2,0,3) (2,1,3) i(2)<1"},
                                   {.inputs = "(2,3) (2,1) i(2)<4 i(2)<2"},
                                   {0}},
};

AL_OPS(append, &append);
