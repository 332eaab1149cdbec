/* test_types.c: bf16 beside f32: gradients, their sums, statistics, refusals, optimisers; where
 * attention makes what it makes. check_ops has outputs and gradients of every op. */
#include "../attention/attn.h"
#include "../core/op.h"
#include <check.h>
#include <math.h>
#include <string.h>

static al_ctx *c;
static void setup(void) { c = al_ctx_new(); }
static void teardown(void) {
  ck_assert_msg(al_error(c) == AL_OK, "%s", al_error_message(c, NULL, NULL));
  ck_assert_msg(al_memory(c).live == 0, "%lld bytes leaked", (long long)al_memory(c).live);
  al_ctx_free(c);
}

static al_tensor *numbers(al_dtype t, int64_t n, const double *v) {
  al_tensor *x = al_tensor_from(c, t, 1, &n, v, n);
  al_requires_grad(x, true);
  return x;
}
static al_tensor *one(al_dtype t, double v) { return numbers(t, 1, &v); }

static void says(al_status st, const char *text) {
  ck_assert_msg(al_error(c) == st && strstr(al_error_message(c, NULL, NULL), text),
                "wanted '%s', got: %s", text, al_error_message(c, NULL, NULL));
  al_error_clear(c);
}

enum { FINE = 512 }; /* 1 + 1 / FINE is a number of f32 and none of bf16 */

/* The gradient of two uses, 1 and 1 / FINE, is summed in f32, along edges and in a leaf. */
START_TEST(gradients_are_f32) {
  for (int leaf = 0; leaf < 2; leaf++) {
    al_tensor *x = one(AL_BF16, 1);
    al_scope_begin(c);
    al_tensor *h = leaf ? x : al_run(c, "scale", AL_IN(x), "");
    al_tensor *y = al_run(c, "add", AL_IN(h, al_run(c, "scale", AL_IN(h), "by=%g", 1. / FINE)), "");
    ck_assert_int_eq(al_type(y), AL_BF16);
    al_backward(c, y, NULL);
    al_scope_end(c, NULL);
    ck_assert_int_eq(al_type(al_grad(x)), AL_F32);
    ck_assert_double_eq(al_item(al_grad(x)), 1 + 1. / FINE);
    al_release(x);
  }
}
END_TEST

/* A gradient of bf16 that somebody gave, as a seed or by hand, and one of f32. */
START_TEST(the_wider_type_sums) {
  al_tensor *x = one(AL_BF16, 1), *narrow = one(AL_BF16, 1), *wide = one(AL_F32, 1. / FINE);
  for (int first = 0; first < 2; first++) {
    al_set_grad(x, first ? wide : narrow);
    al_backward(c, x, first ? narrow : wide);
    ck_assert_int_eq(al_type(al_grad(x)), AL_F32);
    ck_assert_double_eq(al_item(al_grad(x)), 1 + 1. / FINE);
    ck_assert_double_eq(al_item(narrow), 1);
    ck_assert_double_eq(al_item(wide), 1. / FINE);
  }
  al_set_grad(x, narrow);
  al_backward(c, x, narrow);
  ck_assert_int_eq(al_type(al_grad(x)), AL_BF16);
  ck_assert_double_eq(al_item(al_grad(x)), 2);
  al_tensor *double_seed = one(AL_F64, 1);
  ck_assert_int_ne(al_backward(c, x, double_seed), AL_OK);
  says(AL_ESHAPE, "backward: seed: bf16 of shape (1) needed, got f64 of (1)");
  al_set_grad(x, NULL);
  al_tensor *all[] = {x, narrow, wide, double_seed};
  for (int i = 0; i < 4; i++) al_release(all[i]);
}
END_TEST

/* Nothing but gradients and statistics is of another type than what stands beside it. */
START_TEST(mixed_types_are_refused) {
  static const struct {
    const char *op, *shapes[3], *text;
    al_dtype type[3];
  } cases[] = {
      {"mul", {"3", "3"}, "mul: b: bf16 needed as a has it, got f32", {AL_BF16, AL_F32}},
      {"mul", {"3", "3"}, "mul: b: f32 needed as a has it, got bf16", {AL_F32, AL_BF16}},
      {"concat",
       {"3", "3"},
       "concat: xs: bf16 needed as the first tensor has it, got f32",
       {AL_BF16, AL_F32}},
      {"rmsnorm", {"3", "3"}, "rmsnorm: gain: bf16 needed as x has it, got f32", {AL_BF16, AL_F32}},
      {"finish",
       {"2344", "234"},
       "finish: factor: f32 needed as y is bf16, got bf16",
       {AL_BF16, AL_BF16}},
      {"weights",
       {"2344", "234"},
       "weights: reference: f64 needed as s is f64, got f32",
       {AL_F64, AL_F32}},
      {"exp", {"3"}, "exp: x: f32, f64 or bf16 needed, got i32 (cast it first)", {AL_I32}},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    al_tensor *in[3] = {0};
    int n = 0;
    for (; n < 3 && cases[i].shapes[n]; n++) {
      int64_t shape[4];
      const int ndim = (int)strlen(cases[i].shapes[n]);
      for (int a = 0; a < ndim; a++) shape[a] = cases[i].shapes[n][a] - '0';
      in[n] = al_tensor_full(c, cases[i].type[n], ndim, shape, 1);
    }
    ck_assert_ptr_null(al_run(c, cases[i].op, in, n, ""));
    says(AL_ETYPE, cases[i].text);
    for (int k = 0; k < n; k++) al_release(in[k]);
  }
}
END_TEST

