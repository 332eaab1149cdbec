/* formula.c: the slots of the formula: which combinations are refused, which parameters they bring,
 * what they promise, and how they read as text. */
#include "formula.h"
#include <math.h>
#include <stdio.h>

bool formula_reads_x(const formula *f) {
  const formula_count *count = formula_count_of(f);
  return f->decay == DECAY_gated || f->input_gate.activation != ALK_GATE_none ||
         (count && count->reads_x) || (formula_learned_gate(f) && f->output_gate.input == INPUT_x);
}

double formula_scale_by(const formula *f, int64_t head_dim) {
  switch (f->scale) {
  case SCALE_number:
    return f->scale_by;
  case SCALE_rsqrt:
    return 1 / sqrt((double)head_dim);
  case SCALE_learned:
    break;
  }
  return 1;
}

/* ---- what is refused ------------------------------------------------------------------------- */

static const char *const owner = "kernel_attention";

static al_status check_denominator(al_ctx *c, const al_opts *o, const formula *f) {
  const char *stat = al_opt_word(o, "denominator.stat");
  const formula_count *count = formula_count_of(f);
  if (f->side == SIDE_value && !(count && count->by_key))
    return al_fail(c, AL_EVALUE,
                   "%s: denominator.side=value needs denominator.stat=length (D_j must not depend "
                   "on the row), got stat=%s",
                   owner, stat);
  static const char *const fields[] = {"floor",        "eps",        "sink",   "power", "gradient",
                                       "times_length", "similarity", "orders", "decay"};
  enum { OF_WEIGHTS = 6 };
  for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
    char key[64];
    snprintf(key, sizeof key, "denominator.%s", fields[i]);
    if (!al_opts_given(o, key) || f->stat == STAT_weights) continue;
    if (f->stat == STAT_none)
      return al_fail(c, AL_EVALUE, "%s: option '%s' has no effect with denominator.stat=none",
                     owner, key);
    if (i >= OF_WEIGHTS)
      return al_fail(
          c, AL_EVALUE,
          "%s: option '%s' shapes the denominator's weights, which stat=%s does not read", owner,
          key, stat);
  }
  return AL_OK;
}

static al_status check_polynomial(al_ctx *c, const al_opts *o, const formula *f) {
  const bool taylor = f->similarity == SIM_taylor || f->own_similarity == SIM_taylor;
  static const char *const for_taylor[] = {"orders", "coefficients"};
  for (int i = 0; i < 2; i++)
    if (al_opts_given(o, for_taylor[i]) && !taylor)
      return al_fail(c, AL_EVALUE,
                     "%s: option '%s' belongs to similarity=taylor, but similarity is %s", owner,
                     for_taylor[i], al_opt_word(o, "similarity"));
  if (al_opts_given(o, "order") && !taylor && f->similarity != SIM_power &&
      f->own_similarity != SIM_power)
    return al_fail(c, AL_EVALUE,
                   "%s: option 'order' belongs to similarity=taylor or power, but similarity is %s",
                   owner, al_opt_word(o, "similarity"));
  for (int i = 0; i < f->n_orders; i++)
    if (f->orders[i] > f->order)
      return al_fail(c, AL_EVALUE, "%s: orders: %g is above order = %d", owner, f->orders[i],
                     f->order);
  return AL_OK;
}

al_status formula_check(al_ctx *c, const al_opts *o, const attn_sizes *s) {
  formula room;
  const formula *f = formula_of(o, &room);
  AL_TRY(formula_check_expr(c, o, f));
  AL_TRY(check_polynomial(c, o, f));
  AL_TRY(check_denominator(c, o, f));
  static const char *const of_gate[] = {"per", "input", "bias"};
  for (int i = 0; i < 3; i++) {
    char key[64];
    snprintf(key, sizeof key, "output_gate.%s", of_gate[i]);
    if (f->output_gate.constant && al_opts_given(o, key))
      return al_fail(c, AL_EVALUE, "%s: option '%s' has no effect with the constant gate %g", owner,
                     key, f->output_gate.value);
  }
  const char *finite = formula_not_finite(f), *chunked = formula_not_chunked(f);
  const bool by_state = f->form == FORM_chunked || f->form == FORM_recurrent;
  if (f->form == FORM_chunked && chunked)
    return al_fail(c, AL_EVALUE, "%s: form=chunked: %s", owner, chunked);
  if (f->form == FORM_recurrent && !finite && f->dropout > 0)
    return al_fail(c, AL_EVALUE, "%s: form=recurrent: dropout needs every weight", owner);
  if (by_state && !finite) AL_TRY(formula_state_fits(c, o, s, al_dtype_size(AL_F32)));
  if (formula_reads_x(f) && s->width < 1)
    return al_fail(c, AL_EVALUE,
                   "%s: width: needed, because a gate or decay of these options reads x", owner);
  return AL_OK;
}

