/* optim_norm.c: the norm that a step goes by (contract: ../optim.h). */
#include "../optim.h"
#include <math.h>

alk_status alk_optim_norm_any(const alk_place *at, const void *sum, const void *after, void *norm,
                              void *steps) {
  const double n = after && !isfinite(*(const double *)after) ? NAN : sqrt(*(const double *)sum);
  *(double *)norm = n;
  if (isfinite(n)) *(double *)steps += 1;
  return ALK_OK;
}
