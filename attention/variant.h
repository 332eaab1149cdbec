/* variant.h: small parts that families share; for built-in ones and for plug-ins. */
#ifndef ATTN_VARIANT_H
#define ATTN_VARIANT_H
#include "attn.h"
#include <stdio.h>

/* What a family needs whose state follows the tokens: causal order, and rows that are the keys' own
 * tokens. `who`: the family's name. */
static inline al_status attn_check_own_tokens(al_ctx *c, const char *who, const attn_in *in) {
  const int64_t T = al_size(in->q, 1), S = al_size(in->k, 1);
  if (!in->causal)
    return al_fail(c, AL_EVALUE, "%s: causal=true needed: what a row sees follows the tokens", who);
  if (T == S && in->offset == 0) return AL_OK;
  return al_fail(c, AL_ESHAPE,
                 "%s: rows must be the keys' own tokens (a state continues a sequence), got %lld "
                 "rows, %lld keys, offset %lld",
                 who, (long long)T, (long long)S, (long long)in->offset);
}

/* What texts of PyTorch call for a vector by its length: l2norm, its gradient included. */
static inline const char *attn_torch_unit(void) {
  return "def unit(z, eps):  # z / length; where that is at most eps: z / eps, without gradient\n"
         "    length = z.norm(dim=-1, keepdim=True)\n"
         "    y = z / torch.where(length > eps, length, eps or 1)\n"
         "    return torch.where(length > eps, y, y.detach())\n\n\n";
}

/* The arguments n, shape of the functions below: ATTN_SHAPE(B, T, H, D). */
#define ATTN_SHAPE(...)                                                                            \
  (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]) { __VA_ARGS__ }

static inline al_tensor *attn_reshape(al_ctx *c, al_tensor *t, int n, const int64_t *shape) {
  char text[192] = ""; /* AL_MAX_DIMS sizes of at most 20 characters */
  size_t at = 0;
  for (int i = 0; i < n && at < sizeof text; i++)
    at +=
        (size_t)snprintf(text + at, sizeof text - at, "%s%lld", i ? "," : "", (long long)shape[i]);
  return al_run(c, "reshape", AL_IN(t), "shape={%s}", text);
}
#endif
