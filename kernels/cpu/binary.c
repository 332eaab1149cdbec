/* binary.c: the entries of binary.def as functions of two numbers, then as loops over rows.
 *
 * Neighbouring axes that both operands walk through alike are merged first, so that same shapes are
 * one long row, a vector over the last axis is a row against a matrix, and a column (.., 1) is one
 * number against each row. */
#include "../binary.h"
#include "reached.h"

typedef ALK_REAL real;
#define UNUSED __attribute__((unused))

typedef void row_fn(int64_t n, const real *a, int64_t sa, const real *b, int64_t sb, const real *g,
                    real *restrict y);

/* A loop for each pattern of strides: the compiler sees constants and vectorises. */
#define ROW(row, expression)                                                                       \
  static inline real row##_one(real a UNUSED, real b UNUSED, real g UNUSED) { return expression; } \
  static inline void row##_loop(int64_t n, const real *a, int64_t sa, const real *b, int64_t sb,   \
                                const real *g, int64_t sg, real *restrict y) {                     \
    for (int64_t i = 0; i < n; i++) y[i] = row##_one(a[i * sa], b[i * sb], g[i * sg]);             \
  }                                                                                                \
  static void row(int64_t n, const real *a, int64_t sa, const real *b, int64_t sb, const real *g,  \
                  real *restrict y) {                                                              \
    const real none = 0;                                                                           \
    const int64_t sg = g ? 1 : 0;                                                                  \
    if (!g) g = &none;                                                                             \
    if (sa == 1 && sb == 1 && sg) row##_loop(n, a, 1, b, 1, g, 1, y);                              \
    else if (sa == 1 && sb == 1) row##_loop(n, a, 1, b, 1, g, 0, y);                               \
    else if (sa == 1 && sb == 0 && sg) row##_loop(n, a, 1, b, 0, g, 1, y);                         \
    else if (sa == 1 && sb == 0) row##_loop(n, a, 1, b, 0, g, 0, y);                               \
    else if (sa == 0 && sb == 1 && sg) row##_loop(n, a, 0, b, 1, g, 1, y);                         \
    else if (sa == 0 && sb == 1) row##_loop(n, a, 0, b, 1, g, 0, y);                               \
    else if (sa == 0 && sb == 0 && !sg) row##_loop(n, a, 0, b, 0, g, 0, y);                        \
    else row##_loop(n, a, sa, b, sb, g, sg, y);                                                    \
  }
#define BINARY(name, value, da, db, ...)                                                           \
  ROW(name##_value, value)                                                                         \
  ROW(name##_da, PASSED(g, da))                                                                    \
  ROW(name##_db, PASSED(g, db))
#include "../binary.def"
#undef BINARY

static row_fn *const rows[ALK_BIN_COUNT][3] = {
#define BINARY(name, ...) [ALK_BIN_##name] = {name##_value, name##_da, name##_db},
#include "../binary.def"
#undef BINARY
};

typedef struct walk {
  int nd; /* at least 1; the last axis is the row */
  int64_t size[ALK_MAX_DIMS], sa[ALK_MAX_DIMS], sb[ALK_MAX_DIMS];
} walk;

static walk merged(const alk_view *a, const alk_view *b) {
  walk w = {.nd = 0};
  for (int i = 0; i < a->ndim; i++) {
    const int64_t n = a->size[i], sa = a->stride[i], sb = b->stride[i];
    if (n == 1) continue;
    const int p = w.nd - 1;
    if (p >= 0 && w.sa[p] == sa * n && w.sb[p] == sb * n) {
      w.size[p] *= n;
      w.sa[p] = sa;
      w.sb[p] = sb;
    } else {
      w.size[w.nd] = n;
      w.sa[w.nd] = sa;
      w.sb[w.nd++] = sb;
    }
  }
  if (w.nd == 0) w.size[0] = 1, w.sa[0] = w.sb[0] = 0, w.nd = 1;
  return w;
}

enum { BLOCK = 4096, PARALLEL = 32768 };

/* Rows first..last of the walk. */
static void run_rows(row_fn *row, const walk *w, int64_t first, int64_t last, const real *a,
                     const real *b, const real *g, real *y) {
  const int r = w->nd - 1;
  const int64_t n = w->size[r];
  int64_t at[ALK_MAX_DIMS], oa = 0, ob = 0, left = first;
  for (int i = r - 1; i >= 0; i--) {
    at[i] = left % w->size[i];
    left /= w->size[i];
    oa += at[i] * w->sa[i];
    ob += at[i] * w->sb[i];
  }
  for (int64_t k = first; k < last; k++) {
    row(n, a + oa, w->sa[r], b + ob, w->sb[r], g ? g + k * n : NULL, y + k * n);
    for (int i = r - 1; i >= 0; i--) {
      oa += w->sa[i];
      ob += w->sb[i];
      if (++at[i] < w->size[i]) break;
      oa -= at[i] * w->sa[i];
      ob -= at[i] * w->sb[i];
      at[i] = 0;
    }
  }
}

alk_status ALK_NAME(binary)(const alk_place *place, int op, int part, const alk_view *va,
                            const alk_view *vb, const void *dy, void *out) {
  const walk w = merged(va, vb);
  const int r = w.nd - 1;
  const int64_t n = w.size[r], total = alk_numel(va);
  row_fn *row = rows[op][part];
  const real *a = va->data, *b = vb->data, *g = dy;
  real *y = out;
  if (total == 0) return ALK_OK;
  if (r == 0) {
#pragma omp parallel for num_threads(place->threads) schedule(static) if (n > PARALLEL)
    for (int64_t i = 0; i < n; i += BLOCK)
      row(n - i < BLOCK ? n - i : BLOCK, a + i * w.sa[0], w.sa[0], b + i * w.sb[0], w.sb[0],
          g ? g + i : NULL, y + i);
    return ALK_OK;
  }
  const int64_t count = total / n, step = n < BLOCK ? (BLOCK + n - 1) / n : 1;
#pragma omp parallel for num_threads(place->threads) schedule(static) if (total > PARALLEL)
  for (int64_t k = 0; k < count; k += step)
    run_rows(row, &w, k, k + step < count ? k + step : count, a, b, g, y);
  return ALK_OK;
}
