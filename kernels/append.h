/* append.h: rows of a cache grow by their new entries, each row from where it ends. */
#ifndef ALK_APPEND_H
#define ALK_APPEND_H
#include "kernel.h"

/* cache (B,S,width), new (B,T,width), all (B,S+T,width): the entries of a row are packed. Row b
 * keeps its first counts[b] entries and takes the first lengths[b] new ones. */
typedef struct alk_append {
  int64_t B, S, T, width;
  int64_t cache_row, all_row; /* numbers from one row of cache to the next, and of all */
  const void *counts;         /* (B) i32, 0..S */
  const void *lengths;        /* (B) i32, 0..T; NULL: T */
} alk_append;

/* all = what is kept, what is taken, then zeros. cache NULL: all holds what is kept, and beside the
 * T new entries of a row nothing is written but zeros behind its first S. */
ALK_KERNEL(append_fwd, const alk_append *g, const void *cache, const void *new_, void *all)
/* dcache, dnew (packed, either may be NULL) from dall; 0 for entries that were not taken. */
ALK_KERNEL(append_bwd, const alk_append *g, const void *dall, void *dcache, void *dnew)
#endif