/* ---- parameters ------------------------------------------------------------------------------ */

int formula_params(const al_opts *o, const attn_sizes *s, attn_param *rows) {
  formula room;
  const formula *f = formula_of(o, &room);
  int n = 0;
  const int64_t H = s->heads, Hkv = s->kv_heads, E = s->value_dim, C = s->width;
  const double fan = C > 0 ? (double)C : 1;
  if (f->scale == SCALE_learned)
    rows[n++] = (attn_param){"logit_scale",
                             1,
                             {H},
                             ATTN_VALUE,
                             1 / sqrt((double)s->head_dim),
                             "multiplies q.k, one a head"};
  if (f->coefficients == COEFF_learned)
    rows[n++] =
        (attn_param){"coefficients", 1, {f->order + 1}, ATTN_ONES, 0, "k_n of k_n s^n / n!"};
  n += formula_expr_params(f, s, rows + n);
  switch (f->decay) {
  case DECAY_none:
  case DECAY_constant:
    break;
  case DECAY_learned:
    rows[n++] = (attn_param){"decay", 1, {Hkv}, ATTN_VALUE, -4, "log A = -softplus of it, a step"};
    break;
  case DECAY_gated:
    rows[n++] = (attn_param){"decay.weight", 2,   {Hkv, C},
                             ATTN_UNIFORM,   fan, "log A = -softplus(x W), a step"};
  }
  if (f->input_gate.activation != ALK_GATE_none) {
    const int64_t out = f->input_gate.per == PER_head ? Hkv : Hkv * E;
    rows[n++] =
        (attn_param){"input_gate.weight", 2, {out, C}, ATTN_UNIFORM, fan, "gate on the values"};
    if (f->input_gate.bias)
      rows[n++] = (attn_param){"input_gate.bias", 1, {out}, ATTN_UNIFORM, fan, ""};
  }
  if (f->power_learned)
    rows[n++] = (attn_param){"denominator.power", 1,   {f->side == SIDE_value ? Hkv : H},
                             ATTN_VALUE,          0.5, "exponent = sigmoid of it, one a head"};
  if (f->sink == SINK_learned)
    rows[n++] = (attn_param){"denominator.sink", 1, {H},
                             ATTN_ZEROS,         0, "exp of it is added to the denominator"};
  const formula_count *count = formula_count_of(f);
  if (count && count->params) n += count->params(s, rows + n);
  if (formula_learned_gate(f)) {
    const int64_t out = f->output_gate.per == PER_head ? H : H * E;
    const bool x = f->output_gate.input == INPUT_x;
    rows[n++] = (attn_param){"output_gate.weight", 2,           {out, x ? C : 1},
                             ATTN_UNIFORM,         x ? fan : 1, "gate on the output"};
    if (f->output_gate.bias)
      rows[n++] = (attn_param){"output_gate.bias", 1, {out}, ATTN_UNIFORM, x ? fan : 1, ""};
  }
  if (f->norm != ALK_NORM_none) {
    const int64_t width = f->scope == SCOPE_joint ? H * E : E;
    if (f->gain == GAIN_on)
      rows[n++] = (attn_param){"output_norm.gain", 1, {width}, ATTN_ONES, 0, "one a channel"};
    if (f->gain == GAIN_learned)
      rows[n++] = (attn_param){"output_norm.gain", 1, {H}, ATTN_ONES, 0, "one a head"};
    if (f->gain == GAIN_on && alk_norms[f->norm].mean)
      rows[n++] = (attn_param){"output_norm.bias", 1, {width}, ATTN_ZEROS, 0, "one a channel"};
  }
  return n;
}

/* ---- claims ---------------------------------------------------------------------------------- */

static bool positive_of_x(const char *text) {
  char of_s[512];
  formula_of_x(text, of_s, sizeof of_s);
  return formula_expr_positive(of_s, "");
}

static bool map_nonnegative(const formula *f) {
  return f->map == ALK_MAP_expr ? positive_of_x(f->map_expr) : alk_map_text(f->map).nonnegative;
}

static bool gate_nonnegative(const formula_gate *g) {
  if (g->constant) return g->value >= 0;
  if (g->activation == ALK_GATE_expr) return positive_of_x(g->expr);
  return g->activation == ALK_GATE_none || alk_gate_text(g->activation)->nonnegative;
}

