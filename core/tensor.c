/* tensor.c: tensors: a typed, strided window on a counted storage. */
#include "core.h"
#include "../kernels/copy.h"
#include "../kernels/random.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *shape_str(int ndim, const int64_t *shape, char *buf, size_t n) {
  size_t at = (size_t)snprintf(buf, n, "(");
  for (int i = 0; i < ndim && at < n; i++)
    at += (size_t)snprintf(buf + at, n - at, i ? ",%lld" : "%lld", (long long)shape[i]);
  if (at < n) snprintf(buf + at, n - at, ")");
  return buf;
}

static void pack_strides(al_tensor *t) {
  int64_t s = 1;
  for (int i = t->ndim - 1; i >= 0; i--) {
    t->stride[i] = s;
    s *= t->shape[i];
  }
}

al_status al_shape_check(al_ctx *c, const char *owner, int ndim, const int64_t *shape) {
  if (ndim < 0 || ndim > AL_MAX_DIMS)
    return al_fail(c, AL_ESHAPE, "%s: 0 to %d axes possible, got %d", owner, AL_MAX_DIMS, ndim);
  int64_t n = 1;
  for (int i = 0; i < ndim; i++) {
    if (shape[i] < 0)
      return al_fail(c, AL_ESHAPE, "%s: size of axis %d is negative (%lld)", owner,
                     i + c->axis_base, (long long)shape[i]);
    if (__builtin_mul_overflow(n, shape[i] ? shape[i] : 1, &n) || n > AL_MAX_NUMEL)
      return al_fail(c, AL_ESHAPE,
                     "%s: shape %s is too large: its sizes, without those that are 0, multiply to "
                     "2^53 at most",
                     owner, shape_str(ndim, shape, (char[192]){0}, 192));
  }
  return AL_OK;
}

static al_tensor *bare(al_ctx *c, al_dtype dt, int ndim, const int64_t *shape) {
  al_tensor *t = al_calloc(c, 1, sizeof *t);
  if (!t) return NULL;
  t->ctx = c;
  t->refs = 1;
  t->dtype = dt;
  t->ndim = ndim;
  if (ndim) memcpy(t->shape, shape, (size_t)ndim * sizeof *shape); /* a scalar may come with NULL */
  return t;
}

static al_tensor *fresh(al_ctx *c, al_device *d, al_dtype dt, int ndim, const int64_t *shape) {
  if (c->error != AL_OK) return NULL;
  if (al_shape_check(c, "tensor", ndim, shape) != AL_OK) return NULL;
  al_tensor *t = bare(c, dt, ndim, shape);
  if (!t) return NULL;
  pack_strides(t);
  t->storage = al_storage_new(c, d, al_numel(t) * al_dtype_size(dt));
  if (!t->storage) {
    free(t);
    return NULL;
  }
  return t;
}

al_tensor *al_tensor_new(al_ctx *c, al_dtype dt, int ndim, const int64_t *shape) {
  return al_scope_own(c, fresh(c, c->device, dt, ndim, shape));
}

al_tensor *al_tensor_full(al_ctx *c, al_dtype dt, int ndim, const int64_t *shape, double value) {
  al_tensor *t = fresh(c, c->device, dt, ndim, shape);
  if (t) ALK_RUN(al_where(t), fill, al_numel(t), al_data(t), value);
  return al_scope_own(c, t);
}

al_tensor *al_tensor_from(al_ctx *c, al_dtype dt, int ndim, const int64_t *shape,
                          const double *data, int64_t n) {
  al_tensor *t = fresh(c, c->device, dt, ndim, shape);
  if (!t) return NULL;
  if (al_write(t, data, n) != AL_OK) {
    al_release(t);
    return NULL;
  }
  return al_scope_own(c, t);
}

al_tensor *al_new_meta(al_ctx *c, const al_meta *m) {
  return al_scope_own(c, fresh(c, m->device ? m->device : c->device, m->dtype, m->ndim, m->shape));
}
al_tensor *al_new_meta_full(al_ctx *c, const al_meta *m, double value) {
  al_tensor *t = al_new_meta(c, m);
  if (t) ALK_RUN(al_where(t), fill, al_numel(t), al_data(t), value);
  return t;
}

