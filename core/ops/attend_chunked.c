/* attend_chunked.c: attention with polynomial weights in time linear in T (kernels/chunked.h has
 * the formula): attend with f=polynomial, by a state between chunks of tokens. The state may be
 * given and carried on: what attend_step does token by token. Plain linear weights without one have
 * a kernel of their own (kernels/linear.h). */
#include "attend_reach.h"
#include "coefficients.h"
#include "../../kernels/chunked.h"
#include "../../kernels/linear.h"

/* ORDER inputs of attention, ORDER outputs of attention */
enum { COEFFICIENTS = DECAY + 1, LENGTHS, VALUE_SCALE, STATE, NORM_STATE };
enum { Y, W, NEXT_NORM = NEXT + 1, SUMS, STATES };
enum { MOST_FEATURES = 1 << 24 }; /* far past use; sizes are products of it and must fit */

typedef struct plan {
  alk_attn_spec spec; /* points to w */
  coefficient_list w;
  int64_t features;
  bool carry, linear; /* linear weights with no state: that kernel, the coefficient in the scale */
} plan;

/* ---- shapes ---------------------------------------------------------------------------------- */

static al_status check_input(al_ctx *c, const al_call *k, int i, const al_meta *need) {
  const al_meta *m = &k->in_meta[i];
  bool same = m->ndim == need->ndim;
  for (int x = 0; same && x < m->ndim; x++) same = m->shape[x] == need->shape[x];
  if (same) return AL_OK;
  return al_fail(c, AL_ESHAPE,
                 "attend_chunked: %s: shape %s (batch, heads that share a state, "
                 "features%s) needed, got %s",
                 k->op->info.inputs[i].name, AL_META_STR(need), i == STATE ? ", channels of v" : "",
                 AL_META_STR(m));
}

static al_status check_states(al_ctx *c, const al_call *k, const al_meta *state,
                              const al_meta *norm) {
  const bool none = al_opt_is(k->opts, "stat", "none"), given = k->in[STATE] || k->in[NORM_STATE];
  if ((given || al_opt_bool(k->opts, "carry")) && !al_opt_bool(k->opts, "causal"))
    return al_fail(c, AL_EVALUE,
                   "attend_chunked: %s: causal=true needed: a state is of the tokens "
                   "before",
                   given ? "state" : "carry");
  if (!given) return AL_OK;
  if (!k->in[STATE] || !k->in[NORM_STATE] != none)
    return al_fail(c, AL_EVALUE, "attend_chunked: state: %s needed with stat=%s, got %s",
                   none ? "state alone" : "state and norm_state", none ? "none" : "sum",
                   !k->in[STATE] ? "norm_state alone"
                   : none        ? "both"
                                 : "state alone");
  AL_TRY(check_input(c, k, STATE, state));
  return none ? AL_OK : check_input(c, k, NORM_STATE, norm);
}

static al_meta numbers(const al_call *k, int64_t n) {
  return (al_meta){.dtype = k->in_meta[Q].dtype, .ndim = 1, .shape = {n}};
}

