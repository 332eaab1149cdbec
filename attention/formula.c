/* formula.c: the slots of the formula as options: what they are, which combinations are refused,
 * which parameters they bring, what they promise, and how they read as text. */
#include "formula.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

#define BIG 1e308

static const al_arg denominator_rows[] = {
    {"stat", AL_T_WORD, "sum", "sum none length abs l2 cumulative_gate", 0, 0,
     "W_i: sum of w', nothing, number of visible keys, sum of |w'|, root of the sum of w'^2, sum "
     "of exp(x Wp)",
     NULL},
    {"power", AL_T_NUM | AL_T_WORD, "1", "learned", 0, 16,
     "exponent; learned: sigmoid(m) a head, m = 0.5 at first", NULL},
    {"floor", AL_T_NUM, "0", NULL, 0, BIG, "least value before the power", NULL},
    {"eps", AL_T_NUM, "0", NULL, 0, BIG, "added before the power", NULL},
    {"sink", AL_T_BOOL | AL_T_NUM | AL_T_WORD, "false", "learned", -BIG, BIG,
     "exp(sink) is added; learned: one a head, 0 at first", NULL},
    {"gradient", AL_T_WORD, "both", "both stopped", 0, 0,
     "stopped: W is a constant in the backward pass", NULL},
    {"side", AL_T_WORD, "row", "row value", 0, 0,
     "value: v_j is divided by D_j of its own position (stat=length only)", NULL},
    {"similarity", AL_T_WORD, "inherited", "inherited exp linear square power taylor cosh", 0, 0,
     "f of w', when it is not the numerator's", NULL},
    {"orders", AL_T_WORD | AL_T_LIST | AL_T_INT, "inherited", "inherited all", 0, FORMULA_MAX_ORDER,
     "kept orders of w'", NULL},
    {"decay", AL_T_WORD, "inherited", "inherited none", 0, 0, "none: w' without the decay", NULL},
    {"times_length", AL_T_BOOL, "false", NULL, 0, 0, "also divide by the number of visible keys",
     NULL},
    {0}};

static const al_arg input_gate_rows[] = {
    {"activation", AL_T_WORD, "none", "none sigmoid softplus", 0, 0, "of x W + b, times v", NULL},
    {"per", AL_T_WORD, "head", "head channel", 0, 0, "one gate a key/value head, or one a channel",
     NULL},
    {"bias", AL_T_BOOL, "true", NULL, 0, 0, "add b", NULL},
    {0}};

static const al_arg output_gate_rows[] = {
    {"activation", AL_T_WORD | AL_T_NUM, "none", "none sigmoid silu", -BIG, BIG,
     "of x W + b, times the output; a number: that constant instead", NULL},
    {"place", AL_T_WORD, "post_norm", "post_norm pre_norm both", 0, 0,
     "before the output norm, after it, or the same gate at both", NULL},
    {"per", AL_T_WORD, "head", "head channel", 0, 0, "one gate a head, or one a channel", NULL},
    {"input", AL_T_WORD, "x", "x position", 0, 0,
     "position: the gate sees ln(number of visible keys) instead of x", NULL},
    {"bias", AL_T_BOOL, "true", NULL, 0, 0, "add b", NULL},
    {0}};

static const al_arg output_norm_rows[] = {
    {"kind", AL_T_WORD, "none", "none l2 rms layer", 0, 0, "over the channels of y", NULL},
    {"eps", AL_T_WORD | AL_T_NUM, "auto", "auto", 0, BIG,
     "auto: l2 1e-12 (least norm), rms 1e-6, layer 1e-5", NULL},
    {"gain", AL_T_WORD | AL_T_BOOL | AL_T_NUM, "auto", "auto learned width", -BIG, BIG,
     "true: one a channel (auto for rms and layer); learned: one a head; width: the number of "
     "channels; a number",
     NULL},
    {"scope", AL_T_WORD, "head", "head joint", 0, 0, "each head alone, or all heads as one vector",
     NULL},
    {0}};

