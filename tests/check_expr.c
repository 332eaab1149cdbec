/* check_expr.c: similarity=expr: against the oracle, which has the same functions in C; equal to
 * the built-in that an expression writes out, in every implementation; poison, large logits. */
#include "attn_case.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const cases[] = {
    "expr='log(1+exp(s))'",
    "expr='exp(t*s)' expr_params={t=1.2}",
    "expr='exp(t*s-u*abs(i-j))' expr_params={t=1,u=0.3}",
    "expr='exp(t*s-u*abs(i-j))' expr_params={t=1,u=0.3} decay=constant",
    "expr='t*s^2+u' expr_params={t=1,u=0.5} denominator=abs decay=gated",
    "expr='sigmoid(t*s+u)' expr_params={t=1,u=0.5} denominator=l2",
    "expr='cosh(s)*j/i' denominator=length",
    "expr='exp(t*s)/(1+exp(u*s))' expr_params={t=1,u=0.5} logit_softcap=2 logit_clamp=1.5",
    "expr='exp(t*s)' expr_params={t=1.2} logit_softcap=2 logit_clamp=1.5 denominator=none "
    "output_norm=l2",
    "expr='(2+s^2)^t' expr_params={t=-0.7} denominator.power=learned",
    "expr='exp(sqrt(1+t*s^2))' expr_params={t=1.3} denominator.sink=learned denominator.eps=0.1",
    "expr='exp(t*s)' expr_params={t=1.2} denominator.similarity=cosh logit_scale=learned",
    "expr='s' feature_map=softplus denominator.similarity=exp input_gate=sigmoid"};
enum { N_CASES = sizeof cases / sizeof *cases };

static const char *options_of(int i) {
  static char text[512];
  snprintf(text, sizeof text, "similarity=expr impl=%s %s", i % 2 ? "fused" : "composed",
           cases[i / 2]);
  return text;
}

START_TEST(an_expression_is_the_formula) {
  const int64_t lens[] = {9, 6};
  const char *o = options_of(_i);
  attn_case_check_oracle("kernel_attention", o, true, NULL, 4, 9);
  attn_case_check_oracle("kernel_attention", o, true, lens, 2, 9);
  attn_case_check_oracle("kernel_attention", o, false, lens, 1, 9);
  attn_case_check_oracle("kernel_attention", o, true, NULL, 2, 101);
}
END_TEST

START_TEST(an_expression_has_its_gradient) {
  attn_case_check_gradients("kernel_attention", options_of(_i));
}
END_TEST

START_TEST(f32_is_close_to_f64) { attn_case_check_f32("kernel_attention", options_of(_i)); }
END_TEST

/* ---- the built-in that it writes out --------------------------------------------------------- */

static const struct {
  const char *expr, *builtin;
} same[] = {{"exp(s)", "similarity=exp"},
            {"s", "similarity=linear denominator=length"},
            {"s^2", "similarity=square"},
            {"1+s+s^2/2", "similarity=taylor order=2"},
            {"cosh(s)", "similarity=cosh"},
            {"s^4", "similarity=power order=4"},
            {"exp(min(s,1))", "similarity=exp logit_clamp=1"},
            {"exp(2*tanh(s/2))", "similarity=exp logit_softcap=2"}};

/* Output and the gradients of q, k, v after one another. */
static double *evaluate(const char *options, al_dtype dtype, int64_t *n) {
  al_ctx *c = test_context();
  attn_case k = attn_case_new(c, "kernel_attention", options, dtype, 2, 70, 2, true, NULL, 1);
  al_tensor *in[] = {k.q, k.k, k.v};
  for (int i = 0; i < 3; i++) al_requires_grad(in[i], true);
  al_tensor *y = attn_case_run(&k), *w = al_tensor_new(c, dtype, 4, al_shape(y));
  al_fill_normal(w, 5, 0, 1);
  ck_assert_int_eq(al_backward(c, y, w), AL_OK);
  al_tensor *out[] = {y, al_grad(k.q), al_grad(k.k), al_grad(k.v)};
  *n = 0;
  for (int i = 0; i < 4; i++) *n += al_numel(out[i]);
  double *all = malloc((size_t)*n * sizeof *all), *to = all;
  for (int i = 0; i < 4; i++) {
    al_read(out[i], to, al_numel(out[i]));
    to += al_numel(out[i]);
  }
  al_release(y);
  al_release(w);
  attn_case_free(&k);
  al_ctx_free(c);
  return all;
}

START_TEST(an_expression_is_the_builtin) {
  static const struct {
    const char *impl;
    al_dtype dtype;
    double limit;
  } how[] = {{"composed", AL_F64, 1e-13},
             {"fused", AL_F64, 1e-13},
             {"composed", AL_F32, 1e-5},
             {"fused", AL_F32, 1e-5}};
  for (int h = 0; h < 4; h++) {
    char a[256], b[256];
    int64_t n, m;
    snprintf(a, sizeof a, "form=parallel impl=%s similarity=expr expr='%s'%s", how[h].impl,
             same[_i].expr, strstr(same[_i].builtin, "length") ? " denominator=length" : "");
    snprintf(b, sizeof b, "form=parallel impl=%s %s", how[h].impl, same[_i].builtin);
    double *x = evaluate(a, how[h].dtype, &n), *y = evaluate(b, how[h].dtype, &m);
    ck_assert_int_eq(n, m);
    const double e = rms_ratio(x, y, n);
    ck_assert_msg(e < how[h].limit, "'%s' and %s (%s, %s): off by %.2e", same[_i].expr,
                  same[_i].builtin, how[h].impl, al_dtype_name(how[h].dtype), e);
    free(x);
    free(y);
  }
}
END_TEST