static al_status shape(al_ctx *c, al_call *k) {
  const al_dtype dtype = k->in_meta[Q].dtype;
  const int64_t T = k->in_meta[Q].shape[1], S = k->in_meta[K].shape[1],
                offset = al_opt_int(k->opts, "offset");
  AL_TRY(attend_inputs(c, k, LENGTHS, VALUE_SCALE));
  if (al_opt_bool(k->opts, "causal") && (T != S || offset != 0))
    return al_fail(c, AL_ESHAPE,
                   "attend_chunked: causal: as many queries as keys and offset 0 needed, got %lld, "
                   "%lld and offset %lld",
                   (long long)T, (long long)S, (long long)offset);
  AL_TRY(coefficients_check(c, k, COEFFICIENTS, true));
  plan *p = k->plan;
  alk_attn_spec *a = &p->spec;
  *a = attend_spec(k);
  a->weight.Hd = k->in_meta[DECAY].ndim == 3 ? k->in_meta[DECAY].shape[2] : 0;
  coefficients_plan(k, COEFFICIENTS, &p->w, &a->weight);
  p->carry = al_opt_bool(k->opts, "carry");
  p->linear = p->w.n == 2 && p->w.base[0] == 0 && k->in_meta[COEFFICIENTS].ndim == 0 &&
              k->in_meta[STATE].ndim == 0 && !p->carry;
  const int64_t R = p->features = alk_features(a->D, p->w.n, p->w.base),
                Hs = a->g.H / alk_chunked_shared(a);
  if (R < 1)
    return al_fail(c, AL_ESHAPE, "attend_chunked: q: at least one channel needed, got %s",
                   AL_META_STR(&k->in_meta[Q]));
  if (R > MOST_FEATURES)
    return al_fail(c, AL_EVALUE,
                   "attend_chunked: option 'coefficients': orders of at most %d features in all "
                   "needed, got more of the %lld channels of q %s",
                   MOST_FEATURES, (long long)a->D, AL_META_STR(&k->in_meta[Q]));
  if (!p->linear) AL_TRY(attend_held(c, k, p->w.n, p->w.base));
  const al_meta state = {.dtype = dtype, .ndim = 4, .shape = {a->g.B, Hs, R, a->E}},
                norm = {.dtype = dtype, .ndim = 3, .shape = {a->g.B, Hs, R}};
  AL_TRY(check_states(c, k, &state, &norm));
  if (p->linear) a->scale *= p->w.base[1];
  k->out_meta[Y] = attend_y(k);
  k->out_meta[W] = attend_row(k);
  k->out_meta[NEXT] = p->carry ? state : numbers(k, 0);
  k->out_meta[NEXT_NORM] = p->carry && a->stat != ALK_STAT_none ? norm : numbers(k, 0);
  k->out_meta[SUMS] = attend_sums(k);
  const al_place *at = al_here(c, (alk_dtype)dtype);
  k->out_meta[STATES] = numbers(
      k, (p->linear ? AL_BYTES(at, linear_states, a) : AL_BYTES(at, chunked_states, a, p->w.base)) /
             al_dtype_size(al_statistic_type(dtype)));
  return al_error(c);
}

/* ---- runs ------------------------------------------------------------------------------------ */

/* A multiply-add for each entry of a state that a token writes, and for each that a head reads. */
static int64_t products(const plan *p) {
  const alk_attn_spec *a = &p->spec;
  const int64_t heads = a->g.H / alk_chunked_shared(a) * a->g.S + a->g.H * a->g.T;
  return a->g.B * heads * p->features * a->E;
}

static al_status linear_forward(al_ctx *c, al_call *k, const alk_attn_spec *a) {
  const al_place *at = al_here(c, (alk_dtype)k->in_meta[Q].dtype);
  al_tensor *scratch = AL_ROOM(at, linear_fwd, a);
  if (scratch)
    ALK_RUN(at, linear_fwd, a, al_data(k->in[Q]), al_data(k->in[K]), al_data(k->in[V]),
            al_data(k->in[VALUE_SCALE]), logit_sums(c, k->in[DECAY], k->out[SUMS]),
            al_data(k->out[Y]), al_data(k->out[W]), al_data(k->out[STATES]), al_data(scratch));
  al_release(scratch);
  return al_error(c);
}

static alk_chunked_in inputs(const al_call *k, const alk_attn_spec *a, const al_numbers *sums) {
  return (alk_chunked_in){.kept = a->weight.base,
                          .q = al_data(k->in[Q]),
                          .k = al_data(k->in[K]),
                          .v = al_data(k->in[V]),
                          .b = al_data(k->in[VALUE_SCALE]),
                          .sums = sums,
                          .state = al_data(k->in[STATE]),
                          .norm = al_data(k->in[NORM_STATE])};
}

