/* oracle.c: the formula as A.6 writes it, row by row. */
#include "oracle.h"
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool is(const oracle_in *in, const char *key, const char *w) {
  return al_opt_is(in->o, key, w);
}
static double num(const oracle_in *in, const char *key) { return al_opt_num(in->o, key); }
static bool numeric(const oracle_in *in, const char *key) {
  return al_opt_kind(in->o, key) == AL_T_NUM;
}
static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double softplus(double x) { return log1p(exp(x)); }

static double activation(const char *name, double x) {
  if (strcmp(name, "sigmoid") == 0) return sigmoid(x);
  if (strcmp(name, "softplus") == 0) return softplus(x);
  if (strcmp(name, "expr") == 0) return x * x; /* the one that tests use */
  return x * sigmoid(x);
}

/* row `out` of x W^T + b at (b, t) */
static double linear(const oracle_in *in, const char *name, const double *x, int64_t fan,
                     int64_t out) {
  char key[64];
  double s = 0;
  strcat(strcpy(key, name), ".weight");
  const double *W = in->param(in->user, key);
  strcat(strcpy(key, name), ".bias");
  const double *bias = in->param(in->user, key);
  for (int64_t c = 0; c < fan; c++) s += W[out * fan + c] * x[c];
  return s + (bias ? bias[out] : 0);
}

static void feature(const oracle_in *in, const double *x, double *y) {
  const char *map = al_opt_word(in->o, "feature_map");
  const bool relu = strcmp(map, "relu") == 0, elu1 = strcmp(map, "elu1") == 0,
             soft = strcmp(map, "softplus") == 0, silu = strcmp(map, "silu") == 0,
             expr = strcmp(map, "expr") == 0;
  double r = 1;
  if (strcmp(map, "l2") == 0) {
    r = 0;
    for (int64_t d = 0; d < in->D; d++) r += x[d] * x[d];
    r = fmax(sqrt(r), 1e-12);
  }
  for (int64_t d = 0; d < in->D; d++)
    y[d] = relu   ? fmax(x[d], 0)
           : elu1 ? (x[d] > 0 ? x[d] + 1 : exp(x[d]))
           : soft ? softplus(x[d])
           : silu ? x[d] * sigmoid(x[d])
           : expr ? 1 + tanh(x[d]) /* the one that tests use */
                  : x[d] / r;
}

/* Expressions that tests use, in C; p(name, h) is a learned scalar. */
static double expression(const oracle_in *in, double s, double i, double j, int64_t h) {
  static const char *const known[] = {"log(1+exp(s))",         "exp(t*s)",
                                      "exp(t*s-u*abs(i-j))",   "t*s^2+u",
                                      "sigmoid(t*s+u)",        "cosh(s)*j/i",
                                      "exp(t*s)/(1+exp(u*s))", "(2+s^2)^t",
                                      "exp(sqrt(1+t*s^2))",    "s"};
  const double *T = in->param(in->user, "expr.t"), *U = in->param(in->user, "expr.u");
  const double t = T ? T[h] : NAN, u = U ? U[h] : NAN;
  int k = 0;
  while (k < 10 && !is(in, "expr", known[k])) k++;
  switch (k) {
  case 0:
    return log1p(exp(s));
  case 1:
    return exp(t * s);
  case 2:
    return exp(t * s - u * fabs(i - j));
  case 3:
    return t * s * s + u;
  case 4:
    return 1 / (1 + exp(-t * s - u));
  case 5:
    return cosh(s) * j / i;
  case 6:
    return exp(t * s) / (1 + exp(u * s));
  case 7:
    return pow(2 + s * s, t);
  case 8:
    return exp(sqrt(1 + t * s * s));
  case 9:
    return s;
  default:
    ck_abort_msg("the oracle does not know '%s'", al_opt_word(in->o, "expr"));
  }
}

