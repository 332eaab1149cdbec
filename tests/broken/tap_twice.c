/* What came back is taken for a correction of what was handed out. */
#include "attn.h"
static al_tensor *corrected(al_ctx *c, const attn_in *in, al_tensor *g) {
  al_tensor *t = attn_tap(c, in, "gate", g);
  return t == g ? g : al_run(c, "add", AL_IN(g, al_run(c, "scale", AL_IN(t), "by=1e-12")), "");
}
#define SHOWN(g) corrected(c, in, g)
#include "gated_linear.h"
BROKEN(tap_twice)
