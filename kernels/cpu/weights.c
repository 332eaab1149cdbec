/* weights.c: weights from logits over visible entries, w_ij = A_ij f(s'_ij), their backward, and
 * the row statistics (contract: ../visible.h).
 *
 * Rows run in groups of LANES entries. The last group of a row overlaps the one before it; a row
 * shorter than a group is copied and padded: hidden entries are not even read. f' is taken from w
 * where it can be: exp' = exp, cosh' = cosh tanh. Decay is f64 until a difference of two sums is
 * rounded.
 */
#include "weigh.h"

#define INLINE static inline __attribute__((always_inline))

enum { LANES = GROUP, ROWS = 32, NEXT = 1, PARALLEL = 1 << 15 };

/* A group of a row: starts at `at`, has `size` entries, and the first `done` were in the one
 * before. */
typedef struct group {
  int64_t at, size, done;
} group;

INLINE group group_at(int64_t j, int64_t n) {
  const int64_t at = j + LANES <= n || n < LANES ? j : n - LANES;
  return (group){at, n - at < LANES ? n - at : LANES, j - at};
}

/* LANES values from p: p itself, or where only m are there a copy that repeats the last. */
INLINE const real *padded(const real *p, int64_t m, real *copy) {
  if (m >= LANES) return p;
  for (int64_t l = 0; l < LANES; l++) copy[l] = p[l < m ? l : m - 1];
  return copy;
}
INLINE const double *padded_sums(const double *p, int64_t m, double *copy) {
  if (m >= LANES) return p;
  for (int64_t l = 0; l < LANES; l++) copy[l] = p[l < m ? l : m - 1];
  return copy;
}

INLINE void put(const real *g, int64_t m, real *out) {
  if (m >= LANES) EACH_LANE out[l] = g[l];
  else
    for (int64_t l = 0; l < m; l++) out[l] = g[l];
}

/* A row of n visible entries. next: from an entry to the one to prefetch, since a row often ends
 * before the hardware has seen a stream. */
typedef struct row {
  int64_t n, next;
  const real *s;
  const double *sums; /* NULL without decay */
  real m;
} row;

INLINE void weigh_row(const plan *p, const alk_weight f, const bool decay, const row *r, real *w) {
  for (int64_t j = 0; j < r->n; j += LANES) {
    const group k = group_at(j, r->n);
    real sc[LANES], e[LANES], wc[LANES];
    double uc[LANES];
    __builtin_prefetch(r->s + j + r->next);
    const real *s = padded(r->s + k.at, k.size, sc);
    if (decay) log_decay(padded_sums(r->sums + k.at, k.size, uc), r->sums[r->n - 1], e);
    weigh(p, f, decay, s, e, r->m, wc);
    put(wc, k.size, w + k.at);
  }
}

#define WEIGH_ROW(name, f, decay)                                                                  \
  static void name(const plan *p, const row *r, real *w) { weigh_row(p, f, decay, r, w); }
WEIGH_ROW(exp_row, ALK_WEIGHT_EXP, false)
WEIGH_ROW(exp_decay_row, ALK_WEIGHT_EXP, true)
WEIGH_ROW(cosh_row, ALK_WEIGHT_COSH, false)
WEIGH_ROW(cosh_decay_row, ALK_WEIGHT_COSH, true)
WEIGH_ROW(polynomial_row, ALK_WEIGHT_POLYNOMIAL, false)
WEIGH_ROW(polynomial_decay_row, ALK_WEIGHT_POLYNOMIAL, true)

/* sums of head h of batch row b from that key on, or NULL. */
static const double *sums_of(const alk_visible *g, const alk_weight_spec *spec, const double *sums,
                             int64_t b, int64_t h, int64_t key) {
  return sums ? sums + (b * spec->Hd + h / (g->H / spec->Hd)) * g->S + key : NULL;
}

static void clear_hidden(const alk_visible *g, alk_range seen, real *out) {
  for (int64_t j = 0; j < seen.from; j++) out[j] = 0;
  for (int64_t j = seen.to; j < g->S; j++) out[j] = 0;
}

/* Rows [i0, i1) of head h of batch row b. */
typedef struct block {
  int64_t b, h, i0, i1;
} block;

static int64_t blocks_of(const alk_visible *g, bool whole_heads) {
  return whole_heads ? 1 : (g->T + ROWS - 1) / ROWS;
}