START_TEST(a_loss_is_f32) {
  const int64_t shape[] = {2, 5}, rows = 2;
  al_tensor *x = al_tensor_new(c, AL_BF16, 2, shape), *t = al_tensor_full(c, AL_I32, 1, &rows, 3);
  al_fill_normal(x, 1, 0, 1);
  al_requires_grad(x, true);
  al_tensor *wide = al_run(c, "cast", AL_IN(x), "dtype=f32"),
            *loss = al_run(c, "cross_entropy", AL_IN(x, t), ""),
            *same = al_run(c, "cross_entropy", AL_IN(wide, t), "");
  ck_assert_int_eq(al_type(loss), AL_F32);
  ck_assert_double_eq(al_item(loss), al_item(same));
  al_backward(c, loss, NULL);
  ck_assert_int_eq(al_type(al_grad(x)), AL_F32);
  al_tensor *all[] = {x, t, wide, loss, same};
  for (int i = 0; i < 5; i++) al_release(all[i]);
}
END_TEST

/* The state named `name`, read into v. */
static void state_of(al_optim *o, const char *name, double *v) {
  const char *found;
  al_tensor *t;
  for (int i = 0; (t = al_optim_state(o, i, &found)); i++)
    if (strcmp(found, name) == 0) {
      ck_assert_int_eq(al_type(t), AL_F32);
      al_read(t, v, al_numel(t));
      return;
    }
  ck_abort_msg("no state %s", name);
}

/* A parameter of bf16 is the rounded copy of its master, which moves as a parameter of f32 does: steps
 * far below its last digit count. What somebody writes into it, and nothing else, moves the master. */
START_TEST(weights_have_masters) {
  static const char *const kinds[] = {"sgd", "adamw"};
  static const char *const text[] = {"momentum=0.5 weight_decay=0.1 grad_clip=1",
                                     "weight_decay=0.1 grad_clip=1"};
  const double v[] = {1, -2, 0.5}, g[] = {0.3, 0.01, -7};
  for (int kind = 0; kind < 2; kind++) {
    al_tensor *narrow = numbers(AL_BF16, 3, v), *wide = numbers(AL_F32, 3, v),
              *dy = numbers(AL_F32, 3, g);
    al_opts *o = al_opts_new(c, al_optim_args(c, kinds[kind]), kinds[kind]);
    al_opts_parse(c, o, text[kind]);
    al_optim *a = al_optim_new(c, kinds[kind], o), *b = al_optim_new(c, kinds[kind], o);
    al_optim_add(a, "p", narrow, true);
    al_optim_add(b, "p", wide, true);
    for (int step = 0; step < 40; step++) {
      if (step == 30) {
        const int64_t at = 1;
        al_tensor *one_of = al_tensor_view(c, narrow, 0, NULL, NULL, at),
                  *same = al_tensor_view(c, wide, 0, NULL, NULL, at);
        al_write(one_of, (double[]){3}, 1);
        al_write(same, (double[]){3}, 1);
        al_release(one_of);
        al_release(same);
      }
      al_set_grad(narrow, dy);
      al_set_grad(wide, dy);
      al_optim_step(a, 1e-3, NULL);
      al_optim_step(b, 1e-3, NULL);
      al_tensor *rounded = al_run(c, "cast", AL_IN(wide), "dtype=bf16");
      double got[3], want[3];
      al_read(narrow, got, 3);
      al_read(rounded, want, 3);
      ck_assert_mem_eq(got, want, sizeof got);
      al_release(rounded);
      state_of(a, "w.p", got);
      al_read(wide, want, 3);
      ck_assert_mem_eq(got, want, sizeof got);
      for (int i = 0; i <= kind; i++) {
        state_of(a, i ? "v.p" : "m.p", got);
        state_of(b, i ? "v.p" : "m.p", want);
        ck_assert_mem_eq(got, want, sizeof got);
      }
    }
    al_tensor *bad = numbers(AL_F32, 3, (const double[]){1, NAN, 1});
    double before[3], after[3];
    al_read(narrow, before, 3);
    ck_assert_double_ne(before[0], 1);
    al_set_grad(narrow, bad);
    al_optim_step(a, 0.01, NULL);
    al_read(narrow, after, 3);
    ck_assert_mem_eq(before, after, sizeof before);
    al_optim_free(a);
    al_optim_free(b);
    al_opts_release(o);
    al_set_grad(narrow, NULL);
    al_set_grad(wide, NULL);
    al_tensor *all[] = {narrow, wide, dy, bad};
    for (int i = 0; i < 4; i++) al_release(all[i]);
  }
}
END_TEST

