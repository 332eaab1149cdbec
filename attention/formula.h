/* formula.h: the options of kernel_attention as enums and numbers, read once; shared by its forms. A
 * word is compared where options are parsed, nowhere else; switches over these enums have no default,
 * so that the compiler names what was forgotten. */
#ifndef ATTN_FORMULA_H
#define ATTN_FORMULA_H
#include "slots.h"
#include "../kernels/attn_orders.h"
#include <string.h>

extern const al_arg formula_options[];

/* ---- words: a list gives the enum and, in its order, the choices of the option --------------- */

#define FORMULA_ENUM(prefix, word) prefix##word,
#define FORMULA_WORD(prefix, word) " " #word
#define FORMULA_CHOICES(list) (&(list(FORMULA_WORD))[1])

#define FORMULA_COEFFICIENTS(X) X(COEFF_, factorial) X(COEFF_, ones) X(COEFF_, learned)
#define FORMULA_SCALES(X) X(SCALE_, rsqrt) X(SCALE_, learned)
#define FORMULA_DECAYS(X) X(DECAY_, none) X(DECAY_, constant) X(DECAY_, learned) X(DECAY_, gated)
#define FORMULA_PERS(X) X(PER_, head) X(PER_, channel)
#define FORMULA_PLACES(X) X(PLACE_, post_norm) X(PLACE_, pre_norm) X(PLACE_, both)
#define FORMULA_INPUTS(X) X(INPUT_, x) X(INPUT_, position)
#define FORMULA_GRADIENTS(X) X(GRADIENT_, both) X(GRADIENT_, stopped)
#define FORMULA_SIDES(X) X(SIDE_, row) X(SIDE_, value)
#define FORMULA_GAINS(X) X(GAIN_, auto) X(GAIN_, learned) X(GAIN_, width)
#define FORMULA_SCOPES(X) X(SCOPE_, head) X(SCOPE_, joint)
#define FORMULA_FORMS(X) X(FORM_, auto) X(FORM_, parallel) X(FORM_, chunked) X(FORM_, recurrent)
#define FORMULA_IMPLS(X) X(IMPL_, auto) X(IMPL_, composed) X(IMPL_, fused) X(IMPL_, cudnn)

/* What is no word (a number, a list, true or false) comes last. */
typedef enum formula_coefficients {
  FORMULA_COEFFICIENTS(FORMULA_ENUM) COEFF_list
} formula_coefficients;
typedef enum formula_scale { FORMULA_SCALES(FORMULA_ENUM) SCALE_number } formula_scale;
typedef enum formula_decay { FORMULA_DECAYS(FORMULA_ENUM) } formula_decay;
typedef enum formula_per { FORMULA_PERS(FORMULA_ENUM) } formula_per;
typedef enum formula_place { FORMULA_PLACES(FORMULA_ENUM) } formula_place;
typedef enum formula_input { FORMULA_INPUTS(FORMULA_ENUM) } formula_input;
typedef enum formula_gradient { FORMULA_GRADIENTS(FORMULA_ENUM) } formula_gradient;
typedef enum formula_side { FORMULA_SIDES(FORMULA_ENUM) } formula_side;
typedef enum formula_gain {
  FORMULA_GAINS(FORMULA_ENUM) GAIN_number,
  GAIN_on,
  GAIN_off
} formula_gain;
typedef enum formula_scope { FORMULA_SCOPES(FORMULA_ENUM) } formula_scope;
typedef enum formula_form { FORMULA_FORMS(FORMULA_ENUM) } formula_form;
typedef enum formula_impl { FORMULA_IMPLS(FORMULA_ENUM) } formula_impl;
typedef enum formula_sink { SINK_none, SINK_learned, SINK_number } formula_sink;

/* similarities.def has those that are expressions. */
typedef enum formula_similarity {
  SIM_exp,
  SIM_linear,
  SIM_square,
  SIM_power,
  SIM_taylor,
  SIM_cosh,
#define SIMILARITY(word, text) SIM_##word,
#include "similarities.def"
#undef SIMILARITY
  SIM_expr
} formula_similarity;

/* What the denominator counts: nothing, its row's weights by a statistic, what formula_counts.c has. */
#define FORMULA_COUNTS(X) X(STAT_, length) X(STAT_, cumulative_gate)
typedef enum formula_stat {
  STAT_none,
  STAT_weights,
  FORMULA_COUNTS(FORMULA_ENUM) STAT_first_count = STAT_weights + 1
} formula_stat;

/* ---- f ---------------------------------------------------------------------------------------- */

typedef enum formula_by { BY_exp, BY_cosh, BY_polynomial, BY_expression } formula_by;

/* f, as a polynomial sum c_n s^n. c_n = k_n, or k_n / n! with `factorial`: k_n as the options have it,
 * since n! itself leaves the range of numbers. With `learned` k_n is the option's part of it, which a
 * parameter multiplies. As an expression its text and the names of its scalars. */
enum { FORMULA_MAX_ORDER = ALK_MAX_ORDER };
typedef struct weight_fn {
  formula_by by;
  int order, terms; /* terms: how many k_n are not 0 */
  bool factorial, learned;
  double k[FORMULA_MAX_ORDER + 1], c[FORMULA_MAX_ORDER + 1];
  const char *expr, *names;
} weight_fn;

/* ---- all of it -------------------------------------------------------------------------------- */

typedef struct formula_gate {
  alk_gate activation; /* none: no gate */
  const char *expr;
  bool constant; /* of the output: `value` instead */
  double value;
  formula_place place;
  formula_per per;
  formula_input input;
  bool bias;
} formula_gate;

