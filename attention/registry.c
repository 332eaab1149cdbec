/* registry.c: families (one file each in variants/, found by the build, and those that plug-ins
 * brought) and their presets.
 *
 * Exact names come first, then short names of built-in presets, then short names of loaded ones;
 * with what attn_registry_free refuses, a plug-in never changes what a name meant before. Families
 * are added and looked up by one thread at a time. */
#include "plugin.h"
#include "state.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ATTN_FAMILY_FILE(stem) extern const attn_family attn_family_##stem;
#include "attn_families.inc"
#undef ATTN_FAMILY_FILE

static const attn_family *const built_in[] = {
#define ATTN_FAMILY_FILE(stem) &attn_family_##stem,
#include "attn_families.inc"
#undef ATTN_FAMILY_FILE
};
enum { N_BUILT_IN = sizeof built_in / sizeof *built_in, MAX_LOADED = 128, MAX_PRESETS = 1024 };

static struct {
  const attn_family *family;
  attn_origin origin;
} loaded[MAX_LOADED];
static int n_loaded;

/* Where a host unloads us, nobody else knows these. */
static __attribute__((destructor)) void forget_paths(void) {
  for (int i = 0; i < n_loaded; i++) {
    free((char *)(uintptr_t)loaded[i].origin.path);
    loaded[i].origin.path = NULL;
  }
}

typedef struct entry {
  const attn_preset *preset;
  const attn_family *family;
} entry;
static entry presets[MAX_PRESETS];
static int n_presets, n_defined;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static int by_name(const void *a, const void *b) {
  return strcmp(((const entry *)a)->preset->name, ((const entry *)b)->preset->name);
}

static void add_presets(const attn_family *f) {
  for (const attn_preset *p = f->presets; p && p->name; p++)
    if (n_defined++ < MAX_PRESETS) presets[n_presets++] = (entry){p, f};
  qsort(presets, (size_t)n_presets, sizeof *presets, by_name);
}

static void build(void) {
  for (int f = 0; f < N_BUILT_IN; f++) add_presets(built_in[f]);
}

/* Runs the init of the built-in families; what fails is tried again at the next call. */
static al_status start_families(al_ctx *c) {
  AL_PLAIN_NUMBERS;
  static int n_started;
  for (; n_started < N_BUILT_IN; n_started++) {
    const attn_family *f = built_in[n_started];
    if (f->abi != ATTN_ABI || f->size != sizeof *f)
      return al_fail(c, AL_ESTATE,
                     "attention: family %s has ABI %u and %u bytes, %d and %zu are needed", f->name,
                     f->abi, f->size, ATTN_ABI, sizeof *f);
    if (f->init) AL_TRY(f->init(c));
    if (al_error(c) != AL_OK) return al_error(c);
  }
  return AL_OK;
}

static al_status check_table(al_ctx *c) {
  pthread_once(&once, build);
  for (int i = 1; i < n_presets; i++)
    if (by_name(&presets[i - 1], &presets[i]) == 0)
      return al_fail(c, AL_ENAME, "attention: families %s and %s both have a preset '%s'",
                     presets[i - 1].family->name, presets[i].family->name, presets[i].preset->name);
  if (n_defined > MAX_PRESETS)
    return al_fail(c, AL_EVALUE,
                   "attention: room for %d presets, %d are defined: raise MAX_PRESETS", MAX_PRESETS,
                   n_defined);
  return start_families(c);
}

int attn_family_count(void) { return N_BUILT_IN + n_loaded; }
const attn_family *attn_family_at(int i) {
  if (i < 0 || i >= attn_family_count()) return NULL;
  return i < N_BUILT_IN ? built_in[i] : loaded[i - N_BUILT_IN].family;
}

static const attn_origin *origin_of(const attn_family *f) {
  for (int i = 0; i < n_loaded; i++)
    if (loaded[i].family == f) return &loaded[i].origin;
  return NULL;
}

bool attn_plugin_of(const attn_family *f, const char **path, const char **hash) {
  const attn_origin *o = origin_of(f);
  if (path) *path = o ? o->path : NULL;
  if (hash) *hash = o ? o->hash : NULL;
  return o != NULL;
}

int attn_preset_count(void) {
  pthread_once(&once, build);
  return n_presets;
}

const attn_preset *attn_preset_at(int i, const attn_family **family) {
  if (i < 0 || i >= attn_preset_count()) return NULL;
  if (family) *family = presets[i].family;
  return presets[i].preset;
}

/* The part after the last slash. */
static const char *short_name(const char *name) {
  const char *s = strrchr(name, '/');
  return s ? s + 1 : name;
}

/* ---- families that plug-ins bring ------------------------------------------------------------ */

