/* reach.h: what no gradient reaches takes no part in a backward, whatever it holds: the rows of
 * kernels/reach.h for the ops that multiply and sum; for core/ops/ only. */
#ifndef AL_OPS_REACH_H
#define AL_OPS_REACH_H
#include "../../kernels/reach.h"
#include "../op.h"
#include <stdlib.h>

/* The view of t with its axes 1 and 2 exchanged. */
static inline alk_view reach_heads(const al_tensor *t) {
  alk_view v = al_view(t);
  v.size[1] = al_size(t, 2), v.size[2] = al_size(t, 1);
  v.stride[1] = al_stride(t)[2], v.stride[2] = al_stride(t)[1];
  return v;
}

/* Which rows (first `rows` axes) of g are reached: free() it. NULL: all of them, or out of memory,
 * with the error pending. */
static inline bool *reach_rows(al_ctx *c, const alk_view *g, int rows) {
  int64_t n = 1;
  for (int a = 0; a < rows; a++) n *= g->size[a];
  bool *reached = calloc((size_t)n + 1, sizeof *reached);
  if (!reached) al_fail(c, AL_ENOMEM, "out of memory (rows of a gradient)");
  else if (!alk_reach(g->dtype)(g, rows, reached)) return reached;
  free(reached);
  return NULL;
}

/* New reference to a copy of t that is 0 in the rows that are not reached; to t itself where
 * `reached` is NULL. */
static inline al_tensor *reach_zeroed(al_ctx *c, al_tensor *t, int rows, const bool *reached) {
  if (!reached) return al_retain(t);
  const alk_view x = al_view(t);
  al_tensor *y = al_tensor_new(c, al_type(t), al_ndim(t), al_shape(t));
  if (y) ALK_RUN(al_here(c, x.dtype), reach_clean, &x, rows, reached, al_data(y));
  return y;
}

/* reach_zeroed, but t itself where those rows are finite: 0 times what they hold is 0. */
static inline al_tensor *reach_clean(al_ctx *c, al_tensor *t, int rows, const bool *reached) {
  const alk_view x = al_view(t);
  const bool dirty = reached && alk_reach_dirty(x.dtype)(&x, rows, reached);
  return reach_zeroed(c, t, rows, dirty ? reached : NULL);
}
#endif
