/* check_claims.c: what a variant declares, scores of +-80, and refusals that name the argument. */
#include "check_run.h"
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- claims --------------------------------------------------------------------------------- */

static double to_three(double x, int64_t i) { return (void)x, (void)i, 3.0; }
static double times_four(double x, int64_t i) { return (void)i, 4 * x; }
static double magnitude(double x, int64_t i) { return (void)i, fabs(x); }

static void fill(al_tensor *t, double (*f)(double, int64_t)) {
  double *v = probe_values(t);
  for (int64_t i = 0; v && i < al_numel(t); i++) v[i] = f(v[i], i);
  if (v) al_write(t, v, al_numel(t));
  free(v);
}

/* How far the claim is from true, in what `at` then points at. */
static double rowsum1(const double *got, const double *base, int64_t n, int64_t *at) {
  double worst = 0;
  (void)base;
  for (int64_t i = 0; i < n; i++) { /* a row without any weight is 0 */
    const double e = got[i] == 0 ? 0 : fabs(got[i] / 3 - 1);
    if (!(e <= worst)) worst = e, *at = i;
  }
  return worst;
}

static double positive(const double *got, const double *base, int64_t n, int64_t *at) {
  double worst = 0;
  (void)base;
  for (int64_t i = 0; i < n; i++)
    if (!(-got[i] <= worst)) worst = -got[i], *at = i;
  return worst;
}

static double unchanged(const double *got, const double *base, int64_t n, int64_t *at) {
  const differs d = probe_differ(got, base, 1, n, 1, 1e-9);
  *at = d.from < 0 ? 0 : d.from;
  return d.overall;
}

static const struct {
  unsigned bit;
  int input;
  double (*change)(double, int64_t); /* NULL: one vector added to every key */
  double (*error)(const double *, const double *, int64_t, int64_t *);
  double limit;
  const char *broken; /* a printf of one number */
} rules[] = {
    {ATTN_ROWSUM1, 2, to_three, rowsum1, 1e-9,
     "claims weights that sum to one, but v = 3 everywhere gives %.6g"},
    {ATTN_POSITIVE_WEIGHTS, 2, magnitude, positive, 0,
     "claims positive weights, but a v that is nowhere negative gives %.6g"},
    {ATTN_SHIFT_INVARIANT, 1, NULL, unchanged, 1e-11,
     "claims that one vector added to every key changes nothing, but the output moves to %.6g"},
    {ATTN_SCALE_FREE, 2, times_four, unchanged, 1e-9,
     "claims that the scale of v changes nothing, but 4 v moves the output to %.6g"}};

static void shift(al_tensor *t) {
  double *v = probe_values(t);
  const int64_t D = al_size(t, -1);
  for (int64_t i = 0; v && i < al_numel(t); i++) v[i] += 0.5 * sin((double)(i % D));
  if (v) al_write(t, v, al_numel(t));
  free(v);
}

static void check_claim(attn_check *k, int rule) {
  const way *w = &k->ways[0];
  probe p;
  const char *name = attn_claim_name(rules[rule].bit);
  if (!probe_open(k, &p, w, &k->sizes, AL_F64, 2, 33, 1, NULL)) return;
  double *base = probe_output(&p, name), *got = NULL;
  if (rules[rule].change) fill(p.in[rules[rule].input], rules[rule].change);
  else shift(p.in[rules[rule].input]);
  if (base) got = probe_output(&p, name);
  if (got) {
    int64_t at = 0;
    const double e = rules[rule].error(got, base, p.B * p.T * probe_row(&p), &at);
    attn_check_row *r = check_measured(k, name, w, AL_F64, e, rules[rule].limit);
    if (r->verdict == ATTN_PASS) check_say(r, "as claimed");
    else {
      char what[256];
      snprintf(what, sizeof what, rules[rule].broken, got[at]);
      check_say(r, "%s (at token %lld, where it was %.6g)", what,
                (long long)(at / probe_row(&p) % p.T) + 1, base[at]);
    }
  }
  free(base);
  free(got);
  probe_close(&p);
}

void check_claims(attn_check *k) {
  const unsigned claims = k->family->claims ? k->family->claims(k->opts) : 0;
  for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
    if (claims & rules[i].bit) check_claim(k, (int)i);
}

/* ---- large scores --------------------------------------------------------------------------- */

