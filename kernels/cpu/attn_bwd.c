/* attn_bwd.c: backward of the fused attention (contract: ../attn.h).
 *
 * A job takes whole key/value heads; queries, dy and dq of the head are packed rows. Panels of KEYS
 * keys meet blocks of ROW_BLOCK query rows: scores and dy.v are computed again in register tiles,
 * become w and ds in L1, and go at once into dq (rows), dk and dv (keys). With y = N / W the
 * gradient of a weight is dw_ij = g_i.v_j + delta_i,  g = dy / W,  delta = dW - dy.y / W;  without
 * it g = dy, delta = dW, a statistic with an outer function that of the inner sum. Every sum runs in a fixed order that does not know the number of threads.
 */
#include "attn.h"

enum { ROW_BLOCK = 48 };

/* ---- one row --------------------------------------------------------------------------------- */

typedef struct slope_row {
  tile_row t;
  real m, delta, scale;
  alk_stat stat;
  bool keep_all; /* no dropout */
  const real *keep;
  double *dsums;     /* of the head at key j0, or NULL */
  double *dsum_last; /* of the row's last visible key */
  double *dc;        /* of the head, or NULL: sums of A dw (s / POWER_UNIT)^n */
} slope_row;

/* s (scores) becomes w as the values see it (kept weights), p (g.v) becomes ds. */
WEIGH_INLINE void slope(const plan *p, const alk_weight f, const bool decay, const slope_row *r,
                        real *s, real *gv) {
  double row_sum[GROUP], powers[ALK_MAX_COEFFICIENTS][GROUP];
  EACH_LANE row_sum[l] = 0;
  for (int n = 0; r->dc && n < p->n; n++) EACH_LANE powers[n][l] = 0;
  const bool wide = f == ALK_WEIGHT_POLYNOMIAL && p->wide;
  real row_w[KEYS], row_df[KEYS];
  if (wide) {
    for (int64_t j = 0; j < r->t.n; j += GROUP) cap(p, s + j, row_w + j), clamp(p, row_w + j);
    wide_row(p, r->t.n, row_w, row_w, row_df);
  }
  for (int64_t j = 0; j < r->t.n; j += GROUP) {
    real x[GROUP], y[GROUP], e[GROUP], w[GROUP], df[GROUP], dw[GROUP];
    const int64_t left = r->t.n - j;
    cap(p, s + j, x);
    EACH_LANE y[l] = x[l];
    clamp(p, y);
    if (decay) group_decay(&r->t, j, e);
    if (wide) {
      real A[GROUP];
      EACH_LANE A[l] = decay ? vexp(e[l]) : 1;
      EACH_LANE w[l] = row_w[j + l] * A[l];
      EACH_LANE df[l] = row_df[j + l] * A[l];
    } else {
      weigh_slope(p, f, decay, y, e, r->m, w, df);
    }
    EACH_LANE dw[l] = r->keep_all ? gv[j + l] : gv[j + l] * r->keep[j + l];
    switch (r->stat) {
    case ALK_STAT_none:
    case ALK_STAT_COUNT:
      break;
#define STATISTIC(word, inner, a, outer, b, doc)                                                   \
  case ALK_STAT_##word:                                                                            \
    EACH_LANE dw[l] += inner##_gradient(r->delta, w[l], inner##_value(w[l], R(a), 0), R(a), 0);    \
    break;
#include "../statistics.def"
#undef STATISTIC
    }
    if (r->dsums) {
      double E[GROUP];
      EACH_LANE E[l] = l < left ? (double)w[l] * (double)dw[l] : 0;
      EACH_LANE row_sum[l] += E[l];
      for (int64_t l = 0; l < least(left, GROUP); l++) r->dsums[j + l] -= E[l];
    }
    if (r->dc) {
      double a[GROUP];
      EACH_LANE a[l] = l < left ? (double)dw[l] * (decay ? (double)vexp(e[l]) : 1) : 0;
      for (int n = 0; n < p->n; n++) {
        EACH_LANE powers[n][l] += a[l];
        EACH_LANE a[l] = l < left ? a[l] * (double)(y[l] / POWER_UNIT) : 0;
      }
    }
    /* f' may be infinite where the weight is finite */
    EACH_LANE dw[l] = PASSED(dw[l], dw[l] * (df[l] * r->scale));
    if (p->clamp) EACH_LANE dw[l] = x[l] <= p->limit ? dw[l] : 0;
    if (p->cap) EACH_LANE dw[l] *= 1 - (x[l] / p->softcap) * (x[l] / p->softcap);
    EACH_LANE s[j + l] = r->keep_all ? w[l] : w[l] * r->keep[j + l];
    EACH_LANE gv[j + l] = dw[l];
  }
  for (int l = 0; r->dsums && l < GROUP; l++) *r->dsum_last += row_sum[l];
  for (int n = 0; r->dc && n < p->n; n++)
    for (int l = 0; l < GROUP; l++) r->dc[n] += powers[n][l];
}

