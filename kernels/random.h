/* random.h: numbers of a Philox stream (philox.h): number i is a pure function of (stream, i), the
 * same on every machine and with any number of threads. */
#ifndef ALK_RANDOM_H
#define ALK_RANDOM_H
#include "kernel.h"

/* x (n), packed, of the place's type, f32 or f64: uniform in [lo, hi). */
ALK_ANY(fill_uniform, int64_t n, uint64_t stream, double lo, double hi, void *x)
/* Normal; Box-Muller: two uniforms give two normals. */
ALK_ANY(fill_normal, int64_t n, uint64_t stream, double mean, double deviation, void *x)
/* Each number of x (n) times 1 + by or 1 - by, as the stream has it. */
ALK_ANY(jitter, int64_t n, uint64_t stream, double by, void *x)
#endif
