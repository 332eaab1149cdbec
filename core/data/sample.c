/* sample.c: the next token, chosen from the logits of a vocabulary.
 *
 * What is left out, and in which order, is what Hugging Face transformers' logits processors do:
 * repetition penalty, temperature, top_k, top_p, min_p. Nothing is sorted: all that the filters and
 * the draw ask is where, from the likeliest token on, a sum reaches a number, and a selection by
 * parts finds that in O(vocabulary). What is equally likely stands in the order of its ids, so the
 * choice is one whatever the selection does.
 *
 * Numerics: weights are exp((logit - largest) / temperature) in double, so the largest is 1. */
#include "../core.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct candidate {
  double x; /* its logit, then its weight */
  int64_t id;
} candidate;

static bool likelier(const candidate *a, const candidate *b) {
  return a->x > b->x || (a->x == b->x && a->id < b->id);
}

static void swap(candidate *a, candidate *b) {
  const candidate t = *a;
  *a = *b;
  *b = t;
}

/* Moves the median of the first, the middle and the last of c[lo..hi) to the end of it. */
static void choose_pivot(candidate *c, int64_t lo, int64_t hi) {
  candidate *a = c + lo, *b = c + lo + (hi - lo) / 2, *z = c + hi - 1;
  if (likelier(b, a)) swap(a, b);
  if (likelier(z, a)) swap(a, z);
  if (likelier(b, z)) swap(b, z);
}

/* Puts the likelier ones of c[lo..hi) before the others; returns where the pivot stands then, and
 * the sum of what is before it. Which of two places is written next is counted, not jumped to: a
 * jump that nobody can foresee costs more than the rest. */
static int64_t split(candidate *c, int64_t lo, int64_t hi, double *before) {
  choose_pivot(c, lo, hi);
  const candidate pivot = c[hi - 1];
  int64_t m = lo;
  double sum = 0;
  for (int64_t i = lo; i < hi - 1; i++) {
    const candidate t = c[i];
    const bool more = likelier(&t, &pivot);
    c[i] = c[m];
    c[m] = t;
    m += more;
    sum += more ? t.x : 0;
  }
  swap(&c[m], &c[hi - 1]);
  *before = sum;
  return m;
}

/* Moves the k likeliest to the front, the k-th of them last. */
static void select_first(candidate *c, int64_t n, int64_t k) {
  for (int64_t lo = 0, hi = n; hi - lo > 1;) {
    double unused;
    const int64_t m = split(c, lo, hi, &unused);
    if (m == k - 1) return;
    if (m < k - 1) lo = m + 1;
    else hi = m;
  }
}

/* The place, from the likeliest on, at which the sum of the weights up to and with it exceeds
 * `mass` (reached: is at least that); the last where none does. What is likelier stands before it
 * then, the rest behind. */
static int64_t place(candidate *c, int64_t n, double mass, bool reached) {
  int64_t lo = 0, hi = n;
  while (hi - lo > 1) {
    double before;
    const int64_t m = split(c, lo, hi, &before);
    if (m > lo && (mass < before || (reached && mass == before))) {
      hi = m;
      continue;
    }
    const double with = before + c[m].x;
    if (mass < with || (reached && mass == with) || m == hi - 1) return m;
    lo = m + 1;
    mass -= with;
  }
  return lo;
}

static double sum_of(const candidate *c, int64_t n) {
  double s = 0;
  for (int64_t i = 0; i < n; i++) s += c[i].x;
  return s;
}

/* Moves those of c[from..n) that are at least that to its front; returns where they end. */
static int64_t keep(candidate *c, int64_t from, int64_t n, double least) {
  int64_t m = from;
  for (int64_t i = from; i < n; i++)
    if (c[i].x >= least) swap(&c[i], &c[m++]);
  return m;
}

static int64_t draw(candidate *c, int64_t n, double largest, const al_sampling *s, double u) {
  if (s->top_k > 0 && s->top_k < n) {
    select_first(c, n, s->top_k);
    n = keep(c, s->top_k, n, c[s->top_k - 1].x); /* as likely as the k-th: kept, too */
  }
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += c[i].x = exp((c[i].x - largest) / s->temperature);
  if (s->top_p < 1) n = place(c, n, s->top_p * sum, true) + 1;
  if (s->min_p > 0) n = keep(c, 0, n, s->min_p);
  return c[place(c, n, u * sum_of(c, n), false)].id;
}

/* Each seen id once. */
static al_status penalise(al_ctx *c, double *logits, int64_t n, const int32_t *seen, int64_t n_seen,
                          double by) {
  unsigned char *done = calloc((size_t)n, 1);
  if (!done) return al_fail(c, AL_ENOMEM, "sample: out of memory (%lld ids)", (long long)n);
  for (int64_t i = 0; i < n_seen; i++) {
    const int32_t id = seen[i];
    if (id < 0 || id >= n || done[id]) continue;
    done[id] = 1;
    logits[id] = logits[id] < 0 ? logits[id] * by : logits[id] / by;
  }
  free(done);
  return AL_OK;
}

al_status al_next_token(al_ctx *c, const al_sampling *s, const int32_t *seen, int64_t n_seen,
                        double u, double *logits, int64_t n, int64_t *id) {
  if (n < 1) return al_fail(c, AL_EVALUE, "sample: no logits to choose from");
  if (s->repetition_penalty != 1)
    AL_TRY(penalise(c, logits, n, seen, n_seen, s->repetition_penalty));
  int64_t best = 0;
  for (int64_t i = 0; i < n; i++) {
    if (!isfinite(logits[i]))
      return al_fail(c, AL_EVALUE, "sample: the logit of id %lld is %g", (long long)i, logits[i]);
    if (logits[i] > logits[best]) best = i;
  }
  *id = best;
  if (s->temperature == 0) return AL_OK;
  candidate *list = malloc((size_t)n * sizeof *list);
  if (!list) return al_fail(c, AL_ENOMEM, "sample: out of memory (%lld ids)", (long long)n);
  for (int64_t i = 0; i < n; i++) list[i] = (candidate){logits[i], i};
  *id = draw(list, n, logits[best], s, u);
  free(list);
  return AL_OK;
}