const al_arg formula_options[] = {
    {"feature_map", AL_T_WORD, "identity", "identity relu elu1 l2 softplus", 0, 0,
     "phi, on one head's q and k", NULL},
    {"similarity", AL_T_WORD, "exp", "exp linear square power taylor cosh expr", 0, 0, "f", NULL},
    {"expr", AL_T_TEXT, "", NULL, 0, 0,
     "similarity=expr: f of the logit s after clamp and softcap, of the positions i and j of row "
     "and "
     "key from 1, and of scalars: + - * / ^, exp log log1p expm1 sqrt abs relu tanh sinh cosh sin "
     "cos erf sigmoid softplus min max",
     NULL},
    {"expr_params", AL_T_NAMED, "{}", NULL, 0, 0,
     "scalars of expr with their first values, learned, one a head", NULL},
    {"order", AL_T_INT, "2", NULL, 0, FORMULA_MAX_ORDER,
     "taylor: highest order; power: the exponent", NULL},
    {"orders", AL_T_WORD | AL_T_LIST | AL_T_INT, "all", "all", 0, FORMULA_MAX_ORDER,
     "taylor: the orders kept", NULL},
    {"coefficients", AL_T_WORD | AL_T_LIST | AL_T_NUM, "factorial", "factorial ones learned", 0, 0,
     "taylor: of s^n: 1/n!, 1, k_n/n! with k learned, or k_n/n! with the k listed for orders 0, 1, "
     "...",
     NULL},
    {"logit_scale", AL_T_WORD | AL_T_NUM, "rsqrt", "rsqrt learned", -BIG, BIG,
     "rsqrt: 1/sqrt(head_dim); learned: one a head, from there", NULL},
    {"logit_clamp", AL_T_BOOL | AL_T_NUM, "false", NULL, -BIG, BIG, "f(min(s, c))", NULL},
    {"logit_softcap", AL_T_BOOL | AL_T_NUM, "false", NULL, 1e-6, BIG,
     "c tanh(s/c), before the clamp", NULL},
    {"logit_round", AL_T_BOOL | AL_T_WORD, "false", "bf16", 0, 0,
     "round s first, gradient straight through", NULL},
    {"decay", AL_T_WORD, "none", "none constant learned gated", 0, 0,
     "log A a step and key/value head: ln(1 - 2^(-5-h)); -softplus(p), p = -4 at first; "
     "-softplus(x W); counted to the row's last visible key",
     NULL},
    {"input_gate", AL_T_RECORD, NULL, NULL, 0, 0, "b", input_gate_rows},
    {"denominator", AL_T_RECORD, NULL, NULL, 0, 0, "D", denominator_rows},
    {"output_gate", AL_T_RECORD, NULL, NULL, 0, 0, "r and h", output_gate_rows},
    {"output_norm", AL_T_RECORD, NULL, NULL, 0, 0, "Norm", output_norm_rows},
    {"dropout", AL_T_NUM, "0", NULL, 0, 0.999, "on the weights of the numerator, in training",
     NULL},
    {"form", AL_T_WORD, "auto", "auto parallel chunked recurrent", 0, 0,
     "parallel: every pair of tokens; chunked: a state between chunks, time linear in T, for "
     "weights with a finite state; recurrent: token by token, a backward pass keeps every state; "
     "auto: chunked where the options have "
     "it and, when causal, rows and keys are the same tokens, from 4 R E / (D + E) keys on (R "
     "features: 2 D for linear weights and D = E; those of a denominator with weights of its own "
     "count as E = 16), unless the state is above state_limit",
     NULL},
    {"state_limit", AL_T_NUM, "1024", NULL, 0, 1e9,
     "MiB a sequence that a state of polynomial weights may take; 0: carry keys and values instead",
     NULL},
    {"impl", AL_T_WORD, "auto", "auto composed fused", 0, 0,
     "fused: the (T,S) matrix is never stored; composed: out of small ops; auto: fused, composed "
     "in f64",
     NULL},
    {0}};

/* ---- reading the options --------------------------------------------------------------------- */

weight_fn formula_weight(const al_opts *o, bool denominator) {
  return formula_weight_to(o, denominator, (int)al_opt_int(o, "order"));
}

