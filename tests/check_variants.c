/* check_variants.c: what holds for any family, without knowing its formula: its gradients are those
 * of its own values, f32 is close to f64, and it can be described. The presets of kernel_attention
 * are held to an oracle of their own in attn_case.c and are left out here. */
#include "attn_case.h"
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Weighted sum of the output, the weights a fixed pattern. */
static double total(const attn_case *k, const double *w, double *out, int64_t n) {
  al_tensor *y = attn_case_run(k);
  al_read(y, out, n);
  al_release(y);
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += w[i] * out[i];
  return sum;
}

static bool has_oracle(int i) {
  const attn_family *family = NULL;
  if (i < attn_preset_count()) attn_preset_at(i, &family);
  return family && strcmp(family->name, "kernel_attention") == 0;
}

/* Central differences in f64. What forward detaches is no constant here: such a variant differs. */
START_TEST(gradients_are_those_of_the_values) {
  if (has_oracle(_i)) return;
  const char *name = attn_case_variant(_i);
  al_ctx *c = al_ctx_new();
  const int64_t lens[] = {5, 4};
  attn_case k = attn_case_new(c, name, "", AL_F64, 2, 5, 2, true, lens, 1);
  al_tensor *t[4 + ATTN_MAX_PARAMS] = {k.q, k.k, k.v, k.x};
  const char *label[4 + ATTN_MAX_PARAMS] = {"q", "k", "v", "x"};
  int n_t = 4;
  for (const char *p; attn_param_at(k.a, n_t - 4, &p); n_t++)
    t[n_t] = attn_param_at(k.a, n_t - 4, &p), label[n_t] = p;
  for (int i = 0; i < n_t; i++) al_requires_grad(t[i], true);
  al_tensor *y = attn_case_run(&k);
  const int64_t n = al_numel(y);
  double *w = malloc((size_t)n * sizeof *w), *out = malloc((size_t)n * sizeof *out);
  for (int64_t i = 0; i < n; i++) w[i] = sin(1.3 * (double)i + 0.4);
  al_tensor *seed = al_tensor_from(c, AL_F64, 4, al_shape(y), w, n);
  ck_assert_msg(al_backward(c, y, seed) == AL_OK, "%s: %s", name, al_error_message(c, NULL, NULL));
  al_grad_mode(c, false);
  const double h = 1e-5; /* the difference errs by h^2/6 times the third derivative and 1e-16 / h */
  for (int i = 0; i < n_t; i++) {
    double *p = al_data(t[i]), worst = 0;
    const double *g = al_grad(t[i]) ? al_data(al_grad(t[i])) : NULL;
    for (int64_t j = 0; j < al_numel(t[i]); j++) {
      const double keep = p[j];
      p[j] = keep + h;
      double d = total(&k, w, out, n);
      p[j] = keep - h;
      d = (d - total(&k, w, out, n)) / (2 * h);
      p[j] = keep;
      const double e = fabs((g ? g[j] : 0) - d) / (1 + fabs(d));
      if (!(e <= worst)) worst = e;
    }
    ck_assert_msg(worst < 2e-7, "%s: gradient of %s is off by %.2e", name, label[i], worst);
  }
  free(w);
  free(out);
  al_release(seed);
  al_release(y);
  attn_case_free(&k);
  ck_assert_int_eq(al_memory(c).live, 0);
  al_ctx_free(c);
}
END_TEST

START_TEST(f32_is_close_to_f64) {
  if (!has_oracle(_i)) attn_case_check_f32(attn_case_variant(_i), "");
}
END_TEST

START_TEST(describes_itself) {
  al_ctx *c = al_ctx_new();
  char *text = attn_describe(c, attn_case_variant(_i));
  ck_assert_msg(text != NULL, "%s", al_error_message(c, NULL, NULL));
  ck_assert_msg(strncmp(text, attn_case_variant(_i), strlen(attn_case_variant(_i))) == 0, "%s",
                text);
  free(text);
  al_ctx_free(c);
}
END_TEST

Suite *suite_check_variants(void);
Suite *suite_check_variants(void) {
  Suite *s = suite_create("attention: families of any kind");
  TCase *t = tcase_create("variants");
  tcase_set_timeout(t, 300);
  tcase_add_loop_test(t, gradients_are_those_of_the_values, 0, attn_case_variants());
  tcase_add_loop_test(t, f32_is_close_to_f64, 0, attn_case_variants());
  tcase_add_loop_test(t, describes_itself, 0, attn_case_variants());
  suite_add_tcase(s, t);
  return s;
}
