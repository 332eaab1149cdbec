/* main.c: runs the C tests: `attnlab_tests` all of them, `attnlab_tests check_ops ...` these.
 *
 * Each other file tests/<stem>.c defines Suite *suite_<stem>(void); the build lists them. Tests run
 * in forked children, which may use threads only as long as this process never has: no suite
 * function may enter a parallel region.
 */
#define _DEFAULT_SOURCE /* setenv */
#include "../core/attnlab.h"
#include <check.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEST_SUITE_FILE(stem) Suite *suite_##stem(void);
#include "test_suites.inc"
#undef TEST_SUITE_FILE

Suite *suite_main(void) { return NULL; } /* this file is in the list, too */

static const struct {
  const char *name;
  Suite *(*make)(void);
} suites[] = {
#define TEST_SUITE_FILE(stem) {#stem, suite_##stem},
#include "test_suites.inc"
#undef TEST_SUITE_FILE
};
enum { N_SUITES = sizeof suites / sizeof suites[0] };

static int usage(const char *word) {
  fprintf(stderr, "attnlab_tests: unknown suite '%s'; there are:", word);
  for (int i = 0; i < N_SUITES; i++)
    if (suites[i].make != suite_main) fprintf(stderr, " %s", suites[i].name);
  fprintf(stderr, "\n");
  return 2;
}

/* What ctest takes for "not run" (CMakeLists.txt): the machine lacks the instruction set asked
 * for. */
enum { NOT_RUN = 77 };

static int environment_refused(void) {
  al_ctx *c = al_ctx_new();
  const al_status st = c ? al_error(c) : AL_ENOMEM;
  if (st != AL_OK) printf("not run: %s\n", c ? al_error_message(c, NULL, NULL) : "out of memory");
  if (c) al_ctx_free(c);
  return st == AL_ESTATE ? NOT_RUN : st != AL_OK;
}

int main(int argc, char **argv) {
  const int refused = environment_refused();
  if (refused) return refused;
  setenv("CK_DEFAULT_TIMEOUT", "120", 0); /* Check's 4 s are too few under sanitizers */
  SRunner *r = srunner_create(NULL);
  for (int a = 1; a < argc; a++) {
    bool known = false;
    for (int i = 0; i < N_SUITES; i++) known |= strcmp(argv[a], suites[i].name) == 0;
    if (!known) return usage(argv[a]);
  }
  for (int i = 0; i < N_SUITES; i++) {
    bool wanted = argc == 1;
    for (int a = 1; a < argc; a++) wanted |= strcmp(argv[a], suites[i].name) == 0;
    Suite *s = wanted ? suites[i].make() : NULL;
    if (s) srunner_add_suite(r, s);
  }
  srunner_run_all(r, CK_ENV);
  const int failed = srunner_ntests_failed(r), run = srunner_ntests_run(r);
  srunner_free(r);
  return failed || run == 0;
}
