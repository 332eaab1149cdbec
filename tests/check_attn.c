/* check_attn.c: what every preset and family must keep: causality and batch independence bit for
 * bit, invisible padding, its declared claims, finite numbers at logits of +-80; and refusals
 * that name their reason. */
#include "attn_case.h"
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Rows [from, to) along axis 1 (or, with batch set, the whole entry `batch`) become NaN. */
static void poison(al_tensor *t, int64_t batch, int64_t from, int64_t to) {
  const int64_t T = al_size(t, 1), row = al_numel(t) / (al_size(t, 0) * T);
  for (int64_t b = 0; b < al_size(t, 0); b++) {
    if (batch >= 0 && b != batch) continue;
    for (int64_t i = from * row; i < to * row; i++) {
      if (al_type(t) == AL_F64) ((double *)al_data(t))[b * T * row + i] = NAN;
      else ((float *)al_data(t))[b * T * row + i] = NAN;
    }
  }
}

static void poison_all(attn_case *k, int64_t batch, int64_t from, int64_t to) {
  poison(k->q, batch, from, to);
  poison(k->k, batch, from, to);
  poison(k->v, batch, from, to);
  poison(k->x, batch, from, to);
}

/* Bytes of rows [from, to) of batch entry b in two outputs. */
static bool same_rows(const al_tensor *a, const al_tensor *b, int64_t batch, int64_t from,
                      int64_t to) {
  const int64_t T = al_size(a, 1),
                row = al_numel(a) / (al_size(a, 0) * T) * al_dtype_size(al_type(a));
  const int64_t at = (batch * T + from) * row;
  return memcmp((char *)al_data(a) + at, (char *)al_data(b) + at, (size_t)((to - from) * row)) == 0;
}

static bool finite_rows(const al_tensor *t, int64_t batch, int64_t from, int64_t to) {
  double *v = attn_case_values(t);
  const int64_t row = al_numel(t) / (al_size(t, 0) * al_size(t, 1));
  bool ok = true;
  for (int64_t i = (batch * al_size(t, 1) + from) * row; i < (batch * al_size(t, 1) + to) * row;
       i++)
    ok = ok && isfinite(v[i]);
  free(v);
  return ok;
}

enum { TLEN = 70 }; /* more than one tile of the kernels */

static void check_poison(const char *name, al_dtype dtype) {
  static const int64_t cuts[] = {1, 33, 64, 69};
  for (int cut = 0; cut < 4; cut++) {
    al_ctx *c = al_ctx_new();
    attn_case k = attn_case_new(c, name, "", dtype, 2, TLEN, 2, true, NULL, 1);
    al_tensor *clean = attn_case_run(&k);
    poison_all(&k, -1, cuts[cut], TLEN);
    al_tensor *future = attn_case_run(&k);
    for (int b = 0; b < 2; b++)
      ck_assert_msg(same_rows(clean, future, b, 0, cuts[cut]) && finite_rows(clean, b, 0, TLEN),
                    "%s (%s): a row before %d depends on a later token", name, al_dtype_name(dtype),
                    (int)cuts[cut]);
    al_release(clean);
    al_release(future);
    attn_case_free(&k);
    al_ctx_free(c);
  }
  al_ctx *c = al_ctx_new();
  attn_case k = attn_case_new(c, name, "", dtype, 3, TLEN, 1, true, NULL, 1);
  al_tensor *clean = attn_case_run(&k);
  poison_all(&k, 1, 0, TLEN);
  al_tensor *other = attn_case_run(&k);
  ck_assert_msg(same_rows(clean, other, 0, 0, TLEN) && same_rows(clean, other, 2, 0, TLEN),
                "%s (%s): a batch row depends on another", name, al_dtype_name(dtype));
  al_release(clean);
  al_release(other);
  attn_case_free(&k);
  al_ctx_free(c);
}

