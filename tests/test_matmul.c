/* test_matmul.c: the matrix product kernel against three plain loops, over random sizes, strides,
 * batch axes (kept, repeated, summed), flags and thread counts. C's surroundings hold a mark that
 * must stay. */
#include "../core/attnlab.h"
#include "../kernels/matmul.h"
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROOM = 200000, BIAS = 512 };
static double a[ROOM], b[ROOM], got[ROOM], want[ROOM], bias[BIAS];
static char touched[ROOM];

static uint64_t state;
static uint32_t draw(void) { /* Knuth's MMIX generator, upper bits */
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(state >> 33);
}
static int below(int n) { return (int)(draw() % (uint32_t)n); }

static double get(const void *p, int64_t i, alk_dtype t) {
  return t == ALK_F64 ? ((const double *)p)[i] : (double)((const float *)p)[i];
}
static void put(void *p, int64_t i, alk_dtype t, double v) {
  if (t == ALK_F64) ((double *)p)[i] = v;
  else ((float *)p)[i] = (float)v;
}

/* Strides of a rows x cols operand: packed or padded, plain or transposed, or spaced in both
 * axes. */
static int64_t lay_out(int64_t rows, int64_t cols, int64_t *rs, int64_t *cs) {
  const int kind = below(3), pad = 3 * below(2);
  if (kind == 0) *cs = 1, *rs = cols + pad;
  else if (kind == 1) *rs = 1, *cs = rows + pad;
  else *rs = 2, *cs = 2 * rows;
  return (rows + pad + 1) * (cols + pad + 1) * 2;
}

/* Offsets of batch entry `index`. */
static void entry(const alk_matmul_task *t, int64_t index, int64_t at[3]) {
  at[0] = at[1] = at[2] = 0;
  for (int i = t->n_batch - 1; i >= 0; i--) {
    const int64_t x = index % t->batch[i];
    index /= t->batch[i];
    at[0] += x * t->a_batch[i], at[1] += x * t->b_batch[i], at[2] += x * t->c_batch[i];
  }
}

static void reference(const alk_matmul_task *t) {
  int64_t n_all = 1, n_kept = 1, at[3];
  alk_matmul_task kept = *t; /* C's own axes: the summed ones have size 1 */
  for (int i = 0; i < t->n_batch; i++) {
    if (t->c_batch[i] == 0) kept.batch[i] = 1;
    n_all *= t->batch[i], n_kept *= kept.batch[i];
  }
  memset(touched, 0, sizeof touched);
  for (int64_t e = 0; e < n_kept; e++) {
    entry(&kept, e, at);
    for (int64_t i = 0; i < t->m; i++)
      for (int64_t j = 0; j < t->n; j++) {
        const int64_t x = at[2] + i * t->c_row + j;
        want[x] = (t->add ? 0.5 : 0) + (t->bias ? get(bias, j, t->dtype) : 0);
        touched[x] = 1;
      }
  }
  for (int64_t e = 0; e < n_all; e++) {
    entry(t, e, at);
    for (int64_t i = 0; i < t->m; i++)
      for (int64_t j = 0; j < t->n; j++) {
        double s = 0;
        for (int64_t p = 0; p < t->k; p++)
          s += get(a, at[0] + i * t->a_row + p * t->a_col, t->dtype) *
               get(b, at[1] + p * t->b_row + j * t->b_col, t->dtype);
        want[at[2] + i * t->c_row + j] += t->alpha * s;
      }
  }
}

/* False when the drawn case is too large for the room. */
static bool draw_task(alk_matmul_task *t, int most) {
  *t = (alk_matmul_task){.dtype = below(2) ? ALK_F64 : ALK_F32, .a = a, .b = b, .c = got};
  t->m = below(5) ? below(most) : 1;
  t->n = below(5) ? below(most) : 1;
  t->k = below(5) ? below(most) : 1;
  int64_t room_a = lay_out(t->m, t->k, &t->a_row, &t->a_col);
  int64_t room_b = lay_out(t->k, t->n, &t->b_row, &t->b_col);
  t->c_row = t->n + 5 * below(2);
  /* batch strides that continue the rows, or the inner axis, are what folding looks for */
  int64_t step_a = below(2) ? t->m * t->a_row : below(2) ? t->k * t->a_col : room_a;
  int64_t step_b = below(2) ? t->k * t->b_row : below(2) ? t->n * t->b_col : room_b;
  int64_t step_c = below(3) ? t->m * t->c_row : (t->m + 1) * t->c_row;
  t->n_batch = below(4);
  for (int i = t->n_batch - 1; i >= 0; i--) {
    const int kind = below(4); /* 0: b repeats, 1: a repeats, 2: summed, 3: all its own */
    const int64_t s = t->batch[i] = below(8) ? 1 + below(4) : 0;
    if (kind != 1) t->a_batch[i] = step_a, room_a += s * step_a, step_a *= s ? s : 1;
    if (kind != 0) t->b_batch[i] = step_b, room_b += s * step_b, step_b *= s ? s : 1;
    if (kind != 2) t->c_batch[i] = step_c, step_c *= s ? s : 1;
  }
  t->alpha = below(2) ? 1 : 0.375;
  t->add = below(3) == 0;
  t->bias = below(3) == 0 ? bias : NULL;
  return room_a < ROOM && room_b < ROOM && step_c + t->m * t->c_row < ROOM && t->n <= BIAS;
}

