/* latest.h: the last tokens before a place in a sequence, the latest first. */
#ifndef ALK_LATEST_H
#define ALK_LATEST_H
#include "kernel.h"

/* A sequence is `held` earlier entries of old (B,K,width), the latest first, and then the first
 * `lengths` of new (B,T,width). */
typedef struct alk_latest {
  int64_t B, K, T, width;
  int64_t size;        /* entries looked back at */
  int64_t every;       /* from before each every-th entry of new; 0: from the end */
  const void *held;    /* (B), more than K as K; NULL: K */
  const void *lengths; /* (B), below 0 as 0, more than T as T; NULL: T */
} alk_latest;

/* Places of a row that are looked back from. */
static inline int64_t alk_latest_places(const alk_latest *g) {
  return g->every ? (g->T + g->every - 1) / g->every : 1;
}

/* y (B,places,size,width): entry i is the one i + 1 before the place, 0 where there is none or its
 * number is not below the length. old may be NULL where K = 0. */
ALK_KERNEL(latest_fwd, const alk_latest *g, const void *old, const void *new_, void *y)
/* dold, dnew (may be NULL): the sum of what came from each entry. */
ALK_KERNEL(latest_bwd, const alk_latest *g, const void *dy, void *dold, void *dnew)
#endif
