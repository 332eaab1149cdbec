/* test_families.c: the families beyond the formula, held to plain loops in double: outputs and
 * gradients with padding and shared key heads, several chunks or windows, from states at odd
 * places; what a window hides, the bytes of a state, refusals. */
#include "attn_case.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- oracle ---------------------------------------------------------------------------------- */

static int64_t length(const oracle_in *in, int64_t b) {
  return in->lengths ? in->lengths[b] : in->S;
}
static const double *row(const double *x, int64_t T, int64_t H, int64_t D, int64_t b, int64_t t,
                         int64_t h) {
  return x + ((b * T + t) * H + h) * D;
}
static const double *param(const oracle_in *in, const char *name) {
  return in->param(in->user, name);
}
static bool is(const oracle_in *in, const char *key, const char *word) {
  return al_opt_is(in->o, key, word);
}
static bool number(const oracle_in *in, const char *key) {
  return al_opt_kind(in->o, key) == AL_T_NUM;
}
static double dot(const double *a, const double *b, int64_t n) {
  double s = 0;
  for (int64_t i = 0; i < n; i++) s += a[i] * b[i];
  return s;
}
static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double softplus(double x) { return log1p(exp(x)); }

/* ---- sliding_window -------------------------------------------------------------------------- */

static double window_logit(const oracle_in *in, const double *q, const double *k, int64_t h) {
  double t = number(in, "logit_scale") ? al_opt_num(in->o, "logit_scale") : 1 / sqrt((double)in->D);
  if (is(in, "logit_scale", "learned")) t = param(in, "logit_scale")[h];
  const double s = t * dot(q, k, in->D), c = al_opt_num(in->o, "logit_softcap");
  return number(in, "logit_softcap") ? c * tanh(s / c) : s;
}

static void window_row(const oracle_in *in, int64_t b, int64_t h, int64_t i, double *y) {
  const int64_t g = h / (in->H / in->Hkv), n = length(in, b), last = i < n ? i : n - 1;
  double D = 0;
  if (number(in, "sink")) D = exp(al_opt_num(in->o, "sink"));
  if (is(in, "sink", "learned")) D = exp(param(in, "sink")[h]);
  memset(y, 0, (size_t)in->E * sizeof *y);
  for (int64_t j = 0; j <= last; j++) {
    if (j <= last - al_opt_int(in->o, "window")) continue;
    const double w = exp(window_logit(in, row(in->q, in->T, in->H, in->D, b, i, h),
                                      row(in->k, in->S, in->Hkv, in->D, b, j, g), h));
    const double *v = row(in->v, in->S, in->Hkv, in->E, b, j, g);
    for (int64_t e = 0; e < in->E; e++) y[e] += w * v[e];
    D += w;
  }
  for (int64_t e = 0; e < in->E && D > 0; e++) y[e] /= D;
}

/* ---- delta_rule ------------------------------------------------------------------------------ */

static void delta_features(const oracle_in *in, const double *x, double *f) {
  double l2 = 0, sum = 0;
  for (int64_t d = 0; d < in->D; d++) {
    f[d] = is(in, "feature_map", "silu")   ? x[d] * sigmoid(x[d])
           : is(in, "feature_map", "elu1") ? (x[d] > 0 ? x[d] + 1 : exp(x[d]))
           : is(in, "feature_map", "relu") ? (x[d] > 0 ? x[d] : 0)
                                           : x[d];
    l2 += f[d] * f[d], sum += f[d];
  }
  const double by = is(in, "norm", "l2") ? sqrt(l2) : is(in, "norm", "sum") ? sum : 1;
  for (int64_t d = 0; d < in->D; d++) f[d] = by ? f[d] / by : 0;
}

static double log_decay(const oracle_in *in, const double *x, int64_t g) {
  if (is(in, "decay", "constant")) return log(1 - pow(2, -5.0 - (double)g));
  if (is(in, "decay", "learned")) return -softplus(param(in, "decay")[g]);
  if (is(in, "decay", "gated"))
    return -softplus(dot(x, param(in, "decay.weight") + g * in->C, in->C));
  return 0;
}

