/* check_recurrent.c: the forms of the formula are one function. The parallel form in f64 is the
 * truth; the recurrent form (token by token), a run split at odd points and the chunked form agree
 * with it, outputs and gradients, in f64 and f32. Then what a state is: unchanged by a call, of the
 * declared size, clean of what was padded, refused where it would be too large. */
#include "../attention/attn.h"
#include "attn_case.h"
#include "pretended/device.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { B = 2, C = 7, INPUTS = 4 };

typedef struct size {
  int64_t T, H, Hkv, D, E;
} size;
static const size small = {23, 4, 2, 6, 5};

/* Beyond the presets. limit: of the f32 error; 0: 1e-4. A row that sees one or two keys of s near 0
 * divides an s^n that is the rest of larger monomials: the error grows as (|q||k| / |s|)^n. */
static const struct {
  const char *options;
  size s;
  double limit;
} settings[] = {
    {"similarity=taylor order=2", {40, 2, 2, 16, 16}, 0},
    {"similarity=taylor order=4", {40, 2, 1, 16, 16}, 0},
    {"similarity=taylor order=6", {40, 2, 1, 16, 16}, 0},
    {"similarity=taylor order=3", {24, 1, 1, 64, 8}, 0},
    {"similarity=taylor order=6 orders={0,2,5,6}", {23, 4, 2, 6, 5}, 0},
    {"similarity=taylor order=4 coefficients=learned", {23, 4, 2, 6, 5}, 0},
    {"similarity=taylor order=3 coefficients={1,0.5,0,0.25} denominator=none output_norm=rms",
     {23, 4, 1, 6, 5},
     0},
    {"similarity=taylor order=2 coefficients=ones output_norm=layer", {23, 4, 4, 6, 5}, 0},
    {"similarity=power order=4 decay=gated", {23, 4, 2, 6, 5}, 0},
    {"similarity=square decay=learned denominator.decay=none", {23, 4, 2, 6, 5}, 0},
    {"similarity=square denominator=l2", {23, 4, 2, 6, 5}, 0},
    {"similarity=taylor order=2 denominator=l2 decay=constant", {23, 4, 1, 6, 5}, 0},
    {"similarity=taylor order=2 coefficients=learned denominator=l2 decay=gated",
     {23, 4, 2, 6, 5},
     0},
    {"similarity=square denominator=abs", {23, 4, 2, 6, 5}, 0},
    {"similarity=linear feature_map=softplus denominator=abs", {23, 4, 2, 6, 5}, 0},
    {"similarity=linear denominator=abs", {23, 4, 2, 6, 5}, 0},
    {"similarity=taylor order=4 denominator.orders={0,2,4}", {23, 4, 2, 6, 5}, 0},
    {"similarity=taylor order=3 denominator.similarity=square coefficients=learned",
     {23, 4, 2, 6, 5},
     0},
    {"similarity=linear feature_map=elu1 denominator.similarity=taylor order=2 "
     "denominator.decay=none decay=gated",
     {23, 4, 2, 6, 5},
     0},
    {"similarity=taylor order=3 denominator.orders={0,2} denominator=l2 coefficients=learned",
     {23, 4, 1, 6, 5},
     0},
    {"similarity=square denominator.similarity=exp", {23, 4, 2, 6, 5}, 0},
    {"similarity=linear feature_map=elu1 logit_scale=learned decay=constant", {23, 4, 2, 6, 5}, 0},
    {"similarity=square denominator.sink=learned denominator.eps=0.1 denominator.floor=0.5",
     {23, 4, 2, 6, 5},
     0},
    {"similarity=square denominator.power=learned denominator.gradient=stopped output_norm=l2",
     {23, 4, 2, 6, 5},
     0},
    {"similarity=square denominator.times_length=true input_gate=sigmoid", {23, 4, 1, 6, 5}, 1e-3},
    {"similarity=square input_gate=softplus input_gate.per=channel output_gate=silu "
     "output_gate.per=channel",
     {23, 4, 2, 6, 5},
     0},
    {"similarity=square output_gate=sigmoid output_gate.input=position", {23, 4, 2, 6, 5}, 0},
    {"similarity=square denominator=cumulative_gate denominator.power=0.5", {23, 4, 2, 6, 5}, 0},
    {"similarity=square denominator=length denominator.side=value denominator.power=learned "
     "output_norm=rms output_norm.scope=joint",
     {23, 4, 2, 6, 5},
     0},
    {"similarity=square impl=composed", {23, 4, 2, 6, 5}, 0},
    {"similarity=square state_limit=0 decay=gated", {23, 4, 2, 6, 5}, 0},
    {"decay=gated input_gate=sigmoid", {23, 4, 2, 6, 5}, 0},
    {"denominator=cumulative_gate", {23, 4, 1, 6, 5}, 0},
    {"denominator=length denominator.side=value denominator.power=0.5", {23, 4, 2, 6, 5}, 0},
    {"similarity=cosh logit_softcap=3 denominator=l2", {23, 4, 4, 6, 5}, 0},
    {"similarity=expr expr='exp(t*s)/(1+0.1*(i-j))' expr_params={t=0.7}", {23, 4, 2, 6, 5}, 0},
    {"similarity=expr expr='log(1+exp(s))' decay=gated", {23, 4, 2, 6, 5}, 0},
    {"logit_scale=learned impl=composed output_gate=sigmoid output_gate.input=position",
     {23, 4, 2, 6, 5},
     0},
    {"similarity=linear feature_map=expr map_expr='1+tanh(x)' decay=gated", {23, 4, 2, 6, 5}, 0},
    {"similarity=sigmoid denominator.similarity=softplus input_gate=silu", {23, 4, 2, 6, 5}, 0},
};
enum { N_SETTINGS = sizeof settings / sizeof *settings };

