/* test_module.c: cards as devices: what is said where there is none, and where there is one the numbers
 * that are the CPU's bit for bit and what a broken card leaves. */
#include "../core/core.h"
#include "../kernels/copy.h"
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

START_TEST(names) {
  al_ctx *c = al_ctx_new();
  int cards;
  const char *state = al_cuda(&cards);
  ck_assert(*state && cards >= 0);
  ck_assert_ptr_null(al_on(c, "cuda:x"));
  ck_assert_int_eq(al_error(c), AL_ENAME);
  ck_assert_ptr_nonnull(
      strstr(al_error_message(c, NULL, NULL), "cuda or cuda:N needed, got 'cuda:x'"));
  al_error_clear(c);
  ck_assert_ptr_null(al_on(c, "cuda:99"));
  if (cards == 0) ck_assert_ptr_nonnull(strstr(al_error_message(c, NULL, NULL), al_cuda(&cards)));
  else ck_assert_ptr_nonnull(strstr(al_error_message(c, NULL, NULL), "as this machine has"));
  al_error_clear(c);
  if (cards) {
    ck_assert_str_eq(al_on(c, "cuda:0"), "cpu");
    ck_assert_str_eq(al_on(c, "cpu"), "cuda");
  }
  al_ctx_free(c);
}
END_TEST

START_TEST(drawn_alike) {
  enum { N = 100003 };
  al_ctx *c = al_ctx_new();
  int cards;
  al_cuda(&cards);
  double *v[2] = {malloc(N * sizeof(double)), malloc(N * sizeof(double))};
  for (int normal = 0; cards && normal < 2; normal++)
    for (int type = AL_F64; type <= AL_BF16; type++) {
      for (int there = 0; there < 2; there++) {
        al_on(c, there ? "cuda" : "cpu");
        al_tensor *t = al_tensor_new(c, (al_dtype)type, 1, (const int64_t[]){N});
        if (normal) al_fill_normal(t, 77, 0.25, 3);
        else al_fill_uniform(t, 77, -0.3, 1.7);
        ck_assert_int_eq(al_read(t, v[there], N), AL_OK);
        al_release(t);
      }
      ck_assert_mem_eq(v[0], v[1], N * sizeof(double));
    }
  free(v[0]);
  free(v[1]);
  al_ctx_free(c);
}
END_TEST

/* Memory that is given out is NaN, new or used, of any size, and most of it is used again. */
START_TEST(poisoned) {
  enum { MOST = 200000 };
  static const int64_t sizes[] = {1, 3, 100, 1025, 20000, MOST};
  enum { SIZES = sizeof sizes / sizeof *sizes, TURNS = 300 };
  al_ctx *c = al_ctx_new();
  int cards;
  al_cuda(&cards);
  al_memory_poison(c, true);
  double *v = malloc(MOST * sizeof *v);
  if (cards) al_on(c, "cuda");
  int64_t after_half = 0;
  for (int turn = 0; cards && turn < TURNS; turn++) {
    const int64_t n = sizes[turn % SIZES];
    al_tensor *t = al_tensor_new(c, turn % 2 ? AL_F32 : AL_F64, 1, &n);
    ck_assert_int_eq(al_read(t, v, n), AL_OK);
    for (int64_t i = 0; i < n; i++)
      ck_assert_msg(v[i] != v[i], "turn %d: %lld", turn, (long long)i);
    al_tensor *full = al_tensor_full(c, al_type(t), 1, &n, 2); /* what is given back is no NaN */
    al_release(full);
    al_release(t);
    if (turn == TURNS / 2) after_half = al_memory(c).cached;
  }
  ck_assert_int_eq(al_memory(c).cached, after_half);
  free(v);
  al_ctx_free(c);
}
END_TEST

/* A kernel that writes nowhere ends the use of the card: every call after it says so, by its name. */
START_TEST(broken_card) {
  al_ctx *c = al_ctx_new();
  int cards;
  const char *state = al_cuda(&cards);
  if (cards && !strstr(state, "emulated")) { /* there it would end the test */
    al_on(c, "cuda");
    al_tensor *t = al_tensor_full(c, AL_F32, 1, (const int64_t[]){8}, 1);
    double v[8];
    ck_assert_int_eq(al_read(t, v, 8), AL_OK);
    ALK_RUN(al_where(t), fill, 8, (void *)0x100, 1.0);
    for (int i = 0; i < 3; i++) {
      if (i == 1) ck_assert_ptr_null(al_run(c, "exp", AL_IN(t), ""));
      else ck_assert_int_ne(al_read(t, v, 8), AL_OK);
      const char *text = al_error_message(c, NULL, NULL);
      ck_assert_msg(strstr(text, "a kernel of fill .. ") &&
                        strstr(text, "this process can use cuda no more"),
                    "%s", text);
      al_error_clear(c);
    }
    al_release(t);
    al_on(c, "cpu");
    al_tensor *here = al_tensor_full(c, AL_F32, 1, (const int64_t[]){8}, 1);
    ck_assert_int_eq(al_read(here, v, 8), AL_OK);
    al_release(here);
  }
  al_ctx_free(c);
}
END_TEST