static block block_at(const alk_visible *g, bool whole_heads, int64_t n) {
  const int64_t blocks = blocks_of(g, whole_heads), head = n / blocks;
  if (whole_heads) return (block){head / g->H, head % g->H, 0, g->T};
  const int64_t i0 = n % blocks * ROWS;
  return (block){head / g->H, head % g->H, i0, i0 + ROWS < g->T ? i0 + ROWS : g->T};
}

alk_status ALK_NAME(weights_fwd)(const alk_place *place, const alk_visible *g,
                                 const alk_weight_spec *spec, const void *s, const void *reference,
                                 const void *sums, void *w) {
  static void (*const rows[3][2])(const plan *, const row *, real *) = {
      [ALK_WEIGHT_EXP] = {exp_row, exp_decay_row},
      [ALK_WEIGHT_COSH] = {cosh_row, cosh_decay_row},
      [ALK_WEIGHT_POLYNOMIAL] = {polynomial_row, polynomial_decay_row}};
  const plan p = plan_of(spec);
  const int64_t items = g->B * g->H * blocks_of(g, false);
#pragma omp parallel for num_threads(place->threads)                                               \
    schedule(static) if (g->B * g->H * g->T * g->S > PARALLEL)
  for (int64_t n = 0; n < items; n++) {
    const block k = block_at(g, false, n);
    for (int64_t i = k.i0; i < k.i1; i++) {
      const int64_t at = (k.b * g->H + k.h) * g->T + i;
      const alk_range seen = alk_visible_keys(g, k.b, i);
      const row r = {.n = seen.to - seen.from,
                     .next = NEXT * g->S,
                     .s = (const real *)s + at * g->S + seen.from,
                     .sums = sums_of(g, spec, sums, k.b, k.h, seen.from),
                     .m = reference ? ((const real *)reference)[at] : 0};
      real *out = (real *)w + at * g->S;
      rows[spec->f][sums != NULL](&p, &r, out + seen.from);
      clear_hidden(g, seen, out);
    }
  }
  return ALK_OK;
}

/* ---- backward ------------------------------------------------------------------------------- */

/* What a row's backward adds to; either may be NULL. */
typedef struct totals {
  double *sums;            /* (S), the head's part of dsums */
  double (*powers)[LANES]; /* n_coefficients groups of partial sums of dw A (s' / POWER_UNIT)^n */
} totals;

/* g = dw A f'(s'), through the clamp and the cap to s. plain: f is exp and neither is there. */
INLINE void slope(const plan *p, const alk_weight f, const bool plain, const bool decay,
                  const real *s, const real *e, const real *w, const real *dw, const group k,
                  double (*powers)[LANES], real *g) {
  if (plain) {
    EACH_LANE g[l] = PASSED(dw[l], w[l] * dw[l]);
    return;
  }
  real x[LANES], y[LANES];
  cap(p, s, x);
  EACH_LANE y[l] = x[l];
  clamp(p, y);
  real a[LANES]; /* A dw, but of exp and cosh w has A in it */
  EACH_LANE a[l] = decay && f == ALK_WEIGHT_POLYNOMIAL ? PASSED(dw[l], vexp(e[l]) * dw[l]) : dw[l];
  slope_of_weights(p, f, y, w, a, g);
  if (f == ALK_WEIGHT_POLYNOMIAL && powers) {
    double t[LANES];
    EACH_LANE t[l] = l >= k.done && l < k.size ? (double)a[l] : 0;
    for (int n = 0; n < p->n; n++) {
      EACH_LANE powers[n][l] += t[l];
      EACH_LANE t[l] = PASSED(t[l], t[l] * (double)(y[l] / POWER_UNIT));
    }
  }
  if (p->clamp) EACH_LANE g[l] = x[l] <= p->limit ? g[l] : 0;
  if (p->cap) EACH_LANE g[l] = PASSED(g[l], g[l] * (1 - (x[l] / p->softcap) * (x[l] / p->softcap)));
}

/* E_ij = w_ij dw_ij = d / d log A_ij, and log A_ij = sums_p - sums_j. */
INLINE void add_decay(const real *w, const real *dw, const group k, double *sums, double *row_sum) {
  double e[LANES];
  EACH_LANE e[l] = l >= k.done && l < k.size ? PASSED(dw[l], (double)w[l] * (double)dw[l]) : 0;
  EACH_LANE row_sum[l] += e[l];
  if (k.size >= LANES) EACH_LANE sums[l] -= e[l];
  else
    for (int64_t l = 0; l < k.size; l++) sums[l] -= e[l];
}