al_tensor *al_tensor_view(al_ctx *c, const al_tensor *t, int ndim, const int64_t *shape,
                          const int64_t *stride, int64_t offset) {
  al_tensor *v = bare(c, t->dtype, ndim, shape);
  if (!v) return NULL;
  for (int i = 0; i < ndim; i++) v->stride[i] = stride[i];
  v->storage = t->storage;
  v->storage->refs++;
  v->offset = t->offset + offset;
  return al_scope_own(c, v);
}

al_tensor *al_tensor_alias(al_ctx *c, const al_tensor *t) {
  const bool off = c->scope_off;
  c->scope_off = true; /* an alias is always its maker's */
  al_tensor *v = al_tensor_view(c, t, t->ndim, t->shape, t->stride, 0);
  c->scope_off = off;
  if (v) v->read_at = t->storage->writes;
  return v;
}

al_tensor *al_fork(al_ctx *c, al_tensor *t) {
  if (!t || c->error != AL_OK) return NULL;
  al_tensor *f = bare(c, t->dtype, t->ndim, t->shape);
  if (!f) return NULL;
  memcpy(f->stride, t->stride, sizeof f->stride);
  f->offset = t->offset;
  f->storage = al_storage_fork(c, t->storage);
  if (!f->storage) {
    free(f);
    return NULL;
  }
  return al_scope_own(c, f);
}

al_status al_fork_into(al_ctx *c, al_tensor *dst, const al_tensor *src) {
  if (!dst || !src) return al_copy_into(c, dst, src);
  const bool whole = dst->dtype == src->dtype && dst->offset == 0 && src->offset == 0 &&
                     al_contiguous(dst) && al_contiguous(src) &&
                     dst->storage->bytes == src->storage->bytes && dst->storage->refs == 1;
  if (!whole || al_numel(dst) != al_numel(src)) return al_copy_into(c, dst, src);
  if (dst->ndim != src->ndim ||
      memcmp(dst->shape, src->shape, (size_t)dst->ndim * sizeof *dst->shape) != 0)
    return al_fail(c, AL_ESHAPE, "copy: shape %s needed, got %s", AL_STR(dst), AL_STR(src));
  al_storage *s = al_storage_fork(c, src->storage);
  if (!s) return c->error;
  al_storage_release(dst->storage);
  dst->storage = s;
  return AL_OK;
}

al_tensor *al_contiguous_ref(al_ctx *c, al_tensor *t) {
  if (!t || al_contiguous(t)) return al_retain(t);
  al_tensor *d = fresh(c, t->storage->device, t->dtype, t->ndim, t->shape);
  if (!d) return NULL;
  const alk_view dv = al_view(d), sv = al_view(t);
  ALK_RUN(al_where(d), copy, &dv, &sv);
  return d;
}

al_tensor *al_retain(al_tensor *t) {
  if (t) t->refs++;
  return t;
}

void al_release(al_tensor *t) {
  if (!t || --t->refs > 0) return;
  al_release(t->grad);
  al_node_release(t->node);
  al_storage_release(t->storage);
  free(t);
}

/* What is asked of NULL, the result of an op that failed, so that a formula can run to its end. */
static const int64_t no_sizes[AL_MAX_DIMS];

al_dtype al_type(const al_tensor *t) { return t ? t->dtype : AL_F32; }
int al_ndim(const al_tensor *t) { return t ? t->ndim : 0; }
int64_t al_size(const al_tensor *t, int axis) {
  const int ndim = al_ndim(t), i = axis < 0 ? axis + ndim : axis;
  return i >= 0 && i < ndim ? t->shape[i] : 0;
}
const int64_t *al_shape(const al_tensor *t) { return t ? t->shape : no_sizes; }
const int64_t *al_stride(const al_tensor *t) { return t ? t->stride : no_sizes; }

int64_t al_numel(const al_tensor *t) {
  if (!t) return 0;
  int64_t n = 1;
  for (int i = 0; i < t->ndim; i++) n *= t->shape[i];
  return n;
}

