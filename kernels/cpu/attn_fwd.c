/* attn_fwd.c: forward of the fused attention (contract: ../attn.h).
 *
 * A job takes whole key/value heads. Keys are packed once a head as panels [channel][64 keys],
 * values as rows; then blocks of BLOCK query rows meet spans of SPAN keys: a register tile of rows
 * x SPAN scores stays in L1, is turned into weights there, and is multiplied with the values at
 * once. The row maximum is kept as the spans go by and the sums are rescaled when it grows. A tile
 * reads only what all its rows see; the rest of the diagonal goes row by row, so a hidden value is
 * never touched.
 */
#include "attn.h"

enum { BLOCK = 96, SPAN = 4 * KEYS };

/* ---- rows ------------------------------------------------------------------------------------ */

/* s becomes s' (+ log A); returns the maximum of it (cosh: of |s'| + log A) and the old one. */
WEIGH_INLINE real limit_row(const plan *p, const alk_weight f, const bool decay, const tile_row *r,
                            real *s, real m) {
  real best[GROUP];
  EACH_LANE best[l] = m;
  for (int64_t j = 0; j < r->n; j += GROUP) {
    real x[GROUP], e[GROUP];
    cap(p, s + j, x);
    clamp(p, x);
    if (decay) group_decay(r, j, e);
    if (f == ALK_WEIGHT_EXP && decay) EACH_LANE x[l] += e[l];
    EACH_LANE s[j + l] = x[l];
    if (f == ALK_WEIGHT_COSH) EACH_LANE x[l] = decay ? vabs(x[l]) + e[l] : vabs(x[l]);
    const int64_t left = r->n - j;
    if (left < GROUP) EACH_LANE x[l] = l < left ? x[l] : -INFINITY;
    EACH_LANE best[l] = x[l] > best[l] ? x[l] : best[l];
  }
  real top = best[0];
  for (int l = 1; l < GROUP; l++) top = best[l] > top ? best[l] : top;
  return top;
}

/* s' becomes w relative to e^m, 0 past n; adds the row's inner sum to *W. */
WEIGH_INLINE void weigh_row(const plan *p, const alk_weight f, const bool decay, alk_stat stat,
                            const tile_row *r, real m, real *s, real *W) {
  real sum[GROUP];
  EACH_LANE sum[l] = 0;
  const bool wide = f == ALK_WEIGHT_POLYNOMIAL && p->wide;
  if (wide) {
    for (int64_t j = 0; j < r->n; j += GROUP) cap(p, s + j, s + j), clamp(p, s + j);
    wide_row(p, r->n, s, s, NULL);
  }
  for (int64_t j = 0; j < r->n; j += GROUP) {
    real w[GROUP], e[GROUP];
    if (f == ALK_WEIGHT_EXP) {
      EACH_LANE w[l] = vexp(s[j + l] - m);
    } else {
      if (decay) group_decay(r, j, e);
      if (f == ALK_WEIGHT_COSH) EACH_LANE {
          const real a = vabs(s[j + l]), d = decay ? e[l] : 0;
          w[l] = R(0.5) * (vexp(a + d - m) + vexp(d - a - m));
        }
      else if (wide) EACH_LANE w[l] = decay ? s[j + l] * vexp(e[l]) : s[j + l];
      else weigh(p, f, decay, s + j, e, 0, w); /* polynomials meet cap and clamp here */
    }
    const int64_t left = r->n - j;
    if (left < GROUP) EACH_LANE w[l] = l < left ? w[l] : 0;
    EACH_LANE s[j + l] = w[l];
    switch (stat) {
    case ALK_STAT_none:
    case ALK_STAT_COUNT:
      break;
#define STATISTIC(word, inner, p, outer, q, doc)                                                   \
  case ALK_STAT_##word:                                                                            \
    EACH_LANE sum[l] += inner##_value(w[l], R(p), 0);                                              \
    break;
#include "../statistics.def"
#undef STATISTIC
    }
  }
  for (int half = GROUP / 2; half > 0; half /= 2)
    for (int l = 0; l < half; l++) sum[l] += sum[l + half];
  *W += sum[0];
}

