/* finish.c: see ../finish.h. A row stays in L1 between its steps; chunks of ALK_NORM_ROWS rows are
 * the unit of work, so the sums of gain and bias do not know the number of threads. */
#include "../finish.h"
#include "jobs.h"
#include "norm_row.h"
#include "reached.h"
#include <string.h>

/* z = f x for one row */
static void factored(const alk_finish *f, int64_t r, real *restrict z) {
  const int64_t E = f->n / f->sub;
  const real *x = (const real *)f->x + r * f->n,
             *by = f->factor ? (const real *)f->factor + r * f->sub : NULL;
  for (int64_t h = 0; h < f->sub; h++)
    for (int64_t e = h * E; e < (h + 1) * E; e++) z[e] = by ? x[e] * by[h] : x[e];
}

/* y = gain (z - m) s + bias; the norm of a row before its gate. y may be z. */
static void normed(const alk_finish *f, real m, real s, const real *z, real *y) {
  const real *gain = f->gain, *bias = f->bias;
  if (f->kind == ALK_NORM_none) {
    for (int64_t e = 0; e < f->n; e++) y[e] = z[e];
    return;
  }
  for (int64_t e = 0; e < f->n; e++) y[e] = (z[e] - m) * s;
  for (int64_t e = 0; gain && e < f->n; e++) y[e] *= gain[e];
  for (int64_t e = 0; bias && e < f->n; e++) y[e] += bias[e];
}

static int64_t chunks_of(const alk_finish *f) { return (f->N + ALK_NORM_ROWS - 1) / ALK_NORM_ROWS; }
static int64_t end_of(const alk_finish *f, int64_t chunk) {
  const int64_t end = (chunk + 1) * ALK_NORM_ROWS;
  return end < f->N ? end : f->N;
}

enum { PARALLEL = 1 << 15 }; /* elements worth waking a second thread */
static int64_t jobs_of(const alk_place *place, const alk_finish *f) {
  return f->N * f->n > PARALLEL ? place->threads : 1;
}

int64_t ALK_NAME(finish_fwd_room)(const alk_place *place, const alk_finish *f) {
  return jobs_of(place, f) * f->n * (int64_t)sizeof(real);
}
int64_t ALK_NAME(finish_bwd_room)(const alk_place *place, const alk_finish *f) {
  return jobs_of(place, f) * 3 * f->n * (int64_t)sizeof(real);
}

alk_status ALK_NAME(finish_fwd)(const alk_place *place, const alk_finish *f, void *o, void *mean,
                                void *scale, void *scratch) {
  const int64_t chunks = chunks_of(f), E = f->sub ? f->n / f->sub : 0, jobs = jobs_of(place, f);
#pragma omp parallel for schedule(static, 1) num_threads((int)jobs)
  for (int64_t job = 0; job < jobs; job++) {
    real *z = (real *)scratch + job * f->n;
    for (int64_t r = chunks * job / jobs * ALK_NORM_ROWS;
         r < end_of(f, chunks * (job + 1) / jobs - 1); r++) {
      real *out = (real *)o + r * f->n, m = 0, s = 1;
      factored(f, r, z);
      if (f->kind != ALK_NORM_none) {
        if (mean) ((real *)mean)[r] = m = R(total(f->n, z) / (double)f->n);
        s = scale_of(f->kind, f->n, f->eps, m, z,
                     f->logscale ? (double)((const real *)f->logscale)[r] : 0);
        ((real *)scale)[r] = s;
      }
      normed(f, m, vabs(s), z, out);
      const real *gate = f->gate ? (const real *)f->gate + r * f->sub : NULL;
      for (int64_t h = 0; gate && h < f->sub; h++)
        for (int64_t e = h * E; e < (h + 1) * E; e++) out[e] *= gate[h];
    }
  }
  return ALK_OK;
}

static real dot(int64_t n, const real *a, const real *b) {
  real lane[LANES] = {0};
  FOR_LANES(n, lane[l] += a[i] * b[i]);
  return lanes_sum(lane);
}

