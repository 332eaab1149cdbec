/* state.h: the inside of an instance and of its state; for state.c, instance.c and recur.c. */
#ifndef ATTN_STATE_H
#define ATTN_STATE_H
#include "attn.h"

enum { ATTN_MAX_COMPONENTS = 32 };
typedef struct attn_component {
  const char *name, *doc;
  al_tensor *t;
} attn_component;
struct attn_state {
  al_ctx *c;
  uint64_t kind; /* of the instance that made it */
  int64_t batch, position;
  bool replayed; /* it keeps all inputs, though the family may have a state of its own */
  bool padded;   /* lengths were given once, so that `count` alone says what each row has seen */
  int n;
  attn_component at[ATTN_MAX_COMPONENTS];
};

struct attn {
  const attn_family *family;
  al_opts *opts;
  attn_sizes sizes;
  al_dtype dtype;
  uint64_t kind; /* hash of family, options, sizes and dtype: what a state must fit */
  uint64_t seed; /* of parameters that a change of options brings */
  char tag[256];
  bool bare; /* without parameters: asked, never run */
  int n;
  attn_param rows[ATTN_MAX_PARAMS];
  al_tensor *p[ATTN_MAX_PARAMS];
};

/* What a family of bf16 is handed and makes is f32: its sums and quotients are not to be rounded one
 * by one. */
static inline al_dtype attn_computes_in(const attn *a) { return al_statistic_type(a->dtype); }

/* Every input against the sizes. */
al_status attn_check_inputs(al_ctx *c, const attn *a, const attn_in *in);
/* The family's forward in a scope of its own. */
al_tensor *attn_run_family(al_ctx *c, attn *a, const attn_in *in);
/* Without components, `tokens` after st (NULL: no tokens were seen). NULL when out of memory. */
attn_state *attn_state_make(al_ctx *c, uint64_t kind, int64_t batch);
attn_state *attn_state_after(al_ctx *c, const attn_state *st, int64_t tokens);
#endif