#define ROW_FNS(name, f, decay)                                                                    \
  static real name##_limit(const plan *p, const tile_row *r, real *s, real m) {                    \
    return f == ALK_WEIGHT_POLYNOMIAL ? m : limit_row(p, f, decay, r, s, m);                       \
  }                                                                                                \
  static void name##_weigh(const plan *p, alk_stat stat, const tile_row *r, real m, real *s,       \
                           real *W) {                                                              \
    weigh_row(p, f, decay, stat, r, m, s, W);                                                      \
  }
ROW_FNS(exp_plain, ALK_WEIGHT_EXP, false)
ROW_FNS(exp_decay, ALK_WEIGHT_EXP, true)
ROW_FNS(cosh_plain, ALK_WEIGHT_COSH, false)
ROW_FNS(cosh_decay, ALK_WEIGHT_COSH, true)
ROW_FNS(poly_plain, ALK_WEIGHT_POLYNOMIAL, false)
ROW_FNS(poly_decay, ALK_WEIGHT_POLYNOMIAL, true)

typedef struct row_fns {
  real (*limit)(const plan *, const tile_row *, real *, real);
  void (*weigh)(const plan *, alk_stat, const tile_row *, real, real *, real *);
} row_fns;
static const row_fns fns[3][2] = {
    [ALK_WEIGHT_EXP] = {{exp_plain_limit, exp_plain_weigh}, {exp_decay_limit, exp_decay_weigh}},
    [ALK_WEIGHT_COSH] = {{cosh_plain_limit, cosh_plain_weigh},
                         {cosh_decay_limit, cosh_decay_weigh}},
    [ALK_WEIGHT_POLYNOMIAL] = {{poly_plain_limit, poly_plain_weigh},
                               {poly_decay_limit, poly_decay_weigh}}};

/* ---- a block of query rows ------------------------------------------------------------------- */

typedef struct head { /* what the rows of one query head work with */
  const alk_attn_spec *a;
  const plan *p;
  const row_fns *fn;
  program_state *program; /* or NULL */
  int64_t b, h, Dw, Ew;
  const double *sums;      /* (S) of the head, or NULL */
  const real *keys;        /* panels [S/KEYS][D][KEYS] */
  const real *values;      /* [S][Ew] */
  real *q;                 /* [BLOCK][Dw] packed rows */
  real *acc;               /* [BLOCK][Ew] N, relative to e^m */
  real *s;                 /* [ROWS][SPAN] */
  real m[BLOCK], W[BLOCK]; /* W: inner sums */
} head;

/* Logits of row i against n keys from j0 become what the program makes of them. */
static void run_program(const head *k, int64_t i, int64_t j0, int64_t n, real *s) {
  real registers[ALK_PROGRAM_REGISTERS * ALK_PROGRAM_LANES];
  ALK_NAME(program_row)(k->program, i + k->a->g.offset);
  limit_entries(&k->program->limits, n, s, NULL, s);
  ALK_NAME(program_run)(k->program, false, j0, n, s, registers);
  const real *y = program_output(k->program->p->value, s, registers);
  if (y != s) memcpy(s, y, (size_t)n * sizeof(real));
}

