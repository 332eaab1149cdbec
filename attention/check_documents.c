/* check_documents.c: packed rows. Each document of a row gives what it gives in a row of its own,
 * output and gradients; whatever another one holds, NaN even, reaches nothing of it. */
#include "check_run.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PACKED_T = 40, CUT = 24, MOST = 4 };
/* f32: most are below 3e-7; sums of squared weights by states are 3e-6 off the truth in either place */
static const double f64_limit = 1e-12, f32_limit = 3e-6;

/* Where the documents of a row begin, to which length they go. Nothing is asked of the second of
 * row 1, which is poisoned. */
static const int64_t begins[2][MOST] = {{0, 14, 15, PACKED_T}, {0, 33, PACKED_T, PACKED_T}};
enum { HIDDEN_FROM = 14, HIDDEN_TO = 15 };

/* From a state there is one row: where rows have seen different numbers of tokens, those of a cache
 * come one at a time. */
static int64_t rows_of(const way *w) { return w->how == WHOLE ? 2 : 1; }

/* Tokens [from, to) of every row. */
static attn_documents *documents(const probe *p, int64_t from, int64_t to) {
  al_ctx *c = p->k->c;
  const int64_t T = to - from;
  double v[2 * PACKED_T];
  for (int64_t b = 0; b < p->B; b++)
    for (int64_t t = from, i = 0; t < to; t++) {
      while (i + 1 < MOST && begins[b][i + 1] <= t) i++;
      v[b * T + t - from] = (double)(begins[b][i] > from ? begins[b][i] - from : 0);
    }
  al_tensor *starts = al_tensor_from(c, AL_I32, 2, (int64_t[]){p->B, T}, v, p->B * T);
  return starts ? attn_documents_new(c, starts) : NULL;
}

/* In the open scope. The second part goes on in the middle of a document. */
static al_tensor *run_packed(const probe *p) {
  al_ctx *c = p->k->c;
  const bool parts = p->w->how == PARTS;
  const int64_t cut[] = {0, parts ? CUT : p->T, p->T};
  al_tensor *out[2] = {0};
  attn_state *st = parts ? attn_state_new(c, p->a, p->B) : NULL;
  for (int i = 0; i < (parts ? 2 : 1) && al_error(c) == AL_OK; i++) {
    attn_documents *d = documents(p, cut[i], cut[i + 1]);
    const attn_in in = probe_part(p, cut[i], cut[i + 1] - cut[i]);
    attn_state *next = NULL;
    if (d && parts) out[i] = attn_continue_packed(c, p->a, &in, d, st, false, &next);
    else if (d) out[i] = attn_forward_packed(c, p->a, &in, d);
    attn_documents_free(d);
    attn_state_free(st);
    st = next;
  }
  attn_state_free(st);
  return parts && al_error(c) == AL_OK ? al_run(c, "concat", out, 2, "axis=1") : out[0];
}

/* Document i of row b alone. */
static al_tensor *run_alone(const probe *p, int64_t b, int i) {
  al_ctx *c = p->k->c;
  probe one = *p;
  one.B = 1, one.T = begins[b][i + 1] - begins[b][i];
  for (int n = 0; n < N_IN; n++) {
    al_tensor *row =
        al_run(c, "slice", AL_IN(p->in[n]), "axis=0 start=%d stop=%d", (int)b, (int)b + 1);
    one.in[n] = al_run(c, "slice", AL_IN(row), "axis=1 start=%d stop=%d", (int)begins[b][i],
                       (int)begins[b][i + 1]);
  }
  return probe_run(&one);
}

/* What a run came to: outputs, and gradients of inputs and parameters. */
typedef struct came {
  double *y, *of[MAX_TENSORS];
} came;

static void drop(came *r) {
  free(r->y);
  for (int i = 0; i < MAX_TENSORS; i++) free(r->of[i]);
}

static al_tensor *tensor_at(const probe *p, int i) {
  return i < N_IN ? p->in[i] : attn_param_at(p->a, i - N_IN, NULL);
}

static bool is_hidden(int64_t b, int64_t t) { return b == 0 && t >= HIDDEN_FROM && t < HIDDEN_TO; }

/* Adds what the output y of tokens [from, ..) of row b on gives; hidden ones are not asked for. */
static void take(const probe *p, al_tensor *y, int64_t b, int64_t from, came *r) {
  al_ctx *c = p->k->c;
  if (!y) return;
  const int64_t row = probe_row(p), n = al_numel(y), at = (b * p->T + from) * row;
  double *seed = malloc((size_t)n * sizeof *seed + 1);
  if (al_read(y, r->y + at, n) != AL_OK || !seed) {
    free(seed);
    return;
  }
  for (int64_t i = 0; i < n; i++) {
    const int64_t token = (at + i) / row;
    seed[i] = is_hidden(token / p->T, token % p->T) ? 0 : sin(1.3 * (double)(at + i) + 0.4);
  }
  al_tensor *s = al_tensor_from(c, p->dtype, al_ndim(y), al_shape(y), seed, n);
  free(seed);
  if (s && al_needs_grad(y)) al_backward(c, y, s);
}

