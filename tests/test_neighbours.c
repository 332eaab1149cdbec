/* test_neighbours.c: what surrounds attention in a step: add_rmsnorm with gradients into both of
 * its outputs, gradients added up and written over in place where nobody sees it, the optimiser
 * over many parameters. */
#include "../core/attnlab.h"
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static al_ctx *c;
static void begin(void) { c = al_ctx_new(); }
static void end(void) {
  ck_assert_msg(al_error(c) == AL_OK, "%s", al_error_message(c, NULL, NULL));
  ck_assert_int_eq(al_memory(c).live, 0);
  al_ctx_free(c);
}

#define SHAPE(...)                                                                                 \
  (int)(sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]) { __VA_ARGS__ }

static al_tensor *normal(al_dtype t, uint64_t stream, int ndim, const int64_t *shape) {
  al_tensor *x = al_tensor_new(c, t, ndim, shape);
  al_fill_normal(x, stream, 0, 1);
  return x;
}
static al_tensor *leaf(al_dtype t, uint64_t stream, int ndim, const int64_t *shape) {
  al_tensor *x = normal(t, stream, ndim, shape);
  al_requires_grad(x, true);
  return x;
}

static double *copy_of(const al_tensor *t) {
  double *v = malloc((size_t)(al_numel(t) + 1) * sizeof *v);
  ck_assert_int_eq(al_read(t, v, al_numel(t)), AL_OK);
  return v;
}

/* Root mean square of the difference over that of the expected numbers. */
static void expect_near(const al_tensor *t, const double *want, double limit) {
  double *v = copy_of(t), d = 0, s = 0;
  for (int64_t i = 0; i < al_numel(t); i++)
    d += (v[i] - want[i]) * (v[i] - want[i]), s += want[i] * want[i];
  ck_assert_msg(d <= limit * limit * s, "differs by %.3g, %.1g allowed", sqrt(d / s), limit);
  free(v);
}

static void clear_grads(al_tensor **t, int n) {
  for (int i = 0; i < n; i++) al_set_grad(t[i], NULL);
}

/* sum(u * s) + sum(w * y) for s = x + a, y = its norm, fused or not. */
static al_tensor *stream_loss(al_tensor **in, const al_tensor *const *weight, bool fused) {
  al_tensor *out[2];
  if (fused) {
    al_run_into(c, "add_rmsnorm", AL_IN(in[0], in[1], in[2]), out, 2, "eps=1e-3");
  } else {
    out[0] = al_run(c, "add", AL_IN(in[0], in[1]), "");
    out[1] = al_run(c, "rmsnorm", AL_IN(out[0], in[2]), "eps=1e-3");
  }
  al_tensor *part[2];
  for (int i = 0; i < 2; i++)
    part[i] =
        al_run(c, "sum", AL_IN(al_run(c, "mul", AL_IN(out[i], (al_tensor *)weight[i]), "")), "");
  return al_run(c, "add", AL_IN(part[0], part[1]), "");
}

START_TEST(stream_of_sums) {
  for (int f32 = 0; f32 < 2; f32++) {
    const al_dtype t = f32 ? AL_F32 : AL_F64;
    al_tensor *in[3] = {leaf(t, 1, SHAPE(3, 67, 40)), leaf(t, 2, SHAPE(3, 67, 40)),
                        leaf(t, 3, SHAPE(40))};
    al_tensor *weight[2] = {normal(t, 4, SHAPE(3, 67, 40)), normal(t, 5, SHAPE(3, 67, 40))};
    double *want[4];
    for (int fused = 0; fused < 2; fused++) {
      al_scope_begin(c);
      al_tensor *loss = stream_loss(in, (const al_tensor *const *)weight, fused);
      ck_assert_int_eq(al_backward(c, loss, NULL), AL_OK);
      for (int i = 0; i < 3; i++)
        if (fused) expect_near(al_grad(in[i]), want[i], f32 ? 2e-6 : 1e-13);
        else want[i] = copy_of(al_grad(in[i]));
      if (fused) expect_near(loss, want[3], f32 ? 1e-5 : 1e-13);
      else want[3] = copy_of(loss);
      al_scope_end(c, NULL);
      clear_grads(in, 3);
    }
    for (int i = 0; i < 4; i++) free(want[i]);
    for (int i = 0; i < 3; i++) al_release(in[i]);
    for (int i = 0; i < 2; i++) al_release(weight[i]);
  }
}
END_TEST

