/* source.c: kernel_attention written out from its options: the formula in LaTeX, and a PyTorch
 * function that computes it plainly. Only what is switched on is printed. The function is for
 * reading and comparing: it makes the (T,S) matrix and takes exp without a reference. Its output
 * and gradients are those of the family, at kinks and in rows without weight, too. */
#include "source.h"
#include "formula.h"
#include "variant.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define PUT(...) fprintf(f, __VA_ARGS__)
#define NAME_LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_."

/* The shortest text that reads back as v. */
static const char *number_text(double v, char buf[32]) {
  snprintf(buf, 32, "%.15g", v);
  if (strtod(buf, NULL) != v) snprintf(buf, 32, "%.17g", v);
  return buf;
}
#define NUM(v) number_text((v), (char[32]){0})

/* The same as LaTeX has it: 1e-12 is 10^{-12}. */
static const char *latex_number(double v, char buf[48]) {
  char text[32];
  number_text(v, text);
  char *e = strchr(text, 'e');
  if (!e) return strcpy(buf, text);
  *e = 0;
  const bool one = strcmp(text, "1") == 0;
  snprintf(buf, 48, "%s%s10^{%d}", one ? "" : text, one ? "" : " \\cdot ", atoi(e + 1));
  return buf;
}
#define LNUM(v) latex_number((v), (char[48]){0})

/* ---- polynomials ----------------------------------------------------------------------------- */

/* s^order alone */
static bool plain_power(const weight_fn *p) {
  return p->terms == 1 && p->k[p->order] == 1 && !p->learned && (!p->factorial || p->order < 2);
}

static bool all_ones(const weight_fn *p) {
  for (int n = 0; n <= p->order; n++)
    if (p->k[n] != 1) return false;
  return true;
}

/* ---- PyTorch --------------------------------------------------------------------------------- */

static bool learned(const al_opts *o, const char *key) { return is(o, key, "learned"); }
static bool has_row_denominator(const al_opts *o) {
  return on(o, "denominator") && is(o, "denominator.side", "row");
}
static bool reads_count(const al_opts *o) {
  return (has_row_denominator(o) &&
          (is(o, "denominator.stat", "length") || al_opt_bool(o, "denominator.times_length"))) ||
         is(o, "output_gate.input", "position");
}

/* l2, and rms and layer norm without an eps that would keep rows of zeros from 0 / 0 */
static bool norm_by_unit(const al_opts *o) {
  return on(o, "output_norm") && (is(o, "output_norm", "l2") || formula_norm_eps(o) == 0);
}

static void torch_head(FILE *f, const al_opts *o) {
  char text[2048];
  formula_text(o, text, sizeof text);
  for (char *at = text; *at; at++) /* an expression may have lines */
    if (*at == '\n') *at = ' ';
  PUT("import math\nimport torch\nimport torch.nn.functional as F\n\n\n%s"
      "def attention(q, k, v, x=None, p=None, causal=True, lengths=None):\n"
      "    # %s\n"
      "    # q (B,T,H,D), k (B,S,Hkv,D), v (B,S,Hkv,E), x (B,T,C); p: parameters by name\n",
      is(o, "feature_map", "l2") || norm_by_unit(o) ? attn_torch_unit() : "", text);
  PUT("    B, T, H, D = q.shape\n"
      "    S, Hkv, E = k.shape[1], k.shape[2], v.shape[3]\n"
      "    i, j = torch.arange(T)[:, None], torch.arange(S)\n"
      "    seen = (j <= i if causal else torch.ones(T, S, dtype=torch.bool)).expand(B, T, S)\n"
      "    if lengths is not None:\n"
      "        seen = seen & (j < lengths.view(B, 1, 1))\n");
  if (reads_count(o)) PUT("    n = seen.sum(-1).clamp(min=1).to(q.dtype)  # visible keys (B,T)\n");
}

static const char *torch_map(const al_opts *o) {
  return is(o, "feature_map", "relu")       ? "torch.relu(%s)"
         : is(o, "feature_map", "elu1")     ? "(F.elu(%s) + 1)"
         : is(o, "feature_map", "l2")       ? "unit(%s, 1e-12)"
         : is(o, "feature_map", "softplus") ? "(-F.logsigmoid(-%s))"
                                            : "%s";
}

