/* check_identities.c: the identities that decide what an ablation of softmax can show: which
 * switches are the same function, outputs and gradients alike, and which are not. */
#include "attn_case.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct both {
  double *y, *dq, *dk, *dv, *dx;
  int64_t ny, nq, nx;
} both;

/* Output and gradients (weighted by a fixed pattern) of one variant. */
static both evaluate(const char *name, const char *options, bool causal) {
  al_ctx *c = al_ctx_new();
  attn_case k = attn_case_new(c, name, options, AL_F64, 2, 8, 4, causal, NULL, 1);
  al_tensor *in[] = {k.q, k.k, k.v, k.x};
  for (int i = 0; i < 4; i++) al_requires_grad(in[i], true);
  al_tensor *y = attn_case_run(&k);
  both r = {.ny = al_numel(y), .nq = al_numel(k.q), .nx = al_numel(k.x)};
  r.y = attn_case_values(y);
  double *w = malloc((size_t)r.ny * sizeof *w);
  for (int64_t i = 0; i < r.ny; i++) w[i] = cos(0.9 * (double)i);
  al_tensor *seed = al_tensor_from(c, AL_F64, 4, al_shape(y), w, r.ny);
  ck_assert_int_eq(al_backward(c, y, seed), AL_OK);
  r.dq = attn_case_values(al_grad(k.q));
  r.dk = attn_case_values(al_grad(k.k));
  r.dv = attn_case_values(al_grad(k.v));
  r.dx = al_grad(k.x) ? attn_case_values(al_grad(k.x)) : NULL;
  free(w);
  al_release(seed);
  al_release(y);
  attn_case_free(&k);
  al_ctx_free(c);
  return r;
}

static void both_free(both *r) {
  free(r->y);
  free(r->dq);
  free(r->dk);
  free(r->dv);
  free(r->dx);
}

static const struct {
  const char *what, *a, *a_options, *b, *b_options;
  bool same, full; /* full: without causal mask */
} identities[] = {
    {"A.3.1: exp + L2 is softmax + L2", "p1/gated_softmax_no_gate_L2norm_nodivS_noclamp", "",
     "p1/softmax", "output_norm=l2", true, false},
    {"A.3.1 for rms without eps", "kernel_attention",
     "denominator=none output_norm=rms output_norm.eps=0", "kernel_attention",
     "output_norm=rms output_norm.eps=0", true, false},
    {"A.3.1 for layer without eps", "kernel_attention",
     "denominator=none output_norm=layer output_norm.eps=0", "kernel_attention",
     "output_norm=layer output_norm.eps=0", true, false},
    {"A.3.2: length before L2 does nothing", "kernel_attention",
     "denominator=length output_norm=l2", "kernel_attention", "denominator=none output_norm=l2",
     true, false},
    {"A.3.2: an output gate before L2 does nothing",
     "p1/gated_softmax_out_gate_L2norm_nodivS_noclamp", "",
     "p1/gated_softmax_no_gate_L2norm_nodivS_noclamp", "", true, false},
    {"A.3.2: but an input gate does", "kernel_attention",
     "input_gate=sigmoid denominator=none output_norm=l2", "kernel_attention",
     "denominator=none output_norm=l2", false, false},
    {"A.3.4: a gate before or after no norm", "kernel_attention",
     "output_gate=sigmoid output_gate.place=pre_norm", "kernel_attention", "output_gate=sigmoid",
     true, false},
    {"A.3.5: value side is not row side under a causal mask", "p2/cottention", "",
     "p2/cottention_row", "", false, false},
    {"A.3.5: but it is without", "p2/cottention", "", "p2/cottention_row", "", true, true},
    {"divs = gated without gates and norm", "p1/softmax_divs", "",
     "p1/gated_softmax_no_gate_no_norm", "", true, false},
    {"divS_gate = gatev2", "p1/softmax_divS_gate", "", "p1/softmax_divS_gatev2", "", true, false},
    {"power 0 is no denominator", "kernel_attention", "denominator.power=0 logit_clamp=5",
     "kernel_attention", "denominator=none logit_clamp=5", true, false},
    {"cosh is the even half of exp", "kernel_attention", "similarity=cosh", "kernel_attention",
     "similarity=taylor order=24 orders={0,2,4,6,8,10,12,14,16,18,20,22,24}", true, false},
    {"taylor order 1 without order 0 is linear", "kernel_attention",
     "similarity=taylor order=1 orders={1} denominator=abs", "kernel_attention",
     "similarity=linear denominator=abs", true, false},
};

