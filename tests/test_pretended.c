/* test_pretended.c: a host read of numbers that lie on a device ends with the name of the op. */
#include "pretended/device.h"
#include <check.h>
#include <string.h>

static al_ctx *c;

static al_status shape(al_ctx *ctx, al_call *k) {
  (void)ctx;
  k->out_meta[0] = k->in_meta[0];
  return AL_OK;
}

static al_status asks(al_ctx *ctx, al_call *k) { return al_host(k->in[0]) ? AL_OK : al_error(ctx); }

static al_status reads(al_ctx *ctx, al_call *k) {
  const void *numbers = al_data(k->in[0]);
  return *(const double *)numbers > 1e300 ? al_error(ctx) : AL_OK;
}

#define PLANTED(stem, f)                                                                           \
  static const al_op stem = {.info = {.name = "planted_" #stem,                                    \
                                      .doc = "",                                                   \
                                      .inputs = (const al_row[]){{"x", 0, ""}, {0}},               \
                                      .outputs = (const al_row[]){{"y", 0, ""}, {0}},              \
                                      .args = (const al_arg[]){{0}}},                              \
                             .shape = shape,                                                       \
                             .forward = f};
PLANTED(ask, asks)
PLANTED(read, reads)

static void run(const al_op *op) {
  pretended_offer();
  c = al_ctx_new();
  al_on(c, "pretended");
  al_tensor *x = al_tensor_full(c, AL_F64, 0, NULL, 1), *y;
  ck_assert_ptr_nonnull(x);
  al_op_run(c, &op->info, AL_IN(x), NULL, &y, 1);
  al_release(x);
  al_release(y);
}

START_TEST(who_asks_is_named) {
  run(&ask);
  ck_assert_int_eq(al_error(c), AL_ESTATE);
  ck_assert_ptr_nonnull(strstr(al_error_message(c, NULL, NULL),
                               "planted_ask: a host pointer into pretended asked for"));
  al_ctx_free(c);
}
END_TEST

/* device.c's handler, which writes the op's name, ends the process with this status. */
enum { FOUND = 97 };
START_TEST(who_reads_ends) { run(&read); }
END_TEST

Suite *suite_test_pretended(void);
Suite *suite_test_pretended(void) {
  Suite *s = suite_create("pretended device");
  TCase *t = tcase_create("host reads");
  tcase_add_test(t, who_asks_is_named);
  tcase_add_exit_test(t, who_reads_ends, FOUND);
  suite_add_tcase(s, t);
  return s;
}
