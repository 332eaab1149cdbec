/* test_visible.c: scores, weights, mix, visible_max and visible_count against plain loops in f64,
 * and the rule that nothing hidden is read: equal bit for bit when it holds NaN or inf. */
#include "../core/attnlab.h"
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

Suite *suite_test_visible(void);

static al_ctx *c;

static void begin(void) { c = al_ctx_new(); }
static void end(void) {
  ck_assert_msg(al_error(c) == AL_OK, "%s", al_error_message(c, NULL, NULL));
  ck_assert_int_eq(al_memory(c).live, 0);
  al_ctx_free(c);
}

/* One attention: sizes and options. lengths[b] < 0: no lengths. */
typedef struct setting {
  int64_t B, T, S, H, Hkv, D;
  bool causal;
  int64_t offset, lengths[2];
  const char *f;
  int64_t Hd; /* heads of the decay; 0: none */
} setting;

static const setting settings[] = {
    {1, 1, 1, 1, 1, 1, false, 0, {-1}, "exp", 0},
    {2, 7, 5, 4, 2, 3, false, 0, {5, 2}, "exp", 0},
    {2, 7, 9, 4, 1, 3, true, 2, {-1}, "cosh", 4},
    {1, 63, 70, 2, 1, 33, true, 7, {-1}, "exp", 1},
    {2, 130, 257, 4, 2, 64, true, 127, {257, 140}, "exp", 2},
    {2, 100, 100, 2, 2, 17, true, 0, {63, 100}, "polynomial", 1},
    {1, 200, 150, 1, 1, 5, true, -37, {-1}, "exp", 1}, /* rows that see nothing; rows that see all
                                                        */
    {2, 67, 129, 2, 1, 48, true, 0, {0, 65}, "cosh", 0},
    {1, 31, 500, 1, 1, 300, false, 0, {-1}, "polynomial", 0},
    {2, 300, 300, 2, 2, 16, true, 0, {-1}, "exp", 0},
};
enum { N_SETTINGS = sizeof settings / sizeof settings[0] };

enum { Q, K, V, A, DY, N_IN }; /* inputs and the gradient of y */
enum { Y, DQ, DK, DV, DA, N_OUT };
static const char *const in_names[N_IN] = {"q", "k", "v", "a", "dy"};
static const char *const out_names[N_OUT] = {"y", "dq", "dk", "dv", "da"};

/* How input i lies: (B, rows, width). */
static void layout(const setting *x, int i, int64_t *rows, int64_t *width) {
  *rows = i == Q || i == DY ? x->T : x->S;
  *width = i == A ? x->Hd : (i == Q || i == DY ? x->H : x->Hkv) * x->D;
}
static int like_in(int out) { return (const int[]){DY, Q, K, V, A}[out]; }
static int64_t count(const setting *x, int i) {
  int64_t rows, width;
  layout(x, i, &rows, &width);
  return x->B * rows * width;
}

static al_tensor *make(const setting *x, int i, al_dtype t) {
  const int64_t H = i == Q || i == DY ? x->H : x->Hkv, rows = i == Q || i == DY ? x->T : x->S;
  const int64_t four[] = {x->B, rows, H, x->D}, three[] = {x->B, x->S, x->Hd};
  return i == A ? al_tensor_new(c, t, 3, three) : al_tensor_new(c, t, 4, four);
}

static al_tensor *make_lengths(const setting *x) {
  if (x->lengths[0] < 0) return NULL;
  return al_tensor_from(c, AL_I32, 1, &x->B,
                        (double[]){(double)x->lengths[0], (double)x->lengths[1]}, x->B);
}

typedef struct numbers {
  double *v[N_IN]; /* of inputs or, as many, of outputs */
} numbers;

static void drop(numbers *n) {
  for (size_t i = 0; i < sizeof n->v / sizeof n->v[0]; i++) free(n->v[i]);
}

