/* attn_fwd.c: forward of the fused attention (contract: ../attn.h).
 *
 * A job takes whole key/value heads. Keys are packed once a head as panels [channel][64 keys],
 * values as rows; then blocks of BLOCK query rows meet spans of SPAN keys: a register tile of rows
 * x SPAN scores stays in L1, is turned into weights there, and is multiplied with the values at
 * once. The row maximum is kept as the spans go by and the sums are rescaled when it grows. A tile
 * reads only what all its rows see; the rest of the diagonal goes row by row, so a hidden value is
 * never touched.
 *
 * A few rows (a token that is decoded) are not worth packing a head for: they meet PART keys of all
 * heads as soon as these are packed, and the sums of the parts are joined in order: keys and values
 * are read once, as they lie in memory, by all threads.
 */
#include "attn.h"

enum { BLOCK = 96, SPAN = 4 * KEYS, FEW_ROWS = 8, PART = 2 * KEYS };

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
  int64_t first, v_row;    /* key that keys and values begin with; numbers from value to value */
  const real *raw;         /* keys as they lie in memory, for one row; NULL: they are packed */
  const real *keys;        /* panels [S/KEYS][D][KEYS] */
  const real *values;      /* [S][v_row] */
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

/* s_j = scale q.k_j of n vectors, `stride` apart, as they lie in memory; D a multiple of LANES. */
static void dot_keys(int64_t D, const real *q, const real *k, int64_t stride, int64_t n, real scale,
                     real *s) {
  for (int64_t j = 0; j < n; j += LANES) {
    real part[LANES * LANES], turned[LANES * LANES];
    for (int64_t l = 0; l < LANES; l++) {
      vec sum = {0};
      const real *x = k + (j + l < n ? j + l : n - 1) * stride;
      for (int64_t d = 0; d < D; d += LANES)
        sum += *(const vec_at *)(q + d) * *(const vec_at *)(x + d);
      *(vec_at *)(part + l * LANES) = sum;
    }
    transpose(part, LANES, turned, LANES);
    vec sum = {0};
    for (int l = 0; l < LANES; l++) sum += *(const vec_at *)(turned + l * LANES);
    *(vec_at *)(s + j) = sum * scale;
  }
}

/* Logits of `rows` packed query rows against the keys [j0, j1). */
static void logits(const head *k, const real *q, int rows, int64_t j0, int64_t j1) {
  const alk_attn_spec *a = k->a;
  if (k->raw) {
    dot_keys(a->D, q, k->raw, a->g.Hkv * a->D, j1 - j0, (real)a->scale, k->s);
    return;
  }
  const factor f = {q, k->Dw, 1};
  for (int64_t j = j0; j < j1; j += WIDTH)
    tile_for(true, rows, 2)(a->D, &f,
                            k->keys + (j - k->first) / KEYS * a->D * KEYS + (j - k->first) % KEYS,
                            KEYS, false, (real)a->scale, k->s + (j - j0), SPAN);
}

/* The logits s of row i (the r-th of the block) against n keys from j0 become weights, and what was
 * summed becomes relative to the same reference. */
static void weigh_keys(head *k, int64_t i, int64_t r, int64_t j0, int64_t n, real *s) {
  const alk_attn_spec *a = k->a;
  const int64_t last = alk_visible_keys(&a->g, k->b, i).to - 1;
  const tile_row t = {.n = n,
                      .sums = k->sums ? k->sums + j0 : NULL,
                      .top = k->sums && last >= 0 ? k->sums[last] : 0};
  if (t.n <= 0) return;
  if (k->program) run_program(k, i, j0, t.n, s);
  real *acc = k->acc + r * k->Ew, *W = &k->W[r];
  const real old = k->m[r], top = k->fn->limit(k->p, &t, s, old);
  const real m = top > -INFINITY ? top : 0; /* polynomials have none; a row of -inf neither */
  if (top > old && old > -INFINITY) {
    const real shrink = vexp(old - top);
    for (int64_t e = 0; e < k->Ew; e++) acc[e] *= shrink;
    *W *= stat_inner(a->stat, shrink);
  }
  k->m[r] = top;
  k->fn->weigh(k->p, a->stat, &t, m, s, W);
  if (a->dropout > 0) {
    real keep[SPAN];
    dropout_row(a, (uint64_t)(((k->b * a->g.H + k->h) * a->g.T + i) * a->g.S + j0), t.n, keep);
    for (int64_t j = 0; j < t.n; j++) s[j] *= keep[j];
  }
}

