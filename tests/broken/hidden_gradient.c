/* The sum of x over all tokens, hidden ones too, stands over itself: no value shows it, and the
 * gradient goes to tokens that nobody sees. */
#define OUTPUT(y) seen_by_all(c, in, y)
#include "attn.h"
static al_tensor *seen_by_all(al_ctx *c, const attn_in *in, al_tensor *y);
#include "gated_linear.h"

static al_tensor *seen_by_all(al_ctx *c, const attn_in *in, al_tensor *y) {
  const int64_t one = 1;
  al_tensor *x = in->x, *none = al_tensor_full(c, al_type(x), 1, &one, 0);
  al_tensor *number = numbers(c, x, true); /* of what is one: NaN would be a value that shows */
  al_tensor *sum = OP("sum", AL_IN(OP("select", AL_IN(number, x, none), "")), "");
  sum = OP("scale", AL_IN(sum), "add=1000");
  return OP("mul", AL_IN(y, OP("div", AL_IN(sum, al_detach(c, sum)), "")), "");
}
BROKEN(hidden_gradient)
