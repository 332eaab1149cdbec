/* attend.c: attention in one op, the (T,S) matrix never stored (kernels/attn.h has the formula).
 *
 * The same function as scores, visible_max, weights, a row sum and mix one after another, with the
 * feature map before them and, with normalise, the division after them. m is a constant: whoever
 * uses y or W with it must not depend on its value.
 *
 * A norm of y that is homogeneous leaves no gradient along y, which is all that a backward of the
 * sums reads y for: with one, what it makes is kept and y is not. */
#include "attend_reach.h"
#include "coefficients.h"
#include "expression.h"
#include "../../kernels/copy.h"
#include "../../kernels/finish.h"

enum { COEFFICIENTS = DECAY + 1, LENGTHS, VALUE_SCALE, SCALARS };
enum { Y, W, M, SUMS, INNER, FACTOR };

typedef struct plan {
  alk_attn_spec spec; /* points to the others */
  coefficient_list f;
  alk_program program;
  alk_finish end; /* kind none: no norm */
} plan;

static al_status shape_norm(al_ctx *c, al_call *k, alk_finish *end) {
  const alk_norm kind = (alk_norm)al_opt_choice(k->opts, "norm");
  const int64_t *n = k->out_meta[Y].shape;
  k->out_meta[FACTOR] = (al_meta){.dtype = k->in_meta[Q].dtype, .ndim = 1};
  if (kind == ALK_NORM_none) return AL_OK;
  if (!alk_norms[kind].homogeneous)
    return al_fail(c, AL_EVALUE,
                   "attend: norm: one that does not see how long y is needed, got %s (use finish)",
                   alk_norms[kind].word);
  *end = (alk_finish){.kind = kind,
                      .N = n[0] * n[1] * n[2],
                      .n = n[3],
                      .sub = 1,
                      .eps = al_opt_num(k->opts, "norm_eps")};
  k->out_meta[FACTOR] =
      (al_meta){.dtype = k->in_meta[Q].dtype, .ndim = 3, .shape = {n[0], n[1], n[2]}};
  return AL_OK;
}

static al_status shape(al_ctx *c, al_call *k) {
  AL_TRY(attend_inputs(c, k, LENGTHS, VALUE_SCALE));
  AL_TRY(logit_number(c, k, "softcap"));
  AL_TRY(logit_number(c, k, "clamp"));
  AL_TRY(coefficients_check_f(c, k, COEFFICIENTS));
  plan *p = k->plan;
  alk_attn_spec *a = &p->spec;
  *a = attend_spec(k);
  a->dropout = al_opt_num(k->opts, "dropout");
  a->key = (uint64_t)al_opt_int(k->opts, "key");
  a->library = (alk_library)al_opt_choice(k->opts, "library");
  a->weight = logit_spec(k, DECAY);
  a->weight.f = (alk_weight)al_opt_choice(k->opts, "f");
  coefficients_plan(k, COEFFICIENTS, &p->f, &a->weight);
  if (*al_opt_word(k->opts, "expr")) {
    AL_TRY(expression_of(c, k, SCALARS, a->g.H, &p->program));
    a->weight.program = &p->program;
  } else if (*al_opt_word(k->opts, "expr_names") || k->in[SCALARS]) {
    return al_fail(c, AL_EVALUE, "attend: expr_scalars: only an expression has them");
  }
  k->out_meta[Y] = attend_y(k);
  k->out_meta[W] = k->out_meta[M] = attend_row(k);
  k->out_meta[SUMS] = attend_sums(k);
  k->out_meta[INNER] =
      alk_stat_inner(a->stat) ? attend_row(k) : (al_meta){.dtype = k->in_meta[Q].dtype, .ndim = 1};
  return shape_norm(c, k, &p->end);
}

