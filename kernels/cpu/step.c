/* step.c: the recurrent form of attention with polynomial weights (contract: ../step.h).
 *
 * One pass over a state: a block of rows is decayed, takes the token, is written and read by the
 * query heads while it is in the cache. Sums run over blocks of BLOCK rows, then over the blocks.
 */
#include "../step.h"
#include "monomials.h"
#include "rows.h"

enum { BLOCK = 64 };         /* rows: 16 KiB of 64 channels */
enum { PARALLEL = 1 << 17 }; /* elements of states worth waking a second thread: some 20 us */

typedef struct work { /* one job's scratch, for one state */
  const alk_step_spec *a;
  int64_t group;       /* query heads a state */
  real *kh, *m, *u;    /* phi(k) (D), its monomials (R), b v (E) */
  real *qh, *mq, *p;   /* (group,D), (group,R), (group,R) */
  real *dn, *dW, *dp;  /* backward: gradients of N (group,E), of W (group), of p (group,R) */
  real *dm, *du, *row; /* (R), (E), (D) twice */
  real *h, *g;         /* (E): rows of H' and of its gradient */
  real *room;
} work;

/* Room for the monomials of a row and for their gradients. */
static int64_t room_size(const alk_step_spec *a) {
  return 2 * alk_monomial_room(a->D, alk_orders(a->n_coefficients, a->kept));
}
static int64_t forward_size(const alk_step_spec *a) {
  const int64_t group = a->H / a->Hs;
  return a->D + a->R + a->E + group * (a->D + 2 * a->R) + room_size(a);
}
static int64_t backward_size(const alk_step_spec *a) {
  const int64_t group = a->H / a->Hs;
  return forward_size(a) + group * (a->E + 1 + a->R) + a->R + 3 * a->E + 2 * a->D;
}

/* Jobs to run at once: `items`, or one alone where the states are small. */
static int64_t jobs_of(const alk_place *at, const alk_step_spec *a, int64_t items) {
  return a->B * a->Hs * a->R * (a->E + 1) > PARALLEL ? jobs_for(items, at) : 1;
}
int64_t ALK_NAME(step_fwd_room)(const alk_place *at, const alk_step_spec *a) {
  return jobs_of(at, a, a->B * a->Hs) * forward_size(a) * (int64_t)sizeof(real);
}
int64_t ALK_NAME(step_bwd_room)(const alk_place *at, const alk_step_spec *a) {
  return jobs_of(at, a, a->B * a->Hkv) * backward_size(a) * (int64_t)sizeof(real);
}

static real *take(real **at, int64_t n) {
  real *p = *at;
  *at += n;
  return p;
}

static work work_at(const alk_step_spec *a, real *scratch, bool backward) {
  work w = {.a = a, .group = a->H / a->Hs};
  w.kh = take(&scratch, a->D);
  w.m = take(&scratch, a->R);
  w.u = take(&scratch, a->E);
  w.qh = take(&scratch, w.group * a->D);
  w.mq = take(&scratch, w.group * a->R);
  w.p = take(&scratch, w.group * a->R);
  w.room = take(&scratch, room_size(a));
  if (!backward) return w;
  w.dn = take(&scratch, w.group * a->E);
  w.dW = take(&scratch, w.group);
  w.dp = take(&scratch, w.group * a->R);
  w.dm = take(&scratch, a->R);
  w.du = take(&scratch, a->E);
  w.row = take(&scratch, 2 * a->D);
  w.h = take(&scratch, a->E);
  w.g = take(&scratch, a->E);
  return w;
}

/* to = c_n scale^n multiplicity x, row by row of order n. */
static void weigh_rows(const alk_step_spec *a, const real *multiplicity, const real *x, real *to) {
  const double *by = a->factors;
  for (int n = 0; n < a->n_coefficients; n++) {
    if (a->kept[n] == 0) continue;
    const int64_t count = alk_monomials(a->D, n);
    const real f = (real)(a->base[n] * (by ? by[n] : 1));
    for (int64_t r = 0; r < count; r++) to[r] = f * multiplicity[r] * x[r];
    multiplicity += count, x += count, to += count;
  }
}

