/* shim.c: LD_PRELOAD: a call of the system fails that otherwise hardly ever does.
 *   FAULT_CALL  which: open write short fsync rename mkdir unlink truncate lock stat read spawn;
 *               short: a write of half
 *   FAULT_AT    the call that fails, counted from 1 in each process; 0: none
 *   FAULT_ON    set: it and all that follow, as on a disk that is full
 *   FAULT_ERRNO the number of the error
 *   FAULT_IN    only processes with this word among their arguments
 *   FAULT_COUNT a file that gets the number of calls at the end, a line a process
 * Standard output and error are left alone. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *call = "", *count_path;
static long at, count;
static int error_number;
static bool on, here;

/* Is `word` one of the arguments of this process? */
static bool among_arguments(const char *word) {
  char text[4096];
  FILE *f = fopen("/proc/self/cmdline", "r");
  if (!f) return false;
  const size_t n = fread(text, 1, sizeof text - 1, f);
  fclose(f);
  text[n] = 0;
  for (size_t i = 0; i < n; i += strlen(text + i) + 1)
    if (strcmp(text + i, word) == 0) return true;
  return false;
}

__attribute__((constructor)) static void begin(void) {
  const char *s = getenv("FAULT_CALL"), *in = getenv("FAULT_IN");
  if (s) call = s;
  at = (s = getenv("FAULT_AT")) ? atol(s) : 0;
  error_number = (s = getenv("FAULT_ERRNO")) ? atoi(s) : EIO;
  on = getenv("FAULT_ON") != NULL;
  count_path = getenv("FAULT_COUNT");
  here = !in || among_arguments(in);
}

__attribute__((destructor)) static void end(void) {
  FILE *f = here && count_path ? fopen(count_path, "a") : NULL;
  if (!f) return;
  fprintf(f, "%ld\n", count);
  fclose(f);
}

/* Counts a call of this name; is it one to fail? */
static bool fails(const char *name) {
  if (!here || strcmp(call, name) != 0) return false;
  count++;
  if (!at || (on ? count < at : count != at)) return false;
  errno = error_number;
  return true;
}

#define REAL(name)                                                                                 \
  static __typeof__(&name) real;                                                                   \
  if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *data, size_t n) {
  REAL(write);
  if (fd > 2 && fails("write")) return -1;
  if (fd > 2 && n > 1 && fails("short")) return real(fd, data, n / 2);
  return real(fd, data, n);
}

ssize_t read(int fd, void *data, size_t n) {
  REAL(read);
  return fails("read") ? -1 : real(fd, data, n);
}

ssize_t pread(int fd, void *data, size_t n, off_t from) {
  REAL(pread);
  return fails("read") ? -1 : real(fd, data, n, from);
}

int open(const char *path, int flags, ...) {
  REAL(open);
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  return fails("open") ? -1 : real(path, flags, mode);
}

int openat(int folder, const char *path, int flags, ...) {
  REAL(openat);
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  return fails("open") ? -1 : real(folder, path, flags, mode);
}

int fsync(int fd) {
  REAL(fsync);
  return fails("fsync") ? -1 : real(fd);
}

int fdatasync(int fd) {
  REAL(fdatasync);
  return fails("fsync") ? -1 : real(fd);
}

int ftruncate(int fd, off_t n) {
  REAL(ftruncate);
  return fails("truncate") ? -1 : real(fd, n);
}

int renameat(int from_folder, const char *from, int to_folder, const char *to) {
  REAL(renameat);
  return fails("rename") ? -1 : real(from_folder, from, to_folder, to);
}

int unlinkat(int folder, const char *path, int flags) {
  REAL(unlinkat);
  return fails("unlink") ? -1 : real(folder, path, flags);
}

int mkdirat(int folder, const char *path, mode_t mode) {
  REAL(mkdirat);
  return fails("mkdir") ? -1 : real(folder, path, mode);
}

int flock(int fd, int how) {
  REAL(flock);
  return fails("lock") ? -1 : real(fd, how);
}

int stat(const char *restrict path, struct stat *restrict info) {
  REAL(stat);
  return fails("stat") ? -1 : real(path, info);
}

int fstat(int fd, struct stat *info) {
  REAL(fstat);
  return fails("stat") ? -1 : real(fd, info);
}

int fstatat(int folder, const char *restrict path, struct stat *restrict info, int flags) {
  REAL(fstatat);
  return fails("stat") ? -1 : real(folder, path, info, flags);
}

int pipe2(int ends[2], int flags) {
  REAL(pipe2);
  return fails("spawn") ? -1 : real(ends, flags);
}

pid_t fork(void) {
  REAL(fork);
  return fails("spawn") ? -1 : real();
}
