/* check_rules.c: what no variant may do: look at later tokens, at other batch rows, at padding, or
 * give another result the second time. "Depends on" is a matter of bits: equal shapes, other
 * contents, and the rows that should not notice are equal byte for byte. */
#include "check_run.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- other contents ------------------------------------------------------------------------- */

const char *probe_poison_name(poison_kind kind) { return kind == NANS ? "NaN" : "other values"; }

void probe_poison(probe *p, poison_kind kind, int64_t batch, int64_t from, int64_t to) {
  for (int i = 0; i < N_IN; i++) {
    al_tensor *t = p->in[i];
    const int64_t row = al_numel(t) / (p->B * p->T);
    double *v = probe_values(t);
    for (int64_t b = 0; v && b < p->B; b++)
      for (int64_t j = from * row; j < to * row && (batch < 0 || b == batch); j++)
        v[b * p->T * row + j] = kind == NANS ? NAN : j % 2 ? 9 : -7;
    if (v) al_write(t, v, al_numel(t));
    free(v);
  }
}

/* The first token in [from, to) of batch row b whose output differs in any bit, or -1. */
static int64_t first_change(const probe *p, const double *a, const double *b, int64_t batch,
                            int64_t from, int64_t to) {
  const int64_t row = probe_row(p);
  for (int64_t t = from; t < to; t++) {
    const int64_t at = (batch * p->T + t) * row;
    if (memcmp(a + at, b + at, (size_t)row * sizeof *a) != 0) return t;
  }
  return -1;
}

/* The first token in [0, to) of batch row b that is not finite, or -1. */
static int64_t first_nan(const probe *p, const double *y, int64_t batch, int64_t to) {
  for (int64_t i = 0; i < to * probe_row(p); i++)
    if (!isfinite(y[batch * p->T * probe_row(p) + i])) return i / probe_row(p);
  return -1;
}

static bool open_or_say(attn_check *k, const char *check, probe *p, const way *w, al_dtype dtype,
                        int64_t B, int64_t T, const int32_t *lens) {
  if (probe_open(k, p, w, &k->sizes, dtype, B, T, 1, lens)) return true;
  check_error(k, check, w->label, al_dtype_name(dtype));
  probe_close(p);
  return false;
}

static attn_check_row *passed(attn_check *k, const char *check, const way *w, al_dtype dtype) {
  return check_row(k, check, w->label, al_dtype_name(dtype), ATTN_PASS, "equal bit for bit");
}

/* Every way that runs, in both types. */
static void each_way(attn_check *k, void (*f)(attn_check *, const way *, al_dtype)) {
  for (int i = 0; i < k->n_ways; i++)
    for (int d = 0; d < 2; d++) {
      const way *w = &k->ways[i];
      const al_dtype dtype = d ? AL_F32 : AL_F64;
      if (!w->refused && !way_stands(k, w, dtype, k->running)) f(k, w, dtype);
    }
}

/* ---- causality ------------------------------------------------------------------------------ */

/* From the last cut to the first: what is poisoned is poisoned again, with the other kind. */
static void causality(attn_check *k, const way *w, al_dtype dtype) {
  static const int64_t cuts[] = {129, 64, 33, 8, 1};
  const int64_t T = way_most(k, w, 150);
  probe p;
  if (!open_or_say(k, "causality", &p, w, dtype, 2, T, NULL)) return;
  double *clean = probe_output(&p, "causality");
  int64_t at = -1;
  bool ran = clean != NULL;
  for (int i = 0; i < 5 && ran && at < 0; i++) {
    if (cuts[i] >= T) continue;
    probe_poison(&p, i % N_POISONS, -1, cuts[i], T);
    double *later = probe_output(&p, "causality");
    ran = later != NULL;
    for (int b = 0; ran && b < 2 && at < 0; b++) at = first_change(&p, clean, later, b, 0, cuts[i]);
    free(later);
    if (at >= 0)
      check_row(k, "causality", w->label, al_dtype_name(dtype), ATTN_FAIL,
                "looks ahead: the output at token %lld changes when tokens from %lld on hold %s "
                "(%lld tokens)",
                (long long)at + 1, (long long)cuts[i] + 1, probe_poison_name(i % N_POISONS),
                (long long)T);
  }
  if (ran && at < 0) passed(k, "causality", w, dtype);
  free(clean);
  probe_close(&p);
}

void check_causality(attn_check *k) {
  if (k->family->claims && !(k->family->claims(k->opts) & ATTN_CAUSAL))
    check_row(k, "causality", "", "", ATTN_EXEMPT, "not claimed");
  else each_way(k, causality);
}

/* ---- batch rows ----------------------------------------------------------------------------- */

static void batch_rows(attn_check *k, const way *w, al_dtype dtype) {
  const int64_t T = way_most(k, w, 70);
  for (int kind = 0; kind < N_POISONS; kind++) {
    probe p;
    if (!open_or_say(k, "batch rows", &p, w, dtype, 3, T, NULL)) return;
    double *clean = probe_output(&p, "batch rows");
    probe_poison(&p, kind, 1, 0, T);
    double *other = clean ? probe_output(&p, "batch rows") : NULL;
    int64_t at = -1, row = 0;
    for (int b = 0; other && b < 3 && at < 0; b += 2)
      at = first_change(&p, clean, other, row = b, 0, T);
    const bool ran = other != NULL;
    free(clean);
    free(other);
    probe_close(&p);
    if (!ran) return;
    if (at >= 0) {
      check_row(k, "batch rows", w->label, al_dtype_name(dtype), ATTN_FAIL,
                "batch rows leak: row %lld changes at token %lld when row 2 holds %s",
                (long long)row + 1, (long long)at + 1, probe_poison_name(kind));
      return;
    }
  }
  passed(k, "batch rows", w, dtype);
}