typedef struct finish_grad {
  real *dx, *dfactor, *dgate, *dgain, *dbias; /* of the row; of the chunk for the last two */
} finish_grad;

/* z, y, g: room for a row each */
static void row_bwd(const alk_finish *f, int64_t r, real m, real signed_s, const real *d_o,
                    const finish_grad *t, real *z, real *y, real *g) {
  const int64_t E = f->n / f->sub;
  const real s = vabs(signed_s), *gate = f->gate ? (const real *)f->gate + r * f->sub : NULL;
  if (!reached(f->n, d_o)) {
    memset(t->dx, 0, (size_t)f->n * sizeof(real));
    if (t->dfactor) memset(t->dfactor, 0, (size_t)f->sub * sizeof(real));
    if (t->dgate) memset(t->dgate, 0, (size_t)f->sub * sizeof(real));
    return;
  }
  factored(f, r, z);
  if (gate) {
    normed(f, m, s, z, y);
    for (int64_t h = 0; h < f->sub; h++) {
      t->dgate[h] = dot(E, d_o + h * E, y + h * E);
      for (int64_t e = h * E; e < (h + 1) * E; e++) g[e] = d_o[e] * gate[h];
    }
    d_o = g;
  }
  for (int64_t e = 0; t->dgain && e < f->n; e++) t->dgain[e] += d_o[e] * ((z[e] - m) * s);
  for (int64_t e = 0; t->dbias && e < f->n; e++) t->dbias[e] += d_o[e];
  real *dz = f->factor ? y : t->dx;
  if (f->kind == ALK_NORM_none)
    for (int64_t e = 0; e < f->n; e++) dz[e] = d_o[e];
  else row_dx(f->kind, f->n, z, f->gain, m, f->made && signed_s > 0 ? 1 : signed_s, d_o, dz);
  for (int64_t e = 0; f->made && e < f->n; e++) dz[e] *= s;
  if (!f->factor) return;
  const real *x = (const real *)f->x + r * f->n, *by = (const real *)f->factor + r * f->sub;
  for (int64_t h = 0; h < f->sub; h++) {
    t->dfactor[h] = dot(E, dz + h * E, x + h * E);
    for (int64_t e = h * E; e < (h + 1) * E; e++) t->dx[e] = dz[e] * by[h];
  }
}

alk_status ALK_NAME(finish_bwd)(const alk_place *place, const alk_finish *f, const void *mean,
                                const void *scale, const void *d_o, void *dx, void *dfactor,
                                void *dgate, void *dgain, void *dbias, void *scratch) {
  const int64_t chunks = chunks_of(f), n = f->n, jobs = jobs_of(place, f);
#pragma omp parallel for schedule(static, 1) num_threads((int)jobs)
  for (int64_t job = 0; job < jobs; job++) {
    real *z = (real *)scratch + job * 3 * n;
    for (int64_t k = chunks * job / jobs; k < chunks * (job + 1) / jobs; k++) {
      finish_grad t = {.dgain = dgain ? (real *)dgain + k * n : NULL,
                       .dbias = dbias ? (real *)dbias + k * n : NULL};
      for (int64_t e = 0; t.dgain && e < n; e++) t.dgain[e] = 0;
      for (int64_t e = 0; t.dbias && e < n; e++) t.dbias[e] = 0;
      for (int64_t r = k * ALK_NORM_ROWS; r < end_of(f, k); r++) {
        t.dx = (real *)dx + r * n;
        t.dfactor = f->factor ? (real *)dfactor + r * f->sub : NULL;
        t.dgate = f->gate ? (real *)dgate + r * f->sub : NULL;
        row_bwd(f, r, mean ? ((const real *)mean)[r] : 0, scale ? ((const real *)scale)[r] : 1,
                (const real *)d_o + r * n, &t, z, z + n, z + 2 * n);
      }
    }
  }
  return ALK_OK;
}