/* y, which stands for y e^m where it is not divided, becomes what the norm makes of it. */
static void end_by_norm(al_ctx *c, al_call *k) {
  const plan *p = k->plan;
  alk_finish f = p->end;
  if (f.kind == ALK_NORM_none || al_numel(k->out[Y]) == 0) return;
  al_tensor *m = NULL, *scratch = NULL;
  if (!p->spec.normalise && (m = al_new_meta(c, &k->out_meta[FACTOR]))) { /* (B,H,T) as (B,T,H) */
    const alk_view to = al_view(m), from = reach_heads(k->out[M]);
    ALK_RUN(al_where(m), copy, &to, &from);
  }
  const al_place *at = al_here(c, (alk_dtype)k->in_meta[Q].dtype);
  f.x = al_data(k->out[Y]), f.logscale = al_data(m);
  if ((scratch = AL_ROOM(at, finish_fwd, &f)))
    ALK_RUN(at, finish_fwd, &f, al_data(k->out[Y]), NULL, al_data(k->out[FACTOR]),
            al_data(scratch));
  al_release(m);
  al_release(scratch);
}

/* The gradient of y before the norm; new. */
static al_tensor *before_norm(al_ctx *c, const al_call *k) {
  alk_finish f = ((const plan *)k->plan)->end;
  const al_place *at = al_here(c, (alk_dtype)k->in_meta[Q].dtype);
  f.x = al_data(k->out[Y]), f.made = true;
  al_tensor *dy = al_new_meta(c, &k->out_meta[Y]), *scratch = AL_ROOM(at, finish_bwd, &f);
  if (dy && scratch && al_numel(dy) > 0)
    ALK_RUN(at, finish_bwd, &f, NULL, al_data(k->out[FACTOR]), al_data(k->dout[Y]), al_data(dy),
            NULL, NULL, NULL, NULL, al_data(scratch));
  al_release(scratch);
  return dy;
}

static al_status forward(al_ctx *c, al_call *k) {
  alk_attn_spec a = ((const plan *)k->plan)->spec;
  const al_place *at = al_here(c, (alk_dtype)k->in_meta[Q].dtype);
  if (a.library == ALK_LIBRARY_CUDNN && at->k.device != ALK_CUDA &&
      strcmp(al_on(c, NULL), "counting") != 0)
    return al_fail(c, AL_EVALUE, "attend: library=cudnn: q on cuda needed, in bf16; it lies on %s",
                   al_on(c, NULL));
  al_tensor *scalars = input_f64(c, k, SCALARS), *factors = input_f64(c, k, COEFFICIENTS),
            *scratch = AL_ROOM(at, attn_fwd, &a);
  a.g.lengths = al_data(k->in[LENGTHS]);
  a.weight.scalars = al_data(scalars), a.weight.factors = al_data(factors);
  al_count(c, visible_pairs(&a.g) * (a.D + a.E));
  if (al_error(c) == AL_OK)
    ALK_RUN(at, attn_fwd, &a, al_data(k->in[Q]), al_data(k->in[K]), al_data(k->in[V]),
            al_data(k->in[VALUE_SCALE]), logit_sums(c, k->in[DECAY], k->out[SUMS]),
            al_data(k->out[Y]), al_data(k->out[W]),
            alk_stat_inner(a.stat) ? al_data(k->out[INNER]) : NULL, al_data(k->out[M]),
            al_data(scratch));
  al_release(scalars);
  al_release(factors);
  al_release(scratch);
  if (al_error(c) == AL_OK) end_by_norm(c, k);
  return al_error(c);
}