static void delta_norm(const oracle_in *in, double *o) {
  const double l2 = dot(o, o, in->E);
  const bool rms = is(in, "output_norm", "rms");
  if (is(in, "output_norm", "none")) return;
  const double by = rms ? sqrt(l2 / (double)in->E + 1e-6) : sqrt(l2);
  for (int64_t e = 0; e < in->E; e++)
    o[e] *= (rms ? param(in, "output_norm.gain")[e] : 1) / (by > 0 ? by : 1);
}

/* S (E,D) of one key/value head takes token t. */
static void delta_write(const oracle_in *in, int64_t b, int64_t g, int64_t t, double *S,
                        double *k) {
  const double *x = in->x + (b * in->T + t) * in->C,
               *v = row(in->v, in->S, in->Hkv, in->E, b, t, g);
  double beta = al_opt_num(in->o, "beta");
  if (!number(in, "beta"))
    beta = (is(in, "beta", "sigmoid") ? 1 : 2) *
           sigmoid(dot(x, param(in, "beta.weight") + g * in->C, in->C));
  const double a = exp(log_decay(in, x, g));
  delta_features(in, row(in->k, in->S, in->Hkv, in->D, b, t, g), k);
  for (int64_t e = 0; e < in->E; e++) {
    double *s = S + e * in->D;
    const double held = dot(s, k, in->D);
    for (int64_t d = 0; d < in->D; d++) s[d] = a * (s[d] - beta * held * k[d]) + beta * v[e] * k[d];
  }
}

static void delta_forward(const oracle_in *in, double *y) {
  const int64_t D = in->D, G = in->H / in->Hkv;
  const double scale =
      is(in, "logit_scale", "rsqrt") ? 1 / sqrt((double)D) : al_opt_num(in->o, "logit_scale");
  double *S = malloc((size_t)(in->E * D + D) * sizeof *S), *f = S + in->E * D;
  for (int64_t b = 0; b < in->B; b++)
    for (int64_t g = 0; g < in->Hkv; g++) {
      memset(S, 0, (size_t)(in->E * D) * sizeof *S);
      for (int64_t t = 0; t < in->T; t++) {
        if (t < length(in, b)) delta_write(in, b, g, t, S, f);
        for (int64_t h = g * G; h < (g + 1) * G; h++) {
          double *o = y + ((b * in->T + t) * in->H + h) * in->E;
          delta_features(in, row(in->q, in->T, in->H, D, b, t, h), f);
          for (int64_t e = 0; e < in->E; e++) o[e] = scale * dot(S + e * D, f, D);
          delta_norm(in, o);
        }
      }
    }
  free(S);
}

/* ---- channel_softmax ------------------------------------------------------------------------- */

static double channel_decay(const oracle_in *in, int64_t b, int64_t t, int64_t g, int64_t d) {
  const double *x = in->x + (b * in->T + t) * in->C;
  if (is(in, "decay", "constant")) return log(1 - pow(2, -5.0 - (double)g));
  if (is(in, "decay", "learned")) return -softplus(param(in, "decay")[g * in->D + d]);
  if (is(in, "decay", "gated"))
    return -softplus(dot(x, param(in, "decay.weight") + (g * in->D + d) * in->C, in->C));
  return 0;
}