/* ---- one attention with inputs N(0,1) ---- */

typedef struct run {
  al_ctx *c;
  attn *a; /* NULL where the options are refused */
  size s;
  const char *options;
  al_tensor *in[INPUTS]; /* q, k, v, x */
} run;

static al_tensor *normal(al_ctx *c, al_dtype t, int ndim, const int64_t *shape, const char *name) {
  al_tensor *x = al_tensor_new(c, t, ndim, shape);
  al_fill_normal(x, al_stream(11, name), 0, 1);
  return x;
}

static run start(const char *name, const char *options, const char *more, const size *s,
                 al_dtype dtype) {
  run r = {.c = test_context(), .s = *s, .options = *options ? options : name};
  const attn_family *family;
  const attn_preset *preset;
  al_opts *o;
  attn_find(r.c, name, &family, &preset, &o);
  al_opts_parse(r.c, o, options);
  al_opts_parse(r.c, o, more);
  const attn_sizes sizes = {s->H, s->Hkv, s->D, s->E, C};
  r.a = attn_new(r.c, family, o, &sizes, dtype, 3, "case");
  al_opts_release(o);
  if (!r.a) return r;
  const char *p_name;
  for (int i = 0; attn_param_at(r.a, i, &p_name); i++) { /* none at a special value */
    al_tensor *p = attn_param_at(r.a, i, &p_name);
    double *v = attn_case_values(p);
    for (int64_t j = 0; j < al_numel(p); j++) v[j] += 0.3 * sin(1.0 + (double)(7 * i + 3 * j));
    al_write(p, v, al_numel(p));
    free(v);
  }
  r.in[0] = normal(r.c, dtype, 4, (int64_t[]){B, s->T, s->H, s->D}, "q");
  r.in[1] = normal(r.c, dtype, 4, (int64_t[]){B, s->T, s->Hkv, s->D}, "k");
  r.in[2] = normal(r.c, dtype, 4, (int64_t[]){B, s->T, s->Hkv, s->E}, "v");
  r.in[3] = normal(r.c, dtype, 3, (int64_t[]){B, s->T, C}, "x");
  return r;
}