/* q and k of 8 times N(0,1): q.k / sqrt(D) of +-80 and beyond. */
static double *large(attn_check *k, const way *w, al_dtype dtype, double scale, int64_t *n) {
  probe p;
  double *v = NULL;
  if (probe_open(k, &p, w, &k->sizes, dtype, 2, 33, scale, NULL)) v = probe_output(&p, "scores");
  else check_error(k, "scores", w->label, al_dtype_name(dtype));
  if (v) *n = p.B * p.T * probe_row(&p);
  probe_close(&p);
  return v;
}

/* Is f32 finite wherever the value is well within its range? The first place where not, or -1. */
static int64_t overflow(const double *f32, const double *f64, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    if (!isfinite(f32[i]) && fabs(f64[i]) < 1e-3 * FLT_MAX) return i;
  return -1;
}

static void scores_of(attn_check *k, const way *w, bool limited) {
  /* a weight's own error grows with its score: 80 roundings, magnified where rows nearly cancel */
  const double limit = 2e-3;
  const double scale = limited ? 2.8 : 8;
  int64_t n = 0, at = -1;
  double *f64 = large(k, w, AL_F64, scale, &n), *f32 = f64 ? large(k, w, AL_F32, scale, &n) : NULL;
  if (f32) {
    at = overflow(f32, f64, n);
    bool huge = false; /* beyond f32 altogether */
    for (int64_t i = 0; i < n; i++) huge = huge || !(fabs(f64[i]) < 1e-3 * FLT_MAX);
    const double e = huge ? 0 : probe_differ(f32, f64, 1, n, 1, limit).overall;
    attn_check_row *r = check_measured(k, "scores", w, AL_F32, at >= 0 ? NAN : e, limit);
    const char *reach = limited ? "+-8, as far as it claims to go" : "+-80";
    if (at >= 0)
      check_say(r,
                "not finite at scores of %s: %g where f64 gives %.4g; take the row maximum out "
                "before exp, or claim limited_scores",
                reach, f32[at], f64[at]);
    else if (r->verdict == ATTN_FAIL) check_say(r, "scores of %s: f32 is %.2g from f64", reach, e);
    else
      check_say(r, "finite and as in f64 at scores of %s%s", reach,
                huge ? ", but for values beyond f32" : "");
  }
  free(f64);
  free(f32);
}

void check_scores(attn_check *k) {
  const unsigned claims = k->family->claims ? k->family->claims(k->opts) : 0;
  for (int i = 0; i < k->n_ways; i++)
    if (!k->ways[i].refused) scores_of(k, &k->ways[i], claims & ATTN_LIMITED_SCORES);
}

/* ---- refusals ------------------------------------------------------------------------------- */

/* Each wrong input alone; the message must have the argument's name and a colon. */
void check_refusals(attn_check *k) {
  static const char *const names[] = {"q", "k", "v", "x", "lengths"};
  probe p;
  const way *w = &k->ways[0];
  if (!probe_open(k, &p, w, &k->sizes, AL_F32, 2, 5, 1, NULL)) return;
  al_ctx *c = k->c;
  const attn_in good = probe_part(&p, 0, p.T);
  al_tensor *wrong = al_tensor_full(c, AL_F32, 4, (int64_t[]){2, 4, 9, 11}, 0);
  int named = 0;
  for (int i = 0; i < 5; i++) {
    attn_in in = good;
    al_tensor **const at[] = {&in.q, &in.k, &in.v, &in.x, &in.lengths};
    *at[i] = wrong;
    al_tensor *y = attn_forward(c, p.a, &in);
    char want[16];
    snprintf(want, sizeof want, " %s: ", names[i]);
    const char *says = al_error_message(c, NULL, NULL);
    if (y || !strstr(says, want))
      check_row(k, "refusals", w->label, "", ATTN_FAIL, "%s of shape (2,4,9,11): %s", names[i],
                y ? "was accepted" : says);
    else named++;
    al_release(y);
    al_error_clear(c);
  }
  attn_in in = good; /* without x it runs, or says that x is needed */
  in.x = NULL;
  al_tensor *y = attn_forward(c, p.a, &in);
  if (!y && !strstr(al_error_message(c, NULL, NULL), "x: "))
    check_row(k, "refusals", w->label, "", ATTN_FAIL, "without x: %s",
              al_error_message(c, NULL, NULL));
  else named++;
  al_error_clear(c);
  al_release(y);
  al_release(wrong);
  probe_close(&p);
  if (named == 6)
    check_row(k, "refusals", w->label, "", ATTN_PASS, "wrong inputs are refused by name");
}