START_TEST(no_row_sees_the_future_or_its_neighbours) {
  check_poison(attn_case_variant(_i), AL_F32);
  check_poison(attn_case_variant(_i), AL_F64);
}
END_TEST

/* Keys at and past the length may hold anything; and a padded text gives what the short text gives.
 */
START_TEST(padding_is_invisible) {
  const char *name = attn_case_variant(_i);
  for (int causal = attn_case_needs_order(name, ""); causal < 2; causal++) {
    al_ctx *c = al_ctx_new();
    const int64_t lens[] = {TLEN, 41};
    attn_case k = attn_case_new(c, name, "", AL_F32, 2, TLEN, 2, causal, lens, 1);
    al_tensor *clean = attn_case_run(&k);
    poison_all(&k, 1, 41, TLEN);
    al_tensor *padded = attn_case_run(&k);
    ck_assert_msg(same_rows(clean, padded, 0, 0, TLEN) && same_rows(clean, padded, 1, 0, 41) &&
                      finite_rows(clean, 1, 0, TLEN),
                  "%s (causal %d): padding leaks", name, causal);
    attn_case cut = k;
    al_scope_begin(c);
    cut.q = al_run(c, "slice", AL_IN(k.q), "axis=1 start=0 stop=41");
    cut.k = al_run(c, "slice", AL_IN(k.k), "axis=1 start=0 stop=41");
    cut.v = al_run(c, "slice", AL_IN(k.v), "axis=1 start=0 stop=41");
    cut.x = al_run(c, "slice", AL_IN(k.x), "axis=1 start=0 stop=41");
    cut.lengths = NULL;
    al_tensor *shorter = attn_case_run(&cut);
    double *a = attn_case_values(shorter), *b = attn_case_values(clean);
    const int64_t row = k.H * k.E;
    const double e = rms_ratio(b + TLEN * row, a + 41 * row, 41 * row);
    ck_assert_msg(e < 1e-5, "%s (causal %d): a padded text differs from the short one by %.2e",
                  name, causal, e);
    free(a);
    free(b);
    al_scope_end(c, NULL);
    al_release(clean);
    al_release(padded);
    attn_case_free(&k);
    al_ctx_free(c);
  }
}
END_TEST

static void fill(al_tensor *t, double (*f)(double)) {
  double *v = attn_case_values(t);
  for (int64_t i = 0; i < al_numel(t); i++) v[i] = f(v[i]);
  al_write(t, v, al_numel(t));
  free(v);
}
static double to_three(double x) { return (void)x, 3.0; }
static double times_four(double x) { return 4 * x; }

START_TEST(claims_hold) {
  const char *name = attn_case_variant(_i);
  al_ctx *c = al_ctx_new();
  attn_case k = attn_case_new(c, name, "", AL_F64, 2, 12, 2, true, NULL, 1);
  const unsigned claims = attn_claims(k.a);
  al_tensor *y = attn_case_run(&k);
  const int64_t n = al_numel(y);
  double *base = attn_case_values(y);
  al_release(y);
  if (claims & ATTN_SHIFT_INVARIANT) {
    double *keys = attn_case_values(k.k);
    for (int64_t i = 0; i < al_numel(k.k); i++) keys[i] += 0.5 * sin((double)(i % k.D));
    al_write(k.k, keys, al_numel(k.k));
    free(keys);
    double *got = attn_case_values(y = attn_case_run(&k));
    ck_assert_msg(rms_ratio(got, base, n) < 1e-12, "%s claims to be shift invariant: off by %.2e",
                  name, rms_ratio(got, base, n));
    free(got);
    al_release(y);
  }
  if (claims & ATTN_SCALE_FREE) {
    fill(k.v, times_four);
    double *got = attn_case_values(y = attn_case_run(&k));
    ck_assert_msg(rms_ratio(got, base, n) < 1e-9, "%s claims to be scale free: off by %.2e", name,
                  rms_ratio(got, base, n));
    free(got);
    al_release(y);
  }
  if (claims & ATTN_POSITIVE_WEIGHTS) {
    fill(k.v, fabs);
    double *got = attn_case_values(y = attn_case_run(&k));
    for (int64_t i = 0; i < n; i++)
      ck_assert_msg(got[i] >= 0, "%s claims positive weights: output %g", name, got[i]);
    free(got);
    al_release(y);
  }
  if (claims & ATTN_ROWSUM1) {
    fill(k.v, to_three);
    double *got = attn_case_values(y = attn_case_run(&k));
    for (int64_t i = 0; i < n; i++)
      ck_assert_msg(fabs(got[i] - 3) < 1e-9 || got[i] == 0, "%s claims rows that sum to one: %g",
                    name, got[i] / 3);
    free(got);
    al_release(y);
  }
  free(base);
  attn_case_free(&k);
  al_ctx_free(c);
}
END_TEST