static void finish(run *r) {
  for (int i = 0; i < INPUTS; i++) al_release(r->in[i]);
  attn_free(r->a);
  ck_assert_msg(al_error(r->c) == AL_OK, "%s: %s", r->options, al_error_message(r->c, NULL, NULL));
  ck_assert_int_eq(al_memory(r->c).live, 0);
  al_ctx_free(r->c);
}

static al_tensor *lengths_of(al_ctx *c, const double *len) {
  const int64_t n = B;
  return len ? al_tensor_from(c, AL_I32, 1, &n, len, B) : NULL;
}

/* Tokens [at, at + n) of the inputs, present below len[b]; in a scope. */
static attn_in part(const run *r, int64_t at, int64_t n, const double *len) {
  attn_in in = {.size = sizeof in,
                .q = r->in[0],
                .k = r->in[1],
                .v = r->in[2],
                .x = r->in[3],
                .causal = true};
  al_tensor **const t[] = {&in.q, &in.k, &in.v, &in.x};
  for (int i = 0; i < INPUTS; i++)
    *t[i] = al_run(r->c, "slice", AL_IN(*t[i]), "axis=1 start=%lld stop=%lld", (long long)at,
                   (long long)(at + n));
  if (len) {
    double left[B];
    for (int b = 0; b < B; b++) left[b] = fmin(fmax(len[b] - (double)at, 0), (double)n);
    in.lengths = lengths_of(r->c, left);
  }
  return in;
}

/* From state to state, cut where `cuts` says (ends with T); one token a call without cuts. */
static al_tensor *continued(const run *r, const int64_t *cuts, const double *len) {
  al_tensor *y = NULL;
  attn_state *st = attn_state_new(r->c, r->a, B), *next;
  for (int64_t at = 0, to; st && at < r->s.T; at = to) {
    to = cuts ? *cuts++ : at + 1;
    attn_in in = part(r, at, to - at, len);
    al_tensor *o = attn_continue(r->c, r->a, &in, st, false, &next);
    if (!o && strstr(al_error_message(r->c, NULL, NULL), "one at a time")) {
      al_error_clear(r->c); /* a cache whose rows stand at different tokens */
      to = at + 1, cuts--;
      in = part(r, at, 1, len);
      o = attn_continue(r->c, r->a, &in, st, false, &next);
    }
    ck_assert_msg(o != NULL, "%s: tokens %d to %d: %s", r->options, (int)at, (int)to,
                  al_error_message(r->c, NULL, NULL));
    y = y ? al_run(r->c, "concat", AL_IN(y, o), "axis=1") : o;
    attn_state_free(st);
    st = next;
  }
  attn_state_free(st);
  return y;
}

enum { PARALLEL, CHUNKED, RECURRENT, SPLIT, N_FORMS };
static const char *const form_names[] = {"parallel", "chunked", "recurrent", "split"};
static const char *const form_options[] = {"form=parallel", "form=chunked", "form=recurrent", ""};

typedef struct numbers {
  double *v[1 + INPUTS + ATTN_MAX_PARAMS]; /* y, gradients of inputs, of parameters */
  int64_t n[1 + INPUTS + ATTN_MAX_PARAMS];
  int count; /* 0: refused */
} numbers;

static void drop(numbers *x) {
  for (int i = 0; i < x->count; i++) free(x->v[i]);
}

/* Rows that lengths leave nothing but padding are part of y; their gradient is, too. moved: by how
 * much every number on the way is off (al_jitter). */
