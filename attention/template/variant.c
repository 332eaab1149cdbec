/* my_variant: softmax attention with a learned temperature and a learned sink for every head.
 *
 *   s_ij = exp(t_h) q_i.k_j / sqrt(D)                      logit of row i and key j, head h
 *   o_i  = (sum_j exp(s_ij) v_j) / (sum_j exp(s_ij) + exp(a_h))      over the visible j
 *
 * t_h makes a head sharper or flatter. a_h, the sink, is the logit of a key whose value is zero: a
 * head can attend to nothing.
 *
 * Build it, and hold it to everything it claims:
 *
 *     ./lab check my_variant.c
 *
 * Use it:
 *
 *     ./lab train --plugin my_variant.c attention.preset=my_variant
 *
 * The same file in attention/variants/ is a built-in variant; nothing else has to be edited.
 *
 * How such a file is made: options (1), parameters (2), the forward pass out of ops (3), what it
 * claims (4), and the table at the end (5). Gradients, f64, Lua, the command line and the checks
 * come from these. attn.h has every type and function that may be used here.
 */
#include "attn.h"
#include <math.h>
#include <stdio.h>

/* 1. Options: name, kinds of value, default, choices for words, least and greatest for numbers,
 * what it does. They are what `attention.temperature=none` sets, and what `describe` lists. */
static const al_arg options[] = {
    {"temperature", AL_T_WORD, "learned", "learned none", 0, 0,
     "learned: every head scales its logits by exp(t), t = 0 at first", NULL},
    {"sink", AL_T_WORD | AL_T_NUM, "none", "none learned", -100, 100,
     "a logit whose value is zero: a number, or one learned a head, 0 at first", NULL},
    {0}};

/* Presets are names for settings: name, options, options of the layer around the variant
 * ("rope=none conv=4"), where it comes from, what a user must know. */
static const attn_preset presets[] = {
    {"my_variant/plain", "temperature=none", "", "softmax attention",
     "the same function as softmax"},
    {"my_variant/sink", "sink=learned", "", "write here where it comes from", ""},
    {0}};

/* A combination that makes no sense is refused here, with the reason. An error names what was
 * needed and what came; al_fail returns its status. */
static al_status check(al_ctx *c, const al_opts *o, const attn_sizes *s) {
  (void)o;
  if (s->head_dim > 4096)
    return al_fail(c, AL_EVALUE, "my_variant: head_dim: at most 4096 needed, got %lld",
                   (long long)s->head_dim);
  return AL_OK;
}

/* 2. Parameters, which depend on options and sizes. forward gets them in this order. A new one
 * starts at zeros, ones, a value, or uniform in +-1/sqrt(value). The host makes, trains and saves
 * them. */
enum { TEMPERATURE, SINK, N_PARAMS };

/* Where each parameter stands in the list, -1 where these options have none. Returns how many. */
static int places(const al_opts *o, int at[N_PARAMS]) {
  int n = 0;
  at[TEMPERATURE] = al_opt_is(o, "temperature", "learned") ? n++ : -1;
  at[SINK] = al_opt_is(o, "sink", "learned") ? n++ : -1;
  return n;
}

static int params(const al_opts *o, const attn_sizes *s, attn_param *rows) {
  int at[N_PARAMS];
  const int n = places(o, at);
  if (at[TEMPERATURE] >= 0)
    rows[at[TEMPERATURE]] = (attn_param){"temperature", 1, {s->heads},
                                         ATTN_ZEROS,    0, "(H) t: logits are scaled by exp(t)"};
  if (at[SINK] >= 0)
    rows[at[SINK]] = (attn_param){"sink", 1, {s->heads}, ATTN_ZEROS, 0, "(H) a: logit of the sink"};
  return n;
}

/* 3. The forward pass. al_run runs an op by its name (`./lab list ops`, `./lab describe scores`):
 * inputs, then options as text. Whatever it returns belongs to the caller's scope, so nothing is
 * released here, and after an error every op returns NULL at once: the code reads as the formula.
 */
#define OP(name, ...) al_run(c, name, __VA_ARGS__)

/* A parameter (H), or a number for every head, as (H,1): it broadcasts over (B,H,T) and
 * (B,T,H,D). */
static al_tensor *column(al_ctx *c, al_tensor *t) { return OP("unsqueeze", AL_IN(t), "axis=-1"); }

/* The sink's logit (H,1), or NULL without a sink. */
static al_tensor *sink(al_ctx *c, const al_opts *o, const attn_sizes *s, al_tensor *learned,
                       al_dtype dtype) {
  if (learned) return column(c, learned);
  if (al_opt_kind(o, "sink") != AL_T_NUM) return NULL;
  return al_tensor_full(c, dtype, 2, (int64_t[]){s->heads, 1}, al_opt_num(o, "sink"));
}

