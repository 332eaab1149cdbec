/* visible.c: statistics of the visible entries of a row: the largest logit, the number of keys.
 * Both are constants to autograd (kernels/visible.h). */
#include "logits.h"

static al_status max_shape(al_ctx *c, al_call *k) {
  AL_TRY(visible_axes(c, k, 0, 4, "(B,H,T,S)"));
  const al_meta *s = &k->in_meta[0];
  AL_TRY(logit_shape(c, k, 1, &k->out_meta[1]));
  AL_TRY(visible_lengths(c, k, 2, s->shape[0], s->shape[3]));
  k->out_meta[0] =
      (al_meta){.dtype = s->dtype, .ndim = 3, .shape = {s->shape[0], s->shape[1], s->shape[2]}};
  return AL_OK;
}

static al_status max_forward(al_ctx *c, al_call *k) {
  alk_visible g = visible_of_matrix(k);
  g.lengths = al_data(k->in[2]);
  const alk_weight_spec spec = logit_spec(k, 1);
  ALK_RUN(al_here(c, (alk_dtype)k->out_meta[0].dtype), visible_max, &g, &spec,
          al_opt_bool(k->opts, "abs"), al_data(k->in[0]), logit_sums(c, k->in[1], k->out[1]),
          al_data(k->out[0]));
  return AL_OK;
}

static const al_op visible_max = {
    .info = {.name = "visible_max",
             .doc = "Largest logit each row sees, (B,H,T,S) -> (B,H,T), 0 where it sees none: the "
                    "reference that weights with "
                    "the same options takes; a constant.",
             .inputs = (const al_row[]){{"s", AL_IN_NODIFF, "(B,H,T,S)"},
                                        {"decay", AL_IN_OPTIONAL | AL_IN_NODIFF,
                                         "(B,S,Hd), as in weights"},
                                        LENGTHS_ROW,
                                        {0}},
             .outputs = (const al_row[]){{"m", AL_STAT, "(B,H,T)"},
                                         {"sums", AL_OUT_SAVED, "(B,Hd,S), running sums of decay"},
                                         {0}},
             .args = (const al_arg[]){VISIBLE_ARGS,
                                      {.name = "abs",
                                       .type = AL_T_BOOL,
                                       .def = "false",
                                       .doc = "of |s|, as cosh needs it"},
                                      LOGIT_ARGS,
                                      {0}}},
    .shape = max_shape,
    .forward = max_forward,
    .samples = (const al_sample[]){{.inputs = "(2,2,3,4)"},
                                   {"(1,2,7,19)", .args = "causal=true offset=9 abs=true"},
                                   {"(2,1,5,6) - i(2)<7", .args = "clamp=0.25"},
                                   {"(1,1,5,4)", .args = "causal=true offset=-2 softcap=0.5"},
                                   {"(1,4,5,5) (1,5,2)", .args = "causal=true"},
                                   {"(2,2,3,21) (2,21,1) i(2)<22",
                                    .args = "causal=true offset=18 abs=true round_bf16=true",
                                    .lo = -1, .hi = -0.5},
                                   {0}},
};

static al_status count_shape(al_ctx *c, al_call *k) {
  const al_meta *x = &k->in_meta[0];
  if (x->ndim < 2) return visible_axes(c, k, 0, 2, "(B,T,..)");
  const int64_t keys = al_opt_int(k->opts, "keys");
  AL_TRY(visible_lengths(c, k, 1, x->shape[0], keys < 0 ? x->shape[1] : keys));
  if (k->in[2] && (k->in_meta[2].ndim != 1 || k->in_meta[2].shape[0] != x->shape[0]))
    return al_fail(c, AL_ESHAPE, "visible_count: before: shape (%lld) needed to match x %s, got %s",
                   (long long)x->shape[0], AL_META_STR(x), AL_META_STR(&k->in_meta[2]));
  k->out_meta[0] = (al_meta){.dtype = x->dtype, .ndim = 2, .shape = {x->shape[0], x->shape[1]}};
  return AL_OK;
}

static al_status count_forward(al_ctx *c, al_call *k) {
  const int64_t keys = al_opt_int(k->opts, "keys");
  alk_visible g = visible_of(k);
  g.lengths = al_data(k->in[1]);
  g.B = k->in_meta[0].shape[0], g.T = k->in_meta[0].shape[1], g.S = keys < 0 ? g.T : keys,
  g.H = g.Hkv = 1;
  ALK_RUN(al_here(c, (alk_dtype)k->out_meta[0].dtype), visible_count, &g, al_data(k->in[2]),
          al_data(k->out[0]));
  return AL_OK;
}

static const al_op visible_count = {
    .info =
        {.name = "visible_count",
         .doc =
             "Number of keys each row of x (B,T,..) sees, after `before` earlier ones -> (B,T); a "
             "constant.",
         .inputs = (const al_row[]){{"x", AL_IN_NODIFF, "(B,T,..): only its shape and type count"},
                                    LENGTHS_ROW,
                                    {"before", AL_IN_OPTIONAL | AL_IN_I32,
                                     "(B): keys seen earlier, added"},
                                    {0}},
         .outputs = (const al_row[]){{"n", AL_STAT, "(B,T)"}, {0}},
         .args = (const al_arg[]){VISIBLE_ARGS,
                                  {.name = "keys",
                                   .type = AL_T_INT,
                                   .def = "-1",
                                   .min = -1,
                                   .max = 1e15,
                                   .doc = "number of keys S; -1: as many as rows"},
                                  {0}}},
    .shape = count_shape,
    .forward = count_forward,
    .samples = (const al_sample[]){{.inputs = "(2,3)"},
                                   {"(2,5,4,1)", .args = "causal=true"},
                                   {"(3,5,2) i(3)<8", .args = "causal=true offset=2 keys=7"},
                                   {"(2,4) i(2)<5", .args = "offset=1"},
                                   {"(2,4) i(2)<5 i(2)<90", .args = "causal=true"},
                                   {.inputs = "(3,2,1) - i(3)<9"},
                                   {"(1,4)", .args = "causal=true offset=-2"},
                                   {0}},
};

AL_OPS(visible, &visible_max, &visible_count);