/* Inputs, exact in f32; decay in (-0.2, 0). */
static numbers draw(const setting *x) {
  numbers n = {0};
  for (int i = 0; i < N_IN; i++) {
    const int64_t k = count(x, i);
    al_tensor *t = al_tensor_new(c, AL_F32, 1, &k);
    if (i == A) al_fill_uniform(t, al_stream(1, in_names[i]), -0.2, 0);
    else al_fill_normal(t, al_stream(1, in_names[i]), 0, 1);
    n.v[i] = malloc((size_t)(k + 1) * sizeof(double));
    al_read(t, n.v[i], k);
    al_release(t);
  }
  return n;
}

static double scale_of(const setting *x) { return 1 / sqrt((double)x->D); }

/* y and the gradients of sum(y dy), by the ops. */
static numbers run(const setting *x, al_dtype t, const numbers *in) {
  numbers out = {0};
  al_tensor *p[N_IN] = {0};
  al_scope_begin(c);
  for (int i = 0; i < N_IN; i++) {
    if (i == A && !x->Hd) continue;
    p[i] = make(x, i, t);
    al_write(p[i], in->v[i], count(x, i));
    if (i != DY) al_requires_grad(p[i], true);
  }
  char vis[80];
  snprintf(vis, sizeof vis, "causal=%s offset=%lld", x->causal ? "true" : "false",
           (long long)x->offset);
  const bool polynomial = x->f[0] == 'p';
  al_tensor *lengths = make_lengths(x);
  al_tensor *s =
      al_run(c, "scores", AL_IN(p[Q], p[K], lengths), "scale=%.17g %s", scale_of(x), vis);
  al_tensor *m = polynomial ? NULL
                            : al_run(c, "visible_max", AL_IN(s, p[A], lengths), "%s abs=%s", vis,
                                     x->f[0] == 'c' ? "true" : "false");
  al_tensor *w = al_run(c, "weights", AL_IN(s, m, p[A], NULL, lengths), "f=%s %s%s", x->f, vis,
                        polynomial ? " coefficients={0.5,1,0.25}" : "");
  al_tensor *y = al_run(c, "mix", AL_IN(w, p[V], lengths), "%s", vis);
  ck_assert_msg(y != NULL, "%s", al_error_message(c, NULL, NULL));
  ck_assert_int_eq(al_backward(c, y, p[DY]), AL_OK);
  for (int o = 0; o < N_OUT; o++) {
    al_tensor *r = o == Y ? y : p[like_in(o)] ? al_grad(p[like_in(o)]) : NULL;
    const int64_t n = count(x, like_in(o));
    out.v[o] = calloc((size_t)(n + 1), sizeof(double));
    if (r) al_read(r, out.v[o], n);
  }
  al_scope_end(c, NULL);
  return out;
}

/* ---- the same by plain loops ---- */

static int64_t keys_of(const setting *x, int64_t b, int64_t i) {
  int64_t n = x->lengths[0] < 0 ? x->S : x->lengths[b];
  if (x->causal && n > i + x->offset + 1) n = i + x->offset + 1;
  return n > 0 ? n : 0;
}

static double f_of(const setting *x, double s, double *slope) {
  if (x->f[0] == 'e') return *slope = exp(s);
  if (x->f[0] == 'c') return *slope = sinh(s), cosh(s);
  *slope = 1 + 0.5 * s;
  return 0.5 + s + 0.25 * s * s;
}

static double max_of(const setting *x, int64_t n, const double *s, const double *log_a) {
  double m = -INFINITY;
  for (int64_t j = 0; j < n; j++) m = fmax(m, (x->f[0] == 'c' ? fabs(s[j]) : s[j]) + log_a[j]);
  return n > 0 && x->f[0] != 'p' ? m : 0;
}

