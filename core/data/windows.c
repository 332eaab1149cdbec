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

static void copy_row(const al_tensor *tokens, int64_t start, int64_t T, int32_t *x, int32_t *y) {
  const int64_t step = al_stride(tokens)[0];
  const int32_t *from = (const int32_t *)al_host(tokens) + start * step;
  for (int64_t t = 0; t < T; t++) x[t] = from[t * step], y[t] = from[(t + 1) * step];
}

/* Both tensors, owned by the caller until hand_over. */
static al_status make_pair(al_ctx *c, int64_t B, int64_t T, al_tensor **x, al_tensor **y) {
  const bool off = c->scope_off;
  c->scope_off = true;
  *x = al_tensor_new(c, AL_I32, 2, (const int64_t[]){B, T});
  *y = *x ? al_tensor_new(c, AL_I32, 2, (const int64_t[]){B, T}) : NULL;
  c->scope_off = off;
  if (*y) return AL_OK;
  al_release(*x);
  *x = NULL;
  return al_error(c);
}

static al_status hand_over(al_ctx *c, al_tensor *px, al_tensor *py, al_tensor **x, al_tensor **y) {
  px = al_scope_own(c, px);
  py = al_scope_own(c, py); /* may fail only inside a scope, which then owns px */
  if (!px || !py) return al_error(c);
  *x = px;
  *y = py;
  return AL_OK;
}

al_status al_windows_random(al_ctx *c, const al_tensor *tokens, int64_t lo, int64_t hi, int64_t B,
                            int64_t T, uint64_t seed, uint64_t k, al_tensor **x, al_tensor **y) {
  *x = *y = NULL;
  AL_TRY(check(c, "windows_random", tokens, lo, hi, B, T));
  al_tensor *px, *py;
  AL_TRY(make_pair(c, B, T, &px, &py));
  uint32_t r[4];
  alk_philox(al_stream(seed, "windows"), k, r);
  const uint64_t key = (uint64_t)r[1] << 32 | r[0];
  for (int64_t b = 0; b < B; b++) {
    const int64_t start = lo + (int64_t)below(key, (uint64_t)b, (uint64_t)(hi - lo - T));
    copy_row(tokens, start, T, (int32_t *)al_host(px) + b * T, (int32_t *)al_host(py) + b * T);
  }
  return hand_over(c, px, py, x, y);
}

al_status al_windows_even(al_ctx *c, const al_tensor *tokens, int64_t lo, int64_t hi, int64_t B,
                          int64_t T, int64_t first, int64_t n_total, al_tensor **x, al_tensor **y) {
  *x = *y = NULL;
  AL_TRY(check(c, "windows_even", tokens, lo, hi, B, T));
  if (first < 0 || n_total < 1 || first > n_total - B)
    return al_fail(c, AL_EVALUE, "windows_even: %lld windows from number %lld asked for, of %lld",
                   (long long)B, (long long)first, (long long)n_total);
  al_tensor *px, *py;
  AL_TRY(make_pair(c, B, T, &px, &py));
  /* The first window begins at lo and the last ends at hi. */
  const int64_t span = hi - lo - T - 1;
  for (int64_t b = 0; b < B; b++) {
    const int64_t start =
        n_total == 1 ? lo : lo + (int64_t)((__int128)(first + b) * span / (n_total - 1));
    copy_row(tokens, start, T, (int32_t *)al_host(px) + b * T, (int32_t *)al_host(py) + b * T);
  }
  return hand_over(c, px, py, x, y);
}
