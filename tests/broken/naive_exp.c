/* exp without the row maximum taken out: beyond f32 at scores that softmax takes. */
#include "attn.h"
#include <math.h>

static const al_arg options[] = {{0}};
#define OP(name, ...) al_run(c, name, __VA_ARGS__)

static al_tensor *forward(al_ctx *c, const al_opts *o, const attn_sizes *s, al_tensor *const *p,
                          const attn_in *in) {
  (void)o, (void)p;
  const char *causal = in->causal ? "true" : "false";
  const long long offset = in->offset;
  al_tensor *w = OP("scores", AL_IN(in->q, in->k, in->lengths), "scale=%.17g causal=%s offset=%lld",
                    1 / sqrt((double)s->head_dim), causal, offset);
  w = OP("weights", AL_IN(w, NULL, NULL, NULL, in->lengths), "f=exp causal=%s offset=%lld", causal,
         offset);
  al_tensor *W = OP("permute", AL_IN(OP("sum", AL_IN(w), "axes={-1}")), "axes={0,2,1}");
  al_tensor *y = OP("mix", AL_IN(w, in->v, in->lengths), "causal=%s offset=%lld", causal, offset);
  return OP("div", AL_IN(y, OP("unsqueeze", AL_IN(W), "axis=-1")), "");
}

static unsigned claims(const al_opts *o) { return (void)o, ATTN_CAUSAL | ATTN_ROWSUM1; }

ATTN_FAMILY(naive_exp, .doc = "a fixture of the conformance driver", .options = options,
            .forward = forward, .claims = claims);