/* An input that reaches both inputs, and a sum that nobody reads. */
START_TEST(stream_of_one_tensor) {
  al_tensor *x = leaf(AL_F64, 1, SHAPE(5, 8)), *out[2];
  for (int which = 0; which < 2; which++) {
    al_scope_begin(c);
    al_run_into(c, "add_rmsnorm", AL_IN(x, x, NULL), out, 2, "");
    al_backward(c, al_run(c, "sum", AL_IN(out[which]), ""), NULL);
    double *g = copy_of(al_grad(x)), *v = copy_of(x);
    for (int r = 0; r < 5; r++) {
      double square = 0, total = 0;
      for (int i = 0; i < 8; i++)
        square += 4 * v[r * 8 + i] * v[r * 8 + i], total += 2 * v[r * 8 + i];
      const double s = 1 / sqrt(square / 8 + 1e-5);
      for (int i = 0; i < 8; i++) {
        const double dy = s - 2 * v[r * 8 + i] * s * s * s * total / 8;
        ck_assert_double_eq_tol(g[r * 8 + i], which ? 2 * dy : 2, 1e-12);
      }
    }
    free(g);
    free(v);
    al_scope_end(c, NULL);
    al_set_grad(x, NULL);
  }
  al_release(x);
}
END_TEST

/* Three products read x, and so does a sum: the gradients add up in one place. */
START_TEST(gradients_in_place) {
  al_tensor *x = leaf(AL_F64, 1, SHAPE(3, 4)), *w = leaf(AL_F64, 2, SHAPE(4, 4)), *seen = NULL;
  double *first = NULL;
  for (int round = 0; round < 2; round++) {
    al_scope_begin(c);
    al_tensor *y = al_run(c, "square", AL_IN(x), "");
    al_tensor *total = y;
    for (int i = 0; i < 3; i++)
      total =
          al_run(c, "add", AL_IN(total, al_run(c, "matmul", AL_IN(y, w), "alpha=%d", i + 1)), "");
    al_backward(c, al_run(c, "sum", AL_IN(total), ""), NULL);
    al_scope_end(c, NULL);
    double *g = copy_of(al_grad(x)), *gw = copy_of(al_grad(w)), *v = copy_of(x), *m = copy_of(w);
    for (int i = 0; i < 12; i++) {
      double row = 0;
      for (int j = 0; j < 4; j++) row += m[i % 4 * 4 + j];
      ck_assert_double_eq_tol(g[i], (round + 1) * 2 * v[i] * (1 + 6 * row), 1e-12);
    }
    for (int i = 0; i < 16; i++) {
      double column = 0;
      for (int r = 0; r < 3; r++) column += v[r * 4 + i / 4] * v[r * 4 + i / 4];
      ck_assert_double_eq_tol(gw[i], (round + 1) * 6 * column, 1e-12);
    }
    if (round == 0) { /* a gradient that somebody holds stays as it was */
      seen = al_retain(al_grad(w));
      first = copy_of(seen);
    } else {
      expect_near(seen, first, 0);
      ck_assert_ptr_ne(seen, al_grad(w));
    }
    free(g), free(gw), free(v), free(m);
  }
  free(first);
  al_release(seen);
  al_tensor *both[2] = {x, w};
  clear_grads(both, 2);
  al_release(x);
  al_release(w);
}
END_TEST

