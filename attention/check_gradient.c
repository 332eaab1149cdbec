/* check_gradient.c: gradients of every input, parameter and component of a state. On another device than the CPU
 * they are held to the CPU's in f64, which differences were held to there.
 *
 * Truth are central differences in f64 of L = sum(y weights): along random directions, which see
 * every coordinate, and along single ones. What the variant detaches is held at its value (the tape
 * of al_detach). Other ways in f64, and all in f32, are then held to the gradients of the first way
 * in f64, number by number, measured by the size of the terms that make them up. */
#include "check_run.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The difference errs by step^2 / 6 times a third derivative and by 1e-16 L / step; three steps,
 * of which the best counts, span both and step over a kink. */
static const double steps[] = {1e-4, 1.2e-5, 8e-4};
static const double difference_limit = 1e-6;
static const double f64_limit = 1e-8;
static const double f32_limit = 1e-3, f32_factor = 16, f32_floor = 2e-5;

enum { MAX_TARGETS = MAX_TENSORS + 32 }; /* with the components of a state */
enum { T_LEN = 70, DIRECTIONS = 2, SINGLES = 4, N_DRAWS = 4 };
static const int32_t lens[] = {T_LEN, 61};

/* ---- one function of several tensors -------------------------------------------------------- */

/* L of a probe's output or, from a state, of the output and the next state. */
typedef struct target {
  probe *p;
  attn_state *from; /* NULL: the probe's own way */
  int own;          /* tensors before the components of `from`, which are held here */
  int64_t at, n;    /* tokens after `from` */
  int n_t;
  al_tensor *t[MAX_TARGETS];
  char name[MAX_TARGETS][48];
} target;

static void add(target *g, al_tensor *t, const char *prefix, const char *name) {
  if (!t || al_type(t) == AL_I32 || al_numel(t) == 0) return;
  g->t[g->n_t] = t;
  snprintf(g->name[g->n_t++], sizeof *g->name, "%s%s", prefix, name);
}

static target of_probe(probe *p) {
  static const char *const inputs[] = {"q", "k", "v", "x"};
  target g = {.p = p};
  for (int i = 0; i < N_IN; i++) add(&g, p->in[i], "", inputs[i]);
  al_tensor *t;
  const char *name;
  for (int i = 0; (t = attn_param_at(p->a, i, &name)); i++) add(&g, t, "parameter ", name);
  return g;
}

/* sum(t weights) as a tensor, in a scope; the weights are those of this place in the list. */
static al_tensor *weighed(al_ctx *c, al_tensor *t, int place) {
  if (!t) return NULL;
  const int64_t n = al_numel(t);
  double *w = malloc((size_t)n * sizeof *w + 1);
  if (!w) return NULL;
  for (int64_t i = 0; i < n; i++) w[i] = sin(1.3 * (double)i + 0.4 + place);
  al_tensor *by = al_tensor_from(c, al_type(t), al_ndim(t), al_shape(t), w, n);
  free(w);
  return al_run(c, "sum", AL_IN(al_run(c, "mul", AL_IN(t, by), "")), "");
}

/* L in the open scope; NULL with the error pending. */
static al_tensor *loss(const target *g) {
  al_ctx *c = g->p->k->c;
  if (!g->from) {
    al_scope_begin(c);
    return al_scope_end(c, weighed(c, probe_run(g->p), 0));
  }
  attn_state *next = NULL;
  const attn_in in = probe_part(g->p, g->at, g->n);
  al_tensor *l = weighed(c, attn_continue(c, g->p->a, &in, g->from, false, &next), 0);
  for (int i = 0; next && i < attn_state_count(next); i++) {
    al_tensor *t = attn_state_at(next, i, NULL, NULL);
    if (al_type(t) == AL_I32 || al_numel(t) == 0) continue;
    /* states grow large: their weight is that of their size */
    al_tensor *one = weighed(c, t, i + 1);
    l = al_run(c, "add", AL_IN(l, one), "");
  }
  attn_state_free(next);
  return al_error(c) == AL_OK ? l : NULL;
}

