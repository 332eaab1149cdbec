/* check_taps.c: a variant's taps, asked for all at once: each that it declares is handed out,
 * asking changes the output by rounding alone, what is handed back as it was changes nothing. */
#include "check_run.h"
#include <stdlib.h>
#include <string.h>

typedef struct looker {
  attn_sink base;
  const attn *a;
  bool copies; /* hands back a copy */
  bool seen[ATTN_MAX_TAPS];
} looker;

static int place_of(const looker *l, const char *name) {
  const attn_tap_row *r;
  for (int i = 0; (r = attn_tap_at(l->a, i)); i++)
    if (strcmp(r->name, name) == 0) return i;
  return -1;
}

static bool asks(const attn_sink *base, const char *name) {
  return place_of((const looker *)base, name) >= 0;
}

static al_tensor *take(const attn_sink *base, al_ctx *c, const char *name, al_tensor *t) {
  looker *l = (looker *)(uintptr_t)base;
  l->seen[place_of(l, name)] = true;
  return l->copies ? al_run(c, "scale", AL_IN(t), "by=1") : t;
}

/* The probe's output while somebody looks; NULL: an error row was written. */
static double *looked_at(probe *p, looker *l, bool copies) {
  al_ctx *c = p->k->c;
  *l = (looker){.base = {asks, take}, .a = p->a, .copies = copies};
  al_scope_begin(c);
  attn_in in = probe_part(p, 0, p->T);
  in.sink = &l->base;
  double *v = probe_values(attn_forward(c, p->a, &in));
  al_scope_end(c, NULL);
  if (!v) check_error(p->k, "taps", p->w->label, al_dtype_name(p->dtype));
  return v;
}

/* The first tap that was not handed out, or NULL. */
static const char *lost(const looker *l) {
  const attn_tap_row *r;
  for (int i = 0; (r = attn_tap_at(l->a, i)); i++)
    if (!l->seen[i]) return r->name;
  return NULL;
}

static void taps(attn_check *k, const way *w, al_dtype dtype) {
  const double limit = dtype == AL_F64 ? 1e-9 : 1e-4; /* another path may run */
  const int64_t T = way_most(k, w, 40);
  probe p;
  looker l;
  if (!probe_open(k, &p, w, &k->sizes, dtype, 2, T, 1, NULL)) {
    check_error(k, "taps", w->label, al_dtype_name(dtype));
    probe_close(&p);
    return;
  }
  const bool any = attn_tap_at(p.a, 0) != NULL;
  double *plain = any ? probe_output(&p, "taps") : NULL;
  double *shown = plain ? looked_at(&p, &l, false) : NULL;
  const char *name = shown ? lost(&l) : NULL;
  double *back = shown ? looked_at(&p, &l, true) : NULL;
  const size_t bytes = (size_t)(2 * T * probe_row(&p)) * sizeof *back;
  if (back && name) {
    check_row(k, "taps", w->label, al_dtype_name(dtype), ATTN_FAIL,
              "tap '%s' is declared, but forward does not hand it out (attn_tap)", name);
  } else if (back && memcmp(back, shown, bytes) != 0) {
    check_row(k, "taps", w->label, al_dtype_name(dtype), ATTN_FAIL,
              "a tap that is handed back as it was changes the output");
  } else if (back) {
    const differs d = probe_differ(shown, plain, 2, T, probe_row(&p), limit);
    attn_check_row *r = check_measured(k, "taps", w, dtype, d.worst, limit);
    if (r->verdict == ATTN_FAIL)
      check_say(r, "asked for its taps the variant gives another output: the way that shows them "
                   "is not the way that runs");
  }
  free(plain);
  free(shown);
  free(back);
  probe_close(&p);
}

/* Taps are shown by whole runs alone. */
void check_taps(attn_check *k) {
  for (int i = 0; i < k->n_ways; i++)
    for (int d = 0; d < 2; d++)
      if (!k->ways[i].refused && k->ways[i].how == WHOLE) taps(k, &k->ways[i], d ? AL_F32 : AL_F64);
}
