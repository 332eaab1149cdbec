/* copy.c: strided copies with conversion.
 *
 * The innermost loop runs over the last axis; a transposing copy (destination packed, source packed
 * along another axis) goes in tiles so that both sides touch whole cache lines. */
#include "../copy.h"
#include <string.h>

float alk_bf16_to_f32(uint16_t b) {
  const uint32_t u = (uint32_t)b << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}

uint16_t alk_f32_to_bf16(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40u); /* stay NaN */
  return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

static int64_t dtype_size(alk_dtype t) { return t == ALK_F64 ? 8 : t == ALK_BF16 ? 2 : 4; }

static double load(const char *p, alk_dtype t) {
  switch (t) {
  case ALK_F64:
    return *(const double *)p;
  case ALK_F32:
    return *(const float *)p;
  case ALK_BF16:
    return alk_bf16_to_f32(*(const uint16_t *)p);
  default:
    return *(const int32_t *)p;
  }
}

static void store(char *p, alk_dtype t, double v) {
  switch (t) {
  case ALK_F64:
    *(double *)p = v;
    break;
  case ALK_F32:
    *(float *)p = (float)v;
    break;
  case ALK_BF16:
    *(uint16_t *)p = alk_f32_to_bf16((float)v);
    break;
  default:
    *(int32_t *)p = v >= 2147483647.0    ? 2147483647
                    : v <= -2147483648.0 ? INT32_MIN
                    : v == v             ? (int32_t)v
                                         : 0;
  }
}

static void row(char *d, int64_t ds, alk_dtype dt, const char *s, int64_t ss, alk_dtype st,
                int64_t n) {
  if (dt == st && dtype_size(dt) == 4) {
    int32_t *x = (int32_t *)(void *)d;
    const int32_t *y = (const int32_t *)(const void *)s;
    if (ds == 1 && ss == 1) memcpy(x, y, (size_t)n * 4);
    else
      for (int64_t i = 0; i < n; i++) x[i * ds] = y[i * ss];
  } else if (dt == st && dt == ALK_F64) {
    double *x = (double *)(void *)d;
    const double *y = (const double *)(const void *)s;
    for (int64_t i = 0; i < n; i++) x[i * ds] = y[i * ss];
  } else if (dt == st) {
    uint16_t *x = (uint16_t *)(void *)d;
    const uint16_t *y = (const uint16_t *)(const void *)s;
    for (int64_t i = 0; i < n; i++) x[i * ds] = y[i * ss];
  } else {
    const int64_t db = dtype_size(dt), sb = dtype_size(st);
    for (int64_t i = 0; i < n; i++) store(d + i * ds * db, dt, load(s + i * ss * sb, st));
  }
}

/* One outer index -> offsets of both sides over all axes but the last `inner`. */
static void offsets(const alk_view *a, const alk_view *b, int inner, int64_t index, int64_t *oa,
                    int64_t *ob) {
  int64_t x = 0, y = 0;
  for (int i = a->ndim - inner - 1; i >= 0; i--) {
    const int64_t k = index % a->size[i];
    index /= a->size[i];
    x += k * a->stride[i];
    y += k * b->stride[i];
  }
  *oa = x, *ob = y;
}

alk_status alk_copy_any(const alk_place *at, const alk_view *dst, const alk_view *src) {
  const int64_t n = alk_numel(dst);
  if (n == 0) return ALK_OK;
  const int64_t db = dtype_size(dst->dtype), sb = dtype_size(src->dtype);
  if (dst->ndim == 0) {
    row(dst->data, 1, dst->dtype, src->data, 1, src->dtype, 1);
    return ALK_OK;
  }
  const int last = dst->ndim - 1;
  const bool tiled = dst->ndim >= 2 && dst->stride[last] == 1 && src->stride[last - 1] == 1 &&
                     src->stride[last] != 1 && dst->size[last] >= 8 && dst->size[last - 1] >= 8;
  const int inner = tiled ? 2 : 1;
  const int64_t cols = dst->size[last], rows = tiled ? dst->size[last - 1] : 1;
  const int64_t outer = n / (cols * rows), tiles = (rows + 31) / 32;
#pragma omp parallel for num_threads(at->threads) schedule(static) if (n > 32768)
  for (int64_t job = 0; job < outer * tiles; job++) {
    int64_t od, os;
    offsets(dst, src, inner, job / tiles, &od, &os);
    char *d = (char *)dst->data + od * db;
    const char *s = (const char *)src->data + os * sb;
    if (!tiled) {
      row(d, dst->stride[last], dst->dtype, s, src->stride[last], src->dtype, cols);
      continue;
    }
    const int64_t r0 = job % tiles * 32, r1 = r0 + 32 < rows ? r0 + 32 : rows;
    for (int64_t c0 = 0; c0 < cols; c0 += 32) {
      const int64_t width = c0 + 32 < cols ? 32 : cols - c0;
      for (int64_t r = r0; r < r1; r++)
        row(d + (r * dst->stride[last - 1] + c0) * db, 1, dst->dtype,
            s + (r + c0 * src->stride[last]) * sb, src->stride[last], src->dtype, width);
    }
  }
  return ALK_OK;
}

alk_status alk_add_into_any(const alk_place *at, int64_t n, void *dst, const void *src) {
  if (at->dtype == ALK_F64) {
    double *d = dst;
    const double *s = src;
#pragma omp parallel for simd num_threads(at->threads) schedule(static) if (n > 32768)
    for (int64_t i = 0; i < n; i++) d[i] += s[i];
  } else if (at->dtype == ALK_BF16) {
    uint16_t *d = dst;
    const uint16_t *s = src;
    for (int64_t i = 0; i < n; i++)
      d[i] = alk_f32_to_bf16(alk_bf16_to_f32(d[i]) + alk_bf16_to_f32(s[i]));
  } else {
    float *d = dst;
    const float *s = src;
#pragma omp parallel for simd num_threads(at->threads) schedule(static) if (n > 32768)
    for (int64_t i = 0; i < n; i++) d[i] += s[i];
  }
  return ALK_OK;
}

alk_status alk_fill_any(const alk_place *at, int64_t n, void *dst, double value) {
  const int64_t size = dtype_size(at->dtype);
  if (value == 0) memset(dst, 0, (size_t)(n * size));
  for (int64_t i = 0; value != 0 && i < n; i++) store((char *)dst + i * size, at->dtype, value);
  return ALK_OK;
}
