/* check_orders.c: polynomial weights of high orders, one head of one channel, against numbers that
 * rational arithmetic gave: every form, both types, gradients, also of learned coefficients; which
 * orders there are, and which a state holds. */
#include "../core/attnlab.h"
#include "../kernels/attn_orders.h"
#include "attn_case.h"
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

Suite *suite_check_orders(void);

static const char *const forms[] = {"impl=composed", "impl=fused form=parallel",
                                    "form=chunked state_limit=1024",
                                    "form=recurrent state_limit=1024"};
enum { COMPOSED, FUSED, CHUNKED, RECURRENT, N_FORMS, PARALLEL = 2 };

/* T tokens: the first has key `key` and value 1, the others 0 and 0; the query of the last row is
 * `query`, of the others 1. What the last row gives, and what it leaves on the inputs: */
typedef struct sums {
  char refused[512]; /* the reason, or "" */
  double y, dq;
  double dk[2], dv[2]; /* of the first and the last token */
  double dc[ALK_MAX_COEFFICIENTS];
} sums;

static al_tensor *line(al_ctx *c, al_dtype t, int T, int width, int at, double v, double others) {
  double x[256];
  for (int i = 0; i < T * width; i++) x[i] = i / width == at ? v : others;
  al_tensor *a = al_tensor_from(c, t, 4, (int64_t[]){1, T, 1, width}, x, T * width);
  al_requires_grad(a, true);
  return a;
}

static attn *one_head(al_ctx *c, const char *options, const char *more, al_dtype t, int D) {
  const attn_family *family;
  const attn_preset *preset;
  al_opts *o;
  attn_find(c, "kernel_attention", &family, &preset, &o);
  al_opts_parse(c, o, "logit_scale=1");
  al_opts_parse(c, o, options);
  al_opts_parse(c, o, more);
  const attn_sizes s = {1, 1, D, 1, 0};
  attn *a = al_error(c) == AL_OK ? attn_new(c, family, o, &s, t, 1, "t") : NULL;
  al_opts_release(o);
  return a;
}

static void run(al_ctx *c, attn *a, al_dtype t, int T, int D, double query, double key, sums *r) {
  al_tensor *q = line(c, t, T, D, T - 1, query, 1), *k = line(c, t, T, D, 0, key, 0),
            *v = line(c, t, T, 1, 0, 1, 0);
  const attn_in in = {.size = sizeof in, .q = q, .k = k, .v = v, .causal = true};
  al_tensor *y = attn_forward(c, a, &in);
  al_tensor *last = al_run(c, "slice", AL_IN(y), "axis=1 start=%d", T - 1);
  if (y && al_backward(c, al_run(c, "sum", AL_IN(last), ""), NULL) == AL_OK) {
    double *w[] = {attn_case_values(last), attn_case_values(al_grad(q)),
                   attn_case_values(al_grad(k)), attn_case_values(al_grad(v))};
    r->y = w[0][0], r->dq = w[1][T * D - 1];
    r->dk[0] = w[2][0], r->dk[1] = w[2][T * D - 1], r->dv[0] = w[3][0], r->dv[1] = w[3][T - 1];
    const char *name;
    al_tensor *p = attn_param_at(a, 0, &name);
    if (p) al_read(al_grad(p), r->dc, al_numel(p));
    for (int i = 0; i < 4; i++) free(w[i]);
  }
}

static sums sums_of(const char *options, const char *more, al_dtype t, int T, int D, double query,
                    double key) {
  al_ctx *c = al_ctx_new();
  attn *a = one_head(c, options, more, t, D);
  sums r = {.y = NAN};
  al_scope_begin(c);
  if (a) run(c, a, t, T, D, query, key, &r);
  if (al_error(c) != AL_OK)
    snprintf(r.refused, sizeof r.refused, "%s", al_error_message(c, NULL, NULL));
  al_error_clear(c);
  al_scope_end(c, NULL);
  attn_free(a);
  al_ctx_free(c);
  return r;
}

static void near(const char *what, const char *form, al_dtype t, double s, double got, double want,
                 double limit) {
  ck_assert_msg(fabs(got - want) <= limit, "%s, %s, %s, s = %g: %.17g needed, got %.17g", what,
                form, al_dtype_name(t), s, want, got);
}

/* ---- exp cut at order 79 --------------------------------------------------------------------- */