/* ---- what every variant keeps ---------------------------------------------------------------- */

/* Rows before the cut, bit for bit, whatever stands after it. */
START_TEST(the_future_is_not_read) {
  enum { T = 70, CUT = 33 };
  al_ctx *c = test_context();
  attn_case k =
      attn_case_new(c, "kernel_attention", options_of(_i), AL_F32, 2, T, 2, true, NULL, 1);
  al_tensor *clean = attn_case_run(&k);
  al_tensor *in[] = {k.q, k.k, k.v, k.x};
  for (int i = 0; i < 4; i++) {
    const int64_t row = al_numel(in[i]) / (2 * T);
    double *p = attn_case_values(in[i]);
    for (int64_t e = CUT * row; e < T * row; e++) p[e] = p[T * row + e] = NAN;
    al_write(in[i], p, al_numel(in[i]));
    free(p);
  }
  al_tensor *poisoned = attn_case_run(&k);
  const int64_t row = al_numel(clean) / (2 * T);
  double *one = attn_case_values(clean), *other = attn_case_values(poisoned);
  for (int b = 0; b < 2; b++)
    ck_assert_msg(
        memcmp(one + b * T * row, other + b * T * row, (size_t)(CUT * row) * sizeof *one) == 0,
        "%s: a row depends on a later token", options_of(_i));
  free(one);
  free(other);
  al_release(clean);
  al_release(poisoned);
  attn_case_free(&k);
  al_ctx_free(c);
}
END_TEST

/* Inputs that give logits of +-80 and beyond: exp at the root keeps the row's maximum outside. */
START_TEST(large_logits_stay_finite) {
  static const char *const large[] = {"expr='exp(s)'", "expr='exp(t*s)' expr_params={t=1.5}",
                                      "expr='exp(s-abs(i-j))'", "expr='log(1+exp(s))'",
                                      "expr='exp(s)' denominator=none output_norm=l2"};
  for (int i = 0; i < 10; i++) {
    char options[200];
    snprintf(options, sizeof options, "similarity=expr impl=%s %s", i % 2 ? "fused" : "composed",
             large[i / 2]);
    al_ctx *c = test_context();
    attn_case k = attn_case_new(c, "kernel_attention", options, AL_F32, 2, 33, 2, true, NULL, 8);
    al_requires_grad(k.q, true);
    al_tensor *y = attn_case_run(&k), *w = al_tensor_full(c, AL_F32, 4, al_shape(y), 1);
    ck_assert_int_eq(al_backward(c, y, w), AL_OK);
    double *v = attn_case_values(y), *g = attn_case_values(al_grad(k.q));
    for (int64_t e = 0; e < al_numel(y); e++) ck_assert_msg(isfinite(v[e]), "%s: output", options);
    for (int64_t e = 0; e < al_numel(k.q); e++)
      ck_assert_msg(isfinite(g[e]), "%s: gradient", options);
    free(v);
    free(g);
    al_release(y);
    al_release(w);
    attn_case_free(&k);
    al_ctx_free(c);
  }
}
END_TEST

START_TEST(claims_are_declared) {
  static const struct {
    const char *expr;
    unsigned claims;
  } want[] = {{"exp(s)", ATTN_ROWSUM1 | ATTN_POSITIVE_WEIGHTS},
              {"s^2", ATTN_ROWSUM1 | ATTN_POSITIVE_WEIGHTS},
              {"s", ATTN_ROWSUM1},
              {"exp(s)-2", ATTN_ROWSUM1}};
  for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
    char options[100];
    snprintf(options, sizeof options, "similarity=expr expr='%s'", want[i].expr);
    al_ctx *c = test_context();
    attn_case k = attn_case_new(c, "kernel_attention", options, AL_F64, 1, 2, 4, true, NULL, 1);
    ck_assert_msg(attn_claims(k.a) == (want[i].claims | ATTN_CAUSAL), "%s claims %x", want[i].expr,
                  attn_claims(k.a));
    attn_case_free(&k);
    al_ctx_free(c);
  }
}
END_TEST

Suite *suite_check_expr(void);
Suite *suite_check_expr(void) {
  Suite *s = suite_create("attention by an expression");
  TCase *t = tcase_create("expr");
  tcase_set_timeout(t, 300);
  tcase_add_loop_test(t, an_expression_is_the_formula, 0, 2 * N_CASES);
  tcase_add_loop_test(t, an_expression_has_its_gradient, 0, 2 * N_CASES);
  tcase_add_loop_test(t, f32_is_close_to_f64, 0, 2 * N_CASES);
  tcase_add_loop_test(t, an_expression_is_the_builtin, 0, sizeof same / sizeof *same);
  tcase_add_loop_test(t, the_future_is_not_read, 0, 2 * N_CASES);
  tcase_add_test(t, large_logits_stay_finite);
  tcase_add_test(t, claims_are_declared);
  suite_add_tcase(s, t);
  return s;
}
