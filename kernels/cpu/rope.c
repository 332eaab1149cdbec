/* rope.c: see rope.h. The table is filled by turning a unit vector step by step in double,
 * restarted from exact angles every STEPS positions, so its error stays below STEPS roundings
 * (4e-15). */
#include "../rope.h"
#include <string.h>

typedef ALK_REAL real;

alk_status ALK_NAME(rope_table)(const alk_place *place, void *table, int64_t T, int64_t n,
                                const alk_rope_law *law, int64_t offset) {
  enum { STEPS = 32 };
  real *out = table;
#pragma omp parallel for num_threads(place->threads) schedule(static) if (T * n > 16384)
  for (int64_t t0 = 0; t0 < T; t0 += STEPS)
    for (int64_t i = 0; i < n; i++) {
      const double f = alk_rope_frequency(law, i, n), angle = (double)(offset + t0) * f;
      const double dc = cos(f), ds = sin(f);
      double c = law->size * cos(angle), s = law->size * sin(angle);
      for (int64_t t = t0; t < T && t < t0 + STEPS; t++) {
        out[(t * n + i) * 2] = (real)c;
        out[(t * n + i) * 2 + 1] = (real)s;
        const double next = c * dc - s * ds;
        s = s * dc + c * ds;
        c = next;
      }
    }
  return ALK_OK;
}

/* Both channels of a pair are read before either is written: y may be x. */
static void turn_half(real *y, const real *x, const real *restrict w, int64_t n, real sign) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++) {
    const real c = w[2 * i], s = sign * w[2 * i + 1], a = x[i], b = x[i + n];
    y[i] = a * c - b * s;
    y[i + n] = b * c + a * s;
  }
}

static void turn_adjacent(real *y, const real *x, const real *restrict w, int64_t n, real sign) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++) {
    const real c = w[2 * i], s = sign * w[2 * i + 1], a = x[2 * i], b = x[2 * i + 1];
    y[2 * i] = a * c - b * s;
    y[2 * i + 1] = b * c + a * s;
  }
}

alk_status ALK_NAME(rope)(const alk_place *place, const alk_rope_task *tasks, int n_tasks,
                          const void *table, int64_t B, int64_t T, int64_t D, int64_t n,
                          bool interleaved, bool back) {
  const real sign = back ? -1 : 1;
  int64_t heads = 0;
  for (int k = 0; k < n_tasks; k++) heads += tasks[k].H;
#pragma omp parallel for num_threads(place->threads) schedule(static) if (B * T * heads * D > 32768)
  for (int64_t r = 0; r < B * T; r++) {
    const int64_t b = r / T, t = r % T;
    const real *w = (const real *)table + t * n * 2;
    for (const alk_rope_task *k = tasks; k < tasks + n_tasks; k++)
      for (int64_t h = 0; h < k->H; h++) {
        const real *from =
            (const real *)k->x + b * k->stride[0] + t * k->stride[1] + h * k->stride[2];
        real *to = (real *)k->y + (r * k->H + h) * D;
        if (interleaved) turn_adjacent(to, from, w, n, sign);
        else turn_half(to, from, w, n, sign);
        if (2 * n < D && to != from)
          memcpy(to + 2 * n, from + 2 * n, (size_t)(D - 2 * n) * sizeof *to);
      }
  }
  return ALK_OK;
}