static numbers loops(const setting *x, const numbers *in) {
  numbers out = {0};
  for (int o = 0; o < N_OUT; o++)
    out.v[o] = calloc((size_t)(count(x, like_in(o)) + 1), sizeof(double));
  double *s = calloc((size_t)x->S + 1, sizeof *s), *log_a = calloc((size_t)x->S + 1, sizeof *s);
  for (int64_t b = 0; b < x->B; b++)
    for (int64_t h = 0; h < x->H; h++)
      for (int64_t i = 0; i < x->T; i++) {
        const int64_t n = keys_of(x, b, i), hk = h / (x->H / x->Hkv), D = x->D;
        const int64_t hd = x->Hd ? h / (x->H / x->Hd) : 0, row = ((b * x->T + i) * x->H + h) * D;
        for (int64_t j = n - 1; j >= 0; j--) {
          const int64_t key = ((b * x->S + j) * x->Hkv + hk) * D;
          s[j] = 0;
          for (int64_t d = 0; d < D; d++)
            s[j] += scale_of(x) * in->v[Q][row + d] * in->v[K][key + d];
          log_a[j] =
              j == n - 1 || !x->Hd ? 0 : log_a[j + 1] + in->v[A][(b * x->S + j + 1) * x->Hd + hd];
        }
        const double m = max_of(x, n, s, log_a);
        for (int64_t j = 0; j < n; j++) {
          const int64_t key = ((b * x->S + j) * x->Hkv + hk) * D;
          double slope, w = f_of(x, s[j], &slope) * exp(log_a[j] - m), dw = 0;
          slope *= exp(log_a[j] - m);
          for (int64_t d = 0; d < D; d++) {
            out.v[Y][row + d] += w * in->v[V][key + d];
            out.v[DV][key + d] += w * in->v[DY][row + d];
            dw += in->v[DY][row + d] * in->v[V][key + d];
          }
          for (int64_t d = 0; d < D; d++) {
            out.v[DQ][row + d] += scale_of(x) * slope * dw * in->v[K][key + d];
            out.v[DK][key + d] += scale_of(x) * slope * dw * in->v[Q][row + d];
          }
          for (int64_t r = j + 1; x->Hd && r < n; r++)
            out.v[DA][(b * x->S + r) * x->Hd + hd] += w * dw;
        }
      }
  free(s);
  free(log_a);
  return out;
}

static double ratio(int64_t n, const double *a, const double *b) {
  double d = 0, z = 0;
  for (int64_t i = 0; i < n; i++) d += (a[i] - b[i]) * (a[i] - b[i]), z += b[i] * b[i];
  return d == 0 ? 0 : sqrt(d / z);
}

static void agrees(int index, al_dtype t, double limit) {
  const setting *x = &settings[index];
  numbers in = draw(x), got = run(x, t, &in), want = loops(x, &in);
  for (int o = 0; o < N_OUT; o++) {
    const double e = ratio(count(x, like_in(o)), got.v[o], want.v[o]);
    ck_assert_msg(e <= limit, "setting %d: %s differs by %.3g from the loops, at most %.1g allowed",
                  index, out_names[o], e, limit);
  }
  drop(&in);
  drop(&got);
  drop(&want);
}

START_TEST(f64_agrees_with_loops) { agrees(_i, AL_F64, 1e-13); }
END_TEST
/* Sums of up to 500 rounded terms, exponents rounded at about 3: a few 1e-7. */
START_TEST(f32_agrees_with_loops) { agrees(_i, AL_F32, 1e-6); }
END_TEST

/* ---- poison ---- */

static const double poisons[] = {NAN, INFINITY, -INFINITY};

/* Rows [from, to) of batch row b, or of all where b < 0. */
static void poison(const setting *x, numbers *in, int i, int64_t b, int64_t from, int64_t to,
                   double v) {
  int64_t rows, width;
  layout(x, i, &rows, &width);
  for (int64_t n = 0; n < x->B; n++)
    for (int64_t r = from < 0 ? 0 : from; (b < 0 || n == b) && r < to && r < rows; r++)
      for (int64_t d = 0; d < width; d++) in->v[i][(n * rows + r) * width + d] = v;
}

