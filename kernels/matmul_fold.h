/* matmul_fold.h: how a product is given to a library, for every place alike: batch axes that become
 * part of M, N or K, the order of the others, operands. */
#ifndef ALK_MATMUL_FOLD_H
#define ALK_MATMUL_FOLD_H
#include "matmul.h"

static inline void alk_drop_axis(alk_matmul_task *t, int i) {
  for (t->n_batch--; i < t->n_batch; i++) {
    t->batch[i] = t->batch[i + 1];
    t->a_batch[i] = t->a_batch[i + 1];
    t->b_batch[i] = t->b_batch[i + 1];
    t->c_batch[i] = t->c_batch[i + 1];
  }
}

/* Tries to make batch axis i part of M, N or K. */
static inline bool alk_fold_axis(alk_matmul_task *t, int i) {
  int64_t s = t->batch[i], a = t->a_batch[i], b = t->b_batch[i], c = t->c_batch[i];
  if (s == 1) return true;
  if (c == 0) {
    if (t->k == 1) {
      t->a_col = a, t->b_row = b, t->k = s;
      return true;
    }
    if (a != t->a_col * t->k || b != t->b_row * t->k) return false;
    t->k *= s;
    return true;
  }
  if (b == 0 && (t->m == 1 || (a == t->a_row * t->m && c == t->c_row * t->m))) {
    if (t->m == 1) t->a_row = a, t->c_row = c;
    t->m *= s;
    return true;
  }
  if (a == 0 && c == t->n && b == t->b_col * t->n && !t->bias &&
      (t->m == 1 || t->c_row >= t->n * s)) {
    t->n *= s;
    return true;
  }
  return false;
}

static inline void alk_fold(alk_matmul_task *t) {
  for (int i = t->n_batch - 1; i >= 0; i--)
    if (alk_fold_axis(t, i)) {
      alk_drop_axis(t, i);
      i = t->n_batch; /* what stays may fold now */
    }
}

/* Moves the summed axes behind the kept ones, keeping both orders. Returns the number kept. */
static inline int alk_sort_axes(alk_matmul_task *t) {
  alk_matmul_task u = *t;
  int n_kept = 0, n = 0;
  for (int summed = 0; summed < 2; summed++) {
    for (int i = 0; i < u.n_batch; i++)
      if ((u.c_batch[i] == 0) == (summed == 1)) {
        t->batch[n] = u.batch[i];
        t->a_batch[n] = u.a_batch[i];
        t->b_batch[n] = u.b_batch[i];
        t->c_batch[n++] = u.c_batch[i];
      }
    if (!summed) n_kept = n;
  }
  return n_kept;
}

/* Whether a rows x cols operand with these strides is one that libraries take, its first index
 * running fastest in memory when transposed: then in *trans and *ld how it is given to one that
 * reads rows. */
static inline bool alk_operand(int64_t rows, int64_t cols, int64_t rs, int64_t cs, bool *trans,
                               int64_t *ld) {
  if (cols == 1 || cs == 1) {
    *trans = false;
    *ld = rows == 1 ? cols : rs;
    if (*ld >= cols) return true;
  }
  if (rows == 1 || rs == 1) {
    *trans = true;
    *ld = cols == 1 ? rows : cs;
    if (*ld >= rows) return true;
  }
  return false;
}
#endif
