/* check_run.c: ways to run a variant, one run with its inputs, and how two outputs differ. */
#include "check_run.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- inputs --------------------------------------------------------------------------------- */

/* Numbers that f32 holds exactly, so that both types see the same. */
static al_tensor *normal(al_ctx *c, al_dtype dtype, int ndim, const int64_t *shape,
                         const char *name, double scale) {
  al_tensor *t = al_tensor_new(c, AL_F32, ndim, shape);
  if (!t || al_fill_normal(t, al_stream(7, name), 0, scale) != AL_OK) return t;
  if (dtype == AL_F32) return t;
  al_tensor *wide = al_tensor_new(c, dtype, ndim, shape);
  if (wide) al_copy_into(c, wide, t);
  al_release(t);
  return wide;
}

/* Off zeros and ones, where a fault could hide. */
static void disturb(attn *a) {
  al_tensor *p;
  for (int i = 0; (p = attn_param_at(a, i, NULL)); i++) {
    double *v = probe_values(p);
    for (int64_t j = 0; v && j < al_numel(p); j++)
      v[j] = (double)(float)(v[j] + 0.3 * sin(1.0 + (double)(7 * i + 3 * j)));
    if (v) al_write(p, v, al_numel(p));
    free(v);
  }
}

bool probe_open(attn_check *k, probe *p, const way *w, const attn_sizes *s, al_dtype dtype,
                int64_t B, int64_t T, double scale, const int32_t *lens) {
  *p = (probe){.k = k, .w = w, .dtype = dtype, .B = B, .T = T, .causal = true};
  al_ctx *c = k->c;
  snprintf(k->doing, sizeof k->doing, "%s: %s, %s, %lld rows of %lld tokens%s", k->running,
           *w->label ? w->label : "as given", al_dtype_name(dtype), (long long)B, (long long)T,
           lens ? ", some padded" : "");
  p->a = attn_new(c, k->family, w->opts, s, dtype, 3, "check");
  if (!p->a) return false;
  disturb(p->a);
  p->in[0] = normal(c, dtype, 4, (int64_t[]){B, T, s->heads, s->head_dim}, "q", scale);
  p->in[1] = normal(c, dtype, 4, (int64_t[]){B, T, s->kv_heads, s->head_dim}, "k", scale);
  p->in[2] = normal(c, dtype, 4, (int64_t[]){B, T, s->kv_heads, s->value_dim}, "v", 1);
  p->in[3] = normal(c, dtype, 3, (int64_t[]){B, T, s->width}, "x", 1);
  if (lens) {
    double l[4];
    for (int64_t b = 0; b < B; b++) l[b] = p->len[b] = lens[b];
    p->lengths = al_tensor_from(c, AL_I32, 1, &B, l, B);
  }
  return al_error(c) == AL_OK;
}

void probe_close(probe *p) {
  attn_free(p->a);
  for (int i = 0; i < N_IN; i++) al_release(p->in[i]);
  al_release(p->lengths);
  *p = (probe){0};
}

int64_t probe_row(const probe *p) {
  const attn_sizes *s = attn_sizes_of(p->a);
  return s->heads * s->value_dim;
}

/* ---- running -------------------------------------------------------------------------------- */

attn_in probe_part(const probe *p, int64_t from, int64_t n) {
  al_ctx *c = p->k->c;
  al_tensor *t[N_IN];
  for (int i = 0; i < N_IN; i++)
    t[i] = n == p->T ? p->in[i]
                     : al_run(c, "slice", AL_IN(p->in[i]), "axis=1 start=%lld stop=%lld",
                              (long long)from, (long long)(from + n));
  attn_in in = {.size = sizeof in, .q = t[0], .k = t[1], .v = t[2], .x = t[3], .causal = p->causal};
  if (!p->lengths || n == p->T) {
    in.lengths = p->lengths;
    return in;
  }
  double left[4];
  for (int64_t b = 0; b < p->B; b++) {
    const int64_t rest = p->len[b] - from;
    left[b] = (double)(rest < 0 ? 0 : rest > n ? n : rest);
  }
  in.lengths = al_tensor_from(c, AL_I32, 1, &p->B, left, p->B);
  return in;
}

