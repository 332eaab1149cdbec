/* reach.h: which rows of results a gradient reaches, and rows of numbers without what nobody asks
 * for. A product with a gradient of 0 would turn what such a row holds, a NaN say, into a NaN of
 * everything that it is summed with.
 *
 * A row is an entry of the first `rows` axes of a view, with all that the other axes hold. A mask
 * is one bool a row, in row-major order.
 */
#ifndef ALK_REACH_H
#define ALK_REACH_H
#include "kernel.h"

/* reached[r] |= is any number of row r of the gradient g other than 0? A row ends at its first such
 * number. */
ALK_KERNEL(reach, const alk_view *g, int rows, void *reached)
/* *dirty (i32) = 1 where a row of x that is not reached holds what is not finite, else as it was. */
ALK_KERNEL(reach_dirty, const alk_view *x, int rows, const void *reached, void *dirty)
/* y (packed, of x's shape) = x, but 0 in each row that is not reached; y may be a packed x. */
ALK_KERNEL(reach_clean, const alk_view *x, int rows, const void *reached, void *y)

/* The same where nobody waits for an answer: in a row of x that no number of its row of g reaches,
 * what is not finite becomes a number, by the upper bit of its exponent, until reach_show turns it
 * back. hidden[r], one bool a row, says in which rows that is, and of these `turned`, one bit a
 * number (row-major, each row from a word of 32 on), which numbers. g and x share their first
 * `rows` axes. */
typedef struct alk_reach_pair {
  alk_view g, x;
  int rows;
  void *turned, *hidden;
} alk_reach_pair;
#define ALK_REACH_WORDS(each) (((each) + 31) / 32) /* of a row */
enum { ALK_REACH_PAIRS = 2 };                      /* at most n; no two have memory in common */
ALK_KERNEL(reach_hide, int n, const alk_reach_pair *pairs)
ALK_KERNEL(reach_show, int n, const alk_reach_pair *pairs)

/* Of attention: masks of rows (B,T,H), of the keys (B,S) that they see and of batch rows (B), each
 * three: by a gradient of y, of W, of either. */
enum { ALK_BY_Y, ALK_BY_W, ALK_BY_ANY, ALK_BY };
typedef struct alk_attn_masks {
  int64_t B, T, H, S, offset;
  bool causal, divided; /* divided: y is N / W, so what reaches y reaches W */
  void *row[ALK_BY], *key[ALK_BY], *batch[ALK_BY];
} alk_attn_masks;
/* From the rows by y and by W, and the batch rows that a state handed on is reached in, which all
 * keys are in: all the other masks. */
ALK_ANY(attn_reach, const alk_attn_masks *r)
#endif