bool al_contiguous(const al_tensor *t) {
  if (!t) return true;
  int64_t s = 1;
  for (int i = t->ndim - 1; i >= 0; i--) {
    if (t->shape[i] == 0) return true;
    if (t->shape[i] != 1 && t->stride[i] != s) return false;
    s *= t->shape[i];
  }
  return true;
}

al_numbers *al_data(const al_tensor *t) {
  if (!t) return NULL;
  return (void *)((char *)t->storage->data + t->offset * al_dtype_size(t->dtype));
}
void *al_host(const al_tensor *t) {
  if (!t) return NULL;
  if (t->storage->device->host) return al_data(t);
  al_fail(t->ctx, AL_ESTATE, "%s: a host pointer into %s asked for, which the host does not see",
          t->ctx->running ? t->ctx->running : "host", t->storage->device->name);
  return NULL;
}
bool al_shares(const al_tensor *a, const al_tensor *b) { return a->storage == b->storage; }
bool al_at_hand(const al_tensor *t) {
  const al_device *d = t->storage->device;
  return d->host || (d->counts && d->like->host);
}
int64_t al_storage_bytes(const al_tensor *t) { return t ? t->storage->bytes : 0; }

alk_view al_view(const al_tensor *t) {
  alk_view v = {.data = al_data(t), .ndim = t->ndim, .dtype = (alk_dtype)t->dtype};
  memcpy(v.size, t->shape, sizeof v.size);
  memcpy(v.stride, t->stride, sizeof v.stride);
  return v;
}

static al_status convert(al_tensor *dst, const al_tensor *src) {
  const alk_view d = al_view(dst), s = al_view(src);
  return ALK_RUN(al_where(dst), copy, &d, &s);
}

/* Packed doubles of the host, seen as a tensor of t's shape. */
static alk_view doubles_like(const al_tensor *t, double *data) {
  alk_view v = al_view(t);
  v.data = data;
  v.dtype = ALK_F64;
  int64_t run = 1;
  for (int i = v.ndim - 1; i >= 0; i--) v.stride[i] = run, run *= v.size[i];
  return v;
}

/* Numbers of t, to doubles or from them; off the host by way of a packed f64 tensor there. */
static al_status exchange(const al_tensor *t, double *host, bool read) {
  al_ctx *c = t->ctx;
  const alk_view there = al_view(t), here = doubles_like(t, host);
  if (t->storage->device->host) { /* whatever is pending: an error may be about these numbers */
    alk_copy_any(&al_where(t)->k, read ? &here : &there, read ? &there : &here);
    return AL_OK;
  }
  if (read && *c->turn.who && !t->storage->device->counts)
    return al_fail(c, AL_ESTATE,
                   "%s: numbers on %s read while it runs: what it does is queued, and nobody waits",
                   c->turn.who, t->storage->device->name);
  al_tensor *wide = fresh(c, t->storage->device, AL_F64, t->ndim, t->shape);
  const alk_view w = wide ? al_view(wide) : there;
  if (wide && !read) al_put_packed(wide, host);
  if (wide) ALK_RUN(al_where(wide), copy, read ? &w : &there, read ? &there : &w);
  if (wide && read) al_get_packed(wide, host);
  al_release(wide);
  return c->error;
}

al_status al_read(const al_tensor *t, double *out, int64_t n) {
  if (!t) return AL_ESTATE; /* the reason is pending where the tensor failed */
  if (n == al_numel(t)) return exchange(t, out, true);
  return al_fail(t->ctx, AL_ESHAPE, "read: room for %lld numbers needed for shape %s, got %lld",
                 (long long)al_numel(t), AL_STR(t), (long long)n);
}

al_status al_write(al_tensor *t, const double *in, int64_t n) {
  if (!t) return AL_ESTATE;
  if (n != al_numel(t))
    return al_fail(t->ctx, AL_ESHAPE, "tensor: %lld numbers needed for shape %s, got %lld",
                   (long long)al_numel(t), AL_STR(t), (long long)n);
  AL_TRY(al_storage_own(t->ctx, t->storage));
  return exchange(t, (double *)(uintptr_t)in, false); /* which only reads it */
}

