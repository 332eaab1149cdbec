/* lengths.c: see lengths.h. */
#include "../lengths.h"

/* Offset of element `index` of a shape, its last axis the fastest, in view v. */
static int64_t offset_of(const alk_view *shape, const alk_view *v, int64_t index) {
  int64_t at = 0;
  for (int i = shape->ndim - 1; i >= 0; i--) {
    at += index % shape->size[i] * v->stride[i];
    index /= shape->size[i];
  }
  return at;
}

alk_status ALK_NAME(add_i32)(const alk_place *place, const alk_view *a, const alk_view *b,
                             int64_t by, int64_t lo, int64_t hi, const alk_view *y) {
  const int64_t n = alk_numel(y);
  for (int64_t i = 0; i < n; i++) {
    int64_t sum = by + ((const int32_t *)a->data)[offset_of(y, a, i)];
    if (b->data) sum += ((const int32_t *)b->data)[offset_of(y, b, i)];
    ((int32_t *)y->data)[offset_of(y, y, i)] = (int32_t)(sum < lo ? lo : sum > hi ? hi : sum);
  }
  return ALK_OK;
}

alk_status ALK_NAME(present)(const alk_place *place, int64_t n, int64_t rows, int64_t size,
                             const void *lengths, void *y) {
#pragma omp parallel for num_threads(place->threads) schedule(static) if (n * rows * size > 32768)
  for (int64_t r = 0; r < n * rows; r++) {
    const int64_t length = ((const int32_t *)lengths)[r / rows], seen = r % rows + size - rows + 1;
    int32_t *row = (int32_t *)y + r * size;
    for (int64_t j = 0; j < size; j++) row[j] = j < length && j < seen;
  }
  return ALK_OK;
}
