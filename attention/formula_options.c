/* formula_options.c: the slots of the formula as options, and the one place that reads them. */
#include "formula.h"
#include <stdlib.h>

/* ---- words and texts that follow from tables ------------------------------------------------- */

static const char stat_words[] = "none"
#define STATISTIC(word, ...) " " #word
#include "../kernels/statistics.def"
#undef STATISTIC
    FORMULA_COUNTS(FORMULA_WORD);

static const char stat_doc[] =
    "W_i of the denominator's weights w: none: nothing"
#define STATISTIC(word, inner, p, outer, q, doc) "; " #word ": " doc
#include "../kernels/statistics.def"
#undef STATISTIC
    "; length: number of visible keys; cumulative_gate: sum of exp(x Wp), at least 1";

static const char norm_eps_doc[] = "auto:"
#define NORM(word, mean, gain, homogeneous, op_eps, eps, ...) " " #word " " #eps
#include "../kernels/norms.def"
#undef NORM
    ;

/* ORDER formula_similarity */
static const char similarities[] = "exp linear square power taylor cosh"
#define SIMILARITY(word, text) " " #word
#include "similarities.def"
                                   " expr";
static const char own_similarities[] = "inherited exp linear square power taylor cosh"
#include "similarities.def"
    ;
#undef SIMILARITY

/* ---- rows ------------------------------------------------------------------------------------ */

#define BIG 1e308

static const al_arg denominator_rows[] = {
    {"stat", AL_T_WORD, "sum", stat_words, 0, 0, stat_doc, NULL},
    {"power", AL_T_NUM | AL_T_WORD, "1", "learned", 0, 16,
     "exponent; learned: sigmoid(m) a head, m = 0.5 at first", NULL},
    {"floor", AL_T_NUM, "0", NULL, 0, BIG, "least value before the power", NULL},
    {"eps", AL_T_NUM, "0", NULL, 0, BIG, "added before the power", NULL},
    {"sink", AL_T_BOOL | AL_T_NUM | AL_T_WORD, "false", "learned", -BIG, BIG,
     "exp(sink) is added; learned: one a head, 0 at first", NULL},
    {"gradient", AL_T_WORD, "both", FORMULA_CHOICES(FORMULA_GRADIENTS), 0, 0,
     "stopped: W is a constant in the backward pass", NULL},
    {"side", AL_T_WORD, "row", FORMULA_CHOICES(FORMULA_SIDES), 0, 0,
     "value: v_j is divided by D_j of its own position (stat=length only)", NULL},
    {"similarity", AL_T_WORD, "inherited", own_similarities, 0, 0,
     "f of w', when it is not the numerator's", NULL},
    {"orders", AL_T_WORD | AL_T_LIST | AL_T_INT, "inherited", "inherited all", 0, FORMULA_MAX_ORDER,
     "kept orders of w'", NULL},
    {"decay", AL_T_WORD, "inherited", "inherited none", 0, 0, "none: w' without the decay", NULL},
    {"times_length", AL_T_BOOL, "false", NULL, 0, 0, "also divide by the number of visible keys",
     NULL},
    {0}};

static const al_arg input_gate_rows[] = {
    {"activation", AL_T_WORD, "none", alk_gate_words, 0, 0, "of x W + b, times v", NULL},
    {"per", AL_T_WORD, "head", FORMULA_CHOICES(FORMULA_PERS), 0, 0,
     "one gate a key/value head, or one a channel", NULL},
    {"bias", AL_T_BOOL, "true", NULL, 0, 0, "add b", NULL},
    {"expr", AL_T_TEXT, "", NULL, 0, 0,
     "activation=expr: a function of x, which stands for x W + b", NULL},
    {0}};