static void torch_logits(FILE *f, const al_opts *o) {
  char q[64], k[64];
  snprintf(q, sizeof q, torch_map(o), "q");
  snprintf(k, sizeof k, torch_map(o), "k");
  PUT("    s = torch.einsum(\"bthd,bshd->bhts\", %s, %s.repeat_interleave(H // Hkv, 2))\n", q, k);
  if (learned(o, "logit_scale")) PUT("    s = p[\"logit_scale\"].view(H, 1, 1) * s\n");
  else if (is(o, "logit_scale", "rsqrt")) PUT("    s = s / math.sqrt(D)\n");
  else if (al_opt_num(o, "logit_scale") != 1)
    PUT("    s = %s * s\n", NUM(al_opt_num(o, "logit_scale")));
  if (is(o, "logit_round", "bf16"))
    PUT("    s = s + (s.to(torch.bfloat16).to(q.dtype) - s).detach()  # gradient straight "
        "through\n");
  if (number(o, "logit_softcap"))
    PUT("    s = %s * torch.tanh(s / %s)\n", NUM(al_opt_num(o, "logit_softcap")),
        NUM(al_opt_num(o, "logit_softcap")));
  if (number(o, "logit_clamp")) PUT("    s = s.clamp(max=%s)\n", NUM(al_opt_num(o, "logit_clamp")));
}

static void torch_decay(FILE *f, const al_opts *o) {
  if (!on(o, "decay")) return;
  const char *a = is(o, "decay", "gated")     ? "F.logsigmoid(-(x @ p[\"decay.weight\"].T))"
                  : is(o, "decay", "learned") ? "F.logsigmoid(-p[\"decay\"]).expand(B, S, Hkv)"
                                              : "torch.log1p(-2.0 ** (-5 - torch.arange(Hkv, "
                                                "dtype=q.dtype))).expand(B, S, Hkv)";
  PUT("    assert causal  # decay follows the order of the tokens\n"
      "    L = %s.cumsum(1).repeat_interleave(H // Hkv, 2).transpose(1, 2)  # (B,H,S)\n"
      "    last = (seen.sum(-1) - 1).clamp(min=0)[:, None].expand(B, H, T)\n"
      "    A = L.gather(2, last)[..., None] - L[:, :, None]  # back from the last key\n"
      "    A = torch.exp(A.masked_fill(~seen[:, None], 0))\n",
      a);
}

/* name = sum of k_n s^n / n! or k_n s^n, nested: k_0 + s/1 (k_1 + s/2 (k_2 + ..)) */
static void torch_polynomial(FILE *f, const al_opts *o, bool denominator, const char *name) {
  const weight_fn p = formula_weight(o, denominator);
  const char *by = p.factorial ? " / m" : "";
  if (plain_power(&p)) {
    if (p.order == 1) PUT("    %s = s\n", name);
    else PUT("    %s = s ** %d\n", name, p.order);
    return;
  }
  const bool ones = all_ones(&p);
  if (!ones || p.learned) {
    PUT("    k_ = ");
    if (p.learned) PUT("p[\"coefficients\"]");
    if (!ones && p.learned) PUT(" * q.new_tensor(");
    for (int n = 0; n <= p.order && !ones; n++) PUT("%s%s", n ? ", " : "[", NUM(p.k[n]));
    PUT("%s%s\n", ones ? "" : "]", !ones && p.learned ? ")" : "");
  }
  const bool plain = ones && !p.learned;
  PUT("    %s = ", name);
  if (plain) PUT("torch.ones_like(s)\n");
  else PUT("k_[%d] * torch.ones_like(s)\n", p.order);
  PUT("    for m in range(%d, 0, -1):  # sum of %ss^m%s\n        %s = %s + %s * s%s\n", p.order,
      plain ? "" : "k_m ", p.factorial ? " / m!" : "", name, plain ? "1" : "k_[m - 1]", name, by);
}

/* The expression's text as Python: ^ is **, and its own scalars get a prefix, since a name may be a
 * word of Python. */
