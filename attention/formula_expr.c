/* formula_expr.c: what users write themselves: weights by an expression of the logit, its scalars one
 * number a head; feature maps and activations of gates as functions of x. Where a weight's expression is
 * exp(g) at its root, f is exp and g runs before it, so that the row's maximum stays outside as for exp;
 * else f is the identity and the whole expression runs. */
#include "formula.h"
#include <ctype.h>
#include <stdio.h>

static const char *const family = "kernel_attention";

/* Parsed before, so it cannot fail but for memory. */
bool formula_expr_positive(const char *text, const char *names) {
  al_expr *e = al_expr_new(NULL, family, text, names);
  const bool yes = e && al_expr_positive(e);
  al_expr_free(e);
  return yes;
}

bool formula_exponent(const weight_fn *w, char *g, size_t n) {
  al_expr *e = al_expr_new(NULL, family, w->expr, w->names);
  const bool yes = e && al_expr_exponent(e, g, n);
  al_expr_free(e);
  return yes;
}

/* Does the name stand in the text? */
static bool reads(const char *text, char name) {
  for (const char *at = text; *at; at++) {
    if (!isalpha((unsigned char)*at)) continue;
    const char *from = at;
    while (isalnum((unsigned char)*at) || *at == '_') at++;
    if (at - from == 1 && *from == name) return true;
    if (!*at) break;
  }
  return false;
}

bool formula_expr_reads_row(const formula *f) { return reads(f->w.expr, 'i'); }

void formula_of_x(const char *text, char *buf, size_t n) {
  snprintf(buf, n, "%s", text);
  for (char *at = buf; *at; at++) {
    if (!isalpha((unsigned char)*at)) continue;
    char *from = at;
    while (isalnum((unsigned char)*at) || *at == '_') at++;
    if (at - from == 1 && *from == 'x') *from = 's';
    if (!*at) break;
  }
}

/* The k-th of the words separated by spaces; false past the end. */
bool formula_word(const char *words, int k, char *word, size_t n) {
  for (; *words; words += strcspn(words, " "), words += strspn(words, " "))
    if (k-- == 0) {
      snprintf(word, n, "%.*s", (int)strcspn(words, " "), words);
      return true;
    }
  return false;
}

/* ---- checks ---------------------------------------------------------------------------------- */

/* `key`, a function of x, is given where and only where `on` says so. */
static al_status check_function(al_ctx *c, const char *key, const char *text, bool on,
                                const char *slot, const char *example) {
  if (!on && !*text) return AL_OK;
  if (!on) return al_fail(c, AL_EVALUE, "%s: option '%s' belongs to %s", family, key, slot);
  if (!*text)
    return al_fail(c, AL_EVALUE,
                   "%s: option '%s': a function of x expected with %s, such as %s='%s'", family,
                   key, slot, key, example);
  char title[80];
  snprintf(title, sizeof title, "%s: option '%s'", family, key);
  al_expr *e = al_expr_new(c, title, text, "x");
  al_expr_free(e);
  for (const char *name = "sij"; e && *name; name++)
    if (reads(text, *name))
      return al_fail(c, AL_EVALUE, "%s: a function of x alone expected, got '%c' in '%s'", title,
                     *name, text);
  return al_error(c);
}

static al_status check_weight(al_ctx *c, const al_opts *o, const formula *f) {
  const char *similarity = al_opt_word(o, "similarity");
  if (f->similarity != SIM_expr) {
    if (*f->expr || *f->names)
      return al_fail(c, AL_EVALUE,
                     "%s: option '%s' belongs to similarity=expr, but similarity is %s", family,
                     *f->names && !*f->expr ? "expr_params" : "expr", similarity);
    return AL_OK;
  }
  if (!*f->expr)
    return al_fail(c, AL_EVALUE,
                   "%s: option 'expr': an expression of s expected with similarity=expr, such as "
                   "expr='log(1+exp(s))'",
                   family);
  al_expr *e = al_expr_new(c, "kernel_attention: option 'expr'", f->expr, f->names);
  if (!e) return al_error(c);
  char word[40];
  for (int k = 0; formula_word(f->names, k, word, sizeof word); k++)
    if (!al_expr_reads(e, word)) {
      al_fail(c, AL_EVALUE, "%s: option 'expr_params': '%s' does not stand in expr '%s'", family,
              word, al_expr_text(e));
      break;
    }
  al_expr_free(e);
  return al_error(c);
}

al_status formula_check_expr(al_ctx *c, const al_opts *o, const formula *f) {
  AL_TRY(check_weight(c, o, f));
  AL_TRY(check_function(c, "map_expr", f->map_expr, f->map == ALK_MAP_expr, "feature_map=expr",
                        "1+tanh(x)"));
  AL_TRY(check_function(c, "input_gate.expr", f->input_gate.expr,
                        f->input_gate.activation == ALK_GATE_expr, "input_gate.activation=expr",
                        "x^2"));
  return check_function(c, "output_gate.expr", f->output_gate.expr,
                        f->output_gate.activation == ALK_GATE_expr, "output_gate.activation=expr",
                        "x^2");
}

int formula_expr_params(const formula *f, const attn_sizes *s, attn_param *rows) {
  for (int k = 0; k < f->n_names; k++) {
    char word[40] = "";
    formula_word(f->names, k, word, sizeof word);
    rows[k] =
        (attn_param){"", 1, {s->heads}, ATTN_VALUE, f->first[k], "scalar of expr, one a head"};
    snprintf(rows[k].name, sizeof rows[k].name, "expr.%s", word);
  }
  return f->n_names;
}
