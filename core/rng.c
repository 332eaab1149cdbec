/* rng.c: Philox streams. Element i of stream s is a pure function of (s, i): the same on every
 * machine and with any number of threads. */
#include "core.h"
#include "../kernels/philox.h"
#include <math.h>

/* A stream number from a seed and a name: FNV-1a over the name, then Philox as the mixer. */
uint64_t al_stream(uint64_t seed, const char *name) {
  uint64_t h = 1469598103934665603u; /* FNV offset basis and prime, 64 bits */
  for (const unsigned char *p = (const unsigned char *)name; *p; p++) h = (h ^ *p) * 1099511628211u;
  uint32_t r[4];
  alk_philox(seed, h, r);
  return (uint64_t)r[1] << 32 | r[0];
}

void al_seed(al_ctx *c, uint64_t seed) { c->seed = seed, c->drawn = 0; }

uint64_t al_draw_key(al_ctx *c) {
  uint32_t r[4];
  alk_philox(c->seed, c->drawn++, r);
  return ((uint64_t)r[1] << 32 | r[0]) >> 11; /* 53 bits: an option holds it exactly */
}

void al_seed_state(const al_ctx *c, uint64_t s[2]) { s[0] = c->seed, s[1] = c->drawn; }
void al_seed_restore(al_ctx *c, const uint64_t s[2]) { c->seed = s[0], c->drawn = s[1]; }

/* Refuses other types; t may be written after it. */
static al_status writable(const al_tensor *t, const char *what) {
  if ((t->dtype == AL_F32 || t->dtype == AL_F64) && al_contiguous(t))
    return al_storage_own(t->ctx, t->storage);
  return al_fail(t->ctx, AL_ETYPE, "%s: a contiguous f32 or f64 tensor needed, got %s %s", what,
                 al_dtype_name(t->dtype), AL_STR(t));
}

static void put(al_tensor *t, int64_t i, double v) {
  if (t->dtype == AL_F64) ((double *)al_data(t))[i] = v;
  else ((float *)al_data(t))[i] = (float)v;
}

al_status al_fill_uniform(al_tensor *t, uint64_t stream, double lo, double hi) {
  AL_TRY(writable(t, "fill_uniform"));
  const int64_t n = al_numel(t);
#pragma omp parallel for schedule(static) if (n > 8192)
  for (int64_t b = 0; b < (n + 3) / 4; b++) {
    uint32_t r[4];
    alk_philox(stream, (uint64_t)b, r);
    for (int64_t i = 4 * b; i < n && i < 4 * b + 4; i++)
      put(t, i, lo + (hi - lo) * alk_unit(r[i - 4 * b]));
  }
  return AL_OK;
}

/* Box-Muller: two uniforms give two normals. */
al_status al_fill_normal(al_tensor *t, uint64_t stream, double mean, double deviation) {
  AL_TRY(writable(t, "fill_normal"));
  const int64_t n = al_numel(t);
#pragma omp parallel for schedule(static) if (n > 4096)
  for (int64_t b = 0; b < (n + 3) / 4; b++) {
    uint32_t r[4];
    alk_philox(stream, (uint64_t)b, r);
    double z[4];
    for (int h = 0; h < 2; h++) {
      const double u = 1.0 - alk_unit(r[2 * h]), a = 6.283185307179586 * alk_unit(r[2 * h + 1]);
      const double m = sqrt(-2.0 * log(u));
      z[2 * h] = m * cos(a);
      z[2 * h + 1] = m * sin(a);
    }
    for (int64_t i = 4 * b; i < n && i < 4 * b + 4; i++) put(t, i, mean + deviation * z[i - 4 * b]);
  }
  return AL_OK;
}