static al_status forward(al_ctx *c, al_call *k) {
  const plan *p = k->plan;
  alk_attn_spec a = p->spec;
  a.g.lengths = al_data(k->in[LENGTHS]);
  al_count(c, products(p));
  if (p->linear) return linear_forward(c, k, &a);
  const al_place *at = al_here(c, (alk_dtype)k->in_meta[Q].dtype);
  al_tensor *scratch = AL_ROOM(at, chunked_fwd, &a, p->w.base),
            *factors = input_f64(c, k, COEFFICIENTS);
  a.weight.factors = al_data(factors);
  if (al_error(c) == AL_OK) {
    const alk_chunked_in in = inputs(k, &a, logit_sums(c, k->in[DECAY], k->out[SUMS]));
    const alk_chunked_out out = {
        .y = al_data(k->out[Y]),
        .W = al_data(k->out[W]),
        .states = al_data(k->out[STATES]),
        .state = p->carry ? al_data(k->out[NEXT]) : NULL,
        .norm = p->carry && a.stat != ALK_STAT_none ? al_data(k->out[NEXT_NORM]) : NULL};
    ALK_RUN(at, chunked_fwd, &a, &in, &out, al_data(scratch));
  }
  al_release(factors);
  al_release(scratch);
  return al_error(c);
}

/* The gradients that both kernels make at once, and of the decay with the room it takes. */
static al_status new_gradients(al_ctx *c, al_call *k, al_tensor **steps) {
  const alk_visible *g = &((const plan *)k->plan)->spec.g;
  for (int i = Q; i <= V; i++) k->din[i] = attend_gradient(c, k, i);
  if (k->in[VALUE_SCALE]) k->din[VALUE_SCALE] = attend_gradient(c, k, VALUE_SCALE);
  if (k->need[DECAY]) {
    k->din[DECAY] = attend_gradient(c, k, DECAY);
    *steps = al_tensor_new(c, AL_F64, 3, (int64_t[]){g->B, g->H, g->S});
  }
  return al_error(c);
}

static void linear_backward(al_ctx *c, al_call *k, const alk_attn_spec *a, const al_tensor *dy,
                            const al_tensor *steps, al_tensor *scratch) {
  const alk_linear_grad t = {.q = al_data(k->in[Q]),
                             .k = al_data(k->in[K]),
                             .v = al_data(k->in[V]),
                             .b = al_data(k->in[VALUE_SCALE]),
                             .y = al_data(k->out[Y]),
                             .W = al_data(k->out[W]),
                             .states = al_data(k->out[STATES]),
                             .dy = al_data(dy),
                             .dW = al_data(k->dout[W]),
                             .sums = a->weight.Hd ? al_data(k->out[SUMS]) : NULL,
                             .dq = al_data(k->din[Q]),
                             .dk = al_data(k->din[K]),
                             .dv = al_data(k->din[V]),
                             .db = al_data(k->in[VALUE_SCALE] ? k->din[VALUE_SCALE] : NULL),
                             .ddecay = steps ? al_data(k->din[DECAY]) : NULL,
                             .steps = al_data(steps)};
  ALK_RUN(al_here(c, (alk_dtype)k->in_meta[Q].dtype), linear_bwd, a, &t, al_data(scratch));
}

/* dout of the carried state, output i, or zeros when only the other of the pair has one; NULL where
 * the output is an empty one. */
static al_tensor *state_gradient(al_ctx *c, const al_call *k, int i) {
  if (k->out_meta[i].ndim == 1) return NULL;
  if (k->dout[i]) return al_retain(k->dout[i]);
  return k->dout[NEXT] || k->dout[NEXT_NORM] ? al_new_meta_full(c, &k->out_meta[i], 0) : NULL;
}

