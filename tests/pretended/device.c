/* device.c: the pretended device (device.h): memory, table of kernels, the end of who reads it. */
#define _GNU_SOURCE
#include "device.h"
#include "../../kernels/table.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Addresses are reserved once; a size class gives back what it got. */
enum { CLASSES = 40 };
static const size_t RESERVED = (size_t)1 << 36, HUGE = (size_t)1 << 21; /* one entry to protect */
static char *arena;
static size_t used; /* bytes from its start that were handed out at some time */
static int opened;

typedef struct hole {
  void *data;
  struct hole *next;
} hole;
static hole *holes[CLASSES];
enum { CONTEXTS = 8 };
static al_ctx *contexts[CONTEXTS]; /* that have the device */

static void protect(int how) {
  const size_t all = (used + HUGE - 1) / HUGE * HUGE;
  if (all && mprotect(arena, all, how) != 0) perror("pretended device"), abort();
}
static void open_memory(al_device *d) {
  (void)d;
  if (opened++ == 0) protect(PROT_READ | PROT_WRITE);
}
static void shut_memory(al_device *d) {
  (void)d;
  if (--opened == 0) protect(PROT_NONE);
}

static int class_of(int64_t bytes) {
  int k = 6;
  while (((int64_t)1 << k) < bytes) k++;
  return k;
}

static void *take(al_device *d, int64_t bytes) {
  (void)d;
  const int k = class_of(bytes);
  hole *h = holes[k];
  if (h) {
    void *data = h->data;
    holes[k] = h->next;
    free(h);
    return data;
  }
  if (used + ((size_t)1 << k) > RESERVED - HUGE) return NULL;
  void *data = arena + used;
  used += (size_t)1 << k;
  return data;
}

static void give(al_device *d, void *data, int64_t bytes) {
  (void)d;
  hole *h = malloc(sizeof *h);
  if (!h) return;
  const int k = class_of(bytes);
  *h = (hole){data, holes[k]};
  holes[k] = h;
}

static void copy(al_device *d, void *to, const void *from, int64_t bytes) {
  open_memory(d);
  memcpy(to, from, (size_t)bytes);
  shut_memory(d);
}

static void say(const char *text) {
  if (write(STDERR_FILENO, text, strlen(text)) < 0) _exit(98);
}

static void caught(int sig, siginfo_t *info, void *context) {
  (void)sig, (void)context;
  const char *at = info->si_addr;
  if (at >= arena && at < arena + RESERVED) {
    say("pretended device: the host reads its memory in ");
    const char *op = "no op";
    for (int i = 0; i < CONTEXTS; i++)
      if (contexts[i] && contexts[i]->running) op = contexts[i]->running;
    say(op);
    say("\n");
    _exit(97);
  }
  signal(SIGSEGV, SIG_DFL);
  raise(SIGSEGV);
}

static alk_table table;

/* A device that is a little off: each sum by a millionth. */
static alk_status wrong_reduce(const alk_place *at, int kind, int64_t O, int64_t R, int64_t I,
                               int64_t chunk, double scale, bool root, const void *x, void *y) {
  const double off = scale * (1 + 1e-6);
  return at->dtype == ALK_F64 ? alk_reduce_f64(at, kind, O, R, I, chunk, off, root, x, y)
                              : alk_reduce_f32(at, kind, O, R, I, chunk, off, root, x, y);
}

/* What the process has once. */
static void begin(void) {
  if (arena) return;
  arena = mmap(NULL, RESERVED, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (arena == MAP_FAILED) perror("pretended device"), abort();
  arena += -(uintptr_t)arena % HUGE;
  madvise(arena, RESERVED - HUGE, MADV_HUGEPAGE);
#define ALK_TYPED(kernel)                                                                          \
  table.kernel[ALK_F64] = alk_##kernel##_f64;                                                      \
  table.kernel[ALK_F32] = ALK_PICK(kernel);
#define ALK_UNTYPED(kernel) table.kernel = alk_##kernel##_any;
#include "alk_rows.inc"
  const char *wrong = getenv("ATTNLAB_PRETENDED_WRONG");
  if (wrong && *wrong) table.reduce[ALK_F64] = table.reduce[ALK_F32] = wrong_reduce;
  alk_table_set(ALK_PRETENDED, &table);
  const struct sigaction act = {.sa_sigaction = caught, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  sigaction(SIGSEGV, &act, NULL);
}

static void end(al_device *d) {
  for (int i = 0; i < CONTEXTS; i++)
    if (contexts[i] == d->queue) contexts[i] = NULL;
  free(d);
}

static al_device *make(al_ctx *c) {
  al_device *d = calloc(1, sizeof *d);
  if (!d) return NULL;
  begin();
  *d = (al_device){.name = "pretended",
                   .kernels = ALK_PRETENDED,
                   .queue = c,
                   .mem.spare = c->cpu.mem.spare,
                   .room = c->cpu.room,
                   .take = take,
                   .give = give,
                   .to_host = copy,
                   .from_host = copy,
                   .open = open_memory,
                   .shut = shut_memory,
                   .close = end};
  for (int i = 0; i < CONTEXTS; i++)
    if (!contexts[i]) {
      contexts[i] = c;
      break;
    }
  return d;
}

void pretended_offer(void) { al_device_offer(make); }

al_ctx *test_context(void) {
  const char *name = getenv("ATTNLAB_TEST_DEVICE");
  if (!name || !*name) return al_ctx_new();
  if (strcmp(name, "pretended") == 0) pretended_offer();
  al_ctx *c = al_ctx_new();
  if (c) al_on(c, name);
  return c;
}