static al_status backward(al_ctx *c, al_call *k) {
  alk_attn_spec a = ((const plan *)k->plan)->spec;
  const al_place *at = al_here(c, (alk_dtype)k->in_meta[Q].dtype);
  /* our kernels of a card leave such rows out, nobody waiting for an answer; a library's do not */
  const bool left_out =
      at->k.device == ALK_CUDA && (at->k.dtype != ALK_BF16 || a.library == ALK_LIBRARY_NONE);
  if (!left_out) AL_TRY(attend_without_unreached(c, k, forward, VALUE_SCALE, false));
  const bool normed = ((const plan *)k->plan)->end.kind != ALK_NORM_none;
  al_tensor *y = normed ? al_new_meta_full(c, &k->out_meta[Y], 0) : al_retain(k->out[Y]),
            *dy = !k->dout[Y] ? al_new_meta_full(c, &k->out_meta[Y], 0)
                  : normed    ? before_norm(c, k)
                              : al_retain(k->dout[Y]);
  al_tensor *scalars = input_f64(c, k, SCALARS), *factors = input_f64(c, k, COEFFICIENTS),
            *dscalars = NULL;
  al_tensor *dsums = NULL, *parts = NULL, *scratch = AL_ROOM(at, attn_bwd, &a);
  a.g.lengths = al_data(k->in[LENGTHS]);
  a.weight.scalars = al_data(scalars), a.weight.factors = al_data(factors);
  for (int i = Q; i <= V; i++)
    k->din[i] = al_new_meta(c, &k->in_meta[i]); /* the kernel makes all three at once */
  if (k->in[VALUE_SCALE]) k->din[VALUE_SCALE] = al_new_meta(c, &k->in_meta[VALUE_SCALE]);
  if (k->need[DECAY]) {
    k->din[DECAY] = al_new_meta(c, &k->in_meta[DECAY]);
    dsums = al_tensor_new(c, AL_F64, 3, (int64_t[]){a.g.B, a.g.H, a.g.S});
  }
  if (k->need[COEFFICIENTS])
    parts = al_tensor_new(c, AL_F64, 2, (int64_t[]){a.g.B * a.g.H, a.weight.n_coefficients});
  if (k->need[SCALARS])
    dscalars = al_tensor_new(c, AL_F64, 3, (int64_t[]){a.g.B, a.g.H, a.weight.program->n_scalars});
  if (al_error(c) == AL_OK) {
    const alk_attn_grad t = {.q = al_data(k->in[Q]),
                             .k = al_data(k->in[K]),
                             .v = al_data(k->in[V]),
                             .b = al_data(k->in[VALUE_SCALE]),
                             .db = k->in[VALUE_SCALE] ? al_data(k->din[VALUE_SCALE]) : NULL,
                             .y = al_data(y),
                             .W = al_data(k->out[W]),
                             .inner = alk_stat_inner(a.stat) ? al_data(k->out[INNER]) : NULL,
                             .m = al_data(k->out[M]),
                             .dy = al_data(dy),
                             .dW = al_data(k->dout[W]),
                             .sums = a.weight.Hd ? al_data(k->out[SUMS]) : NULL,
                             .dq = al_data(k->din[Q]),
                             .dk = al_data(k->din[K]),
                             .dv = al_data(k->din[V]),
                             .dsums = al_data(dsums),
                             .dcoefficients = al_data(parts),
                             .dscalars = al_data(dscalars)};
    al_count(c, visible_pairs(&a.g) * (3 * a.D + 2 * a.E)); /* the logits once more */
    ALK_RUN(at, attn_bwd, &a, &t, al_data(scratch));
    if (dsums)
      ALK_RUN(at, decay_sums_bwd, a.g.B, a.g.S, a.g.H, a.weight.Hd, al_data(dsums),
              al_data(k->din[DECAY]));
    if (parts) k->din[COEFFICIENTS] = coefficients_grad(c, k, COEFFICIENTS, parts);
    if (dscalars) k->din[SCALARS] = expression_grad(c, k, SCALARS, dscalars);
  }
  al_release(scalars);
  al_release(factors);
  al_release(dscalars);
  al_release(y);
  al_release(dy);
  al_release(dsums);
  al_release(parts);
  al_release(scratch);
  return al_error(c);
}

#define RELATIVE                                                                                   \
  "y and W are relative to m, which moves too; the oracle checks them through kernel_attention"