static void monomials(const work *w, const real *x, real *m) {
  ALK_NAME(monomial_row)(w->a->D, w->a->n_coefficients, w->a->kept, x, m, w->room);
}

typedef struct place { /* a state among all */
  int64_t b, s, kv, h; /* batch row, state head, its key head, its first query head */
  bool present;
  real A;
} place;

static place place_of(const alk_step_spec *a, const alk_step_in *t, int64_t b, int64_t s) {
  place x = {.b = b,
             .s = s,
             .h = s * (a->H / a->Hs),
             .present = !a->lengths || ((const int32_t *)a->lengths)[b] > 0};
  x.kv = x.h / (a->H / a->Hkv);
  x.A = 1;
  if (t->decay && x.present) x.A = vexp(((const real *)t->decay)[b * a->Hd + x.h / (a->H / a->Hd)]);
  return x;
}

/* Features of the token: of an absent one zeros, whatever its inputs hold. */
static void load(const work *w, const alk_step_in *t, const place *x) {
  const alk_step_spec *a = w->a;
  const int64_t at = x->b * a->Hkv + x->kv;
  if (x->present) {
    const real by = t->b ? ((const real *)t->b)[at] : 1, *v = (const real *)t->v + at * a->E;
    map_row(a->map, a->D, (const real *)t->k + at * a->D, w->kh);
    monomials(w, w->kh, w->m);
    for (int64_t e = 0; e < a->E; e++) w->u[e] = by * v[e];
  } else {
    memset(w->m, 0, (size_t)a->R * sizeof(real));
    memset(w->u, 0, (size_t)a->E * sizeof(real));
  }
  for (int64_t i = 0; i < w->group; i++) {
    map_row(a->map, a->D, (const real *)t->q + (x->b * a->H + x->h + i) * a->D, w->qh + i * a->D);
    monomials(w, w->qh + i * a->D, w->mq + i * a->R);
    weigh_rows(a, t->multiplicity, w->mq + i * a->R, w->p + i * a->R);
  }
}

/* to = A from + m u^T for `rows` rows, and N += p . to, over channels [e, e + nv LANES). */
TILE_INLINE void renew(const int nv, int64_t rows, int64_t E, real A, const real *from, real *to,
                       const real *m, const real *u, const real *p, real *N) {
  vec sum[2] = {{0}, {0}}, x[2];
  for (int64_t r = 0; r < rows; r++)
#pragma GCC unroll 2
    for (int v = 0; v < nv; v++) {
      x[v] =
          A * *(const vec_at *)(from + r * E + v * LANES) + m[r] * *(const vec_at *)(u + v * LANES);
      *(vec_at *)(to + r * E + v * LANES) = x[v];
      sum[v] += p[r] * x[v];
    }
  for (int v = 0; v < nv; v++) *(vec_at *)(N + v * LANES) += sum[v];
}

/* N += p . h */
TILE_INLINE void gather(const int nv, int64_t rows, int64_t E, const real *h, const real *p,
                        real *N) {
  vec sum[2] = {{0}, {0}};
  for (int64_t r = 0; r < rows; r++)
#pragma GCC unroll 2
    for (int v = 0; v < nv; v++) sum[v] += p[r] * *(const vec_at *)(h + r * E + v * LANES);
  for (int v = 0; v < nv; v++) *(vec_at *)(N + v * LANES) += sum[v];
}

/* The last channels, fewer than LANES. */
static void renew_rest(int64_t rows, int64_t E, int64_t n, real A, const real *from, real *to,
                       const real *m, const real *u) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t e = 0; e < n; e++) to[r * E + e] = A * from[r * E + e] + m[r] * u[e];
}
static void gather_rest(int64_t rows, int64_t E, int64_t n, const real *h, const real *p, real *N) {
  real sum[LANES] = {0};
  for (int64_t r = 0; r < rows; r++)
    for (int64_t e = 0; e < n; e++) sum[e] += p[r] * h[r * E + e];
  for (int64_t e = 0; e < n; e++) N[e] += sum[e];
}