/* Which presets claim what is written down, so that a claim cannot be lost unseen. */
START_TEST(claims_are_declared) {
  static const struct {
    const char *name;
    unsigned claims;
  } want[] = {{"p1/softmax", ATTN_ROWSUM1 | ATTN_POSITIVE_WEIGHTS | ATTN_SHIFT_INVARIANT},
              {"p1/softmax_taylor_80terms", ATTN_ROWSUM1 | ATTN_LIMITED_SCORES},
              {"p1/linear_elu", ATTN_ROWSUM1 | ATTN_POSITIVE_WEIGHTS},
              {"p1/gated_softmax_no_gate_L2norm_nodivS_noclamp",
               ATTN_POSITIVE_WEIGHTS | ATTN_SHIFT_INVARIANT | ATTN_SCALE_FREE},
              {"p2/cottention", 0},
              {"p3/2mamba", ATTN_ROWSUM1 | ATTN_POSITIVE_WEIGHTS}};
  for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
    al_ctx *c = al_ctx_new();
    attn_case k = attn_case_new(c, want[i].name, "", AL_F64, 1, 2, 4, true, NULL, 1);
    ck_assert_msg(attn_claims(k.a) == (want[i].claims | ATTN_CAUSAL), "%s claims %x, not %x",
                  want[i].name, attn_claims(k.a), want[i].claims | ATTN_CAUSAL);
    attn_case_free(&k);
    al_ctx_free(c);
  }
}
END_TEST

/* Tq != Tk: the last rows alone, at their offset, give what they give among all rows, and the same
 * gradients of keys and values as when the other rows get none. */