static void same(const setting *x, const char *what, const numbers *a, const numbers *z, int o,
                 int64_t b, int64_t from, int64_t to) {
  int64_t rows, width;
  layout(x, like_in(o), &rows, &width);
  for (int64_t n = 0; n < x->B; n++)
    for (int64_t r = from < 0 ? 0 : from; (b < 0 || n == b) && r < to && r < rows; r++)
      ck_assert_msg(memcmp(a->v[o] + (n * rows + r) * width, z->v[o] + (n * rows + r) * width,
                           (size_t)width * sizeof(double)) == 0,
                    "setting %d: %s poisoned: %s changed in batch row %lld, row %lld",
                    (int)(x - settings), what, out_names[o], (long long)n, (long long)r);
}

static numbers copy(const setting *x, const numbers *in) {
  numbers n = {0};
  for (int i = 0; i < N_IN; i++) {
    const size_t bytes = (size_t)(count(x, i) + 1) * sizeof(double);
    n.v[i] = memcpy(malloc(bytes), in->v[i], bytes);
  }
  return n;
}

/* Everything after row t and its last key; what rows up to t give must not change. */
static void future(const setting *x, al_dtype dt, const numbers *in, const numbers *clean,
                   int64_t t, double v) {
  const int64_t key = t + x->offset + 1;
  numbers bad = copy(x, in);
  for (int i = 0; i < N_IN; i++)
    poison(x, &bad, i, -1, i == Q || i == DY ? t + 1 : key, INT64_MAX, v);
  numbers got = run(x, dt, &bad);
  same(x, "the future", clean, &got, Y, -1, 0, t + 1);
  same(x, "the future", clean, &got, DQ, -1, 0, t + 1);
  drop(&bad);
  drop(&got);
}

/* Rows before t: keys that only later rows see keep their gradient. */
static void past_rows(const setting *x, al_dtype dt, const numbers *in, const numbers *clean,
                      int64_t t, double v) {
  numbers bad = copy(x, in);
  poison(x, &bad, Q, -1, 0, t, v);
  poison(x, &bad, DY, -1, 0, t, v);
  numbers got = run(x, dt, &bad);
  same(x, "earlier rows", clean, &got, DK, -1, t + x->offset, INT64_MAX);
  same(x, "earlier rows", clean, &got, DV, -1, t + x->offset, INT64_MAX);
  same(x, "earlier rows", clean, &got, Y, -1, t, INT64_MAX);
  drop(&bad);
  drop(&got);
}

static void padding(const setting *x, al_dtype dt, const numbers *in, const numbers *clean,
                    double v) {
  numbers bad = copy(x, in);
  for (int64_t b = 0; b < x->B; b++)
    for (int i = K; i <= A; i++) poison(x, &bad, i, b, x->lengths[b], INT64_MAX, v);
  numbers got = run(x, dt, &bad);
  for (int o = 0; o < N_OUT; o++) same(x, "padding", clean, &got, o, -1, 0, INT64_MAX);
  drop(&bad);
  drop(&got);
}

static void other_batch_row(const setting *x, al_dtype dt, const numbers *in, const numbers *clean,
                            double v) {
  numbers bad = copy(x, in);
  for (int i = 0; i < N_IN; i++) poison(x, &bad, i, 1, 0, INT64_MAX, v);
  numbers got = run(x, dt, &bad);
  for (int o = 0; o < N_OUT; o++) same(x, "another batch row", clean, &got, o, 0, 0, INT64_MAX);
  drop(&bad);
  drop(&got);
}

