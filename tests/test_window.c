/* test_window.c: the keys of a row are a range (kernels/visible.h). Every kernel with a window gives
 * what the same kernel without one gives for each row alone, whose keys are all there are; on every
 * device, in all its types. */
#include "../core/op.h"
#include "../kernels/attn.h"
#include "pretended/device.h"
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { B = 2, H = 4, Hkv = 2, MOST = 700 };
static int64_t D, E; /* of the case */

static uint64_t state;
static double next(void) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (double)(state >> 11) / 9007199254740992.0 - 0.5;
}
static double *numbers(int64_t n) {
  double *x = malloc((size_t)(n + 1) * sizeof *x);
  for (int64_t i = 0; i < n; i++) x[i] = next();
  return x;
}
static double *zeros(int64_t n) { return calloc((size_t)(n + 1), sizeof(double)); }

static double limit; /* of a type */
/* Check writes a file for each assertion that holds: too dear for each number. */
static void near(const char *what, int64_t n, const double *got, const double *want) {
  for (int64_t i = 0; i < n; i++)
    if (!(fabs(got[i] - want[i]) <= limit * (1 + fabs(want[i]))))
      ck_abort_msg("%s, number %d: %.17g, %.17g needed", what, (int)i, got[i], want[i]);
}

static alk_place at(void) { return (alk_place){.dtype = ALK_F64, .threads = 3}; }

typedef struct tensors { /* kernels/attn.h has the shapes; sums for Hd = 2 heads */
  double *q, *k, *v, *sums, *y, *W, *m, *dy, *dq, *dk, *dv, *dsums;
} tensors;

static void attend(const alk_attn_spec *a, const tensors *x, int threads) {
  const alk_place p = {.dtype = ALK_F64, .threads = threads};
  const int64_t bytes = alk_attn_fwd_room_f64(&p, a), more = alk_attn_bwd_room_f64(&p, a);
  void *room = malloc((size_t)(bytes > more ? bytes : more) + 8);
  alk_attn_fwd_f64(&p, a, x->q, x->k, x->v, NULL, a->weight.Hd ? x->sums : NULL, x->y, x->W, NULL,
                   x->m, room);
  const alk_attn_grad g = {.q = x->q,
                           .k = x->k,
                           .v = x->v,
                           .y = x->y,
                           .W = x->W,
                           .m = x->m,
                           .dy = x->dy,
                           .sums = a->weight.Hd ? x->sums : NULL,
                           .dq = x->dq,
                           .dk = x->dk,
                           .dv = x->dv,
                           .dsums = a->weight.Hd ? x->dsums : NULL};
  alk_attn_bwd_f64(&p, a, &g, room);
  free(room);
}

