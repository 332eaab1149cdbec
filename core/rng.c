/* rng.c: Philox streams. Element i of stream s is a pure function of (s, i): the same on every
 * machine and with any number of threads. */
#include "core.h"
#include "../kernels/philox.h"
#include "../kernels/random.h"

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

/* What is drawn into: t, which may be written after it, or for bf16 a tensor of f32; NULL for other
 * types. */
static al_tensor *drawn(al_tensor *t, const char *what) {
  if (t->dtype == AL_I32 || !al_contiguous(t)) {
    al_fail(t->ctx, AL_ETYPE, "%s: a contiguous f32, f64 or bf16 tensor needed, got %s %s", what,
            al_dtype_name(t->dtype), AL_STR(t));
    return NULL;
  }
  if (al_storage_own(t->ctx, t->storage) != AL_OK) return NULL;
  al_tensor *d = al_retain(t);
  if (al_retype(t->ctx, &d, al_statistic_type(t->dtype)) == AL_OK) return d;
  al_release(d);
  return NULL;
}

static al_status put(al_tensor *t, al_tensor *d) {
  if (d && d != t) al_copy_into(t->ctx, t, d);
  al_release(d);
  return al_error(t->ctx);
}

al_status al_fill_uniform(al_tensor *t, uint64_t stream, double lo, double hi) {
  al_tensor *d = drawn(t, "fill_uniform");
  if (d) ALK_RUN(al_where(d), fill_uniform, al_numel(d), stream, lo, hi, al_data(d));
  return put(t, d);
}

al_status al_fill_normal(al_tensor *t, uint64_t stream, double mean, double deviation) {
  al_tensor *d = drawn(t, "fill_normal");
  al_stage g;
  if (d && (d->storage->device->host || d->storage->device->counts))
    ALK_RUN(al_where(d), fill_normal, al_numel(d), stream, mean, deviation, al_data(d));
  else if (d && al_stage_begin(&g, d, false)) { /* another place's logarithm rounds otherwise */
    const alk_place host = {.dtype = (alk_dtype)d->dtype, .threads = al_threads()};
    alk_fill_normal (&host)(&host, al_numel(d), stream, mean, deviation, g.bytes);
    al_stage_end(&g, true);
  }
  return put(t, d);
}
