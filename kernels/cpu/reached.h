/* reached.h: where the gradient of a result is exactly 0, nothing goes back: the slope there, which
 * may be NaN, is selected away, never multiplied by 0. So what is hidden, padded or left out of a
 * loss may hold anything.
 */
#ifndef ALK_REACHED_H
#define ALK_REACHED_H
#include <stdbool.h>
#include <stdint.h>

/* `product` has the gradient g as a factor. */
#define PASSED(g, product) ((g) == 0 ? 0 : (product))

/* Does any gradient reach a row of n results? Where one does this ends at its first number. */
static inline bool reached(int64_t n, const ALK_REAL *g) {
  for (int64_t i = 0; i < n; i++)
    if (g[i] != 0) return true;
  return false;
}
#endif
