/* test_state.c: going from state to state with a family that declares none (it is replayed) and
 * with those that do: equal to the whole, the given state unchanged, refusals. */
#include "attn_case.h"
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* window=1..T of the inputs of k from `at` on; in a scope. */
static attn_in part(const attn_case *k, int64_t at, int64_t n) {
  attn_in in = {.size = sizeof in, .q = k->q, .k = k->k, .v = k->v, .x = k->x, .causal = true};
  al_tensor **const t[] = {&in.q, &in.k, &in.v, &in.x};
  for (int i = 0; i < 4; i++)
    if (*t[i])
      *t[i] = al_run(k->c, "slice", AL_IN(*t[i]), "axis=1 start=%lld stop=%lld", (long long)at,
                     (long long)(at + n));
  return in;
}

START_TEST(from_state_to_state) {
  al_ctx *c = al_ctx_new();
  const char *name = attn_case_variant(_i);
  attn_case k = attn_case_new(c, name, "", AL_F64, 2, 9, 2, true, NULL, 3);
  const attn_in all = {.size = sizeof all, .q = k.q, .k = k.k, .v = k.v, .x = k.x, .causal = true};
  al_tensor *whole = attn_forward(c, k.a, &all), *tokens = attn_recur(c, k.a, &all);
  ck_assert_msg(whole && tokens, "%s: %s", name, al_error_message(c, NULL, NULL));
  attn_state *st = attn_state_new(c, k.a, 2);
  const int64_t cuts[] = {0, 3, 4, 9};
  al_scope_begin(c);
  al_tensor *parts[3];
  for (int i = 0; i < 3; i++) {
    attn_state *next;
    const attn_in in = part(&k, cuts[i], cuts[i + 1] - cuts[i]);
    parts[i] = attn_continue(c, k.a, &in, st, false, &next);
    ck_assert_msg(parts[i] != NULL, "%s: %s", name, al_error_message(c, NULL, NULL));
    ck_assert_int_eq(attn_state_position(next), cuts[i + 1]);
    attn_state_free(st);
    st = next;
  }
  al_tensor *joined = al_run(c, "concat", AL_IN(parts[0], parts[1], parts[2]), "axis=1");
  const double *a = al_host(whole), *b = al_host(joined), *t = al_host(tokens);
  for (int64_t i = 0; i < al_numel(whole); i++) {
    ck_assert_msg(fabs(a[i] - b[i]) < 1e-10, "%s: split: element %d: %g, %g", name, (int)i, a[i],
                  b[i]);
    ck_assert_msg(fabs(a[i] - t[i]) < 1e-10, "%s: tokens: element %d: %g, %g", name, (int)i, a[i],
                  t[i]);
  }
  al_scope_end(c, NULL);
  attn_state *copy = attn_state_copy(c, st);
  ck_assert_int_eq(attn_state_size(copy), attn_state_size(st));
  attn_state_free(copy);
  attn_state_free(st);
  al_release(whole);
  al_release(tokens);
  attn_case_free(&k);
  ck_assert_int_eq(al_memory(c).live, 0);
  al_ctx_free(c);
}
END_TEST

/* A state after 5 tokens of k. */
static attn_state *after_five(const attn_case *k) {
  attn_state *st = attn_state_new(k->c, k->a, k->B), *next = NULL;
  al_scope_begin(k->c);
  const attn_in in = part(k, 0, 5);
  attn_continue(k->c, k->a, &in, st, true, &next);
  al_scope_end(k->c, NULL);
  attn_state_free(st);
  ck_assert_msg(next != NULL, "%s", al_error_message(k->c, NULL, NULL));
  return next;
}

/* Lengths past the keys mean all of them, lengths below 0 none: from a state as without one. */
START_TEST(lengths_out_of_range) {
  al_ctx *c = al_ctx_new();
  const char *name = attn_case_variant(_i);
  attn_case k = attn_case_new(c, name, "", AL_F64, 2, 8, 2, true, NULL, 1);
  attn_state *st = after_five(&k), *next[2];
  al_tensor *y[2];
  al_scope_begin(c);
  for (int i = 0; i < 2; i++) {
    attn_in in = part(&k, 5, 3);
    in.lengths = al_tensor_new(c, AL_I32, 1, (int64_t[]){2});
    int32_t *n = al_host(in.lengths);
    n[0] = i ? INT32_MAX : 3, n[1] = i ? INT32_MIN : 0;
    y[i] = attn_continue(c, k.a, &in, st, true, &next[i]);
    ck_assert_msg(y[i] != NULL, "%s: %s", name, al_error_message(c, NULL, NULL));
  }
  ck_assert_msg(memcmp(al_host(y[0]), al_host(y[1]), (size_t)al_numel(y[0]) * 8) == 0, "%s", name);
  const int32_t *n = al_host(attn_state_get(next[1], "count"));
  ck_assert_int_eq(n[0], 8);
  ck_assert_int_eq(n[1], 5);
  al_scope_end(c, NULL);
  for (int i = 0; i < 2; i++) attn_state_free(next[i]);
  attn_state_free(st);
  attn_case_free(&k);
  ck_assert_int_eq(al_memory(c).live, 0);
  al_ctx_free(c);
}
END_TEST

