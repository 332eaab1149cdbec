/* formula_expr.c: similarity=expr: weights by an expression of the logit, its scalars one number a
 * head. Where the expression is exp(g) at its root, f is exp and g runs before it, so that the
 * row's maximum stays outside as for exp; else f is the identity and the whole expression runs. */
#include "formula.h"
#include <ctype.h>
#include <stdio.h>

static const char *const owner = "kernel_attention: option 'expr'";

bool formula_by_expr(const al_opts *o, bool denominator) {
  return is(o, "similarity", "expr") &&
         (!denominator || is(o, "denominator.similarity", "inherited"));
}

/* Parsed before, so it cannot fail but for memory. */
static al_expr *expression(const al_opts *o) {
  return al_expr_new(NULL, owner, al_opt_word(o, "expr"), al_opt_word(o, "expr_params"));
}

bool formula_expr_positive(const al_opts *o) {
  al_expr *e = expression(o);
  const bool yes = e && al_expr_positive(e);
  al_expr_free(e);
  return yes;
}

bool formula_expr_reads_row(const al_opts *o) {
  const char *text = is(o, "similarity", "expr") ? al_opt_word(o, "expr") : "";
  for (const char *at = text; *at; at++) {
    if (!isalpha((unsigned char)*at)) continue;
    const char *from = at;
    while (isalnum((unsigned char)*at) || *at == '_') at++;
    if (at - from == 1 && *from == 'i') return true;
    if (!*at) break;
  }
  return false;
}

bool formula_exponent(const al_opts *o, char *g, size_t n) {
  al_expr *e = expression(o);
  const bool yes = e && al_expr_exponent(e, g, n);
  al_expr_free(e);
  return yes;
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

al_status formula_check_expr(al_ctx *c, const al_opts *o) {
  static const char *const name = "kernel_attention";
  const char *similarity = al_opt_word(o, "similarity"), *names = al_opt_word(o, "expr_params");
  if (!is(o, "similarity", "expr")) {
    if (*al_opt_word(o, "expr") || *names)
      return al_fail(c, AL_EVALUE,
                     "%s: option '%s' belongs to similarity=expr, but similarity is %s", name,
                     *names && !*al_opt_word(o, "expr") ? "expr_params" : "expr", similarity);
    return AL_OK;
  }
  if (!*al_opt_word(o, "expr"))
    return al_fail(c, AL_EVALUE,
                   "%s: option 'expr': an expression of s expected with similarity=expr, such as "
                   "expr='log(1+exp(s))'",
                   name);
  al_expr *e = al_expr_new(c, owner, al_opt_word(o, "expr"), names);
  if (!e) return al_error(c);
  char word[40];
  for (int k = 0; formula_word(names, k, word, sizeof word); k++)
    if (!al_expr_reads(e, word)) {
      al_fail(c, AL_EVALUE, "%s: option 'expr_params': '%s' does not stand in expr '%s'", name,
              word, al_expr_text(e));
      break;
    }
  al_expr_free(e);
  return al_error(c);
}

int formula_expr_params(const al_opts *o, const attn_sizes *s, attn_param *rows) {
  const double *x;
  const int n = al_opt_list(o, "expr_params", &x);
  for (int k = 0; k < n; k++) {
    char word[40] = "";
    formula_word(al_opt_word(o, "expr_params"), k, word, sizeof word);
    rows[k] = (attn_param){"", 1, {s->heads}, ATTN_VALUE, x[k], "scalar of expr, one a head"};
    snprintf(rows[k].name, sizeof rows[k].name, "expr.%s", word);
  }
  return n;
}
