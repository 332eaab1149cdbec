/* attend_step.c: attention with polynomial weights, one token after a state (kernels/step.h has the
 * formula): what attend_chunked does for T = 1, by code that shares nothing with it. */
#include "attend_reach.h"
#include "coefficients.h"
#include "../../kernels/step.h"

/* ORDER inputs of attention, ORDER outputs of attention */
enum { COEFFICIENTS = DECAY + 1, LENGTHS, VALUE_SCALE, STATE, NORM };
enum { Y, W, NEXT_NORM = NEXT + 1 };

typedef struct plan {
  alk_step_spec spec; /* points to these */
  double kept[ALK_MAX_COEFFICIENTS], base[ALK_MAX_COEFFICIENTS];
} plan;

/* base_n: what the input's coefficient of order n is multiplied by. */
static void fill(const al_call *k, plan *p) {
  const int64_t *q = k->in_meta[Q].shape;
  const coefficient_list f = coefficients_of(k, COEFFICIENTS);
  const double scale = al_opt_num(k->opts, "scale");
  alk_step_spec *a = &p->spec;
  *a = (alk_step_spec){.B = q[0],
                       .H = q[2],
                       .Hkv = k->in_meta[K].shape[2],
                       .Hd = k->in_meta[DECAY].ndim == 3 ? k->in_meta[DECAY].shape[2] : 0,
                       .D = q[3],
                       .E = k->in_meta[V].shape[3],
                       .map = (alk_map)al_opt_choice(k->opts, "feature_map"),
                       .stat = (alk_stat)al_opt_choice(k->opts, "stat"),
                       .normalise = al_opt_bool(k->opts, "normalise"),
                       .n_coefficients = f.n,
                       .kept = p->kept,
                       .base = p->base};
  double power = 1;
  for (int i = 0; i < f.n; i++, power *= scale) {
    p->kept[i] = f.base[i] != 0;
    p->base[i] = f.base[i] * power;
  }
  a->Hs = alk_step_states(a->H, a->Hkv, a->Hd);
  a->R = alk_features(a->D, f.n, p->kept);
}

static al_status check_state(al_ctx *c, const al_call *k, int i, int ndim, const int64_t *want) {
  const al_meta *got = &k->in_meta[i];
  al_meta need = {.ndim = ndim};
  memcpy(need.shape, want, (size_t)ndim * sizeof *want);
  if (got->ndim == ndim && memcmp(got->shape, want, (size_t)ndim * sizeof *want) == 0) return AL_OK;
  return al_fail(c, AL_ESHAPE,
                 "attend_step: %s: shape %s needed: batch, states, features of the kept orders%s, "
                 "got %s",
                 k->op->info.inputs[i].name, AL_META_STR(&need), ndim == 4 ? ", channels of v" : "",
                 AL_META_STR(got));
}

static al_status shape(al_ctx *c, al_call *k) {
  AL_TRY(attend_inputs(c, k, LENGTHS, VALUE_SCALE));
  const int64_t T = k->in_meta[Q].shape[1], S = k->in_meta[K].shape[1];
  if (T != 1 || S != 1)
    return al_fail(c, AL_ESHAPE, "attend_step: q, k: one token needed, got %lld rows and %lld keys",
                   (long long)T, (long long)S);
  AL_TRY(coefficients_check(c, k, COEFFICIENTS, true));
  const double *list;
  const int n = al_opt_list(k->opts, "coefficients", &list);
  AL_TRY(attend_held(c, k, n, list));
  const alk_step_spec *a = &((plan *)k->plan)->spec;
  fill(k, k->plan);
  const int64_t want[] = {a->B, a->Hs, a->R, a->E};
  AL_TRY(check_state(c, k, STATE, 4, want));
  if (k->in[NORM]) AL_TRY(check_state(c, k, NORM, 3, want));
  if (!k->in[NORM] != (a->stat == ALK_STAT_none))
    return al_fail(c, AL_EVALUE, "attend_step: norm_state: %s with stat=%s",
                   k->in[NORM] ? "none taken" : "needed", al_opt_word(k->opts, "stat"));
  k->out_meta[Y] = attend_y(k);
  k->out_meta[W] = attend_row(k);
  k->out_meta[NEXT] = k->in_meta[STATE];
  k->out_meta[NEXT_NORM] =
      k->in[NORM] ? k->in_meta[NORM] : (al_meta){.dtype = k->in_meta[Q].dtype, .ndim = 1};
  return AL_OK;
}

/* multiplicity (R); new. */
static al_tensor *multiplicities(al_ctx *c, const al_call *k, const alk_step_spec *a) {
  const int64_t n = alk_monomial_room(a->D, alk_orders(a->n_coefficients, a->kept));
  al_tensor *m = al_tensor_new(c, al_statistic_type(k->in_meta[Q].dtype), 1, &a->R),
            *room = al_tensor_new(c, AL_F64, 1, &n);
  if (m && room)
    ALK_RUN(al_here(c, (alk_dtype)k->in_meta[Q].dtype), monomial_weights, a->D, a->n_coefficients,
            a->kept, al_data(m), al_data(room));
  al_release(room);
  return m;
}