#define SLOPE(name, f, decay)                                                                      \
  static void name(const plan *p, const slope_row *r, real *s, real *gv) {                         \
    slope(p, f, decay, r, s, gv);                                                                  \
  }
SLOPE(exp_plain, ALK_WEIGHT_EXP, false)
SLOPE(exp_decay, ALK_WEIGHT_EXP, true)
SLOPE(cosh_plain, ALK_WEIGHT_COSH, false)
SLOPE(cosh_decay, ALK_WEIGHT_COSH, true)
SLOPE(poly_plain, ALK_WEIGHT_POLYNOMIAL, false)
SLOPE(poly_decay, ALK_WEIGHT_POLYNOMIAL, true)

typedef void slope_fn(const plan *p, const slope_row *r, real *s, real *gv);
static slope_fn *const slopes[3][2] = {[ALK_WEIGHT_EXP] = {exp_plain, exp_decay},
                                       [ALK_WEIGHT_COSH] = {cosh_plain, cosh_decay},
                                       [ALK_WEIGHT_POLYNOMIAL] = {poly_plain, poly_decay}};

/* ---- a key/value head ------------------------------------------------------------------------ */

typedef struct layout { /* of a job's scratch, in elements */
  int64_t Dw, Ew, q, dq, g, delta, k, kt, vt, dk, dv, s, p, total;
} layout;

static layout layout_of(const alk_attn_spec *a) {
  const int64_t rows = a->g.H / a->g.Hkv * a->g.T;
  layout l = {.Dw = padded_width(a->D), .Ew = padded_width(a->E)};
  l.q = 0;
  l.dq = l.q + rows * l.Dw;
  l.g = l.dq + rows * l.Dw;
  l.delta = l.g + rows * l.Ew;
  l.k = l.delta + (rows + WIDTH) / WIDTH * WIDTH;
  l.kt = l.k + KEYS * l.Dw;
  l.vt = l.kt + KEYS * a->D;
  l.dk = l.vt + KEYS * a->E;
  l.dv = l.dk + KEYS * l.Dw;
  l.s = l.dv + KEYS * l.Ew;
  l.p = l.s + ROW_BLOCK * KEYS;
  l.total = l.p + ROW_BLOCK * KEYS;
  return l;
}

int64_t ALK_NAME(attn_bwd_room)(const alk_place *place, const alk_attn_spec *a) {
  return jobs_for(a->g.B * a->g.Hkv, place) * layout_of(a).total * (int64_t)sizeof(real);
}

typedef struct evaluation { /* of a program on some rows of a tile */
  program_state t;
  real x[ALK_PROGRAM_LANES], z[ALK_PROGRAM_LANES]; /* logits before the clamp and after it */
  real registers[ALK_PROGRAM_REGISTERS * ALK_PROGRAM_LANES];
} evaluation;

typedef struct pair { /* a key/value head of a batch row */
  const alk_attn_spec *a;
  const alk_attn_grad *t;
  const plan *p;
  slope_fn *slope;
  evaluation *program; /* of the query head at hand, or NULL */
  const layout *l;
  real *x; /* scratch */
  int64_t b, hk, group;
} pair;

