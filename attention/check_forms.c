/* check_forms.c: every way of running a variant gives what the first way gives in f64 on the CPU.
 *
 * A difference is rounding when the same way agrees in f64 and its f32 is not much further from the
 * f64 truth than the plain f32 of the first way. Everything else is a fault, named by its way, the
 * first token it reaches and its size. */
#include "check_run.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* f64 forms sum in other orders: 1e-16 times what nearly cancelling weights magnify. */
static const double f64_limit = 1e-9;
/* How far plain f32 may be from f64: 6e-8 magnified a thousandfold; more where the function itself
 * magnifies more, as a sum of signed weights does that nearly cancels: this many times what f64
 * moves when every input and parameter, and every number on the way, moves by its rounding in f32.
 */
static const double f32_limit = 6e-5;
static const double sway_factor = 16;
/* How much further another f32 way may be: powers of features have larger sums than powers of their
 * product. */
static const double f32_factor = 16;
/* Below this any f32 result is as good as another: one weight that nearly cancels magnifies so.  */
static const double f32_floor = 2e-5;

/* A form that magnifies roundings more than the first does so in f64 too: what it is off there,
 * times the ratio of the two roundings, is what its f32 may be off, up to a cap. */
static const double magnified = 16 * 0x1p29, magnified_most = 0.05;

static const int64_t lengths[] = {1, 31, 63, 500};
enum { N_LENGTHS = 4 };

/* What one way in one type came to over all lengths. */
typedef struct outcome {
  bool ran;
  differs worst, last; /* last: of the longest sequence */
  double limit;
  int64_t T, from; /* of the worst; first token beyond the limit */
  double least, most;
  bool one_factor; /* rows differ from the truth by a factor each, between least and most */
} outcome;

/* Is each row (one head of one token) that differs a multiple of what it should be? */
static bool multiples(const double *got, const double *want, int64_t rows, int64_t E, double *least,
                      double *most) {
  *least = INFINITY, *most = -INFINITY;
  int64_t off = 0;
  for (int64_t i = 0; i < rows; i++) {
    const double *g = got + i * E, *w = want + i * E;
    double gw = 0, ww = 0, rest = 0, gg = 0;
    for (int64_t e = 0; e < E; e++) gw += g[e] * w[e], ww += w[e] * w[e], gg += g[e] * g[e];
    if (!(ww > 0) || !isfinite(gw)) return false;
    const double f = gw / ww;
    for (int64_t e = 0; e < E; e++) rest += (g[e] - f * w[e]) * (g[e] - f * w[e]);
    if (rest > 1e-10 * gg) return false;
    if (fabs(f - 1) > 1e-4) off++;
    if (f < *least) *least = f;
    if (f > *most) *most = f;
  }
  return E > 1 && off > rows / 8;
}

/* The names of what a state of this way holds, "numerator, count". */
static const char *components(attn_check *k, const way *w, char *buf, size_t n) {
  probe p;
  size_t at = 0;
  buf[0] = 0;
  attn_state *st =
      probe_open(k, &p, w, &k->sizes, AL_F32, 1, 1, 1, NULL) ? attn_state_new(k->c, p.a, 1) : NULL;
  for (int i = 0; st && i < attn_state_count(st) && at < n; i++) {
    const char *name;
    attn_state_at(st, i, &name, NULL);
    at += (size_t)snprintf(buf + at, n - at, "%s%s", i ? ", " : "", name);
  }
  attn_state_free(st);
  probe_close(&p);
  al_error_clear(k->c);
  return buf;
}

static void explain(attn_check *k, const way *w, al_dtype dtype, const outcome *o, bool f64_agrees,
                    attn_check_row *r) {
  char names[256], factor[160] = "", state[512] = "";
  if (o->one_factor)
    snprintf(factor, sizeof factor,
             "; each row is a multiple of what it should be (%.3g to %.3g times): a denominator or "
             "another factor a row is lost",
             o->least, o->most);
  if (w->how != WHOLE && !way_replayed(k, w) && dtype == AL_F64)
    snprintf(state, sizeof state, "; the state (%s) does not hold all that later tokens need",
             components(k, w, names, sizeof names));
  check_say(r,
            "differs from '%s' from token %lld on (of %lld) by %.2g where %.0e is rounding%s%s%s",
            k->ways[0].label, (long long)o->from + 1, (long long)o->T, o->worst.worst, o->limit,
            dtype == AL_F32 && f64_agrees ? "; in f64 the two agree, so this is f32 code" : "",
            factor, state);
}