static const al_arg output_gate_rows[] = {
    {"activation", AL_T_WORD | AL_T_NUM, "none", alk_gate_words, -BIG, BIG,
     "of x W + b, times the output; a number: that constant instead", NULL},
    {"place", AL_T_WORD, "post_norm", FORMULA_CHOICES(FORMULA_PLACES), 0, 0,
     "before the output norm, after it, or the same gate at both", NULL},
    {"per", AL_T_WORD, "head", FORMULA_CHOICES(FORMULA_PERS), 0, 0,
     "one gate a head, or one a channel", NULL},
    {"input", AL_T_WORD, "x", FORMULA_CHOICES(FORMULA_INPUTS), 0, 0,
     "position: the gate sees ln(number of visible keys) instead of x", NULL},
    {"bias", AL_T_BOOL, "true", NULL, 0, 0, "add b", NULL},
    {"expr", AL_T_TEXT, "", NULL, 0, 0,
     "activation=expr: a function of x, which stands for x W + b", NULL},
    {0}};

static const al_arg output_norm_rows[] = {
    {"kind", AL_T_WORD, "none", alk_norm_words, 0, 0, "over the channels of y", NULL},
    {"eps", AL_T_WORD | AL_T_NUM, "auto", "auto", 0, BIG, norm_eps_doc, NULL},
    {"gain", AL_T_WORD | AL_T_BOOL | AL_T_NUM, "auto", FORMULA_CHOICES(FORMULA_GAINS), -BIG, BIG,
     "true: one a channel (auto: but for l2); learned: one a head; width: the number of channels; "
     "a "
     "number",
     NULL},
    {"scope", AL_T_WORD, "head", FORMULA_CHOICES(FORMULA_SCOPES), 0, 0,
     "each head alone, or all heads as one vector", NULL},
    {0}};