/* `rows` query rows from i (the r-th of the block) against the keys [j0, j1). */
static void meet(head *k, int64_t i, int64_t r, int rows, int64_t j0, int64_t j1) {
  const alk_attn_spec *a = k->a;
  int64_t lo[ROWS], hi[ROWS];
  for (int n = 0; n < rows; n++)
    lo[n] = j0, hi[n] = least(alk_visible_keys(&a->g, k->b, i + n), j1);
  if (hi[rows - 1] <= j0) return;
  const factor q = {k->q + r * k->Dw, k->Dw, 1};
  for (int64_t j = j0; j < hi[rows - 1]; j += WIDTH)
    tile_for(true, rows, 2)(a->D, &q, k->keys + j / KEYS * a->D * KEYS + j % KEYS, KEYS, false,
                            (real)a->scale, k->s + (j - j0), SPAN);
  for (int n = 0; n < rows; n++) {
    real *s = k->s + n * SPAN;
    const int64_t last = alk_visible_keys(&a->g, k->b, i + n) - 1;
    const tile_row t = {.n = hi[n] - j0,
                        .sums = k->sums ? k->sums + j0 : NULL,
                        .top = k->sums && last >= 0 ? k->sums[last] : 0};
    if (t.n <= 0) continue;
    if (k->program) run_program(k, i + n, j0, t.n, s);
    real *acc = k->acc + (r + n) * k->Ew, *W = &k->W[r + n];
    const real old = k->m[r + n], top = k->fn->limit(k->p, &t, s, old);
    const real m = top > -INFINITY ? top : 0; /* polynomials have none; a row of -inf neither */
    if (top > old && old > -INFINITY) {
      const real shrink = vexp(old - top);
      for (int64_t e = 0; e < k->Ew; e++) acc[e] *= shrink;
      *W *= stat_inner(a->stat, shrink);
    }
    k->m[r + n] = top;
    k->fn->weigh(k->p, a->stat, &t, m, s, W);
    if (a->dropout > 0) {
      real keep[SPAN];
      dropout_row(a, (uint64_t)(((k->b * a->g.H + k->h) * a->g.T + i + n) * a->g.S + j0), t.n,
                  keep);
      for (int64_t j = 0; j < t.n; j++) s[j] *= keep[j];
    }
  }
  const factor w = {k->s - j0, SPAN, 1}; /* terms are numbered by key */
  for (int64_t e = 0; e < k->Ew; e += WIDTH)
    add_range(true, rows, 2, lo, hi, j0, j1, &w, k->values + j0 * k->Ew + e, k->Ew, 1,
              k->acc + r * k->Ew + e, k->Ew);
}

static void run_block(head *k, const real *q, int64_t i0, int64_t i1, real *y, real *W, real *inner,
                      real *m) {
  const alk_attn_spec *a = k->a;
  pack_rows(a->map, i1 - i0, a->D, q + i0 * a->g.H * a->D, a->g.H * a->D, NULL, 0, k->q, k->Dw);
  memset(k->acc, 0, (size_t)((i1 - i0) * k->Ew) * sizeof(real));
  for (int64_t r = 0; r < i1 - i0; r++) k->m[r] = -INFINITY, k->W[r] = 0;
  const int64_t seen = alk_visible_keys(&a->g, k->b, i1 - 1);
  for (int64_t j = 0; j < seen; j += SPAN)
    for (int64_t r = 0, rows; r < i1 - i0; r += rows) {
      rows = rows_at(r, i1 - i0);
      meet(k, i0 + r, r, (int)rows, j, least(j + SPAN, seen));
    }
  for (int64_t r = 0; r < i1 - i0; r++) {
    const real total = stat_outer(a->stat, k->W[r]);
    const real *acc = k->acc + r * k->Ew;
    real *out = y + (i0 + r) * a->g.H * a->E;
    const real by = !a->normalise ? 1 : vabs(total) < SMALLEST ? 0 : 1 / total;
    for (int64_t e = 0; e < a->E; e++) out[e] = acc[e] * by;
    W[i0 + r] = total;
    if (inner) inner[i0 + r] = k->W[r];
    m[i0 + r] = k->m[r] > -INFINITY ? k->m[r] : 0;
  }
}

/* ---- heads ----------------------------------------------------------------------------------- */

static int64_t panels(int64_t S) { return (S + KEYS - 1) / KEYS; }

typedef struct layout { /* of a thread's scratch, in elements */
  int64_t Dw, Ew, row, keys, values, q, acc, s, total;
} layout;

static layout layout_of(const alk_attn_spec *a) {
  layout l = {.Dw = padded_width(a->D), .Ew = padded_width(a->E)};
  l.row = 0; /* one packed key panel before it is turned */
  l.keys = l.row + KEYS * l.Dw;
  l.values = l.keys + panels(a->g.S) * KEYS * a->D;
  l.q = l.values + a->g.S * l.Ew;
  l.acc = l.q + BLOCK * l.Dw;
  l.s = l.acc + BLOCK * l.Ew;
  l.total = l.s + ROWS * SPAN;
  return l;
}

