/* source_latex.c: kernel_attention as a formula in LaTeX. */
#include "source.h"
#include <math.h>

/* The shortest text that reads back as v, as LaTeX has it: 1e-12 is 10^{-12}. */
static const char *latex_number(double v, char buf[48]) {
  char text[32];
  source_number(v, text);
  char *e = strchr(text, 'e');
  if (!e) return strcpy(buf, text);
  *e = 0;
  const bool one = strcmp(text, "1") == 0;
  snprintf(buf, 48, "%s%s10^{%d}", one ? "" : text, one ? "" : " \\cdot ", atoi(e + 1));
  return buf;
}
#define LNUM(v) latex_number((v), (char[48]){0})

/* The text of an expression of the letter `var`, which stands for `of`. */
static void latex_expression(FILE *out, const char *at, char var, const char *of) {
  PUT("\\mathtt{");
  for (; *at; at++)
    if (*at == '^') PUT("\\hat{\\ }");
    else if (*at == '_') PUT("\\_");
    else if (*at == '\n' || *at == '\t' || *at == ' ') PUT("\\ ");
    else fputc(*at, out);
  PUT("}\\big|_{\\mathtt{%c} = %s}", var, of);
}

/* The argument of f, with its limits. */
static void latex_argument(const formula *f, char *buf, size_t n) {
  char s[256] = "s_{ij}", t[256];
  if (f->rounds) snprintf(s, sizeof s, "\\mathrm{bf16}(s_{ij})");
  if (f->caps) {
    const double c = f->cap;
    snprintf(t, sizeof t, "%s \\tanh\\left(%.100s / %s\\right)", LNUM(c), s, LNUM(c));
    snprintf(s, sizeof s, "%s", t);
  }
  if (f->clamps) {
    snprintf(t, sizeof t, "\\min\\left(%.180s, %s\\right)", s, LNUM(f->clamp));
    snprintf(s, sizeof s, "%s", t);
  }
  snprintf(buf, n, "%s", s);
}

static void latex_polynomial(FILE *out, const formula *f, const weight_fn *w, const char *s) {
  const weight_fn p = *w;
  if (source_plain_power(&p)) {
    if (p.order == 1) PUT("%s", s);
    else PUT("\\left(%s\\right)^{%d}", s, p.order);
    return;
  }
  if (f->coefficients == COEFF_factorial || p.learned) {
    PUT("\\sum_{n ");
    if (p.terms == p.order + 1) PUT("= 0}^{%d}", p.order);
    else {
      PUT("\\in \\{");
      for (int n = 0, k = 0; n <= p.order; n++)
        if (p.k[n] != 0) PUT("%s%d", k++ ? "," : "", n);
      PUT("\\}}");
    }
    PUT(" \\frac{%s}{n!} \\left(%s\\right)^n", p.learned ? "k_n" : "1", s);
    return;
  }
  for (int n = 0, k = 0; n <= p.order; n++) {
    const double c = p.factorial ? p.k[n] / tgamma(n + 1.0) : p.k[n];
    if (p.k[n] != 0) PUT("%s%s \\left(%s\\right)^{%d}", k++ ? " + " : "", LNUM(c), s, n);
  }
}

static void latex_weight(FILE *out, const formula *f, bool denominator) {
  const weight_fn *w = denominator ? &f->own : &f->w;
  char s[256];
  latex_argument(f, s, sizeof s);
  if (source_decays(f, denominator)) PUT("A_{ij} ");
  switch (w->by) {
  case BY_exp:
    PUT("\\exp\\left(%s\\right)", s);
    break;
  case BY_cosh:
    PUT("\\cosh\\left(%s\\right)", s);
    break;
  case BY_polynomial:
    latex_polynomial(out, f, w, s);
    break;
  case BY_expression:
    latex_expression(out, w->expr, 's', s);
  }
}

static void latex_power(FILE *out, const formula *f) {
  if (f->power_learned) PUT("^{\\sigma(m)}");
  else if (f->power != 1) PUT("^{%s}", LNUM(f->power));
}

static void latex_statistic(FILE *out, const formula *f, const char *w) {
  const alk_statistic *stat = &alk_statistics[f->weights];
  char inner[160], sum[200], text[280];
  attn_slot_text(inner, sizeof inner, alk_functions[stat->inner].latex, w, LNUM(stat->p), "");
  snprintf(sum, sizeof sum, "\\sum_j %s", inner);
  PUT("%s",
      attn_slot_text(text, sizeof text, alk_functions[stat->outer].latex, sum, LNUM(stat->q), ""));
}

static void latex_denominator(FILE *out, const formula *f) {
  const bool own = f->stat == STAT_weights && f->own_weights;
  const char *w = own ? "w'_{ij}" : "w_{ij}";
  const double floor = f->floor, eps = f->eps;
  const formula_count *count = formula_count_of(f);
  const bool stopped = f->gradient == GRADIENT_stopped;
  const bool plain = formula_whole_power(f);
  const bool grouped = !plain || f->times_length;
  PUT(",\\\\\nD_i &= ");
  if (floor > 0) PUT("\\max\\left(%s, ", LNUM(floor));
  else if (grouped) PUT("\\left(");
  if (stopped) PUT("\\mathrm{stop}\\left[");
  if (count) PUT("%s", count->latex);
  else latex_statistic(out, f, w);
  if (stopped) PUT("\\right]");
  switch (f->sink) {
  case SINK_none:
    break;
  case SINK_learned:
    PUT(" + e^{a}");
    break;
  case SINK_number:
    PUT(" + e^{%s}", LNUM(f->sink_at));
  }
  if (eps > 0) PUT(" + %s", LNUM(eps));
  if (floor > 0 || grouped) PUT("\\right)");
  latex_power(out, f);
  if (f->times_length) PUT(" n_i");
  if (!own) return;
  PUT(",\\\\\nw'_{ij} &= ");
  latex_weight(out, f, true);
}

