/* test_grow.c: caches that grow in the memory they have: what every tensor of a history shows, when
 * it is copied, what is recorded. */
#include "../core/core.h"
#include <check.h>
#include <stdlib.h>
#include <string.h>

enum { B = 2, WIDTH = 3, MANY = 40, LONGEST = 60 };
static al_ctx *c;

static void begin(void) {
  c = al_ctx_new();
  al_memory_poison(c, true);
  al_scope_begin(c);
}

static void end(void) {
  ck_assert_msg(al_error(c) == AL_OK, "%s", al_error_message(c, NULL, NULL));
  al_scope_end(c, NULL);
  ck_assert_int_eq(al_memory(c).live, 0);
  al_ctx_free(c);
}

static al_tensor *counts(const double *n) {
  return al_tensor_from(c, AL_I32, 1, (int64_t[]){B}, n, B);
}

/* T new entries, whose numbers begin with `from`. */
static al_tensor *entries(int64_t T, double from) {
  double v[B * LONGEST * WIDTH];
  for (int64_t i = 0; i < B * T * WIDTH; i++) v[i] = from + (double)i;
  return al_tensor_from(c, AL_F32, 3, (int64_t[]){B, T, WIDTH}, v, B * T * WIDTH);
}

typedef struct cache {
  al_tensor *t;
  double count[B], row[B][LONGEST][WIDTH]; /* what each row must show */
} cache;

static void shows(const cache *k, const char *when) {
  const int64_t n = al_size(k->t, 1);
  double v[B * LONGEST * WIDTH];
  ck_assert_int_eq(al_read(k->t, v, al_numel(k->t)), AL_OK);
  for (int b = 0; b < B; b++)
    for (int j = 0; j < (int)k->count[b]; j++)
      ck_assert_msg(memcmp(v + (b * n + j) * WIDTH, k->row[b][j], sizeof k->row[b][j]) == 0,
                    "%s: entry %d of row %d is %g, not %g", when, j, b, v[(b * n + j) * WIDTH],
                    k->row[b][j][0]);
}

/* The cache with T further entries, of which row b takes lengths[b]. */
static cache longer(const cache *k, int64_t T, const double *lengths, double from) {
  cache y = *k;
  double v[B * LONGEST * WIDTH];
  al_tensor *more = entries(T, from);
  al_read(more, v, al_numel(more));
  for (int b = 0; b < B; b++)
    for (int j = 0; j < (int)lengths[b]; j++)
      memcpy(y.row[b][(int)y.count[b]++], v + (b * T + j) * WIDTH, sizeof y.row[0][0]);
  y.t = al_run(c, "append", AL_IN(k->t, more, counts(k->count), counts(lengths)), "");
  ck_assert_msg(y.t != NULL, "%s", al_error_message(c, NULL, NULL));
  return y;
}

/* Histories that branch at random, rows of other lengths, detached and forked tensors among them:
 * each shows what it was given, whatever became of the others. */
START_TEST(histories) {
  begin();
  uint64_t s = (uint64_t)_i + 1;
#define DRAW(n) ((int64_t)((s = s * 6364136223846793005u + 1442695040888963407u) >> 33) % (n))
  cache all[MANY] = {{.t = al_tensor_new(c, AL_F32, 3, (int64_t[]){B, 0, WIDTH})}};
  for (int i = 1; i < MANY; i++) {
    const cache *from = &all[DRAW(3) ? i - 1 : DRAW(i)];
    if (al_size(from->t, 1) + 4 > LONGEST) from = &all[0];
    const int64_t T = DRAW(4) ? 1 : DRAW(5), how = DRAW(6);
    const double n[B] = {(double)(DRAW(3) ? T : DRAW(T + 1)), (double)(DRAW(3) ? T : DRAW(T + 1))};
    cache k = *from;
    if (how == 0) k.t = al_detach(c, k.t);
    if (how == 1) k.t = al_fork(c, k.t);
    all[i] = longer(&k, T, n, 1000.0 * i);
    for (int j = 0; j <= i; j++) shows(&all[j], "history");
  }
  end();
}
END_TEST

START_TEST(where_it_grows) {
  begin();
  const double one[B] = {1, 1};
  cache k = {.t = al_tensor_new(c, AL_F32, 3, (int64_t[]){B, 0, WIDTH})};
  for (int i = 0; i < 4; i++) k = longer(&k, 1, one, 10 * i);
  while (al_size(al_growing_whole(c, k.t), 1) == al_size(k.t, 1)) k = longer(&k, 1, one, 50);
  const cache first = longer(&k, 1, one, 100), second = longer(&k, 1, one, 200);
  ck_assert_ptr_eq(al_data(first.t), al_data(k.t));
  ck_assert_ptr_ne(al_data(second.t), al_data(k.t)); /* the place is taken */
  const cache third = longer(&second, 1, one, 300);
  ck_assert_ptr_eq(al_data(third.t), al_data(second.t));
  al_tensor *fork = al_fork(c, third.t); /* the writer copies */
  const cache fourth = longer(&third, 1, one, 400);
  ck_assert_ptr_ne(al_data(fourth.t), al_data(third.t));
  al_write(fork, (double[B * LONGEST * WIDTH]){0}, al_numel(fork));
  shows(&first, "first"), shows(&second, "second"), shows(&third, "third"), shows(&fourth, "4th");
  ck_assert_int_le(al_growing_bytes(fourth.t), al_numel(fourth.t) * 4 * 3 / 2);
  ck_assert(al_growing_whole(c, fork) == fork);
  end();
}
END_TEST

/* What is recorded is copied, and goes on to give its gradient when others grow. */
START_TEST(recorded) {
  begin();
  const double one[B] = {1, 1}, kept[B] = {2, 1};
  cache k = {.t = al_tensor_new(c, AL_F32, 3, (int64_t[]){B, 0, WIDTH})};
  for (int i = 0; i < 3; i++) k = longer(&k, 1, one, 10 * i);
  al_tensor *more = entries(2, 100);
  al_requires_grad(more, true);
  al_tensor *y = al_run(c, "append", AL_IN(k.t, more, counts(kept)), "");
  ck_assert(al_contiguous(y) && al_growing_whole(c, y) == y);
  al_tensor *cost = al_run(c, "sum", AL_IN(al_run(c, "mul", AL_IN(y, y), "")), "");
  for (int i = 0; i < 3; i++) k = longer(&k, 1, one, 10 * i);
  ck_assert_int_eq(al_backward(c, cost, NULL), AL_OK);
  double g[B * 2 * WIDTH], v[B * 2 * WIDTH];
  al_read(al_grad(more), g, B * 2 * WIDTH);
  al_read(more, v, B * 2 * WIDTH);
  for (int i = 0; i < B * 2 * WIDTH; i++) ck_assert_double_eq(g[i], 2 * v[i]);
  end();
}
END_TEST

Suite *suite_test_grow(void);
Suite *suite_test_grow(void) {
  Suite *s = suite_create("core: caches that grow");
  TCase *t = tcase_create("grow");
  tcase_set_timeout(t, 60);
  tcase_add_loop_test(t, histories, 0, 60);
  tcase_add_test(t, where_it_grows);
  tcase_add_test(t, recorded);
  suite_add_tcase(s, t);
  return s;
}
