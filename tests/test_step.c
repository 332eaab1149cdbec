/* test_step.c: attend_step token by token against attend on all tokens, which shares no code with
 * it; that an absent token is not read and changes nothing; append. */
#include "../core/attnlab.h"
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

Suite *suite_test_step(void);

static al_ctx *c;

static void begin(void) {
  c = al_ctx_new();
  al_scope_begin(c);
}
static void end(void) {
  ck_assert_msg(al_error(c) == AL_OK, "%s", al_error_message(c, NULL, NULL));
  al_scope_end(c, NULL);
  ck_assert_int_eq(al_memory(c).live, 0);
  al_ctx_free(c);
}

enum { B = 2, T = 9, H = 6, D = 4, E = 19 };
static const int len[B] = {T, 5};

/* Hs, R: of the state; sign: of what weights are made of, positive where W is divided by. */
static const struct {
  int Hkv, Hd, Hs, R;
  const char *options, *both;
} cases[] = {{6, 0, 6, 4, "{0,1}", "feature_map=elu1 normalise=true"},
             {2, 0, 2, 15, "{1,1,0.5}", "normalise=true scale=0.6"},
             {2, 3, 6, 10, "{0,0,1}", "normalise=true scale=-0.5"},
             {1, 2, 2, 25, "{1,1,0,0.3}", "stat=none scale=0.7"},
             {3, 1, 3, 84, "{0,0,0,0,0,0,1}", "feature_map=l2"}};
enum { N_CASES = sizeof cases / sizeof cases[0] };

static al_tensor *normal(int heads, int width, const char *name) {
  al_tensor *t = width ? al_tensor_new(c, AL_F64, 4, (int64_t[]){B, T, heads, width})
                       : al_tensor_new(c, AL_F64, 3, (int64_t[]){B, T, heads});
  al_fill_normal(t, al_stream(3, name), 0, 1);
  return t;
}

static al_tensor *token(al_tensor *t, int i) {
  return t ? al_run(c, "slice", AL_IN(t), "axis=1 start=%d stop=%d", i, i + 1) : NULL;
}

static al_tensor *present(int i) {
  const int64_t n = B;
  double v[B];
  for (int b = 0; b < B; b++) v[b] = i < len[b];
  return al_tensor_from(c, AL_I32, 1, &n, v, B);
}

START_TEST(tokens_are_attend) {
  const int64_t n = B, Hs = cases[_i].Hs, R = cases[_i].R;
  al_tensor *q = normal(H, D, "q"), *k = normal(cases[_i].Hkv, D, "k"),
            *v = normal(cases[_i].Hkv, E, "v"), *b = normal(cases[_i].Hkv, 0, "b"), *decay = NULL;
  if (cases[_i].Hd) {
    decay = normal(cases[_i].Hd, 0, "decay");
    decay = al_run(c, "neg", AL_IN(al_run(c, "softplus", AL_IN(decay), "")), "");
  }
  al_tensor *const spoilt[] = {k, v, b,
                               decay}; /* row 1 ends early: what follows must not be read */
  for (int i = 0; i < 4; i++)
    if (spoilt[i]) {
      const int64_t row = al_numel(spoilt[i]) / (B * T);
      double *x = al_host(spoilt[i]);
      for (int64_t j = (T + len[1]) * row; j < 2 * T * row; j++) x[j] = NAN;
    }
  al_tensor *lengths = al_tensor_from(c, AL_I32, 1, &n, (double[]){len[0], len[1]}, B);
  al_tensor *all[3];
  al_run_into(c, "attend", AL_IN(q, k, v, decay, NULL, lengths, b), all, 3,
              "f=polynomial coefficients=%s causal=true %s", cases[_i].options, cases[_i].both);
  al_tensor *state = al_tensor_full(c, AL_F64, 4, (int64_t[]){B, Hs, R, E}, 0),
            *norm = strstr(cases[_i].both, "stat=none")
                        ? NULL
                        : al_tensor_full(c, AL_F64, 3, (int64_t[]){B, Hs, R}, 0);
  const double *want = al_host(all[0]), *W = al_host(all[1]);
  for (int i = 0; i < T; i++) {
    al_tensor *out[4];
    al_run_into(c, "attend_step",
                AL_IN(token(q, i), token(k, i), token(v, i), token(decay, i), NULL, present(i),
                      token(b, i), state, norm),
                out, 4, "coefficients=%s %s", cases[_i].options, cases[_i].both);
    ck_assert_msg(al_error(c) == AL_OK, "%s", al_error_message(c, NULL, NULL));
    for (int r = 0; r < B; r++)
      for (int h = 0; h < H; h++) {
        for (int e = 0; e < E; e++) {
          const double y = want[((r * T + i) * H + h) * E + e],
                       got = ((const double *)al_host(out[0]))[(r * H + h) * E + e];
          ck_assert_msg(fabs(got - y) < 1e-11 * (1 + fabs(y)), "%s, token %d: %g needed, got %g",
                        cases[_i].options, i, y, got);
        }
        const double w = W[(r * H + h) * T + i], got = ((const double *)al_host(out[1]))[r * H + h];
        ck_assert_msg(fabs(got - w) < 1e-11 * (1 + fabs(w)), "%s, token %d: W: %g needed, got %g",
                      cases[_i].options, i, w, got);
      }
    state = out[2];
    if (norm) norm = out[3];
  }
}
END_TEST