static tensors empty(int64_t b, int64_t T, int64_t S) {
  return (tensors){.y = zeros(b * T * H * E),
                   .W = zeros(b * T * H),
                   .m = zeros(b * T * H),
                   .dq = zeros(b * T * H * D),
                   .dk = zeros(b * S * Hkv * D),
                   .dv = zeros(b * S * Hkv * E),
                   .dsums = zeros(b * H * S)};
}
static void drop(tensors *x) {
  double *all[] = {x->y, x->W, x->m, x->dq, x->dk, x->dv, x->dsums};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

/* Rows one by one, each with its keys alone. */
static tensors by_rows(const alk_attn_spec *a, const tensors *x) {
  const int64_t T = a->g.T, S = a->g.S, Hd = a->weight.Hd;
  tensors r = empty(B, T, S);
  for (int64_t b = 0; b < B; b++)
    for (int64_t i = 0; i < T; i++) {
      const alk_range seen = alk_visible_keys(&a->g, b, i);
      const int64_t n = seen.to - seen.from, row = b * T + i, key = b * S + seen.from;
      alk_attn_spec one = *a;
      one.g = (alk_visible){.B = 1, .T = 1, .S = n, .H = H, .Hkv = Hkv, .offset = n - 1};
      one.g.causal = true;
      tensors o = empty(1, 1, n);
      double *sums = zeros(Hd * n);
      for (int64_t h = 0; h < Hd; h++)
        for (int64_t j = 0; j < n; j++) sums[h * n + j] = x->sums[(b * Hd + h) * S + seen.from + j];
      o.q = x->q + row * H * D, o.k = x->k + key * Hkv * D, o.v = x->v + key * Hkv * E;
      o.sums = sums, o.dy = x->dy + row * H * E;
      if (n) attend(&one, &o, 1);
      memcpy(r.y + row * H * E, o.y, sizeof(double) * (size_t)(H * E));
      memcpy(r.dq + row * H * D, o.dq, sizeof(double) * (size_t)(H * D));
      for (int64_t h = 0; h < H; h++) {
        r.W[(b * H + h) * T + i] = o.W[h], r.m[(b * H + h) * T + i] = o.m[h];
        for (int64_t j = 0; j < n; j++)
          r.dsums[(b * H + h) * S + seen.from + j] += o.dsums[h * n + j];
      }
      for (int64_t j = 0; j < n * Hkv * D; j++) r.dk[key * Hkv * D + j] += o.dk[j];
      for (int64_t j = 0; j < n * Hkv * E; j++) r.dv[key * Hkv * E + j] += o.dv[j];
      free(sums);
      drop(&o);
    }
  return r;
}

/* The same in parts: scores, their maximum, weights, sums with values, and back. */
static tensors composed(const alk_attn_spec *a, const tensors *x) {
  const int64_t T = a->g.T, S = a->g.S, n = B * H * T * S;
  const alk_place p = at();
  tensors r = empty(B, T, S);
  double *s = zeros(n), *w = zeros(n), *dw = zeros(n), *ds = zeros(n), *dN = zeros(B * T * H * E),
         *dW = zeros(B * H * T);
  const double *sums = a->weight.Hd ? x->sums : NULL;
  alk_visible_scores_f64(&p, &a->g, D, a->scale, x->q, x->k, s);
  if (a->weight.f == ALK_WEIGHT_EXP)
    alk_visible_max_f64(&p, &a->g, &a->weight, false, s, sums, r.m);
  alk_weights_fwd_f64(&p, &a->g, &a->weight, s, a->weight.f == ALK_WEIGHT_EXP ? r.m : NULL, sums,
                      w);
  alk_visible_gather_f64(&p, &a->g, E, 1, w, x->v, r.y);
  for (int64_t row = 0; row < B * H * T; row++) {
    const int64_t b = row / T / H, h = row / T % H, i = row % T, o = (b * T + i) * H + h;
    for (int64_t j = 0; j < S; j++) r.W[row] += w[row * S + j];
    const double by = r.W[row] == 0 ? 0 : 1 / r.W[row];
    double dot = 0;
    for (int64_t e = 0; e < E; e++) {
      r.y[o * E + e] *= by;
      dN[o * E + e] = x->dy[o * E + e] * by;
      dot += x->dy[o * E + e] * r.y[o * E + e];
    }
    dW[row] = -dot * by;
  }
  alk_visible_scores_f64(&p, &a->g, E, 1, dN, x->v, dw);
  for (int64_t row = 0; row < B * H * T; row++) {
    const alk_range seen = alk_visible_keys(&a->g, row / T / H, row % T);
    for (int64_t j = seen.from; j < seen.to; j++) dw[row * S + j] += dW[row];
  }
  alk_visible_scatter_f64(&p, &a->g, E, 1, w, dN, r.dv);
  alk_weights_bwd_f64(&p, &a->g, &a->weight, s, sums, w, dw, ds, r.dsums, NULL);
  alk_visible_gather_f64(&p, &a->g, D, a->scale, ds, x->k, r.dq);
  alk_visible_scatter_f64(&p, &a->g, D, a->scale, ds, x->q, r.dk);
  free(s), free(w), free(dw), free(ds), free(dN), free(dW);
  return r;
}

static void compare(const alk_attn_spec *a, const tensors *got, const tensors *want) {
  const int64_t T = a->g.T, S = a->g.S;
  near("W", B * H * T, got->W, want->W);
  near("y", B * T * H * E, got->y, want->y);
  near("dq", B * T * H * D, got->dq, want->dq);
  near("dk", B * S * Hkv * D, got->dk, want->dk);
  near("dv", B * S * Hkv * E, got->dv, want->dv);
  if (a->weight.Hd) near("dsums", B * H * S, got->dsums, want->dsums);
}

/* Tiles of cards have 32 or 64 rows and keys, a part of the keys of few rows 256. */
static const struct {
  int64_t T, S, offset, window;
  int32_t lengths[B];
  alk_weight f;
  int64_t Hd, D, E;
} cases[] = {{7, 7, 0, 3, {7, 5}, ALK_WEIGHT_EXP, 0, 5, 3},
             {150, 150, 0, 1, {150, 90}, ALK_WEIGHT_EXP, 2, 5, 3},
             {150, 150, 0, 70, {150, 149}, ALK_WEIGHT_POLYNOMIAL, 2, 5, 3},
             {100, 200, 100, 33, {200, 130}, ALK_WEIGHT_EXP, 2, 5, 3},
             {1, 200, 199, 17, {200, 190}, ALK_WEIGHT_EXP, 2, 5, 3},
             {2, 200, 198, 150, {200, 60}, ALK_WEIGHT_POLYNOMIAL, 0, 5, 3},
             {130, 64, -20, 9, {64, 0}, ALK_WEIGHT_EXP, 0, 5, 3},
             {140, 140, 0, 0, {140, 20}, ALK_WEIGHT_EXP, 2, 5, 3},
             {130, 130, 0, 1, {130, 70}, ALK_WEIGHT_EXP, 0, 16, 32},
             {150, 190, 40, 33, {190, 120}, ALK_WEIGHT_EXP, 0, 64, 64},
             {200, 150, -30, 100, {150, 140}, ALK_WEIGHT_EXP, 0, 40, 64},
             {70, 140, 66, 65, {140, 139}, ALK_WEIGHT_EXP, 2, 64, 72},
             {3, 700, 697, 300, {700, 650}, ALK_WEIGHT_EXP, 0, 64, 64},
             {3, 700, 697, 520, {700, 500}, ALK_WEIGHT_EXP, 2, 8, 8}};

static const double base[] = {2, 1, 0.5};
/* Of case _i, on the host; what is drawn into x is freed by `end`. */
static alk_attn_spec begin(int i, tensors *x) {
  const int64_t T = cases[i].T, S = cases[i].S;
  const alk_attn_spec a = {.g = {.B = B,
                                 .T = T,
                                 .S = S,
                                 .H = H,
                                 .Hkv = Hkv,
                                 .lengths = cases[i].lengths,
                                 .offset = cases[i].offset,
                                 .causal = true,
                                 .window = cases[i].window},
                           .weight = {.f = cases[i].f,
                                      .clamp = INFINITY,
                                      .n_coefficients = cases[i].f == ALK_WEIGHT_POLYNOMIAL ? 3 : 0,
                                      .base = base,
                                      .Hd = cases[i].Hd},
                           .map = ALK_MAP_identity,
                           .stat = ALK_STAT_sum,
                           .normalise = true,
                           .D = D = cases[i].D,
                           .E = E = cases[i].E,
                           .scale = 0.7};
  state = (uint64_t)i;
  *x = empty(B, T, S);
  x->q = numbers(B * T * H * D), x->k = numbers(B * S * Hkv * D), x->v = numbers(B * S * Hkv * E);
  x->dy = numbers(B * T * H * E), x->sums = numbers(B * 2 * S);
  for (int64_t h = 0; h < B * 2; h++)
    for (int64_t j = 0, n = h * S; j < S; j++)
      x->sums[n + j] = (j ? x->sums[n + j - 1] : 0) - fabs(x->sums[n + j]) / 8;
  return a;
}
static void end(tensors *x) {
  free(x->q), free(x->k), free(x->v), free(x->dy), free(x->sums);
  drop(x);
}

START_TEST(a_window_is_what_each_row_sees) {
  tensors x;
  const alk_attn_spec a = begin(_i, &x);
  const int64_t T = a.g.T, S = a.g.S;
  limit = 1e-12;
  attend(&a, &x, 3);
  tensors rows = by_rows(&a, &x), parts = composed(&a, &x);
  compare(&a, &x, &rows);
  compare(&a, &parts, &rows);
  double *n = zeros(B * T);
  const alk_place p = at();
  alk_visible_count_f64(&p, &a.g, NULL, n);
  for (int64_t i = 0; i < B * T; i++) {
    const alk_range seen = alk_visible_keys(&a.g, i / T, i % T);
    ck_assert(n[i] == (double)(seen.to - seen.from));
    for (int64_t j = 0; j < S; j++) { /* both views of the same */
      const alk_range of = alk_visible_rows(&a.g, i / T, j);
      if ((j >= seen.from && j < seen.to) != (i % T >= of.from && i % T < of.to))
        ck_abort_msg("row %d, key %d: seen by one alone", (int)i, (int)j);
    }
  }
  free(n);
  drop(&rows), drop(&parts);
  end(&x);
}
END_TEST

/* ---- on a device ------------------------------------------------------------------------------- */

static al_ctx *c;

/* x, which becomes what the type holds of it, at the place. */
static al_tensor *there(al_dtype t, int64_t n, double *x) {
  al_tensor *r = al_tensor_from(c, t, 1, &n, x, n);
  al_read(r, x, n);
  return r;
}
static al_tensor *room(al_dtype t, int64_t n) { return al_tensor_new(c, t, 1, &n); }

/* Forward and backward at the place; x becomes what the type holds of it. Of a, the lengths are read on
 * the host. */
static tensors run(const al_place *p, alk_attn_spec a, al_dtype t, al_dtype of_sums, tensors *x) {
  const int64_t T = a.g.T, S = a.g.S, Hd = a.weight.Hd, rows = B * T * H, keys = B * S * Hkv;
  al_scope_begin(c);
  double lengths[B];
  for (int b = 0; b < B; b++) lengths[b] = ((const int32_t *)a.g.lengths)[b];
  al_tensor *q = there(t, rows * D, x->q), *k = there(t, keys * D, x->k),
            *v = there(t, keys * E, x->v), *dy = there(t, rows * E, x->dy),
            *sums = Hd ? there(AL_F64, B * Hd * S, x->sums) : NULL;
  al_tensor *y = room(t, rows * E), *W = room(of_sums, rows), *m = room(of_sums, rows),
            *dq = room(t, rows * D), *dk = room(t, keys * D), *dv = room(t, keys * E),
            *dsums = Hd ? room(AL_F64, B * H * S) : NULL;
  a.g.lengths = NULL; /* read at the place alone */
  al_tensor *scratch = AL_ROOM(p, attn_fwd, &a), *more = AL_ROOM(p, attn_bwd, &a);
  a.g.lengths = al_data(there(AL_I32, B, lengths));
  ALK_RUN(p, attn_fwd, &a, al_data(q), al_data(k), al_data(v), NULL, al_data(sums), al_data(y),
          al_data(W), NULL, al_data(m), al_data(scratch));
  const alk_attn_grad g = {.q = al_data(q),
                           .k = al_data(k),
                           .v = al_data(v),
                           .y = al_data(y),
                           .W = al_data(W),
                           .m = al_data(m),
                           .dy = al_data(dy),
                           .sums = al_data(sums),
                           .dq = al_data(dq),
                           .dk = al_data(dk),
                           .dv = al_data(dv),
                           .dsums = al_data(dsums)};
  ALK_RUN(p, attn_bwd, &a, &g, al_data(more));
  tensors r = empty(B, T, S);
  al_read(y, r.y, rows * E), al_read(W, r.W, rows), al_read(m, r.m, rows);
  al_read(dq, r.dq, rows * D), al_read(dk, r.dk, keys * D), al_read(dv, r.dv, keys * E);
  if (Hd) al_read(dsums, r.dsums, B * H * S);
  ck_assert_msg(al_error(c) == AL_OK, "%s", al_error_message(c, NULL, NULL));
  al_scope_end(c, NULL);
  return r;
}

static void fill(double *x, int64_t n, double v) {
  for (int64_t i = 0; i < n; i++) x[i] = v;
}
static void same(const char *what, int64_t at, int64_t n, const double *a, const double *b) {
  if (memcmp(a + at * n, b + at * n, sizeof *a * (size_t)n) != 0)
    ck_abort_msg("%s %d depends on what it does not see", what, (int)at);
}
/* NaN in a row and in a key of batch row 0 reach who sees them, and nobody else. */
static void spoiled(const al_place *p, const alk_attn_spec *a, al_dtype t, tensors *x,
                    const tensors *before) {
  const int64_t T = a->g.T, S = a->g.S, row = T * 3 / 4, key = S / 4;
  fill(x->q + row * H * D, H * D, NAN), fill(x->dy + row * H * E, H * E, NAN);
  fill(x->k + key * Hkv * D, Hkv * D, NAN), fill(x->v + key * Hkv * E, Hkv * E, NAN);
  tensors after = run(p, *a, t, t, x);
  char reached[MOST] = {0};
  reached[key] = 1;
  for (int64_t i = 0; i < T; i++) {
    const alk_range s = alk_visible_keys(&a->g, 0, i);
    if (i == row || (key >= s.from && key < s.to))
      memset(reached + s.from, 1, (size_t)(s.to - s.from));
    else
      same("y of row", i, H * E, after.y, before->y),
          same("dq of row", i, H * D, after.dq, before->dq);
  }
  for (int64_t j = 0; j < S; j++) {
    if (reached[j]) continue;
    same("dk of key", j, Hkv * D, after.dk, before->dk);
    same("dv of key", j, Hkv * E, after.dv, before->dv);
  }
  drop(&after);
}

START_TEST(the_kernels_of_a_device_see_the_same) {
  c = test_context();
  const struct {
    al_dtype stored, sums;
    double limit, of_sums; /* of W and m */
  } types[] = {
      {AL_F64, AL_F64, 1e-12, 1e-12}, {AL_F32, AL_F32, 3e-5, 3e-5}, {AL_BF16, AL_F32, 1e-2, 3e-5}};
  al_memory_poison(c, true);
  for (int n = 0; n < 3; n++) {
    const al_dtype t = types[n].stored;
    const al_place *p = al_here(c, (alk_dtype)t);
    if (t == AL_BF16 && !alk_attn_fwd(&p->k)) continue; /* the CPU has none */
    tensors x;
    const alk_attn_spec a = begin(_i, &x);
    tensors got = run(p, a, t, types[n].sums, &x);
    attend(&a, &x, 3);
    limit = types[n].of_sums;
    near("m", B * a.g.T * H, got.m, x.m), near("W", B * a.g.T * H, got.W, x.W);
    limit = types[n].limit;
    compare(&a, &got, &x);
    if (t == AL_F32) spoiled(p, &a, t, &x, &got);
    drop(&got);
    end(&x);
  }
  ck_assert_int_eq(al_memory(c).live, 0);
  al_ctx_free(c);
}
END_TEST

Suite *suite_test_window(void);
Suite *suite_test_window(void) {
  Suite *s = suite_create("windows");
  TCase *t = tcase_create("kernels");
  tcase_add_loop_test(t, a_window_is_what_each_row_sees, 0, sizeof cases / sizeof *cases);
  suite_add_tcase(s, t);
  t = tcase_create("device");
  tcase_set_timeout(t, 60);
  tcase_add_loop_test(t, the_kernels_of_a_device_see_the_same, 0, sizeof cases / sizeof *cases);
  suite_add_tcase(s, t);
  return s;
}
