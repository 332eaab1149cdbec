/* mean.c: a plug-in that works: every visible value counts the same, times a gain. */
#include "attn.h"

static const al_arg options[] = {
    {"gain", AL_T_NUM, "1", NULL, -1e308, 1e308, "times the output", NULL}, {0}};
static const attn_preset presets[] = {{"test/twice_the_mean", "gain=2", "", "a test", ""}, {0}};

static al_tensor *forward(al_ctx *c, const al_opts *o, const attn_sizes *s, al_tensor *const *p,
                          const attn_in *in) {
  (void)s, (void)p;
  const char *causal = in->causal ? "true" : "false";
  const long long offset = in->offset;
  al_tensor *w = al_run(c, "scores", AL_IN(in->q, in->k, in->lengths),
                        "scale=0 causal=%s offset=%lld", causal, offset);
  w = al_run(c, "weights", AL_IN(w, NULL, NULL, NULL, in->lengths), "f=exp causal=%s offset=%lld",
             causal, offset); /* (B,H,T,S): 1 where visible */
  al_tensor *y =
      al_run(c, "mix", AL_IN(w, in->v, in->lengths), "causal=%s offset=%lld", causal, offset);
  al_tensor *n =
      al_run(c, "visible_count", AL_IN(in->q, in->lengths), "causal=%s offset=%lld keys=%lld",
             causal, offset, (long long)al_size(in->k, 1)); /* (B,T) */
  n = al_run(c, "reshape", AL_IN(al_run(c, "clamp", AL_IN(n), "min=1")), "shape={%lld,%lld,1,1}",
             (long long)al_size(in->q, 0), (long long)al_size(in->q, 1));
  y = al_run(c, "div", AL_IN(y, n), "");
  return al_run(c, "scale", AL_IN(y), "by=%.17g", al_opt_num(o, "gain"));
}

static unsigned claims(const al_opts *o) {
  const bool one = al_opt_num(o, "gain") == 1;
  return ATTN_CAUSAL | ATTN_SHIFT_INVARIANT | (one ? ATTN_ROWSUM1 : 0) |
         (al_opt_num(o, "gain") >= 0 ? ATTN_POSITIVE_WEIGHTS : 0);
}

ATTN_FAMILY(mean, .doc = "the mean of the visible values, times a gain", .options = options,
            .presets = presets, .forward = forward, .claims = claims);