static double value(const target *g, al_tape tape, bool *ok) {
  al_ctx *c = g->p->k->c;
  const bool record = al_grad_mode(c, false);
  if (tape == AL_TAPE_REPLAY) al_detach_tape(c, tape);
  al_scope_begin(c);
  al_tensor *l = loss(g);
  double v = NAN;
  if (l) al_read(l, &v, 1);
  al_scope_end(c, NULL);
  al_grad_mode(c, record);
  *ok = *ok && l;
  return v;
}

/* Reverse mode: one array a tensor (NULL: no gradient reached it). Records what is detached. False
 * with the error pending. */
static bool reverse(const target *g, double **grad) {
  al_ctx *c = g->p->k->c;
  for (int i = 0; i < g->n_t; i++) {
    al_requires_grad(g->t[i], true);
    al_set_grad(g->t[i], NULL);
    grad[i] = NULL;
  }
  al_detach_tape(c, AL_TAPE_RECORD);
  al_scope_begin(c);
  al_tensor *l = loss(g);
  if (l && al_needs_grad(l)) al_backward(c, l, NULL);
  al_scope_end(c, NULL);
  for (int i = 0; i < g->n_t; i++) {
    grad[i] = probe_values(al_grad(g->t[i]));
    al_set_grad(g->t[i], NULL);
    al_requires_grad(g->t[i], false);
  }
  return al_error(c) == AL_OK;
}

static void drop(double **grad, int n) {
  for (int i = 0; i < n; i++) free(grad[i]);
}

/* ---- against differences -------------------------------------------------------------------- */

/* The n-th direction over `count` coordinates: some random, of unit length, then single ones. */
static void direction(double *d, int64_t count, int which, int64_t *single) {
  *single = -1;
  if (which < DIRECTIONS) {
    uint64_t s = 0x9e3779b97f4a7c15u + (uint64_t)which;
    for (int64_t i = 0; i < count; i++) {
      s = s * 6364136223846793005u + 1442695040888963407u;
      d[i] = (s >> 63 ? 1 : -1) / sqrt((double)count);
    }
    return;
  }
  memset(d, 0, (size_t)count * sizeof *d);
  *single = (int64_t)((double)count * (which - DIRECTIONS + 0.37) / SINGLES) % count;
  d[*single] = 1;
}

static double difference(const target *g, int i, const double *at, const double *d, double step,
                         al_tape tape, double *buf, bool *ok) {
  const int64_t n = al_numel(g->t[i]);
  double side[2];
  for (int s = 0; s < 2; s++) {
    for (int64_t j = 0; j < n; j++) buf[j] = at[j] + (s ? -step : step) * d[j];
    al_write(g->t[i], buf, n);
    side[s] = value(g, tape, ok);
  }
  al_write(g->t[i], at, n);
  return (side[0] - side[1]) / (2 * step);
}

/* The worst direction of one tensor: its coordinate or -1, and the two values. */
typedef struct found {
  double error, reversed, numeric;
  int64_t single;
} found;

static found against_differences(const target *g, int i, const double *grad, double all,
                                 al_tape tape, bool *ok) {
  const int64_t n = al_numel(g->t[i]);
  found worst = {.single = -1};
  double *at = probe_values(g->t[i]), *d = malloc(2 * (size_t)n * sizeof *d);
  if (!at || !d) al_fail(g->p->k->c, AL_ENOMEM, "out of memory (check)"), *ok = false;
  const double own = (grad ? probe_rms(grad, n) : 0) + 1e-3 * all + 1e-9;
  const int count = DIRECTIONS + (n < SINGLES ? (int)n : SINGLES);
  for (int which = 0; which < count && *ok; which++) {
    found one = {.error = INFINITY};
    direction(d, n, which, &one.single);
    for (int64_t j = 0; grad && j < n; j++) one.reversed += grad[j] * d[j];
    for (int s = 0; s < 3 && !(one.error <= difference_limit / 10); s++) {
      const double v = difference(g, i, at, d, steps[s], tape, d + n, ok);
      const double e = fabs(one.reversed - v) / (fabs(v) + own);
      if (e < one.error || s == 0) one.error = e, one.numeric = v;
    }
    if (!(one.error <= worst.error)) worst = one;
  }
  free(at);
  free(d);
  return worst;
}

static double all_rms(const target *g, double *const *grad) {
  double s = 0;
  for (int i = 0; i < g->n_t; i++)
    if (grad[i]) s = fmax(s, probe_rms(grad[i], al_numel(g->t[i])));
  return s;
}