static bool polynomial_nonnegative(const formula *f, const weight_fn *w) {
  if (w->learned) return false;
  const bool up = map_nonnegative(f) && f->scale != SCALE_learned &&
                  !(f->scale == SCALE_number && f->scale_by < 0) && !(f->clamps && f->clamp < 0);
  bool even = true, plus = true, all = true;
  for (int n = 0; n <= w->order; n++) {
    even &= w->k[n] == 0 || n % 2 == 0;
    plus &= w->k[n] >= 0;
    all &= w->k[n] == 1;
  }
  /* e^x cut at an even order has no root */
  return (all && w->factorial && w->order % 2 == 0) || (plus && (even || up));
}

bool formula_nonnegative(const formula *f, bool denominator) {
  const weight_fn *w = denominator ? &f->own : &f->w;
  switch (w->by) {
  case BY_exp:
  case BY_cosh:
    break;
  case BY_expression:
    return formula_expr_positive(w->expr, w->names);
  case BY_polynomial:
    return polynomial_nonnegative(f, w);
  }
  return true;
}

static bool plain_sum(const formula *f) {
  return f->weights == ALK_STAT_sum && formula_whole_power(f) && f->floor == 0 && f->eps == 0 &&
         f->sink == SINK_none && !f->times_length && !f->own_weights;
}

/* Powers whose weights leave f32 at scores of 160: 160^17 = 3e37. */
static bool overflows(const formula *f, formula_similarity s) {
  return (s == SIM_taylor || s == SIM_power) && f->order > 16;
}

unsigned formula_claims(const al_opts *o) {
  formula room;
  const formula *f = formula_of(o, &room);
  unsigned claims = ATTN_CAUSAL;
  const bool normed = f->norm != ALK_NORM_none, free = normed && alk_norms[f->norm].homogeneous;
  const bool bare = !formula_has_gate(f) && !normed && f->input_gate.activation == ALK_GATE_none;
  if (plain_sum(f) && bare) claims |= ATTN_ROWSUM1;
  /* in the cone of v: a norm that keeps the direction, gates and factors that are not below 0 */
  const bool bare_gain = f->gain == GAIN_off || f->gain == GAIN_width;
  if (formula_nonnegative(f, false) && (!normed || (free && bare_gain)) &&
      gate_nonnegative(&f->input_gate) && gate_nonnegative(&f->output_gate) &&
      (!f->own_weights || f->weights == ALK_STAT_abs))
    claims |= ATTN_POSITIVE_WEIGHTS;
  const bool raw = f->similarity == SIM_exp && f->map == ALK_MAP_identity && !f->clamps &&
                   !f->caps && !f->rounds;
  const bool each = free && f->scope == SCOPE_head;
  if (raw && (plain_sum(f) || (each && f->stat != STAT_weights))) claims |= ATTN_SHIFT_INVARIANT;
  if (each) claims |= ATTN_SCALE_FREE;
  if (overflows(f, f->similarity) || overflows(f, f->own_similarity)) claims |= ATTN_LIMITED_SCORES;
  return claims;
}

const char *formula_exempt(const al_opts *o) {
  formula room;
  return formula_of(o, &room)->rounds
             ? "logit_round=bf16: the values are steps, the gradient is that of unrounded logits"
             : NULL;
}

/* ---- the formula as text --------------------------------------------------------------------- */

/* s with its limits. */
static void s_text(const formula *f, char *s, size_t n) {
  char inner[96];
  snprintf(s, n, f->rounds ? "bf16(s)" : "s");
  if (f->caps) snprintf(s, n, "%g tanh(s/%g)", f->cap, f->cap);
  if (!f->clamps) return;
  snprintf(inner, sizeof inner, "%s", s);
  snprintf(s, n, "min(%.60s, %g)", inner, f->clamp);
}

static void f_text(const formula *f, bool denominator, char *buf, size_t n) {
  const weight_fn *w = denominator ? &f->own : &f->w;
  char s[96];
  s_text(f, s, sizeof s);
  const bool limited = f->rounds || f->caps || f->clamps;
  switch (denominator ? f->own_similarity : f->similarity) {
  case SIM_exp:
    snprintf(buf, n, "exp(%s)", s);
    return;
  case SIM_cosh:
    snprintf(buf, n, "cosh(%s)", s);
    return;
  case SIM_linear:
    snprintf(buf, n, "%s", s);
    return;
  case SIM_square:
    snprintf(buf, n, "(%s)^2", s);
    return;
  case SIM_power:
    snprintf(buf, n, "(%s)^%d", s, f->order);
    return;
  case SIM_taylor:
    snprintf(buf, n, "P_%d(%s)", f->order, s);
    return;
  case SIM_expr:
#define SIMILARITY(word, text) case SIM_##word:
#include "similarities.def"
#undef SIMILARITY
    snprintf(buf, n, limited ? "(%s with s := %s)" : "(%s)", w->expr, s);
  }
}