weight_fn formula_weight_to(const al_opts *o, bool denominator, int order) {
  weight_fn w = {.f = "polynomial"};
  const char *sim = al_opt_word(o, "similarity");
  const char *orders = "orders";
  if (denominator && !is(o, "denominator.similarity", "inherited"))
    sim = al_opt_word(o, "denominator.similarity");
  if (denominator && !is(o, "denominator.orders", "inherited")) orders = "denominator.orders";
  if (strcmp(sim, "exp") == 0 || strcmp(sim, "cosh") == 0 || strcmp(sim, "expr") == 0) {
    w.f = sim;
    return w;
  }
  w.order = order, w.terms = 1;
  if (strcmp(sim, "taylor") != 0) {
    if (strcmp(sim, "power") != 0) w.order = strcmp(sim, "linear") == 0 ? 1 : 2;
    w.k[w.order] = w.c[w.order] = 1;
    return w;
  }
  w.terms = 0;
  w.factorial = !is(o, "coefficients", "ones");
  w.learned = is(o, "coefficients", "learned");
  const double *kept, *k;
  const int n_kept = al_opt_list(o, orders, &kept), n_k = al_opt_list(o, "coefficients", &k);
  double factorial = 1;
  for (int n = 0; n <= w.order; factorial *= ++n) {
    bool keep = n_kept == 0;
    for (int i = 0; i < n_kept; i++) keep |= (int)kept[i] == n;
    w.k[n] = !keep ? 0 : n_k == 0 ? 1 : n < n_k ? k[n] : 0;
    w.c[n] = w.factorial ? w.k[n] * (1 / factorial) : w.k[n];
    w.terms += w.k[n] != 0;
  }
  return w;
}

/* Does the denominator have weights of its own? */
bool formula_own_weights(const al_opts *o) {
  return (!is(o, "denominator.similarity", "inherited") &&
          strcmp(al_opt_word(o, "denominator.similarity"), al_opt_word(o, "similarity")) != 0) ||
         !is(o, "denominator.orders", "inherited") ||
         (is(o, "denominator.decay", "none") && on(o, "decay"));
}

bool formula_reads_weights(const al_opts *o) {
  return is(o, "denominator.stat", "sum") || is(o, "denominator.stat", "abs") ||
         is(o, "denominator.stat", "l2");
}

bool formula_learned_gate(const al_opts *o) {
  return on(o, "output_gate") && !number(o, "output_gate");
}

bool formula_reads_x(const al_opts *o) {
  return is(o, "decay", "gated") || on(o, "input_gate") ||
         is(o, "denominator.stat", "cumulative_gate") ||
         (formula_learned_gate(o) && is(o, "output_gate.input", "x"));
}

double formula_norm_eps(const al_opts *o) {
  if (number(o, "output_norm.eps")) return al_opt_num(o, "output_norm.eps");
  return is(o, "output_norm.kind", "l2") ? 1e-12 : is(o, "output_norm.kind", "rms") ? 1e-6 : 1e-5;
}

bool formula_channel_gain(const al_opts *o) {
  if (al_opt_kind(o, "output_norm.gain") == AL_T_BOOL) return al_opt_bool(o, "output_norm.gain");
  return is(o, "output_norm.gain", "auto") && !is(o, "output_norm.kind", "l2");
}

