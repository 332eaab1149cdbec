/* plugin.c: loads a plug-in. In this order, each step refusing the file with nothing left behind:
 * its bytes (plugin_file.c), names that are taken, dlopen, attn_plugin, its tables (family.c), its
 * presets' names, its init. Only then the registry takes it in, and it stays to the end of the
 * process: instances hold pointers into it. */
#include "plugin.h"
#include <dlfcn.h>
#include <errno.h>
#include <sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_BYTES = 1 << 28 };

typedef struct file {
  char *path; /* absolute: dlopen searches folders of the system for a bare name */
  char who[320];
  char hash[SHA256_DIGEST_STRING_LENGTH];
  attn_plugin_stamp stamp;
  void *library;
} file;

static void file_close(file *f) {
  if (f->library) dlclose(f->library);
  free(f->path);
  *f = (file){0};
}

static al_status read_file(al_ctx *c, const char *path, file *f) {
  snprintf(f->who, sizeof f->who, "plug-in '%.300s'", path); /* the reason must fit, too */
  f->path = realpath(path, NULL);
  if (!f->path) return al_fail(c, AL_EIO, "%s: %s", f->who, strerror(errno));
  struct stat info; /* a pipe would wait for ever */
  if (stat(f->path, &info) != 0) return al_fail(c, AL_EIO, "%s: %s", f->who, strerror(errno));
  if (!S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode))
    return al_fail(c, AL_EFORMAT, "%s: a regular file needed", f->who);
  char *bytes = NULL, why[256];
  size_t n = 0;
  AL_TRY(al_file_read(c, f->path, MAX_BYTES, &bytes, &n));
  SHA256Data((const uint8_t *)bytes, n, f->hash);
  const bool ok = attn_plugin_check(bytes, n, &f->stamp, why, sizeof why);
  free(bytes);
  const size_t len = strlen(path);
  const bool source = len > 2 && strcmp(path + len - 2, ".c") == 0;
  if (!ok)
    return al_fail(c, AL_EFORMAT, "%s: %s%s", f->who, why,
                   source ? "; `build-plugin` makes a plug-in of a C source" : "");
  return AL_OK;
}

/* The family that a file of the same content gave, or NULL. */
static const attn_family *known(const char *hash) {
  const char *other;
  for (int i = 0; i < attn_family_count(); i++)
    if (attn_plugin_of(attn_family_at(i), NULL, &other) && strcmp(hash, other) == 0)
      return attn_family_at(i);
  return NULL;
}

/* What was checked must be what runs: the file may have been replaced since it was read, and the
 * system may answer with a library that it holds open under the same name. */
static al_status check_unchanged(al_ctx *c, const file *f) {
  char hash[SHA256_DIGEST_STRING_LENGTH];
  const void *stamp = dlsym(f->library, "attn_plugin_stamp");
  if (!SHA256File(f->path, hash) || strcmp(hash, f->hash) != 0 || !stamp ||
      memcmp(stamp, &f->stamp, sizeof f->stamp) != 0)
    return al_fail(c, AL_ESTATE, "%s: the file changed while it was being loaded", f->who);
  return AL_OK;
}

/* The system answers with the library that it has when it is asked for the same name again, though
 * the file may be another one by now. So each family from one path had it under another spelling:
 * a/b.so, a/./b.so, a/././b.so. NULL: out of memory. */
static char *fresh_spelling(const char *path) {
  const char *other, *base = strrchr(path, '/') + 1;
  size_t n = 0, at = (size_t)(base - path);
  for (int i = 0; i < attn_family_count(); i++)
    n += attn_plugin_of(attn_family_at(i), &other, NULL) && strcmp(path, other) == 0;
  char *s = malloc(strlen(path) + 2 * n + 1);
  if (!s) return NULL;
  memcpy(s, path, at);
  for (; n > 0; n--, at += 2) memcpy(s + at, "./", 2);
  strcpy(s + at, base);
  return s;
}