static void channel_row(const oracle_in *in, int64_t b, int64_t h, int64_t i, double *y) {
  const int64_t g = h / (in->H / in->Hkv), n = length(in, b), last = i < n ? i : n - 1;
  const double *q = row(in->q, in->T, in->H, in->D, b, i, h);
  double all = 0;
  memset(y, 0, (size_t)in->E * sizeof *y);
  for (int64_t d = 0; d < in->D; d++) all += exp(q[d]);
  for (int64_t d = 0; d < in->D; d++) {
    const double r = is(in, "read", "softmax") ? exp(q[d]) / all : sigmoid(q[d]);
    double W = 0;
    for (int pass = 0; pass < 2; pass++) {
      double past = 0; /* log decay from key j to the last */
      for (int64_t j = last; j >= 0; j--) {
        double c = row(in->k, in->S, in->Hkv, in->D, b, j, g)[d] + past;
        if (j == i && number(in, "bonus")) c += al_opt_num(in->o, "bonus");
        if (j == i && is(in, "bonus", "learned")) c += param(in, "bonus")[g * in->D + d];
        const double *v = row(in->v, in->S, in->Hkv, in->E, b, j, g);
        if (pass == 0) W += exp(c);
        for (int64_t e = 0; e < in->E && pass; e++) y[e] += r * exp(c) / W * v[e];
        past += channel_decay(in, b, j, g, d);
      }
    }
  }
}

void family_oracle(const char *family, const oracle_in *in, double *y) {
  if (strcmp(family, "delta_rule") == 0) {
    delta_forward(in, y);
    return;
  }
  const bool window = strcmp(family, "sliding_window") == 0;
  for (int64_t b = 0; b < in->B; b++)
    for (int64_t i = 0; i < in->T; i++)
      for (int64_t h = 0; h < in->H; h++)
        (window ? window_row : channel_row)(in, b, h, i, y + ((b * in->T + i) * in->H + h) * in->E);
}

/* ---- outputs and gradients ------------------------------------------------------------------- */

static const struct {
  const char *family, *options;
} settings[] = {
    {"sliding_window", "window=3"},
    {"sliding_window", "window=1"},
    {"sliding_window", "window=4 sink=learned logit_scale=learned"},
    {"sliding_window", "window=5 sink=0.7 logit_softcap=1.5 logit_scale=0.6"},
    {"sliding_window", "window=64"},
    {"delta_rule", "chunk=4"},
    {"delta_rule", "chunk=3 decay=gated logit_scale=rsqrt output_norm=rms"},
    {"delta_rule", "chunk=1 decay=constant feature_map=elu1 norm=sum"},
    {"delta_rule", "chunk=5 decay=learned beta=double_sigmoid output_norm=l2"},
    {"delta_rule", "feature_map=silu norm=none beta=0.1 logit_scale=0.5"},
    {"delta_rule", "form=recurrent decay=gated"},
    {"channel_softmax", "chunk=4"},
    {"channel_softmax", "chunk=3 read=sigmoid decay=learned bonus=learned"},
    {"channel_softmax", "chunk=5 decay=gated bonus=0.4"},
    {"channel_softmax", "decay=constant"},
    {"channel_softmax", "form=recurrent decay=gated bonus=learned"},
};
enum { N_SETTINGS = sizeof settings / sizeof *settings };

static void agree(int i, const int64_t *lens, int64_t Hkv, int64_t T) {
  al_ctx *c = test_context();
  attn_case k =
      attn_case_new(c, settings[i].family, settings[i].options, AL_F64, 2, T, Hkv, true, lens, 1);
  al_tensor *y = attn_case_run(&k);
  double *got = attn_case_values(y), *want = malloc((size_t)al_numel(y) * sizeof *want);
  const oracle_in in = attn_case_oracle(&k);
  family_oracle(settings[i].family, &in, want);
  const double e = rms_ratio(got, want, al_numel(y));
  ck_assert_msg(e < 1e-12, "%s %s (kv heads %d, T %d): differs from the oracle by %.2e",
                settings[i].family, settings[i].options, (int)Hkv, (int)T, e);
  free(got);
  free(want);
  al_release(y);
  attn_case_free(&k);
  ck_assert_int_eq(al_memory(c).live, 0);
  al_ctx_free(c);
}

START_TEST(is_its_formula) {
  static const int64_t some[] = {11, 6}, none[] = {0, 2};
  agree(_i, NULL, 4, 11);
  agree(_i, some, 2, 11);
  agree(_i, none, 1, 7);
  agree(_i, NULL, 2, 1);
  agree(_i, NULL, 1, 75);
}
END_TEST

