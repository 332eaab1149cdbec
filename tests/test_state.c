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
  const double *a = al_data(whole), *b = al_data(joined), *t = al_data(tokens);
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

Suite *suite_test_state(void);
Suite *suite_test_state(void) {
  Suite *s = suite_create("attention: state");
  TCase *t = tcase_create("state");
  tcase_set_timeout(t, 120);
  tcase_add_loop_test(t, from_state_to_state, 0, attn_case_variants());
  suite_add_tcase(s, t);
  return s;
}