static void chunked_backward(al_ctx *c, al_call *k, const alk_attn_spec *a, alk_chunked_grad t,
                             const al_tensor *steps, al_tensor *scratch) {
  const alk_chunked_in in = inputs(k, a, a->weight.Hd ? al_data(k->out[SUMS]) : NULL);
  t.y = al_data(k->out[Y]), t.W = al_data(k->out[W]), t.states = al_data(k->out[STATES]);
  t.dW = al_data(k->dout[W]);
  t.dq = al_data(k->din[Q]), t.dk = al_data(k->din[K]), t.dv = al_data(k->din[V]);
  t.db = k->in[VALUE_SCALE] ? al_data(k->din[VALUE_SCALE]) : NULL;
  t.dstate = k->need[STATE] || k->need[NORM_STATE] ? al_data(k->din[STATE]) : NULL;
  t.dnorm = t.dstate && k->in[NORM_STATE] ? al_data(k->din[NORM_STATE]) : NULL;
  t.ddecay = steps ? al_data(k->din[DECAY]) : NULL;
  t.steps = al_data(steps);
  ALK_RUN(al_here(c, (alk_dtype)k->in_meta[Q].dtype), chunked_bwd, a, &in, &t, al_data(scratch));
}

static al_status backward(al_ctx *c, al_call *k) {
  AL_TRY(attend_without_unreached(c, k, forward, VALUE_SCALE, true));
  const plan *p = k->plan;
  const bool states = k->need[STATE] || k->need[NORM_STATE];
  alk_attn_spec a = p->spec;
  a.g.lengths = al_data(k->in[LENGTHS]);
  const al_place *at = al_here(c, (alk_dtype)k->in_meta[Q].dtype);
  const int64_t parts_of = a.g.B * a.g.H * alk_chunk_segments(p->features, a.g.T);
  al_tensor *scratch =
                p->linear ? AL_ROOM(at, linear_bwd, &a) : AL_ROOM(at, chunked_bwd, &a, p->w.base),
            *steps = NULL, *parts = NULL, *factors = input_f64(c, k, COEFFICIENTS);
  a.weight.factors = al_data(factors);
  al_tensor *dy = k->dout[Y] ? al_retain(k->dout[Y]) : al_new_meta_full(c, &k->out_meta[Y], 0),
            *dstate = state_gradient(c, k, NEXT), *dnorm = state_gradient(c, k, NEXT_NORM);
  for (int i = STATE; i <= NORM_STATE; i++)
    if (states && k->in[i]) k->din[i] = al_new_meta(c, &k->in_meta[i]);
  if (k->need[COEFFICIENTS]) parts = al_tensor_new(c, AL_F64, 2, (int64_t[]){parts_of, p->w.n});
  al_count(c, 5 * products(p) / 2); /* two for each, and the states once more */
  if (new_gradients(c, k, &steps) == AL_OK) {
    if (p->linear) linear_backward(c, k, &a, dy, steps, scratch);
    else
      chunked_backward(c, k, &a,
                       (alk_chunked_grad){.dy = al_data(dy),
                                          .dstate_out = al_data(dstate),
                                          .dnorm_out = al_data(dnorm),
                                          .dcoefficients = al_data(parts)},
                       steps, scratch);
    if (parts) k->din[COEFFICIENTS] = coefficients_grad(c, k, COEFFICIENTS, parts);
  }
  al_release(factors);
  al_release(scratch);
  al_release(steps);
  al_release(parts);
  al_release(dy);
  al_release(dstate);
  al_release(dnorm);
  return al_error(c);
}

