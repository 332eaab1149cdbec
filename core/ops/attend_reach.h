/* attend_reach.h: what no gradient reaches takes no part in the backward of attend, attend_chunked
 * and attend_step, whatever it holds: rows, and the keys and states that only such rows see; for
 * core/ops/ only. */
#ifndef AL_OPS_ATTEND_REACH_H
#define AL_OPS_ATTEND_REACH_H
#include "attend.h"
#include "reach.h"

enum { NEXT = 2 }; /* ORDER outputs of attention: y, W, then those of a state */

/* A new gradient of input i: of bf16 f32, as the kernels make it. */
static inline al_tensor *attend_gradient(al_ctx *c, const al_call *k, int i) {
  al_meta m = k->in_meta[i];
  m.dtype = al_statistic_type(m.dtype);
  return al_new_meta(c, &m);
}

/* Runs of masks, all NULL or with the error pending. */
typedef struct attend_masks {
  al_tensor *row[ALK_BY], *key[ALK_BY], *batch[ALK_BY];
} attend_masks;

static inline void attend_masks_release(attend_masks *m) {
  for (int n = 0; n < ALK_BY; n++) {
    al_release(m->row[n]);
    al_release(m->key[n]);
    al_release(m->batch[n]);
  }
}

/* Fills the other masks from the rows by y and W, and from the gradients of a state that is handed
 * on, outputs NEXT and NEXT + 1. */
static inline void attend_reach_keys(al_ctx *c, const al_call *k, attend_masks *m, bool states) {
  const int64_t *q = k->in_meta[Q].shape;
  alk_attn_masks r = {.B = q[0],
                      .T = q[1],
                      .H = q[2],
                      .S = k->in_meta[K].shape[1],
                      .divided = al_opt_bool(k->opts, "normalise")};
  r.causal = al_opts_has(k->opts, "causal") && al_opt_bool(k->opts, "causal");
  if (r.causal) r.offset = al_opt_int(k->opts, "offset");
  m->row[ALK_BY_ANY] = reach_mask(c, r.B * r.T * r.H);
  for (int n = 0; n < ALK_BY; n++) {
    m->key[n] = reach_mask(c, r.B * r.S);
    m->batch[n] = reach_none(c, r.B);
    r.row[n] = al_data(m->row[n]), r.key[n] = al_data(m->key[n]), r.batch[n] = al_data(m->batch[n]);
  }
  for (int i = ALK_BY_Y; states && i <= ALK_BY_W && al_error(c) == AL_OK; i++) {
    const al_tensor *t = k->out_meta[NEXT + i].ndim > 1 ? k->dout[NEXT + i] : NULL;
    if (!t) continue;
    const alk_view v = al_view(t);
    ALK_RUN(al_here(c, v.dtype), reach, &v, 1, r.batch[i]);
  }
  if (al_error(c) == AL_OK) ALK_RUN(al_here(c, ALK_F64), attn_reach, &r);
}

/* Is there a row of y or W that no gradient reaches and that is not finite? Fills the rows by y and
 * by W. */
static inline bool attend_reach_rows(al_ctx *c, const al_call *k, attend_masks *m) {
  const int64_t *q = k->in_meta[Q].shape;
  const int last = al_opt_is(k->opts, "stat", "none") ? ALK_BY_Y : ALK_BY_W;
  al_tensor *dirty = reach_question(c);
  for (int i = ALK_BY_Y; i <= ALK_BY_W; i++) {
    m->row[i] = reach_none(c, q[0] * q[1] * q[2]);
    for (int part = 0; part < 2 && i <= last; part++) { /* the gradient, then what it is of */
      al_tensor *t = part == 0 ? k->dout[i] : k->out[i];
      if (!t || al_error(c) != AL_OK) continue;
      const alk_view v = i == ALK_BY_Y ? al_view(t) : reach_heads(t); /* (B,H,T) as (B,T,H) */
      if (part == 0) ALK_RUN(al_here(c, v.dtype), reach, &v, 3, al_data(m->row[i]));
      else reach_ask(c, dirty, &v, 3, m->row[i]);
    }
  }
  return reach_answer(c, dirty);
}

/* Where a row that no gradient reaches is not finite, k goes on as if what it alone sees were 0 (it
 * may be finite, and a weight too large): in[] becomes copies, and out[] what forward makes of
 * them. ORDER inputs of attention: with `states` a state and its norm follow value_scale. */
static inline al_status attend_without_unreached(al_ctx *c, al_call *k,
                                                 al_status (*forward)(al_ctx *, al_call *),
                                                 int value_scale, bool states) {
  attend_masks m = {0};
  if (attend_reach_rows(c, k, &m)) {
    attend_reach_keys(c, k, &m, states);
    const struct {
      int input, axes;
      const al_tensor *reached;
    } part[] = {{Q, 3, m.row[ALK_BY_ANY]},
                {K, 2, m.key[ALK_BY_ANY]},
                {V, 2, m.key[ALK_BY_Y]},
                {DECAY, 2, m.key[ALK_BY_ANY]},
                {value_scale, 2, m.key[ALK_BY_Y]},
                {value_scale + 1, 1, m.batch[ALK_BY_Y]},
                {value_scale + 2, 1, m.batch[ALK_BY_W]}};
    const int n_parts = (int)(sizeof part / sizeof *part) - (states ? 0 : 2);
    for (int i = 0; i < n_parts && al_error(c) == AL_OK; i++) {
      al_tensor **t = &k->in[part[i].input], *old = *t;
      if (!old) continue;
      *t = reach_zeroed(c, old, part[i].axes, part[i].reached);
      al_release(old);
    }
    for (int i = 0; i < k->n_out && al_error(c) == AL_OK; i++) {
      al_release(k->out[i]);
      k->out[i] = al_new_meta(c, &k->out_meta[i]);
    }
    if (al_error(c) == AL_OK) forward(c, k);
  }
  attend_masks_release(&m);
  return al_error(c);
}
#endif