/* What was detached is held: a stopped gradient. Where that does not agree it is let go: a value
 * that is in the formula twice and cancels, a row maximum say, is detached for speed alone. */
static bool all_differences(const target *g, double *const *grad, found *at) {
  const double all = all_rms(g, grad);
  bool ok = true, off = false;
  for (int i = 0; i < g->n_t && ok; i++) {
    at[i] = against_differences(g, i, grad[i], all, AL_TAPE_REPLAY, &ok);
    off = off || !(at[i].error <= difference_limit);
  }
  if (off) al_detach_tape(g->p->k->c, AL_TAPE_OFF);
  for (int i = 0; i < g->n_t && ok && off; i++) {
    if (at[i].error <= difference_limit) continue;
    const found free_ = against_differences(g, i, grad[i], all, AL_TAPE_OFF, &ok);
    if (free_.error <= difference_limit) at[i] = free_;
  }
  return ok;
}

/* One row for all tensors of the target; each that is off has one of its own. */
static void differences(attn_check *k, const char *check, const target *g, double *const *grad) {
  found at[MAX_TARGETS];
  if (!all_differences(g, grad, at)) {
    check_error(k, check, g->p->w->label, "f64");
    return;
  }
  double worst = 0;
  int good = 0;
  for (int i = 0; i < g->n_t; i++) {
    if (at[i].error <= difference_limit) {
      worst = fmax(worst, at[i].error), good++;
      continue;
    }
    attn_check_row *r = check_measured(k, check, g->p->w, AL_F64, at[i].error, difference_limit);
    char where[64] = "along a random direction";
    if (at[i].single >= 0)
      snprintf(where, sizeof where, "at element %lld", (long long)at[i].single);
    check_say(r, "the gradient of %s is wrong: %.8g %s, where central differences give %.8g%s",
              g->name[i], at[i].reversed, where, at[i].numeric,
              grad[i] ? "" : " (no gradient reaches it at all)");
  }
  if (good) {
    attn_check_row *r = check_measured(k, check, g->p->w, AL_F64, worst, difference_limit);
    check_say(r, "%d tensors against central differences", good);
  }
}

/* ---- ways against the first ----------------------------------------------------------------- */

/* size[i] = how large the numbers are that make up the i-th gradient: how far it moves, in units of
 * what moves it, when every number on the way to it is off by its rounding in f32. A gradient that
 * is 0 because terms cancel is as good as these terms are in f32, on any machine. */
static void measure_terms(const target *g, double *const *want, double *size) {
  al_ctx *c = g->p->k->c;
  for (int i = 0; i < g->n_t; i++) size[i] = 0;
  for (uint64_t draw = 1; draw <= N_DRAWS; draw++) {
    double *moved[MAX_TARGETS] = {0};
    al_jitter(c, f32_rounding, draw);
    const bool ran = reverse(g, moved);
    al_jitter(c, 0, 0);
    for (int i = 0; ran && i < g->n_t; i++) {
      const int64_t n = al_numel(g->t[i]);
      for (int64_t j = 0; moved[i] && want[i] && j < n; j++) moved[i][j] -= want[i][j];
      if (moved[i] && want[i]) size[i] = fmax(size[i], probe_rms(moved[i], n) / f32_rounding);
    }
    drop(moved, g->n_t);
  }
}

/* size: of measure_terms, or NULL. */
static double worst_of(const target *g, double *const *got, double *const *want, double all,
                       const double *size, int *which) {
  double worst = 0;
  for (int i = 0; i < g->n_t; i++) {
    const int64_t n = al_numel(g->t[i]);
    double e = 0;
    for (int64_t j = 0; j < n; j++) {
      const double d = (got[i] ? got[i][j] : 0) - (want[i] ? want[i][j] : 0);
      e += d * d;
    }
    const double own = want[i] ? probe_rms(want[i], n) : 0;
    e = sqrt(e / (double)n) / (fmax(own, size ? size[i] : 0) + 1e-3 * all + 1e-9);
    if (!(e <= worst)) worst = e, *which = i;
  }
  return worst;
}

