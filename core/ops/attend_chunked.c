/* attend_chunked.c: attention with linear weights in time linear in T (kernels/linear.h has the
 * formula): attend with f=polynomial coefficients={0,1}, by a state between chunks of tokens. */
#include "attend.h"
#include "../../kernels/linear.h"

enum { LENGTHS = DECAY + 1, VALUE_SCALE };
enum { Y, W, SUMS, STATES };

static alk_attn_spec spec_of(const al_call *k) {
  alk_attn_spec a = attend_spec(k, LENGTHS);
  a.weight.Hd = k->in_meta[DECAY].ndim == 3 ? k->in_meta[DECAY].shape[2] : 0;
  return a;
}

static al_status shape(al_ctx *c, al_call *k) {
  const int64_t T = k->in_meta[Q].shape[1], S = k->in_meta[K].shape[1],
                offset = al_opt_int(k->opts, "offset");
  AL_TRY(attend_inputs(c, k, LENGTHS, VALUE_SCALE));
  if (al_opt_bool(k->opts, "causal") && (T != S || offset != 0))
    return al_fail(c, AL_ESHAPE,
                   "attend_chunked: causal: as many queries as keys and offset 0 needed, got %lld, "
                   "%lld and offset %lld",
                   (long long)T, (long long)S, (long long)offset);
  const alk_attn_spec a = spec_of(k);
  k->out_meta[Y] = attend_y(k);
  k->out_meta[W] = attend_row(k);
  k->out_meta[SUMS] = attend_sums(k);
  k->out_meta[STATES] = (al_meta){.dtype = k->in_meta[Q].dtype,
                                  .ndim = 1,
                                  .shape = {alk_linear_states((alk_dtype)k->in_meta[Q].dtype)(&a)}};
  return AL_OK;
}

static const void *optional(const al_tensor *t) { return t ? al_data(t) : NULL; }

static al_status forward(al_ctx *c, al_call *k) {
  const alk_attn_spec a = spec_of(k);
  const alk_dtype dtype = (alk_dtype)k->in_meta[Q].dtype;
  const int64_t jobs = alk_linear_jobs(&a, al_threads()),
                n = alk_linear_fwd_scratch(dtype)(&a, jobs);
  al_tensor *scratch = al_tensor_new(c, k->in_meta[Q].dtype, 1, &n);
  if (scratch)
    alk_linear_fwd(dtype)(&a, al_data(k->in[Q]), al_data(k->in[K]), al_data(k->in[V]),
                          optional(k->in[VALUE_SCALE]), logit_sums(k->in[DECAY], k->out[SUMS]),
                          al_data(k->out[Y]), al_data(k->out[W]), al_data(k->out[STATES]),
                          al_data(scratch), jobs);
  al_release(scratch);
  return al_error(c);
}

static al_status backward(al_ctx *c, al_call *k) {
  const alk_attn_spec a = spec_of(k);
  const alk_dtype dtype = (alk_dtype)k->in_meta[Q].dtype;
  const int64_t jobs = alk_linear_jobs(&a, al_threads()),
                n = alk_linear_bwd_scratch(dtype)(&a, jobs);
  al_tensor *scratch = al_tensor_new(c, k->in_meta[Q].dtype, 1, &n), *steps = NULL;
  al_tensor *dy = k->dout[Y] ? al_retain(k->dout[Y]) : al_new_meta_full(c, &k->out_meta[Y], 0);
  for (int i = Q; i <= V; i++)
    k->din[i] = al_new_meta(c, &k->in_meta[i]); /* the kernel makes all three at once */
  if (k->in[VALUE_SCALE]) k->din[VALUE_SCALE] = al_new_meta(c, &k->in_meta[VALUE_SCALE]);
  if (k->need[DECAY]) {
    k->din[DECAY] = al_new_meta(c, &k->in_meta[DECAY]);
    steps = al_tensor_new(c, AL_F64, 3, (int64_t[]){a.g.B, a.g.H, a.g.S});
  }
  if (al_error(c) == AL_OK) {
    const alk_linear_grad t = {.q = al_data(k->in[Q]),
                               .k = al_data(k->in[K]),
                               .v = al_data(k->in[V]),
                               .b = optional(k->in[VALUE_SCALE]),
                               .y = al_data(k->out[Y]),
                               .W = al_data(k->out[W]),
                               .states = al_data(k->out[STATES]),
                               .dy = al_data(dy),
                               .dW = optional(k->dout[W]),
                               .sums = a.weight.Hd ? al_data(k->out[SUMS]) : NULL,
                               .dq = al_data(k->din[Q]),
                               .dk = al_data(k->din[K]),
                               .dv = al_data(k->din[V]),
                               .db = k->in[VALUE_SCALE] ? al_data(k->din[VALUE_SCALE]) : NULL,
                               .ddecay = steps ? al_data(k->din[DECAY]) : NULL,
                               .steps = steps ? al_data(steps) : NULL};
    alk_linear_bwd(dtype)(&a, &t, al_data(scratch), jobs);
  }
  al_release(scratch);
  al_release(steps);
  al_release(dy);
  return al_error(c);
}