static void multiply(const alk_matmul_task *t) {
  alk_matmul_any(&(alk_place){.dtype = t->dtype, .threads = al_threads()}, t);
}

static void compare(const alk_matmul_task *t, int seed) {
  const double mark = t->add ? 0.5 : NAN; /* NAN: whatever C held must not show */
  for (int64_t i = 0; i < ROOM; i++) put(got, i, t->dtype, mark);
  multiply(t);
  const double limit =
      t->dtype == ALK_F64 ? 1e-12 : 1e-4; /* sums of at most 4 x 300 products below 1/4 */
  for (int64_t i = 0; i < ROOM; i++) {
    const double g = get(got, i, t->dtype);
    if (touched[i] ? fabs(g - want[i]) <= limit : t->add ? g == 0.5 : isnan(g)) continue;
    ck_abort_msg("case %d (%s, m %d n %d k %d, %d batch axes): c[%d] = %.9g, %.9g needed", seed,
                 t->dtype == ALK_F64 ? "f64" : "f32", (int)t->m, (int)t->n, (int)t->k, t->n_batch,
                 (int)i, g, touched[i] ? want[i] : mark);
  }
}

static void many(int from, int to, int most) {
  for (int seed = from; seed < to; seed++) {
    alk_matmul_task t;
    state = (uint64_t)seed;
    if (!draw_task(&t, most)) continue;
    for (int i = 0; i < ROOM; i++)
      put(a, i, t.dtype, below(1024) / 1024.0 - 0.5),
          put(b, i, t.dtype, below(1024) / 1024.0 - 0.5);
    for (int i = 0; i < BIAS; i++) put(bias, i, t.dtype, below(1024) / 1024.0);
    reference(&t);
    al_set_threads(1 + seed % 3);
    compare(&t, seed);
  }
}

START_TEST(small_products) { many(0, 300, 20); }
END_TEST
START_TEST(large_products) { many(1000, 1040, 300); }
END_TEST

/* The kernel may be called by the threads of a caller: each product then runs on its own thread. */
START_TEST(inside_a_parallel_region) {
  enum { N = 64 };
  for (int i = 0; i < ROOM; i++) put(a, i, ALK_F32, i % 7), put(b, i, ALK_F32, i % 5);
  al_set_threads(2);
#pragma omp parallel for
  for (int e = 0; e < 8; e++) {
    const alk_matmul_task t = {.dtype = ALK_F32,
                               .m = N,
                               .n = N,
                               .k = N,
                               .a = (float *)a + e * N * N,
                               .b = (float *)b + e * N * N,
                               .c = (float *)got + e * N * N,
                               .a_row = N,
                               .a_col = 1,
                               .b_row = N,
                               .b_col = 1,
                               .c_row = N,
                               .alpha = 1};
    multiply(&t);
  }
  for (int e = 0; e < 8; e++)
    for (int i = 0; i < N * N; i += 37) {
      double s = 0; /* small integers: exact in f32 */
      for (int p = 0; p < N; p++)
        s +=
            get(a, e * N * N + i / N * N + p, ALK_F32) * get(b, e * N * N + p * N + i % N, ALK_F32);
      ck_assert_double_eq(get(got, e * N * N + i, ALK_F32), s);
    }
}
END_TEST

START_TEST(names_its_library) { ck_assert_uint_gt(strlen(alk_matmul_version()), 5); }
END_TEST

Suite *suite_test_matmul(void);
Suite *suite_test_matmul(void) {
  Suite *s = suite_create("matmul");
  TCase *t = tcase_create("matmul");
  tcase_set_timeout(t, 300);
  tcase_add_test(t, small_products);
  tcase_add_test(t, large_products);
  tcase_add_test(t, inside_a_parallel_region);
  tcase_add_test(t, names_its_library);
  suite_add_tcase(s, t);
  return s;
}
