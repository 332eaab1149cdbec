/* shards.h: what the readers of token sets share: ids by offset, without a context, so that a
 * thread that reads ahead can ask too. */
#ifndef AL_SHARDS_H
#define AL_SHARDS_H
#include "../attnlab.h"

al_shards *al_shards_retain(al_shards *s);

/* Why something could not be read, as text: "" = nothing went wrong. */
typedef struct al_why {
  char text[4608]; /* a shown path and the rest */
} al_why;
/* n ids from position `at` on, both checked by the caller. False: why says the file and place. */
bool al_shards_ids(const al_shards *s, int64_t at, int64_t n, int32_t *ids, al_why *why);

/* The place of number i of a permutation of 0..n-1 that `key` picks: a Feistel network over the
 * next power of four, walked until it falls below n. A pure function, and one to one. */
int64_t al_permuted(uint64_t key, int64_t n, int64_t i);
#endif