/* The components of st with another count, and another position. */
static attn_state *restored(const attn_case *k, const attn_state *st, int64_t position,
                            al_tensor *count) {
  const char *names[32];
  al_tensor *t[32];
  const int n = attn_state_count(st);
  for (int i = 0; i < n; i++) {
    t[i] = attn_state_at(st, i, &names[i], NULL);
    if (strcmp(names[i], "count") == 0) t[i] = count;
  }
  return attn_state_restore(k->c, k->a, position, n, names, t);
}

START_TEST(restored_count) {
  al_ctx *c = al_ctx_new();
  const char *name = attn_case_variant(_i);
  attn_case k = attn_case_new(c, name, "", AL_F64, 2, 6, 2, true, NULL, 1);
  attn_state *st = after_five(&k), *next = NULL;
  al_scope_begin(c);
  al_tensor *wide = al_tensor_new(c, AL_I32, 2, (int64_t[]){2, 2});
  for (int i = 0; i < 4; i++) ((int32_t *)al_host(wide))[i] = i % 2 ? 99 : 5;
  al_tensor *column = al_run(c, "slice", AL_IN(wide), "axis=1 start=0 stop=1");
  column = al_run(c, "squeeze", AL_IN(column), "axis=1");
  attn_state *own = restored(&k, st, 5, column); /* not packed */
  ck_assert_msg(own != NULL, "%s: %s", name, al_error_message(c, NULL, NULL));
  const attn_in in = part(&k, 5, 1);
  ck_assert_msg(attn_continue(c, k.a, &in, own, true, &next) != NULL, "%s: %s", name,
                al_error_message(c, NULL, NULL));
  for (int b = 0; b < 2; b++)
    ck_assert_int_eq(((int32_t *)al_host(attn_state_get(next, "count")))[b], 6);
  attn_state_free(own);
  attn_state_free(next);

  ck_assert(restored(&k, st, (int64_t)INT32_MAX + 1, column) == NULL);
  ck_assert(strstr(al_error_message(c, NULL, NULL), "position of 0..2147483647 needed") != NULL);
  al_error_clear(c);
  own = restored(&k, st, INT32_MAX, column); /* no token more fits */
  ck_assert(own && attn_continue(c, k.a, &in, own, true, &next) == NULL);
  ck_assert(strstr(al_error_message(c, NULL, NULL), "at most 2147483647 tokens") != NULL);
  al_error_clear(c);
  attn_state_free(own);
  al_scope_end(c, NULL);
  attn_state_free(st);
  attn_case_free(&k);
  ck_assert_int_eq(al_memory(c).live, 0);
  al_ctx_free(c);
}
END_TEST

/* ---- caches ---------------------------------------------------------------------------------- */

static const char *const caches[] = {"", "decay=constant", "impl=fused decay=constant",
                                     "expr='exp(s)+j/i' similarity=expr",
                                     "input_gate.activation=sigmoid"};

/* Token `at` of k after st, which is freed when `over`; *y its output. */
static attn_state *token(const attn_case *k, attn_state *st, int64_t at, bool over, al_tensor **y) {
  attn_state *next;
  const attn_in in = part(k, at, 1);
  *y = attn_continue(k->c, k->a, &in, st, true, &next);
  ck_assert_msg(*y != NULL, "%s", al_error_message(k->c, NULL, NULL));
  if (over) attn_state_free(st);
  return next;
}