/* Ops that write their gradient over what comes in must not touch what a caller can see. */
START_TEST(seeds_stay) {
  static const char *const ops[] = {"rope", "rope_pair", "swiglu", "add_rmsnorm"};
  for (int i = 0; i < 4; i++)
    for (int which = 0; which < (i % 2 ? 2 : 1); which++) {
      al_tensor *x = leaf(AL_F32, 1, SHAPE(2, 3, 2, 8)), *y = leaf(AL_F32, 2, SHAPE(2, 3, 2, 8));
      al_tensor *seed = normal(AL_F32, 3, SHAPE(2, 3, 2, 8)), *out[2] = {0};
      double *want = copy_of(seed), *g[2];
      for (int round = 0; round < 2; round++) { /* twice the output: its gradient has two readers */
        al_scope_begin(c);
        al_run_into(c, ops[i], (al_tensor *const[]){x, y}, i ? 2 : 1, out, which + 1, "");
        if (round)
          out[which] = al_run(c, "scale",
                              AL_IN(al_run(c, "add", AL_IN(out[which], out[which]), "")), "by=0.5");
        al_backward(c, out[which], seed);
        al_scope_end(c, NULL);
        expect_near(seed, want, 0);
        for (int k = 0; k < 2; k++) {
          al_tensor *t = k ? y : x;
          if (!al_grad(t)) continue;
          if (round) expect_near(al_grad(t), g[k], 1e-6), free(g[k]);
          else g[k] = copy_of(al_grad(t));
          al_set_grad(t, NULL);
        }
      }
      free(want);
      al_release(x);
      al_release(y);
      al_release(seed);
    }
}
END_TEST

/* The gradient of a cross entropy goes over logits that the graph alone holds, and over none that a
 * caller, a view, a fork or another part of the graph sees. */
START_TEST(logits_taken_over) {
  enum { NOBODY, CALLER, VIEW, FORK, GRAPH, HOLDERS };
  enum { N = 40, V = 700, BYTES = N * V * 4 };
  al_tensor *x = leaf(AL_F32, 1, SHAPE(N, V)), *t = al_tensor_full(c, AL_I32, SHAPE(N), 3);
  double *want = NULL, *read = copy_of(x);
  for (int who = NOBODY; who < HOLDERS; who++) {
    al_scope_begin(c);
    al_tensor *more = NULL, *held = NULL, *seed = al_tensor_full(c, AL_F32, 0, NULL, 1);
    al_scope_begin(c);
    al_tensor *logits = al_run(c, "scale", AL_IN(x), "by=1.5");
    if (who == GRAPH) /* older than the loss: its backward comes after */
      more = al_run(c, "sum", AL_IN(al_run(c, "square", AL_IN(logits), "")), "");
    al_tensor *loss = al_run(c, "cross_entropy", AL_IN(logits, t), "ignore=5");
    if (more) loss = al_run(c, "add", AL_IN(loss, more), "");
    if (who == CALLER) held = al_retain(logits);
    if (who == VIEW) held = al_retain(al_run(c, "slice", AL_IN(logits), "axis=0 start=7 stop=9"));
    if (who == FORK) held = al_retain(al_fork(c, logits));
    loss = al_scope_end(c, loss);
    double *seen = held ? copy_of(held) : NULL;
    const int64_t before = al_memory(c).live;
    al_memory_reset_peak(c);
    ck_assert_int_eq(al_backward(c, loss, seed), AL_OK);
    const int64_t made = al_memory(c).peak - before;
    /* the leaf's own gradient, and where somebody else sees the logits, theirs */
    if (who == NOBODY) ck_assert_int_lt(made, BYTES + BYTES / 8);
    else ck_assert_int_gt(made, 2 * BYTES - BYTES / 8);
    if (!want) want = copy_of(al_grad(x));
    for (int i = 0; more && i < N * V; i++) want[i] += 2 * 1.5 * 1.5 * read[i];
    expect_near(al_grad(x), want, more ? 1e-6 : 0);
    if (held) expect_near(held, seen, 0);
    free(seen);
    al_release(held);
    clear_grads(&x, 1);
    al_scope_end(c, NULL);
  }
  free(want), free(read);
  al_release(x);
  al_release(t);
}
END_TEST