/* P = sum to 79 of s^n / n!; P / (P + 1) and its derivative. */
static const struct {
  double s, y, slope;
} cut[] = {{-15, 3.0590222692562472e-07, 3.059021333494523e-07},
           {-12, 6.1441746022147182e-06, 6.1441368513331755e-06},
           {-8, 0.00033535013046647811, 0.00033523767075647424},
           {-4, 0.017986209962091559, 0.017662706213291118},
           {8, 0.99966464986953352, 0.00033523767075647424},
           {20, 0.99999999793884642, 2.0611536139418492e-09}};
enum { N_CUT = sizeof cut / sizeof *cut };

START_TEST(exp_cut_at_79) {
  static const char *const options = "similarity=taylor order=79";
  const double s = cut[_i].s, y = cut[_i].y;
  for (int t = AL_F64; t <= AL_F32; t++) {
    /* rounding in f64 of terms that sum to e^|s|, then that of the type; the weights' gradient
     * holds 1 - y */
    const double eps = 4 * (t == AL_F64 ? DBL_EPSILON : FLT_EPSILON),
                 limit = 4 * DBL_EPSILON * exp(fabs(s)) * (1 - y) * (1 - y) + eps * y;
    for (int f = 0; f < (t == AL_F64 ? N_FORMS : PARALLEL); f++) {
      const sums r = sums_of(options, forms[f], (al_dtype)t, 2, 1, s, 1);
      ck_assert_msg(!*r.refused, "%s: %s", forms[f], r.refused);
      near("y", forms[f], (al_dtype)t, s, r.y, y, limit);
      near("dq", forms[f], (al_dtype)t, s, r.dq, cut[_i].slope, limit);
      near("dk", forms[f], (al_dtype)t, s, r.dk[0], s * cut[_i].slope, fabs(s) * limit);
      near("dk", forms[f], (al_dtype)t, s, r.dk[1], -s * y * (1 - y), fabs(s) * limit);
      near("dv", forms[f], (al_dtype)t, s, r.dv[0], y, limit);
      near("dv", forms[f], (al_dtype)t, s, r.dv[1], 1 - y, limit + eps * (1 - y));
    }
  }
}
END_TEST

/* ---- one order alone ------------------------------------------------------------------------- */

START_TEST(one_order_alone) {
  static const char *const options =
      "similarity=taylor order=36 orders={36} denominator=none"; /* 20^36 / 36! */
  for (int t = AL_F64; t <= AL_F32; t++)
    for (int f = 0; f < (t == AL_F64 ? N_FORMS : PARALLEL); f++)
      for (int T = 2; T <= 70; T += 68) {
        const double eps = 40 * (t == AL_F64 ? DBL_EPSILON : FLT_EPSILON);
        const sums r = sums_of(options, forms[f], (al_dtype)t, T, 1, 20, 1);
        ck_assert_msg(!*r.refused, "%s: %s", forms[f], r.refused);
        near("y", forms[f], (al_dtype)t, 20, r.y, 184733.09005032823, eps * 184733);
        near("dq", forms[f], (al_dtype)t, 20, r.dq, 332519.56209059083, eps * 332520);
      }
}
END_TEST

/* ---- learned coefficients -------------------------------------------------------------------- */

/* y = sum k_n s^n / n!, all k_n 1: dk_n = s^n / n!, whatever s^n alone does. */
static void learned(int order, int form, al_dtype t, double query, double key) {
  char options[96];
  snprintf(options, sizeof options, "similarity=taylor order=%d coefficients=learned %s", order,
           "denominator=none");
  const double s = query * key, eps = 4 * order * (t == AL_F64 ? DBL_EPSILON : FLT_EPSILON);
  for (int T = 2; T <= 70; T += 68) {
    const sums r = sums_of(options, forms[form], t, T, 1, query, key);
    ck_assert_msg(!*r.refused, "%s: %s", forms[form], r.refused);
    double term = 1;
    for (int n = 0; n <= order; term *= s / ++n)
      near("dk_n", forms[form], t, s, r.dc[n], term, eps * fabs(term) + 1e-45);
  }
}

START_TEST(learned_coefficients) {
  for (int f = 0; f < N_FORMS; f++) {
    learned(79, f, AL_F64, -12, 1);
    learned(79, f, AL_F64, 20, 1);
    learned(79, f, AL_F64, 250, 4);
    learned(127, f, AL_F64, 25, 2);
    learned(25, f, AL_F32, 11, 8);
    if (f >= PARALLEL) continue;
    learned(79, f, AL_F32, 20, 1);
    learned(79, f, AL_F32, -12, 1);
    learned(79, f, AL_F32, 11, 8);
    learned(127, f, AL_F32, 11, 8);
  }
}
END_TEST

/* ---- which orders there are ------------------------------------------------------------------ */