START_TEST(nothing_hidden_is_read) {
  const setting *x = &settings[_i];
  numbers in = draw(x);
  for (int d = 0; d < 2; d++) {
    const al_dtype dt = d ? AL_F32 : AL_F64;
    numbers clean = run(x, dt, &in);
    for (int p = 0; p < (dt == AL_F32 ? 3 : 1); p++) {
      const double v = poisons[p];
      if (x->causal)
        for (int64_t t = 0; t < x->T; t += 1 + x->T / 3) future(x, dt, &in, &clean, t, v);
      if (x->causal)
        for (int64_t t = 1; t < x->T; t += 1 + x->T / 3) past_rows(x, dt, &in, &clean, t, v);
      if (x->lengths[0] >= 0) padding(x, dt, &in, &clean, v);
      if (x->B > 1) other_batch_row(x, dt, &in, &clean, v);
    }
    drop(&clean);
  }
  drop(&in);
}
END_TEST

START_TEST(threads_do_not_matter) {
  const setting *x = &settings[_i];
  const int threads = al_threads();
  numbers in = draw(x);
  al_set_threads(1);
  numbers one = run(x, AL_F32, &in);
  al_set_threads(3);
  numbers three = run(x, AL_F32, &in);
  al_set_threads(threads);
  for (int o = 0; o < N_OUT; o++)
    same(x, "the number of threads", &one, &three, o, -1, 0, INT64_MAX);
  drop(&in);
  drop(&one);
  drop(&three);
}
END_TEST

/* The (T,S) matrices themselves: hidden entries of s, w and their gradients may hold anything. */
START_TEST(hidden_entries_are_not_read) {
  enum { B = 2, H = 2, T = 37, S = 50, D = 19, N = B * H * T * S };
  const int64_t ms[] = {B, H, T, S}, vs[] = {B, S, H, D}, lens[] = {B};
  double *v = malloc(N * sizeof *v), *got[2][4];
  const al_dtype dt = _i ? AL_F32 : AL_F64;
  for (int bad = 0; bad < 2; bad++) {
    al_scope_begin(c);
    al_tensor *m = al_tensor_new(c, dt, 4, ms), *dm = al_tensor_new(c, dt, 4, ms);
    al_tensor *x = al_tensor_new(c, dt, 4, vs),
              *lengths = al_tensor_from(c, AL_I32, 1, lens, (double[]){50, 41}, B);
    al_tensor *pair[] = {m, dm};
    al_fill_normal(x, 7, 0, 1);
    for (int i = 0; i < 2; i++) {
      al_fill_normal(pair[i], (uint64_t)i, 0, 1);
      al_read(pair[i], v, N);
      for (int64_t n = 0; bad && n < N; n++) {
        const int64_t j = n % S, row = n / S % T, b = n / S / T / H;
        if (j > row + 5 || j >= (b ? 41 : 50)) v[n] = poisons[n % 3];
      }
      al_write(pair[i], v, N);
    }
    al_requires_grad(m, true);
    al_tensor *w = al_run(c, "weights", AL_IN(m, NULL, NULL, NULL, lengths),
                          "causal=true offset=5 f=cosh softcap=3");
    al_tensor *top = al_run(c, "visible_max", AL_IN(m, NULL, lengths), "causal=true offset=5");
    al_tensor *y = al_run(c, "mix", AL_IN(m, x, lengths), "causal=true offset=5");
    ck_assert_int_eq(al_backward(c, w, dm), AL_OK);
    al_tensor *out[] = {w, top, y, al_grad(m)};
    for (int i = 0; i < 4; i++) {
      const int64_t n = al_numel(out[i]);
      got[bad][i] = malloc((size_t)n * sizeof(double));
      al_read(out[i], got[bad][i], n);
      if (bad)
        ck_assert_msg(memcmp(got[0][i], got[1][i], (size_t)n * sizeof(double)) == 0,
                      "output %d changed", i);
    }
    al_scope_end(c, NULL);
  }
  for (int i = 0; i < 8; i++) free(got[i / 4][i % 4]);
  free(v);
}
END_TEST

/* ---- single facts ---- */