static void report(attn_check *k, const way *w, al_dtype dtype, const outcome *o, bool f64_agrees) {
  attn_check_row *r = check_measured(k, "forms", w, dtype, o->worst.worst, o->limit);
  r->n_growth = o->last.n;
  memcpy(r->growth, o->last.block, sizeof r->growth);
  if (r->verdict == ATTN_PASS)
    check_say(r, w != k->ways || dtype != AL_F64 ? "rounding"
                 : check_elsewhere(k)            ? "as on the CPU"
                                                 : "what the others are held to");
  else if (w == k->ways && dtype == AL_F64)
    check_say(r, "%.2g from the CPU's from token %lld on (of %lld), where %.0e is rounding",
              o->worst.worst, (long long)o->from + 1, (long long)o->T, o->limit);
  else if (w == k->ways)
    check_say(r,
              "f32 is %.2g from f64 from token %lld on (of %lld): more than rounding, which stays "
              "below %.0e",
              o->worst.worst, (long long)o->from + 1, (long long)o->T, o->limit);
  else explain(k, w, dtype, o, f64_agrees, r);
}

static void compare(outcome *o, const double *got, const double *want, const probe *p,
                    double limit) {
  const int64_t row = probe_row(p), E = attn_sizes_of(p->a)->value_dim;
  const differs d = probe_differ(got, want, p->B, p->T, row, limit);
  o->ran = true;
  o->last = d;
  /* the first length where something is wrong tells most */
  if (o->from >= 0 || (d.from < 0 && d.worst <= o->worst.worst)) return;
  o->worst = d;
  o->limit = limit;
  o->T = p->T;
  if (d.worst <= limit) return;
  o->from = d.from < 0 ? 0 : d.from;
  o->one_factor =
      p->w->how != WHOLE && multiples(got, want, p->B * p->T * row / E, E, &o->least, &o->most);
}

/* Output of way w at a length; NULL: a row says why. *p stays open. */
static double *output(attn_check *k, probe *p, const way *w, al_dtype dtype, int64_t T) {
  if (probe_open(k, p, w, &k->sizes, dtype, 2, T, 1, NULL)) return probe_output(p, "forms");
  check_error(k, "forms", w->label, al_dtype_name(dtype));
  return NULL;
}

static double *truth_at(attn_check *k, int64_t T) {
  probe p;
  double *v = output(k, &p, k->ways, AL_F64, T);
  for (int64_t i = 0; v && i < p.B * T * probe_row(&p); i++)
    if (!isfinite(v[i])) {
      check_row(k, "forms", k->ways[0].label, "f64", ATTN_FAIL,
                "N(0,1) inputs of %lld tokens give %g at token %lld", (long long)T, v[i],
                (long long)(i / probe_row(&p) % T) + 1);
      free(v);
      v = NULL;
    }
  probe_close(&p);
  return v;
}

/* Moves every number of t by its rounding in f32, up or down. */
static void nudge(al_tensor *t, uint64_t stream) {
  double *x = t && al_numel(t) > 0 ? probe_values(t) : NULL;
  for (int64_t i = 0; x && i < al_numel(t); i++) {
    stream = stream * 6364136223846793005u + 1442695040888963407u;
    x[i] *= 1 + (stream >> 63 ? f32_rounding : -f32_rounding);
  }
  if (x) al_write(t, x, al_numel(t));
  free(x);
}

/* How far the truth moves with its inputs and with what they become, in its worst block; the larger
 * of two draws. */
static double sway_at(attn_check *k, int64_t T, const double *truth) {
  double most = 0;
  for (uint64_t draw = 1; draw <= 2; draw++) {
    probe p;
    double *v = NULL;
    if (probe_open(k, &p, k->ways, &k->sizes, AL_F64, 2, T, 1, NULL)) {
      for (int i = 0; i < N_IN; i++) nudge(p.in[i], draw + 2 * (uint64_t)i);
      al_tensor *t;
      for (int i = 0; (t = attn_param_at(p.a, i, NULL)); i++)
        nudge(t, draw + 100 + 2 * (uint64_t)i);
      al_jitter(k->c, f32_rounding, draw);
      v = probe_try(&p);
      al_jitter(k->c, 0, 0);
    }
    if (v) {
      const double d = probe_differ(v, truth, p.B, T, probe_row(&p), 1).worst;
      if (d > most) most = d;
    }
    free(v);
    probe_close(&p);
    al_error_clear(k->c); /* what does not run was said where it was run first */
  }
  return most;
}

/* Of f32 by another way than the first, whose f32 is `plain` off and may be `sway`; f64: what this
 * way is off there. */
