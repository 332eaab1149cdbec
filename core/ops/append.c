/* append.c: rows of a batch grow by their new entries, each from where it ends: a cache. */
#include "shape.h"

enum { CACHE, NEW, COUNTS, LENGTHS };

static al_status check_counts(al_ctx *c, al_call *k, int i, int64_t most) {
  const al_meta *n = &k->in_meta[i];
  const char *name = k->op->info.inputs[i].name;
  const int64_t B = k->in_meta[CACHE].shape[0];
  if (!k->in[i]) return AL_OK;
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
  AL_TRY(check_counts(c, k, COUNTS, cache->shape[1]));
  AL_TRY(check_counts(c, k, LENGTHS, more->shape[1]));
  k->out_meta[0] = need;
  k->out_meta[0].shape[1] = cache->shape[1] + more->shape[1];
  return AL_OK;
}

/* Where batch row b lies in `t`, in bytes, and how much of it counts. */
typedef struct parts {
  char *cache, *more, *all;
  size_t kept, added, cache_size, more_size, all_size;
} parts;

static parts parts_of(const al_call *k, int64_t b, const al_tensor *cache, const al_tensor *more,
                      const al_tensor *all) {
  const al_meta *m = &k->in_meta[CACHE];
  size_t entry = (size_t)al_dtype_size(m->dtype);
  for (int i = 2; i < m->ndim; i++) entry *= (size_t)m->shape[i];
  const size_t S = (size_t)m->shape[1], T = (size_t)k->in_meta[NEW].shape[1];
  const int32_t *lengths = al_host(k->in[LENGTHS]);
  parts p = {.kept = entry * (size_t)((const int32_t *)al_host(k->in[COUNTS]))[b],
             .added = entry * (lengths ? (size_t)lengths[b] : T),
             .cache_size = entry * S,
             .more_size = entry * T,
             .all_size = entry * (S + T)};
  if (cache) p.cache = (char *)al_host(cache) + (size_t)b * p.cache_size;
  if (more) p.more = (char *)al_host(more) + (size_t)b * p.more_size;
  p.all = (char *)al_host(all) + (size_t)b * p.all_size;
  return p;
}

static void copy(char *to, const char *from, size_t n) {
  if (n) memcpy(to, from, n);
}
static void clear(char *to, size_t n) {
  if (n) memset(to, 0, n);
}

static al_status forward(al_ctx *c, al_call *k) {
  (void)c;
  for (int64_t b = 0; b < k->in_meta[CACHE].shape[0]; b++) {
    const parts p = parts_of(k, b, k->in[CACHE], k->in[NEW], k->out[0]);
    copy(p.all, p.cache, p.kept);
    copy(p.all + p.kept, p.more, p.added);
    clear(p.all + p.kept + p.added, p.all_size - p.kept - p.added);
  }
  return AL_OK;
}

static al_status backward(al_ctx *c, al_call *k) {
  for (int i = CACHE; i <= NEW; i++) k->din[i] = al_new_meta(c, &k->in_meta[i]);
  for (int64_t b = 0; al_error(c) == AL_OK && b < k->in_meta[CACHE].shape[0]; b++) {
    const parts p = parts_of(k, b, k->din[CACHE], k->din[NEW], k->dout[0]);
    copy(p.cache, p.all, p.kept);
    clear(p.cache + p.kept, p.cache_size - p.kept);
    copy(p.more, p.all + p.kept, p.added);
    clear(p.more + p.added, p.more_size - p.added);
  }
  return al_error(c);
}

static const al_op append = {
    .info = {.name = "append",
             .doc = "A cache (B,S,..) and new entries (B,T,..) -> (B,S+T,..): each row its first "
                    "counts entries, then its first lengths new ones, then zeros.",
             .inputs = (const al_row[]){{"cache", 0, "(B,S,..)"},
                                        {"new", 0, "(B,T,..)"},
                                        {"counts", AL_IN_I32, "(B), 0..S: entries that are kept"},
                                        {"lengths", AL_IN_OPTIONAL | AL_IN_I32,
                                         "(B), 0..T: new entries that are taken, else all"},
                                        {0}},
             .outputs = (const al_row[]){{"y", 0, "(B,S+T,..)"}, {0}},
             .args = (const al_arg[]){{0}}},
    .shape = shape,
    .forward = forward,
    .backward = backward,
    .reads_in = 1 << COUNTS | 1 << LENGTHS,
    .samples = (const al_sample[]){{.inputs = "(2,3,2) (2,2,2) i(2)<4"},
                                   {.inputs = "(3,4,2,3)t (3,5,2,3)t i(3)<5 i(3)<6"},
                                   {.inputs = "(2,0,3) (2,1,3) i(2)<1"},
                                   {.inputs = "(2,3) (2,1) i(2)<4 i(2)<2"},
                                   {0}},
};

AL_OPS(append, &append);