/* The output of row b of the tokens `at` (n of them) as one text. */
static al_tensor *as_text(const attn_case *k, const int64_t *at, int64_t n, int64_t b) {
  attn_in in = part(k, 0, 1);
  al_tensor **const t[] = {&in.q, &in.k, &in.v, &in.x};
  al_tensor *const from[] = {k->q, k->k, k->v, k->x};
  for (int i = 0; i < 4; i++) {
    al_tensor *one[32];
    for (int64_t j = 0; from[i] && j < n; j++)
      one[j] = al_run(k->c, "slice", AL_IN(from[i]), "axis=1 start=%lld stop=%lld",
                      (long long)at[j], (long long)at[j] + 1);
    if (from[i]) *t[i] = al_run(k->c, "concat", one, (int)n, "axis=1");
    if (from[i])
      *t[i] = al_run(k->c, "slice", AL_IN(*t[i]), "axis=0 start=%lld stop=%lld", (long long)b,
                     (long long)b + 1);
  }
  return attn_forward(k->c, k->a, &in);
}

static void same_token(al_tensor *y, int64_t b, al_tensor *text, int64_t row, const char *what) {
  double *got = attn_case_values(y), *want = attn_case_values(text);
  const int64_t n = al_size(y, 2) * al_size(y, 3);
  const double limit = al_type(y) == AL_F64 ? 1e-12 : 2e-6;
  for (int64_t i = 0; i < n; i++)
    ck_assert_msg(fabs(got[b * n + i] - want[row * n + i]) < limit, "%s: row %d: %.17g, not %.17g",
                  what, (int)b, got[b * n + i], want[row * n + i]);
  free(got);
  free(want);
}

/* Two texts go on from one state in turns, a third from its copy; new memory is NaN. None sees what
 * another wrote, and the state shows what it showed. */
START_TEST(caches_grow_apart) {
  const char *options = caches[_i / 4];
  al_ctx *c = al_ctx_new();
  al_memory_poison(c, true);
  attn_case k = attn_case_new(c, "kernel_attention", options, _i & 1 ? AL_F64 : AL_F32,
                              _i & 2 ? 2 : 1, 16, 2, true, NULL, 1);
  const bool record = al_grad_mode(c, false);
  al_scope_begin(c);
  al_tensor *y;
  attn_state *st = attn_state_new(c, k.a, k.B);
  for (int64_t i = 0; i < 6; i++) st = token(&k, st, i, true, &y);
  double *shown = attn_case_values(attn_state_get(st, "k"));
  attn_state *go[] = {st, st, attn_state_copy(c, st)};
  for (int64_t i = 0; i < 3; i++)
    for (int j = 0; j < 3; j++) {
      const int64_t next = 6 + 3 * j + i;
      int64_t at[16] = {0, 1, 2, 3, 4, 5};
      go[j] = token(&k, go[j], next, go[j] != st, &y);
      for (int64_t m = 0; m <= i; m++) at[6 + m] = 6 + 3 * j + m;
      for (int64_t b = 0; b < k.B; b++) same_token(y, b, as_text(&k, at, 7 + i, b), 6 + i, options);
    }
  double *after = attn_case_values(attn_state_get(st, "k"));
  ck_assert_msg(memcmp(shown, after, (size_t)al_numel(attn_state_get(st, "k")) * 8) == 0, "%s",
                options);
  free(shown);
  free(after);
  for (int j = 0; j < 3; j++) attn_state_free(go[j]);
  attn_state_free(st);
  al_scope_end(c, NULL);
  al_grad_mode(c, record);
  attn_case_free(&k);
  ck_assert_int_eq(al_memory(c).live, 0);
  al_ctx_free(c);
}
END_TEST

/* Rows of other lengths: row 1 has 3 of the first 5 tokens. What lies past a row's count is NaN. */
START_TEST(caches_of_uneven_rows) {
  if (strstr(caches[_i / 2], "expr=")) return; /* reads the position of the row: refused */
  al_ctx *c = al_ctx_new();
  al_memory_poison(c, true);
  attn_case k = attn_case_new(c, "kernel_attention", caches[_i / 2], _i & 1 ? AL_F64 : AL_F32, 2,
                              16, 2, true, NULL, 1);
  const bool record = al_grad_mode(c, false);
  al_scope_begin(c);
  attn_state *st = attn_state_new(c, k.a, 2), *next;
  attn_in in = part(&k, 0, 5);
  in.lengths = al_tensor_from(c, AL_I32, 1, (int64_t[]){2}, (double[]){5, 3}, 2);
  ck_assert(attn_continue(c, k.a, &in, st, true, &next) != NULL);
  attn_state_free(st);
  int64_t at[] = {0, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0}, less[] = {0, 1, 2, 0, 0, 0, 0, 0, 0};
  st = next;
  for (int64_t i = 0; i < 6; i++) {
    al_tensor *y;
    const int64_t behind = attn_state_position(st);
    for (int n = 0; i == 1 && n < attn_state_count(st); n++) { /* past the count of row 1 */
      al_tensor *t = attn_state_at(st, n, NULL, NULL);
      if (al_type(t) == AL_I32) continue;
      al_tensor *rest = al_run(c, "slice", AL_IN(t), "axis=0 start=1 stop=2");
      rest = al_run(c, "slice", AL_IN(rest), "axis=1 start=4 stop=%lld", (long long)behind);
      double *nan = attn_case_values(rest);
      for (int64_t j = 0; j < al_numel(rest); j++) nan[j] = NAN;
      al_write(rest, nan, al_numel(rest));
      free(nan);
    }
    at[5 + i] = less[3 + i] = 7 + i;
    st = token(&k, st, 7 + i, true, &y);
    same_token(y, 0, as_text(&k, at, 6 + i, 0), 5 + i, caches[_i / 2]);
    same_token(y, 1, as_text(&k, less, 4 + i, 1), 3 + i, caches[_i / 2]);
  }
  attn_state_free(st);
  al_scope_end(c, NULL);
  al_grad_mode(c, record);
  attn_case_free(&k);
  ck_assert_int_eq(al_memory(c).live, 0);
  al_ctx_free(c);
}
END_TEST