static int64_t products(const alk_step_spec *a) { return a->B * (a->Hs + a->H) * a->R * a->E; }

static alk_step_in inputs(const al_call *k, const al_tensor *multiplicity) {
  return (alk_step_in){.q = al_data(k->in[Q]),
                       .k = al_data(k->in[K]),
                       .v = al_data(k->in[V]),
                       .b = al_data(k->in[VALUE_SCALE]),
                       .decay = al_data(k->in[DECAY]),
                       .state = al_data(k->in[STATE]),
                       .norm = al_data(k->in[NORM]),
                       .multiplicity = al_data(multiplicity)};
}

static al_status forward(al_ctx *c, al_call *k) {
  alk_step_spec a = ((const plan *)k->plan)->spec;
  const al_place *at = al_here(c, (alk_dtype)k->in_meta[Q].dtype);
  al_tensor *m = multiplicities(c, k, &a), *scratch = AL_ROOM(at, step_fwd, &a),
            *factors = input_f64(c, k, COEFFICIENTS);
  a.lengths = al_data(k->in[LENGTHS]), a.factors = al_data(factors);
  al_count(c, products(&a));
  if (al_error(c) == AL_OK) {
    const alk_step_in t = inputs(k, m);
    ALK_RUN(at, step_fwd, &a, &t, al_data(k->out[Y]), al_data(k->out[W]), al_data(k->out[NEXT]),
            al_data(k->out[NEXT_NORM]), al_data(scratch));
  }
  al_release(m);
  al_release(factors);
  al_release(scratch);
  return al_error(c);
}

static al_status backward(al_ctx *c, al_call *k) {
  AL_TRY(attend_without_unreached(c, k, forward, VALUE_SCALE, true));
  alk_step_spec a = ((const plan *)k->plan)->spec;
  const al_place *at = al_here(c, (alk_dtype)k->in_meta[Q].dtype);
  al_tensor *m = multiplicities(c, k, &a), *scratch = AL_ROOM(at, step_bwd, &a), *steps = NULL,
            *parts = NULL, *factors = input_f64(c, k, COEFFICIENTS);
  a.lengths = al_data(k->in[LENGTHS]), a.factors = al_data(factors);
  static const int made[] = {Q, K, V, VALUE_SCALE, STATE, NORM}; /* by the kernel, all at once */
  for (size_t i = 0; i < sizeof made / sizeof *made; i++)
    if (k->in_meta[made[i]].ndim) k->din[made[i]] = attend_gradient(c, k, made[i]);
  if (k->need[DECAY]) {
    k->din[DECAY] = attend_gradient(c, k, DECAY);
    steps = al_tensor_new(c, AL_F64, 2, (int64_t[]){a.B, a.Hs});
  }
  if (k->need[COEFFICIENTS])
    parts = al_tensor_new(c, AL_F64, 2, (int64_t[]){a.B * a.H, a.n_coefficients});
  if (al_error(c) == AL_OK) {
    const alk_step_in t = inputs(k, m);
    const alk_step_grad g = {.y = al_data(k->out[Y]),
                             .W = al_data(k->out[W]),
                             .dy = al_data(k->dout[Y]),
                             .dW = al_data(k->dout[W]),
                             .dnext = al_data(k->dout[NEXT]),
                             .dnext_norm = k->in[NORM] ? al_data(k->dout[NEXT_NORM]) : NULL,
                             .dq = al_data(k->din[Q]),
                             .dk = al_data(k->din[K]),
                             .dv = al_data(k->din[V]),
                             .db = k->in[VALUE_SCALE] ? al_data(k->din[VALUE_SCALE]) : NULL,
                             .ddecay = steps ? al_data(k->din[DECAY]) : NULL,
                             .dstate = al_data(k->din[STATE]),
                             .dnorm = k->in[NORM] ? al_data(k->din[NORM]) : NULL,
                             .steps = al_data(steps),
                             .dcoefficients = al_data(parts)};
    al_count(c, 2 * products(&a));
    ALK_RUN(at, step_bwd, &a, &t, &g, al_data(scratch));
    if (parts) k->din[COEFFICIENTS] = coefficients_grad(c, k, COEFFICIENTS, parts);
  }
  al_release(m);
  al_release(factors);
  al_release(scratch);
  al_release(steps);
  al_release(parts);
  return al_error(c);
}