static void torch_expression_text(FILE *f, const char *at) {
  while (*at) {
    const size_t n = strspn(at, NAME_LETTERS);
    if (n == 0) {
      if (*at == '^') PUT("**");
      else fputc(*at == '\n' || *at == '\t' ? ' ' : *at, f);
      at++;
      continue;
    }
    const bool digit = (*at >= '0' && *at <= '9') || *at == '.',
               call = at[n + strspn(at + n, " \t\n")] == '(';
    const bool ours = n == 1 && strchr("sij", *at), pi = n == 2 && strncmp(at, "pi", 2) == 0;
    PUT("%s%.*s", digit || call || ours ? "" : pi ? "math." : "p_", (int)n, at);
    at += n;
  }
}

/* Functions of an expression also take plain numbers. A hidden key is evaluated as the first one: a
 * value or slope that is not finite there would reach the scalars as 0 * inf. */
static void torch_expression(FILE *f, const al_opts *o, const char *name) {
  static const char *const functions[][2] = {{"exp", "torch.exp"},
                                             {"expm1", "torch.expm1"},
                                             {"log", "torch.log"},
                                             {"log1p", "torch.log1p"},
                                             {"sqrt", "torch.sqrt"},
                                             {"abs", "torch.abs"},
                                             {"relu", "torch.relu"},
                                             {"tanh", "torch.tanh"},
                                             {"sinh", "torch.sinh"},
                                             {"cosh", "torch.cosh"},
                                             {"sin", "torch.sin"},
                                             {"cos", "torch.cos"},
                                             {"erf", "torch.erf"},
                                             {"sigmoid", "torch.sigmoid"},
                                             {"softplus", "lambda t: -F.logsigmoid(-t)"},
                                             {"min", "lambda a, b: torch.where(a <= b, a, b)"},
                                             {"max", "lambda a, b: torch.where(a >= b, a, b)"}};
  char word[40];
  const char *names = al_opt_word(o, "expr_params"), *text = al_opt_word(o, "expr");
  PUT("    number = lambda g: lambda *a: g(*(torch.as_tensor(t, dtype=q.dtype) for t in a))\n");
  for (size_t k = 0; k < sizeof functions / sizeof *functions; k++)
    if (strstr(text, functions[k][0]))
      PUT("    %s = number(%s)\n", functions[k][0], functions[k][1]);
  for (int k = 0; formula_word(names, k, word, sizeof word); k++)
    PUT("    p_%s = p[\"expr.%s\"].view(H, 1, 1)\n", word, word);
  PUT("    weight = lambda s, i, j: ");
  torch_expression_text(f, text);
  PUT("\n    known = lambda t: torch.where(seen[:, None], t, t[..., :1])  # hidden keys: as the "
      "first\n"
      "    i_, j_ = (i + 1).to(q.dtype), (j + 1).to(q.dtype).expand(T, S)\n"
      "    %s = weight(known(s), i_, known(j_)) + torch.zeros_like(s)\n",
      name);
}

/* Masked weights `name` (B,H,T,S). */
static void torch_weights(FILE *f, const al_opts *o, bool denominator, const char *name) {
  const weight_fn w = formula_weight(o, denominator);
  if (strcmp(w.f, "polynomial") == 0) torch_polynomial(f, o, denominator, name);
  else if (strcmp(w.f, "expr") == 0) torch_expression(f, o, name);
  else PUT("    %s = torch.%s(s)\n", name, w.f);
  const bool decays = on(o, "decay") && !(denominator && is(o, "denominator.decay", "none"));
  if (decays) PUT("    %s = A * %s\n", name, name);
  PUT("    %s = %s.masked_fill(~seen[:, None], 0)\n", name, name);
}

static void torch_project(FILE *f, const al_opts *o, const char *name, const char *x) {
  char key[64];
  snprintf(key, sizeof key, "%s.bias", name);
  PUT("F.linear(%s, p[\"%s.weight\"]", x, name);
  if (!al_opts_has(o, key) || al_opt_bool(o, key)) PUT(", p[\"%s.bias\"]", name);
  PUT(")");
}

static void torch_power(FILE *f, const al_opts *o, const char *base) {
  if (learned(o, "denominator.power")) {
    PUT("%s ** torch.sigmoid(p[\"denominator.power\"])", base);
    return;
  }
  const double power = al_opt_num(o, "denominator.power");
  if (power == 1) PUT("%s", base);
  else PUT("%s ** %s", base, NUM(power));
}

