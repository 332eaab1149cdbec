/* test_core.c: context, memory, tensors, scopes, autograd, random streams, optimisers. */
#include "../core/op.h"
#include "../kernels/cumsum.h"
#include "../kernels/philox.h"
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static al_ctx *c;
static void setup(void) { c = al_ctx_new(); }
static void teardown(void) {
  ck_assert_msg(al_memory(c).live == 0, "%lld bytes leaked", (long long)al_memory(c).live);
  al_ctx_free(c);
}

static al_tensor *vec(int64_t n, double first) {
  al_tensor *t = al_tensor_new(c, AL_F64, 1, &n);
  for (int64_t i = 0; i < n; i++) ((double *)al_host(t))[i] = first + (double)i;
  return t;
}

static void says(al_status st, const char *text) {
  ck_assert_msg(al_error(c) == st && strstr(al_error_message(c, NULL, NULL), text),
                "wanted '%s', got: %s", text, al_error_message(c, NULL, NULL));
  al_error_clear(c);
}

/* ---- errors ---------------------------------------------------------------------------------- */

START_TEST(no_tensor_has_no_shape) {
  char buf[16];
  ck_assert_int_eq(al_ndim(NULL), 0);
  ck_assert_int_eq(al_size(NULL, 0), 0);
  ck_assert_int_eq(al_size(NULL, -1), 0);
  ck_assert_int_eq(al_shape(NULL)[3], 0);
  ck_assert_int_eq(al_stride(NULL)[0], 0);
  ck_assert_int_eq(al_numel(NULL), 0);
  ck_assert_int_eq(al_type(NULL), AL_F32);
  ck_assert(al_contiguous(NULL));
  ck_assert_ptr_null(al_host(NULL));
  ck_assert_int_eq(al_storage_bytes(NULL), 0);
  ck_assert_int_ne(al_read(NULL, NULL, 0), AL_OK);
  ck_assert_int_ne(al_write(NULL, NULL, 0), AL_OK);
  ck_assert_str_eq(al_shape_str(NULL, buf, sizeof buf), "no tensor");
}
END_TEST

START_TEST(first_error_wins) {
  const char *file;
  int line;
  al_fail(c, AL_ESHAPE, "first %d", 1);
  al_fail(c, AL_EVALUE, "second");
  ck_assert_str_eq(al_error_message(c, &file, &line), "first 1");
  ck_assert(strstr(file, "test_core.c") && line > 0);
  const int64_t shape[] = {2};
  ck_assert_ptr_null(
      al_tensor_new(c, AL_F32, 1, shape)); /* nothing runs while an error is pending */
  ck_assert_ptr_null(al_run(c, "exp", AL_IN(NULL), ""));
  says(AL_ESHAPE, "first 1");
}
END_TEST

START_TEST(nearest_names) {
  static const char *const names[] = {"softmax", "log_softmax", "sum", "permute", "denominator"};
  ck_assert_str_eq(al_nearest("sofmtax", names, 5), "softmax");
  ck_assert_str_eq(al_nearest("premute", names, 5), "permute");
  ck_assert_str_eq(al_nearest("denom", names, 5), "denominator");
  ck_assert_ptr_null(al_nearest("zebra", names, 5));
}
END_TEST

/* ---- memory and tensors ---------------------------------------------------------------------- */

START_TEST(memory_is_counted_and_reused) {
  const int64_t shape[] = {1000};
  al_tensor *a = al_tensor_new(c, AL_F32, 1, shape);
  void *where = al_host(a);
  ck_assert_int_eq((uintptr_t)where % 64, 0);
  ck_assert_int_eq(al_memory(c).live, 4000);
  al_release(a);
  ck_assert_int_eq(al_memory(c).live, 0);
  ck_assert_int_eq(al_memory(c).peak, 4000);
#ifndef __SANITIZE_ADDRESS__
  ck_assert_int_ge(al_memory(c).cached, 4000);
  a = al_tensor_new(c, AL_F32, 1, shape);
  ck_assert_ptr_eq(al_host(a), where);
  al_release(a);
#endif
  al_memory_trim(c);
  ck_assert_int_eq(al_memory(c).cached, 0);
  al_memory_fail_at(c, 1);
  ck_assert_ptr_null(al_tensor_new(c, AL_F32, 1, shape));
  says(AL_ENOMEM, "out of memory");
  al_memory_poison(c, true);
  a = al_tensor_new(c, AL_F32, 1, shape);
  ck_assert(isnan(((float *)al_host(a))[999]));
  al_release(a);
}
END_TEST