/* Where PARTS cuts T tokens: odd places, a single token among them. */
static int cuts_of(int64_t T, int64_t *cut) {
  static const int64_t at[] = {1, 8, 9, 40, 303};
  int n = 0;
  cut[n++] = 0;
  for (int i = 0; i < 5; i++)
    if (at[i] < T) cut[n++] = at[i];
  cut[n] = T;
  return n;
}

static al_tensor *run_parts(const probe *p) {
  al_ctx *c = p->k->c;
  int64_t cut[8];
  const int n = cuts_of(p->T, cut);
  al_tensor *out[8];
  al_scope_begin(c);
  attn_state *st = attn_state_new(c, p->a, p->B);
  for (int i = 0; i < n && st; i++) {
    attn_state *next = NULL;
    const attn_in in = probe_part(p, cut[i], cut[i + 1] - cut[i]);
    out[i] = attn_continue(c, p->a, &in, st, false, &next);
    attn_state_free(st);
    st = next;
  }
  al_tensor *o = st ? (n > 1 ? al_run(c, "concat", out, n, "axis=1") : out[0]) : NULL;
  attn_state_free(st);
  return al_scope_end(c, al_error(c) == AL_OK ? o : NULL);
}

al_tensor *probe_run(const probe *p) {
  al_ctx *c = p->k->c;
  if (al_error(c) != AL_OK) return NULL;
  if (p->w->how == PARTS) return run_parts(p);
  const attn_in in = probe_part(p, 0, p->T);
  return p->w->how == TOKENS ? attn_recur(c, p->a, &in) : attn_forward(c, p->a, &in);
}

double *probe_values(const al_tensor *t) {
  if (!t) return NULL;
  double *v = malloc((size_t)al_numel(t) * sizeof *v + 1);
  if (v) al_read(t, v, al_numel(t));
  return v;
}

double *probe_try(const probe *p) {
  al_scope_begin(p->k->c);
  double *v = probe_values(probe_run(p));
  al_scope_end(p->k->c, NULL);
  return v;
}

double *probe_output(probe *p, const char *check) {
  double *v = probe_try(p);
  if (!v && al_error(p->k->c) == AL_OK) al_fail(p->k->c, AL_ENOMEM, "out of memory (check)");
  if (!v) check_error(p->k, check, p->w->label, al_dtype_name(p->dtype));
  return v;
}

/* ---- differences ---------------------------------------------------------------------------- */

double probe_rms(const double *x, int64_t n) {
  double s = 0;
  for (int64_t i = 0; i < n; i++) s += x[i] * x[i];
  return n ? sqrt(s / (double)n) : 0;
}

/* RMS of the difference over positions [from, to) relative to that of `want` there; a block that is
 * all but zero is measured against a thousandth of the whole. */
static double ratio(const double *got, const double *want, int64_t B, int64_t T, int64_t row,
                    int64_t from, int64_t to, double whole) {
  double e = 0, r = 0;
  for (int64_t b = 0; b < B; b++)
    for (int64_t i = (b * T + from) * row; i < (b * T + to) * row; i++) {
      e += (got[i] - want[i]) * (got[i] - want[i]);
      r += want[i] * want[i];
    }
  const double n = (double)(B * (to - from) * row), least = 1e-3 * whole;
  const double scale = sqrt(r / n) > least ? sqrt(r / n) : least;
  return e == 0 ? 0 : sqrt(e / n) / (scale + 1e-300);
}