static void torch_values(FILE *f, const al_opts *o) {
  const char *u = "v";
  if (on(o, "input_gate")) {
    PUT("    u = %s", is(o, "input_gate", "softplus") ? "-F.logsigmoid(-" : "torch.sigmoid(");
    torch_project(f, o, "input_gate", "x");
    PUT(").view(B, S, Hkv, -1) * v\n");
    u = "u";
  }
  if (is(o, "denominator.side", "value")) {
    PUT("    m = (j + 1 if causal else torch.full((S,), S)).expand(B, S)  # keys that key j sees\n"
        "    if lengths is not None:\n        m = torch.minimum(m, lengths.view(B, 1))\n"
        "    m = m.clamp(min=1).to(q.dtype)[..., None]\n    u = %s / (",
        u);
    torch_power(f, o, "m");
    PUT(")[..., None]\n");
    u = "u";
  }
  PUT("    y = torch.einsum(\"bhts,bshe->bthe\", w, %s.repeat_interleave(H // Hkv, 2))\n", u);
}

static void torch_statistic(FILE *f, const al_opts *o) {
  const char *w = "w";
  if (formula_reads_weights(o) && formula_own_weights(o)) {
    torch_weights(f, o, true, "wd");
    w = "wd";
  }
  if (is(o, "denominator.stat", "length")) {
    PUT("    W = n[..., None].expand(B, T, H)\n");
  } else if (is(o, "denominator.stat", "cumulative_gate")) {
    PUT("    e = torch.exp(");
    torch_project(f, o, "denominator", "x");
    PUT(")\n    W = torch.einsum(\"bts,bsh->bth\", seen.to(q.dtype), e).clamp(min=1)\n");
  } else {
    PUT("    W = %s%s.transpose(1, 2)  # (B,T,H)\n", w,
        is(o, "denominator.stat", "l2")    ? ".norm(dim=-1)"
        : is(o, "denominator.stat", "abs") ? ".abs().sum(-1)"
                                           : ".sum(-1)");
  }
  if (is(o, "denominator.gradient", "stopped")) PUT("    W = W.detach()\n");
}

/* Is the row's largest weight taken out of the denominator's sum? */
static bool has_reference(const al_opts *o) {
  const weight_fn w = formula_weight(o, true);
  char g[512];
  if (strcmp(w.f, "expr") == 0) return formula_exponent(o, g, sizeof g);
  return strcmp(w.f, "polynomial") != 0;
}

static void torch_denominator(FILE *f, const al_opts *o) {
  if (!has_row_denominator(o)) return;
  torch_statistic(f, o);
  if (learned(o, "denominator.sink")) PUT("    W = W + torch.exp(p[\"denominator.sink\"])\n");
  else if (number(o, "denominator.sink"))
    PUT("    W = W + math.exp(%s)\n", NUM(al_opt_num(o, "denominator.sink")));
  if (al_opt_num(o, "denominator.eps") > 0)
    PUT("    W = W + %s\n", NUM(al_opt_num(o, "denominator.eps")));
  if (al_opt_num(o, "denominator.floor") > 0)
    PUT("    W = W.clamp(min=%s)\n", NUM(al_opt_num(o, "denominator.floor")));
  const bool whole = number(o, "denominator.power") && al_opt_num(o, "denominator.power") == 1;
  if (formula_reads_weights(o)) {
    /* with a reference W is relative to the row's largest weight: only a row without a key has
     * none */
    PUT("    live = W%s  # other rows give 0\n    W = torch.where(live, W, 1)\n    r = live / ",
        has_reference(o) ? " > 0"
        : whole          ? ".abs() >= 1.17549435e-38"
                         : " >= 1.17549435e-38");
  } else { /* at least 1 */
    PUT("    r = 1 / ");
  }
  PUT(whole ? "" : "(");
  torch_power(f, o, "W");
  PUT("%s%s\n    y = r[..., None] * y\n", whole ? "" : ")",
      al_opt_bool(o, "denominator.times_length") ? " / n[..., None]" : "");
}

static void torch_gate(FILE *f, const al_opts *o, const char *place) {
  if (!on(o, "output_gate") || is(o, "output_gate.place", place)) return;
  PUT("    y = g * y\n");
}