static void against_first(attn_check *k, const way *w, al_dtype dtype, double *const *want,
                          double all, const double *size, double *plain) {
  probe p;
  double *grad[MAX_TENSORS] = {0};
  const char *type = al_dtype_name(dtype);
  if (!probe_open(k, &p, w, &k->sizes, dtype, 2, T_LEN, 1, lens)) {
    check_error(k, "gradient", w->label, type);
    return probe_close(&p);
  }
  target g = of_probe(&p);
  int i = 0;
  const al_work before = al_work_done(k->c);
  if (!reverse(&g, grad)) {
    check_error(k, "gradient", w->label, type);
  } else {
    for (int j = 0; j < g.n_t; j++) way_note(k, w, dtype, &before, grad[j], al_numel(g.t[j]));
    const double e = worst_of(&g, grad, want, all, size, &i);
    double limit = f64_limit;
    if (dtype == AL_F32) limit = w == k->ways ? f32_limit : fmax(f32_factor * *plain, f32_floor);
    if (dtype == AL_F32 && w == k->ways) *plain = e;
    attn_check_row *r = check_measured(k, "gradient", w, dtype, e, limit);
    if (r->verdict == ATTN_PASS) check_say(r, "worst: %s", g.name[i]);
    else
      check_say(r, "the gradient of %s differs from that of '%s' in f64 by %.2g", g.name[i],
                k->ways[0].label, e);
  }
  drop(grad, g.n_t);
  al_detach_tape(k->c, AL_TAPE_OFF);
  probe_close(&p);
}

void check_gradients(attn_check *k) {
  probe p;
  double *want[MAX_TENSORS] = {0}, plain = 0;
  const bool elsewhere = check_elsewhere(k);
  check_truth(k);
  if (!probe_open(k, &p, k->ways, &k->sizes, AL_F64, 2, T_LEN, 1, lens)) {
    check_there(k);
    return probe_close(&p);
  }
  target g = of_probe(&p);
  if (!reverse(&g, want)) {
    check_error(k, "gradient", k->ways[0].label, "f64");
  } else {
    const char *why = k->family->exempt ? k->family->exempt(k->opts) : NULL;
    if (why) check_row(k, "gradient", k->ways[0].label, "f64", ATTN_EXEMPT, "%s", why);
    else if (!elsewhere) differences(k, "gradient", &g, want);
    const double all = all_rms(&g, want);
    double size[MAX_TARGETS];
    measure_terms(&g, want, size);
    check_there(k);
    for (int d = 0; d < 2; d++)
      for (int i = 0; i < k->n_ways; i++) {
        const way *w = &k->ways[i];
        if (w->refused || (d == 0 && i == 0 && !elsewhere) || !way_takes_lengths(k, w)) continue;
        against_first(k, w, d ? AL_F32 : AL_F64, want, all, size, &plain);
      }
  }
  check_there(k);
  drop(want, g.n_t);
  al_detach_tape(k->c, AL_TAPE_OFF);
  probe_close(&p);
}

/* ---- through a state ------------------------------------------------------------------------ */

/* A state after 31 tokens as leaves: gradients of what came before reach them, and no further. */
static attn_state *leaves(const probe *p) {
  al_ctx *c = p->k->c;
  attn_state *st = attn_state_new(c, p->a, p->B), *next = NULL, *own = NULL;
  const bool record = al_grad_mode(c, false);
  al_detach_tape(c, AL_TAPE_OFF);
  al_scope_begin(c);
  const attn_in in = probe_part(p, 0, 31);
  if (st) attn_continue(c, p->a, &in, st, true, &next);
  al_scope_end(c, NULL);
  al_grad_mode(c, record);
  if (next) own = attn_state_copy(c, next);
  attn_state_free(st);
  attn_state_free(next);
  return own;
}

/* Gradients from a state of way w on, n tokens. False: a row says why. *p and g->from stay open. */
static bool open_state(attn_check *k, const way *w, int64_t n, probe *p, target *g, double **grad) {
  if (probe_open(k, p, w, &k->sizes, AL_F64, 2, 40, 1, NULL)) {
    attn_state *st = leaves(p);
    *g = of_probe(p);
    g->from = st, g->at = 31, g->n = n, g->own = g->n_t;
    const char *name;
    for (int i = 0; st && i < attn_state_count(st); i++) {
      al_tensor *t = attn_state_at(st, i, &name, NULL);
      add(g, t, "state component ", name);
    }
    for (int i = g->own; i < g->n_t; i++) al_retain(g->t[i]); /* a family may put others there */
    if (st && reverse(g, grad)) return true;
  }
  check_error(k, "state gradient", w->label, "f64");
  return false;
}

