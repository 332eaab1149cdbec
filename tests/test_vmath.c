/* test_vmath.c: the f32 elementary functions, as the pointwise kernels ship them in each
 * instruction set, against the f64 kernels (libm): a sweep over bit patterns of all magnitudes, and
 * the edges. */
#include "../kernels/pointwise.h"
#include <check.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct {
  const char *name;
  alk_isa needs;
  alk_pointwise_fwd_fn fwd;
} builds[] = {{"x86-64", ALK_ISA_BASE, alk_pointwise_fwd_f32},
#if defined(__x86_64__)
              {"x86-64-v3", ALK_ISA_V3, alk_pointwise_fwd_f32_v3},
              {"x86-64-v4", ALK_ISA_V4, alk_pointwise_fwd_f32_v4}
#endif
};
enum { N_BUILDS = sizeof builds / sizeof builds[0], N = 1 << 15 };

/* limit: largest error in ulp of the result, or of `floor` where the result is smaller. The
 * functions alone stay below the bounds in vmath.h; x times a function adds an ulp; a rounded
 * argument of an exponential costs as many ulp as it is large. */
static const struct {
  const char *name;
  int op;
  float p[2];
  double lo, hi, limit, floor;
} cases[] = {{"exp", ALK_PW_exp, {0, 0}, -INFINITY, INFINITY, 1.1, 0},
             {"log", ALK_PW_log, {0, 0}, -INFINITY, INFINITY, 1, 0},
             {"tanh", ALK_PW_tanh, {0, 0}, -INFINITY, INFINITY, 2.5, 0},
             {"sigmoid", ALK_PW_sigmoid, {0, 0}, -INFINITY, INFINITY, 2.2, 0},
             {"cosh", ALK_PW_cosh, {0, 0}, -INFINITY, INFINITY, 1.7, 0},
             {"sinh", ALK_PW_sinh, {0, 0}, -INFINITY, INFINITY, 1.7, 0},
             {"erf", ALK_PW_erf, {0, 0}, -INFINITY, INFINITY, 2.6, 0},
             {"elu (expm1)", ALK_PW_elu, {0, 0}, -INFINITY, INFINITY, 1.6, 0},
             {"elu1", ALK_PW_elu1, {0, 0}, -INFINITY, INFINITY, 1.1, 0},
             {"softplus (log1p)", ALK_PW_softplus, {0, 0}, -INFINITY, INFINITY, 2.5, 0},
             {"silu", ALK_PW_silu, {0, 0}, -80, 1e30, 3.2, 0},
             {"gelu", ALK_PW_gelu, {0, 0}, -12, 1e30, 6, 0},
             {"sin", ALK_PW_sin, {0, 0}, -16777215, 16777215, 1.7, 0},
             {"cos", ALK_PW_cos, {0, 0}, -16777215, 16777215, 1.7, 0},
             {"gelu_new", ALK_PW_gelu_new, {0, 0}, -3, 1e12, 12, 0},
             {"rsqrt", ALK_PW_rsqrt, {0, 0}, 0, INFINITY, 1.6, 0},
             {"pow 2.7", ALK_PW_pow, {2.7f, 0}, -INFINITY, INFINITY, 1.1, 0},
             {"pow -0.5", ALK_PW_pow, {-0.5f, 0}, -INFINITY, INFINITY, 1.1, 0},
             {"pow 3", ALK_PW_pow, {3, 0}, -INFINITY, INFINITY, 1.1, 0},
             {"pow -1", ALK_PW_pow, {-1, 0}, -INFINITY, INFINITY, 1.1, 0},
             {"pow 0", ALK_PW_pow, {0, 0}, -INFINITY, INFINITY, 0, 0}};
enum { N_CASES = sizeof cases / sizeof cases[0] };

static double ulp(double y) {
  int e;
  frexp(fabs(y), &e);
  return ldexp(1, e - 24 < -149 ? -149 : e - 24);
}

static const alk_place f32 = {.dtype = ALK_F32, .threads = 2},
                       f64 = {.dtype = ALK_F64, .threads = 2};

