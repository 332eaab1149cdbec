/* source_torch.c: kernel_attention as a PyTorch function that computes it plainly. It is for reading and
 * comparing: it makes the (T,S) matrix and takes exp without a reference. Its output and gradients are
 * those of the family, at kinks and in rows without weight, too. */
#include "source.h"
#include "variant.h"

#define NAME_LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_."
#define NUM(v) source_number((v), (char[32]){0})

static bool all_ones(const weight_fn *p) {
  for (int n = 0; n <= p->order; n++)
    if (p->k[n] != 1) return false;
  return true;
}

static bool reads_count(const formula *f) {
  const formula_count *count = formula_count_of(f);
  return (formula_divides_row(f) && ((count && count->reads_n) || f->times_length)) ||
         (formula_learned_gate(f) && f->output_gate.input == INPUT_position);
}

/* ---- expressions ----------------------------------------------------------------------------- */

/* The expression's text as Python: ^ is **, and its own scalars get a prefix, since a name may be a
 * word of Python. vars: the letters that stand for themselves. */
static void torch_expression_text(FILE *out, const char *at, const char *vars) {
  while (*at) {
    const size_t n = strspn(at, NAME_LETTERS);
    if (n == 0) {
      if (*at == '^') PUT("**");
      else fputc(*at == '\n' || *at == '\t' ? ' ' : *at, out);
      at++;
      continue;
    }
    const bool digit = (*at >= '0' && *at <= '9') || *at == '.',
               call = at[n + strspn(at + n, " \t\n")] == '(';
    const bool ours = n == 1 && strchr(vars, *at), pi = n == 2 && strncmp(at, "pi", 2) == 0;
    PUT("%s%.*s", digit || call || ours ? "" : pi ? "math." : "p_", (int)n, at);
    at += n;
  }
}

/* Those of one operand that an expression can call are entries of pointwise.def. */
#define PROGRAM_1_1(name) [ALK_PW_##name] = true,
#define PROGRAM_1_0(name)
#define PROGRAM_2_1(name)
#define PROGRAM_2_0(name)
#define PROGRAM_3_0(name)
#define PROGRAM(name, operands, callable, ...) PROGRAM_##operands##_##callable(name)
static const bool callable[ALK_PW_COUNT] = {
#include "../kernels/program.def"
};
#undef PROGRAM

/* Where both are the smaller or the larger the slope is that of the first. */
static const char *const of_two[][2] = {{"min", "lambda a, b: torch.where(a <= b, a, b)"},
                                        {"max", "lambda a, b: torch.where(a >= b, a, b)"}};

/* Functions that any expression of the options calls; they also take plain numbers. */
static void torch_functions(FILE *out, const formula *f) {
  char all[5 * 520], call[128]; /* texts of options have at most 511 characters */
  snprintf(all, sizeof all, "%s %s %s %s %s", f->w.expr, f->own.expr, f->map_expr,
           f->input_gate.expr, f->output_gate.expr);
  if (strspn(all, " ") == strlen(all)) return;
  PUT("    number = lambda g: lambda *a: g(*(torch.as_tensor(t, dtype=q.dtype) for t in a))\n");
  for (int k = 0; k < ALK_PW_COUNT; k++)
    if (callable[k] && strstr(all, alk_functions[k].word))
      PUT("    %s = number(lambda t: %s)\n", alk_functions[k].word,
          attn_slot_text(call, sizeof call, alk_functions[k].torch, "t", "", ""));
  for (int k = 0; k < 2; k++)
    if (strstr(all, of_two[k][0])) PUT("    %s = number(%s)\n", of_two[k][0], of_two[k][1]);
}

/* name = lambda x: the function of x, of the shape of x */
static void torch_function_of_x(FILE *out, const char *name, const char *text) {
  PUT("    %s = lambda x: ", name);
  torch_expression_text(out, text, "x");
  PUT(" + torch.zeros_like(x)\n");
}

/* ---- parts ----------------------------------------------------------------------------------- */

