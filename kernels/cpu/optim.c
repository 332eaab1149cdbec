/* optim.c: AdamW and SGD updates, the sum of squares; one parallel loop over the blocks of all
 * parameters. */
#include "../copy.h"
#include "../optim.h"
#include <math.h>

typedef ALK_REAL real;
#ifdef ALK_IS_float
#define ROOT(x) __builtin_sqrtf(x) /* one instruction: errno is off in the build */
#else
#define ROOT(x) sqrt(x)
#endif

enum { BLOCK = ALK_OPTIM_BLOCK, SERIAL_BLOCKS = 4 };

static int64_t blocks_of(int n_tasks, const alk_optim_task *t) {
  return n_tasks ? t[n_tasks - 1].first + (t[n_tasks - 1].n + BLOCK - 1) / BLOCK : 0;
}

/* Block b of the list: its parameter, and the elements [from, to) of it. */
static const alk_optim_task *find(int n_tasks, const alk_optim_task *t, int64_t b, int64_t *from,
                                  int64_t *to) {
  int lo = 0;
  for (int hi = n_tasks; hi - lo > 1;) {
    const int mid = (lo + hi) / 2;
    if (t[mid].first <= b) lo = mid;
    else hi = mid;
  }
  *from = (b - t[lo].first) * BLOCK;
  *to = *from + BLOCK < t[lo].n ? *from + BLOCK : t[lo].n;
  return &t[lo];
}

static double squares(int64_t n, const real *x) {
  double lane[32] = {0};
  int64_t i = 0;
  for (; i + 32 <= n; i += 32)
    for (int l = 0; l < 32; l++) lane[l] += (double)x[i + l] * (double)x[i + l];
  for (; i < n; i++) lane[0] += (double)x[i] * (double)x[i];
  for (int h = 16; h > 0; h /= 2)
    for (int l = 0; l < h; l++) lane[l] += lane[l + h];
  return lane[0];
}

alk_status ALK_NAME(optim_squares)(const alk_place *place, int n_tasks, const alk_optim_task *tasks,
                                   void *vparts, void *sum) {
  double *parts = vparts;
  const int64_t blocks = blocks_of(n_tasks, tasks);
#pragma omp parallel for num_threads(place->threads) schedule(static) if (blocks > SERIAL_BLOCKS)
  for (int64_t b = 0; b < blocks; b++) {
    int64_t from, to;
    const alk_optim_task *t = find(n_tasks, tasks, b, &from, &to);
    parts[b] = squares(to - from, (const real *)t->g + from);
  }
  double total = 0;
  for (int64_t b = 0; b < blocks; b++) total += parts[b];
  *(double *)sum += total;
  return ALK_OK;
}

/* What the gradient is multiplied by. */
static real clipped(const alk_optim_step *s, const void *norm) {
  const double n = *(const double *)norm;
  return (real)(s->clip > 0 && n > s->clip ? s->clip / n : 1);
}

/* Elements [from, to) of p, where the bf16 numbers are not p's: from them. And the way back. */
static void adopt(const alk_optim_task *t, int64_t from, int64_t to) {
  const uint16_t *narrow = t->narrow;
  real *p = t->p;
  for (int64_t i = from; narrow && i < to; i++)
    if (alk_f32_to_bf16((float)p[i]) != narrow[i]) p[i] = (real)alk_bf16_to_f32(narrow[i]);
}
static void narrowed(const alk_optim_task *t, int64_t from, int64_t to) {
  uint16_t *narrow = t->narrow;
  const real *p = t->p;
  for (int64_t i = from; narrow && i < to; i++) narrow[i] = alk_f32_to_bf16((float)p[i]);
}

alk_status ALK_NAME(adamw)(const alk_place *place, int n_tasks, const alk_optim_task *tasks,
                           const alk_optim_step *s, const void *norm, const void *steps) {
  const int64_t blocks = blocks_of(n_tasks, tasks);
  const double n = *(const double *)steps, correct1 = 1 - pow(s->beta1, n),
               correct2 = 1 - pow(s->beta2, n);
  if (!isfinite(*(const double *)norm)) return ALK_OK;
  const real b1 = (real)s->beta1, b2 = (real)s->beta2, a1 = (real)(1 - s->beta1),
             a2 = (real)(1 - s->beta2);
  const real scale = clipped(s, norm), rate = (real)(s->lr / correct1);
  const real root = (real)(1 / correct2), eps = (real)s->eps;
#pragma omp parallel for num_threads(place->threads) schedule(static) if (blocks > SERIAL_BLOCKS)
  for (int64_t b = 0; b < blocks; b++) {
    int64_t from, to;
    const alk_optim_task *t = find(n_tasks, tasks, b, &from, &to);
    const real *restrict g = t->g, shrink = (real)(1 - s->lr * t->decay);
    real *restrict p = t->p, *restrict m = t->m, *restrict v = t->v;
    adopt(t, from, to);
    for (int64_t i = from; i < to; i++) {
      const real d = scale * g[i];
      m[i] = b1 * m[i] + a1 * d;
      v[i] = b2 * v[i] + a2 * d * d;
      p[i] = shrink * p[i] - rate * m[i] / (ROOT(v[i] * root) + eps);
    }
    narrowed(t, from, to);
  }
  return ALK_OK;
}

alk_status ALK_NAME(sgd)(const alk_place *place, int n_tasks, const alk_optim_task *tasks,
                         const alk_optim_step *s, const void *norm) {
  if (!isfinite(*(const double *)norm)) return ALK_OK;
  const int64_t blocks = blocks_of(n_tasks, tasks);
  const real mu = (real)s->momentum, scale = clipped(s, norm), rate = (real)s->lr;
#pragma omp parallel for num_threads(place->threads) schedule(static) if (blocks > SERIAL_BLOCKS)
  for (int64_t b = 0; b < blocks; b++) {
    int64_t from, to;
    const alk_optim_task *t = find(n_tasks, tasks, b, &from, &to);
    const real *restrict g = t->g, shrink = (real)(1 - s->lr * t->decay);
    real *restrict p = t->p, *restrict m = t->m;
    adopt(t, from, to);
    for (int64_t i = from; i < to; i++) {
      m[i] = mu * m[i] + scale * g[i];
      p[i] = shrink * p[i] - rate * m[i];
    }
    narrowed(t, from, to);
  }
  return ALK_OK;
}