/* Where products of bf16 have kernels: the gradients of weights and bias are not rounded to it, and those
 * of two uses are added up in f32; that of the input is bf16 on its way. */
START_TEST(weights_have_f32_gradients) {
  int cards;
  al_cuda(&cards);
  if (cards == 0) return;
  al_on(c, "cuda");
  const int64_t x_shape[] = {2, 33, 24}, w_shape[] = {24, 40}, b_shape[] = {40};
  al_tensor *x[2], *w[2], *b[2];
  for (int wide = 0; wide < 2; wide++) {
    al_tensor **all[] = {&x[wide], &w[wide], &b[wide]};
    const int64_t *shape[] = {x_shape, w_shape, b_shape};
    for (int i = 0; i < 3; i++) {
      al_tensor *t = al_tensor_new(c, AL_BF16, 3 - i, shape[i]);
      al_fill_normal(t, (uint64_t)i + 1, 0, 1);
      *all[i] = wide ? al_run(c, "cast", AL_IN(t), "dtype=f32") : al_retain(t);
      al_release(t);
      al_requires_grad(*all[i], true);
    }
    for (int use = 0; use < 2; use++) {
      al_tensor *y = al_run(c, "matmul", AL_IN(x[wide], w[wide], b[wide]), "");
      al_tensor *seed = al_tensor_full(c, al_type(y), 3, al_shape(y), 0.3125);
      al_backward(c, y, seed);
      al_release(y);
      al_release(seed);
    }
  }
  al_tensor *got[] = {al_grad(w[0]), al_grad(b[0]), al_grad(x[0])},
            *want[] = {al_grad(w[1]), al_grad(b[1]), al_grad(x[1])};
  for (int i = 0; i < 3; i++) {
    double v[2][2000], far = 0, size = 0;
    ck_assert_int_eq(al_type(got[i]), AL_F32);
    const int64_t n = al_numel(got[i]);
    al_read(got[i], v[0], n);
    al_read(want[i], v[1], n);
    for (int64_t k = 0; k < n; k++) {
      far += (v[0][k] - v[1][k]) * (v[0][k] - v[1][k]);
      size += v[1][k] * v[1][k];
    }
    const double d = sqrt(far / size);
    ck_assert_msg(d < (i < 2 ? 1e-6 : 0x1p-8) && (i < 2 || d > 0), "gradient %d: %g off", i, d);
  }
  for (int i = 0; i < 2; i++) al_release(x[i]), al_release(w[i]), al_release(b[i]);
}
END_TEST

/* Families make tensors without inputs, too: they lie where q does, whatever device is current. */
START_TEST(attention_lies_where_q_does) {
  const attn_sizes sizes = {.heads = 2, .kv_heads = 2, .head_dim = 4, .value_dim = 4, .width = 8};
  const int64_t shape[] = {1, 5, 2, 4}, width[] = {1, 5, 8};
  for (int i = 0; i < attn_preset_count(); i++) {
    const attn_family *family;
    const attn_preset *preset;
    al_opts *options = NULL;
    attn_find(c, attn_preset_at(i, NULL)->name, &family, &preset, &options);
    al_on(c, "counting");
    attn *a = attn_new(c, family, options, &sizes, AL_F32, 1, "t");
    al_opts_release(options);
    attn_in in = {.size = sizeof in, .causal = true};
    in.q = al_tensor_full(c, AL_F32, 4, shape, 1), in.x = al_tensor_full(c, AL_F32, 3, width, 1);
    in.k = al_retain(in.q), in.v = al_retain(in.q);
    ck_assert_msg(a != NULL, "%s", al_error_message(c, NULL, NULL));
    al_on(c, "cpu");
    al_tensor *o = attn_forward(c, a, &in), *r = attn_recur(c, a, &in);
    ck_assert_msg(o && r, "%s", al_error_message(c, NULL, NULL));
    ck_assert_str_eq(al_device_name(o), "counting");
    ck_assert_str_eq(al_device_name(r), "counting");
    ck_assert_str_eq(al_on(c, NULL), "cpu");
    al_tensor *all[] = {o, r, in.q, in.k, in.v, in.x};
    for (int k = 0; k < 6; k++) al_release(all[k]);
    attn_free(a);
  }
}
END_TEST

Suite *suite_test_types(void);
Suite *suite_test_types(void) {
  Suite *s = suite_create("types");
  TCase *t = tcase_create("types");
  tcase_set_timeout(t, 120);
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, gradients_are_f32);
  tcase_add_test(t, the_wider_type_sums);
  tcase_add_test(t, mixed_types_are_refused);
  tcase_add_test(t, a_loss_is_f32);
  tcase_add_test(t, weights_have_masters);
  tcase_add_test(t, weights_have_f32_gradients);
  tcase_add_test(t, attention_lies_where_q_does);
  suite_add_tcase(s, t);
  return s;
}
