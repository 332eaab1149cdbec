/* test_file.c: files appear whole or not at all. */
#define _GNU_SOURCE /* unshare */
#include "scratch.h"
#include <sched.h>
#include <signal.h>
#include <sys/file.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>

static void expect_file(const char *path, const char *text) {
  size_t n;
  char *data = get_file(path, &n);
  ck_assert_uint_eq(n, strlen(text));
  ck_assert_str_eq(data, text);
  free(data);
}

static void save(const char *path, const char *text) {
  ck_assert_msg(al_file_write(c, path, text, strlen(text)) == AL_OK, "%s",
                al_error_message(c, NULL, NULL));
}

START_TEST(write_and_read) {
  const char *path = in_folder("a");
  save(path, "one");
  expect_file(path, "one");
  save(path, "longer than before");
  save(path, "");
  expect_file(path, "");
  ck_assert_int_eq(files_in_folder(), 1);
}
END_TEST

START_TEST(reads_have_a_limit) {
  const char *path = in_folder("a");
  char *data = NULL;
  size_t n = 7;
  save(path, "12345");
  ck_assert_int_eq(al_file_read(c, path, 5, &data, &n), AL_OK);
  ck_assert_uint_eq(n, 5);
  free(data);
  data = NULL;
  ck_assert_int_eq(al_file_read(c, path, 4, &data, &n), AL_EFORMAT);
  expect(AL_EFORMAT, path, "at most 4");
  ck_assert_ptr_null(data);
  /* no size to go by: the limit still holds */
  ck_assert_int_eq(al_file_read(c, "/dev/zero", 100000, &data, &n), AL_EFORMAT);
  expect(AL_EFORMAT, "/dev/zero", "more than 100000");
  ck_assert_int_eq(al_file_read(c, in_folder("no"), 10, &data, &n), AL_EIO);
  expect(AL_EIO, "/no", "No such file");
  ck_assert_int_eq(al_file_read(c, folder, 10, &data, &n), AL_EIO);
  expect(AL_EIO, folder, "directory");
}
END_TEST

START_TEST(reads_a_pipe) {
  int ends[2];
  char name[64], *data;
  size_t n;
  ck_assert_int_eq(pipe(ends), 0);
  const pid_t pid = fork();
  ck_assert_int_ge(pid, 0);
  if (pid == 0) {
    static char block[100000];
    for (int i = 0; i < 3; i++)
      if (write(ends[1], block, sizeof block) != sizeof block) _exit(1);
    _exit(0);
  }
  close(ends[1]);
  snprintf(name, sizeof name, "/dev/fd/%d", ends[0]);
  ck_assert_int_eq(al_file_read(c, name, 1 << 20, &data, &n), AL_OK);
  ck_assert_uint_eq(n, 300000);
  free(data);
  close(ends[0]);
  waitpid(pid, NULL, 0);
}
END_TEST

START_TEST(refuses_bad_targets) {
  ck_assert_int_ne(al_file_write(c, folder, "x", 1), AL_OK);
  expect(AL_EIO, folder, "is a folder");
  ck_assert_int_ne(al_file_write(c, "/dev/null", "x", 1),
                   AL_OK); /* a rename would replace the device */
  expect(AL_EIO, "/dev/null", "not a regular file");
  ck_assert_int_ne(al_file_write(c, "", "x", 1), AL_OK);
  expect(AL_EVALUE, "file name", "");
  ck_assert_int_ne(al_file_write(c, in_folder("no/such"), "x", 1), AL_OK);
  expect(AL_EIO, "no/such", "No such file");
  save(in_folder("file"), "x");
  ck_assert_int_ne(al_file_write(c, in_folder("file/below"), "x", 1), AL_OK);
  expect(AL_EIO, "file/below", "Not a directory");
  ck_assert_int_eq(mkdir(in_folder("a.tmp"), 0700), 0);
  ck_assert_int_ne(al_file_write(c, in_folder("a"), "x", 1), AL_OK);
  expect(AL_EIO, "/a", "directory");
  rmdir(in_folder("a.tmp"));
  ck_assert_int_eq(mkfifo(in_folder("a.tmp"), 0600), 0); /* must not hang */
  ck_assert_int_ne(al_file_write(c, in_folder("a"), "x", 1), AL_OK);
  expect(AL_EIO, "/a", "");
  unlink(in_folder("a.tmp"));
  save(in_folder("aim"), "aim");
  ck_assert_int_eq(symlink("aim", in_folder("a.tmp")), 0); /* a planted link is not followed */
  ck_assert_int_ne(al_file_write(c, in_folder("a"), "x", 1), AL_OK);
  expect(AL_EIO, "/a", "");
  expect_file(in_folder("aim"), "aim");
}
END_TEST