/* Weights of the outputs: rows of padding are given none. */
static double *pattern(const attn_case *k, const al_tensor *y) {
  double *w = malloc((size_t)al_numel(y) * sizeof *w);
  const int64_t row = k->H * k->E;
  for (int64_t i = 0; i < al_numel(y); i++) {
    const int64_t t = i / row % k->T, b = i / row / k->T;
    w[i] = k->lengths && t >= k->len[b] ? 0 : sin(1.3 * (double)i + 0.4);
  }
  return w;
}

static double weighed(const attn_case *k, const char *family, const double *w, double *out,
                      int64_t n) {
  const oracle_in in = attn_case_oracle((attn_case *)k);
  family_oracle(family, &in, out);
  double d = 0;
  for (int64_t e = 0; e < n; e++) d += w[e] * out[e];
  return d;
}

/* The i-th input or parameter that has a gradient, or NULL. */
static al_tensor *leaf(const attn_case *k, int i, const char **label) {
  static const char *const names[] = {"q", "k", "v", "x"};
  al_tensor *const t[] = {k->q, k->k, k->v, k->x};
  if (i >= 4) return attn_param_at(k->a, i - 4, label);
  *label = names[i];
  return t[i];
}

/* Gradients of sum w y (in the leaves) against central differences of the oracle. */
static void differences(const attn_case *k, int i, const double *w, int64_t n) {
  const char *label;
  const double h = 1e-5;
  double *out = malloc((size_t)n * sizeof *out);
  for (int l = 0; leaf(k, l, &label); l++) {
    al_tensor *t = leaf(k, l, &label);
    double *p = attn_case_copy((attn_case *)k, t), worst = 0,
           *g = al_grad(t) ? attn_case_values(al_grad(t)) : NULL;
    for (int64_t j = 0; j < al_numel(t); j++) {
      const double keep = p[j];
      p[j] = keep + h;
      double d = weighed(k, settings[i].family, w, out, n);
      p[j] = keep - h;
      d = (d - weighed(k, settings[i].family, w, out, n)) / (2 * h);
      p[j] = keep;
      const double e = fabs((g ? g[j] : 0) - d) / (1 + fabs(d));
      if (!(e <= worst)) worst = e;
    }
    free(g);
    ck_assert_msg(worst < 2e-7, "%s %s: gradient of %s is off by %.2e", settings[i].family,
                  settings[i].options, label, worst);
  }
  free(out);
}

static attn_case leaves(al_ctx *c, int i, const int64_t *lens) {
  attn_case k =
      attn_case_new(c, settings[i].family, settings[i].options, AL_F64, 2, 8, 2, true, lens, 1);
  const char *label;
  for (int l = 0; leaf(&k, l, &label); l++) al_requires_grad(leaf(&k, l, &label), true);
  return k;
}

static void backward(const attn_case *k, al_tensor *y, const double *w) {
  al_scope_begin(k->c);
  al_tensor *seed = al_tensor_from(k->c, AL_F64, 4, al_shape(y), w, al_numel(y));
  ck_assert_msg(al_backward(k->c, y, seed) == AL_OK, "%s", al_error_message(k->c, NULL, NULL));
  al_scope_end(k->c, NULL);
}

START_TEST(has_its_gradient) {
  static const int64_t lens[] = {8, 5};
  al_ctx *c = test_context();
  attn_case k = leaves(c, _i, lens);
  al_tensor *y = attn_case_run(&k);
  double *w = pattern(&k, y);
  backward(&k, y, w);
  differences(&k, _i, w, al_numel(y));
  free(w);
  al_release(y);
  attn_case_free(&k);
  ck_assert_int_eq(al_memory(c).live, 0);
  al_ctx_free(c);
}
END_TEST

/* ---- states ---------------------------------------------------------------------------------- */