/* The same for the keys [lo, hi) of what begins at j0: vectors begin where a row does. */
static void weigh_range(head *k, int64_t i, int64_t r, int64_t j0, int64_t lo, int64_t hi,
                        real *s) {
  const int64_t late = lo - j0, n = hi - lo;
  if (n <= 0) return;
  if (late) memmove(s, s + late, (size_t)n * sizeof *s);
  weigh_keys(k, i, r, lo, n, s);
  if (late) memmove(s + late, s, (size_t)n * sizeof *s);
}

/* acc += the values of keys [lo, hi) of each row by its weights. */
static void add_values(const head *k, int rows, const int64_t *lo, const int64_t *hi, int64_t j0,
                       int64_t j1, real *acc) {
  const factor w = {k->s - j0, SPAN, 1}; /* terms are numbered by key */
  for (int64_t e = 0; e < k->Ew; e += WIDTH)
    add_range(true, rows, 2, lo, hi, j0, j1, &w, k->values + (j0 - k->first) * k->v_row + e,
              k->v_row, 1, acc + e, k->Ew);
}

/* `rows` query rows from i (the r-th of the block) against the keys [j0, j1). */
static void meet(head *k, int64_t i, int64_t r, int rows, int64_t j0, int64_t j1) {
  int64_t lo[ROWS], hi[ROWS];
  for (int n = 0; n < rows; n++) {
    const alk_range seen = alk_visible_keys(&k->a->g, k->b, i + n);
    lo[n] = most(seen.from, j0), hi[n] = least(seen.to, j1);
  }
  if (hi[rows - 1] <= j0 || lo[0] >= j1) return;
  logits(k, k->q + r * k->Dw, rows, j0, hi[rows - 1]);
  for (int n = 0; n < rows; n++) weigh_range(k, i + n, r + n, j0, lo[n], hi[n], k->s + n * SPAN);
  add_values(k, rows, lo, hi, j0, j1, k->acc + r * k->Ew);
}

/* Row 0 of `rows` heads that share keys, values and scratch, against the visible keys [j0, j1). */
static void meet_heads(head *k, int rows, int64_t j0, int64_t j1) {
  int64_t lo[ROWS], hi[ROWS];
  const int64_t first = most(alk_visible_keys(&k->a->g, k->b, 0).from, j0);
  for (int n = 0; n < rows; n++) lo[n] = first, hi[n] = j1;
  if (j1 <= first) return;
  logits(k, k->q, rows, j0, j1);
  for (int n = 0; n < rows; n++) weigh_range(&k[n], 0, 0, j0, first, j1, k->s + n * SPAN);
  add_values(k, rows, lo, hi, j0, j1, k->acc);
}

/* Where the results of one query head lie: y of row 0, (T) of the others. */
typedef struct results {
  real *y, *W, *inner, *m; /* inner may be NULL */
} results;

/* Rows [i0, i1) begin with nothing. */
static void begin_rows(head *k, const real *q, int64_t i0, int64_t i1) {
  const alk_attn_spec *a = k->a;
  pack_rows(a->map, i1 - i0, a->D, q + i0 * a->g.H * a->D, a->g.H * a->D, NULL, 0, k->q, k->Dw);
  memset(k->acc, 0, (size_t)((i1 - i0) * k->Ew) * sizeof(real));
  for (int64_t r = 0; r < i1 - i0; r++) k->m[r] = -INFINITY, k->W[r] = 0;
}

static void meet_rows(head *k, int64_t i0, int64_t i1, int64_t j0, int64_t j1) {
  for (int64_t r = 0, rows; r < i1 - i0; r += rows) {
    rows = rows_at(r, i1 - i0);
    meet(k, i0 + r, r, (int)rows, j0, j1);
  }
}

static void finish_row(const alk_attn_spec *a, const real *acc, real W, real m, int64_t i,
                       const results *to) {
  const real total = stat_outer(a->stat, W);
  real *out = to->y + i * a->g.H * a->E;
  const real by = !a->normalise ? 1 : vabs(total) < SMALLEST ? 0 : 1 / total;
  for (int64_t e = 0; e < a->E; e++) out[e] = acc[e] * by;
  to->W[i] = total;
  if (to->inner) to->inner[i] = W;
  to->m[i] = m > -INFINITY ? m : 0;
}