/* False with the error pending. */
static bool run(const probe *p, bool packed, came *r) {
  al_ctx *c = p->k->c;
  *r = (came){.y = calloc((size_t)(p->B * p->T * probe_row(p)) + 1, sizeof(double))};
  if (!r->y) return al_fail(c, AL_ENOMEM, "out of memory (check)") == AL_OK;
  for (int i = 0; i < N_IN; i++) al_requires_grad(p->in[i], true);
  al_scope_begin(c);
  if (packed) take(p, run_packed(p), 0, 0, r);
  for (int64_t b = 0; b < p->B && !packed; b++)
    for (int i = 0; i + 1 < MOST; i++)
      if (begins[b][i] < begins[b][i + 1] && al_error(c) == AL_OK)
        take(p, run_alone(p, b, i), b, begins[b][i], r);
  al_scope_end(c, NULL);
  for (int i = 0; i < MAX_TENSORS; i++) {
    al_tensor *t = tensor_at(p, i);
    if (!t) continue;
    r->of[i] = probe_values(al_grad(t));
    al_set_grad(t, NULL);
    if (i < N_IN) al_requires_grad(t, false);
  }
  return al_error(c) == AL_OK;
}

/* Length of got - want, of `want` where got is NULL; hidden tokens are left out. row 0: no tokens. */
static double length(const probe *p, const double *got, const double *want, int64_t n,
                     int64_t row) {
  double e = 0;
  for (int64_t i = 0; i < n; i++) {
    if (row && is_hidden(i / row / p->T, i / row % p->T)) continue;
    const double d = (got ? got[i] : 0) - want[i];
    e += d * d;
  }
  return sqrt(e);
}
static int64_t row_of(const probe *p, int i) {
  return i < N_IN ? al_numel(p->in[i]) / (p->B * p->T) : 0;
}

/* The largest difference of two runs; *what: where it is. Of a gradient relative to the longest, as
 * one may be 0 but for rounding. */
static double compared(const probe *p, const came *got, const came *want, char what[80]) {
  static const char *const inputs[] = {"q", "k", "v", "x"};
  const int64_t row = probe_row(p);
  const int64_t n = p->B * p->T * row;
  double worst = length(p, got->y, want->y, n, row) / length(p, NULL, want->y, n, row), scale = 0;
  snprintf(what, 80, "the output");
  for (int i = 0; i < MAX_TENSORS; i++)
    if (want->of[i])
      scale = fmax(scale, length(p, NULL, want->of[i], al_numel(tensor_at(p, i)), row_of(p, i)));
  for (int i = 0; i < MAX_TENSORS; i++) {
    const al_tensor *t = tensor_at(p, i);
    if (!t || !got->of[i] || !want->of[i]) continue;
    const double e = length(p, got->of[i], want->of[i], al_numel(t), row_of(p, i)) / scale;
    const char *name = i < N_IN ? inputs[i] : "";
    if (i >= N_IN) attn_param_at(p->a, i - N_IN, &name);
    if (!(e <= worst)) {
      worst = e;
      snprintf(what, 80, "the gradient of %s%s", i < N_IN ? "" : "parameter ", name);
    }
  }
  return worst;
}

/* An input whose gradient is not 0 where nothing is asked for, or NULL. */
static const char *reached(const probe *p, const came *r) {
  static const char *const inputs[] = {"q", "k", "v", "x"};
  for (int i = 0; i < N_IN; i++) {
    const int64_t row = al_numel(p->in[i]) / (p->B * p->T);
    for (int64_t j = HIDDEN_FROM * row; r->of[i] && j < HIDDEN_TO * row; j++)
      if (r->of[i][j] != 0) return inputs[i];
  }
  return NULL;
}

static void hold(attn_check *k, const way *w, al_dtype dtype) {
  const double limit = dtype == AL_F64 ? f64_limit : f32_limit;
  const char *type = al_dtype_name(dtype), *input = NULL;
  char what[80] = "", poisoned[80] = "";
  came alone = {0}, clean = {0}, other = {0};
  double error = NAN, moved = NAN;
  probe p;
  bool ran = probe_open(k, &p, w, &k->sizes, dtype, rows_of(w), PACKED_T, 1, NULL) &&
             run(&p, false, &alone) && run(&p, true, &clean);
  if (ran) {
    error = compared(&p, &clean, &alone, what);
    probe_poison(&p, NANS, 0, HIDDEN_FROM, HIDDEN_TO);
    ran = run(&p, true, &other);
  }
  if (ran) {
    moved = compared(&p, &other, &clean, poisoned);
    if (!(input = reached(&p, &clean))) input = reached(&p, &other);
  }
  if (!ran) {
    check_error(k, "documents", w->label, type);
  } else if (input) {
    check_row(k, "documents", w->label, type, ATTN_FAIL,
              "the gradient of %s is not 0 in a document that nothing is asked of", input);
  } else if (!(moved <= limit)) {
    check_row(k, "documents", w->label, type, ATTN_FAIL,
              "documents leak: %s changes when another document of the row holds NaN", poisoned);
  } else {
    attn_check_row *r = check_measured(k, "documents", w, dtype, error, limit);
    check_say(r,
              r->verdict == ATTN_PASS ? "packed in a row as in rows of their own, gradients too"
                                      : "packed in a row %s is not that of rows of their own",
              what);
  }
  drop(&alone);
  drop(&clean);
  drop(&other);
  probe_close(&p);
}

void check_documents(attn_check *k) {
  for (int i = 0; i < k->n_ways; i++)
    for (int d = 0; d < 2; d++) {
      const way *w = &k->ways[i];
      const al_dtype dtype = d ? AL_F32 : AL_F64;
      if (w->refused || w->how == TOKENS) continue; /* form=recurrent is a way of its own */
      if (!way_takes_lengths(k, w)) {
        if (d) continue;
        check_row(k, "documents", w->label, "", ATTN_EXEMPT,
                  "the family declares no state: it keeps all inputs, and no row may be padded");
      } else if (!way_stands(k, w, dtype, "documents")) {
        hold(k, w, dtype);
      }
    }
}