static void torch_head(FILE *out, const al_opts *o, const formula *f) {
  char text[4096];
  formula_text(o, text, sizeof text);
  for (char *at = text; *at; at++) /* an expression may have lines */
    if (*at == '\n') *at = ' ';
  const char *norm = f->norm == ALK_NORM_none ? "" : alk_norms[f->norm].torch;
  PUT("import math\nimport torch\nimport torch.nn.functional as F\n\n\n%s",
      f->map == ALK_MAP_l2 || strstr(norm, "unit(") ? attn_torch_unit() : "");
  if (*norm)
    PUT("def norm(y, eps):  # %s; rows of zeros stay 0\n%s\n\n", alk_norms[f->norm].word, norm);
  PUT("def attention(q, k, v, x=None, p=None, causal=True, lengths=None):\n"
      "    # %s\n"
      "    # q (B,T,H,D), k (B,S,Hkv,D), v (B,S,Hkv,E), x (B,T,C); p: parameters by name\n",
      text);
  PUT("    B, T, H, D = q.shape\n"
      "    S, Hkv, E = k.shape[1], k.shape[2], v.shape[3]\n"
      "    i, j = torch.arange(T)[:, None], torch.arange(S)\n"
      "    seen = (j <= i if causal else torch.ones(T, S, dtype=torch.bool)).expand(B, T, S)\n"
      "    if lengths is not None:\n"
      "        seen = seen & (j < lengths.view(B, 1, 1))\n");
  if (reads_count(f)) PUT("    n = seen.sum(-1).clamp(min=1).to(q.dtype)  # visible keys (B,T)\n");
  torch_functions(out, f);
}

static void torch_logits(FILE *out, const formula *f) {
  char q[96] = "phi(q)", k[96] = "phi(k)";
  if (f->map == ALK_MAP_expr) {
    torch_function_of_x(out, "phi", f->map_expr);
  } else {
    attn_slot_text(q, sizeof q, alk_map_text(f->map).torch, "q", "", "");
    attn_slot_text(k, sizeof k, alk_map_text(f->map).torch, "k", "", "");
  }
  PUT("    s = torch.einsum(\"bthd,bshd->bhts\", %s, %s.repeat_interleave(H // Hkv, 2))\n", q, k);
  switch (f->scale) {
  case SCALE_learned:
    PUT("    s = p[\"logit_scale\"].view(H, 1, 1) * s\n");
    break;
  case SCALE_rsqrt:
    PUT("    s = s / math.sqrt(D)\n");
    break;
  case SCALE_number:
    if (f->scale_by != 1) PUT("    s = %s * s\n", NUM(f->scale_by));
  }
  if (f->rounds)
    PUT("    s = s + (s.to(torch.bfloat16).to(q.dtype) - s).detach()  # gradient straight "
        "through\n");
  if (f->caps) PUT("    s = %s * torch.tanh(s / %s)\n", NUM(f->cap), NUM(f->cap));
  if (f->clamps)
    PUT("    s = torch.where(s > %s, %s, s)  # at the limit the gradient passes\n", NUM(f->clamp),
        NUM(f->clamp));
}

static void torch_decay(FILE *out, const formula *f) {
  const char *a = NULL;
  switch (f->decay) {
  case DECAY_none:
    return;
  case DECAY_gated:
    a = "F.logsigmoid(-(x @ p[\"decay.weight\"].T))";
    break;
  case DECAY_learned:
    a = "F.logsigmoid(-p[\"decay\"]).expand(B, S, Hkv)";
    break;
  case DECAY_constant:
    a = "torch.log1p(-2.0 ** (-5 - torch.arange(Hkv, dtype=q.dtype))).expand(B, S, Hkv)";
  }
  PUT("    assert causal  # decay follows the order of the tokens\n"
      "    L = %s.cumsum(1).repeat_interleave(H // Hkv, 2).transpose(1, 2)  # (B,H,S)\n"
      "    last = (seen.sum(-1) - 1).clamp(min=0)[:, None].expand(B, H, T)\n"
      "    A = L.gather(2, last)[..., None] - L[:, :, None]  # back from the last key\n"
      "    A = torch.exp(A.masked_fill(~seen[:, None], 0))\n",
      a);
}