static void run_block(head *k, const real *q, int64_t i0, int64_t i1, const results *to) {
  const int64_t from = alk_visible_keys(&k->a->g, k->b, i0).from / SPAN * SPAN,
                seen = alk_visible_keys(&k->a->g, k->b, i1 - 1).to;
  begin_rows(k, q, i0, i1);
  for (int64_t j = from; j < seen; j += SPAN) meet_rows(k, i0, i1, j, least(j + SPAN, seen));
  for (int64_t i = i0; i < i1; i++)
    finish_row(k->a, k->acc + (i - i0) * k->Ew, k->W[i - i0], k->m[i - i0], i, to);
}

/* ---- heads ----------------------------------------------------------------------------------- */

typedef struct inputs { /* of a call, as in ../attn.h */
  const alk_attn_spec *a;
  const plan *p;
  const real *q, *k, *v, *scale;
  const double *sums;
  real *y, *W, *inner, *m;
} inputs;

static results results_of(const inputs *in, int64_t b, int64_t h) {
  const alk_visible *g = &in->a->g;
  const int64_t row = (b * g->H + h) * g->T;
  return (results){.y = in->y + (b * g->T * g->H + h) * in->a->E,
                   .W = in->W + row,
                   .inner = in->inner ? in->inner + row : NULL,
                   .m = in->m + row};
}

static const real *queries(const inputs *in, int64_t b, int64_t h) {
  return in->q + (b * in->a->g.T * in->a->g.H + h) * in->a->D;
}

/* Without keys, values and scratch. */
static head head_of(const inputs *in, int64_t b, int64_t h, program_state *program) {
  const alk_attn_spec *a = in->a;
  const alk_visible *g = &a->g;
  if (a->weight.program) ALK_NAME(program_head)(&a->weight, h, g->H, program);
  head k;
  k.a = a, k.p = in->p, k.fn = &fns[a->weight.f][in->sums != NULL];
  k.program = a->weight.program ? program : NULL;
  k.b = b, k.h = h, k.Dw = padded_width(a->D), k.Ew = padded_width(a->E);
  k.first = 0, k.v_row = k.Ew, k.raw = NULL;
  k.sums = in->sums ? in->sums + (b * a->weight.Hd + h / (g->H / a->weight.Hd)) * g->S : NULL;
  return k;
}

static int64_t panels(int64_t S) { return (S + KEYS - 1) / KEYS; }

static bool few(const alk_attn_spec *a) { return a->g.T * (a->g.H / a->g.Hkv) <= FEW_ROWS; }

typedef struct layout { /* of a thread's scratch, in elements */
  int64_t Dw, Ew, row, keys, values, q, acc, s, total;
} layout;

static layout layout_of(const alk_attn_spec *a) {
  const int64_t S = few(a) ? least(a->g.S, PART) : a->g.S, rows = few(a) ? FEW_ROWS : BLOCK;
  layout l = {.Dw = padded_width(a->D), .Ew = padded_width(a->E)};
  l.row = 0; /* one packed key panel before it is turned */
  l.keys = l.row + KEYS * l.Dw;
  l.values = l.keys + panels(S) * KEYS * a->D;
  l.q = l.values + S * l.Ew;
  l.acc = l.q + rows * l.Dw;
  l.s = l.acc + rows * l.Ew;
  l.total = l.s + ROWS * SPAN;
  return l;
}

/* Parts of the keys that a few rows meet apart. */
static int64_t key_parts(const alk_attn_spec *a) { return most((a->g.S + PART - 1) / PART, 1); }
/* What a part leaves of a row: m, the inner sum, N. */
static int64_t part_size(const alk_attn_spec *a) { return 2 + padded_width(a->E); }

/* Blocks of query rows, or parts of the keys, are shared out, too. */
static int64_t jobs_of(const alk_place *place, const alk_attn_spec *a) {
  const int64_t parts = few(a) ? key_parts(a) : (a->g.T + BLOCK - 1) / BLOCK;
  return jobs_for(a->g.B * a->g.Hkv * parts, place);
}

int64_t ALK_NAME(attn_fwd_room)(const alk_place *place, const alk_attn_spec *a) {
  const int64_t left = few(a) ? a->g.B * a->g.H * a->g.T * key_parts(a) * part_size(a) : 0;
  return (jobs_of(place, a) * layout_of(a).total + left) * (int64_t)sizeof(real);
}