/* NAME(x), or x under the identity. */
static void call_text(alk_pointwise function, const char *x, char *buf, size_t n) {
  if (function == ALK_PW_identity) snprintf(buf, n, "%s", x);
  else snprintf(buf, n, "%s(%s)", alk_functions[function].word, x);
}

static void stat_text(const formula *f, char *buf, size_t n) {
  const alk_statistic *stat = &alk_statistics[f->weights];
  const formula_count *count = formula_count_of(f);
  char w[640], inner[700], sum[720];
  if (count) {
    snprintf(buf, n, "%s", count->text);
    return;
  }
  snprintf(w, sizeof w, "%s", f->decay != DECAY_none && !f->own_decay ? "A_ij " : "");
  f_text(f, true, w + strlen(w), sizeof w - strlen(w));
  call_text(stat->inner, w, inner, sizeof inner);
  snprintf(sum, sizeof sum, "sum_j %s", inner);
  call_text(stat->outer, sum, buf, n);
}

static void denominator_text(const formula *f, const char *power, char *D, size_t n) {
  char W[800];
  size_t at;
  stat_text(f, W, sizeof W - 64);
  switch (f->sink) {
  case SINK_none:
    break;
  case SINK_learned:
    strcat(W, " + exp(sink)");
    break;
  case SINK_number:
    snprintf(W + strlen(W), sizeof W - strlen(W), " + exp(%g)", f->sink_at);
  }
  if (f->eps > 0) snprintf(W + strlen(W), sizeof W - strlen(W), " + %g", f->eps);
  if (f->floor > 0) snprintf(D, n, "max(%.760s, %g)", W, f->floor);
  else snprintf(D, n, "(%.760s)", W);
  at = strlen(D);
  snprintf(D + at, n - at, "%s%s%s", power, f->times_length ? " / n_i" : "",
           f->gradient == GRADIENT_stopped ? " [no gradient]" : "");
}

void formula_text(const al_opts *o, char *buf, size_t n) {
  formula room;
  const formula *f = formula_of(o, &room);
  char weight[640], w[704], u[640] = "v_j", N[1400], D[1000] = "", y[2500], power[32] = "";
  f_text(f, false, weight, sizeof weight);
  snprintf(w, sizeof w, "%s%s", f->decay != DECAY_none ? "A_ij " : "", weight);
  if (f->input_gate.activation == ALK_GATE_expr)
    snprintf(u, sizeof u, "(%s with x := x_j Wb) v_j", f->input_gate.expr);
  else if (f->input_gate.activation != ALK_GATE_none)
    snprintf(u, sizeof u, "%s(x_j Wb) v_j", alk_gate_text(f->input_gate.activation)->word);
  if (f->power_learned) snprintf(power, sizeof power, "^sigmoid(m)");
  else if (f->power != 1) snprintf(power, sizeof power, "^%g", f->power);
  if (f->side == SIDE_value) snprintf(u + strlen(u), sizeof u - strlen(u), " / n_j%s", power);
  snprintf(N, sizeof N, "sum_j %s %s", w, u);
  if (formula_divides_row(f)) denominator_text(f, power, D, sizeof D);
  const bool pre = formula_gate_at(f, PLACE_pre_norm), post = formula_gate_at(f, PLACE_post_norm);
  char g[40] = "g_i ";
  if (f->output_gate.constant) snprintf(g, sizeof g, "%g ", f->output_gate.value);
  snprintf(y, sizeof y, "%s(%s)%s%s", pre ? g : "", N, *D ? " / " : "", D);
  const bool norm = f->norm != ALK_NORM_none;
  const char *map = f->map == ALK_MAP_expr ? "phi" : alk_map_text(f->map).word;
  const bool bare = f->map == ALK_MAP_identity;
  snprintf(buf, n, "o_i = %s%s%s%s%s;  s = %s%s.%s%s", post ? g : "",
           norm ? alk_norms[f->norm].word : "", norm ? "[ " : "", y, norm ? " ]" : "",
           bare ? "q_i" : map, bare ? "" : "(q_i)", bare ? "k_j" : map, bare ? "" : "(k_j)");
  size_t at = strlen(buf);
  switch (f->scale) {
  case SCALE_rsqrt:
    snprintf(buf + at, n - at, " / sqrt(D)");
    break;
  case SCALE_learned:
    snprintf(buf + at, n - at, " t");
    break;
  case SCALE_number:
    if (f->scale_by != 1) snprintf(buf + at, n - at, " %g", f->scale_by);
  }
  at = strlen(buf);
  if (f->map == ALK_MAP_expr) snprintf(buf + at, n - at, ";  phi(x) = %s", f->map_expr);
}