/* src, packed and of its own type, where dst lies; new. */
static al_tensor *moved(al_ctx *c, const al_tensor *src, const al_tensor *dst) {
  al_tensor *packed = fresh(c, src->storage->device, src->dtype, src->ndim, src->shape),
            *t = fresh(c, dst->storage->device, src->dtype, src->ndim, src->shape);
  void *bytes = t ? malloc((size_t)(al_numel(t) * al_dtype_size(t->dtype)) + 1) : NULL;
  if (t && !bytes) al_fail(c, AL_ENOMEM, "out of memory (copy between devices)");
  if (packed && bytes && convert(packed, src) == AL_OK) {
    al_get_packed(packed, bytes);
    al_put_packed(t, bytes);
  }
  free(bytes);
  al_release(packed);
  if (al_error(c) == AL_OK) return t;
  al_release(t);
  return NULL;
}

al_status al_copy_into(al_ctx *c, al_tensor *dst, const al_tensor *src) {
  if (!dst || !src)
    return al_fail(c, AL_EVALUE, "copy: two tensors needed, got none to copy %s",
                   dst ? "from" : "to");
  if (dst->ndim != src->ndim ||
      memcmp(dst->shape, src->shape, (size_t)dst->ndim * sizeof *dst->shape) != 0)
    return al_fail(c, AL_ESHAPE, "copy: shape %s needed, got %s", AL_STR(dst), AL_STR(src));
  AL_TRY(al_storage_own(c, dst->storage));
  al_tensor *apart = NULL;
  if (dst->storage->device != src->storage->device) { /* packed, in dst's type, over the host */
    if (!(apart = moved(c, src, dst))) return c->error;
  } else if (dst->storage == src->storage) { /* two views of one storage may overlap */
    if (!(apart = fresh(c, src->storage->device, src->dtype, src->ndim, src->shape)))
      return c->error;
    convert(apart, src);
  }
  convert(dst, apart ? apart : src);
  al_release(apart);
  return al_error(c);
}

double al_item(const al_tensor *t) {
  double v = NAN;
  if (t && al_numel(t) == 1) al_read(t, &v, 1);
  return v;
}

double al_number(const al_tensor *t, const int64_t *index) {
  int64_t at = 0;
  for (int i = 0; i < t->ndim; i++) at += index[i] * t->stride[i];
  const bool off = t->ctx->scope_off;
  t->ctx->scope_off = true;
  al_tensor *one = al_tensor_view(t->ctx, t, 0, NULL, NULL, at);
  t->ctx->scope_off = off;
  const double v = al_item(one);
  al_release(one);
  return v;
}

const char *al_shape_str(const al_tensor *t, char *buf, size_t n) {
  if (!t) return "no tensor";
  return shape_str(t->ndim, t->shape, buf, n);
}
const char *al_meta_str(const al_meta *m, char *buf, size_t n) {
  return shape_str(m->ndim, m->shape, buf, n);
}

al_meta al_meta_of(const al_tensor *t) {
  al_meta m = {.device = t->storage->device, .dtype = t->dtype, .ndim = t->ndim};
  memcpy(m.shape, t->shape, sizeof m.shape);
  return m;
}

al_status al_retype(al_ctx *c, al_tensor **t, al_dtype dtype) {
  if (!*t || (*t)->dtype == dtype) return c->error;
  al_tensor *copy = fresh(c, (*t)->storage->device, dtype, (*t)->ndim, (*t)->shape);
  if (!copy) return c->error;
  al_copy_into(c, copy, *t);
  al_release(*t);
  *t = copy;
  return c->error;
}

void al_jitter(al_ctx *c, double by, uint64_t stream) {
  c->jitter = by;
  c->jitter_at = stream;
}

void al_jitter_apply(al_ctx *c, al_tensor *t) {
  if (c->jitter == 0 || (t->dtype != AL_F32 && t->dtype != AL_F64)) return;
  ALK_RUN(al_where(t), jitter, al_numel(t), c->jitter_at++, c->jitter, al_data(t));
}