/* Packs q, g and delta of the n-th query head of the group and clears its dq. */
static void load_head(const pair *k, int64_t n) {
  const alk_attn_spec *a = k->a;
  const int64_t T = a->g.T, H = a->g.H, h = k->hk * k->group + n, row = (k->b * H + h) * T;
  const int64_t at = k->b * T * H + h;
  const real *dy = (const real *)k->t->dy + at * a->E, *y = (const real *)k->t->y + at * a->E;
  const real *W = (const real *)k->t->W + row, *dW = k->t->dW ? (const real *)k->t->dW + row : NULL;
  const real *inner = k->t->inner ? (const real *)k->t->inner + row : NULL;
  real *g = k->x + k->l->g + n * T * k->l->Ew, *delta = k->x + k->l->delta + n * T;
  pack_rows(a->map, T, a->D, (const real *)k->t->q + at * a->D, H * a->D, NULL, 0,
            k->x + k->l->q + n * T * k->l->Dw, k->l->Dw);
  memset(k->x + k->l->dq + n * T * k->l->Dw, 0, (size_t)(T * k->l->Dw) * sizeof(real));
  for (int64_t i = 0; i < T; i++) {
    const real *d = dy + i * H * a->E, *o = y + i * H * a->E;
    real dot = 0, by = 1;
    delta[i] = dW ? dW[i] : 0;
    if (a->normalise) {
      by = vabs(W[i]) < SMALLEST ? 0 : 1 / W[i];
      for (int64_t e = 0; e < a->E; e++) dot += d[e] * o[e];
      delta[i] = by == 0 ? 0 : delta[i] - dot * by;
    }
    if (inner) delta[i] = W[i] < SMALLEST ? 0 : stat_outer_bwd(a->stat, delta[i], inner[i], W[i]);
    for (int64_t e = 0; e < k->l->Ew; e++) g[i * k->l->Ew + e] = e < a->E ? d[e] * by : 0;
  }
}

/* Rows of a tile that the program runs over at once; i and j are those of one row. */
static int at_once(const alk_program *p) {
  return p->reads_i || p->reads_j ? 1 : ALK_PROGRAM_LANES / KEYS;
}

/* The program on `rows` rows of logits from row i against keys from j0; s becomes its values. */
static void evaluate(evaluation *v, int64_t i, int64_t j0, int rows, real *s) {
  const int64_t n = rows * KEYS;
  ALK_NAME(program_row)(&v->t, i);
  limit_entries(&v->t.limits, n, s, v->x, v->z);
  ALK_NAME(program_run)(&v->t, true, j0, n, v->z, v->registers);
  memcpy(s, program_output(v->t.p->value, v->z, v->registers), (size_t)n * sizeof(real));
}

/* slope() through the program for entries `at` on of what was evaluated; dscalars may be NULL. */
static void slope_program(const pair *k, const slope_row *r, int64_t at, real *s, real *gv,
                          double *dscalars) {
  const evaluation *v = k->program;
  const alk_program *p = v->t.p;
  k->slope(k->p, r, s, gv);
  for (int m = 0; dscalars && m < p->n_scalars; m++)
    dscalars[m] += program_sum(r->t.n, gv, program_output(p->scalar[m], v->z, v->registers) + at);
  slope_entries(&v->t.limits, r->t.n, v->x + at, program_output(p->slope, v->z, v->registers) + at,
                (real)k->a->scale, gv);
}

/* n entries of two rows, from `late` on, to the rows' start, or back. */
static void shift(int64_t late, int64_t n, real *s, real *p, bool back) {
  if (late == 0) return;
  memmove(back ? s + late : s, back ? s : s + late, (size_t)n * sizeof *s);
  memmove(back ? p + late : p, back ? p : p + late, (size_t)n * sizeof *p);
}

/* `rows` query rows from i, the r-th of their block, against the keys [j0, j1): w and ds of the
 * block, and their part of dq. */
