/* ids.c: the one check of control tensors: lengths, counts, token numbers, targets. */
#include "core.h"
#include <stdio.h>

al_status al_check_ids(al_ctx *c, al_call *k, int i, int64_t hi, const char *besides,
                       int64_t other) {
  const al_tensor *t = k->in[i];
  const int32_t *v = t ? al_host(t) : NULL;
  if (!t) return AL_OK;
  if (!v && al_numel(t)) return al_error(c);
  for (int64_t at = 0, n = al_numel(t); at < n; at++) {
    if ((v[at] >= 0 && v[at] <= hi) || (besides && v[at] == other)) continue;
    char or [64] = "";
    if (besides) snprintf(or, sizeof or, " (or %s = %lld)", besides, (long long)other);
    return al_fail(c, AL_EVALUE,
                   "%s: %s: numbers in 0..%lld%s needed, got %d at position %lld of %s",
                   k->op->info.name, k->op->info.inputs[i].name, (long long)hi, or, v[at],
                   (long long)at + c->axis_base, AL_STR(t));
  }
  return AL_OK;
}