/* al_jitter moves what ops make by its size, up or down, and nothing when it is off. */
START_TEST(jitter) {
  const int64_t shape[] = {64};
  double y[64], g[64];
  al_tensor *x = al_tensor_full(c, AL_F64, 1, shape, 3);
  al_requires_grad(x, true);
  int up = 0, down = 0;
  for (int on = 0; on < 2; on++) {
    al_jitter(c, on ? 0x1p-10 : 0, 1);
    al_tensor *s = al_run(c, "scale", AL_IN(x), "by=2");
    al_tensor *seed = al_tensor_full(c, AL_F64, 1, shape, 1);
    ck_assert_int_eq(al_backward(c, s, seed), AL_OK);
    al_jitter(c, 0, 0);
    al_read(s, y, 64), al_read(al_grad(x), g, 64);
    for (int i = 0; i < 64; i++) {
      up += y[i] == 6 * (1 + 0x1p-10), down += y[i] == 6 * (1 - 0x1p-10);
      ck_assert(on ? fabs(y[i] / 6 - 1) == 0x1p-10 && fabs(g[i] / 2 - 1) == 0x1p-10
                   : y[i] == 6 && g[i] == 2);
    }
    al_set_grad(x, NULL);
    al_release(s);
    al_release(seed);
  }
  ck_assert(up > 16 && down > 16);
  al_release(x);
}
END_TEST

/* A place without a kernel is an error with the kernel's name, and nothing runs. */
START_TEST(no_kernel_is_said) {
  int32_t y[1] = {7};
  ck_assert_int_eq(ALK_RUN(al_here(c, ALK_I32), cumsum, false, 1, 1, 1, y, y), AL_ETYPE);
  says(AL_ETYPE, "kernel cumsum: none for i32 on cpu");
  ck_assert_int_eq(y[0], 7);
  al_place device = *al_here(c, ALK_F32);
  device.k.device = (alk_device)1;
  ck_assert_int_eq(ALK_RUN(&device, cumsum, false, 1, 1, 1, y, y), AL_ETYPE);
  al_error_clear(c);
}
END_TEST

/* Two views of one storage: the source is read whole before anything is written. */
START_TEST(copies_between_views_of_one_tensor) {
  const int64_t shape[] = {2, 2};
  const double want[] = {1, 3, 2, 4};
  double v[4];
  al_tensor *m = al_tensor_from(c, AL_F32, 2, shape, (const double[]){1, 2, 3, 4}, 4);
  al_tensor *turned = al_run(c, "transpose", AL_IN(m), "");
  ck_assert_int_eq(al_copy_into(c, m, turned), AL_OK);
  al_read(m, v, 4);
  for (int i = 0; i < 4; i++) ck_assert_double_eq(v[i], want[i]);
  al_release(turned);
  al_release(m);
}
END_TEST

/* What a backward would read may not change before it runs; after it, it may. */
START_TEST(writes_under_a_graph_are_errors) {
  const char *const text[] = {"mul: backward: its input 1 was written to after the forward",
                              "exp: backward: its output 1 was written to after the forward"};
  for (int i = 0; i < 2; i++) {
    al_tensor *w = vec(2, 1), *two = vec(2, 5);
    al_requires_grad(w, true);
    al_tensor *y = i == 0 ? al_run(c, "mul", AL_IN(w, w), "") : al_run(c, "exp", AL_IN(w), "");
    al_tensor *l = al_run(c, "sum", AL_IN(y), "");
    al_copy_into(c, i == 0 ? w : y, two);
    ck_assert_int_ne(al_backward(c, l, NULL), AL_OK);
    says(AL_ESTATE, text[i]);
    al_release(y);
    al_release(l);
    al_set_grad(w, NULL);
    l = al_run(c, "sum", AL_IN(y = al_run(c, "mul", AL_IN(w, w), "")), "");
    ck_assert_int_eq(al_backward(c, l, NULL), AL_OK);
    al_copy_into(c, w, two);
    al_release(y);
    al_release(l);
    al_release(w);
    al_release(two);
  }
}
END_TEST

