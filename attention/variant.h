/* variant.h: small parts that families share; for built-in ones and for plug-ins. */
#ifndef ATTN_VARIANT_H
#define ATTN_VARIANT_H
#include "attn.h"
#include <stdio.h>
#include <stdlib.h>

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

/* (n) i32: 0, step, 2 step, ... */
static inline al_tensor *attn_multiples(al_ctx *c, int64_t n, int64_t step) {
  double *v = malloc((size_t)(n ? n : 1) * sizeof *v);
  if (!v) {
    al_fail(c, AL_ENOMEM, "out of memory (%lld positions)", (long long)n);
    return NULL;
  }
  for (int64_t i = 0; i < n; i++) v[i] = (double)(i * step);
  al_tensor *t = al_tensor_from(c, AL_I32, 1, &n, v, n);
  free(v);
  return t;
}

/* How many tokens are present in each part of `size`, the last part filled up: (B parts) i32.
 * lengths NULL: all T. */
static inline al_tensor *attn_part_lengths(al_ctx *c, al_tensor *lengths, int64_t B, int64_t T,
                                           int64_t size) {
  const int64_t parts = (T + size - 1) / size;
  lengths = lengths ? al_run(c, "add_i32", AL_IN(lengths), "max=%lld", (long long)T)
                    : al_tensor_full(c, AL_I32, 1, &B, (double)T);
  lengths = al_run(c, "unsqueeze", AL_IN(lengths), "axis=-1");
  lengths = al_run(c, "add_i32", AL_IN(lengths, attn_multiples(c, parts, -size)), "min=0 max=%lld",
                   (long long)size);
  return attn_reshape(c, lengths, ATTN_SHAPE(B * parts));
}
#endif
