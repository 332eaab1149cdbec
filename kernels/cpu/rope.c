/* rope.c: see rope.h. The table is filled by turning a unit vector step by step in double,
 * restarted from exact angles every STEPS positions, so its error stays below STEPS roundings
 * (4e-15). */
#include "../rope.h"
#include <math.h>
#include <string.h>

typedef ALK_REAL real;

void ALK_NAME(rope_table)(void *table, int64_t T, int64_t n, double base, int64_t offset) {
  enum { STEPS = 32 };
  real *out = table;
#pragma omp parallel for schedule(static) if (T * n > 2048)
  for (int64_t t0 = 0; t0 < T; t0 += STEPS)
    for (int64_t i = 0; i < n; i++) {
      const double f = pow(base, -(double)i / (double)n), angle = (double)(offset + t0) * f;
      const double dc = cos(f), ds = sin(f);
      double c = cos(angle), s = sin(angle);
      for (int64_t t = t0; t < T && t < t0 + STEPS; t++) {
        out[(t * n + i) * 2] = (real)c;
        out[(t * n + i) * 2 + 1] = (real)s;
        const double next = c * dc - s * ds;
        s = s * dc + c * ds;
        c = next;
      }
    }
}

static void turn_half(real *restrict y, const real *restrict x, const real *restrict w, int64_t n,
                      real sign) {
  for (int64_t i = 0; i < n; i++) {
    const real c = w[2 * i], s = sign * w[2 * i + 1], a = x[i], b = x[i + n];
    y[i] = a * c - b * s;
    y[i + n] = b * c + a * s;
  }
}

static void turn_adjacent(real *restrict y, const real *restrict x, const real *restrict w,
                          int64_t n, real sign) {
  for (int64_t i = 0; i < n; i++) {
    const real c = w[2 * i], s = sign * w[2 * i + 1], a = x[2 * i], b = x[2 * i + 1];
    y[2 * i] = a * c - b * s;
    y[2 * i + 1] = b * c + a * s;
  }
}

void ALK_NAME(rope)(void *y, const void *x, const int64_t *strides, const void *table, int64_t B,
                    int64_t T, int64_t H, int64_t D, int64_t n, bool interleaved, bool back) {
  const real sign = back ? -1 : 1;
#pragma omp parallel for schedule(static) if (B * T * H * D > 32768)
  for (int64_t r = 0; r < B * T; r++) {
    const int64_t b = r / T, t = r % T;
    const real *w = (const real *)table + t * n * 2;
    for (int64_t h = 0; h < H; h++) {
      const real *from = (const real *)x + b * strides[0] + t * strides[1] + h * strides[2];
      real *to = (real *)y + (r * H + h) * D;
      if (interleaved) turn_adjacent(to, from, w, n, sign);
      else turn_half(to, from, w, n, sign);
      memcpy(to + 2 * n, from + 2 * n, (size_t)(D - 2 * n) * sizeof *to);
    }
  }
}