/* Every way to write into a tensor, for the test below. */
static void write_into(al_tensor *t, int how) {
  const double two[] = {7, 8};
  al_tensor *from = al_tensor_from(c, AL_F32, 1, (int64_t[]){2}, two, 2);
  al_optim *o = NULL;
  if (how == 0) al_write(t, two, 2);
  if (how == 1) al_copy_into(c, t, from);
  if (how == 2) al_fill_uniform(t, 1, 7, 8);
  if (how == 3) al_fill_normal(t, 1, 7, 8);
  if (how == 4) al_fork_into(c, t, from);
  if (how == 5) { /* through a view, made before */
    al_tensor *view = al_detach(c, t);
    al_write(view, two, 2);
    al_release(view);
  }
  if (how == 6) {
    o = al_optim_new(c, "sgd", NULL);
    al_optim_add(o, "t", t, false);
    al_set_grad(t, from);
    al_optim_step(o, 1, NULL);
  }
  al_optim_free(o);
  al_release(from);
}

START_TEST(forks_share_until_either_is_written) {
  const double v[] = {1, 2};
  double got[2];
  al_tensor *t = al_tensor_from(c, AL_F32, 1, (int64_t[]){2}, v, 2);
  const int64_t alone = al_memory(c).live;
  al_tensor *f = al_fork(c, t);
  ck_assert_ptr_eq(al_host(f), al_host(t));
  ck_assert_int_eq(al_memory(c).live, alone);
  al_tensor *written = _i % 2 ? t : f, *other = _i % 2 ? f : t;
  write_into(written, _i / 2);
  ck_assert_int_eq(al_error(c), AL_OK);
  al_read(other, got, 2);
  ck_assert(got[0] == 1 && got[1] == 2);
  al_read(written, got, 2);
  ck_assert(got[0] != 1 && got[1] != 2);
  ck_assert_ptr_ne(al_host(f), al_host(t));
  void *at = al_host(other); /* alone again, it is written in place */
  al_write(other, v, 2);
  ck_assert_ptr_eq(al_host(other), at);
  al_release(t);
  al_release(f);
  ck_assert_int_eq(al_memory(c).live, 0);
}
END_TEST

START_TEST(a_fork_without_memory_changes_nothing) {
  const double v[] = {1, 2}, w[] = {3, 4};
  double got[2];
  al_tensor *t = al_tensor_from(c, AL_F32, 1, (int64_t[]){2}, v, 2), *f = al_fork(c, t);
  al_memory_fail_at(c, 1);
  says(al_write(f, w, 2), "out of memory");
  al_memory_fail_at(c, 0);
  al_error_clear(c);
  for (int i = 0; i < 2; i++) {
    al_read(i ? t : f, got, 2);
    ck_assert(got[0] == 1 && got[1] == 2);
  }
  al_release(t);
  al_release(f);
}
END_TEST

/* Every size class holds what was asked for and wastes at most an eighth. */
START_TEST(size_classes) {
  for (int64_t n = 1; n < ((int64_t)1 << 24); n = n + n / 3 + 1) {
    al_tensor *t = al_tensor_new(c, AL_F32, 1, &n);
    memset(al_host(t), 1, (size_t)n * 4);
    al_release(t);
#ifndef __SANITIZE_ADDRESS__
    const int64_t kept = al_memory(c).cached;
    ck_assert_msg(kept >= 4 * n && (kept <= 4 * n + 64 || (double)kept <= 4.5 * (double)n + 64),
                  "%lld bytes for %lld", (long long)kept, (long long)(4 * n));
#endif
    al_memory_trim(c);
  }
  const int64_t big = (int64_t)1 << 62, exact = (int64_t)1 << 52;
  const int64_t odd[][3] = {{-1, 2, 2},  {(int64_t)1 << 40, (int64_t)1 << 40, 2},
                            {0, big, 2}, {big, 2, 0},
                            {2, big, 0}, {exact, 0, 2}};
  ck_assert_ptr_null(al_tensor_new(c, AL_F32, 3, odd[0]));
  says(AL_ESHAPE, "negative");
  ck_assert_ptr_null(al_tensor_new(c, AL_F32, 3, odd[1]));
  says(AL_ESHAPE, "too large");
  for (int i = 2; i < 5; i++) { /* a size of 0 hides no overflow of the others */
    ck_assert_ptr_null(al_tensor_new(c, AL_F32, 3, odd[i]));
    says(AL_ESHAPE, "too large");
  }
  al_tensor *empty = al_tensor_new(c, AL_F32, 3, odd[5]);
  ck_assert_int_eq(al_numel(empty), 0);
  al_release(empty);
}
END_TEST

