/* test_state.c: going from state to state with a family that declares none (it is replayed) and
 * with those that do: equal to the whole, the given state unchanged, refusals. */
#include "attn_case.h"
#include <check.h>
#include <math.h>
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

Suite *suite_test_state(void);
Suite *suite_test_state(void) {
  Suite *s = suite_create("attention: state");
  TCase *t = tcase_create("state");
  tcase_set_timeout(t, 120);
  tcase_add_loop_test(t, from_state_to_state, 0, attn_case_variants());
  tcase_add_loop_test(t, lengths_out_of_range, 0, attn_case_variants());
  tcase_add_loop_test(t, restored_count, 0, attn_case_variants());
  suite_add_tcase(s, t);
  return s;
}