/* `what` of the newcomer is taken by `f`, or by its preset p. */
static al_status taken(al_ctx *c, const char *who, const char *what, const char *name,
                       const attn_family *f, const attn_preset *p) {
  const attn_origin *o = origin_of(f);
  char holder[160] = "", from[512];
  if (p) snprintf(holder, sizeof holder, "preset '%s' of ", p->name);
  if (o)
    snprintf(from, sizeof from,
             "plug-in '%.300s' (a changed file is taken when the program starts again)", o->path);
  else snprintf(from, sizeof from, "this program");
  return al_fail(c, AL_ENAME, "%s: the %s '%s' is taken: %sfamily '%s' of %s", who, what, name,
                 holder, f->name, from);
}

static al_status check_free(al_ctx *c, const char *who, const char *what, const char *name) {
  for (int f = 0; f < attn_family_count(); f++)
    if (strcmp(attn_family_at(f)->name, name) == 0)
      return taken(c, who, what, name, attn_family_at(f), NULL);
  for (int i = 0; i < n_presets; i++)
    if (strcmp(presets[i].preset->name, name) == 0 ||
        strcmp(short_name(presets[i].preset->name), name) == 0)
      return taken(c, who, what, name, presets[i].family, presets[i].preset);
  return AL_OK;
}

al_status attn_registry_free(al_ctx *c, const attn_family *f, const char *who) {
  AL_TRY(check_table(c));
  AL_TRY(check_free(c, who, "family's name", f->name));
  for (const attn_preset *p = f->presets; p && p->name; p++)
    AL_TRY(check_free(c, who, "preset", p->name));
  return AL_OK;
}

al_status attn_registry_room(al_ctx *c, const attn_family *f, const char *who) {
  int n = n_presets;
  for (const attn_preset *p = f->presets; p && p->name; p++) n++;
  if (n <= MAX_PRESETS && n_loaded < MAX_LOADED) return AL_OK;
  return al_fail(c, AL_EVALUE, "%s: there is room for %d plug-ins and %d presets in all", who,
                 MAX_LOADED, MAX_PRESETS);
}

void attn_registry_add(const attn_family *f, const attn_origin *origin) {
  loaded[n_loaded].family = f;
  loaded[n_loaded++].origin = *origin;
  add_presets(f);
}

/* ---- finding -------------------- */

static al_status not_found(al_ctx *c, const char *name) {
  const char *names[2 * MAX_PRESETS + N_BUILT_IN + MAX_LOADED];
  int n = 0;
  for (int i = 0; i < n_presets; i++) {
    names[n++] = presets[i].preset->name;
    names[n++] = short_name(presets[i].preset->name);
  }
  for (int f = 0; f < attn_family_count(); f++) names[n++] = attn_family_at(f)->name;
  const char *near = al_nearest(name, names, n);
  return al_fail(c, AL_ENAME, "attention: no preset or family '%s'%s%s%s; `list` shows all", name,
                 near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "");
}

/* The preset of that full name, or of that short name; *n = how many have it. */
static const entry *find_preset(const char *name, bool whole, bool built_in_only, int *n) {
  const entry *hit = NULL;
  *n = 0;
  for (int i = 0; i < n_presets; i++) {
    const char *full = presets[i].preset->name;
    if (built_in_only && origin_of(presets[i].family)) continue;
    if (strcmp(whole ? full : short_name(full), name) == 0) hit = &presets[i], ++*n;
  }
  return hit;
}

static const attn_family *find_family(const char *name) {
  for (int f = 0; f < attn_family_count(); f++)
    if (strcmp(attn_family_at(f)->name, name) == 0) return attn_family_at(f);
  return NULL;
}

al_status attn_find(al_ctx *c, const char *name, const attn_family **family,
                    const attn_preset **preset, al_opts **opts) {
  *family = NULL, *preset = NULL, *opts = NULL;
  AL_TRY(check_table(c));
  int n_hits;
  const entry *hit = find_preset(name, true, false, &n_hits);
  if (!hit) *family = find_family(*name ? name : "kernel_attention");
  if (!hit && !*family) hit = find_preset(name, false, true, &n_hits);
  if (!hit && !*family) hit = find_preset(name, false, false, &n_hits);
  if (n_hits > 1)
    return al_fail(c, AL_ENAME, "attention: '%s' names %d presets; write the paper too, e.g. '%s'",
                   name, n_hits, hit->preset->name);
  if (hit) *family = hit->family, *preset = hit->preset;
  if (!*family) return not_found(c, name);
  *opts = al_opts_new(c, (*family)->options, (*family)->name);
  if (*opts && *preset && al_opts_parse(c, *opts, (*preset)->options) != AL_OK) {
    al_opts_release(*opts);
    *opts = NULL;
  }
  return al_error(c);
}