/* Keys and values [j0, j1) of a key/value head. */
static void pack_keys(const inputs *in, const layout *l, int64_t b, int64_t hk, int64_t j0,
                      int64_t j1, real *x) {
  const alk_attn_spec *a = in->a;
  const int64_t S = a->g.S, Hkv = a->g.Hkv;
  for (int64_t j = j0; j < j1; j += KEYS) {
    const int64_t n = least(KEYS, j1 - j);
    const real *from = in->k + ((b * S + j) * Hkv + hk) * a->D;
    real *panel = x + l->keys + (j - j0) * a->D;
    if (a->map == ALK_MAP_identity) {
      pack_columns(from, Hkv * a->D, n, a->D, panel);
    } else {
      pack_rows(a->map, n, a->D, from, Hkv * a->D, NULL, 0, x + l->row, l->Dw);
      pack_columns(x + l->row, l->Dw, n, a->D, panel);
    }
  }
}

static void pack_values(const inputs *in, const layout *l, int64_t b, int64_t hk, int64_t j0,
                        int64_t j1, real *x) {
  const int64_t S = in->a->g.S, Hkv = in->a->g.Hkv, E = in->a->E;
  pack_rows(ALK_MAP_identity, j1 - j0, E, in->v + ((b * S + j0) * Hkv + hk) * E, Hkv * E,
            in->scale ? in->scale + (b * S + j0) * Hkv + hk : NULL, Hkv, x + l->values, l->Ew);
}

static void whole_heads(const alk_place *place, const inputs *in, real *scratch) {
  const alk_attn_spec *a = in->a;
  const alk_visible *g = &a->g;
  const layout l = layout_of(a);
  const int64_t group = g->H / g->Hkv, pairs = g->B * g->Hkv, jobs = jobs_of(place, a);
  /* few heads: the blocks of a head are shared out, and each job packs the keys for itself */
  const int64_t blocks = (g->T + BLOCK - 1) / BLOCK,
                parts = pairs >= jobs || pairs == 0 ? 1 : least((jobs + pairs - 1) / pairs, blocks);
  const int64_t items = pairs * parts;
#pragma omp parallel for schedule(static, 1) num_threads((int)jobs)
  for (int64_t job = 0; job < jobs; job++) {
    real *x = scratch + job * l.total;
    int64_t from, to, packed = -1;
    share(items, job, jobs, &from, &to);
    for (int64_t n = from; n < to; n++) {
      const int64_t pair = n / parts, part = n % parts, b = pair / g->Hkv, hk = pair % g->Hkv;
      if (pair != packed) {
        pack_keys(in, &l, b, hk, 0, g->S, x);
        pack_values(in, &l, b, hk, 0, g->S, x);
      }
      packed = pair;
      for (int64_t h = hk * group; h < (hk + 1) * group; h++) {
        program_state program;
        head hd = head_of(in, b, h, &program);
        hd.keys = x + l.keys, hd.values = x + l.values;
        hd.q = x + l.q, hd.acc = x + l.acc, hd.s = x + l.s;
        const results r = results_of(in, b, h);
        /* every parts-th block, so that short and long rows are shared fairly */
        for (int64_t i = part * BLOCK; i < g->T; i += parts * BLOCK)
          run_block(&hd, queries(in, b, h), i, least(i + BLOCK, g->T), &r);
      }
    }
  }
}

/* ---- a few rows ------------------------------------------------------------------------------ */

/* How keys and values come: packed, or as they lie in memory. */
typedef struct coming {
  bool packed_keys, packed_values;
} coming;

/* The rows of the query heads of key/value head hk against the visible keys [j, to); what they leave
 * of row i of the n-th head is at left + (n T + i) stride. */