START_TEST(conversions) {
  const double v[] = {1.00390625, -2.5, 3e38, 0, NAN};
  const int64_t n = 5;
  double out[5];
  al_tensor *t = al_tensor_from(c, AL_BF16, 1, &n, v, n);
  ck_assert_int_eq(al_read(t, out, n), AL_OK);
  ck_assert(out[0] == 1.0 && out[1] == -2.5 && out[3] == 0 &&
            isnan(out[4])); /* 1 + 2^-8 is halfway: to even */
  al_release(t);
  t = al_tensor_from(c, AL_I32, 1, &n, v, n);
  ck_assert_int_eq(al_read(t, out, n), AL_OK);
  ck_assert(out[0] == 1 && out[1] == -2 && out[2] == 2147483647 && out[4] == 0);
  al_release(t);
  ck_assert_ptr_null(al_tensor_from(c, AL_F32, 1, &n, v, 4));
  says(AL_ESHAPE, "5 numbers needed for shape (5), got 4");
}
END_TEST

START_TEST(scopes_own_what_ops_return) {
  al_tensor *x = vec(4, 1);
  al_scope_begin(c);
  al_tensor *a = al_run(c, "exp", AL_IN(x), "");
  al_scope_begin(c);
  al_tensor *b = al_run(c, "mul", AL_IN(a, a), "");
  b = al_scope_end(c, al_run(c, "add", AL_IN(b, a), ""));
  al_tensor *keep = al_scope_end(c, b);
  ck_assert_double_eq_tol(((double *)al_host(keep))[0], exp(2) + exp(1), 1e-12);
  ck_assert_int_eq(al_memory(c).live, 2 * 4 * 8);
  al_release(keep);
  al_release(x);
}
END_TEST

/* ---- autograd -------------------------------------------------------------------------------- */

START_TEST(the_graph_is_gone_after_backward) {
  al_tensor *x = vec(64, 0.01);
  al_requires_grad(x, true);
  al_scope_begin(c);
  al_tensor *y = x;
  for (int i = 0; i < 20; i++) y = al_run(c, "tanh", AL_IN(al_run(c, "mul", AL_IN(y, y), "")), "");
  al_tensor *loss = al_scope_end(c, al_run(c, "sum", AL_IN(y), ""));
  ck_assert_int_gt(al_memory(c).live, 20 * 64 * 8);
  ck_assert_int_eq(al_backward(c, loss, NULL), AL_OK);
  ck_assert_int_eq(al_memory(c).live, 2 * 64 * 8 + 8); /* x, its gradient, the loss */
  ck_assert_int_ne(al_backward(c, loss, NULL), AL_OK);
  says(AL_ESTATE, "already used");
  al_release(loss);
  al_release(x);
}
END_TEST

START_TEST(no_grad_and_detach_record_nothing) {
  al_tensor *x = vec(8, 1);
  al_requires_grad(x, true);
  const bool old = al_grad_mode(c, false);
  al_tensor *y = al_run(c, "exp", AL_IN(x), "");
  ck_assert(old && !al_needs_grad(y));
  al_grad_mode(c, old);
  al_release(y);
  al_scope_begin(c);
  y = al_run(c, "mul", AL_IN(x, al_detach(c, al_run(c, "exp", AL_IN(x), ""))), "");
  al_tensor *loss = al_scope_end(c, al_run(c, "sum", AL_IN(y), ""));
  ck_assert_int_eq(al_backward(c, loss, NULL), AL_OK);
  ck_assert_double_eq_tol(((double *)al_host(al_grad(x)))[1], exp(2), 1e-12); /* not 2 e^2 + e^2 */
  al_release(loss);
  al_release(x);
}
END_TEST

/* One tensor used in several places, through views that share storage: gradients add, nothing
 * aliases. */
START_TEST(gradients_add_without_aliasing) {
  const int64_t shape[] = {2, 3};
  const double v[] = {1, 2, 3, 4, 5, 6};
  al_tensor *x = al_tensor_from(c, AL_F64, 2, shape, v, 6);
  al_requires_grad(x, true);
  for (int round = 1; round <= 2; round++) {
    al_scope_begin(c);
    al_tensor *r = al_run(c, "reshape", AL_IN(x), "shape={3,2}");
    al_tensor *t = al_run(c, "permute", AL_IN(x), "axes={1,0}");
    al_tensor *y = al_run(
        c, "add", AL_IN(al_run(c, "add", AL_IN(r, t), ""), al_run(c, "add", AL_IN(r, r), "")), "");
    al_tensor *loss = al_scope_end(c, al_run(c, "sum", AL_IN(y), ""));
    ck_assert_int_eq(al_backward(c, loss, NULL), AL_OK);
    for (int i = 0; i < 6; i++)
      ck_assert_double_eq(((double *)al_host(al_grad(x)))[i], 4.0 * round);
    al_release(loss);
  }
  al_release(x);
}
END_TEST

