/* sigmoid_attention: each key is weighed by itself; the weights of a row compete for nothing.
 *
 *   s_ij = q_i.k_j / sqrt(D)
 *   w_ij = sigmoid(s_ij + b_h - log n_i)        n_i = number of keys that row i sees
 *   o_i  = sum_j w_ij v_j
 *
 * With b = 0 and small logits a row's weights add up to about one, as softmax's do exactly. b is
 * one number a head, learned, 0 at first; "length" switches -log n_i off, "per_row" is the default.
 *
 * Source: sigmoid self-attention (arXiv 2409.04431), whose bias is -log n for the whole sequence;
 * the row's own n_i makes it causal. */
#include "attn.h"
#include <math.h>
#include <stdio.h>

static const al_arg options[] = {{"logit_bias", AL_T_WORD | AL_T_NUM, "learned", "learned", -100,
                                  100, "b: one a head, 0 at first, or a number", NULL},
                                 {"length", AL_T_WORD, "per_row", "per_row none", 0, 0,
                                  "per_row: log of the number of visible keys is subtracted", NULL},
                                 {0}};

static const attn_preset presets[] = {
    {"sigmoid_attention/fixed", "logit_bias=0", "", "arXiv 2409.04431", "no parameter of its own"},
    {"sigmoid_attention/no_length", "logit_bias=-4 length=none", "", "arXiv 2409.04431, ablation",
     "weights of a row add up to more, the more keys it sees"},
    {0}};

static int params(const al_opts *o, const attn_sizes *s, attn_param *rows) {
  if (!al_opt_is(o, "logit_bias", "learned")) return 0;
  rows[0] = (attn_param){
      .name = "bias", .ndim = 1, .shape = {s->heads}, .init = ATTN_ZEROS, .doc = "(H) b"};
  return 1;
}

#define OP(name, ...) al_run(c, name, __VA_ARGS__)

/* log n_i as (B,1,T,1); 0 for a row that sees no key. */
static al_tensor *log_count(al_ctx *c, const attn_in *in, const char *visible) {
  al_tensor *n = OP("visible_count", AL_IN(in->q, in->lengths), "keys=%lld %s",
                    (long long)al_size(in->k, 1), visible);
  n = OP("log", AL_IN(OP("clamp", AL_IN(n), "min=1")), "");
  return OP("reshape", AL_IN(n), "shape={%lld,1,%lld,1}", (long long)al_size(in->q, 0),
            (long long)al_size(in->q, 1));
}

static al_tensor *forward(al_ctx *c, const al_opts *o, const attn_sizes *s, al_tensor *const *p,
                          const attn_in *in) {
  char visible[64];
  snprintf(visible, sizeof visible, "causal=%s offset=%lld", in->causal ? "true" : "false",
           (long long)in->offset);
  al_tensor *t = OP("scores", AL_IN(in->q, in->k, in->lengths), "scale=%.17g %s",
                    1 / sqrt((double)s->head_dim), visible); /* (B,H,T,S) */
  if (al_opt_is(o, "logit_bias", "learned"))
    t = OP("add", AL_IN(t, OP("reshape", AL_IN(p[0]), "shape={%lld,1,1}", (long long)s->heads)),
           "");
  else t = OP("scale", AL_IN(t), "by=1 add=%.17g", al_opt_num(o, "logit_bias"));
  if (al_opt_is(o, "length", "per_row")) t = OP("sub", AL_IN(t, log_count(c, in, visible)), "");
  /* what stands in hidden places is not read by mix */
  return OP("mix", AL_IN(OP("sigmoid", AL_IN(t), ""), in->v, in->lengths), "%s", visible);
}

static unsigned claims(const al_opts *o) {
  (void)o;
  return ATTN_CAUSAL | ATTN_POSITIVE_WEIGHTS;
}

static void formula(const al_opts *o, char *buf, size_t n) {
  snprintf(buf, n, "o_i = sum_j sigmoid(s + b%s) v_j;  s = q_i.k_j / sqrt(D)",
           al_opt_is(o, "length", "per_row") ? " - log n_i" : "");
}

ATTN_FAMILY(sigmoid_attention, .doc = "every key is weighed by itself, by a sigmoid",
            .options = options, .presets = presets, .params = params, .forward = forward,
            .claims = claims, .formula = formula);
