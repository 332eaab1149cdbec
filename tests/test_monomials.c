/* test_monomials.c: the features of a polynomial against a plain enumeration of index tuples in
 * double, in every instruction set: weights, monomials, their sum, the gradient. */
#include "../kernels/cpu/monomials.h"
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

Suite *suite_test_monomials(void);

enum { MAX_ORDER = 7 };

static const struct {
  const char *name;
  alk_isa needs;
  alk_dtype dtype;
  alk_monomial_weights_fn weights;
  alk_monomial_row_fn row;
  alk_monomial_row_bwd_fn bwd;
} builds[] = {
    {"f64", ALK_ISA_BASE, ALK_F64, alk_monomial_weights_f64, alk_monomial_row_f64,
     alk_monomial_row_bwd_f64},
    {"f32", ALK_ISA_BASE, ALK_F32, alk_monomial_weights_f32, alk_monomial_row_f32,
     alk_monomial_row_bwd_f32},
#if defined(__x86_64__)
    {"f32 v3", ALK_ISA_V3, ALK_F32, alk_monomial_weights_f32_v3, alk_monomial_row_f32_v3,
     alk_monomial_row_bwd_f32_v3},
    {"f32 v4", ALK_ISA_V4, ALK_F32, alk_monomial_weights_f32_v4, alk_monomial_row_f32_v4,
     alk_monomial_row_bwd_f32_v4},
#endif
};
enum { N_BUILDS = sizeof builds / sizeof builds[0] };

/* Sizes and the kept orders: digit n of `kept` is '1' where order n is kept. */
static const struct {
  int D;
  const char *kept;
} cases[] = {{1, "1"},       {1, "1111111"}, {2, "0000001"}, {3, "1010101"},  {3, "1111111"},
             {5, "0110010"}, {7, "1101"},    {16, "111"},    {16, "0001001"}, {17, "11111"},
             {16, "000000"}, {33, "1010"},   {64, "1101"},   {8, "11111110"}};
enum { N_CASES = sizeof cases / sizeof cases[0] };

static double get(const void *p, int64_t i, alk_dtype t) {
  return t == ALK_F64 ? ((const double *)p)[i] : (double)((const float *)p)[i];
}
static void put(void *p, int64_t i, alk_dtype t, double v) {
  if (t == ALK_F64) ((double *)p)[i] = v;
  else ((float *)p)[i] = (float)v;
}

/* In [-1.5, 1.5], exact in float. */
static double draw(void) {
  static uint64_t state = 7;
  state = state * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX generator */
  return (double)(int)(state >> 52) / 4096 * 3 - 1.5;
}

/* The next tuple a_1 <= .. <= a_n below D; false past the last. */
static bool next_tuple(int D, int n, int *a) {
  int i = n - 1;
  while (i >= 0 && a[i] == D - 1) i--;
  if (i < 0) return false;
  const int v = a[i] + 1;
  for (; i < n; i++) a[i] = v;
  return true;
}

/* n! / prod (multiplicity)! */
static double tuples(int n, const int *a) {
  double r = 1;
  for (int i = 0, run = 0; i < n; i++) {
    run = i > 0 && a[i] == a[i - 1] ? run + 1 : 1;
    r *= (double)(i + 1) / run;
  }
  return r;
}

typedef struct buffers {
  void *x, *y, *w, *mx, *my, *dx, *room;
} buffers;