static numbers evaluate_off(const char *name, const char *options, const size *s, al_dtype dtype,
                            int form, const double *len, bool gradients, double moved) {
  numbers x = {.count = 0};
  run r = start(name, options, form_options[form], s, dtype);
  if (!r.a) {
    const char *why = al_error_message(r.c, NULL, NULL);
    ck_assert_msg(form == CHUNKED && (strstr(why, " need") || strstr(why, "state_limit=0") ||
                                      strstr(why, "impl=composed")),
                  "%s, %s: %s", options, form_names[form], why);
    al_error_clear(r.c);
    finish(&r);
    return x;
  }
  const char *p_name;
  al_tensor *leaf[INPUTS + ATTN_MAX_PARAMS];
  int n = 0;
  for (; n < INPUTS; n++) leaf[n] = r.in[n];
  for (; attn_param_at(r.a, n - INPUTS, &p_name); n++)
    leaf[n] = attn_param_at(r.a, n - INPUTS, &p_name);
  for (int i = 0; i < n; i++) al_requires_grad(leaf[i], gradients);
  al_scope_begin(r.c);
  const int64_t cuts[] = {1, 4, s->T / 2, s->T};
  attn_in in = part(&r, 0, s->T, len);
  al_jitter(r.c, moved, 1);
  al_tensor *y = form == SPLIT ? continued(&r, cuts, len) : attn_forward(r.c, r.a, &in);
  ck_assert_msg(y != NULL, "%s, %s: %s", options, form_names[form],
                al_error_message(r.c, NULL, NULL));
  x.n[0] = al_numel(y), x.v[0] = attn_case_values(y), x.count = 1;
  if (gradients) {
    double *w = malloc((size_t)x.n[0] * sizeof *w);
    for (int64_t i = 0; i < x.n[0]; i++) w[i] = sin(1.3 * (double)i + 0.4);
    al_backward(r.c, y, al_tensor_from(r.c, dtype, 4, al_shape(y), w, x.n[0]));
    free(w);
    for (int i = 0; i < n; i++, x.count++) {
      al_tensor *g = al_grad(leaf[i]);
      x.n[x.count] = g ? al_numel(g) : 0;
      x.v[x.count] = g ? attn_case_values(g) : NULL;
    }
  }
  al_scope_end(r.c, NULL);
  finish(&r);
  return x;
}

static numbers evaluate(const char *name, const char *options, const size *s, al_dtype dtype,
                        int form, const double *len, bool gradients) {
  return evaluate_off(name, options, s, dtype, form, len, gradients, 0);
}

static const double small_move = 0x1p-30;

/* Errors are ratios to the size of what is wanted, or of the terms that cancel in it: how far `moved`
 * (`want` with small_move, or NULL) is from it. */
static void compare(const char *options, int form, const char *how, const numbers *got,
                    const numbers *want, const numbers *moved, double limit) {
  if (got->count == 0) return;
  ck_assert_int_eq(got->count, want->count);
  for (int i = 0; i < got->count; i++) {
    double top = 0; /* a gradient that is rounding and nothing else has no ratio */
    for (int64_t j = 0; j < want->n[i]; j++) top = fmax(top, fabs(want->v[i][j]));
    if (want->n[i] == 0 || got->n[i] == 0) {
      ck_assert_msg(top < 1e-10, "%s, %s: gradient %d is missing", options, form_names[form], i);
      continue;
    }
    const double terms = moved ? rms_ratio(moved->v[i], want->v[i], want->n[i]) / small_move : 1;
    const double e = rms_ratio(got->v[i], want->v[i], want->n[i]) / fmax(terms, 1);
    ck_assert_msg(e <= limit || top < 1e-10, "%s, %s, %s: %s %d differs by %.2e", options,
                  form_names[form], how, i ? "gradient" : "output", i, e);
  }
}

/* An expression of the row's position takes no rows that stand at different tokens. */
static bool takes_lengths(const char *options) { return !strstr(options, "(i-j)"); }