al_status formula_check(al_ctx *c, const al_opts *o, const attn_sizes *s) {
  static const char *const name = "kernel_attention";
  const bool taylor = is(o, "similarity", "taylor") || is(o, "denominator.similarity", "taylor");
  AL_TRY(formula_check_expr(c, o));
  static const char *const for_taylor[] = {"orders", "coefficients"};
  for (int i = 0; i < 2; i++)
    if (al_opts_given(o, for_taylor[i]) && !taylor)
      return al_fail(c, AL_EVALUE,
                     "%s: option '%s' belongs to similarity=taylor, but similarity is %s", name,
                     for_taylor[i], al_opt_word(o, "similarity"));
  if (al_opts_given(o, "order") && !taylor && !is(o, "similarity", "power") &&
      !is(o, "denominator.similarity", "power"))
    return al_fail(c, AL_EVALUE,
                   "%s: option 'order' belongs to similarity=taylor or power, but similarity is %s",
                   name, al_opt_word(o, "similarity"));
  if (is(o, "denominator.side", "value") && !is(o, "denominator.stat", "length"))
    return al_fail(c, AL_EVALUE,
                   "%s: denominator.side=value needs denominator.stat=length (D_j must not depend "
                   "on the row), got stat=%s",
                   name, al_opt_word(o, "denominator.stat"));
  static const char *const of_denominator[] = {
      "floor", "eps", "sink", "power", "gradient", "times_length", "similarity", "orders", "decay"};
  for (size_t i = 0; i < sizeof of_denominator / sizeof *of_denominator; i++) {
    char key[64];
    snprintf(key, sizeof key, "denominator.%s", of_denominator[i]);
    if (is(o, "denominator.stat", "none") && al_opts_given(o, key))
      return al_fail(c, AL_EVALUE, "%s: option '%s' has no effect with denominator.stat=none", name,
                     key);
    if (i >= 6 && !formula_reads_weights(o) && al_opts_given(o, key))
      return al_fail(
          c, AL_EVALUE,
          "%s: option '%s' shapes the denominator's weights, which stat=%s does not read", name,
          key, al_opt_word(o, "denominator.stat"));
  }
  static const char *const of_gate[] = {"per", "input", "bias"};
  for (int i = 0; i < 3; i++) {
    char key[64];
    snprintf(key, sizeof key, "output_gate.%s", of_gate[i]);
    if (number(o, "output_gate") && al_opts_given(o, key))
      return al_fail(c, AL_EVALUE, "%s: option '%s' has no effect with the constant gate %g", name,
                     key, al_opt_num(o, "output_gate"));
  }
  if (is(o, "form", "chunked") && formula_not_chunked(o))
    return al_fail(c, AL_EVALUE, "%s: form=chunked: %s", name, formula_not_chunked(o));
  if (is(o, "form", "recurrent") && !formula_not_finite(o) && al_opt_num(o, "dropout") > 0)
    return al_fail(c, AL_EVALUE, "%s: form=recurrent: dropout needs every weight", name);
  if ((is(o, "form", "chunked") || is(o, "form", "recurrent")) && !formula_not_finite(o))
    AL_TRY(formula_state_fits(c, o, s, al_dtype_size(AL_F32)));
  if (formula_reads_x(o) && s->width < 1)
    return al_fail(c, AL_EVALUE,
                   "%s: width: needed, because a gate or decay of these options reads x", name);
  const double *kept;
  const int n = al_opt_list(o, "orders", &kept);
  for (int i = 0; i < n; i++)
    if (kept[i] > al_opt_num(o, "order"))
      return al_fail(c, AL_EVALUE, "%s: orders: %g is above order = %lld", name, kept[i],
                     (long long)al_opt_int(o, "order"));
  return AL_OK;
}

/* ---- parameters ------------------------------------------------------------------------------ */