static al_tensor *forward(al_ctx *c, const al_opts *o, const attn_sizes *s, al_tensor *const *p,
                          const attn_in *in) {
  int at[N_PARAMS];
  places(o, at);
  char visible[64]; /* which keys a row sees; the ops below select them, nothing multiplies by a
                       mask */
  snprintf(visible, sizeof visible, "causal=%s offset=%lld", in->causal ? "true" : "false",
           (long long)in->offset);

  al_tensor *q = in->q; /* (B,T,H,D) */
  if (at[TEMPERATURE] >= 0)
    q = OP("mul", AL_IN(q, OP("exp", AL_IN(column(c, p[at[TEMPERATURE]])), "")), "");
  al_tensor *logits = OP("scores", AL_IN(q, in->k, in->lengths), "scale=%.17g %s",
                         1 / sqrt((double)s->head_dim), visible); /* (B,H,T,S) */
  logits = attn_tap(c, in, "logits", logits);

  /* exp must not overflow: everything is relative to e^m, m the largest logit of the row or the
   * sink. m cancels, so no gradient goes through it. */
  al_tensor *a = sink(c, o, s, at[SINK] >= 0 ? p[at[SINK]] : NULL, al_type(q));
  al_tensor *m = OP("visible_max", AL_IN(logits, NULL, in->lengths), "%s", visible); /* (B,H,T) */
  if (a) m = al_detach(c, OP("maximum", AL_IN(m, a), ""));
  al_tensor *w = OP("weights", AL_IN(logits, m, NULL, NULL, in->lengths), "f=exp %s", visible);

  al_tensor *total = OP("sum", AL_IN(w), "axes=-1"); /* (B,H,T) */
  if (a) total = OP("add", AL_IN(total, OP("exp", AL_IN(OP("sub", AL_IN(a, m), "")), "")), "");
  /* 1 / total, and 0 for a row that sees no key */
  al_tensor *by = OP("permute", AL_IN(OP("inverse", AL_IN(total), "")), "axes={0,2,1}");
  al_tensor *y = OP("mix", AL_IN(w, in->v, in->lengths), "%s", visible); /* (B,T,H,E) */
  return OP("mul", AL_IN(y, column(c, by)), "");
}

/* 4. Claims: `./lab check` tests each one, so claim what is true. ATTN_CAUSAL: causal=true is
 * honoured. ATTN_ROWSUM1: a constant v comes back. ATTN_POSITIVE_WEIGHTS, ATTN_SHIFT_INVARIANT: see
 * attn.h. */
static unsigned claims(const al_opts *o) {
  const unsigned always = ATTN_CAUSAL | ATTN_POSITIVE_WEIGHTS;
  return al_opt_is(o, "sink", "none") ? always | ATTN_ROWSUM1 | ATTN_SHIFT_INVARIANT : always;
}

/* Inner tensors that can be looked at, or replaced, while the variant runs:
 * `m:tap{name="logits", ..}`. forward hands each over by attn_tap, which does nothing where nobody
 * asked. A variant that would not make such a tensor otherwise (it has a faster way) asks
 * attn_asked whether it has to. */
static const attn_tap_row taps[] = {
    {"logits", "(B,H,T,S)", "s; only visible pairs count", false, NULL}, {0}};

/* One line for `describe`. */
static void formula(const al_opts *o, char *buf, size_t n) {
  const char *t = al_opt_is(o, "temperature", "learned") ? "exp(t) " : "";
  const char *a = al_opt_is(o, "sink", "none") ? "" : " + exp(a)";
  snprintf(buf, n, "o_i = (sum_j exp(s) v_j) / (sum_j exp(s)%s);  s = %sq_i.k_j / sqrt(D)", a, t);
}

/* State. This file has none, so generation keeps every input and runs forward on all of them for
 * each token: right, and slow. A variant with a state names its components once,
 *
 *   static al_status state(al_ctx *c, const al_opts *o, const attn_sizes *s, int64_t batch,
 *                          al_dtype dtype, attn_state *st) {
 *     return attn_state_put(c, st, "numerator", al_tensor_full(c, dtype, 4, (int64_t[]){...}, 0),
 *                           "sum of ...");
 *   }
 *
 * and forward, where in->state is there, begins from attn_state_get(in->state, "numerator") and
 * puts what follows the last token into in->next. `state_bytes` then says how large it is, and the
 * check compares forward from a state with forward on everything. */

/* 5. The table. The first word is the family's name, and the file's when it is built in. */
ATTN_FAMILY(my_variant, .doc = "softmax with a temperature and a sink a head", .options = options,
            .presets = presets, .check = check, .params = params, .forward = forward,
            .claims = claims, .formula = formula, .taps = taps);