static const al_op attend_chunked = {
    .info = {.name = "attend_chunked",
             .doc =
                 "Attention with polynomial weights w = A f(scale phi(q).phi(k)) in time linear in "
                 "T, by a state of the R monomials of the kept orders: y = sum_j w_ij v_j over "
                 "the visible keys, or divided by W = sum_j w_ij; continues a state and hands "
                 "it on.",
             .inputs =
                 (const al_row[]){
                     {"q", 0, "(B,T,H,D)"},
                     {"k", 0, "(B,S,Hkv,D), Hkv divides H; causal: S = T"},
                     {"v", 0, "(B,S,Hkv,E)"},
                     {"decay", AL_IN_OPTIONAL, "(B,S,Hd), Hd divides H: log decay a step"},
                     {"coefficients", AL_IN_OPTIONAL, "(n+1): factors of the option of that name"},
                     LENGTHS_ROW,
                     {"value_scale", AL_IN_OPTIONAL, "(B,S,Hkv) b: y sums w b v"},
                     {"state", AL_IN_OPTIONAL | AL_STAT,
                      "(B,Hs,R,E): sum of A m(k) b v before the first token, Hs: heads that differ "
                      "in their keys or their decay; a decay counts up to the last visible key"},
                     {"norm_state", AL_IN_OPTIONAL | AL_STAT,
                      "(B,Hs,R): sum of A m(k), unless stat=none"},
                     {0}},
             .outputs =
                 (const al_row[]){{"y", 0, "(B,T,H,E)"},
                                  {"W", AL_STAT, "(B,H,T)"},
                                  {"state", AL_STAT, "(B,Hs,R,E) after the last token: carry"},
                                  {"norm_state", AL_STAT, "(B,Hs,R), unless stat=none: carry"},
                                  {"sums", AL_OUT_SAVED, "(B,Hd,S), running sums of decay"},
                                  {"states", AL_OUT_SAVED | AL_STAT, "at the ends of segments"},
                                  {0}},
             .args =
                 (const al_arg[]){
                     {"coefficients", AL_T_LIST | AL_T_NUM, "{0,1}", NULL, 0, 0,
                      "c_0, c_1, .. of f(s) = sum of c_n s^n; orders other than 0 are kept", NULL},
                     ATTEND_MAP_ARG,
                     {"stat", AL_T_WORD, "sum", "none sum", 0, 0, "W: nothing, or sum of w", NULL},
                     {"normalise", AL_T_BOOL, "false", NULL, 0, 0, "divide y by W", NULL},
                     {"scale", AL_T_NUM, "1", NULL, 0, 0, "of the logits", NULL},
                     {"carry", AL_T_BOOL, "false", NULL, 0, 0,
                      "hand on the state after the last token", NULL},
                     VISIBLE_ARGS,
                     {0}}},
    .shape = shape,
    .forward = forward,
    .bf16 = AL_KERNELS(alk_linear_states_room_has, alk_linear_fwd_room_has, alk_linear_fwd_has,
                       alk_linear_bwd_room_has, alk_linear_bwd_has, alk_chunked_states_room_has,
                       alk_chunked_fwd_room_has, alk_chunked_fwd_has, alk_chunked_bwd_room_has,
                       alk_chunked_bwd_has, alk_decay_sums_has, alk_reach_has, alk_reach_dirty_has,
                       alk_reach_clean_has),
    .backward = backward,
    .plan_size = sizeof(plan),
    .reads_in = 1 << Q | 1 << K | 1 << V | 1 << DECAY | 1 << COEFFICIENTS | 1 << LENGTHS |
                1 << VALUE_SCALE | 1 << STATE | 1 << NORM_STATE,
    .reads_out = 1 << Y | 1 << W | 1 << SUMS | 1 << STATES,
    .samples =
        (const al_sample[]){
            {"(1,5,2,3) (1,5,2,3) (1,5,2,2)", .args = "causal=true"},
            {"(2,6,2,3) (2,6,2,3) (2,6,2,5)", .args = "stat=none scale=0.7"},
            {"p(2,5,4,3) p(2,7,2,3) (2,7,2,4) - - i(2)<8 p(2,7,2)", .args = "normalise=true"},
            {"p(2,6,4,3) p(2,6,2,3) (2,6,2,5) - - i(2)<7 p(2,6,2)",
             .args = "normalise=true causal=true"},
            {"p(1,5,2,3) p(1,5,2,3) (1,5,2,2) (1,5,1)", .args = "causal=true normalise=true",
             .lo = 0.1, .hi = 1},
            {"(2,6,6,3) (2,6,2,3) (2,6,2,5) (2,6,3) - i(2)<7 p(2,6,2)",
             .args = "feature_map=l2 stat=none causal=true"},
            {"p(2,6,4,3) p(2,6,2,3) (2,6,2,5) (2,6,4) - i(2)<7",
             .args = "normalise=true causal=true", .lo = -0.9, .hi = 0.1},
            {"p(2,131,4,3) p(2,131,2,3) (2,131,2,17) - - i(2)<132",
             .args = "normalise=true causal=true scale=0.5"},
            {"p(2,131,4,18) p(2,131,2,18) (2,131,2,3) (2,131,2) - i(2)<132 p(2,131,2)",
             .args = "causal=true", .lo = -0.9, .hi = 0.1},
            {"p(1,1100,2,3) p(1,1100,1,3) (1,1100,1,2) (1,1100,1) - i(1)<1101",
             .args = "normalise=true causal=true", .lo = -0.9, .hi = 0.1},
            {"p(1,1100,2,3) p(1,1100,1,3) (1,1100,1,2)", .args = "normalise=true causal=true"},
            {"p(1,1100,2,3) p(1,1300,1,3) (1,1300,1,2)", .args = "normalise=true"},
            {"(1,5,2,3) (1,5,2,3) (1,5,2,2)", .args = "coefficients={1,1,0.5} causal=true"},
            {"(1,6,2,3) (1,6,1,3) (1,6,1,2) (1,6,2) (3) - - (1,2,10,2) (1,2,10)",
             .args = "coefficients={1,0.5,0.3} causal=true carry=true scale=0.7", .lo = -0.9,
             .hi = 0.3},
            {"(2,5,2,3) (2,5,1,3) (2,5,1,2) (2,5,1) (5) i(2)<6 p(2,5,1) (2,1,22,2)",
             .args = "coefficients={1,0,0.5,0,0.2} causal=true carry=true stat=none", .lo = -0.9,
             .hi = 0.3},
            {"p(1,4,1,4) p(1,4,1,4) (1,4,1,3) - - i(1)<5 - (1,1,24,3) p(1,1,24)",
             .args = "coefficients={0,0.5,0,0.3} causal=true carry=true "
                     "normalise=true",
             .lo = 0.1, .hi = 0.9},
            {"(1,5,2,3) (1,7,1,3) (1,7,1,2) - (3)", .args = "coefficients={1,1,0.5} scale=0.5"},
            {"p(2,5,2,3) p(2,5,2,3) (2,5,2,2) (2,5,1) - i(2)<6 - (2,2,3,2) p(2,2,3)",
             .args = "causal=true carry=true normalise=true", .lo = -0.9, .hi = 0.1},
            {"(2,131,4,5) (2,131,2,5) (2,131,2,17) (2,131,2) (4) i(2)<132 p(2,131,2) (2,2,56,17) "
             "p(2,2,56)",
             .args = "coefficients={1,1,0.5,0.2} causal=true carry=true scale=0.2", .lo = -0.5,
             .hi = 0.1},
            {"(1,1100,2,4) (1,1100,1,4) (1,1100,1,3) (1,1100,1) (3) i(1)<1101 - (1,1,15,3) "
             "p(1,1,15)",
             .args = "coefficients={1,1,0.5} normalise=true causal=true carry=true", .lo = -0.5,
             .hi = 0.1},
            {"(1,70,2,14) (1,70,1,14) (1,70,1,3) (1,70,1) (4) - - (1,1,679,3) p(1,1,679)",
             .args = "coefficients={0,1,1,0.5} causal=true carry=true scale=0.3", .lo = -0.6,
             .hi = 0.2},
            {"p(1,1100,2,3) p(1,1300,1,3) (1,1300,1,2) - p(3)",
             .args = "coefficients={1,1,0.5} normalise=true scale=0.3"},
#define POINTWISE(name, value, gradient, reads, lo, hi, gap, args, doc, torch, latex, sign, slots, \
                  ...)                                                                             \
  ALK_IF_MAP_##slots(ATTEND_MAP_SAMPLE(#name, lo, hi, gap, "(1,6,2,3) (1,6,1,3) (1,6,1,2)",        \
                                       "coefficients={0.5,1} stat=none causal=true"))
#include "../../kernels/pointwise.def"
#undef POINTWISE
            {0}},
};

AL_OPS(attend_chunked, &attend_chunked);
