/* Declared to be of one size, the state also keeps every key. */
#define MORE_STATE                                                                                 \
  attn_state_put(c, st, "keys",                                                                    \
                 al_tensor_new(c, dtype, 4, (int64_t[]){batch, 0, s->kv_heads, s->head_dim}),      \
                 "all keys");
#define MORE_NEXT                                                                                  \
  attn_state_put(c, in->next, "keys",                                                              \
                 OP("concat", AL_IN(attn_state_get(in->state, "keys"), k), "axis=1"), NULL);
#include "gated_linear.h"
BROKEN(state_grows)
