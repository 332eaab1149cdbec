/* windows.c: language-model windows of a token sequence: x = T tokens from a start, y = the T
 * tokens one further, so a window takes T + 1 tokens and starts lie in [lo, hi - T).
 *
 * Row b of random batch k depends on (seed, k, b) alone: a run that resumes at batch k, or takes a
 * batch in parts, sees the same windows. */
#include "../core.h"
#include "../../kernels/philox.h"
#include <string.h>

static al_status check(al_ctx *c, const char *who, const al_tensor *tokens, int64_t lo, int64_t hi,
                       int64_t B, int64_t T) {
  if (!tokens)
    return al_error(c) ? al_error(c) : al_fail(c, AL_EVALUE, "%s: tokens: a tensor needed", who);
  if (al_type(tokens) != AL_I32 || al_ndim(tokens) != 1)
    return al_fail(c, AL_ETYPE, "%s: tokens: one axis of i32 needed, got %s %s", who,
                   al_dtype_name(al_type(tokens)), AL_STR(tokens));
  if (!al_host(tokens) && al_numel(tokens)) return al_error(c);
  if (B < 1 || T < 1)
    return al_fail(c, AL_EVALUE, "%s: batch and context from 1 needed, got %lld and %lld", who,
                   (long long)B, (long long)T);
  if (lo < 0 || hi < lo || hi > al_size(tokens, 0))
    return al_fail(c, AL_EVALUE, "%s: range [%lld,%lld) does not lie in the %lld tokens", who,
                   (long long)lo, (long long)hi, (long long)al_size(tokens, 0));
  if (hi - lo <= T)
    return al_fail(
        c, AL_EVALUE,
        "%s: the text has %lld tokens here, a context of %lld needs at least one more than "
        "that: take a longer text or a shorter context",
        who, (long long)(hi - lo), (long long)T);
  return AL_OK;
}

/* Uniform in [0, n) without bias: 64 random bits, drawn again while they fall in the incomplete
 * last copy of [0, n). Draws of row b: counters b * 2^32 on. */
static uint64_t below(uint64_t key, uint64_t row, uint64_t n) {
  const uint64_t excess = -n % n; /* 2^64 mod n */
  for (uint64_t draw = row << 32;; draw++) {
    uint32_t r[4];
    alk_philox(key, draw, r);
    for (int i = 0; i < 4; i += 2) {
      const uint64_t u = (uint64_t)r[i + 1] << 32 | r[i];
      if (u >= excess) return u % n;
    }
  }
}

/* Windows under way: both tensors, where the context makes them, and their numbers on the host. */
typedef struct windows {
  al_tensor *x, *y;
  al_stage to_x, to_y;
  const int32_t *tokens;
  int64_t step, T;
} windows;

static al_status begin(al_ctx *c, const al_tensor *tokens, int64_t B, int64_t T, windows *w) {
  *w = (windows){.tokens = al_host(tokens), .step = al_stride(tokens)[0], .T = T};
  const bool off = c->scope_off;
  c->scope_off = true;
  w->x = al_tensor_new(c, AL_I32, 2, (const int64_t[]){B, T});
  w->y = al_tensor_new(c, AL_I32, 2, (const int64_t[]){B, T});
  c->scope_off = off;
  if (w->x && w->y && al_stage_begin(&w->to_x, w->x, false)) {
    if (al_stage_begin(&w->to_y, w->y, false)) return AL_OK;
    al_stage_end(&w->to_x, false);
  }
  al_release(w->x);
  al_release(w->y);
  return al_error(c);
}

static void take(const windows *w, int64_t b, int64_t start) {
  const int32_t *from = w->tokens + start * w->step;
  int32_t *x = (int32_t *)w->to_x.bytes + b * w->T, *y = (int32_t *)w->to_y.bytes + b * w->T;
  for (int64_t t = 0; t < w->T; t++) x[t] = from[t * w->step], y[t] = from[(t + 1) * w->step];
}

static al_status hand_over(al_ctx *c, windows *w, al_tensor **x, al_tensor **y) {
  al_stage_end(&w->to_x, true);
  al_stage_end(&w->to_y, true);
  al_tensor *px = al_scope_own(c, w->x),
            *py = al_scope_own(c, w->y); /* may fail only inside a scope, which then owns px */
  if (!px || !py) return al_error(c);
  *x = px;
  *y = py;
  return AL_OK;
}

al_status al_windows_random(al_ctx *c, const al_tensor *tokens, int64_t lo, int64_t hi, int64_t B,
                            int64_t T, uint64_t seed, uint64_t k, al_tensor **x, al_tensor **y) {
  *x = *y = NULL;
  AL_TRY(check(c, "windows_random", tokens, lo, hi, B, T));
  windows w;
  AL_TRY(begin(c, tokens, B, T, &w));
  uint32_t r[4];
  alk_philox(al_stream(seed, "windows"), k, r);
  const uint64_t key = (uint64_t)r[1] << 32 | r[0];
  for (int64_t b = 0; b < B; b++)
    take(&w, b, lo + (int64_t)below(key, (uint64_t)b, (uint64_t)(hi - lo - T)));
  return hand_over(c, &w, x, y);
}

al_status al_windows_even(al_ctx *c, const al_tensor *tokens, int64_t lo, int64_t hi, int64_t B,
                          int64_t T, int64_t first, int64_t n_total, al_tensor **x, al_tensor **y) {
  *x = *y = NULL;
  AL_TRY(check(c, "windows_even", tokens, lo, hi, B, T));
  if (first < 0 || n_total < 1 || first > n_total - B)
    return al_fail(c, AL_EVALUE, "windows_even: %lld windows from number %lld asked for, of %lld",
                   (long long)B, (long long)first, (long long)n_total);
  windows w;
  AL_TRY(begin(c, tokens, B, T, &w));
  /* The first window begins at lo and the last ends at hi. */
  const int64_t span = hi - lo - T - 1;
  for (int64_t b = 0; b < B; b++)
    take(&w, b, n_total == 1 ? lo : lo + (int64_t)((__int128)(first + b) * span / (n_total - 1)));
  return hand_over(c, &w, x, y);
}
