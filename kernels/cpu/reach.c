/* reach.c: rows by strided views (contract: ../reach.h). Serial: a row that is reached costs one
 * load, and few are not. */
#include "../reach.h"
#include "vmath.h"
#include <string.h>

#ifdef ALK_IS_double
typedef uint64_t whole; /* as many bits as a number */
#else
typedef uint32_t whole;
#endif

/* The address of row r. */
static const real *row_at(const alk_view *x, int rows, int64_t r) {
  const real *p = x->data;
  for (int a = rows - 1; a >= 0; a--) {
    p += r % x->size[a] * x->stride[a];
    r /= x->size[a];
  }
  return p;
}

static int64_t count(const alk_view *x, int from, int to) {
  int64_t n = 1;
  for (int a = from; a < to; a++) n *= x->size[a];
  return n;
}

/* Is any number in the axes from `axis` on other than 0, or not finite? */
static bool any(const alk_view *x, int axis, const real *p, bool finite) {
  if (axis == x->ndim) return finite ? !(*p - *p == 0) : *p != 0;
  for (int64_t i = 0; i < x->size[axis]; i++)
    if (any(x, axis + 1, p + i * x->stride[axis], finite)) return true;
  return false;
}

alk_status ALK_NAME(reach)(const alk_place *place, const alk_view *g, int rows, void *mask) {
  bool *reached = mask;
  for (int64_t r = 0, n = count(g, 0, rows); r < n; r++)
    reached[r] = reached[r] || any(g, rows, row_at(g, rows, r), false);
  return ALK_OK;
}

alk_status ALK_NAME(reach_dirty)(const alk_place *place, const alk_view *x, int rows,
                                 const void *mask, void *dirty) {
  const bool *reached = mask;
  for (int64_t r = 0, n = count(x, 0, rows); r < n; r++)
    if (!reached[r] && any(x, rows, row_at(x, rows, r), true)) {
      *(int32_t *)dirty = 1;
      break;
    }
  return ALK_OK;
}

static real *copy(const alk_view *x, int axis, const real *p, real *y) {
  if (axis == x->ndim) *y++ = *p;
  else
    for (int64_t i = 0; i < x->size[axis]; i++) y = copy(x, axis + 1, p + i * x->stride[axis], y);
  return y;
}

alk_status ALK_NAME(reach_clean)(const alk_place *place, const alk_view *x, int rows,
                                 const void *mask, void *y) {
  const bool *reached = mask;
  const int64_t n = count(x, 0, rows), each = count(x, rows, x->ndim);
  for (int64_t r = 0; r < n; r++) {
    real *to = (real *)y + r * each;
    if (!reached[r]) memset(to, 0, (size_t)each * sizeof(real));
    else if (to != row_at(x, rows, r)) copy(x, rows, row_at(x, rows, r), to);
  }
  return ALK_OK;
}

/* Exchanges what is not finite for numbers, number `at` and on of a row, and notes which; or back. */
static int64_t turn(const alk_view *x, int axis, real *p, uint32_t *turned, int64_t at, bool back) {
  for (int64_t i = 0; axis < x->ndim && i < x->size[axis]; i++)
    at = turn(x, axis + 1, p + i * x->stride[axis], turned, at, back);
  if (axis < x->ndim) return at;
  const uint32_t bit = (uint32_t)1 << at % 32;
  uint32_t *word = turned + at / 32;
  if (!back) *word = (at % 32 ? *word : 0) | (*p - *p == 0 ? 0 : bit);
  if (*word & bit) {
    whole u;
    memcpy(&u, p, sizeof u);
    u ^= (whole)1 << (8 * sizeof u - 2);
    memcpy(p, &u, sizeof u);
  }
  return at + 1;
}

alk_status ALK_NAME(reach_hide)(const alk_place *place, int n, const alk_reach_pair *pairs) {
  for (const alk_reach_pair *k = pairs; k < pairs + n; k++) {
    const int64_t words = ALK_REACH_WORDS(count(&k->x, k->rows, k->x.ndim));
    bool *hidden = k->hidden;
    for (int64_t r = 0, rows = count(&k->x, 0, k->rows); r < rows; r++) {
      const real *row = row_at(&k->x, k->rows, r);
      hidden[r] =
          !any(&k->g, k->rows, row_at(&k->g, k->rows, r), false) && any(&k->x, k->rows, row, true);
      if (hidden[r]) turn(&k->x, k->rows, (real *)row, (uint32_t *)k->turned + r * words, 0, false);
    }
  }
  return ALK_OK;
}

alk_status ALK_NAME(reach_show)(const alk_place *place, int n, const alk_reach_pair *pairs) {
  for (const alk_reach_pair *k = pairs; k < pairs + n; k++) {
    const int64_t words = ALK_REACH_WORDS(count(&k->x, k->rows, k->x.ndim));
    for (int64_t r = 0, rows = count(&k->x, 0, k->rows); r < rows; r++)
      if (((const bool *)k->hidden)[r])
        turn(&k->x, k->rows, (real *)row_at(&k->x, k->rows, r), (uint32_t *)k->turned + r * words,
             0, true);
  }
  return ALK_OK;
}
