/* check_attn.c: what the conformance driver does not look at: which claims are declared, fewer rows
 * than keys, many heads, and refusals that name their reason. What every variant must keep:
 * check_variants.c. */
#include "attn_case.h"
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    al_ctx *c = test_context();
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
  al_ctx *c = test_context();
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

/* ---- refusals -------------------------------------------------------------------------------- */

static const struct {
  const char *name, *options, *says;
} refused[] = {
    {"p1/sofmax", "", "did you mean"},
    {"p1/softmax", "denominater=none", "did you mean 'denominator'"},
    {"p1/softmax", "denominator=lenght", "did you mean 'length'"},
    {"p1/softmax", "similarity=exqr", "one of: exp linear square power taylor cosh "},
    {"p1/softmax", "denominator.similarity=expr",
     "one of: inherited exp linear square power taylor cosh "},
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
    {"p1/softmax", "feature_map=expr", "option 'map_expr': a function of x expected"},
    {"p1/softmax", "map_expr=x", "option 'map_expr' belongs to feature_map=expr"},
    {"p1/softmax", "feature_map=expr map_expr='1+tanh(x'", "option 'map_expr': character 9: "},
    {"p1/softmax", "feature_map=expr map_expr='1+t*x'", "unknown name 't'"},
    {"p1/softmax", "feature_map=expr map_expr='s*x'", "a function of x alone expected, got 's'"},
    {"p1/softmax", "output_gate=expr", "option 'output_gate.expr': a function of x expected"},
    {"p1/softmax", "output_gate.expr=x", "belongs to output_gate.activation=expr"},
    {"p1/softmax", "input_gate=expr input_gate.expr='x+i'", "of x alone expected, got 'i'"},
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

/* What a hidden key holds, NaN or an infinity, leaves it the gradient 0 and the others theirs: by a
 * length, and past the rows' last position. */
START_TEST(hidden_keys_have_no_gradient) {
  static const char *const maps[] = {
      "identity", "relu", "elu1", "l2", "softplus", "silu", "expr map_expr='1+log1p(x^2)'"};
  static const char *const rest[] = {"similarity=linear denominator=none",
                                     "similarity=linear impl=composed",
                                     "similarity=linear form=chunked decay=learned",
                                     "similarity=exp",
                                     "similarity=exp impl=composed decay=constant",
                                     "similarity=taylor order=2 form=chunked denominator=none",
                                     "similarity=square impl=composed denominator=l2"};
  enum { T = 9, LEN = 5, EARLY = 6, N = 7 };
  const double values[] = {1, NAN, INFINITY, -INFINITY}; /* the first: clean */
  for (int n = 0; n < 2 * N; n++) {
    char options[160];
    snprintf(options, sizeof options, "feature_map=%s %s", maps[_i], rest[n / 2]);
    const bool by_length = n % 2 == 0;
    if (!by_length && (strstr(options, "chunked") || strstr(options, "decay"))) continue;
    double *clean = NULL;
    for (int v = 0; v < 4; v++) {
      al_ctx *c = test_context();
      const int64_t lens[] = {LEN};
      attn_case k = attn_case_new(c, "kernel_attention", options, AL_F32, 1, T, 2, true,
                                  by_length ? lens : NULL, 1);
      const int64_t row = al_numel(k.k) / T, from = by_length ? LEN : EARLY;
      double *in = attn_case_values(k.k);
      for (int64_t j = from * row; j < T * row; j++) in[j] = values[v];
      al_write(k.k, in, T * row);
      free(in);
      al_requires_grad(k.k, true);
      al_scope_begin(c);
      attn_case early = k;
      early.x = NULL;
      if (!by_length) early.q = al_run(c, "slice", AL_IN(k.q), "axis=1 start=0 stop=%d", EARLY);
      al_tensor *y = attn_case_run(&early);
      al_backward(c, al_run(c, "sum", AL_IN(al_run(c, "square", AL_IN(y), "")), ""), NULL);
      ck_assert_msg(al_error(c) == AL_OK, "%s", al_error_message(c, NULL, NULL));
      double *dk = attn_case_values(al_grad(k.k));
      al_scope_end(c, NULL);
      for (int64_t j = 0; j < T * row; j++)
        ck_assert_msg(j >= from * row ? dk[j] == 0 : dk[j] == (clean ? clean : dk)[j],
                      "%s: hidden keys hold %g: dk[%d] = %g", options, values[v], (int)j, dk[j]);
      if (clean) free(dk);
      else clean = dk;
      attn_case_free(&k);
      al_ctx_free(c);
    }
    free(clean);
  }
}
END_TEST

START_TEST(refusals_name_the_reason) {
  attn_case_refused(refused[_i].name, refused[_i].options, refused[_i].says);
}
END_TEST

START_TEST(wrong_shapes_are_named) {
  al_ctx *c = test_context();
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
    al_ctx *c = test_context();
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
    double *all = attn_case_values(y);
    for (int t = 0; t < 3; t++) last[decays][t] = all[(t + 1) * HEADS - 1];
    free(all);
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
    al_ctx *c = test_context();
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
  Suite *s = suite_create("attention: claims, rows, refusals");
  TCase *t = tcase_create("presets");
  tcase_set_timeout(t, 300);
  tcase_add_test(t, claims_are_declared);
  tcase_add_loop_test(t, fewer_rows_than_keys, 0, 8);
  tcase_add_loop_test(t, hidden_keys_have_no_gradient, 0, 7);
  suite_add_tcase(s, t);
  t = tcase_create("refusals");
  tcase_add_loop_test(t, refusals_name_the_reason, 0, sizeof refused / sizeof *refused);
  tcase_add_test(t, wrong_shapes_are_named);
  tcase_add_test(t, any_number_of_heads_decays);
  tcase_add_test(t, survives_failing_memory);
  suite_add_tcase(s, t);
  return s;
}