differs probe_differ(const double *got, const double *want, int64_t B, int64_t T, int64_t row,
                     double limit) {
  differs d = {.from = -1};
  const double whole = probe_rms(want, B * T * row);
  d.overall = ratio(got, want, B, T, row, 0, T, whole);
  d.n = T < ATTN_BLOCKS ? (int)T : ATTN_BLOCKS;
  for (int i = 0; i < d.n; i++) {
    d.block[i] = ratio(got, want, B, T, row, i * T / d.n, (i + 1) * T / d.n, whole);
    if (!(d.block[i] <= d.worst)) d.worst = d.block[i];
  }
  for (int64_t t = 0; t < T && d.from < 0; t++)
    if (!(ratio(got, want, B, T, row, t, t + 1, whole) <= limit)) d.from = t;
  return d;
}

/* ---- ways ----------------------------------------------------------------------------------- */

void way_note(attn_check *k, const way *w, al_dtype dtype, const al_work *before, const double *v,
              int64_t n) {
  uint64_t *ran = &k->ways[w - k->ways].ran[dtype == AL_F32];
  *ran = *ran * 6364136223846793005u + (al_work_done(k->c).kernels - before->kernels);
  for (int64_t i = 0; v && i < n; i++) {
    uint64_t bits;
    memcpy(&bits, &v[i], sizeof bits);
    *ran = (*ran ^ bits) * 1099511628211u;
  }
}

bool way_stands(attn_check *k, const way *w, al_dtype dtype, const char *check) {
  const bool f32 = dtype == AL_F32;
  if (!check_elsewhere(k)) return false;
  for (const way *o = k->ways; o < w; o++)
    if (!o->refused && o->ran[f32] == w->ran[f32]) {
      check_row(k, check, w->label, al_dtype_name(dtype), ATTN_EXEMPT,
                "ran the same kernels as '%s' to the same bits in every form and gradient; "
                "that way is held to it",
                o->label);
      return true;
    }
  return false;
}

bool way_replayed(const attn_check *k, const way *w) {
  return w->how != WHOLE && !k->family->state;
}

/* A family that keeps all inputs cannot continue a row that was padded. */
bool way_takes_lengths(const attn_check *k, const way *w) { return !way_replayed(k, w); }

/* Replaying T tokens one by one takes T whole runs. */
int64_t way_most(const attn_check *k, const way *w, int64_t T) {
  const int64_t most = way_replayed(k, w) && w->how == TOKENS ? 40 : T;
  return T < most ? T : most;
}

/* The words that option `name` may have, without auto; "" alone where there is no such option. */
static int choices(const al_opts *o, const char *name, char words[8][24]) {
  const char *at = NULL;
  for (const al_arg *r = al_opts_rows(o); r->name; r++)
    if (strcmp(r->name, name) == 0 && r->type & AL_T_WORD) at = r->choices;
  int n = 0;
  while (at && *at && n < 8) {
    const size_t len = strcspn(at, " ");
    const bool rule = len == 4 && strncmp(at, "auto", len) == 0,
               narrow = len == 5 && strncmp(at, "cudnn", len) == 0; /* bf16 alone: check_ops */
    if (len < 24 && !rule && !narrow) snprintf(words[n++], 24, "%.*s", (int)len, at);
    at += len + strspn(at + len, " ");
  }
  if (n == 0) words[n++][0] = 0;
  return n;
}

/* Puts `word` first, where it is among them. */
static void first(char words[8][24], int n, const char *word) {
  for (int i = 1; i < n; i++)
    if (strcmp(words[i], word) == 0) {
      memcpy(words[i], words[0], 24);
      snprintf(words[0], 24, "%s", word);
    }
}

static way *add_way(attn_check *k, way_how how, const char *form, const char *impl) {
  if (k->n_ways == MAX_WAYS) return NULL;
  way *w = &k->ways[k->n_ways++];
  *w = (way){.how = how, .opts = al_opts_copy(k->c, k->opts)};
  if (w->opts && *form) al_opts_set_word(k->c, w->opts, "form", form);
  if (w->opts && *impl) al_opts_set_word(k->c, w->opts, "impl", impl);
  const char *after = how == TOKENS ? "by tokens" : how == PARTS ? "in parts" : "";
  char label[96];
  snprintf(label, sizeof label, "%.20s%s%.20s%s%s", form, *form && *impl ? " " : "", impl,
           (*form || *impl) && *after ? ", " : "", after);
  snprintf(w->label, sizeof w->label, "%.40s", *label ? label : "whole");
  return w;
}