int formula_params(const al_opts *o, const attn_sizes *s, attn_param *rows) {
  int n = 0;
  const int64_t H = s->heads, Hkv = s->kv_heads, E = s->value_dim, C = s->width;
  const double fan = C > 0 ? (double)C : 1;
  if (is(o, "logit_scale", "learned"))
    rows[n++] = (attn_param){"logit_scale",
                             1,
                             {H},
                             ATTN_VALUE,
                             1 / sqrt((double)s->head_dim),
                             "multiplies q.k, one a head"};
  if (is(o, "coefficients", "learned"))
    rows[n++] = (attn_param){"coefficients", 1, {al_opt_int(o, "order") + 1},
                             ATTN_ONES,      0, "k_n of k_n s^n / n!"};
  n += formula_expr_params(o, s, rows + n);
  if (is(o, "decay", "learned"))
    rows[n++] = (attn_param){"decay", 1, {Hkv}, ATTN_VALUE, -4, "log A = -softplus of it, a step"};
  if (is(o, "decay", "gated"))
    rows[n++] = (attn_param){"decay.weight", 2,   {Hkv, C},
                             ATTN_UNIFORM,   fan, "log A = -softplus(x W), a step"};
  if (on(o, "input_gate")) {
    const int64_t out = is(o, "input_gate.per", "head") ? Hkv : Hkv * E;
    rows[n++] =
        (attn_param){"input_gate.weight", 2, {out, C}, ATTN_UNIFORM, fan, "gate on the values"};
    if (al_opt_bool(o, "input_gate.bias"))
      rows[n++] = (attn_param){"input_gate.bias", 1, {out}, ATTN_UNIFORM, fan, ""};
  }
  if (is(o, "denominator.power", "learned"))
    rows[n++] =
        (attn_param){"denominator.power", 1,   {is(o, "denominator.side", "value") ? Hkv : H},
                     ATTN_VALUE,          0.5, "exponent = sigmoid of it, one a head"};
  if (is(o, "denominator.sink", "learned"))
    rows[n++] = (attn_param){"denominator.sink", 1, {H},
                             ATTN_ZEROS,         0, "exp of it is added to the denominator"};
  if (is(o, "denominator.stat", "cumulative_gate")) {
    rows[n++] = (attn_param){"denominator.weight", 2,   {H, C},
                             ATTN_UNIFORM,         fan, "p = x W + b of the cumulative gate"};
    rows[n++] = (attn_param){"denominator.bias", 1, {H}, ATTN_UNIFORM, fan, ""};
  }
  if (formula_learned_gate(o)) {
    const int64_t out = is(o, "output_gate.per", "head") ? H : H * E;
    const bool x = is(o, "output_gate.input", "x");
    rows[n++] = (attn_param){"output_gate.weight", 2,           {out, x ? C : 1},
                             ATTN_UNIFORM,         x ? fan : 1, "gate on the output"};
    if (al_opt_bool(o, "output_gate.bias"))
      rows[n++] = (attn_param){"output_gate.bias", 1, {out}, ATTN_UNIFORM, x ? fan : 1, ""};
  }
  if (on(o, "output_norm.kind")) {
    const int64_t width = is(o, "output_norm.scope", "joint") ? H * E : E;
    if (formula_channel_gain(o))
      rows[n++] = (attn_param){"output_norm.gain", 1, {width}, ATTN_ONES, 0, "one a channel"};
    if (is(o, "output_norm.gain", "learned"))
      rows[n++] = (attn_param){"output_norm.gain", 1, {H}, ATTN_ONES, 0, "one a head"};
    if (formula_channel_gain(o) && is(o, "output_norm.kind", "layer"))
      rows[n++] = (attn_param){"output_norm.bias", 1, {width}, ATTN_ZEROS, 0, "one a channel"};
  }
  return n;
}

/* ---- claims ---------------------------------------------------------------------------------- */

bool formula_nonnegative(const al_opts *o, bool denominator) {
  const weight_fn w = formula_weight(o, denominator);
  if (strcmp(w.f, "expr") == 0) return formula_expr_positive(o);
  if (strcmp(w.f, "polynomial") != 0) return true;
  if (w.learned) return false;
  const bool features = is(o, "feature_map", "relu") || is(o, "feature_map", "elu1") ||
                        is(o, "feature_map", "softplus");
  const bool up = features && !is(o, "logit_scale", "learned") &&
                  !(number(o, "logit_scale") && al_opt_num(o, "logit_scale") < 0) &&
                  !(number(o, "logit_clamp") && al_opt_num(o, "logit_clamp") < 0);
  bool even = true, plus = true, all = true;
  for (int n = 0; n <= w.order; n++) {
    even &= w.k[n] == 0 || n % 2 == 0;
    plus &= w.k[n] >= 0;
    all &= w.k[n] == 1;
  }
  /* e^x cut at an even order has no root */
  return (all && w.factorial && w.order % 2 == 0) || (plus && (even || up));
}

static bool plain_sum(const al_opts *o) {
  return is(o, "denominator.stat", "sum") && number(o, "denominator.power") &&
         al_opt_num(o, "denominator.power") == 1 && al_opt_num(o, "denominator.floor") == 0 &&
         al_opt_num(o, "denominator.eps") == 0 && al_opt_kind(o, "denominator.sink") == AL_T_BOOL &&
         !al_opt_bool(o, "denominator.times_length") && !formula_own_weights(o);
}