/* A product of that size on the card; its numbers into v. */
static void product(al_ctx *c, int64_t n, double *v) {
  al_tensor *a = al_tensor_new(c, AL_F32, 2, (const int64_t[]){n, n});
  al_fill_normal(a, 5, 0, 1);
  al_tensor *y = al_run(c, "matmul", AL_IN(a, a), "");
  ck_assert_int_eq(al_read(y, v, n * n), AL_OK);
  al_release(a);
  al_release(y);
}

/* What one context chose, another one takes and then computes with, bit for bit; a text that is
 * somebody's is data. On the CPU there is nothing to choose. */
START_TEST(plans) {
  enum { N = 40 };
  int cards;
  al_cuda(&cards);
  al_ctx *c[2] = {al_ctx_new(), al_ctx_new()};
  char *none = al_plans_save(c[0], "cpu");
  ck_assert_str_eq(none, "");
  free(none);
  ck_assert_int_eq(al_plans_time(c[0], "cpu", true), AL_OK);
  ck_assert_int_eq(al_plans_load(c[0], "cpu", ""), AL_OK);
  ck_assert_int_eq(al_plans_load(c[0], "cpu", "card x"), AL_EVALUE);
  al_error_clear(c[0]);
  if (cards) {
    static double v[2][N * N];
    for (int i = 0; i < 2; i++) al_on(c[i], "cuda");
    ck_assert_int_eq(al_plans_time(c[0], "cuda", true), AL_OK);
    product(c[0], N, v[0]);
    ck_assert_int_eq(al_plans_time(c[0], "cuda", false), AL_OK);
    product(c[0], N - 1, v[1]);
    char *text = al_plans_save(c[0], "cuda");
    ck_assert_msg(text != NULL, "%s", al_error_message(c[0], NULL, NULL));
    ck_assert(strncmp(text, "card ", 5) == 0 && strstr(text, "\nlibrary cuBLASLt "));
    ck_assert(strstr(text, "\nproduct m=39 n=39 k=39 ") && strstr(text, "\nproduct m=40 n=40 "));
    ck_assert_int_eq(al_plans_load(c[1], "cuda", text), AL_OK);
    char *same = al_plans_save(c[1], "cuda");
    ck_assert_str_eq(same, text);
    free(same);
    product(c[1], N, v[1]);
    ck_assert_mem_eq(v[0], v[1], sizeof v[0]);
    static const struct {
      const char *old, *now, *says;
    } spoils[] = {{"card ", "card X", "plans of products for '"},
                  {"product m=40", "product m=0", "line 4: m"},
                  {" batch=1 ", " batch=-1 ", ": batch"},
                  {" dtype=1", " dtype=3", ": dtype"},
                  {" tile=", " tile=x", ": tile"},
                  {" tile=", " tile=999999999999", ": tile"},
                  {" algorithm=", " algorithm=99999", ": algorithm"},
                  {" add=0", "", ": add"},
                  {" add=0", " add=0 extra=1", ": bias"},
                  {"\nproduct", "\nProduct", ": product"}};
    for (size_t i = 0; i < sizeof spoils / sizeof *spoils; i++) {
      const char *at = strstr(text, spoils[i].old);
      ck_assert_ptr_nonnull(at);
      char *bad = malloc(strlen(text) + 64);
      sprintf(bad, "%.*s%s%s", (int)(at - text), text, spoils[i].now, at + strlen(spoils[i].old));
      ck_assert_int_eq(al_plans_load(c[1], "cuda", bad), AL_EVALUE);
      ck_assert_msg(strstr(al_error_message(c[1], NULL, NULL), spoils[i].says), "%s: %s",
                    spoils[i].now, al_error_message(c[1], NULL, NULL));
      al_error_clear(c[1]);
      free(bad);
    }
    free(text);
  }
  for (int i = 0; i < 2; i++) al_ctx_free(c[i]);
}
END_TEST

Suite *suite_test_module(void);
Suite *suite_test_module(void) {
  Suite *s = suite_create("module");
  TCase *t = tcase_create("cards");
  tcase_add_test(t, names);
  tcase_add_test(t, drawn_alike);
  tcase_add_test(t, poisoned);
  tcase_add_test(t, plans);
  tcase_add_test(t, broken_card);
  suite_add_tcase(s, t);
  return s;
}
