/* mean.c: the smallest plug-in that works: every visible value counts the same. */
#include "attn.h"

static const al_arg options[] = {
    {"gain", AL_T_NUM, "1", NULL, -1e308, 1e308, "times the output", NULL}, {0}};
static const attn_preset presets[] = {{"test/mean2", "gain=2", "", "a test", ""}, {0}};

static al_tensor *forward(al_ctx *c, const al_opts *o, const attn_sizes *s, al_tensor *const *p,
                          const attn_in *in) {
  (void)s, (void)p;
  al_tensor *w =
      al_run(c, "scores", AL_IN(in->q, in->k, in->lengths), "scale=0 causal=%s offset=%lld",
             in->causal ? "true" : "false", (long long)in->offset);
  (void)w, (void)o;
  return w;
}

ATTN_FAMILY(mean, .doc = "the mean of the visible values", .options = options, .presets = presets,
            .forward = forward);