START_TEST(the_highest_order) {
  static const struct {
    const char *options;
    double s, y;
  } all[] = {
      {"similarity=taylor order=127 denominator=none", 3, 20.085536923187668},
      {"similarity=taylor order=127 orders={0,127} denominator=none", 50, 196.09243386581758},
      {"similarity=power order=127 denominator=none", 1.5, 2.3098825610472934e22}};
  for (int i = 0; i < 3; i++)
    for (int t = AL_F64; t <= AL_F32; t++)
      for (int f = 0; f < (t == AL_F64 ? N_FORMS : PARALLEL); f++) {
        const sums r = sums_of(all[i].options, forms[f], (al_dtype)t, 2, 1, all[i].s, 1);
        ck_assert_msg(!*r.refused, "%s: %s", all[i].options, r.refused);
        near(all[i].options, forms[f], (al_dtype)t, all[i].s, r.y, all[i].y, 3e-5 * all[i].y);
      }
}
END_TEST

START_TEST(no_order_above) {
  static const char *const options[] = {"similarity=taylor order=128", "similarity=power order=128",
                                        "similarity=taylor order=127 orders={128}",
                                        "similarity=taylor order=127 denominator.orders={0,128}"};
  for (int i = 0; i < 4; i++) attn_case_refused("kernel_attention", options[i], "0..127");
}
END_TEST

/* ---- what a state holds ---------------------------------------------------------------------- */

/* What a state in f32 does not refuse it gives right, with large queries or large keys; what it
 * refuses, by name. Returns the highest order that it took. */
static int highest_held(const char *format, int form, int D) {
  int highest = 0;
  for (int n = 1; n <= ALK_MAX_ORDER; n++)
    for (int side = 0; side < 2; side++) {
      char options[128];
      snprintf(options, sizeof options, format, n, n);
      const double query = side ? 30 : 0.1 / D, key = side ? 0.1 / D : 30;
      const sums r = sums_of(options, forms[form], AL_F32, 70, D, query, key);
      if (*r.refused) {
        ck_assert_msg(strstr(r.refused, "option 'order': a state in f32") &&
                          strstr(r.refused, "f64") && strstr(r.refused, "form=parallel"),
                      "%s: %s", options, r.refused);
        continue;
      }
      highest = n;
      const sums want = sums_of(options, "impl=composed", AL_F64, 70, D, query, key);
      near(options, forms[form], AL_F32, 3, r.y, want.y, 1e-4 * fabs(want.y));
      near(options, forms[form], AL_F32, 3, r.dq, want.dq, 1e-4 * fabs(want.dq));
      near(options, forms[form], AL_F32, 3, r.dk[0], want.dk[0], 1e-4 * fabs(want.dk[0]));
    }
  return highest;
}

START_TEST(a_state_holds_what_it_takes) {
  static const struct {
    const char *options;
    int most[2]; /* of 1 channel, of 3 */
  } all[] = {{"similarity=taylor order=%d denominator=none", {25, 25}},
             {"similarity=taylor order=%d coefficients=ones denominator=none", {25, 19}},
             {"similarity=taylor order=%d orders={%d} denominator=none", {16, 16}},
             {"similarity=power order=%d denominator=none", {25, 19}},
             {"similarity=taylor order=%d denominator=none logit_scale=0.01", {13, 13}}};
  for (int i = 0; i < 5; i++)
    for (int wide = 0; wide < 2; wide++) {
      const int got = highest_held(all[i].options, _i ? CHUNKED : RECURRENT, wide ? 3 : 1);
      ck_assert_msg(got == all[i].most[wide], "%s: order %d is the highest held, not %d",
                    all[i].options, got, all[i].most[wide]);
    }
}
END_TEST

/* l2 squares: order n needs order 2 n. */
START_TEST(a_square_counts_twice) {
  static const char *const options = "similarity=taylor order=%d denominator=l2";
  char low[96], high[96];
  snprintf(low, sizeof low, options, 12);
  snprintf(high, sizeof high, options, 13);
  ck_assert(!*sums_of(low, forms[RECURRENT], AL_F32, 2, 1, 2, 1).refused);
  ck_assert(strstr(sums_of(high, forms[RECURRENT], AL_F32, 2, 1, 2, 1).refused, "squares"));
  ck_assert(!*sums_of(high, forms[RECURRENT], AL_F64, 2, 1, 2, 1).refused);
  strcat(low, " coefficients=learned"); /* whose products are numbers of their own */
  for (int f = CHUNKED; f < N_FORMS; f++) {
    ck_assert(!*sums_of(low, forms[f], AL_F32, 2, 1, 2, 1).refused);
    ck_assert(strstr(sums_of(low, forms[f], AL_F32, 2, 3, 2, 1).refused, "option 'order'"));
  }
}
END_TEST

