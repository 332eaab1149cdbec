/* attn.h: what the forward and the backward of the fused attention share: weights of one row of a
 * tile. */
#ifndef ALK_CPU_ATTN_H
#define ALK_CPU_ATTN_H
#include "../philox.h"
#include "program.h"
#include "rows.h"

/* ---- one row of a tile of scores ------------------------------------------------------------- */

/* Row i of head h sees the first n of the tile's keys, which start at j0; s and what is made of it
 * hold whole groups, and what is past n is garbage on the way in and 0 on the way out. */
typedef struct tile_row {
  int64_t n;
  const double *sums; /* of the head, at key j0; NULL without decay */
  double top;         /* sums at the row's last visible key */
} tile_row;

/* Log decay of a group at entry j; sums past the last visible key are not read. */
WEIGH_INLINE void group_decay(const tile_row *r, int64_t j, real *e) {
  double u[GROUP];
  for (int l = 0; l < GROUP; l++) u[l] = j + l < r->n ? r->sums[j + l] : r->top;
  log_decay(u, r->top, e);
}

/* ---- the statistic of a row ------------------------------------------------------------------ */

/* inner(c), by which the inner sum of w becomes that of c w. */
static inline real stat_inner(alk_stat stat, real c) {
  switch (stat) {
  case ALK_STAT_none:
  case ALK_STAT_COUNT:
    break;
#define STATISTIC(word, inner, p, outer, q, doc)                                                   \
  case ALK_STAT_##word:                                                                            \
    return inner##_value(c, R(p), 0);
#include "../statistics.def"
#undef STATISTIC
  }
  return 0;
}

/* W of the inner sum. */
static inline real stat_outer(alk_stat stat, real sum) {
  switch (stat) {
  case ALK_STAT_none:
  case ALK_STAT_COUNT:
    break;
#define STATISTIC(word, inner, p, outer, q, doc)                                                   \
  case ALK_STAT_##word:                                                                            \
    return outer##_value(sum, R(q), 0);
#include "../statistics.def"
#undef STATISTIC
  }
  return 0;
}

/* The gradient of the inner sum from dW, of a W that is above 0. */
static inline real stat_outer_bwd(alk_stat stat, real dW, real sum, real W) {
  switch (stat) {
  case ALK_STAT_none:
  case ALK_STAT_COUNT:
    break;
#define STATISTIC(word, inner, p, outer, q, doc)                                                   \
  case ALK_STAT_##word:                                                                            \
    return outer##_gradient(dW, sum, W, R(q), 0);
#include "../statistics.def"
#undef STATISTIC
  }
  return dW;
}

/* The spec of f alone: limits and program come first, then. */
static inline plan plan_after(const alk_weight_spec *spec) {
  alk_weight_spec bare = *spec;
  if (spec->program) bare.round = false, bare.softcap = 0, bare.clamp = INFINITY;
  return plan_of(&bare);
}

/* keep[j] = scale or 0 for entries j < n of the row that starts at element `at` of the dropout
 * stream. */
static void dropout_row(const alk_attn_spec *a, uint64_t at, int64_t n, real *keep) {
  const uint64_t threshold = (uint64_t)(a->dropout * 4294967296.0);
  const real s = (real)(1 / (1 - a->dropout));
  uint32_t word[4];
  uint64_t block = UINT64_MAX;
  for (int64_t j = 0; j < n; j++) {
    const uint64_t e = at + (uint64_t)j;
    if (e / 4 != block) alk_philox(a->key, block = e / 4, word);
    keep[j] = word[e % 4] >= threshold ? s : 0;
  }
}
#endif