static void torch_norm(FILE *f, const al_opts *o) {
  if (!on(o, "output_norm")) return;
  const bool joint = is(o, "output_norm.scope", "joint"), gain = formula_channel_gain(o);
  const double eps = formula_norm_eps(o);
  if (joint) PUT("    y = y.flatten(2)\n");
  if (is(o, "output_norm", "layer")) PUT("    y = y - y.mean(-1, keepdim=True)\n");
  if (norm_by_unit(o)) {
    PUT("    y = unit(y, %s)%s\n", NUM(eps),
        is(o, "output_norm", "l2") ? "" : " * math.sqrt(y.shape[-1])");
  } else {
    PUT("    y = y / torch.sqrt(y.square().mean(-1, keepdim=True) + %s)\n", NUM(eps));
  }
  if (gain) PUT("    y = y * p[\"output_norm.gain\"]\n");
  if (gain && is(o, "output_norm", "layer")) PUT("    y = y + p[\"output_norm.bias\"]\n");
  if (is(o, "output_norm.gain", "width")) PUT("    y = y * y.shape[-1]\n");
  if (number(o, "output_norm.gain"))
    PUT("    y = y * %s\n", NUM(al_opt_num(o, "output_norm.gain")));
  if (joint) PUT("    y = y.view(B, T, H, E)\n");
  if (learned(o, "output_norm.gain")) PUT("    y = y * p[\"output_norm.gain\"].view(H, 1)\n");
}

static void torch_output_gate(FILE *f, const al_opts *o) {
  if (!on(o, "output_gate")) return;
  if (!formula_learned_gate(o)) {
    PUT("    g = %s\n", NUM(al_opt_num(o, "output_gate")));
    return;
  }
  const char *act = al_opt_word(o, "output_gate.activation");
  PUT("    g = %s.%s(", strcmp(act, "silu") == 0 ? "F" : "torch", act);
  torch_project(f, o, "output_gate",
                is(o, "output_gate.input", "x") ? "x" : "torch.log(n)[..., None]");
  PUT(").view(B, T, H, -1)\n");
}

static void torch(FILE *f, const al_opts *o) {
  torch_head(f, o);
  torch_logits(f, o);
  torch_decay(f, o);
  torch_weights(f, o, false, "w");
  torch_values(f, o);
  torch_denominator(f, o);
  torch_output_gate(f, o);
  torch_gate(f, o, "post_norm");
  torch_norm(f, o);
  torch_gate(f, o, "pre_norm");
  PUT("    return y\n");
}

/* ---- LaTeX ----------------------------------------------------------------------------------- */

/* The argument of f, with its limits. */
static void latex_argument(const al_opts *o, char *buf, size_t n) {
  char s[256] = "s_{ij}", t[256];
  if (is(o, "logit_round", "bf16")) snprintf(s, sizeof s, "\\mathrm{bf16}(s_{ij})");
  if (number(o, "logit_softcap")) {
    const double c = al_opt_num(o, "logit_softcap");
    snprintf(t, sizeof t, "%s \\tanh\\left(%.100s / %s\\right)", LNUM(c), s, LNUM(c));
    snprintf(s, sizeof s, "%s", t);
  }
  if (number(o, "logit_clamp")) {
    snprintf(t, sizeof t, "\\min\\left(%.180s, %s\\right)", s, LNUM(al_opt_num(o, "logit_clamp")));
    snprintf(s, sizeof s, "%s", t);
  }
  snprintf(buf, n, "%s", s);
}

