/* registry.c: families (one file each in variants/, found by the build) and their presets. */
#include "attn.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ATTN_FAMILY_FILE(stem) extern const attn_family attn_family_##stem;
#include "attn_families.inc"
#undef ATTN_FAMILY_FILE

static const attn_family *const families[] = {
#define ATTN_FAMILY_FILE(stem) &attn_family_##stem,
#include "attn_families.inc"
#undef ATTN_FAMILY_FILE
    NULL};

enum { MAX_PRESETS = 512 };
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

static void build(void) {
  for (int f = 0; families[f]; f++)
    for (const attn_preset *p = families[f]->presets; p && p->name; p++)
      if (n_defined++ < MAX_PRESETS) presets[n_presets++] = (entry){p, families[f]};
  qsort(presets, (size_t)n_presets, sizeof *presets, by_name);
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
  return AL_OK;
}

int attn_family_count(void) { return (int)(sizeof families / sizeof *families) - 1; }
const attn_family *attn_family_at(int i) {
  return i >= 0 && i < attn_family_count() ? families[i] : NULL;
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

static al_status not_found(al_ctx *c, const char *name) {
  const char *names[2 * MAX_PRESETS + 64];
  int n = 0;
  for (int i = 0; i < n_presets; i++) {
    names[n++] = presets[i].preset->name;
    names[n++] = short_name(presets[i].preset->name);
  }
  for (int f = 0; families[f] && n < (int)(sizeof names / sizeof *names); f++)
    names[n++] = families[f]->name;
  const char *near = al_nearest(name, names, n);
  return al_fail(c, AL_ENAME, "attention: no preset or family '%s'%s%s%s; `list` shows all", name,
                 near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "");
}

al_status attn_find(al_ctx *c, const char *name, const attn_family **family,
                    const attn_preset **preset, al_opts **opts) {
  *family = NULL, *preset = NULL, *opts = NULL;
  AL_TRY(check_table(c));
  const entry *hit = NULL;
  int n_hits = 0;
  for (int i = 0; i < attn_preset_count(); i++) {
    const char *full = presets[i].preset->name;
    if (strcmp(full, name) == 0) {
      hit = &presets[i], n_hits = 1;
      break;
    }
    if (strcmp(short_name(full), name) == 0) hit = &presets[i], n_hits++;
  }
  if (n_hits > 1)
    return al_fail(c, AL_ENAME, "attention: '%s' names %d presets; write the paper too, e.g. '%s'",
                   name, n_hits, hit->preset->name);
  if (hit) {
    *family = hit->family;
    *preset = hit->preset;
  } else {
    for (int f = 0; families[f]; f++)
      if (strcmp(families[f]->name, *name ? name : "kernel_attention") == 0) *family = families[f];
    if (!*family) return not_found(c, name);
  }
  *opts = al_opts_new(c, (*family)->options, (*family)->name);
  if (*opts && *preset && al_opts_parse(c, *opts, (*preset)->options) != AL_OK) {
    al_opts_release(*opts);
    *opts = NULL;
  }
  return al_error(c);
}

/* ---- describe ---------------------------------------------------------------------------------
 */

static void claims_text(unsigned claims, FILE *f) {
  static const struct {
    unsigned bit;
    const char *text;
  } names[] = {{ATTN_CAUSAL, "causal when asked"},
               {ATTN_ROWSUM1, "weights sum to one"},
               {ATTN_POSITIVE_WEIGHTS, "positive weights"},
               {ATTN_SHIFT_INVARIANT, "unchanged when one vector is added to every key"},
               {ATTN_SCALE_FREE, "unchanged when v is scaled"}};
  const char *sep = "";
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (claims & names[i].bit) fprintf(f, "%s%s", sep, names[i].text), sep = ", ";
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

char *attn_describe(al_ctx *c, const char *name) {
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
  attn_param rows[ATTN_MAX_PARAMS];
  const int n = fam->params ? fam->params(o, &s, rows) : 0;
  fprintf(f, "\nown parameters: %s\n", n ? "" : "none");
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