/* attend with a norm is attend and the norm behind it, though it keeps no y: outputs and gradients,
 * where eps decides some rows, too. */
START_TEST(norm_in_attend) {
  static const struct {
    const char *sums, *eps;
    bool relative; /* y stands for y e^m */
  } cases[] = {{"stat=none", "1e-12", true},
               {"stat=none", "3e1", true},
               {"stat=sum", "3e1", true},
               {"stat=sum normalise=true", "1e-12", false},
               {"stat=sum normalise=true", "0.9", false},
               {"f=cosh stat=none softcap=3", "4e1", true}};
  for (size_t n = 0; n < sizeof cases / sizeof *cases; n++)
    for (int f32 = 0; f32 < 2; f32++) {
      const al_dtype t = f32 ? AL_F32 : AL_F64;
      al_tensor *in[3] = {leaf(t, 1, SHAPE(2, 37, 4, 8)), leaf(t, 2, SHAPE(2, 37, 2, 8)),
                          leaf(t, 3, SHAPE(2, 37, 2, 16))},
                *seed = normal(t, 4, SHAPE(2, 37, 4, 16)),
                *lengths =
                    al_tensor_from(c, AL_I32, 1, (const int64_t[]){2}, (const double[]){37, 20}, 2);
      double *want[4] = {0};
      for (int apart = 1; apart >= 0; apart--) {
        al_scope_begin(c);
        al_tensor *out[3], *y;
        al_run_into(c, "attend", AL_IN(in[0], in[1], in[2], NULL, NULL, lengths), out, 3,
                    "causal=true scale=0.5 %s norm=%s norm_eps=%s", cases[n].sums,
                    apart ? "none" : "l2", cases[n].eps);
        y = out[0];
        if (apart)
          y = al_run(
              c, "finish",
              AL_IN(y, NULL,
                    cases[n].relative ? al_run(c, "permute", AL_IN(out[2]), "axes={0,2,1}") : NULL),
              "norm=l2 eps=%s", cases[n].eps);
        ck_assert_int_eq(al_backward(c, y, seed), AL_OK);
        for (int i = 0; i < 4; i++) {
          const al_tensor *got = i == 3 ? y : al_grad(in[i]);
          if (apart) want[i] = copy_of(got);
          else expect_near(got, want[i], f32 ? 2e-5 : 1e-12), free(want[i]);
        }
        clear_grads(in, 3);
        al_scope_end(c, NULL);
      }
      for (int i = 0; i < 3; i++) al_release(in[i]);
      al_release(seed);
      al_release(lengths);
    }
}
END_TEST

enum { N_PARAMETERS = 9 };
static const int64_t sizes[N_PARAMETERS] = {1, 8191, 8192, 8193, 5, 40000, 16384, 3, 100};

/* Parameter i after three steps, f64 for odd i; i = 4 has no gradient. */
static void train(const char *kind, int threads, double *out[N_PARAMETERS], double *norm) {
  al_set_threads(threads);
  al_opts *o = al_opts_new(c, al_optim_args(c, kind), kind);
  al_opts_parse(
      c, o, strcmp(kind, "sgd") ? "weight_decay=0.1 grad_clip=3" : "momentum=0.9 weight_decay=0.1");
  al_optim *opt = al_optim_new(c, kind, o);
  al_tensor *p[N_PARAMETERS];
  for (int i = 0; i < N_PARAMETERS; i++) {
    p[i] = leaf(i % 2 ? AL_F64 : AL_F32, (uint64_t)i, SHAPE(sizes[i]));
    ck_assert_int_eq(al_optim_add(opt, (const char[]){(char)('a' + i), 0}, p[i], i % 3 == 0),
                     AL_OK);
  }
  for (int step = 0; step < 3; step++) {
    for (int i = 0; i < N_PARAMETERS; i++) {
      if (i == 4) continue;
      al_tensor *g = normal(al_type(p[i]), (uint64_t)(100 + step * 10 + i), SHAPE(sizes[i]));
      al_set_grad(p[i], g);
      al_release(g);
    }
    al_tensor *n;
    al_optim_step(opt, 0.01, &n);
    *norm = al_item(n);
    al_release(n);
  }
  al_optim_zero_grad(opt);
  for (int i = 0; i < N_PARAMETERS; i++) {
    out[i] = copy_of(p[i]);
    al_release(p[i]);
  }
  al_optim_free(opt);
  al_opts_release(o);
}