/* of head h at row i and key j, counted from 1 */
static double weight(const oracle_in *in, bool den, double s, int64_t h, int64_t i, int64_t j) {
  const char *sim = al_opt_word(in->o, "similarity"), *orders = "orders";
  if (den && !is(in, "denominator.similarity", "inherited"))
    sim = al_opt_word(in->o, "denominator.similarity");
  if (den && !is(in, "denominator.orders", "inherited")) orders = "denominator.orders";
  if (numeric(in, "logit_softcap"))
    s = num(in, "logit_softcap") * tanh(s / num(in, "logit_softcap"));
  if (numeric(in, "logit_clamp")) s = fmin(s, num(in, "logit_clamp"));
  if (strcmp(sim, "expr") == 0) return expression(in, s, (double)i, (double)j, h);
  if (strcmp(sim, "exp") == 0) return exp(s);
  if (strcmp(sim, "cosh") == 0) return cosh(s);
  if (strcmp(sim, "linear") == 0) return s;
  if (strcmp(sim, "square") == 0) return s * s;
  const int p = (int)al_opt_int(in->o, "order");
  if (strcmp(sim, "power") == 0) return pow(s, p);
  const double *kept, *list, *k = in->param(in->user, "coefficients");
  const int n_kept = al_opt_list(in->o, orders, &kept),
            n_list = al_opt_list(in->o, "coefficients", &list);
  double sum = 0, term = 1; /* s^n / n! */
  double power = 1;
  for (int n = 0; n <= p; n++) {
    bool keep = n_kept == 0;
    for (int m = 0; m < n_kept; m++) keep = keep || kept[m] == n;
    double c = is(in, "coefficients", "ones") ? power : term;
    if (k) c *= k[n];
    if (n_list) c *= n < n_list ? list[n] : 0;
    if (keep) sum += c;
    power *= s;
    term *= s / (n + 1);
  }
  return sum;
}

static bool visible(const oracle_in *in, int64_t b, int64_t i, int64_t j) {
  return (!in->lengths || j < in->lengths[b]) && (!in->causal || j <= i + in->offset);
}

static double count(const oracle_in *in, int64_t b, int64_t i, int64_t offset) {
  const int64_t len = in->lengths ? in->lengths[b] : in->S;
  const int64_t n = in->causal && i + offset + 1 < len ? i + offset + 1 : len;
  return n > 1 ? (double)n : 1;
}

static double exponent(const oracle_in *in, int64_t h) {
  const double *m = in->param(in->user, "denominator.power");
  return m ? sigmoid(m[h]) : num(in, "denominator.power");
}

/* log A_ij = sum over r = j+1..i of the step's log decay */
static double log_decay(const oracle_in *in, int64_t b, int64_t hk, int64_t i, int64_t j) {
  double a = 0;
  if (is(in, "decay", "none")) return 0;
  for (int64_t r = j + 1; r <= i; r++) {
    if (is(in, "decay", "constant")) a += log(1 - pow(2, -5 - (double)hk));
    else if (is(in, "decay", "learned")) a -= softplus(in->param(in->user, "decay")[hk]);
    else a -= softplus(linear(in, "decay", in->x + (b * in->T + r) * in->C, in->C, hk));
  }
  return a;
}

static double denominator(const oracle_in *in, int64_t b, int64_t h, int64_t i, const double *w) {
  double W = 0;
  if (is(in, "denominator.stat", "none") || is(in, "denominator.side", "value")) return 1;
  if (is(in, "denominator.stat", "length")) W = count(in, b, i, in->offset);
  else
    for (int64_t j = 0; j < in->S; j++) {
      if (!visible(in, b, i, j)) continue;
      if (is(in, "denominator.stat", "cumulative_gate"))
        W += exp(linear(in, "denominator", in->x + (b * in->T + j) * in->C, in->C, h));
      else
        W += is(in, "denominator.stat", "abs")  ? fabs(w[j])
             : is(in, "denominator.stat", "l2") ? w[j] * w[j]
                                                : w[j];
    }
  if (is(in, "denominator.stat", "l2")) W = sqrt(W);
  if (is(in, "denominator.stat", "cumulative_gate")) W = fmax(W, 1);
  double *frozen = in->frozen ? &in->frozen[(b * in->H + h) * in->T + i] : NULL;
  if (is(in, "denominator.gradient", "stopped") && frozen) {
    if (in->fill) *frozen = W;
    else W = *frozen;
  }
  const double *sink = in->param(in->user, "denominator.sink");
  if (sink) W += exp(sink[h]);
  else if (numeric(in, "denominator.sink")) W += exp(num(in, "denominator.sink"));
  W = fmax(W + num(in, "denominator.eps"),
           num(in, "denominator.floor") > 0 ? num(in, "denominator.floor") : -1e300);
  const double p = exponent(in, h);
  double D = p == 1 ? W : W > 0 ? pow(W, p) : 0;
  if (al_opt_bool(in->o, "denominator.times_length")) D *= count(in, b, i, in->offset);
  return D;
}