/* Returns the limit of the f32 error. */
static double of_case(int i, const char **name, const char **options, size *s) {
  int n;
  *name = attn_case_preset(i, &n);
  *options = "";
  *s = small;
  if (*name) return 1e-4;
  *name = "kernel_attention";
  *options = settings[i - n].options;
  *s = settings[i - n].s;
  return settings[i - n].limit > 0 ? settings[i - n].limit : 1e-4;
}

START_TEST(forms_agree) {
  const char *name, *options;
  size s;
  const double f32 = of_case(_i, &name, &options, &s);
  const double lens[2][B] = {{(double)s.T - 5, (double)s.T}, {0, 9}};
  for (int l = 0; l < (takes_lengths(options) ? 3 : 1); l++) {
    const double *len = l ? lens[l - 1] : NULL;
    numbers truth = evaluate(name, options, &s, AL_F64, PARALLEL, len, false);
    for (int form = CHUNKED; form < N_FORMS; form++)
      for (int d = 0; d < 2; d++) {
        numbers x = evaluate(name, options, &s, d ? AL_F32 : AL_F64, form, len, false);
        compare(*options ? options : name, form, d ? "f32" : "f64", &x, &truth, NULL,
                d ? f32 : 1e-9);
        drop(&x);
      }
    drop(&truth);
  }
}
END_TEST

START_TEST(gradients_agree) {
  const char *name, *options;
  size s;
  of_case(_i, &name, &options, &s);
  s.T = 11;
  const double two[B] = {11, 7}, *len = takes_lengths(options) ? two : NULL;
  numbers truth = evaluate(name, options, &s, AL_F64, PARALLEL, len, true),
          moved = evaluate_off(name, options, &s, AL_F64, PARALLEL, len, true, small_move);
  for (int form = CHUNKED; form < N_FORMS; form++) {
    numbers x = evaluate(name, options, &s, AL_F64, form, len, true);
    compare(*options ? options : name, form, "f64", &x, &truth, &moved, 1e-9);
    drop(&x);
  }
  drop(&moved);
  drop(&truth);
}
END_TEST

/* ---- what a state is ---- */

typedef struct copy {
  double *v[32];
  int n;
} copy;

static copy copy_state(const attn_state *st) {
  copy k = {.n = attn_state_count(st)};
  const char *name, *doc;
  for (int i = 0; i < k.n; i++) k.v[i] = attn_case_values(attn_state_at(st, i, &name, &doc));
  return k;
}

static void same_state(const run *r, const attn_state *st, copy *k, const char *when) {
  const char *name, *doc;
  for (int i = 0; i < k->n; i++) {
    al_tensor *t = attn_state_at(st, i, &name, &doc);
    double *v = attn_case_values(t);
    ck_assert_msg(memcmp(v, k->v[i], (size_t)al_numel(t) * sizeof *v) == 0,
                  "%s: %s changed the state's %s", r->options, when, name);
    free(v);
    free(k->v[i]);
  }
}

/* One sequence: the declared size is the measured one at every t, and no call changes a state. */
START_TEST(states_keep) {
  const char *name, *options;
  size s;
  of_case(_i, &name, &options, &s);
  for (int d = 0; d < 2; d++) {
    run r = start(name, options, "", &s, d ? AL_F32 : AL_F64);
    al_scope_begin(r.c);
    for (int i = 0; i < INPUTS; i++) {
      al_requires_grad(r.in[i], true);
      al_tensor *one = al_run(r.c, "slice", AL_IN(r.in[i]), "axis=0 stop=1");
      al_release(r.in[i]);
      r.in[i] = al_retain(one);
    }
    attn_state *st = attn_state_new(r.c, r.a, 1), *next;
    for (int64_t t = 0; t < 4; t++) {
      ck_assert_msg(st != NULL, "%s: %s", r.options, al_error_message(r.c, NULL, NULL));
      ck_assert_msg(attn_state_bytes(r.a, t) == attn_state_size(st),
                    "%s: at t = %d: %lld bytes declared, %lld measured", r.options, (int)t,
                    (long long)attn_state_bytes(r.a, t), (long long)attn_state_size(st));
      copy before = copy_state(st);
      const attn_in in = part(&r, t, 1, NULL);
      al_tensor *y = attn_continue(r.c, r.a, &in, st, t == 2, &next);
      ck_assert_msg(y != NULL, "%s: %s", r.options, al_error_message(r.c, NULL, NULL));
      same_state(&r, st, &before, "a call");
      if (t == 3) {
        copy after = copy_state(next);
        al_backward(r.c, al_run(r.c, "sum", AL_IN(y), ""), NULL);
        same_state(&r, next, &after, "backward");
      }
      attn_state_free(st);
      st = next;
    }
    attn_state_free(st);
    al_scope_end(r.c, NULL);
    finish(&r);
  }
}
END_TEST