static void check_case(int i, int b, const buffers *t) {
  const int D = cases[i].D, n_c = (int)strlen(cases[i].kept);
  const alk_dtype type = builds[b].dtype;
  const double eps = type == ALK_F64 ? 2.3e-16 : 1.2e-7;
  double c[MAX_ORDER + 1] = {0}, dx[64] = {0}, size[64] = {0}, sum = 0, sum_size = 0, want = 0;
  for (int n = 0; n < n_c; n++) c[n] = cases[i].kept[n] == '1' ? draw() + 2 : 0;
  double dot = 0;
  for (int d = 0; d < D; d++) {
    put(t->x, d, type, draw());
    put(t->y, d, type, draw());
    put(t->dx, d, type, d);
    dot += get(t->x, d, type) * get(t->y, d, type);
  }
  builds[b].weights(&(alk_place){.dtype = type, .threads = 1}, D, n_c, c, t->w, t->room);
  builds[b].row(D, n_c, c, t->x, t->mx, t->room);
  builds[b].row(D, n_c, c, t->y, t->my, t->room);
  builds[b].bwd(D, n_c, c, t->x, t->my, t->dx, t->room); /* dm = m(y) */
  int64_t r = 0;
  for (int n = 0; n < n_c; n++) {
    if (c[n] == 0) continue;
    want += c[n] * pow(dot, n);
    const int64_t first = r;
    int a[MAX_ORDER] = {0};
    do {
      double m = 1, my = 1;
      for (int k = 0; k < n; k++) m *= get(t->x, a[k], type), my *= get(t->y, a[k], type);
      const double w = c[n] * tuples(n, a), tolerance = (n + 2) * eps;
      ck_assert_msg(fabs(get(t->w, r, type) - w) <= tolerance * fabs(w),
                    "%s, D %d, order %d: weight %lld: %g needed, got %g", builds[b].name, D, n,
                    (long long)r, w, get(t->w, r, type));
      ck_assert_msg(fabs(get(t->mx, r, type) - m) <= tolerance * fabs(m),
                    "%s, D %d, order %d: monomial %lld: %g needed, got %g", builds[b].name, D, n,
                    (long long)r, m, get(t->mx, r, type));
      sum += w * m * my, sum_size += fabs(w * m * my);
      for (int k = 0; k < n; k++) {
        double part = my;
        for (int l = 0; l < n; l++) part *= l == k ? 1 : get(t->x, a[l], type);
        dx[a[k]] += part, size[a[k]] += fabs(part);
      }
      r++;
    } while (next_tuple(D, n, a));
    ck_assert_int_eq(r - first, alk_monomials(D, n));
  }
  ck_assert_int_eq(r, alk_features(D, n_c, c));
  ck_assert_msg(fabs(sum - want) <= 1e-13 * (sum_size + fabs(want)),
                "D %d, orders %s: sum of features %g, polynomial %g", D, cases[i].kept, sum, want);
  for (int d = 0; d < D; d++) {
    const double got = get(t->dx, d, type) - d;
    ck_assert_msg(fabs(got - dx[d]) <= 32 * eps * (size[d] + d),
                  "%s, D %d, orders %s: dx[%d]: %g needed, got %g", builds[b].name, D,
                  cases[i].kept, d, dx[d], got);
  }
}

START_TEST(enumeration) {
  buffers t;
  void **all[] = {&t.x, &t.y, &t.w, &t.mx, &t.my, &t.dx, &t.room};
  for (int b = 0; b < N_BUILDS; b++) {
    if (builds[b].needs > alk_cpu_isa()) continue;
    for (int i = 0; i < N_CASES; i++) {
      /* of the size that is asked for, so that sanitizers see a step past it */
      const int D = cases[i].D, n = (int)strlen(cases[i].kept);
      double c[MAX_ORDER + 1] = {0};
      for (int k = 0; k < n; k++) c[k] = cases[i].kept[k] == '1';
      const size_t R = (size_t)alk_features(D, n, c), room = (size_t)alk_monomial_room(D, n),
                   e = builds[b].dtype == ALK_F64 ? 8 : 4;
      const size_t bytes[] = {(size_t)D * e, (size_t)D * e,          R * e, R * e, R * e,
                              (size_t)D * e, room * (e > 4 ? 16 : 8)};
      for (int k = 0; k < 7; k++) *all[k] = malloc(bytes[k] ? bytes[k] : 1);
      check_case(i, b, &t);
      for (int k = 0; k < 7; k++) free(*all[k]);
    }
  }
}
END_TEST

START_TEST(sizes) {
  ck_assert_int_eq(alk_monomials(16, 6), 54264);
  ck_assert_int_eq(alk_monomials(64, 3), 45760);
  ck_assert_int_eq(alk_monomials(128, 256), INT64_MAX);
  const double c[] = {1, 1, 0, 2};
  ck_assert_int_eq(alk_features(64, 4, c), 1 + 64 + 45760);
  ck_assert_int_eq(alk_monomial_room(3, 3), 1 + 3 + 6);
  ck_assert_int_eq(alk_monomial_room(3, 0), 0);
}
END_TEST

Suite *suite_test_monomials(void) {
  Suite *s = suite_create("monomials");
  TCase *t = tcase_create("monomials");
  tcase_add_test(t, enumeration);
  tcase_add_test(t, sizes);
  suite_add_tcase(s, t);
  return s;
}