/* Powers whose weights leave f32 at scores of 160: 160^17 = 3e37. */
static bool overflows(const al_opts *o, const char *key) {
  return (is(o, key, "taylor") || is(o, key, "power")) && al_opt_int(o, "order") > 16;
}

unsigned formula_claims(const al_opts *o) {
  unsigned claims = ATTN_CAUSAL;
  const bool bare = !on(o, "output_gate") && !on(o, "output_norm") && !on(o, "input_gate");
  if (plain_sum(o) && bare) claims |= ATTN_ROWSUM1;
  const bool linear = !on(o, "output_norm") || is(o, "output_norm", "l2");
  const bool gain = is(o, "output_norm.gain", "auto") || is(o, "output_norm.gain", "width");
  if (formula_nonnegative(o, false) && linear && (gain || !on(o, "output_norm")) &&
      !is(o, "output_gate", "silu") &&
      !(number(o, "output_gate") && al_opt_num(o, "output_gate") < 0) &&
      (!formula_own_weights(o) || is(o, "denominator.stat", "abs")))
    claims |= ATTN_POSITIVE_WEIGHTS;
  const bool raw = is(o, "similarity", "exp") && is(o, "feature_map", "identity") &&
                   !number(o, "logit_clamp") && !number(o, "logit_softcap") &&
                   !is(o, "logit_round", "bf16");
  const bool l2 = is(o, "output_norm", "l2") && is(o, "output_norm.scope", "head");
  const bool constant = is(o, "denominator.stat", "none") || is(o, "denominator.stat", "length") ||
                        is(o, "denominator.stat", "cumulative_gate");
  if (raw && (plain_sum(o) || (l2 && constant))) claims |= ATTN_SHIFT_INVARIANT;
  if (l2) claims |= ATTN_SCALE_FREE;
  if (overflows(o, "similarity") || overflows(o, "denominator.similarity"))
    claims |= ATTN_LIMITED_SCORES;
  return claims;
}

const char *formula_exempt(const al_opts *o) {
  return is(o, "logit_round", "bf16")
             ? "logit_round=bf16: the values are steps, the gradient is that of unrounded logits"
             : NULL;
}

/* ---- the formula as text --------------------------------------------------------------------- */

static void f_text(const al_opts *o, bool denominator, char *buf, size_t n) {
  const char *sim = al_opt_word(o, "similarity");
  if (denominator && !is(o, "denominator.similarity", "inherited"))
    sim = al_opt_word(o, "denominator.similarity");
  char s[96];
  snprintf(s, sizeof s, "s");
  if (is(o, "logit_round", "bf16")) snprintf(s, sizeof s, "bf16(s)");
  if (number(o, "logit_softcap"))
    snprintf(s, sizeof s, "%g tanh(s/%g)", al_opt_num(o, "logit_softcap"),
             al_opt_num(o, "logit_softcap"));
  if (number(o, "logit_clamp")) {
    char inner[96];
    snprintf(inner, sizeof inner, "%s", s);
    snprintf(s, sizeof s, "min(%.60s, %g)", inner, al_opt_num(o, "logit_clamp"));
  }
  if (strcmp(sim, "expr") == 0) {
    const bool plain = strcmp(s, "s") == 0;
    snprintf(buf, n, plain ? "(%s)" : "(%s with s := %s)", al_opt_word(o, "expr"), s);
  } else if (strcmp(sim, "exp") == 0) snprintf(buf, n, "exp(%s)", s);
  else if (strcmp(sim, "cosh") == 0) snprintf(buf, n, "cosh(%s)", s);
  else if (strcmp(sim, "linear") == 0) snprintf(buf, n, "%s", s);
  else if (strcmp(sim, "square") == 0) snprintf(buf, n, "(%s)^2", s);
  else if (strcmp(sim, "power") == 0)
    snprintf(buf, n, "(%s)^%lld", s, (long long)al_opt_int(o, "order"));
  else snprintf(buf, n, "P_%lld(%s)", (long long)al_opt_int(o, "order"), s);
}