/* One number of one parameter, by hand. */
static double by_hand(bool adamw, int i, double p, const double *g, const double *norm) {
  const double decay = i % 3 == 0 ? 0.1 : 0;
  double m = 0, v = 0;
  for (int k = 0; k < 3; k++) {
    const double d = adamw ? g[k] * 3 / norm[k] : g[k];
    m = adamw ? 0.9 * m + 0.1 * d : 0.9 * m + d;
    v = 0.999 * v + 0.001 * d * d;
    const double step =
        adamw ? m / (1 - pow(0.9, k + 1)) / (sqrt(v / (1 - pow(0.999, k + 1))) + 1e-8) : m;
    p = p - 0.01 * decay * p - 0.01 * step;
  }
  return p;
}

START_TEST(optimiser_over_a_list) {
  static const char *const kinds[] = {"adamw", "sgd"};
  for (int kind = 0; kind < 2; kind++) {
    double *one[N_PARAMETERS], *two[N_PARAMETERS], *start[N_PARAMETERS], *g[3][N_PARAMETERS],
        norm[3] = {0}, last[2];
    train(kinds[kind], 1, one, &last[0]);
    train(kinds[kind], 2, two, &last[1]);
    ck_assert(last[0] == last[1]);
    for (int i = 0; i < N_PARAMETERS; i++) {
      const al_dtype t = i % 2 ? AL_F64 : AL_F32;
      ck_assert_mem_eq(one[i], two[i], (size_t)sizes[i] * sizeof(double));
      al_tensor *p = normal(t, (uint64_t)i, SHAPE(sizes[i]));
      start[i] = copy_of(p);
      al_release(p);
      for (int k = 0; k < 3; k++) {
        al_tensor *x = normal(t, (uint64_t)(100 + k * 10 + i), SHAPE(sizes[i]));
        g[k][i] = copy_of(x);
        al_release(x);
        for (int64_t j = 0; i != 4 && j < sizes[i]; j++) norm[k] += g[k][i][j] * g[k][i][j];
      }
    }
    for (int k = 0; k < 3; k++) norm[k] = sqrt(norm[k]);
    ck_assert_double_eq_tol(last[0], norm[2], 1e-9 * norm[2]);
    for (int i = 0; i < N_PARAMETERS; i++) {
      for (int64_t j = 0; j < sizes[i]; j++) {
        const double want = i == 4 ? start[i][j]
                                   : by_hand(kind == 0, i, start[i][j],
                                             (double[]){g[0][i][j], g[1][i][j], g[2][i][j]}, norm);
        ck_assert_double_eq_tol(one[i][j], want, i % 2 ? 1e-12 : 1e-6);
      }
      free(one[i]), free(two[i]), free(start[i]), free(g[0][i]), free(g[1][i]), free(g[2][i]);
    }
  }
}
END_TEST

Suite *suite_test_neighbours(void);
Suite *suite_test_neighbours(void) {
  Suite *s = suite_create("neighbours of attention");
  TCase *t = tcase_create("step");
  tcase_add_checked_fixture(t, begin, end);
  tcase_add_test(t, stream_of_sums);
  tcase_add_test(t, stream_of_one_tensor);
  tcase_add_test(t, gradients_in_place);
  tcase_add_test(t, seeds_stay);
  tcase_add_test(t, logits_taken_over);
  tcase_add_test(t, norm_in_attend);
  tcase_add_test(t, optimiser_over_a_list);
  suite_add_tcase(s, t);
  return s;
}