/* Tokens [from, to) of the inputs; what ops return belongs to the open scope. */
static attn_in part(const attn_case *k, int64_t from, int64_t to) {
  attn_in in = {.size = sizeof in, .q = k->q, .k = k->k, .v = k->v, .x = k->x, .causal = true};
  al_tensor **const t[] = {&in.q, &in.k, &in.v, &in.x};
  for (int i = 0; i < 4; i++)
    *t[i] = al_run(k->c, "slice", AL_IN(*t[i]), "axis=1 start=%d stop=%d", (int)from, (int)to);
  return in;
}

static al_tensor *go_on(const attn_case *k, const attn_in *in, attn_state **st) {
  attn_state *next;
  al_tensor *y = attn_continue(k->c, k->a, in, *st, false, &next);
  ck_assert_msg(y != NULL, "%s", al_error_message(k->c, NULL, NULL));
  attn_state_free(*st);
  *st = next;
  return y;
}

/* In three parts of odd sizes, the gradient through the states. */
START_TEST(continues_from_a_state) {
  al_ctx *c = test_context();
  attn_case k = leaves(c, _i, NULL);
  attn_state *st = attn_state_new(c, k.a, 2);
  al_scope_begin(c);
  const attn_in in[] = {part(&k, 0, 3), part(&k, 3, 4), part(&k, 4, 8)};
  al_tensor *y[3];
  for (int i = 0; i < 3; i++) y[i] = go_on(&k, &in[i], &st);
  al_tensor *all = al_run(c, "concat", AL_IN(y[0], y[1], y[2]), "axis=1");
  double *w = pattern(&k, all), *got = attn_case_values(all), *want = attn_case_values(all);
  weighed(&k, settings[_i].family, w, want, al_numel(all));
  ck_assert_msg(rms_ratio(got, want, al_numel(all)) < 1e-12, "%s %s: in parts off by %.2e",
                settings[_i].family, settings[_i].options, rms_ratio(got, want, al_numel(all)));
  backward(&k, all, w);
  differences(&k, _i, w, al_numel(all));
  free(w);
  free(got);
  free(want);
  al_scope_end(c, NULL);
  attn_state_free(st);
  attn_case_free(&k);
  ck_assert_int_eq(al_memory(c).live, 0);
  al_ctx_free(c);
}
END_TEST

/* Row 1 has 2 of the first 5 tokens, and NaN after them: it goes on as if they had never been. */
START_TEST(padding_leaves_no_trace_in_a_state) {
  al_ctx *c = test_context();
  attn_case k =
      attn_case_new(c, settings[_i].family, settings[_i].options, AL_F64, 2, 8, 2, true, NULL, 1);
  al_scope_begin(c);
  al_tensor *const t[] = {k.q, k.k, k.v, k.x};
  for (int i = 0; i < 4; i++) {
    const int64_t row = al_numel(t[i]) / 16;
    double *p = attn_case_values(t[i]);
    for (int64_t e = (8 + 2) * row; e < (8 + 5) * row; e++) p[e] = NAN;
    al_write(t[i], p, al_numel(t[i]));
    free(p);
  }
  attn_in in = part(&k, 0, 5);
  const int64_t B = 2;
  in.lengths = al_tensor_from(c, AL_I32, 1, &B, (const double[]){5, 2}, 2);
  attn_state *st = attn_state_new(c, k.a, 2);
  go_on(&k, &in, &st);
  in = part(&k, 5, 8);
  double *got = attn_case_values(go_on(&k, &in, &st));
  for (int i = 0; i < 4; i++) { /* the same without the gap */
    const int64_t row = al_numel(t[i]) / 16;
    double *p = attn_case_values(t[i]);
    memmove(p + (8 + 2) * row, p + (8 + 5) * row, (size_t)(3 * row) * sizeof *p);
    al_write(t[i], p, al_numel(t[i]));
    free(p);
  }
  double *want = malloc((size_t)(2 * 8 * k.H * k.E) * sizeof *want);
  const oracle_in o = attn_case_oracle(&k);
  family_oracle(settings[_i].family, &o, want);
  const int64_t n = 3 * k.H * k.E;
  const double whole = rms_ratio(got, want + 5 * k.H * k.E, n),
               padded = rms_ratio(got + n, want + (8 + 2) * k.H * k.E, n);
  ck_assert_msg(whole < 1e-12 && padded < 1e-12, "%s %s: full row off by %.2e, padded by %.2e",
                settings[_i].family, settings[_i].options, whole, padded);
  free(got);
  free(want);
  al_scope_end(c, NULL);
  attn_state_free(st);
  attn_case_free(&k);
  al_ctx_free(c);
}
END_TEST