const al_arg formula_options[] = {
    {"feature_map", AL_T_WORD, "identity", ALK_MAP_OR_EXPR, 0, 0, "phi, on one head's q and k",
     NULL},
    {"map_expr", AL_T_TEXT, "", NULL, 0, 0, "feature_map=expr: phi as a function of one channel x",
     NULL},
    {"similarity", AL_T_WORD, "exp", similarities, 0, 0, "f", NULL},
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
    {"coefficients", AL_T_WORD | AL_T_LIST | AL_T_NUM, "factorial",
     FORMULA_CHOICES(FORMULA_COEFFICIENTS), 0, 0,
     "taylor: of s^n: 1/n!, 1, k_n/n! with k learned, or k_n/n! with the k listed for orders 0, 1, "
     "...",
     NULL},
    {"logit_scale", AL_T_WORD | AL_T_NUM, "rsqrt", FORMULA_CHOICES(FORMULA_SCALES), -BIG, BIG,
     "rsqrt: 1/sqrt(head_dim); learned: one a head, from there", NULL},
    {"logit_clamp", AL_T_BOOL | AL_T_NUM, "false", NULL, -BIG, BIG, "f(min(s, c))", NULL},
    {"logit_softcap", AL_T_BOOL | AL_T_NUM, "false", NULL, 1e-6, BIG,
     "c tanh(s/c), before the clamp", NULL},
    {"logit_round", AL_T_BOOL | AL_T_WORD, "false", "bf16", 0, 0,
     "round s first, gradient straight through", NULL},
    {"decay", AL_T_WORD, "none", FORMULA_CHOICES(FORMULA_DECAYS), 0, 0,
     "log A a step and key/value head: ln(1 - 2^(-5-h)); -softplus(p), p = -4 at first; "
     "-softplus(x W); counted to the row's last visible key",
     NULL},
    {"input_gate", AL_T_RECORD, NULL, NULL, 0, 0, "b", input_gate_rows},
    {"denominator", AL_T_RECORD, NULL, NULL, 0, 0, "D", denominator_rows},
    {"output_gate", AL_T_RECORD, NULL, NULL, 0, 0, "r and h", output_gate_rows},
    {"output_norm", AL_T_RECORD, NULL, NULL, 0, 0, "Norm", output_norm_rows},
    {"dropout", AL_T_NUM, "0", NULL, 0, 0.999, "on the weights of the numerator, in training",
     NULL},
    {"form", AL_T_WORD, "auto", FORMULA_CHOICES(FORMULA_FORMS), 0, 0,
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
    {"impl", AL_T_WORD, "auto", FORMULA_CHOICES(FORMULA_IMPLS), 0, 0,
     "fused: the (T,S) matrix is never stored; composed: out of small ops; cudnn: that library's "
     "kernel, of exp weights in bf16 on a card; auto: fused, composed in f64, on a card cudnn "
     "where it is the same function",
     NULL},
    {0}};

/* ---- reading --------------------------------------------------------------------------------- */

/* f's kept orders and coefficients. */
static void read_polynomial(const formula *f, bool denominator, int order, weight_fn *w) {
  const double *kept = denominator ? f->own_orders : f->orders;
  const int n_kept = denominator ? f->n_own_orders : f->n_orders;
  double factorial = 1;
  w->order = order;
  w->factorial = f->coefficients != COEFF_ones;
  w->learned = f->coefficients == COEFF_learned;
  for (int n = 0; n <= order; factorial *= ++n) {
    bool keep = n_kept == 0;
    for (int i = 0; i < n_kept; i++) keep |= (int)kept[i] == n;
    const double listed = n < f->n_coefficients ? f->coefficient[n] : 0;
    w->k[n] = !keep ? 0 : f->n_coefficients == 0 ? 1 : listed;
    w->c[n] = w->factorial ? w->k[n] * (1 / factorial) : w->k[n];
    w->terms += w->k[n] != 0;
  }
}

static void read_power(int order, weight_fn *w) {
  w->order = order, w->terms = 1;
  w->k[order] = w->c[order] = 1;
}

weight_fn formula_weight_to(const formula *f, bool denominator, int order) {
  weight_fn w = {.by = BY_polynomial, .expr = "", .names = ""};
  switch (denominator ? f->own_similarity : f->similarity) {
  case SIM_exp:
    w.by = BY_exp;
    break;
  case SIM_cosh:
    w.by = BY_cosh;
    break;
  case SIM_linear:
    read_power(1, &w);
    break;
  case SIM_square:
    read_power(2, &w);
    break;
  case SIM_power:
    read_power(order, &w);
    break;
  case SIM_taylor:
    read_polynomial(f, denominator, order, &w);
    break;
  case SIM_expr:
    w.by = BY_expression;
    w.expr = f->expr, w.names = f->names;
    break;
#define SIMILARITY(word, text)                                                                     \
  case SIM_##word:                                                                                 \
    w.by = BY_expression, w.expr = text;                                                           \
    break;
#include "similarities.def"
#undef SIMILARITY
  }
  return w;
}

static formula_gate read_gate(const al_opts *o, const char *name) {
  static const char *const fields[] = {"activation", "expr", "place", "per", "input", "bias"};
  char key[6][40];
  for (int i = 0; i < 6; i++) snprintf(key[i], sizeof key[i], "%s.%s", name, fields[i]);
  const bool constant = al_opt_kind(o, key[0]) == AL_T_NUM, place = al_opts_has(o, key[2]);
  return (formula_gate){.activation = constant ? ALK_GATE_none : (alk_gate)al_opt_choice(o, key[0]),
                        .constant = constant,
                        .value = al_opt_num(o, key[0]),
                        .expr = al_opt_word(o, key[1]),
                        .place = place ? (formula_place)al_opt_choice(o, key[2]) : PLACE_post_norm,
                        .per = (formula_per)al_opt_choice(o, key[3]),
                        .input = place ? (formula_input)al_opt_choice(o, key[4]) : INPUT_x,
                        .bias = al_opt_bool(o, key[5])};
}

static void read_denominator(const al_opts *o, formula *f) {
  const int stat = al_opt_choice(o, "denominator.stat"),
            similarity = al_opt_choice(o, "denominator.similarity"),
            orders = al_opt_choice(o, "denominator.orders");
  if (stat < ALK_STAT_COUNT) {
    f->weights = (alk_stat)stat;
    f->stat = f->weights == ALK_STAT_none ? STAT_none : STAT_weights;
  } else {
    f->stat = (formula_stat)(STAT_first_count + stat - ALK_STAT_COUNT);
  }
  f->power_learned = al_opt_kind(o, "denominator.power") != AL_T_NUM;
  f->power = al_opt_num(o, "denominator.power");
  f->floor = al_opt_num(o, "denominator.floor");
  f->eps = al_opt_num(o, "denominator.eps");
  const unsigned sink = al_opt_kind(o, "denominator.sink");
  f->sink = sink == AL_T_NUM ? SINK_number : sink == AL_T_WORD ? SINK_learned : SINK_none;
  f->sink_at = al_opt_num(o, "denominator.sink");
  f->gradient = (formula_gradient)al_opt_choice(o, "denominator.gradient");
  f->side = (formula_side)al_opt_choice(o, "denominator.side");
  f->times_length = al_opt_bool(o, "denominator.times_length");
  /* the choices of its similarity are the numerator's after "inherited" */
  f->own_similarity = similarity == 0 ? f->similarity : (formula_similarity)(similarity - 1);
  f->own_orders = f->orders, f->n_own_orders = f->n_orders;
  if (orders != 0) f->n_own_orders = al_opt_list(o, "denominator.orders", &f->own_orders);
  f->own_decay = al_opt_choice(o, "denominator.decay") != 0;
  f->own_weights =
      f->own_similarity != f->similarity || orders != 0 || (f->own_decay && f->decay != DECAY_none);
}

static void read_norm(const al_opts *o, formula *f) {
  f->norm = (alk_norm)al_opt_choice(o, "output_norm.kind");
  const bool given = al_opt_kind(o, "output_norm.eps") == AL_T_NUM;
  f->norm_eps = given ? al_opt_num(o, "output_norm.eps") : alk_norms[f->norm].eps;
  const unsigned kind = al_opt_kind(o, "output_norm.gain");
  f->gain = (formula_gain)al_opt_choice(o, "output_norm.gain");
  f->gain_by = al_opt_num(o, "output_norm.gain");
  if (kind == AL_T_NUM) f->gain = GAIN_number;
  if (kind == AL_T_BOOL) f->gain = al_opt_bool(o, "output_norm.gain") ? GAIN_on : GAIN_off;
  if (f->gain == GAIN_auto) f->gain = alk_norms[f->norm].gain ? GAIN_on : GAIN_off;
  f->scope = (formula_scope)al_opt_choice(o, "output_norm.scope");
}

static void read_options(const al_opts *o, void *into) {
  formula *f = into;
  const bool scaled = al_opt_kind(o, "logit_scale") == AL_T_NUM,
             listed = al_opt_kind(o, "coefficients") != AL_T_WORD;
  f->map = (alk_map)al_opt_choice(o, "feature_map");
  f->map_expr = al_opt_word(o, "map_expr");
  f->similarity = (formula_similarity)al_opt_choice(o, "similarity");
  f->expr = al_opt_word(o, "expr");
  f->names = al_opt_word(o, "expr_params");
  f->n_names = al_opt_list(o, "expr_params", &f->first);
  f->order = (int)al_opt_int(o, "order");
  f->n_orders = al_opt_list(o, "orders", &f->orders);
  f->coefficients = listed ? COEFF_list : (formula_coefficients)al_opt_choice(o, "coefficients");
  f->n_coefficients = al_opt_list(o, "coefficients", &f->coefficient);
  f->scale = scaled ? SCALE_number : (formula_scale)al_opt_choice(o, "logit_scale");
  f->scale_by = al_opt_num(o, "logit_scale");
  f->clamps = al_opt_kind(o, "logit_clamp") == AL_T_NUM;
  f->clamp = al_opt_num(o, "logit_clamp");
  f->caps = al_opt_kind(o, "logit_softcap") == AL_T_NUM;
  f->cap = al_opt_num(o, "logit_softcap");
  f->rounds = al_opt_choice(o, "logit_round") == 0;
  f->decay = (formula_decay)al_opt_choice(o, "decay");
  f->input_gate = read_gate(o, "input_gate");
  f->output_gate = read_gate(o, "output_gate");
  read_denominator(o, f);
  read_norm(o, f);
  f->dropout = al_opt_num(o, "dropout");
  f->state_limit = al_opt_num(o, "state_limit");
  f->form = (formula_form)al_opt_choice(o, "form");
  f->impl = (formula_impl)al_opt_choice(o, "impl");
  f->w = formula_weight_to(f, false, f->order);
  f->own = formula_weight_to(f, true, f->order);
}

const formula *formula_of(const al_opts *o, formula *room) {
  const formula *held = al_opts_read(o, sizeof *held, read_options);
  if (held) return held;
  *room = (formula){0};
  read_options(o, room);
  return room;
}
