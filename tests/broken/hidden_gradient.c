/* The sum of x over all tokens, hidden ones too, stands over itself: no value shows it, and the
 * gradient goes to tokens that nobody sees. */
#define OUTPUT(y) seen_by_all(c, in, y)
#include "attn.h"
#include <math.h>
static al_tensor *seen_by_all(al_ctx *c, const attn_in *in, al_tensor *y);
#include "gated_linear.h"

static al_tensor *seen_by_all(al_ctx *c, const attn_in *in, al_tensor *y) {
  const int64_t one = 1;
  al_tensor *x = in->x, *number = numbers(c, x), *none = al_tensor_full(c, al_type(x), 1, &one, 0);
  const int64_t n = al_numel(x);
  if (!number) return NULL;
  for (int64_t i = 0; i < n; i++) { /* of what is one: NaN would be a value that shows */
    if (al_type(x) == AL_F64)
      ((double *)al_data(number))[i] = isfinite(((double *)al_data(number))[i]);
    else ((float *)al_data(number))[i] = isfinite(((float *)al_data(number))[i]);
  }
  al_tensor *sum = OP("sum", AL_IN(OP("select", AL_IN(number, x, none), "")), "");
  sum = OP("scale", AL_IN(sum), "add=1000");
  return OP("mul", AL_IN(y, OP("div", AL_IN(sum, al_detach(c, sum)), "")), "");
}
BROKEN(hidden_gradient)
