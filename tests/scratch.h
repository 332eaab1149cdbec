/* scratch.h: for tests that write files: a context and an empty folder of their own under the
 * working directory, and checks of messages. Use scratch_begin and scratch_end as a checked
 * fixture. */
#ifndef SCRATCH_H
#define SCRATCH_H
#include "../core/attnlab.h"
#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static al_ctx *c;
static char folder[64];

static inline void scratch_begin(void) {
  strcpy(folder, "scratch-XXXXXX");
  ck_assert_ptr_nonnull(mkdtemp(folder));
  c = al_ctx_new();
  ck_assert_ptr_nonnull(c);
}

/* The path of a file in the folder; good until the fourth next call. */
static inline const char *in_folder(const char *name) {
  static char paths[4][512];
  static int next;
  char *p = paths[next++ % 4];
  snprintf(p, sizeof paths[0], "%s/%s", folder, name);
  return p;
}

static inline int files_in_folder(void) {
  int n = 0;
  DIR *d = opendir(folder);
  ck_assert_ptr_nonnull(d);
  for (struct dirent *e; (e = readdir(d));) n += e->d_name[0] != '.';
  closedir(d);
  return n;
}

static inline void scratch_end(void) {
  ck_assert_msg(al_memory(c).live == 0, "%lld bytes of tensors are left",
                (long long)al_memory(c).live);
  al_ctx_free(c);
  DIR *d = opendir(folder);
  for (struct dirent *e; d && (e = readdir(d));)
    if (e->d_name[0] != '.') unlink(in_folder(e->d_name));
  if (d) closedir(d);
  rmdir(folder);
}

static inline void put_file(const char *path, const void *data, size_t n) {
  FILE *f = fopen(path, "wb");
  ck_assert_ptr_nonnull(f);
  ck_assert_uint_eq(fwrite(data, 1, n, f), n);
  ck_assert_int_eq(fclose(f), 0);
}

static inline char *get_file(const char *path, size_t *n) {
  char *data;
  ck_assert_msg(al_file_read(c, path, (size_t)1 << 30, &data, n) == AL_OK, "%s",
                al_error_message(c, NULL, NULL));
  return data;
}

/* An error of that kind is pending and its message holds both texts; clears it. */
__attribute__((unused, noinline)) static void expect(al_status st, const char *one,
                                                     const char *two) {
  const char *m = al_error_message(c, NULL, NULL);
  ck_assert_msg(al_error(c) == st, "status %d expected, got %d: %s", st, al_error(c), m);
  ck_assert_msg(strstr(m, one) != NULL, "'%s' expected in: %s", one, m);
  ck_assert_msg(strstr(m, two) != NULL, "'%s' expected in: %s", two, m);
  al_error_clear(c);
}

static inline void expect_ok(void) {
  ck_assert_msg(al_error(c) == AL_OK, "%s", al_error_message(c, NULL, NULL));
}
#endif