/* name = sum of k_n s^n / n! or k_n s^n, nested: k_0 + s/1 (k_1 + s/2 (k_2 + ..)) */
static void torch_polynomial(FILE *out, const weight_fn *w, const char *name) {
  const weight_fn p = *w;
  const char *by = p.factorial ? " / m" : "";
  if (source_plain_power(&p)) {
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

/* A hidden key is evaluated as the first one: a value or slope that is not finite there would reach the
 * scalars as 0 * inf. */
static void torch_expression(FILE *out, const weight_fn *w, const char *name) {
  char word[40];
  for (int k = 0; formula_word(w->names, k, word, sizeof word); k++)
    PUT("    p_%s = p[\"expr.%s\"].view(H, 1, 1)\n", word, word);
  PUT("    weight = lambda s, i, j: ");
  torch_expression_text(out, w->expr, "sij");
  PUT("\n    known = lambda t: torch.where(seen[:, None], t, t[..., :1])  # hidden keys: as the "
      "first\n"
      "    i_, j_ = (i + 1).to(q.dtype), (j + 1).to(q.dtype).expand(T, S)\n"
      "    %s = weight(known(s), i_, known(j_)) + torch.zeros_like(s)\n",
      name);
}

/* Masked weights `name` (B,H,T,S). */
static void torch_weights(FILE *out, const formula *f, bool denominator, const char *name) {
  const weight_fn *w = denominator ? &f->own : &f->w;
  switch (w->by) {
  case BY_exp:
    PUT("    %s = torch.exp(s)\n", name);
    break;
  case BY_cosh:
    PUT("    %s = torch.cosh(s)\n", name);
    break;
  case BY_polynomial:
    torch_polynomial(out, w, name);
    break;
  case BY_expression:
    torch_expression(out, w, name);
  }
  const bool decays = source_decays(f, denominator);
  if (decays) PUT("    %s = A * %s\n", name, name);
  PUT("    %s = %s.masked_fill(~seen[:, None], 0)\n", name, name);
}

/* x W + b */
static const char *torch_project(const char *name, const char *x, bool bias, char buf[160]) {
  const size_t at = (size_t)snprintf(buf, 160, "F.linear(%s, p[\"%s.weight\"]", x, name);
  if (bias) snprintf(buf + at, 160 - at, ", p[\"%s.bias\"])", name);
  else snprintf(buf + at, 160 - at, ")");
  return buf;
}

/* target = activation(x W + b) of a learned gate, a factor for (B,rows,H,E) */
static void torch_activation(FILE *out, const formula_gate *g, const char *name, const char *x,
                             const char *target, const char *shape) {
  char call[400];
  const char *linear = torch_project(name, x, g->bias, (char[160]){0});
  if (g->activation == ALK_GATE_expr) {
    torch_function_of_x(out, name, g->expr);
    snprintf(call, sizeof call, "%s(%s)", name, linear);
  } else {
    attn_slot_text(call, sizeof call, alk_gate_text(g->activation)->torch, linear, "", "");
  }
  PUT("    %s = %s.view(%s, -1)\n", target, call, shape);
}

static void torch_power(FILE *out, const formula *f, const char *base) {
  if (f->power_learned) {
    PUT("%s ** torch.sigmoid(p[\"denominator.power\"])", base);
    return;
  }
  const double power = f->power;
  if (power == 1) PUT("%s", base);
  else PUT("%s ** %s", base, NUM(power));
}

static void torch_values(FILE *out, const formula *f) {
  const char *u = "v";
  if (f->input_gate.activation != ALK_GATE_none) {
    torch_activation(out, &f->input_gate, "input_gate", "x", "u", "B, S, Hkv");
    PUT("    u = u * v\n");
    u = "u";
  }
  if (f->side == SIDE_value) {
    PUT("    m = (j + 1 if causal else torch.full((S,), S)).expand(B, S)  # keys that key j sees\n"
        "    if lengths is not None:\n        m = torch.minimum(m, lengths.view(B, 1))\n"
        "    m = m.clamp(min=1).to(q.dtype)[..., None]\n    u = %s / (",
        u);
    torch_power(out, f, "m");
    PUT(")[..., None]\n");
    u = "u";
  }
  PUT("    y = torch.einsum(\"bhts,bshe->bthe\", w, %s.repeat_interleave(H // Hkv, 2))\n", u);
}

static void torch_weights_statistic(FILE *out, const formula *f) {
  const alk_statistic *stat = &alk_statistics[f->weights];
  char text[128], p[32], q[32];
  source_number(stat->p, p);
  source_number(stat->q, q);
  if (f->own_weights) torch_weights(out, f, true, "wd");
  attn_slot_text(text, sizeof text, alk_functions[stat->inner].torch, f->own_weights ? "wd" : "w",
                 p, "");
  PUT("    W = %s.sum(-1).transpose(1, 2)  # (B,T,H)\n", text);
  if (stat->outer == ALK_PW_identity) return;
  attn_slot_text(text, sizeof text, alk_functions[stat->outer].torch, "torch.where(W > 0, W, 1)", q,
                 "");
  PUT("    W = torch.where(W > 0, %s, 0)\n", text);
}

static void torch_statistic(FILE *out, const formula *f) {
  const formula_count *count = formula_count_of(f);
  if (count) PUT("%s", count->torch);
  else torch_weights_statistic(out, f);
  if (f->gradient == GRADIENT_stopped) PUT("    W = W.detach()\n");
}

/* Is the row's largest weight taken out of the denominator's sum? */
static bool has_reference(const formula *f) {
  char g[512];
  switch (f->own.by) {
  case BY_exp:
  case BY_cosh:
    return true;
  case BY_expression:
    return formula_exponent(&f->own, g, sizeof g);
  case BY_polynomial:
    break;
  }
  return false;
}

static void torch_denominator(FILE *out, const formula *f) {
  if (!formula_divides_row(f)) return;
  torch_statistic(out, f);
  switch (f->sink) {
  case SINK_none:
    break;
  case SINK_learned:
    PUT("    W = W + torch.exp(p[\"denominator.sink\"])\n");
    break;
  case SINK_number:
    PUT("    W = W + math.exp(%s)\n", NUM(f->sink_at));
  }
  if (f->eps > 0) PUT("    W = W + %s\n", NUM(f->eps));
  if (f->floor > 0) PUT("    W = torch.where(W < %s, %s, W)\n", NUM(f->floor), NUM(f->floor));
  const bool whole = formula_whole_power(f);
  if (f->stat == STAT_weights) {
    /* with a reference W is relative to the row's largest weight: only a row without a key has
     * none */
    PUT("    live = W%s  # other rows give 0\n    W = torch.where(live, W, 1)\n    r = live / ",
        has_reference(f) ? " > 0"
        : whole          ? ".abs() >= 1.17549435e-38"
                         : " >= 1.17549435e-38");
  } else { /* at least 1 */
    PUT("    r = 1 / ");
  }
  PUT(whole ? "" : "(");
  torch_power(out, f, "W");
  PUT("%s%s\n    y = r[..., None] * y\n", whole ? "" : ")",
      f->times_length ? " / n[..., None]" : "");
}

static void torch_gate(FILE *out, const formula *f, formula_place place) {
  if (formula_gate_at(f, place)) PUT("    y = g * y\n");
}

static void torch_norm(FILE *out, const formula *f) {
  if (f->norm == ALK_NORM_none) return;
  const bool joint = f->scope == SCOPE_joint;
  if (joint) PUT("    y = y.flatten(2)\n");
  PUT("    y = norm(y, %s)\n", NUM(f->norm_eps));
  const char *by_head = "";
  switch (f->gain) {
  case GAIN_auto:
  case GAIN_off:
    break;
  case GAIN_on:
    PUT("    y = y * p[\"output_norm.gain\"]\n");
    if (alk_norms[f->norm].mean) PUT("    y = y + p[\"output_norm.bias\"]\n");
    break;
  case GAIN_width:
    PUT("    y = y * y.shape[-1]\n");
    break;
  case GAIN_number:
    PUT("    y = y * %s\n", NUM(f->gain_by));
    break;
  case GAIN_learned:
    by_head = "    y = y * p[\"output_norm.gain\"].view(H, 1)\n";
  }
  if (joint) PUT("    y = y.view(B, T, H, E)\n");
  PUT("%s", by_head);
}

static void torch_output_gate(FILE *out, const formula *f) {
  if (!formula_has_gate(f)) return;
  if (f->output_gate.constant) {
    PUT("    g = %s\n", NUM(f->output_gate.value));
    return;
  }
  torch_activation(out, &f->output_gate, "output_gate",
                   f->output_gate.input == INPUT_x ? "x" : "torch.log(n)[..., None]", "g",
                   "B, T, H");
}

void source_torch(FILE *out, const al_opts *o) {
  formula room;
  const formula *f = formula_of(o, &room);
  torch_head(out, o, f);
  torch_logits(out, f);
  torch_decay(out, f);
  torch_weights(out, f, false, "w");
  torch_values(out, f);
  torch_denominator(out, f);
  torch_output_gate(out, f);
  torch_gate(out, f, PLACE_pre_norm);
  torch_norm(out, f);
  torch_gate(out, f, PLACE_post_norm);
  PUT("    return y\n");
}