START_TEST(fewer_rows_than_keys) {
  static const char *const options[] = {
      "impl=composed",
      "impl=fused",
      "impl=fused denominator=none output_norm=l2",
      "impl=fused similarity=taylor order=2",
      "impl=fused decay=constant logit_clamp=1",
      "impl=fused form=parallel feature_map=l2 similarity=linear denominator=length",
      "impl=fused similarity=expr expr='exp(t*s-abs(i-j)/9)' expr_params={t=1}",
      "impl=composed similarity=expr expr='log(1+exp(s))*i/j'"};
  enum { ALL = 103, FROM = 70 };
  al_ctx *c = al_ctx_new();
  attn_case k = attn_case_new(c, "kernel_attention", options[_i], AL_F64, 2, ALL, 2, true, NULL, 1);
  al_requires_grad(k.k, true);
  al_requires_grad(k.v, true);
  double *dk[2], *dv[2], *y[2];
  for (int part = 0; part < 2; part++) {
    al_scope_begin(c);
    attn_case one = k;
    one.x = NULL;
    if (part)
      one.q = al_run(c, "slice", AL_IN(k.q), "axis=1 start=%d stop=%d", FROM, ALL),
      one.offset = FROM;
    al_set_grad(k.k, NULL);
    al_set_grad(k.v, NULL);
    al_tensor *out = attn_case_run(&one);
    al_tensor *tail =
        part ? out : al_run(c, "slice", AL_IN(out), "axis=1 start=%d stop=%d", FROM, ALL);
    ck_assert_int_eq(
        al_backward(c, al_run(c, "sum", AL_IN(al_run(c, "exp", AL_IN(tail), "")), ""), NULL),
        AL_OK);
    y[part] = attn_case_values(tail);
    dk[part] = attn_case_values(al_grad(k.k));
    dv[part] = attn_case_values(al_grad(k.v));
    al_scope_end(c, NULL);
  }
  const int64_t n = 2 * (ALL - FROM) * k.H * k.E;
  ck_assert_msg(rms_ratio(y[1], y[0], n) < 1e-12, "%s: rows alone differ by %.2e", options[_i],
                rms_ratio(y[1], y[0], n));
  ck_assert_msg(rms_ratio(dv[1], dv[0], al_numel(k.v)) < 1e-12 &&
                    rms_ratio(dk[1], dk[0], al_numel(k.k)) < 1e-9,
                "%s: gradients of rows alone differ by %.2e, %.2e", options[_i],
                rms_ratio(dk[1], dk[0], al_numel(k.k)), rms_ratio(dv[1], dv[0], al_numel(k.v)));
  for (int part = 0; part < 2; part++) free(y[part]), free(dk[part]), free(dv[part]);
  attn_case_free(&k);
  al_ctx_free(c);
}
END_TEST

/* Inputs scaled so that logits reach +-80 and beyond: f32 is finite wherever f64 says that the
 * value is well within its range. What grows like exp, undivided, may be infinite. */
START_TEST(large_logits_stay_finite) {
  const char *name = attn_case_variant(_i);
  double *v[2];
  int64_t n = 0;
  bool series = false;
  for (int d = 0; d < 2; d++) {
    al_ctx *c = al_ctx_new();
    attn_case k = attn_case_new(c, name, "", d ? AL_F32 : AL_F64, 2, 33, 2, true, NULL, 8);
    const al_opts *o = attn_opts(k.a);
    series = al_opts_has(o, "similarity") && al_opt_is(o, "similarity", "taylor");
    al_tensor *y = attn_case_run(&k);
    n = al_numel(y);
    v[d] = attn_case_values(y);
    al_release(y);
    attn_case_free(&k);
    al_ctx_free(c);
  }
  for (int64_t i = 0; i < n && !series; i++) /* a series of order 79 has weights up to 160^79/79! */
    ck_assert_msg(isfinite(v[1][i]) || fabs(v[0][i]) > 1e-3 * FLT_MAX,
                  "%s: %g at large logits, in f64 %g", name, v[1][i], v[0][i]);
  free(v[0]);
  free(v[1]);
}
END_TEST

/* ---- refusals ---------------------------------------------------------------------------------
 */