static double other_limit(double plain, double sway, double f64) {
  const double own = f64 * magnified < magnified_most ? f64 * magnified : magnified_most;
  double most = f32_factor * plain > own ? f32_factor * plain : own;
  if (sway > most) most = sway;
  return most > f32_floor ? most : f32_floor;
}

void check_forms(attn_check *k) {
  outcome all[MAX_WAYS][2];
  for (int i = 0; i < k->n_ways; i++)
    for (int d = 0; d < 2; d++) all[i][d] = (outcome){.from = -1, .limit = f64_limit};
  double plain = 0; /* f32 of the first way from the truth, in its worst block */
  for (int l = 0; l < N_LENGTHS; l++) {
    const int64_t T = lengths[l];
    check_truth(k);
    double *truth = truth_at(k, T);
    const double sway = truth ? sway_factor * sway_at(k, T, truth) : 0;
    check_there(k);
    for (int d = 0; truth && d < 2; d++)
      for (int i = 0; i < k->n_ways; i++) {
        const way *w = &k->ways[i];
        if (w->refused || way_most(k, w, T) < T) continue;
        probe p;
        const al_work before = al_work_done(k->c);
        double *v = output(k, &p, w, d ? AL_F32 : AL_F64, T);
        if (v) {
          way_note(k, w, p.dtype, &before, v, p.B * T * probe_row(&p));
          double limit = !d ? f64_limit : sway > f32_limit ? sway : f32_limit;
          if (d && i) limit = other_limit(plain, sway, all[i][0].worst.worst);
          compare(&all[i][d], v, truth, &p, limit);
          if (d && i == 0 && !(all[0][1].worst.worst <= plain)) plain = all[0][1].worst.worst;
        }
        free(v);
        probe_close(&p);
      }
    free(truth);
  }
  for (int i = 0; i < k->n_ways; i++)
    for (int d = 0; d < 2; d++)
      if (all[i][d].ran)
        report(k, &k->ways[i], d ? AL_F32 : AL_F64, &all[i][d], all[i][0].from < 0);
}

/* ---- sizes ---------------------------------------------------------------------------------- */

/* What the first way gives on the CPU; NULL where it does not run, which the device says as well. */
static double *size_truth(attn_check *k, const attn_sizes *s) {
  probe p;
  double *v = NULL;
  check_truth(k);
  if (probe_open(k, &p, k->ways, s, AL_F64, 1, 19, 1, NULL)) v = probe_try(&p);
  probe_close(&p);
  al_error_clear(k->c);
  check_there(k);
  return v;
}

/* Other shapes of heads, at one length, in f64: a mistake in an index shows itself there. */
void check_sizes(attn_check *k) {
  static const attn_sizes shapes[] = {
      {3, 3, 4, 4, 5}, {4, 1, 5, 3, 8}, {1, 1, 1, 2, 3}, {6, 2, 16, 16, 8}};
  for (int s = 0; s < 4; s++) {
    double *truth = NULL;
    if (check_elsewhere(k)) truth = size_truth(k, &shapes[s]);
    for (int i = 0; i < k->n_ways; i++) {
      const way *w = &k->ways[i];
      if (w->refused) continue;
      char label[96];
      snprintf(label, sizeof label, "%s", w->label);
      probe p;
      double *v = NULL;
      if (probe_open(k, &p, w, &shapes[s], AL_F64, 1, 19, 1, NULL)) v = probe_try(&p);
      if (!v) {
        const bool refused = !p.a || check_is_refusal(k);
        check_row(k, "sizes", label, "f64", refused ? ATTN_REFUSED : ATTN_FAIL,
                  "heads %lld, kv_heads %lld, head_dim %lld, value_dim %lld: %s",
                  (long long)shapes[s].heads, (long long)shapes[s].kv_heads,
                  (long long)shapes[s].head_dim, (long long)shapes[s].value_dim,
                  al_error_message(k->c, NULL, NULL));
        al_error_clear(k->c);
      } else if (i == 0 && !check_elsewhere(k)) {
        truth = v, v = NULL;
      } else if (truth) {
        const differs d = probe_differ(v, truth, 1, 19, probe_row(&p), f64_limit);
        attn_check_row *r = check_measured(k, "sizes", w, AL_F64, d.worst, f64_limit);
        check_say(r, "heads %lld, kv_heads %lld, head_dim %lld, value_dim %lld: %s '%s'",
                  (long long)shapes[s].heads, (long long)shapes[s].kv_heads,
                  (long long)shapes[s].head_dim, (long long)shapes[s].value_dim,
                  d.worst <= f64_limit ? "as" : "differs from", k->ways[0].label);
      }
      free(v);
      probe_close(&p);
      if (i == 0 && !truth) break;
    }
    free(truth);
  }
}