static al_status open_library(al_ctx *c, file *f, attn_plugin_fn **entry) {
  char *name = fresh_spelling(f->path);
  if (!name) return al_fail(c, AL_ENOMEM, "out of memory (plug-in)");
  f->library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  free(name);
  if (!f->library) {
    const char *why = dlerror();
    const bool symbol = why && strstr(why, "undefined symbol");
    return al_fail(c, AL_EFORMAT, "%s: %s%s", f->who, why ? why : "it cannot be loaded",
                   symbol ? " (a plug-in reaches this program by ATTN_HOST_CALLS of attn.h alone)"
                          : "");
  }
  AL_TRY(check_unchanged(c, f));
  void *symbol = dlsym(f->library, "attn_plugin");
  memcpy(entry, &symbol, sizeof symbol); /* C has no cast from object to function */
  return *entry ? AL_OK : al_fail(c, AL_EFORMAT, "%s: it exports no attn_plugin", f->who);
}

/* An error that the plug-in reported holds pointers into it: said again in our own words. */
static al_status init_family(al_ctx *c, const attn_family *f, const char *who) {
  AL_PLAIN_NUMBERS;
  const al_status st = f->init ? f->init(c) : AL_OK;
  const al_status pending = al_error(c);
  if (st == AL_OK && pending == AL_OK) return AL_OK;
  char text[1024];
  snprintf(text, sizeof text, "%s", pending != AL_OK ? al_error_message(c, NULL, NULL) : "");
  al_error_clear(c);
  if (!*text) snprintf(text, sizeof text, "status %d without a message", (int)st);
  return al_fail(c, pending != AL_OK ? pending : st, "%s: its init failed: %s", who, text);
}

#define ATTN_HOST_ENTRY(f) .f = f,
static const attn_host host = {
    .abi = ATTN_ABI, .size = sizeof(attn_host), ATTN_HOST_CALLS(ATTN_HOST_ENTRY)};
#undef ATTN_HOST_ENTRY

static al_status check_reserved(al_ctx *c, const al_arg *options, const char *const *words,
                                const char *who) {
  for (; words && *words; words++)
    for (const al_arg *r = options; r->name; r++)
      if (strcmp(r->name, *words) == 0)
        return al_fail(c, AL_ENAME,
                       "%s: option '%s': that word stands for something of the layer around every "
                       "variant; call the option otherwise",
                       who, r->name);
  return AL_OK;
}

static al_status load(al_ctx *c, file *f, const char *const *reserved, const attn_family **family) {
  const attn_family stamped = {.name = f->stamp.name};
  AL_TRY(attn_registry_free(c, &stamped, f->who));
  attn_plugin_fn *entry = NULL;
  AL_TRY(open_library(c, f, &entry));
  const attn_family *a = entry(&host);
  if (!a)
    return al_fail(c, AL_EFORMAT,
                   "%s: it cannot work with this program (its attn_plugin gave NULL)", f->who);
  AL_TRY(attn_family_check(c, a, f->who));
  if (strcmp(a->name, f->stamp.name) != 0)
    return al_fail(c, AL_EFORMAT, "%s: its stamp names the family '%s', its table '%s'", f->who,
                   f->stamp.name, a->name);
  AL_TRY(attn_registry_free(c, a, f->who));
  AL_TRY(check_reserved(c, a->options, reserved, f->who));
  AL_TRY(attn_registry_room(c, a, f->who));
  AL_TRY(init_family(c, a, f->who));
  attn_origin origin = {.path = f->path};
  memcpy(origin.hash, f->hash, sizeof origin.hash);
  attn_registry_add(a, &origin);
  f->path = NULL, f->library = NULL; /* kept */
  *family = a;
  return AL_OK;
}

const attn_family *attn_plugin_load(al_ctx *c, const char *path, const char *const *reserved) {
  if (al_error(c) != AL_OK) return NULL;
  const attn_family *family = NULL;
  file *f = calloc(1, sizeof *f);
  if (!f) {
    al_fail(c, AL_ENOMEM, "out of memory (plug-in)");
    return NULL;
  }
  if (read_file(c, path, f) == AL_OK && !(family = known(f->hash))) load(c, f, reserved, &family);
  file_close(f);
  free(f);
  return family;
}
