/* check_state.c: the state: its bytes as measured and as declared, that a call leaves the one it
 * was given alone, and rows of unequal lengths. */
#include "check_run.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The state after the first n tokens of p, made in one call; NULL with the error pending. */
static attn_state *state_after(const probe *p, int64_t n) {
  al_ctx *c = p->k->c;
  attn_state *st = attn_state_new(c, p->a, p->B), *next = NULL;
  if (!st || n == 0) return st;
  al_scope_begin(c);
  const attn_in in = probe_part(p, 0, n);
  attn_continue(c, p->a, &in, st, true, &next);
  al_scope_end(c, NULL);
  attn_state_free(st);
  return next;
}

/* ---- bytes ---------------------------------------------------------------------------------- */

/* Of the host's own component, which a family may count or not. */
enum { COUNT_BYTES = 4 };

static void check_bytes(attn_check *k, const way *w) {
  static const int64_t at[] = {0, 1, 31, 300};
  probe p;
  int64_t got[4], want[4];
  if (!probe_open(k, &p, w, &k->sizes, AL_F32, 1, 301, 1, NULL)) return probe_close(&p);
  int n = 0;
  for (; n < 4; n++) {
    attn_state *st = state_after(&p, at[n]);
    if (!st) break;
    got[n] = attn_state_size(st);
    want[n] = attn_state_bytes(p.a, at[n]);
    if (want[n] + COUNT_BYTES == got[n]) want[n] = got[n];
    attn_state_free(st);
  }
  const bool declared = k->family->state_bytes;
  const bool constant = declared && attn_state_bytes(p.a, 0) == attn_state_bytes(p.a, at[3]);
  if (n < 4) {
    check_error(k, "state bytes", w->label, "f32");
  } else if (!k->family->state) {
    check_row(k, "state bytes", w->label, "f32", ATTN_EXEMPT,
              "the family declares no state: all inputs are kept, %lld bytes after 300 tokens",
              (long long)got[3]);
  } else {
    int bad = -1;
    for (int i = 0; i < 4 && declared; i++)
      if (got[i] != want[i] && bad < 0) bad = i;
    if (constant && got[3] > got[1])
      check_row(k, "state bytes", w->label, "f32", ATTN_FAIL,
                "the state grows: declared to stay at %lld bytes, it has %lld after 1 token, %lld "
                "after 31 and %lld after 300",
                (long long)want[3], (long long)got[1], (long long)got[2], (long long)got[3]);
    else if (bad >= 0)
      check_row(k, "state bytes", w->label, "f32", ATTN_FAIL,
                "state_bytes declares %lld after %lld tokens, the state has %lld",
                (long long)want[bad], (long long)at[bad], (long long)got[bad]);
    else
      check_row(k, "state bytes", w->label, "f32", ATTN_PASS,
                "%lld after 1 token, %lld after 300%s", (long long)got[1], (long long)got[3],
                declared ? ", as declared" : " (family.state_bytes declares nothing)");
  }
  probe_close(&p);
}

/* ---- the given state ------------------------------------------------------------------------ */

/* All components one after another. */
static char *snapshot(const attn_state *st, int64_t *bytes) {
  *bytes = attn_state_size(st);
  char *all = malloc((size_t)*bytes + 1);
  int64_t at = 0;
  for (int i = 0; all && i < attn_state_count(st); i++) {
    const al_tensor *t = attn_state_at(st, i, NULL, NULL);
    double *v = probe_values(t);
    for (int64_t j = 0; v && j < al_numel(t); j++) {
      const int64_t size = al_dtype_size(al_type(t));
      const float f = (float)v[j];
      memcpy(all + at, size == 8 ? (const void *)&v[j] : (const void *)&f, (size_t)size);
      at += size;
    }
    free(v);
  }
  return all;
}

static double *further(const probe *p, const attn_state *st, int64_t from, int64_t n) {
  al_ctx *c = p->k->c;
  attn_state *next = NULL;
  al_scope_begin(c);
  const attn_in in = probe_part(p, from, n);
  double *v = probe_values(attn_continue(c, p->a, &in, st, false, &next));
  al_scope_end(c, NULL);
  attn_state_free(next);
  return v;
}

static void check_given(attn_check *k, const way *w, al_dtype dtype, int64_t step) {
  probe p;
  attn_state *st =
      probe_open(k, &p, w, &k->sizes, dtype, 2, 60, 1, NULL) ? state_after(&p, 31) : NULL;
  if (!st) {
    check_error(k, "state", w->label, al_dtype_name(dtype));
    return probe_close(&p);
  }
  int64_t bytes, after_bytes;
  char *before = snapshot(st, &bytes), *after = NULL;
  double *a = further(&p, st, 31, step), *b = a ? further(&p, st, 31, step) : NULL;
  if (b) after = snapshot(st, &after_bytes);
  if (!after) check_error(k, "state", w->label, al_dtype_name(dtype));
  else if (bytes != after_bytes || memcmp(before, after, (size_t)bytes) != 0)
    check_row(k, "state", w->label, al_dtype_name(dtype), ATTN_FAIL,
              "a call of %lld token%s changes the state that it was given", (long long)step,
              step == 1 ? "" : "s");
  else if (memcmp(a, b, (size_t)(p.B * step * probe_row(&p)) * sizeof *a) != 0)
    check_row(k, "state", w->label, al_dtype_name(dtype), ATTN_FAIL,
              "two calls from one state differ");
  else
    check_row(k, "state", w->label, al_dtype_name(dtype), ATTN_PASS,
              "left as it was by a call of %lld token%s", (long long)step, step == 1 ? "" : "s");
  free(a);
  free(b);
  free(before);
  free(after);
  attn_state_free(st);
  probe_close(&p);
}