/* Runs a few tokens; a refusal is noted, a fault is a row. */
static void try_way(attn_check *k, way *w) {
  probe p;
  double *v = NULL;
  if (probe_open(k, &p, w, &k->sizes, AL_F32, 2, 5, 1, NULL)) v = probe_try(&p);
  const bool made = p.a != NULL;
  probe_close(&p);
  if (v) {
    free(v);
    return;
  }
  w->refused = true;
  snprintf(w->why, sizeof w->why, "%s", al_error_message(k->c, NULL, NULL));
  const bool says_why = (check_is_refusal(k) || !made) && w != &k->ways[0];
  check_row(k, "forms", w->label, "", says_why ? ATTN_REFUSED : ATTN_FAIL, "%s%s",
            says_why ? "" : "does not run: ", w->why);
  al_error_clear(k->c);
}

/* Grouped heads and E != D, or as near to that as the family takes. */
static void pick_sizes(attn_check *k) {
  static const attn_sizes tried[] = {
      {4, 2, 6, 5, 7}, {4, 4, 6, 5, 7}, {4, 2, 6, 6, 7}, {4, 4, 6, 6, 7}, {4, 4, 8, 8, 32}};
  const way w = {.how = WHOLE, .opts = k->opts};
  char why[400] = "";
  const int n = sizeof tried / sizeof *tried;
  for (int i = 0; i < n; i++) {
    probe p;
    bool ok = probe_open(k, &p, &w, &tried[i], AL_F64, 1, 3, 1, NULL);
    al_tensor *y = ok ? probe_run(&p) : NULL;
    ok = y != NULL;
    al_release(y);
    probe_close(&p);
    k->sizes = tried[i];
    if (!ok && !*why) snprintf(why, sizeof why, "%s", al_error_message(k->c, NULL, NULL));
    al_error_clear(k->c);
    if (ok || i == n - 1) break;
  }
  if (*why)
    check_row(k, "sizes", "", "", ATTN_REFUSED,
              "heads %lld, kv_heads %lld, head_dim %lld, value_dim %lld are used, because: %s",
              (long long)k->sizes.heads, (long long)k->sizes.kv_heads, (long long)k->sizes.head_dim,
              (long long)k->sizes.value_dim, why);
}

void check_ways(attn_check *k) {
  char forms[8][24], impls[8][24];
  pick_sizes(k);
  const int nf = choices(k->opts, "form", forms), ni = choices(k->opts, "impl", impls);
  first(forms, nf, "parallel");
  first(impls, ni, "composed");
  const bool causal = !k->family->claims || k->family->claims(k->opts) & ATTN_CAUSAL;
  for (int f = 0; f < nf; f++)
    for (int i = 0; i < ni; i++) {
      way *w = add_way(k, WHOLE, forms[f], impls[i]);
      if (w) try_way(k, w);
    }
  const int whole = k->n_ways;
  if (nf > 1 || ni > 1) { /* as the options stand: the rule that picks */
    way *w = add_way(k, WHOLE, "", "");
    if (w) snprintf(w->label, sizeof w->label, "as given"), try_way(k, w);
  }
  if (!causal) {
    check_row(k, "forms", "by tokens", "", ATTN_EXEMPT,
              "not claimed to be causal, so there is no recurrent form");
    return;
  }
  way *w = add_way(k, TOKENS, "", "");
  if (w) try_way(k, w);
  w = add_way(k, PARTS, "", "");
  if (w) try_way(k, w);
  for (int i = 0; i < whole && nf * ni > 1; i++) {
    if (k->ways[i].refused) continue;
    w = add_way(k, PARTS, forms[i / ni], impls[i % ni]);
    if (w) try_way(k, w);
  }
}