static const al_op attend_chunked = {
    .info = {.name = "attend_chunked",
             .doc = "Attention with linear weights w = A scale phi(q).phi(k) in time linear in T: "
                    "y = sum_j w_ij v_j over the visible "
                    "keys, or divided by W = sum_j w_ij.",
             .inputs =
                 (const al_row[]){
                     {"q", 0, "(B,T,H,D)"},
                     {"k", 0, "(B,S,Hkv,D), Hkv divides H; causal: S = T"},
                     {"v", 0, "(B,S,Hkv,E)"},
                     {"decay", AL_IN_OPTIONAL, "(B,S,Hd), Hd divides H: log decay a step"},
                     LENGTHS_ROW,
                     {"value_scale", AL_IN_OPTIONAL, "(B,S,Hkv) b: y sums w b v"},
                     {0}},
             .outputs = (const al_row[]){{"y", 0, "(B,T,H,E)"},
                                         {"W", 0, "(B,H,T)"},
                                         {"sums", AL_OUT_SAVED, "(B,Hd,S), running sums of decay"},
                                         {"states", AL_OUT_SAVED, "at the ends of segments"},
                                         {0}},
             .args =
                 (const al_arg[]){
                     {"feature_map", AL_T_WORD, "identity", "identity relu elu1 l2 softplus", 0, 0,
                      "phi", NULL},
                     {"stat", AL_T_WORD, "sum", "none sum", 0, 0, "W: nothing, or sum of w", NULL},
                     {"normalise", AL_T_BOOL, "false", NULL, 0, 0, "divide y by W", NULL},
                     {"scale", AL_T_NUM, "1", NULL, 0, 0, "of the logits", NULL},
                     VISIBLE_ARGS,
                     {0}}},
    .shape = shape,
    .forward = forward,
    .backward = backward,
    .reads_in = 1 << Q | 1 << K | 1 << V | 1 << LENGTHS | 1 << VALUE_SCALE,
    .reads_out = 1 << Y | 1 << W | 1 << SUMS | 1 << STATES,
    .samples =
        (const al_sample[]){
            {"(1,5,2,3) (1,5,2,3) (1,5,2,2)", .args = "causal=true"},
            {"(2,6,2,3) (2,6,2,3) (2,6,2,5)", .args = "stat=none scale=0.7"},
            {"(2,5,4,3) (2,7,2,3) (2,7,2,4) - i(2)<8 p(2,7,2)",
             .args = "feature_map=softplus normalise=true"},
            {"(2,6,4,3) (2,6,2,3) (2,6,2,5) - i(2)<7 p(2,6,2)",
             .args = "feature_map=elu1 normalise=true causal=true"},
            {"(1,5,2,3) (1,5,2,3) (1,5,2,2) (1,5,1)",
             .args = "feature_map=relu causal=true normalise=true", .lo = 0.1, .hi = 1},
            {"(2,6,6,3) (2,6,2,3) (2,6,2,5) (2,6,3) i(2)<7 p(2,6,2)",
             .args = "feature_map=l2 stat=none causal=true"},
            {"(2,6,4,3) (2,6,2,3) (2,6,2,5) (2,6,4) i(2)<7",
             .args = "feature_map=softplus normalise=true causal=true", .lo = -0.9, .hi = 0.1},
            {"(2,131,4,3) (2,131,2,3) (2,131,2,17) - i(2)<132",
             .args = "feature_map=elu1 normalise=true causal=true scale=0.5"},
            {"(2,131,4,18) (2,131,2,18) (2,131,2,3) (2,131,2) i(2)<132 p(2,131,2)",
             .args = "feature_map=elu1 causal=true", .lo = -0.9, .hi = 0.1},
            {"(1,1100,2,3) (1,1100,1,3) (1,1100,1,2) (1,1100,1) i(1)<1101",
             .args = "feature_map=elu1 normalise=true causal=true", .lo = -0.9, .hi = 0.1},
            {"(1,1100,2,3) (1,1100,1,3) (1,1100,1,2)",
             .args = "feature_map=softplus normalise=true causal=true"},
            {"(1,1100,2,3) (1,1300,1,3) (1,1300,1,2)", .args = "feature_map=elu1 normalise=true"},
            {0}},
};

AL_OPS(attend_chunked, &attend_chunked);
