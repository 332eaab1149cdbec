/* test_documents.c: packed rows where memory ends: every allocation of a run fails once, nothing is
 * kept, and the same documents go on to the same bits. What they compute: check_documents.c of the
 * driver and lua/test_packed.lua. */
#include "attn_case.h"
#include <check.h>
#include <stdlib.h>
#include <string.h>

enum { B = 2, T = 12 };
static const int32_t starts[B * T] = {0, 0, 0, 0, 0, 5, 6, 6, 6, 6, 6,  6, /* three documents */
                                      0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 10, 10};

static attn_documents *documents(al_ctx *c) {
  double v[B * T];
  for (int i = 0; i < B * T; i++) v[i] = starts[i];
  al_tensor *t = al_tensor_from(c, AL_I32, 2, (int64_t[]){B, T}, v, B * T);
  attn_documents *d = t ? attn_documents_new(c, t) : NULL;
  al_release(t);
  return d;
}

/* Output, and with a state the components of the next one, as numbers; NULL with the error pending. */
static double *run(const attn_case *k, attn_documents *d, const attn_state *st, int64_t *n) {
  al_ctx *c = k->c;
  attn_state *next = NULL;
  al_scope_begin(c);
  const attn_in in = {
      .size = sizeof in, .q = k->q, .k = k->k, .v = k->v, .x = k->x, .causal = true};
  al_tensor *t = st ? attn_continue_packed(c, k->a, &in, d, st, true, &next)
                    : attn_forward_packed(c, k->a, &in, d);
  double *v = NULL;
  *n = 0;
  for (int i = 0; t; t = next ? attn_state_at(next, i++, NULL, NULL) : NULL) {
    v = realloc(v, (size_t)(*n + al_numel(t) + 1) * sizeof *v);
    ck_assert_int_eq(al_read(t, v + *n, al_numel(t)), AL_OK);
    *n += al_numel(t);
  }
  attn_state_free(next);
  al_scope_end(c, NULL);
  return v;
}

/* from: 0 without a state, 1 from an empty one, 2 from one that has seen the same tokens. */
static void fail_each(const char *name, int from) {
  al_ctx *c = al_ctx_new();
  attn_case k = attn_case_new(c, name, "", AL_F64, B, T, 2, true, NULL, 1);
  attn_state *st = from ? attn_state_new(c, k.a, B) : NULL, *next = NULL;
  if (from == 2) {
    const attn_in in = {.size = sizeof in, .q = k.q, .k = k.k, .v = k.v, .x = k.x, .causal = true};
    al_release(attn_continue(c, k.a, &in, st, true, &next));
    attn_state_free(st);
    st = next;
  }
  int64_t n, m;
  attn_documents *d = documents(c);
  double *want = run(&k, d, st, &n);
  ck_assert_msg(want != NULL, "%s: %s", name, al_error_message(c, NULL, NULL));
  attn_documents_free(d);
  const int64_t live = al_memory(c).live;
  int at = 1;
  for (; at < 2000; at++) {
    al_memory_fail_at(c, at);
    d = documents(c);
    double *got = d ? run(&k, d, st, &m) : NULL;
    al_memory_fail_at(c, 0);
    if (al_error(c) != AL_OK) {
      ck_assert_int_eq(al_error(c), AL_ENOMEM);
      al_error_clear(c);
      free(got);
      got = d ? run(&k, d, st, &m) : want; /* the same documents once more */
      ck_assert_msg(got != NULL, "%s: %s", name, al_error_message(c, NULL, NULL));
      if (d) ck_assert_int_eq(m, n);
      ck_assert_mem_eq(got, want, (size_t)n * sizeof *got);
      if (d) free(got);
      attn_documents_free(d);
      ck_assert_msg(al_memory(c).live == live, "%s: allocation %d: %lld bytes kept", name, at,
                    (long long)(al_memory(c).live - live));
      continue;
    }
    free(got);
    attn_documents_free(d);
    break;
  }
  ck_assert_int_gt(at, 20);
  ck_assert_int_lt(at, 2000);
  free(want);
  attn_state_free(st);
  attn_case_free(&k);
  ck_assert_int_eq(al_memory(c).live, 0);
  al_ctx_free(c);
}

START_TEST(allocations) {
  static const char *const names[] = {"p1/linear_elu", "p1/softmax", "p1/linear_elu"};
  fail_each(names[_i], _i);
}
END_TEST

Suite *suite_test_documents(void);
Suite *suite_test_documents(void) {
  Suite *s = suite_create("packed documents");
  TCase *t = tcase_create("memory");
  tcase_set_timeout(t, 120);
  tcase_add_loop_test(t, allocations, 0, 3);
  suite_add_tcase(s, t);
  return s;
}
