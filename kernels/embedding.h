/* embedding.h: rows of a table by number, and the sum of gradients back into the rows.
 * table (V,C), ids (N), y (N,C), all packed. ids lie in 0..V-1. */
#ifndef ALK_EMBEDDING_H
#define ALK_EMBEDDING_H
#include "kernel.h"

ALK_KERNEL(embedding_fwd, void *y, const void *table, const void *ids, int64_t N, int64_t C)
/* dtable (sums: kernel.h) = those of the rows of dy in the order of the ids. */
ALK_ROOM(embedding_bwd, int64_t N, int64_t V, int64_t C)
ALK_KERNEL(embedding_bwd, void *dtable, const void *dy, const void *ids, int64_t N, int64_t V,
           int64_t C, void *scratch)
#endif
