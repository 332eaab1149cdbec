/* claims.c: the one place that names what a variant may claim. */
#include "attn.h"

static const struct {
  unsigned bit;
  const char *name, *doc;
} claims[] = {
    {ATTN_CAUSAL, "causal", "causal when asked"},
    {ATTN_ROWSUM1, "rowsum1", "weights sum to one"},
    {ATTN_POSITIVE_WEIGHTS, "positive_weights", "positive weights"},
    {ATTN_SHIFT_INVARIANT, "shift_invariant", "unchanged when one vector is added to every key"},
    {ATTN_SCALE_FREE, "scale_free", "unchanged when v is scaled"},
    {ATTN_LIMITED_SCORES, "limited_scores", "weights beyond f32 at scores of +-80"}};
enum { N_CLAIMS = sizeof claims / sizeof *claims };

const char *attn_claim_name(unsigned bit) {
  for (int i = 0; i < N_CLAIMS; i++)
    if (claims[i].bit == bit) return claims[i].name;
  return NULL;
}

bool attn_claim_at(int i, unsigned *bit, const char **doc) {
  if (i < 0 || i >= N_CLAIMS) return false;
  *bit = claims[i].bit;
  if (doc) *doc = claims[i].doc;
  return true;
}