static void latex_polynomial(FILE *f, const al_opts *o, bool denominator, const char *s) {
  const weight_fn p = formula_weight(o, denominator);
  if (plain_power(&p)) {
    if (p.order == 1) PUT("%s", s);
    else PUT("\\left(%s\\right)^{%d}", s, p.order);
    return;
  }
  if (is(o, "coefficients", "factorial") || p.learned) {
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

static void latex_weight(FILE *f, const al_opts *o, bool denominator) {
  const weight_fn w = formula_weight(o, denominator);
  char s[256];
  latex_argument(o, s, sizeof s);
  if (on(o, "decay") && !(denominator && is(o, "denominator.decay", "none"))) PUT("A_{ij} ");
  if (strcmp(w.f, "polynomial") == 0) {
    latex_polynomial(f, o, denominator, s);
  } else if (strcmp(w.f, "expr") == 0) {
    PUT("\\mathtt{");
    for (const char *at = al_opt_word(o, "expr"); *at; at++)
      if (*at == '^') PUT("\\hat{\\ }");
      else if (*at == '_') PUT("\\_");
      else if (*at == '\n' || *at == '\t' || *at == ' ') PUT("\\ ");
      else fputc(*at, f);
    PUT("}\\big|_{\\mathtt{s} = %s}", s);
  } else {
    PUT("\\%s\\left(%s\\right)", w.f, s);
  }
}

static void latex_power(FILE *f, const al_opts *o) {
  if (learned(o, "denominator.power")) PUT("^{\\sigma(m)}");
  else if (al_opt_num(o, "denominator.power") != 1)
    PUT("^{%s}", LNUM(al_opt_num(o, "denominator.power")));
}

static void latex_denominator(FILE *f, const al_opts *o) {
  const bool own = formula_reads_weights(o) && formula_own_weights(o);
  const char *w = own ? "w'_{ij}" : "w_{ij}";
  const double floor = al_opt_num(o, "denominator.floor"), eps = al_opt_num(o, "denominator.eps");
  const bool stopped = is(o, "denominator.gradient", "stopped");
  const bool plain = number(o, "denominator.power") && al_opt_num(o, "denominator.power") == 1;
  const bool grouped = !plain || al_opt_bool(o, "denominator.times_length");
  PUT(",\\\\\nD_i &= ");
  if (floor > 0) PUT("\\max\\left(%s, ", LNUM(floor));
  else if (grouped) PUT("\\left(");
  if (stopped) PUT("\\mathrm{stop}\\left[");
  if (is(o, "denominator.stat", "length")) PUT("n_i");
  else if (is(o, "denominator.stat", "abs")) PUT("\\sum_j \\left|%s\\right|", w);
  else if (is(o, "denominator.stat", "l2")) PUT("\\sqrt{\\sum_j %s^2}", w);
  else if (is(o, "denominator.stat", "cumulative_gate"))
    PUT("\\max\\left(1, \\sum_j e^{x_j W_p + b_p}\\right)");
  else PUT("\\sum_j %s", w);
  if (stopped) PUT("\\right]");
  if (learned(o, "denominator.sink")) PUT(" + e^{a}");
  else if (number(o, "denominator.sink")) PUT(" + e^{%s}", LNUM(al_opt_num(o, "denominator.sink")));
  if (eps > 0) PUT(" + %s", LNUM(eps));
  if (floor > 0 || grouped) PUT("\\right)");
  latex_power(f, o);
  if (al_opt_bool(o, "denominator.times_length")) PUT(" n_i");
  if (!own) return;
  PUT(",\\\\\nw'_{ij} &= ");
  latex_weight(f, o, true);
}

static void latex_logit(FILE *f, const al_opts *o) {
  static const char *const maps[][2] = {{"relu", "\\max(z, 0)"},
                                        {"elu1", "z + 1 \\text{ if } z > 0, \\text{ else } e^z"},
                                        {"l2", "z / \\lVert z \\rVert"},
                                        {"softplus", "\\log(1 + e^z)"}};
  const bool plain = is(o, "feature_map", "identity");
  PUT(",\\\\\ns_{ij} &= ");
  if (learned(o, "logit_scale")) PUT("t \\, ");
  else if (number(o, "logit_scale") && al_opt_num(o, "logit_scale") != 1)
    PUT("%s \\, ", LNUM(al_opt_num(o, "logit_scale")));
  PUT(plain ? "q_i \\cdot k_j" : "\\phi(q_i) \\cdot \\phi(k_j)");
  if (is(o, "logit_scale", "rsqrt")) PUT(" / \\sqrt{d}");
  for (size_t i = 0; i < sizeof maps / sizeof *maps; i++)
    if (is(o, "feature_map", maps[i][0])) PUT(",\\\\\n\\phi(z) &= %s", maps[i][1]);
  if (!on(o, "decay")) return;
  PUT(",\\\\\nA_{ij} &= \\exp\\Big(\\sum_{r=j+1}^{i} a_r\\Big), \\quad a_r = %s",
      is(o, "decay", "gated")     ? "-\\log(1 + e^{x_r W_a})"
      : is(o, "decay", "learned") ? "-\\log(1 + e^{p})"
                                  : "\\log(1 - 2^{-5-h}), \\ h = 0, 1, \\dots");
}

static const char *latex_activation(const char *word) {
  return strcmp(word, "sigmoid") == 0 ? "\\sigma"
         : strcmp(word, "silu") == 0  ? "\\mathrm{silu}"
                                      : "\\mathrm{softplus}";
}

static void latex_gates(FILE *f, const al_opts *o) {
  if (on(o, "input_gate"))
    PUT(",\\\\\nb_j &= %s(x_j W_b%s)", latex_activation(al_opt_word(o, "input_gate.activation")),
        al_opt_bool(o, "input_gate.bias") ? " + c_b" : "");
  if (!on(o, "output_gate")) return;
  if (!formula_learned_gate(o)) PUT(",\\\\\ng_i &= %s", LNUM(al_opt_num(o, "output_gate")));
  else
    PUT(",\\\\\ng_i &= %s(%s W_g%s)", latex_activation(al_opt_word(o, "output_gate.activation")),
        is(o, "output_gate.input", "x") ? "x_i" : "\\log n_i",
        al_opt_bool(o, "output_gate.bias") ? " + c_g" : "");
}

static void latex_norm(FILE *f, const al_opts *o) {
  if (!on(o, "output_norm")) return;
  const double eps = formula_norm_eps(o);
  PUT(",\\\\\n\\mathrm{Norm}(y) &= ");
  if (formula_channel_gain(o) || learned(o, "output_norm.gain")) PUT("\\gamma \\odot ");
  if (is(o, "output_norm.gain", "width")) PUT("\\dim(y) \\, ");
  if (number(o, "output_norm.gain")) PUT("%s \\, ", LNUM(al_opt_num(o, "output_norm.gain")));
  if (is(o, "output_norm", "l2")) PUT("y / \\max(\\lVert y \\rVert, %s)", LNUM(eps));
  else if (is(o, "output_norm", "rms")) PUT("y / \\sqrt{\\mathrm{mean}(y^2) + %s}", LNUM(eps));
  else PUT("(y - \\mathrm{mean}(y)) / \\sqrt{\\mathrm{var}(y) + %s}", LNUM(eps));
  if (formula_channel_gain(o) && is(o, "output_norm", "layer")) PUT(" + \\beta");
  if (is(o, "output_norm.scope", "joint")) PUT(" \\quad \\text{over all heads}");
}

static void latex(FILE *f, const al_opts *o) {
  const bool gate = on(o, "output_gate"), norm = on(o, "output_norm");
  const bool pre = gate && !is(o, "output_gate.place", "post_norm"),
             post = gate && !is(o, "output_gate.place", "pre_norm");
  PUT("\\begin{aligned}\no_i &= %s%s%s", post ? "g_i \\odot " : "",
      norm ? "\\mathrm{Norm}\\Big(" : "", pre ? "g_i \\odot " : "");
  PUT(has_row_denominator(o) ? "\\frac{1}{D_i} " : "");
  PUT("\\sum_j w_{ij} \\, %sv_j", on(o, "input_gate") ? "b_j \\odot " : "");
  if (is(o, "denominator.side", "value")) {
    PUT(" / n_j");
    latex_power(f, o);
  }
  if (norm) PUT("\\Big)");
  PUT(",\\\\\nw_{ij} &= ");
  latex_weight(f, o, false);
  latex_logit(f, o);
  if (has_row_denominator(o)) latex_denominator(f, o);
  latex_gates(f, o);
  latex_norm(f, o);
  PUT("\n\\end{aligned}\n%% sums over the keys j that row i sees; n_i: their number\n");
}

bool formula_source(const al_opts *o, const attn_sizes *s, const char *kind, char *buf, size_t n) {
  (void)s;
  FILE *f = n > 0 ? fmemopen(buf, n, "w") : NULL;
  if (!f) return false;
  if (strcmp(kind, "torch") == 0) torch(f, o);
  else latex(f, o);
  const bool fits = fflush(f) == 0 && ftell(f) < (long)n;
  return fclose(f) == 0 && fits;
}