/* Rows [r0, r0 + rows) of the state. N: of the first query head, the others N_stride apart. */
static void renew_block(const work *w, real A, int64_t r0, int64_t rows, const real *from, real *to,
                        real *N, int64_t N_stride) {
  const int64_t E = w->a->E, R = w->a->R;
  const real *m = w->m + r0, *p = w->p + r0, *u = w->u;
  int64_t e = 0;
  from += r0 * E, to += r0 * E;
  for (; e + WIDTH <= E; e += WIDTH) {
    renew(2, rows, E, A, from + e, to + e, m, u + e, p, N + e);
    for (int64_t i = 1; i < w->group; i++)
      gather(2, rows, E, to + e, p + i * R, N + i * N_stride + e);
  }
  for (; e + LANES <= E; e += LANES) {
    renew(1, rows, E, A, from + e, to + e, m, u + e, p, N + e);
    for (int64_t i = 1; i < w->group; i++)
      gather(1, rows, E, to + e, p + i * R, N + i * N_stride + e);
  }
  if (e == E) return;
  renew_rest(rows, E, E - e, A, from + e, to + e, m, u + e);
  for (int64_t i = 0; i < w->group; i++)
    gather_rest(rows, E, E - e, to + e, p + i * R, N + i * N_stride + e);
}

static void step(const work *w, const alk_step_in *t, const place *x, real *y, real *W, real *next,
                 real *next_norm) {
  const alk_step_spec *a = w->a;
  const int64_t s = x->b * a->Hs + x->s, head = x->b * a->H + x->h;
  load(w, t, x);
  y += head * a->E, W += head;
  memset(y, 0, (size_t)(w->group * a->E) * sizeof(real));
  memset(W, 0, (size_t)w->group * sizeof(real));
  for (int64_t r = 0; r < a->R; r += BLOCK) {
    const int64_t rows = least(BLOCK, a->R - r);
    renew_block(w, x->A, r, rows, (const real *)t->state + s * a->R * a->E, next + s * a->R * a->E,
                y, a->E);
    if (!t->norm) continue;
    const real *z = (const real *)t->norm + s * a->R + r;
    real *to = next_norm + s * a->R + r;
    for (int64_t i = 0; i < rows; i++) to[i] = x->A * z[i] + w->m[r + i];
    for (int64_t i = 0; i < w->group; i++) W[i] += row_dot(rows, w->p + i * a->R + r, to);
  }
  for (int64_t i = 0; a->normalise && i < w->group; i++) {
    const real by = vabs(W[i]) < SMALLEST ? 0 : 1 / W[i];
    for (int64_t e = 0; e < a->E; e++) y[i * a->E + e] = by == 0 ? 0 : y[i * a->E + e] * by;
  }
}

alk_status ALK_NAME(step_fwd)(const alk_place *at, const alk_step_spec *a, const alk_step_in *t,
                              void *y, void *W, void *next, void *next_norm, void *scratch) {
  const int64_t items = a->B * a->Hs, jobs = jobs_of(at, a, items);
#pragma omp parallel for num_threads(at->threads) schedule(static) if (jobs > 1)
  for (int64_t j = 0; j < jobs; j++) {
    const work w = work_at(a, (real *)scratch + j * forward_size(a), false);
    int64_t from, to;
    share(items, j, jobs, &from, &to);
    for (int64_t n = from; n < to; n++) {
      const place x = place_of(a, t, n / a->Hs, n % a->Hs);
      step(&w, t, &x, y, W, next, next_norm);
    }
  }
  return ALK_OK;
}

/* ---- backward ------------------------------------------------------------------------------- */