INLINE void slope_row(const plan *p, const alk_weight f, const bool plain, const bool decay,
                      const row *r, const real *w, const real *dw, real *ds, const totals *t) {
  double row_sum[LANES] = {0};
  for (int64_t j = 0; j < r->n; j += LANES) {
    const group k = group_at(j, r->n);
    real sc[LANES], wc[LANES], dc[LANES], e[LANES], g[LANES];
    double uc[LANES];
    __builtin_prefetch(w + j + r->next);
    __builtin_prefetch(dw + j + r->next);
    if (!plain) __builtin_prefetch(r->s + j + r->next);
    const real *s = plain ? NULL : padded(r->s + k.at, k.size, sc);
    const real *wj = padded(w + k.at, k.size, wc), *dwj = padded(dw + k.at, k.size, dc);
    if (decay) log_decay(padded_sums(r->sums + k.at, k.size, uc), r->sums[r->n - 1], e);
    slope(p, f, plain, decay, s, e, wj, dwj, k, t->powers, g);
    if (ds) put(g, k.size, ds + k.at);
    if (t->sums) add_decay(wj, dwj, k, t->sums + k.at, row_sum);
  }
  for (int l = 0; t->sums && r->n > 0 && l < LANES; l++) t->sums[r->n - 1] += row_sum[l];
}

#define SLOPE_ROW(name, f, plain, decay)                                                           \
  static void name(const plan *p, const row *r, const real *w, const real *dw, real *ds,           \
                   const totals *t) {                                                              \
    slope_row(p, f, plain, decay, r, w, dw, ds, t);                                                \
  }
/* exp' and cosh' come from w, which has A in it */
SLOPE_ROW(plain_exp_slope, ALK_WEIGHT_EXP, true, false)
SLOPE_ROW(exp_slope, ALK_WEIGHT_EXP, false, false)
SLOPE_ROW(cosh_slope, ALK_WEIGHT_COSH, false, false)
SLOPE_ROW(polynomial_slope_row, ALK_WEIGHT_POLYNOMIAL, false, false)
SLOPE_ROW(polynomial_decay_slope, ALK_WEIGHT_POLYNOMIAL, false, true)

typedef void slope_fn(const plan *p, const row *r, const real *w, const real *dw, real *ds,
                      const totals *t);

static slope_fn *slope_for(const plan *p, alk_weight f, bool decay) {
  switch (f) {
  case ALK_WEIGHT_EXP:
    return p->cap || p->clamp ? exp_slope : plain_exp_slope;
  case ALK_WEIGHT_COSH:
    return cosh_slope;
  case ALK_WEIGHT_POLYNOMIAL:
    break;
  }
  return decay ? polynomial_decay_slope : polynomial_slope_row;
}

alk_status ALK_NAME(weights_bwd)(const alk_place *place, const alk_visible *g,
                                 const alk_weight_spec *spec, const void *s, const void *sums,
                                 const void *w, const void *dw, void *ds, void *dsums,
                                 void *dcoefficients) {
  const plan p = plan_of(spec);
  slope_fn *run = slope_for(&p, spec->f, sums != NULL);
  const bool whole = dsums || dcoefficients; /* a head's totals are summed by one thread */
  const int64_t items = g->B * g->H * blocks_of(g, whole);
#pragma omp parallel for num_threads(place->threads)                                               \
    schedule(static) if (g->B * g->H * g->T * g->S > PARALLEL)
  for (int64_t n = 0; n < items; n++) {
    const block k = block_at(g, whole, n);
    double powers[ALK_MAX_COEFFICIENTS][LANES];
    for (int c = 0; dcoefficients && c < p.n; c++) EACH_LANE powers[c][l] = 0;
    double *own = dsums ? (double *)dsums + n * g->S : NULL;
    for (int64_t j = 0; own && j < g->S; j++) own[j] = 0;
    for (int64_t i = k.i0; i < k.i1; i++) {
      const int64_t at = (k.b * g->H + k.h) * g->T + i;
      const alk_range seen = alk_visible_keys(g, k.b, i);
      const int64_t first = at * g->S + seen.from;
      const totals t = {own ? own + seen.from : NULL, dcoefficients ? powers : NULL};
      const row r = {.n = seen.to - seen.from,
                     .next = NEXT * g->S,
                     .s = (const real *)s + first,
                     .sums = sums_of(g, spec, sums, k.b, k.h, seen.from)};
      run(&p, &r, (const real *)w + first, (const real *)dw + first, ds ? (real *)ds + first : NULL,
          &t);
      if (ds) clear_hidden(g, seen, (real *)ds + at * g->S);
    }
    for (int c = 0; dcoefficients && c < p.n; c++) {
      double sum = 0;
      EACH_LANE sum += powers[c][l];
      ((double *)dcoefficients)[n * p.n + c] = sum;
    }
    if (dcoefficients) finish_powers(&p, spec->base, (double *)dcoefficients + n * p.n);
  }
  return ALK_OK;
}

