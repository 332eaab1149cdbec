/* ctx.c: the context: errors, nearest names, threads. The only file that reads the environment. */
#include "core.h"
#include <omp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ATTNLAB_ISA: a lower instruction set than this machine's best, to see what another one does. */
static void use_isa(al_ctx *c) {
  const char *name = getenv("ATTNLAB_ISA");
  if (!name || !*name) return;
  const alk_isa isa = alk_isa_use(name), best = alk_cpu_best();
  if (isa == ALK_ISAS)
    al_fail(c, AL_ENAME, "ATTNLAB_ISA: %s, %s or %s needed, got '%s'", alk_isa_name(ALK_ISA_BASE),
            alk_isa_name(ALK_ISA_V3), alk_isa_name(ALK_ISA_V4), name);
  else if (isa > best)
    al_fail(c, AL_ESTATE,
            "ATTNLAB_ISA: at most %s needed, which is what this machine has, got '%s'",
            alk_isa_name(best), name);
}

al_ctx *al_ctx_new(void) {
  al_ctx *c = calloc(1, sizeof *c);
  if (!c) return NULL;
  c->record = true;
  c->seed = 1;
  const char *poison = getenv("ATTNLAB_POISON"); /* tests: fresh memory holds NaN */
  c->poison = poison && *poison && strcmp(poison, "0") != 0;
  al_op_check_table(c);
  use_isa(c); /* before devices take kernels */
  al_device_init(c);
  return c;
}

void al_ctx_free(al_ctx *c) {
  if (!c) return;
  while (c->n_marks) al_scope_end(c, NULL);
  al_detach_tape(c, AL_TAPE_OFF);
  free(c->pool);
  al_memory_end(c);
  al_device_end(c);
  free(c);
}

al_status al_fail_at(al_ctx *c, const char *file, int line, al_status st, const char *fmt, ...) {
  AL_PLAIN_NUMBERS;
  if (c->error != AL_OK) return st;
  c->error = st;
  c->error_file = file;
  c->error_line = line;
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(c->message, sizeof c->message, fmt, ap);
  va_end(ap);
  return st;
}

al_status al_error(const al_ctx *c) { return c->error; }

const char *al_error_message(const al_ctx *c, const char **file, int *line) {
  if (file) *file = c->error_file;
  if (line) *line = c->error_line;
  return c->error == AL_OK ? "" : c->message;
}

void al_error_clear(al_ctx *c) {
  c->error = AL_OK;
  c->message[0] = 0;
  c->error_file = NULL;
  c->error_line = 0;
}

void al_axes_from(al_ctx *c, int base) { c->axis_base = base; }

/* Edit distance of two short words with transpositions of neighbours, at most 63 letters each. */
static int distance(const char *a, const char *b) {
  enum { MAX = 63 };
  const int n = (int)strlen(a), m = (int)strlen(b);
  if (n > MAX || m > MAX) return 1000;
  int d[MAX + 1][MAX + 1];
  for (int i = 0; i <= n; i++) d[i][0] = i;
  for (int j = 0; j <= m; j++) d[0][j] = j;
  for (int i = 1; i <= n; i++)
    for (int j = 1; j <= m; j++) {
      int best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
      if (d[i - 1][j] + 1 < best) best = d[i - 1][j] + 1;
      if (d[i][j - 1] + 1 < best) best = d[i][j - 1] + 1;
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
          d[i - 2][j - 2] + 1 < best)
        best = d[i - 2][j - 2] + 1;
      d[i][j] = best;
    }
  return d[n][m];
}

const char *al_nearest(const char *word, const char *const *names, int n) {
  const char *best = NULL;
  int best_d = 1000;
  const int len = (int)strlen(word);
  for (int i = 0; i < n; i++) {
    if (!names[i]) continue;
    int d = distance(word, names[i]);
    if (len >= 3 && strstr(names[i], word) && d > 1) d = 1; /* a part of the name counts as near */
    if (d < best_d) best_d = d, best = names[i];
  }
  const int limit = len <= 3 ? 1 : len <= 6 ? 2 : 1 + len / 3;
  return best_d <= limit ? best : NULL;
}

int al_threads(void) { return omp_get_max_threads(); }
void al_set_threads(int n) { omp_set_num_threads(n < 1 ? 1 : n); }