static void meet(const pair *k, int64_t n, int64_t i, int64_t r, int rows, int64_t j0, int64_t j1) {
  const alk_attn_spec *a = k->a;
  const layout *l = k->l;
  const int64_t T = a->g.T, h = k->hk * k->group + n, row = (k->b * a->g.H + h) * T, S = a->g.S;
  int64_t lo[ROWS], hi[ROWS];
  for (int e = 0; e < rows; e++) {
    const alk_range seen = alk_visible_keys(&a->g, k->b, i + e);
    lo[e] = most(seen.from, j0), hi[e] = least(seen.to, j1);
  }
  if (hi[rows - 1] <= j0 || lo[0] >= j1) return;
  real *s = k->x + l->s + r * KEYS, *p = k->x + l->p + r * KEYS;
  const factor q = {k->x + l->q + (n * T + i) * l->Dw, l->Dw, 1},
               g = {k->x + l->g + (n * T + i) * l->Ew, l->Ew, 1};
  for (int64_t j = 0; j < hi[rows - 1] - j0; j += WIDTH) {
    tile_for(true, rows, 2)(a->D, &q, k->x + l->kt + j, KEYS, false, (real)a->scale, s + j, KEYS);
    tile_for(true, rows, 2)(a->E, &g, k->x + l->vt + j, KEYS, false, 1, p + j, KEYS);
  }
  const int64_t head = k->b * a->g.H + h;
  const double *sums = NULL;
  if (k->t->sums)
    sums = (const double *)k->t->sums + (k->b * a->weight.Hd + h / (a->g.H / a->weight.Hd)) * S;
  double *dsums = k->t->dsums ? (double *)k->t->dsums + head * S : NULL, *dscalars = NULL,
         *dc = k->t->dcoefficients;
  if (k->t->dscalars) dscalars = (double *)k->t->dscalars + head * a->weight.program->n_scalars;
  const int together = k->program ? at_once(a->weight.program) : rows;
  for (int e = 0; e < rows; e++) {
    const int64_t last = alk_visible_keys(&a->g, k->b, i + e).to - 1, late = lo[e] - j0,
                  count = hi[e] - lo[e];
    if (k->program && e % together == 0)
      evaluate(k->program, i + e + a->g.offset, j0, (int)least(together, rows - e), s + e * KEYS);
    if (count <= 0) continue;
    real keep[KEYS], *se = s + e * KEYS, *pe = p + e * KEYS;
    if (a->dropout > 0) dropout_row(a, (uint64_t)((row + i + e) * S + lo[e]), count, keep);
    for (int64_t j = count; a->dropout > 0 && j < KEYS; j++) keep[j] = 0;
    const slope_row t = {
        .t = {.n = count, .sums = sums ? sums + lo[e] : NULL, .top = sums ? sums[last] : 0},
        .m = ((const real *)k->t->m)[row + i + e],
        .delta = (k->x + l->delta)[n * T + i + e],
        .scale = k->program ? 1 : (real)a->scale,
        .stat = a->stat,
        .keep_all = !(a->dropout > 0),
        .keep = keep,
        .dsums = dsums ? dsums + lo[e] : NULL,
        .dsum_last = dsums ? dsums + last : NULL,
        .dc = dc ? dc + head * a->weight.n_coefficients : NULL};
    shift(late, count, se, pe, false); /* whole vectors from a row's start */
    if (k->program) slope_program(k, &t, e % together * KEYS + late, se, pe, dscalars);
    else k->slope(k->p, &t, se, pe);
    shift(late, count, se, pe, true);
  }
  const factor ds = {p - j0, KEYS, 1}; /* terms are numbered by key */
  for (int64_t d = 0; d < l->Dw; d += WIDTH)
    add_range(true, rows, 2, lo, hi, j0, j1, &ds, k->x + l->k + d, l->Dw, 1,
              k->x + l->dq + (n * T + i) * l->Dw + d, l->Dw);
}

/* out[key] += sum over rows i of the block of a[i][key] x[i], for keys [j0, j1): a is s or p. */
static void to_keys(const pair *k, int64_t i0, int64_t i1, int64_t j0, int64_t j1, const real *a,
                    const real *x, int64_t width, real *out) {
  for (int64_t j = j0, keys; j < j1; j += keys) {
    int64_t lo[ROWS], hi[ROWS];
    keys = rows_at(j, j1);
    for (int e = 0; e < keys; e++) {
      const alk_range rows = alk_visible_rows(&k->a->g, k->b, j + e);
      lo[e] = most(rows.from, i0), hi[e] = most(least(rows.to, i1), lo[e]);
    }
    if (lo[0] >= i1) break;
    const factor f = {a + (j - j0) - i0 * KEYS, 1, KEYS}; /* terms are numbered by row */
    for (int64_t d = 0; d < width; d += WIDTH)
      add_range(false, (int)keys, 2, lo, hi, i0, i1, &f, x + d, width, 1,
                out + (j - j0) * width + d, width);
  }
}

