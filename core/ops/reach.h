/* reach.h: what no gradient reaches takes no part in a backward, whatever it holds: the rows of
 * kernels/reach.h for the ops that multiply and sum; for core/ops/ only. */
#ifndef AL_OPS_REACH_H
#define AL_OPS_REACH_H
#include "../../kernels/reach.h"
#include "../op.h"

/* The view of t with its axes 1 and 2 exchanged. */
static inline alk_view reach_heads(const al_tensor *t) {
  alk_view v = al_view(t);
  v.size[1] = al_size(t, 2), v.size[2] = al_size(t, 1);
  v.stride[1] = al_stride(t)[2], v.stride[2] = al_stride(t)[1];
  return v;
}

/* A mask of n rows, or n bytes; new. `reached`: of none of them. */
static inline al_tensor *reach_mask(al_ctx *c, int64_t n) {
  return al_room_new(al_here(c, ALK_F64), n);
}
static inline al_tensor *reach_none(al_ctx *c, int64_t n) {
  const int64_t words = (n + 7) / 8;
  return al_tensor_full(c, AL_F64, 1, &words, 0);
}

/* The mask of the rows (first `rows` axes) of g that are reached; new. */
static inline al_tensor *reach_rows(al_ctx *c, const alk_view *g, int rows) {
  int64_t n = 1;
  for (int a = 0; a < rows; a++) n *= g->size[a];
  al_tensor *reached = reach_none(c, n);
  if (reached) ALK_RUN(al_here(c, g->dtype), reach, g, rows, al_data(reached));
  return reached;
}

/* Does a row of a view that is not reached hold what is not finite? Asked of several views, the
 * answer is awaited once, and the tensor goes. */
static inline al_tensor *reach_question(al_ctx *c) { return al_tensor_full(c, AL_I32, 0, NULL, 0); }
static inline void reach_ask(al_ctx *c, al_tensor *question, const alk_view *x, int rows,
                             const al_tensor *reached) {
  if (al_error(c) != AL_OK) return;
  ALK_RUN(al_here(c, x->dtype), reach_dirty, x, rows, al_data(reached), al_data(question));
}
static inline bool reach_answer(al_ctx *c, al_tensor *question) {
  const bool yes = al_error(c) == AL_OK && al_item(question) != 0;
  al_release(question);
  return yes;
}
static inline bool reach_dirty(al_ctx *c, const alk_view *x, int rows, const al_tensor *reached) {
  al_tensor *question = reach_question(c);
  reach_ask(c, question, x, rows, reached);
  return reach_answer(c, question);
}

/* New reference to a copy of t that is 0 in the rows that are not reached. */
static inline al_tensor *reach_zeroed(al_ctx *c, al_tensor *t, int rows, const al_tensor *reached) {
  const alk_view x = al_view(t);
  al_tensor *y = al_tensor_new(c, al_type(t), al_ndim(t), al_shape(t));
  if (y) ALK_RUN(al_here(c, x.dtype), reach_clean, &x, rows, al_data(reached), al_data(y));
  return y;
}

/* reach_zeroed, but t itself where those rows are finite: 0 times what they hold is 0. */
static inline al_tensor *reach_clean(al_ctx *c, al_tensor *t, int rows, const al_tensor *reached) {
  const alk_view x = al_view(t);
  return reach_dirty(c, &x, rows, reached) ? reach_zeroed(c, t, rows, reached) : al_retain(t);
}
#endif