/* Blocks of query rows are shared out where there are few heads. */
static int64_t jobs_of(const alk_place *place, const alk_attn_spec *a) {
  return jobs_for(a->g.B * a->g.Hkv * ((a->g.T + BLOCK - 1) / BLOCK), place);
}

int64_t ALK_NAME(attn_fwd_room)(const alk_place *place, const alk_attn_spec *a) {
  return jobs_of(place, a) * layout_of(a).total * (int64_t)sizeof(real);
}

static void pack_head(const alk_attn_spec *a, const layout *l, const real *k, const real *v,
                      const real *scale, int64_t b, int64_t hk, real *x) {
  const int64_t S = a->g.S, Hkv = a->g.Hkv;
  for (int64_t j = 0; j < S; j += KEYS) {
    const int64_t n = least(KEYS, S - j);
    const real *from = k + ((b * S + j) * Hkv + hk) * a->D;
    real *panel = x + l->keys + j * a->D;
    if (a->map == ALK_MAP_identity) {
      pack_columns(from, Hkv * a->D, n, a->D, panel);
    } else {
      pack_rows(a->map, n, a->D, from, Hkv * a->D, NULL, 0, x + l->row, l->Dw);
      pack_columns(x + l->row, l->Dw, n, a->D, panel);
    }
  }
  pack_rows(ALK_MAP_identity, S, a->E, v + (b * S * Hkv + hk) * a->E, Hkv * a->E,
            scale ? scale + b * S * Hkv + hk : NULL, Hkv, x + l->values, l->Ew);
}

alk_status ALK_NAME(attn_fwd)(const alk_place *place, const alk_attn_spec *a, const void *q,
                              const void *k, const void *v, const void *scale, const void *vsums,
                              void *y, void *W, void *inner, void *m, void *scratch) {
  const alk_visible *g = &a->g;
  const double *sums = vsums;
  const layout l = layout_of(a);
  const plan p = plan_after(&a->weight);
  const int64_t group = g->H / g->Hkv, pairs = g->B * g->Hkv, jobs = jobs_of(place, a);
  /* few heads: the blocks of a head are shared out, and each job packs the keys for itself */
  const int64_t blocks = (g->T + BLOCK - 1) / BLOCK,
                parts = pairs >= jobs || pairs == 0 ? 1 : least((jobs + pairs - 1) / pairs, blocks);
  const int64_t items = pairs * parts;
#pragma omp parallel for schedule(static, 1) num_threads((int)jobs)
  for (int64_t job = 0; job < jobs; job++) {
    real *x = (real *)scratch + job * l.total;
    int64_t from, to, packed = -1;
    share(items, job, jobs, &from, &to);
    for (int64_t n = from; n < to; n++) {
      const int64_t pair = n / parts, part = n % parts, b = pair / g->Hkv, hk = pair % g->Hkv;
      if (pair != packed) pack_head(a, &l, k, v, scale, b, hk, x);
      packed = pair;
      for (int64_t h = hk * group; h < (hk + 1) * group; h++) {
        program_state program;
        if (a->weight.program) ALK_NAME(program_head)(&a->weight, h, g->H, &program);
        head hd = {.a = a,
                   .p = &p,
                   .fn = &fns[a->weight.f][sums != NULL],
                   .program = a->weight.program ? &program : NULL,
                   .b = b,
                   .h = h,
                   .Dw = l.Dw,
                   .Ew = l.Ew,
                   .sums =
                       sums ? sums + (b * a->weight.Hd + h / (g->H / a->weight.Hd)) * g->S : NULL,
                   .keys = x + l.keys,
                   .values = x + l.values,
                   .q = x + l.q,
                   .acc = x + l.acc,
                   .s = x + l.s};
        /* every parts-th block, so that short and long rows are shared fairly */
        for (int64_t i = part * BLOCK; i < g->T; i += parts * BLOCK)
          run_block(&hd, (const real *)q + (b * g->T * g->H + h) * a->D, i, least(i + BLOCK, g->T),
                    (real *)y + (b * g->T * g->H + h) * a->E, (real *)W + (b * g->H + h) * g->T,
                    inner ? (real *)inner + (b * g->H + h) * g->T : NULL,
                    (real *)m + (b * g->H + h) * g->T);
      }
    }
  }
  return ALK_OK;
}