/* ---- describe -------------------- */

static void claims_text(unsigned claims, FILE *f) {
  const char *sep = "", *doc;
  unsigned bit;
  for (int i = 0; attn_claim_at(i, &bit, &doc); i++)
    if (claims & bit) fprintf(f, "%s%s", sep, doc), sep = ", ";
  if (!*sep) fprintf(f, "none");
}

static void print_rows(const al_arg *rows, const char *prefix, FILE *f) {
  for (const al_arg *r = rows; r->name; r++) {
    char name[96];
    snprintf(name, sizeof name, "%s%s%s", prefix, *prefix ? "." : "", r->name);
    if (r->type & AL_T_RECORD) {
      print_rows(r->fields, name, f);
      continue;
    }
    fprintf(f, "  %-24s %s", name, r->doc);
    if (r->choices) fprintf(f, " [%s]", r->choices);
    fprintf(f, " (default %s)\n", r->def && *r->def ? r->def : "none");
  }
}

/* What decoding carries, by an empty state. */
static void print_state(al_ctx *c, const attn_family *fam, const al_opts *o, const attn_sizes *s,
                        FILE *f) {
  if (!fam->state) {
    fprintf(f, "all inputs so far, run again for every token\n");
    return;
  }
  attn_state *st = attn_state_make(c, 0, 1);
  al_scope_begin(c);
  if (st) fam->state(c, o, s, 1, AL_F32, st);
  al_scope_end(c, NULL);
  if (al_error(c) == AL_OK) {
    const char *name, *doc;
    for (int i = 0; i < attn_state_count(st); i++) {
      attn_state_at(st, i, &name, &doc);
      fprintf(f, "%s%s (%s)", i ? ", " : "", name, doc);
    }
    enum { LATE = 1 << 20 }; /* past any window */
    const int64_t at_0 = fam->state_bytes ? fam->state_bytes(o, s, LATE, AL_F32) : 0,
                  at_1 = fam->state_bytes ? fam->state_bytes(o, s, LATE + 1, AL_F32) : 0;
    fprintf(f, ": %lld bytes %s with %lld heads of %lld in f32\n",
            (long long)(at_1 > at_0 ? at_1 - at_0 : at_0), at_1 > at_0 ? "a token" : "at most",
            (long long)s->kv_heads, (long long)s->head_dim);
  } else {
    fprintf(f, "none: %s\n", al_error_message(c, NULL, NULL));
    if (al_error(c) != AL_ENOMEM) al_error_clear(c);
  }
  attn_state_free(st);
}

char *attn_describe(al_ctx *c, const char *name) {
  AL_PLAIN_NUMBERS;
  const attn_family *fam;
  const attn_preset *pre;
  al_opts *o;
  if (attn_find(c, name, &fam, &pre, &o) != AL_OK) return NULL;
  char *out = NULL, line[2048];
  size_t len;
  FILE *f = open_memstream(&out, &len);
  if (!f) {
    al_opts_release(o);
    al_fail(c, AL_ENOMEM, "out of memory (describe)");
    return NULL;
  }
  fprintf(f, "%s  (family %s: %s)\n", pre ? pre->name : fam->name, fam->name, fam->doc);
  const attn_origin *from = origin_of(fam);
  if (from) fprintf(f, "plug-in:  %s (sha256 %.12s)\n", from->path, from->hash);
  if (fam->formula) {
    fam->formula(o, line, sizeof line);
    fprintf(f, "formula:  %s\n", line);
  }
  al_opts_text(o, false, line, sizeof line);
  fprintf(f, "options:  %s\n", *line ? line : "(all defaults)");
  if (pre && *pre->layer) fprintf(f, "layer:    %s\n", pre->layer);
  if (pre) fprintf(f, "source:   %s\n", pre->source);
  if (pre && *pre->note) fprintf(f, "note:     %s\n", pre->note);
  fprintf(f, "claims:   ");
  claims_text(fam->claims ? fam->claims(o) : 0, f);
  const attn_sizes s = {4, 4, 16, 16, 64};
  fprintf(f, "\nstate:    ");
  print_state(c, fam, o, &s, f);
  attn_param rows[ATTN_MAX_PARAMS];
  const int n = fam->params ? fam->params(o, &s, rows) : 0;
  fprintf(f, "own parameters: %s\n", n ? "" : "none");
  for (int i = 0; i < n; i++) fprintf(f, "  %-24s %s\n", rows[i].name, rows[i].doc);
  if (!pre) {
    fprintf(f, "options it takes:\n");
    print_rows(fam->options, "", f);
  }
  al_opts_release(o);
  if (fclose(f) != 0) {
    free(out);
    al_fail(c, AL_ENOMEM, "out of memory (describe)");
    return NULL;
  }
  return out;
}