/* ---- decay and row statistics --------------------------------------------------------------- */

alk_status ALK_NAME(decay_sums)(const alk_place *place, int64_t B, int64_t S, int64_t Hd,
                                const void *a, void *vsums) {
  double *sums = vsums;
  for (int64_t b = 0; b < B; b++)
    for (int64_t h = 0; h < Hd; h++) {
      double sum = 0;
      for (int64_t j = 0; j < S; j++) {
        sum += (double)((const real *)a)[(b * S + j) * Hd + h];
        sums[(b * Hd + h) * S + j] = sum;
      }
    }
  return ALK_OK;
}

alk_status ALK_NAME(decay_sums_bwd)(const alk_place *place, int64_t B, int64_t S, int64_t H,
                                    int64_t Hd, const void *vdsums, void *da) {
  const int64_t heads = H / Hd;
  const double *dsums = vdsums;
  for (int64_t b = 0; b < B; b++)
    for (int64_t hd = 0; hd < Hd; hd++) {
      double sum = 0;
      for (int64_t j = S - 1; j >= 0; j--) {
        for (int64_t h = hd * heads; h < (hd + 1) * heads; h++) sum += dsums[(b * H + h) * S + j];
        ((real *)da)[(b * S + j) * Hd + hd] = (real)sum;
      }
    }
  return ALK_OK;
}

/* max over the row; -inf for an empty one */
static real max_row(const plan *p, bool absolute, const row *r) {
  real best[LANES];
  EACH_LANE best[l] = -INFINITY;
  for (int64_t j = 0; j < r->n; j += LANES) {
    const group k = group_at(j, r->n);
    real sc[LANES], x[LANES], e[LANES];
    double uc[LANES];
    cap(p, padded(r->s + k.at, k.size, sc), x);
    clamp(p, x);
    if (absolute) EACH_LANE x[l] = vabs(x[l]);
    if (r->sums) {
      log_decay(padded_sums(r->sums + k.at, k.size, uc), r->sums[r->n - 1], e);
      EACH_LANE x[l] += e[l];
    }
    EACH_LANE best[l] = x[l] > best[l] ? x[l] : best[l];
  }
  real m = best[0];
  for (int l = 1; l < LANES; l++) m = best[l] > m ? best[l] : m;
  return m;
}

alk_status ALK_NAME(visible_max)(const alk_place *place, const alk_visible *g,
                                 const alk_weight_spec *spec, bool absolute, const void *s,
                                 const void *sums, void *m) {
  alk_weight_spec bare = *spec;
  bare.n_coefficients = 0;
  const plan p = plan_of(&bare);
  const int64_t items = g->B * g->H * blocks_of(g, false);
#pragma omp parallel for num_threads(place->threads)                                               \
    schedule(static) if (g->B * g->H * g->T * g->S > PARALLEL)
  for (int64_t n = 0; n < items; n++) {
    const block k = block_at(g, false, n);
    for (int64_t i = k.i0; i < k.i1; i++) {
      const int64_t at = (k.b * g->H + k.h) * g->T + i;
      const alk_range seen = alk_visible_keys(g, k.b, i);
      const row r = {.n = seen.to - seen.from,
                     .next = NEXT * g->S,
                     .s = (const real *)s + at * g->S + seen.from,
                     .sums = sums_of(g, spec, sums, k.b, k.h, seen.from)};
      const real best = max_row(&p, absolute, &r);
      ((real *)m)[at] = best > -INFINITY ? best : 0;
    }
  }
  return ALK_OK;
}

alk_status ALK_NAME(visible_count)(const alk_place *place, const alk_visible *g,
                                   const void *vbefore, void *n) {
  const int32_t *before = vbefore;
  for (int64_t b = 0; b < g->B; b++)
    for (int64_t i = 0; i < g->T; i++) {
      const alk_range seen = alk_visible_keys(g, b, i);
      ((real *)n)[b * g->T + i] = (real)(seen.to - seen.from + (before ? before[b] : 0));
    }
  return ALK_OK;
}