static const struct {
  const char *name, *options, *says;
} refused[] = {
    {"p1/sofmax", "", "did you mean"},
    {"p1/softmax", "denominater=none", "did you mean 'denominator'"},
    {"p1/softmax", "denominator=lenght", "did you mean 'length'"},
    {"p1/softmax", "similarity=exqr", "one of: exp linear square power taylor cosh expr"},
    {"p1/softmax", "denominator.similarity=expr",
     "one of: inherited exp linear square power taylor cosh expected"},
    {"p1/softmax", "similarity=expr", "option 'expr': an expression of s expected"},
    {"p1/softmax", "expr=s", "option 'expr' belongs to similarity=expr, but similarity is exp"},
    {"p1/softmax", "expr_params={t=1}", "option 'expr_params' belongs to similarity=expr"},
    {"p1/softmax", "similarity=expr expr='exp(t*s)'", "character 5: unknown name 't'"},
    {"p1/softmax", "similarity=expr expr='exp(tt*s)' expr_params={t=1}",
     "unknown name 'tt' (did you mean 't'?)"},
    {"p1/softmax", "similarity=expr expr='exp(s)' expr_params={t=1}",
     "option 'expr_params': 't' does not stand in expr 'exp(s)'"},
    {"p1/softmax", "similarity=expr expr='exp(s*)'", "got ')'\n  exp(s*)\n        ^"},
    {"p1/softmax", "similarity=expr expr='s*exp' expr_params={exp=1}", "the name is taken"},
    {"p1/softmax", "similarity=expr expr=s expr_params=1", "numbers by name, as {t=1} expected"},
    {"p1/softmax", "similarity=expr expr=s form=chunked", "form=chunked: "},
    {"p1/softmax", "similarity=expr expr=s orders={0,1}", "belongs to similarity=taylor"},
    {"p1/softmax", "orders={0,1}", "belongs to similarity=taylor"},
    {"p1/softmax", "order=4", "belongs to similarity=taylor or power"},
    {"p1/softmax", "denominator.side=value", "needs denominator.stat=length"},
    {"p1/softmax", "denominator=none denominator.floor=1", "no effect with denominator.stat=none"},
    {"p1/softmax", "denominator=length denominator.similarity=exp",
     "which stat=length does not read"},
    {"p1/softmax", "dropout=1.5", "a number in 0..0.999 expected"},
    {"p1/softmax", "output_gate=sigmoid", "width: needed"},
    {"kernel_attention", "similarity=taylor order=2 orders={0,3}", "above order"},
    {"kernel_attention", "similarity=taylor order=2 coefficients={1,nan}", "a list of numbers"},
};

START_TEST(refusals_name_the_reason) {
  al_ctx *c = al_ctx_new();
  const attn_family *family;
  const attn_preset *preset;
  al_opts *o;
  attn_find(c, refused[_i].name, &family, &preset, &o);
  if (o) al_opts_parse(c, o, refused[_i].options);
  const attn_sizes s = {2, 2, 4, 4, 0};
  attn *a = al_error(c) == AL_OK ? attn_new(c, family, o, &s, AL_F32, 1, "t") : NULL;
  ck_assert_msg(a == NULL, "'%s' was accepted", refused[_i].options);
  ck_assert_msg(strstr(al_error_message(c, NULL, NULL), refused[_i].says) != NULL, "'%s': %s",
                refused[_i].options, al_error_message(c, NULL, NULL));
  al_opts_release(o);
  ck_assert_int_eq(al_memory(c).live, 0);
  al_ctx_free(c);
}
END_TEST

START_TEST(wrong_shapes_are_named) {
  al_ctx *c = al_ctx_new();
  attn_case k = attn_case_new(c, "p1/softmax_divS_gate", "", AL_F32, 2, 5, 2, true, NULL, 1);
  const attn_in good = {
      .size = sizeof good, .q = k.q, .k = k.k, .v = k.v, .x = k.x, .causal = true};
  struct {
    attn_in in;
    const char *says;
  } bad[] = {{good, "q: a tensor (B,T,H,D) is needed"},
             {good, "k: shape (2,S,2,6) needed, got (2,5,4,6)"},
             {good, "v: shape (2,5,2,5) needed, got (2,5,2,6)"},
             {good, "x: needed"},
             {good, "lengths: i32 of shape (2) needed"},
             {good, "offset: at least 0"}};
  bad[0].in.q = NULL;
  bad[1].in.k = k.q;
  bad[2].in.v = k.k;
  bad[3].in.x = NULL;
  bad[4].in.lengths = k.x;
  bad[5].in.offset = -1;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    ck_assert_ptr_null(attn_forward(c, k.a, &bad[i].in));
    ck_assert_msg(strstr(al_error_message(c, NULL, NULL), bad[i].says) != NULL, "%s",
                  al_error_message(c, NULL, NULL));
    al_error_clear(c);
  }
  attn_case_free(&k);
  al_ctx_free(c);
}
END_TEST

