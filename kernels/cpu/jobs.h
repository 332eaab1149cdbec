/* jobs.h: the split of work into jobs, one a thread. No number depends on it. */
#ifndef ALK_JOBS_H
#define ALK_JOBS_H
#include "../kernel.h"

/* Jobs to run at once for that many items. */
static inline int64_t jobs_for(int64_t items, const alk_place *place) {
  return items < 1 ? 1 : items < place->threads ? items : place->threads;
}

/* Items [*from, *to) of job j of `jobs`. */
static inline void share(int64_t items, int64_t j, int64_t jobs, int64_t *from, int64_t *to) {
  *from = items * j / jobs;
  *to = items * (j + 1) / jobs;
}
#endif
