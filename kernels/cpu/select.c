/* select.c: see select.h. What is not chosen is never read into arithmetic, so a NaN there is
 * harmless. */
#include "../select.h"

typedef ALK_REAL real;

enum { RUN = 256 };

static void truth(unsigned char *out, const alk_view *cond, int64_t offset, int64_t step,
                  int64_t n) {
  switch (cond->dtype) {
  case ALK_F64:
    for (int64_t i = 0; i < n; i++) out[i] = ((const double *)cond->data)[offset + i * step] != 0;
    break;
  case ALK_F32:
    for (int64_t i = 0; i < n; i++) out[i] = ((const float *)cond->data)[offset + i * step] != 0;
    break;
  case ALK_BF16: /* zero but for the sign */
    for (int64_t i = 0; i < n; i++)
      out[i] = (((const uint16_t *)cond->data)[offset + i * step] & 0x7fffu) != 0;
    break;
  case ALK_I32:
    for (int64_t i = 0; i < n; i++) out[i] = ((const int32_t *)cond->data)[offset + i * step] != 0;
    break;
  }
}

alk_status ALK_NAME(select)(const alk_place *place, const alk_view *y, const alk_view *cond,
                            const alk_view *a, const alk_view *b) {
  const int last = y->ndim - 1;
  const int64_t n = y->ndim ? y->size[last] : 1, total = alk_numel(y);
  const int64_t sc = y->ndim ? cond->stride[last] : 0,
                sa = a->data && y->ndim ? a->stride[last] : 0,
                sb = b->data && y->ndim ? b->stride[last] : 0;
  const real zero = 0;
  if (total == 0) return ALK_OK;
#pragma omp parallel for num_threads(place->threads) schedule(static) if (total > 32768)
  for (int64_t r = 0; r < total / n; r++) {
    int64_t oc = 0, oa = 0, ob = 0, rest = r;
    for (int i = last - 1; i >= 0; i--) {
      const int64_t x = rest % y->size[i];
      rest /= y->size[i];
      oc += x * cond->stride[i], oa += x * a->stride[i], ob += x * b->stride[i];
    }
    real *out = (real *)y->data + r * n;
    for (int64_t j0 = 0; j0 < n; j0 += RUN) {
      const int64_t m = n - j0 < RUN ? n - j0 : RUN;
      unsigned char yes[RUN];
      truth(yes, cond, oc + j0 * sc, sc, m);
      const real *pa = a->data ? (const real *)a->data + oa + j0 * sa : &zero;
      const real *pb = b->data ? (const real *)b->data + ob + j0 * sb : &zero;
      for (int64_t j = 0; j < m; j++) out[j0 + j] = yes[j] ? pa[j * sa] : pb[j * sb];
    }
  }
  return ALK_OK;
}