static void meet_part(const inputs *in, const layout *l, coming how, int64_t b, int64_t hk,
                      int64_t j, int64_t to, real *x, real *left, int64_t stride) {
  const alk_attn_spec *a = in->a;
  const int64_t T = a->g.T, group = a->g.H / a->g.Hkv, token = (b * a->g.S + j) * a->g.Hkv + hk;
  program_state program[FEW_ROWS];
  head hd[FEW_ROWS];
  if (how.packed_keys) pack_keys(in, l, b, hk, j, to, x);
  if (how.packed_values) pack_values(in, l, b, hk, j, to, x);
  for (int64_t n = 0; n < group; n++) {
    head *k = &hd[n];
    *k = head_of(in, b, hk * group + n, &program[n]);
    k->first = j;
    k->raw = how.packed_keys ? NULL : in->k + token * a->D;
    k->keys = x + l->keys;
    k->values = how.packed_values ? x + l->values : in->v + token * a->E;
    if (!how.packed_values) k->v_row = a->g.Hkv * a->E;
    k->q = x + l->q + n * T * l->Dw, k->acc = x + l->acc + n * T * l->Ew, k->s = x + l->s;
    begin_rows(k, queries(in, b, hk * group + n), 0, T);
    if (T > 1) meet_rows(k, 0, T, j, to);
  }
  for (int64_t n = 0, rows; n < group && T == 1; n += rows) {
    rows = rows_at(n, group);
    meet_heads(&hd[n], (int)rows, j, to);
  }
  for (int64_t n = 0; n < group * T; n++) {
    real *out = left + n * stride;
    out[0] = hd[n / T].m[n % T], out[1] = hd[n / T].W[n % T];
    memcpy(out + 2, x + l->acc + n * l->Ew, (size_t)l->Ew * sizeof(real));
  }
}

/* Joins what n parts left of a row, in the first of them. */
static void join_parts(const alk_attn_spec *a, int64_t n, real *left) {
  const int64_t size = part_size(a);
  real m = left[0];
  for (int64_t p = 1; p < n; p++) m = left[p * size] > m ? left[p * size] : m;
  for (int64_t p = 0; p < n; p++) {
    const real *from = left + p * size;
    /* polynomials have no reference: all are -inf */
    const real by = from[0] == m ? 1 : from[0] > -INFINITY ? vexp(from[0] - m) : 0;
    const real W = from[1] * stat_inner(a->stat, by);
    left[1] = p ? left[1] + W : W;
    for (int64_t e = 2; e < size; e++) left[e] = p ? left[e] + from[e] * by : from[e] * by;
  }
  left[0] = m;
}

static void few_rows(const alk_place *place, const inputs *in, real *scratch) {
  const alk_attn_spec *a = in->a;
  const alk_visible *g = &a->g;
  const layout l = layout_of(a);
  const int64_t parts = key_parts(a), jobs = jobs_of(place, a), size = part_size(a),
                group = g->H / g->Hkv;
  const coming how = {.packed_keys = group * g->T > 1 || a->map != ALK_MAP_identity || a->D % LANES,
                      .packed_values = in->scale || l.Ew != a->E};
  real *left = scratch + jobs * l.total; /* (B,H,T,parts,size) */
#pragma omp parallel for schedule(static, 1) num_threads((int)jobs)
  for (int64_t job = 0; job < jobs; job++) {
    int64_t from, to;
    real *x = scratch + job * l.total;
    share(g->B * parts * g->Hkv, job, jobs, &from, &to);
    for (int64_t n = from; n < to; n++) { /* all heads of a part: as they lie in memory */
      const int64_t hk = n % g->Hkv, part = n / g->Hkv % parts, b = n / g->Hkv / parts;
      const int64_t j = part * PART,
                    end = most(j, least(j + PART, alk_visible_keys(g, b, g->T - 1).to));
      meet_part(in, &l, how, b, hk, j, end, x,
                left + ((b * g->Hkv + hk) * group * g->T * parts + part) * size, parts * size);
    }
  }
  for (int64_t r = 0; r < g->B * g->H * g->T; r++) {
    real *row = left + r * parts * size;
    const results to = results_of(in, r / g->T / g->H, r / g->T % g->H);
    join_parts(a, parts, row);
    finish_row(a, row + 2, row[1], row[0], r % g->T, &to);
  }
}

alk_status ALK_NAME(attn_fwd)(const alk_place *place, const alk_attn_spec *a, const void *q,
                              const void *k, const void *v, const void *scale, const void *sums,
                              void *y, void *W, void *inner, void *m, void *scratch) {
  const plan p = plan_after(&a->weight);
  const inputs in = {.a = a,
                     .p = &p,
                     .q = q,
                     .k = k,
                     .v = v,
                     .scale = scale,
                     .sums = sums,
                     .y = y,
                     .W = W,
                     .inner = inner,
                     .m = m};
  if (few(a)) few_rows(place, &in, scratch);
  else whole_heads(place, &in, scratch);
  return ALK_OK;
}