/* Gradients of N into w->dn and of W, returned, for query head `head`. */
static real open_head(const work *w, const alk_step_grad *g, int64_t head, real *dn) {
  const alk_step_spec *a = w->a;
  const real *dy = g->dy ? (const real *)g->dy + head * a->E : NULL;
  real by = 1, dW = g->dW && a->stat != ALK_STAT_none ? ((const real *)g->dW)[head] : 0;
  if (a->normalise) {
    const real W = ((const real *)g->W)[head];
    by = vabs(W) < SMALLEST ? 0 : 1 / W;
    if (by == 0) dW = 0;
    else if (dy) dW -= row_dot(a->E, dy, (const real *)g->y + head * a->E) * by;
  }
  for (int64_t e = 0; e < a->E; e++) dn[e] = dy && by != 0 ? dy[e] * by : 0;
  return dW;
}

/* Row r of the state: the gradients of p, of m and of H, and what u gets. Returns H . dH'. */
static real row_bwd(const work *w, real A, int64_t r, const real *H, const real *dnext, real *dH) {
  const int64_t E = w->a->E, R = w->a->R;
  real *g = w->g, *h = w->h;
  const real m = w->m[r];
  for (int64_t e = 0; e < E; e++) {
    g[e] = dnext ? dnext[e] : 0;
    h[e] = A * H[e] + m * w->u[e];
  }
  for (int64_t i = 0; i < w->group; i++) {
    const real p = w->p[i * R + r], *dn = w->dn + i * E;
    for (int64_t e = 0; e < E; e++) g[e] += p * dn[e];
    w->dp[i * R + r] = row_dot(E, h, dn);
  }
  for (int64_t e = 0; e < E; e++) {
    w->du[e] += m * g[e];
    dH[e] = A * g[e];
  }
  w->dm[r] = row_dot(E, g, w->u);
  return row_dot(E, H, g);
}

/* The same for z. */
static double norm_bwd(const work *w, real A, const real *z, const real *dnext, real *dz) {
  const int64_t R = w->a->R;
  const real *dW = w->dW;
  double sum = 0;
  for (int64_t r = 0; r < R; r++) {
    const real next = A * z[r] + w->m[r];
    real g = dnext ? dnext[r] : 0;
    for (int64_t i = 0; i < w->group; i++) {
      g += w->p[i * R + r] * dW[i];
      w->dp[i * R + r] += next * dW[i];
    }
    w->dm[r] += g;
    dz[r] = A * g;
    sum += (double)z[r] * (double)g;
  }
  return sum;
}

/* dq of the i-th head of the state, and its part of the coefficients' gradient. */
static void query_bwd(const work *w, const alk_step_in *t, const alk_step_grad *g, int64_t head,
                      int64_t i) {
  const alk_step_spec *a = w->a;
  const real *multiplicity = t->multiplicity;
  real *dp = w->dp + i * a->R, *dqh = w->row;
  for (int64_t n = 0, r = 0; g->dcoefficients && n < a->n_coefficients; n++) {
    double sum = 0;
    const int64_t end = a->kept[n] != 0 ? r + alk_monomials(a->D, (int)n) : r;
    for (; r < end; r++)
      sum += a->base[n] * (double)(multiplicity[r] * w->mq[i * a->R + r]) * (double)dp[r];
    ((double *)g->dcoefficients)[head * a->n_coefficients + n] = sum;
  }
  weigh_rows(a, multiplicity, dp, dp);
  memset(dqh, 0, (size_t)a->D * sizeof(real));
  ALK_NAME(monomial_row_bwd)(a->D, a->n_coefficients, a->kept, w->qh + i * a->D, dp, dqh, w->room);
  map_row_bwd(a->map, a->D, (const real *)t->q + head * a->D, dqh, (real *)g->dq + head * a->D);
}