static const al_op attend = {
    .info = {.name = "attend",
             .doc = "Attention without a stored matrix: y = sum_j w_ij v_j relative to e^m, or "
                    "divided by W; W the statistic of "
                    "the weights w = A f(scale phi(q).phi(k)) of the visible keys.",
             .inputs =
                 (const al_row[]){
                     {"q", 0, "(B,T,H,D)"},
                     {"k", 0, "(B,S,Hkv,D), Hkv divides H"},
                     {"v", 0, "(B,S,Hkv,E)"},
                     {"decay", AL_IN_OPTIONAL, "(B,S,Hd), Hd divides H: log decay a step"},
                     {"coefficients", AL_IN_OPTIONAL, "(n+1): factors of the option of that name"},
                     LENGTHS_ROW,
                     {"value_scale", AL_IN_OPTIONAL, "(B,S,Hkv) b: y sums w b v"},
                     EXPRESSION_ROW,
                     {0}},
             .outputs =
                 (const al_row[]){
                     {"y", 0, "(B,T,H,E)"},
                     {"W", AL_STAT, "(B,H,T)"},
                     {"m", AL_STAT, "(B,H,T), a constant; 0 for polynomials"},
                     {"sums", AL_OUT_SAVED, "(B,Hd,S), running sums of decay"},
                     {"inner", AL_OUT_SAVED | AL_STAT, "(B,H,T), inner sums of W"},
                     {"factor", AL_OUT_SAVED | AL_STAT, "(B,T,H), of each row by the norm"},
                     {0}},
             .args =
                 (const al_arg[]){
                     {"f", AL_T_WORD, "exp", "exp cosh polynomial", 0, 0,
                      "similarity; polynomial = sum of c_n s^n", NULL},
                     {"coefficients", AL_T_LIST | AL_T_NUM, "{}", NULL, 0, 0,
                      "c_0, c_1, ..: ones when only the input is given", NULL},
                     ATTEND_MAP_ARG,
                     {"stat", AL_T_WORD, "sum", alk_stat_words, 0, 0, alk_stat_doc, NULL},
                     {"normalise", AL_T_BOOL, "false", NULL, 0, 0, "divide y by W", NULL},
                     {"scale", AL_T_NUM, "1", NULL, 0, 0, "of the logits", NULL},
                     {"norm", AL_T_WORD, "none", alk_norm_words, 0, 0,
                      "of y, over the channels of a head: one that does not see how long y is",
                      NULL},
                     {"norm_eps", AL_T_NUM, "1e-12", NULL, 0, 1e300, "as in finish", NULL},
                     {"library", AL_T_WORD, "auto", "auto none cudnn", 0, 0,
                      "a library's kernel for the same function, in bf16 on a card: auto: where "
                      "there is one; cudnn: that and no other",
                      NULL},
                     {"dropout", AL_T_NUM, "0", NULL, 0, 0.999,
                      "probability to drop a weight from y (not from W)", NULL},
                     {"key", AL_T_INT, "-1", NULL, -1, 9007199254740992.0,
                      "which weights; -1 draws the next key of the context", NULL},
                     LOGIT_ARGS,
                     EXPRESSION_ARGS(""),
                     VISIBLE_ARGS,
                     {0}}},
    .flags = AL_OP_RANDOM,
    .shape = shape,
    .forward = forward,
    .bf16 =
        AL_KERNELS(alk_attn_fwd_has, alk_attn_fwd_room_has, alk_attn_bwd_has, alk_attn_bwd_room_has,
                   alk_decay_sums_has, alk_decay_sums_bwd_has, alk_reach_has, alk_reach_dirty_has,
                   alk_reach_clean_has, alk_finish_fwd_room_has, alk_finish_fwd_has,
                   alk_finish_bwd_room_has, alk_finish_bwd_has),
    .backward = backward,
    .plan_size = sizeof(plan),
    .reads_in = 1 << Q | 1 << K | 1 << V | 1 << DECAY | 1 << COEFFICIENTS | 1 << LENGTHS |
                1 << VALUE_SCALE | 1 << SCALARS,
    .reads_out = 1 << Y | 1 << W | 1 << M | 1 << SUMS | 1 << INNER | 1 << FACTOR,
    .samples =
        (const al_sample[]){
#define STATISTIC(word, ...)                                                                       \
  {"(1,6,2,3) (1,6,2,3) (1,6,2,2)",                                                                \
   .args = "f=polynomial coefficients={1,1,0.5} causal=true stat=" #word},                         \
      {"(1,6,2,3) (1,6,2,3) (1,6,2,2) (1,6,2)",                                                    \
       .args = "f=polynomial coefficients={0,0,1} causal=true stat=" #word},
#include "../../kernels/statistics.def"
#undef STATISTIC
            {"(1,6,2,3) (1,6,1,3) (1,6,1,2) - (3)",
             .args = "f=polynomial coefficients={1,0.5,0.3} normalise=true causal=true"},
            {"(1,6,2,3) (1,6,1,3) (1,6,1,2) - (3)", .args = "f=polynomial stat=none"},
            {"(2,5,4,3) (2,5,2,3) (2,5,2,6)",
             .args = "norm=l2 f=polynomial coefficients={1,1,0.5} causal=true stat=none"},
            {"(1,70,2,3) (1,70,1,3) (1,70,1,5)",
             .args = "norm=l2 f=polynomial coefficients={1,1,0.5} causal=true normalise=true"},
            {"(2,5,2,3) (2,5,2,3) (2,5,2,70)",
             .args = "norm=l2 norm_eps=2 f=polynomial coefficients={1,1} scale=0.3 stat=abs"},
            {"(2,6,4,3) (2,6,2,3) (2,6,2,5) - - - p(2,6,2)",
             .args = "f=polynomial coefficients={1,1,0.5} normalise=true causal=true"},
            {"(1,5,2,3) (1,5,2,3) (1,5,2,2)",
             .args = "feature_map=l2 f=polynomial coefficients={0,1} causal=true stat=none"},
            {"(1,5,2,3) (1,5,2,3) (1,5,2,2)",
             .args = "f=polynomial coefficients={0.5,1} clamp=9 softcap=2 causal=true stat=none"},
            {"(2,70,2,3) (2,70,1,3) (2,70,1,2)",
             .args = "f=polynomial coefficients={1,1,0.5} causal=true normalise=true"},
            {"(1,13,2,4) (1,17,1,4) (1,17,1,3)",
             .args = "f=polynomial coefficients={1,1,0.5} normalise=true scale=0.7 dropout=0.4 "
                     "key=5"},
            {"(1,3,2,70) (1,9,1,70) (1,9,1,40) (1,9,2)", /* wider than a tile's results */
             .args = "f=polynomial coefficients={1,1,0.5} causal=true offset=6 scale=0.1"},
            {"(1,3,2,40) (1,9,1,40) (1,9,1,70)", .args = "causal=true offset=6 normalise=true",
             .exempt = RELATIVE},
            {"(2,5,4,3) (2,5,2,3) (2,5,2,6)", .args = "causal=true normalise=true",
             .exempt = RELATIVE},
            {"(2,3,2,3) (2,9,2,3) (2,9,2,2) (2,9,1) - i(2)<10",
             .args = "causal=true offset=4 normalise=true", .exempt = RELATIVE},
            {"(1,5,2,3) (1,5,2,3) (1,5,2,2) (1,5,2) - i(1)<6", .args = "causal=true f=cosh",
             .exempt = RELATIVE},
            {"(1,5,2,3) (1,5,2,3) (1,5,2,2)",
             .args = "softcap=2 clamp=5 stat=none dropout=0.4 key=5", .exempt = RELATIVE},
            {"(2,6,4,3) (2,6,2,3) (2,6,2,2) (2,6,2) - - - (2,4)",
             .args = "f=polynomial coefficients={0,1} expr='exp(t*s)/(1+u^2)+j/i' "
                     "expr_names='t u' causal=true normalise=true"},
            {"(1,13,2,4) (1,70,1,4) (1,70,1,3) - - i(1)<71 p(1,70,1) (1,2)",
             .args = "f=polynomial coefficients={1,0.5,0.3} expr='log(1+exp(t*s))' expr_names=t "
                     "softcap=2 clamp=1.5 dropout=0.4 key=5 scale=0.7"},
            {"(2,5,4,3) (2,5,2,3) (2,5,2,6) - - - - (1,4)",
             .args = "expr='t*s^2' expr_names=t causal=true normalise=true", .exempt = RELATIVE},
            {"(2,70,2,3) (2,70,1,3) (2,70,1,2) (2,70,1) (19) i(2)<71", /* summed in f64 */
             .args = "f=polynomial causal=true normalise=true scale=0.7 clamp=2 "
                     "coefficients={1,1,0.5,0.2,0,9e-3,0,0,2e-5,0,0,0,0,0,0,0,0,0,2e-16}",
             .lo = -0.9, .hi = 0.1},
#define POINTWISE(name, value, gradient, reads, lo, hi, gap, args, doc, torch, latex, sign, slots, \
                  ...)                                                                             \
  ALK_IF_MAP_##slots(ATTEND_MAP_SAMPLE(#name, lo, hi, gap, "(1,5,2,3) (1,5,2,3) (1,5,2,2)",        \
                                       "f=polynomial coefficients={0.5,1} causal=true stat=none"))
#include "../../kernels/pointwise.def"
#undef POINTWISE
            {0}},
};

AL_OPS(attend, &attend);