static void close_state(probe *p, target *g, double **grad) {
  drop(grad, g->n_t);
  al_detach_tape(p->k->c, AL_TAPE_OFF);
  for (int i = g->own; g->from && i < g->n_t; i++) al_release(g->t[i]);
  attn_state_free(g->from);
  probe_close(p);
}

static bool same_tensors(const target *a, const target *b) {
  bool same = a->n_t == b->n_t;
  for (int i = 0; same && i < a->n_t; i++)
    same = strcmp(a->name[i], b->name[i]) == 0 && al_numel(a->t[i]) == al_numel(b->t[i]);
  return same;
}

/* A way on its device by what it gives on the CPU. */
static void as_on_cpu(attn_check *k, const way *w, int64_t n) {
  probe p, q = {0};
  target g = {0}, h = {0};
  double *want[MAX_TARGETS] = {0}, *grad[MAX_TARGETS] = {0};
  check_truth(k);
  bool ran = open_state(k, w, n, &p, &g, want);
  check_there(k);
  ran = ran && open_state(k, w, n, &q, &h, grad);
  if (ran && !same_tensors(&g, &h))
    check_row(k, "state gradient", w->label, "f64", ATTN_FAIL,
              "the state has other components than on the CPU");
  else if (ran) {
    int which = 0;
    const double e = worst_of(&g, grad, want, all_rms(&g, want), NULL, &which);
    attn_check_row *r = check_measured(k, "state gradient", w, AL_F64, e, f64_limit);
    check_say(r, "%s%s%s", r->verdict == ATTN_PASS ? "worst: " : "the gradient of ", g.name[which],
              r->verdict == ATTN_PASS ? "" : " differs from the CPU's");
  }
  if (q.k) close_state(&q, &h, grad);
  close_state(&p, &g, want);
}

/* The first way by differences, the others by the first, as long as their states are alike. */
static void from_state(attn_check *k, const way *first, int64_t n) {
  probe p, q;
  target g = {0}, h = {0};
  double *want[MAX_TARGETS] = {0}, *grad[MAX_TARGETS] = {0};
  if (!open_state(k, first, n, &p, &g, want)) return close_state(&p, &g, want);
  differences(k, "state gradient", &g, want);
  const double all = all_rms(&g, want);
  for (int i = 0; i < k->n_ways && !way_replayed(k, first); i++) {
    const way *w = &k->ways[i];
    if (w->refused || w->how != PARTS || w == first) continue;
    if (open_state(k, w, n, &q, &h, grad)) {
      int which = 0;
      if (!same_tensors(&g, &h)) {
        differences(k, "state gradient", &h, grad);
      } else {
        const double e = worst_of(&g, grad, want, all, NULL, &which);
        attn_check_row *r = check_measured(k, "state gradient", w, AL_F64, e, f64_limit);
        check_say(r, "%s%s%s", r->verdict == ATTN_PASS ? "worst: " : "the gradient of ",
                  g.name[which], r->verdict == ATTN_PASS ? "" : " differs from that of the first");
      }
    }
    close_state(&q, &h, grad);
    memset(grad, 0, sizeof grad);
    h = (target){0};
  }
  close_state(&p, &g, want);
}

void check_state_gradients(attn_check *k) {
  const char *why = k->family->exempt ? k->family->exempt(k->opts) : NULL;
  if (why) {
    check_row(k, "state gradient", "", "f64", ATTN_EXEMPT, "%s", why);
    return;
  }
  const way *first = NULL; /* in the first way's form, if that takes a state */
  for (int i = 0; i < k->n_ways; i++) {
    const way *w = &k->ways[i];
    if (w->refused || w->how != PARTS) continue;
    if (!first || strstr(w->label, k->ways[0].label) == w->label) first = w;
  }
  if (!first) return;
  if (check_elsewhere(k)) {
    for (int i = 0; i < k->n_ways; i++)
      if (!k->ways[i].refused && k->ways[i].how == PARTS) as_on_cpu(k, &k->ways[i], 9);
    return as_on_cpu(k, first, 1);
  }
  from_state(k, first, 9);
  from_state(k, first, 1);
}