START_TEST(rows_without_keys_are_zero) {
  const setting none = {2, 9, 8, 2, 1, 5, true, -4, {0, 3}, "exp", 1};
  numbers in = draw(&none), got = run(&none, AL_F32, &in);
  int64_t rows, width;
  for (int o = 0; o < N_OUT; o++) {
    layout(&none, like_in(o), &rows, &width);
    for (int64_t n = 0; n < none.B * rows * width; n++) {
      const int64_t b = n / width / rows, r = n / width % rows;
      const bool seen = b == 1 && (o == Y || o == DQ ? r >= 4 : r < 3);
      ck_assert_msg(isfinite(got.v[o][n]), "%s[%lld]", out_names[o], (long long)n);
      ck_assert_msg(seen || got.v[o][n] == 0, "%s: batch row %lld, row %lld is not 0", out_names[o],
                    (long long)b, (long long)r);
    }
  }
  drop(&in);
  drop(&got);
}
END_TEST

/* Linear attention with decay: the gradient of a_i is the sum over r >= i of dy_r.y_r - dv_r.v_r,
 * since row r of E sums to the first and column r to the second (papers A.9). */
START_TEST(decay_gradient_from_row_products) {
  enum { B = 1, T = 45, D = 7 };
  const int64_t qs[] = {B, T, 1, D}, as[] = {B, T, 1};
  double y[T * D], v[T * D], dy[T * D], dv[T * D], da[T], sum = 0, worst = 0;
  al_scope_begin(c);
  al_tensor *x[4];
  for (int i = 0; i < 4; i++)
    x[i] = al_tensor_new(c, AL_F64, 4, qs), al_fill_normal(x[i], (uint64_t)i, 0, 1);
  al_tensor *a = al_tensor_new(c, AL_F64, 3, as);
  al_fill_uniform(a, 9, -0.5, 0);
  al_requires_grad(a, true);
  al_requires_grad(x[2], true);
  al_tensor *s = al_run(c, "scores", AL_IN(x[0], x[1]), "causal=true");
  al_tensor *w =
      al_run(c, "weights", AL_IN(s, NULL, a), "causal=true f=polynomial coefficients={0,1}");
  al_tensor *out = al_run(c, "mix", AL_IN(w, x[2]), "causal=true");
  ck_assert_int_eq(al_backward(c, out, x[3]), AL_OK);
  al_read(out, y, T * D);
  al_read(x[2], v, T * D);
  al_read(x[3], dy, T * D);
  al_read(al_grad(x[2]), dv, T * D);
  al_read(al_grad(a), da, T);
  for (int64_t i = T - 1; i >= 0; i--) {
    for (int d = 0; d < D; d++) sum += dy[i * D + d] * y[i * D + d] - dv[i * D + d] * v[i * D + d];
    worst = fmax(worst, fabs(sum - da[i]) / (1 + fabs(sum)));
  }
  ck_assert_msg(worst < 1e-12, "off by %.3g", worst);
  ck_assert_double_lt(fabs(da[0]), 1e-9); /* no weight depends on the first step */
  al_scope_end(c, NULL);
}
END_TEST

static double weight_at(const char *options, double s0, double s1, double reference, int at) {
  const int64_t ss[] = {1, 1, 1, 2}, ms[] = {1, 1, 1};
  double w[2] = {0};
  al_scope_begin(c);
  al_tensor *s = al_tensor_from(c, AL_F32, 4, ss, (double[]){s0, s1}, 2);
  al_tensor *m = isnan(reference) ? NULL : al_tensor_from(c, AL_F32, 3, ms, &reference, 1);
  al_tensor *y = al_run(c, "weights", AL_IN(s, m), "%s", options);
  if (y) al_read(y, w, 2);
  al_scope_end(c, NULL);
  return w[at];
}