START_TEST(identities_hold) {
  const bool causal = !identities[_i].full;
  both a = evaluate(identities[_i].a, identities[_i].a_options, causal),
       b = evaluate(identities[_i].b, identities[_i].b_options, causal);
  const double e = fmax(fmax(rms_ratio(a.y, b.y, a.ny), rms_ratio(a.dq, b.dq, a.nq)),
                        rms_ratio(a.dv, b.dv, a.nq * 5 / 6));
  if (identities[_i].same) ck_assert_msg(e < 1e-9, "%s: off by %.2e", identities[_i].what, e);
  else ck_assert_msg(e > 1e-3, "%s: the two agree to %.2e", identities[_i].what, e);
  both_free(&a);
  both_free(&b);
}
END_TEST

/* A.3.2: the gradient of a gate before L2 is exactly nothing: what reaches x through it is
 * rounding. */
START_TEST(gate_before_l2_has_no_gradient) {
  both r = evaluate("p1/gated_softmax_out_gate_L2norm_nodivS_noclamp", "", true);
  double worst = 0;
  for (int64_t i = 0; i < r.nx; i++) worst = fmax(worst, fabs(r.dx[i]));
  ck_assert_msg(worst < 1e-14, "gradient of x through the gate: %.2e", worst);
  both_free(&r);
}
END_TEST

/* A.3.3: sum_j ds_ij = 0 for softmax and exp + L2, and not for length, gate, clamp or a stopped
 * denominator. With one query row, sum_j dk_j = scale q sum_j ds_j shows it. */
START_TEST(score_gradients_sum_to_zero) {
  static const struct {
    const char *options;
    bool zero;
  } cases[] = {{"", true},
               {"denominator=none output_norm=l2", true},
               {"output_norm=rms", true},
               {"denominator=length", false},
               {"denominator.gradient=stopped", false},
               {"denominator.sink=0", false},
               {"similarity=square", false}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    al_ctx *c = al_ctx_new();
    attn_case k =
        attn_case_new(c, "kernel_attention", cases[i].options, AL_F64, 1, 6, 4, false, NULL, 1);
    al_release(k.q);
    k.q = al_tensor_new(c, AL_F64, 4, (int64_t[]){1, 1, k.H, k.D});
    al_fill_normal(k.q, 99, 0, 1);
    al_requires_grad(k.k, true);
    al_release(k.x);
    k.x = NULL;
    al_tensor *y = attn_case_run(&k);
    al_tensor *w = al_tensor_new(c, AL_F64, 4, al_shape(y));
    al_fill_normal(w, 5, 0, 1);
    ck_assert_int_eq(al_backward(c, y, w), AL_OK);
    double *dk = attn_case_values(al_grad(k.k)), total = 0;
    const int64_t row = k.H * k.D;
    for (int64_t e = 0; e < row; e++) {
      double sum = 0;
      for (int64_t j = 0; j < 6; j++) sum += dk[j * row + e];
      total = fmax(total, fabs(sum));
    }
    if (cases[i].zero)
      ck_assert_msg(total < 1e-12, "'%s': sum of ds is %.2e", cases[i].options, total);
    else
      ck_assert_msg(total > 1e-6, "'%s': sum of ds is %.2e, it should not vanish", cases[i].options,
                    total);
    free(dk);
    al_release(w);
    al_release(y);
    attn_case_free(&k);
    al_ctx_free(c);
  }
}
END_TEST

/* The 80-term series is softmax for |s| <= 8, normalised as the paper meant it. */
START_TEST(series_is_softmax) {
  both a = evaluate("p1/softmax_taylor_80terms", "", true), b = evaluate("p1/softmax", "", true);
  ck_assert_double_lt(rms_ratio(a.y, b.y, a.ny), 1e-12);
  ck_assert_double_lt(rms_ratio(a.dk, b.dk, a.nq), 1e-12);
  double last = INFINITY;
  for (int order = 2; order <= 10; order += 2) { /* each even order is nearer */
    char options[64];
    snprintf(options, sizeof options, "order=%d", order);
    both p = evaluate("p1/softmax_taylor_80terms", options, true);
    const double e = rms_ratio(p.y, b.y, b.ny);
    ck_assert_msg(e < last, "order %d is no nearer to softmax (%.2e) than the one before (%.2e)",
                  order, e, last);
    last = e;
    both_free(&p);
  }
  both_free(&a);
  both_free(&b);
}
END_TEST

Suite *suite_check_identities(void);
Suite *suite_check_identities(void) {
  Suite *s = suite_create("attention: identities");
  TCase *t = tcase_create("identities");
  tcase_set_timeout(t, 300);
  tcase_add_loop_test(t, identities_hold, 0, sizeof identities / sizeof *identities);
  tcase_add_test(t, gate_before_l2_has_no_gradient);
  tcase_add_test(t, score_gradients_sum_to_zero);
  tcase_add_test(t, series_is_softmax);
  suite_add_tcase(s, t);
  return s;
}
