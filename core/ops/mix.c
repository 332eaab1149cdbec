/* mix.c: values mixed by weights over visible entries (kernels/visible.h).
 *
 *     y_i = sum_j w_ij v_j;   dw_ij = dy_i.v_j;   dv_j = sum_i w_ij dy_i
 *
 * where dy_i is 0, dw_i is 0 and w_i no factor. */
#include "reach.h"
#include "visible.h"

static al_status shape(al_ctx *c, al_call *k) {
  AL_TRY(visible_axes(c, k, 0, 4, "(B,H,T,S)"));
  AL_TRY(visible_axes(c, k, 1, 4, "(B,S,Hkv,E)"));
  const al_meta *w = &k->in_meta[0], *v = &k->in_meta[1];
  if (w->shape[0] != v->shape[0] || w->shape[3] != v->shape[1])
    return al_fail(c, AL_ESHAPE, "mix: v: shape (%lld,%lld,Hkv,E) needed to match w %s, got %s",
                   (long long)w->shape[0], (long long)w->shape[3], AL_META_STR(w), AL_META_STR(v));
  AL_TRY(visible_heads(c, k, 1, w->shape[1], v->shape[2]));
  AL_TRY(visible_lengths(c, k, 2, w->shape[0], w->shape[3]));
  alk_visible *g = k->plan;
  *g = visible_of_matrix(k);
  g->Hkv = v->shape[2];
  k->out_meta[0] = (al_meta){
      .dtype = w->dtype, .ndim = 4, .shape = {w->shape[0], w->shape[2], w->shape[1], v->shape[3]}};
  return AL_OK;
}

static al_status forward(al_ctx *c, al_call *k) {
  const alk_visible g = visible_plan(k, 2);
  al_count(c, visible_pairs(&g) * k->in_meta[1].shape[3]);
  ALK_RUN(al_here(c, (alk_dtype)k->out_meta[0].dtype), visible_gather, &g, k->in_meta[1].shape[3],
          1, al_data(k->in[0]), al_data(k->in[1]), al_data(k->out[0]));
  return AL_OK;
}

static al_status backward(al_ctx *c, al_call *k) {
  const alk_visible g = visible_plan(k, 2);
  const alk_dtype t = (alk_dtype)k->out_meta[0].dtype;
  const int64_t E = k->in_meta[1].shape[3];
  const alk_view rows = reach_heads(k->dout[0]); /* (B,H,T,E) */
  al_tensor *reached = reach_rows(c, &rows, 3);
  al_tensor *w = reached ? reach_clean(c, k->in[0], 3, reached) : NULL;
  for (int i = 0; i < 2; i++)
    if (k->need[i]) k->din[i] = al_new_meta(c, &k->in_meta[i]);
  al_count(c, (k->need[0] + k->need[1]) * visible_pairs(&g) * E);
  if (al_error(c) == AL_OK && k->need[0]) {
    const alk_view dw = al_view(k->din[0]);
    ALK_RUN(al_here(c, t), visible_scores, &g, E, 1, al_data(k->dout[0]), al_data(k->in[1]),
            dw.data);
    ALK_RUN(al_here(c, t), reach_clean, &dw, 3, al_data(reached), dw.data);
  }
  if (al_error(c) == AL_OK && k->need[1])
    ALK_RUN(al_here(c, t), visible_scatter, &g, E, 1, al_data(w), al_data(k->dout[0]),
            al_data(k->din[1]));
  al_release(w);
  al_release(reached);
  return al_error(c);
}

static const al_op mix = {
    .info = {.name = "mix",
             .doc = "Sum of the values (B,S,Hkv,E) of the keys a row sees by their weights "
                    "(B,H,T,S) -> (B,T,H,E), 0 where it "
                    "sees none; query head h reads value head h / (H / Hkv).",
             .inputs = (const al_row[]){{"w", 0, "(B,H,T,S); hidden entries are not read"},
                                        {"v", 0, "(B,S,Hkv,E), Hkv divides H"},
                                        LENGTHS_ROW,
                                        {0}},
             .outputs = (const al_row[]){{"y", 0, "(B,T,H,E)"}, {0}},
             .args = (const al_arg[]){VISIBLE_ARGS, {0}}},
    .shape = shape,
    .forward = forward,
    .backward = backward,
    .plan_size = sizeof(alk_visible),
    .reads_in = 1 | 2 | 4,
    .samples = (const al_sample[]){{.inputs = "(2,2,3,4) (2,4,2,5)"},
                                   {"(1,2,7,7) (1,7,2,3)", .args = "causal=true"},
                                   {.inputs = "(2,4,5,6) (2,6,2,3) i(2)<7"},
                                   {"(2,4,5,9) (2,9,1,1) i(2)<10", .args = "causal=true offset=3"},
                                   {"(1,1,5,4) (1,4,1,2)", .args = "causal=true offset=-2"},
                                   {"(1,1,13,19) (1,19,1,35)", .args = "causal=true offset=6"},
                                   {.inputs = "(1,1,2,140) (1,140,1,2)"},
                                   {0}},
};

AL_OPS(mix, &mix);