static double output_gate(const oracle_in *in, int64_t b, int64_t i, int64_t h, int64_t e) {
  const int64_t out = is(in, "output_gate.per", "head") ? h : h * in->E + e;
  const double n = log(count(in, b, i, in->offset));
  const double g = is(in, "output_gate.input", "x")
                       ? linear(in, "output_gate", in->x + (b * in->T + i) * in->C, in->C, out)
                       : linear(in, "output_gate", &n, 1, out);
  return activation(al_opt_word(in->o, "output_gate.activation"), g);
}

/* n numbers at y, in place. */
static void normalise(const oracle_in *in, double *y, int64_t n) {
  double mean = 0, square = 0;
  for (int64_t e = 0; e < n; e++) mean += y[e] / (double)n;
  if (!is(in, "output_norm.kind", "layer")) mean = 0;
  for (int64_t e = 0; e < n; e++) square += (y[e] - mean) * (y[e] - mean);
  const bool l2 = is(in, "output_norm.kind", "l2");
  double eps = l2 ? 1e-12 : is(in, "output_norm.kind", "rms") ? 1e-6 : 1e-5;
  if (numeric(in, "output_norm.eps")) eps = num(in, "output_norm.eps");
  const double r = l2 ? fmax(sqrt(square), eps) : sqrt(square / (double)n + eps);
  const double *gain = in->param(in->user, "output_norm.gain"),
               *bias = in->param(in->user, "output_norm.bias");
  const bool a_head = is(in, "output_norm.gain", "learned");
  for (int64_t e = 0; e < n; e++) {
    y[e] = (y[e] - mean) / r;
    if (gain && !a_head) y[e] *= gain[e];
    if (bias) y[e] += bias[e];
    if (is(in, "output_norm.gain", "width")) y[e] *= (double)n;
    if (numeric(in, "output_norm.gain")) y[e] *= num(in, "output_norm.gain");
  }
}

static void row(const oracle_in *in, int64_t b, int64_t h, int64_t i, double *y) {
  const int64_t hk = h / (in->H / in->Hkv), D = in->D, E = in->E;
  double *qh = malloc((size_t)D * sizeof *qh), *kh = malloc((size_t)D * sizeof *kh);
  double *own = calloc((size_t)in->S, sizeof *own);
  ck_assert(qh && kh && own);
  const double *scale = in->param(in->user, "logit_scale");
  const double c = scale                        ? scale[h]
                   : numeric(in, "logit_scale") ? num(in, "logit_scale")
                                                : 1 / sqrt((double)D);
  const int64_t len = in->lengths ? in->lengths[b] : in->S;
  const int64_t last =
      i + in->offset < len ? i + in->offset : len - 1; /* last visible key, when causal */
  const bool same = is(in, "denominator.similarity", "inherited") &&
                    is(in, "denominator.orders", "inherited") &&
                    is(in, "denominator.decay", "inherited");
  const bool value_side = is(in, "denominator.side", "value"),
             gated = !is(in, "input_gate.activation", "none");
  feature(in, in->q + ((b * in->T + i) * in->H + h) * D, qh);
  memset(y, 0, (size_t)E * sizeof *y);
  for (int64_t j = 0; j < in->S; j++) {
    if (!visible(in, b, i, j)) continue;
    feature(in, in->k + ((b * in->S + j) * in->Hkv + hk) * D, kh);
    double s = 0;
    for (int64_t d = 0; d < D; d++) s += c * qh[d] * kh[d];
    const double A = exp(log_decay(in, b, hk, last, j));
    const int64_t at = i + in->offset + 1;
    const double w = A * weight(in, false, s, h, at, j + 1);
    own[j] =
        same ? w
             : (is(in, "denominator.decay", "none") ? 1 : A) * weight(in, true, s, h, at, j + 1);
    double t = 1;
    if (value_side) t = pow(count(in, b, j, 0), -exponent(in, hk));
    for (int64_t e = 0; e < E; e++) {
      double gate = 1;
      if (gated)
        gate = activation(al_opt_word(in->o, "input_gate.activation"),
                          linear(in, "input_gate", in->x + (b * in->T + j) * in->C, in->C,
                                 is(in, "input_gate.per", "head") ? hk : hk * E + e));
      y[e] += w * gate * t * in->v[((b * in->S + j) * in->Hkv + hk) * E + e];
    }
  }
  const double Di = denominator(in, b, h, i, own);
  const bool pre_gate =
      !is(in, "output_gate.activation", "none") && !is(in, "output_gate.place", "post_norm");
  for (int64_t e = 0; e < E; e++) {
    y[e] = fabs(Di) < 1.17549435e-38 ? 0 : y[e] / Di;
    if (pre_gate) y[e] *= output_gate(in, b, i, h, e);
  }
  free(qh);
  free(kh);
  free(own);
}