static void refused(al_tensor *const *in, int n, const char *options, const char *text) {
  al_tensor *y = al_run(c, "attend_step", in, n, "%s", options);
  const char *message = al_error_message(c, NULL, NULL);
  ck_assert_msg(!y && al_error(c) != AL_OK, "%s: not refused", options);
  ck_assert_msg(strstr(message, text) != NULL, "'%s' expected in: %s", text, message);
  al_error_clear(c);
}

START_TEST(refusals) {
  const int64_t one[] = {1, 1, 2, 3}, two[] = {1, 2, 2, 3}, s[] = {1, 2, 4, 3}, three = 3;
  al_tensor *x = al_tensor_full(c, AL_F64, 4, one, 0), *x2 = al_tensor_full(c, AL_F64, 4, two, 0),
            *state = al_tensor_full(c, AL_F64, 4, s, 0), *norm = al_tensor_full(c, AL_F64, 3, s, 0),
            *k = al_tensor_full(c, AL_F64, 1, &three, 1);
  const char *fits = "coefficients={1,1}";
  refused(AL_IN(x2, x2, x2, NULL, NULL, NULL, NULL, state, norm), fits, "one token needed");
  refused(AL_IN(x, x, x, NULL, NULL, NULL, NULL, state, norm), "", "state: shape (1,2,3,3) needed");
  refused(AL_IN(x, x, x, NULL, NULL, NULL, NULL, state), fits, "norm_state: needed");
  refused(AL_IN(x, x, x, NULL, NULL, NULL, NULL, state, norm), "coefficients={1,1} stat=none",
          "norm_state: none taken");
  refused(AL_IN(x, x, x, NULL, NULL, NULL, NULL, state, state), fits, "norm_state: shape (1,2,4)");
  refused(AL_IN(x, x, x, NULL, k, NULL, NULL, state, norm), fits, "coefficients: shape (2) needed");
  refused(AL_IN(x, x, x, NULL, NULL, NULL, NULL, state, norm), "coefficients={0,0}",
          "not all of them 0");
}
END_TEST

START_TEST(appending) {
  const int64_t old[] = {2, 3, 1}, new[] = {2, 2, 1}, n = 2;
  al_tensor *cache = al_tensor_from(c, AL_F64, 3, old, (double[]){1, 2, NAN, 3, NAN, NAN}, 6),
            *more = al_tensor_from(c, AL_F64, 3, new, (double[]){4, 5, 6, NAN}, 4),
            *counts = al_tensor_from(c, AL_I32, 1, &n, (double[]){2, 1}, 2),
            *lengths = al_tensor_from(c, AL_I32, 1, &n, (double[]){2, 1}, 2);
  double v[10];
  const double want[] = {1, 2, 4, 5, 0, 3, 6, 0, 0, 0};
  al_read(al_run(c, "append", AL_IN(cache, more, counts, lengths), ""), v, 10);
  for (int i = 0; i < 10; i++) ck_assert_double_eq(v[i], want[i]);
  al_run(c, "append", AL_IN(cache, cache, al_tensor_full(c, AL_I32, 1, &n, 4)), "");
  ck_assert(strstr(al_error_message(c, NULL, NULL),
                   "counts: numbers in 0..3 needed, got 4 at position 0 of "));
  al_error_clear(c);
  al_run(c, "append", AL_IN(cache, counts, counts), "");
  ck_assert(al_error(c) != AL_OK);
  al_error_clear(c);
}
END_TEST

Suite *suite_test_step(void) {
  Suite *s = suite_create("one token");
  TCase *t = tcase_create("step");
  tcase_add_checked_fixture(t, begin, end);
  tcase_add_loop_test(t, tokens_are_attend, 0, N_CASES);
  tcase_add_test(t, refusals);
  tcase_add_test(t, appending);
  suite_add_tcase(s, t);
  return s;
}