START_TEST(keeps_mode_and_links) {
  struct stat info;
  save(in_folder("a"), "one");
  ck_assert_int_eq(chmod(in_folder("a"), 0640), 0);
  ck_assert_int_eq(symlink("a", in_folder("link")), 0);
  save(in_folder("link"), "two");
  expect_file(in_folder("a"), "two");
  ck_assert_int_eq(stat(in_folder("a"), &info), 0);
  ck_assert_int_eq(info.st_mode & 0777, 0640);
  ck_assert_int_eq(lstat(in_folder("link"), &info), 0);
  ck_assert(S_ISLNK(info.st_mode));
}
END_TEST

static int flags_of_open(const char *path, int flags) {
  const int fd = al_file_open(path, flags, 0600);
  if (fd < 0) return errno;
  close(fd);
  return 0;
}

START_TEST(stays_behind_a_border) {
  char path[2][200], *data;
  size_t n;
  ck_assert_int_eq(mkdir(in_folder("run"), 0700), 0);
  ck_assert_int_eq(mkdir(in_folder("outside"), 0700), 0);
  save(in_folder("outside/secret"), "secret");
  /* the folder itself may be reached by a link */
  snprintf(path[0], sizeof path[0], "%s/link", folder);
  ck_assert_int_eq(symlink("run", path[0]), 0);
  save(in_folder("link//own"), "own");
  expect_file(in_folder("run/own"), "own");
  expect_file(in_folder("run//own"), "own");
  expect_file(in_folder("link//.//own"), "own");
  /* what lies in it may not */
  snprintf(path[0], sizeof path[0], "%s/run/out", folder);
  ck_assert_int_eq(symlink("../outside/secret", path[0]), 0);
  snprintf(path[1], sizeof path[1], "%s/run/away", folder);
  ck_assert_int_eq(symlink("../outside", path[1]), 0);
  expect_file(in_folder("run/out"), "secret");
  ck_assert_int_eq(al_file_read(c, in_folder("run//out"), 100, &data, &n), AL_EIO);
  expect(AL_EIO, "run/out", "a link, which is not followed");
  ck_assert_ptr_null(al_st_open(c, in_folder("run//out")));
  expect(AL_EIO, "run/out", "a link, which is not followed");
  ck_assert_int_eq(al_file_read(c, in_folder("run//away/secret"), 100, &data, &n), AL_EIO);
  expect(AL_EIO, "run/away/secret", "a link, which is not followed");
  ck_assert_int_eq(al_file_read(c, in_folder("run//../outside/secret"), 100, &data, &n), AL_EIO);
  expect(AL_EIO, "run/../outside/secret", "a link, which is not followed");
  ck_assert_int_ne(al_file_write(c, in_folder("run//away/new"), "x", 1), AL_OK);
  expect(AL_EIO, "run/away/new", "a link, which is not followed");
  ck_assert_int_ne(al_file_write(c, in_folder("run//out"), "x", 1), AL_OK);
  expect(AL_EIO, "run/out", "a link, which is not followed");
  ck_assert_int_eq(flags_of_open(in_folder("run//out"), O_WRONLY | O_APPEND | O_CREAT), ELOOP);
  ck_assert_int_eq(flags_of_open(in_folder("run//.."), O_RDONLY), ELOOP);
  expect_file(in_folder("outside/secret"), "secret");
  ck_assert_str_eq(al_path_shown("//a///b/c//").text, "/a/b/c/");
  /* a pipe neither hangs nor is read */
  ck_assert_int_eq(mkfifo(in_folder("run/pipe"), 0600), 0);
  ck_assert_int_eq(al_file_read(c, in_folder("run//pipe"), 100, &data, &n), AL_EIO);
  expect(AL_EIO, "run/pipe", "ermission denied");
  ck_assert_int_eq(flags_of_open(in_folder("run//pipe"), O_WRONLY), ENXIO);
  ck_assert_int_eq(flags_of_open(in_folder("run//"), O_RDONLY), EISDIR);
  ck_assert_int_eq(flags_of_open(in_folder("no//a"), O_RDONLY), ENOENT);
  ck_assert_int_eq(flags_of_open(in_folder("run/own//a"), O_RDONLY), ENOTDIR);
}
END_TEST

