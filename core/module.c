/* module.c: opens the module of GPU kernels beside this code, and makes its cards devices. */
#define _GNU_SOURCE /* dladdr */
#include "module.h"
#include "core.h"
#include "../kernels/module.h"
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const alk_module *module;
static char missing[512]; /* why there is no module */

/* The folder of the file that this code was loaded from, with its slash. */
static void own_folder(char *path, size_t n) {
  Dl_info info;
  const char *file = dladdr((void *)(uintptr_t)al_cuda, &info) ? info.dli_fname : "";
  snprintf(path, n, "%s", file);
  if (!strchr(path, '/')) { /* a program found by PATH */
    const ssize_t got = readlink("/proc/self/exe", path, n - 1);
    path[got > 0 ? got : 0] = 0;
  }
  char *slash = strrchr(path, '/');
  if (slash) slash[1] = 0;
}

/* Is it a file with the table of sections that a linker puts at its end? Of one that was cut the
 * loader maps what is not there, which ends the process. */
static bool whole(const char *path) {
  Elf64_Ehdr h = {0};
  struct stat s;
  const int f = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  const bool read_it = f >= 0 && fstat(f, &s) == 0 && S_ISREG(s.st_mode) &&
                       read(f, &h, sizeof h) == (ssize_t)sizeof h;
  if (f >= 0) close(f);
  return read_it && memcmp(h.e_ident, ELFMAG, SELFMAG) == 0 && h.e_shoff <= (uint64_t)s.st_size &&
         (uint64_t)s.st_size - h.e_shoff >= (uint64_t)h.e_shnum * h.e_shentsize;
}

static void open_module(void) {
  char path[4096];
  own_folder(path, sizeof path - sizeof ALK_MODULE_FILE);
  strcat(path, ALK_MODULE_FILE);
  if (access(path, R_OK) != 0) {
    if (AL_CUDA_STATE[0]) snprintf(missing, sizeof missing, "%s", AL_CUDA_STATE);
    else snprintf(missing, sizeof missing, "no %s beside this program", ALK_MODULE_FILE);
    return;
  }
  if (!whole(path)) {
    snprintf(missing, sizeof missing, "%s is no library, or not whole: build it again",
             ALK_MODULE_FILE);
    return;
  }
  void *so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  void *made = so ? dlsym(so, ALK_MODULE_EXPORT) : NULL;
  if (!made) {
    const char *why = dlerror();
    snprintf(missing, sizeof missing, "%s", why ? why : ALK_MODULE_EXPORT);
    if (so) dlclose(so);
    return;
  }
  alk_module_fn make;
  memcpy(&make, &made, sizeof make);
  const char *build = "";
  const alk_module *m = make(&build);
  if (strcmp(build, ALK_BUILD_ID) != 0) {
    snprintf(missing, sizeof missing, "%s is of build %s, this program of %s: build both again",
             ALK_MODULE_FILE, build, ALK_BUILD_ID);
    dlclose(so);
    return;
  }
  alk_table_set(ALK_CUDA, m->table);
  module = m;
}

static const alk_module *opened(void) {
  if (!module && !missing[0]) open_module();
  return module;
}

const char *al_cuda(int *cards) {
  static _Thread_local char text[512];
  *cards = 0;
  if (!opened()) return missing;
  const int n = *cards = module->cards(text, sizeof text);
  if (n == 0) return text;
  module->describe(0, text, sizeof text);
  const size_t at = strlen(text);
  if (n > 1) snprintf(text + at, sizeof text - at, " and %d more", n - 1);
  return text;
}

const char *al_cuda_card(int i, int64_t *bytes) {
  static _Thread_local char text[512];
  int cards;
  const char *state = al_cuda(&cards);
  *bytes = 0;
  if (i < 0 || i >= cards) return cards ? NULL : state;
  *bytes = module->memory(i);
  module->describe(i, text, sizeof text);
  return text;
}

/* ---- a card as a device ---------------------------------------------------------------------- */

typedef struct card {
  al_device d;
  char name[16];
} card;

static void use(al_device *d) { module->use(d->queue); }
static void *take(al_device *d, int64_t bytes) { return module->take(d->queue, bytes); }
static void give(al_device *d, void *data, int64_t bytes) {
  (void)bytes;
  module->give(d->queue, data);
}
static void poison(al_device *d, int n, void *const *data, const int64_t *bytes) {
  module->poison(d->queue, n, data, bytes);
}
static void to_host(al_device *d, void *to, const void *from, int64_t bytes) {
  module->to_host(d->queue, to, from, bytes);
}
static void from_host(al_device *d, void *to, const void *from, int64_t bytes) {
  module->from_host(d->queue, to, from, bytes);
}
static void trim(al_device *d) { module->trim(d->queue); }
static const char *failure(al_device *d, bool *dead) { return module->failure(d->queue, dead); }
static bool plans_time(al_device *d, bool on) { return module->plans_time(d->queue, on); }
static char *plans_save(al_device *d, char *why, size_t n) {
  return module->plans_save(d->queue, why, n);
}
static bool plans_load(al_device *d, const char *text, char *why, size_t n) {
  return module->plans_load(d->queue, text, why, n);
}
static void end(al_device *d) {
  module->close(d->queue);
  free((card *)(void *)d);
}

al_device *al_module_device(al_ctx *c, const char *name) {
  char why[512];
  int i = 0, used = 0;
  if (name[4] && (sscanf(name + 4, ":%d%n", &i, &used) != 1 || name[4 + used] || i < 0)) {
    al_fail(c, AL_ENAME, "device: cuda or cuda:N needed, got '%s'", name);
    return NULL;
  }
  if (!opened()) {
    al_fail(c, AL_ESTATE, "device %s: %s", name, missing);
    return NULL;
  }
  const int n = module->cards(why, sizeof why);
  if (n == 0 || i >= n) {
    if (n == 0) al_fail(c, AL_ESTATE, "device %s: %s", name, why);
    else
      al_fail(c, AL_ENAME, "device %s: cuda:0..%d needed, as this machine has %d", name, n - 1, n);
    return NULL;
  }
  card *k = calloc(1, sizeof *k);
  void *queue = k ? module->open(i, why, sizeof why) : NULL;
  if (!queue) {
    if (k) al_fail(c, AL_ESTATE, "device %s: %s", name, why);
    else al_fail(c, AL_ENOMEM, "out of memory (device %s)", name);
    free(k);
    return NULL;
  }
  snprintf(k->name, sizeof k->name, i ? "cuda:%d" : "cuda", i);
  k->d = (al_device){.name = k->name,
                     .kernels = ALK_CUDA,
                     .queue = queue,
                     .room = module->memory(i),
                     .mem.spare = module->memory(i) / 256,
                     .take = take,
                     .give = give,
                     .poison = poison,
                     .to_host = to_host,
                     .from_host = from_host,
                     .trim = trim,
                     .failure = failure,
                     .open = use,
                     .plans_time = plans_time,
                     .plans_save = plans_save,
                     .plans_load = plans_load,
                     .close = end};
  return &k->d;
}
