/* shape.h: shape arithmetic that several ops share; for core/ops/ only. */
#ifndef AL_OPS_SHAPE_H
#define AL_OPS_SHAPE_H
#include "../op.h"
#include <stdio.h>
#include <string.h>

#define AL_META_STR(m) al_meta_str((m), (char[96]){0}, 96)

/* Numpy broadcasting of n sizes aligned at the end: *out (holding a shape already) grows to fit
 * `shape`. False when a pair of sizes differs and neither is 1. */
static inline bool broadcast_into(al_meta *out, int ndim, const int64_t *shape) {
  if (ndim > out->ndim) {
    const int more = ndim - out->ndim;
    memmove(out->shape + more, out->shape, (size_t)out->ndim * sizeof *out->shape);
    for (int i = 0; i < more; i++) out->shape[i] = 1;
    out->ndim = ndim;
  }
  for (int i = 0; i < ndim; i++) {
    int64_t *o = &out->shape[out->ndim - ndim + i];
    if (*o == 1) *o = shape[i];
    else if (shape[i] != 1 && shape[i] != *o) return false;
  }
  return true;
}

/* Stride of t along each of the ndim axes of a shape it is broadcast to; 0 where it repeats. */
static inline void broadcast_strides(const al_tensor *t, int ndim, const int64_t *shape,
                                     int64_t *stride) {
  const int lead = ndim - al_ndim(t);
  for (int i = 0; i < ndim; i++) {
    const bool own = i >= lead && (al_size(t, i - lead) == shape[i]);
    stride[i] = own ? al_stride(t)[i - lead] : 0;
  }
}

static inline alk_view broadcast_view(const al_tensor *t, int ndim, const int64_t *shape) {
  alk_view v = {.data = al_data(t), .ndim = ndim, .dtype = (alk_dtype)al_type(t)};
  memcpy(v.size, shape, (size_t)ndim * sizeof *shape);
  broadcast_strides(t, ndim, shape, v.stride);
  return v;
}

/* The gradient of a broadcast: t summed to the shape of m, to which it was broadcast from. Takes t;
 * new reference. */
static inline al_tensor *sum_to(al_ctx *c, al_tensor *t, const al_meta *m) {
  if (!t) return NULL;
  char axes[64] = "";
  size_t at = 0;
  const int lead = al_ndim(t) - m->ndim;
  for (int i = 0; i < al_ndim(t); i++)
    if (i < lead || m->shape[i - lead] != al_size(t, i))
      at += (size_t)snprintf(axes + at, sizeof axes - at, "%d,", i);
  if (at == 0) return t;
  if (al_type(t) == AL_BF16) { /* summed over much, it stays f32 */
    al_tensor *wide = al_run(c, "cast", AL_IN(t), "dtype=f32");
    al_release(t);
    if (!(t = wide)) return NULL;
  }
  al_tensor *s = al_run(c, "sum", AL_IN(t), "axes={%s} keep=true", axes);
  al_tensor *r = NULL;
  if (s) { /* sums are packed: the leading axes of size 1 just go */
    int64_t stride[AL_MAX_DIMS];
    int64_t run = 1;
    for (int i = m->ndim - 1; i >= 0; i--) stride[i] = run, run *= m->shape[i];
    r = al_tensor_view(c, s, m->ndim, m->shape, stride, 0);
  }
  al_release(s);
  al_release(t);
  return r;
}
#endif