START_TEST(takes_over_what_a_killed_writer_left) {
  char junk[5000];
  memset(junk, 'j', sizeof junk);
  put_file(in_folder("a.tmp"), junk, sizeof junk);
  save(in_folder("a"), "new");
  expect_file(in_folder("a"), "new");
  ck_assert_int_eq(files_in_folder(), 1);
}
END_TEST

/* A write that the system stops in the middle: the old file stays, the temporary goes. */
static void fails_without_harm(const char *path, const char *cause) {
  static char big[1 << 20];
  save(path, "the old contents");
  ck_assert_int_eq(al_file_write(c, path, big, sizeof big), AL_EIO);
  expect(AL_EIO, path, cause);
  expect_file(path, "the old contents");
  char tmp[160];
  snprintf(tmp, sizeof tmp, "%s.tmp", path);
  ck_assert_int_ne(access(tmp, F_OK), 0);
  save(path, "works again");
  expect_file(path, "works again");
}

START_TEST(file_size_limit) {
  signal(SIGXFSZ, SIG_IGN);
  const struct rlimit limit = {65536, 65536};
  ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
  fails_without_harm(in_folder("a"), "too large");
}
END_TEST

START_TEST(full_disk) {
  /* A mount that only this process sees, where the machine lets us. */
  if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) return;
  if (mount("tmpfs", folder, "tmpfs", 0, "size=64k") != 0) return;
  fails_without_harm(in_folder("a"), "No space left");
  umount2(folder, MNT_DETACH);
}
END_TEST

START_TEST(writers_take_turns) {
  enum { WRITERS = 3, ROUNDS = 40, SIZE = 30000 };
  const char *path = in_folder("a");
  pid_t pids[WRITERS];
  static char text[SIZE];
  memset(text, '0', sizeof text);
  put_file(path, text, sizeof text);
  for (int w = 0; w < WRITERS; w++) {
    pids[w] = fork();
    ck_assert_int_ge(pids[w], 0);
    if (pids[w] > 0) continue;
    memset(text, '1' + w, sizeof text);
    for (int i = 0; i < ROUNDS; i++)
      if (al_file_write(c, path, text, sizeof text) != AL_OK) _exit(1);
    _exit(0);
  }
  for (int w = 0; w < WRITERS;) {
    size_t n;
    char *data = get_file(path, &n);
    ck_assert_uint_eq(n, SIZE);
    for (size_t i = 1; i < n; i++) ck_assert_int_eq(data[i], data[0]); /* one writer's, whole */
    free(data);
    int status;
    const pid_t done = waitpid(pids[w], &status, WNOHANG);
    ck_assert_int_ge(done, 0);
    if (done == 0) continue;
    ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    w++;
  }
  ck_assert_int_eq(files_in_folder(), 1);
}
END_TEST

START_TEST(allocation_fails) {
  const char *path = in_folder("a");
  save(path, "old");
  for (int64_t n = 1;; n++) {
    al_memory_fail_at(c, n);
    const al_status st = al_file_write(c, path, "new", 3);
    al_memory_fail_at(c, 0);
    if (st == AL_OK) break;
    expect(AL_ENOMEM, "memory", "");
    expect_file(path, "old");
    ck_assert_int_eq(files_in_folder(), 1);
  }
  char *data;
  size_t len;
  al_memory_fail_at(c, 1);
  ck_assert_int_eq(al_file_read(c, path, 100, &data, &len), AL_ENOMEM);
  expect(AL_ENOMEM, "memory", "");
}
END_TEST

Suite *suite_test_file(void);
Suite *suite_test_file(void) {
  Suite *s = suite_create("file");
  TCase *t = tcase_create("file");
  tcase_add_checked_fixture(t, scratch_begin, scratch_end);
  tcase_set_timeout(t, 60);
  tcase_add_test(t, write_and_read);
  tcase_add_test(t, reads_have_a_limit);
  tcase_add_test(t, reads_a_pipe);
  tcase_add_test(t, refuses_bad_targets);
  tcase_add_test(t, keeps_mode_and_links);
  tcase_add_test(t, stays_behind_a_border);
  tcase_add_test(t, takes_over_what_a_killed_writer_left);
  tcase_add_test(t, file_size_limit);
  tcase_add_test(t, full_disk);
  tcase_add_test(t, writers_take_turns);
  tcase_add_test(t, allocation_fails);
  suite_add_tcase(s, t);
  return s;
}
