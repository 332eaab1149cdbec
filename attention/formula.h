/* formula.h: reading the options of kernel_attention; shared by its forms. */
#ifndef ATTN_FORMULA_H
#define ATTN_FORMULA_H
#include "attn.h"
#include <string.h>

extern const al_arg formula_options[];

/* f as a polynomial sum c_n s^n, or by name. With learned coefficients k_n, c_n = 1/n! and f = sum
 * k_n c_n s^n. */
enum { FORMULA_MAX_ORDER = 256 };
typedef struct weight_fn {
  const char *f; /* exp, cosh, polynomial, expr */
  int order;
  double c[FORMULA_MAX_ORDER + 1];
} weight_fn;
weight_fn formula_weight(const al_opts *o, bool denominator);

bool formula_own_weights(
    const al_opts *o); /* the denominator has an f, orders or decay of its own */
bool formula_reads_weights(const al_opts *o); /* stat is a sum over weights */
bool formula_learned_gate(const al_opts *o);  /* the output gate has weights */
bool formula_reads_x(const al_opts *o);       /* some gate or decay reads the layer's input */
const char *
formula_not_chunked(const al_opts *o); /* why these options have no chunked form, or NULL */
bool formula_channel_gain(const al_opts *o);
double formula_norm_eps(const al_opts *o);

/* similarity=expr */
bool formula_by_expr(const al_opts *o, bool denominator); /* are these weights by the expression? */
bool formula_expr_positive(const al_opts *o);
bool formula_exponent(const al_opts *o, char *g, size_t n);        /* exp(g): true, and g */
bool formula_word(const char *words, int k, char *word, size_t n); /* the k-th name, from 0 */
al_status formula_check_expr(al_ctx *c, const al_opts *o);
int formula_expr_params(const al_opts *o, const attn_sizes *s, attn_param *rows);

al_status formula_check(al_ctx *c, const al_opts *o, const attn_sizes *s);
int formula_params(const al_opts *o, const attn_sizes *s, attn_param *rows);
unsigned formula_claims(const al_opts *o);
int64_t formula_state_bytes(const al_opts *o, const attn_sizes *s, int64_t t, al_dtype dtype);
void formula_text(const al_opts *o, char *buf, size_t n);

static inline bool is(const al_opts *o, const char *key, const char *word) {
  return al_opt_is(o, key, word);
}
static inline bool on(const al_opts *o, const char *key) { return !is(o, key, "none"); }
static inline bool number(const al_opts *o, const char *key) {
  return al_opt_kind(o, key) == AL_T_NUM;
}
#endif