/* Texts and lists are those of the options it was read from. */
typedef struct formula {
  alk_map map;
  const char *map_expr;
  formula_similarity similarity, own_similarity; /* of the numerator, of the denominator */
  const char *expr, *names;                      /* of similarity=expr */
  const double *first;                           /* the scalars' first values */
  int n_names;
  int order;
  const double *orders, *own_orders; /* kept; none listed: all */
  int n_orders, n_own_orders;
  formula_coefficients coefficients;
  const double *coefficient;
  int n_coefficients;
  formula_scale scale;
  double scale_by;
  bool clamps, caps, rounds;
  double clamp, cap;
  formula_decay decay;
  formula_gate input_gate, output_gate;
  formula_stat stat;
  alk_stat weights; /* none unless the denominator reads weights */
  bool own_weights; /* the denominator has an f, orders or decay of its own */
  bool own_decay;   /* w' without the decay */
  bool power_learned;
  double power, floor, eps;
  formula_sink sink;
  double sink_at;
  formula_gradient gradient;
  formula_side side;
  bool times_length;
  alk_norm norm;
  double norm_eps;
  formula_gain gain; /* auto: resolved, on or off */
  double gain_by;
  formula_scope scope;
  double dropout, state_limit;
  formula_form form;
  formula_impl impl;
  weight_fn w, own; /* f of the numerator, and of the denominator */
} formula;

/* What the options say: held by them, or where there is no memory for that in *room. */
const formula *formula_of(const al_opts *o, formula *room);

/* A denominator that reads no weights. */
struct run;
typedef struct formula_count {
  const char *text, *latex, *torch;
  bool reads_x; /* at key positions */
  bool reads_n; /* its torch text reads n */
  bool by_key;  /* it may stand on the values' side: D_j does not depend on the row */
  int (*params)(const attn_sizes *s, attn_param *rows);    /* or NULL */
  al_tensor *(*value)(const struct run *r, bool composed); /* W (B,T,H) */
  const char *state, *state_doc; /* the component (B,H) it carries, or NULL */
} formula_count;
const formula_count *formula_count_of(const formula *f); /* NULL: none, or of weights */

/* f with another `order`. */
weight_fn formula_weight_to(const formula *f, bool denominator, int order);

static inline bool formula_learned_gate(const formula *f) { /* the output gate has weights */
  return f->output_gate.activation != ALK_GATE_none && !f->output_gate.constant;
}
static inline bool formula_has_gate(const formula *f) {
  return f->output_gate.activation != ALK_GATE_none || f->output_gate.constant;
}
/* Does it stand there: post_norm or pre_norm? */
static inline bool formula_gate_at(const formula *f, formula_place place) {
  return formula_has_gate(f) &&
         (f->output_gate.place == place || f->output_gate.place == PLACE_both);
}
/* D divides the row's sum: it is not on the values' side. */
static inline bool formula_divides_row(const formula *f) {
  return f->stat != STAT_none && f->side == SIDE_row;
}
static inline bool formula_whole_power(const formula *f) {
  return !f->power_learned && f->power == 1;
}
double formula_scale_by(const formula *f, int64_t head_dim); /* of the logits; 1: learned, with q */
bool formula_reads_x(const formula *f); /* some gate or decay reads the layer's input */
/* f(s) >= 0 for every s that can be, as far as the options tell */
bool formula_nonnegative(const formula *f, bool denominator);

/* Expressions: of similarity=expr, of the similarities that are one, of maps and gates. */
bool formula_expr_reads_row(const formula *f); /* has a weight's expression the row's position i? */
bool formula_exponent(const weight_fn *w, char *g, size_t n); /* exp(g): true, and g */
bool formula_expr_positive(const char *text, const char *names);
bool formula_word(const char *words, int k, char *word, size_t n); /* the k-th name, from 0 */
/* A function of x written with s for x, as ops take it. */
void formula_of_x(const char *text, char *buf, size_t n);
al_status formula_check_expr(al_ctx *c, const al_opts *o, const formula *f);
int formula_expr_params(const formula *f, const attn_sizes *s, attn_param *rows);

al_status formula_check(al_ctx *c, const al_opts *o, const attn_sizes *s);
int formula_params(const al_opts *o, const attn_sizes *s, attn_param *rows);
unsigned formula_claims(const al_opts *o);
const char *formula_exempt(const al_opts *o);
void formula_text(const al_opts *o, char *buf, size_t n);

/* formula_state.c: what a sequence carries, and which form runs. */
const char *formula_not_finite(const formula *f);  /* why the state grows with t, or NULL */
const char *formula_not_chunked(const formula *f); /* why there is no chunked form, or NULL */
/* The denominator has weights whose sums are not those of the numerator's. */
bool formula_own_rows(const formula *f);
/* The polynomial of these sums, for a sum of squares the square of f; with another `order`. */
weight_fn formula_denominator_to(const formula *f, int order);
al_status formula_state(al_ctx *c, const al_opts *o, const attn_sizes *s, int64_t batch,
                        al_dtype dtype, attn_state *st);
/* A finite state of elements of `size` bytes is within state_limit, or the reason with what would
 * fit. */
al_status formula_state_fits(al_ctx *c, const al_opts *o, const attn_sizes *s, int64_t size);
/* The dtype holds the orders of a finite state, or the reason. */
al_status formula_state_held(al_ctx *c, const formula *f, const attn_sizes *s, al_dtype dtype);
int64_t formula_state_bytes(const al_opts *o, const attn_sizes *s, int64_t t, al_dtype dtype);
bool formula_fused(const formula *f, al_dtype dtype); /* else composed */
bool formula_chunks(const formula *f, const attn_sizes *s, al_dtype dtype, int64_t S); /* by auto */
void formula_plan(const al_opts *o, const attn_sizes *s, al_dtype dtype, int64_t T, char *buf,
                  size_t n);
#endif