START_TEST(options_of_weights) {
  const double tol = 3e-7;
  ck_assert_double_eq_tol(weight_at("f=cosh", -1e4, 9999, 1e4, 0), 0.5, tol);
  ck_assert_double_eq_tol(weight_at("f=cosh", -1e4, 9999, 1e4, 1), 0.5 * exp(-1), tol);
  ck_assert_double_eq_tol(weight_at("f=cosh", 0, 0.5, NAN, 1), cosh(0.5), tol * 2);
  ck_assert_double_eq(weight_at("", 1e4, -1e4, 1e4, 0), 1);
  ck_assert_double_eq(weight_at("", 1e4, -1e4, 1e4, 1), 0);
  ck_assert_double_eq_tol(weight_at("clamp=2", 7, 1, NAN, 0), exp(2), tol * 8);
  ck_assert_double_eq_tol(weight_at("clamp=0", -3, 1, NAN, 0), exp(-3), tol);
  ck_assert_double_eq_tol(weight_at("softcap=2 clamp=1.5", 1.5, 9, NAN, 0), exp(2 * tanh(0.75)),
                          tol * 4);
  ck_assert_double_eq_tol(weight_at("softcap=2 clamp=1.5", 1.5, 9, NAN, 1), exp(1.5), tol * 5);
  ck_assert_double_eq(
      weight_at("f=polynomial coefficients={0,1} round_bf16=true", 1.00390625, 1, NAN, 0), 1);
  ck_assert_double_eq(weight_at("f=polynomial coefficients={0,1} round_bf16=true", 1.01, 1, NAN, 0),
                      1.0078125);
  ck_assert_double_eq(weight_at("f=polynomial coefficients=3", 5, 5, NAN, 1), 3);
  ck_assert_double_eq_tol(weight_at("f=polynomial coefficients={1,0.5,0,2}", -2, 1, NAN, 0), -16,
                          1e-6);
}
END_TEST

START_TEST(long_decay_keeps_its_precision) { /* f32 sums of a would be off by 3e-4 here */
  enum { T = 4000 };
  const int64_t ss[] = {1, 1, 1, T}, as[] = {1, T, 1};
  al_scope_begin(c);
  al_tensor *s = al_tensor_full(c, AL_F32, 4, ss, 0), *a = al_tensor_full(c, AL_F32, 3, as, -1.75);
  al_tensor *w = al_run(c, "weights", AL_IN(s, NULL, a), "causal=true offset=%d", T - 1);
  double v[T];
  al_read(w, v, T);
  ck_assert_double_eq(v[T - 1], 1);
  ck_assert_double_eq_tol(v[T - 5] / exp(-7), 1, 3e-7);
  ck_assert_double_eq(v[0], 0);
  al_scope_end(c, NULL);
}
END_TEST

START_TEST(counts) {
  const int64_t xs[] = {2, 3, 4}, n = 2;
  double v[6];
  al_scope_begin(c);
  al_tensor *x = al_tensor_full(c, AL_F32, 3, xs, 0);
  al_tensor *lengths = al_tensor_from(c, AL_I32, 1, &n, (double[]){5, 2}, 2);
  al_read(al_run(c, "visible_count", AL_IN(x, lengths), "causal=true offset=1 keys=5"), v, 6);
  const double causal[] = {2, 3, 4, 2, 2, 2};
  for (int i = 0; i < 6; i++) ck_assert_double_eq(v[i], causal[i]);
  al_read(al_run(c, "visible_count", AL_IN(x), "causal=true offset=-2"), v, 6);
  const double late[] = {0, 0, 1, 0, 0, 1};
  for (int i = 0; i < 6; i++) ck_assert_double_eq(v[i], late[i]);
  al_tensor *before = al_tensor_from(c, AL_I32, 1, &n, (double[]){7, 0}, 2);
  al_read(al_run(c, "visible_count", AL_IN(x, lengths, before), "causal=true keys=5"), v, 6);
  const double more[] = {8, 9, 10, 1, 2, 2};
  for (int i = 0; i < 6; i++) ck_assert_double_eq(v[i], more[i]);
  al_scope_end(c, NULL);
}
END_TEST

static void refused(const char *op, al_tensor *const *in, int n, const char *options,
                    const char *text) {
  al_tensor *y = al_run(c, op, in, n, "%s", options);
  const char *message = al_error_message(c, NULL, NULL);
  ck_assert_msg(!y && al_error(c) != AL_OK, "%s %s: not refused", op, options);
  ck_assert_msg(strstr(message, text) != NULL, "'%s' expected in: %s", text, message);
  al_error_clear(c);
}