/* Two uses of a bf16 tensor between others. */
START_TEST(bf16_gradients_add) {
  al_tensor *x = vec(5, 1);
  al_requires_grad(x, true);
  al_scope_begin(c);
  al_tensor *h = al_run(c, "cast", AL_IN(x), "dtype=bf16");
  al_tensor *a = al_run(c, "cast", AL_IN(h), "dtype=f32"),
            *b = al_run(c, "cast", AL_IN(h), "dtype=f32");
  al_tensor *loss = al_scope_end(c, al_run(c, "sum", AL_IN(al_run(c, "add", AL_IN(a, b), "")), ""));
  ck_assert_int_eq(al_backward(c, loss, NULL), AL_OK);
  for (int i = 0; i < 5; i++) ck_assert_double_eq(((double *)al_host(al_grad(x)))[i], 2);
  al_release(loss);
  al_release(x);
}
END_TEST

/* A chain as long as a text: neither backward nor release may recurse. */
START_TEST(long_chains) {
  for (int run = 0; run < 2; run++) {
    al_tensor *x = vec(1, 0), *y = al_retain(x);
    al_requires_grad(x, true);
    for (int i = 0; i < 200000; i++) {
      al_tensor *z = al_run(c, "scale", AL_IN(y), "add=1");
      al_release(y);
      y = z;
    }
    if (run == 0) {
      ck_assert_int_eq(al_backward(c, y, NULL), AL_OK);
      ck_assert_double_eq(al_item(al_grad(x)), 1);
    }
    al_release(y);
    al_release(x);
  }
}
END_TEST

START_TEST(backward_refusals) {
  al_tensor *x = vec(3, 1);
  ck_assert_int_ne(al_backward(c, x, NULL), AL_OK);
  says(AL_ESTATE, "depends on nothing");
  al_requires_grad(x, true);
  al_tensor *y = al_run(c, "exp", AL_IN(x), "");
  ck_assert_int_ne(al_backward(c, y, NULL), AL_OK);
  says(AL_ESHAPE, "one element needed without a seed");
  al_tensor *seed = vec(2, 1);
  ck_assert_int_ne(al_backward(c, y, seed), AL_OK);
  says(AL_ESHAPE, "seed: f64 of shape (3) needed, got f64 of (2)");
  al_release(seed);
  al_release(y);
  al_release(x);
}
END_TEST

/* ---- random numbers -------------------------------------------------------------------------- */

START_TEST(philox_is_the_published_generator) {
  uint32_t r[4];
  alk_philox(0, 0,
             r); /* known-answer vector of the Random123 distribution for a zero key and counter */
  ck_assert_uint_eq(r[0], 0x6627e8d5u);
  ck_assert_uint_eq(r[1], 0xe169c58du);
  ck_assert_uint_eq(r[2], 0xbc57ac4cu);
  ck_assert_uint_eq(r[3], 0x9b00dbd8u);
}
END_TEST

START_TEST(streams) {
  const int64_t n = 40000;
  al_tensor *a = al_tensor_new(c, AL_F32, 1, &n), *b = al_tensor_new(c, AL_F32, 1, &n);
  al_fill_normal(a, al_stream(1, "layer.weight"), 2, 3);
  const int threads = al_threads();
  al_set_threads(1);
  al_fill_normal(b, al_stream(1, "layer.weight"), 2, 3);
  al_set_threads(threads);
  ck_assert(memcmp(al_host(a), al_host(b), (size_t)n * 4) == 0);
  double mean = 0, square = 0;
  for (int64_t i = 0; i < n; i++) mean += ((float *)al_host(a))[i] / (double)n;
  for (int64_t i = 0; i < n; i++) square += pow(((float *)al_host(a))[i] - mean, 2) / (double)n;
  ck_assert_double_eq_tol(mean, 2, 5 * 3 / 200.0); /* five standard errors */
  ck_assert_double_eq_tol(sqrt(square), 3, 5 * 3 / 283.0);
  al_fill_uniform(b, al_stream(2, "layer.weight"), -1, 1);
  mean = 0;
  for (int64_t i = 0; i < n; i++) mean += ((float *)al_host(b))[i] / (double)n;
  ck_assert_double_eq_tol(mean, 0, 5 * 0.577 / 200);
  ck_assert(al_stream(1, "a") != al_stream(1, "b") && al_stream(1, "a") != al_stream(2, "a"));
  al_seed(c, 5);
  const uint64_t first = al_draw_key(c);
  uint64_t state[2];
  al_seed_state(c, state);
  const uint64_t second = al_draw_key(c);
  al_seed_restore(c, state);
  ck_assert(al_draw_key(c) == second && first != second);
  al_release(a);
  al_release(b);
}
END_TEST

