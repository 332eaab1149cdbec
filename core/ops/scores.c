/* scores.c: logits of attention over visible entries (kernels/visible.h).
 *
 *     s_ij = scale q_i.k_j;   dq_i = scale sum_j ds_ij k_j;   dk_j = scale sum_i ds_ij q_i
 *
 * where ds_i is all 0, dq_i is 0 and q_i no term; where all ds_ij of a key are 0, k_j is none. */
#include "reach.h"
#include "visible.h"

static al_status shape(al_ctx *c, al_call *k) {
  AL_TRY(visible_axes(c, k, 0, 4, "(B,T,H,D)"));
  AL_TRY(visible_axes(c, k, 1, 4, "(B,S,Hkv,D)"));
  const al_meta *q = &k->in_meta[0], *key = &k->in_meta[1];
  if (q->shape[0] != key->shape[0] || q->shape[3] != key->shape[3])
    return al_fail(c, AL_ESHAPE, "scores: k: shape (%lld,S,Hkv,%lld) needed to match q %s, got %s",
                   (long long)q->shape[0], (long long)q->shape[3], AL_META_STR(q),
                   AL_META_STR(key));
  AL_TRY(visible_heads(c, k, 1, q->shape[2], key->shape[2]));
  AL_TRY(visible_lengths(c, k, 2, q->shape[0], key->shape[1]));
  alk_visible *g = k->plan;
  *g = visible_of(k);
  g->B = q->shape[0], g->T = q->shape[1], g->H = q->shape[2];
  g->S = key->shape[1], g->Hkv = key->shape[2];
  k->out_meta[0] = (al_meta){.dtype = q->dtype,
                             .ndim = 4,
                             .shape = {q->shape[0], q->shape[2], q->shape[1], key->shape[1]}};
  return AL_OK;
}

static al_status forward(al_ctx *c, al_call *k) {
  const alk_visible g = visible_plan(k, 2);
  al_count(c, visible_pairs(&g) * k->in_meta[0].shape[3]);
  ALK_RUN(al_here(c, (alk_dtype)k->out_meta[0].dtype), visible_scores, &g, k->in_meta[0].shape[3],
          al_opt_num(k->opts, "scale"), al_data(k->in[0]), al_data(k->in[1]), al_data(k->out[0]));
  return AL_OK;
}

static al_status backward(al_ctx *c, al_call *k) {
  const alk_visible g = visible_plan(k, 2);
  const alk_dtype t = (alk_dtype)k->out_meta[0].dtype;
  const int64_t D = k->in_meta[0].shape[3];
  const double scale = al_opt_num(k->opts, "scale");
  const int64_t rows = g.B * g.T * g.H;
  al_tensor *row = reach_mask(c, rows), *keys = reach_mask(c, g.B * g.S * g.Hkv), *q = NULL,
            *key = NULL;
  if (row && keys) {
    ALK_RUN(al_here(c, t), visible_reach, &g, al_data(k->dout[0]), al_data(row), al_data(keys));
    q = reach_clean(c, k->in[0], 3, row), key = reach_clean(c, k->in[1], 3, keys);
  }
  for (int i = 0; i < 2; i++)
    if (k->need[i]) k->din[i] = al_new_meta(c, &k->in_meta[i]);
  al_count(c, (k->need[0] + k->need[1]) * visible_pairs(&g) * D);
  if (al_error(c) == AL_OK && k->need[0]) {
    const alk_view dq = al_view(k->din[0]);
    ALK_RUN(al_here(c, t), visible_gather, &g, D, scale, al_data(k->dout[0]), al_data(key),
            dq.data);
    ALK_RUN(al_here(c, t), reach_clean, &dq, 3, al_data(row), dq.data);
  }
  if (al_error(c) == AL_OK && k->need[1])
    ALK_RUN(al_here(c, t), visible_scatter, &g, D, scale, al_data(k->dout[0]), al_data(q),
            al_data(k->din[1]));
  al_release(q);
  al_release(key);
  al_release(row);
  al_release(keys);
  return al_error(c);
}

static const al_op scores = {
    .info = {.name = "scores",
             .doc = "Logits scale q.k of each query row (B,T,H,D) with the keys (B,S,Hkv,D) it "
                    "sees -> (B,H,T,S); hidden "
                    "entries are 0, query head h reads key head h / (H / Hkv).",
             .inputs = (const al_row[]){{"q", 0, "(B,T,H,D)"},
                                        {"k", 0, "(B,S,Hkv,D), Hkv divides H"},
                                        LENGTHS_ROW,
                                        {0}},
             .outputs = (const al_row[]){{"s", 0, "(B,H,T,S)"}, {0}},
             .args = (const al_arg[]){{.name = "scale",
                                       .type = AL_T_NUM,
                                       .def = "1",
                                       .doc = "factor of every logit"},
                                      VISIBLE_ARGS,
                                      {0}}},
    .shape = shape,
    .forward = forward,
    .backward = backward,
    .plan_size = sizeof(alk_visible),
    .reads_in = 1 | 2 | 4,
    .samples = (const al_sample[]){{.inputs = "(2,3,2,5) (2,4,2,5)"},
                                   {"(1,7,2,3) (1,7,2,3)", .args = "causal=true scale=0.25"},
                                   {"(2,5,4,3) (2,6,2,3) i(2)<7", .args = "scale=-2"},
                                   {"(2,5,4,1) (2,9,1,1) i(2)<10", .args = "causal=true offset=3"},
                                   {"(1,5,1,2) (1,4,1,2)", .args = "causal=true offset=-2"},
                                   {"(1,13,1,2) (1,19,1,2)", .args = "causal=true offset=6"},
                                   {.inputs = "(1,3,1,2) (1,70,1,2) i(1)<71"},
                                   {"(1,2,1,300) (1,3,1,300)", .args = "causal=true"},
                                   {0}},
};

AL_OPS(scores, &scores);