/* The decay of head h is 1 - 2^(-5-h): from head 48 on there is none in f64, however many heads
 * follow. */
START_TEST(any_number_of_heads_decays) {
  enum { HEADS = 1100 };
  double last[2][3];
  for (int decays = 0; decays < 2; decays++) {
    al_ctx *c = al_ctx_new();
    const attn_family *family;
    const attn_preset *preset;
    al_opts *o;
    attn_find(c, "kernel_attention", &family, &preset, &o);
    al_opts_parse(c, o, decays ? "decay=constant" : "decay=none");
    const attn_sizes s = {HEADS, HEADS, 1, 1, 0};
    attn *a = attn_new(c, family, o, &s, AL_F64, 1, "t");
    al_tensor *x = al_tensor_new(c, AL_F64, 4, (int64_t[]){1, 3, HEADS, 1});
    al_fill_normal(x, 5, 0, 1);
    const attn_in in = {.size = sizeof in, .q = x, .k = x, .v = x, .causal = true};
    al_tensor *y = attn_forward(c, a, &in);
    ck_assert_msg(y != NULL, "%s", al_error_message(c, NULL, NULL));
    for (int t = 0; t < 3; t++) last[decays][t] = ((double *)al_data(y))[(t + 1) * HEADS - 1];
    al_release(y);
    al_release(x);
    attn_free(a);
    al_opts_release(o);
    al_ctx_free(c);
  }
  for (int t = 0; t < 3; t++) ck_assert_double_eq_tol(last[1][t], last[0][t], 1e-15);
}
END_TEST

/* The n-th allocation fails: an error, no leak, no crash. */
START_TEST(survives_failing_memory) {
  static const char *const names[] = {"p1/softmax", "p1/gated_softmax", "p2/cottention",
                                      "p3/2mamba"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    al_ctx *c = al_ctx_new();
    attn_case k = attn_case_new(c, names[i], "", AL_F32, 1, 4, 2, true, NULL, 1);
    al_requires_grad(k.q, true);
    const int64_t live = al_memory(c).live;
    const attn_in in = {.size = sizeof in, .q = k.q, .k = k.k, .v = k.v, .x = k.x, .causal = true};
    bool done = false;
    for (int64_t n = 1; n < 2000 && !done; n++) {
      al_memory_fail_at(c, n);
      al_tensor *y = attn_forward(c, k.a, &in);
      al_memory_fail_at(c, 0);
      done = y != NULL;
      if (!done) ck_assert_int_eq(al_error(c), AL_ENOMEM);
      al_release(y);
      al_error_clear(c);
      ck_assert_int_eq(al_memory(c).live, live);
    }
    ck_assert(done);
    attn_case_free(&k);
    al_ctx_free(c);
  }
}
END_TEST

Suite *suite_check_attn(void) {
  Suite *s = suite_create("attention: what every preset keeps");
  TCase *t = tcase_create("presets");
  tcase_set_timeout(t, 300);
  const int n = attn_case_variants();
  tcase_add_loop_test(t, no_row_sees_the_future_or_its_neighbours, 0, n);
  tcase_add_loop_test(t, padding_is_invisible, 0, n);
  tcase_add_loop_test(t, claims_hold, 0, n);
  tcase_add_loop_test(t, large_logits_stay_finite, 0, n);
  tcase_add_test(t, claims_are_declared);
  tcase_add_loop_test(t, fewer_rows_than_keys, 0, 8);
  suite_add_tcase(s, t);
  t = tcase_create("refusals");
  tcase_add_loop_test(t, refusals_name_the_reason, 0, sizeof refused / sizeof *refused);
  tcase_add_test(t, wrong_shapes_are_named);
  tcase_add_test(t, any_number_of_heads_decays);
  tcase_add_test(t, survives_failing_memory);
  suite_add_tcase(s, t);
  return s;
}