/* auto stays parallel where a state could not hold the orders, and plan says why. */
START_TEST(auto_is_parallel_above) {
  for (int t = AL_F64; t <= AL_F32; t++)
    for (int high = 0; high < 2; high++) {
      const char *options =
          high ? "similarity=taylor order=30 impl=fused" : "similarity=taylor order=20 impl=fused";
      al_ctx *c = al_ctx_new();
      attn *a = one_head(c, options, "", (al_dtype)t, 1);
      char plan[256];
      attn_plan(a, 200, plan, sizeof plan);
      const bool refused = t == AL_F32 && high;
      ck_assert_msg(strstr(plan, refused ? "parallel" : "chunked") == plan &&
                        !strstr(plan, "cannot hold order 26; no decoding by state") == !refused,
                    "%s", plan);
      attn_state *st = attn_state_new(c, a, 1);
      ck_assert(!st == refused);
      al_error_clear(c);
      attn_state_free(st);
      attn_free(a);
      al_ctx_free(c);
      ck_assert(isfinite(sums_of(options, "", (al_dtype)t, 200, 1, 20, 1).y));
    }
}
END_TEST

/* Queries of no channels: a refusal or sums of order 0, no division by them. */
START_TEST(no_channels) {
  static const char *const ops[] = {"attend_chunked", "attend_step"};
  for (int i = 0; i < 2; i++) {
    al_ctx *c = al_ctx_new();
    al_scope_begin(c);
    al_tensor *q = al_tensor_full(c, AL_F32, 4, (int64_t[]){1, 1, 1, 0}, 1),
              *v = al_tensor_full(c, AL_F32, 4, (int64_t[]){1, 1, 1, 1}, 1);
    al_tensor *y = al_run(c, ops[i], AL_IN(q, q, v, NULL, NULL, NULL, NULL, i ? v : NULL),
                          "coefficients={1,0,1} stat=none");
    ck_assert(y || al_error(c) == AL_ESHAPE);
    al_error_clear(c);
    al_scope_end(c, NULL);
    al_ctx_free(c);
  }
}
END_TEST

/* describe says what rounding of a state in f32 does to rows that cancel. */
START_TEST(the_preset_says_so) {
  al_ctx *c = al_ctx_new();
  char *text = attn_describe(c, "p1/softmax_taylor_80terms");
  ck_assert(text && strstr(text, "hardly any weight"));
  free(text);
  al_ctx_free(c);
}
END_TEST

START_TEST(ops_refuse_by_name) {
  static const char *const ops[] = {"attend_chunked", "attend_step"};
  char list[ALK_MAX_COEFFICIENTS * 2 + 8] = "{0";
  for (int n = 1; n < 80; n++) strcat(list, n == 79 ? ",1}" : ",0");
  for (int i = 0; i < 2; i++)
    for (int t = AL_F64; t <= AL_F32; t++) {
      al_ctx *c = al_ctx_new();
      al_scope_begin(c);
      al_tensor *x = al_tensor_full(c, (al_dtype)t, 4, (int64_t[]){1, 1, 1, 1}, 1);
      al_tensor *state = i ? x : NULL;
      al_tensor *y = al_run(c, ops[i], AL_IN(x, x, x, NULL, NULL, NULL, NULL, state),
                            "coefficients=%s stat=none", list);
      ck_assert(!y == (t == AL_F32));
      ck_assert(y || strstr(al_error_message(c, NULL, NULL), "got order 79 for 1 channel"));
      al_error_clear(c);
      al_scope_end(c, NULL);
      al_ctx_free(c);
    }
}
END_TEST

Suite *suite_check_orders(void) {
  Suite *s = suite_create("high orders");
  TCase *t = tcase_create("orders");
  tcase_set_timeout(t, 120);
  tcase_add_loop_test(t, exp_cut_at_79, 0, N_CUT);
  tcase_add_test(t, one_order_alone);
  tcase_add_test(t, learned_coefficients);
  tcase_add_test(t, the_highest_order);
  tcase_add_test(t, no_order_above);
  tcase_add_loop_test(t, a_state_holds_what_it_takes, 0, 2);
  tcase_add_test(t, a_square_counts_twice);
  tcase_add_test(t, auto_is_parallel_above);
  tcase_add_test(t, ops_refuse_by_name);
  tcase_add_test(t, no_channels);
  tcase_add_test(t, the_preset_says_so);
  suite_add_tcase(s, t);
  return s;
}