/* ---- rows of unequal lengths ---------------------------------------------------------------- */

enum { FIRST = 31, SHORTER = 28, SECOND = 23 };

/* Output of the last SECOND tokens from st on, in the open scope: in one call, or, where the family
 * says that these rows must go on one token at a time, so. NULL with the error pending. */
static al_tensor *go_on(const probe *p, const attn_state *st) {
  al_ctx *c = p->k->c;
  attn_state *next = NULL, *now = NULL;
  const attn_in rest = probe_part(p, FIRST, SECOND);
  al_tensor *o = attn_continue(c, p->a, &rest, st, false, &next), *one[SECOND];
  attn_state_free(next);
  if (o || !check_is_refusal(p->k)) return o;
  al_error_clear(c);
  for (int t = 0; t < SECOND; t++) {
    const attn_in in = probe_part(p, FIRST + t, 1);
    one[t] = attn_continue(c, p->a, &in, now ? now : st, false, &next);
    attn_state_free(now);
    now = next;
    if (!one[t]) return NULL;
  }
  attn_state_free(now);
  return al_run(c, "concat", one, SECOND, "axis=1");
}

/* Row 2 sees 28 of the first 31 tokens, then 23 more: as a text of 51 by itself. */
static void check_unequal(attn_check *k, const way *w, al_dtype dtype) {
  const double limit = dtype == AL_F64 ? 1e-9 : 1e-4;
  const int32_t lens[] = {FIRST, SHORTER};
  probe p, text;
  if (!probe_open(k, &p, w, &k->sizes, dtype, 2, FIRST + SECOND, 1, NULL)) {
    check_error(k, "state", w->label, al_dtype_name(dtype));
    return probe_close(&p);
  }
  al_ctx *c = k->c;
  /* where nothing is recorded a cache has room, which is NaN here as all new memory is */
  const bool record = al_grad_mode(c, false);
  al_scope_begin(c);
  attn_state *st = attn_state_new(c, p.a, 2), *mid = NULL;
  attn_in in = probe_part(&p, 0, FIRST);
  double l[] = {lens[0], lens[1]};
  const int64_t two = 2;
  in.lengths = al_tensor_from(c, AL_I32, 1, &two, l, 2);
  double *got = NULL, *want = NULL;
  if (st) attn_continue(c, p.a, &in, st, false, &mid);
  if (mid) got = probe_values(go_on(&p, mid));
  text = p;
  const way whole = {.how = WHOLE, .opts = w->opts};
  text.w = &whole;
  text.T = SHORTER + SECOND;
  for (int i = 0; i < N_IN; i++) {
    al_tensor *a = al_run(c, "slice", AL_IN(p.in[i]), "axis=1 start=0 stop=%d", SHORTER);
    al_tensor *b =
        al_run(c, "slice", AL_IN(p.in[i]), "axis=1 start=%d stop=%d", FIRST, FIRST + SECOND);
    text.in[i] = al_run(c, "concat", AL_IN(a, b), "axis=1");
  }
  want = got ? probe_values(probe_run(&text)) : NULL;
  if (!want) {
    check_error(k, "state", w->label, al_dtype_name(dtype));
  } else {
    const int64_t row = probe_row(&p);
    const differs d =
        probe_differ(got + SECOND * row, want + (text.T + SHORTER) * row, 1, SECOND, row, limit);
    attn_check_row *r = check_measured(k, "state", w, dtype, d.worst, limit);
    check_say(r, r->verdict == ATTN_PASS
                     ? "a row that was padded goes on as if it had not been"
                     : "a row that was padded in the first call does not go on as the same text "
                       "without padding");
  }
  free(got);
  free(want);
  attn_state_free(st);
  attn_state_free(mid);
  al_scope_end(c, NULL);
  al_grad_mode(c, record);
  probe_close(&p);
}

void check_state(attn_check *k) {
  bool bytes = false;
  for (int i = 0; i < k->n_ways; i++) {
    const way *w = &k->ways[i];
    if (w->refused || w->how != PARTS) continue;
    if (!bytes) check_bytes(k, w);
    bytes = true;
    for (int d = 0; d < 2; d++) {
      const al_dtype dtype = d ? AL_F32 : AL_F64;
      check_given(k, w, dtype, 1);
      check_given(k, w, dtype, 29);
      if (way_takes_lengths(k, w)) check_unequal(k, w, dtype);
    }
  }
}
