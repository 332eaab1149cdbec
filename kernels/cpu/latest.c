/* latest.c: see latest.h. */
#include "../latest.h"
#include <string.h>

typedef ALK_REAL real;

static int64_t within(int64_t x, int64_t most) { return x < 0 ? 0 : x > most ? most : x; }

static int64_t length(const alk_latest *g, int64_t b) {
  return g->lengths ? within(((const int32_t *)g->lengths)[b], g->T) : g->T;
}
static int64_t held(const alk_latest *g, int64_t b) {
  return g->held ? within(((const int32_t *)g->held)[b], g->K) : g->K;
}

alk_status ALK_NAME(latest_fwd)(const alk_place *place, const alk_latest *g, const void *old,
                                const void *new_, void *y) {
  const int64_t places = alk_latest_places(g), w = g->width;
#pragma omp parallel for num_threads(place->threads)                                               \
    schedule(static) if (g->B * places * g->size * w > 32768)
  for (int64_t r = 0; r < g->B * places; r++) {
    const int64_t b = r / places, place_at = g->every ? r % places * g->every : length(g, b);
    for (int64_t i = 0; i < g->size; i++) {
      const int64_t at = place_at - 1 - i;
      real *to = (real *)y + (r * g->size + i) * w;
      const real *from = NULL;
      if (at >= 0 && at < length(g, b)) from = (const real *)new_ + (b * g->T + at) * w;
      if (at < 0 && -1 - at < held(g, b)) from = (const real *)old + (b * g->K - 1 - at) * w;
      if (from) memcpy(to, from, (size_t)w * sizeof *to);
      else memset(to, 0, (size_t)w * sizeof *to);
    }
  }
  return ALK_OK;
}

/* to = the sum of entry at + n every of each place n that looks back at it; `at` from place 0. */
static void collect(const alk_latest *g, const real *dy, int64_t b, int64_t at, bool counts,
                    real *to) {
  const int64_t places = alk_latest_places(g), w = g->width;
  memset(to, 0, (size_t)w * sizeof *to);
  if (!counts) return;
  for (int64_t n = at < 0 ? (-at + g->every - 1) / g->every : 0; n < places; n++) {
    const int64_t i = at + n * g->every;
    if (i >= g->size) break;
    const real *from = dy + ((b * places + n) * g->size + i) * w;
    for (int64_t e = 0; e < w; e++) to[e] += from[e];
  }
}

alk_status ALK_NAME(latest_bwd)(const alk_place *place, const alk_latest *g, const void *dy,
                                void *dold, void *dnew) {
#pragma omp parallel for num_threads(place->threads)                                               \
    schedule(static) if (g->B * (g->K + g->T) * g->width > 32768)
  for (int64_t r = 0; r < g->B * (g->K + g->T); r++) {
    const int64_t b = r / (g->K + g->T), j = r % (g->K + g->T) - g->K;
    const int64_t first = g->every ? 0 : length(g, b); /* where place 0 stands */
    if (j < 0 && dold) {
      const int64_t past = j + g->K;
      collect(g, dy, b, first + past, past < held(g, b),
              (real *)dold + (b * g->K + past) * g->width);
    }
    if (j >= 0 && dnew) {
      const int64_t back = first - 1 - j;
      collect(g, dy, b, back, j < length(g, b) && (g->every || back >= 0),
              (real *)dnew + (b * g->T + j) * g->width);
    }
  }
  return ALK_OK;
}