/* Row 1 ends after 5 of 9 tokens, what follows is NaN; then 3 more for both. It must be what it is
 * without padding, and the rows apart. */
START_TEST(padding_leaves_no_trace) {
  enum { FIRST = 9, KEPT = 5, MORE = 3 };
  const char *name, *options;
  size s;
  of_case(_i, &name, &options, &s);
  s.T = FIRST + MORE;
  if (!takes_lengths(options)) return;
  run r = start(name, options, "", &s, AL_F64);
  al_memory_poison(r.c, true); /* the room of a cache, too */
  al_scope_begin(r.c);
  al_tensor *alone[INPUTS]; /* row 1 without its padding */
  for (int i = 0; i < INPUTS; i++) {
    al_tensor *row = al_run(r.c, "slice", AL_IN(r.in[i]), "axis=0 start=1 stop=2");
    alone[i] = al_run(r.c, "concat",
                      AL_IN(al_run(r.c, "slice", AL_IN(row), "axis=1 stop=%d", KEPT),
                            al_run(r.c, "slice", AL_IN(row), "axis=1 start=%d", FIRST)),
                      "axis=1");
    const int64_t each = al_numel(r.in[i]) / (B * s.T);
    al_tensor *host = al_to(r.c, r.in[i], "cpu");
    double *v = (double *)al_host(host) + s.T * each;
    for (int64_t j = KEPT * each; j < FIRST * each; j++) v[j] = NAN;
    if (host != r.in[i]) ck_assert_int_eq(al_copy_into(r.c, r.in[i], host), AL_OK);
  }
  const attn_in whole = {.size = sizeof whole,
                         .q = alone[0],
                         .k = alone[1],
                         .v = alone[2],
                         .x = alone[3],
                         .causal = true};
  al_tensor *y = attn_forward(r.c, r.a, &whole);
  const double *want = al_host(al_to(r.c, y, "cpu"));
  const int64_t each = s.H * s.E;
  const double len[] = {FIRST, KEPT};
  attn_state *st = attn_state_new(r.c, r.a, B), *next;
  for (int64_t at = 0, n; at < s.T; at += n) {
    n = at == 0 ? FIRST : 1;
    const attn_in in = part(&r, at, n, at == 0 ? len : NULL);
    al_tensor *o = attn_continue(r.c, r.a, &in, st, false, &next);
    ck_assert_msg(o != NULL, "%s: %s", r.options, al_error_message(r.c, NULL, NULL));
    const double *got = (const double *)al_host(al_to(r.c, o, "cpu")) + n * each; /* row 1 */
    const int64_t rows = at == 0 ? KEPT : 1, from = at == 0 ? 0 : KEPT + at - FIRST;
    const double e = rms_ratio(got, want + from * each, rows * each);
    ck_assert_msg(e < 1e-9, "%s: token %d differs by %.2e from the row without padding", r.options,
                  (int)at, e);
    attn_state_free(st);
    st = next;
  }
  attn_state_free(st);
  al_scope_end(r.c, NULL);
  finish(&r);
}
END_TEST