static void latex_logit(FILE *out, const formula *f) {
  const bool plain = f->map == ALK_MAP_identity;
  char map[200];
  PUT(",\\\\\ns_{ij} &= ");
  const char *after = "";
  switch (f->scale) {
  case SCALE_rsqrt:
    after = " / \\sqrt{d}";
    break;
  case SCALE_learned:
    PUT("t \\, ");
    break;
  case SCALE_number:
    if (f->scale_by != 1) PUT("%s \\, ", LNUM(f->scale_by));
  }
  PUT(plain ? "q_i \\cdot k_j" : "\\phi(q_i) \\cdot \\phi(k_j)");
  PUT("%s", after);
  if (!plain) PUT(",\\\\\n\\phi(z) &= ");
  if (f->map == ALK_MAP_expr) latex_expression(out, f->map_expr, 'x', "z");
  else if (!plain)
    PUT("%s", attn_slot_text(map, sizeof map, alk_map_text(f->map).latex, "z", "", ""));
  const char *a = NULL;
  switch (f->decay) {
  case DECAY_none:
    return;
  case DECAY_constant:
    a = "\\log(1 - 2^{-5-h}), \\ h = 0, 1, \\dots";
    break;
  case DECAY_learned:
    a = "-\\log(1 + e^{p})";
    break;
  case DECAY_gated:
    a = "-\\log(1 + e^{x_r W_a})";
  }
  PUT(",\\\\\nA_{ij} &= \\exp\\Big(\\sum_{r=j+1}^{i} a_r\\Big), \\quad a_r = %s", a);
}

/* activation(x W + b) */
static void latex_activation(FILE *out, const formula_gate *g, const char *x) {
  char text[200];
  if (g->activation == ALK_GATE_expr) latex_expression(out, g->expr, 'x', x);
  else PUT("%s", attn_slot_text(text, sizeof text, alk_gate_text(g->activation)->latex, x, "", ""));
}

static void latex_gates(FILE *out, const formula *f) {
  const formula_gate *in = &f->input_gate, *g = &f->output_gate;
  char x[48];
  if (in->activation != ALK_GATE_none) {
    PUT(",\\\\\nb_j &= ");
    latex_activation(out, in, in->bias ? "x_j W_b + c_b" : "x_j W_b");
  }
  if (!formula_has_gate(f)) return;
  PUT(",\\\\\ng_i &= ");
  snprintf(x, sizeof x, "%s W_g%s", g->input == INPUT_x ? "x_i" : "\\log n_i",
           g->bias ? " + c_g" : "");
  if (g->constant) PUT("%s", LNUM(g->value));
  else latex_activation(out, g, x);
}

static void latex_norm(FILE *out, const formula *f) {
  if (f->norm == ALK_NORM_none) return;
  char text[160];
  PUT(",\\\\\n\\mathrm{Norm}(y) &= ");
  switch (f->gain) {
  case GAIN_auto:
  case GAIN_off:
    break;
  case GAIN_on:
  case GAIN_learned:
    PUT("\\gamma \\odot ");
    break;
  case GAIN_width:
    PUT("\\dim(y) \\, ");
    break;
  case GAIN_number:
    PUT("%s \\, ", LNUM(f->gain_by));
  }
  PUT("%s",
      attn_slot_text(text, sizeof text, alk_norms[f->norm].latex, "y", LNUM(f->norm_eps), ""));
  if (f->gain == GAIN_on && alk_norms[f->norm].mean) PUT(" + \\beta");
  if (f->scope == SCOPE_joint) PUT(" \\quad \\text{over all heads}");
}

void source_latex(FILE *out, const formula *f) {
  const bool norm = f->norm != ALK_NORM_none;
  const bool pre = formula_gate_at(f, PLACE_pre_norm), post = formula_gate_at(f, PLACE_post_norm);
  PUT("\\begin{aligned}\no_i &= %s%s%s", post ? "g_i \\odot " : "",
      norm ? "\\mathrm{Norm}\\Big(" : "", pre ? "g_i \\odot " : "");
  PUT(formula_divides_row(f) ? "\\frac{1}{D_i} " : "");
  PUT("\\sum_j w_{ij} \\, %sv_j", f->input_gate.activation != ALK_GATE_none ? "b_j \\odot " : "");
  if (f->side == SIDE_value) {
    PUT(" / n_j");
    latex_power(out, f);
  }
  if (norm) PUT("\\Big)");
  PUT(",\\\\\nw_{ij} &= ");
  latex_weight(out, f, false);
  latex_logit(out, f);
  if (formula_divides_row(f)) latex_denominator(out, f);
  latex_gates(out, f);
  latex_norm(out, f);
  PUT("\n\\end{aligned}\n%% sums over the keys j that row i sees; n_i: their number\n");
}