START_TEST(state_has_the_bytes_it_declares) {
  for (int d = 0; d < 2; d++) {
    al_ctx *c = test_context();
    attn_case k = attn_case_new(c, settings[_i].family, settings[_i].options, d ? AL_F32 : AL_F64,
                                2, 8, 2, true, NULL, 1);
    attn_state *st = attn_state_new(c, k.a, 2);
    for (int64_t t = 0; t < 8; t++) {
      ck_assert_int_eq(attn_state_size(st), 2 * attn_state_bytes(k.a, t));
      al_scope_begin(c);
      const attn_in in = part(&k, t, t + 1);
      go_on(&k, &in, &st);
      al_scope_end(c, NULL);
    }
    attn_state_free(st);
    attn_case_free(&k);
    al_ctx_free(c);
  }
}
END_TEST

/* ---- the window ------------------------------------------------------------------------------ */

/* NaN in every key and value before the window of row `from`: the rows from there on do not change
 * in one bit. */
START_TEST(keys_before_the_window_do_not_matter) {
  enum { T = 70, W = 16, FROM = 41 };
  for (int d = 0; d < 2; d++) {
    al_ctx *c = test_context();
    attn_case k = attn_case_new(c, "sliding_window", "window=16", d ? AL_F32 : AL_F64, 1, T, 2,
                                true, NULL, 1);
    al_tensor *clean = attn_case_run(&k);
    al_tensor *const t[] = {k.k, k.v};
    for (int i = 0; i < 2; i++) {
      double *v = attn_case_values(t[i]);
      for (int64_t e = 0; e < al_numel(t[i]) / T * (FROM - W + 1); e++) v[e] = NAN;
      al_write(t[i], v, al_numel(t[i]));
      free(v);
    }
    al_tensor *poisoned = attn_case_run(&k);
    const int64_t row = k.H * k.E;
    double *one = attn_case_values(clean), *other = attn_case_values(poisoned);
    ck_assert_mem_eq(one + FROM * row, other + FROM * row,
                     (size_t)((T - FROM) * row) * sizeof *one);
    ck_assert_mem_ne(one + (FROM - 1) * row, other + (FROM - 1) * row, (size_t)row * sizeof *one);
    free(one);
    free(other);
    al_release(clean);
    al_release(poisoned);
    attn_case_free(&k);
    al_ctx_free(c);
  }
}
END_TEST

/* ---- refusals -------------------------------------------------------------------------------- */

static const struct {
  const char *family, *options, *says;
} refused[] = {
    {"sliding_window", "window=0", "window"},
    {"sliding_window", "sink=true", "false or a number or learned needed, got true"},
    {"sliding_window", "logit_softcap=true", "false or a number needed, got true"},
    {"delta_rule", "", "width: needed, because beta or decay reads x"},
    {"delta_rule", "beta=0.5 decay=gated", "width: needed"},
    {"delta_rule", "beta=0.5 norm=sum", "without negative values needed"},
    {"delta_rule", "beta=3", "beta"},
    {"delta_rule", "form=parallel", "auto chunked recurrent"},
    {"channel_softmax", "decay=gated", "width: needed, because decay=gated reads x"},
    {"channel_softmax", "bonus=true", "false, a number or learned needed, got true"},
    {"channel_softmax", "chunck=4", "did you mean 'chunk'"},
};

