/* fuzz.h: what the targets share: the bytes as a file, and mutations that put whole words in. */
#ifndef FUZZ_H
#define FUZZ_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memfd_create */
#endif
#include "../../core/attnlab.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A finding. */
#define HOLDS(ok)                                                                                  \
  do {                                                                                             \
    if (!(ok)) {                                                                                   \
      fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #ok);                      \
      abort();                                                                                     \
    }                                                                                              \
  } while (0)

static inline al_ctx *fuzz_ctx(void) {
  static al_ctx *c;
  if (!c) HOLDS((c = al_ctx_new()) != NULL);
  return c;
}

/* What was refused has a reason, what was given has none; the context is clear again. */
static inline bool fuzz_refused(al_ctx *c, const void *given) {
  HOLDS((given == NULL) == (al_error(c) != AL_OK));
  HOLDS(given || *al_error_message(c, NULL, NULL));
  al_error_clear(c);
  return !given;
}

/* The path of a file in memory that holds these bytes; each call writes the same file anew. */
static inline const char *fuzz_file(const uint8_t *data, size_t size) {
  static int fd = -1;
  static char path[64];
  if (fd < 0) {
    HOLDS((fd = memfd_create("fuzz", MFD_CLOEXEC)) >= 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  }
  HOLDS(ftruncate(fd, 0) == 0 && pwrite(fd, data, size, 0) == (ssize_t)size);
  return path;
}

/* A folder for what has to be written, gone at the end. */
static char fuzz_folder_path[64];
static inline void fuzz_folder_remove(void) {
  char command[128];
  snprintf(command, sizeof command, "rm -rf %s", fuzz_folder_path);
  if (system(command) != 0) perror(command);
}
static inline const char *fuzz_folder(void) {
  if (*fuzz_folder_path) return fuzz_folder_path;
  snprintf(fuzz_folder_path, sizeof fuzz_folder_path, "%s/attnlab-fuzz-XXXXXX",
           access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
  HOLDS(mkdtemp(fuzz_folder_path) && atexit(fuzz_folder_remove) == 0);
  return fuzz_folder_path;
}

/* One of n words put in behind the first `fixed` bytes; libFuzzer's own mutation in a third of the
 * calls and where there is no room. */
static inline size_t fuzz_mutate(uint8_t *data, size_t size, size_t max, unsigned seed,
                                 const char *const *words, size_t n, size_t fixed) {
  const unsigned h = seed * 2654435761u;
  const char *w = words[(h >> 8) % n];
  const size_t len = strlen(w);
  if (seed % 3 == 0 || size < fixed || size + len > max) return LLVMFuzzerMutate(data, size, max);
  const size_t at = fixed + h % (size - fixed + 1);
  memmove(data + at + len, data + at, size - at);
  memcpy(data + at, w, len);
  return size + len;
}
#define FUZZ_WORDS(words) words, sizeof words / sizeof *words
#endif