/* ---- optimisers ------------------------------------------------------------------------------ */

static al_tensor *with_grad(double p, double g) {
  const int64_t one = 1;
  al_tensor *t = al_tensor_from(c, AL_F64, 1, &one, &p, 1),
            *d = al_tensor_from(c, AL_F64, 1, &one, &g, 1);
  al_requires_grad(t, true);
  al_set_grad(t, d);
  al_release(d);
  return t;
}

/* The norm that it went by. */
static double step(al_optim *o, double lr) {
  al_tensor *norm;
  ck_assert_int_eq(al_optim_step(o, lr, &norm), AL_OK);
  const double value = al_item(norm);
  al_release(norm);
  return value;
}

START_TEST(adamw_by_hand) {
  al_opts *o = al_opts_new(c, al_optim_args(c, "adamw"), "adamw");
  al_opts_parse(c, o, "betas={0.9,0.99} eps=1e-8 weight_decay=0.1 grad_clip=1");
  al_optim *opt = al_optim_new(c, "adamw", o);
  al_tensor *a = with_grad(2, 3), *b = with_grad(1, 4);
  ck_assert_int_eq(al_optim_add(opt, "a", a, true), AL_OK);
  ck_assert_int_eq(al_optim_add(opt, "b", b, false), AL_OK);
  const double norm = step(opt, 0.01);
  ck_assert_double_eq_tol(norm, 5, 1e-12);
  ck_assert_double_eq_tol(al_item(a), 2 * (1 - 0.001) - 0.01,
                          1e-8); /* first step: m/c1 / sqrt(v/c2) = 1 */
  ck_assert_double_eq_tol(al_item(b), 1 - 0.01, 1e-8);
  const char *name;
  al_tensor *m = al_optim_state(opt, 0, &name);
  ck_assert_str_eq(name, "m.a");
  ck_assert_double_eq_tol(al_item(m), 0.1 * 3 / 5, 1e-12); /* clipped */
  ck_assert_ptr_null(al_optim_state(opt, 4, &name));
  al_optim_zero_grad(opt);
  ck_assert_ptr_null(al_grad(a));
  ck_assert_int_ne(al_optim_add(opt, "a", a, true), AL_OK);
  says(AL_ENAME, "added twice");
  al_optim_free(opt);
  al_opts_release(o);
  al_release(a);
  al_release(b);
}
END_TEST

START_TEST(parameters_are_a_set) {
  static const char *const kinds[] = {"sgd", "adamw"};
  for (int i = 0; i < 2; i++) {
    al_optim *opt = al_optim_new(c, kinds[i], NULL);
    al_tensor *a = with_grad(2, 3), *b = with_grad(1, 4);
    ck_assert_int_eq(al_optim_add(opt, "a", a, true), AL_OK);
    ck_assert_int_eq(al_optim_add(opt, "again", a, true), AL_OK);
    ck_assert_int_eq(al_optim_add(opt, "b", b, true), AL_OK);
    const double norm = step(opt, 0.5);
    ck_assert_double_eq_tol(norm, 5, 1e-12);
    ck_assert_double_eq_tol(al_item(a), i ? 1.5 : 0.5, 1e-6);
    const char *name;
    ck_assert_ptr_nonnull(al_optim_state(opt, i ? 2 : 1, &name));
    ck_assert_str_eq(name, "m.b");
    ck_assert_ptr_null(al_optim_state(opt, i ? 4 : 2, &name));
    al_optim_free(opt);
    al_release(a);
    al_release(b);
  }
}
END_TEST