static void run_keys(pair *k, int64_t j0, int64_t j1) {
  const alk_attn_spec *a = k->a;
  const layout *l = k->l;
  const int64_t T = a->g.T, Hkv = a->g.Hkv, at = (k->b * a->g.S + j0) * Hkv + k->hk;
  const real *key = (const real *)k->t->k + at * a->D;
  pack_rows(a->map, j1 - j0, a->D, key, Hkv * a->D, NULL, 0, k->x + l->k, l->Dw);
  pack_columns(k->x + l->k, l->Dw, j1 - j0, a->D, k->x + l->kt);
  const real *v = (const real *)k->t->v + at * a->E,
             *b = k->t->b ? (const real *)k->t->b + at : NULL;
  if (b)
    pack_rows(ALK_MAP_identity, j1 - j0, a->E, v, Hkv * a->E, b, Hkv, k->x + l->dv,
              l->Ew); /* dv is free till below */
  pack_columns(b ? k->x + l->dv : v, b ? l->Ew : Hkv * a->E, j1 - j0, a->E, k->x + l->vt);
  memset(k->x + l->dk, 0, (size_t)(KEYS * (l->Dw + l->Ew)) * sizeof(real));
  for (int64_t n = 0; n < k->group; n++) {
    if (k->program)
      ALK_NAME(program_head)(&a->weight, k->hk * k->group + n, a->g.H, &k->program->t);
    const int64_t end = alk_visible_rows(&a->g, k->b, j1 - 1).to;
    for (int64_t i0 = alk_visible_rows(&a->g, k->b, j0).from; i0 < end; i0 += ROW_BLOCK) {
      const int64_t i1 = least(i0 + ROW_BLOCK, end);
      for (int64_t i = i0, rows; i < i1; i += rows) {
        rows = rows_at(i, i1);
        meet(k, n, i, i - i0, (int)rows, j0, j1);
      }
      to_keys(k, i0, i1, j0, j1, k->x + l->s, k->x + l->g + (n * T + i0) * l->Ew, l->Ew,
              k->x + l->dv);
      to_keys(k, i0, i1, j0, j1, k->x + l->p, k->x + l->q + (n * T + i0) * l->Dw, l->Dw,
              k->x + l->dk);
    }
  }
  real *dk = (real *)k->t->dk + at * a->D, *dv = (real *)k->t->dv + at * a->E;
  for (int64_t j = 0; j < j1 - j0; j++) {
    map_row_bwd(a->map, a->D, key + j * Hkv * a->D, k->x + l->dk + j * l->Dw, dk + j * Hkv * a->D);
    const real *du = k->x + l->dv + j * l->Ew;
    real dot = 0;
    for (int64_t e = 0; b && e < a->E; e++) dot += PASSED(du[e], du[e] * v[j * Hkv * a->E + e]);
    for (int64_t e = 0; e < a->E; e++)
      dv[j * Hkv * a->E + e] = b ? PASSED(du[e], b[j * Hkv] * du[e]) : du[e];
    if (b) ((real *)k->t->db)[at + j * Hkv] = dot;
  }
}

/* Part `at` of n numbers each; x may be NULL. */
static void clear_part(double *x, int64_t at, int64_t n) {
  if (x) memset(x + at * n, 0, (size_t)n * sizeof *x);
}

static void run_pair(pair *k) {
  const alk_attn_spec *a = k->a;
  const int64_t T = a->g.T, H = a->g.H, S = a->g.S;
  for (int64_t n = 0; n < k->group; n++) {
    const int64_t h = k->b * H + k->hk * k->group + n;
    load_head(k, n);
    const int scalars = a->weight.program ? a->weight.program->n_scalars : 0;
    clear_part(k->t->dsums, h, S);
    clear_part(k->t->dcoefficients, h, k->p->n);
    clear_part(k->t->dscalars, h, scalars);
  }
  for (int64_t j = 0; j < S; j += KEYS) run_keys(k, j, least(j + KEYS, S));
  for (int64_t n = 0; k->t->dcoefficients && n < k->group; n++)
    finish_powers(k->p, a->weight.base,
                  (double *)k->t->dcoefficients + (k->b * H + k->hk * k->group + n) * k->p->n);
  for (int64_t n = 0; n < k->group; n++) {
    const int64_t at = (k->b * T * H + k->hk * k->group + n) * a->D;
    for (int64_t i = 0; i < T; i++)
      map_row_bwd(a->map, a->D, (const real *)k->t->q + at + i * H * a->D,
                  k->x + k->l->dq + (n * T + i) * k->l->Dw, (real *)k->t->dq + at + i * H * a->D);
  }
}

alk_status ALK_NAME(attn_bwd)(const alk_place *place, const alk_attn_spec *a,
                              const alk_attn_grad *t, void *scratch) {
  const layout l = layout_of(a);
  const plan p = plan_after(&a->weight);
  const int64_t Hkv = a->g.Hkv, pairs = a->g.B * Hkv, jobs = jobs_for(pairs, place);
#pragma omp parallel for schedule(static, 1) num_threads((int)jobs)
  for (int64_t job = 0; job < jobs; job++) {
    int64_t from, to;
    evaluation program;
    share(pairs, job, jobs, &from, &to);
    for (int64_t n = from; n < to; n++)
      run_pair(&(pair){.a = a,
                       .t = t,
                       .p = &p,
                       .slope = slopes[a->weight.f][t->sums != NULL],
                       .program = a->weight.program ? &program : NULL,
                       .l = &l,
                       .x = (real *)scratch + job * l.total,
                       .b = n / Hkv,
                       .hk = n % Hkv,
                       .group = a->g.H / Hkv});
  }
  return ALK_OK;
}
