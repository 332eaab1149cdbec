/* embedding.h: rows of a table by number, and the sum of gradients back into the rows.
 * table (V,C), ids (N), y (N,C), all packed. ids lie in 0..V-1: alk_embedding_bad finds one that
 * does not. */
#ifndef ALK_EMBEDDING_H
#define ALK_EMBEDDING_H
#include "kernel.h"

/* Position of the first id outside 0..V-1, or -1. */
static inline int64_t alk_embedding_bad(const int32_t *ids, int64_t N, int64_t V) {
  for (int64_t i = 0; i < N; i++)
    if (ids[i] < 0 || ids[i] >= V) return i;
  return -1;
}

ALK_KERNEL(embedding_fwd, void *y, const void *table, const int32_t *ids, int64_t N, int64_t C)
/* dtable = sums of the rows of dy in the order of the ids; threads share the channels. */
ALK_KERNEL(embedding_bwd, void *dtable, const void *dy, const int32_t *ids, int64_t N, int64_t V,
           int64_t C)
#endif