START_TEST(refusals) {
  const int64_t ss[] = {2, 4, 3, 5}, ms[] = {2, 4, 3}, as[] = {2, 5, 2}, a3[] = {2, 5, 3}, two = 2,
                three = 3;
  const int64_t qs[] = {2, 3, 4, 6}, ks[] = {2, 5, 3, 6}, k7[] = {2, 5, 2, 7};
  al_scope_begin(c);
  al_tensor *s = al_tensor_full(c, AL_F32, 4, ss, 0), *m = al_tensor_full(c, AL_F32, 3, ms, 0);
  al_tensor *a = al_tensor_full(c, AL_F32, 3, as, 0), *bad = al_tensor_full(c, AL_F32, 3, a3, 0);
  al_tensor *long_rows = al_tensor_from(c, AL_I32, 1, &two, (double[]){5, 6}, 2);
  al_tensor *n3 = al_tensor_full(c, AL_I32, 1, &three, 1),
            *c3 = al_tensor_full(c, AL_F32, 1, &three, 1);
  al_tensor *q = al_tensor_full(c, AL_F32, 4, qs, 0);
  refused("weights", AL_IN(s, NULL, a), "", "causal=true needed");
  refused("weights", AL_IN(s, NULL, bad), "causal=true", "divides the 4");
  refused("weights", AL_IN(s, m), "f=polynomial coefficients={0,1}", "reference");
  refused("weights", AL_IN(s, a), "", "(2,4,3)");
  refused("weights", AL_IN(s), "f=polynomial", "coefficients: the option or the input needed");
  refused("weights", AL_IN(s, NULL, NULL, c3), "f=polynomial coefficients={1,2}", "(3)");
  refused("weights", AL_IN(s, NULL, NULL, c3), "", "f=exp");
  refused("weights", AL_IN(s), "softcap=0", "above 0");
  refused("weights", AL_IN(s), "clamp=true", "false or a number");
  refused("weights", AL_IN(s, NULL, NULL, NULL, long_rows), "", "got 6 at position 1 of ");
  refused("weights", AL_IN(s, NULL, NULL, NULL, n3), "", "shape (2) needed");
  refused("visible_max", AL_IN(s, a), "", "causal=true needed");
  refused("scores", AL_IN(q, al_tensor_full(c, AL_F32, 4, ks, 0)), "", "divides the 4");
  refused("scores", AL_IN(q, al_tensor_full(c, AL_F32, 4, k7, 0)), "", "(2,S,Hkv,6)");
  refused("scores", AL_IN(q, m), "", "(B,S,Hkv,D)");
  refused("mix", AL_IN(s, q), "", "(2,5,Hkv,E)");
  al_scope_end(c, NULL);
}
END_TEST

Suite *suite_test_visible(void) {
  Suite *s = suite_create("visible");
  TCase *t = tcase_create("visible");
  tcase_add_checked_fixture(t, begin, end);
  tcase_add_loop_test(t, f64_agrees_with_loops, 0, N_SETTINGS);
  tcase_add_loop_test(t, f32_agrees_with_loops, 0, N_SETTINGS);
  tcase_add_loop_test(t, nothing_hidden_is_read, 0, N_SETTINGS);
  tcase_add_loop_test(t, threads_do_not_matter, 0, N_SETTINGS);
  tcase_add_loop_test(t, hidden_entries_are_not_read, 0, 2);
  tcase_add_test(t, rows_without_keys_are_zero);
  tcase_add_test(t, decay_gradient_from_row_products);
  tcase_add_test(t, options_of_weights);
  tcase_add_test(t, long_decay_keeps_its_precision);
  tcase_add_test(t, counts);
  tcase_add_test(t, refusals);
  suite_add_tcase(s, t);
  return s;
}