static void says(al_ctx *c, const char *text) {
  const char *m = al_error_message(c, NULL, NULL);
  ck_assert_msg(al_error(c) != AL_OK && strstr(m, text), "'%s' expected in: %s", text, m);
  al_error_clear(c);
}

START_TEST(limits) {
  const size large = {4, 2, 2, 64, 64};
  run r = start("kernel_attention", "similarity=taylor order=6", "", &large, AL_F32);
  ck_assert_ptr_null(attn_state_new(r.c, r.a, 1));
  says(r.c, "order 4 would fit");
  char plan[256];
  ck_assert(strstr(attn_plan(r.a, 1 << 20, plan, sizeof plan), "parallel") &&
            strstr(plan, "above"));
  finish(&r);
  static const char *const forms[] = {"form=chunked", "form=recurrent"};
  for (int i = 0; i < 2; i++) {
    r = start("kernel_attention", "similarity=taylor order=6", forms[i], &large, AL_F32);
    ck_assert_ptr_null(r.a);
    says(r.c, "state_limit is 1024 MiB");
    finish(&r);
  }
  r = start("kernel_attention", "similarity=taylor order=3", "state_limit=1", &large, AL_F32);
  ck_assert_ptr_null(attn_state_new(r.c, r.a, 1));
  says(r.c, "23.8 MiB a sequence needed for taylor of order 3");
  finish(&r);
  r = start("kernel_attention", "similarity=linear form=recurrent dropout=0.1", "", &small, AL_F32);
  ck_assert_ptr_null(r.a);
  says(r.c, "dropout needs every weight");
  finish(&r);
}
END_TEST

