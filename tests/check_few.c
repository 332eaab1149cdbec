/* check_few.c: attend of a few rows (a token that is decoded) against the same rows among many, which
 * go another way through the kernel: every f, statistic and limit, with decay, value scales, a
 * program, lengths with NaN behind them, and no number of threads that counts. */
#include "pretended/device.h"
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { B = 2, S = 300, AT = 290, H = 4 };

static const struct {
  const char *options;
  int64_t Hkv, D, E;
  bool decay, scale, program;
} cases[] = {
    {"normalise=true", 4, 16, 32, .decay = false},
    {"", 2, 7, 5, .decay = true},
    {"normalise=true softcap=2 clamp=1.5", 1, 32, 32, .scale = true},
    {"f=cosh stat=l2", 4, 64, 64, .decay = true},
    {"f=cosh stat=abs scale=3", 2, 64, 33, .scale = true},
    {"f=polynomial coefficients={1,1,0.5} normalise=true", 4, 32, 64, .decay = true},
    {"f=polynomial coefficients={0,1,-0.3} stat=l2 feature_map=elu1", 2, 16, 16, .scale = true},
    {"f=polynomial stat=none feature_map=l2 coefficients={0.5,1}", 4, 16, 16, .scale = true},
    {"expr='t*s+j/i' expr_names=t normalise=true", 4, 16, 16, .program = true},
    {"expr='t*s' expr_names=t", 1, 64, 64, .decay = true, .program = true},
};

static al_ctx *c;

static al_tensor *normal(al_dtype dtype, const char *name, int n, const int64_t *shape) {
  al_tensor *t = al_tensor_new(c, AL_F32, n, shape);
  al_fill_normal(t, al_stream(5, name), 0, 1);
  return dtype == AL_F32 ? t : al_run(c, "cast", AL_IN(t), "dtype=f64");
}

/* NaN in what row 1 of the batch has at and after its length. */
static void spoil(al_tensor *t, int64_t length) {
  const int64_t row = al_numel(t) / (B * S);
  double *v = malloc((size_t)al_numel(t) * sizeof *v);
  al_read(t, v, al_numel(t));
  for (int64_t i = (S + length) * row; i < 2 * S * row; i++) v[i] = NAN;
  al_write(t, v, al_numel(t));
  free(v);
}

/* The rows [from, to) of q: y, W and m as doubles, (B,rows,H,E) and (B,H,rows). */
static void run(int i, al_tensor *const *in, int64_t from, int64_t to, double *y, double *W,
                double *m) {
  al_tensor *out[3];
  al_tensor *q = al_run(c, "slice", AL_IN(in[0]), "axis=1 start=%lld stop=%lld", (long long)from,
                        (long long)to);
  al_run_into(c, "attend", AL_IN(q, in[1], in[2], in[3], NULL, in[4], in[5], in[6]), out, 3,
              "causal=true offset=%lld %s", (long long)from, cases[i].options);
  ck_assert_msg(al_error(c) == AL_OK, "%s", al_error_message(c, NULL, NULL));
  al_read(out[0], y, al_numel(out[0]));
  al_read(out[1], W, al_numel(out[1]));
  al_read(out[2], m, al_numel(out[2]));
}

static void near(double got, double want, double size, double limit, const char *what, int i) {
  ck_assert_msg(fabs(got - want) <= limit * size, "%s: %s: %.17g, %.17g needed", cases[i].options,
                what, got, want);
}

START_TEST(few_rows_are_those_among_many) {
  const int i = _i / 2;
  const al_dtype dtype = _i & 1 ? AL_F64 : AL_F32;
  const double limit = dtype == AL_F64 ? 1e-12 : 2e-5;
  const int64_t Hkv = cases[i].Hkv, D = cases[i].D, E = cases[i].E;
  c = test_context();
  al_memory_poison(c, true);
  al_scope_begin(c);
  const double len[B] = {S, 131};
  al_tensor *in[] = {normal(dtype, "q", 4, (int64_t[]){B, S, H, D}),
                     normal(dtype, "k", 4, (int64_t[]){B, S, Hkv, D}),
                     normal(dtype, "v", 4, (int64_t[]){B, S, Hkv, E}),
                     NULL,
                     al_tensor_from(c, AL_I32, 1, (int64_t[]){B}, len, B),
                     NULL,
                     NULL};
  if (cases[i].decay)
    in[3] = al_run(c, "scale", AL_IN(normal(dtype, "a", 3, (int64_t[]){B, S, Hkv})), "by=0.01");
  if (cases[i].scale) in[5] = normal(dtype, "b", 3, (int64_t[]){B, S, Hkv});
  if (cases[i].program) in[6] = normal(dtype, "t", 2, (int64_t[]){1, H});
  for (int n = 1; n < 6; n++)
    if (in[n] && n != 4) spoil(in[n], 131);
  double *y = malloc(sizeof *y * B * S * H * (size_t)E), *W = malloc(sizeof *W * B * S * H),
         *m = malloc(sizeof *m * B * S * H);
  run(i, in, 0, S, y, W, m);
  double yf[2][2 * B * H * 64], Wf[2][2 * B * H], mf[2][2 * B * H];
  const int threads = al_threads();
  for (int64_t rows = 1; rows <= 2; rows++) {
    for (int n = 0; n < 2; n++) {
      al_set_threads(n ? 7 : 1);
      run(i, in, AT, AT + rows, yf[n], Wf[n], mf[n]);
    }
    al_set_threads(threads);
    ck_assert_msg(memcmp(yf[0], yf[1], sizeof *yf[0] * (size_t)(B * rows * H * E)) == 0,
                  "%s: threads count", cases[i].options);
    for (int64_t b = 0; b < B; b++)
      for (int64_t h = 0; h < H; h++)
        for (int64_t r = 0; r < rows; r++) {
          const int64_t f = (b * H + h) * rows + r, w = (b * H + h) * S + AT + r;
          double size = 1e-3;
          for (int64_t e = 0; e < E; e++)
            size = fmax(size, fabs(y[((b * S + AT + r) * H + h) * E + e]));
          near(mf[0][f], m[w], 1 + fabs(m[w]), limit, "m", i);
          near(Wf[0][f], W[w], 1 + fabs(W[w]), 10 * limit, "W", i);
          for (int64_t e = 0; e < E; e++)
            near(yf[0][((b * rows + r) * H + h) * E + e], y[((b * S + AT + r) * H + h) * E + e],
                 size, 10 * limit, "y", i);
        }
  }
  free(y);
  free(W);
  free(m);
  al_scope_end(c, NULL);
  ck_assert_int_eq(al_memory(c).live, 0);
  al_ctx_free(c);
}
END_TEST

Suite *suite_check_few(void);
Suite *suite_check_few(void) {
  Suite *s = suite_create("attend: few rows");
  TCase *t = tcase_create("few");
  tcase_set_timeout(t, 60);
  tcase_add_loop_test(t, few_rows_are_those_among_many, 0, 2 * (int)(sizeof cases / sizeof *cases));
  suite_add_tcase(s, t);
  return s;
}