/* Two leaves in one memory would each get a part of the gradient. */
START_TEST(parameters_share_no_memory) {
  const int64_t n = 6;
  al_tensor *whole = al_tensor_full(c, AL_F32, 1, &n, 1), *fork = al_fork(c, whole),
            *again = al_detach(c, whole),
            *view = al_run(c, "slice", AL_IN(again), "axis=0 start=4 stop=6"),
            *other = al_run(c, "slice", AL_IN(again), "axis=0 start=0 stop=4"),
            *part = al_detach(c, view), *rest = al_detach(c, other);
  al_optim *opt = al_optim_new(c, "sgd", NULL);
  ck_assert_int_eq(al_optim_add(opt, "whole", whole, false), AL_OK);
  ck_assert_int_eq(al_optim_add(opt, "fork", fork, false), AL_OK);
  ck_assert_int_ne(al_optim_add(opt, "again", again, false), AL_OK);
  says(AL_EVALUE, "'whole' and 'again' are two tensors in the same memory");
  ck_assert_int_ne(al_optim_add(opt, "part", part, false), AL_OK);
  says(AL_EVALUE, "'whole' and 'part'");
  al_optim_free(opt);
  opt = al_optim_new(c, "sgd", NULL);
  ck_assert_int_eq(al_optim_add(opt, "part", part, false), AL_OK);
  ck_assert_int_eq(al_optim_add(opt, "rest", rest, false), AL_OK);
  al_optim_free(opt);
  al_tensor *all[] = {whole, fork, again, view, other, part, rest};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) al_release(all[i]);
}
END_TEST

START_TEST(not_finite_changes_nothing) {
  al_optim *opt = al_optim_new(c, "sgd", NULL);
  al_tensor *a = with_grad(2, INFINITY);
  al_optim_add(opt, "a", a, false);
  const double norm = step(opt, 0.1);
  ck_assert(!isfinite(norm) && al_item(a) == 2 && al_optim_steps(opt) == 0);
  al_optim_free(opt);
  al_release(a);
}
END_TEST

START_TEST(sgd_by_hand) {
  al_opts *o = al_opts_new(c, al_optim_args(c, "sgd"), "sgd");
  al_opts_parse(c, o, "momentum=0.5 weight_decay=0.1");
  al_optim *opt = al_optim_new(c, "sgd", o);
  al_tensor *a = with_grad(2, 3);
  al_optim_add(opt, "a", a, true);
  al_optim_step(opt, 0.1, NULL);
  al_optim_step(opt, 0.1, NULL);
  const double first = 2 * 0.99 - 0.3, second = first * 0.99 - 0.1 * (1.5 + 3);
  ck_assert_double_eq_tol(al_item(a), second, 1e-12);
  al_optim_free(opt);
  al_opts_release(o);
  al_release(a);
}
END_TEST

Suite *suite_test_core(void) {
  Suite *s = suite_create("core");
  TCase *t = tcase_create("core");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, no_tensor_has_no_shape);
  tcase_add_test(t, first_error_wins);
  tcase_add_test(t, nearest_names);
  tcase_add_test(t, memory_is_counted_and_reused);
  tcase_add_loop_test(t, forks_share_until_either_is_written, 0, 14);
  tcase_add_test(t, a_fork_without_memory_changes_nothing);
  tcase_add_test(t, size_classes);
  tcase_add_test(t, conversions);
  tcase_add_test(t, scopes_own_what_ops_return);
  tcase_add_test(t, the_graph_is_gone_after_backward);
  tcase_add_test(t, no_grad_and_detach_record_nothing);
  tcase_add_test(t, gradients_add_without_aliasing);
  tcase_add_test(t, bf16_gradients_add);
  tcase_add_test(t, long_chains);
  tcase_add_test(t, backward_refusals);
  tcase_add_test(t, jitter);
  tcase_add_test(t, copies_between_views_of_one_tensor);
  tcase_add_test(t, writes_under_a_graph_are_errors);
  tcase_add_test(t, no_kernel_is_said);
  tcase_add_test(t, philox_is_the_published_generator);
  tcase_add_test(t, streams);
  tcase_add_test(t, adamw_by_hand);
  tcase_add_test(t, sgd_by_hand);
  tcase_add_test(t, parameters_are_a_set);
  tcase_add_test(t, parameters_share_no_memory);
  tcase_add_test(t, not_finite_changes_nothing);
  suite_add_tcase(s, t);
  return s;
}