/* Which components, and that plan and size say it. */
START_TEST(components) {
  static const struct {
    const char *options, *names, *plan;
  } cases[] = {
      {"", "k v count", "key/value cache"},
      {"decay=constant", "k v log_decay count", "key/value cache"},
      {"similarity=taylor", "numerator denominator count", "28 features"},
      {"similarity=taylor state_limit=0", "k v count", "key/value cache"},
      {"similarity=taylor logit_clamp=5", "k v count", "key/value cache"},
      {"similarity=linear denominator=abs", "k v count", "key/value cache"},
      {"similarity=square denominator=none", "numerator count", "21 features"},
      {"similarity=square denominator=cumulative_gate", "numerator gate_sum count", "21 features"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    run r = start("kernel_attention", cases[i].options, "", &small, AL_F32);
    attn_state *st = attn_state_new(r.c, r.a, B);
    char names[128] = "", plan[512];
    const char *name, *doc;
    for (int k = 0; k < attn_state_count(st); k++) {
      attn_state_at(st, k, &name, &doc);
      ck_assert_msg(*doc, "%s has no doc", name);
      snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", k ? " " : "", name);
    }
    ck_assert_msg(strcmp(names, cases[i].names) == 0, "'%s': %s needed, got %s", cases[i].options,
                  cases[i].names, names);
    ck_assert_msg(strstr(attn_plan(r.a, 9, plan, sizeof plan), cases[i].plan), "'%s': %s",
                  cases[i].options, plan);
    attn_state_free(st);
    finish(&r);
  }
  al_ctx *c = test_context();
  char *text = attn_describe(c, "p1/softmax");
  ck_assert_msg(strstr(text, "state:    k (") && strstr(text, "512 bytes a token"), "%s", text);
  free(text);
  text = attn_describe(c, "p3/2mamba");
  ck_assert_msg(strstr(text, "state:    numerator (") && strstr(text, "36996 bytes at most"), "%s",
                text);
  free(text);
  al_ctx_free(c);
}
END_TEST

/* When auto goes by chunks: 4 R E / (D + E) keys. */
START_TEST(automatic) {
  static const struct {
    const char *options;
    size s;
    int64_t from;
  } cases[] = {{"similarity=linear", {4, 2, 2, 32, 32}, 64},
               {"similarity=taylor order=2", {4, 2, 1, 16, 16}, 306},
               {"similarity=square denominator=l2", {4, 2, 2, 16, 16}, 8024},
               {"similarity=linear", {4, 2, 2, 16, 64}, 52}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    run r = start("kernel_attention", cases[i].options, "", &cases[i].s, AL_F32);
    char plan[512];
    attn_plan(r.a, cases[i].from - 1, plan, sizeof plan);
    ck_assert_msg(strncmp(plan, "parallel, fused", 15) == 0, "%s: %s", cases[i].options, plan);
    attn_plan(r.a, cases[i].from, plan, sizeof plan);
    ck_assert_msg(strncmp(plan, "chunked, fused", 14) == 0, "%s: %s", cases[i].options, plan);
    finish(&r);
  }
}
END_TEST

/* Keys and values of rows that stand at different tokens: one token at a time, or refused. */
START_TEST(uneven_cache) {
  static const struct {
    const char *options, *says;
    int n;
  } cases[] = {{"", "one at a time", 2}, {"similarity=expr expr='exp(s/i)'", "position i", 1}};
  const double len[] = {4, 2};
  for (int i = 0; i < 2; i++) {
    run r = start("kernel_attention", cases[i].options, "", &small, AL_F64);
    al_scope_begin(r.c);
    attn_state *st = attn_state_new(r.c, r.a, B), *next, *none;
    attn_in in = part(&r, 0, 4, len);
    ck_assert_ptr_nonnull(attn_continue(r.c, r.a, &in, st, false, &next));
    in = part(&r, 4, cases[i].n, NULL);
    ck_assert_ptr_null(attn_continue(r.c, r.a, &in, next, false, &none));
    says(r.c, cases[i].says);
    attn_state_free(st);
    attn_state_free(next);
    al_scope_end(r.c, NULL);
    finish(&r);
  }
}
END_TEST

/* No tokens: an empty output and the same state. */
START_TEST(no_tokens) {
  static const char *const options[] = {"", "similarity=square denominator=cumulative_gate"};
  for (int i = 0; i < 2; i++) {
    run r = start("kernel_attention", options[i], "", &small, AL_F64);
    al_scope_begin(r.c);
    attn_state *st = attn_state_new(r.c, r.a, B), *next, *same;
    attn_in in = part(&r, 0, 3, NULL);
    ck_assert_ptr_nonnull(attn_continue(r.c, r.a, &in, st, false, &next));
    in = part(&r, 3, 0, NULL);
    al_tensor *y = attn_continue(r.c, r.a, &in, next, false, &same);
    ck_assert_msg(y && al_size(y, 1) == 0, "%s", al_error_message(r.c, NULL, NULL));
    copy k = copy_state(next);
    same_state(&r, same, &k, "no token");
    attn_state_free(st);
    attn_state_free(next);
    attn_state_free(same);
    al_scope_end(r.c, NULL);
    finish(&r);
  }
}
END_TEST

Suite *suite_check_recurrent(void);
Suite *suite_check_recurrent(void) {
  Suite *s = suite_create("recurrent attention");
  TCase *t = tcase_create("recurrent");
  tcase_set_timeout(t, 300);
  int n;
  attn_case_preset(0, &n);
  tcase_add_loop_test(t, forms_agree, 0, n + N_SETTINGS);
  tcase_add_loop_test(t, gradients_agree, 0, n + N_SETTINGS);
  tcase_add_loop_test(t, states_keep, 0, n + N_SETTINGS);
  tcase_add_loop_test(t, padding_leaves_no_trace, 0, n + N_SETTINGS);
  tcase_add_test(t, limits);
  tcase_add_test(t, components);
  tcase_add_test(t, automatic);
  tcase_add_test(t, uneven_cache);
  tcase_add_test(t, no_tokens);
  suite_add_tcase(s, t);
  return s;
}