/* Adds to dk, dv, db of the state's key head; `add`: an earlier state has written them. */
static void key_bwd(const work *w, const alk_step_in *t, const alk_step_grad *g, const place *x,
                    bool add) {
  const alk_step_spec *a = w->a;
  const int64_t at = x->b * a->Hkv + x->kv;
  real *dk = (real *)g->dk + at * a->D, *dv = (real *)g->dv + at * a->E;
  if (!add) {
    memset(dk, 0, (size_t)a->D * sizeof(real));
    memset(dv, 0, (size_t)a->E * sizeof(real));
    if (t->b) ((real *)g->db)[at] = 0;
  }
  if (!x->present) return;
  real *dkh = w->row, *part = w->row + a->D;
  memset(dkh, 0, (size_t)a->D * sizeof(real));
  ALK_NAME(monomial_row_bwd)(a->D, a->n_coefficients, a->kept, w->kh, w->dm, dkh, w->room);
  map_row_bwd(a->map, a->D, (const real *)t->k + at * a->D, dkh, part);
  for (int64_t d = 0; d < a->D; d++) dk[d] += part[d];
  const real by = t->b ? ((const real *)t->b)[at] : 1;
  for (int64_t e = 0; e < a->E; e++) dv[e] += by * w->du[e];
  if (t->b) ((real *)g->db)[at] += row_dot(a->E, (const real *)t->v + at * a->E, w->du);
}

static void step_back(const work *w, const alk_step_in *t, const alk_step_grad *g, const place *x,
                      bool add) {
  const alk_step_spec *a = w->a;
  const int64_t s = x->b * a->Hs + x->s, head = x->b * a->H + x->h, size = a->R * a->E;
  const real *H = (const real *)t->state + s * size,
             *dnext = g->dnext ? (const real *)g->dnext + s * size : NULL;
  real *dH = (real *)g->dstate + s * size;
  load(w, t, x);
  for (int64_t i = 0; i < w->group; i++) w->dW[i] = open_head(w, g, head + i, w->dn + i * a->E);
  memset(w->du, 0, (size_t)a->E * sizeof(real));
  double steps = 0;
  for (int64_t r = 0; r < a->R; r++)
    steps +=
        (double)row_bwd(w, x->A, r, H + r * a->E, dnext ? dnext + r * a->E : NULL, dH + r * a->E);
  if (t->norm)
    steps += norm_bwd(w, x->A, (const real *)t->norm + s * a->R,
                      g->dnext_norm ? (const real *)g->dnext_norm + s * a->R : NULL,
                      (real *)g->dnorm + s * a->R);
  if (g->steps) ((double *)g->steps)[s] = x->present ? steps * (double)x->A : 0;
  for (int64_t i = 0; i < w->group; i++) query_bwd(w, t, g, head + i, i);
  key_bwd(w, t, g, x, add);
}

alk_status ALK_NAME(step_bwd)(const alk_place *at, const alk_step_spec *a, const alk_step_in *t,
                              const alk_step_grad *g, void *scratch) {
  const int64_t items = a->B * a->Hkv, states = a->Hs / a->Hkv, jobs = jobs_of(at, a, items);
#pragma omp parallel for num_threads(at->threads) schedule(static) if (jobs > 1)
  for (int64_t j = 0; j < jobs; j++) {
    const work w = work_at(a, (real *)scratch + j * backward_size(a), true);
    int64_t from, to;
    share(items, j, jobs, &from, &to);
    for (int64_t n = from; n < to; n++)
      for (int64_t i = 0; i < states; i++) {
        const place x = place_of(a, t, n / a->Hkv, n % a->Hkv * states + i);
        step_back(&w, t, g, &x, i > 0);
      }
  }
  for (int64_t n = 0; g->ddecay && n < a->B * a->Hd; n++) {
    const int64_t each = a->Hs / a->Hd;
    const double *steps = g->steps;
    double sum = 0;
    for (int64_t i = 0; i < each; i++) sum += steps[n / a->Hd * a->Hs + n % a->Hd * each + i];
    ((real *)g->ddecay)[n] = (real)sum;
  }
  return ALK_OK;
}