void formula_text(const al_opts *o, char *buf, size_t n) {
  char f[640], w[704], u[64] = "v_j", N[840], D[1000] = "", y[2000], power[32] = "";
  f_text(o, false, f, sizeof f);
  snprintf(w, sizeof w, "%s%s", on(o, "decay") ? "A_ij " : "", f);
  if (on(o, "input_gate")) snprintf(u, sizeof u, "%s(x_j Wb) v_j", al_opt_word(o, "input_gate"));
  if (is(o, "denominator.power", "learned")) snprintf(power, sizeof power, "^sigmoid(m)");
  else if (al_opt_num(o, "denominator.power") != 1)
    snprintf(power, sizeof power, "^%g", al_opt_num(o, "denominator.power"));
  if (is(o, "denominator.side", "value"))
    snprintf(u + strlen(u), sizeof u - strlen(u), " / n_j%s", power);
  snprintf(N, sizeof N, "sum_j %s %s", w, u);
  if (on(o, "denominator") && is(o, "denominator.side", "row")) {
    char W[800];
    f_text(o, true, f, sizeof f);
    const char *A = on(o, "decay") && !is(o, "denominator.decay", "none") ? "A_ij " : "";
    if (is(o, "denominator", "length")) snprintf(W, sizeof W, "n_i");
    else if (is(o, "denominator", "abs")) snprintf(W, sizeof W, "sum_j |%s%s|", A, f);
    else if (is(o, "denominator", "l2")) snprintf(W, sizeof W, "sqrt(sum_j (%s%s)^2)", A, f);
    else if (is(o, "denominator", "cumulative_gate"))
      snprintf(W, sizeof W, "max(1, sum_j exp(x_j Wp))");
    else snprintf(W, sizeof W, "sum_j %s%s", A, f);
    if (is(o, "denominator.sink", "learned")) strcat(W, " + exp(sink)");
    else if (number(o, "denominator.sink"))
      snprintf(W + strlen(W), sizeof W - strlen(W), " + exp(%g)",
               al_opt_num(o, "denominator.sink"));
    if (al_opt_num(o, "denominator.eps") > 0)
      snprintf(W + strlen(W), sizeof W - strlen(W), " + %g", al_opt_num(o, "denominator.eps"));
    const double floor = al_opt_num(o, "denominator.floor");
    if (floor > 0) snprintf(D, sizeof D, "max(%.760s, %g)", W, floor);
    else snprintf(D, sizeof D, "(%.760s)", W);
    strcat(D, power);
    if (al_opt_bool(o, "denominator.times_length")) strcat(D, " / n_i");
    if (is(o, "denominator.gradient", "stopped"))
      snprintf(D + strlen(D), sizeof D - strlen(D), " [no gradient]");
  }
  const bool pre = on(o, "output_gate") && !is(o, "output_gate.place", "post_norm"),
             post = on(o, "output_gate") && !is(o, "output_gate.place", "pre_norm");
  char gate[40] = "g_i ";
  if (number(o, "output_gate")) snprintf(gate, sizeof gate, "%g ", al_opt_num(o, "output_gate"));
  snprintf(y, sizeof y, "%s(%s)%s%s", pre ? gate : "", N, *D ? " / " : "", D);
  const bool norm = on(o, "output_norm");
  snprintf(buf, n, "o_i = %s%s%s%s%s;  s = %s%s.%s%s", post ? gate : "",
           norm ? al_opt_word(o, "output_norm") : "", norm ? "[ " : "", y, norm ? " ]" : "",
           is(o, "feature_map", "identity") ? "q_i" : al_opt_word(o, "feature_map"),
           is(o, "feature_map", "identity") ? "" : "(q_i)",
           is(o, "feature_map", "identity") ? "k_j" : al_opt_word(o, "feature_map"),
           is(o, "feature_map", "identity") ? "" : "(k_j)");
  const size_t at = strlen(buf);
  if (is(o, "logit_scale", "rsqrt")) snprintf(buf + at, n - at, " / sqrt(D)");
  else if (is(o, "logit_scale", "learned")) snprintf(buf + at, n - at, " t");
  else if (al_opt_num(o, "logit_scale") != 1)
    snprintf(buf + at, n - at, " %g", al_opt_num(o, "logit_scale"));
}
