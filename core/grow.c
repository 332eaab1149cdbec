/* grow.c: tensors that grow along axis 1 without being copied: caches.
 *
 * A storage made here has room behind its entries and knows how many of them were given out. The
 * tensor that ends with the last of these, and no other, takes further ones where it is; it stays
 * as it was, and a longer tensor of the same memory is made. A shorter one that is to grow too (an
 * earlier state, continued a second time) finds its place taken and is copied, as is one whose
 * memory al_fork shared. Nothing that a tensor showed is written again, so no write is counted. */
#include "core.h"

/* Is t the beginning of a growing storage, and how many entries has that room for? */
static bool grows(const al_tensor *t, int64_t *capacity) {
  if (!t || t->storage->ends == 0 || t->offset != 0 || t->ndim < 2) return false;
  int64_t width = 1;
  for (int i = t->ndim - 1; i >= 1; i--) {
    if (t->stride[i] != width) return false;
    width *= t->shape[i];
  }
  const int64_t entry = t->shape[1] ? width / t->shape[1] : 0;
  if (entry == 0 || t->stride[0] % entry || t->shape[1] > t->storage->ends) return false;
  *capacity = t->stride[0] / entry;
  return t->shape[0] * t->stride[0] * al_dtype_size(t->dtype) == t->storage->bytes;
}

static al_tensor *beginning(al_ctx *c, const al_tensor *t, int64_t entries) {
  int64_t shape[AL_MAX_DIMS];
  for (int i = 0; i < t->ndim; i++) shape[i] = t->shape[i];
  shape[1] = entries;
  return al_tensor_view(c, t, t->ndim, shape, t->stride, 0);
}

al_tensor *al_growing_new(al_ctx *c, const al_meta *m, int64_t capacity) {
  al_meta all = *m;
  all.shape[1] = capacity;
  al_tensor *t = al_new_meta(c, &all);
  al_tensor *y = t ? beginning(c, t, m->shape[1]) : NULL;
  if (t) t->storage->ends = m->shape[1];
  al_release(t);
  return y;
}

al_tensor *al_growing_more(al_ctx *c, const al_tensor *t, int64_t more) {
  int64_t capacity;
  if (!grows(t, &capacity) || t->shape[1] != t->storage->ends || more > capacity - t->shape[1] ||
      al_storage_shared(t->storage))
    return NULL;
  al_tensor *y = beginning(c, t, t->shape[1] + more);
  if (y) t->storage->ends += more;
  return y;
}

al_tensor *al_growing_whole(al_ctx *c, al_tensor *t) {
  int64_t capacity;
  return grows(t, &capacity) ? beginning(c, t, capacity) : al_scope_own(c, al_retain(t));
}

int64_t al_growing_bytes(const al_tensor *t) {
  int64_t capacity;
  return grows(t, &capacity) ? t->storage->bytes : al_numel(t) * al_dtype_size(al_type(t));
}
