/* solve_lower.c: forward and backward substitution; a thread takes whole systems. */
#include "../solve_lower.h"
#include <string.h>

typedef ALK_REAL real;
#include "lanes.h"
#include "reached.h"
enum { PARALLEL = 32768 };

/* y -= a x */
static void less(int64_t n, real a, const real *x, real *restrict y) {
  for (int64_t e = 0; e < n; e++) y[e] -= a * x[e];
}

alk_status ALK_NAME(solve_lower_fwd)(const alk_place *place, int64_t count, int64_t C, int64_t E,
                                     const void *vL, const void *vb, void *vx) {
#pragma omp parallel for num_threads(place->threads)                                               \
    schedule(static) if (count * C * C * E > PARALLEL)
  for (int64_t s = 0; s < count; s++) {
    const real *L = (const real *)vL + s * C * C, *b = (const real *)vb + s * C * E;
    real *x = (real *)vx + s * C * E;
    for (int64_t t = 0; t < C; t++) {
      memcpy(x + t * E, b + t * E, (size_t)E * sizeof(real));
      for (int64_t i = 0; i < t; i++) less(E, L[t * C + i], x + i * E, x + t * E);
    }
  }
  return ALK_OK;
}

alk_status ALK_NAME(solve_lower_bwd)(const alk_place *place, int64_t count, int64_t C, int64_t E,
                                     const void *vL, const void *vx, const void *vdx, void *vdb,
                                     void *vdL) {
#pragma omp parallel for num_threads(place->threads)                                               \
    schedule(static) if (count * C * C * E > PARALLEL)
  for (int64_t s = 0; s < count; s++) {
    const real *L = (const real *)vL + s * C * C, *x = (const real *)vx + s * C * E;
    real *db = (real *)vdb + s * C * E, *dL = vdL ? (real *)vdL + s * C * C : NULL;
    memcpy(db, (const real *)vdx + s * C * E, (size_t)(C * E) * sizeof(real));
    for (int64_t t = C; t-- > 0;)
      for (int64_t i = 0; i < t && reached(E, db + t * E); i++)
        less(E, L[t * C + i], db + t * E, db + i * E);
    for (int64_t t = 0; dL && t < C; t++) {
      const int64_t past = reached(E, db + t * E) ? t : 0;
      for (int64_t i = 0; i < C; i++)
        dL[t * C + i] = i < past ? -row_dot(E, db + t * E, x + i * E) : 0;
    }
  }
  return ALK_OK;
}