/* Keys with history are copied, values without grow where they are: the same outputs, and gradients
 * that no later token spoils. */
START_TEST(caches_partly_recorded) {
  al_ctx *c = al_ctx_new();
  attn_case k = attn_case_new(c, "kernel_attention", "impl=fused", AL_F64, 2, 16, 2, true, NULL, 1);
  al_scope_begin(c);
  al_tensor *y[2][3];
  for (int j = 0; j < 2; j++) {
    attn_state *st = attn_state_new(c, k.a, 2);
    for (int64_t i = 0; i < 6; i++) st = token(&k, st, i, true, &y[j][0]);
    for (int64_t i = 0; i < 3; i++) {
      al_requires_grad(k.k, j && i == 1);
      st = token(&k, st, 6 + i, true, &y[j][i]);
    }
    attn_state_free(st);
  }
  for (int i = 0; i < 3; i++)
    for (int64_t b = 0; b < 2; b++) same_token(y[0][i], b, y[1][i], b, "partly recorded");
  ck_assert_int_eq(al_backward(c, al_run(c, "sum", AL_IN(y[1][1]), ""), NULL), AL_OK);
  ck_assert_ptr_nonnull(al_grad(k.k));
  al_scope_end(c, NULL);
  attn_case_free(&k);
  al_ctx_free(c);
}
END_TEST

/* 400 tokens take a few copies of the cache, which has at most half as much room again. */
START_TEST(caches_are_not_copied) {
  al_ctx *c = al_ctx_new();
  attn_case k = attn_case_new(c, "kernel_attention", "", AL_F32, 1 + _i, 400, 2, true, NULL, 1);
  const bool record = al_grad_mode(c, false);
  attn_state *st = attn_state_new(c, k.a, k.B);
  const void *at = NULL;
  int copies = 0;
  for (int64_t i = 0; i < 400; i++) {
    al_tensor *y;
    al_scope_begin(c);
    st = token(&k, st, i, true, &y);
    al_scope_end(c, NULL);
    copies += al_data(attn_state_get(st, "k")) != at;
    at = al_data(attn_state_get(st, "k"));
    ck_assert_int_le(attn_state_held(st), attn_state_size(st) * 3 / 2 + 64);
  }
  ck_assert_msg(copies < 20, "%d copies", copies);
  attn_state_free(st);
  al_grad_mode(c, record);
  attn_case_free(&k);
  ck_assert_int_eq(al_memory(c).live, 0);
  al_ctx_free(c);
}
END_TEST

Suite *suite_test_state(void);
Suite *suite_test_state(void) {
  Suite *s = suite_create("attention: state");
  TCase *t = tcase_create("state");
  tcase_set_timeout(t, 120);
  tcase_add_loop_test(t, from_state_to_state, 0, attn_case_variants());
  tcase_add_loop_test(t, lengths_out_of_range, 0, attn_case_variants());
  tcase_add_loop_test(t, restored_count, 0, attn_case_variants());
  const int n = (int)(sizeof caches / sizeof *caches);
  tcase_add_loop_test(t, caches_grow_apart, 0, 4 * n);
  tcase_add_loop_test(t, caches_of_uneven_rows, 0, 2 * n);
  tcase_add_test(t, caches_partly_recorded);
  tcase_add_loop_test(t, caches_are_not_copied, 0, 2);
  suite_add_tcase(s, t);
  return s;
}