void check_batch(attn_check *k) { each_way(k, batch_rows); }

/* ---- padding -------------------------------------------------------------------------------- */

enum { PADDED = 70, SHORT = 41 };
static const int32_t short_lens[] = {PADDED, SHORT};

/* Row 2 alone, without its padding, by the same way; NULL: a row says why. */
static double *unpadded(attn_check *k, const way *w, al_dtype dtype, bool causal) {
  probe p;
  if (!open_or_say(k, "padding", &p, w, dtype, 2, PADDED, NULL)) return NULL;
  p.causal = causal;
  al_scope_begin(k->c);
  probe cut = p;
  cut.T = SHORT;
  for (int i = 0; i < N_IN; i++)
    cut.in[i] = al_run(k->c, "slice", AL_IN(p.in[i]), "axis=1 start=0 stop=%d", SHORT);
  double *v = probe_output(&cut, "padding");
  al_scope_end(k->c, NULL);
  probe_close(&p);
  return v;
}

/* False: a row was written. */
static bool padding_hides(attn_check *k, const way *w, al_dtype dtype, bool causal, double limit,
                          double *worst) {
  const char *mode = causal ? "causal" : "not causal";
  double *alone = unpadded(k, w, dtype, causal);
  if (!alone) return false;
  bool good = true;
  for (int kind = 0; kind < N_POISONS && good; kind++) {
    probe p;
    good = open_or_say(k, "padding", &p, w, dtype, 2, PADDED, short_lens);
    if (!good) break;
    p.causal = causal;
    const int64_t row = probe_row(&p);
    double *clean = probe_output(&p, "padding");
    probe_poison(&p, kind, 1, SHORT, PADDED);
    double *dirty = clean ? probe_output(&p, "padding") : NULL;
    int64_t b = 0, at = -1, nan = -1;
    good = dirty != NULL;
    if (dirty) {
      at = first_change(&p, clean, dirty, 0, 0, PADDED);
      if (at < 0) at = first_change(&p, clean, dirty, b = 1, 0, SHORT);
      nan = first_nan(&p, clean, 1, PADDED);
    }
    if (at >= 0)
      check_row(k, "padding", w->label, al_dtype_name(dtype), ATTN_FAIL,
                "padding leaks (%s): the output of row %lld at token %lld changes when the keys of "
                "row 2 past its length of %d hold %s",
                mode, (long long)b + 1, (long long)at + 1, SHORT, probe_poison_name(kind));
    else if (nan >= 0)
      check_row(k, "padding", w->label, al_dtype_name(dtype), ATTN_FAIL,
                "padding (%s): row 2, of length %d, is not finite at token %lld%s", mode, SHORT,
                (long long)nan + 1, nan >= SHORT ? ", a padded row" : "");
    good = good && at < 0 && nan < 0;
    if (good) {
      const differs d =
          probe_differ(clean + PADDED * row, alone + SHORT * row, 1, SHORT, row, limit);
      if (!(d.worst <= *worst)) *worst = d.worst;
    }
    free(clean);
    free(dirty);
    probe_close(&p);
  }
  free(alone);
  return good;
}

static void padding(attn_check *k, const way *w, al_dtype dtype) {
  if (!way_takes_lengths(k, w)) {
    if (dtype == AL_F64)
      check_row(k, "padding", w->label, "", ATTN_EXEMPT,
                "the family declares no state: it keeps all inputs, and no row may be padded");
    return;
  }
  const double limit = dtype == AL_F64 ? 1e-9 : 1e-4; /* sums over other numbers of keys */
  double worst = 0;
  bool order = w->how != WHOLE; /* needs causal=true */
  if (!order) {
    probe p;
    if (!open_or_say(k, "padding", &p, w, dtype, 1, 5, NULL)) return;
    p.causal = false;
    al_tensor *y = probe_run(&p);
    order = !y && strstr(al_error_message(k->c, NULL, NULL), "causal=true");
    if (y) al_release(y);
    else if (!order) check_error(k, "padding", w->label, al_dtype_name(dtype));
    else if (dtype == AL_F64)
      check_row(k, "padding", w->label, "", ATTN_REFUSED, "causal=false: %s",
                al_error_message(k->c, NULL, NULL));
    if (order) al_error_clear(k->c);
    probe_close(&p);
  }
  if (!padding_hides(k, w, dtype, true, limit, &worst)) return;
  if (!order && !padding_hides(k, w, dtype, false, limit, &worst)) return;
  attn_check_row *r = check_measured(k, "padding", w, dtype, worst, limit);
  check_say(r,
            r->verdict == ATTN_PASS ? "invisible%s"
                                    : "a padded row differs from the same row without padding%s",
            order ? "" : ", causal or not");
}

void check_padding(attn_check *k) { each_way(k, padding); }

/* ---- two runs ------------------------------------------------------------------------------- */

static void repeat(attn_check *k, const way *w, al_dtype dtype) {
  const int64_t T = way_most(k, w, 150);
  probe p;
  if (!open_or_say(k, "two runs", &p, w, dtype, 2, T, NULL)) return;
  double *a = probe_output(&p, "two runs"), *b = a ? probe_output(&p, "two runs") : NULL;
  int64_t at = -1;
  for (int i = 0; b && i < 2 && at < 0; i++) at = first_change(&p, a, b, i, 0, T);
  if (b && at >= 0)
    check_row(k, "two runs", w->label, al_dtype_name(dtype), ATTN_FAIL,
              "not deterministic: the same call twice differs at token %lld", (long long)at + 1);
  else if (b) passed(k, "two runs", w, dtype);
  free(a);
  free(b);
  probe_close(&p);
}

void check_repeat(attn_check *k) { each_way(k, repeat); }