static const al_op attend_step = {
    .info = {.name = "attend_step",
             .doc =
                 "One token of attention with polynomial weights after a state: state' = A state "
                 "+ m(phi(k)) b v^T, y from phi(q) and state', divided by W with normalise. m: "
                 "monomials of the kept orders, R of them; Hs: runs of query heads that share "
                 "key head and decay.",
             .inputs =
                 (const al_row[]){
                     {"q", 0, "(B,1,H,D)"},
                     {"k", 0, "(B,1,Hkv,D), Hkv divides H"},
                     {"v", 0, "(B,1,Hkv,E)"},
                     {"decay", AL_IN_OPTIONAL, "(B,1,Hd), Hd divides H: log decay of the step"},
                     {"coefficients", AL_IN_OPTIONAL, "(n+1): factors of the option of that name"},
                     {"lengths", AL_IN_OPTIONAL | AL_IN_I32,
                      "(B), 0 or 1: a row with 0 adds nothing and does not decay"},
                     {"value_scale", AL_IN_OPTIONAL, "(B,1,Hkv) b: y sums w b v"},
                     {"state", AL_STAT, "(B,Hs,R,E)"},
                     {"norm_state", AL_IN_OPTIONAL | AL_STAT, "(B,Hs,R); not with stat=none"},
                     {0}},
             .outputs =
                 (const al_row[]){{"y", 0, "(B,1,H,E)"},
                                  {"W", AL_STAT, "(B,H,1)"},
                                  {"state", AL_STAT, "(B,Hs,R,E), after the token"},
                                  {"norm_state", AL_STAT, "(B,Hs,R), after the token, or (0)"},
                                  {0}},
             .args =
                 (const al_arg[]){
                     {"coefficients", AL_T_LIST | AL_T_NUM, "{0,1}", NULL, 0, 0,
                      "c_0, c_1, ..: weights A sum c_n s^n; orders with 0 have no rows", NULL},
                     ATTEND_MAP_ARG,
                     {"stat", AL_T_WORD, "sum", "none sum", 0, 0, "W: nothing, or sum of w", NULL},
                     {"normalise", AL_T_BOOL, "false", NULL, 0, 0, "divide y by W", NULL},
                     {"scale", AL_T_NUM, "1", NULL, 0, 0, "of the logits", NULL},
                     {0}}},
    .shape = shape,
    .forward = forward,
    .bf16 = AL_KERNELS(alk_monomial_weights_has, alk_step_fwd_room_has, alk_step_fwd_has,
                       alk_step_bwd_room_has, alk_step_bwd_has, alk_reach_has, alk_reach_dirty_has,
                       alk_reach_clean_has),
    .backward = backward,
    .plan_size = sizeof(plan),
    .reads_in = 1 << Q | 1 << K | 1 << V | 1 << DECAY | 1 << COEFFICIENTS | 1 << LENGTHS |
                1 << VALUE_SCALE | 1 << STATE | 1 << NORM,
    .reads_out = 1 << Y | 1 << W,
    .samples =
        (const al_sample[]){
            {.inputs = "(2,1,2,3) (2,1,2,3) (2,1,2,4) - - - - (2,2,3,4) (2,2,3)"},
            {"p(2,1,4,3) p(2,1,2,3) (2,1,2,5) (2,1,2) - - p(2,1,2) (2,2,3,5) p(2,2,3)",
             .args = "normalise=true", .lo = 0.1, .hi = 0.9},
            {"(2,1,4,3) (2,1,2,3) (2,1,2,5) - (3) i(2)<2 p(2,1,2) (2,2,10,5)",
             .args = "coefficients={1,1,0.5} stat=none scale=0.7"},
            {"p(1,1,6,3) p(1,1,2,3) (1,1,2,2) (1,1,3) (4) - - (1,6,14,2) (1,6,14)",
             .args = "coefficients={1,1,0,0.3} scale=0.5", .lo = -0.9, .hi = 0.1},
            {"(3,1,2,2) (3,1,1,2) (3,1,1,3) (3,1,1) - i(3)<2 p(3,1,1) p(3,1,3,3) p(3,1,3)",
             .args = "coefficients={0,0,1} normalise=true scale=-1.5"},
            {"(1,1,2,3) (1,1,1,3) (1,1,1,3) (1,1,2) - - - (1,2,3,3) (1,2,3)",
             .args = "feature_map=l2"},
            {"(1,1,1,30) (1,1,1,30) (1,1,1,2) - - - - (1,1,30,2) (1,1,30)",
             .args = "coefficients={0,1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0}"},
            {"p(1,1,2,3) p(1,1,1,3) (1,1,1,3) - - - - (1,1,4,3) p(1,1,4)",
             .args = "coefficients={1,1} normalise=true", .lo = 0.1, .hi = 1},
            {"(2,1,4,4) (2,1,2,4) (2,1,2,67) (2,1,1) - - - (2,2,34,67) (2,2,34)",
             .args = "coefficients={0,0.5,1,2}", .lo = -0.8, .hi = 0.8},
            {"(1,1,3,16) (1,1,1,16) (1,1,1,49) - - - - (1,1,153,49) p(1,1,153)",
             .args = "coefficients={1,1,0.5} normalise=true scale=0.25"},
#define POINTWISE(name, value, gradient, reads, lo, hi, gap, args, doc, torch, latex, sign, slots, \
                  ...)                                                                             \
  ALK_IF_MAP_##slots(ATTEND_MAP_SAMPLE(#name, lo, hi, gap,                                         \
                                       "(2,1,4,3) (2,1,2,3) (2,1,2,4) - - - - (2,2,4,4)",          \
                                       "coefficients={0.5,1} stat=none"))
#include "../../kernels/pointwise.def"
#undef POINTWISE
            {0}},
};

AL_OPS(attend_step, &attend_step);