/* Compares n values of a case with their truth; parameters are floats, or f32 would see others. */
static void compare(int i, const float *x, int n) {
  static double wide[N], truth[N];
  static float y[N];
  const double p[2] = {(double)cases[i].p[0], (double)cases[i].p[1]};
  for (int j = 0; j < n; j++) wide[j] = (double)x[j];
  alk_pointwise_fwd_f64(&f64, cases[i].op, n, wide, truth, p);
  for (int b = 0; b < N_BUILDS; b++) {
    if (builds[b].needs > alk_cpu_isa()) continue;
    builds[b].fwd(&f32, cases[i].op, n, x, y, p);
    for (int j = 0; j < n; j++) {
      if (x[j] < cases[i].lo || x[j] > cases[i].hi) continue;
      const double t = truth[j], got = (double)y[j];
      if (isnan(t) || isnan(got)) {
        ck_assert_msg(isnan(t) && isnan(got), "%s, %s: at %.9g: %g needed, got %g", cases[i].name,
                      builds[b].name, (double)x[j], t, got);
      } else if (fabs(t) > FLT_MAX * (1 - 1e-7)) { /* at the limit either side is right */
        ck_assert_msg(got == (t > 0 ? INFINITY : -INFINITY) ||
                          (fabs(t) < 3.41e38 && fabs(got) > 3.40e38),
                      "%s, %s: at %.9g: %g needed, got %g", cases[i].name, builds[b].name,
                      (double)x[j], t, got);
      } else {
        const double e = fabs(got - t) / ulp(fabs(t) > cases[i].floor ? t : cases[i].floor);
        ck_assert_msg(e <= cases[i].limit || fabs(got - t) < 1e-45,
                      "%s, %s: at %.9g: %.9g needed, got %.9g, %.2f ulp off", cases[i].name,
                      builds[b].name, (double)x[j], t, got, e);
      }
    }
  }
}

/* One float in 30011, all exponents and both signs. */
START_TEST(sweep) {
  static float x[N];
  int n = 0;
  for (uint64_t u = 0; u < 1ULL << 32; u += 30011) {
    const uint32_t bits = (uint32_t)u;
    memcpy(&x[n], &bits, sizeof bits);
    if (++n < N) continue;
    compare(_i, x, n);
    n = 0;
  }
  compare(_i, x, n);
}
END_TEST

/* Around 0, 1, the ends of the float range, and where results overflow or become denormal. */
START_TEST(edges) {
  static const float at[] = {0,       1e-45f,     1e-39f,    FLT_MIN,   1e-20f,      0.35f,
                             0.45f,   0.65f,      0.8f,      1,         1.41421356f, 2,
                             10,      14.5f,      30,        87.33654f, 88.72283f,   89.41598f,
                             90,      103.27893f, 103.9721f, 104,       105,         1e4f,
                             8388607, 16777216,   1e30f,     FLT_MAX,   INFINITY};
  static float x[4096];
  int n = 0;
  for (size_t i = 0; i < sizeof at / sizeof at[0]; i++)
    for (int s = -1; s <= 1; s += 2) {
      const float v = (float)s * at[i];
      float up = v, down = v;
      for (int j = 0; j < 12;
           j++, up = nextafterf(up, INFINITY), down = nextafterf(down, -INFINITY))
        x[n++] = up, x[n++] = down;
    }
  x[n++] = NAN;
  compare(_i, x, n);
}
END_TEST

/* Every finite float's upper half and its neighbours at the ties, against integer arithmetic. */
START_TEST(bf16) {
  static float x[N], y[N];
  static double wide[N], y64[N];
  static const uint32_t low[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};
  for (size_t l = 0; l < sizeof low / sizeof low[0]; l++)
    for (uint32_t from = 0; from < 1 << 16; from += N) {
      for (uint32_t h = 0; h < N; h++) {
        const uint32_t bits = (from + h) << 16 | low[l];
        memcpy(&x[h], &bits, sizeof bits);
        wide[h] = (double)x[h];
      }
      alk_pointwise_fwd (&f32)(&f32, ALK_PW_round_bf16, N, x, y, NULL);
      alk_pointwise_fwd_f64(&f64, ALK_PW_round_bf16, N, wide, y64, NULL);
      for (uint32_t h = 0; h < N; h++) {
        const bool up = low[l] > 0x8000 || (low[l] == 0x8000 && h & 1);
        const uint32_t bits = (from + h + up) << 16;
        float want;
        memcpy(&want, &bits, sizeof want);
        if (isnan(x[h])) ck_assert(isnan(y[h]) && isnan(y64[h]));
        else
          ck_assert_msg(y[h] == want && y64[h] == (double)want,
                        "%.9g: %.9g needed, got %.9g and %.9g", (double)x[h], (double)want,
                        (double)y[h], y64[h]);
      }
    }
}
END_TEST

Suite *suite_test_vmath(void);
Suite *suite_test_vmath(void) {
  Suite *s = suite_create("vmath");
  TCase *t = tcase_create("vmath");
  tcase_set_timeout(t, 240);
  tcase_add_loop_test(t, sweep, 0, N_CASES);
  tcase_add_loop_test(t, edges, 0, N_CASES);
  tcase_add_test(t, bf16);
  suite_add_tcase(s, t);
  return s;
}
