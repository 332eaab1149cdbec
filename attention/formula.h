/* formula.h: reading the options of kernel_attention; shared by its forms. */
#ifndef ATTN_FORMULA_H
#define ATTN_FORMULA_H
#include "attn.h"
#include "../kernels/attn_orders.h"
#include <string.h>

extern const al_arg formula_options[];

/* f by name, or as a polynomial sum c_n s^n. c_n = k_n, or k_n / n! with `factorial`: k_n as the
 * options have it, since n! itself leaves the range of numbers. With `learned` k_n is the option's
 * part of it, which a parameter multiplies. */
enum { FORMULA_MAX_ORDER = ALK_MAX_ORDER };
typedef struct weight_fn {
  const char *f;    /* exp, cosh, polynomial, expr */
  int order, terms; /* terms: how many k_n are not 0 */
  bool factorial, learned;
  double k[FORMULA_MAX_ORDER + 1], c[FORMULA_MAX_ORDER + 1];
} weight_fn;
weight_fn formula_weight(const al_opts *o, bool denominator);
/* The same with another `order`. */
weight_fn formula_weight_to(const al_opts *o, bool denominator, int order);

bool formula_own_weights(
    const al_opts *o); /* the denominator has an f, orders or decay of its own */
bool formula_reads_weights(const al_opts *o); /* stat is a sum over weights */
bool formula_learned_gate(const al_opts *o);  /* the output gate has weights */
bool formula_reads_x(const al_opts *o);       /* some gate or decay reads the layer's input */
/* f(s) >= 0 for every s that can be, as far as the options tell */
bool formula_nonnegative(const al_opts *o, bool denominator);
bool formula_channel_gain(const al_opts *o);
double formula_norm_eps(const al_opts *o);

/* similarity=expr */
bool formula_by_expr(const al_opts *o, bool denominator); /* are these weights by the expression? */
bool formula_expr_positive(const al_opts *o);
bool formula_expr_reads_row(const al_opts *o);              /* has it the row's position i? */
bool formula_exponent(const al_opts *o, char *g, size_t n); /* exp(g): true, and g */
bool formula_word(const char *words, int k, char *word, size_t n); /* the k-th name, from 0 */
al_status formula_check_expr(al_ctx *c, const al_opts *o);
int formula_expr_params(const al_opts *o, const attn_sizes *s, attn_param *rows);

al_status formula_check(al_ctx *c, const al_opts *o, const attn_sizes *s);
int formula_params(const al_opts *o, const attn_sizes *s, attn_param *rows);
unsigned formula_claims(const al_opts *o);
const char *formula_exempt(const al_opts *o);
void formula_text(const al_opts *o, char *buf, size_t n);

/* formula_state.c: what a sequence carries, and which form runs. */
const char *formula_not_finite(const al_opts *o);  /* why the state grows with t, or NULL */
const char *formula_not_chunked(const al_opts *o); /* why there is no chunked form, or NULL */
/* The denominator has weights whose sums are not those of the numerator's. */
bool formula_own_rows(const al_opts *o);
/* The polynomial of these sums, for l2 the square of f; with another `order`. */
weight_fn formula_denominator_to(const al_opts *o, int order);
al_status formula_state(al_ctx *c, const al_opts *o, const attn_sizes *s, int64_t batch,
                        al_dtype dtype, attn_state *st);
/* A finite state of elements of `size` bytes is within state_limit, or the reason with what would
 * fit. */
al_status formula_state_fits(al_ctx *c, const al_opts *o, const attn_sizes *s, int64_t size);
/* The dtype holds the orders of a finite state, or the reason. */
al_status formula_state_held(al_ctx *c, const al_opts *o, const attn_sizes *s, al_dtype dtype);
int64_t formula_state_bytes(const al_opts *o, const attn_sizes *s, int64_t t, al_dtype dtype);
bool formula_fused(const al_opts *o, al_dtype dtype); /* else composed */
bool formula_chunks(const al_opts *o, const attn_sizes *s, al_dtype dtype, int64_t S); /* by auto */
void formula_plan(const al_opts *o, const attn_sizes *s, al_dtype dtype, int64_t T, char *buf,
                  size_t n);

static inline bool is(const al_opts *o, const char *key, const char *word) {
  return al_opt_is(o, key, word);
}
static inline bool on(const al_opts *o, const char *key) { return !is(o, key, "none"); }
static inline bool number(const al_opts *o, const char *key) {
  return al_opt_kind(o, key) == AL_T_NUM;
}
#endif