void oracle_forward(const oracle_in *in, double *out) {
  const bool normed = !is(in, "output_norm.kind", "none"),
             joint = is(in, "output_norm.scope", "joint");
  const double *gain = in->param(in->user, "output_norm.gain");
  for (int64_t b = 0; b < in->B; b++)
    for (int64_t i = 0; i < in->T; i++) {
      double *y = out + (b * in->T + i) * in->H * in->E;
      for (int64_t h = 0; h < in->H; h++) row(in, b, h, i, y + h * in->E);
      for (int64_t h = 0; h < in->H && normed && !joint; h++) normalise(in, y + h * in->E, in->E);
      if (normed && joint) normalise(in, y, in->H * in->E);
      for (int64_t h = 0; h < in->H; h++)
        for (int64_t e = 0; e < in->E; e++) {
          double *z = &y[h * in->E + e];
          if (normed && is(in, "output_norm.gain", "learned")) *z *= gain[h];
          if (!is(in, "output_gate.activation", "none") && !is(in, "output_gate.place", "pre_norm"))
            *z *= output_gate(in, b, i, h, e);
        }
    }
}

/* ---- the oracle against numbers worked out by hand ------------------------------------------- */

static const double *no_param(void *user, const char *name) {
  (void)user, (void)name;
  return NULL;
}

/* Two keys with logits 0 and ln 3: weights 1/4 and 3/4; without denominator 1 and 3. */
START_TEST(by_hand) {
  static const struct {
    const char *options;
    double y;
  } cases[] = {{"logit_scale=1", 0.25 * 2 + 0.75 * 10},
               {"logit_scale=1 denominator=none", 2 + 3 * 10},
               {"logit_scale=1 denominator=length", (2 + 3 * 10) / 2.0},
               {"logit_scale=1 denominator=sum denominator.sink=0", (2 + 3 * 10) / 5.0},
               {"logit_scale=1 similarity=taylor order=1",
                (1 * 2 + (1 + 1.0986122886681098) * 10) / (2 + 1.0986122886681098)},
               {"logit_scale=1 denominator=none output_norm=l2", 1}};
  al_ctx *c = al_ctx_new();
  const attn_family *family;
  const attn_preset *preset;
  al_opts *o;
  ck_assert_int_eq(attn_find(c, "kernel_attention", &family, &preset, &o), AL_OK);
  const double q = 1, k[] = {0, log(3)}, v[] = {2, 10};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    al_opts *mine = al_opts_copy(c, o);
    ck_assert_int_eq(al_opts_parse(c, mine, cases[i].options), AL_OK);
    const oracle_in in = {.o = mine,
                          .B = 1,
                          .T = 1,
                          .S = 2,
                          .H = 1,
                          .Hkv = 1,
                          .D = 1,
                          .E = 1,
                          .q = &q,
                          .k = k,
                          .v = v,
                          .param = no_param};
    double y;
    oracle_forward(&in, &y);
    ck_assert_double_eq_tol(y, cases[i].y, 1e-12);
    al_opts_release(mine);
  }
  al_opts_release(o);
  al_ctx_free(c);
}
END_TEST

Suite *suite_oracle(void) {
  Suite *s = suite_create("oracle");
  TCase *t = tcase_create("oracle");
  tcase_add_test(t, by_hand);
  suite_add_tcase(s, t);
  return s;
}