START_TEST(refusals_name_the_reason) {
  attn_case_refused(refused[_i].family, refused[_i].options, refused[_i].says);
}
END_TEST

static void refuses(const attn_case *k, const attn_in *in, const char *says) {
  ck_assert_ptr_null(attn_forward(k->c, k->a, in));
  ck_assert_msg(strstr(al_error_message(k->c, NULL, NULL), says) != NULL, "'%s' expected in: %s",
                says, al_error_message(k->c, NULL, NULL));
  al_error_clear(k->c);
}

START_TEST(calls_that_have_no_meaning) {
  al_ctx *c = test_context();
  attn_case k =
      attn_case_new(c, settings[_i].family, settings[_i].options, AL_F32, 1, 6, 2, true, NULL, 1);
  al_scope_begin(c);
  const attn_in good = part(&k, 0, 6);
  const bool by_token = strstr(settings[_i].options, "form=recurrent") != NULL;
  attn_in in = good;
  in.causal = false;
  refuses(&k, &in, "causal=true");
  in = good;
  in.offset = 1;
  refuses(&k, &in, by_token ? "offset=0 needed" : "rows must be the keys' own tokens");
  const attn_in half = part(&k, 0, 3);
  in = good;
  in.q = half.q, in.x = half.x;
  refuses(&k, &in, by_token ? "as many keys as rows" : "got 3 rows, 6 keys");
  al_scope_end(c, NULL);
  attn_case_free(&k);
  al_ctx_free(c);
}
END_TEST

/* The n-th allocation fails: an error, no leak, no crash. */
START_TEST(survives_failing_memory) {
  al_ctx *c = test_context();
  attn_case k =
      attn_case_new(c, settings[_i].family, settings[_i].options, AL_F32, 1, 6, 2, true, NULL, 1);
  al_requires_grad(k.q, true);
  const int64_t live = al_memory(c).live;
  attn_state *st = attn_state_new(c, k.a, 1);
  const int64_t with_state = al_memory(c).live;
  const attn_in in = {.size = sizeof in, .q = k.q, .k = k.k, .v = k.v, .x = k.x, .causal = true};
  bool done = false;
  for (int64_t n = 1; n < 4000 && !done; n++) {
    attn_state *next;
    al_memory_fail_at(c, n);
    al_tensor *y = attn_continue(c, k.a, &in, st, false, &next);
    al_memory_fail_at(c, 0);
    done = y != NULL;
    if (!done) ck_assert_int_eq(al_error(c), AL_ENOMEM);
    al_release(y);
    attn_state_free(next);
    al_error_clear(c);
    ck_assert_int_eq(al_memory(c).live, with_state);
  }
  ck_assert(done);
  attn_state_free(st);
  ck_assert_int_eq(al_memory(c).live, live);
  attn_case_free(&k);
  al_ctx_free(c);
}
END_TEST

Suite *suite_test_families(void);
Suite *suite_test_families(void) {
  Suite *s = suite_create("attention: families beyond the formula");
  TCase *t = tcase_create("families");
  tcase_set_timeout(t, 120);
  tcase_add_loop_test(t, is_its_formula, 0, N_SETTINGS);
  tcase_add_loop_test(t, has_its_gradient, 0, N_SETTINGS);
  tcase_add_loop_test(t, continues_from_a_state, 0, N_SETTINGS);
  tcase_add_loop_test(t, padding_leaves_no_trace_in_a_state, 0, N_SETTINGS);
  tcase_add_loop_test(t, state_has_the_bytes_it_declares, 0, N_SETTINGS);
  tcase_add_test(t, keys_before_the_window_do_not_matter);
  tcase_add_loop_test(t, refusals_name_the_reason, 0, sizeof refused / sizeof *refused);
  tcase_add_loop_test(t, calls_that_have_no_meaning, 0, N_SETTINGS);
  tcase_add_loop_test(t, survives_failing_memory, 0, N_SETTINGS);
  suite_add_tcase(s, t);
  return s;
}
